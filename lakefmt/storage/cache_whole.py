"""Whole objects on disk: files with exactly an object's bytes, which can be mapped. Downloads make them (``cache_download``).

``<folder of the object>/whole/<size>-<xxh64>`` gets its name when all its bytes are there and match the checksum that the dataset
has of them, and a modification time that is made of that checksum: whoever writes to the file later changes that. A file of the
right size and time is believed; one of another time (restored from a backup, or damaged) is read and compared before it is used,
once. A mapped file cannot be checked as it is read, as little as one of a dataset in a local folder.

Open files and mappings outlive the removal of the name, so that an eviction disturbs no reader.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import xxhash

from lakefmt.errors import NoSuchObject, StoreError
from lakefmt.storage.cache_room import WHOLE_FOLDER
from lakefmt.storage.local import LocalStore
from lakefmt.storage.port import Bytes, Range

#: Seconds for which it is believed that an object has no whole file: another process may download it.
_ABSENT_S = 5.0
#: Seconds after which a use is noted anew.
TOUCH_S = 60.0
#: Objects whose absence is remembered.
_ABSENT_MAX = 1 << 16
_READ_NBYTES = 8 << 20
#: Unfinished downloads.
PART_SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class Whole:
    """An object to be had whole: its key, bytes, and the XXH64 of these in hex."""

    key: str
    size: int
    xxh64: str

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.size}-{self.xxh64}"

    @property
    def time_ns(self) -> int:
        """Modification time of its file: between 1970 and 2004."""
        return (int(self.xxh64, 16) % (1 << 30)) * 1_000_000_000


class WholeFiles:
    """Whole objects in the folder of one store."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files = LocalStore(folder)
        self._known: dict[str, tuple[str, float]] = {}  # path below the folder, and when its use was noted
        self._absent: dict[str, float] = {}

    def after_fork(self) -> None:
        """In a forked child."""
        self._files.after_fork()

    def find(self, key: str, place: str) -> Whole | None:
        """The whole file of an object, if one is there and can be believed. Others are removed.

        Args:
            place: folder of the object, below the store's.
        """
        folder = os.path.join(self._folder, place, WHOLE_FOLDER)
        try:
            names = os.listdir(folder)
        except OSError:
            names = []
        for name in names:
            size, dash, xxh64 = name.partition("-")
            if not dash or not size.isdigit() or len(xxh64) != 16:
                continue  # an unfinished one, or none of ours
            whole = Whole(key, int(size), xxh64)
            path = os.path.join(folder, name)
            if _believed(path, whole) and self._note(key, f"{place}/{WHOLE_FOLDER}/{name}"):
                return whole
            self._files.forget(f"{place}/{WHOLE_FOLDER}/{name}")
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._known.pop(key, None)
        if len(self._absent) >= _ABSENT_MAX:
            self._absent.clear()
        self._absent[key] = time.monotonic()
        return None

    def has(self, key: str, place: str) -> bool:
        """Whether an object is here whole; looked at anew every minute where it was, every few seconds where it was not."""
        known = self._known.get(key)
        if known is not None:
            return time.monotonic() - known[1] <= TOUCH_S or self._note(key, known[0])
        missed = self._absent.get(key)
        return (missed is None or time.monotonic() - missed > _ABSENT_S) and self.find(key, place) is not None

    def _note(self, key: str, path: str) -> bool:
        """Remember where an object is, and that it is used now; False where it is gone."""
        full = os.path.join(self._folder, path)
        try:
            touch(full, os.stat(full))
        except FileNotFoundError:
            self._known.pop(key, None)
            return False
        except OSError:  # somebody else's: it can be read all the same
            pass
        self._known[key] = (path, time.monotonic())
        self._absent.pop(key, None)
        return True

    def look_again(self) -> None:
        """Believe nothing any more of what is here and what is not: room was made, or something came."""
        self._known.clear()
        self._absent.clear()

    def map(self, key: str) -> memoryview | None:
        """The object as memory; ``None`` where it is gone after all."""
        known = self._known.get(key)
        try:
            return None if known is None else self._files.map(known[0])
        except (NoSuchObject, StoreError):
            self._lost(key)
        return None

    def read(self, key: str, start: int, length: int) -> Bytes | None:
        """Up to ``length`` bytes from ``start``; ``None`` where it is gone after all."""
        known = self._known.get(key)
        try:
            return None if known is None else self._files.get_range(known[0], start, length)
        except (NoSuchObject, StoreError):
            self._lost(key)
        return None

    def fill(self, parts: Sequence[tuple[Range, memoryview]]) -> bool:
        """Read ranges of known objects into place; False where some object is gone after all, or too short."""
        try:
            self._files.fill([(Range(self._known[r.key][0], r.start, r.length), target) for r, target in parts])
        except (NoSuchObject, StoreError, KeyError):
            for r, _ in parts:
                self._lost(r.key)
            return False
        return True

    def _lost(self, key: str) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._files.forget(known[0])

    def forget(self, key: str) -> None:
        """Let go of an object whose file is removed."""
        self._lost(key)
        self._absent.pop(key, None)

    def forget_pages(self) -> None:
        """See ``Store.forget_pages``."""
        self._files.forget_pages()

    def release(self) -> None:
        """Close files and mappings."""
        self._files.release()


_WHOLES: WeakValueDictionary[str, WholeFiles] = WeakValueDictionary()


def whole_files(folder: str) -> WholeFiles:
    """The whole objects in a folder: the same object for all of this process, so that all know at once what one has downloaded."""
    return _WHOLES.setdefault(folder, WholeFiles(folder))


def touch(path: str | int, st: os.stat_result) -> None:
    """Note a use of a file, to a minute; its modification time stays.

    Raises:
        OSError: it is gone, or somebody else's.
    """
    now_ns = time.time_ns()
    if abs(now_ns - st.st_atime_ns) > TOUCH_S * 1e9:
        os.utime(path, ns=(now_ns, st.st_mtime_ns))


def _believed(path: str, whole: Whole) -> bool:
    """Whether a file is what its name says: by size and time, or else by reading it all."""
    try:
        st = os.lstat(path)
        if st.st_size != whole.size or not stat.S_ISREG(st.st_mode):
            return False
        if st.st_mtime_ns == whole.time_ns:
            return True
        digest = xxhash.xxh64()
        with open(path, "rb", buffering=0) as f:
            while data := f.read(_READ_NBYTES):
                digest.update(data)
        if digest.hexdigest() != whole.xxh64:
            return False
        with contextlib.suppress(OSError):
            os.utime(path, ns=(time.time_ns(), whole.time_ns))
    except OSError:
        return False
    return True
