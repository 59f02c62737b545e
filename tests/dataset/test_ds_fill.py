"""Continuing a tensor that is shorter than the dataset: bounded in memory, atomic, and right over deletions and updates."""

from __future__ import annotations

import itertools
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lakefmt
from lakefmt import outgoing, writer
from lakefmt.errors import StoreError


@pytest.fixture
def small_buffer(monkeypatch: Any) -> int:
    """A writer that holds little."""
    monkeypatch.setattr(writer, "FRAGMENT_NBYTES", 1 << 20)
    return 1 << 20


def _stored(url: str, rows: int, fragments: int, column: str = "x") -> Any:
    ds = lakefmt.dataset(url)
    ds.create_tensor(column, dtype="int64")
    for part in np.array_split(np.arange(rows), fragments):
        ds[column].extend(part)
        ds.flush()
    return ds


@pytest.mark.parametrize("fragments", [1, 7])
def test_a_long_fill_is_written_in_pieces_and_committed_once(tmp_path: Path, small_buffer: int, fragments: int) -> None:
    rows = 2000
    ds = _stored(str(tmp_path / "ds"), rows, fragments)
    ds.create_tensor("big", dtype="uint8")
    before, versions = ds.version_id, len(ds.history())
    values = np.random.default_rng(0).integers(0, 256, (rows + 500, 4096), np.uint8)  # 10 MB through a buffer of 1
    tracemalloc.start()
    ds.big.extend(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(ds.history()) == versions + 1
    assert ds.version_id != before
    assert peak < 6 * small_buffer
    again = lakefmt.load(ds.path)
    assert len(again) == rows + 500
    assert np.array_equal(again.big.numpy(), values)
    assert again.x.numpy(aslist=True)[:rows] == list(range(rows))
    assert all(v is None for v in again.x[rows:].numpy(aslist=True))


def test_a_fill_behind_buffered_rows_fills_these_too(tmp_path: Path, small_buffer: int) -> None:
    ds = lakefmt.dataset(str(tmp_path / "ds"))
    ds.create_tensor("x", dtype="int64")
    ds.create_tensor("big", dtype="uint8")
    ds.x.extend(np.arange(100))  # buffered when the fill begins
    values = np.random.default_rng(0).integers(0, 256, (300, 8192), np.uint8)
    ds.big.extend(values)
    assert len(ds) == 300
    assert np.array_equal(ds.big.numpy(), values)
    assert ds.x[:100].numpy().tolist() == list(range(100))


def test_a_fill_that_the_store_refuses_leaves_nothing(mem_url: str, small_buffer: int, monkeypatch: Any) -> None:
    ds = _stored(mem_url, 1000, 3)
    ds.create_tensor("big", dtype="uint8")
    before = ds.version_id
    real, calls = outgoing.write_files, itertools.count(1)

    def refuse(*args: Any, **options: Any) -> Any:
        if next(calls) == 3:
            raise StoreError("no space left")
        return real(*args, **options)

    monkeypatch.setattr(outgoing, "write_files", refuse)
    with pytest.raises(StoreError, match="no space left"):
        ds.big.extend(np.ones((1000, 4096), np.uint8))
    assert next(calls) > 3
    fresh = lakefmt.load(ds.path)
    assert fresh.version_id == before
    assert len(fresh.big) == 0


@settings(max_examples=60)
@given(data=st.data())
def test_fills_agree_with_lists(data: Any) -> None:
    """Two tensors continued by turns, rows deleted and updated between: as two plain lists would have it."""
    ds = lakefmt.dataset(f"mem://fills/{uuid.uuid4().hex}")
    ds.create_tensor("a", dtype="int64")
    ds.create_tensor("b", dtype="int64")
    model: dict[str, list[int | None]] = {"a": [], "b": []}
    count = 0
    for _ in range(data.draw(st.integers(2, 12))):
        rows = max(len(model["a"]), len(model["b"]))
        match data.draw(st.sampled_from(["extend", "extend", "append", "update", "pop", "flush"])):
            case "extend" | "append" as how:
                name, n = data.draw(st.sampled_from("ab")), 1 if how == "append" else data.draw(st.integers(1, 9))
                ds[name].extend(np.arange(count, count + n))
                model[name] += range(count, count + n)
                count += n
            case "update" if rows:
                name = data.draw(st.sampled_from("ab"))
                if model[name]:
                    at = data.draw(st.lists(st.integers(0, len(model[name]) - 1), min_size=1, max_size=5))
                    ds[name][at] = np.arange(count, count + len(at))
                    for row in at:
                        model[name][row] = count
                        count += 1
            case "pop" if rows:
                row = data.draw(st.integers(0, rows - 1))
                ds.pop(row)
                for name in "ab":
                    del model[name][row : row + 1]
            case "flush":
                ds.flush()
        for handle in (ds, lakefmt.load(ds.path) if data.draw(st.booleans()) else ds):
            if handle is not ds:
                ds.flush()
                handle = lakefmt.load(ds.path)
            for name in "ab":
                assert handle[name].numpy(aslist=True)[: len(model[name])] == model[name]
                assert len(handle[name]) == len(model[name])


def test_an_assignment_over_the_end_of_a_tensor_finds_its_rows_after_others_have_popped_some(
    mem_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(writer, "FRAGMENT_NBYTES", 16)
    ds = lakefmt.dataset(mem_url)
    for name in ("x", "y"):
        ds.create_tensor(name, dtype="int64")
    ds.extend({"x": list(range(10))}, skip_ok=True)
    ds.y.extend([0] * 5)
    ds.commit()
    other = lakefmt.load(mem_url)
    other.pop(0)
    ds.y[3:7] = [3, 4, 5, 6]
    ds.commit()
    x, y = ([None if v is None else int(v) for v in ds[name].numpy(aslist=True)] for name in ("x", "y"))
    assert dict(zip(x, [*y, None, None, None], strict=True)) == {1: 0, 2: 0, 3: 3, 4: 4, 5: 5, 6: 6, 7: None, 8: None, 9: None}
