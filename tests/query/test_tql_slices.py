"""Any index that NumPy accepts gives what NumPy gives, on arrays of known and of varying shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tql_compare import same
from tql_table import CATALOG, execute, rows

from lakefmt.errors import TqlError
from lakefmt.query.translate import translate

RANKS = {"line": 1, "tags": 1, "emb": 1, "half": 1, "grid": 2, "points": 2, "boxes": 2, "volume": 3}

bound = st.one_of(st.none(), st.integers(-7, 7))
step = st.one_of(st.none(), st.sampled_from([-3, -2, -1, 1, 2, 3]))
one_index = st.one_of(st.integers(-4, 4), st.builds(slice, bound, bound, step))


def shown(key: tuple[Any, ...]) -> str:
    def part(one: Any) -> str:
        if not isinstance(one, slice):
            return str(one)
        text = ":".join("" if v is None else str(v) for v in (one.start, one.stop, one.step))
        return text if one.step is not None else text.rstrip(":") + ":" * (one.stop is None) if text != "::" else ":"

    return ", ".join(part(one) for one in key)


@st.composite
def indexed(draw: st.DrawFn) -> tuple[str, list[tuple[Any, ...]]]:
    """A tensor and one or two brackets after it."""
    name = draw(st.sampled_from(sorted(RANKS)))
    rank = RANKS[name]
    first = tuple(draw(st.lists(one_index, min_size=1, max_size=rank)))
    brackets = [first]
    left = rank - sum(not isinstance(k, slice) for k in first)
    if left and draw(st.booleans()):
        brackets.append(tuple(draw(st.lists(one_index, min_size=1, max_size=left))))
    return name, brackets


def numpy_index(value: Any, brackets: list[tuple[Any, ...]]) -> Any:
    if value is None:
        return None
    value = np.asarray(value)
    try:
        for key in brackets:
            value = value[key]
    except IndexError:
        return None
    return value


@given(indexed())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_index(case: tuple[str, list[tuple[Any, ...]]]) -> None:
    name, brackets = case
    query = f"select {name}{''.join(f'[{shown(key)}]' for key in brackets)} as x"
    wanted = [numpy_index(row[name], brackets) for row in rows()]
    if CATALOG[name].fixed_shape is not None and all(w is None for w in wanted):
        with pytest.raises(TqlError, match="out of range"):
            translate(query, CATALOG)
        return
    try:
        translation = translate(query, CATALOG)
    except TqlError:  # one dimension of boxes is known, and can be known to be exceeded
        known = CATALOG[name].dims is not None and all(w is None for w in wanted)
        if not known:
            raise
        return
    _, computed = execute(translation)
    for one, other in zip(wanted, computed["x"], strict=True):
        assert same(one, other), f"{query}: {one!r} != {other!r}\n{translation.sql}"


@pytest.mark.parametrize("name", sorted(RANKS))
def test_whole(name: str) -> None:
    translation = translate(f"select {name}[:] as x", CATALOG)
    _, computed = execute(translation)
    assert all(same(row[name], other) for row, other in zip(rows(), computed["x"], strict=True))
