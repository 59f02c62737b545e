"""The shuffle buffer of a window order over a remote source: units are read whole, ahead of the rows drawn
from them.

While rows of one group are handed out, the units of the next are read, as many as the share of the group
consumed so far; so loading is spread evenly, at most two groups are in memory, and an epoch begins at once:
rows of the group it starts in are read one by one, as they would be without a pool. (Filling the buffer first
would have training wait for it.)

The pool stands before the source and answers ``gather`` itself where it can. It is driven by the thread that
walks the steps, and needs none of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from lakefmt.cells import Array, Cells, Dense, Encoded, Ragged, Rows, Strings
from lakefmt.htypes import TensorDef
from lakefmt.loaders.plan import Window
from lakefmt.loaders.steps import Step
from lakefmt.rows import RowSource


class UnitPool:
    """A ``RowSource`` for one epoch of one consumer."""

    def __init__(self, source: RowSource, names: tuple[str, ...], order: Window, epoch: int) -> None:
        self._source, self._names, self._order, self._epoch = source, names, order, epoch
        self._units: dict[int, dict[str, Cells]] = {}
        self._group = -1

    # what the pool adds -----------------------------------------------------------------

    def feed(self, steps: Iterator[Step]) -> Iterator[Step]:
        """``steps``, with the units ahead of each read before it is handed on."""
        begin: int | None = None
        for step in steps:
            self._reach(step.end - len(step.rows) if begin is None else begin, step.end)
            begin = step.end
            yield step

    def _reach(self, begin: int, end: int) -> None:
        """Prepare for positions [begin, end): forget groups before them, read a share of the group behind
        them.
        """
        first, last = self._order.group_of(self._epoch, np.array([begin, end - 1], np.int64)).tolist()
        if first != self._group:
            self._group = first
            needed = {u for g in range(first, last + 2) for u in self._order.units(self._epoch, g).tolist()}
            for unit in [u for u in self._units if u not in needed]:
                del self._units[unit]
        from_, to = self._order.group_bounds(self._epoch, last)
        ahead = self._order.units(self._epoch, last + 1)
        for unit in ahead[: -(-len(ahead) * (end - from_) // (to - from_))].tolist():
            if unit not in self._units:
                self._units[unit] = self._read(unit)

    def _read(self, unit: int) -> dict[str, Cells]:
        size = self._order.unit_rows
        rows = np.arange(unit * size, min(len(self._source), (unit + 1) * size), dtype=np.int64)
        return {name: self._source.gather(name, rows) for name in self._names}

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

    def identity(self) -> dict[str, Any]:
        return self._source.identity()


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
