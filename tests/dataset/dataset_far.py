"""A dataset on an S3 server on this machine, with all that a dataset can have, and what the server was asked for."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest

import lakefmt
from lakefmt.storage import FsspecStore
from lakefmt.versioning import leaves

ROWS = 60
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (ROWS, 3, 32, 32), dtype=np.uint8)
RAGGED = [RNG.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8) for i in range(ROWS)]
DOCUMENTS = [f"{i} " * 600 for i in range(ROWS)]
#: Folders of objects that never change.
FOLDERS = ("data/", "overlays/", "dv/", "meta/")


class Place:
    """A dataset on an S3 server, and what the server was asked."""

    def __init__(self, bucket: str, options: dict[str, Any]) -> None:
        self.url, self.options, self._bucket = f"s3://{bucket}/set", options, bucket

    def asked(self) -> int:
        """Requests for data so far."""
        with urlopen(f"{self.options['endpoint_url']}/_requests") as answer:
            counts = json.load(answer)
        start = f"/{self._bucket}/set/"
        return sum(n for name, n in counts.items() if name.split(" ")[1].startswith(tuple(start + f for f in FOLDERS)))

    def open(self, at: str = "", **options: Any) -> Any:
        """The dataset, or a version of it."""
        return lakefmt.load(self.url + at, storage_options=self.options, **options)

    def store(self) -> FsspecStore:
        """Its store, without a cache."""
        return FsspecStore(self.url, self.options)


def made_place(options: dict[str, Any]) -> Place:
    """A dataset in a bucket of its own: fragments in leaves and beside them, with rows that were deleted and updated."""
    bucket = f"bucket-{uuid.uuid4().hex}"
    with urlopen(Request(f"{options['endpoint_url']}/{bucket}", method="PUT")) as answer:
        assert answer.status == 200
    made = Place(bucket, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaves, "INLINE_MAX", 2)
        patch.setattr(leaves, "INLINE_KEPT", 1)
        ds = lakefmt.empty(made.url, storage_options=options)
        ds.create_tensor("pixels", dtype="uint8")
        ds.create_tensor("group/ragged", dtype="uint8")
        ds.create_tensor("group/document", htype="text")
        ds.create_tensor("n", dtype="int64")
        for i in range(0, ROWS, 15):
            some = slice(i, i + 15)
            ds.extend({
                "pixels": PIXELS[some], "group/ragged": RAGGED[some], "group/document": DOCUMENTS[some],
                "n": np.arange(i, i + 15),
            })  # fmt: skip
            ds.commit(f"from {i}")
        ds.n[3] = 1003
        ds["group/ragged"][20] = RAGGED[0]
        ds.commit("updated")
        ds.pop([5, 40])
        ds.commit("popped")
    return made
