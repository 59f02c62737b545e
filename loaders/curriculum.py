"""A curriculum: what is drawn changes stage by stage, as a function of the user says.

Stage ``s`` is positions ``[s * every, (s + 1) * every)`` of an epoch. For a dataset the function gives weights, by which
the rows of the stage are drawn with replacement; for a mix it gives the parts' proportions. It is asked again whenever
a stage is come to, in any process and after resuming, so it must be pure: its answer may depend on the epoch and the
stage, and on nothing else. The last few stages are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lakefmt.cells import Rows
from lakefmt.errors import InvalidInput
from lakefmt.loaders.faults import ended
from lakefmt.loaders.kept import Kept
from lakefmt.loaders.order import derive
from lakefmt.loaders.sampling import Drawn, Evaluate, checked_weights, drawn_of

if TYPE_CHECKING:
    from lakefmt.loaders.draws import Basis
    from lakefmt.loaders.plan import Order

_STAGES = 11  # purpose of derived keys; mixing.py has 10
#: Between the epochs of a part's passes in a mix (``lakefmt.loaders.mixorders``); the function is told the mix's epoch.
PASS = 1 << 32

#: ``fn(epoch, stage)``: weights, one a row (numbers, a tensor, or a TQL expression); for a mix one number a part.
StageFn: TypeAlias = Callable[[int, int], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Curriculum:
    """What ``.curriculum()`` was given.

    Attributes:
        every: positions of a stage.
        size: positions of an epoch; ``None`` for as many as there are rows.
    """

    fn: StageFn
    every: int
    size: int | None = None
    random = True

    def __str__(self) -> str:
        return f"curriculum of stages of {self.every}"

    def order(self, basis: Basis) -> Order:
        """The order of a dataset's curriculum."""
        size = basis.n if self.size is None else self.size
        return Staged(self, basis.n, size, basis.hooks.weigh, basis.seed)

    def asked(self, epoch: int, stage: int) -> Any:
        """What the function says."""
        try:
            return self.fn(epoch % PASS, stage)
        except StopIteration as e:
            raise ended(f"curriculum: the function, asked for {_place(epoch, stage)},", e) from e
        except Exception as e:
            e.add_note(f"lakefmt: the curriculum's function was asked for {_place(epoch, stage)}")
            raise

    @contextmanager
    def located(self, epoch: int, stage: int) -> Iterator[None]:
        """Says in errors about an answer which it was."""
        try:
            yield
        except InvalidInput as e:
            raise InvalidInput(f"curriculum, {_place(epoch, stage)}: {str(e).removeprefix('curriculum: ')}") from e


def _place(epoch: int, stage: int) -> str:
    return f"epoch {epoch % PASS}, stage {stage}"


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """Rows drawn by weights that change from stage to stage.

    Attributes:
        n: rows of the source.
        size: positions of an epoch.
        evaluate: answers TQL weights.
    """

    curriculum: Curriculum
    n: int
    size: int
    evaluate: Evaluate | None
    seed: int
    _stages: Kept[Drawn] = field(default_factory=lambda: Kept(2), init=False, repr=False)

    def __len__(self) -> int:
        return self.size

    def rows(self, epoch: int, positions: Rows) -> Rows:
        every = self.curriculum.every
        stages = positions // every
        out = np.empty(positions.shape, np.int64)
        for s in np.unique(stages).tolist():
            here = stages == s
            drawn = self._stages.get((epoch, s), lambda s=s: self._stage(epoch, s))  # type: ignore[misc]
            out[here] = drawn.rows(epoch, positions[here] - s * every)
        return out

    def _stage(self, epoch: int, stage: int) -> Drawn:
        made = self.curriculum.asked(epoch, stage)
        with self.curriculum.located(epoch, stage):
            weights = checked_weights(made, self.n, self.evaluate, "curriculum")
        return drawn_of(weights, self.curriculum.every, derive(self.seed, epoch, _STAGES, stage))

    def describe(self) -> dict[str, Any]:
        return {"order": "curriculum", "every": self.curriculum.every, "size": self.size, "seed": self.seed}
