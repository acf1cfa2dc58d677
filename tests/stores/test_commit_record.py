"""The commit record: what it says, and that nothing else is believed."""

import json
import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import CommitRecordError, IntegrityError
from atdata.stores.record import RECORD_NAME, CommitRecord, FieldStats, ManifestInfo, ShardInfo, _digest, _encode
from atdata.testing.probes import Probe, probes


@atdata.packable
class Reading:
    """A value, measured."""

    trace: NDArray[np.float32]
    value: float
    count: int = 3
    unit: str | None = "m\x1f\u2028é"
    scale: float = 1e-7


def readings(n):
    return [Reading(np.full(4, i, np.float32), i * 0.1 + 1e-9, 2**60 + i, None if i % 2 else "km") for i in range(n)]


def write(root, prefix="x", samples=None, **options):
    dataset = atdata.Dataset.from_samples(samples or readings(7), type(samples[0]) if samples else Reading)
    return atdata.LocalDiskStore(root).write_shards(dataset, prefix=prefix, maxcount=3, **options)


@pytest.fixture
def record(tmp_path):
    return write(tmp_path).record


def resigned(document):
    """The bytes of a document whose digest is its own, as somebody would make who knows how."""
    document = {**document, "digest": None}
    document["digest"] = _digest(document)
    return _encode(document)


def test_round_trip(record, tmp_path):
    data = record.to_bytes()
    assert CommitRecord.from_bytes(data) == record
    assert CommitRecord.from_bytes(data).to_bytes() == data
    assert (tmp_path / "x" / RECORD_NAME).read_bytes() == data
    assert pickle.loads(pickle.dumps(record)) == record
    schema = CommitRecord.from_bytes(data).schema
    assert schema.cid == atdata.Schema.of(Reading).cid
    assert schema.sample_type()(trace=np.zeros(1), value=1.0).scale == 1e-7


def test_what_it_says(record):
    document = json.loads(record.to_bytes())
    assert list(document) == ["atdata", "cid", "schema", "samples", "size", "shards", "digest"]
    assert (document["atdata"], document["samples"], document["size"]) == (1, 7, sum(s.size for s in record.shards))
    assert [shard["samples"] for shard in document["shards"]] == [3, 3, 1]
    assert document["shards"][0]["stats"] == {
        "value": {"min": 1e-9, "max": 0.2 + 1e-9},
        "count": {"min": 2**60, "max": 2**60 + 2},
        "unit": {"min": "km", "max": "km", "nulls": 1},
        "scale": {"min": 1e-7, "max": 1e-7},
    }


def test_a_dataset_without_a_class_has_no_schema(tmp_path):
    samples = [atdata.DictSample(a=1, b=np.zeros(3)), atdata.DictSample(c="x")]
    urls = write(tmp_path, samples=samples)
    assert json.loads((tmp_path / "x" / RECORD_NAME).read_bytes())["schema"] is None
    assert CommitRecord.from_bytes(urls.record.to_bytes()) == urls.record
    assert [sample["a"] for sample in atdata.Dataset(tmp_path / "x").head(1)] == [1]


def test_every_flipped_bit_is_seen(record):
    data = record.to_bytes()
    # Every byte with one bit, a different one each time, and every bit of a part with text, numbers and digests.
    flips = [(at, 1 << (at % 8)) for at in range(len(data))]
    flips += [(at, 1 << bit) for at in range(len(data) - 1200, len(data)) for bit in range(8)]
    flips += [(at, 0x20) for at in range(len(data))]  # the case of a letter
    for at, bit in flips:
        altered = bytearray(data)
        altered[at] ^= bit
        with pytest.raises(CommitRecordError):
            CommitRecord.from_bytes(bytes(altered))


def test_every_cut_is_seen(record):
    data = record.to_bytes()
    for end in range(0, len(data), 7):
        with pytest.raises(CommitRecordError):
            CommitRecord.from_bytes(data[:end])
    for longer in (data + b"\n", data + b"{}", b" " + data, data + b"\0"):
        with pytest.raises(CommitRecordError):
            CommitRecord.from_bytes(longer)


def test_the_file_is_checked_when_a_dataset_is_opened(tmp_path, record):
    path = tmp_path / "x" / RECORD_NAME
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    for source in (tmp_path / "x", [str(tmp_path / "x/shard-000000.tar")]):
        with pytest.raises(CommitRecordError, match=r"altered or damaged|not readable") as caught:
            atdata.Dataset(source)
        assert caught.value.url == str(path)


@pytest.mark.parametrize("version", [2, 0, "1", None, 1.5, [1]])
def test_another_format_is_refused(record, version):
    document = json.loads(record.to_bytes())
    with pytest.raises(CommitRecordError, match="update atdata"):
        CommitRecord.from_bytes(resigned({**document, "atdata": version}))


@pytest.mark.parametrize(
    "name",
    ["../escape.tar", "/etc/x.tar", "a/b.tar", "..\\x.tar", "nul\0.tar", "", ".tar", "x.exe", "a" * 300 + ".tar",
     "atdata.json", None, 7],
)  # fmt: skip
def test_hostile_shard_names_are_refused(record, name):
    document = json.loads(record.to_bytes())
    document["shards"][0]["name"] = name
    with pytest.raises(CommitRecordError):
        CommitRecord.from_bytes(resigned(document))


