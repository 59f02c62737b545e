"""Leaf manifests: however rows come and go among thousands of fragments, versions stay small and show what a plain list shows."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
from faulty_stores import Counting, Crash, Crashing, Wrapped, abandon, copied, memory, opened, values
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefmt.errors import Conflict, Corrupt
from lakefmt.fragment.meta import Fragment
from lakefmt.storage import MemoryStore, Store
from lakefmt.versioning import leaves
from lakefmt.versioning.leaves import Leaves, Tree, adopted, merged, shelved, small_runs
from lakefmt.versioning.log import Log
from lakefmt.versioning.records import State

T = TypeVar("T")
SMALL = {"INLINE_MAX": 4, "INLINE_KEPT": 2, "OVERRIDES_MAX": 3, "SMALL_LEAVES_MAX": 3, "LEAF_FRAGMENTS_MAX": 8}


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything happens after a few fragments."""
    for name, value in SMALL.items():
        monkeypatch.setattr(leaves, name, value)


def made(fragments: int = 0, rows: int = 3) -> tuple[MemoryStore, Any]:
    """A dataset of one tensor, and the store it is in."""
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    append(ds, fragments, rows)
    return store, ds


def append(ds: Any, fragments: int, rows: int = 3) -> None:
    """Fragments of numbers that run on."""
    for _ in range(fragments):
        n = len(ds)
        ds.extend({"x": np.arange(n, n + rows)})
        ds.commit()


def state(ds: Any) -> State:
    """What the version object holds."""
    found: State = ds._writer.version.state
    return found


def size(store: Store) -> int:
    """Bytes of the newest version object."""
    return max((e for e in store.list("log/") if e.key.endswith(".json")), key=lambda e: e.key).size


def checked(store: Store, expected: list[int]) -> None:
    """A fresh handle shows these rows, and the dataset is sound."""
    ds = opened(store)
    assert values(ds) == expected
    assert len(ds) == state(ds).rows == len(expected)
    fragments = ds._writer.snapshot.fragments
    assert [f.live for f in fragments] == fragments.live.tolist()
    assert [f.rows for f in fragments] == fragments.rows.tolist()
    assert [f.first_id for f in fragments] == fragments.first_ids.tolist()
    assert len(set(ds[:].row_ids.tolist())) == len(ds)


# -- spilling, folding, merging -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_small")
def test_fragments_spill_into_leaves_and_leaves_are_merged() -> None:
    store, ds = made()
    merges = 0
    for i in range(60):
        before = {leaf.key for leaf in state(ds).leaves}
        append(ds, 1)
        assert len(state(ds).fragments) <= SMALL["INLINE_MAX"]
        assert all(leaf.fragments <= SMALL["LEAF_FRAGMENTS_MAX"] for leaf in state(ds).leaves)
        merges += len(before - {leaf.key for leaf in state(ds).leaves}) > 1
        assert sum(leaf.fragments for leaf in state(ds).leaves) + len(state(ds).fragments) == i + 1
    assert merges > 3
    assert len(state(ds).leaves) < 20
    assert state(ds).leaves
    checked(store, list(range(180)))


@pytest.mark.usefixtures("_small")
def test_overrides_are_folded_into_their_leaves() -> None:
    store, ds = made(30)
    expected = list(range(90))
    seen = set()
    for i in range(0, 60, 4):
        ds.x[i] = -i
        expected[i] = -i
        ds.flush()
        seen.add(len(state(ds).overrides))
        assert len(state(ds).overrides) <= SMALL["OVERRIDES_MAX"]
        checked(store, expected)
    assert {0, 1, 2, 3} <= seen
    ds.pop(list(range(0, 60, 4)))
    checked(store, [v for i, v in enumerate(expected) if i not in range(0, 60, 4)])
    assert opened(store).fsck(full=True)


@pytest.mark.usefixtures("_small")
def test_a_fragment_that_is_overridden_again_and_again_counts_once() -> None:
    store, ds = made(20)
    expected = list(range(60))
    for i in range(5):
        ds.pop(3)
        del expected[3]
        ds.x[0] = -i
        expected[0] = -i
        ds.commit()
        checked(store, expected)
    assert len({o.fragment.id for o in state(ds).overrides}) == len(state(ds).overrides)


