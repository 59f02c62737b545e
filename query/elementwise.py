"""Applying an operation to arrays: element by element, on equal shapes, a scalar going with every element."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlglot import exp

from lakefmt.query import emit, kinds
from lakefmt.query.context import Context
from lakefmt.query.kinds import Value, element_at
from lakefmt.query.syntax import Node

Operation = Callable[[list[Node]], Node]


def apply(ctx: Context, node: Node, operation: Operation, values: Sequence[Value], dtype: str) -> Value:
    """``operation`` over scalars and arrays of equal shape.

    Args:
        ctx: the translation.
        node: the syntax of the whole operation.
        operation: from the SQL of one element of each operand to the SQL of the result.
        values: the operands.
        dtype: element type of the result.

    Returns:
        A scalar when all operands are, else an array. Arrays whose shapes turn out to differ give NULL in
        that row.
    """
    arrays = [v for v in values if v.is_array]
    tensors = frozenset[str]().union(*(v.tensors for v in values))
    nullable = any(v.nullable for v in values)
    if not arrays:
        sql = operation([v.sql for v in values])
        return Value(sql=sql, dtype=dtype, node=node, nullable=nullable, tensors=tensors)
    base = next((v for v in arrays if not v.is_const), arrays[0])
    found = [c for v in arrays if v is not base for c in _differences(ctx, node, base, v)]
    guards = tuple(_unique([*base.guards, *(g for v in arrays for g in v.guards), *found]))

    def body(element: Node, position: Node) -> Node:
        return operation([_operand(v, base, element, position) for v in values])

    return Value(
        sql=base.sql, dtype=dtype, node=node, shape=base.shape, body=body, strided=base.strided,
        guards=guards, nullable=nullable or bool(guards), tensors=tensors,
    )  # fmt: skip


def _unique(conditions: Sequence[Node]) -> list[Node]:
    kept: list[Node] = []
    for one in conditions:
        if one not in kept:
            kept.append(one)
    return kept


def _operand(value: Value, base: Value, element: Node, position: Node) -> Node:
    if not value.is_array:
        return value.sql
    if value is base or (value.sql == base.sql and value.strided == base.strided):
        return element if value.body is None else value.body(element, position)
    return element_at(value, position)


def _differences(ctx: Context, node: Node, left: Value, right: Value) -> list[Node]:
    """Conditions under which two shapes are equal; empty when they are known to be.

    Raises:
        TqlError: the shapes are known to differ.
    """
    if not isinstance(left.shape, tuple) or not isinstance(right.shape, tuple):
        if left.shape == right.shape:
            return []
        return [exp.EQ(this=kinds.shape_list(left), expression=kinds.shape_list(right))]
    if len(left.shape) != len(right.shape):
        raise ctx.error(node, f"arrays of {len(left.shape)} and {len(right.shape)} dimensions do not go together")
    found: list[Node] = []
    for one, other in zip(left.shape, right.shape, strict=True):
        if isinstance(one, int) and isinstance(other, int):
            if one != other:
                raise ctx.error(node, f"arrays of shapes {left.shape} and {right.shape} do not go together")
        elif one != other:
            found.append(emit.binary(exp.EQ, emit.dim(one), emit.dim(other)))
    return found
