"""Single samples out of cells: what a per-sample function is given, and what ``decode_method`` changes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from lakefmt.cells import Cells, Dense, Encoded, Ragged, Strings
from lakefmt.codecs import decode, decode_pil
from lakefmt.loaders.recipe import Allocate, Column, Decode, Form


def reader(column: Column, cells: Cells, allocate: Allocate | None = None) -> Callable[[int], Any]:
    """A function from a sample's place in ``cells`` to its value; ``None`` for a missing sample.

    ``numpy`` gives arrays, ``str`` for text, parsed objects for JSON; ``tobytes`` (and ``device``, which decodes
    later) the encoded image, the UTF-8 text or the array's bytes; ``pil`` an image of Pillow; ``torch`` a torch
    tensor, of an image (channels, height, width); ``data`` a dict with ``value`` and, for class labels, their
    names in ``text``. ``allocate`` makes the arrays that images are decoded into.
    """
    read = _reader(column, cells, allocate)
    if not column.padded:
        return read

    def filled(i: int) -> Any:
        value = read(i)
        return column.empty() if value is None else value

    return filled


def _reader(column: Column, cells: Cells, allocate: Allocate | None) -> Callable[[int], Any]:
    match column.decode:
        case Decode.TOBYTES | Decode.DEVICE:
            return _bytes_reader(cells)
        case Decode.TORCH:
            return _torch_reader(cells, _value_reader(cells, allocate))
        case Decode.PIL if isinstance(cells, Encoded):
            return _optional(cells.values, functools.partial(decode_pil, cells.codec))
        case Decode.DATA:
            return _data_reader(column, _value_reader(cells, allocate))
        case _:
            return _value_reader(cells, allocate)


def values_of(column: Column, cells: Cells) -> list[Any]:
    """Every sample at once, for columns without per-sample work in the thread pool."""
    if column.decode is Decode.NUMPY and not column.padded:
        if isinstance(cells, Strings):
            return _texts(cells)
        if isinstance(cells, Ragged):
            return list(cells.values)
    read = reader(column, cells)
    return [read(i) for i in range(len(cells))]


def _optional(values: list[Any], fn: Callable[[Any], Any]) -> Callable[[int], Any]:
    def read(i: int) -> Any:
        value = values[i]
        return None if value is None else fn(value)

    return read


def _value_reader(cells: Cells, allocate: Allocate | None) -> Callable[[int], Any]:
    if isinstance(cells, Dense):
        return cells.values.__getitem__
    if isinstance(cells, Encoded):
        return _optional(cells.values, functools.partial(decode, cells.codec, allocate=allocate))
    return (_texts(cells) if isinstance(cells, Strings) else cells.values).__getitem__


def _texts(cells: Strings) -> list[Any]:
    # Measured on pyarrow 26: to_pylist is 35 to 180 ns a text, faster than cutting one decoded buffer in
    # Python.
    texts: list[Any] = cells.values.to_pylist()
    return [None if t is None else json.loads(t) for t in texts] if cells.is_json else texts


def _bytes_reader(cells: Cells) -> Callable[[int], Any]:
    if isinstance(cells, Strings):
        return _optional(cells.values.to_pylist(), lambda text: str(text).encode())
    if isinstance(cells, Encoded):
        return _optional(cells.values, bytes)
    return _optional(list(cells.values), lambda array: np.asarray(array).tobytes())


def _torch_reader(cells: Cells, read: Callable[[int], Any]) -> Callable[[int], Any]:
    from lakefmt.loaders.tensors import tensor_of

    def read_tensor(i: int) -> Any:
        value = read(i)
        if value is None:
            return None
        tensor = tensor_of(np.asarray(value))
        if not isinstance(cells, Encoded):
            return tensor
        return tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor.unsqueeze(0)

    return read_tensor


def _data_reader(column: Column, read: Callable[[int], Any]) -> Callable[[int], Any]:
    names = column.definition.class_names if column.definition.is_label else None

    def read_data(i: int) -> Any:
        value = read(i)
        data: dict[str, Any] = {"value": value}
        if names is not None:
            data["text"] = None if value is None else _names_of(np.asarray(value), names)
        if column.form is Form.ENCODED and value is not None:
            data["shape"] = value.shape
        return data

    return read_data


def _names_of(ids: Any, names: tuple[str, ...]) -> Any:
    texts = [names[k] if 0 <= k < len(names) else None for k in ids.reshape(-1).tolist()]
    return texts[0] if ids.ndim == 0 else texts
