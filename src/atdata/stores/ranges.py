"""Which byte ranges to ask for: pure planning, no reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["ByteRange", "coalesce", "windows"]


class ByteRange(NamedTuple):
    """One request: bytes from `start` up to `stop`, and the wanted items (by position in the question) inside it."""

    start: int
    stop: int
    items: tuple[int, ...]


def coalesce(wanted: Sequence[tuple[int, int]], *, max_gap: int, max_size: int) -> list[ByteRange]:
    """As few requests as make sense for many small pieces.

    Pieces are joined when at most `max_gap` bytes between them would be read for nothing and the request stays within
    `max_size` bytes; a piece that is larger by itself is one request. Every piece lies whole in exactly one request.

    Args:
        wanted: (start, stop) of each piece, in any order; they may overlap.
        max_gap: most bytes between two pieces of one request.
        max_size: most bytes of a request that holds more than one piece.

    Returns:
        The requests, by start.

    Example:
        >>> coalesce([(0, 10), (12, 20), (1000, 1001)], max_gap=8, max_size=100)
        [ByteRange(start=0, stop=20, items=(0, 1)), ByteRange(start=1000, stop=1001, items=(2,))]
    """
    requests: list[ByteRange] = []
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    at = 0
    while at < len(order):
        start, stop = wanted[order[at]]
        items = [order[at]]
        at += 1
        while at < len(order):
            begin, end = wanted[order[at]]
            if begin - stop > max_gap or max(stop, end) - start > max_size:
                break
            stop = max(stop, end)
            items.append(order[at])
            at += 1
        requests.append(ByteRange(start, stop, tuple(items)))
    return requests


def windows(starts: Sequence[int], stops: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Neighbouring items in runs of about `size` bytes: (first item, one past the last item).

    Args:
        starts: where each item begins, ascending.
        stops: where each item ends.
        size: a run ends before it would get larger; an item that is larger by itself is a run.

    Example:
        >>> list(windows([0, 10, 20, 30], [10, 20, 30, 90], 20))
        [(0, 2), (2, 3), (3, 4)]
    """
    first = 0
    while first < len(starts):
        last = first + 1
        while last < len(starts) and stops[last] - starts[first] <= size:
            last += 1
        yield first, last
        first = last
