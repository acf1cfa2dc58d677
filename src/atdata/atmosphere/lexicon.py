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

from atdata.atmosphere.datamodel import byte_length, bytes_in, check_data, is_cid, path_text
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
Path = tuple[Any, Any]  # see `path_text`
Check = Callable[[Value, Path], None]


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
        self._checks: dict[str, Check] = {}  # made of the definitions when they are first needed
        for nsid, document in documents.items():
            if document.get("lexicon") != 1 or document.get("id") != nsid or not isinstance(document.get("defs"), dict):
                raise RecordError(f"the document of {shown(nsid)} is no lexicon of version 1")
            for name, definition in document["defs"].items():
                self._definitions[nsid if name == "main" else f"{nsid}#{name}"] = definition

    def __contains__(self, nsid: str) -> bool:
        return nsid in self._definitions

    def check(self, nsid: str, record: Any, *, besides: Collection[str] = ()) -> None:
        """See `check` of this module."""
        root = (None, re.split("[.#]", nsid)[-1])
        check_data(record, root[1])
        if self._definition(nsid)["type"] == "record":
            if type(record) is not dict:
                raise _other(record, "an object", root)
            if record.get("$type") != nsid:
                raise _wrong(f"is {shown(record.get('$type'))}, and {nsid} is asked for", (root, "$type"))
        self._check_of(nsid, tuple(sorted(besides)))(record, root)

    def _definition(self, nsid: str) -> Definition:
        found = self._definitions.get(nsid)
        if found is None:
            raise RecordError(f"there is no lexicon document of {shown(nsid)}")
        return found

    def _check_of(self, nsid: str, besides: tuple[str, ...] = ()) -> Check:
        """What checks a value against the definition of that name."""
        key = f"{nsid} {besides}" if besides else nsid
        found = self._checks.get(key)
        if found is None:
            definition = self._definition(nsid)
            if definition["type"] == "record":
                definition = definition["record"]
            found = self._checks[key] = self._made(definition, nsid, besides)
        return found

    def _made(self, d: Definition, base: str, besides: Collection[str] = ()) -> Check:
        """What checks a value against a definition in the document `base`."""
        kind = d["type"]
        for _ in range(_MAX_REFS):
            if kind != "ref":
                break
            base = _absolute(d["ref"], base)
            d = self._definition(base)
            kind = d["type"]
        match kind:
            case "object":
                return self._object(d, base, besides)
            case "array":
                return self._array(d, base)
            case "union":
                return self._union(d, base)
        make = _SCALARS.get(kind)
        return _unknown_kind(kind) if make is None else make(d)

    def _object(self, d: Definition, base: str, besides: Collection[str]) -> Check:
        required = [name for name in d.get("required", ()) if name not in besides]
        nullable = frozenset(d.get("nullable", ()))
        wanted = {name: definition for name, definition in d["properties"].items() if name not in besides}
        checks: dict[str, Check] = {}

        def check(value: Value, at: Path) -> None:
            if type(value) is not dict:
                raise _other(value, "an object", at)
            for name in required:
                if name not in value:
                    raise _wrong("is missing", (at, name))
            for name, item in value.items():
                if name not in wanted or (item is None and name in nullable):
                    continue
                one = checks.get(name)
                if one is None:  # not before: definitions may refer to themselves
                    one = checks[name] = self._made(wanted[name], base)
                one(item, (at, name))

        return check

    def _array(self, d: Definition, base: str) -> Check:
        least, most = d.get("minLength"), d.get("maxLength")
        each: list[Check] = []

        def check(value: Value, at: Path) -> None:
            if type(value) is not list:
                raise _other(value, "a list", at)
            _limits(len(value), "items", least, most, at)
            if not each:
                each.append(self._made(d["items"], base))
            one = each[0]
            for n, item in enumerate(value):
                one(item, (at, n))

        return check

    def _union(self, d: Definition, base: str) -> Check:
        known = frozenset(_absolute(ref, base) for ref in d["refs"])

        def check(value: Value, at: Path) -> None:
            name = value.get("$type") if type(value) is dict else None
            if not isinstance(name, str):
                raise _wrong("does not say by `$type` what it is", at)
            name = name.removesuffix("#main")
            if name in known:
                self._check_of(name)(value, at)
            elif d.get("closed") is True:
                raise _wrong(f"is {shown(name)}; allowed are {', '.join(sorted(known))}", at)

        return check


def _absolute(ref: str, base: str) -> str:
    """The name that a reference in the document `base` means."""
    return base.partition("#")[0] + ref if ref.startswith("#") else ref.removesuffix("#main")


def _wrong(message: str, at: Path) -> RecordError:
    return RecordError(message, field=path_text(at))


def _other(value: Value, wanted: str, at: Path) -> RecordError:
    what = {dict: "an object", list: "a list", str: "text", type(None): "null"}.get(type(value), type(value).__name__)
    return _wrong(f"is {what}, and {wanted} is asked for", at)


