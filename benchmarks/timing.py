"""Helpers of the measuring processes: epochs, disk use, durability, peak memory. All times are seconds."""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.model import Sample

Batch = TypeVar("Batch")
Array = npt.NDArray[Any]

EPOCH_SECONDS_MIN = 1.0
EPOCHS_MAX = 20
DURABLE = "seconds with fsync of all"


def timed_epochs(
    epoch: Callable[[], Iterable[Batch]], light: Callable[[Batch], tuple[int, int]], expected: tuple[int, int]
) -> list[float]:
    """Seconds of each timed epoch: at least one, and more until a second has been spent.

    ``light`` tells a batch's rows and checksum; their sums over each epoch must be ``expected``.
    """
    seconds: list[float] = []
    while not seconds or (sum(seconds) < EPOCH_SECONDS_MIN and len(seconds) < EPOCHS_MAX):
        rows = total = 0
        start = time.perf_counter()
        for batch in epoch():
            batch_rows, batch_total = light(batch)
            rows += batch_rows
            total += batch_total
        seconds.append(time.perf_counter() - start)
        if (rows, total) != expected:
            raise AssertionError(f"the epoch gave rows and checksum {(rows, total)}, not {expected}")
    return seconds


def warm_epoch(batches: Iterable[Batch], rows_of: Callable[[Batch], Array], rows: int) -> float:
    """Go through an untimed epoch, prove that it gives every row exactly once, and tell how well it shuffles.

    ``rows_of`` compares a batch with the generator's data and tells which rows it holds. The answer is the
    mean spread (standard deviation) of the row numbers within a batch over that of a uniform draw: 1 is a
    global shuffle, 0 none.
    """
    seen: list[Array] = []
    spreads: list[float] = []
    for batch in batches:
        ids = rows_of(batch)
        seen.append(ids)
        spreads.append(float(np.std(ids)))
    ids = np.concatenate(seen)
    if len(ids) != rows or not np.array_equal(np.sort(ids), np.arange(rows)):
        raise AssertionError(f"the epoch gave {len(ids)} rows, {len(np.unique(ids))} of them distinct, not {rows}")
    return float(np.mean(spreads)) / (rows / 12**0.5)


def epoch_sample(seconds: list[float], rows: int, facts: dict[str, float | str]) -> Sample:
    """Rows a second, from the median of a process's epochs."""
    return Sample(rows / statistics.median(seconds), seconds, "s per epoch", facts)


def fresh(path: Path) -> Path:
    """The path, with nothing there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def files_under(path: Path) -> list[Path]:
    return [p for p in sorted(path.rglob("*")) if p.is_file() and not p.is_symlink()]


def disk_bytes(path: Path) -> int:
    """Bytes of all files under a folder, as their sizes say."""
    return sum(p.stat().st_size for p in files_under(path))


def fsync_paths(paths: Iterable[str | Path]) -> None:
    """Make files and folders durable."""
    for p in paths:
        fd = os.open(p, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def fsync_tree(path: Path) -> None:
    """Make everything under a folder durable, for those who write without."""
    fsync_paths([*files_under(path), *(d for d in path.rglob("*") if d.is_dir()), path])


def copied(source: Path, path: Path) -> Path:
    """A copy of a dataset, to be written to and thrown away."""
    shutil.copytree(source, fresh(path))
    return path


def folder_state(path: str | Path) -> dict[str, tuple[int, int, int]]:
    """Every file under a folder with its size, inode and time of change: two of these tell which files are new."""
    found: dict[str, tuple[int, int, int]] = {}
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            found |= folder_state(entry.path)
        else:
            seen = entry.stat(follow_symlinks=False)
            found[entry.path] = (seen.st_size, seen.st_ino, seen.st_mtime_ns)
    return found


def timed_write(write: Callable[[Path], None], path: Path) -> Sample:
    """Seconds until the library calls its dataset written, on a disk that has nothing else to write out.

    The facts say what an fsync of every file adds to that, and how many files and bytes there are.
    """
    fresh(path)
    os.sync()
    start = time.perf_counter()
    write(path)
    written = time.perf_counter()
    fsync_tree(path)
    synced = time.perf_counter()
    facts: dict[str, float | str] = {
        DURABLE: round(synced - start, 4),
        "MB on disk": round(disk_bytes(path) / 1e6, 3),
        "files": len(files_under(path)),
    }
    fresh(path)
    return Sample(written - start, [written - start], "s", facts)


def peak_rss_mb() -> float:
    """This process's highest resident set so far, in MB (10^6 bytes); the kernel tells it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


class AnonymousPeak:
    """Watches the resident anonymous memory, which unlike pages of mapped files the kernel can't just drop.

    A thread looks every 5 ms; ``mb`` is the highest seen, in MB (10^6 bytes), or nan where /proc does not
    tell.
    """

    def __init__(self) -> None:
        self.mb = float("nan")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> AnonymousPeak:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._look()

    def _look(self) -> None:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return
        kib = next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), None)
        if kib is not None:
            self.mb = float(np.fmax(self.mb, kib * 1024 / 1e6))
