"""Publishing to an account: what may be said, to whom it belongs, how versions and labels move, and what is told."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.atmosphere import Atmosphere, AtUri
from atdata.atmosphere.lexicon import check
from atdata.atmosphere.records import ENTRY, LABEL, SCHEMA, entry_key, label_key
from atdata.errors import (
    DatasetError,
    EntryExistsError,
    EntryFormError,
    EntryNotFoundError,
    LoginError,
    SchemaError,
    StoreError,
    SwapError,
)
from atdata.index.publishing import Place, check_place
from atdata.testing.probes import Probe, keyed, probes
from servers.atproto import SharedNetwork
from servers.rgw import S3Server
from servers.web import WebServer

Login = Callable[..., Atmosphere]


@pytest.fixture
def alice(login: Login) -> Atmosphere:
    return login()


@pytest.fixture
def index(alice: Atmosphere) -> atdata.AtmosphereIndex:
    return atdata.AtmosphereIndex(alice)


@pytest.fixture
def store(alice: Atmosphere, tmp_path: Path) -> atdata.PDSBlobStore:
    return atdata.PDSBlobStore(alice, cache=tmp_path / "cache")


@pytest.fixture
def anonymous(atproto: SharedNetwork) -> Iterator[Atmosphere]:
    with Atmosphere(directory=atproto.directory, allow_private=True, handles_at=atproto.pds[0]) as client:
        yield client


def served(web: WebServer, prefix: str, count: int = 6, first: int = 0) -> atdata.Dataset[Probe]:
    """Samples that lie on a web server."""
    atdata.LocalDiskStore(web.folder).write_shards(keyed(probes(count, first=first)), prefix=prefix, maxcount=100)
    return atdata.Dataset[Probe](web.url(prefix + "/"))


def collections(client: Atmosphere) -> dict[str, int]:
    """How many records of each kind the account has."""
    names = ("entry", "label", "schema")
    did = client.did or ""
    return {name: sum(1 for _ in client.list_records(did, f"science.alt.dataset.{name}")) for name in names}


# -- records -------------------------------------------------------------------------------------------------------


def test_what_is_written_passes_its_lexicon(index: atdata.AtmosphereIndex, alice: Atmosphere, web: WebServer) -> None:
    """Entry, schema and two labels in one commit, at keys that follow from the names."""
    ds = served(web, "a")
    before = alice.latest_commit()
    entry = index.insert_dataset(
        ds, name="vision/digits", version="1.2.0", tags=["t"], license="MIT", metadata={"x": 0.5}
    )
    did = alice.did or ""
    assert entry.uri == f"at://{did}/{ENTRY}/{entry_key('vision/digits', '1.2.0')}"
    assert collections(alice) == {"entry": 1, "label": 2, "schema": 1}
    for nsid in (ENTRY, LABEL, SCHEMA):
        for record in alice.list_records(did, nsid):
            check(nsid, record.value)
    labels = [alice.get_record(AtUri(did, LABEL, label_key("vision/digits", which))) for which in (None, "1.2.0")]
    assert [r.value["datasetUri"] for r in labels if r] == [entry.uri] * 2
    value = alice.get_record(entry.uri).value  # type: ignore[union-attr]
    assert value["size"] == {"samples": 6, "bytes": entry.size, "shards": 1}
    assert value["storage"]["shards"] == [
        {"url": ds.list_shards()[0], "checksum": {"algorithm": "sha256", "digest": entry.shards[0].digest}}
    ]
    assert value["schemaRef"] == entry.schema_ref == index.publish_schema(Probe)
    assert alice.latest_commit() != before
    assert collections(alice) == {"entry": 1, "label": 2, "schema": 1}


def test_doing_it_again_changes_nothing(index: atdata.AtmosphereIndex, alice: Atmosphere, web: WebServer) -> None:
    ds = served(web, "a")
    entry = index.insert_dataset(ds, name="digits")
    commit = alice.latest_commit()
    assert index.insert_dataset(ds, name="digits") == entry
    assert index.publish_schema(Probe) == entry.schema_ref
    index.label("digits", "stable")
    labelled = alice.latest_commit()
    assert index.insert_dataset(ds, name=f"@{alice.handle}/digits") == entry
    assert (alice.latest_commit(), commit != labelled) == (labelled, True)


def test_a_dataset_of_a_local_index_is_published_as_it_is(
    index: atdata.AtmosphereIndex, rgw: S3Server, bucket: str, tmp_path: Path, anonymous: Atmosphere
) -> None:
    """No byte is read or written: what the local index knows is all that it takes."""
    s3 = atdata.S3DataStore(rgw.credentials, bucket=bucket)
    with atdata.LocalIndex(tmp_path / "index.db", store=s3) as local:
        first = local.write_samples(probes(9), name="digits", maxcount=4)
        local.append("digits", probes(2, first=9))
        keys = rgw.keys(bucket)
        for key in [key for key in keys if key.endswith(".tar")]:
            rgw.request("DELETE", f"/{bucket}/{key}")  # even so
        ds = atdata.load_dataset("digits", index=local)
        entry = index.insert_dataset(ds, name="digits")
        assert (entry.cid, entry.data_urls) == (local.get_dataset("digits").cid, ds.list_shards())
        assert index.insert_dataset(atdata.load_dataset("digits@1.0.0", index=local), name="first").cid == first.cid
    value = anonymous.get_record(entry.uri).value  # type: ignore[union-attr]
    storage = value["storage"]
    assert (storage["$type"], storage["bucket"], storage["endpoint"]) == (
        "science.alt.dataset.storageS3", bucket, rgw.endpoint,
    )  # fmt: skip
    assert [shard["checksum"]["digest"] for shard in storage["shards"]] == [ref.digest for ref in entry.shards]
    assert "secret" not in str(value).lower()
    assert rgw.access_key not in str(value)


def test_versions_are_counted_by_what_changed(index: atdata.AtmosphereIndex, web: WebServer) -> None:
    """As in a local index."""
    for prefix, count, first, version in [("a", 6, 0, "1.0.0"), ("b", 9, 0, "1.1.0"), ("c", 9, 50, "2.0.0")]:
        assert index.insert_dataset(served(web, prefix, count, first), name="d").version == version
    assert index.insert_dataset(served(web, "d", 9, 50), name="d", tags=["new"]).version == "2.0.1"
    early = index.insert_dataset(served(web, "a2"), name="d", version="1.0.5")
    assert (early.parent, index.get_dataset("d").version) == ("1.0.0", "2.0.1")
    assert [entry.version for entry in index.list_versions("d")] == ["2.0.1", "2.0.0", "1.1.0", "1.0.5", "1.0.0"]
    assert index.diff("d@1.0.0", "d@1.1.0").change == "minor"


# -- what is not published -----------------------------------------------------------------------------------------


def test_places_of_this_machine_stay_here(index: atdata.AtmosphereIndex, alice: Atmosphere, tmp_path: Path) -> None:
    local = atdata.LocalDiskStore(tmp_path / "data")
    urls = local.write_shards(keyed(probes(3)), prefix="a")
    with pytest.raises(EntryFormError, match=r"is a place on this machine, which others cannot read: `atdata cp`"):
        index.insert_dataset(atdata.Dataset[Probe](urls), name="d")
    with pytest.raises(EntryFormError, match="not a folder of this machine"):
        atdata.AtmosphereIndex(alice, store=local).write_samples(probes(3), name="d")
    with pytest.raises(StoreError, match="no store to write to"):
        index.write_samples(probes(3), name="d")
    with pytest.raises(DatasetError, match="in memory"):
        index.insert_dataset(atdata.Dataset.from_samples(probes(3), Probe), name="d")
    assert collections(alice) == {"entry": 0, "label": 0, "schema": 0}


@pytest.mark.parametrize(
    ("url", "endpoint", "said"),
    [
        ("/data/a.tar", None, "is a place on this machine"),
        ("file:///data/a.tar", None, "is a place on this machine"),
        ("gs://bucket/a.tar", None, "name https, s3 and at:// only"),
        ("memory://x/a.tar", None, "name https, s3 and at:// only"),
        ("at://did:plc:abc/science.alt.dataset.pin/x", None, "is no place of blobs"),
        ("http://example.com/a.tar", None, "by plain http"),
        ("https://127.0.0.1/a.tar", None, "is a private address"),
        ("https://[::1]/a.tar", None, "is a private address"),
        ("https://10.1.2.3/a.tar", None, "is a private address"),
        ("https://169.254.169.254/a.tar", None, "is a private address"),
        ("https://localhost/a.tar", None, "is a name of one network only"),
        ("https://nas/a.tar", None, "is a name of one network only"),
        ("https://files.corp/a.tar", None, "is a name of one network only"),
        ("https://minio.internal:9000/a.tar", None, "is a name of one network only"),
        ("https://user:pw@example.com/a.tar", None, "carries a password"),
        ("https://example.com/a.tar?X-Amz-Signature=abc", None, "is signed, or carries a key"),
        ("https://example.com/a.tar?AWSAccessKeyId=x&Signature=y&Expires=1", None, "is signed, or carries a key"),
        ("https://example.com/a.tar?sv=1&sig=abc", None, "is signed, or carries a key"),
        ("https://example.com/a.tar?access_token=abc", None, "is signed, or carries a key"),
        ("https://example.com/a.tar?api_key=abc", None, "is signed, or carries a key"),
        ("s3://bucket/a.tar", "http://s3.example.com", "by plain http"),
        ("s3://bucket/a.tar", "https://10.0.0.7:9000", "is a private address"),
        ("s3://bucket/a.tar", "https://minio:9000", "is a name of one network only"),
    ],
)
def test_what_would_leak_is_refused(url: str, endpoint: str | None, said: str) -> None:
    with pytest.raises(EntryFormError, match=said):
        check_place(Place(url, endpoint), allow_private=False)


@pytest.mark.parametrize(
    "place",
    [
        Place("https://1.1.1.1/a.tar"),
        Place("https://1.1.1.1/a.tar?download=1"),
        Place("s3://bucket/a.tar"),
        Place("s3://bucket/a.tar", "https://1.1.1.1"),
        Place("at://did:plc:abc/blob/bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"),
    ],
)
def test_what_everybody_may_know_is_not(place: Place) -> None:
    check_place(place, allow_private=False)


def test_a_private_network_is_refused_unless_it_is_allowed(
    index: atdata.AtmosphereIndex, alice: Atmosphere, rgw: S3Server, bucket: str, web: WebServer
) -> None:
    ds = served(web, "a")
    s3 = atdata.S3DataStore(rgw.credentials, bucket=bucket)
    alice.allow_private = False
    try:
        with pytest.raises(EntryFormError, match=r"by plain http.*`atdata cp`"):
            index.insert_dataset(ds, name="d")
        with pytest.raises(EntryFormError, match=r"the bucket of 's3://.*by plain http"):
            atdata.AtmosphereIndex(alice, store=s3).write_samples(_Untouchable(), name="d", sample_type=Probe)
    finally:
        alice.allow_private = True
    assert list(s3.list()) == []


class _Untouchable:
    def __iter__(self) -> Iterator[Probe]:
        pytest.fail("the samples were asked for")


def test_details_that_the_network_does_not_take(alice: Atmosphere, store: atdata.PDSBlobStore) -> None:
    """Are told before a sample is asked for."""
    index = atdata.AtmosphereIndex(alice, store=store)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"description": "ä" * 3000}, "entry.description: has 6000 bytes, and at most 5000"),
        ({"tags": [str(n) for n in range(31)]}, "entry.tags: has 31 items, and at most 30"),
        ({"metadata": {"a": "x" * 100_000}}, "entry.metadata: has 100008 bytes, and at most 100000"),
        ({"version": "1.0.0-" + "x" * 60}, "at most 50 characters"),
        ({"name": "../x"}, "cannot name a dataset"),
    ]
    for options, said in wrong:
        with pytest.raises(EntryFormError, match=said):
            index.write_samples(_Untouchable(), sample_type=Probe, **{"name": "d", **options})
    with pytest.raises(EntryFormError, match="names the type of its samples"):
        index.write_samples([atdata.DictSample(a=1)], name="d")
    assert list(store.list()) == []


# -- whose it is ---------------------------------------------------------------------------------------------------


def test_only_the_own_account_is_written_to(login: Login, web: WebServer, alice: Atmosphere) -> None:
    bob = login(pds=0)
    ds = served(web, "a")
    index = atdata.AtmosphereIndex(alice, repo=bob.did)
    for name in (f"@{bob.handle}/digits", f"@{bob.did}/digits"):
        with pytest.raises(EntryFormError, match=rf"is a name of the account .*, and {alice.handle} is logged in"):
            index.insert_dataset(ds, name=name)
        with pytest.raises(EntryFormError, match="writes to the account that is logged in only"):
            index.label(name, "stable")
    assert collections(bob) == {"entry": 0, "label": 0, "schema": 0}
    entry = index.insert_dataset(ds, name=f"@{alice.did}/digits")
    assert entry.uri.startswith(f"at://{alice.did}/")
    theirs = atdata.AtmosphereIndex(bob)
    with pytest.raises(EntryFormError, match="is of another account"):
        theirs.delete_dataset(f"@{alice.handle}/digits")
    assert theirs.get_dataset(f"@{alice.handle}/digits") == entry


def test_nobody_publishes_without_an_account(anonymous: Atmosphere, web: WebServer) -> None:
    index = atdata.AtmosphereIndex(anonymous)
    ds = served(web, "a")
    for act in (
        lambda: index.insert_dataset(ds, name="d"),
        lambda: index.publish_schema(Probe),
        lambda: index.delete_dataset("d"),
        lambda: index.label("d", "x"),
    ):
        with pytest.raises(LoginError, match="nobody is logged in"):
            act()
    with pytest.raises(atdata.AtdataError, match=r"whose datasets\? Name them as @HANDLE/NAME"):
        index.list_datasets()


def test_me_is_whoever_is_logged_in(
    atproto: SharedNetwork, on_network: Any, web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every name, for who publishes and who reads; reading asks for no new session."""
    account, other = atproto.make_account(), atproto.make_account()
    for name, value in {
        "XDG_CONFIG_HOME": str(tmp_path),
        "ATDATA_CREDENTIALS": "file",
        "ATDATA_HANDLE": account.handle,
        "ATDATA_APP_PASSWORD": account.password,
    }.items():
        monkeypatch.setenv(name, value)
    ds = served(web, "a")
    with Atmosphere.login() as client:
        mine = atdata.AtmosphereIndex(client)
        entry = mine.insert_dataset(ds, name="@me/digits")
        assert (entry.name, entry.uri.startswith(f"at://{account.did}/")) == ("digits", True)
        mine.label("@me/digits", "stable")
        assert mine.get_dataset("@me/digits@stable") == entry
    with (
        Atmosphere.login(other.handle, other.password) as client,  # nearer than the environment
        pytest.raises(EntryNotFoundError, match=f"no dataset 'digits' in @{other.handle}"),
    ):
        atdata.AtmosphereIndex(client).get_dataset("@me/digits")
    monkeypatch.setenv("ATDATA_APP_PASSWORD", "not needed to read")
    assert [s.label for s in atdata.load_dataset("@me/digits", Probe)] == list(range(6))
    assert atdata.load_dataset("@me/digits@1.0.0").cid == ds.cid
    assert [e.uri for e in atdata.AtmosphereIndex(repo="@me").list_datasets()] == [entry.uri]
    assert atdata.AtmosphereIndex(repo="@me").get_dataset("digits") == entry
    assert atdata.verify("@me/digits").ok

    for name in ("ATDATA_HANDLE", "ATDATA_APP_PASSWORD"):
        monkeypatch.delenv(name)
    for act in (
        lambda: atdata.load_dataset("@me/digits"),
        lambda: atdata.AtmosphereIndex(repo="@me").list_datasets(),
        lambda: atdata.AtmosphereIndex().get_schema("@me/Probe"),
        lambda: atdata.verify("@me/digits"),
        lambda: atdata.PDSBlobStore(Atmosphere(), repo="@me").record("digits"),
    ):
        with pytest.raises(LoginError, match="nobody is logged in: run atdata login"):
            act()
    for nothing in ("@me", "@me/", "@ME/digits", "@you/digits"):
        with pytest.raises(EntryFormError, match=rf"'{nothing}' names nothing on the network.* or @me/NAME"):
            atdata.load_dataset(nothing)


