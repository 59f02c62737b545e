"""The log in a store: the only module of this room that calls it.

Opening a branch reads a hint, then the version it names and the next, and gallops on from there. Committing puts the next
number if it is absent, and reads the slot back whenever the answer was anything but a plain yes.
"""

from __future__ import annotations

import getpass
import json
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import msgspec
import xxhash

from lakefmt.errors import (
    AlreadyExists,
    CommitStateUnknown,
    Conflict,
    Corrupt,
    InvalidInput,
    NoSuchDataset,
    NoSuchObject,
    NoSuchVersion,
    StoreError,
    UnsupportedFormat,
    nearest,
)
from lakefmt.storage import Range, Store, probe_put_if_absent
from lakefmt.versioning.changes import Change, fold, touch
from lakefmt.versioning.conflicts import Verdict, judge
from lakefmt.versioning.encode import check_format_version, decode_head, decode_version, encode_version
from lakefmt.versioning.records import (
    FORMAT_VERSION,
    READER_FEATURES,
    WRITER_FEATURES,
    Branch,
    Claim,
    Head,
    State,
    Version,
    version_id,
)

CLAIM_KEY = "_lakefmt.json"
MAIN = "main"
#: A transaction older than this refuses to commit, so that expiry may remove orphaned files after a longer grace.
TRANSACTION_AGE_MAX_S = 6 * 3600
#: Numbers lost to other writers before giving up.
ATTEMPTS_MAX = 200
#: Tries to learn the outcome of one ambiguous put.
AMBIGUOUS_TRIES_MAX = 6
_HEAD_FETCH_NBYTES = 4096


@dataclass(slots=True)
class Transaction:
    """One commit in the making.

    Attributes:
        build: makes the changes from a state; called again when the conflict table asks for a rerun.
        message: the user's, or ``None`` for a flush.
        named: whether the version is a commit of the user's.
        attempt: the version last put, and its bytes; for bringing an unknown outcome to an end.
    """

    build: Callable[[State], list[Change]]
    message: str | None = None
    named: bool = False
    attempt: tuple[Version, bytes] | None = None
    uuid: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_s: float = field(default_factory=time.monotonic)


