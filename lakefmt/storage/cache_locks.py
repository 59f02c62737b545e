"""Locks by number among the processes of a host, and among the threads of each.

One file holds all locks: each is a record lock (``fcntl``) on one byte of it, far beyond its end. The kernel lets go of them when
their process ends, however it ends, so that no holder that was killed is in anybody's way and no lock is ever left over. They are
asked for without waiting, again and again: a wait has a bound, and no two processes can wait for each other for ever.

Two traps of record locks shape the rest. They do not tell threads of a process apart, so a table does. And closing *any*
descriptor of the file lets go of *all* locks of the process, so there is one object a file in a process (``file_locks``), whose
only descriptor is closed when nothing is held. A forked child owns none of its parent's locks.

Where the file system has no locks, or the file cannot be made, threads alone are kept apart: work may be done twice, never
wrongly.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from typing import Any
from weakref import WeakValueDictionary

try:
    import fcntl as _fcntl
except ImportError:  # not a POSIX system
    _fcntl = None  # type: ignore[assignment]

#: Pauses between questions, in seconds: they double from the first to the last.
_PAUSE_MIN_S = 0.0002
_PAUSE_MAX_S = 0.02


class FileLocks:
    """Locks numbered from 0 below 2**63."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._held: set[int] = set()
        self._fd = -1
        self._among_processes = _fcntl is not None

    def after_fork(self) -> None:
        """In a forked child: nothing is held here."""
        if self._pid != os.getpid():
            inherited = self._fd
            self._reset()
            if inherited >= 0:
                os.close(inherited)

    def take(self, number: int, wait_s: float = 0.0) -> bool:
        """Hold a lock; False where somebody else has held it all the time.

        Args:
            wait_s: how long to ask for it, at least.
        """
        pause_s, deadline_s = _PAUSE_MIN_S, 0.0
        while not self._try(number):
            now_s = time.monotonic()
            deadline_s = deadline_s or now_s + wait_s
            if now_s >= deadline_s:
                return False
            time.sleep(pause_s)
            pause_s = min(_PAUSE_MAX_S, 2 * pause_s)
        return True

    def _try(self, number: int) -> bool:
        self.after_fork()
        with self._mutex:
            if number in self._held:
                return False
            if self._among_processes:
                try:
                    self._open()
                    _fcntl.lockf(self._fd, _fcntl.LOCK_EX | _fcntl.LOCK_NB, 1, number)
                except OSError as e:
                    if self._fd >= 0 and e.errno in (errno.EACCES, errno.EAGAIN):
                        self._close_if_idle()
                        return False
                    self._among_processes = False  # the file system has no locks
            self._held.add(number)
            return True

    def drop(self, number: int) -> None:
        """Let go of a lock that is held."""
        self.after_fork()
        with self._mutex:
            if number not in self._held:  # in a forked child: it was the parent's
                return
            self._held.discard(number)
            if self._fd >= 0 and self._held:  # else closing lets go
                with contextlib.suppress(OSError):
                    _fcntl.lockf(self._fd, _fcntl.LOCK_UN, 1, number)
            self._close_if_idle()

    def _open(self) -> None:
        if self._fd >= 0:
            return
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _close_if_idle(self) -> None:
        if self._fd >= 0 and not self._held:
            os.close(self._fd)
            self._fd = -1


_LOCKS: WeakValueDictionary[str, FileLocks] = WeakValueDictionary()


def file_locks(path: str) -> FileLocks:
    """The locks of a file: the same object for all of this process."""
    fresh: Any = FileLocks(path)
    return _LOCKS.setdefault(path, fresh)
