"""Commits, differences and undoing as people know them: what a named version did is all since the named one before it."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_tools import python, values

import lakefmt
from lakefmt.errors import EmptyCommit, InvalidInput


@pytest.fixture
def ds(mem_url: str) -> Any:
    """Three commits, the second of which took three versions."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [0, 1]})
    ds.commit("first")
    ds.extend({"x": [2]})
    ds.flush()
    ds.x[0] = 100
    ds.flush()
    ds.extend({"x": [3]})
    ds.commit("second")
    ds.extend({"x": [4]})
    ds.commit("third")
    return ds


def commit_id(ds: Any, message: str) -> str:
    return str(next(c["commit"] for c in ds.commits if c["message"] == message))


# -- empty commits -----------------------------------------------------------------------------------------------------


def test_nothing_is_committed_without_being_asked_for(ds: Any) -> None:
    before = ds.version_id
    with pytest.raises(EmptyCommit, match="allow_empty"):
        ds.commit("nothing")
    assert ds.version_id == before
    ds.commit("nothing", allow_empty=True)
    assert ds.commits[0]["message"] == "nothing"


def test_a_new_branch_and_a_new_dataset_have_nothing_to_commit(ds: Any, tmp_path: Path) -> None:
    ds.checkout("dev", create=True)
    for empty in (ds, lakefmt.empty(tmp_path / "new")):
        with pytest.raises(EmptyCommit):
            empty.commit()


def test_flushed_rows_and_schema_changes_are_something_to_commit(ds: Any) -> None:
    ds.append({"x": 5})
    ds.flush()
    ds.commit("flushed")
    ds.create_tensor("y")
    ds.commit("schema")
    assert [c["message"] for c in ds.commits[:2]] == ["schema", "flushed"]


def test_upkeep_is_no_change(ds: Any) -> None:
    for _ in range(6):
        ds.append({"x": 1})
        ds.flush()
    ds.commit("many")
    assert ds.compact().done
    assert ds.expire(older_than=0, grace_s=0).done
    fragments = len(ds._writer.snapshot.fragments)
    assert not ds.has_head_changes
    with pytest.raises(EmptyCommit):
        ds.commit()
    ds.reset()
    assert len(ds._writer.snapshot.fragments) == fragments, "the compaction was undone"
    ds.append({"x": 2})
    ds.flush()
    ds.compact()
    assert ds.has_head_changes
    ds.reset()
    assert values(ds)[-1] == 1


# -- differences -------------------------------------------------------------------------------------------------------


def test_no_difference_where_nothing_was_done_since_the_commit(ds: Any) -> None:
    assert not ds.diff()
    ds.append({"x": 9})
    found = ds.diff().tensors["x"]
    assert (len(found.added), len(found.updated), len(found.deleted)) == (1, 0, 0)


def test_a_named_version_did_all_since_the_named_one_before(ds: Any) -> None:
    second = commit_id(ds, "second")
    found = ds.diff_of(second).tensors["x"]
    assert (len(found.added), len(found.updated)) == (2, 1)
    assert ds.get_commit_details(second)["counts"].items() >= {"append": 2, "update": 1}.items()
    unnamed = next(h for h in ds.history() if not h.named and h.v > 0)
    one = ds.diff_of(lakefmt.versioning.records.version_id(unnamed.branch, unnamed.v)).tensors["x"]
    assert len(one.added) + len(one.updated) == 1


def test_a_named_version_is_undone_whole(ds: Any) -> None:
    ds.revert(commit_id(ds, "second"))
    assert values(ds) == [0, 1, 4]


def test_a_named_version_is_picked_whole(ds: Any, mem_url: str) -> None:
    second = commit_id(ds, "second")
    ds.create_branch("dev", commit_id(ds, "first"))
    ds.checkout("dev")
    ds.append({"x": 50})
    ds.commit("own")
    ds.cherry_pick(second)
    assert sorted(values(ds)) == [1, 2, 3, 50, 100]


def test_the_first_version_has_nothing_before_it(ds: Any) -> None:
    first = lakefmt.versioning.records.version_id(ds.history()[-1].branch, 0)
    with pytest.raises(InvalidInput, match="first"):
        ds.revert(first)


# -- times -------------------------------------------------------------------------------------------------------------