class Log:
    """The log of one dataset."""

    def __init__(self, store: Store, claim: Claim) -> None:
        self.store = store
        self.claim = claim

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
            return cls(store, msgspec.json.decode(data, type=Claim))
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as e:
            raise Corrupt(f"{what} does not parse ({e}); restore it from a copy") from e

    @classmethod
    def create(cls, store: Store) -> Log:
        """Create a dataset, or open the one that another writer has just created.

        Raises:
            UnsafeStore: the store cannot promise put-if-absent.
        """
        probe_put_if_absent(store, f"_probe/{uuid.uuid4().hex}")
        now_ms = _now_ms()
        claim = Claim(format="lakefmt", format_version=FORMAT_VERSION, dataset=uuid.uuid4().hex, created_ms=now_ms)
        _put_once(store, CLAIM_KEY, msgspec.json.encode(claim))
        log = cls.open(store)
        log._complete()
        return log

    def _complete(self) -> None:
        """Make the first branch and its version 0, the same bytes whoever does it: a crash half-way is finished here."""
        claim = self.claim
        branch = Branch(name=MAIN, uuid=claim.dataset, created_ms=claim.created_ms)
        head = Head(
            format_version=FORMAT_VERSION, dataset=claim.dataset, branch=branch.uuid, v=0, transaction=claim.dataset,
            read_v=-1, previous="", ts_ms=claim.created_ms, author="", message="created", readers=_features(READER_FEATURES),
            writers=_features(WRITER_FEATURES),
        )  # fmt: skip
        data, _ = encode_version(head, State())
        _put_once(self.store, _version_key(branch.uuid, 0), data)
        _put_once(self.store, _branch_key(MAIN), msgspec.json.encode(branch))

    # -- branches ------------------------------------------------------------------------------------------------------

    def branch(self, name: str) -> Branch:
        """A branch by name.

        Raises:
            NoSuchVersion: there is none.
        """
        try:
            return msgspec.json.decode(self.store.get(_branch_key(name)), type=Branch)
        except NoSuchObject:
            if name == MAIN:  # a creator died half-way
                self._complete()
                return self.branch(MAIN)
            known = [b.name for b in self.branches()]
            raise NoSuchVersion(
                f"{self.store.url} has no branch or version {name!r}; {nearest(name, known)} "
                f"(checkout({name!r}, create=True) makes a branch)"
            ) from None
        except msgspec.MsgspecError as e:
            raise Corrupt(f"{self.store.url}: branch {name!r} does not parse ({e})") from e

    def branches(self) -> list[Branch]:
        """All branches, by name."""
        prefix = "refs/branches/"
        names = sorted(unquote(e.key[len(prefix) : -len(".json")]) for e in self.store.list(prefix))
        return [self.branch(n) for n in names]

    def create_branch(self, name: str, at: Version) -> Version:
        """A new branch that begins as a copy of a version's state; no data moves.

        Raises:
            AlreadyExists: the name is taken.
        """
        check_branch_name(name)
        branch = Branch(
            name=name, uuid=uuid.uuid4().hex, parent=at.head.branch, parent_v=at.head.v,
            id_space=random.SystemRandom().randrange(1, 1 << 31), created_ms=_now_ms(),
        )  # fmt: skip
        head = Head(
            format_version=FORMAT_VERSION, dataset=self.claim.dataset, branch=branch.uuid, v=0, transaction=uuid.uuid4().hex,
            read_v=-1, previous=at.xxh64, ts_ms=max(_now_ms(), at.head.ts_ms + 1), author=_author(),
            message=f"branch {name!r} of {at.id}", rows=at.head.rows, readers=at.head.readers, writers=at.head.writers,
            parent=at.head.branch, parent_v=at.head.v,
        )  # fmt: skip
        state = msgspec.structs.replace(at.state, next_row=0, id_space=branch.id_space)
        data, version = encode_version(head, state)
        _put_once(self.store, _version_key(branch.uuid, 0), data)
        if not _put_once(self.store, _branch_key(name), msgspec.json.encode(branch)):
            raise AlreadyExists(f"{self.store.url} has a branch {name!r} already; checkout({name!r}) without create=True")
        return version

    def resolve(self, at: str) -> tuple[Branch | None, Version]:
        """The version that a branch name or version id names; with the branch, when it is its head.

        Raises:
            NoSuchVersion: neither.
        """
        found = _parse_version_id(at)
        if found is not None:
            prefix, v = found
            for branch in self.branches():
                if branch.uuid.startswith(prefix):
                    return None, self.read(branch.uuid, v)
        branch = self.branch(at)
        return branch, self.head(branch.uuid)

    # -- versions ------------------------------------------------------------------------------------------------------

    def read(self, branch_uuid: str, v: int) -> Version:
        """One version."""
        key = _version_key(branch_uuid, v)
        try:
            data = self.store.get(key)
        except NoSuchObject:
            raise NoSuchVersion(f"{self.store.url} has no version {version_id(branch_uuid, v)}") from None
        version = decode_version(data, f"{self.store.url}/{key}")
        if version.head.branch != branch_uuid or version.head.v != v:
            raise Corrupt(f"{self.store.url}/{key} says it is version {version.id}; restore it from a copy")
        return version

    def head(self, branch_uuid: str, at_least: int = 0) -> Version:
        """The newest version of a branch, looked for from ``at_least`` (a version known to exist) or the hint on."""
        hint = self._hint(branch_uuid)
        if hint is None and not at_least:
            hint = self._search(branch_uuid)[1]
        v = max(at_least, hint or 0)
        here, ahead = self._two(branch_uuid, v)
        if here is None and ahead is None:
            here, v = self._search(branch_uuid)
            ahead = self._try_read(branch_uuid, v + 1)
        while ahead is not None:
            here, v = ahead, v + 1
            ahead = self._try_read(branch_uuid, v + 1)
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

    def _try_read(self, branch_uuid: str, v: int) -> Version | None:
        try:
            return self.read(branch_uuid, v)
        except NoSuchVersion:
            return None

    def _hint(self, branch_uuid: str) -> int | None:
        """Where the head was last seen; a damaged or missing hint is no hint."""
        try:
            value = json.loads(self.store.get(_hint_key(branch_uuid)))["v"]
        except (NoSuchObject, ValueError, KeyError, TypeError, RecursionError):
            return None
        return value if isinstance(value, int) and value >= 0 else None

    def _search(self, branch_uuid: str) -> tuple[Version | None, int]:
        """The hint misled: list the log."""
        prefix = f"log/{branch_uuid}/"
        names = [e.key[len(prefix) :] for e in self.store.list(prefix)]
        numbers = sorted(int(n[:-5]) for n in names if n.endswith(".json") and n[:-5].isdigit())
        return (self.read(branch_uuid, numbers[-1]), numbers[-1]) if numbers else (None, 0)

    def heads(self, branch_uuid: str, numbers: Sequence[int]) -> list[Head]:
        """Heads of some versions of a branch, in one round of small reads."""
        ranges = [Range(_version_key(branch_uuid, n), 0, _HEAD_FETCH_NBYTES) for n in numbers]
        out = []
        for r, n, data in zip(ranges, numbers, self.store.get_ranges(ranges), strict=True):
            if b"\n" not in bytes(data):
                data = self.store.get(r.key)
            out.append(decode_head(data, f"{self.store.url}/{_version_key(branch_uuid, n)}")[0])
        return out

    def history(self, version: Version) -> Iterator[Head]:
        """Heads from a version back to the beginning, through the branches it came from."""
        branch, v = version.head.branch, version.head.v
        while True:
            for low in range(v, -1, -256):
                numbers = list(range(low, max(-1, low - 256), -1))
                batch = self.heads(branch, numbers)
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
        _check_writable(base)
        self._check_place()
        changes = txn.build(base.state)
        for attempt in range(ATTEMPTS_MAX):
            if time.monotonic() - txn.started_s > TRANSACTION_AGE_MAX_S:
                raise Conflict(f"this transaction is older than {TRANSACTION_AGE_MAX_S} s; redo it from the newest version")
            data, version = self._next(base, txn, changes)
            txn.attempt = (version, data)
            version_there = self._put_version(version, data)
            if version_there is None:
                self._write_hint(version)
                return version
            time.sleep(random.uniform(0, min(0.5, 0.002 * 2 ** min(attempt, 8))))
            newest = self.head(base.head.branch, at_least=version.head.v)
            _check_writable(newest)
            missed = self.heads(base.head.branch, range(version.head.v, newest.head.v + 1))
            verdict, why = judge([touch(c) for c in changes], [t for h in missed for t in h.touched])
            if verdict is Verdict.FAIL:
                raise Conflict(
                    f"{self.store.url}: {why}; versions {version.id} to {newest.id} landed first. "
                    "Nothing of this transaction was committed: refresh() and redo it"
                )
            if verdict is Verdict.RERUN:
                changes = txn.build(newest.state)
            base = newest
        raise Conflict(f"{self.store.url}: lost {ATTEMPTS_MAX} races for the next version; nothing was committed, try again")

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
        if self._put_version(version, data) is not None:
            return None
        return self.head(version.head.branch, at_least=version.head.v)

    def _next(self, base: Version, txn: Transaction, changes: Sequence[Change]) -> tuple[bytes, Version]:
        """The version object that comes after ``base``, as bytes and as a value."""
        state = fold(base.state, list(changes))
        head = Head(
            format_version=FORMAT_VERSION, dataset=self.claim.dataset, branch=base.head.branch, v=base.head.v + 1,
            transaction=txn.uuid, read_v=base.head.v, previous=base.xxh64, ts_ms=max(_now_ms(), base.head.ts_ms + 1),
            author=_author(), message=txn.message, named=txn.named, touched=tuple(touch(c) for c in changes),
            rows=state.rows, readers=_features(READER_FEATURES), writers=_features(WRITER_FEATURES),
        )  # fmt: skip
        return encode_version(head, state)

    def _put_version(self, version: Version, data: bytes) -> Head | None:
        """Try to take the slot: ``None`` when it is ours, the other's head when it is not."""
        key = _version_key(version.head.branch, version.head.v)
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
            return None if there.transaction == version.head.transaction else there
        raise CommitStateUnknown(
            f"{self.store.url}: the store does not tell whether version {version.id} landed ({trouble}); "
            f"look for transaction {version.head.transaction} later, and do not delete its files",
            version.head.transaction,
        ) from trouble

    def _write_hint(self, version: Version) -> None:
        """Advisory: a failure to write it harms nobody, and must not turn a landed commit into an error."""
        hint = json.dumps({"v": version.head.v, "floor": version.state.floor}).encode()
        try:
            self.store.put_hint(_hint_key(version.head.branch), hint)
        except StoreError:
            return


