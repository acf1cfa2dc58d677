"""Lenses as records: what was declared, whole; of code, where it is. Nothing in a record is imported or executed.

Two forms are written and read, as for schemas: a local one and the one of the network (`science.alt.dataset.lens`). A
declared lens is under the key `declared`; where it only moves fields, `mappings` say the same to other readers. Alone
they are not believed: other writers store them for every lens whose fields have the same names, whatever it does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import msgspec

from atdata.errors import LensDefinitionError, LensError, LensRecordError
from atdata.lenses.declaration import Declaration, factor_of
from atdata.lenses.fields import FieldsLens
from atdata.lenses.lens import Lens
from atdata.lenses.references import CodeReference, LensReference, schema_cid, source_digest

__all__ = ["declared_json", "lens_of", "network_record_of", "record_of"]

_VERSION = 1
_MAX_ENTRIES = 10_000
_MAX_PATH = 1000
_MAX_DEFAULT = 1 << 20
_MAX_DEFAULTS = 16 << 20
_KEYS = ("version", "rename", "drop", "default", "cast", "nest", "unnest", "scale")
_NETWORK_TYPE = "science.alt.dataset.lens"
_SAFE_INT = 2**53
# Stands where the network's lexicon wants the address of code.
_DECLARED = "urn:atdata:declared-lens"


# -- writing -------------------------------------------------------------------------------------------------


def record_of(lens: Lens[Any, Any], code: CodeReference | None) -> dict[str, Any]:
    """The local form of a lens; see `Lens.to_record`."""
    record: dict[str, Any] = {
        "name": _name(lens),
        "source_schema": lens.source.__name__,
        "view_schema": lens.view.__name__,
    }
    cids = {"source_cid": schema_cid(lens.source), "view_cid": schema_cid(lens.view)}
    record |= {key: cid for key, cid in cids.items() if cid is not None}
    if isinstance(lens, FieldsLens):
        if code is not None:
            raise LensError(f"{lens.name} is declared: there is no code to refer to")
        declared = declared_json(lens.declared)
        record["getter"] = record["putter"] = {"kind": "declared", "declared": declared}
        if (mappings := _mappings(lens)) is not None:
            swapped = [{**m, "source_field": m["view_field"], "view_field": m["source_field"]} for m in mappings]
            record["getter"] = {"kind": "field_mapping", "mappings": mappings, "declared": declared}
            record["putter"] = {"kind": "field_mapping", "mappings": swapped}
        return record
    functions = _functions(lens)
    record["digest"] = source_digest(lens)
    parts = [{"kind": "code_reference", "module": f.__module__, "qualname": f.__qualname__} for f in functions]
    if code is not None:
        parts = [{**p, "repository": code.repository, "commit": code.commit, "path": code.path} for p in parts]
    record["getter"] = parts[0]
    if len(parts) > 1:
        record["putter"] = parts[1]
    if lens.__doc__:
        record["description"] = lens.__doc__.strip()[:5000]
    return record


def network_record_of(
    lens: Lens[Any, Any], source_schema: str, view_schema: str, created_at: str, code: CodeReference | None
) -> dict[str, Any]:
    """The network form of a lens; see `Lens.to_network_record`."""
    local = record_of(lens, code)
    meta: dict[str, Any] = {
        key: local[key] for key in ("source_schema", "view_schema", "source_cid", "view_cid") if key in local
    }
    if isinstance(lens, FieldsLens):
        declared = declared_json(lens.declared)
        meta["declared"] = declared
        canonical = json.dumps(declared, sort_keys=True, separators=(",", ":")).encode()
        reference = {
            "repository": _DECLARED,
            "commit": hashlib.sha256(canonical).hexdigest()[:40],
            "path": "metadata.atdataLens.declared",
        }
        references = [reference, reference]
    elif code is None:
        raise LensError(f"{lens.name} is code: the network wants to know the repository, commit and path where it is")
    else:
        meta["digest"] = local["digest"]
        names = [f.__qualname__ for f in _functions(lens)]
        references = [
            {"repository": code.repository, "commit": code.commit, "path": f"{code.path}:{name}"}
            for name in (names[0], names[-1])
        ]
    record: dict[str, Any] = {
        "$type": _NETWORK_TYPE,
        "name": local["name"][:100],
        "sourceSchema": source_schema,
        "targetSchema": view_schema,
        "getterCode": {**references[0], "language": "python"},
        "putterCode": {**references[1], "language": "python"},
        "metadata": {"atdataLens": meta},
        "createdAt": created_at,
    }
    if "description" in local:
        record["description"] = local["description"].encode()[:1000].decode(errors="ignore")
    return record


def _name(lens: Lens[Any, Any]) -> str:
    return f"{lens.source.__name__}_to_{lens.view.__name__}" if isinstance(lens, FieldsLens) else lens.name


def _functions(lens: Lens[Any, Any]) -> tuple[Any, ...]:
    if not lens.functions:
        raise LensError(f"{lens.name} is not stored by itself: store the lenses that it is made of")
    return lens.functions


def _mappings(lens: FieldsLens[Any, Any]) -> list[dict[str, Any]] | None:
    """The lens as other readers can understand it; None when there is more to it than moving fields."""
    d = lens.declared
    if d.default or d.cast or d.scale or d.nest or d.unnest or any("." in f"{a}{b}" for a, b in d.rename.items()):
        return None
    if any(rule.source is None or rule.conversion is not None for rule in lens.rules):
        return None
    return [{"source_field": rule.source, "view_field": rule.path, "transform": None} for rule in lens.rules]


def declared_json(declared: Declaration) -> dict[str, Any]:
    """A declaration as JSON values without floats; equal declarations give equal values."""
    found: dict[str, Any] = {
        "rename": dict(sorted(declared.rename.items())),
        "drop": sorted(declared.drop),
        "default": {path: _value_json(data) for path, data in sorted(declared.default.items())},
        "cast": sorted(declared.cast),
        "nest": {path: sorted(names) for path, names in sorted(declared.nest.items())},
        "unnest": sorted(declared.unnest),
        "scale": {path: [f.numerator, f.denominator] for path, f in sorted(declared.scale.items())},
    }
    return {"version": _VERSION, **{key: value for key, value in found.items() if value}}


def _value_json(data: bytes) -> dict[str, Any]:
    value = msgspec.msgpack.decode(data)
    if value is None or type(value) in (bool, str) or (type(value) is int and abs(value) < _SAFE_INT):
        return {"value": value}
    return {"msgpack": base64.b64encode(data).decode()}


# -- reading -------------------------------------------------------------------------------------------------


def lens_of(record: Any, source: type, view: type) -> Lens[Any, Any] | LensReference:
    """The lens in a record; see `Lens.from_record`."""
    record = _mapping(record, "a lens record")
    if record.get("$type") == _NETWORK_TYPE or "getterCode" in record:
        record = _local(record)
    name = _text(record.get("name"), "the name")
    names = [_text(record.get(key), key) for key in ("source_schema", "view_schema")]
    cids = [None if record.get(key) is None else _text(record[key], key) for key in ("source_cid", "view_cid")]
    getter = _mapping(record.get("getter"), "`getter`")
    kind = getter.get("kind")
    if "declared" in getter and kind in ("declared", "field_mapping"):
        for cls, cid, what in ((source, cids[0], names[0]), (view, cids[1], names[1])):
            if cid is not None and cid != schema_cid(cls):
                raise LensRecordError(
                    f"the lens is stored for {what} ({cid}), and {cls.__name__} ({schema_cid(cls)}) has other fields"
                )
        try:
            lens: FieldsLens[Any, Any] = FieldsLens(source, view, _declaration(getter["declared"]))
        except LensDefinitionError as error:
            raise LensRecordError(f"the stored lens {name} does not fit: {error.message}", field=error.field) from None
        if "mappings" in getter and getter["mappings"] != _mappings(lens):
            raise LensRecordError(f"what the stored lens {name} declares is not what its mappings say")
        return lens
    reason = {
        "field_mapping": "its fields have the same names in both types, which says nothing of what it does to them",
        "code_reference": "it is code",
        "opaque": "its writer could not say what it does",
    }.get(kind if isinstance(kind, str) else "")
    if reason is None:
        raise LensRecordError(f"the stored lens {name} is of the kind {kind!r:.60}, which this atdata does not know")
    return _reference(record, getter, name, names, cids, reason)


def _reference(
    record: Mapping[str, Any], getter: Mapping[str, Any], name: str, names: list[str], cids: list[Any], reason: str
) -> LensReference:
    digest = record.get("digest")
    if digest is not None and not (isinstance(digest, str) and len(digest) == 64 and digest.isascii()):
        raise LensRecordError(f"the digest of the stored lens {name} is not 64 hexadecimal digits")
    qualname = None if getter.get("qualname") is None else _text(getter["qualname"], "qualname")
    repository, commit, path = (getter.get(key) for key in ("repository", "commit", "path"))
    code = None
    if repository is not None or commit is not None or path is not None:
        code = CodeReference(_text(repository, "repository"), _text(commit, "commit"), _text(path, "path"))
    module = None if getter.get("module") is None else _text(getter["module"], "module")
    return LensReference(name, names[0], names[1], cids[0], cids[1], digest, code, module, qualname, reason)


def _local(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record of the network in the local form."""
    metadata = record.get("metadata")
    ours = metadata.get("atdataLens") if isinstance(metadata, Mapping) else None
    meta = _mapping({} if ours is None else ours, "`atdataLens`")
    getter: dict[str, Any]
    if "declared" in meta:
        getter = {"kind": "declared", "declared": meta["declared"]}
    else:
        code = _mapping(record.get("getterCode"), "`getterCode`")
        path, _, qualname = _text(code.get("path"), "path").partition(":")
        getter = {"kind": "code_reference", "path": path, "qualname": qualname or None}
        getter |= {key: code.get(key) for key in ("repository", "commit")}
    return {
        "name": record.get("name"),
        "source_schema": meta.get("source_schema", record.get("sourceSchema")),
        "view_schema": meta.get("view_schema", record.get("targetSchema")),
        **{key: meta[key] for key in ("source_cid", "view_cid", "digest") if key in meta},
        "getter": getter,
    }


