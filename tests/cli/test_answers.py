"""What each command answers when all is well."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import webdataset

import atdata


def test_inspect_says_what_the_dataset_is(run, dataset):
    answer = run("inspect", "signs/v1")
    assert (answer.code, answer.err) == (0, "")
    for text in ("Sign", "A small picture.", "150 samples in 2 shards", atdata.Dataset(dataset).cid):
        assert text in answer.out
    lines = {line.split()[0]: line.split() for line in answer.out.splitlines() if line.strip()}
    assert lines["label"][1:] == ["int", "0", "6", "0"]
    assert lines["note"][-1] == "75"
    record = json.loads((dataset / "atdata.json").read_text())
    first = record["shards"][0]
    row = lines["shard-000000.tar"]
    assert row[1] == "100"
    assert row[-2:] == [first["sha256"][:12] + "…", "yes"]
    assert "missing" not in answer.out


def test_inspect_as_json(run, dataset):
    answer = run("inspect", dataset, "--json")
    assert (answer.code, answer.err) == (0, "")
    document = answer.document
    record = json.loads((dataset / "atdata.json").read_text())
    assert document["cid"] == record["cid"]
    assert document["samples"] == 150
    assert document["bytes"] == record["size"]
    assert [s["sha256"] for s in document["shards"]] == [s["sha256"] for s in record["shards"]]
    assert document["fields"] == [
        {"name": "image", "type": "ndarray[uint8]", "optional": False},
        {"name": "label", "type": "int", "optional": False, "nulls": 0, "min": 0, "max": 6},
        {"name": "note", "type": "str or None", "optional": True, "nulls": 75, "min": "note 0", "max": "note 98"},
    ]
    assert document["missing"] == document["problems"] == []


def test_inspect_lists_every_shard_when_asked(run, tmp_path):
    samples = atdata.Dataset.from_samples([atdata.DictSample(x=i) for i in range(20)], atdata.DictSample)
    atdata.LocalDiskStore(tmp_path).write_shards(samples, prefix="many", maxcount=1)
    short, every = run("inspect", "many"), run("inspect", "many", "--all")
    assert "shard-000012.tar" not in short.out
    assert "shard-000019.tar" in short.out
    assert "9 more (--all)" in short.out
    assert every.out.count("shard-0000") == 20


def test_head_shows_samples_as_a_table(run, dataset):
    answer = run("head", dataset, "-n", "3")
    assert (answer.code, answer.err) == (0, "")
    assert "000000002" in answer.out
    assert "000000003" not in answer.out
    assert "uint8 8×8" in answer.out  # noqa: RUF001
    assert "3 of 150 samples, Sign" in answer.out


def test_head_as_json_has_the_values(run, dataset):
    answer = run("head", dataset, "-n", "120", "--json")
    samples = answer.document["samples"]
    assert [s["key"] for s in samples] == [f"{i:09d}" for i in range(120)]
    assert samples[5]["fields"] == {
        "image": {"dtype": "uint8", "shape": [8, 8], "values": [[2 * (8 * r + c) for c in range(8)] for r in range(8)]},
        "label": 5,
        "note": None,
    }


def test_head_shortens_long_text_and_writes_out_what_steers_terminals(run, tmp_path):
    samples = [atdata.DictSample(text="x" * 5000, evil="\x1b[31m\u202e")]
    ds = atdata.Dataset.from_samples(samples, atdata.DictSample)
    atdata.LocalDiskStore(tmp_path).write_shards(ds, prefix="d")
    answer = run("head", "d")
    assert "(5,000 characters)" in answer.out
    assert "\\x1b[31m\\u202e" in answer.out
    assert "\x1b" not in answer.out
    assert run("head", "d", "--json").document["samples"][0]["fields"] == dict(samples[0])


def test_head_shows_one_field_a_line_where_there_are_many(run, tmp_path):
    samples = [atdata.DictSample({f"field_{i}": i for i in range(40)})]
    ds = atdata.Dataset.from_samples(samples, atdata.DictSample)
    atdata.LocalDiskStore(tmp_path).write_shards(ds, prefix="d")
    lines = [line.split() for line in run("head", "d").out.splitlines()]
    assert ["field_39", "39"] in lines


def test_verify_says_that_all_is_well(run, dataset):
    answer = run("verify", dataset)
    assert (answer.code, answer.err) == (0, "")
    assert "2 shards" in answer.out
    assert "150 samples read: all as recorded" in answer.out
    document = run("verify", dataset, "--json").document
    assert document["ok"] is True
    assert [s["samples"] for s in document["shards"]] == [100, 50]
    fast = run("verify", dataset, "--fast", "--json").document
    assert fast["ok"] is fast["fast"] is True
    assert [s["samples"] for s in fast["shards"]] == [None, None]


@pytest.mark.parametrize("pattern", ["signs/v1/*.tar", "signs/v1/shard-{000000..000001}.tar", "signs/v1/"])
def test_every_way_to_name_a_dataset(run, dataset, pattern):
    assert run("verify", pattern, "--json").document["cid"] == atdata.Dataset(dataset).cid


def test_schema_as_json_is_the_record(run, dataset):
    stored = json.loads((dataset / "atdata.json").read_text())["schema"]
    assert run("schema", "show", dataset, "--json").document == stored


def test_version(run):
    answer = run("--version")
    assert (answer.code, answer.out) == (0, f"atdata {atdata.__version__}\n")


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A tar of the real webdataset package, with samples of several members."""
    path = tmp_path / "foreign.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for i in range(4):
            writer.write({"__key__": f"k{i}", "txt": f"text {i}", "cls": i, "json": {"a": [i]}})
    return path


def test_foreign_tars_are_described_shown_and_checked(run, foreign):
    document = run("inspect", foreign, "--json").document
    assert (document["samples"], document["cid"], document["sample_type"]) == (4, None, "DictSample")
    assert {f["name"]: f["type"] for f in document["fields"]} == {"txt": "text 0", "cls": "0", "json": "{a: [0]}"}
    assert any("atdata.json" in line for line in document["missing"])
    assert run("head", foreign, "-n", "1", "--json").document["samples"] == [
        {"key": "k0", "fields": {"txt": "text 0", "cls": 0, "json": {"a": [0]}}}
    ]
    verified = run("verify", foreign)
    assert verified.code == 0
    assert "4 samples read: nothing is wrong that can be seen without a record" in verified.out
    assert "only its structure can be checked" in verified.out


def test_compressed_tars(run, foreign, tmp_path):
    packed = tmp_path / "packed.tar.gz"
    with tarfile.open(packed, "w:gz") as out, tarfile.open(foreign) as source:
        for member in source:
            out.addfile(member, source.extractfile(member))
    assert run("verify", packed, "--json").document["shards"][0]["samples"] == 4
    assert run("inspect", packed, "--json").document["samples"] is None  # counting would mean unpacking
