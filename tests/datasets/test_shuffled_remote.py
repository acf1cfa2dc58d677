"""Shuffled epochs from a real S3 server: the same order, few requests, bounded memory, every byte checked."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.datasets import epoch
from atdata.datasets.ahead import BUDGET
from atdata.errors import AtdataError, IntegrityError
from atdata.stores.base import WrittenShards
from atdata.stores.s3 import S3DataStore
from atdata.testing import FaultProxy
from servers.rgw import S3Server

COUNT, SIZE = 60, 150_000  # more than is read for nothing between two samples


@atdata.packable
class Block:
    data: NDArray[np.uint8]
    number: int


def blocks(count: int = COUNT, size: int = SIZE) -> list[Block]:
    return [Block(np.random.default_rng(n).integers(0, 256, size, np.uint8), n) for n in range(count)]


@pytest.fixture
def written(rgw: S3Server, bucket: str) -> WrittenShards:
    """60 samples of 150 kB in 5 shards."""
    store = S3DataStore(rgw.credentials, bucket=bucket)
    return store.write_shards(atdata.Dataset.from_samples(blocks(), Block), prefix="v1", maxcount=12)


@pytest.fixture
def faulty(rgw: S3Server, bucket: str, fault_proxy: FaultProxy, written: WrittenShards) -> S3DataStore:
    return S3DataStore(rgw.through(fault_proxy).credentials, bucket=bucket)


def shard_requests(proxy: FaultProxy) -> list[int]:
    """Bytes of the body of each request for a shard."""
    return [request.sent for request in proxy.requests() if request.path.endswith(".tar")]


def test_the_order_is_that_of_a_local_copy(faulty: S3DataStore, tmp_path: Path) -> None:
    local = atdata.LocalDiskStore(tmp_path)
    copy = atdata.Dataset[Block](
        local.write_shards(atdata.Dataset.from_samples(blocks(), Block), prefix="v1", maxcount=12)
    )
    ds = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty)
    assert ds.cid == copy.cid
    for options in ({}, {"block": 1}, {"block": 4, "window": 3}, {"block": 4, "window": 3, "lanes": 2}):
        here = list(copy.shuffled(7, seed=3, **options))
        for mine, theirs in zip(here, ds.shuffled(7, seed=3, **options), strict=True):
            assert mine.number == theirs.number
            assert (mine.data == theirs.data).all()
            assert theirs.data.flags.writeable
        if "lanes" not in options:
            assert [s.number for s in ds.shuffled(seed=3, **options)] == [n for b in here for n in b.number]
    one = ds.shuffled(7)
    next(iter(one))
    other = copy.shuffled(7)
    other.load_state_dict(one.state_dict())
    assert [b.number for b in other] == [b.number for b in copy.shuffled(7)][1:]


def test_blocks_are_fetched_in_one_piece_and_each_byte_once(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    ds = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty)
    loader = ds.shuffled(5, block=6, window=2)
    planned = loader.plan().traffic
    assert planned is not None
    assert planned.requests == 10
    fault_proxy.forget()
    assert sorted(sample.number for batch in loader for sample in batch) == list(range(COUNT))
    sent = shard_requests(fault_proxy)
    # A block may be cut by the end of a window, and is by that of the first batch, which tells what is wanted.
    assert len(sent) <= planned.requests + 2
    assert COUNT * SIZE < sum(sent) < COUNT * SIZE * 1.02


def test_a_window_is_fetched_whole_where_half_of_the_budget_holds_it(
    faulty: S3DataStore, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch, "_AT_ONCE", 10 * SIZE)  # less than a window
    ds = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty)
    len(ds)
    loader = ds.shuffled(block=6, window=5, budget=80 * SIZE)
    fault_proxy.forget()
    assert sorted(s.number for s in loader) == list(range(COUNT))
    assert len(shard_requests(fault_proxy)) <= 10, "one of each block, or of two that are neighbours"
    fault_proxy.forget()
    assert sorted(s.number for s in ds.shuffled(block=6, window=5, budget=30 * SIZE)) == list(range(COUNT))
    assert len(shard_requests(fault_proxy)) > 20, "a window is read in parts, which cut its blocks"


def test_the_usual_window_is_fetched_whole(tmp_path: Path) -> None:
    """Whatever size samples have, up to that of a block: half of the usual budget holds it."""
    store = atdata.LocalDiskStore(tmp_path)
    for size in (90_000, 151_552, 700_000, 2_000_000):
        urls = store.write_shards(atdata.Dataset.from_samples(blocks(3, size), Block), prefix=f"of/{size}")
        block, window = atdata.Dataset[Block](urls).shuffled()._shape
        assert block > 1 or size > 700_000
        assert block * window * size <= BUDGET // 2


def test_lanes_keep_readers_apart(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    ds = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty)
    seen, requests = [], []
    for rank in range(2):
        fault_proxy.forget()
        loader = ds.shuffled(3, block=6, window=2, lanes=2, rank=rank, world_size=2)
        seen += [s.number for batch in loader for s in batch]
        requests.append(len(shard_requests(fault_proxy)))
    assert sorted(seen) == list(range(COUNT))
    assert sum(requests) <= 20


def test_a_share_fetches_its_own_samples_only(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    ds = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty)
    fault_proxy.forget()
    for loader in (ds.ordered(2, rank=1, world_size=3), ds.shuffled(2, block=1, rank=1, world_size=3)):
        fault_proxy.forget()
        assert len([s for batch in loader for s in batch]) == COUNT // 3
        assert sum(shard_requests(fault_proxy)) < COUNT // 3 * SIZE * 1.6


def test_lists_of_numbers_are_fetched_together(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    ds = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty)
    ds[0], ds[12]
    fault_proxy.forget()
    assert [s.number for s in ds[[3, 1, 2, 20, 21, 2]]] == [3, 1, 2, 20, 21, 2]
    assert len(shard_requests(fault_proxy)) == 2
    fault_proxy.forget()
    (batch,) = ds.take([21, 3, 20]).ordered(batch_size=8)
    assert batch.number == [21, 3, 20]
    assert batch.data.shape == (3, SIZE)
    assert len(shard_requests(fault_proxy)) == 2


@pytest.mark.parametrize("budget", [200_000, 1_000_000, 6_000_000])
def test_what_is_held_stays_within_the_budget(faulty: S3DataStore, fault_proxy: FaultProxy, budget: int) -> None:
    """All that the server was asked for and the reader has not yet passed over, at any time."""
    ds = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty)
    for loader in (ds.ordered(budget=budget), ds.ordered(1, budget=budget)):
        len(ds)
        fault_proxy.forget()
        most = 0
        for done, found in enumerate(loader):
            assert found.data.nbytes == SIZE
            most = max(most, sum(shard_requests(fault_proxy)) - done * SIZE)
        assert most <= max(budget, 2 * SIZE) + 200_000
    loader = ds.shuffled(1, block=6, window=5, budget=budget)
    fault_proxy.forget()
    expected = [b.number for b in ds.shuffled(1, block=6, window=5)]
    fault_proxy.forget()
    found, most = [], 0
    for done, batch in enumerate(loader):
        found.append(batch.number)
        assert batch.data.shape == (1, SIZE)
        most = max(most, sum(shard_requests(fault_proxy)) - done * SIZE)
    assert found == expected
    # A window has 4.5 MB: where it does not fit into half of the budget, it is fetched in parts.
    assert most <= max(budget, 2 * SIZE) + 200_000
    assert sum(shard_requests(fault_proxy)) < COUNT * SIZE * 1.6


def test_damage_is_told_and_nothing_damaged_is_given_out(
    rgw: S3Server, bucket: str, faulty: S3DataStore, written: WrittenShards
) -> None:
    store = S3DataStore(rgw.credentials, bucket=bucket)
    key = store.key(written[2])
    data = bytearray(store.get(key) or b"")
    data[4 * (SIZE + 1024) + 40_000] ^= 4  # in the fifth sample of the third shard
    store.put(key, bytes(data))
    ds = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty)
    samples = blocks()
    for options in ({"block": 1}, {"block": 4, "window": 3}):
        found: list[Block] = []
        with pytest.raises(IntegrityError, match="not those that were written") as caught:
            found.extend(ds.shuffled(seed=1, **options))  # keeps what came before the error
        assert all((sample.data == samples[sample.number].data).all() for sample in found)
        assert caught.value.url == written[2]
        assert caught.value.key is not None
        assert int(caught.value.key) not in [sample.number for sample in found]
    never = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty, verify="never")
    assert len(list(never.shuffled(seed=1))) == COUNT


def test_closing_ends_the_threads(faulty: S3DataStore) -> None:
    ds = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty)
    before = set(threading.enumerate())  # those of other tests may be ending still

    def started() -> list[str]:
        return [t.name for t in set(threading.enumerate()) - before if t.name.startswith("atdata-ahead")]

    with ds.shuffled(2, block=1) as loader:
        batches = iter(loader)
        next(batches)
        assert started()
    assert not started()
    assert list(batches) == []
    assert len(list(loader)) == COUNT // 2  # and it can be used again


def test_an_epoch_that_is_gone_on_with_fetches_only_what_is_left(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    ds = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty)
    loader = ds.shuffled(2, block=1, seed=9, budget=800_000)
    whole = [[s.number for s in b] for b in loader]
    batches = iter(loader)
    found = [[s.number for s in batch] for batch in itertools.islice(batches, 5)]
    state = loader.state_dict()
    batches.close()  # type: ignore[attr-defined]
    fault_proxy.forget()
    again = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty).shuffled(2, block=1, seed=9)
    again.load_state_dict(state)
    found += [[s.number for s in b] for b in again]
    assert found == whole
    assert sum(shard_requests(fault_proxy)) < (COUNT - 10) * SIZE * 1.6  # nothing of what was done


def test_a_dataset_without_manifests_is_shuffled_through_a_buffer(rgw: S3Server, bucket: str) -> None:
    store = S3DataStore(rgw.credentials, bucket=bucket)
    ds = atdata.Dataset.from_samples(blocks(20, 100), Block)
    urls = store.write_shards(ds, prefix="bare", maxcount=5, manifest=False)
    found = atdata.Dataset[Block](urls, store=store)
    assert not found.seekable
    assert "read through by every reader" in str(found.plan())
    numbers = [s.number for s in found.shuffled(seed=2)]
    assert sorted(numbers) == list(range(20))
    assert numbers != list(range(20))
    shares = [[b.number for b in found.shuffled(3, seed=2, rank=r, world_size=2)] for r in range(2)]
    dealt = itertools.chain.from_iterable(itertools.zip_longest(*shares, fillvalue=[]))
    assert [n for batch in dealt for n in batch] == numbers


def test_a_shard_that_is_replaced_under_an_epoch(
    faulty: S3DataStore, rgw: S3Server, bucket: str, written: WrittenShards
) -> None:
    store = S3DataStore(rgw.credentials, bucket=bucket)
    ds = atdata.Dataset[Block](f"{faulty.base}v1", store=faulty)
    batches = iter(ds.shuffled(block=1, budget=300_000))
    next(batches)
    for url in written:
        store.put(store.key(url), (store.get(store.key(url)) or b"")[::-1])
    with pytest.raises(AtdataError):
        list(batches)
