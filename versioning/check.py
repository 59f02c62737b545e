"""Looking a dataset over, and mending what can be mended.

A check reads every log there is, also those without a name, whose versions a tag or a saved view may need: that it is dense, that
each version carries its predecessor's hash, that no transaction landed twice, and that all that versions and names refer to is
there and has its size; a full one compares every byte with its checksum. Each version and each leaf is read once. What looks amiss
is looked at again before it is said, for others may be at work.

A log that has lost its name is a problem: nobody would find what was committed to it. A repair gives it one.

A repair also puts a version that changes nothing in place of a torn newest version object, and takes files that are lost out of the
newest version, so that the rest of it can be read; what was lost with them is said.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from lakefmt.errors import Corrupt, LakeError, NoSuchVersion, UnsupportedFormat, VersionExpired, counted
from lakefmt.fragment.meta import INLINE_FOLDER, ColumnFile
from lakefmt.fragment.verify import verify_files
from lakefmt.versioning.changes import Change, Compact, Group
from lakefmt.versioning.clock import time_text
from lakefmt.versioning.expire import DATA_FOLDERS, LEAF_FOLDER, ROW_FOLDERS, numbers_of
from lakefmt.versioning.leaves import Tree
from lakefmt.versioning.log import Log, Nothing, Transaction, sealed, version_key
from lakefmt.versioning.lost import DELETIONS, IDS, Salvage
from lakefmt.versioning.names import WITHDRAWN
from lakefmt.versioning.pins import Pin, find_pins
from lakefmt.versioning.records import Branch, Leaf, State, Version, version_id
from lakefmt.versioning.refs import is_there
from lakefmt.versioning.torn import LOST, stand_in
from lakefmt.versioning.unnamed import has_lost_name, name_again

#: Versions that a text names one by one.
_NAMED_MAX = 8
replace = msgspec.structs.replace


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong.

    Attributes:
        what: ``missing``, ``damaged``, ``torn`` (the newest version object of a branch), ``log``, ``name``, or ``unnamed`` (a log
            that has lost its name).
        key: the object.
        detail: a sentence.
        versions: ids of all versions that need the object, those of one log newest first.
    """

    what: str
    key: str
    detail: str
    versions: tuple[str, ...] = ()

    def __str__(self) -> str:
        need = f"; needed by {_listed(self.versions)}" if self.versions and not self.key.startswith("log/") else ""
        return f"{self.what}: {self.key}: {self.detail}{need}"


def _of_file(problem: Problem, *more: str) -> bool:
    return problem.what in ("missing", "damaged") and problem.key.startswith((*ROW_FOLDERS, *more))


@dataclass(slots=True)
class Report:
    """What a check found.

    Attributes:
        problems: all that is wrong.
        versions, objects, nbytes: how much was looked at.
        full: whether every byte was read.
        newest: ids of the newest versions of the branches that go on.
    """

    problems: list[Problem] = field(default_factory=list)
    versions: int = 0
    objects: int = 0
    nbytes: int = 0
    full: bool = False
    newest: set[str] = field(default_factory=set)

    @property
    def mendable(self) -> list[Problem]:
        """Problems that a repair does away with: it sees to the newest versions."""
        return [
            p for p in self.problems if p.what in ("torn", "unnamed") or (_of_file(p) and not self.newest.isdisjoint(p.versions))
        ]

    @property
    def past(self) -> list[Problem]:
        """Problems of versions that are not the newest alone: files that only these need."""
        return [p for p in self.problems if _of_file(p, LEAF_FOLDER) and self.newest.isdisjoint(p.versions)]

    @property
    def advice(self) -> list[str]:
        """What can be done about it, in sentences."""
        lines: list[str] = []
        if self.mendable:
            lines.append(
                "lakefmt fsck --repair sets torn versions aside, takes lost files out of the newest versions, and gives branches "
                "that lost their names new ones; what can be restored from a copy should be first"
            )
        if past := self.past:
            lines.append(
                f"older versions that need {'it' if len(past) == 1 else 'them'} stay broken, the newest are whole: restore "
                f"{counted(len(past), 'file')} from a copy"
            )
        if rest := len(self.problems) - len(self.mendable) - len(past):
            lines.append(f"no repair helps with {counted(rest, 'problem')}: do as told there, or restore from a copy")
        return lines

    def __bool__(self) -> bool:
        """Whether all is well."""
        return not self.problems

    def __repr__(self) -> str:
        how = "every byte" if self.full else "metadata and sizes"
        counts = (counted(self.versions, "version"), counted(self.objects, "object"), counted(self.nbytes, "byte"))
        lines = [f"checked {how}: {', '.join(counts)}"]
        lines += [f"  {p}" for p in self.problems] or ["  nothing is wrong"]
        return "\n".join(lines)


