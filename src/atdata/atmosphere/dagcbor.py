"""DAG-CBOR, read strictly: bytes that are not the one canonical form of a value are refused.

What is signed on the AT Protocol is the hash of such bytes, so that a second form of the same value would be a second
identity for it. Refused are: integers and lengths that would fit into fewer bytes, indefinite lengths, map keys that
are not text, out of order (by length, then by bytes) or there twice, tags other than 42, links of other forms than
`atdata.cid.Link` takes, floats of 16 or 32 bits, NaN and infinities, `undefined` and other simple values, text that
is not UTF-8, and anything after the value.

Format: https://ipld.io/specs/codecs/dag-cbor/spec/ and https://atproto.com/specs/data-model.
The other direction is `atdata.cid.encode`.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from atdata.atmosphere.datamodel import bytes_in, bytes_value
from atdata.cid import Link

__all__ = ["MAX_DEPTH", "MAX_SIZE", "decode", "from_json", "to_json"]

MAX_SIZE = 1 << 20  # bytes; servers take no larger record
MAX_DEPTH = 100  # maps and lists inside each other, well within Python's own limit of calls

_SMALLEST = (24, 1 << 8, 1 << 16, 1 << 32)  # what needs an argument of 1, 2, 4, 8 bytes
_double = struct.Struct(">d").unpack_from


def decode(data: bytes) -> Any:
    """The value that `data` is the canonical DAG-CBOR form of.

    Args:
        data: at most `MAX_SIZE` bytes, `MAX_DEPTH` maps and lists deep.

    Returns:
        `None`, `bool`, `int`, `float`, `str`, `bytes`, `Link`, or lists and string-keyed dicts of these. What
        memory it takes is bounded by the length of `data`, whatever lengths are claimed in there.

    Raises:
        ValueError: anything else; says at which byte.

    Example:
        >>> decode(bytes.fromhex("a1636f6e6582f500"))
        {'one': [True, 0]}
        >>> decode(bytes.fromhex("a1636f6e6582f51800"))
        Traceback (most recent call last):
        ...
        ValueError: byte 7: 0 is written in more bytes than it needs
    """
    if len(data) > MAX_SIZE:
        raise ValueError(f"{len(data)} bytes, where at most {MAX_SIZE} are read")
    value, end = _item(data, 0, MAX_DEPTH)
    if end != len(data):
        raise ValueError(f"byte {end}: {len(data) - end} bytes after the value's end")
    return value


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """The value that begins at byte `at`, and where it ends."""
    start = at
    if at >= len(data):
        raise ValueError(f"byte {at}: the data end where a value should begin")
    first = data[at]
    if first == 0xD8:
        return _link(data, at)
    major, n = first >> 5, first & 31
    at += 1
    if n > 23 and major != 7:
        n, at = _argument(data, at, n)
    if major == 3:
        end = at + n
        if end > len(data):
            raise ValueError(f"byte {start}: text of {n} bytes, of which {len(data) - at} are there")
        return _text(data, at, end), end
    if major == 5:
        return _map(data, at, n, depth)
    if major == 0:
        return n, at
    if major == 2:
        end = at + n
        if end > len(data):
            raise ValueError(f"byte {start}: a string of {n} bytes, of which {len(data) - at} are there")
        return data[at:end], end
    if major == 4:
        return _list(data, at, n, depth)
    if major == 1:
        return -1 - n, at
    if major == 6:
        raise ValueError(f"byte {start}: tag {n}, where only 42 has a meaning")
    if n in _SIMPLE:
        return _SIMPLE[n], at
    if n != 27:
        raise ValueError(f"byte {start}: neither false, true, null nor a float of 64 bits")
    if at + 8 > len(data):
        raise ValueError(f"byte {start}: a float of 8 bytes, of which {len(data) - at} are there")
    (number,) = _double(data, at)
    if not math.isfinite(number):
        raise ValueError(f"byte {start}: {number} is no value of DAG-CBOR")
    return number, at + 8


_SIMPLE = {20: False, 21: True, 22: None}


def _argument(data: bytes, at: int, info: int) -> tuple[int, int]:
    """The number in the bytes after an initial byte, which had no room for it, and where they end."""
    if info > 27:
        what = "an indefinite length" if info == 31 else f"reserved bits ({info})"
        raise ValueError(f"byte {at - 1}: {what}, which DAG-CBOR does not have")
    end = at + (1 << info - 24)
    if end > len(data):
        raise ValueError(f"byte {at - 1}: the data end inside a number")
    n = int.from_bytes(data[at:end], "big")
    if n < _SMALLEST[info - 24]:
        raise ValueError(f"byte {at - 1}: {n} is written in more bytes than it needs")
    return n, end


def _text(data: bytes, at: int, end: int) -> str:
    try:
        return data[at:end].decode()
    except UnicodeDecodeError:
        raise ValueError(f"byte {at}: text that is not UTF-8") from None


def _list(data: bytes, at: int, n: int, depth: int) -> tuple[list[Any], int]:
    if n > len(data) - at:  # an item takes a byte at least
        raise ValueError(f"byte {at}: a list of {n} items, where {len(data) - at} bytes are left")
    if depth == 0:
        raise ValueError(f"byte {at}: more than {MAX_DEPTH} maps and lists inside each other")
    depth -= 1
    items = []
    for _ in range(n):
        item, at = _item(data, at, depth)
        items.append(item)
    return items, at


def _map(data: bytes, at: int, n: int, depth: int) -> tuple[dict[str, Any], int]:
    if 2 * n > len(data) - at:
        raise ValueError(f"byte {at}: a map of {n} pairs, where {len(data) - at} bytes are left")
    if depth == 0:
        raise ValueError(f"byte {at}: more than {MAX_DEPTH} maps and lists inside each other")
    depth -= 1
    items: dict[str, Any] = {}
    before = b""
    for i in range(n):
        start = at
        if at >= len(data):
            raise ValueError(f"byte {at}: the data end where a key should begin")
        length = data[at] - 0x60
        at += 1
        if not 0 <= length < 24:
            if not 24 <= length < 32:
                raise ValueError(f"byte {start}: a key that is not text")
            length, at = _argument(data, at, length)
        end = at + length
        if end > len(data):
            raise ValueError(f"byte {start}: a key of {length} bytes, of which {len(data) - at} are there")
        raw = data[at:end]
        if i and (length < len(before) or (length == len(before) and raw <= before)):
            what = "there twice" if raw == before else "not in order, which is by length and then by bytes"
            raise ValueError(f"byte {start}: the key {raw[:40]!r} is {what}")
        before = raw
        key = _text(data, at, end)
        items[key], at = _item(data, end, depth)
    return items, at


def _link(data: bytes, at: int) -> tuple[Link, int]:
    """What follows a tag of one byte: 42, a byte string of 37, a zero (multibase "identity"), the CID."""
    end = at + 41
    if data[at : at + 5] != b"\xd8\x2a\x58\x25\x00":
        raise ValueError(f"byte {at}: a tag other than 42, or not on a CIDv1 with SHA-256")
    if end > len(data):
        raise ValueError(f"byte {at}: the data end inside a link")
    try:
        return Link(data[at + 5 : end]), end
    except ValueError as error:
        raise ValueError(f"byte {at}: {error}") from None


# -- as JSON ---------------------------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """A value of `decode` in the AT Protocol's JSON: links are `{"$link": "bafy…"}`, bytes `{"$bytes": "…"}`.

    Bytes are in base64 without padding, as servers write them.

    Example:
        >>> to_json({"digest": b"\\x00\\x01"})
        {'digest': {'$bytes': 'AAE'}}
    """
    kind = type(value)
    if kind is dict:
        return {key: to_json(item) for key, item in value.items()}
    if kind is list:
        return [to_json(item) for item in value]
    if kind is Link:
        return {"$link": str(value)}
    return bytes_value(value) if kind is bytes else value


def from_json(value: Any) -> Any:
    """What `to_json` made JSON of, with links and bytes as their own types again; `atdata.cid.encode` takes it.

    Raises:
        ValueError: a `$link` or `$bytes` that is not well-formed.

    Example:
        >>> from_json({"digest": {"$bytes": "AAE="}})
        {'digest': b'\\x00\\x01'}
    """
    kind = type(value)
    if kind is list:
        return [from_json(item) for item in value]
    if kind is not dict:
        return value
    if value.keys() == {"$link"}:
        link = value["$link"]
        if not isinstance(link, str):
            raise ValueError(f"$link: {type(link).__name__} is no CID")
        return Link.parse(link)
    if value.keys() == {"$bytes"}:
        return bytes_in(value)
    return {key: from_json(item) for key, item in value.items()}
