"""Whole-column access to uniform tensors: every sample present, of one shape, so that a row is a place in a run of equal items.

Three ways, by size. *Resident*: once a fair share of a small tensor has been asked for, it is put together in one array, and a
batch is a single ``take``. *Mapped*: until then, and for narrow rows always, rows come from views of the mapped pages. *By
position*: wide rows of what is too large to stay resident are read straight into the batch, row by row, so that memory does not
grow with the dataset. (A narrow row costs less to copy than to ask for: there the kernel keeps, and takes back, what is mapped.)

Rows are copied as records, opaque items of a row's bytes: values in a file begin anywhere, and of an array of numbers that is not
aligned ``np.take`` first makes a copy, all of it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lakefmt.cells import Array, Rows
from lakefmt.fragment.meta import ColumnFile, Field, Fragment, Layout, stored_dtype
from lakefmt.fragment.read import FileReader
from lakefmt.htypes import TensorDef

#: Rows this wide are copied one by one when they come from several pages; narrower ones page by page.
_WIDE_NBYTES = 2048
#: A small tensor is put together when one in so many of its rows has been asked for.
_SHARE = 8


@dataclass(frozen=True, slots=True)
class _Page:
    """A run of rows in a FLAT file: where its values begin, and which row of the tensor is the first."""

    key: str
    start: int
    first: int


class _Pages:
    """The pages of some files, in row order; views of them, where there is one of each."""

    def __init__(self, files: Mapping[int, tuple[list[_Page], list[Array]]]) -> None:
        found = [files[n] for n in sorted(files)]
        self.files = frozenset(files)
        self.pages = pages = [p for some, _ in found for p in some]
        views = [v for _, some in found for v in some]
        self.first = np.array([p.first for p in pages], np.int64)
        self.starts = np.array([p.start for p in pages], np.int64)
        self.views = views if views and len(views) == len(pages) else None


class Runs:
    """A uniform tensor over all fragments, addressed by physical row."""

    def __init__(
        self, reader: FileReader, definition: TensorDef, parts: Sequence[tuple[ColumnFile, Field]], *, resident: bool
    ) -> None:
        self._reader = reader
        self._definition = definition
        self._parts = parts
        self._resident = resident
        self._rows = sum(f.rows for _, f in parts)
        self._asked = 0
        self._whole: Array | None = None
        self._lock = threading.Lock()
        self._flat = all(f.layout is Layout.FLAT for _, f in parts)
        self._part_ends = np.cumsum([f.rows for _, f in parts], dtype=np.int64)
        self._known: dict[int, tuple[list[_Page], list[Array]]] = {}  # pages of a file, and views of them
        self._pages = _Pages({})
        shape = parts[0][1].shape or ()
        self._row_nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(definition.dtype).itemsize
        self._narrow = self._row_nbytes < _WIDE_NBYTES

    def gather(self, rows: Rows, out: Array) -> bool:
        """Copy rows into ``out``; False when there is no cheap way yet (light columns of which little was asked so far)."""
        if not out.nbytes:
            return True
        out = _records(out)
        whole = self._whole
        if whole is None and self._resident:
            self._asked += len(rows)
            if self._asked * _SHARE >= self._rows and self._all_alike():
                whole = self._put_together()
        if whole is not None:
            self._reader.nbytes_read += out.nbytes
            np.take(whole, rows, out=out, mode="clip")
            return True
        if not self._flat:
            return False
        pages = self._find_pages(rows)
        page = np.searchsorted(pages.first, rows, side="right") - 1
        inside = rows - pages.first[page]
        if pages.views is None:
            keys = [pages.pages[p].key for p in page.tolist()]
            self._reader.fill(keys, pages.starts[page] + inside * self._row_nbytes, out)
        else:
            self._reader.nbytes_read += out.nbytes
            _copy(pages.views, page, inside, out)
        return True

    def _all_alike(self) -> bool:
        """Whether all files are near, or all far; where only some are near, somebody wants these and not to ask for the others."""
        held = {self._reader.store.holds(f.key) for f, _ in self._parts}
        self._resident = len(held) == 1
        return self._resident

    def _put_together(self) -> Array:
        """The whole tensor in one array; made once."""
        with self._lock:
            if self._whole is None:
                parts = [self._part(*p) for p in self._parts]
                self._whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
                self._known, self._pages = {}, _Pages({})
                self._reader.store.forget_pages()
            return self._whole

    def _part(self, file: ColumnFile, field: Field) -> Array:
        if field.layout is Layout.FLAT:
            pages = self._reader.flat_pages(self._definition, file, field, always=True)
            if pages is not None:
                return np.concatenate([_records(p) for p in pages]) if len(pages) > 1 else _records(pages[0])
            return _records(self._reader.flat(self._definition, file, field, np.arange(field.rows)))
        values: Array = self._reader.light(file, field).values
        return np.ascontiguousarray(values).view(np.uint8)[: field.rows * self._row_nbytes].view(f"V{self._row_nbytes}")

    def _find_pages(self, rows: Rows) -> _Pages:
        """The pages of the files that hold these rows, and of those that were asked for before; of local files all at once."""
        pages = self._pages
        if len(pages.files) == len(self._parts):
            return pages
        near = self._reader.store.is_local
        wanted = range(len(self._parts)) if near else np.unique(np.searchsorted(self._part_ends, rows, side="right")).tolist()
        if not pages.files.issuperset(wanted):
            with self._lock:
                for n in wanted:
                    if n not in self._known:
                        self._known[n] = self._pages_of(n)
                pages = self._pages = _Pages(self._known)
        return pages

    def _pages_of(self, n: int) -> tuple[list[_Page], list[Array]]:
        """The pages of a file, and views of them where it can be mapped and may stay."""
        file, field = self._parts[n]
        first = int(self._part_ends[n]) - field.rows
        pages = []
        for start, rows in self._reader.flat_extents(self._definition, file, field):
            pages.append(_Page(file.key, start, first))
            first += rows
        mapped = self._resident or self._narrow
        views = self._reader.flat_pages(self._definition, file, field, always=self._narrow) if mapped else None
        return pages, [_records(v) for v in views or ()]


def find_runs(reader: FileReader, definition: TensorDef, fragments: Sequence[Fragment], *, resident: bool) -> Runs | None:
    """Runs of a uniform tensor; ``None`` when some fragment has updates of it, or when it has no cheap whole form.

    Args:
        resident: whether it may be kept in memory as a whole.
    """
    parts: list[tuple[ColumnFile, Field]] = []
    for fragment in fragments:
        found = fragment.field(definition.id)
        if found is None or fragment.overlays_of(definition.id) or stored_dtype(definition, found[1]) != definition.dtype:
            return None
        parts.append(found)
    flat = all(f.layout is Layout.FLAT for _, f in parts)
    if not parts or not (flat or resident) or not np.dtype(definition.dtype).newbyteorder("<").isnative:
        return None
    return Runs(reader, definition, parts, resident=resident)


def _records(array: Array) -> Array:
    """``(rows, *shape)`` as ``(rows,)`` opaque items over the same memory."""
    return array.reshape(-1).view(f"V{array.nbytes // len(array)}")


def _copy(views: list[Array], page: Rows, inside: Rows, out: Array) -> None:
    """``out[i] = views[page[i]][inside[i]]``."""
    if len(views) == 1:
        np.take(views[0], inside, out=out, mode="clip")
    elif out.itemsize >= _WIDE_NBYTES:
        for i, (p, r) in enumerate(zip(page.tolist(), inside.tolist(), strict=True)):
            out[i] = views[p][r]
    else:
        _copy_sorted(views, page, inside, out)


def _copy_sorted(views: list[Array], page: Rows, inside: Rows, out: Array) -> None:
    """The same page by page. (Measured, 8,192 rows of 64 bytes in ten pages: 108 ns a row; a mask for every page: 198.)"""
    keys = page.astype(np.uint16) if len(views) <= 1 << 16 else page  # of sixteen bits, NumPy's stable sort is a radix sort
    order = np.argsort(keys, kind="stable")
    keys, inside, taken = keys[order], inside[order], np.empty_like(out)
    ends = [*(np.flatnonzero(np.diff(keys)) + 1).tolist(), len(keys)]
    begin = 0
    for end in ends:
        np.take(views[keys[begin]], inside[begin:end], out=taken[begin:end], mode="clip")
        begin = end
    out[order] = taken
