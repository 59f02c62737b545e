"""What the translator is told about a dataset: one record for each tensor, and nothing about storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lakefmt.htypes import TensorDef


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of one tensor in the dataset version being queried.

    Attributes:
        definition: name, field id, htype, dtype, class names.
        ndim: number of dimensions when every sample has the same (0: scalars); ``None`` when they differ.
        fixed_shape: the shape when every sample is present and has it. Shapes then are constants of the SQL.
        nullable: whether any sample is missing. When not, no SQL is spent on missing samples.
        dims: for a known ``ndim``, the dimensions that are the same in every sample, ``None`` for those that
            vary; ``(None, 4)`` for boxes. ``None``: not known, beyond what the definition declares.
    """

    definition: TensorDef
    ndim: int | None
    fixed_shape: tuple[int, ...] | None
    nullable: bool
    dims: tuple[int | None, ...] | None = None


#: By tensor name, case-sensitive.
Catalog = Mapping[str, TensorInfo]
