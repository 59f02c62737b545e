"""The dataset handle. Thin: it hands over to the writer, the log, and the rooms above."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from lakefmt.cells import Cells, Rows
from lakefmt.errors import InvalidInput, ReadOnly
from lakefmt.fragment.columns import Shape
from lakefmt.fragment.read import FileReader
from lakefmt.fragment.verify import verify_files
from lakefmt.htypes import TensorDef
from lakefmt.rows import RowSource
from lakefmt.rowset import Rowset, resolve_rows
from lakefmt.storage import open_store
from lakefmt.tensor import Info, Tensor
from lakefmt.versioning.diff import Diff, diff_states
from lakefmt.versioning.log import Log
from lakefmt.versioning.records import Branch, Head, Version, version_id
from lakefmt.writer import Writer

_RESERVED_ATTRIBUTES = frozenset({"read_only"})


class Dataset(Rowset):
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
        return (_reopen, (where, self.version_id, getattr(store, "_options", None)))

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
    def branch(self) -> str | None:
        """Name of the branch; ``None`` on a version."""
        return self._branch.name if self._branch else None

    @property
    def version_id(self) -> str:
        """Id of the version this handle stands on."""
        return self._writer.version.id

    commit_id = version_id

    @property
    def has_head_changes(self) -> bool:
        """Whether there is anything since the last named commit: buffered rows, or flushed versions without a message."""
        head = self._writer.version.head
        return bool(self._writer.pending) or (not head.named and head.v > 0)

    @property
    def info(self) -> Info:
        """Metadata of the dataset, a versioned dict."""
        return Info(dict(self._writer.version.state.info), lambda values: self._write().set_info(values))

    # -- writing -------------------------------------------------------------------------------------------------------

    def _write(self) -> Writer:
        if self._read_only:
            raise ReadOnly(f"{self._url} was opened with read_only=True")
        if self._branch is None:
            raise ReadOnly(
                f"{self._url} stands on version {self.version_id}, which cannot change: checkout('name', create=True) makes a "
                "branch from it, checkout('main') returns to the branch"
            )
        return self._writer

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
        if not isinstance(name, str):
            raise InvalidInput(f"a tensor's name is a str, got {name!r}")
        if hasattr(type(self), name) or name in _RESERVED_ATTRIBUTES:
            raise InvalidInput(
                f"{name!r} is an attribute of every dataset and cannot name a tensor; choose another, e.g. '{name}_'"
            )
        unknown = set(options) - {"allow_new_labels", "info", "exist_ok"}
        if unknown:
            raise InvalidInput(f"create_tensor() has no option {sorted(unknown)[0]!r}")
        self._write().create_tensor(
            name,
            htype=htype,
            dtype=dtype,
            shape=shape,
            sample_compression=sample_compression,
            class_names=class_names,
            **options,
        )
        return self._tensor(name)

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

    def _append_tensor(self, name: str, sample: Any) -> None:
        self._write().append_tensor(name, sample)

    def _extend_tensor(self, name: str, samples: Any) -> None:
        self._write().extend_tensor(name, samples)

    def _update(self, name: str, rows: Rows, values: Sequence[Any]) -> None:
        self._write().update(name, rows, values)

    def _edit_tensor(self, name: str, **changes: Any) -> None:
        self._write().edit_tensor(name, **changes)

    def flush(self) -> None:
        """Store what is buffered, as a version without a message. Costs nothing when nothing is buffered."""
        if self._writer.pending:
            self._write().flush()

    def discard(self) -> None:
        """Drop buffered rows and updates that have not reached storage (for example because committing them conflicts)."""
        self._writer.discard()

    def commit(self, message: str | None = None) -> str:
        """Store what is buffered and name the version; it is kept for good.

        Returns:
            Id of the version.

        Raises:
            Conflict: another writer changed the same thing meanwhile.
            CommitStateUnknown: the store does not tell whether the commit landed.
        """
        if message is not None and not isinstance(message, str):
            raise InvalidInput(f"a commit message is a str, got {message!r}")
        self._write().commit(message)
        return self.version_id

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.flush()

    # -- versions ------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """See what other handles have committed to this branch. Buffered rows are stored first."""
        with self._writer.lock:
            self.flush()
            if self._branch is not None:
                self._writer.move_to(self._log.head(self._branch.uuid, at_least=self._writer.version.head.v))

    def checkout(self, address: str, *, create: bool = False) -> str:
        """Stand on a branch, or on a version (read-only). Buffered rows are stored on the branch left behind.

        Args:
            address: a branch name or a version id.
            create: make a branch of that name from where this handle stands.

        Returns:
            Id of the version now stood on.
        """
        if not isinstance(address, str):
            raise InvalidInput(f"checkout() takes a branch name or a version id, got {address!r}")
        with self._writer.lock:
            self.flush()
            if create:
                if self._read_only:
                    self._write()
                self._log.create_branch(address, self._writer.version)
            branch, version = self._log.resolve(address)
            self._writer.move_to(version)
            self._branch = branch
        return version.id

    @property
    def branches(self) -> list[str]:
        """Names of all branches."""
        return [b.name for b in self._log.branches()]

    def history(self) -> list[Head]:
        """Every version back to the beginning, newest first."""
        return list(self._log.history(self._writer.version))

    @property
    def commits(self) -> list[dict[str, Any]]:
        """Named versions, newest first: ``{"commit", "author", "time", "message"}``."""
        return [_commit_entry(h) for h in self.history() if h.named]

    def log(self) -> None:
        """Print the named versions of this branch, newest first."""
        from lakefmt.show import print_log

        print_log(self)

    def diff(self, first: str | None = None, second: str | None = None) -> Diff:
        """What differs between two versions, per tensor.

        Args:
            first: a branch or version id; by default the last named version before the current one.
            second: another; by default the current version. Buffered rows are stored first.

        Returns:
            Rows added, updated and deleted; it prints as a table.
        """
        self.flush()
        new = self._log.resolve(second)[1] if second is not None else self._writer.version
        old = self._log.resolve(first)[1] if first is not None else self._before(new)
        return diff_states(old, new, lambda part: self._reader.offsets(part.file))

    def _before(self, version: Version) -> Version:
        """The last named version before this one, else the beginning."""
        for head in self._log.history(version):
            if (head.branch, head.v) != (version.head.branch, version.head.v) and (head.named or head.v == 0):
                return self._log.read(head.branch, head.v)
        return version

    # -- reading -------------------------------------------------------------------------------------------------------

    def _rows_now(self) -> Any:
        return self._writer.live()

    def __len__(self) -> int:
        return self._writer.rows

    def source(self) -> RowSource:
        if self._writer.pending:
            self._write().flush()
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

    def files(self) -> list[str]:
        """Addresses of the Parquet files with the light columns of this version, in row order: what SQL engines can open."""
        store = self._log.store
        keys = [f.files[0].key for f in self._writer.snapshot.fragments if f.files]
        return [store.local_path(k) or f"{store.url}/{k}" for k in keys]

    def verify(self) -> int:
        """Check every data file of this version against its checksum, reading every byte.

        Returns:
            Bytes read.

        Raises:
            Corrupt: some file is missing or damaged; the message names them.
        """
        self.flush()
        files = dict.fromkeys(f for fragment in self._writer.snapshot.fragments for f in fragment.every_file())
        return verify_files(self._log.store, files)

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


def _commit_entry(head: Head) -> dict[str, Any]:
    return {
        "commit": version_id(head.branch, head.v), "author": head.author, "time": head.ts_ms / 1000, "message": head.message,
    }  # fmt: skip


def _flush_at_exit(writer: Writer, pid: int) -> None:
    """When the handle is dropped or the interpreter ends: store what is buffered. Not in a forked child."""
    if os.getpid() == pid and writer.pending:
        writer.flush()


def _reopen(url: str, at: str, options: dict[str, Any] | None) -> Dataset:
    log = Log.open(open_store(url, options))
    _, version = log.resolve(at)
    return Dataset(log, url, None, version)
