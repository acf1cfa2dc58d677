"""Entries that atdata did not write: those of the public implementation, and those of people who mean harm."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.atmosphere import Atmosphere, AtUri
from atdata.atmosphere.records import ENTRY, LABEL, SCHEMA, entry_key
from atdata.cid import Link
from atdata.errors import (
    AtdataError,
    CommitRecordError,
    EntryNotFoundError,
    IntegrityError,
    ProofError,
    RecordError,
    SchemaError,
    UnsafeUrlError,
)
from servers.atproto import SharedNetwork
from servers.web import WebServer

Login = Callable[..., Atmosphere]
TIME = "2026-01-02T03:04:05.678901+00:00"
NONE = {"algorithm": "none", "digest": ""}


@atdata.packable
class Word:
    vector: NDArray[np.float32]
    text: str
    count: int = 0


def words(*texts: str) -> list[Word]:
    return [Word(np.full(3, n, np.float32), text, n) for n, text in enumerate(texts)]


@pytest.fixture
def mallory(login: Login) -> Atmosphere:
    """Who writes what is read here."""
    return login(pds=1)


@pytest.fixture
def reader(atproto: SharedNetwork) -> Iterator[atdata.AtmosphereIndex]:
    """Somebody without an account, to whom this machine's servers are the public internet."""
    with Atmosphere(directory=atproto.directory, allow_private=True, handles_at=atproto.pds[1]) as client:
        yield atdata.AtmosphereIndex(client)


@pytest.fixture
def shards(web: WebServer) -> dict[str, bytes]:
    """Two shards on a web server, as any tool may have written them, by their names."""
    found = {}
    for n, texts in enumerate((["one", "two"], ["three"])):
        folder = web.folder / f"tmp{n}"
        (url,) = atdata.LocalDiskStore(folder).write_shards(
            atdata.Dataset.from_samples(words(*texts), Word), prefix="x", manifest=False
        )
        name = f"data-{n:06d}.tar"
        (web.folder / name).write_bytes(Path(url).read_bytes())
        found[name] = Path(url).read_bytes()
    return found


def schema_record(client: Atmosphere, **changes: Any) -> str:
    """A schema as the public implementation writes it, at a key of time; its address."""
    value = {
        "$type": SCHEMA,
        "name": "Word",
        "version": "1.0.0",
        "schemaType": "jsonSchema",
        "schema": {
            "$type": "science.alt.dataset.schema#jsonSchemaFormat",
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {
                "vector": {"$ref": "https://alt.science/schemas/atdata-ndarray-bytes/1.0.0#/$defs/ndarray"},
                "text": {"type": "string"},
                "count": {"type": "integer"},
            },
            "required": ["vector", "text"],
            "arrayFormatVersions": {"ndarrayBytes": "1.0.0"},
        },
        "createdAt": TIME,
        "atdataSchemaVersion": 1,
        **changes,
    }
    return str(client.put_record(SCHEMA, "3lschema2222a", value).uri)


def entry_record(client: Atmosphere, storage: dict[str, Any], key: str = "3lentry22222a", **changes: Any) -> str:
    value = {
        "$type": ENTRY,
        "name": "words",
        "schemaRef": changes.get("schemaRef") or schema_record(client),
        "storage": storage,
        "tags": [],
        "createdAt": TIME,
        **changes,
    }
    return str(client.put_record(ENTRY, key, {k: v for k, v in value.items() if v is not ...}).uri)


def http(*pairs: Any) -> dict[str, Any]:
    """Storage on web servers: URLs, or URLs with digests."""
    shards = [(pair, NONE) if isinstance(pair, str) else pair for pair in pairs]
    return {
        "$type": "science.alt.dataset.storageHttp",
        "shards": [{"url": url, "checksum": checksum} for url, checksum in shards],
    }


def sha(data: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "digest": hashlib.sha256(data).hexdigest()}


def texts(ds: atdata.Dataset[Any]) -> list[str]:
    return [sample.text for sample in ds]


