"""Branches and tags: names for lines of work and for versions, which never lead to another place than they say."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from dataset_tools import contents, values

import lakefmt
from lakefmt.errors import AlreadyExists, Conflict, InvalidInput, NoSuchVersion, ReadOnly, VersionExpired
from lakefmt.versioning import log, names


@pytest.fixture
def ds(mem_url: str) -> Any:
    """One tensor, three committed rows."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [1, 2, 3]})
    ds.commit("base")
    return ds


BAD_NAMES = ["", " dev", "dev ", "a@b", "/dev", ".", "..", "a\nb", "x" * 201, "0123456789ab-3", None, 3]


# -- branches ----------------------------------------------------------------------------------------------------------


def test_branches_grow_apart(ds: Any, mem_url: str) -> None:
    ds.checkout("dev", create=True)
    assert (ds.branch, ds.branches) == ("dev", ["dev", "main"])
    ds.append({"x": 4})
    ds.x[0] = 10
    ds.create_tensor("y")
    ds.info["k"] = 1
    ds.commit("dev")
    ds.checkout("main")
    ds.append({"x": 5})
    ds.pop(1)
    ds.commit("main")
    assert contents(ds) == contents(lakefmt.load(mem_url)) == {"x": [1, 3, 5]}
    assert contents(lakefmt.load(f"{mem_url}@dev")) == {"x": [10, 2, 3, 4], "y": []}
    assert (dict(ds.info), dict(lakefmt.load(f"{mem_url}@dev").info)) == ({}, {"k": 1})
    assert [c["message"] for c in lakefmt.load(f"{mem_url}@dev").commits] == ["dev", "base"]


def test_a_branch_begins_at_the_version_said(ds: Any, mem_url: str) -> None:
    first = ds.version_id
    ds.append({"x": 4})
    ds.tag("four")
    ds.append({"x": 5})
    ds.create_branch("old", first)
    ds.create_branch("tagged", "four")
    ds.create_branch("here")
    ds.create_branch("of-old", "old")
    assert ds.branch == "main"
    assert values(lakefmt.load(f"{mem_url}@old")) == values(lakefmt.load(f"{mem_url}@of-old")) == [1, 2, 3]
    assert values(lakefmt.load(f"{mem_url}@tagged")) == [1, 2, 3, 4]
    assert values(lakefmt.load(f"{mem_url}@here")) == [1, 2, 3, 4, 5], "what was buffered is stored first"
    other = lakefmt.load(f"{mem_url}@old")
    other.append({"x": 9})
    other.commit("nine")
    assert values(lakefmt.load(mem_url)) == [1, 2, 3, 4, 5]


def test_row_ids_of_branches_never_meet(ds: Any, mem_url: str) -> None:
    seen: set[int] = set()
    for name in ("main", "a", "b", "c"):
        if name != "main":
            ds.create_branch(name)
        one = lakefmt.load(f"{mem_url}@{name}")
        before = set(one[:].row_ids.tolist())
        one.extend({"x": [7, 8]})
        one.commit("rows")
        fresh = set(one[:].row_ids.tolist()) - before
        assert len(fresh) == 2
        assert not fresh & seen
        seen |= fresh


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_not_be_addressed_are_refused(ds: Any, name: Any) -> None:
    for call in (
        lambda: ds.create_branch(name), lambda: ds.tag(name), lambda: ds.checkout(name, create=True),
        lambda: ds.rename_branch("dev", name),
    ):  # fmt: skip
        if "dev" not in ds.branches:
            ds.create_branch("dev")
        version = ds.version_id
        with pytest.raises(InvalidInput):
            call()
        assert (ds.branches, ds.tags, ds.version_id, ds.branch) == (["dev", "main"], {}, version, "main")


@pytest.mark.parametrize("name", ["a/b", "exp.1", "ünï 図", "a b", "~x", "%41", "HEAD", "a..b", "-"])
def test_odd_names_are_addressed(ds: Any, mem_url: str, name: str) -> None:
    ds.checkout(name, create=True)
    ds.append({"x": 4})
    ds.commit("four")
    assert values(lakefmt.load(f"{mem_url}@{name}")) == [1, 2, 3, 4]
    assert name in lakefmt.load(mem_url).branches
    ds.checkout("main")
    ds.delete_branch(name)
    ds.tag(name)
    assert lakefmt.load(f"{mem_url}@{name}").version_id == ds.version_id


