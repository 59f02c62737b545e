"""What a repair leaves: never a sample that was replaced, never the id of another row, and all that others commit meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_tools import values

import lakefmt
from lakefmt.errors import MergeConflict
from lakefmt.storage import Store, open_store
from lakefmt.versioning import leaves
from lakefmt.versioning.check import check, repair
from lakefmt.versioning.log import Log
from lakefmt.versioning.torn import LOST

BIG = 4000


def filled(i: float) -> Any:
    """A sample too large for a light file."""
    return np.full(BIG, i, "f4")


@pytest.fixture
def place(tmp_path: Path) -> str:
    """Three fragments of four rows: a light tensor, a heavy one, encoded ones."""
    path = str(tmp_path / "ds")
    ds = lakefmt.dataset(path)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("v", dtype="float32")
    ds.create_tensor("image", htype="image", sample_compression="png")
    ds.create_tensor("note", htype="text")
    for i in range(3):
        rows = range(4 * i, 4 * i + 4)
        images = [np.full((3 + j % 2, 4, 3), j, "u1") for j in rows]
        ds.extend({"x": list(rows), "v": [filled(j) for j in rows], "image": images, "note": [f"n{j}" for j in rows]})
        ds.commit(f"part {i}")
    return path


def overlay(ds: Any, fragment: int, name: str, at: int = 0) -> Any:
    """An update of a tensor in a fragment of the newest version."""
    found: Any = ds._writer.snapshot.fragments[fragment].overlays_of(ds._writer.definition(name).id)[at]
    return found


def lose(place: str, *keys: str) -> None:
    """Objects go."""
    open_store(place).delete(keys)


def mended(place: str) -> tuple[Any, Any]:
    """A handle, and what a repair did."""
    ds = lakefmt.load(place)
    told = ds.repair(dry_run=True)
    did = ds.repair()
    assert (told.lost, told.losses) == (did.lost, did.losses)
    assert ds.verify() > 0
    again = lakefmt.load(place)
    again.repair()
    assert again.version_id == ds.version_id, "what is mended needs no other repair"
    return ds, did


def first(ds: Any, name: str) -> list[Any]:
    """Each sample's first value."""
    return [None if s is None else s.flat[0].item() for s in ds[name].numpy(aslist=True)]


def everywhere(place: str, check: Callable[[Any], None]) -> None:
    """Right now, when opened again, after a compaction, on a branch, and after a merge into another."""
    ds = lakefmt.load(place)
    check(ds)
    ds.create_branch("other")
    ds.compact()
    check(ds)
    check(lakefmt.load(place))
    other = lakefmt.load(f"{place}@other")
    check(other)
    other.append({"x": 100, "v": filled(100), "image": np.zeros((3, 4, 3), "u1"), "note": "n"})
    other.commit("goes on")
    ds.merge("other")
    check(ds)


def test_samples_of_a_lost_update_whose_rows_are_known_are_missing(place: str) -> None:
    ds = lakefmt.load(place)
    ds.v[5:7] = [filled(500), filled(600)]
    ds.v[9] = filled(900)
    ds.commit("update")
    ds.v[6] = filled(601)
    ds.commit("a later one")
    lost = overlay(ds, 1, "v")
    assert len(lost.files) == 2
    lose(place, *(f.key for f in lost.files if f.key != lost.at.file.key))
    ds, did = mended(place)
    assert did.lost == {"main": {"v": 3}}

    def check(ds: Any) -> None:
        assert first(ds, "v")[:12] == [0, 1, 2, 3, 4, None, 601, 7, 8, None, 10, 11]
        shapes = [ds.v[i].shape for i in range(12)]
        assert [s == (BIG,) for s in shapes] == [i not in (5, 9) for i in range(12)]
        assert values(ds.query("v is null"), "x") == [5, 9]
        assert values(ds.query("v[0] >= 0"), "x")[:10] == [0, 1, 2, 3, 4, 6, 7, 8, 10, 11]

    everywhere(place, check)