def _limits(count: int, what: str, least: int | None, most: int | None, at: Path) -> None:
    if least is not None and count < least:
        raise _wrong(f"has {count} {what}, and at least {least} are asked for", at)
    if most is not None and count > most:
        raise _wrong(f"has {count} {what}, and at most {most} are allowed", at)


def _unknown_kind(kind: Any) -> Check:
    def check(value: Value, at: Path) -> None:
        raise _wrong(f"the lexicon document has the type {shown(kind)}, which is not known", at)

    return check


def _one_of(d: Definition, value: Value, at: Path) -> None:
    """Constants and closed lists; known values are open."""
    if "const" in d and value != d["const"]:
        raise _wrong(f"is {shown(value)}, and always has to be {shown(d['const'])}", at)
    if "enum" in d and value not in d["enum"]:
        raise _wrong(f"is {shown(value)}; allowed are {', '.join(map(str, d['enum']))}", at)


def _string(d: Definition) -> Check:
    least, most = d.get("minLength"), d.get("maxLength")
    graphemes = d.get("minGraphemes"), d.get("maxGraphemes")
    counted, bound = graphemes != (None, None), "const" in d or "enum" in d
    form = d.get("format")
    good = None if form is None else _FORMATS.get(form, lambda text: False)
    pattern = d.get("pattern")

    def check(value: Value, at: Path) -> None:
        if type(value) is not str:
            raise _other(value, "text", at)
        size = len(value) if value.isascii() else byte_length(value, path_text(at))
        if (most is not None and size > most) or (least is not None and size < least):
            _limits(size, "bytes", least, most, at)
        if counted:
            _limits(_graphemes(value), "characters", *graphemes, at)
        if bound:
            _one_of(d, value, at)
        if good is not None and not good(value):
            raise _wrong(f"{shown(value)} is no {form}", at)
        if pattern is not None and not _fits(pattern, value):
            raise _wrong(f"{shown(value)} is not of the form that its lexicon asks for", at)

    return check


def _fits(pattern: str, value: str) -> bool:
    """Whether a regular expression is found in a text; `$` is its very end, as in other languages."""
    found = re.search(pattern, value, re.ASCII)
    return found is not None and (not pattern.endswith("$") or found.end() == len(value))


def _integer(d: Definition) -> Check:
    def check(value: Value, at: Path) -> None:
        if type(value) is not int:
            raise _other(value, "an integer", at)
        _one_of(d, value, at)
        if not d.get("minimum", value) <= value <= d.get("maximum", value):
            raise _wrong(f"is {value}, not from {d.get('minimum', '-∞')} to {d.get('maximum', '∞')}", at)

    return check


def _boolean(d: Definition) -> Check:
    def check(value: Value, at: Path) -> None:
        if type(value) is not bool:
            raise _other(value, "true or false", at)
        _one_of(d, value, at)

    return check


def _bytes(d: Definition) -> Check:
    def check(value: Value, at: Path) -> None:
        _limits(len(bytes_in(value, path_text(at))), "bytes", d.get("minLength"), d.get("maxLength"), at)

    return check


def _link(d: Definition) -> Check:
    def check(value: Value, at: Path) -> None:
        if not (type(value) is dict and value.keys() == {"$link"}):
            raise _wrong("is no link: one is {'$link': CID}", at)

    return check


def check_blob(value: Any, path: str) -> None:
    """Check that a value is a blob, of whatever kind and size.

    Raises:
        RecordError: it is none.
    """
    _blob({})(value, (None, path))


def _blob(d: Definition) -> Check:
    most, accept = d.get("maxSize"), d.get("accept", ["*/*"])

    def check(value: Value, at: Path) -> None:
        if type(value) is not dict or value.get("$type") != "blob":
            raise _wrong("is no blob", at)
        ref, mime, size = (value.get(name) for name in ("ref", "mimeType", "size"))
        if not (type(ref) is dict and ref.keys() == {"$link"} and is_cid(ref["$link"])):
            raise _wrong("is a blob without a link", at)
        if Link.parse(ref["$link"]).is_block:
            raise _wrong("is a blob whose link is that of a record", at)
        if type(mime) is not str or _MIME.fullmatch(mime) is None:
            raise _wrong("is a blob without a kind (mimeType)", at)
        if type(size) is not int or size < 0:
            raise _wrong("is a blob without a size", at)
        if most is not None and size > most:
            raise _wrong(f"is a blob of {size} bytes, and at most {most} are allowed", at)
        if not any(each in ("*/*", mime) or (each.endswith("/*") and mime.startswith(each[:-1])) for each in accept):
            raise _wrong(f"is a blob of the kind {mime}; allowed are {', '.join(accept)}", at)

    return check


def _unknown(d: Definition) -> Check:
    def check(value: Value, at: Path) -> None:
        if type(value) is not dict:
            raise _other(value, "an object", at)

    return check


def _null(d: Definition) -> Check:
    def check(value: Value, at: Path) -> None:
        if value is not None:
            raise _other(value, "null", at)

    return check


_SCALARS: dict[str, Callable[[Definition], Check]] = {
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
