"""lakefmt: open, versioned tensor datasets for deep learning.

    >>> import lakefmt
    >>> ds = lakefmt.dataset("mem://readme")
    >>> text = ds.create_tensor("text", htype="text")
    >>> ds.append({"text": "hello"})
    >>> len(ds)
    1

Importing this loads neither torch, tensorflow, duckdb nor sqlglot, does no I/O and starts no thread.
"""

from typing import Any

from lakefmt import errors, random
from lakefmt._version import __version__
from lakefmt.api import dataset, delete, empty, exists, load, query
from lakefmt.dataset import Dataset
from lakefmt.sample import Sample, read
from lakefmt.tensor import Tensor
from lakefmt.tokenising import tokenise
from lakefmt.versioning.diff import Diff
from lakefmt.view import View

__all__ = [
    "Dataset", "Diff", "Sample", "Tensor", "View", "__version__", "dataset", "delete", "empty", "errors", "exists", "load",
    "query", "random", "read", "tokenise",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "loaders":  # loaded on use, like the query engine
        import importlib

        return importlib.import_module("lakefmt.loaders")
    raise AttributeError(f"module 'lakefmt' has no attribute {name!r}")
