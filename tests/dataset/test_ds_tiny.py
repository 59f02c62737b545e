"""Small rows that are flushed go into the version object: one request a flush, read by everything like any other rows."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from dataset_tools import contents, values

import lakefmt
from lakefmt.errors import Corrupt, InvalidInput
from lakefmt.outgoing import TINY_FILES_MAX
from lakefmt.storage import MemoryStore, open_store
from lakefmt.versioning.log import Log

sys.path.insert(0, str(Path(__file__).parents[1] / "versioning"))
from faulty_stores import Counting, Wrapped, abandon, memory, opened

T = TypeVar("T")


@pytest.fixture
def ds(mem_url: str) -> Any:
    """Numbers and texts."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("t", htype="text")
    ds.commit("tensors")
    return ds


def flushed(ds: Any, rows: int, start: int = 0) -> None:
    """Rows that are flushed one by one."""
    for i in range(start, start + rows):
        ds.append({"x": i, "t": f"row {i}"})
        ds.flush()


def inline(ds: Any) -> int:
    """How many files lie in the version object."""
    return len(ds._writer.version.inline)


def data(ds: Any) -> list[str]:
    """Keys of the data objects in the store."""
    return [e.key for f in ("data/", "overlays/", "dv/", "meta/", "inline/") for e in ds._log.store.list(f)]


# -- what is written ------------------------------------------------------------------------------------------------


def test_a_flush_of_a_small_row_is_one_request_and_no_file() -> None:
    store = Counting(memory())
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    for i in range(TINY_FILES_MAX):
        store.calls.clear()
        ds.append({"x": i})
        ds.flush()
        written = [(n, k) for n, k in store.calls if not n.startswith("get") and not k.endswith("_hint")]
        assert [n for n, _ in written] == ["put_if_absent"], written
        assert inline(ds) == i + 1
    assert list(store.inner.list("data/")) == []
    store.calls.clear()
    ds.append({"x": TINY_FILES_MAX})
    ds.flush()
    assert [n for n, k in store.calls if k.startswith("data/") and not n.startswith("get")] == ["put"]
    assert inline(ds) == 1
    assert values(opened(store.inner)) == list(range(TINY_FILES_MAX + 1))


def test_many_flushes_leave_few_files_and_small_versions(ds: Any, mem_url: str) -> None:
    flushed(ds, 200)
    assert len(data(ds)) <= 200 // TINY_FILES_MAX + 1
    assert values(lakefmt.load(mem_url)) == list(range(200))
    assert lakefmt.load(mem_url)[:].row_ids.tolist() == list(range(200))
    assert max(e.size for e in ds._log.store.list("log/")) < 60_000
    assert ds.fsck(full=True)
    ds.commit("done")
    assert inline(ds) == 0
    ds.compact()
    assert len(ds.files()) == 1


