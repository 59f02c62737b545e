"""Rules for ``x[…]``: NumPy's indexing of a flat list and its shape, and keys of JSON.

Three shapes of index, nearly all that is ever written, become one native list operation: an element, a run of
neighbours, a column. The rest is a list over ``range(count)`` that computes where each element lies.
Over the edge: an error when the shape is known, else NULL for that row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from lakefmt.query import emit, kinds
from lakefmt.query.constants import constant
from lakefmt.query.context import Context, Rule
from lakefmt.query.emit import Dim
from lakefmt.query.kinds import JSON, Value, as_list, scalar
from lakefmt.query.syntax import Node, at, span_of


@dataclass(frozen=True, slots=True)
class Cut:
    """A slice as written, its bounds constants."""

    start: int | None
    stop: int | None
    step: int


@dataclass(frozen=True, slots=True)
class Axis:
    """Which positions of one dimension are taken: ``first, first + step, …``; a single one if not ``kept``.

    ``written`` is the slice before it was clipped to the size: DuckDB's own slices clip by themselves.
    """

    size: Dim
    first: Dim
    count: Dim
    step: int = 1
    kept: bool = True
    written: Cut | None = None

    @property
    def whole(self) -> bool:
        return self.kept and self.first == 0 and self.step == 1 and self.count == self.size


def _bracket(ctx: Context, node: exp.Bracket) -> Value:
    base, chain = _chain(node)
    value = ctx.look(base)
    if value.dtype == JSON:
        return _keys(ctx, value, chain)
    if value.unread:
        raise ctx.error(node, f"slicing the pixels of {value.tensor!r} inside a query is not supported yet")
    if not value.is_array:
        what = "texts" if value.dtype == kinds.TEXT else "single values"
        raise ctx.error(node, f"{what} cannot be indexed")
    for bracket in _joined(chain):
        value = _index(ctx, value, bracket)
    return value


def _joined(chain: Sequence[exp.Bracket]) -> list[exp.Bracket]:
    """Brackets without a slice join the next one: ``x[1][2]`` is ``x[1, 2]``, an element, not a copied row."""
    joined: list[exp.Bracket] = []
    for bracket in chain:
        if joined and not any(isinstance(e, exp.Slice) for e in joined[-1].expressions):
            before = joined.pop()
            items = [*before.expressions, *bracket.expressions]
            whole = exp.Bracket(this=before.this, expressions=items)
            at(whole, *span_of(bracket))
            joined.append(whole)
        else:
            joined.append(bracket)
    return joined


def _chain(node: exp.Bracket) -> tuple[Node, list[exp.Bracket]]:
    """``x[1][2]`` -> x and its brackets in order."""
    chain: list[exp.Bracket] = []
    base: Node = node
    while isinstance(base, exp.Bracket):
        chain.insert(0, base)
        base = base.this
    return base, chain


def _index(ctx: Context, value: Value, node: exp.Bracket) -> Value:
    wanted = [_wanted(ctx, e) for e in node.expressions]
    if value.is_const:
        return _constant(ctx, value, wanted, node)
    value, conditions = _ranked(ctx, value, len(wanted), node)
    assert isinstance(value.shape, tuple)
    if len(wanted) > len(value.shape):
        plural = "" if len(value.shape) == 1 else "s"
        raise ctx.error(node, f"{len(wanted)} indices for an array of {len(value.shape)} dimension{plural}")
    wanted += [Cut(None, None, 1)] * (len(value.shape) - len(wanted))
    axes: list[Axis] = []
    for k, (size, want) in enumerate(zip(value.shape, wanted, strict=True)):
        where = node.expressions[k] if k < len(node.expressions) else node
        if isinstance(want, int):
            # a first index beyond the end lies beyond the whole list, where DuckDB finds NULL by itself
            element = want >= 0 and all(isinstance(w, int) for w in wanted)
            guard = k > 0 or (len(wanted) > 1 and not element)
            axes.append(_pick(ctx, size, want, conditions, where, guard=guard))
        else:
            axes.append(_cut(size, want))
    found = _take(value, axes)
    if conditions and found.is_array:
        found = replace(found, guards=(*found.guards, *conditions), nullable=True)
    elif conditions:
        found = replace(found, sql=emit.when(emit.all_of(*conditions), found.sql), nullable=True)
    if not all(isinstance(a.size, int) for a in axes):
        found = replace(found, nullable=found.nullable or not found.is_array)
    return replace(found, node=node)


def _constant(ctx: Context, value: Value, wanted: list[int | Cut], node: exp.Bracket) -> Value:
    """An index of a constant, such as the shape of a tensor whose samples all have the same."""
    key = tuple(slice(w.start, w.stop, w.step) if isinstance(w, Cut) else w for w in wanted)
    try:
        found = value.const[key]
    except IndexError as error:
        raise ctx.error(node, f"index out of range: {error}") from None
    made = constant(ctx, node, found)
    return made.but(const=made.const, tensors=value.tensors)


def _wanted(ctx: Context, node: Node) -> int | Cut:
    if not isinstance(node, exp.Slice):
        return ctx.integer(node, "an index")
    bounds: list[int | None] = []
    for bound in (node.this, node.expression, node.args.get("step")):
        bounds.append(None if bound is None else ctx.integer(bound, "a bound of a slice"))
    step = 1 if bounds[2] is None else bounds[2]
    if step == 0:
        raise ctx.error(node, "the step of a slice is not 0")
    return Cut(bounds[0], bounds[1], step)


def _ranked(ctx: Context, value: Value, rank: int, node: Node) -> tuple[Value, list[Node]]:
    """An array of known rank. Samples of mixed ranks count only where theirs is the number of indices."""
    if isinstance(value.shape, tuple):
        if value.body is not None or value.guards:
            value = value.but(sql=as_list(value), body=None, strided=None, guards=())
        return value, []
    shape = value.shape
    dims = tuple(emit.item(shape, emit.number(k + 1)) for k in range(rank))
    value = value.but(sql=as_list(value), body=None, strided=None, guards=(), shape=dims)
    return value, [emit.binary(exp.EQ, emit.call("len", shape), emit.number(rank))]


def _pick(ctx: Context, size: Dim, index: int, conditions: list[Node], node: Node, *, guard: bool) -> Axis:
    """An integer index. ``guard``: whether over the edge lies another element of the flat list."""
    if isinstance(size, int):
        if not -size <= index < size:
            raise ctx.error(node, f"index {index} is out of range: the dimension has {size}")
        return Axis(size, index % size, 1, kept=False)
    if guard:
        conditions.append(emit.binary(exp.GT, size, emit.number(index if index >= 0 else -index - 1)))
    return Axis(size, index if index >= 0 else emit.dim_add(size, index), 1, kept=False)


def _cut(size: Dim, cut: Cut) -> Axis:
    if isinstance(size, int):
        taken = range(size)[slice(cut.start, cut.stop, cut.step)]
        return Axis(size, taken.start if len(taken) else 0, len(taken), cut.step)
    if cut == Cut(None, None, 1):
        return Axis(size, 0, size)
    ahead = cut.step > 0
    low, high = (emit.number(0), size) if ahead else (emit.number(-1), emit.dim(emit.dim_add(size, -1)))
    first = _clipped(size, cut.start, low, high, low if ahead else high)
    last = _clipped(size, cut.stop, low, high, high if ahead else low)
    span = emit.binary(exp.Sub, last, first) if ahead else emit.binary(exp.Sub, first, last)
    steps = span if abs(cut.step) == 1 else _ceil_divided(span, abs(cut.step))
    return Axis(size, first, emit.call("greatest", steps, emit.number(0)), cut.step, written=cut)


def _ceil_divided(value: Node, by: int) -> Node:
    up = emit.binary(exp.Add, value, emit.number(by - 1))
    return emit.binary(exp.IntDiv, up, emit.number(by))


def _clipped(size: Node, bound: int | None, low: Node, high: Node, default: Node) -> Node:
    """A bound of a slice as Python takes it: negative from the end, clipped at both."""
    if bound is None:
        return default
    if bound >= 0:
        return emit.call("least", emit.number(bound), high)
    return emit.call("greatest", emit.dim(emit.dim_add(size, bound)), low)


# --- taking


def _take(value: Value, axes: Sequence[Axis]) -> Value:
    """The elements that the axes select."""
    shape = tuple(a.count for a in axes if a.kept)
    if all(a.whole for a in axes):
        return value.but(const=value.const)
    strides = [emit.dim_product([b.size for b in axes[k + 1 :]]) for k in range(len(axes))]
    if not shape:
        return _element(value, axes, strides)
    like = value.but(body=None, strided=None, shape=shape)
    if len(axes) == 1 and (sql := _plain_slice(value.sql, axes[0])) is not None:
        shape = shape if isinstance(shape[0], int) else (emit.call("len", sql),)
        return replace(like, sql=sql, shape=shape)
    if all(a.whole for a in axes[1:]) and (sql := _run(value.sql, axes[0], strides[0])) is not None:
        return replace(like, sql=sql)
    if all(a.whole for a in axes[:-1]) and not axes[-1].kept:
        return _column(like, axes[-1])
    # range() of a missing sample's size would be an empty list, since DuckDB's least() and greatest() skip
    # NULL
    guards = (emit.is_not_null(value.sql),) if value.nullable else ()
    return replace(like, sql=_general(value.sql, axes, strides), guards=guards)


def _element(value: Value, axes: Sequence[Axis], strides: Sequence[Dim]) -> Value:
    if len(axes) == 1 and not isinstance(axes[0].first, int):
        position: Dim = _from_end(axes[0])  # DuckDB counts back from the end by itself
    else:
        position = 1
        for axis, stride in zip(axes, strides, strict=True):
            position = emit.dim_add(emit.dim_mul(axis.first, stride), position)
    return scalar(value, emit.item(value.sql, emit.dim(position)), value.dtype, labels=value.labels)


def _from_end(axis: Axis) -> int:
    """The negative index behind ``size - k``."""
    assert isinstance(axis.first, exp.Sub)
    return -int(axis.first.expression.this)


def _plain_slice(sql: Node, axis: Axis) -> Node | None:
    """A slice of a list by DuckDB's own."""
    if axis.step < 0:
        return None
    step = None if axis.step == 1 else emit.number(axis.step)
    if axis.written is not None:
        start, stop = axis.written.start, axis.written.stop
        if stop == 0:
            return emit.slice_of(sql, emit.number(1), emit.number(0))
        first = None if start is None else emit.number(start + 1 if start >= 0 else start)
        last = None if stop is None else emit.number(stop if stop > 0 else stop - 1)
        return emit.slice_of(sql, first or emit.number(1), last, step)
    assert isinstance(axis.first, int)
    assert isinstance(axis.count, int)
    last_taken = axis.first + (axis.count - 1) * axis.step + 1 if axis.count else axis.first
    return emit.slice_of(sql, emit.number(axis.first + 1), emit.number(last_taken), step)


