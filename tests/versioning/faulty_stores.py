"""Stores over memory that fail on purpose, and how to open datasets on them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from lakefmt.dataset import Dataset
from lakefmt.errors import LakeError, StoreError
from lakefmt.storage import Bytes, Entry, MemoryStore, Range, Store, Writer
from lakefmt.versioning.log import Log

T = TypeVar("T")


class Crash(BaseException):
    """The process died here."""


def memory() -> MemoryStore:
    """A fresh place in memory."""
    return MemoryStore(f"log-{uuid.uuid4().hex}")


def copied(store: MemoryStore) -> MemoryStore:
    """The same objects at another place."""
    copy = memory()
    for entry in store.list(""):
        copy.put(entry.key, store.get(entry.key))
    return copy


def opened(store: Store, *, branch: str = "main") -> Dataset:
    """A dataset handle on a store."""
    log = Log.open(store)
    found, version = log.resolve(branch)
    return Dataset(log, store.url, found, version)


def abandon(dataset: Dataset) -> None:
    """Forget a handle as a dying process would: nothing is flushed."""
    dataset._finalizer.detach()


class Wrapped(Store):
    """Every call goes through ``call`` (the operation's name, its key, the call itself)."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.url = inner.url
        self.is_local = inner.is_local

    def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
        """To be overridden."""
        return fn()

    def get(self, key: str) -> bytes:
        return self.call("get", key, lambda: self.inner.get(key))

    def get_range(self, key: str, start: int, length: int) -> Bytes:
        return self.call("get_range", key, lambda: self.inner.get_range(key, start, length))

    def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
        return self.call("get_ranges", ranges[0].key if ranges else "", lambda: self.inner.get_ranges(ranges))

    def put(self, key: str, data: Bytes) -> None:
        self.call("put", key, lambda: self.inner.put(key, data))

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        return self.call("put_if_absent", key, lambda: self.inner.put_if_absent(key, data))

    def writer(self, key: str) -> Writer:
        return _WrappedWriter(self, key, self.call("writer", key, lambda: self.inner.writer(key)))

    def list(self, prefix: str) -> Iterator[Entry]:
        return iter(self.call("list", prefix, lambda: [*self.inner.list(prefix)]))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.call("delete", key, lambda key=key: self.inner.delete([key]))  # type: ignore[misc]

    def map(self, key: str) -> memoryview | None:
        return self.call("map", key, lambda: self.inner.map(key))


class _WrappedWriter(Writer):
    def __init__(self, store: Wrapped, key: str, inner: Writer) -> None:
        self._store, self._key, self._inner = store, key, inner

    def write(self, data: Bytes) -> int:
        return self._store.call("write", self._key, lambda: self._inner.write(data))

    def close(self) -> None:
        self._store.call("close", self._key, self._inner.close)

    def abort(self) -> None:
        self._inner.abort()


class Counting(Wrapped):
    """Remembers the calls made."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.calls: list[tuple[str, str]] = []

    def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
        self.calls.append((name, key))
        return fn()


class Crashing(Wrapped):
    """The process dies at the ``at``-th call, before it or after it was applied, and never comes back."""

    def __init__(self, inner: Store, at: int, *, applied: bool) -> None:
        super().__init__(inner)
        self.at, self.applied, self.seen = at, applied, 0

    def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
        self.seen += 1
        if self.seen < self.at + 1:
            return fn()
        if self.seen == self.at + 1 and self.applied:
            with contextlib.suppress(LakeError):
                fn()
        raise Crash(f"{name} {key}")


WRITES = frozenset({"put", "put_if_absent", "writer", "write", "close", "delete"})


class Failing(Wrapped):
    """The ``at``-th writing call reports an error, once, whether or not it was applied."""

    def __init__(self, inner: Store, at: int, *, applied: bool) -> None:
        super().__init__(inner)
        self.at, self.applied, self.seen = at, applied, 0

    def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
        if name not in WRITES:
            return fn()
        self.seen += 1
        if self.seen != self.at + 1:
            return fn()
        if self.applied:
            fn()
        raise StoreError(5, f"{name} {key}: the connection was cut")


class Forgetful(Wrapped):
    """``put_if_absent`` of version objects misbehaves for a number of times; ``how`` says in which way."""

    def __init__(self, inner: Store, how: str, times: int = 1) -> None:
        super().__init__(inner)
        self.how, self.times = how, times

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        if not key.startswith("log/") or self.times == 0:
            return self.inner.put_if_absent(key, data)
        self.times -= 1
        if self.how.startswith("applied"):
            self.inner.put_if_absent(key, data)
        if self.how.endswith("error"):
            raise StoreError(5, f"{key}: the connection was cut")
        return False


def values(dataset: Any, name: str = "x") -> list[Any]:
    """A tensor's samples as Python values."""
    return [None if v is None else v.tolist() for v in dataset[name].numpy(aslist=True)]
