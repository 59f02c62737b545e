"""Merging brings another branch's work in, row by row id: nothing is lost, doubled or changed on the way, and clashes are told."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
from dataset_tools import contents, values
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import lakefmt
from lakefmt.errors import Conflict, InvalidInput, LakeError, MergeConflict, NoSuchVersion, ReadOnly
from lakefmt.versioning import leaves

Table = dict[int, dict[str, Any]]


def made(url: str, **tensors: dict[str, Any]) -> Any:
    """A new dataset with some tensors; an int64 tensor x by default."""
    ds = lakefmt.dataset(url)
    for name, options in (tensors or {"x": {"dtype": "int64"}}).items():
        ds.create_tensor(name, **options)
    return ds


def branched(ds: Any, name: str = "dev") -> Any:
    """Another handle, on a new branch that begins here."""
    ds.create_branch(name)
    return lakefmt.load(f"{ds.path}@{name}")


def pair(url: str, rows: list[int] | None = None) -> tuple[Any, Any]:
    """Handles on ``main`` and ``dev``, which have some rows in common (1, 2, 3 by default)."""
    ds = made(url)
    ds.extend({"x": [1, 2, 3] if rows is None else rows})
    ds.commit("base")
    return ds, branched(ds)


def table(ds: Any) -> Table:
    """Rows by row id; class labels as names."""
    ids = ds[:].row_ids.tolist()
    assert len(set(ids)) == len(ids), "a row is there twice"
    columns = {n: t.data()["text"] if t.htype == "class_label" else values(ds, n) for n, t in ds.tensors.items()}
    return {r: {n: c[i] if i < len(c) else None for n, c in columns.items()} for i, r in enumerate(ids)}


def ids(ds: Any) -> list[int]:
    """Row ids in row order."""
    return list(ds[:].row_ids.tolist())


def refused(ds: Any, source: str = "dev") -> MergeConflict:
    """The error of a merge that must be refused, and must change nothing."""
    ds.flush()
    before = (ds.version_id, contents(ds), ids(ds), len(ds.history()), dict(ds.info))
    with pytest.raises(MergeConflict) as caught:
        ds.merge(source)
    assert (ds.version_id, contents(ds), ids(ds), len(ds.history()), dict(ds.info)) == before
    assert "conflict_resolution" in str(caught.value)
    return caught.value


# -- rows on either side -----------------------------------------------------------------------------------------------


def test_rows_appended_updated_and_popped_on_the_other_side_come_over(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.x[0] = 10
    dev.pop(1)
    dev.append({"x": 4})
    dev.commit("work")
    expected = table(dev)
    merged = ds.merge("dev")
    assert table(ds) == table(lakefmt.load(mem_url)) == expected
    assert merged == ds.version_id
    assert ds.commits[0]["message"] == "Merge dev into main"
    assert ds.history()[0].merged == (dev.history()[0].branch, dev.history()[0].v)


def test_rows_of_this_side_stay(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.append({"x": 4})
    dev.commit("work")
    ds.x[0] = 10
    ds.pop(1)
    ds.append({"x": 5})
    ds.commit("own work")
    expected = table(ds) | {ids(dev)[-1]: {"x": 4}}
    ds.merge("dev")
    assert table(ds) == expected
    assert values(ds) == [10, 3, 5, 4]
    assert values(dev) == [1, 2, 3, 4], "the source stays as it was"


def test_both_sides_do_everything_to_different_rows(mem_url: str) -> None:
    ds, dev = pair(mem_url, [1, 2, 3, 4, 5, 6])
    both = ids(ds)
    ds.x[0] = 10
    ds.pop(2)
    ds.append({"x": 70})
    ds.commit("ours")
    dev.x[1] = 20
    dev.pop(3)
    dev.append({"x": 80})
    dev.commit("theirs")
    expected = {both[0]: 10, both[1]: 20, both[4]: 5, both[5]: 6, ids(ds)[-1]: 70, ids(dev)[-1]: 80}
    ds.merge("dev")
    assert {i: r["x"] for i, r in table(ds).items()} == expected


def test_the_same_row_popped_on_both_sides_is_no_conflict(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    ds.pop(1)
    dev.pop(1)
    dev.commit("pop")
    ds.merge("dev")
    assert values(ds) == [1, 3]


def test_different_tensors_of_one_row_are_no_conflict(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, y={"dtype": "int64"})
    ds.extend({"x": [1, 2], "y": [3, 4]})
    dev = branched(ds)
    ds.x[0] = 10
    dev.y[0] = 30
    dev.commit("y")
    ds.merge("dev")
    assert contents(ds) == {"x": [10, 2], "y": [30, 4]}


def test_buffered_rows_of_this_handle_are_part_of_the_merge(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.append({"x": 4})
    dev.commit("work")
    ds.append({"x": 5})
    ds.x[0] = 10
    ds.merge("dev")
    assert values(ds) == values(lakefmt.load(mem_url)) == [10, 2, 3, 5, 4]


def test_buffered_updates_of_this_handle_conflict(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.x[0] = 10
    dev.commit("work")
    ds.x[0] = 11
    with pytest.raises(MergeConflict):
        ds.merge("dev")
    assert values(ds) == [11, 2, 3]


def test_rows_buffered_on_the_other_handle_are_not_there_to_be_merged(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.append({"x": 4})
    ds.merge("dev")
    assert values(ds) == [1, 2, 3]
    dev.flush()
    ds.merge("dev")
    assert values(ds) == [1, 2, 3, 4]


def test_a_tag_or_a_version_is_merged_as_it_was(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.append({"x": 4})
    dev.tag("four")
    dev.append({"x": 5})
    five = dev.commit("five")
    dev.append({"x": 6})
    dev.commit("six")
    ds.merge("four")
    assert values(ds) == [1, 2, 3, 4]
    ds.merge(five)
    assert values(ds) == [1, 2, 3, 4, 5]
    ds.merge("dev", message="all of it")
    assert values(ds) == [1, 2, 3, 4, 5, 6]
    assert ds.commits[0]["message"] == "all of it"
    version = ds.version_id
    ds.merge("four")
    assert ds.version_id == version, "an older version of what was merged is here already"


def test_merging_a_branch_into_itself_or_its_own_past_changes_nothing(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    first = ds.commits[0]["commit"]
    dev.append({"x": 4})
    version = dev.commit("work")
    for source in ("dev", "main", first, version):
        assert dev.merge(source) == version
    assert values(dev) == [1, 2, 3, 4]


def test_bad_arguments_are_told(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    with pytest.raises(InvalidInput, match="conflict_resolution='mine'"):
        ds.merge("dev", "mine")
    with pytest.raises(NoSuchVersion, match="'dev'"):
        ds.merge("dec")
    with pytest.raises(ReadOnly):
        lakefmt.load(f"{mem_url}@{dev.version_id}").merge("dev")
    with pytest.raises(InvalidInput):
        ds.merge(None)
    assert values(ds) == [1, 2, 3]


# -- conflicts ---------------------------------------------------------------------------------------------------------


def test_the_same_sample_changed_on_both_sides_is_told_with_its_row_ids(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, y={"dtype": "int64"})
    ds.extend({"x": [1, 2, 3, 4], "y": [5, 6, 7, 8]})
    dev = branched(ds)
    for side, k in ((ds, 10), (dev, 100)):
        side.x[1] = 2 * k
        side.x[3] = 4 * k
        side.y[0] = 5 * k
        side.commit("work")
    ds.y[2] = 70
    dev.append({"x": 0, "y": 0})
    dev.flush()
    at = ids(ds)
    error = refused(ds)
    assert error.rows == {"x": [at[1], at[3]], "y": [at[0]]}
    assert error.schema == []
    assert isinstance(error, Conflict)
    assert "'x': 2 rows" in str(error)


@pytest.mark.parametrize(("resolution", "expected"), [("ours", [10, 20, 30, 4]), ("theirs", [11, 20, 31, 4])])
def test_a_resolution_says_whose_sample_counts(mem_url: str, resolution: str, expected: list[int]) -> None:
    ds, dev = pair(mem_url)
    ds.x[0] = 10
    ds.x[1] = 20
    ds.x[2] = 30
    ds.commit("ours")
    dev.x[0] = 11
    dev.x[2] = 31
    dev.append({"x": 4})
    dev.commit("theirs")
    refused(ds)
    ds.merge("dev", resolution)
    assert values(ds) == values(lakefmt.load(mem_url)) == expected
    version = ds.version_id
    assert ds.merge("dev") == version, "what was resolved is merged"


@pytest.mark.parametrize("popped_here", [True, False])
@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("resolution", ["ours", "theirs"])
def test_a_row_updated_on_one_side_and_popped_on_the_other(
    mem_url: str, popped_here: bool, compacted: bool, resolution: str
) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, t={"htype": "text"})
    ds.extend({"x": [1, 2, 3], "t": ["a", "b", "c"]})
    dev = branched(ds)
    at = ids(ds)
    one, other = (ds, dev) if popped_here else (dev, ds)
    one.pop(1)
    other.x[1] = 20
    for side in (one, other):
        side.commit("work")
        if compacted:
            side.compact()
    assert refused(ds).rows == {"x": [at[1]]}
    ds.merge("dev", resolution)
    stays = popped_here == (resolution == "theirs")
    expected = {at[0]: {"x": 1, "t": "a"}, at[2]: {"x": 3, "t": "c"}} | ({at[1]: {"x": 20, "t": "b"}} if stays else {})
    assert table(ds) == table(lakefmt.load(mem_url)) == expected


def test_equal_samples_given_on_both_sides_are_no_conflict(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, t={"htype": "text"}, v={})
    ds.extend({"x": [1, 2], "t": ["a", None], "v": [np.zeros(2), np.zeros(3)]})
    dev = branched(ds)
    for side in (ds, dev):
        side.x[0] = 10
        side.t[1] = "b"
        side.v[0] = np.ones(4)
        side.commit("the same")
    ds.merge("dev")
    assert contents(ds) == {"x": [10, 2], "t": ["a", "b"], "v": [[1, 1, 1, 1], [0, 0, 0]]}


def test_a_popped_row_does_not_return_because_of_a_tensor_that_is_gone(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, y={"dtype": "int64"})
    ds.extend({"x": [1, 2], "y": [5, 6]})
    dev = branched(ds)
    dev.y[0] = 50
    dev.delete_tensor("y")
    dev.commit("no y")
    ds.pop(0)
    ds.merge("dev")
    assert contents(ds) == {"x": [2]}


# -- again and again ---------------------------------------------------------------------------------------------------


def test_merging_twice_is_a_no_op(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.append({"x": 4})
    dev.x[0] = 10
    dev.commit("work")
    version = ds.merge("dev")
    assert ds.merge("dev") == version
    assert len([h for h in ds.history() if h.merged]) == 1
    ds.x[0] = 11
    ds.pop(3)
    ds.commit("later")
    version = ds.version_id
    assert ds.merge("dev") == version
    assert values(ds) == [11, 2, 3], "what was changed after the merge is not taken back"


def test_back_and_forth(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    for k in range(4):
        dev.append({"x": 100 + k})
        dev.x[0] = 10 + k
        dev.commit("dev")
        ds.merge("dev")
        assert table(ds) == table(dev)
        ds.append({"x": 200 + k})
        ds.x[1] = 20 + k
        ds.pop(2)
        ds.commit("main")
        dev.merge("main")
        assert table(dev) == table(ds)
    assert values(ds)[:2] == [13, 23]


def test_what_ours_kept_goes_to_the_other_side_with_the_next_merge(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    ds.x[0] = 10
    ds.commit("ours")
    dev.x[0] = 11
    dev.commit("theirs")
    ds.merge("dev", "ours")
    dev.merge("main")
    assert values(dev) == values(ds) == [10, 2, 3]


def test_a_merge_does_not_take_back_what_changed_here_since_the_other_side_had_it(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    ds.x[0] = 10
    ds.commit("ten")
    dev.merge("main")
    ds.x[0] = 20
    ds.commit("twenty")
    ds.merge("dev")
    assert values(ds) == [20, 2, 3]


def test_merges_that_cross_find_no_conflict_where_nobody_disagreed(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    ds.x[0] = 10
    one = ds.commit("main")
    dev.x[1] = 20
    other = dev.commit("dev")
    ds.merge(other)
    dev.merge(one)
    ds.merge("dev")
    assert values(ds) == [10, 20, 3]


def test_a_branch_of_a_branch(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.append({"x": 4})
    dev.commit("dev")
    leaf = branched(dev, "leaf")
    leaf.append({"x": 5})
    leaf.x[0] = 10
    leaf.commit("leaf")
    dev.append({"x": 6})
    dev.commit("dev again")
    ds.append({"x": 7})
    ds.commit("main")
    ds.merge("leaf")
    assert sorted(values(ds)) == [2, 3, 4, 5, 7, 10]
    ds.merge("dev")
    assert sorted(values(ds)) == [2, 3, 4, 5, 6, 7, 10]
    leaf.merge("main")
    assert table(leaf) == table(ds)
    dev.merge("leaf")
    assert table(dev) == table(ds)


def test_two_branches_brought_together_by_way_of_a_third(mem_url: str) -> None:
    ds, one = pair(mem_url)
    other = branched(ds, "other")
    one.append({"x": 4})
    one.x[0] = 10
    one.commit("one")
    other.append({"x": 5})
    other.x[1] = 20
    other.commit("other")
    ds.merge("dev")
    ds.merge("other")
    other.merge("dev")
    other.merge("main")
    assert table(other) == table(ds)
    assert sorted(values(ds)) == [3, 4, 5, 10, 20]


def test_a_merged_branch_may_be_deleted_and_others_are_merged_as_before(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.append({"x": 4})
    dev.commit("dev")
    ds.merge("dev")
    dev.checkout("main")
    ds.delete_branch("dev")
    other = branched(ds, "other")
    other.append({"x": 5})
    other.commit("other")
    ds.append({"x": 6})
    ds.merge("other")
    assert values(ds) == [1, 2, 3, 4, 6, 5]


def test_flushed_versions_that_were_merged_may_expire(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.append({"x": 4})
    dev.flush()
    ds.merge("dev")
    dev.x[3] = 40
    dev.flush()
    dev.append({"x": 5})
    dev.flush()
    ds.append({"x": 6})
    ds.flush()
    ds.expire(0, grace_s=0)
    ds.merge("dev")
    assert values(ds) == [1, 2, 3, 40, 6, 5]


@pytest.mark.parametrize("compacted", [("dev",), ("main",), ("main", "dev")])
def test_versions_between_may_expire_after_a_compaction(mem_url: str, compacted: tuple[str, ...]) -> None:
    ds, dev = pair(mem_url)
    for side in (ds, dev):
        for k in (1, 2):
            side.append({"x": 10 + k})
            side.flush()
    dev.x[0] = 10
    dev.flush()
    for name in compacted:
        side = {"main": ds, "dev": dev}[name]
        side.compact()
        side.append({"x": 9})
        side.flush()
    ds.expire(0, grace_s=0)
    ds.merge("dev")
    assert values(ds)[:3] == [10, 2, 3]
    assert len(ds) == 7 + len(compacted)


# -- compaction --------------------------------------------------------------------------------------------------------

SIDES = [(), ("main",), ("dev",), ("main", "dev")]


@pytest.mark.parametrize("compacted", SIDES)
def test_rows_keep_their_ids_when_either_side_was_compacted(mem_url: str, compacted: tuple[str, ...]) -> None:
    ds, dev = pair(mem_url, [1, 2, 3, 4, 5, 6])
    ds.x[0] = 10
    ds.pop(2)
    ds.append({"x": 70})
    ds.commit("ours")
    dev.x[1] = 20
    dev.pop(3)
    dev.append({"x": 80})
    dev.commit("theirs")
    expected = {i: r for i, r in table(ds).items() if i in table(dev) or r["x"] == 70}
    expected[ids(dev)[1]] = {"x": 20}
    expected[ids(dev)[-1]] = {"x": 80}
    for name in compacted:
        {"main": ds, "dev": dev}[name].compact()
    ds.merge("dev")
    assert table(ds) == table(lakefmt.load(mem_url)) == expected
    ds.compact()
    assert table(ds) == expected


@pytest.mark.parametrize("compacted", SIDES)
def test_conflicts_are_found_when_either_side_was_compacted(mem_url: str, compacted: tuple[str, ...]) -> None:
    ds, dev = pair(mem_url)
    at = ids(ds)
    ds.x[1] = 20
    ds.commit("ours")
    dev.x[1] = 21
    dev.x[0] = 10
    dev.commit("theirs")
    for name in compacted:
        {"main": ds, "dev": dev}[name].compact()
    assert refused(ds).rows == {"x": [at[1]]}
    ds.merge("dev", "theirs")
    assert values(ds) == [10, 21, 3]


@pytest.mark.parametrize("compacted", SIDES)
def test_merging_again_after_a_compaction(mem_url: str, compacted: tuple[str, ...]) -> None:
    ds, dev = pair(mem_url)
    dev.append({"x": 4})
    dev.commit("dev")
    ds.append({"x": 5})
    ds.commit("main")
    ds.merge("dev")
    for name in compacted:
        {"main": ds, "dev": dev}[name].compact()
    dev.append({"x": 6})
    dev.x[3] = 40
    dev.commit("dev again")
    ds.x[0] = 10
    ds.merge("dev")
    assert values(ds) == [10, 2, 3, 5, 40, 6]
    dev.merge("main")
    assert table(dev) == table(ds)
    at = dict(zip(values(dev), ids(dev), strict=True))
    for side, value in ((ds, 400), (dev, 401)):
        side.x[values(side).index(40)] = value
        side.commit("both")
    assert refused(ds).rows == {"x": [at[40]]}


def test_a_restored_version_is_merged_though_there_was_a_compaction(mem_url: str) -> None:
    ds = made(mem_url)
    ds.extend({"x": [1, 2]})
    first = ds.commit("first")
    ds.x[0] = 9
    ds.commit("an update")
    ds.compact()
    compacted = ds.version_id
    dev = branched(ds)
    dev.append({"x": 7})
    dev.commit("dev")
    ds.restore(first)
    assert len(ds.diff(compacted).tensors["x"].updated) == 1
    dev.merge("main")
    assert values(dev) == [1, 2, 7]


# -- class labels ------------------------------------------------------------------------------------------------------


def test_class_names_given_in_another_order_are_matched_by_name(mem_url: str) -> None:
    ds = made(mem_url, l={"htype": "class_label"})
    ds.extend({"l": ["cat", "dog"]})
    dev = branched(ds)
    dev.extend({"l": ["bird", "fish", ["fish", "cat"], [], None]})
    dev.l[0] = "bird"
    dev.commit("dev")
    ds.extend({"l": ["fish", "bird", "cow"]})
    ds.l[1] = "cow"
    ds.commit("main")
    expected = table(ds) | {i: r for i, r in table(dev).items() if i not in table(ds)}
    expected[ids(dev)[0]] = {"l": "bird"}
    ds.merge("dev")
    assert table(ds) == table(lakefmt.load(mem_url)) == expected
    assert ds.l.class_names == ["cat", "dog", "fish", "bird", "cow"]
    assert ds.l.data()["text"] == ["bird", "cow", "fish", "bird", "cow", "bird", "fish", ["fish", "cat"], [], None]


def test_labels_are_merged_again_and_back(mem_url: str) -> None:
    ds = made(mem_url, l={"htype": "class_label"})
    ds.extend({"l": ["a"]})
    dev = branched(ds)
    dev.append({"l": "b"})
    dev.commit("b")
    ds.append({"l": "c"})
    ds.commit("c")
    ds.merge("dev")
    dev.append({"l": "d"})
    dev.l[1] = ["d", "b"]
    dev.commit("d")
    ds.merge("dev")
    assert ds.l.data()["text"] == ["a", "c", ["d", "b"], "d"]
    dev.merge("main")
    assert table(dev) == table(ds)
    dev.append({"l": "c"})
    dev.commit("c again")
    ds.merge("dev")
    assert table(dev) == table(ds)


def test_closed_labels_of_both_sides_are_joined(mem_url: str) -> None:
    ds = made(mem_url, l={"htype": "class_label", "class_names": ["a"]})
    ds.append({"l": "a"})
    dev = branched(ds)
    dev.l.add_class_names("b", "z")
    dev.extend({"l": ["b", "z"]})
    dev.commit("b")
    ds.l.add_class_names("c", "z")
    ds.extend({"l": ["c", "z"]})
    ds.commit("c")
    ds.merge("dev")
    assert ds.l.data()["text"] == ["a", "c", "z", "b", "z"]
    assert ds.l.class_names == ["a", "c", "z", "b"]


def test_more_classes_than_the_dtype_holds_never_become_other_classes(mem_url: str) -> None:
    ds = made(mem_url, l={"htype": "class_label", "dtype": "uint8"})
    dev = branched(ds)
    ds.extend({"l": [f"a{i}" for i in range(200)]})
    dev.extend({"l": [f"b{i}" for i in range(200)]})
    dev.commit("b")
    ds.commit("a")
    expected = [f"{k}{i}" for k in "ab" for i in range(200)]
    try:
        ds.merge("dev")
    except LakeError:
        expected = expected[:200]
    assert ds.l.data()["text"] == expected


# -- tensors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", SIDES)
def test_a_tensor_created_on_the_other_side_comes_with_its_samples(mem_url: str, compacted: tuple[str, ...]) -> None:
    ds, dev = pair(mem_url)
    dev.create_tensor("t", htype="text")
    dev.t.extend(["a", "b"])
    dev.append({"x": 4, "t": "d"})
    dev.commit("dev")
    ds.append({"x": 5})
    ds.pop(2)
    ds.commit("main")
    for name in compacted:
        {"main": ds, "dev": dev}[name].compact()
    ds.merge("dev")
    assert sorted(table(ds).values(), key=lambda r: r["x"]) == [
        {"x": 1, "t": "a"}, {"x": 2, "t": "b"}, {"x": 4, "t": "d"}, {"x": 5, "t": None},
    ]  # fmt: skip
    ds.append({"x": 6, "t": "f"})
    assert values(ds, "t")[-1] == "f"


def test_a_tensor_created_here_is_missing_in_the_rows_that_come(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    ds.create_tensor("y", dtype="int64")
    ds.y.extend([1, 2, 3])
    dev.append({"x": 4})
    dev.commit("dev")
    ds.merge("dev")
    assert table(ds)[ids(dev)[-1]] == {"x": 4, "y": None}
    ds.append({"x": 5, "y": 5})
    assert contents(ds) == {"x": [1, 2, 3, 4, 5], "y": [1, 2, 3, None, 5]}


@pytest.mark.parametrize("renamed_here", [True, False])
def test_a_tensor_renamed_on_one_side_takes_the_samples_of_the_other(mem_url: str, renamed_here: bool) -> None:
    ds, dev = pair(mem_url)
    one, other = (ds, dev) if renamed_here else (dev, ds)
    one.rename_tensor("x", "group/y")
    one.commit("rename")
    other.append({"x": 4})
    other.x[0] = 10
    other.commit("rows")
    ds.merge("dev")
    assert contents(ds) == {"group/y": [10, 2, 3, 4]}


def test_a_tensor_renamed_on_both_sides(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    ds.rename_tensor("x", "a")
    dev.rename_tensor("x", "b")
    dev.commit("b")
    error = refused(ds)
    assert len(error.schema) == 1
    ds.merge("dev", "theirs")
    assert list(ds.tensors) == ["b"]
    dev.rename_tensor("b", "c")
    dev.commit("c")
    ds.merge("dev")
    assert contents(ds) == {"c": [1, 2, 3]}


def test_names_exchanged_on_the_other_side(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, y={"dtype": "int64"})
    ds.extend({"x": [1, 2], "y": [5, 6]})
    dev = branched(ds)
    for old, new in (("x", "z"), ("y", "x"), ("z", "y")):
        dev.rename_tensor(old, new)
    dev.commit("exchange")
    ds.merge("dev")
    assert contents(ds) == {"y": [1, 2], "x": [5, 6]}


def test_a_name_taken_from_a_deleted_tensor_on_the_other_side(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, y={"dtype": "int64"})
    ds.extend({"x": [1, 2], "y": [5, 6]})
    dev = branched(ds)
    dev.delete_tensor("y")
    dev.rename_tensor("x", "y")
    dev.commit("y is x")
    ds.merge("dev")
    assert contents(ds) == {"y": [1, 2]}


def test_a_tensor_made_anew_under_the_name_of_a_deleted_one(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, y={"dtype": "int64"})
    ds.extend({"x": [1, 2], "y": [5, 6]})
    dev = branched(ds)
    dev.delete_tensor("y")
    dev.create_tensor("y", htype="text")
    dev.y.extend(["a", "b"])
    dev.commit("another y")
    ds.append({"x": 3, "y": 7})
    ds.commit("rows")
    assert refused(ds).schema, "a sample given here is not dropped unasked"
    ds.merge("dev", "theirs")
    assert [*table(ds).values()] == [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}, {"x": 3, "y": None}]


@pytest.mark.parametrize("deleted_here", [True, False])
def test_a_tensor_deleted_on_one_side_that_the_other_left_alone_goes(mem_url: str, deleted_here: bool) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, y={"dtype": "int64"})
    ds.extend({"x": [1, 2], "y": [5, 6]})
    dev = branched(ds)
    one, other = (ds, dev) if deleted_here else (dev, ds)
    one.delete_tensor("y")
    one.commit("no y")
    other.x[0] = 10
    other.pop(1)
    other.commit("rows")
    ds.merge("dev")
    assert contents(ds) == {"x": [10]}


@pytest.mark.parametrize("compacted", SIDES)
@pytest.mark.parametrize("deleted_here", [True, False])
@pytest.mark.parametrize("resolution", ["ours", "theirs"])
def test_a_tensor_deleted_on_one_side_and_changed_on_the_other(
    mem_url: str, compacted: tuple[str, ...], deleted_here: bool, resolution: str
) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, y={"dtype": "int64"})
    ds.extend({"x": [1, 2], "y": [5, 6]})
    dev = branched(ds)
    one, other = (ds, dev) if deleted_here else (dev, ds)
    one.delete_tensor("y")
    one.append({"x": 3})
    one.commit("no y")
    other.y[0] = 50
    other.commit("y")
    for name in compacted:
        {"main": ds, "dev": dev}[name].compact()
    assert refused(ds).schema
    ds.merge("dev", resolution)
    rows = [(r["x"], r.get("y", "no tensor")) for r in table(ds).values()]
    if deleted_here == (resolution == "ours"):
        assert rows == [(1, "no tensor"), (2, "no tensor"), (3, "no tensor")]
    else:
        assert rows == [(1, 50), (2, 6), (3, None)]


@pytest.mark.parametrize("resolution", [None, "ours", "theirs"])
def test_tensors_of_one_name_made_on_both_sides_are_never_mixed(mem_url: str, resolution: str | None) -> None:
    ds, dev = pair(mem_url)
    for side, value in ((ds, 1), (dev, 2)):
        side.create_tensor("y", dtype="int64")
        side.y.extend([value] * 3)
        side.commit("y")
    before = (ds.version_id, contents(ds))
    with pytest.raises(MergeConflict, match=r"'y'.*rename_tensor") as caught:
        ds.merge("dev", resolution)
    assert caught.value.schema
    assert (ds.version_id, contents(ds)) == before
    ds.rename_tensor("y", "y_here")
    ds.merge("dev", resolution)
    assert contents(ds) == {"x": [1, 2, 3], "y_here": [1, 1, 1], "y": [2, 2, 2]}


def test_a_tensor_and_a_group_of_one_name_made_on_both_sides(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    ds.create_tensor("a", dtype="int64")
    dev.create_tensor("a/b", dtype="int64")
    dev.commit("group")
    with pytest.raises(MergeConflict, match="'a'"):
        ds.merge("dev")


@pytest.mark.parametrize("widened_here", [True, False])
@pytest.mark.parametrize("compacted", SIDES)
def test_a_dtype_widened_on_one_side(mem_url: str, widened_here: bool, compacted: tuple[str, ...]) -> None:
    ds = made(mem_url, x={"dtype": "uint8"}, v={"dtype": "uint8"})
    ds.extend({"x": [1, 2, 3], "v": [np.array([1, 2], "u1"), np.array([3], "u1"), None]})
    dev = branched(ds)
    one, other = (ds, dev) if widened_here else (dev, ds)
    for name in ("x", "v"):
        one.alter_tensor(name, dtype="float32")
    one.x[0] = -0.5
    one.v[2] = np.array([0.25], "f4")
    one.append({"x": 1000, "v": np.array([], "f4")})
    one.commit("wide")
    other.x[1] = 200
    other.append({"x": 255, "v": np.array([255], "u1")})
    other.commit("narrow")
    for name in compacted:
        {"main": ds, "dev": dev}[name].compact()
    ds.merge("dev")
    assert ds.x.dtype == ds.v.dtype == np.float32
    rows = sorted(table(ds).values(), key=lambda r: r["x"])
    assert rows == [
        {"x": -0.5, "v": [1, 2]}, {"x": 3, "v": [0.25]}, {"x": 200, "v": [3]}, {"x": 255, "v": [255]}, {"x": 1000, "v": []},
    ]  # fmt: skip
    assert {a.dtype for a in ds.v.numpy(aslist=True)} == {np.dtype("float32")}
    ds.append({"x": 0.5, "v": np.array([0.125], "f4")})
    assert values(ds)[-1] == 0.5
    assert {b["x"].dtype for b in ds.query("select x").dataloader().batch(2).numpy()} == {np.dtype("float32")}
    assert len(ds.query("select * where x < 1")) == 2


def test_a_dtype_widened_differently_on_both_sides(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "uint8"})
    ds.extend({"x": [1, 2]})
    dev = branched(ds)
    ds.alter_tensor("x", dtype="int16")
    ds.append({"x": -300})
    dev.alter_tensor("x", dtype="int32")
    dev.append({"x": 70000})
    dev.commit("dev")
    ds.merge("dev")
    assert ds.x.dtype == np.int32
    assert ds.x.numpy().tolist() == [1, 2, -300, 70000]
    assert ds.x.numpy().dtype == np.int32


def test_first_samples_of_different_dtypes_clash(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, u={})
    ds.extend({"x": [1, 2], "u": [None, None]})
    dev = branched(ds)
    ds.u[0] = np.int32(5)
    dev.u[1] = np.float32(0.5)
    dev.commit("float")
    assert refused(ds).schema


def test_the_first_dtype_given_on_one_side_only(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, u={})
    ds.extend({"x": [1, 2], "u": [None, None]})
    dev = branched(ds)
    dev.u[1] = np.float32(0.5)
    dev.commit("float")
    ds.append({"x": 3, "u": None})
    ds.merge("dev")
    assert contents(ds) == {"x": [1, 2, 3], "u": [None, 0.5, None]}
    assert ds.u.dtype == np.float32


def test_a_sample_that_the_narrow_dtype_would_take_for_another_is_told_apart(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "uint8"}, v={"dtype": "uint8"})
    ds.extend({"x": [44, 2], "v": [np.array([44], "u1"), np.array([1, 2], "u1")]})
    ds.commit("base")
    dev = branched(ds)
    dev.append({"x": 5, "v": np.array([5], "u1")})
    dev.commit("dev")
    ds.merge("dev")
    for name in ("x", "v"):
        ds.alter_tensor(name, dtype="int16")
    ds.x[0] = 300  # 44 in eight bits
    ds.v[0] = np.array([300], "i2")
    ds.commit("wide")
    ds.compact()
    dev.x[1] = 6
    dev.v[1] = np.array([6], "u1")
    dev.commit("dev again")
    dev.merge("main")
    assert contents(dev) == {"x": [300, 6, 5], "v": [[300], [6], [5]]}


# -- metadata ----------------------------------------------------------------------------------------------------------


def test_info_is_merged_key_by_key(mem_url: str) -> None:
    ds = made(mem_url)
    ds.info.update(same=1, ours=1, theirs=1, gone_here=1, gone_there=1, both=1)
    dev = branched(ds)
    ds.info.update(ours=2, new_here=5, both=2)
    del ds.info["gone_here"]
    dev.info.update(theirs=3, new_there=6, both=2)
    del dev.info["gone_there"]
    dev.commit("dev")
    ds.merge("dev")
    assert dict(ds.info) == {"same": 1, "ours": 2, "theirs": 3, "both": 2, "new_here": 5, "new_there": 6}


@pytest.mark.parametrize("resolution", ["ours", "theirs"])
def test_one_key_of_info_changed_on_both_sides(mem_url: str, resolution: str) -> None:
    ds = made(mem_url)
    ds.info.update(a=1, b=1)
    dev = branched(ds)
    ds.info.update(a=2, b=2)
    dev.info["a"] = 3
    del dev.info["b"]
    dev.commit("dev")
    error = refused(ds)
    assert len(error.schema) == 2
    assert "object at 0x" not in str(error)
    ds.merge("dev", resolution)
    assert dict(ds.info) == ({"a": 2, "b": 2} if resolution == "ours" else {"a": 3})


def test_info_of_a_tensor_is_merged(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.x.info["unit"] = "m"
    dev.commit("dev")
    ds.append({"x": 4})
    ds.merge("dev")
    assert dict(ds.x.info) == {"unit": "m"}
    assert values(ds) == [1, 2, 3, 4]


def test_info_of_a_tensor_is_merged_key_by_key_too(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.x.info["unit"] = "m"
    dev.commit("dev")
    ds.x.info["scale"] = 2
    ds.merge("dev")
    assert dict(ds.x.info) == {"unit": "m", "scale": 2}


# -- kinds of samples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", SIDES)
def test_samples_of_every_kind_survive_byte_for_byte(
    mem_url: str, png_bytes: bytes, jpeg_bytes: bytes, pixels: np.ndarray[Any, Any], compacted: tuple[str, ...]
) -> None:
    ds = made(
        mem_url, x={"dtype": "int64"}, png={"htype": "image", "sample_compression": "png"},
        jpeg={"htype": "image", "sample_compression": "jpeg"}, raw={"htype": "image", "sample_compression": None},
        v={"dtype": "float32"}, t={"htype": "text"}, j={"htype": "json"}, e={"htype": "embedding"},
    )  # fmt: skip

    def row(k: int) -> dict[str, Any]:
        if k % 4 == 3:
            return {"x": k, **dict.fromkeys(("png", "jpeg", "raw", "v", "t", "j", "e"))}
        v = np.full((k % 3, 2), k + 0.1, "f4") if k % 2 else np.full(k, k, "f4")
        return {
            "x": k, "png": png_bytes if k == 5 else pixels[:, : k + 1], "jpeg": jpeg_bytes if k == 5 else pixels[: k + 2],
            "raw": pixels[:, k:], "v": v, "t": "ü 図\0\n" * k, "j": {"k": [k, None, "ü"]},
            "e": np.full(4, k, "f4"),
        }  # fmt: skip

    def seen(one: Any) -> dict[int, Any]:
        samples = contents(one)
        return {r: {n: c[i] for n, c in samples.items()} for i, r in enumerate(ids(one))}

    ds.extend({n: [row(k)[n] for k in range(4)] for n in row(0)})
    dev = branched(ds)
    for k in (5, 6, 7):
        dev.append(row(k))
    for name in ("png", "jpeg", "raw", "v", "t", "j", "e"):
        dev[name][0] = row(9)[name]
        dev[name][3] = row(10)[name]
        dev[name][2] = None
    dev.pop(1)
    dev.commit("dev")
    ds.append(row(8))
    ds.commit("main")
    expected = seen(dev) | {ids(ds)[-1]: seen(ds)[ids(ds)[-1]]}
    for name in compacted:
        {"main": ds, "dev": dev}[name].compact()
    ds.merge("dev")
    assert seen(ds) == seen(lakefmt.load(mem_url)) == expected
    ds.verify()


def test_short_tensors_stay_short_on_either_side(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, y={"dtype": "int64"})
    ds.x.extend([1, 2, 3])
    ds.y.append(10)
    dev = branched(ds)
    dev.y.append(20)
    dev.commit("y goes on there")
    ds.merge("dev")
    assert (len(ds.x), len(ds.y)) == (3, 2)
    assert contents(ds) == {"x": [1, 2, 3], "y": [10, 20]}
    ds.y.append(30)
    assert contents(ds)["y"] == [10, 20, 30]


def test_a_short_tensor_continued_on_both_sides_conflicts(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, y={"dtype": "int64"})
    ds.x.extend([1, 2, 3])
    dev = branched(ds)
    ds.y.extend([1, 2])
    ds.flush()
    dev.y.extend([5])
    dev.commit("y")
    assert refused(ds).rows == {"y": [ids(ds)[0]]}
    ds.merge("dev", "theirs")
    assert contents(ds)["y"] == [5, 2]


def test_rows_with_a_short_tensor_come_over(mem_url: str) -> None:
    ds = made(mem_url, x={"dtype": "int64"}, y={"dtype": "int64"})
    ds.extend({"x": [1], "y": [1]})
    dev = branched(ds)
    dev.x.extend([2, 3, 4])
    dev.y.append(2)
    dev.commit("short")
    ds.extend({"x": [5], "y": [5]})
    ds.commit("own")
    ds.merge("dev")
    assert {r["x"]: r["y"] for r in table(ds).values()} == {1: 1, 5: 5, 2: 2, 3: None, 4: None}
    ds.append({"x": 6, "y": 6})
    assert table(ds)[ids(ds)[-1]] == {"x": 6, "y": 6}


def test_an_empty_dataset_takes_all(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    dev = branched(ds)
    dev.create_tensor("l", htype="class_label")
    dev.extend({"l": ["a", "b"]})
    dev.commit("dev")
    ds.merge("dev")
    assert ds.l.data()["text"] == ["a", "b"]
    dev.pop([0, 1])
    dev.commit("nothing left")
    ds.merge("dev")
    assert len(ds) == 0


# -- others at work ----------------------------------------------------------------------------------------------------


def test_what_others_commit_while_a_merge_is_under_way_is_looked_at_too(mem_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ds, dev = pair(mem_url)
    dev.x[0] = 10
    dev.append({"x": 4})
    dev.commit("dev")
    other = lakefmt.load(mem_url)
    done: list[str] = []
    check = ds._log._check_place

    def first(do: Callable[[], Any]) -> Callable[[], None]:
        def look() -> None:
            check()
            if not done:
                done.append("x")
                do()

        return look

    def conflicting() -> None:
        other.x[0] = 11
        other.commit("meanwhile")

    monkeypatch.setattr(ds._log, "_check_place", first(conflicting))
    with pytest.raises(MergeConflict) as caught:
        ds.merge("dev")
    assert caught.value.rows == {"x": [ids(other)[0]]}
    assert values(lakefmt.load(mem_url)) == [11, 2, 3]
    done.clear()

    def harmless() -> None:
        other.append({"x": 5})
        other.commit("meanwhile again")

    monkeypatch.setattr(ds._log, "_check_place", first(harmless))
    ds.merge("dev", "theirs")
    assert values(ds) == values(lakefmt.load(mem_url)) == [10, 2, 3, 5, 4]


def test_a_handle_with_buffered_updates_goes_on_after_a_merge_by_another(mem_url: str) -> None:
    ds, dev = pair(mem_url)
    dev.pop(0)
    dev.append({"x": 4})
    dev.commit("dev")
    other = lakefmt.load(mem_url)
    other.x[2] = 30
    other.append({"x": 5})
    ds.merge("dev")
    other.flush()
    assert values(other) == values(lakefmt.load(mem_url)) == [2, 30, 4, 5]


# -- against a model ---------------------------------------------------------------------------------------------------

Row = dict[str, Any]
Model = dict[int, Row]
WORDS = ["a", "b", "c", "d", "e"]


def plain(ds: Any) -> Model:
    """Rows by row id, as the model has them."""
    return {i: {"x": r["x"], "l": tuple(r["l"]) if isinstance(r["l"], list) else r["l"]} for i, r in table(ds).items()}


def model_merge(base: Model, ours: Model, theirs: Model, resolution: str | None) -> tuple[Model, dict[str, list[int]]]:
    """Three-way merge of plain dicts; and, per tensor, the rows in conflict. A sample is changed when it is another one."""
    merged: Model = {}
    conflicts: dict[str, list[int]] = {}
    for i in {**ours, **theirs, **base}:
        before, mine, other = base.get(i), ours.get(i), theirs.get(i)
        if before is None:
            row = mine if other is None else other
            assert row is not None
            merged[i] = row
            continue
        if mine is None or other is None:
            left = other if mine is None else mine
            if left is None:
                continue
            clash = [n for n in before if left[n] != before[n]]
            for n in clash:
                conflicts.setdefault(n, []).append(i)
            if clash and (mine is None) == (resolution == "theirs"):
                merged[i] = left
            continue
        merged[i] = {}
        for n in before:
            changed_here, changed_there = mine[n] != before[n], other[n] != before[n]
            if changed_here and changed_there and mine[n] != other[n]:
                conflicts.setdefault(n, []).append(i)
                merged[i][n] = other[n] if resolution == "theirs" else mine[n]
            else:
                merged[i][n] = other[n] if changed_there else mine[n]
    return merged, {n: sorted(rows) for n, rows in conflicts.items()}


SAMPLES = st.one_of(st.none(), st.lists(st.sampled_from(WORDS), max_size=2, unique=True))
EDITS = st.one_of(
    st.tuples(st.just("append"), st.lists(SAMPLES, min_size=1, max_size=3)),
    st.tuples(st.just("update x"), st.integers(0, 20)),
    st.tuples(st.just("update l"), st.integers(0, 20), SAMPLES),
    st.tuples(st.just("pop"), st.lists(st.integers(0, 20), min_size=1, max_size=2)),
    st.tuples(st.sampled_from(["compact", "flush", "commit"])),
)
ROUNDS = st.tuples(
    st.lists(EDITS, max_size=4), st.lists(EDITS, max_size=4), st.booleans(), st.sampled_from([None, "ours", "theirs"])
)
#: A failing example is told as it was found: making it small takes minutes.
FAST = (Phase.explicit, Phase.generate)


class Numbers:
    """Numbers that were never given before."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self) -> int:
        self.last += 1
        return self.last


