"""What samples come as beside plain values: ``lakefmt.read``, an encoded file whose bytes are kept verbatim; and stored samples."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import pyarrow as pa

from lakefmt.cells import Array
from lakefmt.codecs import decode_foreign, read_header, sniff
from lakefmt.errors import BadSample, InvalidInput, MissingExtra, NotFound, StoreError
from lakefmt.htypes import TensorDef

T = TypeVar("T")


class Stored(ABC):
    """Samples that some dataset holds already: they go to another tensor as they are stored, labels by their names."""

    _is_single: bool

    @abstractmethod
    def _given_to(self, definition: TensorDef) -> Any:
        """What to store in a tensor: one sample, or a list, array or Arrow array of them."""


def are_samples(values: Any) -> bool:
    """Whether something holds samples in an order: it is not one sample, a table, or what has keys or no order."""
    if isinstance(values, Stored):
        return not values._is_single
    if isinstance(values, (str, bytes, bytearray, Mapping, set, frozenset, pa.Scalar, pa.Table, pa.RecordBatch)):
        return False
    of_tuples = getattr(values, "nlevels", 1) != 1  # a pandas MultiIndex
    one = hasattr(values, "shape") and len(values.shape) == 0
    return isinstance(values, Iterable) and not of_tuples and not one


class Sample:
    """Encoded bytes of one sample. A file is read when its bytes are asked for, and not kept: lists of samples stay small.

    Attributes:
        path: where it came from, or ``None`` when made of bytes.
    """

    __slots__ = ("_data", "path")

    def __init__(self, source: str | os.PathLike[str] | bytes | memoryview) -> None:
        self.path: str | None = None
        self._data: bytes | None = None
        if isinstance(source, (bytes, bytearray, memoryview)):
            self._data = bytes(source)
        elif isinstance(source, (str, os.PathLike)):
            self.path = os.fspath(source)
        else:
            raise InvalidInput(f"lakefmt.read() takes a path or bytes, got {type(source).__name__}")

    def __repr__(self) -> str:
        return f"<lakefmt sample {self.path or f'of {len(self.data)} bytes'}>"

    @property
    def data(self) -> bytes:
        """The encoded bytes."""
        return _read_file(self.path or "") if self._data is None else self._data

    @property
    def codec(self) -> str:
        """``jpeg`` or ``png``, by the bytes themselves."""
        return self.codec_of(self.data)

    def codec_of(self, data: bytes) -> str:
        """The codec of this sample's bytes, once they are at hand."""
        found = sniff(data)
        if found is None:
            raise BadSample(f"{self._name()} is no JPEG or PNG (by its first bytes)")
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded image, from its header."""
        return self._through(read_header)

    @property
    def array(self) -> Array:
        """The decoded pixels, uint8 (H, W) or (H, W, C)."""
        return self._through(decode_foreign)

    def _through(self, read: Callable[[str, bytes], T]) -> T:
        data = self.data
        codec = self.codec_of(data)
        try:
            return read(codec, data)
        except BadSample as e:
            raise BadSample(f"{self._name()}: {e}") from e

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.array if dtype is None else self.array.astype(dtype)

    def _name(self) -> str:
        return repr(self.path) if self.path else "the sample"


def read(path: str | os.PathLike[str] | bytes | memoryview, *, verify: bool = False) -> Sample:
    """A sample from an encoded file (or its bytes), to be stored as it is.

    Args:
        path: a local path, any fsspec URL, or the bytes themselves.
        verify: decode it now, so that damage deep in the file is found here and not in training.

    Raises:
        NotFound: no such file.
        BadSample: ``verify`` and it does not decode.
    """
    sample = Sample(path)
    if verify:
        _ = sample.array
    return sample


def _read_file(path: str) -> bytes:
    try:
        if "://" in path:
            import fsspec

            with fsspec.open(path, "rb") as f:
                return bytes(f.read())
        with open(path, "rb") as f:
            return f.read()
    except FileNotFoundError as e:
        raise NotFound(f"lakefmt.read: there is no file {path!r}") from e
    except IsADirectoryError as e:
        raise InvalidInput(f"lakefmt.read: {path!r} is a folder") from e
    except ImportError as e:
        raise MissingExtra(f"reading {path!r} ({e})", "all") from e
    except (OSError, ValueError) as e:
        raise StoreError(getattr(e, "errno", None) or 0, f"lakefmt.read: {path!r}: {e}") from e
