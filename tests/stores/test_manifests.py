"""Manifests: what stands in them is true, and what a stranger's manifest says is not believed."""

import datetime
import enum
import hashlib
import json
import math
import os
import sqlite3
import subprocess
import sys
import tarfile
import threading
import weakref
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import IntegrityError, ManifestError
from atdata.shards.manifest import header_name, manifest_name
from atdata.shards.manifest_file import read_manifest
from atdata.stores.record import RECORD_NAME

UTC = datetime.UTC
EAST = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
WEST = datetime.timezone(-datetime.timedelta(hours=1))
AWARE, NAIVE = pa.timestamp("us", "UTC"), pa.timestamp("us")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 10


@atdata.packable
class Everything:
    image: NDArray[np.uint8]
    ragged: NDArray[np.float32]
    table: NDArray
    text: str
    number: int
    ratio: float
    flag: bool
    colour: Colour
    level: Level
    split: Literal["train", "test"]
    when: datetime.datetime
    blob: bytes
    maybe: NDArray[np.int16] | None = None
    note: str | None = None
    score: float | None = None
    nothing: int | None = None
    tags: list[str] | None = None


RECORDS = np.dtype([("a", "<i4"), ("b", "<f8")])


def everything(i):
    return Everything(
        image=np.full((4, 3), i % 256, np.uint8),
        ragged=np.arange(i % 5, dtype=np.float32),
        table=np.zeros(2, RECORDS) if i % 2 else np.arange(3, dtype=">i8"),
        text=f"text {i}",
        number=i - 10,
        ratio=i / 7,
        flag=i % 3 == 0,
        colour=Colour.RED if i % 2 else Colour.BLUE,
        level=Level.LOW if i % 4 else Level.HIGH,
        split="train" if i % 5 else "test",
        when=datetime.datetime(2024, 1, 1, tzinfo=EAST) + datetime.timedelta(hours=i),
        blob=bytes([i % 256]) * (i % 9),
        maybe=None if i % 3 == 0 else np.full((2, 2), i, np.int16),
        note=None if i % 4 == 0 else f"n{i}",
        score=None if i % 6 == 0 else -i / 3,
    )


def write(root, samples, prefix="x", sample_type=None, **options):
    dataset = atdata.Dataset.from_samples(samples, sample_type or type(samples[0]))
    return atdata.LocalDiskStore(root).write_shards(dataset, prefix=prefix, **{"maxcount": 20, **options})


def manifest_of(url):
    with open(manifest_name(url), "rb") as file:
        return read_manifest(file.read(), url=url)


def header_of(url):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    with open(header_name(url), encoding="utf-8") as file:
        return json.load(file, parse_constant=refuse)


def content(url):
    with open(url, "rb") as file:
        return file.read()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    samples = [everything(i) for i in range(50)]
    return samples, write(tmp_path_factory.mktemp("written"), samples)


# -- what we write -----------------------------------------------------------------------------------------------


def test_every_sample_is_in_the_manifests(written):
    """Also those of the last shard."""
    samples, urls = written
    rows = [len(manifest_of(url)) for url in urls]
    assert rows == [20, 20, 10] == [header_of(url)["num_samples"] for url in urls]
    assert sum(rows) == len(samples)
    assert [key for url in urls for key in manifest_of(url).keys] == [f"{i:09d}" for i in range(50)]


def test_a_single_shard_has_its_manifest(tmp_path):
    (url,) = write(tmp_path, [everything(0)])
    assert len(manifest_of(url)) == header_of(url)["num_samples"] == 1


def test_offsets_sizes_and_digests_are_those_of_the_tar(written):
    _, urls = written
    for url in urls:
        manifest, whole = manifest_of(url), content(url)
        with tarfile.open(url) as archive:
            members = archive.getmembers()
            assert [m.name for m in members] == [f"{key}.msgpack" for key in manifest.keys]
            assert [m.offset_data for m in members] == manifest.offsets.tolist()
            assert [m.size for m in members] == manifest.sizes.tolist()
            for row, member in enumerate(members):
                payload = archive.extractfile(member).read()
                offset = manifest.offsets[row]
                assert whole[offset : offset + manifest.sizes[row]] == payload
                assert manifest.digest(row) == hashlib.sha256(payload).digest()
        assert manifest.shard_size == len(whole)
        assert manifest.shard_sha256 == hashlib.sha256(whole).hexdigest()


