"""What a loader tells of itself: figures, what limits it, and a live line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader_fake import numbers

import lakefmt
from lakefmt.loaders import dataloader
from lakefmt.loaders.progress import told
from lakefmt.loaders.stats import Stats


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Any:
    ds = lakefmt.empty(str(tmp_path_factory.mktemp("stats") / "ds"))
    ds.create_tensor("image", htype="image", sample_compression="jpeg")
    ds.create_tensor("x", dtype="float32", shape=(100,))
    rng = np.random.default_rng(0)
    ds.extend({"image": list(rng.integers(0, 255, (64, 40, 40, 3), dtype=np.uint8)), "x": rng.random((64, 100), dtype=np.float32)})
    ds.commit("images")
    return ds


@pytest.mark.parametrize("workers", [0, 2])
def test_figures_of_an_epoch(images: Any, workers: int) -> None:
    loader = images.pytorch(batch_size=8, num_workers=workers)
    assert loader.stats()["bound_by"] is None
    list(loader)
    stats = loader.stats()
    assert (stats["rows"], stats["batches"]) == (64, 8)
    assert stats["fetch_s"] > 0
    assert stats["decode_s"] > 0
    assert stats["nbytes"] >= 64 * (40 * 40 * 3 + 400)
    assert stats["nbytes_used"] == 64 * 400 + sum(len(images.image[i].tobytes()) for i in range(64))
    assert 1.0 <= stats["read_per_used"] < 2.0  # bytes are addressed directly, and headers come along
    assert stats["bound_by"] in ("fetch", "decode", "assemble")
    assert (stats["queue_depth"] is None) == (workers > 0)


def test_a_slow_consumer_is_what_limits() -> None:
    stats = Stats()
    stats.started()
    stats._began = stats._began and stats._began - 10.0
    stats.spend("decode", 5.0)
    stats.handed_out(100, 1000, 0.1)
    assert stats.report()["bound_by"] == "consumer"
    stats.handed_out(100, 1000, 5.0)
    assert stats.report()["bound_by"] == "decode"
    assert "rows/s" in told(stats.report())
    assert "waiting for decode" in told(stats.report())


def test_a_line_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    loader = dataloader(numbers(40)).batch(4).numpy(progressbar=True)
    assert [b["label"].tolist()[0] for b in loader] == list(range(0, 40, 4))
    line = capsys.readouterr().err
    assert "10/10" in line
    assert "rows/s" in line
    iterator = iter(loader)
    next(iterator)
    del iterator  # an early end closes the line, too
    assert "1/10" in capsys.readouterr().err


def test_the_line_counts_what_is_left_after_resuming(capsys: pytest.CaptureFixture[str]) -> None:
    loader = dataloader(numbers(40)).batch(4).numpy(progressbar=True)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    resumed = dataloader(numbers(40)).batch(4).numpy(progressbar=True)
    resumed.load_state_dict(loader.state_dict())
    del iterator
    capsys.readouterr()
    assert len(list(resumed)) == 7
    assert "7/7" in capsys.readouterr().err


def test_nothing_is_drawn_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list(dataloader(numbers(40)).batch(4).numpy())
    assert capsys.readouterr() == ("", "")
