"""What this machine, this storage and this transform allow, and where a loader's time goes.

Each line of the report takes one thing away from the loader: first bare memory, then the dataset's bytes as they come
from storage, then decoding of bytes that are in memory, on one thread and on all, then the transform, and at last the
loader itself. A loader cannot be faster than the slowest of its parts; the last line says which that is, and what would
help. Rates are taken over a fixed time each, after a quarter of it that is not counted; storage is read as it is, so that
files which lie in the page cache are read from there.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lakefmt.cells import Dense, Encoded
from lakefmt.errors import InvalidInput
from lakefmt.loaders.builder import Loader
from lakefmt.loaders.engine import Engine, narrowed
from lakefmt.loaders.options import ReadOptions
from lakefmt.loaders.pipeline import cores
from lakefmt.loaders.recipe import Column, Decode, Form, Recipe
from lakefmt.loaders.session import pieces, steps_at_once
from lakefmt.loaders.stats import Stats, stored_nbytes
from lakefmt.loaders.steps import Step, Steps

#: Bytes copied at a time to learn the speed of memory: more than any cache.
_COPY_NBYTES = 64 << 20
#: Rows whose stored samples are kept in memory to learn the speed of decoding and of the transform.
_HELD_ROWS = 512


@dataclass(frozen=True, slots=True)
class Line:
    """One measurement: rows a second (``None`` where rows are not what is counted), and bytes a second."""

    what: str
    rows_per_s: float | None
    nbytes_per_s: float | None
    note: str = ""


@dataclass(slots=True)
class BenchReport:
    """The measurements, in order, what the loader said of itself, and the verdict."""

    lines: list[Line] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)
    verdict: str = ""

    def __str__(self) -> str:
        rows = [("", "rows/s", "MB/s", "")]
        for line in self.lines:
            rate = "" if line.rows_per_s is None else f"{line.rows_per_s:,.0f}"
            speed = "" if line.nbytes_per_s is None else f"{line.nbytes_per_s / 1e6:,.1f}"
            rows.append((line.what, rate, speed, line.note))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        table = [f"{w:<{widths[0]}}  {r:>{widths[1]}}  {m:>{widths[2]}}  {n}".rstrip() for w, r, m, n in rows]
        shares = {p: self.stats.get(f"{p}_s", 0.0) for p in ("fetch", "decode", "transform", "assemble")}
        total = sum(shares.values())
        if total:
            table.append("busy threads: " + ", ".join(f"{p} {s / total:.0%}" for p, s in shares.items() if s / total >= 0.005))
        return "\n".join([*table, self.verdict])


def bench(chain: Loader, options: ReadOptions, seconds: float, tell: Callable[[Line], None] | None = None) -> BenchReport:
    """Measure what a chain allows.

    Args:
        chain: with ``.batch()``, and whatever else is to be measured.
        options: as for ``.numpy()``.
        seconds: time for each measurement.
        tell: called with every line as it is there.

    Raises:
        InvalidInput: there are no rows.
    """
    job = chain.job(options)
    n = len(job.steps.order)
    if n == 0:
        raise InvalidInput("there is nothing to measure: the dataset has no rows")
    report = BenchReport()

    def add(line: Line) -> None:
        report.lines.append(line)
        if tell is not None:
            tell(line)

    add(Line("memory, copied", None, _memory(seconds / 4), "one thread"))
    recipe, size = job.recipe, min(job.steps.batch_rows, n)
    stored = replace(recipe, columns=tuple(map(_as_stored, recipe.columns)), row_fn=None, collate=None, batch_fns=())
    rate, speed = _paced(_gathered(stored, job.steps), seconds)
    add(Line("storage, in the loader's order", rate, speed, "bytes as stored, one thread"))
    threads = cores()
    for what, without in _parts(recipe):
        alone, _ = _paced(_worked(without, size, 1), seconds)
        together = alone if threads == 1 else _paced(_worked(without, size, threads), seconds)[0]
        add(Line(what, together, None, f"{threads} threads; one: {alone:,.0f} rows/s"))
    face = chain.numpy(**{name: getattr(options, name) for name in ReadOptions.__slots__})
    rate, speed = _paced(_looped(face), seconds)
    add(Line("the loader", rate, speed, "arrays handed out"))
    report.stats = face.stats()
    face.close()
    report.verdict = _verdict(report, local=recipe.source.is_local())
    return report


def _parts(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """What there is to do per sample, each part with those before it."""
    if any(c.decodes for c in recipe.columns):
        columns = tuple(replace(c, fn=None) for c in recipe.columns if c.decodes)
        yield "decoding, from memory", replace(recipe, columns=columns, row_fn=None, collate=None, batch_fns=())
    if recipe.row_fn is not None or recipe.batch_fns or any(c.fn is not None for c in recipe.columns):
        yield "decoding and transform, from memory" if any(c.decodes for c in recipe.columns) else "transform, from memory", recipe


def _as_stored(column: Column) -> Column:
    decode = Decode.TOBYTES if column.form is Form.ENCODED else Decode.NUMPY
    return replace(column, fn=None, decode=decode)


def _memory(seconds: float) -> float:
    source = np.ones(_COPY_NBYTES, np.uint8)
    target = np.empty_like(source)
    np.copyto(target, source)
    begin, copies = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds or not copies:
        np.copyto(target, source)
        copies += 1
    return copies * _COPY_NBYTES / (time.perf_counter() - begin)


def _gathered(recipe: Recipe, steps: Steps) -> Iterator[tuple[int, int]]:
    engine = Engine(recipe, Stats())
    for epoch in itertools.count():
        for piece in pieces(steps.blocks(epoch), steps_at_once(recipe, steps.batch_rows)):
            works = list(engine.works(piece))
            for cells in (c for w in works for c in w.cells.values() if isinstance(c, Encoded)):
                for value in cells.values:  # of a mapped file nothing was read so far
                    bytes(value or b"")
            yield sum(len(w.rows) for w in works), sum(stored_nbytes(c) for w in works for c in w.cells.values())


def _worked(recipe: Recipe, batch_rows: int, threads: int) -> Iterator[tuple[int, int]]:
    """Batches made of rows that are in memory, on ``threads`` threads at once."""
    rows = np.arange(min(_HELD_ROWS, len(recipe.source)), dtype=np.int64)
    held = replace(recipe, source=_Held(recipe, rows))
    engine = Engine(held, Stats())
    picks = itertools.cycle(np.array_split(rows, max(1, len(rows) // batch_rows)))
    lock = threading.Lock()

    def one(_: int) -> tuple[int, int]:
        with lock:
            pick = next(picks)
        engine.make(Step(pick, 0))
        return len(pick), 0

    with ThreadPoolExecutor(threads) as pool:
        while True:
            yield tuple(map(sum, zip(*pool.map(one, range(2 * threads)), strict=True)))  # type: ignore[misc]


class _Held:
    """Some rows of a source, gathered once."""

    def __init__(self, recipe: Recipe, rows: Any) -> None:
        self._source = recipe.source
        self._cells = {c.name: recipe.source.gather(c.name, rows) for c in recipe.columns}

    def gather(self, name: str, rows: Any, out: Any = None) -> Any:
        cells = narrowed(self._cells[name], rows)
        if out is not None:
            out[...] = cells.values
            return Dense(out)
        return cells

    def __len__(self) -> int:
        return len(self._source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def _looped(face: Any) -> Iterator[tuple[int, int]]:
    while True:
        before = face.stats()
        for _ in face:
            now = face.stats()
            yield now["rows"] - before["rows"], now["nbytes"] - before["nbytes"]
            before = now


def _paced(counts: Iterator[tuple[int, int]], seconds: float) -> tuple[float, float]:
    """Rows and bytes a second of what ``counts`` yields, endlessly, over some time."""
    warm = time.perf_counter() + seconds / 4
    while time.perf_counter() < warm:
        next(counts)
    begin, rows, nbytes = time.perf_counter(), 0, 0
    while time.perf_counter() - begin < seconds or not rows:
        more_rows, more_nbytes = next(counts)
        rows, nbytes = rows + more_rows, nbytes + more_nbytes
    counts.close()  # type: ignore[attr-defined]
    elapsed = time.perf_counter() - begin
    return rows / elapsed, nbytes / elapsed


def _verdict(report: BenchReport, *, local: bool) -> str:
    """What the loader is bound by, and what would help."""
    loader = report.lines[-1]
    parts = [line for line in report.lines[:-1] if line.rows_per_s is not None]
    slowest = min(parts, key=lambda line: line.rows_per_s or 0.0)
    assert loader.rows_per_s is not None
    assert slowest.rows_per_s is not None
    share = loader.rows_per_s / slowest.rows_per_s
    if slowest.what.startswith("storage"):
        help_ = "a larger prefetch= hides latency" if local else "ds.download(), or local_cache_size=, reads it once"
    elif slowest.what.startswith("decoding, "):
        help_ = "store smaller images, or decode on the GPU (decode_method='device')"
    else:
        help_ = "num_workers= helps a transform that holds the interpreter lock; or move it to the device (device_transform=)"
    return f"bound by {slowest.what}: the loader reaches {share:.0%} of it; {help_}"