def _run(sql: Node, axis: Axis, stride: Dim) -> Node | None:
    """Neighbours in memory: ``x[i]``, ``x[a:b]`` of an array of any rank."""
    if axis.step != 1:
        return None
    start, stop = axis.first, emit.dim_add(axis.first, axis.count)
    if axis.written is not None:
        start = axis.written.start or 0
        if start < 0 or (axis.written.stop or 0) < 0:
            return None
        stop = axis.size if axis.written.stop is None else axis.written.stop
    first = emit.dim_add(emit.dim_mul(start, stride), 1)
    return emit.slice_of(sql, emit.dim(first), emit.dim(emit.dim_mul(stop, stride)))


def _column(like: Value, axis: Axis) -> Value:
    """``x[…, j]``: every size-th element, from the j-th on."""
    first, step = axis.first, axis.size
    sql = emit.slice_of(like.sql, emit.dim(emit.dim_add(first, 1)), None, emit.dim(step))
    return replace(like, sql=sql, strided=(like.sql, first, step))


def _general(sql: Node, axes: Sequence[Axis], strides: Sequence[Dim]) -> Node:
    """Any index: element number ``i`` of the result is found by dividing ``i`` into its coordinates."""
    kept = [a for a in axes if a.kept]
    inner = [emit.dim_product([b.count for b in kept[k + 1 :]]) for k in range(len(kept))]
    counter = emit.variable("k")
    position: Dim = 0
    offset: Dim = 1
    seen = 0
    for axis, stride in zip(axes, strides, strict=True):
        offset = emit.dim_add(offset, emit.dim_mul(axis.first, stride))
        if not axis.kept:
            continue
        along = counter if inner[seen] == 1 else emit.binary(exp.IntDiv, counter, emit.dim(inner[seen]))
        if seen > 0:
            along = emit.binary(exp.Mod, along, emit.dim(axis.count))
        position = emit.dim_add(position, emit.dim_mul(along, emit.dim_mul(axis.step, stride)))
        seen += 1
    position = emit.dim_add(position, offset)
    count = emit.dim_product([a.count for a in kept])
    return emit.transform(emit.call("range", emit.dim(count)), emit.item(sql, emit.dim(position)), "k")


# --- JSON


def _keys(ctx: Context, value: Value, chain: Sequence[exp.Bracket]) -> Value:
    """``m['a'][0]['b']``: each bracket holds one key or one position."""
    keys: list[str | int] = []
    for bracket in chain:
        if len(bracket.expressions) != 1 or isinstance(bracket.expressions[0], exp.Slice):
            raise ctx.error(bracket, "JSON is indexed by one key or one position at a time")
        key = ctx.constant(bracket.expressions[0], "a JSON key")
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            raise ctx.error(bracket.expressions[0], f"a JSON key is a text, a position an integer, not {key!r}")
        keys.append(key)
    return value.but(path=value.path + tuple(keys), node=chain[-1], nullable=True)


RULES: Mapping[type[Node], Rule] = {exp.Bracket: _bracket}
