"""Expiry removes what nobody needs and nothing else, whoever works at the same time and wherever it is interrupted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
from dataset_tools import values

import lakefmt
from lakefmt.errors import AlreadyExists, Conflict, InvalidInput, LakeError, NoSuchVersion, StoreError, VersionExpired
from lakefmt.storage import MemoryStore, Store
from lakefmt.versioning import leaves
from lakefmt.versioning.log import Log

sys.path.insert(0, str(Path(__file__).parents[1] / "versioning"))
from faulty_stores import Crash, Crashing, Wrapped, abandon, copied, memory, opened

T = TypeVar("T")
HOUR = 3600.0
#: A version of ``store`` that nothing keeps, with the rows 0, 1, 2; the one before it is named and has 0, 1.
OLD = 6
DATA = ("data/", "overlays/", "dv/", "meta/")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let an expiry believe that so many hours have passed."""

    def shift(hours: float) -> None:
        monkeypatch.setattr("lakefmt.versioning.expire.time", SimpleNamespace(time=lambda: time.time() + hours * HOUR))

    return shift


@pytest.fixture(autouse=True)
def _an_hour_later(later: Callable[[float], None]) -> None:
    later(1.0)


@pytest.fixture
def store() -> MemoryStore:
    """A dataset of four rows in files that overlap little: flushes, a compaction, a named commit in the middle."""
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("v", dtype="float32")
    for i in range(4):
        ds.extend({"x": [i], "v": np.full((1, 50), i, "f4")})
        ds.flush()
        if i == 1:
            ds.commit("two")
    ds.x[0] = 100
    ds.flush()
    ds.pop(1)
    ds.compact()
    return store


def objects(store: Store, *folders: str) -> set[str]:
    """Keys of the data objects there are."""
    return {e.key for f in folders or DATA for e in store.list(f)}


def sound(store: Store, expected: list[int] | None = None) -> None:
    """Nothing that is needed is missing."""
    ds = opened(store)
    assert ds.fsck(full=True), ds.fsck(full=True)
    assert values(ds) == (expected if expected is not None else [100, 2, 3])
    assert [s.shape for s in ds.v.numpy(aslist=True)] == [(50,)] * len(ds)


def version(ds: Any, v: int) -> str:
    """Id of a version of main."""
    return f"{ds._writer.version.head.dataset[:12]}-{v}"


def state(store: Store) -> tuple[Any, ...]:
    """What is stored: data objects, and versions with whether they can be read."""
    ds = opened(store)
    readable = []
    for head in ds.history():
        try:
            ds._log.read(head.branch, head.v)
            readable.append(head.v)
        except VersionExpired:
            pass
    return objects(store), readable


# -- what stays and what goes ---------------------------------------------------------------------------------------


def test_only_the_newest_and_the_named_stay(store: MemoryStore) -> None:
    ds = opened(store)
    named = next(h.v for h in ds.history() if h.named)
    newest = ds._writer.version.head.v
    before = len(objects(store))
    plan = ds.expire(0, grace_s=0)
    assert plan.done
    kept = {h.v for h in ds.history()} - {int(i.split("-")[1]) for i in plan.versions}
    assert kept == {0, named, newest, newest + 1}
    assert before - len(objects(store)) == len(plan.objects) > 0
    sound(store)
    assert values(opened_at(store, version(ds, named))) == [0, 1]


def opened_at(store: Store, address: str) -> Any:
    """A handle on a version."""
    ds = opened(store)
    ds.checkout(address)
    return ds


@pytest.mark.parametrize("how", ["tag", "lease", "branch", "view", "named", "keep"])
def test_what_somebody_needs_stays(store: MemoryStore, how: str) -> None:
    ds = opened(store)
    needed = version(ds, OLD)
    expected = values(opened_at(store, needed))
    assert len(expected) == 3
    keep = 1
    if how == "tag":
        ds.tag("t", needed)
    elif how == "lease":
        context = opened_at(store, needed).lease(hours=48)
        context.__enter__()
    elif how == "branch":
        ds.create_branch("dev", needed)
    elif how == "view":
        opened_at(store, needed)[1:].save_view("v")
    elif how == "named":
        needed = version(ds, OLD - 1)
        expected = [0, 1]
    else:
        keep = ds._writer.version.head.v - OLD + 1
    plan = ds.expire(0, keep=keep, grace_s=0)
    assert plan.versions
    assert needed not in plan.versions
    again = opened_at(store, needed)
    assert values(again) == expected
    assert again.verify() > 0
    sound(store)
    if how == "lease":
        context.__exit__(None, None, None)
        assert needed in ds.expire(0, grace_s=0).versions
    if how == "tag":
        ds.delete_tag("t")
        assert needed in ds.expire(0, grace_s=0).versions
    if how == "view":
        assert values(ds.load_view("v")) == expected[1:]
    if how == "branch":
        dev = opened(store, branch="dev")
        dev.append({"x": 7, "v": np.zeros(50, "f4")})
        dev.commit()
        assert values(opened(store, branch="dev")) == [*expected, 7]


