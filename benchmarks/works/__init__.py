"""The works, one module each."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from benchmarks.model import Work

NAMES = ("tensors", "texts", "jpegs", "writing", "query", "memory", "appends", "log_append", "log_many", "log_writers")


def work(name: str) -> Work:
    """The module of a work."""
    if name not in NAMES:
        raise KeyError(f"no work '{name}'; the works are: {', '.join(NAMES)}")
    return cast(Work, import_module(f"benchmarks.works.{name}"))