def test_a_schema_of_another_account_can_be_used(login: Login, alice: Atmosphere, web: WebServer) -> None:
    bob = login(pds=0)
    ref = atdata.AtmosphereIndex(alice).publish_schema(Probe)
    theirs = atdata.AtmosphereIndex(bob)
    ds = served(web, "a")
    for name, said in (("a", ref), ("b", f"@{alice.handle}/Probe@1.0.0"), ("c", f"@{alice.handle}/Probe")):
        assert theirs.insert_dataset(ds, name=name, schema_ref=said).schema_ref == ref
    assert collections(bob)["schema"] == 0
    assert theirs.get_schema(f"@{alice.handle}/Probe@1.0.0") == atdata.Schema.of(Probe)
    assert theirs.decode_schema(ref).__name__ == "Probe"
    with pytest.raises(EntryNotFoundError, match=r"no version 9\.0\.0; there are 1\.0\.0"):
        theirs.get_schema(f"@{alice.handle}/Probe@9.0.0")
    with pytest.raises(EntryNotFoundError, match="there is no schema at"):
        theirs.get_schema(f"at://{alice.did}/{SCHEMA}/none")


# -- names and labels ----------------------------------------------------------------------------------------------


def test_labels_are_names_that_move(index: atdata.AtmosphereIndex, web: WebServer, anonymous: Atmosphere) -> None:
    for n in range(3):
        index.insert_dataset(served(web, f"v{n}", first=n), name="d", version=f"1.{n}.0")
    index.label("d", "stable", version="1.0.0")
    index.label("d", "newest")
    assert index.labels("d") == {"stable": "1.0.0", "newest": "1.2.0"}
    index.label("d", "stable", version="1.1.0")
    assert list(index.labels("d").items()) == [("newest", "1.2.0"), ("stable", "1.1.0")]
    others = atdata.AtmosphereIndex(anonymous)
    handle = index.client.handle
    assert others.get_dataset(f"@{handle}/d@stable").version == "1.1.0"
    assert others.get_dataset(f"@{handle}/d@latest").version == "1.2.0"
    assert others.labels(f"@{handle}/d") == index.labels("d")
    assert [entry.version for entry in others.list_versions(f"@{handle}/d")] == ["1.2.0", "1.1.0", "1.0.0"]
    with pytest.raises(EntryNotFoundError, match=r"9\.0\.0.*1\.2\.0, 1\.1\.0, 1\.0\.0"):
        index.get_dataset("d@9.0.0")
    with pytest.raises(EntryNotFoundError, match=r"'other'; there are newest \(1\.2\.0\), stable \(1\.1\.0\)"):
        index.get_dataset("d@other")
    with pytest.raises(EntryNotFoundError):
        index.label("d", "stable", version="9.0.0")
    for wrong in ("", "latest", "1.0.0", "a b", "x" * 51):
        with pytest.raises(EntryFormError):
            index.label("d", wrong)
    with pytest.raises(EntryExistsError, match="has labels: stable"):
        index.delete_dataset("d@1.1.0")
    index.unlabel("d", "stable")
    with pytest.raises(EntryNotFoundError, match="no label 'stable'"):
        index.unlabel("d", "stable")
    index.delete_dataset("d@1.1.0")
    for vague in ("d@newest", "d@latest", index.get_dataset("d").cid, index.get_dataset("d").uri):
        with pytest.raises(EntryFormError, match=r"d@1\.2\.0"):
            index.delete_dataset(vague)
    index.unlabel("d", "newest")
    index.delete_dataset("d@1.2.0")
    assert index.get_dataset("d").version == "1.0.0"
    index.delete_dataset("d")
    assert collections(index.client) == {"entry": 0, "label": 0, "schema": 1}


