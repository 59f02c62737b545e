"""A run goes on with other numbers of ranks, workers and rows a batch: the same rows, in the same steps of all ranks together."""

from __future__ import annotations

from typing import Any

import pytest
from loader_fake import FakeSource, numbers

from lakefmt.loaders import dataloader

N, TOGETHER = 1000, 48  # 48 rows a step of all ranks together


def source() -> FakeSource:
    return numbers(N, local=False)


def face(world: int, rank: int, mode: str | None, batch: int | None = None, **options: Any) -> Any:
    chain = dataloader(source()).batch(batch or TOGETHER // world)
    if mode is not None:
        chain = chain.shuffle(seed=4, mode=mode, buffer_size=0.01)
    return chain.numpy(rank=rank, world_size=world, num_threads=0, **options)


def steps(world: int, mode: str | None, state: Any = None, limit: int | None = None) -> tuple[list[list[int]], Any]:
    """Rows of each step of all ranks together, sorted, and the state (the same on every rank) after the last."""
    faces = [face(world, rank, mode) for rank in range(world)]
    for one in faces:
        if state is not None:
            one.load_state_dict(state)
    taken = []
    iterators = [iter(one) for one in faces]
    for number, batches in enumerate(zip(*iterators, strict=True)):
        taken.append(sorted({v for b in batches for v in b["label"].tolist()}))
        if number + 1 == limit:
            break
    states = [one.state_dict() for one in faces]
    assert all(s == states[0] for s in states)
    return taken, states[0]


@pytest.mark.parametrize("mode", [None, "global", "window"])
@pytest.mark.parametrize("first", [1, 8])
def test_any_number_of_ranks_goes_on(mode: str | None, first: int) -> None:
    whole, _ = steps(first, mode)
    begun, state = steps(first, mode, limit=9)
    assert begun == whole[:9]
    for world in (1, 2, 3, 4, 6, 8, 48):
        rest, _ = steps(world, mode, state)
        assert rest[:-1] == whole[9:-1]
        assert set(rest[-1]) >= set(whole[-1])  # the short last step is padded differently
        assert len(rest) == len(whole) - 9


@pytest.mark.parametrize("mode", ["global", "window"])
def test_other_batch_sizes_go_on_in_the_same_order(mode: str) -> None:
    whole = [v for step in face(1, 0, mode) for v in step["label"].tolist()]
    loader = face(1, 0, mode)
    iterator = iter(loader)
    for _ in range(5):
        next(iterator)
    state = loader.state_dict()
    resumed = face(1, 0, mode, batch=7)
    resumed.load_state_dict(state)
    assert [v for b in resumed for v in b["label"].tolist()] == whole[5 * TOGETHER :]


def test_lanes_of_the_state_are_kept() -> None:
    state = face(8, 0, "window").state_dict()
    assert state["plan"]["lanes"] == 8
    resumed = face(3, 1, "window")
    resumed.load_state_dict(state)
    assert resumed.state_dict()["plan"] == state["plan"]


def test_states_are_small() -> None:
    import json

    for mode in (None, "global", "window"):
        assert len(json.dumps(face(2, 1, mode).state_dict())) < 1024