def check(log: Log, *, full: bool = False, only: Version | None = None) -> Report:
    """Look over all logs and names, or only what one version needs.

    Args:
        full: read every byte and compare checksums; else sizes.
    """
    report = Report(full=full)
    log = _looked_at_anew(log)
    needs = _Needs(log, only is not None, full=full)
    if only is not None:
        needs.add(only)
    else:
        pins, bad = find_pins(log.store)  # before the logs: what they name is there by then
        report.problems += [Problem("name", key, _said(log, key, e)) for key, e in bad.items()]
        logs = _Logs(log, report, pins)
        for version in logs.versions():
            needs.add(version)
        report.problems += [p for pin in pins if (p := logs.unkept(pin)) is not None]
    report.versions = len(needs.versions)
    needs.look(report)
    return report


def _looked_at_anew(log: Log) -> Log:
    """The log without what is cached of it, and without open files: they would show what was there before."""
    if log.store.is_local:
        log.store.release()
    if log.store.origin is log.store:
        return log
    anew = Log(log.store.origin, log.claim)
    anew.leaves.explain = log.leaves.explain
    return anew


class _Logs:
    """The logs of a dataset, as a check goes through them."""

    def __init__(self, log: Log, report: Report, pins: Sequence[Pin]) -> None:
        self.log, self.report, self.pins = log, report, pins
        self._there: dict[str, set[int]] = {}  # numbers by log: those that can be read, or are known to be damaged
        self._expired: dict[str, set[int]] = {}
        self._held: dict[tuple[str, int], Version | LakeError] = {}
        self._unread = False  # whether the name of some branch does not parse
        self._contained: dict[str, int] = {}  # up to which version the work of a log is in versions of others

    def versions(self) -> Iterator[Version]:
        """All versions that parse and that somebody may need, problems of the logs noted.

        Of a log without a name that was not ended either (its branch was never made, or taken back at once, for what it began on
        had expired), only what a name needs; unless it has lost its name.
        """
        branches = {b.uuid: b for b in self._branches()}
        numbers = {b: list[int]() for b in branches} | numbers_of(e.key for e in self.log.store.list("log/"))
        unnamed: dict[str, Version] = {}
        for branch, found in numbers.items():
            newest = None if branch in branches else self._newest(branch, found[-1])
            if newest is not None and sealed(newest.head) in (None, WITHDRAWN):
                unnamed[branch] = newest
                continue
            yield from self._of_log(branch, found, goes_on=branch in branches)
            if not found:
                what = f"branch {branches[branch].name!r} has no version"
                self.report.problems.append(Problem("missing", f"log/{branch}/", what))
        for branch, newest in unnamed.items():  # once it is known what others have of them
            every = self._has_lost_name(newest)
            pinned = {p.v for p in self.pins if branch.startswith(p.branch)}
            yield from (v for v in self._of_log(branch, numbers[branch], goes_on=every) if every or v.head.v in pinned)

    def _newest(self, branch: str, v: int) -> Version | None:
        """The newest version of a log without a name; ``None`` where it cannot be read, as when it has expired."""
        try:
            version = self._held[(branch, v)] = self.log.read(branch, v)
        except LakeError as e:
            self._held[(branch, v)] = e
            return None
        return version

    def _has_lost_name(self, newest: Version) -> bool:
        """Whether a log has lost its name; noted, unless the name may be one of those that do not parse."""
        if sealed(newest.head) is not None:
            return False
        if self._unread:
            return True
        if not has_lost_name(self.log, newest, self._contained.get(newest.head.branch, -1)):
            return False
        what = f"a branch without a name, up to version {newest.id} of {time_text(newest.head.ts_ms)}; a repair gives it a name"
        self.report.problems.append(Problem("unnamed", f"log/{newest.head.branch}/", what, (newest.id,)))
        return True

    def _read(self, branch: str, v: int) -> Version:
        """A version, unless it has been read before."""
        found = self._held.pop((branch, v), None)
        if isinstance(found, LakeError):
            raise found
        return found or self.log.read(branch, v)

    def _branches(self) -> Iterator[Branch]:
        for name in self.log.refs.branch_names():
            try:
                found = self.log.refs.find_branch(name)
            except Corrupt as e:
                self._unread = True
                key = f"refs/branches/{name}"
                self.report.problems.append(Problem("name", key, _said(self.log, key, e)))
                continue
            if found is not None:
                yield found

    def _of_log(self, branch: str, numbers: list[int], *, goes_on: bool) -> Iterator[Version]:
        there, expired = self._there.setdefault(branch, set()), self._expired.setdefault(branch, set())
        before: Version | None = None
        newest: Version | None = None
        transactions: dict[str, int] = {}
        holes = sorted(set(range(max(numbers, default=0))) - set(numbers))
        for n in holes[:_NAMED_MAX]:
            if not is_there(self.log.store, version_key(branch, n)):  # a listing that others write into may miss some
                self._problem("missing", branch, n, "a version object is not there")
        for v in numbers:
            try:
                version = self._read(branch, v)
            except VersionExpired:
                expired.add(v)
                before = None
                continue
            except (Corrupt, UnsupportedFormat, NoSuchVersion) as e:
                there.add(v)
                torn = v == numbers[-1] and isinstance(e, Corrupt)
                what = "missing" if isinstance(e, NoSuchVersion) else "torn" if torn else "damaged"
                self._problem(what, branch, v, _said(self.log, version_key(branch, v), e))
                before = None
                continue
            there.add(v)
            self._compare(version, before, transactions)
            before = newest = version
            for other, upto in version.state.contains.items():
                self._contained[other] = max(upto, self._contained.get(other, -1))
            yield version
        if goes_on and newest is not None and sealed(newest.head) is None:
            self.report.newest.add(newest.id)

    def _compare(self, version: Version, before: Version | None, transactions: dict[str, int]) -> None:
        branch, v = version.head.branch, version.head.v
        if version.head.transaction in transactions:
            self._problem("log", branch, v, f"its transaction is also in version {transactions[version.head.transaction]}")
        transactions[version.head.transaction] = v
        if before is not None and before.head.v == v - 1 and version.head.previous != before.xxh64:
            self._problem("log", branch, v, f"it does not carry the hash of version {v - 1}")
        if before is not None and version.head.ts_ms <= before.head.ts_ms:
            self._problem("log", branch, v, "it is not younger than the version before it")

    def _problem(self, what: str, branch: str, v: int, detail: str) -> None:
        self.report.problems.append(Problem(what, version_key(branch, v), detail, (version_id(branch, v),)))

    def unkept(self, pin: Pin) -> Problem | None:
        """What is wrong with a name whose version is not there; ``None`` where all is well.

        A lease that has ended needs nothing, nor does one that its holder has taken back or is about to.
        """
        if pin.until_ms is not None and (pin.until_ms <= time.time() * 1000 or not pin.checked):
            return None
        if any(pin.v in v for b, v in self._there.items() if b.startswith(pin.branch)):
            return None
        gone = any(pin.v in v for b, v in self._expired.items() if b.startswith(pin.branch))
        if not is_there(self.log.store, pin.key):
            return None
        why = "has expired" if gone else "is not there"
        return Problem("name", pin.key, f"{pin.what} names version {pin.version}, which {why}; {pin.remedy}")


