"""Options of the front ends, as one record, and the job they make together with a chain's steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, TypedDict

from lakefmt.errors import InvalidInput, nearest
from lakefmt.loaders import checks
from lakefmt.loaders.batch import INDEX
from lakefmt.loaders.faults import on_error_of
from lakefmt.loaders.pipeline import Limits, cores
from lakefmt.loaders.ranks import share
from lakefmt.loaders.recipe import Allocate, Convert, RaggedMode, Recipe, SampleFn, columns_of, new_array
from lakefmt.loaders.steps import Shard
from lakefmt.loaders.styles import of_row
from lakefmt.rows import RowSource

#: Below so many bytes a batch from a local source is made faster than threads hand it over (measured: some 50
#: µs).
SMALL_BATCH_BYTES = 64 * 1024
#: Batches prepared ahead at most where bytes are what bounds them.
PREFETCH_BATCHES_MAX = 256
#: 1 TB
PREFETCH_MB_MAX = 1_000_000


#: Options that people know from Deep Lake, and where what they want is said here.
ELSEWHERE = {
    "use_local_cache": "a cache belongs to the dataset, for all its readers: lakefmt.load(path, local_cache_size=...)",
    "cache_size": "a cache belongs to the dataset, for all its readers: lakefmt.load(path, memory_cache_size=...)",
    "fetch_chunks": "rows are always read in bulk",
    "verbose": "progressbar=True draws a line, and .stats() tells where the time goes",
    "ignore_errors": "say on_error='skip' or 'collect'",
}


class ReadKwargs(TypedDict, total=False):
    """Keyword arguments that all front ends take; ``ReadOptions`` says what they mean."""

    tensors: Sequence[str] | None
    num_threads: int | None
    prefetch_factor: int | None
    prefetch: float | None
    return_index: bool
    decode_method: Mapping[str, str] | None
    ragged: str
    on_error: str
    pad_tensors: bool
    progressbar: bool
    distributed: bool | None
    rank: int | None
    world_size: int | None
    shard: tuple[int, int] | None


class CrewKwargs(ReadKwargs, total=False):
    """The same, and the number of processes, for front ends that take it so."""

    num_workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How a front end reads.

    Attributes:
        tensors: which tensors, in which order; default: those of the transform, or all.
        num_workers: worker processes, for transforms that hold the interpreter lock; 0 for threads in this process.
        num_threads: threads that decode and transform; default: one a core and two more; 0: no threads at all.
        prefetch_factor: batches prepared ahead; 0: none, everything on the consumer's thread.
        prefetch: MB of batches prepared ahead (with ``device``, as many again under way to it), in place of a number of them.
        return_index: add key ``index``, the positions of the rows in the dataset or view.
        decode_method: by tensor, ``numpy`` (default), ``tobytes``, ``pil``, ``data``, ``torch``, or (for torch on a GPU)
            ``device``; see ``lakefmt.loaders.samples.reader``.
        ragged: ``list`` (default), ``pad``, ``flat``, or for torch ``nested``.
        on_error: ``raise`` (default), ``skip`` or ``collect`` bad samples.
        pad_tensors: give an empty sample for a missing one (of a tensor shorter than others, too), in place of ``None``.
        progressbar: draw a live line of rows, rate and waiting with tqdm.
        distributed: ``True`` to load this process's share of every epoch, as torch.distributed, the launcher's environment
            variables or jax.distributed name it (``lakefmt.loaders.ranks``); ``False`` to load all of it everywhere.
            Default for torch: the share of torch.distributed if it is up, or as soon as it is; else all of it.
        rank, world_size: the share, given.
        shard: the same as one: (rank, world_size).
    """

    tensors: Sequence[str] | None = None
    num_workers: int = 0
    num_threads: int | None = None
    prefetch_factor: int | None = 2
    prefetch: float | None = None
    return_index: bool = False
    decode_method: Mapping[str, str] | None = None
    ragged: str = "list"
    on_error: str = "raise"
    pad_tensors: bool = False
    progressbar: bool = False
    distributed: bool | None = None
    rank: int | None = None
    world_size: int | None = None
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        checks.integer("loader", "num_workers", self.num_workers, least=0, most=checks.CREW_MAX)
        for name in ("num_threads", "prefetch_factor"):
            if getattr(self, name) is not None:
                checks.integer("loader", name, getattr(self, name), least=0, most=checks.CREW_MAX)
        if self.prefetch is not None:
            checks.positive("loader", "prefetch", self.prefetch, "MB", PREFETCH_MB_MAX)
        checks.names("loader", "tensors", self.tensors)
        checks.by_tensor("loader", "decode_method", self.decode_method)
        for name in ("return_index", "pad_tensors", "progressbar"):
            checks.truth("loader", name, getattr(self, name))
        for name in ("ragged", "on_error"):
            checks.text("loader", name, getattr(self, name))

    @property
    def prefetch_nbytes(self) -> int | None:
        """Bytes to prepare ahead, where they were given."""
        return None if self.prefetch is None else int(self.prefetch * 1e6)

    @property
    def share(self) -> Shard | None:
        """The share of an epoch that the options name; ``None`` when they leave it open."""
        return share(self.distributed, self.rank, self.world_size, self.shard)


