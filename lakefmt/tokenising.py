"""Token ids of texts, stored: a new tensor beside the texts of a dataset, or a dataset of their own.

Texts are read, and ids written, a fragment at a time, which bounds what is held in memory; the files are adopted by one version at
the end. Until then nobody sees any of them: if a run is interrupted the dataset is what it was, and ``expire()`` removes the files.
"""

from __future__ import annotations

import operator
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np

from lakefmt.cells import Rows, Strings
from lakefmt.dataset import Dataset
from lakefmt.encoders import Encoder, Ids, Texts, encoded
from lakefmt.errors import AlreadyExists, Conflict, DtypeError, InvalidInput
from lakefmt.fragment.columns import NumericColumn
from lakefmt.fragment.meta import ColumnFile, Fragment
from lakefmt.fragment.write import write_files
from lakefmt.htypes import Kind, check_tensor_name, define_tensor, numpy_dtype, shown
from lakefmt.rebase import spread
from lakefmt.schema import check_free, fresh_id
from lakefmt.snapshot import Snapshot
from lakefmt.versioning.changes import AddTensor, Append, Change, WriteColumn
from lakefmt.versioning.clock import clock_s
from lakefmt.versioning.log import TRANSACTION_AGE_MAX_S, Transaction
from lakefmt.writer import FRAGMENT_NBYTES, Writer

#: More than any machine has cores.
WORKERS_MAX = 1024
#: Texts of a call, at most, and bytes from which on a call is given fewer of them.
BATCH_TEXTS_MAX = 1 << 20
_BATCH_NBYTES = 8 << 20


def tokenise(
    ds: Dataset,
    texts: str | Iterable[str | None],
    tensor: str,
    fn: Callable[[Any], Any],
    *,
    dtype: Any = "int32",
    batch_size: int = 1000,
    batched: bool = True,
    num_workers: int = 0,
) -> int:
    """Store the token ids of texts, in order, as one version.

    Args:
        ds: a writable dataset.
        texts: the name of a text tensor of it, whose rows get their ids; or texts themselves (the lines of an open file, for one),
            each of which becomes a row. Then the dataset has no other tensors.
        tensor: the new tensor, of one dimension. (Of ``texts`` that are no name, more rows for one that is there.)
        fn: from a list of ``str`` to a list of lists or arrays of ids. What tokenizers of Hugging Face return is understood as
            well: the encodings of ``encode_batch``, the dict with ``input_ids``. Not ``batched``: from a ``str`` to its ids.
        dtype: of the ids: an integer dtype that holds them all.
        batch_size: texts a call.
        batched: whether ``fn`` takes a list.
        num_workers: processes that call ``fn``, which is sent to them; 0: this one calls it.

    Returns:
        How many tokens there are.

    A missing text has missing ids. What others commit meanwhile stays: rows they append have no ids, and texts that they change
    keep those of the old text.

    Raises:
        InvalidInput, DtypeError: ``fn`` raised, or returned what are no ids; the message names the row and shows its text.
        AlreadyExists: there is a tensor of that name.
        NoSuchTensor: there is no text tensor of the name given.
        Conflict: others have compacted the rows meanwhile, or it took more than six hours; nothing was stored.
    """
    if not isinstance(ds, Dataset):
        raise InvalidInput(f"tokenise(): give a dataset that can be written to, got {type(ds).__name__}")
    writer = ds._write()
    if not callable(fn):
        raise InvalidInput(f"tokenise(): fn is a function, got {shown(fn)}")
    if not isinstance(batched, (bool, np.bool_)):
        raise InvalidInput(f"tokenise(batched={shown(batched)}): give True or False")
    encoder = Encoder(fn, bool(batched), _integer_dtype(dtype))
    size = _count("batch_size", batch_size, 1, BATCH_TEXTS_MAX)
    workers = _count("num_workers", num_workers, 0, WORKERS_MAX)
    if not isinstance(texts, Iterable):
        raise InvalidInput(f"tokenise(): texts is the name of a tensor, or an iterable of str, got {shown(texts)}")
    if not (isinstance(tensor, str) and tensor in writer.snapshot.definitions):
        ds._check_free(tensor)
        check_free(writer, check_tensor_name(tensor))
    elif isinstance(texts, str):
        raise AlreadyExists(f"{writer.url} has a tensor {tensor!r} already; delete_tensor({tensor!r}) makes room for it")
    run = _Run(writer, tensor, encoder, size, workers)
    return run.of_tensor(texts) if isinstance(texts, str) else run.of_texts(texts)


def _count(name: str, value: Any, least: int, most: int) -> int:
    try:
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise InvalidInput(f"tokenise({name}={shown(value)}): give an integer from {least} to {most}")
    return number


def _integer_dtype(given: Any) -> str:
    dtype = numpy_dtype(given, "tokenise()")
    if np.dtype(dtype).kind not in "iu":
        raise DtypeError(f"tokenise(dtype={shown(given)}): token ids are integers; use int32, uint16 or another integer dtype")
    return dtype


