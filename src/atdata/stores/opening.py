"""From a URL to something that can be read: which store it belongs to, and what may be opened at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atdata.errors import CommitRecordError, DatasetNotFoundError, StoreError
from atdata.shards.manifest import manifest_name
from atdata.stores.base import DataStore, StoredObject
from atdata.stores.blobs import blob_url, take_apart
from atdata.stores.cache import Cache
from atdata.stores.disk import LocalDiskStore, LocalObject, local_path
from atdata.stores.http import HttpObject, Web
from atdata.stores.objects import ObjectStore, RemoteObject
from atdata.stores.record import RECORD_NAME, CommitRecord, ShardInfo
from atdata.stores.web import HttpDataStore

if TYPE_CHECKING:
    from atdata.stores.pds import PDSBlobStore

__all__ = ["Opening", "open_store"]

_KINDS = "a local path, file://, s3://, gs://, az://, at://, memory://, http:// and https://"
_NETWORK = "at://"


def open_store(url: str, **options: Any) -> DataStore:
    """The store that a URL belongs to.

    Args:
        url: a local folder, `s3://bucket`, `gs://bucket`, `az://container`, `memory://name`, `https://host`, which is
            for reading only, or `at://account` (DID or handle), which is for reading without a `client=` that is logged
            in; what follows in the URL is not part of the store.
        options: passed to the store's class, for example `credentials=` for S3.

    Raises:
        StoreError: no store is known for this kind of URL.

    Example:
        >>> open_store("memory://scratch")
        MemoryDataStore('scratch')
    """
    path = local_path(url)
    if path is not None:
        return LocalDiskStore(path, **options)
    scheme, _, rest = url.partition("://")
    name = rest.split("/", 1)[0]
    if scheme == "s3":
        from atdata.stores.s3 import S3DataStore

        return S3DataStore(options.pop("credentials", None), bucket=name, **options)
    if scheme in ("http", "https"):
        return HttpDataStore(f"{scheme}://{name}", **options)
    if scheme == "at":
        from atdata.stores.pds import PDSBlobStore

        return PDSBlobStore(options.pop("client", None) or _anonymous(), repo=name, **options)
    from atdata.stores import cloud

    if scheme == "gs":
        return cloud.GCSDataStore(name, **options)
    if scheme == "az":
        from atdata.stores.azure import AzureDataStore

        return AzureDataStore(name, **options)
    if scheme == "memory":
        return cloud.MemoryDataStore(name or "default", **options)
    raise StoreError(f"no store is known for {scheme}:// URLs; known are {_KINDS}", url=url)


def _anonymous() -> Any:
    """A client of the AT Protocol's network that is nobody, as the environment has it."""
    from atdata.atmosphere.client import Atmosphere

    return Atmosphere()


def _fetched(file: StoredObject) -> bytes | None:
    """A small file on a server, in one request."""
    if isinstance(file, RemoteObject):
        return file.store.get(file.key)
    return file.whole() if isinstance(file, HttpObject) else file.read(0, file.size)


