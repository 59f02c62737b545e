"""An append or extend that fails leaves no trace, in the handle and in storage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import contents, unchanged, values

import lakefmt
from lakefmt.errors import DtypeError, LakeError, ShapeError, UnequalLengths, UnknownClass


@pytest.fixture(params=["empty", "stored", "buffered", "both"])
def ds(request: Any, mem_url: str) -> Any:
    """A dataset with rows stored, buffered, both or none."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("v", dtype="float32", shape=(2,))
    ds.create_tensor("c", htype="class_label")
    ds.create_tensor("closed", htype="class_label", class_names=["a"])
    if request.param in ("stored", "both"):
        ds.extend({"x": [1], "v": [[1, 2]], "c": ["one"], "closed": ["a"]})
        ds.flush()
    if request.param in ("buffered", "both"):
        ds.append({"x": 2, "v": [3, 4], "c": "two", "closed": 0})
    return ds


_GOOD = {"x": 5, "v": [5.0, 6.0], "c": "new name", "closed": "a"}
_BAD: list[tuple[dict[str, Any], type[LakeError]]] = [
    ({"x": 1.5}, DtypeError), ({"x": "five"}, DtypeError), ({"x": 2**70}, DtypeError), ({"v": [1, 2, 3]}, ShapeError),
    ({"v": [[1, 2], [3]]}, ShapeError), ({"c": 1.5}, DtypeError), ({"closed": "b"}, UnknownClass), ({"closed": 7}, UnknownClass),
    ({"c": -1}, UnknownClass),
]  # fmt: skip
_IDS = [str(b) for b, _ in _BAD]


@pytest.mark.parametrize(("bad", "kind"), _BAD, ids=_IDS)
def test_append(ds: Any, bad: dict[str, Any], kind: type[LakeError]) -> None:
    for order in (list(_GOOD), list(reversed(_GOOD))):
        with unchanged(ds), pytest.raises(kind):
            ds.append({n: {**_GOOD, **bad}[n] for n in order})
    _still_works(ds)


@pytest.mark.parametrize("position", [0, 1, 700])
@pytest.mark.parametrize(("bad", "kind"), _BAD, ids=_IDS)
def test_extend(ds: Any, bad: dict[str, Any], kind: type[LakeError], position: int) -> None:
    columns = {n: [v] * (position + 2) for n, v in _GOOD.items()}
    for name, value in bad.items():
        columns[name] = [*columns[name]]
        columns[name][position] = value
    with unchanged(ds), pytest.raises(kind):
        ds.extend(columns)
    _still_works(ds)


def test_extend_with_whole_arrays(ds: Any) -> None:
    good = {"x": np.arange(3), "v": np.zeros((3, 2), "f4"), "c": ["p", "q", "r"], "closed": [0, 0, 0]}
    for bad in ({"x": np.arange(3.0)}, {"v": np.zeros((3, 3), "f4")}, {"closed": np.array([0, 0, 5])}, {"x": np.arange(3) + 0j}):
        with unchanged(ds), pytest.raises(LakeError):
            ds.extend({**good, **bad})
    with unchanged(ds), pytest.raises(UnequalLengths):
        ds.extend({**good, "x": np.arange(4)})
    _still_works(ds)


def test_one_tensor(ds: Any) -> None:
    with unchanged(ds), pytest.raises(ShapeError):
        ds.v.extend([[1, 2], [1, 2, 3]])
    with unchanged(ds), pytest.raises(DtypeError):
        ds.x.append("word")
    _still_works(ds)


def test_update(ds: Any) -> None:
    ds.append(_GOOD)
    for name, value, kind in (("x", 1.5, DtypeError), ("v", [1, 2, 3], ShapeError), ("closed", "b", UnknownClass)):
        with unchanged(ds), pytest.raises(kind):
            ds[name][0] = value
    with unchanged(ds), pytest.raises(LakeError):
        ds.x[[0, 0]] = [1, "two"]


def test_large_extend_that_fails_after_a_fragment(mem_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakefmt.writer.FRAGMENT_NBYTES", 20_000)
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("v", dtype="int64")
    ds.extend({"v": [np.arange(100)] * 3})
    ds.flush()
    with unchanged(ds), pytest.raises(DtypeError, match="row 1502"):
        ds.extend({"v": [*[np.arange(100)] * 1499, "bad"]})
    ds.extend({"v": [np.arange(100)] * 30})
    ds.flush()
    assert len(lakefmt.load(mem_url)) == 33


def _still_works(ds: Any) -> None:
    rows, before = len(ds), contents(ds)["x"]
    ds.append(_GOOD)
    ds.flush()
    assert len(ds) == rows + 1
    assert values(ds) == [*before, 5]
    again = lakefmt.load(ds.path)
    assert contents(again) == contents(ds)
    assert again.c.data()["text"][-1] == "new name"
