"""The grammar of TQL: a recursive-descent parser from tokens to sqlglot nodes.

Operators are read by precedence climbing over the table ``_BINARY``; clauses in the one order TQL has.
Nothing is skipped: a token that no rule expects ends the query with an error at that token.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Container, Iterable, Mapping

from sqlglot import TokenType as T
from sqlglot import exp

from lakefmt.errors import TqlError
from lakefmt.query.syntax import Node, Token, at, called_method, error_at, span_of, tokenize

#: Nesting of parentheses and sub-queries accepted; Python's own stack is the limit behind it.
DEPTH_MAX = 64

#: precedence of binary operators that are single tokens
_BINARY: Mapping[T | None, tuple[int, type[exp.Binary]]] = {
    T.EQ: (4, exp.EQ),
    T.NEQ: (4, exp.NEQ),
    T.LT: (4, exp.LT),
    T.LTE: (4, exp.LTE),
    T.GT: (4, exp.GT),
    T.GTE: (4, exp.GTE),
    T.PLUS: (5, exp.Add),
    T.DASH: (5, exp.Sub),
    T.STAR: (6, exp.Mul),
    T.SLASH: (6, exp.Div),
    T.MOD: (6, exp.Mod),
}
_OR, _AND, _NOT, _COMPARISON = 1, 2, 3, 4
_UNARY = 7

#: what people write from other languages, and what TQL calls it
_FOREIGN: Mapping[T | None, str] = {
    T.DAMP: "write AND instead of &&",
    T.AMP: "write AND instead of &",
    T.DPIPE: "write OR instead of ||, or concat(a, b) to join text",
    T.PIPE: "write OR instead of |",
    T.NOT: "write NOT instead of !",
    T.CARET: "write pow(a, b) instead of ^",
}

#: clauses of TQL that are read later in lakefmt's life, by the word that begins them
LATER: Mapping[str, str] = {
    "GROUP": "GROUP BY",
    "HAVING": "HAVING",
    "ACROSS": "ACROSS",
    "UNGROUP": "UNGROUP BY",
    "EXPAND": "EXPAND BY",
    "SAMPLE": "SAMPLE BY",
    "UNION": "UNION",
    "INTERSECT": "INTERSECT",
    "EXCEPT": "EXCEPT",
    "JOIN": "JOIN",
    "INNER": "JOIN",
    "LEFT": "JOIN",
    "RIGHT": "JOIN",
    "FULL": "JOIN",
    "CROSS": "CROSS JOIN",
    "NATURAL": "NATURAL JOIN",
}
_CLAUSES = ("SELECT", "FROM", "WHERE", "ORDER", "LIMIT", "OFFSET")
_OPERATOR_WORDS = ("AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "ILIKE", "IS", "AS")
_CASE_WORDS = ("CASE", "WHEN", "THEN", "ELSE", "END")

#: words that are no names unless quoted
RESERVED = frozenset((*_CLAUSES, *_OPERATOR_WORDS, *_CASE_WORDS, *LATER, "DISTINCT", "ASC", "DESC", "BY", "USING"))
_CONSTANTS: Mapping[str, Callable[[], Node]] = {
    "TRUE": lambda: exp.Boolean(this=True),
    "FALSE": lambda: exp.Boolean(this=False),
    "NULL": exp.Null,
}

# fmt: off
_STATEMENTS = frozenset([
    "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "WITH", "EXPLAIN", "COPY", "ATTACH", "DETACH", "SET", "PRAGMA",
    "CALL", "VALUES", "SHOW", "DESCRIBE",
])
# fmt: on


def close_word(word: str, known: Iterable[str]) -> str | None:
    """The known word that a mistyped one was meant to be."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7) if word else []
    return close[0] if close else None


