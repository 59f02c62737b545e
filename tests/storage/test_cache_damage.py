"""What lies in a cache folder and is not what was put there is never served: it is dropped, and fetched anew."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cache_tools import Far, blob, files, near
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefmt.storage import CachedStore, Whole, bring
from lakefmt.storage.cache_disk import CHUNK_NBYTES

BYTES = {"data/a": blob(3 * CHUNK_NBYTES + 500, 1), "data/b": blob(CHUNK_NBYTES, 2)}


@pytest.fixture
def far(tmp_path: Path) -> Far:
    """Two objects."""
    store = Far(str(tmp_path / "far"))
    for key, data in BYTES.items():
        store.put(key, data)
    return store


def _flip(at: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at % len(data)] ^= 1
        path.write_bytes(data)

    return change


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def _other(path: Path) -> None:
    """Another chunk's file in its place."""
    other = next(p for p in files(path.parents[3]) if p.read_bytes() != path.read_bytes())
    shutil.copyfile(other, path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of the magic": _flip(0), "a bit of the length": _flip(5), "a bit of the checksum": _flip(9),
    "a bit of the data": _flip(-1),
    "cut short": lambda p: os.truncate(p, p.stat().st_size // 2), "a header alone": lambda p: os.truncate(p, 16),
    "part of a header": lambda p: os.truncate(p, 7), "empty": lambda p: os.truncate(p, 0),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"x"), "something else": lambda p: p.write_bytes(b"something else" * 5000),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)), "another chunk": _other,
    "a link": _instead(lambda p: p.symlink_to("/dev/zero")), "a pipe": _instead(lambda p: os.mkfifo(p)), "gone": os.unlink,
}  # fmt: skip


