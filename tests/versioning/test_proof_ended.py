"""Whoever names a version of a branch that another handle deletes and whose log expires either keeps its rows or is told no.

Exhaustive to one level: all of one side happens at each storage call of the other.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from faulty_stores import Wrapped, abandon, copied, memory, opened, values

from lakefmt.dataset import Dataset
from lakefmt.errors import Conflict, NoSuchVersion, VersionExpired
from lakefmt.storage import MemoryStore
from lakefmt.versioning.log import Log
from lakefmt.view import View

T = TypeVar("T")
Side = Callable[[Dataset], object]


class Meanwhile(Wrapped):
    """Something else happens before the calls of these numbers."""

    def __init__(self, inner: MemoryStore, others: dict[int, Callable[[], object]]) -> None:
        super().__init__(inner)
        self.others, self.seen = others, 0

    def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
        self.seen += 1
        if (other := self.others.get(self.seen - 1)) is not None:
            other()
        return fn()


def _place() -> MemoryStore:
    """``main`` with one row, and ``dev`` with another, committed and then grown on."""
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    ds.append({"x": 1})
    ds.commit("one")
    ds.checkout("dev", create=True)
    ds.append({"x": 2})
    ds.commit("two")
    ds.append({"x": 3})
    ds.commit("three")
    return store


def _delete_and_expire(ds: Dataset) -> None:
    with contextlib.suppress(Conflict):  # a branch began on it
        ds.delete_branch("dev")
    time.sleep(0.002)  # expiry goes by milliseconds
    ds.expire(0, grace_s=0)


def _saved(ds: Dataset) -> str:
    view = ds[:2]
    assert isinstance(view, View)
    return view.save_view(id="kept")


NAMERS: dict[str, tuple[Callable[[Dataset], object], Callable[[Dataset], Any]]] = {
    "tag": (lambda dev: dev.tag("kept"), lambda ds: ds.checkout("kept") and ds),
    "branch": (lambda dev: dev.create_branch("kept"), lambda ds: ds.checkout("kept") and ds),
    "view": (_saved, lambda ds: ds.load_view("kept")),
}


def _check(store: MemoryStore, kind: str, done: bool) -> None:
    ds = opened(store)
    if done:
        found = NAMERS[kind][1](ds)
        assert values(found)[:2] == [1, 2]
    else:
        assert "kept" not in (*ds.branches, *ds.tags, *(v.id for v in ds.get_views()))
    assert values(opened(store)) == [1]


@pytest.mark.parametrize("kind", NAMERS)
def test_a_branch_ends_while_one_of_its_versions_gets_a_name(kind: str) -> None:
    start = _place()
    at, told_no = 0, 0
    while True:
        store = copied(start)
        inner = opened(store)
        meanwhile = Meanwhile(store, {at: lambda inner=inner: _delete_and_expire(inner)})  # type: ignore[misc]
        dev = opened(store, branch="dev")
        dev._log.store = meanwhile  # from here on: opening is not what is looked at
        dev._log.refs.store = meanwhile
        try:
            NAMERS[kind][0](dev)
            done = True
        except (VersionExpired, NoSuchVersion, Conflict):
            done = False
            told_no += 1
        abandon(dev)
        if meanwhile.seen <= at:
            break
        _check(store, kind, done)
        at += 1
    assert at > 2
    assert told_no > 0


@pytest.mark.parametrize("kind", NAMERS)
def test_a_version_gets_a_name_while_its_branch_ends(kind: str) -> None:
    start = _place()
    at, told_no = 0, 0
    while True:
        store = copied(start)
        dev = opened(store, branch="dev")
        outcome: list[bool] = []

        def name(dev: Dataset = dev, outcome: list[bool] = outcome) -> None:
            try:
                NAMERS[kind][0](dev)
                outcome.append(True)
            except (VersionExpired, NoSuchVersion, Conflict):
                outcome.append(False)

        meanwhile = Meanwhile(store, {at: name})
        ends = opened(meanwhile)
        _delete_and_expire(ends)
        if not outcome:
            break
        told_no += not outcome[0]
        _check(store, kind, outcome[0])
        at += 1
    assert at > 10
    assert told_no > 0


def opened_at(store: MemoryStore, name: str) -> Dataset:
    ds = opened(store)
    ds.checkout(name)
    return ds


def _count(store: MemoryStore, side: Side) -> int:
    watched = Meanwhile(copied(store), {})
    ds = opened(watched)
    before = watched.seen
    side(ds)
    return watched.seen - before


def test_a_version_gets_a_tag_and_then_its_branch_is_deleted_while_an_expiry_runs() -> None:
    start = _place()
    version = opened(start, branch="dev").version_id
    time.sleep(0.002)
    calls = _count(start, lambda ds: ds.expire(0, grace_s=0))
    told_no = 0
    for tagged in range(calls):
        for deleted in range(tagged, calls):
            store = copied(start)
            outcome: list[bool] = []

            def name(store: MemoryStore = store, outcome: list[bool] = outcome) -> None:
                dev = opened(store, branch="dev")
                with contextlib.suppress(VersionExpired, NoSuchVersion):
                    dev.tag("kept", version)
                    outcome.append(True)

            def delete(store: MemoryStore = store) -> None:
                opened(store).delete_branch("dev")
                time.sleep(0.001)

            def both(name: Side = name, delete: Side = delete) -> None:  # type: ignore[assignment]
                name()  # type: ignore[call-arg]
                delete()  # type: ignore[call-arg]

            watched = Meanwhile(store, {})
            expirer = opened(watched)
            first = watched.seen
            watched.others = {first + tagged: both} if tagged == deleted else {first + tagged: name, first + deleted: delete}
            expirer.expire(0, grace_s=0)
            if outcome:
                assert values(opened_at(store, "kept")) == [1, 2, 3]
            told_no += not outcome
    assert told_no == 0
