"""A writer is killed at any moment: what was acknowledged is there, whole; what was under way is there or not; the next goes on.

A process appends, updates, deletes, commits, compacts and makes branches in a folder. Before each step it tells through a pipe what
its branch will read as after it, and after the step which version was acknowledged. It is killed by SIGKILL at a random moment.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import xxhash

import lakefmt
from lakefmt.testing import _context
from lakefmt.upkeep import look_over
from lakefmt.versioning import leaves

KILLS, KILLS_NIGHTLY = 12, 200
#: Kills on one folder, and earlier versions read again after each of them.
KILLS_A_FOLDER, READ_AGAIN = 20, 10
STEPS_MAX, ROWS_MAX, BRANCHES_MAX = 8, 40, 4
Rows = list[tuple[int, str]]


def _digest(rows: Rows) -> str:
    return xxhash.xxh64(repr(rows).encode()).hexdigest()


def _rows(ds: Any) -> Rows:
    return list(zip(ds.x.numpy().tolist(), (v.tolist() for v in ds.text.numpy(aslist=True)), strict=True))


@dataclass(frozen=True)
class Step:
    """A branch, what it reads as after the step, and the step."""

    branch: str
    rows: Rows
    do: Callable[[], Any]


class Work:
    """The writer: random steps on one handle."""

    def __init__(self, path: str, seed: int) -> None:
        leaves.INLINE_MAX, leaves.INLINE_KEPT = 6, 2  # few fragments, so that leaves are written too
        self.ds = lakefmt.load(path)
        self.rng = random.Random(seed)
        self.next = 1000 * seed

    def step(self) -> Step | None:
        """One step, if the one drawn makes sense here."""
        names = ["append"] * 4 + ["flush"] * 3 + ["update"] * 2 + ["delete", "commit", "compact", "branch", "checkout"]
        rows = _rows(self.ds)
        name = self.rng.choice(names) if len(rows) <= ROWS_MAX else "delete"
        step: Step | None = getattr(self, f"_{name}")(self.ds.branch, rows)
        return step

    def _fresh(self, n: int) -> Rows:
        self.next += n
        # a long text gives the rows files of their own, a short one lets them lie in the version object
        return [(i, f"text {i} " * self.rng.choice([1, 1, 400])) for i in range(self.next - n, self.next)]

    def _append(self, branch: str, rows: Rows) -> Step:
        fresh = self._fresh(self.rng.randint(1, 4))

        def do() -> None:
            self.ds.extend({"x": [x for x, _ in fresh], "text": [t for _, t in fresh]})
            self.ds.commit("appended")

        return Step(branch, rows + fresh, do)

    def _flush(self, branch: str, rows: Rows) -> Step:
        fresh = self._fresh(3)

        def do() -> None:
            for x, text in fresh:
                self.ds.append({"x": x, "text": text})
            self.ds.flush()

        return Step(branch, rows + fresh, do)

    def _update(self, branch: str, rows: Rows) -> Step | None:
        if not rows:
            return None
        at, ((_, text),) = self.rng.randrange(len(rows)), self._fresh(1)

        def do() -> None:
            self.ds.text[at] = text
            self.ds.flush()

        return Step(branch, [*rows[:at], (rows[at][0], text), *rows[at + 1 :]], do)

    def _delete(self, branch: str, rows: Rows) -> Step | None:
        if not rows:
            return None
        some = sorted(self.rng.sample(range(len(rows)), max(1, len(rows) // 2)))
        return Step(branch, [r for i, r in enumerate(rows) if i not in some], lambda: self.ds.pop(some))

    def _commit(self, branch: str, rows: Rows) -> Step:
        return Step(branch, rows, lambda: self.ds.commit("named", allow_empty=True))

    def _compact(self, branch: str, rows: Rows) -> Step:
        return Step(branch, rows, self.ds.compact)

    def _branch(self, _: str, rows: Rows) -> Step | None:
        name = f"branch-{self.next}"
        if len(self.ds.branches) >= BRANCHES_MAX or name in self.ds.branches:
            return None
        return Step(name, rows, lambda: self.ds.checkout(name, create=True))

    def _checkout(self, _: str, __: Rows) -> None:
        self.ds.checkout(self.rng.choice(self.ds.branches))


def _write(path: str, seed: int, pipe: Connection) -> None:
    """In a process of its own, until it is killed: announce a step, do it, tell the version acknowledged."""
    try:
        work = Work(path, seed)
        pipe.send(("ready",))
        while True:
            step = work.step()
            if step is not None:
                pipe.send(("begins", step.branch, _digest(step.rows)))
                step.do()
                assert (work.ds.branch, _rows(work.ds)) == (step.branch, step.rows), "the writer reads something else itself"
                pipe.send(("done", step.branch, _digest(step.rows), work.ds.version_id))
    except Exception:
        pipe.send(("failed", traceback.format_exc()))


@dataclass
class Known:
    """What is known of one folder.

    Attributes:
        heads: per branch, what it read as when it was last acknowledged.
        versions: every version acknowledged, and what it read as.
        under_way: branch and outcome of the step that was begun and not acknowledged.
    """

    heads: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    under_way: tuple[str, str] | None = None
    landed: int = 0
    mended: int = 0

    def hear(self, message: tuple[str, ...]) -> None:
        """Take a message of the writer in."""
        match message:
            case ("begins", branch, digest):
                self.under_way = (branch, digest)
            case ("done", branch, digest, version):
                self.heads[branch], self.versions[version], self.under_way = digest, digest, None
            case ("failed", trace):
                pytest.fail(f"the writer failed by itself:\n{trace}")


def _run_and_kill(path: str, known: Known, seed: int, rng: random.Random) -> None:
    """A writer that lives for some steps and a moment, which is measured in steps too: this machine may be slow just now."""
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_write, args=(path, seed, theirs), daemon=True)  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    message = ours.recv()
    assert message == ("ready",), message
    began, steps = time.monotonic(), rng.randint(1, STEPS_MAX)
    for _ in range(2 * steps):
        known.hear(ours.recv())
    until = time.monotonic() + rng.uniform(0, 2) * (time.monotonic() - began) / steps
    while (left := until - time.monotonic()) > 0 and ours.poll(left):
        known.hear(ours.recv())
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):  # a message may be cut off in its middle
        while True:
            known.hear(ours.recv())


def _check_after(path: str, known: Known, rng: random.Random) -> None:
    report, repair = look_over(path, repair=True)
    if not report:
        assert repair is not None
        assert {p.what for p in report.problems} == {"torn"}, report
        assert look_over(path)[0], "a repair mends what was torn"
        known.mended += 1
    names = lakefmt.load(path).branches
    assert set(known.heads) - set(names) == set(), "an acknowledged branch is there"
    fresh = set(names) - set(known.heads)
    assert fresh <= {known.under_way[0]} if known.under_way else not fresh
    for name in names:
        ds = lakefmt.load(f"{path}@{name}")
        digest = _digest(_rows(ds))
        after = known.under_way[1] if known.under_way and known.under_way[0] == name else None
        assert digest in (known.heads.get(name), after), f"branch {name} reads as neither before nor after the last step"
        known.landed += digest != known.heads.get(name)
        known.heads[name] = known.versions[ds.version_id] = digest
    known.under_way = None
    versions = list(known.versions)
    for version in {*versions[-READ_AGAIN:], *rng.sample(versions, min(READ_AGAIN, len(versions)))}:
        _check_version(path, known, version)


def _check_version(path: str, known: Known, version: str) -> None:
    assert _digest(_rows(lakefmt.load(f"{path}@{version}"))) == known.versions[version], f"version {version} reads otherwise"


def _kill(folder: Path, kills: int) -> None:
    rng = random.Random(kills)
    acknowledged = landed = mended = 0
    for start in range(0, kills, KILLS_A_FOLDER):
        path = str(folder / f"set-{start}")
        ds = lakefmt.dataset(path)
        ds.create_tensor("x", dtype="int64")
        ds.create_tensor("text", htype="text")
        known = Known(heads={"main": _digest([])})
        for i in range(start, min(kills, start + KILLS_A_FOLDER)):
            _run_and_kill(path, known, i + 1, rng)
            _check_after(path, known, rng)
        for version in known.versions:
            _check_version(path, known, version)
        report = lakefmt.load(path).fsck(full=True)
        assert report, report
        acknowledged, landed, mended = acknowledged + len(known.versions), landed + known.landed, mended + known.mended
    print(f"\n{kills} kills: {acknowledged} versions acknowledged, {landed} steps landed unacknowledged, {mended} torn logs mended")
    assert acknowledged > kills, "the writers came to write"


def test_a_writer_is_killed_at_random_moments(tmp_path: Path) -> None:
    _kill(tmp_path, KILLS)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_writer_is_killed_at_two_hundred_random_moments(tmp_path: Path) -> None:
    _kill(tmp_path, KILLS_NIGHTLY)
