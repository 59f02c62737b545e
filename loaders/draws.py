"""The steps of a chain that say which rows come: by weight or by class (``lakefmt.loaders.curriculum`` is another). A chain has
at most one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import pyarrow as pa

from lakefmt.cells import Array
from lakefmt.errors import InvalidInput
from lakefmt.loaders.plan import Order
from lakefmt.loaders.sampling import Weights, checked_weights, column, sampled
from lakefmt.loaders.strata import STOPS, Balanced, strata_of, stratified

if TYPE_CHECKING:
    from lakefmt.loaders.builder import Loader
    from lakefmt.rows import RowSource

Query: TypeAlias = Callable[[str], "RowSource | Loader"]
Weigh: TypeAlias = Callable[[str], Array]
Classify: TypeAlias = Callable[[str], Array | pa.Array]
Seed: TypeAlias = Callable[[], int]
#: One class a row: a TQL expression, or values.
By: TypeAlias = str | Any


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a loader asks of the dataset it came from.

    Attributes:
        query: rows that a TQL text selects, or a chain of them.
        weigh: value of a TQL expression for every row of the dataset.
        classify: the same, of any type that has classes.
        seed: the seed for a loader that was given none.
    """

    query: Query | None = None
    weigh: Weigh | None = None
    classify: Classify | None = None
    seed: Seed | None = None


@dataclass(frozen=True, slots=True)
class Basis:
    """What an order is made for.

    Attributes:
        n: rows of the source.
        shuffled: whether the chain is to be shuffled.
    """

    n: int
    hooks: Hooks
    seed: int
    shuffled: bool


class Draw(Protocol):
    """A step that says which rows come."""

    @property
    def random(self) -> bool:
        """Whether it needs a seed, shuffled or not."""
        ...

    def order(self, basis: Basis) -> Order: ...


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """``.sample_by()``."""

    weights: Weights
    replace: bool
    size: int | None
    random = True

    def __str__(self) -> str:
        return f"sampled {'with' if self.replace else 'without'} replacement"

    def order(self, basis: Basis) -> Order:
        return sampled(checked_weights(self.weights, basis.n, basis.hooks.weigh), self.replace, self.size, basis.seed)


@dataclass(frozen=True, slots=True, eq=False)
class Balance:
    """``.balance()``."""

    by: By
    stop: str
    random = False

    def __post_init__(self) -> None:
        if self.stop not in STOPS:
            raise InvalidInput(f"balance(stop={self.stop!r}): use one of {', '.join(map(repr, STOPS))}")

    def __str__(self) -> str:
        return f"balanced, stop {self.stop}"

    def order(self, basis: Basis) -> Order:
        return Balanced(strata_of("balance", _classes("balance", self.by, basis)), self.stop, basis.seed, basis.shuffled)


@dataclass(frozen=True, slots=True, eq=False)
class Stratify:
    """``.stratify()``."""

    by: By
    random = False

    def __str__(self) -> str:
        return "stratified"

    def order(self, basis: Basis) -> Order:
        return stratified(strata_of("stratify", _classes("stratify", self.by, basis)), basis.seed, basis.shuffled)


def _classes(step: str, by: By, basis: Basis) -> Array | pa.Array:
    if not isinstance(by, str):
        return column(step, "classes", by, basis.n)
    if basis.hooks.classify is None:
        raise InvalidInput(f"{step}({by!r}): this source evaluates no expressions; pass one class a row")
    return basis.hooks.classify(by)
