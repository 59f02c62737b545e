"""Worker processes of the NumPy face: the same batches in the same order, and nothing left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader_fake import FakeSource, numbers

import lakefmt
from lakefmt.errors import BadSample, InvalidInput, WorkerDied
from lakefmt.loaders import dataloader


def doubled(value: Any) -> Any:
    return value * 2


def bad_seven(value: Any) -> Any:
    if int(value) == 7:
        raise BadSample("it is seven")
    return value


def whoami(batch: Any) -> Any:
    return {**dict(batch.items()), "pid": np.full(len(batch["label"]), os.getpid())}


def killed(value: Any) -> Any:
    if int(value) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


class Odd(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a + b)


def odd(value: Any) -> Any:
    raise Odd(1, 2)


@pytest.fixture(autouse=True)
def _nothing_left() -> Any:
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert multiprocessing.active_children() == []
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1  # the pipe of Python's own resource tracker


def test_the_same_batches_in_the_same_order() -> None:
    chain = dataloader(numbers(1000)).transform({"label": doubled, "x": None}).batch(64).shuffle(seed=3)
    here, there = chain.numpy(), chain.numpy(num_workers=2)
    for _ in range(2):
        assert [b["label"].tolist() for b in there] == [b["label"].tolist() for b in here]
    assert there.stats()["rows"] == 2000
    assert there.stats()["transform_s"] > 0
    there.close()


def test_processes_stay_from_epoch_to_epoch_and_are_others() -> None:
    loader = dataloader(numbers(40)).batch(10).map_batches(whoami).numpy(num_workers=2)
    pids = [[int(b["pid"][0]) for b in loader] for _ in range(2)]
    assert pids[0] == pids[1]
    assert len(set(pids[0])) == 2
    assert os.getpid() not in pids[0]
    loader.close()
    assert next(int(b["pid"][0]) for b in loader) not in pids[0]  # closed, it begins anew
    loader.close()


def test_large_arrays_arrive_whole_aligned_and_writable() -> None:
    data = FakeSource({"x": np.arange(40_000, dtype=np.float64).reshape(40, 1000), "y": np.arange(40.0)})
    loader = dataloader(data).batch(16).numpy(num_workers=1)
    batches = list(loader)
    loader.close()
    assert np.concatenate([b["x"] for b in batches]).tolist() == data.columns["x"].tolist()
    assert batches[0]["x"].__array_interface__["data"][0] % 64 == 0
    batches[0]["x"][:] = 0  # nobody else's
    assert batches[1]["x"][0, 0] == 16_000


def test_resuming_and_early_breaks() -> None:
    chain = dataloader(numbers(300)).batch(16).shuffle(seed=1)
    whole = [b["label"].tolist() for b in chain.numpy()]
    loader = chain.numpy(num_workers=2)
    iterator = iter(loader)
    seen = [next(iterator)["label"].tolist() for _ in range(5)]
    state = loader.state_dict()
    del iterator
    resumed = chain.numpy(num_workers=3)
    resumed.load_state_dict(state)
    assert seen + [b["label"].tolist() for b in resumed] == whole
    loader.load_state_dict(state)  # in the same processes, which were broken off
    assert [b["label"].tolist() for b in loader] == whole[5:]


def test_two_iterations_of_one_loader_at_once() -> None:
    loader = dataloader(numbers(64)).batch(8).numpy(num_workers=1)
    assert [(a["label"][0], b["label"][0]) for a, b in zip(loader, loader, strict=True)] == [(i, i) for i in range(0, 64, 8)]


def test_errors_come_over_with_the_place() -> None:
    with pytest.raises(BadSample, match=r"row 7 \(id 1007\), tensor 'label': it is seven") as caught:
        list(dataloader(numbers(20)).transform({"label": bad_seven}).batch(4).numpy(num_workers=2))
    assert any("in a worker process" in note for note in caught.value.__notes__)
    with pytest.raises(RuntimeError, match=r"Odd: 3 \(which cannot be sent"):
        list(dataloader(numbers(20)).transform({"label": odd}).batch(4).numpy(num_workers=1))


def test_bad_samples_are_collected() -> None:
    loader = dataloader(numbers(20)).transform({"label": bad_seven}).batch(4).numpy(num_workers=2, on_error="collect")
    assert [v for b in loader for v in b["label"].tolist()] == [v for v in range(20) if v != 7]
    assert [f.row for f in loader.errors] == [7]
    loader.close()


def test_a_killed_process_is_told_of() -> None:
    with pytest.raises(WorkerDied, match="exit code -9"):
        list(dataloader(numbers(20)).transform({"label": killed}).batch(4).numpy(num_workers=2))


def test_functions_that_cannot_travel() -> None:
    with pytest.raises(InvalidInput, match=r"num_workers=1.*lambdas"):
        list(dataloader(numbers(20)).transform({"label": lambda v: v}).batch(4).numpy(num_workers=1))


def test_a_dropped_loader_ends_its_processes() -> None:
    loader = dataloader(numbers(2000)).batch(4).numpy(num_workers=2)
    iterator = iter(loader)
    next(iterator)
    children = multiprocessing.active_children()
    assert len(children) == 2
    del iterator, loader
    gc.collect()
    assert multiprocessing.active_children() == []


def test_the_processes_end_with_a_killed_consumer(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    consumer = context.Process(target=_consume_and_be_killed, args=(str(tmp_path / "pids"),))
    consumer.start()
    consumer.join()
    pids = [int(p) for p in (tmp_path / "pids").read_text().split()]
    consumer.close()
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(_runs(p) for p in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(p) for p in pids)


def _consume_and_be_killed(path: str) -> None:
    running = iter(dataloader(numbers(2000)).batch(4).numpy(num_workers=2))
    next(running)
    Path(path).write_text(" ".join(str(p.pid) for p in multiprocessing.active_children()))
    os.kill(os.getpid(), signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_dataset_in_memory_is_not_there_for_others() -> None:
    ds = lakefmt.dataset("mem://not-for-workers", overwrite=True)
    ds.create_tensor("label", dtype="int64")
    ds.extend({"label": np.arange(10)})
    ds.commit("ten")
    with pytest.raises(InvalidInput, match=r"mem://not-for-workers lives in the memory of this process.*num_workers=0"):
        list(ds.dataloader().batch(2).numpy(num_workers=1))
