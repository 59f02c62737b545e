"""A tensor added to a dataset that has rows is filled by assignment: its positions are rows of the dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import unchanged, values

import lakefmt
from lakefmt.errors import RowIndexError, UnequalLengths


@pytest.fixture(params=["stored", "buffered", "mixed"])
def ds(request: Any, mem_url: str) -> Any:
    """Six rows, and a tensor without samples."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": np.arange(4 if request.param == "mixed" else 6)})
    if request.param != "buffered":
        ds.commit("rows")
    ds.create_tensor("extra", dtype="float32")
    if request.param == "mixed":
        ds.extend({"x": [4, 5]}, skip_ok=True)
    return ds


def _check(ds: Any, expected: list[Any]) -> None:
    padded = expected + [None] * (6 - len(expected))
    assert values(ds, "extra") == expected
    ds.commit("filled")
    again = lakefmt.load(ds.path)
    assert values(again, "x") == [0, 1, 2, 3, 4, 5]
    assert [None if v is None else v.item() for v in again[:].extra.numpy(aslist=True)] == padded


def test_one_row(ds: Any) -> None:
    ds.extra[0] = 5
    _check(ds, [5])


def test_a_row_far_on(ds: Any) -> None:
    ds.extra[-3] = 5
    assert len(ds.extra) == 4
    ds.extra[1] = 2
    _check(ds, [None, 2, None, 5])


def test_all_rows(ds: Any) -> None:
    ds.extra[:] = np.arange(6, dtype="f4")
    _check(ds, [0, 1, 2, 3, 4, 5])


def test_some_rows(ds: Any) -> None:
    ds.extra[2:4] = [7, 8]
    _check(ds, [None, None, 7, 8])
    ds.extra[[5, 0]] = [9, 1]
    _check(ds, [1, None, 7, 8, None, 9])


def test_a_mask_and_one_value(ds: Any) -> None:
    ds.extra[np.array([True, False] * 3)] = 1
    _check(ds, [1, None, 1, None, 1])
    ds.extra[[False, True, False, False, False]] = 2
    _check(ds, [1, 2, 1, None, 1])


def test_samples_as_many_as_the_tensor_has(ds: Any) -> None:
    ds.extra.extend([1, 2, 3])
    ds.extra[:] = [4, 5, 6]
    _check(ds, [4, 5, 6])
    ds.extra[...] = [1] * 6
    _check(ds, [1] * 6)


def test_what_fits_neither(ds: Any) -> None:
    ds.extra.extend([1, 2, 3])
    ds.flush()
    with unchanged(ds), pytest.raises(UnequalLengths, match=r"5 samples fit neither the 6 rows.* nor the 3"):
        ds.extra[:] = [0] * 5
    for row in (6, -7):
        with unchanged(ds), pytest.raises(RowIndexError, match="outside the 6 rows"):
            ds.extra[row] = 1
    with unchanged(ds), pytest.raises(RowIndexError, match="outside the 3 rows"):
        _ = ds.extra[4]


def test_arrays_for_a_row(ds: Any) -> None:
    ds.extra[1] = [1, 2]
    ds.extra[1, 0] = 9
    assert values(ds, "extra") == [None, [9, 2]]