def test_bytes_carried_are_bounded(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("t", htype="text")
    rng = np.random.default_rng(0)
    texts = [rng.bytes(450).hex() for _ in range(60)]
    for i in range(0, 60, 4):
        ds.extend({"t": texts[i : i + 4]})
        ds.flush()
    newest = max((e for e in ds._log.store.list("log/") if e.key.endswith(".json")), key=lambda e: e.key)
    assert newest.size < 400_000
    assert values(lakefmt.load(mem_url), "t") == texts


SMALL: dict[str, tuple[dict[str, Any], Callable[[int], Any]]] = {
    "scalar": ({"dtype": "int16"}, lambda i: i - 3), "bool": ({"dtype": "bool"}, lambda i: i % 2 == 0),
    "half": ({"dtype": "float16"}, lambda i: i / 4), "list": ({"dtype": "int32"}, lambda i: np.arange(4) + i),
    "ragged": ({"dtype": "float64"}, lambda i: np.arange(i % 4) * 0.5), "empty": ({"dtype": "float32"}, lambda i: np.zeros((0, 3))),
    "matrix": ({"dtype": "uint8"}, lambda i: np.full((i % 2 + 1, 3), i)), "text": ({"htype": "text"}, lambda i: f"é {i}"),
    "json": ({"htype": "json"}, lambda i: {"i": [i, None]}), "label": ({"htype": "class_label"}, lambda i: f"c{i % 3}"),
    "missing": ({"dtype": "int8"}, lambda i: None), "sometimes": ({"htype": "text"}, lambda i: None if i % 2 else "here"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(SMALL))
def test_every_small_layout_lies_in_the_version_object(mem_url: str, name: str) -> None:
    options, make = SMALL[name]
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("v", **options)
    for i in range(7):
        ds.append({"v": make(i)})
        ds.flush()
    assert (inline(ds), data(ds)) == (7, [])
    before, shapes = contents(ds), ds._shapes("v", np.arange(7))
    assert contents(lakefmt.load(mem_url)) == before
    assert lakefmt.load(mem_url)._shapes("v", np.arange(7)) == shapes
    ds.v[3] = make(1)
    ds.pop(0)
    before = contents(ds)
    assert before["v"][2] == before["v"][0]
    ds.commit("folded")
    assert inline(ds) == 0
    again = lakefmt.load(mem_url)
    assert contents(again) == before
    assert again[:].row_ids.tolist() == list(range(1, 7))
    assert again.verify() > 0


@pytest.mark.parametrize("what", ["flat", "blob", "document", "image", "many"])
def test_large_rows_get_files_of_their_own(mem_url: str, what: str, jpeg_bytes: bytes) -> None:
    options: dict[str, dict[str, Any]] = {
        "flat": {"dtype": "float32"}, "blob": {"dtype": "uint8"}, "document": {"htype": "text"},
        "image": {"htype": "image", "sample_compression": "jpeg"}, "many": {"dtype": "int64"},
    }  # fmt: skip
    samples: dict[str, list[Any]] = {
        "flat": [np.zeros(64, "f4")], "blob": [np.zeros(5000, "u1"), np.zeros(4000, "u1")], "document": ["word " * 400],
        "image": [lakefmt.Sample(jpeg_bytes)], "many": list(range(2000)),
    }  # fmt: skip
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("v", **options[what])
    ds.extend({"v": samples[what]})
    ds.flush()
    assert inline(ds) == 0
    assert data(ds)
    assert len(lakefmt.load(mem_url)) == len(samples[what])


def test_a_commit_folds_and_makes_real_files(ds: Any, mem_url: str) -> None:
    flushed(ds, 5)
    ds.append({"x": 5, "t": None})
    ds.commit("six")
    assert inline(ds) == 0
    assert values(lakefmt.load(mem_url)) == list(range(6))
    ds.commit("nothing new", allow_empty=True)
    assert values(lakefmt.load(mem_url)) == list(range(6))


def test_files_are_real_files(tmp_path: Path) -> None:
    import duckdb

    ds = lakefmt.dataset(str(tmp_path / "ds"))
    ds.create_tensor("x", dtype="int64")
    for i in range(5):
        ds.append({"x": i})
        ds.flush()
    assert inline(ds) == 5
    files = ds.files()
    assert inline(ds) == 0
    assert all(Path(f).is_file() for f in files)
    found = duckdb.sql(f"select x from read_parquet({files!r})").fetchall()
    assert sorted(found) == [(i,) for i in range(5)]
    assert ds.files() == files, "asking again makes no version"


def test_files_of_a_handle_that_cannot_write_are_refused_while_rows_have_none(ds: Any, mem_url: str) -> None:
    flushed(ds, 3)
    read_only = lakefmt.load(mem_url, read_only=True)
    with pytest.raises(InvalidInput, match="lie in the version object"):
        read_only.files()
    ds.files()
    assert all("inline/" not in f for f in lakefmt.load(mem_url, read_only=True).files())


# -- reading --------------------------------------------------------------------------------------------------------


def test_other_handles_views_queries_and_loaders_read_them(ds: Any, mem_url: str) -> None:
    flushed(ds, 20)
    other = lakefmt.load(mem_url)
    assert values(other) == list(range(20))
    assert other.t[7].numpy() == "row 7"
    assert values(other[[3, 1, 19]]) == [3, 1, 19]
    view = other.query("select * where x % 5 = 0 order by x desc")
    assert values(view) == [15, 10, 5, 0]
    view.save_view("fives")
    batches = list(other[["x"]].dataloader().batch(8).numpy())
    assert [b["x"].tolist() for b in batches] == [list(range(8)), list(range(8, 16)), list(range(16, 20))]
    ds.commit("folded")
    ds.compact()
    assert values(lakefmt.load(f"{mem_url}").load_view("fives")) == [15, 10, 5, 0]
    assert values(view) == [15, 10, 5, 0]


def test_pickled_views_and_datasets_read_them(tmp_path: Path) -> None:
    ds = lakefmt.dataset(str(tmp_path / "ds"))
    ds.create_tensor("x", dtype="int64")
    for i in range(5):
        ds.append({"x": i})
        ds.flush()
    pickled = pickle.dumps(ds[1:4]), pickle.dumps(ds), pickle.dumps(ds.source())
    ds.commit("folded")
    view, whole, source = (pickle.loads(p) for p in pickled)
    assert (values(view), values(whole)) == ([1, 2, 3], [0, 1, 2, 3, 4])
    assert source.gather("x", np.array([4, 0])).values.tolist() == [4, 0]


def test_old_versions_show_them(ds: Any, mem_url: str) -> None:
    versions = []
    for i in range(TINY_FILES_MAX + 5):
        flushed(ds, 1, i)
        versions.append(ds.version_id)
    ds.commit("folded")
    for i, version in enumerate(versions):
        assert values(lakefmt.load(f"{mem_url}@{version}")) == list(range(i + 1))
    ds.restore(versions[3])
    assert values(ds) == values(lakefmt.load(mem_url)) == [0, 1, 2, 3]
    flushed(ds, 2, 50)
    assert values(lakefmt.load(mem_url)) == [0, 1, 2, 3, 50, 51]
    assert len(set(ds[:].row_ids.tolist())) == 6
    assert ds.fsck(full=True)


def test_branches_merges_picks_and_reverts_bring_them_along(ds: Any, mem_url: str) -> None:
    flushed(ds, 3)
    ds.create_branch("dev")
    dev = lakefmt.load(f"{mem_url}@dev")
    assert values(dev) == [0, 1, 2]
    flushed(dev, 3, 10)
    picked = dev.version_id
    dev.x[0] = -1
    dev.flush()
    ds.cherry_pick(picked)
    assert values(lakefmt.load(mem_url)) == [0, 1, 2, 12]
    ds.revert()
    assert values(ds) == [0, 1, 2]
    ds.merge("dev")
    assert values(ds) == values(lakefmt.load(mem_url))
    assert set(values(ds)) >= {-1, 1, 2, 10, 11}
    dev.squash()
    assert values(lakefmt.load(f"{mem_url}@dev")) == [-1, 1, 2, 10, 11, 12]
    assert ds.fsck(full=True)


def test_copies_bring_them_along(ds: Any) -> None:
    flushed(ds, 4)
    for how in ("copy", "deepcopy"):
        to = f"{ds.path}-{how}"
        getattr(ds, how)(to)
        copy = lakefmt.load(to)
        assert values(copy) == [0, 1, 2, 3]
        flushed(copy, 2, 70)
        assert values(lakefmt.load(to)) == [0, 1, 2, 3, 70, 71]


# -- changing -------------------------------------------------------------------------------------------------------


def test_they_are_updated_deleted_and_continued(ds: Any, mem_url: str) -> None:
    flushed(ds, 6)
    ds.x[2] = -2
    ds.flush()
    ds.pop([0, 5])
    ds.create_tensor("late", dtype="int8")
    ds.late.extend([1, 2, 3])
    ds.flush()
    expected = {"x": [1, -2, 3, 4], "t": [f"row {i}" for i in range(1, 5)], "late": [1, 2, 3]}
    assert contents(lakefmt.load(mem_url)) == expected
    flushed_before = inline(ds)
    assert flushed_before > 0
    ds.commit("folded")
    assert inline(ds) == 0
    assert contents(lakefmt.load(mem_url)) == expected
    assert ds[:].row_ids.tolist() == [1, 2, 3, 4]
    assert ds.fsck(full=True)


def test_an_update_in_every_flush_is_folded_in_the_end(ds: Any, mem_url: str) -> None:
    for i in range(3 * TINY_FILES_MAX):
        ds.append({"x": i, "t": None})
        if i:
            ds.x[0] = -i
        ds.flush()
    assert inline(ds) <= TINY_FILES_MAX + 1
    assert values(lakefmt.load(mem_url)) == [1 - 3 * TINY_FILES_MAX, *range(1, 3 * TINY_FILES_MAX)]


def test_new_class_names_of_two_writers_are_told_apart(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("c", htype="class_label")
    other = lakefmt.load(mem_url)
    ds.append({"c": "cat"})
    other.append({"c": "dog"})
    ds.flush()
    other.flush()
    again = lakefmt.load(mem_url)
    assert [again.c.class_names[i] for i in values(again, "c")] == ["cat", "dog"]
    assert inline(again) == 2


def test_two_writers_that_flush_in_turn_lose_nothing(ds: Any, mem_url: str) -> None:
    handles = [lakefmt.load(mem_url) for _ in range(3)]
    for i in range(90):
        flushed(handles[i % 3], 1, i)
    assert values(lakefmt.load(mem_url)) == list(range(90))
    assert len(set(lakefmt.load(mem_url)[:].row_ids.tolist())) == 90


@pytest.mark.parametrize("theirs", ["commit", "update", "delete", "compact", "files"])
@pytest.mark.parametrize("mine", ["commit", "files", "flush", "compact"])
def test_folding_does_not_get_in_the_way_of_others(ds: Any, mem_url: str, mine: str, theirs: str) -> None:
    flushed(ds, 4)
    other = lakefmt.load(mem_url)
    expected = [0, 1, 2, 3]
    if theirs == "update":
        other.x[1] = expected[1] = -1
        other.flush()
    elif theirs == "delete":
        other.pop(1)
        del expected[1]
    elif theirs == "commit":
        other.commit("theirs")
    elif theirs == "files":
        other.files()
    else:
        other.compact()
    if mine == "commit":
        ds.commit("mine")
        assert ds.commits[0]["message"] == "mine"
    elif mine == "files":
        assert all("inline/" not in f for f in ds.files())
    elif mine == "flush":
        ds.append({"x": 9, "t": None})
        ds.flush()
        expected.append(9)
    else:
        ds.compact()
    ds.refresh()
    assert values(ds) == values(lakefmt.load(mem_url)) == expected
    assert ds.fsck(full=True)


def test_a_fold_by_the_flush_that_is_due_keeps_what_others_did(ds: Any, mem_url: str) -> None:
    flushed(ds, TINY_FILES_MAX)
    other = lakefmt.load(mem_url)
    other.x[3] = -3
    other.pop(5)
    flushed(ds, 1, TINY_FILES_MAX)
    expected = [-3 if i == 3 else i for i in range(TINY_FILES_MAX + 1) if i != 5]
    assert values(lakefmt.load(mem_url)) == expected
    flushed(ds, 2, 100)
    assert values(lakefmt.load(mem_url)) == [*expected, 100, 101]
    assert inline(ds) < TINY_FILES_MAX


# -- trouble --------------------------------------------------------------------------------------------------------


def test_damage_to_the_rows_in_a_version_object_is_told(ds: Any) -> None:
    flushed(ds, 3)
    store = ds._log.store
    key = max(e.key for e in store.list("log/") if e.key.endswith(".json"))
    good = store.get(key)
    for at in (len(good) - 1, len(good) - 30):
        store.put(key, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(Corrupt):
            lakefmt.load(ds.path)
    for bad in (good[:-1], good + b"x", good[: len(good) // 2]):
        store.put(key, bad)
        with pytest.raises(Corrupt):
            lakefmt.load(ds.path)
    store.put(key, good)
    assert values(lakefmt.load(ds.path)) == [0, 1, 2]


def test_a_lost_acknowledgement_stores_the_row_once() -> None:
    store = memory()
    Log.create(store)
    opened(store).create_tensor("x", dtype="int64")

    class Deaf(Wrapped):
        def put_if_absent(self, key: str, data: Any) -> bool:
            self.inner.put_if_absent(key, data)
            return False

    ds = opened(Deaf(store))
    for i in range(5):
        ds.append({"x": i})
        ds.flush()
    assert values(opened(store)) == [0, 1, 2, 3, 4]


def test_a_handle_that_dies_leaves_what_was_flushed(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.append({"x": 1})
    ds.flush()
    ds.append({"x": 2})
    abandon(ds)
    assert isinstance(open_store(mem_url), MemoryStore)
    assert values(lakefmt.load(mem_url)) == [1]


def test_of_several_writers_one_folds(mem_url: str) -> None:
    """Eight that all folded whenever there was enough would leave eight files each time, of which one is used."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.flush()
    handles = [lakefmt.load(mem_url) for _ in range(8)]
    for i in range(320):
        handles[i % 8].append({"x": i})
        handles[i % 8].flush()
    ds.refresh()
    assert sorted(ds.x.numpy().tolist()) == list(range(320))
    written = sum(1 for _ in ds._log.store.list("data/"))
    used = sum(not f.inlined for f in ds._writer.version.state.fragments)
    assert used <= written <= 2 * used
    assert written <= 320 // 16
