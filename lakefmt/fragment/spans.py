"""Where the elements of one-dimensional samples lie, so that any stretch of them is copied without making the samples.

Everything follows from what is read anyway: lengths from the shape column, which is light, and places from the page index. In a
BLOBS file a page ends with its last value, and a value is as long as its sample and stands behind four bytes that say so; counted
from the end of the page, the place of every sample is a running sum. LISTS and FLAT hold elements end to end.

Copying is a loop over slices of ``memoryview``, on measurement: a slice costs some 0.15 µs beside the copy itself, half of what
one of a NumPy array does, and less than a positional read (which copies at a third of the speed).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lakefmt.cells import Array, Rows
from lakefmt.errors import Corrupt, NoSuchObject
from lakefmt.fragment.meta import INLINE_FOLDER, ColumnFile, Field, Layout, find_field, stored_dtype
from lakefmt.fragment.parquet_out import Codec
from lakefmt.fragment.read import RESIDENT_NBYTES_MAX, FileReader
from lakefmt.htypes import TensorDef
from lakefmt.storage import Range

#: Files that hold a tensor are copied from mapped memory when they are at most this share of the machine's. Mapped pages count as
#: the process's, but they are the kernel's cache, which it takes back when it needs them.
MAPPED_SHARE = 4
#: Mappings held for good; others are asked for again, of the store, which closes the oldest.
_VIEWS_MAX = 128
_PREFIX_NBYTES = 4
#: Stands for the length of a sample that has more or fewer dimensions than one.
NO_VECTOR = -2


@dataclass(frozen=True, slots=True)
class Area:
    """What holds elements: a file, or (``field``) a light column of it, decoded."""

    file: ColumnFile
    field: Field | None = None


@dataclass(frozen=True, slots=True)
class Spans:
    """The places of some samples.

    Attributes:
        areas: what holds them.
        mapped: whether files are copied from mapped memory, else by positional reads.
        area: number of each sample's area, int32 (n,).
        start: byte of the area at which it begins, int64 (n,).
        length: its elements, int64 (n,); 0 where it is missing.
    """

    reader: FileReader
    areas: tuple[Area, ...]
    mapped: bool
    area: Array
    start: Rows
    length: Rows
    _views: dict[int, memoryview] = field(default_factory=dict, init=False, repr=False)

    def copy(self, area: Array, start: Rows, nbytes: Rows, at: Rows, out: Array) -> None:
        """Copy bytes ``[start, start + nbytes)`` of areas to byte ``at`` of ``out``, which is contiguous.

        Raises:
            Corrupt: an area ends before that.
        """
        self.reader.after_fork()
        numbers = area.tolist() if len(self.areas) > 1 else [0] * len(area)
        found = {i: self._view(i) for i in set(numbers)}
        views = [found[i] for i in numbers]
        target = out.reshape(-1).view(np.uint8).data
        pieces = zip(views, start.tolist(), (start + nbytes).tolist(), at.tolist(), (at + nbytes).tolist(), strict=True)
        self.reader.nbytes_read += int(nbytes.sum())
        if None in found.values():
            self._read(numbers, pieces, target)
            return
        try:
            for view, a, b, c, d in pieces:
                target[c:d] = view[a:b]
        except ValueError as e:  # a slice that is shorter than its place
            raise Corrupt(f"{self.reader.store.url}: samples end before their shapes say; restore the files from a copy") from e

    def _read(self, areas: list[int], pieces: Iterable[tuple[Any, int, int, int, int]], target: memoryview) -> None:
        """The same with positional reads where there is no view."""
        parts: dict[int, list[tuple[Range, memoryview]]] = {}
        for i, (view, a, b, c, d) in zip(areas, pieces, strict=True):
            if view is None:
                parts.setdefault(i, []).append((Range(self.areas[i].file.key, a, b - a), target[c:d]))
            else:
                target[c:d] = view[a:b]
        for i, some in parts.items():
            try:
                self.reader.store.fill(some)
            except NoSuchObject as e:
                raise self.reader.gone(self.areas[i].file) from e

    def _view(self, i: int) -> Any:
        """The memory of an area; ``None`` where it is to be read by position."""
        view = self._views.get(i)
        if view is not None:
            return view
        area = self.areas[i]
        if area.field is not None:
            return memoryview(self.reader.light(area.file, area.field).values).cast("B")
        if not self.mapped and not area.file.key.startswith(INLINE_FOLDER):
            return None
        view = self.reader.mapped(area.file)
        if view is not None and len(self._views) < _VIEWS_MAX:
            self._views[i] = view
        return view


def mapped_nbytes_max() -> int:
    """Bytes of files of one tensor that are copied from mapped memory, at most."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MAPPED_SHARE
    except (AttributeError, ValueError, OSError):  # this system does not tell
        return RESIDENT_NBYTES_MAX