class _Run:
    """One call of ``tokenise``: what it makes on its way."""

    def __init__(self, writer: Writer, tensor: str, encoder: Encoder, batch_size: int, num_workers: int) -> None:
        self.writer = writer
        self.encoder, self.batch_size, self.num_workers = encoder, batch_size, num_workers
        writer.flush()
        self.snapshot = writer.snapshot
        known = self.snapshot.definitions.get(tensor)
        self.definition = known or define_tensor(fresh_id(writer), tensor, dtype=encoder.dtype, shape=(None,))
        self.changes: list[Change] = [] if known is not None else [AddTensor(self.definition)]
        self.started_s = clock_s()
        self.tokens = 0

    def commit(self) -> int:
        """All of it, as one version."""
        if self.changes:
            self.writer.commit_changes(Transaction(lambda _: self.changes, operation="tokenise", started_s=self.started_s))
        return self.tokens

    def in_time(self) -> None:
        """Refuse to go on with what is too old to be committed."""
        if clock_s() - self.started_s > TRANSACTION_AGE_MAX_S:
            raise Conflict(
                f"{self.writer.url}: tokenise() has taken more than {TRANSACTION_AGE_MAX_S // 3600} hours, after which its files "
                "may be removed as orphans; nothing was stored: use num_workers, or tokenise parts, each a dataset of its own"
            )

    # -- beside texts that are stored ----------------------------------------------------------------------------------

    def of_tensor(self, name: str) -> int:
        """Ids for the texts of a tensor."""
        snapshot = self.snapshot
        if snapshot.definition(name).kind is not Kind.TEXT:
            raise DtypeError(f"tokenise(): tensor {name!r} holds {snapshot.definition(name).htype} samples; texts are wanted")
        batches = _stored(snapshot, name, self.batch_size)
        files: dict[str, tuple[ColumnFile, ...]] = {}
        current, column, rows = 0, self._column(), list[Rows]()
        with closing(encoded(self.encoder, batches, self.num_workers)) as done:
            for some, ids in done:
                index, _ = snapshot.locate(some.rows[:1])
                if int(index[0]) != current:
                    self._fill(files, current, column, rows)
                    current, column, rows = int(index[0]), self._column(), []
                self._add(column, ids)
                rows.append(some.rows)
        self._fill(files, current, column, rows)
        if files:
            self.changes.append(WriteColumn(files, self.definition.id))
        return self.commit()

    def _fill(self, files: dict[str, tuple[ColumnFile, ...]], i: int, column: NumericColumn, rows: list[Rows]) -> None:
        """Write the ids of a fragment's rows."""
        if not len(column):
            return
        self.in_time()
        fragment = self.snapshot.fragments[i]
        _, offsets = self.snapshot.locate(np.concatenate(rows))
        placed = spread(column, self.definition, offsets) if int(offsets[-1]) >= len(offsets) else column
        files[fragment.id] = write_files(self.writer.log.store, [(self.definition, placed)], fragment.rows)

    # -- as rows of their own ------------------------------------------------------------------------------------------

    def of_texts(self, texts: Iterable[str | None]) -> int:
        """Rows for texts."""
        others = [n for n in self.snapshot.definitions if n != self.definition.name]
        if others:
            raise InvalidInput(
                f"tokenise(): texts become rows of their own, and the dataset has tensors {', '.join(map(repr, others))}"
            )
        known = self.definition
        if (known.htype, known.dtype) != ("generic", self.encoder.dtype) or known.shape not in (None, (None,)):
            shape = "" if known.shape is None else f" and shape {known.shape}"
            raise DtypeError(
                f"tokenise(): tensor {known.name!r} is of htype {known.htype!r}, dtype {known.dtype}{shape}; token ids of dtype "
                f"{self.encoder.dtype} do not go there"
            )
        column = self._column()
        batches = _given(texts, self.batch_size, len(self.snapshot))
        with closing(encoded(self.encoder, batches, self.num_workers)) as done:
            for _, ids in done:
                self._add(column, ids)
                if column.nbytes >= FRAGMENT_NBYTES:
                    self._append(column)
                    column = self._column()
        self._append(column)
        return self.commit()

    def _append(self, column: NumericColumn) -> None:
        if len(column):
            self.in_time()
            files = write_files(self.writer.log.store, [(self.definition, column)], len(column))
            self.changes.append(Append(Fragment(id=uuid.uuid4().hex, rows=len(column), first_id=0, files=files)))

    def _column(self) -> NumericColumn:
        return NumericColumn(self.encoder.dtype)

    def _add(self, column: NumericColumn, ids: Ids) -> None:
        """Take the ids of a batch, cut into samples."""
        flat, lengths = ids
        ends = np.cumsum(np.maximum(lengths, 0))
        for length, end in zip(lengths.tolist(), ends.tolist(), strict=True):
            column.add(None if length < 0 else flat[end - length : end])
        self.tokens += len(flat)


def _stored(snapshot: Snapshot, name: str, batch_size: int) -> Iterator[Texts]:
    """The texts of a tensor in batches, none of which is of two fragments."""
    size = max(1, min(batch_size, int(_BATCH_NBYTES / max(1.0, snapshot.mean_nbytes(name)))))
    for i in range(len(snapshot.fragments)):
        start, stop = snapshot.extent(i, i + 1)
        for begin in range(start, stop, size):
            rows = np.arange(begin, min(stop, begin + size))
            cells = snapshot.gather(name, rows)
            assert isinstance(cells, Strings)
            yield Texts(cells.values.to_pylist(), rows)


def _given(texts: Iterable[Any], batch_size: int, first: int) -> Iterator[Texts]:
    """Texts in batches; they become rows from ``first`` on."""
    batch: list[str | None] = []
    nbytes = 0
    for text in texts:
        if not isinstance(text, (str, type(None))):
            what = f"{shown(text)} ({type(text).__name__})"
            raise DtypeError(f"tokenise(): a text is a str, and that of row {first + len(batch)} is {what}")
        batch.append(text)
        nbytes += 0 if text is None else len(text)
        if len(batch) >= batch_size or nbytes >= _BATCH_NBYTES:
            yield Texts(batch, np.arange(first, first + len(batch)))
            first, batch, nbytes = first + len(batch), [], 0
    if batch:
        yield Texts(batch, np.arange(first, first + len(batch)))
