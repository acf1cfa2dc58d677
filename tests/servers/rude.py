"""A web server for tests of a client among strangers: each path answers, or does, exactly what it is told to.

def test_it(rude):
    rude.json("/did", {"id": ...})                       # 200
    rude.answer("/gone", 410)
    rude.redirect("/here", "http://169.254.169.254/")    # 302
    rude.raw("/cut", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")     # and hangs up
    rude.does("/slow", lambda connection: ...)           # with the socket, after the head of the request was read
    rude.url("/did"), rude.requests                      # [RudeRequest(method, target, headers, body)]

A path with a query is looked up with it first, then without. `tls` (a TestAuthority's) makes it https.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

Deed = Callable[[socket.socket], None]


@dataclass(frozen=True)
class RudeRequest:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class RudeServer:
    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[RudeRequest] = []
        self._deeds: dict[str, Deed] = {}
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._serve, name="rude server", daemon=True)

    def url(self, path: str = "") -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{path}"

    def does(self, path: str, deed: Deed) -> None:
        self._deeds[path] = deed

    def raw(self, path: str, data: bytes) -> None:
        self.does(path, lambda connection: connection.sendall(data))

    def answer(self, path: str, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.raw(path, answer(status, body, headers))

    def json(self, path: str, value: Any, status: int = 200) -> None:
        self.answer(path, status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def redirect(self, path: str, to: str, status: int = 302) -> None:
        self.answer(path, status, headers={"Location": to})

    def targets(self) -> list[str]:
        return [request.target for request in self.requests]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self._tls is None:
                self._talk(connection)
            else:
                with self._tls.wrap_socket(connection, server_side=True) as secure:
                    self._talk(secure)
        self._open.discard(connection)

    def _talk(self, connection: socket.socket) -> None:
        """One request, one answer, and the end of the connection."""
        with connection.makefile("rb") as lines:
            first = lines.readline().decode().split()
            if len(first) < 2:
                return
            headers = {}
            while line := lines.readline().strip().decode():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = lines.read(int(headers.get("content-length", 0)))
        target = first[1]
        self.requests.append(RudeRequest(first[0], target, headers, body))
        deed = self._deeds.get(target) or self._deeds.get(target.partition("?")[0])
        if deed is None:
            connection.sendall(answer(404, b"nothing here"))
        else:
            deed(connection)


def answer(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    given = {"Content-Length": str(len(body)), "Connection": "close", **(headers or {})}
    lines = [f"HTTP/1.1 {status} Rude", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


class TestAuthority:
    """An authority that signs certificates for names of the test's choice; its own certificate is `file`."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("authority of a test")
        certificate = self._signed(self._name, self._key, None)
        self.file = folder / "authority.pem"
        self.file.write_bytes(_pem(certificate))

    def server(self, *names: str) -> ssl.SSLContext:
        """What a server of these names, or addresses, takes connections with."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        file = self._folder / f"{names[0]}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + _pem(self._signed(_named(names[0]), key, names))
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _signed(self, subject: Any, key: Any, names: tuple[str, ...] | None) -> Any:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if names is not None:
            alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _named(name: str) -> Any:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    data: bytes = certificate.public_bytes(Encoding.PEM)
    return data
