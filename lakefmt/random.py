"""One seed for everything that is random in lakefmt: shuffling, sampling, ``RANDOM()`` in queries."""

from __future__ import annotations

import itertools
import secrets

_state: dict[str, int | None] = {"seed": None}
_draws = itertools.count()


def seed(value: int | None) -> None:
    """Make what follows repeatable (``None``: not). Loaders made in the same order after it give the same batches."""
    global _draws
    _state["seed"] = None if value is None else int(value) & (2**63 - 1)
    _draws = itertools.count()


def next_seed() -> int:
    """A seed for the next thing that needs one: derived from ``seed(value)`` and a count, else from the system."""
    value = _state["seed"]
    if value is None:
        return secrets.randbits(63)
    return (value * 0x9E3779B97F4A7C15 + next(_draws) * 0xBF58476D1CE4E5B9 + 1) & (2**63 - 1)
