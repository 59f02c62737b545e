"""Orders by class: every class equally often, or every batch with the classes of the whole.

Rows are sorted by class once, four bytes a row (eight above 2**32 rows). What stands at a position is arithmetic:
a pattern tells the class and how many rows of it came before, and that number a row of the class. When the rows of
a class are used up they begin again; each such *pass* is shuffled anew, by a key of its own.

``Balanced``    every run of C positions has each of the C classes once, in an order drawn for the run.
``Stratified``  every row once; the classes are spread evenly over the epoch (``lakefmt.loaders.evenly``), so that
                any batch has each in the proportion of the whole to within one or two rows. This is systematic
                sampling (Madow and Madow, "On the theory of systematic sampling", 1944), stratum by stratum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from lakefmt.cells import Array, Rows
from lakefmt.errors import InvalidInput
from lakefmt.loaders.checks import COUNT_MAX
from lakefmt.loaders.evenly import PERIOD_MAX, Evenly, evenly
from lakefmt.loaders.kept import Kept
from lakefmt.loaders.order import U64, derive, mix_array, permute_within
from lakefmt.loaders.sampling import digest

_RUNS, _PASSES, _PHASES = 7, 8, 9  # purposes of derived keys; picked.py has 5 and 6
_GOLDEN = 0x9E3779B97F4A7C15

STOPS = ("first", "all", "never")


@dataclass(frozen=True, slots=True, eq=False)
class Strata:
    """Rows by class.

    Attributes:
        members: rows, class after class, in each as stored.
        starts: where each class begins in it.
        sizes: rows of each class, all positive.
        digest: names all this.
    """

    members: npt.NDArray[Any]
    starts: Rows
    sizes: Rows
    digest: str

    def rows(self, strata: Rows, index: Rows, key: int | None) -> Rows:
        """The ``index``-th row of each class, counted on from pass to pass; passes are shuffled by ``key``."""
        sizes = self.sizes[strata]
        passes = index // sizes
        place = index - passes * sizes
        if key is not None:
            place = permute_within(place, sizes, _keys(key, strata, passes))
        rows: Rows = self.members[self.starts[strata] + place].astype(np.int64)
        return rows


def _keys(key: int, strata: Rows, passes: Rows) -> U64:
    """A key for every pass of every class."""
    words = mix_array(strata.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(key))
    words += passes.astype(np.uint64) * np.uint64(_GOLDEN)
    return mix_array(words)


def strata_of(step: str, values: Array | pa.Array) -> Strata:
    """Rows by class, classes in the order of their values.

    Args:
        step: of the chain, for the error.
        values: a class a row: integers, bools, floats or texts.

    Raises:
        InvalidInput: there are none, or one is missing.
    """
    codes = _codes(step, values)
    n = len(codes)
    if not n:
        raise InvalidInput(f"{step}: there are no rows")
    order = np.argsort(codes, kind="stable")  # by counting, where codes are of 16 bits
    members = order.astype(np.uint32 if n < 2**32 else np.int64)
    ranked = codes[order]
    starts = np.concatenate(([0], np.flatnonzero(ranked[1:] != ranked[:-1]) + 1)).astype(np.int64)
    sizes = np.diff(np.append(starts, n))
    name = xxhash.xxh3_64_hexdigest((digest(members) + digest(sizes)).encode())
    return Strata(members, starts, sizes, name)


def _codes(step: str, values: Array | pa.Array) -> Array:
    """Numbers in the order of the values, of 16 bits where they fit."""
    if isinstance(values, pa.Array) or values.dtype.kind in "OSU":
        texts = values if isinstance(values, pa.Array) else _texts(step, values)
        if texts.null_count:
            row = int(np.argmax(texts.is_null().to_numpy(zero_copy_only=False)))
            raise InvalidInput(f"{step}: row {row} has no class; leave such rows out by a query")
        encoded = texts.dictionary_encode()
        rank = np.argsort(np.argsort(np.array(encoded.dictionary.to_pylist(), object)))
        values = rank[encoded.indices.to_numpy(zero_copy_only=False)]
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    if values.dtype.kind not in "iuf":
        raise InvalidInput(f"{step}: classes are integers, bools or texts, one a row; got dtype {values.dtype}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise InvalidInput(f"{step}: the class of row {row} is {values[row]}; leave such rows out by a query")
    if values.dtype.kind in "iu" and len(values):
        least = values.min()
        if int(values.max()) - int(least) < 1 << 16:
            short: Array = (values - least).astype(np.uint16)
            return short
    return values


def _texts(step: str, values: Array) -> pa.Array:
    try:
        return pa.array(values.tolist(), pa.large_string())
    except (pa.ArrowException, TypeError) as e:
        raise InvalidInput(f"{step}: classes are integers, bools or texts, one a row ({e})") from e


@dataclass(frozen=True, slots=True, eq=False)
class Balanced:
    """Every class equally often.

    Attributes:
        stop: ``first``: an epoch ends with the smallest class; ``all``: with the largest, others begin anew meanwhile;
            ``never``.
        shuffled: draw orders; else classes come in turn, and rows as stored.
    """

    strata: Strata
    stop: str
    seed: int
    shuffled: bool

    @property
    def endless(self) -> bool:
        """Whether an epoch has no end; it has ``COUNT_MAX`` positions then."""
        return self.stop == "never"

    def __len__(self) -> int:
        sizes = self.strata.sizes
        return COUNT_MAX if self.endless else len(sizes) * int(sizes.min() if self.stop == "first" else sizes.max())

    def rows(self, epoch: int, positions: Rows) -> Rows:
        count = len(self.strata.sizes)
        runs = positions // count
        strata = positions - runs * count
        if not self.shuffled:
            return self.strata.rows(strata, runs, None)
        keys = mix_array(runs.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(derive(self.seed, epoch, _RUNS)))
        strata = permute_within(strata, np.full(len(positions), count), keys)
        return self.strata.rows(strata, runs, derive(self.seed, epoch, _PASSES))

    def describe(self) -> dict[str, Any]:
        about = {"order": "balanced", "classes": len(self.strata.sizes), "stop": self.stop, "rows": self.strata.digest}
        return {**about, "seed": self.seed} if self.shuffled else about


@dataclass(frozen=True, slots=True, eq=False)
class Stratified:
    """Every row once, and every batch with the classes of the whole.

    Attributes:
        shuffled: draw where classes begin, and orders of their rows; else these come as stored.
    """

    strata: Strata
    seed: int
    shuffled: bool
    _patterns: Kept[Evenly] = field(default_factory=lambda: Kept(2), init=False, repr=False)

    def __len__(self) -> int:
        return len(self.strata.members)

    def rows(self, epoch: int, positions: Rows) -> Rows:
        phases = derive(self.seed, epoch, _PHASES) if self.shuffled else None
        strata, index = self._patterns.get(phases, lambda: evenly(self.strata.sizes, phases)).at(positions)
        return self.strata.rows(strata, index, derive(self.seed, epoch, _PASSES) if self.shuffled else None)

    def describe(self) -> dict[str, Any]:
        about = {"order": "stratified", "classes": len(self.strata.sizes), "rows": self.strata.digest}
        return {**about, "seed": self.seed} if self.shuffled else about


def stratified(strata: Strata, seed: int, shuffled: bool) -> Stratified:
    """The order of ``Stratified``.

    Raises:
        InvalidInput: more rows than its arithmetic holds.
    """
    if len(strata.members) > PERIOD_MAX:
        raise InvalidInput(f"stratify: {len(strata.members)} rows are more than {PERIOD_MAX}; shuffle them instead")
    return Stratified(strata, seed, shuffled)
