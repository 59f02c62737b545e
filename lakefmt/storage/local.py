"""Local disk.

An object is written to a temporary file in the folder it will live in, flushed to the device, and then given its name: by
``os.link`` where it must be created only once (the one primitive that is atomic, refuses an existing name and never shows
half a file), by ``os.replace`` otherwise. Then the folder is flushed, so that the name survives a power cut too.
Reads map the file: objects never change, and a mapping outlives the removal of the name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import sys
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lakefmt.errors import NoSuchObject, StoreError, UnsafeStore
from lakefmt.storage.port import Bytes, Entry, Range, Store, Writer

#: Mappings kept open; each costs a file descriptor's worth of kernel memory, not its bytes.
MAPPINGS_MAX = 2048
#: Files kept open for positional reads.
FILES_MAX = 256
_TEMP_PREFIX = ".tmp-"
#: Bytes one positional read asks for at most.
_READ_NBYTES = 1 << 30
#: Written bytes after which the kernel is asked to begin writing them out.
_WRITEBACK_NBYTES = 8 << 20


class LocalStore(Store):
    """A folder of the local file system."""

    is_local = True

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.url = self.root
        self._maps: OrderedDict[str, memoryview] = OrderedDict()
        self._files: dict[str, _OpenFile] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]

    def _path(self, key: str) -> str:
        return os.path.join(self.root, key)

    def make_durable(self, key: str) -> None:
        with self._errors(key):
            _sync_folder(os.path.dirname(self._path(key)))

    def local_path(self, key: str) -> str:
        return self._path(key)

    def get(self, key: str) -> bytes:
        with self._errors(key), open(self._path(key), "rb") as f:
            return f.read()

    def get_range(self, key: str, start: int, length: int) -> Bytes:
        file = self._files.get(key) or self._open(key)
        try:
            if start >= 0 and length <= _READ_NBYTES:
                return os.pread(file.fd, length, start)
            size = os.fstat(file.fd).st_size
            start = max(0, size + start) if start < 0 else start
            out = bytearray(min(length, max(0, size - start)))
            done = 0
            while done < len(out):  # one call reads 2 GiB at most
                n = os.preadv(file.fd, [memoryview(out)[done : done + _READ_NBYTES]], start + done)
                if n == 0:
                    break
                done += n
            return memoryview(out)[:done]
        except OSError as e:
            raise self.failed(key, e) from e

    def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
        return [self.get_range(r.key, r.start, r.length) for r in ranges]

    def fill(self, parts: Sequence[tuple[Range, memoryview]]) -> None:
        for r, target in parts:
            file = self._files.get(r.key) or self._open(r.key)
            if r.length > _READ_NBYTES:
                data = self.get_range(r.key, r.start, r.length)
                target[: len(data)] = data
                got = len(data)
            else:
                got = os.preadv(file.fd, [target], r.start)
            if got != r.length:
                raise StoreError(0, f"{self.url}: {r.key!r} ends before byte {r.start + r.length}")

    def _open(self, key: str) -> _OpenFile:
        """A file kept open for positional reads."""
        with self._errors(key):
            file = _OpenFile(self._path(key))
        with self._lock:
            if len(self._files) >= FILES_MAX:
                self._files = {}
            self._files[key] = file
        return file

    def map(self, key: str) -> memoryview:
        with self._lock:
            view = self._maps.get(key)
            if view is not None:
                self._maps.move_to_end(key)
                return view
        with self._errors(key), open(self._path(key), "rb") as f:
            size = os.fstat(f.fileno()).st_size
            view = memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
        with self._lock:
            self._maps[key] = view
            while len(self._maps) > MAPPINGS_MAX:
                self._maps.popitem(last=False)
        return view

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def forget_pages(self) -> None:
        advice = getattr(mmap, "MADV_DONTNEED", None)
        if advice is None:
            return
        with self._lock:
            for view in self._maps.values():
                if isinstance(view.obj, mmap.mmap):
                    view.obj.madvise(advice)

    def release(self) -> None:
        with self._lock:
            self._maps.clear()
            self._files = {}

    def put(self, key: str, data: Bytes) -> None:
        with self.writer(key) as w:
            w.write(data)

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        if os.path.lexists(self._path(key)):
            return False
        writer = _LocalWriter(self, key)
        try:
            writer.write(data)
            return writer.link()
        except BaseException:
            writer.abort()
            raise

    def writer(self, key: str) -> Writer:
        return _LocalWriter(self, key)

    def put_hint(self, key: str, data: Bytes) -> None:
        with _LocalWriter(self, key, durable=False) as w:
            w.write(data)

    def prune(self) -> None:
        for folder, _, _ in os.walk(self.root, topdown=False):
            if folder != self.root:
                with contextlib.suppress(OSError):  # it holds something
                    os.rmdir(folder)

    def forget(self, key: str) -> bool:
        with self._lock:
            self._maps.pop(key, None)
            self._files.pop(key, None)
        return False

    def list(self, prefix: str) -> Iterator[Entry]:
        top = self._path(prefix)
        for folder, _, names in os.walk(top):
            for name in names:
                if name.startswith(_TEMP_PREFIX):
                    continue
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    st = os.stat(path)
                    yield Entry(os.path.relpath(path, self.root).replace(os.sep, "/"), st.st_size, st.st_mtime)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.forget(key)
            with self._errors(key), contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(key))

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as e:
            raise NoSuchObject(f"{self.url}: no object {key!r}") from e
        except StoreError:
            raise
        except OSError as e:
            raise self.failed(key, e) from e

    def failed(self, key: str, error: OSError) -> StoreError:
        """What the file system reported, as ours."""
        hint = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or type(error).__name__
        return StoreError(error.errno or 0, f"{self.url}: {key!r}: {hint}")


class _OpenFile:
    """A descriptor that is closed when the last reader lets go of it, so that a cache may drop it at any time."""

    __slots__ = ("fd",)

    def __init__(self, path: str) -> None:
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if self.fd >= 0 and os.close is not None:  # the interpreter may be ending
            os.close(self.fd)


class _LocalWriter(Writer):
    """Temporary file in the target folder, then a name."""

    def __init__(self, store: LocalStore, key: str, *, durable: bool = True) -> None:
        self._store, self._key, self._durable = store, key, durable
        self._path = os.path.join(store.root, key)
        self._at = self._flushed = 0
        folder = os.path.dirname(self._path)
        self._temp = os.path.join(folder, f"{_TEMP_PREFIX}{uuid.uuid4().hex}")
        with self._errors():
            try:
                self._file = open(self._temp, "wb", buffering=0)  # noqa: SIM115  closed by close/abort
            except FileNotFoundError:
                _make_folders(folder)
                self._file = open(self._temp, "wb", buffering=0)  # noqa: SIM115

    def write(self, data: Bytes) -> int:
        view = memoryview(data).cast("B") if not isinstance(data, bytes) else memoryview(data)
        done = 0
        with self._errors():
            while done < len(view):  # an unbuffered write may be short
                n = self._file.write(view[done : done + _WRITEBACK_NBYTES]) or 0
                done += n
                self._at += n
                if self._at - self._flushed >= _WRITEBACK_NBYTES:
                    _start_writeback(self._file.fileno(), self._flushed, self._at - self._flushed)
                    self._flushed = self._at
        return done

    def close(self) -> None:
        with self._errors():
            self._sync()
            os.replace(self._temp, self._path)
            self._store.forget(self._key)
            if self._durable:
                _sync_folder(os.path.dirname(self._path))

    def link(self) -> bool:
        """Give the file its name unless the name is taken; answer whether it was free."""
        with self._errors():
            if os.path.lexists(self._path):  # the race is lost already: nothing of this needs to reach the disk
                self.abort()
                return False
            self._sync()
            try:
                os.link(self._temp, self._path)
            except FileExistsError:
                return False
            except OSError as e:
                if e.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                raise UnsafeStore(
                    e.errno, f"{self._store.url}: this file system has no hard links, so commits could be lost; use another disk"
                ) from e
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._temp)
            _sync_folder(os.path.dirname(self._path))
        return True

    def abort(self) -> None:
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temp)

    def _sync(self) -> None:
        if self._durable:
            os.fsync(self._file.fileno())
        self._file.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of the file system as ours; whatever was written is removed."""
        try:
            yield
        except StoreError:
            raise
        except OSError as e:
            if hasattr(self, "_file"):
                self.abort()
            raise self._store.failed(self._key, e) from e


def _find_sync_file_range() -> Any:
    """Linux's ``sync_file_range``, which Python does not offer; ``None`` elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range = _find_sync_file_range()


def _start_writeback(fd: int, start: int, length: int) -> None:
    """Let the kernel begin to write these bytes to the device, so that the flush at the end finds little left to do."""
    if _sync_file_range is not None:
        _sync_file_range(fd, start, length, 2)  # SYNC_FILE_RANGE_WRITE: a hint; a failure changes nothing


def _make_folders(folder: str) -> None:
    """Make a folder and those above it, each flushed into its parent, so that files in it survive a power cut."""
    missing = []
    while folder and not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        os.makedirs(path, exist_ok=True)
        _sync_folder(os.path.dirname(path))


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