def test_an_ended_lease_keeps_nothing(store: MemoryStore, later: Callable[[float], None]) -> None:
    ds = opened(store)
    context = opened_at(store, version(ds, OLD)).lease(hours=2)
    context.__enter__()
    assert version(ds, OLD) not in ds.expire(0, grace_s=0).versions
    later(3)
    assert version(ds, OLD) in ds.expire(0, grace_s=0).versions
    context.__exit__(None, None, None)


@pytest.mark.parametrize("how", ["tag", "branch", "lease", "view", "restore"])
def test_a_version_that_a_tag_keeps_can_be_worked_from_after_an_expiry(store: MemoryStore, how: str) -> None:
    ds = opened(store)
    ds.tag("kept", version(ds, OLD))
    ds.expire(0, grace_s=0)
    old = opened_at(store, "kept")
    assert values(old) == [0, 1, 2]
    if how == "tag":
        ds.tag("another", "kept")
    elif how == "branch":
        ds.create_branch("dev", "kept")
        assert values(opened(store, branch="dev")) == [0, 1, 2]
    elif how == "lease":
        with old.lease():
            pass
    elif how == "view":
        old[:2].save_view("v")
    else:
        ds.restore("kept")
        assert values(opened(store)) == [0, 1, 2]


def test_the_log_of_a_deleted_branch_goes(store: MemoryStore) -> None:
    ds = opened(store)
    ds.create_branch("dev")
    dev = opened(store, branch="dev")
    dev.extend({"x": [9], "v": np.zeros((1, 50), "f4")})
    dev.commit("named, but of a branch that is deleted")
    ds.delete_branch("dev")
    before = len(objects(store))
    plan = ds.expire(0, grace_s=0)
    assert any(i.startswith(dev._writer.version.head.branch[:12]) for i in plan.versions)
    assert len(objects(store)) < before
    sound(store)


def test_the_versions_before_a_squash_go(store: MemoryStore) -> None:
    ds = opened(store)
    ds.tag("t", version(ds, OLD))
    ds.squash()
    plan = ds.expire(0, grace_s=0)
    assert version(ds, OLD + 1) in plan.versions, "the old log is let go by the next expire()"
    assert version(ds, OLD) not in plan.versions
    sound(store)
    assert values(opened_at(store, "t")) == [0, 1, 2]


def test_heads_of_all_branches_stay(store: MemoryStore) -> None:
    ds = opened(store)
    ds.create_branch("dev", version(ds, OLD + 1))
    dev = opened(store, branch="dev")
    for i in range(3):
        dev.extend({"x": [i], "v": np.zeros((1, 50), "f4")})
        dev.flush()
    expected = values(dev)
    ds.expire(0, grace_s=0)
    assert values(opened(store, branch="dev")) == expected
    sound(store)


def test_a_dry_run_changes_nothing_and_tells_the_truth(store: MemoryStore) -> None:
    ds = opened(store)
    before = {e.key: store.get(e.key) for e in store.list("")}
    told = ds.expire(0, grace_s=0, dry_run=True)
    assert {e.key: store.get(e.key) for e in store.list("")} == before
    assert not told.done
    assert repr(told).startswith("would remove")
    did = ds.expire(0, grace_s=0)
    assert set(told.versions) <= set(did.versions)
    assert (sorted(told.objects), told.nbytes) == (sorted(did.objects), did.nbytes)
    assert objects(store) == {k for k in before if k.startswith(DATA)} - set(told.objects)
    assert opened_at(store, version(ds, 0)).expire(0, dry_run=True).versions == []


