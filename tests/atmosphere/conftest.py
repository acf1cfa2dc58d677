"""`login`: clients of new accounts of the network. `rude`: a server that does as it is told. `authority`: for https."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from atdata.atmosphere import Atmosphere
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
