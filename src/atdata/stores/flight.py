"""Several things under way at once, bounded in number and in bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["Stop", "in_flight"]

T = TypeVar("T")


class _StoppedError(Exception):
    """Ends work that is not wanted any more; nobody sees it."""


class Stop:
    """Tells work under way when it is not wanted any more."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """From now on `check` ends whatever calls it."""
        self._event.set()

    def check(self) -> None:
        """To be called by the work every now and then."""
        if self._event.is_set():
            raise _StoppedError


def in_flight(
    jobs: Iterable[tuple[int, Callable[[], T]]], stop: Stop, *, most: int, budget: int
) -> Generator[T, None, None]:
    """What the jobs give, in their order, while others are under way.

    The first failure of a job ends the others, and is raised when they have ended.

    Args:
        jobs: each with the bytes of memory it takes; one that takes more than the budget runs alone.
        stop: what the jobs call `check` of; it is set when nobody waits for them any more.
        most: how many may be under way.
        budget: bytes they may take together.

    Example:
        >>> list(in_flight(((1, lambda n=n: n * n) for n in range(4)), Stop(), most=2, budget=2))
        [0, 1, 4, 9]
    """
    change = threading.Condition()
    taken: list[int] = []
    failed: list[BaseException] = []

    def run(size: int, job: Callable[[], T]) -> T:
        try:
            return job()
        except BaseException as error:
            failed.append(error)
            stop.set()
            raise
        finally:
            with change:
                taken.remove(size)
                change.notify()

    with ThreadPoolExecutor(most, thread_name_prefix="atdata-flight") as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for size, job in jobs:
                with change:
                    while taken and (len(taken) == most or sum(taken) + size > budget):
                        change.wait()
                    taken.append(size)
                stop.check()
                waiting.append(pool.submit(run, size, job))
                while waiting and waiting[0].done():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except _StoppedError:
            pass
        finally:
            stop.set()
    if failed:
        raise failed[0]
