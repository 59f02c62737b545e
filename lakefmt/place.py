"""Where a dataset may be made: not among other people's files, nor in the folders of another dataset."""

from __future__ import annotations

import os
from collections.abc import Collection

from lakefmt.errors import InvalidInput, NoSuchDataset, StoreError
from lakefmt.storage import Store
from lakefmt.versioning.log import CLAIM_KEY, Log

#: Folders of a dataset.
FOLDERS = ("log/", "data/", "meta/", "dv/", "overlays/", "idx/", "refs/", ".queries/", "_probe/")
#: What a creator that died, or one at work right now, may have left at a place; and one that copies a dataset.
CREATED = frozenset({CLAIM_KEY, "log", "refs", "_probe"})
COPIED = CREATED | {folder.rstrip("/") for folder in FOLDERS}


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
        if f"{inner}/" in FOLDERS and os.path.isfile(os.path.join(outer, CLAIM_KEY)):
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
