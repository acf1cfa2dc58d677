"""Sample classes out of stored schemas, in memory: no code is written, executed or imported.

A class built here is like one written by hand: `@packable`, with the fields, defaults and description of its definition
(see `atdata.samples.records`). The same definition gives the same class as long as anything uses it, and classes,
enums and their instances can be pickled, since what is pickled is the definition.
"""

from __future__ import annotations

import collections
import copyreg
import dataclasses
import enum
import functools
import types
import typing
import weakref
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from atdata.cid import generate_cid
from atdata.errors import AtdataError, SchemaError
from atdata.forks import shared_lock
from atdata.samples import codec
from atdata.samples.decode import explain, from_wire, wire_type
from atdata.samples.encode import Mismatch, to_wire
from atdata.samples.fields import (
    DictOf,
    FieldType,
    ListOf,
    Nested,
    OptionalOf,
    Shape,
    TupleOf,
    field_type,
)
from atdata.samples.images import Image
from atdata.samples.packable import make_packable
from atdata.samples.records import DTYPES, Node, scalar_from_json

__all__ = ["StoredType", "class_of", "decode_default", "encode_default", "identity", "node_type", "refers_around"]

_CACHE_SIZE = 256


class StoredType(type):
    """The type of classes built from a stored schema; it exists so that they can be pickled."""


class StoredEnumType(enum.EnumType):
    """The type of enums built from a stored schema."""


class _Cache:
    """Classes by what they were built from: all that are in use, and the latest ones."""

    def __init__(self) -> None:
        self._alive: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
        self._latest: collections.OrderedDict[str, type] = collections.OrderedDict()
        self._lock = shared_lock()

    def get(self, key: str) -> type | None:
        with self._lock:
            found = self._alive.get(key)
            return None if found is None else self._keep(key, found)

    def add(self, key: str, made: type) -> type:
        """`made`, or the class that another thread was quicker to build."""
        with self._lock:
            return self._keep(key, self._alive.setdefault(key, made))

    def _keep(self, key: str, found: type) -> type:
        self._latest[key] = found
        self._latest.move_to_end(key)
        if len(self._latest) > _CACHE_SIZE:
            self._latest.popitem(last=False)
        return found


_classes = _Cache()
_enums = _Cache()


