"""Indexing rows, tensors and inside samples, as NumPy would, for stored and for buffered rows alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import values
from hypothesis import given
from hypothesis import strategies as st

import lakefmt
from lakefmt.errors import NoSuchTensor, RowIndexError, ShapeError

_N = 7
_X = np.arange(10, 10 + _N)
_V = np.arange(_N * 12, dtype=np.float32).reshape(_N, 3, 4)


def _make(where: str) -> Any:
    ds = lakefmt.dataset(f"mem://index-{where}", overwrite=True)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("v", dtype="float32")
    ds.create_tensor("t", htype="text")
    ds.create_tensor("r", dtype="int64")
    for i in range(_N):
        ds.append({"x": _X[i], "v": _V[i], "t": f"text {i}", "r": np.arange(i)})
        if where == "fragments" or (where == "half" and i == 3):
            ds.flush()
    if where == "stored":
        ds.flush()
    return ds


_WHERE = ["stored", "buffered", "half", "fragments"]
_SETS: dict[str, Any] = {}


def _ds(where: str) -> Any:
    if where not in _SETS:
        _SETS[where] = _make(where)
    return _SETS[where]


_INDEX = st.one_of(
    st.slices(_N),
    st.slices(3 * _N),
    st.lists(st.integers(-_N, _N - 1), max_size=9),
    st.lists(st.integers(-_N, _N - 1), max_size=9).map(lambda x: np.array(x, np.int64)),
    st.lists(st.booleans(), min_size=_N, max_size=_N),
    st.lists(st.booleans(), min_size=_N, max_size=_N).map(np.array),
)


def _expected(array: Any, index: Any) -> Any:
    return array[np.asarray(index, dtype=int if len(index) == 0 else None) if isinstance(index, list) else index]


@pytest.mark.parametrize("where", _WHERE)
@given(index=_INDEX)
def test_rows(where: str, index: Any) -> None:
    ds = _ds(where)
    expected = _expected(_X, index)
    assert ds[index].x.numpy().tolist() == expected.tolist()
    assert ds.x[index].numpy().tolist() == expected.tolist()
    assert len(ds[index]) == len(ds.x[index]) == len(expected)
    assert np.array_equal(ds.v[index].numpy(), _expected(_V, index)) or len(expected) == 0
    assert ds[index].t.text() == [f"text {x - 10}" for x in expected]
    assert [len(v) for v in ds[index].r.numpy(aslist=True)] == (expected - 10).tolist()


@pytest.mark.parametrize("where", _WHERE)
@given(row=st.integers(-_N, _N - 1))
def test_single_rows(where: str, row: int) -> None:
    ds = _ds(where)
    for picked in (ds[row].x, ds.x[row], ds[np.int32(row)].x):
        assert picked.numpy() == _X[row]
        assert picked.numpy().shape == ()
        assert picked.shape == ()
    assert ds[row].v.shape == (3, 4)
    assert ds.t[row].text() == f"text {row % _N}"
    assert ds[row].t.data() == {"value": f"text {row % _N}"}
    assert ds.x[row].tobytes() == _X[row].tobytes()
    assert ds.t[row].tobytes() == f"text {row % _N}".encode()


@pytest.mark.parametrize("where", _WHERE)
@given(outer=st.slices(_N), inner=st.slices(_N))
def test_views_of_views(where: str, outer: slice, inner: slice) -> None:
    ds = _ds(where)
    assert ds[outer][inner].x.numpy().tolist() == _X[outer][inner].tolist()
    assert ds[outer].x[inner].numpy().tolist() == _X[outer][inner].tolist()
    assert ds[outer][inner].sample_indices.tolist() == (_X[outer][inner] - 10).tolist()


@pytest.mark.parametrize("where", _WHERE)
def test_inside_samples(where: str) -> None:
    ds = _ds(where)
    assert np.array_equal(ds.v[2][1].numpy(), _V[2][1])
    assert np.array_equal(ds.v[2][:, 1:3].numpy(), _V[2][:, 1:3])
    assert np.array_equal(ds.v[2, :2].numpy(), _V[2, :2])
    assert np.array_equal(ds.v[1:4, 0].numpy(), _V[1:4, 0])
    assert np.array_equal(ds.v[-1][..., 0].numpy(), _V[-1][..., 0])
    assert ds.v[2][:, 1:3].shape == (3, 2)
    assert ds.v[2][1][2].numpy() == _V[2][1][2]


@pytest.mark.parametrize("where", _WHERE)
def test_iteration(where: str) -> None:
    ds = _ds(where)
    assert [int(row.x.numpy()) for row in ds] == _X.tolist()
    assert [int(sample.numpy()) for sample in ds.x] == _X.tolist()
    assert [str(row.t.text()) for row in ds[2:4]] == ["text 2", "text 3"]


@pytest.mark.parametrize("where", _WHERE)
def test_shapes_and_dtypes(where: str) -> None:
    ds = _ds(where)
    assert ds.x.shape == (_N,)
    assert ds.v.shape == (_N, 3, 4)
    assert ds.r.shape == (_N, None)
    assert ds.r.is_dynamic
    assert not ds.v.is_dynamic
    assert ds.r.shapes().tolist() == [[i] for i in range(_N)]
    assert ds.v.dtype == np.float32
    assert ds.t.dtype == np.dtype(str)
    assert ds.v[1:3].shape == (2, 3, 4)
    assert ds.v.ndim == 3
    assert ds.v[0].ndim == 2
    assert ds.x.num_samples == len(ds.x) == _N


@pytest.mark.parametrize("where", _WHERE)
def test_samples_of_differing_shapes_are_no_array(where: str) -> None:
    ds = _ds(where)
    with pytest.raises(ShapeError, match="aslist=True"):
        ds.r.numpy()
    assert [v.tolist() for v in ds.r.numpy(aslist=True)] == [list(range(i)) for i in range(_N)]
    assert ds.r.list() == [list(range(i)) for i in range(_N)]


@pytest.mark.parametrize("where", _WHERE)
@pytest.mark.parametrize(
    "bad",
    [_N, -_N - 1, [0, _N], [-_N - 1], np.array([99]), 1.5, [1.5], [True] * (_N - 1), np.zeros((2, 2), int), None, slice(0, 1.5),
     {"a": 1}, [[0], [1, 2]]],
    ids=repr,
)  # fmt: skip
def test_no_such_rows(where: str, bad: Any) -> None:
    ds = _ds(where)
    with pytest.raises(RowIndexError):
        _ = ds[bad]
    with pytest.raises(IndexError):
        _ = ds.x[bad]


def test_message_of_a_row_outside() -> None:
    with pytest.raises(RowIndexError, match=rf"row 12 is outside the {_N} rows"):
        _ = _ds("stored")[12]
    with pytest.raises(RowIndexError, match=r"row -30 is outside"):
        _ = _ds("stored").x[[0, -30]]
    with pytest.raises(RowIndexError, match="mask of 3"):
        _ = _ds("stored")[[True, False, True]]


def test_tensors_by_name() -> None:
    ds = _ds("stored")
    assert list(ds.tensors) == ["x", "v", "t", "r"]
    assert "x" in ds
    assert "nope" not in ds
    assert ds[["t", "x"]].x.numpy().tolist() == _X.tolist()
    assert list(ds[["t", "x"]].tensors) == ["t", "x"]
    with pytest.raises(NoSuchTensor, match=r"'xx'.*"):
        _ = ds["xx"]
    with pytest.raises(AttributeError):
        _ = ds.xx
    with pytest.raises(KeyError):
        _ = ds[["x", "nope"]]
    assert not hasattr(ds, "nope")
    assert {"x", "v", "t", "r", "append"} <= set(dir(ds))


def test_a_view_shows_its_rows_whatever_happens_to_the_dataset(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [1, 2, 3]})
    buffered = ds[:]
    ds.append({"x": 4})
    assert values(buffered) == [1, 2, 3]
    ds.flush()
    stored = ds[1:]
    ds.x[2] = 30
    ds.pop(1)
    assert values(stored) == [2, 3, 4]
    assert values(buffered) == [1, 2, 3]
    assert values(ds) == [1, 30, 4]


@pytest.mark.parametrize("write", [lambda v: v.append({"x": 1}), lambda v: v.extend({"x": [1]}), lambda v: v.x.append(1)])
def test_views_are_read_only(write: Any) -> None:
    with pytest.raises(PermissionError, match="read-only"):
        write(_ds("stored")[:])


def test_assignment_through_a_view_is_refused() -> None:
    with pytest.raises(PermissionError, match="read-only"):
        _ds("stored")[0:2].x[0] = 5


def test_a_text_that_ends_in_nul_keeps_it(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("t", htype="text")
    ds.extend({"t": ["a\0", "b", "\0"]})
    assert ds.t.text() == ["a\0", "b", "\0"]
    assert ds.t[0].text() == "a\0"
    assert isinstance(ds.t[1].text(), np.str_)
