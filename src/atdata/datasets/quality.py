"""How well an order mixes: one number for any order of any loader.

Take stretches of neighbouring samples, as they come out, and cut the stored order into as many cells as a stretch has
samples. In a perfect shuffle the samples of a stretch fall into about 63 % of the cells; read in order they fall into
one or two. The quality is how many cells are met on average, scaled so that the stored order has 0 and chance has 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["order_quality", "shuffle_quality"]

_LONGEST = 256  # samples of a stretch
_STRETCHES = 128  # that are looked at


def shuffle_quality(numbers: NDArray[np.int64], total: int | None = None) -> float:
    """The quality of an order that is there.

    Args:
        numbers: the samples' numbers in the stored order, as they come out; int64, of shape (samples,).
        total: how many samples there are, where these are only some of them; by default as many as `numbers`.

    Example:
        >>> shuffle_quality(np.arange(10_000))
        0.0
        >>> 0.95 < shuffle_quality(np.random.default_rng(0).permutation(10_000)) < 1.05
        True
    """
    return order_quality(lambda positions: numbers[positions], len(numbers), total)


def order_quality(
    numbers: Callable[[NDArray[np.int64]], NDArray[np.int64]], length: int, total: int | None = None
) -> float:
    """The quality of an order that is a function; only some stretches of it are looked at.

    Args:
        numbers: the samples' numbers in the stored order at these positions.
        length: how many positions there are.
        total: how many samples there are; by default as many.
    """
    total = length if total is None else total
    size = min(_LONGEST, math.isqrt(length))
    if size < 4:  # too few to tell
        return 0.0
    starts = np.unique(np.linspace(0, length - size, _STRETCHES).astype(np.int64))
    cells = [np.floor(numbers(np.arange(start, start + size)) * (size / total)) for start in starts.tolist()]
    met = [len(np.unique(found)) for found in cells]
    by_chance = size * (1 - (1 - 1 / size) ** size)
    in_order = 1 + (size - 1) * size / total
    return round(max(0.0, (float(np.mean(met)) - in_order) / (by_chance - in_order)), 3)
