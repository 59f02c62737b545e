"""Samples of differing shapes, text, JSON and missing values: what a batch holds never depends on its
luck.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from loader_fake import FakeSource

from lakefmt.errors import InvalidInput
from lakefmt.htypes import define_tensor
from lakefmt.loaders import dataloader

BOXES = [np.arange(4 * k, dtype=np.float32).reshape(k, 4) for k in (2, 2, 0, 3)]
SPANS: list[Any] = [np.arange(3), None, np.arange(1), np.arange(2)]


def batches(face: str = "numpy", size: int = 2, **options: Any) -> list[Any]:
    source = FakeSource({"boxes": BOXES, "spans": SPANS})
    return list(getattr(dataloader(source).batch(size), face)(**options))


def test_list_is_the_default() -> None:
    first, second = batches()
    assert isinstance(first["boxes"], list)  # the first two have one shape, all the same
    assert [b.shape for b in first["boxes"] + second["boxes"]] == [(2, 4), (2, 4), (0, 4), (3, 4)]
    assert first["spans"][1] is None
    torch_first = batches("pytorch")[0]
    assert isinstance(torch_first["boxes"][0], torch.Tensor)
    assert torch_first["spans"][1] is None


def test_pad() -> None:
    first, second = batches(ragged="pad")
    assert first["spans"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert first["spans_mask"].tolist() == [[True] * 3, [False] * 3]
    assert second["boxes"].shape == second["boxes_mask"].shape == (2, 3, 4)
    assert second["boxes_mask"][:, :, 0].tolist() == [[False] * 3, [True] * 3]
    assert np.array_equal(second["boxes"][1], BOXES[3])


def test_flat() -> None:
    first, second = batches("pytorch", ragged="flat")
    assert first["spans_offsets"].tolist() == [0, 3, 3]
    assert second["boxes_offsets"].tolist() == [0, 0, 3]
    assert torch.equal(second["boxes"], torch.from_numpy(BOXES[3]))


@pytest.mark.parametrize("workers", [0, 2])
def test_nested(workers: int) -> None:
    first, second = batches("pytorch", ragged="nested", num_workers=workers)
    assert list(first.keys()) == ["boxes", "spans"]
    assert first["boxes"].is_nested
    assert [t.shape[0] for t in second["boxes"].unbind()] == [0, 3]
    assert torch.equal(second["boxes"].unbind()[1], torch.from_numpy(BOXES[3]))


def test_what_cannot_be_put_together_says_so() -> None:
    source = FakeSource({"v": [np.zeros((2, 3)), np.zeros((2, 4)), np.zeros(2)]})
    with pytest.raises(InvalidInput, match=r"'v'.*first dimension.*ragged='list'"):
        list(dataloader(source).batch(2).numpy(ragged="flat"))
    with pytest.raises(InvalidInput, match=r"'v'.*\[1, 2\] dimensions"):
        list(dataloader(source).batch(3).numpy(ragged="pad"))
    with pytest.raises(InvalidInput, match="'list', 'pad', 'nested', 'flat'"):
        dataloader(source).batch(3).numpy(ragged="stack")


def test_missing_numbers() -> None:
    source = FakeSource({"v": [np.array(1.0), None, np.array(3.0)]})
    batch = next(iter(dataloader(source).batch(3).numpy()))
    assert batch["v"] == [1.0, None, 3.0]
    batch = next(iter(dataloader(source).batch(3).numpy(ragged="pad")))
    assert batch["v"].tolist() == [1.0, 0.0, 3.0]
    assert batch["v_mask"].tolist() == [True, False, True]


@pytest.mark.parametrize("workers", [0, 2])
def test_text_and_json(workers: int) -> None:
    definitions = {"meta": define_tensor(1, "meta", htype="json")}
    source = FakeSource({"text": ["a", None, "ü"], "meta": ['{"k": 1}', "2", None]}, definitions=definitions)
    batch = next(iter(dataloader(source).batch(3).pytorch(workers)))
    assert batch["text"] == ["a", None, "ü"]
    assert batch["meta"] == [{"k": 1}, 2, None]
    batch = next(iter(dataloader(source).transform(lambda row: row).batch(3).numpy()))
    assert batch["meta"] == [{"k": 1}, 2, None]


def test_a_row_function_keeps_ragged_tensors_ragged() -> None:
    source = FakeSource({"boxes": BOXES, "label": np.arange(4)})
    for batch in dataloader(source).transform(lambda row: {**row, "label": row["label"] + 1}).batch(2).numpy():
        assert isinstance(batch["boxes"], list)
        assert isinstance(batch["label"], np.ndarray)


def test_importing_loads_no_framework() -> None:
    import subprocess

    code = "import sys, lakefmt.loaders; assert not {'torch', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
