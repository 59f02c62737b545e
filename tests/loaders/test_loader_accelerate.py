"""A loader that Accelerate prepares hands out the same epochs, in one process or shared out among several."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from loader_fake import numbers

from lakefmt.errors import InvalidInput
from lakefmt.loaders import Batch, dataloader

pytest.importorskip("accelerate", reason="accelerate is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

WAYS = [{}, {"dispatch_batches": False}, {"use_stateful_dataloader": True}]


def accelerator(**options: Any) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    if options.get("use_stateful_dataloader"):
        pytest.importorskip("torchdata", reason="torchdata is not installed")
    return Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options))


def labels(loader: Any) -> list[list[int]]:
    return [batch["label"].tolist() for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", WAYS)
def test_epochs(workers: int, options: dict[str, Any]) -> None:
    chain = dataloader(numbers(100)).batch(32).shuffle(seed=1)
    own = chain.pytorch()
    loader = accelerator(**options).prepare(chain.pytorch(workers))
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert len(loader) == 4
    assert [labels(loader) for _ in range(3)] == [labels(own) for _ in range(3)]
    batch = next(iter(loader))
    assert isinstance(batch, Batch)
    assert batch["x"].shape == (32, 3)
    assert batch["x"].device.type == "cpu"


def test_the_end_of_an_epoch_is_known() -> None:
    made = accelerator()
    loader = made.prepare(dataloader(numbers(100)).batch(32).pytorch())
    ends = [made.gradient_state.end_of_dataloader for _ in loader]
    assert ends == [False, False, False, True]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dispatch", [None, False])
def test_going_on_from_a_state(workers: int, dispatch: bool | None, tmp_path: Path) -> None:
    options = {"use_stateful_dataloader": True, "dispatch_batches": dispatch}
    chain = dataloader(numbers(100)).batch(8).shuffle()
    made, source = accelerator(**options), chain.pytorch(workers)
    loader = made.prepare(source)
    labels(loader)
    items = iter(loader)
    for _ in range(4):
        next(items)
    state = loader.state_dict()
    made.save_state(str(tmp_path))
    rest, following = labels(items), labels(loader)
    with pytest.raises(InvalidInput, match="another DataLoader"):
        source.state_dict()
    later = accelerator(**options).prepare(chain.pytorch(workers))
    later.load_state_dict(state)
    assert labels(later) == rest
    if not workers:
        assert labels(later) == following
    again = accelerator(**options)
    loader = again.prepare(chain.pytorch(workers))
    again.load_state(str(tmp_path))
    assert labels(loader) == rest


def test_skipped_batches_and_the_loaders_own_state() -> None:
    from accelerate import skip_first_batches

    chain = dataloader(numbers(100)).batch(8).shuffle(seed=3)
    own = chain.pytorch()
    first, second, third = (labels(own) for _ in range(3))
    assert labels(skip_first_batches(accelerator().prepare(chain.pytorch()), 3)) == first[3:]
    own = chain.pytorch()
    labels(own)
    items = iter(own)
    for _ in range(5):
        next(items)
    resumed = chain.pytorch()
    resumed.load_state_dict(own.state_dict())
    loader = accelerator().prepare(resumed)
    assert [labels(loader), labels(loader)] == [second[5:], third]


@pytest.mark.parametrize(
    ("dispatch", "split", "workers"), [("null", "false", "0"), ("false", "true", "0"), ("false", "false", "2")]
)
def test_two_processes(dispatch: str, split: str, workers: str) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    here = Path(__file__).parent
    common = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "true",
    }
    path = os.pathsep.join([str(here.parent.parent), str(here), os.environ.get("PYTHONPATH", "")])
    ranks = [
        subprocess.Popen(
            [sys.executable, str(here / "rank_accelerate.py"), dispatch, split, workers],
            env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    results = []
    for process in ranks:
        out, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors[-2000:]
        results.append(json.loads(out.strip().splitlines()[-1]))
    for k in range(2):  # made before the processes knew of each other, and after
        assert sorted(v for r in results for v in r["alone"][k]) == list(range(100))
        for epoch in range(2):
            shares = [r["shared"][k][epoch] for r in results]
            assert len(shares[0]) == len(shares[1])
            rows = [v for share in shares for b in share for v in b]
            assert set(rows) == set(range(100))
            assert len(rows) <= 112  # the last step may be filled up
        assert results[0]["shared"][k][0] != results[0]["shared"][k][1]