class _Needs:
    """What versions refer to, and which of them."""

    def __init__(self, log: Log, one: bool, *, full: bool) -> None:
        """
        Args:
            one: a single version is looked at; that it has expired is no reason then for its files not to be there.
        """
        self.log, self.one, self.full = log, one, full
        self.sizes = {e.key: e.size for folder in DATA_FOLDERS for e in log.store.list(folder)}
        self.versions: list[tuple[str, int]] = []
        self.files: dict[str, ColumnFile] = {}
        self._users: dict[str, list[int]] = {}  # of a file or leaf: places in ``versions``
        self._holders: dict[str, list[str]] = {}  # of a file: the leaves that list it
        self._bad_leaves: dict[str, LakeError] = {}
        self._expired: dict[int, bool] = {}  # whether a version, by its place, has expired since it was read

    def add(self, version: Version) -> None:
        """Note what a version needs; leaves are read when they are first met."""
        place = len(self.versions)
        self.versions.append((version.head.branch, version.head.v))
        for leaf in version.state.leaves:
            if leaf.key not in self._users:
                self._add_leaf(leaf)
            self._users.setdefault(leaf.key, []).append(place)
        fragments = [*(o.fragment for o in version.state.overrides), *version.state.fragments]
        for file in dict.fromkeys(f for x in fragments for f in x.every_file() if not f.key.startswith(INLINE_FOLDER)):
            self.files[file.key] = file
            self._users.setdefault(file.key, []).append(place)

    def _add_leaf(self, leaf: Leaf) -> None:
        try:
            if self.full or self.sizes.get(leaf.key) != leaf.size:
                self.log.leaves.forget(leaf)
            self.log.leaves.table(leaf)
        except VersionExpired as e:
            if self.one:
                raise
            self._bad_leaves[leaf.key] = e
            return
        except Corrupt as e:
            self._bad_leaves[leaf.key] = e
            return
        for fragment in Tree(State(leaves=(leaf,)), self.log.leaves):
            for file in fragment.every_file():
                self.files[file.key] = file
                self._holders.setdefault(file.key, []).append(leaf.key)

    def look(self, report: Report) -> None:
        """Compare what is needed with what is there."""
        report.objects += len(self.files) + sum(1 for k in self._users if k.startswith(LEAF_FOLDER))
        for key, e in self._bad_leaves.items():
            self._problem(report, "damaged" if key in self.sizes else "missing", key, _said(self.log, key, e))
        for key, file in self.files.items():
            size = self.sizes.get(key)
            if size != file.size:
                size = self._size(file)
            if size is None:
                self._problem(report, "missing", key, f"a file of {counted(file.size, 'byte')} is not there")
            elif size != file.size:
                self._problem(report, "damaged", key, f"it has {counted(size, 'byte')} instead of {file.size:,}")
            elif self.full:
                try:
                    report.nbytes += verify_files(self.log.store, [file])
                except Corrupt as e:
                    self._problem(report, "damaged", key, _said(self.log, key, e))
            else:
                report.nbytes += file.size

    def _size(self, file: ColumnFile) -> int | None:
        """Bytes of a file that was not listed (with this size): it may have been written since."""
        folder = file.key.rpartition("/")[0] + "/"
        return next((e.size for e in self.log.store.list(folder) if e.key == file.key), None)

    def _problem(self, report: Report, what: str, key: str, detail: str) -> None:
        """Note it, unless all versions that need the object have expired since they were read."""
        places = {*self._users.get(key, ()), *(p for leaf in self._holders.get(key, ()) for p in self._users[leaf])}
        newest_first = sorted(places, key=lambda p: (self.versions[p][0], -self.versions[p][1]))
        while newest_first and not self.one and self._has_expired(newest_first[0]):
            newest_first.pop(0)
        if newest_first:
            report.problems.append(Problem(what, key, detail, tuple(version_id(*self.versions[p]) for p in newest_first)))

    def _has_expired(self, place: int) -> bool:
        if place not in self._expired:
            try:
                self.log.read(*self.versions[place])
                self._expired[place] = False
            except Corrupt:
                self._expired[place] = False
            except NoSuchVersion:
                self._expired[place] = True
        return self._expired[place]


