"""From what is buffered to the changes that store it: files written, rows found again where another commit has moved them.

Rows are buffered by their position in one version (``base``) and committed on another (``at``): the same, or the newer one that a
rerun builds on. Positions become row ids by the first and places by the second.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa

from lakefmt.cells import Rows
from lakefmt.compact import rewritten
from lakefmt.fragment.columns import Column, new_column
from lakefmt.fragment.meta import ColumnFile, Fragment, Overlay, Slice
from lakefmt.fragment.write import new_key, put_light, write_files, write_inline
from lakefmt.htypes import TensorDef
from lakefmt.pending import Pending
from lakefmt.rebase import known, padded, remapped, spread
from lakefmt.snapshot import Snapshot
from lakefmt.storage import Store
from lakefmt.versioning.changes import Append, Change, Compact, Delete, Group, Update, WriteColumn
from lakefmt.versioning.leaves import INLINE_MAX
from lakefmt.versioning.records import Version

#: Buffered rows up to this size go into the version object itself, when they are flushed and not committed.
TINY_NBYTES = 8 << 10
#: Files of rows, and their bytes, that a version object carries before they are folded into a fragment; see ``fold_due``.
TINY_FILES_MAX = 32
TINY_CARRIED_NBYTES = 128 << 10


@dataclass(slots=True)
class Outgoing:
    """Where changes are written for.

    Attributes:
        store: where files go.
        base: the version that positions refer to.
        at: the version the changes are made for.
        remaps: per tensor, my class ids in the order that ``at`` has given to the names.
        inline: takes the files that go into the version object; ``None``: none may.
    """

    store: Store
    base: Snapshot
    at: Snapshot
    remaps: Mapping[str, Rows] = field(default_factory=dict)
    inline: dict[str, bytes] | None = None

    def places(self, rows: Rows) -> tuple[Rows, Rows]:
        """Fragment (-1: deleted, and folded away since) and offset of rows, given by their position in ``base``."""
        if not len(rows):
            return rows, rows
        if self.base is self.at:
            return self.base.locate(rows)
        return self.at.find_ids(self.base.row_ids(rows))


def pending_changes(out: Outgoing, pending: Pending) -> tuple[list[Change], str]:
    """The changes that store what is buffered; and the id of the fragment with the new rows ('' if there are none)."""
    definitions = {t.id: pending.definitions.get(t.id, t) for t in out.base.version.state.tensors}
    stored = len(out.base)
    rows = pending.rows(stored) - stored
    fresh: list[tuple[TensorDef, Column]] = []
    changes: list[Change] = []
    for field_id, tail in pending.tails.items():
        definition = definitions[field_id]
        cut = min(max(0, stored - tail.begin), len(tail.column))
        if cut:
            changes += fill(out, definition, tail.column.slice(0, cut), tail.begin)
        if cut < len(tail.column):
            column = tail.column.slice(cut, len(tail.column)) if cut else tail.column
            column = remapped(column, out.remaps.get(definition.name))
            fresh.append((definition, padded(column, definition, max(0, tail.begin - stored))))
    appended = ""
    if rows:
        fragment = _appended(out, fresh, rows, sum(c.nbytes for _, c in fresh))
        appended = fragment.id
        changes.append(Append(fragment))
    overlays: dict[str, tuple[Overlay, ...]] = {}
    for field_id, patches in pending.updates.items():
        at, column = patches.latest()
        column = remapped(column, out.remaps.get(definitions[field_id].name))
        for target, overlay in patched(out, definitions[field_id], at, column).items():
            overlays[target] = (*overlays.get(target, ()), overlay)
    return ([*changes, Update(overlays)] if overlays else changes), appended


def _appended(out: Outgoing, columns: list[tuple[TensorDef, Column]], rows: int, nbytes: int) -> Fragment:
    """A fragment with new rows: in the version object where they are few, else in files."""
    files: tuple[ColumnFile, ...] | None = None
    if out.inline is not None and nbytes <= TINY_NBYTES:
        made = write_inline(columns, rows)
        if made is not None:
            file, data = made
            out.inline[file.key] = data
            files = (file,)
    if files is None:
        files = write_files(out.store, columns, rows)
    return Fragment(id=uuid.uuid4().hex, rows=rows, first_id=0, files=files)


def fill(out: Outgoing, definition: TensorDef, column: Column, first: int) -> list[Change]:
    """Samples for stored rows from position ``first`` on: a short tensor continued."""
    index, offsets = out.places(np.arange(first, first + len(column)))
    column = remapped(column, out.remaps.get(definition.name))
    return samples_at(out.store, out.at, definition, index, offsets, column, fills=True)


def samples_at(
    store: Store, at: Snapshot, definition: TensorDef, index: Rows, offsets: Rows, column: Column, *, fills: bool
) -> list[Change]:  # fmt: skip
    """Samples for rows at some places: whole columns for fragments that lack the tensor, updates for the others.

    Args:
        index, offsets: fragment (-1: nowhere, left out) and row offset of each sample.
        fills: the rows had no sample before.
    """
    order = np.lexsort((offsets, index))
    column, index, offsets = _picked(column, index, offsets, order[index[order] >= 0])
    files: dict[str, tuple[ColumnFile, ...]] = {}
    others: list[Rows] = []
    for start, stop in pairwise(np.flatnonzero(np.diff(index, prepend=-1, append=-1)).tolist()):
        fragment = at.fragments[int(index[start])]
        lacking = not fragment.holds(definition.id)
        first = at.remaining(fragment)[:1]  # none where all its rows are deleted: these come back with this very change
        if lacking and (not len(first) or offsets[start] == first[0]):  # else another piece has the beginning
            here = spread(column.slice(start, stop), definition, offsets[start:stop])
            files[fragment.id] = write_files(store, [(known(definition), here)], fragment.rows)
        else:
            others.append(np.arange(start, stop))
    changes: list[Change] = [WriteColumn(files, definition.id)] if files else []
    if others:
        made = overlays_at(store, at, definition, *_placed(column, index, offsets, np.concatenate(others)))
        changes.append(Update({f: (o,) for f, o in made.items()}, fills=fills))
    return changes


def _placed(column: Column, index: Rows, offsets: Rows, order: Rows) -> tuple[Rows, Rows, Column]:
    column, index, offsets = _picked(column, index, offsets, order)
    return index, offsets, column


def _picked(column: Column, index: Rows, offsets: Rows, order: Rows) -> tuple[Column, Rows, Rows]:
    """Samples and their places in another order."""
    if len(order) == len(column) and np.array_equal(order, np.arange(len(order))):
        return column, index, offsets
    return column.pick(order), index[order], offsets[order]


def patched(out: Outgoing, definition: TensorDef, rows: Rows, column: Column) -> dict[str, Overlay]:
    """Samples for some rows of a tensor, as one set of files with a slice a fragment."""
    index, offsets = out.places(rows)
    return overlays_at(out.store, out.at, definition, index, offsets, column)


def overlays_at(
    store: Store, at: Snapshot, definition: TensorDef, index: Rows, offsets: Rows, column: Column
) -> dict[str, Overlay]:  # fmt: skip
    """Samples for rows at some places (fragment -1: nowhere, left out), as one set of files with a slice a fragment."""
    order = np.lexsort((offsets, index))
    column, index, offsets = _picked(column, index, offsets, order[index[order] >= 0])
    if not len(index):
        return {}
    kept = _kept(known(definition), column)
    files = write_files(store, [(known(definition), kept)], len(kept), folder="overlays", offsets=offsets)
    out: dict[str, Overlay] = {}
    for start, stop in pairwise(np.flatnonzero(np.diff(index, prepend=-1, append=-1)).tolist()):
        part = Slice(file=files[0], start=start, count=stop - start)
        out[at.fragments[int(index[start])].id] = Overlay(field_id=definition.id, at=part, files=files)
    return out


def _kept(definition: TensorDef, column: Column) -> Column:
    """The column in the tensor's own dtype (samples that were all missing had none)."""
    fresh = new_column(definition)
    fresh.extend(column)
    return fresh


