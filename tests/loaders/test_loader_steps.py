"""Ranks and workers: disjoint, complete, in step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefmt.errors import InvalidInput
from lakefmt.loaders.plan import Global, Scan
from lakefmt.loaders.steps import Shard, Steps


@settings(deadline=None, max_examples=120)
@given(
    n=st.integers(0, 300),
    batch=st.integers(1, 40),
    world=st.integers(1, 7),
    lanes=st.integers(1, 4),
    drop=st.booleans(),
)
def test_ranks_step_together_over_disjoint_rows(n: int, batch: int, world: int, lanes: int, drop: bool) -> None:
    order = Global(n, 3) if n else Scan(0)
    ranks = [Steps(order, batch, drop, Shard(r, world)) for r in range(world)]
    taken = [list(steps.walk(1)) for steps in ranks]
    assert {len(t) for t in taken} == {ranks[0].count()}
    seen = [row for t in taken for step in t for row in step.rows.tolist()]
    if drop:
        assert len(seen) == len(set(seen)) == n // (batch * world) * batch * world
    else:
        assert set(seen) == set(range(n))
        assert len(seen) - n < max(1, world)  # padding
    for steps, t in zip(ranks, taken, strict=True):
        # workers of a rank, taken in turn, give the rank's steps in order
        by_lane = [list(steps.walk(1, 0, lane, lanes)) for lane in range(lanes)]
        for number, step in enumerate(t):
            assert by_lane[number % lanes][number // lanes].rows.tolist() == step.rows.tolist()
    for number, group in enumerate(zip(*taken, strict=True)):
        assert len({len(s.rows) for s in group}) == 1  # of equal size: a mean over ranks is a mean over rows
        assert {s.end for s in group} == {ranks[0].end_of(0, number + 1)}


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 200), batch=st.integers(1, 30), stop=st.integers(0, 20), later=st.integers(1, 30))
def test_going_on_from_a_position_loses_and_repeats_nothing(n: int, batch: int, stop: int, later: int) -> None:
    order = Global(n, 5)
    first = list(Steps(order, batch).walk(0))[:stop]
    position = first[-1].end if first else 0
    rest = list(Steps(order, later).walk(0, position))
    rows = [r for step in first + rest for r in step.rows.tolist()]
    assert rows == order.rows(0, np.arange(n)).tolist()


def test_blocks_do_not_show() -> None:
    steps = Steps(Scan(100_000), 3000)
    assert np.concatenate([s.rows for s in steps.walk(0)]).tolist() == list(range(100_000))


def test_impossible_shards() -> None:
    for rank, world in ((1, 1), (-1, 2), (0, 0)):
        with pytest.raises(InvalidInput, match="rank"):
            Shard(rank, world)
