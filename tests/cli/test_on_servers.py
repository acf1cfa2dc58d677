"""The commands on datasets that lie on servers: they answer what they answer on the disk."""

from __future__ import annotations

import json
import shutil
import signal

import msgspec
import numpy as np
import pytest
from cli_process import Sign, flip, signs

import atdata
from atdata.shards.manifest_file import read_manifest
from atdata.stores.record import RECORD_NAME, CommitRecord


def put(rgw, bucket, folder, prefix):
    """The files of a folder as objects, just as they are."""
    for path in sorted(folder.iterdir()):
        assert rgw.request("PUT", f"/{bucket}/{prefix}/{path.name}", body=path.read_bytes()).status == 200


@pytest.fixture
def places(rgw, bucket, web, dataset):
    """Brings the dataset's folder, as it is now, to each kind of place; gives the URLs."""

    def bring():
        put(rgw, bucket, dataset, "signs/v1")
        shutil.copytree(dataset, web.folder / "signs" / "v1", dirs_exist_ok=True)
        return {"s3": f"s3://{bucket}/signs/v1", "web": web.url("signs/v1")}

    return bring


@pytest.fixture
def far(run, rgw):
    """Runs `atdata` with the credentials of the S3 server in its environment."""
    return lambda *arguments, **extra: run(*arguments, **{**rgw.credentials, **extra})


COMMANDS = [
    ("inspect",),
    ("head", "-n", "3"),
    ("head", "-n", "120"),
    ("verify",),
    ("verify", "--fast"),
    ("schema", "show"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("kind", ["s3", "web"])
def test_the_answers_are_those_on_the_disk(far, places, dataset, command, kind):
    url = places()[kind]
    here, there = far(*command, dataset, "--json"), far(*command, url, "--json")
    assert (there.code, there.err) == (0, "")
    assert there.out.replace(url, str(dataset)) == here.out
    if kind == "s3":
        text = far(*command, url)
        assert (text.code, text.err) == (0, "")
        assert text.out


def truncated(folder):
    path = folder / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:20_000])


def flipped_in_a_sample(folder):
    shard = folder / "shard-000000.tar"
    flip(shard, int(read_manifest(shard.with_suffix(".manifest.parquet").read_bytes()).offsets[41]) + 60)


def flipped_in_headers(folder):
    shard = folder / "shard-000000.tar"
    offsets = read_manifest(shard.with_suffix(".manifest.parquet").read_bytes()).offsets
    flip(shard, int(offsets[10]) - 509)
    flip(shard, int(offsets[90]) + 20)


def no_shard(folder):
    (folder / "shard-000000.tar").unlink()


def flipped_in_a_manifest(folder):
    flip(folder / "shard-000000.manifest.parquet", 300)


def no_manifest(folder):
    (folder / "shard-000001.manifest.parquet").unlink()


def another_header(folder):
    shutil.copy(folder / "shard-000000.manifest.json", folder / "shard-000001.manifest.json")


def flipped_in_the_record(folder):
    flip(folder / RECORD_NAME, 400)


def lying_manifest(folder):
    """Whose digest no record names."""
    record = CommitRecord.from_bytes((folder / RECORD_NAME).read_bytes())
    shutil.copy(folder / "shard-000000.manifest.parquet", folder / "shard-000001.manifest.parquet")
    shards = tuple(msgspec.structs.replace(shard, manifest=None) for shard in record.shards)
    (folder / RECORD_NAME).write_bytes(CommitRecord(record.schema, shards).to_bytes())