def test_a_time_that_log_prints_leads_to_its_version(ds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ds.log()
    printed = re.findall(r"commit (\S+)\n.*\n\s+time\s+(.*)\n", capsys.readouterr().out)
    assert len(printed) == 3
    for commit, when in printed:
        assert ds.checkout(as_of=when) == commit
        ds.checkout("main")
    for entry in ds.commits:
        assert ds.checkout(as_of=entry["time"]) == entry["commit"]
        ds.checkout("main")


def test_a_time_before_a_squash_leads_to_what_there_was(ds: Any) -> None:
    before = {c["message"]: c["time"] for c in ds.commits}
    for i in range(2):
        ds.squash(f"squash {i}")
        ds.append({"x": i})
        ds.commit(f"after {i}")
    ds.checkout(as_of=before["second"])
    assert values(ds) == [100, 1, 2, 3]


# -- rows, files, and handles that go ----------------------------------------------------------------------------------


def test_row_ids_of_a_dataset(ds: Any) -> None:
    ds.append({"x": 5})
    assert ds.row_ids.dtype == np.int64
    assert ds.row_ids.tolist() == ds[:].row_ids.tolist()
    assert len(set(ds.row_ids.tolist())) == 6


def test_files_tell_when_they_would_show_something_else(tmp_path: Path) -> None:
    ds = lakefmt.empty(tmp_path / "ds")
    ds.create_tensor("x", dtype="int64")
    ds.extend({"x": [0, 1, 2]})
    ds.commit()
    ds.x[0] = 100
    ds.commit()
    with pytest.raises(InvalidInput, match=r"1 updated sample as it was before; compact\(\)"):
        ds.files()
    ds.pop(1)
    with pytest.raises(InvalidInput, match="1 deleted row too many and 1 updated sample"):
        ds.files()
    ds.compact()
    ds.append({"x": 7})
    duckdb = pytest.importorskip("duckdb")
    assert [x for (x,) in duckdb.sql(f"select x from read_parquet({ds.files()})").fetchall()] == values(ds) == [100, 2, 7]


def test_rows_that_cannot_be_stored_when_a_handle_goes_are_told_in_a_line(tmp_path: Path) -> None:
    lakefmt.empty(tmp_path / "ds").create_tensor("x", dtype="int64")
    code = """
import sys, shutil, lakefmt
ds = lakefmt.load(sys.argv[1])
ds.append({"x": 1})
shutil.rmtree(sys.argv[1])
"""
    done = python(code.strip(), str(tmp_path / "ds"), check=False)
    assert "UnsavedRows" in done.stderr


def test_a_forked_child_is_told_of_rows_it_cannot_see(tmp_path: Path) -> None:
    code = """
import os, sys, lakefmt
ds = lakefmt.empty(sys.argv[1])
ds.create_tensor("x", dtype="int64")
ds.append({"x": 1})
child = os.fork()
if child == 0:
    try:
        ds.dataloader().numpy()
        ds.query("x > 0")
    except lakefmt.errors.InvalidInput as error:
        os._exit(7 if "forked" in str(error) else 8)
    os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python(code.strip(), str(tmp_path / "ds")).stdout.strip() == "7"


def test_a_time_without_a_zone_is_utc(ds: Any) -> None:
    last = ds.commits[0]
    naive = datetime.datetime.fromtimestamp(last["time"], datetime.UTC).replace(tzinfo=None)
    assert ds.checkout(as_of=naive) == last["commit"]


def test_a_tensor_made_again_under_its_name_is_another_one(ds: Any) -> None:
    before = ds.version_id
    ds.delete_tensor("x")
    ds.create_tensor("x", dtype="float32")
    ds.x.extend([1.0, 2.0])
    ds.commit("again")
    found = ds.diff(before)
    assert (found.created, found.removed) == (("x",), ("x",))
    (old,) = (n for n in found.tensors if n != "x")
    assert (len(found.tensors["x"].added), len(found.tensors[old].added)) == (2, 0)
    text = str(found)
    assert re.search(r"^x  .*\(new tensor\)$", text, re.MULTILINE)
    assert re.search(r"^x \(\d+\) .*\(tensor removed\)$", text, re.MULTILINE)


def test_the_log_says_what_a_commit_did_since_the_last_one(ds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ds.append({"x": 5})
    ds.flush()
    ds.pop(1)
    ds.commit("mixed")
    ds.log()
    first = capsys.readouterr().out.split("commit ")[1]
    assert re.search(r"did     append \+ delete \(append 1 row, delete 1 row\)", first), first
    assert ds.get_commit_details(ds.commits[0]["commit"])["operation"] == "append + delete"


def test_as_of_goes_with_a_branch_only(ds: Any) -> None:
    first = commit_id(ds, "first")
    with pytest.raises(InvalidInput, match="as_of="):
        lakefmt.load(f"{ds.path}@{first}", as_of=ds.commits[0]["time"])
