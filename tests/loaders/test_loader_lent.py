"""Another DataLoader made of a loader's parts (dataset, batch_size, collate_fn) hands out the same epochs."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
from loader_fake import FakeSource, numbers
from torch.utils.data import DataLoader

from lakefmt.codecs import encode
from lakefmt.errors import BadSample, InvalidInput
from lakefmt.loaders import Batch, dataloader
from lakefmt.loaders import pytorch as front
from lakefmt.loaders.steps import Shard


def labels(loader: Any) -> list[list[int]]:
    return [batch["label"].tolist() for batch in loader]


def remade(loader: Any, **changes: Any) -> DataLoader[Any]:
    """As Accelerate makes it."""
    names = ("batch_size", "drop_last", "collate_fn", "num_workers", "multiprocessing_context", "persistent_workers")
    return DataLoader(loader.dataset, **{**{name: getattr(loader, name) for name in names}, **changes})


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_same_batches_in_every_epoch(drop_last: bool, shuffled: bool) -> None:
    chain = dataloader(numbers(50)).batch(8, drop_last=drop_last)
    chain = chain.shuffle(seed=1) if shuffled else chain
    own, other = chain.pytorch(), remade(chain.pytorch())
    assert len(other) == len(own)
    for _ in range(3):
        assert labels(other) == labels(own)
    assert all(isinstance(batch, Batch) for batch in other)


@pytest.mark.parametrize(("context", "persistent"), [("fork", False), ("fork", True), ("spawn", True)])
def test_workers(context: str, persistent: bool) -> None:
    chain = dataloader(numbers(50)).batch(8).shuffle(seed=1)
    own = chain.pytorch()
    loader = chain.pytorch(2, multiprocessing_context=context, persistent_workers=persistent)
    other = remade(loader)
    for epoch in range(2):
        loader.dataset.set_epoch(epoch)
        assert labels(other) == labels(own)


def test_epochs_are_asked_for_or_follow_each_other() -> None:
    chain = dataloader(numbers(50)).batch(8).shuffle(seed=1)
    own = chain.pytorch()
    epochs = [labels(own) for _ in range(3)]
    loader = chain.pytorch()
    loader.dataset.set_epoch(2)
    assert labels(remade(loader)) == epochs[2]
    loader.dataset.set_epoch(0)
    assert labels(remade(loader)) == epochs[0]
    assert labels(remade(loader)) == epochs[1]
    loader.set_epoch(1)
    assert labels(loader) == epochs[1]


def test_everything_a_batch_can_hold() -> None:
    pixels = [np.full((4 + i % 3, 5, 3), i, np.uint8) for i in range(13)]
    source = FakeSource({
        "image": [encode("png", p) for p in pixels],
        "text": [f"t{i}" for i in range(13)],
        "spans": [None if i == 2 else np.arange(i) for i in range(13)],
    })  # fmt: skip
    for options in ({}, {"return_index": True}, {"num_threads": 0}, {"num_workers": 1}):
        loader = dataloader(source).batch(4).pytorch(**options)
        row = 0
        for batch in remade(loader):
            for i, text in enumerate(batch["text"]):
                assert text == f"t{row}"
                assert np.array_equal(batch["image"][i], pixels[row])
                assert (batch["spans"][i] is None) if row == 2 else batch["spans"][i].tolist() == list(range(row))
                row += 1
        assert row == 13
    loader = dataloader(source).batch(4).pytorch(tensors=["text"], collate_fn=lambda rows: [r["text"] for r in rows])
    assert list(remade(loader)) == list(loader)


def test_other_batch_sizes_and_other_collate_functions() -> None:
    loader = dataloader(numbers(50)).batch(8).shuffle(seed=1).pytorch()
    expected = [v for b in labels(dataloader(numbers(50)).batch(8).shuffle(seed=1).pytorch()) for v in b]
    got = labels(remade(loader, batch_size=5))
    assert [len(b) for b in got] == [5] * 10
    assert [v for b in got for v in b] == expected
    loader.dataset.set_epoch(0)
    batches = list(remade(loader, batch_size=7, collate_fn=None))
    assert [v for b in batches for v in b["label"].tolist()] == expected
    assert batches[0]["x"].shape == (7, 3)


def test_single_rows() -> None:
    loader = dataloader(numbers(10)).pytorch()
    rows = list(remade(loader))
    assert [int(r["label"]) for r in rows] == list(range(10))
    assert rows[0]["x"].shape == (3,)
    first = next(iter(loader.dataset))
    assert list(first) == ["x", "label"]
    assert len(first) == 2
    assert first["x"].tolist() == [0, 0, 0]


def bad_at_9(value: Any) -> Any:
    if value == 9:
        raise BadSample("nothing there")
    return value


def all_bad(value: Any) -> Any:
    raise BadSample("nothing there")


def test_bad_samples() -> None:
    chain = dataloader(numbers(20)).transform({"label": bad_at_9}).batch(4)
    with pytest.raises(BadSample, match="row 9"):
        list(remade(chain.pytorch()))
    assert [v for b in labels(remade(chain.pytorch(on_error="skip"))) for v in b] == [i for i in range(20) if i != 9]
    assert list(remade(dataloader(numbers(20)).transform({"label": all_bad}).batch(4).pytorch(on_error="skip"))) == []


def test_the_loader_does_not_know_how_far_others_have_come() -> None:
    loader = dataloader(numbers(20)).batch(4).shuffle(seed=1).pytorch()
    labels(remade(loader))
    with pytest.raises(InvalidInput, match="handed out by another DataLoader"):
        loader.state_dict()
    labels(loader)
    assert loader.state_dict()["epoch"] == 1


def test_a_resumed_loader_goes_on_in_other_hands() -> None:
    chain = dataloader(numbers(50)).batch(8).shuffle()
    own = chain.pytorch()
    labels(own)
    items = iter(own)
    for _ in range(3):
        next(items)
    loader = chain.pytorch()
    loader.load_state_dict(own.state_dict())
    loader.dataset.set_epoch(0)  # Accelerate counts from 0 in every run
    assert labels(remade(loader)) == labels(items)
    loader.dataset.set_epoch(1)
    assert labels(remade(loader)) == labels(own)


def test_a_stream_of_rows_has_a_state() -> None:
    chain = dataloader(numbers(50)).batch(8).shuffle()
    loader = chain.pytorch()
    next(iter(loader.dataset))
    stream = iter(loader.dataset)
    for _ in range(21):
        next(stream)
    state = pickle.loads(pickle.dumps(stream.state_dict()))
    later = chain.pytorch()
    resumed = iter(later.dataset)
    resumed.load_state_dict(state)
    assert [int(r["label"]) for r in resumed] == [int(r["label"]) for r in stream]
    assert labels(remade(later)) == labels(remade(loader))
    with pytest.raises(InvalidInput, match="seed"):
        iter(dataloader(numbers(50)).batch(8).shuffle(seed=1).pytorch().dataset).load_state_dict(state)


@pytest.mark.parametrize("batch_rows", [1, 2, 4])
def test_a_stream_goes_on_where_it_was_behind_batches_that_are_left_out(batch_rows: int) -> None:
    bad = {2, 3, 8, 9, 10, 11}
    chain = dataloader(numbers(18)).transform({"label": lambda v: 1 // 0 if int(v) in bad else v}).batch(batch_rows)
    rows = [r.number for r in chain.pytorch(on_error="skip").dataset]
    assert len(rows) < 18
    for taken in range(len(rows) + 1):
        stream = iter(chain.pytorch(on_error="skip").dataset)
        assert [next(stream).number for _ in range(taken)] == rows[:taken]
        resumed = iter(chain.pytorch(on_error="skip").dataset)
        resumed.load_state_dict(stream.state_dict())
        assert [r.number for r in resumed] == rows[taken:]


def test_batches_are_made_ahead_and_threads_end() -> None:
    names = lambda: [t.name for t in threading.enumerate() if t.name.startswith("lakefmt")]  # noqa: E731
    loader = dataloader(numbers(400)).transform({"label": lambda v: v}).batch(8).pytorch(num_threads=2)
    items = iter(remade(loader))
    next(items)
    assert len(names()) == 3
    del items
    assert names() == []


# ------------------------------------------------------------------------- ranks


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets rank and world of torch.distributed, as loaders see them."""
    return lambda *shard: monkeypatch.setattr(front, "torch_share", lambda: Shard(*shard) if shard else None)


