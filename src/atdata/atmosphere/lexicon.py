"""Whether a record is what its lexicon says: for records that are written, and for those of strangers.

A lexicon document says what a kind of record holds: https://atproto.com/specs/lexicon. The ones here are in the folder
`lexicons`. A field that a document does not know is allowed, as lexicons are open.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from atdata.atmosphere.datamodel import byte_length, bytes_in, check_data, is_cid
from atdata.atmosphere.syntax import AtUri, is_datetime, is_did, is_handle, is_nsid, is_rkey, shown
from atdata.cid import Link
from atdata.errors import AddressError, RecordError

__all__ = ["Lexicons", "check", "check_blob", "documents"]

_TID = re.compile(r"[234567abcdefghij][234567abcdefghijklmnopqrstuvwxyz]{12}", re.ASCII)
_LANGUAGE = re.compile(r"(?:i|[a-z]{2,3})(?:-[a-zA-Z0-9-]{1,60})?", re.ASCII)
_URI = re.compile(r"[a-z][a-z0-9.+-]{0,80}:\S+", re.ASCII | re.IGNORECASE)
_MIME = re.compile(r"[\w.+*-]{1,100}/[\w.+*-]{1,100}(?:;[ -~]{1,200})?", re.ASCII)

_MAX_REFS = 32  # that lead from one to the next

Value = Any
Definition = Mapping[str, Any]


def documents() -> dict[str, dict[str, Any]]:
    """The lexicon documents of the records that atdata writes and reads, by their names.

    They are what an account under whose name they are known would publish (as `com.atproto.lexicon.schema` records).

    Example:
        >>> sorted(documents())[3:6]
        ['science.alt.dataset.lens', 'science.alt.dataset.pin', 'science.alt.dataset.programmingLanguage']
    """
    folder = importlib.resources.files("atdata.atmosphere") / "lexicons"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        if file.name.endswith(".json"):
            document = json.loads(file.read_text(encoding="utf-8"))
            found[document["id"]] = document
    return found


def check(nsid: str, record: Any, *, besides: Collection[str] = ()) -> None:
    """Check a record, or an object, against the document of that name.

    Args:
        nsid: `science.alt.dataset.entry`, or with a part of a document, `science.alt.dataset.entry#commit`.
        record: what is to be written, or was read.
        besides: fields of it that the caller checks itself; they may be missing.

    Raises:
        RecordError: it is something else; `field` has the path.

    Example:
        >>> check("science.alt.dataset.storageS3", {"bucket": "b", "shards": []})
        Traceback (most recent call last):
        ...
        atdata.errors.RecordError: storageS3.shards: has 0 items, and at least 1 are asked for
    """
    _ours().check(nsid, record, besides=besides)


@functools.cache
def _ours() -> Lexicons:
    return Lexicons(documents())


# -- formats -----------------------------------------------------------------------------------------------------


def _is_at_uri(text: str) -> bool:
    """With or without collection and key."""
    if not text.startswith("at://") or len(text) > 8192:
        return False
    authority, *rest = text.removeprefix("at://").split("/")
    if len(rest) == 2:
        try:
            AtUri.parse(text)
        except AddressError:
            return False
        return True
    return (is_did(authority) or is_handle(authority)) and len(rest) < 2 and all(map(is_nsid, rest))


def _is_uri(text: str) -> bool:
    if len(text) > 8192 or _URI.fullmatch(text) is None:
        return False
    try:
        urlsplit(text)
    except ValueError:
        return False
    return True


_FORMATS: dict[str, Callable[[str], bool]] = {
    "at-identifier": lambda text: is_did(text) or is_handle(text),
    "at-uri": _is_at_uri,
    "cid": is_cid,
    "datetime": is_datetime,
    "did": is_did,
    "handle": is_handle,
    "language": lambda text: _LANGUAGE.fullmatch(text) is not None,
    "nsid": is_nsid,
    "record-key": is_rkey,
    "tid": lambda text: _TID.fullmatch(text) is not None,
    "uri": _is_uri,
}


def _graphemes(text: str) -> int:
    """Characters as people see them: marks, joiners and what they join belong to the character before.

    The rules of https://unicode.org/reports/tr29/ that matter for limits, without its tables: an emoji joined of
    several is one, flags are pairs.
    """
    count, joined, flags = 0, False, 0
    for char in text:
        category = unicodedata.category(char)
        flag = "\U0001f1e6" <= char <= "\U0001f1ff"
        extends = category in ("Mn", "Me", "Mc") or char in "\u200c\u200d" or "\U0001f3fb" <= char <= "\U0001f3ff"
        if not (count and (extends or joined or (flag and flags % 2))):
            count += 1
        flags = flags + 1 if flag else 0
        joined = char == "\u200d"
    return count


# -- documents ---------------------------------------------------------------------------------------------------


class Lexicons:
    """Lexicon documents that refer to each other.

    Args:
        documents: by their names.

    Raises:
        RecordError: one of them says what no lexicon can say.
    """

    def __init__(self, documents: Mapping[str, Any]) -> None:
        self._definitions: dict[str, Definition] = {}
        for nsid, document in documents.items():
            if document.get("lexicon") != 1 or document.get("id") != nsid or not isinstance(document.get("defs"), dict):
                raise RecordError(f"the document of {shown(nsid)} is no lexicon of version 1")
            for name, definition in document["defs"].items():
                self._definitions[nsid if name == "main" else f"{nsid}#{name}"] = definition

    def __contains__(self, nsid: str) -> bool:
        return nsid in self._definitions

    def check(self, nsid: str, record: Any, *, besides: Collection[str] = ()) -> None:
        """See `check` of this module."""
        path = re.split("[.#]", nsid)[-1]
        check_data(record, path)
        definition = self._definition(nsid)
        if definition["type"] == "record":
            if not isinstance(record, dict):
                raise _other(record, "an object", path)
            if record.get("$type") != nsid:
                raise RecordError(f"is {shown(record.get('$type'))}, and {nsid} is asked for", field=f"{path}.$type")
            definition = definition["record"]
        self._value(definition, record, path, nsid, besides)

    def _definition(self, nsid: str) -> Definition:
        found = self._definitions.get(nsid)
        if found is None:
            raise RecordError(f"there is no lexicon document of {shown(nsid)}")
        return found

    def _value(self, d: Definition, value: Value, path: str, base: str, besides: Collection[str] = ()) -> None:
        kind = d["type"]
        for _ in range(_MAX_REFS):
            if kind != "ref":
                break
            base = _absolute(d["ref"], base)
            d = self._definition(base)
            kind = d["type"]
        if kind == "union":
            self._union(d, value, path, base)
        elif kind == "object":
            self._object(d, value, path, base, besides)
        elif kind == "array":
            if type(value) is not list:
                raise _other(value, "a list", path)
            _limits(len(value), "items", d.get("minLength"), d.get("maxLength"), path)
            for n, item in enumerate(value):
                self._value(d["items"], item, f"{path}[{n}]", base)
        else:
            check_one = _SCALARS.get(kind)
            if check_one is None:
                raise RecordError(f"the lexicon document has the type {shown(kind)}, which is not known", field=path)
            check_one(d, value, path)

    def _object(self, d: Definition, value: Value, path: str, base: str, besides: Collection[str]) -> None:
        if type(value) is not dict:
            raise _other(value, "an object", path)
        for name in d.get("required", ()):
            if name not in value and name not in besides:
                raise RecordError("is missing", field=f"{path}.{name}")
        nullable = d.get("nullable", ())
        for name, definition in d["properties"].items():
            if name not in value or name in besides or (value[name] is None and name in nullable):
                continue
            self._value(definition, value[name], f"{path}.{name}", base)

    def _union(self, d: Definition, value: Value, path: str, base: str) -> None:
        name = value.get("$type") if type(value) is dict else None
        if not isinstance(name, str):
            raise RecordError("does not say by `$type` what it is", field=path)
        known = [_absolute(ref, base) for ref in d["refs"]]
        name = name.removesuffix("#main")
        if name in known:
            self._value(self._definition(name), value, path, name)
        elif d.get("closed") is True:
            raise RecordError(f"is {shown(name)}; allowed are {', '.join(known)}", field=path)


def _absolute(ref: str, base: str) -> str:
    """The name that a reference in the document `base` means."""
    return base.partition("#")[0] + ref if ref.startswith("#") else ref.removesuffix("#main")


def _other(value: Value, wanted: str, path: str) -> RecordError:
    what = {dict: "an object", list: "a list", str: "text", type(None): "null"}.get(type(value), type(value).__name__)
    return RecordError(f"is {what}, and {wanted} is asked for", field=path)


def _limits(count: int, what: str, least: int | None, most: int | None, path: str) -> None:
    if least is not None and count < least:
        raise RecordError(f"has {count} {what}, and at least {least} are asked for", field=path)
    if most is not None and count > most:
        raise RecordError(f"has {count} {what}, and at most {most} are allowed", field=path)


def _one_of(d: Definition, value: Value, path: str) -> None:
    """Constants and closed lists; known values are open."""
    if "const" in d and value != d["const"]:
        raise RecordError(f"is {shown(value)}, and always has to be {shown(d['const'])}", field=path)
    if "enum" in d and value not in d["enum"]:
        raise RecordError(f"is {shown(value)}; allowed are {', '.join(map(str, d['enum']))}", field=path)


def _string(d: Definition, value: Value, path: str) -> None:
    if type(value) is not str:
        raise _other(value, "text", path)
    _limits(byte_length(value, path), "bytes", d.get("minLength"), d.get("maxLength"), path)
    if "minGraphemes" in d or "maxGraphemes" in d:
        _limits(_graphemes(value), "characters", d.get("minGraphemes"), d.get("maxGraphemes"), path)
    _one_of(d, value, path)
    if "format" in d:
        good = _FORMATS.get(d["format"])
        if good is None or not good(value):
            raise RecordError(f"{shown(value)} is no {d['format']}", field=path)
    if "pattern" in d and not _fits(d["pattern"], value):
        raise RecordError(f"{shown(value)} is not of the form that its lexicon asks for", field=path)


def _fits(pattern: str, value: str) -> bool:
    """Whether a regular expression is found in a text; `$` is its very end, as in other languages."""
    found = re.search(pattern, value, re.ASCII)
    return found is not None and (not pattern.endswith("$") or found.end() == len(value))


def _integer(d: Definition, value: Value, path: str) -> None:
    if type(value) is not int:
        raise _other(value, "an integer", path)
    _one_of(d, value, path)
    if not d.get("minimum", value) <= value <= d.get("maximum", value):
        raise RecordError(f"is {value}, not from {d.get('minimum', '-∞')} to {d.get('maximum', '∞')}", field=path)


def _boolean(d: Definition, value: Value, path: str) -> None:
    if type(value) is not bool:
        raise _other(value, "true or false", path)
    _one_of(d, value, path)


def _bytes(d: Definition, value: Value, path: str) -> None:
    _limits(len(bytes_in(value, path)), "bytes", d.get("minLength"), d.get("maxLength"), path)


def _link(d: Definition, value: Value, path: str) -> None:
    if not (type(value) is dict and value.keys() == {"$link"}):
        raise RecordError("is no link: one is {'$link': CID}", field=path)


def check_blob(value: Any, path: str) -> None:
    """Check that a value is a blob, of whatever kind and size.

    Raises:
        RecordError: it is none.
    """
    _blob({}, value, path)


def _blob(d: Definition, value: Value, path: str) -> None:
    if type(value) is not dict or value.get("$type") != "blob":
        raise RecordError("is no blob", field=path)
    ref, mime, size = (value.get(name) for name in ("ref", "mimeType", "size"))
    if not (type(ref) is dict and ref.keys() == {"$link"} and is_cid(ref["$link"])):
        raise RecordError("is a blob without a link", field=path)
    if Link.parse(ref["$link"]).is_block:
        raise RecordError("is a blob whose link is that of a record", field=path)
    if type(mime) is not str or _MIME.fullmatch(mime) is None:
        raise RecordError("is a blob without a kind (mimeType)", field=path)
    if type(size) is not int or size < 0:
        raise RecordError("is a blob without a size", field=path)
    if "maxSize" in d and size > d["maxSize"]:
        raise RecordError(f"is a blob of {size} bytes, and at most {d['maxSize']} are allowed", field=path)
    accept = d.get("accept", ["*/*"])
    if not any(
        each == "*/*" or mime == each or (each.endswith("/*") and mime.startswith(each[:-1])) for each in accept
    ):
        raise RecordError(f"is a blob of the kind {mime}; allowed are {', '.join(accept)}", field=path)


def _unknown(d: Definition, value: Value, path: str) -> None:
    if type(value) is not dict:
        raise _other(value, "an object", path)


def _null(d: Definition, value: Value, path: str) -> None:
    if value is not None:
        raise _other(value, "null", path)


_SCALARS: dict[str, Callable[[Definition, Value, str], None]] = {
    "blob": _blob,
    "boolean": _boolean,
    "bytes": _bytes,
    "cid-link": _link,
    "integer": _integer,
    "null": _null,
    "string": _string,
    "token": _string,
    "unknown": _unknown,
}
