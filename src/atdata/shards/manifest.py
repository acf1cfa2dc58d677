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
| `__offset__g`  | int64                | offset in the tar file of the packed value of another field `g`  |
| `__size__g`    | int64                | length of that value in bytes; 0 where it is None                |
| `__sha256__f`  | fixed binary of 32   | SHA-256 of the raw elements of `f`, or of the packed value of `g`|

An offset is null where the sample's field is None. A field with structured arrays has no column as an array; it is one
of the others. The file's key-value metadata has `atdata` (JSON): format version, size and SHA-256 of the shard, dtype
and shape of the uniform arrays, and the names of the other fields (`packed`).

The last three columns let one field be read, and checked, without its sample. They cost the writer a second hashing of
the field, so they are there only where that saves a reader something: where the rest of the sample, which need not be
read then, has 32 KiB or more. (That is what a request is worth: at 30 ms and a hundred requests at a time, a gigabit
a second gives it away in a quarter of a millisecond.) Elsewhere they are null, and a column of nulls is left out; so
data whose samples have one large field, or none, is written and stored as if there were no such columns. They are of
the fields whose values do not stand in the manifest: arrays, bytes, images, long text, times, lists, dicts, and classes
in the class. A reader does without them, as with manifests of before: it reads samples whole.

`shard-000000.manifest.json` is the header other tools know: counts and aggregates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atdata.forks import cached_property
from atdata.samples.arrays import array_header, parse_header

__all__ = ["APART", "FORMAT", "ArrayColumn", "FieldRanges", "Manifest", "header_name", "manifest_name"]

FORMAT = 1
APART = 32 << 10  # bytes of the rest of a sample from which a field is worth being read by itself


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
    _some: tuple[ArrayColumn, NDArray[np.int64]] | None = None

    def describe(self, row: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """dtype and shape of the array in `row`."""
        if self.dtype is not None and self.shape is not None:
            return self.dtype, self.shape
        if self._some is not None:
            column, rows = self._some
            return column.describe(int(rows[row]))
        dtype, shape = self._dtypes[row].as_py(), self._shapes[row].as_py()
        if dtype is None:  # which NumPy would take for float64
            raise ValueError("an array has no dtype")
        return np.dtype(dtype), tuple(shape)

    def of(self, rows: NDArray[np.int64], offsets: NDArray[np.int64]) -> ArrayColumn:
        """The arrays of some samples alone, which lie somewhere else."""
        return ArrayColumn(offsets, self.dtype, self.shape, _some=(self, rows))

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

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of the raw elements of each array, int64; 0 where there is none."""
        here = self.offsets >= 0
        if self.dtype is not None and self.shape is not None:
            return np.where(here, bytes_of(self.dtype, self.shape), 0)
        found = np.zeros(len(here), np.int64)
        for row in np.flatnonzero(here).tolist():
            found[row] = bytes_of(*self.describe(row))
        return found


class FieldRanges(NamedTuple):
    """Where the bytes of one field lie: of an array the raw elements, of another field the packed value.

    Attributes:
        offsets: int64, one for each sample: byte offset in the tar file.
        sizes: int64: how many bytes; 0 where there are none (an empty array, None), -1 where nothing is said of them.
        checked: whether there is a digest to check them against, or nothing to check.
        digests: those digests, 32 bytes for each sample; where there is none, anything.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    checked: NDArray[np.bool_]
    digests: memoryview

    def digest(self, row: int) -> bytes:
        """SHA-256 of the field of sample `row`, 32 bytes."""
        return bytes(self.digests[32 * row : 32 * row + 32])


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
        self._packed: list[str] = list(meta.get("packed", ()))
        self._columns: dict[str, NDArray[Any]] = {}
        self._locations: dict[str, ArrayColumn] = {}
        self._ranges: dict[str, FieldRanges] = {}

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

    @property
    def packed_fields(self) -> list[str]:
        """Other fields that it points at, in some samples at least."""
        return list(self._packed)

    @property
    def meta(self) -> dict[str, Any]:
        """What it says of itself besides its columns."""
        packed = {"packed": self._packed} if self._packed else {}
        return {
            "format": FORMAT,
            "shard_size": self.shard_size,
            "shard_sha256": self.shard_sha256,
            "arrays": self._arrays,
            **packed,
        }

    def column(self, field: str) -> list[Any]:
        """The values of a scalar field as Python objects, None where the value is None."""
        found: list[Any] = self.values(field).tolist()
        return found

    def values(self, field: str) -> NDArray[Any]:
        """The values of a scalar field, of shape (samples,), whose `tolist` gives them as Python objects.

        Numbers stand in an array of theirs where none is missing: to gather them at random touches far less memory than
        to gather Python objects. Equal texts are one object for the same reason. Not to be changed.
        """
        found = self._columns.get(field)
        if found is None:
            column = self.table[field]
            if column.null_count == 0 and column.type in _NUMBERS:
                found = _numbers(column)
            elif column.type in _TEXTS:
                found = _texts(column)
            else:
                found = np.empty(len(self), object)
                found[:] = column.to_pylist()
            self._columns[field] = found
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

    def ranges(self, field: str) -> FieldRanges | None:
        """Where the bytes of `field` lie, without the rest of their samples; None where nothing is said of them."""
        found = self._ranges.get(field)
        if found is None and (field in self._arrays or field in self._packed):
            if field in self._arrays:
                offsets, sizes = self.array(field).offsets, self.array(field).sizes
            else:
                offsets = _numbers(self.table[f"__offset__{field}"], missing=-1)
                sizes = _numbers(self.table[f"__size__{field}"], missing=-1)
            checked, digests = self._own_digests(f"__sha256__{field}")
            found = self._ranges[field] = FieldRanges(offsets, sizes, checked | (sizes == 0), digests)
        return found

    def _own_digests(self, name: str) -> tuple[NDArray[np.bool_], memoryview]:
        if name not in self.table.column_names:
            return np.zeros(len(self), bool), memoryview(b"")
        array = pa.concat_arrays(self.table[name].chunks or [pa.nulls(0, pa.binary(32))])
        data = memoryview(array.buffers()[1] or b"").cast("B")
        return _valid(array), data[32 * array.offset :]


_NUMBERS = {pa.int64(): np.int64, pa.uint64(): np.uint64, pa.float64(): np.float64}


def _numbers(column: pa.ChunkedArray, missing: int | None = None) -> NDArray[Any]:
    """A column of 64-bit numbers as a NumPy array, `missing` where it has nulls.

    Arrow's own conversion imports pandas where that is installed, which takes a second.
    """
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)
    dtype = np.dtype(_NUMBERS[column.type])
    if not len(array):
        return np.empty(0, dtype)
    values = np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)
    if missing is None or not array.null_count:
        return values
    return np.where(_valid(array), values, missing)