# -- mending ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loss:
    """What a branch has lost with some files of one run of rows.

    Attributes:
        branch: its name.
        what: a tensor whose samples are missing from now on; ``(row ids)`` of rows that have new ones; ``(deleted rows are back)``.
        count: of how many rows.
        rows: positions (first, and one past the last), as they are after the repair, among which these are.
        keys: the files.
        versions: ids of the versions that need one of them still.
    """

    branch: str
    what: str
    count: int
    rows: tuple[int, int]
    keys: tuple[str, ...]
    versions: tuple[str, ...]

    def __str__(self) -> str:
        are = "is" if self.count == 1 else "are"
        match self.what:
            case str(what) if what == DELETIONS:
                text = f"{counted(self.count, 'deleted row')} {are} back"
            case str(what) if what == IDS:
                text = f"{counted(self.count, 'row')} {'has' if self.count == 1 else 'have'} new row ids"
            case _:
                text = f"{counted(self.count, 'sample')} of {self.what!r} {are} lost"
        first, stop = self.rows
        among = f"row {first:,}" if stop == first + 1 else f"rows {first:,} to {stop - 1:,}"
        older = f"; needed by {_listed(self.versions)}" if self.versions else ""
        return f"branch {self.branch!r}: {text}, among {among} ({', '.join(self.keys)}{older})"


