"""Merges where both sides have brought in the same work before: what was undone since stays undone, and nobody's choice is lost."""

from __future__ import annotations

from typing import Any

import pytest
from dataset_tools import values

import lakefmt
from lakefmt.errors import Conflict, MergeConflict, UnknownClass


@pytest.fixture
def ds(mem_url: str) -> Any:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [0, 0, 0]})
    ds.commit("base")
    return ds


def on(ds: Any, branch: str) -> Any:
    ds.checkout(branch, create=branch not in ds.branches)
    return ds


def crossed(ds: Any) -> None:
    """Main changes row 0, dev row 1, and both take over what the other did, each by itself."""
    ds.create_branch("dev")
    ds.x[0] = 5
    mine = ds.commit("main changes row 0")
    on(ds, "dev").x[1] = 7
    theirs = ds.commit("dev changes row 1")
    ds.merge(mine)
    on(ds, "main").merge(theirs)


def test_what_one_side_undoes_after_a_criss_cross_stays_undone(ds: Any) -> None:
    crossed(ds)
    ds.x[1] = 0
    ds.commit("main puts row 1 back")
    on(ds, "dev").append({"x": 1})
    ds.commit("dev goes on elsewhere")
    on(ds, "main").merge("dev")
    assert values(ds) == [5, 0, 0, 1]


def test_what_the_other_side_undoes_after_a_criss_cross_comes(ds: Any) -> None:
    crossed(ds)
    on(ds, "dev").x[0] = 0
    ds.commit("dev puts row 0 back")
    on(ds, "main").append({"x": 1})
    ds.commit("main goes on elsewhere")
    ds.merge("dev")
    assert values(ds) == [0, 7, 0, 1]


@pytest.mark.parametrize("what", ["sample", "row", "tensor"])
def test_work_of_two_branches_that_both_sides_merged(ds: Any, what: str) -> None:
    for branch in ("lib", "fix", "dev"):
        ds.create_branch(branch)
    on(ds, "lib")
    if what == "sample":
        ds.x[1] = 7
    elif what == "row":
        ds.append({"x": 77})
    else:
        ds.create_tensor("t", dtype="int64")
    ds.commit("work of lib")
    on(ds, "fix").x[0] = 5
    ds.commit("work of fix")
    for branch in ("main", "dev"):
        on(ds, branch).merge("lib")
        ds.merge("fix")
    on(ds, "dev").x[2] = 9
    ds.commit("dev goes on elsewhere")
    on(ds, "main")
    if what == "sample":
        ds.x[1] = 0
    elif what == "row":
        ds.pop(3)
    else:
        ds.delete_tensor("t")
    ds.commit("main undoes what lib did")
    ds.merge("dev")
    assert (list(ds.tensors), values(ds)) == (["x"], [5, 0, 9])
    assert ds.fsck(full=True)


def test_a_conflict_settled_in_two_ways_is_one_again(ds: Any) -> None:
    ds.create_branch("dev")
    ds.x[0] = 5
    mine = ds.commit("main")
    on(ds, "dev").x[0] = 6
    theirs = ds.commit("dev")
    ds.merge(mine, "ours")
    on(ds, "main").merge(theirs, "ours")
    assert values(ds)[0] == 5
    with pytest.raises(MergeConflict) as told:
        ds.merge("dev")
    assert list(told.value.rows) == ["x"]
    ds.merge("dev", "theirs")
    assert values(ds)[0] == 6


def test_a_handle_that_has_not_looked_since_merges_nothing_twice(ds: Any, mem_url: str) -> None:
    on(ds, "dev").append({"x": 3})
    ds.x[0] = 10
    ds.commit("dev")
    on(ds, "main")
    first, stale = lakefmt.load(mem_url), lakefmt.load(mem_url)
    first.merge("dev")
    first.pop(3)
    first.x[0] = 1
    first.commit("settled otherwise")
    assert stale.merge("dev") == first.version_id
    assert values(stale) == [1, 0, 0]


def test_samples_both_wrote_first_are_in_conflict(ds: Any) -> None:
    ds.create_tensor("t", dtype="int64")
    ds.create_branch("dev")
    ds.t.extend([10, 20, 30])
    ds.commit("main fills t")
    on(ds, "dev").t.extend([11, 20, 30])
    ds.commit("dev fills t")
    ids = ds.row_ids.tolist()
    assert ds.diff("main", "dev").tensors["t"].updated.tolist() == ids[:1]
    on(ds, "main")
    with pytest.raises(MergeConflict) as told:
        ds.merge("dev")
    assert told.value.rows == {"t": ids[:1]}
    ds.merge("dev", "ours")
    on(ds, "dev").t[0] = 99
    ds.commit("dev changes it again")
    with pytest.raises(MergeConflict):
        on(ds, "main").merge("dev")
    assert values(ds, "t") == [10, 20, 30]


