"""A dataset of an earlier format version goes on: it is branched, merged, compacted, tagged and expired, and stays right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_vectors import FORMATS, _expected_of

import lakefmt
from lakefmt.errors import VersionExpired


@pytest.fixture(params=FORMATS, ids=lambda p: p.name)
def vector(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """A copy of the vectors, and what is expected of their named versions."""
    shutil.copytree(request.param / "dataset", tmp_path / "dataset")
    return str(tmp_path / "dataset"), json.loads((request.param / "expected.json").read_text())


def _of(expected: dict[str, Any], ds: Any) -> Any:
    """What is expected of the branch that a handle stands on."""
    return next(tensors for version, tensors in expected.items() if version.startswith(ds.version_id[:12]))


def _named_are_right(path: str, expected: dict[str, Any]) -> None:
    for version, tensors in expected.items():
        assert _expected_of(lakefmt.load(f"{path}@{version}")) == tensors


def test_it_is_whole(vector: tuple[str, dict[str, Any]]) -> None:
    path, expected = vector
    report = lakefmt.load(path).fsck(full=True)
    assert report, report
    for name in lakefmt.load(path).branches:
        ds = lakefmt.load(f"{path}@{name}")
        assert ds.verify() > 0
        assert _expected_of(ds) == _of(expected, ds)
        assert [h.v for h in ds.history()][-1] == 0
    _named_are_right(path, expected)


def test_its_branch_is_merged(vector: tuple[str, dict[str, Any]]) -> None:
    path, expected = vector
    ds, theirs = lakefmt.load(path), lakefmt.load(f"{path}@changed")
    ds.merge("changed")
    merged = _expected_of(ds)
    assert sorted(map(repr, zip(*merged.values(), strict=True))) == sorted(
        map(repr, zip(*(_expected_of(theirs)[n] for n in merged), strict=True))
    )
    assert ds[:].row_ids.tolist() == theirs[:].row_ids.tolist()
    at = ds.version_id
    assert ds.merge("changed") == at, "merged again, it changes nothing"
    _named_are_right(path, expected)


def test_its_branch_is_merged_after_both_sides_went_on(vector: tuple[str, dict[str, Any]]) -> None:
    path, expected = vector
    ds, theirs = lakefmt.load(path), lakefmt.load(f"{path}@changed")
    ds.scalar_i32[5] = 500
    ds.append({"text": "on main"}, append_empty=True)
    ds.commit("on main")
    theirs.scalar_i32[6] = 600
    theirs.append({"text": "on the branch"}, append_empty=True)
    theirs.commit("on the branch")
    ds.merge("changed")
    values = ds.scalar_i32.numpy(aslist=True)
    assert [v.tolist() for v in values if v is not None and v >= 500] == [500, 600]
    texts = [str(t) for t in ds.text.text() if t]
    assert {"on main", "on the branch", "a row with nothing but text"} <= set(texts)
    assert ds.fsck(full=True)
    _named_are_right(path, expected)


def test_a_branch_of_it_goes_on_apart(vector: tuple[str, dict[str, Any]]) -> None:
    path, expected = vector
    ds = lakefmt.load(path)
    before = _expected_of(ds)
    ds.checkout("mine", create=True)
    ds.pop([0, 3])
    ds.label[0] = "owl"
    ds.commit("mine")
    assert len(ds) == len(before["label"]) - 2
    assert _expected_of(lakefmt.load(path)) == before
    ds.checkout("main")
    ds.merge("mine")
    assert _expected_of(ds) == _expected_of(lakefmt.load(f"{path}@mine"))
    _named_are_right(path, expected)


@pytest.mark.parametrize("branch", ["main", "changed"])
def test_it_is_compacted(vector: tuple[str, dict[str, Any]], branch: str) -> None:
    path, expected = vector
    ds = lakefmt.load(f"{path}@{branch}")
    right, ids = _of(expected, ds), ds[:].row_ids.tolist()
    done = ds.compact()
    assert done.done == (branch == "changed"), "one clean fragment stays, one with updates is rewritten"
    assert _expected_of(ds) == _expected_of(lakefmt.load(f"{path}@{branch}")) == right
    assert ds[:].row_ids.tolist() == ids
    assert ds.verify() > 0
    _named_are_right(path, expected)


def test_a_version_of_it_is_tagged(vector: tuple[str, dict[str, Any]]) -> None:
    path, expected = vector
    ds = lakefmt.load(path)
    version = next(iter(expected))
    assert ds.tag("golden", version, message="as it was") == version
    assert ds.tags == {"golden": version}
    assert _expected_of(lakefmt.load(f"{path}@golden")) == expected[version]


def test_its_old_versions_expire_and_the_named_ones_stay(vector: tuple[str, dict[str, Any]]) -> None:
    path, expected = vector
    ds = lakefmt.load(path)
    views = [v.id if hasattr(v, "id") else v for v in ds.get_views()]
    history = [f"{h.branch[:12]}-{h.v}" for h in ds.history() if not h.named and h.v > 0]
    ds.tag("kept", history[0])
    ds.append({"label": "cat"}, append_empty=True)
    ds.flush()
    ds.compact()
    done = ds.expire(older_than=0, keep=1, grace_s=0)
    assert done.done
    assert set(history[1:]) <= set(done.versions)
    assert history[0] not in done.versions
    with pytest.raises(VersionExpired):
        lakefmt.load(f"{path}@{history[1]}")
    assert len(lakefmt.load(f"{path}@kept")) == 0
    assert lakefmt.load(f"{path}/.queries/big").twice.numpy().tolist() == [10, 12, 16]
    assert views == ["big"]
    report = ds.fsck(full=True)
    assert report, report
    _named_are_right(path, expected)


def test_a_copy_of_it_is_pushed_to(vector: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    path, expected = vector
    ds = lakefmt.load(path)
    ds.deepcopy(tmp_path / "copy")
    ds.append({"label": "cat"}, append_empty=True)
    ds.commit("one more")
    ds.push(tmp_path / "copy")
    assert _expected_of(lakefmt.load(tmp_path / "copy")) == _expected_of(ds)
    _named_are_right(str(tmp_path / "copy"), expected)