def test_offsets_count_extension_headers(tmp_path):
    """A long or non-ASCII key takes blocks of its own before the member's header."""
    keys = ["short", "k" * 150, "schlüssel/数", "k" * 91, "k" * 92, "k" * 93, "end"]
    names = iter(keys)
    dataset = atdata.Dataset.from_samples([everything(i) for i in range(7)], Everything, key=lambda _: next(names))
    (url,) = atdata.LocalDiskStore(tmp_path).write_shards(dataset, prefix="x")
    manifest = manifest_of(url)
    with tarfile.open(url) as archive:
        assert [m.offset_data for m in archive.getmembers()] == manifest.offsets.tolist()
    assert manifest.keys == keys


def test_array_offsets_point_at_the_elements(written):
    samples, urls = written
    number = 0
    for url in urls:
        manifest, whole = manifest_of(url), content(url)
        assert set(manifest.array_fields) == {"image", "ragged", "maybe"}  # structured arrays have nowhere to point at
        for row in range(len(manifest)):
            for field in manifest.array_fields:
                column, expected = manifest.array(field), getattr(samples[number], field)
                at = int(column.offsets[row])
                if expected is None:
                    assert at == -1
                    continue
                dtype, shape = column.describe(row)
                assert (dtype, shape) == (expected.dtype, expected.shape)
                assert whole[at : at + expected.nbytes] == expected.tobytes()
            number += 1
    assert (manifest.array("image").dtype, manifest.array("image").shape) == (np.uint8, (4, 3))
    assert manifest.array("ragged").shape is None


def test_scalar_columns_are_the_values(written):
    samples, urls = written
    manifests = [manifest_of(url) for url in urls]
    plain = {"text", "number", "ratio", "flag", "split", "note", "score", "nothing"}
    assert set(manifests[0].scalar_fields) == plain | {"colour", "level", "when"}
    for field in plain:
        values = [value for manifest in manifests for value in manifest.column(field)]
        assert values == [getattr(sample, field) for sample in samples]
    for field in ("colour", "level"):
        values = [value for manifest in manifests for value in manifest.column(field)]
        assert values == [getattr(sample, field).value for sample in samples]
    times = [value for manifest in manifests for value in manifest.table["when"].to_pylist()]
    assert times == [sample.when for sample in samples]


def test_the_header_names_its_own_shard(written):
    _, urls = written
    for number, url in enumerate(urls):
        header = header_of(url)
        assert header["shard_id"] == f"shard-{number:06d}"
        assert header["manifest_version"] == "1.0.0"
        assert (header["schema_type"], header["schema_version"]) == ("Everything", "1.0.0")
        assert header["size_bytes"] == manifest_of(url).sizes.sum()
        assert header["shard_size"] == len(content(url))
        assert header["shard_sha256"] == hashlib.sha256(content(url)).hexdigest()


def test_aggregates(written):
    samples, urls = written
    aggregates = header_of(urls[2])["aggregates"]
    last = samples[40:]
    assert aggregates["number"] == {
        "type": "numeric", "min": 30, "max": 39, "mean": 34.5, "count": 10
    }  # fmt: skip
    scores = [s.score for s in last if s.score is not None]
    assert aggregates["score"]["count"] == len(scores)
    assert (aggregates["score"]["min"], aggregates["score"]["max"]) == (min(scores), max(scores))
    assert aggregates["score"]["mean"] == pytest.approx(sum(scores) / len(scores))
    assert aggregates["flag"] == {"type": "categorical", "cardinality": 2, "value_counts": {"False": 7, "True": 3}}
    assert aggregates["colour"]["value_counts"] == {"blue": 5, "red": 5}
    assert aggregates["text"]["cardinality"] == 10
    assert aggregates["nothing"] == {"type": "numeric", "min": None, "max": None, "mean": None, "count": 0}


