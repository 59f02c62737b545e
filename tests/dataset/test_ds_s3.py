"""A dataset on an object store does what one in a folder does: written, read, queried, loaded, branched, over a real S3 server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lakefmt
from lakefmt.codecs import encode


@pytest.fixture
def place(s3_bucket: str, s3_options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """An address in a bucket of a server on this machine, and how to reach it."""
    return f"s3://{s3_bucket}/folder/set", s3_options


def test_the_whole_way_on_s3(place: tuple[str, dict[str, Any]]) -> None:
    address, options = place
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 3, 32, 32), dtype=np.uint8)
    pictures = [encode("jpeg", rng.integers(0, 255, (200 + 10 * i, 240, 3), dtype=np.uint8)) for i in range(40)]
    ds = lakefmt.dataset(address, storage_options=options)
    ds.create_tensor("text", htype="text")
    ds.create_tensor("pixels", dtype="uint8")
    ds.create_tensor("image", htype="image", sample_compression="jpeg")
    ds.create_tensor("label", htype="class_label")
    ds.extend({
        "text": [f"text {i}" for i in range(40)], "pixels": pixels, "image": [lakefmt.read(p) for p in pictures],
        "label": [f"c{i % 4}" for i in range(40)],
    })  # fmt: skip
    first = ds.commit("forty")

    other = lakefmt.dataset(address, storage_options=options)
    assert np.array_equal(other.pixels[5:9].numpy(), pixels[5:9])
    assert other.image[7].tobytes() == pictures[7]
    assert other.text[-1].text() == "text 39"
    view = other.query("select * where label == 'c2' and shape(image)[0] > 300")
    assert view.sample_indices.tolist() == [i for i in range(40) if i % 4 == 2 and 200 + 10 * i > 300]
    view.save_view("tall")
    assert len(lakefmt.dataset(f"{address}/.queries/tall", storage_options=options)) == len(view)
    batches = list(other.dataloader().batch(16).shuffle(seed=1).numpy(tensors=["pixels", "text"]))
    assert sorted(t for b in batches for t in b["text"]) == sorted(f"text {i}" for i in range(40))

    other.checkout("dev", create=True)
    other.label[0] = "c3"
    other.pop(1)
    other.commit("changed")
    difference = other.diff("main", "dev").tensors["label"]
    assert (len(difference.updated), len(difference.deleted)) == (1, 1)
    assert other.verify() > 0
    assert len(lakefmt.dataset(f"{address}@{first}", storage_options=options)) == 40
