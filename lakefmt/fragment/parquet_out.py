"""Writes a one-column Parquet file whose values can be addressed directly.

pyarrow copies each value of a wide fixed-length column and buffers whole pages; here a page is a small header followed by
the caller's own buffers, written as they are. The result is plain Parquet: data pages V2, PLAIN, page checksums, an offset
index a row group, one column. Sources: parquet-format's ``parquet.thrift`` and ``Encodings.md`` (RLE hybrid levels).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import pyarrow as pa

from lakefmt.storage import Bytes

MAGIC = b"PAR1"


class Physical(IntEnum):
    """Parquet physical types used for heavy columns."""

    INT32 = 1
    INT64 = 2
    FLOAT = 4
    DOUBLE = 5
    BYTE_ARRAY = 6
    FIXED_LEN_BYTE_ARRAY = 7


class Codec(IntEnum):
    """Parquet compression codecs our direct reader knows."""

    UNCOMPRESSED = 0
    ZSTD = 6
    LZ4_RAW = 7


ARROW_CODEC = {Codec.ZSTD: "zstd", Codec.LZ4_RAW: "lz4_raw"}


class Sink(Protocol):
    def write(self, data: Bytes) -> int: ...


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """The column of the file.

    ``list_of`` > 0 writes each row as a LIST of that many required elements; ``optional`` allows missing rows (not both).
    """

    name: str
    field_id: int
    physical: Physical
    type_length: int = 0
    list_of: int = 0
    optional: bool = False
    is_string: bool = False
    codec: Codec = Codec.UNCOMPRESSED


@dataclass(slots=True)
class _RowGroup:
    pages: list[tuple[int, int, int]] = field(default_factory=list)  # offset, size, first row in the group
    rows: int = 0
    values: int = 0
    nbytes: int = 0
    raw_nbytes: int = 0
    index: tuple[int, int] = (0, 0)


class ColumnWriter:
    """Writes pages to a sink, then the indexes and the footer."""

    def __init__(self, sink: Sink, spec: ColumnSpec, *, row_group_bytes: int = 64 << 20) -> None:
        self._sink, self._spec = sink, spec
        self._row_group_bytes = row_group_bytes
        self._at = 0
        self._groups: list[_RowGroup] = []
        self._compressor = pa.Codec(ARROW_CODEC[spec.codec]) if spec.codec in ARROW_CODEC else None
        self._write(MAGIC)

    @property
    def nbytes(self) -> int:
        """Bytes written so far."""
        return self._at

    def page(self, parts: Sequence[Bytes], rows: int, present: Sequence[bool] | None = None) -> None:
        """Write one page.

        Args:
            parts: the PLAIN-encoded values, in pieces.
            rows: rows of the page, missing ones included.
            present: for an optional column with missing rows, whether each row is present.
        """
        spec = self._spec
        values = rows * spec.list_of if spec.list_of else rows
        nulls = rows - sum(present) if present is not None else 0
        repetition, definition = self._levels(rows, values, present)
        body = list(parts)
        raw = sum(_nbytes(p) for p in body)
        if self._compressor is not None:
            packed = self._compressor.compress(b"".join(body), asbytes=True)
            body = [packed]
        stored = sum(_nbytes(p) for p in body)
        levels = repetition + definition
        crc = zlib.crc32(levels)
        for part in body:
            crc = zlib.crc32(part, crc)
        header = _struct(
            (1, _I32, 3),  # DATA_PAGE_V2
            (2, _I32, raw + len(levels)),
            (3, _I32, stored + len(levels)),
            (4, _I32, crc - (1 << 32) if crc >= 1 << 31 else crc),
            (8, _STRUCT, _struct(
                (1, _I32, values), (2, _I32, nulls), (3, _I32, rows), (4, _I32, 0),
                (5, _I32, len(definition)), (6, _I32, len(repetition)), (7, _BOOL, self._compressor is not None),
            )),
        )  # fmt: skip
        group = self._group()
        size = len(header) + len(levels) + stored
        group.pages.append((self._at, size, group.rows))
        group.rows += rows
        group.values += values
        group.nbytes += size
        group.raw_nbytes += size - stored + raw
        self._write(header + levels)
        for part in body:
            self._write(part)

    def finish(self, metadata: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Write the offset indexes and the footer; returns the offset at which they begin, and their bytes."""
        index_start, tail = self._at, bytearray()
        for group in self._groups:
            start = len(tail)
            locations = [_struct((1, _I64, at), (2, _I32, size), (3, _I64, row)) for at, size, row in group.pages]
            tail += _struct((1, _LIST, (_STRUCT, locations)))
            group.index = (index_start + start, len(tail) - start)
        footer = self._footer(metadata or {})
        tail += footer + struct.pack("<I", len(footer)) + MAGIC
        self._write(bytes(tail))
        return index_start, bytes(tail)

    def _group(self) -> _RowGroup:
        if not self._groups or self._groups[-1].nbytes >= self._row_group_bytes:
            self._groups.append(_RowGroup())
        return self._groups[-1]

    def _levels(self, rows: int, values: int, present: Sequence[bool] | None) -> tuple[bytes, bytes]:
        if self._spec.list_of:
            one = _run(1, 0) + (_run(self._spec.list_of - 1, 1) if self._spec.list_of > 1 else b"")
            return one * rows, _run(values, 1)
        if not self._spec.optional:
            return b"", b""
        if present is None:
            return b"", _run(rows, 1)
        out, start = b"", 0
        for i in range(1, rows + 1):
            if i == rows or present[i] != present[start]:
                out += _run(i - start, int(present[start]))
                start = i
        return b"", out

    def _write(self, data: Bytes) -> None:
        self._sink.write(data)
        self._at += _nbytes(data)

    def _footer(self, metadata: dict[str, str]) -> bytes:
        groups = [self._row_group(i, g) for i, g in enumerate(self._groups)]
        pairs = [_struct((1, _BINARY, k), (2, _BINARY, v)) for k, v in metadata.items()]
        return _struct(
            (1, _I32, 2),
            (2, _LIST, (_STRUCT, self._schema())),
            (3, _I64, sum(g.rows for g in self._groups)),
            (4, _LIST, (_STRUCT, groups)),
            (5, _LIST, (_STRUCT, pairs)),
            (6, _BINARY, "lakefmt"),
        )

    def _schema(self) -> list[bytes]:
        s = self._spec
        leaf: list[tuple[int, int, Any]] = [(1, _I32, int(s.physical))]
        if s.physical is Physical.FIXED_LEN_BYTE_ARRAY:
            leaf.append((2, _I32, s.type_length))
        leaf.append((3, _I32, 1 if s.optional else 0))
        if s.list_of:
            outer = _struct((3, _I32, 0), (4, _BINARY, s.name), (5, _I32, 1), (6, _I32, 3), (9, _I32, s.field_id),
                            (10, _STRUCT, _struct((3, _STRUCT, _struct()))))  # fmt: skip
            repeated = _struct((3, _I32, 2), (4, _BINARY, "list"), (5, _I32, 1))
            column = [outer, repeated, _struct(*leaf, (4, _BINARY, "element"))]
        else:
            leaf.append((4, _BINARY, s.name))
            if s.is_string:
                leaf.append((6, _I32, 0))
            leaf.append((9, _I32, s.field_id))
            if s.is_string:
                leaf.append((10, _STRUCT, _struct((1, _STRUCT, _struct()))))
            column = [_struct(*leaf)]
        return [_struct((3, _I32, 0), (4, _BINARY, "schema"), (5, _I32, 1)), *column]

    def _row_group(self, ordinal: int, g: _RowGroup) -> bytes:
        s = self._spec
        path = [s.name, "list", "element"] if s.list_of else [s.name]
        encodings = [0, 3] if s.list_of or s.optional else [0]
        meta = _struct(
            (1, _I32, int(s.physical)),
            (2, _LIST, (_I32, encodings)),
            (3, _LIST, (_BINARY, path)),
            (4, _I32, int(s.codec)),
            (5, _I64, g.values),
            (6, _I64, g.raw_nbytes),
            (7, _I64, g.nbytes),
            (9, _I64, g.pages[0][0]),
        )
        chunk = _struct((2, _I64, 0), (3, _STRUCT, meta), (4, _I64, g.index[0]), (5, _I32, g.index[1]))
        return _struct(
            (1, _LIST, (_STRUCT, [chunk])),
            (2, _I64, g.raw_nbytes),
            (3, _I64, g.rows),
            (5, _I64, g.pages[0][0]),
            (6, _I64, g.nbytes),
            (7, _I16, ordinal),
        )


