"""The PyTorch front end: a real ``DataLoader`` whose items are whole batches made by the engine.

``num_workers=0`` runs the engine, with its threads, in the training process; this is the fastest way unless a
transform holds the interpreter lock. With workers, each process makes every k-th batch, and torch collects
from them in turn, so that batches arrive in the same order as without. Which rows an epoch has, and their
order, never depends on it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from lakefmt.errors import InvalidInput, MissingExtra
from lakefmt.loaders import checks
from lakefmt.loaders.options import ReadKwargs, ReadOptions, split_kwargs
from lakefmt.loaders.recipe import RaggedMode, new_array
from lakefmt.loaders.session import Face, Job, Session, deliver
from lakefmt.loaders.stats import Stats

try:
    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info
except ImportError as e:
    raise MissingExtra("the PyTorch loader", "torch") from e

from lakefmt.loaders.device import CudaStreams, device_of, onto_device, pinned_array
from lakefmt.loaders.tensors import nested, to_packed, to_torch, unpacked

if TYPE_CHECKING:
    from lakefmt.loaders.builder import Loader


class TorchKwargs(ReadKwargs, total=False):
    """Keyword arguments of ``.pytorch()``; ``TorchOptions`` and ``ReadOptions`` say what they mean."""

    collate_fn: Callable[[list[Any]], Any] | None
    persistent_workers: bool
    device: str | None
    pin_memory: bool
    multiprocessing_context: Any
    worker_init_fn: Callable[[int], None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchOptions:
    """What only the PyTorch front end takes.

    Attributes:
        num_workers: worker processes; 0 for threads in this process.
        collate_fn: makes a batch of the list of row dicts (NumPy values, or what the transform returned),
            instead of stacking; its result is handed out as it is.
        persistent_workers: keep worker processes from one epoch to the next.
        device: ``"cuda"`` or ``"cuda:1"`` to receive batches there, copied ahead on a stream of their own.
        pin_memory: page-locked tensors, for a copy of your own.
        multiprocessing_context: ``fork``, ``spawn`` or ``forkserver``; default: torch's.
        worker_init_fn: called in each worker with its number.
    """

    num_workers: int = 0
    collate_fn: Callable[[list[Any]], Any] | None = None
    persistent_workers: bool = False
    device: str | None = None
    pin_memory: bool = False
    multiprocessing_context: Any = None
    worker_init_fn: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        checks.integer("pytorch", "num_workers", self.num_workers, least=0, most=checks.CREW_MAX)
        checks.function("pytorch", "collate_fn", self.collate_fn)
        checks.function("pytorch", "worker_init_fn", self.worker_init_fn)
        checks.truth("pytorch", "persistent_workers", self.persistent_workers)
        checks.truth("pytorch", "pin_memory", self.pin_memory)
        context = self.multiprocessing_context
        if isinstance(context, str) and context not in multiprocessing.get_all_start_methods():
            raise InvalidInput(
                f"pytorch(multiprocessing_context={context!r}): use one of {', '.join(multiprocessing.get_all_start_methods())}"
            )
        if not isinstance(context, (str, type(None))) and not hasattr(context, "Process"):
            raise InvalidInput(f"pytorch(multiprocessing_context={context!r}): give a start method's name, or a context")


class EpochDataset(IterableDataset[Any]):
    """The batches of the loader's present epoch: all of them, or in a worker process every k-th.

    ``len()`` is the number of rows in an epoch.
    """

    def __init__(self, job: Job, shared: torch.Tensor | None) -> None:
        super().__init__()
        self.job = job
        self.begun = (0, 0)
        # Persistent workers hold a copy of this object from their start on; what changes reaches them through
        # shared memory.
        self.shared = shared
        self.make: Callable[[int, int], Any] | None = None  # how batches are made in the loader's own process

    def aim(self, job: Job, begun: tuple[int, int], seed: int | None) -> None:
        """Set the epoch that the next ``iter()`` goes through."""
        self.job, self.begun = job, begun
        if self.shared is not None:
            self.shared.copy_(torch.tensor([*begun, -1 if seed is None else seed], dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.job.steps.order)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        if worker is None:
            epoch, start = self.begun
            items: Iterator[Any] = iter(
                self.make(epoch, start) if self.make is not None else self.job.run(epoch, start, stats=Stats())
            )
            return items
        job, (epoch, start) = self.job, self.begun
        if self.shared is not None:
            epoch, start, seed = self.shared.tolist()
            job = job.reseeded(seed) if seed >= 0 else job
        return iter(job.run(epoch, start, worker.id, worker.num_workers))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "make": None}


def _as_is(item: Any) -> Any:
    """Collation of what is a batch already; a module's function, for it is sent to workers."""
    return item


