"""Any fsspec file system (S3, GCS, Azure, ...).

fsspec has no compare-and-set, but its object stores take ``mode="create"`` on ``pipe_file`` (If-None-Match: *, or
ifGenerationMatch=0). Every other file system ignores the mode and overwrites; the probe made when a dataset is created
refuses those. Listing caches are switched off: a stale listing makes new objects invisible.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from lakefmt.errors import LakeError, MissingExtra, NoSuchObject, StoreError, UnsafeStore
from lakefmt.storage.port import Bytes, Entry, Range, Store, Writer, coalesce, scatter

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "gcp": "gcs", "az": "azure", "abfs": "azure", "azure": "azure"}
_PROTOCOLS = {"gcp": "gs", "azure": "az"}
#: Services with conditional writes, whose fsspec clients make ``mode="create"`` of them. (fsspec's base class imitates it by
#: asking whether the object exists and then writing, which two writers can both pass.)
_CONDITIONAL = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "adl"})
#: Codes by which the clients say "exists" when the service's answer lacks the words they look for (s3fs: EINVAL for a bare 412).
_MAYBE_EXISTS = (errno.EINVAL, errno.EEXIST)


class FsspecStore(Store):
    """A folder of an fsspec file system, opened lazily and again in each process (its clients do not survive a fork)."""

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        self.url = url.rstrip("/")
        self._options = dict(options or {})
        protocol, _, path = self.url.partition("://")
        self._protocol = _PROTOCOLS.get(protocol, protocol)
        self._root = path
        self._fs: Any = None
        self._pid = -1

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"], state["options"])  # type: ignore[misc]

    @property
    def fs(self) -> Any:
        """The file system of this process."""
        if self._pid != os.getpid():
            self._fs, self._pid = _open_filesystem(self._protocol, self._options), os.getpid()
        return self._fs

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if self._root else key

    def get(self, key: str) -> bytes:
        return bytes(self._call(key, lambda: self.fs.cat_file(self._path(key))))

    def get_range(self, key: str, start: int, length: int) -> Bytes:
        end = None if start < 0 else start + length
        try:
            data: bytes = self._call(key, lambda: self.fs.cat_file(self._path(key), start=start, end=end))
        except StoreError:
            size = self._call(key, lambda: self.fs.info(self._path(key))["size"])
            if start >= size or size == 0:  # services refuse a range past the end
                return b""
            raise
        return data[:length]

    def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
        if not ranges:
            return []
        requests = coalesce(ranges)
        paths = [self._path(r.key) for r, _ in requests]
        starts = [r.start for r, _ in requests]
        ends = [r.start + r.length for r, _ in requests]
        answers = self._call(ranges[0].key, lambda: self.fs.cat_ranges(paths, starts, ends, on_error="return"))
        for i, ((request, _), answer) in enumerate(zip(requests, answers, strict=True)):
            if isinstance(answer, BaseException):  # ask again, alone: it names the object, and knows ranges past the end
                answers[i] = self.get_range(request.key, request.start, request.length)
        return scatter(requests, answers, ranges)

    def put(self, key: str, data: Bytes) -> None:
        self._call(key, lambda: self.fs.pipe_file(self._path(key), bytes(data)))

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        if not data:
            raise ValueError("an object created once must not be empty: some clients drop the condition then")
        if self._protocol not in _CONDITIONAL:
            raise UnsafeStore(
                0,
                f"{self.url}: {self._protocol}:// overwrites objects that must be created only once, so commits could be lost. "
                "Use a local path, s3://, gs:// or az:// directly, without a caching or wrapping file system",
            )
        try:
            self.fs.pipe_file(self._path(key), bytes(data), mode="create")
        except FileExistsError:
            return False
        except OSError as e:
            if e.errno in _MAYBE_EXISTS and self._exists(key):
                return False
            raise StoreError(e.errno or 0, f"{self.url}: creating {key!r}: {e}") from e
        except Exception as e:
            raise _foreign(self.url, key, e) from e
        return True

    def _exists(self, key: str) -> bool:
        try:
            self.get_range(key, 0, 1)
        except NoSuchObject:
            return False
        return True

    def writer(self, key: str) -> Writer:
        return _FsspecWriter(self, key, self._path(key))

    def list(self, prefix: str) -> Iterator[Entry]:
        top = self._path(prefix.rstrip("/")) if prefix else self._root
        try:
            found = self.fs.find(top, detail=True, withdirs=False)
        except FileNotFoundError:
            return
        except Exception as e:
            raise _foreign(self.url, prefix, e) from e
        base = self.fs._strip_protocol(self._root).rstrip("/")
        for path, info in sorted(found.items()):
            key = path[len(base) :].lstrip("/") if base and path.startswith(base) else path.lstrip("/")
            yield Entry(key, int(info.get("size") or 0), _modified_s(info))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                self.fs.rm_file(self._path(key))
            except FileNotFoundError:
                continue
            except Exception as e:
                raise _foreign(self.url, key, e) from e

    def release(self) -> None:
        self._fs, self._pid = None, -1

    def _call(self, key: str, fn: Any) -> Any:
        try:
            return fn()
        except FileNotFoundError as e:
            raise NoSuchObject(f"{self.url}: no object {key!r}") from e
        except LakeError:
            raise
        except Exception as e:
            raise _foreign(self.url, key, e) from e


class _FsspecWriter(Writer):
    def __init__(self, store: FsspecStore, key: str, path: str) -> None:
        self._store, self._key = store, key
        self._file = store._call(key, lambda: _open_for_writing(store.fs, path))

    def write(self, data: Bytes) -> int:
        return int(self._store._call(self._key, lambda: self._file.write(data)))

    def close(self) -> None:
        self._store._call(self._key, self._file.close)

    def abort(self) -> None:
        discard = getattr(self._file, "discard", None)
        if discard is not None:
            self._file.closed = True
            discard()


def _open_for_writing(fs: Any, path: str) -> Any:
    parent = path.rsplit("/", 1)[0]
    if not getattr(fs, "async_impl", False):  # folders are real there
        fs.makedirs(parent, exist_ok=True)
    return fs.open(path, "wb")


def _open_filesystem(protocol: str, options: dict[str, Any]) -> Any:
    import fsspec

    settings = {"use_listings_cache": False, "skip_instance_cache": True, **options}
    try:
        if protocol in ("gs", "gcs"):
            # gcsfs's default class probes buckets over gRPC, which blocks for a minute against an emulator.
            from gcsfs.core import GCSFileSystem

            return GCSFileSystem(**settings)
        return fsspec.filesystem(protocol, **settings)
    except ImportError as e:
        raise MissingExtra(f"{protocol}:// addresses", _EXTRAS.get(protocol, protocol)) from e
    except ValueError as e:
        raise StoreError(0, f"{protocol}:// is no address fsspec knows: {e}") from e


def _foreign(url: str, key: str, error: Exception) -> StoreError:
    code = getattr(error, "errno", None)
    return StoreError(code if isinstance(code, int) else 0, f"{url}: {key!r}: {type(error).__name__}: {error}")


def _modified_s(info: dict[str, Any]) -> float | None:
    for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, str):
            return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    return None
