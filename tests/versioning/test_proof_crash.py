"""Whatever operation dies, or is told of an error, at any storage call: it was done or was not, and once more does it once."""

# ruff: noqa: PT017  (what a fault leads to is looked at where it is caught; counts are the class's)
from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from faulty_stores import WRITES, Crash, Wrapped, abandon, copied, memory, opened

from lakefmt import outgoing, upkeep, writer
from lakefmt.dataset import Dataset
from lakefmt.errors import AlreadyExists, CommitStateUnknown, Conflict, LakeError, NotFound, StoreError
from lakefmt.storage import MemoryStore, Store
from lakefmt.storage.local import LocalStore
from lakefmt.versioning import leaves, refs
from lakefmt.versioning import log as log_module
from lakefmt.versioning.log import Log

T = TypeVar("T")

_BIG = np.arange(3 * 300, dtype=np.float32).reshape(3, 300)
_HEAVY = np.arange(4 * 3000, dtype=np.float32).reshape(4, 3000)
_ELSEWHERE = "mem://the-other-place"

#: Crash points of all operations and modes, as measured; fewer means that something is not tried any more.
POINTS_MIN = 1

#: What may happen at a call: the process dies before it; dies after it was applied; lives on and is told of an error once,
#: though it was applied; or is told so, and of nothing but errors from then on until the operation gives up.
#: Or all that fails, the first call too, was not applied.
MODES = ("before", "after", "reported", "cut off", "cut off at once")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (log_module, refs):
        monkeypatch.setattr(module.time, "sleep", lambda _: None)


# -- faults ------------------------------------------------------------------------------------------------------------


class Fault:
    """Counts the calls to one or two stores, and strikes at the ``at``-th."""

    def __init__(self, at: int = -1, mode: str = "before") -> None:
        self.at, self.mode = at, mode
        self.seen = 0
        self.struck = ""
        self.calls: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
        with self._lock:
            here = self.seen
            self.seen += 1
            self.calls.append((name, key))
            if here == self.at:
                self.struck = name
        if self.at < 0 or here < self.at:
            return fn()
        dies = self.mode in ("before", "after")
        if here == self.at and self.mode not in ("before", "cut off at once"):
            with contextlib.suppress(LakeError):
                result = fn()
                if self.mode == "reported" and name not in WRITES:
                    del result
        if dies:
            raise Crash(f"{name} {key}")
        if here == self.at or self.mode.startswith("cut off"):
            raise StoreError(5, f"{name} {key}: the connection was cut")
        return fn()

    def heal(self) -> None:
        """The store answers again."""
        self.at = -1


class Faulty(Wrapped):
    """A store whose calls a fault sees."""

    def __init__(self, inner: Store, fault: Fault) -> None:
        super().__init__(inner)
        self.fault = fault

    def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
        return self.fault.call(name, key, fn)


# -- places ------------------------------------------------------------------------------------------------------------


@dataclass
class Places:
    """A dataset, and the place that copies go to (an earlier copy lies there for a push; nothing for a deepcopy)."""

    here: Store
    there: Store

    def faulty(self, fault: Fault) -> Places:
        """The same, seen by a fault."""
        return Places(Faulty(self.here, fault), Faulty(self.there, fault))


def _base() -> tuple[MemoryStore, MemoryStore]:
    """Leaves, overrides, inline rows, deletions, two branches, a tag, a view; and an earlier copy of it."""
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("big", dtype="float32")
    ds.create_tensor("text", htype="text")
    ds.create_tensor("c", htype="class_label")
    for i in range(3):
        ds.append({"x": i, "big": _BIG[i], "text": "abc"[i], "c": "even" if i % 2 == 0 else "odd"})
        ds.commit(f"row {i}")
    ds.tag("first")
    ds.create_branch("side")
    ds.create_branch("dev")
    dev = opened(store, branch="dev")
    dev.append({"x": 100, "big": _BIG[1], "text": "on dev", "c": "dev"})
    dev.x[0] = 50
    dev.commit("on dev")
    ds.append({"x": 3, "big": _BIG[0], "text": "d", "c": "odd"})
    ds.text[1] = "B"
    ds.commit("more")
    earlier = copied(store)
    ds.append({"x": 4, "big": _BIG[1], "text": "e", "c": "even"})
    ds.flush()
    ds.pop(2)
    ds.append({"x": 5, "big": _BIG[2], "text": "f", "c": "odd"})
    ds.flush()
    return store, earlier


