"""NumPy batches to torch batches, without copying where torch can share the memory.

torch computes little with unsigned integers beyond uint8, so that uint16 becomes int32, and uint32 and uint64
become int64; a batch with a value from 2**63 on is refused, for it would come out negative. Text and other
objects stay what they are.

Between processes, every tensor costs a file descriptor and a mapping: a batch of 256 images of differing
sizes would soon exhaust both. Lists of arrays therefore travel as one buffer and their shapes (``Packed``),
and become views of it on arrival.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lakefmt.cells import Array, Rows
from lakefmt.errors import DtypeError, InvalidInput
from lakefmt.loaders.batch import OFFSETS, Batch, Parcel, map_values

_SIGNED = {2: np.int32, 4: np.int64, 8: np.int64}  # of unsigned integers, by their bytes
_INT64_END = 2**63


class _Unfit(Exception):
    """An array holds values that no torch dtype takes: ``value`` is the first, at ``flat`` of its elements."""

    def __init__(self, value: int, flat: int) -> None:
        super().__init__(value, flat)
        self.value, self.flat = value, flat


def tensor_of(array: Array) -> Any:
    """A tensor over ``array``'s memory where possible; the array itself when torch has no such dtype."""
    dtype = array.dtype
    signed = _SIGNED.get(dtype.itemsize) if dtype.kind == "u" else None
    if signed is not None:
        if dtype.itemsize == 8 and array.size and array.max() >= _INT64_END:
            flat = int(np.argmax(array.reshape(-1) >= _INT64_END))
            raise _Unfit(int(array.reshape(-1)[flat]), flat)
        return torch.from_numpy(array.astype(signed))
    if dtype.kind not in "biufc" or dtype.type in (np.longdouble, np.clongdouble):
        return array
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    flags = array.flags
    if not flags.writeable or not flags.aligned or any(s < 0 for s in array.strides):
        array = array.copy()  # a read-only or reversed view cannot be shared
    return torch.from_numpy(array)


def _value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return tensor_of(value)
    if not isinstance(value, list) or (value and isinstance(value[0], str)):  # a column of text, by far the longest lists
        return value
    if any(isinstance(v, np.ndarray | np.generic) for v in value):
        return [tensor_of(np.asarray(v)) if isinstance(v, np.ndarray | np.generic) else v for v in value]
    return value


def to_torch(batch: Any, rows: Rows | None = None) -> Any:
    """The batch with tensors for arrays, also inside lists. What is no ``Batch`` passes unchanged.

    Args:
        rows: the row of the source that each sample of the batch is, for messages; ``None`` where a function
            of the batch may have changed that.

    Raises:
        DtypeError: a uint64 beyond what int64 holds.
    """
    return _converted(batch, rows, _value)


def _converted(batch: Any, rows: Rows | None, fn: Callable[[Any], Any]) -> Any:
    if not isinstance(batch, Batch):
        return batch
    made = Batch()
    for name, value in batch.items():
        try:
            made[name] = fn(value)
        except _Unfit as e:
            at = _sample_at(value, batch.get(name + OFFSETS), e)
            where = f"row {rows[at]}" if rows is not None and at < len(rows) else f"sample {at} of a batch"
            raise DtypeError(
                f"{where}, tensor {name!r}: torch computes with no uint64, and {e.value} is too large for int64; "
                "make float64 or smaller integers of it in a transform, or read it with .numpy()"
            ) from None
    return made


def _sample_at(value: Any, offsets: Any, unfit: _Unfit) -> int:
    """Which sample of a batch entry the unfit value is in."""
    if isinstance(value, list):
        arrays = ((i, np.asarray(v)) for i, v in enumerate(value) if isinstance(v, np.ndarray | np.generic))
        return next(i for i, array in arrays if array.dtype == np.uint64 and (array >= _INT64_END).any())
    outer = unfit.flat // max(1, value.size // len(value)) if value.ndim else 0
    laid_end_to_end = isinstance(offsets, np.ndarray) and offsets.ndim == 1 and offsets.size and offsets[-1] == len(value)
    return int(np.searchsorted(offsets, outer, side="right")) - 1 if laid_end_to_end else outer


@dataclass(slots=True)
class Packed:
    """A list of arrays of one dtype, end to end; ``shapes`` has ``None`` for missing ones."""

    values: Any
    shapes: list[tuple[int, ...] | None]

    def pin_memory(self, device: Any = None) -> Packed:
        """Called by torch's pinning thread."""
        return Packed(self.values.pin_memory(), self.shapes)

    def unpack(self) -> list[Any]:
        """The tensors, as views of one storage."""
        views: list[Any] = []
        begin = 0
        for shape in self.shapes:
            if shape is None:
                views.append(None)
                continue
            size = math.prod(shape)
            views.append(self.values[begin : begin + size].view(shape))
            begin += size
        return views


def _packed(value: Any) -> Any:
    if isinstance(value, list):
        present = [v for v in value if v is not None]
        if present and all(isinstance(v, np.ndarray) for v in present) and len({v.dtype for v in present}) == 1:
            values = tensor_of(np.concatenate([v.reshape(-1) for v in present]))
            if isinstance(values, torch.Tensor):
                return Packed(values, [None if v is None else v.shape for v in value])
    return _value(value)


def to_packed(batch: Any, rows: Rows | None = None) -> Any:
    """``to_torch`` for a batch that goes to another process."""
    return _converted(batch, rows, _packed)


def unpacked(batch: Any) -> Any:
    """Undo ``to_packed`` on arrival."""
    if isinstance(batch, Parcel):
        return replace(batch, value=unpacked(batch.value))
    if not isinstance(batch, Batch):
        return batch
    return map_values(batch, lambda value: value.unpack() if isinstance(value, Packed) else value)


def nested(batch: Any) -> Any:
    """Values with offsets (``ragged="flat"``) as nested tensors in the jagged layout."""
    if isinstance(batch, Parcel):
        return replace(batch, value=nested(batch.value))
    if not isinstance(batch, Batch):
        return batch
    joined = Batch()
    for name, value in batch.items():
        offsets = batch.get(name + OFFSETS)
        if offsets is not None:
            if not isinstance(value, torch.Tensor):
                raise InvalidInput(f"tensor {name!r} of dtype {value.dtype} cannot be nested; use ragged='list'")
            joined[name] = torch.nested.nested_tensor_from_jagged(value, offsets)
        elif not (name.endswith(OFFSETS) and name.removesuffix(OFFSETS) in batch):
            joined[name] = value
    return joined
