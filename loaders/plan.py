"""The plan: which row stands at which position of an epoch.

An *order* is a pure function ``rows(epoch, positions)``. Any position of any epoch can be computed alone, in
O(1) memory, so that resuming, sharding and handing work to processes are arithmetic on positions.

``Scan``    rows as stored.
``Global``  every row anywhere: one permutation of all rows, another each epoch.
``Window``  for data where neighbouring rows are much cheaper to read together (object stores). *Units* of
            ``unit_rows`` neighbours are permuted; ``group_units`` units in a row of that order make a
            *group*, as many as fit the shuffle buffer; rows are permuted inside their group. A streaming
            shuffle pool mixes a little further across group borders, but its content depends on everything
            drawn before, so that seeking would mean replaying the epoch; groups keep every position
            computable and bound the rows in flight all the same.
``Rotated`` another order, begun at a given position and wrapped around.

Weighted sampling gives two more orders: ``lakefmt.loaders.sampling``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from lakefmt.cells import Rows
from lakefmt.errors import InvalidInput
from lakefmt.loaders.order import derive, permute, place_of

# Purposes of derived keys: two uses of one seed must never share a stream.
_ROWS, _UNITS, _GROUP = 1, 2, 3


class Order(Protocol):
    """A bijection or a sampling of rows, by epoch and position. Immutable and picklable."""

    def __len__(self) -> int:
        """Positions in an epoch."""
        ...

    def rows(self, epoch: int, positions: Rows) -> Rows:
        """Row at each position: int64, the shape of ``positions``, each of which lies in ``[0,
        len(self))``.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Small JSON value; two orders with equal values are the same function."""
        ...


@dataclass(frozen=True, slots=True)
class Scan:
    """Rows as stored."""

    n: int

    def __len__(self) -> int:
        return self.n

    def rows(self, epoch: int, positions: Rows) -> Rows:
        return positions

    def describe(self) -> dict[str, Any]:
        return {"order": "scan", "n": self.n}


@dataclass(frozen=True, slots=True)
class Global:
    """Every row anywhere."""

    n: int
    seed: int

    def __len__(self) -> int:
        return self.n

    def rows(self, epoch: int, positions: Rows) -> Rows:
        return permute(positions, self.n, derive(self.seed, epoch, _ROWS))

    def describe(self) -> dict[str, Any]:
        return {"order": "global", "n": self.n, "seed": self.seed}


@dataclass(frozen=True, slots=True)
class Window:
    """Units permuted, rows permuted inside groups of units (see the module's text)."""

    n: int
    seed: int
    unit_rows: int
    group_units: int

    def __len__(self) -> int:
        return self.n

    def describe(self) -> dict[str, Any]:
        return {
            "order": "window",
            "n": self.n,
            "seed": self.seed,
            "unit": self.unit_rows,
            "group": self.group_units,
        }

    def group_bounds(self, epoch: int, group: int) -> tuple[int, int]:
        """Positions [begin, end) that group ``group`` occupies in ``epoch``."""
        size = self.unit_rows * self.group_units
        slot, missing = _short_slot(self.n, self.unit_rows, derive(self.seed, epoch, _UNITS))
        begin, end = (g * size - (missing if g > slot // self.group_units else 0) for g in (group, group + 1))
        return begin, min(end, self.n)

    def group_of(self, epoch: int, positions: Rows) -> Rows:
        """Group in which each position lies."""
        size = self.unit_rows * self.group_units
        slot, missing = _short_slot(self.n, self.unit_rows, derive(self.seed, epoch, _UNITS))
        after = (slot // self.group_units + 1) * size - missing  # first position behind the group with the short unit
        groups: Rows = (positions + missing * (positions >= after)) // size
        return groups

    def units(self, epoch: int, group: int) -> Rows:
        """Units that group ``group`` consists of, in reading order."""
        count = -(-self.n // self.unit_rows)
        slots = np.arange(group * self.group_units, min((group + 1) * self.group_units, count), dtype=np.int64)
        return permute(slots, count, derive(self.seed, epoch, _UNITS))

    def rows(self, epoch: int, positions: Rows) -> Rows:
        unit_key = derive(self.seed, epoch, _UNITS)
        count = -(-self.n // self.unit_rows)
        slot, missing = _short_slot(self.n, self.unit_rows, unit_key)
        places = np.empty(positions.shape, dtype=np.int64)  # in the concatenation of the permuted units
        groups = self.group_of(epoch, positions)
        for group in np.unique(groups).tolist():
            mine = groups == group
            begin, end = self.group_bounds(epoch, group)
            key = derive(self.seed, epoch, _GROUP, group)
            places[mine] = begin + permute(positions[mine] - begin, end - begin, key)
        # behind the short unit every place moves on by the rows that unit lacks
        places += missing * (places >= (slot + 1) * self.unit_rows - missing)
        slots = places // self.unit_rows
        units = permute(slots, count, unit_key)
        rows: Rows = units * self.unit_rows + (places - slots * self.unit_rows)
        return rows


@lru_cache(maxsize=32)
def _short_slot(n: int, unit_rows: int, unit_key: int) -> tuple[int, int]:
    """Slot in which the last, shorter unit lands, and how many rows it lacks."""
    count = -(-n // unit_rows)
    return place_of(count - 1, count, unit_key), count * unit_rows - n


@dataclass(frozen=True, slots=True)
class Rotated:
    """``order`` begun at position ``offset``; what lies before comes last."""

    order: Order
    offset: int

    def __len__(self) -> int:
        return len(self.order)

    def rows(self, epoch: int, positions: Rows) -> Rows:
        shifted = positions + self.offset
        shifted -= len(self.order) * (shifted >= len(self.order))
        return self.order.rows(epoch, shifted)

    def describe(self) -> dict[str, Any]:
        return {**self.order.describe(), "offset": self.offset}


def rotate(order: Order, offset: int) -> Order:
    """``order`` from position ``offset`` on.

    Raises:
        InvalidInput: the offset is no position of the epoch (its length is allowed, and means 0).
    """
    if not 0 <= offset <= len(order):
        raise InvalidInput(f"offset({offset}): an epoch has positions 0 to {len(order) - 1}")
    return Rotated(order, offset) if offset % max(1, len(order)) else order


def window_of(n: int, seed: int, unit_rows: int, row_nbytes: float, buffer_bytes: int) -> Window:
    """The window order whose groups fit ``buffer_bytes``, at ``row_nbytes`` a row. A group has at least one
    unit.
    """
    unit_rows = max(1, min(unit_rows, n))
    unit_bytes = max(1.0, unit_rows * row_nbytes)
    return Window(n, seed, unit_rows, max(1, min(int(buffer_bytes / unit_bytes), 2**62 // unit_rows)))


def reseeded(order: Order, seed: int) -> Order:
    """The same order with another seed; orders without a seed stay as they are."""
    if isinstance(order, Rotated):
        return replace(order, order=reseeded(order.order, seed))
    return replace(order, seed=seed) if hasattr(order, "seed") else order  # type: ignore[type-var]