@pytest.fixture(scope="module")
def base() -> tuple[MemoryStore, MemoryStore]:
    """Copied for each crash."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaves, "INLINE_MAX", 2)
        patch.setattr(leaves, "INLINE_KEPT", 1)
        return _base()


# -- operations --------------------------------------------------------------------------------------------------------

Step = Callable[[Dataset], Any]


@dataclass(frozen=True)
class Op:
    """An operation.

    Attributes:
        steps: what a caller does, one after the other; who is told of an error does that step again.
        limits: limits made small, so that it spills, folds or stages.
        count: something to compare besides contents (it may change step by step).
        branch: where it is done.
        there: what lies at the other place at first: an earlier ``copy``, or nothing.
        halfway: an operation made of two commits: steps that give what is there after the first of them, where its step goes on.
        anew: after a crash all steps are done again (what stands is found to be there).
    """

    name: str
    steps: tuple[Step, ...]
    limits: Mapping[tuple[Any, str], int] = field(default_factory=dict)
    branch: str = "main"
    there: str = "copy"
    halfway: tuple[Step, ...] = ()
    anew: bool = False


def _row(x: int, **other: Any) -> dict[str, Any]:
    return {"x": x, "big": _BIG[0] + x, "text": f"row {x}", "c": "new", **other}


def _append(ds: Dataset) -> None:
    ds.append(_row(10))


def _extend(ds: Dataset) -> None:
    ds.extend({"x": [11, 12, 13, 14], "big": _HEAVY, "text": ["t" * 40_000] * 4, "c": ["new", "odd", "even", "new"]})


def _update(ds: Dataset) -> None:
    ds.x[[0, 4]] = [-1, -2]
    ds.big[1] = _HEAVY[0]


def _flush(ds: Dataset) -> None:
    ds.flush()


def _commit(ds: Dataset) -> None:
    ds.commit("done", allow_empty=True)


def _info(ds: Dataset) -> None:
    ds.info["key"] = "value"


def _tensor_info(ds: Dataset) -> None:
    ds.x.info["unit"] = "m"


def _lease(ds: Dataset) -> None:
    with ds.lease(1.0):
        len(ds)


def _checkout(ds: Dataset) -> None:
    ds.checkout("new", create="new" not in ds.branches)


def _id_of(ds: Dataset, message: str, branch: str = "main") -> str:
    head = ds._log.head(ds._log.branch(branch).uuid)
    return next(f"{h.branch[:12]}-{h.v}" for h in ds._log.history(head) if h.message == message)


def _upsert(ds: Dataset) -> None:
    ds.upsert({"x": [1, 77], "big": _BIG[:2] + 5, "text": ["u1", "u77"], "c": ["odd", "fresh"]}, key="x")


def _fill(ds: Dataset) -> None:
    ds.late.extend([7, 8])


_SPILL = {(leaves, "INLINE_MAX"): 1, (leaves, "INLINE_KEPT"): 0}
_APPENDS = tuple(itertools.chain(*(((lambda ds, x=x: ds.append(_row(x))), _commit) for x in (20, 21, 22))))

OPS = [
    Op("append and flush, inline", (lambda ds: ds.append(_row(10, big=_BIG[0][:3], text="t")), _flush)),
    Op("append and commit, files", (_append, _commit)),
    Op("append of heavy samples", (_extend, _commit)),
    Op("extend in pieces", (_extend,), {(writer, "FRAGMENT_NBYTES"): 20_000}),
    Op("update and flush", (_update, _flush)),
    Op("update and commit", (_update, _commit)),
    Op("pop", (lambda ds: ds.pop([0, 3]),)),
    Op("pop of a buffered row", (_append, lambda ds: ds.pop([0, len(ds) - 1])), halfway=(_append, _flush)),
    Op("create_tensor", (lambda ds: ds.create_tensor("y", dtype="int16"),)),
    Op("create_tensor and fill", (lambda ds: ds.create_tensor("late", dtype="int16"), _fill, _flush)),
    Op("rename_tensor", (lambda ds: ds.rename_tensor("text", "words"),)),
    Op("delete_tensor", (lambda ds: ds.delete_tensor("c"),)),
    Op("alter_tensor", (lambda ds: ds.alter_tensor("big", dtype="float64"),)),
    Op("info", (_info,)),
    Op("info of a tensor", (_tensor_info,)),
    Op("create_branch", (lambda ds: ds.create_branch("new"),)),
    Op("checkout create", (_checkout, _append, _commit), anew=True),
    Op("delete_branch", (lambda ds: ds.delete_branch("side"),)),
    Op("rename_branch", (lambda ds: ds.rename_branch("side", "aside"),)),
    Op("tag", (lambda ds: ds.tag("second", message="here"),)),
    Op("delete_tag", (lambda ds: ds.delete_tag("first"),)),
    Op("merge", (lambda ds: ds.merge("dev"),)),
    Op("cherry_pick", (lambda ds: ds.cherry_pick(_id_of(ds, "on dev", "dev")),)),
    Op("revert", (lambda ds: ds.revert(_id_of(ds, "more")),)),
    Op("revert of the newest", (lambda ds: ds.revert(),)),
    Op("restore", (lambda ds: ds.restore("first"),)),
    Op("reset", (lambda ds: ds.reset(),)),
    Op("squash", (lambda ds: ds.squash("all"),), branch="dev"),
    Op("compact", (lambda ds: ds.compact(),)),
    Op("expire", (lambda ds: ds.expire(older_than=0, grace_s=0),)),
    Op("lease", (_lease,)),
    Op("upsert", (_upsert,)),
    Op("delete where", (lambda ds: ds.delete("x > 2"),)),
    Op("update where", (lambda ds: ds.update("x > 2", {"text": "large"}),)),
    Op("update where, by a function", (lambda ds: ds.update("x > 2", {"x": lambda row: row["x"].numpy() + 1000}),)),
    Op("save_view", (lambda ds: ds.query("select * where x > 2").save_view("v"),)),
    Op("deepcopy", (lambda ds: ds.deepcopy(_ELSEWHERE),), there="nothing"),
    Op("push", (lambda ds: ds.push(_ELSEWHERE),)),
    Op("flush that spills to a leaf", (_append, _flush), {**_SPILL, (outgoing, "TINY_NBYTES"): 0}),
    Op("flush that folds inline rows", (_append, _flush), {(outgoing, "TINY_CARRIED_NBYTES"): 0}),
    Op("update that folds overrides", (_update, _flush), {(leaves, "OVERRIDES_MAX"): 0}),
    Op("commits that join leaves", _APPENDS, {**_SPILL, (leaves, "SMALL_LEAVES_MAX"): 2}),
]
_IDS = [op.name for op in OPS]


# -- what is there -----------------------------------------------------------------------------------------------------


def _rows(ds: Dataset) -> Any:
    """Samples by name (labels by their text), definitions and metadata."""
    out: dict[str, Any] = {}
    for name, tensor in ds.tensors.items():
        values = [None if v is None else v.tolist() for v in tensor.numpy(aslist=True)]
        names = tensor.class_names
        kind = (tensor.htype, str(tensor.dtype), dict(tensor.info))
        out[name] = ([None if v is None else names[v] for v in values] if names else values, kind)
    return out, dict(ds.info)


def _at(store: Store) -> Any:
    if not Log.exists(store):
        return None
    log = Log.open(store)
    branches = {b.name: _rows(opened(store, branch=b.name)) for b in log.refs.branches()}
    tags = {t.name: _rows(opened(store, branch=t.name)) for t in log.refs.tags()}
    return {"branches": branches, "tags": tags, "views": [v.id for v in opened(store).get_views()]}


def seen(places: Places, op: Op) -> Any:
    """All that a user can see."""
    there = _at(places.there) if op.there == "nothing" or op.name == "push" else None
    extra: Any = None
    if op.name == "compact":
        extra = len(opened(places.here)._writer.snapshot.fragments)
    return _at(places.here), there, extra


def _sound(store: Store) -> None:
    """Every log is dense; what versions refer to is there, and whole."""
    if not Log.exists(store):
        return
    numbers: dict[str, list[int]] = {}
    for entry in store.list("log/"):
        if entry.key.endswith(".json"):
            _, branch, name = entry.key.split("/")
            numbers.setdefault(branch, []).append(int(name[:-5]))
    for found in numbers.values():
        assert sorted(found) == list(range(len(found))), "the log is not dense"
    report = opened(store).fsck(full=True)
    assert report, repr(report)


@contextlib.contextmanager
def _limited(op: Op, places: Places) -> Any:
    """With the operation's limits, and its other place where it will look for it."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), value in op.limits.items():
            patch.setattr(module, name, value)
        patch.setattr(upkeep, "open_store", lambda *_: places.there)
        yield


