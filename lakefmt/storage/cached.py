"""A store far away, and what is kept of it nearby: in memory, and on the disk of this host for all its processes.

Only objects that are written once and never replaced are kept, which their folder tells; all else (names, hints, versions,
listings) goes straight to the store, and so does all writing. Copies need no expiry, then: a copy is right for ever, or damaged,
which a checksum tells.

Kept are *aligned chunks* of just under 64 KiB. Keeping the ranges that were asked for, as they were asked for, would never fetch
a byte too much; but the same bytes are asked for in many ways (a sample, a page, a column), so that ranges would overlap, be kept
twice, and have to be looked for in an index that all processes keep in step. The name of a chunk follows from the offset: one
``open`` finds it, and one lock makes its fetch single. What that costs is, for a sample read at random, some 64 KiB more than its
own bytes, where a request costs about as much as 1 MiB (``port.COALESCE_GAP_BYTES``); a scan fetches no byte twice, for the chunk
it ends in is there when it goes on. Missing neighbours are one request, as large as those of the port, however many chunks it is.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lakefmt.errors import InvalidInput
from lakefmt.storage.cache_disk import CHUNK_NBYTES, DiskCache, disk_cache
from lakefmt.storage.cache_fetch import Chunks, Counts
from lakefmt.storage.cache_memory import ChunkId
from lakefmt.storage.port import COALESCE_BYTES_MAX, Bytes, Entry, Range, Store, Writer

#: Memory of a remote dataset's handle, in MB, where nothing is said: twice what one round of the largest requests brings.
MEMORY_MB = 128
_MB = 1_000_000
_MB_MAX = 1 << 40
#: A piece of a chunk that is smaller than this is copied, so that who keeps it does not keep the chunk.
_COPIED_NBYTES = CHUNK_NBYTES // 4
#: What is read at a time of an object that is wanted as a whole: the largest request.
_WHOLE_STEP_NBYTES = COALESCE_BYTES_MAX // CHUNK_NBYTES * CHUNK_NBYTES


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Budgets of a store's cache.

    Attributes:
        memory_nbytes: of this handle.
        disk_nbytes: of all files for the store, whoever writes them; 0: none.
        folder: where they are.
        grows: whether the disk's budget was made by a download, and grows with the next.
    """

    memory_nbytes: int
    disk_nbytes: int
    folder: str
    grows: bool = False


def cache_sizes(memory_cache_size: float | None, local_cache_size: float) -> CacheSizes:
    """Budgets from what users give, in MB.

    Raises:
        InvalidInput: it is no size.
    """
    memory_mb = MEMORY_MB if memory_cache_size is None else memory_cache_size
    for name, size in (("memory_cache_size", memory_mb), ("local_cache_size", local_cache_size)):
        number = isinstance(size, (int, float)) and not isinstance(size, bool) and math.isfinite(size)
        if not number or not 0 <= size <= _MB_MAX:
            raise InvalidInput(f"{name}={size!r}: give a number of MB, 0 for none")
    return CacheSizes(int(memory_mb * _MB), int(local_cache_size * _MB), cache_root())


def cache_root() -> str:
    """Where caches are: ``$LAKEFMT_CACHE``, else a folder in the user's cache directory."""
    configured = os.environ.get("LAKEFMT_CACHE")
    if configured:
        return os.path.abspath(os.path.expanduser(configured))
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        base = os.path.join(home, "Library", "Caches")
    elif sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return os.path.join(base, "lakefmt")


def cached(store: Store, sizes: CacheSizes, folders: Sequence[str]) -> Store:
    """A store with a cache before it; one that is local as it is."""
    return store if store.is_local else CachedStore(store, sizes, folders)


