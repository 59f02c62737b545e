"""Opening, creating and removing datasets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lakefmt.dataset import Dataset
from lakefmt.errors import AlreadyExists, InvalidInput, NoSuchDataset
from lakefmt.place import FOLDERS, check_free
from lakefmt.storage import Address, CacheSizes, Store, branch_readings, cache_sizes, cached, open_store, parse_address
from lakefmt.versioning.expire import DATA_FOLDERS
from lakefmt.versioning.log import CLAIM_KEY, MAIN, Log
from lakefmt.view import View


def dataset(
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    memory_cache_size: float | None = None,
    local_cache_size: float = 0,
) -> Any:
    """Open a dataset, or create it where there is none.

    Args:
        path: a folder, ``file://``, ``mem://name``, ``hub://org/name`` or any fsspec URL; ``@branch`` or ``@version`` after it
            opens it there; ``/.queries/<id>`` after it opens a saved view.
        read_only: refuse to write, and do not create.
        overwrite: delete what lakefmt dataset is there first.
        storage_options: for fsspec (credentials, endpoint).
        memory_cache_size: MB of memory for what is read of a dataset on an object store; by default 128, 0 for none.
        local_cache_size: MB of disk for it, in ``$LAKEFMT_CACHE`` (else the user's cache folder), shared by the processes of this
            host; by default none. A local dataset has neither.

    Returns:
        A ``Dataset``, or a ``View`` for a saved view.

    Raises:
        NoSuchDataset: none there, and it must not or cannot be created.
        UnsafeStore: the store cannot promise that commits are not lost.
    """
    address, store = _find(path, storage_options, cache_sizes(memory_cache_size, local_cache_size))
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


def empty(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    memory_cache_size: float | None = None,
    local_cache_size: float = 0,
) -> Dataset:
    """Create a dataset; the options are those of ``dataset``.

    Raises:
        AlreadyExists: there is one, and not ``overwrite``.
    """
    address = parse_address(path)
    if address.at or address.view:
        raise InvalidInput(f"{str(address)!r} names a version or view; a new dataset has none")
    store = _store(address, storage_options, cache_sizes(memory_cache_size, local_cache_size))
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
    memory_cache_size: float | None = None,
    local_cache_size: float = 0,
) -> Any:
    """Open a dataset (or a saved view) that exists.

    Args:
        path: as for ``dataset``; ``@branch``, ``@tag`` or ``@version`` after it opens it there.
        read_only: refuse to write.
        as_of: open the newest version not younger than this time (a ``datetime``, ISO text, or seconds since the epoch; UTC where
            it has no time zone).
        storage_options: for fsspec.
        memory_cache_size, local_cache_size: as for ``dataset``.

    Raises:
        NoSuchDataset: it does not.
    """
    address, store = _find(path, storage_options, cache_sizes(memory_cache_size, local_cache_size))
    opened = _open(Log.open(store), address, read_only=read_only)
    if as_of is not None:
        if address.view is not None:
            raise InvalidInput(f"as_of= goes with a dataset or branch, and {str(address)!r} names a saved view")
        if opened.branch is None:
            raise InvalidInput(f"as_of= goes with a dataset or branch, and {str(address)!r} names a version already")
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


def _store(address: Address, storage_options: Mapping[str, Any] | None, sizes: CacheSizes | None = None) -> Store:
    if storage_options is not None and not isinstance(storage_options, Mapping):
        raise InvalidInput(f"storage_options is a dict for fsspec, got {storage_options!r}")
    store = open_store(address.base, dict(storage_options) if storage_options else None)
    return store if sizes is None else cached(store, sizes, DATA_FOLDERS)


def _find(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None, sizes: CacheSizes
) -> tuple[Address, Store]:  # fmt: skip
    """The address and its store. ``a@b/c`` is the dataset of that name if there is one, else the branch ``b/c`` of ``a``."""
    address = parse_address(path)
    store = _store(address, storage_options, sizes)
    for other in branch_readings(address):
        if Log.exists(store):
            break
        elsewhere = _store(other, storage_options, sizes)
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
    for prefix in FOLDERS:
        store.delete([e.key for e in store.list(prefix)])
    store.delete([CLAIM_KEY])
    store.release()
    store.prune()
