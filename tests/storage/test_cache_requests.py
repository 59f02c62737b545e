"""What a cached store asks of the store behind it: each chunk once, little more than is wanted, and in few requests."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import pytest
from cache_tools import Far, asked_chunks, blob, files, near

from lakefmt.errors import InvalidInput, NoSuchObject
from lakefmt.storage import LocalStore, Range, cache_sizes, cached
from lakefmt.storage.cache_disk import CHUNK_NBYTES
from lakefmt.storage.cached import MEMORY_MB
from lakefmt.storage.port import COALESCE_BYTES_MAX

BUDGETS = [(64 << 20, 0), (0, 64 << 20), (64 << 20, 64 << 20)]


@pytest.fixture
def far(tmp_path: Path) -> Far:
    """One large object, and one that is no data."""
    store = Far(str(tmp_path / "far"))
    store.put("data/large", blob(20 << 20))
    store.put("log/1", b"a version")
    return store


@pytest.mark.parametrize(("memory", "disk"), BUDGETS)
def test_a_scan_asks_for_every_chunk_once_and_in_few_requests(far: Far, tmp_path: Path, memory: int, disk: int) -> None:
    store = near(far, tmp_path / "cache", memory=memory, disk=disk)
    sample, batch, nbytes = 110_000, 32, 20 << 20
    whole = b""
    for start in range(0, nbytes, batch * sample):
        ranges = [
            Range("data/large", at, min(sample, nbytes - at)) for at in range(start, min(nbytes, start + batch * sample), sample)
        ]
        whole += b"".join(store.get_ranges(ranges))
    assert whole == blob(20 << 20)
    asked = asked_chunks(far)
    assert sorted(asked) == sorted(set(asked))
    batches = -(-nbytes // (batch * sample))
    assert len(far.requests()) == batches, "a batch of neighbours, less what is here already, is one request"
    assert store.report()["fetched_nbytes"] == nbytes


@pytest.mark.parametrize(("memory", "disk"), BUDGETS)
def test_samples_at_random_cost_at_most_a_chunk_more_than_their_bytes(far: Far, tmp_path: Path, memory: int, disk: int) -> None:
    store = near(far, tmp_path / "cache", memory=memory, disk=disk)
    sample, n = 50_000, 40
    starts = [i * 500_000 + random.Random(i).randrange(400_000) for i in range(n)]
    for start in starts:
        store.get_range("data/large", start, sample)
    report = store.report()
    assert report["requests"] == n
    assert report["fetched_nbytes"] <= n * (sample + 2 * CHUNK_NBYTES)
    assert report["fetched_nbytes"] / n - sample < 1.2 * CHUNK_NBYTES, "on average, one chunk"
    assert report["served_nbytes"] == n * sample


@pytest.mark.parametrize(("memory", "disk"), BUDGETS)
def test_what_was_read_is_asked_for_no_more(far: Far, tmp_path: Path, memory: int, disk: int) -> None:
    store = near(far, tmp_path / "cache", memory=memory, disk=disk)
    ranges = [Range("data/large", at, 3_000) for at in range(0, 20 << 20, 1_500_000)]
    first = [bytes(a) for a in store.get_ranges(ranges)]
    asked = len(far.requests())
    assert [bytes(a) for a in store.get_ranges(ranges)] == first
    target = bytearray(3_000)
    store.fill([(ranges[3], memoryview(target))])
    assert target == first[3]
    assert len(far.requests()) == asked
    hits = store.report()["memory_hits" if memory else "disk_hits"]
    assert hits >= len(ranges)


def test_what_lies_between_and_was_fetched_is_kept(far: Far, tmp_path: Path) -> None:
    for budgets in BUDGETS:
        store = near(far, tmp_path / f"{budgets}", memory=budgets[0], disk=budgets[1])
        store.get_ranges([Range("data/large", 0, 10), Range("data/large", 900_000, 10)])  # closer than a request is worth
        asked = len(far.requests())
        store.get_range("data/large", 300_000, 300_000)
        assert len(far.requests()) == asked


def test_requests_stay_bounded_and_parallel(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", memory=64 << 20)
    store.get_range("data/large", 0, 20 << 20)
    lengths = [r.length for r in far.requests()]
    assert max(lengths) <= COALESCE_BYTES_MAX
    assert len(lengths) == 3


@pytest.mark.parametrize(("memory", "disk"), [(0, 0), *BUDGETS])
def test_only_what_never_changes_is_kept(far: Far, tmp_path: Path, memory: int, disk: int) -> None:
    store = near(far, tmp_path / "cache", memory=memory, disk=disk)
    assert store.get("log/1") == b"a version"
    far.put("log/1", b"another")
    assert store.get("log/1") == b"another"
    assert [bytes(a) for a in store.get_ranges([Range("log/1", 0, 3), Range("data/large", 0, 3)])] == [b"ano", blob(20 << 20)[:3]]
    assert files(tmp_path / "cache") == ([] if not disk else files(tmp_path / "cache")[:1])
    store.put("data/new", b"12345")
    assert far.get("data/new") == b"12345"
    assert sorted(e.key for e in store.list("data/")) == ["data/large", "data/new"]
    far.put("data/later", b"x")
    assert "data/later" in [e.key for e in store.list("data/")]


@pytest.mark.parametrize(("memory", "disk"), BUDGETS)
def test_what_is_deleted_or_replaced_is_dropped(far: Far, tmp_path: Path, memory: int, disk: int) -> None:
    store = near(far, tmp_path / "cache", memory=memory, disk=disk)
    store.put("data/x", b"first")
    assert store.get("data/x") == b"first"
    store.delete(["data/x"])
    assert files(tmp_path / "cache") == []
    with pytest.raises(NoSuchObject):
        store.get("data/x")
    store.put("data/x", b"second")
    assert store.get("data/x") == b"second"
    with store.writer("data/x") as w:
        w.write(b"third")
    assert store.get("data/x") == b"third"


def test_memory_stays_within_its_budget_and_keeps_what_was_used_last(far: Far, tmp_path: Path) -> None:
    budget = 40 * 66_100
    store = near(far, tmp_path / "cache", memory=budget)
    memory = store._chunks.memory
    for number in range(100):
        store.get_range("data/large", number * CHUNK_NBYTES, 100)
        store.get_range("data/large", 0, 100)  # used all the time
        assert memory.nbytes <= budget
    assert [n for (_, n), found in ((c, c in memory._entries) for c in memory._entries) if found][-1] == 0
    assert len(memory._entries) > 30
    asked = len(far.requests())
    store.get_range("data/large", 0, CHUNK_NBYTES)
    store.get_range("data/large", 99 * CHUNK_NBYTES, 10)
    assert len(far.requests()) == asked
    store.get_range("data/large", 20 * CHUNK_NBYTES, 10)
    assert len(far.requests()) == asked + 1
    store.get_range("data/large", 0, 20 << 20)  # larger than all of it: it pushes nothing out
    assert len(memory._entries) > 30
    store.release()
    assert memory.nbytes == 0


def test_a_pickled_store_has_the_same_caches(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", memory=1 << 20, disk=64 << 20)
    store.get_range("data/large", 0, 10)
    clone = pickle.loads(pickle.dumps(store))
    asked = len(far.requests())
    assert bytes(clone.get_range("data/large", 0, 1000)) == blob(20 << 20)[:1000]
    assert len(far.requests()) == asked
    assert clone.sizes == store.sizes


def test_local_stores_get_no_cache(tmp_path: Path) -> None:
    local = LocalStore(str(tmp_path))
    assert cached(local, cache_sizes(None, 1000), ("data/",)) is local


def test_sizes_and_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAKEFMT_CACHE", str(tmp_path / "here"))
    sizes = cache_sizes(None, 2.5)
    assert (sizes.memory_nbytes, sizes.disk_nbytes, sizes.folder) == (MEMORY_MB * 1_000_000, 2_500_000, str(tmp_path / "here"))
    assert cache_sizes(0, 0).memory_nbytes == 0
    monkeypatch.delenv("LAKEFMT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_sizes(None, 0).folder == str(tmp_path / "xdg" / "lakefmt")
    for wrong in (-1, float("nan"), float("inf"), "10", True, 1e20):
        with pytest.raises(InvalidInput, match="memory_cache_size="):
            cache_sizes(wrong, 0)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="local_cache_size="):
            cache_sizes(None, wrong)  # type: ignore[arg-type]
