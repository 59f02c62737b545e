"""Many single-row appends of a short text and one commit: the time, and the files that it leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.model import SUBJECT, Contender, Measure, Sample, Target, Task, lookup
from benchmarks.timing import disk_bytes, files_under, fresh

TITLE = "10,000 appends of one row"
DATA: tuple[str, ...] = ()
ROWS = 10_000
SMALL_ROWS = 500
LANCE_ROWS = 200
"""Lance makes a version for each append: fewer are measured, and their time is scaled up."""

MEASURES = (
    Measure(
        "appends",
        "Seconds for 10,000 appends of one short text, and a commit",
        "s",
        False,
        (
            Contender(SUBJECT, "`ds.append({'text': ...})` each, one `commit`", role="subject"),
            Contender("deeplake4", "`ds.append({'text': [...]})` each, one `commit`", "deeplake4"),
            Contender("deeplake3", "`ds.append({'text': ...})` each within `with ds`, one `commit`", "deeplake3"),
            Contender("lance", f"`write_dataset(mode='append')` each; {LANCE_ROWS} measured and scaled", "lance"),
        ),
        (Target("below one second", "number", at_most=1.0),),
        reads_stores=False,
    ),
)

Append = Callable[[list[str], Path], None]
Count = Callable[[Path], int]
"""The rows that a fresh look at the dataset finds."""


def append_lakefmt(texts: list[str], path: Path) -> None:
    import lakefmt

    ds = lakefmt.dataset(str(path))
    ds.create_tensor("text", htype="text")
    for text in texts:
        ds.append({"text": text})
    ds.commit("appended")


def append_deeplake4(texts: list[str], path: Path) -> None:
    import deeplake

    ds = deeplake.create(str(path))
    ds.add_column("text", deeplake.types.Text())
    for text in texts:
        ds.append({"text": [text]})
    ds.commit("appended")


def append_deeplake3(texts: list[str], path: Path) -> None:
    import deeplake

    ds = deeplake.empty(str(path), overwrite=True)
    ds.create_tensor("text", htype="text")
    with ds:
        for text in texts:
            ds.append({"text": text})
    ds.commit("appended")


def append_lance(texts: list[str], path: Path) -> None:
    import lance
    import pyarrow as pa

    for text in texts:
        lance.write_dataset(pa.table({"text": [text]}), str(path), mode="append")


def count_lakefmt(path: Path) -> int:
    import lakefmt

    return len(lakefmt.dataset(str(path)))


def count_deeplake4(path: Path) -> int:
    import deeplake

    return len(deeplake.open_read_only(str(path)))


def count_deeplake3(path: Path) -> int:
    import deeplake

    return len(deeplake.load(str(path), read_only=True, verbose=False))


def count_lance(path: Path) -> int:
    import lance

    return int(lance.dataset(str(path)).count_rows())


WAYS: dict[str, tuple[Append, Count]] = {
    SUBJECT: (append_lakefmt, count_lakefmt),
    "deeplake4": (append_deeplake4, count_deeplake4),
    "deeplake3": (append_deeplake3, count_deeplake3),
    "lance": (append_lance, count_lance),
}


def measure(task: Task) -> Sample:
    append, count = lookup(WAYS, task.contender)
    rows = SMALL_ROWS if task.small else ROWS
    rows = min(rows, LANCE_ROWS) if task.contender == "lance" else rows
    texts = [f"a short text, number {i}" for i in range(rows)]
    warm = task.store_dir.with_name(task.store_dir.name + "-warm")
    append(texts[:2], fresh(warm))
    fresh(warm)
    path = fresh(task.store_dir)
    start = time.perf_counter()
    append(texts, path)
    seconds = time.perf_counter() - start
    if count(path) != rows:
        raise AssertionError(f"{count(path)} rows are there, not {rows}")
    facts: dict[str, float | str] = {
        "appends measured": rows,
        "files": len(files_under(path)),
        "KB on disk": round(disk_bytes(path) / 1e3, 1),
    }
    fresh(path)
    return Sample(seconds * ROWS / rows, [seconds], "s measured", facts)
