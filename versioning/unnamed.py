"""Logs whose name was lost, and a name for them again.

Not every log without a name has lost it. A branch that is being made has only its first version, and so has one that was never
made; one that was deleted or squashed ends with a seal; of a branch that another copy has merged, a copy gets the versions alone.
"""

from __future__ import annotations

import time
import uuid

import msgspec

from lakefmt.errors import AlreadyExists
from lakefmt.versioning.log import MAIN, Log, sealed
from lakefmt.versioning.records import Branch, Version

#: What comes from another copy is given its name last: a log is not looked at before it has been at rest for so long.
_REST_S = 3600.0
replace = msgspec.structs.replace


def has_lost_name(log: Log, newest: Version, contained: int) -> bool:
    """Whether a log that was seen without a name, and not ended, should have one. Looks again: it may have been renamed just then.

    Args:
        newest: the last version that was seen.
        contained: up to which of its versions other branches have its work, -1 for none.
    """
    branch, v = newest.head.branch, newest.head.v
    first = branch == log.claim.dataset
    earlier = squashed_from(log, newest) if v == 0 else ()
    if v == 0 and log.claim.dataset not in earlier:  # nothing was committed there; or its branch was deleted during a squash
        return False
    if not first and newest.state.place != log.claim.place and (contained >= v or not _rests(log, branch)):
        return False
    named = log.refs.branches()
    if any(branch in (b.uuid, *b.earlier) for b in named):
        return False
    if v == 0 and earlier[-1] in {b.uuid for b in named}:  # a squash that goes on, or can be done again
        return False
    return sealed(log.head(branch, at_least=v).head) is None  # a branch is sealed before its name goes


def squashed_from(log: Log, version: Version) -> tuple[str, ...]:
    """The logs that were squashed into a version's log, the first one first."""
    found = [version.head.branch]
    places = {version.state.place, log.claim.place}
    while True:
        before = [b for b in version.state.contains if any(squash_uuid(b, p) == found[0] for p in places)]
        if not before:
            return tuple(found[:-1])
        found.insert(0, before[0])


def squash_uuid(branch_uuid: str, place: str) -> str:
    """Uuid of the log that a branch gets by a squash in some copy."""
    return uuid.uuid5(uuid.UUID(branch_uuid), f"squash {place}".strip()).hex


def _rests(log: Log, branch: str) -> bool:
    written = [e.modified_s for e in log.store.list(f"log/{branch}/")]
    return all(s is not None and s < time.time() - _REST_S for s in written)


def name_again(log: Log, branch_uuid: str, *, dry_run: bool) -> Branch | None:
    """Give a log a name: ``main`` for the first one or what it was squashed to, the name that what was squashed to it still has,
    else ``recovered-`` and how its uuid begins. It is the same whoever does it.

    Returns:
        The branch; ``None`` where it has a name by now, or was ended.

    Raises:
        LakeError: how the log begins cannot be read, or every such name is taken.
    """
    named = log.refs.branches()
    newest = log.head(branch_uuid, at_least=max(log.numbers(branch_uuid), default=0))
    if any(branch_uuid in (b.uuid, *b.earlier) for b in named) or sealed(newest.head) is not None:
        return None
    main = branch = Branch(name=MAIN, uuid=branch_uuid, created_ms=log.claim.created_ms)
    if branch_uuid != log.claim.dataset:
        first = log.read(branch_uuid, 0)
        earlier = squashed_from(log, first)
        branch = Branch(
            name="", uuid=branch_uuid, parent=first.head.parent, parent_v=first.head.parent_v, id_space=first.state.id_space,
            created_ms=main.created_ms if log.claim.dataset in earlier else first.head.ts_ms, earlier=earlier,
        )  # fmt: skip
    for b in named:
        if b.uuid in branch.earlier:
            branch = replace(branch, name=b.name)
            if not dry_run:
                log.refs.replace_branch(branch)
            return branch
    first_names = [MAIN] if log.claim.dataset in (branch.uuid, *branch.earlier) else []
    for name in (*first_names, *(f"recovered-{branch_uuid[:n]}" for n in (8, 16, len(branch_uuid)))):
        branch = replace(branch, name=name)
        if log.refs.find_branch(name) is None and log.refs.find_tag(name) is None and (dry_run or log.refs.create_branch(branch)):
            return branch
    raise AlreadyExists(f"{log.store.url} has branches or tags of all names that log/{branch_uuid}/ could be given; rename one")
