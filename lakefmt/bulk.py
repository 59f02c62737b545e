"""Many rows at once: deleted or updated by a condition, or brought in by a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from lakefmt.cells import Dense, Ragged, Rows, Strings
from lakefmt.errors import Conflict, InvalidInput, NoSuchTensor, TqlError, UnequalLengths
from lakefmt.fragment.columns import Column
from lakefmt.htypes import TensorDef
from lakefmt.outgoing import Outgoing, deletions, pending_changes
from lakefmt.pending import Pending, extended
from lakefmt.rebase import class_edits
from lakefmt.samples import prepare_batch
from lakefmt.snapshot import Snapshot
from lakefmt.staging import as_columns
from lakefmt.versioning.changes import Change, Name
from lakefmt.versioning.log import Nothing, Transaction
from lakefmt.versioning.records import Version

if TYPE_CHECKING:
    from lakefmt.writer import Writer


def delete_where(writer: Writer, select: Callable[[Version], Any]) -> int:
    """Delete what is selected, as one version.

    Args:
        select: a view of a version's rows; asked again of what others have committed first.

    Returns:
        How many rows.
    """
    with writer.lock:
        writer.flush()
        gone = 0

        def build(version: Version) -> list[Change]:
            nonlocal gone
            with _anew(writer, version):
                ids = select(version).row_ids
            gone = len(ids)
            return deletions(writer.log.store, writer.at(version), ids) or nothing()

        writer.commit_changes(Transaction(build, operation="delete", again=True))
        return gone


def update_where(writer: Writer, select: Callable[[Version], Any], values: Mapping[str, Any]) -> int:
    """Give new samples to the rows selected, as one version.

    Args:
        select: as for ``delete_where``.
        values: tensor to sample, or to a function of a row that gives it.

    Returns:
        How many rows.
    """
    for name in values:
        writer.definition(name)
    with writer.lock:
        writer.flush()
        inline: dict[str, bytes] = {}
        updated = 0

        def build(version: Version) -> list[Change]:
            nonlocal updated
            at = writer.at(version)
            with _anew(writer, version):
                view, definitions = select(version), {n: at.definition(n) for n in values}
            rows = at.positions(view.row_ids)
            updated = len(rows)
            if not updated:
                return nothing()
            pending = Pending()
            for name, value in values.items():
                samples = [value(row) for row in view] if callable(value) else [value] * updated
                definition, column = writer.column(definitions[name], rows, samples)
                pending.patch(definition, rows, column)
                if _differs(at, definition):
                    pending.definitions[definition.id] = definition
            edits, remaps = class_edits(version.state, pending.definitions)
            changes, _ = pending_changes(Outgoing(writer.log.store, at, at, remaps, inline), pending)
            return [*edits, *changes]

        writer.commit_changes(Transaction(build, operation="update", again=True, inline=inline))
        return updated


@contextmanager
def _anew(writer: Writer, version: Version) -> Iterator[None]:
    """What is asked of a version that landed first: a tensor that is not there any more was taken away by who committed it."""
    try:
        yield
    except (NoSuchTensor, TqlError) as error:
        if version.id == writer.version.id:
            raise
        raise Conflict(f"{error} (another handle committed {version.id} first); nothing was changed: refresh() and redo") from error


def nothing() -> list[Change]:
    """There is nothing to commit."""
    raise Nothing("nothing to commit")


def upsert(writer: Writer, rows: Any, key: str) -> tuple[int, int]:
    """Update the rows whose key is there, append the others, as one version.

    Returns:
        How many rows were updated, and appended.
    """
    table = as_columns(rows)
    with writer.lock:
        writer.flush()
        count = _check(writer, table, key)
        if not count:
            return 0, 0
        prepared: dict[str, tuple[TensorDef, Column]] = {n: prepare_batch(writer.definition(n), v) for n, v in table.items()}
        for _, column in prepared.values():
            column.own()
        given = _keys(prepared[key][1].take(np.arange(count)), key)
        if len(set(given)) < count:
            twice = next(k for i, k in enumerate(given) if k in given[:i])
            raise InvalidInput(f"upsert(key={key!r}): {twice!r} is given more than once; which of its rows counts?")
        made = (0, 0)
        inline: dict[str, bytes] = {}

        def build(version: Version) -> list[Change]:
            nonlocal made
            at = writer.at(version)
            edits, remaps = class_edits(version.state, {d.id: d for d, _ in prepared.values() if _differs(at, d)})
            places = _places(at, key, _renumbered(given, remaps.get(key)))
            old, new = np.flatnonzero(places >= 0), np.flatnonzero(places < 0)
            pending = Pending(definitions={d.id: d for d, _ in prepared.values() if _differs(at, d)})
            for definition, column in prepared.values():
                if len(old) and definition.name != key:
                    pending.patch(definition, places[old], column.pick(old))
                if len(new):
                    pending.tails[definition.id] = extended(None, len(at), column.pick(new), definition)
            made = (len(old), len(new))
            changes, _ = pending_changes(Outgoing(writer.log.store, at, at, remaps, inline), pending)
            return [*edits, *changes] or [Name()]

        writer.commit_changes(Transaction(build, operation="upsert", again=True, inline=inline))
        return made


def _differs(at: Snapshot, definition: TensorDef) -> bool:
    return at.definitions.get(definition.name) != definition


def _check(writer: Writer, table: Mapping[str, Any], key: str) -> int:
    if not isinstance(key, str) or key not in table:
        raise InvalidInput(f"upsert(key={key!r}): the rows have no column {key!r}; they have {', '.join(map(repr, table))}")
    for name in table:
        writer.definition(name)
    absent = [n for n in writer.snapshot.definitions if n not in table]
    if absent:
        raise NoSuchTensor(f"upsert(): the rows have no samples for {', '.join(map(repr, absent))}; give them (None where missing)")
    lengths = {n: len(v) for n, v in table.items()}
    if len(set(lengths.values())) > 1:
        raise UnequalLengths(f"upsert(): columns differ in length: {lengths}; give every tensor as many samples")
    return next(iter(lengths.values()))


def _renumbered(keys: list[Any], remap: Rows | None) -> list[Any]:
    """Class ids as they are now: others may have added classes of the same numbers first."""
    return keys if remap is None else [int(remap[k]) for k in keys]


def _places(at: Snapshot, key: str, given: Sequence[Any]) -> Rows:
    """Position of the row with each key; -1 where there is none."""
    rows: dict[Any, int] = {}
    if len(at):
        wanted = set(given)
        for start in range(0, len(at), 1 << 18):
            part = _keys(at.gather(key, np.arange(start, min(len(at), start + (1 << 18)))), key)
            for i, value in enumerate(part):
                if value in wanted:
                    if value in rows:
                        raise InvalidInput(
                            f"upsert(key={key!r}): rows {rows[value]} and {start + i} both have {value!r}; a key is unique"
                        )
                    rows[value] = start + i
    return np.array([rows.get(k, -1) for k in given], np.int64)


def _keys(cells: Any, key: str) -> list[Any]:
    found: list[Any]
    match cells:
        case Strings(values):
            found = values.to_pylist()
        case Dense(values) if values.ndim == 1:
            found = values.tolist()
        case Ragged(values) if all(v is None or v.ndim == 0 for v in values):
            found = [None if v is None else v.item() for v in values]
        case _:
            raise InvalidInput(f"upsert(key={key!r}): a key is a number or a text, {key!r} holds arrays")
    if any(k is None or k != k for k in found):
        raise InvalidInput(f"upsert(key={key!r}): some rows have no key, or NaN, which equals nothing")
    return found
