"""Fixed blocks of a stream of tokens, as rows of a source of their own.

The stream is all documents of a tensor laid end to end in row order, each followed by ``eos`` where one is given; block i is its
tokens ``[i * stride, i * stride + block_size)``. Blocks being rows, every order, rank, worker, state and front end does with them
what it does with any rows.

Where documents lie one behind the other in a file as they do in the stream, they are one *run*, whatever lies between them: the
place of a token is its number in the stream and a constant. (Between ids of four bytes, as a file of large values has them, there
are the four bytes of the next one's length, which ``eos`` is written over.) So a block is a slice or two, and documents are not
looked at. Runs and the places of ``eos`` are looked up once; they take about 30 bytes a run, 8 a document and 16 a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lakefmt.cells import Array, Cells, Dense, Rows
from lakefmt.errors import InvalidInput
from lakefmt.htypes import TensorDef
from lakefmt.loaders.checks import integer
from lakefmt.loaders.documents import Documents
from lakefmt.rows import RowSource

#: Tokens of a block: what an int32 position counts.
BLOCK_SIZE_MAX = 2**31 - 1
#: Blocks for which it is kept where their runs are: 64 MB. (Searching takes longer than copying a block.)
_BOUNDS_MAX = 1 << 22


@dataclass(frozen=True, slots=True)
class _Runs:
    """Parts of the stream, ascending, that lie as they are in one piece: bytes ``[begin, end)`` of the stream, byte b of it being
    byte ``b + shift`` of ``area``; or, where documents have to be read, one part a document.
    """

    begin: Rows
    end: Rows
    shift: Rows
    area: Array


@dataclass(frozen=True, slots=True)
class _Stream:
    """The stream as it was looked up.

    Attributes:
        size: tokens.
        eos: places of ``eos``, ascending; empty without.
        blocks: whole blocks in it.
        unit_blocks: blocks of what is cheapest to read together.
        bounds: of every block, what ``search`` finds, (4, blocks); ``None`` where they are too many to keep.
    """

    runs: _Runs
    size: int
    eos: Rows
    blocks: int
    unit_blocks: int
    bounds: Array | None = None

    def search(self, first: Rows, stop: Rows, itemsize: int) -> tuple[Rows, Rows, Rows, Rows]:
        """Of blocks of tokens ``[first, stop)``: the runs and the places of ``eos`` in each, as ranges of their numbers."""
        low, high = self.runs.end.searchsorted(first * itemsize, "right"), self.runs.begin.searchsorted(stop * itemsize)
        return low, high, self.eos.searchsorted(first), self.eos.searchsorted(stop)


class TokenBlocks:
    """A ``RowSource`` of blocks ``(block_size,)``. The last tokens, less than a block, are left out.

    Args:
        source: the rows with the documents; a missing or empty one adds nothing, not even ``eos``.
        tensor: a one-dimensional integer tensor; may be left out where there is only one.
        block_size: tokens a block.
        eos: an id to follow every document.
        overlap: tokens that a block has in common with the next one; with 1, inputs ``block[:-1]`` and targets ``block[1:]`` of all
            blocks lose no token.

    Raises:
        DtypeError, ShapeError, NoSuchTensor: the tensor is not of integers, or not of one dimension, or not there.
        InvalidInput: another argument is wrong.
    """

    def __init__(
        self, source: RowSource, tensor: str | None, block_size: int, eos: int | None = None, overlap: int = 0
    ) -> None:  # fmt: skip
        self.block_size = integer("tokens", "block_size", block_size, least=1, most=BLOCK_SIZE_MAX)
        self.overlap = integer("tokens", "overlap", overlap, least=0)
        if self.overlap >= self.block_size:
            raise InvalidInput(f"tokens(overlap={self.overlap}): blocks of {self.block_size} tokens overlap by fewer than that")
        self.documents = Documents("tokens", source, tensor, eos)
        self.definitions: Mapping[str, TensorDef] = {
            self.name: self.documents.define(0, self.name, self.documents.dtype, self.block_size)
        }
        self._found: _Stream | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_found": None}

    def __repr__(self) -> str:
        return f"blocks of {self.block_size} tokens of {self.name!r}"

    @property
    def name(self) -> str:
        """The tensor."""
        return self.documents.name

    @property
    def stride(self) -> int:
        """Tokens from the beginning of a block to that of the next."""
        return self.block_size - self.overlap

    def __len__(self) -> int:
        return self._stream().blocks

    def _stream(self) -> _Stream:
        if self._found is None:
            with self.documents.lock:
                if self._found is None:
                    self._found = self._look_up()
        return self._found

    def _look_up(self) -> _Stream:
        docs = self.documents
        _, lengths = docs.lengths()
        ends = np.cumsum(lengths + (docs.eos is not None))
        size = int(ends[-1])
        if size < self.block_size:
            raise InvalidInput(
                f"tokens(block_size={self.block_size}): tensor {self.name!r} has {size} tokens in {len(lengths)} documents, which "
                "is less than one block; take a smaller block_size"
            )
        eos = ends - 1 if docs.eos is not None else np.empty(0, np.int64)
        blocks = (size - self.block_size) // self.stride + 1
        unit = docs.source.unit_rows() * (size / len(docs.source)) / self.stride
        end = ends - (docs.eos is not None)
        stream = _Stream(_runs(docs, end - lengths, end), size, eos, blocks, max(1, min(blocks, round(unit))))
        if blocks > _BOUNDS_MAX:
            return stream
        first = np.arange(blocks, dtype=np.int64) * self.stride
        return replace(stream, bounds=np.array(stream.search(first, first + self.block_size, docs.dtype.itemsize), np.int32))

    def gather(self, name: str, rows: Rows, out: Array | None = None) -> Cells:
        """See ``RowSource.gather``: blocks ``(len(rows), block_size)``."""
        stream, docs = self._stream(), self.documents
        if out is None:
            out = np.empty((len(rows), self.block_size), docs.dtype)
        flat = out.reshape(-1)
        rows = np.asarray(rows, np.int64)
        runs, eos, size = stream.runs, stream.eos, docs.dtype.itemsize
        first = rows * self.stride
        # every step costs as much as copying a block: few of them, and methods, which are half as dear as functions
        if not self.overlap and _neighbours(rows):
            first, stop = first[:1], first[-1:] + self.block_size  # one long block
            low, high, first_eos, stop_eos = stream.search(first, stop, size)
        elif stream.bounds is None:
            stop = first + self.block_size
            low, high, first_eos, stop_eos = stream.search(first, stop, size)
        else:
            stop = first + self.block_size
            low, high, first_eos, stop_eos = stream.bounds.take(rows, 1)
        to_place = np.arange(0, len(first) * self.block_size, self.block_size) - first  # of a token of the stream in the batch
        run, block = spread(low, high)
        begin = np.maximum(runs.begin.take(run), (first * size).take(block))
        nbytes = np.minimum(runs.end.take(run), (stop * size).take(block)) - begin
        at = begin + (to_place * size).take(block)
        spans = docs.spans()
        if spans is None:
            docs.copy(run, (begin - runs.begin.take(run)) // size, nbytes // size, at // size, flat)
        else:
            spans.copy(runs.area.take(run), begin + runs.shift.take(run), nbytes, at, flat)
        if docs.eos is not None:
            one, block = spread(first_eos, stop_eos)
            flat[eos.take(one) + to_place.take(block)] = docs.eos
        return Dense(out)

    # -- facts ---------------------------------------------------------------------------------------------------------

    def uniform(self, name: str) -> tuple[tuple[int, ...], str] | None:
        """See ``RowSource.uniform``."""
        return (self.block_size,), self.documents.dtype.name

    def row_ids(self, rows: Rows) -> Rows:
        """The numbers of the blocks."""
        return np.asarray(rows, np.int64)

    def unit_rows(self) -> int:
        """Blocks of a fragment's worth of documents."""
        return self._stream().unit_blocks

    def mean_nbytes(self, name: str) -> float:
        """Bytes of a block."""
        return float(self.block_size * self.documents.dtype.itemsize)

    def is_local(self) -> bool:
        """See ``RowSource.is_local``."""
        return self.documents.source.is_local()

    def nbytes_read(self) -> int:
        """See ``RowSource.nbytes_read``."""
        return self.documents.source.nbytes_read()

    def identity(self) -> dict[str, Any]:
        """See ``RowSource.identity``."""
        blocks = {"tensor": self.name, "block_size": self.block_size, "overlap": self.overlap, "eos": self.documents.eos}
        return {**self.documents.source.identity(), "tokens": blocks}


