"""Records of datasets: what is written passes its lexicon, and every form of the wild is read or refused by name."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import atdata
from atdata.atmosphere.datamodel import bytes_value
from atdata.atmosphere.lexicon import check
from atdata.atmosphere.records import (
    ENTRY,
    LABEL,
    LENS,
    SCHEMA,
    Commit,
    Entry,
    Label,
    ManifestBlobs,
    entry_key,
    label_key,
    lens_of,
    schema_of,
)
from atdata.atmosphere.storage import (
    Blob,
    Checksum,
    Folder,
    Storage,
    StorageBlobs,
    StorageCommit,
    StorageExternal,
    StorageHttp,
    StorageS3,
    storage_of,
)
from atdata.atmosphere.syntax import AtUri
from atdata.cid import Link, generate_cid
from atdata.errors import RecordError, SchemaError

TIME = "2026-01-02T03:04:05.678901+00:00"
SCHEMA_URI = f"at://did:plc:abc/{SCHEMA}/bafy"
SHA256 = "ab" * 32
CID = str(Link.to_sha256(SHA256))
BLOB = {"$type": "blob", "ref": {"$link": CID}, "mimeType": "application/x-tar", "size": 10240}
HTTP = StorageHttp((("https://example.org/a.tar", Checksum("sha256", SHA256)),))


def wild(**changes: Any) -> dict[str, Any]:
    """An entry as another implementation writes it."""
    value: dict[str, Any] = {
        "$type": ENTRY,
        "name": "digits",
        "schemaRef": SCHEMA_URI,
        "storage": {
            "$type": "science.alt.dataset.storageHttp",
            "shards": [{"url": "https://example.org/a.tar", "checksum": {"algorithm": "none", "digest": ""}}],
        },
        "createdAt": TIME,
        "tags": [],
        **changes,
    }
    return {name: item for name, item in value.items() if item is not ...}


# -- what is written ---------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=50)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=100)
SHAS = st.binary(min_size=32, max_size=32).map(bytes.hex)
SUMS = st.none() | SHAS.map(lambda digest: Checksum("sha256", digest))
BLOBS = st.builds(
    Blob, SHAS.map(lambda digest: str(Link.to_sha256(digest))), st.just("application/x-tar"), st.integers(0, 10**6)
)
HEADERS = BLOBS.map(lambda blob: blob._replace(mime="application/json"))
FEW = {"min_size": 1, "max_size": 4}
STORAGES: st.SearchStrategy[Storage] = st.one_of(
    st.builds(StorageHttp, st.lists(st.tuples(NAMES.map("https://example.org/{}".format), SUMS), **FEW).map(tuple)),
    st.builds(
        StorageS3,
        st.just("my-bucket"),
        st.lists(st.tuples(NAMES, SUMS), **FEW).map(tuple),
        st.none() | st.just("eu-central-1"),
        st.none() | st.just("https://s3.example.org"),
    ),
    st.builds(
        StorageBlobs,
        st.lists(BLOBS.map(lambda blob: (blob, Checksum("sha256", blob.sha256))), **FEW).map(tuple),
    ),
    st.builds(
        StorageCommit,
        st.lists(
            st.builds(Folder, NAMES.map("s3://bucket/{}/".format), st.integers(1, 99), st.none(), st.none(), st.none()),
            **FEW,
        ).map(tuple),
    ),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
COMMITS = st.builds(
    Commit,
    st.just("1.2.0"),
    st.just(generate_cid({})),
    SHAS,
    st.none() | st.just("1.0.0"),
    st.none() | st.just("Digit@1.0.0"),
    st.binary(max_size=200),
)
ENTRIES = st.builds(
    Entry,
    NAMES,
    st.just(SCHEMA_URI),
    STORAGES,
    st.just(TIME),
    description=st.none() | TEXTS,
    tags=st.lists(NAMES, max_size=3).map(tuple),
    license=st.none() | NAMES,
    metadata=st.dictionaries(TEXTS, VALUES, max_size=3),
    samples=st.none() | st.integers(0, 2**53 - 1),
    size=st.none() | st.integers(0, 2**53 - 1),
    shards=st.none() | st.integers(1, 2**53 - 1),
    commit=st.none() | COMMITS,
    manifests=st.lists(st.builds(ManifestBlobs, HEADERS, st.none()), max_size=2).map(tuple),
)


@given(ENTRIES)
def test_an_entry_comes_back(entry: Entry) -> None:
    value = entry.to_value()
    check(ENTRY, value)
    assert Entry.of(value) == entry
    # Servers sort maps, and leave out padding.
    assert Entry.of(msgspec.json.decode(msgspec.json.encode(value, order="sorted"))) == entry


@given(ENTRIES, st.data())
def test_a_damaged_entry_is_read_or_refused(entry: Entry, data: st.DataObject) -> None:
    """Whatever is in it: there is an entry that can be written again, or an error of one kind."""
    value: Any = copy.deepcopy(entry.to_value())
    at = value
    for _ in range(data.draw(st.integers(0, 5))):
        if isinstance(at, dict) and at:
            key: Any = data.draw(st.sampled_from(sorted(at)))
        elif isinstance(at, list) and at:
            key = data.draw(st.integers(0, len(at) - 1))
        else:
            break
        if data.draw(st.booleans()):
            at[key] = data.draw(st.none() | st.integers() | TEXTS | st.just([]) | st.just({}) | st.floats())
            break
        at = at[key]
    field: str | None = "entry"
    try:
        Entry.of(value)
    except RecordError as error:
        field = error.field
    assert field is not None
    assert field.startswith(("entry", "storageCommit"))


def test_a_label_comes_back() -> None:
    label = Label("digits", AtUri("did:plc:abc", ENTRY, "3jui7kd54zh2y"), TIME, "1.0.0", "the first")
    assert Label.of(label.to_value()) == label
    assert Label.of({**label.to_value(), "version": None}).version is None
    with pytest.raises(RecordError, match=r"label.datasetUri: 'at://did:plc:abc' is no address of an entry"):
        Label.of({**label.to_value(), "datasetUri": "at://did:plc:abc"})
    with pytest.raises(RecordError, match=r"label.version: has 51 bytes, and at most 50 are allowed"):
        Label("digits", label.dataset, TIME, "x" * 51).to_value()


def test_what_is_too_long_is_told_before_it_is_written() -> None:
    for wrong, said in [
        ({"name": "x" * 201}, "entry.name: has 201 bytes, and at most 200 are allowed"),
        ({"description": "ä" * 2501}, "entry.description: has 5002 bytes"),
        ({"tags": tuple(map(str, range(31)))}, "entry.tags: has 31 items"),
        ({"tags": ("x" * 151,)}, r"entry.tags\[0\]: has 151 bytes"),
        ({"metadata": {"a": "x" * 100_000}}, "entry.metadata: has 100008 bytes, and at most 100000"),
    ]:
        entry = Entry(**{"name": "d", "schema_ref": SCHEMA_URI, "storage": HTTP, "created_at": TIME} | wrong)  # type: ignore[arg-type]
        with pytest.raises(RecordError, match=said):
            entry.to_value()


def test_keys_are_always_the_same() -> None:
    """And those of one dataset are neighbours, which a listing then has together."""
    keys = {entry_key("digits", f"1.{n}.0") for n in range(1000)}
    assert len(keys) == 1000
    assert len({key[:6] for key in keys}) == 1
    assert all(len(key) == 13 and key[0] in "234567abcdefghij" for key in keys)
    assert entry_key("letters", "1.0.0")[:6] not in {key[:6] for key in keys}
    assert label_key("digits") not in keys
    assert label_key("digits", "1.0.0") == entry_key("digits", "1.0.0")
    assert sorted(keys) == sorted(keys, key=lambda key: ["234567abcdefghijklmnopqrstuvwxyz".index(c) for c in key])


# -- what is read ------------------------------------------------------------------------------------------------


def test_metadata_has_three_forms() -> None:
    packed = msgspec.msgpack.encode({"k": 1, "share": 0.5})
    assert Entry.of(wild(metadata={"$bytes": "gaFrAQ=="})).metadata == {"k": 1}
    assert Entry.of(wild(metadata=bytes_value(packed))).metadata == {"k": 1, "share": 0.5}
    assert Entry.of(wild(metadata=packed)).metadata == {"k": 1, "share": 0.5}
    known = {
        "sourceUri": "https://example.org",
        "createdBy": "me",
        "processingSteps": ["a", "b"],
        "split": "train",
        "custom": {"model": "x", "split": "test", "created_by": "them"},
        "other": 7,
    }
    assert Entry.of(wild(metadata=known)).metadata == {
        "source_uri": "https://example.org",
        "created_by": "me",
        "processing_steps": ["a", "b"],
        "split": "train",
        "model": "x",
        "other": 7,
    }
    for nothing in (..., None, {}):
        assert Entry.of(wild(metadata=nothing)).metadata == {}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (b"\xc1", "is no msgpack"),
        (b"\x93\x01\x02\x03", "is msgpack, but no map"),
        (b"\xdf\xff\xff\xff\xff", "is no msgpack"),
        (b"\x81\xa1k" + b"\x91" * 40 + b"\x01", "nested more than 32 deep"),
        (b"\x81\xa1k" + b"\x91" * 90_000 + b"\x01", "nested more than 32 deep|is no msgpack"),
        (msgspec.msgpack.encode({"k": msgspec.msgpack.Ext(7, b"x")}), "has a value of the type Ext"),
        (msgspec.msgpack.encode({"k": "x" * 100_001}), "has 100009 bytes"),
        ({"a": 0.5}, "is a float"),
        ([1], "is no bytes"),
    ],
    ids=range(9),
)
def test_metadata_that_is_none(metadata: Any, said: str) -> None:
    value = bytes_value(metadata) if isinstance(metadata, bytes) else metadata
    with pytest.raises(RecordError, match=f"entry.metadata.*({said})"):
        Entry.of(wild(metadata=value))


def test_values_of_metadata_become_json() -> None:
    packed = msgspec.msgpack.encode({"a": b"\x00", "b": {1: [True]}})
    assert Entry.of(wild(metadata=bytes_value(packed))).metadata == {"a": {"$bytes": "AA"}, "b": {"1": [True]}}


def test_what_may_be_missing() -> None:
    bare = Entry.of(wild(**{"$type": ...}, tags=..., metadata=...))
    assert (bare.tags, bare.metadata, bare.description, bare.samples, bare.commit) == ((), {}, None, None, None)
    nulls = Entry.of(wild(tags=None, description=None, license=None, size=None, manifests=None, commit=None))
    assert nulls == bare
    assert (
        Entry.of(wild(schemaRef="local://schemas/digits.Digit@1.0.0")).schema_ref
        == "local://schemas/digits.Digit@1.0.0"
    )
    assert Entry.of(wild(size={"samples": 7})).samples == 7
    assert Entry.of(wild(contentMetadata={"a": {"b": 1}}, other=[1])) == bare


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"$type": LABEL}, r"entry.\$type: is 'science.alt.dataset.label'"),
        ({"name": ...}, "entry.name: is missing"),
        ({"name": ""}, "entry.name: '' is no name that can be shown"),
        ({"name": "a\x1b[2Jb"}, r"entry.name: 'a\\x1b\[2Jb' is no name that can be shown"),
        ({"name": "x" * 201}, "entry.name: has 201 bytes"),
        ({"createdAt": "yesterday"}, "entry.createdAt: 'yesterday' is no datetime"),
        ({"schemaRef": ...}, "entry.schemaRef: is no address of a schema"),
        ({"schemaRef": 7}, "entry.schemaRef: is no address of a schema"),
        ({"schemaRef": "at://a\nb"}, "entry.schemaRef: is no address of a schema"),
        ({"size": {"samples": -1}}, "entry.size.samples: is -1"),
        ({"size": {"samples": 1.0}}, "entry.size.samples: is a float"),
        ({"tags": ["x"] * 31}, "entry.tags: has 31 items"),
        ({"tags": "images"}, "entry.tags: is text, and a list"),
        ({"storage": ...}, "entry.storage: is no object"),
        ({"manifests": {}}, "entry.manifests: is no list"),
        ({"manifests": [{"header": CID}]}, r"entry.manifests\[0\].header: is no blob"),
        ({"commit": {}}, "entry.commit.version: is missing"),
        ({"x": "y" * (3 << 20)}, "entry: has more than 2097152 bytes"),
    ],
    ids=range(18),
)  # fmt: skip
def test_an_entry_that_is_none(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        Entry.of(wild(**changes))
    with pytest.raises(RecordError, match="an object is asked for"):
        Entry.of([wild()])


def test_a_commit_has_its_record_in_one_place() -> None:
    value = Commit("1.0.0", generate_cid({}), SHA256, record=b"{}").to_value()
    assert Commit.of(value, "commit").record == b"{}"
    blobs = {**value, "recordBlobs": [BLOB]}
    with pytest.raises(RecordError, match="either here or in blobs"):
        Commit.of(blobs, "commit")
    del blobs["record"]
    assert [blob.sha256 for blob in Commit.of(blobs, "commit").blobs] == [SHA256]
    for wrong, said in [
        ({"version": "1"}, "entry.commit.version: '1' is not of the form"),
        ({"sha256": "AB" * 32}, "entry.commit.sha256"),
        ({"cid": "x"}, "entry.commit.cid: 'x' is no cid"),
        ({"record": bytes_value(b"x" * 40_001)}, "entry.commit.record: has 40001 bytes"),
    ]:
        with pytest.raises(RecordError, match=said):
            Entry.of(wild(commit={**value, **wrong}))


# -- storage -----------------------------------------------------------------------------------------------------


def test_blobs_are_bare_or_wrapped() -> None:
    wanted = (Blob(CID, "application/x-tar", 10240), None)
    wrapped = {"$type": "science.alt.dataset.storageBlobs", "blobs": [{"blob": BLOB}]}
    assert storage_of(wrapped) == StorageBlobs((wanted,))
    assert storage_of({**wrapped, "blobs": [BLOB]}) == StorageBlobs((wanted,))
    assert storage_of({"blobs": [BLOB]}) == StorageBlobs((wanted,))
    # The kind is the server's, or none at all.
    any_kind = storage_of({"blobs": [{"blob": {**BLOB, "mimeType": "*/*"}}]})
    assert any_kind == StorageBlobs(((Blob(CID, "*/*", 10240), None),))
    old = storage_of({"blobs": [{"cid": CID, "mimeType": "application/x-tar"}]})
    assert old == StorageBlobs(((Blob(CID, "application/x-tar", None), None),))
    digest = {"algorithm": "sha256", "digest": SHA256.upper()}
    checked = storage_of({"blobs": [{"blob": BLOB, "checksum": digest}]})
    assert checked == StorageBlobs(((wanted[0], Checksum("sha256", SHA256)),))


@pytest.mark.parametrize(
    ("checksum", "found"),
    [
        (..., None),
        (None, None),
        ({"algorithm": "none", "digest": ""}, None),
        ({"algorithm": "", "digest": ""}, None),
        ({"algorithm": "sha256", "digest": SHA256}, Checksum("sha256", SHA256)),
        ({"algorithm": "SHA-256", "digest": SHA256.upper()}, Checksum("sha256", SHA256)),
        ({"algorithm": "blake3", "digest": "00ff"}, Checksum("blake3", "00ff")),
    ],
)
def test_digests_and_placeholders(checksum: Any, found: Checksum | None) -> None:
    shard = {"url": "https://example.org/a.tar"} | ({} if checksum is ... else {"checksum": checksum})
    storage = storage_of({"$type": "science.alt.dataset.storageHttp", "shards": [shard]})
    assert storage == StorageHttp((("https://example.org/a.tar", found),))
    key = {"key": "a.tar"} | ({} if checksum is ... else {"checksum": checksum})
    assert storage_of({"bucket": "my-bucket", "shards": [key]}) == StorageS3("my-bucket", (("a.tar", found),))


def test_the_kind_of_storage_may_be_missing() -> None:
    assert storage_of({"urls": ["https://example.org/{0..9}.tar"]}) == StorageExternal(
        ("https://example.org/{0..9}.tar",)
    )
    assert storage_of({"shards": [{"url": "s3://bucket/a.tar"}]}) == StorageHttp((("s3://bucket/a.tar", None),))
    assert storage_of({"folders": [{"url": "s3://bucket/a/", "shards": 3}]}) == StorageCommit(
        (Folder("s3://bucket/a/", 3),)
    )
    place = {"region": "", "endpoint": "http://localhost:8000/"}
    assert storage_of({"bucket": "bucket", "shards": [{"key": "a"}], **place}) == StorageS3(
        "bucket", (("a", None),), None, "http://localhost:8000"
    )


def hashed(algorithm: str, digest: str | None) -> dict[str, Any]:
    return {"shards": [{"url": "https://a", "checksum": {"algorithm": algorithm, "digest": digest}}]}


def at(endpoint: str, **more: str) -> dict[str, Any]:
    return {"bucket": "bb", "shards": [{"key": "a"}], "endpoint": endpoint, **more}


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ({}, "storage: is of the kind None, and this atdata knows storageHttp"),
        ({"$type": "com.example.tape"}, "is of the kind 'com.example.tape'"),
        ({"$type": 7, "urls": []}, "is of the kind 7"),
        ([], "storage: is no object"),
        ({"urls": []}, "storage.urls: is no list of URLs"),
        ({"urls": [7]}, r"storage.urls\[0\]: is no text"),
        ({"urls": ["x" * 1001]}, r"storage.urls\[0\]: is no text of 1 to 1000 bytes"),
        ({"urls": ["https://a\r\nb"]}, "has control characters"),
        ({"shards": []}, "storage.shards: is no list with anything in it"),
        ({"shards": ["https://example.org"]}, r"storage.shards\[0\]: is no object"),
        ({"shards": [{}]}, r"storage.shards\[0\].url: is missing"),
        ({"shards": [{"url": "https://a", "checksum": 7}]}, r"shards\[0\].checksum: is no object"),
        (hashed("sha256", None), "is no digest"),
        (hashed("sha256", "ab"), "is no SHA-256"),
        (hashed("none", "ab"), "is no digest by 'none'"),
        (hashed("md5", "xy"), "'xy' is no digest by 'md5'"),
        ({"bucket": "../x", "shards": [{"key": "a"}]}, "storage.bucket: '../x' is no name of a bucket"),
        ({"bucket": "bb", "shards": [{"key": ""}]}, r"storage.shards\[0\].key: is no text"),
        (at("file:///etc"), "storage.endpoint: 'file:///etc' is no endpoint"),
        (at("https://me:pw@host"), "without path, name or password"),
        (at("https://host/path"), "is no endpoint"),
        (at("https://host", region="a/b"), "storage.region: 'a/b' is no region"),
        ({"blobs": [{"blob": {**BLOB, "size": -1}}]}, r"storage.blobs\[0\].blob: is a blob without a size"),
        ({"blobs": [{"blob": CID}]}, "is no blob"),
        ({"blobs": [{"blob": BLOB, "checksum": Checksum("sha256", "00" * 32).to_value()}]}, "another SHA-256"),
        ({"folders": [{"url": "s3://b/a", "shards": 1}]}, "is no folder"),
        ({"folders": [{"url": "s3://b/a/", "shards": 0}]}, "is 0, not from 1"),
        ({"folders": [{"url": "s3://b/a/", "shards": 2, "file": "x"}]}, "one file for several shards"),
    ],
    ids=range(28),
)  # fmt: skip
def test_a_storage_that_is_none(storage: Any, said: str) -> None:
    with pytest.raises(RecordError, match=said):
        storage_of(storage)


# -- schemas and lenses ------------------------------------------------------------------------------------------


@atdata.packable
class Digit:
    image: bytes
    label: int


def test_schemas_of_all_forms_are_read() -> None:
    value = atdata.Schema.of(Digit).to_network_record(TIME)
    check(SCHEMA, value)
    inner = value["schema"]
    forms = [
        value,
        {name: item for name, item in value.items() if name not in ("$type", "schemaType")},
        {**value, "schemaType": "science.alt.dataset.schemaType#jsonSchema"},
        {**value, "schema": {"$type": inner["$type"], "draft": "draft-07", "content": inner}},
        {**value, "schema": {"schemaBody": inner}},
        {**value, "schema": {name: item for name, item in inner.items() if name != "propertyOrder"}},
    ]
    for form in forms:
        schema = atdata.Schema.from_record(schema_of(form))
        assert {field.name for field in schema.fields} == {"image", "label"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schemaType": "avro"}, "schema.schemaType: is 'avro'"),
        ({"schema": "text"}, "schema.schema: is no object"),
        ({"version": "one"}, "schema.version: 'one' is not of the form"),
        ({"name": 7}, "schema.name: is int"),
        ({"$type": ENTRY}, r"schema.\$type"),
    ],
)
def test_a_schema_that_is_none(changes: dict[str, Any], said: str) -> None:
    value = atdata.Schema.of(Digit).to_network_record(TIME)
    with pytest.raises(RecordError, match=said):
        schema_of({**value, **changes})


@pytest.mark.parametrize("name", ["__init__", "a b", "import", "x;y", "_" * 300, "os.system('x')", "{__class__}"])
def test_a_schema_with_hostile_names_makes_no_class(name: str) -> None:
    value = atdata.Schema.of(Digit).to_network_record(TIME)
    inner = {**value["schema"], "properties": {name: {"type": "string"}}}
    with pytest.raises(SchemaError):
        atdata.Schema.from_record(schema_of({**value, "schema": inner}))


def test_lenses_of_the_wild_are_read_and_not_imported() -> None:
    code = {"repository": "https://example.org/x", "commit": "0" * 40, "path": "os:system"}
    value = {
        "name": "shrink",
        "sourceSchema": SCHEMA_URI,
        "targetSchema": SCHEMA_URI,
        "getterCode": code,
        "putterCode": code,
        "language": "python",
        "metadata": {"author": "me"},
        "createdAt": TIME,
    }
    lens = lens_of(value)
    assert (lens.name, lens.source, lens.view, lens.language) == ("shrink", SCHEMA_URI, SCHEMA_URI, "python")
    assert lens.value["$type"] == LENS
    with pytest.raises(RecordError, match=r"lens.getterCode.commit: has 41 bytes"):
        lens_of({**value, "getterCode": {**code, "commit": "0" * 41}})
    with pytest.raises(RecordError, match=r"lens.sourceSchema: 'x' is no at-uri"):
        lens_of({**value, "sourceSchema": "x"})