# -- Thrift compact protocol, writing side -------------------------------------------------------------------------------

_BOOL, _I16, _I32, _I64, _BINARY, _LIST, _STRUCT = 1, 4, 5, 6, 8, 9, 12


def _nbytes(part: Bytes) -> int:
    return part.nbytes if isinstance(part, memoryview) else len(part)


def varint(n: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _run(count: int, level: int) -> bytes:
    """An RLE run of the hybrid encoding, for levels of one bit."""
    return varint(count << 1) + bytes((level,))


def _zigzag(n: int) -> bytes:
    return varint((n << 1) ^ (n >> 63) if n < 0 else n << 1)


def _value(kind: int, value: Any) -> bytes:
    if kind in (_I16, _I32, _I64):
        return _zigzag(value)
    if kind == _BINARY:
        data = value.encode() if isinstance(value, str) else bytes(value)
        return varint(len(data)) + data
    if kind == _STRUCT:
        return bytes(value)
    of, items = value
    head = bytes((len(items) << 4 | of,)) if len(items) < 15 else bytes((0xF0 | of,)) + varint(len(items))
    return head + b"".join(_value(of, item) for item in items)


def _struct(*fields: tuple[int, int, Any]) -> bytes:
    """A struct of (field id, type, value), ids ascending; nested structs are given already encoded."""
    out, last = bytearray(), 0
    for number, kind, value in fields:
        if kind == _BOOL:
            out.append((number - last) << 4 | (1 if value else 2))
        else:
            out.append((number - last) << 4 | kind)
            out += _value(kind, value)
        last = number
    out.append(0)
    return bytes(out)
