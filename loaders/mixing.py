"""Mixing: rows of several datasets, views or chains in given proportions, as one loader.

    loader = lakefmt.mix([web, books.dataloader().sample_by("quality")], [0.7, 0.3]).batch(64).shuffle(seed=1).pytorch()

``lakefmt.loaders.mixsource`` reads the parts as one, ``lakefmt.loaders.mixorders`` says in which order.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakefmt import random
from lakefmt.cells import Rows
from lakefmt.errors import InvalidInput
from lakefmt.loaders.builder import Loader, dataloader
from lakefmt.loaders.checks import COUNT_MAX
from lakefmt.loaders.curriculum import Curriculum
from lakefmt.loaders.draws import Hooks
from lakefmt.loaders.evenly import PERIOD_MAX, apportioned, evenly
from lakefmt.loaders.mixorders import Mixed, Parts, StagedMix, proportions
from lakefmt.loaders.mixsource import MixSource, check_parts
from lakefmt.loaders.plan import Order, endless
from lakefmt.loaders.strata import STOPS

#: Positions after which proportions are exact.
PERIOD = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """What ``mix`` was given: the parts' chains, in what proportions, and when an epoch ends."""

    chains: tuple[Loader, ...]
    labels: tuple[str, ...]
    weights: tuple[float, ...] | None
    stop: str | None

    def __str__(self) -> str:
        return f"mix of {len(self.chains)} parts"

    @property
    def random(self) -> bool:
        """Whether some part's order needs a seed that is not its own."""
        return any(chain.random and not chain.seeded for chain in self.chains)

    def order(self, mix: Loader, names: Sequence[str], seed: int) -> Order:
        """The order of a mix.

        Args:
            mix: the chain of the mix, whose shuffling parts have that say nothing of it.
            names: tensors that are loaded.
        """
        parts = self._parts(mix, [n for n in names if n in self.chains[0].rows.definitions])
        lengths = [len(o) for o in parts.orders]
        if isinstance(mix.draw, Curriculum):
            return self._staged(mix.draw, parts, sum(lengths), seed)
        counts = lengths if self.weights is None else self._quotas().tolist()
        if sum(counts) > PERIOD_MAX:
            raise InvalidInput(f"mix: {sum(counts)} rows are more than {PERIOD_MAX} in proportion to their number; give weights=")
        return Mixed(parts, evenly(counts), self.stop or "first", seed)

    def _quotas(self) -> Rows:
        assert self.weights is not None
        quotas = apportioned(self.weights, PERIOD)
        for label, weight, quota in zip(self.labels, self.weights, quotas.tolist(), strict=True):
            if not quota:
                raise InvalidInput(
                    f"mix: the weight of {label}, {weight}, is less than one row in {PERIOD} of all; give it more, or leave it out"
                )
        return quotas

    def _staged(self, curriculum: Curriculum, parts: Parts, rows: int, seed: int) -> StagedMix:
        if self.stop in ("first", "all"):
            raise InvalidInput(
                f"mix(stop={self.stop!r}) with .curriculum(): when a part is used up is not known before the function was asked "
                "for all of an epoch; leave stop out (an epoch then has as many rows as .curriculum(size=) says, or all parts "
                "together), or use stop='never'"
            )
        never = self.stop == "never"
        if never and curriculum.size is not None:
            raise InvalidInput("mix(stop='never') with .curriculum(size=…): an epoch has an end or has none; leave one out")
        size = COUNT_MAX if never else rows if curriculum.size is None else curriculum.size
        return StagedMix(parts, self.labels, curriculum, size, never, seed)

    def _parts(self, mix: Loader, names: list[str]) -> Parts:
        orders, rows = [], len(mix.source)
        for chain, label in zip(self.chains, self.labels, strict=True):
            share = len(chain.rows) / rows
            chain = chain if mix.shuffling is None else chain.shuffled_as(mix.shuffling, share)
            order = chain.order([n for n in names if n in chain.rows.definitions], 0)
            if endless(order):
                raise InvalidInput(f"mix: {label} never ends (stop='never'); let it stop, and the mix go on: mix(…, stop='never')")
            if not len(order):
                raise InvalidInput(f"mix: {label} has no rows; leave it out")
            orders.append(order)
        source = mix.source
        assert isinstance(source, MixSource)
        return Parts(tuple(orders), tuple(c.seeded for c in self.chains), tuple(source.starts.tolist()))


