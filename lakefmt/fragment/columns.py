"""Samples on their way to storage: one growing column a tensor.

A column keeps what it is given in the cheapest form: whole arrays as blocks (no row ever becomes an object of its own), single
samples in lists. It can be read by position, cut back (so that a failed append leaves no trace), and it knows its bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from lakefmt.cells import Array, Buffer, Cells, Dense, Encoded, Ragged, Rows, Strings
from lakefmt.htypes import Kind, TensorDef

Shape: TypeAlias = tuple[int, ...]

#: What a Python object costs beside its bytes; keeps the buffer's promise about memory for tiny samples.
_OBJECT_NBYTES = 64


class Column(ABC):
    """Samples of one tensor, in order."""

    nbytes: int = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, rows: Rows) -> Cells:
        """Samples at these positions (all within the column)."""

    @abstractmethod
    def extend(self, other: Column) -> None:
        """Append another column of the same kind."""

    @abstractmethod
    def slice(self, start: int, stop: int) -> Column:
        """Samples ``[start, stop)`` as a column of their own (memory is shared)."""

    @abstractmethod
    def pick(self, rows: Rows) -> Column:
        """Samples at these positions as a column of their own."""

    @abstractmethod
    def shape_at(self, row: int) -> Shape | None:
        """Shape of one sample; ``None`` where it is missing."""

    @abstractmethod
    def truncate(self, length: int) -> None:
        """Cut back to the first ``length`` samples, whatever half-done append came after them."""

    def own(self) -> None:
        """Copy what still belongs to the caller."""
        return


class NumericColumn(Column):
    """Arrays of one dtype: blocks ``(k, *shape)``, and runs of single samples (``None``: missing)."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.chunks: list[Array | list[Array | None]] = []
        self._starts: list[int] = []
        self._rows = 0
        self._borrowed: list[int] = []

    def __len__(self) -> int:
        return self._rows

    def add_block(self, block: Array, *, borrowed: bool = False) -> None:
        """Append ``len(block)`` samples of one shape. ``borrowed``: the memory is the caller's until ``own()``."""
        if len(block) == 0:
            return
        if borrowed:
            self._borrowed.append(len(self.chunks))
        self._starts.append(self._rows)
        self.chunks.append(block)
        self._rows += len(block)
        self.nbytes += block.nbytes

    def add(self, sample: Array | None) -> None:
        """Append one sample."""
        last = self.chunks[-1] if self.chunks else None
        if isinstance(last, list):
            last.append(sample)
        else:
            self._starts.append(self._rows)
            self.chunks.append([sample])
        self._rows += 1
        self.nbytes += _OBJECT_NBYTES + (0 if sample is None else sample.nbytes)

    def own(self) -> None:
        """Copy what is borrowed: the caller may go on to change its array."""
        for i in self._borrowed:
            self.chunks[i] = self.chunks[i].copy()
        self._borrowed.clear()

    def extend(self, other: Column) -> None:
        assert isinstance(other, NumericColumn)
        for i, chunk in enumerate(other.chunks):
            if isinstance(chunk, list):
                for sample in chunk:
                    self.add(sample)
            else:
                self.add_block(chunk, borrowed=i in other._borrowed)

    def truncate(self, length: int) -> None:
        _cut(self.chunks, self._starts, length)
        self._borrowed = [i for i in self._borrowed if i < len(self.chunks)]
        self._rows = length
        self.nbytes = sum(
            sum(_OBJECT_NBYTES + (0 if s is None else s.nbytes) for s in c) if isinstance(c, list) else c.nbytes
            for c in self.chunks
        )

    def slice(self, start: int, stop: int) -> NumericColumn:
        out = NumericColumn(self.dtype.name)
        for i in _chunks_of(self._starts, start, stop):
            begin = self._starts[i]
            part = self.chunks[i][max(0, start - begin) : max(0, stop - begin)]
            if isinstance(part, list):
                for sample in part:
                    out.add(sample)
            else:
                out.add_block(part, borrowed=i in self._borrowed)
        return out

    def pick(self, rows: Rows) -> NumericColumn:
        out = NumericColumn(self.dtype.name)
        if len(self.chunks) == 1 and not isinstance(self.chunks[0], list):
            out.add_block(self.chunks[0][rows])
        else:
            for row in rows.tolist():
                out.add(self._at(row))
        return out

    def shape_at(self, row: int) -> Shape | None:
        sample = self._at(row)
        return None if sample is None else sample.shape

    def take(self, rows: Rows) -> Cells:
        samples = [self._at(int(r)) for r in rows]
        return numeric_cells(samples, self.dtype)

    def _at(self, row: int) -> Array | None:
        i = bisect_right(self._starts, row) - 1
        sample = self.chunks[i][row - self._starts[i]]
        return None if sample is None else np.asarray(sample)

    def shapes(self) -> list[Shape | None]:
        """Shape of every sample, ``None`` for the missing."""
        out: list[Shape | None] = []
        for chunk in self.chunks:
            if isinstance(chunk, list):
                out.extend(None if s is None else s.shape for s in chunk)
            else:
                out.extend([chunk.shape[1:]] * len(chunk))
        return out

    def common_shape(self) -> Shape | None:
        """The shape of all samples if they agree and none is missing."""
        seen: Shape | None = None
        for chunk in self.chunks:
            shapes = {None if s is None else s.shape for s in chunk} if isinstance(chunk, list) else {chunk.shape[1:]}
            if len(shapes) > 1 or None in shapes:
                return None
            (shape,) = shapes
            if seen is not None and shape != seen:
                return None
            seen = shape
        return seen

    def blocks(self) -> list[Array]:
        """The column as contiguous little-endian blocks; only when ``common_shape`` is not ``None``."""
        out = []
        for chunk in self.chunks:
            block = np.stack(chunk) if isinstance(chunk, list) else chunk  # type: ignore[arg-type]
            out.append(np.ascontiguousarray(block, dtype=self.dtype.newbyteorder("<")))
        return out

    def samples(self) -> list[Array | None]:
        """Every sample."""
        return [s for chunk in self.chunks for s in chunk]


