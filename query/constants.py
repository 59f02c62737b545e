"""Constants: literals of the query and values of its parameters, which are treated alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sqlglot import exp

from lakefmt.query import emit, kinds
from lakefmt.query.context import Context
from lakefmt.query.kinds import Value
from lakefmt.query.syntax import Node

_INT64 = range(-(2**63), 2**63)
_UINT64 = range(2**64)

#: DuckDB's name of each element type
SQL_TYPES = {
    "bool": "BOOLEAN", "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT",
    "uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT",
    "hugeint": "HUGEINT", "float16": "FLOAT", "float32": "FLOAT", "float64": "DOUBLE", "text": "VARCHAR",
}  # fmt: skip

#: integers up to here are exact in float32
_EXACT_IN_FLOAT32 = 2**24


def constant(ctx: Context, node: Node, given: object) -> Value:
    """A value of Python as a typed constant."""
    if isinstance(given, np.generic) or (isinstance(given, np.ndarray) and not given.shape):
        given = given.item()
    if given is None:
        return Value(sql=exp.Null(), dtype=kinds.NULL, node=node, const=None, nullable=True)
    if isinstance(given, bool):
        return Value(sql=emit.boolean(given), dtype=kinds.BOOL, node=node, const=given)
    if isinstance(given, int):
        if given not in _INT64 and given not in _UINT64:
            raise ctx.error(node, f"{given} does not fit in 64 bits")
        return Value(sql=emit.number(given), dtype="int64", node=node, const=given)
    if isinstance(given, float):
        return Value(sql=emit.number(given), dtype="float64", node=node, const=given)
    if isinstance(given, str):
        return Value(sql=emit.bind(given), dtype=kinds.TEXT, node=node, const=given)
    if isinstance(given, (list, tuple, np.ndarray)):
        return constant_array(ctx, node, given)
    raise ctx.error(node, f"a parameter of type {type(given).__name__} cannot be used in a query")


def constant_array(ctx: Context, node: Node, given: Any) -> Value:
    """A list, nested list or NumPy array as a constant: flat values and a shape."""
    try:
        values = np.asarray(given)
    except ValueError:
        raise ctx.error(node, "the rows of this array differ in length") from None
    if values.size == 0:
        values = values.astype(np.float64)
    if values.dtype.kind not in "biufU" or not _kept(given, values):
        raise ctx.error(node, "an array of constants holds numbers, or texts, of one kind")
    if values.dtype.kind == "U":  # NumPy's own texts lose what ends in NUL
        values = np.array(flat(given), object).reshape(values.shape)
    dtype = kinds.TEXT if values.dtype.kind == "O" else values.dtype.name
    return typed_array(Value(sql=node, dtype=dtype, node=node, shape=values.shape, const=values), dtype)


def _kept(given: Any, values: Any) -> bool:
    """Whether an array holds what was given: NumPy makes texts of numbers next to texts, floats of integers next to floats."""
    if isinstance(given, np.ndarray) or values.dtype.kind not in "fU":
        return True
    elements = flat(given)
    if values.dtype.kind == "U":
        return all(isinstance(v, str) for v in elements)
    return all(not isinstance(v, int) or float(v) == v for v in elements)


def flat(given: Any) -> list[Any]:
    """The elements of nested lists, as they were given."""
    if isinstance(given, np.ndarray):
        return list(given.ravel().tolist())
    return [v for one in given for v in flat(one)] if isinstance(given, (list, tuple)) else [given]


def typed_array(value: Value, dtype: str) -> Value:
    """A constant array as elements of ``dtype``, bound as one parameter."""
    bound = emit.bind(value.const.ravel().tolist())
    sql = emit.cast(bound, f"{SQL_TYPES[dtype]}[]")
    return value.but(sql=sql, dtype=dtype, const=value.const)


def like_column(value: Value, dtype: str) -> Value:
    """A constant number as a column of ``dtype`` holds it.

    ``x == 0.1`` on float32 means "the float32 nearest to 0.1", as it does in NumPy; and DuckDB then compares
    without casting the column, so that the statistics of the file can be used.
    """
    if not value.is_const:
        return value
    if value.is_array:
        return typed_array(value, dtype) if dtype in ("float16", "float32") and value.dtype in kinds.NUMBERS else value
    if dtype == kinds.BOOL and value.const in (0, 1) and value.dtype != kinds.BOOL:
        return value.but(sql=emit.boolean(bool(value.const)), const=value.const)
    if value.dtype == kinds.BOOL and dtype != kinds.BOOL:
        return value.but(sql=emit.number(int(value.const)), const=value.const)
    if dtype not in ("float16", "float32") or not value.is_number:
        return value
    with np.errstate(over="ignore"):
        rounded = float(np.dtype(dtype).type(value.const))
    if rounded == value.const and abs(rounded) <= _EXACT_IN_FLOAT32 and rounded.is_integer():
        return value.but(sql=emit.number(int(rounded)), const=value.const)
    exact = rounded if dtype == "float16" or not math.isfinite(rounded) else float(value.const)
    return value.but(sql=emit.cast(emit.number(exact), "FLOAT"), const=value.const)