def is_select(text: str, names: Container[str] = ()) -> bool:
    """Whether a text begins as a SELECT statement (else it is a bare condition).

    Raises:
        TqlError: there is nothing in it; or it begins with a mistyped SELECT that is no name among ``names``.
    """
    found = tokenize(text)
    if all(t.type is None for t in found):
        raise TqlError("the query is empty: give a condition, or select … where …", text, 0, len(text))
    words = [t for t in found if t.type is not T.L_PAREN][:2]
    if not words:
        return False
    first, follows = words[0], words[1].type if len(words) > 1 else None
    mistyped = first.word != "SELECT" and close_word(first.word, ("SELECT",)) and follows in (T.STAR, T.VAR, None)
    if mistyped and first.value not in names:
        raise error_at(text, first, f"{first.value!r} is no tensor; did you mean SELECT?")
    return first.word == "SELECT"


def parse_select(text: str) -> exp.Select:
    """Parse a whole SELECT statement."""
    parser = _Parser(text)
    statement = parser.select()
    parser.finish()
    return statement


def source_of(text: str) -> str | None:
    """What stands after FROM in a query, before anything is known of the dataset; ``None``: nothing."""
    if not is_select(text):
        return None
    statement = parse_select(text)
    while isinstance(source := statement.args.get("from_"), exp.Subquery):
        statement = source.this
    return None if source is None else str(source.name)


def parse_condition(text: str) -> Node:
    """Parse a bare condition, as it would stand after WHERE."""
    parser = _Parser(text)
    parser.refuse_statement()
    condition = parser.expression()
    parser.finish()
    return condition


