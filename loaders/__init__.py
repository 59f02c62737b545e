"""Feeding training: ``dataloader(source)`` begins a chain that ends in PyTorch, TensorFlow or NumPy.

plan -> steps -> engine (fetch, decode, transform, assemble) -> pipeline (threads) -> front end. One
batch-vectorised engine serves every front end; order is arithmetic on (seed, epoch, position), in ``plan``
and ``order``. Importing this loads neither torch nor tensorflow.
"""

from typing import Any

from lakefmt.loaders.arrays import NumpyLoader
from lakefmt.loaders.batch import Batch
from lakefmt.loaders.builder import Loader, dataloader, tensorflow_rows
from lakefmt.loaders.faults import Fault
from lakefmt.loaders.short import shortened

__all__ = ["Batch", "Fault", "Loader", "NumpyLoader", "dataloader", "map_dataset", "shortened", "tensorflow_rows"]


def __getattr__(name: str) -> Any:
    if name == "map_dataset":  # needs torch, which importing this package must not load
        from lakefmt.loaders.mapstyle import map_dataset

        return map_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
