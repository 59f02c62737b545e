"""``lakefmt bench``: what a machine, its storage and a transform allow, and where a loader's time goes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lakefmt
from lakefmt.errors import InvalidInput
from lakefmt.loaders.benching import bench_path

TRANSFORM = """
def flip(row):
    return {**row, "image": row["image"][::-1]}

nothing = 5
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    ds = lakefmt.empty(str(tmp_path / "ds"))
    ds.create_tensor("image", htype="image", sample_compression="jpeg")
    ds.create_tensor("label", htype="class_label")
    rng = np.random.default_rng(0)
    ds.extend({"image": list(rng.integers(0, 255, (40, 30, 30, 3), dtype=np.uint8)), "label": np.arange(40) % 3})
    ds.commit("images")
    (tmp_path / "bench_transforms.py").write_text(TRANSFORM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return str(tmp_path / "ds")


def lines(report: Any) -> dict[str, Any]:
    return {line.what: line for line in report.lines}


def test_each_part_is_measured(path: str) -> None:
    report = bench_path(path, batch_size=8, transform="bench_transforms:flip", seconds=0.1)
    found = lines(report)
    assert list(found) == [
        "memory, copied",
        "storage, in the loader's order",
        "decoding, from memory",
        "decoding and transform, from memory",
        "the loader",
    ]
    assert all(line.rows_per_s > 0 for what, line in found.items() if what != "memory, copied")
    assert found["storage, in the loader's order"].nbytes_per_s > 0
    assert report.stats["rows"] >= 40
    text = str(report)
    assert "busy threads: " in text
    assert report.verdict.startswith("bound by ")
    assert report.verdict in text


def test_only_what_there_is(path: str) -> None:
    report = bench_path(path, tensors=["label"], shuffle=False, seconds=0.1)
    assert list(lines(report)) == ["memory, copied", "storage, in the loader's order", "the loader"]
    view = lakefmt.load(path).query("label == 1")
    saved = view.save_view("ones")
    assert bench_path(f"{path}/.queries/{saved}", seconds=0.1).stats["rows"] % len(view) in range(len(view))


@pytest.mark.parametrize(
    "name", ["bench_transforms", ":flip", "nowhere_at_all:f", "bench_transforms:flop", "bench_transforms:nothing"]
)
def test_transforms_that_are_not_there(path: str, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"--transform '{name}'"):
        bench_path(path, transform=name, seconds=0.1)


def test_an_empty_dataset(tmp_path: Path) -> None:
    ds = lakefmt.empty(str(tmp_path / "none"))
    ds.create_tensor("x", dtype="float32")
    ds.commit("nothing yet")
    with pytest.raises(InvalidInput, match="no rows"):
        bench_path(str(tmp_path / "none"), seconds=0.1)


def test_the_command(path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from lakefmt.cli import main

    monkeypatch.setattr(sys, "argv", ["lakefmt", "bench", path, "--batch", "8", "--tensor", "label", "--seconds", "0.1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "rows/s" in capsys.readouterr().out
