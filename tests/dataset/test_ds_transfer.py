"""Copies hold what their origin holds, wherever copying was interrupted, and nobody's commits are lost between copies."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from dataset_tools import contents, values

import lakefmt
from lakefmt.errors import AlreadyExists, Conflict, InvalidInput, LakeError, NoSuchDataset, StoreError
from lakefmt.storage import open_store
from lakefmt.transfer import copy_all, copy_head, send_branch
from lakefmt.versioning import leaves
from lakefmt.versioning.log import Log

sys.path.insert(0, str(Path(__file__).parents[1] / "versioning"))
from faulty_stores import Counting, Crash, Crashing, Wrapped, copied, memory, opened

T = TypeVar("T")


def fresh() -> str:
    """Address of a fresh place in memory."""
    return f"mem://{uuid.uuid4().hex}"


@pytest.fixture
def ds(mem_url: str) -> Any:
    """Rows in files and in the version object, a branch, a tag, a view, an update and a deletion."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("v", dtype="float32")
    for i in range(3):
        more(ds, i, 4)
    ds.tag("early")
    ds.x[2] = 200
    ds.pop(5)
    ds.commit("changed")
    ds.create_branch("dev")
    dev = lakefmt.load(f"{mem_url}@dev")
    more(dev, 9)
    ds.query("x > 2").save_view("some")
    ds.create_tensor("tiny", dtype="int8")
    ds.tiny.extend([1, 2])
    ds.flush()
    return ds


def more(ds: Any, value: int, rows: int = 1) -> None:
    """Rows in files of their own."""
    ds.extend({"x": [value] * rows, "v": np.full((rows, 100), value, "f4")}, skip_ok=True)
    ds.commit(f"more {value}")


def whole(url: str) -> tuple[Any, ...]:
    """All that can be seen of a dataset."""
    ds = lakefmt.load(url)
    versions = [(h.branch, h.v, h.transaction) for h in ds.history()]
    views = {v.id: values(ds.load_view(v.id)) for v in ds.get_views()}
    rows = {b: contents(lakefmt.load(f"{url}@{b}")) for b in ds.branches}
    return versions, rows, ds.tags, views, ds[:].row_ids.tolist()


# -- the rows alone -------------------------------------------------------------------------------------------------


def test_a_copy_has_the_rows_and_no_history(ds: Any, tmp_path: Path) -> None:
    for url in (fresh(), str(tmp_path / "copy")):
        made = ds.copy(url)
        again = lakefmt.load(url)
        assert contents(made) == contents(again) == contents(ds)
        assert (again.branches, again.tags, again.get_views()) == (["main"], {}, [])
        assert again[:].row_ids.tolist() == ds[:].row_ids.tolist()
        assert [t.htype for t in again.tensors.values()] == [t.htype for t in ds.tensors.values()]
        assert again.fsck(full=True)
        with pytest.raises(AlreadyExists):
            ds.copy(url)


def test_a_copy_of_an_old_version_and_of_a_branch(ds: Any, mem_url: str) -> None:
    old = lakefmt.load(f"{mem_url}@early")
    assert values(old.copy(fresh())) == [0] * 4 + [1] * 4 + [2] * 4
    assert values(lakefmt.load(f"{mem_url}@dev").copy(fresh()))[-1] == 9


def test_new_rows_of_a_copy_get_ids_of_their_own(ds: Any) -> None:
    copies = [ds.copy(fresh()) for _ in range(3)]
    copies.append(copies[0].copy(fresh()))
    more(ds, 1, 5)
    seen = set(ds[:].row_ids.tolist())
    for copy in copies:
        before = len(copy)
        more(copy, 7, 5)
        added = copy[before:].row_ids.tolist()
        assert len(set(added)) == 5
        assert seen.isdisjoint(added)
        assert len(set(copy[:].row_ids.tolist())) == len(copy)
        seen |= set(added)
        copy.pop(before)
        copy.x[before] = 70
        copy.commit()
        assert values(lakefmt.load(copy.path))[before:] == [70, 7, 7, 7]


def test_a_copy_stopped_anywhere_leaves_no_dataset_that_lacks_rows(ds: Any) -> None:
    expected = contents(ds)
    at = 0
    while True:
        to = memory()
        try:
            copy_head(ds._log, ds._writer.version, Crashing(to, at, applied=True), None)
        except Crash:
            if Log.exists(to):
                assert contents(opened(to)) == expected, f"call {at}: an empty dataset stands where the copy should"
            at += 1
            continue
        break
    assert at > 10


