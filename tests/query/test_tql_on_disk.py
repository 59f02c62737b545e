"""The same conditions mean the same on stored datasets: in memory, on disk (where DuckDB reads the files itself), after edits."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tql_meaning import CONDITIONS
from tql_oracle import Json
from tql_table import CATALOG, ROWS, oracle, rows

import lakefmt


def _sample(value: Any) -> Any:
    return value.value if isinstance(value, Json) else value


def _stored(name: str) -> str:
    """A dataset has an attribute ``tags``, so that no tensor of it can be called so."""
    return "marks" if name == "tags" else name


def _columns(some: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {_stored(name): [_sample(row[name]) for row in some] for name in CATALOG}


def _filled(url: str, *, pieces: int, stale: bool) -> lakefmt.Dataset:
    """The table as a dataset of some fragments; ``stale``: with rows in between that are gone, and samples that are others now."""
    ds = lakefmt.dataset(url)
    for tensor in CATALOG.values():
        d = tensor.definition
        options: dict[str, Any] = {"dtype": d.dtype} if d.htype == "generic" else {}
        if d.class_names:
            options["class_names"] = d.class_names
        if d.htype == "image":
            options["sample_compression"] = "jpeg"
        ds.create_tensor(_stored(d.name), htype=d.htype, **options)
    cut = -(-ROWS // pieces)
    for start in range(0, ROWS, cut):
        ds.extend(_columns(rows()[start : start + cut]))
        if stale:
            ds.extend(_columns(rows()[:1]))
        ds.commit(f"from {start}")
    if stale:
        ds.pop([i for i in range(len(ds)) if i % (cut + 1) == cut or i == len(ds) - 1])
        for name in ("score", "n", "text", "boxes", "labels"):
            mine = _columns(rows())[name]
            ds[name][3:9] = mine[10:16]
            ds.flush()
            ds[name][3:9] = mine[3:9]
        ds.commit("as it is")
    assert len(ds) == ROWS
    return ds


@pytest.fixture(scope="module", params=["memory", "disk", "pieces", "edited"])
def ds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> lakefmt.Dataset:
    """The table, stored."""
    folder: Path = tmp_path_factory.mktemp("tql")
    url = f"mem://{uuid.uuid4().hex}" if request.param == "memory" else str(folder / request.param)
    return _filled(url, pieces=1 if request.param in ("memory", "disk") else 4, stale=request.param == "edited")


@pytest.mark.parametrize("condition", CONDITIONS)
def test_condition(ds: lakefmt.Dataset, condition: str) -> None:
    if "_id" in condition and len(ds[:].row_ids) != int(ds[:].row_ids[-1]) + 1:
        pytest.skip("rows have other ids where some have gone")
    wanted, _ = oracle().run(f"select * where {condition}")
    asked = re.sub(r"(?<!')\btags\b", _stored("tags"), condition)
    assert ds.query(f"select * where {asked}").sample_indices.tolist() == wanted


def test_nan_is_neither_greater_nor_less(tmp_path: Path) -> None:
    """Statistics of Parquet leave NaN out, and DuckDB takes them for the whole truth."""
    ds = lakefmt.dataset(str(tmp_path / "nan"))
    ds.create_tensor("x", dtype="float32")
    x = np.array([1, np.nan, 60, -3, np.nan, 50], np.float32)
    ds.extend({"x": x})
    ds.commit("with NaN")
    for text, wanted in {
        "x > 50": x > 50, "x <= 60": x <= 60, "not (x > 50)": ~(x > 50), "x != x": x != x, "isnan(x)": np.isnan(x),
        "x between 50 and 70": (x >= 50) & (x <= 70),
    }.items():  # fmt: skip
        assert ds.query(text).sample_indices.tolist() == np.flatnonzero(wanted).tolist(), text
    assert ds.update("x > 50", {"x": 0}) == 1
    assert ds.delete("x < 1") == 2
    assert np.array_equal(ds.x.numpy(), np.array([1, np.nan, np.nan, 50], np.float32), equal_nan=True)
