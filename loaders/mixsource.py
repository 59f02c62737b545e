"""Several sources of rows as one: what ``mix`` reads.

Rows of part ``c`` follow those of the parts before it. All parts have the same tensors, in any order; a tensor's
samples have the widest dtype of all parts, and class labels are numbered as one list of names has them, the first
part's first. Which part's rows a batch has is sorted out once a gather, and parts on stores far away are asked at the
same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np

from lakefmt.cells import Array, Cells, Dense, Ragged, Rows
from lakefmt.errors import DtypeError, InvalidInput, NoSuchTensor, nearest
from lakefmt.fragment.assemble import missing_cells, place
from lakefmt.fragment.columns import Shape
from lakefmt.htypes import Kind, TensorDef, define_tensor, holds
from lakefmt.rows import RowSource
from lakefmt.snapshot import renumbered

#: Parts asked at the same time.
THREADS_MAX = 8


class MixSource:
    """A ``RowSource`` of the rows of several.

    Args:
        parts: at least one, each with rows.
        labels: what each part is called in messages.
        tag: name of a tensor to add, which says by number of which part a row is.
        class_names: names of the parts for ``tag``, where they have any.
    """

    def __init__(
        self, parts: Sequence[RowSource], labels: Sequence[str], tag: str | None = None, class_names: Sequence[str] | None = None
    ) -> None:
        self.parts = tuple(parts)
        self.labels = tuple(labels)
        self.tag = tag
        self.starts: Rows = np.concatenate(([0], np.cumsum([len(p) for p in parts]))).astype(np.int64)
        self.definitions: dict[str, TensorDef] = _merged(self.parts, self.labels)
        if tag is not None:
            if tag in self.definitions:
                raise InvalidInput(f"mix(source={tag!r}): the parts have a tensor of that name; choose another")
            htype = "generic" if class_names is None else "class_label"
            self.definitions[tag] = define_tensor(2**31 - 1, tag, htype=htype, dtype="int64", shape=(), class_names=class_names)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def split(self, rows: Rows) -> list[tuple[int, Rows, Rows]]:
        """The parts that rows are of: number, places among ``rows``, and rows of the part."""
        part = np.searchsorted(self.starts, rows, side="right") - 1
        found = np.unique(part).tolist()
        if len(found) == 1:
            return [(found[0], np.arange(len(rows)), rows - self.starts[found[0]])]
        order = np.argsort(part.astype(np.uint16) if len(self.parts) < 1 << 16 else part, kind="stable")
        cuts = np.flatnonzero(np.diff(part[order])) + 1
        return [(c, at, rows[at] - self.starts[c]) for c, at in zip(found, np.split(order, cuts), strict=True)]

    def gather(self, name: str, rows: Rows, out: Array | None = None) -> Cells:
        """See ``RowSource.gather``."""
        definition = self._definition(name)
        uniform = self.uniform(name)
        if uniform is not None and out is None:
            out = np.empty((len(rows), *uniform[0]), uniform[1])
        if not len(rows):
            return missing_cells(definition, 0) if out is None else Dense(out)
        if name == self.tag:
            assert out is not None
            out[...] = np.searchsorted(self.starts, rows, side="right") - 1
            return Dense(out)
        split = self.split(rows)
        if len(split) == 1 and out is not None and self._same(split[0][0], name):
            return self.parts[split[0][0]].gather(name, split[0][2], out)
        cells = self._gathered(name, split)
        if out is None:
            return place(definition, len(rows), [(at, c) for (_, at, _), c in zip(split, cells, strict=True)])
        for (_, at, _), some in zip(split, cells, strict=True):
            assert isinstance(some, Dense)  # all parts promised one shape
            out[at] = some.values
        return Dense(out)

    def _gathered(self, name: str, split: list[tuple[int, Rows, Rows]]) -> list[Cells]:
        """Samples from each part, as the tensor has them here."""

        def one(asked: tuple[int, Rows, Rows]) -> Cells:
            part, _, rows = asked
            return self._fitted(part, name, self.parts[part].gather(name, rows))

        far = sum(not self.parts[part].is_local() for part, _, _ in split)
        if far < 2:
            return [one(asked) for asked in split]
        with ThreadPoolExecutor(min(THREADS_MAX, len(split)), thread_name_prefix="lakefmt-mix") as pool:
            return list(pool.map(one, split))

    def _same(self, part: int, name: str) -> bool:
        """Whether a part's samples need no change."""
        theirs, ours = self.parts[part].definitions[name], self.definitions[name]
        return theirs.dtype == ours.dtype and theirs.class_names == ours.class_names

    def _fitted(self, part: int, name: str, cells: Cells) -> Cells:
        theirs, ours = self.parts[part].definitions[name], self.definitions[name]
        if ours.kind is not Kind.NUMERIC or self._same(part, name):
            return cells
        cells = renumbered(cells, theirs, ours) if ours.is_label else cells
        if isinstance(cells, Dense):
            return Dense(cells.values.astype(ours.dtype, copy=False))
        assert isinstance(cells, Ragged)
        return Ragged([None if v is None else v.astype(ours.dtype, copy=False) for v in cells.values])

    def _definition(self, name: str) -> TensorDef:
        if name not in self.definitions:
            raise NoSuchTensor(f"this mix has no tensor {name!r}; {nearest(name, self.definitions)}")
        return self.definitions[name]

    # -- facts ---------------------------------------------------------------------------------------------------------

    def uniform(self, name: str) -> tuple[Shape, str] | None:
        """See ``RowSource.uniform``."""
        if name == self.tag:
            return (), str(self.definitions[name].dtype)
        found = {None if u is None else u[0] for u in (p.uniform(name) for p in self.parts)}
        shape = found.pop()
        return None if found or shape is None else (shape, str(self._definition(name).dtype))

    def shapes(self, name: str, rows: Rows) -> list[Shape | None]:
        """Shapes of samples; ``None`` for the missing."""
        if name == self.tag:
            return [()] * len(rows)
        out: list[Shape | None] = [None] * len(rows)
        for part, at, theirs in self.split(rows) if len(rows) else ():
            source: Any = self.parts[part]
            for i, shape in zip(at.tolist(), source.shapes(name, theirs), strict=True):
                out[i] = shape
        return out

    def shape_bounds(self, name: str) -> tuple[Shape, Shape] | None:
        """Least and greatest extent of each dimension, when all parts know it and have as many dimensions."""
        if name == self.tag:
            return (), ()
        bounds = [_bounds(p, name) for p in self.parts]
        known = [b for b in bounds if b is not None]
        if len(known) < len(bounds) or len({len(low) for low, _ in known}) > 1:
            return None
        return tuple(map(min, zip(*(b[0] for b in known), strict=True))), tuple(map(max, zip(*(b[1] for b in known), strict=True)))

    def row_ids(self, rows: Rows) -> Rows:
        """Row ids as the parts have them: two parts may have the same."""
        out = np.empty(len(rows), np.int64)
        for part, at, theirs in self.split(rows) if len(rows) else ():
            out[at] = self.parts[part].row_ids(theirs)
        return out

    def unit_rows(self) -> int:
        """See ``RowSource.unit_rows``."""
        return max(p.unit_rows() for p in self.parts)

    def mean_nbytes(self, name: str) -> float:
        """See ``RowSource.mean_nbytes``."""
        if name == self.tag:
            return 8.0
        return sum(p.mean_nbytes(name) * len(p) for p in self.parts) / len(self)

    def is_local(self) -> bool:
        """See ``RowSource.is_local``."""
        return all(p.is_local() for p in self.parts)

    def nbytes_read(self) -> int:
        """See ``RowSource.nbytes_read``; parts of one handle are counted once."""
        handles = {id(getattr(p, "base", p)): p for p in self.parts}
        return sum(p.nbytes_read() for p in handles.values())

    def identity(self) -> dict[str, Any]:
        """See ``RowSource.identity``."""
        return {"mix": [p.identity() for p in self.parts], "source": self.tag}


