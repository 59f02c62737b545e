"""Seconds to write each data set from RAM to the local disk, until the library calls it committed.

The writers are those of the works ``tensors``, ``texts`` and ``jpegs``. A few rows are written first, to warm
up. Not everybody makes files durable before returning, so the table also gives the time with an fsync of
every file after it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.model import SUBJECT, Contender, Measure, Sample, Target, Task, lookup
from benchmarks.timing import DURABLE, fresh, timed_write
from benchmarks.works import jpegs, tensors, texts

TITLE = "Writing each data set from RAM"
DATA = ("tensors", "texts", "jpegs")
WARM_ROWS = 64

TARGETS = (
    Target("no slower than Deep Lake 4 until each says committed", "deeplake4", at_most=1.0),
    Target("no slower than Deep Lake 4 until all is durable", "deeplake4", at_most=1.0, fact=DURABLE),
)

LAKEFMT = Contender(SUBJECT, "one `extend`, one `commit`", role="subject")
DEEPLAKE = (
    Contender("deeplake4", "one `append` of columns, one `commit`", "deeplake4"),
    Contender("deeplake3", "one `extend` a tensor within `with ds`, one `commit`", "deeplake3"),
)
OTHERS = (
    Contender("lance", "`write_dataset` of one Arrow table, made within the time", "lance"),
    Contender("mosaicml", "MDSWriter, one `write` a row", "mosaicml"),
    Contender(
        "litdata",
        "Cache, one item a row, 64 MB chunks, merged (what `optimize` does in each worker)",
        "litdata",
    ),
    Contender("hf", "`Dataset.from_dict(...).save_to_disk(...)`", "hf"),
)
WEBDATASET = Contender("webdataset", "ShardWriter, one `write` a row", "webdataset")


def written(data: str, what: str, *more: Contender) -> Measure:
    return Measure(
        data,
        f"Seconds to write {what}",
        "s",
        False,
        (LAKEFMT, *DEEPLAKE, *OTHERS, *more),
        TARGETS,
        reads_stores=False,
    )


MEASURES = (
    written("tensors", "20,000 tensors (uint8 3x64x64 and a label)", WEBDATASET),
    written("texts", "100,000 texts of 30 words", WEBDATASET),
    written("jpegs", "8,000 JPEGs, their bytes kept"),
)


def source(task: Task) -> tuple[Any, Any]:
    """The measure's data in RAM, and its first few rows."""
    folder = task.data_of(task.measure)
    if task.measure == "tensors":
        loaded = tensors.load(folder)
        return loaded, tensors.Source(loaded.images[:WARM_ROWS], loaded.labels[:WARM_ROWS])
    rows = texts.load(folder) if task.measure == "texts" else jpegs.load(folder)
    return rows, rows[:WARM_ROWS]


def measure(task: Task) -> Sample:
    writers: dict[str, dict[str, Any]] = {
        "tensors": tensors.WRITERS,
        "texts": texts.WRITERS,
        "jpegs": jpegs.WRITERS,
    }
    write = lookup(writers[task.measure], task.contender)
    rows, few = source(task)
    warm: Path = task.store_dir.with_name(task.store_dir.name + "-warm")
    write(few, fresh(warm))
    fresh(warm)
    return timed_write(lambda path: write(rows, path), task.store_dir)
