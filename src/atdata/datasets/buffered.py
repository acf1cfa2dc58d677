"""Shuffling samples that can only be read through: shards in a seeded order, and a buffer that is drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from atdata.datasets.access import Access
from atdata.datasets.order import permute
from atdata.datasets.resolving import View
from atdata.datasets.sequence import pieces
from atdata.errors import AtdataError
from atdata.shards.grouping import RawSample
from atdata.shards.members import decoder

__all__ = ["BUFFER", "shuffled"]

BUFFER = 64 << 20  # bytes of samples that wait to be drawn

_WORD = (1 << 64) - 1


def shuffled(view: View, key: int) -> Iterator[tuple[str, Any]]:
    """Key and sample of all stored samples, in an order that the key decides.

    Args:
        view: how they are read.
        key: of the epoch (`atdata.datasets.order.order_key`).
    """
    decode = decoder(view.stored_type)
    for url, raw in _drawn(_all(view.access, key), key):
        try:
            sample = decode(raw)
        except AtdataError as error:
            error.at(url=url)
            raise
        yield raw.key, sample


def _all(access: Access, key: int) -> Iterator[tuple[str, RawSample]]:
    """URL of the shard, and sample as it lies there, the shards in a seeded order."""
    numbers = permute(np.arange(len(access.refs)), len(access.refs), key).tolist()
    for number, shard, start, stop in pieces(access, numbers):
        count = 0
        raws = shard.raw(start, stop)
        while True:
            try:
                raw = next(raws, None)
            except AtdataError as error:
                error.at(url=shard.url)
                raise
            if raw is None:
                break
            count += 1
            yield shard.url, raw
        if stop is None:
            access.check_count(number, count)


def _drawn(samples: Iterator[tuple[str, RawSample]], key: int) -> Iterator[tuple[str, RawSample]]:
    """The samples through a buffer: once it is full, any of those in it comes next."""
    waiting: list[tuple[str, RawSample]] = []
    held = drawn = 0

    def draw() -> tuple[str, RawSample]:
        nonlocal held, drawn
        drawn += 1
        at = _random(key + drawn) % len(waiting)
        waiting[at], waiting[-1] = waiting[-1], waiting[at]
        found = waiting.pop()
        held -= _size(found[1])
        return found

    for url, raw in samples:
        # A copy of its own: a view would keep more than itself in memory.
        own = RawSample(raw.key, raw.offset, {name: bytes(part) for name, part in raw.parts.items()})
        waiting.append((url, own))
        held += _size(own)
        while held > BUFFER:
            yield draw()
    while waiting:
        yield draw()


def _size(raw: RawSample) -> int:
    return 512 + sum(map(len, raw.parts.values()))  # and what it takes besides its bytes


def _random(word: int) -> int:
    """splitmix64, which NumPy's generators are not promised to stay (Steele, Lea and Flood, 2014)."""
    word = (word * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