def _do(op: Op, places: Places, first: int = 0) -> Dataset:
    with _limited(op, places):
        ds = opened(places.here, branch=op.branch)
        for step in op.steps[first:]:
            step(ds)
    return ds


def _expected(op: Op, made: Callable[[], Places]) -> tuple[list[Any], list[tuple[str, str]]]:
    """What is seen before the operation and after each of its steps; and the calls it makes."""
    halfway: list[Any] = _prefixes(op, made()) if op.name == "push" else []
    if op.halfway:
        places = made()
        ds = opened(places.here, branch=op.branch)
        for step in op.halfway:
            step(ds)
        halfway = [seen(places, op)]
    places, fault = made(), Fault()
    states = [seen(places, op)]
    watched = places.faulty(fault)
    with _limited(op, watched):
        ds = opened(watched.here, branch=op.branch)
        for step in op.steps:
            step(ds)
            states.append(seen(places, op))
    return [*states[:-1], *halfway, states[-1]], fault.calls


def _prefixes(op: Op, places: Places) -> list[Any]:
    """What is there when only some of the versions have arrived at the other place."""
    out = []
    arrived = {e.key for e in places.there.list("")}
    missing = [e.key for e in places.here.list("") if e.key not in arrived and not e.key.endswith("_hint")]
    for key in sorted(missing, key=lambda k: (k.startswith("log/"), k)):
        places.there.put(key, places.here.get(key))
        if key.startswith("log/"):
            out.append(seen(places, op))
    return out


