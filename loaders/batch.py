"""What a loader hands out: a dict of tensor name to values that also unpacks like a tuple."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from lakefmt.loaders.faults import Fault

#: Key under which a batch carries the positions of its rows in the source, on request.
INDEX = "index"
#: Suffixes of the extra keys of ragged tensors.
MASK, OFFSETS = "_mask", "_offsets"


class Batch(dict[str, Any]):
    """``batch["image"]`` and ``for image, label in loader`` both work.

    Iterating yields the *values*, in the order of the tensors; use ``keys()`` and ``items()`` for names.
    Everything that reads a mapping through these methods (``dict(batch)``, ``**batch``, torch's pinning,
    Lightning's transfer to a device) sees an ordinary dict.
    """

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, (dict(self.items()),)


@dataclass(slots=True)
class Parcel:
    """A step's result together with what else is to be told of it: bad samples, the work of another process.

    Attributes:
        value: the batch, or ``None`` when every sample of it was bad.
        faults: the bad samples.
        kept: which of the step's samples the rows of ``value`` are; ``None`` for all.
        spent: what a worker process spent since its last batch; see ``Stats.taken``.
    """

    value: Any
    faults: tuple[Fault, ...] = ()
    kept: tuple[int, ...] | None = None
    spent: dict[str, float] | None = None

    def pin_memory(self, device: Any = None) -> Parcel:
        """Called by torch's pinning thread."""
        from torch.utils.data._utils.pin_memory import pin_memory

        return replace(self, value=pin_memory(self.value))  # type: ignore[no-untyped-call]


def row_of(batch: Any, i: int) -> Batch:
    """Row ``i`` of a batch, without its batch dimension."""
    return Batch((name, values[i]) for name, values in batch.items())


def map_values(batch: Batch, fn: Callable[[Any], Any]) -> Batch:
    """A batch of ``fn`` of every value."""
    return Batch((name, fn(value)) for name, value in batch.items())
