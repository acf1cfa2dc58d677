"""The names of the network: what is one and what is not, by the rules of the specification."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atdata.atmosphere.syntax import (
    AtUri,
    is_datetime,
    is_did,
    is_handle,
    is_nsid,
    is_rkey,
    normal_handle,
    shown,
    tid_at,
    tid_of,
)
from atdata.errors import AddressError

TID = st.from_regex(r"[2-7a-j][2-7a-z]{12}", fullmatch=True)


@pytest.mark.parametrize(
    "text",
    [
        "did:plc:ewvi7nxzyoun6zhxrhs64oiz",
        "did:web:localhost%3A1234",
        "did:method:val-two",
        "did:m:123",
        "did:method::::val",
        "did:onion:2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid",
    ],
)
def test_dids(text: str) -> None:
    assert is_did(text)


@pytest.mark.parametrize(
    "text",
    [
        "did:METHOD:val",
        "did:m123:val",
        "DID:method:val",
        "did:method:",
        "did:method:val/two",
        "did:method:val:",
        "did:plc:a#b",
        "did:plc:a b",
        "did:method:val\n",
        "",
        "did",
        "at://did:plc:a",
        "did:plc:" + "a" * 2048,
        "did:plc:ü",
    ],
)
def test_what_is_no_did(text: str) -> None:
    assert not is_did(text)


@pytest.mark.parametrize(
    "text",
    ["jay.bsky.social", "8.cn", "name.t--t", "XX.LCS.MIT.EDU", "a.co", "xn--notarealidn.com", "john.test", "john.t-1"],
)
def test_handles(text: str) -> None:
    assert is_handle(text)
    assert normal_handle(f"@{text}") == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "jo@hn.test",
        "💩.test",
        "john..test",
        "xn--bücher-.tld",
        "john.0",
        "cn.8",
        "www.masełkowski.pl.com",
        "org",
        "name.org.",
        "2gzyxa.onion",
        "laptop.local",
        "blah.arpa",
        "127.0.0.1",
        "a.example\n",
        "-john.test",
        "a" * 64 + ".test",
        "",
        "@",
    ],
)
def test_what_is_no_handle(text: str) -> None:
    assert not is_handle(text)
    with pytest.raises(AddressError, match="is no handle: one is a domain name"):
        normal_handle(text)


@pytest.mark.parametrize("text", ["com.example.fooBar", "net.users.bob.ping", "a-0.b-1.c", "a.b.c", "cn.8.lex.stuff"])
def test_collections(text: str) -> None:
    assert is_nsid(text)


@pytest.mark.parametrize(
    "text",
    [
        "com.exa💩ple.thing",
        "com.example",
        "com.example.3",
        "com.example.foo-bar",
        "com.-ex.a",
        "blob",
        "a..b.c",
        "a.b.c\n",
    ],
)
def test_what_is_no_collection(text: str) -> None:
    assert not is_nsid(text)


@pytest.mark.parametrize(
    "text", ["3jui7kd54zh2y", "self", "example.com", "~1.2-3_", "dHJ1ZQ", "pre:fix", "_", "a" * 512]
)
def test_record_keys(text: str) -> None:
    assert is_rkey(text)


@pytest.mark.parametrize(
    "text", ["alpha/beta", ".", "..", "#extra", "@handle", "any space", "any+space", "", "a\n", "é", "a" * 513]
)
def test_what_is_no_record_key(text: str) -> None:
    assert not is_rkey(text)


@pytest.mark.parametrize(
    "text",
    [
        "1985-04-12T23:20:50.123Z",
        "1985-04-12T23:20:50Z",
        "1985-04-12T23:20:50.123456789+01:45",
        "2026-01-02T03:04:05.678901+00:00",
    ],
)
def test_times(text: str) -> None:
    assert is_datetime(text)


@pytest.mark.parametrize(
    "text",
    [
        "1985-04-12",
        "1985-04-12T23:20Z",
        "1985-04-12T23:20:50.Z",
        "1985-04-12T23:20:50-00:00",
        "1985-04-12 23:20:50Z",
        "1985-04-12T23:20:50",
        "1985-04-12t23:20:50Z",
        "1985-00-12T23:20:50Z",
        "1985-04-12T23:99:50Z",
        "0000-01-01T00:00:00Z",
        "1985-04-12T23:20:50+25:00",
        "1985-04-12T23:20:50Z\n",
    ],
)
def test_what_is_no_time(text: str) -> None:
    assert not is_datetime(text)


def test_an_at_uri_of_a_record_is_taken_apart_and_put_together() -> None:
    uri = AtUri.parse("at://Alice.bsky.social/science.alt.dataset.entry/3jui7kd54zh2y")
    assert uri == ("alice.bsky.social", "science.alt.dataset.entry", "3jui7kd54zh2y")
    assert AtUri.parse(str(uri)) == uri


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("did:plc:a/com.example.thing/x", "is no AT URI of a record: one is at://DID/COLLECTION/KEY"),
        ("at://did:plc:a", "is no AT URI of a record"),
        ("at://did:plc:a/com.example.thing", "is no AT URI of a record"),
        ("at://did:plc:a/com.example.thing/x/y", "is no AT URI of a record"),
        ("at://a/com.example.thing/x", "'a' in .* is neither a DID nor a handle"),
        ("at://did:plc:a/blob/bafkrei", "'blob' in .* is no collection, such as com.example.thing"),
        ("at://did:plc:a/com.example.thing/..", r"'\.\.' in .* is no record key"),
        ("at://did:plc:a/com.example.thing/x#y", "'x#y' in .* is no record key"),
    ],
)
def test_what_is_no_at_uri_of_a_record(text: str, message: str) -> None:
    with pytest.raises(AddressError, match=message):
        AtUri.parse(text)


@given(st.text())
def test_no_text_breaks_the_checks(text: str) -> None:
    for check in (is_did, is_handle, is_nsid, is_rkey, is_datetime):
        check(text)
    with pytest.raises(AddressError) as caught:
        AtUri.parse(f"at:/{text}")
    assert str(caught.value).replace("…", "").isascii()


@given(st.text())
def test_the_key_of_a_text_is_a_tid_and_always_the_same(text: str) -> None:
    key = tid_of(text)
    assert len(key) == 13
    assert key[0] in "234567ab"
    assert set(key) <= set("234567" + string.ascii_lowercase)
    assert key == tid_of(text)
    assert is_rkey(key)


@given(st.integers(0, 2**53 - 2), st.integers(0, 1023))
def test_keys_of_times_sort_as_they_were_made(microseconds: int, clock: int) -> None:
    assert tid_at(microseconds, clock) < tid_at(microseconds + 1, clock)


def test_a_strangers_text_is_shown_in_bounds_and_without_control_characters() -> None:
    assert shown("a\x1b[31mb") == r"'a\x1b[31mb'"
    assert len(shown("x" * 1_000_000)) < 210
