"""Azure Blob Storage: the conformance suites against Azurite, and what is Azure's own."""

from __future__ import annotations

import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

import atdata
from atdata.errors import AccessDeniedError, DatasetNotFoundError, StoreError
from atdata.stores.azure import AzureDataStore
from atdata.stores.base import DataStore
from atdata.testing import FullStoreSuite
from atdata.testing.probes import dataset_of, probes
from servers.azure import KEY, Azurite


@pytest.mark.slow
class TestAzureDataStore(FullStoreSuite):
    @pytest.fixture
    def store(self, azure: Azurite) -> AzureDataStore:
        return AzureDataStore(azure.make_container(), **azure.options)

    def remains(self, store: AzureDataStore) -> list[str]:  # type: ignore[override]
        return sorted(store.keys(""))


@pytest.fixture
def store(azure: Azurite) -> AzureDataStore:
    return AzureDataStore(azure.make_container(), **azure.options)


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


@pytest.mark.parametrize("prefix", ["plain/v1", "with space", "plus+and&percent%20=", "üñï/数据集"])
def test_a_signed_url_is_good_for_any_name(store: AzureDataStore, prefix: str) -> None:
    """Whatever has to be quoted in it; and the key is not in it."""
    urls = store.write_shards(dataset_of(probes(3)), prefix=prefix)
    signed = store.read_url(urls[0])
    assert fetched(signed) == store.open(urls[0]).read(0, urls.shards[0].size)
    assert KEY not in signed
    assert "sig=" in urlsplit(signed).query


def test_a_signed_url_is_for_reading_one_object(store: AzureDataStore) -> None:
    urls = store.write_shards(dataset_of(probes(4)), prefix="v1", maxcount=2)
    first, second = (store.read_url(url) for url in urls)
    other = f"{second.partition('?')[0]}?{first.partition('?')[2]}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetched(other)
    assert refused.value.code == 403
    refused.value.close()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(first, method="DELETE"), timeout=30)
    assert refused.value.code == 403
    refused.value.close()


def test_a_wrong_key_is_named(azure: Azurite, store: AzureDataStore) -> None:
    wrong = AzureDataStore(store.container, **azure.options | {"account_key": "d3Jvbmc="})
    with pytest.raises(AccessDeniedError, match="the server refused the account key") as caught:
        wrong.write_shards(dataset_of(probes(1)), prefix="v1")
    assert "d3Jvbmc" not in str(caught.value)
    assert list(store.list()) == []


def test_a_container_that_is_not_there_is_not_found(azure: Azurite) -> None:
    store = AzureDataStore("nowhere", **azure.options)
    with pytest.raises(DatasetNotFoundError):
        store.open(f"{store.base}v1/shard-000000.tar")
    with pytest.raises(StoreError, match="make it first"):
        store.write_shards(dataset_of(probes(1)), prefix="v1")


def test_without_the_key_only_plain_names_are_signed(azure: Azurite) -> None:
    store = AzureDataStore("c", account_name="me", token="secret", endpoint=azure.endpoint)
    with pytest.raises(StoreError, match="account_key") as caught:
        store.read_url("az://c/a b.tar")
    assert "secret" not in str(caught.value)


def test_a_key_that_was_not_copied_whole_is_named() -> None:
    store = AzureDataStore("c", account_name="me", account_key="not base64")
    with pytest.raises(StoreError, match="copy it whole"):
        store.read_url("az://c/a.tar")


def test_the_key_is_in_no_text(store: DataStore) -> None:
    assert KEY not in repr(store)


def test_a_url_opens_it_by_the_environment(
    azure: Azurite, store: AzureDataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_shards(dataset_of(probes(5)), prefix="v1")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azure.options["account_name"])
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azure.options["account_key"])
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azure.endpoint)
    assert len(list(atdata.Dataset(f"{store.base}v1/").ordered())) == 5
