"""The command as people run it: a process, with pipes or a terminal around it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_process import ATDATA, Answer, Sign, Terminal, environment, signs

import atdata


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Answer]:
    """Runs `atdata` in the test's folder, with pipes."""

    def run(*arguments: str | Path, **extra: str) -> Answer:
        done = subprocess.run(
            [*ATDATA, *map(str, arguments)],
            cwd=tmp_path,
            env=environment(**extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts `atdata` in the test's folder, on a terminal."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str | Path, streams: tuple[str, ...] = ("stdout", "stderr"), **extra: str) -> Terminal:
            env = environment(**({"TERM": "xterm-256color"} | extra))
            made = Terminal([*ATDATA, *map(str, arguments)], tmp_path, env, streams)
            stack.callback(made.close)
            return made

        yield start


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """150 samples in shards of 100, at `signs/v1` of the test's folder."""
    samples = atdata.Dataset.from_samples(signs(150), Sign)
    atdata.LocalDiskStore(tmp_path).write_shards(samples, prefix="signs/v1", maxcount=100)
    return tmp_path / "signs" / "v1"