class Opening:
    """How the URLs of one dataset are opened: by its store, or by what they are.

    Args:
        store: one of atdata's stores, a stranger's with the three public methods, or None.
        cache: where blobs of the AT Protocol are kept, instead of their store's cache.
    """

    def __init__(self, store: Any = None, cache: Cache | None = None) -> None:
        self.store = store
        self.cache = cache
        self._stores: dict[str, ObjectStore] = {}
        self._network: PDSBlobStore | None = None
        self._web = Web()

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "cache": self.cache, "_stores": {}, "_network": None, "_web": Web()}

    def address(self, url: str) -> str:
        """The path or URL to be opened for `url`: what a store's `read_url` gives, where it is needed."""
        if self.store is None or self._reader is not None:
            return url
        return str(self.store.read_url(url))

    @property
    def _reader(self) -> DataStore | None:
        """The store, when what is read are its own objects. Local files are mapped, web servers need no store."""
        store = self.store
        return store if isinstance(store, DataStore) and not isinstance(store, LocalDiskStore | HttpDataStore) else None

    def path(self, url: str) -> Path | None:
        """The local path for `url`; None when it lies elsewhere."""
        return local_path(self.address(url)) if self._reader is None else None

    def far(self, url: str) -> bool:
        """Whether `url` lies where only reading tells what there is."""
        return (
            self._reader is not None
            or self.object_store(url) is not None
            or url.lower().startswith(("http://", "https://", _NETWORK))
        )

    def account_store(self, url: str) -> PDSBlobStore | None:
        """The store that reads a URL of the AT Protocol; None for other URLs, and where another store reads it."""
        if not self.address(url).startswith(_NETWORK):
            return None
        from atdata.stores.pds import PDSBlobStore

        if isinstance(self.store, PDSBlobStore):
            return self.store
        if self._reader is not None:
            return None
        if self._network is None:
            self._network = PDSBlobStore(_anonymous())
        return self._network

    def object_store(self, url: str) -> ObjectStore | None:
        """The store on object storage that `url` belongs to, if it is on one."""
        if isinstance(self.store, ObjectStore):
            return self.store
        if self._reader is not None:
            return None
        scheme, _, rest = self.address(url).partition("://")
        if scheme not in ("s3", "gs", "az", "memory"):
            return None
        base = f"{scheme}://{rest.split('/', 1)[0]}"
        if base not in self._stores:
            made = open_store(base)
            assert isinstance(made, ObjectStore)
            self._stores[base] = made
        return self._stores[base]

    def open(self, url: str, size: int | None = None) -> StoredObject:
        """Open what lies at `url`.

        Args:
            url: a shard or another file of the dataset.
            size: its size in bytes when known, which spares asking a server for it.

        Raises:
            DatasetNotFoundError: there is nothing.
            StoreError: this kind of URL cannot be read.
        """
        network = self.account_store(url)
        if network is not None:
            return network.blob(self.address(url), size, self.cache)
        if self._reader is not None and not isinstance(self._reader, ObjectStore):
            return self._reader.open_sized(url, size)
        address = self.address(url)
        path = local_path(address)
        if path is not None:
            return LocalObject(path)
        scheme = address.partition("://")[0].lower()
        if scheme in ("http", "https"):
            return HttpObject(address, size, self._web)
        store = self.object_store(url)
        if store is None:
            raise StoreError(f"{scheme}:// URLs cannot be read; {_KINDS} can", url=url)
        return RemoteObject(store, address, size)

    def read(self, url: str, size: int | None = None) -> bytes | None:
        """A small file (a record, a manifest), whole; None when there is none.

        Args:
            url: the file.
            size: what its size in bytes is said to be. Of a blob that is believed, and its server not asked: its URL
                is what it contains.
        """
        try:
            found = self.open(url, size if url.startswith(_NETWORK) else None)
            if isinstance(found, LocalObject):
                return found.read(0, found.size)
            data = _fetched(found)
            if data is not None and url.endswith("/" + RECORD_NAME):
                try:  # bytes may be damaged on the way: those that cannot be right are asked for once more
                    CommitRecord.from_bytes(data)
                except CommitRecordError:
                    data = _fetched(found)
            return data
        except DatasetNotFoundError:
            return None

    def manifest(self, url: str, info: ShardInfo | None) -> str | None:
        """The URL of a shard's manifest; None where there can be none, or it cannot be told.

        Args:
            url: the shard's.
            info: what its commit record says of it, if there is one.
        """
        blob = take_apart(url) if url.startswith(_NETWORK) else None
        if blob is not None:
            return None if info is None or info.manifest is None else blob_url(blob[0], info.manifest.sha256)
        name = manifest_name(self.address(url).rpartition("/")[2])
        return None if name is None else self.beside(url, name)

    def beside(self, url: str, name: str) -> str | None:
        """The URL of the file `name` in the folder of `url`; None where there is no folder, or none can be told."""
        address = self.address(url)
        if address.startswith(_NETWORK):
            return None
        if "?" in address and "://" in address:
            return None
        folder, slash, _ = url.rpartition("/")
        return folder + slash + name if self.path(url) is None else os.path.join(os.path.dirname(address), name)
