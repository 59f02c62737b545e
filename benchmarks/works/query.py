"""A filter over 1,000,000 rows with a label and some boxes, against the same SQL by hand on the same Parquet
files.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.model import SUBJECT, Contender, Measure, Sample, Target, Task
from benchmarks.timing import Array

TITLE = "A filter query over 1,000,000 rows with labels and boxes"
DATA = ("query",)
BOXES_MAX = 8
CLASSES = 10
SIDE = 200.0
"""Box numbers are uniform in [0, SIDE)."""
WRITE_ROWS = 100_000
WARM_QUERIES = 2
QUERIES = 11

TQL = "select * where labels == 3 and any(boxes[:,3] > 190)"

BY_HAND = "duckdb by hand"
BY_HAND_FILTER = "duckdb by hand, list_filter"

SQL = {
    BY_HAND: "labels = 3 and list_max(boxes[4:-:4]) > 190",
    BY_HAND_FILTER: "labels = 3 and len(list_filter(boxes, lambda v, i: i % 4 = 0 and v > 190)) > 0",
}
"""What one writes by hand: ``boxes`` is the flat list of numbers, four a box. Two ways; the first is the
faster.
"""

MEASURES = (
    Measure(
        "filter",
        "Milliseconds from the query's text to the matching row numbers, median of 11 queries",
        "ms",
        False,
        (
            Contender(SUBJECT, f'`ds.query("{TQL}")`, then `view.sample_indices`', role="subject"),
            Contender(BY_HAND, f"`{SQL[BY_HAND]}` on the dataset's own files", role="limit", dataset=SUBJECT),
            Contender(BY_HAND_FILTER, f"`{SQL[BY_HAND_FILTER]}` on the same", role="limit", dataset=SUBJECT),
        ),
        (Target("at most 1.15 of the same SQL by hand", BY_HAND, at_most=1.15),),
    ),
)


def generate(task: Task) -> None:
    rows = 50_000 if task.small else 1_000_000
    rng = np.random.default_rng(50)
    counts = rng.integers(0, BOXES_MAX + 1, rows)
    folder = task.data_of("query")
    np.save(folder / "labels.npy", rng.integers(0, CLASSES, rows, dtype=np.int64))
    np.save(folder / "starts.npy", np.concatenate([[0], np.cumsum(counts)]))
    np.save(folder / "boxes.npy", rng.random((int(counts.sum()), 4), dtype=np.float32) * np.float32(SIDE))


def load(folder: Path) -> tuple[Array, Array, Array]:
    """Labels (n,), starts (n + 1,) and boxes (m, 4): row i has the boxes from starts[i] to starts[i + 1]."""
    labels, starts, boxes = (np.load(folder / f"{name}.npy") for name in ("labels", "starts", "boxes"))
    return labels, starts, boxes


def truth(folder: Path) -> Array:
    """The matching row numbers, by NumPy."""
    labels, starts, boxes = load(folder)
    owner = np.repeat(np.arange(len(labels)), np.diff(starts))
    tall = np.zeros(len(labels), dtype=bool)
    tall[owner[boxes[:, 3] > 190]] = True
    return np.flatnonzero(tall & (labels == 3))


def write(task: Task) -> None:
    import lakefmt

    labels, starts, boxes = load(task.data_of("query"))
    ds = lakefmt.dataset(str(task.store_dir))
    ds.create_tensor("labels", htype="class_label")
    ds.create_tensor("boxes", htype="generic", dtype="float32")
    for first in range(0, len(labels), WRITE_ROWS):
        rows = range(first, min(first + WRITE_ROWS, len(labels)))
        some = [boxes[starts[i] : starts[i + 1]] for i in rows]
        ds.extend({"labels": labels[rows.start : rows.stop], "boxes": some})
    ds.commit("written")


def by_lakefmt(path: Path) -> Callable[[], Array]:
    import lakefmt

    ds = lakefmt.dataset(str(path))
    return lambda: np.asarray(ds.query(TQL).sample_indices)


def files_of(path: Path) -> list[str]:
    """The dataset's Parquet files that hold the two columns, in the order of their rows."""
    import pyarrow.parquet as pq

    import lakefmt

    ds: Any = lakefmt.dataset(str(path))
    files = [str(p) for p in (ds.files() if hasattr(ds, "files") else sorted(path.glob("data/*/*.parquet")))]
    wanted = {"labels", "boxes"}
    return [p for p in files if wanted <= set(pq.read_schema(p).names)]


def by_hand(path: Path, where: str) -> Callable[[], Array]:
    """The row numbers by DuckDB alone, on a kept connection; file_index tells the file among several."""
    import duckdb
    import pyarrow.parquet as pq

    files = files_of(path)
    starts = np.concatenate([[0], np.cumsum([pq.read_metadata(p).num_rows for p in files])])
    listed = ", ".join(f"'{p}'" for p in files)
    several = "file_index, " if len(files) > 1 else ""
    sql = f"select {several}file_row_number from read_parquet([{listed}], file_row_number=true) where {where}"
    connection = duckdb.connect()

    def run() -> Array:
        found = connection.execute(sql).fetchnumpy()
        rows = np.asarray(found["file_row_number"])
        return rows + starts[np.asarray(found["file_index"])] if several else rows

    return run


def measure(task: Task) -> Sample:
    ours = task.contender == SUBJECT
    run = by_lakefmt(task.store_dir) if ours else by_hand(task.store_dir, SQL[task.contender])
    wanted = truth(task.data_of("query"))
    took: list[float] = []
    for _ in range(WARM_QUERIES + QUERIES):
        start = time.perf_counter()
        rows = run()
        took.append((time.perf_counter() - start) * 1000)
        if not np.array_equal(np.sort(rows), wanted):
            raise AssertionError(f"{len(rows)} rows, not the {len(wanted)} that match")
    took = took[WARM_QUERIES:]
    return Sample(statistics.median(took), took, "ms per query", {"rows found": len(wanted)})
