"""``lakefmt demo`` does its whole job on the shipped images, and says what it did."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import lakefmt
from lakefmt.demo import find_jpegs, label_of, run_demo
from lakefmt.errors import AlreadyExists, NotFound


def test_demo_runs_end_to_end(tmp_path: Path) -> None:
    lines: list[str] = []
    ds = run_demo(None, tmp_path / "out", lines.append)
    text = "\n".join(lines)
    assert len(ds) == 48
    assert ds.branches == ["main", "relabel"]
    assert "48 rows, 4 classes" in text
    assert "label           0          5          0" in text
    assert len(lakefmt.dataset(f"{tmp_path}/out/.queries/demo")) > 0


def test_demo_keeps_bytes_verbatim(tmp_path: Path) -> None:
    folder = tmp_path / "cats"
    folder.mkdir()
    Image.new("RGB", (40, 320), "red").save(folder / "cat_1.jpg")
    ds = run_demo(tmp_path, tmp_path / "out", lambda _: None)
    assert ds.image[0].tobytes() == (folder / "cat_1.jpg").read_bytes()
    assert ds.label.class_names == ["cats"]


@pytest.mark.parametrize(
    ("name", "label"), [("n01440764_tench.JPEG", "tench"), ("circle_03.jpg", "circle"), ("n02_Irish_terrier.JPEG", "Irish_terrier")]
)
def test_labels_come_from_file_names(name: str, label: str) -> None:
    assert label_of(Path("top") / name, Path("top")) == label


def test_labels_come_from_folders() -> None:
    assert label_of(Path("top/dog/1.jpg"), Path("top")) == "dog"


def test_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"holds no \.jpg"):
        find_jpegs(tmp_path)
    with pytest.raises(NotFound, match="no folder"):
        find_jpegs(tmp_path / "nowhere")


def test_a_dataset_that_no_demo_made_stays(tmp_path: Path) -> None:
    mine = lakefmt.dataset(tmp_path / "mine")
    mine.create_tensor("x", dtype="int64")
    mine.extend({"x": [1, 2]})
    mine.commit("work of years")
    with pytest.raises(AlreadyExists, match=r"--out .*mine.* no demo made"):
        run_demo(None, tmp_path / "mine", lambda _: None)
    assert lakefmt.load(tmp_path / "mine").x.numpy().tolist() == [1, 2]
    mine.info.update(made_by="me", sources=["a", {}])
    with pytest.raises(AlreadyExists, match="no demo made"):
        run_demo(None, tmp_path / "mine", lambda _: None)


def test_a_demo_replaces_a_demo_and_shows_lines_where_no_terminal_is(tmp_path: Path) -> None:
    folder = tmp_path / "cats"
    folder.mkdir()
    Image.new("RGB", (40, 320), "red").save(folder / "cat_1.jpg")
    run_demo(folder, tmp_path / "out", lambda _: None)
    lines: list[str] = []
    assert len(run_demo(folder, tmp_path / "out", lines.append)) == 1
    assert "  ingest: 1 batch" in lines
    assert "  train: 1 batch" in lines


def test_command_line_names_a_bad_folder(tmp_path: Path) -> None:
    args = [sys.executable, "-m", "lakefmt.cli", "demo", "--images", str(tmp_path / "nowhere"), "--out", str(tmp_path / "o")]
    done = subprocess.run(args, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "nowhere" in done.stderr
