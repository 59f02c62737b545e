"""The shuffle buffer of a window order over a remote source: units are read whole, ahead of the rows drawn
from them.

While rows of one group are handed out, the units of the next are read, as many as the share of the group
consumed so far; so loading is spread evenly, and at most two groups are in memory. An epoch begins at once: rows
of the group it starts in are read one by one where their unit is not there yet, and its units are read alongside
at double the pace, so that by half of it nothing more is read singly. (Filling the buffer first would have
training wait for it.) Units are asked for some at a time, so that requests run in parallel.

The pool stands before the source and answers ``gather`` itself where it can. It is driven by the thread that
walks the steps, and needs none of its own. Of several ranks each has a pool of its own lanes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lakefmt.cells import Array, Cells, Dense, Encoded, Ragged, Rows, Strings
from lakefmt.htypes import TensorDef
from lakefmt.loaders.engine import cut
from lakefmt.loaders.plan import Window
from lakefmt.loaders.steps import Step
from lakefmt.rows import RowSource

#: Units asked for together.
LOT_UNITS = 16


class UnitPool:
    """A ``RowSource`` for one epoch of one consumer, which has the rows of ``lanes``."""

    def __init__(self, source: RowSource, names: tuple[str, ...], order: Window, epoch: int, lanes: Sequence[int]) -> None:
        self._source, self._names, self._order, self._epoch, self._lanes = source, names, order, epoch, lanes
        self._units: dict[int, dict[str, Cells]] = {}
        self._group = self._first_group = -1
        self._parts: dict[int, list[int]] = {}

    # what the pool adds -----------------------------------------------------------------

    def feed(self, blocks: Iterator[list[Step]]) -> Iterator[list[Step]]:
        """The steps of ``blocks``, with the units ahead of each read before it is handed on."""
        for block in blocks:
            for step in block:
                self._reach(step.end)
                yield [step]

    def _reach(self, end: int) -> None:
        """Prepare for the step that ends at position ``end``: forget what is behind it, read a share of what is ahead."""
        order = self._order
        group = order.group_of(end - 1)
        if self._first_group < 0:
            self._first_group = group
        if group != self._group:
            self._group = group
            needed = {unit for g in (group, group + 1) for unit in self._part(g, 1.0)}
            for unit in self._units.keys() - needed:
                del self._units[unit]
        from_, to = order.group_bounds(group)
        share = (end - from_) / (to - from_)
        wanted = self._part(group, min(1.0, 2 * share)) if group == self._first_group else self._part(group, 1.0)
        self._read([*wanted, *self._part(group + 1, share)])

    def _part(self, group: int, share: float) -> list[int]:
        """The first units of a group, whole lots of ``LOT_UNITS``."""
        if group not in self._parts:
            self._parts = {g: p for g, p in self._parts.items() if g >= group - 1}
            self._parts[group] = self._order.units(self._epoch, group, self._lanes).tolist()
        units = self._parts[group]
        return units[: math.ceil(len(units) * share / LOT_UNITS) * LOT_UNITS]

    def _read(self, units: list[int]) -> None:
        """Read those of ``units`` that are not there yet, all together."""
        missing = [unit for unit in dict.fromkeys(units) if unit not in self._units]
        if not missing:
            return
        size = self._order.unit_rows
        rows = [np.arange(unit * size, min(len(self._source), (unit + 1) * size), dtype=np.int64) for unit in missing]
        ends = np.cumsum([len(r) for r in rows]).tolist()
        cells = {name: self._source.gather(name, np.concatenate(rows)) for name in self._names}
        for unit, begin, end in zip(missing, [0, *ends], ends, strict=False):
            self._units[unit] = {name: owned(cut(c, begin, end)) for name, c in cells.items()}

    def gather(self, name: str, rows: Rows, out: Array | None = None) -> Cells:
        """As the source's; from memory where the row's unit is there."""
        units = rows // self._order.unit_rows
        pooled = np.isin(units, np.fromiter(self._units, np.int64, len(self._units)))
        if not pooled.any():
            return self._source.gather(name, rows, out)
        parts: list[tuple[Rows, Cells, Rows | None]] = []  # where the samples go, the cells, which of them
        for unit in np.unique(units[pooled]).tolist():
            places = np.flatnonzero(units == unit)
            parts.append((places, self._units[unit][name], rows[places] - unit * self._order.unit_rows))
        rest = np.flatnonzero(~pooled)
        if rest.size:
            parts.append((rest, self._source.gather(name, rows[rest]), None))
        return _joined(len(rows), parts, out)

    # what it leaves to the source -------------------------------------------------------

    def __len__(self) -> int:
        return len(self._source)

    @property
    def definitions(self) -> Mapping[str, TensorDef]:
        return self._source.definitions

    def uniform(self, name: str) -> tuple[tuple[int, ...], str] | None:
        return self._source.uniform(name)

    def row_ids(self, rows: Rows) -> Rows:
        return self._source.row_ids(rows)

    def unit_rows(self) -> int:
        return self._source.unit_rows()

    def mean_nbytes(self, name: str) -> float:
        return self._source.mean_nbytes(name)

    def is_local(self) -> bool:
        return self._source.is_local()

    def nbytes_read(self) -> int:
        return self._source.nbytes_read()

    def identity(self) -> dict[str, Any]:
        return self._source.identity()


def owned(cells: Cells) -> Cells:
    """A part of some cells in memory of its own, so that forgetting it frees it."""
    match cells:
        case Dense(values):
            return Dense(values.copy())
        case Strings(values, is_json):
            return Strings(values.take(pa.array(np.arange(len(values)))), is_json)
    return cells


def _joined(n: int, parts: list[tuple[Rows, Cells, Rows | None]], out: Array | None) -> Cells:
    """One cells object of ``n`` samples out of parts: samples ``picks`` (all: ``None``) of some cells, put at
    ``places``.
    """
    if out is not None:
        for places, cells, picks in parts:
            assert isinstance(cells, Dense)  # the source promised one shape
            out[places] = cells.values if picks is None else cells.values[picks]
        return Dense(out)
    kinds = [cells for _, cells, _ in parts]
    if isinstance(kinds[0], Strings):
        texts = [c.values if p is None else c.values.take(p) for _, c, p in parts if isinstance(c, Strings)]
        back = np.argsort(np.concatenate([places for places, _, _ in parts]))
        return Strings(pa.concat_arrays(texts).take(back), kinds[0].is_json)
    samples: list[Any] = [None] * n
    for places, cells, picks in parts:
        chosen = range(len(cells)) if picks is None else picks.tolist()
        for place, i in zip(places.tolist(), chosen, strict=True):
            samples[place] = cells.values[i]
    return Encoded(samples, kinds[0].codec) if isinstance(kinds[0], Encoded) else Ragged(samples)
