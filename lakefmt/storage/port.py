"""The storage port: all that lakefmt asks of a place where objects live.

Keys are relative POSIX paths (``data/ab/….parquet``). Objects are written once under a name and never changed, except for
hints, which ``put`` may replace. Two promises carry the whole format:

* ``put_if_absent`` creates an object or tells that it exists, atomically, however many writers race;
* what ``put``, ``put_if_absent`` and a closed ``writer`` have acknowledged is durable and visible to every reader.

Errors: ``NoSuchObject`` for a missing key, ``StoreError`` for everything the store itself reports.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from lakefmt.errors import StoreError, UnsafeStore

Bytes: TypeAlias = bytes | memoryview

#: Two ranges of one object closer than this are fetched as one request: a request costs about as much as this many bytes.
COALESCE_GAP_BYTES = 1 << 20
#: ... but one request never grows beyond this, so that requests stay parallel.
COALESCE_BYTES_MAX = 8 << 20


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes ``[start, start + length)`` of the object ``key``."""

    key: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed object: its key, size in bytes and modification time in seconds since the epoch (None if unknown)."""

    key: str
    size: int
    modified_s: float | None


class Writer(ABC):
    """A file-like sink for one new object, which appears, whole and durable, when ``close`` returns.

    As a context manager it closes on success and aborts (nothing appears) on an exception.
    """

    @abstractmethod
    def write(self, data: Bytes) -> int: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def abort(self) -> None: ...

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class Store(ABC):
    """A place that holds objects. Instances are safe to share between threads and picklable where the place is."""

    #: address of the place, for messages
    url: str
    #: whether reading is free of network requests
    is_local: bool = False

    @property
    def origin(self) -> Store:
        """The place itself, without what is cached of it: for whoever checks or copies what is stored."""
        return self

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The whole object."""

    @abstractmethod
    def get_range(self, key: str, start: int, length: int) -> Bytes:
        """Up to ``length`` bytes from ``start``; fewer only where the object ends. ``start < 0`` counts from the end."""

    @abstractmethod
    def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
        """Many ranges at once: neighbours coalesced, requests concurrent; answers in the order asked."""

    def fill(self, parts: Sequence[tuple[Range, memoryview]]) -> None:
        """Read ranges straight into memory of the caller's, each of exactly its range's length.

        Raises:
            StoreError: an object ends before its range does.
        """
        answers = self.get_ranges([r for r, _ in parts])
        for (r, target), answer in zip(parts, answers, strict=True):
            if len(answer) != r.length:
                raise StoreError(0, f"{self.url}: {r.key!r} ends before byte {r.start + r.length}")
            target[:] = answer

    @abstractmethod
    def put(self, key: str, data: Bytes) -> None:
        """Create or replace an object."""

    def put_hint(self, key: str, data: Bytes) -> None:
        """Create or replace an advisory object: whole whenever it is seen, but it need not survive a power cut."""
        self.put(key, data)

    @abstractmethod
    def put_if_absent(self, key: str, data: Bytes) -> bool:
        """Create the object and answer True, or answer False if it exists. Atomic.

        Raises:
            StoreError: the outcome is unknown (a cut connection, a 5xx): the object may or may not be there.
        """

    def make_durable(self, key: str) -> None:
        """Make sure of an object that is there, but whose ``put`` was never acknowledged: from now on it survives a power cut."""
        return

    @abstractmethod
    def writer(self, key: str) -> Writer:
        """A sink for a large new object."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object whose key starts with ``prefix`` (a folder path ending in ``/``, or empty)."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those already gone are skipped."""

    def prune(self) -> None:
        """Remove folders that hold nothing, where folders are real."""
        return

    def map(self, key: str) -> memoryview | None:
        """The whole object as memory, without reading it, where the place can (a local file); else ``None``.

        The view must stay valid while it is referenced, whatever happens to the object.
        """
        return None

    def holds(self, key: str) -> bool:
        """Whether reading this object is free of network requests, and ``map`` can give it."""
        return self.is_local

    def forget(self, key: str) -> bool:
        """Drop what is cached of an object, for it is damaged or was replaced; whether reading it again may give other bytes."""
        return False

    def local_path(self, key: str) -> str | None:
        """Path of the object in the local file system, for engines that open files themselves; else ``None``."""
        return None

    def after_fork(self) -> None:
        """In a forked child: replace what a thread of the parent may have held."""
        return

    def forget_pages(self) -> None:
        """Let the kernel take back memory of mapped objects; their content comes back on use."""
        return

    def release(self) -> None:
        """Forget cached mappings and connections. They come back on use."""
        return


def coalesce(ranges: Sequence[Range]) -> list[tuple[Range, list[int]]]:
    """Group ranges into requests: each request with the indices of the ranges it serves.

    Greedy over (key, start): a range joins the current request when the gap is small and the request stays bounded.
    """
    order = sorted(range(len(ranges)), key=lambda i: (ranges[i].key, ranges[i].start))
    requests: list[tuple[Range, list[int]]] = []
    for i in order:
        r = ranges[i]
        if requests:
            last, members = requests[-1]
            end = max(last.start + last.length, r.start + r.length)
            near = r.key == last.key and r.start - (last.start + last.length) <= COALESCE_GAP_BYTES
            if near and end - last.start <= COALESCE_BYTES_MAX:
                requests[-1] = (Range(last.key, last.start, end - last.start), [*members, i])
                continue
        requests.append((r, [i]))
    return requests


def scatter(requests: Sequence[tuple[Range, list[int]]], answers: Sequence[Bytes], ranges: Sequence[Range]) -> list[Bytes]:
    """Cut the answers to coalesced requests back into the ranges asked for."""
    out: list[Bytes] = [b""] * len(ranges)
    for (request, members), answer in zip(requests, answers, strict=True):
        view = memoryview(answer)
        for i in members:
            at = ranges[i].start - request.start
            out[i] = view[at : at + ranges[i].length]
    return out


def probe_put_if_absent(store: Store, key: str) -> None:
    """Refuse a store whose put_if_absent would overwrite: create twice, the second must not win.

    Raises:
        UnsafeStore: the second create was accepted, or changed what the first had written.
    """
    store.put_if_absent(key, b"first")  # its answer may be lost on the way: what counts is what lies there in the end
    second = store.put_if_absent(key, b"second")
    kept = store.get(key)
    store.delete([key])
    if second or kept != b"first":
        raise UnsafeStore(
            f"{store.url}: this store overwrites objects that must be created only once, so commits could be lost. "
            "Use a local path, s3://, gs:// or az:// directly, without a caching or wrapping file system"
        )
