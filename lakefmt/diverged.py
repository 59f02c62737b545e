"""Commits that a branch has in one copy of a dataset and not in another, sent as a branch of another name.

Once both copies have committed to one branch, their logs hold different versions under the same numbers, and neither can be
continued by the other. What one side has of its own is written there as a log that begins where they parted, so that it can be
merged like any branch. Rows keep their ids: copies give theirs from different spaces.

What a version says it contains of other branches is kept as far as these numbers mean the same on the other side, and left out
beyond: else work of the other side would be taken for known and never be merged.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import msgspec

from lakefmt.copies import Copies
from lakefmt.errors import Conflict, InvalidInput
from lakefmt.transfer import Transfer, send_contained, send_versions, summed
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
    copies = Copies(source, to)
    branch = source.branch(name)
    since = [source.read(*place) for place in _places(copies, branch.uuid)]
    if len(since) < 2:
        raise InvalidInput(
            f"branch {name!r} of {source.store.url} has nothing that {to.store.url} has otherwise; "
            "without as_branch= it goes as it is"
        )
    log = uuid.uuid5(uuid.UUID(branch.uuid), f"{source.claim.place} {new}").hex
    first = since[0]
    made = Branch(
        name=new, uuid=log, parent=first.head.branch, parent_v=first.head.v, id_space=first.state.id_space,
        created_ms=first.head.ts_ms, sent=True,
    )  # fmt: skip
    there = to.refs.find_branch(new)
    if (there is not None and there.uuid != log) or to.refs.find_tag(new) is not None:
        raise Conflict(f"{to.store.url} has a branch or tag {new!r} already; choose another name")
    have = to.numbers(log)
    last = to.read(log, have[-1]) if have else None
    if last is not None and (last.head.v >= len(since) or last.head.transaction != _transaction(log, last.head.v)):
        raise Conflict(f"{to.store.url}: branch {new!r} has commits of its own; choose another name")
    total = send_contained(copies, since[-1], {log})
    versions = ((v.head.v, data) for data, v in _written(copies, log, new, since, last))
    total = summed(total, send_versions(copies, log, new, versions, since))
    if not to.refs.create_branch(made):
        raise Conflict(f"{to.store.url} has another branch {new!r} meanwhile; choose another name")
    return total


def _places(copies: Copies, log: str) -> list[tuple[str, int]]:
    """The way from the newest version that both have alike to the newest of a branch, through the branches it came from."""
    out: list[tuple[str, int]] = []
    v = copies.source.head(log).head.v
    while True:
        alike = copies.alike(log)
        if alike is not None:
            return [*out, *((log, n) for n in range(v, min(v, alike) - 1, -1))][::-1]
        out += [(log, n) for n in range(v, -1, -1)]
        first = copies.source.heads(log, [0])[0]
        if first.parent is None or first.parent_v is None:
            raise InvalidInput(
                f"nothing of that branch of {copies.source.store.url} is in {copies.to.store.url}, not even where it began "
                "(squashed since, perhaps): push() it as it is"
            )
        log, v = first.parent, first.parent_v


def _transaction(log: str, v: int) -> str:
    return uuid.uuid5(uuid.UUID(log), str(v)).hex


def _written(
    copies: Copies, log: str, name: str, since: list[Version], before: Version | None
) -> Iterator[tuple[bytes, Version]]:  # fmt: skip
    """The versions of a log that begins at the first of some versions, after those that were sent before."""
    first = since[0]
    branch, v = first.head.branch, first.head.v
    begin = 0 if before is None else before.head.v + 1
    for n, version in enumerate(since[begin:], begin):
        head = replace(
            version.head, branch=log, v=n, read_v=n - 1, previous=first.xxh64 if before is None else before.xxh64,
            transaction=_transaction(log, n), parent=None, parent_v=None, merged=None,
            ts_ms=version.head.ts_ms if before is None else max(version.head.ts_ms, before.head.ts_ms + 1),
        )  # fmt: skip
        if before is None:
            head = replace(
                head, message=f"branch {name!r} of {first.id}", named=False, touched=(), tokens=(), operation="branch",
                parent=branch, parent_v=v,
            )  # fmt: skip
        reach = {b: copies.valid(b, m) for b, m in version.state.contains.items()}
        contains = {b: m for b, m in reach.items() if m is not None}
        # a place that no copy has: whoever goes on gives ids from a space of its own
        state = replace(version.state, floor=0, contains={**contains, branch: v}, place=log)
        data, before = encode_version(head, state, version.inline)
        yield data, before