@atdata.packable
class Value:
    x: float | None = None


@atdata.packable
class Whole:
    x: int | None = None


@pytest.mark.parametrize(
    "values",
    [[math.inf, 1.0], [-math.inf, math.inf], [math.nan], [math.nan, 2.0], [None, None], [1e308, 1e308], [-0.0, 5e-324],
     [2**60 + 1, 1.5], [3, 4]],
    ids=str,
)  # fmt: skip
def test_any_float_has_a_header_that_is_json(tmp_path, values):
    samples = [Value(value) for value in values]
    (url,) = write(tmp_path, samples)
    aggregate = header_of(url)["aggregates"]["x"]
    assert aggregate["count"] == sum(value is not None for value in values)
    finite = [float(v) for v in values if v is not None and not math.isnan(v)]
    if finite and all(map(math.isfinite, finite)):
        assert (aggregate["min"], aggregate["max"]) == (min(finite), max(finite))
    else:
        assert aggregate["min"] is aggregate["max"] is None
    np.testing.assert_array_equal(
        np.array(manifest_of(url).column("x"), float), np.array(values, float)  # NaN equals NaN here
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "kind"),
    [([2**64 - 1, 0], pa.uint64()), ([-(2**63), 2**63 - 1], pa.int64()), ([2**64 - 1, -1], None),
     ([2**64 - 1, None], pa.uint64()), ([np.int8(3), np.uint64(2**63)], pa.uint64()), ([None], pa.int64())],
    ids=str,
)  # fmt: skip
def test_integers_of_any_size(tmp_path, values, kind):
    samples = [Whole(value) for value in values]
    urls = write(tmp_path, samples)
    manifest = manifest_of(urls[0])
    if kind is None:  # no column can hold both; the samples can
        assert manifest.scalar_fields == []
        assert urls.shards[0].stats == {}
    else:
        assert manifest.table.schema.field("x").type == kind
        assert manifest.column("x") == values
        there = [int(value) for value in values if value is not None]
        stats = urls.shards[0].stats["x"]
        assert (stats.min, stats.max) == ((min(there), max(there)) if there else (None, None))
    assert [sample.x for sample in atdata.Dataset[Whole](urls)] == values
    assert next(iter(atdata.Dataset[Whole](urls).ordered(batch_size=9))).x == values


def test_the_mean_of_large_integers(tmp_path):
    (url,) = write(tmp_path, [Whole(2**62), Whole(2**62), Whole(2**62), Whole(2**62)])
    assert header_of(url)["aggregates"]["x"]["mean"] == 2.0**62


@atdata.packable
class Text:
    x: str | None = None


def test_long_texts_stay_in_the_shard(tmp_path):
    urls = write(tmp_path, [Text("x" * 5000) for _ in range(20)] + [Text("short")] * 20)
    assert [manifest_of(url).scalar_fields for url in urls] == [[], ["x"]]
    assert all(len(content(manifest_name(url))) < 5000 for url in urls)
    assert "x" not in urls.shards[0].stats
    assert [sample.x[:5] for sample in atdata.Dataset[Text](urls)] == ["xxxxx"] * 20 + ["short"] * 20
    batch = next(iter(atdata.Dataset[Text](urls).ordered(batch_size=40)))  # over both kinds of shard
    assert [len(x) for x in batch.x] == [5000] * 20 + [5] * 20


def test_statistics_of_texts_are_short(tmp_path):
    urls = write(tmp_path, [Text("b" * 100), Text("c"), Text(None)])
    assert (urls.shards[0].stats["x"].min, urls.shards[0].stats["x"].nulls) == (None, 1)
    urls = write(tmp_path, [Text("ü\0\u2028"), Text("é"), Text(None)], "y")
    assert (urls.shards[0].stats["x"].min, urls.shards[0].stats["x"].max) == ("é", "ü\0\u2028")


