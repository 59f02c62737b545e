"""Counters of a running loader, updated per batch or chunk of samples (never per sample)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PHASES = ("fetch", "decode", "transform", "assemble", "wait")


class Stats:
    """Rows, batches, bytes, and seconds spent per phase.

    Phases other than ``wait`` are summed over threads, so that they may exceed the time that passed. ``wait``
    is how long the consumer stood still for the loader: near zero when the loader keeps up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(_PHASES, 0.0)
        self._counts = {"batches": 0, "rows": 0, "nbytes": 0}
        self._began: float | None = None
        self._ended = 0.0

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

    def report(self) -> dict[str, Any]:
        """``rows``, ``batches``, ``nbytes`` handed out, ``rows_per_s``, and ``<phase>_s`` for each phase."""
        with self._lock:
            elapsed = self._ended - self._began if self._began is not None and self._ended else 0.0
            rate = self._counts["rows"] / elapsed if elapsed > 0 else 0.0
            seconds = {f"{phase}_s": round(s, 6) for phase, s in self._seconds.items()}
            return {**self._counts, "rows_per_s": round(rate, 1), **seconds}


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
