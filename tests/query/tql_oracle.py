"""What TQL means, said a second time: row by row, in plain Python and NumPy.

It shares the parser with the translator and nothing else. Missing samples are ``None``; a comparison with one
is false; arithmetic with one is missing.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sqlglot import exp

from lakefmt.query import grammar
from lakefmt.query.catalog import Catalog

Row = Mapping[str, Any]


class Labels(np.ndarray):
    """Class ids that remember their names through indexing."""

    names: tuple[str, ...] = ()

    def __array_finalize__(self, origin: Any) -> None:
        self.names = getattr(origin, "names", ())


class Json:
    """A parsed JSON value (``None`` inside: null)."""

    def __init__(self, value: Any) -> None:
        self.value = value


def labels(ids: Any, names: Sequence[str]) -> Labels:
    array = np.asarray(ids).view(Labels)
    array.names = tuple(names)
    return array


class Oracle:
    """Runs queries over a table held as a list of rows."""

    def __init__(self, rows: Sequence[Row], catalog: Catalog) -> None:
        self.rows, self.catalog = rows, catalog

    def run(self, text: str) -> tuple[list[int], dict[str, list[Any]]]:
        """Positions of the result's rows, and its computed columns."""
        if grammar.is_select(text):
            statement = grammar.parse_select(text)
        else:
            statement = exp.Select(expressions=[exp.Star()], where=grammar.parse_condition(text))
        table = [{**row, "_row": k, "_id": k} for k, row in enumerate(self.rows)]
        found = self.select(statement, table)
        names = [n for n in (found[0] if found else {}) if n.startswith("=")]
        return [r["_row"] for r in found], {n[1:]: [r[n] for r in found] for n in names}

    def select(self, node: exp.Select, table: list[dict[str, Any]]) -> list[dict[str, Any]]:
        source = node.args.get("from_")
        if isinstance(source, exp.Subquery):
            table = self.select(source.this, table)
        table = [{k: v for k, v in row.items() if k[0] != "="} for row in table]
        for k, row in enumerate(table):
            row["#"] = k
        aliases = {e.alias: e.this for e in node.expressions if isinstance(e, exp.Alias)}
        where = node.args.get("where")
        if where is not None:
            table = [r for r in table if truth(self.eval(where, r, aliases))]
        for one in reversed(node.args.get("order") or ()):
            desc = bool(one.args.get("desc"))
            expression = one.this
            if isinstance(expression, exp.Column) and expression.name in aliases:
                expression = aliases[expression.name]
            values = [(self.eval(expression, r, aliases), r) for r in table]
            last = [p for p in values if last_key(p[0])]
            rest = [p for p in values if not last_key(p[0])]
            rest.sort(key=lambda p: plain(p[0]), reverse=desc)  # stable in both directions
            nans = [p for p in last if p[0] is not None]
            table = [r for _, r in (*rest, *nans, *(p for p in last if p[0] is None))]
        if node.args.get("distinct") is not None:
            table = self.distinct(node, table)
        offset = int(node.args["offset"].this) if node.args.get("offset") is not None else 0
        limit = int(node.args["limit"].this) if node.args.get("limit") is not None else len(table)
        table = [dict(r) for r in table[offset : offset + limit]]
        for k, row in enumerate(table):
            row["#"] = k
            for one in node.expressions:
                self.output(one, row)
        return table

    def distinct(self, node: exp.Select, table: list[dict[str, Any]]) -> list[dict[str, Any]]:
        seen: set[str] = set()
        kept = []
        for row in table:
            key = repr([identity(self.eval(getattr(e, "this", e) if isinstance(e, exp.Alias) else e, row, {}))
                        for e in node.expressions])  # fmt: skip
            if key not in seen:
                seen.add(key)
                kept.append(row)
        return kept

    def output(self, node: Any, row: dict[str, Any]) -> None:
        if isinstance(node, exp.Star):
            row |= {f"={name}": row[name] for name in list(row) if name not in self.catalog and name[0] not in "=#_"}
            return
        expression = node.this if isinstance(node, exp.Alias) else node
        if isinstance(expression, exp.Column) and expression.name in self.catalog:
            if isinstance(node, exp.Alias):
                row[node.alias] = row[expression.name]
            return
        value = self.condition(expression, row, {})
        if isinstance(value, AnyTrue):
            value = bool(value)
        name = node.alias if isinstance(node, exp.Alias) else next(c.name for c in expression.find_all(exp.Column))
        row[f"={name}"] = value
        if name not in self.catalog:
            row[name] = value

    # --- expressions

    def is_array(self, node: Any) -> bool:
        """Whether an expression is an array where it is missing (elsewhere the value tells)."""
        if node.find(exp.Anonymous, exp.Bracket) is not None:
            return False
        if any(one.is_string for one in node.find_all(exp.Literal)):
            return False  # with a class name it is one truth value
        columns = [c for c in node.find_all(exp.Column) if c.name in self.catalog]
        return any(self.catalog[c.name].ndim != 0 for c in columns)

    def condition(self, node: Any, row: Row, aliases: Mapping[str, Any]) -> Any:
        """A value; but a condition that has none is false."""
        value = self.eval(node, row, aliases)
        is_condition = isinstance(node, (exp.Not, exp.And, exp.Or, exp.In, exp.Between, exp.Is, *COMPARISONS))
        return False if value is None and is_condition and not self.is_array(node) else value

    def eval(self, node: Any, row: Row, aliases: Mapping[str, Any]) -> Any:
        go: Callable[[Any], Any] = lambda n: self.eval(n, row, aliases)  # noqa: E731
        if isinstance(node, exp.Column):
            name = node.name
            return row[name] if name in row else go(aliases[name])
        if isinstance(node, exp.Literal):
            return node.this if node.is_string else (float(node.this) if re.search(r"[.e]", node.this) else int(node.this))
        if isinstance(node, exp.Boolean):
            return bool(node.this)
        if isinstance(node, exp.Array):
            return np.array([go(e) for e in node.expressions])
        if isinstance(node, exp.And):
            return truth(go(node.this)) and truth(go(node.expression))
        if isinstance(node, exp.Or):
            return truth(go(node.this)) or truth(go(node.expression))
        if isinstance(node, exp.Not):
            value = go(node.this)
            if value is None and self.is_array(node.this):
                return None
            return ~value if type(value) is np.ndarray and value.ndim else not truth(value)
        if type(node) in COMPARISONS:
            left, right = (self.condition(n, row, aliases) for n in (node.this, node.expression))
            left, right = (bool(v) if isinstance(v, AnyTrue) else v for v in (left, right))
            return compare(COMPARISONS[type(node)], left, right)
        if type(node) in ARITHMETIC:
            return arithmetic(ARITHMETIC[type(node)], go(node.this), go(node.expression))
        if isinstance(node, exp.Neg):
            value = go(node.this)
            return None if value is None else -wide(value)
        if isinstance(node, exp.In):
            return self.is_in(go(node.this), [go(e) for e in node.expressions])
        if isinstance(node, exp.Between):
            value = go(node.this)
            low, high = go(node.args["low"]), go(node.args["high"])
            return both(compare(np.greater_equal, value, low), compare(np.less_equal, value, high))
        if isinstance(node, exp.Is):
            value = go(node.this)
            return value is None or (isinstance(value, Json) and value.value is None)
        if isinstance(node, (exp.Like, exp.ILike)):
            value = go(node.this)
            if isinstance(value, Labels):
                return contains(value, go(node.expression))
            return like(text_of(value), go(node.expression), isinstance(node, exp.ILike))
        if isinstance(node, exp.Bracket):
            return self.index(node, go)
        if isinstance(node, exp.Case):
            for branch in node.args["ifs"]:
                value = go(branch.this)
                if truth(value if node.this is None else compare(np.equal, go(node.this), value)):
                    return go(branch.args["true"])
            return go(node.args["default"]) if node.args.get("default") is not None else None
        if isinstance(node, exp.Cast):
            value = go(node.this)
            return None if value is None else CASTS[node.args["to"].name.lower()](value)
        return self.call(str(node.this).lower(), node, row, go)

    def is_in(self, value: Any, items: list[Any]) -> Any:
        result: Any = False
        for one in items:
            found = compare(np.equal, value, one)
            if found is None:
                return None
            result = bool(result) or bool(found) if isinstance(found, (AnyTrue, bool)) else np.logical_or(result, found)
        return result

    def index(self, node: exp.Bracket, go: Callable[[Any], Any]) -> Any:
        value = go(node.this)
        if value is None:
            return None
        if isinstance(value, Json):
            try:
                return Json(value.value[go(node.expressions[0])])
            except (KeyError, IndexError, TypeError):
                return None
        key: list[Any] = []
        for one in node.expressions:
            if isinstance(one, exp.Slice):
                parts = (one.this, one.expression, one.args.get("step"))
                key.append(slice(*(None if p is None else go(p) for p in parts)))
            else:
                key.append(go(one))
        base = node.this
        mixed = isinstance(base, exp.Column) and base.name in self.catalog and self.catalog[base.name].ndim is None
        if mixed and value.ndim != len(key):
            return None  # of samples of mixed ranks an index means those with as many dimensions
        try:
            found = value[tuple(key)]
            return labels(found, value.names) if isinstance(value, Labels) else found
        except IndexError:
            return None

    def call(self, name: str, node: Any, row: Row, go: Callable[[Any], Any]) -> Any:
        if name == "row_number":
            return row["#"]
        values = [go(e) for e in node.expressions]
        if name == "contains":
            return contains(*values)
        if name == "shape":
            return None if values[0] is None else np.array(np.shape(values[0]))
        if name in ("any", "all", "all_strict"):
            value = values[0]
            if value is None:
                return False
            value = np.asarray(value)
            return {"any": value.any(), "all": value.all(), "all_strict": bool(value.all() and value.size)}[name]
        if name.startswith("logical_"):
            if any(v is None for v in values) or (np.shape(values[0]) != np.shape(values[1])):
                return None
            return np.logical_and(*values) if name == "logical_and" else np.logical_or(*values)
        if any(v is None for v in values):
            return None
        return FUNCTIONS[name](*values)


