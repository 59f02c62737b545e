"""The offset index that we address by is the one that pyarrow's metadata describes."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fragment_tools import tensor, write

from lakefmt.errors import Corrupt
from lakefmt.fragment.pages import check_page, read_page_header, read_page_table
from lakefmt.fragment.parquet_out import Codec, ColumnSpec, ColumnWriter, Physical


def _compare(data: bytes, index_start: int) -> Any:
    table = read_page_table(data[index_start:], index_start, "file")
    meta = pq.ParquetFile(pa.BufferReader(data)).metadata
    assert meta.num_rows == table.rows
    page = 0
    for g in range(meta.num_row_groups):
        group = meta.row_group(g)
        chunk = group.column(0)
        assert chunk.has_offset_index
        assert chunk.data_page_offset == table.offset[page]
        end = chunk.data_page_offset + chunk.total_compressed_size
        first, last = page, page
        while last < len(table.offset) and table.offset[last] < end:
            last += 1
        assert table.size[first:last].sum() == chunk.total_compressed_size
        rows_end = table.first_row[last]
        assert rows_end - table.first_row[first] == group.num_rows
        page = last
    assert page == len(table.offset)
    return table


def _pages(data: bytes, table: Any) -> list[bytes]:
    return [data[o : o + s] for o, s in zip(table.offset.tolist(), table.size.tolist(), strict=True)]


@pytest.mark.parametrize("codec", [Codec.UNCOMPRESSED, Codec.ZSTD, Codec.LZ4_RAW])
def test_many_pages_in_many_row_groups(codec: Codec) -> None:
    sink = io.BytesIO()
    spec = ColumnSpec("x", 1, Physical.BYTE_ARRAY, optional=True, codec=codec)
    out = ColumnWriter(sink, spec, row_group_bytes=600)
    expected: list[bytes | None] = []
    for i in range(50):
        values = [None if (i + j) % 4 == 3 else bytes([i]) * (j * 20) for j in range(1 + i % 5)]
        parts = [p for v in values if v is not None for p in (len(v).to_bytes(4, "little"), v)]
        out.page(parts, len(values), [v is not None for v in values])
        expected += values
    index_start, _ = out.finish()
    data = sink.getvalue()
    table = _compare(data, index_start)
    assert len(table.offset) == 50
    assert pq.ParquetFile(pa.BufferReader(data)).metadata.num_row_groups > 3
    got = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read().column(0).to_pylist()
    assert got == expected
    assert table.page_of(np.arange(table.rows)).tolist() == [i for i in range(50) for _ in range(1 + i % 5)]


@pytest.mark.parametrize(
    ("definition", "samples"),
    [
        (tensor(dtype="float32"), np.random.default_rng(0).random((30, 64), np.float32)),
        (tensor(dtype="uint8"), np.random.default_rng(0).integers(0, 255, (30, 20, 20), np.uint8)),
        (tensor(dtype="uint8"), [np.zeros((200, 200 + i), np.uint8) for i in range(20)]),
        (tensor("text"), ["word " * (500 + 700 * i) for i in range(40)]),
    ],
    ids=["flat floats", "flat bytes", "blobs", "documents"],
)
def test_files_we_write(definition: Any, samples: Any) -> None:
    written = write(definition, samples)
    file, _ = written.entry
    data = written.store.get(file.key)
    assert len(data) == file.size
    table = _compare(data, file.index_start)
    for page, rows in zip(_pages(data, table), np.diff(table.first_row).tolist(), strict=True):
        assert read_page_header(page, "page").rows == rows
        check_page(page, "page")
        with pytest.raises(Corrupt, match="checksum"):
            check_page(page[:-1] + bytes([page[-1] ^ 1]), "page")


def test_checksums_are_standard() -> None:
    # crc32 over levels and values, as parquet-format says: pyarrow must find a flipped bit in every page
    written = write(tensor(dtype="uint8"), [np.full((100, 100 + i), i, np.uint8) for i in range(6)])
    file, _ = written.entry
    data = written.store.get(file.key)
    table = read_page_table(data[file.index_start :], file.index_start, "file")
    for offset, size in zip(table.offset.tolist(), table.size.tolist(), strict=True):
        bad = bytearray(data)
        bad[offset + size - 1] ^= 4
        with pytest.raises(OSError, match="CRC"):
            pq.ParquetFile(pa.BufferReader(bytes(bad)), page_checksum_verification=True).read()
    assert zlib.crc32(b"123456789") == 0xCBF43926  # the polynomial of parquet-format


def test_large_values_have_a_page_each_and_small_ones_share() -> None:
    large = write(tensor(dtype="uint8"), [np.zeros((300, 300 + i), np.uint8) for i in range(5)])
    small = write(tensor(dtype="uint8"), [np.zeros((30, 50 + i), np.uint8) for i in range(60)])
    for written, pages in ((large, 5), (small, 3)):
        file, _ = written.entry
        data = written.store.get(file.key)
        assert len(read_page_table(data[file.index_start :], file.index_start, "f").offset) == pages