def mix(
    parts: Sequence[Any] | Mapping[str, Any],
    weights: Sequence[float] | Mapping[str, float] | None = None,
    *,
    stop: str | None = None,
    source: str | None = None,
) -> Loader:
    """One loader over several datasets, in given proportions.

    Args:
        parts: datasets, views, or chains of them with ``query``, ``sample_by``, ``balance``, ``stratify``, ``shuffle`` and
            ``offset`` said, on any stores; in a list, or by name in a dict. They have the same tensors.
        weights: one a part, above zero, in any unit: only proportions count, to one in 65,536. By default parts come as
            many rows as they have.
        stop: ``"first"`` (default): an epoch ends when a part is used up. ``"all"``: when every part has been; those
            used up before begin anew, in another order if they are shuffled. ``"never"``: it does not, and ``len()``
            raises ``TypeError``.
        source: name of a tensor to add to every row: the number of its part, int64 (class labels with the parts'
            names, where these have names).

    Returns:
        A chain like a dataset's: ``.batch()``, ``.shuffle(seed=)`` (which also shuffles parts that say nothing of it, each
        within itself), ``.transform()``, ``.curriculum()``, ``.pytorch()``, …. What selects rows is said to the parts.

    Raises:
        InvalidInput: a part cannot be mixed, or a weight is no number above zero.
        DtypeError: a tensor has dtypes in the parts of which none holds all values of the others.
    """
    labels, given = _labelled(parts)
    chains = tuple(_chain(part, label) for part, label in zip(given, labels, strict=True))
    check_parts({label: chain.rows for label, chain in zip(labels, chains, strict=True)})
    if stop is not None and stop not in STOPS:
        raise InvalidInput(f"mix(stop={stop!r}): use one of {', '.join(map(repr, STOPS))}")
    if source is not None and not isinstance(source, str):
        raise InvalidInput(f"mix(source={source!r}): give a name for the tensor, or None")
    shares = None if weights is None else tuple(proportions("mix", weights, labels))
    mixture = Mixture(chains, labels, shares, stop)
    if shares is not None:
        mixture._quotas()
    rows = MixSource([c.rows for c in chains], labels, source, labels if isinstance(parts, Mapping) else None)
    return Loader(source=rows, hooks=Hooks(seed=random.next_seed), mixture=mixture, faces=weakref.WeakSet())


def _labelled(parts: Any) -> tuple[tuple[str, ...], list[Any]]:
    """What each part is called, and the parts."""
    named = isinstance(parts, Mapping)
    if not named and (isinstance(parts, (str, bytes)) or not isinstance(parts, Sequence)):
        raise InvalidInput(f"mix({type(parts).__name__}): give the parts in a list, or by name in a dict")
    if not len(parts):
        raise InvalidInput("mix(): there is no part to mix")
    if not named:
        return tuple(f"part {c}" for c in range(len(parts))), list(parts)
    if not all(isinstance(name, str) for name in parts):
        raise InvalidInput(f"mix: parts are named by str, got {list(parts)!r}")
    return tuple(parts), list(parts.values())


def _chain(part: Any, label: str) -> Loader:
    if isinstance(part, Loader):
        for step in ("batch", "transform", "map_batches"):
            if step in part.said:
                raise InvalidInput(f"mix: {label} is a chain with .{step}(); say that to the mix, for all parts together")
        return part
    if hasattr(part, "dataloader"):
        chain: Loader = part.dataloader()
        return chain
    if hasattr(part, "gather"):
        return dataloader(part)
    raise InvalidInput(f"mix: {label} is {type(part).__name__} {str(part)[:60]}; give datasets, views, or chains of them")
