"""Which store reads an entry's shards, which shards an index can keep, and what is garbage on object storage."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import atdata
from atdata.datasets.sources import Located, ShardRef
from atdata.errors import AtdataError, EntryFormError
from atdata.index.details import check_url
from atdata.index.routing import store_for
from atdata.testing.probes import Probe, keyed, probes
from servers.rgw import S3Server

NOW = timedelta(0)


@pytest.fixture
def index(tmp_path: Path, rgw: S3Server, bucket: str) -> Iterator[atdata.LocalIndex]:
    store = atdata.S3DataStore(rgw.credentials, bucket=bucket)
    with atdata.LocalIndex(tmp_path / "index.db", store=store) as index:
        yield index


def labels(entry: Any, **options: Any) -> list[int]:
    return [sample.label for sample in entry.dataset(**options)]


# -- stores ------------------------------------------------------------------------------------------------------------


def test_shards_on_object_storage(index: atdata.LocalIndex, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    entry = index.write_samples(probes(6), name="d", maxcount=2)
    assert all(url.startswith(f"s3://{bucket}/d/1.0.0-") for url in entry.data_urls)
    assert labels(index.get_dataset("d")) == list(range(6))
    assert labels(index.append("d", probes(2, first=6))) == list(range(8))


def test_shards_in_several_places(index: atdata.LocalIndex, tmp_path: Path) -> None:
    """Old shards on this disk, new ones in the bucket: each is read where it lies."""
    disk = atdata.LocalDiskStore(tmp_path / "disk")
    urls = disk.write_shards(keyed(probes(4)), prefix="old", maxcount=2)
    index.insert_dataset(atdata.Dataset(urls), name="d")
    entry = index.append("d", keyed(probes(3, first=4)))
    assert [url.partition("://")[0] for url in entry.data_urls] == [*urls, "s3"]
    ds = entry.dataset(Probe)
    assert [sample.label for sample in ds] == list(range(7))
    assert ds.get("key-0005").label == 5
    assert ds[2].label == 2
    assert [list(batch.label) for batch in ds.ordered(batch_size=4)] == [[0, 1, 2, 3], [4, 5, 6]]
    assert index.diff("d@1.0.0", "d").change == "minor"


def test_credentials_are_used_for_their_own_bucket_only(
    index: atdata.LocalIndex, rgw: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry may name any bucket; the index's keys do not open it."""
    other = rgw.make_bucket()
    try:
        theirs = atdata.S3DataStore(rgw.credentials, bucket=other)
        urls = theirs.write_shards(keyed(probes(3)), prefix="p")
        entry = index.insert_dataset(atdata.Dataset[Probe](urls, store=theirs), name="d")
        monkeypatch.setenv("AWS_ENDPOINT", rgw.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        with pytest.raises(AtdataError, match="access key"):
            labels(index.get_dataset("d"))
        assert labels(entry, store=theirs) == [0, 1, 2]
        # A bucket whose name begins like ours is not ours.
        assert store_for(index.store, [f"s3://{bucket}x/shard.tar"]) is None
    finally:
        rgw.remove_bucket(other)


class Stranger:
    """A store with URLs of its own."""

    def __init__(self, folder: Path) -> None:
        self.disk = atdata.LocalDiskStore(folder)

    def write_shards(self, ds: Any, *, prefix: str, **options: Any) -> list[str]:
        return [f"mine://{url}" for url in self.disk.write_shards(ds, prefix=prefix, **options)]

    def read_url(self, url: str) -> str:
        assert url.startswith("mine://"), "asked for what is not its own"
        return url.removeprefix("mine://")

    def supports_streaming(self) -> bool:
        return True


def test_a_strangers_store(tmp_path: Path) -> None:
    store = Stranger(tmp_path / "store")
    disk = atdata.LocalDiskStore(tmp_path / "disk")
    with atdata.LocalIndex(tmp_path / "index.db", store=store) as index:
        entry = index.write_samples(probes(5), name="d", maxcount=2)
        assert entry.data_urls[0].startswith("mine:///")
        assert (entry.samples, len(entry.shards)) == (5, 3)
        assert labels(index.get_dataset("d")) == [0, 1, 2, 3, 4]
        index.insert_dataset(atdata.Dataset(disk.write_shards(keyed(probes(2)), prefix="p")), name="e")
        assert labels(index.get_dataset("e")) == [0, 1]
        assert labels(index.append("e", probes(1, first=9))) == [0, 1, 9]
        with pytest.raises(AtdataError, match="look through a Stranger"):
            index.gc()


# -- URLs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "", "relative/shard.tar", "shard", "./x.tar", "a\nb", "/a\0b", "/" + "x" * 5000, "s3://b/\x1b[31m", "\ud800",
        "https://user:secret@host/a.tar",
        "https://host/a.tar?X-Amz-Signature=secret&X-Amz-Date=1",
        "https://host/a.tar?sv=1&sig=secret",
        "https://host/a.tar?token=secret",
    ],
)  # fmt: skip
def test_urls_that_an_index_does_not_keep(url: str) -> None:
    with pytest.raises(EntryFormError) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["/a/b.tar", "s3://b/k.tar", "https://h/a.tar?download=1", "at://did:plc:x/blob/y", "file:///a/b.tar"]
)
def test_urls_that_it_keeps(url: str) -> None:
    assert check_url(url) == url


