"""Writes a fragment: one light file for small columns, and a file of its own for every heavy one.

Which layout a tensor gets is decided here, from the samples at hand (``_layout``); the reasons are in ``spec/FORMAT.md``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from lakefmt.cells import Rows
from lakefmt.errors import InvalidInput
from lakefmt.fragment.arrow import numpy_of
from lakefmt.fragment.columns import BytesColumn, Column, NumericColumn, Shape, TextColumn
from lakefmt.fragment.meta import INLINE_FOLDER, LIGHT, WHOLE_NBYTES_MAX, ColumnFile, Field, Layout
from lakefmt.fragment.pages import column_chunks, parse_footer
from lakefmt.fragment.parquet_out import Codec, ColumnSpec, ColumnWriter, Physical
from lakefmt.fragment.sink import HashingSink
from lakefmt.htypes import TensorDef
from lakefmt.storage import Bytes, Store

#: Fixed-shape rows up to this many bytes stay in the light file, where SQL reads them with the labels.
LIST_NBYTES_MAX = 128
#: ... except vectors of at least so many bytes where a fragment has so many bytes of them, of a dtype that Parquet's lists hold.
VECTOR_NBYTES_MIN = 32
VECTORS_NBYTES_MIN = 8 << 20
#: Ragged rows up to this mean size stay in the light file as lists; larger ones become directly addressable blobs.
RAGGED_NBYTES_MAX = 1024
#: Text of this mean length (in UTF-8 bytes) or more gets pages of its own.
DOCUMENT_NBYTES_MIN = 1024
#: Values smaller than this share a page: a page is the unit of a remote read.
PAGE_NBYTES = 64 << 10
#: Bytes of a flat array a page; bounds what another Parquet reader must hold.
FLAT_PAGE_NBYTES = 64 << 20
#: Rows of a row group in light files: DuckDB's scans slow down sharply under a few thousand.
LIGHT_ROW_GROUP_ROWS = 131_072

_NATIVE_LISTS = {"float32": Physical.FLOAT, "float64": Physical.DOUBLE, "int32": Physical.INT32, "int64": Physical.INT64}


@dataclass(frozen=True, slots=True)
class _Task:
    """One tensor's column, its entry in the log, and its column name."""

    definition: TensorDef
    column: Column
    field: Field


def new_key(folder: str) -> str:
    """A fresh random name: written once, never overwritten."""
    name = uuid.uuid4().hex
    return f"{folder}/{name[:2]}/{name}.parquet"


def write_files(
    store: Store,
    columns: Sequence[tuple[TensorDef, Column]],
    rows: int,
    *,
    folder: str = "data",
    offsets: Rows | None = None,
) -> tuple[ColumnFile, ...]:
    """Write columns as the files of one fragment.

    Args:
        store: where.
        columns: the tensors with their samples; one with fewer than ``rows`` is short, the rest of it is missing.
        rows: rows of the fragment.
        folder: top folder of the new keys.
        offsets: row offsets to keep beside the samples, in a column ``_offset`` of the light file (for overlays).

    Returns:
        The files, ready to be recorded. Nothing refers to them yet: if the commit fails they are orphans.
    """
    names = _column_names([d.name for d, _ in columns])
    tasks = [_task(d, c, names[d.name]) for d, c in columns]
    files: list[ColumnFile] = []
    light = {t.field.id: t for t in tasks if t.field.layout in LIGHT}
    shape_of = {t.field.id: t for t in tasks if t.field.layout is Layout.BLOBS and t.field.shape is None}
    light_key = new_key(folder) if light or shape_of or offsets is not None else None
    for task in tasks:
        if task.field.layout not in LIGHT:
            field = task.field
            if field.id in shape_of:
                field = msgspec.structs.replace(field, shape_file=light_key)
            files.append(_write_heavy(store, _Task(task.definition, task.column, field), folder))
    if light_key is not None:
        table = _light_table([*light.values()], [*shape_of.values()], rows, offsets)
        files.insert(0, put_light(store, light_key, table, tuple(t.field for t in light.values())))
    return tuple(files)


def write_inline(columns: Sequence[tuple[TensorDef, Column]], rows: int) -> tuple[ColumnFile, bytes] | None:
    """Columns as one small file that goes into the version object; ``None`` where some column is not light.

    Args:
        columns, rows: as for ``write_files``.
    """
    names = _column_names([d.name for d, _ in columns])
    tasks = [_task(d, c, names[d.name]) for d, c in columns]
    if any(t.field.layout not in LIGHT for t in tasks):
        return None
    data = light_parquet(_light_table(tasks, [], rows, None))
    return _light_entry(f"{INLINE_FOLDER}{uuid.uuid4().hex}.parquet", data, tuple(t.field for t in tasks)), data


