"""Rows that are not in storage yet, and reading them together with those that are.

A handle keeps appended samples in one growing column a tensor (``Pending``). ``Live`` shows stored rows, buffered rows and
buffered updates as one sequence; it fixes how many there are, so that it does not change under whoever holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lakefmt.cells import Array, Cells, Dense, Rows
from lakefmt.errors import InvalidInput, NoSuchTensor, nearest
from lakefmt.fragment.columns import BytesColumn, Column, NumericColumn, Shape, missing_column
from lakefmt.fragment.read import missing_cells, place
from lakefmt.htypes import Kind, TensorDef
from lakefmt.snapshot import Snapshot


@dataclass(slots=True)
class Tail:
    """Buffered samples of one tensor, for rows from ``begin`` on."""

    begin: int
    column: Column

    @property
    def end(self) -> int:
        return self.begin + len(self.column)


@dataclass(slots=True)
class Pending:
    """What a handle has not flushed: tails and updates, both by field id."""

    tails: dict[int, Tail] = field(default_factory=dict)
    updates: dict[int, dict[int, Column]] = field(default_factory=dict)
    definitions: dict[int, TensorDef] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        updates = sum(c.nbytes + 64 for rows in self.updates.values() for c in rows.values())
        return updates + sum(t.column.nbytes for t in self.tails.values())

    def __bool__(self) -> bool:
        return bool(self.tails or self.updates)

    def rows(self, stored: int) -> int:
        """Rows of the dataset, buffered ones included."""
        return max([stored, *(t.end for t in self.tails.values())])


class Live:
    """A ``RowSource`` over a snapshot and what is pending on top of it."""

    def __init__(self, snapshot: Snapshot, pending: Pending, definitions: Mapping[str, TensorDef]) -> None:
        self.snapshot = snapshot
        self.definitions = dict(definitions)
        self._tails = {i: Tail(t.begin, t.column) for i, t in pending.tails.items()}
        self._ends = {i: t.end for i, t in pending.tails.items()}
        self._updates = {i: dict(rows) for i, rows in pending.updates.items()}
        self._rows = pending.rows(len(snapshot))

    def __reduce__(self) -> Any:
        raise InvalidInput("these rows are not in storage yet and cannot go to another process: flush() or commit() first")

    def __len__(self) -> int:
        return self._rows

    def definition(self, name: str) -> TensorDef:
        """A tensor by name."""
        try:
            return self.definitions[name]
        except KeyError:
            raise NoSuchTensor(f"{self.snapshot.url} has no tensor {name!r}; {nearest(name, self.definitions)}") from None

    def gather(self, name: str, rows: Rows, out: Array | None = None) -> Cells:
        """See ``RowSource.gather``."""
        definition = self.definition(name)
        rows = np.asarray(rows, np.int64)
        parts: list[tuple[Rows, Cells]] = []
        stored = np.flatnonzero(rows < len(self.snapshot))
        if len(stored) and name in self.snapshot.definitions:
            parts.append((stored, self.snapshot.gather(name, rows[stored])))
        tail = self._tails.get(definition.id)
        if tail is not None:
            here = np.flatnonzero((rows >= tail.begin) & (rows < self._ends[definition.id]))
            if len(here):
                parts.append((here, tail.column.take(rows[here] - tail.begin)))
        updates = self._updates.get(definition.id)
        if updates:
            for i in np.flatnonzero(np.isin(rows, np.fromiter(updates, np.int64, len(updates)))).tolist():
                parts.append((np.array([i]), updates[int(rows[i])].take(np.zeros(1, np.int64))))
        cells = place(definition, len(rows), parts) if parts else missing_cells(definition, len(rows))
        if out is not None and isinstance(cells, Dense):
            out[...] = cells.values
            return Dense(out)
        return cells

    def shapes(self, name: str, rows: Rows) -> list[Shape | None]:
        """Shapes of samples, without decoding them."""
        definition = self.definition(name)
        if definition.kind in (Kind.TEXT, Kind.JSON):
            return [()] * len(rows)
        out: list[Shape | None] = []
        tail = self._tails.get(definition.id)
        tail_shapes = _column_shapes(tail.column) if tail else []
        updates = self._updates.get(definition.id, {})
        for row in np.asarray(rows, np.int64).tolist():
            if row in updates:
                out.append(_column_shapes(updates[row])[0])
            elif tail is not None and tail.begin <= row < self._ends[definition.id]:
                out.append(tail_shapes[row - tail.begin])
            elif row < len(self.snapshot) and name in self.snapshot.definitions:
                out.append(self.snapshot.shapes(name, np.array([row]))[0])
            else:
                out.append(None)
        return out

    def uniform(self, name: str) -> tuple[Shape, str] | None:
        """Unknown while rows are buffered."""
        return None

    def row_ids(self, rows: Rows) -> Rows:
        """Row ids; -1 for a row that is not stored yet."""
        ids = np.full(len(rows), -1, np.int64)
        stored = np.asarray(rows) < len(self.snapshot)
        ids[stored] = self.snapshot.row_ids(np.asarray(rows, np.int64)[stored])
        return ids

    def unit_rows(self) -> int:
        return self.snapshot.unit_rows()

    def mean_nbytes(self, name: str) -> float:
        return self.snapshot.mean_nbytes(name) if name in self.snapshot.definitions else 0.0

    def is_local(self) -> bool:
        return self.snapshot.is_local()

    def identity(self) -> dict[str, Any]:
        return {**self.snapshot.identity(), "pending": self._rows - len(self.snapshot)}


def _column_shapes(column: Column) -> list[Shape | None]:
    assert isinstance(column, (NumericColumn, BytesColumn))
    return column.shapes()


def extended(tail: Tail | None, begin: int, column: Column, definition: TensorDef) -> Tail:
    """A tail with more samples: missing ones fill the gap up to ``begin``."""
    if tail is None or len(tail.column) == 0:
        return Tail(begin, column)
    if begin > tail.end:
        tail.column.extend(missing_column(definition, begin - tail.end))
    if isinstance(tail.column, NumericColumn) and isinstance(column, NumericColumn) and tail.column.dtype != column.dtype:
        # all samples so far were missing, or all new ones are: the dtype was not known yet
        if all(s is None for s in tail.column.samples()):
            tail.column = missing_column(definition, len(tail.column))
        else:
            column = missing_column(definition, len(column))
    tail.column.extend(column)
    return tail
