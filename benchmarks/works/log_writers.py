"""Eight processes that commit to one branch at once, against one process that makes as many commits alone.

Each writer warms up elsewhere, opens a handle of its own, waits until all have, and then appends ten rows and
commits, again and again. A writer whose library gives up after too many lost races opens the dataset again and
retries; before that, all of them retry by themselves. Fairness is judged in the time when all are at work: from the
common start until the first of them is done.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.model import SUBJECT, Contender, Measure, Sample, Target, Task, lookup
from benchmarks.timing import fresh
from benchmarks.works.log_append import ROWS, WAYS, check_versions

TITLE = "Eight processes committing to one branch"
DATA: tuple[str, ...] = ()
WRITERS = 8
EACH = 100
SMALL_EACH = 10
WARM = 3
"""Commits of each writer to a dataset of its own, before the start."""
RETRIES_MAX = 1000
START_WAIT_S = 120
APART = 10**9
"""Numbers of one writer's rows begin so far from the next one's."""

TO_SINGLE = "to the single writer's"
LEAST_SHARE = "least share of the mean"

MEASURES = (
    Measure(
        "writers",
        "Commits a second of eight processes to one branch (10 rows each commit, 100 commits each process)",
        "commits/s",
        True,
        (
            Contender(SUBJECT, "`ds.extend(...)`, `ds.flush()` on an open handle each; fsynced", role="subject"),
            Contender("lance", "`write_dataset(mode='append')` on an open handle each; no fsync", "lance"),
            Contender("delta", "`write_deltalake(mode='append')` on an open DeltaTable each; no fsync", "delta"),
        ),
        (
            Target("at least half of a single writer's rate", "number", at_least=0.5, fact=TO_SINGLE),
            Target("no process has less than half of the mean while all are at work", "number", at_least=0.5, fact=LEAST_SHARE),
        ),
        reads_stores=False,
    ),
)


@dataclass(frozen=True)
class Told:
    """What a writer tells of its work, in seconds of the clock that all processes share."""

    start: float
    ends: list[float]
    """When each commit was done."""
    retries: int


_start: Any = None


def take_start(barrier: Any) -> None:
    """Give a process the barrier at which all writers wait."""
    global _start
    _start = barrier


def lost_race(error: Exception) -> bool:
    """Whether a peer says that others were first, once too often for it."""
    return type(error).__name__ == "CommitFailedError" or "conflict" in str(error).lower()


def commit_all(name: str, path: str, writer: int, commits: int) -> Told:
    """One writer's work."""
    way = lookup(WAYS, name)
    warm = Path(f"{path}-warm-{writer}")
    warming = way.opened(fresh(warm))  # what is imported at a first commit is imported now
    for i in range(WARM):
        warming(way.rows(i * ROWS))
    fresh(warm)
    append = way.opened(Path(path))
    batches = [way.rows(writer * APART + i * ROWS) for i in range(commits)]
    ends: list[float] = []
    retries = 0
    _start.wait(START_WAIT_S)
    start = time.monotonic()
    for rows in batches:
        while True:
            try:
                append(rows)
                break
            except Exception as error:
                retries += 1
                if name == SUBJECT or not lost_race(error) or retries > RETRIES_MAX:
                    raise RuntimeError(f"{type(error).__name__}: {error}") from None  # some errors can't be pickled
                append = way.opened(Path(path))
        ends.append(time.monotonic())
    return Told(start, ends, retries)


def run(name: str, path: Path, writers: int, commits: int) -> list[Told]:
    """The work of some writers on a dataset of ten rows, checked."""
    way = lookup(WAYS, name)
    way.opened(fresh(path))(way.rows(-ROWS))
    os.sync()
    context = multiprocessing.get_context("spawn")
    with context.Pool(writers, take_start, (context.Barrier(writers),)) as pool:
        told = pool.starmap(commit_all, [(name, str(path), w, commits) for w in range(writers)], chunksize=1)
    check_versions(way.versions(path), way.before + 1 + writers * commits)
    numbers = way.numbers(path, ROWS)
    wanted = [list(range(w * APART, w * APART + commits * ROWS)) for w in range(writers)]
    for w in range(writers):
        if [n for n in numbers if n // APART == w] != wanted[w]:
            raise AssertionError(f"writer {w}'s rows are not all there, once and in their order")
    if len(numbers) != writers * commits * ROWS:
        raise AssertionError(f"{len(numbers)} rows are there, not {writers * commits * ROWS}")
    fresh(path)
    return told


def rate(told: list[Told]) -> float:
    """Commits a second, from the common start until the last writer is done."""
    return sum(len(t.ends) for t in told) / (max(t.ends[-1] for t in told) - min(t.start for t in told))


def measure(task: Task) -> Sample:
    each = SMALL_EACH if task.small else EACH
    path = task.store_dir
    path.parent.mkdir(parents=True, exist_ok=True)
    single = rate(run(task.contender, path, 1, WRITERS * each))
    told = run(task.contender, path, WRITERS, each)
    begin, first_done = max(t.start for t in told), min(t.ends[-1] for t in told)
    shares = [sum(begin < end <= first_done for end in t.ends) for t in told]
    mean = sum(shares) / WRITERS
    spent = [t.ends[-1] - t.start for t in told]
    together = rate(told)
    facts: dict[str, float | str] = {
        "a single writer's": single,
        TO_SINGLE: together / single,
        LEAST_SHARE: min(shares) / mean,
        "most": max(shares) / mean,
        "slowest to fastest": max(spent) / min(spent),
        "retries by hand": sum(t.retries for t in told),
    }
    return Sample(together, spent, "s per writer", facts)
