"""A disk that is full, or a folder that cannot be written, ends the keeping with one warning; reading goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cache_tools import Far, blob, files, near

from lakefmt.errors import CacheOff, StoreError
from lakefmt.storage import CachedStore, Whole, bring
from lakefmt.storage.cache_disk import CHUNK_NBYTES

NBYTES = 20 * CHUNK_NBYTES


@pytest.fixture
def far(tmp_path: Path) -> Far:
    """One object."""
    store = Far(str(tmp_path / "far"))
    store.put("data/x", blob(NBYTES))
    return store


def _fails(code: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def _reads(store: CachedStore) -> None:
    """It answers as ever, twice."""
    for _ in range(2):
        assert bytes(store.get_range("data/x", 0, NBYTES)) == blob(NBYTES)
        assert bytes(store.get_range("data/x", 5 * CHUNK_NBYTES, 10)) == blob(NBYTES)[5 * CHUNK_NBYTES :][:10]


@pytest.mark.parametrize("function", ["writev", "replace", "pwrite"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_errors_of_writing(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int) -> None:
    store = near(far, tmp_path / "cache", disk=64 << 20)
    store.get_range("data/x", 0, 10)
    monkeypatch.setattr(os, function, _fails(code))
    with pytest.warns(CacheOff, match=os.strerror(code)) as told:
        _reads(store)
    assert len(told) == 1
    assert str(tmp_path / "cache") in str(told[0].message)
    monkeypatch.undo()
    assert len(files(tmp_path / "cache")) == 1, "what was there is read, and no half of a file is left"
    asked = len(far.requests())
    store.get_range("data/x", 0, 10)
    assert len(far.requests()) == asked


def test_a_disk_that_takes_a_part(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: writev(fd, [parts[0], parts[1][:100]]))
    store = near(far, tmp_path / "cache", disk=64 << 20)
    with pytest.warns(CacheOff, match=os.strerror(errno.ENOSPC)):
        assert bytes(store.get_range("data/x", 0, NBYTES)) == blob(NBYTES)
    assert files(tmp_path / "cache") == []


def test_a_folder_that_is_a_file(far: Far, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    store = near(far, tmp_path / "cache", memory=8 << 20, disk=64 << 20)
    with pytest.warns(CacheOff, match="LAKEFMT_CACHE") as told:
        _reads(store)
    assert len(told) == 1
    with pytest.raises(StoreError, match="LAKEFMT_CACHE"):
        bring(store, [Whole("data/x", NBYTES, "0" * 16)])


_LIMITED = """
import resource, sys, warnings
sys.path.insert(0, {tests!r})
from cache_tools import Far, blob, near
far = Far({root!r})
far._asked = lambda *_: None  # its log has a limit too
store = near(far, {folder!r}, disk=64 << 20)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # no file may grow larger
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    assert bytes(store.get_range("data/x", 0, {nbytes})) == blob({nbytes})
    assert bytes(store.get_range("data/x", 0, {nbytes})) == blob({nbytes})
print([w.category.__name__ for w in told])
"""


def test_a_real_limit_of_the_system(far: Far, tmp_path: Path) -> None:
    script = _LIMITED.format(tests=str(Path(__file__).parent), root=far.root, folder=str(tmp_path / "cache"), nbytes=NBYTES)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("['CacheOff']\n", "")
    assert files(tmp_path / "cache") == []


def test_a_warning_that_is_an_error_leaves_nothing_locked(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = near(far, tmp_path / "cache", disk=64 << 20)
    monkeypatch.setattr(os, "writev", _fails(errno.ENOSPC))
    with pytest.raises(CacheOff):  # as warnings are in these tests
        store.get_range("data/x", 0, NBYTES)
    assert store.disk is not None
    assert store.disk.locks._held == set()
    assert store._chunks._flights._by_chunk == {}
    assert bytes(store.get_range("data/x", 0, NBYTES)) == blob(NBYTES)
