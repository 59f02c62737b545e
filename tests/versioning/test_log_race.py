"""Many writers at once: every append lands once, in a dense log; a place becomes one dataset."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from faulty_stores import memory, opened, values

import lakefmt
from lakefmt.testing import race_processes
from lakefmt.versioning.log import Log

WRITERS, APPENDS = 4, 25


def _append(path: str, writer: int, appends: int) -> None:
    ds = lakefmt.load(path)
    for i in range(appends):
        ds.append({"x": writer * 1000 + i})
        ds.flush()


def _dense(store: Any) -> list[int]:
    uuid = Log.open(store).claim.dataset
    prefix = f"log/{uuid}/"
    return sorted(int(e.key[len(prefix) : -5]) for e in store.list(prefix) if e.key.endswith(".json"))


def _check(ds: Any, writers: int, appends: int) -> None:
    got = values(ds)
    assert sorted(got) == [w * 1000 + i for w in range(writers) for i in range(appends)]
    for w in range(writers):  # each writer's own rows are in its order
        assert [v for v in got if v // 1000 == w] == [w * 1000 + i for i in range(appends)]
    ids = ds[:].row_ids.tolist()
    assert len(set(ids)) == writers * appends


def test_processes_on_one_local_dataset(tmp_path: Path) -> None:
    path = str(tmp_path / "set")
    lakefmt.dataset(path).create_tensor("x", dtype="int64")
    race_processes(_append, [(path, w, APPENDS) for w in range(WRITERS)])
    ds = lakefmt.load(path)
    _check(ds, WRITERS, APPENDS)
    assert _dense(ds._log.store) == list(range(2 + WRITERS * APPENDS))
    assert [h.v for h in ds.history()] == list(reversed(range(2 + WRITERS * APPENDS)))


@pytest.mark.nightly
def test_more_processes_for_longer(tmp_path: Path) -> None:
    path = str(tmp_path / "set")
    lakefmt.dataset(path).create_tensor("x", dtype="int64")
    race_processes(_append, [(path, w, 200) for w in range(8)])
    _check(lakefmt.load(path), 8, 200)


def test_threads_on_memory() -> None:
    store = memory()
    Log.create(store)
    opened(store).create_tensor("x", dtype="int64")
    handles = [opened(store) for _ in range(2)]
    failures: list[BaseException] = []

    def work(writer: int) -> None:
        try:
            for i in range(APPENDS):
                handles[writer].append({"x": writer * 1000 + i})
                handles[writer].flush()
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(w,)) for w in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    _check(opened(store), 2, APPENDS)
    assert _dense(store) == list(range(2 + 2 * APPENDS))


def test_threads_on_one_handle(mem_url: str) -> None:
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x", dtype="int64")

    def work(writer: int) -> None:
        for i in range(50):
            ds.append({"x": writer * 1000 + i})
            if i % 10 == 9:
                ds.flush()

    threads = [threading.Thread(target=work, args=(w,)) for w in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    ds.flush()
    _check(lakefmt.load(mem_url), 4, 50)


def _create(path: str, writer: int) -> str:
    ds = lakefmt.dataset(path)
    ds.create_tensor(f"t{writer}", dtype="int64")
    return str(ds._log.claim.dataset)


def test_creating_at_once_gives_one_dataset(tmp_path: Path) -> None:
    path = str(tmp_path / "set")
    uuids = race_processes(_create, [(path, w) for w in range(4)])
    assert len(set(uuids)) == 1
    ds = lakefmt.load(path)
    assert ds._log.claim.dataset == uuids[0]
    assert sorted(ds.tensors) == ["t0", "t1", "t2", "t3"]
    assert ds.branches == ["main"]
    assert _dense(ds._log.store) == list(range(5))


def _labels(path: str, names: list[str]) -> None:
    ds = lakefmt.load(path)
    for name in names:
        ds.append({"label": name})
        ds.flush()


def test_new_class_names_of_many_writers(tmp_path: Path) -> None:
    path = str(tmp_path / "set")
    lakefmt.dataset(path).create_tensor("label", htype="class_label")
    lists = [[f"w{w}-{i % 3}" for i in range(5)] + ["common"] for w in range(3)]
    race_processes(_labels, [(path, names) for names in lists])
    ds = lakefmt.load(path)
    got = ds.label.data()["text"]
    assert sorted(got) == sorted(n for names in lists for n in names)
    assert sorted(ds.label.class_names) == sorted({n for names in lists for n in names})


def _branch(path: str, writer: int) -> str:
    from lakefmt.errors import AlreadyExists

    ds = lakefmt.load(path)
    try:
        ds.checkout("dev", create=True)
    except AlreadyExists:
        return "exists"
    ds.append({"x": writer})
    ds.flush()
    return "made"


def test_making_a_branch_at_once_has_one_winner(tmp_path: Path) -> None:
    path = str(tmp_path / "set")
    lakefmt.dataset(path).create_tensor("x", dtype="int64")
    outcomes = race_processes(_branch, [(path, w) for w in range(3)])
    assert sorted(outcomes) == ["exists", "exists", "made"]
    assert values(lakefmt.load(f"{path}@dev")) == [outcomes.index("made")]
