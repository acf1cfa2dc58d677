"""The values that the network keeps: https://atproto.com/specs/data-model, as JSON.

A link is `{"$link": "bafy…"}`, bytes are `{"$bytes": "base64"}`; there are no floats, and integers have 53 bits.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from atdata.atmosphere.syntax import shown
from atdata.cid import Link
from atdata.errors import RecordError

__all__ = ["byte_length", "bytes_in", "bytes_value", "check_data", "is_cid", "path_text", "step"]

MAX_DEPTH = 64
MAX_BYTES = 2 << 20
_MAX_INTEGER = 2**53 - 1
_SHOWN = 100


def check_data(value: Any, path: str = "record", *, depth: int = MAX_DEPTH, size: int = MAX_BYTES) -> None:
    """Check that a value is one of the network's data model, and not too much of it.

    Args:
        value: what is to be checked.
        path: what it is called in errors.
        depth: how deep it may be nested.
        size: how many bytes of JSON it may take; counted without the commas.

    Raises:
        RecordError: a float, a large integer, text that is not Unicode, a malformed link or bytes, or too much.
    """
    left = size
    # Paths are put together for errors only: each is a key and the path before it.
    root, first = path, (None, path)
    todo: list[tuple[Any, Any, int]] = [(value, first, 0)]
    while todo:
        item, at, level = todo.pop()
        if level > depth:
            raise RecordError(f"is nested more than {depth} deep", field=f"{path_text(at):.200}")
        kind = type(item)
        if kind is str:
            left -= len(item) + 2 if item.isascii() else byte_length(item, path_text(at)) + 2
        elif item is None or kind is bool:
            left -= 4
        elif kind is int:
            if not -_MAX_INTEGER <= item <= _MAX_INTEGER:
                raise RecordError(
                    "is an integer of more than 53 bits, which the network does not keep", field=path_text(at)
                )
            left -= len(str(item))
        elif kind is list:
            left -= len(item) + 2
            if left < 0:
                break
            todo += [(each, (at, n), level + 1) for n, each in enumerate(item)]
        elif kind is dict:
            left -= 2
            for key, each in item.items():
                if type(key) is not str:
                    raise RecordError(f"the key {shown(key)} is not text", field=path_text(at))
                left -= byte_length(key, "a key") + 4
                todo.append((each, (at, key), level + 1))
            if "$link" in item or "$bytes" in item:
                _check_special(item, path_text(at))
        elif kind is float:
            raise RecordError("is a float, which the network does not have", field=path_text(at))
        else:
            raise RecordError(f"is of the type {kind.__name__}, which the network does not have", field=path_text(at))
        if left < 0:
            break
    if left < 0:
        raise RecordError(f"has more than {size} bytes", field=root)


def path_text(at: Any) -> str:
    """A path as text. Paths are pairs of the path before and a key or number; the first has None and a name.

    Example:
        >>> path_text((((None, "entry"), "shards"), 3))
        'entry.shards[3]'
    """
    parts: list[str] = []
    while at[0] is not None:
        at, key = at
        parts.append(f"[{key}]" if isinstance(key, int) else f".{step(key)}")
    return str(at[1]) + "".join(reversed(parts))


def step(key: str) -> str:
    """A stranger's key as a part of a path in a message."""
    return key if key.isprintable() and len(key) <= _SHOWN else shown(key, _SHOWN)


def byte_length(text: str, path: str) -> int:
    """Bytes of a text in UTF-8.

    Raises:
        RecordError: it has a lone surrogate.
    """
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise RecordError("is text with a lone surrogate", field=path) from None


def _check_special(item: Mapping[str, Any], path: str) -> None:
    if "$bytes" in item:
        bytes_in(item, path)
    elif len(item) != 1 or not is_cid(item["$link"]):
        raise RecordError("is no link: one is {'$link': CID}", field=path)


def bytes_in(value: Any, path: str = "bytes") -> bytes:
    """The bytes in `{"$bytes": "base64"}`, with or without padding.

    Raises:
        RecordError: it is something else.

    Example:
        >>> bytes_in({"$bytes": "gaFrAQ"})
        b'\\x81\\xa1k\\x01'
    """
    text = value.get("$bytes") if isinstance(value, Mapping) and len(value) == 1 else None
    if not isinstance(text, str):
        raise RecordError("is no bytes: those are {'$bytes': BASE64}", field=path)
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise RecordError("has bytes that are not base64", field=path) from None


def is_cid(value: Any) -> bool:
    """Whether `value` is the text of a CID as the network has them."""
    try:
        return bool(Link.parse(value)) if isinstance(value, str) else False
    except ValueError:
        return False


def bytes_value(data: bytes) -> dict[str, str]:
    """Bytes as a value of the network; without padding, as servers give them back.

    Example:
        >>> bytes_value(b"data")
        {'$bytes': 'ZGF0YQ'}
    """
    return {"$bytes": base64.b64encode(data).decode().rstrip("=")}
