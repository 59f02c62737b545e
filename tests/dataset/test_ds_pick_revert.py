"""One version's work is picked, undone, or gone back behind: what else was done stays, and conflicts are told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import contents, values

import lakefmt
from lakefmt.errors import Conflict, InvalidInput, MergeConflict, NoSuchVersion, ReadOnly
from lakefmt.storage import MemoryStore


def made(url: str, rows: list[int] | None = None, **more: dict[str, Any]) -> Any:
    """A dataset with an int64 tensor x and some committed rows (1, 2, 3 by default)."""
    ds = lakefmt.dataset(url)
    ds.create_tensor("x", dtype="int64")
    for name, options in more.items():
        ds.create_tensor(name, **options)
    rows = [1, 2, 3] if rows is None else rows
    if rows and not more:
        ds.extend({"x": rows})
        ds.commit("base")
    return ds


def branched(ds: Any, name: str = "dev") -> Any:
    """Another handle, on a new branch that begins here."""
    ds.create_branch(name)
    return lakefmt.load(f"{ds.path}@{name}")


def ids(ds: Any) -> list[int]:
    return list(ds[:].row_ids.tolist())


def by_id(ds: Any, name: str = "x") -> dict[int, Any]:
    found = ids(ds)
    assert len(set(found)) == len(found), "a row is there twice"
    return dict(zip(found, values(ds, name), strict=True))


def stays(ds: Any, call: Any) -> MergeConflict:
    """The error of a call that must be refused, and must change nothing."""
    before = (ds.version_id, contents(ds), ids(ds))
    with pytest.raises(MergeConflict) as caught:
        call()
    assert (ds.version_id, contents(ds), ids(ds)) == before == (
        lakefmt.load(ds.path).version_id, contents(lakefmt.load(ds.path)), ids(lakefmt.load(ds.path))
    )  # fmt: skip
    return caught.value


# -- cherry-pick -------------------------------------------------------------------------------------------------------


def test_picking_an_append_takes_just_those_rows(mem_url: str) -> None:
    ds = made(mem_url)
    dev = branched(ds)
    dev.append({"x": 4})
    dev.commit("four")
    dev.append({"x": 5})
    five = dev.commit("five")
    dev.append({"x": 6})
    dev.commit("six")
    version = ds.cherry_pick(five)
    assert values(ds) == values(lakefmt.load(mem_url)) == [1, 2, 3, 5]
    assert version == ds.version_id != five
    assert ds.commits[0]["message"] == "five"
    assert ids(ds)[-1] == ids(dev)[4], "the row keeps its id"


def test_picking_an_update_takes_just_that_sample(mem_url: str) -> None:
    ds = made(mem_url)
    dev = branched(ds)
    dev.x[0] = 10
    dev.commit("ten")
    dev.x[1] = 20
    twenty = dev.commit("twenty")
    ds.append({"x": 4})
    ds.cherry_pick(twenty, message="just this")
    assert values(ds) == [1, 20, 3, 4]
    assert ds.commits[0]["message"] == "just this"


def test_picking_a_deletion(mem_url: str) -> None:
    ds = made(mem_url)
    dev = branched(ds)
    dev.pop(1)
    version = dev.version_id
    ds.append({"x": 4})
    ds.cherry_pick(version)
    assert values(ds) == [1, 3, 4]


def test_picking_changes_of_tensors(mem_url: str) -> None:
    ds = made(mem_url, None, y={"dtype": "int64"})
    ds.extend({"x": [1, 2], "y": [3, 4]})
    ds.commit("base")
    dev = branched(ds)
    dev.create_tensor("t", htype="text")
    created = dev.version_id
    dev.t.extend(["a", "b"])
    filled = dev.commit("texts")
    dev.rename_tensor("x", "z")
    renamed = dev.version_id
    dev.delete_tensor("y")
    deleted = dev.version_id
    ds.cherry_pick(created)
    assert list(ds.tensors) == ["x", "y", "t"]
    ds.cherry_pick(filled)
    assert values(ds, "t") == ["a", "b"]
    ds.cherry_pick(renamed)
    ds.cherry_pick(deleted)
    assert contents(ds) == contents(dev) == {"z": [1, 2], "t": ["a", "b"]}
    ds.merge("dev")
    assert contents(ds) == contents(dev)


def test_picking_what_conflicts_is_refused_unless_resolved(mem_url: str) -> None:
    ds = made(mem_url)
    dev = branched(ds)
    dev.x[0] = 10
    dev.x[1] = 20
    version = dev.commit("work")
    ds.x[0] = 11
    ds.commit("own")
    assert stays(ds, lambda: ds.cherry_pick(version)).rows == {"x": [ids(ds)[0]]}
    ds.cherry_pick(version, "ours")
    assert values(ds) == [11, 20, 3]
    ds.cherry_pick(version, "theirs")
    assert values(ds) == [10, 20, 3]


@pytest.mark.parametrize("work", ["append", "update", "pop", "tensor"])
def test_picking_the_same_twice_and_then_merging_its_branch(mem_url: str, work: str) -> None:
    ds = made(mem_url)
    dev = branched(ds)
    match work:
        case "append":
            dev.append({"x": 4})
        case "update":
            dev.x[0] = 10
        case "pop":
            dev.pop(0)
        case "tensor":
            dev.create_tensor("y", dtype="int64")
    version = dev.commit(work)
    if work in ("pop", "tensor"):  # these are versions of their own, before the commit
        version = f"{version[:13]}{int(version[13:]) - 1}"
    ds.cherry_pick(version)
    expected = contents(dev)
    assert contents(ds) == expected
    ds.cherry_pick(version)
    assert contents(ds) == expected
    ds.merge("dev")
    assert contents(ds) == expected
    by_id(ds)
    dev.merge("main")
    assert contents(dev) == expected


def test_picking_class_labels_by_name(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("l", htype="class_label")
    ds.append({"l": "a"})
    dev = branched(ds)
    dev.append({"l": "b"})
    dev.commit("b")
    dev.extend({"l": ["c", ["b", "c"]]})
    version = dev.commit("c")
    ds.append({"l": "z"})
    ds.cherry_pick(version)
    assert ds.l.data()["text"] == ["a", "z", "c", ["b", "c"]]


def test_picking_before_a_compaction_of_either_side(mem_url: str) -> None:
    ds = made(mem_url)
    dev = branched(ds)
    dev.x[0] = 10
    dev.append({"x": 4})
    version = dev.commit("work")
    dev.compact()
    ds.append({"x": 5})
    ds.pop(2)
    ds.compact()
    ds.cherry_pick(version)
    assert values(ds) == [10, 2, 5, 4]


def test_picking_needs_a_version(mem_url: str) -> None:
    ds = made(mem_url)
    with pytest.raises(NoSuchVersion):
        ds.cherry_pick("nope")
    first = ds.history()[-1]
    with pytest.raises(InvalidInput, match="first"):
        ds.cherry_pick(f"{first.branch[:12]}-0")
    with pytest.raises(ReadOnly):
        lakefmt.load(f"{mem_url}@{ds.version_id}").cherry_pick("main")


# -- revert ------------------------------------------------------------------------------------------------------------


def test_reverting_an_append(mem_url: str) -> None:
    ds = made(mem_url)
    ds.append({"x": 4})
    four = ds.commit("four")
    ds.append({"x": 5})
    ds.x[0] = 10
    ds.commit("later")
    ds.revert(four)
    assert values(ds) == values(lakefmt.load(mem_url)) == [10, 2, 3, 5]
    assert "four" in ds.commits[0]["message"]
    ds.revert()
    assert sorted(values(ds)) == [2, 3, 4, 5, 10], "a revert is undone like anything else"


def test_reverting_an_update(mem_url: str) -> None:
    ds = made(mem_url)
    ds.x[0] = 10
    ds.x[1] = None
    version = ds.commit("work")
    ds.append({"x": 4})
    ds.revert(version)
    assert values(ds) == [1, 2, 3, 4]
    ds.revert()
    assert values(ds) == [10, None, 3, 4]


@pytest.mark.parametrize("compacted", [False, True])
def test_reverting_a_pop_brings_the_rows_back_with_their_ids(mem_url: str, compacted: bool) -> None:
    ds = made(mem_url, None, t={"htype": "text"})
    ds.extend({"x": [1, 2, 3], "t": ["a", None, "c"]})
    ds.commit("base")
    before = by_id(ds)
    ds.pop([1, 2])
    popped = ds.version_id
    ds.append({"x": 4, "t": "d"})
    ds.commit("later")
    if compacted:
        ds.compact()
    ds.revert(popped)
    assert by_id(ds) == before | {ids(ds)[values(ds).index(4)]: 4}
    assert sorted(zip(values(ds), values(ds, "t"), strict=True)) == [(1, "a"), (2, None), (3, "c"), (4, "d")]
    ds.revert()
    assert sorted(values(ds)) == [1, 4]


def test_reverting_a_new_tensor(mem_url: str) -> None:
    ds = made(mem_url)
    ds.create_tensor("y", dtype="int64")
    created = ds.version_id
    ds.revert(created)
    assert contents(ds) == {"x": [1, 2, 3]}
    ds.revert()
    assert contents(ds) == {"x": [1, 2, 3], "y": []}


def test_reverting_a_new_tensor_that_has_samples_by_now_is_a_conflict(mem_url: str) -> None:
    ds = made(mem_url)
    ds.create_tensor("y", dtype="int64")
    created = ds.version_id
    ds.y.extend([4, 5, 6])
    ds.commit("samples")
    assert stays(ds, lambda: ds.revert(created)).schema
    ds.revert(created, "theirs")
    assert contents(ds) == {"x": [1, 2, 3]}


def test_reverting_a_new_tensor_does_not_silently_drop_samples_of_rows_appended_since(mem_url: str) -> None:
    ds = made(mem_url)
    ds.create_tensor("y", dtype="int64")
    created = ds.version_id
    ds.append({"x": 4, "y": 44})
    ds.commit("samples")
    assert stays(ds, lambda: ds.revert(created)).schema


@pytest.mark.parametrize("later", ["nothing", "a row", "a row, compacted", "compacted"])
def test_reverting_the_deletion_of_a_tensor_brings_its_samples_back(mem_url: str, later: str) -> None:
    ds = made(mem_url, None, y={"dtype": "int64"})
    ds.extend({"x": [1, 2], "y": [5, 6]})
    ds.commit("base")
    ds.y[0] = 50
    ds.commit("fifty")
    ds.delete_tensor("y")
    deleted = ds.version_id
    if "row" in later:
        ds.append({"x": 3})
        ds.commit("later")
    if "compacted" in later:
        ds.compact()
    ds.revert(deleted)
    assert values(ds, "y")[:2] == [50, 6]
    assert values(ds, "x") == [1, 2, 3][: len(ds)]
    ds.append({"x": 4, "y": 7})
    assert values(ds, "y")[-1] == 7


def test_reverting_the_deletion_of_a_tensor_of_rows_only_flushed_so_far(mem_url: str) -> None:
    ds = made(mem_url, None, y={"dtype": "int64"})
    ds.append({"x": 1, "y": 5})
    ds.flush()
    ds.delete_tensor("y")
    deleted = ds.version_id
    ds.append({"x": 2})
    ds.commit("later")
    ds.revert(deleted)
    assert values(ds, "y")[:1] == [5]


def test_reverting_a_rename_and_a_wider_dtype(mem_url: str) -> None:
    ds = made(mem_url, [1, 2])
    ds.rename_tensor("x", "g/z")
    ds.revert()
    assert contents(ds) == {"x": [1, 2]}
    ds.create_tensor("v", dtype="uint8")
    ds.extend({"x": [3], "v": [4]})
    ds.alter_tensor("v", dtype="int32")
    wide = ds.version_id
    ds.append({"x": 5, "v": 70000})
    ds.commit("big")
    with pytest.raises(MergeConflict, match="stays so"):
        ds.revert(wide)
    ds.revert(wide, "theirs")
    assert ds.v.numpy(aslist=True)[-1] == 70000, "no sample is cut off"
    assert values(ds, "v") == [None, None, 4, 70000]


def test_reverting_info(mem_url: str) -> None:
    ds = made(mem_url)
    ds.info["a"] = 1
    ds.info["b"] = 1
    both = ds.version_id
    ds.info["c"] = 1
    ds.revert(both)
    assert dict(ds.info) == {"a": 1, "c": 1}


@pytest.mark.parametrize("compacted", [False, True])
def test_reverting_what_was_changed_again_since_is_a_conflict(mem_url: str, compacted: bool) -> None:
    ds = made(mem_url)
    at = ids(ds)
    ds.x[0] = 10
    ds.x[1] = 20
    ds.append({"x": 4})
    version = ds.commit("work")
    ds.x[0] = 100
    ds.x[3] = 40
    ds.commit("later")
    if compacted:
        ds.compact()
    assert stays(ds, lambda: ds.revert(version)).rows == {"x": [at[0], ids(ds)[3]]}
    assert values(ds) == [100, 20, 3, 40]
    ds.revert(version, "ours")
    assert values(ds) == [100, 2, 3, 40]
    ds.revert()
    ds.revert(version, "theirs")
    assert values(ds) == [1, 2, 3]


def test_reverting_a_merge_takes_out_what_it_brought(mem_url: str) -> None:
    ds = made(mem_url)
    dev = branched(ds)
    dev.append({"x": 4})
    dev.x[0] = 10
    dev.pop(1)
    dev.commit("work")
    ds.append({"x": 5})
    ds.commit("own")
    before = by_id(ds)
    merge = ds.merge("dev")
    ds.append({"x": 6})
    ds.commit("later")
    ds.revert(merge)
    assert by_id(ds) == before | {ids(ds)[values(ds).index(6)]: 6}


def test_reverting_the_first_version_is_told(mem_url: str) -> None:
    ds = made(mem_url)
    first = ds.history()[-1]
    with pytest.raises(InvalidInput, match="first"):
        ds.revert(f"{first.branch[:12]}-0")


def test_reverting_stores_what_is_buffered_and_undoes_the_version_before_by_default(mem_url: str) -> None:
    ds = made(mem_url)
    ds.x[0] = 50
    ds.commit("fifty")
    ds.append({"x": 4})
    ds.revert()
    assert values(lakefmt.load(mem_url)) == [1, 2, 3, 4]


# -- restore -----------------------------------------------------------------------------------------------------------


def test_restoring_a_version_with_other_tensors(mem_url: str) -> None:
    ds = made(mem_url)
    ds.info["k"] = 1
    before = (contents(ds), ids(ds), dict(ds.info))
    first = ds.commit("first")
    ds.create_tensor("y", htype="class_label")
    ds.extend({"x": [4], "y": ["a"]})
    ds.rename_tensor("x", "z")
    ds.pop(0)
    ds.info["k"] = 2
    after = (contents(ds), ids(ds), dict(ds.info))
    second = ds.commit("second")
    ds.restore(first)
    assert (contents(ds), ids(ds), dict(ds.info)) == before
    assert ds.x.dtype == np.int64
    ds.restore(second)
    assert (contents(ds), ids(ds), dict(ds.info)) == after
    assert [c["message"] for c in ds.commits][:4] == [f"Restore {second}", f"Restore {first}", "second", "first"]


def test_new_rows_after_a_restore_have_new_ids(mem_url: str) -> None:
    ds = made(mem_url)
    first = ds.version_id
    ds.append({"x": 4})
    ds.commit("four")
    used = ids(ds)
    ds.restore(first)
    ds.append({"x": 5})
    ds.commit("five")
    assert ids(ds)[:3] == used[:3]
    assert ids(ds)[3] not in used


@pytest.mark.parametrize("compacted", [False, True])
def test_a_restore_is_a_difference_like_any_other(mem_url: str, compacted: bool) -> None:
    ds = made(mem_url)
    first = ds.version_id
    ds.x[0] = 10
    ds.commit("ten")
    if compacted:
        ds.compact()
    before = ds.version_id
    ds.restore(first)
    assert ds.diff(before).as_dict()["tensors"]["x"] == {"added": [], "updated": [ids(ds)[0]], "deleted": []}
    ds.revert()
    assert values(ds) == [10, 2, 3]


def test_restoring_a_tag_or_another_branch(mem_url: str) -> None:
    ds = made(mem_url)
    ds.tag("good")
    dev = branched(ds)
    dev.append({"x": 4})
    dev.commit("dev")
    ds.restore("dev")
    assert by_id(ds) == by_id(dev)
    ds.append({"x": 5})
    dev.append({"x": 6})
    dev.commit("six")
    ds.merge("dev")
    assert values(ds) == [1, 2, 3, 4, 5, 6]
    ds.restore("good")
    assert values(ds) == [1, 2, 3]


def test_a_restore_meets_another_writer(mem_url: str) -> None:
    ds = made(mem_url)
    first = ds.version_id
    ds.append({"x": 4})
    ds.commit("four")
    other = lakefmt.load(mem_url)
    other.append({"x": 5})
    other.commit("five")
    version = ds.version_id
    with pytest.raises(Conflict):
        ds.restore(first)
    assert (ds.version_id, values(ds), values(lakefmt.load(mem_url))) == (version, [1, 2, 3, 4], [1, 2, 3, 4, 5])
    ds.restore(first, force=True)
    assert values(ds) == values(lakefmt.load(mem_url)) == [1, 2, 3]
    other.append({"x": 6})
    with pytest.raises(Conflict):
        other.commit("on top of rows that are gone")
    other.discard()
    other.refresh()
    assert values(other) == [1, 2, 3]


def test_what_another_writer_has_buffered_conflicts_with_a_restore(mem_url: str) -> None:
    ds = made(mem_url)
    first = ds.version_id
    ds.append({"x": 4})
    ds.commit("four")
    other = lakefmt.load(mem_url)
    other.append({"x": 5})
    ds.restore(first)
    with pytest.raises(Conflict):
        other.flush()
    assert values(lakefmt.load(mem_url)) == [1, 2, 3]
    other.discard()


# -- reset -------------------------------------------------------------------------------------------------------------


def test_a_reset_drops_what_is_buffered(mem_url: str) -> None:
    ds = made(mem_url)
    version = ds.version_id
    ds.append({"x": 4})
    ds.x[0] = 10
    assert ds.reset() == version
    assert values(ds) == [1, 2, 3]
    ds.append({"x": 5})
    ds.commit("five")
    assert values(lakefmt.load(mem_url)) == [1, 2, 3, 5]


def test_a_reset_undoes_what_was_flushed(mem_url: str) -> None:
    ds = made(mem_url)
    committed = ds.version_id
    ds.append({"x": 4})
    ds.flush()
    ds.create_tensor("y")
    ds.pop(0)
    ds.info["k"] = 1
    flushed = ds.version_id
    ds.append({"x": 5, "y": 1.5})
    ds.reset()
    assert contents(ds) == contents(lakefmt.load(mem_url)) == {"x": [1, 2, 3]}
    assert dict(ds.info) == {}
    assert not ds.has_head_changes
    assert contents(lakefmt.load(f"{mem_url}@{flushed}"))["x"] == [2, 3, 4], "history is kept"
    assert not ds.diff(committed)
    version = ds.version_id
    assert ds.reset() == version


def test_a_reset_on_a_new_branch_goes_back_to_where_it_began(mem_url: str) -> None:
    ds = made(mem_url)
    ds.append({"x": 4})
    ds.checkout("dev", create=True)
    ds.append({"x": 5})
    ds.flush()
    ds.reset()
    assert values(ds) == [1, 2, 3, 4]
    ds.checkout("main")
    assert values(ds) == [1, 2, 3, 4]


def test_a_reset_of_a_dataset_that_was_never_committed_leaves_nothing(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x")
    ds.append({"x": 1})
    ds.reset()
    assert (list(ds.tensors), len(ds)) == ([], 0)


def test_a_reset_does_not_undo_what_others_commit(mem_url: str) -> None:
    ds = made(mem_url)
    ds.append({"x": 4})
    ds.flush()
    other = lakefmt.load(mem_url)
    other.append({"x": 5})
    other.commit("five")
    with pytest.raises(Conflict):
        ds.reset()
    assert values(lakefmt.load(mem_url)) == [1, 2, 3, 4, 5]
    ds.refresh()
    ds.reset()
    assert values(ds) == [1, 2, 3, 4, 5], "the newest version is a commit"


# -- squash ------------------------------------------------------------------------------------------------------------


def squashable(url: str) -> Any:
    """A dataset with some history: updates, deletions, a tag of an old version, labels."""
    ds = made(url, None, l={"htype": "class_label"})
    ds.extend({"x": [1, 2, 3], "l": ["a", "b", "a"]})
    ds.tag("old")
    ds.x[0] = 10
    ds.pop(1)
    ds.append({"x": 4, "l": "c"})
    ds.info["k"] = 1
    return ds


def test_a_squash_leaves_one_version(mem_url: str) -> None:
    ds = squashable(mem_url)
    before = (contents(ds), ids(ds), ds.l.class_names, dict(ds.info))
    version = ds.squash("all in one")
    for one in (ds, lakefmt.load(mem_url)):
        assert (contents(one), ids(one), one.l.class_names, dict(one.info)) == before
        assert (len(one.history()), one.version_id, one.branch) == (1, version, "main")
        assert [c["message"] for c in one.commits] == ["all in one"]
    ds.append({"x": 5, "l": "d"})
    ds.commit("later")
    assert len(set(ids(ds))) == 4
    assert values(lakefmt.load(mem_url)) == [10, 3, 4, 5]
    assert ds.branches == ["main"]


def test_tags_and_ids_of_old_versions_open_after_a_squash(mem_url: str) -> None:
    ds = squashable(mem_url)
    newest = ds.commit("newest")
    ds.squash()
    assert values(lakefmt.load(f"{mem_url}@old")) == [1, 2, 3]
    assert values(lakefmt.load(f"{mem_url}@{newest}")) == [10, 3, 4]
    ds.squash()
    assert values(lakefmt.load(f"{mem_url}@old")) == [1, 2, 3], "after a second one too"
    ds.expire(0, grace_s=0)
    assert values(lakefmt.load(f"{mem_url}@old")) == [1, 2, 3]
    assert values(lakefmt.load(mem_url)) == [10, 3, 4]
    assert ds.fsck()


def test_a_branch_of_a_tag_from_before_a_squash_is_merged(mem_url: str) -> None:
    ds = squashable(mem_url)
    ds.squash()
    ds.create_branch("dev", "old")
    dev = lakefmt.load(f"{mem_url}@dev")
    dev.append({"x": 7, "l": "z"})
    dev.x[2] = 30
    dev.commit("dev")
    ds.merge("dev")
    assert values(ds) == [10, 30, 4, 7]
    assert ds.l.data()["text"] == ["a", "a", "c", "z"]


def test_branches_are_in_the_way_of_a_squash(mem_url: str) -> None:
    ds = squashable(mem_url)
    branched(ds)
    version = ds.version_id
    with pytest.raises(Conflict, match="dev"):
        ds.squash()
    assert ds.version_id == version
    ds.append({"x": 5, "l": "a"})
    ds.commit("goes on")
    ds.delete_branch("dev")
    ds.squash()
    assert values(ds) == [10, 3, 4, 5]


def test_a_branch_is_squashed_and_merged(mem_url: str) -> None:
    ds = made(mem_url)
    dev = branched(ds)
    for k in range(3):
        dev.append({"x": 10 + k})
        dev.commit(str(k))
    dev.squash("dev in one")
    assert dev.branch == "dev"
    dev.append({"x": 20})
    dev.commit("later")
    ds.append({"x": 4})
    ds.merge("dev")
    assert values(ds) == [1, 2, 3, 4, 10, 11, 12, 20]
    dev.merge("main")
    assert by_id(dev) == by_id(ds)


def test_an_older_handle_is_told_when_it_writes_after_a_squash(mem_url: str) -> None:
    ds = squashable(mem_url)
    ds.flush()
    older = lakefmt.load(mem_url)
    ds.squash()
    older.append({"x": 5, "l": "a"})
    with pytest.raises(Conflict, match="squashed"):
        older.commit("lost")
    assert values(lakefmt.load(mem_url)) == [10, 3, 4], "nothing was acknowledged, nothing is there"
    older.discard()
    older.checkout("main")
    older.append({"x": 6, "l": "a"})
    older.commit("again")
    assert values(lakefmt.load(mem_url)) == [10, 3, 4, 6]


def test_a_handle_whose_branch_was_renamed_squashes_its_own_branch(mem_url: str) -> None:
    ds = made(mem_url)
    ds.checkout("dev", create=True)
    other = lakefmt.load(mem_url)
    other.rename_branch("dev", "mine")
    other.checkout("dev", create=True)
    other.append({"x": 77})
    other.commit("another branch, which has the name now")
    history = len(other.history())
    ds.append({"x": 4})
    ds.commit("four")
    ds.squash()
    assert values(ds) == [1, 2, 3, 4]
    assert len(lakefmt.load(f"{mem_url}@dev").history()) == history
    assert len(lakefmt.load(f"{mem_url}@mine").history()) == 1


def test_a_squash_needs_a_branch(mem_url: str) -> None:
    squashable(mem_url).flush()
    with pytest.raises(ReadOnly):
        lakefmt.load(f"{mem_url}@old").squash()


def squash_at(store: MemoryStore, at: int, applied: bool) -> bool:
    """Squash with a process that dies at the ``at``-th call; whether it got through."""
    from faulty_stores import Crash, Crashing, abandon, opened

    ds = opened(store)
    ds._log.store = ds._log.refs.store = Crashing(store, at, applied=applied)
    try:
        ds.squash("all in one")
    except Crash:
        return False
    finally:
        abandon(ds)
    return True


@pytest.mark.parametrize("applied", [False, True])
def test_a_squash_that_died_anywhere_is_finished_by_another(applied: bool, faulty: Any) -> None:
    base = faulty.memory()
    log = faulty.Log.create(base)
    ds = faulty.Dataset(log, base.url, *log.resolve("main"))
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [1, 2, 3]})
    ds.tag("old")
    ds.append({"x": 4})
    ds.commit("four")
    at = 0
    while True:
        store = faulty.copied(base)
        done = squash_at(store, at, applied)
        found = faulty.opened(store)
        assert values(found) == [1, 2, 3, 4], f"call {at}: whatever happened, the rows are there"
        if len(found.history()) != 1:
            found.squash("all in one")
        assert len(found.history()) == 1
        found.append({"x": 5})
        found.commit("five")
        again = faulty.opened(store)
        assert values(again) == [1, 2, 3, 4, 5], f"call {at}"
        assert len(set(ids(again))) == 5
        assert len(again.history()) == 2
        again.checkout("old")
        assert values(again) == [1, 2, 3]
        if done:
            break
        at += 1
    assert at > 4, "the deaths were tried"


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stores that fail on purpose."""
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "versioning"))
    import faulty_stores

    return faulty_stores