def deletions(store: Store, at: Snapshot, ids: Rows) -> list[Change]:
    """Rows deleted, by row id: one file with, for each fragment concerned, all offsets deleted from it so far."""
    index, offsets = at.find_ids(ids)
    lists: dict[str, Rows] = {}
    for i in np.unique(index[index >= 0]).tolist():
        fragment = at.fragments[i]
        before = at.offsets(fragment.deleted, fragment) if fragment.deleted else np.empty(0, np.int64)
        lists[fragment.id] = np.union1d(before, offsets[index == i])
    return [Delete(deletion_slices(store, lists))] if lists else []


def deletion_slices(store: Store, lists: Mapping[str, Rows]) -> dict[str, Slice | None]:
    """Offsets deleted from some fragments, written as one file; ``None`` for a fragment from which none is."""
    some = {f: x for f, x in lists.items() if len(x)}
    out: dict[str, Slice | None] = {f: None for f, x in lists.items() if not len(x)}
    if some:
        file = put_light(store, new_key("dv"), pa.table({"_offset": pa.array(np.concatenate(list(some.values())), pa.int64())}))
        start = 0
        for f, x in some.items():
            out[f] = Slice(file=file, start=start, count=len(x))
            start += len(x)
    return out


def fold_due(version: Version) -> bool:
    """Whether who commits on top of a version is to fold the rows that lie in it.

    At one number of files, and not from it on: of several writers, each of which stands on the version that it has made itself,
    one finds that number, and the others go on while it folds. (Eight that all folded did six times the work.)
    """
    files = len(version.inline)
    if files and len(version.state.fragments) > INLINE_MAX:
        return True  # what lies in the version is in front of fragments that should go to a leaf
    turn = files >= TINY_FILES_MAX and files % (TINY_FILES_MAX // 2) == 0
    return turn or files >= 2 * TINY_FILES_MAX or sum(map(len, version.inline.values())) >= TINY_CARRIED_NBYTES


def folded(store: Store, at: Snapshot, *, leave: Sequence[str] = ()) -> list[Change]:
    """The rows that lie in the version object, written as fragments.

    Args:
        leave: ids of fragments to leave as they are.
    """
    state = at.version.state
    if not at.version.inline:
        return []
    first_inline = len(at.fragments) - len(state.fragments)
    flags = [f.inlined and f.id not in leave for f in state.fragments]
    return [Compact(tuple(_folds(store, at, flags, first_inline)))] if any(flags) else []


def _folds(store: Store, at: Snapshot, flags: list[bool], first: int) -> Iterable[Group]:
    start = None
    for i, inlined in enumerate([*flags, False]):
        if inlined and start is None:
            start = i
        elif not inlined and start is not None:
            yield rewritten(store, at, first + start, first + i)
            start = None
