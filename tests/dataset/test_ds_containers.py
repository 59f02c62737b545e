"""What can be a column: anything in an order that can be counted. One sample, mappings and sets are told apart from that."""

from __future__ import annotations

import array
import collections
import types
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dataset_tools import unchanged, values

import lakefmt
from lakefmt.errors import InvalidInput


@pytest.fixture
def ds(mem_url: str) -> Any:
    """Two rows."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("x")
    ds.extend({"x": [7, 8]})
    ds.commit("two")
    return ds


_REFUSED: dict[str, Any] = {
    "mapping proxy": types.MappingProxyType({0: 1, 1: 2}), "UserDict": collections.UserDict({0: 1, 1: 2}),
    "ChainMap": collections.ChainMap({0: 1, 1: 2}), "dict": {0: 1, 1: 2}, "set": {1, 2}, "frozenset": frozenset([1, 2]),
    "bytes": b"ab", "bytearray": bytearray(b"ab"), "str": "ab", "Arrow scalar": pa.scalar([1, 2]),
    "Arrow table": pa.table({"a": [1, 2]}),
}  # fmt: skip
_ONE: dict[str, Any] = {"0-d": np.array(3), "int": 3, "None": None, "NumPy scalar": np.int64(3)}


@pytest.mark.parametrize("kind", [*_REFUSED, *_ONE])
def test_no_columns(ds: Any, kind: str) -> None:
    given = {**_REFUSED, **_ONE}[kind]
    for use in (lambda: ds.extend({"x": given}), lambda: ds.upsert({"x": given}, key="x"), lambda: ds.x.extend(given)):
        with unchanged(ds), pytest.raises(InvalidInput, match=r"'x'.*append"):
            use()


@pytest.mark.parametrize("kind", [k for k in _REFUSED if k not in ("str", "bytes", "Arrow scalar")])
def test_no_assignment_either(ds: Any, kind: str) -> None:
    with unchanged(ds), pytest.raises(InvalidInput, match="2 rows take a sequence"):
        ds.x[:] = _REFUSED[kind]


_COLUMNS: dict[str, Any] = {
    "deque": collections.deque([1, 2]), "UserList": collections.UserList([1, 2]), "tuple": (1, 2), "range": range(1, 3),
    "array": array.array("q", [1, 2]), "Arrow": pa.array([1, 2]), "chunks": pa.chunked_array([[1], [2]]), "list": [1, 2],
}  # fmt: skip


@pytest.mark.parametrize("kind", list(_COLUMNS))
def test_columns(ds: Any, kind: str) -> None:
    given = _COLUMNS[kind]
    ds.extend({"x": given})
    ds.x.extend(given)
    ds.x[:2] = given
    assert values(ds) == [1, 2, 1, 2, 1, 2]
    assert ds.x.dtype == np.int64


def test_generators(ds: Any) -> None:
    ds.x.extend(i for i in (1, 2))
    ds.x.extend({1: 0, 2: 0}.keys())
    assert values(ds) == [7, 8, 1, 2, 1, 2]
    with unchanged(ds), pytest.raises(InvalidInput, match="list or an array"):
        ds.extend({"x": (i for i in (1, 2))})


def test_pandas(ds: Any) -> None:
    pd = pytest.importorskip("pandas")
    frames = [
        pd.DataFrame([[1, 2], [3, 4]], columns=["x", "x"]),
        pd.DataFrame([[1, 2]], columns=[1, "1"]),
        {"x": pd.MultiIndex.from_tuples([(1, 2), (3, 4)])},
    ]
    for frame in frames:
        with unchanged(ds), pytest.raises(InvalidInput, match=r"of one name|MultiIndex"):
            ds.extend(frame)
    with unchanged(ds), pytest.raises(InvalidInput, match="MultiIndex"):
        ds.x.extend(frames[2]["x"])
    ds.extend(pd.DataFrame({"x": range(10)})[lambda d: d.x % 5 == 0])
    ds.x.extend(pd.Index([1, 2]))
    assert values(ds) == [7, 8, 0, 5, 1, 2]
