"""Local disk keeps the promises of the port, also when the disk is full, and leaves no rubbish."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lakefmt.errors import StoreError
from lakefmt.storage import LocalStore, Store
from lakefmt.testing import StoreConformance


class TestLocalStore(StoreConformance):
    """The conformance suite."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """A folder that does not exist yet."""
        return LocalStore(str(tmp_path / "new" / "place"))


def _names(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_no_temporary_files_stay(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.put("a/put", b"1")
    assert store.put_if_absent("a/created", b"2")
    assert not store.put_if_absent("a/created", b"3")
    writer = store.writer("a/aborted")
    writer.write(b"4")
    writer.abort()
    assert _names(tmp_path) == ["a/created", "a/put"]


def test_a_dead_writers_temporary_file_is_no_object(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.put("log/1", b"x")
    writer = store.writer("log/2")  # never closed: its process died
    writer.write(b"half")
    assert [e.key for e in store.list("log/")] == ["log/1"]
    writer.abort()


def test_it_is_there_for_other_instances(tmp_path: Path) -> None:
    LocalStore(str(tmp_path)).put("k", b"v")
    assert LocalStore(str(tmp_path) + "/").get("k") == b"v"


def test_relative_roots_do_not_follow_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore("place")
    store.put("k", b"v")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.get("k") == b"v"


def test_a_disk_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StoreError, match="no hard links"):
        LocalStore(str(tmp_path)).put_if_absent("k", b"v")
    assert _names(tmp_path) == []


def test_a_place_inside_a_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a folder")
    store = LocalStore(str(tmp_path / "file"))
    for write in (lambda: store.put("k", b"v"), lambda: store.put_if_absent("k", b"v"), lambda: store.writer("k")):
        with pytest.raises(StoreError, match="file"):
            write()
    assert list(store.list("")) == []


_FULL_DISK = """
import resource, signal, sys
from lakefmt.errors import StoreError
from lakefmt.storage import LocalStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = LocalStore(sys.argv[1])
store.put("before", b"kept")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
big = b"x" * 5000
def written():
    with store.writer("by-writer") as w:
        w.write(big)
for name, write in {"put": lambda: store.put("p", big), "put_if_absent": lambda: store.put_if_absent("q", big),
                    "writer": written}.items():
    try:
        write()
    except StoreError:
        print(name, "StoreError")
    except BaseException as e:
        print(name, repr(e))
"""


def test_a_write_the_disk_refuses_is_a_store_error_and_leaves_nothing(tmp_path: Path) -> None:
    # a limit on the size of files makes write() fail as a full disk does, without filling one
    done = subprocess.run([sys.executable, "-c", _FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["put StoreError", "put_if_absent StoreError", "writer StoreError"]
    assert _names(tmp_path) == ["before"]