def _check_writable(version: Version) -> None:
    """Refuse to write on top of what only a newer lakefmt may write on."""
    unknown = sorted(set(version.head.writers) - WRITER_FEATURES)
    if unknown:
        raise UnsupportedFormat(
            f"version {version.id} needs writers to know {unknown}, which this lakefmt does not; upgrade lakefmt to write on it"
        )


def check_branch_name(name: str) -> None:
    """Refuse names that could not be addressed as ``path@name``."""
    bad = not isinstance(name, str) or not name or "@" in name or name != name.strip() or name.startswith("/")
    bad = bad or name in (".", "..") or not name.isprintable() or len(quote(name, safe="")) > 200
    if bad or _parse_version_id(name) is not None:
        raise InvalidInput(f"{name!r} is no branch name: use letters, digits, '-', '_', '.', '/', and not the form of a version id")


def _parse_version_id(text: str) -> tuple[str, int] | None:
    prefix, sep, number = text.rpartition("-")
    if sep and len(prefix) == 12 and all(c in "0123456789abcdef" for c in prefix) and number.isdigit():
        return prefix, int(number)
    return None


def _put_once(store: Store, key: str, data: bytes) -> bool:
    """put_if_absent with read-back: True when the object holds our bytes, whoever was told so."""
    for attempt in range(AMBIGUOUS_TRIES_MAX):
        try:
            if store.put_if_absent(key, data):
                return True
            return xxhash.xxh64(store.get(key)).digest() == xxhash.xxh64(data).digest()
        except StoreError:
            if attempt == AMBIGUOUS_TRIES_MAX - 1:
                raise
            time.sleep(min(2.0, 0.05 * 2**attempt))
    return False


def _features(names: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _version_key(branch_uuid: str, v: int) -> str:
    return f"log/{branch_uuid}/{v:020d}.json"


def _hint_key(branch_uuid: str) -> str:
    return f"log/{branch_uuid}/_hint"


def _branch_key(name: str) -> str:
    return f"refs/branches/{quote(name, safe='')}.json"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _author() -> str:
    configured = os.environ.get("LAKEFMT_AUTHOR")
    if configured:
        return configured
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
