"""The order of rows is arithmetic: the same on every machine, a bijection, and uniform."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefmt.loaders.order import TABLE_MAX, bits, derive, mix, permute, permute_each, place_of, uniforms


def test_mixer_is_splitmix64() -> None:
    # the first outputs of the published generator seeded with 1234567
    golden, state, seen = 0x9E3779B97F4A7C15, 1234567, []
    for _ in range(3):
        state = (state + golden) % 2**64
        seen.append(mix(state))
    assert seen == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert bits(1234567, np.arange(3)).tolist() == seen


def test_literal_orders() -> None:
    # Changing these changes every user's runs: never without a new name for the order.
    assert derive(7, 0, 1) == 2026056953352774757
    assert permute(np.arange(10), 10, 42).tolist() == [4, 1, 6, 2, 8, 3, 9, 0, 7, 5]
    millionth = [977678, 765585, 445682, 188090, 490495, 866788, 214939, 977716]
    assert permute(np.arange(8), 1_000_000, 42).tolist() == millionth
    huge = [645902084474276, 609231951965684, 503627562187164, 381967385145183]
    assert permute(np.arange(4), 10**15, 42).tolist() == huge


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 20_000), key=st.integers(0, 2**64 - 1))
def test_bijection(n: int, key: int) -> None:
    images = permute(np.arange(n), n, key)
    assert np.array_equal(np.sort(images), np.arange(n))
    for position in (0, n // 2, n - 1):
        assert place_of(int(images[position]), n, key) == position


@pytest.mark.parametrize("n", [TABLE_MAX, TABLE_MAX + 1, 10**6, 2**40, 2**62])
def test_blocks_and_single_positions_agree(n: int) -> None:
    positions = np.array([0, 1, n // 3, n - 1], np.int64)
    together = permute(positions, n, 5)
    assert together.min() >= 0
    assert together.max() < n
    assert [int(permute(positions[i : i + 1], n, 5)[0]) for i in range(4)] == together.tolist()


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("n", [5, 6])
def test_small_permutations_are_equally_likely(n: int) -> None:
    orders = [tuple(permute(np.arange(n), n, derive(seed)).tolist()) for seed in range(24_000)]
    _, counts = np.unique(np.array(orders), axis=0, return_counts=True)
    degrees = {5: 119, 6: 719}[n]
    assert len(counts) == degrees + 1
    assert abs(chi_square(counts) - degrees) < 4 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("n", [4097, 10_007, 2**16])
def test_large_permutations_spread_any_position_evenly(n: int) -> None:
    bins, runs = 16, 4000
    for position in (0, 1, n - 1):
        images = np.array([permute(np.array([position]), n, derive(s))[0] for s in range(runs)])
        counts = np.bincount(images * bins // n, minlength=bins)
        assert chi_square(counts) < 15 + 4 * np.sqrt(30)


def test_neighbours_do_not_stay_neighbours() -> None:
    n = 100_000
    images = permute(np.arange(n), n, 3)
    steps = np.diff(images)
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.02
    assert np.count_nonzero(np.abs(steps) == 1) < 20  # 2 expected
    inversions = np.count_nonzero(images[: n // 2] > images[n // 2 :])
    assert abs(inversions - n / 4) < 4 * np.sqrt(n / 8)


def test_uniforms_fill_the_unit_interval_evenly() -> None:
    u = uniforms(9, np.arange(100_000))
    assert u.min() >= 0
    assert u.max() < 1
    assert chi_square(np.bincount((u * 64).astype(int), minlength=64)) < 63 + 4 * np.sqrt(126)
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(u, uniforms(10, np.arange(100_000)))[0, 1]) < 0.02


@pytest.mark.parametrize("n", [TABLE_MAX + 1, 10**6, 2**32, 2**32 + 1, 2**50])
def test_a_key_for_each_position(n: int) -> None:
    positions = np.array([0, 1, n // 2, n - 1, 7, 7], np.int64)
    keys = np.array([3, 3, 2**64 - 1, 9, 9, 0], np.uint64)
    alone = [int(permute(positions[i : i + 1], n, int(keys[i]))[0]) for i in range(len(keys))]
    assert permute_each(positions, n, keys).tolist() == alone
