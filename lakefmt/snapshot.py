"""Rows of one version, by position: which fragment a row is in, and its samples with updates applied.

Positions count live rows. A position becomes (fragment, row offset) by a search over cumulative counts; where rows of a
fragment were deleted, through the list of offsets that remain.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from lakefmt.cells import Array, Cells, Dense, Encoded, Ragged, Rows, unequal
from lakefmt.errors import Conflict, Corrupt, NoSuchTensor, nearest
from lakefmt.fragment.assemble import missing_cells, place
from lakefmt.fragment.columns import Shape
from lakefmt.fragment.meta import INLINE_FOLDER, ColumnFile, Fragment, Slice
from lakefmt.fragment.read import DECODED_NBYTES_MAX, RESIDENT_NBYTES_MAX, FileReader
from lakefmt.fragment.runs import Runs, find_runs
from lakefmt.fragment.spans import Spans
from lakefmt.fragment.stats import FieldStats
from lakefmt.htypes import Kind, TensorDef
from lakefmt.rowspans import row_lengths, row_spans
from lakefmt.storage import Whole
from lakefmt.versioning.leaves import Leaves, Tree
from lakefmt.versioning.records import Version

#: A uniform tensor over more fragments than this is read fragment by fragment, and not taken for one run.
RUNS_FRAGMENTS_MAX = 8192


#: Rows compared at a time.
_COMPARED_ROWS = 4096


class Snapshot:
    """A ``RowSource`` over one version. Immutable, safe among threads, picklable."""

    def __init__(self, reader: FileReader, version: Version, url: str, leaves: Leaves | None = None) -> None:
        self.reader = reader
        self.version = version
        self.url = url
        self.definitions: Mapping[str, TensorDef] = {t.name: t for t in version.state.tensors}
        self.leaves = leaves or Leaves(reader.store)
        self.fragments = Tree(version.state, self.leaves)
        self._rows = version.state.rows
        if version.inline:
            reader.lend(version, version.inline)
        self._reset()

    # what follows is known when rows are first asked for: opening a version reads none of its leaves

    @cached_property
    def _starts(self) -> Rows:
        return np.concatenate(([0], np.cumsum(self.fragments.live)))

    @cached_property
    def _starts_list(self) -> list[int]:
        return self._starts.tolist()  # type: ignore[no-any-return]

    @cached_property
    def _physical(self) -> Rows:
        return np.concatenate(([0], np.cumsum(self.fragments.rows)))

    @cached_property
    def _has_deletes(self) -> bool:
        return int(self._physical[-1]) != self._rows

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._runs: dict[str, Runs | None] = {}
        self._remaining: dict[str, Rows] = {}
        self._uniform: dict[str, tuple[Shape, str] | None] = {}
        self._blob_files: dict[tuple[str, int], ColumnFile | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"reader": self.reader, "version": self.version, "url": self.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["reader"], state["version"], state["url"])  # type: ignore[misc]

    def __len__(self) -> int:
        return self._rows

    def definition(self, name: str) -> TensorDef:
        """A tensor by name.

        Raises:
            NoSuchTensor: there is none.
        """
        try:
            return self.definitions[name]
        except (KeyError, TypeError):
            raise NoSuchTensor(f"{self.url} has no tensor {name!r}; {nearest(name, self.definitions)}") from None

    def extent(self, first: int, stop: int) -> tuple[int, int]:
        """Positions ``[start, end)`` of the rows of some neighbouring fragments."""
        return int(self._starts[first]), int(self._starts[stop])

    # -- positions -----------------------------------------------------------------------------------------------------

    def locate(self, rows: Rows) -> tuple[Rows, Rows]:
        """Index of the fragment and row offset in it, of each position."""
        if len(self.fragments) == 1:
            index = np.zeros(len(rows), np.int64)
        else:
            index = np.searchsorted(self._starts, rows, side="right") - 1
        offsets = rows - self._starts[index]
        if self._has_deletes:
            for i in np.unique(index).tolist():
                fragment = self.fragments[i]
                if fragment.deleted:
                    here = index == i
                    offsets[here] = self.remaining(fragment)[offsets[here]]
        return index, offsets

    def remaining(self, fragment: Fragment) -> Rows:
        """Offsets of the rows of a fragment that are not deleted, ascending."""
        found = self._remaining.get(fragment.id)
        if found is None:
            keep = np.ones(fragment.rows, bool)
            if fragment.deleted:
                keep[self.offsets(fragment.deleted, fragment)] = False
            found = np.flatnonzero(keep)
            if len(found) != fragment.live:
                raise Corrupt(f"{self.url}: the deletions of fragment {fragment.id} do not add up; restore {fragment.deleted}")
            self._remaining[fragment.id] = found
        return found

    def offsets(self, part: Slice, fragment: Fragment) -> Rows:
        """Row offsets listed for a fragment in a deletion or overlay file."""
        offsets = self.reader.offsets(part.file)[part.start : part.start + part.count]
        if len(offsets) != part.count or (part.count and (offsets.min() < 0 or offsets.max() >= fragment.rows)):
            raise Corrupt(f"{self.url}/{part.file.key}: its row offsets do not fit fragment {fragment.id}; restore the file")
        return offsets

    def row_ids(self, rows: Rows) -> Rows:
        """Stable row ids of these positions."""
        if not len(rows):
            return np.empty(0, np.int64)
        index, offsets = self.locate(np.asarray(rows, np.int64))
        ids = self.fragments.first_ids[index] + offsets
        for i in np.unique(index[self.fragments.listed[index]]).tolist():
            here = index == i
            ids[here] = self.ids_of(self.fragments[i])[offsets[here]]
        return ids

    def ids_of(self, fragment: Fragment) -> Rows:
        """Row ids of all rows of a fragment, deleted ones included."""
        if fragment.ids is None:
            return np.arange(fragment.first_id, fragment.first_id + fragment.rows)
        ids = self.reader.offsets(fragment.ids.file)[fragment.ids.start : fragment.ids.start + fragment.ids.count]
        if len(ids) != fragment.rows:
            raise Corrupt(f"{self.url}/{fragment.ids.file.key}: {len(ids)} row ids for {fragment.rows} rows; restore the file")
        return ids

    def find_ids(self, ids: Rows) -> tuple[Rows, Rows]:
        """Index of the fragment (-1: none has it) and row offset of each row id, deleted rows included."""
        ids = np.asarray(ids, np.int64)
        index, offsets = np.full(len(ids), -1, np.int64), np.zeros(len(ids), np.int64)
        tree = self.fragments
        runs = np.flatnonzero(~tree.listed)
        if len(runs):
            firsts = tree.first_ids[runs]
            order = np.argsort(firsts, kind="stable")
            at = np.searchsorted(firsts, ids, side="right", sorter=order) - 1
            candidate = runs[order[np.maximum(at, 0)]]
            inside = (at >= 0) & (ids - tree.first_ids[candidate] < tree.rows[candidate])
            index[inside] = candidate[inside]
            offsets[inside] = ids[inside] - tree.first_ids[candidate[inside]]
        if bool((index < 0).any()) and len(runs) < len(tree):
            known, places, insides = self._listed_ids
            at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            found = (index < 0) & (known[at] == ids)
            index[found], offsets[found] = places[at[found]], insides[at[found]]
        return index, offsets

    @cached_property
    def _listed_ids(self) -> tuple[Rows, Rows, Rows]:
        """Row ids of the fragments that list them, ascending, with fragment and offset of each."""
        some = np.flatnonzero(self.fragments.listed).tolist()
        lists = [self.ids_of(self.fragments[i]) for i in some]
        ids = np.concatenate(lists)
        places = np.repeat(np.array(some, np.int64), [len(x) for x in lists])
        insides = np.concatenate([np.arange(len(x)) for x in lists])
        order = np.argsort(ids, kind="stable")
        return ids[order], places[order], insides[order]

    def present(self, ids: Rows) -> Rows:
        """Positions of row ids; -1 for a row that is not there, or not any more."""
        index, offsets = self.find_ids(ids)
        out = np.full(len(ids), -1, np.int64)
        plain = (index >= 0) & (self.fragments.live[index] == self.fragments.rows[index]) if len(self.fragments) else index >= 0
        out[plain] = self._starts[index[plain]] + offsets[plain]
        for i in np.unique(index[(index >= 0) & ~plain]).tolist():
            here = np.flatnonzero(index == i)
            remaining = self.remaining(self.fragments[i])
            at = np.searchsorted(remaining, offsets[here])
            if not len(remaining):
                continue
            found = (at < len(remaining)) & (remaining[np.minimum(at, len(remaining) - 1)] == offsets[here])
            out[here[found]] = self._starts[i] + at[found]
        return out

    def positions(self, ids: Rows) -> Rows:
        """Positions of row ids.

        Raises:
            Conflict: a row is there no more.
        """
        out = self.present(ids)
        if len(out) and int(out.min()) < 0:
            raise Conflict(
                f"{self.url}: {int((out < 0).sum())} of the rows were deleted by another writer meanwhile; redo without them"
            )
        return out

    def by_fragment(self, rows: Rows) -> Iterator[tuple[Fragment, Rows, Rows]]:
        """Each fragment concerned, where its rows go in the answer, and their offsets."""
        index, offsets = self.locate(rows)
        if len(self.fragments) == 1 or (len(index) and bool((index == index[0]).all())):
            if len(rows):
                yield self.fragments[int(index[0])], np.arange(len(rows)), offsets
            return
        order = np.argsort(index, kind="stable")
        cuts = np.flatnonzero(np.diff(index[order])) + 1
        for at in np.split(order, cuts):
            if len(at):
                yield self.fragments[int(index[at[0]])], at, offsets[at]

    # -- samples -------------------------------------------------------------------------------------------------------

    def gather(self, name: str, rows: Rows, out: Array | None = None) -> Cells:
        """Samples of a tensor at some positions; see ``RowSource.gather``."""
        self._after_fork()
        definition = self.definition(name)
        rows = np.asarray(rows, np.int64)
        uniform = self.uniform(name)
        if uniform is not None:
            shape, dtype = uniform
            if out is None:
                out = np.empty((len(rows), *shape), dtype)
            if self._gather_uniform(name, rows, out):
                return Dense(out)
        if len(rows) == 1:
            return self._one(definition, int(rows[0]), out)
        parts = [(at, self._fragment_cells(definition, f, o)) for f, at, o in self.by_fragment(rows)]
        if len(parts) == 1:
            cells = parts[0][1]
        else:
            cells = place(definition, len(rows), parts) if parts else missing_cells(definition, 0)
        if uniform is not None and out is not None:
            if len(rows):
                assert isinstance(cells, Dense)
                out[...] = cells.values
            return Dense(out)
        return cells

    def _one(self, definition: TensorDef, row: int, out: Array | None) -> Cells:
        """A single sample: the same steps without the vectors."""
        i = bisect_right(self._starts_list, row) - 1
        fragment = self.fragments[i]
        offset = row - self._starts_list[i]
        if fragment.deleted:
            offset = int(self.remaining(fragment)[offset])
        file = self._plain_blobs(definition, fragment)
        if file is not None:
            value = self.reader.blob(file, offset)
            return Encoded([value], definition.compression or "")
        cells = self._fragment_cells(definition, fragment, np.array([offset]))
        if out is not None and isinstance(cells, Dense):
            out[...] = cells.values
            return Dense(out)
        return cells

    def _plain_blobs(self, definition: TensorDef, fragment: Fragment) -> ColumnFile | None:
        """The file of an encoded tensor that covers a whole fragment and has no updates."""
        key = (fragment.id, definition.id)
        if key not in self._blob_files:
            found = fragment.field(definition.id) if definition.kind is Kind.ENCODED else None
            plain = found is not None and found[1].rows == fragment.rows and not fragment.overlays_of(definition.id)
            self._blob_files[key] = found[0] if found is not None and plain else None
        return self._blob_files[key]

    def _fragment_cells(self, definition: TensorDef, fragment: Fragment, offsets: Rows) -> Cells:
        cells = self.reader.cells(definition, fragment.files, offsets)
        overlays = fragment.overlays_of(definition.id)
        if not overlays:
            return cells
        parts: list[tuple[Rows, Cells]] = [(np.arange(len(offsets)), cells)]
        for overlay in overlays:
            changed = self.offsets(overlay.at, fragment)
            at = np.searchsorted(changed, offsets)
            hit = np.flatnonzero((at < len(changed)) & (changed[np.minimum(at, len(changed) - 1)] == offsets))
            if len(hit):
                parts.append((hit, self.reader.cells(definition, overlay.files, at[hit] + overlay.at.start)))
        return place(definition, len(offsets), parts)

    def shapes(self, name: str, rows: Rows) -> list[Shape | None]:
        """Shapes of samples, without reading or decoding them; ``None`` for the missing."""
        definition = self.definition(name)
        out: list[Shape | None] = [None] * len(rows)
        for fragment, at, offsets in self.by_fragment(np.asarray(rows, np.int64)):
            for i, shape in zip(at.tolist(), self._fragment_shapes(definition, fragment, offsets), strict=True):
                out[i] = shape
        return out

    def _fragment_shapes(self, definition: TensorDef, fragment: Fragment, offsets: Rows) -> list[Shape | None]:
        if definition.kind in (Kind.TEXT, Kind.JSON):
            return [()] * len(offsets)
        out: list[Shape | None] = [None] * len(offsets)
        found = fragment.field(definition.id)
        if found is not None:
            inside = np.flatnonzero(offsets < found[1].rows)
            for i, shape in zip(inside.tolist(), self.reader.shapes(fragment.files, found[1], offsets[inside]), strict=True):
                out[i] = shape
        for overlay in fragment.overlays_of(definition.id):
            changed = {int(o): i for i, o in enumerate(self.offsets(overlay.at, fragment))}
            entry = next(e for f in overlay.files for e in f.fields if e.id == definition.id)
            hits = [i for i, o in enumerate(offsets.tolist()) if o in changed]
            new = np.array([changed[int(offsets[i])] + overlay.at.start for i in hits], np.int64)
            for i, shape in zip(hits, self.reader.shapes(overlay.files, entry, new), strict=True):
                out[i] = shape
        return out

    def lengths(self, name: str, rows: Rows) -> Rows:
        """Elements of one-dimensional samples, int64 (n,), without reading them; -1 for the missing.

        Raises:
            ShapeError: a sample has another number of dimensions.
        """
        self._after_fork()
        return row_lengths(self, name, np.asarray(rows, np.int64))

    def spans(self, name: str, rows: Rows) -> Spans | None:
        """Where the elements of one-dimensional samples lie; ``None`` where they have no place to be copied from, as they come over
        a network or were stored in a narrower dtype.

        Raises:
            ShapeError: a sample has another number of dimensions.
        """
        self._after_fork()
        return row_spans(self, name, np.asarray(rows, np.int64))

    # -- uniform tensors -----------------------------------------------------------------------------------------------

    def _gather_uniform(self, name: str, rows: Rows, out: Array) -> bool:
        """Fill ``out`` in one sweep; False when the tensor does not lie in equal runs, or few rows were asked for so far."""
        if len(self.fragments) > RUNS_FRAGMENTS_MAX:
            return False
        if name not in self._runs:
            self._runs[name] = find_runs(self.reader, self.definitions[name], self.fragments, resident=name in self._residents)
        runs = self._runs[name]
        if runs is None:
            return False
        if self._has_deletes:
            index, offsets = self.locate(rows)
            rows = self._physical[index] + offsets
        return runs.gather(rows, out)

    @cached_property
    def _residents(self) -> frozenset[str]:
        """Uniform tensors that may be kept in memory as a whole: the smallest, as many as fit together."""
        uniform = [(self._stats(n), n) for n in self.definitions if self.uniform(n) is not None]
        sizes = sorted((stats.nbytes, n) for stats, n in uniform if stats is not None)
        sums = np.cumsum([nbytes for nbytes, _ in sizes])
        return frozenset(name for (_, name), total in zip(sizes, sums, strict=True) if total <= RESIDENT_NBYTES_MAX)

    # -- facts ---------------------------------------------------------------------------------------------------------

    def _stats(self, name: str) -> FieldStats | None:
        return self.fragments.stats(self.definition(name).id)

    def uniform(self, name: str) -> tuple[Shape, str] | None:
        """``(shape, dtype)`` when every sample is there, numeric and of one shape."""
        if name not in self._uniform:
            self._uniform[name] = self._find_uniform(name)
        return self._uniform[name]

    def _find_uniform(self, name: str) -> tuple[Shape, str] | None:
        definition = self.definition(name)
        if definition.kind is not Kind.NUMERIC or definition.dtype is None:
            return None
        stats = self._stats(name)
        shape = definition.fixed_shape if stats is None else stats.shape
        return None if shape is None else (shape, definition.dtype)

    def ndims(self, name: str) -> tuple[int, int] | None:
        """Least and greatest number of dimensions of the samples present; ``None`` when there are none."""
        stats = self._stats(name)
        if stats is None or stats.ndim_min is None or stats.ndim_max is None:
            return None
        return stats.ndim_min, stats.ndim_max

    def shape_bounds(self, name: str) -> tuple[Shape, Shape] | None:
        """Least and greatest extent of each dimension, when all samples have as many dimensions."""
        stats = self._stats(name)
        if stats is None or stats.shape_min is None or stats.shape_max is None:
            return None
        return stats.shape_min, stats.shape_max

    def any_missing(self, name: str) -> bool:
        """Whether some sample of the tensor may be missing."""
        stats = self._stats(name)
        return stats is not None and stats.gaps

    def tensor_rows(self, name: str) -> int:
        """Length of a tensor: rows up to its last one written (a short tensor has fewer than the dataset)."""
        start = self._rows
        for i in range(len(self.fragments) - 1, -1, -1):  # from the end: most often the last fragment tells
            fragment = self.fragments[i]
            start -= fragment.live
            found = fragment.field(self.definition(name).id)
            ends = [found[1].rows] if found and found[1].rows else []
            ends += [int(self.offsets(o.at, fragment).max()) + 1 for o in fragment.overlays_of(self.definition(name).id)]
            if ends:
                end = max(ends)
                inside = end if not fragment.deleted else int(np.searchsorted(self.remaining(fragment), end))
                if inside:  # else all rows that had a sample are deleted
                    return int(start + inside)
        return 0

    def unit_rows(self) -> int:
        """Rows of a typical fragment where light columns, which are decoded by the file, do not all stay decoded; else 1."""
        apart = self.fragments.light_nbytes <= DECODED_NBYTES_MAX or not len(self.fragments)
        return 1 if apart else max(1, int(np.median(self.fragments.rows)))

    def mean_nbytes(self, name: str) -> float:
        """Mean stored bytes of a sample."""
        stats = self._stats(name)
        return stats.nbytes / stats.rows if stats is not None and stats.rows else 0.0

    def is_local(self, names: Collection[str] | None = None, rows: Rows | None = None) -> bool:
        """Whether any row can be read as cheaply as the next: mapped files, and light columns that fit the cache.

        Args:
            names, rows: of these tensors and positions only (by default of all).
        """
        store = self.reader.store
        near = store.is_local or all(store.holds(f.key) for f in self.objects(names, rows))
        return near and self.fragments.light_nbytes <= DECODED_NBYTES_MAX

    def objects(self, names: Collection[str] | None = None, rows: Rows | None = None) -> Iterator[Whole]:
        """Every object that reading some tensors at some positions takes (by default all): leaves first, then files, each once."""
        for leaf in self.version.state.leaves:
            yield Whole(leaf.key, leaf.size, leaf.xxh64)
        ids = None if names is None else {self.definition(n).id for n in names}
        numbers = range(len(self.fragments)) if rows is None else self._fragments_of(rows)
        seen: set[str] = set()
        for i in numbers:
            fragment = self.fragments[i]
            for file in fragment.every_file() if ids is None else fragment.files_of(ids):
                if file.key not in seen and not file.key.startswith(INLINE_FOLDER):
                    seen.add(file.key)
                    yield Whole(file.key, file.size, file.xxh64)

    def nbytes_read(self) -> int:
        """Bytes asked of the store so far, by all who share the reader."""
        return self.reader.nbytes_read

    def _fragments_of(self, rows: Rows) -> list[int]:
        """Which fragments positions are in, ascending; no file is read for it."""
        numbers: list[int] = np.unique(np.searchsorted(self._starts, np.asarray(rows, np.int64), side="right") - 1).tolist()
        return numbers

    def identity(self) -> dict[str, Any]:
        """What names exactly these rows."""
        return {"dataset": self.version.head.dataset, "version": self.version.id, "xxh64": self.version.xxh64}

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self._reset()
            self.reader.after_fork()


def differing(old: Snapshot, new: Snapshot, field_id: int, ids: Rows) -> Rows:
    """Those of some rows, which both have, whose sample of a tensor is not the same in both. Labels are compared by name."""
    out: list[Rows] = [np.empty(0, np.int64)]
    definitions = [next((t for t in s.version.state.tensors if t.id == field_id), None) for s in (old, new)]
    known = definitions[1] or definitions[0]
    if known is None:
        return out[0]
    for start in range(0, len(ids), _COMPARED_ROWS):
        some = ids[start : start + _COMPARED_ROWS]
        cells = [
            missing_cells(known, len(some)) if d is None else s.gather(d.name, s.present(some))
            for s, d in zip((old, new), definitions, strict=True)
        ]
        if definitions[0] is not None and definitions[1] is not None:
            cells[0] = renumbered(cells[0], definitions[0], definitions[1])
        out.append(some[unequal(*cells)])
    return np.concatenate(out)


def renumbered(cells: Cells, theirs: TensorDef, mine: TensorDef) -> Cells:
    """Labels of one definition as another numbers their names; a name that it lacks gets a number of its own."""
    if not theirs.class_names or theirs.class_names == (mine.class_names or ())[: len(theirs.class_names)]:
        return cells
    names = list(dict.fromkeys([*(mine.class_names or ()), *theirs.class_names]))
    places = {n: i for i, n in enumerate(names)}
    ids = np.array([places[n] for n in theirs.class_names], np.int64)
    if isinstance(cells, Dense):
        return Dense(_looked_up(ids, cells.values))
    assert isinstance(cells, Ragged)
    return Ragged([None if v is None else _looked_up(ids, v) for v in cells.values])


def _looked_up(ids: Rows, values: Array) -> Array:
    """Numbers without a name stay as they are."""
    known = values < len(ids)
    return np.where(known, ids[np.where(known, values, 0)], values)
