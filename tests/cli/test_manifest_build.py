"""`atdata manifest build`."""

from __future__ import annotations

import shutil

import msgspec
import numpy as np
import pytest
import webdataset
from cli_process import Sign, flip, signs

import atdata
from atdata.errors import DatasetExistsError, SampleDecodeError
from atdata.shards.manifest_file import read_manifest
from atdata.stores.manifests import build_manifest


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_rebuilt_manifest_is_the_one_that_was_written(run, dataset):
    before = files(dataset)
    for path in dataset.glob("*.manifest.*"):
        path.unlink()
    answer = run("manifest", "build", dataset)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.count("wrote ") == 2
    assert files(dataset) == before


def test_what_is_there_is_not_overwritten_unless_asked(run, dataset):
    (dataset / "shard-000001.manifest.parquet").unlink()
    (dataset / "shard-000001.manifest.json").unlink()
    answer = run("manifest", "build", dataset)
    assert answer.code == 1
    assert "wrote" in answer.out  # the missing one
    assert answer.err.count("\n") == 1
    assert "shard-000000.manifest.parquet is there already; --force" in answer.err
    assert run("manifest", "build", dataset, "--force").code == 0


@pytest.fixture
def foreign(tmp_path):
    """What the real webdataset package writes of samples with one msgpack member each."""
    path = tmp_path / "foreign" / "a.tar"
    path.parent.mkdir()
    with webdataset.TarWriter(str(path)) as writer:
        for i in range(10):
            writer.write({"__key__": f"k{i}", "msgpack": msgspec.msgpack.encode({"x": i, "y": "z" * i})})
    return path


def test_a_foreign_tar_gets_keys_offsets_and_digests(run, foreign):
    plain = [dict(s) for s in atdata.Dataset(foreign)]
    answer = run("manifest", "build", foreign, "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.document["built"][0]["samples"] == 10
    manifest = read_manifest(foreign.with_suffix(".manifest.parquet").read_bytes())
    assert manifest.keys == [f"k{i}" for i in range(10)]
    assert manifest.scalar_fields == []
    ds = atdata.Dataset(foreign)
    assert [dict(s) for s in ds] == plain
    assert ds.get("k7").x == 7
    assert run("verify", foreign, "--json").document["ok"]
    assert {p.name for p in foreign.parent.iterdir()} == {"a.tar", "a.manifest.parquet", "a.manifest.json"}


def test_samples_of_several_members_cannot_have_one(run, tmp_path):
    path = tmp_path / "many.tar"
    with webdataset.TarWriter(str(path)) as writer:
        writer.write({"__key__": "k", "txt": "a", "cls": 1})
    answer = run("manifest", "build", path)
    assert answer.code == 1
    assert "whose samples are one .msgpack member each; this sample has .cls, .txt" in answer.err
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["packed.tar.gz", "packed.tar"])
def test_compressed_tars_cannot_have_one(run, tmp_path, foreign, name):
    import gzip

    (tmp_path / name).write_bytes(gzip.compress(foreign.read_bytes()))
    answer = run("manifest", "build", name, "--json")
    assert answer.code == 1
    assert [r["type"] for r in answer.document["refused"]] == ["ShardFormatError"]
    assert "compressed" in answer.err


def test_what_the_record_does_not_say_is_refused(run, dataset):
    """The record names the manifest by its digest: any other one could never be used."""
    from atdata.stores.record import CommitRecord, ManifestInfo

    record = CommitRecord.from_bytes((dataset / "atdata.json").read_bytes())
    shards = [msgspec.structs.replace(s, manifest=ManifestInfo(5, "0" * 64)) for s in record.shards]
    (dataset / "atdata.json").write_bytes(CommitRecord(record.schema, tuple(shards)).to_bytes())
    before = files(dataset)
    answer = run("manifest", "build", dataset, "--force")
    assert answer.code == 1
    assert answer.err.count("the commit record names the manifest by its digest") == 2
    assert files(dataset) == before


def test_no_manifest_is_made_of_damaged_shards(run, dataset):
    flip(dataset / "shard-000000.tar", 700)
    (dataset / "shard-000000.manifest.parquet").unlink()
    answer = run("manifest", "build", dataset, "--force")
    assert answer.code == 1
    assert "`atdata verify` says what is damaged" in answer.err
    assert not (dataset / "shard-000000.manifest.parquet").exists()


def test_a_dataset_written_without_manifests_gets_all_columns(tmp_path):
    ds = atdata.Dataset.from_samples(signs(30), Sign)
    store = atdata.LocalDiskStore(tmp_path)
    with_, without = store.write_shards(ds_again(), prefix="a"), store.write_shards(ds, prefix="b", manifest=False)
    made = build_manifest(without[0], Sign)
    assert made.fields == ["label", "note", "image"]
    assert made.samples == 30
    for end in (".manifest.parquet", ".manifest.json"):
        a, b = (urls[0].removesuffix(".tar") + end for urls in (with_, without))
        with open(a, "rb") as one, open(b, "rb") as other:
            assert one.read() == other.read()
    batch = next(iter(atdata.Dataset(tmp_path / "b").ordered(batch_size=30)))
    assert batch.label == [s.label for s in signs(30)]
    assert np.array_equal(batch.image, np.stack([s.image for s in signs(30)]))


def ds_again():
    return atdata.Dataset.from_samples(signs(30), Sign)


def test_the_function_says_what_is_wrong(tmp_path, dataset, foreign):
    with pytest.raises(DatasetExistsError, match="--force"):
        build_manifest(dataset / "shard-000000.tar", Sign)
    with pytest.raises(SampleDecodeError, match="Sign"):
        build_manifest(foreign, Sign)
    assert sorted(p.name for p in foreign.parent.iterdir()) == ["a.tar"]


def test_a_failed_write_leaves_nothing(tmp_path, foreign, run):
    """A folder that nothing can be written to."""
    read_only = tmp_path / "ro"
    shutil.copytree(foreign.parent, read_only)
    (read_only / "a.manifest.json").mkdir()  # in the way, also for root
    answer = run("manifest", "build", read_only / "a.tar", "--force")
    assert answer.code == 1
    assert "cannot write" in answer.err
    assert sorted(p.name for p in read_only.iterdir()) == ["a.manifest.json", "a.tar"]
