"""One batch value out of what per-sample functions returned.

Arrays (or torch tensors) of one shape are stacked, numbers become an array, everything else stays a list.
Whether a column is stacked follows from what the function returns, never from the luck of a batch: arrays of
differing shapes are an error, not a list.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from lakefmt.cells import Rows
from lakefmt.errors import InvalidInput

_NUMBERS = (bool, int, float, complex, np.generic)


def stack(name: str, values: list[Any], rows: Rows) -> Any:
    """Stack ``values`` along a new first dimension, or give the list back when they are no arrays or numbers.

    Args:
        rows: the row each value is of, for messages.

    Raises:
        InvalidInput: arrays of differing shapes, arrays mixed with other things, or integers of which no integer
            dtype holds all.
    """
    stackable = [_stackable(v) for v in values]
    if not any(stackable):
        return values
    if not all(stackable):
        at = stackable.index(False)
        odd = values[at]
        raise InvalidInput(
            f"{name!r}: some samples became arrays or numbers and some {type(odd).__name__} "
            f"({odd!r:.60}, row {rows[at]}); return one kind "
            "for every sample (a missing sample reaches the transform as None), or put rows together "
            "in a collate_fn"
        )
    torch = sys.modules.get("torch")
    if torch is not None and any(isinstance(v, torch.Tensor) for v in values):
        tensors = [torch.as_tensor(v) for v in values]
        _one_shape(name, tensors, rows)
        return torch.stack(tensors)
    if not all(isinstance(v, _NUMBERS) for v in values):
        _one_shape(name, values, rows)
        return _exact(name, values, np.stack(values))
    return _exact(name, values, np.asarray(values))


def _exact(name: str, values: list[Any], stacked: Any) -> Any:
    """``stacked``, unless NumPy made floats of nothing but integers: int64 and uint64 have no integer in common."""
    if stacked.dtype.kind == "f" and all(np.asarray(v).dtype.kind in "iu" for v in values):
        raise InvalidInput(
            f"{name!r}: some samples are negative integers or signed, and some are uint64: together they would become "
            "float64 and lose digits; return integers of one dtype, or float64, from the transform"
        )
    return stacked


def _stackable(value: Any) -> bool:
    if isinstance(value, np.ndarray | np.generic | bool | int | float | complex):
        return not (isinstance(value, np.ndarray) and value.dtype == object)
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _one_shape(name: str, values: list[Any], rows: Rows) -> None:
    shapes: dict[tuple[int, ...], int] = {}
    for row, value in zip(rows.tolist(), values, strict=True):
        shapes.setdefault(tuple(getattr(value, "shape", ())), row)
    if len(shapes) > 1:
        shown = ", ".join(f"{shape} (row {row})" for shape, row in sorted(shapes.items())[:4]) + (", …" if len(shapes) > 4 else "")
        raise InvalidInput(
            f"{name!r}: samples of {len(shapes)} shapes cannot be stacked: {shown}; make them of one "
            "shape in a transform "
            "(crop, resize, pad), or pass a collate_fn that puts rows together"
        )