@pytest.mark.usefixtures("_small")
def test_whole_fragments_in_leaves_may_lose_all_their_rows() -> None:
    store, ds = made(20)
    ds.pop(list(range(6, 12)))
    checked(store, [*range(6), *range(12, 60)])
    ds.pop(list(range(54)))
    checked(store, [])
    append(ds, 2)
    checked(store, [0, 1, 2, 3, 4, 5])
    ds.compact()
    checked(store, [0, 1, 2, 3, 4, 5])


@pytest.mark.usefixtures("_small")
def test_a_version_object_stays_small() -> None:
    store, ds = made(60)
    small = size(store)
    append(ds, 60)
    ds.x[::7] = np.zeros(len(range(0, 360, 7)), "i8")
    ds.commit()
    append(ds, 1)
    assert size(store) < 2.5 * small
    checked(store, [*(0 if i % 7 == 0 else i for i in range(360)), 360, 361, 362])


def test_thousands_of_fragments_make_small_versions_and_few_leaves() -> None:
    """With the limits as they are, on states alone: no rows are written."""
    store = memory()
    tree = Leaves(store)
    now = State()
    largest = merges = 0
    for i in range(5000):
        fragment = Fragment(id=f"{i:032x}", rows=1, first_id=i)
        now = shelved(msgspec_replace(now, fragments=(*now.fragments, fragment)), tree)
        for run in small_runs(now)[:1]:
            now = adopted(now, {tuple(x.key for x in run): merged(tree, run)})
            merges += 1
        largest = max(largest, len(now.fragments) + len(now.leaves))
    assert largest < 64 + 16 + 5000 // 2048 + 1
    assert merges > 2
    assert [f.first_id for f in Tree(now, tree)] == list(range(5000))
    assert now.rows == 5000


def msgspec_replace(now: State, **changes: Any) -> State:
    """A state with something else in it."""
    import msgspec

    return msgspec.structs.replace(now, **changes)


# -- what is read ---------------------------------------------------------------------------------------------------


def leaf_reads(store: Counting) -> int:
    """Calls that fetched leaves."""
    return sum(1 for name, key in store.calls if key.startswith("meta/") and name.startswith("get"))


@pytest.mark.usefixtures("_small")
def test_opening_reads_no_leaf_and_reading_a_row_fetches_leaves_once() -> None:
    inner, _ = made(40)
    store = Counting(inner)
    ds = opened(store)
    assert (len(ds), ds.x.dtype, list(ds.tensors), ds.version_id is not None) == (120, np.int64, ["x"], True)
    ds.commits  # noqa: B018
    assert leaf_reads(store) == 0
    assert ds.x[5].numpy() == 5
    assert leaf_reads(store) == 1, "all leaves that are needed at once"
    for i in range(0, 120, 7):
        assert ds.x[i].numpy() == i
    assert ds[:].row_ids.tolist() == list(range(120))
    assert leaf_reads(store) == 1


@pytest.mark.usefixtures("_small")
def test_appending_reads_no_leaf() -> None:
    inner, _ = made(40)
    store = Counting(inner)
    ds = opened(store)
    ds.extend({"x": [1, 2, 3]})
    ds.commit()
    assert leaf_reads(store) == 0


@pytest.mark.usefixtures("_small")
def test_a_pickled_view_reads_through_leaves() -> None:
    _, ds = made(30)
    view = pickle.loads(pickle.dumps(ds[10:20]))
    assert [int(v) for v in view.x.numpy()] == list(range(10, 20))


@pytest.mark.usefixtures("_small")
def test_queries_and_loaders_read_through_leaves() -> None:
    _, ds = made(30)
    ds.x[4] = 1000
    ds.pop(0)
    ds.commit()
    assert values(ds.query("select * where x > 85 order by x desc")) == [1000, 89, 88, 87, 86]
    batches = list(ds.dataloader().batch(16).numpy())
    assert np.concatenate([b["x"] for b in batches]).tolist() == [1, 2, 3, 1000, *range(5, 90)]


