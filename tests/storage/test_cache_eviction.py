"""The disk cache stays within its budget, whoever writes; what was used last stays; and no reader is disturbed by what goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import xxhash
from cache_tools import Far, blob, files, near, room

from lakefmt.storage import CachedStore, Whole, bring
from lakefmt.storage.cache_disk import CHUNK_NBYTES, DiskCache
from lakefmt.testing import meet, race_processes

CHUNK_ROOM = 64 << 10


@pytest.fixture
def far(tmp_path: Path) -> Far:
    """Two objects of sixty chunks each, and small ones."""
    store = Far(str(tmp_path / "far"))
    for i, key in enumerate(("data/x", "data/y")):
        store.put(key, blob(60 * CHUNK_NBYTES, i))
    for i in range(8):
        store.put(f"data/small{i}", blob(200_000, 10 + i))
    return store


def _disk(store: CachedStore) -> DiskCache:
    assert store.disk is not None
    return store.disk


def _whole(far: Far, key: str) -> Whole:
    data = (Path(far.root) / key).read_bytes()
    return Whole(key, len(data), xxhash.xxh64(data).hexdigest())


def _chunk(store: CachedStore, number: int, key: str = "data/x") -> bytes:
    return bytes(store.get_range(key, number * CHUNK_NBYTES, 1000))


def _age(folder: Path, seconds: float) -> None:
    """Let all that is there have been used so long ago."""
    for path in files(folder):
        st = path.stat()
        os.utime(path, ns=(st.st_atime_ns - int(seconds * 1e9), st.st_mtime_ns))
    for path in {p.parent for p in files(folder)}:
        st = path.stat()
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns - int(seconds * 1e9)))


@pytest.mark.parametrize("chunks", [1, 2, 7, 40])
def test_the_budget_holds_at_any_time(far: Far, tmp_path: Path, chunks: int) -> None:
    store = near(far, tmp_path / "cache", disk=chunks * CHUNK_ROOM)
    for number in range(60):
        assert _chunk(store, number) == blob(60 * CHUNK_NBYTES)[number * CHUNK_NBYTES :][:1000]
        assert 0 < room(tmp_path / "cache") <= chunks * CHUNK_ROOM
    assert bytes(store.get_range("data/y", 0, 60 * CHUNK_NBYTES)) == blob(60 * CHUNK_NBYTES, 1)
    assert 0 < room(tmp_path / "cache") <= chunks * CHUNK_ROOM


def test_a_budget_below_a_chunk_keeps_nothing(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", disk=CHUNK_ROOM - 1)
    assert _chunk(store, 3) == blob(60 * CHUNK_NBYTES)[3 * CHUNK_NBYTES :][:1000]
    assert files(tmp_path / "cache") == []


def test_what_was_used_longest_ago_goes_first(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", disk=20 * CHUNK_ROOM)
    for number in range(20):
        _chunk(store, number)
    _age(tmp_path / "cache", 1000)
    for number in (3, 11):
        _chunk(near(far, tmp_path / "cache", disk=20 * CHUNK_ROOM), number)  # by another handle, as by another process
    for number in range(20, 37):
        _chunk(store, number)
    asked = len(far.requests())
    for number in (3, 11, *range(20, 37)):
        _chunk(store, number)
    assert len(far.requests()) == asked


def test_objects_used_longest_ago_lose_their_chunks_first(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", disk=100 * CHUNK_ROOM)
    for key in ("data/small0", "data/x", "data/small1"):
        store.get(key)
        _age(tmp_path / "cache", 1000)
    _chunk(near(far, tmp_path / "cache", disk=100 * CHUNK_ROOM), 0, "data/small0")  # the oldest, but used again
    near(far, tmp_path / "cache", disk=90 * CHUNK_ROOM).get("data/y")
    asked = len(far.requests())
    for key in ("data/small0", "data/small1", "data/y"):
        store.get(key)
    assert len(far.requests()) == asked
    left = [p for p in files(tmp_path / "cache") if p.stat().st_size == CHUNK_ROOM]
    assert 60 + 2 * 3 < len(left) < 2 * 60, "of the one used longest ago only as much went as was needed"


def test_a_use_changes_no_modification_time(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", disk=20 * CHUNK_ROOM)
    _chunk(store, 0)
    _age(tmp_path / "cache", 1000)
    (path,) = files(tmp_path / "cache")
    before = path.stat()
    _chunk(store, 0)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_atime_ns > before.st_atime_ns


def _churn(root: str, folder: str, budget: int, key: str) -> tuple[bool, int]:
    store = near(Far(root), folder, disk=budget)
    expected = (Path(root) / key).read_bytes()
    largest, right = 0, True
    meet()
    for _ in range(2):
        for number in range(0, 60, 3):
            got = bytes(store.get_range(key, number * CHUNK_NBYTES, 3 * CHUNK_NBYTES))
            right &= got == expected[number * CHUNK_NBYTES : (number + 3) * CHUNK_NBYTES]
            largest = max(largest, _disk(store).room.used())
    return right, largest


def test_the_budget_holds_for_all_processes_together(far: Far, tmp_path: Path) -> None:
    budget = 30 * CHUNK_ROOM
    calls = [(far.root, str(tmp_path / "cache"), budget, key) for key in ("data/x", "data/y", "data/x", "data/y")]
    done = race_processes(_churn, calls)
    assert [right for right, _ in done] == [True] * 4
    # what is on its way to the disk while files are counted is counted late: three chunks a process at most
    assert max(largest for _, largest in done) <= budget + 4 * 3 * CHUNK_ROOM
    assert room(tmp_path / "cache") <= budget + 4 * 3 * CHUNK_ROOM


def test_a_smaller_budget_makes_the_cache_smaller(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", disk=200 * CHUNK_ROOM)
    store.get("data/x")
    assert room(tmp_path / "cache") > 60 * CHUNK_ROOM
    _chunk(near(far, tmp_path / "cache", disk=10 * CHUNK_ROOM), 0, "data/y")
    assert room(tmp_path / "cache") <= 10 * CHUNK_ROOM


@pytest.mark.parametrize("damage", [b"", b"short", b"\xff" * 16, bytes(16), b"\xff" * 40, None])
def test_a_counter_that_is_wrong_or_gone_is_counted_anew(far: Far, tmp_path: Path, damage: bytes | None) -> None:
    store = near(far, tmp_path / "cache", disk=20 * CHUNK_ROOM)
    for number in range(18):
        _chunk(store, number)
    counter = next((tmp_path / "cache").rglob("used"))
    if damage is None:
        counter.unlink()
    else:
        counter.write_bytes(damage)
    for number in range(18, 40):
        _chunk(store, number)
        assert room(tmp_path / "cache") <= 20 * CHUNK_ROOM


def test_reservations_of_the_killed_are_found_out(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", disk=20 * CHUNK_ROOM)
    _disk(store).room.charge(19 * CHUNK_ROOM)  # of somebody who died before he wrote
    for number in range(18):
        _chunk(store, number)
    assert len(files(tmp_path / "cache")) == 18


def test_unfinished_writes_of_the_killed_go(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", disk=4 * CHUNK_ROOM)
    _chunk(store, 0)
    (path,) = files(tmp_path / "cache")
    old, young = path.with_name(".tmp-old"), path.with_name(".tmp-young")
    for temp in (old, young):
        temp.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    for number in range(8):
        _chunk(store, number)
    assert not old.exists()
    assert [p.name for p in files(tmp_path / "cache") if p.name.startswith(".tmp")] in ([".tmp-young"], [])


# -- whole objects -------------------------------------------------------------------------------------------------------


def test_chunks_go_before_whole_objects_whatever_their_age(far: Far, tmp_path: Path) -> None:
    budget = 80 * CHUNK_ROOM
    store = near(far, tmp_path / "cache", disk=budget)
    bring(store, [_whole(far, "data/x")])
    _age(tmp_path / "cache", 10_000)
    for number in range(60):
        _chunk(store, number, "data/y")
        assert room(tmp_path / "cache") <= budget
    assert store.holds("data/x")
    fresh = near(far, tmp_path / "cache", disk=budget)
    assert bytes(fresh.map("data/x") or b"") == blob(60 * CHUNK_NBYTES)


def test_whole_objects_that_take_it_all_leave_nothing_for_chunks(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", disk=_whole(far, "data/x").size + 4096)
    bring(store, [_whole(far, "data/x")])
    for number in range(20):
        assert _chunk(store, number, "data/y") == blob(60 * CHUNK_NBYTES, 1)[number * CHUNK_NBYTES :][:1000]
    assert store.holds("data/x")
    assert len(files(tmp_path / "cache")) == 1


def test_whole_objects_make_room_for_others_that_are_asked_for(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", disk=5 * 53 * 4096)
    smalls = [_whole(far, f"data/small{i}") for i in range(8)]
    bring(store, smalls[:4])
    _age(tmp_path / "cache", 10_000)
    done = bring(store, smalls[2:7])
    assert (done.files, done.present) == (3, 2)
    assert [near(far, tmp_path / "cache", disk=1 << 30).holds(w.key) for w in smalls] == [False] * 2 + [True] * 5 + [False]


def test_a_budget_below_the_whole_objects_counts(far: Far, tmp_path: Path) -> None:
    bring(near(far, tmp_path / "cache"), [_whole(far, f"data/small{i}") for i in range(8)])
    _chunk(near(far, tmp_path / "cache", disk=10 * CHUNK_ROOM), 0)
    assert room(tmp_path / "cache") <= 10 * CHUNK_ROOM


def test_readers_of_what_goes_are_not_disturbed(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache")
    bring(store, [_whole(far, "data/x")])
    view = store.map("data/x")
    assert view is not None
    near(far, tmp_path / "cache", disk=2 * CHUNK_ROOM).get("data/y")  # which leaves no room for it
    assert not [p for p in files(tmp_path / "cache") if p.parent.name == "whole"]
    assert bytes(view) == blob(60 * CHUNK_NBYTES)
    asked = len(far.requests())
    assert bytes(store.get_range("data/x", 100, 1000)) == blob(60 * CHUNK_NBYTES)[100:1100]  # the mapping's file is open still
    store.release()
    assert bytes(store.get_range("data/x", 100, 1000)) == blob(60 * CHUNK_NBYTES)[100:1100]
    assert len(far.requests()) >= asked
    target = bytearray(1000)
    from lakefmt.storage import Range

    store.fill([(Range("data/x", 100, 1000), memoryview(target))])
    assert target == blob(60 * CHUNK_NBYTES)[100:1100]
    assert store.map("data/x") is None
    assert bytes(view) == blob(60 * CHUNK_NBYTES)
