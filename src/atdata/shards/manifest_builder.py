"""The manifest of a shard that is being written, row by row."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdata.samples.encode import ArrayKind
from atdata.shards.manifest import APART, Manifest

__all__ = ["ManifestBuilder"]


class _Apart:
    """What is known of one field by itself, of the samples in which it is worth that."""

    def __init__(self, number: int, name: str, raw: list[int] | None) -> None:
        self.number = number
        self.name = name
        self.raw = raw  # where the raw elements of arrays begin in the payload
        self.rows: list[int] = []
        self.begins: list[int] = []
        self.sizes: list[int] = []
        self.digests: list[bytes | None] = []

    def look(self, row: int, payload: memoryview, begin: int, end: int) -> None:
        """Take note of the packed value that sample `row` has from `begin` to `end`."""
        if self.raw is not None and self.raw[row] >= 0:
            begin = self.raw[row]
        if len(payload) - (end - begin) < APART:
            return
        is_none = end - begin == 1 and payload[begin] == _NONE
        self.rows.append(row)
        self.begins.append(begin)
        self.sizes.append(0 if is_none else end - begin)
        self.digests.append(None if is_none or begin == end else hashlib.sha256(payload[begin:end]).digest())


_NONE = 0xC0  # in msgpack


class ManifestBuilder:
    """Collects the rows of one shard while it is written.

    Each of the lists of fields says the field's position in a sample's values, and its name.

    Args:
        scalars: those whose values stand in the manifest, with the types of their columns.
        arrays: those of arrays.
        others: those whose packed values may be pointed at.
        spans: gives, for a payload, where the packed value of every field begins and ends.
    """

    def __init__(
        self,
        scalars: Sequence[tuple[int, str, pa.DataType]] = (),
        arrays: Sequence[tuple[int, str]] = (),
        others: Sequence[tuple[int, str]] = (),
        spans: Callable[[bytes], list[tuple[int, int]]] | None = None,
    ) -> None:
        self._spans = spans
        self._keys: list[str] = []
        self._digests: list[bytes] = []
        self._offsets: list[NDArray[np.int64]] = []
        self._sizes: list[NDArray[np.int64]] = []
        self._describe(scalars, arrays, others)

    def _describe(
        self,
        scalars: Sequence[tuple[int, str, pa.DataType]],
        arrays: Sequence[tuple[int, str]],
        others: Sequence[tuple[int, str]],
    ) -> None:
        self._scalars = scalars
        self._arrays = arrays
        self._columns: list[list[Any]] = [[] for _ in scalars]
        self._appends = [(column.append, i) for column, (i, _, _) in zip(self._columns, scalars, strict=True)]
        self._raw: list[list[int]] = [[] for _ in arrays]
        self._kinds: list[list[ArrayKind | None]] = [[] for _ in arrays]
        self._add_arrays = [(raw.append, kinds.append) for raw, kinds in zip(self._raw, self._kinds, strict=True)]
        self._apart = [_Apart(*field, raw) for field, raw in zip(arrays, self._raw, strict=True)]
        self._apart += [_Apart(*field, None) for field in others]

    def forget_fields(self) -> None:
        """From now on, and for what was added already, say nothing of fields."""
        self._spans = None
        self._describe((), (), ())

    @property
    def fixed_size(self) -> int:
        """Most bytes of a manifest for what it says of columns: names, statistics, pages, dictionaries."""
        names = [name for _, name, _ in self._scalars] + [field.name for field in self._apart]
        columns = 4 + len(self._scalars) + 2 * len(self._arrays) + 3 * len(self._apart)
        return 4096 + 512 * columns + 16 * sum(map(len, names)) + 4 * self.most_text

    @property
    def row_size(self) -> int:
        """Most bytes that a manifest takes for one sample, less its key and its texts."""
        # Offset, size and digest; a number, twice where a dictionary does not pay; offset, dtype and shape of an array.
        return 80 + 16 * len(self._scalars) + 128 * len(self._arrays)

    @property
    def apart_size(self) -> int:
        """Most bytes more for a sample of `APART` or more: a digest of each field, and where it lies."""
        return 56 * len(self._apart)

    @property
    def most_text(self) -> int:
        """Most bytes that a manifest has of one sample's texts, on average; longer ones do not stand in it."""
        return 4 * _LONG_TEXT * sum(1 for _, _, kind in self._scalars if pa.types.is_string(kind))

    def add(self, values: tuple[Any, ...], raw: list[int], kinds: list[ArrayKind | None]) -> None:
        """One sample's content.

        Args:
            values: of every field.
            raw: for each array field, where its raw elements begin in the payload; -1 where there are none.
            kinds: for each array field, dtype and shape; None where the value is None.
        """
        # Only lists grow here, and nothing the garbage collector would have to look at is kept.
        for append, i in self._appends:
            append(values[i])
        for (append_raw, append_kind), at, kind in zip(self._add_arrays, raw, kinds):  # noqa: B905  (one for each array)
            append_raw(at)
            append_kind(kind)

    def locate(self, keys: list[str], offsets: NDArray[np.int64], payloads: list[bytes]) -> None:
        """Where samples added before lie, in the same order.

        Args:
            keys: the sample's key.
            offsets: where its payload begins in the archive.
            payloads: the payload.
        """
        first = len(self._keys)
        sizes = np.fromiter(map(len, payloads), np.int64, len(payloads))
        self._keys += keys
        self._offsets.append(offsets)
        self._sizes.append(sizes)
        self._digests += [hashlib.sha256(payload).digest() for payload in payloads]
        if self._spans is not None and self._apart:
            for at in np.flatnonzero(sizes >= APART).tolist():
                spans, view = self._spans(payloads[at]), memoryview(payloads[at])
                for field in self._apart:
                    field.look(first + at, view, *spans[field.number])

    def finish(self, shard_size: int, shard_sha256: str) -> Manifest:
        """The manifest of the finished shard."""
        at = np.concatenate([np.empty(0, np.int64), *self._offsets])
        columns: dict[str, pa.Array] = {
            "__key__": pa.array(self._keys, pa.string()),
            "__offset__": pa.array(at),
            "__size__": pa.array(np.concatenate([np.empty(0, np.int64), *self._sizes])),
            "__sha256__": pa.array(self._digests, pa.binary(32)),
        }
        for (_, name, kind), values in zip(self._scalars, self._columns, strict=True):
            column = _scalar_column(values, kind)
            if column is not None:
                columns[name] = column
        arrays: dict[str, Any] = {}
        for (_, name), raw, kinds in zip(self._arrays, self._raw, self._kinds, strict=True):
            relative = np.array(raw, np.int64)
            missing = relative < 0
            if any(kinds[row] is not None for row in np.flatnonzero(missing).tolist()):
                continue  # structured arrays have no raw elements to point at
            columns[f"__offset__{name}"] = pa.array(at + relative, mask=missing)
            arrays[name] = _uniform(name, kinds, columns)
        packed = [field.name for field in self._apart if self._add_own(field, at, arrays, columns)]
        meta = {"shard_size": shard_size, "shard_sha256": shard_sha256, "arrays": arrays, "packed": packed}
        return Manifest(pa.table(columns), meta)

    def _add_own(
        self, field: _Apart, at: NDArray[np.int64], arrays: dict[str, Any], columns: dict[str, pa.Array]
    ) -> bool:
        """Add the columns of a field by itself, if there is anything in them; whether it is one of packed values."""
        name, count = field.name, len(at)
        if name in columns and not pa.types.is_timestamp(columns[name].type):
            return False  # its values stand in the manifest as they are
        entries = range(len(field.rows))
        if name not in arrays and field.raw is not None:  # with structured arrays; others beside them are left out
            entries = [i for i in entries if field.raw[field.rows[i]] < 0]  # type: ignore[assignment]
        digests: list[bytes | None] = [None] * count
        begins, sizes = np.zeros(count, np.int64), np.full(count, -1, np.int64)
        for i in entries:
            row = field.rows[i]
            digests[row], begins[row], sizes[row] = field.digests[i], field.begins[i], field.sizes[i]
        if name in arrays:
            if any(digests):
                columns[f"__sha256__{name}"] = pa.array(digests, pa.binary(32))
            return False
        if not any(digests):
            return False
        columns[f"__offset__{name}"] = pa.array(at + begins, mask=sizes <= 0)
        columns[f"__size__{name}"] = pa.array(sizes, mask=sizes < 0)
        columns[f"__sha256__{name}"] = pa.array(digests, pa.binary(32))
        return True