# -- forms of the wild ---------------------------------------------------------------------------------------------


def test_an_entry_of_the_public_implementation(
    mallory: Atmosphere, reader: atdata.AtmosphereIndex, web: WebServer, shards: dict[str, bytes]
) -> None:
    """With placeholders for digests, metadata as an object, keys of time, and a label that gives the version."""
    uri = entry_record(
        mallory,
        http(*map(web.url, shards)),
        metadata={"sourceUri": "https://example.org", "custom": {"model": "x"}},
        description="some words",
    )
    label = {"$type": LABEL, "name": "words", "datasetUri": uri, "version": "2.1.0", "createdAt": TIME}
    mallory.put_record(LABEL, "3llabel22222a", label)
    mallory.put_record(LABEL, "3llabel22222b", {**label, "version": "nightly"})
    for ref in ("words", "words@2.1.0", "words@nightly"):
        entry = reader.get_dataset(f"@{mallory.handle}/{ref}")
        assert (entry.uri, entry.version, entry.samples) == (uri, "2.1.0", None)
        assert dict(entry.metadata) == {"source_uri": "https://example.org", "model": "x"}
        assert entry.data_urls == [web.url(name) for name in shards]
        assert entry.cid == entry.record_cid
    ds = entry.dataset()
    assert texts(ds) == ["one", "two", "three"]
    assert ds.sample_type.__name__ == "Word"
    assert next(iter(ds)).vector.dtype == np.float32
    # Their schema says less than the class, of which an entry would not promise that it fits; places do not ask.
    assert list(atdata.Dataset[Word](entry.data_urls)) == [*words("one", "two"), *words("three")]
    assert [e.version for e in reader.list_versions(f"@{mallory.handle}/words")] == ["2.1.0"]
    theirs = atdata.AtmosphereIndex(reader.client, repo=mallory.did)
    assert [(e.name, e.version) for e in theirs.list_datasets()] == [("words", "2.1.0")]
    assert [e.name for e in theirs.search("word", schema="Word")] == ["words"]
    assert [e.name for e in theirs.search(schema="Other")] == []
    assert list(theirs.search(schema=entry.schema_ref)) == [entry]


def test_the_newest_of_several_without_versions(
    mallory: Atmosphere, reader: atdata.AtmosphereIndex, web: WebServer, shards: dict[str, bytes]
) -> None:
    for n, key in enumerate(("3lentry22222a", "3lentry22222b", "3lentry22222c")):
        entry_record(
            mallory,
            http(web.url("data-000001.tar")),
            key,
            description=f"nr {n}",
            createdAt=f"2026-01-0{n + 1}T00:00:00Z",
        )
    entry = reader.get_dataset(f"@{mallory.handle}/words")
    assert (entry.description, entry.version) == ("nr 2", "0.0.0")
    theirs = atdata.AtmosphereIndex(reader.client, repo=mallory.did)
    assert [e.description for e in theirs.list_datasets()] == ["nr 2"]
    assert len(list(theirs.list_versions("words"))) == 3
    with pytest.raises(EntryNotFoundError, match=r"has no version 1\.0\.0; there are 0\.0\.0"):
        theirs.get_dataset("words@1.0.0")


@pytest.mark.parametrize("cached", [True, False])
def test_digests_are_checked_where_there_are_any(
    mallory: Atmosphere,
    reader: atdata.AtmosphereIndex,
    web: WebServer,
    shards: dict[str, bytes],
    cached: bool,
    tmp_path: Path,
) -> None:
    """Before a sample is handed out, whatever else is known."""
    pairs = [(web.url(name), sha(data)) for name, data in shards.items()]
    entry_record(mallory, http(*pairs))
    cache = tmp_path / "cache" if cached else None
    assert texts(reader.get_dataset(f"@{mallory.handle}/words").dataset(cache=cache)) == ["one", "two", "three"]
    web.wrong("data-000001.tar", shards["data-000001.tar"].replace(b"three", b"seven"))
    cache = tmp_path / "again" if cached else None
    ds = reader.get_dataset(f"@{mallory.handle}/words").dataset(cache=cache)
    with pytest.raises(IntegrityError, match=r"SHA-256 differs.*data-000001\.tar"):
        texts(ds)
    assert texts(reader.get_dataset(f"@{mallory.handle}/words").dataset(verify="never"))[2] == "seven"


def test_a_digest_that_cannot_be_checked_is_no_excuse(
    mallory: Atmosphere, reader: atdata.AtmosphereIndex, web: WebServer, shards: dict[str, bytes]
) -> None:
    entry_record(mallory, http(*[(web.url(name), {"algorithm": "blake3", "digest": "00"}) for name in shards]))
    entry = reader.get_dataset(f"@{mallory.handle}/words")
    with pytest.raises(RecordError, match=r"are by blake3, which this atdata cannot check; verify='never'"):
        entry.dataset()
    assert texts(entry.dataset(verify="never")) == ["one", "two", "three"]


@pytest.mark.parametrize("bare", [True, False])
def test_blobs_are_checked_by_their_names(
    mallory: Atmosphere, reader: atdata.AtmosphereIndex, shards: dict[str, bytes], bare: bool, tmp_path: Path
) -> None:
    blobs = [mallory.upload_blob(data, len(data), "application/x-tar") for data in shards.values()]
    storage = {
        "$type": "science.alt.dataset.storageBlobs",
        "blobs": blobs if bare else [{"blob": blob} for blob in blobs],
    }
    entry_record(mallory, storage)
    entry = reader.get_dataset(f"@{mallory.handle}/words")
    assert entry.data_urls == [f"at://{mallory.did}/blob/{Link.to_blob(data)}" for data in shards.values()]
    assert [ref.digest for ref in entry.shards] == [sha(data)["digest"] for data in shards.values()]
    assert texts(entry.dataset(cache=tmp_path / "cache")) == ["one", "two", "three"]
    # Somebody takes what is there for their own.
    with atdata.LocalIndex(tmp_path / "index.db") as local:
        assert local.insert_dataset(entry.dataset(cache=tmp_path / "cache"), name="words").samples == 3


def test_urls_with_braces(
    mallory: Atmosphere, reader: atdata.AtmosphereIndex, web: WebServer, shards: dict[str, bytes]
) -> None:
    urls = [web.endpoint + "/data-{000000..000001}.tar"]
    for storage in ({"$type": "science.alt.dataset.storageExternal", "urls": urls}, http(*urls)):
        entry_record(mallory, storage)
        entry = reader.get_dataset(f"@{mallory.handle}/words")
        assert entry.data_urls == [web.url(name) for name in shards]
        assert texts(entry.dataset()) == ["one", "two", "three"]


def test_a_schema_that_is_no_address(
    mallory: Atmosphere, reader: atdata.AtmosphereIndex, web: WebServer, shards: dict[str, bytes]
) -> None:
    entry_record(mallory, http(web.url("data-000001.tar")), schemaRef="local://schemas/words.Word@1.0.0")
    entry = reader.get_dataset(f"@{mallory.handle}/words")
    assert entry.schema is None
    assert [sample["text"] for sample in entry.dataset()] == ["three"]
    assert texts(entry.dataset(Word)) == ["three"]


def test_a_schema_that_is_gone(
    mallory: Atmosphere, reader: atdata.AtmosphereIndex, web: WebServer, shards: dict[str, bytes]
) -> None:
    ref = f"at://{mallory.did}/{SCHEMA}/3lgone222222a"
    entry_record(mallory, http(web.url("data-000001.tar")), schemaRef=ref)
    entry = reader.get_dataset(f"@{mallory.handle}/words")
    assert entry.schema_ref == ref
    with pytest.raises(EntryNotFoundError, match=f"there is no schema at {ref}"):
        entry.dataset()


# -- people who mean harm ------------------------------------------------------------------------------------------


def kind(name: str, **fields: Any) -> dict[str, Any]:
    return {"$type": f"science.alt.dataset.storage{name}", **fields}


def hostile(web: WebServer, marker: Path, secret: Path) -> list[tuple[dict[str, Any], type[Exception], str]]:
    at = web.endpoint
    return [
        (http(f"pipe:touch {marker}"), UnsafeUrlError, "means nothing to anybody but its author"),
        (http(f"pipe://touch {marker}"), UnsafeUrlError, "https, s3 and at:// opened, nothing else"),
        (http(f"file://{secret}"), UnsafeUrlError, "https, s3 and at:// opened, nothing else"),
        (http("file:///etc/passwd"), UnsafeUrlError, "https, s3 and at:// opened, nothing else"),
        (http("/etc/passwd"), UnsafeUrlError, "means nothing to anybody but its author"),
        (http(str(secret)), UnsafeUrlError, "means nothing to anybody but its author"),
        (http("../secret.tar"), UnsafeUrlError, "means nothing to anybody but its author"),
        (http("~/secret.tar"), UnsafeUrlError, "means nothing to anybody but its author"),
        (http("memory://x/a.tar"), UnsafeUrlError, "nothing else"),
        (http("gs://bucket/a.tar"), UnsafeUrlError, "nothing else"),
        (http("ftp://host/a.tar"), UnsafeUrlError, "nothing else"),
        (http("javascript:alert(1)"), UnsafeUrlError, "means nothing"),
        (http("https://user:pw@example.com/a.tar"), UnsafeUrlError, "is not opened"),
        (http("https://example.com\\@127.0.0.1/a.tar"), UnsafeUrlError, "is not opened"),
        (http("https://example.com/../a.tar"), UnsafeUrlError, "dot parts"),
        (http("s3://bucket"), UnsafeUrlError, "it is not s3://BUCKET/KEY"),
        (http("s3://bucket/../a.tar"), RecordError, "is no key of a shard"),
        (http("s3://key:secret@bucket/a.tar"), UnsafeUrlError, "it is not s3://BUCKET/KEY"),
        (http(at + "/{0..99999999999}.tar"), RecordError, "more than 100000 names"),
        (http(*[at + "/{0..99999}.tar"] * 2), RecordError, "more than 100,000 shards"),
        (http((at + "/{0..9}.tar", sha(b""))), RecordError, "means several shards, and has one digest"),
        (http(at + "/{{0..9}.tar"), RecordError, "do not pair"),
        (kind("S3", bucket="b/../c", shards=[{"key": "a"}]), RecordError, "bucket"),
        (kind("S3", bucket="bb", shards=[{"key": "../a"}]), RecordError, "no key"),
        (kind("S3", bucket="bb", endpoint="file:///", shards=[{"key": "a"}]), RecordError, "is no endpoint"),
        (kind("Tape", reel=1), RecordError, "is of the kind"),
        (kind("Commit", folders=[{"url": at + "/", "shards": 1}]), RecordError, "has none"),
        (kind("Blobs", blobs=[]), RecordError, "is no list"),
    ]


