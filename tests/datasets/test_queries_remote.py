"""Queries of datasets on a real S3 server: which requests they make, and that those may go wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.datasets.query import Fields
from atdata.errors import IntegrityError
from atdata.stores.s3 import S3DataStore
from atdata.testing import FaultProxy
from servers.rgw import S3Server

LABELS = ["owl", "bat", "cat", "dog"]


@atdata.packable
class Photo:
    pixels: NDArray[np.uint8]
    hour: int
    label: str
    story: str


P = Fields(Photo)
# Shard by shard one hour later, 10 photos of 20 kB in each of 8 shards.
PHOTOS = [Photo(np.full(20_000, i, np.uint8), i // 10, LABELS[i % 4], f"story {i} " * 40) for i in range(80)]


@pytest.fixture
def faulty(rgw: S3Server, bucket: str, fault_proxy: FaultProxy) -> S3DataStore:
    """The store behind a faulty network, with the photos in it."""
    store = S3DataStore(rgw.credentials, bucket=bucket)
    store.write_shards(atdata.Dataset.from_samples(PHOTOS, Photo), prefix="photos", maxcount=10)
    return S3DataStore(rgw.through(fault_proxy).credentials, bucket=bucket)


def photos(faulty: S3DataStore, cache: Path | None = None) -> atdata.Dataset[Photo]:
    return atdata.Dataset[Photo](f"{faulty.base}photos", store=faulty, cache=cache)


def asked(proxy: FaultProxy) -> Counter[str]:
    """How often each file was asked for."""
    return Counter(request.path.rpartition("/")[2] for request in proxy.requests())


def test_only_manifests_that_may_match_are_fetched_each_once(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    night = photos(faulty).where((P.hour >= 5) & (P.label == "owl"))
    expected = [p for p in PHOTOS if p.hour >= 5 and p.label == "owl"]
    fault_proxy.forget()
    assert len(night) == len(expected) == 7
    assert asked(fault_proxy) == {f"shard-00000{n}.manifest.parquet": 1 for n in (5, 6, 7)}
    assert list(night) == expected
    assert sorted(p.hour for p in night.shuffled(seed=1)) == [p.hour for p in expected]
    assert [list(b.label) for b in night.ordered(batch_size=7)] == [["owl"] * 7]
    files = asked(fault_proxy)
    assert {name for name in files if "manifest" in name} == {f"shard-00000{n}.manifest.parquet" for n in (5, 6, 7)}
    assert all(count == 1 for name, count in files.items() if "manifest" in name)
    assert {name for name in files if name.endswith(".tar")} == {f"shard-00000{n}.tar" for n in (5, 6, 7)}


def test_only_the_samples_that_match_are_fetched(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    found = photos(faulty).where((P.hour == 5) & (P.label == "bat"))
    assert len(found) == 2
    fault_proxy.forget()
    assert list(found) == [PHOTOS[53], PHOTOS[57]]
    sent = sum(request.sent for request in fault_proxy.requests())
    assert sent < 130_000  # not the shard's 220 kB; a short gap is read along


def test_several_manifests_are_fetched_at_once(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    ds = photos(faulty).where(P.label == "owl")
    fault_proxy.forget()
    fault_proxy.set(latency=1.0)
    assert len(ds) == 20
    fault_proxy.clear()
    begun = sorted(request.at for request in fault_proxy.requests())
    assert len(begun) == 8
    assert begun[3] - begun[0] < 1.0  # when the fourth was asked for, no answer had come


def test_nothing_is_fetched_where_nothing_can_match(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    nothing = photos(faulty).where(P.hour > 7)
    fault_proxy.forget()
    assert len(nothing) == 0
    assert list(nothing) == list(nothing.shuffled(batch_size=3, seed=0)) == []
    assert asked(fault_proxy) == {}


def test_fields_without_a_column_are_read(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    ds = photos(faulty)
    fault_proxy.forget()
    found = ds.where((P.hour == 2) & P.story.contains("story 27 "))
    assert list(found) == [PHOTOS[27]]
    assert {name[:12] for name in asked(fault_proxy)} == {"shard-000002"}


def test_a_cache_keeps_shards_and_not_questions(faulty: S3DataStore, fault_proxy: FaultProxy, tmp_path: Path) -> None:
    ds = photos(faulty, tmp_path / "cache")
    fault_proxy.forget()
    found = ds.where((P.hour >= 6) & (P.label == "owl"))
    assert len(found) == 5
    assert not any(name.endswith(".tar") for name in asked(fault_proxy))
    assert list(found) == [p for p in PHOTOS if p.hour >= 6 and p.label == "owl"]
    assert {name for name in asked(fault_proxy) if name.endswith(".tar")} == {"shard-000006.tar", "shard-000007.tar"}


def test_splits_read_keys_only(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    train, test = photos(faulty).split(0.8, seed=3)
    fault_proxy.forget()
    assert len(train) + len(test) == 80
    assert sorted(p.pixels[0] for part in (train, test) for p in part.select_fields("pixels")) == list(range(80))
    assert all(count == 1 for name, count in asked(fault_proxy).items() if "manifest" in name)


# -- bad days --------------------------------------------------------------------------------------------------------


def test_manifests_that_come_damaged_are_fetched_again(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    for answer in range(3):
        ds = photos(faulty)
        fault_proxy.flip_bit(answer=answer)
        assert len(ds.where(P.label == "owl")) == 20


def test_a_server_that_fails_now_and_then(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    ds = photos(faulty)
    fault_proxy.set(fail_every=3)
    found = ds.where((P.label == "owl") | P.story.contains("story 33 "))
    assert [p.pixels[0] for p in found] == sorted([*range(0, 80, 4), 33])
    fault_proxy.clear()


def test_a_damaged_manifest_is_named(faulty: S3DataStore, rgw: S3Server, bucket: str) -> None:
    key = "photos/shard-000003.manifest.parquet"
    data = bytearray(rgw.request("GET", f"/{bucket}/{key}").body)
    data[len(data) // 2] ^= 1
    assert rgw.request("PUT", f"/{bucket}/{key}", body=bytes(data)).status == 200
    with pytest.raises(IntegrityError, match="the manifest is not the one that was written") as caught:
        len(photos(faulty).where(P.label == "owl"))
    assert str(caught.value.url).endswith(key)
    assert len(photos(faulty).where((P.label == "owl") & (P.hour == 5))) == 2  # it is not asked for this
