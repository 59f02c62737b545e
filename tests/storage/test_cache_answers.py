"""A cached store answers as the store behind it does, to the byte, whatever is kept already."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_tools import Far, blob, near
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefmt.errors import NoSuchObject, StoreError
from lakefmt.storage import CachedStore, Range, Store
from lakefmt.storage.cache_disk import CHUNK_NBYTES
from lakefmt.testing import StoreConformance

SIZES = {
    "data/empty": 0, "data/small": 100, "data/one": CHUNK_NBYTES, "data/two": 2 * CHUNK_NBYTES, "data/odd": 3 * CHUNK_NBYTES + 17,
    "data/large": 3 << 20, "log/other": 70_000,
}  # fmt: skip
#: Memory and disk, in bytes: none, small ones that evict all the time, and ones that hold everything.
BUDGETS = [(0, 0), (8 << 20, 0), (400_000, 0), (0, 64 << 20), (0, 600_000), (8 << 20, 64 << 20), (300_000, 600_000)]


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    """Objects of sizes around those of chunks."""
    with tempfile.TemporaryDirectory() as folder:
        store = Far(f"{folder}/far")
        for i, (key, size) in enumerate(SIZES.items()):
            store.put(key, blob(size, i))
        yield store


_EDGES = st.builds(lambda n, d: max(0, n * CHUNK_NBYTES + d), st.integers(0, 4), st.integers(-2, 2))
_STARTS = st.one_of(st.integers(0, 300_000), _EDGES, st.integers(0, 4 << 20))
_LENGTHS = st.one_of(st.integers(0, 5_000), _EDGES, st.integers(0, 3 << 20))
_RANGES = st.lists(st.builds(Range, st.sampled_from(list(SIZES)), _STARTS, _LENGTHS), max_size=12)


@pytest.mark.parametrize(("memory", "disk"), BUDGETS)
@settings(max_examples=40)
@given(st.lists(_RANGES, min_size=1, max_size=3))
def test_ranges(far: Far, memory: int, disk: int, rounds: list[list[Range]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = near(far, folder, memory=memory, disk=disk)
        for ranges in [*rounds, *rounds]:
            expected = [bytes(far.get_range(r.key, r.start, r.length)) for r in ranges]
            assert [bytes(a) for a in store.get_ranges(ranges)] == expected
            assert [bytes(store.get_range(r.key, r.start, r.length)) for r in ranges] == expected


@pytest.mark.parametrize(("memory", "disk"), BUDGETS)
@settings(max_examples=25)
@given(_RANGES)
def test_fill(far: Far, memory: int, disk: int, ranges: list[Range]) -> None:
    whole = [r for r in ranges if r.start + r.length <= SIZES[r.key]]
    with tempfile.TemporaryDirectory() as folder:
        store = near(far, folder, memory=memory, disk=disk)
        for _ in range(2):
            targets = [bytearray(r.length) for r in whole]
            store.fill([(r, memoryview(t)) for r, t in zip(whole, targets, strict=True)])
            assert [bytes(t) for t in targets] == [bytes(far.get_range(r.key, r.start, r.length)) for r in whole]


@pytest.mark.parametrize(("memory", "disk"), BUDGETS)
def test_whole_objects(far: Far, tmp_path: Path, memory: int, disk: int) -> None:
    store = near(far, tmp_path, memory=memory, disk=disk)
    for _ in range(2):
        for i, (key, size) in enumerate(SIZES.items()):
            assert store.get(key) == blob(size, i)
            assert bytes(store.get_range(key, -50, 50)) == blob(size, i)[-50:]


@pytest.mark.parametrize(("memory", "disk"), BUDGETS)
def test_what_is_not_there(far: Far, tmp_path: Path, memory: int, disk: int) -> None:
    store = near(far, tmp_path, memory=memory, disk=disk)
    asks = [
        lambda: store.get("data/none"),
        lambda: store.get_range("data/none", 0, 10),
        lambda: store.get_range("data/none", 0, 0),
        lambda: store.get_ranges([Range("data/odd", 5, 5), Range("data/none", 7, 10)]),
        lambda: store.fill([(Range("data/none", 0, 3), memoryview(bytearray(3)))]),
    ]
    for ask in [*asks, *asks]:
        with pytest.raises(NoSuchObject):
            ask()
    for _ in range(2):
        with pytest.raises(StoreError, match="ends before byte 110"):
            store.fill([(Range("data/small", 100, 10), memoryview(bytearray(10)))])
    far.put("data/none", b"now it is")
    assert store.get("data/none") == b"now it is"
    far.delete(["data/none"])


class TestCachedConformance(StoreConformance):
    """The promises of the port, with a cache before the store."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """Caches of both kinds."""
        return near(Far(str(tmp_path / "far")), tmp_path / "cache", memory=8 << 20, disk=64 << 20)


def test_what_a_slice_keeps_alive(far: Far, tmp_path: Path) -> None:
    """A small piece of a chunk does not keep the chunk in memory after the cache has dropped it."""
    store: CachedStore = near(far, tmp_path, memory=8 << 20)
    piece = store.get_range("data/large", 70_000, 1_000)
    assert memoryview(piece).obj is not None
    assert len(memoryview(piece).obj) == 1_000  # type: ignore[arg-type]
