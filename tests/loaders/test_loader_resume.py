"""state_dict(): under 1 KB, counts what was handed out, exact after any interruption and change of
workers.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from loader_fake import FakeSource, numbers

from lakefmt.errors import InvalidInput
from lakefmt.loaders import dataloader

N, BATCH = 37, 5


def loader(workers: int = 0, source: FakeSource | None = None, **shuffle: Any) -> Any:
    chain = dataloader(source or numbers(N)).batch(BATCH).shuffle(**{"seed": 11, **shuffle})
    return chain.pytorch(workers, multiprocessing_context="fork" if workers else None)


def rows(batches: Any) -> list[int]:
    return [int(v) for b in batches for v in b["label"]]


@pytest.mark.parametrize("mode", ["global", "window"])
def test_every_position(mode: str) -> None:
    reference = loader(mode=mode)
    epochs = [rows(reference) for _ in range(3)]
    assert sorted(epochs[0]) == list(range(N))
    assert epochs[0] != epochs[1]
    running = loader(mode=mode)
    for epoch in range(2):
        seen = []
        for batch in running:
            seen += rows([batch])
            state = json.loads(json.dumps(running.state_dict()))
            assert len(json.dumps(state)) < 1024
            resumed = loader(mode=mode)
            resumed.load_state_dict(state)
            rest = rows(resumed)
            if len(seen) < N:
                assert seen + rest == epochs[epoch]
                assert rows(resumed) == epochs[epoch + 1]
            else:  # the epoch was complete: the next one follows
                assert rest == epochs[epoch + 1]


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 3)])
def test_change_of_workers(before: int, after: int) -> None:
    reference = loader()
    expected = rows(reference) + rows(reference)
    running = loader(before)
    seen = []
    for number, batch in enumerate(running):
        seen += rows([batch])
        if number == 2:
            break
    state = running.state_dict()
    assert state["rows"] == 3 * BATCH  # what workers have prepared further is not counted
    resumed = loader(after)
    resumed.load_state_dict(state)
    assert seen + rows(resumed) + rows(resumed) == expected


def test_single_rows() -> None:
    def fresh() -> Any:
        return dataloader(numbers(600)).shuffle(seed=3).numpy()

    expected = [int(row["label"]) for row in fresh()]
    assert sorted(expected) == list(range(600))
    for stop in (1, 255, 256, 257, 599):
        running = fresh()
        rows_in = iter(running)
        seen = [int(next(rows_in)["label"]) for _ in range(stop)]
        resumed = fresh()
        resumed.load_state_dict(running.state_dict())
        assert seen + [int(row["label"]) for row in resumed] == expected


def test_before_the_first_and_set_epoch() -> None:
    fresh, other = loader(), loader()
    other.load_state_dict(fresh.state_dict())
    assert rows(other) == rows(loader())
    fresh.set_epoch(4)
    assert fresh.state_dict()["epoch"] == 4
    ahead = loader()
    later = [rows(ahead) for _ in range(5)][4]
    assert rows(fresh) == later


def test_an_unseeded_loader_takes_the_seed_of_the_state() -> None:
    chain = dataloader(numbers(N)).batch(BATCH).shuffle()
    first, second = chain.numpy(), chain.numpy()
    assert first.seed != second.seed
    iterator = iter(first)
    seen = rows([next(iterator)])
    state = first.state_dict()
    second.load_state_dict(state)
    assert second.seed == first.seed
    assert seen + rows(second) == seen + rows(iterator)


def test_states_of_other_loaders_are_refused() -> None:
    state = loader().state_dict()
    with pytest.raises(InvalidInput, match=r"other data.*\"v1\".*\"v2\""):
        loader(source=numbers(N, tag="v2")).load_state_dict(state)
    with pytest.raises(InvalidInput, match=r"seed=11.*seed=12"):
        loader(seed=12).load_state_dict(state)
    with pytest.raises(InvalidInput, match=r"order='global'.*order='window'"):
        loader(mode="window").load_state_dict(state)
    with pytest.raises(InvalidInput, match="no loader state"):
        loader().load_state_dict({})


def test_drop_last_rolls_over() -> None:
    chain = dataloader(numbers(N)).batch(BATCH, drop_last=True).shuffle(seed=1)
    running = chain.numpy()
    assert len(list(running)) == len(running) == 7
    assert running.state_dict()["epoch"] == 1
    resumed = chain.numpy()
    resumed.load_state_dict(running.state_dict())
    assert rows(resumed) == rows(running)