@atdata.packable
class Moment:
    x: datetime.datetime | None = None


@pytest.mark.parametrize(
    ("values", "kind", "stats"),
    [
        ([datetime.datetime(2024, 5, 1, 12, tzinfo=EAST), None], AWARE, "2024-05-01T06:30:00+00:00"),
        ([datetime.datetime(2024, 5, 1, 12, 0, 0, 123456)], NAIVE, "2024-05-01T12:00:00.123456"),
        ([datetime.datetime(2024, 5, 1), datetime.datetime(2024, 5, 1, tzinfo=UTC)], None, None),
        ([datetime.datetime.min.replace(tzinfo=EAST)], AWARE, None),
        ([datetime.datetime.max.replace(tzinfo=WEST)], AWARE, None),
        ([None, None], AWARE, None),
    ],
    ids=["aware", "naive", "both", "before year 1", "after year 9999", "none"],
)
def test_times(tmp_path, values, kind, stats):
    urls = write(tmp_path, [Moment(value) for value in values])
    schema = manifest_of(urls[0]).table.schema
    assert ("x" in schema.names) == (kind is not None)
    if kind is not None:
        assert schema.field("x").type == kind
        assert urls.shards[0].stats["x"].min == stats
    header_of(urls[0])
    assert [sample.x for sample in atdata.Dataset[Moment](urls)] == values
    assert next(iter(atdata.Dataset[Moment](urls).ordered(batch_size=9))).x == values


@atdata.packable
class Arrays:
    x: NDArray | None = None


@pytest.mark.parametrize(
    "arrays",
    [
        [np.zeros((0, 3)), np.zeros((0, 3))],
        [np.array(5), np.array(6)],
        [np.array(5), np.zeros(2, ">i2"), None],
        [None, None],
        [np.zeros(3, "<M8[ns]"), np.ones(3, "<M8[ns]")],
        [np.zeros(2, "<U0"), np.array(["ab", ""])],
        [np.zeros(2, RECORDS), None],
        [np.zeros(2, RECORDS), np.zeros(2)],
        [np.asfortranarray(np.arange(6).reshape(2, 3)), np.arange(6).reshape(2, 3)[:, ::-1]],
        [np.full((2, 2), 1 + 2j, ">c16"), np.zeros((2, 2), "<c16")],
        [np.arange(4000, dtype="<f8"), np.arange(4001, dtype="<f8")],
    ],
    ids=lambda arrays: "/".join("none" if a is None else f"{a.dtype}{a.shape}" for a in arrays)[:40],
)
def test_arrays_of_any_kind(tmp_path, arrays):
    samples = [Arrays(array) for array in arrays] * 3
    urls = write(tmp_path, samples, maxcount=4)
    assert list(atdata.Dataset[Arrays](urls)) == samples
    number = 0
    for batch in atdata.Dataset[Arrays](urls).ordered(batch_size=4):
        for found in batch.x:
            assert Arrays(None if found is None else np.asarray(found)) == samples[number]
            number += 1
    assert number == len(samples)


def test_manifests_are_the_same_on_every_run(tmp_path, written):
    samples, urls = written
    for first, second in zip(urls, write(tmp_path, samples, "another/place"), strict=True):
        assert content(manifest_name(first)) == content(manifest_name(second))
        assert content(header_name(first)) == content(header_name(second))


def test_any_tool_can_read_and_query_them(written, tmp_path):
    samples, urls = written
    paths = [manifest_name(url) for url in urls]
    table = pyarrow.dataset.dataset(paths).to_table(
        columns=["__key__", "number", "colour"],
        filter=(pyarrow.dataset.field("number") > 5) & (pyarrow.dataset.field("colour") == "red"),
    )
    expected = [i for i, s in enumerate(samples) if s.number > 5 and s.colour is Colour.RED]
    assert table["__key__"].to_pylist() == [f"{i:09d}" for i in expected]
    frame = pq.read_table(paths[0]).to_pandas()
    assert frame.groupby("colour").size().to_dict() == {"blue": 10, "red": 10}
    with sqlite3.connect(tmp_path / "q.db") as connection:
        frame[["__key__", "__offset__", "number", "note"]].to_sql("m", connection)
        found = connection.execute("select count(*), max(__offset__) from m where note is null").fetchone()
    connection.close()
    assert found == (5, int(manifest_of(urls[0]).offsets[16]))


