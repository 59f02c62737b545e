"""The commit protocol of spec/LOG.md as a small abstract machine, walked breadth-first through all interleavings.

Modelled: one branch's numbered slots (each version with the transactions and data files its state holds, and the floor it
carries), data files with a modification tick, one tag, a bounded clock, what of it all is durable, and *actors*: two writers (one
appends, one replaces), an expirer and a tagger. A put may be reported failed though it was applied, or was not, or will be later;
an actor may crash at any step; the machine may lose power once, which drops any of what was not flushed (actors that have not
begun yet begin after it). Not modelled: hints (readers find the head), leases (which are tags), other branches.

Each field of `Rules` is one protection. Without it the walk finds the shortest way to break an invariant:

======================  ==============================================================================================
put_if_absent           a put overwrites, so that a version seen by others changes
read_back               an ambiguous answer taken for a failure doubles the commit, taken for a success loses it
files_first             a version object outlives a power cut that its data file does not
age_limit               expiry removes the files of a slow transaction, which then commits
tag_then_floor          a floor raised between a tagger's two steps is seen by neither side
floor_then_tags         a tag written between the expirer's two steps is seen by neither side
settle_age_limit        a transaction of unknown outcome is settled after its files were removed
flush_on_read_back      an interrupted put, found in its slot, is reported as landed though its name was never flushed
slots_stay              a transaction built on an old version takes the number of a version that expiry removed
ages_then_versions      a transaction lands between the expirer's look at the versions and its look at the files' ages
======================  ==============================================================================================

Two more are assumptions about the world: ``puts_in_time`` (between the age check and the end of the put passes less than the grace
period exceeds the age limit) and ``names_in_order`` (names in one folder reach the disk in the order they were made).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple, TypeVar

T = TypeVar("T")

#: Ticks after which a transaction refuses to commit, and after which a file without a reference may go.
AGE_MAX = 1
GRACE = 2
#: Tries to learn the outcome of one ambiguous put.
TRIES_MAX = 2
#: The version that the tagger wants.
TAGGED = 0
#: Files of the log that every walk begins with are older than any grace period.
_LONG_AGO = -9

Kind = Literal["append", "replace", "expire", "tag"]
Outcome = Literal["", "acknowledged", "failed", "unknown"]


class Version(NamedTuple):
    """A version object. ``transactions``: all that its state holds, its own last."""

    transactions: tuple[str, ...]
    files: frozenset[str]
    floor: int


class File(NamedTuple):
    """A data file in the store."""

    name: str
    tick: int
    durable: bool


class Actor(NamedTuple):
    """Where an actor is, and what it remembers.

    Attributes:
        at: the slot it is to put.
        version: what it is to put there.
        started: the tick of its first upload.
        names: the expirer's: files that it may remove (or must not, where it reads the versions first).
        tags: the expirer's: versions it found tagged.
        outcome: what was reported to its caller.
    """

    pc: str = "start"
    at: int = 0
    version: Version | None = None
    started: int = 0
    tries: int = 0
    names: frozenset[str] = frozenset()
    tags: frozenset[int] = frozenset()
    outcome: Outcome = ""


class State(NamedTuple):
    """Everything.

    Attributes:
        slots: the log; ``None`` is a hole.
        durable: slots below this number would survive a power cut.
        gone: slots whose version object was removed; ``slots`` remembers what it was.
        tags: tagged versions, with whether the tag is durable.
        late: puts reported failed that may be applied yet.
        faults: ambiguous answers left to give.
        power: whether the machine may lose power yet.
    """

    slots: tuple[Version | None, ...]
    durable: int
    gone: frozenset[int]
    files: frozenset[File]
    tags: frozenset[tuple[int, bool]]
    late: frozenset[tuple[int, Version]]
    tick: int
    faults: int
    power: bool
    actors: tuple[Actor, ...]


@dataclass(frozen=True)
class Rules:
    """The protections; see the module's documentation."""

    put_if_absent: bool = True
    read_back: Literal["slot", "failure", "success"] = "slot"
    files_first: bool = True
    age_limit: bool = True
    tag_then_floor: bool = True
    floor_then_tags: bool = True
    settle_age_limit: bool = True
    flush_on_read_back: bool = True
    slots_stay: bool = True
    ages_then_versions: bool = True
    puts_in_time: bool = True
    names_in_order: bool = True


