"""Looking a dataset over, and mending what can be mended.

A check reads the log of every branch: that it is dense, that each version carries its predecessor's hash, that no transaction
landed twice, and that all that versions refer to is there and has its size; a full one compares every byte with its checksum.
A repair moves a torn newest version object aside (a power cut on a file system that broke its promise leaves one), and takes files
that are lost out of the newest version, so that the rest of it can be read; what was lost with them is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from lakefmt.errors import Corrupt, LakeError, NoSuchObject, UnsupportedFormat, VersionExpired
from lakefmt.fragment.meta import INLINE_FOLDER, ColumnFile, Fragment
from lakefmt.fragment.verify import verify_files
from lakefmt.versioning.changes import Change, Compact, Group
from lakefmt.versioning.encode import decode_version
from lakefmt.versioning.leaves import Tree
from lakefmt.versioning.log import Log, Transaction, version_key
from lakefmt.versioning.records import Branch, State, Version, version_id

LOST = "_lost/"
replace = msgspec.structs.replace


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong.

    Attributes:
        what: ``missing``, ``damaged``, ``torn`` (the newest version object of a branch), ``log`` or ``name``.
        key: the object.
        detail: a sentence.
        versions: ids of versions that need the object (the newest ones, at most eight).
    """

    what: str
    key: str
    detail: str
    versions: tuple[str, ...] = ()


@dataclass(slots=True)
class Report:
    """What a check found."""

    problems: list[Problem] = field(default_factory=list)
    versions: int = 0
    objects: int = 0
    nbytes: int = 0
    full: bool = False

    def __bool__(self) -> bool:
        """Whether all is well."""
        return not self.problems

    def __repr__(self) -> str:
        how = "every byte" if self.full else "metadata and sizes"
        lines = [f"checked {how}: {self.versions:,} versions, {self.objects:,} objects, {self.nbytes:,} bytes"]
        lines += [f"  {p.what}: {p.key}: {p.detail}" for p in self.problems] or ["  nothing is wrong"]
        return "\n".join(lines)


def check(log: Log, *, full: bool = False, only: Version | None = None) -> Report:
    """Look over all branches, or only what one version needs.

    Args:
        full: read every byte and compare checksums; else sizes.
    """
    report = Report(full=full)
    sizes = {e.key: e.size for folder in ("data/", "overlays/", "dv/", "meta/") for e in log.store.list(folder)}
    seen: dict[str, list[str]] = {}
    files: dict[str, ColumnFile] = {}
    leaves: set[str] = set()
    for version in [only] if only is not None else _versions(log, report):
        report.versions += 1
        for file in _files(log, version, report, leaves, sizes, full=full):
            files[file.key] = file
            seen.setdefault(file.key, []).append(version.id)
    for key, file in files.items():
        users = tuple(reversed(seen[key][-8:]))
        report.objects += 1
        if key not in sizes:
            report.problems.append(Problem("missing", key, f"a file of {file.size:,} bytes is not there", users))
        elif sizes[key] != file.size:
            report.problems.append(Problem("damaged", key, f"it has {sizes[key]:,} bytes instead of {file.size:,}", users))
        elif full:
            try:
                report.nbytes += verify_files(log.store, [file])
            except Corrupt as e:
                report.problems.append(Problem("damaged", key, str(e), users))
        else:
            report.nbytes += file.size
    return report


def _versions(log: Log, report: Report) -> Iterator[Version]:
    """All versions of all branches that parse, problems of the logs noted."""
    for branch in _branches(log, report):
        numbers = log.numbers(branch.uuid)
        before: Version | None = None
        transactions: dict[str, int] = {}
        for v in numbers:
            key = version_key(branch.uuid, v)
            try:
                version = log.read(branch.uuid, v)
            except (Corrupt, UnsupportedFormat) as e:
                torn = v == numbers[-1] and isinstance(e, Corrupt)
                report.problems.append(Problem("torn" if torn else "damaged", key, str(e), (version_id(branch.uuid, v),)))
                before = None
                continue
            except VersionExpired:
                before = None
                continue
            if version.head.transaction in transactions:
                twice = transactions[version.head.transaction]
                report.problems.append(Problem("log", key, f"its transaction is also in version {twice}"))
            transactions[version.head.transaction] = v
            if before is not None and before.head.v == v - 1 and version.head.previous != before.xxh64:
                report.problems.append(Problem("log", key, f"it does not carry the hash of version {v - 1}"))
            if before is not None and version.head.ts_ms <= before.head.ts_ms:
                report.problems.append(Problem("log", key, "it is not younger than the version before it"))
            before = version
            yield version
        holes = sorted(set(range(max(numbers, default=0))) - set(numbers))
        for n in holes[:8]:
            report.problems.append(Problem("missing", version_key(branch.uuid, n), "a version object is not there"))
        if not numbers:
            report.problems.append(Problem("missing", f"log/{branch.uuid}/", f"branch {branch.name!r} has no version"))


def _branches(log: Log, report: Report) -> Iterator[Branch]:
    for name in log.refs.branch_names():
        try:
            found = log.refs.find_branch(name)
        except Corrupt as e:
            report.problems.append(Problem("name", f"refs/branches/{name}", str(e)))
            continue
        if found is not None:
            yield found