def test_what_a_record_may_not_have_opened(
    mallory: Atmosphere, reader: atdata.AtmosphereIndex, web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands, files, places of other kinds: nothing is run or opened, and listings go on."""
    monkeypatch.chdir(tmp_path)
    marker, secret = tmp_path / "marker", tmp_path / "secret.tar"
    secret.write_bytes(b"secret")
    ref = schema_record(mallory)
    cases = hostile(web, marker, secret)
    for n, (storage, _, _) in enumerate(cases):
        entry_record(mallory, storage, entry_key(f"bad{n}", ""), name=f"bad{n}", schemaRef=ref)
    for n, (_, error, said) in enumerate(cases):
        with pytest.raises(error, match=said):
            reader.get_dataset(f"at://{mallory.did}/{ENTRY}/{entry_key(f'bad{n}', '')}").dataset()
    theirs = atdata.AtmosphereIndex(reader.client, repo=mallory.did)
    listed = {entry.name for entry in theirs.list_datasets()}
    assert len(listed) + len(theirs.left_out) == len(cases)
    assert all("storage" in each.why for each in theirs.left_out)
    assert not marker.exists()
    assert web.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/a.tar",
        "https://169.254.169.254/latest/meta-data/a.tar",
        "https://127.0.0.1:{port}/a.tar",
        "http://127.0.0.1:{port}/a.tar",
        "https://localhost:{port}/a.tar",
        "https://[::1]:{port}/a.tar",
        "https://[::ffff:127.0.0.1]:{port}/a.tar",
        "https://0.0.0.0:{port}/a.tar",
        "https://2130706433:{port}/a.tar",
        "https://10.0.0.1/a.tar",
    ],
)
def test_a_record_does_not_lead_into_the_network_of_its_reader(
    mallory: Atmosphere, atproto: SharedNetwork, web: WebServer, shards: dict[str, bytes], url: str
) -> None:
    """Whatever the address is called. (The network of accounts itself is on this machine here, and is allowed.)"""
    entry_record(mallory, http((url.format(port=web.port), sha(b""))))
    with Atmosphere(directory=atproto.directory, allow_private=True, handles_at=atproto.pds[1]) as client:
        entry = atdata.AtmosphereIndex(client).get_dataset(f"@{mallory.did}/words")
        client.allow_private = False
        with pytest.raises(UnsafeUrlError, match=r"plain http|public internet"):
            list(entry.dataset())
    assert web.requests == []


def test_a_bucket_of_a_record_is_not_asked_with_anybodys_keys(
    mallory: Atmosphere, reader: atdata.AtmosphereIndex, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not where the reader's store has a bucket of that name: the record's is at another service."""
    keys = {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_ENDPOINT": "http://127.0.0.1:9",
    }
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    web.answer("my-bucket/a.tar", 403)
    entry_record(
        mallory,
        {
            "$type": "science.alt.dataset.storageS3",
            "bucket": "my-bucket",
            "endpoint": web.endpoint,
            "shards": [{"key": "a.tar", "checksum": NONE}],
        },
    )
    store = atdata.S3DataStore(keys, bucket="my-bucket")
    with pytest.raises(AtdataError, match="none were given"):
        list(reader.get_dataset(f"@{mallory.did}/words").dataset(store=store))
    assert {request.path for request in web.requests} == {"/my-bucket/a.tar"}
    assert not any("Signature" in request.query for request in web.requests)


def test_entries_that_contradict_themselves(
    login: Login, reader: atdata.AtmosphereIndex, web: WebServer, tmp_path: Path
) -> None:
    """What an entry of atdata says twice has to be the same."""
    alice = login(pds=1)
    atdata.LocalDiskStore(web.folder).write_shards(
        atdata.Dataset.from_samples(words("one", "two"), Word), prefix="w", maxcount=1
    )
    entry = atdata.AtmosphereIndex(alice).insert_dataset(atdata.Dataset[Word](web.url("w/")), name="words")
    uri = AtUri.parse(entry.uri)
    good = alice.get_record(uri).value  # type: ignore[union-attr]
    shards = good["storage"]["shards"]
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"storage": {**good["storage"], "shards": shards[:1]}}, RecordError, "1 shards in its storage, and 2"),
        ({"storage": {**good["storage"], "shards": shards[::-1]}}, RecordError, "says of shard 0 that its SHA-256"),
        ({"commit": {**good["commit"], "sha256": "00" * 32}}, CommitRecordError, "not the one of this entry"),
        ({"commit": {**good["commit"], "cid": entry.record_cid}}, CommitRecordError, "of other content than its entry"),
        ({"commit": {**good["commit"], "record": {"$bytes": "e30"}}}, CommitRecordError, "not the one of this entry"),
        ({"commit": {**good["commit"], "version": "1.0"}}, RecordError, "commit.version"),
    ]
    for changes, error, said in wrong:
        alice.put_record(ENTRY, uri.rkey, {**good, **changes})
        with pytest.raises(error, match=said):
            reader.get_dataset(str(uri)).dataset()
    alice.put_record(ENTRY, uri.rkey, good)
    assert texts(reader.get_dataset(f"@{alice.handle}/words").dataset()) == ["one", "two"]


