"""The NumPy front end: an iterable of batches of arrays and lists, begun anew by every ``for``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lakefmt.loaders.faults import FaultLog
from lakefmt.loaders.session import Job, Session, deliver


class NumpyLoader:
    """Batches as ``Batch`` of NumPy arrays (lists where samples differ in shape, and of ``str`` for text).

    Every ``iter()`` is another epoch. ``len()`` is the number of batches, or of rows when none were asked
    for.
    """

    def __init__(self, job: Job) -> None:
        self._session = Session(job)

    def __iter__(self) -> Iterator[Any]:
        begun = self._session.begin()
        return deliver(self._session, self._session.local(*begun), begun)

    def __len__(self) -> int:
        return len(self._session.job)

    @property
    def errors(self) -> FaultLog:
        """Bad samples left out so far, with ``on_error="collect"``."""
        return self._session.errors

    @property
    def seed(self) -> int | None:
        """Seed of the order; ``None`` for rows as stored."""
        return self._session.seed

    def set_epoch(self, epoch: int) -> None:
        """Make ``epoch`` the next iteration's."""
        self._session.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where to go on; see ``Session.state_dict``."""
        return self._session.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there; see ``Session.load_state_dict``."""
        self._session.load_state_dict(state)

    def stats(self) -> dict[str, Any]:
        """Rows, batches, bytes, rows per second, seconds by phase."""
        return self._session.stats.report()

    def close(self) -> None:
        """Stop background threads now."""
        self._session.close()
