"""The conformance suites, run against the stores on object storage, on a real S3 server."""

from __future__ import annotations

import pytest

from atdata.stores.s3 import S3DataStore
from atdata.testing import FullStoreSuite
from servers.rgw import S3Server


class TestS3DataStore(FullStoreSuite):
    @pytest.fixture
    def store(self, rgw: S3Server, bucket: str) -> S3DataStore:
        return S3DataStore(rgw.credentials, bucket=bucket, share_credentials=True)
