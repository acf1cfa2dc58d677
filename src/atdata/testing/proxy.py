"""A faulty network: a proxy on loopback before a real HTTP or S3 server, told at run time what to do wrong.

It stands where a bad network stands, below the retries of every client, so it is what a store is to be tested with that
speaks HTTP; `atdata.testing.FaultyStore` is for the code above a store, and for stores that are no servers.

What it passes on it leaves as it is, the Host header too, so signatures hold. It runs in a process of its own: in a
thread it would wait for the test's own Python code, and a test that forks would fork it too. That process ends when
the one that started it does, in whatever way.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Count", "FaultProxy", "Faults", "Request"]


@dataclass(frozen=True)
class Request:
    """One that came to the proxy, as far as it went."""

    method: str
    path: str
    """With the query, as sent."""
    headers: Mapping[str, str]
    """By lower-case name; of `authorization` only the scheme."""
    at: float
    """Seconds since the proxy started."""
    connection: int
    """Its number, from 1."""
    status: int = 0
    """Of the answer; 0 while there is none, or where it was lost."""
    received: int = 0
    """Bytes of the request's body that came from the client."""
    sent: int = 0
    """Bytes of the answer's body that went to the client."""

    @property
    def range(self) -> str:
        """The range that was asked for, such as `bytes=0-99`; "" for everything."""
        return self.headers.get("range", "")


@dataclass
class Count:
    """Requests, and the bytes of their bodies and of their answers' bodies."""

    requests: int = 0
    received: int = 0
    sent: int = 0


@dataclass(frozen=True)
class Faults:
    """What `FaultProxy.set` can set; these are the values without a fault."""

    latency: float = 0.0
    """Seconds from the end of a request to the first byte of its answer, at the least."""
    bandwidth: float = 0.0
    """Bytes of bodies a second, for each connection and each way; 0: no limit."""
    cut_after: int = 0
    """Bytes that a connection carries, both ways together, before it is cut; 0: no limit."""
    cut_reset: bool = False
    """Cut by RST; else the connection is closed in good order, which leaves a body short."""
    refuse: bool = False
    """New connections are refused."""
    fail_share: float = 0.0
    """Of the requests, chosen by `seed`, that are answered with `fail_status` and do not reach the server."""
    fail_every: int = 0
    """Each so manieth request is answered so; 0: none."""
    fail_status: int = 503
    """The status of these answers."""
    fail_methods: tuple[str, ...] = ()
    """Which methods `fail_share` and `fail_every` are about; none: all."""
    retry_after: float = 0.0
    """Seconds, said as `Retry-After` in the answers that are not from the server; 0: not said."""
    seed: int = 0
    """Which requests `fail_share` chooses; setting it starts the row, and that of `fail_every`, anew."""


