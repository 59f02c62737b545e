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

from lakefmt.errors import AlreadyExists, Conflict, InvalidInput, NoSuchObject, VersionExpired
from lakefmt.fragment.meta import INLINE_FOLDER
from lakefmt.storage import MemoryStore, Store, probe_put_if_absent
from lakefmt.versioning.changes import Restore
from lakefmt.versioning.expire import keys_of
from lakefmt.versioning.log import CLAIM_KEY, MAIN, Log, Transaction, new_id_space, sealed, version_key
from lakefmt.versioning.records import Branch, Version
from lakefmt.versioning.refs import checked, put_once

_THREADS = 8
_PIECE_NBYTES = 32 << 20
_DATA = ("data/", "overlays/", "dv/", "meta/")
_NAMES = (".queries/", "refs/tags/", "refs/branches/")
_COPIED_FOLDERS = (*_DATA, "log/", *_NAMES)


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
    sent = send(log.store, to, data_of(log, [version]))
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
        if not put_once(to, key, scratch.get(key)) and not key.endswith("/_hint"):
            raise AlreadyExists(f"{to.url}: another writer made a dataset there meanwhile")
    scratch.delete([e.key for e in scratch.list("")])
    log_there = Log.open(to)
    return log_there, log_there.head(log_there.branch(MAIN).uuid), sent


def copy_all(log: Log, to: Store) -> Transfer:
    """Copy a dataset with its history, branches, tags and views. Done again, it goes on where it was interrupted, or brings an
    older copy up to date: new versions and names come, names of branches that were deleted or renamed go; tags and views stay.

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
        _check_not_ahead(log, there, keys["log/"])
    total = Transfer()
    for folder in _DATA:
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


def _check_not_ahead(log: Log, there: Log, keys: Sequence[str]) -> None:
    """Refuse where the other side has versions that this one lacks, or others under the same numbers."""
    own = set(keys)
    theirs = {e.key for e in there.store.list("log/") if not e.key.endswith("/_hint")}
    for branch in sorted({k.split("/")[1] for k in theirs}):
        numbers = [n for n in there.numbers(branch) if version_key(branch, n) in own]
        if not numbers or any(version_key(branch, n) not in own for n in there.numbers(branch)):
            raise Conflict(f"{there.store.url} has commits that {log.store.url} lacks; pull() or merge these first")
        if log.heads(branch, numbers[-1:])[0].transaction != there.heads(branch, numbers[-1:])[0].transaction:
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

    With it go the branches it came from, and what it has merged of others, which later merges begin from.

    Raises:
        InvalidInput: the two places hold different datasets.
        Conflict: the other side has commits of its own on this branch.
    """
    check_one_dataset(source, to)
    total = Transfer()
    chain = _with_parents(source, source.branch(name))
    for branch in chain:
        theirs = to.refs.find_branch(branch.name)
        squashed = theirs is not None and theirs.uuid in branch.earlier
        if theirs is not None and theirs.uuid != branch.uuid and not squashed:
            raise Conflict(f"{to.store.url} has another branch {branch.name!r}; rename_branch() one of them")
        if squashed and theirs is not None:  # up to the seal, so that nobody goes on there
            total = summed(total, _send_log(source, to, theirs.uuid, branch.name, None))
        children = [b.parent_v for b in chain if b.parent == branch.uuid and b.parent_v is not None]
        total = summed(total, _send_log(source, to, branch.uuid, branch.name, children[0] if children else None))
        if squashed:
            to.refs.replace_branch(branch)
        else:
            to.refs.create_branch(branch)
    return summed(total, send_contained(source, to, source.head(chain[-1].uuid), {b.uuid for b in chain}))


def check_one_dataset(source: Log, to: Log) -> None:
    """Refuse to bring commits from one dataset to another."""
    if source.claim.dataset != to.claim.dataset:
        raise InvalidInput(
            f"{source.store.url} and {to.store.url} hold different datasets; "
            "a branch goes between copies of one (deepcopy() makes them)"
        )


def send_contained(source: Log, to: Log, head: Version, sent: set[str]) -> Transfer:
    """Versions of other branches whose work is in a version, of logs that were not sent yet; they get no name there."""
    total = Transfer()
    for branch, v in head.state.contains.items():
        if branch not in sent and source.numbers(branch):
            total = summed(total, _send_log(source, to, branch, branch[:12], v))
    return total


def _with_parents(log: Log, branch: Branch) -> list[Branch]:
    """A branch, after those it came from (their versions are part of its history)."""
    by_uuid = {b.uuid: b for b in log.refs.branches()}
    chain = [branch]
    while chain[0].parent is not None and chain[0].parent in by_uuid:
        chain.insert(0, by_uuid[chain[0].parent])
    return chain


def _send_log(source: Log, to: Log, log: str, name: str, until: int | None) -> Transfer:
    """Versions of one log, called ``name`` in errors; of one that another began on, or that was merged, only up to there."""
    numbers, have = source.numbers(log), set(to.numbers(log))
    if until is not None:
        numbers = [n for n in numbers if n <= until]
        have = {n for n in have if n <= until}
    if have and (not numbers or max(have) > max(numbers)):
        raise Conflict(f"{to.store.url}: branch {name!r} is ahead of {source.store.url}; pull() it first")
    shared = max((n for n in numbers if n in have), default=None)
    mine, theirs = ([] if shared is None else side.heads(log, [shared]) for side in (source, to))
    if [h.transaction for h in mine] != [h.transaction for h in theirs]:
        raise Conflict(
            f"{to.store.url}: branch {name!r} has commits of its own, and so has {source.store.url}. Send these as a branch of "
            "another name, push(path, as_branch='…') or pull(path, as_branch='…'), and merge() that"
        )
    fresh = [n for n in numbers if n not in have]
    data = data_of(source, _unexpired(source, log, fresh))
    total = send(source.store, to.store, data)
    for n in fresh:
        put_version(to, log, n, source.store.get(version_key(log, n)), name)
    again = send(source.store, to.store, data)  # what was there before without a use, an expiry may have removed meanwhile
    return Transfer(total.objects + len(fresh) + again.objects, total.nbytes + again.nbytes, total.present, len(fresh))


def put_version(to: Log, log: str, v: int, data: bytes, name: str) -> None:
    """A version that was made elsewhere, under its own number."""
    if not put_once(to.store, version_key(log, v), data):
        raise Conflict(f"{to.store.url}: another writer committed to branch {name!r} meanwhile; push() again")


def _unexpired(log: Log, branch: str, numbers: Iterable[int]) -> Iterable[Version]:
    for n in numbers:
        try:
            yield log.read(branch, n)
        except VersionExpired:
            continue


def data_of(log: Log, versions: Iterable[Version]) -> list[str]:
    seen: set[str] = set()
    keys: set[str] = set()
    for version in versions:
        keys |= keys_of(log, version.state, seen)
    return sorted(k for k in keys if not k.startswith(INLINE_FOLDER))


def send(source: Store, to: Store, keys: Sequence[str]) -> Transfer:
    """Copy objects that the other side does not have."""
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