class _Parser:
    """A cursor over the tokens of one query."""

    def __init__(self, text: str) -> None:
        self.text = text
        end = len(text.rstrip())
        self.tokens = (*tokenize(text), Token(None, "", end, end + 1))
        self.index = 0
        self.depth = 0
        self.placeholders = 0

    # --- cursor

    @property
    def here(self) -> Token:
        return self.tokens[self.index]

    @property
    def ahead(self) -> Token:
        return self.tokens[min(self.index + 1, len(self.tokens) - 1)]

    @property
    def last_end(self) -> int:
        return self.tokens[self.index - 1].end

    def advance(self) -> Token:
        token = self.here
        if token.type is not None:
            self.index += 1
        return token

    def word(self, *words: str) -> Token | None:
        """Take the next token if it is one of these words."""
        return self.advance() if self.here.word in words else None

    def token(self, kind: T) -> Token | None:
        """Take the next token if it is of this type."""
        return self.advance() if self.here.type is kind else None

    def expect(self, kind: T, shown: str, why: str) -> Token:
        return self.token(kind) or self.fail(f"expected {shown} {why}")

    def expect_word(self, word: str, why: str) -> Token:
        return self.word(word) or self.fail(f"expected {word} {why}")

    def fail(self, message: str, where: Token | None = None) -> Token:
        """Raise at a token (the next one by default); the return type only pleases ``or``."""
        where = where or self.here
        if where.type is None:
            raise error_at(self.text, where, f"the query ends too early: {message}")
        if where.type in _FOREIGN:
            raise error_at(self.text, where, f"{where.value!r} is not TQL: {_FOREIGN[where.type]}")
        raise error_at(self.text, where, f"{message}, found {where.value!r}")

    def refuse_statement(self) -> None:
        if self.here.word in _STATEMENTS and self.ahead.type is T.VAR:
            raise error_at(
                self.text,
                self.here,
                f"{self.here.word} is not supported: a query is a SELECT, or a bare condition",
            )

    def finish(self) -> None:
        """Nothing but one ``;`` may follow."""
        self.token(T.SEMICOLON)
        if self.here.type is not None:
            self.refuse_later()
            if self.here.word in _CLAUSES:
                order = "the order is SELECT, FROM, WHERE, ORDER BY, LIMIT, OFFSET"
                message = f"{self.here.word} stands too late or twice: {order}"
                raise error_at(self.text, self.here, message)
            meant = close_word(self.here.word, _CLAUSES)
            if meant:
                raise error_at(self.text, self.here, f"the query should have ended here; did you mean {meant}?")
            self.fail("the query should have ended here")

    def refuse_later(self) -> None:
        name = LATER.get(self.here.word)
        if name is not None:
            raise error_at(self.text, self.here, f"{name} is not supported yet")

    def nested(self) -> None:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise error_at(self.text, self.here, f"the query nests deeper than {DEPTH_MAX} levels")

    # --- clauses

    def select(self) -> exp.Select:
        self.nested()
        wrapped = 0
        start = self.here.start
        while self.token(T.L_PAREN):
            wrapped += 1
        self.word("SELECT") or self.fail("a query begins with SELECT")
        args: dict[str, object] = {}
        if self.here.word == "TOP" and self.ahead.type in (T.NUMBER, T.PLACEHOLDER):
            args["top"] = self.advance()
            args["limit"] = self.primary()
        if distinct := self.word("DISTINCT"):
            args["distinct"] = at(exp.Distinct(), distinct.start, distinct.end)
            if self.here.word == "ON":
                raise error_at(self.text, self.here, "DISTINCT ON is not supported")
        args["expressions"] = self.comma_list(self.item)
        if self.word("FROM"):
            args["from_"] = self.source()
        if self.word("WHERE"):
            args["where"] = self.expression()
        self.refuse_later()
        if self.word("ORDER"):
            self.expect_word("BY", "after ORDER")
            args["order"] = self.comma_list(self.order_key)
        self.refuse_later()
        self.limit(args)
        self.refuse_later()
        while wrapped:
            self.expect(T.R_PAREN, ")", "to close the parenthesis before SELECT")
            self.refuse_later()
            wrapped -= 1
        self.depth -= 1
        args.pop("top", None)
        node = exp.Select()
        for key, value in args.items():
            node.set(key, value)
        at(node, start, self.last_end)
        return node

    def limit(self, args: dict[str, object]) -> None:
        if limit := self.word("LIMIT"):
            if "top" in args:
                raise error_at(self.text, limit, "the query has TOP and LIMIT: keep one of them")
            if not self.word("ALL"):
                args["limit"] = self.expression(_UNARY)
                if self.here.word == "PERCENT":
                    raise error_at(self.text, self.here, "LIMIT n PERCENT is not supported yet")
        if self.word("OFFSET"):
            args["offset"] = self.expression(_UNARY)

    def comma_list(self, read: Callable[[], Node]) -> list[Node]:
        found = [read()]
        while self.token(T.COMMA):
            found.append(read())
        return found

    def item(self) -> Node:
        if star := self.token(T.STAR):
            return at(exp.Star(), star.start, star.end)
        value = self.expression()
        name: Token | None = None
        if self.word("AS"):
            name = self.name_token("after AS")
        elif self.here.type is T.IDENTIFIER or (self.here.type is T.VAR and self.here.word not in RESERVED):
            name = self.name_token("as a name")
        if name is None:
            return value
        alias = at(exp.to_identifier(name.value, quoted=True), name.start, name.end)
        return at(exp.Alias(this=value, alias=alias), span_of(value)[0], name.end)

    def name_token(self, why: str) -> Token:
        token = self.here
        if token.type is T.IDENTIFIER and not token.value:
            raise error_at(self.text, token, f"expected a name {why}, and this one is empty")
        if token.type is T.IDENTIFIER or (token.type is T.VAR and token.word not in RESERVED and token.value[0] != "$"):
            return self.advance()
        return self.fail(f"expected a name {why}")

    def source(self) -> Node:
        if self.here.type is T.L_PAREN:
            start = self.advance().start
            inner = self.select()
            self.expect(T.R_PAREN, ")", "to close the sub-query")
            node: Node = at(exp.Subquery(this=inner), start, self.last_end)
        else:
            name = self.name_token("of a dataset after FROM")
            if self.here.type is T.DOT:
                self.fail("a dataset's path stands in double quotes")
            node = at(exp.to_identifier(name.value, quoted=True), name.start, name.end)
        if self.word("AS"):
            self.name_token("after AS")
        elif self.here.type is T.VAR and self.here.word not in RESERVED:
            self.advance()
        if self.here.type is T.COMMA:
            raise error_at(self.text, self.here, "several datasets in FROM are not supported yet")
        self.refuse_later()
        return node

    def order_key(self) -> Node:
        value = self.expression()
        direction = self.word("ASC", "DESC")
        if self.here.word == "NULLS":
            raise error_at(self.text, self.here, "NULLS FIRST/LAST is not TQL: missing values always come last")
        node = exp.Ordered(this=value, desc=bool(direction and direction.word == "DESC"), nulls_first=False)
        return at(node, span_of(value)[0], self.last_end)

    # --- expressions

    def expression(self, floor: int = 0) -> Node:
        """Read operators that bind at least as tightly as ``floor``."""
        self.nested()
        left = self.prefix(floor)
        compared = False
        while True:
            power, read = self.operator()
            if read is None or power < floor:
                break
            if power == _COMPARISON and compared:
                raise error_at(self.text, self.here, "comparisons do not chain: write a < b AND b < c")
            compared = power == _COMPARISON
            left = read(left)
        self.depth -= 1
        return left

    def prefix(self, floor: int) -> Node:
        if self.here.word == "NOT" and floor <= _NOT:
            token = self.advance()
            operand = self.expression(_NOT)
            return at(exp.Not(this=operand), token.start, self.last_end)
        if self.here.type in (T.DASH, T.PLUS):
            token = self.advance()
            operand = self.expression(_UNARY)
            if token.type is T.PLUS:
                return operand
            if isinstance(operand, exp.Literal) and not operand.is_string:
                return at(exp.Literal.number(f"-{operand.this}"), token.start, self.last_end)
            return at(exp.Neg(this=operand), token.start, self.last_end)
        return self.postfix(self.primary())

    def operator(self) -> tuple[int, Callable[[Node], Node] | None]:
        """The operator that comes next: its precedence and how to read it."""
        token = self.here
        if token.type in _BINARY:
            power, node = _BINARY[token.type]
            return power, lambda left: self.binary(left, node, power)
        if token.word == "OR":
            return _OR, lambda left: self.binary(left, exp.Or, _OR)
        if token.word == "AND":
            return _AND, lambda left: self.binary(left, exp.And, _AND)
        if token.word in _PREDICATES or (token.word == "NOT" and self.ahead.word in _PREDICATES):
            return _COMPARISON, self.predicate
        return 0, None

    def binary(self, left: Node, node: type[exp.Binary], power: int) -> Node:
        self.advance()
        right = self.expression(power + 1)
        return at(node(this=left, expression=right), span_of(left)[0], span_of(right)[1])

    def predicate(self, left: Node) -> Node:
        """IN, BETWEEN, LIKE, ILIKE and IS, with NOT before them."""
        negated = self.word("NOT")
        word = self.advance().word
        node = _PREDICATES[word](self, left)
        at(node, span_of(left)[0], self.last_end)
        if negated:
            node = at(exp.Not(this=node), *span_of(node))
        return node

    def in_list(self, left: Node) -> Node:
        closers: dict[T | None, tuple[T, str]] = {
            T.L_PAREN: (T.R_PAREN, ")"),
            T.L_BRACKET: (T.R_BRACKET, "]"),
        }
        opener = self.here
        if opener.type in (T.PLACEHOLDER, T.PARAMETER) or opener.value.startswith("$"):
            return exp.In(this=left, expressions=[self.primary()])
        if opener.type not in closers:
            self.fail("expected ( after IN")
        self.advance()
        if self.here.word == "SELECT":
            raise error_at(self.text, self.here, "IN (SELECT …) is not supported")
        values = self.comma_list(self.expression)
        closer, shown = closers[opener.type]
        self.expect(closer, shown, "to close the list after IN")
        return exp.In(this=left, expressions=values)

    def between(self, left: Node) -> Node:
        low = self.expression(_COMPARISON + 1)
        self.expect_word("AND", "between the two bounds of BETWEEN")
        return exp.Between(this=left, low=low, high=self.expression(_COMPARISON + 1))

    def like(self, left: Node) -> Node:
        return exp.Like(this=left, expression=self.expression(_COMPARISON + 1))

    def ilike(self, left: Node) -> Node:
        return exp.ILike(this=left, expression=self.expression(_COMPARISON + 1))

    def is_null(self, left: Node) -> Node:
        negated = self.word("NOT")
        token = self.expect_word("NULL", "after IS")
        node = at(exp.Is(this=left, expression=exp.Null()), span_of(left)[0], token.end)
        return exp.Not(this=node) if negated else node

    # --- operands

    def primary(self) -> Node:
        token = self.here
        if token.word in _CONSTANTS:
            self.advance()
            return at(_CONSTANTS[token.word](), token.start, token.end)
        if token.word == "CASE":
            return self.case()
        if token.word == "ARRAY" and self.ahead.type is T.L_BRACKET:
            self.advance()
            return self.array(token.start)
        if token.type is T.L_BRACKET:
            return self.array(token.start)
        if token.type is T.L_PAREN:
            return self.parenthesis()
        if token.type in (T.NUMBER, T.DOT):
            return self.number()
        if token.type is T.STRING:
            self.advance()
            return at(exp.Literal.string(token.value), token.start, token.end)
        if token.type is T.PLACEHOLDER:
            self.advance()
            node = at(exp.Placeholder(), token.start, token.end)
            node.meta["index"] = self.placeholders
            self.placeholders += 1
            return node
        if token.type is T.VAR and token.value.startswith("$"):
            self.advance()
            return at(exp.Placeholder(this=token.value[1:]), token.start, token.end)
        if token.type is T.VAR and self.ahead.type is T.L_PAREN and token.word not in RESERVED - {"LEFT", "RIGHT"}:
            return self.call()
        return self.reference()

    def reference(self) -> Node:
        token = self.here
        if token.word in RESERVED:
            self.refuse_later()
        name = self.name_token("of a tensor, a number, a text in '…' or \"(\"")
        if self.here.type is T.DOT and self.ahead.type is not T.NUMBER:
            if call := called_method(self.text, self.tokens, self.index):
                message = f"methods are for bare conditions; in a SELECT write {call}"
                raise error_at(self.text, self.ahead, message)
            message = (
                'a tensor of a group is written "group/tensor", in double quotes, '
                "and a dataset's name is not written before a tensor yet"
            )
            raise error_at(self.text, self.here, message)
        identifier = exp.to_identifier(name.value, quoted=name.type is T.IDENTIFIER)
        return at(exp.Column(this=identifier), name.start, name.end)

    def number(self) -> Node:
        token = self.advance()
        text, start = token.value, token.start
        if token.type is T.DOT:
            digits = self.expect(T.NUMBER, "digits", "after the point")
            text, token = f".{digits.value}", digits
        try:
            float(text)
        except ValueError:
            raise error_at(self.text, token, f"{text!r} is no number") from None
        if self.here.start == token.end and self.here.type in (T.VAR, T.NUMBER, T.STRING, T.DOT):
            raise TqlError(f"{self.text[start : self.here.end]!r} is no number", self.text, start, self.here.end - start)
        return at(exp.Literal.number(text), start, token.end)

    def parenthesis(self) -> Node:
        opener = self.advance()
        if self.here.word == "SELECT":
            raise error_at(self.text, self.here, "a sub-query may stand after FROM only")
        inner = self.expression()
        closer = self.expect(T.R_PAREN, ")", "to close the parenthesis")
        return at(inner, opener.start, closer.end)

    def array(self, start: int) -> Node:
        self.expect(T.L_BRACKET, "[", "after ARRAY")
        values = [] if self.here.type is T.R_BRACKET else self.comma_list(self.expression)
        closer = self.expect(T.R_BRACKET, "]", "to close the array")
        return at(exp.Array(expressions=values), start, closer.end)

    def call(self) -> Node:
        name = self.advance()
        self.expect(T.L_PAREN, "(", "after the function's name")
        if name.word in ("CAST", "TRY_CAST"):
            return self.cast(name)
        arguments: list[Node] = []
        if self.here.type is T.STAR:
            raise error_at(self.text, self.here, f"{name.value}(*) is not supported: * stands alone in the select list")
        if self.here.type is not T.R_PAREN:
            arguments = self.comma_list(self.argument)
        closer = self.expect(T.R_PAREN, ")", f"to close the arguments of {name.value}")
        if self.here.word == "OVER":
            raise error_at(self.text, self.here, "OVER (…) is not supported")
        node = at(exp.Anonymous(this=name.value, expressions=arguments), name.start, closer.end)
        node.meta["name_end"] = name.end
        return node

    def argument(self) -> Node:
        value = self.expression()
        if self.here.type is T.EQ and self.tokens[self.index].value == "=":
            self.fail("named arguments are not supported")
        return value

    def cast(self, name: Token) -> Node:
        value = self.expression()
        self.expect_word("AS", f"in {name.word}")
        words = [self.name_token(f"of a type in {name.word}")]
        if self.here.type is T.VAR:
            words.append(self.advance())
        closer = self.expect(T.R_PAREN, ")", f"to close {name.word}")
        node = exp.TryCast(this=value) if name.word == "TRY_CAST" else exp.Cast(this=value)
        node.set("to", at(exp.Var(this=" ".join(w.value for w in words)), words[0].start, words[-1].end))
        return at(node, name.start, closer.end)

    def case(self) -> Node:
        start = self.advance().start
        subject = None if self.here.word == "WHEN" else self.expression()
        branches: list[Node] = []
        while self.word("WHEN"):
            condition = self.expression()
            self.expect_word("THEN", "after WHEN …")
            result = self.expression()
            branches.append(at(exp.If(this=condition, true=result), span_of(condition)[0], self.last_end))
        if not branches:
            self.fail("expected WHEN after CASE")
        default = self.expression() if self.word("ELSE") else None
        self.expect_word("END", "to close CASE")
        return at(exp.Case(this=subject, ifs=branches, default=default), start, self.last_end)

    def postfix(self, value: Node) -> Node:
        while self.here.type is T.L_BRACKET:
            opener = self.advance()
            indices = self.comma_list(self.index_item)
            closer = self.expect(T.R_BRACKET, "]", "to close the index")
            start = span_of(value)[0]
            value = at(exp.Bracket(this=value, expressions=indices), start, closer.end)
            value.meta["index_span"] = (opener.start, closer.end)
        return value

    def index_item(self) -> Node:
        start = self.here.start
        parts: list[Node | None] = []
        for _ in range(3):
            parts.append(None if self.here.type in (T.COLON, T.COMMA, T.R_BRACKET) else self.expression())
            if not self.token(T.COLON):
                break
        else:
            self.fail("a slice has at most start:stop:step")
        if len(parts) == 1:
            if parts[0] is None:
                self.fail("expected an index")
            assert parts[0] is not None
            return parts[0]
        parts += [None] * (3 - len(parts))
        node = exp.Slice(this=parts[0], expression=parts[1], step=parts[2])
        return at(node, start, max(self.last_end, start + 1))


_PREDICATES: Mapping[str, Callable[[_Parser, Node], Node]] = {
    "IN": _Parser.in_list,
    "BETWEEN": _Parser.between,
    "LIKE": _Parser.like,
    "ILIKE": _Parser.ilike,
    "IS": _Parser.is_null,
}
