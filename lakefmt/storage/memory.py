"""Memory of this process (``mem://name``): for tests, scratch work and examples. Gone when the process ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.context import get_spawning_popen

from lakefmt.errors import InvalidInput, NoSuchObject
from lakefmt.storage.port import Bytes, Entry, Range, Store, Writer

_PLACES: dict[str, dict[str, tuple[bytes, float]]] = {}
_LOCK = threading.Lock()


class MemoryStore(Store):
    """Objects in a dictionary shared by every handle of the same name in this process."""

    is_local = True

    def __init__(self, name: str) -> None:
        self.name = name.strip("/")
        self.url = f"mem://{self.name}"
        with _LOCK:
            self._objects = _PLACES.setdefault(self.name, {})

    def __reduce__(self) -> tuple[type[MemoryStore], tuple[str]]:
        if get_spawning_popen() is not None:  # on its way into a process that does not share this one's memory
            raise InvalidInput(
                f"{self.url} lives in the memory of this process, where no other sees it; for worker processes keep the dataset "
                "in a folder, fork them, or use num_workers=0"
            )
        return (MemoryStore, (self.name,))

    def get(self, key: str) -> bytes:
        try:
            return self._objects[key][0]
        except KeyError:
            raise NoSuchObject(f"{self.url}: no object {key!r}") from None

    def get_range(self, key: str, start: int, length: int) -> Bytes:
        data = memoryview(self.get(key))
        if start < 0:
            start = max(0, len(data) + start)
        return data[start : start + length]

    def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
        return [self.get_range(r.key, r.start, r.length) for r in ranges]

    def map(self, key: str) -> memoryview:
        return memoryview(self.get(key))

    def put(self, key: str, data: Bytes) -> None:
        self._objects[key] = (bytes(data), time.time())

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        entry = (bytes(data), time.time())
        return self._objects.setdefault(key, entry) is entry  # setdefault of a dict is atomic; check-then-set is not

    def writer(self, key: str) -> Writer:
        return _MemoryWriter(self, key)

    def list(self, prefix: str) -> Iterator[Entry]:
        for key, (data, modified_s) in sorted(self._objects.copy().items()):
            if key.startswith(prefix):
                yield Entry(key, len(data), modified_s)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._objects.pop(key, None)


class _MemoryWriter(Writer):
    def __init__(self, store: MemoryStore, key: str) -> None:
        self._store, self._key = store, key
        self._parts = bytearray()

    def write(self, data: Bytes) -> int:
        self._parts += data
        return len(data)

    def close(self) -> None:
        self._store.put(self._key, bytes(self._parts))

    def abort(self) -> None:
        self._parts = bytearray()
