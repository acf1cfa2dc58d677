"""DAG-CBOR: what cbrrr reads is read alike, and bytes that are not the one form of a value are refused."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import cbrrr
import pytest
import signed_repositories
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atdata.atmosphere.dagcbor import MAX_DEPTH, MAX_SIZE, decode, from_json, to_json
from atdata.cid import Link, encode

links = st.one_of(st.binary().map(Link.to_block), st.binary().map(Link.to_blob))
keys = st.text(max_size=30)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.sampled_from([n + d for n in (24, 256, 2**16, 2**32, 2**63) for d in (-1, 0, 1)])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
    | links,
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
    max_leaves=25,
)


def theirs(data: bytes) -> Any:
    """What cbrrr reads, with our links."""
    return cbrrr.decode_dag_cbor(data, cid_ctor=Link)


@given(values)
def test_what_was_encoded_is_read_as_cbrrr_reads_it(value: Any) -> None:
    data = encode(value)
    assert data == cbrrr.encode_dag_cbor(with_their_links(value))
    # repr tells 1 from 1.0 and True, and 0.0 from -0.0
    assert repr(decode(data)) == repr(theirs(data))
    assert encode(decode(data)) == data


@given(values)
def test_what_repositories_of_tests_are_made_of_is_no_other_form(value: Any) -> None:
    assert signed_repositories.encode(_with_links(value, signed_repositories.CID)) == encode(value)


def with_their_links(value: Any) -> Any:
    return _with_links(value, cbrrr.CID)


def _with_links(value: Any, kind: Callable[[bytes], Any]) -> Any:
    if isinstance(value, Link):
        return kind(value.raw)
    if isinstance(value, list):
        return [_with_links(item, kind) for item in value]
    if isinstance(value, dict):
        return {key: _with_links(item, kind) for key, item in value.items()}
    return value


def only_canonical(data: bytes) -> None:
    """Whatever is read has these bytes as its one form, and cbrrr reads the same."""
    try:
        value = decode(data)
    except ValueError:
        return
    assert encode(value) == data
    assert repr(value) == repr(theirs(data))


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_any_bytes_are_read_in_canonical_form_or_refused(data: bytes) -> None:
    only_canonical(data)


@given(values, st.data())
def test_changed_bytes_are_read_in_canonical_form_or_refused(value: Any, data: st.DataObject) -> None:
    whole = encode(value)
    at = data.draw(st.integers(0, len(whole) - 1))
    some = data.draw(st.binary(max_size=3))
    only_canonical(whole[:at] + some + whole[at + len(some) :])
    only_canonical(whole[:at] + some + whole[at:])
    only_canonical(whole[:at] + whole[at + 1 :])
    only_canonical(whole[:at])


CID = Link.to_block(b"").raw
CASES = {
    "": "byte 0: the data end where a value should begin",
    # numbers
    "1800": "byte 0: 0 is written in more bytes than it needs",
    "1817": "byte 0: 23 is written in more bytes than it needs",
    "1900ff": "255 is written in more bytes",
    "1a0000ffff": "65535 is written in more bytes",
    "1b00000000ffffffff": "4294967295 is written in more bytes",
    "3800": "byte 0: 0 is written in more bytes than it needs",
    "18": "byte 0: the data end inside a number",
    "1b00000001000000": "byte 0: the data end inside a number",
    "1c": "byte 0: reserved bits (28)",
    "1f": "byte 0: an indefinite length",
    # lengths
    "5f4101ff": "byte 0: an indefinite length, which DAG-CBOR does not have",
    "7f6161ff": "byte 0: an indefinite length",
    "9f01ff": "byte 0: an indefinite length",
    "bf616101ff": "byte 0: an indefinite length",
    "580161": "byte 0: 1 is written in more bytes than it needs",
    "42ff": "byte 0: a string of 2 bytes, of which 1 are there",
    "6261": "byte 0: text of 2 bytes, of which 1 are there",
    "7bffffffffffffffff": "byte 0: text of 18446744073709551615 bytes, of which 0 are there",
    "9bffffffffffffffff": "byte 9: a list of 18446744073709551615 items, where 0 bytes are left",
    "bbffffffffffffffff": "byte 9: a map of 18446744073709551615 pairs, where 0 bytes are left",
    "8201": "byte 1: a list of 2 items, where 1 bytes are left",
    "a26161": "byte 1: a map of 2 pairs, where 2 bytes are left",
    "82816101": "byte 4: the data end where a value should begin",
    # text
    "61ff": "byte 1: text that is not UTF-8",
    "63eda080": "byte 1: text that is not UTF-8",  # half of a surrogate pair
    "62c080": "byte 1: text that is not UTF-8",  # zero in two bytes
    # maps
    "a2616201616102": "byte 4: the key b'a' is not in order, which is by length and then by bytes",
    "a262616101616202": "byte 5: the key b'b' is not in order",
    "a2616101616102": "byte 4: the key b'a' is there twice",
    "a26001600a": "byte 3: the key b'' is there twice",
    "a1016161": "byte 1: a key that is not text",
    "a1416161": "byte 1: a key that is not text",
    "a178016161": "byte 1: 1 is written in more bytes than it needs",
    "a17f6161ff01": "byte 1: an indefinite length",
    "a161ff01": "byte 2: text that is not UTF-8",
    "a1626101": "byte 4: the data end where a value should begin",
    "a16361": "byte 1: a key of 3 bytes, of which 1 are there",
    "a2606060606001": "byte 3: the key b'' is there twice",
    # simple values and floats
    "f7": "byte 0: neither false, true, null nor a float of 64 bits",  # undefined
    "f0": "byte 0: neither",
    "f814": "byte 0: neither",  # false in two bytes
    "f93c00": "byte 0: neither",  # 1.0 in 16 bits
    "fa3f800000": "byte 0: neither",  # 1.0 in 32 bits
    "fb7ff8000000000000": "byte 0: nan is no value of DAG-CBOR",
    "fb7ff0000000000000": "byte 0: inf is no value of DAG-CBOR",
    "fbfff0000000000000": "byte 0: -inf is no value of DAG-CBOR",
    "fb3ff00000000000": "byte 0: a float of 8 bytes, of which 7 are there",
    "ff": "byte 0: neither",
    # tags and links
    "c11a514b67b0": "byte 0: tag 1, where only 42 has a meaning",
    "d82b582500" + CID.hex(): "byte 0: a tag other than 42, or not on a CIDv1 with SHA-256",
    "d9002a582500" + CID.hex(): "byte 0: 42 is written in more bytes than it needs",
    "d82a6161": "byte 0: a tag other than 42, or not on a CIDv1 with SHA-256",
    "d82a582501" + CID.hex(): "byte 0: a tag other than 42, or not on",  # not the identity multibase
    "d82a582500" + CID.hex()[:-2]: "byte 0: the data end inside a link",
    "d82a582500" + "0155" + CID.hex()[4:-2] + "0000": "bytes after the value's end",
    "d82a582500" + "0170" + CID.hex()[4:]: "is no CIDv1 of DAG-CBOR or plain bytes with SHA-256",
    "d82a582500" + "01710020" + CID.hex()[8:]: "is no CIDv1",  # the identity "hash"
    "d82a5823001220" + CID.hex()[8:]: "a tag other than 42, or not on a CIDv1",  # CIDv0
    # more than one value
    "0000": "byte 1: 1 bytes after the value's end",
    "a0a0": "byte 1: 1 bytes after the value's end",
}


@pytest.mark.parametrize("data", CASES, ids=[case or "nothing" for case in CASES])
def test_what_is_no_canonical_form_is_refused_with_its_place(data: str) -> None:
    with pytest.raises(ValueError, match="byte ") as caught:
        decode(bytes.fromhex(data))
    assert CASES[data] in str(caught.value)


def test_depth_is_bounded() -> None:
    for head in ("81", "a160"):
        deep = bytes.fromhex(head) * MAX_DEPTH + b"\xf6"
        assert encode(decode(deep)) == deep
        with pytest.raises(ValueError, match=r"byte \d+: more than 100 maps and lists inside each other"):
            decode(bytes.fromhex(head) + deep)
        with pytest.raises(ValueError, match="more than 100 maps and lists"):
            decode(bytes.fromhex(head) * 400_000)


def test_size_is_bounded() -> None:
    largest = encode(bytes(MAX_SIZE - 5))
    assert decode(largest) == bytes(MAX_SIZE - 5)
    with pytest.raises(ValueError, match="1048577 bytes, where at most 1048576 are read"):
        decode(encode(bytes(MAX_SIZE - 4)))


@pytest.mark.parametrize("item", ["f6", "80", "a0", "60", "816a", "a160"])
def test_memory_is_bounded_by_the_bytes_that_are_there(item: str) -> None:
    """Not by lengths that are claimed, at any depth."""
    one = bytes.fromhex(item)
    size = 1 << 14
    bombs = [
        b"\x99" + struct.pack(">H", size) + one * size,
        b"\x9b" + bytes([255] * 8) + one,
        b"\x81" * 90 + b"\x9a\x7f\xff\xff\xff" + one,
        b"\x82\x99\x40\x00" * 90 + one * size,
        b"\xbb" + bytes([255] * 8) + one * 100,
    ]
    tracemalloc.start()
    try:
        for bomb in bombs:
            with contextlib.suppress(ValueError):
                decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(one * size)
    finally:
        tracemalloc.stop()


# -- as JSON ---------------------------------------------------------------------------------------------------------


def json_of(value: Any) -> Any:
    """A value without floats, which the AT Protocol's JSON has not, nor keys that mean something there."""
    if isinstance(value, float):
        return None
    if isinstance(value, list):
        return [json_of(item) for item in value]
    if isinstance(value, dict):
        return {key: json_of(item) for key, item in value.items()}
    return value


@given(values.map(json_of))
@example({"$type": "x", "a": [b"", b"\x00", b"\x00\x01", b"\x00\x01\x02"], "l": Link.to_blob(b"x")})
def test_json_is_as_cbrrr_writes_it_and_leads_back(value: Any) -> None:
    plain = to_json(value)
    assert plain == cbrrr.decode_dag_cbor(encode(value), atjson_mode=True)
    assert encode(from_json(plain)) == encode(value)


def test_bytes_in_json_may_be_padded() -> None:
    assert from_json({"b": {"$bytes": "AA=="}}) == from_json({"b": {"$bytes": "AA"}}) == {"b": b"\0"}


def test_objects_that_only_look_like_links_stay_objects() -> None:
    plain = {"$link": "x", "more": 1}
    assert from_json(plain) == plain


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"$link": "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"}, "is no CIDv1 of DAG-CBOR or plain bytes"),
        ({"a": [{"$link": 5}]}, "int is no CID"),
        ({"$bytes": "AA-_"}, "has bytes that are not base64"),
        ({"$bytes": "A"}, "has bytes that are not base64"),
        ({"$bytes": [1]}, "is no bytes"),
    ],
)
def test_malformed_links_and_bytes_in_json_are_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(value)
