"""The TensorFlow front end: a real ``tf.data.Dataset``.

The generator behind it yields whole batches (or blocks of rows, which ``unbatch()`` takes apart inside
TensorFlow), as flat arrays with plain ``TensorSpec``s. Samples of differing shapes travel as values and row
splits and are put together by a ``map``: a ``RaggedTensorSpec`` on a generator would make TensorFlow convert
element by element.

TensorFlow must know dtypes and ranks beforehand. They come from the tensors' definitions and, where a user's
function decides, from making one small batch of the epoch's first rows. Every array yielded is fresh and
never written again, for TensorFlow may keep using its memory.

What comes out: dense tensors and same-shaped results of functions are tensors (``bool`` and all integer and
float dtypes as they are); differing shapes are ``RaggedTensor``s in batches and plain tensors in single rows;
text, encoded images and JSON documents are ``tf.string``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lakefmt.cells import Array
from lakefmt.errors import InvalidInput, MissingExtra
from lakefmt.loaders.batch import Batch, Parcel
from lakefmt.loaders.engine import Engine
from lakefmt.loaders.memory import Leases
from lakefmt.loaders.options import ReadOptions
from lakefmt.loaders.recipe import Column, Decode, Form, RaggedMode
from lakefmt.loaders.session import Job, Session
from lakefmt.loaders.stats import Stats
from lakefmt.loaders.steps import Step

try:
    import tensorflow as tf
except ImportError as e:
    raise MissingExtra("the TensorFlow loader", "tensorflow") from e

if TYPE_CHECKING:
    from lakefmt.loaders.builder import Loader

#: Rows made beforehand to learn what functions return.
PROBE_ROWS = 2
_SPLITS, _SHAPES = "/splits", "/shapes"


@dataclass(frozen=True, slots=True)
class Plain:
    """An array with a batch dimension; ``shape`` is a sample's, ``None`` where it varies by batch."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """``str`` or ``bytes``."""


@dataclass(frozen=True, slots=True)
class Varying:
    """Samples of ``rank`` dimensions, of which the last ones are ``tail``; the others differ."""

    dtype: str
    rank: int
    tail: tuple[int, ...]

    @property
    def ragged_rank(self) -> int:
        return self.rank - len(self.tail)


Kind = Plain | Texts | Varying


def tf_dataset(chain: Loader, options: ReadOptions) -> Any:
    """A ``tf.data.Dataset`` of a chain: elements are dicts, of batches or (without ``.batch()``) of single
    rows.

    Raises:
        InvalidInput: what is loaded has no TensorFlow type.
    """
    if options.ragged == RaggedMode.NESTED:
        raise InvalidInput("ragged='nested' is for torch; TensorFlow gets RaggedTensors by default")
    job = _textual(chain.job(options, allocate=Leases()))
    session = Session(job)
    kinds = _kinds(job)
    shaped = job.single_rows

    def generate() -> Iterator[dict[str, Any]]:
        for item in session.local(*session.begin()):
            if type(item) is Parcel:
                session.errors.add(item.faults, job.recipe.on_error)
                item = item.value
            if item is not None:
                yield _flattened(item, kinds, shaped)

    dataset = tf.data.Dataset.from_generator(generate, output_signature=_signature(kinds, shaped))
    if any(isinstance(kind, Varying) for kind in kinds.values()):
        dataset = dataset.map(lambda flat: _ragged(flat, kinds, shaped))
    if shaped:
        dataset = dataset.unbatch()
        if any(isinstance(kind, Varying) for kind in kinds.values()):
            dataset = dataset.map(lambda row: _reshaped(row, kinds))
    if job.recipe.on_error == "raise":  # otherwise the number of elements depends on what is bad
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(job)))
    return dataset.prefetch(2)


