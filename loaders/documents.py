"""Documents of token ids, for ``tokens`` and ``packing``: how long each is, and stretches of them copied into a batch.

A document is one row's sample of a one-dimensional integer tensor; a missing or an empty one is no document. Where the source
knows the places of its samples (files on a local disk), stretches are copied from there; else the documents concerned are read
whole, each once a batch.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

from lakefmt.cells import Array, Rows
from lakefmt.errors import DtypeError, InvalidInput, NoSuchTensor, ShapeError, nearest
from lakefmt.htypes import Kind, TensorDef, define_tensor
from lakefmt.loaders.checks import shown, whole
from lakefmt.rows import RowSource

#: Rows whose lengths are asked for together.
_ROWS_AT_ONCE = 1 << 20
#: The same where samples must be read to know them.
_READ_AT_ONCE = 4096


class Documents:
    """The documents of one tensor of a source. Safe among threads; picklable, without what it has looked up.

    Args:
        eos: an id that follows each document as one more token.

    Attributes:
        name, dtype: the tensor, and the dtype of its ids.
    """

    def __init__(self, step: str, source: RowSource, tensor: str | None, eos: int | None) -> None:
        self.source = source
        self.name = _chosen(step, source, tensor)
        definition = source.definitions[self.name]
        self.dtype = np.dtype(definition.dtype)
        self.eos = None if eos is None else token_id(step, "eos", eos, self.dtype)
        self._step = step
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._known: tuple[Rows, Rows] | None = None
        self._spans: tuple[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"args": (self._step, self.source, self.name, self.eos)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["args"])  # type: ignore[misc]

    @property
    def lock(self) -> threading.Lock:
        """Held while something is looked up; a fresh one in a forked child, where a thread of the parent may have held it."""
        if self._pid != os.getpid():
            self._pid, self._lock = os.getpid(), threading.Lock()
        return self._lock

    def lengths(self) -> tuple[Rows, Rows]:
        """Rows that hold documents, ascending, and how many tokens each has (without ``eos``), both int64.

        Raises:
            ShapeError: a sample is not one-dimensional.
            InvalidInput: there is not one token.
        """
        if self._known is None:
            n = len(self.source)
            parts = [_lengths(self.source, self.name, np.arange(a, min(n, a + _ROWS_AT_ONCE))) for a in range(0, n, _ROWS_AT_ONCE)]
            every = np.concatenate(parts) if parts else np.empty(0, np.int64)
            rows = np.flatnonzero(every > 0)
            if not len(rows):
                raise InvalidInput(f"{self._step}: tensor {self.name!r} has not one token in {n} rows; there is nothing to load")
            self._known = rows, every[rows]
        return self._known

    def spans(self) -> Any:
        """Where documents lie (``lakefmt.fragment.spans.Spans``); ``None`` where they have to be read."""
        if self._spans is None:
            rows, _ = self.lengths()
            self._spans = (self.source.spans(self.name, rows) if hasattr(self.source, "spans") else None,)
        return self._spans[0]

    def copy(self, docs: Rows, begins: Rows, counts: Rows, at: Rows, out: Array) -> None:
        """Copy tokens ``[begins, begins + counts)`` of documents (by number) to places ``at`` of ``out``, which is flat."""
        spans, itemsize = self.spans(), self.dtype.itemsize
        if spans is not None:
            start = spans.start[docs] + begins * itemsize
            spans.copy(spans.area[docs], start, counts * itemsize, at * itemsize, out)
            return
        wanted, which = np.unique(docs, return_inverse=True)
        values: Any = self.source.gather(self.name, self.lengths()[0][wanted])
        values = values.values
        for i, a, n, b in zip(which.tolist(), begins.tolist(), counts.tolist(), at.tolist(), strict=True):
            out[b : b + n] = values[i][a : a + n]

    def define(self, i: int, name: str, dtype: Any, size: int) -> TensorDef:
        """The definition of a tensor of ``(size,)`` made of the documents."""
        return define_tensor(i, name, dtype=dtype, shape=(size,))


def token_id(step: str, name: str, value: Any, dtype: np.dtype[Any]) -> int:
    """A token id of a dtype."""
    number, info = whole(value), np.iinfo(dtype)
    if number is None or not info.min <= number <= info.max:
        raise InvalidInput(f"{step}({name}={shown(value)}): give a token id that {dtype} holds: {info.min} to {info.max}")
    return number


def _lengths(source: Any, name: str, rows: Rows) -> Rows:
    """Tokens of each row; less than one where there are none."""
    if hasattr(source, "lengths"):
        found: Rows = source.lengths(name, rows)
        return found
    out = np.empty(len(rows), np.int64)
    for begin in range(0, len(rows), _READ_AT_ONCE):
        values = source.gather(name, rows[begin : begin + _READ_AT_ONCE]).values
        for i, value in enumerate(values):
            if value is not None and np.ndim(value) != 1:
                raise ShapeError(f"tensor {name!r}: row {rows[begin + i]} has {np.ndim(value)} dimensions; token ids have one")
            out[begin + i] = 0 if value is None else len(value)
    return out


def _chosen(step: str, source: RowSource, tensor: str | None) -> str:
    """The tensor named, or the only one there is, of token ids."""
    if tensor is None:
        found = [n for n, d in source.definitions.items() if _integers(d) and _ndim(source, n) in (1, None)]
        if len(found) == 1:
            return found[0]
        which = f"{', '.join(map(repr, found))} are" if found else "none is"
        raise InvalidInput(
            f"{step}(): which tensor holds the token ids? Of one dimension and an integer dtype {which} "
            f"(there are {', '.join(map(repr, source.definitions)) or 'no tensors'}); give tensor="
        )
    if tensor not in source.definitions:
        raise NoSuchTensor(f"{step}(): there is no tensor {tensor!r}; {nearest(tensor, source.definitions)}")
    definition, ndim = source.definitions[tensor], _ndim(source, tensor)
    if not _integers(definition):
        raise DtypeError(f"{step}(): token ids are integers, and tensor {tensor!r} holds {definition.dtype or 'nothing yet'}")
    if ndim not in (1, None):
        raise ShapeError(f"{step}(): a document is one row of token ids, and samples of {tensor!r} have {ndim} dimensions")
    return tensor


def _integers(definition: TensorDef) -> bool:
    return definition.kind is Kind.NUMERIC and definition.dtype is not None and np.dtype(definition.dtype).kind in "iu"


def _ndim(source: Any, name: str) -> int | None:
    """Dimensions of the samples (1 where some have one); ``None`` where the source cannot tell, or there are none."""
    declared, uniform = source.definitions[name].shape, source.uniform(name)
    if declared is not None or uniform is not None:
        return len(uniform[0] if uniform is not None else declared)
    if hasattr(source, "ndims"):
        bounds = source.ndims(name)
        return None if bounds is None else int(np.clip(1, *bounds))
    if hasattr(source, "base") and name in source.names:
        return _ndim(source.base, source.names[name])
    return None