def _bounds(source: Any, name: str) -> tuple[Shape, Shape] | None:
    if hasattr(source, "shape_bounds"):
        found: tuple[Shape, Shape] | None = source.shape_bounds(name)
        return found
    names = getattr(source, "names", {})
    return _bounds(source.base, names[name]) if name in names else None


# --- what the parts' tensors are together


def _merged(parts: Sequence[RowSource], labels: Sequence[str]) -> dict[str, TensorDef]:
    first = parts[0].definitions
    for part, label in zip(parts, labels, strict=True):
        for one, other, what in ((first, part.definitions, label), (part.definitions, first, labels[0])):
            lacking = [n for n in one if n not in other]
            if lacking:
                raise InvalidInput(
                    f"mix: {what} has no tensor {lacking[0]!r}, which {labels[0] if what == label else label} has"
                    f"{f' (nor {len(lacking) - 1} others)' if len(lacking) > 1 else ''}; "
                    f"mix views of what they have in common, such as ds[{[n for n in first if n in part.definitions]!r}]"
                )
    return {n: _together(n, [p.definitions[n] for p in parts], labels) for n in first}


def _together(name: str, definitions: list[TensorDef], labels: Sequence[str]) -> TensorDef:
    first = definitions[0]
    for theirs, label in zip(definitions, labels, strict=True):
        for what in ("htype", "compression"):
            if getattr(theirs, what) != getattr(first, what):
                raise InvalidInput(
                    f"mix: tensor {name!r} has {what} {getattr(first, what)!r} in {labels[0]} and "
                    f"{getattr(theirs, what)!r} in {label}; store it alike, or leave it out of the mix"
                )
    return msgspec.structs.replace(
        first,
        dtype=_dtype(name, definitions, labels),
        shape=_shape([d.shape for d in definitions]),
        class_names=_class_names(name, definitions, labels),
        info=first.info if all(d.info == first.info for d in definitions) else {},
    )


