"""The process behind `FaultProxy`: the standard library only, and nothing of it to be imported.

It reads commands from its standard input, one JSON array a line, and answers each with a line of JSON; it ends with its
input, or with the process that started it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

PIECE = 1 << 20
ERROR = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>The faulty network.</Message></Error>'
CODES = {403: "AccessDenied", 404: "NoSuchKey", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}


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
        first, *lines = raw.split(b"\r\n")
        self.words = first.decode("latin-1").split(" ", 2)
        self.lines = {line.split(b":")[0].strip().lower().decode("latin-1"): line for line in lines if line}
        self.headers = {n: line.partition(b":")[2].strip().decode("latin-1") for n, line in self.lines.items()}

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
            while await self.one_request():
                pass
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
        """All bytes pass here, and meet their faults here; those of a body with the record that counts them."""
        faults = self.proxy.faults
        cut = faults.cut_after and self.carried + len(data) >= faults.cut_after
        if cut:
            data = data[: max(0, faults.cut_after - self.carried)]
        self.carried += len(data)
        at = 0
        while at < len(data):
            await self.proxy.moving.wait()
            step = len(data)
            if record is not None and (bandwidth := self.proxy.faults.bandwidth):
                now = time.monotonic()
                if to.free_at > now + 0.001:
                    await asyncio.sleep(to.free_at - now)
                step = max(1, int(bandwidth * 0.002), min(1024, int(bandwidth * 0.05)))
                # A sleep that was too long is made up for, idleness is not.
                to.free_at = max(to.free_at, now - 0.05) + min(step, len(data) - at) / bandwidth
            piece = data[at : at + step]
            await to.loop.sock_sendall(to.sock, piece)
            at += len(piece)
            if record is not None:
                setattr(record, counter, getattr(record, counter) + len(piece))
        if cut:
            raise _CutError(faults.cut_reset)

    async def wait_latency(self) -> None:
        wait = self.asked_at + self.proxy.faults.latency - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)

    # -- requests

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
        shown = {**head.headers}
        if "authorization" in shown:
            shown["authorization"] = shown["authorization"].split(" ")[0]
        record = _Record(method, path, shown, time.monotonic() - proxy.began, self.number)
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
        flip, length = -1, head.length
        if method == "GET" and status in (200, 206) and length:
            if (at := self.proxy.due("flip")) is not None:
                flip = min(length - 1, int(length * at))
            if (at := self.proxy.due("shorten")) is not None:
                length = int(length * at)
                raw = raw.replace(head.lines["content-length"], b"Content-Length: %d" % length)
        await self.send(self.client, raw)
        if method == "HEAD" or status in (204, 304):
            return True
        if head.length is None and not head.chunked:
            while len(data := await self.server.take(PIECE)):
                await self.send(self.client, data, record, "sent")
            return False
        if length != head.length:
            await self.run_of(length or 0, self.server, self.client, record, "sent", flip)
            await self.run_of((head.length or 0) - (length or 0), self.server, None, None, "")
        else:
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
            await self.run_of(2, start, to, None, "")
        while True:  # trailers, and the empty line
            line = await start.until(b"\r\n")
            if to is not None:
                await self.send(to, line)
            if line in (b"\r\n", b""):
                return

    async def run_of(
        self, size: int, start: _End, to: _End | None, record: _Record | None, counter: str, flip: int = -1
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
    headers: dict[str, str]
    at: float
    connection: int
    status: int = 0
    received: int = 0
    sent: int = 0


class _Proxy:
    def __init__(self) -> None:
        self.upstream = ("", 0)
        self.began = time.monotonic()
        self.faults: Any = None
        self.dice = random.Random(0)  # noqa: S311  (which requests fail)
        self.concerned = 0
        self.moving = asyncio.Event()
        self.moving.set()
        self.releasing: asyncio.TimerHandle | None = None
        self.records: list[_Record] = []
        self.losing: dict[str, int] = {}
        self.spoiling: dict[str, list[tuple[int, float]]] = {"flip": [], "shorten": []}
        self.answering: list[dict[str, Any]] = []
        self.open: dict[asyncio.Task[None], _Connection] = {}
        self.ever = 0
        self.listener: asyncio.Task[None] | None = None

    # -- commands

    def do_start(self, upstream: str, faults: dict[str, Any]) -> int:
        host, _, port = upstream.rpartition(":")
        self.upstream = (host, int(port))
        # Bound but not listening, it keeps the port while connections are refused.
        self.reserve = socket.socket()
        self.reserve.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.reserve.bind(("127.0.0.1", 0))
        self.do_set(faults, True)
        return int(self.reserve.getsockname()[1])

    def do_set(self, faults: dict[str, Any], anew: bool) -> None:
        self.faults = SimpleNamespace(**faults)
        if anew:
            self.dice = random.Random(self.faults.seed)  # noqa: S311
            self.concerned = 0
        self.listen()

    def do_clear(self) -> None:
        self.losing.clear()
        self.spoiling = {"flip": [], "shorten": []}
        self.answering.clear()
        self.do_release()

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

    def do_spoil(self, what: str, answer: int, at: float) -> None:
        self.spoiling[what].append((answer, at))

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
            if wanted["method"] in ("", record.method) and wanted["path"] in record.path:
                wanted["count"] -= 1
                if wanted["count"] <= 0:
                    self.answering.remove(wanted)
                return self.written(wanted["status"], wanted["headers"], wanted["body"].encode())
        faults = self.faults
        if faults.fail_methods and record.method not in faults.fail_methods:
            return b""
        self.concerned += 1
        due = faults.fail_every and self.concerned % faults.fail_every == 0
        if due or (faults.fail_share and self.dice.random() < faults.fail_share):
            return self.written(faults.fail_status, {}, b"")
        return b""

    def written(self, status: int, headers: dict[str, str], body: bytes) -> bytes:
        headers = {"Content-Type": "application/xml", **headers}
        body = body or ERROR % CODES.get(status, "Error").encode()
        if self.faults.retry_after:
            headers.setdefault("Retry-After", f"{self.faults.retry_after:g}")
        lines = [f"HTTP/1.1 {status} From the proxy", *(f"{n}: {v}" for n, v in headers.items())]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    def loses(self, method: str) -> bool:
        left = self.losing.get(method, 0)
        self.losing[method] = max(0, left - 1)
        return left > 0

    def due(self, what: str) -> float | None:
        """Whether this answer's body is to be spoiled so, and at which share of its length."""
        waiting = self.spoiling[what]
        at = next((at for left, at in waiting if left == 0), None)
        self.spoiling[what] = [(left - 1, at) for left, at in waiting if left > 0]
        return at

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
            sock.bind(self.reserve.getsockname())
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
        while line := await commands.readline():
            command, arguments = json.loads(line)
            answer = getattr(self, f"do_{command}")(**arguments)
            await asyncio.sleep(0)  # what was cancelled is closed before the answer
            await asyncio.sleep(0)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()

    async def main(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

        async def leave_with_parent() -> None:
            parent = os.getppid()
            while os.getppid() == parent:
                await asyncio.sleep(0.2)

        await asyncio.wait(
            {asyncio.ensure_future(self.obey()), asyncio.ensure_future(leave_with_parent())},
            return_when=asyncio.FIRST_COMPLETED,
        )


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    asyncio.run(_Proxy().main())