def _read(store: CachedStore) -> dict[str, bytes]:
    return {key: store.get(key) for key in BYTES}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_every_kind_of_damage_to_every_chunk(far: Far, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder = tmp_path / "cache"
    assert _read(near(far, folder, disk=64 << 20)) == BYTES
    written = files(folder)
    assert len(written) == 6  # four chunks; and one, with an empty one that tells that nothing follows
    for path in written:
        damage(path)
    before = len(far.requests())
    store = near(far, folder, disk=64 << 20)
    assert _read(store) == BYTES
    assert len(far.requests()) > before
    assert all(p.is_file() and not p.is_symlink() for p in written), "fetched anew, and kept"
    asked = len(far.requests())
    assert _read(near(far, folder, disk=64 << 20)) == BYTES
    assert len(far.requests()) == asked


@settings(max_examples=60)
@given(st.data())
def test_bits_at_random(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        far = Far(f"{folder}/far")
        far.put("data/b", BYTES["data/b"][:2000])
        assert near(far, f"{folder}/cache", disk=64 << 20).get("data/b") == BYTES["data/b"][:2000]
        (path,) = files(f"{folder}/cache")
        _flip(data.draw(st.integers(0, path.stat().st_size - 1)))(path)
        assert near(far, f"{folder}/cache", disk=64 << 20).get("data/b") == BYTES["data/b"][:2000]


def test_a_chunk_that_is_taken_away_while_it_is_used(far: Far, tmp_path: Path) -> None:
    store = near(far, tmp_path / "cache", disk=64 << 20)
    assert _read(store) == BYTES
    shutil.rmtree(tmp_path / "cache")
    assert _read(store) == BYTES
    assert len(files(tmp_path / "cache")) == 6


def test_a_chunk_of_another_store_is_none_of_this_one(far: Far, tmp_path: Path) -> None:
    other = Far(str(tmp_path / "other"))
    other.put("data/a", blob(3 * CHUNK_NBYTES + 500, 3))
    near(other, tmp_path / "cache", disk=64 << 20).get("data/a")
    theirs = files(tmp_path / "cache")
    near(far, tmp_path / "cache", disk=64 << 20).get("data/a")
    mine = sorted(set(files(tmp_path / "cache")) - set(theirs))
    for a, b in zip(mine, theirs, strict=True):
        shutil.copyfile(b, a)
    assert near(far, tmp_path / "cache", disk=64 << 20).get("data/a") == BYTES["data/a"]


def test_a_store_that_gave_too_little_once_is_asked_again(far: Far, tmp_path: Path) -> None:
    """An answer cut short on the way: whoever finds the object damaged drops what is kept of it."""
    store = near(far, tmp_path / "cache", memory=8 << 20, disk=64 << 20)
    path = Path(far.root) / "data/a"
    path.write_bytes(BYTES["data/a"][: CHUNK_NBYTES + 10])
    assert len(store.get_range("data/a", 0, 3 * CHUNK_NBYTES)) == CHUNK_NBYTES + 10
    path.write_bytes(BYTES["data/a"])
    far.release()
    assert store.forget("data/a")
    assert store.get("data/a") == BYTES["data/a"]
    assert not store.forget("log/other")
    assert not near(far, tmp_path / "nothing").forget("data/a")


def test_chunks_that_contradict_each_other_are_dropped(far: Far, tmp_path: Path) -> None:
    """One that was kept when the object seemed to end, followed by one that goes on."""
    path = Path(far.root) / "data/a"
    path.write_bytes(BYTES["data/a"][: CHUNK_NBYTES + 10])
    near(far, tmp_path / "cache", disk=64 << 20).get_range("data/a", CHUNK_NBYTES, 100)
    path.write_bytes(BYTES["data/a"])
    far.release()
    near(far, tmp_path / "cache", disk=64 << 20).get_range("data/a", 2 * CHUNK_NBYTES, 100)
    store = near(far, tmp_path / "cache", disk=64 << 20)
    assert bytes(store.get_range("data/a", 0, len(BYTES["data/a"]))) == BYTES["data/a"]
    assert store.get("data/a") == BYTES["data/a"]


# -- whole objects -------------------------------------------------------------------------------------------------------


def _whole(key: str) -> Whole:
    import xxhash

    return Whole(key, len(BYTES[key]), xxhash.xxh64(BYTES[key]).hexdigest())


WHOLE_DAMAGE = {
    name: DAMAGE[name]
    for name in ("a bit of the data", "cut short", "empty", "longer", "something else", "zeros", "a link", "gone")
}


@pytest.mark.parametrize("damage", WHOLE_DAMAGE.values(), ids=WHOLE_DAMAGE.keys())
def test_damage_to_whole_objects(far: Far, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    store = near(far, tmp_path / "cache", memory=0)
    bring(store, [_whole(key) for key in BYTES])
    asked = len(far.requests())
    assert _read(near(far, tmp_path / "cache", disk=64 << 20)) == BYTES
    assert bytes(store.map("data/a") or b"") == BYTES["data/a"]
    assert len(far.requests()) == asked
    for path in files(tmp_path / "cache"):
        damage(path)
    del store  # a process that has looked at a file believes it
    fresh = near(far, tmp_path / "cache", disk=64 << 20)
    assert fresh.map("data/a") is None
    assert not fresh.holds("data/b")
    assert _read(fresh) == BYTES
    assert len(far.requests()) > asked
    bring(fresh, [_whole(key) for key in BYTES])
    assert bytes(fresh.map("data/a") or b"") == BYTES["data/a"]


def test_a_whole_object_of_another_time_is_compared_and_then_believed(far: Far, tmp_path: Path) -> None:
    bring(near(far, tmp_path / "cache"), [_whole(key) for key in BYTES])
    for path in files(tmp_path / "cache"):
        os.utime(path)  # as a backup that was restored
    asked = len(far.requests())
    store = near(far, tmp_path / "cache", disk=64 << 20)
    assert _read(store) == BYTES
    assert store.holds("data/a")
    assert len(far.requests()) == asked