def test_what_is_missing_says_what_there_is(
    index: atdata.AtmosphereIndex, web: WebServer, anonymous: Atmosphere
) -> None:
    index.insert_dataset(served(web, "a"), name="handwritten-digits", version="1.2.0")
    others, handle, did = atdata.AtmosphereIndex(anonymous), index.client.handle, index.client.did
    for whose in (handle, did):  # as it was asked for
        with pytest.raises(
            EntryNotFoundError, match=f"no dataset 'handwriten-digits' in @{whose}; did you mean 'handwritten"
        ):
            others.get_dataset(f"@{whose}/handwriten-digits")
    with pytest.raises(EntryNotFoundError, match=r"no version 1\.0\.0; there are 1\.2\.0"):
        others.get_dataset(f"@{handle}/handwritten-digits@1.0.0")
    with pytest.raises(EntryNotFoundError, match="there is no record at"):
        others.get_dataset(f"at://{did}/{ENTRY}/{entry_key('x', '1.0.0')}")
    with pytest.raises(EntryNotFoundError, match="is no dataset: those are"):
        others.get_dataset(str(index.get_dataset("handwritten-digits").schema_ref))
    with pytest.raises(EntryNotFoundError, match="has the content bafyrei"):
        others.get_dataset(f"@{handle}/bafyrei{'a' * 52}")
    for wrong in ("@", "@alice", "@alice/x", f"@{handle}", f"@{handle}/", f"@{handle}/x@1.x", "at://", "at://x/y/z", 7):
        with pytest.raises(EntryFormError):
            others.get_dataset(wrong)  # type: ignore[arg-type]


