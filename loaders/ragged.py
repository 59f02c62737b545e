"""Samples of differing shapes as one batch value, in one of four ways.

``list``    a list of arrays, ``None`` for missing samples.
``pad``     one array, zero-padded to the largest extent of each dimension in the batch, and under
            ``<name>_mask`` a bool array of the same shape that is true where there is data. Nowhere true: the
            sample is missing or empty.
``flat``    the samples one after another along their first dimension, and under ``<name>_offsets`` the n + 1
            int64 places at which they begin. Other dimensions must agree. A missing sample has no extent.
``nested``  torch only: a nested tensor in the jagged layout, made of ``flat``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lakefmt.cells import Array
from lakefmt.errors import InvalidInput
from lakefmt.htypes import TensorDef
from lakefmt.loaders.batch import MASK, OFFSETS
from lakefmt.loaders.recipe import RaggedMode


def put_ragged(definition: TensorDef, samples: list[Array | None], mode: RaggedMode) -> dict[str, Any]:
    """The batch entries for one ragged tensor.

    Args:
        samples: one array (or ``None``) a row.

    Raises:
        InvalidInput: samples differ in number of dimensions, or (``flat``, ``nested``) in others than the
            first.
    """
    name, dtype = definition.name, definition.dtype
    match mode:
        case RaggedMode.LIST:
            return {name: samples}
        case RaggedMode.PAD:
            values, mask = pad(name, samples, dtype, len(definition.shape) if definition.shape is not None else 1)
            return {name: values, name + MASK: mask}
        case _:
            values, offsets = flat(name, samples, dtype)
            return {name: values, name + OFFSETS: offsets}


def pad(name: str, samples: list[Array | None], dtype: str | None, rank: int) -> tuple[Array, Array]:
    """Padded values and mask, both of shape (n, *largest extents).

    Args:
        dtype: of the values, where there is no sample to tell.
        rank: a sample's number of dimensions, likewise.
    """
    present = [s for s in samples if s is not None]
    ndims = {s.ndim for s in present} or {rank}
    if len(ndims) > 1:
        raise InvalidInput(f"tensor {name!r}: samples with {sorted(ndims)} dimensions cannot be padded; use ragged='list'")
    extent = tuple(max(sizes) for sizes in zip(*(s.shape for s in present), strict=True)) if present else (0,) * rank
    values = np.zeros((len(samples), *extent), present[0].dtype if present else dtype or "float32")
    mask = np.zeros(values.shape, bool)
    for i, sample in enumerate(samples):
        if sample is not None:
            where = tuple(slice(0, d) for d in sample.shape)
            values[i, ...][where] = sample
            mask[i, ...][where] = True
    return values, mask


def flat(name: str, samples: list[Array | None], dtype: str | None) -> tuple[Array, Array]:
    """Concatenated values and the offsets at which samples begin (int64, n + 1)."""
    present = [s for s in samples if s is not None]
    tails = {s.shape[1:] if s.ndim else None for s in present}
    if len(tails) > 1 or None in tails:
        raise InvalidInput(
            f"tensor {name!r}: samples of shapes {sorted({s.shape for s in present})[:4]} cannot be "
            "laid end to end: only "
            "the first dimension may differ; use ragged='list' or ragged='pad'"
        )
    offsets = np.zeros(len(samples) + 1, np.int64)
    np.cumsum([0 if s is None else len(s) for s in samples], out=offsets[1:])
    values = np.concatenate(present) if present else np.empty(0, dtype or "float32")
    return values, offsets
