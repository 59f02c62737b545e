"""The write path of one handle: buffers appended rows and updates, and turns them into versions.

Every public operation checks its input first and changes nothing when the check fails. A flush writes the files, then commits
one version; if the commit fails the rows stay buffered and the files are orphans, removed by a later expiry.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from lakefmt.cells import Rows
from lakefmt.errors import (
    Conflict,
    InvalidInput,
    LakeError,
    NoSuchTensor,
    NotFound,
    ReadOnly,
    UnequalLengths,
    VersionExpired,
    nearest,
)
from lakefmt.fragment.columns import Column, new_column
from lakefmt.fragment.meta import Fragment
from lakefmt.fragment.read import FileReader
from lakefmt.fragment.write import write_files
from lakefmt.htypes import TensorDef
from lakefmt.outgoing import Outgoing, deletions, fill, fold_due, folded, pending_changes
from lakefmt.pending import Live, Pending, Tail, extended
from lakefmt.rebase import class_edits, runs_of
from lakefmt.samples import prepare_batch, prepare_sample
from lakefmt.snapshot import Snapshot
from lakefmt.staging import Columns, Staged, as_columns, piece, step_rows
from lakefmt.versioning.changes import (
    Append,
    Change,
    Name,
)
from lakefmt.versioning.clock import clock_s
from lakefmt.versioning.expire import keys_of
from lakefmt.versioning.log import Log, Nothing, Transaction
from lakefmt.versioning.records import Version

#: Bytes buffered before they are written, and so the size of a fragment. Bounds the memory of a writer.
FRAGMENT_NBYTES = 128 << 20
Build: TypeAlias = Callable[[Version], list[Change]]


class Writer:
    """Buffer and commits of one handle. Thread-safe."""

    def __init__(self, log: Log, version: Version, reader: FileReader, url: str) -> None:
        self.log = log
        self.reader = reader
        self.url = url
        self.lock = threading.RLock()
        self.pending = Pending()
        self._pid = self._child_pid = os.getpid()
        self._unknown: Transaction | None = None
        self._appended = ""
        self.version = version
        reader.explain = lambda file: self._why_gone(file.key)
        log.leaves.explain = lambda leaves: self._why_gone(leaves[0].key) if leaves else None
        self.move_to(version)

    def move_to(self, version: Version) -> None:
        """Stand on a version. Nothing may be pending: positions of buffered rows are relative to the version below them."""
        if self.pending:
            raise Conflict(f"{self.url}: rows are buffered on top of version {self.version.id}; flush() or discard() them first")
        self._stand(version)

    def _land(self, version: Version) -> None:
        """Stand on the version that holds what was pending. In this order: a reader sees the buffered rows, or waits for the lock,
        until the snapshot has them.
        """
        self._stand(version)
        self.pending, self._unknown = Pending(), None

    def _stand(self, version: Version) -> None:
        self.version = version
        self.snapshot = Snapshot(self.reader, version, self.url, self.log.leaves)
        self._lengths: dict[int, int] = {}

    # -- what is there -------------------------------------------------------------------------------------------------

    def definitions(self) -> Mapping[str, TensorDef]:
        """Tensors by name, with what pending samples have added to them."""
        edited = self.pending.definitions
        return {t.name: edited.get(t.id, t) for t in self.version.state.tensors} if edited else self.snapshot.definitions

    def definition(self, name: str) -> TensorDef:
        found = self.snapshot.definitions.get(name) if isinstance(name, str) else None
        if found is None:
            raise NoSuchTensor(
                f"{self.url} has no tensor {name!r}; {nearest(name, self.snapshot.definitions)} "
                f"(create_tensor({name!r}, …) makes it)"
            )
        return self.pending.definitions.get(found.id, found)

    def live(self) -> Live | Snapshot:
        """The rows as this handle sees them now."""
        if not self.pending and self._pid == os.getpid():
            return self.snapshot
        with self._guard():
            return self._live()

    def _guard(self) -> threading.RLock:  # type: ignore[valid-type, unused-ignore]
        """The lock; a fresh one in a forked child, where a thread of the parent may have held it."""
        if self._pid != os.getpid() and self._child_pid != os.getpid():
            self.lock, self._child_pid = threading.RLock(), os.getpid()
        return self.lock

    def _live(self) -> Live | Snapshot:
        return Live(self.snapshot, self.pending, self.definitions()) if self.pending else self.snapshot

    @property
    def rows(self) -> int:
        """Rows, buffered ones included."""
        with self._guard():
            return self.pending.rows(len(self.snapshot))

    def tensor_rows(self, name: str) -> int:
        """Length of one tensor."""
        with self._guard():
            definition = self.definition(name)
            tail = self.pending.tails.get(definition.id)
            return tail.end if tail is not None else self._stored_rows(definition)

    def pending_rows(self, name: str) -> Rows:
        """Rows with a buffered sample of a tensor."""
        with self._guard():
            field_id = self.definition(name).id
            tail = self.pending.tails.get(field_id)
            appended = np.arange(tail.begin, tail.end) if tail is not None else np.empty(0, np.int64)
            patches = self.pending.updates.get(field_id)
            return appended if patches is None else np.concatenate([patches.rows(), appended])

    def _stored_rows(self, definition: TensorDef) -> int:
        if definition.id not in self._lengths:
            self._lengths[definition.id] = self.snapshot.tensor_rows(definition.name)
        return self._lengths[definition.id]

    # -- appending -----------------------------------------------------------------------------------------------------

    def append(self, row: Mapping[str, Any], *, skip_ok: bool = False, append_empty: bool = False) -> None:
        """One row. All of it is accepted, or none."""
        with self.lock:
            self.own()
            self.settle()
            names = self._row_names(row, skip_ok=skip_ok, append_empty=append_empty)
            at = self.rows
            prepared = [prepare_sample(self.definition(n), row.get(n), row=at) for n in names]
            self._accept(prepared, lambda: self.rows)

    def extend(self, columns: Any, *, skip_ok: bool = False, append_empty: bool = False) -> None:
        """Many rows. All of them are accepted, or none."""
        with self.lock:
            self.own()
            self.settle()
            table = as_columns(columns)
            names = self._row_names(table, skip_ok=skip_ok, append_empty=append_empty)
            lengths = {n: len(table[n]) for n in names if n in table}
            if len(set(lengths.values())) > 1:
                raise UnequalLengths(f"extend(): columns differ in length: {lengths}; give every tensor as many samples")
            if not lengths or not next(iter(lengths.values())):
                return
            rows = next(iter(lengths.values()))
            values = {n: table[n] if n in table else [None] * rows for n in names}
            self._extend(values, rows, lambda: self.rows)

    def extend_tensor(self, name: str, values: Any) -> None:
        """Samples for one tensor, after its last one; other tensors may be shorter or longer."""
        with self.lock:
            self.own()
            self.settle()
            if not hasattr(values, "__len__") or not hasattr(values, "__getitem__"):
                if not hasattr(values, "__iter__"):
                    raise InvalidInput(f"tensor {name!r}: extend() takes a sequence of samples, got {values!r}; append() takes one")
                values = list(values)
            if len(values):
                self._extend({name: values}, len(values), lambda: self.tensor_rows(name))

    def append_tensor(self, name: str, value: Any) -> None:
        """One sample for one tensor, after its last one."""
        with self.lock:
            self.own()
            self.settle()
            at = self.tensor_rows(name)
            self._accept([prepare_sample(self.definition(name), value, row=at)], lambda: self.tensor_rows(name))

    def _row_names(self, given: Mapping[str, Any], *, skip_ok: bool, append_empty: bool) -> list[str]:
        if not isinstance(given, Mapping):
            raise InvalidInput(f"a row is a dict of tensor name to sample, got {type(given).__name__}")
        known = self.snapshot.definitions
        for name in given:
            if name not in known:
                self.definition(name)  # raises
        absent = [n for n in known if n not in given]
        if absent and not (skip_ok or append_empty):
            raise NoSuchTensor(
                f"the row has no sample for {', '.join(map(repr, absent))}; give it (None for a missing one), or pass "
                "append_empty=True to store missing samples, or skip_ok=True to leave these tensors shorter"
            )
        return list(known) if append_empty else [n for n in known if n in given]

    def _accept(self, prepared: Sequence[tuple[TensorDef, Column]], place: Callable[[], int]) -> None:
        """Take checked samples into the buffer: all of them, or (on any error, an interrupt too) none.

        A buffer that would overflow is stored first, so that a store that fails leaves this call's rows out. ``place`` then gives
        the row they begin at.
        """
        if self.pending and self.pending.nbytes + sum(c.nbytes for _, c in prepared) >= FRAGMENT_NBYTES:
            self.flush()
        for _, column in prepared:
            column.own()
        at, pending = place(), self.pending
        before = {i: (tail, tail.column, len(tail.column)) for i, tail in pending.tails.items()}
        definitions = dict(pending.definitions)
        try:
            for definition, column in prepared:
                pending.tails[definition.id] = extended(pending.tails.get(definition.id), at, column, definition)
                self._note(definition)
        except BaseException:
            for tail, column, length in before.values():
                column.truncate(length)
                tail.column = column
            pending.tails = {i: tail for i, (tail, _, _) in before.items()}
            pending.definitions = definitions
            raise

    def _note(self, definition: TensorDef) -> None:
        """Remember what samples added to a definition (a dtype, class names)."""
        if definition is not self.snapshot.definitions.get(definition.name):
            self.pending.definitions[definition.id] = definition

    def _extend(self, values: Mapping[str, Any], rows: int, place: Callable[[], int]) -> None:
        """Check all, in pieces bounded in bytes; pieces that fill a fragment are written at once, committed together."""
        with Staged(self._piece_changes) as ready:
            self._extend_into(ready, values, rows, place)

    def _extend_into(self, ready: Staged, values: Mapping[str, Any], rows: int, place: Callable[[], int]) -> None:
        at = place()
        started_s = clock_s()  # the transaction is as old as its first file
        staged: dict[int, tuple[TensorDef, Column]] = {}
        definitions = {n: self.definition(n) for n in values}
        start = sent = 0
        while start < rows:
            stop = min(rows, start + step_rows(values, rows, FRAGMENT_NBYTES))
            for name in values:
                definition, column = prepare_batch(definitions[name], piece(values[name], start, stop), first_row=at + start)
                definitions[name] = definition
                before = staged.get(definition.id)
                if before is not None:
                    column = extended(Tail(0, before[1]), len(before[1]), column, definition).column
                staged[definition.id] = (definition, column)
            start = stop
            full = sum(c.nbytes for _, c in staged.values()) >= FRAGMENT_NBYTES
            if full and (start < rows or ready or not self.pending):
                if self.pending and not ready:
                    self.flush()  # earlier rows come first
                    at = place()
                ready.add(list(staged.values()), at + sent)
                sent, staged = start, {}
        if ready:
            if staged:
                ready.add(list(staged.values()), at + sent)
            self._commit_staged(ready.done(), definitions, started_s)
            return
        self._accept(list(staged.values()), place)

    def _piece_changes(self, columns: Columns, first: int) -> list[Change]:
        """Files for samples of rows from ``first`` on: some for rows that are stored already, the rest for a new fragment."""
        out = Outgoing(self.log.store, self.snapshot, self.snapshot)
        cut = max(0, len(self.snapshot) - first)
        changes: list[Change] = []
        fresh: list[tuple[TensorDef, Column]] = []
        for definition, column in columns:
            if cut:
                changes += fill(out, definition, column.slice(0, cut), first)
            if cut < len(column):
                fresh.append((definition, column.slice(cut, len(column)) if cut else column))
        if fresh:
            rows = max(len(c) for _, c in fresh)
            files = write_files(self.log.store, fresh, rows)
            changes.append(Append(Fragment(id=uuid.uuid4().hex, rows=rows, first_id=0, files=files)))
        return changes

    def _commit_staged(self, staged: list[Change], definitions: Mapping[str, TensorDef], started_s: float) -> None:
        edited = {d.id: d for d in definitions.values() if d is not self.snapshot.definitions[d.name]}

        def build(version: Version) -> list[Change]:
            edits, remaps = class_edits(version.state, edited)
            if remaps:
                raise Conflict(
                    f"{self.url}: another writer added classes to {sorted(remaps)} meanwhile; nothing was committed: "
                    "refresh() and extend() again"
                )
            return [*edits, *staged]

        self.commit_changes(Transaction(build, started_s=started_s))

    # -- changing stored rows ------------------------------------------------------------------------------------------

    def update(self, name: str, rows: Rows, values: Sequence[Any]) -> None:
        """New samples for some rows of a tensor, buffered until the next flush. Rows past the end of a short tensor are added
        to it, those between missing.
        """
        with self.lock:
            self.own()
            self.settle()
            if len(rows) != len(values):
                raise UnequalLengths(f"{len(rows)} rows of {name!r} cannot take {len(values)} samples")
            if len(rows) and int(rows.max()) >= self.tensor_rows(name):
                self._continue(name, rows, values)
            else:
                self._patch(*self.column(self.definition(name), rows, values), rows)

    def _continue(self, name: str, rows: Rows, values: Sequence[Any]) -> None:
        """New samples for rows some of which lie past the end of a short tensor.

        Rows are known by their ids where something is stored on the way: that lands on top of what others have committed.
        """
        length = self.tensor_rows(name)
        self.column(self.definition(name), rows, values)  # checked before anything is taken
        new = rows >= length
        there = np.flatnonzero(new)
        if not new.all() or int(rows.min()) > length:
            ids = self._stored_ids(rows)
            rows = self.snapshot.positions(ids)
            if not new.all():
                old = np.flatnonzero(~new)
                self._patch(*self.column(self.definition(name), rows[old], [values[i] for i in old.tolist()]), rows[old])
                self.flush()
                rows = self.snapshot.positions(ids)
            length = self.tensor_rows(name)
            if int(rows[there].min()) < length:
                raise Conflict(f"{self.url}: another writer continued tensor {name!r} meanwhile; refresh() and assign again")
        self.extend_tensor(name, _placed(rows[there] - length, there, values))

    def _patch(self, definition: TensorDef, column: Column, rows: Rows) -> None:
        """Buffer checked samples for rows that have, or could have, one."""
        tail = self.pending.tails.get(definition.id)
        buffered = len(self.snapshot) if tail is None else min(tail.begin, len(self.snapshot))
        if len(rows) and int(rows.max()) >= buffered:
            # a buffered row becomes a stored one first; others may have moved the rows
            ids = self._stored_ids(rows)
            rows = self.snapshot.positions(ids)
        if len(rows):
            self._note(definition)
            self.pending.patch(definition, rows, column)
        if self.pending.nbytes >= FRAGMENT_NBYTES:
            self.flush()

    def column(self, definition: TensorDef, rows: Rows, values: Sequence[Any]) -> tuple[TensorDef, Column]:
        """Samples for some rows, checked; and the definition with what they add to it."""
        column = new_column(definition)
        for start, stop in runs_of(rows):  # a run at a time, so that an error can name its row
            definition, some = self._prepared(definition, values, start, stop, int(rows[start]))
            column = extended(Tail(0, column), start, some, definition).column
        column.own()
        return definition, column

    @staticmethod
    def _prepared(definition: TensorDef, values: Sequence[Any], start: int, stop: int, row: int) -> tuple[TensorDef, Column]:
        if stop - start == 1:
            return prepare_sample(definition, values[start], row=row)
        return prepare_batch(definition, values[start:stop], first_row=row)

    def delete(self, rows: Rows) -> None:
        """Delete rows by position."""
        with self.lock:
            self.own()
            ids = self._stored_ids(np.unique(rows))
            self.commit_changes(Transaction(lambda version: deletions(self.log.store, self.at(version), ids)))

    def _stored_ids(self, rows: Rows) -> Rows:
        """Row ids of positions as this handle shows them, buffered rows (which are stored for it) included.

        Ids are taken before anything is flushed: a flush lands on top of what others committed, which moves positions.
        """
        stored = len(self.snapshot)
        ids = np.empty(len(rows), np.int64)
        early = rows < stored
        ids[early] = self.snapshot.row_ids(rows[early])
        self.flush()
        if not early.all():
            first = self._appended_first()
            ids[~early] = first + rows[~early] - stored
        return ids

    def _appended_first(self) -> int:
        """Row id of the first of the rows appended last, wherever a compaction has put them since."""
        state = self.version.state
        branch, v = self.version.head.branch, self.version.head.v
        while v >= 0:
            found = next((f.first_id for f in state.fragments if f.id == self._appended), None)
            if found is not None:
                return found
            v -= 1
            state = self.log.read(branch, v).state
        raise Conflict(f"{self.url}: the rows buffered last are not in the log any more; refresh() and redo")

    # -- versions ------------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        """Whether something is buffered, or the outcome of a commit is not known yet."""
        return bool(self.pending) or self._unknown is not None

    def flush(self) -> None:
        """Store what is buffered, as one version."""
        with self.lock:
            self.settle()
            if self.pending and self._pid == os.getpid():
                inline: dict[str, bytes] = {}
                self._commit(Transaction(self._flusher(inline), inline=inline))

    def commit(self, message: str | None) -> None:
        """Store what is buffered and name the version."""
        with self.lock:
            self.settle()
            build = self._flusher(None)
            self._commit(Transaction(lambda version: build(version) or [Name()], message=message, named=True))

    def fold(self) -> None:
        """Write the rows that lie in the version object into files of their own."""
        with self.lock:
            self.flush()
            if self.version.inline:
                store = self.log.store
                self.commit_changes(Transaction(lambda version: folded(store, self.at(version)) or [Name()], operation="fold"))

    def _why_gone(self, key: str) -> LakeError | None:
        """Why a file is missing: because the version that is read has expired, perhaps."""
        newest = self.log.head(self.version.head.branch)
        if newest.state.floor == 0 or any(leaf.key == key for leaf in newest.state.leaves):
            return None
        if not key.startswith("meta/") and key in keys_of(self.log, newest.state, set()):
            return None
        return VersionExpired(
            f"{self.url}: the version that is read here (at most {self.version.id}) has expired and {key} was removed; "
            "refresh(), or checkout() a newer version. lease() keeps a version for a long run"
        )

    def settle(self) -> None:
        """Bring a commit to an end whose outcome the store did not tell, or an interrupt hid.

        The same bytes are put to the same slot again: either they are there (or land now), and what was pending is stored, or
        another writer has the slot, and nothing of it can land any more.
        """
        if self._unknown is not None:
            newest = self.log.settle(self._unknown)
            if newest is None:
                self._unknown = None
            else:
                self._land(newest)

    def commit_changes(self, txn: Transaction) -> bool:
        """Store what is buffered, commit a transaction on top, and stand on the version it made.

        Returns:
            Whether there was anything to commit; if not, the handle stands on the newest version.
        """
        with self.lock:
            self.flush()
            try:
                self._commit(txn)
            except Nothing:
                self.move_to(self.log.head(self.version.head.branch, at_least=self.version.head.v))
                return False
            return True

    def _commit(self, txn: Transaction) -> None:
        """Commit a transaction that what is pending is part of."""
        if self._pid != os.getpid():
            raise ReadOnly(f"{self.url}: this handle was opened before a fork; open the dataset again in the child to write")
        self._unknown = txn  # until the outcome is known here: an interrupt may come at any moment
        try:
            version = self.log.commit(self.version, txn)
        except (Conflict, NotFound):
            self._unknown = None  # certainly not committed
            raise
        self._land(version)

    def discard(self) -> None:
        """Drop what is buffered."""
        with self.lock:
            self.settle()
            self.pending = Pending()

    def own(self) -> None:
        """Refuse to buffer in a forked child: the buffer belongs to the parent, and nobody would store the child's rows."""
        if self._pid != os.getpid():
            raise ReadOnly(f"{self.url}: this handle was opened before a fork; open the dataset again in the child to write")

    def _flusher(self, inline: dict[str, bytes] | None, pending: Pending | None = None) -> Build:
        """A builder of the changes that store what is pending now; files are written once, and again only when rows have moved
        to other fragments, or class ids were given otherwise.

        Args:
            inline: takes files that go into the version object; ``None``: rows go into files of their own, earlier ones too.
            pending: what is to be stored; by default what is buffered.
        """
        pending, base = self.pending if pending is None else pending, self.snapshot
        touched = pending.touched(len(base))
        made: dict[object, list[Change]] = {}

        def build(version: Version) -> list[Change]:
            edits, remaps = class_edits(version.state, pending.definitions)
            at = self.at(version)
            out = Outgoing(self.log.store, base, at, remaps, inline)
            index, _ = out.places(touched)
            homes = tuple(at.fragments[i].id for i in np.unique(index[index >= 0]).tolist())
            key = (repr(sorted((k, v.tolist()) for k, v in remaps.items())), homes)
            if key not in made:
                made[key], self._appended = pending_changes(out, pending)
            due = inline is None or fold_due(version)
            return [*(folded(self.log.store, at, leave=homes) if due else []), *edits, *made[key]]

        return build

    def at(self, version: Version) -> Snapshot:
        """A snapshot of a version that a transaction is built on."""
        return self.snapshot if version is self.version else Snapshot(self.reader, version, self.url, self.log.leaves)


def _placed(places: Rows, chosen: Rows, values: Sequence[Any]) -> Sequence[Any]:
    """The chosen ones of some samples in a row, each at its place, missing ones between."""
    if np.array_equal(places, np.arange(len(places))) and len(chosen) == len(values):
        return values
    out: list[Any] = [None] * (int(places.max()) + 1)
    for place, i in zip(places.tolist(), chosen.tolist(), strict=True):
        out[place] = values[i]
    return out
