"""From what a user gives to what a tensor stores: checks dtype, shape, class names and codecs, one sample or a whole batch.

Nothing is stored here; a failed check leaves everything as it was. Errors name the tensor, the row and the remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from lakefmt.cells import Array
from lakefmt.codecs import decode_foreign, encode, pil_pixels, read_header, refuse_huge
from lakefmt.errors import BadSample, DtypeError, InvalidInput, MissingExtra, ShapeError, UnknownClass
from lakefmt.fragment.columns import BytesColumn, Column, NumericColumn, TextColumn, missing_column, new_column
from lakefmt.htypes import (
    HTYPES,
    NDIM_MAX,
    NUMERIC_DTYPES,
    Kind,
    TensorDef,
    extend_class_names,
    holds,
    json_text,
    plain_text,
    shown,
)
from lakefmt.sample import Sample, Stored, are_samples


def prepare_batch(definition: TensorDef, values: Any, *, first_row: int = 0) -> tuple[TensorDef, Column]:
    """Turn a sequence of samples into a column.

    Args:
        definition: the tensor.
        values: a list, array, Arrow array or Series of samples; an array's first axis is the rows.
        first_row: row number of the first sample, for messages.

    Returns:
        The definition (with a dtype or class names that this batch fixed) and the column.
    """
    values = as_samples(definition, values, first_row)
    _refuse_masked(definition, values, first_row)
    if definition.kind is Kind.NUMERIC:
        return _numeric_batch(definition, values, first_row)
    column = new_column(definition)
    if isinstance(column, TextColumn):
        _text_batch(definition, values, first_row, column)
    elif isinstance(column, BytesColumn):
        for i, value in enumerate(values):
            column.add(*_encoded(definition, _given(definition, value), first_row + i))
    return definition, column


def prepare_sample(definition: TensorDef, value: Any, *, row: int = 0) -> tuple[TensorDef, Column]:
    """Turn one sample into a column of one row."""
    value = _given(definition, value)
    if value is None:
        return definition, missing_column(_typed(definition, np.float64) if definition.dtype is None else definition, 1)
    if definition.kind is Kind.NUMERIC:
        if definition.is_label:
            definition, value = _labels(definition, value, row)
        definition, array = _numeric(definition, value, row)
        column: Column = new_column(definition)
        assert isinstance(column, NumericColumn)
        column.add(array)
        return definition, column
    column = new_column(definition)
    if isinstance(column, TextColumn):
        column.add(_text(definition, value, row))
    elif isinstance(column, BytesColumn):
        column.add(*_encoded(definition, value, row))
    return definition, column


def prepare_inside(definition: TensorDef, value: Any, *, row: int = 0) -> Array:
    """What is assigned inside a sample, as an array of the tensor's dtype: by the rules for whole samples, but for the shape."""
    value = _given(definition, value)
    if definition.is_label:
        named, value = _labels(definition, value, row)
        new = (named.class_names or ())[len(definition.class_names or ()) :]
        if new:
            raise UnknownClass(
                f"tensor {definition.name!r}, row {row}: there is no class {new[0]!r} yet; "
                f"ds[{definition.name!r}].add_class_names({new[0]!r}) makes it one"
            )
    return _cast(definition, _as_array(definition, value, row), row)


def as_samples(definition: TensorDef, values: Any, first_row: int = 0) -> Any:
    """Foreign containers to lists, arrays or (of text) Arrow arrays."""
    if not are_samples(values):
        raise InvalidInput(
            f"tensor {definition.name!r}: extend() takes a list or array of samples, got {type(values).__name__} {shown(values)}; "
            "append() takes one sample"
        )
    if isinstance(values, Stored):
        values = values._given_to(definition)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        return _from_arrow(definition, values, first_row)
    if hasattr(values, "to_numpy") and hasattr(values, "tolist"):
        return _from_pandas(definition, values)
    if isinstance(values, (list, np.ndarray)):
        return values
    foreign = hasattr(values, "__array__") and hasattr(values, "shape")  # torch, tensorflow, jax
    return _as_numpy(definition, values, first_row) if foreign else list(values)


#: What most samples are: nothing else has to be looked for.
_PLAIN = frozenset({str, int, float, bool, list, tuple, dict, bytes, np.ndarray, type(None)})


