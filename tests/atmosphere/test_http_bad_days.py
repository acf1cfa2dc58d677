"""Requests on bad days: what is tried again and what is not, how long is waited, and what an answer may cost."""

from __future__ import annotations

import email.utils
import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdata.atmosphere import guard
from atdata.atmosphere import http as module
from atdata.atmosphere.http import Http, retry_wait
from atdata.errors import AtmosphereError, OversizeError, UnreachableError, UnsafeUrlError
from forking import in_fork
from servers.rude import RudeServer, answer

LIMIT = 1 << 20


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[Http]:
    monkeypatch.setattr(module, "FIRST", 0.01)
    http = Http(allow_private=True, tries=4, seconds=20)
    yield http
    http.close()


def in_turn(rude: RudeServer, path: str, *answers: bytes) -> None:
    """One answer after the other; the last for ever."""
    left = list(answers)
    rude.does(path, lambda connection: connection.sendall(left.pop(0) if len(left) > 1 else left[0]))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(http: Http, rude: RudeServer, status: int) -> None:
    in_turn(rude, "/a", answer(status), answer(status), answer(200, b"now"))
    assert http.ask("GET", rude.url("/a"), limit=LIMIT).body == b"now"
    assert len(rude.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 501])
def test_what_will_not_pass_is_told_at_once(http: Http, rude: RudeServer, status: int) -> None:
    rude.answer("/a", status, b"no")
    assert http.ask("GET", rude.url("/a"), limit=LIMIT)[0::2] == (status, b"no")
    assert len(rude.requests) == 1


def test_after_so_many_tries_the_last_answer_is_given(http: Http, rude: RudeServer) -> None:
    rude.answer("/a", 500, b"still")
    assert http.ask("GET", rude.url("/a"), limit=LIMIT).body == b"still"
    assert len(rude.requests) == 4


@pytest.mark.parametrize("status", [500, 502, 504, 408])
def test_what_may_have_been_done_is_not_asked_for_twice(http: Http, rude: RudeServer, status: int) -> None:
    rude.answer("/a", status)
    assert http.ask("POST", rude.url("/a"), limit=LIMIT, content=b"{}", again=False).status == status
    assert len(rude.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_what_the_server_did_not_touch_is_asked_for_again(http: Http, rude: RudeServer, status: int) -> None:
    in_turn(rude, "/a", answer(status), answer(200))
    assert http.ask("POST", rude.url("/a"), limit=LIMIT, content=b"{}", again=False).status == 200


def test_a_lost_answer_to_what_must_not_be_repeated(http: Http, rude: RudeServer) -> None:
    rude.raw("/a", b"")
    with pytest.raises(UnreachableError, match="whether it did what was asked is not known") as caught:
        http.ask("POST", rude.url("/a?secret=1"), limit=LIMIT, content=b"{}", again=False)
    assert len(rude.requests) == 1
    assert "secret" not in str(caught.value)


def test_nobody_there(http: Http) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UnreachableError, match=r"cannot be reached, also when asked 4 times: .*refused.* \[http://127"):
        http.ask("GET", f"http://127.0.0.1:{port}/a", limit=LIMIT)


def test_a_name_that_is_none(http: Http) -> None:
    with pytest.raises(UnreachableError, match=r"nowhere\.invalid cannot be looked up"):
        http.ask("GET", "https://nowhere.invalid/", limit=LIMIT)