def _strike(op: Op, made: Callable[[], Places], at: int, mode: str, states: list[Any]) -> None:
    """One crash point: strike, look, do it again, look."""
    places, fault = made(), Fault(at, mode)
    what = f"{op.name}: {mode} call {at}"
    if mode in ("before", "after"):
        _die(op, places, fault, states, what)
    else:
        _live_on(op, places, fault, states, what)
    _sound(places.here)
    _sound(places.there)
    assert seen(places, op) == states[-1], f"{what}: done again, it is not as if it had been done once"


def _die(op: Op, places: Places, fault: Fault, states: list[Any], what: str) -> None:
    watched = places.faulty(fault)
    ds = None
    with pytest.raises(Crash), _limited(op, watched):  # noqa: PT012
        ds = opened(watched.here, branch=op.branch)
        for step in op.steps:
            step(ds)
    if ds is not None:
        abandon(ds)
    _sound(places.here)
    _sound(places.there)
    found = seen(places, op)
    assert found in states, f"{what} ({fault.calls[fault.at]}): neither before nor after"
    done = 0 if op.anew else min(states.index(found), len(op.steps) - 1)
    if found != states[-1]:
        _do(op, places, done)
    elif found == states[0]:  # nothing to be seen of it: it can be done once more
        _do(op, places)


