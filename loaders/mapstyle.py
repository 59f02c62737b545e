"""A map-style torch dataset, for people who bring their own ``DataLoader`` and sampler.

torch asks such a dataset for the rows of a batch at once (``__getitems__``) and gives the answer to
``collate_fn``. The answer here is a sequence that looks like a list of row dicts but holds whole columns;
``collate`` recognises it and hands the columns out as they are, so that no row becomes a Python object. Any
other collate function sees rows::

    data = map_dataset(ds)
    DataLoader(data, batch_size=64, sampler=..., collate_fn=data.collate)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np

from lakefmt.errors import InvalidInput, MissingExtra, RowIndexError
from lakefmt.loaders import checks
from lakefmt.loaders.batch import Batch, row_of
from lakefmt.loaders.engine import Engine
from lakefmt.loaders.options import Functions, ReadOptions, recipe_of
from lakefmt.loaders.recipe import Recipe, SampleFn
from lakefmt.loaders.stats import Stats
from lakefmt.loaders.steps import Step
from lakefmt.rows import RowSource

try:
    import torch
    from torch.utils.data import Dataset
except ImportError as e:
    raise MissingExtra("the PyTorch dataset", "torch") from e

from lakefmt.loaders.tensors import to_torch


class RowsOf(Sequence[dict[str, Any]]):
    """The rows of a batch as a sequence of dicts, made when asked for."""

    def __init__(self, batch: Batch, n: int) -> None:
        self.batch = batch
        self._n = n

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, i: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, i: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, i: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(self._n))]
        if not -self._n <= i < self._n:
            raise IndexError(i)
        # a plain dict: torch's default collation iterates over keys
        return dict(row_of(self.batch, i % self._n).items())


class MapDataset(Dataset[dict[str, Any]]):
    """Rows by position, as dicts of tensors. Made by ``map_dataset``; picklable when its source is."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def __len__(self) -> int:
        return len(self._recipe.source)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """Row ``index`` (negative from the end).

        Raises:
            RowIndexError: there is no such row.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[Any]) -> RowsOf:
        """Rows ``indices``, gathered at once."""
        n = len(self)
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        wrong = rows[(rows < -n) | (rows >= n)]
        if wrong.size:
            raise RowIndexError(f"row {wrong[0]} of a dataset of {n} rows; rows are 0 to {n - 1}, or -1 to {-n} from the end")
        rows = np.where(rows < 0, rows + n, rows)
        batch = to_torch(Engine(self._recipe, Stats()).make(Step(rows, 0)), rows)
        return RowsOf(batch, len(rows))

    @staticmethod
    def collate(rows: Any) -> Any:
        """A batch of what ``__getitems__`` gave; of a list of row dicts, torch's default collation."""
        if isinstance(rows, RowsOf):
            return rows.batch
        return torch.utils.data.default_collate(rows)


def map_dataset(
    source: RowSource | Any,
    tensors: Sequence[str] | None = None,
    transform: SampleFn | Mapping[str, SampleFn | None] | None = None,
    decode_method: Mapping[str, str] | None = None,
) -> MapDataset:
    """A map-style dataset over a dataset, a view, or any ``RowSource``.

    Args:
        tensors: which tensors, in which order; default: those of the transform, or all.
        transform: a function per tensor, or one of the whole row; see ``Loader.transform``.
        decode_method: by tensor, ``numpy``, ``tobytes``, ``pil`` or ``data``.
    """
    rows = source.source() if hasattr(source, "source") else source
    if not hasattr(rows, "gather"):
        raise InvalidInput(f"map_dataset() takes a dataset or a view, got {type(source).__name__} {str(source)[:60]}")
    by_tensor = transform if isinstance(transform, Mapping) else None
    if by_tensor is None:
        checks.function("map_dataset", "transform", transform)
    row = None if isinstance(transform, Mapping) else transform
    options = ReadOptions(tensors=tensors, decode_method=decode_method)
    return MapDataset(recipe_of(rows, Functions(by_tensor=by_tensor, row=row), options))
