"""The words the benchmarks are told in: works, measures, contenders, targets, tasks and samples.

A *work* is one module of ``benchmarks.works``; it has one or more *measures*, each a number that every
*contender* is asked for in a process of its own. A *task* is what such a process is told (JSON on its command
line), a *sample* what it answers (one JSON line).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

SUBJECT = "lakefmt"

Role = Literal["subject", "peer", "limit"]


@dataclass(frozen=True)
class Contender:
    """Somebody who is measured: a row of the table."""

    name: str
    how: str
    """The configuration used, told in the table's notes."""
    peer: str = ""
    """The virtual environment under ``.peers``; empty for the harness's own interpreter."""
    role: Role = "peer"
    dataset: str = ""
    """Whose dataset it reads, where it is not simply its peer's: see ``store``."""

    @property
    def by_hand(self) -> bool:
        """Whether the row is code of this benchmark around a peer, and no loader the peer ships."""
        return self.name.endswith("-by-hand")

    @property
    def store(self) -> str:
        """Name of the dataset it reads: readers of a peer share one; empty for a limit, which has none."""
        if self.dataset or self.role == "limit":
            return self.dataset
        return self.peer or SUBJECT


@dataclass(frozen=True)
class Target:
    """What lakefmt's median has to reach: ``at_most`` or ``at_least`` times the yardstick."""

    says: str
    against: str
    """A contender's name, or ``best peer``: the best of the peers, or ``number``: the value itself."""
    at_most: float | None = None
    at_least: float | None = None
    among: tuple[str, float] | None = None
    """For ``best peer``: only peers with at least this much of a fact."""
    shipped: bool = False
    """For ``best peer``: only what the peers ship, not the batches written by hand around them."""
    fact: str = ""
    """The fact that is judged, of lakefmt and of the yardstick, in place of the value."""


@dataclass(frozen=True)
class Measure:
    """One number asked of every contender."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    contenders: tuple[Contender, ...]
    targets: tuple[Target, ...] = ()
    reads_stores: bool = True
    """Whether each contender's dataset is written beforehand (by the work's ``write``)."""


@dataclass(frozen=True)
class Task:
    """What one subprocess is asked to do."""

    work: str
    phase: Literal["generate", "write", "measure"]
    data: str
    """Folder of the generated data sets."""
    store: str = ""
    """Folder of the contender's dataset: written in the phase ``write``, read (or scratch) in ``measure``."""
    measure: str = ""
    contender: str = ""
    """Who is measured; in the phase ``write``, the name of the store."""
    small: bool = False
    repeat: int = 0
    images: str = ""
    """Folder of the JPEGs that the work ``jpegs`` repeats."""
    budget_mb: int = 512
    """Memory budget of the work ``memory``, in MB of 1,000,000 bytes."""

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def loads(text: str) -> Task:
        return Task(**json.loads(text))

    def data_of(self, work: str) -> Path:
        """The folder of one data set."""
        return Path(self.data) / work

    @property
    def store_dir(self) -> Path:
        return Path(self.store)


@dataclass
class Sample:
    """What one subprocess measured: ``value`` in the measure's unit, and what it is made of."""

    value: float = float("nan")
    raw: list[float] = field(default_factory=list)
    raw_unit: str = ""
    facts: dict[str, float | str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    error: str = ""
    load_1min: float = float("nan")
    """The machine's load when the process ended: how noisy the neighbours were."""

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def loads(text: str) -> Sample:
        return Sample(**json.loads(text))


class Work(Protocol):
    """What a module of ``benchmarks.works`` offers.

    One that makes a data set has a function ``generate(task)``, which makes it under ``task.data_of(its
    name)``, the same bytes every time; one whose measures read stores has ``write(task)``, which writes the
    contender's dataset to ``task.store``, where nothing is yet.
    """

    TITLE: str
    DATA: tuple[str, ...]
    """The works whose generated data sets it uses."""
    MEASURES: tuple[Measure, ...]

    def measure(self, task: Task) -> Sample:
        """Measure one contender once."""


def lookup(table: Mapping[str, Any], name: str) -> Any:
    """The entry of a table of functions, or an error that names what there is."""
    if name not in table:
        raise KeyError(f"no '{name}' here; there are: {', '.join(table)}")
    return table[name]