def _declaration(value: Any) -> Declaration:
    """The declaration in JSON values from anyone: only known keys, and no more of them than are sensible."""
    value = _mapping(value, "`declared`")
    for key in value:
        if key not in _KEYS:
            raise LensRecordError(f"a declared lens has no part {key!r:.60}; this atdata knows {', '.join(_KEYS[1:])}")
    version = value.get("version")
    if type(version) is not int or version != _VERSION:
        raise LensRecordError(f"the declared lens has format version {version!r:.60}; this atdata reads {_VERSION}")
    for key in _KEYS[1:]:
        if key in value and not isinstance(value[key], Mapping if key in _DICTS else list | tuple):
            raise LensRecordError(f"`{key}` of a declared lens is a JSON {'object' if key in _DICTS else 'list'}")
    nested = [names for names in value.get("nest", {}).values() if isinstance(names, list | tuple)]
    if sum(len(value[key]) for key in value if key != "version") + sum(map(len, nested)) > _MAX_ENTRIES:
        raise LensRecordError(f"a declared lens has at most {_MAX_ENTRIES} parts")
    defaults = {_path(path): _value(item) for path, item in value.get("default", {}).items()}
    if sum(map(len, defaults.values())) > _MAX_DEFAULTS:
        raise LensRecordError("the defaults of the declared lens are too large")
    return Declaration(
        rename={_path(old): _path(new) for old, new in value.get("rename", {}).items()},
        drop=_paths(value.get("drop", ())),
        default=defaults,
        cast=_paths(value.get("cast", ())),
        nest={_path(path): _paths(names) for path, names in value.get("nest", {}).items()},
        unnest=_paths(value.get("unnest", ())),
        scale={_path(path): _factor(item, path) for path, item in value.get("scale", {}).items()},
    )


