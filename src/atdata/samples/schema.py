"""The stored form of a sample type: what a class says about its bytes, as plain data.

A `Schema` is made from a class or from a record, and gives back either. Two forms of record exist, a local one and one
for the AT Protocol network; both are read also as other implementations write them. Nothing in a record is executed.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import inspect
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from atdata.cid import generate_cid
from atdata.errors import SchemaError
from atdata.forks import cached_property
from atdata.samples import codec
from atdata.samples.build import class_of, decode_default, encode_default, identity, node_type, refers_around
from atdata.samples.fields import (
    AnyValue,
    Array,
    DateTime,
    DictOf,
    EnumOf,
    FieldType,
    ImageBytes,
    ListOf,
    LiteralOf,
    Nested,
    OptionalOf,
    Primitive,
    TupleOf,
)
from atdata.samples.packable import MEMBERS
from atdata.samples.records import (
    DTYPES,
    MAX_DEFAULT,
    MAX_DEPTH,
    MAX_FIELDS,
    MAX_PARTS,
    Node,
    RecordReader,
    check_name,
    property_of,
    scalar_to_json,
)

__all__ = ["Schema", "SchemaField"]

_SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", re.ASCII)
_JSON_SCHEMA = "http://json-schema.org/draft-07/schema#"
# What the network's lexicon allows, in bytes.
_NETWORK_NAME, _NETWORK_DESCRIPTION = 100, 5000


@dataclasses.dataclass(frozen=True)
class SchemaField:
    """One field of a schema.

    Attributes:
        name: the field's name.
        type: what it holds; see `atdata.samples.fields`.
        default: the msgpack bytes of the value that stands for a missing one; None when the field is required.
        kw_only: whether the class takes it by name only.
    """

    name: str
    type: FieldType
    default: bytes | None = None
    kw_only: bool = False

    @property
    def optional(self) -> bool:
        """Whether a sample's bytes may lack the field."""
        return self.default is not None

    def default_value(self) -> Any:
        """The default, made anew at each call.

        Raises:
            SchemaError: the field is required.
        """
        if self.default is None:
            raise SchemaError("the field has no default", field=self.name)
        return decode_default(self.type, self.default, self.name)


@dataclasses.dataclass(frozen=True, eq=False)
class Schema:
    """What one sample type is, apart from any class.

    Two schemas are equal when their records are. `cid` is the same for all that read bytes in the same way.

    Attributes:
        name: the class's name.
        fields: the fields in the order of the bytes.
        version: `major.minor.patch`, with optional pre-release and build parts.
        description: free text; the class's docstring.

    Example:
        >>> import atdata
        >>> @atdata.packable
        ... class Point:
        ...     x: float
        ...     label: str = "none"
        >>> schema = Schema.of(Point)
        >>> [(f.name, f.type.name, f.optional) for f in schema.fields]
        [('x', 'float', False), ('label', 'str', True)]
        >>> Schema.from_record(schema.to_record()).sample_type()(x=1.5)
        Point(x=1.5, label='none')
    """

    name: str
    fields: tuple[SchemaField, ...]
    version: str = "1.0.0"
    description: str | None = None
    # The class these are the fields of, needed where a field holds that class again.
    _root: type | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def of(cls, sample_type: type, *, version: str = "1.0.0") -> Schema:
        """The schema of a packable class.

        A default made by a factory that gives another value each time (the current time, a random number) is no part
        of the schema; such a field is required in it.

        Args:
            sample_type: the class; its docstring becomes the description.
            version: `major.minor.patch`.

        Raises:
            SchemaError: not a packable class, a default that does not fit its field, or a malformed version.
        """
        if not (isinstance(version, str) and len(version) <= 100 and _SEMVER.fullmatch(version)):
            raise SchemaError(f"{version!r:.120} is not a version; write major.minor.patch, for example 1.0.0")
        fields = _fields_of(sample_type)
        name, description = check_name(sample_type.__name__, "a class"), _description_of(sample_type)
        schema = cls(name, fields, version, description, sample_type)
        _ = schema._definition  # what cannot be stored fails here
        return schema

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Schema:
        """The schema in a record, in the local or the network form, from this or another implementation.

        The record may come from a stranger: sizes and nesting are bounded, names are checked, nothing is executed.

        Raises:
            SchemaError: the record is malformed or says something this atdata does not know; the message names the
                field.
        """
        definition, version = RecordReader().record(record)
        name = definition["name"]
        for f in definition["fields"]:
            if f["name"] in MEMBERS:
                raise SchemaError("every packable class has a member of this name", field=f"{name}.{f['name']}")
        root = class_of(definition) if refers_around(definition) else None
        if root is not None:
            nodes = codec.plan(root).nodes
        else:
            nodes = {f["name"]: node_type(f["fieldType"], f"{name}.{f['name']}") for f in definition["fields"]}
        fields = []
        for f in definition["fields"]:
            default, path = f.get("default"), f"{name}.{f['name']}"
            if default is not None:
                default = encode_default(nodes[f["name"]], decode_default(nodes[f["name"]], default, path), path)
            fields.append(SchemaField(f["name"], nodes[f["name"]], default, f.get("kwOnly", False)))
        return cls(name, tuple(fields), version, definition["description"], root)

    def to_record(self) -> dict[str, Any]:
        """The local form, as JSON values; the same for every equal schema.

        Example:
            >>> import atdata
            >>> @atdata.packable
            ... class Word:
            ...     text: str
            >>> Schema.of(Word).to_record()["fields"]
            [{'name': 'text', 'fieldType': {'$type': 'local#primitive', 'primitive': 'str'}, 'optional': False}]
        """
        return {
            "name": self.name,
            "version": self.version,
            "fields": [_field_to_json(f, "$type") for f in self._definition["fields"]],
            "description": self.description,
        }

    def to_network_record(self, created_at: str) -> dict[str, Any]:
        """The network form: a `science.alt.dataset.schema` record, as JSON values without floats.

        Args:
            created_at: an ISO 8601 time with a time zone.

        Raises:
            SchemaError: the name or the version is not one the network's lexicon allows.
        """
        if len(self.name.encode()) > _NETWORK_NAME:
            raise SchemaError(f"a schema's name on the network has at most {_NETWORK_NAME} bytes", field=self.name)
        if len(self.version) > 100 or not _SEMVER.fullmatch(self.version):
            raise SchemaError(f"version {self.version!r} is not major.minor.patch, which the network asks for")
        fields = self._definition["fields"]
        properties = {f["name"]: _property(self.name, f) for f in fields}
        schema: dict[str, Any] = {
            "$type": "science.alt.dataset.schema#jsonSchemaFormat",
            "$schema": _JSON_SCHEMA,
            "type": "object",
            "properties": properties,
            "propertyOrder": list(properties),
        }
        if required := [f["name"] for f in fields if "default" not in f]:
            schema["required"] = required
        refs = [str(p.get("$ref", "")) for p in properties.values()]
        formats = {k: "1.0.0" for k in ("ndarray", "structured") if any(f"/{k}" in ref for ref in refs)}
        if formats:
            schema["arrayFormatVersions"] = {f"{k}Bytes": v for k, v in formats.items()}
        record = {
            "$type": "science.alt.dataset.schema",
            "name": self.name,
            "version": self.version,
            "schemaType": "jsonSchema",
            "schema": schema,
            "createdAt": created_at,
            "atdataSchemaVersion": 1,
        }
        if self.description:
            record["description"] = self.description.encode()[:_NETWORK_DESCRIPTION].decode(errors="ignore")
        return record

    def sample_type(self) -> type:
        """A packable class for this schema, built in memory.

        The same content gives the same class, so `isinstance` agrees wherever the schema came from. The class and
        its instances can be pickled, also for processes that have never seen it.
        """
        return class_of(self._definition)

    @cached_property
    def cid(self) -> str:
        """The CID of what decides how bytes are read: name, fields, types, defaults; not version and description."""
        return generate_cid(identity(self._definition))

    @cached_property
    def _content(self) -> str:
        # Not the definition itself: in Python, a literal 1 equals True.
        return generate_cid(self._definition)

    @cached_property
    def _definition(self) -> Node:
        around = () if self._root is None else (self._root,)
        return {
            "name": self.name,
            "fields": _Writer().fields(self.fields, self.name, around, 0),
            "description": self.description,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schema):
            return NotImplemented
        return self.version == other.version and self._content == other._content

    def __hash__(self) -> int:
        return hash(self.cid)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Schema.from_record, (self.to_record(),))


