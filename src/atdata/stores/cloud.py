"""Google Cloud Storage, and memory: the machinery of `ObjectStore`, another client."""

from __future__ import annotations

from typing import Any

from atdata.errors import StoreError
from atdata.stores.objects import ObjectStore
from atdata.stores.s3 import RETRIES, client_options

__all__ = ["GCSDataStore", "MemoryDataStore"]


class GCSDataStore(ObjectStore):
    """A data store in a Google Cloud Storage bucket.

    Args:
        bucket: the bucket's name.
        options: settings of obstore's `GCSStore`, such as `service_account_path`; by default the application default
            credentials.
    """

    def __init__(self, bucket: str, **options: Any) -> None:
        self.bucket = bucket
        self.base = f"gs://{bucket}/"
        self._options = options

    def __repr__(self) -> str:
        return f"GCSDataStore({self.bucket!r})"

    def read_url(self, url: str) -> str:
        """A presigned https URL, good for a day."""
        from datetime import timedelta

        import obstore

        with self.errors(url):
            return str(obstore.sign(self.client, "GET", self.key(url), timedelta(days=1)))

    def _connect(self) -> Any:
        from obstore.store import GCSStore

        with self.errors(self.base):
            return GCSStore(self.bucket, client_options=client_options(None), retry_config=RETRIES, **self._options)


class MemoryDataStore(ObjectStore):
    """A data store in this process's memory, for tests and trials; it is gone when the process ends."""

    def __init__(self, name: str = "default") -> None:
        self.name = name
        self.base = f"memory://{name}/"

    def __repr__(self) -> str:
        return f"MemoryDataStore({self.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        raise StoreError("memory cannot be sent to another process", url=self.base)

    def read_url(self, url: str) -> str:
        """Refused: nothing outside this process can read its memory."""
        raise StoreError("objects in memory have no URL that others can read", url=url)

    def _connect(self) -> Any:
        from obstore.store import MemoryStore

        return _memories.setdefault(self.name, MemoryStore())


_memories: dict[str, Any] = {}
