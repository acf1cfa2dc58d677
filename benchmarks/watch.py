"""How much memory this process has for itself, while it does something."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path


def anonymous() -> float:
    """Megabytes of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("this system does not tell RssAnon")


@contextlib.contextmanager
def highest() -> Iterator[list[float]]:
    """A list with the one number that `anonymous` was at most."""
    peak = [anonymous()]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
        time.sleep(0.02)
    finally:
        done.set()
        watcher.join()