def identity(definition: Node, *, call: bool = False) -> Node:
    """What decides how bytes are read: name and fields, no descriptions; with `call`, keyword-only fields too."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k != "description" and (call or k != "kwOnly")}
        return [strip(v) for v in value] if isinstance(value, list) else value

    stripped: Node = strip(definition)
    return stripped


def class_of(definition: Node) -> type:
    """The packable class of a checked definition that refers to no class around it.

    Raises:
        SchemaError: a default does not fit its field, or a field has a name that packable classes use themselves.
    """
    key = generate_cid(identity(definition, call=True))
    found = _classes.get(key)
    if found is None:
        parts: list[type] = []
        made = _shell(definition, [], parts)
        for part in parts:
            make_packable(part)
        for i, part in enumerate(parts):
            part.__atdata_stored__ = (definition, i, parts)  # type: ignore[attr-defined]
            for f in codec.plan(part).fields:
                # Proved now, so that a default that cannot be made is not met in the middle of reading.
                default = part.__atdata_defaults__.get(f.name)  # type: ignore[attr-defined]
                if default is not None:
                    decode_default(f.type, default, f"{part.__name__}.{f.name}")
        found = _classes.add(key, made)
    return found


def _shell(definition: Node, around: list[type], parts: list[type]) -> type:
    """The class with its annotations and defaults, not a dataclass yet; `parts` gets it and all it contains."""
    name, fields = definition["name"], definition["fields"]
    shell = StoredType(name, (), {"__module__": __name__, "__doc__": definition["description"]})
    parts.append(shell)
    around = [*around, shell]
    annotations: dict[str, Any] = {}
    for f in fields:
        annotations[f["name"]] = _annotation(f["fieldType"], around, parts)
        default: Any = {}
        if "default" in f:
            default = _default(shell, f, annotations[f["name"]])
        # Also without a default: an attribute that every class has (`mro`) would be taken for one.
        setattr(shell, f["name"], dataclasses.field(kw_only=f.get("kwOnly", False), **default))
    shell.__annotations__ = annotations
    shell.__atdata_defaults__ = {f["name"]: f["default"] for f in fields if "default" in f}  # type: ignore[attr-defined]
    return shell


def _default(shell: type, f: Node, hint: Any) -> dict[str, Any]:
    name, data, kind = f["name"], f["default"], f["fieldType"]["kind"]
    if data == b"\xc0":
        return {"default": None}
    if data == b"\x90" and typing.get_origin(hint) is list:
        return {"default_factory": list}
    if data == b"\x80" and typing.get_origin(hint) is dict:
        return {"default_factory": dict}
    if kind in ("primitive", "literal", "enum"):  # values that nobody can change
        path = f"{shell.__name__}.{name}"
        return {"default": decode_default(field_type(hint, path), data, path)}
    return {"default_factory": functools.partial(_default_of, shell, name, data)}


def _default_of(cls: type, name: str, data: bytes) -> Any:
    return decode_default(codec.plan(cls).nodes[name], data, f"{cls.__name__}.{name}")


# -- defaults ------------------------------------------------------------------------------------------------


def encode_default(node: FieldType, value: Any, path: str) -> bytes:
    """The msgpack bytes of a default value.

    Raises:
        SchemaError: the value is not of the field's type.
    """
    try:
        return msgspec.msgpack.encode(to_wire(node)(value))
    except Mismatch as error:
        raise _unfit(error, path) from None
    except (OverflowError, RecursionError, ValueError) as error:
        raise SchemaError(f"the default cannot be stored: {error}", field=path) from None


def decode_default(node: FieldType, data: bytes, path: str) -> Any:
    """The default value in msgpack bytes, made anew; arrays in it are writable where they are the whole value.

    Raises:
        SchemaError: the bytes are not a value of the field's type.
    """
    try:
        if _has_nested(node):
            _complete(node, msgspec.msgpack.decode(data))
        wire = msgspec.msgpack.Decoder(wire_type(node)).decode(data)
        convert = from_wire(node)
        value = wire if convert is None else convert(wire)
        return value.copy() if isinstance(value, np.ndarray) else value
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _unfit(explain(error, {}), path) from None
    except Mismatch as error:
        raise _unfit(error, path) from None
    except (AtdataError, TypeError, ValueError) as error:
        raise SchemaError(f"the default cannot be made: {error}", field=path) from None


def _unfit(error: Mismatch, path: str) -> SchemaError:
    return SchemaError(f"the default does not fit{error.path and ' at '}{error.path}: {error.message}", field=path)


def _has_nested(node: FieldType) -> bool:
    match node:
        case Nested():
            return True
        case OptionalOf():
            return _has_nested(node.inner)
        case ListOf():
            return _has_nested(node.item)
        case DictOf():
            return _has_nested(node.value)
        case TupleOf():
            return any(map(_has_nested, node.items))
    return False


def _complete(node: FieldType, wire: Any) -> None:
    """Refuse a nested sample that leaves out fields: defaults made of defaults can grow without bound."""
    match node:
        case OptionalOf():
            if wire is not None:
                _complete(node.inner, wire)
        case ListOf() if isinstance(wire, list):
            for item in wire:
                _complete(node.item, item)
        case DictOf() if isinstance(wire, dict):
            for item in wire.values():
                _complete(node.value, item)
        case TupleOf() if isinstance(wire, list):
            for i, item in enumerate(wire):
                if node.variadic or i < len(node.items):
                    _complete(node.items[0 if node.variadic else i], item)
        case Nested() if isinstance(wire, dict):
            for f in codec.plan(node.cls).fields:
                if f.name not in wire:
                    raise Mismatch("missing", f".{f.name}")
                _complete(f.type, wire[f.name])


# -- types ---------------------------------------------------------------------------------------------------


def node_type(node: Node, path: str) -> FieldType:
    """The field type of a checked node outside of any class."""
    return field_type(_annotation(node, [], []), path)


def _annotation(node: Node, around: list[type], parts: list[type]) -> Any:
    """The annotation that declares a checked node; classes in it are built.

    Args:
        node: from a definition.
        around: the classes the field is in, from the outermost; what `recursive` nodes refer to.
        parts: gets each class that had to be built as part of its surroundings.
    """
    hint = _hint(node, around, parts)
    return hint | None if node.get("nullable") else hint


def _hint(node: Node, around: list[type], parts: list[type]) -> Any:
    match node["kind"]:
        case "primitive" if "enum" in node:
            return _enum_of(node["enum"])
        case "primitive" if "literal" in node:
            return Literal[tuple(map(scalar_from_json, node["literal"]))]
        case "primitive" if "format" in node:
            return datetime if node["format"] == "date-time" else Image
        case "primitive":
            return {"str": str, "int": int, "float": float, "bool": bool, "bytes": bytes}[node["primitive"]]
        case "none":
            return type(None)
        case "any":
            return Any
        case "ndarray":
            declared = node["declaredDtype"]
            hint: Any = NDArray[Any] if declared is None else NDArray[DTYPES[declared].type]  # type: ignore[misc]
            return Annotated[hint, Shape(*node["dims"])] if "dims" in node else hint
        case "array":
            item = _annotation(node["items"], around, parts)
            return tuple[item, ...] if node.get("container") == "tuple" else list[item]  # type: ignore[valid-type]
        case "tuple":
            return tuple[tuple(_annotation(item, around, parts) for item in node["items"])]  # type: ignore[misc]
        case "map":
            return dict[str, _annotation(node["values"], around, parts)]  # type: ignore[misc]
        case "enum":
            return _enum_of(node["enum"])
        case "literal":
            return Literal[tuple(map(scalar_from_json, node["literal"]))]
        case "object":
            return _shell(node, around, parts) if _reach(node) >= 0 else class_of(_plain(node))
        case "recursive":
            return around[-1 - node["up"]]
    raise AssertionError(node)


def refers_around(definition: Node) -> bool:
    """Whether a field of the definition's class holds that class itself."""
    return _reach(definition["fields"]) >= 0


