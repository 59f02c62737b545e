"""TQL as a sqlglot dialect: text -> tokens -> syntax tree whose every node knows where it stood in the text.

The tokenizer knows no keyword at all, so that a tensor may be called ``row`` or ``date``, and ``::`` is two
colons, so that ``x[::2]`` reads as in NumPy. The grammar is ours as well (``lakefmt.query.grammar``):
sqlglot's own parser accepts the SQL of thirty databases, skips optional words, and records no positions for
most nodes, whereas TQL promises that whatever it does not understand is an error that points at the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from sqlglot import TokenType, exp, tokens
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import TokenError

from lakefmt.errors import TqlError

if TYPE_CHECKING:
    Node: TypeAlias = exp.Expr
else:  # the root class of sqlglot's nodes was called Expression before version 30
    Node = getattr(exp, "Expr", exp.Expression)

Span = tuple[int, int]

#: Longest query text accepted, a bound against runaway input.
QUERY_CHARS_MAX = 1_000_000


class Tql(Dialect):
    """The lexical rules of TQL."""

    class Tokenizer(tokens.Tokenizer):
        QUOTES: ClassVar = ["'"]
        IDENTIFIERS: ClassVar = ['"']
        COMMENTS: ClassVar = ["--", ("/*", "*/")]
        STRING_ESCAPES: ClassVar = ["'"]
        KEYWORDS: ClassVar = {
            "==": TokenType.EQ,
            "<>": TokenType.NEQ,
            "!=": TokenType.NEQ,
            "<=": TokenType.LTE,
            ">=": TokenType.GTE,
            "&&": TokenType.DAMP,
            "||": TokenType.DPIPE,
        }


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its place: ``text[start:end]``.

    ``word`` is the upper-cased text of a bare name, else ''. ``type`` is ``None`` at the end of the text.
    """

    type: TokenType | None
    value: str
    start: int
    end: int
    word: str = ""


@lru_cache(maxsize=2)  # a query is looked at before it is parsed
def tokenize(text: str) -> tuple[Token, ...]:
    """Split a query into tokens.

    Raises:
        TqlError: a string, quoted name or comment that does not end.
    """
    if len(text) > QUERY_CHARS_MAX:
        raise TqlError(f"the query has {len(text)} characters; at most {QUERY_CHARS_MAX} are accepted")
    _check_closed(text)
    try:
        found = Tql().tokenize(text)
    except TokenError as error:  # pragma: no cover - _check_closed names the known causes first
        raise TqlError(f"the query cannot be split into words: {error}", text, 0) from None
    return tuple(_token(t) for t in found)


def _token(token: Any) -> Token:
    word = token.text.upper() if token.token_type is TokenType.VAR else ""
    return Token(token.token_type, token.text, token.start, token.end + 1, word)


def called_method(text: str, tokens: Sequence[Token], dot: int) -> str | None:
    """The function call that a method call in a SELECT stands for, from the tokens around its point; ``None``: it is none.

    Double quotes are names in a SELECT, so that ``text.contains("1")`` cannot just be read as what it means elsewhere.
    """
    if len(tokens) < dot + 4 or all(t.word != "SELECT" for t in tokens):
        return None
    name, method, opener, argument = (tokens[dot + k] for k in (-1, 1, 2, 3))
    if method.type is not TokenType.VAR or opener.type is not TokenType.L_PAREN:
        return None
    owner = text[name.start : name.end]
    if argument.type is TokenType.R_PAREN:
        return f"{method.value}({owner})"
    alone = len(tokens) > dot + 4 and tokens[dot + 4].type is TokenType.R_PAREN
    if alone and argument.type in (TokenType.STRING, TokenType.IDENTIFIER):
        quoted = argument.value.replace("'", "''")
        return f"{method.value}({owner}, '{quoted}')"
    return f"{method.value}({owner}, …)"


_OPENERS = {"'": ("'", "string"), '"': ('"', "quoted name"), "/*": ("*/", "comment")}


def _check_closed(text: str) -> None:
    """sqlglot reports an unclosed quote without its place, and an unclosed comment not at all."""
    at = 0
    while at < len(text):
        two = text[at : at + 2]
        if two == "--":
            newline = text.find("\n", at)
            at = len(text) if newline < 0 else newline
            continue
        opener = two if two == "/*" else text[at]
        if opener not in _OPENERS:
            at += 1
            continue
        closer, what = _OPENERS[opener]
        end = text.find(closer, at + len(opener))
        if end < 0:
            raise TqlError(f"this {what} does not end: {closer} is missing", text, at, len(opener))
        at = end + len(closer)


def span_of(node: Node) -> Span:
    """Where a node stood in the query text."""
    start, end = node.meta.get("span", (0, 1))
    return int(start), int(end)


def at(node: Node, start: int, end: int) -> Node:
    """Record a node's place."""
    node.meta["span"] = (start, end)
    return node


def error_at(text: str, where: Node | Token, message: str) -> TqlError:
    """An error that points at a node or token."""
    start, end = (where.start, where.end) if isinstance(where, Token) else span_of(where)
    return TqlError(message, text, start, end - start)
