"""A tensor of a dataset or view, or some of its rows: what ``ds.images``, ``ds["a/b"]`` and ``ds.images[3]`` give."""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lakefmt.cells import Array, Cells, Dense, Encoded, Ragged, Rows, Strings
from lakefmt.codecs import decode
from lakefmt.errors import (
    BadSample,
    InvalidInput,
    LakeError,
    NoSuchTensor,
    NotFound,
    ReadOnly,
    RowIndexError,
    ShapeError,
    UnequalLengths,
    UnknownClass,
    nearest,
)
from lakefmt.fragment.columns import Shape
from lakefmt.htypes import Kind, TensorDef, plain_info, shown
from lakefmt.rowset import Rowset, resolve_rows
from lakefmt.sample import Stored, are_samples
from lakefmt.samples import as_samples, prepare_inside
from lakefmt.staging import as_column

if TYPE_CHECKING:
    from lakefmt.dataset import Dataset


class Tensor(Stored):
    """Samples of one tensor.

    Indexing selects rows (``t[3]``, ``t[2:5]``, ``t[[1, 4]]``, ``t[mask]``); on a single row, further indices select inside the
    sample (``t[3][:100]``, ``t[3, :100]``). Nothing is read until ``numpy()``, ``text()``, ``data()``, ``tobytes()`` or ``shape``.
    """

    def __init__(
        self, rowset: Rowset, name: str, rows: Rows | None = None, *, single: bool = False, inside: tuple[Any, ...] = ()
    ) -> None:
        self._rowset = rowset
        self.name = str.__str__(name)
        self._given_rows = rows
        self._is_single = single or (rows is None and rowset._single)
        self._inside = inside

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def _definition(self) -> TensorDef:
        definitions = self._rowset._definitions
        found = definitions.get(self.name)
        if found is None:
            raise NoSuchTensor(f"there is no tensor {self.name!r} any more; {nearest(self.name, definitions)}")
        return found

    @property
    def htype(self) -> str:
        """The htype, e.g. ``image``."""
        return self._definition.htype

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """NumPy dtype of a sample; ``None`` before the first one of an undeclared dtype."""
        definition = self._definition
        if definition.kind in (Kind.TEXT, Kind.JSON):
            return np.dtype(str) if definition.kind is Kind.TEXT else np.dtype(object)
        return None if definition.dtype is None else np.dtype(definition.dtype)

    @property
    def sample_compression(self) -> str | None:
        """Codec of encoded samples."""
        return self._definition.compression

    @property
    def class_names(self) -> list[str]:
        """Names of the class ids, in order."""
        return list(self._definition.class_names or ())

    @property
    def info(self) -> Info:
        """Metadata of this tensor, a versioned dict."""
        definition = self._definition
        values = {**definition.info, **({"class_names": list(definition.class_names or ())} if definition.is_label else {})}
        return Info(values, self._write_info)

    def _write_info(self, values: dict[str, Any]) -> None:
        definition = self._definition
        if definition.is_label:
            self._write_class_names(values.pop("class_names", None), list(definition.class_names or ()))
        elif "class_names" in values and values["class_names"] != definition.info.get("class_names"):
            raise InvalidInput(f"tensor {self.name!r} has htype {self.htype!r}; only class_label tensors have class_names")
        if values != definition.info:
            self._dataset()._edit_tensor(self.name, info=values)

    def _write_class_names(self, names: Any, have: Sequence[str]) -> None:
        if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(n, str) for n in names):
            raise InvalidInput(f"tensor {self.name!r}: class_names is a list of str and stays there, got {shown(names)}")
        if names[: len(have)] != have:
            raise InvalidInput(f"tensor {self.name!r}: class ids are stored, so class_names may only be added to, not changed")
        if len(names) > len(have):
            self.add_class_names(*names[len(have) :])

    def add_class_names(self, *names: str) -> None:
        """Add classes at the end of the list of names."""
        if not self._definition.is_label:
            raise InvalidInput(f"tensor {self.name!r} has htype {self.htype!r}; only class_label tensors have classes")
        if not all(isinstance(n, str) for n in names):
            raise InvalidInput(
                f"tensor {self.name!r}: a class name is a str, got {names!r}; give them one by one: add_class_names('a', 'b')"
            )
        self._dataset()._edit_tensor(self.name, class_names=tuple(names))

    # -- rows ----------------------------------------------------------------------------------------------------------

    @property
    def _rows(self) -> Rows:
        return np.arange(self._length()) if self._given_rows is None else self._given_rows

    def _length(self) -> int:
        return self._rowset._tensor_rows(self.name)

    def __len__(self) -> int:
        return self._length() if self._given_rows is None else len(self._given_rows)

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self)

    def __getitem__(self, key: Any) -> Tensor:
        if self._is_single:
            return Tensor(self._rowset, self.name, self._rows, single=True, inside=(*self._inside, key))
        if isinstance(key, tuple) and key:
            first, rest = key[0], key[1:]
            picked = self[first]
            if not rest:
                return picked
            return Tensor(self._rowset, self.name, picked._rows, single=picked._is_single, inside=(rest,))
        rows, single = resolve_rows(key, len(self))
        rows = rows if self._given_rows is None else self._given_rows[rows]
        return Tensor(self._rowset, self.name, rows, single=single)

    def __iter__(self) -> Iterator[Tensor]:
        for row in self._rows:
            yield Tensor(self._rowset, self.name, np.array([row]), single=True, inside=self._inside)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _cells(self) -> Cells:
        return self._rowset._gather(self.name, self._rows)

    def numpy(self, aslist: bool = False) -> Any:
        """The samples as NumPy.

        Args:
            aslist: a list with an array (or None) per row, whatever the shapes.

        Returns:
            For one row its array (``None`` when the sample is missing); for several one array ``(n, *shape)``; text as ``str``
            arrays, JSON as Python values in an object array.

        Raises:
            ShapeError: several rows of differing shapes, or with missing samples, and not ``aslist``.
            BadSample: an image does not decode.
        """
        samples = self._samples()
        if self._is_single:
            return samples[0]
        if aslist:
            return samples
        return self._stacked(samples)

    def _samples(self) -> list[Any]:
        """Each sample decoded, indices inside samples applied."""
        cells, rows = self._cells(), self._rows
        match cells:
            case Dense(values):
                out: list[Any] = [np.asarray(v) for v in values]
            case Ragged(values):
                out = list(values)
            case Encoded(values, codec):
                out = [None if v is None else self._decoded(codec, v, int(r)) for v, r in zip(values, rows, strict=True)]
            case Strings(values, is_json):
                texts = values.to_pylist()
                out = [None if t is None else _object(json.loads(t)) if is_json else _text(t) for t in texts]
        for index in self._inside:
            try:
                out = [None if v is None else v[index] for v in out]
            except (IndexError, TypeError, KeyError, ValueError) as e:
                raise RowIndexError(f"tensor {self.name!r}, row {int(rows[0])}: {index!r} does not index the sample: {e}") from e
        return out

    def _decoded(self, codec: str, data: Any, row: int) -> Array:
        try:
            return decode(codec, data)
        except BadSample as e:
            raise BadSample(f"tensor {self.name!r}, row {row}: {e}; replace it: ds[{self.name!r}][{row}] = lakefmt.read(…)") from e

    def _stacked(self, samples: list[Any]) -> Any:
        definition = self._definition
        if definition.kind is Kind.JSON:
            out = np.empty(len(samples), object)
            out[:] = [None if s is None else s[()] for s in samples]
            return out
        if not samples:
            shape = definition.fixed_shape or ()
            return np.empty((0, *shape), "U1" if definition.kind is Kind.TEXT else definition.dtype)
        missing = [i for i, s in enumerate(samples) if s is None]
        shapes = {np.shape(s) for s in samples if s is not None}
        if definition.kind is Kind.TEXT:
            plain = [None if s is None else s.item() for s in samples]
            return np.array(plain, object if any(t is None or t.endswith("\0") for t in plain) else str)
        if missing:
            raise ShapeError(
                f"tensor {self.name!r}: {len(missing)} of these {len(samples)} samples are missing (the first is row "
                f"{int(self._rows[missing[0]])}), so there is no one array of them; use numpy(aslist=True)"
            )
        if len(shapes) > 1:
            some = ", ".join(map(str, sorted(shapes)[:3]))
            raise ShapeError(f"tensor {self.name!r}: shapes differ ({some}, …), so there is no one array; use numpy(aslist=True)")
        return np.stack(samples)

    def text(self) -> Any:
        """Text of a text (or JSON) tensor.

        Returns:
            ``numpy.str_`` for one row (a ``str``, with NumPy's ``astype``), a list of them for several; ``None`` where missing.
            A text that ends in NUL, which ``numpy.str_`` cannot hold, is a plain ``str``.
        """
        if self._definition.kind not in (Kind.TEXT, Kind.JSON):
            raise InvalidInput(f"tensor {self.name!r} has htype {self.htype!r}: text() is for text and json; use numpy() or data()")
        if self._inside:
            raise InvalidInput(f"tensor {self.name!r}: text() gives whole samples; slice the str it returns")
        cells = self._cells()
        assert isinstance(cells, Strings)
        # NumPy's str cannot end in a NUL (it strips them): such a text stays a plain str
        texts = [t if t is None or t.endswith("\0") else np.str_(t) for t in cells.values.to_pylist()]
        return texts[0] if self._is_single else texts

    def dict(self) -> Any:
        """The value of a JSON tensor: a Python value, or a list of them."""
        if self._definition.kind is not Kind.JSON:
            raise InvalidInput(f"tensor {self.name!r} has htype {self.htype!r}: dict() is for json")
        values = [None if s is None else s[()] for s in self._samples()]
        return values[0] if self._is_single else values

    def list(self) -> Any:
        """Samples as nested Python lists."""
        values = [None if s is None else s.tolist() for s in self._samples()]
        return values[0] if self._is_single else values

    def data(self) -> Any:
        """Samples with what belongs to them: ``{"value": …}``, and ``"text"`` with the class names of labels."""
        if self._definition.kind in (Kind.TEXT, Kind.JSON):
            return {"value": self.text() if self._definition.kind is Kind.TEXT else self.dict()}
        value = self.numpy() if self._is_single else self.numpy(aslist=True)
        out: dict[str, Any] = {"value": value if self._is_single else _stack_or_list(value)}
        if self._definition.is_label:
            out["text"] = self._names_of(value) if self._is_single else [self._names_of(v) for v in value]
        return out

    def _names_of(self, ids: Array | None) -> Any:
        names = self.class_names
        if ids is None:
            return None
        named = [names[i] if i < len(names) else None for i in np.atleast_1d(ids).tolist()]
        return named[0] if np.ndim(ids) == 0 else named

    def modified_rows(self, since: str) -> Rows:
        """Positions of rows whose sample was added or changed since another version.

        Args:
            since: a branch, tag or version id.

        Returns:
            int64 (n,), ascending, in the dataset as it is now.
        """
        if self._given_rows is not None:
            raise InvalidInput(f"modified_rows() is asked of a whole tensor: ds[{self.name!r}].modified_rows({since!r})")
        return self._dataset()._modified(self.name, since)

    def tobytes(self) -> Any:
        """Bytes of a sample as stored: the encoded file of an image, verbatim; UTF-8 of text; raw array bytes otherwise.

        Returns:
            ``bytes`` for one row, a list for several; ``None`` where missing.
        """
        if self._inside:
            out = [None if s is None else np.asarray(s).tobytes() for s in self._samples()]
            return out[0] if self._is_single else out
        cells = self._cells()
        match cells:
            case Encoded(values):
                out = [None if v is None else bytes(v) for v in values]
            case Strings(values):
                out = [None if t is None else t.encode() for t in values.to_pylist()]
            case Dense(values) | Ragged(values):
                out = [None if v is None else np.asarray(v).tobytes() for v in values]
        return out[0] if self._is_single else out

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """For one row its sample's shape; for several ``(n, …)`` with ``None`` where samples differ."""
        if self._inside:
            samples = self._samples()
            shapes: Sequence[Shape | None] = [None if s is None else np.shape(s) for s in samples]
        elif not self._is_single and self._given_rows is None and hasattr(self._rowset, "_shape_bounds"):
            return self._whole_shape()
        else:
            shapes = self._rowset._shapes(self.name, self._rows)
        return shapes[0] if self._is_single else (len(shapes), *_common(shapes))

    def _whole_shape(self) -> tuple[int | None, ...]:
        bounds = self._rowset._shape_bounds(self.name)
        if bounds is None:
            return (len(self),) if self._definition.shape is None else (len(self), *self._definition.shape)
        return (len(self), *(a if a == b else None for a, b in zip(*bounds, strict=True)))

    def shapes(self) -> Any:
        """Shape of every sample: int array ``(n, ndim)``, or a list when numbers of dimensions differ or some are missing."""
        shapes = self._rowset._shapes(self.name, self._rows)
        if shapes and None not in shapes and len({len(s) for s in shapes if s is not None}) == 1:
            return np.array(shapes, np.int64)
        return shapes

    @property
    def ndim(self) -> int | None:
        """Number of dimensions of a sample (plus one for the rows, when not a single row)."""
        shape = self.shape
        return None if shape is None else len(shape)

    @property
    def is_dynamic(self) -> bool:
        """Whether shapes differ."""
        shape = self.shape
        return shape is None or None in shape

    # -- writing -------------------------------------------------------------------------------------------------------

    def _dataset(self) -> Dataset:
        from lakefmt.dataset import Dataset

        if not isinstance(self._rowset, Dataset):
            raise ReadOnly("a view is read-only: write to the dataset it comes from")
        return self._rowset

    def append(self, sample: Any) -> None:
        """Append one sample to this tensor alone; other tensors may be of another length."""
        self._whole("append")
        self._dataset()._append_tensor(self.name, sample)

    def extend(self, samples: Any) -> None:
        """Append samples to this tensor alone."""
        self._whole("extend")
        if isinstance(samples, deque) or (are_samples(samples) and not hasattr(samples, "__getitem__")):
            samples = list(samples)
        self._dataset()._extend_tensor(self.name, as_column(self.name, samples))

    def _whole(self, what: str) -> None:
        if self._given_rows is not None:
            raise InvalidInput(f"{what}() goes to the whole tensor, not to some of its rows")

    def __setitem__(self, key: Any, value: Any) -> None:
        dataset = self._dataset()
        if self._is_single:
            self._set_inside(dataset, key, value)
            return
        inside: Any = None
        if isinstance(key, tuple) and key:
            key, inside = key[0], key[1:]
        if self._given_rows is None and len(self) < len(dataset):
            self._set_short(dataset, key, inside, value)
            return
        rows, single = resolve_rows(key, len(self))
        self._set_rows(dataset, rows if self._given_rows is None else self._given_rows[rows], single, inside, value)

    def _set_rows(self, dataset: Dataset, rows: Rows, single: bool, inside: Any, value: Any) -> None:
        if inside:
            if not single:
                raise RowIndexError(f"assign inside one row at a time: ds[{self.name!r}][i, …] = value")
            Tensor(self._rowset, self.name, rows, single=True)[inside] = value
            return
        dataset._update(self.name, rows, [value] if single else _values_for(self._definition, value, len(rows)))

    def _set_short(self, dataset: Dataset, key: Any, inside: Any, value: Any) -> None:
        """Assign to a tensor that is shorter than its dataset: positions are rows of the dataset, and those between stay missing.
        A mask, or samples, as many as the tensor has are for just these.
        """
        length = len(self)
        flags = isinstance(key, list) and bool(key) and all(isinstance(k, (bool, np.bool_)) for k in key)
        mask = flags or (isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype == bool)
        rows, single = resolve_rows(key, length if mask and len(key) == length else len(dataset))
        if not single and not inside:
            value = _values_for(self._definition, value, len(rows))
            own = resolve_rows(key, length)[0] if isinstance(key, (slice, tuple)) or key is Ellipsis else rows
            if len(value) not in (len(rows), len(own)):
                raise UnequalLengths(
                    f"tensor {self.name!r}: {len(value)} samples fit neither the {len(rows)} rows of the dataset that {key!r} "
                    f"means nor the {len(own)} that the tensor has of them"
                )
            rows = rows if len(value) == len(rows) else own
        self._set_rows(dataset, rows, single, inside, value)

    def _set_inside(self, dataset: Dataset, key: Any, value: Any) -> None:
        sample = Tensor(self._rowset, self.name, self._rows, single=True).numpy()
        if sample is None or self._definition.kind in (Kind.TEXT, Kind.JSON):
            raise InvalidInput(
                f"tensor {self.name!r}, row {int(self._rows[0])}: there is no array to assign into; assign the whole sample"
            )
        row = int(self._rows[0])
        given = prepare_inside(self._definition, value, row=row)
        patched = np.array(sample)
        try:
            target = patched
            for index in self._inside:
                target = target[index]
            self._check_target(target, patched)
            target[key] = given
        except LakeError:
            raise
        except (ValueError, IndexError, TypeError, OverflowError) as e:
            raise ShapeError(f"tensor {self.name!r}, row {row}: {e}") from e
        dataset._update(self.name, self._rows, [patched])

    def _check_target(self, target: Any, patched: Array) -> None:
        """Refuse to assign into a copy of some elements, which would change nothing."""
        if not isinstance(target, np.ndarray) or (target.size and not np.may_share_memory(target, patched)):
            raise RowIndexError(
                f"tensor {self.name!r}, row {int(self._rows[0])}: the index {self._inside[-1]!r} makes a copy, and what is "
                f"assigned to that is lost; use one index: ds[{self.name!r}][{int(self._rows[0])}][…] = value"
            )

    def _given_to(self, definition: TensorDef) -> Any:
        """Labels by name, encoded images verbatim, all else as it is stored; see ``Stored``."""
        names = self.class_names if definition.is_label else []
        if self._inside:
            samples = self._samples()
        else:
            match self._cells():
                case Encoded(values) if definition.compression is not None:
                    samples = list(values)
                case Strings(values, False):
                    return values[0].as_py() if self._is_single else values
                case Strings():
                    samples = [None if s is None else s[()] for s in self._samples()]
                case Dense(values) if not names and not self._is_single:
                    return values
                case _:
                    samples = self._samples()
        samples = _by_name(self.name, samples, names) if names else samples
        return samples[0] if self._is_single else samples

    def __repr__(self) -> str:
        rows = "" if self._given_rows is None else f", rows={len(self)}"
        return f"Tensor({self.name!r}, htype={self.htype!r}, dtype={self.dtype}, shape={self.shape}{rows})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = np.asarray(self.numpy())
        return array if dtype is None else array.astype(dtype)

    def __str__(self) -> str:
        return repr(self)


