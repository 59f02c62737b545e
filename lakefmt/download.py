"""Bringing a version, or the part of it that a view shows, to this host: which files, and where they go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lakefmt.errors import Corrupt, InvalidInput, LakeError, NoSuchObject, NoSuchTensor, nearest
from lakefmt.fragment.meta import ColumnFile
from lakefmt.pending import Live
from lakefmt.snapshot import Snapshot
from lakefmt.storage import CachedStore, Downloaded, Progress, bring


def download(source: Any, tensors: Sequence[str] | None, progress: Callable[[Progress], object] | None) -> Downloaded:
    """Download what reading a source takes; see ``Rowset.download``.

    Args:
        source: a ``Snapshot``, or a selection of rows of one.
    """
    if progress is not None and not callable(progress):
        raise InvalidInput(f"download(progress={progress!r}): give a function, which is called with how far it is")
    names = None if tensors is None else _named(source, tensors)
    snapshot = _snapshot(source)
    store = snapshot.reader.store
    if store.is_local:
        return Downloaded(present=sum(1 for _ in source.objects(names)))
    if not isinstance(store, CachedStore):  # a handle made by hand
        raise InvalidInput(f"{store.url}: this handle has no cache to download to; open the dataset by its address")
    store.look_on_disk()
    try:
        return bring(store, list(source.objects(names)), progress, lambda key: _why_gone(snapshot, key))
    except NoSuchObject as e:
        raise Corrupt(f"{e}, though the version names it; restore it from a copy") from e


def _snapshot(source: Any) -> Snapshot:
    """The version that a source shows rows of."""
    base = getattr(source, "base", source)
    snapshot: Snapshot = base.snapshot if isinstance(base, Live) else base
    return snapshot


def _why_gone(snapshot: Snapshot, key: str) -> LakeError | None:
    """Why a file of a version may be gone, where that is known."""
    return snapshot.reader.explain(ColumnFile(key=key, size=0, xxh64="", index_start=0, index_xxh64="", fields=()))


def _named(source: Any, tensors: Sequence[str]) -> list[str]:
    """The tensors that names of tensors and groups mean."""
    if isinstance(tensors, str) or not all(isinstance(n, str) for n in tensors):
        raise InvalidInput(f"download(tensors={tensors!r}): give a list of names of tensors")
    found: dict[str, None] = {}
    for name in tensors:
        meant = [n for n in source.definitions if n == name or n.startswith(f"{name}/")]
        if not meant:
            raise NoSuchTensor(f"no tensor or group {name!r}; {nearest(name, source.definitions)}")
        found |= dict.fromkeys(meant)
    return list(found)