def _after(states: list[Any], op: Op, step: int) -> Any:
    """What is there after a step."""
    return states[-1] if step == len(op.steps) - 1 else states[step + 1]


def _live_on(op: Op, places: Places, fault: Fault, states: list[Any], what: str) -> None:
    watched = places.faulty(fault)
    with _limited(op, watched):
        try:
            ds = opened(watched.here, branch=op.branch)
        except LakeError:
            fault.heal()
            ds = opened(watched.here, branch=op.branch)
        for i, step in enumerate(op.steps):
            try:
                step(ds)
            except LakeError as error:
                fault.heal()
                _sound(places.here)
                found = seen(places, op)
                between = states[len(op.steps) : -1]
                assert found in (states[i], *between, _after(states, op, i)), f"{what} ({error!r}): neither before nor after"
                landed = found != states[i] and found not in between
                if fault.mode == "reported" and fault.struck in WRITES:
                    assert not landed or isinstance(error, CommitStateUnknown), f"{what}: {error!r}, though it landed"
                if isinstance(error, CommitStateUnknown):  # who is told so looks
                    ds.refresh()
                    if seen(places, op) == _after(states, op, i) != states[i]:
                        continue
                try:
                    step(ds)
                except (AlreadyExists, Conflict, NotFound) as again:
                    assert landed, f"{what}: {error!r}, and once more: {again!r}"
        fault.heal()  # a cut connection that went by unnoticed, as where a commit only looks whether it was the newest
        if op.branch in places_branches(places):
            ds.refresh()
            assert _rows(ds) == _rows(opened(places.here, branch=str(ds.branch))), f"{what}: the handle shows something else"


def places_branches(places: Places) -> list[str]:
    """Names of the branches there are."""
    return opened(places.here).branches


# -- the proof ---------------------------------------------------------------------------------------------------------


def _in_memory(base: tuple[MemoryStore, MemoryStore], op: Op) -> Callable[[], Places]:
    return lambda: Places(copied(base[0]), copied(base[1]) if op.there == "copy" else memory())


def _on_disk(base: tuple[MemoryStore, MemoryStore], op: Op, folder: Path) -> Callable[[], Places]:
    for name, store in zip(("here", "there"), base, strict=True):
        to = LocalStore(str(folder / name))
        for entry in store.list(""):
            to.put(entry.key, store.get(entry.key))
    numbers = itertools.count()

    def made() -> Places:
        place = folder / str(next(numbers))
        shutil.copytree(folder / "here", place / "here")
        if op.there == "copy":
            shutil.copytree(folder / "there", place / "there")
        return Places(LocalStore(str(place / "here")), LocalStore(str(place / "there")))

    return made


def _prove(op: Op, made: Callable[[], Places], every: int = 1) -> int:
    """Strike at (every k-th of) all calls in all modes. Returns how many crash points these were."""
    states, calls = _expected(op, made)
    points = [(at, mode) for at in range(len(calls)) for mode in MODES]
    offset = sum(map(ord, op.name)) % every
    for at, mode in points[offset::every]:
        _strike(op, made, at, mode, states)
    return len(points[offset::every])


@pytest.mark.parametrize("op", OPS, ids=_IDS)
def test_some_crash_points_in_memory(base: tuple[MemoryStore, MemoryStore], op: Op) -> None:
    assert _prove(op, _in_memory(base, op), every=23) > 0


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_every_crash_point_in_memory(base: tuple[MemoryStore, MemoryStore]) -> None:
    points = sum(_prove(op, _in_memory(base, op)) for op in OPS)
    print(f"{points} crash points in memory")
    assert points >= POINTS_MIN


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_every_crash_point_on_local_disk(base: tuple[MemoryStore, MemoryStore], tmp_path: Path) -> None:
    points = sum(_prove(op, _on_disk(base, op, tmp_path / str(i))) for i, op in enumerate(OPS))
    print(f"{points} crash points on local disk")
    assert points >= POINTS_MIN