def test_a_server_that_says_nothing_is_not_waited_for_without_end(rude: RudeServer) -> None:
    released = threading.Event()
    rude.does("/a", lambda connection: (released.wait(60), None)[1])
    http = Http(allow_private=True, seconds=0.3)
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="cannot be reached"):
        http.ask("GET", rude.url("/a"), limit=LIMIT)
    released.set()
    http.close()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("beginning", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"])
def test_a_server_that_sends_a_byte_now_and_then_neither(rude: RudeServer, beginning: bytes) -> None:
    released = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while not released.wait(0.02):
            connection.sendall(b"x")

    rude.does("/a", drip)
    http = Http(allow_private=True, seconds=0.5)
    with pytest.raises(UnreachableError, match=r"timed out|it takes too long"):
        http.ask("GET", rude.url("/a"), limit=LIMIT)
    released.set()
    http.close()


def test_a_server_that_takes_nothing_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an upload, which is larger than what connections hold by themselves."""
    monkeypatch.setattr(guard, "SILENCE", 0.2)
    listener = socket.create_server(("127.0.0.1", 0))
    http = Http(allow_private=True, seconds=0.5, tries=2)
    with pytest.raises(UnreachableError):
        http.ask("POST", f"http://127.0.0.1:{listener.getsockname()[1]}/", limit=LIMIT, content=bytes(64 << 20))
    listener.close()
    http.close()


def test_a_body_that_was_cut_is_read_again(http: Http, rude: RudeServer) -> None:
    in_turn(rude, "/a", answer(200, b"whole")[:-2], answer(200, b"whole"))
    assert http.ask("GET", rude.url("/a"), limit=LIMIT).body == b"whole"


def test_a_body_that_is_always_cut(http: Http, rude: RudeServer) -> None:
    rude.raw("/a", answer(200, b"whole")[:-2])
    with pytest.raises(UnreachableError, match="cannot be reached, also when asked 4 times: peer closed connection"):
        http.ask("GET", rude.url("/a"), limit=LIMIT)


def test_a_stream_that_breaks_off(http: Http, rude: RudeServer) -> None:
    rude.raw("/a", answer(200, b"whole")[:-2])
    with http.stream(rude.url("/a")) as reply:
        assert reply.length == 5
        assert next(reply.chunks) == b"who"
        with pytest.raises(UnreachableError, match="the answer breaks off: peer closed connection"):
            next(reply.chunks)


def test_what_is_no_http(http: Http, rude: RudeServer) -> None:
    rude.raw("/a", b"SSH-2.0-OpenSSH\r\n")
    with pytest.raises(UnreachableError, match="cannot be reached, also when asked 4 times"):
        http.ask("GET", rude.url("/a"), limit=LIMIT)


def test_headers_without_end(http: Http, rude: RudeServer) -> None:
    rude.raw("/a", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1_000_000)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        http.ask("GET", rude.url("/a"), limit=LIMIT)


def test_a_large_answer_is_refused_before_it_is_read(http: Http, rude: RudeServer) -> None:
    rude.raw("/a", b"HTTP/1.1 200 OK\r\nContent-Length: 2000000000\r\n\r\n")
    with pytest.raises(OversizeError, match="the answer has more than the 1048576 bytes that are read"):
        http.ask("GET", rude.url("/a"), limit=LIMIT)
    assert len(rude.requests) == 1


def test_a_large_answer_that_does_not_say_so_is_read_no_further(http: Http, rude: RudeServer) -> None:
    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    rude.does("/a", endless)
    with pytest.raises(OversizeError):
        http.ask("GET", rude.url("/a"), limit=LIMIT)


def test_of_an_error_the_beginning_is_enough(http: Http, rude: RudeServer) -> None:
    rude.answer("/a", 400, b"x" * 1_000_000)
    assert len(http.ask("GET", rude.url("/a"), limit=10).body) <= 64 << 10 | 1
    with http.stream(rude.url("/a")) as reply:
        assert sum(map(len, reply.chunks)) <= 64 << 10


def test_nothing_compressed_is_asked_for_or_taken(http: Http, rude: RudeServer) -> None:
    """A little of it may become very much."""
    rude.answer("/a", 200, b"x", {"Content-Encoding": "gzip"})
    with pytest.raises(AtmosphereError, match="the server compresses what it was asked not to"):
        http.ask("GET", rude.url("/a"), limit=LIMIT)
    assert rude.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "7", "ratelimit-reset": "9"}, 7),
        ({"ratelimit-reset": "9"}, 9),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"ratelimit-reset": "1000000001"}, 0),
        ({"ratelimit-reset": "x"}, None),
        ({}, None),
    ],
)
def test_what_servers_say_of_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_wait(headers) == seconds


def test_times_of_day_to_wait_for() -> None:
    then = time.time() + 100
    assert 98 <= (retry_wait({"retry-after": email.utils.formatdate(then, usegmt=True)}) or 0) <= 100
    assert 98 <= (retry_wait({"ratelimit-reset": str(int(then))}) or 0) <= 100


@given(st.dictionaries(st.sampled_from(["retry-after", "ratelimit-reset"]), st.text()))
def test_no_header_of_a_stranger_breaks_it(headers: dict[str, str]) -> None:
    wait = retry_wait(headers)
    assert wait is None or wait >= 0


def test_a_wait_that_the_server_asks_for_is_kept(http: Http, rude: RudeServer) -> None:
    in_turn(rude, "/a", answer(429, headers={"Retry-After": "1"}), answer(200))
    began = time.monotonic()
    assert http.ask("GET", rude.url("/a"), limit=LIMIT).status == 200
    assert time.monotonic() - began >= 1


def test_a_wait_longer_than_the_deadline_is_left_to_the_caller(http: Http, rude: RudeServer) -> None:
    rude.answer("/a", 429, headers={"Retry-After": "3600"})
    assert http.ask("GET", rude.url("/a"), limit=LIMIT).status == 429
    assert len(rude.requests) == 1


def test_connections_are_used_again_and_ends_noticed(http: Http) -> None:
    """The server closes what the client would keep; the next request makes a new connection."""
    with RudeServer() as rude:
        rude.raw("/a", answer(200, b"1").replace(b"Connection: close", b"X: y"))
        for _ in range(3):
            assert http.ask("POST", rude.url("/a"), limit=LIMIT, content=b"").body == b"1"


def test_threads_share_one(http: Http, rude: RudeServer) -> None:
    rude.answer("/a", 200, b"yes")
    got: list[bytes] = []

    def ask() -> None:
        got.extend(http.ask("GET", rude.url("/a"), limit=LIMIT).body for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [b"yes"] * 80


def test_forked_processes_have_connections_of_their_own(http: Http, rude: RudeServer) -> None:
    rude.answer("/a", 200, b"yes")
    mine = http.ask("GET", rude.url("/a"), limit=LIMIT)
    kept = http._connections
    assert in_fork(lambda: http.ask("GET", rude.url("/a"), limit=LIMIT).body.decode()) == "yes"
    assert http.ask("GET", rude.url("/a"), limit=LIMIT) == mine
    assert http._connections is kept
    assert http._pid == os.getpid()


def test_a_pickled_one_is_as_strict(http: Http) -> None:
    again = pickle.loads(pickle.dumps(Http(tries=2, seconds=3)))
    assert (again.allow_private, again.tries, again.seconds) == (False, 2, 3)
    with pytest.raises(UnsafeUrlError):
        again.ask("GET", "http://127.0.0.1/", limit=LIMIT)