class AnyTrue:
    """A comparison with a class name of an array of labels: elementwise, or one truth value."""

    def __init__(self, elements: np.ndarray, value: bool) -> None:
        self.elements, self.value = elements, value

    def __bool__(self) -> bool:
        return self.value

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.elements


def truth(value: Any) -> bool:
    if value is None:
        return False
    if isinstance(value, Json):
        return value.value is True
    return bool(value)


def last_key(value: Any) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value))


def plain(value: Any) -> Any:
    value = value.value if isinstance(value, Json) else value
    return value.item() if isinstance(value, np.generic | np.ndarray) else value


def identity(value: Any) -> Any:
    return (np.shape(value), np.asarray(value).tolist()) if isinstance(value, np.ndarray) else value


def text_of(value: Any) -> Any:
    if isinstance(value, Json):
        value = value.value
        return value if isinstance(value, str) or value is None else json.dumps(value)
    return value


def number_of(value: Any) -> Any:
    if isinstance(value, Json):
        try:
            return float(value.value) if value.value is not None else None
        except (TypeError, ValueError):
            return None
    return value


def compare(operator: Any, left: Any, right: Any) -> Any:
    if isinstance(left, Json) or isinstance(right, Json):
        reader = text_of if isinstance(left, str) or isinstance(right, str) else number_of
        left, right = reader(left), reader(right)
    if left is None or right is None:
        return None
    if isinstance(left, str) and isinstance(right, Labels):
        left, right = right, left
    if isinstance(left, Labels) and isinstance(right, str):
        elements = operator(np.asarray(left), left.names.index(right))
        if left.ndim == 0:
            return bool(elements)
        held = bool(np.any(np.asarray(left) == left.names.index(right)))
        return AnyTrue(elements, held if operator is np.equal else not held)
    if isinstance(left, str):
        names = {np.equal: "__eq__", np.not_equal: "__ne__", np.less: "__lt__", np.less_equal: "__le__"}
        names |= {np.greater: "__gt__", np.greater_equal: "__ge__"}
        return getattr(left, names[operator])(right)
    left, right = np.asarray(left), np.asarray(right)
    if left.ndim and right.ndim and left.shape != right.shape:
        return None
    one, two = fitted(left, right), fitted(right, left)
    found = operator(one, two)
    return found if found.ndim else bool(found)


