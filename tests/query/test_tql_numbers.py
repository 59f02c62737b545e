"""Numbers are compared by their values, whatever their dtypes are and however large they are, infinity included."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lakefmt

FLOATS = [1.0, float("inf"), float("-inf"), float("nan")]
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@pytest.fixture
def ds(mem_url: str) -> Any:
    made = lakefmt.dataset(mem_url)
    for dtype in ("float16", "float32", "float64"):
        made.create_tensor(dtype, dtype=dtype)
    made.create_tensor("pair", dtype="float32", shape=(2,))
    made.extend({t: np.array(FLOATS, t) for t in ("float16", "float32", "float64")} | {"pair": [[1, v] for v in FLOATS]})
    made.commit()
    return made


@pytest.mark.parametrize("sign", OPERATORS)
@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_infinity_is_a_number(ds: Any, name: str, sign: str) -> None:
    for number, written in ((float("inf"), "1e999"), (float("-inf"), "-1e999")):
        wanted = np.flatnonzero(OPERATORS[sign](np.array(FLOATS), number)).tolist()
        assert ds.query(f"{name} {sign} ?", [number]).sample_indices.tolist() == wanted
        assert ds.query(f"{name} {sign} {written}").sample_indices.tolist() == wanted


@pytest.mark.parametrize(
    ("text", "given", "rows"),
    [
        ("float32 in ?", [float("inf"), 1.0], [0, 1]),
        ("float16 in ?", [float("-inf")] * 60, [2]),
        ("float32 between 0 and ?", float("inf"), [0, 1]),
        ("any(pair == ?)", float("inf"), [1]),
        ("contains(pair, ?)", float("-inf"), [2]),
        ("float32 + ? > 0", float("inf"), [0, 1]),
    ],
)
def test_infinity_stands_where_other_numbers_do(ds: Any, text: str, given: Any, rows: list[int]) -> None:
    assert ds.query(text, [given]).sample_indices.tolist() == rows


@pytest.mark.parametrize("dtype", ["uint8", "uint64", "int8", "int64"])
def test_integers_are_compared_with_what_is_computed(mem_url: str, dtype: str) -> None:
    ends = np.iinfo(dtype)
    whole = np.array([ends.min, 3, ends.max, 3], dtype)
    made = lakefmt.dataset(mem_url)
    made.create_tensor("n", dtype=dtype)
    made.create_tensor("many", dtype=dtype, shape=(1,))
    made.create_tensor("x", dtype="float64")
    made.extend({"n": whole, "many": whole[:, None], "x": [2.0, 2.0, 1e30, float("nan")]})
    for sign, compare in list(OPERATORS.items()):
        wanted = np.flatnonzero(compare(whole, np.array([2.0, 2.0, 1e30, np.nan]) * 2)).tolist()
        assert made.query(f"n {sign} x * 2").sample_indices.tolist() == wanted
        assert made.query(f"any(many {sign} x * 2)").sample_indices.tolist() == wanted
        assert made.query(f"n {sign} ?", [float("nan")]).sample_indices.tolist() == ([0, 1, 2, 3] if sign == "!=" else [])
