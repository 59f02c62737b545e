"""One fetch a chunk, among threads and among processes; and nobody waits for one who died, was forked, or cannot lock."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from cache_tools import FOLDERS, Far, asked_chunks, blob, files, near

from lakefmt.errors import NoSuchObject, StoreError
from lakefmt.storage import Bytes, CachedStore, CacheSizes, FsspecStore, Range, Whole, bring, cache_fetch
from lakefmt.storage.cache_disk import CHUNK_NBYTES
from lakefmt.storage.cache_locks import file_locks
from lakefmt.testing import meet, race_processes

NBYTES = 6 << 20
PROCESSES = 4


@pytest.fixture
def far(tmp_path: Path) -> Far:
    """One object."""
    store = Far(str(tmp_path / "far"))
    store.put("data/x", blob(NBYTES))
    return store


class Gated(Far):
    """A store whose first request is not answered before it is told to go on."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
        self.begun.set()
        assert self.go_on.wait(60)
        return super().get_ranges(ranges)


# -- threads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory", "disk"), [(64 << 20, 0), (0, 64 << 20), (64 << 20, 64 << 20)])
def test_threads_fetch_a_chunk_once(tmp_path: Path, memory: int, disk: int) -> None:
    far = Gated(str(tmp_path / "far"))
    far.put("data/x", blob(NBYTES))
    store = near(far, tmp_path / "cache", memory=memory, disk=disk)
    waiting = threading.Semaphore(0)
    claim = store._chunks._flights.claim

    def told(ids: Any) -> Any:
        made = claim(ids)
        waiting.release()
        return made

    store._chunks._flights.claim = told  # type: ignore[method-assign]
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(store.get_range, "data/x", 50_000 * i, 200_000) for i in (0, 0, 1, 1, 2, 2, 3, 3)]
        for _ in reads:
            waiting.acquire()
        far.go_on.set()
        for i, read in zip((0, 0, 1, 1, 2, 2, 3, 3), reads, strict=True):
            assert bytes(read.result()) == blob(NBYTES)[50_000 * i : 50_000 * i + 200_000]
    assert max(Counter(asked_chunks(far)).values()) == 1


