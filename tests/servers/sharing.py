"""One server for all the processes of a test run, which ends with the last of them.

Whoever uses a server holds a shared lock on a file in its folder; the kernel frees it when that process ends, in
whatever way, and when the server's supervisor gets that lock for itself, nobody is left. The lock is a POSIX one:
children by fork do not hold it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def shared(meeting: Path, name: str, new_folder: Callable[[], Path], launch: Callable[[Path], int]) -> Iterator[Path]:
    """The folder of one server for all that name the same meeting folder, from the first of them to the last.

    `launch` starts a supervisor, waits for its server and gives the supervisor's process id.
    """
    meeting.mkdir(parents=True, exist_ok=True)
    hold, supervisor = None, 0
    with open(meeting / f"{name}.turn", "w") as turn:
        fcntl.lockf(turn, fcntl.LOCK_EX)
        place = meeting / f"{name}.place"
        if place.exists():
            folder = Path(place.read_text())
            hold = join(folder)
        if hold is None:
            folder = new_folder()
            hold = join(folder)
            try:
                supervisor = launch(folder)
            except BaseException:
                if hold is not None:
                    hold.close()
                raise
            place.write_text(str(folder))
    assert hold is not None
    try:
        yield folder
    finally:
        hold.close()
        # Other processes may still be at it; whoever holds on longest has the supervisor end.
        for _ in range(40):
            if not supervisor or os.waitpid(supervisor, os.WNOHANG)[0]:
                break
            time.sleep(0.05)


def join(folder: Path) -> IO[bytes] | None:
    """A hold on the server in this folder; None where it is about to end, or has ended."""
    try:
        hold = open(folder / "hold", "a+b")  # noqa: SIM115
    except OSError:
        return None
    try:
        fcntl.lockf(hold, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        hold.close()
        return None
    return hold


def wait_until_alone(folder: Path) -> IO[bytes]:
    """Until nobody holds on to the server in this folder; while the result is open, nobody can."""
    hold = open(folder / "hold", "a+b")  # noqa: SIM115
    fcntl.lockf(hold, fcntl.LOCK_EX)
    return hold
