"""The loader's parts in the hands of another DataLoader.

Accelerate takes a DataLoader apart and makes another one of its dataset, ``batch_size`` and ``collate_fn``; so do
torchdata and others. For them the dataset gives what torch's contract has it give, *rows*, and ``collate`` makes
a batch of a list of rows. A row is only a handle: the batches are made whole, by the same engine, ahead and on
threads where all rows are for this consumer; where another takes most of them away (Accelerate shares rows out
by leaving out those of other processes), only when ``collate`` asks, so that nobody reads rows he does not hand
out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np

from lakefmt.cells import Rows
from lakefmt.errors import BadSample, InvalidInput
from lakefmt.loaders.batch import Batch, Parcel, row_of
from lakefmt.loaders.engine import Engine
from lakefmt.loaders.packing import without_bounds
from lakefmt.loaders.pipeline import batches
from lakefmt.loaders.recipe import RaggedMode
from lakefmt.loaders.session import Job, restored, state_at
from lakefmt.loaders.stats import Stats
from lakefmt.loaders.steps import Shard, Step
from lakefmt.loaders.tensors import nested, to_torch


class Row(Mapping[str, Any]):
    """A row to be made: by itself, when somebody looks into it, or with others, by ``collate``."""

    __slots__ = ("_values", "place", "portion")

    def __init__(self, portion: Portion, place: int) -> None:
        self.portion, self.place = portion, place
        self._values: dict[str, Any] | None = None

    @property
    def number(self) -> int:
        """Position in the source."""
        return int(self.portion.rows[self.place])

    def values_by_name(self) -> dict[str, Any]:
        """The row as a dict, made at the first look."""
        if self._values is None:
            self._values = dict(row_of(self.portion.make(np.array([self.number], np.int64), alone=True), 0).items())
        return self._values

    def __getitem__(self, name: str) -> Any:
        return self.values_by_name()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name())

    def __len__(self) -> int:
        return len(self.values_by_name())


class Portion:
    """The rows of one step, and the batch of them where it was made ahead."""

    __slots__ = ("job", "made", "rows")

    def __init__(self, job: Job, rows: Rows, made: Any) -> None:
        self.job, self.rows, self.made = job, rows, made

    def make(self, rows: Rows, alone: bool = False) -> Any:
        """A batch of ``rows`` of the source; ``alone`` for a row's own sake, so that no collate_fn has a part in it."""
        job = self.job
        recipe = replace(without_bounds(job.recipe), collate=None, convert=to_torch) if alone else job.recipe
        made = next(batches(Engine(recipe, Stats()), iter([[Step(rows, 0)]]), len(rows), None if alone else job.limits))
        return _whole(made, recipe.ragged)


def _whole(made: Any, ragged: RaggedMode) -> Any:
    if isinstance(made, Parcel):
        if made.value is None:
            first = made.faults[0]
            raise BadSample(
                f"all {len(made.faults)} rows of a batch are bad, and another DataLoader cannot leave a batch out; "
                f"the first: row {first.row}: {first.error}"
            )
        made = made.value
    return nested(made) if ragged is RaggedMode.NESTED else made


def collate(items: Any) -> Any:
    """A batch of a list of rows, a row's dict of a row; what is a batch already stays as it is."""
    if type(items) is Row:
        return Batch(items.values_by_name())
    if not isinstance(items, list) or not items or type(items[0]) is not Row:
        return items
    portion = items[0].portion
    if portion.job.single_rows and len(items) == 1:
        return Batch(items[0].values_by_name())
    same = len(items) == len(portion.rows) and all(r.portion is portion and r.place == i for i, r in enumerate(items))
    if same and portion.made is not None:
        return _whole(portion.made, portion.job.recipe.ragged)
    return portion.make(np.array([r.number for r in items], np.int64))


class RowStream:
    """Rows of an epoch, from a position on; its state is what torchdata's StatefulDataLoader asks for.

    Args:
        ahead: make the batches ahead, on threads.
        resumed: told the job and epoch, when a state was loaded.
    """

    def __init__(
        self,
        job: Job,
        begun: tuple[int, int],
        lane: tuple[int, int],
        ahead: bool,
        resumed: Callable[[Job, int], None] | None,
    ) -> None:
        convert = None if job.recipe.convert is None else to_torch
        self._job = replace(job, recipe=replace(job.recipe, convert=convert))
        self._begun, self._lane, self._ahead, self._resumed = begun, lane, ahead, resumed
        self._taken = 0  # how far its lane has come, in rows, those left out included
        self._rows: Iterator[tuple[int, Row]] | None = None

    def __iter__(self) -> RowStream:
        return self

    def __next__(self) -> Row:
        if self._rows is None:  # not before: Accelerate makes iterators it never asks anything of
            self._rows = _rows(self._job, self._begun, self._lane, self._ahead, self._taken)
        self._taken, row = next(self._rows)
        return row

    def state_dict(self) -> dict[str, Any]:
        return {**state_at(self._job, *self._begun), "rows": self._begun[1], "taken": self._taken, "lane": list(self._lane)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        job, begun = restored(self._job, state)
        taken, lane = state.get("taken"), state.get("lane")
        if not isinstance(taken, int) or lane != list(self._lane):
            raise InvalidInput(f"the state was taken by worker {lane}, and this is {list(self._lane)}; keep num_workers")
        self._job, self._begun, self._taken, self._rows = job, begun, taken, None
        if self._resumed is not None:
            self._resumed(job, begun[0])


def _rows(job: Job, begun: tuple[int, int], lane_of: tuple[int, int], ahead: bool, skipped: int) -> Iterator[tuple[int, Row]]:
    """The rows of one lane of an epoch, without the first ones, each with how far the lane has come with it.

    (Not a method: a stream that held itself would end late.)
    """
    (epoch, start), (lane, lanes), share = begun, lane_of, job.steps.batch_rows
    lane += lanes * (skipped // share)
    made = job.run(epoch, start, lane, lanes) if ahead else repeat(None)
    first = skipped % share
    begin = skipped - first
    for step, batch in zip(job.steps.walk(epoch, start, lane, lanes), made, strict=False):
        portion = Portion(job, step.rows, batch)
        if not (isinstance(batch, Parcel) and batch.value is None):  # all bad: left out
            for place in range(first, len(step.rows)):
                yield begin + place + 1, Row(portion, place)
        first, begin = 0, begin + share


def sharers() -> int:
    """Processes among which Accelerate shares out what a dataset gives; 1 where it is not at work."""
    state = getattr(sys.modules.get("accelerate.state"), "PartialState", None)
    return int(state().num_processes) if state is not None and state._shared_state else 1


def lent_job(job: Job) -> tuple[Job, bool]:
    """The job of rows for another DataLoader, and whether its batches are worth making ahead.

    Raises:
        InvalidInput: rows would be shared out twice.
    """
    if sharers() == 1:
        return job, True
    if job.shard_given:
        raise InvalidInput(
            "Accelerate shares rows out among its processes itself: leave shard= out, or do not prepare() the loader"
        )
    return job.shared(Shard()), False
