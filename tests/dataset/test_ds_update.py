"""Updates: samples replaced, whole or in part, wherever they lie; and rows popped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import contents, values

import lakefmt
from lakefmt.errors import InvalidInput, LakeError, RowIndexError, ShapeError, UnequalLengths


@pytest.fixture(params=["stored", "buffered", "fragments"])
def ds(request: Any, mem_url: str, jpeg_bytes: bytes) -> Any:
    """Six rows of every layout."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("flat", dtype="uint8")
    ds.create_tensor("ragged", dtype="float32")
    ds.create_tensor("t", htype="text")
    ds.create_tensor("i", htype="image", sample_compression="jpeg")
    ds.create_tensor("c", htype="class_label")
    for i in range(6):
        ds.append({"x": i, "flat": np.full((20, 20), i, "u1"), "ragged": np.arange(i, dtype="f4"), "t": f"text {i}",
                   "i": lakefmt.read(jpeg_bytes), "c": f"class {i % 2}"})  # fmt: skip
        if request.param == "fragments" and i % 2:
            ds.flush()
    if request.param == "stored":
        ds.flush()
    return ds


def _check(ds: Any, expected: dict[str, list[Any]]) -> None:
    """The same before storing, after it, to another handle, and after more versions."""
    assert contents(ds) == expected
    ds.flush()
    assert contents(ds) == expected
    assert contents(lakefmt.load(ds.path)) == expected
    for tensor in ds.tensors.values():
        shapes = [None if v is None else v.shape for v in tensor.numpy(aslist=True)]
        assert [tensor[i].shape for i in range(len(ds))] == shapes


def test_single_samples(ds: Any, png_bytes: bytes) -> None:
    expected = contents(ds)
    ds.x[1] = 100
    ds.x[-1] = -5
    ds.flat[2] = np.full((20, 20), 99, "u1")
    ds.ragged[3] = [7.5]
    ds.t[0] = "new"
    ds.c[4] = "another class"
    ds.i[5] = lakefmt.read(png_bytes)
    expected["x"][1], expected["x"][5] = 100, -5
    expected["flat"][2] = [[99] * 20] * 20
    expected["ragged"][3] = [7.5]
    expected["t"][0] = "new"
    expected["c"][4] = 2
    expected["i"][5] = ds.i[5].tobytes()
    assert expected["i"][5][:3] == b"\xff\xd8\xff", "a PNG given to a JPEG tensor is encoded"
    _check(ds, expected)
    assert ds.c[4].data()["text"] == "another class"


def test_many_rows(ds: Any) -> None:
    expected = contents(ds)
    ds.x[1:4] = [10, 20, 30]
    ds.x[[0, 5]] = np.array([1000, 5000])
    ds.t[[True, False, False, False, False, True]] = ["a", "b"]
    ds.flat[2:4] = np.zeros((2, 20, 20), "u1")
    expected["x"] = [1000, 10, 20, 30, 4, 5000]
    expected["t"][0], expected["t"][5] = "a", "b"
    expected["flat"][2:4] = [[[0] * 20] * 20] * 2
    _check(ds, expected)


def test_one_value_for_many_rows(ds: Any) -> None:
    expected = contents(ds)
    ds.x[1:3] = 7
    ds.t[:2] = "same"
    ds.x[5:] = None
    expected["x"][1:3] = [7, 7]
    expected["x"][5] = None
    expected["t"][:2] = ["same", "same"]
    _check(ds, expected)


def test_missing_and_back(ds: Any) -> None:
    expected = contents(ds)
    for name in ds.tensors:
        ds[name][2] = None
        expected[name][2] = None
    assert contents(ds) == expected
    ds.flush()
    assert contents(lakefmt.load(ds.path)) == expected
    ds.x[2] = 5
    ds.flat[2] = np.full((3, 3), 8, "u1")
    expected["x"][2], expected["flat"][2] = 5, [[8] * 3] * 3
    ds.flush()
    assert contents(lakefmt.load(ds.path)) == expected


def test_inside_a_sample(ds: Any) -> None:
    expected = contents(ds)
    ds.flat[1][0] = 50
    ds.flat[2][3:5, ::2] = 60
    ds.flat[3, 1, 1] = 70
    ds.ragged[4][1:3] = [-1, -2]
    flat = np.array(expected["flat"], "u1")
    flat[1][0], flat[2][3:5, ::2], flat[3, 1, 1] = 50, 60, 70
    expected["flat"] = flat.tolist()
    expected["ragged"][4] = [0, -1, -2, 3]
    _check(ds, expected)


def test_inside_twice_before_a_flush(ds: Any) -> None:
    ds.flat[1][0, 0] = 50
    ds.flat[1][0, 1] = 51
    ds.flush()
    assert lakefmt.load(ds.path).flat[1].numpy()[0, :3].tolist() == [50, 51, 1]


def test_the_last_update_wins(ds: Any) -> None:
    for value in (1, 2, 3):
        ds.x[0] = value
    ds.flush()
    for value in (4, 5):
        ds.x[0] = value
        ds.flush()
    assert values(lakefmt.load(ds.path)) == [5, 1, 2, 3, 4, 5]


