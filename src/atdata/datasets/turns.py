"""Whose turn it is: which source of a mixture comes at each position, as pure functions.

The sources are mixed in windows of 1024 positions. How many samples each source has given before a window is a matter
of arithmetic: of p positions the first source has `p * w0 // W` (w: the weights, W: their sum), of what is left the
second `left * w1 // (W - w0)`, and so on. So weights are kept to within one sample at the end of every window, and any
position is found as fast as the first. Inside a window the sources' turns are shuffled (`atdata.datasets.order`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atdata.datasets.order import order_key, permute

__all__ = ["Pattern", "Turns", "Until"]

_WINDOW = 1024  # positions

Until = Literal["first", "all"]
Positions = NDArray[np.int64]


class Turns(NamedTuple):
    """For each of some positions: the number of the source, and how many samples that source has given before."""

    sources: NDArray[np.intp]
    given: Positions


class Pattern:
    """Whose turn it is at each position.

    Args:
        weights: of the sources, whole numbers from 1 on.
        key: of the epoch, 64 bits.
        end: where the last window ends; None where there is no last.
    """

    def __init__(self, weights: tuple[int, ...], key: int, end: int | None = None) -> None:
        self._weights = weights
        self._key = key
        self.end = end

    def before(self, position: int) -> list[int]:
        """How many samples each source has given before a position at which a window begins, or all end."""
        given, left, weight = [], position, sum(self._weights)
        for own in self._weights:
            given.append(left * own // weight)
            left -= given[-1]
            weight -= own
        return given

    def turns(self, positions: Positions) -> Turns:
        """Whose turn it is at these positions, and at how manieth sample of theirs they are.

        Args:
            positions: int64, in any order.
        """
        sources = np.empty(len(positions), np.intp)
        given = np.empty(len(positions), np.int64)
        windows = positions // _WINDOW
        for window in np.unique(windows).tolist():
            which = windows == window
            who, counts = self._window(window)
            inside = positions[which] - window * _WINDOW
            sources[which], given[which] = who[inside], counts[inside]
        return Turns(sources, given)

    def _window(self, window: int) -> Turns:
        first, last = window * _WINDOW, (window + 1) * _WINDOW
        if self.end is not None:
            last = min(last, self.end)
        begin, end = self.before(first), self.before(last)
        counts = [after - before for before, after in zip(begin, end, strict=True)]
        in_order = np.repeat(np.arange(len(counts)), counts)
        size = last - first
        who = in_order[permute(np.arange(size), size, order_key("window", self._key, window))]
        given = np.empty(size, np.int64)
        for source, (start, count) in enumerate(zip(begin, counts, strict=True)):
            given[who == source] = np.arange(start, start + count)
        return Turns(who, given)

    def longest(self, lengths: list[int], until: Until) -> int:
        """How many positions there are until the first source is used up, or all are.

        Args:
            lengths: how many samples each source has.
            until: "first": no source gives a sample twice. "all": every source has given every sample at least once.
        """
        low, high = 0, 1
        while not self._over(high * _WINDOW, lengths, until):
            high *= 2
        while high - low > 1:  # windows `low` and before are inside, `high` is not
            middle = (low + high) // 2
            low, high = (low, middle) if self._over(middle * _WINDOW, lengths, until) else (middle, high)
        who, given = self._window(low)
        if until == "first":  # up to the first sample that is one too many
            beyond = given >= np.array(lengths)[who]
            return low * _WINDOW + (int(np.argmax(beyond)) if beyond.any() else _WINDOW)
        last = np.flatnonzero(given == np.array(lengths)[who] - 1)  # where a source gives its last sample
        return low * _WINDOW + (int(last[-1]) + 1 if len(last) else 0)

    def _over(self, position: int, lengths: list[int], until: Until) -> bool:
        pairs = zip(self.before(position), lengths, strict=True)
        if until == "first":
            return any(given > length for given, length in pairs)
        return all(given >= length for given, length in pairs)
