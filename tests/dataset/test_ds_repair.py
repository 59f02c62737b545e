"""Damage is found, named, and mended as far as it can be: the rest can be read and written, and what is lost is said."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_tools import values

import lakefmt
from lakefmt.errors import Corrupt, LakeError, ReadOnly
from lakefmt.storage import Store, open_store
from lakefmt.upkeep import look_over
from lakefmt.versioning import leaves

ROWS = 12


@pytest.fixture
def place(tmp_path: Path) -> str:
    """Three fragments of two tensors in files, with a deletion and an update."""
    path = str(tmp_path / "ds")
    ds = lakefmt.dataset(path)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("v", dtype="float32")
    for i in range(3):
        ds.extend({"x": np.arange(4) + 4 * i, "v": np.full((4, 100), i, "f4")})
        ds.commit(f"part {i}")
    ds.x[5] = 500
    ds.commit("update")
    ds.pop(9)
    ds.commit("deletion")
    return path


def flip(store: Store, key: str) -> None:
    """Change one byte in the middle."""
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 0x55
    store.put(key, bytes(data))


def drop(store: Store, key: str) -> None:
    """The object is gone."""
    store.delete([key])


def cut(store: Store, key: str) -> None:
    """The object lacks its end."""
    store.put(key, store.get(key)[:-7])


def grow(store: Store, key: str) -> None:
    """The object has more bytes than it should."""
    store.put(key, store.get(key) + b"more")


DAMAGES: dict[str, Callable[[Store, str], None]] = {"missing": drop, "cut": cut, "longer": grow, "flipped": flip}


def fragment(ds: Any, i: int) -> Any:
    """One fragment of the newest version."""
    return ds._writer.snapshot.fragments[i]


def key_of(ds: Any, what: str) -> str:
    """Key of an object of the middle fragment (of the last, where a row was deleted)."""
    some = fragment(ds, 1)
    if what == "overlay":
        return str(some.overlays[0].at.file.key)
    if what == "deletions":
        return str(fragment(ds, 2).deleted.file.key)
    return str(some.field(ds._writer.definition("x" if what == "light file" else "v").id)[0].key)


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("what", ["light file", "heavy file", "overlay", "deletions"])
def test_a_damaged_file_is_found_and_taken_out(place: str, what: str, damage: str) -> None:
    ds = lakefmt.load(place)
    store = open_store(place)
    key = key_of(ds, what)
    DAMAGES[damage](store, key)
    ds = lakefmt.load(place)
    full = damage == "flipped"
    assert ds.fsck() if full else not ds.fsck(), "a flipped byte is found by reading it only"
    report = ds.fsck(full=full)
    assert not report
    assert [(p.key, p.what) for p in report.problems] == [(key, "missing" if damage == "missing" else "damaged")]
    assert ds.version_id in report.problems[0].versions
    assert key in repr(report)
    with pytest.raises(Corrupt, match=Path(key).name):
        ds.verify(full=full)

    before = ds.version_id
    told = ds.repair(report, dry_run=True)
    assert (told.done, ds.version_id, lakefmt.load(place).version_id) == (False, before, before)
    did = ds.repair(report)
    assert did.done
    assert (did.lost, did.left, did.moved) == (told.lost, [], {})
    lost = {
        "light file": {"main": {"x": 4}}, "heavy file": {"main": {"v": 4}}, "overlay": {"main": {"x": 4}},
        "deletions": {"main": {"(deleted rows are back)": 1}},
    }  # fmt: skip
    assert did.lost == lost[what]

    x: list[Any] = [0, 1, 2, 3, 4, 500, 6, 7, 8, 10, 11]
    v: list[Any] = [[i // 4] * 2 for i in [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]]
    if what == "light file":
        x[4:8] = [None, 500, None, None]
    elif what == "heavy file":
        v[4:8] = [None] * 4
    elif what == "overlay":  # which rows it concerned is not known: what they had before is not shown as if it were current
        x[4:8] = [None] * 4
    else:
        x.insert(9, 9)
        v.insert(9, [2, 2])
    for now in (ds, lakefmt.load(place)):
        assert values(now) == x
        assert [None if s is None else s[:2].tolist() for s in now.v.numpy(aslist=True)] == v
        assert now.verify() > 0
    ds.append({"x": 1, "v": np.zeros(100, "f4")})
    ds.x[4] = 44
    ds.commit("goes on")
    assert values(lakefmt.load(place)) == [*x[:4], 44, *x[5:], 1]
    ds.compact()
    assert values(lakefmt.load(place)) == [*x[:4], 44, *x[5:], 1]


def test_all_files_of_a_fragment_may_be_lost(place: str) -> None:
    ds = lakefmt.load(place)
    for file in fragment(ds, 0).files:
        drop(open_store(place), file.key)
    report, did = look_over(place, repair=True)
    assert len(report.problems) == 2
    assert did is not None
    assert did.lost == {"main": {"x": 4, "v": 4}}
    again = lakefmt.load(place)
    assert values(again) == [None] * 4 + [4, 500, 6, 7, 8, 10, 11]
    assert again[:].row_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]
    assert len(again.query("x = 500")) == 1


def test_samples_in_dropped_tensors_are_no_loss(place: str) -> None:
    ds = lakefmt.load(place)
    key = key_of(ds, "heavy file")
    ds.delete_tensor("v")
    drop(open_store(place), key)
    did = ds.repair()
    assert did.lost.get("main", {}) == {}
    assert did.left == []
    assert ds.verify() > 0


def test_every_branch_is_mended(place: str) -> None:
    ds = lakefmt.load(place)
    ds.create_branch("dev")
    drop(open_store(place), key_of(ds, "heavy file"))
    report, did = look_over(place, repair=True)
    assert did is not None
    assert did.lost == {"dev": {"v": 4}, "main": {"v": 4}}
    for address in (place, f"{place}@dev"):
        assert lakefmt.load(address).verify() > 0
    left, _ = look_over(place)
    assert {p.key for p in left.problems} == {p.key for p in report.problems}, "older versions still need it"


# -- the log --------------------------------------------------------------------------------------------------------


def version_path(place: str, back: int = 0) -> Path:
    """A version object of main, counted from the newest."""
    return sorted(Path(place).glob("log/*/*.json"))[-1 - back]


TEARS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"", "head only": lambda data: data[:40], "half": lambda data: data[: len(data) // 2],
    "last byte": lambda data: data[:-1], "zeros": lambda data: bytes(len(data)), "zero tail": lambda data: data[:-20] + bytes(20),
}  # fmt: skip


@pytest.mark.parametrize("hint", ["as it is", "missing", "garbage", "points at it"])
@pytest.mark.parametrize("tear", list(TEARS))
def test_a_torn_newest_version_is_set_aside(place: str, tear: str, hint: str) -> None:
    ds = lakefmt.load(place)
    ds.extend({"x": [90, 91], "v": np.zeros((2, 100), "f4")})
    ds.commit("torn")
    path = version_path(place)
    torn = TEARS[tear](path.read_bytes())
    path.write_bytes(torn)
    at = path.parent / "_hint"
    if hint == "missing":
        at.unlink(missing_ok=True)
    elif hint != "as it is":
        at.write_bytes(b"\x00garbage" if hint == "garbage" else b'{"v": %d, "floor": 0}' % int(path.stem))
    with pytest.raises(Corrupt):
        lakefmt.load(place)
    report, none = look_over(place)
    assert none is None
    assert [p.what for p in report.problems] == ["torn"]
    _, did = look_over(place, repair=True)
    assert did is not None
    assert did.left == []
    key = str(path.relative_to(place))
    assert did.moved == {key: f"_lost/{key}"}
    assert (Path(place) / did.moved[key]).read_bytes() == torn
    again = lakefmt.load(place)
    assert values(again) == [0, 1, 2, 3, 4, 500, 6, 7, 8, 10, 11]
    assert again.fsck(full=True)
    again.append({"x": 1, "v": np.zeros(100, "f4")})
    again.commit("goes on")
    assert values(lakefmt.load(place))[-1] == 1
    assert [c["message"] for c in again.commits][:2] == ["goes on", "deletion"]


def test_a_dry_run_of_a_torn_version_tells_what_the_repair_does(place: str) -> None:
    from lakefmt.versioning.check import check, repair
    from lakefmt.versioning.log import Log

    path = version_path(place)
    path.write_bytes(path.read_bytes()[:100])
    log = Log.open(open_store(place))
    report = check(log)
    told = repair(log, report, dry_run=True)
    assert path.exists()
    did = repair(log, report)
    assert (told.moved, told.lost, told.left) == (did.moved, did.lost, did.left)


def test_a_handle_that_was_open_can_repair(place: str) -> None:
    ds = lakefmt.load(place)
    other = lakefmt.load(place)
    other.extend({"x": [1], "v": np.zeros((1, 100), "f4")})
    other.commit("torn")
    path = version_path(place)
    path.write_bytes(b"")
    ds.append({"x": 5, "v": np.ones(100, "f4")})
    ds.discard()
    assert ds.repair().moved
    assert values(ds) == values(lakefmt.load(place)) == [0, 1, 2, 3, 4, 500, 6, 7, 8, 10, 11]
    with pytest.raises(ReadOnly):
        lakefmt.load(place, read_only=True).repair()


@pytest.mark.parametrize("tear", list(TEARS))
def test_a_torn_older_version_is_told_and_left(place: str, tear: str) -> None:
    path = version_path(place, 3)
    path.write_bytes(TEARS[tear](path.read_bytes()))
    report, did = look_over(place, repair=True)
    assert [(p.what, p.key) for p in report.problems] == [("damaged", str(path.relative_to(place)))]
    assert did is not None
    assert (did.moved, did.lost, [p.key for p in did.left]) == ({}, {}, [str(path.relative_to(place))])
    assert path.exists()
    ds = lakefmt.load(place)
    assert len(values(ds)) == 11
    ds.append({"x": 1, "v": np.zeros(100, "f4")})
    ds.commit("goes on")
    number = int(path.stem)
    with pytest.raises(Corrupt):
        ds.checkout(f"{ds._branch.uuid[:12]}-{number}")
    ds.checkout(f"{ds._branch.uuid[:12]}-{number + 1}")


def test_a_missing_older_version_is_told(place: str) -> None:
    path = version_path(place, 3)
    path.unlink()
    report, did = look_over(place, repair=True)
    assert [(p.what, p.key) for p in report.problems] == [("missing", str(path.relative_to(place)))]
    assert did is not None
    assert did.left == report.problems
    ds = lakefmt.load(place)
    ds.append({"x": 1, "v": np.zeros(100, "f4")})
    ds.commit("goes on")
    assert len(lakefmt.load(place)) == 12


def test_a_commit_is_not_acknowledged_and_lost_where_an_older_version_is_missing(place: str) -> None:
    """The hint names the version before the missing one: the newest seems to be there."""
    path = version_path(place, 3)
    path.unlink()
    (path.parent / "_hint").write_bytes(b'{"v": %d, "floor": 0}' % (int(path.stem) - 1))
    try:
        ds = lakefmt.load(place)
        ds.append({"x": 1000, "v": np.zeros(100, "f4")})
        ds.commit("acknowledged")
    except LakeError:
        return
    assert 1000 in values(lakefmt.load(place))


def test_a_version_that_does_not_follow_from_the_one_before_is_told(place: str) -> None:
    other = lakefmt.load(place)
    other.copy(f"{place}-copy")
    path = version_path(place, 1)
    copies = version_path(f"{place}-copy")
    path.write_bytes(copies.read_bytes())
    report, _ = look_over(place)
    assert not report
    assert any(p.key == str(path.relative_to(place)) for p in report.problems)


@pytest.mark.parametrize("hint", [b"", b"\xff\xfe", b"[1]", b'{"v": 1e9}', b'{"v": 99999999}', b'{"v": true}', b"[" * 100_000])
def test_a_garbage_hint_harms_nobody(place: str, hint: bytes) -> None:
    (version_path(place).parent / "_hint").write_bytes(hint)
    ds = lakefmt.load(place)
    assert len(ds) == 11
    assert ds.fsck()
    ds.append({"x": 1, "v": np.zeros(100, "f4")})
    ds.commit()
    assert len(lakefmt.load(place)) == 12


def test_a_branch_name_that_does_not_parse_is_told(place: str) -> None:
    ds = lakefmt.load(place)
    ds.create_branch("dev")
    (Path(place) / "refs" / "branches" / "dev.json").write_bytes(b"{")
    report, _ = look_over(place)
    assert [(p.what, p.key) for p in report.problems] == [("name", "refs/branches/dev")]


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_leaf_is_told_and_no_rows_are_given_up(place: str, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setattr(leaves, "INLINE_MAX", 2)
    monkeypatch.setattr(leaves, "INLINE_KEPT", 1)
    ds = lakefmt.load(place)
    ds.append({"x": 1, "v": np.zeros(100, "f4")})
    ds.commit("leaves")
    (leaf, *_) = ds._writer.version.state.leaves
    good = open_store(place).get(leaf.key)
    DAMAGES[damage](open_store(place), leaf.key)
    report, did = look_over(place, full=True, repair=True)
    assert [p.key for p in report.problems] == [leaf.key]
    assert report.problems[0].what == ("missing" if damage == "missing" else "damaged")
    assert did is not None
    assert [p.key for p in did.left] == [leaf.key]
    with pytest.raises(Corrupt):
        values(lakefmt.load(place))
    open_store(place).put(leaf.key, good)
    assert len(values(lakefmt.load(place))) == 12


def test_what_is_wrong_with_an_object_names_it_once(place: str) -> None:
    ds = lakefmt.load(place)
    ds.create_branch("dev")
    ds.tag("release")
    store = open_store(place)
    key = key_of(ds, "heavy file")
    keys = [key, "refs/tags/release.json", "refs/branches/dev.json", str(version_path(place, 3).relative_to(place))]
    for k in keys:
        flip(store, k)
    report, _ = look_over(place, full=True)
    assert len(report.problems) == len(keys)
    for k in keys:
        assert repr(report).count(k.removesuffix(".json")) == 1, repr(report)
    assert place not in repr(report)
    with pytest.raises(Corrupt) as caught:
        ds.verify()
    assert (str(caught.value).count(key), str(caught.value).count("damaged"), str(caught.value).count("Restore")) == (1, 1, 1)


def test_all_is_well(place: str) -> None:
    ds = lakefmt.load(place)
    version = ds.version_id
    for full in (False, True):
        report = ds.fsck(full=full)
        assert report
        assert (report.versions, report.full, report.problems) == (len(ds.history()), full, [])
        assert report.nbytes > 0
        assert "nothing is wrong" in repr(report)
    did = ds.repair()
    assert (did.moved, did.lost, did.left, ds.version_id) == ({}, {}, [], version)
    assert repr(did) == "nothing to repair"


# -- the command ----------------------------------------------------------------------------------------------------


def command(*arguments: str) -> tuple[int, str]:
    """Exit code and output of ``lakefmt fsck``."""
    code = "from lakefmt.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "fsck", *arguments], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_the_command_and_its_exit_codes(place: str) -> None:
    """After a repair as the next plain check tells it: the newest versions are whole, older ones are not."""
    key = key_of(lakefmt.load(place), "heavy file")
    flip(open_store(place), key)
    assert command(place)[0] == 0, "sizes are as they should be"
    code, text = command(place, "--full")
    assert (code, key in text) == (1, True)
    assert "fsck --repair" in text
    code, text = command(place, "--full", "--repair")
    assert (code, "4 samples of 'v' are lost, among rows 4 to 7" in text) == (3, True)
    assert "older versions that need it stay broken, the newest are whole: restore 1 file from a copy" in text
    assert ("fsck --repair" in text, "expire" in text) == (False, False)
    for repair in ((), ("--repair",)):
        code, text = command(place, "--full", *repair)
        assert (code, "stay broken" in text, "fsck --repair" in text) == (3, True, False), "nothing more can be mended"
    version_path(place).write_bytes(b"")
    code, text = command(place)
    assert (code, "fsck --repair" in text) == (1, True)
    code, text = command(place, "--repair")
    assert (code, "_lost/" in text, "after the repair nothing is wrong" in text) == (0, True, True), "sizes are as they should be"
    version_path(place, 3).write_bytes(b"")
    for repair in ((), ("--repair",)):
        code, text = command(place, *repair)
        assert (code, "no repair helps with 1 problem" in text, "fsck --repair" in text) == (1, True, False)
    assert "left: damaged" in text
    assert "Exit code: 0, nothing is wrong." in command("--help")[1]


def test_files_of_branches_that_have_ended_are_not_said_to_be_mended(place: str) -> None:
    ds = lakefmt.load(place)
    ds.checkout("dev", create=True)
    ds.extend({"x": [1], "v": np.ones((1, 20_000), "f4")})
    ds.commit("dev")
    ds.tag("release")
    drop(open_store(place), fragment(ds, 3).files[-1].key)
    report = ds.fsck()
    assert (len(report.mendable), report.past) == (1, [])
    ds.checkout("main")
    ds.delete_branch("dev")
    report = ds.fsck()
    assert (report.mendable, report.past) == ([], report.problems)
    assert len(report.problems) == 1
    assert ds.repair().lost.get("main", {}) == {}


def test_the_command_on_a_place_that_is_no_dataset(tmp_path: Path) -> None:
    code, text = command(str(tmp_path / "nothing"))
    assert code != 0
    assert "holds no lakefmt dataset" in text


def test_repairing_does_not_hide_errors_of_the_caller(place: str) -> None:
    ds = lakefmt.load(place)
    drop(open_store(place), key_of(ds, "light file"))
    with pytest.raises(LakeError):
        values(lakefmt.load(place))
