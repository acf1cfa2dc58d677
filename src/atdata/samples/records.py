"""Stored schema records, from anyone, to one checked definition.

A *definition* is plain data: `{"name", "fields": [{"name", "fieldType", "default"?, "kwOnly"?}], "description"}`, with
each default as msgpack bytes and each `fieldType` a node such as `{"kind": "ndarray", "declaredDtype": "uint8"}`. All
sizes, names and kinds in it are checked; `atdata.samples.build` turns it into classes without looking back.

Two forms are read: the local one (`fields`, each with a `fieldType` of `$type` `local#…`) and the network one
(`science.alt.dataset.schema`, JSON Schema draft-07).
"""

from __future__ import annotations

import base64
import binascii
import keyword
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from atdata.errors import SchemaError

__all__ = [
    "DTYPES",
    "MAX_DEFAULT",
    "MAX_DEPTH",
    "MAX_FIELDS",
    "MAX_PARTS",
    "RecordReader",
    "check_name",
    "property_of",
    "scalar_from_json",
    "scalar_to_json",
]

MAX_FIELDS = 10_000
MAX_DEPTH = 32
MAX_DEFAULT = 1 << 20
MAX_PARTS = 50_000
_MAX_NAME = 200
_MAX_DESCRIPTION = 100_000
_MAX_DEFAULTS = 16 << 20
_SAFE_INT = 2**53 - 1

# Every dtype a field can declare; sized by name only, byte order is not declared.
DTYPES: dict[str, np.dtype[Any]] = {
    np.dtype(t).name: np.dtype(t)
    for t in (
        np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.longdouble,
        np.clongdouble, np.float16, np.float32, np.float64, np.complex64, np.complex128, np.str_, np.bytes_, np.void,
        np.datetime64, np.timedelta64,
    )
}  # fmt: skip

_PRIMITIVES = ("str", "int", "float", "bool", "bytes")
_BASES = ("Enum", "StrEnum", "IntEnum", "str", "int")
_JSON_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
# Formats of the public implementation that stay bytes here, with the words that name them in a `$ref`.
_OPAQUE = ("sparse", "arrow_tensor", "safetensors", "dataframe")
_REFS = (
    ("ndarray", {"kind": "ndarray", "declaredDtype": None}),
    ("sparse", {"kind": "primitive", "primitive": "bytes"}),
    ("structured", {"kind": "ndarray", "declaredDtype": "void"}),
    ("safetensors", {"kind": "primitive", "primitive": "bytes"}),
    ("arrow", {"kind": "primitive", "primitive": "bytes"}),
    ("tensor", {"kind": "primitive", "primitive": "bytes"}),
    ("dataframe", {"kind": "primitive", "primitive": "bytes"}),
)

Node = dict[str, Any]


def show(value: Any) -> str:
    """A value from a stranger, short enough for a message."""
    if isinstance(value, str):
        return repr(value[:80])
    return repr(value)[:80] if value is None or isinstance(value, bool | float) else f"a {type(value).__name__}"


def check_name(name: Any, what: str, path: str | None = None) -> str:
    """`name` when it can name a class, a field or an enum member.

    Raises:
        SchemaError: it is no identifier, a keyword, reserved, or too long.
    """
    if not isinstance(name, str):
        raise SchemaError(f"the name of {what} must be text, not {type(name).__name__}", field=path)
    if len(name) > _MAX_NAME:
        raise SchemaError(f"the name of {what} has {len(name)} characters, more than {_MAX_NAME}", field=path)
    if not name.isidentifier() or unicodedata.normalize("NFKC", name) != name:
        raise SchemaError(f"{name!r} cannot name {what}: it is not an identifier", field=path)
    if keyword.iskeyword(name):
        raise SchemaError(f"{name!r} cannot name {what}: it is a keyword", field=path)
    if name.startswith("__"):
        raise SchemaError(f"{name!r} cannot name {what}: two leading underscores are reserved", field=path)
    return name


