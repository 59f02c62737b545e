"""Threads that stay ahead of the consumer: one that fetches, and a crew that decodes and transforms.

The feeder walks the *pieces* of an epoch, each a step or several small ones, and keeps a bounded queue of
*slots*, one a piece, in order. The samples of a step that has work per sample are cut into spans on one shared
task queue; whoever finishes a slot's last span also finishes the batch. The crew goes from one batch's last span
straight to the next batch's first, with no barrier in between, so that no core idles while batches are being
looked ahead at. The consumer takes finished slots from the front.

Life cycle: threads know the *core*, never the ``Pipeline`` that the consumer holds. When that goes
(``close()``, the end of the epoch, an error, or garbage collection after an early break) the core is stopped
and its threads are joined. A child process that inherited a core by fork has none of its threads, and leaves
it alone.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeAlias

from lakefmt.loaders.engine import Engine, Work
from lakefmt.loaders.stats import nbytes_of
from lakefmt.loaders.steps import Step


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of looking ahead.

    Attributes:
        threads: size of the crew; 0 does everything on the consumer's thread.
        batches: pieces (batches, or blocks of small ones) prepared ahead.
        rows: look ahead so many samples at least, so that small batches, too, keep the crew busy.
        nbytes: stop looking ahead when batches prepared ahead would exceed this (two are always allowed).
    """

    threads: int
    batches: int = 2
    rows: int = 64
    nbytes: int = 1 << 30


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Slot:
    """A piece's place in the queue: the batches made, and what went wrong with the one after them."""

    __slots__ = ("error", "error_at", "left", "made", "ready")

    def __init__(self) -> None:
        self.left = 0
        self.made: list[Any] = []
        self.error: BaseException | None = None
        self.error_at = 0
        self.ready = False


Task: TypeAlias = tuple[Slot, Work, range] | None


