"""Counters of a running loader, updated per batch or chunk of samples (never per sample), and what follows from them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lakefmt.cells import Cells, Dense, Encoded, Ragged, Strings

#: What a loader spends time on, in the order of a batch's life.
PHASES = ("fetch", "decode", "transform", "assemble")
#: A consumer that stands still for less than this share of the time is what limits the rate.
WAITING_SHARE = 0.05


class Stats:
    """Rows, batches, bytes, and seconds spent per phase.

    Phases are summed over threads and worker processes, so that they may exceed the time that passed. ``wait`` is how long
    the consumer stood still for the loader: near zero when the loader keeps up.

    Args:
        nbytes_read: tells how many bytes the source has read so far, where it knows.
    """

    def __init__(self, nbytes_read: Callable[[], int] | None = None) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys((*PHASES, "wait"), 0.0)
        self._counts = {"batches": 0, "rows": 0, "nbytes": 0, "nbytes_used": 0, "nbytes_read": 0}
        self._queued = self._looks = 0
        self._began: float | None = None
        self._ended = 0.0
        self._nbytes_read = nbytes_read
        self._read_before = 0 if nbytes_read is None else nbytes_read()

    def spend(self, phase: str, seconds: float) -> None:
        with self._lock:
            self._seconds[phase] += seconds

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.spend(phase, time.perf_counter() - begin)

    def used(self, nbytes: int) -> None:
        """Note so many stored bytes that batches are made of."""
        with self._lock:
            self._counts["nbytes_used"] += nbytes

    def queued(self, batches: int) -> None:
        """Note how many batches lay ready when the consumer came for one."""
        with self._lock:
            self._queued += batches
            self._looks += 1

    def started(self) -> None:
        with self._lock:
            if self._began is None:
                self._began = time.perf_counter()

    def handed_out(self, rows: int, nbytes: int, waited_s: float) -> None:
        with self._lock:
            self._counts["batches"] += 1
            self._counts["rows"] += rows
            self._counts["nbytes"] += nbytes
            self._seconds["wait"] += waited_s
            self._ended = time.perf_counter()

    def taken(self) -> dict[str, float]:
        """What was spent, used and read since this was last asked: a worker process sends it along with a batch."""
        with self._lock:
            spent: dict[str, float] = {phase: self._seconds[phase] for phase in PHASES}
            self._seconds = dict.fromkeys(self._seconds, 0.0)
            spent["nbytes_used"], self._counts["nbytes_used"] = self._counts["nbytes_used"], 0
            if self._nbytes_read is not None:
                now = self._nbytes_read()
                spent["nbytes_read"], self._read_before = now - self._read_before, now
            return spent

    def add(self, spent: dict[str, float]) -> None:
        """Count what a worker process sent."""
        with self._lock:
            for name, value in spent.items():
                if name in self._seconds:
                    self._seconds[name] += value
                else:
                    self._counts[name] += int(value)

    def report(self) -> dict[str, Any]:
        """The figures so far.

        Returns:
            ``rows``, ``batches``, ``nbytes`` handed out and ``rows_per_s``; ``<phase>_s`` for each phase, and ``wait_s``;
            ``nbytes_used``, of the stored samples, ``nbytes_read`` for them, and ``read_per_used``; ``queue_depth``, mean number of
            batches (or blocks of small ones) that lay ready; and ``bound_by``, what limits the rate: ``consumer``, or the
            phase with most seconds.
        """
        with self._lock:
            elapsed = self._ended - self._began if self._began is not None and self._ended else 0.0
            counts = dict(self._counts)
            if self._nbytes_read is not None:
                counts["nbytes_read"] += self._nbytes_read() - self._read_before
            seconds = {f"{phase}_s": round(s, 6) for phase, s in self._seconds.items()}
            waiting = elapsed > 0 and self._seconds["wait"] >= WAITING_SHARE * elapsed
            return {
                **counts,
                "rows_per_s": round(counts["rows"] / elapsed, 1) if elapsed > 0 else 0.0,
                **seconds,
                "read_per_used": round(counts["nbytes_read"] / counts["nbytes_used"], 3) if counts["nbytes_used"] else None,
                "queue_depth": round(self._queued / self._looks, 2) if self._looks else None,
                "bound_by": max(PHASES, key=self._seconds.__getitem__) if waiting else "consumer" if elapsed > 0 else None,
            }


def nbytes_of(value: Any) -> int:
    """Bytes of the arrays and tensors in a batch value; list elements are judged by the first."""
    nbytes = getattr(value, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    if isinstance(value, list):
        return len(value) * nbytes_of(value[0]) if value else 0
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(nbytes_of(v) for v in value.values())
    return 0


def stored_nbytes(cells: Cells) -> int:
    """Bytes of some samples as they were gathered: encoded ones encoded."""
    match cells:
        case Dense(values):
            return int(values.nbytes)
        case Ragged(values):
            return sum(v.nbytes for v in values if v is not None)
        case Encoded(values):
            return sum(len(v) for v in values if v is not None)
        case Strings(values):
            return int(values.nbytes)
