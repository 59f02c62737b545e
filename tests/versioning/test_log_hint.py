"""The hint is advisory: missing, damaged, stale or lying, the newest version is opened."""

from __future__ import annotations

import pytest
from faulty_stores import Counting, memory, opened, values

from lakefmt.storage import MemoryStore
from lakefmt.versioning.log import Log


@pytest.fixture(scope="module")
def base() -> MemoryStore:
    """Six versions."""
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    for i in range(4):
        ds.append({"x": i})
        ds.flush()
    return store


def _hint(store: MemoryStore) -> str:
    return f"log/{Log.open(store).claim.dataset}/_hint"


@pytest.mark.parametrize(
    "hint",
    [
        b'{"v": 0}', b'{"v": 3, "floor": 0}', b'{"v": 5, "floor": 0}', b'{"v": 6}', b'{"v": 9}', b'{"v": 1000000}',
        b'{"v": -3}',
        b'{"v": 1e300}', b'{"v": 3.5}', b'{"v": true}', b'{"v": "3"}', b'{"v": null}', b"{}", b"[]", b"7", b"null", b"", b"{",
        b"\xff\xfe",
        b'{"v": 99999999999999999999999999}', b'"v"', b"[" * 100_000,
    ],
    ids=lambda h: repr(h[:40]),
)  # fmt: skip
def test_whatever_it_says(base: MemoryStore, hint: bytes) -> None:
    base.put(_hint(base), hint)
    ds = opened(base)
    assert values(ds) == [0, 1, 2, 3]
    assert ds.version_id.endswith("-5")


def test_missing(base: MemoryStore) -> None:
    base.delete([_hint(base)])
    assert values(opened(base)) == [0, 1, 2, 3]


def test_a_good_hint_costs_three_reads_and_no_listing(base: MemoryStore) -> None:
    base.put(_hint(base), b'{"v": 5, "floor": 0}')
    store = Counting(base)
    log = Log.open(store)
    store.calls.clear()
    assert log.head(log.claim.dataset).head.v == 5
    assert sorted(name for name, _ in store.calls) == ["get"] * 3


def test_refresh_looks_from_where_the_handle_stands(base: MemoryStore) -> None:
    ds, other = opened(base), opened(base)
    other.append({"x": 4})
    other.flush()
    base.put(_hint(base), b'{"v": 0}')
    ds.refresh()
    assert values(ds)[-1] == 4
    assert values(opened(base))[-1] == 4
    other.pop()


def test_a_commit_does_not_fail_when_the_hint_cannot_be_written() -> None:
    from faulty_stores import Wrapped

    from lakefmt.errors import StoreError
    from lakefmt.storage import Bytes

    class NoHints(Wrapped):
        def put(self, key: str, data: Bytes) -> None:
            if key.endswith("_hint"):
                raise StoreError(5, "no")
            self.inner.put(key, data)

    inner = memory()
    Log.create(NoHints(inner))
    ds = opened(NoHints(inner))
    ds.create_tensor("x", dtype="int64")
    ds.append({"x": 1})
    ds.commit("one")
    assert values(opened(inner)) == [1]
