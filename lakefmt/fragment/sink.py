"""Where a column file's bytes go: hashed and handed to the store by a thread of its own, while the next page is being checksummed.

Both sides release the interpreter lock on large buffers, so that writing costs the slower of the two and not their sum.
"""

from __future__ import annotations

import threading
from queue import Queue
from types import TracebackType

import xxhash

from lakefmt.storage import Bytes, Writer

#: Buffers under way between the two threads. They belong to the caller's samples, so that this bounds no memory, only waiting.
_AHEAD = 8
#: Smaller writes are gathered to this size before they change threads.
_GATHER_NBYTES = 256 << 10


class HashingSink:
    """Passes bytes on to a store's writer, counting and hashing them. A context manager: leaving it waits for the last byte."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._hash = xxhash.xxh64()
        self._queue: Queue[Bytes | None] = Queue(_AHEAD)
        self._small = bytearray()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="lakefmt-sink", daemon=True)
        self._alone = False
        self.size = 0

    def __enter__(self) -> HashingSink:
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending and starts no thread any more: do it on this one
            self._alone = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self._send_small()
        if not self._alone:
            self._queue.put(None)
            self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def write(self, data: Bytes) -> int:
        """Take bytes; they must not change until the sink is left.

        Raises:
            StoreError: an earlier write failed.
        """
        if self._error is not None:
            raise self._error
        length = data.nbytes if isinstance(data, memoryview) else len(data)
        self.size += length
        if length >= _GATHER_NBYTES:
            self._send_small()
            self._send(data)
        else:
            self._small += data
            if len(self._small) >= _GATHER_NBYTES:
                self._send_small()
        return length

    def digest(self) -> str:
        """XXH64 of everything, in hex; once the sink has been left."""
        return str(self._hash.hexdigest())

    def _send_small(self) -> None:
        if self._small:
            self._send(bytes(self._small))
            self._small = bytearray()

    def _send(self, data: Bytes) -> None:
        if self._alone:
            self._store(data)
        else:
            self._queue.put(data)

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            self._store(data)

    def _store(self, data: Bytes) -> None:
        if self._error is None:
            try:
                self._hash.update(data)
                self._writer.write(data)
            except BaseException as e:  # shown to the thread that writes
                self._error = e
