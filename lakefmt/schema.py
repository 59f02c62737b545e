"""Tensors made, renamed, changed and removed: each a small commit that touches no data."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from lakefmt.errors import AlreadyExists, Conflict, DtypeError, InvalidInput, UnknownClass
from lakefmt.htypes import (
    HTYPES,
    NUMERIC_DTYPES,
    Kind,
    TensorDef,
    check_tensor_name,
    define_tensor,
    extend_class_names,
    holds,
    numpy_dtype,
    shown,
)
from lakefmt.snapshot import Snapshot
from lakefmt.versioning.changes import AddTensor, Change, DropTensor, Edit, EditTensor, SetInfo
from lakefmt.versioning.log import Transaction
from lakefmt.versioning.records import State, Version
from lakefmt.writer import Writer

replace = msgspec.structs.replace


def create_tensor(writer: Writer, name: str, *, exist_ok: bool = False, **options: Any) -> None:
    """A new tensor; rows that exist lack it (their samples are missing)."""
    name = check_tensor_name(name)
    if not isinstance(exist_ok, (bool, np.bool_)):
        raise InvalidInput(f"create_tensor({name!r}): exist_ok is True or False, got {shown(exist_ok)}")
    with writer.lock:
        if name in writer.snapshot.definitions:
            if exist_ok:
                return
            raise AlreadyExists(f"{writer.url} has a tensor {name!r} already; pass exist_ok=True to keep it")
        check_free(writer, name)
        definition = define_tensor(fresh_id(writer), name, **options)
        writer.flush()
        writer.commit_changes(Transaction(lambda version: [AddTensor(definition)]))


def fresh_id(writer: Writer) -> int:
    """A field id that no tensor has."""
    taken = {t.id for t in writer.version.state.tensors}
    return next(i for i in iter(lambda: uuid.uuid4().int & 0x7FFFFFFF, -1) if i not in taken)


def check_free(writer: Writer, name: str, leaving: str = "") -> None:
    """Refuse a name that would be both a tensor's and a group's."""
    others = [n for n in writer.snapshot.definitions if n != leaving]
    group_of = [n for n in others if n.startswith(name + "/") or name.startswith(n + "/")]
    if group_of:
        raise AlreadyExists(f"{name!r} cannot be both a tensor and a group: {group_of[0]!r} exists")


def edit_tensor(writer: Writer, name: str, **changes: Any) -> None:
    """Replace parts of a tensor's definition (info, class names)."""
    classes = "class_names" in changes
    how = Edit.CLASSES if classes else Edit.INFO
    _edit(writer, name, how, lambda now, at: _with_names(now, changes["class_names"], at) if classes else replace(now, **changes))


def _with_names(now: TensorDef, names: Sequence[str], at: Snapshot) -> TensorDef:
    """More class names. The first ones name the ids that are stored, all of them: none is left to get a later class's name."""
    named = extend_class_names(now, names)
    bounds = None if now.class_names else _bounds(now, at)
    if bounds is not None and bounds[1] >= len(named.class_names or ()):
        raise UnknownClass(
            f"tensor {now.name!r}: class ids up to {bounds[1]} are stored without names, and {len(names)} names are given; "
            "name all ids at once, 0 first"
        )
    return named


def rename_tensor(writer: Writer, name: str, new: str) -> None:
    """Another name for a tensor; columns are bound to its field id, so no data is touched."""
    with writer.lock:
        new = check_tensor_name(new)
        writer.definition(name)
        if new in writer.snapshot.definitions:
            raise AlreadyExists(f"{writer.url} has a tensor {new!r} already")
        check_free(writer, new, leaving=name)
        _edit(writer, name, Edit.RENAMED, lambda now, _: replace(now, name=new))


def drop_tensor(writer: Writer, name: str) -> None:
    """Remove a tensor. Older versions keep it; its samples stay in the files until compaction and expiry."""
    with writer.lock:
        writer.flush()
        field_id = writer.definition(name).id
        writer.commit_changes(Transaction(lambda version: [DropTensor(field_id)]))


def alter_tensor(writer: Writer, name: str, *, dtype: Any = None, htype: str | None = None) -> None:
    """Widen a tensor's dtype, or give it another htype that its samples fit.

    Raises:
        DtypeError: the dtype would not hold every value of the present one.
        InvalidInput: the samples do not fit the htype.
    """
    with writer.lock:
        if dtype is not None:
            _edit(writer, name, Edit.WIDENED, lambda now, _: _widened(now, dtype))
        if htype is not None:
            _edit(writer, name, Edit.RETYPED, lambda now, at: _retyped(now, htype, at))


