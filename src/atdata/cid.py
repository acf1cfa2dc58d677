"""Content identifiers: CIDv1 over DAG-CBOR with SHA-256.

Format: https://ipld.io/specs/codecs/dag-cbor/spec/ and the DASL profile https://dasl.ing/cid.html.
"""

from __future__ import annotations

import base64
import hashlib
import math
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
    import cbrrr

    _check(data, "$")
    return generate_cid_from_bytes(cbrrr.encode_dag_cbor(data))


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


def _check(value: Any, path: str) -> None:
    kind = type(value)
    if value is None or kind in (bool, str, bytes):
        return
    if kind is int:
        if not -_MAX_UINT - 1 <= value <= _MAX_UINT:
            raise ValueError(f"{path}: {value} does not fit into 64 bits")
    elif kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{path}: {value} has no DAG-CBOR form")
    elif kind is list:
        for i, item in enumerate(value):
            _check(item, f"{path}[{i}]")
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"{path}: key {key!r} is not a string")
            _check(item, f"{path}.{key}")
    else:
        raise ValueError(f"{path}: {kind.__name__} has no DAG-CBOR form")