def test_a_name_is_given_once(ds: Any) -> None:
    ds.create_branch("dev")
    ds.tag("v1")
    version = ds.version_id
    for taken in ("dev", "main", "v1"):
        with pytest.raises(AlreadyExists, match=taken):
            ds.create_branch(taken)
        with pytest.raises(AlreadyExists, match=taken):
            ds.checkout(taken, create=True)
        with pytest.raises(AlreadyExists, match=taken):
            ds.tag(taken, message="another")
    for taken in ("main", "v1"):
        with pytest.raises(AlreadyExists, match=taken):
            ds.rename_branch("dev", taken)
    assert (ds.branches, list(ds.tags), ds.branch, ds.version_id) == (["dev", "main"], ["v1"], "main", version)


def test_a_mistyped_name_is_told(ds: Any, mem_url: str) -> None:
    ds.create_branch("develop")
    ds.tag("release")
    for wrong, meant in (("devlop", "develop"), ("relaese", "release")):
        with pytest.raises(NoSuchVersion, match=meant):
            ds.checkout(wrong)
        with pytest.raises(NoSuchVersion, match=meant):
            lakefmt.load(f"{mem_url}@{wrong}")
    with pytest.raises(NoSuchVersion):
        ds.checkout("0123456789ab-3")
    with pytest.raises(NoSuchVersion):
        ds.checkout(f"{ds.version_id[:13]}999")
    with pytest.raises(NoSuchVersion):
        ds.rename_branch("nope", "other")
    with pytest.raises(NoSuchVersion):
        ds.delete_branch("nope")
    assert (ds.branch, values(ds)) == ("main", [1, 2, 3])


def test_branches_that_cannot_be_deleted(ds: Any) -> None:
    with pytest.raises(InvalidInput, match="main"):
        ds.delete_branch("main")
    ds.checkout("dev", create=True)
    with pytest.raises(InvalidInput, match="main"):
        ds.delete_branch("main")
    with pytest.raises(InvalidInput, match="stands on"):
        ds.delete_branch("dev")
    ds.create_branch("leaf")
    ds.checkout("main")
    with pytest.raises(Conflict, match="leaf"):
        ds.delete_branch("dev")
    ds.delete_branch("leaf")
    ds.delete_branch("dev")
    assert ds.branches == ["main"]


def test_a_branch_goes_by_its_name_and_comes_anew(ds: Any, mem_url: str) -> None:
    ds.checkout("dev", create=True)
    ds.append({"x": 4})
    old = ds.commit("four")
    ds.checkout("main")
    ds.delete_branch("dev")
    with pytest.raises(NoSuchVersion):
        lakefmt.load(f"{mem_url}@dev")
    with pytest.raises(NoSuchVersion):
        lakefmt.load(f"{mem_url}@{old}")
    ds.checkout("dev", create=True)
    assert values(ds) == [1, 2, 3]
    assert old not in [c["commit"] for c in ds.commits]


def test_a_writer_on_a_deleted_branch_is_told_and_nothing_is_acknowledged(ds: Any, mem_url: str) -> None:
    ds.create_branch("dev")
    other = lakefmt.load(f"{mem_url}@dev")
    other.append({"x": 4})
    other.commit("four")
    ds.delete_branch("dev")
    other.append({"x": 5})
    for call in (other.flush, lambda: other.commit("lost"), lambda: other.create_tensor("y"), lambda: other.pop(0), other.refresh):
        with pytest.raises(Conflict, match="deleted"):
            call()
    assert values(other) == [1, 2, 3, 4, 5], "what is buffered is still there to be copied"
    other.discard()
    other.checkout("main")
    assert values(other) == [1, 2, 3]
    other.append({"x": 6})
    other.commit("six")
    assert values(lakefmt.load(mem_url)) == [1, 2, 3, 6]


def test_the_way_out_that_a_deleted_branch_names_is_one(ds: Any, mem_url: str) -> None:
    ds.create_branch("dev")
    other = lakefmt.load(f"{mem_url}@dev")
    other.append({"x": 5})
    ds.delete_branch("dev")
    with pytest.raises(Conflict) as caught:
        other.flush()
    try:
        if "checkout() another branch" in str(caught.value):
            other.checkout("main")  # it must work, as the message says so
    finally:
        other.discard()


