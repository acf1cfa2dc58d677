"""Which sample comes when: pure functions of the dataset, a seed, an epoch and a position.

No list of samples is kept. A permutation of many numbers is a cipher on the smallest power of two that is not below
their number n, repeated until the result is below n (cycle walking; Black and Rogaway, "Ciphers with Arbitrary Finite
Domains", 2002). So the sample at position 10⁹ is found as fast as the first, and an order of 10⁹ takes no memory.

What follows is fixed, as states saved by one version have to mean the same order in all:

- **Up to 2048 numbers** are sorted by a hash: number i by splitmix64 of `key + (i + 1) * 0xD1B54A32D192ED03`.
- **The cipher.** Of b bits in all, b // 2 are the upper half of a number, the others the lower. In each of 8 rounds one
  half is XORed with the upper bits of a 32-bit hash of the other one: first the upper half, then the lower, and so on.
  The hash of x with round key k is, modulo 2³², `x = x * 0x9E3779B1 + k; x ^= x >> 15; x *= 0x85EBCA77; x ^= x >> 13;
  x *= 0xC2B2AE3D`. Round key i is the upper half of splitmix64 of `key + (i + 1) * 0xD1B54A32D192ED03`.
- **The seed.** A key is the first 8 bytes, little-endian, of SHA-256 of the text `atdata order 1`, the dataset's
  digest, the seed and the epoch, with a line feed after each.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atdata.forks import cached_property

__all__ = ["Order", "order_key", "permute", "unpermute"]

Positions = NDArray[np.int64]

_ROUNDS = 8
_SORTED = 2048  # numbers up to which sorting is as fast, and a better permutation
_WORD = (1 << 64) - 1
_ODD = 0xD1B54A32D192ED03


def order_key(digest: str, seed: int, epoch: int) -> int:
    """The key of one epoch's order: 64 bits that are the same on every machine.

    Example:
        >>> hex(order_key("", 0, 0))
        '0xf36ef97018c9f90f'
    """
    text = f"atdata order 1\n{digest}\n{seed}\n{epoch}\n"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def permute(numbers: Positions, n: int, key: int) -> Positions:
    """Where a keyed permutation of range(n) takes these numbers.

    Args:
        numbers: int64, each in range(n).
        n: how many numbers there are, up to 2⁶².
        key: of the permutation, 64 bits.

    Example:
        >>> permute(np.arange(5), 5, key=1)
        array([1, 4, 2, 0, 3])
    """
    return _table(n, key)[0][numbers] if n <= _SORTED else _walk(numbers, n, key, inverse=False)


def unpermute(numbers: Positions, n: int, key: int) -> Positions:
    """The inverse of `permute`.

    Example:
        >>> unpermute(permute(np.arange(5), 5, key=1), 5, key=1)
        array([0, 1, 2, 3, 4])
    """
    return _table(n, key)[1][numbers] if n <= _SORTED else _walk(numbers, n, key, inverse=True)


@functools.lru_cache(64)
def _table(n: int, key: int) -> tuple[Positions, Positions]:
    """A permutation of few numbers, and its inverse."""
    there = np.argsort(_mix(_seeds(n, key)), kind="stable")
    back = np.empty_like(there)
    back[there] = np.arange(n)
    return there, back


def _seeds(count: int, key: int) -> NDArray[np.uint64]:
    return np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_ODD) + np.uint64(key)


def _walk(numbers: Positions, n: int, key: int, *, inverse: bool) -> Positions:
    steps = (_mix(_seeds(_ROUNDS, key)) >> 32).astype(np.uint32)
    found = _cipher(numbers, n, steps, inverse)
    outside = np.flatnonzero(found >= n)
    while len(outside):
        again = _cipher(found[outside], n, steps, inverse)
        found[outside] = again
        outside = outside[again >= n]
    return found


def _cipher(numbers: Positions, n: int, steps: NDArray[np.uint32], inverse: bool) -> Positions:
    bits = (n - 1).bit_length()
    above, below = bits // 2, bits - bits // 2
    upper = (numbers >> below).astype(np.uint32)
    lower = (numbers & ((1 << below) - 1)).astype(np.uint32)
    for i in reversed(range(_ROUNDS)) if inverse else range(_ROUNDS):
        one, other, width = (lower, upper, above) if i % 2 == 0 else (upper, lower, below)
        mixed = one * np.uint32(0x9E3779B1)
        mixed += steps[i]
        mixed ^= mixed >> np.uint32(15)
        mixed *= np.uint32(0x85EBCA77)
        mixed ^= mixed >> 13
        mixed *= np.uint32(0xC2B2AE3D)
        mixed >>= 32 - width
        other ^= mixed
    return (upper.astype(np.int64) << below) | lower


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 (Steele, Lea and Flood, 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@dataclass(frozen=True)
class Order:
    """The order of an epoch: which sample stands at which position.

    Blocks of neighbouring samples are permuted; then the samples of `window` consecutive blocks are permuted among
    themselves. A block is read as one piece, so long blocks are cheap to fetch, and a wide window mixes well. Blocks of
    one sample, or a window of all blocks, give a perfect shuffle: every sample may stand anywhere.

    With several lanes that many windows are open at once, and batches are taken from them in turn. Readers whose number
    divides the number of lanes then have windows of their own, and no block is fetched by two of them.

    Attributes:
        length: number of samples.
        key: of the epoch (`order_key`); None for the order in which they are stored.
        block: samples of a block.
        window: blocks of a window.
        lanes: windows open at once.
        batch: samples that are taken from one lane in a row; without meaning for one lane.
    """

    length: int
    key: int | None = None
    block: int = 1
    window: int = 1
    lanes: int = 1
    batch: int = 1

    @cached_property
    def group(self) -> int:
        """Positions of one group: the samples in `range(k * group, (k + 1) * group)` lie in the same few blocks.

        1 where every sample may lie anywhere, or where all lie in order.
        """
        if self.key is None or self.block == 1:
            return 1
        span = self.block * self.window
        if self.lanes > 1:  # whole batches for every lane
            share = self.lanes * self.batch
            span = -(-span * self.lanes // share) * share
        return min(span, max(self.length, 1))

    def numbers(self, positions: Positions) -> Positions:
        """The samples that stand at these positions.

        Args:
            positions: int64, each in range(length).

        Returns:
            Sample numbers, int64, as many.

        Raises:
            IndexError: a position is outside of range(length).

        Example:
            >>> Order(10, key=order_key("", 0, 0), block=2, window=2).numbers(np.arange(10))
            array([6, 3, 2, 7, 9, 1, 8, 0, 5, 4])
        """
        self._check(positions)
        if self.key is None:
            return positions.copy()
        if self.block == 1 or (self.group >= self.length and self.lanes == 1):
            return permute(positions, self.length, self._key(0))
        return self._from_blocks(self._in_windows(positions))

    def positions(self, numbers: Positions) -> Positions:
        """Where these samples stand: the inverse of `numbers`.

        Raises:
            IndexError: a number is outside of range(length).
        """
        self._check(numbers)
        if self.key is None:
            return numbers.copy()
        if self.block == 1 or (self.group >= self.length and self.lanes == 1):
            return unpermute(numbers, self.length, self._key(0))
        return self._out_of_windows(self._to_blocks(numbers))

    def _check(self, given: Positions) -> None:
        if len(given) and (int(given.min()) < 0 or int(given.max()) >= self.length):
            raise IndexError(f"positions from {given.min()} to {given.max()} are not all in range({self.length})")

    def _key(self, number: int) -> int:
        """The key of permutation `number` of this epoch: 0 for the blocks, from 1 on for the windows."""
        assert self.key is not None
        return int(_mix(np.array([(self.key + number * 0xA0761D6478BD642F) & _WORD], np.uint64))[0])

    # -- windows: what stands at a position among the blocks laid out one after the other ------------------------

    def _lane_starts(self, size: int) -> list[int]:
        """Where in a group of `size` samples each lane begins, and where the last ends: each has whole batches."""
        if self.lanes == 1:
            return [0, size]
        batches, rest = divmod(size, self.batch)
        each, more = divmod(batches, self.lanes)  # the batch that is not whole comes last, in lane `more`
        starts = [(lane * each + min(lane, more)) * self.batch for lane in range(self.lanes + 1)]
        return [start + (rest if lane > more else 0) for lane, start in enumerate(starts)]

    def _groups(self, places: Positions) -> Iterator[tuple[int, list[int], Any, Positions]]:
        """For each group among the places: its number, its lanes, which places are in it, and where in it."""
        for group, which in _runs(places // self.group):
            begin = group * self.group
            yield group, self._lane_starts(min(self.group, self.length - begin)), which, places[which] - begin

    def _in_windows(self, positions: Positions) -> Positions:
        found = np.empty_like(positions)
        for group, starts, which, at in self._groups(positions):
            if self.lanes > 1:
                number, offset = np.divmod(at, self.batch)
                turn, lanes = np.divmod(number, self.lanes)
                at = turn * self.batch + offset
            else:
                lanes = np.zeros(1, np.int64)
            for lane, those in _runs(lanes):
                begin, end = starts[lane], starts[lane + 1]
                at[those] = begin + permute(at[those], end - begin, self._key(1 + group * self.lanes + lane))
            found[which] = group * self.group + at
        return found

    def _out_of_windows(self, places: Positions) -> Positions:
        found = np.empty_like(places)
        for group, starts, which, at in self._groups(places):
            lanes = np.searchsorted(starts, at, "right") - 1 if self.lanes > 1 else np.zeros(1, np.int64)
            for lane, those in _runs(lanes):
                begin, end = starts[lane], starts[lane + 1]
                at[those] = unpermute(at[those] - begin, end - begin, self._key(1 + group * self.lanes + lane))
            if self.lanes > 1:
                turn, offset = np.divmod(at, self.batch)
                at = (turn * self.lanes + lanes) * self.batch + offset
            found[which] = group * self.group + at
        return found

    # -- blocks: which of them lies where -----------------------------------------------------------------------

    @cached_property
    def _short(self) -> tuple[int, int, int]:
        """Number of blocks, samples that the last block has too few, and where it comes to lie."""
        blocks = -(-self.length // self.block)
        slot = int(unpermute(np.array([blocks - 1]), blocks, self._key(0))[0])
        return blocks, blocks * self.block - self.length, slot

    def _from_blocks(self, places: Positions) -> Positions:
        blocks, missing, slot = self._short
        if missing:
            places = places + np.where(places >= (slot + 1) * self.block - missing, missing, 0)
        slots = places // self.block
        offsets = places - slots * self.block
        low, high = (int(slots.min()), int(slots.max())) if len(slots) else (0, 0)
        if high - low < len(slots):  # neighbours, as in a window: each block once
            table = permute(np.arange(low, high + 1), blocks, self._key(0))
            return table[slots - low] * self.block + offsets
        return permute(slots, blocks, self._key(0)) * self.block + offsets

    def _to_blocks(self, numbers: Positions) -> Positions:
        blocks, missing, slot = self._short
        found, offsets = np.divmod(numbers, self.block)
        slots = unpermute(found, blocks, self._key(0))
        return slots * self.block + offsets - np.where(slots > slot, missing, 0)


def _runs(values: Positions) -> Iterator[tuple[int, Any]]:
    """Each value there is, and which places have it."""
    if not len(values):
        return
    if (values == values[0]).all():
        yield int(values[0]), slice(None)
        return
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    bounds = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(values)]
    for start, stop in itertools.pairwise(bounds):
        yield int(ordered[start]), order[start:stop]
