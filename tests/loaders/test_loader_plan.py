"""Every row once an epoch, in every order; windows keep their promises; any position can be computed
alone.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefmt.errors import InvalidInput
from lakefmt.loaders.plan import Global, Order, Scan, Window, reseeded, rotate, window_of


def whole(order: Order, epoch: int = 0) -> list[int]:
    return order.rows(epoch, np.arange(len(order), dtype=np.int64)).tolist()


@settings(deadline=None, max_examples=80)
@given(n=st.integers(1, 700), unit=st.integers(1, 90), group=st.integers(1, 9), seed=st.integers(0, 2**63 - 1))
def test_window_is_exact(n: int, unit: int, group: int, seed: int) -> None:
    order = Window(n, seed, unit, group)
    rows = whole(order)
    assert sorted(rows) == list(range(n))
    # each group holds exactly the rows of its units, and bounds agree with membership
    begin = 0
    groups = order.group_of(0, np.arange(n, dtype=np.int64))
    for g in range(int(groups[-1]) + 1):
        first, end = order.group_bounds(0, g)
        assert first == begin
        assert (groups[first:end] == g).all()
        expected = {r for u in order.units(0, g).tolist() for r in range(u * unit, min(n, u * unit + unit))}
        assert set(rows[first:end]) == expected
        begin = end
    assert begin == n


@pytest.mark.parametrize("n", [1, 2, 7, 100, 4096, 4097, 5003])
def test_every_order_is_a_bijection_and_changes_with_the_epoch(n: int) -> None:
    for order in (Scan(n), Global(n, 1), Window(n, 1, 16, 4), rotate(Global(n, 1), n // 3)):
        for epoch in (0, 1):
            assert sorted(whole(order, epoch)) == list(range(n))
    if n >= 100:
        assert whole(Global(n, 1), 0) != whole(Global(n, 1), 1)
        assert whole(Window(n, 1, 16, 4), 0) != whole(Window(n, 1, 16, 4), 1)
        assert whole(Global(n, 1)) != whole(Global(n, 2))


def test_positions_alone_agree_with_blocks() -> None:
    for order in (Global(5003, 9), Window(5003, 9, 64, 5), rotate(Window(5003, 9, 64, 5), 777)):
        rows = whole(order, 3)
        assert [int(order.rows(3, np.array([p]))[0]) for p in range(0, 5003, 311)] == rows[::311]


def test_literal_orders() -> None:
    assert whole(Global(10, 0)) == [0, 5, 8, 3, 2, 6, 1, 7, 4, 9]
    assert whole(Window(10, 0, 3, 2)) == [0, 7, 1, 2, 8, 6, 9, 3, 5, 4]


def test_window_mixes_classes_of_sorted_data() -> None:
    n, classes, batch = 100_000, 250, 256
    labels = np.arange(n) * classes // n
    order = window_of(n, 5, 500, 1000.0, 20_000_000)  # 20 MB: 40 units of 500 rows
    assert order.group_units == 40
    rows = np.array(whole(order)).reshape(-1)
    seen = [len(np.unique(labels[rows[b : b + batch]])) for b in range(0, n - batch, batch)]
    assert np.mean(seen) > 35  # 40 units, each within one or two classes; as stored it would be 1 or 2


def test_offset_rotates() -> None:
    assert whole(rotate(Scan(6), 4)) == [4, 5, 0, 1, 2, 3]
    assert whole(rotate(Scan(6), 6)) == [0, 1, 2, 3, 4, 5]
    for wrong in (-1, 7):
        with pytest.raises(InvalidInput, match="offset"):
            rotate(Scan(6), wrong)


def test_reseeding_keeps_everything_else() -> None:
    order = rotate(Window(100, 1, 8, 2), 5)
    assert reseeded(order, 2) == rotate(Window(100, 2, 8, 2), 5)
    assert reseeded(Scan(4), 2) == Scan(4)
