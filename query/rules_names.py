"""Rules for names and literals: tensors, aliases, class names, constants, parameters."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

from sqlglot import exp

from lakefmt.errors import nearest
from lakefmt.htypes import Kind, TensorDef
from lakefmt.query import emit, kinds
from lakefmt.query.catalog import TensorInfo
from lakefmt.query.constants import constant, constant_array
from lakefmt.query.context import ROW, ROW_ID, Context, Rule
from lakefmt.query.kinds import Shape, Value
from lakefmt.query.syntax import Node


def tensor_value(info: TensorInfo, node: Node, name: str) -> Value:
    """A tensor as it stands in the relation ``t``; ``name`` is what the query calls it."""
    definition = info.definition
    column = emit.column(f"f{definition.id}")
    common: dict[str, Any] = {"nullable": info.nullable, "tensors": frozenset((name,)), "tensor": name}
    if definition.kind in (Kind.TEXT, Kind.JSON):
        dtype = kinds.TEXT if definition.kind is Kind.TEXT else kinds.JSON
        return Value(sql=column, dtype=dtype, node=node, **common)
    unread = ""
    if definition.kind is Kind.ENCODED:
        unread = f"{name!r} holds encoded images: a query reads their SHAPE and IS NULL, pixels are not supported yet"
    return Value(
        sql=column, dtype=definition.dtype or "float64", node=node, shape=_shape(info),
        labels=definition if definition.is_label else None, unread=unread, **common,
    )  # fmt: skip


def _shape(info: TensorInfo) -> Shape:
    column = f"f{info.definition.id}"
    if info.fixed_shape is not None:
        return info.fixed_shape
    if info.ndim is None:
        return emit.column(f"{column}__shape")
    if info.ndim == 1 and info.definition.kind is not Kind.ENCODED:
        return (emit.call("len", emit.column(column)),)  # spares reading the shape column
    known = next((d for d in (info.dims, info.definition.shape) if d and len(d) == info.ndim), (None,) * info.ndim)
    stored = emit.column(f"{column}__shape")
    return tuple(emit.item(stored, emit.number(k + 1)) if d is None else d for k, d in enumerate(known))


def _column(ctx: Context, node: exp.Column) -> Value:
    name = node.name
    alias = ctx.aliases.get(name)
    if alias is not None and ctx.aliases_first:
        return alias()
    if name in ctx.computed:
        value = ctx.computed[name]
        return value.but(node=node, tensors=frozenset((name,)), const=value.const)
    if name in ctx.catalog:
        return tensor_value(ctx.catalog[name], node, name)
    if alias is not None:
        return alias()
    if name in (ROW, ROW_ID):
        return Value(sql=emit.column(name), dtype="int64", node=node)
    raise ctx.error(node, _unknown(ctx, node, name))


def _unknown(ctx: Context, node: exp.Column, name: str) -> str:
    known = [*ctx.catalog, *ctx.computed, *ctx.aliases]
    message = f"tensor {name!r} does not exist; {nearest(name, known)}"
    if node.this.args.get("quoted"):
        return f"{message} If a text was meant, write it in single quotes: '{name}'"
    return message


def _literal(ctx: Context, node: exp.Literal) -> Value:
    if node.is_string:
        return constant(ctx, node, str(node.this))
    written = str(node.this)
    return constant(ctx, node, int(written) if re.fullmatch(r"-?\d+", written) else float(written))


def _boolean(ctx: Context, node: exp.Boolean) -> Value:
    return constant(ctx, node, bool(node.this))


def _null(ctx: Context, node: exp.Null) -> Value:
    return constant(ctx, node, None)


def _placeholder(ctx: Context, node: exp.Placeholder) -> Value:
    return constant(ctx, node, ctx.parameters.look_up(ctx.text, node))


def _array(ctx: Context, node: exp.Array) -> Value:
    return constant_array(ctx, node, [ctx.constant(e, "an element of an array") for e in node.expressions])


RULES: Mapping[type[Node], Rule] = {
    exp.Column: _column,
    exp.Literal: _literal,
    exp.Boolean: _boolean,
    exp.Null: _null,
    exp.Placeholder: _placeholder,
    exp.Array: _array,
}


# --- class names


def class_id(ctx: Context, tensor: TensorDef, name: str, node: Node) -> int:
    """Id of a class name.

    Raises:
        TqlError: the tensor has no such class. An unknown name is nearly always a typing mistake, and no
            rows would be a wrong answer to it.
    """
    names = tensor.class_names or ()
    if name in names:
        return names.index(name)
    raise ctx.error(node, f"tensor {tensor.name!r} has no class {name!r}; {nearest(name, names)}")


def matching_ids(ctx: Context, tensor: TensorDef, pattern: str, node: Node) -> list[int]:
    """Ids of the classes that a name, or a pattern with ``*`` and ``?``, means."""
    if pattern in (tensor.class_names or ()) or not set(pattern) & set("*?"):
        return [class_id(ctx, tensor, pattern, node)]
    expression = re.compile(fnmatch.translate(pattern.replace("[", "[[]")))
    return [i for i, name in enumerate(tensor.class_names or ()) if expression.match(name)]
