"""Shards as blobs in accounts of a real AT Protocol network."""

import hashlib
import json
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import atdata
from atdata.atmosphere import Atmosphere, lexicon
from atdata.cid import Link
from atdata.errors import IntegrityError, LoginError, RecordError, UnsafeNameError
from atdata.stores.pins import PIN, File, Pin, key_of, now
from atdata.testing import FaultyStore, FullStoreSuite
from atdata.testing.network import LocalAccount
from atdata.testing.probes import Probe, dataset_of, probes

_KEYS = ["4kjpwhpai3grr", "3grv3yayf7do3", "3k74i3d3cpdnu"]


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


@pytest.mark.slow
class TestPDSBlobStore(FullStoreSuite):
    @pytest.fixture
    def store(self, atproto, monkeypatch, tmp_path):
        account = atproto.make_account()
        # A client that was pickled logs in as the environment says.
        monkeypatch.setenv("ATDATA_HANDLE", account.did)
        monkeypatch.setenv("ATDATA_APP_PASSWORD", account.password)
        with Atmosphere.login(directory=atproto.directory, allow_private=True) as client:
            yield atdata.PDSBlobStore(client, cache=tmp_path / "cache")

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


def test_a_pickled_store_does_not_take_a_password_along(login, tmp_path):
    store = atdata.PDSBlobStore(login(), cache=tmp_path / "cache")
    urls = store.write_shards(dataset_of(probes(3)), prefix="there")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.did == store.did
    assert list(copy.list()) == list(store.list())
    assert list(atdata.Dataset[Probe](urls, store=copy)) == probes(3)
    with pytest.raises(LoginError, match="nobody is logged in, and only an account's owner writes to it"):
        copy.write_shards(dataset_of(probes(3)), prefix="here")
    copy.client.close()


@pytest.mark.parametrize("prefix", ["blob", "blob/x", "science.alt.dataset.pin/x", "science.alt.dataset.entry/3jui7kd"])
def test_prefixes_that_are_addresses_of_something_else_are_refused(login, prefix):
    store = atdata.PDSBlobStore(login())
    with pytest.raises(UnsafeNameError, match="begins addresses of another kind"):
        store.write_shards(dataset_of(probes(1)), prefix=prefix)


def test_who_may_write(login):
    store = atdata.PDSBlobStore(Atmosphere())
    for use in (lambda: store.did, lambda: list(store.list())):
        with pytest.raises(LoginError, match=r"use Atmosphere\.login, or name the account, repo=…"):
            use()
    with pytest.raises(LoginError, match="only an account's owner writes"):
        store.write_shards(dataset_of(probes(1)), prefix="p")


def test_the_same_blob_in_two_datasets_is_there_once_and_stays_for_the_other(login, tmp_path):
    store = atdata.PDSBlobStore(login(), cache=tmp_path / "cache")
    one, two = (store.write_shards(dataset_of(probes(3)), prefix=prefix) for prefix in ("one", "two"))
    assert one == two
    assert len(list(store.list())) == 4  # shard, manifest, header, record
    assert len(list(store.files())) == 8
    store.delete("one")
    assert list(atdata.Dataset[Probe](two, store=atdata.PDSBlobStore(store.client, cache=tmp_path / "new"))) == probes(
        3
    )
    store.delete("two")
    assert list(store.client.list_blobs(store.did)) == []


def test_pins_are_what_their_lexicon_says_and_tell_nothing_of_the_machine(login):
    store = atdata.PDSBlobStore(login())
    seen = []

    def generate():
        for sample in probes(4):
            if sample.label == 2:
                seen.extend(store.client.list_records(store.did, PIN))
            yield sample

    store.write_shards(dataset_of(generate()), prefix="p", maxcount=1)
    (claim,) = seen
    assert set(claim.value) == {"$type", "prefix", "blobs", "writer", "createdAt"}
    assert os.uname().nodename not in json.dumps(claim.value)
    (pin,) = store.client.list_records(store.did, PIN)
    lexicon.check(PIN, pin.value)
    assert (pin.value["prefix"], pin.value["part"], pin.value["parts"]) == ("p", 0, 1)
    assert pin.uri.rkey == key_of("p")
    kinds = {file["name"].partition(".")[2]: file["blob"]["mimeType"] for file in pin.value["blobs"]}
    assert (kinds["tar"], kinds["manifest.json"]) == ("application/x-tar", "application/json")


def test_pins_of_others_at_keys_of_their_own_are_passed_over(login):
    store = atdata.PDSBlobStore(login())
    urls = store.write_shards(dataset_of(probes(2)), prefix="mine")
    pin = store.client.get_record(f"at://{store.did}/{PIN}/{key_of('mine')}").value
    for key, value in (
        ("3jui7kd54zh2y", pin),
        ("3jui7kd54zh2z", {"$type": PIN, "prefix": 5}),
        ("self", {"$type": PIN}),
    ):
        store.client.put_record(PIN, key, value)
    store.client.put_record(PIN, key_of("yours"), pin)  # says that it is of another prefix
    assert {file.path.partition("/")[0] for file in store.files()} == {"mine"}
    with pytest.raises(RecordError, match="of another prefix or part"):
        atdata.Dataset(f"at://{store.did}/yours", store=store)
    assert urls[0] in list(store.list())


def test_keys_never_change():
    # Datasets that were written are found by these.
    assert [key_of("digits/v1"), key_of("digits/v1", 3, "a"), key_of("digits/v1", series="writer")] == _KEYS


_NAMES = st.text(st.characters(blacklist_categories=["C", "Z"], blacklist_characters="/"), min_size=1, max_size=40)


@given(_NAMES, st.lists(st.tuples(_NAMES, st.binary(max_size=20)), max_size=8), st.integers(0, 50))
def test_a_pin_comes_back_as_it_was(prefix, files, part):
    def blob(data):
        return {"$type": "blob", "ref": {"$link": str(Link.to_blob(data))}, "mimeType": "a/b", "size": len(data)}

    files = tuple(File(name, blob(data)) for name, data in files if name not in (".", "..") and name.isprintable())
    cid, record = atdata.generate_cid(prefix), blob(prefix.encode())
    pins = [Pin(prefix, files, 0, part + 1, "b", cid, record, now()), Pin(prefix, files, part, created_at=now())]
    for pin in pins:
        assert Pin.of(json.loads(json.dumps(pin.to_value())), "bafy") == pin._replace(record_cid="bafy")


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "a\x00b", "a\nb"])
def test_names_that_are_none_are_refused(name):
    blob = {"$type": "blob", "ref": {"$link": str(Link.to_blob(b""))}, "mimeType": "a/b", "size": 0}
    value = Pin("p", (File("good", blob), File(name, blob)), 1, created_at=now()).to_value()
    with pytest.raises(RecordError, match="is no name of a file") as caught:
        Pin.of(value)
    assert caught.value.field == "pin.blobs[1].name"


def test_a_blob_that_is_another_than_its_digest_says_is_told(login):
    client = login()
    blob = client.upload_blob(b"abc", 3, "text/plain", sha256=hashlib.sha256(b"abc").hexdigest())
    assert blob["ref"]["$link"] == str(Link.to_blob(b"abc"))
    with pytest.raises(IntegrityError, match="other bytes than were sent"):
        client.upload_blob(b"abd", 3, "text/plain", sha256=hashlib.sha256(b"abc").hexdigest())
