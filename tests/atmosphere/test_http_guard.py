"""Where requests may lead: nothing that a stranger names is opened unless it is on the public internet, and https."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdata.atmosphere.guard import Clock, check_url, is_public
from atdata.atmosphere.http import Http
from atdata.errors import AtmosphereError, UnreachableError, UnsafeUrlError
from servers.rude import RudeServer, TestAuthority

LIMIT = 1 << 20
AsPublic = Callable[[dict[str, int]], Http]


@pytest.fixture
def open_http() -> Iterator[Http]:
    """As for a network on this machine."""
    http = Http(allow_private=True, tries=2)
    yield http
    http.close()


@pytest.fixture
def http() -> Iterator[Http]:
    """As for the world."""
    http = Http(tries=2)
    yield http
    http.close()


@pytest.mark.parametrize(
    "url",
    [
        "pipe:cat /etc/passwd",
        "file:///etc/passwd",
        "ftp://example.org/a",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "unix:/var/run/docker.sock",
        "/etc/passwd",
        "data:text/plain,x",
        "",
    ],
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_only_the_web_is_opened(url: str, allow_private: bool) -> None:
    with pytest.raises(UnsafeUrlError, match="is not opened: only https is"):
        check_url(url, allow_private=allow_private)


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "https:///path",
        "https://user:pass@example.org/",
        "https://user@example.org/",
        "https://exa mple.org/",
        "https://example.org/\r\nHost: evil",
        "https://exämple.org/",
        "https://example.org\\@evil.org/",
        "https://example.org/\x00",
    ],
)
def test_urls_that_two_readers_may_read_differently_are_not_opened(url: str) -> None:
    with pytest.raises(UnsafeUrlError, match="is not opened: it is not of the form https://host/path"):
        check_url(url, allow_private=True)


def test_a_url_that_is_too_long() -> None:
    with pytest.raises(UnsafeUrlError, match="is not opened: it has more than 8000 characters"):
        check_url("https://example.org/" + "a" * 70_000, allow_private=True)


@pytest.mark.parametrize("url", ["https://[::1", "https://example.org:99999/", "https://example.org:x/"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UnsafeUrlError, match="is not opened: it is no URL"):
        check_url(url, allow_private=True)


def test_plain_http_is_for_networks_on_this_machine() -> None:
    with pytest.raises(UnsafeUrlError, match=r"plain http .* say allow_private=True or ATDATA_ALLOW_PRIVATE=1"):
        check_url("http://example.org/", allow_private=False)
    assert check_url("http://example.org/", allow_private=True) == "http://example.org/"


PRIVATE = [
    "127.0.0.1", "127.255.255.254", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:a00:1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_in_whatever_dress(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_is_as_public_as_its_ipv6_dress(address: ipaddress.IPv4Address) -> None:
    assert is_public(f"::ffff:{address}") == is_public(f"64:ff9b::{address}") == is_public(str(address))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0",
        "0x7f.1",
        "2130706433",
        "127.1",
        "0177.0.0.1",
    ],
)
def test_private_addresses_are_refused_however_they_are_written(http: Http, host: str, rude: RudeServer) -> None:
    with pytest.raises(UnsafeUrlError, match="is not opened"):
        http.ask("GET", f"https://{host}:{rude.port}/", limit=LIMIT)
    assert rude.requests == []


def test_what_is_checked_is_the_address_that_is_connected_to(rude: RudeServer) -> None:
    """A name that leads to a public address when it is asked first, and to this machine afterwards."""
    answers = iter([[("8.8.8.8", rude.port)], [("127.0.0.1", rude.port)]])
    asked = []

    def lookup(host: str, port: int) -> list[tuple[str, int]]:
        asked.append(host)
        return next(answers)

    assert is_public(lookup("rebinding.example.org", 443)[0][0])
    http = Http(lookup=lookup, tries=1)
    with pytest.raises(
        UnsafeUrlError, match=r"'rebinding\.example\.org' leads to 127\.0\.0\.1, which is no address of the"
    ):
        http.ask("GET", "https://rebinding.example.org/", limit=LIMIT)
    http.close()
    assert len(asked) == 2
    assert rude.requests == []


def test_of_several_addresses_the_public_ones_are_taken(
    rude: RudeServer, authority: TestAuthority, as_public: AsPublic
) -> None:
    with RudeServer(authority.server("data.example.org")) as server:
        server.answer("/a", 200, b"hello")
        as_public({"data.example.org": server.port}).close()
        http = Http(lookup=lambda host, port: [("127.0.0.1", rude.port), ("8.8.4.0", port)], tries=1)
        assert http.ask("GET", "https://data.example.org/a", limit=LIMIT).body == b"hello"
        http.close()
    assert rude.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("http://169.254.169.254/latest/meta-data/", "plain http"),
        ("https://169.254.169.254/latest/meta-data/", "no address of the public internet"),
        ("file:///etc/passwd", "only https is"),
        ("https://localhost/", "no address of the public internet"),
    ],
)
def test_redirects_lead_nowhere_else(
    to: str, message: str, status: int, authority: TestAuthority, as_public: AsPublic
) -> None:
    """From a server on the public internet, as far as the client can tell."""
    with RudeServer(authority.server("data.example.org")) as server:
        server.redirect("/a", to, status)
        http = as_public({"data.example.org": server.port})
        with pytest.raises(UnsafeUrlError, match=message):
            http.ask("GET", "https://data.example.org/a", limit=LIMIT, redirects=True)
        with pytest.raises(UnsafeUrlError, match=message), http.stream("https://data.example.org/a", redirects=True):
            pass
        assert http.ask("GET", "https://data.example.org/a", limit=LIMIT).status == status
        http.close()


def test_https_is_checked_against_the_name(authority: TestAuthority, as_public: AsPublic) -> None:
    with RudeServer(authority.server("data.example.org")) as server:
        server.answer("/a", 200, b"hello")
        http = as_public({"data.example.org": server.port, "other.example.org": server.port})
        assert http.ask("GET", "https://data.example.org/a", limit=LIMIT).body == b"hello"
        with pytest.raises(Exception, match="certificate verify failed"):
            http.ask("GET", "https://other.example.org/a", limit=LIMIT)
        http.close()


def test_without_a_word_of_the_environment_the_usual_authorities_are_trusted(
    authority: TestAuthority, as_public: AsPublic, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RudeServer(authority.server("data.example.org")) as server:
        http = as_public({"data.example.org": server.port})
        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.delenv("SSL_CERT_DIR", raising=False)
        with pytest.raises(UnreachableError, match="certificate verify failed"):
            http.ask("GET", "https://data.example.org/a", limit=LIMIT)


def test_secrets_stay_with_their_server(open_http: Http, rude: RudeServer) -> None:
    with RudeServer() as other:
        other.answer("/b", 200, b"there")
        rude.redirect("/a", other.url("/b"))
        answer = open_http.ask(
            "GET",
            rude.url("/a"),
            limit=LIMIT,
            headers={"x-plain": "1"},
            sign=lambda: {"authorization": "Bearer s"},
            redirects=True,
        )
        assert answer.body == b"there"
        assert rude.requests[0].headers["authorization"] == "Bearer s"
        assert "authorization" not in other.requests[0].headers
        assert other.requests[0].headers["x-plain"] == "1"


def test_redirects_in_a_circle_end(open_http: Http, rude: RudeServer) -> None:
    rude.redirect("/a", rude.url("/a"))
    with pytest.raises(UnsafeUrlError, match="the server redirects in a circle, or too often"):
        open_http.ask("GET", rude.url("/a"), limit=LIMIT, redirects=True)
    assert len(rude.requests) == 6


def test_a_clock_gives_slow_bytes_no_more_time_than_they_are_worth() -> None:
    clock = Clock(10)
    before = clock.left()
    clock.moved(64 << 10)
    assert 0.9 < clock.left() - before <= 1.0


# -- proxies, which many networks have


class Proxy:
    """Forwards what it is asked to CONNECT to, to ports of this machine; counts what it was asked for."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.asked: list[tuple[str, str]] = []
        self._ports = ports
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(4096)
                lines = head.decode().split("\r\n")
                user = next((line for line in lines if line.lower().startswith("proxy-authorization")), "")
                target = lines[0].split()[1]
                self.asked.append((target, user.partition(": ")[2]))
                with socket.create_connection(("127.0.0.1", self._ports[target])) as server:
                    client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
                    there = threading.Thread(target=pump, args=(client, server), daemon=True)
                    there.start()
                    pump(server, client)
                    with contextlib.suppress(OSError):
                        client.shutdown(socket.SHUT_RD)
                    there.join()


