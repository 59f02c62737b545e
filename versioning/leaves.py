"""Leaf manifests: older fragments, listed in shared immutable Parquet files that many versions refer to.

A version object names its leaves and carries only what is newer: the fragments appended since (inline), and *overrides*, the
present form of fragments whose entry in a leaf has been overtaken by a delete or an update. So a commit writes little, however
many fragments there are; and opening a version reads no leaf until rows are asked for.

A leaf's rows are its fragments in row order: counts and ids as typed columns (which are read as arrays), the entry itself as JSON
(which is parsed when that fragment is touched), and per tensor its rows, missing samples and bytes.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from lakefmt.errors import Conflict, Corrupt, LakeError, NoSuchObject
from lakefmt.fragment.arrow import numpy_of
from lakefmt.fragment.cache import ByteCache
from lakefmt.fragment.meta import Fragment, Record
from lakefmt.fragment.stats import FieldStats, field_stats, joined, light_nbytes
from lakefmt.storage import Range, Store
from lakefmt.versioning.clock import clock_s
from lakefmt.versioning.records import Leaf, Override, State

Ints = npt.NDArray[np.int64]
replace = msgspec.structs.replace

#: Fragments of a leaf at most.
LEAF_FRAGMENTS_MAX = 4096
#: Fragments a version object carries itself; when there are more, all but the newest ``INLINE_KEPT`` move to a leaf.
INLINE_MAX = 64
INLINE_KEPT = 16
#: Overrides a version object carries before they are written into their leaves.
OVERRIDES_MAX = 256
#: Neighbouring leaves below the greatest size, from which on they are merged.
SMALL_LEAVES_MAX = 16
#: Key of a leaf's summary in its Parquet metadata.
_SUMMARY = b"lakefmt.summary"
#: Seconds for which a leaf that nothing may refer to is used again; an expiry removes what is unused for much longer.
REUSE_AGE_MAX_S = 600.0
#: Decoded leaves kept.
_CACHE_NBYTES = 256 << 20


class Summary(Record, frozen=True):
    """What the fragments of a leaf have in common: per field id, and the bytes of light columns."""

    tensors: dict[int, FieldStats] = msgspec.field(default_factory=dict)
    light_nbytes: int = 0


def summarised(fragments: Sequence[Fragment]) -> Summary:
    """The summary of some fragments."""
    ids = dict.fromkeys(e.id for f in fragments for file in f.files for e in file.fields)
    ids |= dict.fromkeys(o.field_id for f in fragments for o in f.overlays)
    found = {i: stats for i in ids if (stats := field_stats(fragments, i)) is not None}
    return Summary(tensors=found, light_nbytes=light_nbytes(fragments))


@dataclass(slots=True)
class LeafTable:
    """A leaf as read: arrays over its fragments; their entries are taken out of the file, and parsed, when asked for."""

    rows: Ints
    live: Ints
    first_ids: Ints
    listed: npt.NDArray[np.bool_]
    summary: Summary
    _data: bytes
    _entries: pa.Array | None = None
    _ids: dict[str, int] | None = None
    _fragments: dict[int, Fragment] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def fragment(self, i: int) -> Fragment:
        """The ``i``-th fragment."""
        found = self._fragments.get(i)
        if found is None:
            if self._entries is None:
                self._entries = self._column("entry")
            found = self._fragments[i] = msgspec.json.decode(self._entries[i].as_buffer(), type=Fragment)
        return found

    def index(self, fragment_id: str) -> int | None:
        """Where a fragment is; ``None`` when it is not in this leaf."""
        if self._ids is None:
            self._ids = {f: i for i, f in enumerate(self._column("id").to_pylist())}
        return self._ids.get(fragment_id)

    def _column(self, name: str) -> pa.Array:
        return pq.ParquetFile(pa.BufferReader(self._data)).read(columns=[name]).column(0).combine_chunks()


class Leaves:
    """Reads and writes the leaves of one store. Leaves never change, so what was read once stays true."""

    def __init__(self, store: Store) -> None:
        self.store = store
        #: says why leaves are gone, where somebody knows better than that they were lost
        self.explain: Callable[[Sequence[Leaf]], LakeError | None] = _lost
        self._cache: ByteCache[LeafTable] = ByteCache(_CACHE_NBYTES)
        self._written: dict[str, tuple[Leaf, float]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return (Leaves, (self.store,))

    def table(self, leaf: Leaf) -> LeafTable:
        """The content of a leaf.

        Raises:
            Corrupt: it is missing or damaged.
        """
        return self._cache.get(leaf.key, lambda: self._read([leaf])[0])

    def forget_written(self) -> None:
        """Write every leaf anew from now on."""
        with self._lock:
            self._written.clear()

    def forget(self, leaf: Leaf) -> None:
        """Read it again when it is asked for next."""
        self._cache.drop(leaf.key)

    def tables(self, leaves: Sequence[Leaf]) -> list[LeafTable]:
        """The contents of several, those not read yet fetched at once."""
        new = {leaf.key: leaf for leaf in leaves if leaf.key not in self._cache}
        read = dict(zip(new, self._read(list(new.values())), strict=True)) if new else {}
        return [self._cache.get(leaf.key, lambda leaf=leaf: read.get(leaf.key) or self._read([leaf])[0]) for leaf in leaves]  # type: ignore[misc]

    def _read(self, leaves: list[Leaf]) -> list[tuple[LeafTable, int]]:
        names = [f"{self.store.url}/{leaf.key}" for leaf in leaves]
        try:
            found = self.store.get_ranges([Range(leaf.key, 0, leaf.size + 1) for leaf in leaves])
        except NoSuchObject as e:
            raise self.explain(leaves) or Corrupt(
                f"{e}: a leaf manifest that a version names is missing; restore it from a copy"
            ) from e
        return [decode_leaf(bytes(d), leaf, n) for d, leaf, n in zip(found, leaves, names, strict=True)]

    def find(self, leaves: Sequence[Leaf], fragment_id: str) -> Fragment | None:
        """A fragment as its leaf has it."""
        for table in self.tables(leaves):
            at = table.index(fragment_id)
            if at is not None:
                return table.fragment(at)
        return None

    def write(self, fragments: Sequence[Fragment]) -> list[Leaf]:
        """Leaves of these fragments. The same fragments give the leaf written for them before, so that a retry writes nothing."""
        return [self._write(fragments[i : i + LEAF_FRAGMENTS_MAX]) for i in range(0, len(fragments), LEAF_FRAGMENTS_MAX)]

    def _write(self, fragments: Sequence[Fragment]) -> Leaf:
        data = encode_leaf(fragments)
        digest = xxhash.xxh64(data).hexdigest()
        with self._lock:
            known, written_s = self._written.get(digest, (None, 0.0))
        if known is None or clock_s() - written_s > REUSE_AGE_MAX_S:
            key = f"meta/{uuid.uuid4().hex}.parquet"
            self.store.put(key, data)
            known = Leaf(
                key=key, size=len(data), xxh64=digest, fragments=len(fragments), rows=sum(f.rows for f in fragments),
                live=sum(f.live for f in fragments),
            )  # fmt: skip
            with self._lock:
                self._written[digest] = (known, clock_s())
                while len(self._written) > 64:
                    self._written.pop(next(iter(self._written)))
        return known


def _lost(leaves: Sequence[Leaf]) -> None:
    """Nobody knows better."""


def encode_leaf(fragments: Sequence[Fragment]) -> bytes:
    """A leaf as a Parquet file."""
    columns: dict[str, Any] = {
        "id": [f.id for f in fragments],
        "rows": pa.array([f.rows for f in fragments], pa.int64()),
        "live": pa.array([f.live for f in fragments], pa.int64()),
        "first_id": pa.array([f.first_id for f in fragments], pa.int64()),
        "listed": pa.array([f.ids is not None for f in fragments], pa.bool_()),
    }
    stats: dict[int, dict[str, list[int | None]]] = {}
    for i, fragment in enumerate(fragments):
        for file in fragment.files:
            for entry in file.fields:
                known = stats.setdefault(entry.id, {k: [None] * len(fragments) for k in ("rows", "missing", "nbytes")})
                known["rows"][i], known["missing"][i], known["nbytes"][i] = entry.rows, entry.missing, entry.nbytes
    for field_id, known in stats.items():
        columns |= {f"{field_id}.{k}": pa.array(v, pa.int64()) for k, v in known.items()}
    columns["entry"] = pa.array([msgspec.json.encode(f) for f in fragments], pa.binary())
    sink = pa.BufferOutputStream()
    table = pa.table(columns).replace_schema_metadata({_SUMMARY: msgspec.json.encode(summarised(fragments))})
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    return bytes(sink.getvalue().to_pybytes())


def decode_leaf(data: bytes, leaf: Leaf, what: str) -> tuple[LeafTable, int]:
    """A leaf from its bytes, with the bytes it holds in memory."""
    if len(data) != leaf.size or xxhash.xxh64(data).hexdigest() != leaf.xxh64:
        raise Corrupt(f"{what}: a leaf manifest that does not match its checksum; restore it from a copy")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        columns = ("rows", "live", "first_id", "listed")
        table = file.read(columns=list(columns))
        rows, live, first_ids, listed = (numpy_of(table.column(c).combine_chunks()) for c in columns)
        summary = msgspec.json.decode((file.metadata.metadata or {})[_SUMMARY], type=Summary)
        found = LeafTable(rows, live, first_ids, listed, summary, data)
    except (pa.ArrowException, msgspec.MsgspecError, OSError, ValueError, KeyError) as e:
        raise Corrupt(f"{what}: a leaf manifest that does not parse ({e}); restore it from a copy") from e
    if len(found) != leaf.fragments:
        raise Corrupt(f"{what}: a leaf manifest of {len(found)} fragments, where {leaf.fragments} were written; restore it")
    return found, 8 * len(data)  # with the entries, once they are parsed


class Tree(Sequence[Fragment]):
    """All fragments of a state, in row order. Leaves are read when something of them is asked for."""

    def __init__(self, state: State, leaves: Leaves) -> None:
        self._state = state
        self._leaves = leaves
        self._first_inline = sum(leaf.fragments for leaf in state.leaves)

    def __len__(self) -> int:
        return self._first_inline + len(self._state.fragments)

    @cached_property
    def _tables(self) -> list[LeafTable]:
        return self._leaves.tables(self._state.leaves)

    @cached_property
    def _leaf_starts(self) -> Ints:
        return np.concatenate(([0], np.cumsum([leaf.fragments for leaf in self._state.leaves], dtype=np.int64)))

    @cached_property
    def _overridden(self) -> dict[int, Fragment]:
        """Overrides by the place of their fragment."""
        if not self._state.overrides:
            return {}
        firsts = self._joined("first_ids")
        order = np.argsort(firsts, kind="stable")
        out = {}
        for o in self._state.overrides:
            at = int(np.searchsorted(firsts, o.fragment.first_id, sorter=order))
            at = int(order[at]) if at < len(order) else -1
            if at < 0 or self._leaf_entry(at).id != o.fragment.id:
                raise Corrupt(f"a version overrides fragment {o.fragment.id}, which none of its leaves has; restore the leaves")
            out[at] = o.fragment
        return out

    def _joined(self, name: str) -> Any:
        return np.concatenate([getattr(t, name) for t in self._tables])

    def _array(self, name: str, inline: Sequence[Any], dtype: Any) -> Any:
        own = np.array(inline, dtype)
        return np.concatenate([self._joined(name), own]) if self._tables else own

    @cached_property
    def rows(self) -> Ints:
        """Rows of each fragment, deleted ones included, int64."""
        rows: Ints = self._array("rows", [f.rows for f in self._state.fragments], np.int64)
        return rows

    @cached_property
    def live(self) -> Ints:
        """Rows of each fragment that are not deleted, int64."""
        live: Ints = self._array("live", [f.live for f in self._state.fragments], np.int64)
        for at, fragment in self._overridden.items():
            live[at] = fragment.live
        return live

    @cached_property
    def first_ids(self) -> Ints:
        """Row id of each fragment's first row, int64."""
        ids: Ints = self._array("first_ids", [f.first_id for f in self._state.fragments], np.int64)
        return ids

    @cached_property
    def listed(self) -> npt.NDArray[np.bool_]:
        """Which fragments list their row ids."""
        flags: npt.NDArray[np.bool_] = self._array("listed", [f.ids is not None for f in self._state.fragments], bool)
        return flags

    @cached_property
    def light_nbytes(self) -> int:
        """Bytes of light columns, before compression."""
        return sum(t.summary.light_nbytes for t in self._tables) + light_nbytes([*self._recent])

    @property
    def _recent(self) -> list[Fragment]:
        return [*(o.fragment for o in self._state.overrides), *self._state.fragments]

    def stats(self, field_id: int) -> FieldStats | None:
        """What is common to all samples of a tensor; ``None`` where there is no fragment.

        Fragments that are overridden count twice, in their old form and in the new one: a bound may be wider than needed.
        """
        lacking = FieldStats(gaps=True)
        parts = [t.summary.tensors.get(field_id, lacking) for t in self._tables]
        recent = field_stats(self._recent, field_id)
        return joined([*parts, *([recent] if recent is not None else [])])

    def _leaf_entry(self, i: int) -> Fragment:
        at = int(np.searchsorted(self._leaf_starts, i, side="right")) - 1
        return self._tables[at].fragment(i - int(self._leaf_starts[at]))

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if i < 0:
            i += len(self)
        if not 0 <= i < len(self):
            raise IndexError(i)
        if i >= self._first_inline:
            return self._state.fragments[i - self._first_inline]
        return self._overridden.get(i) or self._leaf_entry(i)

    def __iter__(self) -> Iterator[Fragment]:
        return (self[i] for i in range(len(self)))


