"""Hugging Face's Trainer over a loader: epochs, and going on from a checkpoint in the middle of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loader_fake import numbers

from lakefmt.loaders import dataloader, map_dataset

# transformers and what it imports warn as they are loaded
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def hf() -> Any:
    return pytest.importorskip("transformers", reason="transformers is not installed")


def loader() -> Any:
    return dataloader(numbers(100)).batch(8).shuffle(seed=1).pytorch()


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 1)
        self.seen: list[list[int]] = []

    def forward(self, x: Any, label: Any) -> Any:
        if self.training:
            self.seen.append(label.tolist())
        return {"loss": self.linear(x / 100).pow(2).mean()}


def arguments(hf: Any, path: Path, **more: Any) -> Any:
    return hf.TrainingArguments(
        output_dir=str(path), num_train_epochs=3, save_strategy="steps", save_steps=5, use_cpu=True, report_to=[],
        disable_tqdm=True, remove_unused_columns=False, logging_strategy="no", per_device_train_batch_size=8, **more,
    )  # fmt: skip


def trainer(hf: Any, path: Path, **more: Any) -> Any:
    class OurTrainer(hf.Trainer):  # type: ignore[misc, name-defined]
        def get_train_dataloader(self) -> Any:
            return self.accelerator.prepare(loader())

    return OurTrainer(Model(), arguments(hf, path, **more), train_dataset=map_dataset(numbers(100)))


def test_train_and_going_on_from_a_checkpoint(hf: Any, tmp_path: Path) -> None:
    own = loader()
    epochs = [b["label"].tolist() for _ in range(3) for b in own]
    whole = trainer(hf, tmp_path)
    whole.train()
    assert whole.model.seen == epochs
    for step in (5, 15, 30):  # in the first, the second and the third epoch
        resumed = trainer(hf, tmp_path / f"again-{step}")
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert resumed.model.seen == epochs[step:]


def test_a_map_dataset_with_its_own_sampler(hf: Any, tmp_path: Path) -> None:
    data = map_dataset(numbers(100))
    made = hf.Trainer(Model(), arguments(hf, tmp_path), train_dataset=data, eval_dataset=data, data_collator=data.collate)
    made.train()
    seen = [v for b in made.model.seen for v in b]
    assert [sorted(seen[i : i + 100]) for i in (0, 100, 200)] == [list(range(100))] * 3
    assert made.evaluate()["eval_loss"] >= 0
