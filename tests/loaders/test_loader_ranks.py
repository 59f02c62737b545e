"""Which share of an epoch a process takes: as said, as torch.distributed knows, or as the launcher's environment names it."""

from __future__ import annotations

from typing import Any

import pytest
from loader_fake import numbers

from lakefmt.errors import InvalidInput
from lakefmt.loaders import dataloader
from lakefmt.loaders.ranks import VARIABLES, environment_share
from lakefmt.loaders.steps import Shard


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in VARIABLES:
        for name in names:
            monkeypatch.delenv(name, raising=False)


def rows(**options: Any) -> list[int]:
    return [i for b in dataloader(numbers(20)).batch(3).numpy(**options) for i in b["label"].tolist()]


@pytest.mark.parametrize("names", VARIABLES)
def test_the_environment_of_every_launcher(monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]) -> None:
    monkeypatch.setenv(names[0], "1")
    monkeypatch.setenv(names[1], "2")
    assert rows(distributed=True) == rows(rank=1, world_size=2) == rows(shard=(1, 2)) == [3, 4, 5, 9, 10, 11, 15, 16, 17, 19]
    assert rows() == rows(distributed=False) == list(range(20))  # nobody asked


def test_torchrun_comes_before_slurm() -> None:
    environment = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "RANK": "3", "WORLD_SIZE": "4"}
    assert environment_share(environment) == Shard(3, 4)
    assert environment_share({"RANK": "3"}) is None


@pytest.mark.parametrize(("rank", "world"), [("x", "2"), ("2", "2"), ("-1", "2"), ("0", "0"), ("", "")])
def test_an_environment_that_makes_no_sense(rank: str, world: str) -> None:
    with pytest.raises(InvalidInput, match=f"RANK={rank!r}, WORLD_SIZE={world!r}"):
        environment_share({"RANK": rank, "WORLD_SIZE": world})


def test_nobody_knows() -> None:
    with pytest.raises(InvalidInput, match=r"distributed=True.*RANK/WORLD_SIZE.*give rank= and world_size="):
        rows(distributed=True)


def test_torch_distributed_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        assert rows(distributed=True) == list(range(20))
    finally:
        torch.distributed.destroy_process_group()
    assert len(rows(distributed=True)) == 10
