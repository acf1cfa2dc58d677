"""`atdata.verify` of what accounts have published: from the account's key down to the samples, on real servers."""

from __future__ import annotations

import contextlib
import hashlib
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cbrrr
import pytest

import atdata
from atdata.atmosphere import Atmosphere
from atdata.cid import Link
from atdata.errors import AtdataError, EntryNotFoundError, IdentityError, IntegrityError, ProofError, RecordError
from atdata.index.chain import Verification
from atdata.testing import LocalNetwork
from servers.rgw import S3Server


@atdata.packable
class Word:
    text: str
    number: int


def words(n: int) -> list[Word]:
    return [Word(f"word {i}" * (i % 5), i) for i in range(n)]


def states(found: Verification) -> dict[str, str]:
    return {link.name: link.state for link in found.chain}


LINKS = ("account", "signed commit", "record", "commit record", "shards", "manifests", "samples")
WHOLE = dict.fromkeys(LINKS, "ok")


class Server:
    """A network of one account that has published 25 words in three blobs, and what lies on its server's disk."""

    def __init__(self, network: LocalNetwork, client: Atmosphere) -> None:
        self.network = network
        self.client = client
        self.did = client.did or ""
        self.index = atdata.AtmosphereIndex(client, store=atdata.PDSBlobStore(client))
        self.entry = self.index.write_samples(words(25), name="some/words", maxcount=10, sample_type=Word)
        self.ref = f"@{client.handle}/some/words"

    @property
    def database(self) -> Path:
        (found,) = self.network.folder.glob(f"pds0/actors/*/{self.did}/store.sqlite")
        return found

    def blob(self, url: str) -> Path:
        cid = url.rpartition("/")[2]
        (found,) = [path for path in (self.network.folder / "pds0" / "blobs").rglob(cid) if path.is_file()]
        return found

    @contextlib.contextmanager
    def changed_block(self, cid: str, change: Callable[[bytes], bytes]) -> Iterator[None]:
        """A block of the repository with other content."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as connection:
            ((whole,),) = connection.execute("SELECT content FROM repo_block WHERE cid = ?", (cid,)).fetchall()

            def put(content: bytes) -> None:
                with connection:
                    connection.execute("UPDATE repo_block SET content = ? WHERE cid = ?", (content, cid))

            put(change(whole))
            try:
                yield
            finally:
                put(whole)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with LocalNetwork() as network:
        account = network.make_account()
        with Atmosphere.login(
            account.handle, account.password, pds_url=account.pds, directory=network.directory, allow_private=True
        ) as client:
            yield Server(network, client)


@pytest.fixture(autouse=True)
def _anybody(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks has no account, and a cache of their own."""
    monkeypatch.setenv("ATDATA_PLC_DIRECTORY", server.network.directory)
    monkeypatch.setenv("ATDATA_HANDLES_AT", server.network.pds[0])
    monkeypatch.setenv("ATDATA_ALLOW_PRIVATE", "1")
    monkeypatch.setenv("ATDATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ATDATA_CONFIG", str(tmp_path / "config"))


def test_from_the_key_down_to_every_sample(server: Server) -> None:
    found = atdata.verify(server.ref, deep=True)
    assert states(found) == WHOLE
    assert found.cid == server.entry.cid
    assert [shard.samples for shard in found.shards] == [10, 10, 5]
    account, commit, record, document = (link.checked for link in found.chain[:4])
    key = server.client.resolve(server.did).signing_key
    assert account == f"@{server.client.handle} is {server.did} in both directions, and signs with {key}"
    proven = server.client.prove_record(server.entry.uri)
    assert proven is not None
    assert commit == f"{proven.commit} of revision {proven.rev} is signed with that key"
    assert record == f"{server.entry.uri}, which is {proven.cid}, is in its tree"
    assert document == f"SHA-256 as the record says; {server.entry.cid} is what its shards' digests give"
    assert [str(link).strip() for link in found.chain[4:]] == [
        "✓ shards        3 of 3, SHA-256 as recorded",
        "✓ manifests     SHA-256 as recorded",
        "✓ samples       25 of 25 read, SHA-256 as the manifests say",
    ]


@pytest.mark.parametrize("name", ["handle", "version", "uri", "entry", "listed", "index", "dataset"])
def test_every_way_to_name_it(server: Server, name: str) -> None:
    index = None
    with Atmosphere() as client:
        ref: Any = {"handle": server.ref, "version": f"{server.ref}@1.0.0", "uri": server.entry.uri}.get(name)
        if name == "entry":
            ref = server.entry
        elif name == "listed":
            (ref,) = atdata.AtmosphereIndex(client, repo=server.did).list_datasets()
        elif name == "index":
            ref, index = "some/words", atdata.AtmosphereIndex(client, repo=server.did)
        elif name == "dataset":
            ref = atdata.load_dataset(server.ref, Word)
        found = atdata.verify(ref, deep=True, index=index)
    assert found.ok
    assert found.cid == server.entry.cid
    assert ("account" in states(found)) == (name != "dataset")


def test_without_reading_them_it_is_known_that_all_shards_are_there(server: Server, tmp_path: Path) -> None:
    found = atdata.verify(server.ref)
    assert states(found) == WHOLE | {"manifests": "unchecked", "samples": "unchecked"}
    path = server.blob(server.entry.data_urls[1])
    path.rename(tmp_path / "away")
    try:
        with pytest.raises(AtdataError) as caught:
            atdata.verify(server.ref)
        assert caught.value.url == server.entry.data_urls[1]
        assert caught.value.__notes__[-1] == "the chain is broken at this link: shards"
    finally:
        (tmp_path / "away").rename(path)


# -- what does not hold ------------------------------------------------------------------------------------------------


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def broken(server: Server, link: str, url: str, kind: type[AtdataError] = AtdataError) -> AtdataError:
    """The error, which names the link and the place; and what all is reported to be wrong is the same."""
    with pytest.raises(kind) as caught:
        atdata.verify(server.ref, deep=True)
    assert caught.value.__notes__[-1] == f"the chain is broken at this link: {link}"
    assert (caught.value.url or "").startswith(url)
    found = atdata.verify(server.ref, deep=True, on_error="report")
    assert found.broken is not None
    assert found.broken.name == link
    before, after = LINKS[: LINKS.index(link)], LINKS[LINKS.index(link) + 1 :]
    assert all(states(found)[name] == "ok" for name in before)
    if link in LINKS[:4]:
        assert all(states(found)[name] == "unchecked" for name in after)
    return caught.value


def places(size: int, count: int) -> list[int]:
    return sorted({0, size - 1, *random.Random(11).sample(range(size), count)})


def test_a_flipped_byte_of_the_record_is_found(server: Server) -> None:
    proven = server.client.prove_record(server.entry.uri)
    assert proven is not None
    assert proven.cid is not None
    size = len(cbrrr.encode_dag_cbor(proven.value, atjson_mode=True))
    for at in places(size, 3):
        with server.changed_block(proven.cid, lambda data, at=at: flipped(data, at)):
            # Nothing of an answer with a block that was changed can be relied on, the commit neither.
            error = broken(server, "signed commit", server.entry.uri, ProofError)
            assert error.link == "block"  # type: ignore[attr-defined]
    assert atdata.verify(server.ref).ok


def test_a_flipped_byte_of_the_commit_is_found(server: Server) -> None:
    proven = server.client.prove_record(server.entry.uri)
    assert proven is not None
    with server.changed_block(proven.commit, lambda data: flipped(data, data.index(b"csigX@") + 20)):
        error = broken(server, "signed commit", f"at://{server.did}/", ProofError)
        assert error.link == "block"  # type: ignore[attr-defined]


@pytest.mark.parametrize("what", ["shard", "manifest"])
def test_a_flipped_byte_of_a_blob_is_found_and_its_url_named(server: Server, what: str) -> None:
    url = server.entry.data_urls[2]
    if what == "manifest":
        info = server.entry.shards[2].info
        assert info is not None
        assert info.manifest is not None
        url = f"at://{server.did}/blob/{Link.to_sha256(info.manifest.sha256)}"
    path = server.blob(url)
    whole = path.read_bytes()
    try:
        for at in places(len(whole), 3):
            path.write_bytes(flipped(whole, at))
            assert atdata.verify(server.ref).ok, "its length is as recorded"
            broken(server, f"{what}s", url, IntegrityError)
    finally:
        path.write_bytes(whole)


def test_a_cached_copy_says_nothing_of_what_the_server_has(server: Server) -> None:
    ds = atdata.load_dataset(server.ref, Word)
    assert list(ds) == words(25)
    path = server.blob(server.entry.data_urls[0])
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, 1000))
    try:
        assert list(atdata.load_dataset(server.ref, Word)) == words(25), "out of the cache"
        with pytest.raises(IntegrityError):
            atdata.verify(server.ref, deep=True)
        with pytest.raises(IntegrityError):
            atdata.verify(ds, deep=True)
    finally:
        path.write_bytes(whole)


def test_a_record_that_makes_no_sense_is_found_though_it_is_signed(server: Server) -> None:
    uri = server.entry.uri
    record = server.client.get_record(uri)
    assert record is not None
    _, _, _, collection, rkey = uri.split("/")
    bad: list[tuple[str, dict[str, Any], type[AtdataError]]] = [
        ("record", {"storage": {"$type": "science.alt.dataset.storageHttp", "shards": []}}, RecordError),
        ("record", {"commit": {**record.value["commit"], "version": "first"}}, RecordError),
        (
            "commit record",
            {"commit": {**record.value["commit"], "sha256": hashlib.sha256(b"").hexdigest()}},
            AtdataError,
        ),
    ]
    try:
        for link, changes, kind in bad:
            server.client.put_record(collection, rkey, {**record.value, **changes})
            broken(server, link, uri, kind)
    finally:
        server.client.put_record(collection, rkey, record.value)
    assert atdata.verify(server.ref).ok


@pytest.mark.slow
def test_a_long_commit_record_is_a_blob_and_a_flipped_byte_of_it_is_found(server: Server) -> None:
    entry = server.index.write_samples(words(90), name="many/words", maxcount=1, sample_type=Word)
    record = server.client.get_record(entry.uri)
    assert record is not None
    blobs = record.value["commit"]["recordBlobs"]
    ref = f"@{server.client.handle}/many/words"
    assert atdata.verify(ref).ok
    path = server.blob(blobs[0]["ref"]["$link"])
    whole = path.read_bytes()
    try:
        for at in places(len(whole), 3):
            path.write_bytes(flipped(whole, at))
            with pytest.raises(AtdataError) as caught:
                atdata.verify(ref)
            assert caught.value.__notes__[-1] == "the chain is broken at this link: commit record"
    finally:
        path.write_bytes(whole)


def test_what_is_not_there_is_no_broken_chain(server: Server) -> None:
    for ref in (f"@{server.client.handle}/nothing", f"{server.entry.uri[:-1]}x"):
        with pytest.raises(EntryNotFoundError) as caught:
            atdata.verify(ref)
        assert not hasattr(caught.value, "__notes__")
    with pytest.raises(IdentityError):
        atdata.verify("@nobody.test/words")


def test_a_prefix_in_an_account(server: Server) -> None:
    """Without an entry: what the account's store says of it, and the blobs by their names."""
    store = atdata.PDSBlobStore(server.client)
    urls = store.write_shards(atdata.Dataset.from_samples(words(12), Word), prefix="v1/words", maxcount=5)
    url = f"at://{server.did}/v1/words"
    found = atdata.verify(url, deep=True)
    assert states(found) == {"commit record": "ok", "shards": "ok", "manifests": "ok", "samples": "ok"}
    assert found.cid == urls.record.cid  # type: ignore[attr-defined]
    path = server.blob(urls[1])
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, 3))
    try:
        with pytest.raises(IntegrityError) as caught:
            atdata.verify(url, deep=True)
        assert caught.value.url == urls[1]
    finally:
        path.write_bytes(whole)


# -- shards elsewhere --------------------------------------------------------------------------------------------------


def test_shards_in_a_bucket(server: Server, rgw: S3Server, bucket: str) -> None:
    store = atdata.S3DataStore(rgw.credentials, bucket=bucket)
    index = atdata.AtmosphereIndex(server.client, store=store)
    entry = index.write_samples(words(25), name="far/words", maxcount=10, sample_type=Word)
    ref = f"@{server.client.handle}/far/words"
    found = atdata.verify(ref, deep=True, store=store)
    assert states(found) == WHOLE
    assert found.cid == entry.cid
    key = entry.data_urls[1].removeprefix("s3://")
    whole = rgw.request("GET", f"/{key}").body
    rgw.request("PUT", f"/{key}", body=flipped(whole, 700))
    assert atdata.verify(ref, store=store).ok
    with pytest.raises(IntegrityError) as caught:
        atdata.verify(ref, deep=True, store=store)
    assert caught.value.url == entry.data_urls[1]
