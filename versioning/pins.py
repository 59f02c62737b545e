"""What keeps a version beside its branch: tags, leases and saved views, each with the version it needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from lakefmt.errors import Corrupt, LakeError, NoSuchObject
from lakefmt.storage import Entry, Store
from lakefmt.versioning.records import Lease, Tag, version_id
from lakefmt.versioning.refs import LEASES, TAGS, parse_version_id, unchecked

VIEWS = ".queries/"
VIEW_METADATA = b"lakefmt.view"
_FOOTER_NBYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Pin:
    """A name that needs a version.

    Attributes:
        key: the object.
        what: the name as its users know it.
        remedy: what to do about one whose version is gone.
        branch: uuid of the log, or how it begins (of the first saved views).
        v: the version.
        until_ms: when it ends; ``None``: never.
        checked: whether its author has seen that no expiry was under way.
    """

    key: str
    what: str
    remedy: str
    branch: str
    v: int
    until_ms: int | None = None
    checked: bool = True

    @property
    def version(self) -> str:
        """Id of the version."""
        return version_id(self.branch, self.v)


def find_pins(store: Store) -> tuple[list[Pin], dict[str, LakeError]]:
    """All pins, and the objects that should be such and do not parse."""
    pins: list[Pin] = []
    bad: dict[str, LakeError] = {}
    for folder, read in _READERS.items():
        for entry in store.list(folder):
            if not entry.key.endswith((".json", ".parquet")):
                continue
            try:
                pins.append(read(store, entry))
            except NoSuchObject:
                continue  # deleted since it was listed
            except Corrupt as e:
                bad[entry.key] = e
    return pins, bad


def _tag(store: Store, entry: Entry) -> Pin:
    tag = unchecked(store.get(entry.key), Tag, f"{store.url}/{entry.key}")
    remedy = f"delete_tag({tag.name!r}) removes it"
    return Pin(entry.key, f"tag {tag.name!r}", remedy, tag.branch, tag.v, checked=tag.checked)


def _lease(store: Store, entry: Entry) -> Pin:
    lease = unchecked(store.get(entry.key), Lease, f"{store.url}/{entry.key}")
    what = f"the lease of {lease.holder!r}"
    return Pin(entry.key, what, "the next expire() after its end removes it", lease.branch, lease.v, lease.until_ms, lease.checked)


def _view(store: Store, entry: Entry) -> Pin:
    """Of a view only the footer is read: its rows may be many."""
    name = entry.key[len(VIEWS) : -len(".parquet")]
    start = max(0, entry.size - _FOOTER_NBYTES)
    tail = bytes(store.get_range(entry.key, start, entry.size - start))
    footer_nbytes = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) < footer_nbytes <= entry.size:
        tail = bytes(store.get_range(entry.key, entry.size - footer_nbytes, footer_nbytes))
    try:
        described = json.loads((pq.read_metadata(pa.BufferReader(tail)).metadata or {})[VIEW_METADATA])
        version, branch = described["version"], described.get("branch")
        found = parse_version_id(version)
        if found is None or not isinstance(branch, str | None) or (branch is not None and not branch.startswith(found[0])):
            raise ValueError(f"it is of version {version!r} of {branch!r}")
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, AttributeError) as e:
        raise Corrupt(f"{store.url}/{entry.key}: a saved view that does not parse ({e}); delete it and save it again") from e
    return Pin(entry.key, f"saved view {name!r}", f"delete_view({name!r}) removes it", branch or found[0], found[1])


_READERS: Mapping[str, Callable[[Store, Entry], Pin]] = MappingProxyType({TAGS: _tag, LEASES: _lease, VIEWS: _view})
