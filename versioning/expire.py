"""Expiry: old versions are let go, and what nothing refers to any more is removed.

Order is everything. The floor of every branch is raised first (a commit like any other), and names are listed after it: who tags or
branches an old version writes the name first and reads the floor after, so that one of the two sees the other. An object is removed
only when it is older than a grace period that exceeds the age at which a transaction refuses to commit: what a slow writer has
uploaded is younger, or its commit is refused. The plan is made and can be looked at first; carrying it out can be stopped and
done again.

The object of an expired version is not removed but cut down to its head: a number that became free could be taken again by a writer
who has not looked for long, and his commit would be lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lakefmt.errors import Conflict, InvalidInput, NoSuchVersion, counted
from lakefmt.fragment.meta import INLINE_FOLDER
from lakefmt.versioning.changes import Change, SetFloor
from lakefmt.versioning.encode import trimmed
from lakefmt.versioning.leaves import REUSE_AGE_MAX_S, Tree
from lakefmt.versioning.log import TRANSACTION_AGE_MAX_S, Log, Transaction, sealed, version_key
from lakefmt.versioning.records import Lease, State, Version, version_id

#: Objects younger than this are never removed.
GRACE_S = 24 * 3600.0
#: The least grace period: twice the age at which a transaction refuses to commit, for retries, pauses and clocks that differ.
GRACE_MIN_S = 2.0 * TRANSACTION_AGE_MAX_S
#: Folders of objects that versions refer to.
ROW_FOLDERS = ("data/", "overlays/", "dv/")
LEAF_FOLDER = "meta/"
DATA_FOLDERS = (*ROW_FOLDERS, LEAF_FOLDER)
_BATCH = 256


@dataclass(slots=True)
class Expiry:
    """What an expiry removes, or would remove.

    Attributes:
        versions: ids of the versions that go.
        kept: how many versions stay.
        objects: keys of the objects that go (data and leaf manifests); the objects of versions stay, cut down to their heads.
        nbytes: bytes of these.
        young: objects nothing refers to that are younger than the grace period.
        leases: leases that have ended, and go.
        done: whether it was carried out.
    """

    versions: list[str] = field(default_factory=list)
    kept: int = 0
    objects: list[str] = field(default_factory=list)
    nbytes: int = 0
    young: int = 0
    leases: int = 0
    done: bool = False

    def __repr__(self) -> str:
        verb = "removed" if self.done else "would remove"
        ended = f", {counted(self.leases, 'lease')} that ended" if self.leases else ""
        return (
            f"{verb} {counted(len(self.versions), 'version')} and {counted(len(self.objects), 'object')} of "
            f"{counted(self.nbytes, 'byte')}{ended}; {counted(self.kept, 'version')} {'stays' if self.kept == 1 else 'stay'}, "
            f"{counted(self.young, 'unused object')} {'is' if self.young == 1 else 'are'} too young"
        )


@dataclass(slots=True)
class _Sorted:
    """Versions that stay and that go, where the logs begin (branch and number, by log), and leases that have ended."""

    kept: list[tuple[str, int]] = field(default_factory=list)
    gone: list[tuple[str, int]] = field(default_factory=list)
    parents: dict[str, tuple[str, int]] = field(default_factory=dict)
    ended: list[Lease] = field(default_factory=list)


def expire(
    log: Log, *, older_than_s: float, keep: int, grace_s: float = GRACE_S, dry_run: bool = False,
    views: Callable[[], Iterable[str]] = tuple,
) -> Expiry:  # fmt: skip
    """Let versions go that are older than a time, and remove what only they referred to.

    Args:
        older_than_s: age in seconds from which versions go.
        keep: newest versions of each branch that stay in any case.
        grace_s: age in seconds below which no object is removed; at least the age limit of a transaction.
        dry_run: change nothing, only say what would go.
        views: gives the ids of versions that saved views need; asked once the floors are raised.

    What stays: named versions, tags, versions leased, those that branches began on, heads; and what any of these contains of other
    branches, for a merge begins there.
    """
    if grace_s != 0 and not grace_s >= GRACE_MIN_S:
        raise InvalidInput(
            f"expire(grace_s={grace_s}): files of a transaction may be {TRANSACTION_AGE_MAX_S} s old when it commits, and its last "
            f"request takes its time: give {GRACE_MIN_S:.0f} or more, or 0 when you know that nobody else writes"
        )
    now_ms = int(time.time() * 1000)
    floors = _raised(log, now_ms - int(older_than_s * 1000), max(1, keep), dry_run=dry_run)
    log.forget_unused()  # leaves that no version refers to yet
    found = _sorted(log, floors, views, now_ms, now_ms - int(grace_s * 1000))
    needed = _needed(log, found)
    plan = Expiry(versions=[version_id(b, v) for b, v in found.gone], kept=len(found.kept), leases=len(found.ended))
    _objects(log, plan, needed, now_ms / 1000, now_ms / 1000 - grace_s)
    if not dry_run:
        for branch, v in found.gone:  # first, so that no version is opened whose files go
            key = version_key(branch, v)
            log.store.put(key, trimmed(log.store.get(key), key))
        for start in range(0, len(plan.objects), _BATCH):
            log.store.delete(plan.objects[start : start + _BATCH])
        for lease in found.ended:
            log.refs.release(lease)
        plan.done = True
    return plan


def _raised(log: Log, before_ms: int, keep: int, *, dry_run: bool) -> dict[str, int]:
    """The floor of each branch, as it is committed: who names a version looks at that one."""
    floors: dict[str, int] = {}
    for branch in log.refs.branches():
        head = log.head(branch.uuid)
        as_sent = branch.sent and head.state.place == branch.uuid  # the copy that wrote it goes on with these very numbers
        floor = head.state.floor if as_sent else _floor(log, head, before_ms, keep)
        if not dry_run and floor > head.state.floor:
            try:
                head = log.commit(head, Transaction(_raise(floor), operation="expire"))
            except Conflict:  # the branch was deleted meanwhile, or another expiry is at work, whose floor may be lower
                head = log.head(branch.uuid, at_least=head.head.v)
            floor = min(floor, head.state.floor)
        floors[branch.uuid] = floor
    return floors


def _raise(floor: int) -> Callable[[Version], list[Change]]:
    return lambda version: [SetFloor(floor)]


def _floor(log: Log, head: Version, before_ms: int, keep: int) -> int:
    """Versions below it are old enough, and not among the newest."""
    newest = head.head
    while newest.operation == "expire" and newest.v > 0:  # what an expiry has committed is not what is kept as newest
        newest = log.heads(newest.branch, [newest.v - 1])[0]
    last = newest.v - keep + 1
    floor = goes = head.state.floor
    numbers = range(floor, last)
    for start in range(0, len(numbers), _BATCH):
        for h in log.heads(head.head.branch, numbers[start : start + _BATCH]):
            if h.ts_ms >= before_ms:
                return goes
            floor = h.v + 1
            goes = goes if h.operation == "expire" or h.named else floor  # no new floor for the sake of the last one's version
    return goes


def _sorted(
    log: Log, floors: dict[str, int], views: Callable[[], Iterable[str]], now_ms: int, young_ms: int
) -> _Sorted:  # fmt: skip
    """Versions that stay for a reason of their own, and the others. Names are read here, after the floors were raised.

    Branches are listed before all else that keeps a version (and again with it): a branch that is gone by then was sealed before,
    and who names a version of it looks for that seal after writing the name. Versions are listed last: what a transaction has
    committed whose lease was not seen any more is among them.
    """
    before = log.refs.branches()
    pinned = {(t.branch, t.v) for t in log.refs.tags()}
    leases = log.refs.leases()
    pinned |= {(x.branch, x.v) for x in leases if x.until_ms > now_ms}
    needed = set(views())
    branches = [*before, *log.refs.branches()]
    pinned |= {(b.parent, b.parent_v) for b in branches if b.parent is not None and b.parent_v is not None}
    sizes = {e.key: e.size for e in log.store.list("log/")}
    known = {b.uuid for b in branches} | {b.parent for b in branches if b.parent is not None}
    out = _Sorted(ended=[x for x in leases if x.until_ms <= now_ms])
    for branch, numbers in numbers_of(sizes).items():
        # a log without a name is let go only when it was ended: a listing may have missed a branch that was just renamed
        kept_whole = branch not in known and sealed(log.heads(branch, numbers[-1:])[0]) is None
        for start in range(0, len(numbers), _BATCH):
            for h, line_nbytes in log.head_lines(branch, numbers[start : start + _BATCH]):
                if h.parent is not None and h.parent_v is not None:
                    out.parents[branch] = (h.parent, h.parent_v)
                if sizes.get(version_key(branch, h.v), 0) < line_nbytes + h.body_size:
                    continue  # expired before
                # a young version stays, whatever it is: a branch that is being made has no name yet
                stays = (branch, h.v) in pinned or version_id(branch, h.v) in needed or h.ts_ms >= young_ms
                if branch in known or kept_whole:
                    stays = stays or h.v >= floors.get(branch, 0) or h.named or h.v == 0
                (out.kept if stays else out.gone).append((branch, h.v))
    return out


def numbers_of(keys: Iterable[str]) -> dict[str, list[int]]:
    """The versions of each log, ascending, by the keys below ``log/``; what else lies there is not looked at."""
    found: dict[str, list[int]] = {}
    for key in sorted(keys):
        _, branch, name = (*key.split("/", 2), "", "")[:3]
        if name.endswith(".json") and name[:-5].isdigit():
            found.setdefault(branch, []).append(int(name[:-5]))
    return found


def _needed(log: Log, found: _Sorted) -> set[str]:
    """Keys of all data objects and leaves that the versions that stay refer to.

    What a version that stays contains of other branches stays too, and is moved from those that go: where it is merged, or a branch
    that begins on it, the comparison begins there.
    """
    needed: set[str] = set()
    seen_leaves: set[str] = set()
    others, left = set(found.gone), list(found.kept)
    while left:
        branch, v = left.pop()
        try:
            state = log.read(branch, v).state
        except NoSuchVersion:
            continue  # another expiry was there first
        needed |= keys_of(log, state, seen_leaves)
        # versions written before there was ``contains`` only tell where their branch began
        bases = {*state.contains.items(), found.parents.get(branch, (branch, v))} & others
        others -= bases
        left += bases
        found.kept += bases
    found.gone = [place for place in found.gone if place in others]
    return needed


def keys_of(log: Log, state: State, seen_leaves: set[str]) -> set[str]:
    """Keys of the objects a state refers to; leaves among ``seen_leaves`` have been looked at."""
    fresh = tuple(leaf for leaf in state.leaves if leaf.key not in seen_leaves)
    seen_leaves |= {leaf.key for leaf in fresh}
    listed = Tree(State(leaves=fresh), log.leaves)
    fragments = [*listed, *(o.fragment for o in state.overrides), *state.fragments]
    keys = {f.key for fragment in fragments for f in fragment.every_file() if not f.key.startswith(INLINE_FOLDER)}
    return keys | {leaf.key for leaf in state.leaves}


def _objects(log: Log, plan: Expiry, needed: set[str], now_s: float, before_s: float) -> None:
    """Objects that nothing needs, and that are old enough. A leaf may be used by a handle that wrote it a short time ago, whatever
    the grace period: one that is idle has joined small leaves for its next commit.
    """
    for folder in (*DATA_FOLDERS, "_probe/"):
        youngest_s = min(before_s, now_s - 2 * REUSE_AGE_MAX_S) if folder == LEAF_FOLDER else before_s
        for entry in log.store.list(folder):
            if entry.key in needed:
                continue
            if entry.modified_s is None or entry.modified_s >= youngest_s:
                plan.young += 1
                continue
            plan.objects.append(entry.key)
            plan.nbytes += entry.size
