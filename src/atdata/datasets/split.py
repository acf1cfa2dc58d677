"""Splitting a dataset by the hash of each sample's key, so that a sample stays in its part when others come.

The hash of a key is the first 8 bytes, big-endian, of SHA-256 of the text `{seed}:{key}` in UTF-8. Where a part is
split again it is `{seed}/2:{key}`, and so on, as its keys' first hashes are all in one range. Numbers from 0 up to 2⁶⁴
are cut at the running totals of the fractions, as decimals, times 2⁶⁴, rounded; a sample belongs to the part that its
hash falls into. In SQL, for the first 0.9 with seed 1: `sha256('1:' || key) < 'e666666666666666'`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atdata.datasets.access import Access
from atdata.datasets.resolving import View
from atdata.datasets.selection import Rows, Selection
from atdata.datasets.steps import Keyed, NarrowingStep
from atdata.errors import DatasetError

__all__ = ["HashRange", "Split", "hash_ranges", "key_hashes"]

_ALL = 1 << 64
_ROUNDING = 1e-9  # what three times 1 / 3 may be away from 1


class HashRange(NamedTuple):
    """The keys whose hash with `salt` (the seed, see above) is from `start` up to `stop`."""

    salt: str
    start: int
    stop: int

    def holds(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each of the keys is among them, of shape (len(keys),)."""
        hashes = key_hashes(keys, self.salt)
        return (hashes >= self.start) & (hashes <= self.stop - 1)


def key_hashes(keys: Sequence[str], salt: str) -> NDArray[np.uint64]:
    """The hash of each key, uint64.

    Example:
        >>> key_hashes(["000000000", "000000001"], "1")
        array([ 4203036873411422110, 17353300250367565578], dtype=uint64)
    """
    sha256, prefix = hashlib.sha256, f"{salt}:"
    digests = b"".join([sha256((prefix + key).encode("utf-8", "surrogatepass")).digest() for key in keys])
    return np.frombuffer(digests, ">u8")[::4].astype(np.uint64)


def hash_ranges(fractions: Sequence[float], seed: int, before: int = 0) -> list[HashRange]:
    """One range for each part, which together hold every hash once.

    Args:
        fractions: the share of each part, together 1; a single one has the rest as the second part.
        seed: another seed gives another split.
        before: how often the dataset was split already.

    Raises:
        ValueError: a fraction is not between 0 and 1, or they do not add up to 1.

    Example:
        >>> [r.stop / 2**64 for r in hash_ranges([0.75], seed=0)]
        [0.75, 1.0]
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"the seed of a split is an int, not {seed!r}")
    for fraction in fractions:
        if not 0 < float(fraction) < 1:
            raise ValueError(f"a fraction is more than 0 and less than 1, not {fraction!r}")
    # As they are written: so 0.7 and 0.2 end where 0.9 does, which sums of floats do not.
    shares = [Fraction(str(float(fraction))) for fraction in fractions]
    if len(shares) == 1:
        shares.append(1 - shares[0])
    total = sum(shares, Fraction())
    if abs(float(total - 1)) > _ROUNDING:
        raise ValueError(
            f"the fractions must add up to 1: {' + '.join(map(str, fractions)) or 'none'} is {float(total):.12g}"
        )
    ends = [round(total * _ALL) for total in itertools.accumulate(shares)]
    salt = f"{seed}/{before + 1}" if before else str(seed)
    return [HashRange(salt, start, stop) for start, stop in itertools.pairwise([0, *ends[:-1], _ALL])]


@dataclasses.dataclass(frozen=True)
class Split(NarrowingStep):
    """Only the samples whose key is in one part of a split."""

    part: HashRange

    @property
    def identity(self) -> str:
        """The seed and the limits."""
        salt, start, stop = self.part
        return f"{salt}:{start:x}-{stop:x}"

    def count_after(self, count: int) -> int | None:
        """Only the keys tell, unless there is none to begin with."""
        return 0 if count == 0 else None

    def narrow(self, selection: Selection, view: View) -> Selection:
        """By the keys in the manifests, several of which are read at a time."""
        access = view.access

        parts = {part.shard: part.rows for part in selection.parts()}
        answers = access.each(parts, lambda shard: self.part.holds(_keys(access, shard, parts[shard])))
        with contextlib.closing(answers):
            return selection.within(lambda shard, rows: next(answers))

    def run(self, samples: Keyed) -> Keyed:
        """The step over a stream of samples."""
        for key, sample in samples:
            if key is None:
                raise DatasetError(
                    "a dataset is split by the keys of its samples, and these in memory have none: give "
                    "Dataset.from_samples a key=, or write them with a store's write_shards first"
                )
            if self.part.holds([key])[0]:
                yield key, sample


def _keys(access: Access, number: int, rows: Rows) -> list[str]:
    manifest = access.columns(number, ["__key__"])
    if manifest is None:
        shard = access.current(number).shard
        return [shard.key(row) for row in rows]
    column = manifest.table["__key__"]
    if isinstance(rows, range):
        return list(column.slice(rows.start, len(rows)).to_pylist())
    keys = column.to_pylist()
    return [keys[row] for row in rows.tolist()]
