"""Every pair of operations by two handles: the second fails as the table says, or the result is that of one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from faulty_stores import abandon, copied, memory, opened

from lakefmt.dataset import Dataset
from lakefmt.errors import AlreadyExists, Conflict, NoSuchTensor, NoSuchVersion
from lakefmt.storage import MemoryStore
from lakefmt.versioning import log as log_module
from lakefmt.versioning.conflicts import TABLE
from lakefmt.versioning.log import Log
from lakefmt.versioning.names import delete_branch
from lakefmt.versioning.records import Operation

O = Operation  # noqa: E741


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module.time, "sleep", lambda _: None)


def _base() -> MemoryStore:
    """A branch ``dev`` with two fragments, one with a deletion and an update, and a tensor that has no samples yet."""
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int32")
    ds.create_tensor("c", htype="class_label")
    ds.create_tensor("late", dtype="int64")
    ds.append({"x": 0, "c": "zero"}, skip_ok=True)
    ds.commit("start")
    ds.extend({"x": np.arange(1, 6), "c": ["one"] * 5}, skip_ok=True)
    ds.commit("more")
    ds.extend({"x": np.arange(6, 10), "c": ["two"] * 4}, skip_ok=True)
    ds.x[2] = 22
    ds.commit("all")
    ds.pop(4)
    ds.checkout("dev", create=True)
    return store


@dataclass(frozen=True)
class Op:
    """An operation on a handle; it chooses its rows by what they hold, so that it means the same wherever they lie."""

    operation: Operation
    name: str
    do: Callable[[Dataset], Any]


def _rows(ds: Dataset, *values: int) -> list[int]:
    return [i for i, v in enumerate(ds.x.numpy().tolist()) if v in values] if "x" in ds.tensors else []


def _label(ds: Dataset) -> str:
    """The label tensor, which may have been renamed."""
    return "c" if "c" in ds.tensors else "label"


def _pop(ds: Dataset) -> None:
    ds.pop(_rows(ds, 3, 7))


def _update(ds: Dataset) -> None:
    rows = _rows(ds, 3, 8)
    ds[_label(ds)][rows] = ["zero"] * len(rows)
    ds.flush()


def _update_other(ds: Dataset) -> None:
    rows = _rows(ds, 5, 6)
    ds[_label(ds)][rows] = ["two"] * len(rows)
    ds.flush()


def _append(ds: Dataset) -> None:
    ds.append({"x": 100, _label(ds): "one"}, skip_ok=True)
    ds.flush()


def _fill(ds: Dataset) -> None:
    ds.late.extend([v * 10 for v in ds.x.numpy().tolist() if v < 100])
    ds.flush()


def _restore(ds: Dataset) -> None:
    ds.restore(next(c["commit"] for c in ds.commits if c["message"] == "more"))


def _seal(ds: Dataset) -> None:
    delete_branch(ds._log, "dev")


def _info(ds: Dataset) -> None:
    ds.info["key"] = "value"


OPS = [
    Op(O.APPEND, "append", _append),
    Op(O.DELETE, "pop", _pop),
    Op(O.UPDATE, "update", _update),
    Op(O.UPDATE, "update other rows", _update_other),
    Op(O.ADD_TENSOR, "create", lambda ds: ds.create_tensor("new", dtype="int8")),
    Op(O.WRITE_COLUMN, "fill", _fill),
    Op(O.COMPACT, "compact", lambda ds: ds.compact()),
    Op(O.EDIT_SCHEMA, "rename", lambda ds: ds.rename_tensor("c", "label")),
    Op(O.EDIT_SCHEMA, "widen", lambda ds: ds.alter_tensor("x", dtype="int64")),
    Op(O.EDIT_SCHEMA, "drop", lambda ds: ds.delete_tensor("c")),
    Op(O.EDIT_SCHEMA, "classes", lambda ds: ds[_label(ds)].add_class_names("fresh")),
    Op(O.OVERWRITE, "restore", _restore),
    Op(O.CONFIG, "info", _info),
    Op(O.NAME, "name", lambda ds: ds.commit("named", allow_empty=True)),
    Op(O.SEAL, "delete branch", _seal),
]
_PAIRS = [(mine, theirs) for mine in OPS for theirs in OPS]


def _contents(ds: Dataset) -> Any:
    """Samples by name (labels by their text), and what is known of the tensors."""
    rows: dict[str, Any] = {}
    for name, tensor in ds.tensors.items():
        values = [None if v is None else v.tolist() for v in tensor.numpy(aslist=True)]
        rows[name] = [None if v is None else tensor.class_names[v] for v in values] if tensor.class_names else values
    return rows, {n: (t.htype, str(t.dtype)) for n, t in ds.tensors.items()}, dict(ds.info)


@pytest.fixture(scope="module")
def base() -> MemoryStore:
    """Copied for each pair."""
    return _base()


def test_every_cell_of_the_table_is_exercised() -> None:
    assert {op.operation for op in OPS} == set(TABLE)


@pytest.mark.parametrize(("mine", "theirs"), _PAIRS, ids=[f"{a.name} after {b.name}" for a, b in _PAIRS])
def test_a_pair_is_one_after_the_other_or_fails_by_the_table(base: MemoryStore, mine: Op, theirs: Op) -> None:
    store = copied(base)
    late = opened(store, branch="dev")  # opened before the other commits
    theirs.do(opened(store, branch="dev"))
    rule = TABLE[mine.operation][theirs.operation]
    before = None if theirs.operation is O.SEAL else _contents(opened(store, branch="dev"))
    versions = len(Log.open(store).numbers(late._branch.uuid))  # type: ignore[union-attr]
    failed: Exception | None = None
    try:
        mine.do(late)
    except (Conflict, AlreadyExists, NoSuchVersion) as error:
        failed = error
    if failed is not None:
        abandon(late)
        assert "fail" in rule or "leave out" in rule, f"{rule!r} does not allow {failed!r}"
        assert len(Log.open(store).numbers(late._branch.uuid)) == versions  # type: ignore[union-attr]
        if before is not None:
            assert _contents(opened(store, branch="dev")) == before, "a transaction that failed has left something"
        return
    if O.SEAL in (mine.operation, theirs.operation):
        with pytest.raises(NoSuchVersion):
            opened(store, branch="dev")
        return
    looks_itself = mine.operation is O.COMPACT  # compact() leaves out whatever others have touched, a restore too
    assert rule != "fail" or looks_itself, f"the table says that {mine.name} fails"
    in_turn = copied(base)
    theirs.do(opened(in_turn, branch="dev"))
    after = opened(in_turn, branch="dev")
    try:
        mine.do(after)
    except (NoSuchTensor, AlreadyExists):
        pytest.fail(f"{mine.name} cannot be done after {theirs.name}, but landed beside it")
    found = opened(store, branch="dev")
    assert _contents(found) == _contents(after)
    assert _contents(late) == _contents(found), "the handle shows what is stored"
    assert found.fsck(full=True)
