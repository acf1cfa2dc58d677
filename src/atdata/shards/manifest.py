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

import contextlib
import enum
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atdata.errors import ManifestError
from atdata.forks import cached_property
from atdata.samples.arrays import array_header, parse_header
from atdata.samples.encode import ArrayKind
from atdata.shards.tar import BLOCK

__all__ = ["ArrayColumn", "Manifest", "header_name", "manifest_name", "read_manifest"]

FORMAT = 1
_RESERVED = ("__key__", "__offset__", "__size__", "__sha256__")


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


def to_parquet(manifest: Manifest) -> bytes:
    """The manifest as a Parquet file; the same manifest gives the same bytes."""
    meta = {
        "format": FORMAT,
        "shard_size": manifest.shard_size,
        "shard_sha256": manifest.shard_sha256,
        "arrays": manifest._arrays,
    }
    table = manifest.table.replace_schema_metadata({"atdata": json.dumps(meta, sort_keys=True)})
    names = table.column_names
    counters = [n for n in names if n.startswith(("__offset__", "__size__"))]
    out = pa.BufferOutputStream()
    pq.write_table(
        table,
        out,
        compression={n: "none" if n == "__sha256__" else "zstd" for n in names},
        use_dictionary=[n for n in names if n not in _RESERVED and not n.startswith("__")] or False,
        column_encoding={"__key__": "DELTA_BYTE_ARRAY", **dict.fromkeys(counters, "DELTA_BINARY_PACKED")},
        write_statistics=True,
        write_page_checksum=True,
    )
    return bytes(out.getvalue())