def altered_documents(document):
    def change(path, value):
        copy = json.loads(json.dumps(document))
        at = copy
        for step in path[:-1]:
            at = at[step]
        if value is KeyError:
            del at[path[-1]]
        else:
            at[path[-1]] = value
        return copy

    wrong = [KeyError, None, -1, "x", [], {}, 2**80, 1.5, True]
    for path in (
        ("cid",), ("shards",), ("schema",), ("schema", "fields"), ("schema", "fields", 0), ("schema", "name"),
        ("shards", 0), ("shards", 0, "sha256"), ("shards", 0, "size"), ("shards", 0, "samples"),
        ("shards", 0, "manifest"), ("shards", 0, "manifest", "sha256"), ("shards", 0, "stats"),
        ("shards", 0, "stats", "value"),
    ):  # fmt: skip
        for value in wrong:
            yield path, value, change(path, value)


def test_nonsense_that_is_signed_is_refused_or_read_as_it_is(record):
    """A document somebody signed themselves is an error of ours, or a record; never another exception."""
    refused = 0
    for path, value, document in altered_documents(json.loads(record.to_bytes())):
        try:
            found = CommitRecord.from_bytes(resigned(document))
        except CommitRecordError:
            refused += 1
        else:
            assert found != record or value == {}, (path, value)
            assert all(shard.size >= 0 and shard.samples >= 0 for shard in found.shards), (path, value)
    assert refused > 90


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"1", b'"x"', b"{}", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"\0" * 100,
     b'{"atdata": 1}', b'{"atdata": 1, "digest": 1e999}', b'{"atdata": 1, "digest": NaN}',
     b'{"atdata": 1, "x": "\\ud800", "digest": ""}'],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_what_is_no_record_at_all(data):
    with pytest.raises(CommitRecordError):
        CommitRecord.from_bytes(data)


def test_counts_that_do_not_add_up_are_refused(record):
    document = json.loads(record.to_bytes())
    for key in ("samples", "size"):
        with pytest.raises(CommitRecordError, match="do not add up"):
            CommitRecord.from_bytes(resigned({**document, key: document[key] + 1}))


def test_a_shard_named_twice_is_refused(record):
    shard = record.shards[0]
    with pytest.raises(CommitRecordError, match="twice"):
        CommitRecord.from_bytes(CommitRecord(record.schema, (shard, shard)).to_bytes())


def test_altered_digests_are_found_when_reading(tmp_path, record):
    """Somebody who signs a record anew cannot make other bytes pass."""
    path = tmp_path / "x" / RECORD_NAME
    first, *rest = record.shards
    for wrong in (
        ShardInfo(first.name, first.size, first.samples, "0" * 64, None, first.stats),
        ShardInfo(first.name, first.size + 512, first.samples, first.sha256, None, first.stats),
        ShardInfo(first.name, first.size, first.samples + 1, first.sha256, None, first.stats),
        ShardInfo(first.name, first.size, first.samples, first.sha256, ManifestInfo(10, "0" * 64), first.stats),
    ):
        path.write_bytes(CommitRecord(record.schema, (wrong, *rest)).to_bytes())
        with pytest.raises(IntegrityError):
            list(atdata.Dataset[Reading](tmp_path / "x"))


def test_the_cid_names_content(tmp_path):
    first = write(tmp_path / "one", "a").record
    assert write(tmp_path / "two", "quite/another place").record.cid == first.cid
    assert write(tmp_path / "two", "without", manifest=False).record.cid == first.cid
    changed = readings(7)
    changed[3].trace[2] += 1
    assert write(tmp_path / "one", "changed", changed).record.cid != first.cid
    changed = readings(7)
    changed[6].value = np.nextafter(changed[6].value, 1)
    assert write(tmp_path / "one", "changed", changed, overwrite=True).record.cid != first.cid
    assert first.cid == atdata.Dataset(tmp_path / "one/a").cid
    assert first.cid == atdata.generate_cid(
        {"schema": atdata.Schema.of(Reading).cid, "shards": [shard.sha256 for shard in first.shards]}
    )
    # The same bytes as another type are another dataset.
    plain = write(tmp_path / "one", "plain", [atdata.DictSample.from_bytes(atdata.pack(s)) for s in readings(7)])
    assert [s.sha256 for s in plain.shards] == [s.sha256 for s in first.shards]
    assert plain.record.cid != first.cid


def test_statistics_json_cannot_say_are_left_out(tmp_path):
    samples = [
        Reading(np.zeros(1, np.float32), float("nan")),
        Reading(np.zeros(1, np.float32), float("-inf")),
        Reading(np.zeros(1, np.float32), 1.0),
    ]
    stats = write(tmp_path, samples=samples).shards[0].stats
    assert stats["value"] == FieldStats(None, None, 0)
    stats = (
        write(tmp_path, "nan", [Reading(np.zeros(1, np.float32), float("nan")), Reading(np.zeros(1, np.float32), 2.5)])
        .shards[0]
        .stats
    )
    assert stats["value"] == FieldStats(2.5, 2.5, 0)


def test_records_are_the_same_on_every_run(tmp_path):
    first = write(tmp_path, "a", probes(20))
    second = write(tmp_path, "b", probes(20))
    assert first.record.to_bytes() == second.record.to_bytes()
    for name in sorted(path.name for path in (tmp_path / "a").iterdir()):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert isinstance(atdata.Dataset[Probe](tmp_path / "a")[0], Probe)
