"""The PyTorch front end is a DataLoader in every respect that frameworks rely on."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from loader_fake import FakeSource, numbers
from torch.utils.data import DataLoader, IterableDataset

from lakefmt.errors import BadSample, InvalidInput
from lakefmt.loaders import Batch, dataloader


def labels(loader: Any) -> list[list[int]]:
    return [batch["label"].tolist() for batch in loader]


def test_is_a_dataloader() -> None:
    loader = dataloader(numbers(23)).batch(4).shuffle(seed=1).pytorch()
    assert isinstance(loader, DataLoader)
    assert isinstance(loader.dataset, IterableDataset)
    assert len(loader) == 6
    assert len(loader.dataset) == 23
    assert loader.batch_size == 4
    assert loader.num_workers == 0
    for attribute in ("batch_sampler", "sampler", "worker_init_fn", "multiprocessing_context", "collate_fn"):
        getattr(loader, attribute)


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_make_the_same_epochs(context: str, persistent: bool) -> None:
    chain = dataloader(numbers(41)).batch(4).shuffle(seed=1)
    alone = chain.pytorch()
    expected = [labels(alone) for _ in range(2)]
    loader = chain.pytorch(2, multiprocessing_context=context, persistent_workers=persistent)
    assert [labels(loader) for _ in range(2)] == expected
    assert sorted(v for b in expected[0] for v in b) == list(range(41))
    loader.close()


def test_persistent_workers_follow_a_loaded_state() -> None:
    chain = dataloader(numbers(41)).batch(4).shuffle()
    first = chain.pytorch()
    next(iter(first))
    state = first.state_dict()
    loader = chain.pytorch(2, persistent_workers=True)
    labels(loader)
    loader.load_state_dict(state)
    again = chain.pytorch()
    again.load_state_dict(state)
    assert labels(loader) == labels(again)
    loader.close()


def test_a_batch_is_a_dict_and_unpacks_as_a_tuple() -> None:
    loader = dataloader(numbers(8)).batch(4).pytorch(return_index=True, tensors=["label", "x"])
    for batch in loader:
        assert isinstance(batch, Batch)
        assert isinstance(batch, Mapping)
        assert list(batch.keys()) == ["label", "x", "index"]
        label, x, index = batch
        assert x.shape == (4, 3)
        assert torch.equal(label.long(), index)
    for clone in (copy.copy(batch), pickle.loads(pickle.dumps(batch)), Batch(**batch), Batch(dict(batch))):
        assert type(clone) is Batch
        assert list(clone.keys()) == list(batch.keys())
        assert torch.equal(clone["x"], batch["x"])


def test_no_copy_and_own_memory() -> None:
    held = list(dataloader(numbers(20)).batch(5).pytorch())
    assert len({b["x"].data_ptr() for b in held}) == len(held)
    held[0]["x"].zero_()  # writable, without a warning


@pytest.mark.parametrize("workers", [0, 2])
def test_dtypes(workers: int) -> None:
    dtypes = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32"]
    source = FakeSource({f"t_{d}": np.arange(4).astype(d) for d in dtypes})
    batch = next(iter(dataloader(source).batch(4).pytorch(workers)))
    changed = {"uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64}
    for d in dtypes:
        assert batch[f"t_{d}"].dtype == changed.get(d, getattr(torch, d))
        assert batch[f"t_{d}"].tolist() == np.arange(4).astype(d).tolist()


def test_read_only_samples_are_copied() -> None:
    values = [np.arange(k) for k in (1, 2)]
    for v in values:
        v.flags.writeable = False
    batch = next(iter(dataloader(FakeSource({"v": values})).batch(2).pytorch()))
    batch["v"][1][0] = 7
    assert values[1][0] == 0


def collate(rows: list[dict[str, Any]]) -> Any:
    return [(int(row["index"]), row["label"]) for row in rows]


@pytest.mark.parametrize("workers", [0, 2])
def test_collate_fn_gets_rows(workers: int) -> None:
    loader = dataloader(numbers(7)).batch(3).pytorch(workers, collate_fn=collate, return_index=True)
    assert list(loader) == [[(0, 0), (1, 1), (2, 2)], [(3, 3), (4, 4), (5, 5)], [(6, 6)]]


@pytest.mark.parametrize("workers", [0, 2])
def test_single_rows(workers: int) -> None:
    loader = dataloader(numbers(300)).pytorch(workers)
    rows = list(loader)
    assert len(rows) == len(loader) == 300
    assert [int(r["label"]) for r in rows] == list(range(300))
    assert rows[0]["x"].shape == (3,)


def test_drop_last_and_empty() -> None:
    loader = dataloader(numbers(10)).batch(4, drop_last=True).pytorch()
    assert len(loader) == len(list(loader)) == 2
    loader = dataloader(numbers(3)).batch(4, drop_last=True).pytorch()
    assert len(loader) == len(list(loader)) == 0


def test_ranks() -> None:
    chain = dataloader(numbers(22)).batch(3).shuffle()
    seen = [labels(chain.pytorch(shard=(r, 4))) for r in range(4)]
    assert {len(s) for s in seen} == {2}
    flat = [v for s in seen for b in s for v in b]
    assert set(flat) == set(range(22))  # without a seed, ranks agree all the same
    assert len(flat) == 24
    assert len(chain.pytorch(shard=(0, 4))) == 2
    with pytest.raises(InvalidInput, match=r"add \.batch"):
        dataloader(numbers(22)).pytorch(shard=(0, 2))


def decode_badly(value: Any) -> Any:
    if value == 9:
        raise BadSample("nothing there")
    return value


def test_worker_errors_keep_their_type() -> None:
    loader = dataloader(numbers(20)).transform({"label": decode_badly}).batch(4).pytorch(2)
    with pytest.raises(BadSample, match="row 9"):
        list(loader)


def test_worker_faults_come_home() -> None:
    loader = dataloader(numbers(20)).transform({"label": decode_badly}).batch(4).pytorch(2, on_error="collect")
    assert [v for b in labels(loader) for v in b] == [i for i in range(20) if i != 9]
    assert [f.row for f in loader.errors] == [9]


def test_stats() -> None:
    loader = dataloader(numbers(100)).batch(10).pytorch()
    list(loader)
    stats = loader.stats()
    assert (stats["batches"], stats["rows"], stats["nbytes"]) == (10, 100, 1600)
    assert stats["rows_per_s"] > 0
    assert stats["fetch_s"] > 0
    assert {"decode_s", "transform_s", "assemble_s", "wait_s"} <= stats.keys()


def test_options_are_checked() -> None:
    chain = dataloader(numbers(10)).batch(2)
    with pytest.raises(InvalidInput, match=r"no option 'prefetch_factors'.*'prefetch_factor'"):
        chain.pytorch(prefetch_factors=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidInput, match="prefetch=-1"):
        chain.pytorch(prefetch=-1)
    with pytest.raises(InvalidInput, match=r"use_local_cache.*local_cache_size="):
        chain.pytorch(use_local_cache=True)  # type: ignore[call-arg]
    with pytest.raises(InvalidInput, match="num_workers=-1"):
        chain.pytorch(-1)
    with pytest.raises(InvalidInput, match="num_threads"):
        chain.pytorch(num_threads=-1)
    with pytest.raises(InvalidInput, match="'index'"):
        dataloader(FakeSource({"index": np.arange(3)})).pytorch(return_index=True)
    with pytest.raises(InvalidInput, match="no torch device"):
        chain.pytorch(device="abacus")


def test_trains() -> None:
    """The loop of a tutorial, as Lightning runs it: epochs, batches to a device, a step."""
    from torch import nn

    loader = dataloader(numbers(256)).transform({"x": lambda v: v / 256, "label": None}).batch(32).shuffle().pytorch()
    model = nn.Linear(3, 1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(12):
        for x, label in loader:
            loss = ((model(x)[:, 0] - label.float() / 256) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