class CachedStore(Store):
    """Another store, read through a cache."""

    def __init__(self, inner: Store, sizes: CacheSizes, folders: Sequence[str]) -> None:
        """
        Args:
            folders: prefixes of the keys of objects that never change.
        """
        self._inner = inner
        self.url = inner.url
        self.is_local = inner.is_local
        self.sizes = sizes
        self._folders = tuple(folders)
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._counts = Counts()
        self._chunks = Chunks(self._inner, self.sizes.memory_nbytes, self._counts)
        self.use_disk(self.sizes)

    def __getstate__(self) -> dict[str, Any]:
        return {"inner": self._inner, "sizes": self.sizes, "folders": self._folders}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["inner"], state["sizes"], state["folders"])  # type: ignore[misc]

    @property
    def origin(self) -> Store:
        return self._inner.origin

    @property
    def disk(self) -> DiskCache | None:
        """The cache on disk, if there is one."""
        return self._chunks.disk

    def use_disk(self, sizes: CacheSizes) -> None:
        """Go on with another budget of the disk."""
        self.sizes = replace(sizes, memory_nbytes=self.sizes.memory_nbytes)
        self._chunks.disk = disk_cache(sizes.folder, self.url, sizes.disk_nbytes) if sizes.disk_nbytes else None

    def look_on_disk(self) -> None:
        """Read what earlier downloads have left on the disk, also where no size was set for it. Nothing is written then."""
        if self._chunks.disk is None:
            self.use_disk(replace(self.sizes, disk_nbytes=1, grows=True))

    def report(self) -> dict[str, int]:
        """What the cache of this handle did so far, in this process.

        ``memory_hits``, ``disk_hits`` and ``misses`` count chunks, ``requests`` what was asked of the store for these,
        ``fetched_nbytes`` and ``served_nbytes`` the bytes that came and that were handed on. Objects that are here whole are read
        directly, and count as served only.
        """
        return self._counts.report()

    def _kept(self, key: str) -> bool:
        """Whether an object is one that is kept; and in a forked child, what had been begun is begun anew."""
        if self._pid != os.getpid():
            self.after_fork()
        return key.startswith(self._folders)

    @property
    def _idle(self) -> bool:
        """Whether there is nothing to keep anything in."""
        return not self.sizes.memory_nbytes and self._chunks.disk is None

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes:
        if self._idle or not self._kept(key):
            return self._inner.get(key)
        parts: list[Bytes] = []
        while not parts or len(parts[-1]) == _WHOLE_STEP_NBYTES:
            parts.append(self.get_range(key, len(parts) * _WHOLE_STEP_NBYTES, _WHOLE_STEP_NBYTES))
        return b"".join(parts)

    def get_range(self, key: str, start: int, length: int) -> Bytes:
        if start < 0 or self._idle or not self._kept(key):
            return self._inner.get_range(key, start, length)
        return self._answers([Range(key, start, length)])[0]

    def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
        if self._idle:
            return self._inner.get_ranges(ranges)
        kept = [r.start >= 0 and self._kept(r.key) for r in ranges]
        if all(kept):
            return self._answers(ranges)
        ours = iter(self._answers([r for r, k in zip(ranges, kept, strict=True) if k]))
        others = iter(self._inner.get_ranges([r for r, k in zip(ranges, kept, strict=True) if not k]))
        return [next(ours) if k else next(others) for k in kept]

    def fill(self, parts: Sequence[tuple[Range, memoryview]]) -> None:
        if self._idle or not all(self._kept(r.key) for r, _ in parts):
            self._inner.fill(parts)
            return
        here = {key: self.holds(key) for key in dict.fromkeys(r.key for r, _ in parts)}
        rest = list(parts)
        if any(here.values()):
            whole = [p for p in parts if here[p[0].key]]
            if self._filled(whole):
                rest = [p for p in parts if not here[p[0].key]]
        chunks = self._chunks.get(_ids([r for r, _ in rest]))
        short: list[tuple[Range, memoryview]] = []
        for r, target in rest:
            if not _copy(r, target, chunks):
                short.append((r, target))
        self._counts.add(served_nbytes=sum(r.length for r, _ in parts))
        if short:  # the store itself shall say so
            for r, _ in short:
                self.forget(r.key)
            self._inner.fill(short)

    def _filled(self, parts: Sequence[tuple[Range, memoryview]]) -> bool:
        disk = self._chunks.disk
        return disk is not None and disk.wholes.fill(parts)

    def _answers(self, ranges: Sequence[Range]) -> list[Bytes]:
        """Ranges of objects that are kept."""
        answers: list[Bytes | None] = [None] * len(ranges)
        disk = self._chunks.disk
        if disk is not None:
            here = {key: self.holds(key) for key in dict.fromkeys(r.key for r in ranges)}
            answers = [disk.wholes.read(r.key, r.start, r.length) if here[r.key] else None for r in ranges]
        rest = [i for i, answer in enumerate(answers) if answer is None]
        if rest:
            chunks = self._chunks.get(_ids([ranges[i] for i in rest]))
            for i in rest:
                answers[i] = _cut(ranges[i], chunks)
            if any(answers[i] is None for i in rest):
                self._ask_again(ranges, answers)
        out = [answer for answer in answers if answer is not None]
        self._counts.add(served_nbytes=sum(map(len, out)))
        return out

    def _ask_again(self, ranges: Sequence[Range], answers: list[Bytes | None]) -> None:
        """Forget objects whose chunks contradict each other (one was cut short on its way), and ask the store for their ranges."""
        damaged = {r.key for r, answer in zip(ranges, answers, strict=True) if answer is None}
        for key in damaged:
            self.forget(key)
        again = [i for i, r in enumerate(ranges) if r.key in damaged]
        for i, answer in zip(again, self._inner.get_ranges([ranges[i] for i in again]), strict=True):
            answers[i] = answer

    def holds(self, key: str) -> bool:
        disk = self._chunks.disk
        return self.is_local or (disk is not None and self._kept(key) and disk.wholes.has(key, disk.place(key)))

    def map(self, key: str) -> memoryview | None:
        if self.is_local:
            return self._inner.map(key)
        disk = self._chunks.disk
        return disk.wholes.map(key) if disk is not None and self.holds(key) else None

    def local_path(self, key: str) -> str | None:
        return self._inner.local_path(key)

    # -- letting go ----------------------------------------------------------------------------------------------------

    def forget(self, key: str) -> bool:
        if not self._kept(key):
            return self._inner.forget(key)
        self._chunks.forget(key)
        return not self._idle

    def after_fork(self) -> None:
        if self._pid != os.getpid():
            self._inner.after_fork()
            if self._chunks.disk is not None:
                self._chunks.disk.after_fork()
            self._reset()

    def forget_pages(self) -> None:
        self._inner.forget_pages()
        if self._chunks.disk is not None:
            self._chunks.disk.wholes.forget_pages()

    def release(self) -> None:
        self._inner.release()
        self._chunks.memory.clear()
        if self._chunks.disk is not None:
            self._chunks.disk.wholes.release()

    # -- writing: straight through -------------------------------------------------------------------------------------

    def put(self, key: str, data: Bytes) -> None:
        self._inner.put(key, data)
        self._replaced(key)

    def put_hint(self, key: str, data: Bytes) -> None:
        self._inner.put_hint(key, data)
        self._replaced(key)

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        return self._inner.put_if_absent(key, data)

    def make_durable(self, key: str) -> None:
        self._inner.make_durable(key)

    def writer(self, key: str) -> Writer:
        self._replaced(key)
        return self._inner.writer(key)

    def list(self, prefix: str) -> Iterator[Entry]:
        return self._inner.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        self._inner.delete(keys)
        for key in keys:
            self._replaced(key)

    def prune(self) -> None:
        self._inner.prune()

    def _replaced(self, key: str) -> None:
        if self._kept(key):
            self.forget(key)


