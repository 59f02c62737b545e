"""Arrow arrays as NumPy arrays, over the same memory. (pyarrow's own way imports pandas where it can: a sixth of a second.)"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from lakefmt.cells import Array

_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


def numpy_of(array: pa.Array) -> Array:
    """A primitive array, what is null in it being whatever lies there."""
    buffer = array.buffers()[1]
    if buffer is None:
        return np.empty(0, _dtype(array.type))
    if pa.types.is_boolean(array.type):
        bits = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little")
        flags: Array = bits[array.offset : array.offset + len(array)].view(np.bool_)
        return flags
    return np.frombuffer(buffer, _dtype(array.type))[array.offset : array.offset + len(array)]


def present(array: pa.Array) -> Array:
    """Which elements are not null."""
    return numpy_of(array.is_valid())


def _dtype(kind: pa.DataType) -> np.dtype[np.generic]:
    return np.dtype("bool" if pa.types.is_boolean(kind) else _FLOATS.get(str(kind), str(kind)))
