"""Texts, JSON and names: what is accepted can be stored and comes back the same; what UTF-8 or JSON cannot hold is refused."""

from __future__ import annotations

import enum
import json
from typing import Any

import numpy as np
import pytest
from dataset_tools import unchanged, values

import lakefmt
from lakefmt.errors import DtypeError, InvalidInput

_LONE = json.loads('"\\ud83d"')


class _Colour(str, enum.Enum):  # noqa: UP042 - its str() is not its value, other than of StrEnum
    RED = "red"


class _Odd(str):
    def __str__(self) -> str:
        return "other"


@pytest.fixture
def ds(mem_url: str) -> Any:
    """A stored row of a text, a JSON value and an open class."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("s", htype="text")
    ds.create_tensor("j", htype="json")
    ds.create_tensor("l", htype="class_label")
    ds.append({"s": "a", "j": {"k": 1}, "l": "x"})
    ds.commit("one")
    return ds


def _ways(ds: Any, name: str, value: Any) -> list[Any]:
    objects = np.empty(2, object)
    objects[:] = [None, value]
    good = {n: v for n, v in {"s": "a", "j": 1, "l": "x"}.items() if n != name}
    return [
        lambda: ds.append({name: value, **good}),
        lambda: ds.extend({name: [None, value], **{n: [v, v] for n, v in good.items()}}),
        lambda: ds.extend({name: objects}, append_empty=True),
        lambda: ds[name].append(value),
        lambda: ds[name].extend([value] * 3),
        lambda: ds[name].__setitem__(0, value),
        lambda: ds[name].__setitem__([0], [value]),
        lambda: ds.update("true", {name: value}),
        lambda: ds.upsert({name: [value], **{n: [v] for n, v in good.items()}}, key="s"),
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [("s", _LONE), ("s", "a" * 200 + _LONE), ("s", np.str_(_LONE)), ("j", _LONE), ("j", {"k": [_LONE]}), ("j", {_LONE: 1}),
     ("l", _LONE), ("l", ["fine", _LONE])],
)  # fmt: skip
def test_lone_surrogates_are_refused_at_once(ds: Any, name: str, value: Any) -> None:
    for use in _ways(ds, name, value):
        with unchanged(ds), pytest.raises(DtypeError, match=rf"'{name}', row \d.*UTF-8 can hold"):
            use()


def test_lone_surrogates_in_names_and_metadata(ds: Any) -> None:
    uses = [
        lambda: ds.create_tensor("n" + _LONE), lambda: ds.create_tensor("n", htype="class_label", class_names=[_LONE]),
        lambda: ds.create_tensor("n", info={"k": _LONE}), lambda: ds.create_tensor("n", info={_LONE: 1}),
        lambda: ds.rename_tensor("s", "n" + _LONE), lambda: ds.l.add_class_names(_LONE),
        lambda: ds.info.update(k=[_LONE]), lambda: ds.s.info.__setitem__(_LONE, 1),
    ]  # fmt: skip
    for use in uses:
        with unchanged(ds), pytest.raises(InvalidInput):
            use()


@pytest.mark.parametrize("value", [_Colour.RED, np.str_("red"), np.array(["red"])[0], _Odd("red")])
def test_kinds_of_str_are_taken_by_value(ds: Any, value: Any) -> None:
    for use in (use for name in "sjl" for use in _ways(ds, name, value)[:-1]):
        use()
    ds.append({"s": value, "j": {value: [value]}, "l": [value]})
    ds.commit("rows")
    again = lakefmt.load(ds.path)
    assert {t for t in again.s.text() if t is not None} <= {"a", "red"}
    assert again.s[-1].text() == again.l[-1].data()["text"][0] == "red"
    assert again.j[-1].dict() == {"red": ["red"]}
    assert again.l.class_names == ["x", "red"]


def test_names_are_taken_by_value(ds: Any) -> None:
    ds.create_tensor(_Colour.RED, htype="class_label", class_names=[_Colour.RED, np.str_("b")], info={_Colour.RED: _Colour.RED})
    ds.rename_tensor("s", np.str_("caption"))
    ds.l.add_class_names(_Odd("odd"))
    again = lakefmt.load(ds.path)
    assert list(again.tensors) == ["caption", "j", "l", "red"]
    assert again.red.class_names == ["red", "b"]
    assert dict(again.red.info) == {"red": "red", "class_names": ["red", "b"]}
    assert again.l.class_names == ["x", "odd"]
    assert ds[_Colour.RED].class_names == ["red", "b"]


@pytest.mark.parametrize(
    "value",
    [{1: "a", "1": "b"}, {None: 1}, {True: 1}, {1.5: 1}, {"k": [{2: 1}]}, ({3: 1},), np.ma.masked_array([1, 2], [False, True]),
     {"k": np.ma.masked}, 10**5000, [10**5000]],
    ids=range(10),
)  # fmt: skip
def test_what_would_come_back_as_something_else(ds: Any, value: Any) -> None:
    for use in _ways(ds, "j", value)[:8]:
        with unchanged(ds), pytest.raises(DtypeError, match=r"(?s)'j', row \d.* no JSON value"):
            use()
    with unchanged(ds), pytest.raises(InvalidInput):
        ds.info["k"] = value


def _nested(levels: int) -> Any:
    value: Any = 1
    for i in range(levels):
        value = [value] if i % 2 else {"k": value}
    return value


def test_nesting(ds: Any) -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (_nested(501), _nested(100_000), circle):
        for use in _ways(ds, "j", value)[:8]:
            with unchanged(ds), pytest.raises(DtypeError, match=r"nested too deeply|Circular"):
                use()
    ds.j.append(_nested(500))
    assert ds.j[1].dict() == _nested(500)


def test_huge_integers_elsewhere(ds: Any) -> None:
    ds.create_tensor("x", dtype="int64")
    for use in (lambda: ds.x.append(10**5000), lambda: ds.s.append(10**5000), lambda: ds.l.append(10**5000)):
        with unchanged(ds), pytest.raises(InvalidInput, match=r"row 0|row 1"):
            use()


def test_masked_columns_of_texts(ds: Any) -> None:
    for name in ("s", "j", "l"):
        with unchanged(ds), pytest.raises(DtypeError, match="masked"):
            ds[name].extend(np.ma.masked_array(["x", "y"], [False, True]))


def test_values_that_stay(ds: Any) -> None:
    given = [{"": {}}, [], {"a": [None, True, 1.5, -0.0, 2**70]}, "\0", "é\u2028\U0001f600", np.int64(3), {"v": np.array([[1, 2]])}]
    ds.j.extend(given)
    ds.flush()
    expected = [{"k": 1}, *given[:5], 3, {"v": [[1, 2]]}]
    assert values(lakefmt.load(ds.path), "j") == expected
