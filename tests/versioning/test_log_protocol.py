"""The commit protocol holds in every interleaving of a small world, and breaks without any one of its protections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
from protocol_model import Actor, File, Outcome, Rules, State, Version, Walk, World, broken, changed, initial, walk


class Scene(NamedTuple):
    """A world, the states that were counted in it, and steps that must be among those taken."""

    world: World
    states_min: int
    steps: tuple[str, ...]


_COMMIT = (
    "puts version 3",
    "finds itself in the slot",
    "finds another in the slot",
    "rebases on the head",
    "conflicts with what landed",
)
_UNKNOWN = ("gives up: outcome unknown", "settles", "finds another in the slot it had to settle")
_EXPIRE = ("lists the tags", "lists the files older than the grace period", "reads the versions it retains", "removes f0")
_TAG = (
    "is told that its tag is written",
    "reads a floor that is low enough",
    "reads a floor above its version",
    "takes its tag back",
)
_POWER = ("is interrupted before the name is flushed", "loses power; of what was not flushed it keeps []")

SCENES = {
    "writers": Scene(
        World(("append", "replace"), faults=2, late=True),
        2_017,
        (*_COMMIT, *_UNKNOWN, "applies a put that was reported failed", "refuses a put that was reported failed"),
    ),
    "writers-power": Scene(World(("append", "replace"), faults=2, power=True), 1_940, (*_COMMIT, *_UNKNOWN, *_POWER)),
    "expiry": Scene(
        World(("append", "replace", "expire"), ticks=3),
        88_475,
        (
            *_EXPIRE,
            "puts version 4",
            "refuses to commit: too old",
            "removes f1",
            "removes file of append",
            "removes file of replace",
        ),
    ),
    "expiry-one-writer": Scene(
        World(("append", "expire"), ticks=3), 1_571, (*_EXPIRE, "refuses to commit: too old", "removes file of append")
    ),
    "expiry-faults": Scene(
        World(("append", "expire"), ticks=3, faults=2, power=True),
        23_402,
        (*_COMMIT, *_UNKNOWN, *_POWER, *_EXPIRE, "removes file of append", "is too old to settle, and looks"),
    ),
    "tags": Scene(World(("append", "expire", "tag"), faults=1, power=True), 12_668, (*_COMMIT, *_POWER, *_EXPIRE, *_TAG)),
    "tags-two-expiries": Scene(World(("expire", "expire", "tag"), faults=1, power=True), 17_702, (*_POWER, *_EXPIRE, *_TAG)),
}

LARGE_SCENES = {
    "three-writers": Scene(World(("append", "append", "replace"), faults=2, late=True), 92_783, (*_COMMIT, *_UNKNOWN)),
    "three-writers-power": Scene(
        World(("append", "append", "replace"), faults=2, power=True), 73_260, (*_COMMIT, *_UNKNOWN, *_POWER)
    ),
    "expiry-of-two-writers": Scene(World(("append", "replace", "expire"), ticks=3, faults=1), 294_813, (*_COMMIT, *_EXPIRE)),
    "everybody": Scene(World(("append", "replace", "expire", "tag"), power=True), 120_554, (*_EXPIRE, *_TAG)),
    "tags-clock": Scene(World(("append", "expire", "tag"), ticks=3, faults=1, power=True), 115_673, (*_POWER, *_EXPIRE, *_TAG)),
}


class Hole(NamedTuple):
    """A protection taken away: where that shows, as what, and by which steps among others."""

    rules: dict[str, Any]
    scene: str
    violation: str
    steps: tuple[str, ...] = ()


HOLES = {
    "put-overwrites": Hole({"put_if_absent": False}, "writers", "changed: version 2"),
    "put-overwrites-an-acknowledged-commit": Hole(
        {"put_if_absent": False},
        "writers",
        "lost: append was acknowledged",
        ("append: is told that its put succeeded", "replace: puts version 2"),
    ),
    "ambiguity-is-failure": Hole(
        {"read_back": "failure"},
        "writers",
        "doubled: the log is ['v0', 'v1', 'append', 'append']",
        ("is told that its put failed, though it succeeded", "rebases on the head", "puts version 3"),
    ),
    "ambiguity-is-failure-and-a-conflict": Hole({"read_back": "failure"}, "writers", "landed: append was reported failed"),
    "ambiguity-is-success": Hole(
        {"read_back": "success"}, "writers", "lost: append was acknowledged", ("is told that its put failed, and it did",)
    ),
    "version-before-its-file": Hole({"files_first": False}, "writers-power", "files: version 2", ("puts version 2", "loses power")),
    "no-age-limit": Hole(
        {"age_limit": False}, "expiry-one-writer", "files: version", ("uploads its file", "ticks", "ticks", "removes file of")
    ),
    "floor-before-tag": Hole(
        {"tag_then_floor": False}, "tags", "files: version 0", ("reads a floor", "lists the tags", "writes a tag")
    ),
    "tags-before-floor": Hole(
        {"floor_then_tags": False}, "tags", "files: version 0", ("lists the tags", "reads a floor", "expire: puts")
    ),
    "settling-without-age-limit": Hole(
        {"settle_age_limit": False},
        "expiry-faults",
        "files: version",
        ("gives up", "ticks", "ticks", "settles", "removes file of append"),
    ),
    "no-flush-on-read-back": Hole(
        {"flush_on_read_back": False},
        "writers-power",
        "lost: append was acknowledged",
        ("is interrupted before the name is flushed", "finds itself in the slot", "loses power"),
    ),
    "no-flush-on-read-back-of-a-floor": Hole(
        {"flush_on_read_back": False},
        "expiry-faults",
        "files: version 0",
        ("is interrupted before the name is flushed", "finds itself in the slot", "removes f0", "loses power"),
    ),
    "version-objects-are-removed": Hole(
        {"slots_stay": False},
        "expiry",
        "changed: version 2",
        ("replace: reads the head", "append: puts version 2", "removes version 2", "replace: puts version 2"),
    ),
    "versions-before-ages": Hole(
        {"ages_then_versions": False},
        "expiry-one-writer",
        "files: version",
        ("reads the versions", "puts version", "ticks", "lists the files"),
    ),
    "a-put-takes-longer-than-the-margin": Hole(
        {"puts_in_time": False},
        "expiry-one-writer",
        "files: version",
        ("is young enough", "ticks", "puts version", "removes file of"),
    ),
    "names-reach-the-disk-out-of-order": Hole({"names_in_order": False}, "writers-power", "hole: version 2", ("loses power",)),
}


def _in_order(steps: Iterable[str], trace: Iterable[str]) -> bool:
    rest = iter(trace)
    return all(any(step in label for label in rest) for step in steps)


def _check(scene: Scene) -> Walk:
    found = walk(scene.world)
    assert not found.violation, f"\n{found}"
    assert found.complete
    assert found.states >= scene.states_min
    taken = {label.split(": ", 1)[1] for label in found.steps}
    assert set(scene.steps) <= taken, "a step that the scene is there for was never taken"
    return found


@pytest.mark.parametrize("name", SCENES)
def test_nothing_breaks(name: str) -> None:
    scene = SCENES[name]
    found = _check(scene)
    everybody: Outcome = "acknowledged"
    assert tuple(everybody for _ in scene.world.kinds) in found.ends, "all of them can succeed together"
    assert any("failed" in end for end in found.ends)


@pytest.mark.nightly
@pytest.mark.parametrize("name", LARGE_SCENES)
def test_nothing_breaks_in_a_larger_world(name: str) -> None:
    _check(LARGE_SCENES[name])


@pytest.mark.parametrize("name", HOLES)
def test_without_a_protection(name: str) -> None:
    hole = HOLES[name]
    found = walk(SCENES[hole.scene].world, Rules(**hole.rules), wanted=hole.violation)
    assert found.violation.startswith(hole.violation), f"\n{found}"
    assert _in_order(hole.steps, found.trace), f"\n{found}"


def test_every_protection_has_its_hole() -> None:
    assert {rule for hole in HOLES.values() for rule in hole.rules} == set(Rules.__dataclass_fields__)


def test_a_trace_can_be_read() -> None:
    found = walk(SCENES["writers"].world, Rules(read_back="success"))
    assert str(found).splitlines() == [
        "  1. append: reads the head",
        "  2. append: uploads its file",
        "  3. append: is young enough to commit",
        "  4. append: is told that its put failed, and it did",
        f"  => lost: append was acknowledged and is not in the log ({found.states} states)",
    ]


def test_a_walk_cut_short_says_so() -> None:
    found = walk(SCENES["writers"].world, states_max=100)
    assert not found.complete
    assert not found.violation


# -- the invariants themselves -------------------------------------------------------------------------------------------

_NAMES = ("append", "tag")


def _state(*versions: Version | None, append: Outcome = "", tag: Outcome = "", **changes: Any) -> State:
    """The initial state with more versions and some outcomes."""
    start = initial(World(("append", "tag")))
    slots = (*start.slots, *versions)
    return start._replace(slots=slots, durable=len(slots), actors=(Actor(outcome=append), Actor(outcome=tag)))._replace(**changes)


def _version(*transactions: str, files: Iterable[str] = ("f1",), floor: int = 0) -> Version:
    return Version(("v0", "v1", *transactions), frozenset(files), floor)


_TAGS = frozenset({(0, True)})
_ONLY_F1 = frozenset({File("f1", 0, True)})


@pytest.mark.parametrize(
    ("state", "violation"),
    [
        (_state(), None),
        (_state(_version("append"), append="acknowledged"), None),
        (_state(_version("append"), append="unknown"), None),
        (_state(append="failed", tag="failed"), None),
        (_state(tag="acknowledged", tags=_TAGS), None),
        (_state(_version("x", floor=2), files=_ONLY_F1), None),
        (_state(None, _version("x")), "hole: version 2"),
        (_state(_version("x"), _version("y")), "lost: version 3 does not hold"),
        (_state(_version("x", floor=2), _version("x", "y")), "lost: version 3 does not hold"),
        (_state(_version("append"), _version("append", "append")), "doubled"),
        (_state(append="acknowledged"), "lost: append was acknowledged"),
        (_state(_version("append"), append="failed"), "landed: append was reported failed"),
        (_state(tag="acknowledged"), "lost: a tag"),
        (_state(files=_ONLY_F1), "files: version 0 lacks ['f0']"),
        (_state(_version("x", floor=2), files=_ONLY_F1, tag="acknowledged", tags=_TAGS), "files: version 0 lacks ['f0']"),
        (_state(_version("append", files=("f1", "mine"))), "files: version 2 lacks ['mine']"),
    ],
)
def test_invariants_of_a_state(state: State, violation: str | None) -> None:
    found = list(broken(state, _NAMES))
    assert not found if violation is None else any(x.startswith(violation) for x in found)


def test_a_version_stays_what_it_was() -> None:
    on, cut = _state(_version("x"), durable=2, power=True), _state(durable=2)
    gone = ["changed: version 2 is another than it was"]
    assert list(changed(on, cut)) == [], "it was not durable"
    assert list(changed(on._replace(durable=3), cut)) == gone
    assert list(changed(on._replace(power=False), cut)) == gone
    assert list(changed(on, _state(_version("y"), power=True))) == gone
    assert list(changed(_state(), _state(_version("x")))) == []