def _given(definition: TensorDef, value: Any) -> Any:
    """One sample as a plain value, when it is one that is stored somewhere, or Arrow's."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Stored):
        return value._given_to(definition)
    if isinstance(value, (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar)) and value.is_valid:
        value = value.values
    if isinstance(value, pa.Scalar):
        if isinstance(value, pa.FixedShapeTensorScalar):
            return _tensors(pa.repeat(value, 1))[0] if value.is_valid else None
        return np.asarray(value.as_py(), value.type.to_pandas_dtype()) if _numbers(value.type) and value.is_valid else value.as_py()
    if isinstance(value, pa.ChunkedArray):
        value = value.combine_chunks()
    if isinstance(value, pa.Array):
        if isinstance(value, pa.FixedShapeTensorArray):
            return _with_missing(value, _tensors(value))
        return value.to_numpy(zero_copy_only=False) if value.null_count == 0 and _numbers(value.type) else value.to_pylist()
    return value


def _numbers(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _from_arrow(definition: TensorDef, values: pa.Array, first_row: int) -> Any:
    """Samples of an Arrow array in its own dtype, missing ones as None."""
    kind = values.type
    if not _numbers(kind):
        _check_arrow(definition, values, first_row)
    if definition.kind in (Kind.TEXT, Kind.JSON) and _is_arrow_text(kind):
        return values
    if _numbers(kind):
        present = values.drop_null() if values.null_count else values
        return _with_missing(values, present.to_numpy(zero_copy_only=False))
    if isinstance(values, pa.FixedShapeTensorArray):
        return _with_missing(values, _tensors(values))
    plain = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_kind(kind) for is_kind in plain) or not _numbers(kind.value_type) or values.flatten().null_count:
        return values.to_pylist()
    if pa.types.is_fixed_size_list(kind):
        numbers = values.flatten().to_numpy(zero_copy_only=False)
        return _with_missing(values, numbers.reshape(len(values) - values.null_count, kind.list_size))
    return values.to_numpy(zero_copy_only=False).tolist()


def _tensors(values: pa.FixedShapeTensorArray) -> Array:
    """Arrow's tensors that are present; of objects when elements are missing or no numbers.

    Dimensions come in their logical order as Arrow's format defines it; pyarrow's own conversions err where three or more move.
    """
    kind, flat = values.type, values.storage.flatten()
    plain = flat.null_count == 0 and _numbers(flat.type)
    elements = flat.to_numpy(zero_copy_only=False) if plain else np.array([*flat.to_pylist(), None], object)[:-1]
    stored: Array = elements.reshape(len(values) - values.null_count, *kind.shape)
    return stored.transpose(0, *(1 + d for d in kind.permutation)) if kind.permutation else stored


def _with_missing(values: pa.Array, present: Array) -> Any:
    """The samples that are present among all of an Arrow array: as they are when that is all, else a list with None."""
    if values.null_count == 0:
        return present
    samples = iter(present)
    return [next(samples) if valid else None for valid in values.is_valid().to_pylist()]


def _check_arrow(definition: TensorDef, values: pa.Array, first_row: int) -> None:
    """Arrow takes texts for UTF-8 without looking."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as e:
        raise DtypeError(f"tensor {definition.name!r}, rows from {first_row} on: the Arrow array is not valid ({e})") from e


def _from_pandas(definition: TensorDef, values: Any) -> Any:
    """Samples of a pandas Series or Index in its own dtype, missing ones as None; NaN of a NumPy dtype stays NaN."""
    numbers = getattr(values.dtype, "numpy_dtype", values.dtype)
    numeric = definition.kind is Kind.NUMERIC and isinstance(numbers, np.dtype) and numbers.kind in "biuf"
    if isinstance(values.dtype, np.dtype) or not numeric:
        return values.to_numpy() if numeric else _series_list(values)
    missing = values.isna()
    array = values.to_numpy(dtype=numbers, na_value=0)
    return [None if m else v for v, m in zip(array, missing.tolist(), strict=True)] if bool(missing.any()) else array


