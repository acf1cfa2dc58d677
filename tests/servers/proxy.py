"""A faulty network for tests: a TCP proxy on loopback, before a real server, told at run time what to do wrong.

    def test_slow(rgw, bucket, fault_proxy):
        fault_proxy.set(latency=0.03, bandwidth=90e6)           # a distant server
        fault_proxy.set(cut_after=1_000_000)                    # each connection, both ways counted, is cut
        fault_proxy.set(fail_share=0.1, retry_after=1, seed=7)  # one request in ten: 503 Slow Down
        fault_proxy.reset()                                     # RST on all that is open now
        fault_proxy.stall(); ...; fault_proxy.release()         # nothing moves; or stall(seconds=2)
        fault_proxy.set(refuse=True)                            # new connections are refused
        fault_proxy.lose_answers("PUT")                         # the next one reaches the server, its answer nobody
        fault_proxy.flip_bit(answer=2)                          # in the third GET's body from now on
        fault_proxy.answer_next(403, count=2, method="GET")     # not from the server
        store = S3Store(bucket, **rgw.through(fault_proxy).obstore_options)
        fault_proxy.requests()                                  # [Request(method="GET", path=…, range="bytes=0-99", …)]
        fault_proxy.counts()                                    # by method
        fault_proxy.clear()                                     # no faults any more

What it passes on it leaves as it is, the Host header too, so signatures hold. It runs in a process of its own: in a
thread it would wait for the test's own Python code, and a test that forks would fork it too. That process ends when
the one that started it does, in whatever way.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from types import TracebackType
from typing import Any, NoReturn, Self

PIECE = 1 << 20
SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>The proxy of the tests.</Message></Error>'
)
CODES = {403: "AccessDenied", 404: "NoSuchKey", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}


@dataclass(frozen=True)
class Request:
    """One that came to the proxy, as far as it went."""

    method: str
    path: str
    """With the query, as sent."""
    range: str
    """The header, "" without."""
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


@dataclass
class Count:
    requests: int = 0
    received: int = 0
    sent: int = 0


@dataclass
class _Faults:
    latency: float = 0.0
    """Seconds from the end of a request to the first byte of its answer, at the least."""
    bandwidth: float = 0.0
    """Bytes a second for each connection, each way; 0: no limit."""
    cut_after: int = 0
    """Bytes that a connection carries, both ways together, before it is cut; 0: no limit."""
    cut_reset: bool = False
    """Cut by RST; else the connection is closed in good order, which leaves a body short."""
    refuse: bool = False
    fail_share: float = 0.0
    """Of the requests, that are answered with `fail_status` and do not reach the server."""
    fail_status: int = 503
    fail_methods: list[str] = field(default_factory=list)
    """Which methods `fail_share` is about; none: all."""
    retry_after: float | None = None
    """Said in the answers that are not from the server."""
    seed: int = 0
    """Which requests those are; setting it starts the row anew."""


class FaultProxy:
    """A proxy before `upstream` (http://host:port). `http=False`: bytes only, so nothing about requests."""

    def __init__(self, upstream: str, *, http: bool = True) -> None:
        self._upstream = urllib.parse.urlsplit(upstream).netloc
        self._http = http
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set(self, **faults: Any) -> None:
        """Change these settings, of which `_Faults` has the list; the others stay. Open connections obey at once."""
        self._ask("set", **faults)

    def clear(self) -> None:
        """All settings back to no faults, what stalls released; what was counted stays."""
        self._ask("clear")

    def reset(self) -> int:
        """RST on all open connections; how many they were."""
        return int(self._ask("reset"))

    def stall(self, seconds: float | None = None) -> None:
        """Forward nothing, new connections are taken; for so long, or until `release`."""
        self._ask("stall", seconds=seconds)

    def release(self) -> None:
        self._ask("release")

    def lose_answers(self, method: str = "PUT", count: int = 1) -> None:
        """The next such requests reach the server; instead of its answer the client gets an RST."""
        self._ask("lose_answers", method=method, count=count)

    def flip_bit(self, answer: int = 0, at: float = 0.5) -> None:
        """In the body of the GET answered after so many others from now on, at this share of its length."""
        self._ask("flip_bit", answer=answer, at=at)

    def answer_next(
        self, status: int, *, count: int = 1, method: str = "", headers: Mapping[str, str] | None = None, body: str = ""
    ) -> None:
        """The next so many requests (by this method, where given) get this answer and do not reach the server."""
        self._ask("answer_next", status=status, count=count, method=method, headers=dict(headers or {}), body=body)

    def requests(self, method: str = "") -> list[Request]:
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
        from servers.rgw import _free_ports

        for _ in range(5):
            self.port = _free_ports(1)[0]
            arguments = [str(self.port), self._upstream, "http" if self._http else "plain"]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            assert self._process.stdout is not None
            if self._process.stdout.readline() == b"ready\n":
                return self
            self.close()
        raise RuntimeError("the fault proxy did not start; what it said is above")

    def close(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
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
            assert self._process is not None, "not started"
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps([command, arguments]).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the fault proxy is gone, exit code {self._process.wait()}")
        good, value = json.loads(answer)
        if not good:
            raise ValueError(value)
        return value


# ---- the process of its own: the standard library only ---------------------------------------------------------------


class _CutError(Exception):
    """This connection ends now."""

    def __init__(self, reset: bool) -> None:
        self.reset = reset


class _End:
    """One of the two ends of a connection: its socket, and what was read from it and not yet passed on."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.rest = bytearray()
        self.buffer = memoryview(bytearray(PIECE))
        self.free_at = 0.0  # by the bandwidth, the next byte may leave here
        self.loop = asyncio.get_running_loop()

    async def more(self) -> bool:
        """Some more bytes in `rest`; False at the end."""
        got = await self.loop.sock_recv_into(self.sock, self.buffer)
        self.rest += self.buffer[:got]
        return bool(got)

    async def take(self, limit: int) -> memoryview:
        """Up to so many bytes; none at the end. Valid until the next call."""
        if self.rest:
            size = min(limit, len(self.rest), PIECE)
            self.buffer[:size] = self.rest[:size]
            del self.rest[:size]
        else:
            size = await self.loop.sock_recv_into(self.sock, self.buffer[: min(limit, PIECE)])
        return self.buffer[:size]

    async def until(self, mark: bytes) -> bytes:
        """All up to and with this mark; b"" where the end comes before it."""
        searched = 0
        while (found := self.rest.find(mark, max(0, searched - len(mark)))) < 0:
            searched = len(self.rest)
            if searched > 1 << 20 or not await self.more():
                return b""
        piece = bytes(self.rest[: found + len(mark)])
        del self.rest[: len(piece)]
        return piece

    def close(self, reset: bool) -> None:
        if reset:
            with suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class _Head:
    """The first part of a request or an answer, up to the empty line."""

    def __init__(self, raw: bytes) -> None:
        lines = raw.decode("latin-1").split("\r\n")
        self.words = lines[0].split(" ", 2)
        self.headers = {n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:]) if n}

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int | None:
        return int(self.headers["content-length"]) if "content-length" in self.headers else None


class _Connection:
    def __init__(self, proxy: _Proxy, client: socket.socket, number: int) -> None:
        self.proxy, self.number = proxy, number
        self.client = _End(client)
        self.server: _End | None = None
        self.carried = 0
        self.asked_at = 0.0
        self.resetting = False

    async def run(self) -> None:
        reset = False
        try:
            self.server = _End(await self.proxy.connect())
            await (self.exchange() if self.proxy.http else self.pass_on())
        except _CutError as cut:
            reset = cut.reset
        except ConnectionError:
            reset = True  # as one end met it, so does the other
        except asyncio.CancelledError:
            reset = self.resetting
        finally:
            self.client.close(reset)
            if self.server is not None:
                self.server.close(reset)

    # -- bytes

    async def send(self, to: _End, data: bytes | memoryview, record: _Record | None = None, counter: str = "") -> None:
        """All bytes pass here, and meet their faults here."""

        async def out(piece: bytes | memoryview) -> None:
            await to.loop.sock_sendall(to.sock, piece)
            if record is not None and counter:
                setattr(record, counter, getattr(record, counter) + len(piece))

        faults = self.proxy.faults
        cut = False
        if faults.cut_after and self.carried + len(data) >= faults.cut_after:
            data, cut = data[: max(0, faults.cut_after - self.carried)], True
        self.carried += len(data)
        if not self.proxy.moving.is_set():
            await self.proxy.moving.wait()
        if faults.bandwidth:
            step = max(1024, int(faults.bandwidth * 0.002))
            for start in range(0, len(data), step):
                piece = data[start : start + step]
                now = time.monotonic()
                if to.free_at > now + 0.001:
                    await asyncio.sleep(to.free_at - now)
                # A sleep that was too long is made up for, idleness is not.
                to.free_at = max(to.free_at, now - 0.05) + len(piece) / (faults.bandwidth or 1e12)
                await out(piece)
        else:
            await out(data)
        if cut:
            raise _CutError(faults.cut_reset)

    async def wait_latency(self) -> None:
        wait = self.asked_at + self.proxy.faults.latency - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)

    async def pass_on(self) -> None:
        """Without a look at what it is."""
        assert self.server is not None
        server = self.server
        asked = False

        async def up() -> None:
            nonlocal asked
            while len(data := await self.client.take(PIECE)):
                asked = True
                await self.send(server, data)
                self.asked_at = time.monotonic()
            server.sock.shutdown(socket.SHUT_WR)

        async def down() -> None:
            nonlocal asked
            while len(data := await server.take(PIECE)):
                if asked:
                    await self.wait_latency()
                    asked = False
                await self.send(self.client, data)
            self.client.sock.shutdown(socket.SHUT_WR)

        await _all(up(), down())

    # -- requests

    async def exchange(self) -> None:
        while await self.one_request():
            pass

    async def one_request(self) -> bool:
        assert self.server is not None
        client, server, proxy = self.client, self.server, self.proxy
        asking = asyncio.ensure_future(client.until(b"\r\n\r\n"))
        if not client.rest:
            ending = asyncio.ensure_future(server.more())
            try:
                await asyncio.wait({asking, ending}, return_when=asyncio.FIRST_COMPLETED)
                if not asking.done() and not ending.result():
                    raise _CutError(False)  # the server closed an idle connection
            finally:
                ending.cancel()
                with suppress(ConnectionError, asyncio.CancelledError):
                    await ending
                if not asking.done():
                    asking.cancel()
        raw = await asking
        if not raw:
            return False
        head = _Head(raw)
        method, path = head.words[0], head.words[1]
        record = _Record(method, path, head.headers.get("range", ""), time.monotonic() - proxy.began, self.number)
        proxy.records.append(record)

        if answer := proxy.own_answer(record):
            if "100-continue" in head.headers.get("expect", "").lower():
                await self.send(client, b"HTTP/1.1 100 Continue\r\n\r\n")
            await self.body(head, client, None, record, "received")
            self.asked_at = time.monotonic()
            await self.wait_latency()
            record.status = int(answer.split(b" ", 2)[1])
            await self.send(client, answer.split(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else answer)
            return True

        lose = proxy.loses(method)
        await self.send(server, raw)
        self.asked_at = time.monotonic()
        giving = asyncio.ensure_future(self.give(head, record))
        answering = asyncio.ensure_future(self.answer(method, record, lose))
        try:
            await asyncio.wait({giving, answering}, return_when=asyncio.FIRST_EXCEPTION)
            if giving.done() and isinstance(giving.exception(), ConnectionError):
                # A server may answer before it has all of a request, and hang up.
                await asyncio.wait({answering}, timeout=1)
                if answering.done() and answering.exception() is None:
                    return False
            for part in (giving, answering):
                if part.done():
                    part.result()
            return answering.result()
        finally:
            giving.cancel()
            answering.cancel()

    async def give(self, head: _Head, record: _Record) -> None:
        await self.body(head, self.client, self.server, record, "received")
        self.asked_at = time.monotonic()

    async def answer(self, method: str, record: _Record, lose: bool) -> bool:
        """Pass on the answer to one request; whether the connection goes on."""
        assert self.server is not None
        while True:
            raw = await self.server.until(b"\r\n\r\n")
            if not raw:
                raise _CutError(False)
            head = _Head(raw)
            status = int(head.words[1])
            if status >= 200:
                break
            await self.send(self.client, raw)
        if lose:
            raise _CutError(True)
        await self.wait_latency()
        record.status = status
        await self.send(self.client, raw)
        if method == "HEAD" or status in (204, 304):
            return True
        flip = -1
        if method == "GET" and status in (200, 206) and head.length:
            flip = self.proxy.flips(head.length)
        if head.length is None and not head.chunked:
            while len(data := await self.server.take(PIECE)):
                await self.send(self.client, data, record, "sent")
            return False
        await self.body(head, self.server, self.client, record, "sent", flip)
        return head.headers.get("connection", "").lower() != "close"

    async def body(
        self, head: _Head, start: _End, to: _End | None, record: _Record, counter: str, flip: int = -1
    ) -> None:
        if not head.chunked:
            await self.run_of(head.length or 0, start, to, record, counter, flip)
            return
        while True:
            line = await start.until(b"\r\n")
            if not line:
                raise _CutError(False)
            size = int(line.split(b";")[0], 16)
            if to is not None:
                await self.send(to, line)
            if size == 0:
                break
            await self.run_of(size, start, to, record, counter)
            await self.run_of(2, start, to, record, "")
        while True:  # trailers, and the empty line
            line = await start.until(b"\r\n")
            if to is not None:
                await self.send(to, line)
            if line in (b"\r\n", b""):
                return

    async def run_of(
        self, size: int, start: _End, to: _End | None, record: _Record, counter: str, flip: int = -1
    ) -> None:
        done = 0
        while done < size:
            data = await start.take(size - done)
            if not data:
                raise _CutError(False)
            if done <= flip < done + len(data):
                data[flip - done] ^= 0x10
            if to is not None:
                await self.send(to, data, record, counter)
            done += len(data)


@dataclass
class _Record:
    method: str
    path: str
    range: str
    at: float
    connection: int
    status: int = 0
    received: int = 0
    sent: int = 0


class _Proxy:
    def __init__(self, port: int, upstream: str, http: bool) -> None:
        host, _, its_port = upstream.rpartition(":")
        self.port, self.upstream, self.http = port, (host, int(its_port)), http
        self.began = time.monotonic()
        self.faults = _Faults()
        self.dice = random.Random(0)
        self.moving = asyncio.Event()
        self.moving.set()
        self.releasing: asyncio.TimerHandle | None = None
        self.records: list[_Record] = []
        self.losing: dict[str, int] = {}
        self.flipping: list[tuple[int, float]] = []
        self.answering: list[dict[str, Any]] = []
        self.open: dict[asyncio.Task[None], _Connection] = {}
        self.ever = 0
        self.listener: asyncio.Task[None] | None = None

    # -- commands

    def do_set(self, **faults: Any) -> None:
        for name in faults:
            if name not in {each.name for each in fields(_Faults)}:
                raise ValueError(f"there is no setting {name}")
        for name, value in faults.items():
            setattr(self.faults, name, value)
        if "seed" in faults:
            self.dice = random.Random(self.faults.seed)
        self.listen()

    def do_clear(self) -> None:
        self.faults = _Faults()
        self.dice = random.Random(0)
        self.losing.clear()
        self.flipping.clear()
        self.answering.clear()
        self.do_release()
        self.listen()

    def do_reset(self) -> int:
        for task, connection in self.open.items():
            connection.resetting = True
            task.cancel()
        return len(self.open)

    def do_stall(self, seconds: float | None) -> None:
        self.do_release()
        self.moving.clear()
        if seconds is not None:
            self.releasing = asyncio.get_running_loop().call_later(seconds, self.moving.set)

    def do_release(self) -> None:
        if self.releasing is not None:
            self.releasing.cancel()
        self.moving.set()

    def do_lose_answers(self, method: str, count: int) -> None:
        self.losing[method] = count

    def do_flip_bit(self, answer: int, at: float) -> None:
        self.flipping.append((answer, at))

    def do_answer_next(self, **answer: Any) -> None:
        self.answering.append(answer)

    def do_requests(self) -> list[dict[str, Any]]:
        return [asdict(record) for record in self.records]

    def do_connections(self) -> tuple[int, int]:
        return len(self.open), self.ever

    def do_forget(self) -> None:
        self.records.clear()
        self.ever = len(self.open)

    # -- what becomes of a request

    def own_answer(self, record: _Record) -> bytes:
        """An answer that is not the server's; b"" where the server shall answer."""
        for wanted in self.answering:
            if wanted["method"] in ("", record.method):
                wanted["count"] -= 1
                if wanted["count"] <= 0:
                    self.answering.remove(wanted)
                return self.written(wanted["status"], wanted["headers"], wanted["body"].encode())
        faults = self.faults
        concerned = not faults.fail_methods or record.method in faults.fail_methods
        if faults.fail_share and concerned and self.dice.random() < faults.fail_share:
            return self.written(faults.fail_status, {}, b"")
        return b""

    def written(self, status: int, headers: dict[str, str], body: bytes) -> bytes:
        headers = {"Content-Type": "application/xml", **headers}
        body = body or SLOW_DOWN % CODES.get(status, "Error").encode()
        if self.faults.retry_after is not None:
            headers.setdefault("Retry-After", f"{self.faults.retry_after:g}")
        lines = [f"HTTP/1.1 {status} From the proxy", *(f"{n}: {v}" for n, v in headers.items())]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    def loses(self, method: str) -> bool:
        left = self.losing.get(method, 0)
        self.losing[method] = max(0, left - 1)
        return left > 0

    def flips(self, length: int) -> int:
        """Where in this body to flip a bit; -1: nowhere."""
        due = [at for left, at in self.flipping if left == 0]
        self.flipping = [(left - 1, at) for left, at in self.flipping if left > 0]
        return min(length - 1, int(length * due[0])) if due else -1

    # -- connections

    async def connect(self) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self.upstream)
        except BaseException:
            sock.close()
            raise
        return sock

    def listen(self) -> None:
        """Listen, or not, as the settings say now."""
        if self.faults.refuse and self.listener is not None:
            self.listener.cancel()
            self.listener = None
        elif not self.faults.refuse and self.listener is None:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", self.port))
            sock.listen(512)
            sock.setblocking(False)
            self.listener = asyncio.ensure_future(self.accept(sock))

    async def accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            while True:
                client, _ = await loop.sock_accept(sock)
                self.ever += 1
                connection = _Connection(self, client, self.ever)
                task = loop.create_task(connection.run())
                self.open[task] = connection
                task.add_done_callback(lambda done: self.open.pop(done, None))

    async def obey(self) -> None:
        loop = asyncio.get_running_loop()
        commands = asyncio.StreamReader(limit=1 << 24)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        self.listen()
        _say(b"ready\n")
        while line := await commands.readline():
            command, arguments = json.loads(line)
            try:
                answer: Any = [True, getattr(self, f"do_{command}")(**arguments)]
                await asyncio.sleep(0)  # what was cancelled is closed before the answer
                await asyncio.sleep(0)
            except Exception as error:
                answer = [False, f"{type(error).__name__}: {error}"]
            _say(json.dumps(answer).encode() + b"\n")

    async def main(self) -> NoReturn:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

        async def leave_with_parent() -> None:
            parent = os.getppid()
            while os.getppid() == parent:
                await asyncio.sleep(0.2)

        await asyncio.wait(
            {asyncio.ensure_future(self.obey()), asyncio.ensure_future(leave_with_parent())},
            return_when=asyncio.FIRST_COMPLETED,
        )
        os._exit(0)


async def _all(*parts: Any) -> None:
    """Until all have ended, or one has failed."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


async def _main() -> None:
    await _Proxy(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "http").main()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_main())
