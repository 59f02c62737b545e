"""The log in a store: the only module of this room that calls it.

Opening a branch reads a hint, then the version it names and the next, and gallops on from there. Committing puts the next
number if it is absent, and reads the slot back whenever the answer was anything but a plain yes.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec

from lakefmt.errors import (
    CommitStateUnknown,
    Conflict,
    Corrupt,
    LakeError,
    NoSuchDataset,
    NoSuchObject,
    NoSuchVersion,
    StoreError,
    UnsupportedFormat,
    VersionExpired,
    nearest,
)
from lakefmt.storage import Range, Store, probe_put_if_absent
from lakefmt.versioning.author import author
from lakefmt.versioning.changes import Change, Name, fold, touches, without
from lakefmt.versioning.clock import clock_s
from lakefmt.versioning.conflicts import Verdict, judge
from lakefmt.versioning.encode import check_format_version, decode_head, decode_version, encode_version
from lakefmt.versioning.leaves import REUSE_AGE_MAX_S, Leaves, adopted, merged, shelved, small_runs
from lakefmt.versioning.records import (
    BASIC_READERS,
    FORMAT_VERSION,
    ID_SPACES,
    ROW_ID_BITS,
    WRITER_FEATURES,
    Branch,
    Claim,
    Head,
    Leaf,
    Operation,
    State,
    Version,
    version_id,
)
from lakefmt.versioning.refs import Refs, checked, is_there, parse_version_id, put_once, unchecked

CLAIM_KEY = "_lakefmt.json"
MAIN = "main"
#: A transaction older than this refuses to commit, so that expiry may remove orphaned files after a longer grace.
TRANSACTION_AGE_MAX_S = 6 * 3600
#: Numbers lost to other writers before giving up.
ATTEMPTS_MAX = 200
#: Tries to learn the outcome of one ambiguous put.
AMBIGUOUS_TRIES_MAX = 6
_HEAD_FETCH_NBYTES = 4096
#: An id space is left for a new one in time.
_ROWS_A_SPACE = 1 << (ROW_ID_BITS - 1)
#: Where asking costs no round trip, the hint is written once in so many versions (replacing a file costs a sixth of a commit).
_HINT_EVERY = 8


class Nothing(Conflict):
    """Raised by a builder: on top of what landed first, there is nothing left to commit."""


@dataclass(slots=True)
class Transaction:
    """One commit in the making.

    Attributes:
        build: makes the changes from a version; called again when the conflict table asks for a rerun.
        message: the user's, or ``None`` for a flush.
        named: whether the version is a commit of the user's.
        operation: what the user called, where it is more than storing rows.
        merged: branch and version that this brings in.
        again: build it again from whatever landed first, and ask no conflict table (it looks at everything itself).
        inline: files of rows that may go into the version object, by key.
        readers: features that a reader of what this writes must know.
        attempt: the version last put, and its bytes; for bringing an unknown outcome to an end.
    """

    build: Callable[[Version], list[Change]]
    message: str | None = None
    named: bool = False
    operation: str = ""
    merged: tuple[str, int] | None = None
    again: bool = False
    inline: dict[str, bytes] = field(default_factory=dict)
    readers: frozenset[str] = frozenset()
    attempt: tuple[Version, bytes] | None = None
    uuid: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_s: float = field(default_factory=clock_s)


class Log:
    """The log of one dataset."""

    def __init__(self, store: Store, claim: Claim) -> None:
        self.store = store
        self.claim = claim
        self.refs = Refs(store)
        self.leaves = Leaves(store)
        self._commits = 0
        self._merges: dict[tuple[str, ...], tuple[Leaf, ...]] = {}
        self._merged_s = 0.0
        self._put_s = 0.0  # how long a put that won took lately
        self._rivals = 1.0  # how many versions of others landed lately while one of this handle's did

    # -- places --------------------------------------------------------------------------------------------------------

    @staticmethod
    def exists(store: Store) -> bool:
        """Whether the place holds a lakefmt dataset."""
        try:
            store.get(CLAIM_KEY)
        except NoSuchObject:
            return False
        return True

    @classmethod
    def open(cls, store: Store) -> Log:
        """Open a dataset.

        Raises:
            NoSuchDataset: there is none.
            UnsupportedFormat: a newer lakefmt made it.
        """
        try:
            data = store.get(CLAIM_KEY)
        except NoSuchObject:
            raise NoSuchDataset(
                f"{store.url} holds no lakefmt dataset; lakefmt.dataset({store.url!r}) or lakefmt.empty(…) makes one there"
            ) from None
        what = f"{store.url}/{CLAIM_KEY}"
        try:
            generic = msgspec.json.decode(data)
            version = generic["format_version"]
            if generic["format"] != "lakefmt" or not isinstance(version, int):
                raise Corrupt(f"{what}: it does not say that it is a lakefmt dataset")
            check_format_version(version, what)
            return cls(store, unchecked(data, Claim, what))
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as e:
            raise Corrupt(f"{what} does not parse ({e}); restore it from a copy") from e

    @classmethod
    def create(cls, store: Store) -> Log:
        """Create a dataset, or open the one that another writer has just created.

        Raises:
            UnsafeStore: the store cannot promise put-if-absent.
        """
        probe_put_if_absent(store, f"_probe/{uuid.uuid4().hex}")
        created_ms = now_ms()
        claim = Claim(
            format="lakefmt", format_version=FORMAT_VERSION, dataset=uuid.uuid4().hex, created_ms=created_ms,
            place=uuid.uuid4().hex,
        )  # fmt: skip
        put_once(store, CLAIM_KEY, checked(claim))
        log = cls.open(store)
        log._complete()
        return log

    def _complete(self) -> None:
        """Make the first branch and its version 0, the same bytes whoever does it: a crash half-way is finished here."""
        claim = self.claim
        branch = Branch(name=MAIN, uuid=claim.dataset, created_ms=claim.created_ms)
        head = Head(
            format_version=FORMAT_VERSION, dataset=claim.dataset, branch=branch.uuid, v=0, transaction=claim.dataset,
            read_v=-1, previous="", ts_ms=claim.created_ms, author="", message="created", readers=_features(BASIC_READERS),
            writers=_features(WRITER_FEATURES),
        )  # fmt: skip
        data, _ = encode_version(head, State(place=claim.place))
        put_once(self.store, version_key(branch.uuid, 0), data)
        self.refs.create_branch(branch)

    # -- names ---------------------------------------------------------------------------------------------------------

    def branch(self, name: str) -> Branch:
        """A branch by name.

        Raises:
            NoSuchVersion: there is none.
        """
        found = self.refs.find_branch(name)
        if found is None and name == MAIN:  # a creator died half-way, or the name was lost
            last = self.numbers(self.claim.dataset)[-1:]
            if last and sealed(self.heads(self.claim.dataset, last)[0]) is not None:  # what it was squashed to has none now
                raise Corrupt(f"{self.store.url}: the branch 'main' has lost its name; run `lakefmt fsck --repair`")
            self._complete()
            found = self.refs.find_branch(name)
        if found is None:
            known = [b.name for b in self.refs.branches()] + [t.name for t in self.refs.tags()]
            raise NoSuchVersion(f"{self.store.url} has no branch, tag or version {name!r}; {nearest(name, known)}")
        return found

    def resolve(self, at: str) -> tuple[Branch | None, Version]:
        """The version that a branch, tag or version id names; with the branch, when it is its head.

        Raises:
            NoSuchVersion: none of them.
        """
        found = parse_version_id(at)
        if found is not None:
            prefix, v = found
            for branch_uuid in self.logs():
                if branch_uuid.startswith(prefix):
                    return None, self.read(branch_uuid, v)
            for kept in self.refs.tags():  # of a branch that was deleted
                if kept.branch.startswith(prefix):
                    return None, self.read(kept.branch, v)
            raise NoSuchVersion(
                f"{self.store.url} has no branch that version {at!r} could be of; it was deleted, or never was here"
            )
        named = self.refs.find_branch(at)
        if named is None and (tag := self.refs.find_tag(at)) is not None:
            return None, self.read(tag.branch, tag.v)
        branch = named or self.branch(at)
        return branch, self.head(branch.uuid)

    def logs(self) -> list[str]:
        """Uuids of all logs that a version id may name: those of the branches and of what they come from."""
        found: dict[str, None] = {}
        for branch in self.refs.branches():
            found |= dict.fromkeys((branch.uuid, *branch.earlier))
            if branch.parent is not None:
                found[branch.parent] = None
        return list(found)

    # -- versions ------------------------------------------------------------------------------------------------------

    def read(self, branch_uuid: str, v: int) -> Version:
        """One version."""
        key = version_key(branch_uuid, v)
        try:
            data = self.store.get(key)
        except NoSuchObject:
            raise NoSuchVersion(f"{self.store.url} has no version {version_id(branch_uuid, v)}") from None
        return self._decoded(data, branch_uuid, v)

    def _decoded(self, data: bytes, branch_uuid: str, v: int) -> Version:
        key = version_key(branch_uuid, v)
        version = decode_version(data, f"{self.store.url}/{key}")
        if version.head.branch != branch_uuid or version.head.v != v:
            raise Corrupt(f"{self.store.url}/{key} says it is version {version.id}; restore it from a copy")
        return version

    def head(self, branch_uuid: str, at_least: int = 0) -> Version:
        """The newest version of a branch, looked for from ``at_least`` (a version known to exist) or the hint on."""
        if at_least:
            return self.read(branch_uuid, self._gallop(branch_uuid, at_least))
        hint = self._hint(branch_uuid)
        v = self._search(branch_uuid)[1] if hint is None else hint
        try:
            here, ahead = self._two(branch_uuid, v)
            if here is None and ahead is None:
                here, v = self._search(branch_uuid)
                ahead = self._try_read(branch_uuid, v + 1)
            newest = v + 1 if ahead is not None else v
        except VersionExpired:  # the hint is very old; numbers stay taken, so that the way up is still there
            here, ahead, newest = None, None, v
        found = self._gallop(branch_uuid, newest) if ahead is not None or here is None else newest
        if found != v:
            here = ahead if found == v + 1 and ahead is not None else self.read(branch_uuid, found)
        if here is None:
            raise NoSuchVersion(f"{self.store.url}: the branch {branch_uuid} has no version; restore log/{branch_uuid}/")
        return here

    def _two(self, branch_uuid: str, v: int) -> tuple[Version | None, Version | None]:
        """Versions ``v`` and ``v + 1``, asked for at once where asking takes a round trip."""
        if not self.store.is_local:
            try:
                with ThreadPoolExecutor(2) as pool:
                    here, ahead = pool.map(lambda n: self._try_read(branch_uuid, n), (v, v + 1))
                return here, ahead
            except RuntimeError:  # the interpreter is ending and starts no thread any more
                pass
        return self._try_read(branch_uuid, v), self._try_read(branch_uuid, v + 1)

    def _gallop(self, branch_uuid: str, v: int) -> int:
        """The newest number, from one that exists: in growing steps while they exist, then by halves (numbers are dense)."""
        step = 1
        while self._exists(branch_uuid, v + step):
            v, step = v + step, step * 2
        low, high = v, v + step  # low exists, high does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._exists(branch_uuid, middle) else (low, middle)
        return low

    def _exists(self, branch_uuid: str, v: int) -> bool:
        return is_there(self.store, version_key(branch_uuid, v))

    def _try_read(self, branch_uuid: str, v: int) -> Version | None:
        key = version_key(branch_uuid, v)
        try:
            data = self.store.get(key)
        except NoSuchObject:
            return None
        return self._decoded(data, branch_uuid, v)

    def _hint(self, branch_uuid: str) -> int | None:
        """Where the head was last seen; a damaged or missing hint is no hint."""
        try:
            value = json.loads(self.store.get(_hint_key(branch_uuid)))["v"]
        except (NoSuchObject, ValueError, KeyError, TypeError, RecursionError):
            return None
        return value if isinstance(value, int) and value >= 0 else None

    def _search(self, branch_uuid: str) -> tuple[Version | None, int]:
        """The hint misled: list the log."""
        numbers = self.numbers(branch_uuid)
        return (self.read(branch_uuid, numbers[-1]), numbers[-1]) if numbers else (None, 0)

    def numbers(self, branch_uuid: str) -> list[int]:
        """Numbers of the versions there are, by listing."""
        prefix = f"log/{branch_uuid}/"
        names = [e.key[len(prefix) :] for e in self.store.list(prefix)]
        return sorted(int(n[:-5]) for n in names if n.endswith(".json") and n[:-5].isdigit())

    def heads(self, branch_uuid: str, numbers: Sequence[int]) -> list[Head]:
        """Heads of some versions of a branch, expired ones too, in one round of small reads."""
        return [head for head, _ in self.head_lines(branch_uuid, numbers)]

    def head_lines(self, branch_uuid: str, numbers: Sequence[int]) -> list[tuple[Head, int]]:
        """Heads of some versions, and the bytes they take of their objects."""
        return self._head_lines([version_key(branch_uuid, n) for n in numbers])

    def heads_at(self, places: Sequence[tuple[str, int]]) -> list[Head]:
        """Heads of versions of several branches, in one round."""
        return [head for head, _ in self._head_lines([version_key(*place) for place in places])]

    def _head_lines(self, keys: Sequence[str]) -> list[tuple[Head, int]]:
        out = []
        for key, data in zip(keys, self.store.get_ranges([Range(k, 0, _HEAD_FETCH_NBYTES) for k in keys]), strict=True):
            if b"\n" not in bytes(data):
                data = self.store.get(key)
            out.append(decode_head(data, f"{self.store.url}/{key}"))
        return out

    def history(self, version: Version) -> Iterator[Head]:
        """Heads from a version back to the beginning, through the branches it came from."""
        branch, v = version.head.branch, version.head.v
        while True:
            for low in range(v, -1, -256):
                batch = self.heads(branch, range(low, max(-1, low - 256), -1))
                yield from batch
            first = batch[-1]
            if first.parent is None or first.parent_v is None:
                return
            branch, v = first.parent, first.parent_v

    # -- commit --------------------------------------------------------------------------------------------------------

    def commit(self, base: Version, txn: Transaction) -> Version:
        """Put the next version of the branch that ``base`` is on.

        Returns:
            The version written (on top of whatever others have committed meanwhile).

        Raises:
            Conflict: others changed the same thing.
            CommitStateUnknown: the store does not tell whether it landed.
        """
        check_writable(base)
        self._check_place()
        changes = txn.build(base)
        began_ms, lost = now_ms(), 0
        for attempt in range(ATTEMPTS_MAX):
            if clock_s() - txn.started_s > TRANSACTION_AGE_MAX_S:
                raise Conflict(f"this transaction is older than {TRANSACTION_AGE_MAX_S} s; redo it from the newest version")
            data, version = self._next(base, txn, changes)
            txn.attempt = (version, data)
            asked_s = clock_s()
            if self._put_version(version, data) is None:
                self._put_s += 0.3 * (clock_s() - asked_s - self._put_s)
                self._rivals += 0.3 * (lost - self._rivals)
                self._check_newest(version)
                self._landed(version)
                return version
            time.sleep(_pause_s(attempt, max(self._put_s, clock_s() - asked_s), max(self._rivals, lost)))
            newest = self.head(base.head.branch, at_least=version.head.v)
            check_writable(newest)
            missed = self.heads(base.head.branch, range(version.head.v, newest.head.v + 1))
            lost += sum(h.ts_ms >= began_ms for h in missed)
            changes = self._rebased(txn, changes, missed, newest)
            base = newest
        raise Conflict(f"{self.store.url}: lost {ATTEMPTS_MAX} races for the next version; nothing was committed, try again")

    def _check_newest(self, version: Version) -> None:
        """Refuse to acknowledge a version that has filled a hole in a damaged log (looked for where it costs no round trip)."""
        branch, v = version.head.branch, version.head.v + 1
        stranger = False
        if self.store.is_local:
            with contextlib.suppress(StoreError):  # it has landed, whatever the store tells of this question
                stranger = self._exists(branch, v) and self.heads(branch, [v])[0].previous != version.xxh64
        if stranger:
            raise Corrupt(
                f"{self.store.url}: version {version.id} was missing though later ones are there, and this commit has taken its "
                "number: it is not on the branch. Run `lakefmt fsck`, open the dataset again, and redo"
            )

    def _rebased(self, txn: Transaction, changes: list[Change], missed: Sequence[Head], newest: Version) -> list[Change]:
        """The changes to make on top of what landed first."""
        theirs = [t for h in missed for t in h.touched]
        verdict, why = (Verdict.RERUN, "") if txn.again else judge(touches(changes), theirs)
        if verdict is Verdict.PART:
            changes = without(changes, {f for t in theirs for f in t.fragments})
            verdict = verdict if changes else Verdict.RERUN
        if verdict is Verdict.FAIL:
            raise Conflict(
                f"{self.store.url}: {why}; versions up to {newest.id} landed first. Nothing of this was committed: "
                "discard() drops what is buffered, refresh() shows what is there now; then redo it"
            )
        return txn.build(newest) if verdict is Verdict.RERUN else changes

    def _landed(self, version: Version) -> None:
        """What is done after a commit, and off its path: the hint, and joining small leaves for a later commit to adopt.

        Advisory: a failure here harms nobody, and must not turn a landed commit into an error.
        """
        self._commits += 1
        if not self.store.is_local or version.head.v % _HINT_EVERY == 0:
            hint = json.dumps({"v": version.head.v, "floor": version.state.floor}).encode()
            with contextlib.suppress(StoreError):
                self.store.put_hint(_hint_key(version.head.branch), hint)
        if self._commits > 1 and (runs := small_runs(version.state)):  # a handle that commits once adopts nothing
            run = runs[0]
            with contextlib.suppress(LakeError):  # damage is told to who reads
                self._merges = {tuple(leaf.key for leaf in run): merged(self.leaves, run)}
                self._merged_s = clock_s()

    def forget_unused(self) -> None:
        """Use no leaf again that was written and that no version refers to: an expiry may remove it."""
        self._merges = {}
        self.leaves.forget_written()

    def _check_place(self) -> None:
        """Refuse to commit where the dataset was deleted, or another was made, since it was opened."""
        if Log.open(self.store).claim.dataset != self.claim.dataset:
            raise Conflict(f"{self.store.url} holds another dataset now than when this handle was opened; open it again")

    def settle(self, txn: Transaction) -> Version | None:
        """Bring a transaction of unknown outcome to an end: put the same bytes to the same slot again.

        Returns:
            The newest version if the transaction is in the log (it landed before, or does now); ``None`` if another writer has
            the slot, or it was never put: nothing of it can land any more.
        """
        if txn.attempt is None:
            return None
        version, data = txn.attempt
        self._check_place()
        if clock_s() - txn.started_s > TRANSACTION_AGE_MAX_S:
            return self._settle_old(version)
        if self._put_version(version, data) is not None:
            return None
        return self.head(version.head.branch, at_least=version.head.v)

    def _settle_old(self, version: Version) -> Version | None:
        """The same for a transaction too old to commit, whose files an expiry may have removed: if its slot is free, something
        else takes it.
        """
        branch, v = version.head.branch, version.head.v
        if not self._exists(branch, v):
            self.commit(self.read(branch, v - 1), Transaction(lambda _: [Name()], operation="settle"))
        landed = self.heads(branch, [v])[0].transaction == version.head.transaction
        return self.head(branch, at_least=v) if landed else None

    def _next(self, base: Version, txn: Transaction, changes: Sequence[Change]) -> tuple[bytes, Version]:
        """The version object that comes after ``base``, as bytes and as a value."""
        if clock_s() - self._merged_s > REUSE_AGE_MAX_S:
            self._merges = {}  # nothing refers to these yet, so that an expiry may have removed them
        state = shelved(self._adopted(fold(self._numbered(base.state), changes, self.leaves)), self.leaves)
        features = set(base.head.readers) | BASIC_READERS | txn.readers
        features |= {"leaves"} if state.leaves else set()
        features |= {"inline-rows"} if any(f.inlined for f in state.fragments) else set()
        features |= {"row-id-lists"} if any(f.ids is not None for f in state.fragments) else set()
        head = Head(
            format_version=FORMAT_VERSION, dataset=self.claim.dataset, branch=base.head.branch, v=base.head.v + 1,
            transaction=txn.uuid, read_v=base.head.v, previous=base.xxh64, ts_ms=max(now_ms(), base.head.ts_ms + 1),
            author=author(), message=txn.message, named=txn.named, touched=touches(changes), rows=state.rows,
            readers=tuple(sorted(features)), writers=_features(WRITER_FEATURES), operation=txn.operation, merged=txn.merged,
        )  # fmt: skip
        return encode_version(head, state, {**base.inline, **txn.inline})

    def _numbered(self, state: State) -> State:
        """A state from which new rows get ids that no other copy of the dataset gives."""
        if state.place == self.claim.place and state.next_row < _ROWS_A_SPACE:
            return state
        return msgspec.structs.replace(state, id_space=new_id_space(), next_row=0, place=self.claim.place)

    def _adopted(self, state: State) -> State:
        """The state with leaves that were joined since; those that an expiry without grace has taken away are not there."""
        after = adopted(state, self._merges)
        fresh = {leaf.key for leaf in after.leaves} - {leaf.key for leaf in state.leaves}
        if all(is_there(self.store, key) for key in fresh):
            return after
        self._merges = {}
        return state

    def _put_version(self, version: Version, data: bytes) -> Head | None:
        """Try to take the slot: ``None`` when it is ours, the other's head when it is not."""
        key = version_key(version.head.branch, version.head.v)
        trouble: StoreError | None = None
        for attempt in range(AMBIGUOUS_TRIES_MAX):
            try:
                if self.store.put_if_absent(key, data):
                    return None
                trouble = None
            except StoreError as e:
                trouble = e
            # "exists" may be our own write whose acknowledgement was lost; an error may have been applied: ask the slot
            try:
                there = decode_head(self.store.get(key), f"{self.store.url}/{key}")[0]
            except NoSuchObject:
                time.sleep(min(2.0, 0.05 * 2**attempt))
                continue
            except StoreError as e:
                trouble = e
                time.sleep(min(2.0, 0.05 * 2**attempt))
                continue
            if there.transaction != version.head.transaction:
                return there
            self.store.make_durable(key)  # it landed in a call that was never acknowledged
            return None
        raise CommitStateUnknown(
            f"{self.store.url}: the store does not tell whether version {version.id} landed ({trouble}); "
            f"look for transaction {version.head.transaction} later, and do not delete its files",
            version.head.transaction,
        ) from trouble


