"""Datasets written by earlier format versions are read for ever, to the byte."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import lakefmt

SPEC = Path(__file__).parents[2] / "spec"
FORMATS = sorted(p for p in (SPEC / "vectors").iterdir() if p.is_dir())


def _expected_of(ds: Any) -> Any:
    spec = importlib.util.spec_from_file_location("make_vectors", SPEC / "make_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.expected_of(ds)


@pytest.fixture(params=FORMATS, ids=lambda p: p.name)
def vector(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of the vectors, and what is expected of them."""
    shutil.copytree(request.param / "dataset", tmp_path / "dataset")
    return tmp_path / "dataset", json.loads((request.param / "expected.json").read_text())


def test_every_version_reads_as_written(vector: tuple[Path, dict[str, Any]]) -> None:
    path, expected = vector
    assert len(expected) == 2
    for version, tensors in expected.items():
        assert _expected_of(lakefmt.dataset(f"{path}@{version}")) == tensors


def test_branches_and_saved_view_open(vector: tuple[Path, dict[str, Any]]) -> None:
    path, _ = vector
    assert lakefmt.dataset(path).branches == ["changed", "main"]
    view = lakefmt.dataset(f"{path}/.queries/big")
    assert view.twice.numpy().tolist() == [10, 12, 16]
    assert view.text[0].text() == "text 8 \N{SNOWMAN}"


def test_an_old_dataset_can_be_written_to(vector: tuple[Path, dict[str, Any]]) -> None:
    path, expected = vector
    ds = lakefmt.dataset(path)
    before = len(ds)
    ds.append({"label": "cat"}, append_empty=True)
    ds.commit("one more")
    again = lakefmt.dataset(path)
    assert len(again) == before + 1
    assert again.label[-1].data()["text"] == "cat"
    (on_main,) = (tensors for version, tensors in expected.items() if version.startswith(again.version_id[:12]))
    assert _expected_of(again[:before]) == on_main
