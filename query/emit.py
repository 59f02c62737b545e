"""Small constructors of DuckDB SQL, as sqlglot nodes.

Functions are always ``Anonymous`` nodes: the printer then writes the name it is given and never rewrites the
call. Parentheses are put by ``tight``: sqlglot prints binary nodes as they nest and does not add any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB

from lakefmt.query.syntax import Node

#: A number of the SQL: known at translation, or an expression.
Dim = int | Node

#: how tightly nodes bind when printed; what is not here needs no parentheses
_POWER: Mapping[type[Node], int] = {
    exp.Or: 1, exp.And: 2, exp.Not: 3,
    **dict.fromkeys((exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE), 4),
    **dict.fromkeys((exp.In, exp.Between, exp.Is, exp.Like, exp.ILike, exp.Escape), 4),
    exp.BitwiseRightShift: 5,
    **dict.fromkeys((exp.Add, exp.Sub), 6),
    **dict.fromkeys((exp.Mul, exp.Div, exp.Mod, exp.IntDiv), 7),
    exp.Neg: 8,
}  # fmt: skip
_COMPARISON, _NEGATION, _POSTFIX = 4, 8, 9


def column(name: str) -> Node:
    return exp.Column(this=exp.to_identifier(name))


def call(name: str, *arguments: Node) -> Node:
    return exp.Anonymous(this=name, expressions=list(arguments))


def number(value: int | float) -> Node:
    """A numeric literal. Floats have an exponent: DuckDB reads ``0.5`` as DECIMAL, ``5e-1`` as DOUBLE."""
    if isinstance(value, int):
        return exp.Literal.number(value)
    if not math.isfinite(value):
        return cast(exp.Literal.string(str(value)), "DOUBLE")
    text = repr(value)
    return exp.Literal.number(text if "e" in text else f"{text}e0")


def boolean(value: bool) -> Node:
    return exp.Boolean(this=value)


def text(value: str) -> Node:
    """A text of ours (a JSON path, an escape character). What users wrote is bound: see ``bind``."""
    return exp.Literal.string(value)


def bind(value: Any) -> Node:
    """A placeholder; ``print_sql`` numbers it and collects the value."""
    node = exp.Placeholder()
    node.meta["value"] = value
    return node


def cast(value: Node, type_name: str) -> Node:
    return exp.Cast(this=value, to=exp.DataType.build(type_name, dialect="duckdb"))


def try_cast(value: Node, type_name: str) -> Node:
    return exp.TryCast(this=value, to=exp.DataType.build(type_name, dialect="duckdb"))


def tight(value: Node, power: int) -> Node:
    """The node, in parentheses if it binds less tightly than ``power``."""
    return exp.Paren(this=value) if _POWER.get(type(value), 99) < power else value


def binary(node: type[exp.Binary], left: Node, right: Node) -> Node:
    """``left operator right``; comparisons do not chain, the others group to the left."""
    power = _POWER[node]
    strict = power + 1
    return node(this=tight(left, strict if power == _COMPARISON else power), expression=tight(right, strict))


def _chain(node: type[exp.Connector], parts: Sequence[Node]) -> Node:
    whole = parts[0]
    for part in parts[1:]:
        whole = node(this=tight(whole, _POWER[node]), expression=tight(part, _POWER[node]))
    return whole


def all_of(*parts: Node) -> Node:
    return _chain(exp.And, parts)


def any_of(*parts: Node) -> Node:
    return _chain(exp.Or, parts)


def negate(value: Node) -> Node:
    """NOT."""
    return exp.Not(this=tight(value, _COMPARISON))


def minus(value: Node) -> Node:
    """The negative; of a literal a literal, and never ``--``, which would begin a comment."""
    if isinstance(value, exp.Literal) and not value.is_string:
        written = str(value.this)
        if float(written) == 0:
            return value
        return exp.Literal.number(written[1:] if written.startswith("-") else f"-{written}")
    return exp.Neg(this=tight(value, _POSTFIX))


def is_null(value: Node) -> Node:
    return exp.Is(this=tight(value, _COMPARISON + 1), expression=exp.Null())


def is_not_null(value: Node) -> Node:
    return negate(is_null(value))


def coalesce(value: Node, default: Node) -> Node:
    return exp.Coalesce(this=value, expressions=[default])


def when(condition: Node, value: Node, default: Node | None = None) -> Node:
    return exp.Case(ifs=[exp.If(this=condition, true=value)], default=default)


def in_list(value: Node, values: Sequence[Node]) -> Node:
    return exp.In(this=tight(value, _COMPARISON + 1), expressions=list(values))


def in_rows(value: Node, values: Node) -> Node:
    """Whether a value is in a list that is given as one: DuckDB looks it up instead of comparing with each."""
    rows = exp.Select(expressions=[call("unnest", values)]).subquery()
    return exp.In(this=tight(value, _COMPARISON + 1), query=rows)


def array(values: Sequence[Node]) -> Node:
    return exp.Array(expressions=list(values))


def between(value: Node, low: Node, high: Node) -> Node:
    operands = (tight(v, _COMPARISON + 1) for v in (value, low, high))
    return exp.Between(**dict(zip(("this", "low", "high"), operands, strict=True)))


def matches(node: type[exp.Binary], value: Node, pattern: Node) -> Node:
    """LIKE, ILIKE."""
    return node(this=tight(value, _COMPARISON + 1), expression=pattern)


def _indexed(value: Node) -> Node:
    return exp.Paren(this=value) if isinstance(value, (exp.Case, exp.Cast)) else tight(value, _POSTFIX)


def item(value: Node, index: Node) -> Node:
    """``value[index]``, DuckDB's 1-based index."""
    if isinstance(value, exp.Array) and isinstance(index, exp.Literal):
        place = int(str(index.this))
        if 0 < place <= len(value.expressions):  # of a list written out, such as the shape of an expression
            found: Node = value.expressions[place - 1]
            return found
    return exp.Bracket(this=_indexed(value), expressions=[index])


