"""Several things in given numbers, spread evenly over a stretch of positions.

Two are interleaved by Bresenham's line: of ``m`` positions, ``a`` for the one and the rest for the other, the
first ``i`` have ``floor((i a + phase) / m)`` of the one, and so any run of positions has its share of each to
within one. More are put together two by two, the rarest first, as Huffman's tree is (1952). A position goes down
this tree by arithmetic, to a leaf and a count in it; nothing is stored for positions, and the way up gives the
position of any count.

How even it is: a node's count in a run of positions deviates by less than one, and by its share of what its
parent deviates. In Huffman's tree no inner node has more than two thirds of its parent, so that all this adds up
to less than three, and for a leaf to less than four; with shares that are not at its worst, to one or two.
(A sequence within one exists: Tijdeman, "The chairman assignment problem", 1980. It is made one position after
the other.)
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from lakefmt.cells import Rows
from lakefmt.loaders.order import bits

#: Positions in a stretch, at most: products of two of them are int64.
PERIOD_MAX = math.isqrt(2**63 - 1) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Evenly:
    """The spreading of ``counts``, whose sum is the period.

    Attributes:
        counts: of each thing, all positive.
        children: the two nodes below each inner node; -1 - i for thing i.
        totals: positions of each inner node; the root is the last.
        firsts: positions of it that go to its first child.
        phases: where the two of each node begin.
    """

    counts: Rows
    children: Rows
    totals: Rows
    firsts: Rows
    phases: Rows

    @property
    def period(self) -> int:
        """Positions after which it begins again."""
        return int(self.counts.sum())

    def at(self, positions: Rows) -> tuple[Rows, Rows]:
        """Which thing is at each position of ``[0, period)``, and how many of it are before."""
        nodes = np.full(len(positions), len(self.totals) - 1, np.int64)
        index = positions.astype(np.int64)
        if not len(self.totals):
            return np.zeros(len(positions), np.int64), index
        active = np.arange(len(positions))
        while active.size:
            node, i = nodes[active], index[active]
            total, first, phase = self.totals[node], self.firsts[node], self.phases[node]
            before = (i * first + phase) // total
            is_first = (i + 1) * first + phase >= (before + 1) * total
            index[active] = np.where(is_first, before, i - before)
            below = self.children[node, np.where(is_first, 0, 1)]
            nodes[active] = below
            active = active[below >= 0]
        return -1 - nodes, index

    def position(self, thing: int, index: int) -> int:
        """Position of the ``index``-th of a thing (from 0, and beyond the first period)."""
        turn, index = divmod(index, int(self.counts[thing]))
        below, parents = -1 - thing, {int(c): (n, k) for n, pair in enumerate(self.children) for k, c in enumerate(pair)}
        while below in parents:
            node, which = parents[below]
            total, first, phase = (int(v[node]) for v in (self.totals, self.firsts, self.phases))
            if which:  # the rest is a line of its own, of the opposite phase
                first, phase = total - first, total - 1 - phase
            index = -(-((index + 1) * total - phase) // first) - 1
            below = node
        return turn * self.period + index

    def deviations(self) -> list[Fraction]:
        """Least upper bounds known of how far each thing's count in a run of positions is from its share."""
        bounds = {len(self.totals) - 1: Fraction(0)}
        for node in reversed(range(len(self.totals))):
            total, first = int(self.totals[node]), int(self.firsts[node])
            for child, share in zip(self.children[node].tolist(), (first, total - first), strict=True):
                bounds[child] = 1 + bounds[node] * Fraction(share, total)
        return [bounds.get(-1 - i, Fraction(0)) for i in range(len(self.counts))]


def evenly(counts: Sequence[int] | Rows, key: int | None = None) -> Evenly:
    """The spreading of some counts.

    Args:
        counts: positive, of a sum of at most ``PERIOD_MAX``.
        key: 64 random bits by which it begins somewhere; the middle by default.
    """
    heap = [(count, -1 - i) for i, count in enumerate(np.asarray(counts, np.int64).tolist())]
    heapq.heapify(heap)
    children, totals, firsts = [], [], []
    while len(heap) > 1:
        (a, one), (b, other) = heapq.heappop(heap), heapq.heappop(heap)
        children.append((one, other))
        firsts.append(a)
        totals.append(a + b)
        heapq.heappush(heap, (a + b, len(totals) - 1))
    sums = np.array(totals, np.int64)
    phases = sums // 2 if key is None else (bits(key, np.arange(len(sums))) % sums.astype(np.uint64)).astype(np.int64)
    return Evenly(np.array(counts, np.int64), np.array(children, np.int64).reshape(-1, 2), sums, np.array(firsts, np.int64), phases)


def apportioned(weights: Sequence[float], places: int) -> Rows:
    """``places`` shared out in proportion to weights, by largest remainders (Hamilton's method).

    Args:
        weights: finite and >= 0, some positive.
    """
    exact = [Fraction(w) for w in weights]
    total = sum(exact)
    ideal = [w * places / total for w in exact]
    counts = [math.floor(share) for share in ideal]
    by_remainder = sorted(range(len(counts)), key=lambda i: (counts[i] - ideal[i], i))
    for i in by_remainder[: places - sum(counts)]:
        counts[i] += 1
    return np.array(counts, np.int64)
