"""The measuring process: ``python benchmarks/worker.py TASK``, TASK being a task as JSON; prints one sample
as JSON.

It runs in the virtual environment of the contender, from this file's path, so that nothing of the project is
before the environment's own packages on ``sys.path``. What libraries print goes to stderr; stdout carries the
one line only.
"""

from __future__ import annotations

import os
import platform
import sys
import traceback
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

TELLING = (
    "deeplake", "pylance", "deltalake", "mosaicml-streaming", "litdata", "webdataset", "datasets",
    "torch", "numpy", "pyarrow", "duckdb", "simplejpeg",
)  # fmt: skip
"""Distributions whose versions are recorded, where installed."""


def versions() -> dict[str, str]:
    """Versions of Python and of what matters in this environment."""
    found = {"python": platform.python_version()}
    for name in TELLING:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if "lakefmt" in sys.modules:
        found["lakefmt"] = str(getattr(sys.modules["lakefmt"], "__version__", "?"))
    return found


def perform(text: str) -> str:
    """Do a task; the answer is a sample, with ``error`` filled where it failed."""
    from benchmarks.model import Sample, Task
    from benchmarks.works import work

    task = Task.loads(text)
    sample = Sample()
    try:
        sample = getattr(work(task.work), task.phase)(task) or sample
    except Exception as error:
        traceback.print_exc()
        last = (str(error).strip().splitlines() or [""])[-1]
        sample.error = f"{type(error).__name__}: {last}".strip(": ")
    sample.versions = versions()
    sample.load_1min = os.getloadavg()[0]
    return sample.dumps()


def main() -> None:
    sys.path[0:1] = []  # the folder of this script, whose modules are reached as benchmarks.* instead
    sys.path.append(str(ROOT))
    answer = os.dup(1)
    os.dup2(2, 1)
    line = perform(sys.argv[1])
    sys.stdout.flush()
    with os.fdopen(answer, "w") as out:
        out.write(line + "\n")
    sys.stderr.flush()
    os._exit(0)  # some peers' threads outlive their dataset and would hold the process


if __name__ == "__main__":
    main()
