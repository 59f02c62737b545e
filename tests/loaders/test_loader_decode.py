"""How samples are presented: ``decode_method``, and empty samples for missing ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loader_fake import FakeSource

from lakefmt.codecs import encode
from lakefmt.errors import InvalidInput
from lakefmt.htypes import define_tensor
from lakefmt.loaders import dataloader

SHAPES = [(8, 6, 3), (4, 10, 3), (5, 5)]


def images(**options: Any) -> FakeSource:
    return FakeSource(
        {
            "image": [encode("png", np.full(shape, i, np.uint8)) for i, shape in enumerate(SHAPES)],
            "label": np.arange(3, dtype=np.uint16),
            "spans": [np.arange(2, dtype=np.int32), None, np.arange(4, dtype=np.int32)],
            "text": ["a", None, "c"],
        },
        **options,
    )


def batch(source: FakeSource, face: str = "numpy", **options: Any) -> Any:
    return next(iter(getattr(dataloader(source).batch(3), face)(**options)))


@pytest.mark.parametrize("workers", [0, 1])
def test_torch_images_have_channels_first(workers: int) -> None:
    made = batch(
        images(), "pytorch", decode_method={"image": "torch", "label": "torch"}, num_workers=workers, tensors=["image", "label"]
    )
    assert [tuple(v.shape) for v in made["image"]] == [(3, 8, 6), (3, 4, 10), (1, 5, 5)]
    assert {v.dtype for v in made["image"]} == {torch.uint8}
    assert [int(v.max()) for v in made["image"]] == [0, 1, 2]
    assert made["label"].tolist() == [0, 1, 2]


def test_torch_images_of_a_declared_shape_are_stacked() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 4, 5, 3), dtype=np.uint8)
    shape = define_tensor(0, "image", htype="image", sample_compression="png", shape=(4, 5, 3))
    source = FakeSource({"image": [encode("png", p) for p in pixels]}, definitions={"image": shape})
    made = batch(source, "pytorch", decode_method={"image": "torch"})
    assert torch.equal(made["image"], torch.from_numpy(pixels).permute(0, 3, 1, 2))


def test_a_transform_is_given_the_torch_image() -> None:
    chain = dataloader(images()).batch(3).transform({"image": lambda v: v.float().mean(dim=(1, 2)).mean()})
    assert next(iter(chain.pytorch(decode_method={"image": "torch"})))["image"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("method", "named"),
    [
        ({"text": "torch"}, "text has no torch tensor"),
        ({"label": "device"}, "'device' is for jpeg and png tensors"),
        ({"image": "device"}, "'device' is for jpeg tensors"),
    ],
)
def test_methods_that_do_not_fit(method: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        dataloader(images()).batch(3).pytorch(decode_method=method)


def test_missing_samples_are_none_unless_empty_ones_are_asked_for() -> None:
    plain, padded = (batch(images(), pad_tensors=p, tensors=["spans", "text"]) for p in (False, True))
    assert [None if v is None else v.tolist() for v in plain["spans"]] == [[0, 1], None, [0, 1, 2, 3]]
    assert plain["text"] == ["a", None, "c"]
    assert [(v.tolist(), v.dtype.name) for v in padded["spans"]] == [([0, 1], "int32"), ([], "int32"), ([0, 1, 2, 3], "int32")]
    assert padded["text"] == ["a", "", "c"]
    seen: list[Any] = []
    list(dataloader(images()).transform({"spans": lambda v: seen.append(v) or 0}).batch(3).numpy(pad_tensors=True, num_threads=0))
    assert [v.shape for v in seen] == [(2,), (0,), (4,)]
    assert batch(images(), pad_tensors=True, ragged="flat", tensors=["spans"])["spans_offsets"].tolist() == [0, 2, 2, 6]


def test_empty_images_and_bytes() -> None:
    source = FakeSource({"image": [encode("png", np.zeros((2, 2, 3), np.uint8)), None]})
    assert [v.shape for v in next(iter(dataloader(source).batch(2).numpy(pad_tensors=True)))["image"]] == [(2, 2, 3), (0, 0, 0)]
    raw = next(iter(dataloader(source).batch(2).numpy(pad_tensors=True, decode_method={"image": "tobytes"})))["image"]
    assert raw[1] == b""