def test_a_failed_fetch_fails_for_each_and_leaves_nothing_behind(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", memory=64 << 20, disk=64 << 20)
    far.delete(["data/x"])
    with ThreadPoolExecutor(8) as pool:
        errors = [read.exception() for read in [pool.submit(store.get_range, "data/x", 0, 200_000) for _ in range(8)]]
    assert [type(e) for e in errors] == [NoSuchObject] * 8
    assert store._chunks._flights._by_chunk == {}
    disk = store.disk
    assert disk is not None
    assert disk.locks._held == set()
    far.put("data/x", blob(NBYTES))
    assert bytes(store.get_range("data/x", 0, 200_000)) == blob(NBYTES)[:200_000]


def test_two_handles_of_one_process_fetch_a_chunk_once(far: Far, tmp_path: Path) -> None:
    stores = [near(far, tmp_path / "cache", disk=64 << 20) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert all(bytes(a) == blob(NBYTES) for a in pool.map(lambda s: s.get_range("data/x", 0, NBYTES), stores))
    assert max(Counter(asked_chunks(far)).values()) == 1


# -- processes -----------------------------------------------------------------------------------------------------------


def _read_all(root: str, folder: str, seed: int) -> tuple[bool, int]:
    import random

    store = near(Far(root), folder, disk=64 << 20)
    expected = blob(NBYTES)
    meet()
    order = list(range(0, NBYTES, 300_000))
    random.Random(seed % 2).shuffle(order)  # pairs race for the same ranges in the same order
    right = all(bytes(store.get_range("data/x", at, 310_000)) == expected[at : at + 310_000] for at in order)
    return right, store.report()["misses"]


def test_processes_fetch_a_chunk_once(far: Far, tmp_path: Path) -> None:
    folder = str(tmp_path / "cache")
    done = race_processes(_read_all, [(far.root, folder, i) for i in range(PROCESSES)])
    assert all(right for right, _ in done)
    # (what lies in the gap of a request may be a chunk that another process is fetching: that comes twice, for no request)
    assert sum(misses for _, misses in done) <= len(set(asked_chunks(far))) == -(-NBYTES // CHUNK_NBYTES)


def _same_range(root: str, folder: str) -> bool:
    store = near(Far(root), folder, disk=64 << 20)
    meet()
    return bytes(store.get_range("data/x", 0, NBYTES)) == blob(NBYTES)


def test_processes_that_want_the_same_fetch_it_once(far: Far, tmp_path: Path) -> None:
    assert race_processes(_same_range, [(far.root, str(tmp_path / "cache"))] * PROCESSES) == [True] * PROCESSES
    assert max(Counter(asked_chunks(far)).values()) == 1


def _from_s3(url: str, options: dict[str, Any], folder: str) -> bool:
    store = CachedStore(FsspecStore(url, options), CacheSizes(0, 64 << 20, folder), FOLDERS)
    meet()
    return bytes(store.get_range("data/x", 0, 500_000)) == blob(NBYTES)[:500_000]


def test_processes_ask_a_server_once(s3_bucket: str, s3_options: dict[str, Any], tmp_path: Path) -> None:
    url = f"s3://{s3_bucket}/place"
    FsspecStore(url, s3_options).put("data/x", blob(NBYTES))
    assert race_processes(_from_s3, [(url, s3_options, str(tmp_path))] * PROCESSES) == [True] * PROCESSES
    with urlopen(f"{s3_options['endpoint_url']}/_requests") as answer:
        counts = json.load(answer)
    assert counts[f"GET /{s3_bucket}/place/data/x"] == 1


_HOLDER = """
import sys
sys.path.insert(0, {tests!r})
from cache_tools import Far, near
class Stuck(Far):
    def get_ranges(self, ranges):
        print("fetching", flush=True)
        sys.stdin.read()
        return super().get_ranges(ranges)
print(len(near(Stuck({root!r}), {folder!r}, disk=64 << 20).get_range("data/x", 0, 100_000)), flush=True)
"""


def _holder(far: Far, folder: Path) -> subprocess.Popen[str]:
    """A process that is fetching, and does not get on."""
    script = _HOLDER.format(tests=str(Path(__file__).parent), root=far.root, folder=str(folder))
    held = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert held.stdout is not None
    assert held.stdout.readline() == "fetching\n"
    return held


def test_a_killed_holder_is_in_nobodys_way(far: Far, tmp_path: Path) -> None:
    with _holder(far, tmp_path / "cache") as held:
        store = near(far, tmp_path / "cache", disk=64 << 20)
        with ThreadPoolExecutor(1) as pool:
            read = pool.submit(store.get_range, "data/x", 0, 100_000)
            assert not read.done()
            held.kill()
            assert bytes(read.result(60)) == blob(NBYTES)[:100_000]
    assert [p.name for p in (tmp_path / "cache").rglob("*") if "lock" in p.name] == ["locks"]
    assert (next((tmp_path / "cache").rglob("locks"))).stat().st_size == 0


def test_a_holder_that_goes_on_is_waited_for(far: Far, tmp_path: Path) -> None:
    with _holder(far, tmp_path / "cache") as held, ThreadPoolExecutor(1) as pool:
        store = near(far, tmp_path / "cache", disk=64 << 20)
        read = pool.submit(store.get_range, "data/x", 0, 100_000)
        other = bytes(store.get_range("data/x", 1_000_000, 100_000))  # what it does not hold is not waited for
        assert other == blob(NBYTES)[1_000_000:1_100_000]
        held.communicate()
        assert bytes(read.result(60)) == blob(NBYTES)[:100_000]
    assert max(Counter(asked_chunks(far)).values()) == 1


def test_a_holder_that_stands_still_is_not_waited_for_for_ever(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(cache_fetch, "WAIT_S_MAX", 0.01)
    with _holder(far, tmp_path / "cache") as held:
        os.kill(held.pid, signal.SIGSTOP)
        store = near(far, tmp_path / "cache", disk=64 << 20)
        assert bytes(store.get_range("data/x", 0, 100_000)) == blob(NBYTES)[:100_000]
        held.kill()


def _no_locks(*_: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def _without_locks(root: str, folder: str) -> bool:
    from lakefmt.storage import cache_locks

    cache_locks._fcntl.lockf = _no_locks  # type: ignore[assignment]
    return _same_range(root, folder)


def test_without_locks_it_is_right_all_the_same(far: Far, tmp_path: Path) -> None:
    assert race_processes(_without_locks, [(far.root, str(tmp_path / "cache"))] * PROCESSES) == [True] * PROCESSES
    assert max(Counter(asked_chunks(far)).values()) <= PROCESSES
    asked = len(far.requests())
    assert bytes(near(far, tmp_path / "cache", disk=64 << 20).get_range("data/x", 0, NBYTES)) == blob(NBYTES)
    assert len(far.requests()) == asked


def test_locks_by_number(tmp_path: Path) -> None:
    locks = file_locks(str(tmp_path / "deep" / "locks"))
    assert file_locks(str(tmp_path / "deep" / "locks")) is locks
    numbers = [0, 1, 5, 1 << 61, (1 << 63) - 1]
    assert all(locks.take(n) for n in numbers)
    assert not any(locks.take(n) for n in numbers)
    assert not locks.take(5, wait_s=0.01)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(locks.take, 5, 60.0)
        locks.drop(5)
        assert waits.result()
    for n in numbers:
        locks.drop(n)
    locks.drop(77)
    assert locks._fd == -1


# -- forks ---------------------------------------------------------------------------------------------------------------

_FORK = """
import os, sys, threading
sys.path.insert(0, {tests!r})
from cache_tools import Far, blob, near
store = near(Far({root!r}), {folder!r}, memory=64 << 20, disk=64 << 20)
expected = blob({nbytes})
assert bytes(store.get_range("data/x", 0, 70_000)) == expected[:70_000]
# what a thread of the parent holds as the fork happens: every lock there is, a flight, a chunk's lock
disk, chunks = store.disk, store._chunks
flight, mine, _ = chunks._flights.claim([("data/x", 40)])
assert disk.locks.take(disk.lock_number(("data/x", 41)))
for lock in (chunks.memory._lock, chunks._flights._lock, store._counts._lock, disk.locks._mutex, disk.wholes._files._lock):
    lock.acquire()
pid = os.fork()
if pid == 0:
    ok = bytes(store.get_range("data/x", 0, {nbytes})) == expected
    ok &= not disk.locks._held
    os._exit(0 if ok else 1)
for lock in (chunks.memory._lock, chunks._flights._lock, store._counts._lock, disk.locks._mutex, disk.wholes._files._lock):
    lock.release()
disk.locks.drop(disk.lock_number(("data/x", 41)))
chunks._flights.land(flight, mine)
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert bytes(store.get_range("data/x", 0, {nbytes})) == expected
print("well")
"""


def test_a_forked_child_reads_whatever_its_parent_held(far: Far, tmp_path: Path) -> None:
    script = _FORK.format(tests=str(Path(__file__).parent), root=far.root, folder=str(tmp_path / "cache"), nbytes=NBYTES)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("well\n", "")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_ways_to_start_a_process(far: Far, tmp_path: Path, method: str) -> None:
    store = near(far, tmp_path / "cache", memory=1 << 20, disk=64 << 20)
    store.get_range("data/x", 0, 100_000)
    asked = len(far.requests())
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert bytes(pool.apply(_read_100_000, (store,))) == blob(NBYTES)[:100_000]
    assert len(far.requests()) == asked


def _read_100_000(store: CachedStore) -> bytes:
    return bytes(store.get_range("data/x", 0, 100_000))


# -- downloads -----------------------------------------------------------------------------------------------------------


def _download(root: str, folder: str) -> int:
    import xxhash

    store = near(Far(root), folder)
    data = blob(NBYTES)
    meet()
    bring(store, [Whole("data/x", NBYTES, xxhash.xxh64(data).hexdigest())])
    return int(bytes(store.map("data/x") or b"") == data)


def test_processes_download_an_object_once(far: Far, tmp_path: Path) -> None:
    assert race_processes(_download, [(far.root, str(tmp_path / "cache"))] * PROCESSES) == [1] * PROCESSES
    assert sum(r.length for r in far.requests()) == NBYTES
    assert len(files(tmp_path / "cache")) == 1


def test_a_store_error_reaches_whoever_waits(tmp_path: Path) -> None:
    class Broken(Far):
        def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
            raise StoreError(5, "the store is broken")

    store = near(Broken(str(tmp_path / "far")), tmp_path / "cache", memory=1 << 20, disk=1 << 20)
    call: Callable[[], Any] = lambda: store.get_range("data/x", 0, 10)  # noqa: E731
    for _ in range(2):
        with pytest.raises(StoreError, match="broken"):
            call()
