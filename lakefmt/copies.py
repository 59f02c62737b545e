"""Two copies of one dataset, and what of their logs is the same in both."""

from __future__ import annotations

from bisect import bisect_left

from lakefmt.errors import InvalidInput, VersionExpired
from lakefmt.versioning.log import Log
from lakefmt.versioning.records import Version


class Copies:
    """A copy that sends, and one that receives, as they were when first asked."""

    def __init__(self, source: Log, to: Log) -> None:
        """
        Raises:
            InvalidInput: they are not copies of one dataset.
        """
        if source.claim.dataset != to.claim.dataset:
            raise InvalidInput(
                f"{source.store.url} and {to.store.url} hold different datasets; "
                "a branch goes between copies of one (deepcopy() makes them)"
            )
        self.source, self.to = source, to
        self._numbers: dict[str, tuple[list[int], list[int]]] = {}
        self._alike: dict[str, int | None] = {}
        self._valid: dict[tuple[str, int], int | None] = {}

    def numbers(self, log: str) -> tuple[list[int], list[int]]:
        """Numbers of a log's versions here and there."""
        if log not in self._numbers:
            self._numbers[log] = (self.source.numbers(log), self.to.numbers(log))
        return self._numbers[log]

    def alike(self, log: str) -> int | None:
        """The newest version of a log that both have, the same in both; ``None`` where there is none."""
        if log not in self._alike:
            here, there = self.numbers(log)
            both = sorted(set(here) & set(there))
            if both and not self._differ(log, both[-1]):  # most often nothing has gone apart
                self._alike[log] = both[-1]
            else:
                n = bisect_left(both, True, key=lambda v: self._differ(log, v))
                self._alike[log] = both[n - 1] if n else None
        return self._alike[log]

    def _differ(self, log: str, v: int) -> bool:
        return self.source.heads(log, [v])[0].transaction != self.to.heads(log, [v])[0].transaction

    def valid(self, log: str, v: int) -> int | None:
        """Up to which version of a log, at most ``v``, its number means the same there as here: the other side has it, or may be
        given it as it is. ``None``: not even the first.
        """
        place = (log, v)
        if place not in self._valid:
            self._valid[place] = None  # while it is being found out
            self._valid[place] = self._reach(log, v)
        return self._valid[place]

    def _reach(self, log: str, v: int) -> int | None:
        here, there = self.numbers(log)
        alike = self.alike(log)
        if alike is not None and alike >= v:
            return v
        if v not in here or (there and (alike is None or there[-1] > alike)):
            return alike  # it went apart
        try:
            return alike if self.foreign(self.source.read(log, v)) else v
        except VersionExpired:
            return alike

    def foreign(self, version: Version) -> list[str]:
        """Logs that a version of the source contains up to numbers that mean something else there."""
        return [log for log, v in version.state.contains.items() if self.valid(log, v) != v]
