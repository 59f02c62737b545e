"""Threads that stay ahead of the consumer: one that fetches, and a crew that decodes and transforms.

The feeder walks the steps and keeps a bounded queue of *slots*, one a batch, in order. Each slot's samples
are cut into spans on one shared task queue; whoever finishes a slot's last span also finishes the batch. The
crew goes from one batch's last span straight to the next batch's first, with no barrier in between, so that
no core idles while batches are being looked ahead at. The consumer takes finished slots from the front.

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
from collections.abc import Iterator
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
        batches: batches prepared ahead.
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
    """A batch's place in the queue."""

    __slots__ = ("error", "error_at", "left", "made", "ready")

    def __init__(self) -> None:
        self.left = 0
        self.made: Any = None
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

    def start(self, steps: Iterator[Step], batch_rows: int) -> None:
        ahead = max(self.limits.batches, -(-self.limits.rows // batch_rows) if self.limits.threads else 0)
        crew = [threading.Thread(target=_work, args=(self,), name="lakefmt-work") for _ in range(self.limits.threads)]
        feeder = threading.Thread(target=_feed, args=(self, steps, ahead), name="lakefmt-feed")
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

    def deliver(self, slot: Slot, work: Work) -> None:
        """Finish a batch whose samples are done."""
        try:
            made = self.engine.finish(work) if slot.error is None else None
        except BaseException as e:
            self.fail(slot, e, 0)
            made = None
        nbytes = nbytes_of(made)
        with self.lock:
            slot.made, slot.ready = made, True
            self.batch_nbytes = max(self.batch_nbytes, nbytes)
            self.lock.notify_all()

    def fail(self, slot: Slot, error: BaseException, at: int) -> None:
        """Record an error; of several, the one at the lowest sample is shown."""
        with self.lock:
            if slot.error is None or at < slot.error_at:
                slot.error, slot.error_at = error, at


def _feed(core: _Core, steps: Iterator[Step], ahead: int) -> None:
    threads = core.limits.threads
    try:
        while (slot := core.reserve(ahead)) is not None:
            work = None
            try:
                step = next(steps, None)
                if step is None:
                    with core.lock:
                        core.slots.pop()
                    return
                work = core.engine.begin(step)
                spans = core.engine.spans(work, threads) if threads else []
            except BaseException as e:
                core.fail(slot, e, 0)
                with core.lock:
                    slot.ready = True
                return
            slot.left = len(spans)
            if not spans:
                core.deliver(slot, work)
            for span in spans:
                core.tasks.put((slot, work, span))
            del work, slot  # not to keep a batch alive while waiting
    finally:
        with core.lock:
            core.exhausted = True
            core.lock.notify_all()


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
            core.deliver(slot, work)
        del task, slot, work


class Pipeline:
    """The batches of some steps, in order, prepared by background threads. An iterator; close it or drop
    it.
    """

    def __init__(self, engine: Engine, steps: Iterator[Step], batch_rows: int, limits: Limits) -> None:
        self._core = _Core(engine, limits)
        self.close = weakref.finalize(self, self._core.stop)
        self._core.start(steps, batch_rows)

    def __iter__(self) -> Pipeline:
        return self

    def __next__(self) -> Any:
        core = self._core
        try:
            with core.lock:
                while not (core.slots and core.slots[0].ready):
                    if core.stopping or (core.exhausted and not core.slots):
                        raise StopIteration
                    core.lock.wait()
                slot = core.slots.popleft()
                core.lock.notify_all()
            if slot.error is not None:
                raise slot.error
            return slot.made
        except BaseException:
            self.close()
            raise


class Inline:
    """The same without threads: every batch is made when asked for."""

    def __init__(self, engine: Engine, steps: Iterator[Step]) -> None:
        self._engine, self._steps = engine, steps

    def __iter__(self) -> Inline:
        return self

    def __next__(self) -> Any:
        return self._engine.make(next(self._steps))

    def close(self) -> None:
        self._steps = iter(())


def batches(engine: Engine, steps: Iterator[Step], batch_rows: int, limits: Limits | None) -> Pipeline | Inline:
    """Run ``steps`` within ``limits``; ``None`` for no threads at all."""
    return Inline(engine, steps) if limits is None else Pipeline(engine, steps, batch_rows, limits)
