"""Whole objects into the disk cache, several at a time, verified, and resumable.

What is asked for and not there is summed up first: more than the budget or the disk has room for is refused before a byte is
fetched. Each object is then fetched in order, a window of a few large requests at a time, into ``<size>-<xxh64>.part``, and
hashed on the way. An interrupted download leaves these, and the next goes on at their ends; that such a beginning was right, the
checksum of the whole tells, and else the object is fetched anew. Only what matches the checksum that the dataset has of it gets
its name.

Two processes that download the same object: one waits for the other as long as that one gets on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import xxhash

from lakefmt.errors import Corrupt, InvalidInput, LakeError, NoSuchObject, StoreError, counted
from lakefmt.storage.cache_disk import DiskCache
from lakefmt.storage.cache_fetch import WAIT_S_MAX
from lakefmt.storage.cache_room import WHOLE_FOLDER, taken
from lakefmt.storage.cache_whole import PART_SUFFIX, Whole
from lakefmt.storage.cached import CachedStore
from lakefmt.storage.port import COALESCE_BYTES_MAX, Bytes, Range

#: Requests under way together; with the size of each, what a download holds in memory.
_REQUESTS_MAX = 8
#: Pause between looks at another process's download, in seconds.
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is: files and bytes that are here, of how many."""

    files: int
    files_total: int
    nbytes: int
    nbytes_total: int


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a download did.

    Attributes:
        files: files fetched now, and
        nbytes: their bytes, as far as they were not here already.
        seconds: how long it took.
        present: files that were here already.
    """

    files: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    present: int = 0

    def __repr__(self) -> str:
        rate = f" ({self.nbytes / self.seconds / 1e6:,.1f} MB/s)" if self.nbytes and self.seconds > 0 else ""
        return (
            f"{counted(self.files, 'file')} of {counted(self.nbytes, 'byte')} in {self.seconds:.1f} s{rate}; "
            f"{counted(self.present, 'file')} {'was' if self.present == 1 else 'were'} here already"
        )


def bring(
    store: CachedStore,
    wanted: Sequence[Whole],
    progress: Callable[[Progress], object] | None = None,
    explain: Callable[[str], LakeError | None] = lambda _: None,
) -> Downloaded:
    """Have objects whole in the disk cache of a store, which is made, or made larger, where its user has set no size.

    Args:
        wanted: the objects, each once.
        progress: called in this thread, before anything is fetched and whenever more is here.
        explain: says why the object of a key is not there, where that is known.

    Raises:
        InvalidInput: they do not fit the size that was set.
        StoreError: the disk has not enough room for them (nothing was fetched then), or the store failed.
        NoSuchObject: one is not there.
        Corrupt: one does not match its checksum.
    """
    began_s = time.perf_counter()
    store.look_on_disk()
    disk = store.disk
    assert disk is not None
    missing = []
    for w in wanted:
        if disk.wholes.find(w.key, disk.place(w.key)) != w:
            missing.append(w)
        else:  # it is not to go when room is made
            with contextlib.suppress(OSError):
                os.utime(_path(disk, w), ns=(time.time_ns(), w.time_ns))
    if missing:
        disk = _make_room(store, disk, wanted, missing)
    elif store.sizes.grows:
        disk = _use(store, disk.room.used())
    total = Progress(len(wanted) - len(missing), len(wanted), sum(w.size for w in wanted), sum(w.size for w in wanted))
    now = replace(total, nbytes=total.nbytes_total - sum(w.size for w in missing))
    if progress is not None:
        progress(now)
    fetched = _Run(store, disk, missing, explain).run(now, progress) if missing else 0
    return Downloaded(len(missing), fetched, time.perf_counter() - began_s, len(wanted) - len(missing))


def _use(store: CachedStore, nbytes: int) -> DiskCache:
    """Give a store a disk cache of at least this size, without taking from what it has."""
    store.use_disk(replace(store.sizes, disk_nbytes=max(nbytes, store.sizes.disk_nbytes), grows=True))
    assert store.disk is not None
    return store.disk


def _make_room(store: CachedStore, disk: DiskCache, wanted: Sequence[Whole], missing: Sequence[Whole]) -> DiskCache:
    """The disk cache, with room for what is missing.

    Raises:
        InvalidInput, StoreError: there is not enough.
    """
    needed, lacking = sum(taken(w.size) for w in wanted), sum(taken(w.size) for w in missing)
    set_by_user = not store.sizes.grows
    if set_by_user and needed > store.sizes.disk_nbytes:
        raise InvalidInput(
            f"{store.url}: download() needs {needed:,} bytes on disk, and local_cache_size= allows "
            f"{store.sizes.disk_nbytes:,}: open with local_cache_size={-(-needed // 1_000_000)} or more, or leave it out"
        )
    try:
        os.makedirs(disk.folder, exist_ok=True)
        begun = sum(_part_nbytes(disk, w) for w in missing)
        if not set_by_user:
            disk = _use(store, disk.room.used() + lacking)
        disk.room.make_room(lacking, whole=True)
        disk.wholes.look_again()
        free = shutil.disk_usage(disk.folder).free
    except OSError as e:
        raise StoreError(e.errno or 0, f"the cache folder {disk.folder} cannot be written ({e.strerror}); set LAKEFMT_CACHE") from e
    if lacking - begun > free:
        raise StoreError(
            errno.ENOSPC,
            f"{store.url}: download() needs {lacking - begun:,} bytes more in {disk.folder}, and its disk has {free:,} free: make "
            "room, set LAKEFMT_CACHE to a folder on another disk, or download some tensors only (tensors=[…])",
        )
    return disk


def _path(disk: DiskCache, whole: Whole) -> str:
    return os.path.join(disk.folder, disk.place(whole.key), WHOLE_FOLDER, whole.name)


def _part_nbytes(disk: DiskCache, whole: Whole) -> int:
    try:
        return os.stat(_path(disk, whole) + PART_SUFFIX).st_size
    except OSError:
        return 0


class _Stopped(Exception):
    """Another object failed, or the caller was interrupted."""


class _Run:
    """One download: workers fetch objects, the caller's thread tells how far they are."""

    def __init__(
        self, store: CachedStore, disk: DiskCache, missing: Sequence[Whole], explain: Callable[[str], LakeError | None]
    ) -> None:  # fmt: skip
        self._store, self._disk, self._missing, self._explain = store, disk, missing, explain
        self._workers = min(_REQUESTS_MAX, len(missing))
        self._window_nbytes = (_REQUESTS_MAX // self._workers) * COALESCE_BYTES_MAX
        self._events: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # bytes that came; None: an object ended
        self._stop = threading.Event()
        self._fetched_nbytes = 0
        self._lock = threading.Lock()

    def run(self, now: Progress, progress: Callable[[Progress], object] | None) -> int:
        """Fetch everything; the bytes that came over the network."""
        with ThreadPoolExecutor(self._workers, thread_name_prefix="lakefmt-download") as pool:
            try:
                running = [pool.submit(self._bring, w) for w in self._missing]
                ended = 0
                while ended < len(running):
                    event = self._events.get()
                    if event is None:
                        ended += 1
                    now = replace(now, files=now.files + 1) if event is None else replace(now, nbytes=now.nbytes + event)
                    if progress is not None and not self._stop.is_set():
                        progress(now)
            except BaseException:
                self._stop.set()
                raise
        errors = [e for future in running if (e := future.exception()) is not None]
        for error in sorted(errors, key=lambda e: isinstance(e, _Stopped)):
            raise error
        return self._fetched_nbytes

    def _bring(self, whole: Whole) -> None:
        """One object, in a thread of its own. The others stop when it fails."""
        try:
            self._have(whole)
        except NoSuchObject as e:
            self._stop.set()
            known = self._explain(whole.key)
            if known is None:
                raise
            raise known from e
        except BaseException:
            self._stop.set()
            raise
        finally:
            self._events.put(None)

    def _have(self, whole: Whole) -> None:
        disk = self._disk
        number = disk.whole_lock(whole.key)
        held = self._wait(whole, number)
        try:
            if disk.wholes.find(whole.key, disk.place(whole.key)) == whole:  # another process has downloaded it meanwhile
                self._events.put(whole.size)
                return
            path = _path(disk, whole)
            part = path + (PART_SUFFIX if held else f"-{uuid.uuid4().hex}{PART_SUFFIX}")
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    self._write(whole, fd)
                finally:
                    os.close(fd)
                os.replace(part, path)
            except Corrupt:
                with contextlib.suppress(OSError):
                    nbytes = os.stat(part).st_size
                    os.unlink(part)
                    disk.room.charge(-taken(nbytes))
                raise
            except LakeError:
                raise
            except OSError as e:
                raise StoreError(e.errno or 0, f"{part}: {e.strerror}; download() again goes on from here") from e
            disk.forget_chunks(whole.key)
            disk.wholes.find(whole.key, disk.place(whole.key))
        finally:
            if held:
                disk.locks.drop(number)

    def _wait(self, whole: Whole, number: int) -> bool:
        """Take the lock of an object; False where somebody holds it and gets on with it no more."""
        size, since_s = -1, time.monotonic()
        while not self._disk.locks.take(number):
            if self._stop.is_set():
                raise _Stopped
            now = _part_nbytes(self._disk, whole)
            if now != size:
                size, since_s = now, time.monotonic()
            elif time.monotonic() - since_s > WAIT_S_MAX:
                return False
            time.sleep(_PAUSE_S)
        return True

    def _write(self, whole: Whole, fd: int) -> None:
        """Bring a file to its whole length, from wherever it is.

        Raises:
            Corrupt: it does not match its checksum, though fetched anew.
        """
        at = os.fstat(fd).st_size
        room, start = self._disk.room, at if at <= whole.size else 0
        room.charge(taken(whole.size) - taken(at))
        try:
            for begin in dict.fromkeys((start, 0)):
                os.ftruncate(fd, begin)
                self._events.put(begin)
                if self._append(whole, fd, begin) == whole.xxh64:
                    os.utime(fd, ns=(time.time_ns(), whole.time_ns))
                    return
                self._events.put(-whole.size)
            raise Corrupt(f"{self._store.url}/{whole.key} does not match its checksum; restore it from a copy")
        except BaseException:
            room.charge(taken(os.fstat(fd).st_size) - taken(whole.size))
            raise

    def _append(self, whole: Whole, fd: int, at: int) -> str:
        """Fetch the rest of an object; the checksum of all of it."""
        digest = xxhash.xxh64()
        for start in range(0, at, COALESCE_BYTES_MAX):
            digest.update(os.pread(fd, min(COALESCE_BYTES_MAX, at - start), start))
        inner = self._store.origin
        while at < whole.size:
            if self._stop.is_set():
                raise _Stopped
            end = min(whole.size, at + self._window_nbytes)
            steps = range(at, end, COALESCE_BYTES_MAX)
            pieces = inner.get_ranges([Range(whole.key, a, min(COALESCE_BYTES_MAX, end - a)) for a in steps])
            for piece in pieces:
                digest.update(piece)
                _put(fd, piece, at)
                at += len(piece)
            with self._lock:
                self._fetched_nbytes += sum(map(len, pieces))
            self._events.put(sum(map(len, pieces)))
            if at != end:
                raise Corrupt(f"{self._store.url}/{whole.key} ends at byte {at} of {whole.size}: it was truncated; restore it")
        return digest.hexdigest()


def _put(fd: int, data: Bytes, at: int) -> None:
    """Write all of it."""
    view = memoryview(data)
    while len(view):
        n = os.pwrite(fd, view, at)
        view, at = view[n:], at + n