def test_a_branch_that_has_widened_a_tensor_gets_blanks_of_its_own(place: str) -> None:
    """A tensor is not stored wider on one branch because it is on another, which is mended first."""
    ds = lakefmt.load(place)
    ds.v[5] = filled(500)
    ds.commit("update")
    ds.checkout("dev", create=True)
    ds.alter_tensor("v", dtype="float64")
    ds.commit("wider")
    ds.checkout("main")
    lost = overlay(ds, 1, "v")
    lose(place, *(f.key for f in lost.files if f.key != lost.at.file.key))
    ds, did = mended(place)
    assert did.lost == {"dev": {"v": 1}, "main": {"v": 1}}
    for address, dtype in ((place, "float32"), (f"{place}@dev", "float64")):
        ds = lakefmt.load(address)
        (stored,) = {e.dtype for f in overlay(ds, 1, "v").files for e in f.fields}
        assert stored == dtype
        assert first(ds, "v")[:12] == [0, 1, 2, 3, 4, None, 6, 7, 8, 9, 10, 11]
        assert ds.v[4].numpy().dtype == dtype


def test_encoded_samples_of_a_lost_update_are_missing(place: str) -> None:
    ds = lakefmt.load(place)
    ds.image[5] = np.full((7, 7, 3), 77, "u1")
    ds.commit("update")
    lost = overlay(ds, 1, "image")
    lose(place, *(f.key for f in lost.files if f.key != lost.at.file.key))
    _, did = mended(place)
    assert did.lost == {"main": {"image": 1}}

    def check(ds: Any) -> None:
        assert first(ds, "image")[:12] == [0, 1, 2, 3, 4, None, 6, 7, 8, 9, 10, 11]
        assert ds.image[4].shape == (3, 4, 3)

    everywhere(place, check)


