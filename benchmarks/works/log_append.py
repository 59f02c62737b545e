"""Durable appends of ten rows, one version each, to datasets of few and of many versions.

lakefmt's ``flush`` returns once all that it wrote is on the disk; Lance and delta-rs make no fsync at all (strace
shows none). So there is a second figure, ``MADE_DURABLE``, with an fsync of each new file and of its folder after
the append; for lakefmt that is the append itself. Targets are judged by both.

Every contender appends by a handle that stays open, and is given rows in the form that it takes, made before the
clock starts. Appends to the short and the long logs take turns within a process, so that their ratio is of the
same minute.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.model import SUBJECT, Contender, Measure, Sample, Target, Task, lookup
from benchmarks.timing import copied, folder_state, fresh, fsync_paths

TITLE = "Durable appends of ten rows, at 1, 1,000 and 10,000 versions"
DATA: tuple[str, ...] = ()
ROWS = 10
SHORT, MIDDLE, LONG = 1, 1_000, 10_000
SMALL = {SHORT: 1, MIDDLE: 50, LONG: 200}
"""Versions in a small run."""
APPENDS = 120
"""Appends timed at each length: enough for what a writer does once in some dozens of commits to show in the mean."""
SMALL_APPENDS = 10
APPENDS_SHORT = 6
"""Appends timed on one dataset of one version before it is no longer short, and the next one is taken."""
APPENDS_DURABLE = 40

MADE_DURABLE = "ms with fsync of all"
MIDDLE_TO_SHORT = "1,000 to 1"
LONG_TO_SHORT = "10,000 to 1"

MEASURES = (
    Measure(
        "append",
        "Milliseconds for a durable append of 10 rows at 1,000 versions, median of 120",
        "ms",
        False,
        (
            Contender(SUBJECT, "`ds.extend({'x': ..., 'text': ...}); ds.flush()` on an open handle; fsynced", role="subject"),
            Contender("lance", "`ds = write_dataset(table, ds, mode='append')` on an open handle; no fsync", "lance"),
            Contender("delta", "`write_deltalake(table, rows, mode='append')` on an open DeltaTable; no fsync", "delta"),
        ),
        (
            Target("at 1,000 versions within 1.3 of at 1", "number", at_most=1.3, fact=MIDDLE_TO_SHORT),
            Target("at 10,000 versions within 1.3 of at 1", "number", at_most=1.3, fact=LONG_TO_SHORT),
            Target("faster than Lance until each says it is done", "lance", at_most=1.0),
            Target("faster than Lance until all is durable", "lance", at_most=1.0, fact=MADE_DURABLE),
            Target("faster than delta-rs until each says it is done", "delta", at_most=1.0),
            Target("faster than delta-rs until all is durable", "delta", at_most=1.0, fact=MADE_DURABLE),
        ),
    ),
)

Append = Callable[[Any], None]


@dataclass(frozen=True)
class Way:
    """How a contender appends, and how its dataset is looked at afresh."""

    rows: Callable[[int], Any]
    """Ten rows from a number on, in the form that it takes."""
    opened: Callable[[Path], Append]
    """An append by a handle on the dataset, which is made if it is not there."""
    numbers: Callable[[Path, int], list[int]]
    """What the column ``x`` holds from a row on."""
    versions: Callable[[Path], list[int]]
    """The numbers of all versions, oldest first."""
    before: int
    """Versions there before the first append."""


def texts(first: int) -> list[str]:
    return [f"a short text, number {i}" for i in range(first, first + ROWS)]


def rows_lakefmt(first: int) -> dict[str, Any]:
    return {"x": np.arange(first, first + ROWS), "text": texts(first)}


def open_lakefmt(path: Path) -> Append:
    import lakefmt

    ds = lakefmt.dataset(str(path))
    if "x" not in ds.tensors:
        ds.create_tensor("x", dtype="int64", shape=())
        ds.create_tensor("text", htype="text")

    def append(rows: Any) -> None:
        ds.extend(rows)
        ds.flush()

    return append


def numbers_lakefmt(path: Path, first: int) -> list[int]:
    import lakefmt

    numbers: list[int] = lakefmt.load(str(path), read_only=True).x[first:].numpy().tolist()
    return numbers


def versions_lakefmt(path: Path) -> list[int]:
    import lakefmt

    return [head.v for head in lakefmt.load(str(path), read_only=True).history()][::-1]


def rows_arrow(first: int) -> Any:
    import pyarrow as pa

    return pa.table({"x": pa.array(range(first, first + ROWS), pa.int64()), "text": texts(first)})


def open_lance(path: Path) -> Append:
    import lance

    ds: Any = lance.dataset(str(path)) if path.exists() else str(path)

    def append(rows: Any) -> None:
        nonlocal ds
        ds = lance.write_dataset(rows, ds, mode="create" if isinstance(ds, str) else "append")

    return append


def numbers_lance(path: Path, first: int) -> list[int]:
    import lance

    numbers: list[int] = lance.dataset(str(path)).to_table(columns=["x"], offset=first)["x"].to_pylist()
    return numbers


def versions_lance(path: Path) -> list[int]:
    import lance

    return [v["version"] for v in lance.dataset(str(path)).versions()]


def open_delta(path: Path) -> Append:
    import deltalake

    table: Any = deltalake.DeltaTable(str(path)) if path.exists() else None

    def append(rows: Any) -> None:
        nonlocal table
        if table is None:
            deltalake.write_deltalake(str(path), rows)
            table = deltalake.DeltaTable(str(path))
        else:
            deltalake.write_deltalake(table, rows, mode="append")

    return append


def numbers_delta(path: Path, first: int) -> list[int]:
    """Delta keeps no order of rows."""
    import deltalake

    column = deltalake.DeltaTable(str(path)).to_pyarrow_table(columns=["x"])["x"]
    return sorted(column.to_pylist())[first:]


def versions_delta(path: Path) -> list[int]:
    import deltalake

    return sorted(entry["version"] for entry in deltalake.DeltaTable(str(path)).history())


WAYS = {
    SUBJECT: Way(rows_lakefmt, open_lakefmt, numbers_lakefmt, versions_lakefmt, before=3),
    "lance": Way(rows_arrow, open_lance, numbers_lance, versions_lance, before=0),
    "delta": Way(rows_arrow, open_delta, numbers_delta, versions_delta, before=0),
}


def lengths(name: str, small: bool) -> dict[int, int]:
    """What a contender is measured at: the lengths told of, and those made. Peers have no long log."""
    told = (SHORT, MIDDLE, LONG) if name == SUBJECT else (SHORT, MIDDLE)
    return {n: SMALL[n] if small else n for n in told}


@contextmanager
def unsynced() -> Iterator[None]:
    """No fsync by this Python: for making a dataset to measure on, where durability is nobody's concern."""
    fsync = os.fsync
    os.fsync = lambda fd: None
    try:
        yield
    finally:
        os.fsync = fsync


