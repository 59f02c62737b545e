"""Writing samples as the files of a fragment, and reading them back by us and by other engines."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lakefmt.cells import Cells, Dense, Strings
from lakefmt.errors import Corrupt
from lakefmt.fragment.meta import ColumnFile, Field, Layout, find_field
from lakefmt.fragment.read import FileReader
from lakefmt.fragment.write import write_files
from lakefmt.htypes import TensorDef
from lakefmt.samples import prepare_batch
from lakefmt.storage import MemoryStore, Store

NUMERIC = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip


class RemoteMemory(MemoryStore):
    """Memory that can be reached by requests only, as an object store is: nothing can be mapped."""

    is_local = False

    def map(self, key: str) -> None:  # type: ignore[override]
        """Not here."""
        return


@dataclass
class Written:
    """One tensor written as a fragment."""

    store: Store
    definition: TensorDef
    files: tuple[ColumnFile, ...]
    samples: list[Any]

    @property
    def entry(self) -> tuple[ColumnFile, Field]:
        """The file and entry of the tensor."""
        found = find_field(self.files, self.definition.id)
        assert found is not None
        return found

    @property
    def layout(self) -> Layout:
        """How it lies."""
        return self.entry[1].layout


def tensor(htype: str = "generic", dtype: str | None = None, **more: Any) -> TensorDef:
    """A definition."""
    known = {"text": "str", "json": "json", "image": "uint8"}.get(htype, dtype)
    return TensorDef(id=7, name="x", htype=htype, dtype=known, **more)


def write(definition: TensorDef, values: Any, *, store: Store | None = None) -> Written:
    """Write samples of one tensor."""
    store = store or MemoryStore(f"fragment-{uuid.uuid4().hex}")
    definition, column = prepare_batch(definition, values)
    files = write_files(store, [(definition, column)], len(values))
    return Written(store, definition, files, list(values))


def read(written: Written, rows: Sequence[int] | None = None, *, store: Store | None = None) -> list[Any]:
    """Samples as a new reader sees them."""
    at = np.arange(len(written.samples)) if rows is None else np.asarray(rows, np.int64)
    return plain(FileReader(store or written.store).cells(written.definition, written.files, at))


def plain(cells: Cells) -> list[Any]:
    """A list with an array, bytes, text or None a row."""
    if isinstance(cells, Strings):
        return list(cells.values.to_pylist())
    if isinstance(cells, Dense):
        return [np.asarray(v) for v in cells.values]
    return [bytes(v) if isinstance(v, memoryview) else v for v in cells.values]


def same(got: Any, expected: Any, dtype: str | None = None) -> bool:
    """Equal values of equal shape and dtype; NaN equals NaN."""
    if got is None or expected is None:
        return got is None and expected is None
    if isinstance(expected, (str, bytes)):
        return bool(got == expected)
    a, b = np.asarray(got), np.asarray(expected, dtype)
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def all_same(got: Sequence[Any], expected: Sequence[Any], dtype: str | None = None) -> bool:
    """Whether two lists of samples are equal."""
    return len(got) == len(expected) and all(same(g, e, dtype) for g, e in zip(got, expected, strict=True))


# -- other engines -------------------------------------------------------------------------------------------------------


def by_pyarrow(data: bytes, column: str) -> list[Any]:
    """The column as pyarrow reads it, checking page checksums."""
    table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(columns=[column])
    values: list[Any] = table.column(column).to_pylist()
    return values


_DUCK = duckdb.connect(config={"threads": 1})


def by_duckdb(data: bytes, column: str) -> list[Any]:
    """The column as DuckDB reads it."""
    with tempfile.NamedTemporaryFile(suffix=".parquet") as f:
        f.write(data)
        f.flush()
        rows = _DUCK.cursor().execute(f'select "{column}" from read_parquet(?)', [f.name]).fetchall()
    return [r[0] for r in rows]


def elsewhere(written: Written, value: Any) -> Any:
    """A stored value read by another engine, in the form ``read`` gives it (shapes apart)."""
    if value is None or isinstance(value, str):
        return value
    dtype = np.dtype(written.definition.dtype)
    if written.layout in (Layout.FLAT, Layout.BLOBS) and isinstance(value, (bytes, bytearray)):
        return np.frombuffer(value, dtype.newbyteorder("<")).astype(dtype)
    return np.asarray(value, dtype).reshape(-1)


def agrees(written: Written, values: Sequence[Any]) -> bool:
    """Whether what another engine read are the samples, flattened."""
    if written.definition.compression is not None:
        return list(values) == written.samples
    flat = [s if s is None or isinstance(s, str) else np.asarray(s).reshape(-1) for s in written.samples]
    return all_same([elsewhere(written, v) for v in values], flat, numeric_dtype(written))


def numeric_dtype(written: Written) -> str | None:
    """The dtype of samples that are arrays."""
    return written.definition.dtype if written.definition.kind == "numeric" else None


# -- damage --------------------------------------------------------------------------------------------------------------


def damaged(written: Written, key: str, data: bytes, *, remote: bool) -> Store:
    """A copy of the store in which one object has other bytes."""
    store = (RemoteMemory if remote else MemoryStore)(f"damaged-{uuid.uuid4().hex}")
    for file in written.files:
        store.put(file.key, data if file.key == key else written.store.get(file.key))
    return store


def read_all(written: Written, store: Store) -> tuple[list[Any], list[Any] | None]:
    """All samples, and their shapes where they are stored by themselves, as a new reader sees them."""
    reader, rows = FileReader(store), np.arange(len(written.samples))
    samples = plain(reader.cells(written.definition, written.files, rows))
    shapes = None if isinstance(written.samples[0], str) else reader.shapes(written.files, written.entry[1], rows)
    return samples, shapes


def corrupt_or_right(written: Written, store: Store) -> str:
    """Read everything: ``corrupt``, or ``right`` when the samples are what was written; anything else fails."""
    try:
        samples, shapes = read_all(written, store)
    except Corrupt as e:
        return "corrupt" if str(e) else "corrupt, but without a message"
    finally:
        forget(store)
    assert all_same(samples, written.samples, numeric_dtype(written)), "wrong samples came back without an error"
    assert shapes is None or shapes == read_all(written, written.store)[1], "wrong shapes came back without an error"
    return "right"


def forget(store: Store) -> None:
    """Free a store in memory."""
    store.delete([e.key for e in store.list("")])
