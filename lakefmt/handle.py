"""What every part of a dataset handle stands on: a log, a writer, and a place among the versions."""

from __future__ import annotations

from lakefmt.errors import ReadOnly
from lakefmt.versioning.log import Log
from lakefmt.versioning.records import Branch
from lakefmt.writer import Writer


class Handle:
    """A dataset opened at a branch (writable) or at a version (read-only)."""

    _log: Log
    _writer: Writer
    _branch: Branch | None
    _url: str
    _read_only: bool

    def _write(self) -> Writer:
        if self._read_only:
            raise ReadOnly(f"{self._url} was opened with read_only=True")
        if self._branch is None:
            raise ReadOnly(
                f"{self._url} stands on version {self._writer.version.id}, which cannot change: "
                "checkout('name', create=True) makes a branch from it, checkout('main') returns to the branch"
            )
        return self._writer

    def flush(self) -> None:
        """Store what is buffered, as a version without a message. Costs nothing when nothing is buffered."""
        if self._writer.unsettled:
            self._write().flush()

    def discard(self) -> None:
        """Drop buffered rows and updates that have not reached storage (for example because committing them conflicts)."""
        self._writer.discard()
