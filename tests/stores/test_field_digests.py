"""Fields that manifests describe by themselves: where they lie, what they hash to, and when it is worth that."""

from __future__ import annotations

import hashlib
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import atdata
from atdata.errors import ManifestError
from atdata.samples import codec
from atdata.samples.arrays import array_to_bytes
from atdata.shards.manifest import APART, Manifest, manifest_name
from atdata.shards.manifest_file import read_manifest, to_parquet
from atdata.stores.manifests import build_manifest
from atdata.testing import samples as any_samples

RECORDS = np.dtype([("a", "<i4"), ("b", ">f8")])


@atdata.packable
class Scene:
    """One large field, some others that are worth being read without it, and numbers."""

    image: NDArray[np.uint8]
    embedding: NDArray[np.float32]
    label: int
    text: str
    note: str | None = None
    boxes: list[list[float]] | None = None
    when: datetime | None = None
    blob: bytes = b""
    mask: NDArray[np.bool_] | None = None
    ragged: NDArray[np.int16] | None = None
    table: NDArray[Any] | None = None


def scene(i: int, size: int = 40_000) -> Scene:
    return Scene(
        image=np.full(size, i % 251, np.uint8),
        embedding=np.arange(4, dtype=np.float32) + i,
        label=i,
        text=f"text {i}",
        note=None if i % 3 else "long " * 200,
        boxes=None if i % 4 == 1 else [[float(i)] * 4] * (i % 3),
        when=None if i % 5 == 2 else datetime(2026, 1, 1, tzinfo=UTC).replace(minute=i % 60),
        blob=bytes([i % 256]) * (i % 3),
        mask=None if i % 2 else np.zeros((3, i), bool),
        ragged=None if i % 4 == 3 else np.arange(i % 4, dtype=">i2"),
        table=None if i % 3 == 1 else np.zeros(2, RECORDS),
    )


def written(folder: Path, samples: list[Any], **options: Any) -> tuple[str, Manifest]:
    ds = atdata.Dataset.from_samples(samples, type(samples[0]))
    (url,) = atdata.LocalDiskStore(folder).write_shards(ds, prefix="x", **options)
    return url, manifest_of(url)


def manifest_of(url: str) -> Manifest:
    found = read_manifest(Path(manifest_name(url) or "").read_bytes(), url=url)
    assert found is not None
    return found