def file_lengths(reader: FileReader, definition: TensorDef, files: tuple[ColumnFile, ...], rows: Rows) -> Rows:
    """Elements of the samples at row offsets of some files; -1 for a missing one, ``NO_VECTOR`` for one of other dimensions."""
    found = find_field(files, definition.id)
    out = np.full(len(rows), -1, np.int64)
    if found is not None:
        inside = np.flatnonzero(rows < found[1].rows)
        out[inside] = _all_lengths(reader, files, found[1])[rows[inside]]
    return out


def _all_lengths(reader: FileReader, files: tuple[ColumnFile, ...], field: Field) -> Rows:
    """The same for every row that a file covers."""
    if field.missing == field.rows:
        return np.full(field.rows, -1, np.int64)
    if field.shape is not None:
        return np.full(field.rows, field.shape[0] if len(field.shape) == 1 else NO_VECTOR, np.int64)
    if field.shape_column is None:
        return np.full(field.rows, NO_VECTOR, np.int64)
    lists = reader.shape_lists(files, field)
    offsets = lists.offsets[: field.rows + 1]
    dims = np.diff(offsets)
    there = np.ones(field.rows, bool) if lists.valid is None else lists.valid[: field.rows]
    out = np.where(there, NO_VECTOR, -1)
    vector = there & (dims == 1)
    out[vector] = lists.values[offsets[:-1][vector]]
    return out


def addressable(definition: TensorDef, files: tuple[ColumnFile, ...]) -> bool:
    """Whether the samples in some files are vectors and lie there as they are read: in the tensor's dtype, in this machine's order
    of bytes.
    """
    found = find_field(files, definition.id)
    if found is None or found[1].missing == found[1].rows:
        return True
    vectors = (found[1].ndim_min, found[1].ndim_max) == (1, 1)
    plain = stored_dtype(definition, found[1]) == definition.dtype
    return vectors and plain and np.dtype(definition.dtype).newbyteorder("<").isnative


def file_spans(
    reader: FileReader, definition: TensorDef, files: tuple[ColumnFile, ...], rows: Rows
) -> tuple[Area | None, Rows, Rows]:  # fmt: skip
    """The area of the samples at row offsets of some files; where each begins, and how many elements it has (0: missing).

    The area is ``None`` where there is not one element. The files are ``addressable``.
    """
    starts, lengths = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    found = find_field(files, definition.id)
    if found is None:
        return None, starts, lengths
    file, field = found
    every = np.maximum(_all_lengths(reader, files, field), 0)
    if not every.any():
        return None, starts, lengths
    itemsize = np.dtype(definition.dtype).itemsize
    area = Area(file, field if field.layout is Layout.LISTS else None)
    match field.layout:
        case Layout.LISTS:
            places = (np.cumsum(every) - every) * itemsize
        case Layout.FLAT:
            places = _flat_starts(reader, definition, file, field)
        case _:
            places = _blob_starts(reader, file, every * itemsize, _there(reader, files, field))
    inside = np.flatnonzero(rows < field.rows)
    starts[inside], lengths[inside] = places[rows[inside]], every[rows[inside]]
    return area, starts, lengths


def _there(reader: FileReader, files: tuple[ColumnFile, ...], field: Field) -> Array:
    valid = reader.shape_lists(files, field).valid if field.shape_column is not None else None
    return np.ones(field.rows, bool) if valid is None else valid[: field.rows]


def _flat_starts(reader: FileReader, definition: TensorDef, file: ColumnFile, field: Field) -> Rows:
    assert field.shape is not None
    nbytes = field.shape[0] * np.dtype(definition.dtype).itemsize
    extents = reader.flat_extents(definition, file, field)
    return np.concatenate([start + np.arange(rows, dtype=np.int64) * nbytes for start, rows in extents])


def _blob_starts(reader: FileReader, file: ColumnFile, nbytes: Rows, there: Array) -> Rows:
    """Where each value of a BLOBS file begins; what is missing takes no room."""
    table = reader.page_table(file)
    if table.codec is not Codec.UNCOMPRESSED:
        raise Corrupt(f"{reader.store.url}/{file.key}: its values are compressed, as arrays never are; restore it")
    sizes = np.where(there, nbytes + _PREFIX_NBYTES, 0)
    before = np.concatenate(([0], np.cumsum(sizes)))
    first = table.first_row
    ends = table.offset + table.size
    heads = table.size - (before[first[1:]] - before[first[:-1]])  # of each page: its header and levels
    if bool((heads <= 0).any()):
        raise Corrupt(f"{reader.store.url}/{file.key}: its pages are too small for the shapes of its samples; restore the file")
    shift = ends - before[first[1:]]
    starts: Rows = before[:-1] + np.repeat(shift, np.diff(first)) + _PREFIX_NBYTES
    return starts