def _task(definition: TensorDef, column: Column, name: str) -> _Task:
    field = _field(definition, column, name)
    if isinstance(column, NumericColumn):
        field = msgspec.structs.replace(field, dtype=column.dtype.name)
    return _Task(definition, column, field)


def _column_names(names: Sequence[str]) -> dict[str, str]:
    """A column name per tensor: its own, made distinct where names differ only in case (DuckDB folds case)."""
    out: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        column, n = name, 1
        while column.lower() in taken or f"{column}__shape".lower() in taken:
            n += 1
            column = f"{name}__{n}"
        taken |= {column.lower(), f"{column}__shape".lower()}
        out[name] = column
    return out


# -- layout --------------------------------------------------------------------------------------------------------------


def _field(definition: TensorDef, column: Column, name: str) -> Field:
    rows = len(column)
    if isinstance(column, TextColumn):
        array = column.arrow()
        nbytes = array.nbytes
        heavy = rows > 0 and nbytes / rows >= DOCUMENT_NBYTES_MIN
        layout = Layout.DOCUMENTS if heavy else Layout.TEXT
        return Field(
            id=definition.id, column=name, layout=layout, rows=rows, shape=() if array.null_count == 0 else None,
            missing=array.null_count, nbytes=nbytes,
        )  # fmt: skip
    if isinstance(column, NumericColumn):
        common = column.common_shape()
        if common is not None:
            nbytes = rows * int(np.prod(common, dtype=np.int64)) * column.dtype.itemsize
            layout = _fixed_layout(common, column.dtype, rows)
            return Field(
                id=definition.id, column=name, layout=layout, rows=rows, shape=common, shape_min=common, shape_max=common,
                ndim_min=len(common), ndim_max=len(common), nbytes=nbytes,
            )  # fmt: skip
        samples = column.samples()
        nbytes = sum(s.nbytes for s in samples if s is not None)
        stats = _shape_stats(column.shapes())
        if stats.get("ndim_max", 0) == 0:
            layout = Layout.SCALAR
        else:
            layout = Layout.LISTS if nbytes <= RAGGED_NBYTES_MAX * rows else Layout.BLOBS
        shape_column = None if layout is Layout.SCALAR else f"{name}__shape"
        return Field(id=definition.id, column=name, layout=layout, rows=rows, nbytes=nbytes, shape_column=shape_column, **stats)
    assert isinstance(column, BytesColumn)
    shapes = column.shapes()
    stats = _shape_stats(shapes)
    nbytes = sum(len(v) for v in column.values if v is not None)
    return Field(
        id=definition.id, column=name, layout=Layout.BLOBS, rows=rows, nbytes=nbytes, shape_column=f"{name}__shape", **stats
    )


def _fixed_layout(shape: Shape, dtype: np.dtype[Any], rows: int) -> Layout:
    if shape == ():
        return Layout.SCALAR
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    # a long column of vectors is worth a file in which a vector is found without decoding the others; as numbers it stays readable
    many = size >= VECTOR_NBYTES_MIN and size * rows >= VECTORS_NBYTES_MIN and dtype.name in _NATIVE_LISTS
    return Layout.FLAT if many or size > LIST_NBYTES_MAX else Layout.LISTS


def _shape_stats(shapes: Sequence[Shape | None]) -> dict[str, Any]:
    present = [s for s in shapes if s is not None]
    missing = len(shapes) - len(present)
    distinct = set(present)
    ndims = {len(s) for s in distinct}
    if not ndims:
        return {"missing": missing}
    out: dict[str, Any] = {"missing": missing, "ndim_min": min(ndims), "ndim_max": max(ndims)}
    if len(ndims) == 1:
        out["shape_min"] = tuple(min(d) for d in zip(*distinct, strict=True))
        out["shape_max"] = tuple(max(d) for d in zip(*distinct, strict=True))
    return out


# -- light columns -------------------------------------------------------------------------------------------------------