def test_what_does_not_fit(ds: Any) -> None:
    before = contents(ds)
    with pytest.raises(RowIndexError):
        ds.x[6] = 1
    with pytest.raises(UnequalLengths):
        ds.x[[0, 1]] = [1]
    with pytest.raises(ShapeError):
        ds.flat[0][50] = 1
    with pytest.raises(ShapeError):
        ds.flat[0][0] = [1, 2]
    with pytest.raises(InvalidInput):
        ds.t[0][0] = "x"
    with pytest.raises(LakeError):
        ds.x[0] = "word"
    assert contents(ds) == before


def test_updates_keep_row_ids_and_write_little(ds: Any) -> None:
    ds.flush()
    ids = ds[:].row_ids.tolist()
    store = ds._log.store
    before = {e.key for e in store.list("data/")}
    ds.x[1] = 5
    ds.flush()
    assert ds[:].row_ids.tolist() == ids
    assert {e.key for e in store.list("data/")} == before, "fragments are never rewritten"


@pytest.mark.parametrize(
    ("rows", "left"),
    [(None, [0, 1, 2, 3, 4]), (0, [1, 2, 3, 4, 5]), (-1, [0, 1, 2, 3, 4]), ([1, 3], [0, 2, 4, 5]), (slice(0, 6, 2), [1, 3, 5]),
     (slice(None), []), ([], [0, 1, 2, 3, 4, 5]), (np.array([5, 0]), [1, 2, 3, 4]), ([True, False] * 3, [1, 3, 5])],
    ids=repr,
)  # fmt: skip
def test_pop(ds: Any, rows: Any, left: list[int]) -> None:
    expected = {n: [v[i] for i in left] for n, v in contents(ds).items()}
    if rows is None:
        ds.pop()
    else:
        ds.pop(rows)
    assert len(ds) == len(left)
    _check(ds, expected)


def test_pop_again_and_append(ds: Any) -> None:
    ds.flush()
    ids = dict(zip(values(ds), ds[:].row_ids.tolist(), strict=True))
    ds.pop(2)
    ds.pop(2)
    ds.pop(0)
    assert values(ds) == [1, 4, 5]
    assert ds[:].row_ids.tolist() == [ids[1], ids[4], ids[5]], "rows keep their ids"
    ds.append({"x": 9, "flat": np.zeros((2, 2), "u1"), "ragged": [], "t": "t", "i": None, "c": 0})
    ds.x[1] = 40
    ds.flush()
    assert values(lakefmt.load(ds.path)) == [1, 40, 5, 9]
    assert ds[3].row_ids.tolist()[0] not in ids.values(), "ids are not handed out twice"


def test_pop_everything_then_begin_again(ds: Any) -> None:
    ds.pop(slice(None))
    assert len(ds) == 0
    ds.append({"x": 9, "flat": None, "ragged": None, "t": None, "i": None, "c": None})
    ds.flush()
    assert values(lakefmt.load(ds.path)) == [9]


@pytest.mark.parametrize("bad", [6, -7, [0, 9], [1, 1], 1.5, "x"])
def test_pop_of_no_such_rows(ds: Any, bad: Any) -> None:
    with pytest.raises((RowIndexError, InvalidInput)):
        ds.pop(bad)
    assert values(ds) == [0, 1, 2, 3, 4, 5]


def test_pop_from_nothing(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    with pytest.raises(RowIndexError):
        ds.pop()


def test_pop_of_uneven_tensors(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("a", dtype="int64")
    ds.create_tensor("b", dtype="int64")
    ds.a.extend([1, 2, 3, 4])
    ds.b.extend([10, 20])
    ds.pop([1, 3])
    assert values(ds[:], "a") == [1, 3]
    assert values(ds[:], "b") == [10, None]
    assert (len(ds.a), len(ds.b)) == (2, 1)


def test_a_name_that_could_hide_the_stores_own_column(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    try:
        ds.create_tensor("_offset", dtype="int64")
    except InvalidInput:
        assert list(ds.tensors) == []
        return
    ds.extend({"_offset": [10, 11, 12]})
    ds.flush()
    ds["_offset"][2] = 99
    ds.flush()
    assert values(ds, "_offset") == [10, 11, 99]


def test_a_name_that_could_hide_another_tensors_shapes(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("r__shape", dtype="int64")
    ds.create_tensor("r", dtype="int64")
    ds.extend({"r__shape": [1, 2], "r": [[1], [1, 2]]})
    ds.flush()
    ds.r[0] = [5, 6, 7]
    ds.flush()
    assert contents(lakefmt.load(mem_url)) == {"r__shape": [1, 2], "r": [[5, 6, 7], [1, 2]]}


def test_names_with_dots_and_slashes(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    names = ["a.b", "a b", "ab.list.element", "ab", "g/a", "g/b.c", "A"]
    for i, name in enumerate(names):
        ds.create_tensor(name, dtype="int64")
        ds[name].extend([[i], [i, i + 1]])
    ds.flush()
    ds.create_tensor("a", dtype="int64")
    ds.a.extend([7, 8])
    ds.flush()
    again = lakefmt.load(mem_url)
    assert {n: values(again, n) for n in names} == {n: [[i], [i, i + 1]] for i, n in enumerate(names)}
    assert values(again, "a") == [7, 8]
