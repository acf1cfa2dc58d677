"""`atdata` as a process, the samples it is given, and damage."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import atdata

ATDATA = [sys.executable, "-m", "atdata"]


@atdata.packable
class Sign:
    """A small picture.

    With a name.
    """

    image: NDArray[np.uint8]
    label: int
    note: str | None = None


def signs(n: int) -> Iterator[Sign]:
    for i in range(n):
        image = np.arange(64, dtype=np.uint8).reshape(8, 8) * (i % 3)
        yield Sign(image, i % 7, None if i % 2 else f"note {i}")


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def environment(**extra: str) -> dict[str, str]:
    steering = ("ATDATA_DEBUG", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "COLORTERM", "TTY_COMPATIBLE")
    return {name: value for name, value in os.environ.items() if name not in steering} | extra


class Terminal:
    """A process with a pseudo-terminal for some of its streams; reads what it shows."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str], streams: tuple[str, ...]) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (50, 120))
        pipes = {name: slave if name in streams else subprocess.PIPE for name in ("stdout", "stderr")}
        typed = slave if "stdin" in streams else subprocess.DEVNULL
        self.process = subprocess.Popen(command, cwd=cwd, env=env, stdin=typed, **pipes)
        os.close(slave)
        self.shown = b""

    def read(self) -> bool:
        """Takes what is shown next; False when nothing will be any more."""
        try:
            piece = os.read(self._master, 1 << 16)
        except OSError:  # Linux's way to say that the other side is closed
            return False
        self.shown += piece
        return bool(piece)

    def until(self, pattern: bytes) -> None:
        while not re.search(pattern, self.shown):
            assert self.read(), self.shown

    def say(self, typed: bytes) -> None:
        os.write(self._master, typed)

    def finish(self) -> Answer:
        """The exit code, what the terminal showed as `out`, and what came through the pipe, if any, as `err`."""
        while self.read():
            pass
        piped = [pipe.read().decode() for pipe in (self.process.stdout, self.process.stderr) if pipe is not None]
        return Answer(self.process.wait(), self.shown.decode(), "".join(piped))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        os.close(self._master)


def flip(path: Path, at: int) -> None:
    """Flip one bit of a file, as a failing disk would."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))
