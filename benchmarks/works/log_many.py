"""A dataset of 10,000 versions and 100,000 fragments: opening it, adding to it, its log, and a diff.

Writing so many fragments of rows would say nothing of the log, so one fragment is written and listed many times,
each time under an id of its own: ten a version for lakefmt, 20,000 a version for Lance, which has few versions
then (and so less to list when it opens). All files are in the page cache; starting Python and imports are not
counted.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.model import SUBJECT, Contender, Measure, Sample, Target, Task, lookup
from benchmarks.timing import copied, folder_state, fresh
from benchmarks.works.log_append import ROWS, WAYS, check_versions, open_lakefmt, unsynced

TITLE = "A log of 10,000 versions and 100,000 fragments"
DATA: tuple[str, ...] = ()
COMMITS = 10_000
SMALL_COMMITS = 100
EACH = 10
"""Fragments a commit."""
LANCE_COMMITS = 5
SEED_APPENDS = (10, 100, 1_000)
"""Appends buffered for the one fragment that is written: as few as give it a file of its own."""

OPENS = 25
SMALL_OPENS = 5
APPENDS = 100
"""Enough for what a writer does once in some dozens of commits to show in the mean and in the most bytes."""
LANCE_APPENDS = 20
SMALL_APPENDS = 5
HISTORIES = 5
DIFFS = 11

KB_BESIDES = "KB besides the data"
WITH_SAMPLE = "with the first sample"
AGAIN = "again by the same handle"
EARLIER = "of two in the middle"

OURS = Contender(SUBJECT, "`lakefmt.load(path)`, `len(ds)`; then `ds.x[0].numpy()`", role="subject")

MEASURES = (
    Measure(
        "open",
        "Milliseconds to open the newest version and tell its rows, median of 25 fresh handles",
        "ms",
        False,
        (
            OURS,
            Contender("lance", "`lance.dataset(uri)`, `version`, `count_rows()`; then `take([0], columns=['x'])`", "lance"),
        ),
        (
            Target("below 10 ms", "number", at_most=10),
            Target("10 times as fast as Lance", "lance", at_most=0.1),
        ),
    ),
    Measure(
        "append",
        "Milliseconds for a small commit (10 rows) to 100,000 fragments, median",
        "ms",
        False,
        (
            Contender(SUBJECT, "`ds.extend(...)`, `ds.flush()` on an open handle; fsynced", role="subject"),
            Contender("lance", "`ds = write_dataset(table, ds, mode='append')` on an open handle; no fsync", "lance"),
        ),
        (
            Target("20 times as fast as Lance", "lance", at_most=0.05),
            Target("below 64 KB besides the data", "number", at_most=64, fact=KB_BESIDES),
        ),
    ),
    Measure(
        "history",
        "Seconds for the log of 10,000 versions",
        "s",
        False,
        (Contender(SUBJECT, "`list(ds.history())` by a fresh handle", role="subject"),),
        (Target("below one second", "number", at_most=1.0),),
    ),
    Measure(
        "diff",
        "Milliseconds for the diff of the newest version and the one before it, among 100,000 fragments",
        "ms",
        False,
        (Contender(SUBJECT, "`ds.diff(a, b)`, the first by a handle that is open", role="subject"),),
        (Target("below 50 ms", "number", at_most=50),),
    ),
)


def commits_of(task: Task) -> int:
    return SMALL_COMMITS if task.small else COMMITS


def seed(path: Path) -> tuple[Any, int]:
    """A dataset with one fragment that lies in files of its own, and how many appends it holds.

    Few rows may be stored in the version object itself, where no other version can list them: then more are
    taken.
    """
    import lakefmt

    for appends in SEED_APPENDS:
        open_lakefmt(fresh(path))
        ds = lakefmt.dataset(str(path))
        for i in range(appends):
            ds.extend(WAYS[SUBJECT].rows(i * ROWS))
        ds.flush()
        (fragment,) = ds._writer.version.state.fragments
        if not getattr(fragment, "inlined", False):
            return ds, appends
    raise AssertionError(f"{SEED_APPENDS[-1] * ROWS} rows do not get a file of their own")


def write_lakefmt(path: Path, commits: int) -> None:
    from msgspec.structs import replace

    from lakefmt.versioning.changes import Append, Change
    from lakefmt.versioning.log import Transaction

    ds, appends = seed(path)
    log, version = ds._log, ds._writer.version
    (fragment,) = version.state.fragments

    def transaction() -> Transaction:
        changes: list[Change] = [Append(replace(fragment, id=uuid4().hex)) for _ in range(EACH)]
        return Transaction(lambda state: changes)

    for _ in range(commits):
        version = log.commit(version, transaction())
    path.with_name(path.name + ".rows").write_text(str(appends * ROWS))


def write_lance(path: Path, commits: int) -> None:
    import lance
    from lance.fragment import write_fragments

    rows = WAYS["lance"].rows(0)
    ds = lance.write_dataset(rows, str(path))
    (fragment,) = write_fragments(rows, str(path))
    for _ in range(LANCE_COMMITS):
        operation = lance.LanceOperation.Append([fragment] * (commits * EACH // LANCE_COMMITS))
        ds = lance.LanceDataset.commit(ds, operation, read_version=ds.version)
    path.with_name(path.name + ".rows").write_text(str(ROWS))


WRITERS: dict[str, Callable[[Path, int], None]] = {SUBJECT: write_lakefmt, "lance": write_lance}


def write(task: Task) -> None:
    with unsynced():
        lookup(WRITERS, task.contender)(task.store_dir / "dataset", commits_of(task))


def rows_of(task: Task) -> int:
    """Rows of the whole dataset, as written: the fragments listed, and the one at the beginning."""
    each = int((task.store_dir / "dataset.rows").read_text())
    return each * (commits_of(task) * EACH + 1)


# -- open ---------------------------------------------------------------------------------------------------------


def open_and_count_lakefmt(path: str) -> tuple[Any, int]:
    import lakefmt

    ds = lakefmt.load(path)
    return ds, len(ds)


def open_and_count_lance(path: str) -> tuple[Any, int]:
    import lance

    ds = lance.dataset(path)
    assert ds.version
    return ds, int(ds.count_rows())


OPENERS: dict[str, tuple[Callable[[str], tuple[Any, int]], Callable[[Any], int]]] = {
    SUBJECT: (open_and_count_lakefmt, lambda ds: int(ds.x[0].numpy())),
    "lance": (open_and_count_lance, lambda ds: int(ds.take([0], columns=["x"])["x"][0].as_py())),
}


def import_of(name: str) -> None:
    """Import what opening needs."""
    __import__(name)


def measure_open(task: Task) -> Sample:
    import_of(task.contender)
    opened, first_sample = lookup(OPENERS, task.contender)
    path, wanted = str(task.store_dir / "dataset"), rows_of(task)
    took: list[float] = []
    with_sample: list[float] = []
    for k in range(2 * (SMALL_OPENS if task.small else OPENS)):
        start = time.perf_counter()
        ds, rows = opened(path)
        if k % 2:
            sample = first_sample(ds)
            with_sample.append((time.perf_counter() - start) * 1000)
            if sample != 0:
                raise AssertionError(f"the first sample is {sample}, not 0")
        else:
            took.append((time.perf_counter() - start) * 1000)
        del ds  # letting go of a handle is no part of opening the next
        if rows != wanted:
            raise AssertionError(f"{rows} rows are there, not {wanted}")
    facts: dict[str, float | str] = {
        WITH_SAMPLE: statistics.median(with_sample[1:]),
        "the process's first": took[0],
        "fragments": commits_of(task) * EACH + 1,
        "MB besides the data": sum(seen[0] for seen in besides_data(Path(path)).values()) / 1e6,
    }
    return Sample(statistics.median(took[1:]), took[1:], "ms per open", facts)


# -- append -------------------------------------------------------------------------------------------------------


def besides_data(path: Path) -> dict[str, tuple[int, int, int]]:
    """All files but those of rows: lakefmt's and Lance's folders of them have the same name."""
    return {p: seen for p, seen in folder_state(path).items() if Path(p).relative_to(path).parts[0] not in ROW_FOLDERS}


ROW_FOLDERS = frozenset({"data", "overlays", "dv"})


def measure_append(task: Task) -> Sample:
    way = lookup(WAYS, task.contender)
    path = copied(task.store_dir / "dataset", task.store_dir.with_name(task.store_dir.name + "-copy"))
    before = len(way.versions(path)) if task.contender == SUBJECT else 0
    stored = rows_of(task)
    append = way.opened(path)
    appends = SMALL_APPENDS if task.small else APPENDS if task.contender == SUBJECT else LANCE_APPENDS
    append(way.rows(stored))
    took: list[float] = []
    os.sync()
    for k in range(1, appends + 1):
        rows = way.rows(stored + k * ROWS)
        start = time.perf_counter()
        append(rows)
        took.append((time.perf_counter() - start) * 1000)
    kilobytes: list[float] = []
    for k in range(appends + 1, 2 * appends + 1):
        there = besides_data(path)
        append(way.rows(stored + k * ROWS))
        now = besides_data(path)
        kilobytes.append(sum(seen[0] for p, seen in now.items() if there.get(p) != seen) / 1e3)
    made = 2 * appends + 1
    if way.numbers(path, stored) != list(range(stored, stored + made * ROWS)):
        raise AssertionError(f"not all of the {made} appends left their rows")
    if task.contender == SUBJECT:
        check_versions(way.versions(path), before + made)
    fresh(path)
    facts: dict[str, float | str] = {
        KB_BESIDES: statistics.median(kilobytes),
        "most KB besides": max(kilobytes),
        "mean": statistics.mean(took),
        "slowest": max(took),
        "appends": appends,
    }
    return Sample(statistics.median(took), took, "ms per append", facts)


# -- log and diff -------------------------------------------------------------------------------------------------


def measure_history(task: Task) -> Sample:
    import lakefmt

    path = str(task.store_dir / "dataset")
    took: list[float] = []
    numbers: list[int] = []
    for _ in range(1 if task.small else HISTORIES):
        ds = lakefmt.load(path)
        start = time.perf_counter()
        heads = list(ds.history())
        took.append(time.perf_counter() - start)
        numbers = [head.v for head in heads]
        check_versions(numbers[::-1], commits_of(task) + WAYS[SUBJECT].before + 1)
    return Sample(statistics.median(took), took, "s per log", {"versions": len(numbers)})


def measure_diff(task: Task) -> Sample:

    path = str(task.store_dir / "dataset")
    fragment_rows = rows_of(task) // (commits_of(task) * EACH + 1)

    def timed(ds: Any, below_head: int) -> float:
        branch, _, number = ds.version_id.rpartition("-")
        newer = int(number) - below_head
        start = time.perf_counter()
        diff = ds.diff(f"{branch}-{newer - 1}", f"{branch}-{newer}")
        ms = (time.perf_counter() - start) * 1000
        counts = {name: (len(d.added), len(d.updated), len(d.deleted)) for name, d in diff.tensors.items()}
        if counts != dict.fromkeys(("x", "text"), (EACH * fragment_rows, 0, 0)):
            raise AssertionError(f"the diff tells of {counts}")
        return ms

    took: dict[str, list[float]] = {"": [], AGAIN: [], EARLIER: []}
    for _ in range(1 + (1 if task.small else DIFFS)):
        ds, rows = open_and_count_lakefmt(path)
        assert rows == rows_of(task)
        took[""].append(timed(ds, 0))
        took[AGAIN].append(timed(ds, 0))
        ds, _ = open_and_count_lakefmt(path)
        took[EARLIER].append(timed(ds, commits_of(task) // 2))
    facts: dict[str, float | str] = {name: statistics.median(ms[1:]) for name, ms in took.items() if name}
    return Sample(statistics.median(took[""][1:]), took[""][1:], "ms per diff", facts)


MEASURERS: dict[str, Callable[[Task], Sample]] = {
    "open": measure_open,
    "append": measure_append,
    "history": measure_history,
    "diff": measure_diff,
}


def measure(task: Task) -> Sample:
    sample: Sample = lookup(MEASURERS, task.measure)(task)
    return sample