def write(task: Task) -> None:
    way = lookup(WAYS, task.contender)
    with unsynced():
        for told, made in lengths(task.contender, task.small).items():
            append = way.opened(task.store_dir / str(told))
            for i in range(made):
                append(way.rows(i * ROWS))


class Copies:
    """Copies of a kept dataset, to be appended to and thrown away; most need only one."""

    def __init__(self, way: Way, kept: Path, appends: int, copies: int) -> None:
        self.way = way
        self.paths = [copied(kept, kept.parent.with_name(f"{kept.parent.name}-copy-{kept.name}-{i}")) for i in range(copies)]
        self.handles = [way.opened(path) for path in self.paths]
        self.begin = appends
        self.done = [appends] * copies
        for i in range(copies):
            self.append(i)  # not timed: a handle's first append finds folders and definitions

    def append(self, i: int) -> float:
        """Append to copy i; the answer is in milliseconds."""
        rows = self.way.rows(self.done[i] * ROWS)
        start = time.perf_counter()
        self.handles[i](rows)
        took = time.perf_counter() - start
        self.done[i] += 1
        return took * 1000

    def check(self) -> None:
        """Every append made its version, and its rows are there, as a fresh look tells."""
        for path, done in zip(self.paths, self.done, strict=True):
            check_versions(self.way.versions(path), done + self.way.before)
            first = self.begin * ROWS
            if self.way.numbers(path, first) != list(range(first, done * ROWS)):
                raise AssertionError(f"not all of the {done - self.begin} appends left their rows")

    def drop(self) -> None:
        for path in self.paths:
            fresh(path)