def _dtype(name: str, definitions: list[TensorDef], labels: Sequence[str]) -> str | None:
    dtypes = dict.fromkeys(d.dtype for d in definitions if d.dtype is not None)
    if definitions[0].kind is not Kind.NUMERIC or len(dtypes) < 2:
        return next(iter(dtypes), None)
    for wide in dtypes:
        if all(holds(wide, narrow) for narrow in dtypes):
            return wide
    where = ", ".join(f"{d.dtype} in {label}" for d, label in zip(definitions, labels, strict=True))
    raise DtypeError(
        f"mix: tensor {name!r} is of {where}, and none of these dtypes holds all values of the others; store it in one "
        "(alter_tensor(name, dtype=…) widens), or leave it out of the mix"
    )


def _shape(shapes: list[tuple[int | None, ...] | None]) -> tuple[int | None, ...] | None:
    known = [s for s in shapes if s is not None]
    if len(known) < len(shapes) or len({len(s) for s in known}) > 1:
        return None
    return tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*known, strict=True))


def _class_names(name: str, definitions: list[TensorDef], labels: Sequence[str]) -> tuple[str, ...] | None:
    """One list of names; ``None`` where ids are plain numbers."""
    if not definitions[0].is_label:
        return None
    named = [label for d, label in zip(definitions, labels, strict=True) if d.class_names]
    bare = [label for d, label in zip(definitions, labels, strict=True) if d.class_names is None]
    if named and bare:
        raise InvalidInput(
            f"mix: class ids of tensor {name!r} have names in {named[0]} and none in {bare[0]}, so that nobody knows which mean "
            "the same; add_class_names(…) gives them"
        )
    if bare:
        return None
    names = tuple(dict.fromkeys(n for d in definitions for n in d.class_names or ()))
    dtype = _dtype(name, definitions, labels)
    if dtype is not None and len(names) > np.iinfo(dtype).max + 1:
        raise DtypeError(f"mix: tensor {name!r} has {len(names)} classes in all parts together, more than {dtype} can number")
    return names


def check_parts(parts: Mapping[str, RowSource]) -> None:
    """Refuse parts without rows."""
    for label, part in parts.items():
        if not len(part):
            raise InvalidInput(f"mix: {label} has no rows; leave it out")
