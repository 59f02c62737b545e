"""Bringing the work of one version into another: merge, cherry-pick, revert.

All three are the same: a difference between two versions (``base`` to ``source``) is replayed on top of a third (``target``), row
by row id. What a merge replays is the difference from the common ancestor to the other branch; a cherry-pick, that of one version
from the one before it; a revert, the same the other way round. The changes go through the log like those of any transaction.

Data moves only for what changed: fragments that only the source has are referred to as they are, unless class ids differ.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import msgspec
import numpy as np

from lakefmt.cells import Rows
from lakefmt.compact import gathered, id_list
from lakefmt.errors import MergeConflict
from lakefmt.fragment.columns import Column
from lakefmt.fragment.meta import Fragment
from lakefmt.fragment.write import write_files
from lakefmt.htypes import TensorDef
from lakefmt.merge_schema import SchemaMerge
from lakefmt.outgoing import deletion_slices, samples_at
from lakefmt.rebase import known, remapped
from lakefmt.snapshot import Snapshot, differing
from lakefmt.storage import Store
from lakefmt.versioning.changes import Append, Change, ClearColumn, Delete, fold
from lakefmt.versioning.diff import NO_ROWS, ROWS, Changes, TensorDiff

replace = msgspec.structs.replace
RESOLUTIONS = (None, "ours", "theirs")
_NONE: Rows = np.empty(0, np.int64)


@dataclass(slots=True)
class Plan:
    """Which rows a replay touches, by row id.

    Attributes:
        come, go: rows to be there, and not to be there any more.
        cells: per field id, rows (that stay) whose sample changes.
        conflicts: per field id, rows whose sample both sides changed, or one side changed and the other deleted.
    """

    come: Rows
    go: Rows
    cells: dict[int, Rows] = field(default_factory=dict)
    conflicts: dict[int, Rows] = field(default_factory=dict)


def plan_rows(
    theirs: Changes, ours: Changes, resolution: str | None, fields: Iterable[int], look: Look, contested: Mapping[int, Rows]
) -> Plan:  # fmt: skip
    """What a replay does to rows, and where both sides did something.

    Args:
        theirs: the difference to be replayed.
        ours: what the target did since the same base.
        resolution: whose sample counts where both changed it; ``None``: nobody's (the conflicts are for an error).
        fields: tensors that are in the result.
        look: compares samples, so that writing what was there already, or the same on both sides, is no conflict.
        contested: per field id, rows whose sample the base cannot tell: where the sides differ, both have changed it.
    """
    rows, own = theirs.get(ROWS, NO_ROWS), ours.get(ROWS, NO_ROWS)
    plan = Plan(come=rows.added, go=rows.deleted)
    kept, revived = [_NONE], [_NONE]
    twice = np.intersect1d(rows.added, own.added)  # rows that both took over from elsewhere
    for field_id in fields:
        unsure = np.union1d(twice, contested.get(field_id, _NONE))
        mine = np.setdiff1d(_cells(ours.get(field_id), own), unsure)
        other = np.setdiff1d(_cells(theirs.get(field_id), rows), unsure)
        both = look.disagreeing(field_id, np.intersect1d(mine, other))
        lost = look.changed(field_id, np.intersect1d(other, own.deleted), there=True)
        spared = look.changed(field_id, np.intersect1d(mine, rows.deleted), there=False)
        clashing, lacking = look.compared(field_id, unsure)
        disputed = look.on_one_side(contested.get(field_id, _NONE))
        conflicts = np.unique(np.concatenate([both, lost, spared, clashing, disputed]))
        if len(conflicts):
            plan.conflicts[field_id] = conflicts
        if resolution == "ours":
            other = np.setdiff1d(other, conflicts)
            kept += [spared, disputed]
            clashing = _NONE
        else:
            revived += [lost, disputed]
        other = np.setdiff1d(other, np.setdiff1d(own.deleted, np.concatenate(revived)))
        shared = np.intersect1d(mine, other)  # what was touched there and is as it was does not undo what changed here
        other = np.setdiff1d(other, np.setdiff1d(shared, look.changed(field_id, shared, there=True)))
        cells = np.unique(np.concatenate([other, lacking, clashing]))
        if len(cells):
            plan.cells[field_id] = cells
    stay, back = (np.unique(np.concatenate(parts)) for parts in (kept, revived))
    plan.go = np.setdiff1d(np.union1d(plan.go, look.only_here(back)), stay)
    plan.come = np.setdiff1d(np.union1d(plan.come, np.setdiff1d(back, plan.go)), stay)
    return plan


class Look(Protocol):
    """Compares samples of the sides of a replay."""

    def disagreeing(self, field_id: int, ids: Rows) -> Rows:
        """Rows that both sides changed: those whose samples are not the same now, nor is one what it was before."""
        ...

    def changed(self, field_id: int, ids: Rows, *, there: bool) -> Rows:
        """Rows that were touched there (or here): those whose sample is another than before."""
        ...

    def compared(self, field_id: int, ids: Rows) -> tuple[Rows, Rows]:
        """Rows that both sides have, but not what they began from: those with another sample, those that have one only there."""
        ...

    def on_one_side(self, ids: Rows) -> Rows:
        """Rows that one of the sides has, and the other has not."""
        ...

    def only_here(self, ids: Rows) -> Rows:
        """Rows that the target has and the source has not."""
        ...


def _cells(changes: TensorDiff | None, rows: TensorDiff) -> Rows:
    """Rows that are there before and after, and have another sample."""
    if changes is None:
        return _NONE
    touched = np.unique(np.concatenate([changes.added, changes.updated, changes.deleted]))
    return np.setdiff1d(np.setdiff1d(touched, rows.added), rows.deleted)


@dataclass(frozen=True)
class Replay:
    """A difference, and what it is replayed on.

    Attributes:
        store: where new files go.
        base, source: the difference is from the one to the other.
        target: what it is replayed on.
        theirs, ours: rows changed from base to source, and from base to target.
        resolution: whose sample counts where both changed it: ``ours`` (the target's), ``theirs``, or ``None``: an error.
        contested: per field id, rows whose sample the base cannot tell.
    """

    store: Store
    base: Snapshot
    source: Snapshot
    target: Snapshot
    theirs: Changes
    ours: Changes
    resolution: str | None
    contested: Mapping[int, Rows] = field(default_factory=dict)

    def changes(self) -> list[Change]:
        """The changes that bring the difference to the target.

        Raises:
            MergeConflict: both sides changed the same thing, and no resolution was given.
        """
        plan, schema = self._plan, self._schema
        conflicts = {self._names[i]: ids for i, ids in plan.conflicts.items() if i in schema.final}
        clashes = schema.complaints if self.resolution is None else schema.clashes
        if clashes or (self.resolution is None and conflicts):
            raise MergeConflict(_report(conflicts, clashes), {n: ids.tolist() for n, ids in conflicts.items()}, clashes)
        return [*schema.changes, *self._row_changes()]

    @cached_property
    def _plan(self) -> Plan:
        return plan_rows(self.theirs, self.ours, self.resolution, self._schema.final, self, self.contested)

    @property
    def conflicts(self) -> Mapping[int, Rows]:
        """Per field id, rows that are in conflict, however that is resolved."""
        return self._plan.conflicts

    def disagreeing(self, field_id: int, ids: Rows) -> Rows:
        """See ``Look``."""
        ids = differing(self.source, self.target, field_id, ids)
        ids = differing(self.base, self.source, field_id, ids)
        return differing(self.base, self.target, field_id, ids)

    def changed(self, field_id: int, ids: Rows, *, there: bool) -> Rows:
        """See ``Look``."""
        return differing(self.base, self.source if there else self.target, field_id, ids)

    def compared(self, field_id: int, ids: Rows) -> tuple[Rows, Rows]:
        """See ``Look``."""
        ids = ids[(self.source.present(ids) >= 0) & (self.target.present(ids) >= 0)]
        ids = differing(self.source, self.target, field_id, ids)
        here, there = (np.isin(ids, _having(side, field_id, ids)) for side in (self.target, self.source))
        return ids[here & there], ids[there & ~here]

    def on_one_side(self, ids: Rows) -> Rows:
        """See ``Look``."""
        single: Rows = ids[(self.source.present(ids) >= 0) != (self.target.present(ids) >= 0)]
        return single

    def only_here(self, ids: Rows) -> Rows:
        """See ``Look``."""
        only: Rows = ids[(self.source.present(ids) < 0) & (self.target.present(ids) >= 0)]
        return only

    @cached_property
    def _schema(self) -> SchemaMerge:
        return SchemaMerge(
            self.base.version.state, self.source.version.state, self.target.version.state, self.resolution,
            lambda i: _written(self.theirs.get(i), self.source, i), lambda i: _written(self.ours.get(i), self.target, i),
        )  # fmt: skip

    @property
    def _names(self) -> dict[int, str]:
        states = (self.base.version.state, self.source.version.state, self.target.version.state)
        return {t.id: t.name for state in states for t in state.tensors}

    @cached_property
    def _sources(self) -> dict[int, TensorDef]:
        """Tensors of the source that are in the result, by field id."""
        return {t.id: t for t in self.source.version.state.tensors if t.id in self._schema.final}

    def _row_changes(self) -> list[Change]:
        plan = self._plan
        index, _ = self.target.find_ids(plan.come)
        strangers, back = plan.come[index < 0], plan.come[index >= 0]
        back = back[self.target.present(back) < 0]
        back = back[self.source.present(back) >= 0]
        out: list[Change] = [*self._leftovers, *self._adopted(strangers), *self._deletions(plan.go, back)]
        for field_id, source in self._sources.items():
            cells = np.union1d(plan.cells.get(field_id, _NONE), back)
            if field_id in self._schema.brought:
                cells = np.union1d(cells, self._unlike(field_id))
            out += self._patches(source, np.setdiff1d(np.setdiff1d(cells, strangers), plan.go))
        return out

    def _unlike(self, field_id: int) -> Rows:
        """Rows of the source whose samples of a tensor the target's files do not hold (a compaction may have left them out)."""
        alike = self._alike(field_id)
        rows = [f for f in self.source.fragments if f.id not in alike]
        return np.concatenate([_NONE, *(self.source.ids_of(f)[self.source.remaining(f)] for f in rows)])

    def _alike(self, field_id: int) -> set[str]:
        """Fragments that hold the same samples of a tensor on both sides."""
        own = {f.id: (f.field(field_id), f.overlays_of(field_id)) for f in self.target.fragments}
        return {f.id for f in self.source.fragments if own.get(f.id) == (f.field(field_id), f.overlays_of(field_id))}

    @cached_property
    def _leftovers(self) -> list[Change]:
        """What the target's files still hold of tensors that it has dropped and gets back. They were written under another
        definition, perhaps, so that they are not taken for samples of the tensor as the source has it.
        """
        out: list[Change] = []
        for field_id in sorted(self._schema.brought):
            alike = self._alike(field_id)
            stale = tuple(f.id for f in self.target.fragments if f.holds(field_id) and f.id not in alike)
            if stale:
                out.append(ClearColumn(stale, field_id))
        return out

    @cached_property
    def _cleared(self) -> Snapshot:
        """The target without what is left over."""
        if not self._leftovers:
            return self.target
        version = self.target.version
        state = fold(version.state, self._leftovers, self.target.leaves)
        return Snapshot(self.target.reader, replace(version, state=state), self.target.url, self.target.leaves)

    def _adopted(self, ids: Rows) -> list[Change]:
        """Rows the target has never had: fragments as they are, where all of their rows are such; else copies of those that are."""
        out: list[Change] = []
        index, _ = self.source.find_ids(ids)
        for i in np.unique(index[index >= 0]).tolist():
            fragment, mine = self.source.fragments[i], ids[index == i]
            positions = self.source.present(mine)
            positions = np.sort(positions[positions >= 0])
            unknown = bool((self.target.find_ids(self.source.ids_of(fragment))[0] < 0).all())
            if len(positions) == fragment.live and unknown and not self._renumbered(fragment):
                out.append(Append(fragment, adopted=True))
            elif len(positions):
                out.append(Append(self._copied(positions), adopted=True))
        return out

    def _renumbered(self, fragment: Fragment) -> bool:
        files = [*fragment.files, *(f for o in fragment.overlays for f in o.files)]
        return any(e.id in self._schema.remaps for f in files for e in f.fields)

    def _copied(self, positions: Rows) -> Fragment:
        ids = self.source.row_ids(positions)
        columns = [(known(self._schema.final[i]), self._column(d, positions)) for i, d in self._sources.items()]
        files = write_files(self.store, columns, len(positions))
        run = np.array_equal(ids, np.arange(ids[0], ids[0] + len(ids)))
        listed = None if run else id_list(self.store, ids)
        return Fragment(id=uuid.uuid4().hex, rows=len(positions), first_id=int(ids[0]), files=files, ids=listed)

    def _column(self, source: TensorDef, positions: Rows) -> Column:
        """The source's samples, in the dtype and with the class ids of the result."""
        column = gathered(self.source, source.name, positions, self._schema.final[source.id])
        return remapped(column, self._schema.remaps.get(source.id))

    def _deletions(self, go: Rows, back: Rows) -> list[Change]:
        """Rows of the target that go, and deleted ones that come back."""
        lists: dict[str, Rows] = {}
        found = [self.target.find_ids(ids) for ids in (go, back)]
        for i in np.unique(np.concatenate([index[index >= 0] for index, _ in found])).tolist():
            fragment = self.target.fragments[i]
            before = self.target.offsets(fragment.deleted, fragment) if fragment.deleted else _NONE
            (gone, lost), (returned, found_again) = found
            after = np.setdiff1d(np.union1d(before, lost[gone == i]), found_again[returned == i])
            if not np.array_equal(after, before):
                lists[fragment.id] = after
        return [Delete(deletion_slices(self.store, lists))] if lists else []

    def _patches(self, source: TensorDef, ids: Rows) -> list[Change]:
        """The source's samples of one tensor for rows that the target has."""
        positions = self.source.present(ids)
        ids, positions = ids[positions >= 0], positions[positions >= 0]
        index, offsets = self._cleared.find_ids(ids)
        there = index >= 0
        if not there.any():
            return []
        column = self._column(source, positions[there])
        final = self._schema.final[source.id]
        return samples_at(self.store, self._cleared, final, index[there], offsets[there], column, fills=False)


def _written(changes: TensorDiff | None, side: Snapshot, field_id: int) -> bool:
    """Whether one side has written samples of a tensor."""
    return changes is not None and bool(len(changes.updated) or len(_having(side, field_id, changes.added)))


def _having(side: Snapshot, field_id: int, ids: Rows) -> Rows:
    """Those of some rows that have a sample of a tensor."""
    name = next((t.name for t in side.version.state.tensors if t.id == field_id), None)
    rows = side.present(ids)
    ids, rows = ids[rows >= 0], rows[rows >= 0]
    if name is None or not len(ids):
        return _NONE
    return ids[[s is not None for s in side.shapes(name, rows)]]


def _report(conflicts: Mapping[str, Rows], clashes: list[str]) -> str:
    parts = [
        f"tensor {n!r}: {len(ids)} row{'s' if len(ids) > 1 else ''} (ids {', '.join(map(str, ids[:8].tolist()))}"
        f"{', …' if len(ids) > 8 else ''})"
        for n, ids in conflicts.items()
    ]  # fmt: skip
    rows = f"both sides changed {'; '.join(parts)}. " if parts else ""
    schema = f"{'; '.join(clashes)}. " if clashes else ""
    return (
        f"{rows}{schema}Nothing was merged: say whose samples count with conflict_resolution='ours' or 'theirs' "
        "(the rows are in the error's .rows)"
    )