def test_a_tag_keeps_a_version_of_a_deleted_branch(ds: Any, mem_url: str) -> None:
    ds.checkout("dev", create=True)
    ds.append({"x": 4})
    version = ds.tag("kept")
    ds.checkout("main")
    ds.delete_branch("dev")
    assert values(lakefmt.load(f"{mem_url}@kept")) == [1, 2, 3, 4]
    time.sleep(0.002)  # expiry goes by milliseconds: the version that ended the branch goes too
    ds.expire(0, grace_s=0)
    assert values(lakefmt.load(f"{mem_url}@kept")) == [1, 2, 3, 4]
    assert values(lakefmt.load(f"{mem_url}@{version}")) == [1, 2, 3, 4], "by its id too"
    ds.create_branch("again", "kept")
    assert values(lakefmt.load(f"{mem_url}@again")) == [1, 2, 3, 4]
    ds.merge("kept")
    assert values(ds) == [1, 2, 3, 4]


def test_a_version_of_a_deleted_branch_gets_no_name(ds: Any, mem_url: str) -> None:
    ds.checkout("dev", create=True)
    ds.append({"x": 4})
    ds.commit("four")
    dev = lakefmt.load(f"{mem_url}@dev")
    ds.checkout("main")
    ds.delete_branch("dev")
    for name in (lambda: dev.tag("kept"), lambda: dev.create_branch("kept"), lambda: dev[:2].save_view(id="kept")):
        with pytest.raises(VersionExpired, match="its branch was deleted"):
            name()
    assert (ds.tags, ds.branches, ds.get_views()) == ({}, ["main"], [])


def test_a_saved_view_outlives_its_branch(ds: Any, mem_url: str) -> None:
    ds.checkout("dev", create=True)
    ds.append({"x": 4})
    ds.commit("four")
    ds[2:].save_view(id="last")
    ds.checkout("main")
    ds.delete_branch("dev")
    time.sleep(0.002)
    ds.expire(0, grace_s=0)
    assert values(lakefmt.load(f"{mem_url}/.queries/last")) == [3, 4]


def test_handles_go_on_when_their_branch_is_renamed(ds: Any, mem_url: str) -> None:
    ds.create_branch("dev")
    here, there = lakefmt.load(f"{mem_url}@dev"), lakefmt.load(f"{mem_url}@dev")
    there.append({"x": 4})
    here.rename_branch("dev", "prod")
    assert here.branch == "prod"
    there.commit("four")
    here.refresh()
    here.append({"x": 5})
    here.commit("five")
    assert values(lakefmt.load(f"{mem_url}@prod")) == [1, 2, 3, 4, 5]
    assert ds.branches == ["main", "prod"]
    there.refresh()
    assert values(there) == [1, 2, 3, 4, 5]
    with pytest.raises(NoSuchVersion):
        lakefmt.load(f"{mem_url}@dev")
    with pytest.raises(InvalidInput, match="main"):
        ds.rename_branch("main", "trunk")


def test_the_name_of_a_renamed_branch_is_free_for_another(ds: Any, mem_url: str) -> None:
    ds.create_branch("dev")
    old = lakefmt.load(f"{mem_url}@dev")
    old.append({"x": 4})
    old.commit("four")
    ds.rename_branch("dev", "old")
    ds.checkout("dev", create=True)
    ds.append({"x": 5})
    ds.commit("five")
    old.append({"x": 6})
    old.commit("six")
    assert values(lakefmt.load(f"{mem_url}@dev")) == [1, 2, 3, 5]
    assert values(lakefmt.load(f"{mem_url}@old")) == [1, 2, 3, 4, 6]
    assert lakefmt.load(mem_url).branches == ["dev", "main", "old"]
    ds.checkout("main")
    ds.delete_branch("dev")
    ds.rename_branch("old", "dev")
    ds.rename_branch("dev", "old")
    ds.rename_branch("old", "dev")
    assert lakefmt.load(mem_url).branches == ["dev", "main"]
    assert values(lakefmt.load(f"{mem_url}@dev")) == [1, 2, 3, 4, 6]
    with pytest.raises(InvalidInput, match="stands on"):
        old.delete_branch("dev")


def test_renaming_a_branch_to_its_own_name_harms_nothing(ds: Any, mem_url: str) -> None:
    ds.create_branch("dev")
    with pytest.raises(AlreadyExists):
        ds.rename_branch("dev", "dev")
    assert values(lakefmt.load(f"{mem_url}@dev")) == [1, 2, 3]


def test_a_handle_whose_branch_was_renamed_by_another_cannot_delete_the_ground_it_stands_on(ds: Any, mem_url: str) -> None:
    ds.create_branch("dev")
    other = lakefmt.load(f"{mem_url}@dev")
    ds.rename_branch("dev", "prod")
    with pytest.raises(InvalidInput, match="stands on"):
        other.delete_branch("prod")
    assert "prod" in ds.branches


