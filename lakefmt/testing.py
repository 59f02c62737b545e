"""For authors of storage backends: the promises of the storage port, as tests to inherit.

::

    class TestMyStore(StoreConformance):
        def make_store(self) -> Store:
            return MyStore("my://a-new-empty-place")

Run it with pytest. ``make_store`` is called once a test and must give an empty place each time; a class that needs fixtures
overrides the fixture ``store`` instead. A store that passes may hold datasets: commits are exactly as safe as
``test_racing_processes`` is green.
"""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.context import BaseContext
from typing import Any

import pytest

from lakefmt.errors import NoSuchObject, StoreError
from lakefmt.storage import Range, Store, probe_put_if_absent

#: Writers that race for each key, and keys they race for.
RACERS = 8
RACE_KEYS = 40
#: Large enough that a store which shows half-written objects is caught doing it.
_RACE_NBYTES = 20_000
_MEETING_TIMEOUT_S = 120.0

_meeting: Any = None


def race_processes(fn: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call ``fn(*arguments)`` once for each arguments, each in a process of its own, all beginning at once; their answers."""
    context = _context()
    barrier = context.Barrier(len(calls))
    with ProcessPoolExecutor(len(calls), mp_context=context, initializer=_join, initargs=(barrier,)) as pool:
        return [f.result() for f in [pool.submit(_met, fn, arguments) for arguments in calls]]


def meet() -> None:
    """In a function run by ``race_processes``: wait until all processes are here."""
    _meeting.wait(_MEETING_TIMEOUT_S)


def _context() -> BaseContext:
    """Processes that share nothing with this one: a fork would take Arrow's and fsspec's threads for alive."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lakefmt.testing"])
    return context


def _join(barrier: Any) -> None:
    global _meeting
    _meeting = barrier