def _fields_of(cls: type) -> tuple[SchemaField, ...]:
    plan = codec.plan(cls)
    sources = {f.name: f for f in dataclasses.fields(cls)}
    fields = []
    for f in plan.fields:
        path = f"{cls.__name__}.{f.name}"
        check_name(f.name, "a field", path)
        source = sources[f.name]
        default = None
        if source.default is not dataclasses.MISSING:
            default = encode_default(f.type, source.default, path)
        elif source.default_factory is not dataclasses.MISSING:
            default = _made_default(f.type, source.default_factory, path)
        if default is not None and len(default) > MAX_DEFAULT:
            raise SchemaError(f"a default of {len(default)} bytes is too large; at most {MAX_DEFAULT}", field=path)
        fields.append(SchemaField(f.name, f.type, default, f.kw_only))
    if len(fields) > MAX_FIELDS:
        raise SchemaError(f"has {len(fields)} fields; at most {MAX_FIELDS} can be stored", field=cls.__name__)
    return tuple(fields)


def _made_default(node: FieldType, factory: Any, path: str) -> bytes | None:
    first = encode_default(node, factory(), path)
    if factory in (list, dict, tuple):
        return first
    time.sleep(2e-6)  # clocks tick in microseconds: two calls must not give one time
    return first if encode_default(node, factory(), path) == first else None


def _description_of(cls: type) -> str | None:
    doc = vars(cls).get("__doc__")
    # The text dataclasses write where there is none: `Point(x: float, label: str = 'none')`.
    if not doc or re.fullmatch(rf"{re.escape(cls.__name__)}\((\*, )?(\w+: .*)?\)", doc):
        return None
    return inspect.cleandoc(doc).encode(errors="replace").decode()[:100_000] or None


class _Writer:
    """Field types to the nodes of a definition; see `atdata.samples.records`."""

    def __init__(self) -> None:
        self._parts = 0
        self._classes: dict[type, tuple[tuple[SchemaField, ...], str | None]] = {}

    def fields(self, fields: tuple[SchemaField, ...], path: str, around: tuple[type, ...], depth: int) -> list[Node]:
        out = []
        for f in fields:
            node: Node = {"name": f.name, "fieldType": self.node(f.type, f"{path}.{f.name}", around, depth)}
            if f.default is not None:
                node["default"] = f.default
            if f.kw_only:
                node["kwOnly"] = True
            out.append(node)
        return out

    def node(self, node: FieldType, path: str, around: tuple[type, ...], depth: int) -> Node:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise SchemaError(f"the schema has more than {MAX_PARTS} parts", field=path)
        if depth >= MAX_DEPTH:
            raise SchemaError(f"nested more than {MAX_DEPTH} deep", field=path)
        match node:
            case Primitive():
                name = node.name
                return {"kind": "none"} if name == "None" else {"kind": "primitive", "primitive": name}
            case AnyValue():
                return {"kind": "any"}
            case DateTime():
                return {"kind": "primitive", "primitive": "str", "format": "date-time"}
            case ImageBytes():
                return {"kind": "primitive", "primitive": "bytes", "format": "image"}
            case Array():
                return _array_node(node, path)
            case OptionalOf():
                return {**self.node(node.inner, path, around, depth), "nullable": True}
            case ListOf():
                return {"kind": "array", "items": self.node(node.item, path + "[]", around, depth + 1)}
            case TupleOf() if node.variadic:
                items = self.node(node.items[0], path + "[]", around, depth + 1)
                return {"kind": "array", "items": items, "container": "tuple"}
            case TupleOf():
                each = [self.node(item, f"{path}[{i}]", around, depth + 1) for i, item in enumerate(node.items)]
                return {"kind": "tuple", "items": each}
            case DictOf():
                return {"kind": "map", "values": self.node(node.value, path + "{}", around, depth + 1)}
            case EnumOf():
                return _enum_node(node.cls, path)
            case LiteralOf():
                return _of_values(node.values, "literal", [scalar_to_json(v, path) for v in node.values])
            case Nested():
                return self._nested(node.cls, path, around, depth)
        raise AssertionError(node)

    def _nested(self, cls: type, path: str, around: tuple[type, ...], depth: int) -> Node:
        if cls in around:
            return {"kind": "recursive", "up": around[::-1].index(cls)}
        name = check_name(cls.__name__, "a class", path)
        if cls not in self._classes:
            self._classes[cls] = _fields_of(cls), _description_of(cls)
        own, description = self._classes[cls]
        fields = self.fields(own, path, (*around, cls), depth + 1)
        return {"kind": "object", "name": name, "fields": fields, "description": description}


