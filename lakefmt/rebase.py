"""Fitting buffered samples to a state they were not made for: class ids renumbered, gaps filled, definitions merged."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import msgspec
import numpy as np

from lakefmt.cells import Rows
from lakefmt.errors import Conflict
from lakefmt.fragment.columns import Column, NumericColumn, missing_column, new_column
from lakefmt.htypes import TensorDef, extend_class_names
from lakefmt.versioning.changes import Change, Edit, EditTensor
from lakefmt.versioning.records import State


def known(definition: TensorDef) -> TensorDef:
    """A definition whose dtype is known; a tensor of nothing but missing samples is written as float64."""
    untyped = definition.dtype is None
    return msgspec.structs.replace(definition, dtype="float64") if untyped else definition


def padded(column: Column, definition: TensorDef, gap: int) -> Column:
    """``gap`` missing samples, then the column."""
    if not gap:
        return column
    out = missing_column(known(definition), gap)
    out.extend(column)
    return out


def spread(column: Column, definition: TensorDef, offsets: Rows) -> Column:
    """Samples at their row offsets, missing ones between (where rows were deleted)."""
    if int(offsets[-1]) == len(offsets) - 1:
        return column
    out = new_column(known(definition))
    for start, stop in runs_of(offsets):
        gap = int(offsets[start]) - len(out)
        if gap:
            out.extend(missing_column(known(definition), gap))
        out.extend(column.slice(start, stop))
    return out


def runs_of(rows: Rows) -> list[tuple[int, int]]:
    """Where consecutive numbers follow each other: ``[start, stop)`` of each run."""
    cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return list(pairwise(cuts)) if len(rows) else []


def class_edits(state: State, edited: Mapping[int, TensorDef]) -> tuple[list[Change], dict[str, Rows]]:
    """Edits that bring a state's definitions up to mine; and, where class ids moved, the map from my ids to the new ones."""
    changes: list[Change] = []
    remaps: dict[str, Rows] = {}
    for definition in edited.values():
        now = next((t for t in state.tensors if t.id == definition.id), None)
        if now is None:
            raise Conflict(f"tensor {definition.name!r} was deleted meanwhile; discard() drops its buffered rows")
        if now.dtype is not None and now.dtype != definition.dtype:
            raise Conflict(
                f"tensor {definition.name!r}: another writer's first sample made it {now.dtype}, mine is {definition.dtype}. "
                f"Nothing was committed: discard() drops the buffered rows, refresh() shows theirs; append {now.dtype} samples then"
            )
        merged = msgspec.structs.replace(now, dtype=definition.dtype)
        if definition.is_label and (now.class_names, definition.class_names).count(None) == 1:
            if now.class_names or definition.class_names:
                raise Conflict(
                    f"tensor {definition.name!r}: another writer's class ids have {'names' if now.class_names else 'no names'}, "
                    f"and those buffered here have {'none' if now.class_names else 'some'}; nothing was committed: "
                    "discard() drops the buffered rows, refresh() shows theirs"
                )
            merged = msgspec.structs.replace(merged, class_names=None)
        if definition.class_names:
            merged = extend_class_names(merged, definition.class_names)
            names = merged.class_names or ()
            ids = np.array([names.index(n) for n in definition.class_names], np.int64)
            if not np.array_equal(ids, np.arange(len(ids))):
                remaps[definition.name] = ids
        if merged != now:
            changes.append(EditTensor(merged, Edit.CLASSES))
    return changes, remaps


def remapped(column: Column, ids: Rows | None) -> Column:
    """Class ids translated to those of the state committed on."""
    if ids is None or not isinstance(column, NumericColumn):
        return column
    out = NumericColumn(column.dtype.name)
    present = [c for c in column.chunks if not isinstance(c, list)] + [s for c in column.chunks if isinstance(c, list) for s in c]
    if any(s is not None and s.size and int(s.max()) >= len(ids) for s in present):
        raise Conflict(
            "class ids without a name are buffered, and another writer gave names to new ids meanwhile; nothing was committed: "
            "discard() drops the buffered rows; append class names instead of ids"
        )
    for chunk in column.chunks:
        if isinstance(chunk, list):
            for sample in chunk:
                out.add(None if sample is None else np.asarray(ids[sample], column.dtype))
        else:
            out.add_block(ids[chunk].astype(column.dtype))
    return out
