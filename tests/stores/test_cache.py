"""The cache of whole shards: by content, checked, shared, bounded."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import IntegrityError, StoreError
from atdata.stores.cache import Cache
from atdata.stores.s3 import S3DataStore
from atdata.testing import FaultProxy
from servers.rgw import S3Server


@atdata.packable
class Item:
    data: NDArray[np.uint8]
    number: int


def items(count: int, first: int = 0) -> list[Item]:
    return [Item(np.full(5000, n % 251, np.uint8), n) for n in range(first, first + count)]


def dataset(samples: list[Item]) -> atdata.Dataset[Item]:
    return atdata.Dataset.from_samples(samples, Item)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def faulty(rgw: S3Server, bucket: str, fault_proxy: FaultProxy) -> S3DataStore:
    return S3DataStore(rgw.through(fault_proxy).credentials, bucket=bucket)


def shard_requests(proxy: FaultProxy) -> int:
    return sum(".tar" in request.path for request in proxy.requests("GET"))


# -- with datasets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manifest", [True, False])
def test_the_second_epoch_asks_for_no_shard(
    faulty: S3DataStore, fault_proxy: FaultProxy, cache: Cache, manifest: bool
) -> None:
    faulty.write_shards(dataset(items(9)), prefix="v1", maxcount=3, manifest=manifest)
    place = f"{faulty.base}v1"
    fault_proxy.forget()
    ds = atdata.Dataset[Item](place, store=faulty, cache=cache)
    assert list(ds) == items(9)
    assert shard_requests(fault_proxy) == 3
    assert len(list(cache.shards())) == 3
    fault_proxy.forget()
    assert list(ds) == items(9)
    assert fault_proxy.requests() == []
    again = atdata.Dataset[Item](place, store=faulty, cache=cache.root)
    assert list(again) == items(9)
    assert again[5] == items(9)[5]
    assert shard_requests(fault_proxy) == 0


def test_named_by_the_environment(faulty: S3DataStore, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATDATA_CACHE", str(cache.root))
    faulty.write_shards(dataset(items(2)), prefix="v1")
    assert list(atdata.Dataset[Item](f"{faulty.base}v1", store=faulty)) == items(2)
    assert len(list(cache.shards())) == 1


def test_shards_of_one_name_do_not_collide(faulty: S3DataStore, cache: Cache) -> None:
    for prefix, first in (("train", 0), ("val", 100)):
        faulty.write_shards(dataset(items(2, first)), prefix=prefix)
    for _ in range(2):
        for prefix, first in (("train", 0), ("val", 100)):
            found = atdata.Dataset[Item](f"{faulty.base}{prefix}", store=faulty, cache=cache)
            assert list(found) == items(2, first)
    assert len(list(cache.shards())) == 2


@pytest.mark.parametrize("manifest", [True, False])
def test_damaged_on_the_way_is_not_kept(
    faulty: S3DataStore, fault_proxy: FaultProxy, cache: Cache, manifest: bool
) -> None:
    faulty.write_shards(dataset(items(3)), prefix="v1", manifest=manifest)
    ds = atdata.Dataset[Item](f"{faulty.base}v1", store=faulty, cache=cache)
    fault_proxy.flip_bit(answer=1 if manifest else 0)
    assert list(ds) == items(3)
    assert shard_requests(fault_proxy) == 2
    assert [digest(cache.path(shard.sha256).read_bytes()) for shard in cache.shards()] == [
        shard.sha256 for shard in cache.shards()
    ]


def test_damaged_on_the_server_is_not_kept(rgw: S3Server, bucket: str, faulty: S3DataStore, cache: Cache) -> None:
    urls = faulty.write_shards(dataset(items(3)), prefix="v1")
    ds = atdata.Dataset[Item](f"{faulty.base}v1", store=faulty, cache=cache)
    rgw.request("PUT", f"/{bucket}/v1/shard-000000.tar", body=bytes(urls.shards[0].size))
    with pytest.raises(IntegrityError) as caught:
        list(ds)
    assert caught.value.url == urls[0]
    assert list(cache.shards()) == []
    assert list((cache.root / "new").iterdir()) == []


def test_damaged_in_its_folder_is_fetched_again(faulty: S3DataStore, fault_proxy: FaultProxy, cache: Cache) -> None:
    faulty.write_shards(dataset(items(3)), prefix="v1")
    place = f"{faulty.base}v1"
    assert list(atdata.Dataset[Item](place, store=faulty, cache=cache)) == items(3)
    path = cache.path(next(cache.shards()).sha256)
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.unlink()
    path.write_bytes(data)
    fault_proxy.forget()
    assert list(atdata.Dataset[Item](place, store=faulty, cache=cache)) == items(3)
    assert shard_requests(fault_proxy) == 1
    assert digest(path.read_bytes()) == path.name


_READER = """
import sys
sys.path.insert(0, sys.argv[1])
import atdata
ds = atdata.Dataset(sys.argv[2], cache=sys.argv[3])
print(sum(sample.number for sample in ds))
"""


def test_one_download_for_many_processes(
    rgw: S3Server, faulty: S3DataStore, fault_proxy: FaultProxy, cache: Cache
) -> None:
    faulty.write_shards(dataset(items(6)), prefix="v1", maxcount=2)
    fault_proxy.forget()
    fault_proxy.set(latency=0.05)
    source = str(Path(atdata.__file__).parents[1])
    command = [sys.executable, "-c", _READER, source, f"{faulty.base}v1", str(cache.root)]
    environment = {**os.environ, **rgw.through(fault_proxy).credentials}
    readers = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [reader.communicate(timeout=60)[0] for reader in readers] == ["15\n"] * 3
    assert shard_requests(fault_proxy) == 3


# -- the folder ----------------------------------------------------------------------------------------------


def test_only_what_has_the_digest_comes_in(cache: Cache) -> None:
    asked = 0

    def chunks() -> Iterator[bytes]:
        nonlocal asked
        asked += 1
        yield b"wrong"

    with pytest.raises(IntegrityError):
        cache.add(digest(b"right"), chunks, url="s3://b/x.tar")
    assert asked == 2
    assert cache.find(digest(b"right")) is None
    path = cache.add(digest(b"right"), lambda: [b"ri", memoryview(b"ght")], url="s3://b/x.tar")
    assert path.read_bytes() == b"right"
    assert cache.find(digest(b"right")) == path
    for name in ("", "x" * 64, "../" + "a" * 61, digest(b"").upper()):
        with pytest.raises(StoreError):
            cache.find(name)


def test_threads_fetch_once(cache: Cache) -> None:
    asked = []
    gate = threading.Barrier(8)

    def chunks() -> list[bytes]:
        asked.append(1)
        return [b"data"]

    def add() -> None:
        gate.wait(30)
        cache.add(digest(b"data"), chunks, url="u")

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert asked == [1]


def test_the_least_recently_used_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit=250)
    contents = [bytes([n]) * 100 for n in range(3)]
    for n, data in enumerate(contents[:2]):
        path = cache.add(digest(data), lambda data=data: [data], url="u")  # type: ignore[misc]
        os.utime(path, (n + 1, n + 1))
    assert cache.find(digest(contents[0])) is not None  # used just now
    foreign = [cache.root / "notes.txt", cache.root / "sha256" / "mine", cache.root / "sha256" / "ab" / "mine"]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    cache.add(digest(contents[2]), lambda: [contents[2]], url="u")
    assert {shard.sha256 for shard in cache.shards()} == {digest(contents[0]), digest(contents[2])}
    cache.add(digest(b"l" * 999), lambda: [b"l" * 999], url="u")  # too large, yet somebody is about to read it
    assert [shard.sha256 for shard in cache.shards()] == [digest(b"l" * 999)]
    assert all(path.read_bytes() == b"x" * 1000 for path in foreign)


def test_a_reader_keeps_what_goes(faulty: S3DataStore, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "small", limit=1)
    faulty.write_shards(dataset(items(30)), prefix="v1", maxcount=3)
    ds = atdata.Dataset[Item](f"{faulty.base}v1", store=faulty, cache=cache)
    assert list(ds) == items(30)
    assert list(ds) == items(30)
    assert len(list(cache.shards())) == 1


@contextlib.contextmanager
def _nobody() -> Iterator[None]:
    """Root may write everywhere, so be somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_cache_of_others_can_be_read(cache: Cache, tmp_path: Path) -> None:
    cache.add(digest(b"data"), lambda: [b"data"], url="u")
    folders = [cache.root, *(path for path in cache.root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    outside = [path for path in cache.root.parents if not os.stat(path).st_mode & 0o001]
    modes = {path: os.stat(path).st_mode for path in outside}
    for path in outside:
        path.chmod(modes[path] | 0o011)
    try:
        with _nobody():
            assert cache.find(digest(b"data")) == cache.path(digest(b"data"))
            assert cache.path(digest(b"data")).read_bytes() == b"data"
            with pytest.raises(StoreError, match="the cache cannot be written"):
                cache.add(digest(b"more"), lambda: [b"more"], url="u")
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
        for folder in folders:
            folder.chmod(0o755)
