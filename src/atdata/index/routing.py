"""Which store reads a shard: its URL decides, so that credentials go nowhere but to their own bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from atdata.datasets.dataset import Dataset
from atdata.datasets.sources import Located
from atdata.errors import StoreError
from atdata.stores.base import DataStore, StoredObject, Transaction, WrittenShards
from atdata.stores.disk import LocalDiskStore
from atdata.stores.opening import Opening
from atdata.stores.record import CommitRecord

__all__ = ["belongs", "dataset_of", "owner", "store_for"]

_PLAIN = ("file", "s3", "gs", "az", "memory", "http", "https")


def dataset_of(located: Located, sample_type: type | None = None, *, store: Any, **options: Any) -> Dataset[Any]:
    """The dataset of shards that are known, each read by the store it lies in or by what its URL is.

    Args:
        located: the shards, with what is recorded of each, and the schema.
        sample_type: the class of the samples; by default built from the schema.
        store: a store whose credentials are used for the shards that lie in it; None for none.
        options: passed to `Dataset`.
    """
    urls = [ref.url for ref in located.shards]
    record = CommitRecord(located.schema, tuple(ref.info for ref in located.shards if ref.info is not None))
    return Dataset(WrittenShards(urls, record), sample_type=sample_type, store=store_for(store, urls), **options)


def store_for(store: Any, urls: Sequence[str]) -> Any:
    """The store to read these URLs with, of which perhaps none, perhaps only some, belong to `store`.

    Args:
        store: the store that an index or a user has; None for none.
        urls: the shards' URLs or absolute paths.
    """
    own = [belongs(store, url) for url in urls]
    if all(own):
        return store
    return _Both(store) if any(own) else None


def belongs(store: Any, url: str) -> bool:
    """Whether `store` is the one to read `url`; what can be opened by what it is needs none."""
    if store is None or isinstance(store, LocalDiskStore):
        return False
    base = getattr(store, "base", None)
    if isinstance(base, str):
        return url.startswith(base)
    scheme, colon, _ = url.partition("://")
    return bool(colon) and scheme.lower() not in _PLAIN


def owner(opening: Opening, url: str) -> Any:
    """The store that a dataset reads a URL with; None where it is read by what it is."""
    find = getattr(opening.store, "store_of", None)
    if find is not None:
        return find(url)
    return opening.store if belongs(opening.store, url) else opening.object_store(url)


class _Both(DataStore):
    """For reading shards of which some lie in a store and others elsewhere.

    Args:
        store: one of atdata's, or a stranger's.
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self._own = Opening(store)
        self._others = Opening()

    def store_of(self, url: str) -> Any:
        """The store that a URL is read with; None where it needs none."""
        return self.store if belongs(self.store, url) else self._others.object_store(url)

    def _opening(self, url: str) -> Opening:
        return self._own if belongs(self.store, url) else self._others

    def read_url(self, url: str) -> str:
        """What plain webdataset can open: by the store, or the URL itself."""
        return str(self.store.read_url(url)) if belongs(self.store, url) else url

    def supports_streaming(self) -> bool:
        """As the store does."""
        return bool(self.store.supports_streaming())

    def open(self, url: str) -> StoredObject:
        """Open the shard or manifest at `url`."""
        return self._opening(url).open(url)

    def open_sized(self, url: str, size: int | None) -> StoredObject:
        """The same, where its size may be known."""
        return self._opening(url).open(url, size)

    def begin(self, prefix: str, *, overwrite: bool) -> Transaction:
        """Refused: this is for reading."""
        raise StoreError("shards in several stores are read, not written", url=prefix)

    def list(self, prefix: str = "") -> Iterator[str]:
        """Refused: this is for reading."""
        raise StoreError("shards in several stores are read, not listed", url=prefix)

    def delete(self, prefix: str) -> None:
        """Refused: this is for reading."""
        raise StoreError("shards in several stores are read, not deleted", url=prefix)
