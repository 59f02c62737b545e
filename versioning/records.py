"""The values the log is made of. All immutable; all JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from lakefmt.fragment.meta import Fragment, Record
from lakefmt.htypes import TensorDef

#: The version of the format this code writes, and the newest it reads.
FORMAT_VERSION = 0

#: What a reader must know to read the versions written here. A version naming anything else is refused.
READER_FEATURES = frozenset({"deletions", "overlays", "short-tensors", "leaves", "row-id-lists", "inline-rows", "widened"})
WRITER_FEATURES = frozenset({"row-ids", "seals"})
#: Features every version has, whatever is in it.
BASIC_READERS = frozenset({"deletions", "overlays", "short-tensors"})

#: Row ids of one branch are ``id_space * 2**ROW_ID_BITS + n``, so that branches never hand out the same id.
ROW_ID_BITS = 32
ID_SPACES = 1 << 31


class Operation(StrEnum):
    """What a change does, as the conflict table names it."""

    APPEND = "append"
    DELETE = "delete"
    UPDATE = "update"
    ADD_TENSOR = "add-tensor"
    WRITE_COLUMN = "write-column"
    COMPACT = "compact"
    EDIT_SCHEMA = "edit-schema"
    OVERWRITE = "overwrite"
    CONFIG = "config"
    NAME = "name"
    SEAL = "seal"


class Touch(Record, frozen=True):
    """What one change touched; enough to judge whether another change conflicts with it."""

    operation: Operation
    fragments: tuple[str, ...] = ()
    tensors: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    rows: int = 0


class Claim(Record, frozen=True):
    """``_lakefmt.json``: this place is a lakefmt dataset.

    ``place`` sets copies of one dataset apart, so that they do not hand out the same row ids.
    """

    format: str
    format_version: int
    dataset: str
    created_ms: int
    place: str = ""


class Tag(Record, frozen=True):
    """``refs/tags/<name>.json``: a name for a version. ``checked``: it was seen to be there before any expiry of the version."""

    name: str
    branch: str
    v: int
    message: str | None = None
    author: str = ""
    created_ms: int = 0
    checked: bool = False


class Lease(Record, frozen=True):
    """``refs/leases/<id>.json``: a reader needs this version until ``until_ms``."""

    id: str
    branch: str
    v: int
    holder: str
    until_ms: int
    created_ms: int = 0
    checked: bool = False


class Branch(Record, frozen=True):
    """``refs/branches/<name>.json``: a name for a numbered log.

    ``parent`` and ``parent_v`` say where it began (``None`` for the first branch); ``id_space`` sets its row ids apart;
    ``renamed_from`` is the name it had, ``generation`` how often it was renamed; ``earlier`` are the logs that were squashed into
    this one; ``sent`` says that another copy wrote the log and may go on with it.
    """

    name: str
    uuid: str
    parent: str | None = None
    parent_v: int | None = None
    id_space: int = 0
    created_ms: int = 0
    renamed_from: str | None = None
    earlier: tuple[str, ...] = ()
    generation: int = 0
    sent: bool = False


class Head(Record, frozen=True):
    """The first line of a version object.

    Attributes:
        dataset, branch, v: where it stands; the key is made of branch and v.
        transaction: uuid of the attempt that wrote it; how a writer recognises its own commit.
        read_v: the version the transaction was based on.
        previous: xxh64 of the previous version object's bytes (of the parent's, for the first of a branch).
        ts_ms: milliseconds since the epoch, strictly increasing along a branch.
        named: whether a user's ``commit`` made it (else a flush did).
        operation: what the user called, where it was more than storing rows (``merge``, ``compact``, …).
        merged: branch and version that a merge brought in.
        touched: what it changed.
        rows: live rows of the dataset at this version.
        readers, writers: features needed to read, and to write on top.
        body_size, body_raw_size, body_xxh64: the zstd body that follows.
        inline_size, inline_xxh64: the files of rows that lie in this object, after the body.
    """

    format_version: int
    dataset: str
    branch: str
    v: int
    transaction: str
    read_v: int
    previous: str
    ts_ms: int
    author: str
    message: str | None = None
    named: bool = False
    touched: tuple[Touch, ...] = ()
    rows: int = 0
    tokens: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    body_size: int = 0
    body_raw_size: int = 0
    body_xxh64: str = ""
    parent: str | None = None
    parent_v: int | None = None
    inline_size: int = 0
    inline_xxh64: str = ""
    merged: tuple[str, int] | None = None
    operation: str = ""


class Leaf(Record, frozen=True):
    """A leaf manifest: where it lies, what it is, and how much it lists.

    Attributes:
        key, size, xxh64: the file.
        fragments, rows, live: how many fragments, rows, and rows not deleted (by its own entries).
    """

    key: str
    size: int
    xxh64: str
    fragments: int
    rows: int
    live: int


class Override(Record, frozen=True):
    """The present form of a fragment whose entry in a leaf has been overtaken; the entry has ``live_before`` live rows."""

    fragment: Fragment
    live_before: int


class State(Record, frozen=True):
    """The body of a version object: everything there is to know of the dataset at that version.

    Attributes:
        tensors: the tensors, in the order they were made.
        leaves: manifests of older fragments, in row order; shared by many versions.
        overrides: fragments in ``leaves`` whose entry there is out of date.
        fragments: the newest fragments, after those of the leaves.
        info: the dataset's metadata.
        next_row, id_space: where this branch's row ids go on.
        place: the ``place`` of the copy that gives ids from there.
        floor: versions of this branch below it have expired, unless something keeps them.
        contains: for every other branch whose work is in this one, up to which version it is.
    """

    tensors: tuple[TensorDef, ...] = ()
    leaves: tuple[Leaf, ...] = ()
    overrides: tuple[Override, ...] = ()
    fragments: tuple[Fragment, ...] = ()
    info: dict[str, Any] = msgspec.field(default_factory=dict)
    next_row: int = 0
    id_space: int = 0
    floor: int = 0
    contains: dict[str, int] = msgspec.field(default_factory=dict)
    place: str = ""

    @property
    def rows(self) -> int:
        """Live rows."""
        overridden = sum(o.fragment.live - o.live_before for o in self.overrides)
        return sum(leaf.live for leaf in self.leaves) + overridden + sum(f.live for f in self.fragments)

    def tensor(self, name: str) -> TensorDef | None:
        return next((t for t in self.tensors if t.name == name), None)


class Version(msgspec.Struct, frozen=True, weakref=True):
    """A version object as read: its head, its state, the hash of its bytes, and the rows that lie in it (files by key)."""

    head: Head
    state: State
    xxh64: str
    inline: dict[str, bytes] = {}

    @property
    def id(self) -> str:
        """Address of this version, e.g. ``3f9ac2d41b7e-17``."""
        return version_id(self.head.branch, self.head.v)


def version_id(branch_uuid: str, v: int) -> str:
    """The id users see: the first 12 hex digits of the branch's uuid, and the number."""
    return f"{branch_uuid[:12]}-{v}"
