"""The relation ``t`` of a snapshot, as DuckDB sees it: ``_row``, ``_id``, and ``fN`` / ``fN__shape`` for the columns a query names.

Where a fragment's columns lie in local Parquet files just as the translator expects them, DuckDB reads the files itself; what
does not (flat arrays, updated or deleted rows, tensors of changing layout, remote places) is handed over through Arrow, flat
arrays without a copy. Columns of several files of a fragment are joined by row offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lakefmt.cells import Cells, Dense, Encoded, Ragged, Rows, Strings
from lakefmt.fragment.meta import LIGHT, Field, Fragment, Layout, stored_dtype
from lakefmt.htypes import Kind, TensorDef
from lakefmt.query.catalog import Catalog, TensorInfo
from lakefmt.query.engine import quoted
from lakefmt.snapshot import Snapshot
from lakefmt.view import Selection

#: (field id, "value" or "shape")
Read = tuple[int, str]


def catalog_of(source: Any) -> Catalog:
    """What the translator needs to know of the tensors of a snapshot or selection."""
    if isinstance(source, Selection):
        base = catalog_of(source.base)
        out = {n: _renamed(base[c], source.definitions[n]) for n, c in source.names.items()}
        return {**out, **{n: _computed_info(source.definitions[n], c) for n, c in source.computed.items()}}
    return {n: _info(source, d) for n, d in source.definitions.items()}


def _info(snapshot: Snapshot, definition: TensorDef) -> TensorInfo:
    name = definition.name
    if definition.kind in (Kind.TEXT, Kind.JSON):
        return TensorInfo(definition, 0, (), snapshot.any_missing(name), ())
    bounds, ndims = snapshot.shape_bounds(name), snapshot.ndims(name)
    ndim = _declared_ndim(definition) if ndims is None else ndims[0] if ndims[0] == ndims[1] else None
    uniform = snapshot.uniform(name)
    dims = tuple(a if a == b else None for a, b in zip(*bounds, strict=True)) if bounds else None
    return TensorInfo(definition, ndim, uniform[0] if uniform else None, snapshot.any_missing(name), dims)


def _declared_ndim(definition: TensorDef) -> int | None:
    if definition.shape is not None:
        return len(definition.shape)
    if definition.kind is Kind.ENCODED:
        return None
    return 1 if definition.htype == "embedding" else 0  # no sample yet: as good as scalars


def _renamed(info: TensorInfo, definition: TensorDef) -> TensorInfo:
    return TensorInfo(definition, info.ndim, info.fixed_shape, info.nullable, info.dims)


def _computed_info(definition: TensorDef, cells: Cells) -> TensorInfo:
    if isinstance(cells, Dense):
        shape = cells.values.shape[1:]
        return TensorInfo(definition, len(shape), shape, False, shape)
    if isinstance(cells, Strings):
        return TensorInfo(definition, 0, (), cells.values.null_count > 0, ())
    ndims = {np.ndim(v) for v in cells.values if v is not None}
    return TensorInfo(definition, ndims.pop() if len(ndims) == 1 else None, None, True)


def build(connection: Any, source: Any, catalog: Catalog, reads: Iterable[Read]) -> None:
    """Make ``t`` on a connection.

    Args:
        connection: a DuckDB cursor that nothing else uses.
        source: a ``Snapshot`` or a ``Selection`` over one.
        catalog: of that source.
        reads: the columns the query touches.
    """
    wanted = sorted(set(reads))
    by_id = {i.definition.id: i for i in catalog.values()}
    if isinstance(source, Selection):
        _build_selection(connection, source, by_id, wanted)
        return
    parts = _Scan(connection, source, by_id, wanted).relations()
    connection.execute(f"CREATE TEMP VIEW t AS {' UNION ALL BY NAME '.join(parts)}")


def _build_selection(connection: Any, source: Selection, by_id: Mapping[int, TensorInfo], wanted: list[Read]) -> None:
    """``t`` of a view: its rows, numbered by their place in it, joined to the rows of the snapshot."""
    computed = {source.definitions[n].id: (n, c) for n, c in source.computed.items()}
    columns: dict[str, Any] = {"_row": np.arange(len(source)), "_base": source.rows}
    for field_id, part in wanted:
        if field_id in computed:
            name, cells = computed[field_id]
            arrays = _arrow(source.definitions[name], by_id[field_id], cells)
            columns[_column(field_id, part)] = arrays[part]
    connection.register("_selected", pa.table(columns))
    below = [r for r in wanted if r[0] not in computed]
    parts = _Scan(connection, source.base, by_id, below).relations()
    picked = "".join(f", s.{_column(*r)}" for r in wanted if r[0] in computed) + "".join(f", b.{_column(*r)}" for r in below)
    connection.execute(
        f"CREATE TEMP VIEW t AS SELECT s._row, b._id{picked} FROM _selected s "
        f"JOIN ({' UNION ALL BY NAME '.join(parts)}) b ON b._row = s._base"
    )


def _column(field_id: int, part: str) -> str:
    return f"f{field_id}" if part == "value" else f"f{field_id}__shape"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a fragment has a column: a Parquet file with an expression over it, or (no file) a constant; or in Arrow only."""

    key: str | None
    expression: str
    arrow: bool = False


