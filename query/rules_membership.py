"""Rules for what a value is among: IN, LIKE, and classes by name or pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sqlglot import exp

from lakefmt.query import elementwise, emit
from lakefmt.query.constants import SQL_TYPES, constant, flat, like_column
from lakefmt.query.context import Context, Rule
from lakefmt.query.kinds import ANY, BOOL, JSON, NULL, TEXT, Value, as_list, scalar
from lakefmt.query.rules_names import class_id, matching_ids
from lakefmt.query.rules_operators import comparable, json_as
from lakefmt.query.syntax import Node

#: Constants of one IN that are written out, where the statistics of files help; more are bound as one list.
_WRITTEN_MAX = 64
_INT64 = range(-(2**63), 2**63)

# --- IN


def _in(ctx: Context, node: exp.In) -> Value:
    """``x == a OR x == b …``: NaN is never among anything."""
    value = ctx.eval(node.this)
    items = [v for e in node.expressions for v in _items(ctx, e)]
    if value.labels is not None and any(i.dtype == TEXT for i in items):
        return _in_classes(ctx, node, value, items)
    groups: dict[str, list[Value]] = {}
    for one in items:
        if one.is_array or one.dtype == NULL:
            raise ctx.error(one.node, "a list after IN holds numbers or texts")
        _, one = comparable(ctx, value, one, node)
        if not (one.is_const and one.maybe_nan):
            groups.setdefault(_group(value, one), []).append(one)
    parts = [_among_group(ctx, node, json_as(ctx, value, group[0]), group) for group in groups.values()]
    if not parts:  # of nothing, or of NaN
        return elementwise.apply(ctx, node, lambda v: emit.boolean(False), [value], BOOL)
    found = parts[0] if len(parts) == 1 else elementwise.apply(ctx, node, lambda v: emit.any_of(*v), parts, BOOL)
    tensors = frozenset[str]().union(value.tensors, *(i.tensors for i in items))
    return replace(found, node=node, tensors=tensors, nullable=value.nullable or any(i.nullable for i in items))


def _items(ctx: Context, node: Node) -> list[Value]:
    """What stands in the list; a list given as one parameter (``x IN ?``) is as good as its elements."""
    if isinstance(node, exp.Array):
        return [v for e in node.expressions for v in _items(ctx, e)]
    if isinstance(node, exp.Placeholder):
        given = ctx.parameters.look_up(ctx.text, node)
        if isinstance(given, (list, tuple, np.ndarray)):
            return [constant(ctx, node, one) for one in flat(given)]
    return [ctx.eval(node)]


def _group(value: Value, item: Value) -> str:
    """What is compared in one go: DuckDB brings a list to one type, and integers next to a fraction would lose digits."""
    if ANY in (value.dtype, item.dtype):
        return ANY
    if item.dtype == TEXT or value.is_float or value.dtype == JSON:
        return TEXT if item.dtype == TEXT else "float64"
    return "float64" if item.is_float else "int64"


def _among_group(ctx: Context, node: Node, value: Value, items: list[Value]) -> Value:
    """Whether a value is one of some of a kind."""
    written = [i for i in items if not i.is_const]
    constants = [i for i in items if i.is_const]
    bound = _bound(value, [i.const for i in constants]) if len(constants) > _WRITTEN_MAX and not value.is_array else None
    if bound is None:
        written = items
    sqls = [like_column(i, value.dtype).sql for i in written]
    guarded = value.maybe_nan and any(i.maybe_nan for i in written)

    def operation(sql: list[Node]) -> Node:
        found = [emit.in_list(sql[0], sqls)] if sqls else []
        found += [emit.in_rows(sql[0], bound)] if bound is not None else []
        whole = emit.any_of(*found)
        return emit.all_of(whole, emit.negate(emit.call("isnan", sql[0]))) if guarded else whole

    return elementwise.apply(ctx, node, operation, [value], BOOL)


def _bound(value: Value, constants: Sequence[Any]) -> Node | None:
    """Constants as one parameter, of the type that they are compared in; ``None`` where no such list is bound."""
    if value.dtype in (ANY, BOOL):
        return None
    if isinstance(constants[0], str):
        return emit.cast(emit.bind(list(constants)), "VARCHAR[]")
    if value.is_float:
        with np.errstate(over="ignore"):
            rounded = np.asarray(constants, np.float64).astype(value.dtype).astype(np.float64)
        return emit.cast(emit.bind(rounded.tolist()), f"{SQL_TYPES[value.dtype]}[]")
    if isinstance(constants[0], float):
        return emit.cast(emit.bind(list(constants)), "DOUBLE[]")
    return emit.cast(emit.bind([int(c) for c in constants]), "BIGINT[]") if all(c in _INT64 for c in constants) else None


def _in_classes(ctx: Context, node: Node, value: Value, items: list[Value]) -> Value:
    assert value.labels is not None
    wanted: list[Node] = []
    for one in items:
        if not one.is_const or one.is_array:
            raise ctx.error(one.node, "classes are named by constants")
        if one.dtype == TEXT:
            wanted.append(emit.number(class_id(ctx, value.labels, one.const, one.node)))
        elif isinstance(one.const, int):
            wanted.append(emit.number(one.const))
        else:
            raise ctx.error(one.node, "a class is a name or an integer id")
    return _among(ctx, node, value, wanted)


def _among(ctx: Context, node: Node, value: Value, wanted: list[Node]) -> Value:
    """Whether a label (any label of an array) is among class ids."""
    if not wanted:
        return constant(ctx, node, False)
    found = elementwise.apply(ctx, node, lambda v: emit.in_list(v[0], wanted), [value], BOOL)
    if not value.is_array:
        return found
    held = emit.call("list_has_any", as_list(value), emit.array(wanted))
    return replace(found, truth=scalar(value, held, BOOL, node=node))


def contains_class(ctx: Context, node: Node, value: Value, pattern: str, where: Node) -> Value:
    """CONTAINS(labels, 'cat') and labels LIKE 'c*'."""
    assert value.labels is not None
    ids = matching_ids(ctx, value.labels, pattern, where)
    if len(ids) == 1 and value.is_array:
        sql = emit.call("list_contains", as_list(value), emit.number(ids[0]))
        return scalar(value, sql, BOOL, node=node)
    if len(ids) == 1:
        return scalar(value, emit.binary(exp.EQ, value.sql, emit.number(ids[0])), BOOL, node=node)
    found = _among(ctx, node, value, [emit.number(i) for i in ids])
    return found.truth or found


# --- LIKE


_WILDCARDS = {"*": "%", "%": "%", "?": "_", "_": "\\_", "\\": "\\\\"}


def _like(ctx: Context, node: exp.Like | exp.ILike) -> Value:
    value = ctx.eval(node.this)
    pattern = ctx.constant(node.expression, "the pattern of LIKE")
    if not isinstance(pattern, str):
        raise ctx.error(node.expression, "the pattern of LIKE is a text")
    if value.labels is not None:
        if isinstance(node, exp.ILike):
            raise ctx.error(node, "ILIKE is for texts; class names are matched by LIKE or CONTAINS")
        return contains_class(ctx, node, value, pattern.replace("%", "*"), node.expression)
    if value.dtype == JSON:
        value = json_as(ctx, value, constant(ctx, node, ""))
    if value.dtype not in (TEXT, ANY) or value.is_array:
        raise ctx.error(node.this, "LIKE is for texts")
    escaped = "".join(_WILDCARDS.get(c, c) for c in pattern)
    matched = emit.matches(type(node), value.sql, emit.bind(escaped))
    if "\\" in escaped:
        matched = exp.Escape(this=matched, expression=emit.text("\\"))
    return scalar(value, matched, BOOL, node=node)


RULES: Mapping[type[Node], Rule] = {exp.In: _in, exp.Like: _like, exp.ILike: _like}
