"""A real Redis server for tests, on a free loopback port, with a private data folder.

In a test, take a fixture (`tests/index/conftest.py`):

    def test_it(redis_url):                        # an empty database in one server for each test process
        atdata.LocalIndex(redis_url)

    def test_bad_day(own_redis):                   # a server of this test's own
        own_redis.kill()                           # connections break, new ones are refused
        own_redis.resume()                         # the same port and data

Elsewhere (a benchmark, a shell):

    with RedisServer() as server: server.make_database()

The program is the system's own, or the one that scripts/install-server.sh redis unpacks into .tools/redis.

How nothing is left running: the server is the child of a small supervisor (this file run as a script), which ends when
the pipe to it does, that is with whoever started it, in whatever way; then it stops the server and removes the folder.
The server dies with the supervisor.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0  # on a machine with nothing else to do it takes 0.05
# What a URL has to quote.
USER, PASSWORD = "atdata", "s3cret/@word"
DATABASES = 10_000
# The default user has a password, and is not off: Redis 7.0 reads its log as this user, and passes over every
# transaction in it that this user may not do.
SETTINGS = f"""
bind 127.0.0.1
databases {DATABASES}
save ""
appendonly yes
appendfsync {{fsync}}
user default on >{PASSWORD} ~* &* +@all
user {USER} on >{PASSWORD} ~* &* +@all
"""


class ServerError(RuntimeError):
    """The server cannot be had; the text says why."""


class RedisServer:
    """A server; use it in a `with` statement, or call `start` and `close`.

    Args:
        fsync: what is written is on the disk before it is answered, so that a killed server loses nothing.
    """

    def __init__(self, *, fsync: bool = False) -> None:
        self._fsync = fsync
        self._supervisor: subprocess.Popen[str] | None = None
        self._made = 0
        self.port = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> Self:
        program = _program()
        folder = tempfile.mkdtemp(prefix="atdata-redis-")
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, folder, str(program), "always" if self._fsync else "no"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal is for the tests
        )
        try:
            self.port = int(self._answer())
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Ends the server and removes its data."""
        if self._supervisor is not None:
            self._supervisor.communicate()  # closes the pipe, and waits
            self._supervisor = None

    def url(self, database: int = 0) -> str:
        """As `atdata.LocalIndex` takes it."""
        return f"redis://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def make_database(self) -> str:
        """The URL of an empty database."""
        self._made += 1
        assert self._made < DATABASES
        return self.url(self._made)

    def drop_database(self, url: str) -> None:
        """Removes all its keys."""
        self.execute("FLUSHDB", database=int(url.rpartition("/")[2]))

    def execute(self, *command: str | int, database: int = 0) -> Any:
        """What one command gives."""
        import redis

        with redis.Redis.from_url(self.url(database), decode_responses=True, protocol=2) as client:
            return client.execute_command(*command)

    def stop(self) -> None:
        """The server is told to end."""
        self._command("stop")

    def kill(self) -> None:
        """The server ends at once."""
        self._command("kill")

    def resume(self) -> None:
        """The server runs again, on the same port, over the same data."""
        self._command("resume")

    def _command(self, command: str) -> None:
        assert self._supervisor is not None
        assert self._supervisor.stdin is not None
        print(command, file=self._supervisor.stdin, flush=True)
        self._answer()

    def _answer(self) -> str:
        assert self._supervisor is not None
        assert self._supervisor.stdout is not None
        word, _, rest = self._supervisor.stdout.readline().strip().partition(" ")
        if word != "ok":
            raise ServerError(f"Redis did not start:\n{rest}{self._supervisor.stdout.read()}")
        return rest


def _program() -> Path:
    unpacked = ROOT / ".tools" / "redis"
    if (unpacked / ".recipe").exists():
        return unpacked / "usr" / "bin" / "redis-server"
    if on_path := shutil.which("redis-server"):
        return Path(on_path)
    raise ServerError(
        "the server of these tests, Redis, is not here. Run scripts/install-server.sh redis (as make test does), or "
        "install your system's package of it."
    )


# ---- the supervisor: runs in a process of its own, with the standard library only -----------------------------------


class _Supervisor:
    def __init__(self, folder: Path, program: Path, fsync: str) -> None:
        self.folder = folder
        self.fsync = fsync
        self.program = program
        self.server: subprocess.Popen[bytes] | None = None
        tree = program.parents[2]
        paths = [
            str(lib) for part in ("usr/lib", "lib") for lib in tree.glob(f"{part}/*-linux-gnu*") if tree != Path("/")
        ]
        self.environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "LD_LIBRARY_PATH": ":".join(paths)}

    def run(self) -> None:
        try:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            (self.folder / "redis.conf").write_text(
                f"port {self.port}\ndir {self.folder}\n{SETTINGS.format(fsync=self.fsync)}"
            )
            self.resume()
            print("ok", self.port, flush=True)
            for line in sys.stdin:
                getattr(self, line.strip())()
                print("ok", flush=True)
        except Exception as error:
            print("failed", error, (self.folder / "log").read_text()[-3000:], flush=True)
        finally:
            self.kill()
            shutil.rmtree(self.folder, ignore_errors=True)

    def resume(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self.server = subprocess.Popen(
                [str(self.program), str(self.folder / "redis.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.server.poll() is not None:
                raise ServerError("it ended")
            if time.monotonic() > deadline:
                raise ServerError(f"it was not ready in {START_SECONDS:.0f} s")
            time.sleep(0.01)

    def answers(self) -> bool:
        """Whether it takes commands, with its data read."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection,
        ):
            connection.sendall(f"AUTH {USER} {PASSWORD}\r\nPING\r\nQUIT\r\n".encode())
            said = b""
            while received := connection.recv(1000):
                said += received
            return b"+PONG" in said
        return False

    def stop(self) -> None:
        self.end(signal.SIGTERM)

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals) -> None:
        if self.server is not None:
            self.server.send_signal(how)
            try:
                self.server.wait(20)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
            self.server = None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    _Supervisor(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]).run()
