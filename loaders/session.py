"""Where a loader stands: epochs, resuming, bad samples and counters. Every front end has one session.

Each iteration over a loader is an epoch with its own order. ``state_dict()`` names the next row to hand out
as (epoch, position), so that what was merely prepared ahead is not counted, and neither worker count nor
batch size is part of it.
"""

from __future__ import annotations

import hashlib
import json
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec

from lakefmt.errors import InvalidInput
from lakefmt.loaders.batch import Parcel, row_of
from lakefmt.loaders.checks import COUNT_MAX, integer
from lakefmt.loaders.engine import Engine
from lakefmt.loaders.faults import FaultLog
from lakefmt.loaders.order import derive
from lakefmt.loaders.pipeline import Inline, Limits, Pipeline, batches
from lakefmt.loaders.plan import Window, laned, relaned, reseeded
from lakefmt.loaders.progress import lined
from lakefmt.loaders.recipe import Recipe
from lakefmt.loaders.stats import Stats, nbytes_of
from lakefmt.loaders.steps import BLOCK_ROWS, Shard, Step, Steps
from lakefmt.loaders.unitpool import UnitPool
from lakefmt.loaders.workers import Collected, Crew
from lakefmt.rows import RowSource

#: Version of the state's layout.
STATE_FORMAT = 2
#: Bytes of small batches gathered together: what fits a core's own cache, between gather and use.
BLOCK_NBYTES = 1 << 20
#: Rows prepared together when the loader hands out single rows.
ROW_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Job:
    """All that a front end needs to run, here or in a worker process.

    Attributes:
        steps: which rows, in which batches.
        recipe: what is made of them.
        limits: bounds of looking ahead; ``None`` for no threads.
        single_rows: hand out rows, not batches (no ``.batch()`` was asked for).
        seed_given: whether the user named the seed, so that a state with another one is a mistake.
        shard_given: whether the user named the share of this consumer, so that it is no other.
        progressbar: draw a line while batches are handed out.
        workers: processes to make batches in; 0 for this one.
        ahead: batches that each of them may be ahead.
    """

    steps: Steps
    recipe: Recipe
    limits: Limits | None
    single_rows: bool = False
    seed_given: bool = False
    shard_given: bool = False
    progressbar: bool = False
    workers: int = 0
    ahead: int = 2

    def run(self, epoch: int, start: int, lane: int = 0, lanes: int = 1, stats: Stats | None = None) -> Any:
        """Iterator over the batches (or parcels) of an epoch."""
        recipe, order, owned = self.recipe, self.steps.order, self.steps.owned
        blocks = self.steps.blocks(epoch, start, lane, lanes)
        # Where consumers share units, each needs few rows of one: reading it whole would be in vain.
        if lanes == 1 and owned is not None and isinstance(order, Window) and not recipe.source.is_local():
            pool = UnitPool(recipe.source, tuple(c.name for c in recipe.columns), order, epoch, owned)
            recipe, blocks = replace(recipe, source=pool), pool.feed(blocks)
        engine = Engine(recipe, stats or Stats())
        return batches(engine, pieces(blocks, steps_at_once(recipe, self.steps.batch_rows)), self.steps.batch_rows, self.limits)

    def reseeded(self, seed: int) -> Job:
        """The same job in another order."""
        return replace(self, steps=replace(self.steps, order=reseeded(self.steps.order, seed)))

    def shared(self, shard: Shard) -> Job:
        """The same job as one of several consumers.

        Raises:
            InvalidInput: single rows cannot be shared out.
        """
        if self.single_rows and shard.world > 1:
            raise InvalidInput(
                "sharing an epoch among ranks needs batches: add .batch(n) to the chain, or give shard=(0, 1) to have all rows "
                "on every rank"
            )
        recipe = replace(self.recipe, keep_size=shard.world > 1)
        order = laned(self.steps.order, shard.world, self.steps.batch_rows)
        return replace(self, steps=replace(self.steps, shard=shard, order=order), recipe=recipe)

    def __len__(self) -> int:
        """Items in an epoch."""
        return self.left(0)

    def left(self, start: int) -> int:
        """Items from position ``start`` to the end of an epoch."""
        return len(self.steps.order) - start if self.single_rows else self.steps.count(start)


