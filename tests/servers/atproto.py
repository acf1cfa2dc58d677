"""The AT Protocol network for tests (`atdata.testing.LocalNetwork`), one with two PDSs for the whole test run.

In a test, take a fixture (`servers.fixtures`, known to all tests):

    def test_it(atproto):
        alice = atproto.make_account()             # of this test alone, on the first PDS
        bob = atproto.make_account(pds=1)
        Resolver(directory=atproto.directory, ...)

    def test_bad_day(own_atproto):                 # a network of this test's own, with one PDS. About 4 s and 300 MB
        own_atproto.kill()
        own_atproto.resume()                       # the same ports, accounts and records

The shared network is started by a supervisor (this file run as a module), which ends it when the last process of the
test run has ended, in whatever way (`servers.sharing`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atdata.testing.network import LocalAccount, LocalNetwork, LocalNetworkError, make_account
from servers import sharing

START_SECONDS = 150.0  # on a machine with nothing else to do it takes 4


@dataclass(frozen=True)
class SharedNetwork:
    """Where the network is; see `atdata.testing.LocalNetwork` for what it has."""

    directory: str
    nameserver: str
    pds: list[str]
    pid: int

    def make_account(self, pds: int = 0, *, handle: str | None = None) -> LocalAccount:
        return make_account(self.pds, pds, handle=handle)


def shared(meeting: Path) -> Iterator[SharedNetwork]:
    """One network for all the processes that name the same folder, from the first of them to the last."""
    with sharing.shared(meeting, "atproto", new_folder, launch) as folder:
        yield SharedNetwork(**json.loads((folder / "server.json").read_text()))


def new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="atdata-network-"))


def launch(folder: Path) -> int:
    """Start a supervisor and wait for its network; its process id."""
    # Not subprocess.Popen: it complains about a child that outlives it, as the shared one may.
    log = os.open(folder / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        with open(os.devnull, "rb") as nothing:
            supervisor = os.posix_spawn(
                sys.executable,
                [sys.executable, "-P", "-m", "servers.atproto", str(folder)],
                {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, nothing.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,  # Ctrl-C in a terminal is for the tests
            )
    finally:
        os.close(log)
    deadline = time.monotonic() + START_SECONDS
    try:
        while not (folder / "server.json").exists():
            ended = os.waitpid(supervisor, os.WNOHANG)[0]
            if ended or time.monotonic() > deadline:
                if ended:
                    supervisor = 0
                raise LocalNetworkError((folder / "supervisor.log").read_text(errors="replace").strip() or "no answer")
            time.sleep(0.02)
    except BaseException:
        if supervisor:
            os.kill(supervisor, signal.SIGKILL)
            os.waitpid(supervisor, 0)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return supervisor


def supervise(folder: Path) -> int:
    try:
        with LocalNetwork(pds=2, folder=folder / "network") as network:
            told = {
                "directory": network.directory,
                "nameserver": network.nameserver,
                "pds": network.pds,
                "pid": network.pid,
            }
            (folder / "server.json.new").write_text(json.dumps(told))
            (folder / "server.json.new").rename(folder / "server.json")
            alone = sharing.wait_until_alone(folder)
    except LocalNetworkError as error:
        print(error, flush=True)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    alone.close()
    return 0


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1])))
