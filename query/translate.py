"""From a TQL query to DuckDB SQL over the relation ``t``.

A SELECT becomes a ``_Plan``: conditions, sort keys, output columns. A nested SELECT is merged into the outer
one (its expressions are put in place of its names) unless it limits its rows; then it becomes a derived
table. The result of the SQL is always an ordered list of rows of ``t``; plain tensors are fetched by the
caller for those rows only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlglot import exp

from lakefmt.errors import TqlError
from lakefmt.htypes import Kind
from lakefmt.query import (
    emit,
    grammar,
    kinds,
    pyfilter,
    rules_functions,
    rules_indexing,
    rules_membership,
    rules_names,
    rules_operators,
)
from lakefmt.query.catalog import Catalog, TensorInfo
from lakefmt.query.context import ROW, Context, Parameters, Rule
from lakefmt.query.kinds import Value
from lakefmt.query.rules_operators import is_condition, json_number, json_path, json_text, known, truth
from lakefmt.query.syntax import Node, Span, at, span_of

#: the rule of each kind of syntax node; what is not here is an error
RULES: Mapping[type[Node], Rule] = {
    **rules_names.RULES,
    **rules_operators.RULES,
    **rules_membership.RULES,
    **rules_indexing.RULES,
    **rules_functions.RULES,
}


@dataclass(frozen=True, slots=True)
class Column:
    """An output column of a query.

    Attributes:
        name: what the query calls it.
        tensor: the tensor to fetch lazily, when it is one as it stands; else ``None``.
        sql_name: the column of the SQL's result, when it is computed; else ``None``.
        kind: ``number``, ``bool``, ``text``, ``json``, ``any`` (whatever DuckDB returned), or ``array`` (a
            flat list).
        dtype: NumPy dtype name of numbers and of the elements of arrays; '' otherwise.
        shape: of arrays, when the same in every row.
        shape_name: the column of the SQL's result that holds an array's shape, when it is neither known nor
            1-D.
    """

    name: str
    tensor: str | None
    sql_name: str | None
    kind: str
    dtype: str = ""
    shape: tuple[int, ...] | None = None
    shape_name: str | None = None


@dataclass(frozen=True, slots=True)
class Translation:
    """A translated query.

    Attributes:
        sql: DuckDB SQL over ``t``. Its first column is ``_row``, then come the computed columns. It is fully
            ordered.
        parameters: values of ``$1``, ``$2``, …
        columns: the output columns, in the order of the select list, ``*`` expanded.
        reads: which columns of ``t`` the SQL touches: (field id, "value" or "shape").
        source: what stands after FROM, or ``None``.
        unclear: places (start, end) where a number stands for a condition. Reading, "not zero" is meant; what is to be
            deleted or updated must be said.
    """

    sql: str
    parameters: list[object]
    columns: tuple[Column, ...]
    reads: frozenset[tuple[int, str]]
    source: str | None
    unclear: tuple[Span, ...] = ()


def translate(
    text: str,
    catalog: Catalog,
    parameters: Sequence[object] | Mapping[str, object] | None = None,
    seed: int = 0,
) -> Translation:
    """Translate a query, or a bare condition.

    Args:
        text: a SELECT statement; or a condition, in TQL or in the Python spelling of Deep Lake's string
            filters.
        catalog: the tensors of the dataset.
        parameters: values of ``?`` (a sequence) or of ``$name`` (a mapping).
        seed: of RANDOM().

    Raises:
        TqlError: the query is not understood; ``position`` points at the place.
    """
    try:
        statement = _parse(text, catalog)
        context = Context(text, catalog, RULES, Parameters(parameters), seed)
        plan = _plan(context, statement)
        tree, columns = _render(plan)
        context.parameters.check_all_used(text)
        sql, values = emit.print_sql(tree)
    except RecursionError:
        raise TqlError("the query nests too deeply", text, 0, len(text)) from None
    return Translation(sql, values, columns, _reads(tree), plan.source, tuple(map(span_of, context.unclear)))


def _parse(text: str, catalog: Catalog) -> exp.Select:
    if grammar.is_select(text, catalog):
        return grammar.parse_select(text)
    statement = exp.Select(expressions=[at(exp.Star(), 0, 1)])
    statement.set("where", pyfilter.parse_condition(text, catalog))
    return at_whole(statement, text)


def at_whole(statement: exp.Select, text: str) -> exp.Select:
    at(statement, 0, len(text))
    return statement


_FIELD = re.compile(r"f(\d+)(__shape)?")


def _reads(tree: Node) -> frozenset[tuple[int, str]]:
    matches = (_FIELD.fullmatch(column.name) for column in tree.find_all(exp.Column))
    return frozenset((int(m[1]), "shape" if m[2] else "value") for m in matches if m)


# --- planning


@dataclass(frozen=True, slots=True)
class _Key:
    """A sort key: SQL that DuckDB sorts in the wanted order, NaN and NULL last."""

    sql: Node
    desc: bool = False
    mirrored: bool = False  # to be negated: descending floats, so that NaN comes last


@dataclass(frozen=True, slots=True)
class _Output:
    """A column of the select list: a tensor as it stands, or a computed value."""

    name: str
    info: TensorInfo | None = None
    value: Value | None = None


@dataclass(slots=True)
class _Plan:
    """One SELECT, its nested SELECT merged in or standing in ``table``."""

    context: Context
    outputs: list[_Output]
    table: Node
    wheres: list[Node] = field(default_factory=list)
    keys: list[_Key] = field(default_factory=list)
    distinct: list[Node] | None = None
    limit: int | None = None
    offset: int = 0
    source: str | None = None
    level: int = 0

    @property
    def cuts(self) -> bool:
        """Whether it keeps rows by their place, so that it cannot be merged into an outer SELECT."""
        return self.limit is not None or self.offset > 0 or self.distinct is not None


def _plan(ctx: Context, node: exp.Select) -> _Plan:
    plan = _from(ctx, node)
    inner = plan.context
    items = node.expressions
    inner.aliases = {}
    for one in items:
        if isinstance(one, exp.Alias):
            inner.aliases[one.alias] = _Alias(inner, one)
    where = node.args.get("where")
    if where is not None:
        condition = truth(inner, inner.eval(where))
        if not (condition.is_const and condition.const):
            plan.wheres.append(condition.sql)
    inner.aliases_first = True
    own = [key for one in node.args.get("order") or () for key in _sort_keys(inner, one)]
    plan.keys = own + plan.keys
    inner.aliases = {}
    plan.limit = _row_count(inner, node.args.get("limit"), "LIMIT")
    plan.offset = _row_count(inner, node.args.get("offset"), "OFFSET") or 0
    inner.row_number = _output_row_number(plan)
    plan.outputs = _select_list(inner, plan.outputs, items)
    if (distinct := node.args.get("distinct")) is not None:
        if any(str(n.this).lower() == "row_number" for one in items for n in one.find_all(exp.Anonymous)):
            raise ctx.error(distinct, "DISTINCT together with ROW_NUMBER() is not supported yet")
        plan.distinct = [sql for one in plan.outputs for sql in _identity(inner, one, distinct)]
    return plan


class _Alias:
    """The value of ``e AS name``, for WHERE and ORDER BY. One that needs itself is an error, not a loop."""

    def __init__(self, ctx: Context, node: exp.Alias) -> None:
        self.ctx, self.node, self.busy = ctx, node, False

    def __call__(self) -> Value:
        if self.busy:
            raise self.ctx.error(self.node, f"{self.node.alias!r} is computed from itself")
        self.busy = True
        first, self.ctx.aliases_first = self.ctx.aliases_first, False
        try:
            return self.ctx.look(self.node.this)
        finally:
            self.busy, self.ctx.aliases_first = False, first


def _from(ctx: Context, node: exp.Select) -> _Plan:
    """The rows that a SELECT begins with."""
    source = node.args.get("from_")
    if not isinstance(source, exp.Subquery):
        outputs = [_Output(name, info=info) for name, info in ctx.catalog.items()]
        name = None if source is None else source.name
        fresh = replace(ctx, aliases={}, aliases_first=False, row_number=emit.column(ROW))
        return _Plan(fresh, outputs, exp.to_table("t"), source=name)
    inner = _plan(ctx, source.this)
    numbered = _uses_row_number(node)
    if numbered and inner.distinct is not None:
        raise ctx.error(source, "ROW_NUMBER() of a SELECT DISTINCT is not supported yet")
    if inner.cuts or (numbered and (inner.wheres or inner.keys)):
        inner = _materialised(inner)
    else:
        inner.context.row_number = emit.column(ROW)
    inner.context.catalog = {o.name: o.info for o in inner.outputs if o.info is not None}
    inner.context.computed = {o.name: o.value for o in inner.outputs if o.value is not None}
    inner.context.aliases_first = False
    return inner


def _uses_row_number(node: exp.Select) -> bool:
    """Whether WHERE or ORDER BY ask for the place in the rows they are given."""
    clauses = [node.args.get("where"), *(node.args.get("order") or ())]
    calls = (call for clause in clauses if clause is not None for call in clause.find_all(exp.Anonymous))
    return any(str(call.this).lower() == "row_number" for call in calls)


def _materialised(inner: _Plan) -> _Plan:
    """An inner SELECT as a derived table that keeps its computed values, its order, and each row's place."""
    level = inner.level + 1
    columns: list[Node] = [exp.Star()]
    outputs: list[_Output] = []
    for k, one in enumerate(inner.outputs):
        if one.value is None or one.value.is_const:
            outputs.append(one)
            continue
        name = f"_s{level}_{k}"
        sql = kinds.as_list(one.value) if one.value.is_array else one.value.sql
        columns.append(exp.alias_(sql, name))
        kept = one.value.but(sql=emit.column(name), body=None, strided=None, guards=(), truth=None)
        outputs.append(replace(one, value=kept))
    place = f"_p{level}"
    ordered = exp.Window(this=emit.call("row_number"), order=exp.Order(expressions=_ordering(inner.keys)))
    columns.append(exp.alias_(emit.binary(exp.Sub, ordered, emit.number(1 + inner.offset)), place))
    table = _select(inner, columns, inner.keys).subquery("t")
    context = replace(inner.context, row_number=emit.column(place))
    key = _Key(emit.column(place))
    return _Plan(context, outputs, table, keys=[key], source=inner.source, level=level)


