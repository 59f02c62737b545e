"""Whatever byte of whatever object is damaged: every version reads exactly as it was written, or a lakefmt error says why not.

One small dataset holds an object of every kind: version objects with and without rows in them, leaves, deletion and overlay files,
row id lists, light files, heavy files of every layout, branches, a tag, the claim. One object at a time is cut or gets one bit
flipped; then a fresh handle reads everything there is. Pages of heavy files are not checked when they are read from a local place:
there `verify()` has to find the damage.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_stores import Counting, Wrapped, copied, memory, opened

from lakefmt.codecs import encode
from lakefmt.dataset import Dataset
from lakefmt.errors import Corrupt, LakeError
from lakefmt.fragment.meta import ColumnFile, Layout
from lakefmt.fragment.read import FileReader
from lakefmt.storage import Bytes, MemoryStore, Range, Store
from lakefmt.versioning import leaves as leaves_module
from lakefmt.versioning.leaves import Tree
from lakefmt.versioning.log import CLAIM_KEY, Log

FLIPS_A_KIND, CUTS_A_KIND = 20, 8
FLIPS_A_KIND_NIGHTLY = 2000
#: Bytes of a page header that are looked at.
_HEADER_NBYTES = 40
_HEAVY = (Layout.FLAT, Layout.BLOBS, Layout.DOCUMENTS)


class Remote(Wrapped):
    """The same objects at a place that maps nothing and counts as far away."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.is_local = False

    def map(self, key: str) -> memoryview | None:
        return None


@dataclass
class Built:
    """A dataset with an object of every kind.

    Attributes:
        addresses: what a reader may open: branches, the tag, every version.
        right: what each reads as.
        readers: for each object, the addresses whose reading touches it.
        kinds: per kind of object, the keys and the first byte to damage (the index of a heavy file begins after its pages).
    """

    store: MemoryStore
    addresses: list[str]
    right: dict[str, Any]
    readers: dict[str, list[str]]
    kinds: dict[str, list[tuple[str, int]]]


def _rows(n: int, at: int) -> dict[str, list[Any]]:
    rng = np.random.default_rng(at)
    return {
        "x": list(range(at, at + n)),
        "text": [f"text {i} ☃" for i in range(at, at + n)],
        "boxes": [None if i % 3 == 1 else rng.random((i % 3 + 1, 2), np.float32) for i in range(n)],
        "pixels": list(rng.integers(0, 255, (n, 8, 20), np.uint8)),
        "ragged": [rng.random((i % 3 + 1, 150)) for i in range(n)],
        "document": [f"document {i} " * 120 for i in range(at, at + n)],
        "image": [encode("png", rng.integers(0, 255, (6, 5 + i, 3), np.uint8)) for i in range(n)],
    }


def _make() -> MemoryStore:
    store = memory()
    Log.create(store)
    ds = opened(store)
    for name, options in {
        "x": {"dtype": "int64"}, "text": {"htype": "text"}, "boxes": {"dtype": "float32"}, "pixels": {"dtype": "uint8"},
        "ragged": {"dtype": "float64"}, "document": {"htype": "text"}, "image": {"htype": "image", "sample_compression": "png"},
    }.items():  # fmt: skip
        ds.create_tensor(name, **options)  # type: ignore[arg-type]
    for i in range(5):
        ds.extend(_rows(3, 10 * i))
        ds.commit(f"rows {i}")
    ds.checkout("dev", create=True)
    ds.pop([1, 4])
    ds.compact()
    ds.extend(_rows(2, 70))
    ds.commit("on dev")
    ds.checkout("main")
    ds.tag("first", ds.history()[2].branch[:12] + "-9")
    ds.x[4] = 400
    ds.pixels[0] = np.full((8, 20), 9, np.uint8)
    ds.document[5] = "another document " * 100
    ds.commit("updated")
    ds.pop([2, 7])
    ds.info["made"] = "for damage"
    ds.extend({"x": [1, 2], "text": ["in", "line"]}, skip_ok=True)
    ds.flush()
    ds.extend({"x": [3], "text": ["more"]}, skip_ok=True)
    ds.flush()
    return store


def _files(store: Store) -> Iterator[ColumnFile]:
    log = Log.open(store)
    for branch in log.refs.branches():
        for v in log.numbers(branch.uuid):
            for fragment in Tree(log.read(branch.uuid, v).state, log.leaves):
                yield from (f for f in fragment.every_file() if not f.key.startswith("inline/"))