def set_info(writer: Writer, info: Mapping[str, Any]) -> None:
    """Replace the dataset's metadata."""
    with writer.lock:
        writer.flush()
        writer.commit_changes(Transaction(lambda version: [SetInfo(dict(info))]))


def _edit(writer: Writer, name: str, how: Edit, fn: Callable[[TensorDef, Snapshot], TensorDef]) -> None:
    with writer.lock:
        writer.flush()
        field_id = writer.definition(name).id

        def build(version: Version) -> list[Change]:
            return [EditTensor(fn(_now(version.state, field_id, name), writer.at(version)), how)]

        readers = frozenset({"widened"}) if how is Edit.WIDENED else frozenset[str]()
        writer.commit_changes(Transaction(build, readers=readers))


def _now(state: State, field_id: int, name: str) -> TensorDef:
    now = next((t for t in state.tensors if t.id == field_id), None)
    if now is None:
        raise Conflict(f"tensor {name!r} was deleted meanwhile")
    return now


def _widened(now: TensorDef, dtype: Any) -> TensorDef:
    target = numpy_dtype(dtype, f"alter_tensor({now.name!r})")
    if HTYPES[now.htype].kind is not Kind.NUMERIC or target not in NUMERIC_DTYPES:
        raise DtypeError(f"alter_tensor({now.name!r}): a tensor of htype {now.htype!r} cannot have dtype {target!r}")
    if now.dtype is not None and not holds(target, now.dtype):
        raise DtypeError(
            f"alter_tensor({now.name!r}): {target} does not hold every {now.dtype}; only widening is possible, "
            "e.g. uint8 to int32 or float32. For another dtype create a new tensor and copy what fits"
        )
    if now.is_label and np.dtype(target).kind not in "iu":
        raise DtypeError(f"alter_tensor({now.name!r}): class labels are integers, not {target}")
    return replace(now, dtype=target, first_dtype=now.first_dtype or now.dtype)


#: htypes that differ only in what their samples mean, or in the number of dimensions they allow.
_KIN = frozenset({"generic", "embedding", "class_label"})


def _retyped(now: TensorDef, htype: str, at: Snapshot) -> TensorDef:
    if not isinstance(htype, str) or htype not in HTYPES:
        raise InvalidInput(f"alter_tensor({now.name!r}): unknown htype {htype!r}; known: {', '.join(HTYPES)}")
    if not {now.htype, htype} <= _KIN:
        raise InvalidInput(f"alter_tensor({now.name!r}): {now.htype!r} samples cannot become {htype!r}; create a new tensor")
    row, ndims = HTYPES[htype], at.ndims(now.name)
    if row.ndims and ndims is not None and not set(range(ndims[0], ndims[1] + 1)) <= set(row.ndims):
        raise InvalidInput(
            f"alter_tensor({now.name!r}): samples of htype {htype!r} have {' or '.join(map(str, row.ndims))} dimensions, "
            f"its samples have {ndims[0]} to {ndims[1]}"
        )
    if row.ndims and now.shape is not None and len(now.shape) not in row.ndims:
        raise InvalidInput(
            f"alter_tensor({now.name!r}): samples of htype {htype!r} have {' or '.join(map(str, row.ndims))} dimensions, "
            f"the tensor's declared shape is {now.shape}"
        )
    if not row.labels:
        return replace(now, htype=htype, dtype=now.dtype or row.dtype, class_names=None, open_labels=False)
    if now.dtype is not None and np.dtype(now.dtype).kind not in "iu":
        raise DtypeError(f"alter_tensor({now.name!r}): class labels are integers, its samples are {now.dtype}")
    if now.is_label:
        return now
    bounds = None if now.dtype is None else _bounds(now, at)
    if bounds is not None and bounds[0] < 0:
        raise UnknownClass(f"alter_tensor({now.name!r}): some samples are negative and cannot be class ids")
    return replace(now, htype=htype, dtype=now.dtype or row.dtype, class_names=() if bounds is None else None, open_labels=True)


def _bounds(now: TensorDef, at: Snapshot) -> tuple[int, int] | None:
    """Smallest and largest of all integers stored in a tensor; ``None`` when there are none."""
    seen: list[int] = []
    for start in range(0, len(at), 1 << 16):
        cells = at.gather(now.name, np.arange(start, min(len(at), start + (1 << 16))))
        values = getattr(cells, "values", [])
        parts = [values] if isinstance(values, np.ndarray) else [v for v in values if v is not None]
        seen += [int(bound(p)) for p in parts if p.size for bound in (np.min, np.max)]
        seen = [min(seen), max(seen)] if seen else []
    return (seen[0], seen[1]) if seen else None