def _row_count(ctx: Context, node: Node | None, clause: str) -> int | None:
    if node is None:
        return None
    count = ctx.integer(node, clause)
    if count < 0:
        raise ctx.error(node, f"{clause} must not be negative")
    return min(count, 2**63 - 1)  # more than there are rows anywhere, and the greatest that DuckDB takes


def _output_row_number(plan: _Plan) -> Node:
    """ROW_NUMBER() in the select list: the number of the row in the result."""
    window = exp.Window(this=emit.call("row_number"), order=exp.Order(expressions=_ordering(plan.keys)))
    return emit.binary(exp.Sub, window, emit.number(1 + plan.offset))


# --- the select list


def _select_list(ctx: Context, given: list[_Output], items: Sequence[Node]) -> list[_Output]:
    outputs: dict[str, _Output] = {}
    starred: set[str] = set()
    for node in items:
        if isinstance(node, exp.Star):
            for one in given:
                _add(ctx, outputs, one, node)
            starred = {o.name for o in given}
            continue
        one = _output(ctx, node)
        if one.name in starred and one.info is not None and one == next(o for o in given if o.name == one.name):
            outputs.pop(one.name, None)  # ``*, id``: the tensor moves to where it is named
            starred.discard(one.name)
        _add(ctx, outputs, one, node)
    return list(outputs.values())


