"""Reads samples of one file, by row offset, in whichever layout they lie.

``FileReader`` holds what is worth keeping about immutable files: page tables, decoded light columns and document pages, the
latter two under a byte budget. Every method may be called from several threads.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar
from weakref import ref

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from lakefmt.cells import Array, Buffer, Cells, Dense, Encoded, Ragged, Rows, Strings
from lakefmt.errors import Corrupt, LakeError, NoSuchObject
from lakefmt.fragment.assemble import missing_cells, place, widened
from lakefmt.fragment.cache import ByteCache
from lakefmt.fragment.columns import Shape
from lakefmt.fragment.light import Light, Lists, decode_light, scalar_cells
from lakefmt.fragment.meta import INLINE_FOLDER, WHOLE_NBYTES_MAX, ColumnFile, Field, Layout, find_field, stored_dtype
from lakefmt.fragment.pages import (
    PAGE_HEAD_NBYTES,
    PageTable,
    check_page,
    column_chunks,
    page_values,
    parse_footer,
    present_rows,
    read_page_header,
    read_page_table,
    single_value,
    split_byte_arrays,
)
from lakefmt.fragment.verify import verify_files
from lakefmt.htypes import Kind, TensorDef
from lakefmt.storage import Bytes, Range, Store

#: Decoded light columns and document pages kept per dataset handle.
DECODED_NBYTES_MAX = 256 << 20
#: Light files up to this size are parsed at once, all columns and in this thread: pyarrow's threads cost more than the work.
_SMALL_NBYTES = 64 << 10
#: Bytes of files a handle maps, and of uniform tensors it keeps whole; what does not fit is read by position. (Mapped pages
#: count as this process's memory, and the kernel maps large ones whole: they would grow to the size of the dataset.)
RESIDENT_NBYTES_MAX = 256 << 20
#: What touching a mapped page costs in residency, at most: the kernel maps large ones whole.
_FAULT_NBYTES = 2 << 20


T = TypeVar("T")
_Document: TypeAlias = list[str | None]


class FileReader:
    """Samples of column files in one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._pid = os.getpid()
        #: says why a file is gone, where somebody knows better than that it was lost
        self.explain: Callable[[ColumnFile], LakeError | None] = _lost
        self._lent: dict[str, dict[int, ref[Any]]] = {}
        #: bytes asked of the store so far; of mapped files, what was taken of them
        self.nbytes_read = 0
        self._reset()

    def _reset(self) -> None:
        self._tables: ByteCache[PageTable] = ByteCache(DECODED_NBYTES_MAX // 4)
        self._views: dict[str, memoryview] = {}
        self._mapped_nbytes = 0
        self._touched_nbytes = 0
        self._trusted: set[str] = set()
        self._small: ByteCache[pa.Table] = ByteCache(DECODED_NBYTES_MAX // 16)
        self._light: ByteCache[Light] = ByteCache(DECODED_NBYTES_MAX)
        self._pages: ByteCache[Any] = ByteCache(DECODED_NBYTES_MAX // 4)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["store"])  # type: ignore[misc]

    def after_fork(self) -> None:
        """In a forked child: locks may have been held by threads that are gone."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.store.after_fork()
            self._reset()

    def lend(self, holder: Any, files: Mapping[str, bytes]) -> None:
        """Read these small files from memory for as long as ``holder``, which has them as ``inline``, is there."""
        for key in files:
            self._lent.setdefault(key, {})[id(holder)] = ref(holder)
        if len(self._lent) > 4 * len(files) + 64:
            self._lent = {key: held for key, held in self._lent.items() if any(r() is not None for r in held.values())}

    # -- samples -------------------------------------------------------------------------------------------------------

    def cells(self, definition: TensorDef, files: tuple[ColumnFile, ...], rows: Rows) -> Cells:
        """Samples at row offsets of a fragment (or overlay) with these files; a tensor they lack is missing everywhere."""
        found = find_field(files, definition.id)
        if found is None:
            return missing_cells(definition, len(rows))
        file, field = found
        stored = stored_dtype(definition, field) if definition.kind is Kind.NUMERIC else definition.dtype
        if stored != definition.dtype:  # the tensor was widened since
            narrow = msgspec.structs.replace(definition, dtype=stored, first_dtype=None)
            return widened(self.cells(narrow, files, rows), definition)
        inside = rows < field.rows
        if field.rows == 0 or not inside.all():
            return self._short(definition, files, field, rows, inside)
        match field.layout:
            case Layout.SCALAR:
                return scalar_cells(self.light(file, field), rows)
            case Layout.LISTS:
                return self._list_cells(definition, file, field, rows)
            case Layout.TEXT:
                return Strings(self.light(file, field).take(pa.array(rows)), definition.kind is Kind.JSON)
            case Layout.DOCUMENTS:
                return Strings(pa.array(self._documents(file, rows), pa.large_string()), definition.kind is Kind.JSON)
            case Layout.FLAT:
                return Dense(self.flat(definition, file, field, rows))
            case Layout.BLOBS:
                return self._blob_cells(definition, files, file, field, rows)

    def _short(self, definition: TensorDef, files: tuple[ColumnFile, ...], field: Field, rows: Rows, inside: Array) -> Cells:
        """Rows past the end of a short tensor are missing."""
        if not inside.any():
            return missing_cells(definition, len(rows))
        part = self.cells(definition, files, rows[inside])
        return place(definition, len(rows), [(np.flatnonzero(inside), part)])

    def shapes(self, files: tuple[ColumnFile, ...], field: Field, rows: Rows) -> list[Shape | None]:
        """Shapes of samples of a numeric or encoded tensor, without reading the samples themselves."""
        if field.shape is not None:
            return [field.shape] * len(rows)
        if field.shape_column is None:  # scalars, some missing
            file = next(f for f in files if field in f.fields)
            scalars = self.light(file, field)
            return [() if scalars.valid is None or scalars.valid[r] else None for r in rows.tolist()]
        lists = self.shape_lists(files, field)
        offsets, valid = lists.offsets, lists.valid
        out: list[Shape | None] = []
        for r in rows.tolist():
            if valid is not None and not valid[r]:
                out.append(None)
            else:
                out.append(tuple(lists.values[offsets[r] : offsets[r + 1]].tolist()))
        return out

    def shape_lists(self, files: tuple[ColumnFile, ...], field: Field) -> Lists:
        """The shape column of a tensor whose shapes vary."""
        assert field.shape_column is not None
        lists: Lists = self._light_column(_shape_file(files, field), field.shape_column, Layout.LISTS, field.rows)
        return lists

    # -- light columns -------------------------------------------------------------------------------------------------

    def light(self, file: ColumnFile, field: Field) -> Any:
        """A whole light column, decoded and kept."""
        return self._light_column(file, field.column, field.layout, field.rows)

    def _light_column(self, file: ColumnFile, column: str, layout: Layout, rows: int) -> Any:
        def make() -> tuple[Light, int]:
            array = self.table(file, [column]).column(0).combine_chunks()
            if len(array) < rows:
                raise Corrupt(f"{self._name(file)}: column {column!r} has {len(array)} rows, its entry says {rows}")
            return decode_light(array, layout)

        return self._light.get((file.key, column), make)

    def table(self, file: ColumnFile, columns: list[str]) -> pa.Table:
        """Columns of a light file, through pyarrow; of a small one all, which are kept for whoever asks for the others."""
        if file.size > _SMALL_NBYTES:
            return self._parsed(file, columns)

        def make() -> tuple[pa.Table, int]:
            table = self._parsed(file, None)
            return table, table.nbytes + file.size

        table = self._small.get(file.key, make)
        if not set(columns) <= set(table.column_names):
            raise Corrupt(f"{self._name(file)}: it has no column {sorted(set(columns) - set(table.column_names))[0]!r}")
        return table.select(columns)

    def _parsed(self, file: ColumnFile, columns: list[str] | None) -> pa.Table:
        buffer = self._twice(file, lambda: self._buffer(file, columns))
        try:
            parquet = pq.ParquetFile(pa.BufferReader(pa.py_buffer(buffer)), page_checksum_verification=True)
            return parquet.read(columns=columns, use_threads=columns is not None)
        except (pa.ArrowException, OSError, ValueError, IndexError, KeyError) as e:
            raise Corrupt(f"{self._name(file)}: it does not parse ({e}); restore the file from a copy") from e

    def offsets(self, file: ColumnFile) -> Rows:
        """The ``_offset`` column of a deletion or overlay file."""
        values = self._light_column(file, "_offset", Layout.SCALAR, 0).values
        return np.asarray(values, np.int64)

    def _buffer(self, file: ColumnFile, columns: list[str] | None) -> Bytes:
        """The bytes of a file; of a large remote one only the columns asked for, at their places in a sparse mapping."""
        view = self._map(file)
        if view is not None:
            self.nbytes_read += file.size
            self._check_whole(file, view)
            return view
        known = dict(file.columns_xxh64)
        if columns is None or file.size <= WHOLE_NBYTES_MAX or not set(columns) <= set(known):
            (data,) = self._fetch(file, [Range(file.key, 0, file.size)])
            self._check_whole(file, data)
            return data
        tail = self._tail(file)
        footer = parse_footer(tail)
        sparse = mmap.mmap(-1, file.size)
        sparse[file.index_start :] = bytes(tail)
        wanted = [
            (column, Range(file.key, at, min(WHOLE_NBYTES_MAX, end - at)))
            for column in columns
            for start, end in column_chunks(footer, column)
            for at in range(start, end, WHOLE_NBYTES_MAX)
        ]
        digests = {column: xxhash.xxh64() for column in columns}
        for (column, r), data in zip(wanted, self._fetch(file, [r for _, r in wanted]), strict=True):
            digests[column].update(data)
            sparse[r.start : r.start + r.length] = data
        for column, digest in digests.items():
            if digest.hexdigest() != known[column]:
                raise Corrupt(f"{self._name(file)}: column {column!r} does not match its checksum; restore the file from a copy")
        return memoryview(sparse)

    def _list_cells(self, definition: TensorDef, file: ColumnFile, field: Field, rows: Rows) -> Cells:
        lists = self.light(file, field)
        if field.shape is not None:
            size = int(np.prod(field.shape, dtype=np.int64))
            values = lists.values.reshape(-1, size) if size else np.empty((field.rows, 0), lists.values.dtype)
            return Dense(values[rows].reshape(len(rows), *field.shape))
        out: list[Array | None] = []
        for r, shape in zip(rows.tolist(), self.shapes((file,), field, rows), strict=True):
            part = lists.values[lists.offsets[r] : lists.offsets[r + 1]]
            out.append(None if shape is None else part.reshape(shape).copy())
        return Ragged(out)

    # -- heavy columns -------------------------------------------------------------------------------------------------

    def page_table(self, file: ColumnFile) -> PageTable:
        """Where the pages of a heavy file lie."""
        return self._tables.get(file.key, lambda: self._twice(file, lambda: self._read_page_table(file)))

    def _read_page_table(self, file: ColumnFile) -> tuple[PageTable, int]:
        table = read_page_table(self._tail(file), file.index_start, self._name(file))
        if table.rows != file.fields[0].rows:
            raise Corrupt(f"{self._name(file)}: its index has {table.rows} rows, its entry says {file.fields[0].rows}")
        return table, table.nbytes

    def flat_extents(self, definition: TensorDef, file: ColumnFile, field: Field) -> list[tuple[int, int]]:
        """For each page of a FLAT column: where its values begin in the file, and how many rows it has."""
        table, itemsize = self.page_table(file), np.dtype(definition.dtype).itemsize
        return [self._flat_start(file, field, table, i, itemsize) for i in range(len(table.offset))]

    def flat_pages(self, definition: TensorDef, file: ColumnFile, field: Field, *, always: bool = False) -> list[Array] | None:
        """The pages of a FLAT column as arrays ``(rows, *shape)`` over mapped memory; ``None`` where ``_map`` gives none."""
        view = self._map(file, always=always)
        if view is None:
            return None
        dtype = np.dtype(definition.dtype).newbyteorder("<")
        shape = field.shape or ()
        size = int(np.prod(shape, dtype=np.int64))
        extents = self.flat_extents(definition, file, field)
        return [np.frombuffer(view, dtype, rows * size, start).reshape(rows, *shape) for start, rows in extents]

    def flat(self, definition: TensorDef, file: ColumnFile, field: Field, rows: Rows) -> Array:
        """Samples of a FLAT column, copied."""
        dtype = np.dtype(definition.dtype).newbyteorder("<")
        out = np.empty((len(rows), *(field.shape or ())), dtype)
        table = self.page_table(file)
        starts = np.array([s for s, _ in self.flat_extents(definition, file, field)], np.int64)
        page = table.page_of(rows)
        nbytes = dtype.itemsize * int(np.prod(field.shape or (), dtype=np.int64))
        at = starts[page] + (rows - table.first_row[page]) * nbytes
        try:
            self.fill([file.key] * len(rows), at, out)
        except NoSuchObject as e:
            raise self.gone(file) from e
        return out.astype(definition.dtype, copy=False)

    def fill(self, keys: list[str], at: Rows, out: Array) -> None:
        """Read ``out[i]`` from byte ``at[i]`` of the object ``keys[i]``, straight into place."""
        if not len(out):
            return
        target = out.reshape(len(out), -1).view(np.uint8)
        nbytes = target.shape[1]
        self.nbytes_read += target.nbytes
        self.store.fill([(Range(k, a, nbytes), target[i].data) for i, (k, a) in enumerate(zip(keys, at.tolist(), strict=True))])

    def _flat_start(self, file: ColumnFile, field: Field, table: PageTable, page: int, itemsize: int) -> tuple[int, int]:
        """Offset in the file of a page's first value, and its rows."""

        def make() -> tuple[tuple[int, int], int]:
            offset, size = int(table.offset[page]), int(table.size[page])
            (head_bytes,) = self._fetch(file, [Range(file.key, offset, min(size, 256))])
            rows = int(table.first_row[page + 1] - table.first_row[page])
            assert field.shape is not None
            body = rows * int(np.prod(field.shape, dtype=np.int64)) * itemsize
            # the values fill the page to its end, after levels whose length the header tells
            head = read_page_header(head_bytes, self._name(file), size)
            if head.end - head.values_start != body or head.nulls:
                raise Corrupt(f"{self._name(file)}: page {page} does not hold {rows} rows of shape {field.shape}; restore it")
            return (offset + head.values_start, rows), 64

        return self._pages.get((file.key, page, "start"), lambda: self._twice(file, make))  # type: ignore[no-any-return]

    def _blob_cells(
        self, definition: TensorDef, files: tuple[ColumnFile, ...], file: ColumnFile, field: Field, rows: Rows
    ) -> Cells:
        values = self.blobs(file, rows)
        if definition.kind is Kind.ENCODED:
            return Encoded(values, definition.compression or "")
        dtype = np.dtype(definition.dtype).newbyteorder("<")
        out: list[Array | None] = []
        for value, shape in zip(values, self.shapes(files, field, rows), strict=True):
            if (value is None) != (shape is None):
                raise Corrupt(f"{self._name(file)}: a sample and its shape disagree on being there; restore the file")
            if value is None or shape is None:
                out.append(None)
                continue
            if len(value) != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
                raise Corrupt(f"{self._name(file)}: a sample of {len(value)} bytes cannot have shape {shape}; restore the file")
            out.append(np.frombuffer(value, dtype).reshape(shape).astype(definition.dtype))
        return Ragged(out)

    def blobs(self, file: ColumnFile, rows: Rows) -> list[Buffer | None]:
        """BYTE_ARRAY values at row offsets; views of mapped memory where the store is local."""
        table = self.page_table(file)
        pages = table.page_of(rows)
        wanted = np.unique(pages) if len(pages) > 1 else pages
        fetched = self._page_bytes(file, table, wanted)
        out: list[Buffer | None] = []
        name = self._name(file)
        first = table.first_row
        for r, p in zip(rows.tolist(), pages.tolist(), strict=True):
            page = fetched[p]
            alone = first[p + 1] - first[p] == 1
            at = single_value(page, len(page), name) if alone else None
            value: Buffer | None = None if at is None else memoryview(page)[at:]
            if value is None:
                splits = self._page_splits(file, table, p, page)
                span = splits[r - int(first[p])]
                value = None if span is None else memoryview(page)[span[0] : span[1]]
            out.append(value)
        if self.store.holds(file.key):  # pages are mapped: only the values are looked at
            self.nbytes_read += sum(len(v) for v in out if v is not None)
        return out

    def blob(self, file: ColumnFile, row: int) -> Buffer | None:
        """One BYTE_ARRAY value; the short way when it has a page to itself in a local file."""
        table = self.page_table(file)
        page = row if table.single else int(table.first_row.searchsorted(row, "right")) - 1
        alone = table.first_row.item(page + 1) - table.first_row.item(page) == 1
        if not alone or not self.store.holds(file.key):
            return self.blobs(file, np.array([row]))[0]
        start, size = table.offset.item(page), table.size.item(page)
        view = self._map(file)
        if view is not None:
            self.nbytes_read += size
            head: Bytes = view[start : start + size]
        else:
            head = self._read(file, start, min(size, PAGE_HEAD_NBYTES))
        at = single_value(head, size, file.key)
        if at is None:
            return self.blobs(file, np.array([row]))[0]
        return head[at:] if view is not None else self._read(file, start + at, size - at)

    def _read(self, file: ColumnFile, start: int, length: int) -> Bytes:
        """Exactly these bytes of a file."""
        self.nbytes_read += length
        try:
            data = self.store.get_range(file.key, start, length)
        except NoSuchObject as e:
            raise self.gone(file) from e
        if len(data) != length:
            self._expect(file, data, length)
        return data

    def _fetch(self, file: ColumnFile, ranges: list[Range]) -> list[Bytes]:
        """Exactly these ranges of a file."""
        self.nbytes_read += sum(r.length for r in ranges)
        try:
            answers = self.store.get_ranges(ranges)
        except NoSuchObject as e:
            raise self.gone(file) from e
        for r, answer in zip(ranges, answers, strict=True):
            self._expect(file, answer, r.length)
        return answers

    def _twice(self, file: ColumnFile, read: Callable[[], T]) -> T:
        """What ``read`` gives; asked once more where what it found damaged was a copy of the file, which is dropped."""
        try:
            return read()
        except Corrupt:
            view = self._views.pop(file.key, None)
            self._mapped_nbytes -= 0 if view is None else file.size
            if not self.store.forget(file.key):
                raise
        return read()

    def gone(self, file: ColumnFile) -> LakeError:
        """What to raise for a file that is missing."""
        return self.explain(file) or Corrupt(f"{self._name(file)} is missing, though the version names it; restore it from a copy")

    def _page_splits(self, file: ColumnFile, table: PageTable, page_no: int, page: Bytes) -> list[tuple[int, int] | None]:
        """Where each value of an uncompressed page lies, relative to the page; ``None`` for a missing one."""

        def make() -> tuple[list[tuple[int, int] | None], int]:
            name = self._name(file)
            head = read_page_header(page, name)
            rows = int(table.first_row[page_no + 1] - table.first_row[page_no])
            if head.rows != rows or head.values != rows:
                raise Corrupt(f"{name}: a page holds {head.rows} rows, its index says {rows}; restore the file")
            spans = split_byte_arrays(page_values(page, head, table.codec, name), head.values - head.nulls, name)
            moved = [(a + head.values_start, b + head.values_start) for a, b in spans]
            if head.nulls == 0:
                return list(moved), 100 * len(moved)
            present = iter(moved)
            return [next(present) if p else None for p in present_rows(page, head, name).tolist()], 100 * rows

        return self._pages.get((file.key, page_no), make)  # type: ignore[no-any-return]

    def _documents(self, file: ColumnFile, rows: Rows) -> _Document:
        table = self.page_table(file)
        pages = table.page_of(rows)
        wanted = np.unique(pages)
        fetched = self._page_bytes(file, table, wanted)
        texts = {p: self._document_page(file, table, p, page) for p, page in fetched.items()}
        return [texts[p][r - int(table.first_row[p])] for r, p in zip(rows.tolist(), pages.tolist(), strict=True)]

    def _document_page(self, file: ColumnFile, table: PageTable, page_no: int, page: Bytes) -> _Document:
        def make() -> tuple[_Document, int]:
            name = self._name(file)
            head = read_page_header(page, name)
            rows = int(table.first_row[page_no + 1] - table.first_row[page_no])
            if head.rows != rows or head.values != rows:
                raise Corrupt(f"{name}: a page holds {head.rows} rows, its index says {rows}; restore the file")
            values = page_values(page, head, table.codec, name)
            spans = split_byte_arrays(values, head.values - head.nulls, name)
            try:
                texts = iter([str(values[a:b], "utf-8") for a, b in spans])
            except UnicodeDecodeError as e:
                raise Corrupt(f"{name}: text that is not UTF-8 ({e}); restore the file") from e
            return [next(texts) if p else None for p in present_rows(page, head, name).tolist()], 2 * len(values)

        return self._pages.get((file.key, page_no), make)  # type: ignore[no-any-return]

    def _page_bytes(self, file: ColumnFile, table: PageTable, pages: Rows) -> dict[int, Bytes]:
        """The bytes of pages, by their number."""
        return dict(zip(pages.tolist(), self._twice(file, lambda: self._pages_of(file, table, pages)), strict=True))

    def _pages_of(self, file: ColumnFile, table: PageTable, pages: Rows) -> list[Bytes]:
        view = self._map(file, always=True)
        if view is not None:
            self._touched(len(pages))
            ends = (table.offset[pages] + table.size[pages]).tolist()
            return [view[a:b] for a, b in zip(table.offset[pages].tolist(), ends, strict=True)]
        answers = self._fetch(file, [Range(file.key, int(table.offset[p]), int(table.size[p])) for p in pages.tolist()])
        for answer in answers:
            check_page(answer, self._name(file))  # what came over a network is checked; it costs little beside the way
        return answers

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def mapped(self, file: ColumnFile) -> memoryview | None:
        """The whole file as mapped memory; ``None`` where the store maps none."""
        return self._map(file, always=True)

    def _map(self, file: ColumnFile, *, always: bool = False) -> memoryview | None:
        """The file as mapped memory; ``None`` when it is remote, or would not stay within bounds (and not ``always``)."""
        view = self._views.get(file.key)
        if view is not None:
            return view
        if file.key.startswith(INLINE_FOLDER):
            return self._inline(file)
        if not self.store.holds(file.key) or (self._mapped_nbytes + file.size > RESIDENT_NBYTES_MAX and not always):
            return None
        try:
            view = self.store.map(file.key)
        except NoSuchObject as e:
            raise self.gone(file) from e
        if view is not None and len(view) != file.size:
            raise Corrupt(
                f"{self._name(file)} has {len(view)} bytes instead of {file.size}: it was truncated or replaced; restore it"
            )
        if view is not None and not always:
            self._views[file.key] = view
            self._mapped_nbytes += file.size
        return view

    def _inline(self, file: ColumnFile) -> memoryview:
        holder = next((h for r in list(self._lent.get(file.key, {}).values()) if (h := r()) is not None), None)
        if holder is None:
            raise Corrupt(f"{self._name(file)}: these rows lie in a version object that does not hold them; restore it from a copy")
        return memoryview(holder.inline[file.key])

    def _tail(self, file: ColumnFile) -> Bytes:
        view = self._map(file)
        length = file.size - file.index_start
        if view is not None:
            tail: Bytes = view[file.index_start :]
        else:
            (tail,) = self._fetch(file, [Range(file.key, file.index_start, length)])
        self._check_tail(file, tail)
        return tail

    def _check_tail(self, file: ColumnFile, tail: Bytes) -> None:
        """The indexes and the footer are believed only when they match the log's checksum."""
        if xxhash.xxh64(tail).hexdigest() != file.index_xxh64:
            raise Corrupt(f"{self._name(file)}: its index or footer does not match its checksum; restore the file from a copy")

    def _check_whole(self, file: ColumnFile, data: Bytes) -> None:
        """A light file is checked as a whole, once, where all of it is at hand: page checksums cover no page header."""
        if file.key not in self._trusted:
            if xxhash.xxh64(data).hexdigest() != file.xxh64:
                raise Corrupt(f"{self._name(file)} does not match its checksum; restore the file from a copy")
            self._trusted.add(file.key)

    def trust(self, file: ColumnFile) -> None:
        """Check a file against its checksum, once, before an engine that checks nothing reads it.

        Raises:
            Corrupt: it is damaged.
        """
        if file.key not in self._trusted and not file.key.startswith(INLINE_FOLDER):
            verify_files(self.store, [file])
            self._trusted.add(file.key)

    def _touched(self, pages: int) -> None:
        """Note views handed out of files that may be larger than what should stay resident.

        They are cheaper than copies: whoever decodes them faults their pages in, without the interpreter lock.
        """
        self._touched_nbytes += pages * _FAULT_NBYTES
        if self._touched_nbytes > RESIDENT_NBYTES_MAX:
            self._touched_nbytes = 0
            self.store.forget_pages()

    def _expect(self, file: ColumnFile, data: Bytes, length: int) -> None:
        if len(data) != length:
            raise Corrupt(f"{self._name(file)}: {len(data)} bytes came where {length} were stored: it was truncated; restore it")

    def _name(self, file: ColumnFile) -> str:
        return f"{self.store.url}/{file.key}"


def _lost(file: ColumnFile) -> None:
    """Nobody knows better."""


def _shape_file(files: tuple[ColumnFile, ...], field: Field) -> ColumnFile:
    if field.shape_file is None:
        return next(f for f in files if field in f.fields)
    return next(f for f in files if f.key == field.shape_file)
