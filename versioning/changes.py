"""Changes: what a transaction does to a state, as frozen records, and the fold that applies them.

A change names fragments by id and never by position, so that it can be applied on top of a newer state than the one it was
made for, once the conflict table has allowed that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from enum import StrEnum
from functools import reduce
from typing import Any, TypeAlias

import msgspec

from lakefmt.errors import AlreadyExists, Conflict
from lakefmt.fragment.meta import ColumnFile, Fragment, Overlay, Slice
from lakefmt.htypes import TensorDef
from lakefmt.versioning.leaves import Leaves, current, edited, substituted
from lakefmt.versioning.records import ROW_ID_BITS, Operation, State, Touch

replace = msgspec.structs.replace

#: A touch names so many fragments at most; beyond, it says that it touched any.
TOUCHED_MAX = 1024
ANY = "*"


class Edit(StrEnum):
    """How a tensor's definition was edited, as the conflict table asks for it."""

    CLASSES = "classes"  # class names added, or the first dtype fixed
    INFO = "info"
    RENAMED = "renamed"
    WIDENED = "widened"
    RETYPED = "retyped"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Append:
    """New rows at the end. ``adopted``: they have row ids already (they come from another branch)."""

    fragment: Fragment
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Rows deleted: per fragment, all its deleted rows (earlier ones included); ``None`` where none is any more (a revert)."""

    deleted: Mapping[str, Slice | None]


@dataclass(frozen=True, slots=True)
class Update:
    """New samples for some rows: per fragment, overlays to add. ``fills``: the rows had none (a short tensor was continued)."""

    overlays: Mapping[str, tuple[Overlay, ...]]
    fills: bool = False


@dataclass(frozen=True, slots=True)
class AddTensor:
    """A new tensor; rows there are lack it until they are written."""

    definition: TensorDef


@dataclass(frozen=True, slots=True)
class WriteColumn:
    """Samples of a tensor for fragments that had none of it: per fragment, the files to add."""

    files: Mapping[str, tuple[ColumnFile, ...]]
    field_id: int


@dataclass(frozen=True, slots=True)
class ClearColumn:
    """A tensor is missing in some fragments from now on; what their files hold of it is not looked at any more."""

    fragments: tuple[str, ...]
    field_id: int


@dataclass(frozen=True, slots=True)
class EditTensor:
    """A tensor's definition replaced; ``how`` says in what."""

    definition: TensorDef
    how: Edit


@dataclass(frozen=True, slots=True)
class DropTensor:
    """A tensor removed. Its samples stay in the files until compaction leaves them out."""

    field_id: int


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring fragments, and those that hold the same rows in their place."""

    old: tuple[str, ...]
    new: tuple[Fragment, ...]


@dataclass(frozen=True, slots=True)
class Compact:
    """The same rows in other files."""

    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Restore:
    """Everything as it was in another state. ``id_space``: where new row ids go on, when the state comes from another dataset."""

    state: State
    id_space: int | None = None


@dataclass(frozen=True, slots=True)
class SetInfo:
    """The dataset's metadata replaced."""

    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SetFloor:
    """Versions below this number have expired."""

    floor: int


@dataclass(frozen=True, slots=True)
class Contain:
    """The work of other branches is in this one, up to these versions."""

    versions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Name:
    """Nothing changes; the version gets a message."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Nothing follows: the branch was deleted, or its name stands for another log now."""

    why: str


Change: TypeAlias = (
    Append | Delete | Update | AddTensor | WriteColumn | ClearColumn | EditTensor | DropTensor | Compact | Restore | SetInfo
    | SetFloor | Contain | Name | Seal
)  # fmt: skip


def fold(state: State, changes: Iterable[Change], leaves: Leaves) -> State:
    """The state after the changes."""
    after = reduce(lambda s, c: _apply(s, c, leaves), changes, state)
    names = [t.name for t in after.tensors]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise AlreadyExists(f"tensor {twice!r} exists already")
    groups = {n[:i] for n in names for i, c in enumerate(n) if c == "/"}
    if not groups.isdisjoint(names):
        both = next(n for n in names if n in groups)
        raise AlreadyExists(f"{both!r} would be a tensor and a group; choose another name")
    return after


