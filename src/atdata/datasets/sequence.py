"""Whole shards one after the other: piece by piece, ahead of the reader."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from atdata.datasets import checks
from atdata.datasets.access import Access
from atdata.datasets.ahead import BUDGET, Ahead, Pool, Task
from atdata.datasets.demand import Demand
from atdata.datasets.opener import Opened
from atdata.datasets.remote import Load, RemoteShard
from atdata.shards.reader import BufferShard, Shard

__all__ = ["Piece", "pieces"]

_OPEN_AHEAD = 2  # shards opened while one is read


class Piece(NamedTuple):
    """Some samples of one shard, ready to be read: from `start` up to `stop`.

    `stop` is None where only reading to the end will tell how many there are.
    """

    number: int
    shard: Shard
    start: int
    stop: int | None


def pieces(
    access: Access,
    numbers: Sequence[int] | None = None,
    row: int = 0,
    *,
    demand: Demand | None = None,
    budget: int = BUDGET,
) -> Ahead[Piece]:
    """Shards piece by piece, each checked before any byte of it is given out.

    Args:
        access: the shards.
        numbers: which of them, in the order wanted; by default all.
        row: the sample of the first one to begin with.
        demand: which fields of samples on servers are fetched; by default all.
        budget: most bytes of shards on servers that are held.
    """
    wanted = range(len(access.refs)) if numbers is None else numbers
    tasks = partial(_tasks, access, wanted, row, demand or Demand(), max(1, budget // 4))
    return Ahead(tasks, workers=access.workers, budget=budget)


def _tasks(
    access: Access, numbers: Sequence[int], row: int, demand: Demand, most: int, pool: Pool
) -> Iterator[Task[Piece]]:
    opens: dict[int, Future[Opened]] = {}
    for at, number in enumerate(numbers):
        for following in numbers[at : at + 1 + _OPEN_AHEAD]:
            if following not in opens:
                opens[following] = pool.submit(_opened, access, following)
        yield from _pieces(access, number, opens.pop(number).result(), 0 if at else row, demand, most)


def _pieces(access: Access, number: int, found: Opened, row: int, demand: Demand, most: int) -> Iterator[Task[Piece]]:
    shard = found.shard
    if isinstance(shard, RemoteShard):
        yield from _far(number, shard, row, demand, most)
    elif found.checked or not isinstance(shard, BufferShard):
        piece = Piece(number, shard, row, len(shard) if shard.manifest is not None else None)
        yield Task(0, [], partial(_ready, piece))
    else:
        yield from _checking(access, number, found, shard, row)


def _far(number: int, shard: RemoteShard, row: int, demand: Demand, most: int) -> Iterator[Task[Piece]]:
    """Runs of samples of a shard on a server, of at most so many bytes, of which is fetched what is wanted by then."""
    while row < len(shard):
        untold = demand.untold(len(shard) - row)
        if untold:
            yield _task(number, shard.load(row, row + untold, ()), row, row + untold)
            row += untold
            continue
        fields = demand.ahead()
        for start, stop in shard.runs(fields, row, most=most):
            yield _task(number, shard.load(start, stop, fields), start, stop)
            row = stop
            if demand.ahead() != fields:
                break


def _task(number: int, load: Load, start: int, stop: int) -> Task[Piece]:
    def finish(results: list[Any]) -> Piece:
        return Piece(number, load.finish(results), start, stop)

    return Task(load.size, load.jobs, finish, len(load.jobs) if load.light else 0)


def _checking(access: Access, number: int, found: Opened, shard: BufferShard, row: int) -> Iterator[Task[Piece]]:
    """Runs of samples of a local shard, each checked on the way; then the shard as a whole is known to be good."""
    left = checks.runs(shard) or []
    done = itertools.count(1)

    def check(start: int, stop: int) -> Piece:
        checks.check_rows(shard, slice(start, stop))
        if next(done) == len(left):
            access.found_good(number, found)
        return Piece(number, shard, start, stop)

    for start, stop in left:
        start = max(start, row)
        if start < stop:
            size = int(shard.manifest.sizes[start:stop].sum())  # type: ignore[union-attr]
            yield Task(size, [partial(check, start, stop)], _only)


def _opened(access: Access, number: int) -> Opened:
    """Shard `number`, checked as a whole unless it can be checked in runs."""
    found = access.current(number)
    if access.trusted(found):
        return found
    if isinstance(found.shard, BufferShard) and checks.runs(found.shard):
        return found._replace(checked=False)
    return access.checked(number)


def _only(results: list[Piece]) -> Piece:
    return results[0]


def _ready(piece: Piece, results: list[Piece]) -> Piece:
    return piece