def wire(value: Any) -> Any:
    """A value as msgpack has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    return array_to_bytes(value) if isinstance(value, np.ndarray) else value


def test_the_bytes_of_a_field_and_their_digest(tmp_path: Path) -> None:
    """Of arrays the raw elements, of other fields the packed value; nothing of what stands in the manifest."""
    made = [scene(i) for i in range(30)]
    url, manifest = written(tmp_path, made)
    data = Path(url).read_bytes()
    assert set(manifest.array_fields) == {"image", "embedding", "mask", "ragged"}
    assert set(manifest.packed_fields) == {"note", "boxes", "when", "blob", "table"}
    for name in (*manifest.array_fields, *manifest.packed_fields):
        ranges = manifest.ranges(name)
        assert ranges is not None
        for row, sample in enumerate(made):
            value = getattr(sample, name)
            begin, size = int(ranges.offsets[row]), int(ranges.sizes[row])
            if value is None:
                assert (begin, size) == (-1, 0), name
            elif name in manifest.array_fields:
                assert data[begin : begin + size] == value.tobytes(), name
            else:
                assert data[begin : begin + size] == msgspec.msgpack.encode(wire(value)), name
            if name == "image":  # all the rest is not worth a second hashing
                assert not ranges.checked[row]
            else:
                assert ranges.checked[row], name
                assert not size or ranges.digest(row) == hashlib.sha256(data[begin : begin + size]).digest(), name
    assert manifest.ranges("label") is manifest.ranges("text") is manifest.ranges("nothing") is None


@atdata.packable
class Pair:
    first: NDArray[np.uint8]
    second: bytes


@pytest.mark.parametrize(
    ("first", "second", "fields"),
    [
        (100, 100, set()),
        (APART - 100, 100, set()),
        (APART, 1, {"second"}),
        (APART, APART, {"first", "second"}),
        (0, 2 * APART, {"first"}),  # known to be empty, without a digest
    ],
)
def test_only_where_the_rest_of_the_sample_is_large(tmp_path: Path, first: int, second: int, fields: set[str]) -> None:
    _, manifest = written(tmp_path, [Pair(np.zeros(first, np.uint8), bytes(second))])
    checked = {name for name in ("first", "second") if (own := manifest.ranges(name)) is not None and own.checked[0]}
    assert checked == fields
    there = {name[10:] for name in manifest.table.column_names if name.startswith("__sha256__") and name[10:]}
    assert there == fields - ({"first"} if not first else set())


def test_each_sample_for_itself(tmp_path: Path) -> None:
    sizes = [10, APART, 50, 2 * APART]
    _, manifest = written(tmp_path, [Pair(np.zeros(size, np.uint8), b"x") for size in sizes])
    own = manifest.ranges("second")
    assert own is not None
    assert own.sizes.tolist() == [-1, 3, -1, 3]
    assert own.checked.tolist() == [False, True, False, True]


def test_what_has_one_large_field_takes_no_more_room(tmp_path: Path) -> None:
    _, manifest = written(tmp_path, [Pair(np.zeros(4 * APART, np.uint8), b"") for _ in range(3)])
    assert "__sha256__first" not in manifest.table.column_names


def test_structured_arrays_beside_plain_ones(tmp_path: Path) -> None:
    tables = [np.zeros(2, RECORDS), np.arange(3), None]
    _, manifest = written(tmp_path, [Scene(np.zeros(APART, np.uint8), np.zeros(1, np.float32), 0, "", table=t)
                                     for t in tables])  # fmt: skip
    own = manifest.ranges("table")
    assert own is not None
    assert own.checked.tolist() == [True, False, True]  # the plain one is read with its sample


def test_building_gives_the_same(tmp_path: Path) -> None:
    url, _ = written(tmp_path, [scene(i) for i in range(12)])
    path = Path(manifest_name(url) or "")
    before = path.read_bytes()
    path.unlink()
    build_manifest(url, Scene, force=True)
    assert path.read_bytes() == before


def test_a_foreign_tar_gets_them_too(tmp_path: Path) -> None:
    path = tmp_path / "foreign.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(3):
            data = atdata.pack(scene(i))
            member = tmp_path / "member"
            member.write_bytes(data)
            archive.add(member, f"s{i}.msgpack")
    build_manifest(path, Scene)
    assert set(manifest_of(str(path)).packed_fields) == {"note", "boxes", "when", "blob", "table"}
    # A class that its bytes are not written as describes nothing.
    build_manifest(path, force=True)
    assert manifest_of(str(path)).packed_fields == manifest_of(str(path)).array_fields == []


def test_manifests_from_before_are_read(tmp_path: Path) -> None:
    _, manifest = written(tmp_path, [scene(i) for i in range(5)])
    own = [n for n in manifest.table.column_names if n.startswith(("__sha256__", "__size__")) and not n.endswith("__")]
    old = manifest.table.drop_columns(own)
    old = old.drop_columns([f"__offset__{name}" for name in manifest.packed_fields])
    data = to_parquet(Manifest(old, {**manifest.meta, "packed": []}))
    assert "packed" not in json.loads(pq.read_schema(pa.BufferReader(data)).metadata[b"atdata"])
    found = read_manifest(data)
    assert found is not None
    assert found.packed_fields == []
    image = found.ranges("image")
    assert image is not None
    assert image.sizes.tolist() == [40_000] * 5
    assert not image.checked.any()


@given(any_samples(Scene))
def test_spans_cover_the_payload(sample: Scene) -> None:
    plan = codec.plan(Scene)
    payload = plan.encode(sample)[0]
    spans = plan.spans(payload)
    values = list(msgspec.msgpack.decode(payload).values())
    # As text: a NaN within a list is no other NaN.
    assert repr([msgspec.msgpack.decode(payload[begin:end]) for begin, end in spans]) == repr(values)
    names = [msgspec.msgpack.encode(field.name) for field in plan.fields]
    assert payload[1:] == b"".join(name + payload[begin:end] for name, (begin, end) in zip(names, spans, strict=True))


@given(st.lists(any_samples(Pair), min_size=1, max_size=4))
def test_any_samples_have_a_manifest_that_is_read(samples: list[Pair]) -> None:
    from atdata.shards.writer import ShardWriter, encoder

    parts: list[bytes] = []
    writer = ShardWriter(parts.extend, encoder(Pair))
    writer.fill(((i, (None, sample)) for i, sample in enumerate(samples)), maxcount=10, maxsize=1 << 30)
    writer.finish()
    manifest = writer.manifest(hashlib.sha256(b"".join(parts)).hexdigest())
    found = read_manifest(to_parquet(manifest))
    assert found is not None
    assert found.table.equals(manifest.table)


# -- what a stranger says --------------------------------------------------------------------------------------------


def _with(manifest: Manifest, name: str, values: list[Any], kind: pa.DataType | None = None) -> bytes:
    at = manifest.table.column_names.index(name)
    table = manifest.table.set_column(at, name, pa.array(values, kind or manifest.table.schema.field(name).type))
    return _forged(table, manifest.meta)


def _forged(table: pa.Table, meta: dict[str, Any]) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"atdata": json.dumps(meta)}), out)
    return bytes(out.getvalue())


def _first(value: Any) -> Any:
    return lambda values: [value, *values[1:]]


LIES: dict[str, tuple[str, Any]] = {
    "before its sample": ("__offset__blob", _first(3)),
    "in another sample": ("__offset__blob", lambda values: [values[1], *values[1:]]),
    "behind the end": ("__offset__blob", _first(1 << 40)),
    "an offset that overflows": ("__offset__blob", _first(2**63 - 1)),
    "below zero": ("__offset__blob", _first(-7)),
    "too long": ("__size__blob", _first(50_000)),
    "longer than anything": ("__size__blob", _first(2**63 - 1)),
    "a length below zero": ("__size__blob", _first(-2)),
    "no offset": ("__offset__blob", _first(None)),
    "no length": ("__size__blob", _first(None)),
    "no digest": ("__sha256__blob", _first(None)),
    "an offset of nothing": ("__size__blob", _first(0)),
    "into another field": ("__size__note", lambda values: [2000 if v else v for v in values]),
    "onto another field": ("__offset__embedding", lambda values: [v - 30 for v in values]),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_manifest_is_refused(tmp_path: Path, lie: str) -> None:
    url, manifest = written(tmp_path, [scene(i) for i in range(6)])
    (tmp_path / "x" / "atdata.json").unlink()
    name, change = LIES[lie]
    Path(manifest_name(url) or "").write_bytes(_with(manifest, name, change(manifest.table[name].to_pylist())))
    with pytest.raises(ManifestError, match=r"outside its sample|in common|missing") as caught:
        list(atdata.Dataset[Scene](url))
    assert caught.value.url == manifest_name(url)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("__sha256__blob", pa.binary()), ("__size__blob", pa.uint64()), ("__offset__blob", pa.float64()),
     ("__sha256__embedding", pa.binary(16))],
)  # fmt: skip
def test_columns_of_another_type_are_refused(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    _, manifest = written(tmp_path, [scene(i) for i in range(6)])
    values = [v[: kind.byte_width] if pa.types.is_fixed_size_binary(kind) else v
              for v in manifest.table[name].to_pylist()]  # fmt: skip
    with pytest.raises(ManifestError, match="holds"):
        read_manifest(_with(manifest, name, values, kind))


@pytest.mark.parametrize("packed", [["blob", "blob"], ["image"], ["label"], ["nothing"], "blob", [1], {"a": 1}])
def test_other_lists_of_fields_are_refused(tmp_path: Path, packed: Any) -> None:
    _, manifest = written(tmp_path, [scene(i) for i in range(6)])
    with pytest.raises(ManifestError):
        read_manifest(_forged(manifest.table, {**manifest.meta, "packed": packed}))
