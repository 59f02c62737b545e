"""What a tensor is: its htype, dtype, shape and compression.

An htype is a row of the table ``HTYPES``; a tensor is a ``TensorDef``, an immutable value that lives in the version
object (never in a data file). How its samples are laid out in Parquet follows from it and from the samples at hand:
``lakefmt.fragment.write``.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np

from lakefmt.errors import DtypeError, InvalidInput, ShapeError, UnknownClass, nearest


class Kind(StrEnum):
    """How samples of an htype are held: numbers, encoded bytes, or text."""

    NUMERIC = "numeric"
    ENCODED = "encoded"
    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Htype:
    """One row of the htype table. ``dtype`` is the default; ``codecs`` the accepted sample compressions."""

    name: str
    kind: Kind
    dtype: str | None
    codecs: tuple[str, ...] = ()
    ndims: tuple[int, ...] = ()  # accepted numbers of dimensions; empty: any
    labels: bool = False


HTYPES: Mapping[str, Htype] = {
    h.name: h
    for h in (
        Htype("generic", Kind.NUMERIC, None),
        Htype("class_label", Kind.NUMERIC, "uint32", ndims=(0, 1), labels=True),
        Htype("image", Kind.ENCODED, "uint8", codecs=("jpeg", "png"), ndims=(2, 3)),
        Htype("embedding", Kind.NUMERIC, "float32", ndims=(1,)),
        Htype("text", Kind.TEXT, "str"),
        Htype("json", Kind.JSON, "json"),
    )
}

#: dtypes a numeric tensor may have (NumPy names)
NUMERIC_DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip

#: Dimensions of a sample: those that a NumPy array may have, but for that of the rows.
NDIM_MAX = 31 if np.lib.NumpyVersion(np.__version__) < "2.0.0" else 63

CODEC_ALIASES = {"jpg": "jpeg", "JPEG": "jpeg", "JPG": "jpeg", "PNG": "png"}

#: Levels of nesting of a JSON value. Python reads JSON by recursion, of which its stack allows 1000 levels with all that is there.
JSON_LEVELS_MAX = 500
_CONTAINERS = (dict, list, tuple, np.ndarray)

#: A tensor's name: parts of letters, digits, '_', ' ', '.', '-' that begin with a letter, joined by '/'.
_PART = r"[^\W\d_]\w*(?:[ .-]\w+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")


class TensorDef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tensor as the version object records it.

    Attributes:
        id: field id, unique in a dataset's life; columns are bound to it, so that a rename touches no data.
        name: ``a`` or ``group/a``.
        htype: a key of ``HTYPES``.
        dtype: NumPy dtype name, ``str``, ``json``; ``None`` until the first sample fixes it.
        shape: declared sample shape, ``None`` for a dimension that varies; ``None`` altogether when undeclared.
        compression: codec of encoded samples.
        class_names: names of class ids, in order, for ``class_label``; empty before the first. Either every id that is stored has
            one, or none has: ``None`` once ids came before any name. Such ids are plain numbers, and a text is no class then;
            ``add_class_names`` may name all of them at once. No id gets a name by chance.
        open_labels: whether an unknown class name given to ``append`` becomes a new class.
        info: user metadata, any JSON.
        first_dtype: dtype of stored columns that do not name theirs, where the tensor was widened since.
    """

    id: int
    name: str
    htype: str
    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None
    compression: str | None = None
    class_names: tuple[str, ...] | None = None
    open_labels: bool = False
    info: dict[str, Any] = msgspec.field(default_factory=dict)
    first_dtype: str | None = None

    @property
    def kind(self) -> Kind:
        kind = HTYPES[self.htype].kind
        return Kind.NUMERIC if kind is Kind.ENCODED and self.compression is None else kind

    @property
    def is_label(self) -> bool:
        return HTYPES[self.htype].labels

    @property
    def fixed_shape(self) -> tuple[int, ...] | None:
        """The declared shape when every dimension of it is known."""
        if self.shape is None or any(d is None for d in self.shape):
            return None
        return tuple(d for d in self.shape if d is not None)

    def class_id(self, name: str) -> int:
        """Id of a class name.

        Raises:
            UnknownClass: the tensor has no such class.
        """
        names = self.class_names or ()
        try:
            return names.index(name)
        except ValueError:
            raise UnknownClass(
                f"tensor {self.name!r} has no class {name!r}; {nearest(name, names)} "
                f"(ds[{self.name!r}].add_class_names({name!r}) makes it one)"
            ) from None


def plain_text(value: str, what: str) -> str:
    """A ``str`` of that value, whatever subclass of it is given, that UTF-8 can hold.

    Args:
        what: what it is and where, for the error.
    """
    text = str.__str__(value)
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as e:
        raise DtypeError(
            f"{what}: {shown(text)} is no text that UTF-8 can hold ({e.reason}); e.g. text.encode('utf-8', 'replace').decode()"
        ) from None
    return text