_IN_ARROW = _Place(None, "", arrow=True)


class _Scan:
    """Groups fragments that look alike and writes one SELECT a group."""

    def __init__(self, connection: Any, snapshot: Snapshot, by_id: Mapping[int, TensorInfo], wanted: list[Read]) -> None:
        self._connection = connection
        self._snapshot = snapshot
        self._by_id = by_id
        self._wanted = wanted
        self._local = snapshot.reader.store.local_path("") is not None
        self._definitions = {d.id: d for d in snapshot.definitions.values()}

    def relations(self) -> list[str]:
        """SELECTs that together give every row once."""
        groups: dict[Any, list[tuple[int, dict[Read, _Place]]]] = {}
        for i, fragment in enumerate(self._snapshot.fragments):
            places = {r: self._place(fragment, r) for r in self._wanted}
            keys = list(dict.fromkeys(p.key for p in places.values() if p.key))
            look = (
                bool(fragment.deleted or fragment.ids),
                tuple((p.arrow, p.expression, keys.index(p.key) if p.key else -1) for p in places.values()),
            )
            groups.setdefault(look, []).append((i, places))
        out = [self._relation(n, members) for n, members in enumerate(groups.values())]
        return out or [self._nothing()]

    def _nothing(self) -> str:
        columns = "".join(f", {_typed_null(self._by_id[i], p)} AS {_column(i, p)}" for i, p in self._wanted)
        return f"SELECT 0::BIGINT AS _row, 0::BIGINT AS _id{columns} WHERE false"

    def _place(self, fragment: Fragment, read: Read) -> _Place:
        field_id, part = read
        info = self._by_id[field_id]
        found = fragment.field(field_id)
        if fragment.deleted or fragment.ids or fragment.overlays_of(field_id) or not self._local:
            return _IN_ARROW
        if found is None:
            return _Place(None, _typed_null(info, part))
        file, field = found
        if field.rows < fragment.rows and field.layout not in LIGHT:
            return _IN_ARROW
        if fragment.inlined or (part == "value" and _widened(info.definition, field)):
            return _IN_ARROW
        if part == "shape":
            if field.shape is not None:
                return _Place(None, f"{list(field.shape)}::INTEGER[]") if field.rows == fragment.rows else _IN_ARROW
            if field.shape_column is None:
                return _IN_ARROW
            return _Place(field.shape_file or file.key, _name(field.shape_column))
        if field.layout in (Layout.TEXT, Layout.DOCUMENTS):
            return _Place(file.key, _name(field.column))
        if (field.layout is Layout.SCALAR) == (info.ndim == 0) and field.layout in (Layout.SCALAR, Layout.LISTS):
            return _Place(file.key, _name(field.column))
        return _IN_ARROW

    def _relation(self, number: int, members: list[tuple[int, dict[Read, _Place]]]) -> str:
        snapshot = self._snapshot
        fragments = [(snapshot.fragments[i], int(snapshot._starts[i])) for i, _ in members]
        first = members[0][1]
        in_arrow = [r for r in self._wanted if first[r].arrow]
        slots = list(dict.fromkeys(p.key for p in first.values() if p.key))
        if in_arrow or not slots:
            name = f"_a{number}"
            self._connection.register(name, self._table(fragments, in_arrow))
            base, joins = name, ""
            if slots:
                joins = "".join(self._join(n, members, key, first, name) for n, key in enumerate(slots))
            picked = "".join(f", {name}.{_column(*r)}" for r in in_arrow)
            picked += self._picked(first, slots)
            return f"SELECT {name}._row, {name}._id{picked} FROM {base}{joins}"
        starts = [s for _, s in fragments]
        ids = [f.first_id for f, _ in fragments]
        picked = self._picked(first, slots)
        lead = f"{_by_file(starts)} + p0.file_row_number AS _row, {_by_file(ids)} + p0.file_row_number AS _id"
        joins = "".join(
            f" JOIN {self._parquet(members, first, key)} p{n} ON p{n}.file_index = p0.file_index "
            f"AND p{n}.file_row_number = p0.file_row_number"
            for n, key in enumerate(slots) if n
        )  # fmt: skip
        return f"SELECT {lead}{picked} FROM {self._parquet(members, first, slots[0])} p0{joins}"

    def _picked(self, first: Mapping[Read, _Place], slots: Sequence[str | None]) -> str:
        out = ""
        for read in self._wanted:
            place = first[read]
            if not place.arrow:
                prefix = f"p{slots.index(place.key)}." if place.key else ""
                out += f", {prefix}{place.expression} AS {_column(*read)}"
        return out

    def _join(self, n: int, members: Any, key: str | None, first: Mapping[Read, _Place], name: str) -> str:
        return (
            f" JOIN {self._parquet(members, first, key)} p{n} ON p{n}.file_index = {name}._file "
            f"AND p{n}.file_row_number = {name}._offset"
        )

    def _parquet(self, members: list[tuple[int, dict[Read, _Place]]], first: Mapping[Read, _Place], key: str | None) -> str:
        """The files of the group that stand where ``key`` stands in its first fragment."""
        read = next(r for r, p in first.items() if p.key == key)
        reader = self._snapshot.reader
        for i, places in members:
            reader.trust(next(f for f in self._snapshot.fragments[i].files if f.key == places[read].key))
        paths = [reader.store.local_path(str(places[read].key)) for _, places in members]
        return f"read_parquet([{', '.join(quoted(p or '') for p in paths)}])"

    def _table(self, fragments: list[tuple[Fragment, int]], reads: list[Read]) -> pa.Table:
        """Rows of some fragments through Arrow, with the columns that DuckDB cannot read itself."""
        tables = []
        for n, (fragment, start) in enumerate(fragments):
            offsets = self._snapshot.remaining(fragment)
            rows = np.arange(start, start + len(offsets))
            ids = self._snapshot.ids_of(fragment)[offsets]
            columns: dict[str, Any] = {"_row": rows, "_id": ids, "_offset": offsets, "_file": np.full(len(rows), n, np.int64)}
            for field_id in dict.fromkeys(i for i, _ in reads):
                parts = {p for i, p in reads if i == field_id}
                columns.update({_column(field_id, p): a for p, a in self._arrays(field_id, fragment, rows, parts).items()})
            tables.append(pa.table(columns))
        return pa.concat_tables(tables, promote_options="permissive")

    def _arrays(self, field_id: int, fragment: Fragment, rows: Rows, parts: set[str]) -> dict[str, pa.Array]:
        definition, info = self._definitions[field_id], self._by_id[field_id]
        if "value" not in parts or definition.kind is Kind.ENCODED:
            shapes = self._snapshot.shapes(definition.name, rows)
            lists = pa.array([None if s is None else list(s) for s in shapes], pa.list_(pa.int32()))
            # the value of an encoded sample is only ever asked whether it is there
            return {"shape": lists, "value": pa.array([None if s is None else True for s in shapes], pa.bool_())}
        whole = self._whole_flat(definition, fragment, info)
        if whole is not None:
            return whole
        return _arrow(definition, info, self._snapshot.gather(definition.name, rows))

    def _whole_flat(self, definition: TensorDef, fragment: Fragment, info: TensorInfo) -> dict[str, pa.Array] | None:
        """A FLAT column of an untouched fragment as a list array over its mapped pages, without a copy where it is one page."""
        found = fragment.field(definition.id)
        clean = found is not None and found[1].layout is Layout.FLAT and found[1].rows == fragment.rows
        clean = clean and found is not None and not _widened(definition, found[1])
        if not clean or found is None or fragment.deleted or fragment.overlays_of(definition.id) or info.ndim == 0:
            return None
        pages = self._snapshot.reader.flat_pages(definition, *found, always=True)
        if pages is None:
            return None
        flat = [_plain(p.reshape(-1)) for p in pages]
        values = flat[0] if len(flat) == 1 else np.concatenate(flat)
        shape = found[1].shape or ()
        size = int(np.prod(shape, dtype=np.int64))
        return {"value": _lists(info, pa.array(values), fragment.rows, size), "shape": _constant_shapes(shape, fragment.rows)}


