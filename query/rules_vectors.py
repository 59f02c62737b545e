"""Rules for vectors: similarity, inner product, norms.

On vectors of one fixed length these are DuckDB's ``array_*`` functions, whose arguments must be ``FLOAT[n]``
exactly. A norm of a difference is recognised and computed as a distance, without writing the difference down.
"""

from __future__ import annotations

import math

from sqlglot import exp

from lakefmt.query import elementwise, emit
from lakefmt.query.constants import typed_array
from lakefmt.query.context import Context
from lakefmt.query.kinds import Value, as_list, is_present, scalar
from lakefmt.query.syntax import Node

_SINGLE = frozenset(("float16", "float32"))


def cosine_similarity(ctx: Context, node: exp.Anonymous, arguments: list[Node]) -> Value:
    return _pair(ctx, node, arguments, "cosine_similarity")


def dot(ctx: Context, node: exp.Anonymous, arguments: list[Node]) -> Value:
    return _pair(ctx, node, arguments, "inner_product")


def l2_norm(ctx: Context, node: exp.Anonymous, arguments: list[Node]) -> Value:
    inner = arguments[0]
    if isinstance(inner, exp.Sub):
        left, right = _vector(ctx, inner.this), _vector(ctx, inner.expression)
        if left.is_array and right.is_array:
            return _distance(ctx, node, left, right, "distance")
    value = _vector(ctx, inner)
    if not value.is_array:
        return scalar(value, emit.call("abs", emit.cast(value.sql, "DOUBLE")), "float64", node=node)
    squares = elementwise.apply(ctx, node, lambda v: emit.binary(exp.Mul, _double(v[0]), _double(v[0])), [value], "float64")
    total = emit.call("sqrt", emit.coalesce(emit.call("list_sum", as_list(squares)), emit.number(0)))
    return _unless_missing(value, total, node)


def l1_norm(ctx: Context, node: exp.Anonymous, arguments: list[Node]) -> Value:
    return _folded(ctx, node, arguments[0], "list_sum")


def linf_norm(ctx: Context, node: exp.Anonymous, arguments: list[Node]) -> Value:
    return _folded(ctx, node, arguments[0], "list_max")


def _folded(ctx: Context, node: exp.Anonymous, argument: Node, fold: str) -> Value:
    value = _vector(ctx, argument)
    sizes = elementwise.apply(ctx, node, lambda v: emit.call("abs", _double(v[0])), [value], "float64")
    if not sizes.is_array:
        return sizes
    total = emit.call(fold, as_list(sizes))
    return _unless_missing(value, emit.coalesce(total, emit.number(0)) if value.maybe_empty else total, node)


def _double(sql: Node) -> Node:
    return emit.cast(sql, "DOUBLE")


def _unless_missing(value: Value, total: Node, node: Node) -> Value:
    """The norm of a missing sample is missing, not that of an empty one."""
    if value.nullable and value.maybe_empty:
        total = emit.when(is_present(value), total)
    return scalar(value, total, "float64", node=node)


def _vector(ctx: Context, node: Node) -> Value:
    value = ctx.eval(node)
    if not value.is_number:
        raise ctx.error(node, "this is no array of numbers")
    return value


def _pair(ctx: Context, node: exp.Anonymous, arguments: list[Node], function: str) -> Value:
    left, right = (_vector(ctx, a) for a in arguments)
    for value in (left, right):
        if not value.is_array:
            raise ctx.error(value.node, f"{node.this} compares two arrays; this is a single value")
    return _distance(ctx, node, left, right, function)


def _length(value: Value) -> int | None:
    """Number of elements, when every sample has the same."""
    if isinstance(value.shape, tuple) and all(isinstance(d, int) for d in value.shape):
        return math.prod(d for d in value.shape if isinstance(d, int))
    return None


def _distance(ctx: Context, node: exp.Anonymous, left: Value, right: Value, function: str) -> Value:
    """A function of two vectors of equal length."""
    lengths = _length(left), _length(right)
    if None not in lengths and lengths[0] != lengths[1]:
        where = right if right.is_const or not left.is_const else left
        raise ctx.error(where.node, f"{node.this} of {lengths[0]} and {lengths[1]} elements: the lengths must be equal")
    singles = [v.dtype in _SINGLE or v.is_const for v in (left, right)]
    element = "FLOAT" if all(singles) and any(v.dtype in _SINGLE for v in (left, right)) else "DOUBLE"
    fixed = None not in lengths and lengths[0]
    suffix = f"[{lengths[0]}]" if fixed else "[]"
    sides = [_typed(v, f"{element}{suffix}", element) for v in (left, right)]
    if not fixed:
        # DuckDB would stop the whole query at the first row of another length; and at a missing or empty list anywhere in a block
        # of rows read from Parquet, unless the elements are laid out anew
        sides = [s if v.is_const else _anew(s) for s, v in zip(sides, (left, right), strict=True)]
    sql = emit.call(f"{'array' if fixed else 'list'}_{function}", *sides)
    nullable = left.nullable or right.nullable
    if not fixed:
        sql, nullable = _where_equal(left, right, lengths, sql), True
    tensors = left.tensors | right.tensors
    return scalar(
        left,
        sql,
        "float32" if element == "FLOAT" else "float64",
        node=node,
        nullable=nullable,
        tensors=tensors,
    )


def _anew(sql: Node) -> Node:
    return emit.call("list_slice", sql, emit.number(1), emit.number(-1))


def _where_equal(left: Value, right: Value, lengths: tuple[int | None, int | None], sql: Node) -> Node:
    sizes = [
        emit.number(known) if known is not None else emit.call("len", as_list(value))
        for value, known in zip((left, right), lengths, strict=True)
    ]
    return emit.when(emit.binary(exp.EQ, *sizes), sql)


def _typed(value: Value, type_name: str, element: str) -> Node:
    if value.is_const:
        bound = typed_array(value, "float32" if element == "FLOAT" else "float64")
        assert isinstance(bound.sql, exp.Cast)
        return emit.cast(bound.sql.this, type_name)
    return emit.cast(as_list(value), type_name)
