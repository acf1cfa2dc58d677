"""Stores that take objects of a limited size only: shards, manifests and records are made to fit."""

import dataclasses
import random
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import atdata
from atdata.errors import StoreError
from atdata.shards import tar
from atdata.shards.manifest_file import to_parquet
from atdata.shards.writer import Room, ShardWriter, encoder
from atdata.stores.cloud import MemoryDataStore
from atdata.testing.probes import Probe, dataset_of, probes

_WIDE = atdata.packable(dataclasses.make_dataclass("Wide", [(f"n{i}", int) for i in range(120)]))


class Limited(MemoryDataStore):
    """A store whose server takes no larger objects."""

    largest = 65_536


@pytest.fixture
def store(request):
    return Limited(f"limited-{request.node.name}")


def sizes(store):
    return {url.rpartition("/")[2]: store.open(url).size for url in store.list()}


def test_shards_are_as_large_as_the_store_takes_and_no_larger(store):
    urls = store.write_shards(dataset_of(probes(300, size=700)), prefix="fitted", manifest=False)
    each = 512 + 1024
    full = (65_536 // 10_240 * 10_240 - 1024) // each  # an archive ends at a multiple of 20 blocks
    assert [shard.samples for shard in urls.shards[:-1]] == [full] * (len(urls) - 1)
    assert max(shard.size for shard in urls.shards) <= 65_536
    assert list(atdata.Dataset[Probe](urls, store=store)) == probes(300, size=700)


def test_one_byte_decides():
    # A payload that fills its blocks, so that the shard has exactly the size that is allowed.
    sample = next(
        sample for size in range(900, 1500) if len(atdata.pack(sample := probes(1, first=1, size=size)[0])) % 512 == 0
    )
    size = tar.archive_size(512 + len(atdata.pack(sample)))

    class Exact(MemoryDataStore):
        largest = size

    class Short(MemoryDataStore):
        largest = size - 1

    urls = Exact("exact").write_shards(dataset_of([sample]), prefix="p", manifest=False)
    assert urls.shards[0].size == size
    with pytest.raises(StoreError, match=f"a shard of {size} bytes, and this store takes at most {size - 1}"):
        Short("short").write_shards(dataset_of([sample]), prefix="p", manifest=False)


def test_a_larger_maxsize_is_refused_before_a_sample_is_taken(store):
    def generate():
        raise AssertionError("nobody asks for a sample")
        yield

    with pytest.raises(StoreError, match=r"maxsize=70000 is more than the 65536 bytes .* give at most that"):
        store.write_shards(atdata.Dataset.from_samples(generate(), Probe), prefix="p", maxsize=70_000)
    assert list(store.list()) == []


def test_a_sample_that_cannot_fit_is_named_and_nothing_is_left(store):
    samples = [*probes(5), *probes(1, first=5, size=70_000), *probes(3, first=6)]
    with pytest.raises(StoreError, match=r"takes at most 65536 in one object: store it elsewhere, or cut") as caught:
        store.write_shards(dataset_of(samples), prefix="p")
    assert caught.value.key == "000000005"
    assert list(store.list()) == []


def test_a_smaller_maxsize_is_still_only_a_wish(store):
    urls = store.write_shards(dataset_of(probes(2, size=20_000)), prefix="p", maxsize=12_000)
    assert [shard.samples for shard in urls.shards] == [1, 1]


def test_manifests_fit_too(store):
    dice = random.Random(1)
    # 120 numbers take less in a sample than what a manifest may need for them.
    samples = [_WIDE(*[dice.getrandbits(7) for _ in range(120)]) for _ in range(400)]
    urls = store.write_shards(atdata.Dataset.from_samples(samples, _WIDE), prefix="wide")
    assert max(sizes(store).values()) <= 65_536 or sizes(store)["atdata.json"] > 65_536
    assert max(size for name, size in sizes(store).items() if name != "atdata.json") <= 65_536
    assert list(atdata.Dataset(urls, sample_type=_WIDE, store=store)) == samples


def test_a_manifest_that_cannot_fit_says_how_to_do_without():
    class Tiny(MemoryDataStore):
        largest = 10_240

    tiny = Tiny("tiny")
    ds = atdata.Dataset.from_samples([_WIDE(*range(120))], _WIDE)
    with pytest.raises(StoreError, match=r"manifest.* takes at most 10240 .*smaller maxcount, or manifest=False"):
        tiny.write_shards(ds, prefix="p")
    assert list(tiny.list()) == []
    assert len(tiny.write_shards(ds, prefix="p", manifest=False)) == 1


@atdata.packable
class Texts:
    name: str
    number: float
    long: str | None = None
    whole: int = 0
    array: np.ndarray | None = None


_TEXTS = st.text(string.printable + "äß漢🦋", max_size=300)
_ARRAYS = st.sampled_from([None, np.zeros((2, 3), np.int16), np.zeros(4), np.zeros((1,) * 8, np.uint8)])


@given(
    st.lists(
        st.builds(
            Texts, _TEXTS, st.floats(allow_nan=False), st.none() | _TEXTS, st.integers(-(2**63), 2**63 - 1), _ARRAYS
        ),
        min_size=1,
        max_size=60,
    ),
    st.integers(20_000, 60_000),
)
def test_no_manifest_is_larger_than_was_foreseen(samples, room):
    archive = []
    writer = ShardWriter(archive.extend, encoder(Texts))
    numbered = enumerate((f"{n:0150d}", sample) for n, sample in enumerate(samples))
    writer.fill(numbered, maxcount=1000, maxsize=1 << 30, room=Room(1 << 30, room))
    writer.finish()
    assert len(to_parquet(writer.manifest("0" * 64))) <= room
