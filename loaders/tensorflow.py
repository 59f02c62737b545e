"""The TensorFlow front end: a real ``tf.data.Dataset``.

The generator behind it yields whole batches (or blocks of rows, which ``unbatch()`` takes apart inside
TensorFlow), as flat arrays with plain ``TensorSpec``s. Samples of differing shapes travel as values and row
splits and are put together by a ``map``: a ``RaggedTensorSpec`` on a generator would make TensorFlow convert
element by element.

TensorFlow must know dtypes and ranks beforehand. They come from the tensors' definitions, from what the source
knows of its samples' shapes, and, where a user's function decides, from making one small batch of the epoch's
first rows. What later differs from that is an error that names the row, never converted at the price of its
value. Every array yielded is fresh and never written again, for TensorFlow may keep using its memory.

What comes out: dense tensors and same-shaped results of functions are tensors (``bool`` and all integer and
float dtypes as they are); differing shapes are ``RaggedTensor``s in batches and plain tensors in single rows;
text, encoded images and JSON documents are ``tf.string``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lakefmt.cells import Array, Rows
from lakefmt.errors import InvalidInput, MissingExtra
from lakefmt.loaders.batch import Parcel
from lakefmt.loaders.engine import Engine
from lakefmt.loaders.memory import Leases
from lakefmt.loaders.options import ReadOptions
from lakefmt.loaders.packing import without_bounds
from lakefmt.loaders.recipe import Column, Decode, Form, RaggedMode
from lakefmt.loaders.session import Job, Session
from lakefmt.loaders.stats import Stats
from lakefmt.loaders.steps import Step
from lakefmt.rows import RowSource

try:
    import tensorflow as tf
except ImportError as e:
    raise MissingExtra("the TensorFlow loader", "tensorflow") from e

if TYPE_CHECKING:
    from lakefmt.loaders.builder import Loader

#: Rows made beforehand to learn what functions return.
PROBE_ROWS = 2
#: Rows whose shapes are looked at together, where nothing is known of all of them.
SHAPES_AT_ONCE = 65_536
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
        epoch, start = session.begin()
        for step, item in zip(job.steps.walk(epoch, start), session.local(epoch, start), strict=False):
            rows: Rows | None = step.rows
            if type(item) is Parcel:
                session.errors.add(item.faults, job.recipe.on_error)
                item, rows = item.value, step.rows[list(item.kept)]
            if item is not None:
                yield _flattened(item, kinds, shaped, None if job.recipe.batch_fns else rows)

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
    """JSON documents go to TensorFlow as text, and what concerns no row (the bounds of packed sequences) does not go there."""
    columns = tuple(
        replace(c, decode=Decode.TOBYTES) if c.form is Form.JSON and c.fn is None and job.recipe.row_fn is None else c
        for c in job.recipe.columns
    )
    return replace(job, recipe=replace(without_bounds(job.recipe), columns=columns))


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
    return {name: _kind(name, value, columns.get(name), padded, job.recipe.source) for name, value in made.items()}


def _kind(name: str, value: Any, column: Column | None, padded: bool, source: RowSource) -> Kind:
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
            return _varying(column, present, source)
        if all(isinstance(v, str | bytes) for v in present):
            return Texts()
        if all(isinstance(v, np.ndarray) for v in present):
            return Varying(present[0].dtype.name, present[0].ndim, ())
    raise InvalidInput(
        f"{name!r} has no TensorFlow type: a batch holds {type(value).__name__} of "
        f"{type(value[0]).__name__ if isinstance(value, list) and value else 'nothing'}; make arrays, "
        "numbers or text of it"
    )


def _varying(column: Column, present: list[Array], source: RowSource) -> Kind:
    declared, encoded = column.definition.shape, column.form is Form.ENCODED
    shape = declared if declared is not None else _common_shape(source, column.name)
    if shape is None and present:
        shape = present[0].shape
    if declared is None and shape is not None:  # of what merely happens to agree, only channels of an image are relied on
        shape = (None, None, shape[2]) if encoded and len(shape) == 3 else (None,) * len(shape)
    rank = len(shape) if shape is not None else 1
    dtype = column.definition.dtype or (present[0].dtype.name if present else "float32")
    if rank == 0:
        return Plain(dtype, ())
    tail: tuple[int, ...] = ()
    for size in reversed((shape or ())[1:]):
        if size is None:
            break
        tail = (size, *tail)
    return Varying(dtype, rank, tail)


def _common_shape(source: Any, name: str) -> tuple[int | None, ...] | None:
    """The shape of all samples of a tensor, ``None`` for an extent that varies; ``None`` altogether when the source
    does not know.

    Raises:
        InvalidInput: samples differ in their number of dimensions.
    """
    bounds = _shape_bounds(source, name)
    if bounds is None and hasattr(source, "shapes"):  # of all rows: bounds may be those of rows since deleted, or left out
        bounds = _bounds_of_rows(source, name)
    return None if bounds is None else tuple(a if a == b else None for a, b in zip(*bounds, strict=True))


def _bounds_of_rows(source: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Least and greatest extents of the samples of all rows, a block of rows at a time; ``None`` when all are missing."""
    by_rank: dict[int, tuple[int, tuple[int, ...]]] = {}
    ends: list[Array] = []
    for begin in range(0, len(source), SHAPES_AT_ONCE):
        end = min(begin + SHAPES_AT_ONCE, len(source))
        shapes = source.shapes(name, np.arange(begin, end, dtype=np.int64))
        first = dict(zip(reversed(shapes), range(end - 1, begin - 1, -1), strict=True))  # row at which a shape first appears
        first.pop(None, None)
        for rank in set(map(len, first)) - by_rank.keys():
            by_rank[rank] = min((row, shape) for shape, row in first.items() if len(shape) == rank)
        if first and len(by_rank) == 1:
            sizes = np.array([*ends, *first], np.int64)
            ends = [sizes.min(axis=0), sizes.max(axis=0)]
    if len(by_rank) > 1:
        shown = " and ".join(f"row {row} has shape {shape}" for row, shape in sorted(by_rank.values()))
        gray = " (for gray images: lambda v: v if v.ndim == 3 else np.stack([v] * 3, -1))" if set(by_rank) == {2, 3} else ""
        raise InvalidInput(
            f"tensor {name!r}: {shown}, and a TensorFlow tensor has one number of dimensions; give all samples as many "
            f"in a transform{gray}, or leave such rows out with a query"
        )
    return (tuple(ends[0].tolist()), tuple(ends[1].tolist())) if ends else None


