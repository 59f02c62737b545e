"""What many fragments have in common for one tensor, so that a question about all rows need not look at every fragment again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lakefmt.fragment.meta import LIGHT, Field, Fragment, Record


class FieldStats(Record, frozen=True):
    """One tensor over some fragments.

    Attributes:
        shape: the shape of every sample, when all are there and agree.
        gaps: whether some sample may be missing.
        rows, nbytes: samples stored (updates counted beside what they replace), and their bytes.
        ndim_min, ndim_max: bounds of the number of dimensions of the samples present; ``None``: there are none.
        shape_min, shape_max: bounds of the shapes, where all samples present have as many dimensions and their bounds are known.
        bounded: whether ``shape_min`` and ``shape_max`` say something.
    """

    shape: tuple[int, ...] | None = None
    gaps: bool = False
    rows: int = 0
    nbytes: int = 0
    ndim_min: int | None = None
    ndim_max: int | None = None
    shape_min: tuple[int, ...] | None = None
    shape_max: tuple[int, ...] | None = None
    bounded: bool = True


def field_stats(fragments: Iterable[Fragment], field_id: int) -> FieldStats | None:
    """Summary of one tensor; ``None`` of no fragment at all."""
    found = [_of_fragment(f, field_id) for f in fragments]
    return joined(found)


def joined(parts: Sequence[FieldStats]) -> FieldStats | None:
    """The summary of several together."""
    if not parts:
        return None
    shapes = {p.shape for p in parts}
    some = [p for p in parts if p.ndim_min is not None]
    lows = [p.shape_min for p in some if p.shape_min is not None]
    highs = [p.shape_max for p in some if p.shape_max is not None]
    bounded = all(p.bounded for p in parts) and len(lows) == len(some) and len({len(x) for x in lows}) <= 1
    return FieldStats(
        shape=shapes.pop() if len(shapes) == 1 else None,
        gaps=any(p.gaps for p in parts),
        rows=sum(p.rows for p in parts),
        nbytes=sum(p.nbytes for p in parts),
        ndim_min=min((p.ndim_min for p in some if p.ndim_min is not None), default=None),
        ndim_max=max((p.ndim_max for p in some if p.ndim_max is not None), default=None),
        shape_min=tuple(map(min, zip(*lows, strict=True))) if bounded and lows else None,
        shape_max=tuple(map(max, zip(*highs, strict=True))) if bounded and highs else None,
        bounded=bounded,
    )


def _of_fragment(fragment: Fragment, field_id: int) -> FieldStats:
    found = fragment.field(field_id)
    whole = found is not None and found[1].rows >= fragment.rows
    updates = [e for o in fragment.overlays_of(field_id) for f in o.files for e in f.fields if e.id == field_id]
    entries = [*([found[1]] if found is not None else []), *updates]
    all_there = whole and all(e.missing == 0 for e in entries)
    base = joined([_of_entry(e) for e in entries]) or FieldStats()
    return FieldStats(
        shape=base.shape if all_there else None, gaps=not all_there, rows=base.rows, nbytes=base.nbytes, ndim_min=base.ndim_min,
        ndim_max=base.ndim_max, shape_min=base.shape_min, shape_max=base.shape_max, bounded=base.bounded,
    )  # fmt: skip


def _of_entry(entry: Field) -> FieldStats:
    shape = entry.shape if entry.missing == 0 else None
    if entry.rows == entry.missing:
        return FieldStats(shape=shape, rows=entry.rows, nbytes=entry.nbytes)
    return FieldStats(
        shape=shape, rows=entry.rows, nbytes=entry.nbytes, ndim_min=entry.ndim_min, ndim_max=entry.ndim_max,
        shape_min=entry.shape_min, shape_max=entry.shape_max, bounded=entry.shape_min is not None,
    )  # fmt: skip


def light_nbytes(fragments: Iterable[Fragment]) -> int:
    """Bytes of the light columns, before compression."""
    return sum(e.nbytes for f in fragments for file in f.files for e in file.fields if e.layout in LIGHT)
