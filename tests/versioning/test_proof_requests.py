"""What an operation asks of a store far away, to the request; none of it grows with the number of versions, and nothing is listed.

The numbers are made of: `claim` (is this place still the dataset it was), `ref` (a branch or tag by name), `hint` (where the head
was last seen), `version` (a version object, got or put; the one after the newest is asked for too, and is not there), `probe` (a
first byte of a version object: whether it is there), `data`, `dv`, `overlays` (files of rows, of deletions, of updates), `leaf`. A
request is one round trip: neighbouring ranges of an object count once, a file that is streamed counts once.

What does grow is said here: a handle that is n versions behind probes 2 log2(n) times; deleting and updating read each leaf, once
a handle; every 48th commit of a file writes a leaf, and every 33rd flush a file; a version's id lists the branches.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from faulty_stores import Counting, copied, memory, opened

from lakefmt.dataset import Dataset
from lakefmt.fragment.meta import Fragment
from lakefmt.storage import Bytes, MemoryStore, Range, Store
from lakefmt.storage.port import coalesce
from lakefmt.versioning.changes import Append
from lakefmt.versioning.log import Log, Transaction, version_key

_BIG = np.zeros(300, np.float32)
FEW, MANY = 3, 300
FRAGMENTS = 10_000
VERSION_NBYTES_MAX = 64 << 10


class Requests(Counting):
    """A place far away that counts round trips, and the bytes it gives."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.is_local = False
        self.nbytes = 0

    def call(self, name: str, key: str, fn: Callable[[], Any]) -> Any:
        if name not in ("writer", "write"):  # a small file that is streamed is one request, at its end
            self.calls.append(("put" if name in ("put_if_absent", "close") else name, key))
        return fn()

    def get(self, key: str) -> bytes:
        data: bytes = super().get(key)
        self.nbytes += len(data)
        return data

    def get_range(self, key: str, start: int, length: int) -> Bytes:
        data: Bytes = super().get_range(key, start, length)
        self.nbytes += len(data)
        return data

    def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
        self.calls += [("get", r.key) for r, _ in coalesce(ranges)]
        return self.inner.get_ranges(ranges)

    def map(self, key: str) -> memoryview | None:
        return None

    def asked(self, do: Callable[[], Any]) -> dict[str, int]:
        """What a call asks for."""
        self.calls, self.nbytes = [], 0
        do()
        return dict(Counter(_named(name, key) for name, key in self.calls))


_FOLDERS = {"_lakefmt.json": "claim", "refs": "ref", "meta": "leaf", "log": "version"}


def _named(name: str, key: str) -> str:
    folder = key.split("/")[0]
    what = "hint" if key.endswith("_hint") else _FOLDERS.get(folder, folder)
    return f"probe {what}" if name == "get_range" else f"{name} {what}"


def _of_versions(n: int) -> MemoryStore:
    store = memory()
    Log.create(store)
    ds = opened(Requests(store))
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("big", dtype="float32")
    for i in range(n):
        ds.append({"x": i, "big": _BIG})
        ds.commit(f"commit {i}")
    ds.tag("newest")
    return store


@pytest.fixture(scope="module")
def places() -> dict[int, MemoryStore]:
    """Datasets of few and of many versions, one fragment each."""
    return {n: _of_versions(n) for n in (FEW, MANY)}


def _appended(ds: Dataset, **row: Any) -> None:
    ds.append({"x": 7, **row}, skip_ok=True)


_HEAD = {"get claim": 1, "put version": 1, "put hint": 1}  # of every commit
_KEPT = {"probe version": 1, "get version": 1}  # no expiry has begun: is there a newer version, and what is its floor
_SEEN = {"get hint": 1, "get version": 2}  # of finding a head: the version hinted at and the next, which is not there


