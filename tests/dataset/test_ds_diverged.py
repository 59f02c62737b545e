"""Copies of one dataset that go apart never mistake each other's rows, and their work can be brought together."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from dataset_tools import values

import lakefmt
from lakefmt.errors import Conflict, InvalidInput
from lakefmt.versioning import log as log_module


def fresh() -> str:
    return f"mem://{uuid.uuid4().hex}"


@pytest.fixture
def pair(mem_url: str) -> tuple[Any, Any]:
    """A dataset of three rows and a deep copy of it."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    more(ds, 1, 2, 3)
    ds.deepcopy(to := fresh())
    return ds, lakefmt.load(to)


def more(ds: Any, *rows: int) -> None:
    ds.extend({"x": list(rows)})
    ds.commit(f"more {rows}")


def ids(ds: Any) -> list[int]:
    found: list[int] = ds[:].row_ids.tolist()
    return found


def test_rows_of_two_copies_have_different_ids(pair: tuple[Any, Any]) -> None:
    one, two = pair
    more(one, 10, 11)
    more(two, 20, 21)
    assert ids(one)[:3] == ids(two)[:3]
    assert set(ids(one)[3:]).isdisjoint(ids(two)[3:])


def test_rows_have_different_ids_after_a_push_and_a_pull_too(pair: tuple[Any, Any]) -> None:
    one, two = pair
    given: set[int] = set(ids(one))
    for turn in range(3):
        for here, there in ((one, two), (two, one)):
            here.pull(there.path)
            more(here, turn)
            new = set(ids(here)) - given
            assert len(new) == 1, "an id was given twice"
            given |= new
    two.push(one.path)
    one.refresh()
    assert ids(one) == ids(two)


def test_a_branch_squashed_in_both_copies_is_not_one_branch(pair: tuple[Any, Any]) -> None:
    one, two = pair
    for ds, value in ((one, 10), (two, 20)):
        more(ds, value)
        ds.squash()
    assert one.version_id.split("-")[0] != two.version_id.split("-")[0]
    with pytest.raises(Conflict, match="another branch, or a tag, 'main'"):
        one.push(two.path)