def _array_node(node: Array, path: str) -> Node:
    name = None if node.dtype is None else node.dtype.name
    if name is not None and name not in DTYPES:
        raise SchemaError(f"dtype {name} cannot be declared in a schema", field=path)
    out: Node = {"kind": "ndarray", "declaredDtype": name}
    if node.dims is not None:
        out["dims"] = dims = [scalar_to_json(d, path) for d in node.dims]
        if any(isinstance(d, dict) for d in dims):
            raise SchemaError(
                f"a dimension of {max(d for d in node.dims if isinstance(d, int))} is too large", field=path
            )
    return out


def _enum_node(cls: type[enum.Enum], path: str) -> Node:
    if issubclass(cls, enum.StrEnum):
        base = "StrEnum"
    elif issubclass(cls, enum.IntEnum):
        base = "IntEnum"
    else:
        base = "str" if issubclass(cls, str) else "int" if issubclass(cls, int) else "Enum"
    members = [
        {"name": check_name(name, "an enum member", path), "value": scalar_to_json(m.value, path)}
        for name, m in cls.__members__.items()
    ]
    definition = {"name": check_name(cls.__name__, "an enum", path), "base": base, "members": members}
    return _of_values(tuple(m.value for m in cls), "enum", definition)


def _of_values(values: tuple[Any, ...], kind: str, detail: Any) -> Node:
    """Values of one type are that primitive to readers who do not know more; others have a kind of their own."""
    types = {type(v) for v in values}
    if len(types) == 1 and (only := types.pop()) in (str, int, bool):
        return {"kind": "primitive", "primitive": only.__name__, kind: detail}
    return {"kind": kind, kind: detail}


# -- definitions to JSON -------------------------------------------------------------------------------------


def _field_to_json(f: Node, tag: str) -> dict[str, Any]:
    out = {"name": f["name"], "fieldType": _node_to_json(f["fieldType"], tag), "optional": "default" in f}
    out.update(_default_to_json(f))
    if f.get("kwOnly"):
        out["kwOnly"] = True
    return out


def _node_to_json(node: Node, tag: str) -> dict[str, Any]:
    kind = "structured" if node.get("declaredDtype") == "void" else node["kind"]
    out: dict[str, Any] = {tag: f"local#{kind}" if tag == "$type" else kind}
    for key, value in node.items():
        match key:
            case "kind":
                continue
            case "fields":
                out[key] = [_field_to_json(f, tag) for f in value]
            case "values":
                out[key] = _node_to_json(value, tag)
            case "items":
                is_list = isinstance(value, list)
                out[key] = [_node_to_json(v, tag) for v in value] if is_list else _node_to_json(value, tag)
            case "declaredDtype":
                # Other readers expect a dtype always, and take this one for undeclared.
                out["dtype"] = value or "float32"
                out[key] = value
            case "dims":
                out["shape"] = [d if isinstance(d, int) else None for d in value]
                if value and all(isinstance(d, str) for d in value):
                    out["dimensionNames"] = list(value)
                out[key] = list(value)
            case _:
                out[key] = value
    return out


def _default_to_json(f: Node) -> dict[str, Any]:
    if "default" not in f:
        return {}
    value = msgspec.msgpack.decode(f["default"])
    if _is_plain(value):
        return {"default": value}
    return {"defaultMsgpack": base64.b64encode(f["default"]).decode()}


def _is_plain(value: Any) -> bool:
    """Whether every JSON store and the AT Protocol keep `value` as it is: no floats, bytes, large integers, maps."""
    if type(value) is int:
        return abs(value) < 2**53
    if type(value) is list:
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, str) or value == {}


def _property(owner: str, f: Node) -> dict[str, Any]:
    """A JSON Schema property that reads back as `f`; our own keys are added only where it would not otherwise."""
    extra = {"kwOnly": True} if f.get("kwOnly") else {}
    plain = {**property_of(f["fieldType"]), **extra}
    for candidate in (plain, {**plain, **_default_to_json(f)}):
        if RecordReader().property(owner, f["name"], candidate, "default" not in f) == f:
            return candidate
    return {**plain, **_default_to_json(f), "atdataType": _node_to_json(f["fieldType"], "kind")}