class _Core:
    """What the threads of one pipeline share. ``lock`` guards everything below it."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine = engine
        self.limits = limits
        self.pid = os.getpid()
        self.tasks: SimpleQueue[Task] = SimpleQueue()
        self.threads: list[threading.Thread] = []
        # Re-entrant: a garbage collection inside a locked region may finalise another pipeline, or this one.
        self.lock = threading.Condition(threading.RLock())
        self.slots: deque[Slot] = deque()
        self.batch_nbytes = 1
        self.stopping = False
        self.exhausted = False

    def start(self, pieces: Iterator[list[Step]], batch_rows: int) -> None:
        ahead = max(self.limits.batches, -(-self.limits.rows // batch_rows) if self.limits.threads else 0)
        crew = [threading.Thread(target=_work, args=(self,), name="lakefmt-work") for _ in range(self.limits.threads)]
        feeder = threading.Thread(target=_feed, args=(self, pieces, ahead), name="lakefmt-feed")
        for thread in (*crew, feeder):
            thread.daemon = True  # a consumer that exits holding an iterator must not hang; atexit joins them
            thread.start()
            self.threads.append(thread)

    def stop(self) -> None:
        """Stop and join. Idempotent; called from any thread, one of the core's own included."""
        if os.getpid() != self.pid:
            return
        with self.lock:
            self.stopping = True
            self.lock.notify_all()
        for _ in self.threads:
            self.tasks.put(None)
        me = threading.current_thread()
        if me not in self.threads:
            for thread in self.threads:
                thread.join()
            self.slots.clear()

    def reserve(self, ahead: int) -> Slot | None:
        """The next slot, once there is room for one; ``None`` when the pipeline stops."""
        with self.lock:
            while not self.stopping:
                allowed = max(2, min(ahead, self.limits.nbytes // self.batch_nbytes))
                if len(self.slots) < allowed:
                    slot = Slot()
                    self.slots.append(slot)
                    return slot
                self.lock.wait()
            return None

    def deliver(self, slot: Slot, works: Iterable[Work]) -> None:
        """Finish batches whose samples are done."""
        made: list[Any] = []
        if slot.error is None:
            try:
                for work in works:
                    made.append(self.engine.finish(work))
            except BaseException as e:
                self.fail(slot, e, 0)
        nbytes = nbytes_of(made[0]) * len(made) if made else 0
        with self.lock:
            slot.made, slot.ready = made, True
            self.batch_nbytes = max(self.batch_nbytes, nbytes)
            self.lock.notify_all()

    def fail(self, slot: Slot, error: BaseException, at: int) -> None:
        """Record an error; of several, the one at the lowest sample is shown."""
        with self.lock:
            if slot.error is None or at < slot.error_at:
                slot.error, slot.error_at = error, at


def _feed(core: _Core, pieces: Iterator[list[Step]], ahead: int) -> None:
    try:
        while (slot := core.reserve(ahead)) is not None:
            try:
                piece = next(pieces, None)
                if piece is None:
                    with core.lock:
                        core.slots.pop()
                    return
                _prepare(core, slot, piece)
            except BaseException as e:
                core.fail(slot, e, 0)
                with core.lock:
                    slot.ready = True
            if slot.error is not None:
                return
            del slot  # not to keep a batch alive while waiting
    finally:
        with core.lock:
            core.exhausted = True
            core.lock.notify_all()


def _prepare(core: _Core, slot: Slot, piece: list[Step]) -> None:
    """Fetch a piece, and finish it or hand it to the crew."""
    works = core.engine.works(piece)
    if len(piece) > 1:
        core.deliver(slot, works)
        return
    work = next(works)
    spans = core.engine.spans(work, core.limits.threads) if core.limits.threads else []
    slot.left = len(spans)
    if not spans:
        core.deliver(slot, [work])
    for span in spans:
        core.tasks.put((slot, work, span))


def _work(core: _Core) -> None:
    while (task := core.tasks.get()) is not None:
        slot, work, span = task
        try:
            if slot.error is None and not core.stopping:
                core.engine.run(work, span)
        except BaseException as e:
            core.fail(slot, e, span.start)
        with core.lock:
            slot.left -= 1
            last = slot.left == 0
        if last:
            core.deliver(slot, [work])
        del task, slot, work


class Pipeline:
    """The batches of some steps, in order, prepared by background threads. An iterator; close it or drop
    it.
    """

    def __init__(self, engine: Engine, pieces: Iterator[list[Step]], batch_rows: int, limits: Limits) -> None:
        self._core = _Core(engine, limits)
        self._made: deque[Any] = deque()
        self._error: BaseException | None = None
        self.close = weakref.finalize(self, self._core.stop)
        self._core.start(pieces, batch_rows)

    def __iter__(self) -> Pipeline:
        return self

    def __next__(self) -> Any:
        if self._made and not self._core.stopping:
            return self._made.popleft()
        try:
            while True:
                if self._error is not None:
                    raise self._error
                slot = self._next_slot()
                self._error = slot.error
                self._made.extend(slot.made)
                if self._made:
                    return self._made.popleft()
        except BaseException:
            self._made.clear()
            self.close()
            raise

    def _next_slot(self) -> Slot:
        core = self._core
        with core.lock:
            ready = sum(slot.ready for slot in core.slots)
            while not (core.slots and core.slots[0].ready):
                if core.stopping or (core.exhausted and not core.slots):
                    raise StopIteration
                core.lock.wait()
            slot = core.slots.popleft()
            core.lock.notify_all()
        core.engine.stats.queued(ready)
        return slot


class Inline:
    """The same without threads: every batch is made when asked for."""

    def __init__(self, engine: Engine, pieces: Iterator[list[Step]]) -> None:
        self._engine, self._pieces = engine, pieces
        self._works: Iterator[Work] = iter(())

    def __iter__(self) -> Inline:
        return self

    def __next__(self) -> Any:
        work = next(self._works, None)
        while work is None:
            self._works = self._engine.works(next(self._pieces))
            work = next(self._works, None)
        for span in self._engine.spans(work, 1):
            self._engine.run(work, span)
        return self._engine.finish(work)

    def close(self) -> None:
        self._pieces, self._works = iter(()), iter(())


def batches(engine: Engine, pieces: Iterator[list[Step]], batch_rows: int, limits: Limits | None) -> Pipeline | Inline:
    """Run ``pieces`` within ``limits``; ``None`` for no threads at all."""
    return Inline(engine, pieces) if limits is None else Pipeline(engine, pieces, batch_rows, limits)
