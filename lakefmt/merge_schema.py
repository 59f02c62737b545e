"""Tensors and metadata in a merge: three definitions of each (base, source, target) become one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from lakefmt.cells import Rows
from lakefmt.errors import DtypeError
from lakefmt.htypes import TensorDef, extend_class_names, holds
from lakefmt.versioning.changes import AddTensor, Change, DropTensor, Edit, EditTensor, SetInfo
from lakefmt.versioning.records import State

replace = msgspec.structs.replace
_ABSENT = object()


class SchemaMerge:
    """What becomes of definitions.

    Attributes:
        changes: edits of the target's definitions.
        final: the tensors that will be there, by field id.
        remaps: per field id, the source's class ids in the result's order.
        complaints: where both sides did something else, so that a resolution is needed.
        clashes: the complaints that no resolution settles.
        brought: field ids of tensors that the target does not have and the result has.
    """

    def __init__(
        self,
        base: State,
        source: State,
        target: State,
        resolution: str | None,
        theirs: Callable[[int], bool],
        ours: Callable[[int], bool],
    ) -> None:
        """
        Args:
            theirs, ours: whether the source, the target has written samples of a tensor, by field id.
        """
        self._written = (theirs, ours)
        self.changes: list[Change] = []
        self.remaps: dict[int, Rows] = {}
        self.complaints: list[str] = []
        self.clashes: list[str] = []
        self.brought: set[int] = set()
        self._take_theirs = resolution == "theirs"
        old, new, now = ({t.id: t for t in state.tensors} for state in (base, source, target))
        self.final = dict(now)
        for field_id in {**old, **new, **now}:
            before, theirs_now, mine = old.get(field_id), new.get(field_id), now.get(field_id)
            if theirs_now is None:
                if before is not None and mine is not None:
                    self._removed(mine, changed=mine != before or ours(field_id))
            elif mine is None:
                changed = before is not None and (theirs_now != before or theirs(field_id))
                self._absent(before, theirs_now, changed=changed)
            else:
                self._both(before or mine, theirs_now, mine)
        names = [t.name for t in self.final.values()]
        for name in sorted({n for n in names if names.count(n) > 1}):
            self._clash(f"both sides have a tensor {name!r} of their own; rename_tensor() one of them first")
        for name in names:
            if any(n.startswith(name + "/") for n in names):
                self._clash(f"{name!r} is a tensor on one side and a group on the other; rename_tensor() one of them first")
        order = {DropTensor: 0, EditTensor: 1, AddTensor: 2}  # names are freed before they are taken
        self.changes.sort(key=lambda c: order[type(c)])
        info = self._keys("info", base.info, source.info, target.info)
        if info != target.info:
            self.changes.append(SetInfo(info))

    def _clash(self, text: str) -> None:
        self.complaints.append(text)
        self.clashes.append(text)

    def _removed(self, mine: TensorDef, *, changed: bool) -> None:
        """The source dropped it."""
        if changed:
            self.complaints.append(f"tensor {mine.name!r} was deleted there and changed here")
            if not self._take_theirs:
                return
        self.changes.append(DropTensor(mine.id))
        del self.final[mine.id]

    def _absent(self, before: TensorDef | None, theirs: TensorDef, *, changed: bool) -> None:
        """The target does not have it: it is new there, or was dropped here."""
        if before is not None:
            if changed:
                self.complaints.append(f"tensor {theirs.name!r} was changed there and deleted here")
            if not (changed and self._take_theirs):
                return
        self.changes.append(AddTensor(theirs))
        self.final[theirs.id] = theirs
        self.brought.add(theirs.id)

    def _both(self, before: TensorDef, theirs: TensorDef, mine: TensorDef) -> None:
        retyped = [(theirs, mine, 1, "there and written here"), (mine, theirs, 0, "here and written there")]
        for now, other, side, where in retyped:
            if now.htype != before.htype and other.htype == before.htype and self._written[side](mine.id):
                self._clash(f"tensor {mine.name!r} was made {now.htype!r} {where}; alter_tensor() on the other side first")
        name = self._three(f"name of {mine.name!r}", before.name, theirs.name, mine.name)
        dtype = self._dtype(before, theirs, mine)
        merged = replace(
            mine, name=name, dtype=dtype,
            first_dtype=mine.first_dtype or theirs.first_dtype or (mine.dtype if dtype != mine.dtype else None),
            htype=self._three(f"htype of {mine.name!r}", before.htype, theirs.htype, mine.htype),
            shape=self._three(f"shape of {mine.name!r}", before.shape, theirs.shape, mine.shape),
            info=self._keys(f"info of {mine.name!r}", before.info, theirs.info, mine.info),
            open_labels=self._three(f"labels of {mine.name!r}", before.open_labels, theirs.open_labels, mine.open_labels),
        )  # fmt: skip
        if self._half_named(theirs, mine):
            return
        if theirs.htype == mine.htype and (theirs.class_names, mine.class_names).count(None) == 1 and not merged.class_names:
            merged = replace(merged, class_names=theirs.class_names or None)  # one side has plain ids, the other none yet
        if theirs.class_names:
            try:
                merged = extend_class_names(replace(merged, class_names=mine.class_names or ()), theirs.class_names)
            except DtypeError as e:
                self._clash(str(e))
                return
            places = {n: i for i, n in enumerate(merged.class_names or ())}
            ids = np.array([places[n] for n in theirs.class_names], np.int64)
            if not np.array_equal(ids, np.arange(len(ids))):
                self.remaps[mine.id] = ids
        if merged != mine:
            how = Edit.RENAMED if name != mine.name else Edit.WIDENED if dtype != mine.dtype else Edit.CLASSES
            self.changes.append(EditTensor(merged, how))
            self.final[mine.id] = merged

    def _half_named(self, theirs: TensorDef, mine: TensorDef) -> bool:
        """Whether class ids have names on one side and were written without on the other."""
        for named, other, side, where in ((theirs, mine, 1, "there"), (mine, theirs, 0, "here")):
            if named.class_names and other.is_label and other.class_names is None and self._written[side](mine.id):
                self._clash(
                    f"class ids of {mine.name!r} have names {where} and none on the other side; "
                    "add_class_names() on that side first"
                )
                return True
        return False

    def _dtype(self, before: TensorDef, theirs: TensorDef, mine: TensorDef) -> str | None:
        if theirs.dtype == mine.dtype or theirs.dtype is None or mine.dtype is None:
            return mine.dtype or theirs.dtype
        if before.dtype is not None and holds(mine.dtype, theirs.dtype):
            if mine.dtype == before.dtype:
                self.complaints.append(
                    f"tensor {mine.name!r} is {mine.dtype} here and {theirs.dtype} there: a dtype that was widened stays so "
                    "(restore() an older version)"
                )
            return mine.dtype
        if before.dtype is not None and holds(theirs.dtype, mine.dtype):
            return theirs.dtype
        self._clash(f"tensor {mine.name!r} is {theirs.dtype} there and {mine.dtype} here; alter_tensor() one of them first")
        return mine.dtype

    def _three(self, what: str, before: Any, theirs: Any, mine: Any) -> Any:
        """The value that one side changed; the resolution's where both did."""
        if mine in (theirs, before):
            return theirs
        if theirs == before:
            return mine
        self.complaints.append(f"the {what} is {_shown(theirs)} there and {_shown(mine)} here")
        return theirs if self._take_theirs else mine

    def _keys(self, what: str, before: dict[str, Any], theirs: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
        """Metadata of both sides, key by key."""
        merged: dict[str, Any] = {}
        for key in {**mine, **theirs}:
            value = self._three(f"{what} {key!r}", *(info.get(key, _ABSENT) for info in (before, theirs, mine)))
            if value is not _ABSENT:
                merged[key] = value
        return merged


def _shown(value: Any) -> str:
    return "gone" if value is _ABSENT else repr(value)
