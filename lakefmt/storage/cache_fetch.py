"""Chunks from wherever they are nearest: memory, the disk, or the store far away, in one fetch a chunk.

Among the threads of a process flights see to that (``cache_memory``), among processes locks (``cache_locks``). Who finds chunks
on no disk takes the locks of those nobody is fetching, looks again, fetches them, writes them and lets go; then it sees to the
others in the same way, or waits for one of them. Nothing is held while waiting. A holder who does not get on for long is waited
for no more.

A request is for a run of chunks, joined as the port joins ranges; what lies in its gaps has been paid for, and is kept too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from lakefmt.storage.cache_disk import CHUNK_NBYTES, DiskCache
from lakefmt.storage.cache_memory import ChunkId, ChunkMemory, Flights
from lakefmt.storage.port import COALESCE_GAP_BYTES, Range, Store, coalesce

#: Seconds for which another process's fetch is waited for.
WAIT_S_MAX = 30.0
#: Objects whose ends are remembered.
_ENDS_MAX = 1 << 16
#: Chunks no farther apart than this may become one request.
_NEAR_CHUNKS = COALESCE_GAP_BYTES // CHUNK_NBYTES + 1
_EMPTY = memoryview(b"")


class Counts:
    """What a cache did: chunks found in memory and on disk, chunks fetched, requests, and bytes."""

    NAMES = ("memory_hits", "disk_hits", "misses", "requests", "fetched_nbytes", "served_nbytes")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(self.NAMES, 0)

    def add(self, **counts: int) -> None:
        """Count more of some."""
        with self._lock:
            for name, n in counts.items():
                self._counts[name] += n

    def report(self) -> dict[str, int]:
        """A copy."""
        with self._lock:
            return dict(self._counts)


class Chunks:
    """The chunks of one store, in one process."""

    def __init__(self, inner: Store, memory_nbytes: int, counts: Counts) -> None:
        self._inner = inner
        self._counts = counts
        self._flights = Flights()
        self._ends: dict[str, int] = {}  # numbers of chunks that are short: what comes after them is empty
        self.memory = ChunkMemory(memory_nbytes)
        self.disk: DiskCache | None = None

    def get(self, ids: Iterable[ChunkId]) -> dict[ChunkId, memoryview]:
        """The bytes of chunks; past the end of an object they are empty.

        Raises:
            NoSuchObject, StoreError: the store has them not.
        """
        found, missing = self.memory.take(ids)
        hits = len(found)
        if missing:
            missing = self._not_past_end(missing, found)
        while missing:
            flight, mine, theirs = self._flights.claim(missing)
            try:
                if mine:
                    self._bring(mine, flight.chunks)
            finally:
                self._flights.land(flight, mine)
            found.update(flight.chunks)
            missing = []
            for chunk, other in theirs.items():
                other.landed.wait()
                data = other.chunks.get(chunk)
                if data is None:
                    missing.append(chunk)
                else:
                    found[chunk] = data
                    hits += 1
        self._counts.add(memory_hits=hits)
        return found

    def _bring(self, ids: list[ChunkId], out: dict[ChunkId, memoryview]) -> None:
        """Chunks of a flight of one's own."""
        found, ids = self.memory.take(ids)  # another flight may have landed since they were looked for
        out.update(found)
        disk = self.disk
        if disk is None:
            self._fetch(ids, out)
            return
        rest = sorted(self._from_disk(disk, ids, out))
        while rest:
            held: list[ChunkId] = []
            try:
                _take_locks(disk, rest, held)
                if not held and disk.locks.take(disk.lock_number(rest[0]), WAIT_S_MAX):
                    held.append(rest[0])
                    _take_locks(disk, rest[1:], held)
                # of those that are held, others may have written some just before; where nothing could be had, all is fetched
                self._fetch(self._from_disk(disk, held or rest, out), out)
            finally:
                for chunk in held:
                    disk.locks.drop(disk.lock_number(chunk))
            rest = [chunk for chunk in rest if chunk not in out]

    def _from_disk(self, disk: DiskCache, ids: Sequence[ChunkId], out: dict[ChunkId, memoryview]) -> list[ChunkId]:
        """Take what is on the disk; the rest."""
        found: dict[ChunkId, memoryview] = {}
        rest: list[ChunkId] = []
        for chunk in ids:
            data = disk.read(chunk)
            if data is None:
                data = self._of_whole(disk, chunk)
            if data is None:
                rest.append(chunk)
            else:
                found[chunk] = data
        self.memory.put(found)
        self._counts.add(disk_hits=len(found))
        self._learn(found)
        out.update(found)
        return self._not_past_end(rest, out)

    def _learn(self, chunks: Mapping[ChunkId, memoryview]) -> None:
        """Note where objects end."""
        for (key, number), data in chunks.items():
            if len(data) < CHUNK_NBYTES and number < self._ends.get(key, number + 1):
                if len(self._ends) >= _ENDS_MAX:
                    self._ends.clear()
                self._ends[key] = number

    def _not_past_end(self, ids: Sequence[ChunkId], out: dict[ChunkId, memoryview]) -> list[ChunkId]:
        """Those that are not known to be empty; the others are answered."""
        rest: list[ChunkId] = []
        for chunk in ids:
            if chunk[1] > self._ends.get(chunk[0], chunk[1]):
                out[chunk] = _EMPTY
            else:
                rest.append(chunk)
        return rest

    def forget(self, key: str) -> None:
        """Drop all of an object."""
        self._ends.pop(key, None)
        self.memory.forget(key)
        if self.disk is not None:
            self.disk.forget(key)

    @staticmethod
    def _of_whole(disk: DiskCache, chunk: ChunkId) -> memoryview | None:
        """A chunk of an object that another process has downloaded meanwhile."""
        key, number = chunk
        if not disk.wholes.has(key, disk.place(key)):
            return None
        data = disk.wholes.read(key, number * CHUNK_NBYTES, CHUNK_NBYTES)
        return None if data is None else memoryview(data)

    def _fetch(self, ids: Sequence[ChunkId], out: dict[ChunkId, memoryview]) -> None:
        """Ask the store, and keep what came."""
        if not ids:
            return
        requests = coalesce([Range(key, number * CHUNK_NBYTES, CHUNK_NBYTES) for key, number in ids])
        answers = self._inner.get_ranges([r for r, _ in requests])
        came: dict[ChunkId, memoryview] = {}
        for (request, _), answer in zip(requests, answers, strict=True):
            view = memoryview(answer)
            for at in range(0, request.length, CHUNK_NBYTES):
                chunk = (request.key, (request.start + at) // CHUNK_NBYTES)
                if chunk[1] > self._ends.get(request.key, chunk[1]):  # nothing is kept of what comes after the end
                    break
                came[chunk] = memoryview(bytes(view[at : at + CHUNK_NBYTES]))  # its own memory, not the whole request's
                self._learn({chunk: came[chunk]})
        self._counts.add(misses=len(ids), requests=len(requests), fetched_nbytes=sum(map(len, answers)))
        out.update((chunk, came.get(chunk, _EMPTY)) for chunk in ids)
        self.memory.put(came)
        if self.disk is not None:
            fetched = set(ids)
            self.disk.write([(c, data) for c, data in came.items() if c in fetched or not self.disk.has(c)])


def _take_locks(disk: DiskCache, ids: Sequence[ChunkId], held: list[ChunkId]) -> None:
    """Take the locks of those chunks (in order) that nobody is fetching.

    What would be one request with a chunk that another fetches is left to him too: two who want the same run of chunks at the same
    moment would take turns at them, and each fetch the whole run.
    """
    busy: ChunkId | None = None
    for chunk in ids:
        if busy is not None and busy[0] == chunk[0] and chunk[1] - busy[1] <= _NEAR_CHUNKS:
            busy = chunk
        elif disk.locks.take(disk.lock_number(chunk)):
            held.append(chunk)
        else:
            busy = chunk
