"""Who reads what: the batches of an epoch dealt out to ranks and workers by arithmetic.

Batch b of an epoch is the samples at positions b * size up to (b + 1) * size. Rank r of R takes the batches r, r + R,
r + 2 R, …, and of those its worker w of W takes number w, w + W, … (the turns in which a torch DataLoader asks its
workers). So every batch is read by exactly one of them, and which samples it has does not depend on R and W.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Deal", "Ranks", "Remainder", "Share", "check_ranks", "find_ranks", "find_share"]

Remainder = Literal["uneven", "drop", "pad"]


class Ranks(NamedTuple):
    """One process of several that train together: number `rank` of `world_size`."""

    rank: int
    world_size: int


@dataclass(frozen=True)
class Share:
    """One reader of several: rank `rank` of `world_size`, and of its workers number `worker` of `workers`."""

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    workers: int = 1

    @property
    def count(self) -> int:
        """How many readers there are in all."""
        return self.world_size * self.workers


def find_ranks() -> Ranks | None:
    """Which rank this process has: from torch.distributed where that is in use; None where nothing says so."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return Ranks(distributed.get_rank(), distributed.get_world_size())
    return None


def find_share(given: Ranks | None = None, inherited: Ranks | None = None) -> Share:
    """The share of this process.

    Args:
        given: the rank, where the user says it. Else it is that of torch.distributed where that is in use, else
            `inherited`, else what the environment variables RANK and WORLD_SIZE say, else this is the only one.
        inherited: what the process had that this one was started by.

    The worker is found where this is a worker of a torch DataLoader. torch is never imported for that.

    Raises:
        ValueError: RANK and WORLD_SIZE make no sense.
    """
    ranks = given or find_ranks() or inherited or _from_environment() or Ranks(0, 1)
    data: Any = sys.modules.get("torch.utils.data")
    info = data.get_worker_info() if data is not None else None
    return Share(*ranks) if info is None else Share(*ranks, info.id, info.num_workers)


def _from_environment() -> Ranks | None:
    rank, world_size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world_size is None:
        return None
    try:
        return check_ranks(int(rank), int(world_size))
    except ValueError:
        raise ValueError(
            f"the environment variables RANK={rank!r} and WORLD_SIZE={world_size!r} do not name one of several ranks; "
            "mend them, unset them, or give rank= and world_size="
        ) from None


def check_ranks(rank: int, world_size: int) -> Ranks:
    """The two as one; ValueError where there can be no such rank."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is one of range(world_size), not {rank} of {world_size}")
    return Ranks(rank, world_size)


@dataclass(frozen=True)
class Deal:
    """Which batches of an epoch one share takes, from position `start` on.

    Attributes:
        length: samples of the epoch.
        size: samples of a batch.
        share: whose batches these are.
        remainder: what happens to the samples that are left over. "uneven": they are given out, and ranks may differ
            by one batch, of which the last may be small. "drop": they are not; every rank has as many batches, all
            whole. "pad": every rank has as many batches, all whole, the missing samples taken from the first batch.
        start: the position of the first batch; all shares have to begin at the same.
    """

    length: int
    size: int
    share: Share = Share()
    remainder: Remainder = "uneven"
    start: int = 0

    @property
    def rank_batches(self) -> int:
        """Number of batches of the whole rank."""
        left = max(0, self.length - self.start)
        rank, ranks = self.share.rank, self.share.world_size
        if self.remainder == "drop":
            return left // self.size // ranks
        batches = -(-left // self.size)
        return -(-batches // ranks) if self.remainder == "pad" else max(0, -((rank - batches) // ranks))

    def __len__(self) -> int:
        return max(0, -((self.share.worker - self.rank_batches) // self.share.workers))

    def begins(self, number: int) -> int:
        """The position of the first sample of this share's batch `number`."""
        share = self.share
        return self.start + (share.rank + share.world_size * (share.worker + share.workers * number)) * self.size

    def positions(self, first: int, last: int) -> NDArray[np.int64]:
        """The positions of this share's batches from number `first` up to `last`, one after the other.

        All batches but the last have `size` positions. Those that pad are `length` or more: see `wrap`.
        """
        begin = self.begins(first) + self.share.count * self.size * np.arange(last - first)
        found = (begin[:, None] + np.arange(self.size)).reshape(-1)
        return found if self.remainder == "pad" else found[found < self.length]

    def wrap(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the samples at these positions are taken from: those that pad are again the first batch's."""
        first = max(1, min(self.size, self.length))
        return np.where(positions < self.length, positions, (positions - self.length) % first)

    def valid(self, number: int) -> NDArray[np.bool_] | None:
        """Which samples of batch `number` are no padding, of shape (size,); None when all are."""
        begin = self.begins(number)
        if self.remainder != "pad" or begin + self.size <= self.length:
            return None
        return np.arange(begin, begin + self.size) < self.length

    def after(self, number: int) -> int:
        """The position at which an epoch goes on when every share has taken `number` batches."""
        return min(self.start + number * self.share.count * self.size, self.end)

    @property
    def end(self) -> int:
        """The position after the last batch of all shares."""
        if self.remainder == "drop":
            return self.start + self.rank_batches * self.share.world_size * self.size
        return max(self.start, self.length)
