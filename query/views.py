"""Saved views: ``.queries/<id>.parquet``, one object a view, created once.

The file holds the ordered rows (position and row id) and computed columns as plain Parquet; what the view is (query, message,
version, which tensors) is JSON under ``lakefmt.view`` in the file's metadata.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from lakefmt.dataset import Dataset
from lakefmt.errors import AlreadyExists, Corrupt, InvalidInput, NoSuchObject, NoSuchVersion, NoSuchView, nearest
from lakefmt.pending import Live
from lakefmt.query.computed import column_bytes, describe_column, restored_column, stored_columns
from lakefmt.snapshot import Snapshot
from lakefmt.versioning.names import check_kept
from lakefmt.versioning.pins import VIEW_METADATA, VIEWS
from lakefmt.versioning.records import Version
from lakefmt.versioning.refs import parse_version_id, put_once, put_surely, remove
from lakefmt.view import View

_ID = re.compile(r"\w[\w.-]*")
_ID_NBYTES_MAX = 200


@dataclass(frozen=True, slots=True)
class ViewEntry:
    """A saved view as listed.

    Attributes:
        id: its name.
        query: the query that made it, or ``None``.
        message: what its author wrote, by default the query.
        version: id of the version it is of.
        rows: how many rows it has.
        created_ms: milliseconds since the epoch.
    """

    id: str
    query: str | None
    message: str | None
    version: str
    rows: int
    created_ms: int
    _dataset: Any = field(repr=False, compare=False)

    def load(self) -> View:
        """The view."""
        return load_view(self._dataset, self.id)

    def delete(self) -> None:
        """Delete it."""
        delete_view(self._dataset, self.id)


def save_view(view: View, view_id: str | None, *, message: str | None, overwrite: bool) -> str:
    """Save a view; see ``View.save_view``."""
    selection = view._selection
    dataset = view._origin
    if not isinstance(dataset, Dataset):
        raise InvalidInput("this view came from another process and has lost its dataset: save it where it was made")
    if dataset._read_only:
        dataset._write()  # says why not
    if message is not None and not isinstance(message, str):
        raise InvalidInput(f"a message is a str, got {message!r}")
    if isinstance(selection.base, Live):
        raise InvalidInput("this view has rows that are not in storage yet: commit() first, then make and save the view")
    made_id = view_id is None
    view_id = _default_id(view) if view_id is None else _checked(view_id)
    computed = {n: [f"c{i}", describe_column(f"c{i}", c)] for i, (n, c) in enumerate(selection.computed.items())}
    entry = {
        "id": view_id, "query": view.query_text, "message": message if message is not None else view.query_text,
        "version": view.version_id, "branch": selection.base.version.head.branch,
        "tensors": selection.names, "computed": computed, "order": list(selection.definitions),
        "created_ms": time.time_ns() // 1_000_000,
    }  # fmt: skip
    data = _encode(selection, entry)
    store, key = dataset._log.store, _key(view_id)
    if overwrite:
        check_kept(dataset._log, selection.base.version)  # before the view of that name is gone
        put_surely(store, key, data)
    elif not put_once(store, key, data) and not made_id:
        raise AlreadyExists(f"{dataset.path} has a saved view {view_id!r} already; pass overwrite=True, or choose another id")
    try:
        check_kept(dataset._log, selection.base.version)  # the view was written first: an expiry sees it, or we see the expiry
    except NoSuchVersion:  # expired; or the dataset was deleted since it was opened
        remove(store, key)
        raise
    return view_id


def list_views(dataset: Dataset) -> list[ViewEntry]:
    """All saved views, by id."""
    keys = sorted(e.key for e in dataset._log.store.list(VIEWS) if e.key.endswith(".parquet"))
    return [_entry(dataset, k[len(VIEWS) : -len(".parquet")])[0] for k in keys]


def load_view(dataset: Dataset, view_id: str) -> View:
    """A saved view at the version it was saved at; the dataset's own handle stays where it is."""
    entry, described, table = _entry(dataset, view_id)
    version = _version(dataset, entry, described)
    at_version = Dataset(dataset._log, dataset.path, None, version)
    snapshot = at_version.source()
    rows = table.column("_row").to_numpy().astype(np.int64)
    assert isinstance(snapshot, Snapshot)
    if len(rows) and (rows.min() < 0 or rows.max() >= len(snapshot)):
        raise Corrupt(f"{dataset.path}: saved view {view_id!r} names rows that version {entry.version} does not have; delete it")
    try:
        computed = {n: restored_column(table, column, about) for n, (column, about) in described["computed"].items()}
    except (pa.ArrowException, KeyError, TypeError, ValueError) as e:
        raise Corrupt(f"{dataset.path}: the computed columns of saved view {view_id!r} do not parse ({e}); delete it") from e
    view = View(snapshot, rows, names=described["tensors"], computed=computed, origin=at_version, query_text=entry.query)
    return view[tuple(described["order"])] if list(view._selection.definitions) != described["order"] else view


