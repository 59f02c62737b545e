"""DuckDB connections: one database a process and place, confined to the dataset's own files; a cursor a query."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Any

import duckdb

#: Databases kept; opening one costs more than a small query.
_DATABASES_MAX = 8
#: Memory a query may use before DuckDB spills or refuses, unless ``LAKEFMT_QUERY_MEMORY`` says otherwise (DuckDB's syntax).
_MEMORY_DEFAULT = "60%"

_databases: OrderedDict[tuple[int, str], Any] = OrderedDict()
_lock = threading.Lock()


def cursor(root: str | None) -> Any:
    """A fresh connection to the database of this process that may read files under ``root`` only.

    Args:
        root: a local folder, or ``None`` for a place whose bytes are handed over in memory.
    """
    key = (os.getpid(), root or "")
    with _lock:
        database = _databases.get(key)
        if database is None:
            database = _open(root)
            _databases[key] = database
            while len(_databases) > _DATABASES_MAX:
                _databases.popitem(last=False)
        else:
            _databases.move_to_end(key)
        return database.cursor()


def _open(root: str | None) -> Any:
    connection = duckdb.connect()
    if root is not None:
        connection.execute(f"SET allowed_directories = [{quoted(root)}]")
    for setting in (
        f"memory_limit = {quoted(os.environ.get('LAKEFMT_QUERY_MEMORY', _MEMORY_DEFAULT))}",
        "enable_external_access = false",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "python_enable_replacements = false",
        "preserve_insertion_order = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")
    return connection


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def _after_fork() -> None:
    """DuckDB's threads do not survive a fork: the child opens its own databases."""
    global _lock
    _lock = threading.Lock()
    # keep the parent's connections alive (closing them would touch dead threads), but out of reach
    _inherited.extend(_databases.values())
    _databases.clear()


_inherited: list[Any] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
