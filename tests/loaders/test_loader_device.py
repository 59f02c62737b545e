"""Copies to a device: the three orderings between streams, checked with recorded streams; real CUDA where
there is one.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from loader_fake import FakeSource, numbers

from lakefmt.codecs import decode, encode
from lakefmt.errors import BadSample, InvalidInput
from lakefmt.loaders import Batch, dataloader
from lakefmt.loaders.device import Onto, device_of, onto_device


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

    def copies(self) -> int:
        return sum(line.startswith("copier records") for line in self.log)

    def current(self) -> Any:
        return self.consumer

    def new(self) -> Any:
        return Stream("copier", self.log)

    @contextmanager
    def using(self, stream: Any) -> Any:
        self.on.append(stream.name)
        yield
        self.on.pop()

    def copy(self, tensor: Any, into: Any = None) -> Any:
        assert self.on[-1] == "copier"
        self.log.append(f"copy {int(tensor[0])}" + ("" if into is None else " into the ring"))
        return tensor + 100 if into is None else into.copy_(tensor + 100)

    def decode(self, images: list[Any]) -> list[Any]:
        assert self.on[-1] == "copier"
        self.log.append(f"decode {len(images)}")
        return [torch.from_numpy(decode("jpeg", bytes(i.tolist()))).permute(2, 0, 1) for i in images]


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


def test_more_batches_ahead_by_bytes() -> None:
    streams = Recorded()
    moving = onto_device(items(9), streams, Onto(nbytes=100))  # a batch has 25 bytes
    next(moving)
    ahead = streams.copies()
    assert ahead == 4
    next(moving)
    assert streams.copies() == ahead + 1


def test_a_ring_reuses_tensors_in_turn() -> None:
    streams = Recorded()
    given = [batch["x"] for batch in onto_device(items(6), streams, Onto(ring=2))]
    assert [v.data_ptr() for v in given] == [given[0].data_ptr(), given[1].data_ptr()] * 3
    assert given[0].data_ptr() != given[1].data_ptr()
    assert [int(v) for v in given] == [104, 105] * 3  # overwritten since
    seen = [int(batch["x"]) for batch in onto_device(items(6), Recorded(), Onto(ring=2, nbytes=1000))]
    assert seen == [100 + i for i in range(6)]  # while in use, each is its own


def test_a_ring_takes_the_short_last_batch() -> None:
    batches = iter([Batch(x=torch.arange(4)), Batch(x=torch.arange(4) + 10), Batch(x=torch.arange(2) + 20)])
    seen = [batch["x"].tolist() for batch in onto_device(batches, Recorded(), Onto(ring=2))]
    assert seen == [[100, 101, 102, 103], [110, 111, 112, 113], [120, 121]]


def test_a_transform_runs_behind_the_copy_on_its_stream() -> None:
    streams = Recorded()

    def transform(batch: Any) -> Any:
        assert streams.on[-1] == "copier"
        streams.log.append("transform")
        return Batch(x=batch["x"] * 2)

    assert [b["x"].tolist() for b in onto_device(items(2), streams, Onto(transform=transform))] == [[200], [202]]
    assert streams.log[:5] == ["copier waits for stream consumer", "copy 0", "copy 0", "transform", "copier records 1"]
    with pytest.raises(InvalidInput, match="device_transform returned None"):
        list(onto_device(items(1), Recorded(), Onto(transform=lambda b: None)))


@pytest.mark.parametrize("stacks", [False, True])
def test_images_are_decoded_behind_the_copy(stacks: bool) -> None:
    pixels = [np.full((8, 8, 3), 40 * i, np.uint8) for i in range(3)]
    encoded = [encode("jpeg", p) for p in pixels]
    streams = Recorded()
    (batch,) = onto_device(iter([Batch(image=encoded, x=torch.tensor([1]))]), streams, Onto(decoded={"image": stacks}))
    assert isinstance(batch["image"], torch.Tensor) == stacks
    assert [tuple(v.shape) for v in batch["image"]] == [(3, 8, 8)] * 3
    assert [int(v.float().mean().round()) for v in batch["image"]] == [0, 40, 80]
    assert streams.log == [
        "copier waits for stream consumer",
        "copy 1",
        "decode 3",
        "copier records 1",
        "consumer waits for event 1",
    ]


def test_missing_and_damaged_images_on_the_device() -> None:
    good = encode("jpeg", np.zeros((8, 8, 3), np.uint8))

    def first(images: list[Any], stacks: bool) -> Any:
        return next(onto_device(iter([Batch(image=images)]), Damaging(), Onto(decoded={"image": stacks})))["image"]

    assert first([good, None], False)[1] is None
    with pytest.raises(InvalidInput, match="a sample is missing"):
        first([good, None], True)
    with pytest.raises(BadSample, match="'image': sample 2 of a batch does not decode"):
        first([good, None, b"\xff\xd8 nothing", good], False)


class Damaging(Recorded):
    def decode(self, images: list[Any]) -> list[Any]:
        if any(len(i) < 20 for i in images):
            raise RuntimeError("nvJPEG: bad stream")
        return super().decode(images)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "give device='cuda'"),
        ({"device": "cuda", "on_error": "skip"}, "leave on_error 'raise'"),
        ({"device": "cuda", "collate_fn": list}, "device_transform="),
    ],
)
def test_what_device_decoding_needs(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], named: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    data = FakeSource({"image": [encode("jpeg", np.zeros((8, 8, 3), np.uint8))]})
    with pytest.raises(InvalidInput, match=named):
        dataloader(data).batch(1).pytorch(decode_method={"image": "device"}, **options)


def test_device_options_without_a_device() -> None:
    for options in ({"device_transform": len}, {"device_ring": 3}):
        with pytest.raises(InvalidInput, match="is for batches on a device"):
            dataloader(numbers(4)).batch(2).pytorch(**options)
    with pytest.raises(InvalidInput, match="device_ring=1"):
        dataloader(numbers(4)).batch(2).pytorch(device_ring=1)


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