def _operations(store: Requests) -> Iterable[tuple[str, dict[str, int], dict[str, int]]]:
    """Name, what it asks for, and what it should ask for."""
    ds = opened(store)
    yield "open", store.asked(lambda: opened(store)), {"get claim": 1, "get ref": 1, **_SEEN}
    yield "open a tag", store.asked(lambda: Log.open(store).resolve("newest")), {"get claim": 1, "get ref": 2, "get version": 1}
    at = ds.version_id
    yield "open a version", store.asked(lambda: ds._log.resolve(at)), {"list ref": 1, "get ref": 1, "get version": 1}
    yield "refresh", store.asked(ds.refresh), {"probe version": 1, "get version": 1}
    _appended(ds)
    yield "flush small rows", store.asked(ds.flush), _HEAD
    _appended(ds)
    # the rows that lay in the version object, and the new one: a file each
    yield "commit small rows", store.asked(lambda: ds.commit("small")), {**_HEAD, "put data": 2}
    _appended(ds, big=_BIG)
    # a light file and a heavy one
    yield "commit an array", store.asked(lambda: ds.commit("array")), {**_HEAD, "put data": 2}
    yield "commit a name", store.asked(lambda: ds.commit("name", allow_empty=True)), _HEAD
    # is there a branch of that name; the tag; has an expiry begun; the tag again, as checked
    yield "tag", store.asked(lambda: ds.tag("here")), {"get ref": 1, "put ref": 2, **_KEPT}
    # is there a branch or a tag of that name; its version 0, its name; has an expiry begun
    yield "create a branch", store.asked(lambda: ds.create_branch("b")), {"get ref": 2, "put version": 1, "put ref": 1, **_KEPT}
    yield "checkout", store.asked(lambda: ds.checkout("main")), {"get ref": 1, **_SEEN}


def test_requests_of_each_operation_are_few_and_do_not_grow(places: dict[int, MemoryStore]) -> None:
    for n in (FEW, MANY):
        wrong = [f"{name}: {got} and not {right}" for name, got, right in _operations(Requests(copied(places[n]))) if got != right]
        assert not wrong, f"at {n} versions:\n" + "\n".join(wrong)


def test_a_handle_far_behind_probes_logarithmically(places: dict[int, MemoryStore]) -> None:
    store = Requests(copied(places[MANY]))
    ds = opened(store)
    for behind in (1, 10, 290):
        found = ds._log.read(ds._writer.version.head.branch, ds._writer.version.head.v - behind)
        asked = store.asked(lambda found=found: ds._log.head(found.head.branch, at_least=found.head.v))
        assert set(asked) == {"probe version", "get version"}
        assert asked["probe version"] <= 2 * math.log2(behind + 1) + 2, behind


def test_rows_deleted_in_31_fragments_are_one_file_and_one_version() -> None:
    store = Requests(copied(_of_versions(31)))
    ds = opened(store)
    assert len(ds._writer.snapshot.fragments) == 31
    assert store.asked(lambda: ds.pop(list(range(31)))) == {**_HEAD, "put dv": 1}
    assert len(ds) == 0


def test_a_first_delete_or_update_reads_each_leaf_once(places: dict[int, MemoryStore]) -> None:
    store = Requests(copied(places[MANY]))
    ds = opened(store)
    leaves = len(ds._writer.version.state.leaves)
    assert leaves == (MANY - 64 + 47) // 48
    assert store.asked(lambda: ds.pop([0, 100])) == {**_HEAD, "put dv": 1, "get leaf": leaves}
    assert store.asked(lambda: ds.pop([0, 100])) == {**_HEAD, "put dv": 1}
    ds.x[5] = 50
    assert store.asked(ds.flush) == {**_HEAD, "put overlays": 1}
    again = opened(store)
    again.x[9] = 90
    assert store.asked(again.flush) == {**_HEAD, "put overlays": 1, "get leaf": leaves}


