"""Shards as blobs in accounts of a real AT Protocol network."""

import pickle
from collections.abc import Callable

import pytest

import atdata
from atdata.atmosphere import Atmosphere
from atdata.cid import Link
from atdata.errors import LoginError
from atdata.testing import FaultyStore, FullStoreSuite
from atdata.testing.network import LocalAccount
from atdata.testing.probes import dataset_of, probes

Login = Callable[..., Atmosphere]


@pytest.fixture
def login(atproto):
    """Clients of accounts of this test alone, on the network that all tests share."""
    made = []

    def login(account: LocalAccount | None = None, *, pds: int = 0, pds_url: str | None = None) -> Atmosphere:
        account = account or atproto.make_account(pds)
        client = Atmosphere.login(
            account.did, account.password, pds_url=pds_url, directory=atproto.directory, allow_private=True
        )
        made.append(client)
        return client

    yield login
    for client in made:
        client.close()


class TestPDSBlobStore(FullStoreSuite):
    carries_rights = False  # a pickled client does not take its login along

    @pytest.fixture
    def store(self, login, tmp_path):
        return atdata.PDSBlobStore(login(), cache=tmp_path / "cache")

    def placed(self, store, prefix=""):
        inner = store.store if isinstance(store, FaultyStore) else store
        self.listed(store, prefix)
        return {file.path: file.url for file in inner.files(prefix)}

    def missing(self, url):
        return url[:-59] + str(Link.to_blob(b"nobody has written this"))

    def remains(self, store):
        blobs = sorted(store.client.list_blobs(store.did))
        pins = sorted(str(record.uri) for record in store.client.list_records(store.did, "science.alt.dataset.pin"))
        return [*blobs, *pins]

    def test_a_pickled_store_reads_and_says_that_it_cannot_write(self, store):
        store.write_shards(dataset_of(probes(3)), prefix="there")
        copy = pickle.loads(pickle.dumps(store))
        assert store.client.auth.did == copy.did
        assert list(copy.list()) == list(store.list())
        with pytest.raises(LoginError, match="nobody is logged in, and only an account's owner writes to it"):
            copy.write_shards(dataset_of(probes(3)), prefix="here")
        copy.client.close()