@pytest.mark.parametrize("how", ["copy", "deepcopy", "push", "pull"])
def test_an_address_with_a_branch_is_refused(ds: Any, how: str) -> None:
    to = fresh()
    if how in ("push", "pull"):
        ds.deepcopy(to)
    with pytest.raises(InvalidInput):
        getattr(ds, how)(f"{to}@dev")


# -- everything -----------------------------------------------------------------------------------------------------


def test_a_deep_copy_has_everything(ds: Any, mem_url: str, tmp_path: Path) -> None:
    folder, back = str(tmp_path / "copy"), fresh()
    sent = ds.deepcopy(folder)
    assert sent.present == 0
    lakefmt.load(folder).deepcopy(back)
    for url in (folder, back):
        assert whole(url) == whole(mem_url)
        copy = lakefmt.load(url)
        assert copy.fsck(full=True)
        assert values(lakefmt.load(f"{url}@early")) == [0] * 4 + [1] * 4 + [2] * 4
        more(copy, 5)
    again = ds.deepcopy(fresh())
    assert (again.objects, again.nbytes) == (sent.objects, sent.nbytes)


def test_a_deep_copy_done_again_sends_nothing(ds: Any) -> None:
    to = fresh()
    first = ds.deepcopy(to)
    second = ds.deepcopy(to)
    assert (second.objects, second.nbytes, second.present) == (0, 0, first.objects)


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
def test_a_deep_copy_stopped_anywhere_goes_on_when_done_again(ds: Any, mem_url: str, applied: bool) -> None:
    expected = whole(mem_url)
    at = 0
    while True:
        to = memory()
        try:
            copy_all(ds._log, Crashing(to, at, applied=applied))
        except Crash:
            if Log.exists(to):
                assert whole(to.url) == expected, "it is a dataset once all is there"
            copy_all(ds._log, to)
            assert whole(to.url) == expected, at
            at += 5
            continue
        break
    assert at > 30


def test_a_deep_copy_to_another_dataset_is_refused(ds: Any) -> None:
    to = fresh()
    other = lakefmt.dataset(to)
    other.create_tensor("y", dtype="int8")
    other.append({"y": 1})
    other.commit()
    with pytest.raises(AlreadyExists):
        ds.deepcopy(to)
    assert contents(lakefmt.load(to)) == {"y": [1]}
    copy = fresh()
    ds.copy(copy)
    with pytest.raises(AlreadyExists):
        ds.deepcopy(copy)


def test_an_older_copy_is_brought_up_to_date(ds: Any, mem_url: str) -> None:
    to = fresh()
    first = ds.deepcopy(to)
    stale = lakefmt.load(to)
    more(ds, 5)
    ds.tag("late")
    ds.create_branch("other")
    sent = ds.deepcopy(to)
    assert 0 < sent.objects < 12
    assert sent.present == first.objects
    assert whole(to) == whole(mem_url)
    stale.refresh()
    assert values(stale) == values(ds)


def after_a_change(ds: Any, mem_url: str, change: str) -> None:
    """Something of a name changes in the origin."""
    if change == "squash":
        lakefmt.load(f"{mem_url}@dev").squash()
        more(lakefmt.load(f"{mem_url}@dev"), 3)
    elif change == "moved tag":
        ds.delete_tag("early")
        ds.tag("early")
    elif change == "deleted tag":
        ds.delete_tag("early")
    elif change == "deleted branch":
        ds.delete_branch("dev")
    elif change == "renamed branch":
        ds.rename_branch("dev", "new")
    else:
        ds.query("x < 2").save_view("some", overwrite=True)


@pytest.mark.parametrize("change", ["squash", "moved tag", "renamed branch", "overwritten view"])
def test_names_that_changed_are_brought_up_to_date(ds: Any, mem_url: str, change: str) -> None:
    to = fresh()
    ds.deepcopy(to)
    after_a_change(ds, mem_url, change)
    ds.deepcopy(to)
    here, there = whole(mem_url), whole(to)
    assert there[1].keys() >= here[1].keys()
    assert {b: there[1][b] for b in here[1]} == here[1]
    assert (there[2], there[3]) == (here[2], here[3])


def test_a_copy_with_commits_of_its_own_is_not_overwritten(ds: Any, mem_url: str) -> None:
    to = fresh()
    ds.deepcopy(to)
    copy = lakefmt.load(to)
    more(copy, 70)
    mine = values(copy)
    more(ds, 1)
    more(ds, 2)
    with pytest.raises(Conflict):
        ds.deepcopy(to)
    assert values(lakefmt.load(to)) == mine
    assert lakefmt.load(to).fsck(full=True)


