"""Connections that lead only where a stranger may lead us, and of which every wait ends.

A record or a DID document names servers. Whoever writes one could name the services of the machine or network that
reads it (https://owasp.org/www-community/attacks/Server_Side_Request_Forgery). What is checked is the address that is
connected to, after the name was looked up, so a name that leads elsewhere the second time gains nothing.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from atdata.atmosphere.syntax import shown
from atdata.errors import AtmosphereError, UnsafeUrlError

if TYPE_CHECKING:
    import httpcore

__all__ = ["Clock", "Connections", "Lookup", "check_url", "connections", "is_public", "needs"]

CONNECT = 10.0  # seconds, for one address
SILENCE = 30.0  # seconds without any byte
SLOWEST = 64 << 10  # bytes a second; who is slower is waited for until the deadline
LONGEST_URL = 8_000  # RFC 9110, 4.1, has everybody take that
CONNECTIONS = 64
IDLE = 4.0  # seconds that a connection is kept: servers on Node close it after 5

Lookup = Callable[[str, int], Sequence[tuple[str, int]]]
"""From a host name and port to the addresses and ports to connect to; OSError where there are none."""

_REMEDY = "For a network on this machine, say allow_private=True or ATDATA_ALLOW_PRIVATE=1"


def needs(package: str) -> AtmosphereError:
    """The error for a package of the extra `atmosphere` that is not installed."""
    return AtmosphereError(f"the AT Protocol network needs {package}: pip install 'atdata[atmosphere]'")


class Clock(float):
    """The time that one request has, in seconds; bytes that come or go put its end off by what they are worth.

    It goes through httpcore as the time-out of each wait, and is looked at by the connections below.
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until the deadline; negative afterwards."""
        return self._until - time.monotonic()

    def moved(self, count: int) -> None:
        """Put the deadline off for so many bytes."""
        self._until += count / SLOWEST


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also where it is wrapped into an IPv6 address.

    Example:
        >>> is_public("8.8.8.8"), is_public("127.0.0.1"), is_public("::ffff:10.0.0.1"), is_public("169.254.169.254")
        (True, False, False, False)
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):  # through a gateway (RFC 6052)
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def check_url(url: str, *, allow_private: bool) -> str:
    """The URL, if one like it may be opened; the address that it leads to is looked at when it is connected to.

    Raises:
        UnsafeUrlError: it is not https (or, where private places are allowed, http), names a user, or makes no sense.

    Example:
        >>> check_url("https://example.org/data", allow_private=False)
        'https://example.org/data'
    """
    if len(url) > LONGEST_URL:
        raise UnsafeUrlError(f"{shown(url)} is not opened: it has more than {LONGEST_URL} characters")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UnsafeUrlError(f"{shown(url)} is not opened: it is no URL ({error})") from None
    if parts.scheme == "http" and not allow_private:
        raise UnsafeUrlError(
            f"{shown(url)} is not opened: what comes by plain http may come from anyone on the way. {_REMEDY}"
        )
    if parts.scheme not in ("https", "http"):
        raise UnsafeUrlError(f"{shown(url)} is not opened: only https is")
    if not host or "@" in parts.netloc or not url.isascii() or any(ord(char) <= 32 for char in url) or "\\" in url:
        raise UnsafeUrlError(f"{shown(url)} is not opened: it is not of the form https://host/path")
    return url


def connections(*, allow_private: bool, lookup: Lookup | None = None) -> Connections:
    """Connections that are checked when they are made, to be kept for the next request.

    Args:
        allow_private: whether loopback and private addresses may be connected to.
        lookup: how names are looked up, instead of the system's way.

    Raises:
        AtmosphereError: what the extra `atmosphere` installs is not there.
    """
    try:
        import httpcore
    except ImportError:
        raise needs("httpcore") from None

    def wait(timeout: float | None, late: type[Exception]) -> float:
        if not isinstance(timeout, Clock):
            return SILENCE if timeout is None else timeout
        left = timeout.left()
        if left <= 0:
            raise late("it takes too long")
        return min(SILENCE, left)

    class Stream(httpcore.NetworkStream):
        """A connection that keeps to the clock of the request that it serves."""

        def __init__(self, inner: httpcore.NetworkStream) -> None:
            self._inner = inner
            self._socket: socket.socket = inner.get_extra_info("socket")

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            data = self._inner.read(max_bytes, wait(timeout, httpcore.ReadTimeout))
            if isinstance(timeout, Clock):
                timeout.moved(len(data))
            return data

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            left = memoryview(buffer)
            while left:
                self._socket.settimeout(wait(timeout, httpcore.WriteTimeout))
                try:
                    count = self._socket.send(left)
                except TimeoutError as error:
                    raise httpcore.WriteTimeout(str(error)) from error
                except OSError as error:
                    raise httpcore.WriteError(str(error)) from error
                if isinstance(timeout, Clock):
                    timeout.moved(count)
                left = left[count:]

        def close(self) -> None:
            self._inner.close()

        def start_tls(
            self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.NetworkStream:
            return Stream(self._inner.start_tls(ssl_context, server_hostname, wait(timeout, httpcore.ConnectTimeout)))

        def get_extra_info(self, info: str) -> Any:
            return self._inner.get_extra_info(info)

    class Backend(httpcore.NetworkBackend):
        """Looks names up, and connects to what may be connected to."""

        def __init__(self, checked: bool) -> None:
            self._checked = checked

        def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore.NetworkStream:
            try:
                found = (lookup or _addresses)(host, port)
            except (OSError, UnicodeError) as error:
                raise httpcore.ConnectError(f"{host} cannot be looked up: {error}") from error
            may = _allowed(host, found) if self._checked else found
            for number, (address, at) in enumerate(may, 1):
                patience = min(CONNECT, wait(timeout, httpcore.ConnectTimeout))
                try:
                    return Stream(
                        httpcore.SyncBackend().connect_tcp(address, at, patience, local_address, socket_options)
                    )
                except (httpcore.ConnectError, httpcore.ConnectTimeout):
                    if number == len(may):
                        raise
            raise httpcore.ConnectError(f"{host} has no address")

    given: dict[str, Any] = {
        "ssl_context": _trusted(),
        "max_connections": CONNECTIONS,
        "max_keepalive_connections": CONNECTIONS,
        "keepalive_expiry": IDLE,
    }

    def pool(proxy: str | None) -> httpcore.ConnectionPool:
        if proxy is None:
            return httpcore.ConnectionPool(network_backend=Backend(not allow_private), **given)
        parts = urlsplit(proxy)
        user = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
        # The proxy that the environment names is where it is.
        there = f"{parts.scheme}://{parts.hostname}:{parts.port or 80}"
        return httpcore.HTTPProxy(there, proxy_auth=user, network_backend=Backend(False), **given)

    return Connections(pool, None if allow_private else lookup or _addresses)


class Connections:
    """Connections to servers, directly or through the proxy that the environment names; threads may share them.

    Args:
        pool: makes those through a proxy, or with None the direct ones.
        lookup: how names are looked up, where private addresses are refused.
    """

    def __init__(self, pool: Callable[[str | None], httpcore.ConnectionPool], lookup: Lookup | None) -> None:
        self._pool = pool
        self._lookup = lookup
        self._pools: dict[str | None, httpcore.ConnectionPool] = {None: pool(None)}

    def send(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request; the response is to be closed."""
        scheme, host = request.url.scheme.decode(), request.url.host.decode()
        proxy = _proxy_for(scheme, host)
        if proxy is not None:
            if self._lookup is not None:
                _check_behind_proxy(host, self._lookup)
            if proxy not in self._pools:
                self._pools.setdefault(proxy, self._pool(proxy))
        return self._pools[proxy].handle_request(request)

    def close(self) -> None:
        """Close them all."""
        for pool in self._pools.values():
            pool.close()