def _as_numpy(definition: TensorDef, value: Any, row: int) -> Array:
    """What NumPy makes of a value; of a tensor of another library without its gradients."""
    try:
        return np.asarray(value.detach() if getattr(value, "requires_grad", False) is True else value)
    except (RuntimeError, TypeError) as e:
        raise DtypeError(
            f"tensor {definition.name!r}, row {row}: {type(value).__name__} does not convert to NumPy ({e}); give a dense one of "
            "a dtype that NumPy has (of torch: value.to_dense(), or value.float() for bfloat16)"
        ) from e
    except ValueError as e:
        raise ShapeError(
            f"tensor {definition.name!r}, row {row}: the sample is ragged inside ({e}); give a rectangular array"
        ) from e


def _series_list(values: Any) -> list[Any]:
    """Values of a pandas Series, its missing ones as None."""
    missing = values.isna().tolist()
    return [None if m is True else v for v, m in zip(values.tolist(), missing, strict=True)]


def _is_arrow_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


# -- numbers -----------------------------------------------------------------------------------------------------------


def _numeric_batch(definition: TensorDef, values: Any, first_row: int) -> tuple[TensorDef, Column]:
    if definition.is_label:
        definition, values = _label_batch(definition, values, first_row)
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf" and values.ndim >= 1:
        definition = _typed(definition, values.dtype) if definition.dtype is None else definition
        _check_shape(definition, values.shape[1:], first_row)
        block = _cast(definition, values, first_row, batch=True)
        column = NumericColumn(block.dtype.name)
        column.add_block(block, borrowed=np.may_share_memory(block, values))
        return definition, column
    scalars = _scalar_block(values)
    if scalars is not None:
        return _numeric_batch(definition, scalars, first_row)
    samples: list[Array | None] = []
    for i, value in enumerate(values):
        value = _given(definition, value)
        if value is None:
            samples.append(None)
            continue
        definition, array = _numeric(definition, value, first_row + i)
        samples.append(array)
    column = NumericColumn(definition.dtype or "float64")  # nothing but missing samples fixes no dtype
    for sample in samples:
        column.add(sample)
    return definition, column


def _scalar_block(values: Any) -> Array | None:
    """A list of plain Python numbers of one type as one array; ``None`` when it is anything else."""
    if not isinstance(values, list) or not values:
        return None
    kinds = set(map(type, values))
    if kinds == {bool} or kinds == {float} or kinds == {int}:
        try:
            return np.array(values, {bool: np.bool_, float: np.float64, int: np.int64}[kinds.pop()])
        except OverflowError:
            return None
    return None


def _numeric(definition: TensorDef, value: Any, row: int) -> tuple[TensorDef, Array]:
    """One numeric sample as an array of the tensor's dtype."""
    if isinstance(value, Sample):
        value = value.array
    elif definition.htype == "image" and _is_pil(value):
        value = _raw_pixels(definition, value, row)
    array = _as_array(definition, value, row)
    if definition.dtype is None:
        definition = _typed(definition, array.dtype)
    _check_shape(definition, array.shape, row)
    cast = _cast(definition, array, row)
    if not isinstance(value, (int, float, bool, list, tuple, np.generic)) and np.may_share_memory(cast, array):
        cast = cast.copy()  # an array or tensor of the caller's, who may go on to change it
    return definition, cast


def _as_array(definition: TensorDef, value: Any, row: int) -> Array:
    """What NumPy makes of a value, when that is an array of numbers."""
    _refuse_masked(definition, value, row)
    array = _as_numpy(definition, value, row)
    if array.dtype.kind not in "biuf":
        raise DtypeError(
            f"tensor {definition.name!r}, row {row}: {shown(value)} ({type(value).__name__}) is no numeric sample; "
            f"the tensor has dtype {definition.dtype or 'numeric'}"
        )
    if array.dtype.kind == "f" and isinstance(value, (list, tuple)):
        _check_rounding(definition, value, array, row)
    return array


