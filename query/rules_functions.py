"""Rules for functions: TQL's own, one table row each, then DuckDB's scalar functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from sqlglot import exp

from lakefmt.errors import nearest
from lakefmt.query import duckdb_functions, elementwise, emit, kinds, rules_vectors
from lakefmt.query.constants import constant, like_column
from lakefmt.query.context import ROW, Context, Rule
from lakefmt.query.kinds import ANY, BOOL, JSON, NULL, TEXT, Value, as_list, scalar
from lakefmt.query.rules_membership import contains_class
from lakefmt.query.rules_operators import (
    as_bool_elements,
    class_names,
    common_dtype,
    is_condition,
    json_path,
    json_text,
    known,
    result_dtype,
    truth,
)
from lakefmt.query.syntax import Node, at, span_of

Arguments = list[Node]


#: Longest text that ``repeat``, ``lpad`` and ``rpad`` may be asked to make of every row.
TEXT_CHARS_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Function:
    """A function of TQL: how many arguments it takes, and its rule."""

    rule: Callable[[Context, exp.Anonymous, Arguments], Value]
    least: int = 1
    most: int = 1


def _call(ctx: Context, node: exp.Anonymous) -> Value:
    name = str(node.this).lower()
    function = FUNCTIONS.get(name)
    if function is not None:
        count = len(node.expressions)
        if not function.least <= count <= function.most:
            raise ctx.error(node, f"{name.upper()} takes {_counted(function)}, not {count}")
        return function.rule(ctx, node, node.expressions)
    if name in duckdb_functions.FUNCTIONS:
        return _passed_through(ctx, node, name)
    where = at(exp.Var(this=name), span_of(node)[0], int(node.meta.get("name_end", span_of(node)[1])))
    if name in duckdb_functions.AGGREGATES:
        raise ctx.error(where, f"{name.upper()} over rows needs GROUP BY, which is not supported yet")
    if name in LATER:
        raise ctx.error(where, f"{name.upper()} is not supported yet")
    shown = [n.upper() if n in FUNCTIONS else n for n in (*FUNCTIONS, *duckdb_functions.FUNCTIONS)]
    close = nearest(name.upper(), (n.upper() for n in shown))
    raise ctx.error(where, f"function {node.this!r} does not exist" + (f"; {close}" if "mean" in close else ""))


def _counted(function: Function) -> str:
    if function.least == function.most:
        return f"{function.least} argument" + ("" if function.least == 1 else "s")
    return f"{function.least} to {function.most} arguments"


# --- any, all


def _any(ctx: Context, node: exp.Anonymous, arguments: Arguments) -> Value:
    value = _condition_array(ctx, arguments[0])
    if not value.is_array:
        return truth(ctx, value)
    nullable = value.nullable or value.maybe_empty  # of no elements DuckDB says NULL, which reads as false
    return scalar(value, emit.call("list_bool_or", as_list(value)), BOOL, node=node, nullable=nullable)


def _all(ctx: Context, node: exp.Anonymous, arguments: Arguments) -> Value:
    value = _condition_array(ctx, arguments[0])
    if not value.is_array:
        return truth(ctx, value)
    found = emit.call("list_bool_and", as_list(value))
    if value.maybe_empty:  # true of no elements, false of a missing sample
        found = emit.coalesce(found, kinds.is_empty(value) if value.nullable else emit.boolean(True))
    return scalar(value, found, BOOL, node=node)


def _all_strict(ctx: Context, node: exp.Anonymous, arguments: Arguments) -> Value:
    value = _condition_array(ctx, arguments[0])
    if not value.is_array:
        return truth(ctx, value)
    nullable = value.nullable or value.maybe_empty
    return scalar(value, emit.call("list_bool_and", as_list(value)), BOOL, node=node, nullable=nullable)


def _condition_array(ctx: Context, node: Node) -> Value:
    value = ctx.eval(node)
    return as_bool_elements(ctx, value) if value.is_array else value


def _logical(join: Callable[..., Node]) -> Callable[[Context, exp.Anonymous, Arguments], Value]:
    def rule(ctx: Context, node: exp.Anonymous, arguments: Arguments) -> Value:
        values = [_condition_array(ctx, a) for a in arguments]
        values = [v if v.is_array else truth(ctx, v) for v in values]
        return elementwise.apply(ctx, node, lambda v: join(*v), values, BOOL)

    return rule


# --- reductions of one sample


def _reduce(name: str, *, of_none: int | None, dtype: str = "") -> Callable[[Context, exp.Anonymous, Arguments], Value]:
    """A reduction over the elements of a sample; ``of_none`` is what it is of none (``None``: missing)."""

    def rule(ctx: Context, node: exp.Anonymous, arguments: Arguments) -> Value:
        value = _numbers(ctx, arguments[0])
        result = dtype or ("float64" if value.is_float else "hugeint")
        if name in ("list_max", "list_min"):
            result = "int64" if value.dtype == BOOL else value.dtype
        if not value.is_array:
            return value.but(const=value.const, node=node)
        values = as_list(value)
        if value.dtype == BOOL:
            values = emit.cast(values, "INTEGER[]")
        found = emit.call(name, values)
        if name == "list_min" and value.maybe_nan:  # NaN is DuckDB's greatest number: only the maximum tells of it
            greatest = emit.call("list_max", values)
            found = emit.when(emit.call("isnan", greatest), greatest, found)
        if value.maybe_empty and of_none is not None:
            found = emit.coalesce(found, emit.number(of_none))
            if value.nullable:
                found = emit.when(kinds.is_present(value), found)
        nullable = value.nullable or (value.maybe_empty and of_none is None)
        return scalar(value, found, result, node=node, nullable=nullable)

    return rule


def _numbers(ctx: Context, node: Node) -> Value:
    value = ctx.eval(node)
    if not value.is_number:
        raise ctx.error(node, "this function is for arrays of numbers")
    return value


def _elementwise(name: str, dtype: str) -> Callable[[Context, exp.Anonymous, Arguments], Value]:
    def rule(ctx: Context, node: exp.Anonymous, arguments: Arguments) -> Value:
        value = ctx.eval(arguments[0])
        if value.dtype == JSON:
            value = scalar(value, emit.try_cast(json_text(value), "DOUBLE"), "float64", nullable=True)
        if not value.is_number and value.dtype != ANY:
            raise ctx.error(arguments[0], f"{name.upper()} needs numbers")
        result = dtype or (value.dtype if value.is_float else result_dtype(value, value))
        integer = not value.is_float and value.dtype != ANY and not dtype
        return elementwise.apply(
            ctx, node, lambda v: emit.call(name, emit.cast(v[0], "BIGINT") if integer else v[0]), [value],
            result
        )  # fmt: skip

    return rule


# --- shape


def _shape(ctx: Context, node: exp.Anonymous, arguments: Arguments) -> Value:
    value = ctx.look(arguments[0])
    if value.dtype in (TEXT, JSON):
        raise ctx.error(arguments[0], "texts and JSON have no shape; use LENGTH(…) or KEYS(…)")
    info = ctx.catalog.get(value.tensor or "")
    if info is not None and info.fixed_shape is not None and not value.nullable:
        return constant(ctx, node, np.array(info.fixed_shape, np.int64)).but(
            const=np.array(info.fixed_shape, np.int64), tensors=value.tensors
        )
    shape = kinds.shape_list(value)
    rank = len(kinds.dims(value))
    if info is not None and rank and (rank > 1 or value.unread):
        shape = emit.column(f"f{info.definition.id}__shape")  # as it lies there, not put together again
    elif value.nullable and all(isinstance(d, int) for d in kinds.dims(value)):
        shape = emit.when(kinds.is_present(value), shape)
    length = (rank,) if isinstance(value.shape, tuple) else (emit.call("len", shape),)
    return Value(sql=shape, dtype="int64", node=node, shape=length, nullable=value.nullable, tensors=value.tensors)


def _size(ctx: Context, node: exp.Anonymous, arguments: Arguments) -> Value:
    """Number of elements of a sample."""
    value = ctx.look(arguments[0])
    if value.unread:
        dims = kinds.shape_list(value)
        return scalar(value, emit.call("list_product", dims), "float64", node=node, unread="")
    if not value.is_array:
        return constant(ctx, node, 1)
    return scalar(value, emit.dim(kinds.size_of(value)), "int64", node=node)


# --- contains, keys


def _contains(ctx: Context, node: exp.Anonymous, arguments: Arguments) -> Value:
    value, wanted = ctx.eval(arguments[0]), ctx.eval(arguments[1])
    if wanted.is_array or wanted.dtype == NULL:
        raise ctx.error(arguments[1], "CONTAINS looks for one number or one text")
    if value.labels is not None and wanted.dtype == TEXT:
        if not wanted.is_const:
            raise ctx.error(arguments[1], "a class is named by a constant text")
        return contains_class(ctx, node, value, wanted.const, arguments[1])
    if value.dtype == JSON:
        paths = emit.text(json_path(value.path) + "[*]")
        items = emit.call("json_extract_string", value.sql, paths)
        sought = wanted.sql if wanted.dtype == TEXT else emit.cast(wanted.sql, "VARCHAR")
        return scalar(value, emit.call("list_contains", items, sought), BOOL, node=node, nullable=True)
    tensors = value.tensors | wanted.tensors
    nullable = value.nullable or wanted.nullable
    if value.dtype == TEXT and not value.is_array:
        if wanted.dtype != TEXT:
            raise ctx.error(arguments[1], "CONTAINS of a text looks for a text")
        sql = emit.call("contains", value.sql, wanted.sql)
    elif value.is_array:
        if (value.dtype == TEXT) != (wanted.dtype == TEXT):
            raise ctx.error(arguments[1], "CONTAINS looks for a value of the same kind as the elements")
        sql = emit.call("list_contains", as_list(value), like_column(wanted, value.dtype).sql)
        if wanted.maybe_nan:
            sql = emit.all_of(sql, emit.negate(emit.call("isnan", wanted.sql)))
    else:
        raise ctx.error(arguments[0], "CONTAINS is for texts, arrays, class labels and JSON lists")
    return scalar(value, sql, BOOL, node=node, nullable=nullable, tensors=tensors)


def _keys(ctx: Context, node: exp.Anonymous, arguments: Arguments) -> Value:
    value = ctx.eval(arguments[0])
    if value.dtype != JSON:
        raise ctx.error(arguments[0], "KEYS is for JSON")
    found = emit.call("json_keys", value.sql, *([emit.text(json_path(value.path))] if value.path else []))
    return Value(
        sql=found,
        dtype=TEXT,
        node=node,
        shape=(emit.call("len", found),),
        nullable=True,
        tensors=value.tensors,
    )


# --- rows


def _row_number(ctx: Context, node: exp.Anonymous, arguments: Arguments) -> Value:
    return Value(sql=ctx.row_number, dtype="int64", node=node)


def _random(ctx: Context, node: exp.Anonymous, arguments: Arguments) -> Value:
    """A non-negative 31-bit number made of the row, the seed, and which RANDOM() of the query it is."""
    stream = ctx.draws[0]
    ctx.draws[0] += 1
    drawn = emit.call("hash", emit.column(ROW), emit.number(ctx.seed), emit.number(stream))
    shifted = exp.BitwiseRightShift(this=drawn, expression=emit.number(33))
    return Value(sql=emit.cast(shifted, "BIGINT"), dtype="int64", node=node)


# --- DuckDB's functions


def _passed_through(ctx: Context, node: exp.Anonymous, name: str) -> Value:
    values = [ctx.eval(a) for a in node.expressions]
    if _characters(ctx, node) > TEXT_CHARS_MAX:
        raise ctx.error(node, f"{name} makes texts of more than {TEXT_CHARS_MAX:,} characters")
    if name in duckdb_functions.JOINING:
        values = [class_names(ctx, v.node, v) if v.labels is not None else v for v in values]
    arrays = [v for v in values if v.is_array]
    dtype = duckdb_functions.FUNCTIONS[name]
    if arrays and name in duckdb_functions.ELEMENTWISE:
        return elementwise.apply(ctx, node, lambda v: emit.call(name, *v), values, dtype)
    if arrays and name not in duckdb_functions.WHOLE_LIST:
        raise ctx.error(arrays[0].node, f"{name} takes single values, not arrays")
    if name in duckdb_functions.SAME_TYPE:
        dtype = common_dtype(ctx, values, node)
    return Value(
        sql=emit.call(name, *(_argument(v) for v in values)), dtype=dtype, node=node, nullable=True,
        tensors=frozenset[str]().union(*(v.tensors for v in values)),
    )  # fmt: skip


def _characters(ctx: Context, node: Node) -> int:
    """How long a text is that is made as long as a constant says; 1 where no constant does."""
    if isinstance(node, exp.Literal) and node.is_string:
        return len(str(node.this))
    name = str(node.this).lower() if isinstance(node, exp.Anonymous) else ""
    if name not in ("repeat", "lpad", "rpad") or len(node.expressions) < 2:
        return 1
    count = ctx.eval(node.expressions[1])
    times = int(count.const) if count.is_const and isinstance(count.const, int) else 1
    return times * _characters(ctx, node.expressions[0]) if name == "repeat" else times


def _argument(value: Value) -> Node:
    if value.is_array:
        return as_list(value)
    if value.dtype == JSON:
        return json_text(value) if value.path else value.sql
    if is_condition(value):
        return known(value).sql
    return value.sql


_sum, _mean = _reduce("list_sum", of_none=0), _reduce("list_avg", of_none=None, dtype="float64")
_max, _min = _reduce("list_max", of_none=None), _reduce("list_min", of_none=None)

FUNCTIONS: Mapping[str, Function] = {
    "any": Function(_any),
    "all": Function(_all),
    "all_strict": Function(_all_strict),
    "logical_and": Function(_logical(emit.all_of), 2, 2),
    "logical_or": Function(_logical(emit.any_of), 2, 2),
    "sum": Function(_sum),
    "avg": Function(_mean),
    "mean": Function(_mean),
    "prod": Function(_reduce("list_product", of_none=1, dtype="float64")),
    "amax": Function(_max),
    "amin": Function(_min),
    "max": Function(_max),
    "min": Function(_min),
    "sqrt": Function(_elementwise("sqrt", "float64")),
    "abs": Function(_elementwise("abs", "")),
    "shape": Function(_shape),
    "size": Function(_size),
    "contains": Function(_contains, 2, 2),
    "keys": Function(_keys),
    "row_number": Function(_row_number, 0, 0),
    "random": Function(_random, 0, 0),
    "cosine_similarity": Function(rules_vectors.cosine_similarity, 2, 2),
    "dot": Function(rules_vectors.dot, 2, 2),
    "l2_norm": Function(rules_vectors.l2_norm),
    "l1_norm": Function(rules_vectors.l1_norm),
    "linf_norm": Function(rules_vectors.linf_norm),
}

#: functions of TQL that later versions of lakefmt translate
LATER = frozenset(
    [
        "sample_info",
        "data",
        "nonzero",
        "hamming_distance",
        "maxsim",
        "bm25_similarity",
        "mmr_similarity",
        "max_weight",
        "sum_weight",
    ]
)

RULES: Mapping[type[Node], Rule] = {exp.Anonymous: _call}