def _files(
    log: Log, version: Version, report: Report, leaves: set[str], sizes: Mapping[str, int], *, full: bool
) -> Iterator[ColumnFile]:  # fmt: skip
    """The files a version needs, less those of leaves looked at before."""
    fresh = []
    for leaf in version.state.leaves:
        if leaf.key in leaves:
            continue
        leaves.add(leaf.key)
        report.objects += 1
        try:
            if full or sizes.get(leaf.key) != leaf.size:
                log.leaves.forget(leaf)
            log.leaves.table(leaf)
            fresh.append(leaf)
        except Corrupt as e:
            what = "damaged" if leaf.key in sizes else "missing"
            report.problems.append(Problem(what, leaf.key, str(e), (version.id,)))
    listed = Tree(State(leaves=tuple(fresh)), log.leaves)
    fragments = [*listed, *(o.fragment for o in version.state.overrides), *version.state.fragments]
    yield from dict.fromkeys(f for x in fragments for f in x.every_file() if not f.key.startswith(INLINE_FOLDER))


@dataclass(slots=True)
class Repair:
    """What a repair did.

    Attributes:
        moved: torn version objects, by their key, and where they lie now.
        lost: per branch and tensor, how many rows have lost their sample; under ``rows`` those that are gone altogether.
        left: problems that could not be mended.
        done: whether anything was changed (a dry run changes nothing).
    """

    moved: dict[str, str] = field(default_factory=dict)
    lost: dict[str, dict[str, int]] = field(default_factory=dict)
    left: list[Problem] = field(default_factory=list)
    done: bool = False

    def __repr__(self) -> str:
        verb = "moved" if self.done else "would move"
        lines = [f"{verb} the torn {old} to {new}" for old, new in self.moved.items()]
        for branch, lost in self.lost.items():
            lines += [f"branch {branch!r}: {rows:,} samples of {name!r} are lost" for name, rows in lost.items()]
        lines += [f"left: {p.what}: {p.key}: {p.detail}" for p in self.left]
        return "\n".join(lines or ["nothing to repair"])


def repair(log: Log, report: Report, *, dry_run: bool = False) -> Repair:
    """Mend what a check found.

    A torn newest version object is moved to ``_lost/``: its commit was never readable. Files that are missing or damaged are
    taken out of the newest version of each branch, where the samples they held are missing from then on; older versions stay as
    they are, for a copy of the files may turn up.
    """
    made = Repair(done=not dry_run)
    for problem in report.problems:
        if problem.what == "torn":
            made.moved[problem.key] = LOST + problem.key
            if not dry_run:
                _move(log, problem.key)
    bad = {p.key for p in report.problems if p.what in ("missing", "damaged")}
    for branch in log.refs.branches():
        try:
            head = _newest_readable(log, branch.uuid, set(made.moved))
        except LakeError as e:
            made.left.append(Problem("log", version_key(branch.uuid, 0), f"branch {branch.name!r} cannot be opened: {e}"))
            continue
        groups, lost = _without(log, head, bad)
        if groups:
            made.lost[branch.name] = lost
            if not dry_run:
                log.commit(head, Transaction(_replacing(groups), message=f"repair: {len(bad)} files lost", named=True))
    data = ("data/", "overlays/", "dv/")
    made.left += [p for p in report.problems if p.what != "torn" and not p.key.startswith(data)]
    return made


def _newest_readable(log: Log, branch: str, moved: set[str]) -> Version:
    """The newest version, once the torn ones are out of the way."""
    numbers = [n for n in log.numbers(branch) if version_key(branch, n) not in moved]
    return log.read(branch, numbers[-1]) if numbers else log.head(branch)


def _replacing(groups: tuple[Group, ...]) -> Callable[[Version], list[Change]]:
    return lambda version: [Compact(groups)]


def _move(log: Log, key: str) -> None:
    """Put the torn object aside, once it is certain that it is torn and the newest."""
    try:
        data = log.store.get(key)
    except NoSuchObject:
        return
    try:
        decode_version(data, key)
    except Corrupt:
        log.store.put(LOST + key, data)
        log.store.delete([key])


def _without(log: Log, head: Version, bad: set[str]) -> tuple[tuple[Group, ...], dict[str, int]]:
    """The fragments of a version less some files, and how many samples go with these."""
    names = {t.id: t.name for t in head.state.tensors}
    groups: list[Group] = []
    lost: dict[str, int] = {}
    try:
        fragments: Sequence[Fragment] = list(Tree(head.state, log.leaves))
    except Corrupt:
        return (), {}
    for fragment in fragments:
        gone = [f for f in fragment.files if f.key in bad or _needs(f, bad)]
        overlays = [o for o in fragment.overlays if o.at.file.key in bad or any(f.key in bad for f in o.files)]
        deleted = fragment.deleted is not None and fragment.deleted.file.key in bad
        ids = fragment.ids is not None and fragment.ids.file.key in bad
        if not (gone or overlays or deleted or ids):
            continue
        for f in gone:
            for entry in f.fields:
                if entry.id in names:
                    lost[names[entry.id]] = lost.get(names[entry.id], 0) + entry.rows
        for o in overlays:
            if o.field_id in names:
                lost[names[o.field_id]] = lost.get(names[o.field_id], 0) + o.at.count
        if deleted or ids:
            lost["(deleted rows are back)" if deleted else "(row ids)"] = fragment.rows
        kept = replace(
            fragment, files=tuple(f for f in fragment.files if f not in gone),
            overlays=tuple(o for o in fragment.overlays if o not in overlays),
            deleted=None if deleted else fragment.deleted, ids=None if ids else fragment.ids,
        )  # fmt: skip
        groups.append(Group((fragment.id,), (kept,)))
    return tuple(groups), lost


def _needs(file: ColumnFile, bad: set[str]) -> bool:
    """Whether the shapes of its samples lie in a file that is lost."""
    return any(e.shape_file in bad for e in file.fields if e.shape_file is not None)
