"""The NumPy front end: an iterable of batches of arrays and lists, begun anew by every ``for``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lakefmt.loaders.session import Face, Job, Session, deliver


class NumpyLoader(Face):
    """Batches as ``Batch`` of NumPy arrays (lists where samples differ in shape, and of ``str`` for text).

    Every ``iter()`` is another epoch. ``len()`` is the number of batches, or of rows when none were asked
    for.
    """

    def __init__(self, job: Job) -> None:
        self._session = Session(job)

    def __iter__(self) -> Iterator[Any]:
        begun = self._session.begin()
        return deliver(self._session, self._session.local(*begun), begun)

    def close(self) -> None:
        """Stop background threads now."""
        self._session.close()