def test_shards_of_an_object_of_this_program(tmp_path: Path) -> None:
    class Source:
        def list_shards(self) -> list[str]:
            return ["one"]

        def open_shard(self, shard: str) -> Any:
            raise KeyError(shard)

    with atdata.LocalIndex(tmp_path / "index.db") as index, pytest.raises(EntryFormError, match="absolute paths"):
        index.insert_dataset(atdata.Dataset[Probe](Source()), name="d")


# -- garbage -----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import atdata
from atdata.testing.probes import Probe, probes

def samples():
    yield from probes(25)
    os.kill(os.getpid(), signal.SIGKILL)

store = atdata.S3DataStore(sys.argv[1], bucket=sys.argv[2])
store.write_shards(atdata.Dataset.from_samples(samples(), Probe), prefix="killed/d", maxcount=10)
"""


def test_garbage_on_object_storage(index: atdata.LocalIndex, rgw: S3Server, bucket: str, tmp_path: Path) -> None:
    store = index.store
    kept = index.write_samples(probes(3), name="kept")
    index.write_samples(probes(3, first=9), name="gone")
    stray = store.write_shards(keyed(probes(3)), prefix="stray/v1")
    by_web = store.write_shards(keyed(probes(2)), prefix="by/web")
    web = [f"{rgw.endpoint}/{url.removeprefix('s3://')}" for url in by_web]
    index.add_entries([_moved(kept, "web", web)])
    store.put("foreign/data.tar", b"somebody's")
    credentials = tmp_path / "credentials.env"
    credentials.write_text("".join(f"{name}={value}\n" for name, value in rgw.credentials.items()))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(credentials), bucket], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    index.delete_dataset("gone")

    assert index.gc() == []
    found = {item.url: item.kind for item in index.gc(grace=NOW)}
    assert {url.split("/")[3]: kind for url, kind in found.items()} == {
        "gone": "dataset", "stray": "dataset", "killed": "unfinished write"
    }  # fmt: skip
    assert all(item.removed for item in index.gc(grace=NOW, dry_run=False))
    assert index.gc(grace=NOW) == []
    keys = store.keys("")
    assert not any(key.startswith(("gone/", "stray/", "killed/")) for key in keys)
    assert store.get("foreign/data.tar") == b"somebody's"
    assert labels(index.get_dataset("kept")) == [0, 1, 2]
    assert not [url for url in stray if store.get(store.key(url))]
    assert len(list(atdata.Dataset(by_web, store=store))) == 2


def _moved(entry: Any, name: str, urls: list[str]) -> Any:
    info = entry.shards[0].info
    located = Located(tuple(ShardRef(url, info) for url in urls), entry.schema)
    return dataclasses.replace(entry, name=name, _locate=lambda: located)
