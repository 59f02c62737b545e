"""A download brings objects whole and checked, goes on where it was interrupted, and asks for room before it fetches."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import xxhash
from cache_tools import Far, blob, files, near

from lakefmt.errors import Corrupt, InvalidInput, NoSuchObject, StoreError
from lakefmt.storage import CachedStore, Progress, Whole, bring, cache_download
from lakefmt.storage.cache_disk import CHUNK_NBYTES

SIZES = {"data/a": 5_000_000, "data/b": 0, "data/c": 1, "data/d": CHUNK_NBYTES, "data/e": 3_000_001}
STEP = 1 << 18
BYTES = {key: blob(size, i) for i, (key, size) in enumerate(SIZES.items())}
WHOLES = [Whole(key, len(data), xxhash.xxh64(data).hexdigest()) for key, data in BYTES.items()]


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Far:
    """Objects of several sizes, fetched in small requests."""
    monkeypatch.setattr(cache_download, "COALESCE_BYTES_MAX", STEP)
    store = Far(str(tmp_path / "far"))
    for key, data in BYTES.items():
        store.put(key, data)
    return store


def _fetched(far: Far) -> int:
    return sum(r.length for r in far.requests())


def _check(store: CachedStore, far: Far) -> None:
    """All is here, and nobody is asked."""
    asked = len(far.requests())
    for key, data in BYTES.items():
        assert store.holds(key)
        assert bytes(store.map(key) or b"") == data
        assert store.get(key) == data
        assert bytes(store.get_range(key, 10, 100)) == data[10:110]
    assert len(far.requests()) == asked


def test_everything_is_here_once_and_stays(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", memory=1 << 20)
    assert not store.holds("data/a")
    assert store.map("data/a") is None
    done = bring(store, WHOLES)
    assert (done.files, done.nbytes, done.present) == (5, sum(SIZES.values()), 0)
    assert _fetched(far) == sum(SIZES.values())
    _check(store, far)
    again = bring(store, WHOLES)
    assert (again.files, again.nbytes, again.present) == (0, 0, 5)
    assert "5 files were here already" in repr(again)
    assert "5 files of 8,065,522 bytes" in repr(done)
    fresh = near(far, tmp_path / "cache")
    assert bring(fresh, WHOLES).files == 0, "another process that asks has no disk cache set either"
    _check(fresh, far)
    _check(near(far, tmp_path / "cache", disk=64 << 20), far)


def test_chunks_of_what_is_here_whole_go(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", disk=64 << 20)
    store.get("data/a")
    bring(store, WHOLES)
    assert [p.parent.name for p in files(tmp_path / "cache")] == ["whole"] * 5
    _check(store, far)
    assert store.disk is not None
    assert store.disk.room.used() == sum(-(-n // 4096) * 4096 for n in SIZES.values())


def test_progress_is_told_in_the_callers_thread_and_adds_up(far: Far, tmp_path: Path) -> None:
    bring(near(far, tmp_path / "cache"), WHOLES[1:3])
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append(progress)

    bring(near(far, tmp_path / "cache"), WHOLES, tell)
    assert (told[0].files, told[0].nbytes) == (2, 1)
    assert (told[-1].files, told[-1].nbytes) == (told[-1].files_total, told[-1].nbytes_total) == (5, sum(SIZES.values()))
    assert [p.nbytes for p in told] == sorted(p.nbytes for p in told)
    assert len(told) > 5
    bring(near(far, tmp_path / "cache"), WHOLES, told.append)
    assert told[-1].files == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_download_goes_on_where_it_was(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:  # fmt: skip
    monkeypatch.setattr(cache_download, "_REQUESTS_MAX", 1)

    def stop(progress: Progress) -> None:
        if progress.nbytes > 2_000_000:
            raise error

    with pytest.raises(error):
        bring(near(far, tmp_path / "cache"), WHOLES, stop)
    assert [t.name for t in threading.enumerate() if t.name.startswith("lakefmt-download")] == []
    told: list[Progress] = []
    store = near(far, tmp_path / "cache")
    done = bring(store, WHOLES, told.append)
    assert _fetched(far) == sum(SIZES.values()), "no byte came twice"
    assert done.nbytes < sum(SIZES.values()) - 2_000_000
    assert (told[-1].files, told[-1].nbytes) == (5, sum(SIZES.values()))
    _check(store, far)


_KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from cache_tools import Far, near
from lakefmt.storage import Whole, bring, cache_download
cache_download.COALESCE_BYTES_MAX, cache_download._REQUESTS_MAX = {step}, 1
def die(progress):
    if progress.nbytes > 2_000_000:
        os.kill(os.getpid(), signal.SIGKILL)
bring(near(Far({root!r}), {folder!r}), [Whole(*w) for w in {wholes!r}], die)
"""