# -- checkout ----------------------------------------------------------------------------------------------------------


def test_buffered_rows_stay_on_the_branch_left_behind(ds: Any, mem_url: str) -> None:
    ds.append({"x": 4})
    ds.x[0] = 10
    ds.checkout("dev", create=True)
    assert values(ds) == [10, 2, 3, 4], "the new branch begins with them"
    ds.append({"x": 5})
    ds.checkout("main")
    assert values(ds) == values(lakefmt.load(mem_url)) == [10, 2, 3, 4]
    ds.append({"x": 6})
    with pytest.raises(NoSuchVersion):
        ds.checkout("nope")
    with pytest.raises(AlreadyExists):
        ds.checkout("dev", create=True)
    assert (ds.branch, values(ds)) == ("main", [10, 2, 3, 4, 6])
    ds.checkout("dev")
    assert values(ds) == [10, 2, 3, 4, 5]


def test_writing_on_an_old_version_offers_a_branch(ds: Any, mem_url: str) -> None:
    first = ds.version_id
    ds.append({"x": 4})
    ds.commit("four")
    ds.checkout(first)
    assert (ds.branch, ds.is_head_node, ds.read_only) == (None, False, True)
    for call in (
        lambda: ds.append({"x": 9}), lambda: ds.x.append(9), lambda: ds.pop(0), lambda: ds.create_tensor("y"),
        lambda: ds.commit("no"),
        lambda: ds.delete_tensor("x"), lambda: ds.rename_tensor("x", "y"), lambda: ds.merge("main"), ds.reset, ds.squash,
        lambda: ds.x.__setitem__(0, 9), lambda: ds.info.update(k=1), lambda: ds.restore("main"), lambda: ds.revert(first),
    ):  # fmt: skip
        with pytest.raises(ReadOnly, match=r"checkout\('name', create=True\)"):
            call()
    ds.checkout("from-first", create=True)
    assert not ds.read_only
    ds.append({"x": 9})
    ds.commit("nine")
    assert values(ds) == [1, 2, 3, 9]
    assert values(lakefmt.load(mem_url)) == [1, 2, 3, 4]
    ds.checkout("main")
    assert not ds.read_only


def test_the_newest_version_by_its_id_is_read_only_too(ds: Any, mem_url: str) -> None:
    ds.checkout(ds.version_id)
    with pytest.raises(ReadOnly):
        ds.append({"x": 4})
    ds.refresh()
    other = lakefmt.load(mem_url)
    other.append({"x": 4})
    other.commit("four")
    ds.refresh()
    assert values(ds) == [1, 2, 3], "a version stays what it is"


def test_a_read_only_handle_makes_no_names(ds: Any, mem_url: str) -> None:
    ds.create_branch("dev")
    ds.tag("v1")
    reader = lakefmt.load(mem_url, read_only=True)
    for call in (
        lambda: reader.create_branch("a"), lambda: reader.checkout("b", create=True), lambda: reader.delete_branch("dev"),
        lambda: reader.rename_branch("dev", "c"), lambda: reader.tag("v2"), lambda: reader.delete_tag("v1"),
    ):  # fmt: skip
        with pytest.raises(ReadOnly):
            call()
    reader.checkout("dev")
    with pytest.raises(ReadOnly):
        reader.append({"x": 4})
    assert (ds.branches, list(ds.tags)) == (["dev", "main"], ["v1"])


def test_wrong_arguments_of_checkout(ds: Any) -> None:
    for arguments in ({}, {"address": "main", "as_of": 1}, {"create": True}, {"create": True, "as_of": 5}, {"address": 3}):
        with pytest.raises(InvalidInput):
            ds.checkout(**arguments)
    assert ds.branch == "main"


# -- two handles -------------------------------------------------------------------------------------------------------


def test_two_handles_on_one_branch(ds: Any, mem_url: str) -> None:
    other = lakefmt.load(mem_url)
    ds.append({"x": 4})
    other.append({"x": 5})
    other.x[0] = 10
    ds.x[1] = 20
    ds.commit("one")
    other.commit("two")
    ds.refresh()
    assert values(ds) == values(other) == values(lakefmt.load(mem_url)) == [10, 20, 3, 4, 5]
    ds.pop(2)
    other.x[2] = 30
    with suppress(Conflict):  # an update of a row that is gone may also be let go
        other.flush()
    other.discard()
    other.refresh()
    assert values(other) == [10, 20, 4, 5]


