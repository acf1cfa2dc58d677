"""Progress on a terminal: samples, rate and time left; nothing anywhere else."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

__all__ = ["Progress"]


class Progress:
    """A line on stderr while something long goes on.

    Args:
        title: what is going on.
        total: how much there is to do, when known.
        show: False for silence; where stderr is no terminal there is silence anyway.
        unit: of what; "bytes" are shown as kB, MB and so on.
    """

    def __init__(self, title: str, total: int | None, *, show: bool, unit: str = "samples") -> None:
        self._unit = unit
        self._bar: Any = None
        self._task: Any = None
        self._done = 0
        self._next = 0.0
        self._lock = threading.Lock()
        if show and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            columns: list[Any] = [progress.TextColumn("{task.description}", markup=False), progress.BarColumn()]
            columns += [
                progress.DownloadColumn() if unit == "bytes" else progress.TextColumn("{task.completed:,} " + unit),
                progress.TextColumn("{task.fields[rate]}"),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
            ]
            self._bar = progress.Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(title, total=total, rate="")
            self._start = time.monotonic()

    @property
    def shown(self) -> bool:
        """Whether there is a line to keep up to date."""
        return self._bar is not None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            try:
                self._bar.start()
            except BaseException:  # Ctrl-C just now: the cursor comes back
                self._bar.stop()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._show()
            self._bar.stop()

    def advance(self, n: int = 1) -> None:
        """`n` more are done; from any thread."""
        if self._bar is not None:
            with self._lock:
                self._done += n
                now = time.monotonic()
                if now >= self._next:  # the terminal is slower than the work
                    self._next = now + 0.1
                    self._show()

    def _show(self) -> None:
        from rich.filesize import decimal

        rate = self._done / max(time.monotonic() - self._start, 1e-6)
        text = decimal(int(rate)) if self._unit == "bytes" else f"{rate:,.0f}"
        self._bar.update(self._task, completed=self._done, rate=f"{text}/s")
