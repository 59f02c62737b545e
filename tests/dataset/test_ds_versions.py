"""Versions: commits, time travel, differences, and metadata that is versioned too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dataset_tools import contents, values

import lakefmt
from lakefmt.errors import InvalidInput, NoSuchTensor, ReadOnly


@pytest.fixture
def ds(mem_url: str) -> Any:
    """One tensor."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    return ds


def test_time_travel(ds: Any, mem_url: str) -> None:
    seen: list[tuple[str, dict[str, Any], dict[str, Any]]] = []

    def note(message: str) -> None:
        seen.append((ds.commit(message), contents(ds), dict(ds.info)))

    ds.extend({"x": [1, 2, 3]})
    note("three rows")
    ds.x[0] = 10
    note("an update")
    ds.pop(1)
    note("a deletion")
    ds.create_tensor("v", dtype="float32")
    ds.v.extend(np.arange(200, dtype="f4").reshape(2, 100))
    note("a tensor")
    ds.info["about"] = "rows"
    note("metadata")
    ds.append({"x": 4, "v": None})
    note("a row")
    for version, rows, info in seen:
        old = lakefmt.load(f"{mem_url}@{version}")
        assert contents(old) == rows
        assert dict(old.info) == info
        assert (old.version_id, old.branch, old.read_only) == (version, None, True)
        ds.checkout(version)
        assert contents(ds) == rows
        with pytest.raises(ReadOnly, match=r"checkout\('name', create=True\)"):
            ds.append({"x": 1})
    ds.checkout("main")
    assert contents(ds) == seen[-1][1]
    assert [c["message"] for c in ds.commits] == [
        "a row", "metadata", "a tensor", "a deletion", "an update", "three rows",
    ]  # fmt: skip
    assert [c["commit"] for c in ds.commits] == [v for v, _, _ in reversed(seen)]


def test_commit_without_changes_names_the_version(ds: Any) -> None:
    ds.append({"x": 1})
    first = ds.commit("one")
    second = ds.commit("two", allow_empty=True)
    assert first != second
    assert values(ds) == [1]
    assert [c["message"] for c in ds.commits] == ["two", "one"]


