"""A server that is far away: a proxy in a process of its own that lets answers wait, and limits each connection.

Bytes go from socket to socket inside the kernel (splice), so that the proxy costs little of the machine it runs on.
Requests are told apart as what comes in one go, which is so for reading.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator

_PIECE = 256 << 10


@contextlib.contextmanager
def distant(endpoint: str, latency: float, bandwidth: float) -> Iterator[str]:
    """The address of a server as if it were `latency` seconds away, each connection with that many bytes a second."""
    upstream = urllib.parse.urlsplit(endpoint).netloc
    arguments = [sys.executable, "-S", __file__, upstream, str(latency), str(bandwidth)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def _ask(client: socket.socket, server: socket.socket, latency: float) -> None:
    while data := client.recv(1 << 16):
        time.sleep(latency)
        server.sendall(data)
    server.shutdown(socket.SHUT_WR)


def _answer(server: socket.socket, client: socket.socket, bandwidth: float) -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 20)
    free_at = 0.0
    try:
        while count := os.splice(server.fileno(), write, _PIECE):
            now = time.monotonic()
            if free_at > now:
                time.sleep(free_at - now)
            free_at = max(now, free_at) + count / bandwidth
            while count:
                count -= os.splice(read, client.fileno(), count)
        client.shutdown(socket.SHUT_WR)
    finally:
        os.close(read)
        os.close(write)


def _serve(client: socket.socket, upstream: tuple[str, int], latency: float, bandwidth: float) -> None:
    with contextlib.suppress(OSError), client, socket.create_connection(upstream) as server:
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asking = threading.Thread(target=_quietly, args=(_ask, client, server, latency), daemon=True)
        asking.start()
        _quietly(_answer, server, client, bandwidth)
        asking.join()


def _quietly(function: object, *arguments: object) -> None:
    with contextlib.suppress(OSError):
        function(*arguments)  # type: ignore[operator]


def _main(upstream: str, latency: str, bandwidth: str) -> None:
    host, _, port = upstream.rpartition(":")
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)

    def leave_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    while True:
        client = listener.accept()[0]
        arguments = (client, (host, int(port)), float(latency), float(bandwidth))
        threading.Thread(target=_serve, args=arguments, daemon=True).start()


if __name__ == "__main__":
    _main(*sys.argv[1:])
