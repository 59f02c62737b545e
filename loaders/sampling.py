"""Weighted sampling as orders of a plan.

With replacement: the row at a position is the inverse of the cumulative weights at a counter-based uniform
number, so that any position can be computed alone and the epoch may be of any length; the search is
``lakefmt.loaders.guide``'s. (An alias table would be as fast a draw, but its construction is a sequential loop
over rows.) Memory: nine bytes a row.

Without replacement: ``lakefmt.loaders.picked``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import xxhash

from lakefmt.cells import Array, Rows
from lakefmt.errors import InvalidInput
from lakefmt.loaders.guide import Floats, Guide, guide_of
from lakefmt.loaders.order import derive, uniforms
from lakefmt.loaders.picked import Picked

#: Weights that are all smaller are scaled: near the end of float64's range digits are lost, and quotients overflow.
_LEAST = 1e-280
_DRAWS = 4  # purpose of derived keys; plan.py has 1 to 3, picked.py 5 and 6
#: Weights looked at together.
_CHUNK = 1 << 18


class Samples(Protocol):
    """A tensor of a dataset or view, or another library's: anything that gives its values as NumPy."""

    def numpy(self) -> Any: ...


Weights: TypeAlias = str | Sequence[float] | Array | Samples
Evaluate: TypeAlias = Callable[[str], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """``size`` independent draws in proportion to weight.

    Attributes:
        search: over the running sum of the weights.
        digest: names the weights.
    """

    search: Guide
    size: int
    seed: int
    digest: str

    def __len__(self) -> int:
        return self.size

    def rows(self, epoch: int, positions: Rows) -> Rows:
        total = self.search.cumulative[-1]
        points = uniforms(derive(self.seed, epoch, _DRAWS), positions) * total
        # rounding may carry a point up to the total itself: the last row of positive weight is meant
        return self.search.find(np.minimum(points, np.nextafter(total, 0.0)))

    def describe(self) -> dict[str, Any]:
        return {"order": "drawn", "size": self.size, "seed": self.seed, "weights": self.digest}


def digest(values: Array) -> str:
    """A name for some numbers: equal arrays have equal ones, on every machine."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(little).view(np.uint8).data)


def column(step: str, what: str, values: Any, n: int) -> Array:
    """One value a row, as a one-dimensional array.

    Args:
        step, what: the step of the chain, and what the values are there, for the error.
        values: numbers in a sequence, an array of any library, or a tensor of a dataset or view.
        n: rows of the source.

    Raises:
        InvalidInput: they are no numbers, or not one a row.
    """
    named = getattr(values, "name", None)
    try:
        array = np.asarray(values.numpy() if hasattr(values, "numpy") else values)
    except (TypeError, ValueError, OverflowError) as e:
        raise InvalidInput(f"{step}: {what} must be numbers, one a row ({e})") from e
    if array.shape == (n, 1):  # a column of it is the same
        array = array[:, 0]
    if array.shape != (n,):
        of = f" those of tensor {named!r} are" if isinstance(named, str) else ""
        remedy = "; for rows that a query selects, give its name in the dataset as a str" if of and array.ndim == 1 else ""
        raise InvalidInput(f"{step}: {n} rows need {what} of shape ({n},),{of or ' got'} {array.shape}{remedy}")
    return array


def checked_weights(weights: Weights, n: int, evaluate: Evaluate | None, step: str = "sample_by") -> Floats:
    """Weights as float64, one a row; a fresh array.

    Args:
        weights: numbers, one a row, a tensor, or a TQL expression for ``evaluate``.
        n: rows of the source.
        step: of the chain, for the error.

    Raises:
        InvalidInput: wrong length, a negative or non-finite weight, or no positive one.
    """
    if isinstance(weights, str):
        if evaluate is None:
            raise InvalidInput(f"{step}({weights!r}): this source evaluates no expressions; pass one weight a row")
        weights = evaluate(weights)
    given = column(step, "weights", weights, n)
    try:
        array: Floats = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as e:
        raise InvalidInput(f"{step}: weights must be numbers, one a row ({e})") from e
    total, most = 0.0, 0.0
    for begin, part in _chunks(array):
        bad = ~(np.isfinite(part) & (part >= 0))
        if bad.any():
            row = begin + int(np.argmax(bad))
            raise InvalidInput(f"{step}: the weight of row {row} is {array[row]}; weights are finite and >= 0")
        with np.errstate(over="ignore"):
            total += float(part.sum())
        most = max(most, float(part.max()))
    if not most:
        raise InvalidInput(f"{step}: all {n} weights are zero, so that no row can be drawn")
    if not (np.isfinite(total) and most >= _LEAST):
        array /= most  # only proportions count
    return array


def _chunks(array: Floats) -> Iterator[tuple[int, Floats]]:
    for begin in range(0, len(array), _CHUNK):
        yield begin, array[begin : begin + _CHUNK]


def drawn_of(weights: Floats, size: int, seed: int) -> Drawn:
    """The order that draws ``size`` rows by weight. Takes the array over, for their sum."""
    name = digest(weights)
    return Drawn(guide_of(np.cumsum(weights, out=weights)), size, seed, name)


def sampled(weights: Floats, replace: bool, size: int | None, seed: int) -> Drawn | Picked:
    """The order that draws ``size`` rows (default: as many as there are weights, or all positive ones) by
    weight. The array is the order's from now on.

    Raises:
        InvalidInput: a negative size, or more rows asked for than have a positive weight and ``replace`` is
            off.
    """
    if size is not None and size < 0:
        raise InvalidInput(f"sample_by(size={size}): a size is >= 0")
    if replace:
        return drawn_of(weights, len(weights) if size is None else size, seed)
    positive = int(np.count_nonzero(weights))
    if size is not None and size > positive:
        raise InvalidInput(
            f"sample_by(size={size}, replace=False): only {positive} rows have a positive weight; "
            f"ask for at most {positive}, or use replace=True"
        )
    return Picked(weights, positive if size is None else size, seed, digest(weights))
