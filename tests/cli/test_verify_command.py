"""`verify` of names: the chain from the index down to the samples."""

from __future__ import annotations

import pytest
from cli_process import Sign, flip, signs

import atdata
from atdata.atmosphere import Atmosphere


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


# -- what an account has published -------------------------------------------------------------------------------------


@pytest.fixture
def published(atproto, tmp_path):
    """150 signs in an account, and the environment of somebody else."""
    account = atproto.make_account()
    with Atmosphere.login(
        account.handle, account.password, pds_url=account.pds, directory=atproto.directory, allow_private=True
    ) as client:
        index = atdata.AtmosphereIndex(client, store=atdata.PDSBlobStore(client))
        entry = index.write_samples(signs(150), name="signs", sample_type=Sign, maxcount=100)
    env = {
        "ATDATA_PLC_DIRECTORY": atproto.directory,
        "ATDATA_HANDLES_AT": account.pds,
        "ATDATA_ALLOW_PRIVATE": "1",
        "ATDATA_CACHE": str(tmp_path / "cache"),
    }
    return f"@{account.handle}/signs", entry, env


def test_what_an_account_has_published_is_verified_from_its_key_down(run, published):
    ref, entry, env = published
    answer = run("verify", ref, "--deep", **env)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0].startswith(f"✓ account       {ref.partition('/')[0]} is did:plc:")
    assert lines[1].startswith("✓ signed commit bafyrei")
    assert lines[2].startswith(f"✓ record        {entry.uri}, which is bafyrei")
    assert lines[3] == (f"✓ commit record SHA-256 as the record says; {entry.cid} is what its shards' digests give")
    assert lines[4:7] == [
        "✓ shards        2 of 2, SHA-256 as recorded",
        "✓ manifests     SHA-256 as recorded",
        "✓ samples       150 of 150 read, SHA-256 as the manifests say",
    ]
    assert lines[7].endswith("150 samples read: all as recorded")


def test_its_shards_are_read_when_asked_for(run, published):
    ref, entry, env = published
    document = run("verify", ref, "--json", **env).document
    assert (document["ok"], document["deep"], document["cid"]) == (True, False, entry.cid)
    assert [link["link"] for link in document["chain"] if link["state"] == "ok"] == [
        "account", "signed commit", "record", "commit record", "shards"
    ]  # fmt: skip
    assert "not read: --deep reads them" in run("verify", ref, **env).out
    fast = run("verify", ref, "--fast", "--json", **env).document
    assert [link["state"] for link in fast["chain"]] == ["ok"] * 6 + ["unchecked"]
    missing = run("verify", f"{ref}-of-old", "--deep", **env)
    assert (missing.code, missing.out) == (1, "")
