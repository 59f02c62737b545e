"""Columns at the edges: empty, sizeless, dimensionless, extreme, foreign memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fragment_tools import NUMERIC, agrees, all_same, by_duckdb, by_pyarrow, read, same, tensor, write

from lakefmt.fragment.columns import missing_column, new_column
from lakefmt.fragment.meta import Layout
from lakefmt.fragment.read import FileReader
from lakefmt.fragment.write import write_files
from lakefmt.storage import MemoryStore


def _check(samples: list[Any], dtype: str) -> Layout:
    written = write(tensor(dtype=dtype), samples)
    assert all_same(read(written), samples, dtype)
    file, entry = written.entry
    data = written.store.get(file.key)
    assert agrees(written, by_pyarrow(data, entry.column))
    assert agrees(written, by_duckdb(data, entry.column))
    return written.layout


_DEFINITIONS = {
    "numbers": tensor(dtype="int64"), "bytes": tensor(dtype="uint8"), "text": tensor("text"), "json": tensor("json"),
    "images": tensor("image", compression="jpeg"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(_DEFINITIONS))
def test_empty_column(kind: str) -> None:
    definition, store = _DEFINITIONS[kind], MemoryStore(f"empty-{kind}")
    files = write_files(store, [(definition, new_column(definition))], 3)
    assert [len(v) if v is not None else None for v in _plain(store, definition, files, 3)] == [None] * 3


@pytest.mark.parametrize("kind", list(_DEFINITIONS))
def test_nothing_but_missing_samples(kind: str) -> None:
    definition, store = _DEFINITIONS[kind], MemoryStore(f"missing-{kind}")
    files = write_files(store, [(definition, missing_column(definition, 4))], 4)
    assert _plain(store, definition, files, 4) == [None] * 4


def _plain(store: MemoryStore, definition: Any, files: Any, rows: int) -> list[Any]:
    from fragment_tools import plain

    return plain(FileReader(store).cells(definition, files, np.arange(rows)))


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "bool"])
def test_arrays_of_no_size(shape: tuple[int, ...], dtype: str) -> None:
    _check([np.empty(shape, dtype)] * 3, dtype)


def test_ragged_with_arrays_of_no_size() -> None:
    _check([np.empty((0, 3), np.int32), np.ones((2, 3), np.int32), None, np.empty((4, 0), np.int32)], "int32")


def test_nothing_but_ragged_arrays_of_no_size() -> None:
    _check([np.empty((0, 3), np.int32), np.empty((5, 0), np.int32)], "int32")


def test_samples_without_dimensions_among_others() -> None:
    _check([np.asarray(3, np.int16), np.arange(4, dtype=np.int16), None, np.ones((2, 2), np.int16)], "int16")


@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize("shape", [(), (3,), (200,)])
def test_extremes(dtype: str, shape: tuple[int, ...]) -> None:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        values = [True, False]
    elif kind.kind in "iu":
        values = [np.iinfo(kind).min, np.iinfo(kind).max, 0, 1]
    else:
        info = np.finfo(kind)
        values = [info.min, info.max, info.tiny, info.smallest_subnormal, -0.0, np.inf, -np.inf, np.nan]
    _check([np.full(shape, v, kind) for v in values], dtype)
    _check([*(np.full(shape, v, kind) for v in values), None], dtype)


def test_negative_zero_keeps_its_sign() -> None:
    for shape in ((), (3,), (200,)):
        written = write(tensor(dtype="float64"), [np.full(shape, -0.0)])
        assert np.signbit(read(written)[0]).all()


@pytest.mark.parametrize("shape", [(), (3,), (200,)])
def test_big_endian_input(shape: tuple[int, ...]) -> None:
    block = np.arange(4 * int(np.prod(shape)), dtype=">i4").reshape(4, *shape)
    written = write(tensor(dtype="int32"), block)
    assert same(np.stack(read(written)), block.astype(np.int32))
    single = write(tensor(dtype="int32"), [np.asarray(a, ">i4") for a in block] + [None])
    assert all_same(read(single)[:-1], list(block.astype(np.int32)))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_memory_in_any_order(dtype: str) -> None:
    base = (np.arange(6 * 40 * 50) % 250).reshape(6, 40, 50).astype(dtype)
    for block in (base[::2], base[::-1], base[:, ::3], base.transpose(0, 2, 1), np.asfortranarray(base), base[:, :, 1:]):
        written = write(tensor(dtype=dtype), block)
        assert same(np.stack(read(written)), np.ascontiguousarray(block))
        ragged = [*block, block[0][:5]]
        assert all_same(read(write(tensor(dtype=dtype), ragged)), [np.ascontiguousarray(a) for a in ragged])


def test_read_only_input() -> None:
    block = np.arange(400, dtype=np.uint8).reshape(2, 200)
    block.flags.writeable = False
    assert same(np.stack(read(write(tensor(dtype="uint8"), block))), block)


def test_a_flat_column_of_several_pages_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakefmt.fragment.write.FLAT_PAGE_NBYTES", 1000)
    values = np.arange(70 * 60, dtype=np.float32).reshape(70, 60)
    for samples in (values, [*values[:31], *values[31:]]):
        written = write(tensor(dtype="float32"), samples)
        written.samples = list(values)
        file, entry = written.entry
        assert len(FileReader(written.store).page_table(file).offset) == 18  # four rows of 240 bytes a page
        assert same(np.stack(read(written)), values)
        assert agrees(written, by_duckdb(written.store.get(file.key), entry.column))
        assert agrees(written, by_pyarrow(written.store.get(file.key), entry.column))


def test_two_tensors_whose_names_differ_in_case() -> None:
    store = MemoryStore("case")
    a, b = tensor(dtype="int64"), tensor(dtype="int64")
    import msgspec

    b = msgspec.structs.replace(b, id=8, name="X")
    columns = []
    for definition, values in ((a, [1, 2]), (b, [3, 4])):
        column = new_column(definition)
        for v in values:
            column.add(np.asarray(v, np.int64))  # type: ignore[attr-defined]
        columns.append((definition, column))
    files = write_files(store, columns, 2)
    assert [int(v) for v in _plain(store, a, files, 2)] == [1, 2]
    assert [int(v) for v in _plain(store, b, files, 2)] == [3, 4]
    names = [f.column for f in files[0].fields]
    assert len({n.lower() for n in names}) == 2, "DuckDB folds case"
