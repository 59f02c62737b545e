"""Steps: how an epoch's positions are cut into batches, and shared out among ranks and worker processes.

A step is what all ranks together consume at once: the next ``batch_rows * world`` positions, of which rank r
takes the r-th run. So ranks are disjoint, all take the same number of steps, and how far an epoch has come is
a single number, the *position* up to which it was consumed: the same for every rank, and meaningful after a
change of world size, batch size or worker count.

The last step may be short. It is dropped on request; else it is shared evenly, and where it does not divide
it is padded with positions from the epoch's beginning (fewer than ``world`` of them), so that no rank steps
without the others.

Where the order has lanes that the ranks can own (``lakefmt.loaders.plan``), rank r takes of every whole step the
positions of lanes r, r + world, … instead of a run: the same positions by all ranks together, and each rank reads
its own part of the data only.

Worker processes of one rank take every k-th step; a DataLoader collects from its workers in turn, so that
their union in the order of arrival is the epoch in its order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lakefmt.cells import Rows
from lakefmt.errors import InvalidInput
from lakefmt.loaders.plan import Order, lanes_of

#: Positions computed at a time: the fixed cost of the arithmetic is shared by so many rows.
BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank ``rank`` of ``world`` equal consumers."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise InvalidInput(f"shard: rank {self.rank} of {self.world} does not exist; ranks are 0 to {self.world - 1}")


@dataclass(frozen=True, slots=True)
class Step:
    """One batch to make.

    Attributes:
        rows: positions in the source, int64, this rank's share.
        end: position of the epoch up to which all ranks have consumed once this step is done.
    """

    rows: Rows
    end: int


@dataclass(frozen=True, slots=True)
class Steps:
    """The cutting of ``order`` into steps."""

    order: Order
    batch_rows: int
    drop_last: bool = False
    shard: Shard = Shard()

    def __post_init__(self) -> None:
        if self.batch_rows < 1:
            raise InvalidInput(f"batch_size must be at least 1, got {self.batch_rows}")

    def count(self, start: int = 0) -> int:
        """Steps from position ``start`` to the end of an epoch."""
        left, stride = max(0, len(self.order) - start), self.batch_rows * self.shard.world
        return left // stride if self.drop_last else -(-left // stride)

    def end_of(self, start: int, number: int) -> int:
        """Position reached after ``number`` more steps from ``start``."""
        return min(len(self.order), start + number * self.batch_rows * self.shard.world)

    @property
    def owned(self) -> range | None:
        """Lanes of the order that only this rank reads of (but for the last step); ``None`` where ranks share lanes."""
        lanes, world = lanes_of(self.order), self.shard.world
        fits = lanes % world == 0 and (self.batch_rows * world) % lanes == 0
        return range(self.shard.rank, lanes, world) if fits else None

    def walk(self, epoch: int, start: int = 0, lane: int = 0, lanes: int = 1) -> Iterator[Step]:
        """Every ``lanes``-th step of ``epoch`` from position ``start``, beginning with the ``lane``-th."""
        for block in self.blocks(epoch, start, lane, lanes):
            yield from block

    def blocks(self, epoch: int, start: int = 0, lane: int = 0, lanes: int = 1) -> Iterator[list[Step]]:
        """The steps of ``walk``, some at a time, as many as have about ``BLOCK_ROWS`` rows."""
        numbers = range(lane, self.count(start), lanes)
        at_once = max(1, BLOCK_ROWS // self.batch_rows)
        if self.shard.world == 1 and lanes == 1:
            yield from self._plain_blocks(epoch, start, numbers, at_once)
            return
        own = self._own_of_whole(start)
        for first in range(0, len(numbers), at_once):
            block = numbers[first : first + at_once]
            shares = [self._share(start, number, own) for number in block]
            rows = self.order.rows(epoch, shares[0] if len(shares) == 1 else np.concatenate(shares))
            begin, steps = 0, []
            for number, share in zip(block, shares, strict=True):
                steps.append(Step(rows[begin : begin + len(share)], self.end_of(start, number + 1)))
                begin += len(share)
            yield steps

    def _plain_blocks(self, epoch: int, start: int, numbers: range, at_once: int) -> Iterator[list[Step]]:
        """Those of a consumer that takes all, one step after another: a run of positions."""
        for first in range(0, len(numbers), at_once):
            block = numbers[first : first + at_once]
            begin, end = self.end_of(start, block[0]), self.end_of(start, block[-1] + 1)
            rows = self.order.rows(epoch, np.arange(begin, end, dtype=np.int64))
            starts = range(begin, end, self.batch_rows)
            yield [Step(rows[at - begin : at - begin + self.batch_rows], min(end, at + self.batch_rows)) for at in starts]

    def _own_of_whole(self, start: int) -> Rows:
        """Which of a whole step's positions are this rank's, counted from its first."""
        owned, world = self.owned, self.shard.world
        if world == 1 or owned is None:
            begin = self.shard.rank * self.batch_rows
            return np.arange(begin, begin + self.batch_rows, dtype=np.int64)
        # lanes divide a step of all ranks, so that every step begins with the same lane
        lane = (start + np.arange(self.batch_rows * world, dtype=np.int64)) % lanes_of(self.order)
        return np.flatnonzero(lane % world == self.shard.rank).astype(np.int64)

    def _share(self, start: int, number: int, own_of_whole: Rows) -> Rows:
        """Positions of this rank in step ``number``."""
        begin, end = self.end_of(start, number), self.end_of(start, number + 1)
        if end - begin == self.batch_rows * self.shard.world:
            return own_of_whole + begin
        size = -(-(end - begin) // self.shard.world)
        own = np.arange(begin + self.shard.rank * size, begin + (self.shard.rank + 1) * size, dtype=np.int64)
        return own if own[-1] < end else np.where(own < end, own, (own - end) % len(self.order))
