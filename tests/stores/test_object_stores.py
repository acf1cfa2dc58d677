"""The conformance suites, run against the stores on object storage: on a real S3 server, and in memory."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from atdata.stores.base import DataStore
from atdata.stores.cloud import MemoryDataStore
from atdata.stores.s3 import S3DataStore
from atdata.testing import FullStoreSuite
from servers.rgw import S3Server


class TestS3DataStore(FullStoreSuite):
    @pytest.fixture
    def store(self, rgw: S3Server, bucket: str) -> S3DataStore:
        self.rgw = rgw
        return S3DataStore(rgw.credentials, bucket=bucket, share_credentials=True)

    def remains(self, store: S3DataStore) -> list[str]:  # type: ignore[override]
        uploads = [f"{key}?uploadId={upload}" for key, upload in self.rgw.uploads(store.bucket)]
        return self.rgw.keys(store.bucket) + uploads


class TestMemoryDataStore(FullStoreSuite):
    pickles = False

    @pytest.fixture
    def store(self, tmp_path: Path) -> MemoryDataStore:
        self.folder = tmp_path
        return MemoryDataStore(uuid.uuid4().hex)

    def plain_url(self, store: DataStore, url: str) -> str:
        """A copy on the disk: nobody else can read this process's memory."""
        copy = self.folder / uuid.uuid4().hex
        copy.write_bytes(self.read(store, url))
        return str(copy)

    def remains(self, store: MemoryDataStore) -> list[str]:  # type: ignore[override]
        return sorted(store.keys(""))
