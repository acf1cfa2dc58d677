"""Manifests: what lies where in one shard, as a small Parquet file beside it.

`shard-000000.manifest.parquet` has one row for each sample, in the order of the archive:

| column         | type                 | meaning                                                          |
|----------------|----------------------|------------------------------------------------------------------|
| `__key__`      | string               | the sample's key                                                 |
| `__offset__`   | int64                | byte offset of its payload in the tar file                       |
| `__size__`     | int64                | length of the payload in bytes                                   |
| `__sha256__`   | fixed binary of 32   | SHA-256 of the payload                                           |
| field          | its type             | the value of every small scalar field                            |
| `__offset__f`  | int64                | offset in the tar file of the raw elements of array field `f`    |
| `__dtype__f`   | string               | its `dtype.str`; only where not the same in every row            |
| `__shape__f`   | list of int64        | its shape; only where not the same in every row                  |

An offset is null where the sample's field is None; a field with structured arrays has no column. The file's key-value
metadata has `atdata` (JSON): format version, size and SHA-256 of the shard, and dtype and shape of the uniform arrays.

`shard-000000.manifest.json` is the header other tools know: counts and aggregates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdata.forks import cached_property

__all__ = ["FORMAT", "ArrayColumn", "Manifest", "header_name", "manifest_name"]

FORMAT = 1


def manifest_name(shard: str) -> str | None:
    """Name of the manifest beside `shard`; None for names that are no plain `.tar` (those cannot have one)."""
    return shard.removesuffix(".tar") + ".manifest.parquet" if shard.endswith(".tar") else None


def header_name(shard: str) -> str:
    """Name of the JSON header beside `shard`."""
    return shard.removesuffix(".tar") + ".manifest.json"


@dataclass(frozen=True)
class ArrayColumn:
    """Where the raw elements of one array field lie.

    Attributes:
        offsets: int64, one for each sample: byte offset in the tar file, -1 where there is none.
        dtype: of every array, or None where they differ.
        shape: of every array, or None where they differ.
    """

    offsets: NDArray[np.int64]
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...] | None
    _dtypes: Any = None
    _shapes: Any = None

    def describe(self, row: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """dtype and shape of the array in `row`."""
        if self.dtype is not None and self.shape is not None:
            return self.dtype, self.shape
        dtype, shape = self._dtypes[row].as_py(), self._shapes[row].as_py()
        if dtype is None:  # which NumPy would take for float64
            raise ValueError("an array has no dtype")
        return np.dtype(dtype), tuple(shape)

    @cached_property
    def stride(self) -> int | None:
        """The distance between neighbouring arrays in bytes when it is always the same and none is missing."""
        if self.dtype is None or self.shape is None or len(self.offsets) == 0 or self.offsets.min() < 0:
            return None
        if len(self.offsets) == 1:
            return 0
        steps = np.diff(self.offsets)
        return int(steps[0]) if (steps == steps[0]).all() else None

    def missing(self, rows: slice | NDArray[np.int64] | None = None) -> bool:
        """Whether any of these samples (by default: of all) has no array here."""
        return self._any_missing and (rows is None or bool((self.offsets[rows] < 0).any()))

    @cached_property
    def _any_missing(self) -> bool:
        return bool((self.offsets < 0).any())


class Manifest:
    """One shard's manifest, checked to be possible for a shard of its size."""

    def __init__(self, table: pa.Table, meta: Mapping[str, Any]) -> None:
        self.table = table
        self.shard_size: int = meta["shard_size"]
        self.shard_sha256: str = meta["shard_sha256"]
        self.offsets: NDArray[np.int64] = _numbers(table["__offset__"])
        self.sizes: NDArray[np.int64] = _numbers(table["__size__"])
        self._digests = table["__sha256__"].combine_chunks()
        self._arrays = meta["arrays"]
        self._columns: dict[str, NDArray[np.object_]] = {}
        self._locations: dict[str, ArrayColumn] = {}

    def __len__(self) -> int:
        return len(self.offsets)

    @cached_property
    def keys(self) -> list[str]:
        """The sample keys."""
        return list(self.table["__key__"].to_pylist())

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of the first sample with each key."""
        return {key: i for i, key in reversed(list(enumerate(self.keys)))}

    @cached_property
    def _digest_bytes(self) -> bytes:
        return b"".join(self._digests.to_pylist())

    def digest(self, row: int) -> bytes:
        """SHA-256 of the payload of sample `row`, 32 bytes."""
        return self._digest_bytes[32 * row : 32 * row + 32]

    def digests(self, start: int, stop: int) -> list[bytes]:
        """SHA-256 of the payloads of the samples from `start` up to `stop`."""
        data = self._digest_bytes
        return [data[at : at + 32] for at in range(32 * start, 32 * stop, 32)]

    @property
    def scalar_fields(self) -> list[str]:
        """Fields whose values stand in the manifest."""
        return [name for name in self.table.column_names if not name.startswith("__")]

    @property
    def array_fields(self) -> list[str]:
        """Fields whose raw elements the manifest points at."""
        return list(self._arrays)

    def column(self, field: str) -> list[Any]:
        """The values of a scalar field as Python objects, None where the value is None."""
        return list(self.values(field))

    def values(self, field: str) -> NDArray[np.object_]:
        """The values of a scalar field as an array of Python objects, of shape (samples,); not to be changed."""
        found = self._columns.get(field)
        if found is None:
            column = self.table[field]
            plain = column.null_count == 0 and column.type in _NUMBERS
            found = self._columns[field] = np.empty(len(self), object)
            # Through NumPy is ten times faster than to_pylist for plain numbers.
            found[:] = _numbers(column).tolist() if plain else column.to_pylist()
        return found

    def array(self, field: str) -> ArrayColumn:
        """Where the arrays of `field` lie."""
        found = self._locations.get(field)
        if found is None:
            info = self._arrays[field]
            offsets = _numbers(self.table[f"__offset__{field}"], missing=-1)
            if info is None:
                dtypes, shapes = self.table[f"__dtype__{field}"], self.table[f"__shape__{field}"]
                found = ArrayColumn(offsets, None, None, dtypes.combine_chunks(), shapes.combine_chunks())
            else:
                found = ArrayColumn(offsets, np.dtype(info["dtype"]), tuple(info["shape"]))
            self._locations[field] = found
        return found


_NUMBERS = {pa.int64(): np.int64, pa.uint64(): np.uint64, pa.float64(): np.float64}


def _numbers(column: pa.ChunkedArray, missing: int | None = None) -> NDArray[Any]:
    """A column of 64-bit numbers as a NumPy array, `missing` where it has nulls.

    Arrow's own conversion imports pandas where that is installed, which takes a second.
    """
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)
    dtype = np.dtype(_NUMBERS[column.type])
    if not len(array):
        return np.empty(0, dtype)
    valid, data = array.buffers()
    values = np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize)
    if missing is None or not array.null_count:
        return values
    bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[array.offset : array.offset + len(array)]
    return np.where(bits, values, missing)