_TEXTS = {pa.string(), pa.large_string()}


def _texts(column: pa.ChunkedArray) -> NDArray[np.object_]:
    """A column of texts, None where it has nulls; texts that are equal are one object."""
    found = np.empty(len(column), object)
    at = 0
    for chunk in column.chunks:
        if not len(chunk):
            continue
        encoded = chunk.dictionary_encode()
        texts = np.empty(len(encoded.dictionary) + 1, object)  # the last is None
        texts[:-1] = encoded.dictionary.to_pylist()
        indices = encoded.indices
        numbers = np.frombuffer(indices.buffers()[1], np.int32, len(indices), indices.offset * 4)
        found[at : at + len(chunk)] = texts[np.where(_valid(indices), numbers, -1) if indices.null_count else numbers]
        at += len(chunk)
    return found


def _valid(array: pa.Array) -> NDArray[np.bool_]:
    """Where an array has values, and no nulls."""
    if not array.null_count:
        return np.ones(len(array), bool)
    bits = np.unpackbits(np.frombuffer(array.buffers()[0], np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].view(bool)


_MAX_BYTES = 1 << 60
_MAX_SIZELESS = 1 << 20


def bytes_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Bytes of an array's elements; ValueError when there can be no such array in a sample."""
    dtype, shape, _ = parse_header(array_header(dtype, shape))
    extent = math.prod(dim for dim in shape if dim) * max(dtype.itemsize, 1)
    if extent > (_MAX_BYTES if dtype.itemsize else _MAX_SIZELESS):
        raise ValueError(f"an array of shape {shape} is impossible")
    return math.prod(shape) * dtype.itemsize
