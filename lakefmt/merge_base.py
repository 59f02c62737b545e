"""What two versions began from: the state that a merge compares both with.

Most often that is one version of the log, the newest whose work is in both. Where both sides have merged the same branches, each by
itself, there are several, and none of them has all of what the sides have in common: compared with one of them, what the other
brought looks like work of both, and what one side has undone of it since would come back. So they are merged with each other first,
as git's recursive strategy does, into a state that is in no log and whose new files are in memory. Samples on which they disagree
(each side has settled that in its own way) are *contested*: where the sides differ in one, both have changed it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from lakefmt.cells import Rows
from lakefmt.fragment.meta import Slice
from lakefmt.fragment.read import FileReader
from lakefmt.merge import Replay
from lakefmt.snapshot import Snapshot, differing
from lakefmt.storage import ScratchStore
from lakefmt.versioning.changes import fold
from lakefmt.versioning.diff import NOWHERE, Reading, changes_between, common_ancestors
from lakefmt.versioning.leaves import Leaves
from lakefmt.versioning.log import Log
from lakefmt.versioning.records import State, Version

replace = msgspec.structs.replace


@dataclass(frozen=True)
class Base:
    """What a merge compares both sides with.

    Attributes:
        snapshot: its rows.
        reading: reads files of it, those in memory too.
        contested: per field id, rows whose sample it cannot tell.
    """

    snapshot: Snapshot
    reading: Reading
    contested: Mapping[int, Rows] = field(default_factory=dict)

    @property
    def version(self) -> Version:
        """Its state; in a log, unless several versions were put together."""
        return self.snapshot.version


@dataclass(frozen=True)
class Reader:
    """Reads what lies in one store, for comparisons."""

    files: FileReader
    leaves: Leaves
    url: str
    _made: dict[int, Snapshot] = field(default_factory=dict, repr=False, compare=False)

    def lists(self, part: Slice) -> Rows:
        """Row offsets (or ids) that a small file lists, of the whole file."""
        return self.files.offsets(part.file)

    def differing(self, old: Version, new: Version, field_id: int, ids: Rows) -> Rows:
        """Those of some rows, which both versions have, whose sample of a tensor is not the same in both."""
        return differing(self.at(old), self.at(new), field_id, ids)

    def at(self, version: Version) -> Snapshot:
        """Rows of a version."""
        if id(version) not in self._made:  # a snapshot keeps its version, so that no other has this id
            self._made[id(version)] = Snapshot(self.files, version, self.url, self.leaves)
        return self._made[id(version)]


def merge_base(log: Log, one: Version, other: Version, reader: Reader) -> Base:
    """What two versions began from.

    Args:
        reader: reads the log's store.

    Raises:
        MergeConflict: several versions are common to both, and cannot be brought together.
    """
    found = common_ancestors(log, one, other)
    if len(found) == 1:
        return Base(reader.at(found[0]), reader)
    scratch = ScratchStore(reader.files.store)  # which may be one already: the versions merged here may lie there
    over = Reader(FileReader(scratch), Leaves(scratch), reader.url)
    made, contested = found[0], dict[int, Rows]()
    for version in found[1:]:
        made, fresh = _together(log, made, version, over)
        contested = _joined(contested, fresh)
    return Base(over.at(made), over, contested)


def _together(log: Log, one: Version, other: Version, reader: Reader) -> tuple[Version, dict[int, Rows]]:
    """Two versions as one, and the samples on which they disagree."""
    inner = merge_base(log, one, other, reader)
    other = _apart(one, other)
    replay = Replay(
        reader.files.store, inner.snapshot, reader.at(other), reader.at(one),
        changes_between(log, inner.version, other, inner.reading), changes_between(log, inner.version, one, inner.reading),
        "ours", inner.contested,
    )  # fmt: skip
    state = fold(one.state, replay.changes(), reader.leaves)
    contains = {**one.state.contains, one.head.branch: one.head.v}
    for branch, v in {**other.state.contains, other.head.branch: other.head.v}.items():
        contains[branch] = max(v, contains.get(branch, -1))
    contains.pop(NOWHERE, None)
    head = replace(one.head, branch=NOWHERE, transaction=uuid.uuid4().hex)
    made = Version(head, replace(state, contains=contains), "", {**one.inline, **other.inline})
    return made, _joined(dict(inner.contested), replay.conflicts)


def _apart(one: Version, other: Version) -> Version:
    """The second version, its tensors given other names where the first has others of these names: nobody sees them."""
    names = {t.name: t.id for t in one.state.tensors}
    tensors = tuple(replace(t, name=f"{t.name} {t.id}") if names.get(t.name, t.id) != t.id else t for t in other.state.tensors)
    state: State = replace(other.state, tensors=tensors)
    return Version(other.head, state, other.xxh64, other.inline)


def _joined(some: dict[int, Rows], more: Mapping[int, Rows]) -> dict[int, Rows]:
    return {i: np.union1d(some.get(i, _NONE), more.get(i, _NONE)) for i in {**some, **more}}


_NONE: Rows = np.empty(0, np.int64)