def steps_at_once(recipe: Recipe, batch_rows: int) -> int:
    """Steps to gather together, so that what a gather costs besides bytes is shared."""
    if recipe.per_sample:
        return 1
    by_bytes = BLOCK_NBYTES // max(1, int(recipe.row_nbytes() * batch_rows))
    return max(1, min(by_bytes, BLOCK_ROWS // batch_rows))


def pieces(blocks: Iterator[list[Step]], at_once: int) -> Iterator[list[Step]]:
    """Steps some at a time: one, two, four, up to ``at_once``, so that the first batch does not wait for others."""
    size = 1
    for block in blocks:
        begin = 0
        while begin < len(block):
            yield block[begin : begin + size]
            begin, size = begin + size, min(at_once, 2 * size)


class Session:
    """Progress of one loader through its epochs."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.stats = Stats(job.recipe.source.nbytes_read)
        self.errors = FaultLog()
        self._next = (0, 0)  # epoch and position at which the next iteration begins
        self._at = (0, 0)  # epoch and position of the next row to hand out
        self._running: weakref.WeakSet[Pipeline | Inline | Collected] = weakref.WeakSet()
        self._crew: Crew | None = None
        self._resumed = False
        self.closes = 0  # how often it was closed: an epoch that ends early without that has lost batches

    def begin(self) -> tuple[int, int]:
        """Epoch and position of the iteration that begins now."""
        self._at = self._next
        self._next = (self._next[0] + 1, 0)
        self.stats.started()
        return self._at

    def local(self, epoch: int, start: int) -> Pipeline | Inline | Collected:
        """Batches of an epoch, made in this process, or in worker processes of its own."""
        running: Pipeline | Inline | Collected
        if self.job.workers:
            running = self._idle_crew().run(self.job.steps.order, epoch, start)
        else:
            running = self.job.run(epoch, start, stats=self.stats)
        self._running.add(running)
        return running

    def _idle_crew(self) -> Crew:
        """The processes kept from epoch to epoch; others where these are at work on another iteration."""
        busy = self._crew is not None and self._crew.busy is not None and self._crew.busy() is not None
        if self._crew is None or busy or not self._crew.close.alive:
            self._crew = Crew(replace(self.job, workers=0), self.job.workers, self.job.ahead)
        return self._crew

    def reached(self, epoch: int, position: int) -> None:
        """Note that everything before ``position`` was handed out."""
        self._at = (epoch, position)

    def close(self) -> None:
        """Stop what runs; iterators in use end early."""
        self.closes += 1
        for running in list(self._running):
            running.close()
        if self._crew is not None:
            self._crew.close()

    def set_epoch(self, epoch: int) -> None:
        """Make ``epoch`` the next iteration's."""
        self._next = self._at = (integer("set_epoch", "epoch", epoch, least=0, most=COUNT_MAX), 0)

    def join(self, shard: Shard) -> None:
        """Take a share of every epoch from now on, where the loader was made before there were several consumers."""
        if self.job.shard_given or self.job.steps.shard.world > 1 or shard.world == 1:
            return
        order, self.job = self.job.steps.order, self.job.shared(shard)
        if self._resumed:
            self.job = replace(self.job, steps=replace(self.job.steps, order=order))
        elif not self.job.seed_given:
            self.job = self.job.reseeded(common_seed(self.job.recipe.source))

    def adopt(self, job: Job) -> None:
        """Go on in the order of ``job``, in which a state was restored."""
        self.job, self._resumed = replace(self.job, steps=replace(self.job.steps, order=job.steps.order)), True

    @property
    def seed(self) -> int | None:
        """Seed of the order; ``None`` for rows as stored."""
        seed: int | None = self.job.steps.order.describe().get("seed")
        return seed

    @property
    def upcoming(self) -> tuple[int, int]:
        """Epoch and position at which the next iteration begins."""
        return self._next

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON under 1 KB from which an equal loader goes on with exactly the rows not yet handed
        out.
        """
        return state_at(self.job, *self._at)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration go on where ``state`` was taken.

        Raises:
            InvalidInput: the state is of other data, another seed or other shuffle settings.
        """
        self.job, self._next = restored(self.job, state)
        self._at, self._resumed = self._next, True


def common_seed(source: RowSource) -> int:
    """The seed on which consumers agree without talking to each other, so not by chance: the data's name."""
    return derive(*str(sorted(source.identity().items())).encode()) % 2**63


def state_at(job: Job, epoch: int, position: int) -> dict[str, Any]:
    """Plain JSON from which ``restored`` goes on at ``position`` of ``epoch``."""
    if position and not job.steps.count(position):
        epoch, position = epoch + 1, 0
    identity = job.recipe.source.identity()
    return {
        "format": STATE_FORMAT,
        "epoch": epoch,
        "rows": position,
        "plan": job.steps.order.describe(),
        "source": _digest(identity),
        "source_text": json.dumps(identity, default=str)[:200],
    }


def restored(job: Job, state: dict[str, Any]) -> tuple[Job, tuple[int, int]]:
    """The job in the order of ``state``, and the epoch and position to go on from.

    Raises:
        InvalidInput: the state is of other data, another seed or other shuffle settings.
    """
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
        raise InvalidInput(f"this is no loader state of format {STATE_FORMAT}: {str(state)[:80]}")
    try:
        saved = msgspec.convert(state, _Saved)
    except msgspec.ValidationError as e:
        raise InvalidInput(f"this loader state is damaged ({e}); give what state_dict() gave: {str(state)[:80]}") from None
    identity, order = job.recipe.source.identity(), job.steps.order
    if saved.source != _digest(identity):
        raise InvalidInput(
            f"the state was taken on other data: {saved.source_text}, and this loader reads "
            f"{json.dumps(identity, default=str)[:200]}; open that version, or start afresh"
        )
    theirs = dict(saved.plan)
    seed = theirs.get("seed")
    if not job.seed_given and isinstance(seed, int) and order.describe().get("seed") is not None:
        order = reseeded(order, seed)
    if isinstance(lanes := theirs.get("lanes"), int) and lanes > 0:  # any number of ranks may go on in these
        order = relaned(order, lanes)
    ours = order.describe()
    for key in {**theirs, **ours}:
        if theirs.get(key) != ours.get(key):
            raise InvalidInput(
                f"the state was taken with {key}={theirs.get(key)!r}, and this loader has "
                f"{key}={ours.get(key)!r}; "
                "build the loader with the same shuffle, sample_by and offset settings"
            )
    if saved.rows > len(order):
        raise InvalidInput(f"the state says that {saved.rows} rows of the epoch were handed out; it has {len(order)}")
    return replace(job, steps=replace(job.steps, order=order)), (saved.epoch, saved.rows)


class _Saved(msgspec.Struct, frozen=True):
    """A loader's state as ``state_dict`` gives it."""

    epoch: Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
    rows: Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
    plan: dict[str, Any]
    source: str
    source_text: str = ""


def _digest(identity: dict[str, Any]) -> str:
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Face:
    """What every loader offers besides its batches: progress, resuming and counters, kept by its session."""

    _session: Session

    def __len__(self) -> int:
        return len(self._session.job)

    def __repr__(self) -> str:
        job = self._session.job
        steps, plan = job.steps, job.steps.order.describe()
        items = f"{len(job)} batches of {steps.batch_rows}" if not job.single_rows else "single rows"
        share = f", rank {steps.shard.rank} of {steps.shard.world}" if steps.shard.world > 1 else ""
        order = plan["order"] + "".join(f", {key} {plan[key]}" for key in ("seed", "offset") if key in plan)
        names = listed([c.name for c in job.recipe.columns])
        return f"{type(self).__name__}({len(steps.order)} rows: {items}{share}; order {order}; tensors {names})"

    @property
    def errors(self) -> FaultLog:
        """Bad samples left out so far, with ``on_error="collect"``."""
        return self._session.errors

    @property
    def seed(self) -> int | None:
        """Seed of the order; ``None`` for rows as stored."""
        return self._session.seed

    def set_epoch(self, epoch: int) -> None:
        """Make ``epoch`` the next iteration's."""
        self._session.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where to go on, exactly: what was handed out, not what was prepared. See ``Session.state_dict``."""
        return self._session.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there, with any number of workers. See ``Session.load_state_dict``."""
        self._session.load_state_dict(state)

    def stats(self) -> dict[str, Any]:
        """Rows, batches, bytes, rows per second, seconds by phase, waiting and what for; see ``Stats.report``."""
        return self._session.stats.report()


def listed(names: Sequence[str]) -> str:
    """Names in a line of text, the first ones of many."""
    return ", ".join(names[:6]) + (f", … ({len(names)})" if len(names) > 6 else "")


def deliver(session: Session, items: Iterator[Any], begun: tuple[int, int]) -> Iterator[Any]:
    """Hand out ``items``, one a step, as batches or single rows, keeping the session's books.

    Dropping what it gives drops ``items``, whose threads then end.

    Args:
        begun: epoch and position of the first step.
    """
    handed_out = _delivered(session, items, begun, session.closes)
    return lined(handed_out, session, session.job.left(begun[1])) if session.job.progressbar else handed_out


def _delivered(session: Session, items: Iterator[Any], begun: tuple[int, int], closes: int) -> Iterator[Any]:
    (epoch, start), job, number, before = begun, session.job, 0, begun[1]
    while True:
        asked = time.perf_counter()
        try:
            item = next(items)
        except StopIteration as e:
            if number >= job.steps.count(start):
                session.reached(epoch, len(job.steps.order))
            elif closes == session.closes:
                raise RuntimeError(
                    f"epoch {epoch} ended after {number} of {job.steps.count(start)} batches, and nobody closed the loader: "
                    "a function that it was given (worker_init_fn, for one) raised StopIteration"
                ) from e
            return
        waited_s = time.perf_counter() - asked
        number += 1
        end, kept = job.steps.end_of(start, number), None
        if type(item) is Parcel:
            session.errors.add(item.faults, job.recipe.on_error)
            if item.spent is not None:
                session.stats.add(item.spent)
            item, kept = item.value, item.kept
        if item is not None:
            session.stats.handed_out(-(-(end - before) // job.steps.shard.world), nbytes_of(item), waited_s)
            if job.single_rows:
                places = kept if kept is not None else range(end - before)
                _one_value_a_row(item, len(places))
                for i, place in enumerate(places):
                    session.reached(epoch, before + place + 1)
                    yield row_of(item, i)
        session.reached(epoch, end)
        if item is not None and not job.single_rows:
            yield item
        del item  # not to keep a batch alive while the next is made
        before = end


def _one_value_a_row(batch: Any, n: int) -> None:
    """Whether single rows can be taken out of a batch that a user's function made."""
    if not isinstance(batch, dict):
        raise InvalidInput(
            f"a function of the batch made {type(batch).__name__} of {n} rows, and no single rows can be taken out of that; "
            "add .batch(n) to the chain, or return a dict with as many values under each key as there are rows"
        )
    for name, values in batch.items():
        size = len(values) if hasattr(values, "__len__") and getattr(values, "shape", True) else None
        if size != n:
            raise InvalidInput(
                f"{name!r}: a function of the batch made {'no sequence' if size is None else f'{size} values'} of {n} rows; "
                "return one value a row, or add .batch(n) to the chain"
            )