def _shape_bounds(source: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Least and greatest extents of a tensor's samples, where the source (or what it is a view of) keeps them."""
    if hasattr(source, "shape_bounds"):
        found: tuple[tuple[int, ...], tuple[int, ...]] | None = source.shape_bounds(name)
        return found
    if hasattr(source, "base") and name in source.names:
        return _shape_bounds(source.base, source.names[name])
    return None


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


def _flattened(batch: Any, kinds: dict[str, Kind], shaped: bool, rows: Rows | None) -> dict[str, Any]:
    """The batch as the arrays of ``_signature``.

    Args:
        rows: which rows its samples are; ``None`` when a function of the batch may have changed that.
    """
    if not isinstance(batch, dict) or set(batch.keys()) != set(kinds):
        got = list(batch.keys()) if isinstance(batch, dict) else type(batch).__name__
        raise InvalidInput(f"{_place(rows, 0)}: a function returned {got}, TensorFlow was told {list(kinds)}; return the same keys")
    flat: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = batch[name]
        value = value.numpy() if hasattr(value, "numpy") else value
        match kind:
            case Varying():
                flat |= _splits(name, value, kind, shaped, rows)
            case Texts():
                flat[name] = _checked_text(name, value, rows)
            case Plain():
                flat[name] = _plain(name, value, kind, rows)
    return flat


def _place(rows: Rows | None, i: int) -> str:
    return f"row {rows[i]}" if rows is not None and i < len(rows) else f"sample {i} of a batch"


def _cast(name: str, array: Array, dtype: str, rows: Rows | None) -> Array:
    """``array`` in the dtype TensorFlow was told, if every value is the same there."""
    if array.dtype == dtype:
        return np.ascontiguousarray(array)
    good = np.zeros(len(array), bool)
    if array.dtype.kind in "biuf":
        with np.errstate(all="ignore"):
            cast = array.astype(dtype)
            same = (cast.astype(array.dtype) == array) & ((cast < 0) == (array < 0)) | (np.isnan(array) & np.isnan(cast))
            if {array.dtype.kind, cast.dtype.kind} in ({"f", "i"}, {"f", "u"}):
                same &= _in_range(array, cast)
        good = same.reshape(len(array), -1).all(axis=1)
        if good.all():
            return np.ascontiguousarray(cast)
    raise InvalidInput(
        f"{_place(rows, int(np.argmin(good)))}, tensor {name!r}: a function returned {array.dtype}, TensorFlow was told {dtype} "
        f"by the epoch's first rows, and the value does not fit; return one dtype for every sample"
    )


def _in_range(array: Array, cast: Array) -> Array:
    """Whether floats lie among an integer dtype's values: what a cast beyond its ends gives is left to the processor."""
    floats, integers = (array, cast) if array.dtype.kind == "f" else (cast, array)
    info = np.iinfo(integers.dtype)
    inside: Array = (floats >= float(info.min)) & (floats < float(info.max + 1))
    return inside


def _plain(name: str, value: Any, kind: Plain, rows: Rows | None) -> Array:
    if isinstance(value, list):
        missing = next((i for i, v in enumerate(value) if v is None), None)
        if missing is not None:
            raise InvalidInput(
                f"{_place(rows, missing)}: tensor {name!r} has a missing sample, which a dense TensorFlow tensor cannot hold; "
                "fill it in with a transform, leave such rows out with a query, or use ragged='pad' for a mask"
            )
        value = np.asarray(value)
    array: Array = np.asarray(value)
    told = str(kind.shape).replace("None", "?")
    fits = array.ndim == len(kind.shape) + 1 and all(w is None or w == d for w, d in zip(kind.shape, array.shape[1:], strict=True))
    if array.dtype == object or not fits:
        what = (
            f"objects ({type(array.reshape(-1)[0]).__name__})"
            if array.dtype == object and array.size
            else f"shape {array.shape[1:]}"
        )
        raise InvalidInput(
            f"{_place(rows, 0)}, tensor {name!r}: a function returned {what}, TensorFlow was told shape {told} "
            "by the epoch's first rows; return one kind and shape for every sample"
        )
    return _cast(name, array, kind.dtype, rows)


def _checked_text(name: str, value: Any, rows: Rows | None) -> Array:
    for i, text in enumerate(value):
        if text is None:
            raise InvalidInput(
                f"{_place(rows, i)}: tensor {name!r} has a missing sample, which tf.string cannot hold; fill it in with a "
                "transform, or leave such rows out with a query"
            )
        if not isinstance(text, str | bytes):
            raise InvalidInput(
                f"{_place(rows, i)}, tensor {name!r}: a function returned {type(text).__name__}, TensorFlow was told text "
                "by the epoch's first rows; return one kind for every sample"
            )
    return np.array([v if isinstance(v, bytes) else v.encode() for v in value], dtype=object)


def _splits(name: str, samples: Any, kind: Varying, shaped: bool, rows: Rows | None) -> dict[str, Array]:
    """Values end to end, and how to cut them: row splits by level, or one level and the shapes."""
    shapes = np.zeros((len(samples), kind.rank), np.int64)
    for i, sample in enumerate(samples):
        if sample is None:
            shapes[i, kind.ragged_rank :] = kind.tail
            continue
        if not isinstance(sample, np.ndarray) or sample.ndim != kind.rank or sample.shape[kind.ragged_rank :] != kind.tail:
            expected = ("?",) * kind.ragged_rank + kind.tail
            what = f"shape {sample.shape}" if isinstance(sample, np.ndarray) else f"type {type(sample).__name__}"
            raise InvalidInput(
                f"{_place(rows, i)}, tensor {name!r}: a sample has {what}, TensorFlow was told ({', '.join(map(str, expected))}); "
                "make shapes agree in a transform, or declare the tensor's shape"
            )
        shapes[i] = sample.shape
    inner = () if shaped else kind.tail
    present = [(i, s) for i, s in enumerate(samples) if s is not None]
    parts = [_cast(name, s.reshape(1, -1), kind.dtype, None if rows is None else rows[i : i + 1]) for i, s in present if s.size]
    values = np.concatenate([p.reshape(-1, *inner) for p in parts]) if parts else np.empty((0, *inner), kind.dtype)
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
