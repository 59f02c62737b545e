"""Fragments that look different, because of the shapes their samples happen to have, are one relation to a query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lakefmt

SAMPLES: dict[str, list[list[Any]]] = {
    "lengths differ between fragments": [[[1, 2], [3, 4]], [[1, 2, 3]], [[5]]],
    "lengths differ within a fragment": [[[1], [1, 2]], [[1, 2]]],
    "empty ones": [[[], []], [[1, 2], [3, 4]]],
    "missing ones": [[None, [1, 2]], [[1, 2], [3, 4]], [None]],
    "scalars and arrays": [[1, 2], [[1, 2], [3, 4]]],
    "numbers of dimensions differ": [[[[1, 2], [3, 4]]], [[1, 2, 3, 4]]],
    "rows of a matrix differ": [[[[1, 2]]], [[[1, 2], [3, 4]]]],
    "one shape": [[[1, 2], [3, 4]], [[1, 5]]],
}


@pytest.fixture(params=["memory", "disk"])
def url(request: pytest.FixtureRequest, tmp_path: Path, mem_url: str) -> str:
    return mem_url if request.param == "memory" else str(tmp_path / "set")


@pytest.mark.parametrize("edited", [False, True], ids=["as written", "edited"])
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("name", SAMPLES)
def test_parts_go_together(url: str, name: str, dtype: str, edited: bool) -> None:
    ds = lakefmt.dataset(url)
    ds.create_tensor("r", dtype=dtype)
    kept: list[Any] = []
    for part in SAMPLES[name]:
        ds.extend({"r": [part[0], *part] if edited else part})
        ds.commit()
        if edited:
            ds.pop(len(kept))
        kept += part
    present = [s is not None for s in kept]
    assert ds.query("r is not null").sample_indices.tolist() == np.flatnonzero(present).tolist()
    held = [s is not None and 1 in np.ravel(s) for s in kept]
    assert ds.query("any(r = 1)").sample_indices.tolist() == np.flatnonzero(held).tolist()
    assert ds[::-1].query("any(r = 1)").sample_indices.tolist() == np.flatnonzero(held)[::-1].tolist()


def test_rows_that_went_leave_their_shapes_behind(mem_url: str) -> None:
    """The fragment that lost its first row still has lists of two lengths; the new one has arrays of one."""
    ds = lakefmt.dataset(mem_url)
    ds.create_tensor("r", dtype="uint8")
    ds.extend({"r": [[1], [1, 2], [1, 2, 3]]})
    ds.commit()
    ds.pop(0)
    ds.append({"r": [1, 2]})
    ds.commit()
    assert len(ds.query("r is not null")) == 3
    assert ds.query("r[-1] = 2").sample_indices.tolist() == [0, 2]
    assert ds.query("select sum(r) as s")["s"].numpy().tolist() == [3, 6, 3]
