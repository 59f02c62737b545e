"""torch has no uint64 to compute with: values that int64 does not hold are refused, never negative."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loader_fake import FakeSource

from lakefmt.errors import DtypeError, InvalidInput
from lakefmt.loaders import dataloader, map_dataset

LARGE = 2**63 + 5


def dense(rows: int = 8, bad: int = 5) -> FakeSource:
    x = np.arange(rows * 2, dtype=np.uint64).reshape(rows, 2)
    x[bad, 1] = LARGE
    return FakeSource({"x": x})


@pytest.mark.parametrize("workers", [0, 1])
def test_the_row_and_the_value_are_named(workers: int) -> None:
    loader = iter(dataloader(dense()).batch(4).pytorch(workers))
    assert next(loader)["x"].dtype == torch.int64
    with pytest.raises(DtypeError, match=f"row 5, tensor 'x'.*{LARGE}.*transform"):
        next(loader)


@pytest.mark.parametrize(("ragged", "workers"), [("list", 0), ("list", 1), ("pad", 0), ("flat", 0)])
def test_samples_of_differing_lengths(ragged: str, workers: int) -> None:
    values = [np.arange(k, dtype=np.uint64) for k in (2, 0, 3, 1)]
    values[2][1] = LARGE
    loader = dataloader(FakeSource({"v": values})).batch(4).pytorch(workers, ragged=ragged)
    with pytest.raises(DtypeError, match=f"row 2, tensor 'v'.*{LARGE}"):
        list(loader)


def test_the_largest_int64_passes() -> None:
    source = FakeSource({"x": np.array([0, 2**63 - 1], np.uint64), "none": np.empty((2, 0), np.uint64)})
    assert next(iter(dataloader(source).batch(2).pytorch()))["x"].tolist() == [0, 2**63 - 1]


def test_of_a_shuffled_and_of_a_mapped_batch() -> None:
    with pytest.raises(DtypeError, match="row 5, tensor 'x'"):
        list(dataloader(dense()).batch(3).shuffle(seed=1).pytorch())
    with pytest.raises(DtypeError, match="sample 1 of a batch, tensor 'x'"):
        list(dataloader(dense()).batch(4).map_batches(lambda b: b).pytorch())


def test_single_rows_and_results_of_a_transform() -> None:
    with pytest.raises(DtypeError, match="row 5"):
        list(dataloader(dense()).pytorch())
    with pytest.raises(DtypeError, match="row 5, tensor 'x'"):
        list(dataloader(dense()).transform({"x": lambda v: v[1]}).batch(4).pytorch())
    assert next(iter(dataloader(dense()).transform({"x": lambda v: v.astype(np.float64)}).batch(8).pytorch()))["x"][5, 1] == 2.0**63


def test_a_map_dataset() -> None:
    data = map_dataset(dense())
    assert data[4]["x"].tolist() == [8, 9]
    with pytest.raises(DtypeError, match=f"row 5, tensor 'x'.*{LARGE}"):
        data[5]
    with pytest.raises(DtypeError, match="row 5, tensor 'x'"):
        data.__getitems__([1, 5])


def test_numpy_gives_them_as_they_are() -> None:
    assert next(iter(dataloader(dense()).batch(8).numpy()))["x"][5, 1] == LARGE


@pytest.mark.parametrize(
    "odd",
    [
        (LARGE, -1),
        (np.uint64(7), np.int64(-7)),
        (np.array([1], np.uint64), np.array([-1])),
        (0.5, 2**53 + 1),
        (0.5, 2**63 + 1),
        (np.array([0.5]), np.array([2**53 + 1])),
        (torch.tensor(0.5), torch.tensor(2**24 + 1)),
        (torch.tensor([0.5]), torch.tensor([2**24 + 1])),
    ],
)
def test_integers_never_become_floats_by_chance(odd: tuple[Any, Any]) -> None:
    loader = dataloader(FakeSource({"x": np.arange(4)})).transform({"x": lambda v: odd[int(v) % 2]}).batch(4).numpy()
    with pytest.raises(InvalidInput, match=r"'x', row [01]: the transform.*float.*lose digits"):
        list(loader)


def test_small_integers_among_floats_are_floats() -> None:
    for odd in ((0.5, 1), (np.array([0.5]), np.array([1])), (torch.tensor(0.5), torch.tensor(1))):
        chain = dataloader(FakeSource({"x": np.arange(4)})).transform({"x": lambda v, odd=odd: odd[int(v) % 2]}).batch(4)
        assert np.asarray(next(iter(chain.numpy()))["x"]).reshape(-1).tolist() == [0.5, 1, 0.5, 1]


def test_other_byte_orders_and_wider_floats() -> None:
    source = FakeSource({"x": np.arange(3)})
    chain = dataloader(source).transform({"x": lambda v: np.array([v, 300], ">i4")}).batch(3)
    assert next(iter(chain.pytorch()))["x"].tolist() == [[0, 300], [1, 300], [2, 300]]
    batch = next(iter(dataloader(source).transform({"x": lambda v: np.longdouble(v)}).batch(3).pytorch()))
    assert np.asarray(batch["x"]).tolist() == [0, 1, 2]
