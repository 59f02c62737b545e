"""The dataset handle. Thin: it hands over to the writer, the log, and the rooms above."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from lakefmt.bulk import delete_where, update_where, upsert
from lakefmt.cells import Cells, Rows
from lakefmt.errors import InvalidInput, LakeError, UnsavedRows, counted
from lakefmt.fragment.columns import Shape
from lakefmt.fragment.read import FileReader
from lakefmt.htypes import TensorDef
from lakefmt.rows import RowSource
from lakefmt.rowset import Rowset, resolve_rows
from lakefmt.schema import alter_tensor, create_tensor, drop_tensor, edit_tensor, rename_tensor, set_info
from lakefmt.storage import CacheSizes, cached, open_store
from lakefmt.tensor import Info, Tensor
from lakefmt.upkeep import Kept
from lakefmt.versioning.expire import DATA_FOLDERS
from lakefmt.versioning.log import Log
from lakefmt.versioning.records import Branch, Version
from lakefmt.versions import Versioned
from lakefmt.writer import Writer

_RESERVED_ATTRIBUTES = frozenset({"read_only"})


class Dataset(Versioned, Kept, Rowset):
    """A handle on a dataset at a branch (writable) or at a version (read-only).

    Rows appended through a handle are readable through it at once, and reach storage on ``flush()``, ``commit()``, leaving
    ``with ds:``, a full buffer, or interpreter exit. Other handles see them from then on, after ``refresh()``.
    """

    def __init__(self, log: Log, url: str, branch: Branch | None, version: Version, *, read_only: bool = False) -> None:
        self._log = log
        self._url = url
        self._branch = branch
        self._reader = FileReader(log.store)
        self._writer = Writer(log, version, self._reader, url)
        self._read_only = read_only
        self._finalizer = weakref.finalize(self, _flush_at_exit, self._writer, os.getpid())

    def __reduce__(self) -> Any:
        self.flush()
        store = self._log.store
        where = store.url if store.local_path("") is not None else self._url  # a relative path means another place elsewhere
        return (_reopen, (where, self.version_id, getattr(store.origin, "_options", None), getattr(store, "sizes", None)))

    # -- address and state ---------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Address of the dataset, without a version."""
        return self._url

    @property
    def is_view(self) -> bool:
        return False

    @property
    def read_only(self) -> bool:
        """Whether this handle refuses to write."""
        return self._read_only or self._branch is None

    @property
    def info(self) -> Info:
        """Metadata of the dataset, a versioned dict."""
        return Info(dict(self._writer.version.state.info), lambda values: set_info(self._write(), values))

    # -- writing -------------------------------------------------------------------------------------------------------

    def create_tensor(
        self,
        name: str,
        *,
        htype: str | None = None,
        dtype: Any = None,
        shape: Sequence[int | None] | None = None,
        sample_compression: Any = ...,
        class_names: Sequence[str] | None = None,
        **options: Any,
    ) -> Tensor:
        """Add a tensor; samples of rows there are already are missing until written.

        Args:
            name: letters, digits and _; ``group/name`` puts it in a group.
            htype: ``generic`` (default), ``class_label``, ``image``, ``embedding``, ``text`` or ``json``.
            dtype: NumPy dtype of samples; by default the htype's, or the first sample's.
            shape: sample shape that every sample must have; ``None`` for dimensions that vary.
            sample_compression: for images ``"jpeg"``, ``"png"``, or ``None`` for raw pixels.
            class_names: names of class ids. Given, they are all there are; not given, new names become new classes.
            options: ``allow_new_labels`` (bool) to decide that explicitly, ``info`` (dict), ``exist_ok`` (bool).

        Raises:
            AlreadyExists: there is one of that name, and not ``exist_ok``.
            InvalidInput: an argument does not fit the htype.
        """
        self._check_free(name)
        unknown = set(options) - {"allow_new_labels", "info", "exist_ok"}
        if unknown:
            raise InvalidInput(f"create_tensor() has no option {sorted(unknown)[0]!r}")
        create_tensor(
            self._write(),
            name,
            htype=htype,
            dtype=dtype,
            shape=shape,
            sample_compression=sample_compression,
            class_names=class_names,
            **options,
        )
        return self._tensor(name)

    def delete_tensor(self, name: str) -> None:
        """Remove a tensor. Older versions keep it; its bytes go with ``compact()`` and ``expire()``.

        Raises:
            NoSuchTensor: there is none of that name.
        """
        drop_tensor(self._write(), name)

    def rename_tensor(self, name: str, new_name: str) -> None:
        """Give a tensor another name (or group); no data is touched.

        Raises:
            NoSuchTensor, AlreadyExists: the one is not there, or the other is.
        """
        self._check_free(new_name)
        rename_tensor(self._write(), name, new_name)

    def alter_tensor(self, name: str, *, dtype: Any = None, htype: str | None = None) -> None:
        """Widen a tensor's dtype, or change its htype among ``generic``, ``embedding`` and ``class_label``; no data is touched.

        Raises:
            DtypeError: the dtype would not hold every value there may be.
            InvalidInput: its samples do not fit the htype.
        """
        if (dtype is None) == (htype is None):
            raise InvalidInput("alter_tensor() takes either dtype= or htype=")
        alter_tensor(self._write(), name, dtype=dtype, htype=htype)

    def _check_free(self, name: str) -> None:
        if not isinstance(name, str):
            raise InvalidInput(f"a tensor's name is a str, got {name!r}")
        if hasattr(type(self), name) or name in _RESERVED_ATTRIBUTES:
            raise InvalidInput(
                f"{name!r} is an attribute of every dataset and cannot name a tensor; choose another, e.g. '{name}_'"
            )

    def append(self, row: Mapping[str, Any], *, skip_ok: bool = False, append_empty: bool = False) -> None:
        """Append one row, atomically: all its samples are accepted, or none.

        Args:
            row: a sample for every tensor; ``None`` for a missing one.
            skip_ok: leave tensors without a sample shorter.
            append_empty: store missing samples for them.

        Raises:
            DtypeError, ShapeError, UnknownClass, BadSample: a sample does not fit its tensor.
            NoSuchTensor: a name is unknown, or a tensor has no sample.
        """
        self._write().append(row, skip_ok=skip_ok, append_empty=append_empty)

    def extend(self, columns: Any, *, skip_ok: bool = False, append_empty: bool = False) -> None:
        """Append many rows, atomically.

        Args:
            columns: a dict of tensor name to a list or array of samples, an Arrow table, or a DataFrame.
            skip_ok: leave tensors without samples shorter.
            append_empty: store missing samples for them.

        Raises:
            UnequalLengths: columns differ in length.
            DtypeError, ShapeError, UnknownClass, BadSample: a sample does not fit its tensor; the message names the row.
        """
        self._write().extend(columns, skip_ok=skip_ok, append_empty=append_empty)

    def pop(self, rows: int | Sequence[int] | None = None) -> None:
        """Delete rows by position (the last one by default).

        Raises:
            RowIndexError: a row does not exist, or is named twice.
        """
        writer = self._write()
        if rows is None:
            rows = -1
        with writer.lock:
            found, _ = resolve_rows(rows, len(self))
            if len(np.unique(found)) != len(found):
                raise InvalidInput(f"pop({rows!r}) names a row more than once")
            if len(found):
                writer.delete(found)

    def delete(self, where: str, parameters: Any = None) -> int:
        """Delete the rows that a TQL condition selects, as one version.

        What others commit meanwhile is looked at again: what goes is what the condition selects when this lands.

        Returns:
            How many.
        """
        return delete_where(self._write(), self._selecting(where, parameters))

    def update(self, where: str, set: Mapping[str, Any], parameters: Any = None) -> int:
        """Give new samples to the rows that a TQL condition selects, as one version.

        Args:
            where: the condition.
            set: tensor to its new sample (the same for all rows), or a function of a row that gives it.
            parameters: of the condition.

        What others commit meanwhile is looked at again: functions are called once more for the rows selected then.

        Returns:
            How many rows.
        """
        if not isinstance(set, Mapping) or not set:
            raise InvalidInput(f"update(): set is a dict of tensor name to sample, got {set!r}")
        return update_where(self._write(), self._selecting(where, parameters), set)

    def _selecting(self, where: str, parameters: Any) -> Callable[[Version], Any]:
        """What a condition selects in a version of this branch, as a view."""
        from lakefmt.query import rows_to_change

        def select(version: Version) -> Any:
            here = version is self._writer.version
            return rows_to_change(self if here else Dataset(self._log, self._url, None, version), where, parameters)

        return select

    def upsert(self, rows: Any, key: str) -> tuple[int, int]:
        """Update the rows whose key is there already, append the others; all as one version, whoever else writes.

        Args:
            rows: as for ``extend``, with all tensors.
            key: the tensor (of numbers or text, unique) by which a row is known.

        Returns:
            How many rows were updated, and how many appended.
        """
        return upsert(self._write(), rows, key)

    def _append_tensor(self, name: str, sample: Any) -> None:
        self._write().append_tensor(name, sample)

    def _extend_tensor(self, name: str, samples: Any) -> None:
        self._write().extend_tensor(name, samples)

    def _update(self, name: str, rows: Rows, values: Sequence[Any]) -> None:
        self._write().update(name, rows, values)

    def _edit_tensor(self, name: str, **changes: Any) -> None:
        edit_tensor(self._write(), name, **changes)

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.flush()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _rows_now(self) -> Any:
        return self._writer.live()

    def __len__(self) -> int:
        return self._writer.rows

    def source(self) -> RowSource:
        if self._writer.unsettled:
            self._write().flush()
        if self._writer.pending:  # of the process this one was forked from, which alone stores them
            raise InvalidInput(
                f"{self._url}: this process was forked while rows were buffered, which are not stored; flush() before forking"
            )
        return self._writer.snapshot

    @property
    def _definitions(self) -> Mapping[str, TensorDef]:
        return self._writer.definitions()

    def _gather(self, name: str, rows: Rows) -> Cells:
        return self._writer.live().gather(name, rows)

    def _shapes(self, name: str, rows: Rows) -> list[Shape | None]:
        return self._writer.live().shapes(name, rows)

    def _tensor_rows(self, name: str) -> int:
        return self._writer.tensor_rows(name)

    def _shape_bounds(self, name: str) -> tuple[Shape, Shape] | None:
        if self._writer.pending:
            known = self._writer.snapshot.shape_bounds(name)
            if known is None and self._writer.snapshot.ndims(name) is not None:
                return None  # stored samples differ in their number of dimensions
            rows = self._writer.pending_rows(name)
            shapes = [s for s in self._shapes(name, rows) if s is not None] + list(known or ())
            if not shapes or len({len(s) for s in shapes}) > 1:
                return None
            return tuple(map(min, zip(*shapes, strict=True))), tuple(map(max, zip(*shapes, strict=True)))
        return self._writer.snapshot.shape_bounds(name)

    @property
    def max_len(self) -> int:
        """Length of the longest tensor."""
        return max((self._tensor_rows(n) for n in self._definitions), default=0)

    @property
    def min_len(self) -> int:
        """Length of the shortest tensor."""
        return min((self._tensor_rows(n) for n in self._definitions), default=0)

    @property
    def row_ids(self) -> Rows:
        """Stable row ids, int64 (n,); what is buffered is stored first, and given its ids."""
        source = self.source()
        return source.row_ids(np.arange(len(source)))

    def files(self) -> list[str]:
        """Addresses of the Parquet files with the light columns of this version, in row order: what SQL engines can open.

        What is buffered is stored first, and rows of small flushes, which lie in the version object, are given a file. Class labels
        are ids there (names are in ``ds[name].class_names``); tensors that were added to rows already there lie in other files, as
        images and arrays do. Files of different times may have different columns (DuckDB: ``union_by_name=true``).

        Raises:
            InvalidInput: rows were deleted or updated since their files were written, so that these would show something else.
        """
        self.flush()
        stale = [f for f in self._writer.snapshot.fragments if f.deleted or f.overlays]
        if stale:
            deleted, updated = sum(f.rows - f.live for f in stale), sum(o.at.count for f in stale for o in f.overlays)
            wrong = [counted(deleted, "deleted row") + " too many"] * bool(deleted)
            wrong += [counted(updated, "updated sample") + " as it was before"] * bool(updated)
            raise InvalidInput(
                f"{self._url}: the files of version {self.version_id} would show {' and '.join(wrong)}; compact() writes them anew"
            )
        store = self._log.store
        if self._writer.version.inline and self.read_only:
            raise InvalidInput(
                f"{self._url}: some rows of version {self.version_id} lie in the version object and in no file yet; "
                "commit() (or call files()) on a writable handle, or ask this one with query()"
            )
        if self._writer.version.inline:
            self._write().fold()  # rows that lie in the version object get files of their own
        keys = [f.files[0].key for f in self._writer.snapshot.fragments if f.files]
        return [store.local_path(k) or f"{store.url}/{k}" for k in keys]

    # -- saved views ---------------------------------------------------------------------------------------------------

    def save_view(self, id: str | None = None, *, message: str | None = None, overwrite: bool = False) -> str:
        """Save all rows of this version as a view; see ``View.save_view``."""
        self.flush()
        return str(self[:].save_view(id, message=message, overwrite=overwrite))

    def get_views(self) -> list[Any]:
        """Saved views: entries with ``id``, ``query``, ``message``, ``version`` and ``rows``."""
        from lakefmt.query import list_views

        return list_views(self)

    def load_view(self, id: str) -> Any:
        """A saved view, at the version it was saved at."""
        from lakefmt.query import load_view

        return load_view(self, id)

    def delete_view(self, id: str) -> None:
        """Delete a saved view."""
        from lakefmt.query import delete_view

        self._write()
        delete_view(self, id)


def _flush_at_exit(writer: Writer, pid: int) -> None:
    """When the handle is dropped or the interpreter ends: store what is buffered. Not in a forked child.

    Nobody is left to catch an error here.
    """
    if os.getpid() == pid and writer.unsettled:
        try:
            writer.flush()
        except LakeError as error:
            warnings.warn(
                f"{writer.url}: what was buffered is not stored: {error}. Call flush() or commit() before a handle goes",
                UnsavedRows, stacklevel=1,
            )  # fmt: skip


def _reopen(url: str, at: str, options: dict[str, Any] | None, sizes: CacheSizes | None = None) -> Dataset:
    store = open_store(url, options)
    log = Log.open(store if sizes is None else cached(store, sizes, DATA_FOLDERS))
    _, version = log.resolve(at)
    return Dataset(log, url, None, version)
