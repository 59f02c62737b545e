"""Drawing without replacement as an order: a table made once an epoch, sorted as far as it is needed.

Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006): every row draws an exponential
variate divided by its weight, its *key*, and the rows with the smallest come first. This is exactly sequential
sampling in proportion to weight. Keys of equal value (some 1e-16 apart) are taken by row.

Sorting a hundred million keys takes a minute before the first batch. Instead rows are put into *buckets* of
rising keys, in one pass over chunks on a few threads, and a bucket is sorted when its first row is asked for.
Keys are not stored: they are arithmetic, and are computed again there. Which bucket a key belongs to is looked up
by its exponent and ten bits of its fraction; borders are quantiles of a sample of rows, so buckets are about
equal (a sixteenth of an octave of exponential keys, however weighted, is a small share of all). Neither chunks,
threads nor the sample have a part in the order: that is by key and row.

Where few rows are wanted, those whose keys lie far behind the sample's quantile are dropped at once.

Memory: four bytes a row that is drawn (eight above 2**32 rows), some 30 MB a thread while an epoch is prepared, and
two sorted buckets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lakefmt.cells import Rows
from lakefmt.loaders.guide import Floats
from lakefmt.loaders.kept import Kept
from lakefmt.loaders.logs import log
from lakefmt.loaders.order import bits, derive, uniforms
from lakefmt.loaders.pipeline import cores

_KEYS = 5  # purpose of derived keys; plan.py has 1 to 3, sampling.py 4
_SAMPLE = 6

#: Rows to a bucket: what is sorted at once, in some tens of milliseconds.
BUCKET_ROWS = 1 << 19
#: Rows put into buckets by one thread at a time.
CHUNK_ROWS = 1 << 20
#: Keys computed at a time: what stays in a core's own cache.
_BLOCK_ROWS = 1 << 14
#: Rows of which the quantiles are taken.
SAMPLE_ROWS = 1 << 18
THREADS_MAX = 8
#: Weights within these bounds have quotients that neither overflow nor lose digits; else logarithms are compared.
_LEAST, _MOST = 1e-290, 1e290
#: Cells that keys are looked up by: sign, exponent and ten bits of the fraction of a positive float64.
_CELLS = 1 << 21


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """``size`` different rows, drawn one after another in proportion to weight.

    Attributes:
        weights: float64, one a row; at least ``size`` are positive.
        digest: names the weights.
    """

    weights: Floats
    size: int
    seed: int
    digest: str
    _epochs: Kept[Buckets] = field(default_factory=lambda: Kept(1), init=False, repr=False)

    def __len__(self) -> int:
        return self.size

    def rows(self, epoch: int, positions: Rows) -> Rows:
        return self._epochs.get(epoch, lambda: buckets_of(Keys.of(self.weights, self.seed, epoch), self.size)).rows(positions)

    def describe(self) -> dict[str, Any]:
        return {"order": "picked", "size": self.size, "seed": self.seed, "weights": self.digest}


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """The keys of an epoch, by row."""

    weights: Floats
    stream: int
    sample_stream: int
    by_logarithm: bool

    @staticmethod
    def of(weights: Floats, seed: int, epoch: int) -> Keys:
        least = min((float(np.min(w, where=w > 0, initial=math.inf)) for w in _cut(weights, CHUNK_ROWS)), default=math.inf)
        most = max((float(w.max()) for w in _cut(weights, CHUNK_ROWS)), default=0.0)
        narrow = least >= _LEAST and most <= _MOST
        return Keys(weights, derive(seed, epoch, _KEYS), derive(seed, epoch, _SAMPLE), not narrow)

    def at(self, rows: Rows) -> Floats:
        """Keys of ``rows``, all of positive weight."""
        spans = [self._some(part, self.weights[part]) for part in _cut(rows, _BLOCK_ROWS)]
        return np.concatenate(spans) if spans else np.empty(0)

    def between(self, begin: int, end: int) -> Iterator[tuple[Rows, Floats]]:
        """Rows [begin, end) of positive weight with their keys, some at a time."""
        for first in range(begin, end, _BLOCK_ROWS):
            last = min(end, first + _BLOCK_ROWS)
            rows, weights = np.arange(first, last, dtype=np.int64), self.weights[first:last]
            if not weights.all():
                rows, weights = rows[weights > 0], weights[weights > 0]
            yield rows, self._some(rows, weights)

    def _some(self, rows: Rows, weights: Floats) -> Floats:
        exponential = 0.0 - log(1.0 - uniforms(self.stream, rows))  # (a zero of positive sign)
        return log(exponential) - log(weights) if self.by_logarithm else exponential / weights

    def cells(self, keys: Floats) -> Rows:
        """Cell of each key; monotone."""
        if self.by_logarithm:  # of -746 to 748, in steps of 1 / 1024
            cells: Rows = (np.maximum(keys, -1024.0) * 1024.0 + 1024.0 * 1024.0).astype(np.int64)
            return cells
        return keys.view(np.int64) >> 42

    def sample(self) -> Rows:
        """Cells of some rows drawn at random (all, where they are few), zero weights left out."""
        n = len(self.weights)
        rows = np.arange(min(n, SAMPLE_ROWS), dtype=np.int64)
        if n > SAMPLE_ROWS:
            rows = (bits(self.sample_stream, rows) % np.uint64(n)).astype(np.int64)
        rows = rows[self.weights[rows] > 0]
        return self.cells(self.at(rows))


@dataclass(frozen=True, slots=True, eq=False)
class _Borders:
    """Which cells make up a bucket.

    Attributes:
        bucket: of each cell.
        last: cell behind which nothing is kept.
        count: number of buckets.
    """

    bucket: npt.NDArray[Any]
    last: int
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """An epoch's order, of which buckets are sorted when they are come to.

    Attributes:
        chunks: rows by chunk, bucket and row.
        starts: where in its chunk each bucket begins, (chunks, buckets + 1).
        ends: position at which each bucket ends.
    """

    keys: Keys
    chunks: list[npt.NDArray[Any]]
    starts: Rows
    ends: Rows
    _sorted: Kept[Rows] = field(default_factory=lambda: Kept(2), init=False, repr=False)

    def rows(self, positions: Rows) -> Rows:
        """Row at each position."""
        buckets = np.searchsorted(self.ends, positions, side="right")
        out = np.empty(positions.shape, np.int64)
        for bucket in np.unique(buckets).tolist():
            here = buckets == bucket
            begin = int(self.ends[bucket - 1]) if bucket else 0
            out[here] = self._sorted.get(bucket, lambda b=bucket: self._sort(b))[positions[here] - begin]  # type: ignore[misc]
        return out

    def _sort(self, bucket: int) -> Rows:
        parts = [c[s[bucket] : s[bucket + 1]] for c, s in zip(self.chunks, self.starts, strict=True)]
        rows = np.concatenate(parts).astype(np.int64)  # rising: ties are thus taken by row
        ordered: Rows = rows[np.argsort(self.keys.at(rows), kind="stable")]
        return ordered


def buckets_of(keys: Keys, size: int) -> Buckets:
    """The first ``size`` rows by key (and some more)."""
    n = len(keys.weights)
    if n <= BUCKET_ROWS:  # one bucket of all
        rows = np.flatnonzero(keys.weights).astype(np.int64)
        return Buckets(keys, [rows], np.array([[0, len(rows)]]), np.array([len(rows)]))
    dtype = np.uint32 if n < 2**32 else np.int64
    spans = [(begin, min(n, begin + CHUNK_ROWS)) for begin in range(0, n, CHUNK_ROWS)]
    sample = keys.sample()
    for wanted in (size, None):
        borders = _borders(sample, n, wanted)
        done = _on_threads(lambda span: _coarse(keys, span, borders, dtype), spans)  # noqa: B023 (used up before the next)
        if sum(len(rows) for rows, _ in done) >= size:
            break
    counts = np.array([c for _, c in done], np.int64).reshape(len(spans), borders.count)
    starts = np.concatenate([np.zeros((len(spans), 1), np.int64), np.cumsum(counts, axis=1)], axis=1)
    return Buckets(keys, [rows for rows, _ in done], starts, np.cumsum(counts.sum(axis=0)))


def _borders(sample: Rows, n: int, wanted: int | None) -> _Borders:
    """Buckets of about equal size for the ``wanted`` first of ``n`` rows (``None``: for all)."""
    running = np.cumsum(np.bincount(sample, minlength=_CELLS))
    every = n <= SAMPLE_ROWS
    ratio = min(n, SAMPLE_ROWS) / max(1, n)
    last = _CELLS - 1
    if wanted is not None:
        expected = wanted * ratio
        # six standard deviations of a count: fewer than wanted remain once in a billion, and then all are kept
        sure = expected if every else expected + 6 * math.sqrt(expected) + 12
        if sure <= running[-1]:
            last = int(np.searchsorted(running, sure))
    kept = max(1, int(running[last]))
    count = max(1, min(1 << 16, math.ceil(kept / ratio / BUCKET_ROWS)))
    before = np.concatenate(([0], running[:-1]))
    bucket = np.minimum(before * count // kept, count - 1)
    return _Borders(bucket.astype(np.uint8 if count <= 256 else np.uint16), last, count)


def _coarse(keys: Keys, span: tuple[int, int], borders: _Borders, dtype: Any) -> tuple[npt.NDArray[Any], Rows]:
    """A chunk's rows by bucket and row, and how many are in each bucket."""
    rows, buckets = [np.empty(0, dtype)], [np.empty(0, borders.bucket.dtype)]
    for some, theirs in keys.between(*span):
        cells = keys.cells(theirs)
        if borders.last < _CELLS - 1:
            near = cells <= borders.last
            some, cells = some[near], cells[near]
        rows.append(some.astype(dtype))
        buckets.append(borders.bucket[cells])
    bucket = np.concatenate(buckets)
    order = np.argsort(bucket, kind="stable")  # by counting, for so short integers
    return np.concatenate(rows)[order], np.bincount(bucket, minlength=borders.count)


def _on_threads(work: Any, items: list[Any]) -> list[Any]:
    threads = min(cores(), THREADS_MAX, len(items))
    if threads <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads, thread_name_prefix="lakefmt-sample") as pool:
        return list(pool.map(work, items))


def _cut(values: Any, size: int) -> Iterator[Any]:
    for begin in range(0, len(values), size):
        yield values[begin : begin + size]
