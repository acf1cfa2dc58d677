"""Databases to keep an index in.

`postgres`       a PostgreSQL server (`servers.postgres`), one for each test process. Not to be stopped.
`postgres_url`   a fresh database in it.
`own_postgres`   a server of this test's own, to kill and resume. About 1 s.

`redis_server`, `redis_url`, `own_redis`: the same for Redis (`servers.redis`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
