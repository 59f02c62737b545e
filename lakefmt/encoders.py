"""Token ids of texts by any function, in batches, in order: in this process or in several.

Processes are spawned, not forked: threads of Arrow and of object stores are alive here. Each is given the function once, at its
start; batches go out ahead of what is taken, twice as many as there are processes, so that little is held in memory.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from lakefmt.cells import Array, Rows
from lakefmt.errors import DtypeError, InvalidInput
from lakefmt.htypes import shown

#: Ids of a batch of texts end to end, and how many each text has; -1 for a missing text.
Ids: TypeAlias = tuple[Array, Rows]
#: Batches under way, per process: one that is worked on and one that waits.
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Texts:
    """Some texts (``None``: missing) and the rows they are of."""

    texts: Sequence[str | None]
    rows: Rows


@dataclass(frozen=True, slots=True)
class Encoder:
    """A user's function.

    Attributes:
        fn: from a list of texts to what holds the ids of each; or, not ``batched``, from a text to its ids.
        dtype: of the ids.
    """

    fn: Callable[[Any], Any]
    batched: bool
    dtype: str

    def __call__(self, some: Texts) -> Ids:
        """Ids of some texts.

        Raises:
            InvalidInput: the function raised, or returned something else than ids; the message names the row and its text.
        """
        there = [i for i, text in enumerate(some.texts) if text is not None]
        texts, rows = [text for text in some.texts if text is not None], some.rows[there]
        lengths = np.full(len(some.texts), -1, np.int64)
        if not texts:
            return np.empty(0, self.dtype), lengths
        arrays = self._whole(texts, rows) if self.batched else [self._one(t, r) for t, r in zip(texts, rows.tolist(), strict=True)]
        lengths[there] = [len(a) for a in arrays]
        return self._joined(arrays, texts, rows), lengths

    def _whole(self, texts: list[str], rows: Rows) -> list[Array]:
        try:
            found = _each(self.fn(texts))
        except Exception as e:
            if len(texts) == 1:
                raise _failed(texts[0], rows[0], e) from e
            for i in range(len(texts)):  # which one is it?
                self._whole(texts[i : i + 1], rows[i : i + 1])
            raise InvalidInput(
                f"tokenise(): {_named(self.fn)} raised {type(e).__name__}: {e} for rows {rows[0]} to {rows[-1]} together, "
                "though for none of them alone"
            ) from e
        if len(found) != len(texts):
            raise InvalidInput(
                f"tokenise(): {_named(self.fn)} returned {len(found)} lists of ids for {len(texts)} texts (from row {rows[0]} on); "
                "it is given a list of str and returns as many, or takes one text each with batched=False"
            )
        return [self._ids(ids, text, row) for ids, text, row in zip(found, texts, rows.tolist(), strict=True)]

    def _one(self, text: str, row: int) -> Array:
        try:
            found = _of_one(self.fn(text))
        except Exception as e:
            raise _failed(text, row, e) from e
        return self._ids(found, text, row)

    def _ids(self, value: Any, text: str, row: int) -> Array:
        """The ids of one text as integers of some dtype."""
        try:
            ids = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as e:
            what = f"{type(value).__name__} is no list of token ids ({e})"
            raise DtypeError(f"tokenise(): {_at(text, row)}: {what}") from e
        if ids.ndim == 1 and not ids.size:
            return np.empty(0, self.dtype)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            what = f"{shown(value)} ({type(value).__name__}, {ids.ndim} dimensions of {ids.dtype})"
            raise DtypeError(f"tokenise(): {_at(text, row)}: token ids are a list of integers, got {what}")
        return ids

    def _joined(self, arrays: list[Array], texts: list[str], rows: Rows) -> Array:
        """Ids of all texts end to end, in the dtype."""
        info = np.iinfo(self.dtype)
        alike = {a.dtype for a in arrays if a.size}
        parts = [np.concatenate([a for a in arrays if a.size])] if len(alike) == 1 else arrays
        if any(p.size and not info.min <= int(p.min()) <= int(p.max()) <= info.max for p in parts):
            for ids, text, row in zip(arrays, texts, rows.tolist(), strict=True):
                odd = [i for i in (int(ids.min()), int(ids.max())) if not info.min <= i <= info.max] if ids.size else []
                if odd:
                    raise DtypeError(
                        f"tokenise(): {_at(text, row)}: token id {odd[0]} is outside {self.dtype} [{info.min}, {info.max}]; "
                        "give a wider dtype="
                    )
        return np.concatenate(arrays, dtype=self.dtype, casting="unsafe")


def _each(value: Any) -> list[Any]:
    """The ids of each text, in what tokenizers return for a list: a dict of lists, encodings, lists, arrays."""
    if isinstance(value, Mapping):
        if "input_ids" not in value:
            raise InvalidInput(f"the dict it returned has no 'input_ids' but {', '.join(map(repr, value))}")
        value = value["input_ids"]
    return [_of_one(one) for one in value]


def _of_one(value: Any) -> Any:
    """The ids of one text, in whatever holds them."""
    if isinstance(value, Mapping) and "input_ids" in value:
        return value["input_ids"]
    return getattr(value, "ids", value)


def _failed(text: str, row: int, error: Exception) -> InvalidInput:
    return InvalidInput(f"tokenise(): {_at(text, row)}: {type(error).__name__}: {error}")


def _at(text: str, row: int) -> str:
    return f"row {row} ({text[:40] + '…' if len(text) > 40 else text!r})"


def _named(fn: Any) -> str:
    return str(getattr(fn, "__name__", type(fn).__name__))


def encoded(encoder: Encoder, batches: Iterable[Texts], num_workers: int) -> Generator[tuple[Texts, Ids], None, None]:
    """Batches with their ids, in order.

    Args:
        num_workers: processes; 0 for none but this one.

    Raises:
        InvalidInput: see ``Encoder``; or the function cannot be sent to another process.
    """
    if num_workers == 0:
        for batch in batches:
            yield batch, encoder(batch)
        return
    from concurrent.futures import Future, ProcessPoolExecutor

    try:
        sent = pickle.dumps(encoder)
    except Exception as e:
        raise InvalidInput(
            f"tokenise(num_workers={num_workers}): {_named(encoder.fn)} cannot be sent to another process ({e}); define it at the "
            "top of a module, or use num_workers=0"
        ) from e
    pool = ProcessPoolExecutor(
        num_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_adopt, initargs=(sent,)
    )  # fmt: skip
    waiting: deque[tuple[Texts, Future[Ids]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(_work, batch)))
            if len(waiting) >= _AHEAD * num_workers:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


_adopted: list[Encoder] = []


def _adopt(sent: bytes) -> None:
    """In a worker process, at its start."""
    _adopted[:] = [pickle.loads(sent)]


def _work(batch: Texts) -> Ids:
    return _adopted[0](batch)