class RecordReader:
    """Reads one record; counts what it has seen, so that no record can ask for more than the limits allow."""

    def __init__(self) -> None:
        self._nodes = 0
        self._defaults = 0

    def record(self, record: Any) -> tuple[Node, str]:
        """Definition and version in `record`.

        Raises:
            SchemaError: the record is malformed, too large, or names a kind of field that is unknown.
        """
        try:
            return self._record(_mapping(record, "a schema record", None))
        except RecursionError:
            raise SchemaError("the schema record is nested too deeply") from None

    def _record(self, record: Mapping[str, Any]) -> tuple[Node, str]:
        newest = record.get("atdataSchemaVersion", record.get("$atdataSchemaVersion", 1))
        if newest != 1 or isinstance(newest, bool):
            raise SchemaError(f"the schema record has format version {show(newest)}; this atdata reads version 1")
        version = record.get("version", "1.0.0")
        if not (isinstance(version, str) and 0 < len(version) <= 100 and version.isprintable()):
            raise SchemaError(f"{show(version)} is not a version")
        if isinstance(record.get("schema"), Mapping):
            return self._network(record), version
        return self._object(record, 0, None), version

    # -- the local form --------------------------------------------------------------------------------------

    def _object(self, record: Mapping[str, Any], depth: int, path: str | None, *, outer: int = 0) -> Node:
        name = self._class_name(record, path)
        fields = record.get("fields")
        if not isinstance(fields, list | tuple):
            raise SchemaError("`fields` must be a list", field=path or name)
        self._check_count(len(fields), path or name)
        out = []
        for i, f in enumerate(fields):
            f = _mapping(f, "a field", f"{name}.fields[{i}]")
            where = f"{name}.{check_name(f.get('name'), 'a field', f'{name}.fields[{i}]')}"
            node = self._node(f.get("fieldType", f.get("field_type")), where, depth, outer)
            out.append(self._field(f, f["name"], node, f.get("optional", False) is True, where))
        return _definition(name, out, self._description(record, name))

    def _class_name(self, record: Mapping[str, Any], path: str | None) -> str:
        name = record.get("name")
        if isinstance(name, str) and len(name) <= 10 * _MAX_NAME:
            name = name.rpartition(".")[2]
        return check_name(name, "a class", path)

    def _description(self, record: Mapping[str, Any], name: str) -> str | None:
        text = record.get("description")
        if text is not None and (not isinstance(text, str) or len(text) > _MAX_DESCRIPTION):
            raise SchemaError(f"the description must be text of at most {_MAX_DESCRIPTION} characters", field=name)
        if text is not None:
            scalar_to_json(text, name)
        return text or None

    def _check_count(self, n: int, path: str) -> None:
        if not 0 < n <= MAX_FIELDS:
            raise SchemaError(f"has {n} fields; from 1 to {MAX_FIELDS} are allowed", field=path)

    def _field(self, f: Mapping[str, Any], name: str, node: Node, optional: bool, path: str) -> Node:
        out: Node = {"name": name, "fieldType": node}
        if (default := self._default(f, path)) is not None:
            out["default"] = default
        elif optional:
            out["default"] = b"\xc0"
        if out.get("default") == b"\xc0" and not _allows_none(node):
            node["nullable"] = True  # optional in a record that is not ours: None stands for what is missing
        if f.get("kwOnly") is True:
            out["kwOnly"] = True
        return out

    def _default(self, f: Mapping[str, Any], path: str) -> bytes | None:
        if "defaultMsgpack" in f:
            text = f["defaultMsgpack"]
            if not isinstance(text, str) or len(text) > 2 * MAX_DEFAULT:
                raise SchemaError("`defaultMsgpack` must be base64 text of at most 1 MiB of data", field=path)
            try:
                data = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                raise SchemaError("`defaultMsgpack` is not base64", field=path) from None
        elif "default" in f:
            try:
                data = msgspec.msgpack.encode(f["default"])
            except (TypeError, OverflowError, RecursionError, ValueError, msgspec.MsgspecError) as error:
                raise SchemaError(f"the default cannot be stored: {error}", field=path) from None
        else:
            return None
        self._defaults += len(data)
        if len(data) > MAX_DEFAULT or self._defaults > _MAX_DEFAULTS:
            raise SchemaError(f"a default of {len(data)} bytes is too large for a schema", field=path)
        return data

    def _node(self, value: Any, path: str, depth: int, outer: int) -> Node:
        self._nodes += 1
        if self._nodes > MAX_PARTS:
            raise SchemaError(f"the schema has more than {MAX_PARTS} parts", field=path)
        if depth >= MAX_DEPTH:
            raise SchemaError(f"nested more than {MAX_DEPTH} deep", field=path)
        value = _mapping(value, "`fieldType`", path)
        tag = value.get("$type", value.get("kind"))
        if not isinstance(tag, str):
            raise SchemaError("`fieldType` has no kind", field=path)
        kind = tag.rpartition("#")[2]
        node = self._kind(kind, value, path, depth + 1, outer)
        if value.get("nullable") is True and node["kind"] != "none":
            node["nullable"] = True
        return node

    def _kind(self, kind: str, value: Mapping[str, Any], path: str, depth: int, outer: int) -> Node:
        match kind:
            case "primitive":
                return self._primitive(value, path)
            case "ndarray" | "structured":
                return _array(kind, value, path)
            case "array":
                items = self._node(
                    value.get("items", {"kind": "primitive", "primitive": "str"}), path + "[]", depth, outer
                )
                node = {"kind": "array", "items": items}
                return {**node, "container": "tuple"} if value.get("container") == "tuple" else node
            case "tuple":
                each = value.get("items")
                if not isinstance(each, list | tuple):
                    raise SchemaError("`items` of a tuple must be a list", field=path)
                return {
                    "kind": "tuple",
                    "items": [self._node(item, f"{path}[{i}]", depth, outer) for i, item in enumerate(each)],
                }
            case "map":
                return {"kind": "map", "values": self._node(value.get("values"), path + "{}", depth, outer)}
            case "object":
                return {"kind": "object", **self._object(value, depth, path, outer=outer + 1)}
            case "recursive":
                up = value.get("up")
                if type(up) is not int or not 0 <= up <= outer:
                    raise SchemaError(f"`up` is {show(up)}, which names no class around the field", field=path)
                return {"kind": "recursive", "up": up}
            case "any" | "none":
                return {"kind": kind}
            case "literal":
                return {"kind": "literal", "literal": _scalars(value.get("literal"), path)}
            case "enum":
                return {"kind": "enum", "enum": _enum(value.get("enum"), path)}
            case "ref":
                raise SchemaError("a reference to another record cannot be turned into a type", field=path)
            case _ if kind in _OPAQUE:
                return {"kind": "primitive", "primitive": "bytes"}
        raise SchemaError(f"{show(kind)} is not a kind of field this atdata knows", field=path)

    def _primitive(self, value: Mapping[str, Any], path: str) -> Node:
        name = value.get("primitive")
        if name not in _PRIMITIVES:
            raise SchemaError(f"{show(name)} is not a primitive type; those are {', '.join(_PRIMITIVES)}", field=path)
        node: Node = {"kind": "primitive", "primitive": name}
        form = value.get("format")
        if (name, form) in (("str", "date-time"), ("bytes", "image")):
            node["format"] = form
        elif "enum" in value:
            node["enum"] = _enum(value["enum"], path)
        elif "literal" in value:
            node["literal"] = _scalars(value["literal"], path)
        return node

    # -- the network form ------------------------------------------------------------------------------------

    def _network(self, record: Mapping[str, Any]) -> Node:
        name = self._class_name(record, None)
        schema = record["schema"]
        if isinstance(schema.get("schemaBody"), Mapping):
            schema = schema["schemaBody"]
        properties = _mapping(schema.get("properties"), "`properties`", name)
        self._check_count(len(properties), name)
        required = schema.get("required", [])
        order = schema.get("propertyOrder", [])
        if not isinstance(required, list | tuple) or not isinstance(order, list | tuple):
            raise SchemaError("`required` and `propertyOrder` must be lists", field=name)
        # Servers sort maps; the list, where there is one, has the order that was declared.
        names = dict.fromkeys(n for n in order if isinstance(n, str) and n in properties)
        names.update(dict.fromkeys(properties))
        needed = {n for n in required if isinstance(n, str)}
        fields = [self.property(name, n, properties[n], n in needed) for n in names]
        return _definition(name, fields, self._description(record, name))

    def property(self, owner: str, name: Any, value: Any, required: bool) -> Node:
        """The field that one JSON Schema property stands for."""
        where = f"{owner}.{check_name(name, 'a field', owner)}"
        value = _mapping(value, "a property", where)
        node = self._node(value["atdataType"], where, 1, 0) if "atdataType" in value else self._json(value, where, 1)
        return self._field(value, name, node, not required, where)

    def _json(self, value: Any, path: str, depth: int) -> Node:
        self._nodes += 1
        if self._nodes > MAX_PARTS:
            raise SchemaError(f"the schema has more than {MAX_PARTS} parts", field=path)
        if depth >= MAX_DEPTH:
            raise SchemaError(f"nested more than {MAX_DEPTH} deep", field=path)
        value = _mapping(value, "a JSON Schema", path)
        if "$ref" in value:
            ref = str(value["$ref"])[:500].lower()
            for word, known in _REFS:
                if word in ref:
                    return dict(known)
            raise SchemaError(f"$ref {show(ref)} is not a format this atdata knows", field=path)
        kind = value.get("type")
        if isinstance(kind, list | tuple):
            some = [k for k in kind if k != "null"]
            node: Node = {"kind": "any"}
            if len(some) == 1:
                node = self._json({**value, "type": some[0]}, path, depth + 1)
            if "null" in kind and not _allows_none(node):
                node["nullable"] = True
            return node
        if kind is None:
            return {"kind": "any"}
        if kind == "null":
            return {"kind": "none"}
        if kind == "array":
            return {"kind": "array", "items": self._json(value.get("items", {}), path + "[]", depth + 1)}
        if kind == "object":
            inner = value.get("additionalProperties")
            item = self._json(inner, path + "{}", depth + 1) if isinstance(inner, Mapping) else {"kind": "any"}
            return {"kind": "map", "values": item}
        if not isinstance(kind, str) or kind not in _JSON_TYPES:
            raise SchemaError(f"{show(kind)} is not a JSON Schema type", field=path)
        if kind == "string" and (value.get("format") == "byte" or value.get("contentEncoding") == "base64"):
            return {"kind": "primitive", "primitive": "bytes"}
        return {"kind": "primitive", "primitive": _JSON_TYPES[kind]}


