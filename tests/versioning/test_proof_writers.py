"""Many processes commit to one branch, and a quarter of their acknowledgements are lost: every row lands once, in a whole log.

Every commit appends one row that tells its writer and its number. Half of the writers flush (rows lie in version objects, and are
folded into files by whoever comes next), half commit by name. On S3 a proxy stands between: it lets the server apply a conditional
PUT, and then cuts the connection or answers 503 for a quarter of them.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

import lakefmt
from lakefmt.testing import race_processes
from lakefmt.versioning.encode import decode_version
from lakefmt.versioning.log import version_key
from lakefmt.versioning.records import Operation

PROXY = Path(__file__).parent / "ack_proxy.py"
SHARE = 0.25
#: Clients try again themselves, a bounded number of times: the end of the test must not depend on them.
_CLIENT = {"config_kwargs": {"retries": {"max_attempts": 2, "mode": "standard"}, "connect_timeout": 10, "read_timeout": 20}}


def _write(address: str, options: dict[str, Any] | None, writer: int, commits: int) -> tuple[list[str], float]:
    """Ids of the versions acknowledged, in order, and the seconds it took."""
    ds = lakefmt.load(address, storage_options=options)
    began = time.perf_counter()
    acknowledged = []
    for i in range(commits):
        ds.append({"writer": writer, "i": i})
        if writer % 2:
            ds.flush()
        else:
            ds.commit(f"{writer}-{i}")
        acknowledged.append(ds.version_id)
    return acknowledged, time.perf_counter() - began


def _make(address: str, options: dict[str, Any] | None) -> None:
    ds = lakefmt.dataset(address, storage_options=options)
    ds.create_tensor("writer", dtype="int64")
    ds.create_tensor("i", dtype="int64")


def _race(address: str, options: dict[str, Any] | None, writers: int, commits: int) -> list[list[str]]:
    """What each writer was told; says what it cost."""
    answers = race_processes(_write, [(address, options, w, commits) for w in range(writers)])
    seconds = [s for _, s in answers]
    slowest, fastest = max(seconds), min(seconds)
    print(f"\n{address.split(':')[0]}: {writers} x {commits} in {slowest:.1f} s: {writers * commits / slowest:.0f} commits/s")
    print(f"slowest/fastest writer {slowest / fastest:.2f} ({fastest:.1f} to {slowest:.1f} s)")
    return [ids for ids, _ in answers]


def _check(address: str, options: dict[str, Any] | None, told: list[list[str]], commits: int) -> None:
    ds = lakefmt.load(address, storage_options=options)
    writers = len(told)
    rows = list(zip(ds.writer.numpy().tolist(), ds.i.numpy().tolist(), strict=True))
    assert len(rows) == writers * commits
    assert sorted(rows) == [(w, i) for w in range(writers) for i in range(commits)], "none lost, none doubled"
    for w in range(writers):
        assert [i for v, i in rows if v == w] == list(range(commits)), "each writer's rows are in its order"
    assert len(set(ds[:].row_ids.tolist())) == len(rows)

    before = 3  # the version 0, and two tensors
    log, branch = ds._log, ds._log.claim.dataset
    numbers = log.numbers(branch)
    assert numbers == list(range(before + len(rows))), "the log is dense, and each commit is one version"
    versions = [decode_version(log.store.get(version_key(branch, v)), str(v)) for v in numbers]
    for a, b in itertools.pairwise(versions):
        assert b.head.v == a.head.v + 1
        assert b.head.ts_ms > a.head.ts_ms
        assert b.head.previous == a.xxh64
        assert b.head.rows == a.head.rows + (1 if b.head.v >= before else 0)
    assert len({v.head.transaction for v in versions}) == len(versions), "each transaction is there once"

    for w, ids in enumerate(told):
        at = [int(version.rpartition("-")[2]) for version in ids]
        assert all(version.startswith(f"{branch[:12]}-") for version in ids)
        assert at == sorted(set(at)), "acknowledgements come in the order of the log"
        for i, v in enumerate(at):  # the row that a version added is the one whose writer was told of it
            assert rows[v - before] == (w, i)
            head = versions[v].head
            assert (head.named, head.message) == ((False, None) if w % 2 else (True, f"{w}-{i}"))
            assert [t.rows for t in head.touched if t.operation is Operation.APPEND] == [1]
    report = ds.fsck(full=True)
    assert report, report


@contextmanager
def _proxied(options: dict[str, Any], seed: int, share: float = SHARE) -> Iterator[dict[str, Any]]:
    """Options that go through a proxy which loses acknowledgements."""
    command = [sys.executable, str(PROXY), options["endpoint_url"], str(seed), str(share)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        yield {**options, **_CLIENT, "endpoint_url": proxy.stdout.readline().strip()}
        proxy.terminate()


def _on_s3(bucket: str, options: dict[str, Any], writers: int, commits: int) -> None:
    address = f"s3://{bucket}/set"
    _make(address, options)
    with _proxied(options, seed=writers * commits) as through:
        told = _race(address, through, writers, commits)
        with urlopen(f"{through['endpoint_url']}/_hidden") as answer:
            hidden = json.load(answer)
    print(f"the proxy: {hidden}")
    assert hidden["cut"] > 0
    assert hidden["503"] > 0
    assert hidden["cut"] + hidden["503"] > writers * commits * SHARE / 2
    _check(address, options, told, commits)


def test_writers_on_a_local_disk(tmp_path: Path) -> None:
    address = str(tmp_path / "set")
    _make(address, None)
    _check(address, None, _race(address, None, 4, 15), 15)


def test_writers_on_s3_whose_acknowledgements_are_lost(s3_bucket: str, s3_options: dict[str, Any]) -> None:
    _on_s3(s3_bucket, s3_options, 4, 15)


def test_a_dataset_is_made_where_every_acknowledgement_is_lost(s3_bucket: str, s3_options: dict[str, Any]) -> None:
    """The store is safe, and says so late: a probe that is told "exists" of its own write must not take it for an overwrite."""
    address = f"s3://{s3_bucket}/set"
    with _proxied(s3_options, seed=1, share=1.0) as through:
        _make(address, through)
    assert sorted(lakefmt.load(address, storage_options=s3_options).tensors) == ["i", "writer"]


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_eight_writers_of_two_hundred_commits_on_a_local_disk(tmp_path: Path) -> None:
    address = str(tmp_path / "set")
    _make(address, None)
    _check(address, None, _race(address, None, 8, 200), 200)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_eight_writers_of_two_hundred_commits_on_s3(s3_bucket: str, s3_options: dict[str, Any]) -> None:
    _on_s3(s3_bucket, s3_options, 8, 200)