def _kinds(store: MemoryStore) -> dict[str, list[tuple[str, int]]]:
    log = Log.open(store)
    heads = [log.head(b.uuid) for b in log.refs.branches()]
    log_keys = sorted(e.key for e in store.list("log/") if e.key.endswith(".json"))
    files = {f.key: f for f in _files(store)}
    heavy = {k: f.index_start for k, f in files.items() if any(e.layout in _HEAVY for e in f.fields)}
    light = [k for k in files if k not in heavy]
    lists = {f.ids.file.key for h in heads for f in Tree(h.state, log.leaves) if f.ids is not None}
    inline = [f"log/{h.head.branch}/{h.head.v:020}.json" for h in heads if h.inline]
    assert inline
    kinds = {
        "version with rows": inline,
        "version": [k for k in log_keys if k not in inline],
        "leaf": [e.key for e in store.list("meta/")],
        "deletions": [k for k in light if k.startswith("dv/")],
        "overlay": [k for k in light if k.startswith("overlays/")],
        "row ids": [k for k in light if k in lists],
        "light": [k for k in light if k.startswith("data/") and k not in lists],
        "branch": [e.key for e in store.list("refs/branches/")],
        "tag": [e.key for e in store.list("refs/tags/")],
        "claim": [CLAIM_KEY],
        "hint": [e.key for e in store.list("log/") if e.key.endswith("_hint")],
    }
    found = {kind: [(k, 0) for k in keys] for kind, keys in kinds.items()}
    for layout in _HEAVY:
        found[f"index of {layout.name.lower()}"] = [
            (k, at) for k, at in heavy.items() if any(e.layout is layout for e in files[k].fields)
        ]
    assert all(found.values()), {k: len(v) for k, v in found.items()}
    return found


KINDS = (
    "version with rows", "version", "leaf", "deletions", "overlay", "row ids", "light", "branch", "tag", "claim", "hint",
    "index of flat", "index of blobs", "index of documents",
)  # fmt: skip


@pytest.fixture(scope="module")
def built() -> Built:
    """Made once; each test damages a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaves_module, "INLINE_MAX", 3)
        patch.setattr(leaves_module, "INLINE_KEPT", 1)
        store = _make()
    log = Log.open(store)
    versions = [f"{b.uuid[:12]}-{v}" for b in log.refs.branches() for v in log.numbers(b.uuid)]
    addresses = ["main", "dev", "first", *versions]
    built = Built(store, addresses, {}, {}, _kinds(store))
    assert set(built.kinds) == set(KINDS)
    for address in addresses:
        built.right[address], touched = _read_noting(store, address)
        for key in touched:
            built.readers.setdefault(key, []).append(address)
    return built


class Noting(Counting):
    """Remembers the objects read."""

    def get_ranges(self, ranges: Sequence[Range]) -> list[Bytes]:
        self.calls += [("get_ranges", r.key) for r in ranges]
        return self.inner.get_ranges(ranges)


def _read_noting(store: Store, address: str) -> tuple[Any, set[str]]:
    noting = Noting(store)
    return _read(noting, address), {key for _, key in noting.calls}


def _plain(value: Any) -> Any:
    return None if value is None else value.tolist()


def _everything(ds: Dataset) -> Any:
    """All that a handle tells: rows, definitions, metadata, history, difference, names."""
    samples = {n: t.tobytes() if t.sample_compression else list(map(_plain, t.numpy(aslist=True))) for n, t in ds.tensors.items()}
    definitions = {n: (t.htype, str(t.dtype), len(t)) for n, t in ds.tensors.items()}
    history = ds.history()
    difference = ds.diff(f"{history[-1].branch[:12]}-0").as_dict()
    tags = {n: ds.get_tag(n) for n in ds.tags}
    return (
        len(ds), samples, definitions, dict(ds.info), ds[:].row_ids.tolist(), history, difference, ds.branches, tags,
        ds._log.claim.dataset,
    )  # fmt: skip


def _read(store: Store, address: str) -> Any:
    log = Log.open(store)
    branch, version = log.resolve(address)
    return _everything(Dataset(log, store.url, branch, version))


def _chosen(built: Built, key: str, rng: random.Random) -> list[str]:
    """Two addresses that need an object: the one it belongs to, where there is such, and any."""
    name = unquote(key.rsplit("/", 1)[-1].removesuffix(".json"))
    own = f"{key.split('/')[1][:12]}-{int(name)}" if key.startswith("log/") and name.isdigit() else name
    readers = built.readers[key]
    return list(dict.fromkeys([own if own in readers else rng.choice(readers), rng.choice(readers)]))


def _outcome(built: Built, store: Store, addresses: list[str]) -> str | None:
    """What is wrong with how the place reads now: ``None`` when each address reads right or fails as it should."""
    for address in addresses:
        try:
            got = _read(store, address)
        except LakeError:
            continue
        except Exception as e:
            return f"{address}: {type(e).__name__}: {e!s:.120}"
        if got != built.right[address]:
            parts = [i for i, (g, r) in enumerate(zip(got, built.right[address], strict=True)) if g != r]
            return f"{address}: reads wrong, in parts {parts}"
    return None


def _flips(built: Built, kind: str, count: int) -> Iterator[tuple[str, bytes, str]]:
    """Random bits of the objects of a kind, each object as often as any other."""
    rng = random.Random(f"flips {kind}")
    for _ in range(count):
        key, first = rng.choice(built.kinds[kind])
        bad = bytearray(built.store.get(key))
        at, bit = rng.randrange(first, len(bad)), rng.randrange(8)
        bad[at] ^= 1 << bit
        yield key, bytes(bad), f"{key}: bit {bit} of byte {at} of {len(bad)}"


def _cuts(built: Built, kind: str, count: int | None) -> Iterator[tuple[str, bytes, str]]:
    """Objects of a kind cut short: at every byte of the largest where ``count`` is ``None``."""
    rng = random.Random(f"cuts {kind}")
    keys = built.kinds[kind]
    largest = max(keys, key=lambda k: len(built.store.get(k[0])) - k[1])
    every = [(largest, n) for n in range(largest[1], len(built.store.get(largest[0])))]
    ends = [(k, n) for k in keys for n in (0, 1, len(built.store.get(k[0])) - 1)]
    for (key, _), length in every + ends if count is None else ends[:3] + rng.sample(every, min(len(every), count - 3)):
        data = built.store.get(key)
        yield key, data[:length], f"{key}: cut to {length} of {len(data)} bytes"


def _check(built: Built, damages: Iterator[tuple[str, bytes, str]], place: Callable[[Store], Store]) -> None:
    store = copied(built.store)
    rng = random.Random(0)
    wrong = []
    tried = 0
    for key, bad, what in damages:
        tried += 1
        store.put(key, bad)
        outcome = _outcome(built, place(store), _chosen(built, key, rng))
        if outcome is not None:
            wrong.append(f"{what}: {outcome}")
        store.put(key, built.store.get(key))
    assert tried > 0
    assert not wrong, f"{len(wrong)} of {tried}:\n" + "\n".join(wrong[:10])


def _here(store: Store) -> Store:
    return store


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_gives_no_wrong_rows(built: Built, kind: str) -> None:
    _check(built, _flips(built, kind, FLIPS_A_KIND), _here)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_gives_no_wrong_rows(built: Built, kind: str) -> None:
    _check(built, _cuts(built, kind, CUTS_A_KIND), _here)


@pytest.mark.nightly
@pytest.mark.parametrize("place", [_here, Remote], ids=["local", "remote"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_flipped_bits_give_no_wrong_rows(built: Built, kind: str, place: Callable[[Store], Store]) -> None:
    _check(built, _flips(built, kind, FLIPS_A_KIND_NIGHTLY), place)


@pytest.mark.nightly
@pytest.mark.parametrize("place", [_here, Remote], ids=["local", "remote"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_at_any_byte_gives_no_wrong_rows(built: Built, kind: str, place: Callable[[Store], Store]) -> None:
    _check(built, _cuts(built, kind, None), place)


# -- pages ---------------------------------------------------------------------------------------------------------------


def _page_flips(built: Built, count: int) -> Iterator[tuple[str, bytes, str]]:
    rng = random.Random("pages")
    heavy = [x for kind in KINDS if kind.startswith("index of") for x in built.kinds[kind]]
    for _ in range(count):
        key, end = rng.choice(heavy)
        bad = bytearray(built.store.get(key))
        at, bit = rng.randrange(end), rng.randrange(8)
        bad[at] ^= 1 << bit
        yield key, bytes(bad), f"{key}: bit {bit} of byte {at} of {len(bad)}"


def _check_verify(built: Built, count: int) -> None:
    store = copied(built.store)
    needs = {b: {f.key for x in Tree(v.state, Log.open(store).leaves) for f in x.every_file()} for b, v in _heads(store).items()}
    for key, bad, what in _page_flips(built, count):
        branch = next(b for b, keys in needs.items() if key in keys)
        store.put(key, bad)
        with pytest.raises(Corrupt, match=key):
            pytest.fail(f"{what}: {opened(store, branch=branch).verify()} bytes were found right")
        store.put(key, built.store.get(key))
    for branch in needs:
        assert opened(store, branch=branch).verify() > 0


def _heads(store: Store) -> dict[str, Any]:
    log = Log.open(store)
    return {b.name: log.head(b.uuid) for b in log.refs.branches()}


def test_verify_finds_flipped_bits_in_pages(built: Built) -> None:
    _check_verify(built, FLIPS_A_KIND)


@pytest.mark.nightly
def test_verify_finds_two_thousand_flipped_bits_in_pages(built: Built) -> None:
    _check_verify(built, FLIPS_A_KIND_NIGHTLY)


# -- what was found ------------------------------------------------------------------------------------------------------


def _flipped(data: bytes, at: int, bit: int) -> bytes:
    bad = bytearray(data)
    bad[at] ^= 1 << bit
    return bytes(bad)


def test_a_tag_with_another_number_is_damage_and_no_other_version(built: Built) -> None:
    """One bit turns ``"v":9`` into ``"v":8``: an existing version that nobody named."""
    store = copied(built.store)
    data = store.get("refs/tags/first.json")
    store.put("refs/tags/first.json", _flipped(data, data.index(b'"v":9') + 4, 0))
    with pytest.raises(Corrupt, match="refs/tags/first"):
        _read(store, "first")


def test_a_ref_that_is_not_utf8_is_damage(built: Built) -> None:
    for key in ("refs/branches/main.json", "refs/tags/first.json"):
        store = copied(built.store)
        data = store.get(key)
        store.put(key, _flipped(data, data.index(b'"name":"') + 9, 7))
        with pytest.raises(Corrupt, match=key):
            _read(store, key.split("/")[-1].removesuffix(".json"))


def test_a_claim_of_another_dataset_is_damage(built: Built) -> None:
    """A handle that believed it would write version objects that say they are of a dataset that never was."""
    store = copied(built.store)
    data = store.get(CLAIM_KEY)
    store.put(CLAIM_KEY, _flipped(data, data.index(b'"dataset":"') + 12, 0))
    with pytest.raises(Corrupt, match=CLAIM_KEY):
        _read(store, "main")


def test_no_bit_of_a_page_header_of_a_light_file_changes_what_is_read(built: Built) -> None:
    """Page checksums cover a page's body and no header: a count there must not shorten lists or columns unnoticed."""
    store = copied(built.store)
    files = {f.key: f for f in _files(store)}
    wrong = []
    for key in (built.kinds[kind][0][0] for kind in ("deletions", "row ids", "overlay", "light")):
        data = store.get(key)
        parquet = pq.ParquetFile(pa.BufferReader(data))
        names, chunks = parquet.schema_arrow.names, parquet.metadata.row_group(0)
        starts = [chunks.column(i).data_page_offset for i in range(chunks.num_columns)]
        for name, start in zip(names, starts, strict=True):  # a column has one chunk here
            right = FileReader(built.store).table(files[key], [name])
            for at, bit in itertools.product(range(start, start + _HEADER_NBYTES), range(8)):
                store.put(key, _flipped(data, at, bit))
                try:
                    got = FileReader(store).table(files[key], [name])
                except LakeError:
                    continue
                if not got.equals(right):
                    wrong.append(f"{name} of {key}, bit {bit} of byte {at}: {len(got)} rows of {len(right)}, {got.column(0)[-1:]}")
            store.put(key, data)
    assert not wrong, f"{len(wrong)} flips:\n" + "\n".join(wrong[:10])
