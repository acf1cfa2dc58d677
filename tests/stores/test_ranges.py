"""The planning of byte ranges, which must lose no piece and never ask for more than it may."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from atdata.stores.ranges import coalesce, windows

pieces = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 300)).map(lambda p: (p[0], p[0] + p[1])), max_size=60)


@given(pieces, st.integers(0, 200), st.integers(1, 2000))
def test_every_piece_lies_whole_in_exactly_one_request(wanted: list[tuple[int, int]], gap: int, size: int) -> None:
    requests = coalesce(wanted, max_gap=gap, max_size=size)
    assert sorted(i for r in requests for i in r.items) == list(range(len(wanted)))
    for request in requests:
        for i in request.items:
            assert request.start <= wanted[i][0] <= wanted[i][1] <= request.stop


@given(pieces, st.integers(0, 200), st.integers(1, 2000))
def test_only_requests_of_one_piece_are_larger_than_allowed(wanted: list[tuple[int, int]], gap: int, size: int) -> None:
    for request in coalesce(wanted, max_gap=gap, max_size=size):
        assert request.stop - request.start <= size or len(request.items) == 1


@given(pieces, st.integers(0, 200))
def test_no_gap_larger_than_allowed_is_read_for_nothing(wanted: list[tuple[int, int]], gap: int) -> None:
    for request in coalesce(wanted, max_gap=gap, max_size=1 << 40):
        covered = request.start
        for start, stop in sorted(wanted[i] for i in request.items):
            assert start - covered <= gap
            covered = max(covered, stop)


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(1, 120))
def test_windows_cover_every_item_once_and_in_order(sizes: list[int], target: int) -> None:
    starts, at = [], 0
    for size in sizes:
        starts.append(at)
        at += size + 7
    stops = [start + size for start, size in zip(starts, sizes, strict=True)]
    found = list(windows(starts, stops, target))
    assert [i for first, last in found for i in range(first, last)] == list(range(len(sizes)))
    for first, last in found:
        assert stops[last - 1] - starts[first] <= target or last == first + 1
    for (first, _), (_, after) in itertools.pairwise(found):
        # Two neighbouring windows could not have been one.
        assert stops[after - 1] - starts[first] > target