def test_a_hundred_commits_write_one_leaf_and_list_nothing() -> None:
    store = Requests(copied(_of_versions(FEW)))
    ds = opened(store)

    def commits() -> None:
        for _ in range(100):
            ds.append({"x": 1, "big": _BIG})
            ds.commit("again")

    assert store.asked(commits) == {"get claim": 100, "put version": 100, "put hint": 100, "put data": 200, "put leaf": 1}


def test_a_hundred_flushes_write_three_files() -> None:
    store = Requests(copied(_of_versions(FEW)))
    ds = opened(store)

    def flushes() -> None:
        for _ in range(100):
            _appended(ds)
            ds.flush()

    assert store.asked(flushes) == {"get claim": 100, "put version": 100, "put hint": 100, "put data": 3}


# -- bytes ---------------------------------------------------------------------------------------------------------------


def _renamed(fragment: Fragment, rng: random.Random) -> Fragment:
    """The same rows under names of their own, as if written for themselves."""

    def digits(n: int) -> str:
        return f"{rng.getrandbits(4 * n):0{n}x}"

    files = tuple(
        msgspec.structs.replace(f, key=f"data/{digits(2)}/{digits(32)}.parquet", xxh64=digits(16), index_xxh64=digits(16))
        for f in fragment.files
    )
    return msgspec.structs.replace(fragment, id=digits(32), files=files)


@pytest.fixture(scope="module")
def large() -> MemoryStore:
    """A dataset of 10,000 fragments, in leaves as commits of one fragment leave them."""
    store = _of_versions(1)
    log, rng = Log.open(store), random.Random(0)
    head = log.head(log.claim.dataset)
    (fragment,) = head.state.fragments
    for start in range(1, FRAGMENTS, 48):
        fresh = [_renamed(fragment, rng) for _ in range(min(48, FRAGMENTS - start))]
        head = log.commit(head, Transaction(lambda version, fresh=fresh: [Append(f) for f in fresh]))
    return store


def _newest_nbytes(store: Store) -> int:
    log = Log.open(store)
    return len(store.get(version_key(log.claim.dataset, log.head(log.claim.dataset).head.v)))


def test_the_version_object_of_ten_thousand_fragments_is_small(large: MemoryStore) -> None:
    store = Requests(copied(large))
    ds = opened(store)
    assert len(ds._writer.snapshot.fragments) == len(ds) == FRAGMENTS
    assert _newest_nbytes(store) < VERSION_NBYTES_MAX
    ds.pop(list(range(0, FRAGMENTS - 100, 40)))  # 248 fragments of leaves have a newer form now, as many as a version may carry
    assert len(ds._writer.version.state.overrides) > 240
    assert _newest_nbytes(store) < VERSION_NBYTES_MAX


def test_opening_the_newest_version_takes_three_requests_and_few_bytes(large: MemoryStore) -> None:
    store = Requests(copied(large))
    ds = opened(store)
    ds.commit("so that there is a hint")
    asked = store.asked(lambda: opened(store))
    assert asked == {"get claim": 1, "get ref": 1, **_SEEN}
    assert store.nbytes < VERSION_NBYTES_MAX
    ds.pop(list(range(0, FRAGMENTS - 100, 40)))
    assert store.asked(lambda: opened(store)) == asked
    assert store.nbytes < VERSION_NBYTES_MAX


def test_a_version_object_stays_bounded_while_rows_are_flushed_into_it() -> None:
    """Rows that do not compress: 8 KiB a flush, at most 32 flushes and 128 KiB (and one flush) before they get a file."""
    store = Requests(copied(_of_versions(FEW)))
    ds = opened(store)
    ds.create_tensor("text", htype="text")
    sizes = []
    for i in range(40):
        ds.append({"x": i, "text": random.Random(i).randbytes(500).hex()}, skip_ok=True)
        ds.flush()
        sizes.append(_newest_nbytes(store))
    assert max(sizes) < VERSION_NBYTES_MAX
    assert max(sizes) > 8 << 10
    assert min(sizes[30:]) < max(sizes) / 2, "they were folded"
