"""Requests end, whatever a server does; connections are kept; and asking again follows rules."""

from __future__ import annotations

import contextlib
import email.utils
import gc
import os
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator

import pytest

from atdata.errors import StoreError
from atdata.stores import http, transport
from atdata.stores.http import HttpObject, Web
from atdata.stores.transport import AgainError, Clock, Patience, Transport, retry_after
from atdata.testing import FaultProxy
from servers.rgw import HasEndpoint
from servers.web import WebServer

pytestmark = pytest.mark.timeout(60)

DATA = bytes(range(256)) * 4000


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second at most."""
    monkeypatch.setattr(http, "_PATIENCE", Patience(tries=3, seconds=1.0, first=0.01))
    monkeypatch.setattr(transport, "SILENCE", 0.3)


@contextlib.contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that says what `talk` says, whatever it is asked; its address."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                talk(connection)

        def accept() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/a.tar"
        finally:
            stop.set()
            accepting.join()


def drip(text: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        for at in range(len(text)):
            connection.sendall(text[at : at + 1])
            threading.Event().wait(0.05)

    return talk


WHOLE = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/1\r\nContent-Length: 1\r\n"


@pytest.mark.parametrize(
    "text",
    [b"HTTP/1.1 206 " + b"x" * 5000, WHOLE + b"X: y\r\n" * 80 + b"\r\nz", WHOLE + b"\r\n"],
    ids=["status line", "headers", "nothing more"],
)
def test_an_answer_that_drips_ends(patience: None, text: bytes) -> None:
    """Each byte comes soon after the last one; only all together they take too long."""
    with server(drip(text)) as address, pytest.raises(StoreError, match=r"too long|in time|cut|closed"):
        HttpObject(address).read(0, 1)


def test_a_body_that_drips_ends(
    patience: None, web: WebServer, make_proxy: Callable[[HasEndpoint], FaultProxy]
) -> None:
    (web.folder / "a.tar").write_bytes(DATA)
    proxy = make_proxy(web)
    file = HttpObject(f"{proxy.endpoint}/a.tar")
    assert file.size == len(DATA)
    proxy.set(bandwidth=20)
    for read in (lambda: file.read(0, len(DATA)), file.whole, lambda: HttpObject(f"{proxy.endpoint}/a.tar").whole()):
        with pytest.raises(StoreError, match=r"too long|in time"):
            read()
    proxy.clear()
    assert file.read(0, len(DATA)) == DATA


def test_a_slow_server_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, web: WebServer, make_proxy: Callable[[HasEndpoint], FaultProxy]
) -> None:
    """Bytes that come put the deadline off, so that slowness alone is no failure."""
    monkeypatch.setattr(http, "_PATIENCE", Patience(tries=1, seconds=0.5))
    (web.folder / "a.tar").write_bytes(DATA)
    proxy = make_proxy(web)
    proxy.set(bandwidth=len(DATA))
    assert HttpObject(f"{proxy.endpoint}/a.tar").whole() == DATA


def test_silence_ends(patience: None, web: WebServer, make_proxy: Callable[[HasEndpoint], FaultProxy]) -> None:
    (web.folder / "a.tar").write_bytes(DATA)
    proxy = make_proxy(web)
    file = HttpObject(f"{proxy.endpoint}/a.tar")
    assert file.read(0, 10) == DATA[:10]
    proxy.stall()
    with pytest.raises(StoreError, match="no answer in time"):
        file.read(10, 20)
    proxy.release()
    assert file.read(10, 20) == DATA[10:20]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("dated", [False, True])
def test_the_server_says_when_to_ask_again(
    web: WebServer, make_proxy: Callable[[HasEndpoint], FaultProxy], status: int, dated: bool
) -> None:
    (web.folder / "a.tar").write_bytes(DATA)
    proxy = make_proxy(web)
    then = time.time() + 2
    told = email.utils.formatdate(int(then), usegmt=True) if dated else "1"
    proxy.answer_next(status, headers={"Retry-After": told})
    assert HttpObject(f"{proxy.endpoint}/a.tar").read(0, 10) == DATA[:10]
    first, second = proxy.requests()
    assert second.at - first.at >= 1 - dated
    assert not dated or time.time() >= int(then)


def test_waits_that_servers_ask_for() -> None:
    assert retry_after("120") == 120
    assert 50 < retry_after(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60
    for told in ("", "-5", "soon", "Thu, 01 Jan 1970 00:00:00 GMT", "1e9", "²"):
        assert retry_after(told) == 0


def test_answers_that_are_short_are_completed(web: WebServer, make_proxy: Callable[[HasEndpoint], FaultProxy]) -> None:
    (web.folder / "a.tar").write_bytes(DATA)
    proxy = make_proxy(web)
    file = HttpObject(f"{proxy.endpoint}/a.tar")
    for at in (0.0, 0.3, 0.99):
        proxy.shorten(at=at)
        assert file.read(1000, 500_000) == DATA[1000:500_000]


def test_connections_are_kept(web: WebServer, make_proxy: Callable[[HasEndpoint], FaultProxy]) -> None:
    for name in ("a.tar", "b.tar"):
        (web.folder / name).write_bytes(DATA)
    proxy, shared = make_proxy(web), Web()
    first, second = (HttpObject(f"{proxy.endpoint}/{name}", web=shared) for name in ("a.tar", "b.tar"))
    for at in range(0, 100, 10):
        assert first.read(at, at + 10) == second.read(at, at + 10) == DATA[at : at + 10]
    assert first.size == len(DATA)
    assert proxy.connections()[1] == 1
    proxy.reset()  # as a server may do with a connection that waits
    assert first.read(0, 10) == DATA[:10]
    assert proxy.connections()[1] == 2


def test_a_redirect_is_remembered_while_it_is_good(web: WebServer) -> None:
    (web.folder / "a.tar").write_bytes(DATA)
    web.redirect("latest.tar", web.url("a.tar") + "?signature=1")
    file = HttpObject(web.url("latest.tar"))
    assert [file.read(at, at + 5) for at in range(3)] == [DATA[at : at + 5] for at in range(3)]
    assert [request.path for request in web.requests] == ["/latest.tar", "/a.tar", "/a.tar", "/a.tar"]
    web.answer("a.tar", 403)  # as when the signature has expired
    (web.folder / "b.tar").write_bytes(DATA)
    os.utime(web.folder / "b.tar", ns=(0, os.stat(web.folder / "a.tar").st_mtime_ns))
    web.redirect("latest.tar", web.url("b.tar"))
    assert file.read(7, 9) == DATA[7:9]


def test_empty_files(web: WebServer) -> None:
    (web.folder / "empty.tar").write_bytes(b"")
    for ranges in (True, False):
        web.ranges = ranges
        file = HttpObject(web.url("empty.tar"))
        assert file.size == 0
        assert file.whole() == b""
        assert file.stream().read() == b""
        with pytest.raises(StoreError, match="short"):
            file.read(0, 5)


def test_a_server_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ranges nor a length, and no end: not all of it is held."""
    monkeypatch.setattr(http, "_MOST", 3_000_000)

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            connection.sendall(bytes(65536))

    with server(endless) as address:
        for read in (lambda: HttpObject(address).read(0, 1), lambda: HttpObject(address).whole()):
            with pytest.raises(StoreError, match="larger than 3000000 bytes"):
                read()


