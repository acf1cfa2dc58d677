"""One epoch of one share, batch by batch, in each of the ways in which samples can be had."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atdata.datasets.ahead import Ahead
from atdata.datasets.asking import Asked
from atdata.datasets.batch import SampleBatch
from atdata.datasets.columns import Lying, Run, Runs, Stretch, joined
from atdata.datasets.demand import Demand
from atdata.datasets.fetching import Fetching, Wanted
from atdata.datasets.order import Order
from atdata.datasets.resolving import View
from atdata.datasets.selection import Places, Selection
from atdata.datasets.sequence import Piece, pieces
from atdata.datasets.share import Deal
from atdata.shards.reader import BufferShard

__all__ = ["Progress", "dealt", "exactly", "in_memory", "in_sequence"]

_AT_ONCE = 32 << 20  # bytes of samples that are read together
_MOST = 1 << 16  # samples that are read together

Register = Callable[[Ahead[Any]], None]


class Progress:
    """How far an epoch has been read.

    Attributes:
        done: batches that this share has given out.
        end: the position after the last batch, where known.
        finished: whether it was read to the end.
    """

    def __init__(self, start: int, step: int, end: int | None = None) -> None:
        self._start = start
        self._step = step
        self.done = 0
        self.end = end
        self.finished = False

    @property
    def position(self) -> int:
        """The position at which the epoch goes on when all shares are as far as this one."""
        here = self._start + self.done * self._step
        if self.end is None:
            return here
        return self.end if self.finished else min(here, self.end)

    def finish(self, end: int) -> None:
        """Take note that there is no more."""
        self.end = end
        self.finished = True


def in_sequence(
    view: View,
    limit: int | None,
    start: int,
    size: int | None,
    sample_type: type,
    progress: Progress,
    register: Register,
    demand: Demand,
    *,
    budget: int,
) -> Iterator[Any]:
    """Samples as they are stored, one shard after the other; batches of `size`, the last of which may be smaller.

    Args:
        view: how stored samples are seen.
        limit: how many samples there are at most.
        start: the number of the first.
        size: samples of a batch; None for single samples.
        sample_type: the class of the samples after all steps.
        progress: counts what is given out.
        register: is told what works in the background.
        demand: which fields are fetched of samples on servers.
        budget: most bytes to hold of shards on servers.
    """
    left = (1 << 62 if limit is None else limit) - start
    if left <= 0 or (start and start >= view.access.length()):
        progress.finish(start)
        return
    number, row = view.access.place(start) if start else (0, 0)
    if size is not None and view.access.asks and view.access.counted:
        # Until a batch is whole its reader keeps the pieces it is made of, and then has it besides.
        budget -= min(budget // 2, 2 * size * view.access.bytes_each())
    reading = pieces(view.access, range(number, len(view.access.refs)), row, demand=demand, budget=budget)
    register(reading)
    if size is None:
        some = _samples(view, reading, row, progress)
        yield from some if limit is None else itertools.islice(some, left)
        progress.finish(start + progress.done)
        return
    count = 0
    for batch in _batches(view, reading, row, size, left, sample_type, demand):
        count += len(batch)
        progress.done += 1
        if len(batch) < size:
            progress.end = start + count
        yield batch
    progress.finish(start + count)


def _samples(view: View, reading: Iterable[Piece], row: int, progress: Progress) -> Iterator[Any]:
    for number, shard, start, stop in reading:
        found = view.shard(shard, start, stop)
        if stop is not None:
            for sample in found:
                progress.done += 1
                yield sample
            continue
        count = start
        for sample in found:
            count += 1
            progress.done += 1
            yield sample
        view.access.check_count(number, count)


def _batches(
    view: View, reading: Iterable[Piece], row: int, size: int, left: int, sample_type: type, demand: Demand
) -> Iterator[SampleBatch[Any]]:
    runs: list[Run] = []
    have = 0
    waiting: list[Any] = []  # samples that had to be decoded: of shards without a manifest, or for a step
    for number, shard, start, stop in reading:
        if isinstance(shard, BufferShard) and stop is not None and view.lies:
            at = start
            while at < stop and left:
                n = min(size - have - len(waiting), stop - at, left)
                runs.append(Run(shard, at, at + n, number))
                at, have, left = at + n, have + n, left - n
                if have + len(waiting) == size:
                    yield _batch(view, waiting, runs, sample_type, demand)
                    runs, have, waiting = [], 0, []
        else:
            # From here on samples are decoded; what waits of earlier shards is decoded with them.
            if runs:
                waiting += _lying(view, runs, demand).samples(sample_type)
            runs, have = [], 0
            count = start
            for sample in view.shard(shard, start, stop):
                count += 1
                waiting.append(sample)
                left -= 1
                if len(waiting) == size:
                    yield SampleBatch(waiting, sample_type)
                    waiting = []
                if left == 0:
                    break
            else:
                if stop is None:
                    view.access.check_count(number, count)
        if left == 0:
            break
    if runs or waiting:
        yield _batch(view, waiting, runs, sample_type, demand)


def _batch(view: View, waiting: list[Any], runs: list[Run], sample_type: type, demand: Demand) -> SampleBatch[Any]:
    if not waiting:
        return SampleBatch.of_lying(_lying(view, runs, demand), sample_type)
    return SampleBatch(waiting + (_lying(view, runs, demand).samples(sample_type) if runs else []), sample_type)


def _lying(view: View, runs: list[Run], demand: Demand) -> Lying:
    lying = Runs(runs)
    return view.lying(Asked(view.access, lying.places, lying, demand) if view.access.asks else lying)


def exactly(
    view: View,
    selection: Selection,
    order: Order,
    deal: Deal,
    sample_type: type,
    progress: Progress,
    register: Register,
    demand: Demand,
    *,
    single: bool,
    budget: int,
) -> Iterator[Any]:
    """Batches of samples that are found by their number.

    Args:
        view: how stored samples are seen.
        selection: which there are.
        order: which comes when.
        deal: which batches to give.
        sample_type: the class of the samples after all steps.
        progress: counts the batches.
        register: is told what works in the background.
        demand: which fields are fetched of samples on servers.
        single: give samples, not batches of one.
        budget: most bytes to hold of shards on servers.
    """
    if not len(deal):
        progress.finish(deal.end)
        return
    each = max(1, view.access.bytes_each())
    near = view.access.settled  # nothing is fetched, and nothing held
    # A window that is read in two parts cuts each of its blocks in two, or more: twice the requests.
    window = order.group if order.group * each <= budget // 2 else 1
    most = _MOST if near else min(_MOST, max(window, 1, min(_AT_ONCE, budget // 2) // each))
    wanted = _wanted(selection, order, deal, most, apart=not near, tells=demand.asks)
    reading = Fetching(view.access, wanted, demand, budget=budget).read()
    register(reading)
    if single:
        for stretch in reading:
            for sample in view.decoded(stretch, 0, len(stretch)):
                progress.done += 1
                yield sample
        progress.finish(deal.end)
        return
    pads = deal.remainder == "pad"
    for parts in _batched(reading, deal.size):
        valid = deal.valid(progress.done) if pads else None
        progress.done += 1
        if view.lies:
            yield SampleBatch.of_lying(_parts(view, parts, demand), sample_type, valid)
        else:
            samples = [sample for part in parts for sample in view.decoded(*part)]
            yield SampleBatch(samples, sample_type, valid)
    progress.finish(deal.end)


def _parts(view: View, parts: list[tuple[Stretch, int, int]], demand: Demand) -> Lying:
    found = [stretch.part(start, stop) for stretch, start, stop in parts]
    lying = found[0] if len(found) == 1 else joined(found)
    if not view.access.asks:
        return view.lying(lying)

    def places() -> Places:
        each = [stretch.places(start, stop) for stretch, start, stop in parts]
        return Places(*(np.concatenate(numbers) for numbers in zip(*each, strict=True)))

    return view.lying(Asked(view.access, places, lying, demand))


def _batched(reading: Iterable[Stretch], size: int) -> Iterator[list[tuple[Stretch, int, int]]]:
    """The parts of stretches that make up each batch: mostly one, two where a stretch ends."""
    parts: list[tuple[Stretch, int, int]] = []
    missing = size
    for stretch in reading:
        at, count = 0, len(stretch)
        if parts:
            at = min(missing, count)
            parts.append((stretch, 0, at))
            missing -= at
            if missing:
                continue
            yield parts
        end = count - (count - at) % size
        for start in range(at, end, size):
            yield [(stretch, start, start + size)]
        parts, missing = ([(stretch, end, count)], size - count + end) if end < count else ([], size)
    if parts:
        yield parts


def _wanted(selection: Selection, order: Order, deal: Deal, most: int, *, apart: bool, tells: bool) -> Iterator[Wanted]:
    """The samples of the deal's batches, at most so many at once; `apart`, never of two groups of the order.

    Where the first batch `tells` what is wanted of the others, it comes by itself.
    """
    held: list[NDArray[np.int64]] = []

    def together() -> Wanted:
        positions = np.concatenate(held) if len(held) > 1 else held[0]
        held.clear()
        return Wanted(selection.places(order.numbers(positions)))

    if tells:
        yield Wanted(selection.places(order.numbers(deal.wrap(deal.positions(0, 1)))))
    at_once = max(1, most // deal.size)
    for first in range(int(tells), len(deal), at_once):
        positions = deal.wrap(deal.positions(first, min(first + at_once, len(deal))))
        if not apart:
            yield Wanted(selection.places(order.numbers(positions)))
            continue
        groups = positions // order.group if order.group > 1 else np.zeros(len(positions), np.int64)
        bounds = (np.flatnonzero(groups[1:] != groups[:-1]) + 1).tolist()
        for start, stop in itertools.pairwise([0, *bounds, len(positions)]):
            piece = positions[start:stop]
            full = sum(map(len, held)) + len(piece) > most
            if held and (full or held[0][0] // order.group != piece[0] // order.group):
                yield together()
            held.append(piece)
        if order.group == 1:
            yield together()
    if held:
        yield together()


def in_memory(
    samples: Sequence[Any],
    finish: Callable[[Any], Any],
    order: Order,
    deal: Deal,
    sample_type: type,
    progress: Progress,
    *,
    single: bool,
) -> Iterator[Any]:
    """Batches of samples that are in memory; `finish` makes of each what the steps say."""
    for number in range(len(deal)):
        positions = deal.wrap(deal.positions(number, number + 1))
        some = [finish(samples[at]) for at in order.numbers(positions).tolist()]
        progress.done += 1
        yield some[0] if single else SampleBatch(some, sample_type, deal.valid(number))
    progress.finish(deal.end)


def dealt(samples: Iterator[Any], deal: Deal, sample_type: type, progress: Progress, *, single: bool) -> Iterator[Any]:
    """Batches of samples that come in a fixed order, and nobody knows how many: every share goes through all of them.

    Args:
        samples: all samples of the epoch.
        deal: which batches to give; its length is not used.
        sample_type: the class of the samples.
        progress: counts the batches.
        single: give samples, not batches of one.
    """
    size, share = deal.size, deal.share
    first: list[Any] = []  # what pads
    mine: list[Any] = []
    count = 0
    pad = deal.remainder == "pad"
    for position, sample in enumerate(samples):
        count = position + 1
        if pad and position < size:
            first.append(sample)
        if position < deal.start:
            continue
        batch, place = divmod(position - deal.start, size)
        if batch % share.world_size == share.rank and batch // share.world_size % share.workers == share.worker:
            mine.append(sample)
        # Where all ranks have as many batches, one is given out only when there is one for everybody.
        wait = 1 if deal.remainder != "drop" else share.world_size
        if len(mine) == size and place == size - 1 and (wait == 1 or batch % wait == wait - 1):
            progress.done += 1
            yield mine[0] if single else SampleBatch(mine, sample_type)
            mine = []
    whole = Deal(count, size, share, deal.remainder, min(deal.start, count))
    if progress.done < len(whole):  # what is not whole, or is missing
        valid = whole.valid(progress.done)
        if pad:
            mine += [first[at] for at in whole.wrap(whole.positions(progress.done, progress.done + 1))[len(mine) :]]
        progress.done += 1
        progress.end = whole.end
        yield mine[0] if single else SampleBatch(mine, sample_type, valid)
    progress.finish(whole.end)