def _widened(definition: TensorDef, field: Field) -> bool:
    return definition.kind is Kind.NUMERIC and stored_dtype(definition, field) != definition.dtype


def _arrow(definition: TensorDef, info: TensorInfo, cells: Cells) -> dict[str, pa.Array]:
    """Cells as the relation's columns: natives for scalars, flat lists and shapes for arrays."""
    match cells:
        case Strings(values):
            return {"value": values.cast(pa.large_string()), "shape": pa.nulls(len(values), pa.list_(pa.int32()))}
        case Encoded(values):
            return {"shape": pa.nulls(len(values), pa.list_(pa.int32()))}
        case Dense(values) if info.ndim == 0:
            return {"value": pa.array(_plain(values)), "shape": _constant_shapes((), len(values))}
        case Dense(values):
            size = int(np.prod(values.shape[1:], dtype=np.int64))
            array = _lists(info, pa.array(_plain(values.reshape(-1))), len(values), size)
            return {"value": array, "shape": _constant_shapes(values.shape[1:], len(values))}
        case Ragged(values):
            return _ragged_arrow(definition, info, values)


def _lists(info: TensorInfo, flat: pa.Array, rows: int, size: int) -> pa.Array:
    """Samples of one shape, without a copy.

    DuckDB has arrays of a fixed length as a type of its own, and in a union of parts takes the lists of the others for such arrays
    too: a part is one only where every sample of the tensor, in whatever part, has that length.
    """
    if info.fixed_shape is not None and size:
        return pa.FixedSizeListArray.from_arrays(flat, size)
    return pa.LargeListArray.from_arrays(pa.array(np.arange(rows + 1) * size), flat)


def _ragged_arrow(definition: TensorDef, info: TensorInfo, values: list[Any]) -> dict[str, pa.Array]:
    kind = pa.from_numpy_dtype(_plain(np.empty(0, definition.dtype)).dtype)
    if info.ndim == 0:
        return {
            "value": pa.array([None if v is None else v.item() for v in values], kind),
            "shape": pa.array([None if v is None else [] for v in values], pa.list_(pa.int32())),
        }
    sizes = np.array([0 if v is None else v.size for v in values], np.int64)
    present = [_plain(np.asarray(v)).reshape(-1) for v in values if v is not None and v.size]
    flat = np.concatenate(present) if present else np.empty(0, kind.to_pandas_dtype())
    missing = np.array([v is None for v in values], bool)
    lists = pa.LargeListArray.from_arrays(
        pa.array(np.concatenate(([0], np.cumsum(sizes)))),
        pa.array(flat, kind),
        mask=pa.array(missing) if missing.any() else None,
    )
    return {"value": lists, "shape": pa.array([None if v is None else list(v.shape) for v in values], pa.list_(pa.int32()))}


def _plain(values: Any) -> Any:
    """DuckDB takes no float16 from Arrow: widen it."""
    values = values.astype(np.float32) if values.dtype == np.float16 else values
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def _constant_shapes(shape: tuple[int, ...], rows: int) -> pa.Array:
    offsets = np.arange(rows + 1, dtype=np.int32) * len(shape)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.tile(np.array(shape, np.int32), rows), pa.int32()))


_SQL_TYPES = {
    "bool": "BOOLEAN", "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT", "uint8": "UTINYINT",
    "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT", "float16": "FLOAT", "float32": "FLOAT",
    "float64": "DOUBLE",
}  # fmt: skip


def _typed_null(info: TensorInfo, part: str) -> str:
    if part == "shape":
        return "NULL::INTEGER[]"
    definition = info.definition
    if definition.kind in (Kind.TEXT, Kind.JSON):
        return "NULL::VARCHAR"
    kind = _SQL_TYPES.get(definition.dtype or "float64", "DOUBLE")
    return f"NULL::{kind}" if info.ndim == 0 else f"NULL::{kind}[]"


def _by_file(values: list[int]) -> str:
    """An expression for a constant that depends on which file of the list a row is in."""
    if len(values) == 1:
        return f"{values[0]}::BIGINT"
    return f"({values}::BIGINT[])[p0.file_index::BIGINT + 1]"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
