"""Another store, and what is written on top of it, in memory: for values that nobody but this process is to see."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence

from lakefmt.storage.memory import MemoryStore
from lakefmt.storage.port import Bytes, Entry, Range, Store, Writer


class ScratchStore(Store):
    """Reads what was written here, and else what lies below; writes nothing there. ``release()`` forgets what was written."""

    def __init__(self, below: Store) -> None:
        self._below = below
        self._own = MemoryStore(f"scratch-{uuid.uuid4().hex}")
        self._keys: set[str] = set()
        self.url = below.url
        self.is_local = below.is_local

    def _of(self, key: str) -> Store:
        return self._own if key in self._keys else self._below

    def get(self, key: str) -> bytes:
        return self._of(key).get(key)

    def get_range(self, key: str, start: int, length: int) -> Bytes:
        return self._of(key).get_range(key, start, length)

    def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
        below = iter(self._below.get_ranges([r for r in ranges if r.key not in self._keys]))
        return [self._own.get_range(r.key, r.start, r.length) if r.key in self._keys else next(below) for r in ranges]

    def map(self, key: str) -> memoryview | None:
        return self._of(key).map(key)

    def put(self, key: str, data: Bytes) -> None:
        self._own.put(key, data)
        self._keys.add(key)

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        made = self._own.put_if_absent(key, data)
        self._keys.add(key)
        return made

    def writer(self, key: str) -> Writer:
        self._keys.add(key)
        return self._own.writer(key)

    def list(self, prefix: str) -> Iterator[Entry]:
        """What was written here."""
        return self._own.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._own.delete([key])
            self._keys.discard(key)

    def release(self) -> None:
        self._own.delete(list(self._keys))
        self._keys.clear()
