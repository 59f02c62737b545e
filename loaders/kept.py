"""The last few results of a pure function, kept; what an order may hold besides its definition."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """At most ``most`` values by key, the oldest dropped first. Empty after pickling.

    Without a lock, which a fork could leave locked: threads that ask for one key at once may both make it.
    """

    __slots__ = ("_most", "_values")

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Hashable, T] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``, made if it is not there."""
        values = self._values
        if key in values:
            return values[key]
        made = make()
        newest = list(values)[max(0, len(values) + 1 - self._most) :]
        self._values = {**{k: values[k] for k in newest}, key: made}
        return made

    def items(self) -> list[tuple[Any, T]]:
        """What is kept now."""
        return list(self._values.items())

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, (self._most,)