class BytesColumn(Column):
    """Encoded documents with the shapes they decode to."""

    def __init__(self, codec: str) -> None:
        self.codec = codec
        self.values: list[Buffer | None] = []
        self.sample_shapes: list[Shape | None] = []

    def __len__(self) -> int:
        return len(self.values)

    def add(self, data: Buffer | None, shape: Shape | None) -> None:
        self.values.append(data)
        self.sample_shapes.append(shape)
        self.nbytes += _OBJECT_NBYTES * 2 + (0 if data is None else len(data))

    def extend(self, other: Column) -> None:
        assert isinstance(other, BytesColumn)
        self.values += other.values
        self.sample_shapes += other.sample_shapes
        self.nbytes += other.nbytes

    def truncate(self, length: int) -> None:
        del self.values[length:], self.sample_shapes[length:]
        self.nbytes = sum(_OBJECT_NBYTES * 2 + (0 if v is None else len(v)) for v in self.values)

    def slice(self, start: int, stop: int) -> BytesColumn:
        out = BytesColumn(self.codec)
        for data, shape in zip(self.values[start:stop], self.sample_shapes[start:stop], strict=True):
            out.add(data, shape)
        return out

    def pick(self, rows: Rows) -> BytesColumn:
        out = BytesColumn(self.codec)
        for row in rows.tolist():
            out.add(self.values[row], self.sample_shapes[row])
        return out

    def shape_at(self, row: int) -> Shape | None:
        return self.sample_shapes[row]

    def take(self, rows: Rows) -> Cells:
        return Encoded([self.values[int(r)] for r in rows], self.codec)

    def shapes(self) -> list[Shape | None]:
        return self.sample_shapes


