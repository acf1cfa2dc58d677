"""Samples without a class: a mapping of field names to values."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

import msgspec

from atdata.errors import SampleDecodeError, SampleTypeError
from atdata.samples import arrays
from atdata.samples.decode import any_from_wire, explain
from atdata.samples.encode import Mismatch, any_value
from atdata.samples.packable import equal_values

__all__ = ["DictSample"]


class DictSample(Mapping[str, Any]):
    """A sample whose type is not known: fields by name, as items and as attributes.

    Byte strings that are exactly an array in atdata's layout come back as arrays. A field named like a method (`keys`,
    `items`, `get`) is reached as an item only.

    Example:
        >>> sample = DictSample(label="cat", score=0.5)
        >>> sample["label"], sample.score, list(sample)
        ('cat', 0.5, ['label', 'score'])
    """

    __slots__ = ("_data",)
    _data: dict[str, Any]

    def __init__(self, _data: Mapping[str, Any] | None = None, **fields: Any) -> None:
        object.__setattr__(self, "_data", {**(_data or {}), **fields})

    def __getitem__(self, name: str) -> Any:
        return self._data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def keys(self) -> KeysView[str]:
        """The field names."""
        return self._data.keys()

    def values(self) -> ValuesView[Any]:
        """The field values."""
        return self._data.values()

    def items(self) -> ItemsView[str, Any]:
        """Names and values."""
        return self._data.items()

    def to_dict(self) -> dict[str, Any]:
        """A new dict with the fields."""
        return dict(self._data)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look for hooks before the fields exist
            raise AttributeError(name)
        try:
            return self._data[name]
        except KeyError:
            raise AttributeError(
                f"the sample has no field {name!r}; its fields are {', '.join(self._data) or 'none'}"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a DictSample does not change; make a new one: DictSample(old, name=value)")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DictSample) and equal_values(self._data, other._data)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"DictSample({', '.join(f'{k}={v!r}' for k, v in self._data.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (DictSample, (self._data,))

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> DictSample:
        """The sample in msgpack bytes; arrays are read-only.

        Raises:
            SampleDecodeError: the bytes are not a msgpack map with text keys.
        """
        try:
            value = msgspec.msgpack.decode(data, type=dict[str, Any])
            return cls({name: _guess(item) for name, item in value.items()})
        except Mismatch as error:
            raise SampleDecodeError(f"sample: {error.message}") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            problem = explain(error, {})
            raise SampleDecodeError(f"sample{problem.path}: {problem.message}") from None

    @property
    def packed(self) -> bytes:
        """The sample's msgpack bytes; arrays at the top level in the compact layout.

        Raises:
            SampleTypeError: a value has no msgpack form.
        """
        out: dict[str, Any] = {}
        for name, value in self._data.items():
            try:
                if not isinstance(name, str):
                    raise Mismatch(f"names of fields must be str, got {type(name).__name__}")
                any_value(name)  # refuses text that cannot be written
                wire = any_value(value)
            except Mismatch as error:
                path = f"{name!r:.80}" if not isinstance(name, str) or not name.isidentifier() else name
                raise SampleTypeError(f"{path}{error.path}: {error.message}", field=f"{path}{error.path}") from None
            tagged = isinstance(wire, dict) and not isinstance(value, dict)
            out[name] = next(iter(wire.values())) if tagged else wire
        return msgspec.msgpack.encode(out)


def _guess(value: Any) -> Any:
    """Byte strings that account for every byte as an array are arrays; everything else stays."""
    if type(value) is bytes and len(value) > 4:
        try:
            return arrays.array_from_bytes(value)
        except arrays.ArrayError:
            return value
    return any_from_wire(value)
