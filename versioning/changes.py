"""Changes: what a transaction does to a state, as frozen records, and the fold that applies them.

A change names fragments by id and never by position, so that it can be applied on top of a newer state than the one it was
made for, once the conflict table has allowed that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, TypeAlias

import msgspec

from lakefmt.errors import AlreadyExists, Conflict
from lakefmt.fragment.meta import ColumnFile, Fragment, Overlay, Slice
from lakefmt.htypes import TensorDef
from lakefmt.versioning.records import ROW_ID_BITS, Operation, State, Touch

replace = msgspec.structs.replace


@dataclass(frozen=True, slots=True)
class Append:
    """New rows at the end."""

    fragment: Fragment


@dataclass(frozen=True, slots=True)
class Delete:
    """Rows deleted: per fragment, all its deleted rows (earlier ones included)."""

    deleted: Mapping[str, Slice]


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
class EditTensor:
    """A tensor's definition replaced. ``only_classes``: nothing but class names or dtype were added to it."""

    definition: TensorDef
    only_classes: bool = False


@dataclass(frozen=True, slots=True)
class SetInfo:
    """The dataset's metadata replaced."""

    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Name:
    """Nothing changes; the version gets a message."""


Change: TypeAlias = Append | Delete | Update | AddTensor | WriteColumn | EditTensor | SetInfo | Name


def fold(state: State, changes: list[Change]) -> State:
    """The state after the changes."""
    return reduce(_apply, changes, state)


def _apply(state: State, change: Change) -> State:
    match change:
        case Append(fragment):
            first = (state.id_space << ROW_ID_BITS) + state.next_row
            placed = replace(fragment, first_id=first)
            return replace(state, fragments=(*state.fragments, placed), next_row=state.next_row + fragment.rows)
        case Delete(deleted):
            return _edit(state, deleted, lambda f, d: replace(f, deleted=d))
        case Update(overlays):
            return _edit(state, overlays, lambda f, o: replace(f, overlays=(*f.overlays, *o)))
        case AddTensor(definition):
            if state.tensor(definition.name) is not None:
                raise AlreadyExists(f"tensor {definition.name!r} exists already")
            return replace(state, tensors=(*state.tensors, definition))
        case WriteColumn(files, field_id):
            if any(f.id in files and f.field(field_id) is not None for f in state.fragments):
                raise Conflict("another writer has given these rows samples of the same tensor meanwhile; refresh() and redo")
            return _edit(state, files, lambda f, new: replace(f, files=(*f.files, *new)))
        case EditTensor(definition):
            if all(t.id != definition.id for t in state.tensors):
                raise Conflict(f"tensor {definition.name!r} was deleted meanwhile; refresh and redo")
            return replace(state, tensors=tuple(definition if t.id == definition.id else t for t in state.tensors))
        case SetInfo(info):
            return replace(state, info=dict(info))
        case Name():
            return state


def _edit(state: State, by_fragment: Mapping[str, Any], fn: Callable[[Fragment, Any], Fragment]) -> State:
    """Replace the fragments named; all must be there."""
    missing = set(by_fragment) - {f.id for f in state.fragments}
    if missing:
        raise Conflict(f"{len(missing)} of the fragments this change was made for are gone; refresh and redo")
    return replace(state, fragments=tuple(fn(f, by_fragment[f.id]) if f.id in by_fragment else f for f in state.fragments))


def touch(change: Change) -> Touch:
    """What a change touches, for the conflict table and the log."""
    match change:
        case Append(fragment):
            tensors = tuple(e.id for file in fragment.files for e in file.fields)
            return Touch(operation=Operation.APPEND, fragments=(fragment.id,), tensors=tensors, rows=fragment.rows)
        case Delete(deleted):
            return Touch(operation=Operation.DELETE, fragments=tuple(deleted), rows=sum(d.count for d in deleted.values()))
        case Update(overlays):
            parts = [o for group in overlays.values() for o in group]
            tensors = tuple(dict.fromkeys(o.field_id for o in parts))
            rows = sum(o.at.count for o in parts)
            names = ("fill",) if change.fills else ()
            return Touch(operation=Operation.UPDATE, fragments=tuple(overlays), tensors=tensors, names=names, rows=rows)
        case AddTensor(definition):
            return Touch(operation=Operation.ADD_TENSOR, tensors=(definition.id,), names=(definition.name,))
        case WriteColumn(files, field_id):
            return Touch(operation=Operation.WRITE_COLUMN, fragments=tuple(files), tensors=(field_id,))
        case EditTensor(definition, only_classes):
            names = ("classes",) if only_classes else ()
            return Touch(operation=Operation.EDIT_SCHEMA, tensors=(definition.id,), names=names)
        case SetInfo():
            return Touch(operation=Operation.CONFIG, names=("info",))
        case Name():
            return Touch(operation=Operation.NAME)
