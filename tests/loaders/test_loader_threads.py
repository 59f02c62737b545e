"""Background threads end with their consumer: at the end, on break, on errors, on close, by garbage
collection.
"""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import numpy as np
import pytest
from loader_fake import FakeSource, numbers

from lakefmt.loaders import dataloader


def ours() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("lakefmt")]


@pytest.fixture(autouse=True)
def _no_threads_left() -> Any:
    yield
    gc.collect()
    assert ours() == []


def slow(value: Any) -> Any:
    time.sleep(0.001)
    return value


def threaded(n: int = 400, face: str = "numpy", **options: Any) -> Any:
    chain = dataloader(numbers(n)).transform({"label": slow, "x": None}).batch(7)
    return getattr(chain, face)(num_threads=3, **options)


@pytest.mark.parametrize("face", ["numpy", "pytorch"])
def test_at_the_end(face: str) -> None:
    loader = threaded(100, face)
    labels = [int(v) for batch in loader for v in batch["label"]]
    assert labels == list(range(100))
    assert ours() == []


@pytest.mark.parametrize("face", ["numpy", "pytorch"])
def test_on_break(face: str) -> None:
    loader = threaded(face=face)
    for _ in loader:
        assert ours()
        break
    gc.collect()
    assert ours() == []
    assert len(list(loader)) == len(loader)  # and the loader goes on working


def test_dropping_the_loader_too() -> None:
    iterator = iter(threaded())
    next(iterator)
    assert ours()
    del iterator
    gc.collect()
    assert ours() == []


def test_on_close() -> None:
    loader = threaded()
    iterator = iter(loader)
    next(iterator)
    loader.close()
    assert ours() == []
    assert list(iterator) == []
    assert loader.state_dict()["rows"] == 7  # closing early is not finishing


def test_closing_the_chain_closes_its_loaders() -> None:
    chain = dataloader(numbers(300)).transform({"label": slow}).batch(7)
    loader = chain.numpy(num_threads=2)
    iterator = iter(loader)
    next(iterator)
    chain.close()
    assert ours() == []


def test_on_an_error_in_the_background() -> None:
    class OwnError(Exception):
        pass

    def fails(value: Any) -> Any:
        if value == 50:
            raise OwnError("no")
        return value

    loader = dataloader(numbers(200)).transform({"label": fails}).batch(10).numpy(num_threads=3)
    seen: list[Any] = []
    with pytest.raises(OwnError, match="no") as caught:
        seen.extend(loader)
    assert len(seen) == 5  # everything before the bad batch was handed out
    assert any("row 50 (id 1050), tensor 'label'" in note for note in caught.value.__notes__)
    assert ours() == []


def test_an_error_in_the_consumer() -> None:
    def consume() -> None:
        for _ in threaded():
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        consume()
    gc.collect()
    assert ours() == []


def test_two_loaders_at_once() -> None:
    first, second = threaded(150), threaded(150)
    for a, b in zip(first, second, strict=True):
        assert a["label"].tolist() == b["label"].tolist()
    # and two iterations of one
    third = threaded(150)
    assert sum(len(a["label"]) for a, _ in zip(third, third, strict=True)) == 150


def test_looking_ahead_is_bounded() -> None:
    source = numbers(100_000)
    loader = dataloader(source).transform({"label": None}).batch(100).numpy(num_threads=1, prefetch_factor=3)
    # plain batches this small are made inline; a per-sample function makes the pipeline run
    iterator = iter(loader)
    next(iterator)
    assert source.gathers == 1
    source = numbers(100_000)
    chain = dataloader(source).transform({"label": lambda v: v}).batch(100)
    iterator = iter(chain.numpy(num_threads=1, prefetch_factor=3))
    next(iterator)
    time.sleep(0.3)
    assert source.gathers <= 4  # the one handed out and three ahead


def test_batches_are_never_written_again() -> None:
    loader = dataloader(numbers(5000)).batch(50).numpy()
    held = list(loader)
    addresses = {b["x"].__array_interface__["data"][0] for b in held}
    assert len(addresses) == len(held)
    assert np.concatenate([b["x"][:, 0] for b in held]).tolist() == list(range(5000))


def test_batches_ahead_are_bounded_by_bytes() -> None:
    data = FakeSource({"x": np.zeros((800, 10_000), np.float32)})  # 40 KB a row
    iterator = iter(dataloader(data).batch(50).numpy(prefetch=8))  # 2 MB a batch, gathered alone
    next(iterator)
    time.sleep(0.3)
    assert data.gathers == 5  # the one handed out, and as many as fit 8 MB
