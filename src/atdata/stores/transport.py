"""HTTP requests of which every wait ends: connections that are kept, proxies, time-outs, and asking again.

By the standard library, whose own time-outs are for one wait each: a server that sends a byte now and then would be
waited for without end. Here a request has a deadline, which bytes that come put off by what they are worth.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import io
import os
import random
import socket
import ssl
import time
import urllib.request
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import unquote, urlsplit

from atdata.atmosphere.guard import is_public
from atdata.errors import StoreError, UnsafeUrlError

__all__ = ["AGAIN", "AgainError", "Clock", "Patience", "Reply", "Transport", "retry_after"]

CONNECT = 5.0  # seconds
SILENCE = 20.0  # seconds without any byte
SLOWEST = 64 << 10  # bytes a second; who is slower is waited for until the deadline
_KEPT = 64  # connections
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

T = TypeVar("T")


class AgainError(Exception):
    """Worth another try.

    Args:
        text: why.
        after: seconds to wait before, if the server said so.
    """

    def __init__(self, text: str, after: float = 0.0) -> None:
        super().__init__(text)
        self.after = after


def retry_after(told: str) -> float:
    """The seconds that a server asks to wait, in either form of `Retry-After` (RFC 9110, 10.2.3); 0 when it does not.

    Example:
        >>> retry_after("3"), retry_after("Thu, 01 Jan 1970 00:00:00 GMT"), retry_after("")
        (3.0, 0.0, 0.0)
    """
    if told.isascii() and told.isdigit():
        return float(told)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


class Clock:
    """The time that one request has, all tries together."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until the deadline; negative afterwards."""
        return self._until - time.monotonic()

    def came(self, count: int) -> None:
        """Put the deadline off for so many bytes."""
        self._until += count / SLOWEST


