"""When rows reach storage: flush, with, a full buffer, exit; what a killed process keeps; forks do not flush twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_tools import python, values

import lakefmt


@pytest.fixture
def ds(mem_url: str) -> Any:
    """An empty dataset with one tensor."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    return ds


def test_flush(ds: Any, mem_url: str) -> None:
    ds.append({"x": 1})
    assert ds.has_head_changes
    assert len(lakefmt.load(mem_url)) == 0
    version = ds.version_id
    ds.flush()
    assert ds.version_id != version
    assert values(lakefmt.load(mem_url)) == [1]
    version = ds.version_id
    ds.flush()
    assert ds.version_id == version, "nothing buffered costs nothing"


def test_with(ds: Any, mem_url: str) -> None:
    with ds:
        ds.append({"x": 1})
    assert values(lakefmt.load(mem_url)) == [1]


def test_with_an_exception_keeps_the_rows_accepted_before_it(ds: Any, mem_url: str) -> None:
    with pytest.raises(ZeroDivisionError), ds:  # noqa: PT012
        ds.append({"x": 1})
        _ = 1 / 0
    assert values(lakefmt.load(mem_url)) == [1]


def test_a_dropped_handle_flushes(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")
    ds.append({"x": 1})
    del ds
    assert values(lakefmt.load(mem_url)) == [1]


def test_a_full_buffer_flushes(mem_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakefmt.writer.FRAGMENT_NBYTES", 10_000)
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="float32")
    for _ in range(100):
        ds.append({"x": np.zeros(100, "f4")})
    stored = len(lakefmt.load(mem_url))
    assert 70 <= stored < 100
    ds.flush()
    assert len(lakefmt.load(mem_url)) == 100


@pytest.mark.parametrize("how", ["one extend of a list", "one extend of an array", "several extends"])
def test_more_than_a_fragment_at_once(mem_url: str, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr("lakefmt.writer.FRAGMENT_NBYTES", 50_000)
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("v", dtype="float32")
    ds.create_tensor("t", htype="text")
    ds.append({"v": np.full(50, -1, "f4"), "t": "first"})
    v = np.arange(2000, dtype="f4")[:, None].repeat(50, 1)
    t = [f"row {i}" for i in range(2000)]
    versions = len(ds.history())
    if how == "several extends":
        for i in range(0, 2000, 300):
            ds.extend({"v": v[i : i + 300], "t": t[i : i + 300]})
    else:
        ds.extend({"v": v if "array" in how else list(v), "t": t})
        assert len(ds.history()) - versions <= 2, "one extend is one version (after what was buffered)"
    ds.flush()
    again = lakefmt.load(mem_url)
    assert len(again) == 2001
    assert again.v[1:].numpy()[:, 7].tolist() == list(range(2000))
    assert again.t[1:].text() == t
    assert again.t[0].text() == "first"
    assert len(again._writer.version.state.fragments) >= 5


def test_ten_thousand_appends_are_a_handful_of_files(tmp_path: Path) -> None:
    ds = lakefmt.dataset(tmp_path / "set")
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("t", htype="text")
    for i in range(10_000):
        ds.append({"x": i, "t": f"row {i}"})
    ds.commit("many")
    files = [p for p in (tmp_path / "set").rglob("*") if p.is_file()]
    assert len(files) < 12
    again = lakefmt.load(tmp_path / "set")
    assert again.x.numpy().tolist() == list(range(10_000))
    assert again.t[9_999].text() == "row 9999"


_AT_EXIT = """
import sys, lakefmt
ds = lakefmt.dataset(sys.argv[1])
ds.create_tensor("x", dtype="int64")
ds.append({"x": 1})
ds.extend({"x": [2, 3]})
keep = {"alive": ds}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise RuntimeError('on purpose')"])
def test_interpreter_exit(tmp_path: Path, end: str) -> None:
    python(_AT_EXIT + end, str(tmp_path / "set"), check=not end)
    assert values(lakefmt.load(tmp_path / "set")) == [1, 2, 3]


def test_interpreter_exit_after_others_have_committed(tmp_path: Path) -> None:
    other = "other = lakefmt.load(sys.argv[1]); other.append({'x': 10}); other.flush()"
    python(_AT_EXIT + other, str(tmp_path / "set"))
    assert values(lakefmt.load(tmp_path / "set")) == [10, 1, 2, 3]


@pytest.mark.parametrize("others", [False, True])
def test_interpreter_exit_on_s3(s3_bucket: str, s3_options: dict[str, Any], others: bool) -> None:
    url = f"s3://{s3_bucket}/set"
    code = _AT_EXIT.replace("lakefmt.dataset(sys.argv[1])", f"lakefmt.dataset(sys.argv[1], storage_options={s3_options!r})")
    if others:
        code += f"other = lakefmt.load(sys.argv[1], storage_options={s3_options!r}); other.append({{'x': 10}}); other.flush()"
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert values(lakefmt.load(url, storage_options=s3_options)) == [*([10] if others else []), 1, 2, 3], done.stderr


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)", "os.abort()"])
def test_a_killed_process_keeps_what_was_flushed(tmp_path: Path, end: str) -> None:
    code = "import os, signal\n" + _AT_EXIT + f"ds.flush()\nds.append({{'x': 4}})\nds.x[0] = 100\n{end}"
    python(code, str(tmp_path / "set"), check=False)
    ds = lakefmt.load(tmp_path / "set")
    assert values(ds) == [1, 2, 3]
    ds.append({"x": 5})
    ds.commit("on we go")
    assert values(lakefmt.load(tmp_path / "set")) == [1, 2, 3, 5]


_KILLED_ANYWHERE = """
import sys, lakefmt
ds = lakefmt.load(sys.argv[1])
for i in range(100_000):
    ds.append({"x": i, "v": [i] * 100})
    ds.flush()
    print(i, flush=True)
"""


def test_killed_in_the_middle_of_writing(tmp_path: Path) -> None:
    ds = lakefmt.dataset(tmp_path / "set")
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("v", dtype="int64")
    acknowledged = -1
    for after in (3, 9):
        command = [sys.executable, "-c", _KILLED_ANYWHERE, str(tmp_path / "set")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as p:
            assert p.stdout is not None
            told = [p.stdout.readline() for _ in range(after)]
            p.send_signal(signal.SIGKILL)
            told += p.stdout.readlines()
        acknowledged = int(told[-1])
        ds.refresh()
        got = values(ds)
        mine = got[len(got) - 1 - got[::-1].index(0) :]  # the rows of this process
        assert mine == list(range(len(mine)))
        assert len(mine) in (acknowledged + 1, acknowledged + 2), "all that was acknowledged, and at most what was in flight"
        assert [v[0] for v in values(ds, "v")] == got


def test_a_forked_child_does_not_flush_its_parents_rows(tmp_path: Path) -> None:
    code = """
import os, sys, lakefmt
ds = lakefmt.dataset(sys.argv[1])
ds.create_tensor("x", dtype="int64")
ds.append({"x": 1})
pid = os.fork()
if pid == 0:
    assert ds.x.numpy().tolist() == [1]   # it may read them
    try:
        ds.append({"x": 2}); ds.commit("child")
    except PermissionError as e:
        assert "fork" in str(e), e
    else:
        raise SystemExit(5)
    mine = lakefmt.load(sys.argv[1])
    mine.append({"x": 10})
    mine.flush()
    sys.exit(0)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
ds.append({"x": 3})
"""
    python(code, str(tmp_path / "set"))
    assert values(lakefmt.load(tmp_path / "set")) == [10, 1, 3]


def test_a_forked_child_reads_what_its_parent_had_open(tmp_path: Path) -> None:
    code = """
import os, sys, numpy as np, lakefmt
ds = lakefmt.dataset(sys.argv[1])
ds.create_tensor("x", dtype="int64")
ds.create_tensor("v", dtype="float32")
ds.extend({"x": np.arange(50), "v": np.arange(5000, dtype="f4").reshape(50, 100)})
ds.flush()
view = ds[10:20]
assert ds.v[3].numpy()[0] == 300
pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        assert ds.x.numpy().tolist() == list(range(50))
        assert view.v.numpy()[:, 1].tolist() == [100.0 * i + 1 for i in range(10, 20)]
        os._exit(0)
    pids.append(pid)
assert all(os.waitpid(p, 0)[1] == 0 for p in pids)
"""
    python(code, str(tmp_path / "set"))
    assert len(lakefmt.load(tmp_path / "set")) == 50


def test_no_threads_are_left_running(ds: Any) -> None:
    import threading

    before = threading.active_count()
    ds.append({"x": 1})
    ds.commit("one")
    ds.refresh()
    assert threading.active_count() == before


def test_nothing_is_written_beside_the_dataset(tmp_path: Path) -> None:
    with lakefmt.dataset(tmp_path / "set") as ds:
        ds.create_tensor("x", dtype="int64")
        ds.append({"x": 1})
    assert os.listdir(tmp_path) == ["set"]
