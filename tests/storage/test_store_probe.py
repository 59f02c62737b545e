"""Stores that would overwrite what must be created once are refused before a dataset is made on them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import lakefmt
from lakefmt.errors import UnsafeStore
from lakefmt.storage import Bytes, Entry, FsspecStore, MemoryStore, Range, Store, Writer, probe_put_if_absent
from lakefmt.versioning.log import Log


def _refused(store: Store) -> None:
    with pytest.raises(UnsafeStore, match=r"overwrites objects.*Use a local path"):
        Log.create(store)
    left = [e.key for e in store.list("")]
    assert not any(k.startswith(("log/", "refs/", "_lakefmt")) for k in left), "a dataset was begun there"


def test_fsspec_memory() -> None:
    _refused(FsspecStore(f"memory://{uuid.uuid4().hex}"))


def test_fsspec_local(tmp_path: Path) -> None:
    _refused(FsspecStore(f"file://{tmp_path}/place"))


def test_fsspec_local_through_a_folder(tmp_path: Path) -> None:
    _refused(FsspecStore("dir://place", {"path": str(tmp_path), "target_protocol": "file"}))


def test_caching_file_system_around_s3(s3_bucket: str, s3_options: dict[str, Any], tmp_path: Path) -> None:
    options = {"target_protocol": "s3", "target_options": s3_options, "cache_storage": str(tmp_path)}
    _refused(FsspecStore(f"simplecache://{s3_bucket}/place", options))


class Overwriting(Store):
    """A store that answers as it should, over memory, but one of whose habits breaks the promise."""

    def __init__(self, habit: str) -> None:
        self.inner = MemoryStore(uuid.uuid4().hex)
        self.url = f"bad://{habit}"
        self.habit = habit

    def get(self, key: str) -> bytes:
        return self.inner.get(key)

    def get_range(self, key: str, start: int, length: int) -> Bytes:
        return self.inner.get_range(key, start, length)

    def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
        return self.inner.get_ranges(ranges)

    def put(self, key: str, data: Bytes) -> None:
        self.inner.put(key, data)

    def put_if_absent(self, key: str, data: Bytes) -> bool:
        created = self.inner.put_if_absent(key, data)
        if self.habit != "never creates":
            self.inner.put(key, data)
        else:
            return False
        return True if self.habit == "says yes" else created

    def writer(self, key: str) -> Writer:
        return self.inner.writer(key)

    def list(self, prefix: str) -> Iterator[Entry]:
        return self.inner.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        self.inner.delete(keys)


@pytest.mark.parametrize("habit", ["says yes", "says no and overwrites"])
def test_habits(habit: str) -> None:
    _refused(Overwriting(habit))


def test_a_store_that_creates_once_and_never_says_so_is_safe() -> None:
    """Its acknowledgements are lost on the way; who reads back knows."""
    probe_put_if_absent(Overwriting("never creates"), "_probe/a")


@pytest.mark.parametrize("make", [lakefmt.dataset, lakefmt.empty])
def test_the_user_meets_it_when_creating(make: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsafeStore, match="overwrites"):
        make("dir://place", storage_options={"path": str(tmp_path), "target_protocol": "file"})


def test_the_probe_is_cleared_away() -> None:
    store = MemoryStore(uuid.uuid4().hex)
    probe_put_if_absent(store, "_probe/x")
    assert list(store.list("")) == []