def check_versions(numbers: list[int], count: int) -> None:
    """Versions must be as many as were made, and dense."""
    if not numbers or numbers != list(range(numbers[0], numbers[0] + count)):
        raise AssertionError(f"{len(numbers)} versions up to {max(numbers, default=-1)}, not {count} dense ones")


@contextmanager
def counted_syncs() -> Iterator[list[int]]:
    """What this Python fsyncs meanwhile, by number."""
    fsync = os.fsync
    counted: list[int] = []

    def count(fd: Any) -> None:
        counted.append(fd)
        fsync(fd)

    os.fsync = count
    try:
        yield counted
    finally:
        os.fsync = fsync


def durable_ms(log: Copies, ours: bool, appends: int) -> tuple[list[float], float]:
    """Milliseconds of appends with an fsync of what is new after each, and how many fsyncs an append had.

    lakefmt makes them itself: there, its own are counted, and nothing is added.
    """
    if ours:
        with counted_syncs() as counted:
            took = [log.append(0) for _ in range(appends)]
        return took, len(counted) / appends
    took, syncs = [], 0
    for _ in range(appends):
        before = folder_state(log.paths[0])
        ms = log.append(0)
        after = folder_state(log.paths[0])
        new = [path for path, seen in after.items() if before.get(path) != seen]
        places = [*new, *sorted({os.path.dirname(path) for path in new})]
        start = time.perf_counter()
        fsync_paths(places)
        took.append(ms + (time.perf_counter() - start) * 1000)
        syncs += len(places)
    return took, syncs / appends


def measure(task: Task) -> Sample:
    way = lookup(WAYS, task.contender)
    ours = task.contender == SUBJECT
    appends = SMALL_APPENDS if task.small else APPENDS
    copies = -(-appends // APPENDS_SHORT)
    logs = {
        told: Copies(way, task.store_dir / str(told), made, copies if told == SHORT else 1)
        for told, made in lengths(task.contender, task.small).items()
    }
    took: dict[int, list[float]] = {told: [] for told in logs}
    os.sync()
    for k in range(appends):
        for told, log in logs.items():
            took[told].append(log.append(k // APPENDS_SHORT if told == SHORT else 0))
    durable, syncs = durable_ms(logs[MIDDLE], ours, SMALL_APPENDS if task.small else APPENDS_DURABLE)
    if ours and syncs < 1:
        raise AssertionError(f"{syncs} fsyncs an append: that is not durable")
    for log in logs.values():
        log.check()
        log.drop()
    median = {told: statistics.median(ms) for told, ms in took.items()}
    facts: dict[str, float | str] = {
        MADE_DURABLE: statistics.median(took[MIDDLE] if ours else durable),
        "fsyncs": syncs,
        "mean": statistics.mean(took[MIDDLE]),
        "slowest": max(took[MIDDLE]),
        "at 1 version": median[SHORT],
        MIDDLE_TO_SHORT: median[MIDDLE] / median[SHORT],
    }
    if LONG in median:
        facts |= {"at 10,000 versions": median[LONG], LONG_TO_SHORT: median[LONG] / median[SHORT]}
    return Sample(median[MIDDLE], took[MIDDLE], "ms per append", facts)
