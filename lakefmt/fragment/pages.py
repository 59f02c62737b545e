"""Direct addressing: from the page index to the bytes of one value, without a Parquet engine.

A column file written by ``ColumnWriter`` has one column. Its offset indexes say where each page lies and which row it begins
with; a page's own header says where its values begin. From these, the byte range of any value follows by arithmetic.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakefmt.cells import Array, Rows
from lakefmt.errors import Corrupt
from lakefmt.fragment.parquet_out import ARROW_CODEC, MAGIC, Codec, Physical
from lakefmt.fragment.thrift import Reader
from lakefmt.storage import Bytes

#: Bytes that hold the header, the levels and the length of a page with a single value.
PAGE_HEAD_NBYTES = 64
#: No page of ours holds more values than this; a header that claims more is damaged.
_HEADER_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class PageTable:
    """Where the pages of a one-column file lie.

    ``offset``, ``size``: bytes of each page, header included. ``first_row``: its first row; one more entry ends the list.
    """

    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    first_row: npt.NDArray[np.int64]
    physical: Physical
    type_length: int
    codec: Codec

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.offset.nbytes + self.size.nbytes + self.first_row.nbytes

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return int(self.first_row[-1])

    @property
    def single(self) -> bool:
        """Whether every page holds one row."""
        return len(self.offset) == self.first_row.item(-1)

    def page_of(self, rows: Rows) -> Rows:
        """Index of the page that holds each row."""
        if self.single:
            return rows
        return np.searchsorted(self.first_row, rows, side="right").astype(np.int64) - 1


@dataclass(frozen=True, slots=True)
class Page:
    """A parsed page header: lengths in bytes, and where the values begin."""

    values_start: int
    end: int
    rows: int
    values: int
    nulls: int
    definition: tuple[int, int]
    compressed: bool
    raw_values_nbytes: int


def read_page_table(tail: Bytes, tail_start: int, what: str) -> PageTable:
    """Parse the indexes and the footer of a one-column file.

    Args:
        tail: the file's bytes from ``tail_start`` to its end, with at least the offset indexes and the footer.
        tail_start: offset of ``tail`` in the file.
        what: name of the file, for errors.
    """
    try:
        footer = parse_footer(tail)
        groups = footer[4]
        leaf = [e for e in footer[2] if 1 in e]
        if len(leaf) != 1:
            raise Corrupt(f"{what}: expected one column, found {len(leaf)}")
        offsets: list[int] = []
        sizes: list[int] = []
        first: list[int] = []
        row = 0
        for group in groups:
            (chunk,) = group[1]
            at, length = chunk[4] - tail_start, chunk[5]
            if at < 0 or at + length > len(tail):
                raise Corrupt(f"{what}: its page index lies outside the file")
            for location in Reader(memoryview(tail)[at : at + length]).struct()[1]:
                offsets.append(location[1])
                sizes.append(location[2])
                first.append(row + location[3])
            row += group[3]
        codec = Codec(groups[0][1][0][3][4]) if groups else Codec.UNCOMPRESSED
        physical = Physical(leaf[0][1])
        type_length = int(leaf[0].get(2, 0))
        first.append(row)
        table = PageTable(
            np.asarray(offsets, np.int64), np.asarray(sizes, np.int64), np.asarray(first, np.int64),
            physical, type_length, codec,
        )  # fmt: skip
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError) as e:
        raise Corrupt(f"{what}: its page index does not parse ({type(e).__name__}: {e}); restore the file") from e
    _check(table, tail_start, what)
    return table


def parse_footer(tail: Bytes) -> dict[int, Any]:
    """The Thrift structure at the end of a Parquet file."""
    if len(tail) < 12 or bytes(tail[-4:]) != MAGIC:
        raise Corrupt("not a Parquet file, or a truncated one: it does not end in PAR1")
    length = int.from_bytes(tail[-8:-4], "little")
    if length > len(tail) - 8:
        raise Corrupt(f"its footer claims {length} bytes, more than there are")
    return Reader(memoryview(tail)[len(tail) - 8 - length : len(tail) - 8]).struct()


def column_chunks(footer: dict[int, Any], column: str) -> list[tuple[int, int]]:
    """Byte ranges ``[start, end)`` of the chunks of a top-level column, one a row group."""
    out = []
    wanted = column.encode()
    for group in footer[4]:
        for chunk in group[1]:
            meta = chunk[3]
            if meta[3][0] == wanted:
                start = min(meta[9], meta.get(11, meta[9]))
                out.append((start, start + meta[7]))
    return out


def _check(table: PageTable, tail_start: int, what: str) -> None:
    """Pages must follow each other, inside the data part of the file, each with at least a row."""
    ends = table.offset + table.size
    # our writer leaves no gaps, so any gap or overlap is damage
    ordered = bool(np.all(table.offset[1:] == ends[:-1])) if len(ends) else True
    inside = len(ends) == 0 or (table.offset[0] == 4 and ends[-1] <= tail_start)
    if not (ordered and inside and bool(np.all(table.size > 0)) and bool(np.all(np.diff(table.first_row) > 0))):
        raise Corrupt(f"{what}: its page index contradicts itself; restore the file")


def read_page_header(page: Bytes, what: str, size: int | None = None) -> Page:
    """Parse the header of a page given its bytes (header included), or its first bytes and its ``size``."""
    size = len(page) if size is None else size
    reader = Reader(page)
    reader.end = min(len(page), _HEADER_BYTES_MAX)
    header = reader.struct()
    try:
        v2 = header[8]
        if not isinstance(v2, dict):
            raise TypeError("its structure of version 2")
        start, stored, raw = reader.pos, header[3], header[2]
        values, nulls, rows = v2[1], v2[2], v2[3]
        definition_nbytes, repetition_nbytes = v2[5], v2[6]
        compressed = bool(v2.get(7, True))
        numbers = (definition_nbytes, repetition_nbytes, stored, raw, values, nulls, rows)
        if not all(type(n) is int for n in numbers):
            raise TypeError("a field that is no number")
    except (KeyError, TypeError, AttributeError) as e:
        raise Corrupt(f"{what}: a page header lacks field {e}; restore the file") from e
    levels = definition_nbytes + repetition_nbytes
    bad = min(numbers) < 0 or levels > stored
    if bad or start + stored != size or nulls > values or levels > raw:
        raise Corrupt(f"{what}: a page header contradicts the page index; restore the file")
    definition_at = start + repetition_nbytes
    return Page(
        values_start=start + levels,
        end=start + stored,
        rows=rows,
        values=values,
        nulls=nulls,
        definition=(definition_at, definition_at + definition_nbytes),
        compressed=compressed,
        raw_values_nbytes=raw - levels,
    )


def check_page(page: Bytes, what: str) -> None:
    """Compare a page with the checksum in its header.

    Raises:
        Corrupt: they differ.
    """
    reader = Reader(page)
    reader.end = min(len(page), _HEADER_BYTES_MAX)
    header = reader.struct()
    expected = header.get(4)
    if expected is not None and (
        not isinstance(expected, int) or zlib.crc32(memoryview(page)[reader.pos :]) != expected & 0xFFFFFFFF
    ):
        raise Corrupt(f"{what}: a page does not match its checksum; restore the file from a copy")


def page_values(page: Bytes, head: Page, codec: Codec, what: str) -> Bytes:
    """The PLAIN values of a page, decompressed."""
    data = memoryview(page)[head.values_start : head.end]
    if not head.compressed or codec is Codec.UNCOMPRESSED:
        return data
    try:
        buffer = pa.Codec(ARROW_CODEC[codec]).decompress(data, decompressed_size=head.raw_values_nbytes)
    except (OSError, ValueError, pa.ArrowException) as e:
        raise Corrupt(f"{what}: a page does not decompress ({e}); restore the file") from e
    return memoryview(buffer)


def present_rows(page: Bytes, head: Page, what: str) -> Array:
    """For an optional column: which rows of a page are present."""
    if head.nulls == 0:
        return np.ones(head.values, bool)
    start, end = head.definition
    levels = decode_levels(memoryview(page)[start:end], head.values, what)
    if int(levels.sum()) != head.values - head.nulls:
        raise Corrupt(f"{what}: a page's levels contradict its header; restore the file")
    return levels


def decode_levels(data: Bytes, count: int, what: str) -> Array:
    """One-bit levels of the RLE / bit-packed hybrid encoding (parquet-format, Encodings.md)."""
    out = np.zeros(count, bool)
    reader, at = Reader(data), 0
    while at < count:
        head = reader.varint()
        if head & 1:
            n = (head >> 1) * 8
            if (head >> 1) > reader.end - reader.pos:
                raise Corrupt(f"{what}: a page's levels run past their end")
            packed = np.frombuffer(data, np.uint8, head >> 1, reader.pos)
            bits = np.unpackbits(packed, bitorder="little")[: count - at]
            out[at : at + len(bits)] = bits.astype(bool)
            reader.pos += head >> 1
        else:
            n = head >> 1
            if n == 0 or reader.pos >= reader.end:
                raise Corrupt(f"{what}: a page's levels do not parse")
            out[at : at + n] = bool(data[reader.pos])
            reader.pos += 1
        at += n
    return out


def split_byte_arrays(values: Bytes, count: int, what: str) -> list[tuple[int, int]]:
    """``(start, end)`` of each of ``count`` PLAIN BYTE_ARRAY values."""
    out, at, end = [], 0, len(values)
    view = memoryview(values)
    for _ in range(count):
        if at + 4 > end:
            raise Corrupt(f"{what}: a page ends inside a value; restore the file")
        n = int.from_bytes(view[at : at + 4], "little")
        if n > end - at - 4:
            raise Corrupt(f"{what}: a value of {n} bytes runs past its page; restore the file")
        out.append((at + 4, at + 4 + n))
        at += 4 + n
    if at != end:
        raise Corrupt(f"{what}: a page holds {end - at} bytes more than its values; restore the file")
    return out


def single_value(head: Bytes, total: int, what: str) -> int | None:
    """Where the value begins in an uncompressed page that holds exactly one present BYTE_ARRAY and fills the page to its end.

    The short way for the commonest read of all: one image. The header begins with the page type and the uncompressed size;
    the body is that size, so the header's own length follows, and the value's length must agree with both.

    Args:
        head: the first bytes of the page (all of it, or at least ``PAGE_HEAD_NBYTES``).
        total: bytes of the page.
        what: name of the file, for errors.

    Returns:
        Offset in the page; ``None`` when it is not such a page.
    """
    if total < 12 or len(head) < min(total, PAGE_HEAD_NBYTES) or head[0] != 0x15 or head[1] != 0x06 or head[2] != 0x15:
        return None
    n = shift = 0
    pos = 3
    while True:
        byte = head[pos]
        n |= (byte & 0x7F) << shift
        pos += 1
        if byte < 0x80:
            break
        shift += 7
        if shift > 28:
            raise Corrupt(f"{what}: a page header does not parse; restore the file")
    start = total - (n >> 1)
    if start < pos or start > PAGE_HEAD_NBYTES - 8:
        return None
    for levels in (0, 2):
        at = start + levels
        if at + 4 <= total and int.from_bytes(head[at : at + 4], "little") == total - at - 4:
            if levels == 2 and (head[start] != 2 or head[start + 1] != 1):
                continue
            return at + 4
    return None
