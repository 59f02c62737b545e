"""Transforms in the style of augmentation libraries, as functions of a sample or a row.

Most libraries' transforms (torchvision's among them) are called with the sample, and need nothing from here.
Albumentations' are called with keywords, ``aug(image=..., mask=...)``, and answer with a dict; they are known by
their ``available_keys``, the set of keywords that they understand. For one tensor the sample is its ``image``. For a
row, tensors are given under their own names where the transform knows these (a query gives a tensor another name),
and the one image under ``image`` whatever its name. What the transform does not know passes by it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from lakefmt.errors import InvalidInput
from lakefmt.htypes import TensorDef


def keywords_of(fn: Any) -> frozenset[str] | None:
    """The keywords that a transform of this style understands; ``None`` for any other function."""
    bare = fn.func if isinstance(fn, functools.partial) else fn
    keys = getattr(bare, "available_keys", None)
    return frozenset(keys) if callable(bare) and isinstance(keys, (set, frozenset)) else None


def of_sample(fn: Any) -> Callable[..., Any]:
    """The transform as a function of one sample."""
    return fn if keywords_of(fn) is None else _OfSample(fn)


def of_row(fn: Any, definitions: Mapping[str, TensorDef]) -> Callable[..., Any]:
    """The transform as a function of a row, a dict of tensor to sample.

    Raises:
        InvalidInput: two tensors would be given under one keyword.
    """
    known = keywords_of(fn)
    if known is None:
        return fn  # type: ignore[no-any-return]
    given: dict[str, str] = {}
    for name, definition in definitions.items():
        keyword = name if name in known else "image" if definition.htype == "image" else None
        if keyword is None or keyword not in known:
            continue
        if keyword in given:
            raise InvalidInput(
                f"transform: tensors {given[keyword]!r} and {name!r} would both be its {keyword!r}; select tensors, rename "
                "one in a query, or give a function of the row that calls the transform"
            )
        given[keyword] = name
    return _OfRow(fn, given)


class _OfSample:
    """Picklable, as worker processes need it."""

    def __init__(self, fn: Any) -> None:
        self._fn = fn

    def __call__(self, sample: Any, **kwargs: Any) -> Any:
        return None if sample is None else self._fn(image=sample, **kwargs)["image"]


class _OfRow:
    def __init__(self, fn: Any, keywords: Mapping[str, str]) -> None:
        self._fn, self._keywords = fn, dict(keywords)

    def __call__(self, row: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        made = self._fn(**{k: row[n] for k, n in self._keywords.items() if row[n] is not None}, **kwargs)
        return {**row, **{n: made[k] for k, n in self._keywords.items() if k in made}}
