"""Work done ahead of the reader: several things under way at once, handed out in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from atdata.errors import ForkError
from atdata.shards.reader import Shard

__all__ = ["Piece", "Task", "work_ahead"]

BUDGET = 128 << 20


class Piece(NamedTuple):
    """Some samples of one shard, ready to be read: from `start` up to `stop`.

    `stop` is None where only reading to the end will tell how many there are.
    """

    number: int
    shard: Shard
    start: int
    stop: int | None


Task = tuple[int, Callable[[], Piece] | Piece]


def _same_process(owner: int) -> None:
    if os.getpid() != owner:
        raise ForkError(
            "this iteration was begun by the process that this one was forked from, and its threads are there; begin a "
            "new one (iterate over the dataset anew)"
        )


def work_ahead(
    tasks: Callable[[ThreadPoolExecutor], Iterator[Task]], *, workers: int, budget: int = BUDGET
) -> Iterator[Piece]:
    """The pieces that tasks give, in the order of the tasks.

    Args:
        tasks: given the pool, gives each task with the bytes its piece will hold (or the piece itself, when it is
            ready); it is only asked as far ahead as the budget allows.
        workers: threads of the pool.
        budget: most bytes under way or waiting; a task that needs more runs alone.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="atdata-ahead")
    waiting: deque[tuple[int, Future[Piece] | Piece]] = deque()
    held = 0
    owner = os.getpid()
    try:
        for size, task in tasks(pool):
            while waiting and held + size > budget:
                given, first = waiting.popleft()
                held -= given
                yield first.result() if isinstance(first, Future) else first
                _same_process(owner)
            waiting.append((size, task if isinstance(task, Piece) else pool.submit(task)))
            held += size
            # What is ready goes out at once: the reader can work while the rest is under way.
            while waiting and isinstance(waiting[0][1], Piece):
                yield waiting.popleft()[1]  # type: ignore[misc]
                _same_process(owner)
        while waiting:
            _, first = waiting.popleft()
            yield first.result() if isinstance(first, Future) else first
            _same_process(owner)
    finally:
        # Not waiting for its threads: one of them may be who runs this, as the garbage collector.
        pool.shutdown(wait=False, cancel_futures=True)
