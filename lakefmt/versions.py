"""Versions of a dataset as its users see them: commits, branches, tags, differences, merges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np

from lakefmt.cells import Rows
from lakefmt.errors import EmptyCommit, InvalidInput, NoSuchVersion, VersionExpired, nearest
from lakefmt.handle import Handle
from lakefmt.merge import RESOLUTIONS, Replay
from lakefmt.merge_base import Base, Reader, merge_base
from lakefmt.versioning.changes import Contain, Name, Restore
from lakefmt.versioning.diff import NO_ROWS, Diff, changes_between, diff_versions
from lakefmt.versioning.log import TRANSACTION_AGE_MAX_S, Nothing, Transaction
from lakefmt.versioning.names import at_time, check_kept, create_branch, create_tag, delete_branch, rename_branch, squash_branch
from lakefmt.versioning.records import Branch, Head, Tag, Version, version_id
from lakefmt.versioning.refs import parse_version_id

#: What changes no rows, so that there is nothing in it to name or to go back from.
_UPKEEP = ("compact", "expire", "fold", "settle")


class Versioned(Handle):
    """What a dataset handle offers on versions."""

    # -- where the handle stands ---------------------------------------------------------------------------------------

    @property
    def branch(self) -> str | None:
        """Name of the branch; ``None`` on a version."""
        return self._branch.name if self._branch else None

    @property
    def version_id(self) -> str:
        """Id of the version this handle stands on."""
        return self._writer.version.id

    commit_id = version_id

    @property
    def pending_commit_id(self) -> str:
        """Id that the next version of this branch has, if nobody else commits before."""
        head = self._writer.version.head
        return version_id(head.branch, head.v + 1)

    @property
    def has_head_changes(self) -> bool:
        """Whether there is anything since the last named commit: buffered rows, or flushed versions without a message."""
        return self._writer.unsettled or self._unnamed_changes()

    def _unnamed_changes(self) -> bool:
        """Whether there are versions since the last named one; what only keeps the files well (compaction, expiry) is no change."""
        head = self._writer.version.head
        while not head.named and head.v > 0:
            if head.operation not in _UPKEEP:
                return True
            head = self._log.heads(head.branch, [head.v - 1])[0]
        return False

    @property
    def is_head_node(self) -> bool:
        """Whether this handle stands on the newest version of a branch (as far as it has looked: see ``refresh``)."""
        return self._branch is not None

    # -- commits -------------------------------------------------------------------------------------------------------

    def commit(self, message: str | None = None, *, allow_empty: bool = False) -> str:
        """Store what is buffered and name the version; it is kept for good.

        Args:
            allow_empty: also where nothing has changed since the last named version.

        Returns:
            Id of the version.

        Raises:
            EmptyCommit: nothing has changed.
            Conflict: another writer changed the same thing meanwhile.
            CommitStateUnknown: the store does not tell whether the commit landed.
        """
        _check_message(message)
        with self._write().lock:
            if not (allow_empty or self.has_head_changes):
                raise EmptyCommit(
                    f"{self._url}: nothing has changed since {self.version_id}; "
                    "commit(allow_empty=True) makes a version all the same"
                )
            self._write().commit(message)
        return self.version_id

    def refresh(self) -> None:
        """See what other handles have committed to this branch. Buffered rows are stored first."""
        with self._writer.lock:
            self.flush()
            if self._branch is not None:
                self._writer.move_to(self._log.head(self._branch.uuid, at_least=self._writer.version.head.v))

    def checkout(self, address: str | None = None, *, create: bool = False, as_of: Any = None) -> str:
        """Stand on a branch, or on a version or tag (read-only). Buffered rows are stored on the branch left behind.

        Args:
            address: a branch name, a tag or a version id.
            create: make a branch of that name from where this handle stands.
            as_of: instead of an address: the newest version of this branch not younger than a time (a ``datetime``, ISO text, or
                seconds since the epoch). Without a time zone it is taken for UTC, as ``log()`` prints it.

        Returns:
            Id of the version now stood on.
        """
        if (address is None) == (as_of is None) or (create and address is None):
            raise InvalidInput("checkout() takes a branch name, tag or version id, or else as_of=")
        if address is not None and not isinstance(address, str):
            raise InvalidInput(f"checkout() takes a branch name, tag or version id, got {address!r}")
        with self._writer.lock:
            self.flush()
            if create:
                if self._read_only:
                    self._write()
                create_branch(self._log, str(address), self._writer.version)
            branch, version = self._found(str(address)) if address is not None else (None, self._as_of(as_of))
            self._writer.move_to(version)
            self._branch = branch
        return version.id

    def _as_of(self, as_of: Any) -> Version:
        return at_time(self._log, self._writer.version.head.branch, milliseconds(as_of))

    def _found(self, address: str) -> tuple[Branch | None, Version]:
        try:
            return self._resolve(address)
        except VersionExpired:
            raise
        except NoSuchVersion as error:
            if parse_version_id(address) is not None:
                raise
            raise NoSuchVersion(f"{error.args[0]} (checkout({address!r}, create=True) makes a branch)") from None

    def _resolve(self, address: str) -> tuple[Branch | None, Version]:
        return self._log.resolve(address)

    def _version(self, address: str | None) -> Version:
        """The version an address names; by default the one stood on, with what is buffered."""
        if address is None:
            self.flush()
            return self._writer.version
        if not isinstance(address, str):
            raise InvalidInput(f"a version is named by a branch, tag or version id, got {address!r}")
        return self._resolve(address)[1]

    # -- branches and tags ---------------------------------------------------------------------------------------------

    @property
    def branches(self) -> list[str]:
        """Names of all branches."""
        return [b.name for b in self._log.refs.branches()]

    def create_branch(self, name: str, version: str | None = None) -> None:
        """A branch that begins at a version (by default here), without standing on it. No data moves."""
        at = self._version(version)
        if self._read_only:
            self._write()
        create_branch(self._log, name, at)

    def delete_branch(self, name: str) -> None:
        """Delete a branch other than this one and ``main``. Its log is sealed first: a commit by another handle on it fails.

        Raises:
            Conflict: other branches began on it.
            InvalidInput: it is ``main``, or the branch stood on.
        """
        if self._read_only:
            self._write()
        found = self._log.refs.find_branch(name) if isinstance(name, str) else None
        if self._branch is not None and (name == self._branch.name or (found and found.uuid == self._branch.uuid)):
            raise InvalidInput(f"this handle stands on branch {name!r}: checkout('main') before deleting it")
        delete_branch(self._log, name)

    def rename_branch(self, name: str, new: str) -> None:
        """Another name for a branch; handles on it go on."""
        if self._read_only:
            self._write()
        renamed = rename_branch(self._log, name, new)
        if self._branch is not None and self._branch.uuid == renamed.uuid:
            self._branch = renamed

    def tag(self, name: str, version: str | None = None, *, message: str | None = None) -> str:
        """Name a version (by default this one, with what is buffered); it is opened as ``path@name`` and does not expire.

        Returns:
            Id of the version.

        Raises:
            AlreadyExists: the name is taken.
            VersionExpired: the version's files may be gone.
        """
        _check_message(message)
        if self._read_only:
            self._write()
        at = self._version(version)
        create_tag(self._log, name, at, message)
        return at.id

    @property
    def tags(self) -> dict[str, str]:
        """Tags: name to version id."""
        return {t.name: version_id(t.branch, t.v) for t in self._log.refs.tags()}

    def get_tag(self, name: str) -> Tag:
        """A tag with its message, author and time."""
        found = self._log.refs.find_tag(name)
        if found is None:
            raise NoSuchVersion(f"{self._url} has no tag {name!r}; {nearest(name, self.tags)}")
        return found

    def delete_tag(self, name: str) -> None:
        """Delete a tag; the version stays until it expires."""
        if self._read_only:
            self._write()
        self._log.refs.remove_tag(name)

    # -- history -------------------------------------------------------------------------------------------------------

    def history(self) -> list[Head]:
        """Every version back to the beginning, newest first."""
        return list(self._log.history(self._writer.version))

    @property
    def commits(self) -> list[dict[str, Any]]:
        """Named versions, newest first: ``{"commit", "author", "time", "message"}``."""
        return [commit_entry(h) for h in self.history() if h.named]

    def get_commit_details(self, commit_id: str) -> dict[str, Any]:
        """One version: ``{"commit", "author", "time", "message", "operation", "rows", "branch", "counts"}``.

        A commit counts what was done since the last named version before it.
        """
        version = self._version(commit_id)
        head = version.head
        names = {b.uuid: b.name for b in self._log.refs.branches()}
        # a commit with those that led to it; there is no need to look for them elsewhere
        since = next(commits_of(self._log.history(version))) if is_commit(head) else [head]
        return {
            **commit_entry(head), "operation": operation_of(since), "rows": head.rows, "branch": names.get(head.branch),
            "counts": counts_of(since),
        }  # fmt: skip

    def log(self, *, all: bool = False) -> None:
        """Print the named versions of this branch, newest first; with ``all``, flushes and what the system did too."""
        from lakefmt.show import print_log

        print_log(self, everything=all)

    # -- differences ---------------------------------------------------------------------------------------------------

    def diff(self, first: str | None = None, second: str | None = None) -> Diff:
        """What differs between two versions, per tensor.

        Args:
            first: a branch, tag or version id; by default the last named version: what has changed since the last commit. Given
                only ``second``, the named one before that.
            second: another; by default the current version. Buffered rows are stored first.

        Returns:
            Rows added, updated and deleted; it prints as a table, and ``as_dict()`` gives plain values.
        """
        self.flush()
        new = self._version(second)
        if first is not None:
            old = self._version(first)
        else:
            old = new if second is None and new.head.named else self._before(new)
        return diff_versions(self._log, old, new, self._reading())

    def diff_of(self, version: str | None = None) -> Diff:
        """What one version (by default the current one) changed: the difference from the version before it.

        A commit changed all that came since the last named version before it.
        """
        new = self._version(version)
        return diff_versions(self._log, self._parent(new), new, self._reading())

    def _modified(self, name: str, since: str) -> Rows:
        """Positions, in the current version, of rows whose sample of a tensor was added or changed since another version."""
        self.flush()
        now = self._writer.version
        definition = self._writer.definition(name)
        found = changes_between(self._log, self._version(since), now, self._reading()).get(definition.id, NO_ROWS)
        rows = self._writer.snapshot.present(np.union1d(found.added, found.updated))
        return np.sort(rows[rows >= 0])

    def _before(self, version: Version) -> Version:
        """The last named version before this one, else the beginning."""
        for head in self._log.history(version):
            if (head.branch, head.v) != (version.head.branch, version.head.v) and (head.named or head.v == 0):
                return self._log.read(head.branch, head.v)
        return version

    def _parent(self, version: Version) -> Version:
        """What a version is compared with to tell what it did."""
        head = version.head
        if is_commit(head) and head.v > 0:
            return self._before(version)
        if head.v > 0:
            return self._log.read(head.branch, head.v - 1)
        if head.parent is None or head.parent_v is None:
            raise InvalidInput(f"version {version.id} is the first: there is none before it")
        return self._log.read(head.parent, head.parent_v)

    # -- bringing work together ----------------------------------------------------------------------------------------

    def merge(self, source: str, conflict_resolution: str | None = None, *, message: str | None = None) -> str:
        """Bring the work of another branch, tag or version into this branch, row by row id.

        Rows added there are added; updated, updated; popped, popped. Tensors created, renamed and deleted likewise; class labels
        keep their names, whatever ids they have there. Merging the same thing again changes nothing.

        Args:
            source: what to merge.
            conflict_resolution: where both sides changed the same sample (or one changed a row that the other popped): ``"ours"``
                keeps this branch's, ``"theirs"`` takes the source's; ``None`` raises.
            message: of the commit; by default ``Merge <source> into <branch>``.

        Returns:
            Id of the version after it.

        Raises:
            MergeConflict: both sides changed the same rows, or the same definition. Nothing is merged; ``rows`` of the error has
                their row ids per tensor.
        """
        _check_resolution(conflict_resolution)
        _check_message(message)
        if not isinstance(source, str):
            raise InvalidInput(f"merge() takes a branch, tag or version id, got {source!r}")
        with self._write().lock:
            self.refresh()
            theirs = self._version(source)
            text = message or f"Merge {source} into {self.branch}"
            self._replay(None, theirs, conflict_resolution, text, "merge")
        return self.version_id

    def cherry_pick(self, version: str, conflict_resolution: str | None = None, *, message: str | None = None) -> str:
        """Do on this branch what one version of another did; a commit, all since the last named version before it.

        Args, returns and raises as for ``merge``.
        """
        _check_resolution(conflict_resolution)
        picked = self._version(version)
        text = message or picked.head.message or f"Cherry-pick {picked.id}"
        with self._write().lock:
            self._write().flush()
            self._replay(self._parent(picked), picked, conflict_resolution, text, "cherry-pick")
        return self.version_id

    def revert(self, version: str | None = None, conflict_resolution: str | None = None, *, message: str | None = None) -> str:
        """Undo what one version did (by default the newest that is stored), in a new version; what came after it stays.

        A commit did all that came since the last named version before it.

        Args, returns and raises as for ``merge``: samples that were changed again since are in conflict.
        """
        _check_resolution(conflict_resolution)
        undone = self._writer.version if version is None else self._version(version)  # not what is only buffered yet
        text = message or f"Revert {undone.id}" + (f" ({undone.head.message})" if undone.head.message else "")
        with self._write().lock:
            self._write().flush()
            self._replay(undone, self._parent(undone), conflict_resolution, text, "revert")
        return self.version_id

    def _replay(self, since: Version | None, source: Version, resolution: str | None, message: str, operation: str) -> None:
        """Bring what was done from one version to another on top of this branch.

        Args:
            since: where it begins; ``None``: where the two branches parted, which each new commit may change.
        """
        writer = self._writer
        reader = self._reading()
        given = None if since is None else Base(reader.at(since), reader)
        contains = {**source.state.contains, source.head.branch: source.head.v}

        def build(version: Version) -> list[Any]:
            brought: list[Any] = []
            if given is None:
                here = {**version.state.contains, version.head.branch: version.head.v}
                if here.get(source.head.branch, -1) >= source.head.v:
                    raise Nothing(f"all of {source.id} is in {version.id}")
                brought = [Contain({b: v for b, v in contains.items() if b != version.head.branch})]
            base = given or merge_base(self._log, version, source, reader)
            replay = Replay(
                self._log.store, base.snapshot, reader.at(source), writer.at(version),
                changes_between(self._log, base.version, source, base.reading),
                changes_between(self._log, base.version, version, base.reading), resolution, base.contested,
            )  # fmt: skip
            return [*replay.changes(), *brought] or [Name()]

        merged = (source.head.branch, source.head.v) if operation == "merge" else None
        txn = Transaction(
            build, message=message, named=True, operation=operation, merged=merged, again=True, inline=dict(source.inline),
            readers=frozenset(source.head.readers),
        )  # fmt: skip
        with self._pinned(source):
            writer.commit_changes(txn)

    @contextmanager
    def _pinned(self, version: Version) -> Iterator[None]:
        """Keep the files of a version from expiring until a commit that refers to them has landed."""
        head = version.head
        with self._log.refs.leased(head.branch, head.v, 2.0 * TRANSACTION_AGE_MAX_S, lambda: check_kept(self._log, version)):
            yield

    def _reading(self) -> Reader:
        return Reader(self._writer.reader, self._log.leaves, self._url)

    # -- going back ----------------------------------------------------------------------------------------------------

    def restore(self, version: str, *, force: bool = False, message: str | None = None) -> str:
        """Make this branch look as another version does, in a new version; nothing of its history is lost.

        Args:
            force: do it whatever other writers commit meanwhile (else such commits are a ``Conflict``).
        """
        _check_message(message)
        writer = self._write()
        with writer.lock:
            writer.flush()
            self._restore(self._version(version), message or f"Restore {version}", "restore", force=force)
        return self.version_id

    def _restore(self, old: Version, message: str | None, operation: str, *, force: bool) -> None:
        txn = Transaction(
            lambda _: [Restore(old.state)], message=message, named=True, operation=operation, again=force,
            inline=dict(old.inline), readers=frozenset(old.head.readers),
        )  # fmt: skip
        with self._pinned(old):
            self._writer.commit_changes(txn)

    def reset(self) -> str:
        """Go back to the last named commit: buffered rows are dropped, and versions flushed since are undone by a new version."""
        writer = self._write()
        with writer.lock:
            writer.discard()
            if self._unnamed_changes():
                old = self._before(writer.version)
                self._restore(old, f"Reset to {old.id}", "reset", force=False)
        return self.version_id

    def squash(self, message: str | None = None) -> str:
        """Make one version of this branch's history: a new log begins with the rows as they are now; the old one is sealed, and its
        versions, commits too, are let go by the next ``expire()``. Tags and saved views of old versions keep these.

        Raises:
            Conflict: other branches began on this one.
        """
        _check_message(message)
        writer = self._write()
        with writer.lock:
            writer.flush()
            assert self._branch is not None
            uuid = self._branch.uuid  # whatever name another handle has given it
            mine = next((b for b in self._log.refs.branches() if uuid in (b.uuid, *b.earlier)), None)
            if mine is None:
                raise NoSuchVersion(f"{self._url}: branch {self._branch.name!r} was deleted by another handle")
            if mine.uuid == uuid:
                branch, version = squash_branch(self._log, mine.name, message)
            else:  # it was done, by a call that was told of an error at its end
                branch, version = mine, self._log.head(mine.uuid)
            writer.move_to(version)
            self._branch = branch
        return self.version_id


def milliseconds(when: Any, what: str = "as_of=") -> int:
    """A time as milliseconds since the epoch: a ``datetime`` (naive: UTC), ISO text (also as ``log`` prints it), or seconds."""
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when.removesuffix(" UTC"))
        except ValueError:
            raise _no_time(when, what) from None
    if isinstance(when, datetime):
        return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
    if isinstance(when, (int, float)) and not isinstance(when, bool) and math.isfinite(when) and abs(when) < 1e12:
        return round(when * 1000)
    raise _no_time(when, what)


def _no_time(when: Any, what: str) -> InvalidInput:
    closed = ")" if "(" in what else ""
    return InvalidInput(f"{what}{when!r}{closed} is no time: give a datetime, ISO text such as '2026-01-31T12:00', or seconds")


def commit_entry(head: Head) -> dict[str, Any]:
    """A version as ``commits`` lists it."""
    return {
        "commit": version_id(head.branch, head.v), "author": head.author, "time": head.ts_ms / 1000, "message": head.message,
    }  # fmt: skip


def operation_of(heads: Sequence[Head]) -> str:
    """What a version did, in a word or two; with those without a name that led to it."""
    if heads[0].operation:
        return heads[0].operation
    done = dict.fromkeys(str(t.operation) for h in reversed(heads) for t in h.touched)
    of_users = [o for o in done if o not in ("name", "compact", "config")]
    return " + ".join(of_users or done) or "create"


def counts_of(heads: Sequence[Head]) -> dict[str, int]:
    """How many rows each operation concerned, in the order in which they were first done; ``heads`` begin with the newest."""
    counts: dict[str, int] = {}
    for t in (t for h in reversed(heads) for t in h.touched):
        counts[str(t.operation)] = counts.get(str(t.operation), 0) + t.rows
    return counts


def commits_of(heads: Iterable[Head]) -> Iterator[list[Head]]:
    """A history, newest first, in groups: each commit with the versions without a name that led to it, each other one alone."""
    group: list[Head] = []
    for head in heads:
        if group and (head.named or head.v == 0 or not is_commit(group[0])):
            yield group
            group = []
        group.append(head)
    if group:
        yield group


def is_commit(head: Head) -> bool:
    """Whether ``commit()`` made a version; merges, reverts and the like are named too, and did what they did in one version."""
    return head.named and not head.operation


def _check_message(message: str | None) -> None:
    if message is not None and not isinstance(message, str):
        raise InvalidInput(f"a commit message is a str, got {message!r}")
    try:
        (message or "").encode()
    except UnicodeEncodeError as e:
        raise InvalidInput(f"a commit message is stored as UTF-8, and {message!r} has a lone surrogate in it ({e.reason})") from e


def _check_resolution(resolution: str | None) -> None:
    if resolution not in RESOLUTIONS:
        raise InvalidInput(f"conflict_resolution={resolution!r}: use 'ours', 'theirs', or None to be told of conflicts")
