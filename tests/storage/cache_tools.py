"""What the tests of the cache share: a store far away that notes what it is asked, for every process, and caches before it."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lakefmt.storage import Bytes, CachedStore, CacheSizes, LocalStore, Range
from lakefmt.storage.cache_disk import CHUNK_NBYTES
from lakefmt.storage.port import coalesce

#: Keys of objects that never change begin so.
FOLDERS = ("data/",)


class Far(LocalStore):
    """A folder that is taken for a place far away: each request leaves a line in a file beside it, whichever process asks."""

    is_local = False

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.is_local = False

    def _asked(self, key: str, start: int, length: int) -> None:
        fd = os.open(self.root + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, f"{key} {start} {length}\n".encode())
        os.close(fd)

    def requests(self) -> list[Range]:
        """Every request so far."""
        path = Path(self.root + ".log")
        lines = path.read_text().splitlines() if path.exists() else []
        return [Range(key, int(start), int(length)) for key, start, length in (line.split(" ") for line in lines)]

    def get(self, key: str) -> bytes:
        self._asked(key, 0, -1)
        return super().get(key)

    def get_range(self, key: str, start: int, length: int) -> Bytes:
        self._asked(key, start, length)
        return super().get_range(key, start, length)

    def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
        for r, _ in coalesce(ranges):
            self._asked(r.key, r.start, r.length)
        return [super(Far, self).get_range(r.key, r.start, r.length) for r in ranges]

    def fill(self, parts: Sequence[tuple[Range, memoryview]]) -> None:
        for r, _ in coalesce([r for r, _ in parts]):
            self._asked(r.key, r.start, r.length)
        super().fill(parts)

    def map(self, key: str) -> Any:
        return None

    def local_path(self, key: str) -> Any:
        return None


@functools.lru_cache(maxsize=32)
def blob(nbytes: int, seed: int = 0) -> bytes:
    """Bytes that nothing else has."""
    return random.Random(seed).randbytes(nbytes)


def near(far: Far, folder: Path | str, *, memory: int = 0, disk: int = 0) -> CachedStore:
    """A cache before a store, with budgets in bytes."""
    return CachedStore(far, CacheSizes(memory, disk, str(folder)), FOLDERS)


def files(folder: Path | str) -> list[Path]:
    """Chunks and whole objects in a cache folder."""
    found = [p for p in Path(folder).rglob("*") if p.is_file() and p.name not in ("locks", "used")]
    return sorted(found)


def room(folder: Path | str) -> int:
    """Bytes that files in a cache folder take."""
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in files(folder))


def asked_chunks(far: Far) -> list[tuple[str, int]]:
    """The chunks that requests were for, in order."""
    return [
        (r.key, number)
        for r in far.requests()
        for number in range(r.start // CHUNK_NBYTES, (r.start + r.length - 1) // CHUNK_NBYTES + 1)
    ]
