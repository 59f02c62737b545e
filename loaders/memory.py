"""Memory for batches: fresh to whoever holds it, without the price of fresh pages.

A batch of some megabytes asks the operating system for new pages, each of which is faulted in and zeroed on
first touch: measured, this costs as much as filling the batch, and under TensorFlow three times as much.
``Leases`` keeps blocks that have become garbage and hands them out again. A block comes back only when the
last reference to its array is gone, views, tensors over it (``torch.from_numpy``) and tensors of TensorFlow's
included, since they hold the array; that is exactly when ``free`` would have got it. So, as with any
allocator, nothing that somebody still holds is ever written again.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

from lakefmt.cells import Array

#: Smaller arrays come from malloc's own free lists, which are as fast.
LEASE_BYTES_MIN = 256 * 1024
#: Free blocks kept of one size: what a pipeline that looks two ahead has under way.
FREE_BLOCKS_MAX = 4
#: Sizes kept at all: one or two for every large tensor (the last batch of an epoch is shorter).
SIZES_MAX = 16
#: For images, of which a batch has many, and no two alike: blocks come in steps of an eighth of a power of two, from this size on.
IMAGE_BYTES_MIN = 32 * 1024
#: Bytes of free image blocks kept of one size, at most.
IMAGE_FREE_BYTES_MAX = 32 << 20
IMAGE_SIZES_MAX = 128
#: TensorFlow shares memory aligned to this, and copies other.
ALIGN_BYTES = 64


class _Lease:
    """Owner of a block as NumPy sees it; gives the block back when no array refers to it any more."""

    __slots__ = ("__array_interface__", "_block", "_free")

    def __init__(self, block: Array, free: deque[Array]) -> None:
        self.__array_interface__ = block.__array_interface__
        self._block, self._free = block, free

    def __del__(self) -> None:
        # No lock: this may run inside any garbage collection. A full deque drops its oldest block by itself.
        self._free.append(self._block)


class Leases:
    """Allocates arrays for one loader. Safe from several threads; empty again after pickling."""

    bytes_min = LEASE_BYTES_MIN
    sizes_max = SIZES_MAX

    def __init__(self) -> None:
        self._free: dict[int, deque[Array]] = {}

    def _block_bytes(self, nbytes: int) -> int:
        """Size of the block that an array of ``nbytes`` gets."""
        return nbytes

    def _blocks_max(self, nbytes: int) -> int:
        """Free blocks of a size to keep."""
        return FREE_BLOCKS_MAX

    def __call__(self, shape: tuple[int, ...], dtype: str) -> Array:
        """An array of this shape and dtype that nobody else refers to; contents undefined."""
        kind = np.dtype(dtype)
        nbytes = math.prod(shape) * kind.itemsize
        if nbytes < self.bytes_min:
            return np.empty(shape, kind)
        size = self._block_bytes(nbytes)
        free = self._free.get(size)
        if free is None:
            if len(self._free) >= self.sizes_max:
                return np.empty(shape, kind)
            free = self._free.setdefault(size, deque(maxlen=self._blocks_max(size)))
        try:
            block = free.pop()
        except IndexError:
            block = _aligned(size)
        array: Array = np.asarray(_Lease(block, free))[:nbytes].view(kind).reshape(shape)
        return array

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class ImageLeases(Leases):
    """The same for decoded images: many at a time, of all sizes."""

    bytes_min = IMAGE_BYTES_MIN
    sizes_max = IMAGE_SIZES_MAX

    def _block_bytes(self, nbytes: int) -> int:
        step = max(1, (1 << (nbytes.bit_length() - 1)) // 8)
        return -(-nbytes // step) * step

    def _blocks_max(self, nbytes: int) -> int:
        return max(FREE_BLOCKS_MAX, IMAGE_FREE_BYTES_MAX // nbytes)


def _aligned(nbytes: int) -> Array:
    memory = np.empty(nbytes + ALIGN_BYTES, np.uint8)
    begin = -memory.ctypes.data % ALIGN_BYTES
    return memory[begin : begin + nbytes]
