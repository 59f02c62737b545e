"""The engine: a step becomes a batch in three moves, which the pipeline may run on different threads.

``begin``   gathers every tensor of the step's rows, whole columns at a time, dense ones straight into a fresh
            array. Steps of few bytes are gathered several at once (``works``) and cut into batches, which
            are then slices of one array: what a gather costs besides bytes is shared by all of them.
``run``     decodes and transforms a span of samples; spans are independent. Absent when nothing is done per
            sample.
``finish``  puts the columns together, applies batch functions and the conversion.

Rows become Python objects only in ``run``, and only for what the user's own per-sample functions ask.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lakefmt.cells import Cells, Dense, Encoded, Ragged, Rows, Strings
from lakefmt.errors import BadSample, Corrupt, InvalidInput, ShapeError
from lakefmt.loaders.batch import INDEX, Batch, Parcel
from lakefmt.loaders.faults import Fault, OnError, ended, located, place
from lakefmt.loaders.ragged import put_ragged
from lakefmt.loaders.recipe import Column, Decode, Form, Recipe
from lakefmt.loaders.samples import reader, values_of
from lakefmt.loaders.stack import stack
from lakefmt.loaders.stats import Stats, stored_nbytes
from lakefmt.loaders.steps import Step

#: Samples a thread takes at a time: the cost of handing over (some 10 µs) against an even load at the end of
#: a batch.
SPAN_ROWS_MAX = 16


@dataclass(slots=True)
class Work:
    """A batch under way. Threads write to different samples of it, so that it needs no lock."""

    step: Step
    rows: Rows
    cells: dict[str, Cells]
    read: dict[str, Any]
    done: dict[str, Any]  # per-sample results by column: a list, or the array they are decoded into
    dicts: list[Any]  # per-sample results of row functions
    faults: dict[int, Fault] = field(default_factory=dict)


class Engine:
    """Executes a recipe. Holds no state between steps besides counters; every method may be called from any
    thread.
    """

    def __init__(self, recipe: Recipe, stats: Stats) -> None:
        self.recipe = recipe
        self.stats = stats
        per_sample = recipe.columns if recipe.row_wise else [c for c in recipe.columns if c.decodes or c.fn is not None]
        self._worked = tuple(per_sample)
        self._names = frozenset(c.name for c in self._worked)

    def make(self, step: Step) -> Any:
        """The batch of ``step``, made on the calling thread."""
        work = self.begin(step)
        for span in self.spans(work, 1):
            self.run(work, span)
        return self.finish(work)

    # ------------------------------------------------------------------ fetch

    def works(self, steps: Sequence[Step]) -> Iterator[Work]:
        """``begin`` of every step, gathered together."""
        if len(steps) > 1:
            try:
                together = self._begin_together(steps)
            except Exception:  # one by one, then: it is raised again at the step whose it is, after those before it
                together = []
            yield from together
            if together:
                return
        for step in steps:
            yield self.begin(step)

    def _begin_together(self, steps: Sequence[Step]) -> list[Work]:
        with self.stats.timed("fetch"):
            cells = self._gather(np.concatenate([step.rows for step in steps]))
            works, begin = [], 0
            for step in steps:
                end = begin + len(step.rows)
                part = {name: cut(c, begin, end) for name, c in cells.items()}
                works.append(self._work(step, step.rows, part, {}))
                begin = end
            return works

    def begin(self, step: Step) -> Work:
        with self.stats.timed("fetch"):
            try:
                rows, faults = step.rows, dict[int, Fault]()
                cells = self._gather(rows)
            except (BadSample, Corrupt):
                if self.recipe.on_error is OnError.RAISE:
                    raise
                rows, cells, faults = self._gather_readable(step.rows)
        return self._work(step, rows, cells, faults)

    def _work(self, step: Step, rows: Rows, cells: dict[str, Cells], faults: dict[int, Fault]) -> Work:
        read = {c.name: reader(c, cells[c.name], self.recipe.images) for c in self._worked} if cells else {}
        done = {c.name: self._room(c, len(rows)) for c in self._worked}
        return Work(step, rows, cells, read, done, [None] * len(rows) if self.recipe.row_wise else [], faults)

    def _gather(self, rows: Rows) -> dict[str, Cells]:
        source, cells = self.recipe.source, {}
        for column in self.recipe.columns:
            out = None
            if column.uniform is not None:
                shape, dtype = column.uniform
                out = self.recipe.allocate((len(rows), *shape), dtype)
            cells[column.name] = source.gather(column.name, rows, out)
        self.stats.used(sum(map(stored_nbytes, cells.values())))
        return cells

    def _gather_readable(self, rows: Rows) -> tuple[Rows, dict[str, Cells], dict[int, Fault]]:
        """Find the unreadable rows one by one, then gather with each replaced by a readable one and marked
        bad.
        """
        faults: dict[int, Fault] = {}
        for i in range(len(rows)):
            for column in self.recipe.columns:
                try:
                    self.recipe.source.gather(column.name, rows[i : i + 1])
                except (BadSample, Corrupt) as e:
                    faults[i] = self._fault(int(rows[i]), column.name, e)
                    break
        good = [i for i in range(len(rows)) if i not in faults]
        if not good:
            return rows, {}, faults
        stand_in = rows.copy()
        stand_in[list(faults)] = rows[good[0]]
        return rows, self._gather(stand_in), faults

    def _room(self, column: Column, n: int) -> Any:
        """Where per-sample results go: an array when images of one declared shape are wanted as they are."""
        if column.stacks and column.frame is not None and column.decode is Decode.NUMPY and not self.recipe.row_wise:
            return self.recipe.allocate((n, *column.frame), "uint8")
        return [None] * n

    # ------------------------------------------------------- decode, transform

    def spans(self, work: Work, threads: int) -> list[range]:
        """The step's samples, cut for ``threads`` threads; empty when there is nothing to do per sample."""
        n = len(work.rows)
        if not self._worked or len(work.faults) == n:
            return []
        size = min(SPAN_ROWS_MAX, -(-n // max(1, threads)))
        return [range(begin, min(n, begin + size)) for begin in range(0, n, size)]

    def run(self, work: Work, span: range) -> None:
        """Decode and transform the samples of ``span``.

        Raises:
            Exception: what a codec or a user's function raised, saying for which row and tensor, unless bad
                samples are to be left out.
        """
        decode_s = transform_s = 0.0
        for i in span:
            if i in work.faults:
                continue
            name: str | None = None
            try:
                given: dict[str, Any] = {}
                for column in self._worked:
                    name = column.name
                    t0 = time.perf_counter()
                    value = work.read[name](i)
                    t1 = time.perf_counter()
                    if column.fn is not None:
                        value = column.fn(value)
                    transform_s += time.perf_counter() - t1
                    decode_s += t1 - t0
                    if self.recipe.row_wise:
                        given[name] = value
                    else:
                        self._keep(work, column, i, value)
                if self.recipe.row_wise:
                    name, t0 = None, time.perf_counter()
                    work.dicts[i] = self._row(given, int(work.rows[i]))
                    transform_s += time.perf_counter() - t0
            except Exception as e:
                if self.recipe.on_error is OnError.RAISE:
                    row = int(work.rows[i])
                    raise located(e, place(row, self._row_id(row), name))  # noqa: B904 (it sets the cause)
                work.faults[i] = self._fault(int(work.rows[i]), name, e)
        self.stats.spend("decode", decode_s)
        self.stats.spend("transform", transform_s)

    def _keep(self, work: Work, column: Column, i: int, value: Any) -> None:
        room = work.done[column.name]
        if isinstance(room, list):
            room[i] = value
            return
        if value is None:
            raise InvalidInput(
                "the sample is missing, and images of a declared full shape are stacked; give the "
                "tensor a transform that "
                "replaces None, or leave rows out with on_error='skip'"
            )
        if value.shape != room.shape[1:]:
            raise ShapeError(f"the image has shape {value.shape}, the tensor declares {room.shape[1:]}")
        room[i] = value

    def _row(self, given: dict[str, Any], row: int) -> Any:
        if self.recipe.return_index and self.recipe.collate is not None:
            given[INDEX] = row
        if self.recipe.row_fn is None:
            return given
        made = self.recipe.row_fn(given)
        if self.recipe.collate is None and not isinstance(made, dict):
            raise InvalidInput(
                f"the transform returned {type(made).__name__}, not a dict of tensor name to value; "
                "return a dict, or put "
                "rows together in a collate_fn"
            )
        return made

    # ---------------------------------------------------------------- assemble

    def finish(self, work: Work) -> Any:
        """The batch, or a ``Parcel`` when some samples were bad."""
        with self.stats.timed("assemble"):
            faults = tuple(work.faults[i] for i in sorted(work.faults))
            keep = self._kept(work) if faults else None
            if keep is not None and not keep.size:
                return Parcel(None, faults, ())
            if self.recipe.collate is not None:
                rows = work.dicts if keep is None else [work.dicts[i] for i in keep.tolist()]
                batch: Any = _of_batch("collate_fn", self.recipe.collate, rows, work)
            else:
                batch = Batch(self._from_dicts(work, keep) if self.recipe.row_wise else self._from_columns(work, keep))
                if self.recipe.return_index:
                    batch[INDEX] = work.rows.copy() if keep is None else work.rows[keep]
        for fn in self.recipe.batch_fns:
            with self.stats.timed("transform"):
                batch = _of_batch("the function of map_batches", fn, batch, work)
                if type(batch) is dict:
                    batch = Batch(batch)
        if self.recipe.convert is not None:
            made_of = None if self.recipe.batch_fns else work.rows if keep is None else work.rows[keep]
            batch = self.recipe.convert(batch, made_of)
        return batch if keep is None else Parcel(batch, faults, tuple(keep.tolist()))

    def _kept(self, work: Work) -> Rows:
        """Which samples make up the batch: the good ones, or (to keep its size) good ones in place of the
        bad.
        """
        n = len(work.rows)
        good = np.array([i for i in range(n) if i not in work.faults], np.int64)
        if not self.recipe.keep_size:
            return good
        if not good.size:
            first = work.faults[min(work.faults)]
            raise BadSample(
                f"all {n} rows of a batch are bad, so that this rank has nothing to step with; the first: "
                f"{place(first.row, first.row_id, first.tensor)}: {first.error}"
            )
        kept = np.arange(n, dtype=np.int64)
        kept[list(work.faults)] = good[np.arange(len(work.faults)) % good.size]
        return kept

    def _from_columns(self, work: Work, keep: Rows | None) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for column in self.recipe.columns:
            if column.name not in self._names:
                cells = work.cells[column.name]
                entries |= self._vectorised(column, cells if keep is None else narrowed(cells, keep))
                continue
            made = work.done[column.name]
            if keep is not None:
                made = made[keep] if isinstance(made, np.ndarray) else [made[i] for i in keep.tolist()]
            if column.fn is not None or (column.stacks and isinstance(made, list)):
                made = stack(column.name, made, work.rows if keep is None else work.rows[keep])
            entries[column.name] = made
        return entries

    def _vectorised(self, column: Column, cells: Cells) -> dict[str, Any]:
        if column.decode in (Decode.NUMPY, Decode.TORCH):  # whose batches become torch's as a whole
            if column.form is Form.DENSE and isinstance(cells, Dense):
                return {column.name: cells.values}
            if column.form is Form.RAGGED and isinstance(cells, Dense | Ragged):
                samples = [column.empty() if v is None else v for v in cells.values] if column.padded else list(cells.values)
                return put_ragged(column.definition, samples, self.recipe.ragged)
        return {column.name: values_of(column, cells)}

    def _from_dicts(self, work: Work, keep: Rows | None) -> dict[str, Any]:
        dicts = work.dicts if keep is None else [work.dicts[i] for i in keep.tolist()]
        columns, entries = {c.name: c for c in self.recipe.columns}, dict[str, Any]()
        names = dicts[0].keys()
        for made in dicts:
            if made.keys() != names:
                raise InvalidInput(
                    f"the transform returned keys {list(names)} for one row and {list(made.keys())} "
                    "for another; return the "
                    "same keys for every row"
                )
        for name in names:
            values = [made[name] for made in dicts]
            column = columns.get(name)
            # A tensor of differing shapes keeps its way of being put together under its own name; JSON stays
            # a list.
            if column is not None and column.form is Form.RAGGED and column.decode is Decode.NUMPY and column.fn is None:
                arrays = [None if v is None else np.asarray(v) for v in values]
                entries |= put_ragged(column.definition, arrays, self.recipe.ragged)
            elif column is not None and column.form is Form.JSON and column.fn is None:
                entries[name] = values
            else:
                entries[name] = stack(name, values, work.rows if keep is None else work.rows[keep])
        return entries

    # ------------------------------------------------------------------ faults

    def _row_id(self, row: int) -> int:
        return int(self.recipe.source.row_ids(np.array([row], np.int64))[0])

    def _fault(self, row: int, tensor: str | None, error: Exception) -> Fault:
        return Fault(row, self._row_id(row), tensor, f"{type(error).__name__}: {error}")


def _of_batch(what: str, fn: Callable[[Any], Any], given: Any, work: Work) -> Any:
    """What the user's function makes of a whole batch."""
    try:
        made = fn(given)
    except StopIteration as e:
        raise ended(f"{_these(work.rows)}: {what}", e) from e
    if made is None:
        raise InvalidInput(f"{_these(work.rows)}: {what} returned None; return the batch, or what is to be handed out for it")
    return made


def _these(rows: Rows) -> str:
    shown = ", ".join(map(str, rows[:4].tolist())) + (", …" if len(rows) > 4 else "")
    return f"the batch of {len(rows)} rows {shown}"


def cut(cells: Cells, begin: int, end: int) -> Cells:
    """Samples ``[begin, end)`` of some cells, over the same memory."""
    match cells:
        case Dense(values):
            return Dense(values[begin:end])
        case Ragged(values):
            return Ragged(values[begin:end])
        case Encoded(values, codec):
            return Encoded(values[begin:end], codec)
        case Strings(values, is_json):
            return Strings(values.slice(begin, end - begin), is_json)


def narrowed(cells: Cells, keep: Rows) -> Cells:
    """The samples ``keep`` of some cells."""
    match cells:
        case Dense(values):
            return Dense(values[keep])
        case Ragged(values):
            return Ragged([values[i] for i in keep.tolist()])
        case Encoded(values, codec):
            return Encoded([values[i] for i in keep.tolist()], codec)
        case Strings(values, is_json):
            return Strings(values.take(keep), is_json)