def _pause_s(attempt: int, put_s: float, rivals: float) -> float:
    """How long a loser waits: about as long as its rivals need for a put each, so that fewer are in vain. Less the more often it
    has lost, and never for long: else who has won goes on winning while the others sleep.
    """
    puts = max(1.0, min(8.0, 2.0 * rivals) / (1 + attempt))
    return random.uniform(0, min(0.5, put_s * puts))


def check_writable(version: Version) -> None:
    """Refuse to write on top of what only a newer lakefmt may write on, or where nothing may follow."""
    why = sealed(version.head)
    if why:
        raise Conflict(
            f"this branch was {why} by another handle; nothing was committed; discard() drops what is buffered, "
            "then checkout() leads on"
        )
    unknown = sorted(set(version.head.writers) - WRITER_FEATURES)
    if unknown:
        raise UnsupportedFormat(
            f"version {version.id} needs writers to know {unknown}, which this lakefmt does not; upgrade lakefmt to write on it"
        )


def sealed(head: Head) -> str | None:
    """Why nothing may follow a version; ``None`` when something may."""
    return next((t.names[0] for t in head.touched if t.operation is Operation.SEAL), None)


def new_id_space() -> int:
    """Where the row ids of a branch go on that no other branch or copy gives (2**31 of them, by chance)."""
    return random.SystemRandom().randrange(1, ID_SPACES)


def _features(names: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def version_key(branch_uuid: str, v: int) -> str:
    return f"log/{branch_uuid}/{v:020d}.json"


def _hint_key(branch_uuid: str) -> str:
    return f"log/{branch_uuid}/_hint"


def now_ms() -> int:
    return time.time_ns() // 1_000_000