def pump(start: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := start.recv(65536):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)


def test_the_proxy_of_the_environment_is_used(authority: TestAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on networks that know no names of the world; it is no stranger, so it may be at a private address."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with RudeServer(authority.server("data.example.org")) as server:
        server.answer("/a", 200, b"hello")
        proxy = Proxy({"data.example.org:443": server.port})
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        known = {"127.0.0.1": "127.0.0.1", "inside.example.org": "10.0.0.1"}

        def lookup(host: str, port: int) -> list[tuple[str, int]]:
            if host not in known:
                raise OSError("no such name")
            return [(known[host], port)]

        http = Http(lookup=lookup, tries=1)
        assert http.ask("GET", "https://data.example.org/a", limit=LIMIT).body == b"hello"
        assert proxy.asked == [("data.example.org:443", "Basic " + base64.b64encode(b"me:p@ss").decode())]
        for private in ("https://inside.example.org/", "https://127.0.0.1/"):
            with pytest.raises(UnsafeUrlError, match="no address of the public internet, and is not opened"):
                http.ask("GET", private, limit=LIMIT)
        assert len(proxy.asked) == 1
        monkeypatch.setenv("NO_PROXY", "data.example.org")
        with pytest.raises(UnreachableError, match=r"data\.example\.org cannot be looked up"):
            http.ask("GET", "https://data.example.org/a", limit=LIMIT)
        http.close()
        proxy.close()


def test_this_machine_is_not_asked_through_a_proxy(
    open_http: Http, rude: RudeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rude.answer("/a", 200, b"hello")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for host in ("127.0.0.1", "localhost"):
        assert open_http.ask("GET", f"http://{host}:{rude.port}/a", limit=LIMIT).body == b"hello"


def test_a_proxy_of_another_kind(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:secret@proxy.example.org:1080")
    with pytest.raises(
        AtmosphereError, match="the proxy that the environment names is of the kind socks5, and only"
    ) as e:
        http.ask("GET", "https://8.8.8.8/", limit=LIMIT)
    assert "secret" not in str(e.value)
