"""Batches onto a GPU, ahead of the consumer, on a stream of their own.

The copy of the next batches is under way while the consumer computes on the present one. Its safety rests on
three orderings between the copy stream and the consumer's stream, in place of ``record_stream`` (which makes
the allocator's reuse of memory unpredictable):

1. before a copy is issued, the copy stream waits for the consumer's stream: memory that the consumer has
   dropped, and that the allocator (or the ring) may now give to the copy, is no longer being read;
2. before a batch is handed out, the consumer's stream waits for its copy;
3. when the consumer leaves early, its stream waits for the copies in flight before their tensors are dropped,
   so that the memory is not reused while it is still being written.

All are waits between streams on the device; the host never stands still. Host memory is pinned: dense tensors
are gathered straight into it. Decoding on the device and the user's ``device_transform`` run on the copy stream
behind the copy, under the same orderings, so that they, too, overlap with the consumer's work.

Every batch gets fresh device tensors, taken from the allocator's cache; with a *ring*, a few sets of tensors are
written in turn, so that addresses are stable (CUDA graphs want that) and memory does not depend on when batches
are dropped. A batch of a ring is overwritten when ``ring`` later ones have been asked for.

``Streams`` is the little of torch.cuda that this takes; a test injects another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from lakefmt.cells import Array
from lakefmt.errors import BadSample, InvalidInput, MissingExtra
from lakefmt.loaders.batch import Batch, Parcel
from lakefmt.loaders.stats import nbytes_of

#: Shapes of one entry for which a ring keeps tensors: the whole batch's and the last one's, and some more.
RING_SHAPES_MAX = 8
_END = object()


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

    def copy(self, tensor: Any, into: Any = None) -> Any:
        """``tensor`` on the device, fresh or written ``into`` a tensor there; asynchronously where the host memory is pinned."""
        ...

    def decode(self, images: list[Any]) -> list[Any]:
        """Encoded images, uint8 tensors in host memory, decoded on the device: uint8 (channels, height, width)."""
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

    def copy(self, tensor: Any, into: Any = None) -> Any:
        if not tensor.is_pinned():
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True) if into is None else into.copy_(tensor, non_blocking=True)

    def decode(self, images: list[Any]) -> list[Any]:
        decoded: list[Any] = jpeg_decoder()(images, mode="UNCHANGED", device=self._device)
        return decoded


def jpeg_decoder() -> Callable[..., Any]:
    """torchcodec's, which decodes a list of images in one call of nvJPEG.

    Raises:
        MissingExtra: torchcodec is not installed, or too old.
    """
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError) as e:  # its libraries fail to load beside another torch
        raise MissingExtra("decode_method 'device'", "gpu") from e
    return decode_jpeg  # type: ignore[no-any-return]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Onto:
    """What becomes of batches on their way to the device.

    Attributes:
        nbytes: have copies of so many bytes under way, where that is more than one batch ahead of the consumer.
        ring: sets of device tensors that are written in turn; ``None`` for fresh ones.
        decoded: entries of a batch that are encoded images, and whether they are of one shape, to be stacked.
        transform: a function of the batch on the device.
    """

    nbytes: int = 0
    ring: int | None = None
    decoded: Mapping[str, bool] = field(default_factory=dict)
    transform: Callable[[Any], Any] | None = None


class _Ring:
    """Device tensors by place in a batch, shape and dtype, in turn."""

    def __init__(self, size: int) -> None:
        self._size, self._turn = size, 0
        self._sets: list[dict[Any, Any]] = [{} for _ in range(size)]

    def next_batch(self) -> None:
        self._turn = (self._turn + 1) % self._size

    def copy(self, tensor: Any, place: tuple[Any, ...], streams: Streams) -> Any:
        key = (place, tuple(tensor.shape), tensor.dtype)
        own = self._sets[self._turn]
        there = streams.copy(tensor, own.get(key))
        if key not in own and sum(1 for k in own if k[0] == place) < RING_SHAPES_MAX:
            own[key] = there
        return there


def moved(value: Any, copy: Callable[[Any, tuple[Any, ...]], Any], place: tuple[Any, ...] = ()) -> Any:
    """Every tensor in ``value`` through ``copy``; dicts, lists and tuples are walked, other things stay."""
    if isinstance(value, torch.Tensor):
        return copy(value, place)
    if isinstance(value, Parcel):
        return replace(value, value=moved(value.value, copy, place))
    if isinstance(value, dict):
        return (Batch if isinstance(value, Batch) else dict)((k, moved(v, copy, (*place, k))) for k, v in value.items())
    if isinstance(value, list):
        return [moved(v, copy, (*place, i)) for i, v in enumerate(value)]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(moved(v, copy, (*place, i)) for i, v in enumerate(value))
    return value


def onto_device(items: Iterator[Any], streams: Streams, onto: Onto | None = None) -> Iterator[Any]:
    """``items`` with their tensors on the device, copied ahead."""
    onto = onto or Onto()
    copying = streams.new()
    ring = None if onto.ring is None else _Ring(onto.ring)
    pending: deque[tuple[Any, Any, int]] = deque()

    def copy(tensor: Any, place: tuple[Any, ...]) -> Any:
        return streams.copy(tensor) if ring is None else ring.copy(tensor, place, streams)

    def issue() -> bool:
        item = next(items, _END)
        if item is _END:
            return False
        copying.wait_stream(streams.current())  # ordering 1
        with streams.using(copying):
            there = _worked(moved(item, copy), streams, onto)
            pending.append((there, copying.record_event(), nbytes_of(item.value if isinstance(item, Parcel) else item)))
        if ring is not None:
            ring.next_batch()
        return True

    try:
        going_on = issue()
        while pending:
            # The next copy is issued before this batch is handed out: afterwards it would wait for the
            # consumer's work on it.
            while going_on and (len(pending) < 2 or sum(n for _, _, n in pending) < onto.nbytes):
                if onto.ring is not None and len(pending) >= onto.ring:
                    break
                going_on = issue()
            there, copied, _ = pending.popleft()
            streams.current().wait_event(copied)  # ordering 2
            yield there
            del there
    finally:
        if pending:
            streams.current().wait_stream(copying)  # ordering 3
            pending.clear()


def _worked(batch: Any, streams: Streams, onto: Onto) -> Any:
    """The batch, decoded and transformed on the device."""
    if isinstance(batch, Parcel):
        return batch if batch.value is None else replace(batch, value=_worked(batch.value, streams, onto))
    for name, stacks in onto.decoded.items():
        batch[name] = _decoded(name, batch[name], streams, stacks)
    if onto.transform is None:
        return batch
    made = onto.transform(batch)
    if made is None:
        raise InvalidInput("device_transform returned None; return the batch, or what is to be handed out for it")
    return made


def _decoded(name: str, encoded: list[Any], streams: Streams, stacks: bool) -> Any:
    present = [i for i, image in enumerate(encoded) if image is not None]
    tensors = [torch.frombuffer(bytearray(encoded[i]), dtype=torch.uint8) for i in present]
    try:
        images = streams.decode(tensors) if tensors else []
    except (RuntimeError, ValueError) as e:
        which = _first_bad(tensors, present, streams)
        raise BadSample(f"tensor {name!r}: {which} of a batch does not decode on the device: {e}") from e
    made: list[Any] = [None] * len(encoded)
    for i, image in zip(present, images, strict=True):
        made[i] = image
    if not stacks:
        return made
    if len(present) < len(encoded):
        raise InvalidInput(f"tensor {name!r}: a sample is missing, and images of a declared shape are stacked; leave such rows out")
    return torch.stack(made)


def _first_bad(tensors: list[Any], places: list[int], streams: Streams) -> str:
    """Which image it is: a decoder of many does not say."""
    for tensor, i in zip(tensors, places, strict=True):
        try:
            streams.decode([tensor])
        except (RuntimeError, ValueError):
            return f"sample {i}"
    return "some sample"
