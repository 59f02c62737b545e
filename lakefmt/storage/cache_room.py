"""How much room the files of a cache folder take, and making room: a budget in bytes for all processes that share the folder.

A counter in a file, changed under a lock, says how much is taken. Who is about to write reserves first, so that it errs upwards:
of a process that was killed a reservation stays that nothing came of. When the counter says that the budget is used up, one
process looks at every file, drops those used longest ago until a tenth of the budget is free (so that looking is rare), and sets
the counter right. Others do not wait for it: they go without keeping what they have.

The time of last use is a file's access time, set by whoever reads it (mount options keep the kernel from it), to a minute. Whole
objects, which somebody has asked for (``download``), make room for other whole objects only, and for chunks when they alone
exceed the budget. Removing a name harms no reader: what is open or mapped stays.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from array import array
from collections.abc import Iterator

import numpy as np
import xxhash

from lakefmt.storage.cache_locks import FileLocks

#: Bytes by which file systems count.
_BLOCK_NBYTES = 4096
#: What an unfinished write is called, and the age in seconds from which on nobody is at work on it any more.
TEMP_PREFIX = ".tmp-"
_TEMP_AGE_MAX_S = 3600
#: Folder of an object's whole file, in the folder of its chunks.
WHOLE_FOLDER = "whole"
#: Numbers of locks.
USAGE_LOCK, EVICTION_LOCK = 1 << 62, (1 << 62) + 1
_USAGE_WAIT_S = 1.0
#: Seconds for which no room is looked for after none was found.
_FULL_S = 10.0
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
        return _Files(self._folder).nbytes

    def make_room(self, nbytes: int, *, whole: bool = False) -> bool:
        """Drop what was used longest ago until there is room for so many bytes, and some more; False where somebody else is at it.

        Args:
            whole: it is for whole objects, for which others may go.
        """
        if not self._locks.take(EVICTION_LOCK):
            return False
        try:
            before = self._change(0) or 0
            files = _Files(self._folder)
            over = files.nbytes - self.nbytes_max
            freed = files.drop(over + max(nbytes, self.nbytes_max // 10), over + nbytes if whole else over)
            # what was reserved meanwhile stays reserved; what is on its way to the disk now is counted late
            self._change(files.nbytes - freed - before)
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


class _Files:
    """Every file of a folder, some 40 bytes each: chunks by number, others by path; and what they take together."""

    def __init__(self, folder: str) -> None:
        self._objects: list[str] = []
        self._used_ns, self._sizes, self._object, self._number = array("q"), array("q"), array("q"), array("q")
        self._paths: list[str] = []
        self.nbytes = 0
        for path in _folders(folder):
            for inside in _folders(path):
                self._look(inside)

    def _look(self, folder: str) -> None:
        """Take in the folder of one object."""
        self._objects.append(folder)
        for entry in _scan(folder):
            if entry.is_dir(follow_symlinks=False):
                for whole in _scan(entry.path):
                    self._add(whole, -1)
            else:
                try:
                    self._add(entry, int(entry.name, 16))
                except ValueError:
                    self._add(entry, -2)

    def _add(self, entry: os.DirEntry[str], number: int) -> None:
        try:
            st = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # dropped since it was listed
            return
        if entry.name.startswith(TEMP_PREFIX) and time.time() - st.st_mtime > _TEMP_AGE_MAX_S:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
            return
        self.nbytes += taken(st.st_size)
        self._used_ns.append(st.st_atime_ns)
        self._sizes.append(taken(st.st_size))
        self._number.append(number)
        if number >= 0:
            self._object.append(len(self._objects) - 1)
        else:
            self._object.append(len(self._paths))
            self._paths.append(entry.path)

    def drop(self, nbytes: int, wholes_nbytes: int) -> int:
        """Remove files, those used longest ago first, until so many bytes are freed; how many are.

        Args:
            nbytes: to be freed by dropping chunks.
            wholes_nbytes: to be freed even if whole objects have to go, after all chunks.
        """
        number = np.frombuffer(self._number, np.int64)
        freed, emptied = 0, set[str]()
        for i in np.lexsort((np.frombuffer(self._used_ns, np.int64), number == -1)).tolist():
            if freed >= (wholes_nbytes if number[i] == -1 else nbytes):
                break
            path = self._paths[self._object[i]] if number[i] < 0 else f"{self._objects[self._object[i]]}/{self._number[i]:x}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            freed += self._sizes[i]
            emptied.add(os.path.dirname(path))
        for folder in emptied:
            with contextlib.suppress(OSError):  # it holds something still, or again
                os.removedirs(folder)
        return freed


def _folders(path: str) -> Iterator[str]:
    return (e.path for e in _scan(path) if e.is_dir(follow_symlinks=False))


def _scan(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []
