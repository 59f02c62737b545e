"""Version objects: what is encoded is decoded, people can read the head, and damage never goes unnoticed."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import xxhash
from faulty_stores import memory, opened
from hypothesis import given
from hypothesis import strategies as st

import lakefmt
from lakefmt.errors import Corrupt, NoSuchVersion, UnsupportedFormat
from lakefmt.fragment.meta import ColumnFile, Field, Fragment, Layout, Overlay, Slice
from lakefmt.htypes import TensorDef
from lakefmt.versioning.encode import decode_head, decode_version, encode_version
from lakefmt.versioning.log import CLAIM_KEY, Log
from lakefmt.versioning.records import FORMAT_VERSION, READER_FEATURES, Head, Operation, State, Touch

_NAMES = st.text("abcdefg_/", min_size=1, max_size=8)
_COUNTS = st.integers(0, 2**40)
_SHAPES = st.none() | st.lists(st.integers(0, 2**31), max_size=3).map(tuple)
_FIELDS = st.builds(
    Field, id=_COUNTS, column=_NAMES, layout=st.sampled_from(Layout), rows=_COUNTS, shape=_SHAPES, shape_column=st.none() | _NAMES,
    shape_min=_SHAPES, shape_max=_SHAPES, missing=_COUNTS, nbytes=_COUNTS,
)  # fmt: skip
_FILES = st.builds(
    ColumnFile, key=_NAMES, size=_COUNTS, xxh64=_NAMES, index_start=_COUNTS, index_xxh64=_NAMES,
    fields=st.lists(_FIELDS, max_size=2).map(tuple),
)  # fmt: skip
_SLICES = st.builds(Slice, file=_FILES, start=_COUNTS, count=_COUNTS)
_OVERLAYS = st.builds(Overlay, field_id=_COUNTS, at=_SLICES, files=st.lists(_FILES, max_size=2).map(tuple))
_FRAGMENTS = st.builds(
    Fragment, id=_NAMES, rows=_COUNTS, first_id=_COUNTS, files=st.lists(_FILES, max_size=2).map(tuple),
    deleted=st.none() | _SLICES, overlays=st.lists(_OVERLAYS, max_size=2).map(tuple),
)  # fmt: skip
_ATOMS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
_JSON = st.recursive(_ATOMS, lambda inner: st.lists(inner, max_size=3))
_INFOS = st.dictionaries(_NAMES, _JSON, max_size=2)
_TENSORS = st.builds(
    TensorDef, id=_COUNTS, name=_NAMES, htype=st.sampled_from(["generic", "class_label"]), dtype=st.sampled_from([None, "int32"]),
    shape=st.none() | st.lists(st.none() | st.integers(0, 99), max_size=3).map(tuple), info=_INFOS,
    class_names=st.none() | st.lists(st.text(max_size=5), max_size=3).map(tuple), open_labels=st.booleans(),
)  # fmt: skip
_STATES = st.builds(
    State, tensors=st.lists(_TENSORS, max_size=2).map(tuple), fragments=st.lists(_FRAGMENTS, max_size=3).map(tuple),
    info=st.dictionaries(_NAMES, _JSON, max_size=3), next_row=_COUNTS, id_space=_COUNTS, floor=_COUNTS,
)  # fmt: skip
_TOUCHES = st.builds(
    Touch, operation=st.sampled_from(Operation), fragments=st.lists(_NAMES, max_size=2).map(tuple),
    tensors=st.lists(_COUNTS, max_size=2).map(tuple), names=st.lists(_NAMES, max_size=2).map(tuple), rows=_COUNTS,
)  # fmt: skip
_HEADS = st.builds(
    Head, format_version=st.just(FORMAT_VERSION), dataset=_NAMES, branch=_NAMES, v=_COUNTS, transaction=_NAMES, read_v=_COUNTS,
    previous=_NAMES, ts_ms=_COUNTS, author=st.text(max_size=9), message=st.none() | st.text(max_size=30), named=st.booleans(),
    touched=st.lists(_TOUCHES, max_size=2).map(tuple), rows=_COUNTS, tokens=st.lists(_NAMES, max_size=2).map(tuple),
    readers=st.sets(st.sampled_from(sorted(READER_FEATURES))).map(tuple), parent=st.none() | _NAMES, parent_v=st.none() | _COUNTS,
)  # fmt: skip


@given(_HEADS, _STATES)
def test_roundtrip(head: Head, state: State) -> None:
    data, version = encode_version(head, state)
    again = decode_version(data, "v")
    assert again == version
    assert again.state == state
    assert msgspec.structs.replace(again.head, body_size=0, body_raw_size=0, body_xxh64="") == head
    assert again.xxh64 == xxhash.xxh64(data).hexdigest()
    only_head, body_at = decode_head(data, "v")
    assert only_head == again.head
    assert data[body_at - 1 : body_at] == b"\n"


@given(_HEADS, _STATES)
def test_the_head_is_one_line_of_json(head: Head, state: State) -> None:
    data, _ = encode_version(head, state)
    line = json.loads(data.split(b"\n", 1)[0])
    assert line["v"] == head.v
    assert line["author"] == head.author
    assert line.get("message") == head.message


@given(_HEADS, _STATES)
def test_equal_versions_are_equal_bytes(head: Head, state: State) -> None:
    assert encode_version(head, state)[0] == encode_version(head, state)[0]


def _log_files(root: Path) -> list[Path]:
    return sorted((root / "log").glob("*/*.json"))


def test_heads_are_readable_in_a_terminal(tmp_path: Path) -> None:
    with lakefmt.dataset(tmp_path / "set") as ds:
        ds.create_tensor("x", dtype="int64")
        ds.append({"x": 1})
        ds.commit("first rows\nwith a second line")
    newest = _log_files(tmp_path / "set")[-1]
    head = json.loads(subprocess.run(["head", "-1", str(newest)], capture_output=True, check=True).stdout)
    assert head["message"] == "first rows\nwith a second line"
    assert head["rows"] == 1
    assert head["format_version"] == FORMAT_VERSION
    assert [t["operation"] for t in head["touched"]] == ["append"]
    assert {"dataset", "branch", "transaction", "previous", "ts_ms", "author", "body_xxh64", "check"} <= set(head)


def test_versions_are_chained_and_their_times_grow() -> None:
    store = memory()
    Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    for i in range(5):
        ds.append({"x": i})
        ds.flush()
    keys = sorted(e.key for e in store.list("log/") if e.key.endswith(".json"))
    versions = [decode_version(store.get(k), k) for k in keys]
    assert [v.head.v for v in versions] == list(range(7))
    for key, (before, after) in zip(keys, itertools.pairwise(versions), strict=False):
        assert after.head.previous == before.xxh64 == xxhash.xxh64(store.get(key)).hexdigest()
        assert after.head.ts_ms > before.head.ts_ms
        assert after.head.read_v == before.head.v
    assert len({v.head.transaction for v in versions}) == 7


# -- damage --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def object_bytes() -> bytes:
    """A real version object."""
    store = memory()
    log = Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("label", htype="class_label", class_names=["cat", "dog"])
    ds.extend({"x": [1, 2], "label": ["cat", "dog"]})
    ds.commit("two")
    return store.get(f"log/{log.claim.dataset}/{3:020}.json")


def test_truncated(object_bytes: bytes) -> None:
    lengths = {*range(4), *random.Random(1).sample(range(len(object_bytes)), 150), len(object_bytes) - 1, object_bytes.index(b"\n")}
    for length in sorted(lengths):
        with pytest.raises(Corrupt, match="somewhere"):
            decode_version(object_bytes[:length], "somewhere")


def _flipped(data: bytes, bit: int) -> bytes:
    bad = bytearray(data)
    bad[bit // 8] ^= 1 << bit % 8
    return bytes(bad)


def test_single_bits(object_bytes: bytes) -> None:
    for bit in sorted(random.Random(2).sample(range(len(object_bytes) * 8), 400)):
        with pytest.raises(Corrupt, match="somewhere"):
            decode_version(_flipped(object_bytes, bit), "somewhere")


@pytest.mark.nightly
def test_every_single_bit(object_bytes: bytes) -> None:
    for bit in range(len(object_bytes) * 8):
        with pytest.raises(Corrupt, match="somewhere"):
            decode_version(_flipped(object_bytes, bit), "somewhere")


def test_longer(object_bytes: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_version(object_bytes + b"x", "v")


@given(st.binary(max_size=200))
def test_anything(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_version(data, "v")
    with pytest.raises(Corrupt):
        decode_version(data + b"\n" + data, "v")


def _checked(line: dict[str, Any], body: bytes = b"") -> bytes:
    """A head that says what it likes under a right checksum."""
    opening = json.dumps(line).encode()[:-1]
    return opening + b',"check":"' + xxhash.xxh64(opening).hexdigest().encode() + b'"}\n' + body


def _head(**changes: Any) -> dict[str, Any]:
    body = pa.compress(b"{}", codec="zstd", asbytes=True)
    line = {
        "format_version": FORMAT_VERSION, "dataset": "d", "branch": "b", "v": 0, "transaction": "t", "read_v": -1, "previous": "",
        "ts_ms": 0, "author": "", "body_size": len(body), "body_raw_size": 2, "body_xxh64": xxhash.xxh64(body).hexdigest(),
    }  # fmt: skip
    return {k: v for k, v in {**line, **changes}.items() if v is not ...}


def test_a_minimal_object_of_another_writer() -> None:
    body = pa.compress(b"{}", codec="zstd", asbytes=True)
    assert decode_version(_checked(_head(), body), "v").state == State()
    assert decode_version(_checked(_head(later_addition=[1, 2]), body), "v").state == State()


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": ...}, {"format_version": "0"}, {"format_version": None}, {"v": ...}, {"v": "0"}, {"readers": 5},
        {"readers": "deletions"}, {"readers": [["x"]]}, {"readers": [1, "x"]}, {"touched": {}},
        {"body_raw_size": 1}, {"body_raw_size": -1}, {"body_raw_size": 1 << 60}, {"body_size": 0}, {"body_xxh64": "00"},
        {"ts_ms": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_things_under_a_right_checksum(changes: dict[str, Any]) -> None:
    body = pa.compress(b"{}", codec="zstd", asbytes=True)
    with pytest.raises((Corrupt, UnsupportedFormat)):
        decode_version(_checked(_head(**changes), body), "v")


# -- newer writers -------------------------------------------------------------------------------------------------------


def test_a_newer_format_is_refused() -> None:
    body = pa.compress(b"{}", codec="zstd", asbytes=True)
    for version in (FORMAT_VERSION + 1, 99):
        with pytest.raises(UnsupportedFormat, match=rf"format version {version}.*upgrade"):
            decode_version(_checked(_head(format_version=version), body), "v")


def test_an_unknown_reader_feature_is_refused_by_name() -> None:
    body = pa.compress(b"{}", codec="zstd", asbytes=True)
    with pytest.raises(UnsupportedFormat, match=r"time-machine.*upgrade"):
        decode_version(_checked(_head(readers=["deletions", "time-machine"]), body), "v")


def _with_new_head(**changes: Any) -> Any:
    """A dataset whose newest version a later lakefmt has written."""
    store = memory()
    log = Log.create(store)
    ds = opened(store)
    ds.create_tensor("x", dtype="int64")
    ds.append({"x": 1})
    ds.flush()
    newest = log.head(log.claim.dataset)
    head = msgspec.structs.replace(newest.head, v=newest.head.v + 1, transaction="later", previous=newest.xxh64, **changes)
    data, _ = encode_version(head, newest.state, newest.inline)
    store.put(f"log/{head.branch}/{head.v:020}.json", data)
    return store


def test_opening_a_dataset_with_an_unknown_reader_feature() -> None:
    with pytest.raises(UnsupportedFormat, match="time-machine"):
        opened(_with_new_head(readers=("time-machine",)))


def test_a_dataset_with_an_unknown_writer_feature_is_readable_but_not_writable() -> None:
    store = _with_new_head(writers=("row-ids", "signatures"))
    ds = opened(store)
    assert ds.x.numpy().tolist() == [1]
    before = [e.key for e in store.list("log/")]
    with pytest.raises(UnsupportedFormat, match=r"signatures.*upgrade"):
        ds.create_tensor("y", dtype="int64")
    assert [e.key for e in store.list("log/")] == before


# -- the claim -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim",
    [
        b"", b"{", b"[]", b"5", b"\xff", b"{}", b'{"format":"other","format_version":0}',
        b'{"format":"lakefmt","format_version":"0"}',
    ],
)  # fmt: skip
def test_a_damaged_claim(claim: bytes) -> None:
    store = memory()
    store.put(CLAIM_KEY, claim)
    with pytest.raises(Corrupt, match=CLAIM_KEY):
        Log.open(store)


def test_a_claim_of_a_newer_format() -> None:
    store = memory()
    Log.create(store)
    store.put(CLAIM_KEY, store.get(CLAIM_KEY).replace(b'"format_version":0', b'"format_version":7'))
    with pytest.raises(UnsupportedFormat, match=r"version 7.*upgrade"):
        Log.open(store)


def test_an_object_at_the_wrong_number() -> None:
    store = memory()
    log = Log.create(store)
    first = f"log/{log.claim.dataset}/{0:020}.json"
    store.put(first.replace("0.json", "1.json"), store.get(first))
    with pytest.raises(Corrupt, match="says it is version"):
        log.read(log.claim.dataset, 1)
    with pytest.raises(NoSuchVersion):
        log.read(log.claim.dataset, 2)
