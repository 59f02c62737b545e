"""Whatever is written in any layout comes back the same, to us and to any Parquet reader."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from fragment_tools import (
    NUMERIC,
    RemoteMemory,
    agrees,
    all_same,
    by_duckdb,
    by_pyarrow,
    plain,
    read,
    same,
    tensor,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from lakefmt.fragment.meta import Layout
from lakefmt.fragment.read import FileReader
from lakefmt.storage import LocalStore

_SHAPES = st.one_of(
    st.sampled_from([(), (1,), (3,), (2, 3), (0,), (0, 4), (129,), (7, 30)]),
    npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
)


@st.composite
def _arrays(draw: Any, *, ragged: bool) -> tuple[str, list[Any]]:
    dtype = draw(st.sampled_from(NUMERIC))
    rows = draw(st.integers(1, 8))
    if ragged:
        one = st.one_of(st.none(), _SHAPES.flatmap(lambda s: npst.arrays(dtype, s)))
        return dtype, draw(st.lists(one, min_size=rows, max_size=rows))
    shape = draw(_SHAPES)
    return dtype, [np.asarray(a) for a in draw(npst.arrays(dtype, (rows, *shape)))]


def _everywhere(dtype: str | None, samples: list[Any], definition: Any) -> None:
    written = write(definition, samples)
    rows = [*range(len(samples)), *reversed(range(len(samples))), 0]
    for store in (written.store, RemoteMemory(written.store.name)):  # type: ignore[attr-defined]
        assert all_same(read(written, rows, store=store), [samples[r] for r in rows], dtype)
    file, entry = written.entry
    data = written.store.get(file.key)
    assert agrees(written, by_pyarrow(data, entry.column))
    assert agrees(written, by_duckdb(data, entry.column))


@settings(deadline=None, max_examples=80)
@given(_arrays(ragged=False))
def test_fixed_shapes(case: tuple[str, list[Any]]) -> None:
    dtype, samples = case
    _everywhere(dtype, samples, tensor(dtype=dtype))


@settings(deadline=None, max_examples=80)
@given(_arrays(ragged=True))
def test_ragged_and_missing(case: tuple[str, list[Any]]) -> None:
    dtype, samples = case
    _everywhere(dtype, samples, tensor(dtype=dtype))


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_LONG = st.builds(lambda t, n: t * n, _TEXT, st.integers(1, 400))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.none(), _TEXT, _LONG), min_size=1, max_size=12))
def test_text(samples: list[str | None]) -> None:
    _everywhere(None, samples, tensor("text"))


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), _TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_TEXT, inner, max_size=4)),
    max_leaves=12,
)


@settings(deadline=None, max_examples=40)
@given(st.lists(_JSON, min_size=1, max_size=6))
def test_json(samples: list[Any]) -> None:
    import json

    written = write(tensor("json"), samples)
    for text, sample in zip(read(written), samples, strict=True):
        assert (text is None and sample is None) or json.loads(text) == sample


# -- one test a layout ---------------------------------------------------------------------------------------------------


def _layouts(jpeg: bytes) -> dict[str, tuple[Layout, Any, list[Any]]]:
    rng = np.random.default_rng(1)
    big = [rng.integers(0, 255, (60, 40 + i), np.uint8) for i in range(9)]
    return {
        "scalars": (Layout.SCALAR, tensor(dtype="int32"), list(np.arange(9, dtype=np.int32))),
        "scalars missing": (Layout.SCALAR, tensor(dtype="float32"), [np.float32(1.5), None, np.float32(np.nan)]),
        "short lists": (Layout.LISTS, tensor(dtype="float32"), list(rng.random((9, 4), np.float32))),
        "ragged lists": (Layout.LISTS, tensor(dtype="uint16"), [np.arange(i, dtype=np.uint16) for i in range(9)]),
        "text": (Layout.TEXT, tensor("text"), ["a", None, "ü 図", ""]),
        "documents": (Layout.DOCUMENTS, tensor("text"), ["long " * 900, None, "other " * 30_000, ""]),
        "flat floats": (Layout.FLAT, tensor(dtype="float32"), list(rng.random((9, 50), np.float32))),
        "flat bytes": (Layout.FLAT, tensor(dtype="uint8"), list(rng.integers(0, 255, (9, 20, 20), np.uint8))),
        "flat halves": (Layout.FLAT, tensor(dtype="float16"), list(rng.random((9, 100)).astype(np.float16))),
        "blobs": (Layout.BLOBS, tensor(dtype="uint8"), [*big, None]),
        "large blobs": (Layout.BLOBS, tensor(dtype="uint8"), [np.full((300, 300 + i), i, np.uint8) for i in range(4)]),
        "jpegs": (Layout.BLOBS, tensor("image", compression="jpeg"), [jpeg, None, jpeg]),
    }


_NAMES = (
    "scalars", "scalars missing", "short lists", "ragged lists", "text", "documents", "flat floats", "flat bytes", "flat halves",
    "blobs", "large blobs", "jpegs",
)  # fmt: skip


@pytest.mark.parametrize("name", _NAMES)
def test_layout_is_chosen_and_is_standard_parquet(name: str, jpeg_bytes: bytes, tmp_path: Any) -> None:
    layout, definition, samples = _layouts(jpeg_bytes)[name]
    written = write(definition, samples, store=LocalStore(str(tmp_path)))
    assert written.layout is layout
    file, entry = written.entry
    data = written.store.get(file.key)
    assert agrees(written, by_pyarrow(data, entry.column))
    assert agrees(written, by_duckdb(data, entry.column))
    dtype = definition.dtype if definition.kind == "numeric" else None
    assert all_same(read(written), samples, dtype)


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("remote", [False, True])
def test_any_rows_in_any_order(name: str, remote: bool, jpeg_bytes: bytes) -> None:
    _, definition, samples = _layouts(jpeg_bytes)[name]
    written = write(definition, samples)
    store = RemoteMemory(written.store.name) if remote else written.store  # type: ignore[attr-defined]
    reader = FileReader(store)
    dtype = definition.dtype if definition.kind == "numeric" else None
    n = len(samples)
    for rows in ([n - 1], [0, 0, n - 1, 1], list(range(n))[::-1], [1], []):
        got = plain(reader.cells(definition, written.files, np.asarray(rows, np.int64)))
        assert all_same(got, [samples[r] for r in rows], dtype), rows


@pytest.mark.parametrize("name", ["ragged lists", "blobs", "large blobs", "jpegs", "flat bytes", "scalars missing"])
def test_shapes_without_samples(name: str, jpeg_bytes: bytes) -> None:
    _, definition, samples = _layouts(jpeg_bytes)[name]
    written = write(definition, samples)
    _, entry = written.entry
    got = FileReader(written.store).shapes(written.files, entry, np.arange(len(samples)))
    if definition.compression:
        assert got == [None if s is None else (24, 32, 3) for s in samples]
    else:
        assert got == [None if s is None else np.shape(s) for s in samples]


def test_jpeg_bytes_are_verbatim(jpeg_bytes: bytes) -> None:
    odd = jpeg_bytes + b"trailing bytes some cameras write"
    written = write(tensor("image", compression="jpeg"), [jpeg_bytes, odd])
    assert read(written) == [jpeg_bytes, odd]
    file, entry = written.entry
    assert by_pyarrow(written.store.get(file.key), entry.column) == [jpeg_bytes, odd]


def test_png_bytes_are_verbatim(png_bytes: bytes) -> None:
    written = write(tensor("image", compression="png"), [png_bytes])
    assert read(written) == [png_bytes]


def test_real_jpegs_are_verbatim(real_data: Any) -> None:
    files = sorted((real_data / "imagenet").glob("*.JPEG"))[:24]
    samples = [f.read_bytes() for f in files]
    written = write(tensor("image", compression="jpeg"), samples)
    assert read(written) == samples
    file, entry = written.entry
    assert by_duckdb(written.store.get(file.key), entry.column) == samples


def test_a_large_remote_light_file_is_read_by_column(monkeypatch: pytest.MonkeyPatch) -> None:
    # above a size, only the column chunks asked for are fetched, into a sparse mapping
    for module in ("read", "write"):
        monkeypatch.setattr(f"lakefmt.fragment.{module}.WHOLE_NBYTES_MAX", 1000)
    values = np.random.default_rng(0).integers(0, 1 << 60, 5000)
    written = write(tensor(dtype="int64"), values)
    store = RemoteMemory(written.store.name)  # type: ignore[attr-defined]
    assert written.files[0].size > 1000
    assert [name for name, _ in written.files[0].columns_xxh64] == [written.entry[1].column]
    assert same(np.array(read(written, store=store)), values)
    # one written without checksums of its columns is fetched whole
    older = replace(written, files=tuple(structs.replace(f, columns_xxh64=()) for f in written.files))
    assert same(np.array(read(older, store=store)), values)