def _ids(ranges: Sequence[Range]) -> dict[ChunkId, None]:
    """The chunks that hold some ranges, each once. An empty range has one too, so that its object is asked for."""
    ids: dict[ChunkId, None] = {}
    for r in ranges:
        first, last = r.start // CHUNK_NBYTES, (r.start + max(1, r.length) - 1) // CHUNK_NBYTES
        for number in range(first, last + 1):
            ids[(r.key, number)] = None
    return ids


def _cut(r: Range, chunks: Mapping[ChunkId, memoryview]) -> Bytes | None:
    """A range out of its chunks; ``None`` where one ends the object and another goes on."""
    number, at = divmod(r.start, CHUNK_NBYTES)
    if at + r.length <= CHUNK_NBYTES:
        piece = chunks[(r.key, number)][at : at + r.length]
        return piece if r.length >= _COPIED_NBYTES else bytes(piece)
    pieces: list[memoryview] = []
    ended = False
    for piece, n in _pieces(r, chunks):
        if ended and len(piece):
            return None
        ended = len(piece) < n
        pieces.append(piece)
    return b"".join(pieces)


def _pieces(r: Range, chunks: Mapping[ChunkId, memoryview]) -> Iterator[tuple[memoryview, int]]:
    """What each of a range's chunks has of it, in order, and how many bytes it would be if the object went on."""
    number, at = divmod(r.start, CHUNK_NBYTES)
    left = r.length
    while left > 0:
        n = min(left, CHUNK_NBYTES - at)
        yield chunks[(r.key, number)][at : at + n], n
        number, at, left = number + 1, 0, left - n


def _copy(r: Range, target: memoryview, chunks: Mapping[ChunkId, memoryview]) -> bool:
    """Copy a range into place; False where its chunks do not fill it."""
    number, at = divmod(r.start, CHUNK_NBYTES)
    if at + r.length <= CHUNK_NBYTES:
        piece = chunks[(r.key, number)][at : at + r.length]
        if len(piece) == r.length:
            target[:] = piece
            return True
        return False
    done = 0
    for piece, _ in _pieces(r, chunks):
        target[done : done + len(piece)] = piece
        done += len(piece)
    return done == r.length
