"""Compaction changes files and nothing else: same rows, same order, same row ids, same bytes; other writers' work wins."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_tools import contents, values

import lakefmt
from lakefmt.errors import CommitStateUnknown, Conflict, StoreError
from lakefmt.fragment.meta import Layout
from lakefmt.versioning import leaves
from lakefmt.versioning.log import Log

sys.path.insert(0, str(Path(__file__).parents[1] / "versioning"))
from faulty_stores import Wrapped, memory, opened

ROWS = 6


@pytest.fixture
def ds(mem_url: str) -> Any:
    """One tensor of numbers."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    return ds


def appended(ds: Any, fragments: int, rows: int = 10) -> None:
    """Some fragments of increasing numbers."""
    for i in range(fragments):
        ds.extend({"x": np.arange(rows) + i * rows})
        ds.commit()


def fragments(ds: Any) -> int:
    """How many the version has."""
    return len(ds._writer.snapshot.fragments)


def ids(ds: Any) -> list[int]:
    """Row ids, in order."""
    found: list[int] = ds[:].row_ids.tolist()
    return found


# -- every layout ---------------------------------------------------------------------------------------------------

Samples = Callable[[int], Any]
TENSORS: dict[str, tuple[dict[str, Any], Samples, Layout]] = {
    "scalar": ({"dtype": "int16"}, lambda i: i * 7 - 20, Layout.SCALAR),
    "flag": ({"dtype": "bool"}, lambda i: i % 3 == 0, Layout.SCALAR),
    "half": ({"dtype": "float16"}, lambda i: i / 3, Layout.SCALAR),
    "huge": ({"dtype": "uint64"}, lambda i: (1 << 64) - 1 - i, Layout.SCALAR),
    "not_a_number": ({"dtype": "float64"}, lambda i: np.nan if i % 2 else -0.0, Layout.SCALAR),
    "small_list": ({"dtype": "int32"}, lambda i: np.arange(4) + i, Layout.LISTS),
    "ragged": ({"dtype": "float32"}, lambda i: np.arange(i % 4) + i, Layout.LISTS),
    "dimensions": ({"dtype": "int8"}, lambda i: np.full((1,) * (i % 3) + (2,), i), Layout.LISTS),
    "flat": ({"dtype": "float32"}, lambda i: np.arange(300).reshape(3, 100) + i, Layout.FLAT),
    "blobs": ({"dtype": "uint8"}, lambda i: np.full((i % 5 + 1, 3000), i), Layout.BLOBS),
    "text": ({"htype": "text"}, lambda i: f"row {i} é\n", Layout.TEXT),
    "documents": ({"htype": "text"}, lambda i: f"{i} word " * 800, Layout.DOCUMENTS),
    "json": ({"htype": "json"}, lambda i: {"i": i, "deep": [None, {"k": "é"}]}, Layout.TEXT),
    "label": ({"htype": "class_label"}, lambda i: f"class {i % 3}", Layout.SCALAR),
    "labels": ({"htype": "class_label", "dtype": "int32"}, lambda i: [f"class {k}" for k in range(i % 3)], Layout.LISTS),
    "embedding": ({"htype": "embedding"}, lambda i: np.arange(64) / 64 + i, Layout.FLAT),
    "raw_image": ({"htype": "image", "sample_compression": None}, lambda i: np.full((20, 30, 3), i), Layout.FLAT),
}


def layouts(ds: Any, name: str) -> set[Layout]:
    """How a tensor lies in the files of this version."""
    found = ds._writer.snapshot
    definition = found.definitions[name]
    return {f.field(definition.id)[1].layout for f in found.fragments if f.field(definition.id) is not None}


def same(one: Any, other: Any) -> bool:
    """Whether samples are equal to the last bit, dtypes and shapes included."""
    if isinstance(one, np.ndarray) and one.dtype != object:
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return bool(one == other)