DAMAGE = [
    truncated, flipped_in_a_sample, flipped_in_headers, no_shard, flipped_in_a_manifest, no_manifest, another_header,
    flipped_in_the_record, lying_manifest,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_verify_finds_the_same_problems_everywhere(far, places, dataset, damage):
    damage(dataset)
    here = far("verify", dataset, "--json")
    assert here.code == 1
    for kind, url in places().items():
        there = far("verify", url, "--json")
        assert there.code == 1
        found = json.loads(there.out.replace(url, str(dataset)))
        expected = here.document
        # Of a file that is not there, each kind of place says so in its own words.
        for document in (found, expected):
            for problem in document["problems"]:
                if problem["type"] == "DatasetNotFoundError":
                    del problem["message"], problem["offset"]
        if kind == "web" and damage is flipped_in_the_record:  # nobody can tell what else lies there
            assert found["problems"] == expected["problems"]
            continue
        assert found == expected


@pytest.mark.parametrize("fast", [False, True])
def test_what_was_damaged_on_the_way_comes_right(far, rgw, bucket, fault_proxy, fast):
    store = atdata.S3DataStore(rgw.credentials, bucket=bucket)
    store.write_shards(atdata.Dataset.from_samples(signs(9), Sign), prefix="v1", maxcount=5, manifest=False)
    fault_proxy.flip_bit(answer=1, at=0.3)  # the record comes before
    url, env = f"s3://{bucket}/v1", rgw.through(fault_proxy).credentials
    answer = far("verify", url, "--json", *(["--fast"] if fast else []), **env)
    assert (answer.code, answer.err) == (0, "")
    assert answer.document["ok"]
    assert len(answer.document["notes"]) == 1
    assert answer.document["notes"][0].endswith(".tar: came damaged, and right when it was read once more")


def test_a_server_that_fails_is_not_asked_for_every_shard(far, web, tmp_path):
    samples = atdata.Dataset.from_samples(signs(12), Sign)
    atdata.LocalDiskStore(web.folder).write_shards(samples, prefix="v1", maxcount=1)
    for n in range(2, 12):
        web.answer(f"v1/shard-{n:06d}.tar", 500)
    answer = far("verify", web.url("v1"), "--json")
    assert answer.code == 1
    document = answer.document
    assert [shard["problems"] for shard in document["shards"]] == [0, 0, 1, 1, 1]
    assert [problem["type"] for problem in document["problems"]] == ["StoreError"] * 4
    assert document["problems"][0]["message"] == "7 more shards were not checked: their server cannot be read"


def test_inspect_says_what_is_not_there(far, places, dataset):
    (dataset / "shard-000000.tar").unlink()
    (dataset / "shard-000001.manifest.parquet").unlink()
    for url in places().values():
        answer = far("inspect", url, "--json")
        assert answer.code == 1
        assert answer.document["problems"] == ["shard-000000.tar: is not there"]
        assert [shard["manifest"] for shard in answer.document["shards"]] == ["yes", "missing"]


@pytest.mark.parametrize("command", ["verify", "cp"])
def test_what_is_wrong_with_a_place_is_said(far, bucket, web, command):
    def said(url, **extra):
        answer = far(command, url, *(["somewhere"] if command == "cp" else []), **extra)
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith("atdata: error: ")
        assert len(answer.err.splitlines()) == 1
        return answer.err

    assert "no atdata.json" in said(f"s3://{bucket}/nothing")
    assert "no atdata.json" in said(f"s3://{bucket}")
    assert "does not exist; make it first" in said("s3://there-is-none/v1")
    assert "'a b' is not a bucket name" in said("s3://a b/v1")
    assert "no atdata.json" in said(web.url("nothing"))
    assert "no object matches the pattern" in said(f"s3://{bucket}/nothing/*.tar")
    assert "secret key is wrong" in said(f"s3://{bucket}/v1", AWS_SECRET_ACCESS_KEY="wr0ng")
    assert "does not know the access key" in said(f"s3://{bucket}/v1", AWS_ACCESS_KEY_ID="NOBODY")
    assert "AWS_ENDPOINT must be like" in said(f"s3://{bucket}/v1", AWS_ENDPOINT="localhost")


def test_no_message_holds_credentials(far, rgw, bucket):
    secret = "wr0ng-secret-of-mine"
    for extra in ({}, {"ATDATA_DEBUG": "1"}):
        for command in (
            ("verify", f"s3://{bucket}/v1"),
            ("cp", f"s3://{bucket}/v1", "x"),
            ("cp", "x", f"s3://{bucket}/v"),
        ):
            answer = far(*command, AWS_SECRET_ACCESS_KEY=secret, **extra)
            assert answer.code == 1
            for word in (secret, rgw.secret_key, rgw.access_key, "Signature="):
                assert word not in answer.out + answer.err


def test_a_signed_url_is_read_and_not_shown(far, rgw, bucket, places):
    places()
    url = rgw.presign("GET", f"/{bucket}/signs/v1/shard-000000.tar")
    for command in ("inspect", "head", "verify"):
        answer = far(command, url, "--json")
        assert (answer.code, answer.err) == (0, "")
        document = answer.document
        del document["url"]  # which is what was asked
        assert "Signature" not in json.dumps(document)
    expired = rgw.presign("GET", f"/{bucket}/signs/v1/shard-000000.tar", at=1.0)
    answer = far("head", expired)
    assert answer.code == 1
    assert "may have expired" in answer.err
    assert "Signature" not in answer.err


@pytest.fixture
def slow(rgw, bucket, fault_proxy, tmp_path):
    """A dataset behind a slow network, and the environment that goes through it."""
    samples = (atdata.DictSample(a=np.random.default_rng(n).integers(0, 255, 4000, np.uint8)) for n in range(2000))
    ds = atdata.Dataset.from_samples(samples, atdata.DictSample)
    atdata.S3DataStore(rgw.credentials, bucket=bucket).write_shards(ds, prefix="slow", maxcount=1000)
    fault_proxy.set(bandwidth=300_000)
    return f"s3://{bucket}/slow", rgw.through(fault_proxy).credentials


@pytest.mark.parametrize("command", [("verify",), ("verify", "--fast"), ("cp",)], ids=" ".join)
def test_ctrl_c_while_a_server_is_silent(terminal, slow, fault_proxy, command, tmp_path):
    url, env = slow
    name, *options = command
    running = terminal(name, url, *(["to"] if name == "cp" else []), *options, **env)
    running.until(rb"checking|copying")
    fault_proxy.stall()
    running.process.send_signal(signal.SIGINT)
    shown = running.finish()
    assert shown.code == 130
    assert shown.out.count("atdata: interrupted") == 1
    assert "\x1b[?25h" in shown.out
    assert "Traceback" not in shown.out
    fault_proxy.clear()
    assert running.process.poll() == 130


# -- manifests -----------------------------------------------------------------------------------------------


def test_manifests_are_built_beside_objects(far, rgw, bucket, places, dataset):
    before = {path.name: path.read_bytes() for path in dataset.iterdir()}
    for path in dataset.glob("*.manifest.*"):
        path.unlink()
    url = places()["s3"]
    answer = far("manifest", "build", url)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.count(f"wrote s3://{bucket}/signs/v1/shard-00000") == 2
    for name, data in before.items():
        assert rgw.request("GET", f"/{bucket}/signs/v1/{name}").body == data
    assert len(rgw.keys(bucket)) == len(before)
    again = far("manifest", "build", url)
    assert again.code == 1
    assert "shard-000000.manifest.parquet is there already; --force" in again.err
    assert far("manifest", "build", url, "--force").code == 0


def test_a_record_without_manifests_comes_to_name_them(far, rgw, bucket, tmp_path):
    for n, store in enumerate((atdata.LocalDiskStore(tmp_path), atdata.S3DataStore(rgw.credentials, bucket=bucket))):
        samples = atdata.Dataset.from_samples(signs(20), Sign)
        bare = store.write_shards(samples, prefix="bare", maxcount=15, manifest=False)
        whole = store.write_shards(atdata.Dataset.from_samples(signs(20), Sign), prefix="whole", maxcount=15)
        url = bare[0].rpartition("/")[0]
        assert far("manifest", "build", url).code == 0
        found = far("inspect", url, "--json").document
        assert [shard["manifest"] for shard in found["shards"]] == ["yes", "yes"]
        assert found["cid"] == bare.record.cid
        assert far("verify", url).code == 0
        read = atdata.Dataset[Sign](url, store=store if n else None)
        assert read.located.record.shards == whole.record.shards
        assert read[17] == list(signs(20))[17]


def test_nothing_is_written_to_web_servers(far, web, dataset):
    shutil.copytree(dataset, web.folder / "v1")
    answer = far("manifest", "build", web.url("v1"), "--force")
    assert (answer.code, answer.out) == (1, "")
    assert "web servers are read, not written: copy the shards" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_no_manifest_is_built_while_another_writes(far, rgw, bucket, places):
    url = places()["s3"]
    store = atdata.S3DataStore(rgw.credentials, bucket=bucket)
    transaction = store.begin("signs/v1", overwrite=True)
    try:
        answer = far("manifest", "build", url, "--force")
    finally:
        transaction.abort()
    assert answer.code == 1
    assert "another process is writing" in answer.err
