"""What a stored dataset holds, for comparing before with after."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lakefmt


def values(dataset: Any, name: str = "x") -> list[Any]:
    """A tensor's samples as Python values."""
    return [None if v is None else v.tolist() for v in dataset[name].numpy(aslist=True)]


def contents(dataset: Any) -> dict[str, list[Any]]:
    """Every tensor's samples as Python values (bytes of images)."""
    return {
        name: dataset[name].tobytes() if tensor.sample_compression else values(dataset, name)
        for name, tensor in dataset.tensors.items()
    }


def stored(url: Any) -> tuple[str, list[str], dict[str, list[Any]], dict[str, Any]]:
    """All there is to know of a stored dataset: newest version, history, samples, definitions."""
    ds = lakefmt.load(url)
    definitions = {n: (t.htype, str(t.dtype), t.class_names) for n, t in ds.tensors.items()}
    return ds.version_id, [f"{h.branch}-{h.v}" for h in ds.history()], contents(ds), definitions


@contextmanager
def unchanged(dataset: Any) -> Iterator[None]:
    """What happens inside changes neither what is stored nor what the handle shows."""
    url = dataset.path
    before, shown, lengths = stored(url), contents(dataset), [len(t) for t in dataset.tensors.values()]
    rows, version, classes = len(dataset), dataset.version_id, {n: t.class_names for n, t in dataset.tensors.items()}
    yield
    assert stored(url) == before, "the stored dataset changed"
    assert (len(dataset), dataset.version_id) == (rows, version)
    assert contents(dataset) == shown
    assert [len(t) for t in dataset.tensors.values()] == lengths
    assert {n: t.class_names for n, t in dataset.tensors.items()} == classes


def python(code: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run code in a Python process of its own."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done