def test_an_id_space_is_left_before_it_is_full(mem_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_ROWS_A_SPACE", 4)
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    for i in range(6):
        more(ds, i, i)
    assert len(set(ids(ds))) == 12
    assert len({i >> 32 for i in ids(ds)}) == 3
    assert values(lakefmt.load(mem_url)) == [i for i in range(6) for _ in range(2)]


@pytest.mark.parametrize("pushed", [True, False])
def test_what_went_apart_comes_as_a_branch_and_is_merged(pair: tuple[Any, Any], pushed: bool) -> None:
    one, two = pair
    more(one, 10, 11)
    one.x[0] = -1
    one.commit("changed in one")
    more(two, 20)
    two.pop(1)
    two.commit("popped in two")
    with pytest.raises(Conflict, match="as_branch"):
        two.push(one.path)
    if pushed:
        two.push(one.path, as_branch="of two")
    else:
        one.pull(two.path, as_branch="of two")
    one.refresh()
    assert values(one) == [-1, 2, 3, 10, 11]
    there = lakefmt.load(f"{one.path}@of two")
    assert (values(there), ids(there)) == (values(two), ids(two))
    assert [c["message"] for c in there.commits][:2] == ["popped in two", "more (20,)"]
    one.merge("of two")
    assert sorted(values(one)) == [-1, 3, 10, 11, 20]
    assert one.fsck(full=True)


def test_what_was_sent_as_a_branch_is_continued(pair: tuple[Any, Any]) -> None:
    one, two = pair
    more(one, 10)
    more(two, 20)
    assert two.push(one.path, as_branch="of two").versions == 2
    more(two, 21)
    assert two.push(one.path, as_branch="of two").versions == 1
    assert two.push(one.path, as_branch="of two").versions == 0
    there = lakefmt.load(f"{one.path}@of two")
    assert values(there) == [1, 2, 3, 20, 21]
    more(there, 22)
    assert len(set(ids(there))) == 6
    more(two, 23)
    with pytest.raises(Conflict, match="of two"):
        two.push(one.path, as_branch="of two")
    assert values(lakefmt.load(f"{one.path}@of two")) == [1, 2, 3, 20, 21, 22]


def test_nothing_is_sent_as_a_branch_where_nothing_went_apart(pair: tuple[Any, Any]) -> None:
    one, two = pair
    with pytest.raises(InvalidInput, match="nothing"):
        two.push(one.path, as_branch="of two")
    more(one, 10)
    one.create_branch("of two")
    more(two, 20)
    with pytest.raises(Conflict, match="of two"):
        two.push(one.path, as_branch="of two")


def test_a_push_takes_along_what_was_merged(pair: tuple[Any, Any]) -> None:
    one, two = pair
    one.checkout("dev", create=True)
    more(one, 4)
    one.checkout("main")
    one.merge("dev")
    one.push(two.path)
    two.refresh()
    two.checkout("feature", create=True)
    more(two, 5)
    two.checkout("main")
    more(two, 6)
    two.merge("feature")
    assert sorted(values(two)) == [1, 2, 3, 4, 5, 6]
    one.delete_branch("dev")
    more(one, 7)
    other = fresh()
    one.deepcopy(other)
    assert lakefmt.load(other).fsck(full=True)


def test_a_squashed_branch_is_pushed_and_pulled(pair: tuple[Any, Any]) -> None:
    one, two = pair
    more(one, 4)
    one.squash("all in one")
    more(one, 5)
    one.push(two.path)
    with pytest.raises(Conflict, match="squashed"):
        more(two, 99)
    two.discard()
    two.checkout("main")
    assert values(two) == [1, 2, 3, 4, 5]
    two.squash()
    more(two, 6)
    one.pull(two.path)
    assert values(one) == [1, 2, 3, 4, 5, 6]
    assert one.fsck(full=True)
    assert two.fsck(full=True)


def test_a_squash_does_not_replace_a_copy_that_has_commits_of_its_own(pair: tuple[Any, Any]) -> None:
    one, two = pair
    more(two, 20)
    one.squash()
    with pytest.raises(Conflict):
        one.push(two.path)
    assert values(lakefmt.load(two.path)) == [1, 2, 3, 20]


def test_names_of_ended_branches_go_with_a_deep_copy_done_again(pair: tuple[Any, Any]) -> None:
    one, two = pair
    for name in ("gone", "old name"):
        one.create_branch(name)
    one.deepcopy(two.path)
    one.delete_branch("gone")
    one.rename_branch("old name", "new name")
    one.deepcopy(two.path)
    assert lakefmt.load(two.path).branches == ["main", "new name"]


def test_a_loader_goes_on_with_the_same_rows_only(pair: tuple[Any, Any]) -> None:
    one, two = pair
    more(one, 10)
    more(two, 20)
    assert one.version_id == two.version_id
    assert one.source().identity() != two.source().identity()


# -- what one side has merged of branches that both have ----------------------------------------------------------------


def with_w(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """Both copies have commits of their own on branch w, and the first has merged its own into main."""
    one, two = pair
    one.create_branch("w")
    one.deepcopy(two.path)
    two.refresh()
    for ds, value in ((one, 10), (two, 300)):
        ds.checkout("w")
        more(ds, value)
        ds.checkout("main")
    one.merge("w")
    return one, two


def test_a_push_whose_merges_mean_something_else_there_sends_nothing(pair: tuple[Any, Any]) -> None:
    one, two = with_w(pair)
    with pytest.raises(Conflict, match=r"contains work of 'w'.*as_branch"):
        one.push(two.path)
    assert values(lakefmt.load(two.path)) == [1, 2, 3]
    two.merge("w")
    assert values(two) == [1, 2, 3, 300]


def test_work_of_a_branch_of_the_same_name_is_not_taken_for_known(pair: tuple[Any, Any]) -> None:
    one, two = with_w(pair)
    more(two, 20)
    two.pull(one.path, as_branch="of one")
    two.merge("of one")
    two.merge("w")
    assert sorted(values(two)) == [1, 2, 3, 10, 20, 300]
    assert two.fsck(full=True)


def test_merges_with_branches_of_a_log_that_went_apart_end(pair: tuple[Any, Any]) -> None:
    one, two = pair
    for i in range(4):
        one.append({"x": 10 + i})
        one.flush()
    one.checkout("w", create=True)
    more(one, 19)
    one.checkout("main")
    one.merge("w")
    more(two, 100)
    two.pull(one.path, as_branch="of one")
    two.merge("of one")
    two.checkout("dev", create=True)
    more(two, 200)
    two.checkout("main")
    two.merge("dev")
    assert sorted(values(two)) == [1, 2, 3, 10, 11, 12, 13, 19, 100, 200]


def test_a_branch_of_a_branch_that_went_apart_is_sent_whole(pair: tuple[Any, Any]) -> None:
    one, two = pair
    more(one, 10)
    one.checkout("w", create=True)
    more(one, 11)
    more(two, 20)
    with pytest.raises(Conflict):
        one.push(two.path)
    one.push(two.path, as_branch="w of one")
    two.merge("w of one")
    assert sorted(values(two)) == [1, 2, 3, 10, 11, 20]


def test_ids_differ_where_a_branch_that_was_sent_comes_back(pair: tuple[Any, Any]) -> None:
    one, two = pair
    more(one, 10)
    more(two, 20)
    two.push(one.path, as_branch="of two")
    one.checkout("of two")
    one.push(two.path)
    two.checkout("of two")
    more(two, 21)
    first = set(ids(two))
    two.checkout("main")
    more(two, 22)
    assert len(first & set(ids(two))) == 4
    two.merge("of two")
    assert sorted(values(two)) == [1, 2, 3, 20, 21, 22]


def test_expiry_of_what_was_sent_does_not_stop_it_from_being_continued(pair: tuple[Any, Any]) -> None:
    one, two = pair
    more(one, 10)
    for value in (20, 21):
        two.append({"x": value})
        two.flush()
    one.pull(two.path, as_branch="of two")
    one.merge("of two")
    one.expire(older_than=0, grace_s=0)
    more(two, 22)
    one.pull(two.path, as_branch="of two")
    one.merge("of two")
    assert sorted(values(one)) == [1, 2, 3, 10, 20, 21, 22]


def test_a_branch_does_not_take_the_name_of_a_tag(pair: tuple[Any, Any]) -> None:
    one, two = pair
    two.tag("rel")
    one.checkout("rel", create=True)
    more(one, 4)
    with pytest.raises(Conflict, match="'rel'"):
        one.push(two.path)
    assert two.branches == ["main"]