def _light_table(light: Sequence[_Task], shape_of: Sequence[_Task], rows: int, offsets: Rows | None) -> pa.Table:
    arrays: list[pa.Array] = []
    fields: list[pa.Field] = []
    if offsets is not None:
        arrays.append(pa.array(offsets, pa.int64()))
        fields.append(pa.field("_offset", pa.int64()))
    for task in light:
        arrays.append(_pad(light_array(task.column, task.field), rows))
        fields.append(pa.field(task.field.column, arrays[-1].type, metadata={"PARQUET:field_id": str(task.field.id)}))
    for task in (*light, *shape_of):
        if task.field.shape_column is not None:
            assert isinstance(task.column, (NumericColumn, BytesColumn))
            arrays.append(_pad(shape_array(task.column.shapes()), rows))
            fields.append(pa.field(task.field.shape_column, arrays[-1].type))
    return pa.table(arrays, schema=pa.schema(fields))


def put_light(store: Store, key: str, table: pa.Table, fields: tuple[Field, ...] = ()) -> ColumnFile:
    """Write a table as a light file."""
    data = light_parquet(table)
    store.put(key, data)
    return _light_entry(key, data, fields)


def _light_entry(key: str, data: bytes, fields: tuple[Field, ...]) -> ColumnFile:
    index_start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    columns = () if len(data) <= WHOLE_NBYTES_MAX else _column_digests(data, index_start)
    return ColumnFile(
        key=key,
        size=len(data),
        xxh64=xxhash.xxh64(data).hexdigest(),
        index_start=index_start,
        index_xxh64=xxhash.xxh64(data[index_start:]).hexdigest(),
        fields=fields,
        columns_xxh64=columns,
    )


def _column_digests(data: bytes, index_start: int) -> tuple[tuple[str, str], ...]:
    """XXH64 of each column's chunks."""
    view = memoryview(data)
    footer = parse_footer(view[index_start:])
    names = dict.fromkeys(chunk[3][3][0].decode() for group in footer[4] for chunk in group[1])
    out = []
    for name in names:
        digest = xxhash.xxh64()
        for start, end in column_chunks(footer, name):
            digest.update(view[start:end])
        out.append((name, digest.hexdigest()))
    return tuple(out)


def light_parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file in memory: zstd, statistics, large row groups, page checksums."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=LIGHT_ROW_GROUP_ROWS,
        compression="zstd",
        write_page_checksum=True,
        store_schema=False,
        write_statistics=[p for c, f in zip(table.columns, table.schema, strict=True) for p in _counted(c, f)],
    )
    return bytes(sink.getvalue().to_pybytes())


def _counted(column: pa.ChunkedArray, field: pa.Field) -> list[str]:
    """The path in Parquet of a column whose statistics are written; none where they would mislead.

    Statistics leave NaN out, and DuckDB concludes from them that there is none: ``x > 50`` would be true for NaN, and
    ``isnan(x)`` for no row.
    """
    nested = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
    values = [chunk.flatten() if nested else chunk for chunk in column.chunks]
    if any(pa.types.is_floating(v.type) and np.isnan(numpy_of(v)).any() for v in values):
        return []
    return [f"{field.name}.list.element" if nested else field.name]


def light_array(column: Column, field: Field) -> pa.Array:
    """A column in the form its light layout has in Parquet."""
    if isinstance(column, TextColumn):
        return column.arrow()
    assert isinstance(column, NumericColumn)
    if field.layout is Layout.SCALAR:
        return _scalars(column, field)
    return _lists(column, field)


def _scalars(column: NumericColumn, field: Field) -> pa.Array:
    if field.missing == 0:
        blocks = column.blocks()
        values = blocks[0] if len(blocks) == 1 else np.concatenate(blocks) if blocks else np.empty(0, column.dtype)
        return pa.array(values)
    samples = column.samples()
    mask = np.array([s is None for s in samples])
    values = np.array([0 if s is None else s[()] for s in samples], column.dtype)
    return pa.array(values, mask=mask)


def _lists(column: NumericColumn, field: Field) -> pa.Array:
    if field.shape is not None:
        size = int(np.prod(field.shape, dtype=np.int64))
        blocks = [b.reshape(-1) for b in column.blocks()]
        flat = np.concatenate(blocks) if blocks else np.empty(0, column.dtype)
        offsets = np.arange(len(column) + 1, dtype=np.int64) * size
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))
    samples = column.samples()
    sizes = np.array([0 if s is None else s.size for s in samples], np.int64)
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    present = [s.reshape(-1) for s in samples if s is not None and s.size]
    flat = np.concatenate(present).astype(column.dtype, copy=False) if present else np.empty(0, column.dtype)
    mask = np.array([s is None for s in samples])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat), mask=pa.array(mask) if mask.any() else None)


def shape_array(shapes: Sequence[Shape | None]) -> pa.Array:
    """Shapes as LIST<INT32>, null for the missing."""
    return pa.array([None if s is None else list(s) for s in shapes], pa.list_(pa.int32()))


