"""One commit, once: whatever the store says or keeps to itself, and whoever committed meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from faulty_stores import Forgetful, Wrapped, abandon, memory, opened, values

from lakefmt.errors import AlreadyExists, CommitStateUnknown, Conflict, StoreError
from lakefmt.storage import Bytes, MemoryStore
from lakefmt.versioning import log as log_module
from lakefmt.versioning.log import Log


@pytest.fixture
def base() -> MemoryStore:
    """A dataset with a tensor and two rows."""
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [1, 2]})
    ds.flush()
    return store


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module.time, "sleep", lambda _: None)


def _versions(store: MemoryStore) -> int:
    return sum(e.key.endswith(".json") for e in store.list("log/"))


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("how", ["applied, error", "applied, says no", "error", "says no"])
def test_lost_acknowledgements(base: MemoryStore, how: str, times: int) -> None:
    before = _versions(base)
    ds = opened(Forgetful(base, how, times))
    ds.append({"x": 3})
    ds.commit("third")
    assert _versions(base) == before + 1
    assert values(ds) == values(opened(base)) == [1, 2, 3]
    ds.append({"x": 4})
    ds.commit("fourth")
    assert [h.message for h in opened(base).history() if h.named] == ["fourth", "third"]
    assert values(opened(base)) == [1, 2, 3, 4]


@pytest.mark.parametrize("how", ["applied, error", "applied, says no", "error"])
def test_lost_acknowledgements_while_creating(how: str) -> None:
    inner = memory()
    Log.create(Forgetful(inner, how, 2))
    assert [h.v for h in opened(inner).history()] == [0]


class Mute(Wrapped):
    """From now on every put_if_absent of the log is cut, applied or not, and so is every look at the slot."""

    def __init__(self, inner: MemoryStore, *, applied: bool) -> None:
        super().__init__(inner)
        self.applied, self.mute = applied, False

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        if not self.mute or not key.startswith("log/"):
            return self.inner.put_if_absent(key, data)
        if self.applied:
            self.inner.put_if_absent(key, data)
        raise StoreError(5, "cut")

    def get(self, key: str) -> bytes:
        if self.mute and key.startswith("log/"):
            raise StoreError(5, "cut")
        return self.inner.get(key)


@pytest.mark.parametrize("applied", [False, True])
def test_a_store_that_never_tells(base: MemoryStore, applied: bool) -> None:
    store = Mute(base, applied=applied)
    ds = opened(store)
    ds.append({"x": 3})
    store.mute = True
    with pytest.raises(CommitStateUnknown, match=r"does not tell.*look for transaction") as caught:
        ds.commit("third")
    store.mute = False
    landed = any(h.transaction == caught.value.transaction for h in opened(base).history())
    assert landed is applied, "the transaction of the error is how one finds out"
    abandon(ds)


@pytest.mark.parametrize("applied", [False, True])
def test_trying_again_after_not_being_told_stores_the_rows_once(base: MemoryStore, applied: bool) -> None:
    store = Mute(base, applied=applied)
    ds = opened(store)
    ds.append({"x": 3})
    store.mute = True
    with pytest.raises(CommitStateUnknown):
        ds.commit("third")
    store.mute = False
    ds.commit("third, again")
    assert values(ds) == values(opened(base)) == [1, 2, 3]


# -- others committed meanwhile ------------------------------------------------------------------------------------------


def _two(base: MemoryStore) -> tuple[Any, Any]:
    return opened(base), opened(base)


def test_appends_commute(base: MemoryStore) -> None:
    a, b = _two(base)
    a.append({"x": 10})
    b.append({"x": 20})
    b.flush()
    a.flush()
    assert values(opened(base)) == values(a) == [1, 2, 20, 10]
    assert len(set(opened(base)[:].row_ids.tolist())) == 4


def test_append_and_pop_commute(base: MemoryStore) -> None:
    a, b = _two(base)
    a.append({"x": 10})
    b.pop(0)
    a.flush()
    assert values(opened(base)) == [2, 10]


def test_deletions_join(base: MemoryStore) -> None:
    a, b = _two(base)
    a.pop(0)
    b.pop([0, 1])
    assert values(opened(base)) == values(b) == []


def test_updates_of_different_rows_both_land(base: MemoryStore) -> None:
    a, b = _two(base)
    a.x[0] = 100
    b.x[1] = 200
    a.flush()
    b.flush()
    assert values(opened(base)) == [100, 200]


def test_the_later_update_of_a_row_wins(base: MemoryStore) -> None:
    a, b = _two(base)
    a.x[0] = 100
    b.x[0] = 200
    a.flush()
    b.flush()
    assert values(opened(base)) == values(b) == [200, 2]


def test_updating_a_row_that_another_deleted_brings_nothing_back(base: MemoryStore) -> None:
    a, b = _two(base)
    a.x[0] = 100
    b.pop(0)
    a.flush()
    assert values(opened(base)) == values(a) == [2]


def test_updates_reach_the_rows_meant_when_others_deleted_before_them(base: MemoryStore) -> None:
    a, b = _two(base)
    a.x[1] = 200
    b.pop(0)
    a.flush()
    assert values(opened(base)) == [200]


def test_pops_reach_the_rows_meant_when_others_deleted_before_them(base: MemoryStore) -> None:
    a, b = _two(base)
    b.pop(0)
    a.pop(1)  # the row that was second when this handle looked
    assert values(opened(base)) == []


def test_the_same_tensor_made_twice_fails(base: MemoryStore) -> None:
    a, b = _two(base)
    b.create_tensor("y", dtype="int64")
    with pytest.raises(Conflict, match="Nothing of this was committed"):
        a.create_tensor("y", dtype="float32")
    a.refresh()
    with pytest.raises(AlreadyExists):
        a.create_tensor("y", dtype="float32")
    assert opened(base).y.dtype == "int64"


def test_different_tensors_made_at_once(base: MemoryStore) -> None:
    a, b = _two(base)
    a.create_tensor("y", dtype="int64")
    b.create_tensor("z", dtype="int64")
    assert list(opened(base).tensors) == ["x", "y", "z"]


def test_filling_the_same_column_twice_is_a_conflict(base: MemoryStore) -> None:
    first = opened(base)
    first.create_tensor("y", dtype="int64")
    a, b = _two(base)
    a.y.extend([10, 20])
    b.y.extend([30, 40])
    a.flush()
    with pytest.raises(Conflict):
        b.flush()
    b.discard()
    assert values(opened(base), "y") == [10, 20], "the first is kept, and the second is told"
    assert values(opened(base)) == [1, 2]
    assert len(opened(base)) == 2


def test_info_set_twice_fails(base: MemoryStore) -> None:
    a, b = _two(base)
    a.info["k"] = 1
    with pytest.raises(Conflict, match="refresh"):
        b.info["k"] = 2
    assert opened(base).info["k"] == 1
    b.refresh()
    b.info["l"] = 3
    assert dict(opened(base).info) == {"k": 1, "l": 3}


def test_a_conflict_keeps_what_was_buffered(base: MemoryStore) -> None:
    store = memory()
    Log.create(store)
    opened(store).create_tensor("x")  # the first sample decides the dtype
    a, b = _two(store)
    a.append({"x": 1.5})
    b.append({"x": 7})
    b.flush()
    with pytest.raises(Conflict, match=r"int64.*float64|float64.*int64"):
        a.flush()
    assert values(opened(store)) == [7]
    assert len(a) >= 1, "the buffered row is still the caller's to save"
    abandon(a)


def test_two_handles_that_agree_on_the_dtype(base: MemoryStore) -> None:
    store = memory()
    Log.create(store)
    opened(store).create_tensor("x")
    a, b = _two(store)
    a.append({"x": 1.5})
    b.append({"x": 2.5})
    b.flush()
    a.flush()
    assert values(opened(store)) == [2.5, 1.5]


def test_an_old_transaction_refuses_to_commit(base: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "TRANSACTION_AGE_MAX_S", -1)
    ds = opened(base)
    ds.append({"x": 3})
    before = _versions(base)
    with pytest.raises(Conflict, match="older than"):
        ds.flush()
    assert _versions(base) == before
    abandon(ds)