def _plain(node: Node) -> Node:
    return {"name": node["name"], "fields": node["fields"], "description": node["description"]}


def _reach(node: Any, depth: int = -1) -> int:
    """How many classes beyond `node` its `recursive` nodes go up, less one; negative when they stay inside."""
    if isinstance(node, list):
        return max((_reach(item, depth) for item in node), default=-1)
    if not isinstance(node, dict):
        return -1
    if node.get("kind") == "recursive":
        return int(node["up"]) - depth - 1
    inner = depth + 1 if node.get("kind") == "object" else depth
    return max((_reach(item, inner) for item in node.values()), default=-1)


def _enum_of(definition: Node) -> type[enum.Enum]:
    key = generate_cid(definition)
    found = _enums.get(key)
    if found is None:
        name, base = definition["name"], definition["base"]
        bases: tuple[type, ...] = {
            "Enum": (enum.Enum,),
            "StrEnum": (enum.StrEnum,),
            "IntEnum": (enum.IntEnum,),
            "str": (str, enum.Enum),
            "int": (int, enum.Enum),
        }[base]

        def body(namespace: dict[str, Any]) -> None:
            namespace["__module__"] = __name__
            for member in definition["members"]:
                namespace[member["name"]] = scalar_from_json(member["value"])

        try:
            made = types.new_class(name, bases, {"metaclass": StoredEnumType}, body)
        except (TypeError, ValueError) as error:
            raise SchemaError(f"enum {name} cannot be made: {error}") from None
        if list(vars(made)["_member_map_"]) != [member["name"] for member in definition["members"]]:
            raise SchemaError(f"enum {name} cannot be made: some of its members have reserved names")
        made.__atdata_stored__ = definition  # type: ignore[attr-defined]
        found = _enums.add(key, made)
    return typing.cast(type[enum.Enum], found)


# -- pickling ------------------------------------------------------------------------------------------------


def _rebuild(definition: Node, part: int) -> type:
    stored: tuple[Node, int, list[type]] = class_of(definition).__atdata_stored__  # type: ignore[attr-defined]
    return stored[2][part]


def _reduce(cls: type) -> Any:
    stored = vars(cls).get("__atdata_stored__")
    # A class that someone derived from a built one is theirs, and found by its name.
    return cls.__qualname__ if stored is None else (_rebuild, stored[:2])


def _reduce_enum(cls: type) -> Any:
    return (_enum_of, (vars(cls)["__atdata_stored__"],))


copyreg.pickle(StoredType, _reduce)
copyreg.pickle(StoredEnumType, _reduce_enum)
