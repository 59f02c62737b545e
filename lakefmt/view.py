"""A view: some rows of a version, in some order, with some of its tensors and possibly computed columns. Read-only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import xxhash

from lakefmt.cells import Array, Cells, Dense, Ragged, Rows, Strings
from lakefmt.errors import InvalidInput, NoSuchTensor, ReadOnly, ShapeError, nearest
from lakefmt.fragment.columns import Shape
from lakefmt.fragment.spans import Spans
from lakefmt.htypes import TensorDef
from lakefmt.rows import RowSource
from lakefmt.rowset import Rowset
from lakefmt.storage import Whole


class Selection:
    """A ``RowSource``: positions of another source, tensors under new names, and computed columns."""

    def __init__(self, base: Any, rows: Rows, names: Mapping[str, str] | None, computed: Mapping[str, Cells]) -> None:
        self.base = base
        self.rows = rows
        self.names = dict(names) if names is not None else {n: n for n in base.definitions}
        self.computed = dict(computed)
        self.definitions: dict[str, TensorDef] = {}
        for name, column in self.names.items():
            self.definitions[name] = _renamed(base.definitions[column], name)
        for i, (name, cells) in enumerate(self.computed.items()):
            self.definitions[name] = _computed_definition((1 << 31) + i, name, cells)

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, name: str, rows: Rows, out: Array | None = None) -> Cells:
        """See ``RowSource.gather``."""
        if name in self.computed:
            return _take(self.computed[name], rows, out)
        cells: Cells = self.base.gather(self._column(name), self.rows[rows], out)
        return cells

    def shapes(self, name: str, rows: Rows) -> list[Shape | None]:
        """Shapes of samples."""
        if name in self.computed:
            cells = _take(self.computed[name], rows, None)
            return (
                [None if v is None else np.shape(v) for v in cells.values] if not isinstance(cells, Strings) else [()] * len(rows)
            )
        shapes: list[Shape | None] = self.base.shapes(self._column(name), self.rows[rows])
        return shapes

    def lengths(self, name: str, rows: Rows) -> Rows:
        """See ``Snapshot.lengths``."""
        if name in self.computed or not hasattr(self.base, "lengths"):  # rows that are not stored yet tell their shapes
            shapes = self.shapes(name, rows)
            odd = next((s for s in shapes if s is not None and len(s) != 1), None)
            if odd is not None:
                raise ShapeError(f"column {name!r}: a sample has shape {odd}; samples of one dimension are needed here")
            return np.array([-1 if s is None else s[0] for s in shapes], np.int64)
        lengths: Rows = self.base.lengths(self._column(name), self.rows[rows])
        return lengths

    def spans(self, name: str, rows: Rows) -> Spans | None:
        """See ``Snapshot.spans``."""
        if name in self.computed or not hasattr(self.base, "spans"):
            return None
        spans: Spans | None = self.base.spans(self._column(name), self.rows[rows])
        return spans

    def _column(self, name: str) -> str:
        try:
            return self.names[name]
        except KeyError:
            raise NoSuchTensor(f"this view has no tensor {name!r}; {nearest(name, self.definitions)}") from None

    def uniform(self, name: str) -> tuple[Shape, str] | None:
        """See ``RowSource.uniform``."""
        if name in self.computed:
            cells = self.computed[name]
            return (cells.values.shape[1:], cells.values.dtype.name) if isinstance(cells, Dense) else None
        found: tuple[Shape, str] | None = self.base.uniform(self._column(name))
        return found

    def row_ids(self, rows: Rows) -> Rows:
        """See ``RowSource.row_ids``."""
        ids: Rows = self.base.row_ids(self.rows[rows])
        return ids

    def unit_rows(self) -> int:
        """See ``RowSource.unit_rows``."""
        return int(self.base.unit_rows())

    def mean_nbytes(self, name: str) -> float:
        """See ``RowSource.mean_nbytes``."""
        return 8.0 if name in self.computed else float(self.base.mean_nbytes(self._column(name)))

    def is_local(self) -> bool:
        """See ``RowSource.is_local``."""
        return bool(self.base.is_local(set(self.names.values()), self.rows))

    def objects(self, names: Collection[str] | None = None) -> Iterator[Whole]:
        """See ``Snapshot.objects``: those of the rows and tensors of this view."""
        wanted = self.names if names is None else [n for n in names if n not in self.computed]
        objects: Iterator[Whole] = self.base.objects({self._column(n) for n in wanted}, self.rows)
        return objects

    def nbytes_read(self) -> int:
        """See ``RowSource.nbytes_read``."""
        return int(self.base.nbytes_read())

    def identity(self) -> dict[str, Any]:
        """See ``RowSource.identity``."""
        rows = np.ascontiguousarray(self.rows, "<i8")
        return {**self.base.identity(), "rows": xxhash.xxh64(rows.tobytes()).hexdigest(), "columns": sorted(self.definitions)}


class View(Rowset):
    """Some rows of a dataset, read-only; made by indexing and by queries.

    Attributes:
        sample_indices: position of each row in the dataset it comes from.
        query_text: the query that made it, or ``None``.
    """

    query_text: str | None = None

    def __init__(
        self,
        base: Any,
        rows: Rows,
        *,
        single: bool = False,
        names: Mapping[str, str] | None = None,
        computed: Mapping[str, Cells] | None = None,
        origin: Rowset | None = None,
        query_text: str | None = None,
    ) -> None:
        names, computed = _compose(base, rows, names, computed or {})
        if isinstance(base, Selection):
            base, rows = base.base, base.rows[rows]
        self._selection = Selection(base, np.asarray(rows, np.int64), names, computed)
        self._single = single
        self._origin: Rowset | None = origin._origin if isinstance(origin, View) else origin
        self.query_text = query_text if query_text is not None else getattr(origin, "query_text", None)

    def __getstate__(self) -> dict[str, Any]:
        return {"_selection": self._selection, "_single": self._single, "_origin": None, "query_text": self.query_text}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _rows_now(self) -> Selection:
        return self._selection

    def source(self) -> RowSource:
        return self._selection

    @property
    def is_view(self) -> bool:
        return True

    @property
    def sample_indices(self) -> Rows:
        """Position of each row in the dataset, int64 (n,)."""
        return self._selection.rows

    @property
    def row_ids(self) -> Rows:
        """Stable row ids, int64 (n,)."""
        return self._selection.row_ids(np.arange(len(self)))

    @property
    def version_id(self) -> str:
        """The version the rows are of."""
        return str(self._selection.identity()["version"])

    def save_view(self, id: str | None = None, *, message: str | None = None, overwrite: bool = False) -> str:
        """Save this view in its dataset, to be opened again as ``<dataset>/.queries/<id>``.

        Args:
            id: a name for it; by default a hash of what it selects, so that saving it twice is one view.
            message: by default the query that made it.
            overwrite: replace a view of that id.

        Returns:
            The id.

        Raises:
            AlreadyExists: another view has that id.
        """
        from lakefmt.query import save_view

        return save_view(self, id, message=message, overwrite=overwrite)

    def append(self, *_: Any, **__: Any) -> None:
        """Views are read-only."""
        raise ReadOnly("a view is read-only: append to the dataset it comes from")

    extend = append


def _compose(
    base: Any, rows: Rows, names: Mapping[str, str] | None, computed: Mapping[str, Cells]
) -> tuple[Mapping[str, str] | None, dict[str, Cells]]:
    """Names and computed columns in terms of the source under a selection."""
    if not isinstance(base, Selection):
        return names, dict(computed)
    chosen = {n: n for n in base.definitions} if names is None else dict(names)
    below = {n: base.names[c] for n, c in chosen.items() if c in base.names}
    inherited = {n: _take(base.computed[c], rows, None) for n, c in chosen.items() if c in base.computed}
    return below, {**inherited, **computed}


def _take(cells: Cells, rows: Rows, out: Array | None) -> Cells:
    match cells:
        case Dense(values):
            if out is not None:
                out[...] = values[rows]
                return Dense(out)
            return Dense(values[rows])
        case Strings(values, is_json):
            import pyarrow as pa

            return Strings(values.take(pa.array(rows)), is_json)
        case Ragged(values):
            return Ragged([values[int(i)] for i in rows])
    raise InvalidInput(f"a computed column cannot be {type(cells).__name__}")


def _renamed(definition: TensorDef, name: str) -> TensorDef:
    import msgspec

    return definition if definition.name == name else msgspec.structs.replace(definition, name=name)


def _computed_definition(field_id: int, name: str, cells: Cells) -> TensorDef:
    if isinstance(cells, Strings):
        return TensorDef(id=field_id, name=name, htype="json" if cells.is_json else "text", dtype="str")
    if isinstance(cells, Dense):
        return TensorDef(id=field_id, name=name, htype="generic", dtype=cells.values.dtype.name, shape=cells.values.shape[1:])
    first = next((v for v in cells.values if v is not None), None)
    return TensorDef(id=field_id, name=name, htype="generic", dtype="float64" if first is None else np.asarray(first).dtype.name)
