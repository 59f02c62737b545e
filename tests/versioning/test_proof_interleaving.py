"""However the storage calls of two or three transactions interleave, those acknowledged have happened one after the other."""


from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pytest
from faulty_stores import Wrapped, abandon, memory, opened

from lakefmt.dataset import Dataset
from lakefmt.errors import AlreadyExists, Conflict, InvalidInput, LakeError, NotFound
from lakefmt.fragment.read import FileReader
from lakefmt.merge import Replay
from lakefmt.snapshot import Snapshot
from lakefmt.storage import MemoryStore, Store
from lakefmt.versioning import log as log_module
from lakefmt.versioning import names, refs
from lakefmt.versioning.leaves import Tree
from lakefmt.versioning.log import Log
from lakefmt.versioning.names import delete_branch, squash_branch
from lakefmt.versions import Versioned

T = TypeVar("T")

_DAY_S = 24 * 3600.0
#: Seconds without any progress after which the watchdog calls it a deadlock.
_STUCK_S = 30.0


class Stopped(BaseException):
    """The schedule was given up; threads that wait for their turn end here."""


class Serial(Executor):
    """Does at once, in the calling thread, what a pool would do in others: so that every call has its place in the schedule."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def map(self, fn: Any, *iterables: Any, **_: Any) -> Any:
        return [fn(*args) for args in zip(*iterables, strict=False)]


@pytest.fixture(autouse=True)
def _one_thread_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (log_module, refs):
        monkeypatch.setattr(module.time, "sleep", lambda _: None)
    monkeypatch.setattr(log_module, "ThreadPoolExecutor", Serial)
    _unlocked(monkeypatch)


def _unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python before 3.12 computes a cached property under a lock that all objects of the class share: a thread that waits there for
    its turn would keep the others from calling. No handle is shared by threads here, so that the lock protects nothing.
    """
    for owner in (Snapshot, Tree, Replay, Versioned, FileReader):
        for found in vars(owner).values():
            if isinstance(found, cached_property) and hasattr(found, "lock"):
                monkeypatch.setattr(found, "lock", contextlib.nullcontext())


