"""Ctrl-C: one short line, and an end within seconds also where native code waits for a server."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading

__all__ = ["end_soon", "say_interrupted"]

_PATIENCE = 3.0  # seconds for what is under way to end in good order
_CURSOR = "\x1b[?25h"
_said = threading.Lock()


def say_interrupted() -> None:
    """Tell the user that the command was interrupted, once."""
    # Not sys.stderr, which a progress line that was interrupted may still have in its hands.
    stream = sys.__stderr__
    if stream is not None and _said.acquire(blocking=False):
        with contextlib.suppress(OSError, ValueError):
            # Where it came while a progress line began, the cursor is hidden still.
            stream.write((_CURSOR if stream.isatty() else "") + "\natdata: interrupted\n")
            stream.flush()


def end_soon() -> None:
    """From now on Ctrl-C ends this process within seconds, and a second one at once, whatever it waits for.

    A request under way in native code keeps Python from noticing for as long as the server may take. Nothing is lost:
    what a write leaves behind then is as unfinished as that of a process that was killed.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Python's own handler runs when the main thread comes back to Python; this is written to at once.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="atdata-interrupt", daemon=True).start()


def _watch(reading: int) -> None:
    while signal.SIGINT not in os.read(reading, 1):
        pass
    select.select([reading], [], [], _PATIENCE)
    say_interrupted()
    os._exit(130)