class Patience(NamedTuple):
    """How often and how long to ask, with growing pauses; a part of them is chance, so that many do not ask at once."""

    tries: int
    seconds: float
    first: float = 0.1
    most: float = 10.0

    def insist(self, url: str, ask: Callable[[Clock], T], got: Callable[[], int] = lambda: 0) -> T:
        """What `ask` gives when it succeeds.

        Args:
            url: for the message.
            ask: one try; connections that break and AgainError have it tried again.
            got: what has come so far; a try that brought something is not counted.

        Raises:
            StoreError: it did not succeed, as often as was tried, or within the time.
        """
        clock = Clock(self.seconds)
        attempt = 0
        while True:
            before = got()
            try:
                return ask(clock)
            except AgainError as error:
                text, wait = str(error), error.after
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, StoreError):
                    raise
                late = isinstance(error, TimeoutError)
                text, wait = "no answer in time" if late else str(error) or type(error).__name__, 0.0
            attempt = 1 if got() > before else attempt + 1
            wait = wait or min(self.most, self.first * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
            if attempt >= self.tries or wait > clock.left():
                asked = "also when asked again" if attempt == 1 else f"also when asked {attempt} times"
                late_too = "; it asks for a longer wait than there is time for" if wait > self.most else ""
                raise StoreError(f"the server cannot be read, {asked}: {text}{late_too}", url=url)
            time.sleep(wait)


class Transport:
    """Connections to one server, kept for the next request; every thread that asks has one of its own meanwhile.

    Args:
        origin: `http://host:port` or `https://host`.
        public: connect only to addresses of the public internet: for a server that a stranger names.
    """

    def __init__(self, origin: str, *, public: bool = False) -> None:
        self._public = public
        address = urlsplit(origin)
        self._secure = address.scheme == "https"
        default = 443 if self._secure else 80
        self._host, self._port = address.hostname or "", address.port or default
        shown = f"[{self._host}]" if ":" in self._host else self._host
        self.authority = shown if self._port == default else f"{shown}:{self._port}"
        self.origin = f"{address.scheme}://{self.authority}"
        by_proxy = not urllib.request.proxy_bypass(self._host)
        proxy = urllib.request.getproxies().get(address.scheme) if by_proxy else None
        self._proxy = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
        self._context: ssl.SSLContext | None = None
        # Lists are changed in one step, so that no lock is needed, which might be held while a process forks.
        self._idle: list[_Connection] = []
        # Not `__del__`: where the collector finds this and its connections, it may end a socket before this runs.
        weakref.finalize(self, _close, self._idle)
        self._pid = os.getpid()

    def ask(self, method: str, target: str, headers: Mapping[str, str], clock: Clock) -> Reply:
        """Send a request without a body; the reply is to be read in a `with` statement.

        Args:
            method: `GET`, `HEAD`, `DELETE`, ….
            target: the path, quoted, and the query.
            headers: besides those that every request has.
            clock: says how long to wait.
        """
        if self._pid != os.getpid():  # they are the parent's, which goes on using them
            self.close()
            self._pid = os.getpid()
        sent = {"host": self.authority, "accept-encoding": "identity", "user-agent": "atdata", **headers}
        if self._proxy is not None and not self._secure:
            target, sent = f"{self.origin}{target}", {**sent, **self._for_proxy()}
        while True:
            try:
                connection, kept = self._idle.pop(), True
            except IndexError:
                connection, kept = self._connected(clock), False
            connection.clock = clock
            try:
                connection.web.request(method, target, headers=sent)
                return Reply(self, connection, connection.web.getresponse())
            except BaseException as error:
                connection.web.close()
                # The server may close a connection that waits; that it has done so is not known before it is used.
                if not (kept and isinstance(error, ConnectionError)):
                    raise

    def _connected(self, clock: Clock) -> _Connection:
        via = self._proxy
        host, port = (self._host, self._port) if via is None else (via.hostname or "", via.port or 80)
        patience = max(0.001, min(CONNECT, clock.left()))
        made: http.client.HTTPConnection
        context = self._context
        if self._secure:
            context = context or ssl.create_default_context()
            made = http.client.HTTPSConnection(host, port, timeout=patience, context=context)
            if via is not None:
                made.set_tunnel(self._host, self._port, self._for_proxy())
        else:
            made = http.client.HTTPConnection(host, port, timeout=patience)
        if self._public and via is None:
            made._create_connection = _to_public  # type: ignore[attr-defined]
        elif self._public:
            _check_public(self._host, self._port)
        connection = _Connection(made, clock)
        try:
            made.connect()
        except BaseException:
            made.close()
            raise
        self._context = context
        made.sock.settimeout(SILENCE)
        made.response_class = partial(_Timely, connection)  # type: ignore[assignment]
        return connection

    def _for_proxy(self) -> dict[str, str]:
        """What a proxy wants to know of who asks."""
        if self._proxy is None or self._proxy.username is None:
            return {}
        who = f"{unquote(self._proxy.username)}:{unquote(self._proxy.password or '')}"
        return {"proxy-authorization": "Basic " + base64.b64encode(who.encode()).decode()}

    def close(self) -> None:
        """Close the connections that wait."""
        _close(self._idle)


def _to_public(address: tuple[str, int], timeout: float, *_: object) -> socket.socket:
    """A connection to one of the public addresses of a host; see `socket.create_connection`."""
    host, port = address
    found = [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    may = [each for each in dict.fromkeys(found) if is_public(each)]
    if not may:
        raise _no_public(host, found)
    for each in may[:-1]:
        with contextlib.suppress(OSError):
            return socket.create_connection((each, port), timeout)
    return socket.create_connection((may[-1], port), timeout)


def _check_public(host: str, port: int) -> None:
    """Look at where a host is that a proxy will connect to; what only the proxy can look up is for it to judge."""
    try:
        found = [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError:
        return
    if not any(map(is_public, found)):
        raise _no_public(host, found)


def _no_public(host: str, found: list[str]) -> UnsafeUrlError:
    return UnsafeUrlError(
        f"{host} leads to {found[0] if found else 'nowhere'}, which is no address of the public internet: a record may "
        "not have it opened. For a network on this machine, say allow_private=True or ATDATA_ALLOW_PRIVATE=1"
    )


class _Connection:
    """A connection, and the clock of the request that it serves."""

    def __init__(self, web: http.client.HTTPConnection, clock: Clock) -> None:
        self.web = web
        self.clock = clock


def _close(connections: list[_Connection]) -> None:
    while connections:
        connections.pop().web.close()


class Reply:
    """An answer, whose body is still to be read.

    Attributes:
        status: its number.
        reason: the server's word for that.
        headers: by names in whatever case.
    """

    def __init__(self, transport: Transport, connection: _Connection, answer: http.client.HTTPResponse) -> None:
        self._transport = transport
        self._connection = connection
        self._answer = answer
        self.status, self.reason, self.headers = answer.status, answer.reason, answer.headers
        self.read, self.read1, self.readinto = answer.read, answer.read1, answer.readinto

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        idle = self._transport._idle
        if kind is None and self._answer.length == 0:
            self._answer.read()  # which says that it is read
        if kind is None and self._answer.isclosed() and not self._answer.will_close and len(idle) < _KEPT:
            idle.append(self._connection)
        else:
            self._answer.close()
            self._connection.web.close()


class _Timely(http.client.HTTPResponse):
    """An answer of which every byte comes within the time of its request."""

    def __init__(self, connection: _Connection, sock: socket.socket, *given: Any, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_Waiting(connection, sock, raw), 64 << 10)


class _Waiting(io.RawIOBase):
    def __init__(self, connection: _Connection, sock: socket.socket, raw: Any) -> None:
        self._connection = connection
        self._sock = sock
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        clock = self._connection.clock
        left = clock.left()
        if left <= 0:
            raise AgainError("it takes too long")
        self._sock.settimeout(min(SILENCE, left))
        count: int | None = self._raw.readinto(buffer)
        clock.came(count or 0)
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
