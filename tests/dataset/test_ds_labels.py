"""Class labels: names or ids, open or closed, one or several a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import unchanged, values

import lakefmt
from lakefmt.errors import InvalidInput, UnknownClass


@pytest.fixture
def ds(mem_url: str) -> Any:
    """Closed and open labels."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("closed", htype="class_label", class_names=["cat", "dog"])
    ds.create_tensor("open", htype="class_label")
    return ds


@pytest.mark.parametrize("stored", [False, True])
def test_names_and_ids(ds: Any, stored: bool) -> None:
    ds.append({"closed": "dog", "open": "red"})
    ds.append({"closed": 0, "open": 0})
    ds.extend({"closed": ["cat", "dog"], "open": ["blue", "red"]})
    ds.extend({"closed": np.array([1, 0]), "open": [1, "green"]})
    if stored:
        ds.flush()
    assert ds.closed.numpy().tolist() == [1, 0, 0, 1, 1, 0]
    assert ds.open.data()["text"] == ["red", "red", "blue", "red", "blue", "green"]
    assert ds.open.class_names == ds.open.info["class_names"] == ds.open.info.class_names == ["red", "blue", "green"]
    assert ds.closed.dtype == np.uint32
    assert ds.closed[0].data() == {"value": 1, "text": "dog"}


def test_closed_labels_refuse_new_names(ds: Any) -> None:
    ds.append({"closed": "dog", "open": "red"})
    with unchanged(ds), pytest.raises(UnknownClass, match=r"'closed'.*'dig'.*did you mean 'dog'.*add_class_names"):
        ds.append({"closed": "dig", "open": "blue"})
    with unchanged(ds), pytest.raises(UnknownClass, match=r"class id 2 has no name.*2 classes"):
        ds.append({"closed": 2, "open": "blue"})
    ds.closed.add_class_names("bird")
    ds.append({"closed": "bird", "open": "blue"})
    assert ds.closed.data()["text"] == ["dog", "bird"]


def test_several_labels_a_row(ds: Any, mem_url: str) -> None:
    ds.append({"closed": ["cat", "dog"], "open": ["a", "b", "c"]})
    ds.append({"closed": [], "open": [0, 2]})
    ds.append({"closed": np.array([1]), "open": "b"})
    ds.flush()
    again = lakefmt.load(mem_url)
    assert values(again, "closed") == [[0, 1], [], [1]]
    assert again.open.data()["text"] == [["a", "b", "c"], ["a", "c"], "b"]


@pytest.mark.parametrize("allow", [True, False])
def test_whether_labels_are_open_can_be_said(mem_url: str, allow: bool) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("l", htype="class_label", class_names=["a"], allow_new_labels=allow)
    ds.append({"l": "a"})
    if allow:
        ds.append({"l": "b"})
        assert ds.l.class_names == ["a", "b"]
    else:
        with pytest.raises(UnknownClass):
            ds.append({"l": "b"})


def test_a_new_name_in_a_failed_append_is_forgotten(ds: Any, mem_url: str) -> None:
    with pytest.raises(UnknownClass):
        ds.append({"open": "never", "closed": "nope"})
    ds.append({"open": "first", "closed": "cat"})
    ds.flush()
    assert lakefmt.load(mem_url).open.class_names == ["first"]


def test_class_names_are_versioned(ds: Any, mem_url: str) -> None:
    ds.append({"open": "a", "closed": 0})
    first = ds.commit("one")
    ds.append({"open": "b", "closed": 0})
    ds.commit("two")
    assert lakefmt.load(f"{mem_url}@{first}").open.class_names == ["a"]
    assert lakefmt.load(mem_url).open.class_names == ["a", "b"]


def test_info_may_add_class_names_but_not_change_them(ds: Any) -> None:
    ds.closed.info["class_names"] = ["cat", "dog", "bird"]
    assert ds.closed.class_names == ["cat", "dog", "bird"]
    with pytest.raises(InvalidInput, match="only be added"):
        ds.closed.info["class_names"] = ["dog", "cat", "bird"]
    assert ds.closed.class_names == ["cat", "dog", "bird"]


def test_doubled_and_odd_class_names(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    with pytest.raises(InvalidInput, match="more than once"):
        ds.create_tensor("l", htype="class_label", class_names=["a", "a"])
    with pytest.raises(InvalidInput, match="list of str"):
        ds.create_tensor("l", htype="class_label", class_names="ab")
    with pytest.raises(InvalidInput, match="class_label"):
        ds.create_tensor("l", class_names=["a"])
    ds.create_tensor("l", htype="class_label", class_names=["", "ü 図", "a,b"])
    ds.extend({"l": ["a,b", "", "ü 図"]})
    ds.flush()
    assert lakefmt.load(mem_url).l.data()["text"] == ["a,b", "", "ü 図"]


def test_plain_ids_get_no_name_by_chance(mem_url: str) -> None:
    """Ids that came before any name are numbers; a text that comes after them is no class."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("l", htype="class_label")
    ds.append({"l": None})
    ds.append({"l": []})
    ds.append({"l": 3})
    with pytest.raises(UnknownClass, match=r"'l', row 3: no class 'cat'.*add_class_names"):
        ds.append({"l": "cat"})
    with pytest.raises(UnknownClass, match=r"'l', row 4"):
        ds.extend({"l": [1, "cat"]})
    assert (values(ds, "l"), ds.l.class_names) == ([None, [], 3], [])
    ds.extend({"l": np.array([9, 0])})
    assert values(ds, "l")[3:] == [9, 0]


@pytest.mark.parametrize("given", [[1, "cat"], [None, np.array([0, 1]), "cat"], [["cat"], 1], ["cat", 1]])
def test_ids_and_names_in_one_batch(mem_url: str, given: list[Any]) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("l", htype="class_label")
    ds.append({"l": None})
    ds.flush()
    with unchanged(ds), pytest.raises(UnknownClass):
        ds.extend({"l": given})


def test_names_for_plain_ids_come_all_at_once(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("l", htype="class_label")
    ds.extend({"l": [0, 2, 1]})
    ds.flush()
    with unchanged(ds), pytest.raises(UnknownClass, match="up to 2 are stored without names, and 2 names"):
        ds.l.add_class_names("a", "b")
    ds.l.add_class_names("a", "b", "c")
    ds.append({"l": "d"})
    ds.flush()
    assert lakefmt.load(mem_url).l.data()["text"] == ["a", "c", "b", "d"]


def test_integers_that_become_labels_are_plain_ids(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("l", dtype="int32")
    ds.extend({"l": [0, 2]})
    ds.alter_tensor("l", htype="class_label")
    with unchanged(ds), pytest.raises(UnknownClass, match="no names"):
        ds.append({"l": "a"})
    ds.l.add_class_names("a", "b", "c")
    ds.append({"l": "d"})
    assert ds.l.data()["text"] == ["a", "c", "d"]


def test_closed_labels_stay_closed_when_made_labels_again(ds: Any) -> None:
    ds.alter_tensor("closed", htype="class_label")
    ds.append({"closed": "cat", "open": "red"})
    with pytest.raises(UnknownClass):
        ds.append({"closed": "bird", "open": "red"})
