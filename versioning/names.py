"""Making, renaming and deleting branches and tags; versions by time.

Who names a version writes the name first and then looks whether an expiry has begun meanwhile; an expiry raises the floor first
and then looks for names. So one of them sees the other.
"""

from __future__ import annotations

import uuid
from bisect import bisect_right

import msgspec

from lakefmt.errors import AlreadyExists, Conflict, InvalidInput, NoSuchVersion, VersionExpired
from lakefmt.versioning.author import author
from lakefmt.versioning.changes import Seal
from lakefmt.versioning.clock import time_text
from lakefmt.versioning.encode import encode_version
from lakefmt.versioning.log import MAIN, Log, Transaction, new_id_space, now_ms, sealed, version_key
from lakefmt.versioning.records import FORMAT_VERSION, ID_SPACES, Branch, Head, Tag, Version
from lakefmt.versioning.refs import check_name, put_once
from lakefmt.versioning.unnamed import squash_uuid

#: Why the log of a branch was sealed that was taken back at once.
WITHDRAWN = "withdrawn"


def create_branch(log: Log, name: str, at: Version, message: str | None = None) -> tuple[Branch, Version]:
    """A new branch that begins as a copy of a version's state; no data moves.

    Raises:
        AlreadyExists: the name is taken.
        VersionExpired: the version's files may be gone.
    """
    check_name(name)
    taken = "branch" if log.refs.find_branch(name) else "tag" if log.refs.find_tag(name) else None
    if taken:
        hint = f"; checkout({name!r}) without create=True" if taken == "branch" else ""
        raise AlreadyExists(f"{log.store.url} has a {taken} {name!r} already{hint}")
    branch = Branch(
        name=name, uuid=uuid.uuid4().hex, parent=at.head.branch, parent_v=at.head.v,
        id_space=new_id_space(), created_ms=now_ms(),
    )  # fmt: skip
    version = _first_version(log, branch, at, message or f"branch {name!r} of {at.id}")
    if not log.refs.create_branch(branch):
        raise AlreadyExists(f"{log.store.url} has a branch {name!r} already; checkout({name!r}) without create=True")
    try:
        check_kept(log, at)  # the name was written first: an expiry that did not see it has raised the floor by now
    except VersionExpired:
        _end(log, branch, WITHDRAWN)  # another handle may have found it, and committed
        raise
    except NoSuchVersion:  # the dataset was deleted since it was opened, or another one is there
        log.refs.remove_branch(name)
        log.store.delete([version_key(branch.uuid, 0)])
        raise
    return branch, version


def _pinned(log: Log, at: Version) -> bool:
    """Whether a name keeps a version below the floor: a tag, or a lease that goes on, whose own check was passed."""
    place = (at.head.branch, at.head.v)
    kept = {(t.branch, t.v) for t in log.refs.tags() if t.checked}
    return place in kept | {(x.branch, x.v) for x in log.refs.leases() if x.checked and x.until_ms > now_ms()}


def _end(log: Log, branch: Branch, why: str) -> None:
    """Seal a branch's log, so that nothing is acknowledged on it any more, and take its name away."""
    head = log.head(branch.uuid)
    if not sealed(head.head):
        log.commit(head, Transaction(lambda version: [Seal(why)], operation="delete-branch", again=True))
    log.refs.remove_branch(branch.name)
    for other in log.refs.branches():  # a rename may have given it another name meanwhile
        if other.uuid == branch.uuid:
            log.refs.remove_branch(other.name)


def _first_version(log: Log, branch: Branch, at: Version, message: str, *, parent: bool = True) -> Version:
    head = Head(
        format_version=FORMAT_VERSION, dataset=log.claim.dataset, branch=branch.uuid, v=0, transaction=uuid.uuid4().hex,
        read_v=-1, previous=at.xxh64, ts_ms=max(now_ms(), at.head.ts_ms + 1), author=author(),
        message=message, rows=at.head.rows, readers=at.head.readers, writers=at.head.writers,
        parent=at.head.branch if parent else None, parent_v=at.head.v if parent else None,
        operation="branch" if parent else "squash", named=not parent,
    )  # fmt: skip
    contains = {**at.state.contains, at.head.branch: at.head.v}
    state = msgspec.structs.replace(
        at.state, next_row=0, id_space=branch.id_space, floor=0, contains=contains, place=log.claim.place
    )
    data, version = encode_version(head, state, at.inline)
    put_once(log.store, version_key(branch.uuid, 0), data)
    return version


def rename_branch(log: Log, old: str, new: str) -> Branch:
    """Another name for a branch; its versions, and handles on it, stay."""
    if old == MAIN:
        raise InvalidInput("the branch 'main' keeps its name: an address without a branch means it")
    check_name(new)
    branch = log.branch(old)
    if log.refs.find_tag(new) is not None:
        raise AlreadyExists(f"{log.store.url} has a tag {new!r} already")
    renamed = msgspec.structs.replace(branch, name=new, renamed_from=old, generation=branch.generation + 1)
    taken = log.refs.find_branch(new)
    if taken is not None and taken.uuid == branch.uuid and new != old:  # its own, left by a rename that was interrupted
        log.refs.replace_branch(renamed)
    elif not log.refs.create_branch(renamed):
        raise AlreadyExists(f"{log.store.url} has a branch {new!r} already")
    if sealed(log.head(branch.uuid).head):  # it was deleted meanwhile: that takes both names away, or we do
        log.refs.remove_branch(new)
        raise NoSuchVersion(f"{log.store.url}: branch {old!r} was deleted meanwhile")
    log.refs.remove_branch(old)
    return renamed