def _textual(job: Job) -> Job:
    """JSON documents go to TensorFlow as text."""
    columns = tuple(
        replace(c, decode=Decode.TOBYTES) if c.form is Form.JSON and c.fn is None and job.recipe.row_fn is None else c
        for c in job.recipe.columns
    )
    return replace(job, recipe=replace(job.recipe, columns=columns))


# ------------------------------------------------------------------------- types


def _kinds(job: Job) -> dict[str, Kind]:
    n = min(PROBE_ROWS, len(job.steps.order))
    rows = job.steps.order.rows(0, np.arange(n, dtype=np.int64))
    made = Engine(job.recipe, Stats()).make(Step(rows, n))
    made = made.value if isinstance(made, Parcel) else made
    if made is None:
        raise InvalidInput(f"the first {n} rows of the epoch are all bad, so that no TensorFlow types can be learnt")
    if not isinstance(made, dict):
        raise InvalidInput(f"a batch function returned {type(made).__name__}; TensorFlow needs a dict of arrays")
    columns = {c.name: c for c in job.recipe.columns}
    padded = job.recipe.ragged in (RaggedMode.PAD, RaggedMode.FLAT)
    return {name: _kind(name, value, columns.get(name), padded) for name, value in made.items()}


def _kind(name: str, value: Any, column: Column | None, padded: bool) -> Kind:
    """What TensorFlow is told about a batch entry."""
    value = value.numpy() if hasattr(value, "numpy") else value
    ragged = column is not None and column.form is Form.RAGGED and column.fn is None
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        varies = padded and (column is None or ragged) and value.ndim > 1
        return Plain(value.dtype.name, (None,) * (value.ndim - 1) if varies else value.shape[1:])
    if isinstance(value, list):
        present = [v for v in value if v is not None]
        if ragged or (column is not None and column.decodes and column.fn is None and column.decode is Decode.NUMPY):
            assert column is not None
            return _varying(column, present)
        if all(isinstance(v, str | bytes) for v in present):
            return Texts()
        if all(isinstance(v, np.ndarray) for v in present):
            return Varying(present[0].dtype.name, present[0].ndim, ())
    raise InvalidInput(
        f"{name!r} has no TensorFlow type: a batch holds {type(value).__name__} of "
        f"{type(value[0]).__name__ if isinstance(value, list) and value else 'nothing'}; make arrays, "
        "numbers or text of it"
    )


def _varying(column: Column, present: list[Array]) -> Kind:
    declared = column.definition.shape
    if declared is None and column.form is Form.ENCODED and present and present[0].ndim == 3:
        declared = (None, None, present[0].shape[2])  # channels of an image do not vary
    rank = len(declared) if declared is not None else present[0].ndim if present else 1
    dtype = column.definition.dtype or (present[0].dtype.name if present else "float32")
    if rank == 0:
        return Plain(dtype, ())
    tail: tuple[int, ...] = ()
    for size in reversed((declared or ())[1:]):
        if size is None:
            break
        tail = (size, *tail)
    return Varying(dtype, rank, tail)


def _signature(kinds: dict[str, Kind], shaped: bool) -> dict[str, Any]:
    signature: dict[str, Any] = {}
    for name, kind in kinds.items():
        match kind:
            case Plain(dtype, shape):
                signature[name] = tf.TensorSpec((None, *shape), dtype)
            case Texts():
                signature[name] = tf.TensorSpec((None,), tf.string)
            case Varying(dtype, rank, tail):
                signature[name] = tf.TensorSpec((None, *(() if shaped else tail)), dtype)
                for level in range(1 if shaped else kind.ragged_rank):
                    signature[f"{name}{_SPLITS}{level}"] = tf.TensorSpec((None,), tf.int64)
                if shaped:
                    signature[name + _SHAPES] = tf.TensorSpec((None, rank), tf.int64)
    return signature


# ------------------------------------------------------------------------ values


