"""Metadata: what is read is a copy, what is set is stored or refused, nothing is passed over in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import unchanged

import lakefmt
from lakefmt.errors import InvalidInput, NotFound, UnknownClass


@pytest.fixture
def ds(mem_url: str) -> Any:
    """Metadata of a dataset, of labels and of numbers."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("l", htype="class_label", class_names=["a", "b"], info={"k": {"a": 1}})
    ds.create_tensor("x", info={"k": {"a": 1}})
    ds.info["k"] = {"a": [1]}
    ds.append({"l": "a", "x": 1})
    ds.commit("one")
    return ds


def test_values_that_are_read_are_copies(ds: Any) -> None:
    for info in (ds.info, ds.l.info, ds.x.info):
        held = info["k"]
        held["a"] = 2
        info.k["b"] = 3
        next(iter(info.values()))["c"] = 4
        info["other"] = 1
    for info in (ds.info, ds.l.info, ds.x.info, lakefmt.load(ds.path).info):
        assert info["k"] in ({"a": 1}, {"a": [1]})
    given = {"deep": [1]}
    ds.info["given"] = given
    given["deep"].append(2)
    assert ds.info["given"] == {"deep": [1]}


@pytest.mark.parametrize("key", [1, None, True, 1.5, ("k",)])
def test_keys_are_texts(ds: Any, key: Any) -> None:
    for info in (ds.info, ds.l.info, ds.x.info):
        with unchanged(ds), pytest.raises(InvalidInput, match=r"keys (are|must be) str"):
            info[key] = 1
        with unchanged(ds), pytest.raises(InvalidInput, match=r"keys (are|must be) str"):
            info["fine"] = [{key: 1}]
        with pytest.raises(NotFound, match="keys are str"):
            _ = info[key]
        assert key not in info


def test_calls_that_make_no_sense(ds: Any) -> None:
    for info in (ds.info, ds.l.info, ds.x.info):
        for given in ((5,), ([1],), ({}, {}), ([("a", 1, 2)],)):
            with unchanged(ds), pytest.raises(InvalidInput):
                info.update(*given)
        with unchanged(ds), pytest.raises(NotFound, match="nope"):
            del info["nope"]
        info["other"] = 1
        with pytest.raises(NotFound, match="did you mean 'other'"):
            _ = info["othr"]


@pytest.mark.parametrize("names", ["abc", 5, None, ["a", "b", 3], {"a": 0}, {"a", "b", "c"}, [["a", "b"]]])
def test_class_names_that_are_none(ds: Any, names: Any) -> None:
    with unchanged(ds), pytest.raises(InvalidInput):
        ds.l.info["class_names"] = names
    with unchanged(ds), pytest.raises(InvalidInput):
        ds.create_tensor("new", htype="class_label", class_names=5 if names is None else names)
    with unchanged(ds), pytest.raises(InvalidInput, match="class_names"):
        del ds.l.info["class_names"]


def test_class_names_of_what_has_none(ds: Any) -> None:
    with unchanged(ds), pytest.raises(InvalidInput, match="only class_label"):
        ds.x.info["class_names"] = ["a"]
    with unchanged(ds), pytest.raises(InvalidInput, match="class_names="):
        ds.create_tensor("new", htype="class_label", info={"class_names": ["a"]})
    assert "class_names" not in ds.x.info


def test_class_names_of_an_array(ds: Any) -> None:
    ds.create_tensor("new", htype="class_label", class_names=np.array(["x", "y"]))
    assert ds.new.class_names == ["x", "y"]
    ds.l.info["class_names"] = np.array(["a", "b", "c"])
    ds.l.info["unit"] = "kind"
    again = lakefmt.load(ds.path).l
    assert (again.class_names, again.info["unit"]) == (["a", "b", "c"], "kind")
    with pytest.raises(UnknownClass):
        ds.append({"l": "d", "x": 1, "new": "x"})


@pytest.mark.parametrize("info", [[], "text", 5, [("a", 1)]])
def test_info_of_a_new_tensor_is_a_dict(ds: Any, info: Any) -> None:
    with unchanged(ds), pytest.raises(InvalidInput, match="info is a dict"):
        ds.create_tensor("new", info=info)
