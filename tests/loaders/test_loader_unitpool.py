"""The shuffle buffer of remote data: same rows, each unit read once, bounded memory, no wait at the
beginning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loader_fake import FakeSource

from lakefmt.loaders import dataloader
from lakefmt.loaders.unitpool import LOT_UNITS, UnitPool

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


def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Units as they are read, and how many are held then."""
    read: list[int] = []
    held: list[int] = []
    original = UnitPool._read

    def counting(self: UnitPool, units: list[int]) -> None:
        read.extend(u for u in dict.fromkeys(units) if u not in self._units)
        original(self, units)
        held.append(len(self._units))

    monkeypatch.setattr(UnitPool, "_read", counting)
    return read, held


def test_units_are_read_once_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    read, held = counted(monkeypatch)
    loader = batches(local=False)
    plan = loader.state_dict()["plan"]
    group, lanes = plan["group"], plan["lanes"]
    assert (group, lanes) == (9, 2)
    iterator = iter(loader)
    next(iterator)
    assert len(read) <= 3 * LOT_UNITS  # the first batches wait for no buffer to fill
    list(iterator)
    assert len(set(read)) >= -(-N // UNIT) - 1
    assert len(read) < len(set(read)) + lanes  # each once, but for what lies on a border of lanes
    assert max(held) <= 2 * (group + lanes)


@pytest.mark.parametrize("world", [2, 4])
def test_each_rank_reads_its_own_lanes(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    read, _ = counted(monkeypatch)
    chain = dataloader(source(False)).shuffle(mode="window", buffer_size=0.8, seed=2).batch(16)
    seen: list[int] = []
    shared = 0
    for rank in range(world):
        read.clear()
        seen += [i for b in chain.numpy(return_index=True, rank=rank, world_size=world, num_threads=0) for i in b["index"].tolist()]
        shared += len(set(read))
    assert set(seen) == set(range(N))
    assert len(seen) < N + world
    lanes = chain.numpy(rank=0, world_size=world).state_dict()["plan"]["lanes"]
    assert shared <= -(-N // UNIT) + lanes  # what two ranks both read lies on a border of lanes


def test_resuming_in_the_middle() -> None:
    whole = [plain(b) for b in batches(local=False)]
    running = batches(local=False)
    iterator = iter(running)
    seen = [plain(next(iterator)) for _ in range(20)]
    resumed = batches(local=False)
    resumed.load_state_dict(running.state_dict())
    assert seen + [plain(b) for b in resumed] == whole
