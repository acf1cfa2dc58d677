"""`atdata cp`: what it says, how it fails, and that a copy which was killed is gone on with."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_process import ATDATA, environment, flip

import atdata


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def s3(rgw, bucket):
    """Runs nothing: the environment that has the S3 server's keys."""
    return rgw.credentials


def test_to_a_bucket_and_back(run, rgw, bucket, s3, dataset, tmp_path):
    answer = run("cp", dataset, f"s3://{bucket}/a b/v1", **s3)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("copied 2 shards of 150 samples, ")
    assert answer.out.endswith(f", to s3://{bucket}/a b/v1\n")
    document = run("cp", f"s3://{bucket}/a b/v1/", "back/here", "--json", **s3).document
    assert files(tmp_path / "back" / "here") == files(dataset)
    assert document["cid"] == atdata.Dataset(dataset).cid
    assert document["samples"] == 150
    assert document["kept"] == 0
    assert document["shards"] == [str(tmp_path / "back" / "here" / f"shard-00000{n}.tar") for n in range(2)]
    assert document["bytes"] == sum(path.stat().st_size for path in dataset.iterdir() if path.suffix != ".json")
    again = run("cp", dataset, f"s3://{bucket}/a b/v1", **s3)
    assert again.code == 1
    assert again.err == (
        "atdata: error: there is a dataset already: replace it with overwrite=True (--overwrite), or choose another "
        f"place [s3://{bucket}/a b/v1/]\n"
    )
    assert run("cp", dataset, f"s3://{bucket}/a b/v1", "--overwrite", **s3).code == 0


def test_each_side_can_have_its_own_credentials(run, rgw, bucket, own_rgw, dataset, tmp_path):
    own_rgw.make_bucket("other")
    for name, server in (("here.env", rgw), ("there.env", own_rgw)):
        (tmp_path / name).write_text("".join(f"{key}={value}\n" for key, value in server.credentials.items()))
    place, other = f"s3://{bucket}/v1", "s3://other/v1"
    assert run("cp", dataset, place, "--to-env", "here.env").code == 0
    answer = run("cp", place, other, "--source-env", "here.env", "--to-env", "there.env")
    assert (answer.code, answer.err) == (0, "")
    assert run("cp", other, "back", "--source-env", "there.env").code == 0
    assert files(tmp_path / "back") == files(dataset)
    refused = run("cp", "back", "more", "--to-env", "there.env")
    assert refused.code == 1
    assert "a file of credentials is for s3:// only" in refused.err
    missing = run("cp", "back", place, "--to-env", "nowhere.env")
    assert "the credentials file cannot be read: No such file" in missing.err


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("s3://{bucket}", "give a folder in it too, for example s3://{bucket}/training/v1 [s3://{bucket}]"),
        ("s3://{bucket}//v1", "the prefix '/v1' cannot be used"),
        ("s3://{bucket}/a/../b", "the prefix 'a/../b' cannot be used"),
        ("s3://there-is-none/v1", "does not exist; make it first"),
        ("https://example.org/v1", "web servers are read, not written: give a folder, s3://, gs://, az:// or at://"),
        ("ftp://example.org/v1", "no store is known for ftp:// URLs"),
        ("signs/v1", "source and destination are the same place; nothing was changed"),
        ("signs/../signs/v1/", "source and destination are the same place; nothing was changed"),
        ("here.tar", "the destination is a folder, and files keep their names; give a folder [here.tar]"),
        ("/", "the destination is not a folder of its own"),
        ("signs/v1/atdata.json", "the destination is not a folder of its own"),
        ("signs/v1/atdata.json/x", "cannot write: Not a directory"),
    ],
)
def test_places_that_cannot_be_copied_to(run, bucket, s3, dataset, to, message):
    before = files(dataset)
    answer = run("cp", "signs/v1", to.format(bucket=bucket), "--overwrite", **s3)
    assert (answer.code, answer.out) == (1, "")
    assert message.format(bucket=bucket) in answer.err
    assert len(answer.err.splitlines()) == 1
    assert files(dataset) == before


def test_compressed_archives_say_that_they_are_no_dataset(run, dataset, tmp_path):
    import gzip

    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress((dataset / "shard-000000.tar").read_bytes()))
    answer = run("cp", "packed.tar.gz", "to")
    assert (answer.code, answer.err) == (0, "")
    assert "note  there is no atdata.json" in answer.out
    assert files(tmp_path / "to") == {"packed.tar.gz": (tmp_path / "packed.tar.gz").read_bytes()}


def test_what_is_damaged_is_named(run, dataset, tmp_path):
    flip(dataset / "shard-000001.tar", 3000)
    answer = run("cp", dataset, "to")
    assert (answer.code, answer.out) == (1, "")
    error, note = answer.err.splitlines()
    assert "damaged at the source" in error
    assert str(dataset / "shard-000001.tar") in error
    assert "goes on from there" in note
    assert run("inspect", "to").code == 1
    document = run("cp", dataset, "to", "--json").document
    assert document["error"]["type"] == "IntegrityError"
    assert document["error"]["url"] == str(dataset / "shard-000001.tar")