class Info(MutableMapping[str, Any]):
    """Metadata that is stored as soon as it changes, and versioned like everything else.

    Values that are read are copies: to change something inside one, assign it back, ``info["key"] = value``.
    """

    def __init__(self, values: dict[str, Any], write: Any) -> None:
        self._values, self._write = copy.deepcopy(values), write

    def __getitem__(self, key: str) -> Any:
        self._check(key)
        return copy.deepcopy(self._values[key])

    def _check(self, key: Any) -> None:
        if not isinstance(key, str) or key not in self._values:
            remedy = nearest(key, self._values) if isinstance(key, str) else "its keys are str"
            raise NotFound(f"info has no {shown(key)}; {remedy}")

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        self._check(key)
        self._store({k: v for k, v in self._values.items() if k != key})

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"info has no {name!r}; it has {sorted(self._values)}")
        return self[name]

    def update(self, *args: Any, **values: Any) -> None:
        """Change several entries as one version."""
        try:
            given = dict(*args, **values)
        except (TypeError, ValueError) as e:
            raise InvalidInput(f"info.update() takes what dict() does, got {shown(args)} ({e})") from e
        self._store({**self._values, **given})

    def _store(self, values: dict[str, Any]) -> None:
        clean = plain_info(values, "info")
        self._write(dict(clean))
        self._values = clean

    def __repr__(self) -> str:
        return repr(self._values)