def _check_rounding(definition: TensorDef, value: Any, array: Array, row: int) -> None:
    """Refuse integers that NumPy rounded when it made floats of a list, and floats where a list has nothing but integers."""
    if set(map(type, value)) == {float} or not bool((np.abs(array) >= 2.0**53).any()):
        return
    elements = np.asarray(value, object).ravel().tolist()
    integers = [e for e in elements if isinstance(e, (int, np.integer))]
    rounded = [e for e, made in zip(elements, array.flat, strict=True) if isinstance(e, (int, np.integer)) and int(made) != int(e)]
    if rounded or (definition.dtype is None and len(integers) == len(elements)):
        raise DtypeError(
            f"tensor {definition.name!r}, row {row}: NumPy makes {array.dtype} of {shown(value)}, in which the integer "
            f"{(rounded or integers)[0]} may lose digits; give an array of the dtype you mean"
        )


def _refuse_masked(definition: TensorDef, value: Any, row: int) -> None:
    if isinstance(value, np.ma.MaskedArray) and bool(np.ma.getmaskarray(value).any()):
        raise DtypeError(
            f"tensor {definition.name!r}, row {row}: a masked array with masked elements; give value.filled(…), "
            "or None for a missing sample"
        )


def _typed(definition: TensorDef, dtype: Any) -> TensorDef:
    name = np.dtype(dtype).name
    if name not in NUMERIC_DTYPES:
        raise DtypeError(f"tensor {definition.name!r}: dtype {name!r} cannot be stored; use one of {', '.join(NUMERIC_DTYPES)}")
    return msgspec.structs.replace(definition, dtype=name)


def _check_shape(definition: TensorDef, shape: tuple[int, ...], row: int) -> None:
    declared, allowed = definition.shape, HTYPES[definition.htype].ndims
    if allowed and len(shape) not in allowed:
        raise ShapeError(
            f"tensor {definition.name!r}, row {row}: a sample of htype {definition.htype!r} has "
            f"{' or '.join(map(str, allowed))} dimensions, this one has shape {tuple(shape)}"
        )
    if len(shape) > NDIM_MAX:
        raise ShapeError(f"tensor {definition.name!r}, row {row}: a sample of {len(shape)} dimensions; {NDIM_MAX} are possible")
    if declared is None:
        return
    fits = len(shape) == len(declared) and all(d is None or d == s for d, s in zip(declared, shape, strict=True))
    if not fits:
        raise ShapeError(
            f"tensor {definition.name!r}, row {row}: a sample of shape {tuple(shape)} does not fit the declared shape {declared}; "
            "create the tensor with None for dimensions that vary"
        )


def _first_bad(bad: Array, row: int, batch: bool) -> int:
    """Row of the first sample of a batch with a bad element; ``row`` itself for a single sample."""
    return row + int(np.argmax(bad.reshape(len(bad), -1).any(axis=1))) if batch else row


def _cast(definition: TensorDef, array: Array, row: int, *, batch: bool = False) -> Array:
    """To the tensor's dtype, refusing any change of value (float rounding to a narrower float is allowed)."""
    target = np.dtype(definition.dtype)
    if array.dtype == target:
        return array if array.dtype.isnative else array.astype(target)
    if array.size == 0 or holds(target, array.dtype):
        return array.astype(target)
    if array.dtype.kind == target.kind == "f":
        with np.errstate(over="ignore"):
            narrow = array.astype(target)
        bad = np.isinf(narrow) & np.isfinite(array)
        if bool(bad.any()):
            raise DtypeError(f"tensor {definition.name!r}, row {_first_bad(bad, row, batch)}: a value is too large for {target}")
        return narrow
    if target.kind == "b" or (array.dtype.kind == "f" and target.kind in "iu"):
        raise DtypeError(
            f"tensor {definition.name!r}, row {row}: {array.dtype} does not fit dtype {target}; convert it first, "
            f"e.g. value.astype({target.name!r})"
        )
    if target.kind == "f":
        _check_digits(definition, array, target, row, batch)
        return array.astype(target)
    low, high = int(array.min()), int(array.max())
    info = np.iinfo(target)
    if low < info.min or high > info.max:
        where = f"tensor {definition.name!r}, row {_first_bad((array < info.min) | (array > info.max), row, batch)}"
        raise DtypeError(f"{where}: {low if low < info.min else high} is outside {target} [{info.min}, {info.max}]")
    return array.astype(target)


