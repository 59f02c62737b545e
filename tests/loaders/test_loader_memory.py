"""Leased blocks: reused when garbage, never while anything refers to them."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from lakefmt.loaders.memory import ALIGN_BYTES, FREE_BLOCKS_MAX, LEASE_BYTES_MIN, SIZES_MAX, Leases

BIG = (LEASE_BYTES_MIN // 4, 4)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_block_comes_back_only_when_nothing_refers_to_it() -> None:
    leases = Leases()
    array = leases(BIG, "uint8")
    where = address(array)
    assert where % ALIGN_BYTES == 0
    assert array.flags.writeable
    assert array.flags.c_contiguous
    view = array[5:, 1]
    del array
    assert address(leases(BIG, "uint8")) != where  # a view holds it
    tensor = torch.from_numpy(view)
    del view
    assert address(leases(BIG, "uint8")) != where  # a tensor over the view holds it
    del tensor
    seen = [leases(BIG, "uint8") for _ in range(3)]
    assert where in [address(a) for a in seen]
    assert len({address(a) for a in seen}) == 3


def test_dtypes_and_sizes() -> None:
    leases = Leases()
    for dtype in ("float32", "int64", "bool", "float16"):
        array = leases((LEASE_BYTES_MIN, 2), dtype)
        assert array.shape == (LEASE_BYTES_MIN, 2)
        assert array.dtype == dtype
    assert leases((3,), "uint8").shape == (3,)
    assert leases((0, 5), "uint8").shape == (0, 5)


def test_what_is_kept_is_bounded() -> None:
    leases = Leases()
    held = [leases(BIG, "uint8") for _ in range(3 * FREE_BLOCKS_MAX)]
    del held
    for extra in range(2 * SIZES_MAX):
        leases((LEASE_BYTES_MIN + extra,), "uint8")
    assert len(leases._free) == SIZES_MAX
    assert max(len(blocks) for blocks in leases._free.values()) == FREE_BLOCKS_MAX
    assert pickle.loads(pickle.dumps(leases))._free == {}
