"""Samples and their values, as one line of text and as JSON."""

from __future__ import annotations

import base64
import dataclasses
import enum
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atdata.cli.reporting import clean, size
from atdata.samples.images import Image

__all__ = ["fields_of", "summary", "to_json"]

_LINE = 60
_MAX_ELEMENTS = 4096
_MAX_BYTES = 1 << 16
_DEEP = 20


def fields_of(sample: Any) -> dict[str, Any]:
    """The fields of a sample of any type, in order."""
    if isinstance(sample, Mapping):
        return dict(sample)
    return {f.name: getattr(sample, f.name) for f in dataclasses.fields(sample)}


def summary(value: Any, width: int = _LINE, depth: int = 0) -> str:
    """`value` in one line of about `width` characters: arrays as dtype and shape, long texts shortened.

    Example:
        >>> summary(np.zeros((8, 8), np.uint8)), summary("x" * 100, 20)
        ('uint8 8×8', 'xxxxxxxxxxxxxxxxxxxx… (100 characters)')
    """
    match value:
        case str():
            text = clean(value[: 2 * width])
            if len(value) <= width and len(text) <= width:
                return text if depth == 0 else repr(value) if text == value else f"'{text}'"
            return f"{text[:width]}… ({len(value):,} characters)"
        case bytes():
            return f"{size(len(value))} of bytes" if value else "no bytes"
        case np.ndarray():
            return _array(value)
        case Image():
            return f"{value.format or 'image'}, {size(len(value.data))}"
        case enum.Enum():
            return clean(f"{type(value).__name__}.{value.name}")
        case datetime():
            return value.isoformat(" ")
        case float():
            return f"{value:.10g}"
        case list() | tuple():
            items = _joined((summary(v, width, depth + 1) for v in value), len(value), width, depth)
            return f"[{items}]" if isinstance(value, list) else f"({items})"
        case Mapping():
            pairs = (f"{clean(str(k))}: {summary(v, width, depth + 1)}" for k, v in value.items())
            return f"{{{_joined(pairs, len(value), width, depth)}}}"
        case _ if dataclasses.is_dataclass(value):
            fields = fields_of(value)
            pairs = (f"{k}={summary(v, width, depth + 1)}" for k, v in fields.items())
            return f"{type(value).__name__}({_joined(pairs, len(fields), width, depth)})"
    return clean(repr(value))[:width]


def _joined(items: Any, total: int, width: int, depth: int) -> str:
    if depth > _DEEP:
        return "…"
    shown: list[str] = []
    length = 0
    for item in items:
        if shown and length + len(item) > width:
            return f"{', '.join(shown)}, … {total:,} in all"
        shown.append(item)
        length += len(item) + 2
    return ", ".join(shown)


def _array(array: NDArray[Any]) -> str:
    kind = "structured" if array.dtype.names is not None else array.dtype.newbyteorder("=").name
    if array.ndim == 0:
        return f"{kind} {clean(str(array[()]))[:_LINE]}"
    shape = "×".join(map(str, array.shape))  # noqa: RUF001
    if array.ndim == 1 and 0 < array.size <= 4 and array.dtype.names is None:
        return f"{kind} [{clean(' '.join(_element(v) for v in array))[:_LINE]}]"
    return f"{kind} {shape}" if array.ndim > 1 else f"{kind} [{shape}]"


def _element(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, np.floating) else str(value)


def to_json(value: Any, depth: int = 0) -> Any:
    """`value` as JSON: arrays are objects with dtype and shape, and with their values when they are few.

    What JSON cannot say is text (`NaN`, times) or an object (`{"bytes": length, "base64": …}`).

    Example:
        >>> to_json(np.arange(3, dtype=np.int16))
        {'dtype': 'int16', 'shape': [3], 'values': [0, 1, 2]}
    """
    if depth > _DEEP:
        return "…"
    match value:
        case None | bool() | str():
            return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        case enum.Enum():
            return to_json(value.value)
        case int():
            return int(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes():
            return _bytes(value)
        case Image():
            return {"format": value.format, **_bytes(value.data)}
        case datetime():
            return value.isoformat()
        case np.ndarray():
            return _json_array(value)
        case list() | tuple():
            return [to_json(v, depth + 1) for v in value]
        case Mapping():
            return {str(k): to_json(v, depth + 1) for k, v in value.items()}
        case _ if dataclasses.is_dataclass(value):
            return {k: to_json(v, depth + 1) for k, v in fields_of(value).items()}
    return repr(value)


def _bytes(data: bytes) -> dict[str, Any]:
    out: dict[str, Any] = {"bytes": len(data)}
    if len(data) <= _MAX_BYTES:
        out["base64"] = base64.b64encode(data).decode("ascii")
    return out


def _json_array(array: NDArray[Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.size <= _MAX_ELEMENTS and array.dtype.kind in "biufU":
        out["values"] = to_json(array.tolist(), _DEEP - array.ndim)
    return out
