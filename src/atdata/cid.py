"""Content identifiers: CIDv1 over DAG-CBOR with SHA-256.

Format: https://ipld.io/specs/codecs/dag-cbor/spec/ and the DASL profile https://dasl.ing/cid.html.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from typing import Any

__all__ = ["generate_cid", "generate_cid_from_bytes", "verify_cid"]

# CIDv1, dag-cbor codec (0x71), sha2-256 multihash (0x12) of 32 bytes (0x20).
_PREFIX = b"\x01\x71\x12\x20"
_MAX_UINT = 2**64 - 1


def generate_cid(data: Any) -> str:
    """CID of the DAG-CBOR encoding of `data`.

    Args:
        data: `None`, `bool`, `int` from -2**64 to 2**64 - 1, finite `float`, `str`, `bytes`, and lists
            and string-keyed dicts of these.

    Returns:
        A CIDv1 in base32, `bafyrei…`.

    Raises:
        ValueError: `data` holds what DAG-CBOR cannot express: NaN, infinities, larger integers, keys that
            are not strings, tuples, sets, numpy scalars.

    Example:
        >>> generate_cid({"name": "test", "value": 42})
        'bafyreidnzhwcbncg3avwjjao5o6wx4zhnksmxhdo6w5iaqupexnmzdlb54'
    """
    out: list[bytes] = []
    _encode(data, "$", out)
    return generate_cid_from_bytes(b"".join(out))


def generate_cid_from_bytes(data: bytes) -> str:
    """CID, with the dag-cbor codec, of bytes that are DAG-CBOR already.

    Example:
        >>> generate_cid_from_bytes(b"hello")
        'bafyreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq'
    """
    digest = hashlib.sha256(data).digest()
    return "b" + base64.b32encode(_PREFIX + digest).decode().lower().rstrip("=")


def verify_cid(cid: str, data: Any) -> bool:
    """Whether `cid` is the CID of `data`."""
    return generate_cid(data) == cid


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
