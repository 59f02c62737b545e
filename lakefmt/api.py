"""Opening, creating and removing datasets."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lakefmt.dataset import Dataset
from lakefmt.errors import AlreadyExists, InvalidInput, NoSuchDataset, StoreError
from lakefmt.storage import Address, Store, branch_readings, open_store, parse_address
from lakefmt.versioning.log import CLAIM_KEY, MAIN, Log
from lakefmt.view import View

_FOLDERS = ("log/", "data/", "meta/", "dv/", "overlays/", "idx/", "refs/", ".queries/", "_probe/")
#: What a creator that died, or one at work right now, may have left at a place; and one that copies a dataset.
CREATED = frozenset({CLAIM_KEY, "log", "refs", "_probe"})
COPIED = CREATED | {folder.rstrip("/") for folder in _FOLDERS}


def dataset(
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Open a dataset, or create it where there is none.

    Args:
        path: a folder, ``file://``, ``mem://name``, ``hub://org/name`` or any fsspec URL; ``@branch`` or ``@version`` after it
            opens it there; ``/.queries/<id>`` after it opens a saved view.
        read_only: refuse to write, and do not create.
        overwrite: delete what lakefmt dataset is there first.
        storage_options: for fsspec (credentials, endpoint).

    Returns:
        A ``Dataset``, or a ``View`` for a saved view.

    Raises:
        NoSuchDataset: none there, and it must not or cannot be created.
        UnsafeStore: the store cannot promise that commits are not lost.
    """
    address, store = _find(path, storage_options)
    if overwrite and (read_only or address.at or address.view):
        raise InvalidInput(
            f"overwrite=True deletes a whole dataset, so it goes with neither read_only nor the version or view in {str(address)!r}"
        )
    if overwrite and Log.exists(store):
        _delete(store)  # other files beside it, if any, were there with the old one and stay with the new
        Log.create(store)
    if not Log.exists(store):
        if read_only or address.at or address.view:
            beside = f" ('@{address.at}' after it names a branch or version)" if address.at else ""
            raise NoSuchDataset(
                f"{address.base} holds no lakefmt dataset; lakefmt.dataset({address.base!r}) makes one there{beside}"
            )
        check_free(store, address.base)
        Log.create(store)
    return _open(Log.open(store), address, read_only=read_only)


def empty(path: str | os.PathLike[str], *, overwrite: bool = False, storage_options: Mapping[str, Any] | None = None) -> Dataset:
    """Create a dataset.

    Raises:
        AlreadyExists: there is one, and not ``overwrite``.
    """
    address = parse_address(path)
    if address.at or address.view:
        raise InvalidInput(f"{str(address)!r} names a version or view; a new dataset has none")
    store = _store(address, storage_options)
    if Log.exists(store):
        if not overwrite:
            raise AlreadyExists(f"{address.base} holds a dataset already; pass overwrite=True to delete it, or open it with load()")
        _delete(store)
    else:
        check_free(store, address.base)
    Log.create(store)
    opened: Dataset = _open(Log.open(store), address, read_only=False)
    return opened


def load(
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    as_of: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Open a dataset (or a saved view) that exists.

    Args:
        path: as for ``dataset``; ``@branch``, ``@tag`` or ``@version`` after it opens it there.
        read_only: refuse to write.
        as_of: open the newest version not younger than this time (a ``datetime``, ISO text, or seconds since the epoch).
        storage_options: for fsspec.

    Raises:
        NoSuchDataset: it does not.
    """
    address, store = _find(path, storage_options)
    opened = _open(Log.open(store), address, read_only=read_only)
    if as_of is not None:
        if address.view is not None:
            raise InvalidInput(f"as_of= goes with a dataset or branch, and {str(address)!r} names a saved view")
        opened.checkout(as_of=as_of)
    return opened


def exists(path: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> bool:
    """Whether there is a dataset at this address (its version or view is not looked at)."""
    return Log.exists(_store(parse_address(path), storage_options))


def delete(path: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> None:
    """Delete a dataset with all its versions. What lies beside the dataset's own folders stays.

    Raises:
        NoSuchDataset: there is none.
    """
    address = parse_address(path)
    if address.at or address.view:
        raise InvalidInput(f"{str(address)!r}: only a whole dataset can be deleted so; give {address.base!r}")
    store = _store(address, storage_options)
    if not Log.exists(store):
        raise NoSuchDataset(f"{address.base} holds no lakefmt dataset")
    _delete(store)


def query(tql: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> View:
    """Run a TQL query that names its dataset: ``select * from "path@branch" where …``."""
    from lakefmt.query import run_query_anywhere

    return run_query_anywhere(tql, parameters)


def _store(address: Address, storage_options: Mapping[str, Any] | None) -> Store:
    if storage_options is not None and not isinstance(storage_options, Mapping):
        raise InvalidInput(f"storage_options is a dict for fsspec, got {storage_options!r}")
    return open_store(address.base, dict(storage_options) if storage_options else None)


def _find(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None) -> tuple[Address, Store]:
    """The address and its store. ``a@b/c`` is the dataset of that name if there is one, else the branch ``b/c`` of ``a``."""
    address = parse_address(path)
    store = _store(address, storage_options)
    for other in branch_readings(address):
        if Log.exists(store):
            break
        elsewhere = _store(other, storage_options)
        if Log.exists(elsewhere):
            return other, elsewhere
    return address, store


def _open(log: Log, address: Address, *, read_only: bool) -> Any:
    at = address.at or MAIN
    branch, version = log.resolve(at)
    opened = Dataset(log, address.base, branch, version, read_only=read_only)
    if address.view is None:
        return opened
    from lakefmt.query import load_view

    return load_view(opened, address.view)


def _delete(store: Store) -> None:
    """The claim goes last: until then the place is known for what it is."""
    for prefix in _FOLDERS:
        store.delete([e.key for e in store.list(prefix)])
    store.delete([CLAIM_KEY])
    store.release()
    store.prune()


def check_free(store: Store, base: str, ours: Collection[str] = CREATED) -> None:
    """Refuse to build a dataset among other people's files, or in the folders of another dataset. Remote places are not looked at.

    Args:
        base: the address of the place, for messages.
        ours: names that may be there already: what one that was interrupted at building it has left (``CREATED``, ``COPIED``).

    Raises:
        NoSuchDataset: there is something else.
        InvalidInput: the place belongs to another dataset, which would remove what it does not know.
    """
    root = store.local_path("")
    if root is None:
        return
    place = os.path.realpath(root)
    if os.path.isfile(place):
        raise NoSuchDataset(f"{base} is a file, not a lakefmt dataset; give a folder")
    outer, inner = os.path.split(place)
    while inner:
        if f"{inner}/" in _FOLDERS and os.path.isfile(os.path.join(outer, CLAIM_KEY)):
            raise InvalidInput(
                f"{base} lies in {inner!r} of the dataset {outer}, which removes what it does not know from its folders; "
                f"give a place outside (for example {os.path.join(os.path.dirname(outer), os.path.basename(place))!r})"
            )
        outer, inner = os.path.split(outer)
    try:
        names = os.listdir(place) if os.path.isdir(place) else []
    except OSError as e:
        raise StoreError(f"{base} cannot be looked into ({e.strerror}); give another place, or get access to it") from e
    others = [n for n in names if not n.startswith(".") and n not in ours]
    if others and not Log.exists(store):
        raise NoSuchDataset(
            f"{base} is a folder with other files ({others[0]!r}) and no lakefmt dataset; give an empty or a new folder "
            f"(for example {os.path.join(base, 'dataset')!r})"
        )