def labelled(words: list[str] | None, number: Numbers) -> Any:
    """Labels that no row had before: with a new name among them, so that nobody can call the row unchanged."""
    return [*words, f"new {number()}"] if words else f"new {number()}"


def edit(ds: Any, what: tuple[Any, ...], number: Numbers) -> None:
    """Do one thing to a dataset."""
    rows = len(ds)
    match what:
        case ("append", labels):
            ds.extend({"x": [number() for _ in labels], "l": labels})  # here names come again, in any order
        case ("update x", k) if rows:
            ds.x[k % rows] = number()
        case ("update l", k, label) if rows:
            ds.l[k % rows] = labelled(label, number)
        case ("pop", ks) if rows:
            ds.pop(sorted({k % rows for k in ks}))
        case ("compact",):
            ds.compact()
        case ("flush",):
            ds.flush()
        case ("commit",):
            ds.commit("edits", allow_empty=True)


def play(url: str, rounds: list[tuple[Any, ...]]) -> None:
    """Edits on two branches, merged to and fro, beside the model."""
    number = Numbers()
    ds = made(url, x={"dtype": "int64"}, l={"htype": "class_label"})
    ds.extend({"x": [number() for _ in range(4)], "l": ["a", "b", None, ["a", "b"]]})
    ds.commit("base")
    dev = branched(ds)
    base = plain(ds)
    for here, there, forth, resolution in rounds:
        for side, edits in ((ds, here), (dev, there)):
            for what in edits:
                edit(side, what, number)
            side.flush()
        target, source, name = (ds, dev, "dev") if forth else (dev, ds, "main")
        ours, theirs = plain(target), plain(source)
        expected, conflicts = model_merge(base, ours, theirs, resolution)
        if conflicts and resolution is None:
            assert refused(target, name).rows == conflicts
            continue
        target.merge(name, resolution)
        assert plain(target) == plain(lakefmt.load(f"{url}@{target.branch}")) == expected
        assert plain(source) == theirs
        base = theirs
    assert ds.fsck()