def test_expiring_again_does_nothing_and_makes_no_version(store: MemoryStore) -> None:
    ds = opened(store)
    ds.expire(0, grace_s=0)
    before = ds.version_id, state(store)
    for _ in range(3):
        plan = ds.expire(0, grace_s=0)
        assert plan.objects == []
    assert (ds.version_id, state(store)) == before, "an expiry each day must not make a version each day"


# -- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("older_than", "goes"),
    [
        (0, True), (1800, True), (7200, False), (1800.5, True), (timedelta(minutes=30), True), (timedelta(hours=2), False),
        (None, False),
    ],
)  # fmt: skip
def test_ages(store: MemoryStore, older_than: Any, goes: bool) -> None:
    plan = opened(store).expire(older_than, grace_s=0, dry_run=True)
    assert bool(plan.versions) == goes


def test_times(store: MemoryStore, later: Callable[[float], None]) -> None:
    ds = opened(store)
    later(0.001)
    now = datetime.now(UTC)
    for before in (
        now - timedelta(hours=2),
        (now - timedelta(hours=2)).isoformat(),
        (now - timedelta(hours=2)).replace(tzinfo=None),
    ):
        assert ds.expire(before, grace_s=0, dry_run=True).versions == []
    for after in (now + timedelta(hours=2), (now + timedelta(hours=2)).isoformat()):
        assert ds.expire(after, grace_s=0, dry_run=True).versions


@pytest.mark.parametrize("bad", ["soon", True, float("nan"), float("inf"), object(), [1]])
def test_ages_that_are_none(store: MemoryStore, bad: Any) -> None:
    with pytest.raises(InvalidInput):
        opened(store).expire(bad, grace_s=0, dry_run=True)


@pytest.mark.parametrize(
    "options", [{"keep": 0}, {"keep": -1}, {"keep": 1.5}, {"grace_s": 1}, {"grace_s": -5}, {"grace_s": float("nan")}]
)
def test_what_would_lose_rows_is_refused(store: MemoryStore, options: dict[str, Any]) -> None:
    before = state(store)
    with pytest.raises(InvalidInput):
        opened(store).expire(0, **options)
    assert state(store) == before


def test_nothing_young_is_removed(store: MemoryStore, later: Callable[[float], None]) -> None:
    ds = opened(store)
    later(20)
    plan = ds.expire(0)
    assert (plan.versions, plan.objects) == ([], []), "24 hours of grace"
    later(30)
    assert ds.expire(0).objects
    sound(store)


def test_the_age_of_each_object_counts(tmp_path: Path, later: Callable[[float], None]) -> None:
    """Objects of an old version that were written a moment ago may belong to a transaction under way."""
    path = str(tmp_path / "ds")
    ds = lakefmt.dataset(path)
    ds.create_tensor("x", dtype="int64")
    for i in range(4):
        ds.extend({"x": np.arange(2000) + i})
        ds.flush()
    ds.compact()
    later(24 * 30)
    data = sorted((tmp_path / "ds" / "data").rglob("*.parquet"))
    orphan = tmp_path / "ds" / "data" / "ab" / "orphan.parquet"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"left by a writer that died")
    in_a_month = time.time() + 24 * 30 * HOUR
    os.utime(orphan, (in_a_month - 60, in_a_month - 60))
    plan = ds.expire(0)
    assert (orphan.exists(), plan.young) == (True, 1)
    assert sum(f.exists() for f in data) < len(data)
    os.utime(orphan, (in_a_month - 25 * HOUR, in_a_month - 25 * HOUR))
    assert ds.expire(0).objects == ["data/ab/orphan.parquet"]
    assert not orphan.exists()
    assert lakefmt.load(path).fsck(full=True)