def _apply(state: State, change: Change, leaves: Leaves) -> State:
    match change:
        case Append(fragment, adopted):
            if adopted:
                return replace(state, fragments=(*state.fragments, fragment))
            first = (state.id_space << ROW_ID_BITS) + state.next_row
            placed = replace(fragment, first_id=first)
            return replace(state, fragments=(*state.fragments, placed), next_row=state.next_row + fragment.rows)
        case Delete(deleted):
            return _edit(state, leaves, deleted, lambda f, d: replace(f, deleted=d))
        case Update(overlays):
            return _edit(state, leaves, overlays, lambda f, o: replace(f, overlays=(*f.overlays, *o)))
        case AddTensor(definition):
            return replace(state, tensors=(*state.tensors, definition))
        case WriteColumn(files, field_id):
            return _edit(state, leaves, files, lambda f, new: _with_column(f, new, field_id))
        case ClearColumn(fragments, field_id):
            return _edit(state, leaves, dict.fromkeys(fragments), lambda f, _: _without_column(f, field_id))
        case EditTensor(definition):
            _expect_tensor(state, definition.id, definition.name)
            return replace(state, tensors=tuple(definition if t.id == definition.id else t for t in state.tensors))
        case DropTensor(field_id):
            _expect_tensor(state, field_id, str(field_id))
            return replace(state, tensors=tuple(t for t in state.tensors if t.id != field_id))
        case Compact(groups):
            for fragment_id in (f for g in groups for f in g.old):
                current(state, leaves, fragment_id)  # raises where one is gone: its rows must not come back with the others
            dropped = {f for g in groups for f in g.old[1:]}
            return substituted(state, leaves, {g.old[0]: g.new for g in groups}, dropped)
        case Restore(other, id_space):
            state = state if id_space is None else replace(state, id_space=id_space, next_row=0)
            return replace(
                state, tensors=other.tensors, leaves=other.leaves, overrides=other.overrides, fragments=other.fragments,
                info=other.info,
            )  # fmt: skip
        case SetInfo(info):
            return replace(state, info=dict(info))
        case SetFloor(floor):
            return replace(state, floor=max(state.floor, floor))
        case Contain(versions):
            known = {b: max(v, state.contains.get(b, -1)) for b, v in versions.items()}
            return replace(state, contains={**state.contains, **known})
        case Name() | Seal():
            return state


def _expect_tensor(state: State, field_id: int, name: str) -> None:
    if all(t.id != field_id for t in state.tensors):
        raise Conflict(f"tensor {name!r} was deleted meanwhile; refresh() and redo")


def _with_column(fragment: Fragment, files: tuple[ColumnFile, ...], field_id: int) -> Fragment:
    if fragment.field(field_id) is not None:
        raise Conflict("another writer has given these rows samples of the same tensor meanwhile; refresh() and redo")
    return replace(fragment, files=(*fragment.files, *files))


def _without_column(fragment: Fragment, field_id: int) -> Fragment:
    files = (replace(f, fields=tuple(e for e in f.fields if e.id != field_id)) for f in fragment.files)
    needed = {e.shape_file for f in fragment.files for e in f.fields if e.id != field_id}
    # a file with nothing but this tensor goes; one that others have their shapes in stays
    kept = tuple(f for f, old in zip(files, fragment.files, strict=True) if f.fields or not old.fields or f.key in needed)
    return replace(fragment, files=kept, overlays=tuple(o for o in fragment.overlays if o.field_id != field_id))