def _mapping(value: Any, what: str, path: str | None) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SchemaError(f"{what} must be a JSON object, not {type(value).__name__}", field=path)
    return value


def _allows_none(node: Node) -> bool:
    return node["kind"] in ("any", "none") or None in node.get("literal", ())


def _definition(name: str, fields: list[Node], description: str | None) -> Node:
    names: set[str] = set()
    late = False
    for f in fields:
        path = f"{name}.{f['name']}"
        if f["name"] in names:
            raise SchemaError("two fields have this name", field=path)
        names.add(f["name"])
        # After a positional field that may be missing, one that may not can only be given by name.
        if not f.get("kwOnly"):
            if "default" in f:
                late = True
            elif late:
                f["kwOnly"] = True
    return {"name": name, "fields": fields, "description": description}


def _array(kind: str, value: Mapping[str, Any], path: str) -> Node:
    ours = "declaredDtype" in value
    # Others write "float32" for every array whose dtype is not declared: their `dtype` says nothing.
    declared = value["declaredDtype"] if ours else ("void" if kind == "structured" else None)
    if declared is not None and (not isinstance(declared, str) or declared not in DTYPES):
        raise SchemaError(f"{show(declared)} is not a dtype this machine has", field=path)
    node: Node = {"kind": "ndarray", "declaredDtype": declared}
    dims = value.get("dims") if ours else value.get("shape")
    if dims is not None:
        if not isinstance(dims, list | tuple) or len(dims) > 32:
            raise SchemaError("the shape must be a list of at most 32 dimensions", field=path)
        for dim in dims:
            if not (
                dim is None
                or (type(dim) is int and 0 <= dim <= _SAFE_INT)
                or (ours and isinstance(dim, str) and len(dim) <= _MAX_NAME)
            ):
                raise SchemaError(f"{show(dim)} is not a dimension", field=path)
            scalar_to_json(dim, path)
        node["dims"] = list(dims)
    return node


