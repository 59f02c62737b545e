"""The example trains a GPT, is killed by SIGKILL, and goes on to the very losses and weights of a run that never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "tiny_gpt.py"
TEXT = ROOT / "LICENSE"
STEPS, SAVE_EVERY = 90, 8
SIZES = {
    "steps": STEPS, "save-every": SAVE_EVERY, "print-every": 1, "batch-size": 8, "block-size": 24, "width": 16, "layers": 1,
    "heads": 2, "sample": 5,
}  # fmt: skip

#: Runs the example, and dies when it is about to print the n-th line, or to put the n-th checkpoint in place.
_DYING = """
import builtins, os, runpy, signal, sys
what, nth, example = sys.argv[1:4]
left = [int(nth)]
def dying(real, counts):
    def call(*args, **kwargs):
        left[0] -= counts(*args)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call
if what == "print":
    builtins.print = dying(print, lambda *_: True)
else:
    os.replace = dying(os.replace, lambda _, to: str(to).endswith("checkpoint.pt"))
sys.argv = sys.argv[3:]
runpy.run_path(example, run_name="__main__")
"""


def options(out: Path) -> list[str]:
    return [str(TEXT), "--out", str(out), *(f"--{name}={value}" for name, value in SIZES.items())]


def python(*command: str) -> subprocess.CompletedProcess[str]:
    """Run this checkout's lakefmt in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env=environment)


def run(out: Path) -> str:
    done = python(str(EXAMPLE), *options(out))
    assert done.returncode == 0, done.stderr
    return done.stdout


def result(out: Path) -> Any:
    return torch.load(out / "checkpoint.pt", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("whole")
    run(out)
    return result(out)


@pytest.mark.parametrize(("what", "nth", "saved"), [("print", 45, 40), ("save", 9, 64)], ids=["in a step", "while saving"])
def test_killed_and_resumed_it_is_the_same_run(uninterrupted: Any, tmp_path: Path, what: str, nth: int, saved: int) -> None:
    died = python("-c", _DYING, what, str(nth), str(EXAMPLE), *options(tmp_path))
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert result(tmp_path)["step"] == saved, "some steps of an epoch are lost, and have to be done again"
    assert f"resumed at step {saved}\n" in run(tmp_path)
    whole, again = uninterrupted, result(tmp_path)
    assert again["losses"] == whole["losses"]
    assert len(whole["losses"]) == STEPS
    assert whole["losses"][-1] < whole["losses"][0] - 1, "it learns"
    assert again["loader"] | {"source": "", "source_text": ""} == whole["loader"] | {"source": "", "source_text": ""}
    for name, weights in whole["model"].items():
        assert torch.equal(again["model"][name], weights), name
    for number, moments in whole["optimiser"]["state"].items():
        assert all(torch.equal(value, again["optimiser"]["state"][number][key]) for key, value in moments.items())
