"""The PyTorch front end: a real ``DataLoader`` whose items are whole batches made by the engine.

``num_workers=0`` runs the engine, with its threads, in the training process; this is the fastest way unless a
transform holds the interpreter lock. With workers, each process makes every k-th batch, and torch collects
from them in turn, so that batches arrive in the same order as without. Which rows an epoch has, and their
order, never depends on it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from inspect import signature
from typing import TYPE_CHECKING, Any

from lakefmt.errors import InvalidInput, MissingExtra
from lakefmt.loaders import checks
from lakefmt.loaders.batch import Parcel
from lakefmt.loaders.faults import OnError
from lakefmt.loaders.options import ReadKwargs, ReadOptions, split_kwargs
from lakefmt.loaders.ranks import torch_share
from lakefmt.loaders.recipe import Decode, RaggedMode, new_array
from lakefmt.loaders.session import Face, Job, Session, deliver
from lakefmt.loaders.stats import Stats
from lakefmt.loaders.steps import Shard

try:
    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info
except ImportError as e:
    raise MissingExtra("the PyTorch loader", "torch") from e

from lakefmt.loaders.device import CudaStreams, Onto, device_of, jpeg_decoder, onto_device, pinned_array
from lakefmt.loaders.lent import RowStream, collate, lent_job, sharers
from lakefmt.loaders.tensors import nested, to_packed, to_torch, unpacked

if TYPE_CHECKING:
    from lakefmt.loaders.builder import Loader


class TorchKwargs(ReadKwargs, total=False):
    """Keyword arguments of ``.pytorch()``; ``TorchOptions`` and ``ReadOptions`` say what they mean."""

    collate_fn: Callable[[list[Any]], Any] | None
    persistent_workers: bool
    device: str | None
    device_transform: Callable[[Any], Any] | None
    device_ring: int | None
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
        device_transform: a function of the batch on the device, run on the copy stream, ahead of the consumer.
        device_ring: write batches into so many sets of device tensors in turn (2 or more), in place of fresh ones: a batch is
            overwritten when so many later ones have been asked for.
        pin_memory: page-locked tensors, for a copy of your own.
        multiprocessing_context: ``fork``, ``spawn`` or ``forkserver``; default: torch's.
        worker_init_fn: called in each worker with its number.
    """

    num_workers: int = 0
    collate_fn: Callable[[list[Any]], Any] | None = None
    persistent_workers: bool = False
    device: str | None = None
    device_transform: Callable[[Any], Any] | None = None
    device_ring: int | None = None
    pin_memory: bool = False
    multiprocessing_context: Any = None
    worker_init_fn: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        checks.integer("pytorch", "num_workers", self.num_workers, least=0, most=checks.CREW_MAX)
        checks.function("pytorch", "collate_fn", self.collate_fn)
        checks.function("pytorch", "worker_init_fn", self.worker_init_fn)
        checks.function("pytorch", "device_transform", self.device_transform)
        if self.device_ring is not None:
            checks.integer("pytorch", "device_ring", self.device_ring, least=2, most=checks.CREW_MAX)
        if device_of(self.device) is None and (self.device_transform is not None or self.device_ring is not None):
            name = "device_transform" if self.device_transform is not None else "device_ring"
            raise InvalidInput(f"pytorch({name}=) is for batches on a device: give device='cuda', or use .map_batches() on the CPU")
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
    """What the loader's workers go through: the batches of its present epoch, in a worker process every k-th.

    For any other DataLoader it gives the epoch's rows; see ``lakefmt.loaders.lent``. ``len()`` is their number.
    """

    def __init__(self, job: Job, shared: torch.Tensor | None, session: Session) -> None:
        super().__init__()
        self.job = job
        self.begun = (0, 0)
        # Persistent workers hold a copy of this object from their start on; what changes reaches them through
        # shared memory.
        self.shared = shared
        self.own = False  # whether it is this loader that iterates
        self.lent = False
        self._session: Session | None = session  # the loader's, in its own process
        self.make: Callable[[int, int], Any] | None = None  # how batches are made there
        self._lead = self._asked = 0  # epochs another DataLoader counts are so many behind; the last it asked for
        self._lent_job: tuple[Job, bool] | None = None
        self._seen: tuple[int, ...] | None = None

    def aim(self, job: Job, begun: tuple[int, int], seed: int | None) -> None:
        """Set the epoch that the next ``iter()`` goes through."""
        self.job, self.begun, self.lent = job, begun, False
        self._lead, self._asked = begun[0], 0
        self._share(seed)

    def _share(self, seed: int | None) -> None:
        if self.shared is not None:
            self.shared.copy_(torch.tensor([*self.begun, -1 if seed is None else seed], dtype=torch.int64))

    def set_epoch(self, epoch: int) -> None:
        """Called by other DataLoaders. They count from 0; where the loader was resumed, from the epoch it was resumed in."""
        self.lent = True
        self._asked = epoch
        if self.begun[0] != epoch + self._lead:
            self.begun = (epoch + self._lead, 0)
        job, _ = self._to_lend()
        self._share(job.steps.order.describe().get("seed"))

    def _to_lend(self) -> tuple[Job, bool]:
        if self._session is not None:  # else this is a worker's copy, and was told
            self.job = joined(self._session)
            self._lent_job = lent_job(self.job)
        assert self._lent_job is not None
        return self._lent_job

    def __len__(self) -> int:
        steps = self.job.steps if self._session is None else joined(self._session).steps
        if steps.shard.world == 1 or sharers() > 1:
            return len(steps.order)
        full = steps.count() if steps.drop_last else len(steps.order) // (steps.batch_rows * steps.shard.world)
        rest = 0 if steps.drop_last else len(steps.order) - full * steps.batch_rows * steps.shard.world
        return full * steps.batch_rows + -(-rest // steps.shard.world)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        if not self.own:
            return self._rows(0 if worker is None else worker.id, 1 if worker is None else worker.num_workers)
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
        stats = Stats(job.recipe.source.nbytes_read)
        return _telling(job.run(epoch, start, worker.id, worker.num_workers, stats), stats)

    def _rows(self, lane: int, lanes: int) -> Iterator[Any]:
        self.lent = True
        job, ahead = self._to_lend()
        if self.shared is not None and (told := tuple(self.shared.tolist())) != self._seen:
            self._seen, self.begun = told, told[:2]
            job = job.reseeded(told[2]) if told[2] >= 0 else job
        begun, self.begun = self.begun, (self.begun[0] + 1, 0)  # unless told otherwise, the next is another epoch
        return RowStream(job, begun, (lane, lanes), ahead, self._resumed)

    def _resumed(self, job: Job, epoch: int) -> None:
        """A state was loaded into the rows: later epochs count on from it."""
        self.begun, self._lead = (epoch + 1, 0), epoch - self._asked
        if self._session is not None:
            self._session.adopt(job)

    def __getstate__(self) -> dict[str, Any]:
        lent = self._lent_job
        if self._session is not None and not self.own:
            lent = self._to_lend()
        return {**self.__dict__, "make": None, "_session": None, "_lent_job": lent}


def _telling(items: Iterator[Any], stats: Stats) -> Iterator[Parcel]:
    """What a worker process makes, and what it spent on it."""
    for item in items:
        parcel = item if isinstance(item, Parcel) else Parcel(item)
        parcel.spent = stats.taken()
        yield parcel


def _shared() -> torch.Tensor:
    """Epoch, position and seed (-1: none), seen by the loader and its persistent workers."""
    return torch.tensor([0, 0, -1]).share_memory_()  # type: ignore[no-untyped-call, no-any-return]


class TorchLoader(Face, DataLoader[Any]):
    """A ``DataLoader`` of ``Batch`` (a dict that unpacks as a tuple), or of row dicts when no ``.batch()``
    was asked for.

    Every ``iter()`` is another epoch. ``len()`` counts batches (or rows), ``batch_size`` is the one asked
    for. ``dataset``, ``batch_size`` and ``collate_fn`` make an equal loader in other hands (Accelerate's).

    Args:
        again: what Lightning gives when it makes the loader anew from its attributes, all of it known from ``job``.
    """

    def __init__(
        self, job: Job, options: TorchOptions, prefetch_factor: int | None = None, prefetch_nbytes: int | None = None, **again: Any
    ) -> None:
        for name in again.keys() - signature(DataLoader.__init__).parameters.keys():
            raise TypeError(f"TorchLoader() got an unexpected keyword argument {name!r}")
        workers = options.num_workers
        device = device_of(options.device)
        persistent = options.persistent_workers and workers > 0
        shared = _shared() if persistent else None
        self._session = Session(job)
        super().__init__(
            EpochDataset(job, shared, self._session),
            batch_size=None,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=options.pin_memory or (device is not None and workers > 0),
            worker_init_fn=options.worker_init_fn,
            multiprocessing_context=options.multiprocessing_context if workers else None,
            prefetch_factor=max(1, 2 if prefetch_factor is None else prefetch_factor) if workers else None,
            persistent_workers=persistent,
        )
        self.job, self.options = job, options
        self._device = device
        self._onto = _onto(job, options, prefetch_nbytes)
        self._nested = job.recipe.ragged is RaggedMode.NESTED
        # torch forbids to set it late; with its own batching off, the number is only for those who ask
        self.__dict__["batch_size"] = 1 if job.single_rows else job.steps.batch_rows
        self.__dict__["drop_last"] = job.steps.drop_last

    def __len__(self) -> int:
        return len(joined(self._session))

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        session, job = self._session, joined(self._session)
        begun = session.begin()
        dataset = self._epochs()
        dataset.aim(job, begun, session.seed)
        dataset.make, dataset.own = session.local, True
        try:
            # without workers torch's iterator would only hand batches on, at some 25 us each (profiler marks, mostly)
            items: Iterator[Any] = super().__iter__() if self.num_workers or self.pin_memory else iter(dataset)
        finally:
            dataset.own = False
        if self.num_workers:
            items = map(unpacked, items)
        if self._nested:
            items = map(nested, items)
        if self._device is not None:
            items = onto_device(items, CudaStreams(self._device), self._onto)
        return deliver(session, items, begun)

    def _epochs(self) -> EpochDataset:
        dataset = self.dataset
        assert isinstance(dataset, EpochDataset)
        return dataset

    def set_epoch(self, epoch: int) -> None:
        """Make ``epoch`` the next iteration's."""
        super().set_epoch(epoch)
        self._epochs().aim(joined(self._session), self._session.upcoming, self.seed)

    def state_dict(self) -> dict[str, Any]:
        """Where to go on, exactly: what was handed out, not what was prepared. See ``Session.state_dict``.

        Raises:
            InvalidInput: it is another DataLoader that hands the rows out.
        """
        if self._epochs().lent:
            raise InvalidInput(
                "this loader's rows are handed out by another DataLoader made of its parts (accelerator.prepare() does so), "
                "which alone knows how far it has come: ask that one (Accelerate's has a state with "
                "DataLoaderConfiguration(use_stateful_dataloader=True)), or iterate over this loader itself"
            )
        joined(self._session)
        return super().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there, with any number of workers. See ``Session.load_state_dict``."""
        joined(self._session)
        super().load_state_dict(state)
        self._epochs().aim(self._session.job, self._session.upcoming, self.seed)

    def close(self) -> None:
        """Stop background threads and worker processes now."""
        self._session.close()
        if self._iterator is not None:
            self._iterator = None


def joined(session: Session) -> Job:
    """The session's job as it stands: shared with the ranks of ``torch.distributed``, once it is up."""
    session.join(torch_share() or Shard())
    return session.job


def torch_loader(chain: Loader, given: Mapping[str, Any]) -> TorchLoader:
    """A ``TorchLoader`` of a chain and the keyword arguments of ``.pytorch()``."""
    own = [f.name for f in fields(TorchOptions)]
    options = TorchOptions(**{k: v for k, v in given.items() if k in own})
    read: ReadOptions = split_kwargs({k: v for k, v in given.items() if k not in own}, ReadOptions, "pytorch()", own)
    convert = None if options.collate_fn is not None else to_packed if options.num_workers else to_torch
    pinned = options.num_workers == 0 and (options.pin_memory or device_of(options.device) is not None)
    job = chain.job(
        read,
        collate=options.collate_fn,
        convert=convert,
        allocate=pinned_array if pinned and torch.cuda.is_available() else new_array,
        processes=options.num_workers,
        share=torch_share(),
    )
    return TorchLoader(job, options, read.prefetch_factor, read.prefetch_nbytes)


def _onto(job: Job, options: TorchOptions, prefetch_nbytes: int | None) -> Onto:
    """What is done with batches on their way to the device.

    Raises:
        InvalidInput: images are to be decoded on a device, and there is none, or what depends on them is done before.
    """
    decoded = {c.name: c.stacks_there for c in job.recipe.columns if c.decode is Decode.DEVICE}
    if decoded:
        name, recipe = next(iter(decoded)), job.recipe
        if device_of(options.device) is None:
            raise InvalidInput(f"decode_method of {name!r}: 'device' needs a device: give device='cuda', or leave it 'numpy'")
        if recipe.row_wise or recipe.batch_fns or job.single_rows:
            raise InvalidInput(
                f"decode_method of {name!r}: 'device' decodes whole batches, after functions of rows and batches have run; use "
                "device_transform= in their place, and .batch(n)"
            )
        if recipe.on_error is not OnError.RAISE:
            raise InvalidInput(f"decode_method of {name!r}: 'device' cannot leave bad samples out; leave on_error 'raise'")
        jpeg_decoder()
    return Onto(nbytes=prefetch_nbytes or 0, ring=options.device_ring, decoded=decoded, transform=options.device_transform)


__all__ = ["EpochDataset", "TorchKwargs", "TorchLoader", "TorchOptions", "torch_loader"]
