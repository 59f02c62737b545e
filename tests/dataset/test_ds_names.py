"""Names of branches and tags: which there may be, and what is left of one when the dataset under it goes or a rename stops."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from dataset_tools import values

import lakefmt
from lakefmt.errors import InvalidInput, LakeError


@pytest.fixture
def ds(mem_url: str) -> Any:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [1, 2]})
    ds.commit("first")
    return ds


_BAD = ["", "a/", "/a", "a//b", "a/../b", ".", "..", "x/.queries", ".queries/x", "x/.queries/y", "a@b", " a", "\ud800", 5, None]


@pytest.mark.parametrize("name", _BAD)
def test_names_that_could_not_be_addressed_are_refused(ds: Any, name: Any) -> None:
    ds.create_branch("there")
    for act in (
        lambda: ds.create_branch(name), lambda: ds.tag(name), lambda: ds.rename_branch("there", name),
        lambda: ds.checkout(name, create=True),
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            act()
    assert (ds.branches, ds.tags) == (["main", "there"], {})


def test_a_branch_renamed_there_and_back_keeps_one_name_where_both_renames_stopped(ds: Any) -> None:
    ds.create_branch("a")
    refs = ds._log.refs
    first = refs.find_branch("a")
    ds.rename_branch("a", "b")
    refs.create_branch(first)  # as if the first rename had stopped before it took the old name away
    assert ds.branches == ["b", "main"]
    ds.rename_branch("b", "a")
    assert ds.branches == ["a", "main"]
    refs.create_branch(msgspec.structs.replace(first, name="b", renamed_from="a", generation=1))  # and the second one
    assert ds.branches == ["a", "main"]
    assert values(lakefmt.load(f"{ds.path}@a")) == [1, 2]


@pytest.mark.parametrize("again", [False, True])
def test_a_handle_whose_dataset_was_deleted_leaves_no_names(ds: Any, again: bool) -> None:
    lakefmt.delete(ds.path)
    if again:
        lakefmt.dataset(ds.path).create_tensor("y")
    for act in (
        lambda: ds.create_branch("dev"), lambda: ds.tag("v1"), lambda: ds.lease().__enter__(), lambda: ds[:1].save_view("some"),
        lambda: ds.rename_branch("main", "other"), lambda: ds.checkout("dev", create=True),
        lambda: ds.commit("x", allow_empty=True),
    ):  # fmt: skip
        with pytest.raises(LakeError):
            act()
    left = sorted(e.key for e in ds._log.store.list("") if e.key.startswith(("refs/", ".queries/")))
    assert left == (["refs/branches/main.json"] if again else [])
    if again:
        assert list(lakefmt.load(ds.path).tensors) == ["y"]
        assert lakefmt.load(ds.path).fsck(full=True)