def test_files_of_a_commit_that_failed_are_removed(store: MemoryStore) -> None:
    class Refusing(Wrapped):
        def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
            if name == "put_if_absent":
                raise StoreError(5, "cut")
            return fn()

    before = objects(store)
    ds = opened(Refusing(store))
    ds.extend({"x": [1] * 10, "v": np.zeros((10, 50), "f4")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lakefmt.versioning.log.AMBIGUOUS_TRIES_MAX", 1)
        with pytest.raises(LakeError):
            ds.commit()
    abandon(ds)
    orphans = objects(store) - before
    assert orphans
    plan = opened(store).expire(10**6, grace_s=0)
    assert (plan.versions, set(plan.objects)) == ([], orphans)
    sound(store)


# -- what expired versions answer -----------------------------------------------------------------------------------


def test_an_expired_version_says_so(store: MemoryStore) -> None:
    ds = opened(store)
    gone = version(ds, 3)
    ds.expire(0, grace_s=0)
    acts: list[Callable[[], Any]] = [
        lambda: ds.checkout(gone), lambda: ds.tag("t", gone), lambda: ds.create_branch("b", gone), lambda: ds.restore(gone),
        lambda: ds.diff(gone), lambda: ds.merge(gone), lambda: ds.cherry_pick(gone), lambda: ds.revert(gone),
        lambda: ds.x.modified_rows(gone),
        lambda: opened(store)._version(gone),
    ]  # fmt: skip
    for act in acts:
        with pytest.raises(VersionExpired, match="expired"):
            act()
    assert (ds.tags, ds.branches) == ({}, ["main"])
    sound(store)


def test_log_and_history_go_on_listing_what_expired(store: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    ds = opened(store)
    before = [(h.branch, h.v, h.message, h.rows) for h in ds.history()]
    ds.expire(0, grace_s=0)
    assert [(h.branch, h.v, h.message, h.rows) for h in ds.history()][1:] == before
    assert [c["message"] for c in ds.commits] == ["two"]
    ds.log(all=True)
    assert f"{version(ds, 3)}" in capsys.readouterr().out


@pytest.mark.parametrize("small_leaves", [False, True], ids=["files gone", "leaves gone"])
def test_an_open_handle_whose_files_went_is_told(monkeypatch: pytest.MonkeyPatch, small_leaves: bool) -> None:
    if small_leaves:
        monkeypatch.setattr(leaves, "INLINE_MAX", 2)
        monkeypatch.setattr(leaves, "INLINE_KEPT", 1)
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    for i in range(6):
        ds.extend({"x": np.full(2000, i)})
        ds.flush()
    old = [opened(store) for _ in range(3)]
    ds.compact()
    ds.expire(0, grace_s=0)
    with pytest.raises(VersionExpired, match=r"refresh\(\)"):
        old[0].x[0].numpy()
    with pytest.raises(VersionExpired):
        values(old[1].query("x = 3"))
    with pytest.raises(VersionExpired):
        list(old[2].dataloader().batch(500).numpy())
    for handle in old:
        handle.refresh()
        assert len(values(handle)) == 12_000


# -- interruptions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
def test_an_expiry_that_was_stopped_anywhere_can_be_done_again(store: MemoryStore, applied: bool) -> None:
    opened(store).tag("t", version(opened(store), OLD))
    whole = copied(store)
    opened(whole).expire(0, grace_s=0)
    expected = objects(whole)
    at = 0
    while True:
        inner = copied(store)
        crashing = Crashing(inner, at, applied=applied)
        try:
            opened(crashing).expire(0, grace_s=0)
        except Crash:
            sound(inner)
            assert values(opened_at(inner, "t")) == [0, 1, 2]
            opened(inner).expire(0, grace_s=0)
            assert objects(inner) == expected, at
            sound(inner)
            at += 1
            continue
        break
    assert at > 30


# -- others at work -------------------------------------------------------------------------------------------------


class Interleaved(Wrapped):
    """Does something, through another handle, just before the ``at``-th call."""

    def __init__(self, inner: Store, at: int, act: Callable[[], Any]) -> None:
        super().__init__(inner)
        self.at, self.act, self.seen, self.done = at, act, -1, False

    def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
        self.seen += 1
        if self.seen == self.at and not self.done:
            self.done = True
            self.act()
        return fn()


def interleavings(base: MemoryStore, act: Callable[[Any, Any], Any], check: Callable[[Any, Any], None]) -> None:
    """Let one writer act at every moment of an expiry by another; ``act`` gives ``None`` or what ``check`` gets to see."""
    at = 0
    while True:
        inner = copied(base)
        handles = opened(inner), opened_at(inner, version(opened(inner), OLD))
        outcome: list[Any] = []

        def do(handles: Any = handles, outcome: list[Any] = outcome) -> None:
            try:
                outcome.append(act(*handles))
            except (VersionExpired, Conflict) as e:
                outcome.append(e)

        wrapped = Interleaved(inner, at, do)
        opened(wrapped).expire(0, grace_s=0)
        if not wrapped.done:
            break
        check(inner, outcome[0])
        assert opened(inner).fsck(full=True), (at, opened(inner).fsck(full=True))
        for handle in handles:
            abandon(handle)
        at += 1
    assert at > 30


def test_names_given_meanwhile_are_refused_or_kept(store: MemoryStore) -> None:
    old = version(opened(store), OLD)

    def tag(ds: Any, at: Any) -> str:
        ds.tag("new", old)
        return "new"

    def check(inner: Store, outcome: Any) -> None:
        if outcome == "new":
            assert values(opened_at(inner, "new")) == [0, 1, 2]
            assert opened_at(inner, "new").verify() > 0
        else:
            assert isinstance(outcome, VersionExpired)
            assert opened(inner).tags == {}

    interleavings(store, tag, check)


def test_branches_made_meanwhile_are_refused_or_kept(store: MemoryStore) -> None:
    old = version(opened(store), OLD)

    def check(inner: Store, outcome: Any) -> None:
        if outcome is None:
            dev = opened(inner, branch="dev")
            assert values(dev) == [0, 1, 2]
            assert dev.verify() > 0
        else:
            assert isinstance(outcome, VersionExpired)
            assert opened(inner).branches == ["main"]

    interleavings(store, lambda ds, at: ds.create_branch("dev", old), check)


def test_views_and_leases_made_meanwhile_are_refused_or_kept(store: MemoryStore) -> None:
    def act(ds: Any, at: Any) -> Any:
        at[1:].save_view("v")
        context = at.lease()
        context.__enter__()
        return context

    def check(inner: Store, outcome: Any) -> None:
        if not isinstance(outcome, VersionExpired):
            assert values(opened(inner).load_view("v")) == [1, 2]
            assert opened_at(inner, version(opened(inner), OLD)).verify() > 0

    interleavings(store, act, check)


def test_rows_written_meanwhile_are_kept(store: MemoryStore, later: Callable[[float], None]) -> None:
    def act(ds: Any) -> None:
        ds.x[1] = -2
        ds.append({"x": 4, "v": np.zeros(50, "f4")})
        ds.commit("meanwhile")

    later(30)
    at = 0
    while True:
        inner = copied(store)
        handle, before = opened(inner), set(inner._objects)

        def do(handle: Any = handle, inner: MemoryStore = inner, before: set[str] = before) -> None:
            act(handle)
            for key in set(inner._objects) - before:  # they are written when the expiry runs
                inner._objects[key] = (inner.get(key), time.time() + 30 * HOUR)

        wrapped = Interleaved(inner, at, do)
        removed = opened(wrapped).expire(0).objects
        if not wrapped.done:
            break
        assert removed
        assert values(opened(inner)) == [100, -2, 3, 4]
        assert opened(inner).fsck(full=True)
        at += 1
    assert at > 30


@pytest.mark.parametrize("what", ["delete", "rename", "squash"])
def test_a_branch_that_goes_or_changes_its_name_meanwhile(store: MemoryStore, what: str) -> None:
    ds = opened(store)
    ds.create_branch("dev")
    dev = opened(store, branch="dev")
    for i in range(2):
        dev.extend({"x": [i], "v": np.zeros((1, 50), "f4")})
        dev.flush()
    rows = values(dev)

    def act(ds: Any, at: Any) -> None:
        if what == "delete":
            ds.delete_branch("dev")
        elif what == "rename":
            ds.rename_branch("dev", "new")
        else:
            ds.checkout("dev")
            ds.squash()

    def check(inner: Store, outcome: Any) -> None:
        assert outcome is None
        assert values(opened(inner)) == [100, 2, 3]
        if what != "delete":
            assert values(opened(inner, branch="new" if what == "rename" else "dev")) == rows

    interleavings(store, act, check)


def test_two_expiries_at_once(store: MemoryStore) -> None:
    interleavings(store, lambda ds, at: ds.expire(0, grace_s=0), lambda inner, outcome: sound(inner))


# -- handles that looked long ago -----------------------------------------------------------------------------------


@pytest.mark.parametrize("back", [1, 3, 6])
def test_a_handle_that_looked_long_ago_loses_nothing(store: MemoryStore, back: int) -> None:
    ds = opened(store)
    stale = opened(store)
    stale._writer.move_to(stale._log.read(stale._branch.uuid, stale._writer.version.head.v - back))
    ds.expire(0, grace_s=0)
    stale.append({"x": 77, "v": np.zeros(50, "f4")})
    stale.commit("late")
    assert values(stale) == [100, 2, 3, 77]
    sound(store, [100, 2, 3, 77])


def test_an_update_by_a_handle_that_looked_long_ago_lands_on_its_row_or_is_refused(store: MemoryStore) -> None:
    ds = opened(store)
    stale = opened(store)
    stale._writer.move_to(stale._log.read(stale._branch.uuid, OLD))  # rows 0, 1, 2
    stale.x[2] = -2
    ds.expire(0, grace_s=0)
    try:
        stale.commit("late")
    except (Conflict, VersionExpired):
        abandon(stale)
        sound(store)
    else:
        sound(store, [100, -2, 3])


@pytest.mark.parametrize(
    "hint", [None, b"", b"{", b'{"v": 0}', b'{"v": 2, "floor": 0}', b'{"v": 999}', b'{"v": -3}', b'{"v": "x"}']
)
def test_stale_and_missing_hints_after_an_expiry(store: MemoryStore, hint: bytes | None) -> None:
    ds = opened(store)
    ds.expire(0, grace_s=0)
    key = f"log/{ds._branch.uuid}/_hint"
    store.delete([key])
    if hint is not None:
        store.put(key, hint)
    sound(store)
    again = opened(store)
    assert again.version_id == ds.version_id
    again.append({"x": 5, "v": np.zeros(50, "f4")})
    again.commit()
    sound(store, [100, 2, 3, 5])


def test_the_same_handle_goes_on_after_an_expiry_without_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves it has joined for its next commit are used by nothing yet: an expiry must not let that commit refer to them."""
    for name, value in (("INLINE_MAX", 2), ("INLINE_KEPT", 1), ("SMALL_LEAVES_MAX", 3)):
        monkeypatch.setattr(leaves, name, value)
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    for i in range(30):
        ds.extend({"x": np.full(100, i)})
        ds.commit()
        ds.expire(10**7, grace_s=0)
        assert len(opened(store).x.numpy()) == 100 * (i + 1)
    assert opened(store).fsck(full=True)


def test_an_idle_handle_goes_on_after_an_expiry_without_grace(
    monkeypatch: pytest.MonkeyPatch, later: Callable[[float], None]
) -> None:
    """The same of leaves that another handle has joined, which does nothing while the expiry runs."""
    for name, value in (("INLINE_MAX", 2), ("INLINE_KEPT", 1), ("SMALL_LEAVES_MAX", 3)):
        monkeypatch.setattr(leaves, name, value)
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    rows = 0
    while not ds._log._merges:
        ds.extend({"x": np.full(100, rows)})
        ds.commit()
        rows += 100
    later(0.1)
    opened(store).expire(0, grace_s=0)
    for _ in range(5):
        ds.extend({"x": np.full(100, rows)})
        ds.commit()
        rows += 100
    assert len(values(opened(store))) == rows
    assert opened(store).fsck(full=True)


def test_a_new_dataset_at_the_place_is_not_touched(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.commit()
    lakefmt.empty(mem_url, overwrite=True)
    with pytest.raises((Conflict, NoSuchVersion)):
        ds.expire(0, grace_s=0)
    assert lakefmt.load(mem_url).fsck()
    with pytest.raises(AlreadyExists):
        lakefmt.empty(mem_url)


# -- what merges begin on ---------------------------------------------------------------------------------------------


def _row(i: int) -> dict[str, Any]:
    return {"x": [i], "v": np.full((1, 50), i, "f4")}


def _flushed(ds: Any, *rows: int) -> str:
    for i in rows:
        ds.extend(_row(i))
        ds.flush()
    return str(ds.version_id)


@pytest.mark.parametrize("how", ["tag", "lease", "named"])
def test_a_version_that_is_kept_can_still_be_merged(store: MemoryStore, how: str) -> None:
    """It contains an older version of another branch than the heads do: that is where the merge begins."""
    ds = opened(store)
    for name in ("dev", "feat"):
        ds.create_branch(name)
    dev, feat = opened(store, branch="dev"), opened(store, branch="feat")
    base = _flushed(dev, 10)
    feat.merge(base)
    kept = _flushed(feat, 20)
    context: Any = None
    if how == "tag":
        feat.tag("rel")
    elif how == "lease":
        context = opened_at(store, kept).lease(hours=48)
        context.__enter__()
    else:
        kept = feat.commit("rel")
    _flushed(dev, 11, 12)
    feat.merge("dev")
    ds.merge("dev")
    opened(store).expire(0, grace_s=0)
    now = opened(store)
    now.merge(kept)
    assert sorted(values(now)) == [2, 3, 10, 11, 12, 20, 100]
    at = opened_at(store, kept)
    at.checkout("more", create=True)
    _flushed(at, 30)
    now.merge("more")
    assert sorted(values(now)) == [2, 3, 10, 11, 12, 20, 30, 100]
    if context is not None:
        context.__exit__(None, None, None)


def test_a_tag_on_a_branch_that_was_deleted_can_still_be_merged(store: MemoryStore) -> None:
    ds = opened(store)
    _flushed(ds, 4)
    ds.create_branch("dev")
    dev = opened(store, branch="dev")
    _flushed(dev, 10)
    dev.tag("rel")
    _flushed(dev, 11)
    ds.delete_branch("dev")
    _flushed(ds, 5, 6)
    ds.expire(0, grace_s=0)
    now = opened(store)
    now.merge("rel")
    assert sorted(values(now)) == [2, 3, 4, 5, 6, 10, 100]


@pytest.mark.parametrize("act", ["reset", "tag", "branch", "lease"])
def test_the_first_version_of_a_branch_does_not_expire(store: MemoryStore, act: str) -> None:
    ds = opened(store)
    ds.checkout("work", create=True)
    _flushed(ds, 1, 2, 3)
    ds.expire(0, grace_s=0)
    first = f"{ds._branch.uuid[:12]}-0"
    if act == "reset":
        ds.reset()
        assert values(ds) == [100, 2, 3]
    elif act == "tag":
        ds.tag("began", first)
    elif act == "branch":
        ds.create_branch("again", first)
        assert values(opened(store, branch="again")) == [100, 2, 3]
    else:
        with opened_at(store, first).lease():
            pass


# -- floors -------------------------------------------------------------------------------------------------------------


def test_an_expiry_whose_floor_another_has_forestalled_lets_nothing_go_above_the_floor_that_is_committed(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names a version looks at the committed floor."""
    ds, other, tagger = (opened(store) for _ in range(3))
    put = ds._log._put_version
    keep = ds._writer.version.head.v - OLD + 1
    listed = ds._log.store.list

    def forestalled(*args: Any) -> Any:
        monkeypatch.undo()
        monkeypatch.setattr("lakefmt.versioning.expire.time", SimpleNamespace(time=lambda: time.time() + HOUR))
        other.expire(0, keep=keep, grace_s=0)
        monkeypatch.setattr(ds._log.store, "list", and_tag)
        return put(*args)

    def and_tag(prefix: str) -> Any:
        found = list(listed(prefix))
        if prefix == ".queries/":  # after the names were listed
            tagger.tag("mine", version(ds, OLD))
        return iter(found)

    monkeypatch.setattr(ds._log, "_put_version", forestalled)
    ds.expire(0, grace_s=0)
    monkeypatch.undo()
    assert values(opened_at(store, "mine")) == [0, 1, 2]
    sound(store)


# -- leases -------------------------------------------------------------------------------------------------------------


def test_leases_that_have_ended_go(store: MemoryStore, later: Callable[[float], None]) -> None:
    ds = opened(store)
    contexts = [opened_at(store, version(ds, OLD)).lease(hours=h) for h in (2, 48)]
    for c in contexts:
        c.__enter__()
    assert ds.expire(0, grace_s=0).leases == 0
    later(3)
    told = ds.expire(0, grace_s=0, dry_run=True)
    assert (told.leases, len(ds.leases)) == (1, 2)
    assert "1 lease that ended" in repr(told)
    assert ds.expire(0, grace_s=0).leases == 1
    assert len(ds.leases) == 1
    for c in contexts:
        c.__exit__(None, None, None)
    assert ds.leases == []