def _trusted() -> ssl.SSLContext:
    """Whom to trust: what `SSL_CERT_FILE` or `SSL_CERT_DIR` says, or else the system and certifi."""
    context = ssl.create_default_context()
    if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _addresses(host: str, port: int) -> list[tuple[str, int]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((str(each[4][0]), port) for each in found))


def _allowed(host: str, found: Sequence[tuple[str, int]]) -> Sequence[tuple[str, int]]:
    """The addresses of a host that are public."""
    may = [each for each in found if is_public(each[0])]
    if found and not may:
        leads = "" if found[0][0] == host else f" leads to {found[0][0]}, which"
        raise UnsafeUrlError(f"{shown(host)}{leads} is no address of the public internet, and is not opened. {_REMEDY}")
    return may


def _proxy_for(scheme: str, host: str) -> str | None:
    """The proxy that the environment names (`HTTPS_PROXY`, `NO_PROXY`), which is not asked for this machine itself."""
    found = urllib.request.getproxies().get(scheme)
    if not found or host == "localhost" or urllib.request.proxy_bypass(host):
        return None
    try:
        if ipaddress.ip_address(host).is_loopback:
            return None
    except ValueError:
        pass
    kind, there, _ = found.partition("://")
    if there and kind not in ("http", "https"):
        raise AtmosphereError(
            f"the proxy that the environment names is of the kind {shown(kind)[1:-1]}, and only http ones can be used"
        )
    return found if there else f"http://{found}"


def _check_behind_proxy(host: str, lookup: Lookup) -> None:
    """A proxy looks names up by itself; what is known here to be private is not asked for."""
    try:
        found = lookup(host, 443)
    except (OSError, UnicodeError):
        return  # many networks with a proxy know no names of the world
    _allowed(host, found)