def _shared() -> torch.Tensor:
    """Epoch, position and seed (-1: none), seen by the loader and its persistent workers."""
    return torch.zeros(3, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call, no-any-return]


class TorchLoader(Face, DataLoader[Any]):
    """A ``DataLoader`` of ``Batch`` (a dict that unpacks as a tuple), or of row dicts when no ``.batch()``
    was asked for.

    Every ``iter()`` is another epoch. ``len()`` counts batches (or rows), ``batch_size`` is the one asked
    for.
    """

    def __init__(self, job: Job, options: TorchOptions, prefetch_factor: int | None) -> None:
        workers = options.num_workers
        device = device_of(options.device)
        persistent = options.persistent_workers and workers > 0
        shared = _shared() if persistent else None
        super().__init__(
            EpochDataset(job, shared),
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_is,
            pin_memory=options.pin_memory or (device is not None and workers > 0),
            worker_init_fn=options.worker_init_fn,
            multiprocessing_context=options.multiprocessing_context if workers else None,
            prefetch_factor=max(1, 2 if prefetch_factor is None else prefetch_factor) if workers else None,
            persistent_workers=persistent,
        )
        self._session = Session(job)
        self._device = device
        self._nested = job.recipe.ragged is RaggedMode.NESTED
        # torch forbids to set it late; with its own batching off, the number is only for those who ask
        # (Lightning does)
        self.__dict__["batch_size"] = 1 if job.single_rows else job.steps.batch_rows
        self.__dict__["drop_last"] = job.steps.drop_last

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        session = self._session
        begun = session.begin()
        dataset = self.dataset
        assert isinstance(dataset, EpochDataset)
        dataset.aim(session.job, begun, session.seed)
        dataset.make = session.local
        items: Iterator[Any] = super().__iter__()
        if self.num_workers:
            items = map(unpacked, items)
        if self._nested:
            items = map(nested, items)
        if self._device is not None:
            items = onto_device(items, CudaStreams(self._device))
        return deliver(session, items, begun)

    def close(self) -> None:
        """Stop background threads and worker processes now."""
        self._session.close()
        if self._iterator is not None:
            self._iterator = None


def current_shard() -> tuple[int, int] | None:
    """(rank, world) of ``torch.distributed``, if it is initialised."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def torch_loader(chain: Loader, given: Mapping[str, Any]) -> TorchLoader:
    """A ``TorchLoader`` of a chain and the keyword arguments of ``.pytorch()``."""
    own = [f.name for f in fields(TorchOptions)]
    options = TorchOptions(**{k: v for k, v in given.items() if k in own})
    read: ReadOptions = split_kwargs({k: v for k, v in given.items() if k not in own}, ReadOptions, "pytorch()", own)
    if read.shard is None:
        read = replace(read, shard=current_shard())
    convert = None if options.collate_fn is not None else to_packed if options.num_workers else to_torch
    pinned = options.num_workers == 0 and (options.pin_memory or device_of(options.device) is not None)
    job = chain.job(
        read,
        collate=options.collate_fn,
        convert=convert,
        allocate=pinned_array if pinned and torch.cuda.is_available() else new_array,
        processes=options.num_workers,
    )
    return TorchLoader(job, options, read.prefetch_factor)


__all__ = ["EpochDataset", "TorchKwargs", "TorchLoader", "TorchOptions", "current_shard", "torch_loader"]
