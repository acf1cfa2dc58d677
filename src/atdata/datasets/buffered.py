"""Shuffling samples that can only be read through: shards in a seeded order, and a buffer that is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from atdata.datasets.access import Access
from atdata.datasets.order import permute
from atdata.datasets.resolving import View
from atdata.datasets.sequence import pieces
from atdata.datasets.steps import NarrowingStep, Step, ValueStep, apply
from atdata.errors import AtdataError
from atdata.shards.grouping import RawSample
from atdata.shards.members import decoder

__all__ = ["BUFFER", "shuffled"]

BUFFER = 64 << 20  # bytes of samples that wait to be drawn

_WORD = (1 << 64) - 1


def shuffled(view: View, steps: tuple[Step, ...], key: int) -> Iterator[tuple[str | None, Any]]:
    """Key and sample of all samples after the steps, in an order that the key decides.

    Args:
        view: how the stored samples are read.
        steps: what happens to them.
        key: of the epoch (`atdata.datasets.order.order_key`).
    """
    decode = decoder(view.stored_type)
    count = len(view.access.refs)
    if any(isinstance(step, NarrowingStep) and step.by_number for step in steps):
        # Which samples are meant, only the stored order tells: they are chosen first, and then shuffled.
        chosen = _chosen(_all(view.access, range(count)), decode, steps)
        steps = tuple(step for step in steps if isinstance(step, ValueStep))
    else:
        chosen = _all(view.access, permute(np.arange(count), count, key).tolist())
    return apply(steps, _decoded(_drawn(chosen, key), decode))


class _Lying(NamedTuple):
    """A sample as it lies in the shard at `url`."""

    url: str
    raw: RawSample


def _all(access: Access, numbers: Sequence[int]) -> Iterator[_Lying]:
    """The samples of these shards, in order."""
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
            yield _Lying(shard.url, raw)
        if stop is None:
            access.check_count(number, count)


class _Key(str):
    """A sample's key that knows whose it is, through all steps."""

    lying: _Lying


def _chosen(samples: Iterator[_Lying], decode: Callable[[RawSample], Any], steps: tuple[Step, ...]) -> Iterator[_Lying]:
    def keyed() -> Iterator[tuple[str | None, Any]]:
        for lying in samples:
            key = _Key(lying.raw.key)
            key.lying = lying
            yield key, _decode(lying, decode)

    for key, _ in apply(steps, keyed()):
        assert isinstance(key, _Key)
        yield key.lying


def _decoded(samples: Iterator[_Lying], decode: Callable[[RawSample], Any]) -> Iterator[tuple[str | None, Any]]:
    for lying in samples:
        yield lying.raw.key, _decode(lying, decode)


def _decode(lying: _Lying, decode: Callable[[RawSample], Any]) -> Any:
    try:
        return decode(lying.raw)
    except AtdataError as error:
        error.at(url=lying.url)
        raise


def _drawn(samples: Iterator[_Lying], key: int) -> Iterator[_Lying]:
    """The samples through a buffer: once it is full, any of those in it comes next."""
    waiting: list[_Lying] = []
    held = drawn = 0

    def draw() -> _Lying:
        nonlocal held, drawn
        drawn += 1
        at = _random(key + drawn) % len(waiting)
        waiting[at], waiting[-1] = waiting[-1], waiting[at]
        found = waiting.pop()
        held -= _size(found.raw)
        return found

    for url, raw in samples:
        # A copy of its own: a view would keep more than itself in memory.
        own = RawSample(raw.key, raw.offset, {name: bytes(part) for name, part in raw.parts.items()})
        waiting.append(_Lying(url, own))
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
