"""Copies of datasets to accounts and from them."""

import gzip
from pathlib import Path

import pytest
from test_pds_store import login  # noqa: F401  (a fixture)

import atdata
from atdata.errors import StoreError
from atdata.stores.copy import copy_dataset
from atdata.testing.probes import Probe, dataset_of, probes


@pytest.fixture
def store(login, tmp_path):  # noqa: F811
    return atdata.PDSBlobStore(login(), cache=tmp_path / "cache")


def test_a_copy_that_was_interrupted_goes_on(store, tmp_path):
    urls = atdata.LocalDiskStore(tmp_path / "disk").write_shards(dataset_of(probes(40)), prefix="p", maxcount=1)
    source = atdata.Dataset[Probe](urls).located

    def stop(progress):
        if progress.shards == 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        copy_dataset(source, store, prefix="copy", progress=stop)
    assert any("the same copy, begun again, goes on from there" in note for note in caught.value.__notes__)
    assert list(store.list()) == []
    done = copy_dataset(source, store, prefix="copy")
    assert done.kept >= 60  # shards and their manifests
    assert done.record.cid == urls.record.cid
    assert list(atdata.Dataset[Probe](done.urls, store=store)) == probes(40)
    assert len(list(store.client.list_blobs(store.did))) == len(list(store.list())) == 121


def test_from_account_to_account_without_names(store, login, tmp_path):  # noqa: F811
    urls = store.write_shards(dataset_of(probes(20)), prefix="p", maxcount=6)
    other = atdata.PDSBlobStore(login(pds=1), cache=tmp_path / "other")
    for number, source in enumerate((urls, list(urls), f"at://{store.did}/p")):
        dataset = atdata.Dataset[Probe](source, store=store)
        done = copy_dataset(dataset.located, other, prefix=f"{number}", opening=dataset.opening)
        assert [file.path for file in other.files(f"{number}") if file.path.endswith(".tar")] == [
            f"{number}/shard-{n:06d}.tar" for n in range(4)
        ]
        assert [shard.sha256 for shard in done.record.shards] == [shard.sha256 for shard in urls.shards]
        assert list(atdata.Dataset[Probe](done.urls, store=other)) == probes(20)


def test_what_has_no_commit_record_is_refused(store, tmp_path):
    archive = tmp_path / "a.tar.gz"
    urls = atdata.LocalDiskStore(tmp_path / "disk").write_shards(dataset_of(probes(4)), prefix="p")
    archive.write_bytes(gzip.compress(Path(urls[0]).read_bytes()))
    with pytest.raises(StoreError, match=r"keeps datasets whose shards are plain \.tar files"):
        copy_dataset(atdata.Dataset[Probe](str(archive)).located, store, prefix="p")
    assert list(store.client.list_blobs(store.did)) == []
