"""Lightning's Trainer and Fabric over a loader: epochs, checkpoints in the middle of one, prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loader_fake import numbers

from lakefmt.loaders import dataloader

# Lightning and what it imports warn as they are loaded
pytestmark = pytest.mark.filterwarnings("ignore")
OPTIONS: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture
def pl() -> Any:
    return pytest.importorskip("lightning.pytorch", reason="lightning is not installed")


def shuffled() -> Any:
    return dataloader(numbers(100)).batch(8).shuffle(seed=1).pytorch()


def in_order() -> Any:
    return dataloader(numbers(100)).batch(8).pytorch()


def labels(loader: Any) -> list[list[int]]:
    return [batch["label"].tolist() for batch in loader]


def model_of(pl: Any) -> Any:
    class Model(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 1)
            self.seen: list[list[int]] = []

        def training_step(self, batch: Any, i: int) -> Any:
            self.seen.append(batch["label"].tolist())
            loss = self.linear(batch["x"] / 100).pow(2).mean()
            self.log("loss", loss)
            return loss

        def predict_step(self, batch: Any, i: int) -> Any:
            return batch["label"]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    return Model()


def test_fit_and_going_on_from_a_checkpoint(pl: Any, tmp_path: Path) -> None:
    own = shuffled()
    epochs = [b for _ in range(3) for b in labels(own)]
    model = model_of(pl)
    saves = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=5, save_top_k=-1)
    pl.Trainer(max_epochs=3, max_steps=18, callbacks=[saves], **OPTIONS).fit(model, shuffled())
    assert model.seen == epochs[:18]
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    for file in files:
        model = model_of(pl)
        pl.Trainer(max_epochs=3, enable_checkpointing=False, **OPTIONS).fit(model, shuffled(), ckpt_path=file)
        assert model.seen == epochs[int(file.stem.rpartition("=")[2]) :]


def test_predict(pl: Any) -> None:
    assert torch.cat(pl.Trainer(**OPTIONS).predict(model_of(pl), in_order())).tolist() == list(range(100))


def test_a_data_module(pl: Any) -> None:
    class Data(pl.LightningDataModule):  # type: ignore[misc, name-defined]
        def train_dataloader(self) -> Any:
            return shuffled()

        def predict_dataloader(self) -> Any:
            return in_order()

    model = model_of(pl)
    pl.Trainer(max_epochs=2, enable_checkpointing=False, **OPTIONS).fit(model, datamodule=Data())
    own = shuffled()
    assert model.seen == labels(own) + labels(own)
    assert torch.cat(pl.Trainer(**OPTIONS).predict(model, datamodule=Data())).tolist() == list(range(100))


def test_fabric(pl: Any) -> None:
    from lightning.fabric import Fabric

    loader, own = Fabric(accelerator="cpu").setup_dataloaders(shuffled()), shuffled()
    assert [labels(loader), labels(loader)] == [labels(own), labels(own)]
