"""The shuffle buffer of remote data: same rows, each unit read once, bounded memory, no wait at the
beginning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loader_fake import FakeSource

from lakefmt.loaders import dataloader
from lakefmt.loaders.unitpool import UnitPool

N, UNIT = 997, 20


def source(local: bool) -> FakeSource:
    return FakeSource(
        {
            "x": np.arange(N * 250, dtype=np.float32).reshape(N, 250),  # 1000 bytes
            "text": [f"t{i}" for i in range(N)],
            "spans": [None if i % 7 == 0 else np.arange(i % 5) for i in range(N)],
        },
        unit_rows=UNIT,
        local=local,
    )


def batches(local: bool, **options: Any) -> Any:
    # 0.4 MB: half of it is ten units of 20 rows of 1000 bytes
    chain = dataloader(source(local)).shuffle(mode="window", buffer_size=0.4, seed=2).batch(16)
    return chain.numpy(return_index=True, **options)


def plain(batch: Any) -> Any:
    spans = [None if s is None else s.tolist() for s in batch["spans"]]
    return batch["index"].tolist(), batch["x"].tolist(), batch["text"], spans


@pytest.mark.parametrize("threads", [0, None])
def test_it_changes_nothing(threads: int | None) -> None:
    pooled, direct = batches(local=False, num_threads=threads), batches(local=True, num_threads=threads)
    for _ in range(2):
        assert [plain(b) for b in pooled] == [plain(b) for b in direct]


def test_units_are_read_once_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    held: list[int] = []
    original = UnitPool._read

    def counting(self: UnitPool, unit: int) -> Any:
        read.append(unit)
        held.append(len(self._units) + 1)
        return original(self, unit)

    monkeypatch.setattr(UnitPool, "_read", counting)
    loader = batches(local=False)
    group = loader.state_dict()["plan"]["group"]
    assert 5 <= group <= 12
    iterator = iter(loader)
    next(iterator)
    assert len(read) <= 8  # the first batches wait for no buffer to fill
    list(iterator)
    units = -(-N // UNIT)
    assert len(read) == len(set(read)) == units - group  # the first group's rows were read one by one
    assert max(held) <= 2 * group + 1


def test_resuming_in_the_middle() -> None:
    whole = [plain(b) for b in batches(local=False)]
    running = batches(local=False)
    iterator = iter(running)
    seen = [plain(next(iterator)) for _ in range(20)]
    resumed = batches(local=False)
    resumed.load_state_dict(running.state_dict())
    assert seen + [plain(b) for b in resumed] == whole