@pytest.mark.parametrize("small_leaves", [False, True], ids=["inline", "in a leaf"])
@pytest.mark.parametrize("name", ["x", "note"])
def test_where_the_rows_of_a_lost_update_are_not_known_no_earlier_sample_is_shown(
    place: str, name: str, small_leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small_leaves:
        monkeypatch.setattr(leaves, "INLINE_MAX", 2)
        monkeypatch.setattr(leaves, "INLINE_KEPT", 1)
    ds = lakefmt.load(place)
    made: Any = int if name == "x" else str
    ds[name][4] = made(400)
    ds.commit("before it")
    ds[name][5] = made(500)
    ds.commit("lost")
    ds[name][6] = made(600)
    ds.commit("after it")
    lose(place, overlay(ds, 1, name, 1).at.file.key)
    _, did = mended(place)
    assert did.lost == {"main": {name: 4}}
    expected = [0, 1, 2, 3, None, None, 600, None, 8, 9, 10, 11]

    def check(ds: Any) -> None:
        found = values(ds) if name == "x" else [s if s is None else s.removeprefix("n") for s in ds.note.text()]
        assert [None if v is None else int(v) for v in found[:12]] == expected
        if name == "x":
            assert sorted(values(ds.query("x >= 0"))[:9]) == [0, 1, 2, 3, 8, 9, 10, 11, 600]
            assert len(ds.query("x is null")) == 3

    everywhere(place, check)


@pytest.mark.parametrize("name", ["x", "v", "image", "note"])
def test_a_tensor_keeps_its_length_when_its_last_samples_are_lost(place: str, name: str) -> None:
    ds = lakefmt.load(place)
    ds.create_tensor("more", dtype="int64")
    ds.append({"x": 12, "v": filled(12), "image": np.zeros((3, 4, 3), "u1"), "note": "n12", "more": 1})
    ds.commit("a row")
    lost: Any = ds._writer.snapshot.fragments[3].field(ds._writer.definition(name).id)
    lose(place, lost[0].key)
    ds, _ = mended(place)
    assert [len(ds[n]) for n in ("x", "v", "image", "note")] == [13] * 4
    ds.append({"x": 13, "v": filled(13), "image": np.ones((3, 4, 3), "u1"), "note": "n13"}, skip_ok=True)
    ds.commit("goes on")
    assert [len(ds[n]) for n in ("x", "v", "image", "note")] == [14] * 4
    if name == "x":
        assert values(ds)[12:] == [None, 13]


def test_samples_of_dropped_tensors_do_not_come_back_old(place: str) -> None:
    ds = lakefmt.load(place)
    ds.x[5] = 500
    ds.commit("update")
    key, field_id = overlay(ds, 1, "x").at.file.key, ds._writer.definition("x").id
    ds.delete_tensor("x")
    lose(place, key)
    ds, did = mended(place)
    assert did.lost["main"] == {}
    found = [f.field(field_id) is not None for f in ds._writer.snapshot.fragments]
    assert found == [True, False, True], "a revert would show what is there"


def test_what_is_lost_is_said(place: str) -> None:
    ds = lakefmt.load(place)
    ds.pop(1)
    ds.v[5] = filled(500)
    ds.pop(10)
    ds.commit("changed")
    fragments = ds._writer.snapshot.fragments
    lost = [fragments[0].deleted.file.key, overlay(ds, 1, "v").files[1].key, fragments[2].files[0].key]
    lose(place, *lost)
    ds, did = mended(place)
    assert {(x.branch, x.what, x.count, x.rows) for x in did.losses} == {
        ("main", "(deleted rows are back)", 1, (0, 4)), ("main", "v", 1, (4, 8)), ("main", "x", 4, (8, 11)),
        ("main", "image", 4, (8, 11)), ("main", "note", 4, (8, 11)),
    }  # fmt: skip
    text = repr(did)
    assert "branch 'main': 1 deleted row is back, among rows 0 to 3 (dv/" in text
    assert "1 sample of 'v' is lost, among rows 4 to 7 (overlays/" in text
    assert "4 samples of 'x' are lost, among rows 8 to 10 (data/" in text
    assert all(key in text for key in lost)
    assert all("needed by version" in line for line in text.splitlines())
    assert values(ds)[:4] == [0, 1, 2, 3]


# -- row ids -------------------------------------------------------------------------------------------------------


def _with_listed_ids(place: str) -> tuple[Any, str]:
    """Row ids that do not run on, and the file that lists them."""
    ds = lakefmt.load(place)
    ds.pop([1, 2])
    ds.compact()
    (fragment,) = ds._writer.snapshot.fragments
    return ds, fragment.ids.file.key


def test_rows_whose_ids_are_lost_get_ids_that_no_row_has(place: str) -> None:
    ds = lakefmt.load(place)
    ds.checkout("dev", create=True)
    ds.x[5] = 5555
    ds.commit("dev")
    ds.checkout("main")
    ds, key = _with_listed_ids(place)
    old = ds[:].row_ids.tolist()
    lose(place, key)
    ds, did = mended(place)
    assert did.lost == {"main": {"(row ids)": 10}}
    assert "10 rows have new row ids" in repr(did)
    fresh = ds[:].row_ids.tolist()
    assert len(set(fresh)) == 10
    assert set(fresh).isdisjoint([*old, *range(100)])
    assert values(ds) == [0, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    with pytest.raises(MergeConflict):
        ds.merge("dev")
    ds.expire(0, grace_s=0)
    ds.merge("dev", "theirs")
    assert values(ds) == [0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 5555], "on a row of its own, and on no other"


def test_branches_that_share_rows_whose_ids_are_lost_can_be_merged(place: str) -> None:
    ds, key = _with_listed_ids(place)
    ds.create_branch("dev")
    lose(place, key)
    ds, did = mended(place)
    assert set(did.lost) == {"main", "dev"}
    dev = lakefmt.load(f"{place}@dev")
    assert dev[:].row_ids.tolist() == ds[:].row_ids.tolist()
    dev.x[3] = 33
    dev.append({"x": 12, "v": filled(12), "image": np.zeros((3, 4, 3), "u1"), "note": "n12"})
    dev.commit("dev")
    ds.expire(0, grace_s=0)
    ds.merge("dev")
    assert values(ds) == [0, 3, 4, 33, 6, 7, 8, 9, 10, 11, 12]


# -- others at work ------------------------------------------------------------------------------------------------


def test_a_file_that_was_restored_since_the_check_stays(place: str) -> None:
    ds = lakefmt.load(place)
    store: Store = open_store(place)
    key = ds._writer.snapshot.fragments[1].field(ds._writer.definition("v").id)[0].key
    data = store.get(key)
    store.delete([key])
    report = ds.fsck()
    assert [p.key for p in report.problems] == [key]
    store.put(key, data)
    before = ds.version_id
    did = ds.repair(report)
    assert (did.lost, did.losses, ds.version_id) == ({}, [], before)
    assert first(ds, "v") == list(range(12))


def test_a_file_that_an_open_handle_has_read_is_found_lost(place: str) -> None:
    ds = lakefmt.load(place)
    first(ds, "v")
    assert ds.verify() > 0
    key = ds._writer.snapshot.fragments[1].field(ds._writer.definition("v").id)[0].key
    data = bytearray((Path(place) / key).read_bytes())
    data[len(data) // 2] ^= 1
    (Path(place) / key).unlink()
    (Path(place) / key).write_bytes(data)
    report = ds.fsck(full=True)
    assert [p.key for p in report.problems] == [key]
    assert ds.repair(report).lost == {"main": {"v": 4}}
    assert first(lakefmt.load(place), "v") == [0, 1, 2, 3, None, None, None, None, 8, 9, 10, 11]


def test_what_another_writer_commits_during_a_repair_stays(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ds, other = lakefmt.load(place), lakefmt.load(place)
    lose(place, ds._writer.snapshot.fragments[1].field(ds._writer.definition("v").id)[0].key)
    put = ds._log._put_version
    todo: list[Callable[[], Any]] = [lambda: other.pop(4), lambda: other.x.__setitem__(5, 600)]

    def meanwhile(*args: Any) -> Any:
        if todo:
            todo.pop(0)()
            other.commit("meanwhile")
        return put(*args)

    monkeypatch.setattr(ds._log, "_put_version", meanwhile)
    did = ds.repair()
    assert todo == []
    assert did.lost == {"main": {"v": 4}}
    now = lakefmt.load(place)
    assert values(now) == [0, 1, 2, 3, 5, 600, 7, 8, 9, 10, 11]
    assert first(now, "v") == [0, 1, 2, 3, None, None, None, 8, 9, 10, 11]
    assert now.verify() > 0


# -- torn versions and branches that have ended --------------------------------------------------------------------


def tear(place: str) -> Path:
    """The newest version object of main loses its end."""
    path = sorted(Path(place).glob(f"log/{lakefmt.load(place)._branch.uuid}/*.json"))[-1]
    path.write_bytes(path.read_bytes()[:-9])
    return path


def test_the_number_of_a_torn_version_stays_taken(place: str) -> None:
    writer = lakefmt.load(place)
    path = tear(place)
    log = writer._log
    report = check(log)
    assert [p.what for p in report.problems] == ["torn"]
    assert repair(log, report).moved
    first_repair = path.read_bytes()
    assert not repair(log, report).moved, "it is whole by now"
    assert path.read_bytes() == first_repair
    writer.append({"x": 12, "v": filled(12), "image": np.zeros((3, 4, 3), "u1"), "note": "n12"})
    writer.commit("by a handle that has read the version before it was torn")
    now = lakefmt.load(place)
    assert values(now) == list(range(13))
    assert sorted(int(p.stem) for p in path.parent.glob("*.json")) == list(range(int(path.stem) + 2)), "no hole"


def test_row_ids_of_a_torn_version_are_not_given_again(place: str) -> None:
    """A branch that began on it has rows of these ids."""
    ds = lakefmt.load(place)
    ds.create_branch("dev")
    dev = lakefmt.load(f"{place}@dev")
    tear(place)
    ds = Log.open(open_store(place))
    assert repair(ds, check(ds)).moved
    main = lakefmt.load(place)
    rows = range(90, 94)
    main.extend(
        {"x": list(rows), "v": [filled(j) for j in rows], "image": [np.zeros((3, 4, 3), "u1")] * 4, "note": [f"n{j}" for j in rows]}
    )
    main.commit("goes on")
    ids = main[:].row_ids.tolist()
    assert len(set(ids)) == 12
    assert set(ids[8:]).isdisjoint(dev[:].row_ids.tolist())
    main.merge("dev")
    assert sorted(values(main)) == [*range(12), *rows], "rows of both, each once"


def test_a_commit_that_lands_between_two_repairs_stays(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen the torn version; the second goes on when the first is done and somebody has committed."""
    path = tear(place)
    slow, quick = (Log.open(open_store(place)) for _ in range(2))
    report = check(quick)
    put = slow.store.put

    def meanwhile(key: str, data: Any) -> None:
        if key.startswith(LOST) and not writers:
            repair(quick, report)
            writers.append(lakefmt.load(place))
            writers[0].append({"x": 99, "v": filled(99), "image": np.zeros((3, 4, 3), "u1"), "note": "n99"})
            writers[0].commit("acknowledged")
        put(key, data)

    writers: list[Any] = []
    monkeypatch.setattr(slow.store, "put", meanwhile)
    repair(slow, report)
    assert len(writers) == 1
    now = lakefmt.load(place)
    assert values(now) == [*range(8), 99]
    assert now.fsck(full=True), now.fsck(full=True)
    assert path.exists()


def test_several_torn_versions_in_a_row(place: str) -> None:
    paths = sorted(Path(place).glob("log/*/*.json"))
    for path in paths[-2:]:
        path.write_bytes(b"")
    log = Log.open(open_store(place))
    report = check(log)
    assert [p.what for p in report.problems] == ["damaged", "torn"]
    did = repair(log, report)
    assert len(did.moved) == 1
    assert [p.key for p in did.left] == [str(paths[-2].relative_to(place))]
    assert values(lakefmt.load(place)) == [0, 1, 2, 3]


def test_a_torn_version_that_is_not_the_newest_any_more_is_left(place: str) -> None:
    log = Log.open(open_store(place))
    path = tear(place)
    report = check(log)
    later = path.with_name(f"{int(path.stem) + 1:020d}.json")
    later.write_bytes(b"{}")
    before = path.read_bytes()
    did = repair(log, report)
    assert did.moved == {}
    assert [p.what for p in did.left] == ["torn", "log"]
    assert path.read_bytes() == before


def test_the_first_version_has_nothing_to_stand_in_for_it(place: str) -> None:
    ds = lakefmt.load(place)
    ds.create_branch("dev")
    (path,) = Path(place).glob(f"log/{lakefmt.load(f'{place}@dev')._branch.uuid}/*.json")
    path.write_bytes(b"")
    did = ds.repair()
    assert did.moved == {}
    assert "dev" in repr(did)
    assert path.exists()


def test_a_branch_that_has_ended_is_left_alone(tmp_path: Path, place: str) -> None:
    ds = lakefmt.load(place)
    ds.create_branch("dev")
    ref = (Path(place) / "refs" / "branches" / "dev.json").read_bytes()
    ds.delete_branch("dev")
    (Path(place) / "refs" / "branches" / "dev.json").write_bytes(ref)  # a copy to an older copy leaves such a name
    lose(place, ds._writer.snapshot.fragments[1].field(ds._writer.definition("v").id)[0].key)
    did = lakefmt.load(place).repair()
    assert (did.lost, did.left) == ({"main": {"v": 4}}, [])