def _edit(state: State, leaves: Leaves, by_fragment: Mapping[str, Any], fn: Callable[[Fragment, Any], Fragment]) -> State:
    """Give the fragments named a new form; all must be there."""
    old = {i: current(state, leaves, i) for i in by_fragment}
    new = {i: fn(f, by_fragment[i]) for i, f in old.items()}
    return edited(state, new, {i: f.live for i, f in old.items()})


# -- what a change touches ---------------------------------------------------------------------------------------------


def touch(change: Change) -> Touch:
    """What a change touches, for the conflict table and the log."""
    match change:
        case Append(fragment):
            tensors = tuple(e.id for file in fragment.files for e in file.fields)
            return Touch(operation=Operation.APPEND, fragments=(fragment.id,), tensors=tensors, rows=fragment.live)
        case Delete(deleted):
            rows = sum(d.count for d in deleted.values() if d is not None)
            return Touch(operation=Operation.DELETE, fragments=_listed(deleted), rows=rows)
        case Update(overlays):
            parts = [o for group in overlays.values() for o in group]
            tensors = tuple(dict.fromkeys(o.field_id for o in parts))
            rows = sum(o.at.count for o in parts)
            names = ("fill",) if change.fills else ()
            return Touch(operation=Operation.UPDATE, fragments=_listed(overlays), tensors=tensors, names=names, rows=rows)
        case AddTensor(definition):
            return Touch(operation=Operation.ADD_TENSOR, tensors=(definition.id,), names=(definition.name,))
        case WriteColumn(files, field_id):
            return Touch(operation=Operation.WRITE_COLUMN, fragments=_listed(files), tensors=(field_id,))
        case ClearColumn(fragments, field_id):
            return Touch(operation=Operation.WRITE_COLUMN, fragments=_listed(fragments), tensors=(field_id,))
        case EditTensor(definition, how):
            renamed = (definition.name,) if how is Edit.RENAMED else ()
            return Touch(operation=Operation.EDIT_SCHEMA, tensors=(definition.id,), names=(str(how), *renamed))
        case DropTensor(field_id):
            return Touch(operation=Operation.EDIT_SCHEMA, tensors=(field_id,), names=(str(Edit.DROPPED),))
        case Compact(groups):
            return Touch(operation=Operation.COMPACT, fragments=_listed([f for g in groups for f in g.old]))
        case Restore():
            return Touch(operation=Operation.OVERWRITE)
        case SetInfo():
            return Touch(operation=Operation.CONFIG, names=("info",))
        case SetFloor():
            return Touch(operation=Operation.CONFIG, names=("floor",))
        case Contain(versions):
            return Touch(operation=Operation.CONFIG, names=tuple(f"contains {b}" for b in versions))
        case Name():
            return Touch(operation=Operation.NAME)
        case Seal(why):
            return Touch(operation=Operation.SEAL, names=(why,))


def touches(changes: Sequence[Change]) -> tuple[Touch, ...]:
    """What changes touch, appends of the same tensors taken together."""
    appended: dict[tuple[int, ...], Touch] = {}
    others: list[Touch] = []
    for t in map(touch, changes):
        if t.operation is not Operation.APPEND:
            others.append(t)
            continue
        before = appended.get(t.tensors)
        together = t if before is None else replace(t, fragments=(*before.fragments, *t.fragments), rows=before.rows + t.rows)
        appended[t.tensors] = together
    return (*(replace(t, fragments=_listed(t.fragments)) for t in appended.values()), *others)


def _listed(fragments: Iterable[str]) -> tuple[str, ...]:
    listed = tuple(fragments)
    return listed if len(listed) <= TOUCHED_MAX else (ANY,)


def without(changes: Sequence[Change], fragments: set[str]) -> list[Change]:
    """The changes less those groups of a compaction that concern some fragments."""
    out: list[Change] = []
    for change in changes:
        if isinstance(change, Compact):
            groups = tuple(g for g in change.groups if ANY not in fragments and fragments.isdisjoint(g.old))
            if groups:
                out.append(replaced(change, groups=groups))
        else:
            out.append(change)
    return out
