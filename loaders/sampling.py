"""Weighted sampling as orders of a plan.

With replacement: the row at a position is the inverse of the cumulative weights at a counter-based uniform
number, so any position is O(log n) alone and the epoch may be of any length. (An alias table would be O(1) a
draw, but its construction is a sequential loop over rows; a search over a cumulative sum is two vectorised
NumPy calls.)

Without replacement: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006): every row
draws an exponential variate divided by its weight, and the rows with the smallest come first. This is exactly
sequential sampling proportional to weight. It needs the table of an epoch's order: eight bytes a drawn row,
made once an epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lakefmt.cells import Array, Rows
from lakefmt.errors import InvalidInput
from lakefmt.loaders.order import derive, uniforms

#: Weights that are all smaller are scaled: near the end of float64's range digits are lost, and quotients overflow.
_LEAST = 1e-280
_DRAWS, _KEYS = 4, 5  # purposes of derived keys; plan.py has 1 to 3

Floats: TypeAlias = npt.NDArray[np.float64]
Weights: TypeAlias = str | Sequence[float] | Array
Evaluate: TypeAlias = Callable[[str], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """``size`` independent draws in proportion to weight.

    Attributes:
        cumulative: running sum of the weights, float64, one a row.
    """

    cumulative: Floats
    size: int
    seed: int

    def __len__(self) -> int:
        return self.size

    def rows(self, epoch: int, positions: Rows) -> Rows:
        points = uniforms(derive(self.seed, epoch, _DRAWS), positions) * self.cumulative[-1]
        # rounding may carry a point up to the total itself: the last row of positive weight is meant
        points = np.minimum(points, np.nextafter(self.cumulative[-1], 0.0))
        rows: Rows = np.searchsorted(self.cumulative, points, side="right").astype(np.int64)
        return rows

    def describe(self) -> dict[str, Any]:
        return {"order": "drawn", "size": self.size, "seed": self.seed, "weights": _digest(self.cumulative)}


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """``size`` different rows, drawn one after another in proportion to weight."""

    weights: Floats
    size: int
    seed: int
    _tables: dict[int, Rows] = field(default_factory=dict, init=False)  # the current epoch's order

    def __len__(self) -> int:
        return self.size

    def rows(self, epoch: int, positions: Rows) -> Rows:
        table = self._tables.get(epoch)
        if table is None:
            table = self._order(epoch)
            self._tables.clear()
            self._tables[epoch] = table
        return table[positions]

    def _order(self, epoch: int) -> Rows:
        candidates = np.flatnonzero(self.weights > 0).astype(np.int64)
        u = uniforms(derive(self.seed, epoch, _KEYS), candidates)
        with np.errstate(over="ignore", divide="ignore"):
            keys = -np.log1p(-u) / self.weights[candidates]
            if not np.isfinite(keys).all():  # weights some 300 orders of magnitude apart: compare logarithms
                keys = np.log(-np.log1p(-u)) - np.log(self.weights[candidates])
        if self.size < len(candidates):
            # a partition first: sorting all rows to draw few would be most of the cost
            first = np.argpartition(keys, self.size - 1)[: self.size] if self.size else np.empty(0, np.int64)
            candidates, keys = candidates[first], keys[first]
        order: Rows = candidates[np.lexsort((candidates, keys))]
        return order

    def describe(self) -> dict[str, Any]:
        return {"order": "picked", "size": self.size, "seed": self.seed, "weights": _digest(self.weights)}


def _digest(values: Floats) -> str:
    return hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()


def checked_weights(weights: Weights, n: int, evaluate: Evaluate | None) -> Floats:
    """Weights as float64, one a row.

    Args:
        weights: numbers, one a row, or a TQL expression for ``evaluate``.
        n: rows of the source.

    Raises:
        InvalidInput: wrong length, a negative or non-finite weight, or no positive one.
    """
    if isinstance(weights, str):
        if evaluate is None:
            raise InvalidInput(f"sample_by({weights!r}): this source evaluates no expressions; pass one weight a row")
        weights = evaluate(weights)
    try:
        array: Floats = np.array(weights, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as e:
        raise InvalidInput(f"sample_by: weights must be numbers, one a row ({e})") from e
    if array.shape != (n,):
        raise InvalidInput(f"sample_by: {n} rows need weights of shape ({n},), got {array.shape}")
    bad = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if bad.size:
        raise InvalidInput(f"sample_by: the weight of row {bad[0]} is {array[bad[0]]}; weights are finite and >= 0")
    if not array.any():
        raise InvalidInput(f"sample_by: all {n} weights are zero, so that no row can be drawn")
    with np.errstate(over="ignore"):
        in_range = np.isfinite(array.sum()) and array.max() >= _LEAST
    return array if in_range else array / array.max()  # only proportions count


def sampled(weights: Floats, replace: bool, size: int | None, seed: int) -> Drawn | Picked:
    """The order that draws ``size`` rows (default: as many as there are weights, or all positive ones) by
    weight.

    Raises:
        InvalidInput: a negative size, or more rows asked for than have a positive weight and ``replace`` is
            off.
    """
    if size is not None and size < 0:
        raise InvalidInput(f"sample_by(size={size}): a size is >= 0")
    if replace:
        return Drawn(np.cumsum(weights), len(weights) if size is None else size, seed)
    positive = int(np.count_nonzero(weights))
    if size is not None and size > positive:
        raise InvalidInput(
            f"sample_by(size={size}, replace=False): only {positive} rows have a positive weight; "
            f"ask for at most {positive}, or use replace=True"
        )
    return Picked(weights, positive if size is None else size, seed)