def _flattened(batch: Batch, kinds: dict[str, Kind], shaped: bool) -> dict[str, Any]:
    """The batch as the arrays of ``_signature``."""
    flat: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = batch[name]
        match kind:
            case Varying():
                flat |= _splits(name, value, kind, shaped)
            case Texts():
                flat[name] = _checked_text(name, value)
            case Plain(dtype, _):
                flat[name] = _plain(name, value, dtype)
    return flat


def _plain(name: str, value: Any, dtype: str) -> Array:
    if isinstance(value, list):
        if any(v is None for v in value):
            raise InvalidInput(
                f"tensor {name!r} has a missing sample, which a dense TensorFlow tensor cannot hold; "
                "fill it in with a "
                "transform, leave such rows out with a query, or use ragged='pad' for a mask"
            )
        value = np.asarray(value)
    array: Array = np.ascontiguousarray(value, dtype=dtype) if isinstance(value, np.ndarray) else np.asarray(value, dtype)
    return array


def _checked_text(name: str, value: list[Any]) -> Array:
    if None in value:
        raise InvalidInput(
            f"tensor {name!r} has a missing sample, which tf.string cannot hold; fill it in with a "
            "transform, or leave such "
            "rows out with a query"
        )
    return np.array([v if isinstance(v, bytes) else v.encode() for v in value], dtype=object)


def _splits(name: str, samples: list[Array | None], kind: Varying, shaped: bool) -> dict[str, Array]:
    """Values end to end, and how to cut them: row splits by level, or one level and the shapes."""
    shapes = np.zeros((len(samples), kind.rank), np.int64)
    for i, sample in enumerate(samples):
        if sample is None:
            shapes[i, kind.ragged_rank :] = kind.tail
            continue
        if sample.ndim != kind.rank or sample.shape[kind.ragged_rank :] != kind.tail:
            expected = ("?",) * kind.ragged_rank + kind.tail
            raise InvalidInput(
                f"tensor {name!r}: a sample has shape {sample.shape}, TensorFlow was told "
                f"({', '.join(map(str, expected))}); "
                "make shapes agree in a transform, or declare the tensor's shape"
            )
        shapes[i] = sample.shape
    inner = () if shaped else kind.tail
    parts = [s.reshape(-1, *inner) for s in samples if s is not None and s.size]
    values = np.concatenate(parts).astype(kind.dtype, copy=False) if parts else np.empty((0, *inner), kind.dtype)
    if shaped:
        return {name: values, f"{name}{_SPLITS}0": _cumulated(shapes.prod(axis=1)), name + _SHAPES: shapes}
    entries = {name: values}
    repeats = np.ones(len(samples), np.int64)
    for level in range(kind.ragged_rank):
        # a sample has the product of its outer extents many rows at this level, each of its own extent here
        entries[f"{name}{_SPLITS}{level}"] = _cumulated(np.repeat(shapes[:, level], repeats))
        repeats = repeats * shapes[:, level]
    return entries


def _cumulated(lengths: Array) -> Array:
    splits = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=splits[1:])
    return splits


def _ragged(flat: dict[str, Any], kinds: dict[str, Kind], shaped: bool) -> dict[str, Any]:
    """Inside TensorFlow: values and splits to RaggedTensors."""
    made: dict[str, Any] = {}
    for name, kind in kinds.items():
        if not isinstance(kind, Varying):
            made[name] = flat[name]
            continue
        levels = [flat[f"{name}{_SPLITS}{level}"] for level in range(1 if shaped else kind.ragged_rank)]
        made[name] = tf.RaggedTensor.from_nested_row_splits(flat[name], levels, validate=False)
        if shaped:
            made[name + _SHAPES] = flat[name + _SHAPES]
    return made


def _reshaped(row: dict[str, Any], kinds: dict[str, Kind]) -> dict[str, Any]:
    """Inside TensorFlow: one row's flat values to their shape."""
    made: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = row[name]
        if isinstance(kind, Varying):
            value = tf.reshape(value, row[name + _SHAPES])
            value.set_shape((None,) * kind.ragged_rank + kind.tail)
        made[name] = value
    return made
