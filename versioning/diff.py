"""The net difference between two versions: compare fragment lists first, rows within shared fragments after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from lakefmt.errors import Corrupt, InvalidInput, VersionExpired
from lakefmt.fragment.meta import Fragment, Slice
from lakefmt.htypes import TensorDef
from lakefmt.versioning.leaves import Leaves
from lakefmt.versioning.log import Log
from lakefmt.versioning.records import Operation, State, Version

Ids = npt.NDArray[np.int64]


class Reading(Protocol):
    """What a comparison reads of the data."""

    def lists(self, part: Slice) -> Ids:
        """Row offsets (or ids) that a small file lists, of the whole file."""
        ...

    def differing(self, old: Version, new: Version, field_id: int, ids: Ids) -> Ids:
        """Those of some rows, which both versions have, whose sample of a tensor is not the same in both."""
        ...


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """Row ids whose sample of one tensor was added, updated or deleted."""

    added: Ids
    updated: Ids
    deleted: Ids

    def __bool__(self) -> bool:
        return bool(len(self.added) or len(self.updated) or len(self.deleted))


@dataclass(frozen=True, slots=True, repr=False)
class Diff:
    """What leads from one version to another.

    Attributes:
        first, second: version ids.
        tensors: per tensor name (as in the second version, else the first; with its field id where another has that name now).
        created, removed: tensors that only the second, or only the first, has.
        renamed: old name to new name.
        edited: tensors whose definition differs in more than the name.
        info_updated: whether the dataset's metadata differs.
    """

    first: str
    second: str
    tensors: dict[str, TensorDiff]
    created: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    edited: tuple[str, ...] = ()
    info_updated: bool = False

    def __bool__(self) -> bool:
        schema = self.created or self.removed or self.renamed or self.edited or self.info_updated
        return bool(schema or any(map(bool, self.tensors.values())))

    def as_dict(self) -> dict[str, Any]:
        """Plain values: per tensor lists of row ids."""
        tensors = {
            n: {"added": d.added.tolist(), "updated": d.updated.tolist(), "deleted": d.deleted.tolist()}
            for n, d in self.tensors.items()
        }
        return {
            "first": self.first, "second": self.second, "tensors": tensors, "created": list(self.created),
            "removed": list(self.removed), "renamed": dict(self.renamed), "edited": list(self.edited),
            "info_updated": self.info_updated,
        }  # fmt: skip

    def __repr__(self) -> str:
        if not self:
            return f"no difference between {self.first} and {self.second}"
        lines = [f"from {self.first} to {self.second}"]
        width = max([6, *(len(n) for n in self.tensors)])
        lines.append(f"{'tensor':<{width}}  {'added':>9}  {'updated':>9}  {'deleted':>9}")
        lines += [
            f"{name:<{width}}  {len(d.added):>9,}  {len(d.updated):>9,}  {len(d.deleted):>9,}"
            + self._fate(name)
            for name, d in self.tensors.items()
        ]
        lines += [f"renamed: {old} -> {new}" for old, new in self.renamed.items()]
        lines += [f"definition changed: {name}" for name in self.edited]
        return "\n".join([*lines, "info changed"] if self.info_updated else lines)

    def _fate(self, name: str) -> str:
        if name in self.created:
            return "  (new tensor)"
        return "  (tensor removed)" if name.partition(" (")[0] in self.removed else ""


def diff_versions(log: Log, old: Version, new: Version, reading: Reading) -> Diff:
    """The net difference from one version to another, any two of a dataset; see ``changes_between``."""
    direct = changes_between(log, old, new, reading)
    old_names = {t.id: t.name for t in old.state.tensors}
    new_names = {t.id: t.name for t in new.state.tensors}
    taken = set(new_names.values())  # a removed tensor may have had the name that another has now
    shown = {i: new_names.get(i) or (f"{n} ({i})" if n in taken else n) for i, n in old_names.items()} | new_names
    tensors = {name: direct.get(field_id, NO_ROWS) for field_id, name in shown.items()}
    before = {t.id: t for t in old.state.tensors}
    return Diff(
        first=old.id,
        second=new.id,
        tensors=tensors,
        created=tuple(n for i, n in new_names.items() if i not in old_names),
        removed=tuple(n for i, n in old_names.items() if i not in new_names),
        renamed={old_names[i]: n for i, n in new_names.items() if i in old_names and old_names[i] != n},
        edited=tuple(t.name for t in new.state.tensors if t.id in before and _edited(before[t.id], t)),
        info_updated=old.state.info != new.state.info,
    )


def _edited(old: TensorDef, new: TensorDef) -> bool:
    return msgspec.structs.replace(old, name=new.name) != new


#: The branch of a state that was put together and is in no log; see ``merge_base``.
NOWHERE = ""

#: Per field id, what happened to its rows; under ``ROWS``, which rows came and went, whatever samples they have.
Changes: TypeAlias = dict[int, TensorDiff]
ROWS = -1
_NONE: Ids = np.empty(0, np.int64)
NO_ROWS = TensorDiff(_NONE, _NONE, _NONE)


def changes_between(log: Log, old: Version, new: Version, reading: Reading) -> Changes:
    """What leads from one version to another.

    Fragments that both have tell nothing and cost nothing. Where rows lie in other fragments because one side was compacted, the
    versions between are looked at one by one, as compaction takes up the updates before it; and where neither version came from
    the other by commits alone, the samples of such rows are compared.
    """
    field_ids = tuple(dict.fromkeys(t.id for t in (*old.state.tensors, *new.state.tensors)))
    direct, moved = _step(log, old, new, field_ids, reading)
    if not moved:
        return direct
    try:
        path = None if NOWHERE in (old.head.branch, new.head.branch) else _path(log, old, new)
        if path is not None:
            return _walk(log, path, field_ids, reading)
        back = None if NOWHERE in (old.head.branch, new.head.branch) else _path(log, new, old)
        if back is not None:
            return {i: inverse(d) for i, d in _walk(log, back, field_ids, reading).items()}
    except (VersionExpired, Corrupt):  # some of those between are gone, or what they refer to is lost
        pass
    for field_id, ids in moved.items():
        changed = reading.differing(old, new, field_id, ids)
        before = direct[field_id]
        direct[field_id] = TensorDiff(before.added, np.union1d(before.updated, changed), before.deleted)
    return direct


def common_ancestors(log: Log, one: Version, other: Version) -> list[Version]:
    """The newest versions whose work is in both: those that no other such version contains. Several where both sides have merged
    the same branches, each by itself.

    Raises:
        InvalidInput: there is none.
        VersionExpired: one of them has expired.
    """
    mine, theirs = (ancestors(log, v) for v in (one, other))
    shared = [(b, min(v, theirs[b])) for b, v in mine.items() if b in theirs]
    if not shared:
        raise InvalidInput(f"versions {one.id} and {other.id} have no common ancestor")
    # the latest first, for it most often contains all others, which need not be read then
    latest = sorted(log.heads_at(shared), key=lambda h: h.ts_ms, reverse=True)
    found: list[Version] = []
    for head in latest:
        if not any(w.state.contains.get(head.branch, -1) >= head.v for w in found):
            # one that has expired is no reason to take an older one: what was undone since would come back
            found.append(log.read(head.branch, head.v))
    newest = [v for v in found if not any(w is not v and _contains(w, v) for w in found)]
    if not newest:
        raise Corrupt(f"{log.store.url}: versions {', '.join(v.id for v in found)} say that each contains the others; run fsck")
    return sorted(newest, key=lambda v: v.head.ts_ms)


def _contains(one: Version, other: Version) -> bool:
    return one.state.contains.get(other.head.branch, -1) >= other.head.v


def ancestors(log: Log, version: Version) -> dict[str, int]:
    """Branch uuid to v: the work of which versions is in this one."""
    if version.head.branch == NOWHERE:
        return dict(version.state.contains)
    found = {**version.state.contains, version.head.branch: version.head.v}
    branch = version.head.branch
    while True:  # versions written before there was ``contains`` only tell where their branch began
        first = log.heads(branch, [0])[0]
        if first.parent is None or first.parent_v is None or first.parent in found:
            return found
        branch = first.parent
        found[branch] = first.parent_v


def inverse(changes: TensorDiff) -> TensorDiff:
    """The way back."""
    return TensorDiff(changes.deleted, changes.updated, changes.added)


def _step(log: Log, old: Version, new: Version, field_ids: Iterable[int], reading: Reading) -> tuple[Changes, dict[int, Ids]]:
    """Rows that differ, by comparing the fragments that differ; and per field id, rows that lie in other fragments now."""
    pairs = [_Pair(a, b, reading) for a, b in differing(log.leaves, old.state, new.state)]
    moved: dict[int, Ids] = {}
    out: Changes = {}
    for field_id in field_ids:
        added, updated, deleted = _sorted_parts([p.samples(field_id) for p in pairs])
        both = _common(added, deleted)
        if len(both):
            moved[field_id] = both
            fresh = [p.patched(field_id) for p in pairs if p.old is None]
            patched = _common(both, np.unique(np.concatenate(fresh))) if fresh else _NONE
            added, deleted, updated = _less(added, both), _less(deleted, both), np.union1d(updated, patched)
        rewritten = [ids for p in pairs if len(ids := p.rewritten(field_id))]
        if rewritten:
            again = _common(updated, np.unique(np.concatenate(rewritten)))
            moved[field_id], updated = np.union1d(moved.get(field_id, _NONE), again), _less(updated, again)
        out[field_id] = TensorDiff(added, updated, deleted)
    come, _, gone = _sorted_parts([p.rows() for p in pairs])
    out[ROWS] = TensorDiff(_less(come, gone), _NONE, _less(gone, come))
    return out, moved


def _sorted_parts(parts: Sequence[tuple[Ids, Ids, Ids]]) -> tuple[Ids, Ids, Ids]:
    """Row ids of all fragments, ascending (each is in one fragment on either side)."""
    added, updated, deleted = (np.sort(np.concatenate([p[i] for p in parts] or [_NONE])) for i in range(3))
    return added, updated, deleted


def _common(one: Ids, other: Ids) -> Ids:
    """What is in both of two sets."""
    if not len(one) or not len(other):
        return _NONE
    common: Ids = np.intersect1d(one, other, assume_unique=True)
    return common


def _less(one: Ids, other: Ids) -> Ids:
    """What is in the first of two sets only."""
    if not len(one) or not len(other):
        return one
    left: Ids = np.setdiff1d(one, other, assume_unique=True)
    return left


def differing(leaves: Leaves, old: State, new: State) -> list[tuple[Fragment | None, Fragment | None]]:
    """Fragments of two states that are not the same in both; leaves that both have are looked at only where overridden."""
    shared = {leaf.key for leaf in old.leaves} & {leaf.key for leaf in new.leaves}
    kept = [leaf for leaf in new.leaves if leaf.key in shared]
    before, after = _outside(leaves, old, shared), _outside(leaves, new, shared)
    overrides = [{o.fragment.id: o.fragment for o in s.overrides} for s in (old, new)]
    for fragment_id in {**overrides[0], **overrides[1]}:
        if fragment_id not in before and fragment_id not in after:
            entry = leaves.find(kept, fragment_id)
            if entry is not None:
                before[fragment_id] = overrides[0].get(fragment_id, entry)
                after[fragment_id] = overrides[1].get(fragment_id, entry)
    ids = dict.fromkeys([*before, *after])
    return [(before.get(i), after.get(i)) for i in ids if before.get(i) != after.get(i)]


def _outside(leaves: Leaves, state: State, shared: set[str]) -> dict[str, Fragment]:
    own = [leaf for leaf in state.leaves if leaf.key not in shared]
    present = {o.fragment.id: o.fragment for o in state.overrides}
    listed = [t.fragment(i) for t in leaves.tables(own) for i in range(len(t))]
    return {f.id: present.get(f.id, f) for f in (*listed, *state.fragments)}


def _path(log: Log, old: Version, new: Version) -> list[tuple[str, int]] | None:
    """The versions from an older one to a newer one that came from it; ``None`` when neither came from the other."""
    out: list[tuple[str, int]] = []
    branch, v, head = new.head.branch, new.head.v, new.head
    while branch != old.head.branch:
        out += [(branch, n) for n in range(v, -1, -1)]
        head = log.heads(branch, [0])[0]
        if head.parent is None or head.parent_v is None:
            return None
        branch, v = head.parent, head.parent_v
    if v < old.head.v:
        return None
    return [*out, *((branch, n) for n in range(v, old.head.v - 1, -1))][::-1]


def _walk(log: Log, path: Sequence[tuple[str, int]], field_ids: Iterable[int], reading: Reading) -> Changes:
    """Step by step, the same tensors at each step: one that was dropped and came back has rows that went meanwhile."""
    total: Changes = {}
    before = log.read(*path[0])
    for place in path[1:]:
        after = log.read(*place)
        changes, moved = _step(log, before, after, field_ids, reading)
        if any(t.operation is not Operation.COMPACT for t in after.head.touched):  # what moved may have changed too
            for field_id, ids in moved.items():
                some = changes[field_id]
                updated = np.union1d(some.updated, reading.differing(before, after, field_id, ids))
                changes[field_id] = TensorDiff(some.added, updated, some.deleted)
        for field_id, step in changes.items():
            total[field_id] = composed(total.get(field_id, NO_ROWS), step)
        before = after
    return total


def composed(first: TensorDiff, then: TensorDiff) -> TensorDiff:
    """What two differences in a row come to."""
    again = np.intersect1d(then.added, first.deleted)
    added = np.union1d(np.setdiff1d(first.added, then.deleted), np.setdiff1d(then.added, first.deleted))
    updated = np.setdiff1d(np.union1d(first.updated, then.updated), np.union1d(then.deleted, added))
    deleted = np.union1d(np.setdiff1d(first.deleted, then.added), np.setdiff1d(then.deleted, first.added))
    return TensorDiff(added, np.union1d(updated, again), deleted)


class _Pair:
    """One fragment in two versions, either of which may lack it. What both have alike is not looked at."""

    def __init__(self, old: Fragment | None, new: Fragment | None, reading: Reading) -> None:
        self.old, self.new = old, new
        self._reading = reading

    def samples(self, field_id: int) -> tuple[Ids, Ids, Ids]:
        """Row ids whose sample of a tensor was added, updated, deleted."""
        if self.old is None or self.new is None:
            here = self._ids(self._all(self.old or self.new, field_id))
            return (here, _NONE, _NONE) if self.old is None else (_NONE, _NONE, here)
        covered = [f.field(field_id) for f in (self.old, self.new)]
        ends = sorted(0 if c is None else c[1].rows for c in covered)
        touched = [t for t in (self._overlaid(field_id), self._rewritten(field_id)) if len(t)]
        looked = [*touched, self._deleted_once]
        if ends[0] < ends[1]:
            looked.append(np.arange(*ends))
        offsets = np.unique(np.concatenate(looked))
        had, has = (self._with(f, field_id, offsets) for f in (self.old, self.new))
        changed = np.isin(offsets, np.concatenate(touched)) if touched else np.zeros(len(offsets), bool)
        added, updated, deleted = (self._ids(offsets[m]) for m in (has & ~had, has & had & changed, had & ~has))
        return added, updated, deleted

    def rows(self) -> tuple[Ids, Ids, Ids]:
        """Row ids that came, nothing, and row ids that went."""
        if self.old is None or self.new is None:
            some = self.old or self.new
            assert some is not None
            rows = np.ones(some.rows, bool)
            rows[self._deleted(some)] = False
            here = self._ids(np.flatnonzero(rows))
            return (here, _NONE, _NONE) if self.old is None else (_NONE, _NONE, here)
        offsets = self._deleted_once
        gone = np.isin(offsets, self._deleted(self.new))
        return self._ids(offsets[~gone]), _NONE, self._ids(offsets[gone])

    def patched(self, field_id: int) -> Ids:
        """Ids of the rows of the new fragment that have been updated since it was made."""
        assert self.new is not None
        parts = [_listed(o.at, self._reading) for o in self.new.overlays_of(field_id)]
        return self._ids(np.unique(np.concatenate(parts))) if parts else _NONE

    def rewritten(self, field_id: int) -> Ids:
        """Row ids whose samples of a tensor lie in another file in either version (written on two branches, each by itself)."""
        return self._ids(self._rewritten(field_id)) if self.old is not None and self.new is not None else _NONE

    def _rewritten(self, field_id: int) -> Ids:
        assert self.old is not None
        assert self.new is not None
        old, new = self.old.field(field_id), self.new.field(field_id)
        if old is None or new is None or old[0].key == new[0].key:
            return _NONE
        return np.arange(min(old[1].rows, new[1].rows))

    def _overlaid(self, field_id: int) -> Ids:
        """Offsets that only one side has an overlay for."""
        assert self.old is not None
        assert self.new is not None
        once = set(self.new.overlays_of(field_id)) ^ set(self.old.overlays_of(field_id))
        parts = [_listed(o.at, self._reading) for o in sorted(once, key=lambda o: (o.at.file.key, o.at.start))]
        return np.unique(np.concatenate(parts)) if parts else _NONE

    @cached_property
    def _deleted_once(self) -> Ids:
        """Offsets that are deleted on one side."""
        assert self.old is not None
        assert self.new is not None
        if self.old.deleted == self.new.deleted:
            return _NONE
        once: Ids = np.setxor1d(self._deleted(self.old), self._deleted(self.new), assume_unique=True)
        return once

    def _deleted(self, fragment: Fragment) -> Ids:
        return _listed(fragment.deleted, self._reading) if fragment.deleted else _NONE

    def _with(self, fragment: Fragment | None, field_id: int, offsets: Ids) -> npt.NDArray[np.bool_]:
        """Which of some offsets are live and have been written."""
        assert fragment is not None
        found = fragment.field(field_id)
        written = offsets < (found[1].rows if found else 0)
        for overlay in fragment.overlays_of(field_id):
            if written.all():
                break
            written |= np.isin(offsets, _listed(overlay.at, self._reading))
        return written & ~np.isin(offsets, self._deleted(fragment))

    def _all(self, fragment: Fragment | None, field_id: int) -> Ids:
        """Live offsets at which a tensor has been written."""
        assert fragment is not None
        found = fragment.field(field_id)
        written = np.zeros(fragment.rows, bool)
        written[: found[1].rows if found else 0] = True
        for overlay in fragment.overlays_of(field_id):
            written[_listed(overlay.at, self._reading)] = True
        written[self._deleted(fragment)] = False
        return np.flatnonzero(written)

    def _ids(self, offsets: Ids) -> Ids:
        some = self.new or self.old
        assert some is not None
        return offsets + some.first_id if some.ids is None else _listed(some.ids, self._reading)[offsets]


def _listed(part: Slice, reading: Reading) -> Ids:
    found = reading.lists(part)[part.start : part.start + part.count]
    if len(found) != part.count:
        raise Corrupt(f"{part.file.key}: it lists {len(found)} of {part.count} rows; restore the file from a copy")
    return found