@dataclass(slots=True)
class Repair:
    """What a repair did.

    Attributes:
        named: logs that had lost their names, by the names they have now.
        moved: torn version objects, by their key, and where they lie now; versions that change nothing are in their places.
        lost: per branch and tensor, how many rows have lost their sample; beside tensors ``(row ids)`` for rows that have new ones,
            and ``(deleted rows are back)``.
        losses: the same for each run of rows, with the files and versions concerned.
        left: problems that could not be mended.
        done: whether anything was changed (a dry run changes nothing).
    """

    named: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    lost: dict[str, dict[str, int]] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)
    done: bool = False

    def __repr__(self) -> str:
        verb = "named" if self.done else "would name"
        lines = [f"{verb} {key} {name!r}" for name, key in self.named.items()]
        verb = "moved" if self.done else "would move"
        lines += [f"{verb} the torn {old} to {new}" for old, new in self.moved.items()]
        lines += [str(loss) for loss in self.losses]
        lines += [f"left: {p}" for p in self.left]
        return "\n".join(lines or ["nothing to repair"])


def repair(log: Log, report: Report, *, dry_run: bool = False) -> Repair:
    """Mend what a check found.

    A torn newest version object is copied to ``_lost/`` (its commit was never readable), and a version like the one before takes
    its number. Files that are missing or damaged are taken out of the newest version of each branch, where the samples they held
    are missing from then on; older versions stay as they are, for a copy of the files may turn up. So do branches that have ended.
    Logs that have lost their names get some.
    """
    log = _looked_at_anew(log)
    made = Repair(done=not dry_run)
    again = _named_again(log, report, made, dry_run=dry_run)
    bare: dict[str, Version] = {}  # of a dry run: the newest version below a torn one
    for problem in report.problems:
        if problem.what == "torn":
            try:
                before = stand_in(log, problem.key, dry_run=dry_run)
            except LakeError as e:
                made.left.append(Problem(problem.what, problem.key, f"it is torn, and cannot be set aside: {e}", problem.versions))
                continue
            if before is not None:
                bare[before.head.branch] = before
                made.moved[problem.key] = LOST + problem.key
    needed = {p.key: p.versions for p in report.problems if p.what in ("missing", "damaged") and p.key.startswith(ROW_FOLDERS)}
    salvage = Salvage(log.store, set(needed), write=not dry_run)
    for branch in {b.uuid: b for b in (*again, *log.refs.branches())}.values():
        try:
            head = bare[branch.uuid] if dry_run and branch.uuid in bare else _newest(log, branch.uuid)
            if needed and not sealed(head.head):
                _mend_branch(log, branch, head, salvage, needed, made)
        except LakeError as e:
            what = f"branch {branch.name!r} cannot be mended: {e}"
            made.left.append(Problem("log", version_key(branch.uuid, 0), what))
    made.left += [p for p in report.problems if p.what not in ("torn", "unnamed") and not p.key.startswith(ROW_FOLDERS)]
    return made