def slice_of(value: Node, first: Node | None, last: Node | None, step: Node | None = None) -> Node:
    """``value[first:last:step]``, 1-based, both ends included."""
    if step is not None and last is None:
        last = exp.Var(this="-")  # DuckDB's spelling of an open end before a step
    return exp.Bracket(this=_indexed(value), expressions=[exp.Slice(this=first, expression=last, step=step)])


def transform(values: Node, body: Node, *names: str) -> Node:
    """``list_transform(values, lambda names: body)``."""
    function = exp.Lambda(this=body, expressions=[exp.to_identifier(n) for n in names])
    return call("list_transform", values, function)


def variable(name: str) -> Node:
    return exp.to_identifier(name)


# --- arithmetic on dimensions: folded when known, so that fixed shapes leave constants in the SQL


def dim(value: Dim) -> Node:
    return number(value) if isinstance(value, int) else value


def dim_add(left: Dim, right: Dim) -> Dim:
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    if left == 0:
        return right
    if right == 0:
        return left
    if isinstance(left, int):
        left, right = right, left
    if isinstance(right, int) and isinstance(left, exp.Add) and isinstance(left.expression, exp.Literal):
        return dim_add(left.this, int(str(left.expression.this)) + right)
    if isinstance(right, int) and right < 0:
        return binary(exp.Sub, dim(left), number(-right))
    return binary(exp.Add, dim(left), dim(right))


def dim_mul(left: Dim, right: Dim) -> Dim:
    if isinstance(left, int) and isinstance(right, int):
        return left * right
    if left == 1:
        return right
    if right == 1:
        return left
    if isinstance(left, int):
        left, right = right, left
    return 0 if right == 0 else binary(exp.Mul, dim(left), dim(right))


def dim_product(dims: Sequence[Dim]) -> Dim:
    whole: Dim = 1
    for one in dims:
        whole = dim_mul(whole, one)
    return whole


def _lambda_sql(printer: Any, node: exp.Lambda) -> str:
    names = ", ".join(printer.sql(name) for name in node.expressions)
    return f"lambda {names}: {printer.sql(node, 'this')}"


def _slice_sql(printer: Any, node: exp.Slice) -> str:
    ends = f"{printer.sql(node, 'this')}:{printer.sql(node, 'expression')}"
    step = printer.sql(node, "step")
    return f"{ends}:{step}" if step else ends


def _bracket_sql(printer: Any, node: exp.Bracket) -> str:
    return f"{printer.sql(node, 'this')}[{', '.join(printer.sql(one) for one in node.expressions)}]"


class _Sql(DuckDB):
    """DuckDB's dialect as DuckDB 2.0 reads it: older sqlglot writes ``x -> …`` and forgets the step of a slice."""

    class Generator(DuckDB.Generator):  # type: ignore[misc, valid-type]  # a variable there
        TRANSFORMS: ClassVar = {
            **DuckDB.Generator.TRANSFORMS,
            exp.Lambda: _lambda_sql,
            exp.Slice: _slice_sql,
            exp.Bracket: _bracket_sql,
        }


def print_sql(tree: Node) -> tuple[str, list[object]]:
    """The SQL text, and the values of its placeholders ``$1 …`` in order."""
    values: list[object] = []
    numbers: dict[int, int] = {}
    for node in tree.find_all(exp.Placeholder, bfs=False):
        if id(node) not in numbers:
            values.append(node.meta["value"])
            numbers[id(node)] = len(values)
        node.set("this", str(numbers[id(node)]))
    return tree.sql(dialect=_Sql, normalize_functions=False, comments=False), values
