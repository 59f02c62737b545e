"""A cache bounded in bytes: least recently used entries go first. Safe among threads; a value is computed once at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class ByteCache(Generic[V]):
    """Maps keys to values of known size, at most ``nbytes_max`` in all (a single larger value is kept alone)."""

    def __init__(self, nbytes_max: int) -> None:
        self.nbytes_max = nbytes_max
        self.nbytes = 0
        self._entries: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def get(self, key: Hashable, make: Callable[[], tuple[V, int]]) -> V:
        """The value under ``key``, made by ``make`` (value, bytes) when absent."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                return found[0]
            making = self._making.setdefault(key, threading.Lock())
        with making:  # one maker a key; the others wait and then find it
            with self._lock:
                found = self._entries.get(key)
                if found is not None:
                    return found[0]
            try:
                value, nbytes = make()
                self._keep(key, value, nbytes)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return value

    def _keep(self, key: Hashable, value: V, nbytes: int) -> None:
        with self._lock:
            replaced = self._entries.pop(key, None)  # made twice, when clear() came between
            self._entries[key] = (value, nbytes)
            self.nbytes += nbytes - (replaced[1] if replaced else 0)
            while self.nbytes > self.nbytes_max and len(self._entries) > 1:
                _, (_, freed) = self._entries.popitem(last=False)
                self.nbytes -= freed

    def drop(self, key: Hashable) -> None:
        """Forget one entry."""
        with self._lock:
            dropped = self._entries.pop(key, None)
            self.nbytes -= dropped[1] if dropped else 0

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self.nbytes = 0
