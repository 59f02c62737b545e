"""A branch whose name is lost is found, with all that was committed to it, and a repair gives it a name again."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dataset_tools import values

import lakefmt
from lakefmt.errors import Corrupt
from lakefmt.storage import open_store
from lakefmt.upkeep import look_over


@pytest.fixture
def place(tmp_path: Path) -> str:
    """Main with commits, and a branch ``w`` with commits of its own."""
    path = str(tmp_path / "ds")
    ds = lakefmt.dataset(path)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [0, 1, 2]})
    ds.commit("main")
    ds.checkout("w", create=True)
    ds.extend({"x": [30, 40]})
    ds.commit("w")
    return path


def lose(place: str, name: str) -> bytes:
    """The name goes."""
    path = Path(place) / "refs" / "branches" / f"{name}.json"
    data = path.read_bytes()
    path.unlink()
    return data


def unnamed(place: str) -> list[str]:
    """Logs that have lost their names, and nothing else is wrong."""
    report, _ = look_over(place, full=True)
    assert {p.what for p in report.problems} <= {"unnamed"}, report
    return [p.key for p in report.problems]


def mended(place: str) -> dict[str, str]:
    """What a repair names; a dry run has told the same."""
    from lakefmt.versioning.check import check, repair
    from lakefmt.versioning.log import Log

    log = Log.open(open_store(place))
    told = repair(log, check(log), dry_run=True)
    did = repair(log, check(log))
    assert (told.named, told.lost, told.left) == (did.named, did.lost, did.left)
    assert did.left == []
    assert all(f"named {key} {name!r}" in repr(did) for name, key in did.named.items())
    assert unnamed(place) == []
    return did.named


def test_main_gets_its_name_back(place: str) -> None:
    ds = lakefmt.load(place)
    name = lose(place, "main")
    key = f"log/{ds._branch.uuid}/"
    report, _ = look_over(place)
    assert [(p.what, p.key, p.versions) for p in report.problems] == [("unnamed", key, (ds.version_id,))]
    assert "a branch without a name" in repr(report)
    assert report.versions > 0
    assert mended(place) == {"main": key}
    assert (Path(place) / "refs" / "branches" / "main.json").read_bytes() == name
    assert values(lakefmt.load(place)) == [0, 1, 2]


def test_a_branch_gets_another_name(place: str) -> None:
    ds = lakefmt.load(f"{place}@w")
    lose(place, "w")
    log = ds._branch.uuid
    assert unnamed(place) == [f"log/{log}/"]
    assert mended(place) == {f"recovered-{log[:8]}": f"log/{log}/"}
    again = lakefmt.load(f"{place}@recovered-{log[:8]}")
    assert values(again) == [0, 1, 2, 30, 40]
    again.extend({"x": [50]})
    again.commit("goes on")
    main = lakefmt.load(place)
    main.merge(f"recovered-{log[:8]}")
    assert values(main) == [0, 1, 2, 30, 40, 50]


def test_a_name_that_is_taken_is_not_given(place: str) -> None:
    log = lakefmt.load(f"{place}@w")._branch.uuid
    lakefmt.load(place).tag(f"recovered-{log[:8]}")
    lose(place, "w")
    assert list(mended(place)) == [f"recovered-{log[:16]}"]


def test_files_of_a_branch_without_a_name_are_looked_at_and_mended(place: str) -> None:
    ds = lakefmt.load(f"{place}@w")
    ds.create_tensor("v", dtype="float32")
    ds.extend({"x": [1] * 300, "v": [[i] * 100 for i in range(300)]})
    ds.commit("large")
    (key,) = [f.key for x in ds._writer.snapshot.fragments for f in x.files if f.key.startswith("data/") and f.size > 20_000]
    (Path(place) / key).unlink()
    lose(place, "w")
    report, did = look_over(place, repair=True)
    assert {p.what for p in report.problems} == {"unnamed", "missing"}
    assert did is not None
    (name,) = did.named
    assert did.lost == {name: {"v": 300}}
    assert lakefmt.load(f"{place}@{name}").verify() > 0


def test_a_squashed_main_that_was_lost_is_not_the_one_before_the_squash(place: str) -> None:
    ds = lakefmt.load(place)
    ds.delete_branch("w")
    ds.squash()
    name = lose(place, "main")
    log = ds._branch.uuid
    assert unnamed(place) == [f"log/{log}/"]
    assert mended(place) == {"main": f"log/{log}/"}
    assert (Path(place) / "refs" / "branches" / "main.json").read_bytes() == name


def test_a_squashed_main_that_was_lost_and_opened_before_the_repair(place: str) -> None:
    ds = lakefmt.load(place)
    ds.delete_branch("w")
    ds.squash()
    ds.extend({"x": [9]})
    ds.commit("after it")
    ds.squash()
    ds.extend({"x": [10]})
    ds.commit("after the second")
    name = lose(place, "main")
    with pytest.raises(Corrupt, match="lost its name"):  # and not what there was before the squash
        lakefmt.load(place, read_only=True)
    log = ds._branch.uuid
    assert unnamed(place) == [f"log/{log}/"]
    assert mended(place) == {"main": f"log/{log}/"}
    assert (Path(place) / "refs" / "branches" / "main.json").read_bytes() == name
    assert values(lakefmt.load(place)) == [0, 1, 2, 9, 10]


# -- logs that need no name ----------------------------------------------------------------------------------------


def test_a_branch_that_is_being_made_has_lost_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakefmt.versioning.refs.Refs.create_branch", lambda *_: False)
    with pytest.raises(lakefmt.errors.AlreadyExists):
        lakefmt.load(place).create_branch("new")
    assert unnamed(place) == []


@pytest.mark.parametrize("why", ["deleted", "squashed"])
def test_a_branch_that_was_ended_has_lost_nothing(place: str, why: str) -> None:
    ds = lakefmt.load(f"{place}@w")
    if why == "squashed":
        ds.squash()
    else:
        lakefmt.load(place).delete_branch("w")
    assert unnamed(place) == []


def test_a_squash_that_was_interrupted_has_lost_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = lakefmt.load(f"{place}@w")
    with monkeypatch.context() as patch:
        patch.setattr("lakefmt.versioning.refs.Refs.replace_branch", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ds.squash()
    assert unnamed(place) == []
    lakefmt.load(f"{place}@w").squash()
    assert unnamed(place) == []


def test_what_a_copy_has_of_a_merged_branch_needs_no_name(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = lakefmt.load(place)
    ds.delete_branch("w")
    ds.deepcopy(f"{place}-copy")
    ds.checkout("side", create=True)
    ds.extend({"x": [7]})
    ds.commit("side")
    ds.checkout("main")
    ds.merge("side")
    ds.checkout("side")
    ds.extend({"x": [8]})
    ds.commit("on")
    lakefmt.load(f"{place}-copy").pull(place)
    monkeypatch.setattr("lakefmt.versioning.unnamed.time", SimpleNamespace(time=lambda: time.time() + 36_000))
    assert unnamed(f"{place}-copy") == []


def test_what_is_on_its_way_from_a_copy_is_let_alone(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lakefmt.load(place).deepcopy(f"{place}-copy")
    lose(f"{place}-copy", "w")
    assert unnamed(f"{place}-copy") == [], "its versions have just come"
    monkeypatch.setattr("lakefmt.versioning.unnamed.time", SimpleNamespace(time=lambda: time.time() + 36_000))
    assert len(unnamed(f"{place}-copy")) == 1


def test_a_branch_that_is_renamed_or_deleted_meanwhile_has_lost_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lakefmt.versioning.refs import Refs

    listed = Refs.branch_names

    def missed(self: Any) -> list[str]:
        return [n for n in listed(self) if n != "w"]

    monkeypatch.setattr(Refs, "branch_names", missed)
    assert unnamed(place) == [], "it is there when it is looked for again"


def test_where_a_name_does_not_parse_it_is_not_said_twice(place: str) -> None:
    (Path(place) / "refs" / "branches" / "w.json").write_bytes(b"{")
    report, _ = look_over(place)
    assert [(p.what, p.key) for p in report.problems] == [("name", "refs/branches/w")]


def test_the_uuid_of_a_squash_is_known(place: str) -> None:
    from lakefmt.versioning.unnamed import squash_uuid

    ds = lakefmt.load(f"{place}@w")
    before = ds._branch.uuid
    ds.squash()
    assert ds._branch.uuid == squash_uuid(before, ds._log.claim.place)
