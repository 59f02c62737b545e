"""Bad samples: what becomes of a row that cannot be read, decoded or transformed.

``raise`` stops at the first one, ``skip`` leaves it out, ``collect`` leaves it out and remembers it. Where
ranks must stay in step, a row left out is replaced by a good one of the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lakefmt.errors import BadSample, Corrupt, InvalidInput

#: Faults remembered at most; later ones are only counted.
FAULTS_MAX = 10_000


class OnError(StrEnum):
    RAISE = "raise"
    SKIP = "skip"
    COLLECT = "collect"


def on_error_of(text: str) -> OnError:
    try:
        return OnError(text)
    except ValueError:
        raise InvalidInput(f"on_error={text!r}: use 'raise', 'skip' or 'collect'") from None


@dataclass(frozen=True, slots=True)
class Fault:
    """A bad sample.

    Attributes:
        row: position in the source that was loaded.
        row_id: stable id of the row.
        tensor: the tensor concerned, or ``None`` when a function of the whole row failed.
        error: the error's type and message.
    """

    row: int
    row_id: int
    tensor: str | None
    error: str


class FaultLog(list[Fault]):
    """Bad samples met so far, at most ``FAULTS_MAX``; ``total`` counts all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def add(self, faults: tuple[Fault, ...], policy: OnError) -> None:
        self.total += len(faults)
        if policy is OnError.COLLECT:
            self.extend(faults[: max(0, FAULTS_MAX - len(self))])


def place(row: int, row_id: int, tensor: str | None) -> str:
    """``row 3 (id 17), tensor 'image'``: where something went wrong."""
    where = f"row {row}" if row_id == row else f"row {row} (id {row_id})"
    return f"{where}, tensor {tensor!r}" if tensor is not None else where


def located(error: Exception, where: str) -> Exception:
    """The same kind of error, saying where it happened.

    lakefmt's own errors about data carry the place in their message. Of foreign ones (a user's function) only
    the type is known to be constructible by their author, so that the object itself is kept and the place
    becomes a note, which Python prints below the message. ``StopIteration`` is the exception: let out of an
    iterator it would not be an error but the epoch's end.
    """
    if isinstance(error, StopIteration):
        return ended(f"{where}: the transform", error)
    if type(error) in (BadSample, Corrupt, InvalidInput):
        made = type(error)(f"{where}: {error}").with_traceback(error.__traceback__)
        made.__cause__ = error.__cause__
        return made
    error.add_note(f"lakefmt: while loading {where}")
    return error


def ended(what: str, error: StopIteration) -> RuntimeError:
    """What stands for a ``StopIteration`` of a user's function, as PEP 479 has it in generators."""
    made = RuntimeError(
        f"{what} raised StopIteration, which would have ended the epoch without an error; "
        "give next() a default, or raise another error"
    )
    made.__cause__ = error
    return made
