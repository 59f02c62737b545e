"""Answers put together: samples of several files in one order, missing ones, and those stored in a narrower dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from lakefmt.cells import Cells, Dense, Encoded, Ragged, Rows, Strings
from lakefmt.htypes import Kind, TensorDef


def widened(cells: Cells, definition: TensorDef) -> Cells:
    """Samples in the tensor's present dtype."""
    if isinstance(cells, Dense):
        return Dense(cells.values.astype(definition.dtype))
    assert isinstance(cells, Ragged)
    return Ragged([None if v is None else v.astype(definition.dtype) for v in cells.values])


def missing_cells(definition: TensorDef, count: int) -> Cells:
    """``count`` missing samples."""
    match definition.kind:
        case Kind.TEXT | Kind.JSON:
            return Strings(pa.nulls(count, pa.large_string()), definition.kind is Kind.JSON)
        case Kind.ENCODED:
            return Encoded([None] * count, definition.compression or "")
        case Kind.NUMERIC:
            return Ragged([None] * count)


def place(definition: TensorDef, count: int, parts: list[tuple[Rows, Cells]]) -> Cells:
    """Put cells at given positions of an answer of ``count``; later parts win, positions nobody fills are missing."""
    if len(parts) == 1 and len(parts[0][0]) == count and bool(np.all(np.diff(parts[0][0]) == 1)):
        return parts[0][1]
    if definition.kind in (Kind.TEXT, Kind.JSON):
        return _place_strings(definition, count, parts)
    dense = [(at, c.values) for at, c in parts if isinstance(c, Dense)]
    filled = np.zeros(count, bool)
    for at, _ in dense:
        filled[at] = True
    if len(dense) == len(parts) and len({v.shape[1:] for _, v in dense}) == 1 and bool(filled.all()):
        out = np.empty((count, *dense[0][1].shape[1:]), dense[0][1].dtype)
        for at, values in dense:
            out[at] = values
        return Dense(out)
    samples: list[Any] = [None] * count
    for at, cells in parts:
        for i, value in zip(at.tolist(), cells.values, strict=True):
            samples[i] = np.asarray(value) if isinstance(cells, Dense) else value
    if definition.kind is Kind.ENCODED:
        return Encoded(samples, definition.compression or "")
    return Ragged(samples)


def _place_strings(definition: TensorDef, count: int, parts: list[tuple[Rows, Cells]]) -> Strings:
    arrays = [c.values.cast(pa.large_string()) for _, c in parts if isinstance(c, Strings)]
    source = np.full(count, -1, np.int64)
    start = 0
    for (at, _), array in zip(parts, arrays, strict=True):
        source[at] = np.arange(start, start + len(array))
        start += len(array)
    joined = pa.concat_arrays(arrays) if arrays else pa.nulls(0, pa.large_string())
    index = pa.array(source, mask=source < 0) if bool((source < 0).any()) else pa.array(source)
    return Strings(joined.take(index), definition.kind is Kind.JSON)
