"""What is to be deleted or updated is said by a condition: a number, which a reading query takes for "not zero", is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lakefmt
from lakefmt.errors import InvalidInput, TqlError
from lakefmt.query import rows_to_change


@pytest.fixture
def ds(mem_url: str) -> Any:
    made = lakefmt.dataset(mem_url)
    made.create_tensor("x", dtype="int64")
    made.create_tensor("flag", dtype="bool")
    made.create_tensor("kind", htype="class_label", class_names=["cat", "dog"])
    made.create_tensor("marks", htype="class_label", class_names=["red", "blue"])
    made.create_tensor("v", dtype="float32")
    made.create_tensor("j", htype="json")
    rows = [0, 1, 2, 3]
    made.extend({
        "x": rows, "flag": [True, False, True, False], "kind": ["cat", "dog", "cat", "dog"], "marks": [[0], [1], [0, 1], []],
        "v": np.arange(8, dtype=np.float32).reshape(4, 2), "j": [{"ok": True}, {}, {"ok": False}, None],
    })  # fmt: skip
    made.commit()
    return made


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("1", "1"), ("0", "0"), ("x", "x"), ("000000000000-1", "000000000000-1"), ("x + 1", "x + 1"), ("kind", "kind"),
        ("x > 1 and 1", "1"), ("x or x > 5", "x"), ("not x", "x"), ("select * where x", "x"), ("sum(v)", "sum(v)"),
        ("select * from (select * where x) where flag", "x"), ("hash(x)", "hash(x)"), ("length('abc')", "length('abc')"),
    ],
)  # fmt: skip
def test_a_value_is_no_condition(ds: Any, text: str, place: str) -> None:
    with pytest.raises(TqlError, match="takes a condition") as caught:
        rows_to_change(ds, text)
    error = caught.value
    assert error.position is not None
    assert text[error.position : error.position + error.length] == place


def test_nor_is_one_given_as_a_parameter(ds: Any) -> None:
    with pytest.raises(TqlError, match="takes a condition"):
        rows_to_change(ds, "?", [1])
    with pytest.raises(InvalidInput, match="a query is a str"):
        rows_to_change(ds, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("x > 1", [2, 3]), ("flag", [0, 2]), ("not flag", [1, 3]), ("true", [0, 1, 2, 3]), ("false", []), ("kind = 'cat'", [0, 2]),
        ("marks == 'red'", [0, 2]), ("any(v > 5)", [3]), ("x in (1, 3)", [1, 3]), ("x != 0 and flag", [2]), ("_row = 1", [1]),
        ("select * where x > 1 order by x desc limit 1", [3]), ("select *", [0, 1, 2, 3]), ("j is null", [3]),
        ("contains(marks, 1)", [1, 2]), ("cast(x as bool)", [1, 2, 3]),
        ("case when x > 2 then true else flag end", [0, 2, 3]), ("j['ok']", [0]),
    ],
)  # fmt: skip
def test_conditions_are_as_in_queries(ds: Any, text: str, rows: list[int]) -> None:
    assert sorted(rows_to_change(ds, text).sample_indices.tolist()) == rows


def test_queries_that_read_take_numbers_as_before(ds: Any) -> None:
    assert ds.query("x").sample_indices.tolist() == [1, 2, 3]
    assert len(ds.query("1")) == 4
