"""S3, through s3fs against a real HTTP server, keeps the promises of the port."""

from __future__ import annotations

from typing import Any

import pytest

import lakefmt
from lakefmt.errors import NoSuchDataset, StoreError
from lakefmt.storage import FsspecStore, Store
from lakefmt.testing import StoreConformance


class TestS3Store(StoreConformance):
    """The conformance suite."""

    large_nbytes = 11 << 20  # three parts of 5 MiB: a multipart upload

    @pytest.fixture
    def store(self, s3_bucket: str, s3_options: dict[str, Any]) -> Store:
        """A folder of a fresh bucket."""
        return FsspecStore(f"s3://{s3_bucket}/some/place", s3_options)


class TestWholeBucket:
    """A store whose root is the bucket itself."""

    def test_keys(self, s3_bucket: str, s3_options: dict[str, Any]) -> None:
        store = FsspecStore(f"s3://{s3_bucket}", s3_options)
        store.put("top", b"1")
        store.put("a/b", b"22")
        assert {e.key: e.size for e in store.list("")} == {"top": 1, "a/b": 2}
        assert [e.key for e in store.list("a/")] == ["a/b"]


def test_a_server_that_is_not_there_is_a_store_error(s3_options: dict[str, Any]) -> None:
    nowhere = {**s3_options, "endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    store = FsspecStore("s3://bucket/place", nowhere)
    store.fs.retries = 1  # s3fs's own, on top of botocore's
    for call in (lambda: store.get("k"), lambda: store.put("k", b"v"), lambda: store.put_if_absent("k", b"v")):
        with pytest.raises(StoreError, match="s3://bucket/place"):
            call()


def test_a_bucket_that_is_not_there(s3_options: dict[str, Any]) -> None:
    with pytest.raises(NoSuchDataset, match="no-such-bucket"):
        lakefmt.load("s3://no-such-bucket/place", storage_options=s3_options)


def test_a_dataset_on_s3(s3_bucket: str, s3_options: dict[str, Any], jpeg_bytes: bytes) -> None:
    url = f"s3://{s3_bucket}/set"
    with lakefmt.dataset(url, storage_options=s3_options) as ds:
        ds.create_tensor("image", htype="image", sample_compression="jpeg")
        ds.create_tensor("n", dtype="int64")
        ds.extend({"image": [lakefmt.read(jpeg_bytes)] * 3, "n": [1, 2, 3]})
    ds = lakefmt.load(url, storage_options=s3_options)
    assert ds.n.numpy().tolist() == [1, 2, 3]
    assert ds.image[2].tobytes() == jpeg_bytes
    ds.n[1] = 20
    ds.pop(0)
    ds.commit("changed")
    assert lakefmt.load(url, storage_options=s3_options).n.numpy().tolist() == [20, 3]