def fitted(value: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A Python number next to a float32 tensor is a float32."""
    if value.dtype == np.float64 and other.dtype in (np.float32, np.float16):
        return value.astype(other.dtype)
    return value


def both(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return None
    return np.logical_and(one, other) if np.ndim(one) else bool(one) and bool(other)


def wide(value: Any) -> Any:
    value = np.asarray(number_of(value))
    return value.astype(np.int64) if value.dtype.kind in "iub" else value


def arithmetic(operator: Any, left: Any, right: Any) -> Any:
    left, right = number_of(left), number_of(right)
    if left is None or right is None:
        return None
    left, right = wide(left), wide(right)
    if left.ndim and right.ndim and left.shape != right.shape:
        return None
    if operator is np.fmod and right.ndim == 0 and right.dtype.kind == "i" and right == 0:
        return None
    with np.errstate(all="ignore"):
        return operator(left, right)


def contains(value: Any, wanted: Any) -> bool:
    if value is None or wanted is None:
        return False
    if isinstance(value, Json):
        return isinstance(value.value, list) and wanted in value.value
    if isinstance(value, str):
        return wanted in value
    if isinstance(value, Labels) and isinstance(wanted, str):
        ids = [i for i, n in enumerate(value.names) if fnmatch.fnmatchcase(n, wanted)]
        return bool(np.isin(np.asarray(value), ids).any())
    return bool(np.any(np.asarray(value) == wanted))


def like(value: Any, pattern: str, ignore_case: bool) -> bool:
    if value is None:
        return False
    parts = {"*": ".*", "%": ".*", "?": "."}
    expression = "".join(parts.get(c, re.escape(c)) for c in pattern)
    return re.fullmatch(expression, value, re.DOTALL | (re.IGNORECASE if ignore_case else 0)) is not None


def cosine(a: Any, b: Any) -> Any:
    a, b = np.asarray(a, float).ravel(), np.asarray(b, float).ravel()
    if a.shape != b.shape:
        return None
    with np.errstate(all="ignore"):
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def reduced(function: Any, none: Any) -> Callable[[Any], Any]:
    def reduce(value: Any) -> Any:
        value = wide(value).ravel()
        return function(value) if value.size else none

    return reduce


def norm(order: Any) -> Callable[[Any], float]:
    return lambda v: float(np.linalg.norm(np.asarray(v, float).ravel(), order)) if np.size(v) else 0.0


COMPARISONS = {
    exp.EQ: np.equal, exp.NEQ: np.not_equal, exp.LT: np.less, exp.LTE: np.less_equal, exp.GT: np.greater,
    exp.GTE: np.greater_equal,
}  # fmt: skip
ARITHMETIC = {
    exp.Add: np.add,
    exp.Sub: np.subtract,
    exp.Mul: np.multiply,
    exp.Div: np.true_divide,
    exp.Mod: np.fmod,
}
CASTS: Mapping[str, Callable[[Any], Any]] = {
    "double": float, "varchar": str, "bigint": lambda v: int(np.rint(v)), "int": lambda v: int(np.rint(v)),
}  # fmt: skip
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "sum": reduced(np.sum, 0),
    "avg": reduced(np.mean, None),
    "mean": reduced(np.mean, None),
    "prod": reduced(np.prod, 1),
    "amax": reduced(np.max, None),
    "amin": reduced(np.min, None),
    "max": reduced(np.max, None),
    "min": reduced(np.min, None),
    "size": np.size,
    "sqrt": lambda v: np.sqrt(np.asarray(v, float)),
    "abs": lambda v: np.abs(wide(v)),
    "cosine_similarity": cosine,
    "dot": lambda a, b: float(np.asarray(a, float) @ np.asarray(b, float)) if np.shape(a) == np.shape(b) else None,
    "l2_norm": norm(2),
    "l1_norm": norm(1),
    "linf_norm": norm(np.inf),
    "upper": lambda v: v.upper(),
    "length": len,
    "round": lambda v: np.floor(v + 0.5),  # away from zero, unlike NumPy
    "keys": lambda v: np.array(list(v.value)),
}
