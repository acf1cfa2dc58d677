"""Values of the network, and records against their lexicons: what passes, and what is said of what does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdata.atmosphere.datamodel import bytes_in, bytes_value, check_data
from atdata.atmosphere.lexicon import Lexicons, check, documents
from atdata.cid import Link
from atdata.errors import RecordError

CID = str(Link.to_blob(b"data"))
BLOCK = str(Link.to_block(b"data"))
BLOB = {"$type": "blob", "ref": {"$link": CID}, "mimeType": "application/x-tar", "size": 10}
KINDS = {
    "array", "blob", "boolean", "bytes", "cid-link", "integer", "null", "object", "record", "ref", "string", "token",
    "union", "unknown",
}  # fmt: skip


def one(definition: dict[str, Any], **more: dict[str, Any]) -> Lexicons:
    """Documents with one object `a.b.c`, which has the field `x`."""
    main = {"type": "object", "required": ["x"], "properties": {"x": definition}}
    return Lexicons({"a.b.c": {"lexicon": 1, "id": "a.b.c", "defs": {"main": main, **more}}})


def fails(definition: dict[str, Any], value: Any, **more: dict[str, Any]) -> str:
    """What is said of a field with that value."""
    with pytest.raises(RecordError) as caught:
        one(definition, **more).check("a.b.c", {"x": value})
    return str(caught.value)


def passes(definition: dict[str, Any], value: Any, **more: dict[str, Any]) -> bool:
    one(definition, **more).check("a.b.c", {"x": value})
    return True


# -- the documents of atdata -------------------------------------------------------------------------------------


def parts(definition: Any) -> Any:
    """All definitions in one."""
    if isinstance(definition, dict):
        if isinstance(definition.get("type"), str):
            yield definition
        for inner in definition.values():
            yield from parts(inner)
    elif isinstance(definition, list):
        for inner in definition:
            yield from parts(inner)


def test_documents_are_lexicons_that_refer_to_what_there_is() -> None:
    found = documents()
    assert {nsid.rpartition(".")[2] for nsid in found} == {
        "arrayFormat", "entry", "label", "lens", "pin", "programmingLanguage", "schema", "schemaType", "storageBlobs",
        "storageCommit", "storageExternal", "storageHttp", "storageS3",
    }  # fmt: skip
    known = Lexicons(found)
    for nsid, document in found.items():
        assert document["lexicon"] == 1
        assert document["id"] == nsid
        for definition in document["defs"].values():
            for part in parts(definition):
                assert part["type"] in KINDS
                assert part["type"] != "record" or part["key"] in ("tid", "any")
                refs = part.get("refs", []) + ([part["ref"]] if part["type"] == "ref" else [])
                for ref in refs:
                    assert (nsid + ref if ref.startswith("#") else ref) in known
                for name in part.get("required", ()):
                    assert name in part["properties"]


def test_documents_are_given_anew() -> None:
    documents()["science.alt.dataset.label"].clear()
    assert documents()["science.alt.dataset.label"]["lexicon"] == 1


def test_a_record_says_what_it_is() -> None:
    with pytest.raises(RecordError, match=r"^label.\$type: is 'x', and science.alt.dataset.label is asked for"):
        check("science.alt.dataset.label", {"$type": "x"})
    with pytest.raises(RecordError, match="label: is a list, and an object is asked for"):
        check("science.alt.dataset.label", [])
    with pytest.raises(RecordError, match=r"no lexicon document of 'com\.example\.other'"):
        check("com.example.other", {})


def test_the_path_of_what_is_wrong_is_told() -> None:
    storage = {"bucket": "b", "shards": [{"key": "a", "checksum": {"algorithm": "sha256", "digest": 7}}]}
    with pytest.raises(RecordError) as caught:
        check("science.alt.dataset.storageS3", storage)
    assert caught.value.field == "storageS3.shards[0].checksum.digest"
    assert str(caught.value) == "storageS3.shards[0].checksum.digest: is int, and text is asked for"


def test_fields_that_are_not_known_are_allowed() -> None:
    record = {
        "$type": "science.alt.dataset.label",
        "name": "digits",
        "datasetUri": f"at://did:plc:abc/science.alt.dataset.entry/{'2' * 13}",
        "createdAt": "2026-01-02T03:04:05.678901+00:00",
        "more": {"of": [1, None, {"$bytes": "AAAA"}]},
    }
    check("science.alt.dataset.label", record)
    with pytest.raises(RecordError, match=r"label.more.of\[0\]: is a float"):
        check("science.alt.dataset.label", {**record, "more": {"of": [0.5]}})


def test_fields_can_be_left_to_the_caller() -> None:
    record = {"$type": "science.alt.dataset.label", "name": "d", "createdAt": "2026-01-02T03:04:05Z"}
    with pytest.raises(RecordError, match=r"label.datasetUri: is missing"):
        check("science.alt.dataset.label", record)
    check("science.alt.dataset.label", record, besides=["datasetUri"])
    check("science.alt.dataset.label", {**record, "datasetUri": 7}, besides=["datasetUri"])


# -- kinds of values ---------------------------------------------------------------------------------------------


def test_strings() -> None:
    text = {"type": "string", "minLength": 2, "maxLength": 4, "maxGraphemes": 2}
    assert passes(text, "äb")
    assert "at most 4 are allowed" in fails(text, "äää")  # bytes, not characters
    assert "at least 2 are asked for" in fails(text, "a")
    assert "3 characters, and at most 2" in fails(text, "abc")
    assert "is int, and text is asked for" in fails(text, 7)
    assert passes({"type": "string", "maxGraphemes": 1}, "👩‍👩‍👧‍👦")
    assert passes({"type": "string", "maxGraphemes": 2}, "🇩🇪👍🏽")
    assert passes({"type": "string", "minGraphemes": 2}, "é́a")
    assert "1 characters, and at least 2" in fails({"type": "string", "minGraphemes": 2}, "é́")
    assert "always has to be 'x'" in fails({"type": "string", "const": "x"}, "y")
    assert "allowed are a, b" in fails({"type": "string", "enum": ["a", "b"]}, "c")
    assert passes({"type": "string", "knownValues": ["a"]}, "anything")
    assert "lone surrogate" in fails({"type": "string"}, "\ud800")
    assert passes({"type": "string", "pattern": "^a+$"}, "aa")
    assert "not of the form" in fails({"type": "string", "pattern": "^a+$"}, "aa\n")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("at-identifier", ["did:plc:abc", "alice.example.com"], ["alice", "@alice.example.com"]),
        (
            "at-uri",
            ["at://did:plc:abc", "at://a.example.com/a.b.c", "at://did:web:x.org/a.b.c/self"],
            ["at://", "at://x", "at://did:plc:abc/a.b.c/x/y", "at://did:plc:abc/a.b.c/..", "https://did:plc:abc", "at://did:plc:abc/"],
        ),
        ("cid", [CID, BLOCK], ["bafy", CID.upper(), "Qm" + "a" * 44, CID + "a"]),
        (
            "datetime",
            ["2026-01-02T03:04:05Z", "1985-04-12T23:20:50.123456+02:00"],
            ["2026-01-02", "2026-02-30T00:00:00Z", "2026-01-02T03:04:05", "2026-01-02T03:04:05-00:00"],
        ),
        ("did", ["did:web:example.org"], ["did:plc:", "plc:abc"]),
        ("handle", ["a.example.com"], ["a", "a..com"]),
        ("language", ["de", "zh-Hant", "i-navajo"], ["german", "", "DE_de"]),
        ("nsid", ["a.b.c"], ["a.b", "a b.c.d"]),
        ("record-key", ["self", "3jui7kd54zh2y", "a:b~c"], ["", "..", "a/b", "a@b"]),
        ("tid", ["3jui7kd54zh2y"], ["3jui7kd54zh2", "zjui7kd54zh2y", "3JUI7KD54ZH2Y"]),
        ("uri", ["https://example.org/a?b", "s3://bucket/key", "at://did:plc:abc/blob/x"], ["/a/b", "a b:c", "", "https://[x"]),
    ],
)  # fmt: skip
def test_formats(name: str, good: list[str], bad: list[str]) -> None:
    definition = {"type": "string", "format": name}
    for text in good:
        assert passes(definition, text)
    for text in bad:
        assert f"is no {name}" in fails(definition, text)


def test_a_format_that_is_not_known_lets_nothing_pass() -> None:
    assert "is no shape" in fails({"type": "string", "format": "shape"}, "round")


def test_numbers_and_truth() -> None:
    number = {"type": "integer", "minimum": 1, "maximum": 3}
    assert passes(number, 3)
    assert "is 4, not from 1 to 3" in fails(number, 4)
    assert "is bool, and an integer" in fails(number, True)
    assert "is a float" in fails(number, 2.0)
    assert "53 bits" in fails({"type": "integer"}, 2**53)
    assert passes({"type": "integer"}, -(2**53) + 1)
    assert "not from 1 to ∞" in fails({"type": "integer", "minimum": 1}, 0)
    assert passes({"type": "boolean"}, False)
    assert "true or false is asked for" in fails({"type": "boolean"}, 0)
    assert passes({"type": "null"}, None)
    assert "null is asked for" in fails({"type": "null"}, 0)


def test_bytes_links_and_blobs() -> None:
    some = {"type": "bytes", "minLength": 2, "maxLength": 3}
    assert passes(some, {"$bytes": "AAAA"})
    assert passes(some, {"$bytes": "AAA="})
    assert passes(some, {"$bytes": "AAA"})
    assert "4 bytes, and at most 3" in fails(some, bytes_value(b"1234"))
    assert "1 bytes, and at least 2" in fails(some, bytes_value(b"1"))
    assert "are not base64" in fails(some, {"$bytes": "%%%%"})
    for wrong in ("AAAA", {"$bytes": 7}, {"$bytes": "AAAA", "x": 1}):
        assert "is no bytes" in fails(some, wrong)
    assert passes({"type": "cid-link"}, {"$link": CID})
    for wrong in ({"$link": "x"}, {"$link": CID, "x": 1}, CID, {}):
        assert "is no link" in fails({"type": "cid-link"}, wrong)
    blob = {"type": "blob", "accept": ["application/x-tar", "image/*"], "maxSize": 10}
    assert passes(blob, BLOB)
    assert passes(blob, {**BLOB, "mimeType": "image/png"})
    assert "of the kind text/plain; allowed are application/x-tar, image/*" in fails(
        blob, {**BLOB, "mimeType": "text/plain"}
    )
    assert "of 11 bytes, and at most 10" in fails(blob, {**BLOB, "size": 11})
    assert "without a size" in fails(blob, {**BLOB, "size": -1})
    assert "without a size" in fails(blob, {**BLOB, "size": True})
    assert "without a kind" in fails(blob, {**BLOB, "mimeType": "tar"})
    assert "is that of a record" in fails(blob, {**BLOB, "ref": {"$link": BLOCK}})
    assert "without a link" in fails(blob, {**BLOB, "ref": CID})
    for wrong in ({**BLOB, "$type": "x"}, CID, None, [BLOB]):
        assert "is no blob" in fails(blob, wrong)


def test_lists_and_objects() -> None:
    numbers = {"type": "array", "items": {"type": "integer"}, "minLength": 1, "maxLength": 2}
    assert passes(numbers, [1, 2])
    assert "0 items, and at least 1" in fails(numbers, [])
    assert "3 items, and at most 2" in fails(numbers, [1, 2, 3])
    assert fails(numbers, [1, "2"]) == "c.x[1]: is text, and an integer is asked for"
    inner = {
        "type": "object",
        "required": ["a"],
        "nullable": ["b"],
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
    }
    assert passes(inner, {"a": "1", "b": None})
    assert fails(inner, {"b": "1"}) == "c.x.a: is missing"
    assert fails(inner, {"a": None}) == "c.x.a: is null, and text is asked for"
    assert fails(inner, "a") == "c.x: is text, and an object is asked for"
    assert passes({"type": "unknown"}, {"anything": [1]})
    assert "an object is asked for" in fails({"type": "unknown"}, [1])


def test_references_and_unions() -> None:
    point = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    assert passes({"type": "ref", "ref": "#point"}, {"n": 1}, point=point)
    assert fails({"type": "ref", "ref": "#point"}, {}, point=point) == "c.x.n: is missing"
    opened = {"type": "union", "refs": ["#point"]}
    assert passes(opened, {"$type": "a.b.c#point", "n": 1}, point=point)
    assert passes(opened, {"$type": "another.one.altogether"}, point=point)
    assert fails(opened, {"$type": "a.b.c#point"}, point=point) == "c.x.n: is missing"
    assert "does not say by `$type`" in fails(opened, {"n": 1}, point=point)
    closed = {**opened, "closed": True}
    assert passes(closed, {"$type": "a.b.c#point", "n": 1}, point=point)
    assert "is 'another'; allowed are a.b.c#point" in fails(closed, {"$type": "another"}, point=point)
    assert "no lexicon document of 'a.b.c#gone'" in fails({"type": "ref", "ref": "#gone"}, {})
    circle = {"type": "ref", "ref": "#circle"}
    assert "has the type 'ref', which is not known" in fails(circle, {}, circle=circle)
    assert "has the type 'thing', which is not known" in fails({"type": "thing"}, {})


def test_a_document_has_to_be_one() -> None:
    with pytest.raises(RecordError, match=r"'a\.b\.c' is no lexicon of version 1"):
        Lexicons({"a.b.c": {"lexicon": 2, "id": "a.b.c", "defs": {}}})


# -- the data model ----------------------------------------------------------------------------------------------


def test_depth_and_size_are_bounded() -> None:
    deep: Any = 1
    for _ in range(65):
        deep = [deep]
    with pytest.raises(RecordError, match="nested more than 64 deep"):
        check_data(deep)
    check_data(deep[0])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RecordError, match="nested more than 64 deep"):
        check_data(endless)
    wide: Any = 1
    for _ in range(40):
        wide = [wide] * 100  # 10⁸⁰ values in a few kilobytes
    with pytest.raises(RecordError, match="record: has more than 2097152 bytes"):
        check_data(wide)
    with pytest.raises(RecordError, match="thing: has more than 10 bytes"):
        check_data("x" * 10, "thing", size=10)


def test_what_the_network_does_not_have() -> None:
    for value, said in [
        ({"a": 1.0}, "record.a: is a float"),
        ({"a": (1,)}, "record.a: is of the type tuple"),
        ({"a": b""}, "record.a: is of the type bytes"),
        ({1: 2}, "the key 1 is not text"),
        ({"a": {"$link": "x"}}, "record.a: is no link"),
        ({"a\nb\x1b[2J": 1.0}, r"record.'a\nb\x1b[2J': is a float"),
        ({"k" * 500: 1.0}, "…'"),
    ]:
        with pytest.raises(RecordError) as caught:
            check_data(value)
        assert said in str(caught.value)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(codec="utf-8"))
    | st.binary(max_size=50).map(bytes_value)
)
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="$"), max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=30
)


@given(VALUES)
def test_values_of_the_network_pass(value: Any) -> None:
    check_data(value)
    assert json.loads(json.dumps(value)) == value


@given(st.binary())
def test_bytes_come_back(data: bytes) -> None:
    assert bytes_in(bytes_value(data)) == data
    padded = {"$bytes": bytes_value(data)["$bytes"] + "=" * (-len(bytes_value(data)["$bytes"]) % 4)}
    assert bytes_in(padded) == data