def test_a_killed_download_goes_on_where_it_was(far: Far, tmp_path: Path) -> None:
    wholes = [(w.key, w.size, w.xxh64) for w in WHOLES]
    script = _KILLED.format(
        tests=str(Path(__file__).parent), root=far.root, folder=str(tmp_path / "cache"), wholes=wholes, step=STEP
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    store = near(far, tmp_path / "cache")
    bring(store, WHOLES)
    assert _fetched(far) <= sum(SIZES.values()) + 2 * STEP
    _check(store, far)


@pytest.mark.parametrize("beginning", [b"wrong" * 100_000, b"x" * 5_000_000, b"x" * 6_000_000, b""])
def test_a_beginning_that_is_wrong_is_fetched_anew(far: Far, tmp_path: Path, beginning: bytes) -> None:
    store = near(far, tmp_path / "cache")
    bring(store, WHOLES)
    path = next(p for p in files(tmp_path / "cache") if p.stat().st_size == 5_000_000)
    path.unlink()
    path.with_name(path.name + ".part").write_bytes(beginning)
    told: list[Progress] = []
    fresh = near(far, tmp_path / "cache")
    bring(fresh, WHOLES, told.append)
    assert (told[-1].files, told[-1].nbytes) == (5, sum(SIZES.values()))
    _check(fresh, far)
    assert len(files(tmp_path / "cache")) == 5


def test_what_does_not_match_its_checksum_is_not_kept(far: Far, tmp_path: Path) -> None:
    path = Path(far.root) / "data/e"
    path.write_bytes(BYTES["data/e"][:-1] + b"!")
    store = near(far, tmp_path / "cache")
    with pytest.raises(Corrupt, match=r"data/e does not match its checksum"):
        bring(store, WHOLES)
    path.write_bytes(BYTES["data/e"][:-1000])
    far.release()
    with pytest.raises(Corrupt, match=r"data/e ends at byte 2999001 of 3000001"):
        bring(store, WHOLES)
    path.unlink()
    far.release()
    with pytest.raises(NoSuchObject):
        bring(store, WHOLES)
    with pytest.raises(Corrupt, match="known"):
        bring(store, WHOLES, explain=lambda key: Corrupt(f"known: {key}"))
    assert not store.holds("data/e")
    far.put("data/e", BYTES["data/e"])
    bring(store, WHOLES)
    _check(store, far)


def test_a_budget_that_was_set_is_not_exceeded(far: Far, tmp_path: Path) -> None:
    needed = sum(-(-n // 4096) * 4096 for n in SIZES.values())
    with pytest.raises(InvalidInput, match=r"local_cache_size=9 or more"):
        bring(near(far, tmp_path / "cache", disk=needed - 1), WHOLES)
    assert far.requests() == []
    bring(near(far, tmp_path / "cache", disk=needed), WHOLES)
    _check(near(far, tmp_path / "cache", disk=needed), far)


def test_without_a_budget_each_download_adds_to_the_last(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache")
    for whole in WHOLES:
        bring(store, [whole])
    _check(store, far)
    bring(near(far, tmp_path / "cache"), WHOLES[:1])
    _check(store, far)


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    with pytest.raises(StoreError, match=r"5,000,000 free") as told:
        bring(near(far, tmp_path / "cache"), WHOLES)
    assert told.value.errno == errno.ENOSPC
    assert far.requests() == []
    bring(near(far, tmp_path / "cache"), WHOLES[1:])  # what fits
    with pytest.raises(StoreError, match=r"needs 5,001,216 bytes more"):
        bring(near(far, tmp_path / "cache"), WHOLES)


def test_a_disk_that_fills_up_meanwhile(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite

    def full(fd: int, data: bytes, at: int) -> int:
        if len(data) > 1000 and at > 1_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    store = near(far, tmp_path / "cache")
    with pytest.raises(StoreError, match="goes on from here") as told:
        bring(store, WHOLES)
    assert told.value.errno == errno.ENOSPC
    monkeypatch.undo()
    bring(store, WHOLES)
    _check(store, far)
    assert store.disk is not None
    assert store.disk.room._change(0) == store.disk.room.used()