def test_a_copy_that_is_ahead_keeps_its_commits(ds: Any, mem_url: str) -> None:
    to = fresh()
    ds.deepcopy(to)
    copy = lakefmt.load(to)
    more(copy, 70)
    mine = values(copy)
    with contextlib.suppress(Conflict):
        ds.deepcopy(to)
    assert values(lakefmt.load(to)) == mine
    assert lakefmt.load(to).fsck(full=True)


def test_an_update_of_a_copy_that_is_interrupted_leaves_no_hole_in_its_log(ds: Any, mem_url: str) -> None:
    to = fresh()
    ds.deepcopy(to)
    uuid_of_main, next_v = ds._branch.uuid, ds._writer.version.head.v + 1
    for i in range(4):
        more(ds, i)

    class OneFails(Wrapped):
        def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
            if name.startswith("put") and key == f"log/{uuid_of_main}/{next_v:020d}.json":
                raise StoreError(5, "cut")
            return fn()

    with pytest.raises(StoreError):
        copy_all(ds._log, OneFails(open_store(to)))
    log = Log.open(open_store(to))
    numbers = log.numbers(uuid_of_main)
    assert numbers == list(range(len(numbers)))
    assert log.head(uuid_of_main).head.v == numbers[-1]
    ds.deepcopy(to)
    assert whole(to) == whole(mem_url)


# -- push and pull --------------------------------------------------------------------------------------------------


def test_a_push_sends_what_is_missing_and_nothing_else(ds: Any, mem_url: str) -> None:
    to = memory()
    copy_all(ds._log, to)
    before = {e.key: to.get(e.key) for e in to.list("")}
    more(ds, 5)
    more(ds, 6)
    counting = Counting(to)
    sent = send_branch(ds._log, Log.open(counting), "main")
    written = [k for n, k in counting.calls if n in ("put", "put_if_absent", "writer")]
    data = [k for k in written if k.startswith("data/")]
    assert (sent.versions, sent.objects) == (2, len(data) + 2)
    assert [k for k in written if k.startswith("log/")] == sorted(k for k in written if k.startswith("log/"))
    assert set(data).isdisjoint(before)
    assert len(data) == 4
    assert {k: to.get(k) for k in before} == before, "nothing is replaced"
    assert values(opened(to)) == values(ds)
    again = ds.push(to.url)
    assert (again.objects, again.nbytes, again.versions) == (0, 0, 0)


def test_there_and_back(ds: Any, tmp_path: Path) -> None:
    to = str(tmp_path / "copy")
    ds.deepcopy(to)
    copy = lakefmt.load(to)
    more(copy, 70)
    assert ds.pull(to).versions == 1
    assert values(ds) == values(copy)
    more(ds, 71)
    ds.push(to)
    copy.refresh()
    assert values(copy) == values(ds)
    assert values(copy)[-2:] == [70, 71]
    copy.pop(0)
    copy.x[0] = -1
    copy.append({"x": 5, "v": None}, skip_ok=True)
    copy.flush()
    ds.pull(to)
    assert contents(ds) == contents(copy)
    assert ds.fsck(full=True)


def test_copies_that_went_apart_are_told_and_stay_as_they_are(ds: Any, mem_url: str) -> None:
    to = fresh()
    ds.deepcopy(to)
    copy = lakefmt.load(to)
    more(ds, 1)
    more(copy, 2)
    mine, theirs = values(ds), values(copy)
    for act in (lambda: ds.push(to), lambda: ds.pull(to), lambda: copy.push(mem_url), lambda: copy.pull(mem_url)):
        with pytest.raises(Conflict):
            act()
    more(copy, 3)
    for act in (lambda: ds.push(to), lambda: ds.pull(to)):
        with pytest.raises(Conflict):
            act()
    assert (values(lakefmt.load(mem_url)), values(lakefmt.load(to))) == (mine, [*theirs, 3])
    assert lakefmt.load(mem_url).fsck(full=True)
    assert lakefmt.load(to).fsck(full=True)


def test_copies_that_went_apart_are_merged_through_a_branch(ds: Any, mem_url: str) -> None:
    to = fresh()
    ds.deepcopy(to)
    copy = lakefmt.load(to)
    copy.checkout("theirs", create=True)
    more(copy, 2)
    copy.x[0] = -5
    copy.commit("theirs")
    more(ds, 1)
    copy.push(mem_url)
    ds.merge("theirs")
    assert sorted(values(ds)) == sorted([-5, *values(copy)[1:], 1])
    assert len(set(ds[:].row_ids.tolist())) == len(ds)


