"""What keeps a dataset well: compaction, expiry, leases, checks and repairs, copies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lakefmt.compact import Part, plan, rewritten
from lakefmt.diverged import send_diverged
from lakefmt.errors import Corrupt, InvalidInput, counted
from lakefmt.handle import Handle
from lakefmt.place import COPIED, check_free
from lakefmt.storage import Store, cache_sizes, cached, open_store, parse_address
from lakefmt.transfer import Transfer, copy_all, copy_head, fetch_branch, send_branch
from lakefmt.versioning.changes import Change, Compact, Group
from lakefmt.versioning.check import Repair, Report, check
from lakefmt.versioning.check import repair as mend
from lakefmt.versioning.diff import differing
from lakefmt.versioning.expire import DATA_FOLDERS, GRACE_S, Expiry, expire
from lakefmt.versioning.leaves import Tree
from lakefmt.versioning.log import Log, Nothing, Transaction
from lakefmt.versioning.names import check_kept
from lakefmt.versioning.records import Lease, Version
from lakefmt.versions import milliseconds

#: Bytes rewritten a commit: what is done stays done when a long compaction is stopped.
_COMMIT_NBYTES = 1 << 30


@dataclass(frozen=True, slots=True, repr=False)
class Compaction:
    """What a compaction did, or would do.

    Attributes:
        parts: runs of fragments that become one each.
        fragments: fragments before and after.
        rows, nbytes: rows rewritten and bytes of their samples.
        done: whether it was carried out.
    """

    parts: tuple[Part, ...]
    fragments: tuple[int, int]
    rows: int
    nbytes: int
    done: bool

    def __repr__(self) -> str:
        if not self.parts:
            return "nothing to rewrite"
        verb = "rewrote" if self.done else "would rewrite"
        before, after = self.fragments
        deleted, overlays = sum(p.deleted for p in self.parts), sum(p.overlays for p in self.parts)
        return (
            f"{verb} {counted(self.rows, 'row')} ({counted(self.nbytes, 'byte')}) in {counted(len(self.parts), 'part')}: "
            f"{counted(before, 'fragment')} {'becomes' if before == 1 else 'become'} {after:,}; "
            f"{counted(deleted, 'deleted row')} and {counted(overlays, 'update')} folded in"
        )


class Kept(Handle):
    """What a dataset handle offers on its own upkeep."""

    def compact(self, *, dry_run: bool = False) -> Compaction:
        """Rewrite small fragments, and those with deleted or updated rows, as few clean ones. Rows keep their ids and order.

        What other writers change meanwhile is left as they made it. What was replaced stays for older versions, until ``expire()``.

        Args:
            dry_run: only tell what would be done.

        Returns:
            What was (or would be) rewritten; it prints as a sentence.
        """
        with self._writer.lock:
            self.flush()
            snapshot = self._writer.snapshot
            parts = plan(snapshot)
            before = len(snapshot.fragments)
            after = before - sum(p.fragments - (1 if p.rows else 0) for p in parts)
            rows, nbytes = sum(p.rows for p in parts), sum(p.nbytes for p in parts)
            if dry_run or not parts:
                return Compaction(tuple(parts), (before, after), rows, nbytes, done=False)
            writer = self._write()
            waiting: list[Group] = []
            size = 0
            for i, part in enumerate(parts):
                waiting.append(rewritten(self._log.store, snapshot, part.first, part.stop))
                size += part.nbytes
                if size >= _COMMIT_NBYTES or i == len(parts) - 1:
                    self._compacted(snapshot.version, tuple(waiting))
                    waiting, size = [], 0
            return Compaction(tuple(parts), (before, len(writer.snapshot.fragments)), rows, nbytes, done=True)

    def _compacted(self, planned: Version, groups: tuple[Group, ...]) -> None:
        """Commit what is still as it was when it was read; fragments that others changed since stay as they made them."""

        def build(version: Version) -> list[Change]:
            pairs = differing(self._log.leaves, planned.state, version.state)
            changed = {f.id for pair in pairs for f in pair if f is not None}
            # a tensor that was dropped when this was planned and has come back: what was written anew lacks it
            back = {t.id for t in version.state.tensors} - {t.id for t in planned.state.tensors}
            lacking = {f.id for f in Tree(planned.state, self._log.leaves) if any(map(f.holds, back))} if back else set()
            left = tuple(g for g in groups if changed.isdisjoint(g.old) and lacking.isdisjoint(g.old))
            if not left:
                raise Nothing("others have changed all of it")
            return [Compact(left)]

        self._writer.commit_changes(Transaction(build, operation="compact", again=True))

    def expire(
        self, older_than: Any = None, *, keep: int = 1, grace_s: float = GRACE_S, dry_run: bool = False
    ) -> Expiry:  # fmt: skip
        """Let old versions go, and remove the objects that only they, or nothing at all, referred to.

        Named commits, tags, leased versions, those that branches and saved views stand on, and the newest ones stay.

        Args:
            older_than: a ``timedelta`` (age), seconds, or a time (``datetime``, ISO text; UTC where it has no time zone). By
                default 7 days.
            keep: newest versions of each branch that stay in any case.
            grace_s: seconds for which unused objects stay; at least twice what a transaction may last (6 hours), or 0 when
                nobody else writes.
            dry_run: only tell what would go.

        Returns:
            What went (or would go).
        """
        if not isinstance(keep, int) or keep < 1:
            raise InvalidInput(f"expire(keep={keep!r}): keep at least the newest version of each branch")
        if not dry_run:
            self._write()
        self.flush()
        grace = _seconds(grace_s, f"expire(grace_s={grace_s!r})")
        done = expire(
            self._log, older_than_s=_age_s(older_than), keep=keep, grace_s=grace, dry_run=dry_run,
            views=lambda: [view.version for view in self.get_views()],  # type: ignore[attr-defined]
        )  # fmt: skip
        if not dry_run and self._branch is not None:
            self._writer.move_to(self._log.head(self._branch.uuid, at_least=self._writer.version.head.v))
        return done

    @contextmanager
    def lease(self, hours: float | timedelta = 24.0, *, holder: str | None = None) -> Iterator[Lease]:
        """Keep the version stood on from expiring while a block runs (a training run), at most for some hours.

        Args:
            hours: how long at most, should this process die; or a ``timedelta``.
            holder: who needs it, for those who look; by default host and process.

        Raises:
            VersionExpired: its files may be gone already.
        """
        seconds = _seconds(hours, f"lease(hours={hours!r})", unit_s=3600)
        if seconds <= 0:
            raise InvalidInput(f"lease(hours={hours!r}): give a time above 0")
        if holder is not None and not (isinstance(holder, str) and holder.isprintable()):
            raise InvalidInput(f"lease(holder={holder!r}): a holder is a line of text")
        head = self._writer.version.head
        version = self._writer.version
        with self._log.refs.leased(head.branch, head.v, seconds, lambda: check_kept(self._log, version), holder) as lease:
            yield lease

    @property
    def leases(self) -> list[Lease]:
        """All leases on versions of this dataset."""
        return self._log.refs.leases()

    def verify(self, *, full: bool = True) -> int:
        """Check what this version needs.

        Args:
            full: read every byte and compare checksums; else metadata and sizes only.

        Returns:
            Bytes checked.

        Raises:
            Corrupt: something is missing or damaged; the message names it.
        """
        self.flush()
        report = check(self._log, full=full, only=self._writer.version)
        if not report:
            found = [f"{p.key}: {p.detail}" for p in report.problems]
            some = "; ".join(found[:10]) + (" …" if len(found) > 10 else "")
            raise Corrupt(f"{self._url}: {len(found)} damaged: {some}. Restore from a copy")
        return report.nbytes

    def fsck(self, *, full: bool = False) -> Report:
        """Look over all branches and versions: the log, and all that it refers to.

        Args:
            full: read every byte and compare checksums; else metadata and sizes.

        Returns:
            A report: true when all is well; its ``problems`` name what is not.
        """
        return check(self._log, full=full)

    def repair(self, report: Report | None = None, *, dry_run: bool = False) -> Repair:
        """Mend what ``fsck`` found: a torn newest version object is set aside; files that are lost are taken out of the newest
        version, their samples missing from then on.

        Args:
            report: of ``fsck``; by default a fast one is made.
            dry_run: only tell what would be done.

        Raises:
            InvalidInput: this handle has rows buffered.

        Returns:
            What was done, what is lost, and what could not be mended.
        """
        if report is not None and not isinstance(report, Report):
            raise InvalidInput(f"repair({report!r}): give a report of fsck(), or nothing")
        if not dry_run and self._write().unsettled:
            raise InvalidInput(f"{self._url}: rows are buffered here; flush() or discard() them before repair()")
        done = mend(self._log, report if report is not None else check(self._log), dry_run=dry_run)
        if not dry_run and self._branch is not None:
            self._writer.move_to(self._log.head(self._branch.uuid))
        return done

    # -- copies --------------------------------------------------------------------------------------------------------

    def copy(self, path: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> Any:
        """Copy the rows of this version to a new dataset; its history stays here.

        Raises:
            AlreadyExists: there is a dataset at that place.
        """
        from lakefmt.dataset import Dataset

        self.flush()
        to = _place(path, storage_options)
        check_free(to, parse_address(path).base, COPIED)
        to = cached(to, getattr(self._log.store, "sizes", None) or cache_sizes(None, 0), DATA_FOLDERS)
        log, version, _ = copy_head(self._log, self._writer.version, to, None)
        return Dataset(log, parse_address(path).base, log.branch("main"), version)

    def deepcopy(self, path: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> Transfer:
        """Copy everything: versions, branches, tags, views. Interrupted, it goes on where it stopped when done again; done to an
        older copy, only what is missing goes.
        """
        self.flush()
        to = _place(path, storage_options)
        check_free(to, parse_address(path).base, COPIED)
        return copy_all(self._log, to)

    def push(
        self, path: str | os.PathLike[str], *, as_branch: str | None = None, storage_options: Mapping[str, Any] | None = None
    ) -> Transfer:  # fmt: skip
        """Send the commits of this branch to a copy of this dataset (made by ``deepcopy``). Only missing objects travel.

        Args:
            as_branch: where both have committed to this branch since: send what this one has since they parted as a branch of that
                name, to be merged there.

        Raises:
            Conflict: the copy has commits of its own on this branch.
        """
        self.flush()
        to, name = self._other(path, storage_options), self._branch_name()
        return send_branch(self._log, to, name) if as_branch is None else send_diverged(self._log, to, name, as_branch)

    def pull(
        self, path: str | os.PathLike[str], *, as_branch: str | None = None, storage_options: Mapping[str, Any] | None = None
    ) -> Transfer:  # fmt: skip
        """Fetch the commits that a copy of this dataset has on this branch, and stand on the newest.

        Args:
            as_branch: where both have committed to this branch since: fetch what the copy has since they parted as a branch of that
                name, to be merged; this branch stays as it is.

        Raises:
            Conflict: this branch has commits that the copy lacks.
        """
        writer = self._write()
        with writer.lock:
            self.flush()
            assert self._branch is not None
            source = self._other(path, storage_options)
            if as_branch is not None:
                return send_diverged(source, self._log, self._branch.name, as_branch)
            done = fetch_branch(source, self._log, self._branch)
            branch = self._log.branch(self._branch.name)  # a squash there has given it another log
            writer.move_to(self._log.head(branch.uuid, at_least=writer.version.head.v if branch.uuid == self._branch.uuid else 0))
            self._branch = branch
        return done

    def _branch_name(self) -> str:
        if self._branch is None:
            raise InvalidInput("this handle stands on a version: checkout() the branch to push")
        return self._branch.name

    def _other(self, path: str | os.PathLike[str], options: Mapping[str, Any] | None) -> Log:
        return Log.open(_place(path, options))


def look_over(path: str, *, full: bool = False, repair: bool = False) -> tuple[Report, Repair | None]:
    """Check a dataset by its address, also one whose newest version does not open; and mend it if asked to."""
    log = Log.open(open_store(parse_address(path).base))
    report = check(log, full=full)
    return report, mend(log, report) if repair and not report else None


def _place(path: str | os.PathLike[str], options: Mapping[str, Any] | None) -> Store:
    """The store of a whole dataset's address."""
    address = parse_address(path)
    if address.at or address.view:
        raise InvalidInput(f"{str(address)!r} names a version or view; give the dataset, {address.base!r}")
    return open_store(address.base, dict(options) if options else None)


def _seconds(given: Any, what: str, unit_s: int = 1) -> float:
    """A length of time: a ``timedelta``, or a number of units."""
    if isinstance(given, timedelta):
        given, unit_s = given.total_seconds(), 1
    if isinstance(given, (int, float)) and not isinstance(given, bool) and abs(given * unit_s) <= 1e10:
        return float(given * unit_s)
    raise InvalidInput(f"{what}: give a number (of no more than 300 years) or a timedelta")


def _age_s(older_than: Any) -> float:
    if older_than is None:
        return 7 * 24 * 3600.0
    if isinstance(older_than, (int, float, timedelta)) and not isinstance(older_than, bool):
        return _seconds(older_than, f"expire(older_than={older_than!r})")
    now_s = datetime.now().astimezone().timestamp()
    return now_s - milliseconds(older_than, "expire(older_than=") / 1000
