"""Whole documents packed into rows of at most ``max_len`` tokens, for attention that keeps to one document.

Packs follow from the lengths alone: first fit (Johnson, "Near-optimal bin packing algorithms", 1973) over windows of consecutive
documents. Each goes into the first pack of its window that has room for it; a maximum tree over the room left in the packs finds
that one in log2(window) steps. (Johnson et al., "Worst-case performance bounds for simple one-dimensional packing algorithms",
1974.) Windows are independent, so that the k-th document of many windows is placed by the same vectorised step.

A document longer than ``max_len`` is cut into pieces of ``max_len`` and a rest; each piece is a document of its own from there on,
with positions from 0. Packs are in the order of their first pieces. They are worked out once, when they are first counted, and take
some 30 bytes a document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lakefmt.cells import Array, Cells, Dense, Rows
from lakefmt.htypes import TensorDef
from lakefmt.loaders.batch import Batch
from lakefmt.loaders.checks import integer
from lakefmt.loaders.documents import Documents, token_id
from lakefmt.loaders.recipe import Recipe
from lakefmt.loaders.tokens import BLOCK_SIZE_MAX, spread
from lakefmt.rows import RowSource

#: Documents packed together by default. (Measured, 1 million of a mean of 410 tokens into packs of 2,048: 1.3 % padding, in 0.7 s.)
WINDOW_DOCUMENTS = 1024
#: Documents packed together at most: a window's tree is a few times as many numbers.
WINDOW_MAX = 1 << 20
#: Numbers of the trees of the windows that are packed at the same time.
_TREE_NUMBERS = 1 << 22
POSITIONS, NUMBERS = "_position_ids", "_documents"
CU_SEQLENS, MAX_SEQLEN = "cu_seqlens", "max_seqlen"


@dataclass(frozen=True, slots=True)
class _Packed:
    """Pieces in the order of their packs: ``count`` tokens of document ``doc`` from ``begin`` on, ``eos`` counted as its last one.

    Pieces ``[first[p], first[p + 1])`` are those of pack p.
    """

    doc: Rows
    begin: Rows
    count: Rows
    ended: Array  # whether the last token is eos
    first: Rows


class Packs:
    """A ``RowSource`` of packs: columns ``<name>`` and int32 ``<name>_position_ids``, ``<name>_documents``, each ``(max_len,)``.

    Args:
        source: the rows with the documents; a missing or empty one adds nothing, not even ``eos``.
        tensor: a one-dimensional integer tensor; may be left out where there is only one.
        max_len: tokens a pack.
        eos: an id to follow every document.
        pad: the id that fills packs up.
        window: how many documents (or pieces) are packed together.

    Raises:
        DtypeError, ShapeError, NoSuchTensor: the tensor is not of integers, or not of one dimension, or not there.
        InvalidInput: another argument is wrong.
    """

    def __init__(
        self, source: RowSource, tensor: str | None, max_len: int, eos: int | None = None, pad: int = 0,
        window: int = WINDOW_DOCUMENTS,
    ) -> None:  # fmt: skip
        self.max_len = integer("pack", "max_len", max_len, least=1, most=BLOCK_SIZE_MAX)
        self.window = integer("pack", "window", window, least=1, most=WINDOW_MAX)
        self.documents = Documents("pack", source, tensor, eos)
        self.pad = token_id("pack", "pad", pad, self.documents.dtype)
        dtypes = {self.name: self.documents.dtype.name, self.name + POSITIONS: "int32", self.name + NUMBERS: "int32"}
        self.definitions: Mapping[str, TensorDef] = {
            name: self.documents.define(i, name, dtype, self.max_len) for i, (name, dtype) in enumerate(dtypes.items())
        }
        self._found: _Packed | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_found": None}

    def __repr__(self) -> str:
        return f"packs of {self.max_len} tokens of {self.name!r}"

    @property
    def name(self) -> str:
        """The tensor."""
        return self.documents.name

    def __len__(self) -> int:
        return len(self._packed().first) - 1

    @property
    def filled(self) -> float:
        """Share of all packs that is not padding."""
        return float(self._packed().count.sum()) / (len(self) * self.max_len)

    def _packed(self) -> _Packed:
        if self._found is None:
            with self.documents.lock:
                if self._found is None:
                    _, lengths = self.documents.lengths()
                    self._found = _pack(lengths, self.documents.eos is not None, self.max_len, self.window)
        return self._found

    def gather(self, name: str, rows: Rows, out: Array | None = None) -> Cells:
        """See ``RowSource.gather``: ``(len(rows), max_len)``."""
        packed, n = self._packed(), len(rows)
        if out is None:
            out = np.empty((n, self.max_len), self.definitions[name].dtype)
        flat = out.reshape(-1)
        rows = np.asarray(rows, np.int64)
        piece, row = spread(packed.first[rows], packed.first[rows + 1])
        count = packed.count[piece]
        before = np.cumsum(count) - count  # tokens of pieces before this one, in the batch
        pieces = packed.first[rows + 1] - packed.first[rows]
        begins = np.cumsum(pieces) - pieces  # number of each row's first piece, in the batch
        if name == self.name:
            at = before - before[begins][row] + row * self.max_len
            flat.fill(self.pad)
            ended = packed.ended[piece]
            self.documents.copy(packed.doc[piece], packed.begin[piece], count - ended, at, flat)
            if self.documents.eos is not None:
                flat[(at + count - 1)[ended]] = self.documents.eos
            return Dense(out)
        # pieces and, behind each row's last, its padding: stretches that fill the batch
        ends = begins + pieces
        room = self.max_len - (np.append(before, count.sum())[ends] - before[begins])
        sizes = np.insert(count, ends, room)
        number = np.insert(np.arange(len(piece)) - begins[row], ends, -1)
        if name == self.name + NUMBERS:
            flat[...] = np.repeat(number, sizes)
        else:
            starts = np.cumsum(sizes) - sizes
            flat[...] = np.arange(n * self.max_len) - np.repeat(starts, sizes)
            flat *= np.repeat(number >= 0, sizes)
        return Dense(out)

    # -- facts ---------------------------------------------------------------------------------------------------------

    def uniform(self, name: str) -> tuple[tuple[int, ...], str] | None:
        """See ``RowSource.uniform``."""
        return (self.max_len,), str(self.definitions[name].dtype)

    def row_ids(self, rows: Rows) -> Rows:
        """The numbers of the packs."""
        return np.asarray(rows, np.int64)

    def unit_rows(self) -> int:
        """Packs of a fragment's worth of documents."""
        source = self.documents.source
        return max(1, round(len(self) * source.unit_rows() / len(source)))

    def mean_nbytes(self, name: str) -> float:
        """Bytes of a row of the column."""
        return float(self.max_len * np.dtype(self.definitions[name].dtype).itemsize)

    def is_local(self) -> bool:
        """See ``RowSource.is_local``."""
        return self.documents.source.is_local()

    def nbytes_read(self) -> int:
        """See ``RowSource.nbytes_read``."""
        return self.documents.source.nbytes_read()

    def identity(self) -> dict[str, Any]:
        """See ``RowSource.identity``."""
        packs = {"tensor": self.name, "max_len": self.max_len, "eos": self.documents.eos, "pad": self.pad, "window": self.window}
        return {**self.documents.source.identity(), "packs": packs}


