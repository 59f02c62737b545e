"""Coalescing ranges into requests loses nothing, fetches little too much, and keeps requests bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lakefmt.storage.port import COALESCE_BYTES_MAX, COALESCE_GAP_BYTES, Range, coalesce, scatter

_STARTS = st.one_of(st.integers(0, 200), st.integers(0, 40 << 20))
_LENGTHS = st.one_of(st.integers(0, 100), st.integers(0, 20 << 20))
_RANGES = st.lists(st.builds(Range, st.sampled_from("abc"), _STARTS, _LENGTHS), max_size=40)


def _end(r: Range) -> int:
    return r.start + r.length


@given(_RANGES)
def test_every_range_is_served_by_one_request_that_holds_it(ranges: list[Range]) -> None:
    requests = coalesce(ranges)
    assert sorted(i for _, members in requests for i in members) == list(range(len(ranges)))
    for request, members in requests:
        for i in members:
            assert ranges[i].key == request.key
            assert request.start <= ranges[i].start
            assert _end(ranges[i]) <= _end(request)


@given(_RANGES)
def test_a_request_is_no_larger_than_its_ranges_need(ranges: list[Range]) -> None:
    for request, members in coalesce(ranges):
        assert request.start == min(ranges[i].start for i in members)
        assert _end(request) == max(_end(ranges[i]) for i in members)
        assert len(members) == 1 or request.length <= COALESCE_BYTES_MAX


@given(_RANGES)
def test_gaps_within_a_request_are_small(ranges: list[Range]) -> None:
    for request, members in coalesce(ranges):
        reached = request.start
        for r in sorted((ranges[i] for i in members), key=lambda r: r.start):
            assert r.start - reached <= COALESCE_GAP_BYTES
            reached = max(reached, _end(r))


@given(st.lists(st.builds(Range, st.just("k"), st.integers(0, 900), st.integers(0, 40)), max_size=30))
def test_small_neighbours_are_one_request(ranges: list[Range]) -> None:
    assert len(coalesce(ranges)) == min(1, len(ranges))


_SMALL = st.lists(st.builds(Range, st.sampled_from("ab"), st.integers(0, 3000), st.integers(0, 500)), max_size=30)


@given(_SMALL)
def test_scatter_gives_the_bytes_asked_for(ranges: list[Range]) -> None:
    blobs = {"a": bytes(i % 251 for i in range(2500)), "b": bytes(i % 241 for i in range(3200))}
    requests = coalesce(ranges)
    answers = [blobs[r.key][r.start : _end(r)] for r, _ in requests]
    out = scatter(requests, answers, ranges)
    assert [bytes(x) for x in out] == [blobs[r.key][r.start : _end(r)] for r in ranges]


def test_limits_split_requests() -> None:
    far = [Range("k", 0, 1), Range("k", COALESCE_GAP_BYTES + 1, 1), Range("k", 2 * COALESCE_GAP_BYTES + 3, 1)]
    assert [r for r, _ in coalesce(far)] == [Range("k", 0, COALESCE_GAP_BYTES + 2), far[2]]
    long = [Range("k", i << 20, 1 << 20) for i in range(20)]
    assert [r.length for r, _ in coalesce(long)] == [8 << 20, 8 << 20, 4 << 20]
