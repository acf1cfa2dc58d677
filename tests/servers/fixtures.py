"""The servers as fixtures; known to all tests (`pytest_plugins` in tests/conftest.py).

`rgw`          the S3 server (`servers.rgw`), one for the whole test run, shared by its processes. Not to be killed.
`bucket`       a fresh bucket in it, removed after the test.
`own_rgw`      an S3 server of this test's own, to kill and resume. About 1.5 s.
`fault_proxy`  a faulty network (`atdata.testing.FaultProxy`) before `rgw`: rgw.through(fault_proxy).
`make_proxy`   the same before any server: make_proxy(own_rgw).
`atproto`      an AT Protocol network with two PDSs (`servers.atproto`), one for the whole test run. Not to be killed;
               each test makes accounts of its own: atproto.make_account().
`own_atproto`  such a network of this test's own with one PDS, to kill and resume. About 4 s.
`azure`        Azurite (`servers.azure`), one for each test process.
`gcs`          Google's dialect before `rgw` (`servers.gcs`), one for each test process.
`web`          a web server (`servers.web`) over a fresh folder, `web.folder`.

Where a server cannot be had, the test that wants it fails and says what to do; none is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atdata.testing import FaultProxy, LocalNetwork
from servers import atproto as networks
from servers.azure import Azurite
from servers.gcs import GoogleStorage
from servers.rgw import RGW, HasEndpoint, S3Server, shared
from servers.web import WebServer


@pytest.fixture(scope="session")
def meeting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the processes of this test run have in common."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def rgw(meeting: Path) -> Iterator[S3Server]:
    yield from shared(meeting)


@pytest.fixture
def bucket(rgw: S3Server) -> Iterator[str]:
    name = rgw.make_bucket()
    yield name
    rgw.remove_bucket(name)


@pytest.fixture
def own_rgw() -> Iterator[RGW]:
    with RGW() as server:
        yield server


@pytest.fixture
def make_proxy() -> Iterator[Callable[[HasEndpoint], FaultProxy]]:
    made: list[FaultProxy] = []

    def make(server: HasEndpoint) -> FaultProxy:
        made.append(FaultProxy(server.endpoint).start())
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def fault_proxy(rgw: S3Server, make_proxy: Callable[[HasEndpoint], FaultProxy]) -> FaultProxy:
    return make_proxy(rgw)


@pytest.fixture(scope="session")
def atproto(meeting: Path) -> Iterator[networks.SharedNetwork]:
    yield from networks.shared(meeting)


@pytest.fixture
def own_atproto() -> Iterator[LocalNetwork]:
    with LocalNetwork() as network:
        yield network


@pytest.fixture(scope="session")
def azure() -> Iterator[Azurite]:
    with Azurite() as server:
        yield server


@pytest.fixture(scope="session")
def gcs(rgw: S3Server) -> Iterator[GoogleStorage]:
    with GoogleStorage(rgw) as server:
        yield server


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    folder = tmp_path / "web"
    folder.mkdir()
    with WebServer(folder) as server:
        yield server
