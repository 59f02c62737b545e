"""Rules for operators: comparisons, arithmetic, truth, BETWEEN, IS NULL, CASE, CAST.

Truth in TQL has two values: a comparison with a missing sample is false, and its NOT is true. A NULL under
AND and OR reads as false in WHERE anyway, so that the SQL needs ``coalesce`` only where NOT, or the select
list, would show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from sqlglot import exp

from lakefmt.query import elementwise, emit, kinds
from lakefmt.query.constants import SQL_TYPES, constant, like_column
from lakefmt.query.context import Context, Rule
from lakefmt.query.kinds import ANY, BOOL, JSON, NULL, TEXT, Value, as_list, scalar
from lakefmt.query.rules_names import class_id
from lakefmt.query.syntax import Node

_SYMBOLS: Mapping[type[Node], str] = {
    exp.EQ: "==", exp.NEQ: "!=", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
    exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%",
}  # fmt: skip

# --- truth


def truth(ctx: Context, value: Value) -> Value:
    """A value as one condition. NULL stands for false.

    Raises:
        TqlError: the value is an array, or a text.
    """
    if value.truth is not None:
        return value.truth
    if value.is_array:
        raise ctx.error(value.node, "this condition is an array: wrap it in ANY(…) or ALL(…)")
    if value.dtype == BOOL:
        return value
    if value.dtype == ANY:
        ctx.unclear.append(value.node)
        return value
    if value.dtype == NULL:
        return constant(ctx, value.node, False)
    if value.dtype == JSON:
        return scalar(value, emit.try_cast(json_text(value), "BOOLEAN"), BOOL, nullable=True)
    if value.is_number:
        ctx.unclear.append(value.node)
        if value.is_const:
            return constant(ctx, value.node, bool(value.const))
        return scalar(value, emit.binary(exp.NEQ, value.sql, emit.number(0)), BOOL)
    raise ctx.error(value.node, "a text is no condition: compare it with something")


_CONDITIONS = (
    exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.And, exp.Or, exp.Not, exp.In, exp.Between, exp.Like,
    exp.ILike, exp.Is,
)  # fmt: skip
_CONDITION_FUNCTIONS = frozenset(("any", "all", "all_strict", "contains", "logical_and", "logical_or"))


def is_condition(value: Value) -> bool:
    """Whether a boolean is the outcome of a test, hence never missing, and not a stored boolean, which may be."""
    if value.dtype != BOOL or value.is_array:
        return False
    if isinstance(value.node, exp.Anonymous):
        return str(value.node.this).lower() in _CONDITION_FUNCTIONS
    return isinstance(value.node, _CONDITIONS)


def known(value: Value) -> Value:
    """A condition that is never NULL."""
    if not value.nullable:
        return value
    return scalar(value, emit.coalesce(value.sql, emit.boolean(False)), BOOL, nullable=False)


def _connect(ctx: Context, node: exp.Connector) -> Value:
    values = [truth(ctx, ctx.eval(one)) for one in _operands(node)]
    decides = not isinstance(node, exp.And)  # FALSE decides an AND, TRUE an OR; the other constant adds nothing
    for one in values:
        if one.is_const and bool(one.const) == decides:
            return one
    left = [one for one in values if not one.is_const]
    if not left:
        return values[0]
    join = emit.any_of if decides else emit.all_of
    return scalar(
        left[0], join(*(one.sql for one in left)), BOOL, node=node, nullable=any(one.nullable for one in left),
        tensors=frozenset[str]().union(*(one.tensors for one in left)),
    )  # fmt: skip


def _operands(node: exp.Connector) -> list[Node]:
    """``a AND b AND c`` as a list; a long chain is no deep tree then."""
    found: list[Node] = []
    whole: Node = node
    while type(whole) is type(node):
        found.append(whole.expression)
        whole = whole.this
    return [whole, *reversed(found)]


def _not(ctx: Context, node: exp.Not) -> Value:
    inner = ctx.eval(node.this)
    if inner.is_array and inner.truth is None:
        return elementwise.apply(ctx, node, lambda v: emit.negate(v[0]), [as_bool_elements(ctx, inner)], BOOL)
    return invert(ctx, inner, node)


def invert(ctx: Context, value: Value, node: Node) -> Value:
    """NOT of a condition; false for a missing sample first, hence true."""
    condition = known(truth(ctx, value))
    if condition.is_const:
        return constant(ctx, node, not condition.const)
    return scalar(condition, emit.negate(condition.sql), BOOL, node=node)


def as_bool_elements(ctx: Context, value: Value) -> Value:
    """An array (or scalar) whose elements are conditions; numbers are true when not zero."""
    if value.dtype == BOOL:
        return value.but(const=value.const)
    if not value.is_number:
        raise ctx.error(value.node, "this is no condition, nor an array of conditions")
    zero = emit.number(0)
    return elementwise.apply(ctx, value.node, lambda v: emit.binary(exp.NEQ, v[0], zero), [value], BOOL)


# --- comparison


def json_text(value: Value) -> Node:
    """A JSON value as text: strings without quotes, missing keys as NULL."""
    return emit.call("json_extract_string", value.sql, emit.text(json_path(value.path)))


def json_path(keys: tuple[str | int, ...]) -> str:
    """DuckDB's JSON path of a chain of keys and list positions."""
    parts = ["$"]
    for key in keys:
        if isinstance(key, int):
            parts.append(f"[{key}]" if key >= 0 else f"[#{key}]")
        else:
            parts.append('."' + key.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return "".join(parts)


def json_number(value: Value) -> Node:
    return emit.try_cast(json_text(value), "DOUBLE")


def _compare(ctx: Context, node: exp.Binary) -> Value:
    return compare(ctx, type(node), ctx.eval(node.this), ctx.eval(node.expression), node)


def compare(ctx: Context, operator: type[exp.Binary], left: Value, right: Value, node: Node) -> Value:
    """``left operator right`` of any two values."""
    if NULL in (left.dtype, right.dtype):
        raise ctx.error(node, "comparing with NULL is never true: use IS NULL or IS NOT NULL")
    if left.labels is not None and right.dtype == TEXT:
        return _compare_class(ctx, operator, left, right, node)
    if right.labels is not None and left.dtype == TEXT:
        return _compare_class(ctx, operator, right, left, node)
    left, right = _one_truth(left, right), _one_truth(right, left)
    left, right = comparable(ctx, left, right, node)
    left, right = like_column(left, right.dtype), like_column(right, left.dtype)
    left, right = _plain_bool(left, right), _plain_bool(right, left)

    def operation(sql: list[Node]) -> Node:
        return compare_sql(operator, sql[0], sql[1], left, right)

    return elementwise.apply(ctx, node, operation, [left, right], BOOL)


def _one_truth(value: Value, other: Value) -> Value:
    """``tags == 'red'`` next to another condition is one truth value, not one for each element."""
    return value if value.truth is None or (other.is_array and other.truth is None) else value.truth


def _plain_bool(value: Value, other: Value) -> Value:
    """A boolean as it is compared: of a test never missing, next to numbers 0 or 1."""
    if value.dtype != BOOL or value.is_array or value.is_const:
        return value
    if is_condition(value):
        value = known(value)
    if other.is_number and other.dtype != BOOL and not other.is_const:
        return scalar(value, emit.cast(value.sql, "INTEGER"), "int32")
    return value


def comparable(ctx: Context, left: Value, right: Value, node: Node) -> tuple[Value, Value]:
    """Bring two values to types that DuckDB compares as meant."""
    if JSON in (left.dtype, right.dtype):
        return json_as(ctx, left, right), json_as(ctx, right, left)
    if ANY in (left.dtype, right.dtype):
        return left, right
    if (left.dtype == TEXT) != (right.dtype == TEXT):
        text, other = (left, right) if left.dtype == TEXT else (right, left)
        shown = repr(text.const) if text.is_const and isinstance(text.const, str) else "a text"
        hint = "" if other.labels is not None else ": CAST one of them if that is meant"
        raise ctx.error(node, f"cannot compare {shown} with {_described(other)}{hint}")
    return left, right


def _described(value: Value) -> str:
    what = "an array of numbers" if value.is_array else "a number"
    return f"{what} ({value.tensor!r} is of dtype {value.dtype})" if value.tensor else what


def json_as(ctx: Context, value: Value, other: Value) -> Value:
    """A JSON value read as what it is compared with."""
    if value.dtype != JSON:
        return value
    if other.dtype == BOOL:
        return scalar(value, emit.try_cast(json_text(value), "BOOLEAN"), BOOL, nullable=True)
    if other.is_number:
        return scalar(value, json_number(value), "float64", nullable=True)
    return scalar(value, json_text(value), TEXT, nullable=True)


def compare_sql(operator: type[exp.Binary], left: Node, right: Node, one: Value, two: Value) -> Node:
    """A comparison in which NaN behaves as IEEE says: unequal to all, neither less nor greater.

    DuckDB orders NaN above everything and takes it for equal to itself; so only the greater side of an
    inequality, and both sides of an equality, need a guard.
    """
    plain = emit.binary(operator, left, right)
    if operator in (exp.EQ, exp.NEQ):
        if not (one.maybe_nan and two.maybe_nan):
            return plain
        nan = emit.call("isnan", left)
        return emit.all_of(plain, emit.negate(nan)) if operator is exp.EQ else emit.any_of(plain, nan)
    greater, value = (left, one) if operator in (exp.GT, exp.GTE) else (right, two)
    if not value.maybe_nan:
        return plain
    if not isinstance(greater, (exp.Column, exp.Identifier)) and not (one.maybe_nan and two.maybe_nan):
        # a long expression is not written twice: under a minus the order turns around, and NaN stays the
        # greatest
        mirrored = {exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE}[operator]
        return emit.binary(mirrored, emit.minus(_signed(left, one, two)), emit.minus(_signed(right, two, one)))
    return emit.all_of(plain, emit.negate(emit.call("isnan", greater)))


def _signed(sql: Node, value: Value, other: Value) -> Node:
    """An operand in a type that has a minus for all its values: unsigned integers have none, nor has the least signed one."""
    if (value.is_const and not value.is_array) or value.dtype not in kinds.INTEGERS or other.dtype not in kinds.FLOATS:
        return sql
    return emit.cast(sql, SQL_TYPES[other.dtype])  # which is what it is compared in anyway


def _compare_class(ctx: Context, operator: type[exp.Binary], labels: Value, name: Value, node: Node) -> Value:
    assert labels.labels is not None
    if not name.is_const or name.is_array:
        raise ctx.error(name.node, f"a class of {labels.labels.name!r} is named by a constant text")
    if operator not in (exp.EQ, exp.NEQ):
        raise ctx.error(node, f"class names have no order: {_SYMBOLS[operator]} needs class ids")
    wanted = class_id(ctx, labels.labels, name.const, name.node)
    found = elementwise.apply(ctx, node, lambda v: emit.binary(operator, v[0], emit.number(wanted)), [labels], BOOL)
    if not labels.is_array:
        return found
    held = scalar(labels, emit.call("list_contains", as_list(labels), emit.number(wanted)), BOOL, node=node)
    if operator is exp.NEQ:
        held = scalar(held, emit.negate(held.sql), BOOL)
    return replace(found, truth=held)


# --- arithmetic


def _arithmetic(ctx: Context, node: exp.Binary) -> Value:
    left, right = _number(ctx, ctx.eval(node.this), node), _number(ctx, ctx.eval(node.expression), node)
    if left.is_const and right.is_const and (folded := _fold(ctx, node, left, right)) is not None:
        return folded
    if {left.dtype, right.dtype} & kinds.FLOATS:
        left, right = like_column(left, right.dtype), like_column(right, left.dtype)
    dtype = "float64" if isinstance(node, exp.Div) and not {left.dtype, right.dtype} & kinds.FLOATS else ""
    dtype = dtype or result_dtype(left, right)
    operator = type(node)
    if isinstance(node, exp.Mod) and right.is_const and not right.is_array and right.const == 0:
        raise ctx.error(node, "remainder of a division by zero")
    guard = isinstance(node, exp.Mod) and not right.is_const and dtype not in kinds.FLOATS

    def operation(sql: list[Node]) -> Node:
        one, two = _widened(sql[0], left, dtype, operator), _widened(sql[1], right, dtype, operator)
        if guard:  # x % 0 has no value; DuckDB would stop the whole query
            two = emit.call("nullif", two, emit.number(0))
        return emit.binary(operator, one, two)

    found = elementwise.apply(ctx, node, operation, [left, right], dtype)
    return replace(found, nullable=True) if guard else found


def _number(ctx: Context, value: Value, node: Node) -> Value:
    if value.dtype == JSON:
        return scalar(value, json_number(value), "float64", nullable=True)
    if value.is_number or value.dtype == ANY:
        return value
    what = "NULL" if value.dtype == NULL else "a text"
    raise ctx.error(value.node, f"{_SYMBOLS.get(type(node), 'arithmetic')} needs numbers, not {what}")


_FOLDS = {exp.Add: np.add, exp.Sub: np.subtract, exp.Mul: np.multiply, exp.Div: np.divide, exp.Mod: np.fmod}


def _fold(ctx: Context, node: exp.Binary, left: Value, right: Value) -> Value | None:
    """Arithmetic of constants, done here. Integers that would wrap are left to DuckDB, which reports them."""
    with np.errstate(all="ignore"):
        try:
            found = _FOLDS[type(node)](np.asarray(left.const) * 1, np.asarray(right.const) * 1)
        except (ValueError, TypeError, OverflowError):
            return None
        if found.dtype.kind in "iu" and not np.array_equal(
            found, _FOLDS[type(node)](np.asarray(left.const, np.float64), np.asarray(right.const, np.float64))
        ):
            return None
    return constant(ctx, node, found if found.ndim else found.item())


def result_dtype(left: Value, right: Value) -> str:
    """Element type of a sum or product: float32 stays so among itself and constants; else 64 bits."""
    dtypes = {left.dtype, right.dtype}
    if ANY in dtypes:
        return ANY
    if dtypes & kinds.FLOATS:
        narrow = all(v.dtype in ("float16", "float32") or v.is_const for v in (left, right))
        return "float32" if narrow else "float64"
    return "hugeint" if dtypes & {"uint64", "hugeint"} else "int64"


def _widened(sql: Node, value: Value, dtype: str, operator: type[Node]) -> Node:
    """An operand in the type the result is computed in: 8-bit integers would overflow at 255."""
    if value.is_const or value.dtype == ANY or dtype == ANY or value.dtype == dtype:
        return sql
    if dtype in kinds.FLOATS:
        if dtype == "float32" or (operator is exp.Div and value.dtype in kinds.INTEGERS):
            return sql
        return emit.cast(sql, "DOUBLE")
    return emit.cast(sql, SQL_TYPES[dtype])


def _negative(ctx: Context, node: exp.Neg) -> Value:
    value = _number(ctx, ctx.eval(node.this), node)
    if value.is_const and not value.is_array:
        return constant(ctx, node, -value.const)
    dtype = value.dtype if value.is_float or value.dtype == ANY else result_dtype(value, value)
    return elementwise.apply(ctx, node, lambda v: emit.minus(_widened(v[0], value, dtype, exp.Neg)), [value], dtype)


# --- BETWEEN, IS NULL


def _between(ctx: Context, node: exp.Between) -> Value:
    value = ctx.eval(node.this)
    low, high = ctx.eval(node.args["low"]), ctx.eval(node.args["high"])
    for bound in (low, high):
        if value.labels is not None and bound.dtype == TEXT:
            raise ctx.error(bound.node, "class names have no order: BETWEEN needs class ids")
        if bound.dtype == NULL:
            raise ctx.error(bound.node, "a bound of BETWEEN is a number or a text")
    (value, low), (_, high) = comparable(ctx, value, low, node), comparable(ctx, value, high, node)
    low, high = like_column(low, value.dtype), like_column(high, value.dtype)
    if high.maybe_nan or low.maybe_nan:
        above = compare(ctx, exp.GTE, value, low, node)
        below = compare(ctx, exp.LTE, value, high, node)
        return elementwise.apply(ctx, node, lambda v: emit.all_of(*v), [above, below], BOOL)

    def operation(sql: list[Node]) -> Node:
        return emit.between(*sql)

    return elementwise.apply(ctx, node, operation, [value, low, high], BOOL)


def _is(ctx: Context, node: exp.Is) -> Value:
    value = ctx.look(node.this)
    if value.dtype == NULL:
        return constant(ctx, node, True)
    if value.is_const or is_condition(value) or not (value.nullable or value.dtype in (JSON, ANY)):
        return constant(ctx, node, False)
    sql = value.sql
    if value.unread:
        sql = emit.column(f"f{ctx.catalog[value.tensor or ''].definition.id}__shape")
    elif value.dtype == JSON and value.path:
        sql = json_text(value)
    return scalar(value, emit.is_null(sql), BOOL, node=node, nullable=False, unread="")


# --- CASE, CAST


def _case(ctx: Context, node: exp.Case) -> Value:
    subject = ctx.eval(node.this) if node.this is not None else None
    conditions: list[Value] = []
    for branch in node.args["ifs"]:
        value = ctx.eval(branch.this)
        if subject is not None:
            value = compare(ctx, exp.EQ, subject, value, branch.this)
        conditions.append(truth(ctx, value))
    results = [ctx.eval(b.args["true"]) for b in node.args["ifs"]]
    default = node.args.get("default")
    if default is not None:
        results.append(ctx.eval(default))
    for one in results:
        if one.is_array:
            raise ctx.error(one.node, "a result of CASE is one value, not an array")
    dtype = common_dtype(ctx, results, node)
    branches = [exp.If(this=c.sql, true=_result(r)) for c, r in zip(conditions, results, strict=False)]
    otherwise = _result(results[-1]) if default is not None else None
    return Value(
        sql=exp.Case(ifs=branches, default=otherwise), dtype=dtype, node=node,
        nullable=default is None or any(r.nullable for r in results),
        tensors=frozenset[str]().union(*(v.tensors for v in (*conditions, *results))),
    )  # fmt: skip


def _result(value: Value) -> Node:
    return json_text(value) if value.dtype == JSON else value.sql


def common_dtype(ctx: Context, values: list[Value], node: Node) -> str:
    """The type that alternatives of one expression share."""
    dtypes = {TEXT if v.dtype == JSON else v.dtype for v in values if v.dtype != NULL}
    if len(dtypes) <= 1:
        return dtypes.pop() if dtypes else NULL
    if ANY in dtypes:
        return ANY
    if TEXT in dtypes:
        raise ctx.error(node, "the alternatives are partly texts, partly numbers: CAST them to one type")
    return "float64" if dtypes & kinds.FLOATS else "int64"


#: types of CAST, and the element type that comes out
_CASTS: Mapping[str, tuple[str, str]] = {
    **{name: (name, dtype) for dtype, name in SQL_TYPES.items() if dtype != "float16"},
    **{
        alias: (name, dtype)
        for aliases, name, dtype in (
            ("INT SIGNED INT4", "INTEGER", "int32"), ("LONG INT8", "BIGINT", "int64"),
            ("INT2 SHORT", "SMALLINT", "int16"), ("INT1", "TINYINT", "int8"), ("BOOL LOGICAL", "BOOLEAN", BOOL),
            ("REAL FLOAT4", "FLOAT", "float32"),
            ("FLOAT8", "DOUBLE", "float64"), ("TEXT STRING CHAR", "VARCHAR", TEXT),
            ("DATE", "DATE", ANY), ("TIMESTAMP DATETIME", "TIMESTAMP", ANY), ("TIME", "TIME", ANY),
        )
        for alias in aliases.split()
    },
    "DOUBLE PRECISION": ("DOUBLE", "float64"),
}  # fmt: skip


def _cast(ctx: Context, node: exp.Cast) -> Value:
    value = ctx.eval(node.this)
    wanted = node.args["to"]
    row = _CASTS.get(wanted.name.upper())
    if row is None:
        raise ctx.error(wanted, f"CAST knows no type {wanted.name!r}; it knows {', '.join(sorted(_CASTS))}")
    type_name, dtype = row
    if dtype == TEXT and value.labels is not None:
        return class_names(ctx, node, value)
    make = emit.try_cast if isinstance(node, exp.TryCast) else emit.cast
    if value.dtype == JSON:
        value = json_as(ctx, value, constant(ctx, node, ""))
    found = elementwise.apply(ctx, node, lambda v: make(v[0], type_name), [value], dtype)
    return replace(found, nullable=True) if isinstance(node, exp.TryCast) else found


def class_names(ctx: Context, node: Node, value: Value) -> Value:
    """Labels as text: the names of the classes, missing for an id that has none; ids where the tensor names no class at all."""
    names = value.labels.class_names if value.labels is not None else None
    if not names:
        return elementwise.apply(ctx, node, lambda v: emit.cast(v[0], "VARCHAR"), [value], TEXT)
    known_names = emit.cast(emit.bind(list(names)), "VARCHAR[]")
    named = elementwise.apply(ctx, node, lambda v: emit.item(known_names, emit.dim(emit.dim_add(v[0], 1))), [value], TEXT)
    return replace(named, nullable=True)


RULES: Mapping[type[Node], Rule] = {
    **dict.fromkeys((exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE), _compare),
    **dict.fromkeys((exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod), _arithmetic),
    **dict.fromkeys((exp.And, exp.Or), _connect),
    exp.Not: _not,
    exp.Neg: _negative,
    exp.Between: _between,
    exp.Is: _is,
    exp.Case: _case,
    exp.Cast: _cast,
    exp.TryCast: _cast,
}