def test_an_entry_is_found_by_address_content_and_label(index: atdata.AtmosphereIndex, web: WebServer) -> None:
    entry = index.insert_dataset(served(web, "a"), name="d")
    handle, did = index.client.handle, index.client.did
    label = f"at://{did}/{LABEL}/{label_key('d')}"
    for ref in (
        entry.uri,
        entry.uri.replace(str(did), str(handle)),
        label,
        entry.cid,
        f"@{handle}/{entry.cid}",
        f"@{did}/d",
    ):
        assert index.get_dataset(ref) == entry


def test_a_name_in_two_accounts_has_to_be_said_more_closely(
    login: Login, web: WebServer, anonymous: Atmosphere
) -> None:
    ds = served(web, "a")
    clients = [login(), login(pds=1)]
    for client in clients:
        atdata.AtmosphereIndex(client).insert_dataset(ds, name="d")
    both = atdata.AtmosphereIndex(anonymous, repo=[client.did or "" for client in clients])
    with pytest.raises(EntryFormError, match="several accounts have d: say which, at://"):
        both.get_dataset("d")
    assert both.get_dataset(f"@{clients[1].did}/d").uri.startswith(f"at://{clients[1].did}/")


# -- several at once -----------------------------------------------------------------------------------------------


def test_two_writers_of_one_label(
    login: Login, index: atdata.AtmosphereIndex, web: WebServer, monkeypatch: Any
) -> None:
    """The one who comes second is told, and what the first one said stands."""
    for n in range(2):
        index.insert_dataset(served(web, f"v{n}", first=n), name="d", version=f"1.{n}.0")
    alice = index.client
    other = atdata.AtmosphereIndex(alice)
    real, done = alice.latest_commit, []

    def first_the_other() -> str:
        if not done:
            done.append(True)
            other.label("d", "stable", version="1.1.0")
        return real()

    monkeypatch.setattr(alice, "latest_commit", first_the_other)
    with pytest.raises(SwapError, match=r"somebody else has just set the label 'stable' of d"):
        index.label("d", "stable", version="1.0.0")
    assert index.labels("d") == {"stable": "1.1.0"}
    index.label("d", "stable", version="1.0.0")
    assert index.labels("d") == {"stable": "1.0.0"}


@pytest.mark.slow
def test_writers_count_versions_together(index: atdata.AtmosphereIndex, web: WebServer) -> None:
    """Nobody's version is lost, and none is given twice."""
    sets = [served(web, f"p{n}", first=10 * n) for n in range(6)]
    failed: list[BaseException] = []

    def work(mine: list[atdata.Dataset[Probe]]) -> None:
        try:
            for ds in mine:
                atdata.AtmosphereIndex(index.client).insert_dataset(ds, name="d")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(sets[n::3],)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    found = list(index.list_versions("d"))
    assert [entry.version for entry in found] == [f"{n}.0.0" for n in range(6, 0, -1)]
    assert {entry.cid for entry in found} == {ds.cid for ds in sets}
    assert collections(index.client)["schema"] == 1


# -- entries -------------------------------------------------------------------------------------------------------


def test_entries_cross_process_borders(alice: Atmosphere, store: atdata.PDSBlobStore) -> None:
    entry = atdata.AtmosphereIndex(alice, store=store).write_samples(probes(3), name="d", metadata={"a": [1]})
    again = pickle.loads(pickle.dumps(entry))
    assert again == entry
    assert [sample.label for sample in again.dataset(Probe)] == [0, 1, 2]
    ds = pickle.loads(pickle.dumps(entry.dataset(Probe)))
    assert ds[1] == probes(2)[1]