class Schedule:
    """Lets one storage call proceed at a time, of the thread that a seed draws."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._stay = self._random.choice([0.0, 0.5, 0.9])  # how likely a thread goes on: from a fine mix to long runs
        self._turn = threading.Condition()
        self._me = threading.local()
        self._waiting: set[int] = set()
        self._live: set[int] = set()
        self._granted: int | None = None
        self._stopped = False
        self.calls: list[tuple[int, str, str]] = []

    def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
        me = getattr(self._me, "number", None)
        if me is None:
            return fn()
        with self._turn:
            self._waiting.add(me)
            self._turn.notify_all()
            while self._granted != me and not self._stopped:
                self._turn.wait()
            if self._stopped:
                raise Stopped
            self._waiting.discard(me)
            self._granted = None
            self.calls.append((me, name, key))
        return fn()

    def run(self, tasks: Sequence[Callable[[], Any]]) -> list[BaseException | None]:
        """Run tasks in threads of their own to the end.

        Returns:
            What each raised.
        """
        raised: list[BaseException | None] = [None] * len(tasks)
        self._live = set(range(len(tasks)))

        def work(number: int) -> None:
            self._me.number = number
            try:
                tasks[number]()
            except BaseException as e:
                raised[number] = e
            with self._turn:
                self._live.discard(number)
                self._turn.notify_all()

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(len(tasks))]
        for thread in threads:
            thread.start()
        try:
            self._steer()
        finally:
            with self._turn:
                self._stopped = True
                self._turn.notify_all()
        for thread in threads:
            thread.join(_STUCK_S)
        return raised

    def _steer(self) -> None:
        last: int | None = None
        with self._turn:
            while self._live:
                quiet = self._turn.wait_for(lambda: self._granted is None and self._waiting >= self._live, _STUCK_S)
                assert quiet, f"deadlock: {self._live - self._waiting} neither call nor end; last calls {self.calls[-6:]}"
                if not self._live:
                    return
                if last not in self._waiting or self._random.random() >= self._stay:
                    last = self._random.choice(sorted(self._waiting))
                self._granted = last
                self._turn.notify_all()


class Scheduled(Wrapped):
    """A store whose calls wait for their turn."""

    def __init__(self, inner: Store, schedule: Schedule) -> None:
        super().__init__(inner)
        self.schedule = schedule

    def call(self, name: str, key: str, fn: Callable[[], T]) -> T:
        return self.schedule.call(name, key, fn)


# -- the dataset, two days old -------------------------------------------------------------------------------------------


def _base() -> MemoryStore:
    """A branch ``dev`` with short and full tensors, deletions, updates, inline rows; a branch ``other`` of it with its own work."""
    store = memory()
    with pytest.MonkeyPatch.context() as patch:
        for module in (log_module, names):
            patch.setattr(module, "now_ms", lambda: int((time.time() - 2 * _DAY_S) * 1000))
        _fill_base(store)
    for key, (data, modified_s) in [*store._objects.items()]:
        store._objects[key] = (data, modified_s - 2 * _DAY_S)
    return store


def _fill_base(store: MemoryStore) -> None:
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int32")
    ds.create_tensor("c", htype="class_label")
    ds.create_tensor("late", dtype="int64")
    ds.append({"x": 0, "c": "zero"}, skip_ok=True)
    ds.commit("start")
    ds.checkout("dev", create=True)
    ds.extend({"x": np.arange(1, 6), "c": ["one"] * 5}, skip_ok=True)
    ds.commit("more")
    ds.extend({"x": np.arange(6, 10), "c": ["two"] * 4}, skip_ok=True)
    ds.c[2] = "four"
    ds.flush()
    ds.pop(4)
    ds.append({"x": 50, "c": "two"}, skip_ok=True)
    ds.flush()
    ds.create_branch("other")
    other = opened(store, branch="other")
    other.append({"x": 60, "c": "sixty"}, skip_ok=True)
    other.c[_rows(other, 5)] = ["five"]
    other.pop(_rows(other, 2))
    other.commit("on other")
    ds.c[0] = "six"
    ds.flush()
    ds.info["made"] = "here"


def _copied(store: MemoryStore) -> MemoryStore:
    """The same objects, as old, at another place."""
    copy = memory()
    copy._objects.update(store._objects)
    return copy


@pytest.fixture(scope="module")
def base() -> MemoryStore:
    """Copied for each schedule."""
    return _base()


# -- transactions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Op:
    """A transaction on a handle on ``dev``; it chooses rows by what they hold, so that it means the same wherever they lie."""

    name: str
    do: Callable[[Dataset], Any]


def _rows(ds: Dataset, *values: int) -> list[int]:
    return [i for i, v in enumerate(ds.x.numpy().tolist()) if v in values]


def _label(ds: Dataset) -> str:
    """The label tensor, which may have been renamed."""
    return "c" if "c" in ds.tensors else "label"


def _append(ds: Dataset) -> None:
    ds.append({"x": 100, _label(ds): "one"}, skip_ok=True)
    ds.flush()


def _commit(ds: Dataset) -> None:
    ds.append({"x": 101, _label(ds): "brand new"}, skip_ok=True)
    ds.commit("appended")


def _update(ds: Dataset) -> None:
    rows = _rows(ds, 3, 8, 5)
    ds[_label(ds)][rows] = ["newer"] * len(rows)
    ds.flush()


def _fill(ds: Dataset) -> None:
    ds.late.extend([v * 10 for v in ds.x.numpy().tolist() if v < 100 and v != 60])
    ds.flush()


def _append_other(ds: Dataset) -> None:
    other = opened(ds._log.store, branch="other")
    other.append({"x": 61, "c": "one"}, skip_ok=True)
    try:
        other.flush()
    finally:
        abandon(other)  # what was refused is not tried again when the handle goes


def _unnamed(ds: Dataset) -> str:
    """An old version of ``dev`` that nothing keeps."""
    return f"{ds.version_id.rpartition('-')[0]}-2"


OPS = [
    Op("append", _append),
    Op("commit", _commit),
    Op("update", _update),
    Op("pop", lambda ds: ds.pop(_rows(ds, 3, 7, 50))),
    Op("create_tensor", lambda ds: ds.create_tensor("new", dtype="int8")),
    Op("fill", _fill),
    Op("compact", lambda ds: ds.compact()),
    Op("rename", lambda ds: ds.rename_tensor("c", "label")),
    Op("widen", lambda ds: ds.alter_tensor("x", dtype="int64")),
    Op("restore", lambda ds: ds.restore("main")),
    Op("restore old", lambda ds: ds.restore(_unnamed(ds))),
    Op("tag", lambda ds: ds.tag("now")),
    Op("tag old", lambda ds: ds.tag("then", _unnamed(ds))),
    Op("create_branch", lambda ds: ds.create_branch("new")),
    Op("create_branch old", lambda ds: ds.create_branch("new", _unnamed(ds))),
    Op("rename_branch", lambda ds: ds.rename_branch("other", "another")),
    Op("delete other", lambda ds: ds.delete_branch("other")),
    Op("delete dev", lambda ds: delete_branch(ds._log, "dev")),
    Op("merge", lambda ds: ds.merge("other", "theirs")),
    Op("expire", lambda ds: ds.expire(older_than=0)),
    Op("squash other", lambda ds: squash_branch(ds._log, "other", None)),
    Op("append to other", _append_other),
    Op("branch of other", lambda ds: ds.create_branch("child", "other")),
]
#: Operations that, done twice, have simply been done.
_ONCE = frozenset({"delete other", "delete dev", "tag", "tag old", "rename_branch"})
_BY_NAME = {op.name: op for op in OPS}
#: Who deletes a branch means the branch, also when it gets another name just then: both are acknowledged, and it is gone.
_BY_IDENTITY = {"rename_branch", "delete other"}
_PAIRS = [p for p in itertools.combinations_with_replacement(OPS, 2) if {p[0].name, p[1].name} != _BY_IDENTITY]
_TRIPLES = [
    tuple(_BY_NAME[n] for n in names)
    for names in (
        ("append", "update", "compact"), ("update", "pop", "compact"), ("append", "fill", "rename"), ("tag", "append", "expire"),
        ("merge", "pop", "append"), ("merge", "expire", "compact"), ("tag old", "expire", "expire"), ("commit", "commit", "commit"),
        ("create_branch old", "expire", "append"), ("restore", "append", "append"), ("delete dev", "append", "commit"),
        ("merge", "delete other", "update"), ("rename_branch", "merge", "expire"), ("widen", "update", "append"),
        ("create_tensor", "create_tensor", "append"), ("squash other", "append to other", "merge"),
        ("restore old", "expire", "update"),
    )
]  # fmt: skip


def _contents(ds: Dataset) -> Any:
    """Samples by name (labels by their text), and what is known of the tensors."""
    rows: dict[str, Any] = {}
    for name, tensor in sorted(ds.tensors.items()):
        values = [None if v is None else v.tolist() for v in tensor.numpy(aslist=True)]
        rows[name] = [None if v is None else tensor.class_names[v] for v in values] if tensor.class_names else values
    return rows, {n: (t.htype, str(t.dtype)) for n, t in sorted(ds.tensors.items())}, dict(ds.info)


def _seen(store: Store) -> dict[str, Any]:
    """All branches and tags, and what they hold."""
    log = Log.open(store)
    out = {f"branch {b.name}": _contents(opened(store, branch=b.name)) for b in log.refs.branches()}
    return out | {f"tag {t.name}": _contents(opened(store, branch=t.name)) for t in log.refs.tags()}


_serial: dict[tuple[str, ...], dict[str, Any] | None] = {}


def _one_after_the_other(base: MemoryStore, order: Sequence[Op]) -> dict[str, Any] | None:
    """What is there after some operations in turn; ``None`` where one of them cannot be done after those before it."""
    key = tuple(op.name for op in order)
    if key not in _serial:
        store = _copied(base)
        handles = [opened(store, branch="dev") for _ in order]
        try:
            for ds, op in zip(handles, order, strict=True):
                if "branch dev" in _seen(store):
                    ds.refresh()
                op.do(ds)
            _serial[key] = _seen(store)
        except LakeError:
            _serial[key] = None
            for ds in handles:
                abandon(ds)
    return _serial[key]


def _sound(store: Store) -> None:
    numbers: dict[str, list[int]] = {}
    for entry in store.list("log/"):
        if entry.key.endswith(".json"):
            _, branch, name = entry.key.split("/")
            numbers.setdefault(branch, []).append(int(name[:-5]))
    assert all(sorted(n) == list(range(len(n))) for n in numbers.values()), "a log is not dense"
    log = Log.open(store)
    for branch, found in numbers.items():
        transactions = [h.transaction for h in log.heads(branch, sorted(found))]
        assert len(set(transactions)) == len(transactions), "a transaction has landed twice"
    report = opened(store).fsck(full=True)
    assert report, repr(report)


def play(base: MemoryStore, ops: Sequence[Op], seed: int) -> None:
    """One schedule."""
    store = _copied(base)
    schedule = Schedule(seed)
    handles = [opened(Scheduled(store, schedule), branch="dev") for _ in ops]
    tasks = [lambda op=op, ds=ds: op.do(ds) for op, ds in zip(ops, handles, strict=True)]
    raised = schedule.run(tasks)
    what = f"seed {seed}: {', '.join(op.name for op in ops)}: {raised}"
    for error, ds in zip(raised, handles, strict=True):
        abandon(ds)
        if error is not None:
            assert isinstance(error, (Conflict, AlreadyExists, NotFound, InvalidInput)), what
    _sound(store)
    done = [op for op, error in zip(ops, raised, strict=True) if error is None]
    done = [op for i, op in enumerate(done) if op not in done[:i] or op.name not in _ONCE]
    found = _seen(store)
    orders = [_one_after_the_other(base, order) for order in itertools.permutations(done)]
    assert found in orders, f"{what}: what is there is not what any order leads to"


@pytest.mark.parametrize("first", OPS, ids=[op.name for op in OPS])
def test_pairs_happen_one_after_the_other(base: MemoryStore, first: Op) -> None:
    for i, pair in enumerate(p for p in _PAIRS if p[0] is first):
        play(base, pair, i)


def test_triples_happen_one_after_the_other(base: MemoryStore) -> None:
    for i, triple in enumerate(_TRIPLES):
        play(base, triple, i)


def test_a_schedule_is_the_same_for_the_same_seed(base: MemoryStore) -> None:
    made = []
    for _ in range(2):
        schedule = Schedule(5)
        store = Scheduled(_copied(base), schedule)
        handles = [opened(store, branch="dev") for _ in range(2)]
        schedule.run([lambda ds=ds: _append(ds) for ds in handles])
        made.append([(me, name) for me, name, _ in schedule.calls])
    assert made[0] == made[1]
    assert len({me for me, _ in made[0]}) == 2


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_many_schedules(base: MemoryStore) -> None:
    played = 0
    wrong: dict[str, str] = {}
    for seed in range(40):
        for ops in (*_PAIRS, *_TRIPLES):
            played += 1
            try:
                play(base, ops, seed)
            except AssertionError as error:
                wrong.setdefault(", ".join(op.name for op in ops), str(error))
    print(f"{played} schedules")
    assert not wrong, "\n".join(wrong.values())
    assert played >= 40 * (276 + 17)