def _uniform(name: str, kinds: list[ArrayKind | None], columns: dict[str, pa.Array]) -> dict[str, Any] | None:
    """dtype and shape when all arrays have the same; else they become columns."""
    present = {id(kind): kind for kind in kinds if kind is not None}
    distinct = set(present.values())  # by identity first: hashing every row would take as long as writing it
    if len(distinct) == 1:
        dtype, shape = distinct.pop()
        return {"dtype": dtype.str, "shape": list(shape)}
    columns[f"__dtype__{name}"] = pa.array([None if k is None else k[0].str for k in kinds], pa.string())
    columns[f"__shape__{name}"] = pa.array([None if k is None else list(k[1]) for k in kinds], pa.list_(pa.int64()))
    return None


_LONG_TEXT = 256  # text longer than this on average would make the manifest as large as the data


def _scalar_column(values: list[Any], kind: pa.DataType) -> pa.Array | None:
    """The values as an Arrow column; None where they are too large to stand in a manifest."""
    plain = (
        values
        if _EXACT.get(kind) and set(map(type, values)) <= {_EXACT[kind], type(None)}
        else list(map(_plain, values))
    )
    if pa.types.is_string(kind):
        if sum(map(len, filter(None, plain))) > _LONG_TEXT * len(plain):
            return None
        return pa.array(plain, kind)
    if pa.types.is_int64(kind):
        for attempt in (pa.int64(), pa.uint64()):
            try:
                return pa.array(plain, attempt)
            except (OverflowError, pa.ArrowInvalid):
                continue
        return None
    if pa.types.is_timestamp(kind):
        zones = {v.tzinfo is None for v in plain if v is not None}
        if len(zones) > 1:  # times with and without a zone have no common order
            return None
        kind = pa.timestamp("us") if zones == {True} else kind
    if pa.types.is_float64(kind) and plain is not values:  # a float field may hold an int of any size
        plain = [None if v is None else float(v) for v in plain]
    return pa.array(plain, kind)


_EXACT: dict[pa.DataType, type] = {pa.string(): str, pa.int64(): int, pa.float64(): float, pa.bool_(): bool}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return value.value if isinstance(value, enum.Enum) else value
