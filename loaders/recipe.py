"""The recipe: what a loader reads of each row and what it makes of it. A frozen value, sent to worker
processes as is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np

from lakefmt.cells import Array, Rows
from lakefmt.errors import InvalidInput, NoSuchTensor, nearest
from lakefmt.htypes import Kind, TensorDef
from lakefmt.loaders.faults import OnError
from lakefmt.loaders.memory import ImageLeases
from lakefmt.rows import RowSource

SampleFn: TypeAlias = Callable[[Any], Any]
Allocate: TypeAlias = Callable[[tuple[int, ...], str], Array]
#: Of the batch, and which rows its samples are (``None`` when a function of the batch may have changed that).
Convert: TypeAlias = Callable[[Any, Rows | None], Any]


class Form(StrEnum):
    """What a tensor's samples are, as the source declares them; a batch's luck never changes it."""

    DENSE = "dense"  # numbers of one shape, none missing
    RAGGED = "ragged"  # numbers of differing shapes, or some missing
    ENCODED = "encoded"
    TEXT = "text"
    JSON = "json"


class Decode(StrEnum):
    """How a sample is presented."""

    NUMPY = "numpy"
    TOBYTES = "tobytes"
    PIL = "pil"
    DATA = "data"
    TORCH = "torch"
    DEVICE = "device"


class RaggedMode(StrEnum):
    """How samples of differing shapes become one batch value; ``lakefmt.loaders.ragged`` says what each
    gives.
    """

    LIST = "list"
    PAD = "pad"
    NESTED = "nested"
    FLAT = "flat"


@dataclass(frozen=True, slots=True)
class Column:
    """One tensor of the batch: how it is read, decoded and transformed (``fn``, per sample).

    Attributes:
        padded: whether an empty sample stands for a missing one.
    """

    name: str
    definition: TensorDef
    form: Form
    uniform: tuple[tuple[int, ...], str] | None
    decode: Decode = Decode.NUMPY
    fn: SampleFn | None = None
    padded: bool = False

    @property
    def decodes(self) -> bool:
        """Whether samples are decoded one by one: the work worth a thread pool."""
        return self.form is Form.ENCODED and self.decode not in (Decode.TOBYTES, Decode.DEVICE)

    @property
    def stacks(self) -> bool:
        """Whether decoded images are put together, being declared to be of one shape."""
        return self.frame is not None and self.fn is None and self.decode in (Decode.NUMPY, Decode.TORCH)

    @property
    def stacks_there(self) -> bool:
        """The same where they are decoded on a device."""
        return self.frame is not None and self.decode is Decode.DEVICE

    def empty(self) -> Any:
        """The sample without content: what stands for a missing one where that is asked for."""
        if self.decode is Decode.TOBYTES:
            return b""
        if self.form in (Form.TEXT, Form.JSON):
            return "" if self.form is Form.TEXT else None
        rank = len(self.definition.shape) if self.definition.shape is not None else 3 if self.form is Form.ENCODED else 1
        return np.empty((0,) * rank, self.definition.dtype or "float32")

    @property
    def frame(self) -> tuple[int, ...] | None:
        """The one shape of decoded images, when the tensor declares it."""
        return self.definition.fixed_shape if self.form is Form.ENCODED else None


def _nothing() -> tuple[Any, ...]:
    return ()


def new_array(shape: tuple[int, ...], dtype: str) -> Array:
    """The default allocation: a fresh array for every batch, so that what was handed out is never written
    again.
    """
    return np.empty(shape, dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to read and what to make of it.

    Attributes:
        columns: the tensors, in the order in which a batch unpacks.
        row_fn: a function of the whole row (a dict per sample), or ``None``.
        batch_fns: functions of the whole batch, applied in order.
        collate: receives the list of row dicts and makes the batch value of it, in place of stacking.
        convert: last step of every batch (NumPy to torch).
        ragged: how tensors of differing shapes are put together.
        on_error: what becomes of bad samples.
        keep_size: replace bad rows instead of leaving them out, so that ranks stay in step.
        return_index: add the positions of the rows.
        allocate: makes the array a dense tensor is gathered into.
        images: makes the arrays that images are decoded into.
    """

    source: RowSource
    columns: tuple[Column, ...]
    row_fn: SampleFn | None = None
    batch_fns: tuple[Callable[[Any], Any], ...] = field(default_factory=_nothing)
    collate: Callable[[list[Any]], Any] | None = None
    convert: Convert | None = None
    ragged: RaggedMode = RaggedMode.LIST
    on_error: OnError = OnError.RAISE
    keep_size: bool = False
    return_index: bool = False
    allocate: Allocate = new_array
    images: Allocate = field(default_factory=ImageLeases)

    @property
    def row_wise(self) -> bool:
        """Whether every row becomes a Python dict: only when the user's own function asks for one."""
        return self.row_fn is not None or self.collate is not None

    @property
    def per_sample(self) -> bool:
        """Whether there is work to do sample by sample."""
        return self.row_wise or any(c.decodes or c.fn is not None for c in self.columns)

    def row_nbytes(self) -> float:
        """Mean stored bytes of a row."""
        return float(sum(self.source.mean_nbytes(c.name) for c in self.columns))