@settings(max_examples=120, phases=FAST)
@given(st.lists(ROUNDS, min_size=1, max_size=3))
def test_random_edits_on_two_branches_merge_as_plain_dicts_do(rounds: list[tuple[Any, ...]]) -> None:
    play(f"mem://{uuid.uuid4().hex}", rounds)


@settings(max_examples=60, phases=FAST)
@given(st.lists(ROUNDS, min_size=1, max_size=3))
def test_random_edits_merge_so_in_a_state_with_small_leaves(rounds: list[tuple[Any, ...]]) -> None:
    with small_leaves():
        play(f"mem://{uuid.uuid4().hex}", rounds)


@pytest.mark.nightly
@settings(max_examples=1500)
@given(st.lists(ROUNDS, min_size=1, max_size=5), st.booleans())
def test_many_random_edits_on_two_branches(rounds: list[tuple[Any, ...]], small: bool) -> None:
    with small_leaves() if small else nullcontext():
        play(f"mem://{uuid.uuid4().hex}", rounds)


@contextmanager
def small_leaves() -> Iterator[None]:
    """Fragments go into leaves early, so that merges meet these too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("INLINE_MAX", 3), ("INLINE_KEPT", 1), ("OVERRIDES_MAX", 2), ("SMALL_LEAVES_MAX", 2)):
            patch.setattr(leaves, name, value)
        yield
