"""Rows that are not in storage yet, and reading them together with those that are.

A handle keeps appended samples in one growing column a tensor (``Pending``). ``Live`` shows stored rows, buffered rows and
buffered updates as one sequence; it fixes how many there are, so that it does not change under whoever holds it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lakefmt.cells import Array, Cells, Dense, Rows
from lakefmt.errors import InvalidInput, NoSuchTensor, nearest
from lakefmt.fragment.assemble import missing_cells, place
from lakefmt.fragment.columns import Column, NumericColumn, Shape, missing_column, new_column
from lakefmt.htypes import Kind, TensorDef
from lakefmt.snapshot import Snapshot
from lakefmt.storage import Whole

#: What a buffered update costs beside its sample.
_PATCH_NBYTES = 128


@dataclass(slots=True)
class Tail:
    """Buffered samples of one tensor, for rows from ``begin`` on."""

    begin: int
    column: Column

    @property
    def end(self) -> int:
        return self.begin + len(self.column)


class Patches:
    """Buffered new samples of rows of one tensor that are stored already; the newest of a row counts.

    It only grows. Each sample knows the one before it of the same row, so that who saw the first ``n`` goes on seeing just those,
    without a copy.
    """

    def __init__(self, column: Column) -> None:
        self.column = column
        self._newest: dict[int, int] = {}  # row -> its newest sample
        self._before: list[int] = []  # sample -> the one of the same row that it replaced, or -1

    def __len__(self) -> int:
        return len(self._before)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.column.nbytes + _PATCH_NBYTES * len(self._before)

    def add(self, rows: Rows, column: Column, definition: TensorDef) -> None:
        """Take samples for some rows; an interrupt leaves all of them out."""
        first = len(self._before)
        if len(self.column) > first:
            self.column.truncate(first)  # an interrupted call left samples
        newest: dict[int, int] = {}
        before: list[int] = []
        for i, row in enumerate(rows.tolist()):
            before.append(newest.get(row, self._newest.get(row, -1)))
            newest[row] = first + i
        self.column = extended(Tail(0, self.column), first, column, definition).column
        self._before += before
        self._newest.update(newest)

    def find(self, rows: Rows, n: int) -> tuple[Rows, Rows]:
        """Where in ``rows`` there are new ones among the first ``n`` samples, and which samples these are."""
        some = list(range(len(rows)))
        if len(rows) > len(self._newest):
            some = np.flatnonzero(np.isin(rows, np.array(list(self._newest), np.int64))).tolist()
        at, samples = [], []
        for i in some:
            sample = self._newest.get(int(rows[i]), -1)
            while sample >= n:
                sample = self._before[sample]
            if sample >= 0:
                at.append(i)
                samples.append(sample)
        return np.array(at, np.int64), np.array(samples, np.int64)

    def rows(self) -> Rows:
        """Rows with a new sample, ascending."""
        return np.sort(np.array(list(self._newest), np.int64))

    def latest(self) -> tuple[Rows, Column]:
        """Rows with a new sample, ascending, and these samples."""
        rows = self.rows()
        return rows, self.column.pick(np.array([self._newest[r] for r in rows.tolist()], np.int64))


@dataclass(slots=True)
class Pending:
    """What a handle has not flushed: tails and updates, both by field id."""

    tails: dict[int, Tail] = field(default_factory=dict)
    updates: dict[int, Patches] = field(default_factory=dict)
    definitions: dict[int, TensorDef] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(p.nbytes for p in self.updates.values()) + sum(t.column.nbytes for t in self.tails.values())

    def __bool__(self) -> bool:
        return bool(self.tails or self.updates)

    def touched(self, stored: int) -> Rows:
        """Positions of stored rows that get samples."""
        continued = [np.arange(t.begin, min(stored, t.end)) for t in self.tails.values() if t.begin < stored]
        rows = [p.rows() for p in self.updates.values()] + continued
        return np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64)

    def patch(self, definition: TensorDef, rows: Rows, column: Column) -> None:
        """New samples for stored rows of a tensor."""
        if definition.id not in self.updates:
            self.updates[definition.id] = Patches(new_column(definition))
        self.updates[definition.id].add(rows, column, definition)

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
        self._updates = {i: (p, len(p), p.column) for i, p in pending.updates.items()}
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
        if definition.id in self._updates:
            patches, n, column = self._updates[definition.id]
            here, samples = patches.find(rows, n)
            if len(here):
                parts.append((here, column.take(samples)))
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
        rows = np.asarray(rows, np.int64)
        out: list[Shape | None] = [None] * len(rows)
        stored = np.flatnonzero(rows < len(self.snapshot))
        if len(stored) and name in self.snapshot.definitions:
            for i, shape in zip(stored.tolist(), self.snapshot.shapes(name, rows[stored]), strict=True):
                out[i] = shape
        tail = self._tails.get(definition.id)
        if tail is not None:
            for i in np.flatnonzero((rows >= tail.begin) & (rows < self._ends[definition.id])).tolist():
                out[i] = tail.column.shape_at(int(rows[i]) - tail.begin)
        if definition.id in self._updates:
            patches, n, column = self._updates[definition.id]
            for i, sample in zip(*patches.find(rows, n), strict=True):
                out[int(i)] = column.shape_at(int(sample))
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

    def is_local(self, names: Collection[str] | None = None, rows: Rows | None = None) -> bool:
        return self.snapshot.is_local(*self._stored(names, rows))

    def objects(self, names: Collection[str] | None = None, rows: Rows | None = None) -> Iterator[Whole]:
        """See ``Snapshot.objects``: what is buffered is in none."""
        return self.snapshot.objects(*self._stored(names, rows))

    def _stored(self, names: Collection[str] | None, rows: Rows | None) -> tuple[Collection[str] | None, Rows | None]:
        """Those tensors and positions that are stored."""
        known = names if names is None else [n for n in names if n in self.snapshot.definitions]
        return known, rows if rows is None else np.asarray(rows)[np.asarray(rows) < len(self.snapshot)]

    def nbytes_read(self) -> int:
        return self.snapshot.nbytes_read()

    def identity(self) -> dict[str, Any]:
        return {**self.snapshot.identity(), "pending": self._rows - len(self.snapshot)}


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
