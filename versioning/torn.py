"""A version in the place of a torn one: of the newest version object of a branch, as a power cut on a file system that broke its
promise leaves it. Its number stays taken: whoever else repairs or commits finds something there.
"""

from __future__ import annotations

import uuid

import msgspec
import xxhash

from lakefmt.errors import Corrupt, VersionExpired
from lakefmt.versioning.changes import Name, touches
from lakefmt.versioning.encode import decode_version, encode_version
from lakefmt.versioning.log import Log, version_key
from lakefmt.versioning.records import ID_SPACES, Version
from lakefmt.versioning.refs import is_there

LOST = "_lost/"
replace = msgspec.structs.replace


def stand_in(log: Log, key: str, *, dry_run: bool) -> Version | None:
    """Put a version that changes nothing in the place of a torn one, once it is certain that it is torn and the newest.

    Its bytes depend on the version before alone: who does the same at the same time puts the same, and nothing is lost by it.

    Returns:
        The version before; ``None`` where there is nothing torn any more.

    Raises:
        LakeError: there is no version that could stand in for it.
    """
    _, branch, name = key.split("/", 2)
    v = int(name.removesuffix(".json"))
    data = log.store.get(key)
    try:
        decode_version(data, key)
        return None
    except VersionExpired:
        return None
    except Corrupt:
        pass
    if is_there(log.store, version_key(branch, v + 1)):
        raise Corrupt(f"{log.store.url}: version {v + 1} is there, so that {key} is not the newest; restore it from a copy")
    before = _newest_before(log, branch, v)
    if not dry_run:
        log.store.put(LOST + key, data)
        log.store.put(key, _unchanged(log, before, v))
    return before


def _newest_before(log: Log, branch: str, v: int) -> Version:
    """The newest version below a number that can be read."""
    for n in range(v - 1, -1, -1):
        try:
            return log.read(branch, n)
        except Corrupt:
            continue
    raise Corrupt(f"{log.store.url}: no version of the branch {branch} below {v} can be read; restore one from a copy")


def _unchanged(log: Log, before: Version, v: int) -> bytes:
    """A version object ``v`` with the state of an earlier version; its row ids go on in an id space of their own."""
    previous = before.xxh64
    if before.head.v < v - 1:  # those between are damaged too
        previous = xxhash.xxh64(log.store.get(version_key(before.head.branch, v - 1))).hexdigest()
    # who began on the torn version has rows whose ids would be given again
    space = xxhash.xxh64(f"{before.head.branch} {v} {previous}".encode()).intdigest() % (ID_SPACES - 1) + 1
    head = replace(
        before.head, v=v, transaction=uuid.uuid5(uuid.UUID(before.head.branch), f"repair {v} {previous}").hex,
        read_v=before.head.v, previous=previous, ts_ms=before.head.ts_ms + 1, author="", message=None, named=False,
        touched=touches([Name()]), parent=None, parent_v=None, merged=None, operation="repair", tokens=(),
        inline_size=0, inline_xxh64="",
    )  # fmt: skip
    return encode_version(head, replace(before.state, id_space=space, next_row=0), before.inline)[0]