class FaultProxy:
    """A proxy before one server.

    Args:
        upstream: the server, `http://host:port`.

    Use it as a context manager, or `start` and `close` it; clients use `endpoint` instead of the server's.

    Example:
        >>> import http.server, threading, urllib.error, urllib.request
        >>> server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        >>> threading.Thread(target=server.serve_forever, daemon=True).start()
        >>> with FaultProxy(f"http://127.0.0.1:{server.server_port}") as proxy:
        ...     proxy.set(latency=0.01, fail_every=1, retry_after=2)
        ...     try:
        ...         urllib.request.urlopen(f"{proxy.endpoint}/a.tar", timeout=10)
        ...     except urllib.error.HTTPError as error:
        ...         error.close()
        ...         print(error.code, error.headers["Retry-After"], proxy.requests()[0].path)
        503 2 /a.tar
        >>> server.shutdown(); server.server_close()
    """

    def __init__(self, upstream: str) -> None:
        address = urllib.parse.urlsplit(upstream)
        if address.scheme != "http" or address.port is None:
            raise ValueError(f"a faulty network is made before http://host:port, not before {upstream}")
        self._upstream = address.netloc
        self._faults = Faults()
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def endpoint(self) -> str:
        """Its own `http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    def set(self, **changes: Any) -> None:
        """Change these of the `Faults`; the others stay. Open connections obey at once."""
        try:
            self._faults = replace(self._faults, **changes)
        except TypeError:
            unknown = ", ".join(sorted(changes.keys() - asdict(self._faults).keys()))
            raise ValueError(f"there is no fault {unknown}") from None
        self._ask("set", faults=asdict(self._faults), anew="seed" in changes)

    def clear(self) -> None:
        """No faults any more, and what stalls is released; what was counted stays."""
        self._faults = Faults()
        self._ask("clear")
        self._ask("set", faults=asdict(self._faults), anew=True)

    def reset(self) -> int:
        """RST on all open connections; how many they were."""
        return int(self._ask("reset"))

    def stall(self, seconds: float | None = None) -> None:
        """Forward nothing, though new connections are taken; for so long, or until `release`."""
        self._ask("stall", seconds=seconds)

    def release(self) -> None:
        """End a stall."""
        self._ask("release")

    def lose_answers(self, method: str = "PUT", count: int = 1) -> None:
        """The next such requests reach the server; instead of its answer the client gets an RST."""
        self._ask("lose_answers", method=method, count=count)

    def flip_bit(self, answer: int = 0, at: float = 0.5) -> None:
        """In the body of the GET answered after so many others from now on, at this share of its length."""
        self._ask("spoil", what="flip", answer=answer, at=at)

    def shorten(self, answer: int = 0, at: float = 0.5) -> None:
        """A short read: that body ends at this share of its length, and its `Content-Length` says the same."""
        self._ask("spoil", what="shorten", answer=answer, at=at)

    def answer_next(
        self,
        status: int,
        *,
        count: int = 1,
        method: str = "",
        path: str = "",
        headers: Mapping[str, str] | None = None,
        body: str = "",
    ) -> None:
        """The next so many requests get this answer and do not reach the server.

        Args:
            status: of the answer.
            count: how many requests.
            method: only those by this method; "" for any.
            path: only those in whose path, as sent and with the query, this stands.
            headers: of the answer.
            body: of the answer; by default an error as S3 has them.
        """
        answer = {"status": status, "headers": dict(headers or {}), "body": body}
        self._ask("answer_next", count=count, method=method, path=path, **answer)

    def requests(self, method: str = "") -> list[Request]:
        """What came so far, in order; of one method, where given."""
        got = [Request(**each) for each in self._ask("requests")]
        return [each for each in got if method in ("", each.method)]

    def counts(self) -> dict[str, Count]:
        """Requests and bytes of bodies, by method."""
        by_method: dict[str, Count] = {}
        for request in self.requests():
            count = by_method.setdefault(request.method, Count())
            count.requests += 1
            count.received += request.received
            count.sent += request.sent
        return by_method

    def connections(self) -> tuple[int, int]:
        """How many are open, and how many there were."""
        now, ever = self._ask("connections")
        return now, ever

    def forget(self) -> None:
        """Counts and records start anew."""
        self._ask("forget")

    def start(self) -> Self:
        """Listen, on a port of the system's choice."""
        self._process = subprocess.Popen(  # noqa: S603  (our own program)
            [sys.executable, "-I", str(Path(__file__).with_name("proxy_process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.port = int(self._ask("start", upstream=self._upstream, faults=asdict(self._faults)))
        return self

    def close(self) -> None:
        """End; open connections break."""
        if self._process is not None:
            process, self._process = self._process, None
            try:
                process.communicate(timeout=5)  # it ends when its standard input does
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, command: str, **arguments: Any) -> Any:
        with self._turn:
            if self._process is None:
                raise RuntimeError("the fault proxy is not started: use it in a `with` statement")
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps([command, arguments]).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the fault proxy is gone, exit code {self._process.wait()}")
        return json.loads(answer)