# -- damage ---------------------------------------------------------------------------------------------------------


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None, "empty": lambda data: b"", "cut": lambda data: data[:-1], "longer": lambda data: data + b"x",
    "flipped": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:], "another": lambda data: b"PAR1" * (len(data) // 4),
}  # fmt: skip


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_leaf_is_told(damage: str) -> None:
    store, ds = made(30)
    leaf = state(ds).leaves[1]
    data = DAMAGES[damage](store.get(leaf.key))
    store.delete([leaf.key]) if data is None else store.put(leaf.key, data)
    broken = opened(store)
    for act in (
        lambda: values(broken), lambda: broken[:].row_ids, lambda: broken.verify(), lambda: broken.pop(0), lambda: broken.compact(),
    ):  # fmt: skip
        with pytest.raises(Corrupt, match="leaf manifest"):
            act()
    version = broken.version_id
    broken.extend({"x": [1]})
    broken.commit()
    assert broken.version_id != version, "new rows can be kept: no leaf is needed for that"


@pytest.mark.usefixtures("_small")
def test_a_leaf_of_another_version_is_not_taken_for_it() -> None:
    store, ds = made(30)
    one, other = state(ds).leaves[:2]
    store.put(one.key, store.get(other.key))
    with pytest.raises(Corrupt, match="leaf manifest"):
        values(opened(store))


# -- several writers ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_small")
def test_two_handles_that_spill_at_once_lose_nothing() -> None:
    store, one = made()
    other = opened(store)
    expected = []
    for i in range(40):
        for ds in (one, other) if i % 3 else (other, one):
            ds.extend({"x": [i, i]})
            ds.commit()
            expected += [i, i]
    checked(store, expected)
    assert opened(store).fsck(full=True)


@pytest.mark.usefixtures("_small")
def test_what_others_change_while_leaves_are_merged_or_folded_is_kept() -> None:
    store, one = made(12)
    other = opened(store)
    expected = list(range(36))
    for i in range(24):
        one.x[i] = -i
        one.commit()
        expected[i] = -i
        if i % 2:
            other.x[i + 1] = 1000 + i
            other.commit()
            expected[i + 1] = 1000 + i
        if i % 5 == 0:
            other.extend({"x": [i]})
            other.commit()
            expected.append(i)
        one.refresh()
        if i % 7 == 0:
            one.compact()
        checked(store, expected)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("op", ["append", "fold", "compact"])
def test_a_crash_anywhere_while_leaves_are_written(op: str, applied: bool) -> None:
    base, ds = made(19)
    ds.x[[0, 10, 20]] = [-1, -1, -1]
    ds.commit()
    before = values(ds)

    def act(ds: Any) -> None:
        if op == "append":
            append(ds, 1)
        elif op == "fold":
            ds.x[[30, 40]] = [-2, -2]
            ds.commit()
        else:
            ds.compact()

    done = copied(base)
    act(opened(done))
    after = values(opened(done))
    at = 0
    while True:
        inner = copied(base)
        handle = None
        try:
            handle = opened(Crashing(inner, at, applied=applied))
            act(handle)
        except Crash:
            if handle is not None:
                abandon(handle)
            found = values(opened(inner))
            assert found in (before, after)
            if found == before:
                act(opened(inner))
            checked(inner, after)
            at += 1
            continue
        break
    assert at > 5


@pytest.mark.usefixtures("_small")
def test_a_retry_writes_its_leaves_once() -> None:
    store, _ = made(4)
    others = iter([opened(store) for _ in range(3)])

    class Losing(Wrapped):
        def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
            if name == "put_if_absent" and key.startswith("log/") and (other := next(others, None)) is not None:
                other.x[0] = -1
                other.commit()
            return fn()

    counting = Counting(Losing(store))
    ds = opened(counting)
    ds.extend({"x": [12]})
    ds.commit()
    leaves_written = [k for n, k in counting.calls if n == "put" and k.startswith("meta/")]
    assert len(leaves_written) <= 4
    checked(store, [-1, *range(1, 13)])


