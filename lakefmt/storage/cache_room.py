"""How much room the files of a cache folder take, and making room: a budget in bytes for all processes that share the folder.

A counter in a file, changed under a lock, says how much is taken. Who is about to write reserves first, so that it errs upwards: of
a process that was killed a reservation stays that nothing came of. So each process counts files once, before it first makes room.

Room is made when the budget is used up, a little more than is needed. Objects used longest ago lose their chunks first, of the last
one the chunks used longest ago, so that making room costs as much as is dropped, and a look at each object's folder, however much
the cache holds. One process does it at a time; others do not wait for it, they go without keeping what they have.

Times of last use are the modification time of an object's folder and the access times of files, set by whoever reads (mount options
keep the kernel from it), to a minute. Whole objects, which somebody has asked for (``download``), make room for other whole objects
only, and for chunks when they alone exceed the budget. Removing a name harms no reader: what is open or mapped stays.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator

import xxhash

from lakefmt.storage.cache_locks import FileLocks

#: Bytes by which file systems count.
_BLOCK_NBYTES = 4096
#: Bytes of a chunk's file, unless the object ends in it.
CHUNK_FILE_NBYTES = 64 << 10
#: What an unfinished write is called, and the age in seconds from which on nobody is at work on it any more.
TEMP_PREFIX = ".tmp-"
_TEMP_AGE_MAX_S = 3600
#: Folder of an object's whole file, in the folder of its chunks.
WHOLE_FOLDER = "whole"
#: Numbers of locks.
USAGE_LOCK, EVICTION_LOCK = 1 << 62, (1 << 62) + 1
_USAGE_WAIT_S = 1.0
#: Room is made for this part of the budget at least.
_SPARE = 64
#: Seconds for which no room is looked for after none was found.
_FULL_S = 10.0
#: Files of an object's folder up to which each is looked at when they are counted; of more it is known what they take.
_LOOKED_AT_MAX = 64
_COUNTER = struct.Struct("<qQ")


def taken(nbytes: int) -> int:
    """Room that a file of so many bytes takes."""
    return -(-nbytes // _BLOCK_NBYTES) * _BLOCK_NBYTES


class Room:
    """The budget of one folder, as this process has it."""

    def __init__(self, folder: str, nbytes_max: int, locks: FileLocks) -> None:
        self._folder = folder
        self._counter = os.path.join(folder, "used")
        self.nbytes_max = nbytes_max
        self._locks = locks
        self._counted = False
        self._full_until_s = 0.0

    def reserve(self, nbytes: int) -> bool:
        """Room for so many bytes is taken; False where there is none, and none can be made now.

        Raises:
            OSError: the folder cannot be written.
        """
        if nbytes > self.nbytes_max:
            return False
        if self._add(nbytes):
            return True
        if time.monotonic() < self._full_until_s or not self.make_room(nbytes):
            return False
        if self._add(nbytes):
            return True
        self._full_until_s = time.monotonic() + _FULL_S  # whole objects take it all
        return False

    def charge(self, nbytes: int) -> None:
        """Bytes are written in any case; negative: they are not there any more."""
        self._change(nbytes)

    def used(self) -> int:
        """Bytes taken, counted file by file."""
        return sum(map(_object_nbytes, _objects(self._folder)))

    def make_room(self, nbytes: int, *, whole: bool = False) -> bool:
        """Drop what was used longest ago until there is room for so many bytes, and some more; False where somebody else is at it.

        Args:
            whole: it is for whole objects, for which others may go.
        """
        if not self._locks.take(EVICTION_LOCK):
            return False
        try:
            if whole or not self._counted:  # what others have reserved meanwhile, and not written, is counted late
                before = self._change(0) or 0
                self._change(self.used() - before)
                self._counted = True
            over = (self._change(0) or 0) - self.nbytes_max
            freed = _drop(self._folder, over + max(nbytes, self.nbytes_max // _SPARE), over + nbytes if whole else over)
            self._change(-freed)
            return True
        finally:
            self._locks.drop(EVICTION_LOCK)

    def _add(self, nbytes: int) -> bool:
        return self._change(nbytes, self.nbytes_max) is not None

    def _change(self, nbytes: int, nbytes_max: int | None = None) -> int | None:
        """Change the counter, unless it would exceed a bound; its new value. ``None``: it is as it was."""
        if not self._locks.take(USAGE_LOCK, _USAGE_WAIT_S):
            return None
        try:
            fd = self._open()
            try:
                now = max(0, self._read(fd) + nbytes)
                if nbytes_max is not None and now > nbytes_max:
                    return None
                value = now.to_bytes(8, "little")
                os.pwrite(fd, value + xxhash.xxh3_64_intdigest(value).to_bytes(8, "little"), 0)
                return now
            finally:
                os.close(fd)
        finally:
            self._locks.drop(USAGE_LOCK)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(self._counter, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(self._folder, exist_ok=True)
            return os.open(self._counter, flags, 0o666)

    def _read(self, fd: int) -> int:
        """The counter; where it does not parse (a new folder, a power cut), what is counted."""
        data = os.pread(fd, _COUNTER.size + 1, 0)
        if len(data) == _COUNTER.size:
            value, check = _COUNTER.unpack(data)
            if value >= 0 and check == xxhash.xxh3_64_intdigest(data[:8]):
                return int(value)
        return self.used()


def _drop(folder: str, nbytes: int, wholes_nbytes: int) -> int:
    """Remove files, those used longest ago first, until so many bytes are freed; how many are.

    Args:
        nbytes: to be freed by dropping chunks.
        wholes_nbytes: to be freed even if whole objects have to go, after all chunks.
    """
    freed = 0
    objects = sorted((st.st_mtime_ns, path) for path in _objects(folder) if (st := _stat(path)) is not None)
    for _, path in objects:
        if freed >= nbytes:
            break
        freed += _drop_chunks(path, nbytes - freed)
    if freed < wholes_nbytes:
        wholes = [e for _, path in objects for e in _scan(os.path.join(path, WHOLE_FOLDER))]
        freed += _drop_files(wholes, wholes_nbytes - freed)
    return freed


def _drop_chunks(path: str, nbytes: int) -> int:
    """Remove chunks of an object; bytes freed. The time of its last use stays, unless it had none."""
    before = _stat(path)
    entries = [e for e in _scan(path) if not e.is_dir(follow_symlinks=False)]
    freed = _drop_files(entries, nbytes)
    if before is not None:
        with contextlib.suppress(OSError):
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return freed


def _drop_files(entries: list[os.DirEntry[str]], nbytes: int) -> int:
    """Remove files until so many bytes are freed, and their folders with the last; bytes freed."""
    found = [(st.st_atime_ns, taken(st.st_size), e.path) for e in entries if (st := _stat_entry(e)) is not None]
    freed, emptied = 0, set[str]()
    for _, size, path in sorted(found):
        if freed >= nbytes:
            break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        freed += size
        emptied.add(os.path.dirname(path))
    for folder in emptied:
        with contextlib.suppress(OSError):  # it holds something still, or again
            os.removedirs(folder)
    return freed


def _object_nbytes(path: str) -> int:
    """Bytes that an object's files take: of many chunks the last alone is looked at."""
    total, chunks, entries = 0, dict[int, os.DirEntry[str]](), list[os.DirEntry[str]]()
    for entry in _scan(path):
        try:
            chunks[int(entry.name, 16)] = entry
        except ValueError:
            inside = entry.is_dir(follow_symlinks=False)
            entries += _scan(entry.path) if inside else [entry]
    if len(chunks) > _LOOKED_AT_MAX:
        last = chunks.pop(max(chunks))
        total, chunks = len(chunks) * CHUNK_FILE_NBYTES, {0: last}
    entries += chunks.values()
    return total + sum(taken(st.st_size) for e in entries if (st := _stat_entry(e)) is not None)


def _stat_entry(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What is known of a file; ``None`` where it is gone, as a write is that nobody has finished for long."""
    try:
        st = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if entry.name.startswith(TEMP_PREFIX) and time.time() - st.st_mtime > _TEMP_AGE_MAX_S:
        with contextlib.suppress(OSError):
            os.unlink(entry.path)
        return None
    return st


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=False)
    except OSError:
        return None


def _objects(folder: str) -> Iterator[str]:
    """Folders of all objects."""
    for shard in _scan(folder):
        if shard.is_dir(follow_symlinks=False):
            for entry in _scan(shard.path):
                if entry.is_dir(follow_symlinks=False):
                    yield entry.path


def _scan(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []
