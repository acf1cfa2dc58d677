"""`verify` finds what is wrong, says where, and goes on to the rest."""

from __future__ import annotations

import hashlib
import json
import tarfile

import msgspec
import numpy as np
import pytest
from cli_process import flip

import atdata
from atdata.shards.manifest_file import read_manifest


@atdata.packable
class Blobs:
    large: bytes
    small: bytes


def problems(answer):
    assert answer.code == 1
    assert answer.err == ""
    document = answer.document
    assert document["ok"] is False
    return document["problems"]


def manifest_of(shard):
    return read_manifest(shard.with_suffix(".manifest.parquet").read_bytes())


def test_a_truncated_tar(run, dataset):
    shard = dataset / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:20_000])
    found = problems(run("verify", dataset, "--json"))
    assert {p["url"] for p in found} == {str(shard)}
    assert {p["type"] for p in found} == {"IntegrityError", "TruncatedShardError"}
    text = run("verify", dataset)
    assert text.code == 1
    assert "✗" in text.out
    assert f"{shard}" in text.out
    assert "in 1 of 2 shards" in text.out
    inspected = run("inspect", dataset)
    assert inspected.code == 1
    assert "shard-000001.tar: has 20,000 bytes, the record says" in inspected.out


def test_a_tar_cut_where_a_member_ends_and_no_record_to_tell(run, dataset, tmp_path):
    whole = (dataset / "shard-000000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: 1024 * 30])
    found = problems(run("verify", "cut.tar", "--json"))
    assert [p["type"] for p in found] == ["TruncatedShardError"]
    assert found[0]["offset"] is not None


def test_a_flipped_bit_in_a_payload(run, dataset):
    shard = dataset / "shard-000000.tar"
    flip(shard, int(manifest_of(shard).offsets[41]) + 60)
    found = problems(run("verify", dataset, "--json"))
    assert [(p["type"], p["key"]) for p in found] == [("IntegrityError", None), ("IntegrityError", "000000041")]
    assert found[1]["offset"] == int(manifest_of(shard).offsets[41])
    fast = problems(run("verify", dataset, "--fast", "--json"))
    assert [(p["type"], p["key"]) for p in fast] == [("IntegrityError", None)]


def test_every_damaged_sample_is_listed(run, dataset):
    shards = [dataset / "shard-000000.tar", dataset / "shard-000001.tar"]
    for shard in shards:
        for row in (3, 7, 49):
            flip(shard, int(manifest_of(shard).offsets[row]) + 50)
    found = problems(run("verify", dataset, "--json"))
    keys = [p["key"] for p in found if p["key"] is not None]
    assert keys == ["000000003", "000000007", "000000049", "000000103", "000000107", "000000149"]


def test_a_flipped_bit_in_a_header(run, dataset):
    shard = dataset / "shard-000000.tar"
    offset = int(manifest_of(shard).offsets[10]) - 512
    flip(shard, offset + 3)
    found = problems(run("verify", dataset, "--json"))
    assert [(p["type"], p["offset"]) for p in found] == [("IntegrityError", None), ("ShardFormatError", offset)]


def test_a_flipped_bit_between_the_samples(run, dataset):
    shard = dataset / "shard-000001.tar"
    manifest = manifest_of(shard)
    flip(shard, int(manifest.offsets[0] + manifest.sizes[0]) + 5)
    found = problems(run("verify", dataset, "--json"))
    assert [(p["type"], p["url"]) for p in found] == [("IntegrityError", str(shard))]


@pytest.mark.parametrize("at", [0, 200, -30])
def test_a_flipped_bit_in_a_manifest(run, dataset, at):
    path = dataset / "shard-000000.manifest.parquet"
    flip(path, at % path.stat().st_size)
    found = problems(run("verify", dataset, "--json"))
    assert [(p["type"], p["url"]) for p in found] == [("IntegrityError", str(path))]
    assert "manifest build --force" in found[0]["message"]
    # And what it says helps.
    assert run("manifest", "build", dataset, "--force").code == 0
    assert run("verify", dataset).code == 0


def test_a_manifest_of_another_shard(run, dataset):
    source, target = (dataset / f"shard-00000{i}.manifest.parquet" for i in (1, 0))
    target.write_bytes(source.read_bytes())
    assert [p["url"] for p in problems(run("verify", dataset, "--json"))] == [str(target)]


def test_a_manifest_that_is_gone(run, dataset):
    path = dataset / "shard-000000.manifest.parquet"
    path.unlink()
    assert [(p["type"], p["url"]) for p in problems(run("verify", dataset, "--json"))] == [("ManifestError", str(path))]
    assert "no usable manifest for 1 of 2 shards" in run("inspect", dataset).out


def test_a_header_that_differs_from_its_manifest(run, dataset):
    path = dataset / "shard-000000.manifest.json"
    path.write_text(path.read_text().replace('"num_samples": 100', '"num_samples": 101'))
    assert [p["url"] for p in problems(run("verify", dataset, "--json"))] == [str(path)]


def test_a_flipped_bit_in_the_commit_record(run, dataset):
    path = dataset / "atdata.json"
    flip(path, 400)
    answer = run("verify", dataset, "--json")
    found = problems(answer)
    assert [(p["type"], p["url"]) for p in found] == [("CommitRecordError", str(path))]
    assert [s["samples"] for s in answer.document["shards"]] == [100, 50]  # what can be read without it is read
    for command in (("inspect",), ("head",), ("schema", "show")):
        other = run(*command, dataset)
        assert (other.code, other.out) == (1, "")
        assert "the commit record" in other.err


def test_a_shard_that_is_gone(run, dataset):
    (dataset / "shard-000000.tar").unlink()
    found = problems(run("verify", dataset, "--json"))
    assert [p["type"] for p in found] == ["DatasetNotFoundError"]
    answer = run("inspect", dataset, "--json")
    assert answer.code == 1
    assert answer.document["problems"] == ["shard-000000.tar: is not there"]


def test_a_sample_that_cannot_be_decoded_in_a_foreign_tar(run, tmp_path):
    def add(tar, name, data):
        path = tmp_path / "member"
        path.write_bytes(data)
        tar.add(path, name)

    with tarfile.open(tmp_path / "foreign.tar", "w") as tar:
        add(tar, "a.json", b'{"x": 1}')
        add(tar, "b.json", b'{"x": ')
        add(tar, "c.npy", b"no array")
        add(tar, "d.msgpack", b"\x81\xa1x\x01")
    found = problems(run("verify", "foreign.tar", "--json"))
    assert [(p["type"], p["key"]) for p in found] == [("SampleDecodeError", "b"), ("SampleDecodeError", "c")]


def test_a_manifest_without_a_record_is_held_against_the_samples(run, dataset, tmp_path):
    """A manifest that fits its shard but gives other values: only the samples themselves can tell."""
    import pyarrow as pa

    from atdata.shards.manifest import Manifest
    from atdata.shards.manifest_file import to_parquet
    from atdata.stores.record import CommitRecord, ShardInfo

    shard = dataset / "shard-000001.tar"
    manifest = manifest_of(shard)
    table = manifest.table
    at = table.column_names.index("label")
    lying = table.set_column(at, "label", pa.array(np.zeros(len(table), np.int64)))
    path = dataset / "shard-000001.manifest.parquet"
    path.write_bytes(to_parquet(Manifest(lying, manifest.meta)))
    assert problems(run("verify", dataset, "--json"))[0]["url"] == str(path)
    # A record that does not name the manifest, so that its digest says nothing.
    record = CommitRecord.from_bytes((dataset / "atdata.json").read_bytes())
    shards = tuple(ShardInfo(s.name, s.size, s.samples, s.sha256) for s in record.shards)
    (dataset / "atdata.json").write_bytes(CommitRecord(record.schema, shards).to_bytes())
    found = problems(run("verify", dataset, "--json"))
    assert ["column 'label'" in p["message"] for p in found] == [True]


def test_a_digest_of_a_field_that_is_not_that_of_its_bytes(run, tmp_path):
    """Also where the record vouches for the manifest: whoever reads that field alone could not."""
    import pyarrow as pa

    from atdata.shards.manifest import Manifest
    from atdata.shards.manifest_file import to_parquet
    from atdata.stores.record import CommitRecord, ManifestInfo

    samples = [Blobs(bytes(40_000), bytes([i])) for i in range(3)]
    atdata.LocalDiskStore(tmp_path).write_shards(atdata.Dataset.from_samples(samples, Blobs), prefix="v1")
    assert run("verify", "v1").code == 0
    folder = tmp_path / "v1"
    manifest = manifest_of(folder / "shard-000000.tar")
    at = manifest.table.column_names.index("__sha256__small")
    digests = manifest.table["__sha256__small"].to_pylist()
    lying = manifest.table.set_column(at, "__sha256__small", pa.array(digests[1:] + digests[:1], pa.binary(32)))
    parquet = to_parquet(Manifest(lying, manifest.meta))
    (folder / "shard-000000.manifest.parquet").write_bytes(parquet)
    record = CommitRecord.from_bytes((folder / "atdata.json").read_bytes())
    info = ManifestInfo(len(parquet), hashlib.sha256(parquet).hexdigest())
    shards = tuple(msgspec.structs.replace(shard, manifest=info) for shard in record.shards)
    (folder / "atdata.json").write_bytes(CommitRecord(record.schema, shards).to_bytes())
    found = problems(run("verify", "v1", "--json"))
    assert [(p["type"], p["key"], p["field"]) for p in found] == [
        ("ManifestError", f"{i:09d}", "small") for i in range(3)
    ]  # fmt: skip


def test_json_lists_all_and_people_see_some(run, dataset):
    shard = dataset / "shard-000000.tar"
    manifest = manifest_of(shard)
    for row in range(60):
        flip(shard, int(manifest.offsets[row]) + 50)
    answer = run("verify", dataset)
    assert "… and 41 more (--json lists all)" in answer.out
    assert len(problems(run("verify", dataset, "--json"))) == 61
    assert json.dumps(answer.out).count("sample '0000") == 19