def _by_name(tensor: str, samples: list[Any], names: Sequence[str]) -> list[Any]:
    """Class ids as class names."""
    largest = max((int(s.max()) for s in samples if s is not None and s.size), default=-1)
    if largest >= len(names):
        raise UnknownClass(
            f"tensor {tensor!r}: class id {largest} has no name by which another tensor would know it; "
            "add_class_names(…) gives it one, …numpy() gives the ids themselves"
        )
    named = np.array(names, object)
    return [None if s is None else named[s].tolist() if s.ndim else named[int(s)] for s in samples]


def _object(value: Any) -> Array:
    """A JSON value as a 0-dimensional object array."""
    out = np.empty((), object)
    out[()] = value
    return out


def _text(value: str) -> Array:
    """A text as a 0-dimensional array: of objects when it ends in NUL, which NumPy's own texts cannot."""
    return _object(value) if value.endswith("\0") else np.asarray(value)


def _stack_or_list(samples: list[Any]) -> Any:
    shapes = {np.shape(s) for s in samples}
    return np.stack(samples) if len(shapes) == 1 and all(s is not None for s in samples) else samples


def _common(shapes: Sequence[Shape | None]) -> tuple[int | None, ...]:
    present = [s for s in shapes if s is not None]
    if not present or len({len(s) for s in present}) > 1:
        return ()
    return tuple(d[0] if len(set(d)) == 1 else None for d in zip(*present, strict=True))


def _values_for(definition: TensorDef, value: Any, rows: int) -> Any:
    """Values for several rows: a sequence of as many, or one scalar for all."""
    if isinstance(value, Tensor):
        return list(value) if value._is_single else value
    if np.isscalar(value) or value is None or isinstance(value, pa.Scalar) or (hasattr(value, "shape") and np.shape(value) == ()):
        return [value] * rows
    if not are_samples(value):
        raise InvalidInput(f"{rows} rows take a sequence of as many samples, got {type(value).__name__}; assign one row at a time")
    return as_samples(definition, value)
