"""Every error lakefmt raises on purpose, as one tree grouped by what the catcher does about it.

::

    LakeError
    ├── InvalidInput (ValueError)          fix the call: the value given cannot be used
    │   ├── DtypeError (TypeError)         the value's type or dtype does not fit the tensor
    │   ├── ShapeError                     the value's shape does not fit the tensor
    │   ├── UnknownClass                   a class name or id that the tensor does not have
    │   ├── BadSample                      encoded bytes (a JPEG, a PNG, ...) that do not decode
    │   ├── UnequalLengths                 columns of one extend() differ in length
    │   ├── RowIndexError (IndexError)     a row index outside the dataset
    │   └── TqlError                       a query that does not parse or does not type-check
    ├── NotFound (KeyError)                look elsewhere: the named thing does not exist
    │   ├── NoSuchObject                   no object under this key in a store
    │   ├── NoSuchDataset                  the place holds no lakefmt dataset
    │   ├── NoSuchTensor (AttributeError)  the dataset has no such tensor
    │   ├── NoSuchVersion                  no such branch, tag or version
    │   │   └── VersionExpired             it was there, and has been removed by expire()
    │   └── NoSuchView                     no saved view of that name
    ├── AlreadyExists (FileExistsError)    choose another name
    ├── ReadOnly (PermissionError)         get a writable handle
    ├── Conflict (RuntimeError)            somebody else changed the same thing: refresh and redo
    │   └── MergeConflict                  both sides of a merge changed the same rows: say whose count
    ├── CommitStateUnknown (RuntimeError)  ask the store later whether the commit landed
    ├── StoreError (OSError)               the store failed; the stored dataset is as it was
    │   └── UnsafeStore                    the store cannot promise put-if-absent
    ├── Corrupt (OSError)                  stored bytes do not parse or do not match their checksum
    ├── UnsupportedFormat (RuntimeError)   written by a newer lakefmt: upgrade
    ├── WorkerDied (RuntimeError)          a loader's process was killed: use fewer, or smaller batches
    └── MissingExtra (ImportError)         pip install "lakefmt[...]"

Every class has a stable ``code`` (for logs and other languages) and also derives from the builtin that Python users
would expect to catch. Messages name the value, the place and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


class LakeError(Exception):
    """Root of all errors raised by lakefmt."""

    code = "lake"

    def __str__(self) -> str:  # KeyError would print the repr of the message
        if len(self.args) == 2 and isinstance(self, OSError):  # (errno, message)
            return str(self.args[1])
        return str(self.args[0]) if self.args else ""


class InvalidInput(LakeError, ValueError):
    code = "invalid-input"


class DtypeError(InvalidInput, TypeError):
    code = "dtype"


class ShapeError(InvalidInput):
    code = "shape"


class UnknownClass(InvalidInput):
    code = "unknown-class"


class BadSample(InvalidInput):
    code = "bad-sample"


class UnequalLengths(InvalidInput):
    code = "unequal-lengths"


class RowIndexError(InvalidInput, IndexError):
    code = "row-index"


class TqlError(InvalidInput):
    """A query that cannot be understood.

    Attributes:
        query: the text of the query.
        position: offset (0-based, in characters) of the offending token in ``query``, or ``None`` when unknown.
        length: number of characters the offending token spans.
    """

    code = "tql"

    def __init__(self, message: str, query: str = "", position: int | None = None, length: int = 1) -> None:
        self.query = query
        self.position = position
        self.length = max(1, length)
        self.reason = message
        super().__init__(self._located(message))

    def _located(self, message: str) -> str:
        if self.position is None or not self.query:
            return message
        before = self.query[: self.position]
        line_no = before.count("\n") + 1
        column = self.position - (before.rfind("\n") + 1)
        line = self.query.split("\n")[line_no - 1]
        caret = " " * column + "^" * min(self.length, max(1, len(line) - column))
        return f"{message}\n  at line {line_no}, column {column + 1}:\n    {line}\n    {caret}"


class NotFound(LakeError, KeyError):
    code = "not-found"


class NoSuchObject(NotFound):
    code = "no-such-object"


class NoSuchDataset(NotFound):
    code = "no-such-dataset"


class NoSuchTensor(NotFound, AttributeError):
    code = "no-such-tensor"


class NoSuchVersion(NotFound):
    code = "no-such-version"


class VersionExpired(NoSuchVersion):
    code = "version-expired"


class NoSuchView(NotFound):
    code = "no-such-view"


class AlreadyExists(LakeError, FileExistsError):
    code = "already-exists"


class ReadOnly(LakeError, PermissionError):
    code = "read-only"


class Conflict(LakeError, RuntimeError):
    code = "conflict"


class MergeConflict(Conflict):
    """Both sides changed the same thing.

    Attributes:
        rows: per tensor, the row ids that both sides changed.
        schema: sentences about tensors that both sides changed.
    """

    code = "merge-conflict"

    def __init__(self, message: str, rows: Mapping[str, Sequence[int]] | None = None, schema: Sequence[str] = ()) -> None:
        self.rows = {name: list(ids) for name, ids in (rows or {}).items()}
        self.schema = list(schema)
        super().__init__(message)


class EmptyCommit(LakeError, RuntimeError):
    code = "empty-commit"


class CommitStateUnknown(LakeError, RuntimeError):
    """The store neither confirmed nor refused a commit.

    Attributes:
        transaction: uuid of the transaction; it landed if some version object carries it.
    """

    code = "commit-state-unknown"

    def __init__(self, message: str, transaction: str = "") -> None:
        self.transaction = transaction
        super().__init__(message)


class StoreError(LakeError, OSError):
    code = "store"


class UnsafeStore(StoreError):
    code = "unsafe-store"


class Corrupt(LakeError, OSError):
    code = "corrupt"


class UnsupportedFormat(LakeError, RuntimeError):
    code = "unsupported-format"


class WorkerDied(LakeError, RuntimeError):
    code = "worker-died"


class MissingExtra(LakeError, ImportError):
    code = "missing-extra"

    def __init__(self, what: str, extra: str) -> None:
        self._given = (what, extra)
        super().__init__(f'{what} needs an optional dependency: pip install "lakefmt[{extra}]"')

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return (type(self), self._given)


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy sentence for a mistyped name: the closest known names, or all of them when few."""
    names = list(dict.fromkeys(str(k) for k in known))
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    if not names:
        return "there are none yet"
    shown = ", ".join(repr(n) for n in names[:12])
    return f"known: {shown}" + (", …" if len(names) > 12 else "")


class UnsavedRows(RuntimeWarning):
    """What a handle had buffered could not be stored when it was dropped, or when the interpreter ended."""


class CacheOff(RuntimeWarning):
    """The disk cache cannot be written, so that this process goes on without keeping what it reads."""


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what it counts: ``1 row``, ``2,000 rows``, ``2 batches``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