def to_header(manifest: Manifest, *, shard_id: str, schema_type: str, schema_version: str) -> bytes:
    """The JSON header beside the Parquet file: counts and aggregates of the scalar fields.

    It has no time stamp: the same shard gives the same bytes.
    """
    aggregates = {name: _aggregate(manifest.table[name]) for name in manifest.scalar_fields}
    document = {
        "manifest_version": "1.0.0",
        "shard_id": shard_id,
        "schema_type": schema_type,
        "schema_version": schema_version,
        "num_samples": len(manifest),
        "size_bytes": int(manifest.sizes.sum()),
        "shard_size": manifest.shard_size,
        "shard_sha256": manifest.shard_sha256,
        "offsets": "tar",
        "aggregates": {name: value for name, value in aggregates.items() if value is not None},
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode()


_MAX_VALUES = 1000


def _aggregate(column: Any) -> dict[str, Any] | None:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        counts = pc.value_counts(column.drop_null())
        table = {str(row["values"]): row["counts"] for row in counts.to_pylist()} if len(counts) <= _MAX_VALUES else {}
        return {"type": "categorical", "cardinality": len(counts), "value_counts": dict(sorted(table.items()))}
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        low, high = extremes(column)
        mean = pc.mean(column.cast(pa.float64(), safe=False)).as_py()  # a sum of integers would overflow silently
        finite = mean if mean is not None and math.isfinite(mean) else None
        return {"type": "numeric", "min": low, "max": high, "mean": finite, "count": len(column) - column.null_count}
    return None


def extremes(column: Any) -> tuple[Any, Any]:
    """Smallest and largest value, NaN and nulls left out; None where there is none or JSON has no form for it."""
    if pa.types.is_floating(column.type):
        column = column.filter(pc.invert(pc.is_nan(column)))
    found = pc.min_max(column)
    try:
        low, high = found["min"].as_py(), found["max"].as_py()
    except OverflowError:  # a time before the year 1 or after 9999 in UTC
        return None, None
    if isinstance(low, float) and not (math.isfinite(low) and math.isfinite(high)):
        return None, None
    return low, high


def read_manifest(data: bytes, *, url: str | None = None, shard_size: int | None = None) -> Manifest | None:
    """The manifest in a Parquet file; None for one that atdata did not write, which cannot be trusted with offsets.

    Args:
        data: the file.
        url: its place, for messages.
        shard_size: size of the shard it lies beside, in bytes, to tell another shard's manifest.

    Raises:
        ManifestError: it is no Parquet file, or says what cannot be.
    """
    with _reading(url):
        opened = _opened(data, url, shard_size)
        if opened is None:
            return None
        file, meta = opened
        manifest = Manifest(file.read(), meta)
        _check(manifest)
        return manifest


@contextlib.contextmanager
def _reading(url: str | None) -> Iterator[None]:
    try:
        yield
    except ManifestError:
        raise
    except Exception as error:  # whatever a hostile file brings about in the parsers
        raise ManifestError(f"the manifest cannot be read: {error}", url=url) from None


def _opened(data: bytes, url: str | None, shard_size: int | None) -> tuple[pq.ParquetFile, _Meta] | None:
    """The file with what it says of itself, its columns those that a manifest has; None when it is none of atdata's."""
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    raw = (file.schema_arrow.metadata or {}).get(b"atdata")
    if raw is None:
        return None
    stated = msgspec.json.decode(raw, type=dict[str, Any])
    if stated.get("format") != FORMAT:
        raise ManifestError(
            f"the manifest has format {stated.get('format')}, this version reads {FORMAT}: update atdata, or "
            "rebuild it with `atdata manifest build`",
            url=url,
        )
    meta = msgspec.convert(stated, _Meta)
    if shard_size is not None and meta["shard_size"] != shard_size:
        raise ManifestError(
            f"the manifest belongs to a shard of {meta['shard_size']} bytes, this one has {shard_size}: "
            "rebuild it with `atdata manifest build`",
            url=url,
        )
    _check_schema(file, meta)
    return file, meta


class _ArrayMeta(TypedDict):
    dtype: str
    shape: list[int]


class _Meta(TypedDict):
    format: int
    shard_size: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
    shard_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    arrays: dict[str, _ArrayMeta | None]


_FIXED = {"__key__": pa.string(), "__offset__": pa.int64(), "__size__": pa.int64(), "__sha256__": pa.binary(32)}
_SCALARS = {pa.string(), pa.int64(), pa.uint64(), pa.float64(), pa.bool_(), pa.timestamp("us")}
_SCALARS.add(pa.timestamp("us", "UTC"))


def _check_schema(file: pq.ParquetFile, meta: _Meta) -> None:
    """Refuse columns of other types than ours, and more rows than the shard has room for, before any is read."""
    schema = file.schema_arrow
    if len(set(schema.names)) != len(schema.names):
        raise ValueError("two columns have one name")
    expected = dict(_FIXED)
    for field, info in meta["arrays"].items():
        expected[f"__offset__{field}"] = pa.int64()
        if info is None:
            expected[f"__dtype__{field}"] = pa.string()
            expected[f"__shape__{field}"] = pa.list_(pa.int64())
    for name, kind in expected.items():
        if name not in schema.names:
            raise ValueError(f"it has no column {name!r}")
        found = schema.field(name).type
        if pa.types.is_list(found):  # however its elements are named
            found = pa.list_(found.value_type)
        if found != kind:
            raise ValueError(f"the column {name!r} holds {found}, not {kind}")
    for column in schema:
        if not column.name.startswith("__") and column.type not in _SCALARS:
            raise ValueError(f"the column {column.name!r} holds {column.type}, which no field has")
    room = meta["shard_size"] // BLOCK
    if file.metadata.num_rows > room:
        raise ValueError(f"it has {file.metadata.num_rows} rows, and its shard room for {room} samples at most")
    # All that stands in a manifest stands in the shard too; what is much larger is a bomb.
    described = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
    if described > 16 * meta["shard_size"] + (1 << 20):
        raise ValueError(f"it unpacks to {described} bytes, more than its shard has")


def _check(manifest: Manifest) -> None:
    """Refuse offsets that lie outside the shard, so that nothing later has to doubt them."""
    offsets, sizes = manifest.offsets, manifest.sizes
    for name in _FIXED:
        if manifest.table[name].null_count:
            raise ValueError(f"the column {name!r} has rows without a value")
    if len(offsets) and (
        sizes.min() < 0 or offsets.min() < 0 or sizes.max() > manifest.shard_size
        or (offsets > manifest.shard_size - sizes).any()
    ):  # fmt: skip
        raise ValueError("a sample lies outside the shard")
    for field in manifest.array_fields:
        column = manifest.array(field)
        here = column.offsets >= 0
        if column.dtype is not None and column.shape is not None:
            need: Any = _bytes_of(column.dtype, column.shape)
        else:
            need = np.zeros(len(here), np.int64)
            for row in np.flatnonzero(here).tolist():
                need[row] = _bytes_of(*column.describe(row))
        end = offsets + sizes
        if (here & ((column.offsets < offsets) | (column.offsets > end - need))).any():
            raise ValueError(f"the elements of array field {field!r} lie outside its sample")


_MAX_BYTES = 1 << 60
_MAX_SIZELESS = 1 << 20


def _bytes_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Bytes of an array's elements; ValueError when there can be no such array in a sample."""
    dtype, shape, _ = parse_header(array_header(dtype, shape))
    extent = math.prod(dim for dim in shape if dim) * max(dtype.itemsize, 1)
    if extent > (_MAX_BYTES if dtype.itemsize else _MAX_SIZELESS):
        raise ValueError(f"an array of shape {shape} is impossible")
    return math.prod(shape) * dtype.itemsize
