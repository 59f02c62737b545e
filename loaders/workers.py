"""Worker processes for front ends without a process pool of their own: for transforms that hold the interpreter lock.

Each process runs the same engine, on every k-th step; the consumer takes from them in turn, so that batches arrive in
the order they would have without. Processes are spawned, never forked (other threads may hold locks at that
moment), and stay from one epoch to the next.

A batch travels as a pickle whose arrays are left out; these lie in one anonymous file (memory, on Linux), whose
descriptor is passed along and which the consumer maps: nothing is copied on arrival, nothing has a name that could
be left behind, and the memory goes when the last array over it does, whoever is killed. Every process has a few
*credits*, one a batch that it may be ahead; taking a batch gives one back.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import traceback
import weakref
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from lakefmt.errors import InvalidInput, WorkerDied
from lakefmt.loaders.batch import Parcel
from lakefmt.loaders.stats import Stats

if TYPE_CHECKING:
    from lakefmt.loaders.plan import Order
    from lakefmt.loaders.session import Job

#: Arrays of fewer bytes go through the pipe: a file costs some 30 us.
FILE_NBYTES_MIN = 32 * 1024
#: Places in the file are multiples of this, as TensorFlow and JAX want memory that they share.
ALIGN_NBYTES = 64
#: How long a process may take to end by itself.
_END_S = 5.0


class Crew:
    """``count`` processes that make the batches of ``job``. Close it, or drop it."""

    def __init__(self, job: Job, count: int, ahead: int) -> None:
        if os.name != "posix":
            raise InvalidInput(f"num_workers={count}: worker processes need POSIX descriptors; use num_workers=0, with threads")
        self._run = 0
        self._ahead = max(1, ahead)
        self.busy: weakref.ref[Collected] | None = None
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self.close = weakref.finalize(self, _end, self._pipes, self._processes, os.getpid())
        try:
            for lane in range(count):
                here, there = context.Pipe()
                self._pipes.append(here)
                process = context.Process(target=_serve, args=(job, lane, count, self._ahead, there), daemon=True)
                process.start()
                self._processes.append(process)
                there.close()
        except (pickle.PicklingError, AttributeError, TypeError) as e:
            self.close()
            raise InvalidInput(
                f"num_workers={count}: what the loader is made of cannot be sent to another process ({e}); define functions at the "
                "top of a module (lambdas and local functions have no name there), or use num_workers=0"
            ) from e
        except BaseException:
            self.close()
            raise

    def run(self, order: Order, epoch: int, start: int) -> Collected:
        """The batches of an epoch from position ``start``, in their order."""
        self._run += 1
        for pipe in self._pipes:
            pipe.send(("go", self._run, order, epoch, start))
        collected = Collected(self, self._run)
        self.busy = weakref.ref(collected)
        return collected

    @property
    def count(self) -> int:
        """Number of processes."""
        return len(self._pipes)

    def receive(self, lane: int, run: int) -> tuple[str, Any]:
        """The next message of a process about a run.

        Raises:
            WorkerDied: the process is gone.
        """
        pipe = self._pipes[lane]
        try:
            while True:
                kind, about, sizes = pickle.loads(pipe.recv_bytes())
                value = _received(pipe, sizes) if kind != "end" else None
                if about == run:
                    if kind == "batch":
                        pipe.send(("more",))
                    return kind, value
        except (EOFError, OSError) as e:
            process = self._processes[lane]
            process.join(_END_S)
            raise WorkerDied(
                f"worker process {lane} of the loader ended unexpectedly, exit code {process.exitcode}; {_why(process.exitcode)}"
            ) from e


class Collected:
    """The batches of one epoch; an iterator."""

    def __init__(self, crew: Crew, run: int) -> None:
        self._crew: Crew | None = crew
        self._run, self._taken = run, 0

    def __iter__(self) -> Collected:
        return self

    def __next__(self) -> Any:
        crew = self._crew
        if crew is None:
            raise StopIteration
        kind, value = crew.receive(self._taken % crew.count, self._run)
        if kind == "batch":
            self._taken += 1
            return value
        self.close()
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """Take no more; the processes may begin another run."""
        if self._crew is not None:
            self._crew.busy = None
        self._crew = None


def _why(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return "it was killed, often for lack of memory: use fewer workers or smaller batches"
    return "see what it printed; a script that uses worker processes begins its work below `if __name__ == '__main__':`"


def _end(pipes: list[Connection], processes: list[BaseProcess], pid: int) -> None:
    if os.getpid() != pid:  # a forked child has copies of the pipes, and no part in the processes
        return
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join(_END_S)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


# ----------------------------------------------------------------------- in the worker


def _serve(job: Job, lane: int, lanes: int, ahead: int, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the consumer's; it closes the pipe
    items: Iterator[Any] | None = None
    run = credits = 0
    stats = Stats(job.recipe.source.nbytes_read)
    try:
        while True:
            if items is None or not credits or pipe.poll():
                command = pipe.recv()
                if command[0] == "more":
                    credits += 1
                    continue
                _, run, order, epoch, start = command
                credits = ahead
                here = replace(job, steps=replace(job.steps, order=order))
                items = iter(here.run(epoch, start, lane, lanes, stats))
                continue
            items, credits = (items, credits - 1) if _made(items, run, stats, pipe) else (None, 0)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # nobody wants more


def _made(items: Iterator[Any], run: int, stats: Stats, pipe: Connection) -> bool:
    """Make a batch and send it; False at the end."""
    try:
        item = next(items)
    except StopIteration:
        pipe.send_bytes(pickle.dumps(("end", run, ())))
        return False
    except Exception as e:
        _send(pipe, "error", run, _portable(e))
        return False
    parcel = item if isinstance(item, Parcel) else Parcel(item)
    parcel.spent = stats.taken()
    try:
        _send(pipe, "batch", run, parcel)
    except (pickle.PicklingError, AttributeError, TypeError) as e:
        _send(pipe, "error", run, InvalidInput(f"num_workers: a batch cannot be sent to another process ({e}); return arrays"))
        return False
    return True


def _portable(error: Exception) -> Exception:
    """The error, or where it cannot travel one that says the same; with the place where it arose."""
    error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)).rstrip())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception as e:  # its class may ask anything of its pickling
        made = RuntimeError(f"{type(error).__name__}: {error} (which cannot be sent between processes: {e})")
        made.__notes__ = error.__notes__
        return made
    return error


# -------------------------------------------------------------------------- the way over


def _send(pipe: Connection, kind: str, run: int, value: Any) -> None:
    buffers: list[memoryview] = []

    def apart(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < FILE_NBYTES_MIN:
            return True
        buffers.append(raw)
        return False

    data = pickle.dumps(value, protocol=5, buffer_callback=apart)
    pipe.send_bytes(pickle.dumps((kind, run, tuple(b.nbytes for b in buffers))))
    pipe.send_bytes(data)
    if buffers:
        _send_file(pipe, buffers)


def _send_file(pipe: Connection, buffers: list[memoryview]) -> None:
    places, size = _places([b.nbytes for b in buffers])
    fd = _anonymous_file(size)
    try:
        with mmap.mmap(fd, size) as memory:
            for place, buffer in zip(places, buffers, strict=True):
                memory[place : place + buffer.nbytes] = buffer
        _pass(pipe, fd)
    finally:
        os.close(fd)


def _received(pipe: Connection, sizes: tuple[int, ...]) -> Any:
    data = pipe.recv_bytes()
    if not sizes:
        return pickle.loads(data)
    fd = _passed(pipe)
    places, size = _places(sizes)
    try:
        memory = memoryview(mmap.mmap(fd, size))
    finally:
        os.close(fd)
    return pickle.loads(data, buffers=[memory[a : a + n] for a, n in zip(places, sizes, strict=True)])


def _places(sizes: Any) -> tuple[list[int], int]:
    places, end = [], 0
    for size in sizes:
        places.append(end)
        end += -(-size // ALIGN_NBYTES) * ALIGN_NBYTES
    return places, end


def _anonymous_file(size: int) -> int:
    if sys.platform == "linux":
        fd = os.memfd_create("lakefmt-batch", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


def _pass(pipe: Connection, fd: int) -> None:
    import socket

    with socket.socket(fileno=os.dup(pipe.fileno())) as line:
        socket.send_fds(line, [b"f"], [fd])


def _passed(pipe: Connection) -> int:
    import socket

    with socket.socket(fileno=os.dup(pipe.fileno())) as line:
        mark, fds, _, _ = socket.recv_fds(line, 1, 1)
    if not mark or not fds:
        raise EOFError
    return fds[0]
