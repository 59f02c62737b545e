"""Computed columns are what the query says, in memory, in a saved view, and in a loader: dtype, shape and what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lakefmt
from lakefmt.errors import InvalidInput


@pytest.fixture(scope="module")
def ds() -> lakefmt.Dataset:
    ds = lakefmt.dataset("mem://computed-columns", overwrite=True)
    for name, options in {
        "x": {"dtype": "int64"}, "f": {"dtype": "float32"}, "s": {"htype": "text"}, "j": {"htype": "json"},
        "v": {"dtype": "uint8", "shape": (3,)}, "r": {"dtype": "uint8"}, "m": {"dtype": "int16"}, "h": {"dtype": "float16"},
        "g": {"dtype": "int16"}, "big": {"dtype": "int64"},
    }.items():  # fmt: skip
        ds.create_tensor(name, **options)
    ds.extend(
        {
            "x": [1, 0, None], "f": [0.5, None, 2], "s": ["atbtc", "tx", None],
            "j": [{"a": 1, "b": 2}, {"c": 1, "d": 3}, {"e": 1, "é": 2}], "v": [[1, 2, 0], [0, 0, 1], [3, 1, 2]],
            "r": [[1], [], [2, 3]], "m": [[[1, 2], [3, 4]], [5], None], "h": [[1, 2], [3], []],
            "g": [[[1, 2], [3, 4]], None, [[5, 6], [7, 8]]], "big": [[2**53 + 1, 0], [1, 1], [1, 1]],
        }
    )  # fmt: skip
    ds.commit("three rows")
    return ds


#: expression, dtype, and the values as lists (``None``: missing)
NUMBERS: list[tuple[str, str, list[Any]]] = [
    ("x + 1", "int64", [2, 1, None]),
    ("f * 2", "float32", [1.0, None, 4.0]),
    ("v * 2", "int64", [[2, 4, 0], [0, 0, 2], [6, 2, 4]]),
    ("r * 2", "int64", [[2], [], [4, 6]]),
    ("r > 1", "bool", [[False], [], [True, True]]),
    ("h * 2", "float32", [[2.0, 4.0], [6.0], []]),
    ("m * 2", "int64", [[[2, 4], [6, 8]], [10], None]),
    ("g * 2", "int64", [[[2, 4], [6, 8]], None, [[10, 12], [14, 16]]]),
    ("list_sort(r)", "uint8", [[1], [], [2, 3]]),
    ("shape(m)", "int64", [[2, 2], [1], None]),
    ("[]", "float64", [[], [], []]),
    ("case when x = 1 then true end", "bool", [True, None, None]),
    ("sum(v)", "int64", [3, 1, 6]),
]


def _plain(tensor: Any) -> list[Any]:
    return [None if s is None else s.tolist() for s in tensor.numpy(aslist=True)]


@pytest.mark.parametrize(("expression", "dtype", "values"), NUMBERS, ids=[n[0] for n in NUMBERS])
def test_numbers(ds: lakefmt.Dataset, expression: str, dtype: str, values: list[Any]) -> None:
    view = ds.query(f"select {expression} as c")
    again = ds.load_view(view.save_view())
    for c in (view.c, again.c):
        assert _plain(c) == values
        assert c.dtype == np.dtype(dtype)
        assert {s.dtype.name for s in c.numpy(aslist=True) if s is not None} == {dtype}
        assert [None if s is None else tuple(s) for s in c.shapes()] == [None if v is None else np.shape(v) for v in values]
    present = [i for i, v in enumerate(values) if v is not None]
    assert again.query("c is not null").sample_indices.tolist() == view.query("c is not null").sample_indices.tolist() == present


#: expressions that are lists of text
TEXTS: list[tuple[str, list[Any]]] = [
    ("keys(j)", [["a", "b"], ["c", "d"], ["e", "é"]]),
    ("split(s, 't')", [["a", "b", "c"], ["", "x"], None]),
    ("['t', '']", [["t", ""]] * 3),
    ("cast(v as text)", [["1", "2", "0"], ["0", "0", "1"], ["3", "1", "2"]]),
    ("regexp_extract_all(s, 't')", [["t", "t"], ["t"], None]),
]


@pytest.mark.parametrize(("expression", "values"), TEXTS, ids=[t[0] for t in TEXTS])
def test_a_list_of_text_is_json(ds: lakefmt.Dataset, expression: str, values: list[Any]) -> None:
    view = ds.query(f"select {expression} as c, x")
    again = ds.load_view(view.save_view())
    for c in (view.c, again.c):
        assert c.htype == "json"
        assert c.dict() == values
        assert c[0].dict() == values[0]
    assert "json" in repr(again)
    assert again.query("contains(c, 't')").sample_indices.tolist() == [i for i, v in enumerate(values) if v and "t" in v]
    assert next(iter(again.dataloader().batch(3).numpy()))["c"] == values


def test_of_no_rows(ds: lakefmt.Dataset) -> None:
    view = ds.query("select keys(j) as k, x + 1 as y, v * 2 as w where x > 100")
    for some in (view, ds.load_view(view.save_view())):
        assert (len(some), some.k.htype, some.k.numpy().tolist()) == (0, "json", [])
        assert some.y.numpy().dtype == np.int64
        assert some.w.numpy().shape == (0, 3)


def test_missing_elements_are_nan(ds: lakefmt.Dataset) -> None:
    found = ds.query("select v % v as c").c.numpy()
    np.testing.assert_array_equal(found, [[0, 0, np.nan], [np.nan, np.nan, 0], [0, 0, 0]])
    with pytest.raises(InvalidInput, match=r"column 'c': some elements are missing.*9007199254740993"):
        ds.query("select big % big + big as c")


def test_views_of_one_query_with_other_parameters_are_two(ds: lakefmt.Dataset) -> None:
    one, two = (ds.query("select x * ? as c", [n]).save_view() for n in (2, 3))
    assert one != two
    assert one == ds.query("select x * ? as c", [2]).save_view()
    assert _plain(ds.load_view(two).c) == [3, 0, None]
