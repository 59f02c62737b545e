"""``x IN (…)`` is ``x == a OR x == b …``: whatever the types, and however many there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tql_table import CATALOG

import lakefmt
from lakefmt.errors import TqlError
from lakefmt.query.translate import translate

NAN = float("nan")


@pytest.fixture(scope="module")
def ds() -> Any:
    made = lakefmt.dataset("mem://tql-membership", overwrite=True)
    for name, dtype in {
        "x": "int64",
        "f": "float32",
        "d": "float64",
        "h": "float16",
        "b": "bool",
        "u": "uint64",
        "i": "uint8",
    }.items():
        made.create_tensor(name, dtype=dtype)
    made.create_tensor("s", htype="text")
    made.create_tensor("j", htype="json")
    made.create_tensor("v", dtype="float32")
    made.extend({
        "x": [0, 1, 2, 2**53 + 1], "f": np.array([NAN, 1, 0.1, -0.0], "f4"), "d": [NAN, 0.1, 1, None],
        "h": np.array([NAN, 0.1, 1, 2], "f2"), "b": [True, False, None, True], "u": np.array([0, 1, 2**63 + 5, 2**64 - 1], "u8"),
        "i": [0, 1, 2, 255], "s": ["1", "a", None, ""], "j": [1, "a", {"k": [1]}, None],
        "v": np.array([[NAN, 1], [1, 2], [0.1, 0.2], [3, 3]], "f4"),
    })  # fmt: skip
    made.commit()
    return made


@pytest.mark.parametrize(
    ("text", "given", "rows"),
    [
        ("f in ?", [NAN], []), ("f in ?", [NAN, 1.0], [1]), ("f not in ?", [NAN, 1.0], [0, 2, 3]), ("h in ?", [NAN, 0.1], [1]),
        ("d in ?", [0.1], [1]), ("f in ?", [0], [3]), ("any(v in ?)", [NAN, 0.1], [2]), ("any(v in ?)", [NAN], []),
        ("not all(v in ?)", [1, 2], [0, 2, 3]),
        ("u in ?", [2**63, -1], []), ("u in ?", [2**63 + 5, -1, 0.5], [2]), ("x in ?", [2**53, 0.5], []),
        ("x in ?", [2**53 + 1, 0.5], [3]), ("i in ?", [255, 300, -1], [3]), ("i in ?", [1.0, 2.5], [1]),
        ("s in ?", ["a\0"], []), ("s in ?", ["a", ""], [1, 3]), ("b in ?", [1], [0, 3]), ("b in ?", [2, 3], []),
        ("x in ?", [True], [1]), ("x in ?", [], []), ("j in ?", [], []), ("j in ?", ["a", 1], [0, 1]), ("j in ?", [1, "a"], [0, 1]),
        ("j['k'][0] in ?", [1, 2], [2]), ("s in ?", np.array(["a", "b"]), [1]), ("x in ?", np.array([[1], [2]]), [1, 2]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("many", [False, True], ids=["written", "bound"])
def test_what_is_among(ds: Any, text: str, given: Any, rows: list[int], many: bool) -> None:
    if many and len(given):
        assert isinstance(given, (list, np.ndarray))
        given = list(given) * 70 if isinstance(given, list) else np.concatenate([given] * 70)
    assert ds.query(text, [given]).sample_indices.tolist() == rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [("f in (f, 1)", [1, 2, 3]), ("f in (d, f)", [1, 2, 3]), ("d in (f, 1)", [2]), ("x in (9007199254740992, 0.5)", []),
     ("u in (9223372036854775808, -1)", []), ("x in [1, 2]", [1, 2]), ("x in (i, 5)", [0, 1, 2]), ("j in ('a', 1)", [0, 1])],
)  # fmt: skip
def test_lists_that_are_written(ds: Any, text: str, rows: list[int]) -> None:
    assert ds.query(text).sample_indices.tolist() == rows


@pytest.mark.parametrize("name", ["x", "f", "d", "h", "u", "i", "s"])
def test_many_are_as_few(ds: Any, name: str) -> None:
    held = [v.item() for v in ds[name].numpy(aslist=True) if v is not None]
    for one in held:
        few = ds.query(f"{name} in ?", [[one]]).sample_indices.tolist()
        other = ["q"] if name == "s" else [77]
        assert ds.query(f"{name} in ?", [[one, *other * 100]]).sample_indices.tolist() == few
        assert ds.query(f"not ({name} in ?)", [[one, *other * 100]]).sample_indices.tolist() == [
            k for k in range(4) if k not in few
        ]


def test_many_are_bound_as_one() -> None:
    query = "n in (" + ",".join(map(str, range(5000))) + ")"
    plan = translate(query, CATALOG)
    assert len(plan.sql) < 300
    assert plan.parameters == [list(range(5000))]
    assert len(translate("text in ?", CATALOG, [[str(k) for k in range(5000)]]).sql) < 300


@pytest.mark.parametrize(
    ("text", "given", "says"),
    [("s in ?", ["a", 1], "compare a text with a number"), ("x in ?", [1, None], "numbers or texts"),
     ("x in ?", ["a"], "cannot compare"),
     ("v == ?", ["a", 1], "of one kind"), ("v == ?", [2**53 + 1, 0.5], "of one kind")],
)  # fmt: skip
def test_lists_that_mix(ds: Any, text: str, given: Any, says: str) -> None:
    with pytest.raises(TqlError, match=says):
        ds.query(text, [given])


def test_a_number_in_an_array_without_dimensions_is_a_number(ds: Any) -> None:
    assert ds.query("x = ?", [np.array(1)]).sample_indices.tolist() == [1]