# -- differences ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_small")
def test_differences_see_through_spills_merges_and_folds() -> None:
    store, ds = made(9)
    marks = [ds.commit("start", allow_empty=True)]
    changed: list[tuple[set[int], set[int], set[int]]] = []
    for i in range(12):
        n = len(ds)
        ids = ds[:].row_ids.tolist()
        ds.extend({"x": [1000 + i] * 3})
        ds.x[i] = -i - 1
        gone = ids[n - 1 - i]
        ds.flush()
        ds.pop(n - 1 - i)
        new = set(ds[:].row_ids.tolist()) - set(ids)
        marks.append(ds.commit(f"{i}"))
        changed.append((new, {ids[i]}, {gone}))
    for a in range(0, len(marks) - 1, 2):
        for b in range(a + 1, len(marks), 3):
            added, updated, deleted = (set().union(*(c[k] for c in changed[a:b])) for k in range(3))
            diff = ds.diff(marks[a], marks[b]).tensors["x"]
            assert set(diff.added.tolist()) == added - deleted
            assert set(diff.deleted.tolist()) == deleted - added
            assert set(diff.updated.tolist()) == updated - added - deleted
            back = ds.diff(marks[b], marks[a]).tensors["x"]
            assert set(back.added.tolist()) == deleted - added
            assert set(back.updated.tolist()) == updated - added - deleted
    assert opened(store).fsck(full=True)


# -- against a list -------------------------------------------------------------------------------------------------


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["append", "append", "append", "update", "delete", "flush", "compact", "reopen", "other", "compact by other"]
        ),
        st.integers(0, 10**6),
    ),
    min_size=10,
    max_size=60,
)


@pytest.fixture(scope="module")
def _small_for_all() -> Iterator[None]:
    """For hypothesis, which wants no fixture of a function."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(leaves, name, value)
        yield


@settings(max_examples=25)
@given(operations=OPERATIONS)
def test_random_histories_show_what_a_list_shows(_small_for_all: None, operations: list[tuple[str, int]]) -> None:  # noqa: PT019
    play(operations)


@pytest.mark.nightly
@settings(max_examples=1500)
@given(operations=OPERATIONS)
def test_many_random_histories_show_what_a_list_shows(_small_for_all: None, operations: list[tuple[str, int]]) -> None:  # noqa: PT019
    play(operations)


@pytest.mark.nightly
def test_long_random_histories_show_what_a_list_shows(_small_for_all: None) -> None:  # noqa: PT019
    names = ["append"] * 6 + ["update", "delete", "flush", "other", "reopen"]
    for seed in range(8):
        rng = random.Random(seed)
        play([(rng.choice(names), rng.randrange(10**6)) for _ in range(300)])


def play(operations: list[tuple[str, int]]) -> None:
    """Do it to a dataset and to a list."""
    store, ds = made(6)
    model = {i: i for i in range(18)}  # row id -> value
    versions: list[tuple[str, list[int]]] = []
    for step, (name, number) in enumerate(operations):
        ids = list(model)
        some = sorted({ids[(number * k) % len(ids)] for k in range(1, 1 + number % 4)}) if ids else []
        if name == "append":
            rows = 1 + number % 3
            ds.extend({"x": [number + k for k in range(rows)]})
            (ds.commit if number % 2 else ds.flush)()
            model |= dict(zip(ds[:].row_ids.tolist()[-rows:], range(number, number + rows), strict=True))
        elif name in ("update", "other") and some:
            handle = ds if name == "update" else opened(store)
            places = handle._writer.snapshot.present(np.array(some))
            handle.x[places.tolist()] = [number] * len(some)
            handle.flush()
            model |= dict.fromkeys(some, number)
        elif name == "delete" and some:
            ds.pop(ds._writer.snapshot.present(np.array(some)).tolist())
            for i in some:
                del model[i]
        elif name == "flush":
            versions.append((ds.commit(f"step {step}", allow_empty=True), list(model.values())))
        elif name == "compact":
            ds.compact()
        elif name == "compact by other":
            opened(store).compact()
        elif name == "reopen":
            ds = opened(store)
        ds.refresh()
        assert values(ds) == list(model.values()), step
    checked(store, list(model.values()))
    assert opened(store)[:].row_ids.tolist() == list(model)
    for version, expected in versions[-3:]:
        ds.checkout(version)
        assert values(ds) == expected
    assert opened(store).fsck()


@pytest.mark.usefixtures("_small")
def test_a_change_to_a_fragment_that_is_gone_is_a_conflict() -> None:
    from lakefmt.versioning.leaves import current

    _, ds = made(12)
    with pytest.raises(Conflict, match="are gone"):
        current(state(ds), ds._log.leaves, "no such fragment")
