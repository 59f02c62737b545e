"""Names: branches, tags and leases, each a small object of its own, created once.

A branch name stands for the uuid of a numbered log; a tag for one version; a lease for a version somebody still reads. Nothing
here is overwritten but by a squash: what is deleted is removed, and a name that is used again stands for a new uuid.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import quote, unquote

import msgspec
import xxhash

from lakefmt.errors import AlreadyExists, Corrupt, InvalidInput, NoSuchObject, NoSuchVersion, StoreError, nearest
from lakefmt.storage import Store
from lakefmt.versioning.records import Branch, Lease, Tag

R = TypeVar("R", Branch, Tag, Lease)
S = TypeVar("S", bound=msgspec.Struct)
_CHECK = b',"check":"'

BRANCHES, TAGS, LEASES = "refs/branches/", "refs/tags/", "refs/leases/"
#: Tries to create an object whose fate the store does not tell.
_TRIES_MAX = 6


class Refs:
    """The names in one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # -- branches ------------------------------------------------------------------------------------------------------

    def find_branch(self, name: str) -> Branch | None:
        """A branch by name; ``None`` when there is none."""
        return self._find(BRANCHES, name, Branch)

    def branch_names(self) -> list[str]:
        """Names of all branches."""
        return self._names(BRANCHES)

    def branches(self) -> list[Branch]:
        """All branches, by name. Of two names for one log, left by a rename that died half-way, the new one counts."""
        for _ in range(_TRIES_MAX):
            listed = [self.find_branch(n) for n in self._names(BRANCHES)]
            if None not in listed:
                break  # else one was renamed or deleted since it was listed
        found = [b for b in listed if b is not None]
        newest: dict[str, Branch] = {}
        for b in found:
            newest[b.uuid] = max(newest.get(b.uuid, b), b, key=lambda x: (x.generation, x.renamed_from is not None))
        return [b for b in found if b is newest[b.uuid]]

    def create_branch(self, branch: Branch) -> bool:
        """Give a log a name; False when the name is taken."""
        check_name(branch.name)
        return put_once(self.store, _key(BRANCHES, branch.name), checked(branch))

    def replace_branch(self, branch: Branch) -> None:
        """Let a name stand for another log (after its own was sealed)."""
        put_surely(self.store, _key(BRANCHES, branch.name), checked(branch))

    def remove_branch(self, name: str) -> None:
        """Take a branch's name away."""
        remove(self.store, _key(BRANCHES, name))

    # -- tags ----------------------------------------------------------------------------------------------------------

    def find_tag(self, name: str) -> Tag | None:
        """A tag by name; ``None`` when there is none."""
        return self._find(TAGS, name, Tag)

    def tags(self) -> list[Tag]:
        """All tags, by name."""
        return [t for n in self._names(TAGS) if (t := self.find_tag(n)) is not None]

    def create_tag(self, tag: Tag) -> None:
        """Name a version.

        Raises:
            AlreadyExists: the name is a tag or a branch already.
        """
        check_name(tag.name)
        if self.find_branch(tag.name) is not None:
            raise AlreadyExists(f"{self.store.url} has a branch {tag.name!r}: a tag of that name could not be addressed")
        if not put_once(self.store, _key(TAGS, tag.name), checked(tag)):
            raise AlreadyExists(f"{self.store.url} has a tag {tag.name!r} already; delete_tag({tag.name!r}) frees the name")

    def confirm_tag(self, tag: Tag) -> Tag:
        """Note that a tag was checked: the version has not expired, and will not while the tag is there."""
        seen = msgspec.structs.replace(tag, checked=True)
        put_surely(self.store, _key(TAGS, tag.name), checked(seen))
        return seen

    def remove_tag(self, name: str) -> None:
        """Delete a tag.

        Raises:
            NoSuchVersion: there is none of that name.
        """
        if self.find_tag(name) is None:
            raise NoSuchVersion(f"{self.store.url} has no tag {name!r}; {nearest(name, self._names(TAGS))}")
        remove(self.store, _key(TAGS, name))

    # -- leases --------------------------------------------------------------------------------------------------------

    def lease(self, branch: str, v: int, seconds: float, holder: str | None = None) -> Lease:
        """Keep a version from expiring for some time."""
        now = time.time()
        lease = Lease(
            id=uuid.uuid4().hex, branch=branch, v=v, holder=holder or f"{socket.gethostname()}:{os.getpid()}",
            until_ms=int((now + seconds) * 1000), created_ms=int(now * 1000),
        )  # fmt: skip
        put_surely(self.store, _key(LEASES, lease.id), checked(lease))
        return lease

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """Keep it for so long from now on."""
        renewed = msgspec.structs.replace(lease, until_ms=int((time.time() + seconds) * 1000))
        put_surely(self.store, _key(LEASES, lease.id), checked(renewed))
        return renewed

    def release(self, lease: Lease) -> None:
        """End a lease."""
        self.store.delete([_key(LEASES, lease.id)])

    def leases(self) -> list[Lease]:
        """All leases, ended ones included."""
        return [x for n in self._names(LEASES) if (x := self._find(LEASES, n, Lease)) is not None]

    @contextlib.contextmanager
    def leased(
        self, branch: str, v: int, seconds: float, check: Callable[[], None], holder: str | None = None
    ) -> Iterator[Lease]:  # fmt: skip
        """A lease for as long as a block runs, at most ``seconds``. ``check`` raises when the version has expired."""
        lease = self.lease(branch, v, seconds, holder)
        try:
            check()  # the lease was written first: an expiry sees it, or is seen
            lease = msgspec.structs.replace(lease, checked=True)
            put_surely(self.store, _key(LEASES, lease.id), checked(lease))
            yield lease
        finally:
            with contextlib.suppress(StoreError):  # what was done under it is done; it ends by itself
                self.release(lease)

    # -- objects -------------------------------------------------------------------------------------------------------

    def _names(self, folder: str) -> list[str]:
        return sorted(unquote(e.key[len(folder) : -len(".json")]) for e in self.store.list(folder) if e.key.endswith(".json"))

    def _find(self, folder: str, name: str, kind: type[R]) -> R | None:
        try:
            data = self.store.get(_key(folder, name))
        except NoSuchObject:
            return None
        found = unchecked(data, kind, f"{self.store.url}/{_key(folder, name)}")
        if not isinstance(found, Lease) and found.name != name:
            raise Corrupt(f"{self.store.url}/{_key(folder, name)} says that it is {found.name!r}; restore it from a copy")
        return found


