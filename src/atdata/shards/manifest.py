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

An offset is null where the sample's field is None; a field with structured arrays has no column. The file's key-value metadata has
`atdata` (JSON): format version, size and SHA-256 of the shard, and dtype and shape of the uniform arrays.

`shard-000000.manifest.json` is the header other tools know: counts and aggregates.
"""

from __future__ import annotations

import enum
import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atdata.errors import ManifestError
from atdata.samples.arrays import array_header, parse_header

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
        return np.dtype(self._dtypes[row].as_py()), tuple(self._shapes[row].as_py())

    @functools.cached_property
    def stride(self) -> int | None:
        """The distance between neighbouring arrays in bytes when it is always the same and none is missing."""
        if self.dtype is None or self.shape is None or len(self.offsets) == 0 or self.offsets.min() < 0:
            return None
        if len(self.offsets) == 1:
            return 0
        steps = np.diff(self.offsets)
        return int(steps[0]) if (steps == steps[0]).all() else None

    def missing(self, start: int, stop: int) -> bool:
        """Whether any of the samples from `start` up to `stop` has no array here."""
        return self._any_missing and bool((self.offsets[start:stop] < 0).any())

    @functools.cached_property
    def _any_missing(self) -> bool:
        return bool((self.offsets < 0).any())


class Manifest:
    """One shard's manifest, checked to be possible for a shard of its size."""

    def __init__(self, table: pa.Table, meta: dict[str, Any]) -> None:
        self.table = table
        self.shard_size: int = meta["shard_size"]
        self.shard_sha256: str = meta["shard_sha256"]
        self.offsets: NDArray[np.int64] = table["__offset__"].to_numpy()
        self.sizes: NDArray[np.int64] = table["__size__"].to_numpy()
        self._digests = table["__sha256__"].combine_chunks()
        self._arrays = meta["arrays"]
        self._columns: dict[str, list[Any]] = {}
        self._locations: dict[str, ArrayColumn] = {}

    def __len__(self) -> int:
        return len(self.offsets)

    @functools.cached_property
    def keys(self) -> list[str]:
        """The sample keys."""
        return list(self.table["__key__"].to_pylist())

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """The number of the first sample with each key."""
        return {key: i for i, key in reversed(list(enumerate(self.keys)))}

    def digest(self, row: int) -> bytes:
        """SHA-256 of the payload of sample `row`, 32 bytes."""
        return bytes(self._digests[row].as_py())

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
        found = self._columns.get(field)
        if found is None:
            column = self.table[field]
            plain = column.null_count == 0 and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
            # Through NumPy is ten times faster than to_pylist for plain numbers.
            found = self._columns[field] = column.to_numpy().tolist() if plain else column.to_pylist()
        return found

    def array(self, field: str) -> ArrayColumn:
        """Where the arrays of `field` lie."""
        found = self._locations.get(field)
        if found is None:
            info = self._arrays[field]
            offsets = pc.fill_null(self.table[f"__offset__{field}"], -1).to_numpy()
            if info is None:
                dtypes, shapes = self.table[f"__dtype__{field}"], self.table[f"__shape__{field}"]
                found = ArrayColumn(offsets, None, None, dtypes.combine_chunks(), shapes.combine_chunks())
            else:
                dtype, shape, _ = parse_header(array_header(np.dtype(info["dtype"]), tuple(info["shape"])))
                found = ArrayColumn(offsets, dtype, shape)
            self._locations[field] = found
        return found


class ManifestBuilder:
    """Collects the rows of one shard while it is written."""

    def __init__(self, scalars: Sequence[tuple[int, str, pa.DataType]], arrays: Sequence[tuple[int, str]]) -> None:
        """Both lists say the field's position in a sample's values, and its name."""
        self._scalars = scalars
        self._arrays = arrays
        self._rows: list[tuple[str, int, int, bytes]] = []
        self._values: list[tuple[Any, ...]] = []
        self._raw: list[list[int]] = []
        self._kinds: list[list[tuple[np.dtype[Any], tuple[int, ...]]]] = [[] for _ in arrays]

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, key: str, offset: int, size: int, digest: bytes, values: tuple[Any, ...], raw: list[int]) -> None:
        """One sample: its payload's offset, size and digest, its values, and where its arrays begin in the payload."""
        self._rows.append((key, offset, size, digest))
        if self._scalars:
            self._values.append(tuple([values[i] for i, _, _ in self._scalars]))
        if raw:
            self._raw.append(raw)
            for kinds, (i, _) in zip(self._kinds, self._arrays, strict=True):
                value = values[i]
                kinds.append((value.dtype, value.shape) if value is not None else _NO_ARRAY)

    def finish(self, shard_size: int, shard_sha256: str) -> Manifest:
        """The manifest of the finished shard."""
        keys, offsets, sizes, digests = zip(*self._rows, strict=True) if self._rows else ((), (), (), ())
        at = np.array(offsets, np.int64)
        columns: dict[str, pa.Array] = {
            "__key__": pa.array(keys, pa.string()),
            "__offset__": pa.array(at),
            "__size__": pa.array(sizes, pa.int64()),
            "__sha256__": pa.array(digests, pa.binary(32)),
        }
        for j, (_, name, kind) in enumerate(self._scalars):
            column = _scalar_column([row[j] for row in self._values], kind)
            if column is not None:
                columns[name] = column
        arrays: dict[str, Any] = {}
        for j, (_, name) in enumerate(self._arrays):
            relative = np.array([row[j] for row in self._raw], np.int64)
            if any(at < 0 and kind is not _NO_ARRAY for at, kind in zip(relative, self._kinds[j], strict=True)):
                continue  # structured arrays have no raw elements to point at
            columns[f"__offset__{name}"] = pa.array(at + relative, mask=relative < 0)
            arrays[name] = self._uniform(name, self._kinds[j], relative, columns)
        meta = {"format": FORMAT, "shard_size": shard_size, "shard_sha256": shard_sha256, "arrays": arrays}
        return Manifest(pa.table(columns), meta)

    def _uniform(
        self,
        name: str,
        kinds: list[tuple[np.dtype[Any], tuple[int, ...]]],
        relative: NDArray[np.int64],
        columns: dict[str, pa.Array],
    ) -> dict[str, Any] | None:
        present = {kind for kind, at in zip(kinds, relative, strict=True) if at >= 0}
        if len(present) == 1:
            dtype, shape = present.pop()
            return {"dtype": dtype.str, "shape": list(shape)}
        here = [at >= 0 for at in relative]
        dtypes = [kind[0].str if ok else None for kind, ok in zip(kinds, here, strict=True)]
        shapes = [list(kind[1]) if ok else None for kind, ok in zip(kinds, here, strict=True)]
        columns[f"__dtype__{name}"] = pa.array(dtypes, pa.string())
        columns[f"__shape__{name}"] = pa.array(shapes, pa.list_(pa.int64()))
        return None