@dataclass(frozen=True, slots=True)
class SequenceBounds:
    """A function of the batch that adds ``cu_seqlens`` and ``max_seqlen``: bounds of the sequences of the batch laid end to end.

    A sequence is a document's part of a pack, or the padding behind a pack's last document: attention over all of a batch's tokens
    then needs no gather, and padding sees nothing but padding.
    """

    name: str

    def __call__(self, batch: Batch) -> Batch:
        numbers = batch.get(self.name + NUMBERS)
        if not isinstance(numbers, np.ndarray):  # they are not loaded, or a transform made something else of them
            return batch
        begins = np.ones(numbers.shape, bool)
        begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        bounds = np.append(np.flatnonzero(begins), numbers.size).astype(np.int32)
        batch[CU_SEQLENS], batch[MAX_SEQLEN] = bounds, int(np.diff(bounds).max(initial=0))
        return batch


def without_bounds(recipe: Recipe) -> Recipe:
    """The recipe without what concerns no single row."""
    return replace(recipe, batch_fns=tuple(f for f in recipe.batch_fns if not isinstance(f, SequenceBounds)))


def _pack(lengths: Rows, ended: bool, max_len: int, window: int) -> _Packed:
    """Documents of so many tokens (without eos), cut into pieces and packed."""
    total = lengths + ended
    piece, doc = spread(np.zeros(len(total), np.int64), -(-total // max_len))
    begin = piece * max_len
    count = np.minimum(total[doc] - begin, max_len)
    owner = np.arange(len(doc))  # first piece of the pack that each is in
    some = np.flatnonzero(count < max_len)
    packs = first_fit(count[some], max_len, window)
    _, first, which = np.unique(packs, return_index=True, return_inverse=True)
    owner[some] = some[first[which]]
    order = np.argsort(owner, kind="stable")
    doc, begin, count, owner = doc[order], begin[order], count[order], owner[order]
    bounds = np.append(np.flatnonzero(np.diff(owner, prepend=-1)), len(owner))
    return _Packed(doc, begin, count, (begin + count == total[doc]) & ended, bounds)


def first_fit(sizes: Rows, capacity: int, window: int) -> Rows:
    """Number of the bin that each item goes to: in each window of items the first one with room. Bins of window w are numbered from
    ``w * window`` on.

    Args:
        sizes: of the items, int64 (n,), each at most ``capacity``.
    """
    window = min(window, max(1, len(sizes)))
    leaves = 1 << (window - 1).bit_length()
    at_once = max(1, _TREE_NUMBERS // (2 * leaves))
    bins = np.empty(len(sizes), np.int64)
    for begin in range(0, len(sizes), window * at_once):
        some = sizes[begin : begin + window * at_once]
        windows = -(-len(some) // window)
        needed = np.zeros((windows, window), np.int64)
        needed.reshape(-1)[: len(some)] = some
        found = _placed(needed.T, capacity, leaves).T + np.arange(windows)[:, None] * window
        bins[begin : begin + len(some)] = found.reshape(-1)[: len(some)] + begin
    return bins


def _placed(needed: Array, capacity: int, leaves: int) -> Rows:
    """Bin of each item: ``needed`` and the answer are (items, windows). Node i of a tree has children 2i and 2i + 1."""
    windows = needed.shape[1]
    tree = np.full(2 * leaves * windows, capacity, np.int64)  # node by node, so that the windows of one are neighbours
    own = np.arange(windows)
    bins = np.empty(needed.shape, np.int64)
    levels = leaves.bit_length() - 1
    for item, need in enumerate(needed):
        node = np.ones(windows, np.int64)
        for _ in range(levels):
            node *= 2
            node += tree[node * windows + own] < need
        bins[item] = node - leaves
        tree[node * windows + own] -= need
        for _ in range(levels):
            node //= 2
            at = 2 * node * windows + own
            tree[node * windows + own] = np.maximum(tree[at], tree[at + windows])
    return bins
