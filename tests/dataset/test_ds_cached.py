"""A dataset on an object store is read through the caches its user asks for, and shows what is stored, whatever lies in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_far import PIXELS, ROWS, Place, made_place

import lakefmt
from lakefmt.errors import Corrupt
from lakefmt.storage import CachedStore
from lakefmt.storage.cache_disk import CHUNK_NBYTES
from lakefmt.storage.cached import MEMORY_MB


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where caches are."""
    monkeypatch.setenv("LAKEFMT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def place(s3_options: dict[str, Any]) -> Place:
    """A dataset that these tests only read."""
    return made_place(s3_options)


def _store(ds: Any) -> CachedStore:
    store = ds._log.store
    assert isinstance(store, CachedStore)
    return store


def _read(ds: Any) -> list[Any]:
    ragged = [r.tolist() for r in ds["group/ragged"].numpy(aslist=True)]
    return [ds.pixels.numpy().tolist(), ragged, ds["group/document"].numpy(aslist=True), ds.n.numpy().tolist()]


def test_memory_by_default_and_no_disk(place: Place, cache: Path) -> None:
    ds = place.open()
    assert _store(ds).sizes.memory_nbytes == MEMORY_MB * 1_000_000
    _read(ds)
    asked = place.asked()
    again = lakefmt.Dataset(ds._log, ds.path, None, ds._writer.version)  # decoded samples are kept by handles of their own
    _read(again)
    assert place.asked() == asked
    assert not cache.exists()
    assert ds._log.store.report()["served_nbytes"] > 0


def test_none_at_all(place: Place, cache: Path) -> None:
    ds = place.open(memory_cache_size=0)
    expected = _read(place.open())
    assert _read(ds) == expected
    assert set(_store(ds).report().values()) == {0}
    assert not cache.exists()


def test_the_disk_serves_the_next_process(place: Place, cache: Path) -> None:
    ds = place.open(local_cache_size=50, memory_cache_size=0)
    expected = _read(ds)
    asked = place.asked()
    for other in (place.open(local_cache_size=50), pickle.loads(pickle.dumps(ds)), pickle.loads(pickle.dumps(ds[:]))):
        assert _read(other) == expected
        assert other.source().gather("n", np.arange(2)).values.ravel().tolist() == expected[3][:2]
    assert place.asked() == asked
    assert 0 < sum(p.stat().st_size for p in cache.rglob("*") if p.is_file()) < 50_000_000
    assert not ds.source().is_local(), "a cache may lose what it has"


def test_all_ways_to_open_take_the_sizes(place: Place, s3_options: dict[str, Any]) -> None:
    for ds in (
        lakefmt.dataset(place.url, storage_options=s3_options, memory_cache_size=3, local_cache_size=4),
        lakefmt.load(place.url, storage_options=s3_options, memory_cache_size=3, local_cache_size=4),
        lakefmt.empty(place.url + "2", storage_options=s3_options, memory_cache_size=3, local_cache_size=4),
    ):
        sizes = _store(ds).sizes
        assert (sizes.memory_nbytes, sizes.disk_nbytes) == (3_000_000, 4_000_000)
    lakefmt.delete(place.url + "2", storage_options=s3_options)


def test_writing_through_a_cached_handle(s3_options: dict[str, Any]) -> None:
    place = made_place(s3_options)
    ds = place.open(local_cache_size=50)
    _read(ds)
    ds.n[7] = 70
    ds.pop(0)
    ds.extend({"pixels": PIXELS[:2], "group/ragged": [PIXELS[0]] * 2, "group/document": ["x", "y"], "n": [1, 2]})
    ds.commit("changed")
    ds.compact()
    assert _read(ds) == _read(place.open(memory_cache_size=0))
    ds.expire(0, grace_s=0)
    assert _read(ds) == _read(place.open(local_cache_size=50)) == _read(place.open(memory_cache_size=0))
    assert ds.verify() > 0


@pytest.mark.parametrize("memory", [0, 50])
def test_a_copy_that_was_damaged_on_the_way_is_fetched_anew(place: Place, memory: int) -> None:
    """It has the checksum of what came: only the dataset's own tells."""
    expected = _read(place.open())
    ds = place.open(local_cache_size=50, memory_cache_size=memory)
    _read(ds)
    disk = _store(ds).disk
    assert disk is not None
    bent = 0
    for whole in ds.source().objects():
        for number in range(-(-whole.size // CHUNK_NBYTES)):
            data = bytearray(disk.read((whole.key, number)) or b"")
            if data and not whole.key.startswith("meta/"):
                data[len(data) // 2] ^= 0xFF
                disk.write([((whole.key, number), memoryview(bytes(data)))])
                bent += 1
    assert bent > 10
    fresh = place.open(local_cache_size=50, memory_cache_size=memory)
    shown = _read(fresh)
    wrong = [[i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b] for pair in zip(shown, expected, strict=True)]
    # flat samples are read by position, from an object store as well, and have no checksum of their own; so is one updated alone
    assert len(wrong[0]) <= 4
    assert wrong[1] in ([], [19])
    assert wrong[2:] == [[], []]


def test_a_copy_cut_short_on_the_way_is_fetched_anew(place: Place) -> None:
    expected = _read(place.open())
    ds = place.open(local_cache_size=50)
    _read(ds)
    disk = _store(ds).disk
    assert disk is not None
    for whole in ds.source().objects():
        data = disk.read((whole.key, 0))
        if data is not None and not whole.key.startswith("meta/"):
            disk.write([((whole.key, 0), data[: len(data) // 2])])
    assert _read(place.open(local_cache_size=50)) == expected


def test_checks_look_at_what_is_stored_and_not_at_copies(s3_options: dict[str, Any]) -> None:
    place = made_place(s3_options)
    ds = place.open(local_cache_size=50)
    ds.download()
    _read(ds)
    key = next(w.key for w in ds.source().objects() if w.key.startswith("data/"))
    data = place.store().get(key)
    place.store().put(key, data[:-20] + bytes(20))
    with pytest.raises(Corrupt, match=key):
        ds.verify()
    assert [p.key for p in ds.fsck(full=True).problems] == [key]
    assert _read(ds)[3][0] == [0] or _read(ds)[3][0] == 0


def test_copying_goes_through_no_cache(place: Place, tmp_path: Path, cache: Path) -> None:
    ds = place.open(local_cache_size=50)
    ds.deepcopy(str(tmp_path / "copy"))
    assert _store(ds).report()["fetched_nbytes"] == 0
    assert len(lakefmt.load(str(tmp_path / "copy"))) == ROWS - 2


def test_a_copy_elsewhere_has_a_cache_too(place: Place, s3_options: dict[str, Any]) -> None:
    copy = place.open(local_cache_size=50).copy(place.url + "-copy", storage_options=s3_options)
    assert copy.download().files > 0
    assert copy.source().is_local()
    assert _read(copy) == _read(place.open())
