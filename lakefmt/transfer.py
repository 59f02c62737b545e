"""Datasets from one place to another: the newest rows alone, or everything; and branches between two copies of one dataset.

Objects never change, so a copy is a matter of names: what the other side has already is not sent again. Data goes before the
versions that refer to it, and what makes a dataset of a place goes last, so that whatever is interrupted can be done again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from lakefmt.copies import Copies
from lakefmt.errors import AlreadyExists, Conflict, NoSuchObject, VersionExpired
from lakefmt.fragment.meta import INLINE_FOLDER
from lakefmt.storage import MemoryStore, Store, probe_put_if_absent
from lakefmt.versioning.changes import Restore
from lakefmt.versioning.expire import DATA_FOLDERS, keys_of
from lakefmt.versioning.log import CLAIM_KEY, MAIN, Log, Transaction, new_id_space, sealed, version_key
from lakefmt.versioning.pins import VIEWS
from lakefmt.versioning.records import Branch, Version
from lakefmt.versioning.refs import BRANCHES, TAGS, checked, put_once

_THREADS = 8
_PIECE_NBYTES = 32 << 20
_NAMES = (VIEWS, TAGS, BRANCHES)
_COPIED_FOLDERS = (*DATA_FOLDERS, "log/", *_NAMES)


@dataclass(frozen=True, slots=True)
class Transfer:
    """What went from one place to another: objects and bytes sent, objects the other side had, versions."""

    objects: int = 0
    nbytes: int = 0
    present: int = 0
    versions: int = 0


def copy_head(log: Log, version: Version, to: Store, message: str | None) -> tuple[Log, Version, Transfer]:
    """Make a dataset of one version's rows elsewhere; row ids stay, history does not come along.

    Raises:
        AlreadyExists: there is one.
    """
    if Log.exists(to):
        raise AlreadyExists(f"{to.url} holds a dataset already; copy to another place, or delete it first")
    sent = send(log.store, to, _data_of(log, [version]))
    # built beside, and put with the claim last: what is interrupted leaves no dataset
    scratch = MemoryStore(f"copy-{uuid.uuid4().hex}")
    made = Log.create(scratch)
    head = made.head(made.branch(MAIN).uuid)
    space = new_id_space()  # rows of other branches' id spaces are among them: new ones must not meet these
    txn = Transaction(
        lambda _: [Restore(version.state, space)], message=message or f"copy of {log.store.url} at {version.id}", named=True,
        operation="copy", inline=dict(version.inline), readers=frozenset(version.head.readers),
    )  # fmt: skip
    made.commit(head, txn)
    keys = sorted((e.key for e in scratch.list("")), key=lambda k: k == CLAIM_KEY)
    probe_put_if_absent(to, f"_probe/{uuid.uuid4().hex}")
    for key in keys:
        if not put_once(to, key, scratch.get(key)):
            if Log.exists(to):
                raise AlreadyExists(f"{to.url}: another writer made a dataset there meanwhile")
            to.put(key, scratch.get(key))  # the name that a copy has left which was interrupted
    scratch.delete([e.key for e in scratch.list("")])
    log_there = Log.open(to)
    return log_there, log_there.head(log_there.branch(MAIN).uuid), sent


def copy_all(log: Log, to: Store) -> Transfer:
    """Copy a dataset with its history, branches, tags and views. Done again, it goes on where it was interrupted, or brings an
    older copy up to date: new versions and names come, tags and views of the same name are replaced by the origin's, names of
    branches that were deleted or renamed go; other tags and views stay.

    Raises:
        AlreadyExists: another dataset is there.
        Conflict: the copy has commits of its own.
    """
    there = Log.open(to) if Log.exists(to) else None
    if there is not None and there.claim.dataset != log.claim.dataset:
        raise AlreadyExists(f"{to.url} holds another dataset; copy to another place, or delete it first")
    # listed in the order names, versions, data, and sent the other way round: nothing arrives before what it refers to
    keys = {f: sorted(e.key for e in log.store.list(f) if not e.key.endswith("/_hint")) for f in reversed(_COPIED_FOLDERS)}
    if there is not None:
        _check_not_ahead(log, there)
    total = Transfer()
    for folder in DATA_FOLDERS:
        total = summed(total, send(log.store, to, keys[folder]))
    total = summed(total, _send_versions(log.store, to, keys["log/"]))
    for folder in _NAMES:
        total = summed(total, _send_names(log.store, to, keys[folder]))
    if there is None:
        put_once(to, CLAIM_KEY, _marked(log))
    else:
        _forget_names(log, there)
    return total


def _marked(log: Log) -> bytes:
    """What makes a copy a dataset: the claim, with a mark of its own, so that the two places give different row ids."""
    return checked(msgspec.structs.replace(log.claim, place=uuid.uuid4().hex))


def _forget_names(log: Log, there: Log) -> None:
    """Take away names of branches that the origin has deleted or renamed. (Of tags and views it cannot be told who made them.)"""
    here = {b.uuid: b.name for b in log.refs.branches()}
    for branch in there.refs.branches():
        name = here.get(branch.uuid)
        numbers = log.numbers(branch.uuid) if name is None else []
        ended = bool(numbers) and sealed(log.heads(branch.uuid, numbers[-1:])[0]) is not None
        if ended or name not in (None, branch.name):
            there.refs.remove_branch(branch.name)


def _check_not_ahead(log: Log, there: Log) -> None:
    """Refuse where the other side has versions that this one lacks, or others under the same numbers."""
    copies = Copies(log, there)
    theirs = {e.key for e in there.store.list("log/") if not e.key.endswith("/_hint")}
    for branch in sorted({k.split("/")[1] for k in theirs}):
        mine, others = copies.numbers(branch)
        if not set(others) <= set(mine):
            raise Conflict(f"{there.store.url} has commits that {log.store.url} lacks; pull() or merge these first")
        if copies.alike(branch) != others[-1]:
            raise Conflict(
                f"{there.store.url} has commits of its own, and so has {log.store.url}: pull(path, as_branch='…') brings them "
                "as a branch to merge"
            )


def _send_versions(source: Store, to: Store, keys: Sequence[str]) -> Transfer:
    """Version objects, one after the other, so that a log has no hole at any moment."""
    have = {e.key for e in to.list("log/")}
    sent = nbytes = 0
    for key in keys:
        if key not in have:
            data = source.get(key)
            if not put_once(to, key, data):
                raise Conflict(f"{to.url}: another writer committed {key} meanwhile; nothing of it was replaced")
            sent, nbytes = sent + 1, nbytes + len(data)
    return Transfer(sent, nbytes, len(keys) - sent, sent)


def _send_names(source: Store, to: Store, keys: Sequence[str]) -> Transfer:
    """Names and views: those that changed are replaced."""
    sent = nbytes = 0
    for key in keys:
        data = source.get(key)
        try:
            same = to.get(key) == data
        except NoSuchObject:
            same = False
        if not same:
            to.put(key, data)
            sent, nbytes = sent + 1, nbytes + len(data)
    return Transfer(sent, nbytes, len(keys) - sent)


def send_branch(source: Log, to: Log, name: str) -> Transfer:
    """Bring a branch of a copy of the same dataset up to date: only what is missing goes, and nothing is ever replaced.

    With it go the branches it came from, and what it has merged of others, which later merges begin from. All of that is looked
    at before anything is sent.

    Raises:
        InvalidInput: the two places hold different datasets.
        Conflict: the other side has commits of its own on this branch, or on one whose work this one contains.
    """
    return _send_chain(Copies(source, to), source.branch(name))


def fetch_branch(source: Log, to: Log, branch: Branch) -> Transfer:
    """The same as seen from the side that receives: where that has all that the other has, and goes on from there, nothing is to
    be done.

    Args:
        branch: of the receiving side.
    """
    copies = Copies(source, to)
    here, _ = copies.numbers(branch.uuid)
    if here and copies.alike(branch.uuid) == here[-1]:
        return Transfer()
    return _send_chain(copies, source.branch(branch.name))


def _send_chain(copies: Copies, branch: Branch) -> Transfer:
    """Send a branch after those it came from."""
    source, to = copies.source, copies.to
    chain = _with_parents(source, branch)
    logs: list[tuple[str, str, int | None]] = []  # uuid, name, and up to which version
    squashed: set[str] = set()
    for branch in chain:
        theirs = to.refs.find_branch(branch.name)
        if theirs is not None and theirs.uuid in branch.earlier:  # up to the seal, so that nobody goes on there
            logs.append((theirs.uuid, branch.name, None))
            squashed.add(branch.uuid)
        elif (theirs is not None and theirs.uuid != branch.uuid) or to.refs.find_tag(branch.name) is not None:
            raise Conflict(
                f"{to.store.url} has another branch, or a tag, {branch.name!r}: rename one of them (a main that was squashed on "
                "both sides, or has gone apart, goes under another name: as_branch='…')"
            )
        children = [b.parent_v for b in chain if b.parent == branch.uuid and b.parent_v is not None]
        logs.append((branch.uuid, branch.name, children[0] if children else None))
    heads = [_head(copies, *log) for log in logs]
    total = send_contained(copies, heads[-1], {log for log, _, _ in logs})
    for log, label, until in logs:
        total = summed(total, _send_log(copies, log, label, until))
    for branch in chain:
        if branch.uuid in squashed:
            to.refs.replace_branch(branch)
        elif not to.refs.create_branch(branch):
            now = to.refs.find_branch(branch.name)
            if now is None or now.uuid != branch.uuid:
                raise Conflict(f"{to.store.url} has another branch {branch.name!r} meanwhile; push() again")
    return total


def _head(copies: Copies, log: str, name: str, until: int | None) -> Version:
    """The newest version of a log that is to be sent, once it is clear that it can be."""
    here, there = ([n for n in numbers if until is None or n <= until] for numbers in copies.numbers(log))
    if there and (not here or there[-1] > here[-1]):
        raise Conflict(f"{copies.to.store.url}: branch {name!r} is ahead of {copies.source.store.url}; pull() it first")
    alike = copies.alike(log)
    if there and (alike is None or there[-1] > alike):
        raise Conflict(
            f"{copies.to.store.url}: branch {name!r} has commits of its own, and so has {copies.source.store.url}. Send these as a "
            "branch of another name, push(path, as_branch='…') or pull(path, as_branch='…'), and merge() that"
        )
    version = copies.source.read(log, here[-1])
    foreign = copies.foreign(version)
    if foreign:
        names = {b.uuid: b.name for b in copies.source.refs.branches()}
        raise Conflict(
            f"{copies.source.store.url}: branch {name!r} contains work of "
            f"{', '.join(repr(names.get(b, b[:12])) for b in foreign)}, which has commits of its own in {copies.to.store.url}. "
            "push(path, as_branch='…') sends it as a branch of another name"
        )
    return version


def send_contained(copies: Copies, head: Version, sent: set[str]) -> Transfer:
    """Versions of other branches whose work is in a version, of logs that are not sent otherwise; they get no name there."""
    total = Transfer()
    for log, v in head.state.contains.items():
        valid = copies.valid(log, v)
        if log not in sent and valid is not None and valid != copies.alike(log):
            total = summed(total, _send_log(copies, log, log[:12], valid))
    return total


def _with_parents(log: Log, branch: Branch) -> list[Branch]:
    """A branch, after those it came from (their versions are part of its history)."""
    by_uuid = {b.uuid: b for b in log.refs.branches()}
    chain = [branch]
    while chain[0].parent is not None and chain[0].parent in by_uuid:
        chain.insert(0, by_uuid[chain[0].parent])
    return chain


def _send_log(copies: Copies, log: str, name: str, until: int | None) -> Transfer:
    """Versions of one log, called ``name`` in errors; of one that another began on, or that was merged, only up to there."""
    here, there = copies.numbers(log)
    have = set(there)
    fresh = [n for n in here if n not in have and (until is None or n <= until)]
    source = copies.source
    versions = ((n, source.store.get(version_key(log, n))) for n in fresh)
    return send_versions(copies, log, name, versions, _unexpired(source, log, fresh))


def send_versions(
    copies: Copies, log: str, name: str, versions: Iterable[tuple[int, bytes]], data_of: Iterable[Version]
) -> Transfer:  # fmt: skip
    """Put versions of a log, by number, under these numbers there, after the files they refer to.

    Args:
        data_of: the versions of the source whose files these are.
    """
    source, to = copies.source, copies.to
    keys = _data_of(source, data_of)
    sent = send(source.store, to.store, keys)
    written = 0
    for v, data in versions:
        if not put_once(to.store, version_key(log, v), data):
            raise Conflict(f"{to.store.url}: another writer committed to branch {name!r} meanwhile; push() again")
        written += 1
    again = send(source.store, to.store, keys)  # what was there before without a use, an expiry may have removed meanwhile
    return Transfer(sent.objects + written + again.objects, sent.nbytes + again.nbytes, sent.present, written)


def _unexpired(log: Log, branch: str, numbers: Iterable[int]) -> Iterable[Version]:
    for n in numbers:
        try:
            yield log.read(branch, n)
        except VersionExpired:
            continue


def _data_of(log: Log, versions: Iterable[Version]) -> list[str]:
    seen: set[str] = set()
    keys: set[str] = set()
    for version in versions:
        keys |= keys_of(log, version.state, seen)
    return sorted(k for k in keys if not k.startswith(INLINE_FOLDER))


def send(source: Store, to: Store, keys: Sequence[str]) -> Transfer:
    """Copy objects that the other side does not have."""
    source = source.origin  # what is sent goes through no cache: it is read once, and as it is stored
    folders = {k.split("/")[0] + "/" for k in keys}
    there = {e.key: e.size for folder in folders for e in to.list(folder)}
    missing = [k for k in keys if k not in there]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="lakefmt-send") as pool:
        sizes = list(pool.map(lambda k: _send(source, to, k), missing))
    return Transfer(len(missing), sum(sizes), len(keys) - len(missing))


def _send(source: Store, to: Store, key: str) -> int:
    """One object, in pieces: memory stays bounded."""
    first = source.get_range(key, 0, _PIECE_NBYTES)
    if len(first) < _PIECE_NBYTES:
        to.put(key, first)
        return len(first)
    size = len(first)
    with to.writer(key) as out:
        out.write(first)
        while True:
            piece = source.get_range(key, size, _PIECE_NBYTES)
            out.write(piece)
            size += len(piece)
            if len(piece) < _PIECE_NBYTES:
                return size


def summed(a: Transfer, b: Transfer) -> Transfer:
    return Transfer(a.objects + b.objects, a.nbytes + b.nbytes, a.present + b.present, a.versions + b.versions)
