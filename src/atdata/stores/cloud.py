"""Google Cloud Storage, and memory: the machinery of `ObjectStore`, another client."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote, urlsplit

from atdata.errors import StoreError
from atdata.stores.objects import ObjectStore
from atdata.stores.s3 import RETRIES, client_options

__all__ = ["GCSDataStore", "MemoryDataStore"]


class GCSDataStore(ObjectStore):
    """A data store in a Google Cloud Storage bucket.

    Args:
        bucket: the bucket's name.
        options: settings of obstore's `GCSStore`, such as `service_account` (the path of a service account's file); by
            default the application default credentials.
    """

    def __init__(self, bucket: str, **options: Any) -> None:
        self.bucket = bucket
        self.base = f"gs://{bucket}/"
        self._options = options

    def __repr__(self) -> str:
        return f"GCSDataStore({self.bucket!r})"

    def read_url(self, url: str) -> str:
        """A presigned https URL, good for a day.

        Raises:
            StoreError: the name has characters, such as `%` or `+`, that obstore does not quote as Google wants it.
        """
        from datetime import timedelta

        import obstore

        key = self.key(url)
        with self.errors(url):
            signed = str(obstore.sign(self.client, "GET", key, timedelta(days=1)))
        if not urlsplit(signed).path.endswith("/" + quote(key, safe="/~")):
            raise StoreError(
                "a name with special characters, such as % or +, cannot be signed for Google: use a plain prefix",
                url=url,
            )
        return signed

    def _connect(self) -> Any:
        from obstore.store import GCSStore

        endpoint = self._options.get("base_url") or os.environ.get("GOOGLE_BASE_URL")
        with self.errors(self.base):
            return GCSStore(self.bucket, client_options=client_options(endpoint), retry_config=RETRIES, **self._options)


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