def _named_again(log: Log, report: Report, made: Repair, *, dry_run: bool) -> list[Branch]:
    """Names for the logs that have lost theirs."""
    branches: list[Branch] = []
    for problem in report.problems:
        if problem.what == "unnamed":
            try:
                branch = name_again(log, problem.key.split("/")[1], dry_run=dry_run)
            except LakeError as e:
                made.left.append(Problem(problem.what, problem.key, f"it cannot be given a name: {e}", problem.versions))
                continue
            if branch is not None:
                branches.append(branch)
                made.named[branch.name] = problem.key
    return branches


def _newest(log: Log, branch: str) -> Version:
    """The newest version, looked for from the greatest number listed: a hint may lead to a hole of a damaged log."""
    return log.head(branch, at_least=max(log.numbers(branch), default=0))


def _mend_branch(
    log: Log, branch: Branch, head: Version, salvage: Salvage, needed: dict[str, tuple[str, ...]], made: Repair
) -> None:  # fmt: skip
    """Take lost files out of a branch's newest version, whichever it is when that lands."""
    losses: list[Loss] = []

    def build(version: Version) -> list[Change]:
        groups: list[Group] = []
        losses.clear()
        tensors = {t.id: t for t in version.state.tensors}
        stop = 0
        for fragment in Tree(version.state, log.leaves):
            left = salvage.remains(fragment, tensors)
            start, stop = stop, stop + (fragment if left is None else left.fragment).live
            if left is None:
                continue
            groups.append(Group((fragment.id,), (left.fragment,)))
            keys = tuple(sorted(left.keys))
            versions = tuple(dict.fromkeys(v for k in keys for v in needed.get(k, ())))
            losses.extend(Loss(branch.name, what, n, (start, stop), keys, versions) for what, n in left.lost.items())
        if not groups:
            raise Nothing("no file of the newest version is lost")
        return [Compact(tuple(groups))]

    if not made.done:
        try:
            build(head)
        except Nothing:
            return
    else:
        try:
            txn = Transaction(build, message="repair: lost files taken out", named=True, operation="repair", again=True)
            log.commit(head, txn)
        except Nothing:
            return
    made.losses += losses
    total = made.lost.setdefault(branch.name, {})
    for loss in losses:
        total[loss.what] = total.get(loss.what, 0) + loss.count


# -- texts -----------------------------------------------------------------------------------------------------------------


def _said(log: Log, key: str, error: LakeError) -> str:
    """What an error says of an object, whose key is told before it."""
    text, url = str(error), log.store.url
    for start in (f"{url}/{key}.json", f"{url}/{key}", f"{url}: 1 damaged: {key}"):
        if text.startswith(start):
            return text[len(start) :].removeprefix(":").strip().removesuffix(". Restore from a copy")
    return text


def _listed(versions: Sequence[str]) -> str:
    named = ", ".join(versions[:_NAMED_MAX])
    more = len(versions) - _NAMED_MAX
    head = "version" if len(versions) == 1 else "versions"
    return f"{head} {named}" + (f" and {more:,} more" if more > 0 else "")