def test_an_entry_that_was_changed_since_it_was_listed(index: atdata.AtmosphereIndex, web: WebServer) -> None:
    index.insert_dataset(served(web, "a"), name="d")
    (listed,) = index.list_datasets()
    uri = AtUri.parse(listed.uri)
    value = index.client.get_record(uri).value  # type: ignore[union-attr]
    index.client.put_record(ENTRY, uri.rkey, {**value, "description": "another"})
    with pytest.raises(EntryNotFoundError, match="was changed since it was listed"):
        listed.dataset()
    (listed,) = index.list_datasets()
    index.delete_dataset("d")
    with pytest.raises(EntryNotFoundError, match="was deleted since it was listed"):
        listed.dataset()


def test_a_class_that_does_not_fit(index: atdata.AtmosphereIndex, web: WebServer) -> None:
    @atdata.packable
    class Other:
        pixels: NDArray[np.float64]
        other: str

    served(web, "a")
    with pytest.raises(SchemaError, match="publish_schema"):
        index.insert_dataset(atdata.Dataset[Other](web.url("a/")), name="d")


def test_an_index_says_what_it_is(index: atdata.AtmosphereIndex, anonymous: Atmosphere) -> None:
    assert repr(index) == f"AtmosphereIndex(Atmosphere({index.client.handle}))"
    assert repr(atdata.AtmosphereIndex(anonymous, repo="@Bob.Example.org")) == (
        "AtmosphereIndex(Atmosphere(anonymous), repo=['bob.example.org'])"
    )