def _check_digits(definition: TensorDef, integers: Array, target: np.dtype[Any], row: int, batch: bool) -> None:
    """Refuse integers that a float dtype does not hold: those with more binary digits than it has, or beyond its largest."""
    finfo = np.finfo(target)
    digits = finfo.nmant + 1
    if -(1 << digits) <= int(integers.min()) and int(integers.max()) <= 1 << digits:
        return
    size = integers.astype(np.uint64)  # negative ones wrap around
    size = np.where(integers < 0, np.uint64(0) - size, size)
    lowest_bit = size & (np.uint64(0) - size)
    bad = (size >> np.uint64(digits)) >= lowest_bit
    bad = (bad & (size != 0)) | (size > np.uint64(min(int(finfo.max), (1 << 64) - 1)))
    if bool(bad.any()):
        value = int(integers[bad].flat[0])
        raise DtypeError(
            f"tensor {definition.name!r}, row {_first_bad(bad, row, batch)}: the integer {value} loses digits in {target}; "
            "store integers in a tensor of an integer dtype, or give floats, rounded as you choose"
        )


# -- class labels ------------------------------------------------------------------------------------------------------


def _labels(definition: TensorDef, value: Any, row: int) -> tuple[TensorDef, Any]:
    """Class names to ids; ids are checked against the names there are."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "US":
        value = value.tolist()
    if isinstance(value, str):
        definition, ids = _ids_of(definition, [value], row)
        return definition, ids[0]
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, str) for v in value):
        return _ids_of(definition, value, row)
    if isinstance(value, (list, tuple)) and not value:
        return definition, np.empty((0,), definition.dtype)
    return _check_ids(definition, value, row), value


def _ids_of(definition: TensorDef, names: Sequence[str], row: int, *, batch: bool = False) -> tuple[TensorDef, Array]:
    """Ids of class names, which become classes where the tensor allows that. ``batch``: each name is a row."""
    names = [plain_text(n, f"tensor {definition.name!r}, row {row + i if batch else row}") for i, n in enumerate(names)]
    definition = _with_classes(definition, names, row, batch=batch)
    if len(names) < 8:
        return definition, np.array([definition.class_id(n) for n in names], definition.dtype)
    ids = {n: i for i, n in enumerate(definition.class_names or ())}
    return definition, np.fromiter((ids[n] for n in names), definition.dtype, len(names))


def _with_classes(definition: TensorDef, names: Sequence[str], row: int, *, batch: bool = False) -> TensorDef:
    distinct = list(dict.fromkeys(names))
    if definition.open_labels and definition.class_names is not None:
        return extend_class_names(definition, distinct)
    for name in distinct:
        if definition.class_names is None:
            raise UnknownClass(
                f"tensor {definition.name!r}, row {row + names.index(name) if batch else row}: no class {name!r}, as its class ids "
                f"have no names; ds[{definition.name!r}].add_class_names(…) names the ids 0, 1, … all at once"
            )
        try:
            definition.class_id(name)
        except UnknownClass as e:
            raise UnknownClass(f"row {row + names.index(name) if batch else row}: {e}") from None
    return definition


def _check_ids(definition: TensorDef, ids: Any, row: int, *, batch: bool = False) -> TensorDef:
    """Refuse what is no class id. Ids given before any names are plain numbers, which no name given later may mean."""
    array = _as_numpy(definition, ids, row)
    if array.dtype.kind not in "iu" and array.size:
        raise DtypeError(
            f"tensor {definition.name!r}, row {row}: a class label is a name or an integer id, got {shown(ids)} ({array.dtype})"
        )
    names = definition.class_names or ()
    if batch and array.size:
        row = _first_bad((array < 0) | ((array >= len(names)) if names else False), row, batch)
    if array.size and int(array.min()) < 0:
        raise UnknownClass(f"tensor {definition.name!r}, row {row}: class id {int(array.min())} is negative")
    if array.size and names and int(array.max()) >= len(names):
        raise UnknownClass(
            f"tensor {definition.name!r}, row {row}: class id {int(array.max())} has no name; the tensor has {len(names)} classes "
            f"(ids 0 to {len(names) - 1}). To add one: ds[{definition.name!r}].add_class_names(…)"
        )
    if array.size and definition.class_names == ():
        return msgspec.structs.replace(definition, class_names=None)
    return definition


def _label_batch(definition: TensorDef, values: Any, first_row: int) -> tuple[TensorDef, Any]:
    if isinstance(values, np.ndarray) and values.dtype.kind in "US":
        values = values.tolist()
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "iu":
            return _check_ids(definition, values, first_row, batch=True), values
        values = values.tolist()
    if values and all(isinstance(v, str) for v in values):
        return _ids_of(definition, values, first_row, batch=True)
    if values and all(type(v) is int for v in values):
        array = np.asarray(values)
        return _check_ids(definition, array, first_row, batch=True), array
    out: list[Any] = []
    for i, value in enumerate(values):
        value = _given(definition, value)
        if value is None:
            out.append(None)
        else:
            definition, label = _labels(definition, value, first_row + i)
            out.append(label)
    return definition, out


# -- text and json -----------------------------------------------------------------------------------------------------


def _text_batch(definition: TensorDef, values: Any, first_row: int, column: TextColumn) -> None:
    if isinstance(values, pa.Array) and definition.kind is Kind.TEXT:
        column.add_arrow(values.cast(pa.large_string()))
        return
    if isinstance(values, (pa.Array, np.ndarray)):
        values = values.tolist()
    if definition.kind is Kind.TEXT and values and all(type(v) is str for v in values):
        try:
            column.add_arrow(pa.array(values, pa.large_string()))
            return
        except UnicodeEncodeError:
            pass  # found and named below
    given = (_given(definition, v) for v in values)
    column.add_list([None if v is None else _text(definition, v, first_row + i) for i, v in enumerate(given)])


def _text(definition: TensorDef, value: Any, row: int) -> str:
    where = f"tensor {definition.name!r}, row {row}"
    if definition.kind is Kind.JSON:
        return json_text(value, where)
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "UO":
        value = value.item()
    if isinstance(value, str):
        return plain_text(value, where)
    raise DtypeError(f"{where}: text is a str, got {shown(value)} ({type(value).__name__})")


# -- images ------------------------------------------------------------------------------------------------------------


def _encoded(definition: TensorDef, value: Any, row: int) -> tuple[bytes | None, tuple[int, ...] | None]:
    """Encoded bytes and the shape they decode to: verbatim when already in the tensor's codec, else encoded."""
    if value is None:
        return None, None
    codec = definition.compression
    assert codec is not None
    where = f"tensor {definition.name!r}, row {row}"
    try:
        if isinstance(value, (bytes, memoryview, bytearray)):
            value = Sample(bytes(value))
        if isinstance(value, Sample):
            data = value.data
            found = value.codec_of(data)
            if found != codec:
                data = encode(codec, decode_foreign(found, data), where)
        else:
            data = encode(codec, _pixels(definition, value, row), where)
        shape = read_header(codec, data)
        if codec == "png" and isinstance(value, Sample):
            refuse_huge(shape)
    except BadSample as e:
        raise BadSample(f"{where}: {e}. Leave the file out, or repair it") from e
    _check_shape(definition, shape, row)
    return data, shape