def _met(fn: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    meet()
    return fn(*arguments)


def _race(store: Store, racer: int, keys: Sequence[str], wait: Callable[[], Any]) -> list[tuple[bool, bytes]]:
    """Try to create each key when all racers are there; whether this one won, and what it then reads."""
    out = []
    for key in keys:
        wait()
        won = store.put_if_absent(key, _race_bytes(racer, key))
        out.append((won, store.get(key)))
    return out


def _race_in_process(store: Store, racer: int, keys: Sequence[str]) -> list[tuple[bool, bytes]]:
    return _race(store, racer, keys, meet)


def _race_bytes(racer: int, key: str) -> bytes:
    return f"{racer} {key} ".encode() + bytes([racer]) * _RACE_NBYTES


def _check_race(outcomes: Sequence[Sequence[tuple[bool, bytes]]], keys: Sequence[str], store: Store) -> None:
    """One winner a key, and everybody, then and now, reads the winner's bytes."""
    for i, key in enumerate(keys):
        winners = [racer for racer, outcome in enumerate(outcomes) if outcome[i][0]]
        assert len(winners) == 1, f"{key}: {len(winners)} of {len(outcomes)} writers were told that they created it"
        expected = _race_bytes(winners[0], key)
        assert all(outcome[i][1] == expected for outcome in outcomes), f"{key}: somebody read other bytes than the winner's"
        assert store.get(key) == expected


def _keys(store: Store, prefix: str = "") -> list[str]:
    return sorted(e.key for e in store.list(prefix))


class StoreConformance:
    """What every ``Store`` promises.

    Attributes:
        shared: whether a pickled store reaches the same place from another process; without it only threads race.
        large_nbytes: size of a large object, above what the backend sends in one piece.
    """

    shared = True
    large_nbytes = 6 << 20

    def make_store(self) -> Store:
        """A store over a new, empty place."""
        raise NotImplementedError("give make_store() or override the fixture `store`")

    @pytest.fixture
    def store(self) -> Store:
        """The store under test."""
        return self.make_store()

    # -- get -----------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("nbytes", [0, 1, 100_000])
    def test_get(self, store: Store, nbytes: int) -> None:
        """An object comes back as it was put."""
        data = bytes(i * 7 % 251 for i in range(nbytes))
        store.put("a/b.bin", data)
        assert store.get("a/b.bin") == data

    def test_missing(self, store: Store) -> None:
        """Every way of reading a missing key says so."""
        store.put("there", b"x")
        for read in (
            lambda: store.get("not/there"),
            lambda: store.get_range("not/there", 0, 4),
            lambda: store.get_range("not/there", -4, 4),
            lambda: store.get_ranges([Range("there", 0, 1), Range("not/there", 0, 1)]),
        ):
            with pytest.raises(NoSuchObject, match="not/there"):
                read()

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [
            (0, 10, b"0123456789"), (0, 1, b"0"), (3, 4, b"3456"), (9, 1, b"9"),
            (3, 0, b""),  # nothing asked
            (-1, 1, b"9"), (-4, 4, b"6789"), (-4, 2, b"67"), (-10, 10, b"0123456789"),  # from the end
            (-25, 25, b"0123456789"),  # further back than it begins
            (6, 100, b"6789"), (0, 1 << 40, b"0123456789"),  # past the end
            (10, 4, b""), (50, 4, b""),  # wholly past it
        ],
    )  # fmt: skip
    def test_get_range(self, store: Store, start: int, length: int, expected: bytes) -> None:
        """Bytes of a range; fewer only where the object ends."""
        store.put("k", b"0123456789")
        assert bytes(store.get_range("k", start, length)) == expected

    def test_get_range_of_an_empty_object(self, store: Store) -> None:
        """There is an object, and nothing in it."""
        store.put("empty", b"")
        assert bytes(store.get_range("empty", 0, 4)) == b""

    def test_get_ranges_order(self, store: Store) -> None:
        """Answers come in the order asked, whatever the order in the objects, also doubled and overlapping."""
        blob = bytes(i % 251 for i in range(5000))
        store.put("a", blob)
        store.put("b", blob[::-1])
        asked = [("b", 4000, 10), ("a", 100, 50), ("a", 0, 5000), ("b", 0, 1), ("a", 100, 50), ("a", 120, 60), ("a", 4990, 10)]
        answers = store.get_ranges([Range(*a) for a in asked])
        whole = {"a": blob, "b": blob[::-1]}
        assert [bytes(x) for x in answers] == [whole[k][s : s + n] for k, s, n in asked]

    def test_get_ranges_coalesced_or_not(self, store: Store) -> None:
        """Ranges near each other and ranges megabytes apart answer alike."""
        blob = bytearray(3 << 20)
        blob[0:4], blob[10:14], blob[-4:] = b"head", b"near", b"last"
        store.put("big", bytes(blob))
        ranges = [Range("big", (3 << 20) - 4, 4), Range("big", 0, 4), Range("big", 10, 4)]
        assert [bytes(x) for x in store.get_ranges(ranges)] == [b"last", b"head", b"near"]

    def test_get_ranges_many(self, store: Store) -> None:
        """Hundreds of ranges of several objects in one call."""
        blobs = {f"many/{i}": bytes((i + j) % 256 for j in range(2000)) for i in range(5)}
        for key, blob in blobs.items():
            store.put(key, blob)
        asked = [Range(f"many/{i % 5}", i * 37 % 1990, 1 + i % 9) for i in range(500)]
        answers = store.get_ranges(asked)
        assert [bytes(x) for x in answers] == [blobs[r.key][r.start : r.start + r.length] for r in asked]

    def test_get_ranges_of_nothing(self, store: Store) -> None:
        """No ranges, no answers."""
        assert store.get_ranges([]) == []

    def test_fill(self, store: Store) -> None:
        """Ranges are read into the caller's memory, and nothing beside it is touched."""
        store.put("a", bytes(range(200)))
        store.put("b", bytes(range(100)))
        target = bytearray(20)
        memory = memoryview(target)
        store.fill([(Range("b", 90, 5), memory[12:17]), (Range("a", 3, 4), memory[0:4]), (Range("a", 199, 1), memory[8:9])])
        assert target == bytes([3, 4, 5, 6, 0, 0, 0, 0, 199, 0, 0, 0, 90, 91, 92, 93, 94, 0, 0, 0])
        store.fill([])

    def test_fill_past_the_end(self, store: Store) -> None:
        """An object that ends too soon, or is not there, is an error: memory is never left half filled in silence."""
        store.put("a", b"0123456789")
        with pytest.raises(StoreError):
            store.fill([(Range("a", 6, 8), memoryview(bytearray(8)))])
        with pytest.raises(NoSuchObject):
            store.fill([(Range("not/there", 0, 8), memoryview(bytearray(8)))])

    def test_threads_share_it(self, store: Store) -> None:
        """One instance serves many threads at once."""
        blobs = {f"t/{i}": bytes([i]) * (1000 + i) for i in range(16)}
        for key, blob in blobs.items():
            store.put(key, blob)

        def check(n: int) -> bool:
            key = f"t/{n % 16}"
            return store.get(key) == blobs[key] and bytes(store.get_range(key, -7, 7)) == blobs[key][-7:]

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(check, range(64)))

    # -- put -----------------------------------------------------------------------------------------------------------

    def test_put_replaces(self, store: Store) -> None:
        """What put replaces is gone for every way of reading."""
        store.put("hint", b"old and long")
        assert bytes(store.get_range("hint", 0, 3)) == b"old"
        store.put("hint", b"new")
        assert store.get("hint") == b"new"
        assert bytes(store.get_range("hint", 0, 12)) == b"new"
        assert bytes(store.get_ranges([Range("hint", 0, 12)])[0]) == b"new"
        target = bytearray(3)
        store.fill([(Range("hint", 0, 3), memoryview(target))])
        store.put("hint", b"newest")
        store.fill([(Range("hint", 3, 3), memoryview(target))])
        assert target == b"est"

    def test_memoryviews(self, store: Store) -> None:
        """Data may be a memoryview, also of something else than bytes."""
        store.put("p", memoryview(b"abc")[1:])
        assert store.put_if_absent("q", memoryview(b"abcd")[1:])
        with store.writer("w") as w:
            assert w.write(memoryview(bytearray(b"xyz"))[:2]) == 2
        assert (store.get("p"), store.get("q"), store.get("w")) == (b"bc", b"bcd", b"xy")

    @pytest.mark.parametrize("key", ["refs/a%2Fb.json", "with space/x y", "ü/ñ 図.json", "a+b&c=d", "dots.and-dashes_/._x"])
    def test_odd_keys(self, store: Store, key: str) -> None:
        """Keys are taken literally."""
        store.put(key, b"odd")
        assert store.get(key) == b"odd"
        assert _keys(store) == [key]
        assert not store.put_if_absent(key, b"again")

    # -- put_if_absent -------------------------------------------------------------------------------------------------

    def test_put_if_absent(self, store: Store) -> None:
        """The first creates, the second is told, and changes nothing."""
        assert store.put_if_absent("log/1", b"first") is True
        assert store.put_if_absent("log/1", b"second") is False
        assert store.get("log/1") == b"first"

    def test_put_if_absent_over_put(self, store: Store) -> None:
        """Objects made by put or by a writer count as there."""
        store.put("p", b"put")
        with store.writer("w") as w:
            w.write(b"written")
        assert store.put_if_absent("p", b"x") is False
        assert store.put_if_absent("w", b"x") is False
        assert (store.get("p"), store.get("w")) == (b"put", b"written")

    def test_put_if_absent_after_delete(self, store: Store) -> None:
        """A deleted key is absent."""
        assert store.put_if_absent("k", b"one")
        store.delete(["k"])
        assert store.put_if_absent("k", b"two")
        assert store.get("k") == b"two"

    def test_probe(self, store: Store) -> None:
        """The probe made when a dataset is created accepts this store, and leaves nothing behind."""
        probe_put_if_absent(store, "_probe/x")
        assert _keys(store) == []

    def test_racing_threads(self, store: Store) -> None:
        """Threads race for each key: one winner, whose bytes are what everybody reads."""
        keys = [f"log/{i:020d}.json" for i in range(RACE_KEYS)]
        barrier = threading.Barrier(RACERS)
        with ThreadPoolExecutor(RACERS) as pool:
            racing = [pool.submit(_race, store, i, keys, lambda: barrier.wait(_MEETING_TIMEOUT_S)) for i in range(RACERS)]
            _check_race([f.result() for f in racing], keys, store)
        assert _keys(store) == keys

    def test_racing_processes(self, store: Store) -> None:
        """Processes race for each key: one winner, whose bytes are what everybody reads."""
        if not self.shared:
            pytest.skip("this place exists in one process only")
        keys = [f"log/{i:020d}.json" for i in range(RACE_KEYS)]
        outcomes = race_processes(_race_in_process, [(store, i, keys) for i in range(RACERS)])
        _check_race(outcomes, keys, store)
        assert _keys(store) == keys

    # -- writer --------------------------------------------------------------------------------------------------------

    def test_writer(self, store: Store) -> None:
        """A written object appears when the writer is closed, whole."""
        w = store.writer("data/w")
        assert w.write(b"abc") == 3
        assert w.write(b"") == 0
        w.write(b"defg")
        with pytest.raises(NoSuchObject):
            store.get("data/w")
        assert _keys(store) == []
        w.close()
        assert store.get("data/w") == b"abcdefg"
        assert _keys(store) == ["data/w"]

    def test_writer_large(self, store: Store) -> None:
        """An object sent in several pieces is one object."""
        piece = bytes(range(256)) * 4096
        with store.writer("large") as w:
            for _ in range(self.large_nbytes // len(piece) + 1):
                w.write(piece)
        size = (self.large_nbytes // len(piece) + 1) * len(piece)
        assert [(e.key, e.size) for e in store.list("")] == [("large", size)]
        assert bytes(store.get_range("large", size - 300, 300)) == (piece * 2)[-300:]

    @pytest.mark.parametrize("large", [False, True])
    def test_writer_abort(self, store: Store, large: bool) -> None:
        """An aborted writer leaves nothing."""
        w = store.writer("gone")
        w.write(b"x" * (self.large_nbytes if large else 10))
        w.abort()
        assert _keys(store) == []
        with pytest.raises(NoSuchObject):
            store.get("gone")

    def test_writer_exception(self, store: Store) -> None:
        """An exception inside ``with`` aborts, and passes through."""
        with pytest.raises(KeyError, match="mine"), store.writer("gone") as w:  # noqa: PT012
            w.write(b"half")
            raise KeyError("mine")
        assert _keys(store) == []
        assert store.put_if_absent("gone", b"free")

    # -- list and delete -----------------------------------------------------------------------------------------------

    def test_list(self, store: Store) -> None:
        """Objects under a prefix with their sizes; a prefix ends at a slash."""
        sizes = {"a/1": 1, "a/b/2": 22, "a/b/c/3": 333, "ab/4": 4, "top": 5}
        for key, size in sizes.items():
            store.put(key, b"x" * size)

        def listed(prefix: str) -> dict[str, int]:
            return {e.key: e.size for e in store.list(prefix)}

        assert listed("") == sizes
        assert listed("a/") == {"a/1": 1, "a/b/2": 22, "a/b/c/3": 333}
        assert listed("a/b/") == {"a/b/2": 22, "a/b/c/3": 333}
        assert listed("nothing/") == {}
        assert all(e.modified_s is None or e.modified_s > 1e9 for e in store.list(""))

    def test_list_is_fresh(self, store: Store) -> None:
        """A listing shows what was put and deleted a moment ago."""
        for i in range(4):
            store.put(f"log/{i}", b"x")
            assert _keys(store, "log/") == [f"log/{j}" for j in range(i + 1)]
        store.delete(["log/0"])
        assert _keys(store, "log/") == ["log/1", "log/2", "log/3"]

    def test_delete(self, store: Store) -> None:
        """Deleting is idempotent, takes any iterable, and spares the rest."""
        for key in ("a/1", "a/2", "a/3", "b"):
            store.put(key, b"x")
        store.delete(k for k in ["a/1", "never/was", "a/3"])
        store.delete(["a/1"])
        store.delete([])
        assert _keys(store) == ["a/2", "b"]
        with pytest.raises(NoSuchObject):
            store.get("a/1")
        with pytest.raises(NoSuchObject):
            store.get_range("a/1", 0, 1)

    # -- memory and paths ----------------------------------------------------------------------------------------------

    def test_map(self, store: Store) -> None:
        """A mapping, where there is one, is the object, and outlives it."""
        store.put("m", b"mapped bytes")
        view = store.map("m")
        store.forget_pages()
        assert view is None or bytes(view) == b"mapped bytes"
        assert (view is not None) or not store.is_local
        store.delete(["m"])
        assert view is None or bytes(view) == b"mapped bytes"
        store.put("empty", b"")
        assert bytes(store.map("empty") or b"") == b""

    def test_copies(self, store: Store) -> None:
        """What is kept of an object may be dropped at any time, and what is held can be mapped."""
        store.put("k", b"kept")
        assert store.get("k") == b"kept"
        store.forget("k")
        store.forget("not/there")
        assert store.get("k") == b"kept"
        assert store.origin.get("k") == b"kept"
        assert not store.holds("k") or bytes(store.map("k") or b"") == b"kept"

    def test_local_path(self, store: Store) -> None:
        """A local path, where there is one, names a file with the object's bytes."""
        store.put("x/y", b"on disk")
        path = store.local_path("x/y")
        if path is not None:
            with open(path, "rb") as f:
                assert f.read() == b"on disk"
        assert path is None or store.is_local

    def test_release(self, store: Store) -> None:
        """A released store works on."""
        store.put("k", b"kept")
        assert bytes(store.get_range("k", 0, 4)) == b"kept"
        store.release()
        assert bytes(store.get_range("k", 0, 4)) == b"kept"
        assert not store.put_if_absent("k", b"other")

    def test_pickle(self, store: Store) -> None:
        """A pickled store reaches the same place."""
        store.put("k", b"kept")
        clone: Store = pickle.loads(pickle.dumps(store))
        assert clone.url == store.url
        assert clone.get("k") == b"kept"
        clone.put("l", b"by the clone")
        assert store.get("l") == b"by the clone"
