"""What a process that is forked while its threads are at work does not find locked for ever.

A child has its parent's memory and one thread. A lock that another thread held stays locked there, and who waits for it
waits for ever. Workers of PyTorch's DataLoader are forks, of a process whose threads may be reading.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["cached_property", "shared_lock", "shared_rlock"]

L = TypeVar("L")

if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property
else:

    class cached_property:  # noqa: N801  (as in the standard library)
        """As `functools.cached_property` is from Python 3.12 on: without a lock for all objects of the class."""

        def __init__(self, function: Any) -> None:
            self._function = function
            self.__doc__ = function.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return self
            found = instance.__dict__[self._name] = self._function(instance)
            return found


def shared_lock() -> threading.Lock:
    """A lock that lasts as long as the process; nobody forks in the middle of what it guards."""
    return _guarded(threading.Lock())


def shared_rlock() -> threading.RLock:
    """The same for what may be entered again by the thread that is in it, such as by callbacks of the collector."""
    return _guarded(threading.RLock())


def _guarded(lock: L) -> L:
    guard: Any = lock
    os.register_at_fork(before=guard.acquire, after_in_parent=guard.release, after_in_child=guard.release)
    return lock
