"""Batches onto a GPU, one ahead of the consumer, on a stream of their own.

The copy of the next batch is under way while the consumer computes on the present one. Its safety rests on
three orderings between the copy stream and the consumer's stream, in place of ``record_stream`` (which makes
the allocator's reuse of memory unpredictable):

1. before a copy is issued, the copy stream waits for the consumer's stream: memory that the consumer has
   dropped, and that the allocator may now give to the copy, is no longer being read;
2. before a batch is handed out, the consumer's stream waits for its copy;
3. when the consumer leaves early, its stream waits for the copies in flight before their tensors are dropped,
   so that the memory is not reused while it is still being written.

All are waits between streams on the device; the host never stands still. Every batch gets fresh device
tensors, taken from the allocator's cache. Host memory is pinned: dense tensors are gathered straight into it.

``Streams`` is the little of torch.cuda that this takes; a test injects another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import torch

from lakefmt.cells import Array
from lakefmt.errors import InvalidInput
from lakefmt.loaders.batch import Batch, Parcel


class Streams(Protocol):
    """Streams and copies of one device."""

    def current(self) -> Any:
        """The stream the calling thread computes on; it has ``wait_stream`` and ``wait_event``."""
        ...

    def new(self) -> Any:
        """A stream for copies; it has ``wait_stream`` and ``record_event``."""
        ...

    def using(self, stream: Any) -> AbstractContextManager[Any]:
        """Issue copies on ``stream``."""
        ...

    def copy(self, tensor: Any) -> Any:
        """``tensor`` on the device, asynchronously where the host memory is pinned."""
        ...


class CudaStreams:
    """``Streams`` of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def current(self) -> Any:
        return torch.cuda.current_stream(self._device)

    def new(self) -> Any:
        return torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def using(self, stream: Any) -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream)

    def copy(self, tensor: Any) -> Any:
        if not tensor.is_pinned():
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def device_of(name: Any) -> torch.device | None:
    """The device that batches are to be moved to; ``None`` for the CPU, where they are.

    Raises:
        InvalidInput: no such device here.
    """
    if name is None:
        return None
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError) as e:
        why = str(e).partition("\n")[0]
        raise InvalidInput(f"device={name!r} is no torch device ({why}); use 'cuda', 'cuda:1' or 'cpu'") from None
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        raise InvalidInput(f"device={name!r}: batches can be moved to 'cuda'; elsewhere call .to() on them")
    if not torch.cuda.is_available():
        raise InvalidInput(f"device={name!r}: torch sees no CUDA device on this machine; use device='cpu'")
    wrapped = isinstance(name, str) and ":" in name and str(device) != name  # torch keeps eight bits of the number
    if wrapped or not 0 <= (device.index or 0) < torch.cuda.device_count():
        raise InvalidInput(f"device={name!r}: torch sees {torch.cuda.device_count()} CUDA devices on this machine")
    return device


def pinned_array(shape: tuple[int, ...], dtype: str) -> Array:
    """A fresh page-locked array, from torch's caching allocator; dtypes torch lacks get ordinary memory."""
    import numpy as np

    like = getattr(torch, dtype, None)
    if not isinstance(like, torch.dtype) or dtype in ("uint16", "uint32", "uint64"):
        return np.empty(shape, dtype)
    array: Array = torch.empty(shape, dtype=like, pin_memory=True).numpy()
    return array


def moved(value: Any, streams: Streams) -> Any:
    """Every tensor in ``value`` on the device; dicts, lists and tuples are walked, other things stay."""
    if isinstance(value, torch.Tensor):
        return streams.copy(value)
    if isinstance(value, Parcel):
        return replace(value, value=moved(value.value, streams))
    if isinstance(value, dict):
        return (Batch if isinstance(value, Batch) else dict)((k, moved(v, streams)) for k, v in value.items())
    if isinstance(value, list):
        return [moved(v, streams) for v in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(moved(v, streams) for v in value)
    return value


def onto_device(items: Iterator[Any], streams: Streams) -> Iterator[Any]:
    """``items`` with their tensors on the device, copied one ahead."""
    copying = streams.new()
    pending: deque[tuple[Any, Any]] = deque()

    def issue() -> None:
        try:
            item = next(items)
        except StopIteration:
            return
        copying.wait_stream(streams.current())  # ordering 1
        with streams.using(copying):
            there = moved(item, streams)
            pending.append((there, copying.record_event()))

    try:
        issue()
        while pending:
            # The next copy is issued before this batch is handed out: afterwards it would wait for the
            # consumer's work on it.
            issue()
            there, copied = pending.popleft()
            streams.current().wait_event(copied)  # ordering 2
            yield there
            del there
    finally:
        if pending:
            streams.current().wait_stream(copying)  # ordering 3
            pending.clear()
