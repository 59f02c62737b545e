"""The map-style dataset under a DataLoader of the user's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loader_fake import FakeSource, numbers
from torch.utils.data import DataLoader, WeightedRandomSampler

from lakefmt.errors import RowIndexError
from lakefmt.loaders import map_dataset


def test_rows() -> None:
    data = map_dataset(numbers(10))
    assert len(data) == 10
    assert int(data[3]["label"]) == int(data[-7]["label"]) == 3
    assert data[3]["x"].tolist() == [3, 0, 0]
    for wrong in (10, -11):
        with pytest.raises(RowIndexError, match=f"row {wrong} of a dataset of 10"):
            data[wrong]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("vectorised", [True, False])
def test_under_a_dataloader(workers: int, vectorised: bool) -> None:
    data = map_dataset(numbers(50), tensors=["label", "x"], transform={"label": None, "x": lambda v: v * 2})
    options: dict[str, Any] = {"collate_fn": data.collate} if vectorised else {}
    loader = DataLoader(data, batch_size=8, shuffle=True, num_workers=workers, **options)
    seen = []
    for batch in loader:
        assert isinstance(batch["x"], torch.Tensor)
        assert batch["x"][:, 0].tolist() == (batch["label"] * 2).tolist()
        seen += batch["label"].tolist()
    assert sorted(seen) == list(range(50))


def test_one_gather_a_batch() -> None:
    source = numbers(64)
    data = map_dataset(source, tensors=["x"])
    assert len(list(DataLoader(data, batch_size=16, collate_fn=data.collate))) == 4
    assert source.gathers == 4


def test_sampler_and_ragged() -> None:
    source = FakeSource({"v": [np.arange(k) for k in (1, 2, 3)], "t": ["a", "b", "c"]})
    data = map_dataset(source)
    sampler = WeightedRandomSampler([0, 0, 1], 4)
    batch = next(iter(DataLoader(data, batch_size=4, sampler=sampler, collate_fn=data.collate)))
    assert [v.tolist() for v in batch["v"]] == [[0, 1, 2]] * 4
    assert batch["t"] == ["c"] * 4


def test_looks_like_a_list_of_rows() -> None:
    rows = map_dataset(numbers(10)).__getitems__([4, 2])
    assert [int(r["label"]) for r in rows] == [4, 2]
    assert int(rows[-1]["label"]) == 2
    assert len(rows[0:2]) == len(rows) == 2
    with pytest.raises(IndexError):
        rows[2]
