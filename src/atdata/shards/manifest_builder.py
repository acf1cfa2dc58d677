"""The manifest of a shard that is being written, row by row."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdata.samples.encode import ArrayKind
from atdata.shards.manifest import FORMAT, Manifest

__all__ = ["ManifestBuilder"]


class ManifestBuilder:
    """Collects the rows of one shard while it is written."""

    def __init__(self, scalars: Sequence[tuple[int, str, pa.DataType]], arrays: Sequence[tuple[int, str]]) -> None:
        """Both lists say the field's position in a sample's values, and its name."""
        self._scalars = scalars
        self._arrays = arrays
        self._keys: list[str] = []
        self._digests: list[bytes] = []
        self._offsets: list[NDArray[np.int64]] = []
        self._sizes: list[NDArray[np.int64]] = []
        self._columns: list[list[Any]] = [[] for _ in scalars]
        self._appends = [(column.append, i) for column, (i, _, _) in zip(self._columns, scalars, strict=True)]
        self._raw: list[list[int]] = [[] for _ in arrays]
        self._kinds: list[list[ArrayKind | None]] = [[] for _ in arrays]
        self._add_arrays = [(raw.append, kinds.append) for raw, kinds in zip(self._raw, self._kinds, strict=True)]

    @property
    def fixed_size(self) -> int:
        """Most bytes of a manifest for what it says of columns: names, statistics, pages, dictionaries."""
        names = [name for _, name, _ in self._scalars] + [name for _, name in self._arrays]
        columns = 4 + len(self._scalars) + 3 * len(self._arrays)
        return 4096 + 512 * columns + 16 * sum(map(len, names)) + 4 * self.most_text

    @property
    def row_size(self) -> int:
        """Most bytes that a manifest takes for one sample, less its key and its texts."""
        # Offset, size and digest; a number, twice where a dictionary does not pay; offset, dtype and shape of an array.
        return 80 + 16 * len(self._scalars) + 128 * len(self._arrays)

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

    def locate(
        self, keys: list[str], offsets: NDArray[np.int64], sizes: NDArray[np.int64], digests: list[bytes]
    ) -> None:
        """Where samples added before lie, in the same order.

        Args:
            keys: the sample's key.
            offsets: where its payload begins in the archive.
            sizes: the payload's length in bytes.
            digests: the payload's SHA-256.
        """
        self._keys += keys
        self._offsets.append(offsets)
        self._sizes.append(sizes)
        self._digests += digests

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
        meta = {"format": FORMAT, "shard_size": shard_size, "shard_sha256": shard_sha256, "arrays": arrays}
        return Manifest(pa.table(columns), meta)


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