def _add(ctx: Context, outputs: dict[str, _Output], one: _Output, node: Node) -> None:
    if one.name in outputs:
        raise ctx.error(node, f"the result has two columns {one.name!r}: give one of them another name with AS")
    outputs[one.name] = one


def _output(ctx: Context, node: Node) -> _Output:
    expression = node.this if isinstance(node, exp.Alias) else node
    name = node.alias if isinstance(node, exp.Alias) else ""
    if isinstance(expression, exp.Column) and expression.name in ctx.catalog and expression.name not in ctx.computed:
        return _Output(name or expression.name, info=ctx.catalog[expression.name])
    value = ctx.eval(expression)
    if isinstance(expression, exp.Column):
        return _Output(name or expression.name, value=value)
    if not name:
        if len(value.tensors) != 1:
            count = "several tensors" if value.tensors else "no tensor"
            raise ctx.error(expression, f"this is computed from {count}: give it a name with AS")
        name = next(iter(value.tensors))
    return _Output(name, value=_shown(value))


def _shown(value: Value) -> Value:
    """A value as the result shows it: conditions are true or false, sums are 64-bit integers."""
    if value.truth is not None:
        value = value.truth
    if is_condition(value):
        return known(value)
    if value.dtype == "hugeint" and not value.is_array:
        return value.but(sql=emit.cast(value.sql, "BIGINT"), dtype="int64")
    return value


def _identity(ctx: Context, output: _Output, node: Node) -> list[Node]:
    """What makes two rows of a column equal, for DISTINCT."""
    if output.info is not None:
        value = rules_names.tensor_value(output.info, node, output.name)
        if output.info.definition.kind is Kind.ENCODED:
            raise ctx.error(node, f"DISTINCT cannot compare the images of {output.name!r}: name other columns")
    else:
        assert output.value is not None
        value = output.value
    if value.dtype == kinds.JSON:
        return [json_text(value)] if value.path else [value.sql]
    if not value.is_array:
        return [value.sql]
    shape = [] if len(kinds.dims(value)) == 1 or _fixed(value) is not None else [kinds.shape_list(value)]
    return [kinds.as_list(value), *shape]


# --- order