def samples(ds: Any, name: str) -> list[Any]:
    """All samples as they come out, bytes of encoded ones."""
    tensor = ds[name]
    found: list[Any] = tensor.tobytes() if tensor.sample_compression else tensor.numpy(aslist=True)
    return found


def compacted_the_same(ds: Any, url: str, names: list[str]) -> None:
    """Compact, and compare everything with what was there before."""
    before = {n: samples(ds, n) for n in names}
    lengths, shapes = {n: len(ds[n]) for n in names}, {n: ds._shapes(n, np.arange(len(ds))) for n in names}
    old_ids, old, rows = ids(ds), ds.version_id, len(ds)
    did = ds.compact()
    assert did.done
    for now in (ds, lakefmt.load(url)):
        assert fragments(now) == 1
        assert (len(now), ids(now)) == (rows, old_ids)
        assert {n: len(now[n]) for n in names} == lengths
        assert {n: now._shapes(n, np.arange(rows)) for n in names} == shapes
        for name in names:
            assert all(map(same, samples(now, name), before[name])), name
        assert now.verify() >= 0
    assert all(same(a, b) for n in names for a, b in zip(samples(lakefmt.load(f"{url}@{old}"), n), before[n], strict=True))


@pytest.mark.parametrize("how", ["plain", "missing samples", "deletions and updates", "leading and trailing gaps"])
@pytest.mark.parametrize("name", list(TENSORS))
def test_samples_of_every_layout_stay_as_they_are(mem_url: str, name: str, how: str) -> None:
    options, make, layout = TENSORS[name]
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("t", **options)
    ds.create_tensor("n", dtype="int32")
    for part in range(3):
        column = [make(part * ROWS + i) for i in range(ROWS)]
        if how == "missing samples":
            column[1] = column[4] = None
        if how == "leading and trailing gaps" and part != 1:
            column = [None] * ROWS
        ds.extend({"t": column, "n": np.arange(ROWS)})
        ds.commit()
    if how == "plain":
        assert layouts(ds, "t") == {layout}
    if how == "deletions and updates":
        ds.pop([0, 3, 8, 17])
        ds.t[2] = make(101)
        ds.t[2] = make(102)
        ds.t[5:8] = [make(103), make(104), make(105)]
        ds.commit()
        assert any(f.deleted for f in ds._writer.snapshot.fragments)
    compacted_the_same(ds, mem_url, ["t", "n"])
    if how == "plain":
        assert layouts(ds, "t") == {layout}


@pytest.mark.parametrize("codec", ["jpeg", "png"])
def test_encoded_images_keep_their_bytes(mem_url: str, codec: str, jpeg_bytes: bytes, png_bytes: bytes) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("i", htype="image", sample_compression=codec)
    encoded = jpeg_bytes if codec == "jpeg" else png_bytes
    for _ in range(3):
        for k in range(3):
            ds.append({"i": np.full((8 + k, 9, 3), 40 * k, "u1") if k else lakefmt.Sample(encoded)})
        ds.append({"i": None})
        ds.commit()
    ds.i[4] = np.zeros((3, 4, 3), "u1")
    ds.pop(1)
    ds.commit()
    assert ds.i.tobytes()[0] == encoded
    compacted_the_same(ds, mem_url, ["i"])
    assert ds.i.tobytes()[0] == encoded


def test_a_short_tensor_stays_short_and_can_be_continued(ds: Any, mem_url: str) -> None:
    ds.create_tensor("s", htype="text")
    appended_rows = 0
    for part in range(3):
        ds.extend({"x": np.arange(5)}, skip_ok=True)
        if part == 0:
            ds.s.extend(["a", "b", "c"])
        ds.commit()
        appended_rows += 5
    assert len(ds.s) == 3
    compacted_the_same(ds, mem_url, ["x", "s"])
    ds.s.extend(["d", "e"])
    ds.pop(4)
    ds.commit()
    assert values(lakefmt.load(mem_url), "s") == ["a", "b", "c", "d"]
    ds.compact()
    assert (len(ds.s), len(ds)) == (4, 14)
    ds.s.extend([f"{i}" for i in range(10)])
    ds.commit()
    assert values(lakefmt.load(mem_url), "s") == ["a", "b", "c", "d", *map(str, range(10))]