def test_a_push_while_the_other_side_commits_is_told(ds: Any) -> None:
    inner = memory()
    copy_all(ds._log, inner)
    more(ds, 1)
    more(ds, 2)
    at = 0
    while True:
        to = copied(inner)
        other = opened(to)

        class Racing(Wrapped):
            done = False
            seen = -1

            def call(self, name: str, key: str, fn: Callable[[], T], at: int = at, other: Any = other) -> T:
                self.seen += 1
                if self.seen == at:
                    self.done = True
                    more(other, 80)
                return fn()

        racing = Racing(to)
        with contextlib.suppress(Conflict):
            send_branch(ds._log, Log.open(racing), "main")
        if not racing.done:
            break
        assert 80 in values(opened(to)), at
        assert opened(to).fsck(full=True)
        at += 1
    assert at > 10


def test_a_push_stopped_anywhere_goes_on_when_done_again(ds: Any) -> None:
    base = memory()
    copy_all(ds._log, base)
    for i in range(3):
        more(ds, i)
    at = 0
    while True:
        to = copied(base)
        try:
            send_branch(ds._log, Log.open(Crashing(to, at, applied=at % 2 == 0)), "main")
        except Crash:
            assert opened(to).fsck(full=True), at
            send_branch(ds._log, Log.open(to), "main")
            assert values(opened(to)) == values(ds)
            at += 1
            continue
        break
    assert at > 10


def test_a_branch_goes_with_those_it_came_from(ds: Any, mem_url: str) -> None:
    to = fresh()
    ds.deepcopy(to)
    more(ds, 5)
    ds.checkout("a", create=True)
    more(ds, 6)
    ds.checkout("b", create=True)
    more(ds, 7)
    ds.push(to)
    copy = lakefmt.load(f"{to}@b")
    assert values(copy) == values(ds)
    assert [h.transaction for h in copy.history()] == [h.transaction for h in ds.history()]
    assert sorted(copy.branches) == ["a", "b", "dev", "main"]
    assert copy.fsck(full=True)


def test_an_unrelated_dataset_is_refused(ds: Any) -> None:
    to = fresh()
    lakefmt.dataset(to)
    for act in (lambda: ds.push(to), lambda: ds.pull(to)):
        with pytest.raises(InvalidInput):
            act()
    nowhere = fresh()
    for act in (lambda: ds.push(nowhere), lambda: ds.pull(nowhere)):
        with pytest.raises(NoSuchDataset):
            act()
    copy = fresh()
    ds.copy(copy)
    with pytest.raises(InvalidInput):
        ds.push(copy)
    ds.checkout("early")
    with pytest.raises(LakeError):
        ds.push(to)


def test_leaves_travel(mem_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("INLINE_MAX", 2), ("INLINE_KEPT", 1), ("SMALL_LEAVES_MAX", 3), ("LEAF_FRAGMENTS_MAX", 8)):
        monkeypatch.setattr(leaves, name, value)
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    for i in range(9):
        ds.extend({"x": [i] * 20})
        ds.commit()
    to, other = fresh(), fresh()
    ds.deepcopy(to)
    made = ds.copy(other)
    for i in range(9):
        ds.extend({"x": [i] * 20})
        ds.x[i] = -i
        ds.commit()
    ds.push(to)
    assert values(lakefmt.load(to)) == values(ds)
    assert len(values(made)) == 180
    for url in (to, other):
        assert lakefmt.load(url).fsck(full=True)


def test_what_has_expired_is_not_asked_for(ds: Any, mem_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import time
    from types import SimpleNamespace

    to, late = fresh(), fresh()
    ds.deepcopy(to)
    for i in range(4):
        ds.extend({"x": [i], "v": np.zeros((1, 100), "f4")}, skip_ok=True)
        ds.flush()
    ds.compact()
    monkeypatch.setattr("lakefmt.versioning.expire.time", SimpleNamespace(time=lambda: time.time() + 3600))
    assert ds.expire(0, grace_s=0).objects
    ds.push(to)
    ds.deepcopy(late)
    for url in (to, late):
        assert values(lakefmt.load(url)) == values(ds)
        assert lakefmt.load(url).fsck(full=True)
        more(lakefmt.load(url), 3)
