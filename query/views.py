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

from lakefmt.cells import Cells, Dense, Ragged, Strings
from lakefmt.dataset import Dataset
from lakefmt.errors import AlreadyExists, Corrupt, InvalidInput, NoSuchObject, NoSuchView, VersionExpired, nearest
from lakefmt.pending import Live
from lakefmt.snapshot import Snapshot
from lakefmt.versioning.names import check_kept
from lakefmt.versioning.records import Version
from lakefmt.versioning.refs import parse_version_id
from lakefmt.view import View, computed_cells

_FOLDER = ".queries/"
_METADATA_KEY = b"lakefmt.view"
_ID = re.compile(r"^[\w][\w.-]{0,199}$")


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
    view_id = _default_id(view) if view_id is None else view_id
    if not isinstance(view_id, str) or not _ID.match(view_id):
        raise InvalidInput(f"{view_id!r} is no id of a view: use letters, digits, '_', '-' and '.'")
    entry = {
        "id": view_id, "query": view.query_text, "message": message if message is not None else view.query_text,
        "version": view.version_id, "branch": selection.base.version.head.branch,
        "tensors": selection.names, "computed": _kinds(selection.computed),
        "order": list(selection.definitions), "created_ms": time.time_ns() // 1_000_000,
    }  # fmt: skip
    data = _encode(selection, entry)
    store, key = dataset._log.store, _key(view_id)
    if overwrite:
        check_kept(dataset._log, selection.base.version)  # before the view of that name is gone
        store.put(key, data)
    elif not store.put_if_absent(key, data) and not made_id:
        raise AlreadyExists(f"{dataset.path} has a saved view {view_id!r} already; pass overwrite=True, or choose another id")
    try:
        check_kept(dataset._log, selection.base.version)  # the view was written first: an expiry sees it, or we see the expiry
    except VersionExpired:
        store.delete([key])
        raise
    return view_id


def list_views(dataset: Dataset) -> list[ViewEntry]:
    """All saved views, by id."""
    keys = sorted(e.key for e in dataset._log.store.list(_FOLDER) if e.key.endswith(".parquet"))
    return [_entry(dataset, k[len(_FOLDER) : -len(".parquet")])[0] for k in keys]


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
    computed = {
        name: _restored(table.column(column).combine_chunks(), about) for name, (column, about) in described["computed"].items()
    }
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
    dataset._log.store.delete([_key(view_id)])


def _entry(dataset: Dataset, view_id: str) -> tuple[ViewEntry, dict[str, Any], pa.Table]:
    store = dataset._log.store
    try:
        data = store.get(_key(view_id))
    except NoSuchObject:
        known = [e.key[len(_FOLDER) : -len(".parquet")] for e in store.list(_FOLDER)]
        raise NoSuchView(f"{dataset.path} has no saved view {view_id!r}; {nearest(view_id, known)}") from None
    try:
        table = pq.read_table(pa.BufferReader(data))
        described = json.loads(table.schema.metadata[_METADATA_KEY])
        entry = ViewEntry(
            id=described["id"], query=described["query"], message=described["message"], version=described["version"],
            rows=table.num_rows, created_ms=described["created_ms"], _dataset=dataset,
        )  # fmt: skip
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as e:
        raise Corrupt(f"{dataset.path}: saved view {view_id!r} does not parse ({e}); delete it and save it again") from e
    return entry, described, table


def _key(view_id: str) -> str:
    return f"{_FOLDER}{view_id}.parquet"


def _default_id(view: View) -> str:
    identity = json.dumps([view._selection.identity(), view.query_text], sort_keys=True)
    return str(xxhash.xxh3_128(identity.encode()).hexdigest())


def _kinds(computed: dict[str, Cells]) -> dict[str, Any]:
    """Column name and what is needed to restore each computed column."""
    out = {}
    for i, (name, cells) in enumerate(computed.items()):
        about: dict[str, Any] = {}
        if isinstance(cells, Dense):
            about = {"dtype": cells.values.dtype.name, "shape": list(cells.values.shape[1:])}
        elif isinstance(cells, Strings):
            about = {"json": cells.is_json}
        out[name] = [f"c{i}", about]
    return out


def _encode(selection: Any, entry: dict[str, Any]) -> bytes:
    columns: dict[str, Any] = {
        "_row": selection.rows,
        "_id": selection.row_ids(np.arange(len(selection))),
    }
    for name, (column, _) in entry["computed"].items():
        columns[column] = _stored(selection.computed[name])
    table = pa.table(columns).replace_schema_metadata({_METADATA_KEY: json.dumps(entry).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _stored(cells: Cells) -> pa.Array:
    match cells:
        case Dense(values) if values.ndim == 1:
            return pa.array(values)
        case Dense(values):
            size = int(np.prod(values.shape[1:], dtype=np.int64))
            return pa.array(list(values.reshape(len(values), size)))
        case Ragged(values):
            return pa.array([None if v is None else v.tolist() for v in values])
        case Strings(values):
            return values
    raise InvalidInput(f"a computed column of {type(cells).__name__} cannot be saved")


def _restored(array: pa.Array, about: dict[str, Any]) -> Cells:
    cells = computed_cells(array)
    if isinstance(cells, Strings):
        return Strings(cells.values, bool(about.get("json")))
    if isinstance(cells, Dense) and "dtype" in about:
        return Dense(cells.values.astype(about["dtype"], copy=False).reshape(len(cells.values), *about["shape"]))
    return cells
