"""A reader of the Thrift compact protocol, enough for Parquet's footers, page headers and offset indexes.

A struct is read as ``{field id: value}``; lists as Python lists. Source: the Thrift compact protocol specification.
Input is hostile until proven otherwise: every length is checked against the bytes at hand, nesting is bounded, and
anything odd raises ``Corrupt``.
"""

from __future__ import annotations

import struct as _struct
from typing import Any

from lakefmt.errors import Corrupt

_DEPTH_MAX = 24
_BOOL_TRUE, _BOOL_FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


class Reader:
    """Cursor over a buffer."""

    __slots__ = ("buf", "end", "pos")

    def __init__(self, buf: bytes | memoryview, pos: int = 0) -> None:
        self.buf = buf
        self.pos = pos
        self.end = len(buf)

    def varint(self) -> int:
        """Unsigned LEB128, at most ten bytes."""
        buf, pos = self.buf, self.pos
        result = shift = 0
        try:
            while True:
                byte = buf[pos]
                pos += 1
                result |= (byte & 0x7F) << shift
                if byte < 0x80:
                    self.pos = pos
                    return result
                shift += 7
                if shift > 63:
                    raise Corrupt("Parquet metadata: a variable-length integer is too long")
        except IndexError:
            raise Corrupt("Parquet metadata ends inside a number") from None

    def zigzag(self) -> int:
        n = self.varint()
        return (n >> 1) ^ -(n & 1)

    def binary(self) -> bytes:
        n = self.varint()
        start = self.pos
        if n > self.end - start:
            raise Corrupt(f"Parquet metadata: a string of {n} bytes runs past the end")
        self.pos = start + n
        return bytes(self.buf[start : start + n])

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > _DEPTH_MAX:
            raise Corrupt("Parquet metadata is nested too deeply")
        out: dict[int, Any] = {}
        field = 0
        while True:
            if self.pos >= self.end:
                raise Corrupt("Parquet metadata ends inside a structure")
            byte = self.buf[self.pos]
            self.pos += 1
            if byte == 0:
                return out
            delta, kind = byte >> 4, byte & 0x0F
            field = field + delta if delta else self.zigzag()
            if kind == _BOOL_TRUE:
                out[field] = True
            elif kind == _BOOL_FALSE:
                out[field] = False
            else:
                out[field] = self.value(kind, depth)

    def value(self, kind: int, depth: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self.zigzag()
        if kind == _BINARY:
            return self.binary()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind in (_BYTE, _BOOL_TRUE, _BOOL_FALSE):
            return self._bytes(1)[0]
        if kind == _DOUBLE:
            return _struct.unpack("<d", self._bytes(8))[0]
        if kind == _MAP:
            return self._map(depth)
        raise Corrupt(f"Parquet metadata: unknown field type {kind}")

    def _bytes(self, n: int) -> bytes | memoryview:
        if n > self.end - self.pos:
            raise Corrupt("Parquet metadata ends inside a value")
        self.pos += n
        return self.buf[self.pos - n : self.pos]

    def _list(self, depth: int) -> list[Any]:
        if depth > _DEPTH_MAX:
            raise Corrupt("Parquet metadata is nested too deeply")
        head = self._bytes(1)[0]
        n, kind = head >> 4, head & 0x0F
        if n == 15:
            n = self.varint()
        if n > self.end - self.pos:  # an element takes at least a byte
            raise Corrupt(f"Parquet metadata: a list of {n} elements runs past the end")
        return [self.value(kind, depth + 1) for _ in range(n)]

    def _map(self, depth: int) -> dict[Any, Any]:
        n = self.varint()
        if n == 0:
            return {}
        if n > self.end - self.pos:
            raise Corrupt(f"Parquet metadata: a map of {n} entries runs past the end")
        kinds = self._bytes(1)[0]
        return {self._key(kinds >> 4, depth): self.value(kinds & 0x0F, depth + 1) for _ in range(n)}

    def _key(self, kind: int, depth: int) -> Any:
        key = self.value(kind, depth + 1)
        if isinstance(key, (dict, list)):
            raise Corrupt("Parquet metadata: a map key is a structure")
        return key
