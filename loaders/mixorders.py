"""Orders of a mix: which part comes at a position, and which of its rows.

Proportions are whole numbers, of a period of positions or of a stage of a curriculum, and spread evenly over it
(``lakefmt.loaders.evenly``): a batch has each part's share to within one or two rows, and a period has it exactly.
So the part at a position, and how many of its rows came before, are arithmetic; and the part's own order (its
shuffling, its weights, its classes) says which row that is. A part that is used up begins its next *pass*, which is
another epoch of its order: epoch e's k-th pass (from 0) is the part's epoch ``e + k * PASS``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lakefmt.cells import Rows
from lakefmt.errors import InvalidInput
from lakefmt.loaders.checks import COUNT_MAX
from lakefmt.loaders.curriculum import PASS, Curriculum
from lakefmt.loaders.evenly import Evenly, apportioned, evenly
from lakefmt.loaders.kept import Kept
from lakefmt.loaders.order import derive
from lakefmt.loaders.plan import Order, reseeded

_PARTS = 10  # purpose of derived keys; strata.py has 7 to 9


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts' orders.

    Attributes:
        orders: of each part.
        own: whether its seed is its own; else it follows from the mix's.
        starts: where the rows of each part begin, and the number of all.
    """

    orders: tuple[Order, ...]
    own: tuple[bool, ...]
    starts: tuple[int, ...]

    def seeded(self, seed: int) -> Parts:
        """With the seeds that follow from a mix's seed."""
        seeds = [derive(seed, _PARTS, c) % 2**63 for c in range(len(self.orders))]
        orders = (o if own else reseeded(o, s) for o, own, s in zip(self.orders, self.own, seeds, strict=True))
        return replace(self, orders=tuple(orders))

    def rows(self, epoch: int, parts: Rows, index: Rows) -> Rows:
        """Row of the mix for the ``index``-th row of each part, counted on from pass to pass."""
        out = np.empty(len(parts), np.int64)
        for c, here in _groups(parts):
            order, mine = self.orders[c], index[here]
            passes = mine // len(order)
            for k, some in _groups(passes):
                out[here[some]] = self.starts[c] + order.rows(epoch + k * PASS, mine[some] - k * len(order))
        return out

    @property
    def random(self) -> bool:
        """Whether some order follows from the mix's seed."""
        return any(not own and o.describe().get("seed") is not None for o, own in zip(self.orders, self.own, strict=True))

    def digest(self) -> str:
        """Names the orders, but for the seeds that follow from the mix's."""
        about = [
            {k: v for k, v in order.describe().items() if own or k != "seed"}
            for order, own in zip(self.orders, self.own, strict=True)
        ]
        return _digest([about, self.starts])


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


def _groups(values: Rows) -> Iterator[tuple[int, Rows]]:
    """Each distinct value, and where it is."""
    if len(values) and bool((values == values[0]).all()):
        yield int(values[0]), np.arange(len(values))
        return
    order = np.argsort(values, kind="stable")
    cuts = np.flatnonzero(np.diff(values[order])) + 1
    for at in np.split(order, cuts) if len(values) else ():
        yield int(values[at[0]]), at


@dataclass(frozen=True, slots=True, eq=False)
class Mixed:
    """Rows of several parts in fixed proportions.

    Attributes:
        pattern: which part, by position.
        stop: ``first``: an epoch ends when a part is used up; ``all``: when every part has been, others begin anew
            meanwhile; ``never``.
    """

    parts: Parts
    pattern: Evenly
    stop: str
    seed: int
    size: int = field(init=False)
    _seeded: Parts = field(init=False, repr=False)
    _name: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lengths = [len(o) for o in self.parts.orders]
        size = COUNT_MAX
        if self.stop == "first":
            size = min(self.pattern.position(c, n) for c, n in enumerate(lengths))
        elif self.stop == "all":
            size = max(self.pattern.position(c, n - 1) + 1 for c, n in enumerate(lengths))
        object.__setattr__(self, "size", min(size, COUNT_MAX))
        object.__setattr__(self, "_seeded", self.parts.seeded(self.seed))
        object.__setattr__(self, "_name", self.parts.digest())

    @property
    def endless(self) -> bool:
        """Whether an epoch has no end; it has ``COUNT_MAX`` positions then."""
        return self.stop == "never"

    def __len__(self) -> int:
        return self.size

    def rows(self, epoch: int, positions: Rows) -> Rows:
        period = self.pattern.period
        turns = positions // period
        parts, index = self.pattern.at(positions - turns * period)
        return self._seeded.rows(epoch, parts, turns * self.pattern.counts[parts] + index)

    def describe(self) -> dict[str, Any]:
        counts = self.pattern.counts.tolist()
        weights = counts if len(counts) <= 8 else _digest(counts)
        about = {"order": "mixed", "parts": self._name, "weights": weights, "stop": self.stop, "size": self.size}
        return {**about, "seed": self.seed} if self.parts.random else about


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """Positions with one proportion.

    Attributes:
        pattern: of the parts that come at all, by ``present``.
        before: rows of each part in the stages before.
        counts: rows of each part in this one.
    """

    pattern: Evenly
    present: Rows
    before: Rows
    counts: Rows