def test_schemas_with_hostile_names_are_no_code(
    mallory: Atmosphere, reader: atdata.AtmosphereIndex, web: WebServer, shards: dict[str, bytes], tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    for n, name in enumerate(
        ("__init__", "__class__", f"x:__import__('os').system('touch {marker}')", "import", "a b", "_" * 300)
    ):
        inner = {
            "$type": "science.alt.dataset.schema#jsonSchemaFormat",
            "type": "object",
            "properties": {name: {"type": "string"}},
        }
        ref = schema_record(mallory, schema=inner)
        with pytest.raises(SchemaError):
            reader.decode_schema(ref)
        entry_record(mallory, http(web.url("data-000000.tar")), schemaRef=ref)
        with pytest.raises(SchemaError):
            reader.get_dataset(f"@{mallory.did}/words").dataset()
        assert n < 6
    ref = schema_record(mallory, name=f"X(); import os; os.system('touch {marker}')")
    with pytest.raises(SchemaError):
        reader.decode_schema(ref)
    assert not marker.exists()
    assert list(atdata.AtmosphereIndex(reader.client, repo=mallory.did).list_schemas()) == []


def test_names_of_strangers_do_no_harm(
    mallory: Atmosphere, reader: atdata.AtmosphereIndex, web: WebServer, shards: dict[str, bytes]
) -> None:
    """They are found by what they are, as long as they can be shown."""
    ref = schema_record(mallory)
    good = ("../../escape", "My words, 2nd edition", "wörter", "a:b", "*", "{0..9}")
    bad = ("a\x1b[2Jb", "line\nbreak", "\u202eslotted", "")
    for n, name in enumerate((*good, *bad)):
        entry_record(
            mallory, http(web.url("data-000001.tar")), f"3lentry22222{'abcdefghijk'[n]}", name=name, schemaRef=ref
        )
    theirs = atdata.AtmosphereIndex(reader.client, repo=mallory.did)
    assert {entry.name for entry in theirs.list_datasets()} == set(good)
    assert len(theirs.left_out) == len(bad)
    assert all(each.why.isprintable() for each in theirs.left_out)
    for name in good:
        assert texts(theirs.get_dataset(f"@{mallory.did}/{name}").dataset()) == ["three"]


def test_a_server_that_changes_a_record_is_found_out(
    mallory: Atmosphere,
    atproto: SharedNetwork,
    web: WebServer,
    shards: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Listings say what the server says; what is loaded is what the account signed."""
    entry_record(mallory, http(web.url("data-000001.tar")), description="true")
    with Atmosphere(directory=atproto.directory, allow_private=True) as client:
        list_records = client.list_records

        def altered(*args: Any, **options: Any) -> Iterator[Any]:
            for record in list_records(*args, **options):
                other = "b" if record.cid[-2] == "a" else "a"  # not the last, of which not all bits count
                yield record._replace(
                    value={**record.value, "description": "false"}, cid=record.cid[:-2] + other + record.cid[-1]
                )

        monkeypatch.setattr(client, "list_records", altered)
        (listed,) = atdata.AtmosphereIndex(client, repo=mallory.did).list_datasets()
        assert listed.description == "false"
        with pytest.raises((EntryNotFoundError, ProofError)):
            listed.dataset()


def test_environment_is_not_part_of_a_record(mallory: Atmosphere, reader: atdata.AtmosphereIndex) -> None:
    entry_record(mallory, http("https://$HOME/a.tar"), description="${HOME} $(id)")
    entry = reader.get_dataset(f"@{mallory.did}/words")
    assert entry.description == "${HOME} $(id)"
    with pytest.raises(AtdataError) as caught:
        list(entry.dataset())
    assert os.environ["HOME"] not in str(caught.value)
