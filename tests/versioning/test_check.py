"""A check looks at all that somebody may need, once, says who needs what is lost, and raises no alarm over others at work."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
from faulty_stores import Counting, Wrapped, abandon, copied, memory, opened

from lakefmt.storage import MemoryStore, Store
from lakefmt.versioning import leaves
from lakefmt.versioning.check import Report, check
from lakefmt.versioning.encode import trimmed
from lakefmt.versioning.leaves import Tree
from lakefmt.versioning.log import Log

T = TypeVar("T")


@pytest.fixture
def store() -> MemoryStore:
    """Two branches with files of their own, updates and deletions."""
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("v", dtype="float32")
    for i in range(4):
        ds.extend({"x": [i] * 3, "v": np.full((3, 500), i, "f4")})
        ds.commit(f"part {i}")
    ds.x[0] = 100
    ds.pop(5)
    ds.commit("changed")
    ds.create_branch("dev")
    dev = opened(store, branch="dev")
    for i in (10, 11):
        dev.extend({"x": [i], "v": np.full((1, 500), i, "f4")})
        dev.commit(f"dev {i}")
    return store


def found(store: Store, *, full: bool = False) -> Report:
    """What a check finds."""
    return check(Log.open(store), full=full)


def only_of(store: Store, branch: str) -> list[str]:
    """Files that the newest version of a branch needs and main does not."""
    needs = [{f.key for x in opened(store, branch=b)._writer.snapshot.fragments for f in x.every_file()} for b in (branch, "main")]
    return sorted(needs[0] - needs[1])


# -- what is looked at ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deleted", "tag", "lease", "view", "squashed"])
def test_files_of_branches_that_have_no_name_are_looked_at(store: MemoryStore, how: str) -> None:
    ds, dev = opened(store), opened(store, branch="dev")
    newest = dev.version_id
    lost = only_of(store, "dev")
    if how == "tag":
        dev.tag("release")
    elif how == "lease":
        held = dev.lease()
        held.__enter__()
    elif how == "view":
        dev[2:].save_view("some")
    if how == "squashed":
        dev.squash()
        dev.compact()
    else:
        ds.delete_branch("dev")
    if how in ("tag", "lease", "view"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lakefmt.versioning.expire.time", SimpleNamespace(time=lambda: time.time() + 3600))
            ds.expire(0, grace_s=0)
    assert found(store, full=True)
    store.delete(lost)
    for full in (False, True):
        report = found(store, full=full)
        assert sorted(p.key for p in report.problems) == lost
        assert all(newest in p.versions for p in report.problems)
        assert newest in repr(report)


def test_names_that_do_not_parse_are_told(store: MemoryStore) -> None:
    ds = opened(store)
    ds.tag("release")
    ds[2:].save_view("some")
    with ds.lease():
        keys = ["refs/tags/release.json", ".queries/some.parquet", next(e.key for e in store.list("refs/leases/"))]
        for key in keys:
            data = bytearray(store.get(key))
            data[-3] ^= 1
            store.put(key, bytes(data))
        report = found(store)
        assert sorted((p.what, p.key) for p in report.problems) == [("name", key) for key in sorted(keys)]


def test_names_of_versions_that_are_not_there_are_told(store: MemoryStore) -> None:
    ds = opened(store)
    old = f"{ds._branch.uuid[:12]}-2"
    ds.tag("release", old)
    ds.checkout(old)
    ds[1:].save_view("some")
    kept = {k: store.get(k) for k in ("refs/tags/release.json", ".queries/some.parquet")}
    store.delete(kept)
    ds.checkout("main")
    ds.delete_branch("dev")
    version = ds._log.read(ds._branch.uuid, 2)
    key = f"log/{version.head.branch}/{2:020d}.json"
    store.put(key, trimmed(store.get(key), key))
    assert found(store)
    for k, data in kept.items():
        store.put(k, data)
    report = found(store)
    assert [(p.what, p.key) for p in report.problems] == [("name", k) for k in kept]
    assert all(old in p.detail and "has expired" in p.detail for p in report.problems)
    assert "delete_tag('release')" in repr(report)


def test_a_lease_that_has_ended_needs_nothing(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = opened(store)
    lease = ds._log.refs.lease(ds._branch.uuid, 99, 3600)
    assert found(store), "it is not checked: who wrote it is about to take it back"
    monkeypatch.setattr("lakefmt.versioning.check.time", SimpleNamespace(time=lambda: time.time() + 7200))
    with ds._log.refs.leased(ds._branch.uuid, 99, 3600, lambda: None):
        assert found(store)
        monkeypatch.undo()
        assert not found(store)
    ds._log.refs.release(lease)


def test_all_versions_that_need_a_lost_file_are_listed(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "INLINE_MAX", 2)
    monkeypatch.setattr(leaves, "INLINE_KEPT", 1)
    ds = opened(store)
    for i in range(12):
        ds.extend({"x": [i], "v": np.zeros((1, 500), "f4")})
        ds.commit(f"more {i}")
    assert ds._writer.version.state.leaves
    lost = ds._writer.snapshot.fragments[1].files[0].key
    store.delete([lost])
    report = found(store)
    (problem,) = report.problems
    need = []
    for branch in ("main", "dev"):
        for head in opened(store, branch=branch).history():
            version = ds._log.read(head.branch, head.v)
            if any(f.key == lost for x in Tree(version.state, ds._log.leaves) for f in x.every_file()):
                need.append(version.id)
    assert sorted(problem.versions) == sorted(set(need))
    assert f"and {len(set(need)) - 8} more" in repr(report)


def test_what_does_not_belong_there_harms_nobody(store: MemoryStore) -> None:
    ds = opened(store)
    for key in ("log/README", "log/notes/deep/down.json", "refs/tags/notes.txt", ".queries/notes", "data/notes"):
        store.put(key, b"a note")
    assert found(store)
    ds.expire(0, grace_s=0, dry_run=True)


def test_texts_count_right() -> None:
    report = Report(versions=1, objects=1, nbytes=1)
    assert "1 version, 1 object, 1 byte\n" in repr(report)
    assert "2 versions, 0 objects, 1,000 bytes\n" in repr(Report(versions=2, nbytes=1000))


# -- what it costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("small_leaves", [False, True])
def test_each_version_leaf_and_file_is_asked_for_once(
    store: MemoryStore, full: bool, small_leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small_leaves:
        monkeypatch.setattr(leaves, "INLINE_MAX", 2)
        monkeypatch.setattr(leaves, "INLINE_KEPT", 1)
    ds = opened(store)
    for i in range(8):
        ds.extend({"x": [i], "v": np.zeros((1, 500), "f4")})
        ds.commit(f"more {i}")
    ds.tag("release")
    ds.delete_branch("dev")
    counting = Counting(store)
    counting.is_local = False
    log = Log.open(counting)
    counting.calls.clear()
    assert check(log, full=full)
    asked = Counter(key for name, key in counting.calls if name != "list")
    assert set(asked.values()) == {1}
    kinds = Counter(key.split("/")[0] for key in asked)
    assert kinds["log"] == sum(1 for e in store.list("log/") if e.key.endswith(".json"))
    assert bool(kinds["meta"]) == small_leaves
    files = sum(1 for folder in ("data/", "overlays/", "dv/") for _ in store.list(folder))
    assert kinds["data"] + kinds["overlays"] + kinds["dv"] == (files if full else 0)
    assert sum(1 for name, _ in counting.calls if name == "list") <= 9


# -- others at work ------------------------------------------------------------------------------------------------


class Interleaved(Wrapped):
    """Does something just before the ``at``-th call."""

    def __init__(self, inner: Store, at: int, act: Callable[[], Any]) -> None:
        super().__init__(inner)
        self.at, self.act, self.seen = at, act, -1

    def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
        self.seen += 1
        if self.seen == self.at:
            self.act()
        return fn()


def _commit(ds: Any) -> None:
    ds.extend({"x": [7], "v": np.full((1, 500), 7, "f4")})
    ds.x[1] = -1
    ds.pop(3)
    ds.commit("meanwhile")


def _expire(ds: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lakefmt.versioning.expire.time", SimpleNamespace(time=lambda: time.time() + 3600))
        ds.delete_branch("dev")
        ds.expire(0, grace_s=0)


def _names(ds: Any) -> None:
    ds.tag("mine")
    ds[1:].save_view("some")
    ds.checkout("new", create=True)


@pytest.mark.parametrize("act", [_commit, _expire, _names, lambda ds: ds.compact(), lambda ds: ds.squash()])
@pytest.mark.parametrize("how", ["sizes", "every byte", "leaves"])
def test_no_alarm_over_what_others_do_meanwhile(
    store: MemoryStore, act: Callable[[Any], Any], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 0
    if how == "leaves":
        monkeypatch.setattr(leaves, "INLINE_MAX", 2)
        monkeypatch.setattr(leaves, "INLINE_KEPT", 1)
    if act is not _expire:
        opened(store).delete_branch("dev")
    else:
        ds = opened(store)
        for i in range(5):
            ds.extend({"x": [i], "v": np.zeros((1, 500), "f4")})
            ds.flush()
        ds.compact()
    while True:
        inner = copied(store)
        ds = opened(inner)
        wrapped = Interleaved(inner, at, lambda ds=ds: act(ds))  # type: ignore[misc]
        report = opened(wrapped).fsck(full=how == "every byte")
        assert report.problems == [], at
        if wrapped.seen < at:
            break
        abandon(ds)
        at += 1
    assert at > 20
