"""What these tests share.

`login`        clients of new accounts of the network.
`rude`         a server that does as it is told.
`authority`    signs certificates, for https.
`as_public`    connections on which servers of this machine are on the public internet.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from atdata.atmosphere import Atmosphere
from atdata.atmosphere.http import Http
from servers.atproto import SharedNetwork
from servers.rude import RudeServer, TestAuthority

Login = Callable[..., Atmosphere]


@pytest.fixture
def login(atproto: SharedNetwork) -> Iterator[Login]:
    """A client of a new account on a PDS: login(), login(1), login(pds_url=...)."""
    made: list[Atmosphere] = []

    def new(pds: int = 0, **options: Any) -> Atmosphere:
        account = atproto.make_account(pds)
        options = {"pds_url": account.pds, "directory": atproto.directory, "allow_private": True, **options}
        made.append(Atmosphere.login(account.handle, account.password, **options))
        return made[-1]

    yield new
    for client in made:
        client.close()


@pytest.fixture
def rude() -> Iterator[RudeServer]:
    with RudeServer() as server:
        yield server


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def as_public(authority: TestAuthority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, int]], Http]]:
    """as_public({"data.example.org": port}): a client that is as strict as for the world, where that name leads to a
    public address, and connections to that address to the port of this machine."""
    made: list[Http] = []
    ports: dict[str, int] = {}
    names: dict[str, str] = {}
    create = socket.create_connection

    def bent(address: tuple[str, int], *rest: Any, **named: Any) -> socket.socket:
        if address[0] in ports:
            address = ("127.0.0.1", ports[address[0]])
        return create(address, *rest, **named)

    def lookup(host: str, port: int) -> list[tuple[str, int]]:
        if host in names:
            return [(names[host], port)]
        return [(str(each[4][0]), port) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]

    def new(hosts: dict[str, int]) -> Http:
        for host, port in hosts.items():
            names[host] = f"8.8.4.{len(names)}"
            ports[names[host]] = port
        made.append(Http(lookup=lookup, tries=2))
        return made[-1]

    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    monkeypatch.setattr(socket, "create_connection", bent)
    yield new
    for http in made:
        http.close()