def json_text(value: Any, what: str) -> str:
    """A JSON value as text, refusing whatever would come back as something else.

    Args:
        what: what it is and where, for the error.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_json_default)
        _check_json(value)
    except (TypeError, ValueError) as e:
        raise DtypeError(f"{what}: {shown(value)} is no JSON value ({e})") from None
    except RecursionError:
        raise DtypeError(f"{what}: the JSON value is nested too deeply; at most {JSON_LEVELS_MAX} levels are possible") from None
    return plain_text(text, what)


def _json_default(value: Any) -> Any:
    if isinstance(value, np.ma.MaskedArray) and bool(np.ma.getmaskarray(value).any()):
        raise TypeError("a masked array with masked elements; give value.filled(…)")
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON serialisable")


def _check_json(value: Any) -> None:
    """Refuse keys that are no texts, and nesting that a reader might stumble over; a level at a time."""
    level = [value] if isinstance(value, _CONTAINERS) else []
    depth = 0
    while level:
        depth += 1
        if depth > JSON_LEVELS_MAX:
            raise RecursionError
        below: list[Any] = []
        for container in level:
            if isinstance(container, dict):
                bad = [k for k in container if not isinstance(k, str)]
                if bad:
                    raise TypeError(f"keys are str, {shown(bad[0])} is {type(bad[0]).__name__}")
                below += [v for v in container.values() if isinstance(v, _CONTAINERS)]
            elif not isinstance(container, np.ndarray):
                below += [v for v in container if isinstance(v, _CONTAINERS)]
            elif container.dtype == object:
                below += [v for v in container.ravel().tolist() if isinstance(v, _CONTAINERS)]
        level = below


def shown(value: Any) -> str:
    """A value in an error message: short, whatever it is."""
    try:
        long = isinstance(value, Sized) and len(value) >= 100
    except TypeError:  # an array without dimensions has no length
        long = False
    try:
        text = f"{type(value).__name__} of {len(value)}" if long else repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list nested as deeply
        text = f"some {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "…"


def check_tensor_name(name: str) -> str:
    """The name as a plain ``str``; refuses what cannot name a tensor."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is no tensor name: use letters, digits and _ (and / for groups), beginning with a letter")
    return str.__str__(name)


def define_tensor(
    field_id: int,
    name: str,
    *,
    htype: str | None = None,
    dtype: Any = None,
    shape: Sequence[int | None] | None = None,
    sample_compression: Any = ...,
    class_names: Sequence[str] | None = None,
    allow_new_labels: bool | None = None,
    info: Mapping[str, Any] | None = None,
) -> TensorDef:
    """Check the arguments of ``create_tensor`` and make a definition of them."""
    name = check_tensor_name(name)
    key = "generic" if htype is None or htype == "unspecified" else str(htype)
    if key not in HTYPES:
        raise InvalidInput(f"create_tensor({name!r}): unknown htype {key!r}; {nearest(key, HTYPES)}")
    row = HTYPES[key]
    compression = _compression(name, row, sample_compression)
    if class_names is not None and not row.labels:
        raise InvalidInput(f"create_tensor({name!r}): class_names belong to htype 'class_label', not {key!r}")
    names = None if not row.labels else _class_names(name, () if class_names is None else class_names)
    if allow_new_labels is not None and not (row.labels and isinstance(allow_new_labels, (bool, np.bool_))):
        raise InvalidInput(f"create_tensor({name!r}): allow_new_labels is True or False, and of htype 'class_label' only")
    dtype = _dtype(name, row, dtype)
    _check_room(name, names, dtype)
    return TensorDef(
        id=field_id,
        name=name,
        htype=key,
        dtype=dtype,
        shape=_shape(name, row, shape),
        compression=compression,
        class_names=names,
        open_labels=row.labels and (class_names is None if allow_new_labels is None else bool(allow_new_labels)),
        info=_info(name, row, info),
    )


def _info(name: str, row: Htype, info: Mapping[str, Any] | None) -> dict[str, Any]:
    if info is not None and row.labels and "class_names" in info:
        raise InvalidInput(f"create_tensor({name!r}): class names are not info; give class_names=")
    if info is not None and not isinstance(info, Mapping):
        raise InvalidInput(f"create_tensor({name!r}): info is a dict of JSON values, got {shown(info)}")
    return plain_info(info or {}, f"create_tensor({name!r}): info")


