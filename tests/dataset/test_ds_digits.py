"""Integers keep all their digits, or are refused: on the way into floats, out of lists, arrays, Arrow and pandas."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dataset_tools import unchanged, values
from hypothesis import given
from hypothesis import strategies as st

import lakefmt
from lakefmt.errors import DtypeError
from lakefmt.htypes import TensorDef
from lakefmt.samples import prepare_batch

_LOSING: list[tuple[str, int]] = [
    ("float64", 2**53 + 1), ("float64", -(2**53) - 1), ("float64", 2**63 - 1), ("float64", 2**64 - 1), ("float32", 2**24 + 1),
    ("float32", 2**63 - 1), ("float16", 2049), ("float16", 65519), ("float16", 65520), ("float16", -(2**31)), ("float16", 2**63),
]  # fmt: skip


def _empty(url: str, dtype: str | None) -> Any:
    ds = lakefmt.dataset(url)
    ds.create_tensor("x", dtype=dtype)
    ds.append({"x": 1})
    ds.flush()
    return ds


@pytest.mark.parametrize(("dtype", "value"), _LOSING)
def test_integers_that_a_float_cannot_hold(mem_url: str, dtype: str, value: int) -> None:
    ds = _empty(mem_url, dtype)
    integer = np.int64 if value < 2**63 else np.uint64
    one = np.array([1, value], integer)
    for use in (
        lambda: ds.append({"x": value}),
        lambda: ds.append({"x": one}),
        lambda: ds.x.append([value, 1]),
        lambda: ds.x.__setitem__(0, value),
    ):
        with unchanged(ds), pytest.raises(DtypeError, match="'x', row"):
            use()
    for column in ([1, value], one, pa.array(one), [None, value]):
        with unchanged(ds), pytest.raises(DtypeError, match=r"'x', row 2: .*loses digits"):
            ds.extend({"x": column})


def test_pandas(mem_url: str) -> None:
    pd = pytest.importorskip("pandas")
    ds = _empty(mem_url, "float64")
    for column in (pd.Series([1, 2**53 + 1], dtype="Int64"), pd.Series([None, 2**53 + 1], dtype="Int64")):
        with unchanged(ds), pytest.raises(DtypeError, match="row 2"):
            ds.extend({"x": column})


@pytest.mark.parametrize(
    ("dtype", "given"),
    [("float64", [2**53, -(2**53), 2**62, 2**54 + 4]), ("float32", [2**24, 2**40]), ("float16", [2048, 65504, -65504, 0, 4098])],
)
def test_integers_that_fit(mem_url: str, dtype: str, given: list[int]) -> None:
    ds = _empty(mem_url, dtype)
    if dtype == "float16":
        given = [g for g in given if g != 4098] + [4100]
    ds.extend({"x": given})
    ds.extend({"x": np.array(given)})
    ds.append({"x": given})
    ds.flush()
    assert values(lakefmt.load(mem_url)) == [1, *given, *given, given]


@given(st.integers(-(2**63), 2**64 - 1), st.sampled_from(["float16", "float32", "float64"]))
def test_the_rule_is_exactly_that_the_value_comes_back(value: int, dtype: str) -> None:
    with np.errstate(over="ignore"):
        rounded = float(np.array(value, object).astype(float).astype(dtype))
    exact = abs(rounded) != float("inf") and int(rounded) == value
    block = np.array([value], np.int64 if value < 2**63 else np.uint64)
    try:
        _, column = prepare_batch(TensorDef(id=1, name="x", htype="generic", dtype=dtype), block)
    except DtypeError:
        assert not exact
    else:
        assert exact
        assert int(column.samples()[0]) == value  # type: ignore[attr-defined]


@pytest.mark.parametrize("sample", [[2**63, -1], [[2**63], [-1]], (2**53 + 1, 0.5), [2**64 - 1, -1]])
def test_lists_that_numpy_would_round(mem_url: str, sample: Any) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x")
    ds.append({"x": None})
    ds.flush()
    with unchanged(ds), pytest.raises(DtypeError, match="'x', row 1"):
        ds.append({"x": sample})
    with unchanged(ds), pytest.raises(DtypeError):
        ds.extend({"x": list(sample)})
    assert ds.x.dtype is None
    ds.append({"x": [2**63, 1.5, 2**60]})
    assert ds.x[1].numpy().tolist() == [2.0**63, 1.5, 2.0**60]


_WARNS = """
import numpy as np, lakefmt
from lakefmt.errors import DtypeError
for dtype in ("float16", "float32", "float64", "int8", "uint64", "bool"):
    for value in (2**63 - 1, -2**31, 2**53 + 1, 1e300, np.inf, np.nan, np.float64(65520), 2**64 - 1):
        ds = lakefmt.dataset(f"mem://{dtype}-{value}")
        ds.create_tensor("x", dtype=dtype)
        for use in (lambda: ds.append({"x": value}), lambda: ds.extend({"x": np.array([value, value])})):
            try:
                use()
            except DtypeError:
                pass
"""


def test_refusals_do_not_warn() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", _WARNS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
