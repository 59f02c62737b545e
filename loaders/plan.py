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
            computable and bound the rows in flight all the same. The order is cut into *lanes*, equal
            stretches that are walked side by side: ranks that share an epoch own lanes, and so units, of
            their own, however many ranks there are (a divisor of the lanes, which divide the batch of all).
``Rotated`` another order, begun at a given position and wrapped around.

Weighted sampling gives two more orders: ``lakefmt.loaders.sampling``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from lakefmt.cells import Rows
from lakefmt.errors import InvalidInput
from lakefmt.loaders.order import TABLE_MAX, derive, mix_array, permute, permute_each, place_of

# Purposes of derived keys: two uses of one seed must never share a stream.
_ROWS, _UNITS, _GROUP = 1, 2, 3
#: Steps between the keys of neighbouring lanes, whose groups number the keys in between.
_LANE = 0x9E3779B97F4A7C15


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
    """Units permuted, rows permuted inside groups of units (see the module's text).

    Attributes:
        unit_rows: neighbouring rows that are read together.
        group_units: units mixed at a time, by all lanes together.
        lanes: how many stretches of the permuted units are walked side by side; position p is of lane p % lanes.
    """

    n: int
    seed: int
    unit_rows: int
    group_units: int
    lanes: int = 1

    def __len__(self) -> int:
        return self.n

    def describe(self) -> dict[str, Any]:
        return {
            "order": "window",
            "n": self.n,
            "seed": self.seed,
            "unit": self.unit_rows,
            "group": self.group_units,
            "lanes": self.lanes,
        }

    @property
    def group_rows(self) -> int:
        """Rows of a lane mixed at a time."""
        return max(1, self.group_units // self.lanes) * self.unit_rows

    def lane_bounds(self, lane: int) -> tuple[int, int]:
        """Places [begin, end) of a lane in the concatenation of the permuted units."""
        begin, end = (k * (self.n // self.lanes) + min(k, self.n % self.lanes) for k in (lane, lane + 1))
        return begin, end

    def group_of(self, position: int) -> int:
        """Group of its lane in which a position lies; all lanes go through their groups together."""
        return position // self.lanes // self.group_rows

    def group_bounds(self, group: int) -> tuple[int, int]:
        """Positions [begin, end) of group ``group`` of all lanes."""
        begin, end = (min(self.n, g * self.group_rows * self.lanes) for g in (group, group + 1))
        return begin, end

    def units(self, epoch: int, group: int, lanes: Iterable[int]) -> Rows:
        """Units that a group of some lanes is made of, in reading order. (A unit on a border is of both sides.)"""
        places = []
        for lane in lanes:
            begin, end = self.lane_bounds(lane)
            first, last = (min(end, begin + g * self.group_rows) for g in (group, group + 1))
            if first < last:
                places.append((first, last - 1))
        slots = self._spread(epoch, np.array(places, np.int64).reshape(-1, 2)) // self.unit_rows
        wanted = [np.arange(a, b + 1) for a, b in slots.tolist()]
        every: Rows = np.concatenate(wanted) if wanted else np.empty(0, np.int64)
        units = permute(every, self._unit_count, derive(self.seed, epoch, _UNITS))
        return units[np.sort(np.unique(units, return_index=True)[1])]

    @property
    def _unit_count(self) -> int:
        return -(-self.n // self.unit_rows)

    def _spread(self, epoch: int, places: Rows) -> Rows:
        """Places as they would be if the last, shorter unit were as long as the others: behind it, places move on."""
        slot, missing = _short_slot(self.n, self.unit_rows, derive(self.seed, epoch, _UNITS))
        moved: Rows = places + missing * (places >= (slot + 1) * self.unit_rows - missing)
        return moved

    def rows(self, epoch: int, positions: Rows) -> Rows:
        lane, index = positions % self.lanes, positions // self.lanes
        begin = lane * (self.n // self.lanes) + np.minimum(lane, self.n % self.lanes)
        places = self._spread(epoch, begin + self._mixed(epoch, lane, index))
        slots = places // self.unit_rows
        units = permute(slots, self._unit_count, derive(self.seed, epoch, _UNITS))
        rows: Rows = units * self.unit_rows + (places - slots * self.unit_rows)
        return rows

    def _mixed(self, epoch: int, lane: Rows, index: Rows) -> Rows:
        """Where in its lane each index goes: somewhere in its group."""
        size = self.group_rows
        group = index // size
        length = np.minimum(size, self.n // self.lanes + (lane < self.n % self.lanes) - group * size)
        key = derive(self.seed, epoch, _GROUP)
        keys = mix_array(lane.astype(np.uint64) * np.uint64(_LANE) + group.astype(np.uint64) + np.uint64(key))
        mixed = index - group * size
        whole = (length == size) if size > TABLE_MAX else np.zeros(len(index), bool)
        if whole.any():  # all groups but a lane's last have one size
            mixed[whole] = permute_each(mixed[whole], size, keys[whole])
        rest = np.flatnonzero(~whole)
        if rest.size:
            distinct, member = np.unique(keys[rest], return_inverse=True)
            for i, group_key in enumerate(distinct.tolist()):
                mine = rest[member == i]
                mixed[mine] = permute(mixed[mine], int(length[mine[0]]), group_key)
        mixed += group * size
        return mixed


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


#: Bytes of neighbouring rows that are read together: a request costs an object store about as much as so many bytes.
UNIT_NBYTES = 1 << 20
#: Units that a group has at least, where the buffer and the source's own units allow: fewer would leave sorted data sorted.
GROUP_UNITS_MIN = 512
LANES_MAX = 64


def window_of(n: int, seed: int, unit_rows: int, row_nbytes: float, buffer_bytes: int, lanes: int = 1) -> Window:
    """The window order whose groups fit ``buffer_bytes``, at ``row_nbytes`` a row. A group has at least one
    unit a lane.

    Args:
        unit_rows: rows of the source that are not to be read apart.
    """
    row_nbytes = max(1.0, row_nbytes)
    buffer_rows = max(1, int(buffer_bytes / row_nbytes))
    worth = min(int(UNIT_NBYTES / row_nbytes), buffer_rows // GROUP_UNITS_MIN)
    unit_rows = max(1, min(max(unit_rows, worth), n))
    return Window(n, seed, unit_rows, max(lanes, min(buffer_rows // unit_rows, 2**62 // unit_rows)), lanes)


def relaned(order: Order, lanes: int) -> Order:
    """The same order in another number of lanes, where it has any."""
    if isinstance(order, Rotated):
        return replace(order, order=relaned(order.order, lanes))
    return replace(order, lanes=lanes) if isinstance(order, Window) else order


def laned(order: Order, world: int, batch_rows: int) -> Order:
    """The order in lanes for ``world`` ranks: as many as the batch of all ranks divides into, up to ``LANES_MAX``, so that
    other numbers of ranks, too, can own lanes when a state of it is loaded there.
    """
    within = order.order if isinstance(order, Rotated) else order
    if not isinstance(within, Window):
        return order
    room = max(1, min(LANES_MAX, within.group_units // 4))  # some units for every lane to mix
    together = batch_rows * world
    lanes = math.lcm(world, math.gcd(together, 1 << (room.bit_length() - 1)))
    return relaned(order, lanes if together % lanes == 0 else world)


def lanes_of(order: Order) -> int:
    """Lanes of an order; 1 where it has none."""
    return order.lanes if isinstance(order, Window) else lanes_of(order.order) if isinstance(order, Rotated) else 1


def reseeded(order: Order, seed: int) -> Order:
    """The same order with another seed; orders without a seed stay as they are."""
    if isinstance(order, Rotated):
        return replace(order, order=reseeded(order.order, seed))
    return replace(order, seed=seed) if hasattr(order, "seed") else order  # type: ignore[type-var]
