"""Reading the shards of an entry on the network: by what each is, credentials going only where they belong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from atdata.atmosphere.client import Atmosphere
from atdata.errors import StoreError, UnsafeUrlError
from atdata.index.network_places import Bucket
from atdata.index.routing import belongs
from atdata.stores.base import DataStore, StoredObject, Transaction
from atdata.stores.cache import Cache
from atdata.stores.http import HttpObject, Web
from atdata.stores.opening import Opening
from atdata.stores.pds import PDSBlobStore
from atdata.stores.public import PublicBucket

__all__ = ["NetworkStore"]


class NetworkStore(DataStore):
    """For reading what an entry of anyone names: https, buckets as anybody may read them, blobs of accounts.

    Args:
        client: of the network.
        buckets: where the buckets are that the entry names.
        store: one whose credentials are used for what lies in it, and for nothing else; None for none.
        cache: where blobs are kept; by default where `PDSBlobStore` keeps them.
    """

    def __init__(
        self, client: Atmosphere, buckets: Mapping[str, Bucket], store: Any = None, *, cache: Cache | None = None
    ) -> None:
        self.client = client
        self.cache = cache
        self.buckets = dict(buckets)
        self.store = store
        self._own = Opening(store)
        self._stores: dict[str, PublicBucket] = {}
        self._web = Web(public=not client.allow_private)
        self._blobs: PDSBlobStore | None = None

    def __repr__(self) -> str:
        return f"NetworkStore({self.client!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stores": {}, "_blobs": None, "_own": Opening(self.store)}

    def store_of(self, url: str) -> Any:
        """The store that a URL is read with; None where it needs none."""
        if self._is_own(url):
            return self.store
        scheme, colon, rest = url.partition("://")
        if scheme == "s3" and colon:
            return self._bucket(rest.partition("/")[0])
        return self._blob_store if scheme == "at" and colon else None

    def through(self, cache: Cache) -> NetworkStore:
        """The same, with another place to keep blobs in."""
        return NetworkStore(self.client, self.buckets, self.store, cache=cache)

    def _is_own(self, url: str) -> bool:
        """Whether the store that was given is the one for it: also of the same service, where buckets have one name."""
        if not belongs(self.store, url):
            return False
        place = self.buckets.get(url.removeprefix("s3://").partition("/")[0]) if url.startswith("s3://") else None
        return place is None or place.endpoint == getattr(self.store, "endpoint", None)

    def _bucket(self, name: str) -> PublicBucket:
        if name not in self._stores:
            place = self.buckets.get(name, Bucket(None, None))
            self._stores[name] = PublicBucket(
                name, endpoint=place.endpoint, region=place.region, allow_private=self.client.allow_private
            )
        return self._stores[name]

    @property
    def _blob_store(self) -> PDSBlobStore:
        if self._blobs is None:
            self._blobs = PDSBlobStore(self.client, cache=self.cache)
        return self._blobs

    def open_sized(self, url: str, size: int | None) -> StoredObject:
        """Open what lies at `url`, whose size may be known."""
        if self._is_own(url):
            return self._own.open(url, size)
        scheme = url.partition("://")[0]
        if scheme in ("https", "http"):
            return HttpObject(url, size, self._web)
        found = self.store_of(url)
        if found is None:
            raise UnsafeUrlError("entries on the network have https, s3 and at:// opened, and nothing else", url=url)
        return Opening(found, self.cache).open(url, size)

    def open(self, url: str) -> StoredObject:
        """Open what lies at `url`; see `DataStore.open`."""
        return self.open_sized(url, None)

    def read_url(self, url: str) -> str:
        """What plain webdataset can open: by the store it lies in, or the URL itself."""
        found = self.store_of(url)
        return url if found is None else str(found.read_url(url))

    def supports_streaming(self) -> bool:
        """True: bytes are used as they arrive."""
        return True

    def begin(self, prefix: str, *, overwrite: bool) -> Transaction:
        """Refused: this is for reading."""
        raise StoreError("shards of an entry on the network are read, not written", url=prefix)

    def list(self, prefix: str = "") -> Iterator[str]:
        """Refused: this is for reading."""
        raise StoreError("shards of an entry on the network are read, not listed", url=prefix)

    def delete(self, prefix: str) -> None:
        """Refused: this is for reading."""
        raise StoreError("shards of an entry on the network are read, not deleted", url=prefix)