def split_kwargs(given: Mapping[str, Any], record: type[Any], what: str, others: Sequence[str] = ()) -> Any:
    """An options record of keyword arguments.

    Args:
        others: further options of the front end, which another record takes.

    Raises:
        InvalidInput: a name the record does not have.
    """
    known = [f.name for f in fields(record)]
    for name in given:
        if name in ELSEWHERE and name not in others:
            raise InvalidInput(f"{what} has no option {name!r}: {ELSEWHERE[name]}")
        if name not in known:
            every = [*others, *known]
            remedy = nearest(name, every) if get_close_matches(name, every) else f"known: {', '.join(map(repr, every))}"
            raise InvalidInput(f"{what} has no option {name!r}; {remedy}")
    return record(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """The user's functions: per tensor, per row, per batch, and the one that puts rows together."""

    by_tensor: Mapping[str, SampleFn | None] | None = None
    row: SampleFn | None = None
    batch: tuple[Callable[[Any], Any], ...] = ()
    collate: Callable[[list[Any]], Any] | None = None
    convert: Convert | None = None


def recipe_of(source: RowSource, functions: Functions, options: ReadOptions, allocate: Allocate = new_array) -> Recipe:
    """The recipe that reads ``source`` as ``options`` say.

    Raises:
        InvalidInput: an option's value does not exist, or does not fit the source.
        NoSuchTensor: a tensor named does not exist.
    """
    columns = columns_of(source, options.tensors, functions.by_tensor, options.decode_method, padded=options.pad_tensors)
    if options.ragged not in set(RaggedMode):
        raise InvalidInput(f"ragged={options.ragged!r}: use one of {', '.join(map(repr, map(str, RaggedMode)))}")
    if options.return_index and any(c.name == INDEX for c in columns):
        raise InvalidInput(f"return_index adds key {INDEX!r}, which a tensor already has; rename it, or leave it out")
    return Recipe(
        source=source,
        columns=columns,
        row_fn=None if functions.row is None else of_row(functions.row, {c.name: c.definition for c in columns}),
        batch_fns=functions.batch,
        collate=functions.collate,
        convert=functions.convert,
        ragged=RaggedMode(options.ragged),
        on_error=on_error_of(options.on_error),
        return_index=options.return_index,
        allocate=allocate,
    )


def limits_of(recipe: Recipe, options: ReadOptions, batch_rows: int, processes: int = 0) -> Limits | None:
    """How far to look ahead, and with how many threads.

    Args:
        processes: worker processes that share the machine's cores; each is ahead of the consumer by itself.
    """
    ahead = 2 if options.prefetch_factor is None else options.prefetch_factor
    if options.num_threads == 0 or ahead == 0:
        return None
    bounds: dict[str, int] = {"batches": ahead}
    if options.prefetch_nbytes is not None:
        bounds = {"batches": PREFETCH_BATCHES_MAX, "nbytes": options.prefetch_nbytes}
    local = recipe.source.is_local()
    if recipe.per_sample:
        # two more than cores: while one waits for the interpreter lock, another decodes (measured: 3 to 4 % on two cores)
        threads = options.num_threads or max(1, cores() // max(1, processes)) + 2
        return None if processes and threads == 1 and local else Limits(threads, **bounds)
    small = recipe.row_nbytes() * batch_rows < SMALL_BATCH_BYTES
    return None if local and (small or processes) else Limits(0, **bounds)