# -- keeping the tree in shape -------------------------------------------------------------------------------------------


def edited(state: State, fragments: dict[str, Fragment], live_before: dict[str, int]) -> State:
    """The state with some fragments in a new form; ``live_before``: their live rows in the old one."""
    own = {f.id for f in state.fragments}
    inline = tuple(fragments.get(f.id, f) for f in state.fragments)
    kept = tuple(replace(o, fragment=fragments.get(o.fragment.id, o.fragment)) for o in state.overrides)
    own |= {o.fragment.id for o in kept}
    fresh = [f for f in fragments.values() if f.id not in own]
    made = (Override(fragment=f, live_before=live_before[f.id]) for f in fresh)
    return replace(state, fragments=inline, overrides=(*kept, *made))


def current(state: State, leaves: Leaves, fragment_id: str) -> Fragment:
    """A fragment of a state, in its present form.

    Raises:
        Conflict: the state has none of that id.
    """
    for f in state.fragments:
        if f.id == fragment_id:
            return f
    for o in state.overrides:
        if o.fragment.id == fragment_id:
            return o.fragment
    found = leaves.find(state.leaves, fragment_id)
    if found is None:
        raise Conflict("fragments this change was made for are gone; refresh() and redo it")
    return found


def substituted(state: State, leaves: Leaves, groups: dict[str, tuple[Fragment, ...]], dropped: set[str]) -> State:
    """The state with some fragments replaced by others (at their place) and some dropped; leaves concerned are written anew."""
    gone = groups.keys() | dropped
    shelves = list(state.leaves)
    shelved_ids = gone - {f.id for f in state.fragments}
    tables = leaves.tables(shelves) if shelved_ids else []  # what is inline is in no leaf: most often none is looked at
    concerned = {n for n, t in enumerate(tables) if any(t.index(g) is not None for g in shelved_ids)}
    present = {o.fragment.id: o.fragment for o in state.overrides}
    new_leaves: list[Leaf] = []
    for n, leaf in enumerate(shelves):
        if n not in concerned:
            new_leaves.append(leaf)
            continue
        table = leaves.table(leaf)
        own = [present.pop(f.id, f) for f in (table.fragment(i) for i in range(len(table)))]
        new_leaves += leaves.write(_substitute(own, groups, dropped))
    return replace(
        state, leaves=tuple(new_leaves), fragments=tuple(_substitute(state.fragments, groups, dropped)),
        overrides=tuple(o for o in state.overrides if o.fragment.id in present),
    )  # fmt: skip