@dataclass(frozen=True, slots=True, eq=False)
class StagedMix:
    """Rows of several parts, in proportions that a function gives stage by stage.

    Attributes:
        labels: what the parts are called.
        size: positions of an epoch.
    """

    parts: Parts
    labels: tuple[str, ...]
    curriculum: Curriculum
    size: int
    endless: bool
    seed: int
    _seeded: Parts = field(init=False, repr=False)
    _name: str = field(init=False, repr=False)
    _stages: Kept[_Stage] = field(default_factory=lambda: Kept(8), init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_seeded", self.parts.seeded(self.seed))
        object.__setattr__(self, "_name", self.parts.digest())

    def __len__(self) -> int:
        return self.size

    def rows(self, epoch: int, positions: Rows) -> Rows:
        every = self.curriculum.every
        out = np.empty(len(positions), np.int64)
        for s, here in _groups(positions // every):
            stage = self._stages.get((epoch, s), lambda s=s: self._stage(epoch, s))  # type: ignore[misc]
            which, index = stage.pattern.at(positions[here] - s * every)
            parts = stage.present[which]
            out[here] = self._seeded.rows(epoch, parts, stage.before[parts] + index)
        return out

    def _stage(self, epoch: int, number: int) -> _Stage:
        known = [(s, stage) for (e, s), stage in self._stages.items() if e == epoch and s < number]
        first, before = 0, np.zeros(len(self.labels), np.int64)
        if known:
            last, stage = max(known, key=lambda item: item[0])
            first, before = last + 1, stage.before + stage.counts
        for s in range(first, number):
            before = before + self._counts(epoch, s)
        counts = self._counts(epoch, number)
        present = np.flatnonzero(counts)
        return _Stage(evenly(counts[present]), present, before, counts)

    def _counts(self, epoch: int, stage: int) -> Rows:
        made = self.curriculum.asked(epoch, stage)
        with self.curriculum.located(epoch, stage):
            return apportioned(proportions("curriculum", made, self.labels, zero=True), self.curriculum.every)

    def describe(self) -> dict[str, Any]:
        about = {"order": "curriculum of a mix", "parts": self._name, "every": self.curriculum.every, "size": self.size}
        return {**about, "seed": self.seed} if self.parts.random else about


def proportions(step: str, weights: Any, labels: Sequence[str], zero: bool = False) -> list[float]:
    """One weight a part, checked.

    Args:
        weights: numbers in the order of the parts, or by their names.
        zero: whether a part may have none.

    Raises:
        InvalidInput: there are not as many as parts, or one is no finite number above zero (or zero).
    """
    if isinstance(weights, Mapping):
        if set(weights) != set(labels):
            raise InvalidInput(f"{step}: weights for {list(weights)}, and the parts are {list(labels)}; give one a part")
        weights = [weights[label] for label in labels]
    try:
        array = np.asarray(weights, np.float64)
    except (TypeError, ValueError, OverflowError) as e:
        raise InvalidInput(f"{step}: weights are numbers, one a part ({e})") from e
    if array.shape != (len(labels),):
        raise InvalidInput(f"{step}: {len(labels)} parts need as many weights, got shape {array.shape}")
    for label, weight in zip(labels, array.tolist(), strict=True):
        if not (np.isfinite(weight) and (weight >= 0 if zero else weight > 0)):
            remedy = "a weight is a finite number >= 0" if zero else "a weight is a finite number > 0; leave out what is not wanted"
            raise InvalidInput(f"{step}: the weight of {label} is {weight}; {remedy}")
    if not array.any():
        raise InvalidInput(f"{step}: all weights are zero, so that no row can be drawn")
    listed: list[float] = array.tolist()
    return listed
