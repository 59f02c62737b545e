"""A process that dies, or is told of an error, at any storage call of any operation leaves the rows before it or after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from faulty_stores import Counting, Crash, Crashing, Failing, abandon, copied, memory, opened

from lakefmt.dataset import Dataset
from lakefmt.errors import LakeError
from lakefmt.storage import MemoryStore, Store
from lakefmt.versioning import log as log_module
from lakefmt.versioning.log import Log

_BIG = np.arange(3 * 300, dtype=np.float32).reshape(3, 300)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module.time, "sleep", lambda _: None)


def _base() -> MemoryStore:
    """A dataset with light, heavy and text tensors."""
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("big", dtype="float32")
    ds.create_tensor("text", htype="text")
    ds.extend({"x": [1, 2, 3], "big": _BIG, "text": ["a", "b", "c"]})
    ds.commit("base")
    return store


def _rows(ds: Dataset) -> Any:
    """Everything in it, as plain values."""
    return {n: [None if v is None else v.tolist() for v in t.numpy(aslist=True)] for n, t in ds.tensors.items()}


@dataclass(frozen=True)
class Op:
    """An operation, and the rest of its steps, on an open dataset."""

    name: str
    do: Callable[[Dataset], Any]


def _append(ds: Dataset) -> None:
    ds.append({"x": 4, "big": _BIG[0] + 9, "text": "d" * 3000})
    ds.commit("appended")


def _update(ds: Dataset) -> None:
    ds.x[1] = 20
    ds.big[0] = _BIG[2]
    ds.commit("updated")


def _create_tensor(ds: Dataset) -> None:
    ds.create_tensor("y", dtype="int16")


OPS = [Op("append", _append), Op("update", _update), Op("pop", lambda ds: ds.pop([0, 2])), Op("create_tensor", _create_tensor)]
_IDS = [op.name for op in OPS]


@pytest.fixture(scope="module")
def base() -> MemoryStore:
    """Copied for each crash."""
    return _base()


def _after(base: MemoryStore, op: Op) -> tuple[Any, int]:
    """Rows after the operation, and the storage calls it takes, opening included."""
    store = Counting(copied(base))
    ds = opened(store)
    op.do(ds)
    return _rows(opened(store.inner)), len(store.calls)


def _dense(store: Store) -> bool:
    numbers = sorted(int(e.key[-25:-5]) for e in store.list("log/") if e.key.endswith(".json"))
    return numbers == list(range(len(numbers)))


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("op", OPS, ids=_IDS)
def test_crash(base: MemoryStore, op: Op, applied: bool) -> None:
    before = _rows(opened(base))
    after, calls = _after(base, op)
    assert before != after
    outcomes = []
    for at in range(calls):
        inner = copied(base)
        store = Crashing(inner, at, applied=applied)
        ds = None
        with pytest.raises(Crash):  # noqa: PT012
            ds = opened(store)
            op.do(ds)
        if ds is not None:
            abandon(ds)
        assert _dense(inner)
        found = _rows(opened(inner))
        assert found in (before, after), f"call {at} of {calls}"
        outcomes.append(found == after)
        if found == before:  # the process comes back and does it again
            op.do(opened(inner))
        assert _rows(opened(inner)) == after
    assert outcomes == sorted(outcomes), "once it has landed, it has landed"
    assert not outcomes[0]


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
def test_crash_while_creating(applied: bool) -> None:
    counting = Counting(memory())
    Log.create(counting)
    opened(counting)
    assert len(counting.calls) > 5
    for at in range(len(counting.calls)):
        inner = memory()
        store = Crashing(inner, at, applied=applied)
        with pytest.raises(Crash):  # noqa: PT012
            Log.create(store)
            opened(store)
        Log.create(inner)
        ds = opened(inner)
        assert (len(ds), ds.branches, list(ds.tensors), ds.version_id.endswith("-0")) == (0, ["main"], [], True)
        _create_tensor(ds)
        assert list(opened(inner).tensors) == ["y"]


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
def test_a_dataset_whose_creator_died_can_be_opened(applied: bool) -> None:
    counting = Counting(memory())
    Log.create(counting)
    claimed = 0
    for at in range(len(counting.calls)):
        inner = memory()
        with pytest.raises(Crash):
            Log.create(Crashing(inner, at, applied=applied))
        if Log.exists(inner):
            claimed += 1
            assert len(opened(inner)) == 0
    assert claimed >= 3


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("op", OPS, ids=_IDS)
def test_an_error_reported_once(base: MemoryStore, op: Op, applied: bool) -> None:
    """The handle lives on: the caller may try again, and the operation is then done once."""
    after, _ = _after(base, op)
    probe = Failing(copied(base), -1, applied=False)
    op.do(opened(probe))
    for at in range(probe.seen):
        inner = copied(base)
        ds = opened(Failing(inner, at, applied=applied))
        try:
            op.do(ds)
        except LakeError:
            found = _rows(opened(inner))
            assert found != after, f"call {at}: an error was raised though the operation landed"
            if op.name in ("append", "update"):
                ds.commit("once more")  # the rows are still buffered
            else:
                op.do(ds)
        assert _rows(opened(inner)) == after, f"call {at} of {probe.seen}"
        assert _rows(ds) == after


def test_requests_of_an_append_do_not_grow_with_the_log(base: MemoryStore) -> None:
    store = Counting(copied(base))
    ds = opened(store)
    counts = []
    for i in range(6):
        store.calls.clear()
        ds.append({"x": i, "big": _BIG[0], "text": "t"})
        ds.flush()
        counts.append(len([key for _, key in store.calls if not key.endswith("_hint")]))  # the hint is not written every time
    assert len(set(counts)) == 1
    names = [name for name, _ in store.calls]
    assert names.count("put_if_absent") == 1
    assert "list" not in names