def test_a_tensor_without_a_dtype_keeps_waiting_for_one(ds: Any, mem_url: str) -> None:
    ds.create_tensor("later")
    for _ in range(3):
        ds.extend({"x": [1, 2], "later": [None, None]})
        ds.commit()
    compacted_the_same(ds, mem_url, ["x", "later"])
    ds.later[1] = 7
    ds.commit()
    ds.compact()
    assert str(ds.later.dtype) == "int64"
    assert values(lakefmt.load(mem_url), "later") == [None, 7, None, None, None, None]


def test_the_columns_of_dropped_tensors_are_left_out(ds: Any, mem_url: str) -> None:
    ds.create_tensor("big", dtype="float32")
    for i in range(3):
        ds.extend({"x": np.arange(5), "big": np.full((5, 1000), i, "f4")})
        ds.commit()
    ds.delete_tensor("big")
    version = ds.version_id
    assert ds.compact().done
    stored = {e.id for f in ds._writer.snapshot.fragments for file in f.files for e in file.fields}
    assert stored == {ds._writer.definition("x").id}
    assert values(ds) == [0, 1, 2, 3, 4] * 3
    with pytest.raises(KeyError):
        _ = ds["big"]
    old = lakefmt.load(mem_url).history()[-1]
    assert old.v == 0
    before_drop = f"{version.split('-')[0]}-{int(version.split('-')[1]) - 1}"
    assert lakefmt.load(f"{mem_url}@{before_drop}").big[14].numpy().tolist() == [2.0] * 1000


def test_a_widened_tensor_keeps_its_values(ds: Any, mem_url: str) -> None:
    ds.create_tensor("w", dtype="uint8")
    ds.extend({"x": [0] * 4, "w": [0, 1, 254, 255]})
    ds.commit()
    ds.alter_tensor("w", dtype="int32")
    ds.extend({"x": [0] * 2, "w": [-70_000, 70_000]})
    ds.commit()
    ds.alter_tensor("w", dtype="float64")
    ds.extend({"x": [0] * 2, "w": [0.5, np.inf]})
    ds.w[1] = 1.25
    ds.commit()
    compacted_the_same(ds, mem_url, ["w", "x"])
    assert values(ds, "w") == [0, 1.25, 254, 255, -70_000, 70_000, 0.5, np.inf]
    ds.w[0] = 1e300
    ds.commit()
    assert values(lakefmt.load(mem_url), "w")[0] == 1e300


# -- what it folds, and what it says --------------------------------------------------------------------------------


def test_deletions_and_updates_are_folded_in(ds: Any) -> None:
    appended(ds, 4)
    ds.pop([1, 11, 12, 39])
    ds.x[0] = 100
    ds.x[20] = 200
    ds.commit()
    rows, row_ids = values(ds), ids(ds)
    ds.compact()
    (only,) = ds._writer.snapshot.fragments
    assert (only.deleted, only.overlays, only.rows) == (None, (), 36)
    assert (values(ds), ids(ds)) == (rows, row_ids)


def test_a_dataset_whose_rows_are_all_deleted_becomes_empty(ds: Any, mem_url: str) -> None:
    appended(ds, 3)
    ds.pop(list(range(30)))
    ds.commit()
    ds.compact()
    assert (fragments(ds), len(ds), values(ds)) == (0, 0, [])
    ds.append({"x": 7})
    ds.commit()
    assert values(lakefmt.load(mem_url)) == [7]
    assert ids(ds) == [30], "row ids are never used again"


