"""`verify` of names: the chain from the index down to the samples."""

from __future__ import annotations

from cli_process import flip

import atdata


def indexed(tmp_path, dataset):
    with atdata.LocalIndex(tmp_path / "index.db") as index:
        return index.insert_dataset(atdata.Dataset(dataset), name="traffic/signs").cid


def test_a_name_is_verified_from_the_index_down(run, dataset, tmp_path):
    cid = indexed(tmp_path, dataset)
    answer = run("verify", "traffic/signs@1.0.0", "--index", "index.db")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[:4] == [
        f"✓ index         traffic/signs@1.0.0, {cid} is what its shards' digests give",
        "✓ shards        2 of 2, SHA-256 as recorded",
        "✓ manifests     SHA-256 as recorded",
        "✓ samples       150 of 150 read, SHA-256 as the manifests say",
    ]
    assert answer.out.splitlines()[4].endswith("150 samples read: all as recorded")
    document = run("verify", "traffic/signs", "--index", "index.db", "--fast", "--json").document
    assert document["cid"] == cid
    assert [(link["link"], link["state"]) for link in document["chain"]] == [
        ("index", "ok"),
        ("shards", "ok"),
        ("manifests", "ok"),
        ("samples", "unchecked"),
    ]
    assert run("verify", "traffic/signs", ATDATA_INDEX=str(tmp_path / "index.db")).code == 0


def test_the_link_that_broke_is_named(run, dataset, tmp_path):
    indexed(tmp_path, dataset)
    flip(dataset / "shard-000001.manifest.parquet", 100)
    answer = run("verify", "traffic/signs", "--index", "index.db")
    assert answer.code == 1
    assert "✗ manifests     1 problem" in answer.out
    assert f"✗ {dataset}/shard-000001.manifest.parquet" in answer.out
    assert "1 problem in 1 of 2 shards" in answer.out


def test_a_folder_has_its_chain_in_the_document(run, dataset):
    assert [link["link"] for link in run("verify", dataset, "--json").document["chain"]] == [
        "commit record",
        "shards",
        "manifests",
        "samples",
    ]


def test_a_name_that_the_index_does_not_have(run, dataset, tmp_path):
    indexed(tmp_path, dataset)
    answer = run("verify", "traffic/sings", "--index", "index.db")
    assert (answer.code, answer.out) == (1, "")
    assert "did you mean 'traffic/signs'?; and there is no path 'traffic/sings'" in answer.err
