"""The store in memory, and which store a URL opens."""

from __future__ import annotations

import pickle
import uuid

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import DatasetExistsError, DatasetNotFoundError, IntegrityError, StoreError, UnsafeNameError
from atdata.stores.azure import AzureDataStore
from atdata.stores.cloud import GCSDataStore, MemoryDataStore
from atdata.stores.disk import LocalDiskStore
from atdata.stores.opening import open_store
from atdata.stores.s3 import S3DataStore


@atdata.packable
class Item:
    data: NDArray[np.uint8]
    number: int


def items(count: int) -> list[Item]:
    return [Item(np.full(50, n % 251, np.uint8), n) for n in range(count)]


@pytest.fixture
def store() -> MemoryDataStore:
    return MemoryDataStore(uuid.uuid4().hex)


def test_written_and_read_in_memory(store: MemoryDataStore) -> None:
    urls = store.write_shards(atdata.Dataset.from_samples(items(25), Item), prefix="a/v1", maxcount=10)
    assert urls == [f"{store.base}a/v1/shard-{n:06d}.tar" for n in range(3)]
    for source in (urls, list(urls), f"{store.base}a/v1", f"{store.base}a/v1/*.tar", f"{store.base}a/v1/"):
        for given in (store, None):
            ds = atdata.Dataset[Item](source, store=given)
            assert list(ds) == items(25)
            assert ds[17] == items(25)[17]
            assert ds[3:14] == items(25)[3:14]
    assert len(list(store.list("a"))) == 10


def test_without_manifests(store: MemoryDataStore) -> None:
    urls = store.write_shards(atdata.Dataset.from_samples(items(5), Item), prefix="v1", manifest=False)
    assert list(atdata.Dataset[Item](urls, store=store)) == items(5)
    assert len(list(store.list())) == 2


def test_overwriting_and_deleting(store: MemoryDataStore) -> None:
    store.write_shards(atdata.Dataset.from_samples(items(5), Item), prefix="v1", maxcount=1)
    with pytest.raises(DatasetExistsError):
        store.write_shards(atdata.Dataset.from_samples(items(5), Item), prefix="v1")
    store.write_shards(atdata.Dataset.from_samples(items(2), Item), prefix="v1", overwrite=True)
    assert list(atdata.Dataset[Item](f"{store.base}v1", store=store)) == items(2)
    assert len(list(store.list())) == 4
    store.delete("v1")
    assert list(store.list()) == []
    with pytest.raises(DatasetNotFoundError):
        store.delete("v1")


def test_replaced_between_two_ranges(store: MemoryDataStore) -> None:
    store.put("a.tar", b"a" * 100)
    file = store.open(f"{store.base}a.tar")
    assert file.read(0, 10) == b"a" * 10
    store.put("a.tar", b"b" * 100)
    with pytest.raises(IntegrityError, match="replaced"):
        file.read(10, 20)


def test_memory_has_no_url_and_no_pickle(store: MemoryDataStore) -> None:
    with pytest.raises(StoreError, match="no URL"):
        store.read_url(f"{store.base}x.tar")
    with pytest.raises(StoreError, match="another process"):
        pickle.dumps(store)
    assert repr(MemoryDataStore("m")) == "MemoryDataStore('m')"


def test_the_store_of_a_url(tmp_path: object) -> None:
    assert isinstance(open_store(str(tmp_path)), LocalDiskStore)
    assert isinstance(open_store("s3://bucket/prefix"), S3DataStore)
    assert isinstance(open_store("gs://bucket"), GCSDataStore)
    assert isinstance(open_store("az://container/x"), AzureDataStore)
    assert repr(open_store("gs://bucket")) == "GCSDataStore('bucket')"
    assert repr(open_store("az://container", account_key="secret")) == "AzureDataStore('container')"
    assert open_store("memory://").base == "memory://default/"  # type: ignore[attr-defined]
    assert repr(open_store("https://host:8080/x/y")) == "HttpDataStore('https://host:8080/')"
    with pytest.raises(StoreError, match="no store is known"):
        open_store("ftp://host/x")
    with pytest.raises(UnsafeNameError):
        open_store("s3:///x")
