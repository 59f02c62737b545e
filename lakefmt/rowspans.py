"""One-dimensional samples of a version: how long each is and where it lies, for all rows at once, by vectorised steps a fragment.

Updates are laid over the fragment's own samples, oldest first, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lakefmt.cells import Rows
from lakefmt.errors import ShapeError
from lakefmt.fragment.meta import ColumnFile
from lakefmt.fragment.spans import NO_VECTOR, Area, Spans, addressable, file_lengths, file_spans, mapped_nbytes_max
from lakefmt.htypes import TensorDef

if TYPE_CHECKING:
    from lakefmt.snapshot import Snapshot


def row_lengths(snapshot: Snapshot, name: str, rows: Rows) -> Rows:
    """Elements of the samples of some rows, int64 (n,); -1 for a missing sample. See ``Snapshot.lengths``."""
    definition = snapshot.definition(name)
    out = np.full(len(rows), -1, np.int64)
    for files, at, offsets in _parts(snapshot, definition, rows):
        out[at] = file_lengths(snapshot.reader, definition, files, offsets)
    odd = np.flatnonzero(out == NO_VECTOR)
    if len(odd):
        (shape,) = snapshot.shapes(name, rows[odd[:1]])
        row = int(rows[odd[0]])
        raise ShapeError(f"{snapshot.url}: row {row} of tensor {name!r} has shape {shape}; samples of one dimension are needed")
    return out


def row_spans(snapshot: Snapshot, name: str, rows: Rows) -> Spans | None:
    """The places of the samples of some rows. See ``Snapshot.spans``."""
    definition, reader = snapshot.definition(name), snapshot.reader
    store = reader.store
    if not store.is_local and not all(store.holds(f.key) for f in snapshot.objects([name], rows)):
        return None  # what comes over a network comes in pages, which are checked
    numbers: dict[Area, int] = {}
    area, start, length = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for files, at, offsets in _parts(snapshot, definition, rows):
        if not addressable(definition, files):
            return None
        here, start[at], length[at] = file_spans(reader, definition, files, offsets)
        if here is not None:
            area[at] = numbers.setdefault(here, len(numbers))
    mapped = sum(a.file.size for a in numbers if a.field is None) <= mapped_nbytes_max()
    return Spans(reader, tuple(numbers), mapped, area, start, length)


def _parts(snapshot: Snapshot, definition: TensorDef, rows: Rows) -> Iterator[tuple[tuple[ColumnFile, ...], Rows, Rows]]:
    """Files, the places in ``rows`` of what they hold, and the row offsets in them; later ones win."""
    for fragment, at, offsets in snapshot.by_fragment(rows):
        yield fragment.files, at, offsets
        for overlay in fragment.overlays_of(definition.id):
            changed = snapshot.offsets(overlay.at, fragment)
            found = np.searchsorted(changed, offsets)
            hit = np.flatnonzero((found < len(changed)) & (changed[np.minimum(found, len(changed) - 1)] == offsets))
            if len(hit):
                yield overlay.files, at[hit], found[hit] + overlay.at.start
