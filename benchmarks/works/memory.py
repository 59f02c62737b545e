"""Peak memory of the writer and of the shuffled loader, on a dataset five times a stated budget.

The peak is the process's highest resident set (``ru_maxrss``) less what it was once the same modules were
imported. A resident set also counts the pages of mapped files, which the kernel may drop when memory runs
short; the anonymous part, which it can't, is told beside it. Rows are generated in a stream, never held.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.model import SUBJECT, Contender, Measure, Sample, Target, Task
from benchmarks.timing import AnonymousPeak, Array, fresh, peak_rss_mb

TITLE = "Peak memory on a dataset five times the budget"
DATA: tuple[str, ...] = ()
TIMES = 5
SMALL_BUDGET_MB = 64
CHUNK_ROWS = 1024
BATCH = 256
SHAPE = (3, 64, 64)

ANONYMOUS = "anonymous, of the budget"

TARGETS = (
    Target("the peak within the budget", "number", at_most=1.0),
    Target("its anonymous part within the budget", "number", at_most=1.0, fact=ANONYMOUS),
)

MEASURES = (
    Measure(
        "writer",
        f"The writer's peak memory as a part of the budget ({CHUNK_ROWS} rows an `extend`, one `commit`)",
        "of the budget",
        False,
        (Contender(SUBJECT, "`ds.extend` of a stream, `ds.commit`", role="subject"),),
        TARGETS,
        reads_stores=False,
    ),
    Measure(
        "loader",
        "The shuffled loader's peak memory as a part of the budget (one epoch)",
        "of the budget",
        False,
        (Contender(SUBJECT, "`ds.dataloader().batch(256).shuffle().pytorch()`", role="subject"),),
        TARGETS,
    ),
)


def budget_mb(task: Task) -> int:
    return min(task.budget_mb, SMALL_BUDGET_MB) if task.small else task.budget_mb


def chunks(task: Task) -> Iterator[tuple[Array, Array]]:
    """Images and labels, a chunk at a time, TIMES the budget in all; a label is its row's number modulo
    1,000.
    """
    rows = TIMES * budget_mb(task) * 1_000_000 // int(np.prod(SHAPE))
    rng = np.random.default_rng(60)
    for first in range(0, rows, CHUNK_ROWS):
        count = min(CHUNK_ROWS, rows - first)
        yield rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8), np.arange(first, first + count) % 1000


def write(task: Task) -> None:
    import lakefmt

    ds = lakefmt.dataset(str(task.store_dir))
    ds.create_tensor("image", htype="generic", dtype="uint8", shape=SHAPE)
    ds.create_tensor("label", htype="class_label")
    for images, labels in chunks(task):
        ds.extend({"image": images, "label": labels})
    ds.commit("written")


def load(task: Task) -> int:
    """Go through one shuffled epoch; the answer is the number of rows."""
    import lakefmt

    rows = 0
    loader: Any = lakefmt.dataset(str(task.store_dir)).dataloader().batch(BATCH).shuffle().pytorch()
    for batch in loader:
        rows += len(batch["label"])
        batch["image"].sum()
    return rows


def import_all() -> None:
    """Import what the writer or the loader will, so that it is not counted."""
    import pyarrow.dataset
    import pyarrow.parquet
    import torch.utils.data

    import lakefmt.loaders

    for module in (lakefmt.loaders, pyarrow.dataset, pyarrow.parquet, torch.utils.data):
        assert module


def measure(task: Task) -> Sample:
    import_all()
    imported = peak_rss_mb()
    with AnonymousPeak() as anonymous:
        before = anonymous.mb
        if task.measure == "writer":
            fresh(task.store_dir)
            write(task)
        else:
            rows, wanted = load(task), sum(len(labels) for _, labels in chunks(task))
            if rows != wanted:
                raise AssertionError(f"the epoch gave {rows} rows, not {wanted}")
    peak = peak_rss_mb() - imported
    if task.measure == "writer":
        fresh(task.store_dir)
    facts: dict[str, float | str] = {
        "peak MB": round(peak, 1),
        ANONYMOUS: round((anonymous.mb - before) / budget_mb(task), 3),
        "anonymous MB": round(anonymous.mb - before, 1),
        "budget MB": budget_mb(task),
        "data MB": TIMES * budget_mb(task),
        "imports MB": round(imported, 1),
    }
    return Sample(peak / budget_mb(task), [peak], "MB", facts)