def test_ranks_that_come_up_after_the_loader_was_made(rank: Any) -> None:
    chain = dataloader(numbers(50)).batch(4).shuffle()
    made = [chain.pytorch() for _ in range(2)]
    seen = []
    for r, loader in enumerate(made):
        rank(r, 2)
        assert len(loader) == 7
        seen.append([labels(loader) for _ in range(2)])
    for epoch in range(2):
        assert sorted(v for s in seen for b in s[epoch] for v in b) == list(range(50))
    rank(0, 2)
    whole = chain.pytorch(shard=(0, 1))
    assert len(whole) == 13  # who names a share gets that one
    with pytest.raises(InvalidInput, match=r"add \.batch"):
        len(dataloader(numbers(50)).pytorch())


def test_ranks_share_in_other_hands(rank: Any) -> None:
    loaders = [dataloader(numbers(50)).batch(4).shuffle().pytorch() for _ in range(2)]
    seen = []
    for r, loader in enumerate(loaders):
        rank(r, 2)
        assert len(loader.dataset) == 25
        seen += [v for b in labels(remade(loader)) for v in b]
    assert sorted(seen) == list(range(50))


def test_accelerate_shares_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from lakefmt.loaders import lent

    for module in (lent, front):
        monkeypatch.setattr(module, "sharers", lambda: 2)
    source = numbers(48)
    loader = dataloader(source).batch(4).pytorch()
    assert len(loader.dataset) == 48
    before = source.gathers
    items = list(loader.dataset)  # all rows, none of them read
    assert len(items) == 48
    assert source.gathers == before
    batch = loader.collate_fn(items[8:12])
    assert batch["label"].tolist() == [8, 9, 10, 11]
    assert source.gathers == before + 2
    with pytest.raises(InvalidInput, match="leave shard= out"):
        list(dataloader(source).batch(4).pytorch(shard=(0, 2)).dataset)


def test_a_loader_is_made_of_known_arguments() -> None:
    loader = dataloader(numbers(10)).batch(4).pytorch()
    again = type(loader)(job=loader.job, options=loader.options, batch_sampler=None, sampler=None)
    assert labels(again) == labels(loader)
    with pytest.raises(TypeError, match="'batchsize'"):
        type(loader)(job=loader.job, options=loader.options, batchsize=4)
    assert isinstance(again.dataset, torch.utils.data.IterableDataset)
