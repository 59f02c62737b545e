"""Compaction: the same rows, with the same row ids, in fewer and cleaner files.

Deletions and updates are folded in, small fragments joined, columns of dropped tensors left out. What is replaced stays in the
store for the versions that refer to it, until these expire.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from lakefmt.cells import Dense, Encoded, Ragged, Rows, Strings
from lakefmt.fragment.columns import BytesColumn, Column, NumericColumn, TextColumn, new_column
from lakefmt.fragment.meta import Fragment, Slice
from lakefmt.fragment.write import new_key, put_light, write_files
from lakefmt.htypes import TensorDef
from lakefmt.rebase import known
from lakefmt.snapshot import Snapshot
from lakefmt.storage import Store
from lakefmt.versioning.changes import Group
from lakefmt.versioning.records import Version

#: Fragments below this size are joined with their neighbours.
SMALL_NBYTES = 16 << 20
#: Bytes of a fragment made by compaction; what is held in memory.
TARGET_NBYTES = 128 << 20
#: Small fragments in a row from which on they are joined.
SMALL_MIN = 2


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring fragments to be written as one.

    Attributes:
        first, stop: the fragments, by place in the version.
        rows: rows they have, less the deleted.
        nbytes: bytes of their samples, before compression.
        deleted: deleted rows that go.
        overlays: updates that are folded in.
    """

    first: int
    stop: int
    rows: int
    nbytes: int
    deleted: int
    overlays: int

    @property
    def fragments(self) -> int:
        """How many they are."""
        return self.stop - self.first


def plan(snapshot: Snapshot) -> list[Part]:
    """What compaction would rewrite: fragments with deletions or updates, and runs of small ones."""
    field_ids = {t.id for t in snapshot.version.state.tensors}
    parts: list[Part] = []
    run: list[tuple[int, Fragment]] = []
    size = 0

    def close() -> None:
        worth = len(run) >= SMALL_MIN or any(f.deleted or f.overlays or f.inlined for _, f in run)
        if run and worth:
            deleted, overlays = sum(f.rows - f.live for _, f in run), sum(len(f.overlays) for _, f in run)
            parts.append(Part(run[0][0], run[-1][0] + 1, sum(f.live for _, f in run), size, deleted, overlays))
        run.clear()

    for i, fragment in enumerate(snapshot.fragments):
        nbytes = _nbytes(fragment, field_ids)
        stays = nbytes >= SMALL_NBYTES and not (fragment.deleted or fragment.overlays)
        if stays or (run and size + nbytes > TARGET_NBYTES):
            close()
            size = 0
        if not stays:
            run.append((i, fragment))
            size += nbytes
    close()
    return parts


def _nbytes(fragment: Fragment, field_ids: set[int]) -> int:
    """Bytes of the samples of a fragment that are still reachable."""
    files = [*fragment.files, *(f for o in fragment.overlays for f in o.files)]
    total = sum(e.nbytes for f in files for e in f.fields if e.id in field_ids)
    return total * fragment.live // fragment.rows if fragment.rows else 0


def rewritten(store: Store, snapshot: Snapshot, first: int, stop: int) -> Group:
    """Write some neighbouring fragments as one."""
    old = snapshot.fragments[first:stop]
    snapshot = _only(snapshot, old)  # what is common to all of the dataset need not be known
    start, end = 0, len(snapshot)
    names = tuple(f.id for f in old)
    if start == end:
        return Group(names, ())
    rows = np.arange(start, end)
    columns = [(known(d), column) for d in snapshot.definitions.values() if len(column := _column(snapshot, d, old, rows))]
    files = write_files(store, columns, len(rows))
    ids = snapshot.row_ids(rows)
    listed: Slice | None = None
    if not np.array_equal(ids, np.arange(ids[0], ids[0] + len(ids))):
        listed = id_list(store, ids)
    return Group(names, (Fragment(id=uuid.uuid4().hex, rows=len(rows), first_id=int(ids[0]), files=files, ids=listed),))


def _only(snapshot: Snapshot, fragments: Sequence[Fragment]) -> Snapshot:
    """Just some fragments of a version."""
    version = snapshot.version
    state = msgspec.structs.replace(version.state, leaves=(), overrides=(), fragments=tuple(fragments))
    return Snapshot(snapshot.reader, Version(version.head, state, "", version.inline), snapshot.url)


def id_list(store: Store, ids: Rows) -> Slice:
    """Row ids as a file of their own."""
    file = put_light(store, new_key("data"), pa.table({"_offset": pa.array(ids, pa.int64())}))
    return Slice(file=file, start=0, count=len(ids))


def _column(snapshot: Snapshot, definition: TensorDef, old: Sequence[Fragment], rows: Rows) -> Column:
    """A tensor's samples at these rows, up to the last one that was ever written (a short tensor stays short)."""
    written = int(max((end for end in _ends(snapshot, definition, old)), default=0))
    if not written:
        return new_column(known(definition))
    return gathered(snapshot, definition.name, rows[:written], definition)


def _ends(snapshot: Snapshot, definition: TensorDef, old: Sequence[Fragment]) -> Iterator[int]:
    """For each fragment that has samples of a tensor: how many live rows there are up to its last one."""
    before = 0
    for fragment in old:
        found = fragment.field(definition.id)
        ends = [found[1].rows] if found and found[1].rows else []
        ends += [int(snapshot.offsets(o.at, fragment).max()) + 1 for o in fragment.overlays_of(definition.id)]
        if ends:
            end = max(ends)
            inside = end if not fragment.deleted else int(np.searchsorted(snapshot.remaining(fragment), end))
            if inside:
                yield before + inside
        before += fragment.live


def gathered(snapshot: Snapshot, name: str, rows: Rows, definition: TensorDef) -> Column:
    """Samples at some rows, as a column for ``definition``; encoded ones stay as they are."""
    cells = snapshot.gather(name, rows)
    column = new_column(known(definition))
    match cells:
        case Dense(values) if isinstance(column, NumericColumn):
            column.add_block(np.ascontiguousarray(values, column.dtype))
        case Ragged(values) if isinstance(column, NumericColumn):
            for value in values:
                column.add(None if value is None else np.asarray(value, column.dtype))
        case Encoded(values) if isinstance(column, BytesColumn):
            for data, shape in zip(values, snapshot.shapes(name, rows), strict=True):
                column.add(data, shape)
        case Strings(values) if isinstance(column, TextColumn):
            column.add_arrow(values.cast(pa.large_string()))
    return column
