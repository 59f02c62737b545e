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
        stacked = torch.stack(tensors)
        for row, tensor in zip(rows.tolist(), tensors, strict=True):
            if tensor.dtype != stacked.dtype and not torch.equal(tensor.to(stacked.dtype).to(tensor.dtype), tensor):
                raise _lossy(name, row, tensor.dtype, stacked.dtype)
        return stacked
    if not all(isinstance(v, _NUMBERS) for v in values):
        _one_shape(name, values, rows)
        return _exact(name, values, np.stack(values), rows)
    return _exact(name, values, np.asarray(values), rows)


def _exact(name: str, values: list[Any], stacked: Any, rows: Rows) -> Any:
    """``stacked``, unless integers lost digits in it: NumPy makes float64 of integers among floats, and of int64 with
    uint64.
    """
    if stacked.dtype.kind != "f" or not any(_integer(v) for v in values):
        return stacked
    alone = all(_integer(v) for v in values)
    for row, value in zip(rows.tolist(), values, strict=True):
        if _integer(value):
            array = np.asarray(value)
            if alone or array.dtype == object or not np.array_equal(array.astype(stacked.dtype).astype(array.dtype), array):
                raise _lossy(name, row, array.dtype, stacked.dtype)
    return stacked


def _integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) or (isinstance(value, np.ndarray) and value.dtype.kind in "iu")


def _lossy(name: str, row: int, dtype: Any, common: Any) -> InvalidInput:
    return InvalidInput(
        f"{name!r}, row {row}: the transform returned {dtype} for it and another dtype for other rows; together they would "
        f"become {common} and lose digits; return one dtype for every sample"
    )


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
