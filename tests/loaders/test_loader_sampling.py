"""sample_by: rows come up in proportion to their weight, repeatably, and impossible weights are refused."""

from __future__ import annotations

import numpy as np
import pytest
from loader_fake import numbers

from lakefmt.errors import InvalidInput
from lakefmt.loaders import dataloader
from lakefmt.loaders.sampling import checked_weights, sampled


def test_with_replacement_follows_the_weights() -> None:
    weights = np.array([0.0, 1.0, 2.0, 0.0, 7.0, 0.0])
    order = sampled(weights.copy(), True, 100_000, seed=4)
    counts = np.bincount(order.rows(0, np.arange(100_000)), minlength=6)
    expected = weights / weights.sum() * 100_000
    assert counts[[0, 3, 5]].tolist() == [0, 0, 0]
    present = expected > 0
    assert (np.abs(counts - expected)[present] < 4 * np.sqrt(expected[present])).all()


def test_any_position_is_computable_alone() -> None:
    order = sampled(np.arange(1.0, 11.0), True, 10**12, seed=1)
    rows = order.rows(2, np.arange(10**11, 10**11 + 50))
    assert [int(order.rows(2, np.array([10**11 + i]))[0]) for i in range(50)] == rows.tolist()


def test_without_replacement_is_successive_sampling() -> None:
    weights = np.array([1.0, 2.0, 5.0, 0.0])
    firsts, seconds = np.zeros(4), np.zeros(4)
    runs = 6000
    order = sampled(weights, False, 2, seed=8)
    for epoch in range(runs):
        first, second = order.rows(epoch, np.arange(2)).tolist()
        firsts[first] += 1
        seconds[second] += 1
    p = weights / weights.sum()
    chance = [sum(p[i] * p[j] / (1 - p[i]) for i in range(3) if i != j) for j in range(3)]
    assert np.abs(firsts[:3] / runs - p[:3]).max() < 0.025
    assert np.abs(seconds[:3] / runs - chance).max() < 0.025
    assert firsts[3] == seconds[3] == 0


def test_without_replacement_gives_each_positive_row_once() -> None:
    weights = np.array([1.0, 0.0, 3.0, 0.5, 0.0])
    order = sampled(weights, False, None, seed=0)
    assert sorted(order.rows(0, np.arange(3)).tolist()) == [0, 2, 3]
    with pytest.raises(InvalidInput, match="only 3 rows"):
        sampled(weights, False, 4, seed=0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], "shape"),
        ([1.0, -1.0, 0.0], "row 1 is -1.0"),
        ([1.0, float("nan"), 0.0], "row 1 is nan"),
        ([1.0, float("inf"), 0.0], "row 1 is inf"),
        ([0.0, 0.0, 0.0], "zero"),
        (["a", "b", "c"], "numbers"),
        ([10**400, 1, 1], "numbers"),
        ("labels == 1", "expressions"),
    ],
)
def test_impossible_weights(weights: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        checked_weights(weights, 3, None)  # type: ignore[arg-type]


def test_in_a_chain_with_an_expression() -> None:
    asked: list[str] = []

    def weigh(tql: str) -> np.ndarray:
        asked.append(tql)
        return np.where(np.arange(20) < 10, 0.0, 1.0)

    chain = dataloader(numbers(20), weigh=weigh).sample_by("label >= 10", size=35).shuffle(seed=2).batch(8)
    loader = chain.numpy()
    seen = np.concatenate([b["label"] for b in loader])
    assert asked == ["label >= 10"]
    assert len(seen) == 35
    assert seen.min() >= 10
    again = np.concatenate([b["label"] for b in chain.numpy()])
    assert again.tolist() == seen.tolist()


@pytest.mark.parametrize("weight", [1e-310, 5e-324, 1e-300, 1e-200, 1.0, 1e300])
def test_only_proportions_count_at_any_scale(weight: float) -> None:
    n = 200
    weights = checked_weights([weight] * n, n, None)
    order = sampled(weights, False, None, seed=3).rows(0, np.arange(n))
    assert sorted(order.tolist()) == list(range(n))
    assert order.tolist() == sampled(np.ones(n), False, None, seed=3).rows(0, np.arange(n)).tolist()
    drawn = np.bincount(sampled(weights, True, 40_000, seed=3).rows(0, np.arange(40_000)), minlength=n)
    assert drawn.min() > 120
    assert drawn.max() < 290


def test_rows_of_tiny_weight_are_mixed_behind_the_others() -> None:
    weights = checked_weights([1.0] * 50 + [1e-310] * 200, 250, None)
    order = sampled(weights, False, None, seed=3).rows(0, np.arange(250)).tolist()
    assert sorted(order[:50]) == list(range(50))
    later = np.array(order[50:])
    assert sorted(later.tolist()) == list(range(50, 250))
    assert abs(np.corrcoef(np.arange(200), later)[0, 1]) < 0.25
