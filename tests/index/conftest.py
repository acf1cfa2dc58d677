"""Databases to keep an index in.

`postgres`       a PostgreSQL server (`servers.postgres`), one for each test process. Not to be stopped.
`postgres_url`   a fresh database in it.
`own_postgres`   a server of this test's own, to kill and resume. About 1 s.

`redis_server`, `redis_url`, `own_redis`: the same for Redis (`servers.redis`).

`login`          clients of new accounts of the AT Protocol network: login(), login(pds=1).
`on_network`     lets what finds the network by the environment find the tests' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from atdata.atmosphere import Atmosphere
from servers.atproto import SharedNetwork
from servers.postgres import Postgres
from servers.redis import RedisServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    url = postgres.make_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    url = redis_server.make_database()
    yield url
    redis_server.drop_database(url)


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with RedisServer(fsync=True) as server:
        yield server


@pytest.fixture
def login(atproto: SharedNetwork) -> Iterator[Callable[..., Atmosphere]]:
    made: list[Atmosphere] = []

    def new(pds: int = 0) -> Atmosphere:
        account = atproto.make_account(pds)
        made.append(
            Atmosphere.login(
                account.handle, account.password, pds_url=account.pds, directory=atproto.directory, allow_private=True
            )
        )
        return made[-1]

    yield new
    for client in made:
        client.close()


@pytest.fixture
def on_network(atproto: SharedNetwork, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def at(pds: int) -> None:
        monkeypatch.setenv("ATDATA_PLC_DIRECTORY", atproto.directory)
        monkeypatch.setenv("ATDATA_ALLOW_PRIVATE", "1")
        monkeypatch.setenv("ATDATA_HANDLES_AT", atproto.pds[pds])

    at(0)
    return at
