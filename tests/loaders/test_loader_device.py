"""Copies to a device: the three orderings between streams, checked with recorded streams; real CUDA where
there is one.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from loader_fake import numbers

from lakefmt.errors import InvalidInput
from lakefmt.loaders import Batch, dataloader
from lakefmt.loaders.device import device_of, onto_device


class Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        self.events = 0

    def wait_stream(self, other: Stream) -> None:
        self.log.append(f"{self.name} waits for stream {other.name}")

    def record_event(self) -> str:
        self.events += 1
        self.log.append(f"{self.name} records {self.events}")
        return f"event {self.events}"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")


class Recorded:
    """``Streams`` that write down what is asked of them; a copy is marked by adding 100."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.consumer = Stream("consumer", self.log)
        self.on: list[str] = ["consumer"]

    def current(self) -> Any:
        return self.consumer

    def new(self) -> Any:
        return Stream("copier", self.log)

    @contextmanager
    def using(self, stream: Any) -> Any:
        self.on.append(stream.name)
        yield
        self.on.pop()

    def copy(self, tensor: Any) -> Any:
        assert self.on[-1] == "copier"
        self.log.append(f"copy {int(tensor[0])}")
        return tensor + 100


def items(n: int) -> Any:
    return iter([Batch(x=torch.tensor([i]), text=["a"], boxes=[torch.tensor([i]), None]) for i in range(n)])


def test_orderings() -> None:
    streams = Recorded()
    for i, batch in enumerate(onto_device(items(2), streams)):
        streams.log.append(f"handed out {i}")
        assert type(batch) is Batch
        assert batch["x"].tolist() == [100 + i]
        assert batch["text"] == ["a"]
        assert batch["boxes"][0].tolist() == [100 + i]
        assert batch["boxes"][1] is None
    assert streams.log == [
        "copier waits for stream consumer",  # before the copy
        "copy 0",
        "copy 0",
        "copier records 1",
        "copier waits for stream consumer",  # the next copy is under way before the first batch is handed out
        "copy 1",
        "copy 1",
        "copier records 2",
        "consumer waits for event 1",  # before handing out
        "handed out 0",
        "consumer waits for event 2",
        "handed out 1",
    ]


def test_early_close_waits_for_pending_copies() -> None:
    streams = Recorded()
    moving = onto_device(items(5), streams)
    next(moving)
    moving.close()  # type: ignore[attr-defined]
    assert streams.log[-1] == "consumer waits for stream copier"


def test_cpu_is_where_batches_are() -> None:
    batch = next(iter(dataloader(numbers(4)).batch(4).pytorch(device="cpu")))
    assert batch["x"].device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
def test_cuda_without_cuda() -> None:
    with pytest.raises(InvalidInput, match="no CUDA device"):
        dataloader(numbers(4)).batch(4).pytorch(device="cuda")


@pytest.mark.parametrize("device", ["cuda:1", "cuda:256", "cuda:999"])
def test_a_device_that_is_not_there(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InvalidInput, match=f"device='{device}': torch sees 1 CUDA"):
        device_of(device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_on_cuda(workers: int) -> None:
    loader = dataloader(numbers(1000)).batch(32).shuffle(seed=1).pytorch(workers, device="cuda")
    expected = [b["label"].tolist() for b in dataloader(numbers(1000)).batch(32).shuffle(seed=1).pytorch()]
    seen = []
    for batch in loader:
        assert batch["x"].is_cuda
        assert batch["x"][:, 0].long().equal(batch["label"].long())
        seen.append(batch["label"].tolist())
    assert seen == expected