_DICTS = ("rename", "default", "nest", "scale")


def _path(value: Any) -> str:
    path = _text(value, "a field")
    if not all(part.isidentifier() for part in path.split(".")):
        raise LensRecordError(f"{path!r:.60} is not the name of a field")
    return path


def _paths(value: Any) -> frozenset[str]:
    if not isinstance(value, list | tuple):
        raise LensRecordError("the parts of a declared lens are lists of names")
    found = frozenset(map(_path, value))
    if len(found) < len(value):
        raise LensRecordError("a declared lens names a field twice in one list")
    return found


def _value(item: Any) -> bytes:
    item = _mapping(item, "a default")
    if item.keys() == {"value"}:
        value = item["value"]
        if not (value is None or type(value) in (bool, str) or (type(value) is int and abs(value) < _SAFE_INT)):
            raise LensRecordError("a default under `value` is a text, a whole number, true, false or null")
        try:
            data = msgspec.msgpack.encode(value)
        except UnicodeEncodeError:
            raise LensRecordError("a default is text with a lone surrogate") from None
    elif item.keys() == {"msgpack"} and isinstance(item["msgpack"], str) and len(item["msgpack"]) <= 2 * _MAX_DEFAULT:
        try:
            data = base64.b64decode(item["msgpack"], validate=True)
        except (binascii.Error, ValueError):
            raise LensRecordError("a default under `msgpack` is not base64") from None
    else:
        raise LensRecordError("a default is given as `value` or as `msgpack`, of at most 1 MiB")
    if len(data) > _MAX_DEFAULT:
        raise LensRecordError("a default has more than 1 MiB")
    return data


def _factor(item: Any, path: Any) -> Fraction:
    good = (
        isinstance(item, list | tuple) and len(item) == 2 and all(type(n) is int and abs(n) <= _SAFE_INT for n in item)
    )
    if not good or item[1] <= 0:
        raise LensRecordError(f"the factor of {path!r:.60} is not two whole numbers, the second above 0")
    factor = factor_of(Fraction(item[0], item[1]), path)
    if [factor.numerator, factor.denominator] != list(item):
        raise LensRecordError(f"the factor of {path!r:.60} is not in its lowest terms")
    return factor


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise LensRecordError(f"{what} is a JSON object, not {type(value).__name__}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_PATH or not value.isprintable():
        raise LensRecordError(f"{what} in a lens record is text of at most {_MAX_PATH} characters, not {value!r:.60}")
    return value
