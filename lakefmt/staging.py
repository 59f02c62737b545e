"""Samples of one ``extend`` on their way into fragments: taking what users give apart, in pieces, and writing full pieces ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import pyarrow as pa

from lakefmt.errors import DtypeError, InvalidInput
from lakefmt.fragment.columns import Column
from lakefmt.htypes import TensorDef
from lakefmt.sample import are_samples
from lakefmt.versioning.changes import Change

Columns: TypeAlias = Sequence[tuple[TensorDef, Column]]

#: Rows prepared at a time when a list is too long to prepare at once.
_STEP_ROWS = 256


class Staged:
    """Pieces of one extend, written two at a time: checksums and writing of one overlap the flush to disk of another."""

    def __init__(self, write: Callable[[Columns, int], list[Change]]) -> None:
        self._write = write
        self._pool: ThreadPoolExecutor | None = None
        self._futures: list[Future[list[Change]]] = []

    def __bool__(self) -> bool:
        return bool(self._futures)

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def add(self, columns: Columns, first: int) -> None:
        """Begin to write samples for rows from ``first`` on; waits until at most one other piece is under way, which bounds what
        is held in memory.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(2, thread_name_prefix="lakefmt-write")
        if len(self._futures) >= 2:
            self._futures[-2].result()
        self._futures.append(self._pool.submit(self._write, columns, first))

    def done(self) -> list[Change]:
        """The changes of all pieces, in order, once they are stored."""
        return [change for f in self._futures for change in f.result()]


def as_columns(given: Any) -> Mapping[str, Any]:
    """Rows given as a dict of columns, an Arrow table or a DataFrame, as a dict of columns."""
    if isinstance(given, (pa.Table, pa.RecordBatch)):
        if len(set(given.schema.names)) < len(given.schema.names):
            raise InvalidInput(f"extend(): the table has columns of one name: {given.schema.names}")
        return {n: given.column(i) for i, n in enumerate(given.schema.names)}
    if hasattr(given, "columns") and hasattr(given, "iloc"):
        names = [str(c) for c in given.columns]
        if len(set(names)) < len(names):
            raise InvalidInput(f"extend(): the DataFrame has columns of one name: {names}")
        return {n: given.iloc[:, i] for i, n in enumerate(names)}
    if isinstance(given, Mapping):
        return {n: as_column(n, values) for n, values in given.items()}
    raise InvalidInput(f"extend() takes a dict of columns, an Arrow table or a DataFrame, got {type(given).__name__}")


def as_column(name: str, values: Any) -> Any:
    """Samples that can be counted and sliced."""
    if not are_samples(values) or not hasattr(values, "__len__") or not hasattr(values, "__getitem__"):
        raise InvalidInput(
            f"extend(): {name!r} is {type(values).__name__}, not a sequence of samples; give a list or an array. append() takes "
            "one row"
        )
    if "sparse" in str(getattr(values, "layout", "")):  # torch's, which has no rows that can be taken out
        raise DtypeError(f"extend(): {name!r} is a sparse {type(values).__name__}; give a dense one: value.to_dense()")
    return list(values) if isinstance(values, deque) else values


def step_rows(values: Mapping[str, Any], rows: int, fragment_nbytes: int) -> int:
    """Rows to prepare at a time: arrays tell their size, lists are taken in small steps."""
    steps = [rows]
    for v in values.values():
        nbytes = getattr(v, "nbytes", None)
        if isinstance(nbytes, int) and nbytes and len(v):
            steps.append(max(1, fragment_nbytes // max(1, nbytes // len(v))))
        elif not isinstance(nbytes, int):
            small = isinstance(v, list) and v and isinstance(v[0], (int, float, str, type(None))) and not _long(v)
            steps.append(65_536 if small else _STEP_ROWS)
    return min(steps)


def piece(values: Any, start: int, stop: int) -> Any:
    """Samples ``[start, stop)`` of any sequence (a Series by position)."""
    return values.iloc[start:stop] if hasattr(values, "iloc") else values[start:stop]


def _long(values: list[Any]) -> bool:
    """Whether a list of strings has long ones (a guess from its first)."""
    return any(isinstance(v, str) and len(v) > 4096 for v in values[:64])