def test_two_handles_on_two_branches(ds: Any, mem_url: str) -> None:
    other = lakefmt.load(mem_url)
    other.checkout("dev", create=True)
    for k in range(5):
        ds.append({"x": 10 + k})
        other.append({"x": 20 + k})
        other.x[k % 3] = 100 + k
        ds.commit(f"main {k}")
        other.flush()
    assert values(lakefmt.load(mem_url)) == [1, 2, 3, 10, 11, 12, 13, 14]
    assert values(lakefmt.load(f"{mem_url}@dev")) == [103, 104, 102, 20, 21, 22, 23, 24]
    assert ds.pending_commit_id != other.pending_commit_id


# -- tags --------------------------------------------------------------------------------------------------------------


def test_a_tag_names_a_version_for_good(ds: Any, mem_url: str) -> None:
    ds.append({"x": 4})
    version = ds.tag("v1", message="the first")
    ds.append({"x": 5})
    ds.x[0] = 10
    ds.commit("later")
    ds.compact()
    old = lakefmt.load(f"{mem_url}@v1")
    assert (values(old), old.version_id, old.branch, old.read_only) == ([1, 2, 3, 4], version, None, True)
    with pytest.raises(ReadOnly):
        old.append({"x": 9})
    assert ds.tags == lakefmt.load(mem_url).tags == {"v1": version}
    found = ds.get_tag("v1")
    assert (found.name, found.message) == ("v1", "the first")
    ds.checkout("v1")
    assert values(ds) == [1, 2, 3, 4]
    ds.checkout("main")
    ds.tag("v0", old.history()[1].branch[:12] + "-1")
    assert values(lakefmt.load(f"{mem_url}@v0")) == []
    ds.expire(0, grace_s=0)
    assert values(lakefmt.load(f"{mem_url}@v1")) == [1, 2, 3, 4]


def test_a_tag_is_deleted_and_given_again(ds: Any, mem_url: str) -> None:
    first = ds.tag("v1")
    with pytest.raises(AlreadyExists, match=r"delete_tag\('v1'\)"):
        ds.tag("v1", message="another")
    ds.append({"x": 4})
    ds.commit("four")
    ds.delete_tag("v1")
    assert ds.tags == {}
    with pytest.raises(NoSuchVersion):
        lakefmt.load(f"{mem_url}@v1")
    assert values(lakefmt.load(f"{mem_url}@{first}")) == [1, 2, 3]
    assert ds.tag("v1") != first
    assert values(lakefmt.load(f"{mem_url}@v1")) == [1, 2, 3, 4]
    for call in (ds.delete_tag, ds.get_tag):
        with pytest.raises(NoSuchVersion, match="'v1'"):
            call("v2")


def test_tags_of_tags_and_of_other_branches(ds: Any, mem_url: str) -> None:
    ds.tag("a")
    ds.checkout("dev", create=True)
    ds.append({"x": 4})
    ds.commit("four")
    ds.checkout("main")
    ds.tag("b", "dev")
    ds.tag("c", "a")
    assert ds.tags["c"] == ds.tags["a"]
    assert values(lakefmt.load(f"{mem_url}@b")) == [1, 2, 3, 4]
    with pytest.raises(NoSuchVersion):
        ds.tag("d", "nope")
    with pytest.raises(InvalidInput):
        ds.tag("d", message=3)
    assert sorted(ds.tags) == ["a", "b", "c"]


def test_a_tag_is_made_from_a_version_handle(ds: Any, mem_url: str) -> None:
    """A handle that stands on a version may be refused, but must not tag anything else."""
    first = ds.version_id
    ds.append({"x": 4})
    ds.commit("four")
    ds.checkout(first)
    assert ds.tag("here") == first
    assert values(lakefmt.load(f"{mem_url}@here")) == [1, 2, 3]


# -- times -------------------------------------------------------------------------------------------------------------


class Clock:
    """A clock set by hand, in seconds."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000

    def ms(self) -> int:
        return self.now_s * 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Versions get the time of a clock set by hand."""
    clock = Clock()
    monkeypatch.setattr(log, "now_ms", clock.ms)
    monkeypatch.setattr(names, "now_ms", clock.ms)
    return clock


