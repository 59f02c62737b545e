"""A small random table with what makes queries go wrong: missing samples, empty arrays, NaN, mixed shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from tql_oracle import Json, Oracle, labels

from lakefmt.htypes import define_tensor
from lakefmt.query.catalog import TensorInfo
from lakefmt.query.translate import Translation

ROWS = 60
CLASSES = ("cat", "dog", "bird", "big cat")
TAGS = ("red", "green", "blue")


def info(
    number: int,
    name: str,
    ndim: int | None,
    fixed: tuple[int, ...] | None = None,
    *,
    nullable: bool = False,
    dims: tuple[int | None, ...] | None = None,
    **options: Any,
) -> TensorInfo:
    return TensorInfo(define_tensor(number, name, **options), ndim, fixed, nullable, dims)


CATALOG: Mapping[str, TensorInfo] = {
    t.definition.name: t
    for t in (
        info(0, "labels", 0, (), htype="class_label", class_names=CLASSES),
        info(1, "image", 3, htype="image", sample_compression="jpeg"),
        info(2, "boxes", 2, nullable=True, dims=(None, 4), dtype="float32"),
        info(3, "emb", 1, (3,), htype="embedding"),
        info(4, "tags", 1, nullable=True, htype="class_label", class_names=TAGS),
        info(5, "score", 0, nullable=True, dtype="float32"),
        info(6, "text", 0, (), htype="text"),
        info(7, "meta", 0, nullable=True, htype="json"),
        info(8, "n", 0, nullable=True, dtype="int32"),
        info(9, "group/x", 0, (), dtype="uint8"),
        info(10, "mixed", None, nullable=True, dtype="int16"),
        info(11, "grid", 2, (4, 5), dtype="uint8"),
        info(12, "points", 2, nullable=True, dtype="int64"),
        info(13, "line", 1, nullable=True, dtype="float64"),
        info(14, "flag", 0, nullable=True, dtype="bool"),
        info(15, "caption", 0, nullable=True, htype="text"),
        info(16, "volume", 3, dtype="int32"),
        info(17, "half", 1, (4,), dtype="float16"),
        info(18, "N", 0, (), dtype="int64"),  # DuckDB would take it for n
    )
}


def _sometimes(rng: np.random.Generator, value: Any, share: float = 0.2) -> Any:
    return None if rng.random() < share else value


def _nan_in(rng: np.random.Generator, value: np.ndarray) -> np.ndarray:
    value[rng.random(value.shape) < 0.1] = np.nan
    return value


def _row(rng: np.random.Generator) -> dict[str, Any]:
    words = ("apple pie", "Apple", "it's", "a_b", "axb", "", "100%", "frame 1", "Frame 22")
    meta = {
        "a": {"b": int(rng.integers(0, 20))},
        "s": f"x{rng.integers(0, 4)}",
        "l": [int(v) for v in rng.integers(0, 5, rng.integers(0, 4))],
        "tags": [str(t) for t in rng.choice(["p", "q", "r"], rng.integers(0, 3))],
        "odd key.": bool(rng.random() < 0.5),
    }
    if rng.random() < 0.3:
        del meta["a"]
    mixed_shape = tuple(rng.integers(0, 4, rng.integers(1, 3)))
    return {
        "labels": labels(rng.integers(0, 4), CLASSES),
        "image": np.zeros((int(rng.integers(600, 700)), 10, 3), np.uint8),
        "boxes": _sometimes(rng, _nan_in(rng, rng.random((rng.integers(0, 4), 4), np.float32) * 300)),
        "emb": rng.integers(-2, 3, 3).astype(np.float32),
        "tags": _sometimes(rng, labels(rng.integers(0, 3, rng.integers(0, 4)), TAGS)),
        "score": _sometimes(rng, np.float32(np.nan if rng.random() < 0.15 else np.round(rng.random() * 6, 1))),
        "text": str(rng.choice(words)),
        "meta": _sometimes(rng, Json(meta)),
        "n": _sometimes(rng, np.int32(rng.integers(-4, 7))),
        "group/x": np.uint8(rng.integers(0, 256)),
        "mixed": _sometimes(rng, rng.integers(-3, 4, mixed_shape).astype(np.int16)),
        "grid": rng.integers(0, 256, (4, 5)).astype(np.uint8),
        "points": _sometimes(rng, rng.integers(-9, 10, (rng.integers(0, 4), rng.integers(0, 4)))),
        "line": _sometimes(rng, _nan_in(rng, np.round(rng.random(rng.integers(0, 6)) * 4, 1))),
        "flag": _sometimes(rng, np.bool_(rng.random() < 0.5)),
        "caption": _sometimes(rng, str(rng.choice(words))),
        "volume": rng.integers(0, 9, tuple(rng.integers(0, 4, 3))).astype(np.int32),
        "half": rng.choice([0.1, 0.2, 0.5], 4).astype(np.float16),
        "N": np.int64(rng.integers(0, 5)),
    }


@cache
def rows() -> tuple[dict[str, Any], ...]:
    rng = np.random.default_rng(7)
    return tuple(_row(rng) for _ in range(ROWS))


def _arrow(number: int, name: str) -> dict[str, pa.Array]:
    tensor = CATALOG[name]
    values = [row[name] for row in rows()]
    definition = tensor.definition
    if definition.kind in ("text", "json"):
        texts = [json.dumps(v.value) if isinstance(v, Json) else v for v in values]
        return {f"f{number}": pa.array(texts, pa.string())}
    dtype = "float32" if definition.dtype == "float16" else definition.dtype
    element = pa.from_numpy_dtype(np.dtype(dtype))
    if tensor.ndim == 0:
        return {f"f{number}": pa.array([None if v is None else v.item() for v in values], element)}
    shapes = pa.array([None if v is None else list(v.shape) for v in values], pa.list_(pa.int32()))
    if definition.kind == "encoded":
        return {f"f{number}__shape": shapes}
    flat = [None if v is None else np.asarray(v).astype(dtype).ravel().tolist() for v in values]
    # one tensor comes as DuckDB's ARRAY, as fixed-size lists in an Arrow table do
    list_type = pa.list_(element, 3) if name == "emb" else pa.list_(element)
    return {f"f{number}": pa.array(flat, list_type), f"f{number}__shape": shapes}


@cache
def connection() -> duckdb.DuckDBPyConnection:
    columns: dict[str, pa.Array] = {"_row": pa.array(range(ROWS)), "_id": pa.array(range(ROWS))}
    for name, tensor in CATALOG.items():
        columns |= _arrow(tensor.definition.id, name)
    found = duckdb.connect(config={"threads": 1})
    found.execute("SET enable_external_access = false")
    found.register("source", pa.table(columns))
    found.execute("CREATE TABLE t AS SELECT * FROM source")
    return found


def execute(translation: Translation, columns_of: str = "t") -> tuple[list[int], dict[str, list[Any]]]:
    """Run a translation with nothing but the columns that it says it reads."""
    names = [f"f{n}" if what == "value" else f"f{n}__shape" for n, what in sorted(translation.reads)]
    cursor = connection().cursor()
    cursor.execute(f"CREATE TEMP VIEW t AS SELECT {', '.join(['_row', '_id', *names])} FROM memory.main.{columns_of}")
    try:
        result = cursor.execute(translation.sql, translation.parameters)
        names = [d[0] for d in result.description or ()]
        found = result.fetchall()
    finally:
        cursor.execute("DROP VIEW temp.t")
    columns = {name: [row[k] for row in found] for k, name in enumerate(names)}
    computed = {}
    for column in translation.columns:
        if column.sql_name is None:
            continue
        values = columns[column.sql_name]
        if column.kind == "array":
            shapes = columns[column.shape_name] if column.shape_name else [column.shape] * len(values)
            values = [
                None if v is None else np.array(v).reshape(s if s is not None else -1) for v, s in zip(values, shapes, strict=True)
            ]
        elif column.kind == "json":
            values = [None if v is None else Json(json.loads(v)) for v in values]
        computed[column.name] = values
    return columns["_row"], computed


def oracle() -> Oracle:
    return Oracle(rows(), CATALOG)
