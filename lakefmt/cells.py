"""What reading a tensor gives: one small sum type, shared by everything above the fragment.

``Dense``    every sample present and of one shape: a single array.
``Ragged``   arrays of differing shapes, or with missing samples.
``Encoded``  bytes of an image (or another codec), still encoded.
``Strings``  text or JSON documents, as an Arrow array (no Python object per row).

A missing sample is ``None`` in ``Ragged`` and ``Encoded`` and null in ``Strings``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Array: TypeAlias = npt.NDArray[Any]
Rows: TypeAlias = npt.NDArray[np.int64]
Buffer: TypeAlias = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Dense:
    """Samples of one shape: ``values`` has shape ``(n, *sample_shape)``."""

    values: Array

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Ragged:
    """One array (or ``None``) per sample."""

    values: list[Array | None]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One encoded document (or ``None``) per sample; ``codec`` is the tensor's (``jpeg``, ``png``)."""

    values: list[Buffer | None]
    codec: str

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Strings:
    """Text of each sample, as an Arrow string array; ``is_json`` when the text is a JSON document."""

    values: pa.Array
    is_json: bool = False

    def __len__(self) -> int:
        return len(self.values)


Cells: TypeAlias = Dense | Ragged | Encoded | Strings


def map_samples(cells: Ragged | Encoded, fn: Callable[[Any], Array]) -> list[Array | None]:
    """Apply ``fn`` to every present sample, keeping ``None``."""
    return [None if v is None else fn(v) for v in cells.values]


def unequal(one: Cells, other: Cells) -> Array:
    """Which samples of two answers of the same length are not the same, bool (n,). Numbers are compared in a dtype for both."""
    dtype = _common(one, other)
    if isinstance(one, Dense) and isinstance(other, Dense) and one.values.shape == other.values.shape:
        differ: Array = _bytes_of(one.values.astype(dtype)) != _bytes_of(other.values.astype(dtype))
        return np.asarray(differ.any(axis=1))
    pairs = zip(_plain(one, dtype), _plain(other, dtype), strict=True)
    return np.array([a != b for a, b in pairs], bool)


def _common(one: Cells, other: Cells) -> np.dtype[Any] | None:
    dtypes = {v.dtype for c in (one, other) if isinstance(c, (Dense, Ragged)) for v in c.values if v is not None}
    return np.result_type(*dtypes) if dtypes else None


def _bytes_of(values: Array) -> Array:
    """Each sample as a row of bytes: a NaN is equal to itself."""
    return np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8).reshape(len(values), -1)


def _plain(cells: Cells, dtype: Any) -> list[Any]:
    match cells:
        case Strings(values):
            return list(values.to_pylist())
        case Encoded(encoded):
            return [None if v is None else bytes(v) for v in encoded]
        case Dense(values) | Ragged(values):
            return [None if v is None else (np.shape(v), np.asarray(v).astype(dtype).tobytes()) for v in values]
