"""Full disks, limits, missing rights, names that lead elsewhere, and what lies in the way."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import faults
import pytest

import atdata
from atdata.errors import DatasetExistsError, DatasetNotFoundError, StoreError, UnsafeNameError
from atdata.stores.record import RECORD_NAME
from atdata.testing.probes import Probe, probes

PROGRAM = str(Path(faults.__file__))


def run(what, root, *before):
    command = [*before, sys.executable, PROGRAM, what, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def on_small_disk(what, folder, options):
    """Run in a namespace of its own, with a small file system at `folder` that is gone with it."""
    script = f"mount -t tmpfs -o {options} none {shlex.quote(str(folder))} && exec "
    script += shlex.join([sys.executable, PROGRAM, what, str(folder)])
    failed = []
    for unshare in (["unshare", "-m"], ["unshare", "-Urm"]):  # as root, or as root of a namespace
        if os.getuid() == 0 or "-Urm" in unshare:
            done = subprocess.run([*unshare, "sh", "-c", script], capture_output=True, text=True, timeout=200)
            if done.returncode == 0:
                return done.stdout
            failed.append(done.stderr)
    raise AssertionError("\n".join(failed))


def dataset(samples):
    return atdata.Dataset.from_samples(samples, Probe)


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


@pytest.fixture
def store(tmp_path):
    return atdata.LocalDiskStore(tmp_path / "root")


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    assert on_small_disk("full", tmp_path, "size=1m").startswith("failed ")


def test_a_disk_without_room_for_files(tmp_path):
    assert on_small_disk("nodes", tmp_path, "size=4m,nr_inodes=40").startswith("failed ")


def test_a_limit_on_the_size_of_files(tmp_path):
    assert run("filesize", tmp_path) == "done\n"


def test_missing_rights():
    with tempfile.TemporaryDirectory(prefix="atdata-denied-") as folder:  # others may not enter pytest's folders
        os.chmod(folder, 0o755)
        try:
            said = run("denied", folder).splitlines()
        finally:
            subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
    assert len(said) == 6
    assert all("you may not write here" in line or "Permission denied" in line for line in said), said


# -- names -----------------------------------------------------------------------------------------------------


def test_a_link_may_not_lead_out(store, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    store.root.mkdir()
    (store.root / "out").symlink_to(outside)
    (store.root / "up").symlink_to("..")
    (store.root / "round").symlink_to("round")
    (store.root / "gone").symlink_to("/nowhere/at/all")
    for prefix in ("out", "out/deep", "up/outside", "up", "round", "round/x", "gone/x"):
        for call in (
            lambda prefix=prefix: store.write_shards(dataset(probes(2)), prefix=prefix, overwrite=True),
            lambda prefix=prefix: store.delete(prefix),
            lambda prefix=prefix: list(store.list(prefix)),
        ):
            with pytest.raises(UnsafeNameError, match="leads out of the store"):
                call()
    assert files(outside) == []
    assert list(store.list()) == []


def test_a_link_within_the_store_is_followed(store):
    store.root.mkdir()
    (store.root / "latest").symlink_to("v2")
    (store.root / "v2").mkdir()
    urls = store.write_shards(dataset(probes(3)), prefix="latest/x")
    assert list(atdata.Dataset[Probe](urls, store=store)) == probes(3)
    assert (store.root / "v2/x" / RECORD_NAME).exists()


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = atdata.LocalDiskStore(tmp_path / "link")
    assert list(atdata.Dataset[Probe](store.write_shards(dataset(probes(3)), prefix="x"), store=store)) == probes(3)


def test_the_lock_is_not_written_through_a_link(store, tmp_path):
    (store.root / "x").mkdir(parents=True)
    (store.root / "x/.atdata.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError, match="cannot write"):
        store.write_shards(dataset(probes(3)), prefix="x")
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    "url",
    ["/etc/passwd", "../outside", "x/../../outside", "file:///etc/passwd", "file://elsewhere/x", "s3://b/x", "a\0b"],
)
def test_only_urls_in_the_store_are_read(store, url):
    store.root.mkdir()
    for method in (store.read_url, store.open):
        with pytest.raises(UnsafeNameError):
            method(url)


def test_forms_of_a_url(store):
    urls = store.write_shards(dataset(probes(3)), prefix="sp ace/ü")
    path = store.root / "sp ace/ü/shard-000000.tar"
    assert urls == [str(path)]
    for form in (str(path), path.as_uri(), "sp ace/ü/shard-000000.tar", f"file://localhost{path.as_uri()[7:]}"):
        assert store.read_url(form) == str(path)
        assert store.open(form).size == path.stat().st_size
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        store.open("sp ace/ü/shard-000000.tar/deeper")


# -- what lies in the way --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shard-000000.tar", "other.tar", "shard-000000.manifest.parquet", RECORD_NAME])
def test_foreign_files_are_not_overwritten_unasked(store, name):
    folder = store.root / "x"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"precious")
    with pytest.raises(DatasetExistsError, match="overwrite=True"):
        store.write_shards(dataset(probes(3)), prefix="x")
    assert files(store.root) == [f"x/{name}"]
    assert (folder / name).read_bytes() == b"precious"
    urls = store.write_shards(dataset(probes(3)), prefix="x", overwrite=True)
    assert list(atdata.Dataset[Probe](urls)) == probes(3)


def test_other_files_in_the_folder_are_left_alone(store):
    folder = store.root / "x"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("hello")
    store.write_shards(dataset(probes(3)), prefix="x")
    store.write_shards(dataset(probes(4)), prefix="x", overwrite=True)
    assert (folder / "README.md").read_text() == "hello"
    store.delete("x")
    assert files(store.root) == ["x/README.md"]


def test_an_overwrite_without_manifests_takes_foreign_ones_away(store):
    """A manifest left behind would describe another shard."""
    folder = store.root / "x"
    folder.mkdir(parents=True)
    (folder / "shard-000000.manifest.parquet").write_bytes(b"of something else")
    urls = store.write_shards(dataset(probes(3)), prefix="x", overwrite=True, manifest=False)
    assert files(store.root) == ["x/atdata.json", "x/shard-000000.tar"]
    assert list(atdata.Dataset[Probe](urls)) == probes(3)


def test_a_file_where_a_folder_should_be(store):
    store.root.mkdir()
    (store.root / "x").write_text("a file")
    for prefix in ("x", "x/deep"):
        with pytest.raises(StoreError, match="cannot write"):
            store.write_shards(dataset(probes(3)), prefix=prefix, overwrite=True)
    assert files(store.root) == ["x"]


def test_a_folder_where_a_shard_should_be(store):
    """It cannot be published, and says so each time, until the folder is gone; then the new data is there, whole."""
    obstacle = store.root / "x/shard-000001.tar"
    (obstacle / "inner").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot write"):
            store.write_shards(dataset(probes(30)), prefix="x", maxcount=10, overwrite=True)
    with pytest.raises(StoreError, match="cannot be finished"):
        atdata.Dataset(store.root / "x")
    (obstacle / "inner").rmdir()
    obstacle.rmdir()
    assert list(atdata.Dataset[Probe](store.root / "x")) == probes(30)


def test_a_damaged_record_can_be_overwritten(store):
    store.write_shards(dataset(probes(30)), prefix="x", maxcount=10)
    (store.root / "x" / RECORD_NAME).write_bytes(b"{}")
    with pytest.raises(atdata.AtdataError):
        atdata.Dataset(store.root / "x")
    with pytest.raises(DatasetExistsError):
        store.write_shards(dataset(probes(5)), prefix="x")
    urls = store.write_shards(dataset(probes(5)), prefix="x", overwrite=True)
    assert list(atdata.Dataset[Probe](store.root / "x")) == list(atdata.Dataset[Probe](urls)) == probes(5)


def test_a_deleted_dataset_does_not_come_back(store):
    """A write that was decided but not published is finished before the dataset is deleted."""
    transaction = store.begin("x", overwrite=True)
    transaction.abort()
    store.write_shards(dataset(probes(5)), prefix="x")
    folder = store.root / "x"
    staging = folder / ".atdata-writing-12345678"
    staging.mkdir()
    for name in os.listdir(folder):
        if not name.startswith("."):
            (folder / name).rename(staging / name)
    store.delete("x")
    assert not folder.exists()
    with pytest.raises(DatasetNotFoundError):
        atdata.Dataset(folder)
