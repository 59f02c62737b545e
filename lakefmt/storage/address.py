"""Addresses: what a user may write for a dataset, and the store it names.

``path``, ``file://``, ``mem://name``, ``hub://org/name`` and every fsspec URL, optionally followed by ``@branch``,
``@version`` or ``/.queries/<view>``.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import Any

from lakefmt.errors import InvalidInput
from lakefmt.storage.generic import FsspecStore
from lakefmt.storage.local import LocalStore
from lakefmt.storage.memory import MemoryStore
from lakefmt.storage.port import Store

QUERIES = "/.queries/"

#: ``s3:/bucket``: what pathlib makes of a URL, and what is left of one that names nothing. (One letter is a drive.)
_BROKEN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(/(?!/).*|/*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address: the dataset's ``base``, and the version or the saved view in it, if any."""

    base: str
    at: str | None = None
    view: str | None = None

    def __str__(self) -> str:
        return self.base + (f"@{self.at}" if self.at else "") + (f"{QUERIES}{self.view}" if self.view else "")


def parse_address(path: str | os.PathLike[str]) -> Address:
    """Take an address apart.

    Raises:
        InvalidInput: it is empty, or names an empty version or view, or is a URL that has lost a slash.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip() or not _encodable(text):
        raise InvalidInput(f"{path!r} is no dataset address: give a path or a URL such as hub://me/name or s3://bucket/name")
    if _BROKEN_URL.fullmatch(text.strip()):
        raise InvalidInput(
            f"{path!r} is no dataset address: a URL is <scheme>://<name>, given as a str (a Path makes one slash of two); "
            f"a folder called so is {os.path.join('.', text)!r}"
        )
    base, found, view = (text.rstrip("/") or "/").partition(QUERIES)
    if base.endswith(QUERIES.rstrip("/")) or (found and (not view or "/" in view)):
        raise InvalidInput(f"{text!r}: a saved view is addressed as <dataset>{QUERIES}<id>")
    head, at = _split_version(base)
    return Address(head, at, view if found else None)


def _encodable(text: str) -> bool:
    """Whether a text can name a file."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def branch_readings(address: Address) -> list[Address]:
    """Other ways to read an address whose last part has no ``@`` but an earlier one has: as a branch name with slashes."""
    if address.at is not None:
        return []
    start = address.base.find("://") + 3 if "://" in address.base else 0
    out = []
    at = address.base.find("@", start)
    while at > 0:
        head, branch = address.base[:at], address.base[at + 1 :]
        if "/" in branch and os.path.basename(head) and not (start and "/" not in head[start:] and ":" in head[start:]):
            out.append(Address(head, branch, address.view))
        at = address.base.find("@", at + 1)
    return out


def _split_version(base: str) -> tuple[str, str | None]:
    """``…/name@at`` -> (``…/name``, ``at``), at the last ``@`` of the last part; see also ``branch_readings``."""
    folder, slash, name = base.rpartition("/")
    head, sep, at = name.rpartition("@")
    if not sep or not head:
        return base, None
    if not at:
        raise InvalidInput(f"{base!r} names an empty version after '@'; leave the '@' out or name a branch or version")
    return folder + slash + head, at


def hub_root() -> str:
    """Where ``hub://`` addresses live: ``$LAKEFMT_HUB`` (any URL), else a folder in the user's data directory."""
    configured = os.environ.get("LAKEFMT_HUB")
    if configured:
        return configured
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        data = os.path.join(home, "Library", "Application Support")
    elif sys.platform == "win32":
        data = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    else:
        data = os.environ.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share")
    return os.path.join(data, "lakefmt", "hub")


def open_store(base: str, storage_options: dict[str, Any] | None = None) -> Store:
    """The store that an address's base names."""
    scheme, sep, rest = base.partition("://")
    if not sep:
        return LocalStore(os.path.expanduser(base))
    if scheme == "hub":
        parts = rest.split("/")
        if len(parts) < 2 or {"", ".", ".."} & set(parts):
            raise InvalidInput(f"{base!r}: a hub address is hub://<org>/<dataset>, without empty parts, '.' and '..'")
        root = hub_root()
        if root.startswith("hub://"):
            raise InvalidInput(f"LAKEFMT_HUB is {root!r}, an address that needs LAKEFMT_HUB: set it to a folder or another URL")
        return open_store(root + rest if root.endswith("/") else f"{root}/{rest}", storage_options)
    if scheme in ("file", "local"):
        return LocalStore(os.path.expanduser(rest))
    if scheme in ("mem", "memory"):
        return MemoryStore(rest)
    return FsspecStore(base, storage_options)