def _substitute(own: Sequence[Fragment], groups: dict[str, tuple[Fragment, ...]], dropped: set[str]) -> list[Fragment]:
    out: list[Fragment] = []
    for f in own:
        if f.id in groups:
            out += groups[f.id]
        elif f.id not in dropped:
            out.append(f)
    return out


def shelved(state: State, leaves: Leaves) -> State:
    """The state with no more fragments and overrides in the version object than it should carry."""
    movable = 0
    while movable < len(state.fragments) and not state.fragments[movable].inlined:
        movable += 1
    if len(state.fragments) > INLINE_MAX:
        moved = min(movable, len(state.fragments) - INLINE_KEPT)
        if moved > 0:
            made = leaves.write(state.fragments[:moved])
            state = replace(state, leaves=(*state.leaves, *made), fragments=state.fragments[moved:])
    if len(state.overrides) > OVERRIDES_MAX:
        state = substituted(state, leaves, {o.fragment.id: (o.fragment,) for o in state.overrides}, set())
    return state


def small_runs(state: State) -> list[tuple[Leaf, ...]]:
    """Runs of neighbouring leaves that would be better as one: many, each well below the greatest size."""
    runs: list[tuple[Leaf, ...]] = []
    run: list[Leaf] = []
    for leaf in (*state.leaves, None):
        if leaf is not None and leaf.fragments < LEAF_FRAGMENTS_MAX // 2 and sum(x.fragments for x in run) < LEAF_FRAGMENTS_MAX:
            run.append(leaf)
            continue
        if len(run) >= SMALL_LEAVES_MAX:
            runs.append(tuple(run))
        run = [leaf] if leaf is not None and leaf.fragments < LEAF_FRAGMENTS_MAX // 2 else []
    return runs


def merged(leaves: Leaves, run: Sequence[Leaf]) -> tuple[Leaf, ...]:
    """The same fragments in fewer leaves."""
    fragments = [t.fragment(i) for t in leaves.tables(run) for i in range(len(t))]
    return tuple(leaves.write(fragments))


def adopted(state: State, merges: dict[tuple[str, ...], tuple[Leaf, ...]]) -> State:
    """The state with runs of leaves replaced by their merged form, where it still has these runs."""
    for keys, into in merges.items():
        own = [leaf.key for leaf in state.leaves]
        if keys[0] in own:
            at = own.index(keys[0])
            if tuple(own[at : at + len(keys)]) == keys:
                state = replace(state, leaves=(*state.leaves[:at], *into, *state.leaves[at + len(keys) :]))
    return state