def test_a_full_disk(dataset, tmp_path):
    """And with more room the same command goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in dataset.iterdir())
    command = shlex.join([*ATDATA, "cp", str(dataset), str(disk / "v1")])
    script = f"mount -t tmpfs -o size={size * 2 // 3} none {shlex.quote(str(disk))} && {command}; "
    script += (
        f"mount -o remount,size={size * 2} {shlex.quote(str(disk))} && {command} --json && cat {disk}/v1/atdata.json"
    )
    unshare = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-Urm"]
    done = subprocess.run(
        [*unshare, "sh", "-c", script], capture_output=True, text=True, timeout=200, env=environment(), check=False
    )
    error, note = done.stderr.splitlines()
    assert "cannot write: the disk is full; free some space and run again" in error
    assert "goes on from there" in note
    assert (done.returncode, done.stdout.count('"kept": ')) == (0, 1)
    assert '"kept": 0' not in done.stdout
    assert done.stdout.endswith((dataset / "atdata.json").read_text())


def test_progress_appears_on_a_terminal_only(run, terminal, dataset):
    shown = terminal("cp", dataset, "one", streams=("stderr",)).finish()
    assert shown.code == 0
    assert "copying 2 shards" in shown.out
    assert "kB" in shown.out
    assert "copied 2 shards" in shown.err
    assert "copying" not in terminal("cp", dataset, "two", "--json", streams=("stderr",)).finish().out
    assert run("cp", dataset, "three").err == ""


# -- killed --------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Six shards of a megabyte each."""
    samples = (atdata.DictSample(a=np.random.default_rng(n).integers(0, 255, 100_000, np.uint8)) for n in range(60))
    ds = atdata.Dataset.from_samples(samples, atdata.DictSample)
    atdata.LocalDiskStore(tmp_path).write_shards(ds, prefix="large", maxcount=10)
    return tmp_path / "large"


def stopped(command: list[str], env: dict[str, str], how: signal.Signals, when: Callable[[], bool]) -> tuple[int, str]:
    """Start a copy and end it once `when` says so; its exit code and what it said."""
    process = subprocess.Popen([*ATDATA, *command], env=environment(**env), stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not when():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


HOW = pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)


def check_end(how: signal.Signals, code: int, said: str) -> None:
    if how is signal.SIGKILL:
        assert code == -how
    else:
        assert code == 130
        assert said.startswith("\natdata: interrupted\n")


@HOW
def test_stopped_on_the_way_to_a_bucket(run, rgw, bucket, fault_proxy, large, how):
    slow = rgw.through(fault_proxy).credentials
    fault_proxy.set(bandwidth=1_000_000)
    place = f"s3://{bucket}/v1"

    def begun() -> bool:
        return sum(key.endswith((".tar", ".parquet")) for key in rgw.keys(bucket)) >= 4

    code, said = stopped(["cp", str(large), place], slow, how, begun)
    check_end(how, code, said)
    answer = run("inspect", place, **rgw.credentials)
    assert "there is no dataset under this prefix" in answer.err
    assert list(atdata.S3DataStore(rgw.credentials, bucket=bucket).list()) == []
    there = {key for key in rgw.keys(bucket) if key.endswith((".tar", ".parquet"))}
    fault_proxy.clear()
    fault_proxy.forget()
    again = run("cp", large, place, "--json", **slow)
    assert (again.code, again.err) == (0, "")
    assert again.document["kept"] >= len(there)  # what was on its way when the copy was stopped may have arrived since
    written = {request.path.partition("?")[0].removeprefix(f"/{bucket}/") for request in fault_proxy.requests("PUT")}
    assert not written & there
    assert run("verify", place, **rgw.credentials).code == 0
    for name, data in files(large).items():
        assert rgw.request("GET", f"/{bucket}/v1/{name}").body == data
    assert len(rgw.keys(bucket)) == len(files(large))


@HOW
def test_stopped_on_the_way_from_a_bucket(run, rgw, bucket, fault_proxy, large, tmp_path, how):
    slow = rgw.through(fault_proxy).credentials
    place = f"s3://{bucket}/v1"
    assert run("cp", large, place, **slow).code == 0
    fault_proxy.set(bandwidth=1_000_000)
    fault_proxy.forget()
    to = tmp_path / "to"
    code, said = stopped(
        ["cp", place, str(to)], slow, how, lambda: len(list(to.glob(".atdata-writing-*/*.parquet"))) >= 3
    )
    check_end(how, code, said)
    assert [path for path in to.iterdir() if not path.name.startswith(".atdata")] == []
    assert run("inspect", to).code == 1
    there = {path.name for path in to.glob(".atdata-writing-*/*")}
    fault_proxy.clear()
    fault_proxy.forget()
    again = run("cp", place, to, "--json", **slow)
    assert (again.code, again.err) == (0, "")
    assert 3 <= again.document["kept"] <= len(there)
    asked = {request.path.rpartition("/")[2] for request in fault_proxy.requests("GET") if ".tar" in request.path}
    assert len(asked) <= 6 - 3
    assert files(to) == files(large)


def test_the_second_of_two_is_told(rgw, bucket, fault_proxy, large, run):
    place = f"s3://{bucket}/v1"
    fault_proxy.set(bandwidth=300_000)
    process = subprocess.Popen(
        [*ATDATA, "cp", str(large), place], env=environment(**rgw.through(fault_proxy).credentials)
    )
    try:
        until = time.monotonic() + 60
        while not rgw.keys(bucket):
            assert time.monotonic() < until
            time.sleep(0.02)
        fault_proxy.stall()
        answer = run("cp", large, place, **rgw.credentials)
        assert answer.code == 1
        assert "another process is writing a dataset here; wait for it" in answer.err
    finally:
        fault_proxy.clear()
        assert process.wait(60) == 0
    assert run("verify", place, **rgw.credentials).code == 0
