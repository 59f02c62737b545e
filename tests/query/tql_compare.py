"""Whether what DuckDB found is what the oracle says."""

from __future__ import annotations

from typing import Any

import numpy as np
from tql_oracle import AnyTrue, Json
from tql_table import CATALOG, execute, oracle

from lakefmt.query.translate import translate


def same(one: Any, other: Any) -> bool:
    if isinstance(one, AnyTrue):
        one = bool(one)
    if isinstance(one, Json) and one.value is None:
        one = None
    if isinstance(other, Json) and other.value is None:
        other = None
    if one is None or other is None:
        return one is None and other is None
    if isinstance(one, Json) or isinstance(other, Json):
        return isinstance(one, Json) and isinstance(other, Json) and one.value == other.value
    if isinstance(one, str) or isinstance(other, str):
        return str(one) == str(other)
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype.kind == "U":
        return one.tolist() == other.tolist()
    if one.size == 0 and other.size == 0:
        return one.ndim == other.ndim
    return one.shape == other.shape and bool(
        np.allclose(one.astype(float), other.astype(float), rtol=1e-5, atol=1e-6, equal_nan=True)
    )


def check(query: str, *, oracle_query: str | None = None) -> None:
    """Translate, run, and compare rows, their order, and computed columns with the oracle."""
    translation = translate(query, CATALOG)
    found, computed = execute(translation)
    wanted, values = oracle().run(oracle_query or query)
    assert found == wanted, f"{query}\n{translation.sql}"
    if not wanted:
        return
    assert set(computed) <= set(values), query
    for name in computed:
        for row, one, other in zip(wanted, values[name], computed[name], strict=True):
            assert same(one, other), f"{query}: {name} of row {row}: {one!r} != {other!r}\n{translation.sql}"
