"""`atdata schema show`: the stored sample type, written as the class it is."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from atdata.cli.reporting import Report, clean
from atdata.cli.values import fields_of
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
from atdata.samples.images import Image
from atdata.samples.schema import Schema, SchemaField

__all__ = ["class_source", "run"]


def run(report: Report, schema: Schema) -> None:
    """Show a schema."""
    report.document(schema.to_record())
    if report.json:
        return
    source = class_source(schema)
    head = f"# {clean(schema.name)} version {clean(schema.version)}\n# {schema.cid}\n\n"
    report.code(head + source.rstrip("\n"))


def class_source(schema: Schema) -> str:
    """Python that defines the class, with the classes and enums it needs and their imports.

    Example:
        >>> import atdata
        >>> @atdata.packable
        ... class Word:
        ...     text: str
        >>> print(class_source(Schema.of(Word)))
        import atdata
        <BLANKLINE>
        <BLANKLINE>
        @atdata.packable
        class Word:
            text: str
        <BLANKLINE>
    """
    writer = _Writer()
    writer.define(schema)
    return writer.source()


class _Writer:
    """Collects definitions, innermost first, and what they import."""

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._begun: set[str] = set()  # classes by name; those begun and not ended are named in quotes
        self._open: set[str] = set()
        self._imports: set[tuple[str, str]] = set()
        self._modules: set[str] = {"import atdata"}
        self._enums = False

    def source(self) -> str:
        named: dict[str, list[str]] = {}
        for module, name in sorted(self._imports):
            named.setdefault(module, []).append(name)
        standard = ["import enum"] * self._enums
        standard += [f"from {m} import {', '.join(n)}" for m, n in named.items() if not m.startswith("numpy")]
        others = sorted(self._modules)
        others += [f"from {m} import {', '.join(n)}" for m, n in named.items() if m.startswith("numpy")]
        imports = "\n\n".join("\n".join(lines) for lines in (standard, others) if lines)
        return "\n\n\n".join([imports, *self._blocks]) + "\n"

    def define(self, schema: Schema) -> None:
        self._begun.add(schema.name)
        self._open.add(schema.name)
        lines = ["@atdata.packable", f"class {schema.name}:"]
        if schema.description:
            lines += _docstring(schema.description)
        for field in schema.fields:
            lines.append(f"    {field.name}: {self._annotation(field.type)}{self._default(field)}")
        self._open.discard(schema.name)
        self._blocks.append("\n".join(lines))

    def _annotation(self, node: FieldType) -> str:
        match node:
            case Primitive():
                return node.name
            case Array():
                return self._array(node)
            case ImageBytes():
                return "atdata.Image"
            case DateTime():
                self._imports.add(("datetime", "datetime"))
                return "datetime"
            case EnumOf():
                return self._enum(node.cls)
            case LiteralOf():
                self._imports.add(("typing", "Literal"))
                return f"Literal[{', '.join(map(_literal, node.values))}]"
            case OptionalOf():
                inner = self._annotation(node.inner)
                return f"{inner[:-1]} | None{inner[0]}" if inner.startswith('"') else f"{inner} | None"
            case ListOf():
                return f"list[{self._annotation(node.item)}]"
            case TupleOf():
                inner = ", ".join(map(self._annotation, node.items)) + (", ..." if node.variadic else "")
                return f"tuple[{inner or '()'}]"
            case DictOf():
                return f"dict[str, {self._annotation(node.value)}]"
            case Nested():
                name = node.cls.__name__
                if name in self._open:
                    return f'"{name}"'
                if name not in self._begun:
                    self.define(Schema.of(node.cls))
                return name
            case AnyValue():
                self._imports.add(("typing", "Any"))
                return "Any"
        raise AssertionError(node)

    def _array(self, node: Array) -> str:
        self._imports.add(("numpy.typing", "NDArray"))
        if node.dtype is None:
            self._imports.add(("typing", "Any"))
            hint = "NDArray[Any]"
        else:
            self._modules.add("import numpy as np")
            name = node.dtype.type.__name__
            hint = f"NDArray[np.{'bool_' if name == 'bool' else name}]"
        if node.dims is None:
            return hint
        self._imports.add(("typing", "Annotated"))
        return f"Annotated[{hint}, atdata.Shape({', '.join(map(_literal, node.dims))})]"

    def _enum(self, cls: type[enum.Enum]) -> str:
        name = cls.__name__
        if name not in self._begun:
            self._begun.add(name)
            self._enums = True
            bases = {enum.StrEnum: "enum.StrEnum", enum.IntEnum: "enum.IntEnum"}
            base = next((text for kind, text in bases.items() if issubclass(cls, kind)), None)
            if base is None:
                mixed = next((f"{kind.__name__}, " for kind in (str, int) if issubclass(cls, kind)), "")
                base = f"{mixed}enum.Enum"
            # Aliases too: `__members__` has them.
            members = [f"    {n} = {_literal(m.value)}" for n, m in cls.__members__.items()]
            self._blocks.append("\n".join([f"class {name}({base}):", *members]))
        return name

    def _default(self, field: SchemaField) -> str:
        if field.default is None:
            return self._call(["kw_only=True"]) if field.kw_only else ""
        value = field.default_value()
        text = self._value(value)
        plain = value is None or isinstance(value, bool | int | float | str | bytes | enum.Enum | datetime)
        if plain and not field.kw_only:
            return f" = {text}"
        parts = [f"default={text}" if plain else f"default_factory=lambda: {text}"]
        return self._call([*parts, "kw_only=True"] if field.kw_only else parts)

    def _call(self, arguments: list[str]) -> str:
        self._imports.add(("dataclasses", "field"))
        return f" = field({', '.join(arguments)})"

    def _value(self, value: Any) -> str:
        match value:
            case enum.Enum():
                return f"{type(value).__name__}.{value.name}"
            case float() if not math.isfinite(value):
                return f'float("{value}")'
            case datetime():
                self._imports.add(("datetime", "datetime"))
                return f"datetime.fromisoformat({value.isoformat()!r})"
            case np.ndarray():
                self._modules.add("import numpy as np")
                dtype = value.dtype.descr if value.dtype.names is not None else value.dtype.str
                made = f"np.frombuffer({value.tobytes()!r}, {dtype!r})"
                return f"{made}.reshape({value.shape})" if value.ndim != 1 else made
            case Image():
                return f"atdata.Image({value.data!r})"
            case list():
                return f"[{', '.join(map(self._value, value))}]"
            case tuple():
                return f"({''.join(f'{self._value(v)}, ' for v in value).rstrip()})"
            case Mapping():
                return f"{{{', '.join(f'{_literal(k)}: {self._value(v)}' for k, v in value.items())}}}"
            case None | bool() | int() | float() | str() | bytes():
                return _literal(value)
        fields = ", ".join(f"{name}={self._value(v)}" for name, v in fields_of(value).items())
        return f"{type(value).__name__}({fields})"


def _literal(value: Any) -> str:
    text = repr(value)
    if not isinstance(value, str) or "'" in text[1:-1] or '"' in text or "\\" in text:
        return clean(text)
    return f'"{clean(value)}"'


def _docstring(text: str) -> list[str]:
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    if escaped.endswith('"'):
        escaped = escaped[:-1] + '\\"'
    lines = [clean(line) for line in escaped.split("\n")]
    if len(lines) == 1:
        return [f'    """{lines[0]}"""', ""]
    return [f'    """{lines[0]}', *(f"    {line}" if line else "" for line in lines[1:]), '    """', ""]