@pytest.mark.parametrize("compacted", [False, True])
def test_a_tensor_that_comes_back_has_no_samples_of_its_former_life(mem_url: str, compacted: bool) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("label", htype="class_label")
    ds.extend({"x": [0], "label": ["a"]})
    ds.commit("base")
    ds.create_branch("dev")
    ds.append({"x": 1, "label": "b"})
    ds.commit("a class that only main has")
    ds.delete_tensor("label")
    ds.commit("main drops labels")
    if compacted:
        ds.compact()
    on(ds, "dev").append({"x": 2, "label": "z"})
    ds.commit("another class, and its id is the same")
    on(ds, "main").merge("dev", "theirs")
    names = [None if v is None else ds.label.class_names[v] for v in values(ds, "label")]
    assert dict(zip(values(ds), names, strict=True)) == {0: "a", 1: None, 2: "z"}


@pytest.mark.parametrize("dropped_here", [True, False])
def test_a_tensor_dropped_on_one_side_and_written_on_the_other_is_a_conflict(ds: Any, dropped_here: bool) -> None:
    ds.create_tensor("t", dtype="int64")
    ds.t.extend([1, 2, 3])
    ds.commit("t")
    ds.create_branch("dev")
    for branch, drops in (("main", dropped_here), ("dev", not dropped_here)):
        on(ds, branch)
        if drops:
            ds.delete_tensor("t")
        else:
            ds.append({"x": 4, "t": 4})
        ds.commit("done")
    on(ds, "main")
    with pytest.raises(MergeConflict, match="'t'"):
        ds.merge("dev")
    ds.merge("dev", "ours")
    assert ("t" in ds.tensors) != dropped_here


@pytest.mark.parametrize("named_here", [True, False])
@pytest.mark.parametrize("written", [True, False])
def test_class_ids_with_names_on_one_side_and_none_on_the_other(mem_url: str, named_here: bool, written: bool) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("label", htype="class_label")
    ds.extend({"label": [0, 1]})
    ds.commit("plain ids")
    ds.create_branch("dev")
    on(ds, "main" if named_here else "dev")
    ds.label.add_class_names("cat", "dog")
    ds.append({"label": "dog"})
    ds.commit("named")
    on(ds, "dev" if named_here else "main")
    if written:
        ds.append({"label": 5})
        ds.commit("a plain id more")
    on(ds, "main")
    if written:
        with pytest.raises(MergeConflict, match="add_class_names"):
            ds.merge("dev", "theirs")
    else:
        ds.merge("dev")
        assert (ds.label.class_names, values(ds, "label")) == (["cat", "dog"], [0, 1, 1])


def test_plain_class_ids_on_one_side_of_a_new_label_tensor(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("label", htype="class_label")
    ds.create_tensor("x", dtype="int64")
    ds.commit("no labels yet")
    ds.create_branch("dev")
    on(ds, "dev").append({"label": 7, "x": 1})
    ds.commit("a plain id")
    on(ds, "main").merge("dev")
    with pytest.raises(UnknownClass):
        ds.append({"label": "cat", "x": 2})
    assert values(ds, "label") == [7]


def test_plain_class_ids_stay_plain_where_another_handle_was_first(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("label", htype="class_label")
    ds.commit("no labels yet")
    one, two = lakefmt.load(mem_url), lakefmt.load(mem_url)
    one.append({"label": 3})
    two.append({"label": "cat"})
    one.flush()
    with pytest.raises(Conflict, match="names"):
        two.flush()
    two.discard()
    two.refresh()
    with pytest.raises(UnknownClass):
        two.append({"label": "cat"})
    assert values(lakefmt.load(mem_url), "label") == [3]


def test_three_branches_that_both_sides_merged(ds: Any) -> None:
    """What is common to both is put together of three, each of which has more than one base with the others."""
    ds.extend({"x": list(range(20))})
    ds.commit("rows")
    for branch in ("p", "q", "v", "w", "z", "m1", "m2"):
        ds.create_branch(branch)
    for i, branch in enumerate(("p", "q")):
        on(ds, branch).pop(i)
        ds.commit(branch)
    for i, branch in enumerate(("v", "w", "z")):
        on(ds, branch).merge("p")
        ds.merge("q")
        ds.pop(3 + i)
        ds.commit(branch)
    for branch in ("m1", "m2"):
        on(ds, branch)
        for merged in ("v", "w", "z"):
            ds.merge(merged)
        ds.append({"x": 100 if branch == "m1" else 200})
        ds.commit(branch)
    before = values(on(ds, "m1"))
    ds.merge("m2")
    assert values(ds) == [*before, 200]
    assert ds.fsck(full=True)
