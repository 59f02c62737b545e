"""Chunks of objects in memory, under a byte budget; and one fetch a chunk among the threads of a process.

A thread that lacks chunks *claims* those nobody is bringing, brings them, and lands; whoever else wants one of them waits for
that flight and takes the chunk from it. A flight that ends without a chunk leaves it to the next to claim, who learns the reason
for himself. Nobody waits while others wait for him: a claimant ends his own flight before he waits for those of others.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeAlias

#: A chunk: the key of its object, and its number in it.
ChunkId: TypeAlias = tuple[str, int]

#: What an entry takes beside its bytes: its id, two views, and its places in the table.
_ENTRY_NBYTES = 512


class ChunkMemory:
    """Least recently used chunks go first. Safe among threads."""

    def __init__(self, nbytes_max: int) -> None:
        self.nbytes_max = nbytes_max
        self.nbytes = 0
        self._entries: OrderedDict[ChunkId, memoryview] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, ids: Iterable[ChunkId]) -> tuple[dict[ChunkId, memoryview], list[ChunkId]]:
        """Those that are here, and the ids of the others."""
        found: dict[ChunkId, memoryview] = {}
        missing: list[ChunkId] = []
        with self._lock:
            entries = self._entries
            for chunk in ids:
                data = entries.get(chunk)
                if data is None:
                    missing.append(chunk)
                else:
                    found[chunk] = data
                    entries.move_to_end(chunk)
        return found, missing

    def put(self, chunks: dict[ChunkId, memoryview]) -> None:
        """Keep chunks, each a view of memory of its own. Too many at once would only push each other out: they are not kept."""
        if sum(map(_cost, chunks.values())) > self.nbytes_max // 2:
            return
        with self._lock:
            for chunk, data in chunks.items():
                replaced = self._entries.pop(chunk, None)
                self._entries[chunk] = data
                self.nbytes += _cost(data) - (0 if replaced is None else _cost(replaced))
            while self.nbytes > self.nbytes_max:
                _, dropped = self._entries.popitem(last=False)
                self.nbytes -= _cost(dropped)

    def forget(self, key: str) -> None:
        """Drop all chunks of an object."""
        with self._lock:
            gone = [chunk for chunk in self._entries if chunk[0] == key]
            for chunk in gone:
                self.nbytes -= _cost(self._entries.pop(chunk))

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()
            self.nbytes = 0


def _cost(data: memoryview) -> int:
    return len(data) + _ENTRY_NBYTES


class Flight:
    """Chunks that one thread is bringing."""

    __slots__ = ("chunks", "landed")

    def __init__(self) -> None:
        self.landed = threading.Event()
        self.chunks: dict[ChunkId, memoryview] = {}


class Flights:
    """Who is bringing which chunk, among the threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_chunk: dict[ChunkId, Flight] = {}

    def claim(self, ids: Iterable[ChunkId]) -> tuple[Flight, list[ChunkId], dict[ChunkId, Flight]]:
        """A flight of one's own, the chunks that are to be brought by it, and the flights that others have for the rest."""
        flight = Flight()
        mine: list[ChunkId] = []
        theirs: dict[ChunkId, Flight] = {}
        with self._lock:
            for chunk in ids:
                other = self._by_chunk.setdefault(chunk, flight)
                if other is flight:
                    mine.append(chunk)
                else:
                    theirs[chunk] = other
        return flight, mine, theirs

    def land(self, flight: Flight, ids: Iterable[ChunkId]) -> None:
        """End a flight, with whatever chunks it has."""
        with self._lock:
            for chunk in ids:
                del self._by_chunk[chunk]
        flight.landed.set()
