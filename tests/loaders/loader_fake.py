"""A RowSource over arrays in memory, with a switchable error and counters, for tests of the loaders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lakefmt.cells import Array, Cells, Dense, Encoded, Ragged, Rows, Strings
from lakefmt.errors import Corrupt
from lakefmt.htypes import TensorDef, define_tensor


class FakeSource:
    """``columns`` maps names to an array (dense), a list of arrays or None (ragged), of bytes (encoded), or
    of str.
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        *,
        unit_rows: int = 10,
        local: bool = True,
        definitions: Mapping[str, TensorDef] | None = None,
        corrupt_rows: Sequence[int] = (),
        tag: str = "v1",
    ) -> None:
        self.columns = dict(columns)
        self._unit_rows, self._local, self._corrupt, self._tag = unit_rows, local, set(corrupt_rows), tag
        given = definitions or {}
        self._definitions = {
            name: given.get(name) or _define(i, name, values) for i, (name, values) in enumerate(self.columns.items())
        }
        self._n = len(next(iter(self.columns.values())))
        self.gathers = 0

    def __len__(self) -> int:
        return self._n

    @property
    def definitions(self) -> Mapping[str, TensorDef]:
        return self._definitions

    def gather(self, name: str, rows: Rows, out: Array | None = None) -> Cells:
        self.gathers += 1
        if self._corrupt and not self._corrupt.isdisjoint(rows.tolist()):
            raise Corrupt(f"checksum of rows {sorted(self._corrupt & set(rows.tolist()))}")
        values, kind = self.columns[name], self._definitions[name].kind
        if isinstance(values, np.ndarray):
            out = np.empty((len(rows), *values.shape[1:]), values.dtype) if out is None else out
            return Dense(np.take(values, rows, axis=0, out=out, mode="clip"))
        picked = [values[i] for i in rows.tolist()]
        if kind == "encoded":
            return Encoded(picked, self._definitions[name].compression or "")
        if kind in ("text", "json"):
            return Strings(pa.array(picked, pa.string()), is_json=kind == "json")
        shapes = {None if p is None else p.shape for p in picked}
        # as a real source does: the luck of a batch may make its cells dense
        return Dense(np.stack(picked)) if len(shapes) == 1 and None not in shapes else Ragged(picked)

    def uniform(self, name: str) -> tuple[tuple[int, ...], str] | None:
        values = self.columns[name]
        return (values.shape[1:], values.dtype.name) if isinstance(values, np.ndarray) else None

    def row_ids(self, rows: Rows) -> Rows:
        return rows + 1000

    def unit_rows(self) -> int:
        return self._unit_rows

    def mean_nbytes(self, name: str) -> float:
        values = self.columns[name]
        if isinstance(values, np.ndarray):
            return values.nbytes / max(1, len(values))
        return float(np.mean([getattr(v, "nbytes", 0) if not isinstance(v, bytes | str) else len(v) for v in values]))

    def is_local(self) -> bool:
        return self._local

    def nbytes_read(self) -> int:
        return 0

    def identity(self) -> dict[str, Any]:
        return {"address": "memory://fake", "version": self._tag, "rows": self._n}


def _define(i: int, name: str, values: Any) -> TensorDef:
    if isinstance(values, np.ndarray):
        return define_tensor(i, name, dtype=values.dtype)
    first = next((v for v in values if v is not None), None)
    if isinstance(first, bytes):
        codec = "png" if first[:4] == b"\x89PNG" else "jpeg"
        return define_tensor(i, name, htype="image", sample_compression=codec)
    if isinstance(first, str):
        return define_tensor(i, name, htype="text")
    return define_tensor(i, name, dtype=None if first is None else first.dtype)


def numbers(n: int, **options: Any) -> FakeSource:
    """``x``: rows of (n, 3) float32 whose first value is the row; ``label``: the row as int32."""
    x = np.zeros((n, 3), np.float32)
    x[:, 0] = np.arange(n)
    return FakeSource({"x": x, "label": np.arange(n, dtype=np.int32)}, **options)
