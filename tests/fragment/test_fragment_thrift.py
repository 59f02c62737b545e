"""Bytes that claim to be Parquet metadata are parsed or refused as Corrupt; nothing else ever happens."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lakefmt.errors import Corrupt
from lakefmt.fragment.pages import (
    check_page,
    decode_levels,
    parse_footer,
    present_rows,
    read_page_header,
    read_page_table,
    single_value,
    split_byte_arrays,
)
from lakefmt.fragment.parquet_out import varint
from lakefmt.fragment.thrift import Reader

_BYTES = st.binary(max_size=300)


def _only_corrupt(parse: Callable[[], Any]) -> None:
    with contextlib.suppress(Corrupt):
        parse()


def _footer(data: bytes) -> bytes:
    return data + struct.pack("<I", len(data)) + b"PAR1"


# -- Thrift that is well formed but says anything ------------------------------------------------------------------------

_I32, _BINARY, _LIST, _STRUCT, _DOUBLE, _TRUE, _FALSE, _I64 = 5, 8, 9, 12, 7, 1, 2, 6


def _zigzag(n: int) -> bytes:
    return varint(((n << 1) ^ (n >> 63)) & (2**64 - 1))


_INTS = st.one_of(st.integers(-3, 20), st.integers(-(2**31), 2**31 - 1), st.integers(-(2**62), 2**62))
_Value = tuple[int, bytes]


def _listed(items: list[_Value]) -> _Value:
    kind = items[0][0] if items else _I32
    same = [data for k, data in items if k == kind]
    head = bytes((len(same) << 4 | kind,)) if len(same) < 15 else bytes((0xF0 | kind,)) + varint(len(same))
    return _LIST, head + b"".join(same)


def _structured(fields: dict[int, _Value]) -> _Value:
    out, last = b"", 0
    for number in sorted(fields):
        kind, data = fields[number]
        out += bytes(((number - last) << 4 | kind,)) + data
        last = number
    return _STRUCT, out + b"\0"


_LEAF: st.SearchStrategy[_Value] = st.one_of(
    st.tuples(st.sampled_from([_I32, _I64]), _INTS.map(_zigzag)),
    st.tuples(st.just(_BINARY), st.binary(max_size=6).map(lambda b: varint(len(b)) + b)),
    st.tuples(st.sampled_from([_TRUE, _FALSE]), st.just(b"")),
    st.tuples(st.just(_DOUBLE), st.binary(min_size=8, max_size=8)),
)
_VALUES: st.SearchStrategy[_Value] = st.recursive(
    _LEAF,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(_listed), st.dictionaries(st.integers(1, 11), inner, max_size=7).map(_structured)
    ),
    max_leaves=20,
)
_STRUCTS = st.dictionaries(st.integers(1, 11), _VALUES, max_size=9).map(_structured).map(lambda v: v[1])


@given(st.one_of(_BYTES, _STRUCTS))
def test_reader(data: bytes) -> None:
    _only_corrupt(lambda: Reader(data).struct())
    _only_corrupt(lambda: Reader(memoryview(data)).struct())


@given(st.one_of(_BYTES, _BYTES.map(_footer), _STRUCTS.map(_footer)))
@example(b"")
@example(b"PAR1")
@example(_footer(b""))
@example(b"\xff\xff\xff\xffPAR1" + b"\0" * 8)
def test_footers_and_page_tables(data: bytes) -> None:
    _only_corrupt(lambda: parse_footer(data))
    _only_corrupt(lambda: read_page_table(data, 0, "f"))
    _only_corrupt(lambda: read_page_table(data, 1000, "f"))


def _page_table_footer(schema: _Value, groups: _Value) -> bytes:
    return _footer(_structured({2: schema, 4: groups})[1])


@settings(max_examples=200)
@given(leaf=st.dictionaries(st.integers(1, 10), _VALUES, max_size=5), meta=st.dictionaries(st.integers(1, 11), _VALUES, max_size=8),
       index=_STRUCTS, rows=_VALUES)  # fmt: skip
def test_page_tables_with_the_right_outline(leaf: dict[int, _Value], meta: dict[int, _Value], index: bytes, rows: _Value) -> None:
    schema = _listed([_structured({1: (_I32, _zigzag(6)), **leaf})])
    chunk = _structured({3: _structured(meta), 4: (_I64, _zigzag(0)), 5: (_I32, _zigzag(len(index)))})
    groups = _listed([_structured({1: _listed([chunk]), 3: rows})])
    data = index + _page_table_footer(schema, groups)
    _only_corrupt(lambda: read_page_table(data, 0, "f"))


@settings(max_examples=200)
@given(st.one_of(_BYTES, _STRUCTS), _BYTES)
def test_page_headers(header: bytes, body: bytes) -> None:
    page = header + body
    _only_corrupt(lambda: read_page_header(page, "f"))
    _only_corrupt(lambda: check_page(page, "f"))
    _only_corrupt(lambda: single_value(page, len(page), "f"))
    _only_corrupt(lambda: single_value(memoryview(page), len(page), "f"))


@settings(max_examples=200)
@given(outer=st.dictionaries(st.integers(1, 7), _VALUES, max_size=4), v2=st.dictionaries(st.integers(1, 8), _VALUES, max_size=8),
       body=_BYTES)  # fmt: skip
def test_page_headers_with_the_right_outline(outer: dict[int, _Value], v2: dict[int, _Value], body: bytes) -> None:
    page = _structured({2: (_I32, _zigzag(9)), 3: (_I32, _zigzag(9)), **outer, 8: _structured(v2)})[1] + body
    _only_corrupt(lambda: read_page_header(page, "f"))
    _only_corrupt(lambda: check_page(page, "f"))


@given(_BYTES, st.integers(0, 5000))
def test_levels(data: bytes, count: int) -> None:
    def parse() -> None:
        assert len(decode_levels(data, count, "f")) == count

    _only_corrupt(parse)


@given(_BYTES, st.integers(0, 100))
def test_byte_arrays(data: bytes, count: int) -> None:
    def parse() -> None:
        spans = split_byte_arrays(data, count, "f")
        assert len(spans) == count
        assert all(0 <= a <= b <= len(data) for a, b in spans)

    _only_corrupt(parse)


@settings(max_examples=150)
@given(rows=st.integers(0, 60), nulls=st.integers(0, 60), levels=_BYTES)
def test_present_rows(rows: int, nulls: int, levels: bytes) -> None:
    v2 = {1: (_I32, _zigzag(rows)), 2: (_I32, _zigzag(nulls)), 3: (_I32, _zigzag(rows)), 5: (_I32, _zigzag(len(levels))),
          6: (_I32, _zigzag(0))}  # fmt: skip
    size = (_I32, _zigzag(len(levels)))
    page = _structured({1: (_I32, _zigzag(3)), 2: size, 3: size, 8: _structured(v2)})[1] + levels

    def parse() -> None:
        head = read_page_header(page, "f")
        present = present_rows(page, head, "f")
        assert len(present) == rows
        assert int(present.sum()) == rows - nulls

    _only_corrupt(parse)


@pytest.mark.parametrize("depth", [10, 23, 30, 5000])
def test_nesting_is_bounded(depth: int) -> None:
    lists = b"\x19" + b"\x19" * depth + b"\x00" * 3
    structs = b"\x1c" * depth + b"\0" * (depth + 1)
    for data in (lists, structs):
        _only_corrupt(lambda data=data: Reader(data).struct())


def test_huge_claims_cost_nothing() -> None:
    for data in (b"\x19\xf5\xff\xff\xff\xff\x7f", b"\x18\xff\xff\xff\xff\x7f", b"\x1b\xff\xff\xff\xff\x7f\x55"):
        with pytest.raises(Corrupt):
            Reader(data).struct()
    # a level run of two billion, for a page that says it has ten rows
    assert decode_levels(varint(2**31 << 1) + b"\1", 10, "f").tolist() == [True] * 10
