"""``ds.download()`` brings a version, or what a view shows of it, to this host: from then on nobody is asked for data."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dataset_far import DOCUMENTS, FOLDERS, PIXELS, RAGGED, ROWS, Place, made_place

import lakefmt
from lakefmt.errors import Corrupt, InvalidInput, NoSuchTensor, StoreError, VersionExpired
from lakefmt.loaders.plan import Global, Window
from lakefmt.storage import CachedStore, Progress


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where caches are."""
    monkeypatch.setenv("LAKEFMT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def place(s3_options: dict[str, Any]) -> Place:
    """A dataset that these tests only read."""
    return made_place(s3_options)


@pytest.fixture
def changed(s3_options: dict[str, Any]) -> Place:
    """A dataset of the test's own."""
    return made_place(s3_options)


def _everything(ds: Any) -> list[Any]:
    """All samples, as plain values."""
    ragged = ds["group/ragged"].numpy(aslist=True)
    return [
        ds.pixels.numpy().tolist(), [r.tolist() for r in ragged], ds["group/document"].numpy(aslist=True), ds.n.numpy().tolist(),
        ds.row_ids.tolist(), [ds["group/ragged"][int(i)].numpy().shape for i in (3, 20, 50)],
    ]  # fmt: skip


def _rows_order(ds: Any) -> type:
    return type(ds.dataloader().shuffle(seed=1).batch(4).numpy()._session.job.steps.order)


def test_nobody_is_asked_for_data_any_more(place: Place, cache: Path) -> None:
    expected = _everything(place.open())
    ds = place.open()
    assert not ds.source().is_local()
    done = ds.download()
    assert done.files > 10
    assert done.nbytes == sum(e.size for f in FOLDERS for e in place.store().list(f) if e.key in _keys(ds))
    asked = place.asked()
    assert ds.source().is_local()
    assert _everything(ds) == expected
    again = ds.download()
    assert (again.files, again.nbytes, again.present) == (0, 0, done.files)
    views = {key: ds._log.store.map(key) for key in _keys(ds)}
    assert place.asked() == asked
    for key, view in views.items():
        assert bytes(view) == place.store().get(key)


def _keys(ds: Any) -> list[str]:
    return [w.key for w in ds.source().objects()]


def test_another_process_and_another_handle_use_it(place: Place) -> None:
    ds = place.open()
    expected = _everything(ds)
    ds.download()
    asked = place.asked()
    assert _everything(pickle.loads(pickle.dumps(ds))) == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_read_in_process, (ds.source(),)) == (True, expected[3])
    other = place.open(local_cache_size=100)
    assert other.source().is_local()
    assert _everything(other) == expected
    fresh = place.open()
    assert fresh.download().files == 0
    assert _everything(fresh) == expected
    assert place.asked() == asked


def _read_in_process(source: Any) -> tuple[bool, list[int]]:
    rows = np.arange(len(source))
    source.gather("pixels", rows)
    return source.is_local(), source.gather("n", rows).values.tolist()


def test_loaders_shuffle_globally_afterwards(place: Place) -> None:
    ds = place.open()
    assert _rows_order(ds) is Window
    ds.download()
    asked = place.asked()
    assert _rows_order(ds) is Global
    rows = [int(n) for b in ds.dataloader().shuffle(seed=1).batch(8).numpy(tensors=["n", "pixels"]) for n in b["n"]]
    assert sorted(rows) == sorted(ds.n.numpy().ravel().tolist())
    assert place.asked() == asked


def test_some_tensors_only(place: Place) -> None:
    ds = place.open()
    every = {w.key: w.size for w in ds.source().objects()}
    done = ds.download(tensors=["pixels", "n"])
    assert done.nbytes < sum(every.values()) - sum(map(len, DOCUMENTS)) // 10
    asked = place.asked()
    assert ds[["pixels", "n"]].source().is_local()
    assert not ds.source().is_local()
    assert not ds[["n", "group/ragged"]].source().is_local()
    assert ds.n.numpy()[3] == 1003
    assert ds.pixels.numpy().shape == (ROWS - 2, 3, 32, 32)
    assert place.asked() == asked
    more = ds.download(["group"])
    assert more.files + more.present <= len(every)
    assert ds.source().is_local()
    assert ds.download().files == 0


