"""Bare conditions: in TQL, or in the Python spelling that Deep Lake's string filters have.

``labels == 'cat' and shape(image)[0] > 300`` reads the same in both. What only Python has
(``text.contains("1")``, ``'cat' in labels``, ``boxes.shape[0]``, ``1 < x < 5``) is parsed by ``ast`` and turned
into the very nodes that the TQL parser makes; nothing is ever evaluated, and an expression that is not in the
tables below is an error.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from sqlglot import exp

from lakefmt.errors import TqlError, nearest
from lakefmt.query import grammar
from lakefmt.query.catalog import Catalog
from lakefmt.query.syntax import Node, at, span_of

_COMPARISONS: Mapping[type[ast.cmpop], type[exp.Binary]] = {
    ast.Eq: exp.EQ, ast.NotEq: exp.NEQ, ast.Lt: exp.LT, ast.LtE: exp.LTE, ast.Gt: exp.GT, ast.GtE: exp.GTE,
}  # fmt: skip
_ARITHMETIC: Mapping[type[ast.operator], type[exp.Binary]] = {
    ast.Add: exp.Add, ast.Sub: exp.Sub, ast.Mult: exp.Mul, ast.Div: exp.Div, ast.Mod: exp.Mod,
}  # fmt: skip

#: attributes of a tensor, and the functions they are; all but ``contains`` may be written with or without ()
ATTRIBUTES = ("min", "max", "mean", "sum", "size", "shape", "any", "all", "contains")


def parse_condition(text: str, catalog: Catalog) -> Node:
    """Parse a bare condition.

    TQL is tried first. Python is meant when TQL cannot read it, or when a text in double quotes is no tensor.
    """
    failure: TqlError | None = None
    try:
        condition = grammar.parse_condition(text)
    except TqlError as error:
        failure = error
    else:
        quoted = [c.name for c in condition.find_all(exp.Column) if c.this.args.get("quoted")]
        if all(name in catalog for name in quoted):
            return condition
    tree = _python(text)
    if tree is not None:
        return _Reader(text, catalog).read(tree)
    if failure is not None:
        raise failure
    return condition


def _python(text: str) -> ast.expr | None:
    try:
        with warnings.catch_warnings():  # Python warns of odd comparisons and escapes; they are judged here
            warnings.simplefilter("ignore")
            return ast.parse(f"({text}\n)", mode="eval").body  # in parentheses, so that it may span lines
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Reader:
    """Turns Python's syntax tree into TQL's."""

    def __init__(self, text: str, catalog: Catalog) -> None:
        self.text, self.catalog = text, catalog
        self.lines = [0]
        for line in text.split("\n"):
            self.lines.append(self.lines[-1] + len(line) + 1)
        self.rows = text.split("\n")

    # --- places

    def _offset(self, line: int, column: int) -> int:
        """``ast`` counts UTF-8 bytes within a line, and the first line begins with our parenthesis."""
        if line > len(self.rows):
            return len(self.text)
        before = self.rows[line - 1].encode()[: max(0, column - (1 if line == 1 else 0))]
        return self.lines[line - 1] + len(before.decode(errors="ignore"))

    def span(self, node: ast.expr) -> tuple[int, int]:
        end = self._offset(node.end_lineno or node.lineno, node.end_col_offset or 0)
        return self._offset(node.lineno, node.col_offset), end

    def error(self, node: ast.expr, message: str) -> TqlError:
        start, end = self.span(node)
        return TqlError(message, self.text, start, end - start)

    # --- expressions

    def read(self, node: ast.expr) -> Node:
        reader = _READERS.get(type(node))
        if reader is None:
            raise self.error(node, f"{type(node).__name__} expressions are not supported in a filter")
        return at(reader(self, node), *self.span(node))

    def bool_op(self, node: ast.BoolOp) -> Node:
        join = exp.And if isinstance(node.op, ast.And) else exp.Or
        return self.joined(join, [self.read(v) for v in node.values])

    def joined(self, join: type[exp.Connector], parts: list[Node]) -> Node:
        whole = parts[0]
        for part in parts[1:]:
            whole = at(join(this=whole, expression=part), span_of(whole)[0], span_of(part)[1])
        return whole

    def unary(self, node: ast.UnaryOp) -> Node:
        operand = self.read(node.operand)
        if isinstance(node.op, ast.Not):
            return exp.Not(this=operand)
        if isinstance(node.op, ast.USub):
            return exp.Neg(this=operand)
        if isinstance(node.op, ast.UAdd):
            return operand
        raise self.error(node, "write not instead of ~")

    def binary(self, node: ast.BinOp) -> Node:
        made = _ARITHMETIC.get(type(node.op))
        if made is None:
            hint = {ast.BitAnd: "write and instead of &", ast.BitOr: "write or instead of |"}.get(type(node.op))
            raise self.error(node, hint or f"the operator {type(node.op).__name__} is not supported in a filter")
        return made(this=self.read(node.left), expression=self.read(node.right))

    def compare(self, node: ast.Compare) -> Node:
        operands = [node.left, *node.comparators]
        parts = [self.pair(operands[k], op, operands[k + 1]) for k, op in enumerate(node.ops)]
        return self.joined(exp.And, parts)

    def pair(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Node:
        start, end = self.span(left)[0], self.span(right)[1]
        if isinstance(operator, (ast.In, ast.NotIn)):
            found = at(self.membership(left, right), start, end)
            return found if isinstance(operator, ast.In) else at(exp.Not(this=found), start, end)
        if isinstance(operator, (ast.Is, ast.IsNot)) or (isinstance(right, ast.Constant) and right.value is None):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self.error(right, "`is` compares with None only")
            found = at(exp.Is(this=self.read(left), expression=exp.Null()), start, end)
            positive = isinstance(operator, (ast.Is, ast.Eq))
            return found if positive else at(exp.Not(this=found), start, end)
        made = _COMPARISONS[type(operator)]
        return at(made(this=self.read(left), expression=self.read(right)), start, end)

    def membership(self, left: ast.expr, right: ast.expr) -> Node:
        """``x in (1, 2)`` is IN; ``'cat' in labels`` is CONTAINS."""
        if isinstance(right, (ast.List, ast.Tuple, ast.Set)):
            return exp.In(this=self.read(left), expressions=[self.read(e) for e in right.elts])
        if isinstance(right, ast.Constant):
            return exp.In(this=self.read(left), expressions=[self.read(right)])
        return self.function("CONTAINS", [self.read(right), self.read(left)])

    def constant(self, node: ast.Constant) -> Node:
        value = node.value
        if isinstance(value, bool):
            return exp.Boolean(this=value)
        if value is None:
            return exp.Null()
        if isinstance(value, (int, float)):
            return exp.Literal.number(repr(value))
        if isinstance(value, str):
            start, _ = self.span(node)
            if self.text[start : start + 1] == '"' and "/" in value and value in self.catalog:
                return exp.Column(this=exp.to_identifier(value, quoted=True))
            return exp.Literal.string(value)
        raise self.error(node, f"a {type(value).__name__} cannot be used in a filter")

    def array(self, node: ast.List | ast.Tuple) -> Node:
        return exp.Array(expressions=[self.read(e) for e in node.elts])

    def subscript(self, node: ast.Subscript) -> Node:
        index = node.slice
        items = index.elts if isinstance(index, ast.Tuple) else [index]
        return exp.Bracket(this=self.read(node.value), expressions=[self.read(i) for i in items])

    def slice(self, node: Any) -> Node:
        parts = {"this": node.lower, "expression": node.upper, "step": node.step}
        return exp.Slice(**{key: self.read(part) for key, part in parts.items() if part is not None})

    def name(self, node: ast.Name) -> Node:
        return exp.Column(this=exp.to_identifier(node.id, quoted=False))

    def attribute(self, node: ast.Attribute) -> Node:
        """``boxes.max``, or a tensor of a group, ``group.boxes``."""
        tensor = self.tensor(node)
        if tensor is not None:
            return tensor
        if node.attr not in ATTRIBUTES or node.attr == "contains":
            path = self.path(node)
            known = [*(name.replace("/", ".") for name in self.catalog), *ATTRIBUTES]
            what = ".".join(path) if path else node.attr
            raise self.error(node, f"{what!r} is neither a tensor nor a property of one; {nearest(what, known)}")
        return self.function(node.attr.upper(), [self.read(node.value)])

    def path(self, node: ast.expr) -> list[str]:
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        return [node.id, *names] if isinstance(node, ast.Name) else []

    def tensor(self, node: ast.Attribute) -> Node | None:
        name = "/".join(self.path(node))
        return exp.Column(this=exp.to_identifier(name, quoted=True)) if name in self.catalog else None

    def call(self, node: ast.Call) -> Node:
        if node.keywords:
            raise self.error(node, "named arguments are not supported in a filter")
        arguments = [self.read(a) for a in node.args]
        if isinstance(node.func, ast.Name):
            return self.function(node.func.id, arguments, self.span(node.func)[1])
        if isinstance(node.func, ast.Attribute) and node.func.attr in ATTRIBUTES:
            return self.function(node.func.attr.upper(), [self.read(node.func.value), *arguments])
        where = node.func
        message = "only functions of TQL and the methods of a tensor can be called in a filter"
        if isinstance(where, ast.Attribute):
            message = f"a tensor has no method {where.attr!r}; {nearest(where.attr, ATTRIBUTES)}"
        raise self.error(where, message)

    def function(self, name: str, arguments: list[Node], name_end: int | None = None) -> Node:
        node = exp.Anonymous(this=name, expressions=arguments)
        if name_end is not None:
            node.meta["name_end"] = name_end
        return node


_READERS: Mapping[type[ast.AST], Callable[[_Reader, Any], Node]] = {
    ast.BoolOp: _Reader.bool_op,
    ast.UnaryOp: _Reader.unary,
    ast.BinOp: _Reader.binary,
    ast.Compare: _Reader.compare,
    ast.Constant: _Reader.constant,
    ast.List: _Reader.array,
    ast.Tuple: _Reader.array,
    ast.Subscript: _Reader.subscript,
    ast.Slice: _Reader.slice,
    ast.Name: _Reader.name,
    ast.Attribute: _Reader.attribute,
    ast.Call: _Reader.call,
}