def test_a_dry_run_changes_nothing_and_tells_the_truth(ds: Any, mem_url: str) -> None:
    appended(ds, 5)
    ds.pop([3, 14])
    ds.x[2] = 9
    ds.commit()
    version, objects = ds.version_id, sorted(e.key for e in ds._log.store.list(""))
    told = ds.compact(dry_run=True)
    assert (ds.version_id, sorted(e.key for e in ds._log.store.list(""))) == (version, objects)
    assert not told.done
    did = ds.compact()
    assert did.done
    assert (told.fragments, told.rows, told.parts) == (did.fragments, did.rows, did.parts) == ((5, 1), 48, told.parts)
    assert sum(p.deleted for p in told.parts) == 2
    assert sum(p.overlays for p in told.parts) == 1
    assert "would rewrite 48 rows" in repr(told)
    assert "5 fragments become 1" in repr(did)


def test_a_dry_run_works_on_a_version_and_a_read_only_handle(ds: Any, mem_url: str) -> None:
    appended(ds, 3)
    assert lakefmt.load(mem_url, read_only=True).compact(dry_run=True).fragments == (3, 1)
    old = lakefmt.load(f"{mem_url}@{ds.version_id}")
    assert old.compact(dry_run=True).fragments == (3, 1)
    with pytest.raises(PermissionError):
        old.compact()


def test_nothing_to_do_makes_no_version(ds: Any) -> None:
    appended(ds, 4)
    ds.compact()
    version = ds.version_id
    did = ds.compact()
    assert (did.done, did.parts, ds.version_id) == (False, (), version)