def test_dotted_names(tmp_path):
    assert manifest_name("v1.5-run-000000.tar") == "v1.5-run-000000.manifest.parquet"
    assert header_name("a.b/v1.5-run-000000.tar") == "a.b/v1.5-run-000000.manifest.json"
    assert manifest_name("x.tar.gz") is None
    urls = write(tmp_path, [everything(i) for i in range(40)], "data.v1.5/run.2")
    folder = tmp_path / "data.v1.5/run.2"
    (folder / RECORD_NAME).unlink()
    for path in sorted(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("shard-", "v1.5-run-")))
    found = atdata.Dataset[Everything](str(folder / "*.tar"))
    assert len(found) == 40
    assert list(found) == [everything(i) for i in range(40)]
    assert len(urls) == len(list(folder.glob("*.parquet"))) == 2


# -- what others write -------------------------------------------------------------------------------------------


@pytest.fixture
def shard(tmp_path):
    """One shard with a manifest, and no record that would say anything of them."""
    (url,) = write(tmp_path, [everything(i) for i in range(20)])
    (tmp_path / "x" / RECORD_NAME).unlink()
    return url


def read_all(url, sample_type=Everything):
    """Read the shard in every way there is; gives the samples."""
    dataset = atdata.Dataset[sample_type](url)
    samples = list(dataset)
    assert [dataset[i] for i in range(len(dataset))] == samples
    batched = []
    for batch in dataset.ordered(batch_size=7):
        columns = {name: list(batch[name]) for name in batch.fields}
        batched += [sample_type(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    assert batched == samples
    return samples


def forge(url, table=lambda t: t, meta=lambda m: m, **options):
    """Rewrite the manifest beside a shard."""
    path = manifest_name(url)
    found = pq.read_table(path)
    stated = meta(json.loads(found.schema.metadata[b"atdata"]))
    changed = table(found)
    text = stated if isinstance(stated, bytes) else json.dumps(stated)
    pq.write_table(changed.replace_schema_metadata({"atdata": text}), path, **options)


def column(name, change, kind=None):
    """A change of one column's values."""

    def apply(table):
        values = change(table[name].to_pylist())
        at = table.column_names.index(name)
        return table.set_column(at, name, pa.array(values, kind or table.schema.field(name).type))

    return apply


def set_first(value):
    return lambda values: [value, *values[1:]]


def array_meta(field, **changes):
    return lambda m: {**m, "arrays": {**m["arrays"], field: {**m["arrays"][field], **changes}}}


HOSTILE = {
    "offset behind the end": {"table": column("__offset__", set_first(1 << 40))},
    "offset at the end": {"table": column("__offset__", lambda v: [*v[:-1], 1_000_000])},
    "offset below zero": {"table": column("__offset__", set_first(-1))},
    "offset overflows": {"table": column("__offset__", set_first(2**63 - 1))},
    "size below zero": {"table": column("__size__", set_first(-5))},
    "size overflows": {"table": column("__size__", set_first(2**63 - 1))},
    "size too large": {"table": column("__size__", set_first(10_000_000))},
    "no offset": {"table": column("__offset__", set_first(None))},
    "no size": {"table": column("__size__", set_first(None))},
    "no key": {"table": column("__key__", set_first(None))},
    "no digest": {"table": column("__sha256__", set_first(None))},
    "offsets of another type": {"table": column("__offset__", lambda v: v, pa.float64())},
    "unsigned offsets": {"table": column("__offset__", lambda v: v, pa.uint64())},
    "offsets as text": {"table": column("__offset__", lambda v: list(map(str, v)), pa.string())},
    "sizes as text": {"table": column("__size__", lambda v: list(map(str, v)), pa.string())},
    "keys that are numbers": {"table": column("__key__", lambda v: list(range(len(v))), pa.int64())},
    "short digests": {"table": column("__sha256__", lambda v: [b"x"] * len(v), pa.binary(1))},
    "digests of any length": {"table": column("__sha256__", lambda v: v, pa.binary())},
    "no such column": {"table": lambda t: t.drop_columns(["__size__"])},
    "no columns at all": {"table": lambda t: pa.table({"__key__": ["a"]})},
    "a column twice": {"table": lambda t: t.append_column("number", t["number"])},
    "a list as a scalar": {"table": column("number", lambda v: [[1]] * len(v), pa.list_(pa.int64()))},
    "a struct as a scalar": {"table": column("number", lambda v: [{"a": 1}] * len(v), pa.struct({"a": pa.int64()}))},
    "a huge decimal": {"table": column("number", lambda v: v, pa.decimal128(38))},
    "array before its sample": {"table": column("__offset__image", set_first(3))},
    "array behind its sample": {"table": lambda t: column("__offset__image", set_first(t["__offset__"][3].as_py()))(t)},
    "array offset overflows": {"table": column("__offset__image", set_first(2**63 - 1))},
    "array offsets of another type": {"table": column("__offset__image", lambda v: v, pa.float64())},
    "array that claims more": {"meta": array_meta("image", shape=[1000, 1000])},
    "array beyond memory": {"meta": array_meta("image", shape=[2**40, 2**40])},
    "array beyond numbers": {"meta": array_meta("image", shape=[2**70])},
    "array below zero": {"meta": array_meta("image", shape=[-1, -12])},
    "no elements, yet too many": {"meta": array_meta("image", shape=[0, 2**62, 2**62])},
    "elements without bytes": {"meta": array_meta("image", dtype="<U0", shape=[2**50])},
    "too many dimensions": {"meta": array_meta("image", shape=[1] * 80)},
    "a shape of text": {"meta": array_meta("image", shape="ab")},
    "a shape of fractions": {"meta": array_meta("image", shape=[1.5])},
    "an object array": {"meta": array_meta("image", dtype="|O")},
    "a structured array": {"meta": array_meta("image", dtype="i4,i4")},
    "an unknown dtype": {"meta": array_meta("image", dtype="<q7")},
    "a larger dtype": {"meta": array_meta("image", dtype="<U100")},
    "a dtype of a list": {"meta": array_meta("image", dtype=["a"])},
    "an array nobody has": {"meta": lambda m: {**m, "arrays": {**m["arrays"], "other": None}}},
    "arrays as a list": {"meta": lambda m: {**m, "arrays": [1, 2]}},
    "ragged: lying shape": {"table": column("__shape__ragged", lambda v: [[10**9]] * len(v))},
    "ragged: overflowing shape": {"table": column("__shape__ragged", lambda v: [[2**62, 2**62]] * len(v))},
    "ragged: shape below zero": {"table": column("__shape__ragged", lambda v: [[-4]] * len(v))},
    "ragged: no shape": {"table": column("__shape__ragged", lambda v: [None] * len(v))},
    "ragged: no extent": {"table": column("__shape__ragged", lambda v: [[None]] * len(v))},
    "ragged: no dtype": {"table": column("__dtype__ragged", lambda v: [None] * len(v))},
    "ragged: object dtype": {"table": column("__dtype__ragged", lambda v: ["O"] * len(v))},
    "ragged: no column": {"table": lambda t: t.drop_columns(["__shape__ragged"])},
    "ragged: numbers as dtype": {"table": column("__dtype__ragged", lambda v: [4] * len(v), pa.int64())},
    "another format": {"meta": lambda m: {**m, "format": 2}},
    "no format": {"meta": lambda m: {k: v for k, v in m.items() if k != "format"}},
    "no shard size": {"meta": lambda m: {k: v for k, v in m.items() if k != "shard_size"}},
    "a shard size of text": {"meta": lambda m: {**m, "shard_size": str(m["shard_size"])}},
    "a shard size without end": {"meta": lambda m: {**m, "shard_size": 10**30}},
    "another shard's size": {"meta": lambda m: {**m, "shard_size": m["shard_size"] + 512}},
    "no digest of the shard": {"meta": lambda m: {**m, "shard_sha256": None}},
    "metadata that is no JSON": {"meta": lambda m: b"{"},
    "metadata that is a list": {"meta": lambda m: b"[1]"},
    "metadata nested for ever": {"meta": lambda m: b"[" * 200_000},
    "metadata that is no text": {"meta": lambda m: b"\xff\xfe"},
    "more rows than there is room": {"table": lambda t: pa.concat_tables([t] * 2000)},
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_is_refused(shard, case):
    forge(shard, **HOSTILE[case])
    for use in (list, lambda ds: ds[3], lambda ds: next(iter(ds.ordered(batch_size=5))).image, len):
        with pytest.raises(ManifestError) as caught:
            use(atdata.Dataset[Everything](shard))
        assert caught.value.url == manifest_name(shard)


def test_a_manifest_of_millions_of_rows(shard):
    """Small as a file, and larger than memory when it is read."""
    path = manifest_name(shard)
    first = pq.read_table(path).slice(0, 1)
    many = first.take(pa.array(np.zeros(10**6, np.int64)))
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for _ in range(3):
            writer.write_table(many)
    assert len(content(path)) < 500_000
    with pytest.raises(ManifestError, match="room for"):
        list(atdata.Dataset[Everything](shard))


def test_a_manifest_that_unpacks_to_more_than_its_shard(shard):
    forge(shard, column("text", lambda v: ["x" * 1_000_000] * len(v)), use_dictionary=False, compression="zstd")
    assert len(content(manifest_name(shard))) < 100_000
    with pytest.raises(ManifestError, match="unpacks to"):
        list(atdata.Dataset[Everything](shard))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"\0" * 1000, b"{}"], ids=repr)
def test_what_is_no_parquet_file(shard, data):
    with open(manifest_name(shard), "wb") as file:
        file.write(data)
    with pytest.raises(ManifestError, match="cannot be read"):
        list(atdata.Dataset[Everything](shard))


FUZZ = """
import faulthandler, random, sys
faulthandler.enable()
from atdata.errors import ManifestError
from atdata.shards.manifest_file import read_manifest
data = open(sys.argv[1], "rb").read()
dice = random.Random(5)
refused = same = other = 0
whole = read_manifest(data)
columns = ["__offset__", "__size__", "__sha256__", "__key__", "number", "text", "__offset__image"]
for n in range(4000):
    altered = bytearray(data)
    for _ in range(1 if n % 2 else dice.randint(2, 6)):
        at = dice.randrange(len(data)) if n % 3 else len(data) - 1 - dice.randrange(len(data) // 3)
        altered[at] ^= 1 << dice.randrange(8)
    if n % 10 == 0:
        altered = altered[: dice.randrange(len(data))]
    try:
        found = read_manifest(bytes(altered), shard_size=whole.shard_size)
    except ManifestError:
        refused += 1
        continue
    if found is None:
        continue
    for name in found.array_fields:
        column = found.array(name)
        [column.describe(i) for i in range(len(found)) if column.offsets[i] >= 0]
    [found.column(name) for name in found.scalar_fields if name != "when"]
    if all(c in found.table.column_names and found.table[c].equals(whole.table[c]) for c in columns):
        same += 1
    else:
        other += 1
print(refused, same, other)
"""


@pytest.mark.slow
def test_flipped_bits_crash_nothing_and_change_no_value(shard):
    command = [sys.executable, "-c", FUZZ, manifest_name(shard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    refused, _, other = map(int, done.stdout.split())
    assert refused > 2000
    assert other <= 5  # names and types in the footer have no checksum; values have


def test_a_manifest_of_another_shard(tmp_path):
    urls = write(tmp_path, [everything(i) for i in range(60)])
    with_record = [manifest_name(url) for url in urls]
    contents = [content(path) for path in with_record]
    for at, other in ((0, 1), (1, 0), (2, 0)):
        with open(with_record[at], "wb") as file:
            file.write(contents[other])
        with pytest.raises(IntegrityError, match="manifest is not the one that was written") as caught:
            list(atdata.Dataset[Everything](tmp_path / "x"))
        assert caught.value.url == with_record[at]
        with open(with_record[at], "wb") as file:
            file.write(contents[at])
    # Without a record: shards of one size are told apart by their digest, others by their size.
    (tmp_path / "x" / RECORD_NAME).unlink()
    with open(with_record[0], "wb") as file:
        file.write(contents[1])
    same_size = len(content(urls[0])) == len(content(urls[1]))
    with pytest.raises(IntegrityError if same_size else ManifestError):
        list(atdata.Dataset[Everything](urls[0]))
    (long,) = write(tmp_path, [everything(i) for i in range(30)], "long", maxcount=100)
    with open(with_record[0], "wb") as file:
        file.write(content(manifest_name(long)))
    with pytest.raises(ManifestError, match="belongs to a shard of"):
        list(atdata.Dataset[Everything](urls[0]))


UPSTREAM = {
    "running sums as offsets": lambda n: pa.table(
        {"__key__": [f"k{i}" for i in range(n)], "__offset__": [93 * i for i in range(n)], "__size__": [93] * n,
         "number": [float(i) for i in range(n)]}
    ),
    "empty": lambda n: pa.table({}),
    "no rows": lambda n: pa.table({"__key__": pa.array([], pa.string()), "__offset__": pa.array([], pa.int64())}),
    "fewer rows": lambda n: pa.table({"__key__": ["a"], "__offset__": [0], "__size__": [10]}),
    "odd types": lambda n: pa.table({"__key__": [b"a"] * n, "__offset__": ["x"] * n, "number": [None] * n}),
}  # fmt: skip


@pytest.mark.parametrize("case", UPSTREAM)
def test_manifests_of_other_writers_are_not_trusted(shard, case):
    """They lack our marker; their offsets are not those of the tar, and the last shard's is empty."""
    expected = [everything(i) for i in range(20)]
    pq.write_table(UPSTREAM[case](20).replace_schema_metadata({"pandas": "{}"}), manifest_name(shard))
    with open(header_name(shard), "w", encoding="utf-8") as file:
        json.dump({"manifest_version": "1.0.0", "shard_id": "another", "num_samples": 0, "aggregates": {}}, file)
    assert read_all(shard) == expected
    dataset = atdata.Dataset[Everything](shard)
    assert (len(dataset), dataset.get("000000007")) == (20, expected[7])


def test_a_header_alone_changes_nothing(shard):
    os.unlink(manifest_name(shard))
    assert read_all(shard) == [everything(i) for i in range(20)]
    with open(header_name(shard), "w", encoding="utf-8") as file:
        file.write('{"num_samples": Infinity')
    assert read_all(shard) == [everything(i) for i in range(20)]


def test_reading_in_every_way_gives_the_same(shard):
    assert read_all(shard) == [everything(i) for i in range(20)]


def test_no_thread_of_arrow_holds_what_was_read(tmp_path):
    """It could not let go of Python's memory while the interpreter ends, and would abort the process."""
    ds = atdata.Dataset.from_samples([atdata.DictSample(text="x" * 100)] * 500, atdata.DictSample)
    atdata.LocalDiskStore(tmp_path).write_shards(ds, prefix="d")
    parquet = (tmp_path / "d" / "shard-000000.manifest.parquet").read_bytes()
    let_go = []
    for _ in range(40):
        data = np.frombuffer(bytearray(parquet), np.uint8)
        weakref.finalize(data, lambda: let_go.append(threading.get_ident()))
        assert len(read_manifest(data)) == 500
        del data
    assert let_go == [threading.get_ident()] * 40
