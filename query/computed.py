"""Computed columns: from the Arrow that DuckDB returns to cells, and as they lie in a saved view.

Numbers, and arrays of numbers, are what they would be as a tensor. A list of anything else (texts, dates) is a JSON document, for
arrays hold numbers. What is none of these is shown as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefmt.cells import Array, Cells, Dense, Ragged, Strings
from lakefmt.errors import InvalidInput

Shape = tuple[int, ...]


def computed_cells(
    array: pa.Array, dtype: str = "", shape: Shape | None = None, shapes: Sequence[Sequence[int] | None] | None = None
) -> Cells:  # fmt: skip
    """A computed column in the form that readers give.

    Args:
        array: a value for each row; arrays as flat lists.
        dtype: NumPy dtype of its numbers; by default as Arrow has them.
        shape: of arrays, when the same in every row.
        shapes: of arrays, row by row; by default they are one-dimensional.

    Raises:
        InvalidInput: integers of an array with missing elements, which is read as floats, are too large for floats.
    """
    kind = array.type
    if pa.types.is_decimal(kind):
        array = _whole_or_float(array)
    if _is_list(kind):
        return _lists(array, dtype, shape, shapes)
    if _is_number(array.type):
        return _numbers(array, dtype)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Strings(array.cast(pa.large_string()))
    if pa.types.is_null(kind):
        return Ragged([None] * len(array))
    return Strings(pa.array([None if v is None else str(v) for v in array.to_pylist()], pa.large_string()))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _whole_or_float(array: pa.Array) -> pa.Array:
    """Decimals: 128-bit integers are such to Arrow."""
    if array.type.scale == 0:
        try:
            return array.cast(pa.int64())
        except pa.ArrowInvalid:  # too large
            pass
    return array.cast(pa.float64())


def _numbers(array: pa.Array, dtype: str) -> Cells:
    if not array.null_count:
        return Dense(_typed(array, dtype))
    values = _typed(pc.fill_null(array, False if pa.types.is_boolean(array.type) else 0), dtype)
    return Ragged([values[i, ...] if present else None for i, present in enumerate(array.is_valid().to_pylist())])


def _typed(array: pa.Array, dtype: str) -> Array:
    values: Array = array.to_numpy(zero_copy_only=False)
    return values.astype(dtype, copy=False) if dtype else values


def _lists(array: pa.Array, dtype: str, shape: Shape | None, shapes: Sequence[Sequence[int] | None] | None) -> Cells:
    inner = array.type.value_type
    while _is_list(inner):
        inner = inner.value_type
    if not _is_number(inner):
        texts = [None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in array.to_pylist()]
        return Strings(pa.array(texts, pa.large_string()), is_json=True)
    if inner != array.type.value_type:  # the first writers of views nested their lists
        return Ragged([None if v is None else np.asarray(v, dtype or None) for v in array.to_pylist()])
    counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    flat = array.flatten()
    if flat.null_count:
        flat, dtype = _with_nan(flat), dtype if dtype.startswith("float") else ""
    values = _typed(flat, dtype)
    if shape is None and shapes is None and len(counts) and not array.null_count and bool((counts == counts[0]).all()):
        shape = (int(counts[0]),)
    if shape is not None and not array.null_count:
        return Dense(values.reshape(len(array), *shape))
    parts = np.split(values, np.cumsum(counts)[:-1]) if len(array) else []
    given: Sequence[Any] = shapes if shapes is not None else [shape] * len(array) if shape is not None else counts.tolist()
    present = array.is_valid().to_pylist()
    return Ragged([part.reshape(s) if there else None for part, s, there in zip(parts, given, present, strict=True)])


def _with_nan(flat: pa.Array) -> pa.Array:
    """Elements of which some are missing: NaN stands for these."""
    if pa.types.is_floating(flat.type):
        return flat
    try:
        return flat.cast(pa.float64())
    except pa.ArrowInvalid as e:
        raise InvalidInput(f"some elements are missing, so the array is of float64, which does not hold the others: {e}") from e


# --- saved views


def describe_column(column: str, cells: Cells) -> dict[str, Any]:
    """What is needed, besides its values, to restore a column that is called so in the file."""
    match cells:
        case Dense(values):
            return {"dtype": values.dtype.name, "shape": list(values.shape[1:])}
        case Ragged(samples):
            first = next((v for v in samples if v is not None), None)
            about: dict[str, Any] = {} if first is None else {"dtype": first.dtype.name}
            return about if _ranks(samples) <= {0} or _ranks(samples) <= {1} else {**about, "shapes": f"{column}__shape"}
        case Strings(_, is_json):
            return {"json": is_json}
    raise InvalidInput(f"a computed column of {type(cells).__name__} cannot be saved")


def stored_columns(column: str, cells: Cells, about: Mapping[str, Any]) -> dict[str, pa.Array]:
    """The columns of the file for one computed column: its values, and shapes that the values do not tell."""
    match cells:
        case Strings(texts):
            return {column: texts}
        case Dense(values) if values.ndim == 1:
            return {column: pa.array(values)}
        case Dense(values):
            counts = np.full(len(values), int(np.prod(values.shape[1:], dtype=np.int64)))
            return {column: _list_array(values.reshape(-1), counts, None)}
        case Ragged(samples) if _ranks(samples) <= {0}:
            return {column: pa.array([None if v is None else v.item() for v in samples], _arrow_type(samples))}
        case Ragged(samples):
            flat = np.concatenate([v.reshape(-1) for v in samples if v is not None])
            counts = np.array([0 if v is None else v.size for v in samples], np.int64)
            found = {column: _list_array(flat, counts, pa.array([v is None for v in samples]))}
            if "shapes" in about:
                found[about["shapes"]] = pa.array([None if v is None else list(v.shape) for v in samples], pa.list_(pa.int32()))
            return found
    raise InvalidInput(f"a computed column of {type(cells).__name__} cannot be saved")


def restored_column(table: pa.Table, column: str, about: Mapping[str, Any]) -> Cells:
    """A computed column of a saved view."""
    shape = tuple(about["shape"]) if "shape" in about else None
    shapes = table.column(about["shapes"]).to_pylist() if "shapes" in about else None
    cells = computed_cells(table.column(column).combine_chunks(), about.get("dtype", ""), shape, shapes)
    return Strings(cells.values, bool(about.get("json"))) if isinstance(cells, Strings) else cells


def column_bytes(cells: Cells) -> Iterator[bytes]:
    """Bytes that are the same for the same values."""
    match cells:
        case Dense(values):
            yield from (repr((values.dtype.name, values.shape)).encode(), values.tobytes())
        case Ragged(samples):
            for v in samples:
                yield b"-" if v is None else repr((v.dtype.name, v.shape)).encode() + v.tobytes()
        case Strings(texts):
            yield json.dumps(texts.to_pylist()).encode()


def _ranks(samples: Sequence[Array | None]) -> set[int]:
    return {v.ndim for v in samples if v is not None}


def _arrow_type(samples: Sequence[Array | None]) -> pa.DataType:
    first = next((v for v in samples if v is not None), None)
    return pa.null() if first is None else pa.from_numpy_dtype(first.dtype)


def _list_array(flat: Array, counts: Array, missing: pa.Array | None) -> pa.Array:
    offsets = pa.array(np.concatenate(([0], np.cumsum(counts))))
    return pa.LargeListArray.from_arrays(offsets, pa.array(flat), mask=missing)
