"""What an epoch will take, before any sample is read: pure arithmetic over what is recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from atdata.datasets.order import Order
from atdata.datasets.quality import order_quality
from atdata.datasets.remote import GAP, WINDOW
from atdata.datasets.share import Deal, Remainder, Share

__all__ = ["Alone", "Plan", "Traffic", "make_plan", "traffic"]


@dataclass(frozen=True)
class Traffic:
    """What all readers together ask of servers in one epoch, about.

    Attributes:
        requests: ranges of shards.
        bytes: of them.
        times: by how many readers each byte is fetched.
    """

    requests: int
    bytes: int
    times: int


@dataclass(frozen=True)
class Alone:
    """How fields are fetched by themselves, about.

    Attributes:
        share: of the samples it is so; others are fetched whole.
        requests: for each of these samples.
        bytes: of each.
    """

    share: float
    requests: float
    bytes: float

    def of(self, count: int, others: Traffic) -> Traffic:
        """What `count` samples take, given what they would whole."""
        alone, rest = count * self.share, 1 - self.share
        requests = round(alone * self.requests + rest * others.requests)
        size = round(alone * self.bytes + rest * others.bytes)
        return Traffic(requests, size, others.times if rest else 1)


def traffic(order: Order, readers: int, batch: int, each: int) -> Traffic:
    """What an order takes when no range is kept from one epoch, or reader, to the next.

    Args:
        order: the order.
        readers: ranks times workers.
        batch: samples of a batch.
        each: bytes of an average sample.

    Example:
        >>> traffic(Order(1000, key=1, block=100, window=4), readers=1, batch=10, each=10_000)
        Traffic(requests=10, bytes=10000000, times=1)
    """
    total = order.length * each
    if order.key is not None and order.block == 1:  # any sample may come next
        return Traffic(order.length, total, 1)
    if order.key is None:  # neighbouring batches belong to different readers
        piece, sharing, between = batch, readers, (readers - 1) * batch * each
    else:
        piece, sharing = order.block, readers // math.gcd(readers, order.lanes)
        between = (sharing - 1) * each
    if sharing > 1 and between > GAP:
        return Traffic(-(-order.length // (batch if order.key is None else 1)), total, 1)
    if order.key is None:  # one long piece, also where others' batches are read along
        piece = max(1, WINDOW // max(each, 1))
    ranges = -(-order.length // piece) * max(1, -(-piece * each // WINDOW))
    return Traffic(sharing * ranges, sharing * total, sharing)


@dataclass(frozen=True)
class Plan:
    """What an epoch of a loader will take; `print` it.

    Attributes:
        samples: of the epoch; at most, where `exact` is False.
        exact: whether a step leaves out samples that only reading can tell.
        shards: number of stored shards.
        bytes: of all shards.
        batch_size: samples of a batch; None for single samples.
        remainder: what happens to what is left over.
        ranks: batches (or samples) of each rank: how many ranks have how many.
        workers: of each rank.
        block: samples that are shuffled as one; None for the stored order.
        window: blocks whose samples are shuffled among themselves.
        lanes: windows open at once.
        quality: of the shuffle: 0 for the stored order, 1 for a perfect one (`atdata.datasets.quality`).
        traffic: what is asked of servers; None where shards are read from local files.
        notes: what one should know besides.
    """

    samples: int
    exact: bool
    shards: int
    bytes: int
    batch_size: int | None
    remainder: Remainder
    ranks: dict[int, int]
    workers: int
    block: int | None
    window: int | None
    lanes: int
    quality: float
    traffic: Traffic | None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        most = "" if self.exact else "at most "
        lines = [f"samples   {most}{self.samples:,} in {self.shards:,} shard{_s(self.shards)}, {_bytes(self.bytes)}"]
        if self.block is None:
            lines.append("order     as stored")
        elif self.block == 1:
            lines.append(f"order     perfect shuffle; quality {self.quality}")
        else:
            lanes = f", {self.lanes} lanes" if self.lanes > 1 else ""
            blocks = f"blocks of {self.block:,} samples, {self.window} in a window{lanes}"
            lines.append(f"order     {blocks}; quality {self.quality} (0 as stored, 1 perfect)")
        what = "samples" if self.batch_size is None else f"batches of {self.batch_size}"
        shares = " or ".join(f"{count:,}" for count in sorted(self.ranks, reverse=True))
        many = sum(self.ranks.values())
        readers = f"{many} rank{_s(many)} with {self.workers} worker{_s(self.workers)}"
        lines.append(f"epoch     {most}{shares} {what} a rank ({self.remainder}); {readers}")
        if self.traffic is None:
            lines.append("reading   local files, mapped")
        else:
            requests, size, times = self.traffic.requests, self.traffic.bytes, self.traffic.times
            often = f", each byte by {times} readers" if times > 1 else ""
            lines.append(f"reading   about {requests:,} requests for {_bytes(size)} in all{often}")
        return "\n".join([*lines, *(f"note      {note}" for note in self.notes)])

    __repr__ = __str__


def make_plan(
    order: Order,
    *,
    exact: bool,
    shards: int,
    size: int,
    each: int,
    batch_size: int | None,
    remainder: Remainder,
    world_size: int,
    workers: int,
    budget: int,
    far: bool,
    seekable: bool,
    notes: list[str],
    alone: Alone | None = None,
) -> Plan:
    """The plan of an epoch in this order.

    Args:
        order: the order of the epoch.
        exact: whether its length is known, and not only a limit.
        shards: number of shards.
        size: bytes of all shards.
        each: bytes of an average sample.
        batch_size: samples of a batch; None for single samples.
        remainder: what happens to what is left over.
        world_size: number of ranks.
        workers: of each rank.
        budget: bytes that a reader may hold.
        far: whether shards lie on servers.
        seekable: whether samples can be read in any order.
        notes: what else there is to say.
        alone: how single fields are fetched; None where whole samples are.
    """
    batch, readers = batch_size or 1, world_size * workers
    ranks: dict[int, int] = {}
    # With what is left over, ranks have one of two numbers, the first ones the larger.
    first, last = (Deal(order.length, batch, Share(r, world_size), remainder).rank_batches for r in (0, world_size - 1))
    total = -(-order.length // batch)
    ranks[first] = world_size if first == last else total - last * world_size
    if first != last:
        ranks[last] = world_size - ranks[first]
    asked = None
    if far:
        through = Traffic(shards * readers, size * readers, readers)
        asked = traffic(order, readers, batch, each) if seekable else through
    shuffled, perfect = order.key is not None, order.block == 1 or (order.group >= order.length and order.lanes == 1)
    found = list(notes)
    if asked is not None and seekable and shuffled and not perfect and alone is None:
        better = traffic(replace(order, lanes=readers, batch=batch), readers, batch, each)
        if asked.times > 1 or asked.requests >= 2 * better.requests:
            found.append(f"with lanes={readers} it would be {better.requests:,} requests for {_bytes(better.bytes)}")
        if order.group * each * asked.times // readers > budget // 2:
            found.append("a reader's windows do not fit into half of the budget, and are fetched in more pieces")
    if asked is not None and alone is not None:
        asked = alone.of(order.length, asked)
    if total < readers:
        found.append(f"{readers - total} of {readers} readers get nothing: there are {total:,} batches")
    quality = order_quality(order.numbers, order.length) if shuffled else 0.0
    block = None if not shuffled else 1 if perfect else order.block
    window = order.window if block is not None and block > 1 else None
    return Plan(
        order.length, exact, shards, size, batch_size, remainder, ranks, workers, block, window, order.lanes, quality,
        asked, found,
    )  # fmt: skip


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError
