"""DuckDB connections: one database a process and place, confined to the dataset's own files; a cursor a query."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Any

import duckdb

from lakefmt.errors import InvalidInput

#: Databases kept; opening one costs more than a small query.
_DATABASES_MAX = 8
#: Memory a query may use before DuckDB spills or refuses, unless ``LAKEFMT_QUERY_MEMORY`` says otherwise (DuckDB's syntax).
_MEMORY_DEFAULT = "60%"

#: Between two attempts to stop a query.
_INTERRUPT_EVERY_S = 0.02

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


def answer(connection: Any, sql: str, parameters: list[object]) -> Any:
    """The result of a query, as an Arrow table.

    DuckDB does not look for signals in all that it does. So it works in a thread, while the caller waits where Ctrl-C reaches it.

    Raises:
        TimeoutError: it took longer than ``LAKEFMT_QUERY_SECONDS``.
    """
    limit_s = _limit_s()
    done = threading.Event()
    table: list[Any] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            table.append(connection.sql(sql, params=parameters).to_arrow_table())
        except BaseException as e:  # handed to the caller, whatever it is
            failure.append(e)
        finally:
            done.set()

    threading.Thread(target=work, name="lakefmt-query", daemon=True).start()
    try:
        in_time = done.wait(limit_s)
    except BaseException:
        _stop(connection, done)
        raise
    if not in_time:
        _stop(connection, done)
        raise TimeoutError(f"it took longer than the {limit_s:g} s that LAKEFMT_QUERY_SECONDS allows")
    if failure:
        raise failure[0]
    return table[0]


def _stop(connection: Any, done: threading.Event) -> None:
    """Make a query end; an interrupt that comes before it has begun is lost, so more than one is sent."""
    while not done.wait(_INTERRUPT_EVERY_S):
        connection.interrupt()


def _limit_s() -> float | None:
    given = os.environ.get("LAKEFMT_QUERY_SECONDS")
    if not given:
        return None
    try:
        limit_s = float(given)
    except ValueError:
        limit_s = 0.0
    if not 0 < limit_s <= threading.TIMEOUT_MAX:
        raise InvalidInput(f"LAKEFMT_QUERY_SECONDS is {given!r}: set it to a number of seconds greater than 0, or to nothing")
    return limit_s


def _open(root: str | None) -> Any:
    connection = duckdb.connect()
    memory = os.environ.get("LAKEFMT_QUERY_MEMORY") or _MEMORY_DEFAULT
    try:
        connection.execute(f"SET memory_limit = {quoted(memory)}")
    except duckdb.Error as e:
        raise InvalidInput(f"LAKEFMT_QUERY_MEMORY is {memory!r}: DuckDB wants 8GB, 500MB or 60% ({e})") from e
    if root is not None:
        connection.execute(f"SET allowed_directories = [{quoted(root)}]")
    for setting in (
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