@dataclass(frozen=True)
class World:
    """Who acts, and what may go wrong.

    Attributes:
        kinds: the actors.
        ticks: how often the clock may advance.
        faults: ambiguous answers to puts.
        late: whether such a put may also be applied later.
        power: whether the machine may lose power, once.
    """

    kinds: tuple[Kind, ...]
    ticks: int = 0
    faults: int = 0
    late: bool = False
    power: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The actors' names, which are also their transactions'."""
        return tuple(k if self.kinds.count(k) == 1 else f"{k} {i}" for i, k in enumerate(self.kinds))


Step = tuple[str, State]


def initial(world: World) -> State:
    """Two versions; the second replaced the file of the first."""
    first = Version(("v0",), frozenset({"f0"}), 0)
    second = Version(("v0", "v1"), frozenset({"f1"}), 0)
    files = frozenset(File(n, _LONG_AGO, True) for n in ("f0", "f1"))
    actors = tuple(Actor() for _ in world.kinds)
    return State((first, second), 2, frozenset(), files, frozenset(), frozenset(), 0, world.faults, world.power, actors)


def slot(state: State, n: int) -> Version | None:
    """What a read of version ``n`` finds."""
    return state.slots[n] if n < len(state.slots) and n not in state.gone else None


def newest(state: State) -> tuple[int, Version]:
    """The head, as a reader finds it: up to the first number that was never taken."""
    n, found = 0, state.slots[0]
    assert found is not None
    for n, ahead in enumerate((*state.slots[1:], None)):  # noqa: B007
        if ahead is None:
            break
        found = ahead
    return n, found


def _filled(state: State, n: int, version: Version) -> tuple[Version | None, ...]:
    slots = [*state.slots, *[None] * (n + 1 - len(state.slots))]
    slots[n] = version
    return tuple(slots)


class Machine:
    """The steps that are possible from a state, under some rules in some world."""

    def __init__(self, world: World, rules: Rules) -> None:
        self.world = world
        self.rules = rules
        assert world.kinds.count("tag") <= 1, "there is one tag"
        self.names = world.names
        self._steps: dict[str, Callable[[State, int, Actor], Iterator[Step]]] = {
            "start": self._start,
            "upload": self._upload,
            "flush": self._flush,
            "check": self._check,
            "put": self._put,
            "applied": self._applied,
            "read": self._read,
            "lost": self._lost,
            "settle": self._settle,
            "list": self._list,
            "ages": self._ages,
            "versions": self._versions,
            "remove": self._remove,
            "tag": self._tag,
            "tagged": self._tagged,
            "floor": self._floor,
            "untag": self._untag,
        }

    def steps(self, state: State) -> Iterator[Step]:
        """Every next state, with what leads there."""
        for i, actor in enumerate(state.actors):
            act = self._steps.get(actor.pc)
            if act is None:
                continue
            for label, after in act(state, i, actor):
                yield f"{self.names[i]}: {label}", after
            if actor.pc != "start":
                yield f"{self.names[i]}: crashes", _to(state, i, _dead(actor))
        yield from self._world_steps(state)

    # -- the world -----------------------------------------------------------------------------------------------------

    def _world_steps(self, state: State) -> Iterator[Step]:
        if state.tick < self.world.ticks and not (self.rules.puts_in_time and self._putting(state)):
            yield "clock: ticks", state._replace(tick=state.tick + 1)
        for put in state.late:
            rest = state.late - {put}
            if slot(state, put[0]) is None or not self.rules.put_if_absent:
                slots = _filled(state, *put)
                yield "store: applies a put that was reported failed", state._replace(slots=slots, durable=len(slots), late=rest)
            else:
                yield "store: refuses a put that was reported failed", state._replace(late=rest)
        if state.power:
            yield from self._power(state)

    def _putting(self, state: State) -> bool:
        """Whether a writer that has looked at its age may put without looking again."""
        return any(a.pc in ("put", "read") and k != "expire" for k, a in zip(self.world.kinds, state.actors, strict=True))

    def _power(self, state: State) -> Iterator[Step]:
        """Anything not flushed may be gone; whoever was at work is."""
        actors = tuple(a if a.pc in ("start", "done") else _dead(a) for a in state.actors)
        kept_files = frozenset(f for f in state.files if f.durable)
        kept_tags = frozenset(t for t in state.tags if t[1])
        volatile = range(state.durable, len(state.slots))
        if self.rules.names_in_order:
            chances = [tuple(volatile[:k]) for k in range(len(volatile) + 1)]
        else:
            chances = _subsets(tuple(volatile))
        for numbers in chances:
            slots = [v if n < state.durable or n in numbers else None for n, v in enumerate(state.slots)]
            while slots[-1] is None:
                slots.pop()
            for files in _subsets(tuple(sorted(state.files - kept_files))):
                for tags in _subsets(tuple(sorted(state.tags - kept_tags))):
                    yield (
                        f"machine: loses power; of what was not flushed it keeps {[*numbers, *(f.name for f in files)]}",
                        state._replace(
                            slots=tuple(slots),
                            durable=len(slots),
                            files=kept_files | {f._replace(durable=True) for f in files},
                            tags=kept_tags | {(v, True) for v, _ in tags},
                            power=False,
                            actors=actors,
                        ),
                    )

    # -- committing ----------------------------------------------------------------------------------------------------

    def _start(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        kind = self.world.kinds[i]
        if kind == "tag":
            actor = actor._replace(pc="tag" if self.rules.tag_then_floor else "floor")
            yield "begins", _to(state, i, actor)
        elif kind == "expire" and not (self.rules.floor_then_tags or actor.tags):
            found = frozenset(v for v, _ in state.tags)
            yield "lists the tags", _to(state, i, self._based(state, i, actor._replace(pc="put", tags=found)))
        else:
            pc = "put" if kind == "expire" else "upload"
            yield "reads the head", _to(state, i, self._based(state, i, actor._replace(pc=pc)))

    def _based(self, state: State, i: int, actor: Actor) -> Actor:
        """The actor with a version to put on top of the head."""
        n, base = newest(state)
        kind, name = self.world.kinds[i], self.names[i]
        files = {"append": base.files | {_file(name)}, "replace": frozenset({_file(name)})}.get(kind, base.files)
        floor = n + 1 if kind == "expire" else base.floor
        return actor._replace(at=n + 1, version=Version((*base.transactions, name), files, floor), tries=TRIES_MAX)

    def _upload(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        pc = "flush" if state.power and self.rules.files_first else "check"
        file = File(_file(self.names[i]), state.tick, not state.power)
        yield "uploads its file", _to(state, i, actor._replace(pc=pc, started=state.tick), files=state.files | {file})

    def _flush(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        mine = _file(self.names[i])
        files = frozenset(f._replace(durable=True) if f.name == mine else f for f in state.files)
        yield "flushes its file", _to(state, i, actor._replace(pc="check"), files=files)

    def _check(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        if self.rules.age_limit and state.tick - actor.started > AGE_MAX:
            yield "refuses to commit: too old", _to(state, i, _done("failed"))
        else:
            yield "is young enough to commit", _to(state, i, actor._replace(pc="put"))

    def _put(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        assert actor.version is not None
        taken = slot(state, actor.at) is not None and self.rules.put_if_absent
        if taken:
            told = "read" if self.rules.read_back == "slot" else "lost"
            yield f"is told that version {actor.at} exists", _to(state, i, actor._replace(pc=told))
        else:
            slots = _filled(state, actor.at, actor.version)
            durable = state.durable if state.power else len(slots)
            yield f"puts version {actor.at}", _to(state, i, actor._replace(pc="applied"), slots=slots, durable=durable)
        if state.faults and not (taken and self.rules.read_back == "slot"):
            failed = self._ambiguous(state, i, actor)
            yield "is told that its put failed, and it did", failed
            if self.world.late and not taken:
                yield (
                    "is told that its put failed, but it is under way",
                    failed._replace(late=state.late | {(actor.at, actor.version)}),
                )

    def _applied(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        flushed = state._replace(durable=len(state.slots))
        yield "is told that its put succeeded", self._landed(flushed, i, actor)
        if state.faults:
            yield "is told that its put failed, though it succeeded", self._ambiguous(flushed, i, actor)
            if state.durable != len(state.slots):
                yield "is interrupted before the name is flushed", self._ambiguous(state, i, actor)

    def _ambiguous(self, state: State, i: int, actor: Actor) -> State:
        state = state._replace(faults=state.faults - 1)
        if self.rules.read_back == "success":
            return self._landed(state, i, actor)
        return _to(state, i, actor._replace(pc="read" if self.rules.read_back == "slot" else "lost"))

    def _landed(self, state: State, i: int, actor: Actor) -> State:
        if self.world.kinds[i] != "expire":
            return _to(state, i, _done("acknowledged"))
        first = self._first_look()
        pc = "list" if self.rules.floor_then_tags else first
        return _to(state, i, Actor(pc=pc, at=actor.at, tags=actor.tags, outcome="acknowledged"))

    def _read(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        there = slot(state, actor.at)
        if there is None:
            if actor.tries > 1:
                yield "finds its slot empty and tries again", _to(state, i, actor._replace(pc="put", tries=actor.tries - 1))
            else:
                yield "gives up: outcome unknown", _to(state, i, actor._replace(pc="settle", tries=0, outcome="unknown"))
            return
        if self.rules.flush_on_read_back:
            state = state._replace(durable=len(state.slots))
        if there.transactions[-1] == self.names[i]:
            yield "finds itself in the slot", self._landed(state, i, actor)
        elif actor.outcome == "unknown":
            yield "finds another in the slot it had to settle", _to(state, i, _done("failed"))
        else:
            yield "finds another in the slot", _to(state, i, actor._replace(pc="lost"))

    def _lost(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        expires = self.world.kinds[i] == "expire"
        if not expires:  # what the conflict table says is left open
            yield "conflicts with what landed", _to(state, i, _done("failed"))
        yield "rebases on the head", _to(state, i, self._based(state, i, actor._replace(pc="put" if expires else "check")))

    def _settle(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        """The same bytes to the same slot; one that is too old may only look."""
        old = self.world.kinds[i] != "expire" and state.tick - actor.started > AGE_MAX
        if not (old and self.rules.settle_age_limit):
            yield "settles", _to(state, i, actor._replace(pc="put"))
        elif slot(state, actor.at) is not None:
            yield "is too old to settle, and looks", _to(state, i, actor._replace(pc="read"))

    # -- expiring ------------------------------------------------------------------------------------------------------

    def _first_look(self) -> str:
        return "ages" if self.rules.ages_then_versions else "versions"

    def _list(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        found = frozenset(v for v, _ in state.tags)
        yield "lists the tags", _to(state, i, actor._replace(pc=self._first_look(), tags=found))

    def _ages(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        old = frozenset(f.name for f in state.files if state.tick - f.tick >= GRACE)
        if self.rules.ages_then_versions:
            after = actor._replace(pc="versions", names=old)
        else:
            after = _removing(actor, old - actor.names)
        yield "lists the files older than the grace period", _to(state, i, after)

    def _versions(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        kept = [v for n, v in enumerate(state.slots) if v is not None and (n >= actor.at or n in actor.tags)]
        used = frozenset(name for v in kept for name in v.files)
        if self.rules.ages_then_versions:
            after = _removing(actor, (actor.names - used) | self._old_versions(state, actor))
        else:
            after = actor._replace(pc="ages", names=used)
        yield "reads the versions it retains", _to(state, i, after)

    def _remove(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        name = min(actor.names)
        files = frozenset(f for f in state.files if f.name != name)
        gone = state.gone | {n for n in range(actor.at) if name == f"version {n}"}
        yield f"removes {name}", _to(state, i, _removing(actor, actor.names - {name}), files=files)._replace(gone=gone)

    def _old_versions(self, state: State, actor: Actor) -> frozenset[str]:
        """Version objects that go, by the age of their transaction's file."""
        if self.rules.slots_stay:
            return frozenset()
        below = enumerate(state.slots[: actor.at])
        return frozenset(f"version {n}" for n, v in below if v is not None and _file(v.transactions[-1]) in actor.names)

    # -- tagging -------------------------------------------------------------------------------------------------------

    def _tag(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        tags = state.tags | {(TAGGED, not state.power)}
        yield f"writes a tag of version {TAGGED}", _to(state, i, actor._replace(pc="tagged"), tags=tags)

    def _tagged(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        after = actor._replace(pc="floor") if self.rules.tag_then_floor else _done("acknowledged")
        yield "is told that its tag is written", _to(state, i, after, tags=frozenset({(TAGGED, True)}))

    def _floor(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        if newest(state)[1].floor <= TAGGED:
            after = _done("acknowledged") if self.rules.tag_then_floor else actor._replace(pc="tag")
            yield "reads a floor that is low enough", _to(state, i, after)
        else:
            after = actor._replace(pc="untag") if self.rules.tag_then_floor else _done("failed")
            yield "reads a floor above its version", _to(state, i, after)

    def _untag(self, state: State, i: int, actor: Actor) -> Iterator[Step]:
        yield "takes its tag back", _to(state, i, _done("failed"), tags=frozenset())


def _file(name: str) -> str:
    return f"file of {name}"


def _done(outcome: Outcome) -> Actor:
    return Actor(pc="done", outcome=outcome)


def _dead(actor: Actor) -> Actor:
    return Actor(pc="dead", outcome=actor.outcome)


def _removing(actor: Actor, names: frozenset[str]) -> Actor:
    return actor._replace(pc="remove", names=names, tags=frozenset()) if names else _done(actor.outcome)


def _to(
    state: State,
    i: int,
    actor: Actor,
    *,
    slots: tuple[Version | None, ...] | None = None,
    durable: int | None = None,
    files: frozenset[File] | None = None,
    tags: frozenset[tuple[int, bool]] | None = None,
) -> State:
    """The state after actor ``i`` has moved."""
    return State(
        state.slots if slots is None else slots,
        state.durable if durable is None else durable,
        state.gone,
        state.files if files is None else files,
        state.tags if tags is None else tags,
        state.late,
        state.tick,
        state.faults,
        state.power,
        (*state.actors[:i], actor, *state.actors[i + 1 :]),
    )


def _subsets(items: tuple[T, ...]) -> list[tuple[T, ...]]:
    return [c for k in range(len(items) + 1) for c in combinations(items, k)]


# -- what must hold ----------------------------------------------------------------------------------------------------


def broken(state: State, names: tuple[str, ...]) -> Iterator[str]:
    """The invariants that a state breaks."""
    before: Version | None = None
    for n, version in enumerate(state.slots):
        if version is None:
            yield f"hole: version {n} is absent, a later one is there"
        elif before is not None and (version.transactions[:-1] != before.transactions or version.floor < before.floor):
            yield f"lost: version {n} does not hold what version {n - 1} holds"
        before = version
    own = [v.transactions[-1] for v in state.slots if v is not None]
    if len(set(own)) < len(own):
        yield f"doubled: the log is {own}"
    for name, actor in zip(names, state.actors, strict=True):
        if name == "tag":
            if actor.outcome == "acknowledged" and not any(v == TAGGED for v, _ in state.tags):
                yield "lost: a tag reported written is not there"
        elif actor.outcome == "acknowledged" and name not in own:
            yield f"lost: {name} was acknowledged and is not in the log"
        elif actor.outcome == "failed" and name in own:
            yield f"landed: {name} was reported failed and is in the log"
    floor = newest(state)[1].floor
    tagged = any(n == "tag" and a.outcome == "acknowledged" for n, a in zip(names, state.actors, strict=True))
    there = {f.name for f in state.files}
    for n, version in enumerate(state.slots):
        if version is not None and (n >= floor or (tagged and n == TAGGED)) and not version.files <= there:
            yield f"files: version {n} lacks {sorted(version.files - there)}"


def changed(before: State, after: State) -> Iterator[str]:
    """The versions that a step changed. Only a power cut may take one away, and none that was durable."""
    if before.slots is after.slots:
        return
    kept = before.durable if before.power and not after.power else len(before.slots)
    for n in range(kept):
        if before.slots[n] is not None and (n >= len(after.slots) or after.slots[n] != before.slots[n]):
            yield f"changed: version {n} is another than it was"


# -- the walk ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """What a walk found.

    Attributes:
        states: distinct states reached.
        complete: no state was left out.
        steps: how often each step was taken.
        ends: outcomes of the actors in the states where nobody can move.
        violation: the first invariant broken, and ``trace`` the shortest way there.
    """

    states: int
    complete: bool
    steps: Counter[str]
    ends: frozenset[tuple[Outcome, ...]]
    violation: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{n:3}. {label}" for n, label in enumerate(self.trace, 1)]
        return "\n".join([*lines, f"  => {self.violation or 'nothing is broken'} ({self.states} states)"])


def walk(world: World, rules: Rules | None = None, *, wanted: str = "", states_max: int = 2_000_000) -> Walk:
    """Visit every reachable state, nearest first, until an invariant breaks (one whose description begins with ``wanted``)."""
    machine = Machine(world, rules or Rules())
    start = initial(world)
    came: dict[State, tuple[State, str] | None] = {start: None}
    level, steps, ends = [start], Counter[str](), set[tuple[Outcome, ...]]()
    while level and len(came) < states_max:
        following = []
        for state in level:
            moved = False
            for label, after in machine.steps(state):
                moved = True
                steps[label] += 1
                known = after in came
                wrong = list(changed(state, after))
                if not known:
                    came[after] = (state, label)
                    following.append(after)
                    wrong += broken(after, machine.names)
                found = next((w for w in wrong if w.startswith(wanted)), None)
                if found is not None:
                    return Walk(len(came), False, steps, frozenset(ends), found, (*_way(came, state), label))
            if not moved:
                ends.add(tuple(a.outcome for a in state.actors))
        level = following
    return Walk(len(came), not level, steps, frozenset(ends))


def _way(came: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    out = []
    while (step := came[state]) is not None:
        state, label = step
        out.append(label)
    return out[::-1]