_NO_ARRAY: tuple[np.dtype[Any], tuple[int, ...]] = (np.dtype("V1"), ())
_LONG_TEXT = 256  # text longer than this on average would make the manifest as large as the data


def _scalar_column(values: list[Any], kind: pa.DataType) -> pa.Array | None:
    """The values as an Arrow column; None where they are too large to stand in a manifest."""
    plain = [_plain(v) for v in values]
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
    return pa.array(plain, kind)


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
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


_MAX_VALUES = 1000


def _aggregate(column: Any) -> dict[str, Any] | None:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        counts = pc.value_counts(column.drop_null())
        table = {str(row["values"]): row["counts"] for row in counts.to_pylist()} if len(counts) <= _MAX_VALUES else {}
        return {"type": "categorical", "cardinality": len(counts), "value_counts": dict(sorted(table.items()))}
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        low, high = extremes(column)
        mean = pc.mean(column).as_py()
        finite = mean if mean is not None and math.isfinite(mean) else None
        return {"type": "numeric", "min": low, "max": high, "mean": finite, "count": len(column) - column.null_count}
    return None


def extremes(column: Any) -> tuple[Any, Any]:
    """Smallest and largest value, NaN and nulls left out; None where there is none or JSON has no form for it."""
    if pa.types.is_floating(column.type):
        column = column.filter(pc.invert(pc.is_nan(column)))
    found = pc.min_max(column).as_py()
    low, high = found["min"], found["max"]
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
    try:
        table = pq.read_table(pa.BufferReader(data))
        raw = (table.schema.metadata or {}).get(b"atdata")
        if raw is None:
            return None
        meta = json.loads(raw)
        if meta["format"] != FORMAT:
            raise ManifestError(
                f"the manifest has format {meta['format']}, this version reads {FORMAT}: update atdata, or rebuild it "
                "with `atdata manifest build`",
                url=url,
            )
        manifest = Manifest(table, meta)
        _check(manifest)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"the manifest cannot be read: {error}", url=url) from None
    if shard_size is not None and manifest.shard_size != shard_size:
        raise ManifestError(
            f"the manifest belongs to a shard of {manifest.shard_size} bytes, this one has {shard_size}: "
            "rebuild it with `atdata manifest build`",
            url=url,
        )
    return manifest


def _check(manifest: Manifest) -> None:
    """Refuse offsets that lie outside the shard, so that nothing later has to doubt them."""
    offsets, sizes = manifest.offsets, manifest.sizes
    if manifest.table["__key__"].null_count or len(manifest._digests) != len(offsets):
        raise ValueError("a row has no key")
    if len(offsets) and (
        sizes.min() < 0 or offsets.min() < 0 or sizes.max() > manifest.shard_size
        or (offsets > manifest.shard_size - sizes).any()
    ):  # fmt: skip
        raise ValueError("a sample lies outside the shard")
    for field in manifest.array_fields:
        column = manifest.array(field)
        here = column.offsets >= 0
        if column.dtype is not None and column.shape is not None:
            need: Any = math.prod(column.shape) * column.dtype.itemsize
        else:
            rows = np.flatnonzero(here)
            need = np.zeros(len(here), np.int64)
            for row in rows:
                dtype, shape, _ = parse_header(array_header(*column.describe(int(row))))
                need[row] = min(math.prod(shape) * dtype.itemsize, 1 << 62)
        end = offsets + sizes
        if (here & ((column.offsets < offsets) | (column.offsets > end - need))).any():
            raise ValueError(f"the elements of array field {field!r} lie outside its sample")
