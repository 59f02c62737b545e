"""What can be read: the part shared by datasets and views. Rows, tensors, indexing, iteration; queries and loaders by name."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lakefmt.cells import Array, Cells, Rows
from lakefmt.download import download
from lakefmt.errors import InvalidInput, NoSuchTensor, ReadOnly, RowIndexError, nearest
from lakefmt.fragment.columns import Shape
from lakefmt.htypes import TensorDef, shown
from lakefmt.rows import RowSource
from lakefmt.storage import Downloaded, Progress

if TYPE_CHECKING:
    from lakefmt.tensor import Tensor
    from lakefmt.view import View


class Rowset(ABC):
    """An ordered sequence of rows with named tensors."""

    #: whether it stands for one row, so that its tensors give samples and not arrays of them
    _single = False

    @abstractmethod
    def _rows_now(self) -> Any:
        """The rows as they are now, buffered ones included: a source with ``gather`` and ``shapes``."""

    @abstractmethod
    def source(self) -> RowSource:
        """The rows as stored (a dataset flushes first): what loaders and queries read."""

    def __len__(self) -> int:
        return len(self._rows_now())

    # -- tensors -------------------------------------------------------------------------------------------------------

    @property
    def _definitions(self) -> Mapping[str, TensorDef]:
        definitions: Mapping[str, TensorDef] = self._rows_now().definitions
        return definitions

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name, in order of creation."""
        return {name: self._tensor(name) for name in self._definitions}

    @property
    def groups(self) -> list[str]:
        """Names of the groups at the top level."""
        return sorted({n.split("/", 1)[0] for n in self._definitions if "/" in n})

    def _tensor(self, name: str) -> Tensor:
        from lakefmt.tensor import Tensor

        return Tensor(self, name)

    def _named(self, name: str) -> Any:
        name = str.__str__(name)  # of an Enum that is a str too, its value
        if name in self._definitions:
            return self._tensor(name)
        if any(n.startswith(name + "/") for n in self._definitions):
            return Group(self, name)
        methods = [m for m in dir(type(self)) if not m.startswith("_")]
        if name not in self._definitions and difflib.get_close_matches(name, methods, n=1, cutoff=0.8):
            raise NoSuchTensor(f"no tensor, group or method {name!r}; {nearest(name, [*self._definitions, *methods])}")
        raise NoSuchTensor(f"no tensor or group {name!r}; {nearest(name, self._definitions)}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._named(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            raise InvalidInput(f"nothing is stored by setting {name!r}: assign to rows, e.g. ds[{name!r}][3] = value")
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(n for n in self._definitions if n.isidentifier()), *self.groups]

    def __contains__(self, name: object) -> bool:
        return name in self._definitions

    # -- rows ----------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        """``ds["tensor"]``, ``ds["group/tensor"]``, ``ds[5]``, ``ds[a:b:c]``, ``ds[[1, 4]]``, ``ds[mask]``, ``ds[["a", "b"]]``."""
        if isinstance(key, str):
            return self._named(key)
        if isinstance(key, (list, tuple)) and key and all(isinstance(k, str) for k in key):
            return self._select(tuple(key))
        rows, single = resolve_rows(key, len(self))
        return self._take(rows, single)

    def _take(self, rows: Rows, single: bool) -> View:
        from lakefmt.view import View

        return View(self._rows_now(), rows, single=single, origin=self)

    def _select(self, names: tuple[str, ...]) -> View:
        from lakefmt.view import View

        for name in names:
            self._named(name)
        source = self._rows_now()
        return View(source, np.arange(len(source)), names={n: n for n in names}, origin=self)

    def __iter__(self) -> Iterator[View]:
        from lakefmt.view import View

        source = self._rows_now()
        for i in range(len(source)):
            yield View(source, np.array([i]), single=True, origin=self)

    # -- writing: what only datasets do ---------------------------------------------------------------------------------

    def __setitem__(self, key: Any, value: Any) -> None:
        name = key if isinstance(key, str) else "tensor"
        raise InvalidInput(f"samples are assigned to rows of a tensor: ds[{name!r}][3] = value, or ds[{name!r}][:] = values")

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Views are read-only."""
        raise ReadOnly("a view is read-only: write to the dataset it comes from")

    delete = pop = commit = update

    # -- reading through the rows' source ------------------------------------------------------------------------------

    def _gather(self, name: str, rows: Rows) -> Cells:
        cells: Cells = self._rows_now().gather(name, rows)
        return cells

    def _tensor_rows(self, name: str) -> int:
        """Length of one tensor."""
        return len(self)

    def _shapes(self, name: str, rows: Rows) -> list[Shape | None]:
        shapes: list[Shape | None] = self._rows_now().shapes(name, rows)
        return shapes

    # -- looking -------------------------------------------------------------------------------------------------------

    def summary(self) -> None:
        """Print a table of the tensors."""
        from lakefmt.show import print_summary

        print_summary(self)

    def __repr__(self) -> str:
        from lakefmt.show import describe

        return describe(self)

    def _repr_html_(self) -> str:
        from lakefmt.show import describe_html

        return describe_html(self)

    # -- the rooms above -----------------------------------------------------------------------------------------------

    def query(self, tql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> View:
        """Rows (and computed columns) that a TQL query selects.

        Args:
            tql: ``select …``, or a bare condition such as ``text.contains("1")`` or ``labels == 'cat'``.
            parameters: values for ``?`` (a sequence) or ``$name`` (a mapping) in the query.

        Raises:
            TqlError: the query does not parse or does not fit the tensors; it points at the place.
        """
        from lakefmt.query import run_query

        return run_query(self, tql, parameters)

    def dataloader(self, ignore_errors: bool = False) -> Any:
        """A loader to be configured step by step: ``.batch(3).shuffle().pytorch()``.

        Args:
            ignore_errors: leave bad samples out, and list them in the loader's ``errors`` (as ``on_error="collect"`` does).
        """
        from lakefmt import random
        from lakefmt.loaders import dataloader

        return dataloader(
            self.source(),
            query=lambda tql: self.query(tql).dataloader(),
            seed=random.next_seed,
            weigh=self._weigh,
            classify=self._classify,
            ignore_errors=ignore_errors,
        )

    def pytorch(self, transform: Any = None, **options: Any) -> Any:
        """A ``torch.utils.data.DataLoader`` over these rows: ``dataloader()``'s steps and ``.pytorch()``'s options in one call.

        Args:
            transform: a dict of tensor to function, or a function of the row.
            options: ``batch_size`` (1), ``drop_last``, ``shuffle``, ``buffer_size``, ``transform_kwargs``; and what
                ``.pytorch()`` takes: ``tensors``, ``num_workers``, ``collate_fn``, ``decode_method``, ``pad_tensors``, ….
        """
        from lakefmt.loaders import shortened

        loader, rest = shortened(self.dataloader(), {"transform": transform, **options})
        return loader.pytorch(**rest)

    def tensorflow(self, tensors: Sequence[str] | None = None) -> Any:
        """A ``tf.data.Dataset`` of single rows."""
        from lakefmt.loaders import tensorflow_rows

        return tensorflow_rows(self.source(), tensors=tensors)

    def download(
        self, tensors: Sequence[str] | None = None, *, progress: Callable[[Progress], object] | None = None
    ) -> Downloaded:  # fmt: skip
        """Bring all that these rows need to this host, so that reading them asks nobody for data any more. (A dataset stores first
        what it has buffered; what is local already is left as it is.)

        Files go whole, and checked, into the disk cache (``$LAKEFMT_CACHE``, else the user's cache folder), where they stay: only
        other downloads may push them out, within ``local_cache_size``; where none was set, the cache grows as needed. All
        processes of this host that open the dataset with a disk cache, or call this, use them. An interrupted download goes on
        where it stopped when called again. Opening the dataset asks its store for the newest version still.

        Args:
            tensors: names of tensors or groups, whose files alone are fetched; by default all.
            progress: called now and then with ``files``, ``files_total``, ``nbytes`` and ``nbytes_total``.

        Returns:
            ``files`` and ``nbytes`` fetched, ``seconds``, and how many files were ``present``.

        Raises:
            NoSuchTensor: there is none of that name.
            InvalidInput: the files do not fit ``local_cache_size``.
            StoreError: the disk has not enough room (nothing is fetched then), or fetching failed.
            Corrupt, VersionExpired: a file is damaged, or gone.
        """
        return download(self.source(), tensors, progress)

    def _weigh(self, tql: str) -> Array:
        """Weights of all rows from a TQL expression."""
        from lakefmt.query import evaluate

        return evaluate(self, tql)

    def _classify(self, tql: str) -> Any:
        """Numbers or texts of all rows from a TQL expression: a class a row."""
        from lakefmt.query import values_of

        return values_of(self, tql)


class Group:
    """Tensors whose names begin with ``name/``."""

    def __init__(self, rowset: Rowset, name: str) -> None:
        self._rowset, self._name = rowset, name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._rowset[f"{self._name}/{name}"]

    def __getitem__(self, name: str) -> Any:
        return self._rowset[f"{self._name}/{name}"]

    @property
    def tensors(self) -> dict[str, Any]:
        """Tensors by the part of their name after the group's."""
        prefix = self._name + "/"
        return {n[len(prefix) :]: self._rowset[n] for n in self._rowset._definitions if n.startswith(prefix)}

    def __repr__(self) -> str:
        return f"Group({self._name!r}, tensors={list(self.tensors)})"


def resolve_rows(key: Any, length: int) -> tuple[Rows, bool]:
    """Positions that an index means, and whether it is a single row.

    Raises:
        RowIndexError: outside the rows, or no index at all.
    """
    if isinstance(key, (int, np.integer)) and not isinstance(key, (bool, np.bool_)):
        row = int(key) + length if key < 0 else int(key)
        if not 0 <= row < length:
            raise RowIndexError(f"row {shown(int(key))} is outside the {length} rows there are")
        return np.array([row]), True
    if key is Ellipsis or (isinstance(key, tuple) and not key):
        return np.arange(length), False
    if isinstance(key, slice):
        try:
            start, stop, step = key.indices(length)
        except (TypeError, ValueError) as e:
            raise RowIndexError(f"{key!r} is no slice of rows: {e}") from None
        return np.arange(start, stop, max(-length - 1, min(length + 1, step))), False
    try:
        array = np.asarray(key)
    except ValueError:
        array = np.empty((), object)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
        raise RowIndexError(
            f"{shown(key)} is no row index: use an int, a slice, or a one-dimensional list or array of ints or bools"
        )
    if array.dtype.kind == "b":
        if len(array) != length:
            raise RowIndexError(f"a mask of {len(array)} booleans does not fit {length} rows")
        return np.flatnonzero(array), False
    if array.dtype.kind == "u" and array.size and int(array.max()) >= length:
        raise RowIndexError(f"row {int(array.max())} is outside the {length} rows there are")
    rows = array.astype(np.int64)
    rows = np.where(rows < 0, rows + length, rows)
    if rows.size and (rows.min() < 0 or rows.max() >= length):
        bad = int(array[(rows < 0) | (rows >= length)][0])
        raise RowIndexError(f"row {bad} is outside the {length} rows there are")
    return rows, False
