"""Light columns as they are kept in memory: plain arrays, made of Arrow's once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from lakefmt.cells import Array, Cells, Dense, Ragged, Rows
from lakefmt.fragment.arrow import numpy_of, present
from lakefmt.fragment.meta import Layout


@dataclass(frozen=True, slots=True)
class Scalars:
    """A decoded SCALAR column; ``valid`` is None when nothing is missing."""

    values: Array
    valid: Array | None


@dataclass(frozen=True, slots=True)
class Lists:
    """A decoded LISTS column: flat values between offsets."""

    offsets: Array
    values: Array
    valid: Array | None


Light: TypeAlias = Scalars | Lists | pa.Array


def decode_light(array: pa.Array, layout: Layout) -> tuple[Light, int]:
    """A column as it is kept, and its bytes."""
    valid = None if array.null_count == 0 else present(array)
    match layout:
        case Layout.SCALAR:
            filled = array if valid is None else array.fill_null(False if pa.types.is_boolean(array.type) else 0)
            values = numpy_of(filled)
            return Scalars(values, valid), values.nbytes
        case Layout.LISTS:
            offsets = numpy_of(array.offsets).astype(np.int64)
            values = numpy_of(array.values)
            return Lists(offsets, values, valid), values.nbytes + offsets.nbytes
        case _:
            return array, array.nbytes


def scalar_cells(scalars: Scalars, rows: Rows) -> Cells:
    """Samples of a SCALAR column."""
    values = scalars.values[rows]
    if scalars.valid is None:
        return Dense(values)
    present = scalars.valid[rows].tolist()
    return Ragged([values[i : i + 1].reshape(()) if p else None for i, p in enumerate(present)])
