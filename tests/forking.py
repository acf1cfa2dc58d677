"""Work done in a forked process, with a watchdog."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import warnings
from collections.abc import Callable


class HungError(Exception):
    """The child did not answer within the watchdog's time."""


def in_fork(work: Callable[[], str], seconds: float = 20.0) -> str:
    """What `work` gives in a forked child, or the type and text of its error; a child that hangs is killed."""
    receive, send = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of later Pythons, about forks of threaded processes
        pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.close(receive)
            try:
                answer = work()
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(send, answer.encode()[:60_000])
        os._exit(0)
    os.close(send)
    try:
        ready, _, _ = select.select([receive], [], [], seconds)
        if not ready:
            os.kill(pid, signal.SIGKILL)
            raise HungError
        return os.read(receive, 65_536).decode()
    finally:
        os.close(receive)
        os.waitpid(pid, 0)