def _pad(array: pa.Array, rows: int) -> pa.Array:
    if len(array) == rows:
        return array
    return pa.concat_arrays([array, pa.nulls(rows - len(array), array.type)])


# -- heavy columns -------------------------------------------------------------------------------------------------------


def _write_heavy(store: Store, task: _Task, folder: str) -> ColumnFile:
    key = new_key(folder)
    spec = _spec(task)
    fill: Callable[[ColumnWriter, Column], None] = {
        Layout.FLAT: _fill_flat, Layout.BLOBS: _fill_blobs, Layout.DOCUMENTS: _fill_documents,
    }[task.field.layout]  # fmt: skip
    with store.writer(key) as writer, HashingSink(writer) as sink:
        out = ColumnWriter(sink, spec)
        fill(out, task.column)
        shape = "" if task.field.shape is None else ",".join(map(str, task.field.shape))
        index_start, tail = out.finish(
            {"lakefmt.tensor": task.definition.name, "lakefmt.dtype": task.definition.dtype or "", "lakefmt.shape": shape}
        )
    return ColumnFile(
        key=key,
        size=sink.size,
        xxh64=sink.digest(),
        index_start=index_start,
        index_xxh64=xxhash.xxh64(tail).hexdigest(),
        fields=(task.field,),
    )


def _spec(task: _Task) -> ColumnSpec:
    field, column = task.field, task.column
    if field.layout is Layout.FLAT:
        assert isinstance(column, NumericColumn)
        assert field.shape is not None
        size = int(np.prod(field.shape, dtype=np.int64))
        native = _NATIVE_LISTS.get(column.dtype.name)
        if native is not None:
            return ColumnSpec(field.column, field.id, native, list_of=size)
        return ColumnSpec(field.column, field.id, Physical.FIXED_LEN_BYTE_ARRAY, type_length=size * column.dtype.itemsize)
    return ColumnSpec(
        field.column,
        field.id,
        Physical.BYTE_ARRAY,
        optional=field.missing > 0,
        is_string=field.layout is Layout.DOCUMENTS,
        codec=Codec.ZSTD if field.layout is Layout.DOCUMENTS else Codec.UNCOMPRESSED,
    )


def _fill_flat(out: ColumnWriter, column: Column) -> None:
    assert isinstance(column, NumericColumn)
    blocks = column.blocks()
    row_nbytes = blocks[0].nbytes // len(blocks[0])
    page_rows = max(1, FLAT_PAGE_NBYTES // row_nbytes)
    parts: list[Bytes] = []
    held = 0
    for block in blocks:
        at = 0
        while at < len(block):
            n = min(page_rows - held, len(block) - at)
            parts.append(block[at : at + n].reshape(-1).view(np.uint8).data)
            held += n
            at += n
            if held == page_rows:
                out.page(parts, held)
                parts, held = [], 0
    if held:
        out.page(parts, held)


def _fill_blobs(out: ColumnWriter, column: Column) -> None:
    _fill_values(out, _blobs(column))


def _fill_documents(out: ColumnWriter, column: Column) -> None:
    assert isinstance(column, TextColumn)
    array = column.arrow()
    _fill_values(out, (None if v is None else v.encode() for v in (s.as_py() for s in array)))


def _blobs(column: Column) -> Iterator[Bytes | None]:
    if isinstance(column, BytesColumn):
        yield from column.values
        return
    assert isinstance(column, NumericColumn)
    little = column.dtype.newbyteorder("<")
    for sample in column.samples():
        yield None if sample is None else np.ascontiguousarray(sample, little).reshape(-1).view(np.uint8).data


def _fill_values(out: ColumnWriter, values: Iterator[Bytes | None]) -> None:
    """BYTE_ARRAY values: a page each when large, else gathered to about 64 KB."""
    parts: list[Bytes] = []
    present: list[bool] = []
    held = 0

    def close() -> None:
        nonlocal parts, present, held
        if present:
            out.page(parts, len(present), None if all(present) else present)
        parts, present, held = [], [], 0

    for value in values:
        size = 0 if value is None else len(value)
        if size >= 1 << 31:
            raise InvalidInput(f"a sample of {size} bytes is over Parquet's limit of 2 GiB a value; cut it into several rows")
        if held and held + size > PAGE_NBYTES:
            close()
        if value is not None:
            parts += [size.to_bytes(4, "little"), value]
        present.append(value is not None)
        held += size + 4
        if held >= PAGE_NBYTES:
            close()
    close()
