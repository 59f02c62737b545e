"""The write path of one handle: buffers appended rows and updates, and turns them into versions.

Every public operation checks its input first and changes nothing when the check fails. A flush writes the files, then commits
one version; if the commit fails the rows stay buffered and the files are orphans, removed by a later expiry.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa

from lakefmt.cells import Rows
from lakefmt.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    NoSuchTensor,
    NotFound,
    ReadOnly,
    UnequalLengths,
    nearest,
)
from lakefmt.fragment.columns import Column, new_column
from lakefmt.fragment.meta import ColumnFile, Fragment, Overlay, Slice
from lakefmt.fragment.read import FileReader
from lakefmt.fragment.write import new_key, put_light, write_files
from lakefmt.htypes import TensorDef, define_tensor, extend_class_names
from lakefmt.pending import Live, Pending, Tail, extended
from lakefmt.rebase import class_edits, known, padded, remapped, runs_of, spread
from lakefmt.samples import prepare_batch, prepare_sample
from lakefmt.snapshot import Snapshot
from lakefmt.staging import Columns, Staged, as_columns, piece, step_rows
from lakefmt.versioning.changes import (
    AddTensor,
    Append,
    Change,
    Delete,
    EditTensor,
    Name,
    SetInfo,
    Update,
    WriteColumn,
)
from lakefmt.versioning.log import Log, Transaction
from lakefmt.versioning.records import State, Version

#: Bytes buffered before they are written, and so the size of a fragment. Bounds the memory of a writer.
FRAGMENT_NBYTES = 128 << 20
Build: TypeAlias = Callable[[State], list[Change]]


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
        self.snapshot = Snapshot(self.reader, version, self.url)
        self._lengths: dict[int, int] = {}

    # -- what is there -------------------------------------------------------------------------------------------------

    def definitions(self) -> Mapping[str, TensorDef]:
        """Tensors by name, with what pending samples have added to them."""
        edited = self.pending.definitions
        return {t.name: edited.get(t.id, t) for t in self.version.state.tensors} if edited else self.snapshot.definitions

    def definition(self, name: str) -> TensorDef:
        found = self.snapshot.definitions.get(name)
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
        started_s = time.monotonic()  # the transaction is as old as its first file
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
        cut = max(0, len(self.snapshot) - first)
        changes: list[Change] = []
        fresh: list[tuple[TensorDef, Column]] = []
        for definition, column in columns:
            if cut:
                changes += self._fill(self.snapshot, definition, column.slice(0, cut), first, {})
            if cut < len(column):
                fresh.append((definition, column.slice(cut, len(column)) if cut else column))
        if fresh:
            rows = max(len(c) for _, c in fresh)
            files = write_files(self.log.store, fresh, rows)
            changes.append(Append(Fragment(id=uuid.uuid4().hex, rows=rows, first_id=0, files=files)))
        return changes

    def _commit_staged(self, staged: list[Change], definitions: Mapping[str, TensorDef], started_s: float) -> None:
        edited = {d.id: d for d in definitions.values() if d is not self.snapshot.definitions[d.name]}

        def build(state: State) -> list[Change]:
            edits, remaps = class_edits(state, edited)
            if remaps:
                raise Conflict(
                    f"{self.url}: another writer added classes to {sorted(remaps)} meanwhile; nothing was committed: "
                    "refresh() and extend() again"
                )
            return [*edits, *staged]

        self._commit(Transaction(build, started_s=started_s))

    # -- changing stored rows ------------------------------------------------------------------------------------------

    def update(self, name: str, rows: Rows, values: Sequence[Any]) -> None:
        """New samples for some rows of a tensor. Buffered until the next flush."""
        with self.lock:
            self.own()
            definition = self.definition(name)
            if len(rows) != len(values):
                raise UnequalLengths(f"{len(rows)} rows of {name!r} cannot take {len(values)} samples")
            column = new_column(definition)
            for start, stop in runs_of(rows):  # a run at a time, so that an error can name its row
                definition, some = self._prepared(definition, values, start, stop, int(rows[start]))
                column = extended(Tail(0, column), start, some, definition).column
            column.own()
            tail = self.pending.tails.get(definition.id)
            if self._unknown or (len(rows) and int(rows.max()) >= (len(self.snapshot) if tail is None else tail.begin)):
                # a buffered sample becomes a stored one first; others may have moved the rows
                ids = self._stored_ids(rows)
                rows = self.snapshot.positions(ids)
            if len(rows):
                self._note(definition)
                self.pending.patch(definition, rows, column)
            if self.pending.nbytes >= FRAGMENT_NBYTES:
                self.flush()

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

            def build(state: State) -> list[Change]:
                return [Delete(self._deletions(state, ids))]

            self._commit(Transaction(build))

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
            fragment = next(f for f in self.version.state.fragments if f.id == self._appended)
            ids[~early] = fragment.first_id + rows[~early] - stored
        return ids

    def _deletions(self, state: State, ids: Rows) -> dict[str, Slice]:
        """One file with, for each fragment concerned, all offsets deleted from it so far."""
        snapshot = self._at(state)
        lists: dict[str, Rows] = {}
        for fragment in state.fragments:
            mine = ids[(ids >= fragment.first_id) & (ids < fragment.first_id + fragment.rows)] - fragment.first_id
            if len(mine):
                before = snapshot.offsets(fragment.deleted, fragment) if fragment.deleted else np.empty(0, np.int64)
                lists[fragment.id] = np.union1d(before, mine)
        if not lists:
            return {}
        table = pa.table({"_offset": pa.array(np.concatenate(list(lists.values())), pa.int64())})
        file = put_light(self.log.store, new_key("dv"), table)
        starts = np.cumsum([0, *(len(x) for x in lists.values())]).tolist()
        return {f: Slice(file=file, start=s, count=len(x)) for (f, x), s in zip(lists.items(), starts, strict=False)}

    # -- schema --------------------------------------------------------------------------------------------------------

    def create_tensor(self, name: str, *, exist_ok: bool = False, **options: Any) -> None:
        """A new tensor; rows that exist lack it (their samples are missing)."""
        with self.lock:
            if name in self.snapshot.definitions:
                if exist_ok:
                    return
                raise AlreadyExists(f"{self.url} has a tensor {name!r} already; pass exist_ok=True to keep it")
            group_of = [n for n in self.snapshot.definitions if n.startswith(name + "/") or name.startswith(n + "/")]
            if group_of:
                raise AlreadyExists(f"{name!r} cannot be both a tensor and a group: {group_of[0]!r} exists")
            taken = {t.id for t in self.version.state.tensors}
            field_id = next(i for i in iter(lambda: uuid.uuid4().int & 0x7FFFFFFF, -1) if i not in taken)
            definition = define_tensor(field_id, name, **options)
            self.flush()
            self._commit(Transaction(lambda state: [AddTensor(definition)]))

    def edit_tensor(self, name: str, **changes: Any) -> None:
        """Replace parts of a tensor's definition (info, class names)."""
        with self.lock:
            self.flush()
            field_id = self.definition(name).id

            def build(state: State) -> list[Change]:
                now = next((t for t in state.tensors if t.id == field_id), None)
                if now is None:
                    raise Conflict(f"tensor {name!r} was deleted meanwhile")
                classes = "class_names" in changes
                edited = extend_class_names(now, changes["class_names"]) if classes else msgspec.structs.replace(now, **changes)
                return [EditTensor(edited, only_classes=classes)]

            self._commit(Transaction(build))

    def set_info(self, info: Mapping[str, Any]) -> None:
        """Replace the dataset's metadata."""
        with self.lock:
            self.flush()
            self._commit(Transaction(lambda state: [SetInfo(dict(info))]))

    # -- versions ------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Store what is buffered, as one version."""
        with self.lock:
            self.settle()
            if self.pending and self._pid == os.getpid():
                self._commit(Transaction(self._flusher()))

    def commit(self, message: str | None) -> None:
        """Store what is buffered and name the version."""
        with self.lock:
            self.settle()
            build: Build = self._flusher() if self.pending else _only_name
            self._commit(Transaction(build, message=message, named=True))

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

    def _commit(self, txn: Transaction) -> None:
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

    def _flusher(self) -> Build:
        """A builder of the changes that store what is pending now; files are written once, and again only when class ids move."""
        pending, base = self.pending, self.snapshot
        made: dict[str, list[Change]] = {}

        def build(state: State) -> list[Change]:
            edits, remaps = class_edits(state, pending.definitions)
            key = repr(sorted((k, v.tolist()) for k, v in remaps.items()))
            if key not in made:
                made[key] = self._data_changes(pending, base, remaps)
            return [*edits, *made[key]]

        return build

    def _data_changes(self, pending: Pending, base: Snapshot, remaps: Mapping[str, Rows]) -> list[Change]:
        definitions = {t.id: pending.definitions.get(t.id, t) for t in base.version.state.tensors}
        stored = len(base)
        rows = pending.rows(stored) - stored
        fresh: list[tuple[TensorDef, Column]] = []
        changes: list[Change] = []
        for field_id, tail in pending.tails.items():
            definition = definitions[field_id]
            cut = min(max(0, stored - tail.begin), len(tail.column))
            if cut:
                changes += self._fill(base, definition, tail.column.slice(0, cut), tail.begin, remaps)
            if cut < len(tail.column):
                column = remapped(tail.column.slice(cut, len(tail.column)) if cut else tail.column, remaps.get(definition.name))
                gap = max(0, tail.begin - stored)
                fresh.append((definition, padded(column, definition, gap)))
        if rows:
            files = write_files(self.log.store, fresh, rows)
            self._appended = uuid.uuid4().hex
            changes.append(Append(Fragment(id=self._appended, rows=rows, first_id=0, files=files)))
        overlays: dict[str, tuple[Overlay, ...]] = {}
        for field_id, patches in pending.updates.items():
            at, column = patches.latest()
            column = remapped(column, remaps.get(definitions[field_id].name))
            for fragment, overlay in self._overlays(base, definitions[field_id], at, column).items():
                overlays[fragment] = (*overlays.get(fragment, ()), overlay)
        return [*changes, Update(overlays)] if overlays else changes

    def _fill(self, base: Snapshot, definition: TensorDef, column: Column, first: int, remaps: Mapping[str, Rows]) -> list[Change]:
        """Samples for stored rows from ``first`` on: whole columns for fragments that lack the tensor, else updates."""
        column = remapped(column, remaps.get(definition.name))
        rows = np.arange(first, first + len(column))
        index, offsets = base.locate(rows)
        files: dict[str, tuple[ColumnFile, ...]] = {}
        patched: list[Rows] = []
        patches = new_column(known(definition))
        bounds = np.flatnonzero(np.diff(index, prepend=-1, append=-1)).tolist()
        for start, stop in pairwise(bounds):
            fragment, here = base.fragments[int(index[start])], column.slice(start, stop)
            whole = fragment.field(definition.id) is None and not fragment.overlays_of(definition.id)
            if whole and offsets[start] == base.remaining(fragment)[0]:
                here = spread(here, definition, offsets[start:stop])
                files[fragment.id] = write_files(self.log.store, [(definition, here)], fragment.rows)
            else:
                patched.append(rows[start:stop])
                patches.extend(here)
        changes: list[Change] = [WriteColumn(files, definition.id)] if files else []
        if patched:
            overlays = self._overlays(base, definition, np.concatenate(patched), patches)
            changes.append(Update({f: (o,) for f, o in overlays.items()}, fills=True))
        return changes

    def _overlays(self, base: Snapshot, definition: TensorDef, rows: Rows, column: Column) -> dict[str, Overlay]:
        """Samples for some rows (ascending) of a tensor, as one set of files with a slice a fragment."""
        index, offsets = base.locate(rows)
        files = write_files(self.log.store, [(definition, column)], len(rows), folder="overlays", offsets=offsets)
        out: dict[str, Overlay] = {}
        bounds = np.flatnonzero(np.diff(index, prepend=-1, append=-1)).tolist()
        for start, stop in pairwise(bounds):
            at = Slice(file=files[0], start=start, count=stop - start)
            out[base.fragments[int(index[start])].id] = Overlay(field_id=definition.id, at=at, files=files)
        return out

    def _at(self, state: State) -> Snapshot:
        """A snapshot of a state that is no version yet (the one a rerun builds on)."""
        return Snapshot(self.reader, Version(self.version.head, state, ""), self.url)


def _only_name(state: State) -> list[Change]:
    return [Name()]