def scalar_to_json(value: str | int | None, path: str) -> Any:
    """A str, int, bool or None as JSON that every reader keeps exact."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise SchemaError(f"the text {show(value)} has a lone surrogate", field=path) from None
    elif type(value) is int and not -_SAFE_INT <= value <= _SAFE_INT:
        if not -(2**63) <= value < 2**64:
            raise SchemaError(f"{value} does not fit into 64 bits", field=path)
        return {"int": str(value)}  # JSON numbers are doubles to some readers
    return value


def _scalar(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        digits = value.get("int")
        if isinstance(digits, str) and re.fullmatch(r"-?[0-9]{16,20}", digits, re.ASCII):
            value = int(digits)
    if value is None or type(value) in (bool, int) or (isinstance(value, str) and len(value) <= MAX_DEFAULT):
        return scalar_to_json(value, path)
    raise SchemaError(f"{show(value)} is not a str, int, bool or null", field=path)


def scalar_from_json(value: Any) -> Any:
    """The value that `scalar_to_json` wrote."""
    return int(value["int"]) if isinstance(value, dict) else value


def _scalars(values: Any, path: str) -> list[Any]:
    if not isinstance(values, list | tuple) or not 0 < len(values) <= MAX_FIELDS:
        raise SchemaError(f"a literal needs a list of 1 to {MAX_FIELDS} values", field=path)
    return [_scalar(value, path) for value in values]


def _enum(value: Any, path: str) -> Node:
    value = _mapping(value, "`enum`", path)
    base, members = value.get("base"), value.get("members")
    if base not in _BASES:
        raise SchemaError(f"{show(base)} is not a base of enums; those are {', '.join(_BASES)}", field=path)
    if not isinstance(members, list | tuple) or not 0 < len(members) <= MAX_FIELDS:
        raise SchemaError(f"an enum needs a list of 1 to {MAX_FIELDS} members", field=path)
    out = []
    for member in members:
        member = _mapping(member, "an enum member", path)
        name = check_name(member.get("name"), "an enum member", path)
        scalar = _scalar(member.get("value"), path)
        if type(scalar_from_json(scalar)) not in (str, int):
            raise SchemaError(f"the value of enum member {name!r} is neither str nor int", field=path)
        if base != "Enum" and isinstance(scalar, str) != (base in ("str", "StrEnum")):
            raise SchemaError(f"the value of enum member {name!r} does not fit its base {base}", field=path)
        out.append({"name": name, "value": scalar})
    if len({m["name"] for m in out}) < len(out):
        raise SchemaError("two enum members have the same name", field=path)
    return {"name": check_name(value.get("name"), "an enum", path), "base": base, "members": out}


def property_of(node: Node) -> Node:
    """The JSON Schema of one node, for readers who do not know ours; not everything can be said in it."""
    match node["kind"]:
        case "primitive":
            name = node["primitive"]
            if name == "bytes":
                return {"type": "string", "format": "byte", "contentEncoding": "base64"}
            out: Node = {"type": next(k for k, v in _JSON_TYPES.items() if v == name)}
            if "format" in node:
                out["format"] = node["format"]
            values = node.get("literal") or [m["value"] for m in node.get("enum", {}).get("members", ())]
            if values and not any(isinstance(v, dict) for v in values):
                out["enum"] = values
            return out
        case "ndarray":
            word = "structured" if node["declaredDtype"] == "void" else "ndarray"
            return {"$ref": f"https://alt.science/schemas/atdata-{word}-bytes/1.0.0#/$defs/{word}"}
        case "array":
            return {"type": "array", "items": property_of(node["items"])}
        case "tuple":
            n = len(node["items"])
            return {"type": "array", "minItems": n, "maxItems": n}
        case "map":
            inner = property_of(node["values"])
            return {"type": "object", "additionalProperties": inner} if inner else {"type": "object"}
        case "object" | "recursive":
            return {"type": "object"}
        case "none":
            return {"type": "null"}
    return {}