def test_a_view_brings_the_fragments_of_its_rows(place: Place) -> None:
    ds = place.open()
    view = ds[:10]
    total = sum(w.size for w in ds.source().objects())
    done = view.download()
    assert 0 < done.nbytes < total / 2
    assert view.source().is_local()
    assert not ds.source().is_local()
    asked = place.asked()
    assert view.n.numpy().ravel().tolist() == [0, 1, 2, 1003, 4, 6, 7, 8, 9, 10]
    assert np.array_equal(view.pixels.numpy()[:5], PIXELS[:5])
    assert place.asked() == asked
    found = place.open().query("select n, pixels where n > 1000")
    assert found.download(tensors=["n"]).files == 0
    assert found.download().files == 0
    assert found.source().is_local()
    assert found.pixels.numpy().tolist() == PIXELS[[3]].tolist()


def test_progress(place: Place) -> None:
    told: list[Progress] = []
    done = place.open().download(progress=told.append)
    assert (told[0].files, told[0].nbytes) == (0, 0)
    assert (told[-1].files, told[-1].nbytes) == (done.files, done.nbytes)


def test_what_is_local_is_left_as_it_is(tmp_path: Path, mem_url: str, cache: Path) -> None:
    for url in (str(tmp_path / "set"), mem_url):
        with lakefmt.dataset(url, local_cache_size=100, memory_cache_size=10) as ds:
            ds.create_tensor("x", dtype="float32")
            ds.extend({"x": np.zeros((4, 500), np.float32)})
        done = ds.download()
        assert (done.files, done.nbytes) == (0, 0)
        assert ds[1:2].download().files == 0
        assert not isinstance(ds._log.store, CachedStore)
    assert not cache.exists()


def test_rows_that_are_buffered_are_stored_first(changed: Place) -> None:
    ds = changed.open()
    ds.append({"pixels": PIXELS[0], "group/ragged": RAGGED[0], "group/document": "new", "n": 77})
    view = ds[-1:]
    view.download()  # rows of a view taken before are in memory
    ds.download()
    asked = changed.asked()
    assert ds.n.numpy()[-1] == 77
    assert ds.source().is_local()
    assert changed.asked() == asked


def test_arguments(place: Place) -> None:
    ds = place.open()
    with pytest.raises(NoSuchTensor, match="did you mean 'pixels'"):
        ds.download(["pixel"])
    for wrong in ("pixels", [1], [None]):
        with pytest.raises(InvalidInput, match="tensors="):
            ds.download(wrong)
    with pytest.raises(InvalidInput, match="progress="):
        ds.download(progress=True)
    for wrong in (-1, "x", None):
        with pytest.raises(InvalidInput, match="local_cache_size="):
            place.open(local_cache_size=wrong)
    with pytest.raises(InvalidInput, match="memory_cache_size="):
        lakefmt.dataset(place.url, memory_cache_size="2 GB", storage_options=place.options)  # type: ignore[arg-type]


def test_room_is_asked_for_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = place.open(local_cache_size=0.1)
    asked = place.asked()
    with pytest.raises(InvalidInput, match="local_cache_size="):
        ds.download()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    ds = place.open()
    _keys(ds)  # leaves are read, which tell which files there are
    asked = place.asked()
    with pytest.raises(StoreError, match="1,000 free"):
        ds.download()
    assert place.asked() == asked


def test_damaged_and_missing_files(changed: Place) -> None:
    ds = changed.open()
    store = changed.store()
    key = next(k for k in _keys(ds) if k.startswith("data/"))
    data = store.get(key)
    store.put(key, data[:-5] + b"wrong")
    with pytest.raises(Corrupt, match=f"{key} does not match its checksum"):
        ds.download()
    store.delete([key])
    with pytest.raises(Corrupt, match=f"{key}.*though the version names it"):
        ds.download()
    store.put(key, data)
    assert ds.download().files > 0
    assert ds.source().is_local()


def test_a_version_that_has_expired(changed: Place) -> None:
    ds = changed.open()
    commit = changed.open(f"@{ds.version_id}")
    ds.n[0] = 5
    ds.flush()
    before = changed.open(f"@{ds.version_id}")
    list(before.source().objects())
    ds.n[0] = 6
    ds.compact()
    ds.commit("compacted")
    ds.expire(0, grace_s=0)
    with pytest.raises(VersionExpired):
        before.download()
    assert commit.download().files > 0, "a commit stays"
    assert ds.download().files > 0
