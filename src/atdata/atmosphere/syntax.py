"""The names of the network: DIDs, handles, collections, record keys, AT URIs, times.

Grammar: https://atproto.com/specs/at-uri-scheme and the specifications beside it (did, handle, nsid, record-key, tid).
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import NamedTuple, Self

from atdata.errors import AddressError

__all__ = [
    "AtUri",
    "is_datetime",
    "is_did",
    "is_handle",
    "is_me",
    "is_nsid",
    "is_rkey",
    "normal_handle",
    "shown",
    "tid_at",
    "tid_of",
]

_DID = re.compile(r"did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]", re.ASCII)
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HANDLE = re.compile(rf"(?:{_LABEL}\.)+[a-zA-Z](?:[a-zA-Z0-9-]{{0,61}}[a-zA-Z0-9])?", re.ASCII)
_NSID = re.compile(
    rf"[a-zA-Z](?:[a-zA-Z0-9-]{{0,61}}[a-zA-Z0-9])?(?:\.{_LABEL})+\.[a-zA-Z][a-zA-Z0-9]{{0,62}}", re.ASCII
)
_RKEY = re.compile(r"[A-Za-z0-9._:~-]{1,512}", re.ASCII)
_DATETIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,20})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
# Names that no handle may have: they are in no public DNS. `.test` is for development.
_NO_HANDLE = frozenset({"alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion"})
_TID_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"


def is_did(text: str) -> bool:
    """Whether `text` is a DID, such as `did:plc:ewvi7nxzyoun6zhxrhs64oiz`.

    Example:
        >>> is_did("did:web:example.org"), is_did("did:plc:"), is_did("alice.example.org")
        (True, False, False)
    """
    return len(text) <= 2048 and _DID.fullmatch(text) is not None


def is_handle(text: str) -> bool:
    """Whether `text` is a handle: a domain name, in whatever case.

    Example:
        >>> is_handle("alice.bsky.social"), is_handle("alice"), is_handle("alice.local")
        (True, False, False)
    """
    return (
        len(text) <= 253 and _HANDLE.fullmatch(text) is not None and text.rpartition(".")[2].lower() not in _NO_HANDLE
    )


def is_me(text: str) -> bool:
    """Whether `text` means the account that is logged in, whichever that is: `@me`. No handle is one word.

    Example:
        >>> is_me("@me"), is_me("me"), is_me("@me.example.org")
        (True, False, False)
    """
    return text == "@me"


def is_nsid(text: str) -> bool:
    """Whether `text` names a collection or method, such as `science.alt.dataset.entry`.

    Example:
        >>> is_nsid("science.alt.dataset.entry"), is_nsid("entry")
        (True, False)
    """
    return len(text) <= 317 and len(text.rpartition(".")[0]) <= 253 and _NSID.fullmatch(text) is not None


def is_rkey(text: str) -> bool:
    """Whether `text` can be a record's key in its collection.

    Example:
        >>> is_rkey("3jui7kd54zh2y"), is_rkey("self"), is_rkey(".."), is_rkey("a/b")
        (True, True, False, False)
    """
    return _RKEY.fullmatch(text) is not None and text not in (".", "..")


def is_datetime(text: str) -> bool:
    """Whether `text` is a time as records have them: RFC 3339, with seconds and a time zone.

    Example:
        >>> is_datetime("2026-01-02T03:04:05.678Z"), is_datetime("2026-01-02"), is_datetime("2026-02-30T00:00:00Z")
        (True, False, False)
    """
    if len(text) > 64 or _DATETIME.fullmatch(text) is None or text.endswith("-00:00") or text.startswith("000"):
        return False
    try:
        datetime.fromisoformat(text[:19])
    except ValueError:
        return False
    return text.endswith("Z") or (int(text[-5:-3]) < 24 and int(text[-2:]) < 60)


def normal_handle(text: str) -> str:
    """The handle in lower case, without the `@` that people write before it.

    Raises:
        AddressError: it is no handle.

    Example:
        >>> normal_handle("@Alice.bsky.social")
        'alice.bsky.social'
    """
    handle = text.removeprefix("@").lower()
    if not is_handle(handle):
        raise AddressError(f"{shown(text)} is no handle: one is a domain name, such as alice.example.org")
    return handle


def shown(text: object, most: int = 200) -> str:
    """A stranger's text for a message: quoted, of bounded length, without control characters."""
    quoted = ascii(text)
    return quoted if len(quoted) <= most else quoted[:most] + "…" + quoted[0]


class AtUri(NamedTuple):
    """The address of a record: `at://authority/collection/rkey`.

    Attributes:
        authority: a DID, or a handle in lower case.
        collection: the NSID of the kind of record.
        rkey: its key in the collection.

    Example:
        >>> uri = AtUri.parse("at://did:plc:abc/science.alt.dataset.entry/3jui7kd54zh2y")
        >>> uri.rkey, str(uri)
        ('3jui7kd54zh2y', 'at://did:plc:abc/science.alt.dataset.entry/3jui7kd54zh2y')
    """

    authority: str
    collection: str
    rkey: str

    def __str__(self) -> str:
        return f"at://{self.authority}/{self.collection}/{self.rkey}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take an AT URI of a record apart.

        Raises:
            AddressError: it is none, or not one of a record.
        """
        parts = text.removeprefix("at://").split("/")
        if not text.startswith("at://") or len(parts) != 3:
            raise AddressError(f"{shown(text)} is no AT URI of a record: one is at://DID/COLLECTION/KEY")
        authority, collection, rkey = parts
        if not is_did(authority):
            if not is_handle(authority):
                raise AddressError(f"{shown(authority)} in {shown(text)} is neither a DID nor a handle")
            authority = authority.lower()
        if not is_nsid(collection):
            raise AddressError(f"{shown(collection)} in {shown(text)} is no collection, such as com.example.thing")
        if not is_rkey(rkey):
            raise AddressError(f"{shown(rkey)} in {shown(text)} is no record key")
        return cls(authority, collection, rkey)


def tid_of(text: str) -> str:
    """A record key in the form of a TID, the same for the same text: 63 bits of its SHA-256.

    Records that are found by what they are of (a name, a version) have such keys where their lexicon asks for a TID,
    so that writing one again replaces it. Two texts meet with a chance of 2⁻⁶³.

    Example:
        >>> tid_of("digits@1.0.0")
        'bjqj5as6ebp26'
    """
    return _tid(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)


def tid_at(microseconds: int, clock: int) -> str:
    """The TID of a time: keys that sort as they were made.

    Args:
        microseconds: since the epoch.
        clock: 0 to 1023; who makes many at a time counts on with the microseconds, not with this.

    Example:
        >>> tid_at(1_700_000_000_000_000, 7)
        '3ke6kg3wk222b'
    """
    return _tid(microseconds % (1 << 53) << 10 | clock)


def _tid(number: int) -> str:
    return "".join(_TID_DIGITS[number >> shift & 31] for shift in range(60, -1, -5))