def _runs(docs: Documents, begin: Rows, end: Rows) -> _Runs:
    """Runs of the documents that lie at tokens ``[begin, end)`` of the stream."""
    begin, end = begin * docs.dtype.itemsize, end * docs.dtype.itemsize
    spans = docs.spans()
    if spans is None:
        return _Runs(begin, end, np.empty(0, np.int64), np.empty(0, np.int32))
    shift = spans.start - begin
    first = np.flatnonzero(np.concatenate(([True], (np.diff(shift) != 0) | (np.diff(spans.area) != 0))))
    last = np.concatenate((first[1:], [len(begin)])) - 1
    return _Runs(begin[first], end[last], shift[first], spans.area[first])


def _neighbours(rows: Rows) -> bool:
    """Whether rows, more than one, follow each other."""
    n = len(rows)
    return n > 1 and int(rows[-1]) - int(rows[0]) == n - 1 and bool((rows[1:] - rows[:-1] == 1).all())


def spread(low: Rows, high: Rows) -> tuple[Rows, Rows]:
    """The numbers ``[low, high)`` of each of some ranges, end to end; and the range each is of."""
    counts = high - low
    ends = counts.cumsum()
    which = np.arange(len(counts)).repeat(counts)
    return np.arange(len(which)) + (high - ends).repeat(counts), which