def plain_info(info: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Metadata as plain JSON values, a copy."""
    return dict(json.loads(json_text(dict(info), what)))


def _class_names(name: str, names: Sequence[str]) -> tuple[str, ...]:
    unordered = isinstance(names, (str, set, frozenset, Mapping))
    if unordered or not hasattr(names, "__len__") or getattr(names, "ndim", 1) != 1 or not all(isinstance(n, str) for n in names):
        raise InvalidInput(f"tensor {name!r}: class_names must be a list of str, in the order of their ids, got {shown(names)}")
    plain = tuple(plain_text(n, f"tensor {name!r}: class name") for n in names)
    if len(set(plain)) != len(plain):
        doubled = sorted(n for n, k in Counter(plain).items() if k > 1)
        raise InvalidInput(f"tensor {name!r}: class_names has {doubled!r} more than once")
    return plain


@functools.cache
def holds(wide: str | np.dtype[Any], narrow: str | np.dtype[Any]) -> bool:
    """Whether one dtype holds every value of another exactly. (NumPy calls 64-bit integers safe in a float64.)"""
    long_integers = np.dtype(narrow).kind in "iu" and np.dtype(narrow).itemsize == 8 and np.dtype(wide).kind == "f"
    return bool(np.can_cast(narrow, wide, "safe")) and not long_integers


def extend_class_names(definition: TensorDef, names: Sequence[str]) -> TensorDef:
    """The definition with ``names`` appended to its classes (those it has already are skipped)."""
    have = definition.class_names or ()
    known = set(have)
    added = _class_names(definition.name, tuple(n for n in dict.fromkeys(names) if n not in known))
    if not added:
        return definition
    _check_room(definition.name, have + added, definition.dtype)
    return msgspec.structs.replace(definition, class_names=have + added)


def _check_room(name: str, class_names: Sequence[str] | None, dtype: str | None) -> None:
    if class_names and dtype is not None and len(class_names) > np.iinfo(dtype).max + 1:
        raise DtypeError(
            f"tensor {name!r}: {len(class_names)} classes are more than {dtype} can number; take a wider dtype "
            f"(alter_tensor({name!r}, dtype=…) widens that of a tensor there is)"
        )


def _compression(name: str, row: Htype, given: Any) -> str | None:
    if row.kind is not Kind.ENCODED:
        if given is ... or given is None:
            return None
        raise InvalidInput(f"create_tensor({name!r}): htype {row.name!r} takes no sample_compression, got {given!r}")
    if given is ...:
        raise InvalidInput(
            f"create_tensor({name!r}, htype={row.name!r}) needs sample_compression: one of "
            f"{', '.join(map(repr, row.codecs))}, or None to keep raw pixels"
        )
    if given is None:
        return None
    codec = CODEC_ALIASES.get(str(given), str(given))
    if codec not in row.codecs:
        raise InvalidInput(
            f"create_tensor({name!r}): htype {row.name!r} has no sample_compression {given!r}; {nearest(codec, row.codecs)}"
        )
    return codec


def _dtype(name: str, row: Htype, given: Any) -> str | None:
    if row.kind in (Kind.TEXT, Kind.JSON):
        if given is None or given is str or str(given) in ("str", row.dtype):
            return row.dtype
        raise DtypeError(f"create_tensor({name!r}): htype {row.name!r} has dtype {row.dtype!r}, not {given!r}")
    if given is None:
        return row.dtype
    dtype = numpy_dtype(given, f"create_tensor({name!r})")
    if dtype not in NUMERIC_DTYPES:
        raise DtypeError(f"create_tensor({name!r}): dtype {dtype!r} cannot be stored; use one of {', '.join(NUMERIC_DTYPES)}")
    if row.labels and np.dtype(dtype).kind not in "iu":
        raise DtypeError(f"create_tensor({name!r}): class labels are integers, got dtype {dtype!r}")
    if row.kind is Kind.ENCODED and dtype != "uint8":
        raise DtypeError(f"create_tensor({name!r}): an image has dtype 'uint8', got {dtype!r}; use htype 'generic'")
    return dtype


def numpy_dtype(given: Any, what: str) -> str:
    """Name of a NumPy dtype.

    Args:
        what: the call, for the error.
    """
    try:
        if isinstance(given, str) and not given.isprintable():
            raise ValueError("not printable")  # of a NUL NumPy makes bool
        return str(np.dtype(given).name)
    except (TypeError, ValueError, SyntaxError):
        raise DtypeError(f"{what}: {shown(given)} is no NumPy dtype") from None


def _shape(name: str, row: Htype, given: Sequence[int | None] | None) -> tuple[int | None, ...] | None:
    if given is None:
        return None
    try:
        if isinstance(given, (bool, str, bytes, Mapping, set, frozenset)):
            raise TypeError
        given = (int(given),) if isinstance(given, (int, np.integer)) else tuple(given)
        if any(isinstance(d, (bool, np.bool_)) for d in given):
            raise TypeError
        shape = tuple(None if d is None else operator.index(d) for d in given)
    except TypeError:
        raise ShapeError(
            f"create_tensor({name!r}): {shown(given)} is no shape; give a tuple of ints, None for what varies"
        ) from None
    if len(shape) > NDIM_MAX or math.prod(d for d in shape if d) > np.iinfo(np.int64).max // 8:
        raise ShapeError(f"create_tensor({name!r}): no array has the shape {shown(shape)}")
    if any(d is not None and d < 0 for d in shape):
        raise ShapeError(f"create_tensor({name!r}): shape {shape} has a negative dimension")
    if row.kind in (Kind.TEXT, Kind.JSON):
        raise ShapeError(f"create_tensor({name!r}): htype {row.name!r} takes no shape, got {shape}")
    if row.ndims and len(shape) not in row.ndims:
        raise ShapeError(
            f"create_tensor({name!r}): samples of htype {row.name!r} have {' or '.join(map(str, row.ndims))} "
            f"dimensions, shape {shape} has {len(shape)}"
        )
    return shape
