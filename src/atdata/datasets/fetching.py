"""Samples from anywhere in the shards: read in stretches ahead of the reader, each checked before it is given out."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atdata.datasets import checks
from atdata.datasets.access import Access
from atdata.datasets.ahead import BUDGET, Ahead, Pool, Task
from atdata.datasets.columns import Stretch
from atdata.datasets.demand import Demand
from atdata.datasets.opener import Opened
from atdata.datasets.remote import Fields, Load, RemoteShard
from atdata.datasets.selection import Places
from atdata.errors import IntegrityError
from atdata.shards.reader import BufferShard

__all__ = ["Fetching", "Wanted"]

_CHECKED_AT_ONCE = 8 << 20  # bytes of samples that one job hashes


class Wanted(NamedTuple):
    """Samples to be read together.

    Attributes:
        places: where they lie, in the order in which they are given out.
        batch: how many of them belong together. They may be brought in several stretches, but these in one.
    """

    places: Places
    batch: int = 1


class Fetching:
    """Stretches of wanted samples, in order.

    Of local shards only what was not checked before is looked at; of shards on servers ranges are fetched.

    Args:
        access: the shards.
        wanted: what to read; it is asked as far ahead as the budget allows, and what would take more than half of that
            is read in several stretches.
        demand: which fields of samples on servers are fetched; by default all.
        budget: most bytes that are held of shards on servers. What belongs together and is larger is read alone.
    """

    def __init__(
        self, access: Access, wanted: Iterator[Wanted], demand: Demand | None = None, *, budget: int = BUDGET
    ) -> None:
        self._access = access
        self._wanted = wanted
        self._demand = demand or Demand()
        self._budget = budget
        self._versions: dict[int, Any] = {}
        self._opens: dict[int, Future[Opened]] = {}
        self._locks: dict[int, threading.Lock] = {}

    def read(self) -> Ahead[Stretch]:
        """Read it all."""
        return Ahead(self._tasks, workers=self._access.workers, budget=self._budget)

    def _tasks(self, pool: Pool) -> Iterator[Task[Stretch]]:
        coming = next(self._wanted, None)
        while coming is not None:
            wanted, coming = coming, next(self._wanted, None)
            groups = _by_shard(wanted.places)
            if len(groups) > 1:
                self._open_ahead(pool, (group.number for group in groups))
            shards = {group.number: self._open(pool, group.number) for group in groups}
            if coming is not None:
                self._open_ahead(pool, np.unique(coming.places.shards).tolist())
            fields = () if self._demand.untold(len(wanted.places.rows)) else self._demand.ahead()
            yield from self._cut(wanted, groups, shards, fields)

    def _open_ahead(self, pool: Pool, numbers: Iterable[int]) -> None:
        """Have these shards opened, all at a time: one on a server may come whole with that."""
        if self._access.all_open:
            return
        for number in numbers:
            if number not in self._opens and not self._access.is_open(number):
                self._opens[number] = pool.submit(self._access.current, number)

    def _open(self, pool: Pool, number: int) -> Opened:
        """Shard `number`; an epoch is of one version of it."""
        opening = self._opens.pop(number, None)
        found = self._access.current(number) if opening is None else opening.result()
        shard, count = found.shard, self._access.count(number)
        version = found.expected or (found.state and found.state[:4])
        if isinstance(shard, RemoteShard):
            version = shard.manifest.shard_sha256
        if (
            not isinstance(shard, RemoteShard | BufferShard)
            or self._versions.setdefault(number, version) != version
            or (self._access.refs[number].info is None and len(shard) != count)
        ):
            raise IntegrityError(
                "the shard was changed while the dataset was in use: versions are not mixed, so make the dataset anew",
                url=shard.url,
            )
        return found

    # -- what has to be done for some samples ----------------------------------------------------------------

    def _cut(
        self, wanted: Wanted, groups: list[_Group], shards: dict[int, Opened], fields: Fields
    ) -> Iterator[Task[Stretch]]:
        """The tasks for some samples; several where they would take too much of the budget at once."""
        count = len(wanted.places.rows)
        size = 0
        for group in groups:
            shard = shards[group.number].shard
            if isinstance(shard, RemoteShard):
                size += shard.weight(group.rows, fields)
        if size <= self._budget // 2 or count <= wanted.batch:
            yield self._task(wanted.places, groups, shards, fields)
            return
        middle = -(-count // wanted.batch) // 2 * wanted.batch
        for some in (slice(0, middle), slice(middle, count)):
            places = Places(wanted.places.shards[some], wanted.places.rows[some])
            yield from self._cut(Wanted(places, wanted.batch), _by_shard(places), shards, fields)

    def _task(self, places: Places, groups: list[_Group], shards: dict[int, Opened], fields: Fields) -> Task[Stretch]:
        """What has to be done before the samples can be given out."""
        which = np.empty(len(places.rows), np.intp)
        rows = np.empty(len(places.rows), np.int64)
        buffers: list[BufferShard | Load] = []
        jobs: list[Callable[[], Any]] = []
        size = 0
        for number, at, these in groups:
            found = shards[number]
            rows[at] = these
            if isinstance(found.shard, RemoteShard):
                unique, inverse = np.unique(these, return_inverse=True)
                owner = np.empty(len(unique), np.intp)
                for load in found.shard.loads(unique, fields):
                    owner[np.searchsorted(unique, load.rows)] = len(buffers)
                    buffers.append(load)
                    size += load.size
                which[at] = owner[inverse]
                continue
            assert isinstance(found.shard, BufferShard)
            which[at] = len(buffers)
            buffers.append(found.shard)
            if not self._access.trusted(found):
                jobs += self._checks(number, found, these)
                if found.shard.manifest is not None:  # hashing is not done without end ahead of the reader either
                    size += int(found.shard.manifest.sizes[these].sum())
        # Checks come first, which give nothing; then what is fetched whole, and at last what is fetched by fields.
        loads = sorted((b for b in buffers if isinstance(b, Load)), key=lambda load: load.light)
        light = sum(len(load.jobs) for load in loads if load.light)
        finish = partial(_stretch, buffers, loads, len(jobs), which, rows, places.shards)
        return Task(size, [*jobs, *(job for load in loads for job in load.jobs)], finish, light)

    def _checks(self, number: int, found: Opened, rows: NDArray[np.int64]) -> list[Callable[[], None]]:
        shard = found.shard
        assert isinstance(shard, BufferShard)
        assert found.state is not None
        assert found.expected is not None
        if not checks.checked_by_sample(shard):
            return [partial(self._check_whole, number, self._locks.setdefault(number, threading.Lock()))]
        assert shard.manifest is not None
        if self._access.verifies_always:
            check: Callable[[NDArray[np.int64]], None] = partial(checks.check_rows, shard)
            rows = np.unique(rows)
        else:
            ticks = checks.Ticks(shard, found.state, found.expected)
            check = ticks.check
            rows = ticks.unknown(rows)
        ends = np.cumsum(shard.manifest.sizes[rows])
        bounds = np.flatnonzero(np.diff(ends // _CHECKED_AT_ONCE)) + 1
        return [partial(check, some) for some in np.split(rows, bounds) if len(some)]

    def _check_whole(self, number: int, lock: threading.Lock) -> None:
        with lock:  # several stretches may want it at a time
            self._access.checked(number)


class _Group(NamedTuple):
    """Samples of one shard: its number, which of the wanted samples they are, and their rows."""

    number: int
    at: Any
    rows: NDArray[np.int64]


def _by_shard(places: Places) -> list[_Group]:
    shards, rows = places
    if not len(shards):
        return []
    if (shards == shards[0]).all():
        return [_Group(int(shards[0]), slice(None), rows)]
    # NumPy sorts small numbers by counting them.
    order = np.argsort(shards.astype(np.uint16) if int(shards.max()) < 1 << 16 else shards, kind="stable")
    ordered = shards[order]
    bounds = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(order)]
    return [
        _Group(int(ordered[start]), order[start:stop], rows[order[start:stop]])
        for start, stop in itertools.pairwise(bounds)
    ]


def _stretch(
    buffers: list[BufferShard | Load],
    loads: list[Load],
    checks: int,
    which: NDArray[np.intp],
    rows: NDArray[np.int64],
    numbers: NDArray[np.int64],
    results: list[Any],
) -> Stretch:
    """The samples, once all jobs are done; what was fetched takes the place that was kept for it."""
    fetched: dict[int, BufferShard] = {}
    at = checks
    for load in loads:
        fetched[id(load)] = load.finish(results[at : at + len(load.jobs)])
        at += len(load.jobs)
    held = [fetched[id(buffer)] if isinstance(buffer, Load) else buffer for buffer in buffers]
    return Stretch(held, which, rows, numbers)
