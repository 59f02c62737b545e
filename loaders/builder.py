"""The chain ``dataloader(source).transform(...).batch(...).shuffle(...)`` … ``.pytorch()``.

A chain is a frozen record: every step gives a new loader and can be said once. Nothing is read and no thread
starts before the front end at its end is iterated.
"""

from __future__ import annotations

import functools
import secrets
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar, Unpack

from lakefmt.cells import Array
from lakefmt.errors import InvalidInput
from lakefmt.loaders.arrays import NumpyLoader
from lakefmt.loaders.checks import COUNT_MAX, integer, positive, truth
from lakefmt.loaders.options import (
    CrewKwargs,
    Functions,
    ReadKwargs,
    ReadOptions,
    limits_of,
    recipe_of,
    split_kwargs,
)
from lakefmt.loaders.packing import WINDOW_DOCUMENTS, Packs, SequenceBounds
from lakefmt.loaders.plan import Global, Order, Scan, rotate, window_of
from lakefmt.loaders.recipe import Allocate, Convert, Recipe, SampleFn, new_array
from lakefmt.loaders.sampling import Weights, checked_weights, sampled
from lakefmt.loaders.session import ROW_BLOCK, Job, common_seed, listed
from lakefmt.loaders.steps import Shard, Steps
from lakefmt.loaders.styles import of_sample
from lakefmt.loaders.tokens import TokenBlocks
from lakefmt.rows import RowSource

if TYPE_CHECKING:
    from lakefmt.loaders.pytorch import TorchKwargs, TorchLoader

F = TypeVar("F")

NO_FUNCTIONS = Functions()
SHUFFLE_MODES = ("global", "window")
#: 16 TB: no machine mixes more rows in memory.
BUFFER_MB_MAX = 1 << 24

Query: TypeAlias = Callable[[str], RowSource]
Weigh: TypeAlias = Callable[[str], Array]
Seed: TypeAlias = Callable[[], int]
Cut: TypeAlias = Callable[[RowSource], RowSource]


@dataclass(frozen=True, slots=True)
class _Batching:
    size: int
    drop_last: bool


@dataclass(frozen=True, slots=True)
class _Shuffle:
    mode: str | None
    buffer_mb: float
    seed: int | None