def checked(value: msgspec.Struct) -> bytes:
    """A small object as JSON, with a checksum of itself at its end."""
    opening = msgspec.json.encode(value)[:-1]
    return opening + _CHECK + xxhash.xxh64(opening).hexdigest().encode() + b'"}'


def unchecked(data: bytes, kind: type[S], what: str) -> S:
    """A small object from its bytes. (Those of the first writers have no checksum.)

    Raises:
        Corrupt: it is damaged.
    """
    at = data.rfind(_CHECK)
    if at >= 0 and data[at:] != _CHECK + xxhash.xxh64(data[:at]).hexdigest().encode() + b'"}':
        raise Corrupt(f"{what} does not match its checksum; restore it from a copy")
    try:
        return msgspec.json.decode(data if at < 0 else data[:at] + b"}", type=kind)
    except (msgspec.MsgspecError, ValueError) as e:
        raise Corrupt(f"{what} does not parse ({e}); restore it from a copy") from e


def check_name(name: str) -> None:
    """Refuse names that could not be addressed as ``path@name``."""
    bad = not isinstance(name, str) or "@" in name or name != name.strip()
    bad = bad or not name.isprintable() or len(quote(name, safe="")) > 200
    bad = bad or any(part in ("", ".", "..", ".queries") for part in name.split("/"))
    if bad or parse_version_id(name) is not None:
        raise InvalidInput(
            f"{name!r} is no name for a branch or tag: use letters, digits, '-', '_', '.', and '/' between these, but neither the "
            "form of a version id nor a part '.queries'"
        )


def parse_version_id(text: str) -> tuple[str, int] | None:
    """Branch prefix and number of a version id; ``None`` when the text is none."""
    prefix, sep, number = text.rpartition("-")
    if sep and len(prefix) == 12 and all(c in "0123456789abcdef" for c in prefix) and number.isdecimal() and number.isascii():
        return prefix, int(number)
    return None


def put_once(store: Store, key: str, data: bytes) -> bool:
    """put_if_absent with read-back: True when the object holds our bytes, whoever was told so."""
    for attempt in range(_TRIES_MAX):
        try:
            if store.put_if_absent(key, data):
                return True
            if xxhash.xxh64(store.get(key)).digest() != xxhash.xxh64(data).digest():
                return False
            store.make_durable(key)
            return True
        except StoreError:
            if attempt == _TRIES_MAX - 1:
                raise
            time.sleep(min(2.0, 0.05 * 2**attempt))
    return False


def is_there(store: Store, key: str) -> bool:
    """Whether an object is there, by reading of it."""
    try:
        store.get_range(key, 0, 1)
    except NoSuchObject:
        return False
    return True


def put_surely(store: Store, key: str, data: bytes) -> None:
    """Put an object that only its writer replaces, again where the store does not tell whether it is there."""
    _surely(lambda: store.put(key, data))


def remove(store: Store, key: str) -> None:
    """Delete an object, again where the store does not tell whether it is gone."""
    _surely(lambda: store.delete([key]))


def _surely(act: Callable[[], object]) -> None:
    """Something that may be done more than once."""
    for attempt in range(_TRIES_MAX):
        try:
            act()
            return
        except StoreError:
            if attempt == _TRIES_MAX - 1:
                raise
            time.sleep(min(2.0, 0.05 * 2**attempt))


def _key(folder: str, name: str) -> str:
    try:
        return f"{folder}{quote(name, safe='')}.json"
    except (TypeError, UnicodeEncodeError):
        raise InvalidInput(f"{name!r} is no name of a branch, tag or lease: these are str, without lone surrogates") from None
