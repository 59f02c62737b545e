"""Transforms that want keywords and answer with a dict, as Albumentations' do."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from loader_fake import FakeSource

from lakefmt.codecs import encode
from lakefmt.errors import InvalidInput
from lakefmt.loaders import dataloader


class Flip:
    """In the library's style: called with keywords only, knows ``available_keys``, answers with all it was given."""

    available_keys = frozenset({"image", "mask"})

    def __call__(self, *, by: int = 0, **given: Any) -> dict[str, Any]:
        assert given.keys() <= self.available_keys
        return {name: value[:, ::-1] + by for name, value in given.items()}


def source(**more: Any) -> FakeSource:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    return FakeSource(
        {
            "photo": [encode("png", pixels), encode("png", pixels + 100)],
            "mask": np.arange(16).reshape(2, 2, 4),
            "label": np.arange(2),
            **more,
        }
    )


def first(fn: Any, data: FakeSource | None = None, workers: int = 0, **options: Any) -> Any:
    return next(iter(dataloader(data or source()).transform(fn).batch(2).pytorch(num_workers=workers, **options)))


def test_of_one_tensor() -> None:
    plain, flipped = first({"photo": lambda v: v}), first({"photo": Flip()})
    assert flipped["photo"].tolist() == plain["photo"].numpy()[:, :, ::-1].tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_of_the_row_image_and_mask_alike(workers: int) -> None:
    plain, flipped = first(dict), first(Flip(), workers=workers)
    assert list(flipped.keys()) == ["photo", "mask", "label"]
    for name in ("photo", "mask"):
        assert flipped[name].tolist() == plain[name].numpy()[:, :, ::-1].tolist()
    assert flipped["label"].tolist() == [0, 1]  # what it does not know passes by


def test_with_keyword_arguments() -> None:
    chain = dataloader(source()).transform(Flip(), by=5).batch(2)
    assert next(iter(chain.numpy()))["mask"][0].tolist() == [[8, 7, 6, 5], [12, 11, 10, 9]]
    bound = first({"mask": functools.partial(np.add, 1), "photo": Flip()})
    assert bound["mask"][0, 0].tolist() == [1, 2, 3, 4]


def test_two_images_are_not_guessed_at() -> None:
    two = source(other=[encode("png", np.zeros((2, 2, 3), np.uint8))] * 2)
    with pytest.raises(InvalidInput, match="'photo' and 'other' would both be its 'image'"):
        first(Flip(), two)
    assert "photo" in first(Flip(), two, tensors=["photo", "mask"])


def test_missing_samples_are_not_given() -> None:
    data = FakeSource({"image": [None, encode("png", np.zeros((2, 2, 3), np.uint8))], "label": np.arange(2)})
    chain = dataloader(data).transform(Flip()).batch(1)
    assert [b["image"][0] is None for b in chain.numpy()] == [True, False]