def test_commits_carry_author_and_time(ds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEFMT_AUTHOR", "Ada")
    ds.append({"x": 1})
    ds.commit("one")
    (entry,) = ds.commits
    assert entry["author"] == "Ada"
    assert entry["time"] > 1.6e9
    assert entry["commit"] == ds.version_id == ds.commit_id


def test_checkout_stores_what_is_buffered(ds: Any, mem_url: str) -> None:
    ds.append({"x": 1})
    ds.checkout("dev", create=True)
    ds.append({"x": 2})
    ds.checkout("main")
    assert values(ds) == values(lakefmt.load(mem_url)) == [1]
    assert values(lakefmt.load(f"{mem_url}@dev")) == [1, 2]


def test_has_head_changes(ds: Any) -> None:
    ds.commit("clean")
    assert not ds.has_head_changes
    ds.append({"x": 1})
    assert ds.has_head_changes
    ds.flush()
    assert ds.has_head_changes, "flushed, but not committed by name"
    ds.commit("named")
    assert not ds.has_head_changes


def test_diff(ds: Any) -> None:
    ds.create_tensor("y", dtype="int64")
    ds.extend({"x": [1, 2, 3, 4], "y": [10, 20, 30, 40]})
    first = ds.commit("first")
    ids = ds[:].row_ids.tolist()
    ds.x[1] = 200
    ds.pop(0)
    ds.append({"x": 5, "y": 50})
    ds.create_tensor("z", htype="text")
    ds.info["k"] = 1
    second = ds.commit("second")
    new = ds[3].row_ids.tolist()[0]
    expected = {
        "x": {"added": [new], "updated": [ids[1]], "deleted": [ids[0]]}, "y": {"added": [new], "updated": [], "deleted": [ids[0]]},
        "z": {"added": [], "updated": [], "deleted": []},
    }  # fmt: skip
    for diff in (ds.diff(first, second), ds.diff(first), ds.diff(second=second)):
        assert diff.as_dict() == {
            "first": first, "second": second, "tensors": expected, "created": ["z"], "removed": [], "renamed": {},
            "edited": [], "info_updated": True,
        }  # fmt: skip
        assert diff
        assert "x" in str(diff)
        assert "(new tensor)" in str(diff)
    back = ds.diff(second, first).as_dict()
    assert back["tensors"]["x"] == {"added": [ids[0]], "updated": [ids[1]], "deleted": [new]}
    assert back["removed"] == ["z"]
    same = ds.diff(second, second)
    assert not same
    assert "no difference" in str(same)


def test_diff_between_branches(ds: Any) -> None:
    ds.extend({"x": [1, 2]})
    ds.commit("both")
    ds.checkout("dev", create=True)
    ds.append({"x": 3})
    ds.commit("dev")
    added = ds[2].row_ids.tolist()
    assert ds.diff("main", "dev").as_dict()["tensors"]["x"] == {"added": added, "updated": [], "deleted": []}


def test_diff_stores_what_is_buffered_and_counts_it(ds: Any) -> None:
    ds.commit("empty")
    ds.extend({"x": [1, 2]})
    assert len(ds.diff().tensors["x"].added) == 2


def test_info_of_the_dataset(ds: Any, mem_url: str) -> None:
    ds.info["a"] = {"b": [1, None, "ü"]}
    ds.info.update(c=2, d=3)
    del ds.info["c"]
    for handle in (ds, lakefmt.load(mem_url)):
        assert dict(handle.info) == {"a": {"b": [1, None, "ü"]}, "d": 3}
        assert handle.info.d == 3
        assert len(handle.info) == 2
    with pytest.raises(KeyError):
        _ = ds.info["nope"]
    with pytest.raises(AttributeError, match="nope"):
        _ = ds.info.nope
    with pytest.raises(KeyError):
        del ds.info["nope"]
    with pytest.raises(InvalidInput, match="JSON"):
        ds.info["bad"] = {1, 2}
    with pytest.raises(InvalidInput, match="JSON"):
        ds.info["bad"] = float("nan")
    assert dict(lakefmt.load(mem_url).info) == {"a": {"b": [1, None, "ü"]}, "d": 3}


def test_info_of_a_tensor(ds: Any, mem_url: str) -> None:
    ds.x.info["unit"] = "m"
    ds.x.info.update(scale=2.5)
    assert dict(lakefmt.load(mem_url).x.info) == {"unit": "m", "scale": 2.5}
    version = ds.version_id
    del ds.x.info["unit"]
    assert dict(lakefmt.load(mem_url).x.info) == {"scale": 2.5}
    assert dict(lakefmt.load(f"{mem_url}@{version}").x.info) == {"unit": "m", "scale": 2.5}


def test_info_keeps_what_is_buffered(ds: Any) -> None:
    ds.append({"x": 1})
    ds.info["a"] = 1
    ds.x.info["b"] = 2
    ds.append({"x": 2})
    assert values(ds) == [1, 2]


def test_tensors_of_an_old_version(ds: Any, mem_url: str) -> None:
    version = ds.commit("before")
    ds.create_tensor("later")
    old = lakefmt.load(f"{mem_url}@{version}")
    assert list(old.tensors) == ["x"]
    with pytest.raises(NoSuchTensor):
        _ = old.later


def test_print_log(ds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ds.append({"x": 1})
    version = ds.commit("first rows")
    ds.log()
    shown = capsys.readouterr().out
    assert version in shown
    assert "first rows" in shown


def test_repr_and_summary(ds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ds.create_tensor("label", htype="class_label")
    ds.create_tensor("image", htype="image", sample_compression="png")
    ds.append({"x": 1, "label": "cat", "image": np.zeros((4, 5, 3), "u1")})
    for _ in range(2):
        text = repr(ds)
        assert "1 row" in text
        assert "int64" in text
        assert "(1, 4, 5, 3)" in text
        assert "png" in text
        ds.summary()
        assert capsys.readouterr().out == text + "\n"
        assert "<table>" in ds._repr_html_()
        ds.flush()
