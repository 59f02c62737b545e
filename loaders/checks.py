"""Arguments that users give: taken for what they are, or refused by name before anything is read."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lakefmt.errors import InvalidInput

#: Threads or processes: more than any machine has cores, and few enough to start.
CREW_MAX = 1024
#: Numbers that are counted up to: JSON holds them exactly, and sums of some of them are int64.
COUNT_MAX = 2**53


def integer(step: str, name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number, of Python's, NumPy's or torch's; nothing else."""
    wanted = "an integer" if least is None else f"an integer >= {least}" if most is None else f"an integer from {least} to {most}"
    number = whole(value)
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        raise InvalidInput(f"{step}({name}={shown(value)}): give {wanted}")
    return number


def whole(value: Any) -> int | None:
    """``value`` as an int; ``None`` where it is no single integer (truth values are none)."""
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def shown(value: Any) -> str:
    """The value in a message; Python refuses to write integers of thousands of digits."""
    return f"{value:#x}"[:40] + "…" if isinstance(value, int) and abs(value) >= 10**40 else repr(value)


def positive(step: str, name: str, value: Any, unit: str, most: int) -> float:
    """A number above zero."""
    number: Any = 0 if isinstance(value, bool) or not isinstance(value, numbers.Real) else value
    if not 0 < number <= most:
        raise InvalidInput(f"{step}({name}={shown(value)}): give a positive number of {unit}, at most {most}")
    return float(number)


def truth(step: str, name: str, value: Any) -> bool:
    """True or False, also NumPy's."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidInput(f"{step}({name}={value!r}): give True or False")
    return bool(value)


def function(step: str, name: str, value: Any) -> None:
    """A function, or None."""
    if value is not None and not callable(value):
        raise InvalidInput(f"{step}({name}={value!r}): give a function, or None")


def names(step: str, name: str, value: Any) -> None:
    """A sequence of names, or None."""
    listed = isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and all(isinstance(v, str) for v in value)
    if value is not None and not listed:
        raise InvalidInput(f"{step}({name}={value!r}): give a list of names")


def by_tensor(step: str, name: str, value: Any) -> None:
    """A dict with tensor names as keys, or None."""
    if value is not None and not (isinstance(value, Mapping) and all(isinstance(k, str) for k in value)):
        raise InvalidInput(f"{step}({name}={value!r}): give a dict with tensor names as keys")


def text(step: str, name: str, value: Any) -> None:
    """A str."""
    if not isinstance(value, str):
        raise InvalidInput(f"{step}({name}={value!r}): give a str")


def pair(step: str, name: str, value: Any) -> tuple[int, int]:
    """Two integers: (rank, world)."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) != 2:
        raise InvalidInput(f"{step}({name}={value!r}): give (rank, world), two integers")
    return integer(step, f"{name}[0]", value[0]), integer(step, f"{name}[1]", value[1])
