"""What all rules share while one query is translated: the names in scope, the parameters, the errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlglot import exp

from lakefmt.errors import InvalidInput, TqlError
from lakefmt.query import emit
from lakefmt.query.catalog import Catalog
from lakefmt.query.kinds import Value
from lakefmt.query.syntax import Node, error_at

Rule = Callable[["Context", Any], Value]

#: names of the relation's own columns, which queries may use
ROW, ROW_ID = "_row", "_id"


@dataclass(slots=True)
class Parameters:
    """The values of ``?`` and ``$name``, and which of them the query used."""

    given: Sequence[object] | Mapping[str, object] | None
    used: set[object] = field(default_factory=set)

    def __post_init__(self) -> None:
        given: Any = self.given
        listed = bool(given.shape) if isinstance(given, np.ndarray) else isinstance(given, Sequence)
        if isinstance(given, (str, bytes, bytearray)) or not (given is None or listed or isinstance(given, Mapping)):
            raise InvalidInput(f"parameters are a list (for ?) or a dict (for $name), got {given!r}; a single value is [{given!r}]")

    def look_up(self, text: str, node: exp.Placeholder) -> object:
        key: int | str = node.this or int(node.meta["index"])
        shown = f"${key}" if node.this else f"parameter ? number {int(key) + 1}"
        self.used.add(key)
        if isinstance(self.given, Mapping) and node.this and key in self.given:
            return self.given[node.this]
        if isinstance(self.given, Mapping) or self.given is None:
            raise error_at(text, node, f"no value was given for {shown}")
        if node.this:
            raise error_at(text, node, f"{shown} needs parameters given by name, as a dict")
        if int(key) >= len(self.given):
            raise error_at(text, node, f"no value was given for {shown}: there are {len(self.given)}")
        return self.given[int(key)]

    def check_all_used(self, text: str) -> None:
        """A parameter that the query does not use is a mistake in one of the two."""
        keys: list[object] = list(self.given) if isinstance(self.given, Mapping) else list(range(len(self.given or ())))
        for key in keys:
            if key not in self.used:
                shown = f"${key}" if isinstance(key, str) else f"number {int(str(key)) + 1}"
                raise TqlError(f"parameter {shown} is not used by the query", text, 0, len(text))


@dataclass(slots=True)
class Context:
    """The translation of one SELECT.

    Attributes:
        text: the query.
        catalog: the tensors of the relation.
        rules: the table of rules, by type of syntax node.
        seed: of RANDOM().
        row_number: what ROW_NUMBER() is in the clause being translated.
        computed: columns that an inner SELECT computed.
        aliases: names that the select list gives, for WHERE and ORDER BY.
        aliases_first: whether an alias hides a tensor of the same name (ORDER BY), or the tensor the alias
            (WHERE).
        draws: number of RANDOM() calls so far; each is a stream of its own.
        unclear: what stands where a condition is meant and is none: numbers, of which "not zero" is taken.
    """

    text: str
    catalog: Catalog
    rules: Mapping[type[Node], Rule]
    parameters: Parameters
    seed: int = 0
    row_number: Node = field(default_factory=lambda: emit.column(ROW))
    computed: Mapping[str, Value] = field(default_factory=dict)
    aliases: dict[str, Callable[[], Value]] = field(default_factory=dict)
    aliases_first: bool = False
    draws: list[int] = field(default_factory=lambda: [0])
    unclear: list[Node] = field(default_factory=list)

    def error(self, where: Node, message: str) -> TqlError:
        return error_at(self.text, where, message)

    def look(self, node: Node) -> Value:
        """Translate a node, allowing what has a shape but no value (images)."""
        rule = self.rules.get(type(node))
        if rule is None:
            raise self.error(node, f"{type(node).__name__} is not supported in TQL")
        return rule(self, node)

    def eval(self, node: Node) -> Value:
        """Translate a node whose value is needed."""
        value = self.look(node)
        if value.unread:
            raise self.error(node, value.unread)
        return value

    def constant(self, node: Node, what: str) -> object:
        """The value of a node that must be a constant."""
        value = self.eval(node)
        if not value.is_const:
            raise self.error(node, f"{what} must be a constant")
        return value.const

    def integer(self, node: Node, what: str) -> int:
        """The value of a node that must be a constant integer."""
        found = self.constant(node, what)
        if isinstance(found, (bool, np.bool_)) or not isinstance(found, (int, np.integer)):
            raise self.error(node, f"{what} must be an integer, not {found!r}")
        return int(found)