def timed(url: str, clock: Clock) -> tuple[Any, int]:
    """A dataset with a row more every ten seconds, from one row at the time returned."""
    ds = lakefmt.dataset(url)
    ds.create_tensor("x", dtype="int64")
    clock.now_s += 10
    start = clock.now_s
    for k in range(4):
        clock.now_s = start + 10 * k
        ds.append({"x": k})
        ds.commit(str(k))
    clock.now_s += 10
    return ds, start


def test_as_of_is_the_newest_version_not_younger(mem_url: str, clock: Clock) -> None:
    ds, start = timed(mem_url, clock)
    for seconds, rows in ((0, 1), (5, 1), (10, 2), (19.999, 2), (20, 3), (1000, 4)):
        at = start + seconds
        moment = datetime.fromtimestamp(at, UTC)
        for when in (at, moment, moment.isoformat(), moment.replace(tzinfo=None)):
            assert values(lakefmt.load(mem_url, as_of=when)) == list(range(rows))
            ds.checkout(as_of=when)
            assert values(ds) == list(range(rows))
            assert (ds.branch, ds.read_only) == (None, True)
            ds.checkout("main")
    with pytest.raises(ReadOnly):
        lakefmt.load(mem_url, as_of=start).append({"x": 1})


def test_as_of_before_the_first_version(mem_url: str, clock: Clock) -> None:
    ds, start = timed(mem_url, clock)
    for when in (start - 100, 0, "1999-12-31"):
        with pytest.raises(NoSuchVersion, match="old"):
            ds.checkout(as_of=when)
    for wrong in ("yesterday", True, None, [1], "12"):
        with pytest.raises(InvalidInput):
            ds.checkout(as_of=wrong)
    assert (ds.branch, values(ds)) == ("main", [0, 1, 2, 3])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_as_of_a_number_that_is_no_time(mem_url: str, clock: Clock, wrong: float) -> None:
    ds, _ = timed(mem_url, clock)
    with pytest.raises(InvalidInput):
        ds.checkout(as_of=wrong)


def test_as_of_on_a_branch_goes_back_beyond_where_it_began(mem_url: str, clock: Clock) -> None:
    ds, start = timed(mem_url, clock)
    ds.checkout("dev", create=True)
    ds.append({"x": 9})
    ds.commit("nine")
    ds.checkout("main")
    clock.now_s += 10
    ds.append({"x": 4})
    ds.commit("4")
    at = clock.now_s
    assert values(lakefmt.load(f"{mem_url}@dev", as_of=at)) == [0, 1, 2, 3, 9]
    assert values(lakefmt.load(mem_url, as_of=at)) == [0, 1, 2, 3, 4]
    assert values(lakefmt.load(f"{mem_url}@dev", as_of=start + 15)) == [0, 1]


def test_as_of_on_a_branch_of_an_old_version_never_shows_what_the_branch_never_had(mem_url: str, clock: Clock) -> None:
    ds, start = timed(mem_url, clock)
    old = next(c["commit"] for c in ds.commits if c["message"] == "1")
    clock.now_s += 10
    ds.create_branch("dev", old)
    dev = lakefmt.load(f"{mem_url}@dev")
    dev.append({"x": 9})
    dev.commit("nine")
    for seconds, rows in ((5, [0]), (10, [0, 1]), (20, [0, 1]), (35, [0, 1]), (60, [0, 1, 9])):
        assert values(lakefmt.load(f"{mem_url}@dev", as_of=start + seconds)) == rows, seconds


def test_as_of_goes_back_behind_a_squash_until_that_has_expired(mem_url: str, clock: Clock) -> None:
    ds, start = timed(mem_url, clock)
    before = values(lakefmt.load(mem_url, as_of=start))
    ds.squash()
    assert values(lakefmt.load(mem_url, as_of=clock.now_s + 1)) == [0, 1, 2, 3]
    assert values(lakefmt.load(mem_url, as_of=start)) == before
    assert ds.expire(older_than=0, grace_s=0).versions
    with pytest.raises(VersionExpired):
        lakefmt.load(mem_url, as_of=start)


def test_a_clock_set_back_leaves_versions_in_order(mem_url: str, clock: Clock) -> None:
    ds, start = timed(mem_url, clock)
    clock.now_s = start - 5
    ds.append({"x": 4})
    ds.commit("4")
    assert values(lakefmt.load(mem_url, as_of=start + 30)) == [0, 1, 2, 3]
    assert values(lakefmt.load(mem_url, as_of=start + 31)) == [0, 1, 2, 3, 4]
    times = [h.ts_ms for h in ds.history()]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == len(times)
