"""All samples of a dataset in their order: shard by shard, piece by piece, ahead of the reader."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from atdata.datasets import checks
from atdata.datasets.access import Access, Opened
from atdata.datasets.ahead import BUDGET, Ahead, Pool, Task
from atdata.datasets.remote import RemoteShard
from atdata.shards.reader import BufferShard, Shard

__all__ = ["Piece", "Sequence"]

_OPEN_AHEAD = 2  # shards opened while one is read


class Piece(NamedTuple):
    """Some samples of one shard, ready to be read: from `start` up to `stop`.

    `stop` is None where only reading to the end will tell how many there are.
    """

    number: int
    shard: Shard
    start: int
    stop: int | None


class Sequence:
    """The pieces of a dataset's shards, in order, each checked before any byte of it is given out.

    Args:
        access: the shards.
        first: the shard to begin with.
        row: the sample of it to begin with.
        budget: most bytes of shards on servers that are held.
    """

    def __init__(self, access: Access, first: int = 0, row: int = 0, *, budget: int = BUDGET) -> None:
        self._access = access
        self._first = first
        self._row = row
        self._ahead = Ahead(self._tasks, workers=access.workers, budget=budget)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._ahead)

    def close(self) -> None:
        """Give up reading, and wait until the threads have ended."""
        self._ahead.close()

    def _tasks(self, pool: Pool) -> Iterator[Task[Piece]]:
        opens: dict[int, Future[Opened]] = {}
        count = len(self._access.refs)
        for number in range(self._first, count):
            for following in range(number, min(number + 1 + _OPEN_AHEAD, count)):
                if following not in opens:
                    opens[following] = pool.submit(self._opened, following)
            yield from self._pieces(number, opens.pop(number).result(), self._row if number == self._first else 0)

    def _pieces(self, number: int, found: Opened, row: int) -> Iterator[Task[Piece]]:
        shard = found.shard
        if isinstance(shard, RemoteShard):
            for start, stop in shard.plan(row):
                fetch = partial(self._fetched, number, shard, start, stop)
                yield Task(shard.span(start, stop), [fetch], _only)
        elif found.checked or not isinstance(shard, BufferShard):
            piece = Piece(number, shard, row, len(shard) if shard.manifest is not None else None)
            yield Task(0, [], partial(_ready, piece))
        else:
            yield from self._checking(number, found, shard, row)

    def _fetched(self, number: int, shard: RemoteShard, start: int, stop: int) -> Piece:
        return Piece(number, shard.window(start, stop), start, stop)

    def _checking(self, number: int, found: Opened, shard: BufferShard, row: int) -> Iterator[Task[Piece]]:
        """Runs of samples of a local shard, each checked on the way; then the shard as a whole is known to be good."""
        left = checks.runs(shard) or []
        done = itertools.count(1)

        def check(start: int, stop: int) -> Piece:
            checks.check_rows(shard, slice(start, stop))
            if next(done) == len(left):
                self._access.found_good(number, found)
            return Piece(number, shard, start, stop)

        for start, stop in left:
            start = max(start, row)
            if start < stop:
                size = int(shard.manifest.sizes[start:stop].sum())  # type: ignore[union-attr]
                yield Task(size, [partial(check, start, stop)], _only)

    def _opened(self, number: int) -> Opened:
        """Shard `number`, checked as a whole unless it can be checked in runs."""
        found = self._access.current(number)
        if self._access.trusted(found):
            return found
        if isinstance(found.shard, BufferShard) and checks.runs(found.shard):
            return found._replace(checked=False)
        return self._access.checked(number)


def _only(results: list[Piece]) -> Piece:
    return results[0]


def _ready(piece: Piece, results: list[Piece]) -> Piece:
    return piece
