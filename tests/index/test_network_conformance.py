"""The conformance suite of indexes, over accounts of a real AT Protocol network; the shards lie on S3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import atdata
from atdata.atmosphere import Atmosphere
from atdata.testing import IndexSuite
from servers.atproto import SharedNetwork
from servers.rgw import S3Server


def logged_in(atproto: SharedNetwork, pds: int = 0) -> Atmosphere:
    account = atproto.make_account(pds)
    return Atmosphere.login(
        account.did, account.password, pds_url=account.pds, directory=atproto.directory, allow_private=True
    )


@pytest.mark.slow
class TestWithS3(IndexSuite):
    @pytest.fixture
    def index(self, atproto: SharedNetwork) -> Iterator[atdata.AtmosphereIndex]:
        with logged_in(atproto) as client:
            yield atdata.AtmosphereIndex(client)

    @pytest.fixture
    def shelf(self, rgw: S3Server, bucket: str) -> atdata.S3DataStore:
        return atdata.S3DataStore(rgw.credentials, bucket=bucket)

    def opened(self, shelf: Any, urls: list[str], sample_type: type) -> atdata.Dataset[Any]:
        return atdata.Dataset(urls, sample_type=sample_type, store=shelf)