def columns_of(
    source: RowSource,
    tensors: Sequence[str] | None = None,
    functions: Mapping[str, SampleFn | None] | None = None,
    decode_method: Mapping[str, str] | None = None,
    *,
    padded: bool = False,
) -> tuple[Column, ...]:
    """The columns that a loader's options ask for.

    Args:
        tensors: names, in the order wanted; default: those of ``functions``, or all.
        functions: per-sample function of each tensor, ``None`` to pass it through.
        decode_method: how to present samples, by tensor.
        padded: whether empty samples stand for missing ones.

    Raises:
        NoSuchTensor: a name the source does not have.
        InvalidInput: a decode method that does not exist or does not fit the tensor, or a function for a
            tensor that ``tensors`` leaves out.
    """
    functions, methods = dict(functions or {}), dict(decode_method or {})
    names = list(tensors) if tensors is not None else list(functions) or list(source.definitions)
    for name in (*names, *functions, *methods):
        if name not in source.definitions:
            raise NoSuchTensor(f"there is no tensor {name!r} to load; {nearest(name, source.definitions)}")
    for name in functions:
        if name not in names:
            raise InvalidInput(f"transform names tensor {name!r}, which tensors={names!r} leaves out")
    if not names:
        raise InvalidInput("there is nothing to load: the dataset has no tensors, or tensors=[] was given")
    columns = [_column(source, name, functions.get(name), methods.get(name, "numpy")) for name in names]
    return tuple(replace(c, padded=padded) for c in columns)


def _column(source: RowSource, name: str, fn: SampleFn | None, method: str) -> Column:
    definition, uniform = source.definitions[name], source.uniform(name)
    if method not in set(Decode):
        raise InvalidInput(f"decode_method of {name!r}: {nearest(method, Decode)} Got {method!r}")
    match definition.kind:
        case Kind.ENCODED:
            form = Form.ENCODED
        case Kind.TEXT:
            form = Form.TEXT
        case Kind.JSON:
            form = Form.JSON
        case _:
            form = Form.DENSE if uniform is not None else Form.RAGGED
    if method in (Decode.PIL, Decode.DEVICE) and form is not Form.ENCODED:
        raise InvalidInput(f"decode_method of {name!r}: {method!r} is for jpeg and png tensors, {name!r} holds {form} samples")
    if method == Decode.DEVICE and (definition.compression != "jpeg" or fn is not None):
        raise InvalidInput(
            f"decode_method of {name!r}: 'device' is for jpeg tensors without a transform of their own (it would have to run "
            "before the image is there); transform decoded batches with device_transform="
        )
    if method == Decode.TORCH and form in (Form.TEXT, Form.JSON):
        raise InvalidInput(f"decode_method of {name!r}: {form} has no torch tensor; leave it 'numpy' for Python objects")
    if fn is not None and not callable(fn):
        raise InvalidInput(f"transform of {name!r} must be a function or None, got {fn!r}")
    return Column(name, definition, form, uniform if form is Form.DENSE else None, Decode(method), fn)
