"""What may stand between a client and a server: TLS, or a web proxy. In threads of the test's own process.

with TlsFront(rgw.endpoint, folder) as front:   # https://localhost:port before a server that speaks http
    front.endpoint; front.certificate           # to be trusted: SSL_CERT_FILE
with WebProxy() as proxy:                       # as HTTP_PROXY and HTTPS_PROXY name one
    proxy.endpoint; proxy.asked                 # the first line of each request, and who asked
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import threading
import urllib.parse
from pathlib import Path
from types import TracebackType
from typing import Self


class _Front:
    """Takes connections, and has each handled in a thread."""

    scheme = "http"

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.endpoint = f"{self.scheme}://localhost:{self._listener.getsockname()[1]}"

    def handle(self, client: socket.socket) -> None:
        raise NotImplementedError

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                threading.Thread(target=self._served, args=(client,), daemon=True).start()

    def _served(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            self.handle(client)

    def pipe(self, one: socket.socket, other: socket.socket) -> None:
        """What comes from one goes to the other, both ways, until both ends are closed."""

        def forward(source: socket.socket, target: socket.socket) -> None:
            self._open.update((source, target))
            with contextlib.suppress(OSError):
                while piece := source.recv(1 << 16):
                    target.sendall(piece)
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=forward, args=(other, one), daemon=True)
        back.start()
        forward(one, other)
        back.join()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class TlsFront(_Front):
    """https before `upstream` (http://host:port), with a certificate of its own made in `folder`."""

    scheme = "https"

    def __init__(self, upstream: str, folder: Path) -> None:
        super().__init__()
        self._upstream = urllib.parse.urlsplit(upstream)
        self.certificate, key = folder / "certificate.pem", folder / "key.pem"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
        command += " -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
        files = ["-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, key)

    def handle(self, client: socket.socket) -> None:
        address = (self._upstream.hostname, self._upstream.port)
        with self._context.wrap_socket(client, server_side=True) as plain, socket.create_connection(address) as server:
            self.pipe(plain, server)


class WebProxy(_Front):
    """A proxy for http (whole URLs) and for https (CONNECT)."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []

    def handle(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(1 << 16)
            if not piece:
                return
            head += piece
        line, _, rest = head.decode("latin-1").partition("\r\n")
        who = re.search(r"(?im)^proxy-authorization: *(.*?)\r$", rest)
        self.asked.append((line, who[1] if who else ""))
        method, target, version = line.split(" ")
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
        else:
            url = urllib.parse.urlsplit(target)
            host, port = url.hostname or "", str(url.port)
        with socket.create_connection((host, int(port))) as server:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                place = urllib.parse.urlunsplit(("", "", url.path, url.query, ""))
                server.sendall(f"{method} {place} {version}\r\n{rest}".encode("latin-1"))
            self.pipe(client, server)
