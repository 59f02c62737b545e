"""NumPy batches to torch batches, without copying where torch can share the memory.

torch computes little with unsigned integers beyond uint8, so that uint16 becomes int32, and uint32 and uint64
become int64 (values from 2**63 on wrap). Text and other objects stay what they are.

Between processes, every tensor costs a file descriptor and a mapping: a batch of 256 images of differing
sizes would soon exhaust both. Lists of arrays therefore travel as one buffer and their shapes (``Packed``),
and become views of it on arrival.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lakefmt.cells import Array
from lakefmt.errors import InvalidInput
from lakefmt.loaders.batch import OFFSETS, Batch, Parcel, map_values

_SIGNED = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}


def tensor_of(array: Array) -> Any:
    """A tensor over ``array``'s memory where possible; the array itself when torch has no such dtype."""
    signed = _SIGNED.get(array.dtype.name)
    if signed is not None:
        return torch.from_numpy(array.astype(signed))
    if array.dtype.kind not in "biufc":
        return array
    if not array.flags.writeable or not array.flags.aligned or any(s < 0 for s in array.strides):
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


def to_torch(batch: Any) -> Any:
    """The batch with tensors for arrays, also inside lists. What is no ``Batch`` passes unchanged."""
    return map_values(batch, _value) if isinstance(batch, Batch) else batch


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


def to_packed(batch: Any) -> Any:
    """``to_torch`` for a batch that goes to another process."""
    return map_values(batch, _packed) if isinstance(batch, Batch) else batch


def unpacked(batch: Any) -> Any:
    """Undo ``to_packed`` on arrival."""
    if isinstance(batch, Parcel):
        return Parcel(unpacked(batch.value), batch.faults, batch.kept)
    if not isinstance(batch, Batch):
        return batch
    return map_values(batch, lambda value: value.unpack() if isinstance(value, Packed) else value)


def nested(batch: Any) -> Any:
    """Values with offsets (``ragged="flat"``) as nested tensors in the jagged layout."""
    if isinstance(batch, Parcel):
        return Parcel(nested(batch.value), batch.faults, batch.kept)
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
