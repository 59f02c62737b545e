"""What query and loaders see of a dataset or view: an ordered sequence of rows whose tensors can be gathered in bulk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from lakefmt.cells import Array, Cells, Rows
from lakefmt.htypes import TensorDef


@runtime_checkable
class RowSource(Protocol):
    """Rows of one version, by position. Immutable: the rows it shows never change while it is held.

    Safe to use from several threads, picklable (it reopens by address), and usable in a forked child.
    """

    def __len__(self) -> int: ...

    @property
    def definitions(self) -> Mapping[str, TensorDef]:
        """The tensors, in order."""
        ...

    def gather(self, name: str, rows: Rows, out: Array | None = None) -> Cells:
        """Samples of tensor ``name`` at positions ``rows`` (int64, 0-based, any order, repeats allowed), in that order.

        Args:
            name: a key of ``definitions``.
            rows: positions, each in ``[0, len(self))``.
            out: C-contiguous array ``(len(rows), *shape)`` of the tensor's dtype to fill; only for tensors for which
                ``uniform(name)`` is not ``None``. The ``Dense`` returned then holds ``out`` itself.
        """
        ...

    def uniform(self, name: str) -> tuple[tuple[int, ...], str] | None:
        """``(shape, dtype)`` when every sample is present, numeric and of that one shape; else ``None``."""
        ...

    def row_ids(self, rows: Rows) -> Rows:
        """Stable 64-bit row ids of these positions."""
        ...

    def unit_rows(self) -> int:
        """Neighbouring rows that cost about as much to read together as any of them alone: 1 where a row costs its bytes."""
        ...

    def mean_nbytes(self, name: str) -> float:
        """Mean stored bytes of a sample of ``name``; for sizing queues."""
        ...

    def is_local(self) -> bool:
        """Whether reading one row costs no network request (a local disk, memory)."""
        ...

    def nbytes_read(self) -> int:
        """Bytes asked of the store so far by all who read through the same handle (of mapped files, what was copied out)."""
        ...

    def identity(self) -> dict[str, Any]:
        """Small JSON value naming exactly these rows: address, version, and a hash of the row selection if any."""
        ...
