"""What a version says of itself besides its content, checked before anything is written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from atdata.errors import EntryFormError

__all__ = ["Details", "check_url"]

_MAX_DESCRIPTION = 100_000
_MAX_LICENSE = 200
_MAX_TAG = 100
_MAX_TAGS = 100
_MAX_METADATA = 1 << 20
_MAX_DEPTH = 32
_MAX_URL = 4096
_UNKEPT = re.compile("[\0\ud800-\udfff]")  # null characters and lone surrogates
_CONTROL = re.compile("[\x01-\x1f\x7f]")
_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=dict).encode
_SECRET = ("x-amz-signature", "x-goog-signature", "sig=", "token=")


class Details(msgspec.Struct, frozen=True):
    """Description, tags, licence and metadata of a version; metadata as JSON."""

    description: str | None = None
    tags: tuple[str, ...] = ()
    license: str | None = None
    metadata: str = "{}"

    @classmethod
    def checked(
        cls,
        description: str | None = None,
        tags: Iterable[str] = (),
        license: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Details:
        """What a user gives, checked.

        Args:
            description: text of at most 100,000 characters.
            tags: at most 100 words of at most 100 characters.
            license: an SPDX identifier or a name, at most 200 characters.
            metadata: JSON values by name, at most 1 MiB of JSON, nested at most 32 deep.

        Raises:
            EntryFormError: one of them is something else; the message says which, and where in it.
        """
        if isinstance(tags, str):
            raise EntryFormError(f"tags are given as a list: tags=[{tags!r:.60}]")
        words = tuple(dict.fromkeys(_line(tag, "a tag", _MAX_TAG) for tag in tags))
        if len(words) > _MAX_TAGS:
            raise EntryFormError(f"{len(words)} tags are too many; at most {_MAX_TAGS} can be kept")
        return cls(
            None if description is None else _text(description, "the description", _MAX_DESCRIPTION),
            words,
            None if license is None else _line(license, "the license", _MAX_LICENSE),
            _json({} if metadata is None else metadata),
        )


def check_url(url: str) -> str:
    """A shard's URL or absolute path, when an index can keep it.

    Raises:
        EntryFormError: it means nothing to others (a relative path, a name), or carries a signature or a password.
    """
    _text(url, "a shard's URL", _MAX_URL)
    if _CONTROL.search(url):
        raise EntryFormError(f"the URL {url!r:.200} has control characters")
    scheme, colon, rest = url.partition("://")
    if not colon and not url.startswith("/"):
        raise EntryFormError(
            f"{url!r:.200} is no place where others find a shard: an index needs absolute paths and URLs"
        )
    if colon and ("@" in rest.partition("/")[0] and scheme in ("http", "https")):
        raise EntryFormError("the URL carries a password, which does not belong into an index")
    if colon and any(word in rest.partition("?")[2].lower() for word in _SECRET):
        raise EntryFormError(
            f"the URL {url.partition('?')[0]!r:.200} is signed, and its signature expires: give the index the URL "
            "without it, and the store that can read it"
        )
    return url


def _text(value: Any, what: str, limit: int) -> str:
    if not isinstance(value, str):
        raise EntryFormError(f"{what} is text, not {type(value).__name__}")
    if not value or len(value) > limit:
        raise EntryFormError(f"{what} has {len(value)} characters; from 1 to {limit} can be kept")
    if _UNKEPT.search(value):
        raise EntryFormError(f"{what} has a null character or a lone surrogate: {value!r:.120}")
    return value


def _line(value: Any, what: str, limit: int) -> str:
    text = _text(value, what, limit)
    if not text.isprintable() or text != text.strip():
        raise EntryFormError(f"{what} has control characters, or blanks around it: {text!r:.120}")
    return text


def _json(metadata: Any) -> str:
    if not isinstance(metadata, Mapping):
        raise EntryFormError(f"metadata is a dict of JSON values, not {type(metadata).__name__}")
    try:
        _check(metadata, "metadata", 0)
        text = _compact(dict(metadata))
    except RecursionError:
        raise EntryFormError("metadata is nested too deeply") from None
    if len(text) > _MAX_METADATA:
        raise EntryFormError(f"metadata takes {len(text)} characters of JSON; at most {_MAX_METADATA} can be kept")
    return text


def _check(value: Any, path: str, depth: int) -> None:
    """Only what comes back from JSON just as it was."""
    if depth > _MAX_DEPTH:
        raise EntryFormError(f"{path:.200} is nested more than {_MAX_DEPTH} deep")
    if type(value) is str:
        if _UNKEPT.search(value):
            raise EntryFormError(f"{path:.200} has a null character or a lone surrogate")
    elif type(value) is int:
        if abs(value) >= 1 << 63:
            raise EntryFormError(f"{path:.200} is an integer of more than 64 bits")
    elif type(value) is float:
        if not math.isfinite(value):
            raise EntryFormError(f"{path:.200} is {value}, which JSON does not have")
    elif type(value) is list:
        for i, item in enumerate(value):
            _check(item, f"{path}[{i}]", depth + 1)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) is not str:
                raise EntryFormError(f"{path:.200}: the key {key!r:.80} is not text")
            _check(key, f"a key of {path}", depth)
            _check(item, f"{path}.{key}", depth + 1)
    elif value is not None and type(value) is not bool:
        raise EntryFormError(f"{path:.200} is {type(value).__name__}, which JSON does not have")
