"""How datasets and views print."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lakefmt
from lakefmt.errors import counted


@pytest.fixture
def ds(mem_url: str) -> Any:
    made = lakefmt.dataset(mem_url)
    made.create_tensor("image", htype="image", sample_compression="png")
    made.create_tensor("mixed", dtype="int64")
    made.create_tensor("x", dtype="int64")
    made.create_tensor("s", htype="text")
    made.create_tensor("r", dtype="float32")
    made.extend({
        "image": [np.zeros((24, 32), np.uint8), np.zeros((24, 32, 3), np.uint8)], "mixed": [[1, 2], [[1], [2]]], "x": [1, 2],
        "s": ["a", "b"], "r": [np.zeros(2, "f4"), np.zeros(3, "f4")],
    })  # fmt: skip
    made.commit()
    return made


def _shown(rowset: Any) -> dict[str, str]:
    return {line.split()[0]: line for line in repr(rowset).splitlines()[3:]}


def test_shapes_of_different_ranks_vary(ds: Any) -> None:
    shown = _shown(ds)
    assert "(2, varies)" in shown["image"]
    assert "(2, varies)" in shown["mixed"]
    assert "(2,)" in shown["x"]
    assert "(2,)" in shown["s"]
    assert "(2, …)" in shown["r"]
    assert "(2, varies)" in _shown(ds.query("x > 0"))["image"]
    assert "(24, 32)" in _shown(ds[0])["image"]
    assert "(2, varies)" in ds._repr_html_()


def test_a_handle_says_whether_it_can_write(ds: Any) -> None:
    assert repr(ds).splitlines()[0].endswith("2 rows, branch 'main')")
    for rowset in (lakefmt.load(ds.path, read_only=True), lakefmt.dataset(ds.path, read_only=True)):
        assert repr(rowset).splitlines()[0].endswith("2 rows, branch 'main', read-only)")
        assert "read-only" in rowset._repr_html_()
    old = lakefmt.load(f"{ds.path}@{ds.version_id}")
    assert repr(old).splitlines()[0].endswith(f"version {ds.version_id}, read-only)")


def test_counts_are_in_the_singular_for_one(ds: Any) -> None:
    assert [counted(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
    assert [counted(n, "batch", "batches") for n in (1, 2)] == ["1 batch", "2 batches"]
    assert repr(ds[0]).startswith("View(1 row,")


def test_an_entry_of_the_log(ds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ds.append({"image": np.zeros((4, 4), np.uint8), "mixed": [1], "x": 3, "s": "c", "r": [1.0]})
    ds.commit("one more")
    ds.log()
    assert "append 1 row)" in capsys.readouterr().out