class TextColumn(Column):
    """Text: Python strings as they come, and Arrow arrays when whole columns come."""

    def __init__(self, *, is_json: bool) -> None:
        self.is_json = is_json
        self._chunks: list[pa.Array | list[str | None]] = []
        self._starts: list[int] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, text: str | None) -> None:
        last = self._chunks[-1] if self._chunks else None
        if isinstance(last, list):
            last.append(text)
        else:
            self._starts.append(self._rows)
            self._chunks.append([text])
        self._rows += 1
        self.nbytes += _OBJECT_NBYTES + (0 if text is None else len(text))

    def add_list(self, texts: list[str | None]) -> None:
        if not texts:
            return
        self._starts.append(self._rows)
        self._chunks.append(list(texts))
        self._rows += len(texts)
        self.nbytes += sum(len(t) for t in texts if t is not None) + _OBJECT_NBYTES * len(texts)

    def add_arrow(self, array: pa.Array) -> None:
        if len(array) == 0:
            return
        self._starts.append(self._rows)
        self._chunks.append(array)
        self._rows += len(array)
        self.nbytes += array.nbytes

    def extend(self, other: Column) -> None:
        assert isinstance(other, TextColumn)
        for chunk in other._chunks:
            if not isinstance(chunk, list):
                self.add_arrow(chunk)
            elif len(chunk) == 1:
                self.add(chunk[0])
            else:
                self.add_list(chunk)

    def truncate(self, length: int) -> None:
        _cut(self._chunks, self._starts, length)
        self._rows = length
        self.nbytes = sum(
            sum(_OBJECT_NBYTES + (0 if t is None else len(t)) for t in c) if isinstance(c, list) else c.nbytes for c in self._chunks
        )

    def slice(self, start: int, stop: int) -> TextColumn:
        out = TextColumn(is_json=self.is_json)
        for i in _chunks_of(self._starts, start, stop):
            begin = self._starts[i]
            part = self._chunks[i][max(0, start - begin) : max(0, stop - begin)]
            if isinstance(part, list):
                out.add_list(part)
            else:
                out.add_arrow(part)
        return out

    def pick(self, rows: Rows) -> TextColumn:
        out = TextColumn(is_json=self.is_json)
        out.add_list([self._at(r) for r in rows.tolist()])
        return out

    def shape_at(self, row: int) -> Shape | None:
        return ()

    def take(self, rows: Rows) -> Cells:
        return Strings(pa.array([self._at(r) for r in rows.tolist()], pa.large_string()), self.is_json)

    def _at(self, row: int) -> str | None:
        i = bisect_right(self._starts, row) - 1
        value = self._chunks[i][row - self._starts[i]]
        return value.as_py() if isinstance(value, pa.Scalar) else value

    def arrow(self) -> pa.Array:
        """The whole column as one Arrow array."""
        parts = [c if isinstance(c, pa.Array) else pa.array(c, pa.large_string()) for c in self._chunks]
        parts = [p.cast(pa.large_string()) for p in parts]
        if len(parts) == 1:
            return parts[0]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.large_string())


def _chunks_of(starts: list[int], start: int, stop: int) -> range:
    """Indices of the chunks that hold samples ``[start, stop)``."""
    return range(max(0, bisect_right(starts, start) - 1), bisect_left(starts, stop))


def _cut(chunks: list[Any], starts: list[int], length: int) -> None:
    """Cut a list of chunks back to ``length`` samples."""
    del starts[len(chunks) :], chunks[len(starts) :]
    while starts and starts[-1] >= length:
        starts.pop()
        chunks.pop()
    if chunks and starts[-1] + len(chunks[-1]) > length:
        chunks[-1] = chunks[-1][: length - starts[-1]]


def new_column(definition: TensorDef) -> Column:
    """An empty column for a tensor."""
    match definition.kind:
        case Kind.TEXT | Kind.JSON:
            return TextColumn(is_json=definition.kind is Kind.JSON)
        case Kind.ENCODED:
            assert definition.compression is not None
            return BytesColumn(definition.compression)
        case Kind.NUMERIC:
            return NumericColumn(definition.dtype or "float64")  # of a tensor of nothing but missing samples


def missing_column(definition: TensorDef, rows: int) -> Column:
    """A column of ``rows`` missing samples."""
    column = new_column(definition)
    for _ in range(rows):
        if isinstance(column, BytesColumn):
            column.add(None, None)
        elif isinstance(column, (NumericColumn, TextColumn)):
            column.add(None)
    return column


def numeric_cells(samples: Sequence[Array | None], dtype: np.dtype[Any]) -> Dense | Ragged:
    """``Dense`` when all samples are present and of one shape, else ``Ragged``."""
    if samples and all(s is not None for s in samples):
        shape = samples[0].shape  # type: ignore[union-attr]
        if all(s.shape == shape for s in samples):  # type: ignore[union-attr]
            return Dense(np.stack(samples).astype(dtype, copy=False))  # type: ignore[arg-type]
    if not samples:
        return Dense(np.empty((0,), dtype))
    return Ragged(list(samples))
