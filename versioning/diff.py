"""The net difference between two versions: compare fragment lists first, rows within shared fragments after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lakefmt.fragment.meta import Fragment, Slice
from lakefmt.versioning.records import Version

Ids = npt.NDArray[np.int64]
Offsets = Callable[[Slice], Ids]


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
        tensors: per tensor name (as in the second version, else the first).
        created, removed: tensors that only the second, or only the first, has.
        renamed: old name to new name.
        info_updated: whether the dataset's metadata differs.
    """

    first: str
    second: str
    tensors: dict[str, TensorDiff]
    created: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    info_updated: bool = False

    def __bool__(self) -> bool:
        return bool(self.created or self.removed or self.renamed or self.info_updated or any(map(bool, self.tensors.values())))

    def as_dict(self) -> dict[str, Any]:
        """Plain values: per tensor lists of row ids."""
        tensors = {
            n: {"added": d.added.tolist(), "updated": d.updated.tolist(), "deleted": d.deleted.tolist()}
            for n, d in self.tensors.items()
        }
        return {
            "first": self.first, "second": self.second, "tensors": tensors, "created": list(self.created),
            "removed": list(self.removed), "renamed": dict(self.renamed), "info_updated": self.info_updated,
        }  # fmt: skip

    def __repr__(self) -> str:
        if not self:
            return f"no difference between {self.first} and {self.second}"
        lines = [f"from {self.first} to {self.second}"]
        width = max([6, *(len(n) for n in self.tensors)])
        lines.append(f"{'tensor':<{width}}  {'added':>9}  {'updated':>9}  {'deleted':>9}")
        lines += [
            f"{name:<{width}}  {len(d.added):>9,}  {len(d.updated):>9,}  {len(d.deleted):>9,}"
            + ("  (new tensor)" if name in self.created else "  (tensor removed)" if name in self.removed else "")
            for name, d in self.tensors.items()
        ]
        lines += [f"renamed: {old} -> {new}" for old, new in self.renamed.items()]
        return "\n".join([*lines, "info changed"] if self.info_updated else lines)


def diff_states(old: Version, new: Version, offsets: Offsets) -> Diff:
    """The net difference from one version to another.

    Args:
        old, new: any two versions of a dataset, also of different branches.
        offsets: reads the row offsets a deletion or overlay file lists.
    """
    before = {f.id: f for f in old.state.fragments}
    after = {f.id: f for f in new.state.fragments}
    old_names = {t.id: t.name for t in old.state.tensors}
    new_names = {t.id: t.name for t in new.state.tensors}
    tensors: dict[str, TensorDiff] = {}
    pairs = [(before.get(i), after.get(i)) for i in dict.fromkeys([*before, *after])]
    for field_id in dict.fromkeys([*old_names, *new_names]):
        parts = [_fragment_diff(a, b, field_id, offsets) for a, b in pairs if a != b]
        name = new_names.get(field_id, old_names.get(field_id, ""))
        name = f"{name} ({field_id})" if name in tensors else name  # two tensors of one name, made on two branches
        tensors[name] = TensorDiff(*(np.sort(np.concatenate([p[i] for p in parts] or [_NONE])) for i in range(3)))
    return Diff(
        first=old.id,
        second=new.id,
        tensors=tensors,
        created=tuple(n for i, n in new_names.items() if i not in old_names),
        removed=tuple(n for i, n in old_names.items() if i not in new_names),
        renamed={old_names[i]: n for i, n in new_names.items() if i in old_names and old_names[i] != n},
        info_updated=old.state.info != new.state.info,
    )


_NONE: Ids = np.empty(0, np.int64)


def _fragment_diff(old: Fragment | None, new: Fragment | None, field_id: int, offsets: Offsets) -> tuple[Ids, Ids, Ids]:
    """Row ids added, updated, deleted for one tensor in one fragment; either side may lack the fragment."""
    some = new or old
    assert some is not None
    had, has = _rows_with(old, field_id, offsets), _rows_with(new, field_id, offsets)
    added, deleted = np.setdiff1d(has, had), np.setdiff1d(had, has)
    updated = _NONE
    if old is not None and new is not None:
        one_sided = set(new.overlays_of(field_id)) ^ set(old.overlays_of(field_id))
        fresh = sorted(one_sided, key=lambda o: (o.at.file.key, o.at.start))
        touched = np.unique(np.concatenate([_listed(o.at, offsets) for o in fresh] or [_NONE]))
        updated = np.intersect1d(np.intersect1d(touched, has), had)
    return added + some.first_id, updated + some.first_id, deleted + some.first_id


def _rows_with(fragment: Fragment | None, field_id: int, offsets: Offsets) -> Ids:
    """Live offsets at which a tensor has been written."""
    if fragment is None:
        return _NONE
    found = fragment.field(field_id)
    rows = np.arange(found[1].rows if found else 0)
    patched = [_listed(o.at, offsets) for o in fragment.overlays_of(field_id)]
    rows = np.union1d(rows, np.concatenate(patched)) if patched else rows
    return np.setdiff1d(rows, _listed(fragment.deleted, offsets)) if fragment.deleted else rows


def _listed(part: Slice, offsets: Offsets) -> Ids:
    return offsets(part)[part.start : part.start + part.count]
