"""Names in queries: classes as text are their names; a column is never called nothing."""

from __future__ import annotations

from typing import Any

import pytest

import lakefmt
from lakefmt.errors import TqlError


@pytest.fixture
def ds(mem_url: str) -> Any:
    made = lakefmt.dataset(mem_url)
    made.create_tensor("l", htype="class_label", class_names=["cat", "dog"])
    made.create_tensor("m", htype="class_label", class_names=["red", "green"])
    made.create_tensor("n", htype="class_label")
    made.create_tensor("s", htype="text")
    made.extend({"l": ["cat", "dog", None], "m": [["red"], ["green", "red"], []], "n": [5, 6, 7], "s": ["dog", "dog", "dog"]})
    made.commit()
    return made


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("cast(l as text)", ["cat", "dog", None]), ("try_cast(l as varchar)", ["cat", "dog", None]),
        ("cast(m as text)", [["red"], ["green", "red"], []]), ("cast(m[0] as text)", ["red", "green", None]),
        ("cast(n as text)", ["5", "6", "7"]), ("cast(l as int)", [0, 1, None]), ("cast(l + 1 as text)", ["1", "2", None]),
        ("concat(l, '!')", ["cat!", "dog!", "!"]), ("concat_ws('-', l, s)", ["cat-dog", "dog-dog", "dog"]),
        ("upper(cast(l as text))", ["CAT", "DOG", None]),
        ("case when s = 'dog' then cast(l as text) else s end", ["cat", "dog", None]),
    ],
)  # fmt: skip
def test_classes_as_text(ds: Any, expression: str, wanted: list[Any]) -> None:
    found = ds.query(f"select {expression} as t").t.numpy(aslist=True)
    assert [None if v is None else v.tolist() for v in found] == wanted


@pytest.mark.parametrize(
    ("condition", "rows"),
    [("cast(l as text) = 'cat'", [0]), ("cast(l as text) = s", [1]), ("cast(l as text) like 'd%'", [1]),
     ("any(cast(m as text) = 'red')", [0, 1]), ("cast(l as text) is null", [2]), ("contains(cast(m as text), 'green')", [1])],
)  # fmt: skip
def test_and_in_conditions(ds: Any, condition: str, rows: list[int]) -> None:
    assert ds.query(condition).sample_indices.tolist() == rows


def test_ids_that_get_names_later(ds: Any) -> None:
    ds.n.add_class_names(*"abcdefgh")
    assert [str(v) for v in ds.query("select cast(n as text) as t").t.numpy(aslist=True)] == ["f", "g", "h"]


@pytest.mark.parametrize("text", ['select s as ""', 'select s ""', 'select * from ""', 'select * where "" = 1'])
def test_a_name_is_not_empty(ds: Any, text: str) -> None:
    with pytest.raises(TqlError, match=r"expected a name .* is empty") as caught:
        ds.query(text)
    assert caught.value.position == text.index('""')


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite(ds: Any, number: float) -> None:
    assert len(ds.query("l > ?", [number])) == (2 if number < 0 else 0)
    assert len(ds.query("l != ?", [number])) == 2