def _pixels(definition: TensorDef, value: Any, row: int) -> Array:
    where = f"tensor {definition.name!r}, row {row}"
    if isinstance(value, str):
        raise DtypeError(f"{where}: got the str {shown(value)}; for an image file append lakefmt.read({shown(value)})")
    if _is_pil(value):
        return pil_pixels(value)
    _refuse_masked(definition, value, row)
    try:
        array = _as_numpy(definition, value, row)
    except MissingExtra as e:
        raise ShapeError(f"{where}: {e}") from e
    if array.dtype.kind not in "biuf":
        raise DtypeError(f"{where}: {shown(value)} ({type(value).__name__}) is no image; give lakefmt.read(path) or a uint8 array")
    if array.dtype.kind in "iu" and array.dtype != np.uint8 and array.size and array.min() >= 0 and array.max() <= 255:
        array = array.astype(np.uint8)
    return array


def _raw_pixels(definition: TensorDef, image: Any, row: int) -> Array:
    try:
        return pil_pixels(image)
    except BadSample as e:
        raise BadSample(f"tensor {definition.name!r}, row {row}: {e}") from e


def _is_pil(value: Any) -> bool:
    """Whether it is a Pillow image (Pillow is not imported for that)."""
    return hasattr(value, "mode") and hasattr(value, "getbands") and hasattr(value, "convert")
