"""Whatever two handles do with branches, tags, merges and upkeep, every branch, tag and handle shows what a plain model says."""

# ruff: noqa: PT017, RUF012  (what a fault leads to is looked at where it is caught; counts are the class's)
from __future__ import annotations

import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from faulty_stores import abandon, opened
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from lakefmt.dataset import Dataset
from lakefmt.errors import AlreadyExists, Conflict, MergeConflict, NoSuchTensor, VersionExpired
from lakefmt.storage import MemoryStore
from lakefmt.versioning import expire as expire_module
from lakefmt.versioning import leaves, names
from lakefmt.versioning import log as log_module
from lakefmt.versioning.diff import common_ancestors
from lakefmt.versioning.log import Log
from lakefmt.versioning.records import Version

#: A row is known by its sample of this tensor, which is never changed.
KEY = "k"
_NAMES = ("a", "b", "c", "d")
_BRANCHES = ("main", "one", "two")

HANDLES = st.integers(0, 1)
#: Ids are drawn from here, so that a run can be repeated: where rows of other branches come to lie hangs on their ids.
_CHANCE = random.Random()
_PLACES = itertools.count()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    steady(monkeypatch)


def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ids and times in every run; leaves, overrides and merges of leaves after a few commits already."""
    monkeypatch.setattr(log_module.time, "sleep", lambda _: None)
    monkeypatch.setattr(leaves, "INLINE_MAX", 4)
    monkeypatch.setattr(leaves, "INLINE_KEPT", 2)
    monkeypatch.setattr(leaves, "OVERRIDES_MAX", 3)
    monkeypatch.setattr(leaves, "SMALL_LEAVES_MAX", 3)
    tick = itertools.count(1)
    tomorrow_ms = int((time.time() + 24 * 3600) * 1000)
    for module in (log_module, names):  # versions are a millisecond apart, in every run
        monkeypatch.setattr(module, "now_ms", lambda: tomorrow_ms + next(tick))
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=_CHANCE.getrandbits(128), version=4))
    for module in (log_module, names):
        monkeypatch.setattr(module, "new_id_space", lambda: _CHANCE.randrange(1, 1 << 31))
    monkeypatch.setattr(expire_module, "time", SimpleNamespace(time=lambda: (tomorrow_ms + next(tick)) / 1000))


# -- the model ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """What one version holds.

    Attributes:
        rows: keys, in order.
        tensors: name to the tensor's own number.
        cells: (key, tensor) to sample; absent where there is none.
    """

    rows: tuple[int, ...] = ()
    tensors: dict[str, int] = field(default_factory=dict)
    cells: dict[tuple[int, int], int] = field(default_factory=dict)

    def shown(self) -> dict[str, list[int | None]]:
        """As a dataset shows it."""
        found: dict[str, list[int | None]] = {n: [self.cells.get((k, i)) for k in self.rows] for n, i in self.tensors.items()}
        return {KEY: [*self.rows], **found}

    def appended(self, key: int, cells: dict[int, int]) -> Table:
        return Table((*self.rows, key), self.tensors, {**self.cells, **{(key, i): v for i, v in cells.items()}})

    def written(self, key: int, tensor: int, value: int) -> Table:
        if key not in self.rows:  # somebody has popped it
            return self
        return Table(self.rows, self.tensors, {**self.cells, (key, tensor): value})

    def without(self, keys: Iterable[int]) -> Table:
        gone = set(keys)
        return Table(tuple(k for k in self.rows if k not in gone), self.tensors, self.cells)

    def named(self, tensors: dict[str, int]) -> Table:
        return Table(self.rows, tensors, {c: v for c, v in self.cells.items() if c[1] in tensors.values()})

    def cell(self, key: int, tensor: int) -> int | None:
        return self.cells.get((key, tensor))


@dataclass(frozen=True)
class Appended:
    key: int
    cells: dict[int, int]

    def on(self, table: Table) -> Table:
        return table.appended(self.key, self.cells)


@dataclass(frozen=True)
class Written:
    key: int
    tensor: int
    value: int

    def on(self, table: Table) -> Table:
        return table.written(self.key, self.tensor, self.value)


@dataclass
class Hand:
    """A handle, and what the model knows of it: the version below it, and what it has buffered, in order."""

    ds: Dataset
    branch: str
    base: Table
    buffer: list[Appended | Written] = field(default_factory=list)

    @property
    def view(self) -> Table:
        table = self.base
        for change in self.buffer:
            table = change.on(table)
        return table


Contested = set[tuple[int, int]]


def merged(
    base: Table, theirs: Table, ours: Table, resolution: str, contested: Contested
) -> tuple[Table, Contested] | None:  # fmt: skip
    """Three tables become one, by row and cell; with the cells both sides disagree on. ``None`` where two tensors want one name.

    Of ``contested`` cells it is not known what they began from.
    """
    tensors = _merged_tensors(base, theirs, ours, resolution)
    if tensors is None:
        return None
    gone_there, gone_here = set(base.rows) - set(theirs.rows), set(base.rows) - set(ours.rows)
    come, go = set(theirs.rows) - set(base.rows), set(gone_there)
    twice = (set(theirs.rows) & set(ours.rows)) - set(base.rows)
    cells: dict[tuple[int, int], int] = dict(ours.cells)
    written: dict[tuple[int, int], int | None] = {}
    clashes: Contested = set()
    for tensor in tensors.values():
        open_ = {k for k, t in contested if t == tensor}
        unsure = open_ | twice
        there = {k for k in base.rows if k in theirs.rows and base.cell(k, tensor) != theirs.cell(k, tensor)} - unsure
        here = {k for k in base.rows if k in ours.rows and base.cell(k, tensor) != ours.cell(k, tensor)} - unsure
        if tensor not in theirs.tensors.values():
            there = set()
        if tensor not in ours.tensors.values():
            here = set()
        unlike = {k for k in {*theirs.rows} & {*ours.rows} if theirs.cell(k, tensor) != ours.cell(k, tensor)}
        clashing = {k for k in unsure & unlike if theirs.cell(k, tensor) is not None and ours.cell(k, tensor) is not None}
        lacking = {k for k in unsure & unlike if ours.cell(k, tensor) is None}
        disputed = {k for k in open_ if (k in theirs.rows) != (k in ours.rows)}
        conflicts = (there & here & unlike) | (there & gone_here) | (here & gone_there)
        clashes |= {(k, tensor) for k in conflicts | clashing | disputed}
        if resolution == "ours":
            there -= conflicts
            go -= (here & gone_there) | disputed
            come -= disputed
        else:
            come |= (there & gone_here) | (disputed & {*theirs.rows})
            go |= disputed & {*ours.rows}
            there |= clashing
        written |= {(k, tensor): theirs.cell(k, tensor) for k in there | lacking}
    for tensor in set(tensors.values()) - set(ours.tensors.values()):  # new there; or deleted here, and back
        written |= {(k, tensor): theirs.cell(k, tensor) for k in theirs.rows}
    new = [k for k in theirs.rows if k in come and k not in ours.rows]
    for k in new:
        written |= {(k, i): theirs.cell(k, i) for i in theirs.tensors.values()}
    for place, value in written.items():
        cells.pop(place, None)
        if value is not None:
            cells[place] = value
    rows = (*(k for k in ours.rows if k not in go), *new)
    return Table(rows, {}, cells).named(tensors), clashes


def apart(one: Table, other: Table) -> Table:
    """The second table, its tensors called otherwise where the first has others of these names."""
    names = {f"{n} {i}" if one.tensors.get(n, i) != i else n: i for n, i in other.tensors.items()}
    return other.named(names)


def _merged_tensors(base: Table, theirs: Table, ours: Table, resolution: str) -> dict[str, int] | None:
    old, new, now = ({i: n for n, i in t.tensors.items()} for t in (base, theirs, ours))
    out: list[tuple[str, int]] = []
    for tensor in {**now, **new}:
        before, there, here = old.get(tensor), new.get(tensor), now.get(tensor)
        if here is not None and there is not None:
            name = there if here in (there, before or here) or (there != before and resolution == "theirs") else here
            out.append((name, tensor))
        elif here is not None:
            changed = here != before or _touched(base, ours, tensor)
            if before is None or (changed and resolution == "ours"):
                out.append((here, tensor))
        elif (there is not None and before is None) or (
            there is not None and resolution == "theirs" and (there != before or _touched(base, theirs, tensor))
        ):
            out.append((there, tensor))
    return dict(out) if len(dict(out)) == len(out) else None


def _touched(base: Table, now: Table, tensor: int) -> bool:
    return any(base.cell(k, tensor) != now.cell(k, tensor) for k in now.rows)


# -- the machine -------------------------------------------------------------------------------------------------------


def _shown(ds: Dataset) -> dict[str, list[int | None]]:
    """Samples by name; a short tensor has missing ones at its end."""
    out = {}
    for name, tensor in ds.tensors.items():
        values = [None if v is None else int(v) for v in tensor.numpy(aslist=True)]
        out[name] = values + [None] * (len(ds) - len(values))
    return out


class Machine(RuleBasedStateMachine):
    """Two handles on one dataset, and the model."""

    steps = 0
    refused: dict[str, int] = {}
    done: dict[str, int] = {}

    def __init__(self) -> None:
        super().__init__()
        self.fresh = itertools.count(1)
        self.turn = itertools.count()
        self.store = MemoryStore(f"proof-{next(_PLACES)}-{time.monotonic_ns()}")
        self.branches: dict[str, Table] = {}
        self.tags: dict[str, Table] = {}
        self.versions: dict[str, Table] = {}
        self.hands: list[Hand] = []

    @initialize(seed=st.integers(0, 1 << 32))
    def begin(self, seed: int) -> None:
        _CHANCE.seed(seed)
        Log.create(self.store)
        ds = opened(self.store)
        for name in (KEY, "a", "b"):
            ds.create_tensor(name, dtype="int64")
        self.branches["main"] = Table((), {n: self._tensor(ds, n) for n in ("a", "b")})
        self._learn()
        hand = Hand(ds, "main", self.branches["main"])
        self.hands = [hand]
        self.extend(0, 4)
        self._flush(hand)
        self._learn()
        for name in ("one", "two"):
            ds.create_branch(name)
            self.branches[name] = hand.base
        self.hands.append(Hand(opened(self.store, branch="one"), "one", hand.base))

    def teardown(self) -> None:
        for hand in self.hands:
            abandon(hand.ds)

    # -- what is known -------------------------------------------------------------------------------------------------

    @staticmethod
    def _tensor(ds: Dataset, name: str) -> int:
        return ds._writer.definition(name).id

    def _learn(self) -> None:
        """Remember the newest version of each branch."""
        for name, table in self.branches.items():
            self.versions[opened(self.store, branch=name).version_id] = table

    def _refuse(self, error: BaseException) -> None:
        kind = type(error).__name__
        Machine.refused[kind] = Machine.refused.get(kind, 0) + 1

    @staticmethod
    def _did(what: str) -> None:
        Machine.done[what] = Machine.done.get(what, 0) + 1

    def _stale(self, hand: Hand) -> bool:
        return hand.ds.version_id != opened(self.store, branch=hand.branch).version_id

    def _stored(self, hand: Hand) -> None:
        """What the handle had buffered is in the newest version of its branch, and it stands there."""
        for change in hand.buffer:
            self.branches[hand.branch] = change.on(self.branches[hand.branch])
        hand.buffer = []
        hand.base = self.branches[hand.branch]

    def _try(self, hand: Hand, do: Callable[[], Any], *allowed: type[BaseException]) -> bool:
        """Do something that stores what is buffered first; False when it was refused, which only another's commits may cause."""
        stale = self._stale(hand)
        version = hand.ds.version_id
        try:
            do()
        except (Conflict, *allowed) as error:
            assert stale or isinstance(error, allowed), f"refused, though nobody else has committed: {error!r}"
            self._refuse(error)
            if hand.ds.version_id != version and hand.buffer:
                self._stored(hand)  # what was buffered has landed, the rest was refused
            elif hand.ds.version_id != version:
                hand.base = self.branches[hand.branch]
            hand.ds.discard()
            hand.buffer = []
            return False
        return True

    def _flush(self, hand: Hand) -> bool:
        had = bool(hand.buffer)
        done = self._try(hand, hand.ds.flush)
        if done and had:
            self._stored(hand)
        return done

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _row(self, hand: Hand) -> tuple[dict[str, int], Appended]:
        row = {name: next(self.fresh) for name in (KEY, *hand.base.tensors)}
        cells = {i: row[n] for n, i in hand.base.tensors.items()}
        return row, Appended(row[KEY], cells)

    @rule(at=HANDLES, count=st.integers(1, 3))
    def append(self, at: int, count: int) -> None:
        hand = self.hands[at]
        for _ in range(count):
            row, change = self._row(hand)
            hand.ds.append(row)
            hand.buffer.append(change)

    @rule(at=HANDLES, count=st.integers(1, 4))
    def extend(self, at: int, count: int) -> None:
        hand = self.hands[at]
        made = [self._row(hand) for _ in range(count)]
        hand.ds.extend({n: [row[n] for row, _ in made] for n in made[0][0]})
        hand.buffer += [change for _, change in made]

    @rule(at=HANDLES, data=st.data())
    def update(self, at: int, data: st.DataObject) -> None:
        hand = self.hands[at]
        names = [n for n in hand.base.tensors if len(hand.ds[n])]
        if not names:
            return
        name = data.draw(st.sampled_from(names))
        tensor, row = hand.base.tensors[name], data.draw(st.integers(0, len(hand.ds[name]) - 1))
        change = Written(hand.view.rows[row], tensor, next(self.fresh))
        version = hand.ds.version_id
        if not self._try(hand, lambda: hand.ds[name].__setitem__(row, change.value)):
            return
        if hand.ds.version_id != version:  # a buffered sample became a stored one first
            self._stored(hand)
        if change.key in hand.view.rows:
            hand.buffer.append(change)

    @rule(at=HANDLES, data=st.data())
    def fill(self, at: int, data: st.DataObject) -> None:
        """Continue a short tensor."""
        hand = self.hands[at]
        short = [n for n in hand.base.tensors if len(hand.ds[n]) < len(hand.ds)]
        if not short:
            return
        name = data.draw(st.sampled_from(short))
        begin = len(hand.ds[name])
        count = data.draw(st.integers(1, min(3, len(hand.ds) - begin)))
        keys = hand.view.rows[begin : begin + count]
        made = [Written(k, hand.base.tensors[name], next(self.fresh)) for k in keys]
        hand.ds[name].extend([change.value for change in made])
        hand.buffer += made

    @rule(at=HANDLES, data=st.data())
    def pop(self, at: int, data: st.DataObject) -> None:
        hand = self.hands[at]
        if not hand.view.rows:
            return
        rows = data.draw(st.lists(st.integers(0, len(hand.view.rows) - 1), min_size=1, max_size=3, unique=True))
        keys = [hand.view.rows[r] for r in rows]
        if self._try(hand, lambda: hand.ds.pop(rows)):
            self._stored(hand)
            self.branches[hand.branch] = hand.base = hand.base.without(keys)
            self._did("pop")

    # -- versions ------------------------------------------------------------------------------------------------------

    @rule(at=HANDLES)
    def flush(self, at: int) -> None:
        self._flush(self.hands[at])

    @rule(at=HANDLES)
    def commit(self, at: int) -> None:
        hand = self.hands[at]
        if self._try(hand, lambda: hand.ds.commit("named", allow_empty=True)):
            self._stored(hand)

    @rule(at=HANDLES)
    def refresh(self, at: int) -> None:
        hand = self.hands[at]
        if self._try(hand, hand.ds.refresh):
            self._stored(hand)

    @rule(at=HANDLES)
    def reopen(self, at: int) -> None:
        hand = self.hands[at]
        if self._flush(hand):
            abandon(hand.ds)
            self.hands[at] = Hand(opened(self.store, branch=hand.branch), hand.branch, self.branches[hand.branch])

    @rule(at=HANDLES, name=st.sampled_from(_BRANCHES))
    def checkout(self, at: int, name: str) -> None:
        hand = self.hands[at]
        if not self._flush(hand):
            return
        if name not in self.branches:
            hand.ds.checkout(name, create=True)
            self.branches[name] = hand.base
        else:
            hand.ds.checkout(name)
            hand.base = self.branches[name]
        hand.branch = name

    @rule(at=HANDLES)
    @precondition(lambda self: len(self.tags) < 3)
    def tag(self, at: int) -> None:
        hand = self.hands[at]
        if self._flush(hand):
            name = f"tag {next(self.fresh)}"
            hand.ds.tag(name)
            self.tags[name] = hand.base

    @rule(data=st.data())
    @precondition(lambda self: self.tags)
    def read_tag(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.tags)))
        assert _shown(opened(self.store, branch=name)) == self.tags[name].shown()

    @rule(at=HANDLES, source=st.sampled_from(_BRANCHES), resolution=st.sampled_from(["ours", "theirs"]))
    def merge(self, at: int, source: str, resolution: str) -> None:
        hand = self.hands[at]
        if source not in self.branches or source == hand.branch or not self._flush(hand):
            return
        log = Log.open(self.store)
        mine, theirs = (log.head(log.branch(name).uuid) for name in (hand.branch, source))
        if {**mine.state.contains}.get(theirs.head.branch, -1) >= theirs.head.v:
            hand.ds.merge(source, resolution)
            hand.base = self.branches[hand.branch]
            return
        try:
            begun = self._begun(log, mine, theirs)
        except VersionExpired as error:
            self._refuse(error)
            return
        if begun is None:
            return
        base, contested = begun
        ours = self.branches[hand.branch]
        result = merged(base, self.branches[source], ours, resolution, contested)
        expected = result and result[0]
        try:
            hand.ds.merge(source, resolution)
        except (MergeConflict, VersionExpired) as error:
            assert expected is None or isinstance(error, VersionExpired), f"refused: {error!r}"
            self._refuse(error)
            hand.base = self.branches[hand.branch]
            return
        assert expected is not None, "merged, though two tensors want one name"
        found = opened(self.store, branch=hand.branch)
        order = tuple(found[KEY].numpy().tolist())
        stayed = [k for k in ours.rows if k in expected.rows]
        what = f"merged {self.branches[source]} into {ours} from {base}, {resolution}: {order}"
        assert sorted(order) == sorted(expected.rows), what
        assert [k for k in order if k in stayed] == stayed or set(order) == set(expected.rows), "rows have changed places"
        given = Table(order, expected.tensors, expected.cells)
        come = [k for k in order if k not in ours.rows]
        shown = _shown(found)
        for name, tensor in expected.tensors.items():
            if tensor not in self.branches[source].tensors.values():  # deleted there, and kept: new rows may still have had samples
                had = {k: shown[name][order.index(k)] for k in come}
                given = Table(order, given.tensors, {**given.cells, **{(k, tensor): v for k, v in had.items() if v is not None}})
        assert shown == given.shown(), f"merged {self.branches[source]} into {ours} from {base}, {resolution}: {shown}"
        self.branches[hand.branch] = hand.base = given
        self._did("merge")

    def _begun(self, log: Log, mine: Version, theirs: Version) -> tuple[Table, Contested] | None:
        """What a merge compares with: the version both come from, or two such versions as one; ``None``: there are more."""
        found = common_ancestors(log, mine, theirs)
        tables = [self.versions[v.id] for v in found]
        if len(found) == 1:
            return tables[0], set()
        if len(found) > 2 or (inner := self._begun(log, *found)) is None:
            return None
        below, contested = inner
        both = merged(below, apart(*tables), tables[0], "ours", contested)
        self._did("merge from two bases")
        assert both is not None, "names were set apart"
        return both[0], both[1] | contested

    @rule(at=HANDLES)
    def compact(self, at: int) -> None:
        hand = self.hands[at]
        if not self._flush(hand):
            return
        version = hand.ds.version_id
        if self._try(hand, hand.ds.compact) and hand.ds.version_id != version:
            hand.base = self.branches[hand.branch]
            self._did("compact")

    @rule(at=HANDLES)
    @precondition(lambda self: next(self.turn) % 8 == 0)  # seldom, for it lets versions go that merges and differences need
    def expire(self, at: int) -> None:
        for hand in self.hands:  # without a grace period nobody else may be at work, or on an old version
            if self._try(hand, hand.ds.refresh):
                self._stored(hand)
            else:
                hand.ds.refresh()
                hand.base = self.branches[hand.branch]
        hand = self.hands[at]
        if hand.ds.expire(older_than=0, keep=1, grace_s=0).versions:
            self._did("expire")
        for other in self.hands:
            other.ds.refresh()
            other.base = self.branches[other.branch]

    # -- tensors -------------------------------------------------------------------------------------------------------

    def _schema(self, hand: Hand, do: Callable[[], Any], change: Callable[[dict[str, int]], dict[str, int]]) -> None:
        if not self._flush(hand) or not self._try(hand, do, AlreadyExists, NoSuchTensor):
            return
        now = self.branches[hand.branch]
        tensors = change(dict(now.tensors))
        self.branches[hand.branch] = hand.base = now.named(tensors)

    @rule(at=HANDLES, name=st.sampled_from(_NAMES))
    def create_tensor(self, at: int, name: str) -> None:
        hand = self.hands[at]
        self._schema(
            hand, lambda: hand.ds.create_tensor(name, dtype="int64"), lambda t: {**t, name: self._tensor(hand.ds, name)}
        )  # fmt: skip

    @rule(at=HANDLES, name=st.sampled_from(_NAMES), new=st.sampled_from(_NAMES))
    def rename_tensor(self, at: int, name: str, new: str) -> None:
        hand = self.hands[at]
        tensor = hand.base.tensors.get(name)
        if tensor is not None and new != name:
            self._schema(
                hand, lambda: hand.ds.rename_tensor(name, new), lambda t: {(new if i == tensor else n): i for n, i in t.items()}
            )  # fmt: skip

    @rule(at=HANDLES, name=st.sampled_from(_NAMES))
    def delete_tensor(self, at: int, name: str) -> None:
        hand = self.hands[at]
        tensor = hand.base.tensors.get(name)
        if tensor is not None:
            self._schema(hand, lambda: hand.ds.delete_tensor(name), lambda t: {n: i for n, i in t.items() if i != tensor})

    # -- differences ---------------------------------------------------------------------------------------------------

    @rule(at=HANDLES, data=st.data())
    def diff(self, at: int, data: st.DataObject) -> None:
        hand = self.hands[at]
        if not self._flush(hand):
            return
        self._learn()
        known = sorted(self.versions)
        first, second = (data.draw(st.sampled_from(known)) for _ in range(2))
        try:
            found = hand.ds.diff(first, second)
            keys = self._keys(first) | self._keys(second)
        except VersionExpired as error:
            self._refuse(error)
            return
        old, new = self.versions[first], self.versions[second]
        for name in {*old.tensors} & {*new.tensors}:
            tensor = new.tensors[name]
            if old.tensors[name] != tensor:
                continue
            given = found.tensors[name]
            added, updated, deleted = ({keys[int(i)] for i in ids} for ids in (given.added, given.updated, given.deleted))
            had, has = ({k for k in t.rows if t.cell(k, tensor) is not None} for t in (old, new))
            assert has - had <= added <= {*new.rows} - had, f"{name}: added"
            assert had - has <= deleted <= {*old.rows} - has, f"{name}: deleted"
            changed = {k for k in had & has if old.cell(k, tensor) != new.cell(k, tensor)}
            assert changed <= updated <= {*old.rows} & {*new.rows}, f"{name}: updated"
            self._did("difference of a tensor")

    def _keys(self, version: str) -> dict[int, int]:
        """Row ids of a version, and their keys."""
        ds = opened(self.store, branch=version)
        ids = ds._writer.snapshot.row_ids(np.arange(len(ds)))
        return dict(zip(ids.tolist(), ds[KEY].numpy().tolist(), strict=True))

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        if not self.hands:
            return
        Machine.steps += 1
        for name, table in self.branches.items():
            found = opened(self.store, branch=name)
            assert _shown(found) == table.shown(), f"branch {name}"
            self.versions[found.version_id] = table
        for i, hand in enumerate(self.hands):
            assert _shown(hand.ds) == hand.view.shown(), f"handle {i}"
            assert hand.ds.branch == hand.branch


def _run(examples: int, steps: int) -> int:
    Machine.steps, Machine.refused, Machine.done = 0, {}, {}
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
            suppress_health_check=[*HealthCheck],
        ),
    )  # fmt: skip
    print(f"{Machine.steps} steps; done among them: {Machine.done}; refused: {Machine.refused}")
    return Machine.steps


def test_some_steps_agree_with_the_model() -> None:
    assert _run(20, 40) >= 500


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_many_steps_agree_with_the_model() -> None:
    assert _run(700, 60) >= 20_000
