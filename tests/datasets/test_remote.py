"""Datasets on a real S3 server: read in every way, by few requests, and never with bytes that were not written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import Digit, digits
from numpy.typing import NDArray

import atdata
from atdata.errors import (
    AtdataError,
    CommitRecordError,
    IntegrityError,
    ManifestError,
    SampleIndexError,
    SampleKeyError,
)
from atdata.stores.base import WrittenShards
from atdata.stores.s3 import S3DataStore
from atdata.testing import FaultProxy
from servers.rgw import S3Server


@atdata.packable
class Block:
    data: NDArray[np.uint8]
    number: int


def blocks(count: int, size: int, seed: int = 0) -> list[Block]:
    return [Block(np.random.default_rng(seed + n).integers(0, 256, size, np.uint8), n) for n in range(count)]


@pytest.fixture
def store(rgw: S3Server, bucket: str) -> S3DataStore:  # instead of the one on the disk
    return S3DataStore(rgw.credentials, bucket=bucket)


@pytest.fixture
def faulty(rgw: S3Server, bucket: str, fault_proxy: FaultProxy) -> S3DataStore:
    return S3DataStore(rgw.through(fault_proxy).credentials, bucket=bucket)


Written = tuple[WrittenShards, list[Block]]


@pytest.fixture
def large(store: S3DataStore) -> Written:
    """Two shards of four samples of 100 kB."""
    samples = blocks(8, 100_000)
    return store.write_shards(atdata.Dataset.from_samples(samples, Block), prefix="large", maxcount=4), samples


def _sources(urls: WrittenShards, store: S3DataStore) -> dict[str, tuple[Any, S3DataStore | None]]:
    folder = urls[0].rpartition("/")[0]
    return {
        "written": (urls, store),
        "list": (list(urls), store),
        "prefix": (folder, store),
        "prefix/": (folder + "/", store),
        "glob": (folder + "/*.tar", store),
        "braces": (folder + "/shard-{000000..000002}.tar", store),
        "presigned": ([store.read_url(url) for url in urls], None),
    }


@pytest.mark.parametrize("manifest", [True, False])
def test_read_in_every_way(store: S3DataStore, tmp_path: Path, manifest: bool) -> None:
    ds = atdata.Dataset.from_samples(digits(25), Digit)
    urls = store.write_shards(ds, prefix="digits/v1", maxcount=10, manifest=manifest)
    disk = atdata.LocalDiskStore(tmp_path / "d")
    local = atdata.Dataset[Digit](disk.write_shards(ds, prefix="digits/v1", maxcount=10, manifest=manifest))
    expected = list(local)
    assert [shard.sha256 for shard in urls.shards] == [ref.sha256 for ref in _record(local).shards]
    for name, (source, given) in _sources(urls, store).items():
        found = atdata.Dataset[Digit](source, store=given)
        assert list(found.keyed()) == list(local.keyed()), name
        assert list(found.ordered()) == expected, name
        assert [len(batch) for batch in found.ordered(batch_size=8)] == [8, 8, 8, 1], name
        assert [n for batch in found.ordered(batch_size=8) for n in batch.label] == list(range(25)), name
        assert len(found) == 25
        assert found[17] == expected[17]
        assert found[-1] == expected[-1]
        assert found[8:22:3] == expected[8:22:3]
        assert found.get("000000013") == expected[13]
        assert found.select_fields("label").head(3)[2].label == 2
        with pytest.raises(SampleKeyError):
            found.get("none")
        with pytest.raises(SampleIndexError):
            found[25]


def _record(dataset: atdata.Dataset[Any]) -> Any:
    assert dataset._located is not None
    return dataset._located.record


def test_webdataset_reads_the_url(store: S3DataStore) -> None:
    import webdataset

    urls = store.write_shards(atdata.Dataset.from_samples(digits(5), Digit), prefix="v1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = list(webdataset.WebDataset(store.read_url(urls[0]), shardshuffle=False))
    assert [atdata.unpack(sample["msgpack"], Digit) for sample in found] == digits(5)


def test_without_a_type_it_is_built_from_the_record(store: S3DataStore) -> None:
    urls = store.write_shards(atdata.Dataset.from_samples(digits(3), Digit), prefix="v1")
    assert [sample.label for sample in atdata.Dataset(urls[0].rpartition("/")[0], store=store)] == [0, 1, 2]


# -- few requests --------------------------------------------------------------------------------------------


def test_the_first_sample_needs_three_requests(large: Written, faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    _, samples = large
    ds = atdata.Dataset[Block](f"{faulty.base}large", store=faulty)
    assert ds[0] == samples[0]
    asked = fault_proxy.requests()
    assert [request.path.rpartition("/")[2] for request in asked] == [
        "atdata.json", "shard-000000.manifest.parquet", "shard-000000.tar",
    ]  # fmt: skip
    assert 100_000 < asked[-1].sent < 101_000


def test_one_shard_streamed_needs_three_requests(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    faulty.write_shards(atdata.Dataset.from_samples(digits(50), Digit), prefix="v1")
    fault_proxy.forget()
    assert list(atdata.Dataset[Digit](f"{faulty.base}v1", store=faulty)) == digits(50)
    assert len(fault_proxy.requests()) == 3


def test_random_access_fetches_its_range(large: Written, faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    _, samples = large
    ds = atdata.Dataset[Block](f"{faulty.base}large", store=faulty)
    ds[0], ds[4]
    fault_proxy.forget()
    for index in (3, 5, 1):
        assert ds[index] == samples[index]
    assert [request.method for request in fault_proxy.requests()] == ["GET"] * 3
    assert all(100_000 < request.sent < 101_000 and request.range for request in fault_proxy.requests())


def test_what_comes_next_is_fetched_across_shards(
    store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy
) -> None:
    store.write_shards(atdata.Dataset.from_samples(blocks(6, 50_000), Block), prefix="v1", maxcount=1)
    found = iter(atdata.Dataset[Block](f"{faulty.base}v1", store=faulty))
    next(found)
    asked = {request.path.rpartition("/")[2] for request in fault_proxy.requests()}
    assert "shard-000001.tar" in asked
    assert [sample.number for sample in found] == [1, 2, 3, 4, 5]


# -- trust ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", range(3))  # the record, the manifest, the samples
@pytest.mark.parametrize("manifest", [True, False])
def test_a_bit_flipped_on_the_way_is_not_seen(
    store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy, answer: int, manifest: bool
) -> None:
    samples = blocks(3, 20_000)
    store.write_shards(atdata.Dataset.from_samples(samples, Block), prefix="v1", manifest=manifest)
    for at in (0.1, 0.5, 0.9):
        fault_proxy.clear()
        fault_proxy.forget()
        fault_proxy.flip_bit(answer=answer, at=at)
        assert list(atdata.Dataset[Block](f"{faulty.base}v1", store=faulty)) == samples
        flipped = manifest or answer < 2
        assert len(fault_proxy.requests()) == (3 if manifest else 2) + flipped
    fault_proxy.clear()


def _damage(rgw: S3Server, bucket: str, key: str, at: int | None = None) -> None:
    data = bytearray(rgw.request("GET", f"/{bucket}/{key}").body)
    data[len(data) // 2 if at is None else at] ^= 0x10
    assert rgw.request("PUT", f"/{bucket}/{key}", body=bytes(data)).status == 200


def test_a_damaged_sample_is_named(large: Written, rgw: S3Server, store: S3DataStore, bucket: str) -> None:
    urls, samples = large
    ds = atdata.Dataset[Block](f"{store.base}large", store=store)
    _damage(rgw, bucket, "large/shard-000001.tar", 250_000)
    seen: list[Block] = []
    with pytest.raises(IntegrityError) as caught:
        seen.extend(ds)
    assert seen == samples[:4]
    assert caught.value.url == urls[1]
    assert caught.value.key == "000000006"
    assert caught.value.offset is not None
    assert 200_000 < caught.value.offset < 250_000
    assert caught.value.expected != caught.value.got
    with pytest.raises(IntegrityError, match="000000006"):
        atdata.Dataset[Block](f"{store.base}large", store=store)[6]


@pytest.mark.parametrize("manifest", [True, False])
def test_other_bytes_of_the_same_size(rgw: S3Server, store: S3DataStore, bucket: str, manifest: bool) -> None:
    for prefix, seed in (("a", 0), ("b", 100)):
        made = atdata.Dataset.from_samples(blocks(3, 20_000, seed), Block)
        store.write_shards(made, prefix=prefix, manifest=manifest)
    other = rgw.request("GET", f"/{bucket}/b/shard-000000.tar").body
    rgw.request("PUT", f"/{bucket}/a/shard-000000.tar", body=other)
    ds = atdata.Dataset[Block](f"{store.base}a", store=store)
    for use in (lambda: list(ds), lambda: ds[1], lambda: ds[0:2]):
        with pytest.raises(IntegrityError) as caught:
            use()
        assert caught.value.url == f"{store.base}a/shard-000000.tar"


def test_a_shard_of_another_size(rgw: S3Server, store: S3DataStore, bucket: str, large: Written) -> None:
    data = rgw.request("GET", f"/{bucket}/large/shard-000000.tar").body
    for other in (data[:-1024], data + bytes(1024), data[:1000]):
        rgw.request("PUT", f"/{bucket}/large/shard-000000.tar", body=other)
        for verify in ("first", "never"):
            with pytest.raises(AtdataError, match=r"replaced|bytes"):
                list(atdata.Dataset[Block](f"{store.base}large", store=store, verify=verify))


@pytest.mark.parametrize("verify", ["first", "never"])
def test_replaced_between_two_ranges(
    rgw: S3Server, store: S3DataStore, bucket: str, large: Written, verify: Any
) -> None:
    _, samples = large
    ds = atdata.Dataset[Block](f"{store.base}large", store=store, verify=verify)
    assert ds[0] == samples[0]
    other = blocks(8, 100_000, seed=50)
    store.write_shards(atdata.Dataset.from_samples(other, Block), prefix="large", maxcount=4, overwrite=True)
    for use in (lambda: ds[1], lambda: ds[0:4], lambda: list(ds)):
        with pytest.raises(IntegrityError):
            use()
    assert list(atdata.Dataset[Block](f"{store.base}large", store=store)) == other


def test_replaced_while_it_is_streamed(rgw: S3Server, store: S3DataStore, bucket: str) -> None:
    samples = blocks(6, 3 << 20)
    urls = store.write_shards(atdata.Dataset.from_samples(samples, Block), prefix="v1", manifest=False)
    rgw.request("DELETE", f"/{bucket}/v1/atdata.json")  # so that nothing is known of its digest
    file = store.open(urls[0])
    with file.stream() as stream:
        assert stream.read(10)
        rgw.request("PUT", f"/{bucket}/v1/shard-000000.tar", body=bytes(file.size))
        assert file.size > 16 << 20
        with pytest.raises(IntegrityError, match="replaced"):
            file.read(9 << 20, 10 << 20)


def test_a_damaged_record(rgw: S3Server, store: S3DataStore, bucket: str, large: Written) -> None:
    path = f"/{bucket}/large/atdata.json"
    data = rgw.request("GET", path).body
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    for other in (flipped, data[:-10], b"", b"{}", b"\xff\xfe"):
        rgw.request("PUT", path, body=other)
        with pytest.raises(CommitRecordError) as caught:
            atdata.Dataset(f"{store.base}large", store=store)
        assert caught.value.url == f"{store.base}large/atdata.json"


def test_a_damaged_manifest(rgw: S3Server, store: S3DataStore, bucket: str, large: Written) -> None:
    _damage(rgw, bucket, "large/shard-000000.manifest.parquet")
    with pytest.raises((IntegrityError, ManifestError)) as caught:
        list(atdata.Dataset(f"{store.base}large", store=store))
    assert caught.value.url == f"{store.base}large/shard-000000.manifest.parquet"


def test_a_missing_shard_is_named(rgw: S3Server, store: S3DataStore, bucket: str, large: Written) -> None:
    rgw.request("DELETE", f"/{bucket}/large/shard-000001.tar")
    ds = atdata.Dataset[Block](f"{store.base}large", store=store)
    with pytest.raises(FileNotFoundError, match=r"shard-000001\.tar"):
        list(ds)


def test_no_error_tells_a_signature(rgw: S3Server, store: S3DataStore, bucket: str, large: Written) -> None:
    urls, _ = large
    signed = store.read_url(urls[0])
    assert "Signature=" in signed
    damages: list[Callable[[], Any]] = [
        lambda: _damage(rgw, bucket, "large/shard-000000.tar", 0),
        lambda: rgw.request("PUT", f"/{bucket}/large/shard-000000.tar", body=b"x" * 5000),
        lambda: rgw.request("DELETE", f"/{bucket}/large/shard-000000.tar"),
    ]
    for damage in damages:
        damage()
        with pytest.raises(AtdataError) as caught:
            list(atdata.Dataset[Block]([signed]))
        chain: BaseException | None = caught.value
        while chain is not None:
            for text in (str(chain), repr(chain), repr(vars(chain))):
                assert "Signature" not in text
                assert rgw.access_key not in text
            chain = chain.__cause__
