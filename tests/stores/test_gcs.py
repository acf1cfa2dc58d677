"""Google Cloud Storage: the conformance suites against Google's dialect before the S3 server, and what is its own."""

from __future__ import annotations

import pickle
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import atdata
from atdata.errors import AccessDeniedError, DatasetExistsError, DatasetNotFoundError, StoreError
from atdata.stores.base import DataStore
from atdata.stores.cloud import GCSDataStore
from atdata.testing import FullStoreSuite
from atdata.testing.probes import dataset_of, probes
from servers.gcs import ACCOUNT, GoogleStorage


@atdata.packable
class Large:
    data: bytes


RESERVED = "!$&'()*+,:;=@[]%"


@pytest.mark.slow
class TestGCSDataStore(FullStoreSuite):
    @pytest.fixture
    def store(self, gcs: GoogleStorage, tmp_path: Path) -> GCSDataStore:
        self.folder = tmp_path
        return GCSDataStore(gcs.make_bucket(), **gcs.options)

    def remains(self, store: GCSDataStore) -> list[str]:  # type: ignore[override]
        return sorted(store.keys(""))

    def plain_url(self, store: DataStore, url: str) -> str:
        """The signed URL; a copy on disk of what has a name that cannot be signed."""
        if not set(RESERVED) & set(url.removeprefix("gs://")):
            return str(store.read_url(url))
        copy = self.folder / "copy.tar"
        copy.write_bytes(self.read(store, url))
        return str(copy)


@pytest.fixture
def store(gcs: GoogleStorage) -> GCSDataStore:
    return GCSDataStore(gcs.make_bucket(), **gcs.options)


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


@pytest.mark.parametrize("prefix", ["plain/v1", "with space", "under_score-1.0", "üñï/数据集"])
def test_a_signed_url_opens_any_name_that_google_can_be_asked_for(store: GCSDataStore, prefix: str) -> None:
    urls = store.write_shards(dataset_of(probes(3)), prefix=prefix)
    signed = store.read_url(urls[0])
    assert fetched(signed) == store.open(urls[0]).read(0, urls.shards[0].size)
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetched(signed.replace("shard-000000", "shard-000001"))
    assert refused.value.code == 403
    refused.value.close()


@pytest.mark.parametrize("character", RESERVED)
def test_a_name_that_would_be_signed_wrongly_is_refused(store: GCSDataStore, character: str) -> None:
    """Google wants these quoted in what is signed, and obstore does not quote them."""
    urls = store.write_shards(dataset_of(probes(3)), prefix=f"a{character}b")
    with pytest.raises(StoreError, match="use a plain prefix"):
        store.read_url(urls[0])
    assert len(list(atdata.Dataset(urls, store=store))) == 3


def test_a_large_shard_goes_in_parts(store: GCSDataStore) -> None:
    samples = [Large(bytes([n]) * (5 << 20)) for n in range(6)]
    urls = store.write_shards(atdata.Dataset.from_samples(samples, Large), prefix="large")
    assert urls.shards[0].size > 30 << 20
    assert list(atdata.Dataset[Large](f"{store.base}large/", store=store)) == samples
    assert not [key for key in store.keys("") if ".atdata" in key]


def test_what_is_there_is_not_written_over(store: GCSDataStore) -> None:
    store.write_shards(dataset_of(probes(3)), prefix="v1")
    with pytest.raises(DatasetExistsError):
        store.write_shards(dataset_of(probes(4)), prefix="v1")
    store.put("there", b"first", create=True)
    with pytest.raises(DatasetExistsError):
        store.put("there", b"second", create=True)
    assert store.get("there") == b"first"


def test_another_account_is_denied(gcs: GoogleStorage, store: GCSDataStore) -> None:
    urls = store.write_shards(dataset_of(probes(3)), prefix="v1")
    other = gcs.options | {"service_account_key": gcs.account(rsa.generate_private_key(65537, 2048))}
    stranger = GCSDataStore(store.bucket, **other)
    with pytest.raises(AccessDeniedError) as caught:
        stranger.write_shards(dataset_of(probes(1)), prefix="v2")
    assert "PRIVATE KEY" not in str(caught.value)
    assert ACCOUNT not in repr(stranger)
    with pytest.raises(AccessDeniedError):
        list(atdata.Dataset(urls, store=stranger))
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetched(stranger.read_url(urls[0]))
    assert refused.value.code == 403
    refused.value.close()


def test_a_bucket_that_is_not_there_is_not_found(gcs: GoogleStorage) -> None:
    store = GCSDataStore("nowhere", **gcs.options)
    with pytest.raises(DatasetNotFoundError):
        store.open(f"{store.base}v1/shard-000000.tar").read(0, 1)
    with pytest.raises(StoreError, match="make it first"):
        store.write_shards(dataset_of(probes(1)), prefix="v1")


def test_a_url_opens_it_by_the_environment(
    gcs: GoogleStorage, store: GCSDataStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.write_shards(dataset_of(probes(5)), prefix="v1")
    account = tmp_path / "account.json"
    account.write_text(gcs.options["service_account_key"])
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(account))
    monkeypatch.setenv("GOOGLE_BASE_URL", gcs.endpoint)
    assert len(list(atdata.Dataset(f"{store.base}v1/").ordered())) == 5


def test_damage_is_found(store: GCSDataStore) -> None:
    urls = store.write_shards(dataset_of(probes(5)), prefix="v1")
    key = store.key(urls[0])
    data = bytearray(store.get(key) or b"")
    data[520] ^= 1
    store.put(key, bytes(data))
    with pytest.raises(atdata.errors.IntegrityError):
        list(atdata.Dataset(urls, store=store))
    assert pickle.loads(pickle.dumps(store)).get(key) == bytes(data)
