"""Manifests as files: written as Parquet and JSON, and read as what a stranger may have made."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atdata.errors import ManifestError
from atdata.shards.manifest import FORMAT, Manifest
from atdata.shards.tar import BLOCK

__all__ = ["extremes", "read_manifest", "to_header", "to_parquet"]

_RESERVED = ("__key__", "__offset__", "__size__", "__sha256__")


def to_parquet(manifest: Manifest) -> bytes:
    """The manifest as a Parquet file; the same manifest gives the same bytes."""
    table = manifest.table.replace_schema_metadata({"atdata": json.dumps(manifest.meta, sort_keys=True)})
    names = table.column_names
    counters = [n for n in names if n.startswith(("__offset__", "__size__"))]
    out = pa.BufferOutputStream()
    pq.write_table(
        table,
        out,
        compression={n: "none" if n.startswith("__sha256__") else "zstd" for n in names},
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
    file = pq.ParquetFile(pa.BufferReader(_copied(data)), page_checksum_verification=True)
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


def _copied(data: bytes) -> pa.Buffer:
    """The bytes in Arrow's own memory.

    Its threads may let go of what they read from a moment after the reading is done. Of Python's memory they could not
    while the interpreter ends, and would end the process instead: "terminate called without an active exception".
    """
    copy = pa.allocate_buffer(len(data))
    np.frombuffer(copy, np.uint8)[:] = np.frombuffer(data, np.uint8)
    return copy


class _ArrayMeta(TypedDict):
    dtype: str
    shape: list[int]


class _Meta(TypedDict):
    format: int
    shard_size: Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]
    shard_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    arrays: dict[str, _ArrayMeta | None]
    packed: NotRequired[list[str]]


# msgspec learns a class when it is first to read one, and crashes when two threads have it learn the same; modules are
# imported by one thread only.
msgspec.json.Decoder(_Meta)

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
    packed = meta.get("packed", [])
    if len({*packed, *meta["arrays"]}) != len(packed) + len(meta["arrays"]):
        raise ValueError("it says twice what a field is")
    for field in packed:
        expected |= {f"__offset__{field}": pa.int64(), f"__size__{field}": pa.int64()}
    for field in (*packed, *(name for name in meta["arrays"] if f"__sha256__{name}" in schema.names)):
        expected[f"__sha256__{field}"] = pa.binary(32)
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
    end = offsets + sizes
    spans = []
    for field in (*manifest.array_fields, *manifest.packed_fields):
        own = manifest.ranges(field)
        assert own is not None
        if field in manifest.array_fields:
            there, what = own.offsets >= 0, "elements of array field"
        else:
            there, what = own.sizes > 0, "bytes of field"
            if (there != (own.offsets >= 0)).any() or (own.sizes < -1).any() or (there & ~own.checked).any():
                raise ValueError(f"a part of what it says of field {field!r} is missing")
        if (there & ((own.offsets < offsets) | (own.offsets > end - own.sizes))).any():
            raise ValueError(f"the {what} {field!r} lie outside its sample")
        spans.append((np.where(there, own.offsets, offsets), np.where(there, own.sizes, 0)))
    _check_apart(spans)


def _check_apart(spans: list[tuple[Any, Any]]) -> None:
    """Refuse fields that have bytes in common."""
    if len(spans) < 2:
        return
    begins, sizes = (np.stack(part) for part in zip(*spans, strict=True))
    begins = np.where(sizes > 0, begins, -1)  # what has no bytes is in nobody's way
    order = np.argsort(begins, axis=0, kind="stable")
    begins, ends = (np.take_along_axis(part, order, axis=0) for part in (begins, begins + sizes))
    if (begins[1:] < ends[:-1]).any():
        raise ValueError("two fields of a sample have bytes in common")
