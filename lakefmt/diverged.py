"""Commits that a branch has in one copy of a dataset and not in another, sent as a branch of another name.

Once both copies have committed to one branch, their logs hold different versions under the same numbers, and neither can be
continued by the other. What one side has of its own is written there as a log that begins where they parted, so that it can be
merged like any branch. Rows keep their ids: copies give theirs from different spaces.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left
from collections.abc import Iterator

import msgspec

from lakefmt.errors import Conflict, InvalidInput
from lakefmt.transfer import Transfer, check_one_dataset, data_of, put_version, send, send_contained, summed
from lakefmt.versioning.encode import encode_version
from lakefmt.versioning.log import Log
from lakefmt.versioning.records import Branch, Version
from lakefmt.versioning.refs import check_name

replace = msgspec.structs.replace


def send_diverged(source: Log, to: Log, name: str, new: str) -> Transfer:
    """Send what a branch has since it parted from the other side's, as branch ``new`` there. Done again, what came since follows.

    Raises:
        InvalidInput: the two places hold different datasets, or nothing has gone apart.
        Conflict: the other side has another branch of that name, or commits of its own on it.
        VersionExpired: a version since, or the one where they parted, has expired.
    """
    check_name(new)
    check_one_dataset(source, to)
    branch = source.branch(name)
    shared = _shared(source, to, branch.uuid)
    numbers = source.numbers(branch.uuid)
    if shared is None or not numbers or numbers[-1] == shared:
        raise InvalidInput(
            f"branch {name!r} of {source.store.url} has nothing that {to.store.url} has otherwise; "
            "without as_branch= it goes as it is"
        )
    log = uuid.uuid5(uuid.UUID(branch.uuid), f"{source.claim.place} {new}").hex
    there = to.refs.find_branch(new)
    if (there is not None and there.uuid != log) or to.refs.find_tag(new) is not None:
        raise Conflict(f"{to.store.url} has a branch or tag {new!r} already; choose another name")
    since = [source.read(branch.uuid, n) for n in range(shared, numbers[-1] + 1)]
    data = data_of(source, since)
    total = send(source.store, to.store, data)
    have = to.numbers(log)
    written = 0
    for v, (bytes_, _) in enumerate(_written(log, new, since)):
        put_version(to, log, v, bytes_, new)
        written += v not in have
    if have and have[-1] >= len(since):
        raise Conflict(f"{to.store.url}: branch {new!r} has commits of its own; choose another name")
    first = since[0]
    to.refs.create_branch(
        Branch(name=new, uuid=log, parent=branch.uuid, parent_v=shared, id_space=first.state.id_space, created_ms=first.head.ts_ms)
    )
    again = send(source.store, to.store, data)  # what was there before without a use, an expiry may have removed meanwhile
    total = Transfer(total.objects + written + again.objects, total.nbytes + again.nbytes, total.present, written)
    return summed(total, send_contained(source, to, since[-1], {branch.uuid, log}))


def _shared(source: Log, to: Log, log: str) -> int | None:
    """The newest version that both have alike."""
    numbers = [n for n in source.numbers(log) if n in set(to.numbers(log))]

    def differ(n: int) -> bool:
        return source.heads(log, [n])[0].transaction != to.heads(log, [n])[0].transaction

    alike = bisect_left(numbers, True, key=differ)
    return numbers[alike - 1] if alike else None


def _written(log: str, name: str, since: list[Version]) -> Iterator[tuple[bytes, Version]]:
    """The versions of a log that begins at the first of some versions; the same bytes whenever it is done."""
    first = since[0]
    branch, v = first.head.branch, first.head.v
    before: Version | None = None
    for n, version in enumerate(since):
        head = replace(
            version.head, branch=log, v=n, read_v=n - 1, previous=first.xxh64 if before is None else before.xxh64,
            transaction=uuid.uuid5(uuid.UUID(log), str(n)).hex,
        )  # fmt: skip
        if before is None:
            head = replace(
                head, message=f"branch {name!r} of {first.id}", named=False, touched=(), tokens=(), merged=None,
                operation="branch", parent=branch, parent_v=v,
            )  # fmt: skip
        state = replace(version.state, floor=0, contains={**version.state.contains, branch: v})
        data, before = encode_version(head, state, version.inline)
        yield data, before
