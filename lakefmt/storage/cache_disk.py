"""Chunks of objects on disk, shared by all processes that are given the folder.

``<folder>/<xx>/<object>/<number>`` is a chunk: 16 bytes (magic, length, XXH3 of what follows, seeded with the store, the object
and the number, so that no chunk is taken for another), then its bytes. A chunk with its header is 64 KiB, whole blocks of a disk.
It is written under another name and then renamed: it is there as a whole, or not at all. It is not flushed to the device: after a
power cut it may not match its checksum, and what does not match is removed and fetched anew.

Whatever goes wrong in writing (no room on the disk, a folder that is not ours) is told once, by a warning, and from then on this
process writes no more; what can be read still is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary

import xxhash

from lakefmt.errors import CacheOff
from lakefmt.storage.cache_locks import file_locks
from lakefmt.storage.cache_memory import ChunkId
from lakefmt.storage.cache_room import CHUNK_FILE_NBYTES, TEMP_PREFIX, WHOLE_FOLDER, Room, taken
from lakefmt.storage.cache_whole import TOUCH_S, touch, whole_files

_HEADER = struct.Struct("<4sIQ")
_MAGIC = b"LKC1"
#: Bytes of a chunk; the last one of an object is shorter (or empty, where the object ends with the chunk before it).
CHUNK_NBYTES = CHUNK_FILE_NBYTES - _HEADER.size
#: Chunks that one reservation of room is for.
_RESERVED_CHUNKS = 16
_OBJECTS_MAX = 1 << 16
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOEXEC
#: Neither a named pipe nor a link to elsewhere is of use here.
_OPEN = os.O_RDONLY | _CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)


class DiskCache:
    """The chunks of one store."""

    def __init__(self, folder: str, url: str, nbytes_max: int) -> None:
        self.folder = folder
        self.locks = file_locks(os.path.join(folder, "locks"))
        self.room = Room(folder, nbytes_max, self.locks)
        self.wholes = whole_files(folder)
        self.off = False
        self._seed = xxhash.xxh3_64_intdigest(url.encode())
        self._objects: dict[str, tuple[str, int]] = {}
        self._touched: dict[str, float] = {}

    def after_fork(self) -> None:
        """In a forked child."""
        self.locks.after_fork()
        self.wholes.after_fork()

    # -- places --------------------------------------------------------------------------------------------------------

    def _object(self, key: str) -> tuple[str, int]:
        """Where an object's files are, below the folder, and its number."""
        found = self._objects.get(key)
        if found is None:
            digest = xxhash.xxh3_128_hexdigest(key.encode())
            found = (f"{digest[:2]}/{digest[2:]}", int(digest[:15], 16))
            if len(self._objects) >= _OBJECTS_MAX:
                self._objects.clear()
            self._objects[key] = found
        return found

    def place(self, key: str) -> str:
        """Folder of an object, below the cache's."""
        return self._object(key)[0]

    def _path(self, chunk: ChunkId) -> str:
        return f"{self.folder}/{self._object(chunk[0])[0]}/{chunk[1]:x}"

    def lock_number(self, chunk: ChunkId) -> int:
        """The lock under which a chunk is fetched: those of an object lie side by side, so that the kernel joins them."""
        return (self._object(chunk[0])[1] & 0x3FFFFFFF) << 32 | (chunk[1] & 0xFFFFFFFF)

    def whole_lock(self, key: str) -> int:
        """The lock under which an object is downloaded."""
        return (1 << 62) + 16 + self._object(key)[1]

    # -- chunks --------------------------------------------------------------------------------------------------------

    def has(self, chunk: ChunkId) -> bool:
        """Whether there is a file for a chunk (it may be damaged)."""
        return os.path.lexists(self._path(chunk))

    def read(self, chunk: ChunkId) -> memoryview | None:
        """The bytes of a chunk; ``None`` where it is not here, or is not what was written, which is removed."""
        path = self._path(chunk)
        try:
            fd = os.open(path, _OPEN)
        except FileNotFoundError:
            return None
        except OSError:
            self._remove(path, 0)
            return None
        nbytes, found = 0, None
        try:
            st = os.fstat(fd)
            nbytes = st.st_size
            found = self._intact(chunk, os.read(fd, CHUNK_FILE_NBYTES + 1))
            self._touch(chunk[0], path)
            touch(fd, st)
        except OSError:  # a folder, a disk that fails, or a file of somebody else's
            pass
        finally:
            os.close(fd)
        if found is None:
            self._remove(path, nbytes)
        return found

    def _touch(self, key: str, path: str) -> None:
        """Note a use of an object, to a minute."""
        now_s = time.monotonic()
        if now_s - self._touched.get(key, -TOUCH_S) >= TOUCH_S:
            if len(self._touched) >= _OBJECTS_MAX:
                self._touched.clear()
            self._touched[key] = now_s
            os.utime(os.path.dirname(path))

    def _intact(self, chunk: ChunkId, data: bytes) -> memoryview | None:
        """The bytes of a chunk from those of its file; ``None`` where they are not what was written."""
        if len(data) < _HEADER.size:
            return None
        magic, length, check = _HEADER.unpack_from(data)
        body = memoryview(data)[_HEADER.size :]
        return body if magic == _MAGIC and length == len(body) and check == self._check(chunk, body) else None

    def _check(self, chunk: ChunkId, data: memoryview) -> int:
        """Checksum of a chunk's bytes and of which chunk they are."""
        seed = xxhash.xxh3_64_intdigest(f"{chunk[1]:x} {chunk[0]}".encode(), self._seed)
        return xxhash.xxh3_64_intdigest(data, seed)

    def _remove(self, path: str, nbytes: int) -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)
            self.room.charge(-taken(nbytes))

    def write(self, chunks: Sequence[tuple[ChunkId, memoryview]]) -> None:
        """Keep chunks, as many as there is room for. Errors end the keeping, not the reading."""
        if self.off:
            return
        step = max(1, min(_RESERVED_CHUNKS, self.room.nbytes_max // (4 * CHUNK_FILE_NBYTES)))
        try:
            for start in range(0, len(chunks), step):
                some = chunks[start : start + step]
                if self.room.reserve(sum(taken(len(data) + _HEADER.size) for _, data in some)):
                    for chunk, data in some:
                        self._write(chunk, data)
        except OSError as e:
            self.turn_off(e)

    def _write(self, chunk: ChunkId, data: memoryview) -> None:
        path = self._path(chunk)
        header = _HEADER.pack(_MAGIC, len(data), self._check(chunk, data))
        with self.new_file(path) as fd:
            if os.writev(fd, [header, data]) != len(header) + len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def new_file(self, path: str) -> Iterator[int]:
        """A file that gets its name when the block is done, and none when it fails."""
        temp = f"{os.path.dirname(path)}/{TEMP_PREFIX}{uuid.uuid4().hex}"
        try:
            fd = os.open(temp, _NEW, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fd = os.open(temp, _NEW, 0o666)
        try:
            try:
                yield fd
            finally:
                os.close(fd)
            os.replace(temp, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temp)
            raise

    def forget(self, key: str) -> None:
        """Remove all of an object."""
        self.wholes.forget(key)
        folder = os.path.join(self.folder, self.place(key))
        gone = self._remove_files(folder) + self._remove_files(os.path.join(folder, WHOLE_FOLDER))
        if gone:
            with contextlib.suppress(OSError):
                os.removedirs(os.path.join(folder, WHOLE_FOLDER))
            with contextlib.suppress(OSError):
                os.removedirs(folder)

    def forget_chunks(self, key: str) -> None:
        """Remove the chunks of an object that is here whole."""
        self._remove_files(os.path.join(self.folder, self.place(key)))

    def _remove_files(self, folder: str) -> int:
        """Remove the files of a folder; how many. (Unfinished downloads stay.)"""
        sizes: list[int] = []
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    if not entry.is_dir(follow_symlinks=False) and not entry.name.startswith(TEMP_PREFIX):
                        with contextlib.suppress(OSError):
                            size = entry.stat(follow_symlinks=False).st_size
                            os.unlink(entry.path)
                            sizes.append(taken(size))
        except OSError:
            return 0
        with contextlib.suppress(OSError):
            self.room.charge(-sum(sizes))
        return len(sizes)

    def turn_off(self, error: OSError) -> None:
        """Write no more, and say so once."""
        if not self.off:
            self.off = True
            warnings.warn(
                f"the disk cache {self.folder} is not written any more by this process: {error.strerror or error}; reading goes on "
                "without it (set LAKEFMT_CACHE to another folder, or a smaller local_cache_size=)",
                CacheOff, stacklevel=2,
            )  # fmt: skip


_DISKS: WeakValueDictionary[tuple[str, int], DiskCache] = WeakValueDictionary()


def disk_cache(root: str, url: str, nbytes_max: int) -> DiskCache:
    """The disk cache of a store under a cache folder: the same object for all handles of this process that give it one budget.

    Args:
        root: the cache folder.
        url: address of the store.
        nbytes_max: bytes that all files for this store may take.
    """
    folder = os.path.join(os.path.abspath(root), "v1", xxhash.xxh3_128_hexdigest(url.encode()))
    return _DISKS.setdefault((folder, nbytes_max), DiskCache(folder, url, nbytes_max))