def _version(dataset: Dataset, entry: ViewEntry, described: dict[str, Any]) -> Version:
    """The version a view is of; its branch may have no name any more."""
    named = described.get("branch")  # (not in views of the first writers)
    found = parse_version_id(entry.version)
    if named is not None and (not isinstance(named, str) or found is None or not named.startswith(found[0])):
        raise Corrupt(
            f"{dataset.path}: saved view {entry.id!r} is of version {entry.version!r} of {named!r}; delete it and save it again"
        )
    return dataset._log.resolve(entry.version)[1] if named is None or found is None else dataset._log.read(named, found[1])


def delete_view(dataset: Dataset, view_id: str) -> None:
    """Delete a saved view."""
    _entry(dataset, view_id)
    remove(dataset._log.store, _key(view_id))


def _entry(dataset: Dataset, view_id: str) -> tuple[ViewEntry, dict[str, Any], pa.Table]:
    store = dataset._log.store
    try:
        data = store.get(_key(_checked(view_id)))
    except NoSuchObject:
        known = [e.key[len(VIEWS) : -len(".parquet")] for e in store.list(VIEWS)]
        raise NoSuchView(f"{dataset.path} has no saved view {view_id!r}; {nearest(view_id, known)}") from None
    try:
        table = pq.read_table(pa.BufferReader(data))
        described = json.loads(table.schema.metadata[VIEW_METADATA])
        entry = ViewEntry(
            id=described["id"], query=described["query"], message=described["message"], version=described["version"],
            rows=table.num_rows, created_ms=described["created_ms"], _dataset=dataset,
        )  # fmt: skip
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as e:
        raise Corrupt(f"{dataset.path}: saved view {view_id!r} does not parse ({e}); delete it and save it again") from e
    return entry, described, table


def _checked(view_id: Any) -> str:
    """An id that can name an object."""
    if isinstance(view_id, str) and _ID.fullmatch(view_id) and len(view_id.encode()) <= _ID_NBYTES_MAX:
        return view_id
    raise InvalidInput(
        f"{view_id!r} is no id of a view: use letters, digits, '_', '-' and '.', of which the last two do not come first; "
        f"{_ID_NBYTES_MAX} bytes at most"
    )


def _key(view_id: str) -> str:
    return f"{VIEWS}{view_id}.parquet"


def _default_id(view: View) -> str:
    selection = view._selection
    digest = xxhash.xxh3_128(json.dumps([selection.identity(), view.query_text], sort_keys=True).encode())
    for name, cells in selection.computed.items():  # the same query with other parameters is another view
        for part in (name.encode(), *column_bytes(cells)):
            digest.update(part)
    return str(digest.hexdigest())


def _encode(selection: Any, entry: dict[str, Any]) -> bytes:
    columns: dict[str, Any] = {
        "_row": selection.rows,
        "_id": selection.row_ids(np.arange(len(selection))),
    }
    for name, (column, about) in entry["computed"].items():
        columns.update(stored_columns(column, selection.computed[name], about))
    table = pa.table(columns).replace_schema_metadata({VIEW_METADATA: json.dumps(entry).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())
