"""Typed values: what an expression of TQL is while it is being translated.

A ``Value`` is a piece of DuckDB SQL with all that the rules ask about it: element type, shape, whether it
may be NULL. Arrays are *flat* lists in C order next to their shape, because that is how tensors are stored.
An elementwise operation does not write SQL at once: it grows the value's ``body``, a function from "the
element" to SQL, so that
``any(x[:,3] * 2 > 9)`` becomes a single ``list_transform``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlglot import exp

from lakefmt.htypes import TensorDef
from lakefmt.query import emit
from lakefmt.query.emit import Dim
from lakefmt.query.syntax import Node


class _Absent:
    """Marks a value that is not a constant (``None`` is one: NULL)."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()

#: element types that are not numbers
BOOL, TEXT, JSON, ANY, NULL = "bool", "text", "json", "any", "null"
INTEGERS = frozenset(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "hugeint"))
FLOATS = frozenset(("float16", "float32", "float64"))
NUMBERS = INTEGERS | FLOATS | {BOOL}

#: Shape of an array: its dimensions, or (rank unknown) an SQL list of them. Scalars have ().
Shape = tuple[Dim, ...] | Node
Element = Callable[[Node, Node], Node]

#: names of a lambda's element and of its 1-based position
ELEMENT, POSITION = "x", "i"


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A translated expression.

    Attributes:
        sql: the scalar; for an array the flat list over which ``body`` runs.
        dtype: NumPy dtype name of the elements, or one of ``TEXT``, ``JSON``, ``ANY``, ``NULL``.
        node: the syntax it came from, for errors.
        shape: see ``Shape``.
        body: elementwise operations still to be applied to ``sql``; ``None``: none.
        strided: (list, first, step), when ``sql`` is every ``step``-th element of a list: a cheaper way to
            one element.
        guards: conditions without which the array has no value in a row: an index over the edge, unequal
            shapes.
        nullable: the SQL may be NULL. A boolean that is NULL counts as false.
        const: the Python value of a constant.
        labels: the class_label tensor whose ids these numbers are.
        tensors: names of the tensors it was computed from.
        tensor: the name, when it is a tensor as it stands.
        truth: for a comparison with class names of an array: "any element", used wherever one truth value is
            wanted.
        path: for JSON, the keys that lead from ``sql`` to the value.
        unread: why there is no value to compute with (encoded images), or ''.
    """

    sql: Node
    dtype: str
    node: Node
    shape: Shape = ()
    body: Element | None = None
    strided: tuple[Node, Dim, Dim] | None = None
    guards: tuple[Node, ...] = ()
    nullable: bool = False
    const: Any = ABSENT
    labels: TensorDef | None = None
    tensors: frozenset[str] = frozenset()
    tensor: str | None = None
    truth: Value | None = None
    path: tuple[str | int, ...] = ()
    unread: str = ""

    @property
    def is_const(self) -> bool:
        return self.const is not ABSENT

    @property
    def is_array(self) -> bool:
        return self.shape != ()

    @property
    def is_number(self) -> bool:
        return self.dtype in NUMBERS

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def maybe_nan(self) -> bool:
        """Whether an element may be NaN, which DuckDB takes for equal to itself and greater than all else."""
        if self.is_const and not self.is_array:
            return bool(self.const != self.const)
        return self.is_float

    @property
    def maybe_empty(self) -> bool:
        """Whether the array may have no element."""
        if isinstance(self.shape, tuple):
            return not all(isinstance(d, int) and d > 0 for d in self.shape)
        return True

    def but(self, **changes: Any) -> Value:
        """A copy with changes; ``tensor`` and ``const`` do not survive unless given."""
        return dataclasses.replace(self, **({"tensor": None, "const": ABSENT, "truth": None} | changes))


def scalar(like: Value, sql: Node, dtype: str, **changes: Any) -> Value:
    """A scalar computed from ``like``."""
    plain: dict[str, Any] = {
        "shape": (),
        "body": None,
        "strided": None,
        "guards": (),
        "labels": None,
        "path": (),
    }
    return like.but(sql=sql, dtype=dtype, **(plain | changes))


def as_list(value: Value) -> Node:
    """The flat list of an array, all elementwise operations done."""
    if value.body is None:
        return guarded(value, value.sql)
    element, position = emit.variable(ELEMENT), emit.variable(POSITION)
    body = value.body(element, position)
    names = (ELEMENT, POSITION) if any(n.name == POSITION for n in body.find_all(exp.Identifier)) else (ELEMENT,)
    return guarded(value, emit.transform(value.sql, body, *names))


def guarded(value: Value, sql: Node) -> Node:
    """SQL that is NULL where the array has no value."""
    return emit.when(emit.all_of(*value.guards), sql) if value.guards else sql


def is_empty(value: Value) -> Node:
    """Whether an array has no element; NULL where it has no value."""
    whole = value.sql if value.strided is None else value.strided[0]
    return emit.binary(exp.EQ, guarded(value, emit.call("len", whole)), emit.number(0))


def is_present(value: Value) -> Node:
    """Whether an array has a value."""
    whole = value.sql if value.strided is None else value.strided[0]
    return emit.is_not_null(guarded(value, whole))


def element_at(value: Value, position: Node) -> Node:
    """The element at a 1-based position."""
    if value.strided is not None:
        flat, first, step = value.strided
        if isinstance(first, int) and isinstance(step, int):
            where = emit.dim_add(emit.dim_mul(position, step), first + 1 - step)
        else:
            where = emit.dim_add(emit.dim_mul(emit.dim_add(position, -1), step), emit.dim_add(first, 1))
        found = emit.item(flat, emit.dim(where))
    else:
        found = emit.item(value.sql, position)
    return found if value.body is None else value.body(found, position)


def size_of(value: Value) -> Dim:
    """Number of elements of an array."""
    if isinstance(value.shape, tuple) and all(isinstance(d, int) for d in value.shape):
        return emit.dim_product(value.shape)
    return guarded(value, emit.call("len", value.sql))


def shape_list(value: Value) -> Node:
    """The shape of a value, as an SQL list of integers."""
    if isinstance(value.shape, tuple):
        return emit.array([emit.dim(d) for d in value.shape])
    return value.shape


def dims(value: Value) -> tuple[Dim, ...]:
    """The dimensions of an array of known rank; () when it is not known."""
    return value.shape if isinstance(value.shape, tuple) else ()