def _sort_keys(ctx: Context, node: exp.Ordered) -> list[_Key]:
    value = ctx.eval(node.this)
    desc = bool(node.args.get("desc"))
    if value.truth is not None:
        value = value.truth
    if value.is_array:
        raise ctx.error(node.this, "an array has no order: ORDER BY needs one value, such as MAX(…) or x[0]")
    if value.is_const:
        raise ctx.error(node.this, "ORDER BY needs a tensor or an expression, not a constant")
    if value.dtype == kinds.JSON:
        return [_Key(json_number(value), desc), _Key(json_text(value), desc)]
    if is_condition(value):
        value = known(value)
    return [_Key(value.sql, desc and not value.maybe_nan, mirrored=desc and value.maybe_nan)]


def _ordering(keys: Sequence[_Key], named: Mapping[int, str] | None = None) -> list[Node]:
    """ORDER BY of the keys, the row's position last; ``named``: SQL that is an output column, by identity."""
    found: list[Node] = []
    for key in keys:
        sql = emit.column(named[id(key.sql)]) if named and id(key.sql) in named else key.sql
        sql = emit.minus(sql) if key.mirrored else sql
        found.append(exp.Ordered(this=sql, desc=key.desc, nulls_first=False) if key.desc else sql)
    if not any(isinstance(k.sql, exp.Column) and k.sql.name in (ROW, "_id") for k in keys):
        found.append(emit.column(ROW))
    return found


# --- SQL


def _render(plan: _Plan) -> tuple[exp.Select, tuple[Column, ...]]:
    sqls: list[Node] = [emit.column(ROW)]
    columns: list[Column] = []
    names: dict[str, str] = {}
    for output in plan.outputs:
        if output.info is not None:
            columns.append(Column(output.name, output.info.definition.name, None, "tensor"))
            continue
        assert output.value is not None
        name = f"_c{sum(c.sql_name is not None for c in columns)}"
        column, found = _computed(output.name, name, output.value)
        columns.append(column)
        sqls += found
        names[found[0].this.sql()] = name
    named = {id(k.sql): names[k.sql.sql()] for k in plan.keys if k.sql.sql() in names}
    return _select(plan, sqls, plan.keys, named), tuple(columns)


def _computed(name: str, sql_name: str, value: Value) -> tuple[Column, list[Node]]:
    if value.is_array:
        sql = kinds.as_list(value)
        if value.dtype == "hugeint":
            sql = emit.cast(sql, "BIGINT[]")
        found = [exp.alias_(sql, sql_name)]
        shape = _fixed(value)
        shape_name = None
        if shape is None and len(kinds.dims(value)) != 1:
            shape_name = f"{sql_name}__shape"
            found.append(exp.alias_(kinds.shape_list(value), shape_name))
        dtype = "int64" if value.dtype == "hugeint" else value.dtype if value.is_number else ""
        return Column(name, None, sql_name, "array", dtype, shape, shape_name), found
    if value.dtype == kinds.JSON:
        sql = value.sql
        if value.path:
            sql = emit.call("json_extract", sql, emit.text(json_path(value.path)))
        return Column(name, None, sql_name, "json"), [exp.alias_(sql, sql_name)]
    number = value.is_number and value.dtype != kinds.BOOL
    kind = "number" if number else value.dtype if value.dtype in (kinds.BOOL, kinds.TEXT) else "any"
    return Column(name, None, sql_name, kind, value.dtype if number else ""), [exp.alias_(value.sql, sql_name)]


def _fixed(value: Value) -> tuple[int, ...] | None:
    if isinstance(value.shape, tuple) and all(isinstance(d, int) for d in value.shape):
        return tuple(int(d) for d in value.shape if isinstance(d, int))
    return None


def _select(plan: _Plan, columns: list[Node], keys: Sequence[_Key], named: Mapping[int, str] | None = None) -> exp.Select:
    statement = exp.Select(expressions=columns).from_(plan.table, copy=False)
    ordering = _ordering(keys, named)
    if plan.distinct is not None and len(columns) == 1 and not keys:
        # the first row of each group, without a sort within the groups
        first = emit.call("min", emit.column(ROW))
        statement.set("expressions", [exp.alias_(first, ROW)])
        statement.set("group", exp.Group(expressions=plan.distinct))
        ordering = [first]
    elif plan.distinct is not None:
        statement.set("distinct", exp.Distinct(on=exp.Tuple(expressions=plan.distinct)))
    if plan.wheres:
        statement = statement.where(emit.all_of(*plan.wheres), copy=False)
    statement = statement.order_by(*ordering, copy=False)
    if plan.limit is not None:
        statement = statement.limit(plan.limit, copy=False)
    if plan.offset:
        statement = statement.offset(plan.offset, copy=False)
    return statement
