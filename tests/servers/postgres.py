"""A real PostgreSQL server for tests, on a free loopback port, with a private data folder.

In a test, take a fixture (`tests/index/conftest.py`):

    def test_it(postgres_url):                     # a fresh database in one server for each test process
        atdata.LocalIndex(postgres_url)

    def test_bad_day(own_postgres):                # a server of this test's own
        own_postgres.kill()                        # connections break, new ones are refused
        own_postgres.resume()                      # the same port and data

Elsewhere (a benchmark, a shell):

    with Postgres() as server: server.make_database()

The programs are the system's own, or those that scripts/install-server.sh postgres unpacks into .tools/postgres.

How nothing is left running: the server is the child of a small supervisor (this file run as a script), which ends when
the pipe to it does, that is with whoever started it, in whatever way; then it stops the server and removes the folder.
The server dies with the supervisor. It refuses to run as root, and so runs as nobody where the tests are root's.
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
import uuid
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0  # on a machine with nothing else to do it takes 1
NOBODY = 65534
# What a URL has to quote.
USER, PASSWORD = "atdata", "s3cret/@word"
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 60
shared_buffers = 64MB
fsync = {fsync}
jit = off
timezone = 'GMT'
log_timezone = 'GMT'
"""


class ServerError(RuntimeError):
    """The server cannot be had; the text says why."""


class Postgres:
    """A server; use it in a `with` statement, or call `start` and `close`.

    Args:
        fsync: wait for the disk at each commit, as real servers do; most tests need not.
    """

    def __init__(self, *, fsync: bool = False) -> None:
        self._fsync = fsync
        self._supervisor: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> Self:
        programs = _programs()
        self.folder = Path(tempfile.mkdtemp(prefix="atdata-postgres-"))
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(self.folder), str(programs), "on" if self._fsync else "off"],
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

    def url(self, database: str = "postgres") -> str:
        """As `atdata.LocalIndex` takes it."""
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def make_database(self) -> str:
        """The URL of a fresh database."""
        name = f"index_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Ends its connections and removes it."""
        self.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """What one statement gives."""
        import psycopg

        with (
            contextlib.closing(
                psycopg.connect(
                    host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database, autocommit=True
                )
            ) as connection,
            connection.execute(statement) as cursor,
        ):
            return cursor.fetchall() if cursor.description else []

    def stop(self) -> None:
        """The server is told to end what is under way, and to end."""
        self._command("stop")

    def kill(self) -> None:
        """The server ends at once, as when the power fails."""
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
            raise ServerError(f"PostgreSQL did not start:\n{rest}{self._supervisor.stdout.read()}")
        return rest


def _programs() -> Path:
    """The folder of the programs."""
    unpacked = ROOT / ".tools" / "postgres"
    places = [*unpacked.glob("usr/lib/postgresql/*/bin")] if (unpacked / ".recipe").exists() else []
    places = places or [*Path("/usr/lib/postgresql").glob("*/bin")]
    if on_path := shutil.which("postgres"):
        places.append(Path(on_path).resolve().parent)
    places = [place for place in places if (place / "initdb").exists()]
    if not places:
        raise ServerError(
            "the server of these tests, PostgreSQL, is not here. Run scripts/install-server.sh postgres (as make test "
            "does), or install your system's package of it."
        )
    return max(places, key=lambda place: [int(part) for part in place.parent.name.split(".") if part.isdigit()])


# ---- the supervisor: runs in a process of its own, with the standard library only -----------------------------------


class _Supervisor:
    def __init__(self, folder: Path, programs: Path, fsync: str) -> None:
        self.folder = folder
        self.fsync = fsync
        self.data = folder / "data"
        self.server: subprocess.Popen[bytes] | None = None
        self.as_nobody: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            if not all(parent.stat().st_mode & 1 for parent in programs.parents):
                # A checkout in a home folder: nobody may not go there.
                tree = programs.parents[4]
                shutil.copytree(tree, folder / "programs", symlinks=True)
                programs = folder / "programs" / programs.relative_to(tree)
            os.chown(folder, NOBODY, NOBODY)
        self.programs = programs
        tree = programs.parents[4]
        paths = [
            str(lib) for part in ("usr/lib", "lib") for lib in tree.glob(f"{part}/*-linux-gnu*") if tree != Path("/")
        ]
        self.environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "LD_LIBRARY_PATH": ":".join(paths)}

    def run(self) -> None:
        try:
            self.make()
            print("ok", self.port, flush=True)
            for line in sys.stdin:
                getattr(self, line.strip())()
                print("ok", flush=True)
        except Exception as error:
            print("failed", error, (self.folder / "log").read_text()[-3000:], flush=True)
        finally:
            self.kill()
            shutil.rmtree(self.folder, ignore_errors=True)

    def make(self) -> None:
        words = self.folder / "password"
        words.write_text(PASSWORD)
        words.chmod(0o644)
        self.call("initdb", "-D", str(self.data), "-U", USER, "--pwfile", str(words), "-A", "scram-sha-256", "-N")
        with open(self.data / "postgresql.conf", "a") as settings:
            settings.write(SETTINGS.format(fsync=self.fsync))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.resume()

    def call(self, program: str, *arguments: str) -> None:
        with open(self.folder / "log", "ab") as log:
            subprocess.run(
                [str(self.programs / program), *arguments, "--locale=C", "--encoding=UTF8"],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self.environment,
                **self.as_nobody,
            )

    def resume(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self.server = subprocess.Popen(
                [str(self.programs / "postgres"), "-D", str(self.data), "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self.environment,
                preexec_fn=_die_with_parent,  # after the change of user, which would undo it
                **self.as_nobody,
            )
        deadline = time.monotonic() + START_SECONDS
        # Its first line is the process, the last one of a server that runs says so.
        state = self.data / "postmaster.pid"
        while True:
            with contextlib.suppress(FileNotFoundError):
                lines = state.read_text().splitlines()
                if len(lines) >= 8 and lines[0] == str(self.server.pid) and lines[7].strip() == "ready":
                    return
            if self.server.poll() is not None:
                raise ServerError("it ended")
            if time.monotonic() > deadline:
                raise ServerError(f"it was not ready in {START_SECONDS:.0f} s")
            time.sleep(0.01)

    def stop(self) -> None:
        self.end(signal.SIGINT)

    def kill(self) -> None:
        self.end(signal.SIGQUIT)

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
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    _Supervisor(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]).run()