@dataclass(frozen=True, slots=True, eq=False)
class _Sampling:
    weights: Weights
    replace: bool
    size: int | None


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a loader asks of the dataset it came from.

    Attributes:
        query: rows that a TQL text selects.
        weigh: value of a TQL expression for every row of the dataset.
        seed: the seed for a loader that was given none.
    """

    query: Query | None = None
    weigh: Weigh | None = None
    seed: Seed | None = None


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Loader:
    """A chain under construction; made by ``dataloader``."""

    source: RowSource
    hooks: Hooks
    said: tuple[str, ...] = ()
    functions: Functions = NO_FUNCTIONS
    batching: _Batching | None = None
    shuffling: _Shuffle | None = None
    sampling: _Sampling | None = None
    begin: int = 0
    ignore_errors: bool = False
    cut: Cut | None = None
    faces: weakref.WeakSet[Any]

    @functools.cached_property
    def rows(self) -> RowSource:
        """What is loaded: the rows of the source, or the blocks or packs that are made of them."""
        return self.source if self.cut is None else self.cut(self.source)

    def __repr__(self) -> str:
        by_tensor = self.functions.by_tensor
        parts = [f"{len(self.source)} rows", f"tensors {listed(list(by_tensor or self.rows.definitions))}"]
        if self.cut is not None:
            parts.insert(1, repr(self.rows))
        if by_tensor is not None or self.functions.row is not None:
            parts.append("transformed")
        if self.functions.batch:
            parts.append("map_batches")
        if self.batching is not None:
            parts.append(f"batch_size {self.batching.size}" + (", last dropped" if self.batching.drop_last else ""))
        seed = "" if self.shuffling is None or self.shuffling.seed is None else f", seed {self.shuffling.seed}"
        if self.sampling is not None:
            parts.append(f"sampled {'with' if self.sampling.replace else 'without'} replacement{seed}")
        elif self.shuffling is not None:
            parts.append(f"shuffled{'' if self.shuffling.mode is None else f' ({self.shuffling.mode})'}{seed}")
        if self.begin:
            parts.append(f"offset {self.begin}")
        return f"Loader({'; '.join(parts)})"

    def _step(self, name: str, **changes: Any) -> Self:
        if name in self.said:
            raise InvalidInput(f".{name}() was already said in this chain: each step can be given once")
        return replace(self, said=(*self.said, name), **changes)

    def transform(self, fn: SampleFn | Mapping[str, SampleFn | None], **kwargs: Any) -> Self:
        """Apply functions to every sample, on the thread pool.

        Args:
            fn: a dict of tensor to function, which also selects these tensors (``None`` passes one through as
                it is); or one function that is given a dict per row and returns a dict.
            kwargs: further keyword arguments for the functions.

        What a function returns is stacked if it is an array, tensor or number, and listed otherwise. Transforms in the
        style of Albumentations are called as they want to be: see ``lakefmt.loaders.styles``.
        """
        if isinstance(fn, Mapping):
            bound = {name: f if f is None else _bound(of_sample(f), kwargs) for name, f in fn.items()}
            return self._step("transform", functions=replace(self.functions, by_tensor=bound))
        return self._step("transform", functions=replace(self.functions, row=_bound(fn, kwargs)))

    def map_batches(self, fn: Callable[[Any], Any], **kwargs: Any) -> Self:
        """Apply a function to every batch: a dict of NumPy arrays and lists in, a dict out, on a background
        thread.
        """
        return self._step("map_batches", functions=replace(self.functions, batch=(_bound(fn, kwargs),)))

    def batch(self, batch_size: int, drop_last: bool = False) -> Self:
        """Put ``batch_size`` rows together; without this step a loader hands out single rows."""
        return self._step(
            "batch", batching=_Batching(integer("batch", "batch_size", batch_size, least=1), truth("batch", "drop_last", drop_last))
        )

    def shuffle(
        self,
        shuffle: bool = True,
        buffer_size: float = 2048,
        mode: str | None = None,
        seed: int | None = None,
    ) -> Self:
        """Shuffle rows, differently every epoch.

        Args:
            shuffle: ``False`` for rows as stored.
            buffer_size: MB that ``window`` may hold: half of it rows being mixed, half rows read ahead.
            mode: ``global`` (every row anywhere; the default where single rows are cheap to read) or
                ``window`` (runs of neighbouring rows, mixed in groups that fit the buffer; the default on
                object stores).
            seed: makes the order repeatable; equal seeds give equal orders on every machine.
        """
        if mode is not None and mode not in SHUFFLE_MODES:
            raise InvalidInput(f"shuffle(mode={mode!r}): use 'global' or 'window'")
        buffer_size = positive("shuffle", "buffer_size", buffer_size, "MB", BUFFER_MB_MAX)
        seed = None if seed is None else integer("shuffle", "seed", seed)
        return self._step("shuffle", shuffling=_Shuffle(mode, buffer_size, seed) if truth("shuffle", "shuffle", shuffle) else None)

    def sample_by(self, weights: Weights, replace: bool = True, size: int | None = None) -> Self:
        """Draw rows at random in proportion to a weight.

        Args:
            weights: numbers, one a row, or a TQL expression.
            replace: whether a row can be drawn again.
            size: rows in an epoch; default: as many as there are (with a positive weight, if ``replace`` is
                off).

        Drawing is random by itself; of ``.shuffle()`` only the seed matters then.
        """
        size = None if size is None else integer("sample_by", "size", size, least=1, most=COUNT_MAX)
        return self._step("sample_by", sampling=_Sampling(weights, truth("sample_by", "replace", replace), size))

    def query(self, tql: str) -> Self:
        """Load only the rows that a TQL query selects."""
        if not isinstance(tql, str):
            raise InvalidInput(f"query({tql!r}): give the text of a query")
        if self.hooks.query is None:
            raise InvalidInput(f"query({tql!r}): this source answers no queries")
        return self._step("query", source=self.hooks.query(tql))

    def tokens(self, block_size: int, eos: int | None = None, tensor: str | None = None, overlap: int = 0) -> Self:
        """Load blocks of ``block_size`` tokens instead of rows: all documents end to end, cut without regard to where they end.

        Args:
            block_size: tokens a block; the last ones, less than a block, are left out.
            eos: an id to follow every document.
            tensor: where the documents are, one a row: a tensor of one dimension and an integer dtype. May be left out where there
                is only one. A missing or empty document adds nothing, not even ``eos``.
            overlap: tokens that a block has in common with the next.

        A batch holds ``(batch_size, block_size)`` under the tensor's name. Blocks are what is shuffled, shared out and resumed,
        and what weights are given for; ``.query()`` selects documents, whether it stands before or after this step.
        """
        return self._cut("tokens", functools.partial(TokenBlocks, tensor=tensor, block_size=block_size, eos=eos, overlap=overlap))

    def pack(
        self, max_len: int, tensor: str | None = None, eos: int | None = None, pad: int = 0, window: int = WINDOW_DOCUMENTS
    ) -> Self:  # fmt: skip
        """Load packs of whole documents instead of rows: as many as fit ``max_len`` tokens, first fit.

        Args:
            max_len: tokens a pack; a longer document is cut into pieces of so many.
            tensor: as for ``tokens``.
            eos: an id to follow every document.
            pad: the id that fills a pack up.
            window: documents that are packed together; more fill packs better, and take longer to pack.

        A batch holds, each ``(batch_size, max_len)``, the tokens under the tensor's name; ``<name>_position_ids`` (int32), counted
        from 0 in each document; ``<name>_documents`` (int32), the number of the document in its pack, -1 for padding: tokens may
        attend to each other where it is equal and not -1. Beside them, for attention over the batch laid end to end, are
        ``cu_seqlens`` (int32), the places at which documents (and each stretch of padding) begin, and last the number of all
        tokens; and ``max_seqlen`` (an int), the longest of them. These two are there with ``.batch()``, for torch and NumPy.

        Packs are the same in every epoch, and are what is shuffled, shared out and resumed; see ``tokens`` for the other steps.
        """
        make = functools.partial(Packs, tensor=tensor, max_len=max_len, eos=eos, pad=pad, window=window)
        return self._cut("pack", make)

    def _cut(self, name: str, make: Cut) -> Self:
        other = {"tokens": "pack", "pack": "tokens"}[name]
        if other in self.said:
            raise InvalidInput(f".{name}() after .{other}(): a chain makes blocks or packs of its documents, not both")
        make(self.source)  # whether it can be done: nothing is read for that
        return self._step(name, cut=make)

    def offset(self, n: int) -> Self:
        """Begin every epoch at position ``n`` and wrap around. To resume, ``state_dict()`` is exact and
        easier.
        """
        return self._step("offset", begin=integer("offset", "n", n))

    def numpy(self, **options: Unpack[CrewKwargs]) -> NumpyLoader:
        """Batches of NumPy arrays; see ``ReadOptions``."""
        return self._made(NumpyLoader(self.job(split_kwargs(options, ReadOptions, "numpy()"))))

    def pytorch(self, num_workers: int = 0, **options: Unpack[TorchKwargs]) -> TorchLoader:
        """A ``torch.utils.data.DataLoader``; see ``ReadOptions`` and ``TorchOptions``."""
        from lakefmt.loaders.pytorch import torch_loader

        return self._made(torch_loader(self, {"num_workers": num_workers, **options}))

    def tensorflow(self, **options: Unpack[CrewKwargs]) -> Any:
        """A ``tf.data.Dataset`` of whole batches; see ``ReadOptions``."""
        from lakefmt.loaders.tensorflow import tf_dataset

        return tf_dataset(self, split_kwargs(options, ReadOptions, "tensorflow()"))

    def close(self) -> None:
        """Close the front ends made from this chain."""
        for face in list(self.faces):
            face.close()

    def _made(self, face: F) -> F:
        self.faces.add(face)
        return face

    def job(
        self,
        options: ReadOptions,
        *,
        collate: Callable[[list[Any]], Any] | None = None,
        convert: Convert | None = None,
        allocate: Allocate = new_array,
        processes: int = 0,
        share: Shard | None = None,
    ) -> Job:
        """The chain, put into a plan and a recipe, for a front end.

        Args:
            share: this process's, where ``options`` leave it open.
        """
        functions = replace(self.functions, collate=collate, convert=convert)
        if self.ignore_errors and options.on_error == "raise":
            options = replace(options, on_error="collect")
        if isinstance(self.rows, Packs) and self.batching is not None:
            functions = replace(functions, batch=(SequenceBounds(self.rows.name), *functions.batch))
        recipe = recipe_of(self.rows, functions, options, allocate)
        given = options.share
        shard = given or share or Shard()
        seed = self._seed(shard.world)
        steps = Steps(
            self._order(recipe, seed),
            ROW_BLOCK if self.batching is None else self.batching.size,
            drop_last=self.batching is not None and self.batching.drop_last,
        )
        limits = limits_of(recipe, options, steps.batch_rows, processes or options.num_workers)
        seeded = self.shuffling is not None and self.shuffling.seed is not None
        job = Job(
            steps, recipe, limits, self.batching is None,
            seed_given=seeded, shard_given=given is not None, progressbar=options.progressbar,
            workers=options.num_workers, ahead=2 if options.prefetch_factor is None else options.prefetch_factor,
        )  # fmt: skip
        return job.shared(shard)

    def _seed(self, world: int) -> int:
        if self.shuffling is not None and self.shuffling.seed is not None:
            return self.shuffling.seed % 2**63
        if self.shuffling is None and self.sampling is None:
            return 0
        if world > 1:
            return common_seed(self.rows)
        return (secrets.randbits(63) if self.hooks.seed is None else self.hooks.seed()) % 2**63

    def _order(self, recipe: Recipe, seed: int) -> Order:
        n, shuffling = len(self.rows), self.shuffling
        order: Order = Scan(n)
        if self.sampling is not None:
            if isinstance(self.sampling.weights, str) and self.cut is not None:
                raise InvalidInput(
                    f"sample_by({self.sampling.weights!r}) with .tokens() or .pack(): an expression has a value for every row, and "
                    f"weights are wanted for {n} blocks or packs; give numbers"
                )
            if isinstance(self.sampling.weights, str) and "query" in self.said:
                raise InvalidInput(
                    f"sample_by({self.sampling.weights!r}) after .query(): an expression is evaluated on the "
                    "whole dataset; begin the chain on the view, ds.query(...).dataloader(), or give numbers"
                )
            weights = checked_weights(self.sampling.weights, n, self.hooks.weigh)
            order = sampled(weights, self.sampling.replace, self.sampling.size, seed)
        elif shuffling is not None:
            mode = shuffling.mode or ("global" if self.rows.is_local() else "window")
            if mode == "global":
                order = Global(n, seed)
            else:
                buffer = int(shuffling.buffer_mb * 1e6 / 2)  # the other half is for the group being read ahead
                order = window_of(n, seed, self.rows.unit_rows(), recipe.row_nbytes(), buffer)
        return rotate(order, self.begin)


def _bound(fn: Any, kwargs: Mapping[str, Any]) -> Any:
    if not callable(fn):
        raise InvalidInput(f"a transform is a function or a dict of tensor to function, got {fn!r}")
    return functools.partial(fn, **kwargs) if kwargs else fn


def dataloader(
    source: RowSource,
    *,
    query: Query | None = None,
    weigh: Weigh | None = None,
    seed: Seed | None = None,
    ignore_errors: bool = False,
) -> Loader:
    """Begin a chain over ``source``.

    Args:
        query: answers ``.query(tql)``.
        weigh: answers TQL weights of ``.sample_by``: one weight a row of ``source``.
        seed: draws the seed of a loader that was given none.
        ignore_errors: leave bad samples out and list them, where a front end's ``on_error`` does not say otherwise.
    """
    truth("dataloader", "ignore_errors", ignore_errors)
    return Loader(source=source, hooks=Hooks(query, weigh, seed), ignore_errors=ignore_errors, faces=weakref.WeakSet())


def tensorflow_rows(source: RowSource, **options: Unpack[ReadKwargs]) -> Any:
    """A ``tf.data.Dataset`` of single rows, in the order of ``source``; see ``ReadOptions``."""
    return dataloader(source).tensorflow(**options)