def test_many_small_flushes_become_few_fragments(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("v", dtype="float32")
    for i in range(70):
        ds.append({"x": i, "v": np.full(40, i, "f4")})
        ds.flush()
    assert fragments(ds) > 3
    rows, row_ids = contents(ds), ids(ds)
    ds.compact()
    assert (fragments(ds), contents(ds), ids(ds)) == (1, rows, row_ids)
    assert not ds._writer.version.inline


def test_large_clean_fragments_are_left_alone(ds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakefmt.compact.SMALL_NBYTES", 1000)
    monkeypatch.setattr("lakefmt.compact.TARGET_NBYTES", 8000)
    appended(ds, 1, 500)
    appended(ds, 3, 10)
    appended(ds, 1, 400)
    big = [ds._writer.snapshot.fragments[i].id for i in (0, 4)]
    ds.compact()
    kept = [f.id for f in ds._writer.snapshot.fragments]
    assert (len(kept), [kept[0], kept[-1]]) == (3, big)
    assert values(ds) == [*range(500), *range(30), *range(400)]


def test_compaction_goes_through_leaves(mem_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("INLINE_MAX", 4),
        ("INLINE_KEPT", 2),
        ("OVERRIDES_MAX", 3),
        ("SMALL_LEAVES_MAX", 3),
        ("LEAF_FRAGMENTS_MAX", 8),
    ):
        monkeypatch.setattr(leaves, name, value)
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    appended(ds, 30, 5)
    assert ds._writer.version.state.leaves
    for i in range(0, 100, 9):
        ds.x[i] = -i
        ds.pop(i + 1)
    ds.commit()
    rows, row_ids = values(ds), ids(ds)
    ds.compact()
    again = lakefmt.load(mem_url)
    assert (values(again), ids(again), fragments(again)) == (rows, row_ids, 1)
    assert again.fsck(full=True)
    appended(ds, 20, 5)
    assert values(lakefmt.load(mem_url)) == [*rows, *range(100)]


# -- other writers --------------------------------------------------------------------------------------------------


def during(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Run something once while a compaction is under way, after it has planned and before it commits."""
    import lakefmt.upkeep

    real, done = lakefmt.upkeep.rewritten, []

    def rewritten(*arguments: Any) -> Any:
        made = real(*arguments)
        if not done:
            done.append(1)
            act()
        return made

    monkeypatch.setattr("lakefmt.upkeep.rewritten", rewritten)


def in_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fragments of 100 rows (800 bytes) are compacted two by two."""
    monkeypatch.setattr("lakefmt.compact.TARGET_NBYTES", 1700)
    monkeypatch.setattr("lakefmt.compact.SMALL_NBYTES", 1000)


ACTS: dict[str, tuple[Callable[[Any], Any], Callable[[list[int]], list[int]]]] = {
    "append": (lambda o: o.append({"x": -1}), lambda rows: [*rows, -1]),
    "update": (lambda o: o.x.__setitem__(350, -5), lambda rows: [*rows[:350], -5, *rows[351:]]),
    "delete": (lambda o: o.pop(350), lambda rows: [r for i, r in enumerate(rows) if i != 350]),
    "compact": (lambda o: o.compact(), lambda rows: rows),
    "a new tensor": (lambda o: o.create_tensor("other"), lambda rows: rows),
}


@pytest.mark.parametrize("act", list(ACTS))
@pytest.mark.parametrize("commits", ["one commit", "a commit a part"])
def test_what_another_writer_does_meanwhile_is_kept(
    ds: Any, mem_url: str, monkeypatch: pytest.MonkeyPatch, act: str, commits: str
) -> None:
    in_two_parts(monkeypatch)
    if commits == "a commit a part":
        monkeypatch.setattr("lakefmt.upkeep._COMMIT_NBYTES", 1)
    appended(ds, 4, 100)
    do, expected = ACTS[act]
    rows = values(ds)
    other = lakefmt.load(mem_url)

    def interfere() -> None:
        do(other)
        other.commit(allow_empty=True)

    during(monkeypatch, interfere)
    try:
        ds.compact()
    except Conflict:
        assert act == "compact", "nothing is left of it"
    for now in (ds, lakefmt.load(mem_url)):
        now.refresh()
        assert values(now) == expected(rows)
    assert lakefmt.load(mem_url).fsck(full=True)


def test_a_compaction_of_which_others_leave_nothing_is_no_error(ds: Any, mem_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    appended(ds, 2)
    other = lakefmt.load(mem_url)

    def interfere() -> None:
        other.x[3] = -1
        other.commit()

    during(monkeypatch, interfere)
    ds.compact()
    assert values(lakefmt.load(mem_url))[3] == -1


def test_rows_appended_by_another_thread_of_the_handle_are_kept(ds: Any, mem_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import lakefmt.upkeep

    appended(ds, 2)
    real = lakefmt.upkeep.plan

    def plan(snapshot: Any) -> Any:
        thread = threading.Thread(target=lambda: ds.append({"x": 77}), daemon=True)
        thread.start()
        thread.join(0.3)  # a handle that holds its lock here makes it wait
        return real(snapshot)

    monkeypatch.setattr("lakefmt.upkeep.plan", plan)
    ds.compact()
    for _ in range(100):
        if len(ds) == 21:
            break
        threading.Event().wait(0.02)
    ds.flush()
    assert values(lakefmt.load(mem_url))[20:] == [77]


def test_an_update_buffered_before_somebody_compacted_finds_its_row(ds: Any, mem_url: str) -> None:
    appended(ds, 3)
    other = lakefmt.load(mem_url)
    other.x[15] = -1
    other.pop(3)
    ds.refresh()
    ds.compact()
    other.x[14] = -2  # its row 14 is row id 15
    other.commit()
    ds.refresh()
    assert values(ds) == [i % 30 if i != 15 else -2 for i in range(30) if i != 3]


def test_a_row_that_was_deleted_and_folded_away_is_not_updated_elsewhere(ds: Any, mem_url: str) -> None:
    appended(ds, 3)
    other = lakefmt.load(mem_url)
    ds.pop([4, 5])
    ds.compact()
    other.x[[4, 6]] = [-4, -6]
    other.flush()
    ds.refresh()
    assert values(ds) == [0, 1, 2, 3, -6, *range(7, 30)]
    other.pop([0])
    assert values(lakefmt.load(mem_url)) == [1, 2, 3, -6, *range(7, 30)]


def test_a_row_whose_flush_had_an_unknown_outcome_is_found_after_somebody_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakefmt.versioning.log.AMBIGUOUS_TRIES_MAX", 1)
    inner = memory()
    Log.create(inner)
    cut: list[str] = []

    class Cut(Wrapped):
        """The connection is cut when a version has been put, and once more when it is asked for."""

        def call(self, name: str, key: str, fn: Callable[[], Any]) -> Any:
            if cut and name == cut[-1] and key.startswith("log/"):
                cut.pop()
                if name == "put_if_absent":
                    fn()
                raise StoreError(5, "cut")
            return fn()

    ds = opened(Cut(inner))
    ds.create_tensor("x", dtype="int64")
    ds.append({"x": 0})
    ds.commit()
    ds.append({"x": 1})
    cut += ["get", "put_if_absent"]
    with pytest.raises(CommitStateUnknown):
        ds.flush()
    opened(inner).compact()
    ds.x[1] = 5
    ds.commit()
    assert values(opened(inner)) == [0, 5]


def test_differences_merges_and_modified_rows_see_through_a_compaction(ds: Any, mem_url: str) -> None:
    appended(ds, 3)
    first = ds.commit("first", allow_empty=True)
    ds.create_branch("dev")
    dev = lakefmt.load(f"{mem_url}@dev")
    dev.x[12] = -12
    dev.pop(0)
    dev.append({"x": 99})
    dev.commit("dev")
    ds.x[20] = -20
    ds.pop([25])
    ds.commit("main")
    ds.compact()
    rows = ds.diff(first).tensors["x"]
    assert (rows.added.tolist(), rows.updated.tolist(), rows.deleted.tolist()) == ([], [20], [25])
    assert np.asarray(ds.x.modified_rows(first)).tolist() == [20]
    dev.compact()
    ds.merge("dev")
    expected = [-12 if i == 12 else -20 if i == 20 else i for i in range(1, 30) if i != 25]
    assert values(ds) == [*expected, 99]


def test_a_revert_across_a_compaction_brings_deleted_rows_back(ds: Any) -> None:
    appended(ds, 3)
    ds.pop([7, 8])
    ds.x[0] = 50
    version = ds.commit("gone")
    popped = f"{version.split('-')[0]}-{int(version.split('-')[1]) - 1}"
    ds.compact()
    ds.revert(popped)
    assert sorted(values(ds)) == sorted([50, *range(1, 30)])
    assert sorted(ids(ds)) == list(range(30))
    ds.revert(version)
    assert sorted(values(ds)) == list(range(30))


# -- queries and loaders --------------------------------------------------------------------------------------------


def test_queries_and_loaders_read_the_same_after_it(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("t", htype="text")
    ds.create_tensor("v", dtype="float32")
    for part in range(4):
        ds.extend({"x": np.arange(10) + part * 10, "t": [f"t{i}" for i in range(10)], "v": np.ones((10, 60), "f4") * part})
        ds.commit()
    ds.pop([0, 11, 39])
    ds.x[5] = -5
    ds.v[6] = np.full(60, 6.5, "f4")
    ds.commit()
    text = "select * where x % 3 = 0 and t != 't4' order by x desc"

    def read() -> tuple[list[int], list[list[int]], list[float]]:
        batches = list(ds[["x", "v"]].dataloader().batch(7).numpy())
        return values(ds.query(text)), [b["x"].tolist() for b in batches], [float(b["v"].sum()) for b in batches]

    ds.query(text).save_view("saved")
    before = read()
    ds.compact()
    assert read() == before
    assert values(ds.load_view("saved")) == before[0]
    assert values(ds.query("v[0] = 6.5")) == [7]
