"""Work done ahead of the reader: several things under way at once, handed out in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, Generic, NamedTuple, TypeVar

from atdata.errors import ForkError

__all__ = ["BUDGET", "Ahead", "Pool", "Task"]

_WAITERS = 64  # short ranges in flight

BUDGET = 256 << 20  # bytes under way, waiting, or in the reader's hands

T = TypeVar("T")


class Task(NamedTuple, Generic[T]):
    """Something to be made ahead of the reader.

    Attributes:
        size: bytes that it will hold.
        jobs: what is done in the background, each by itself.
        finish: makes the thing of the jobs' results, when it is its turn, in the reader's thread.
        light: which of the jobs, from the end, wait more than they work, so that many of them are done at a time.
    """

    size: int
    jobs: Sequence[Callable[[], Any]]
    finish: Callable[[list[Any]], T]
    light: int = 0


class Pool:
    """Threads, of which there are none before the first job; and others for jobs that mostly wait."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._threads: ThreadPoolExecutor | None = None
        self._waiters: ThreadPoolExecutor | None = None

    def submit(self, job: Callable[..., T], *args: Any) -> Future[T]:
        """Have a job done."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="atdata-ahead")
        return self._threads.submit(job, *args)

    def submit_all(self, task: Task[Any]) -> list[Future[Any]]:
        """Have the jobs of a task done."""
        heavy = len(task.jobs) - task.light
        if task.light and self._waiters is None:
            self._waiters = ThreadPoolExecutor(_WAITERS, thread_name_prefix="atdata-ahead")
        light = [self._waiters.submit(job) for job in task.jobs[heavy:]] if self._waiters is not None else []
        return [self.submit(job) for job in task.jobs[:heavy]] + light

    def close(self, *, wait: bool) -> None:
        """Begin no job that has not begun, and let the threads end; `wait` for that, too."""
        for threads in (self._threads, self._waiters):
            if threads is not None:
                threads.shutdown(wait=wait, cancel_futures=True)


class Ahead(Generic[T]):
    """The things that tasks make, in the order of the tasks.

    It can be iterated once. The threads end with the iteration, also when that is given up.

    Args:
        tasks: given the threads, gives the tasks; it is only asked as far ahead as the budget allows.
        workers: number of threads.
        budget: most bytes under way, waiting and in the reader's hands together; a task that needs more runs alone.
    """

    def __init__(self, tasks: Callable[[Pool], Iterator[Task[T]]], *, workers: int, budget: int = BUDGET) -> None:
        self._pool = Pool(workers)
        self._made = _run(tasks(self._pool), self._pool, budget)  # which does not know of this object, so no cycle

    def __iter__(self) -> Iterator[T]:
        return self._made

    def close(self) -> None:
        """Give up the iteration, and wait until its threads have ended."""
        self._made.close()
        self._pool.close(wait=True)


def _run(tasks: Iterator[Task[T]], pool: Pool, budget: int) -> Generator[T, None, None]:
    waiting: deque[tuple[Task[T], list[Future[Any]]]] = deque()
    held = 0
    last = 0  # of what was given out last: the reader lets go of it when it has the next
    owner = os.getpid()
    try:
        for task in tasks:
            while waiting and held + last + task.size > budget:
                last = waiting[0][0].size
                held -= last
                yield _made(*waiting.popleft())
                _same_process(owner)
            waiting.append((task, pool.submit_all(task)))
            held += task.size
            # What is ready goes out at once: the reader can work while the rest is under way.
            while waiting and not waiting[0][1]:
                last = waiting[0][0].size
                held -= last
                yield _made(*waiting.popleft())
                _same_process(owner)
        while waiting:
            yield _made(*waiting.popleft())
            _same_process(owner)
    finally:
        # Not waiting for its threads: one of them may be who runs this, as the garbage collector.
        pool.close(wait=False)


def _made(task: Task[T], futures: list[Future[Any]]) -> T:
    if len(futures) > 1:  # a failure is told at once, whatever else is still under way
        done = wait(futures, return_when=FIRST_EXCEPTION).done
        for future in futures:
            if future in done:
                future.result()
    return task.finish([future.result() for future in futures])


def _same_process(owner: int) -> None:
    if os.getpid() != owner:
        raise ForkError(
            "this iteration was begun by the process that this one was forked from, and its threads are there; begin a "
            "new one (iterate over the dataset anew)"
        )