def test_a_fork_has_connections_of_its_own(web: WebServer, make_proxy: Callable[[HasEndpoint], FaultProxy]) -> None:
    (web.folder / "a.tar").write_bytes(DATA)
    proxy = make_proxy(web)
    file = HttpObject(f"{proxy.endpoint}/a.tar")
    assert file.read(0, 10) == DATA[:10]
    child = os.fork()
    if child == 0:
        os._exit(0 if file.read(10, 20) == DATA[10:20] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert file.read(20, 30) == DATA[20:30]
    assert proxy.connections()[1] == 2


def test_asking_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(transport.time, "sleep", waited.append)
    tries = iter(range(100))

    def failing(clock: Clock) -> int:
        if next(tries) < 4:
            raise ConnectionResetError("reset")
        return 7

    assert Patience(tries=5, seconds=60).insist("u", failing) == 7
    assert all(0.05 * 2**n <= wait <= 0.1 * 2**n for n, wait in enumerate(waited))
    with pytest.raises(StoreError, match=r"also when asked 3 times: reset \[u\]"):
        Patience(tries=3, seconds=60).insist("u", lambda clock: failing_always())
    with pytest.raises(StoreError, match="a longer wait than there is time for"):
        Patience(tries=9, seconds=60).insist("u", lambda clock: again(61.0))
    waited.clear()
    with pytest.raises(StoreError, match="busy"):
        Patience(tries=4, seconds=60).insist("u", lambda clock: again(2.5))
    assert waited == [2.5] * 3


def failing_always() -> int:
    raise ConnectionResetError("reset")


def again(after: float) -> int:
    raise AgainError("busy", after)


def test_where_a_transport_leads() -> None:
    for origin, authority in (
        ("http://host", "host"),
        ("http://host:80/x", "host"),
        ("https://host:443", "host"),
        ("https://host:80", "host:80"),
        ("http://[::1]:8080", "[::1]:8080"),
    ):
        assert Transport(origin).authority == authority


def functions_of(thread: threading.Thread) -> list[str]:
    """What a thread is doing, innermost first."""
    return [frame.f_code.co_name for frame, _ in traceback.walk_stack(sys._current_frames()[thread.ident or 0])]


def test_connections_that_nobody_closes_close_by_themselves() -> None:
    """Also where the collector meets a connection before its owner: one that was waited on while it collected."""
    answering, go_on = threading.Event(), threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(WHOLE + b"\r\n")
        answering.set()
        go_on.wait(20)
        connection.sendall(b"z")
        connection.recv(1)  # until the other side closes

    class Owner:
        def __init__(self, web: Web) -> None:
            self.web, self.cycle = web, self

    with server(talk) as address, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        gc.collect()
        gc.disable()
        try:
            owner = Owner(Web())
            file = HttpObject(address, web=owner.web)
            reading = threading.Thread(target=file.read, args=(0, 1))
            reading.start()
            assert answering.wait(20)
            while "_read" not in functions_of(reading):  # its body, of which nothing has come
                time.sleep(0.001)
            gc.collect(0)
            go_on.set()
            reading.join(20)
            del owner, file, reading
            gc.collect()
        finally:
            gc.enable()
    assert [str(each.message) for each in said] == []
