"""A map-style torch dataset, for people who bring their own ``DataLoader`` and sampler.

torch asks such a dataset for the rows of a batch at once (``__getitems__``) and gives the answer to
``collate_fn``. The answer here is a sequence that looks like a list of row dicts but holds whole columns;
``collate`` recognises it and hands the columns out as they are, so that no row becomes a Python object. Any
other collate function sees rows::

    data = map_dataset(ds)
    DataLoader(data, batch_size=64, sampler=..., collate_fn=data.collate)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np

from lakefmt.errors import InvalidInput, MissingExtra, RowIndexError
from lakefmt.loaders import checks
from lakefmt.loaders.batch import Batch, row_of
from lakefmt.loaders.engine import Engine
from lakefmt.loaders.options import Functions, ReadOptions, recipe_of
from lakefmt.loaders.recipe import Recipe, SampleFn
from lakefmt.loaders.session import listed
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

    def __repr__(self) -> str:
        return f"MapDataset({len(self)} rows; tensors {listed([c.name for c in self._recipe.columns])})"

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """Row ``index`` (negative from the end).

        Raises:
            InvalidInput: ``index`` is no integer.
            RowIndexError: there is no such row.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[Any]) -> RowsOf:
        """Rows ``indices``, gathered at once.

        Raises:
            InvalidInput: one of them is no integer.
            RowIndexError: there is no such row.
        """
        indices = indices.tolist() if hasattr(indices, "tolist") else indices  # an array's, at once
        if not isinstance(indices, Iterable):
            raise InvalidInput(f"__getitems__({indices!r}): give a list of row numbers")
        n = len(self)
        rows = np.array([self._row(i, n) for i in indices], dtype=np.int64)
        batch = to_torch(Engine(self._recipe, Stats()).make(Step(rows, 0)), rows)
        return RowsOf(batch, len(rows))

    @staticmethod
    def _row(index: Any, n: int) -> int:
        row = checks.whole(index)
        if row is None:
            raise InvalidInput(
                f"row {index!r} of a map_dataset: a row is an integer; for several, use torch.utils.data.Subset or a DataLoader, "
                "or make the map_dataset of a view (ds[2:5])"
            )
        if not -n <= row < n:
            there = f"rows are 0 to {n - 1}, or -1 to {-n} from the end" if n else "there are none"
            raise RowIndexError(f"row {checks.shown(row)} of a dataset of {n} rows; {there}")
        return row % n

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
