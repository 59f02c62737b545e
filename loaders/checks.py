"""Arguments that users give: taken for what they are, or refused by name before anything is read."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lakefmt.errors import InvalidInput


def integer(step: str, name: str, value: Any, least: int | None = None) -> int:
    """A whole number, of Python's or NumPy's; nothing else."""
    wanted = "an integer" if least is None else f"an integer >= {least}"
    try:
        if isinstance(value, bool):
            raise TypeError("a truth value")
        number = operator.index(value)
    except TypeError:
        raise InvalidInput(f"{step}({name}={value!r}): give {wanted}") from None
    if least is not None and number < least:
        raise InvalidInput(f"{step}({name}={value!r}): give {wanted}")
    return number


def positive(step: str, name: str, value: Any, unit: str) -> float:
    """A number above zero."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) > 0:
        raise InvalidInput(f"{step}({name}={value!r}): give a positive number of {unit}")
    return float(value)


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