def delete_branch(log: Log, name: str) -> None:
    """Delete a branch. Its log is sealed first, so that no commit of another handle is acknowledged and then lost.

    Raises:
        Conflict: other branches began on it.
    """
    if name == MAIN:
        raise InvalidInput("the branch 'main' cannot be deleted")
    branch = log.branch(name)
    children = [b.name for b in log.refs.branches() if b.parent == branch.uuid]
    if children:
        raise Conflict(f"branch {name!r} has branches of its own ({', '.join(children)}); delete or merge these first")
    _end(log, branch, "deleted")


def create_tag(log: Log, name: str, at: Version, message: str | None = None) -> Tag:
    """Name a version; it is kept from expiry while the tag is there.

    Raises:
        AlreadyExists: the name is taken.
        VersionExpired: the version's files may be gone.
    """
    tag = Tag(name=name, branch=at.head.branch, v=at.head.v, message=message, author=author(), created_ms=now_ms())
    log.refs.create_tag(tag)
    try:
        check_kept(log, at)  # the tag was written first: an expiry that did not see it has raised the floor by now
    except NoSuchVersion:  # expired; or the dataset was deleted since it was opened
        log.refs.remove_tag(name)
        raise
    return log.refs.confirm_tag(tag)


def check_kept(log: Log, at: Version) -> None:
    """Refuse a version that an expiry may be removing.

    Raises:
        VersionExpired: it lies below its branch's floor, or its branch was ended (an expiry takes such a log without raising a
            floor in it, for nothing can be committed there), and nothing kept it before.
    """
    try:
        newest = log.head(at.head.branch, at_least=at.head.v)
    except VersionExpired:  # the version that ended the branch has gone itself
        why: str | None = "its branch was ended"
    else:
        ended = sealed(newest.head)
        below = 0 < at.head.v < newest.state.floor and not at.head.named  # the first of a branch does not expire
        why = f"its branch was {ended}" if ended else "it lies below the floor" if below else None
    if why is not None and not _pinned(log, at):
        raise VersionExpired(
            f"{log.store.url}: version {at.id} has expired ({why}); its files may be gone. Use a newer one, or one that has a tag"
        )


def at_time(log: Log, branch_uuid: str, ts_ms: int, until: int | None = None, earlier: tuple[str, ...] | None = None) -> Version:
    """The newest version of a branch (or of what it began on, or was squashed from) that is not younger than a time.

    Args:
        until: the last number that counts.
        earlier: logs that were squashed into this one; by default as the branch says.

    Raises:
        NoSuchVersion: the dataset is younger.
        VersionExpired: the version is gone.
    """
    newest = log.head(branch_uuid)
    numbers = range((newest.head.v if until is None else until) + 1)
    at = bisect_right(numbers, ts_ms, key=lambda n: log.heads(branch_uuid, [n])[0].ts_ms)
    if at:
        return log.read(branch_uuid, numbers[at - 1])
    first = log.heads(branch_uuid, [numbers[0]])[0]
    if first.parent is None and earlier is None:
        earlier = next((b.earlier for b in log.refs.branches() if b.uuid == branch_uuid), ())
    if first.parent is None and earlier:
        return at_time(log, earlier[-1], ts_ms, None, earlier[:-1])
    if first.parent is None:
        raise NoSuchVersion(f"{log.store.url} has no version as old as that; the first is of {time_text(first.ts_ms)}")
    return at_time(log, first.parent, ts_ms, first.parent_v)


def squash_branch(log: Log, name: str, message: str | None) -> tuple[Branch, Version]:
    """A new log for a branch, beginning with its newest rows; the old one is sealed. Done again, it goes on where it stopped.

    Raises:
        Conflict: other branches began on it.
    """
    branch = log.branch(name)
    children = [b.name for b in log.refs.branches() if b.parent == branch.uuid]
    if children:
        raise Conflict(f"branch {name!r} has branches of its own ({', '.join(children)}), which need its history; nothing was done")
    head = log.head(branch.uuid)
    if sealed(head.head) is None:
        head = log.commit(head, Transaction(lambda version: [Seal("squashed")], operation="squash", again=True))
    # who goes on after a crash, whoever it is, makes the same log; another copy of the dataset another one
    made = uuid.UUID(squash_uuid(branch.uuid, log.claim.place))
    fresh = Branch(
        name=name, uuid=made.hex, id_space=made.int % (ID_SPACES - 1) + 1, created_ms=branch.created_ms,
        earlier=(*branch.earlier, branch.uuid),
    )  # fmt: skip
    _first_version(log, fresh, head, message or f"squash of {head.id}", parent=False)
    log.refs.replace_branch(fresh)
    return fresh, log.head(fresh.uuid)
