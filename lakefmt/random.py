"""One seed for everything that is random in lakefmt: shuffling, sampling, ``RANDOM()`` in queries."""

from __future__ import annotations

import itertools
import operator
import secrets

from lakefmt.errors import InvalidInput

_state: dict[str, int | None] = {"seed": None}
_draws = itertools.count()


def seed(value: int | None) -> None:
    """Make what follows repeatable (``None``: not). Loaders made in the same order after it give the same batches."""
    global _draws
    try:
        _state["seed"] = None if value is None else operator.index(value) & (2**63 - 1)
    except TypeError:
        raise InvalidInput(f"random.seed({value!r}): give an integer, or None for chance") from None
    _draws = itertools.count()


def next_seed() -> int:
    """A seed for the next thing that needs one: derived from ``seed(value)`` and a count, else from the system."""
    value = _state["seed"]
    if value is None:
        return secrets.randbits(63)
    return (value * 0x9E3779B97F4A7C15 + next(_draws) * 0xBF58476D1CE4E5B9 + 1) & (2**63 - 1)
