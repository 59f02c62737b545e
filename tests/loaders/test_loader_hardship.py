"""Loaders in trouble: interrupted, in threads, dropped half way, their version expired. Nothing is left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lakefmt
from lakefmt.errors import VersionExpired

FACES = ("numpy", "pytorch")


@pytest.fixture
def ds(tmp_path: Path) -> Any:
    ds = lakefmt.empty(str(tmp_path / "ds"))
    ds.create_tensor("image", htype="image", sample_compression="png")
    ds.create_tensor("x", dtype="float32", shape=(64, 64))
    ds.create_tensor("label", dtype="int64")
    for part in range(2):
        rng = np.random.default_rng(part)
        ds.extend(
            {
                "image": list(rng.integers(0, 255, (60, 16, 16, 3), dtype=np.uint8)),
                "x": rng.random((60, 64, 64), dtype=np.float32),
                "label": np.arange(60) + 60 * part,
            }
        )
        ds.commit(f"part {part}")
    return ds


def held() -> tuple[set[str], set[str], set[int], set[str]]:
    """Threads of ours, open files, child processes, and shared memory."""
    threads = {t.name for t in threading.enumerate() if t.name.startswith("lakefmt")}
    files = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    files = {f for f in files if "lakefmt" in f or "/shm/" in f or "memfd" in f}
    children = {p.pid or 0 for p in multiprocessing.active_children()}
    shm = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    return threads, files, children, shm


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    gc.collect()
    before = held()
    yield
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        gc.collect()
        if all(now <= then for now, then in zip(held(), before, strict=True)):
            return
        time.sleep(0.02)
    assert held() == before


def chain(ds: Any) -> Any:
    return ds.dataloader().batch(8).shuffle(seed=2)


def numbers_of(loader: Any) -> list[int]:
    return [int(v) for b in loader for v in b["label"]]


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("workers", [0, 2])
def test_dropped_half_way(ds: Any, face: str, workers: int) -> None:
    iterator = iter(getattr(chain(ds), face)(num_workers=workers))
    for _ in range(3):
        next(iterator)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_consumer(ds: Any, face: str, workers: int) -> None:
    def consume() -> None:
        for number, _ in enumerate(getattr(chain(ds), face)(num_workers=workers)):
            if number == 3:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()


@pytest.mark.parametrize("face", FACES)
def test_in_a_thread_and_two_at_once(ds: Any, face: str) -> None:
    loaders = [getattr(chain(ds), face)() for _ in range(3)]
    seen: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda i=i, loader=loader: seen.update({i: numbers_of(loader)})) for i, loader in enumerate(loaders)
    ]
    for thread in threads:
        thread.start()
    expected = numbers_of(getattr(chain(ds), face)())
    for thread in threads:
        thread.join()
    assert [seen[i] for i in range(3)] == [expected] * 3


def test_one_iterator_among_threads(ds: Any) -> None:
    iterator, seen, lock = iter(chain(ds).numpy()), list[int](), threading.Lock()

    def take() -> None:
        while True:
            with lock:  # the loader is an iterator like any other: one caller at a time
                batch = next(iterator, None)
            if batch is None:
                return
            seen.extend(batch["label"].tolist())

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(120))


@pytest.mark.parametrize("face", FACES)
def test_a_version_that_expires_under_a_loader(tmp_path: Path, face: str) -> None:
    ds = lakefmt.empty(str(tmp_path / "unnamed"))
    ds.create_tensor("label", dtype="int64")
    ds.create_tensor("x", dtype="float32", shape=(64, 64))
    ds.extend({"label": np.arange(500), "x": np.zeros((500, 64, 64), np.float32)})
    ds.flush()  # a version without a name, which nothing keeps
    loader = getattr(chain(lakefmt.load(ds.path, read_only=True)), face)()
    ds.label[:] = np.arange(500) + 1000
    ds.x[:] = np.ones((500, 64, 64), np.float32)
    ds.flush()
    ds.compact()
    ds.expire(0, grace_s=0)
    with pytest.raises(VersionExpired, match="expire"):
        numbers_of(loader)


def test_a_leased_version_stays(ds: Any) -> None:
    ds.append({"image": np.zeros((16, 16, 3), np.uint8), "x": np.zeros((64, 64), np.float32), "label": 120})
    ds.flush()
    reader = lakefmt.load(ds.path, read_only=True)
    with reader.lease():
        loader = chain(reader).numpy()
        ds.label[:] = np.arange(121) + 1000
        ds.commit("other labels")
        ds.compact()
        ds.expire(0, grace_s=0)
        assert sorted(numbers_of(loader)) == list(range(121))


INTERRUPTED = """
import os, signal, sys, threading, time
import lakefmt

def main():
    ds = lakefmt.load(sys.argv[1], read_only=True)
    loader = getattr(ds.dataloader().transform({"label": None, "image": slow}).batch(4), sys.argv[2])(num_workers=int(sys.argv[3]))
    try:
        for number, batch in enumerate(loader):
            if number == 1:
                os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        left = [t.name for t in threading.enumerate() if t.name.startswith("lakefmt")]
        print("interrupted after", number + 1, left, flush=True)
        del loader
        return
    print("not interrupted", flush=True)

def slow(value):
    time.sleep(0.005)
    return value

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_from_the_keyboard(ds: Any, tmp_path: Path, face: str, workers: int) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, str(script), ds.path, face, str(workers)],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip
    assert "interrupted after 2" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
