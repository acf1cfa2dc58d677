"""Content identifiers: CIDv1 over DAG-CBOR with SHA-256.

Format: https://ipld.io/specs/codecs/dag-cbor/spec/ and the DASL profile https://dasl.ing/cid.html.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import math
import struct
from typing import Any

__all__ = ["Link", "encode", "generate_cid", "generate_cid_from_bytes", "verify_cid"]

# CIDv1, codec dag-cbor (0x71) or raw (0x55), sha2-256 multihash (0x12) of 32 bytes (0x20).
_PREFIX = b"\x01\x71\x12\x20"
_RAW_PREFIX = b"\x01\x55\x12\x20"
_SIZE = 36
_TEXT = 59  # characters of the base32 form
_MAX_UINT = 2**64 - 1
# The base32 form of 10 bits, and where in the 288 (and two zeros) each 10 begin.
_BASE32 = [a + b for a in "abcdefghijklmnopqrstuvwxyz234567" for b in "abcdefghijklmnopqrstuvwxyz234567"]
_SHIFTS = range(280, -1, -10)


class Link:
    """A CID as a value of its own: what DAG-CBOR holds as tag 42, and JSON as `{"$link": "bafy…"}`.

    Only the two forms of the AT Protocol (https://dasl.ing/cid.html): CIDv1 with SHA-256, of DAG-CBOR (`bafyrei…`)
    or of plain bytes (`bafkrei…`).

    Args:
        raw: the 36 bytes of the CID.

    Raises:
        ValueError: `raw` is no CID of these forms.

    Example:
        >>> link = Link.to_blob(b"hello")
        >>> str(link)
        'bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq'
        >>> Link.parse(str(link)) == link
        True
    """

    __slots__ = ("raw",)
    raw: bytes

    def __init__(self, raw: bytes) -> None:
        if len(raw) != _SIZE or raw[:4] not in (_PREFIX, _RAW_PREFIX):
            raise ValueError(f"{raw[:8].hex()}… ({len(raw)} bytes) is no CIDv1 of DAG-CBOR or plain bytes with SHA-256")
        self.raw = raw

    @classmethod
    def to_block(cls, data: bytes) -> Link:
        """The link to `data`, which is DAG-CBOR."""
        return cls(_PREFIX + hashlib.sha256(data).digest())

    @classmethod
    def to_blob(cls, data: bytes) -> Link:
        """The link to `data`, plain bytes."""
        return cls(_RAW_PREFIX + hashlib.sha256(data).digest())

    @classmethod
    def to_sha256(cls, digest: str) -> Link:
        """The link to the plain bytes that have the SHA-256 `digest`, in hexadecimal."""
        return cls(_RAW_PREFIX + bytes.fromhex(digest))

    @classmethod
    def parse(cls, text: str) -> Link:
        """The link that is written `bafy…` or `bafk…`; raises ValueError for any other text."""
        if len(text) == _TEXT and text.startswith("b"):
            with contextlib.suppress(ValueError):
                link = cls(base64.b32decode(text[1:].upper() + "======"))
                if str(link) == text:  # neither capitals, nor bits left over
                    return link
        raise ValueError(f"{text[:80]!r} is no CIDv1 of DAG-CBOR or plain bytes with SHA-256 in base32")

    @property
    def sha256(self) -> str:
        """The SHA-256 of what is linked to, in hexadecimal."""
        return self.raw[4:].hex()

    @property
    def is_block(self) -> bool:
        """Whether it leads to DAG-CBOR (and not to plain bytes)."""
        return self.raw[1] == _PREFIX[1]

    def __str__(self) -> str:
        # Two characters at a time, which takes half the time of the standard library's one at a time.
        bits = int.from_bytes(self.raw) << 2
        return "b" + "".join([_BASE32[bits >> shift & 1023] for shift in _SHIFTS])

    def __repr__(self) -> str:
        return f"Link({self})"

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, Link) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.raw)


def generate_cid(data: Any) -> str:
    """CID of the DAG-CBOR encoding of `data`.

    Args:
        data: `None`, `bool`, `int` from -2**64 to 2**64 - 1, finite `float`, `str`, `bytes`, and lists
            and string-keyed dicts of these; `Link`.

    Returns:
        A CIDv1 in base32, `bafyrei…`.

    Raises:
        ValueError: `data` holds what DAG-CBOR cannot express: NaN, infinities, larger integers, keys that
            are not strings, tuples, sets, numpy scalars.

    Example:
        >>> generate_cid({"name": "test", "value": 42})
        'bafyreidnzhwcbncg3avwjjao5o6wx4zhnksmxhdo6w5iaqupexnmzdlb54'
    """
    return generate_cid_from_bytes(encode(data))


def generate_cid_from_bytes(data: bytes) -> str:
    """CID, with the dag-cbor codec, of bytes that are DAG-CBOR already.

    Example:
        >>> generate_cid_from_bytes(b"hello")
        'bafyreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq'
    """
    return str(Link.to_block(data))


def verify_cid(cid: str, data: Any) -> bool:
    """Whether `cid` is the CID of `data`."""
    return generate_cid(data) == cid


def encode(data: Any) -> bytes:
    """The DAG-CBOR form of `data`, of which there is only one; takes and raises what `generate_cid` does."""
    out: list[bytes] = []
    _encode(data, "$", out)
    return b"".join(out)


def _encode(value: Any, path: str, out: list[bytes]) -> None:
    """Append the DAG-CBOR form of `value`: shortest integers, 64-bit floats, keys by length and then by bytes."""
    kind = type(value)
    if value is None or kind is bool:
        out.append({None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value])
    elif kind is int:
        if not -_MAX_UINT - 1 <= value <= _MAX_UINT:
            raise ValueError(f"{path}: {value} does not fit into 64 bits")
        out.append(_head(0, value) if value >= 0 else _head(1, -1 - value))
    elif kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{path}: {value} has no DAG-CBOR form")
        out.append(struct.pack(">Bd", 0xFB, value))
    elif kind is str:
        text = value.encode()
        out += (_head(3, len(text)), text)
    elif kind is bytes:
        out += (_head(2, len(value)), value)
    elif kind is list:
        out.append(_head(4, len(value)))
        for i, item in enumerate(value):
            _encode(item, f"{path}[{i}]", out)
    elif kind is dict:
        out.append(_head(5, len(value)))
        keys = []
        for key in value:
            if type(key) is not str:
                raise ValueError(f"{path}: key {key!r} is not a string")
            keys.append((len(text := key.encode()), text, key))
        for length, text, key in sorted(keys):
            out += (_head(3, length), text)
            _encode(value[key], f"{path}.{key}", out)
    elif kind is Link:
        # Tag 42 on a byte string of 37: a zero (multibase "identity"), then the CID.
        out += (b"\xd8\x2a\x58\x25\x00", value.raw)
    else:
        raise ValueError(f"{path}: {kind.__name__} has no DAG-CBOR form")


def _head(major: int, value: int) -> bytes:
    """Major type and argument, in as few bytes as hold it (RFC 8949, section 3)."""
    if value < 24:
        return bytes([major << 5 | value])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * size:
            return bytes([major << 5 | info]) + value.to_bytes(size, "big")
    raise ValueError(f"{value} does not fit into 64 bits")
