"""What every data store has to pass, ours and a stranger's.

```python
from atdata.testing import DataStoreSuite

class TestMyStore(DataStoreSuite):
    @pytest.fixture
    def store(self, tmp_path):
        return MyStore(tmp_path)
```

The suite knows the three methods of `AbstractDataStore` and nothing else. `FullStoreSuite` adds what atdata's own
stores promise beyond them.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import pickle
import warnings
from collections.abc import Iterator
from typing import IO, Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import (
    DatasetExistsError,
    DatasetNotFoundError,
    EmptyDatasetError,
    SampleTypeError,
    StoreBusyError,
    StoreError,
    UnsafeNameError,
)
from atdata.stores.base import AbstractDataStore, DataStore, WrittenShards
from atdata.stores.record import RECORD_NAME, CommitRecord

__all__ = ["DataStoreSuite", "FullStoreSuite", "Probe", "probes"]


@atdata.packable
class Probe:
    """The sample that the suites write."""

    pixels: NDArray[np.uint8]
    label: int
    note: str | None = None


def probes(count: int, *, first: int = 0, size: int = 64) -> list[Probe]:
    """`count` samples, every one different, each with an array of `size` bytes."""
    return [
        Probe(np.full(size, n % 251, np.uint8), n, None if n % 3 else f"nöte {n}")
        for n in range(first, first + count)
    ]  # fmt: skip


def _dataset(samples: Any) -> atdata.Dataset[Probe]:
    return atdata.Dataset.from_samples(samples, Probe)


def _keyed(samples: list[Probe], prefix: str = "key") -> atdata.Dataset[Probe]:
    return atdata.Dataset.from_samples(samples, Probe, key=lambda sample: f"{prefix}-{sample.label:04d}")


class _Broken(Exception):
    """What a user's generator raises."""


def _breaking(count: int) -> Iterator[Probe]:
    yield from probes(count)
    raise _Broken("half-way")


HOSTILE = [
    "", "/", "..", "../escape", "a/../../escape", "a/..", "./a", "a/./b", "/absolute", "a//b", "a\\..\\b",
    "nul\0byte", "line\nbreak", "a/" + "x" * 300, "x/" * 2000 + "x",
]  # fmt: skip


class DataStoreSuite:
    """Tests that any object with the three methods of `AbstractDataStore` has to pass.

    A subclass, whose name begins with `Test`, gives the fixture `store`: a new, empty store for each test. What a store
    cannot do it says by a class attribute; the tests of that are then left out.

    Attributes:
        limits: `write_shards` takes `maxcount` and `maxsize`.
        overwrites: `write_shards` refuses a prefix that is in use with FileExistsError, and takes `overwrite=True`.
        deterministic: the same samples give the same bytes.
        cleans_up: a write that fails leaves nothing: the prefix can be written at once.
    """

    limits: ClassVar[bool] = True
    overwrites: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True
    cleans_up: ClassVar[bool] = True

    _needs: ClassVar[dict[str, str]] = {
        "test_maxcount_bounds_the_samples_of_a_shard": "limits",
        "test_maxsize_bounds_the_bytes_of_a_shard": "limits",
        "test_a_second_write_is_refused": "overwrites",
        "test_overwrite_replaces_the_dataset": "overwrites",
        "test_the_same_samples_give_the_same_bytes": "deterministic",
        "test_a_failed_write_leaves_nothing": "cleans_up",
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for test, capability in DataStoreSuite._needs.items():
            if not getattr(cls, capability):
                setattr(cls, test, None)  # not a test any more, rather than one that is skipped

    @pytest.fixture
    def store(self) -> Any:
        """A new, empty store."""
        raise NotImplementedError("a subclass of DataStoreSuite gives the fixture `store`")

    # -- what the tests look with ----------------------------------------------------------------------------

    def read_plainly(self, store: Any, url: str) -> list[tuple[str, bytes]]:
        """Key and payload of each sample of one shard, as the real webdataset package reads it."""
        import webdataset

        place = store.read_url(url)
        assert isinstance(place, str)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files to the garbage collector
            samples = list(webdataset.WebDataset(place, shardshuffle=False, empty_check=False))
            gc.collect()
        return [(sample["__key__"], sample["msgpack"]) for sample in samples]

    def read_typed(self, store: Any, urls: list[str]) -> list[tuple[str | None, Probe]]:
        """Key and sample, as atdata reads them through the store."""
        dataset: atdata.Dataset[Probe] = atdata.Dataset[Probe](list(urls), store=store)
        return list(dataset.keyed())

    def check_content(self, store: Any, urls: list[str], samples: list[Probe]) -> None:
        """Fail unless exactly `samples` are in the shards, in order."""
        assert [sample for _, sample in self.read_typed(store, urls)] == samples
        plain = [payload for url in urls for _, payload in self.read_plainly(store, url)]
        assert plain == [atdata.pack(sample) for sample in samples]

    # -- the contract ----------------------------------------------------------------------------------------

    def test_it_has_the_three_methods(self, store: AbstractDataStore) -> None:
        """`isinstance` with the protocol sees a data store."""
        assert isinstance(store, AbstractDataStore)
        assert isinstance(store.supports_streaming(), bool)

    def test_what_is_written_is_read_back(self, store: AbstractDataStore) -> None:
        """The URLs are strings, in the order of the samples, and both readers find every sample."""
        samples = probes(25)
        urls = store.write_shards(_dataset(samples), prefix="round/trip")
        assert isinstance(urls, list)
        assert urls
        assert all(isinstance(url, str) for url in urls)
        assert len(set(urls)) == len(urls)
        self.check_content(store, urls, samples)

    def test_one_sample_is_a_dataset(self, store: AbstractDataStore) -> None:
        """The smallest dataset."""
        urls = store.write_shards(_dataset(probes(1)), prefix="one")
        assert len(urls) == 1
        self.check_content(store, urls, probes(1))

    def test_keys_are_kept(self, store: AbstractDataStore) -> None:
        """Samples that have keys keep them, and both readers agree on the keys of all."""
        samples = probes(12)
        urls = store.write_shards(_keyed(samples), prefix="keys")
        keys = [f"key-{n:04d}" for n in range(12)]
        assert [key for key, _ in self.read_typed(store, urls)] == keys
        assert [key for url in urls for key, _ in self.read_plainly(store, url)] == keys
        numbered = store.write_shards(_dataset(samples), prefix="numbered")
        made = [key for key, _ in self.read_typed(store, numbered)]
        assert len(set(made)) == len(samples)
        assert [key for url in numbered for key, _ in self.read_plainly(store, url)] == made

    def test_keys_survive_a_copy(self, store: AbstractDataStore) -> None:
        """A dataset read from a store and written again has its keys still."""
        first = store.write_shards(_keyed(probes(7)), prefix="first")
        again = store.write_shards(atdata.Dataset[Probe](list(first), store=store), prefix="again")
        assert self.read_typed(store, again) == self.read_typed(store, first)

    def test_steps_are_applied_before_writing(self, store: AbstractDataStore) -> None:
        """What `filter` leaves is what is written."""
        urls = store.write_shards(_dataset(probes(30)).filter(lambda sample: sample.label % 3 == 0), prefix="steps")
        self.check_content(store, urls, [sample for sample in probes(30) if sample.label % 3 == 0])

    def test_the_dataset_is_taken_from_a_generator(self, store: AbstractDataStore) -> None:
        """Samples are asked for once, one after the other."""
        taken = []

        def generate() -> Iterator[Probe]:
            for sample in probes(20):
                taken.append(sample.label)
                yield sample

        urls = store.write_shards(_dataset(generate()), prefix="generated")
        assert taken == list(range(20))
        self.check_content(store, urls, probes(20))

    def test_an_empty_dataset_is_refused(self, store: AbstractDataStore) -> None:
        """Nothing to write is a ValueError, and no dataset."""
        with pytest.raises(ValueError, match=r"."):
            store.write_shards(_dataset([]), prefix="empty")
        with pytest.raises(ValueError, match=r"."):
            store.write_shards(_dataset(iter(())), prefix="empty")

    def test_the_error_of_a_generator_passes_through(self, store: AbstractDataStore) -> None:
        """What the caller's own code raises is what the caller sees."""
        with pytest.raises(_Broken, match="half-way"):
            store.write_shards(_dataset(_breaking(5)), prefix="broken")

    def test_a_failed_write_leaves_nothing(self, store: AbstractDataStore) -> None:
        """After a failure the prefix is free, and nothing of the first attempt is in the second."""
        with pytest.raises(_Broken, match="half-way"):
            store.write_shards(_dataset(_breaking(40)), prefix="broken")
        samples = probes(3, first=1000)
        urls = store.write_shards(_dataset(samples), prefix="broken")
        self.check_content(store, urls, samples)

    def test_prefixes_are_apart(self, store: AbstractDataStore) -> None:
        """Writing under one prefix leaves the dataset under another as it was, also one within or beside it."""
        names = ["apart", "apart/inner", "apart2", "apart-1/x"]
        urls = {
            name: store.write_shards(_dataset(probes(6, first=100 * i)), prefix=name) for i, name in enumerate(names)
        }
        assert len({url for found in urls.values() for url in found}) == sum(map(len, urls.values()))
        for i, name in enumerate(names):
            self.check_content(store, urls[name], probes(6, first=100 * i))

    @pytest.mark.parametrize(
        "prefix", ["with space/v 1", "ünïcode/数据集/v1", "dots.in.v1.5/run.0", "plus+and&percent%20=", "UPPER_lower-1"]
    )
    def test_unusual_prefixes_work(self, store: AbstractDataStore, prefix: str) -> None:
        """Spaces, Unicode, dots and percent signs are part of the name."""
        samples = probes(4)
        urls = store.write_shards(_dataset(samples), prefix=prefix)
        self.check_content(store, urls, samples)

    @pytest.mark.parametrize("prefix", HOSTILE, ids=lambda prefix: repr(prefix)[:20])
    def test_prefixes_that_lead_elsewhere_are_refused(self, store: AbstractDataStore, prefix: str) -> None:
        """A name that is no name inside the store is a ValueError."""
        with pytest.raises(ValueError, match=r"."):
            store.write_shards(_dataset(probes(2)), prefix=prefix)

    def test_a_pickled_store_is_the_same_store(self, store: AbstractDataStore) -> None:
        """A copy in another process reads what this one wrote, and writes what this one reads."""
        urls = store.write_shards(_dataset(probes(5)), prefix="here")
        copy = pickle.loads(pickle.dumps(store))  # noqa: S301
        assert isinstance(copy, AbstractDataStore)
        assert [copy.read_url(url) for url in urls] == [store.read_url(url) for url in urls]
        self.check_content(copy, urls, probes(5))
        self.check_content(store, copy.write_shards(_dataset(probes(6)), prefix="there"), probes(6))

    def test_a_pickled_dataset_reads_through_its_store(self, store: AbstractDataStore) -> None:
        """The plan a worker process gets works there."""
        urls = store.write_shards(_dataset(probes(5)), prefix="here")
        dataset = pickle.loads(pickle.dumps(atdata.Dataset[Probe](list(urls), store=store)))  # noqa: S301
        assert list(dataset) == probes(5)

    # -- what a store may be unable to do --------------------------------------------------------------------

    @pytest.mark.parametrize(("count", "expected"), [(10, [10]), (11, [10, 1]), (30, [10, 10, 10]), (5, [5])])
    def test_maxcount_bounds_the_samples_of_a_shard(
        self, store: AbstractDataStore, count: int, expected: list[int]
    ) -> None:
        """Shards are filled to `maxcount`, and there is no empty one."""
        urls = store.write_shards(_dataset(probes(count)), prefix="counted", maxcount=10)
        assert [len(self.read_plainly(store, url)) for url in urls] == expected
        self.check_content(store, urls, probes(count))

    def test_maxsize_bounds_the_bytes_of_a_shard(self, store: AbstractDataStore) -> None:
        """Payloads exceed `maxsize` by one sample at most, and a sample that is larger is written all the same."""
        samples = probes(40, size=5000)
        urls = store.write_shards(_dataset(samples), prefix="sized", maxsize=40_000)
        largest = max(len(atdata.pack(sample)) for sample in samples)
        for url in urls:
            size = sum(len(payload) for _, payload in self.read_plainly(store, url))
            assert 0 < size <= 40_000 + largest
        assert 4 <= len(urls) < 20
        self.check_content(store, urls, samples)
        large = store.write_shards(_dataset(probes(3, size=50_000)), prefix="large", maxsize=40_000)
        self.check_content(store, large, probes(3, size=50_000))

    def test_a_second_write_is_refused(self, store: AbstractDataStore) -> None:
        """A prefix in use is a FileExistsError, and what is there stays."""
        urls = store.write_shards(_dataset(probes(5)), prefix="taken")
        with pytest.raises(FileExistsError):
            store.write_shards(_dataset(probes(3, first=50)), prefix="taken")
        self.check_content(store, urls, probes(5))

    def test_overwrite_replaces_the_dataset(self, store: AbstractDataStore) -> None:
        """With `overwrite=True` the new samples are there, and the old ones are not."""
        store.write_shards(_dataset(probes(50)), prefix="replaced")
        new = probes(4, first=500)
        self.check_content(store, store.write_shards(_dataset(new), prefix="replaced", overwrite=True), new)
        # It need not be there before.
        self.check_content(store, store.write_shards(_dataset(new), prefix="fresh", overwrite=True), new)

    def test_the_same_samples_give_the_same_bytes(self, store: AbstractDataStore) -> None:
        """Bytes depend on the samples alone, not on time, place or name."""
        first = store.write_shards(_dataset(probes(30)), prefix="a/first")
        second = store.write_shards(_dataset(probes(30)), prefix="second one")
        assert [_digest(store, url) for url in first] == [_digest(store, url) for url in second]


def _digest(store: AbstractDataStore, url: str) -> str:
    from webdataset.gopen import gopen

    with gopen(store.read_url(url)) as stream:
        content: bytes = stream.read()
    return hashlib.sha256(content).hexdigest()


class FullStoreSuite(DataStoreSuite):
    """What atdata's own stores promise beyond the three methods: commit records, transactions, listing, deleting.

    For subclasses of `atdata.stores.base.DataStore`.
    """

    def listed(self, store: DataStore, prefix: str = "") -> list[str]:
        """The URLs that the store lists; fails when they are not sorted."""
        found = list(store.list(prefix))
        assert found == sorted(found)
        return found

    def read(self, store: DataStore, url: str) -> bytes:
        """The whole object at `url`."""
        with contextlib.closing(store.open(url).stream()) as stream:
            return stream.read()

    def names(self, store: DataStore, prefix: str) -> list[str]:
        """The names of the objects directly under `prefix`."""
        return [url.rsplit("/", 1)[1] for url in self.listed(store, prefix)]

    # -- what is written -------------------------------------------------------------------------------------

    def test_the_urls_know_size_count_and_digest(self, store: DataStore) -> None:
        """What is returned describes the bytes that are there."""
        urls = store.write_shards(_dataset(probes(25)), prefix="known", maxcount=10)
        assert isinstance(urls, WrittenShards)
        assert [shard.samples for shard in urls.shards] == [10, 10, 5]
        for url, shard in zip(urls, urls.shards, strict=True):
            content = self.read(store, url)
            assert url.endswith("/" + shard.name)
            assert shard.size == len(content) == store.open(url).size
            assert shard.sha256 == hashlib.sha256(content).hexdigest()
        copy = pickle.loads(pickle.dumps(urls))  # noqa: S301
        assert (copy, copy.record) == (urls, urls.record)

    def test_a_dataset_is_its_shards_manifests_and_record(self, store: DataStore) -> None:
        """Nothing else is under the prefix, and the record in the store is the one that was returned."""
        urls = store.write_shards(_dataset(probes(15)), prefix="whole/v1", maxcount=10)
        stems = ["shard-000000", "shard-000001"]
        expected = [f"{stem}{end}" for stem in stems for end in (".manifest.json", ".manifest.parquet", ".tar")]
        assert self.names(store, "whole/v1") == [RECORD_NAME, *expected]
        record = next(url for url in store.list("whole/v1") if url.endswith(RECORD_NAME))
        assert CommitRecord.from_bytes(self.read(store, record)) == urls.record
        for url, shard in zip(urls, urls.shards, strict=True):
            manifest = self.read(store, url.removesuffix(".tar") + ".manifest.parquet")
            assert shard.manifest is not None
            assert (shard.manifest.size, shard.manifest.sha256) == (
                len(manifest), hashlib.sha256(manifest).hexdigest()
            )  # fmt: skip

    def test_without_manifests(self, store: DataStore) -> None:
        """`manifest=False` writes none, and the dataset is read all the same."""
        urls = store.write_shards(_dataset(probes(15)), prefix="plain", maxcount=10, manifest=False)
        assert self.names(store, "plain") == [RECORD_NAME, "shard-000000.tar", "shard-000001.tar"]
        self.check_content(store, urls, probes(15))

    def test_identity_is_content(self, store: DataStore) -> None:
        """One CID for the same data anywhere; another when a sample differs, is missing, or stands elsewhere."""

        def cid(samples: list[Probe], prefix: str) -> str:
            return store.write_shards(_dataset(samples), prefix=prefix, maxcount=10).record.cid

        same = cid(probes(25), "one")
        assert cid(probes(25), "another/place") == same
        altered = probes(25)
        altered[24].pixels[63] ^= 1
        assert cid(altered, "altered") != same
        assert cid(probes(24), "fewer") != same
        assert cid(probes(25)[::-1], "reversed") != same

    def test_nothing_is_written_for_a_mistake(self, store: DataStore) -> None:
        """An error of any kind leaves the store as it was."""
        store.write_shards(_dataset(probes(5)), prefix="there")
        before = {url: self.read(store, url) for url in self.listed(store)}
        wrong: Any = [*probes(30), Probe(np.zeros(3, np.uint8), "seven")]  # type: ignore[arg-type]
        for prefix, overwrite in (("fresh/deep", False), ("there", True)):
            with pytest.raises(SampleTypeError, match=r"Probe\.label: expected int, got str") as caught:
                store.write_shards(_dataset(wrong), prefix=prefix, maxcount=7, overwrite=overwrite)
            assert caught.value.key == "000000030"
            with pytest.raises(_Broken):
                store.write_shards(_dataset(_breaking(30)), prefix=prefix, maxcount=7, overwrite=overwrite)
            with pytest.raises(EmptyDatasetError):
                store.write_shards(_dataset([]), prefix=prefix, overwrite=overwrite)
            with pytest.raises(UnsafeNameError):
                store.write_shards(_keyed(probes(3) + probes(1)), prefix=prefix, overwrite=overwrite)
            with pytest.raises(UnsafeNameError):
                store.write_shards(_keyed(probes(3), "dot.ted"), prefix=prefix, overwrite=overwrite)
        for maxcount, maxsize in ((0, 1), (-1, 1), (1, 0)):
            with pytest.raises(ValueError, match="must be at least 1"):
                store.write_shards(_dataset(probes(3)), prefix="limits", maxcount=maxcount, maxsize=maxsize)
        with pytest.raises(DatasetExistsError):
            store.write_shards(_dataset(probes(3)), prefix="there")
        assert {url: self.read(store, url) for url in self.listed(store)} == before

    def test_overwrite_leaves_nothing_of_the_old(self, store: DataStore) -> None:
        """Shards and manifests that only the old dataset had are gone."""
        store.write_shards(_dataset(probes(50)), prefix="replaced", maxcount=10)
        store.write_shards(_dataset(probes(5)), prefix="replaced", overwrite=True, manifest=False)
        assert self.names(store, "replaced") == [RECORD_NAME, "shard-000000.tar"]

    def test_a_dataset_can_be_rewritten_from_itself(self, store: DataStore) -> None:
        """The old shards are there until the last sample is read."""
        old = store.write_shards(_keyed(probes(20)), prefix="self", maxcount=10)
        dataset = atdata.Dataset[Probe](old, store=store).filter(lambda sample: sample.label >= 5)
        new = store.write_shards(dataset, prefix="self", maxcount=4, overwrite=True)
        self.check_content(store, new, probes(15, first=5))
        assert self.read_typed(store, new)[0][0] == "key-0005"

    def test_limits_hold_for_the_file(self, store: DataStore) -> None:
        """`maxsize` is the size of the file, end marker and padding included."""
        urls = store.write_shards(_dataset(probes(60, size=3000)), prefix="sized", maxsize=51_200)
        assert len(urls) > 3
        assert all(shard.size <= 51_200 for shard in urls.shards)
        large = store.write_shards(_dataset(probes(3, size=3000)), prefix="large", maxsize=1)
        assert [shard.samples for shard in large.shards] == [1, 1, 1]

    # -- two at once -----------------------------------------------------------------------------------------

    def test_a_second_writer_is_refused_at_once(self, store: DataStore) -> None:
        """While one writer is at work another gets StoreBusyError, and the first is not disturbed."""

        def generate() -> Iterator[Probe]:
            for sample in probes(10):
                if sample.label == 5:
                    with pytest.raises(StoreBusyError, match="writing"):
                        store.write_shards(_dataset(probes(2)), prefix="busy")
                    with pytest.raises(StoreBusyError, match="writing"):
                        store.write_shards(_dataset(probes(2)), prefix="busy", overwrite=True)
                    store.write_shards(_dataset(probes(2)), prefix="free")
                yield sample

        self.check_content(store, store.write_shards(_dataset(generate()), prefix="busy"), probes(10))
        with pytest.raises(DatasetExistsError):
            store.write_shards(_dataset(probes(2)), prefix="busy")

    # -- the primitives --------------------------------------------------------------------------------------

    def test_nothing_is_visible_before_the_commit(self, store: DataStore) -> None:
        """Objects of an open transaction are not listed, and an abort leaves none."""
        transaction = store.begin("open", overwrite=False)
        sink = transaction.create("shard-000000.tar")
        sink.write(b"x" * 100_000)
        sink.close()
        half = transaction.create("shard-000001.tar")
        half.write(b"y")
        assert self.listed(store) == []
        half.abort()
        half.abort()
        transaction.abort()
        assert self.listed(store) == []
        store.begin("open", overwrite=False).abort()
        assert self.listed(store) == []

    def test_an_aborted_overwrite_keeps_the_old(self, store: DataStore) -> None:
        """A transaction over a dataset that is given up."""
        urls = store.write_shards(_dataset(probes(8)), prefix="kept")
        before = self.listed(store)
        transaction = store.begin("kept", overwrite=True)
        sink = transaction.create("shard-000000.tar")
        sink.write(b"z")
        sink.close()
        transaction.abort()
        assert self.listed(store) == before
        self.check_content(store, urls, probes(8))

    def test_an_object_is_read_by_ranges(self, store: DataStore) -> None:
        """`read`, `read_many` and `stream` give the same bytes; what is not there is an error."""
        url = store.write_shards(_dataset(probes(20)), prefix="ranges")[0]
        whole = self.read(store, url)
        found = store.open(url)
        assert found.size == len(whole)
        assert found.read(0, len(whole)) == whole
        assert found.read(512, 700) == whole[512:700]
        assert found.read(7, 7) == b""
        ranges = [(900, 1000), (0, 10), (len(whole) - 3, len(whole)), (5, 5)]
        assert found.read_many(ranges) == [whole[start:stop] for start, stop in ranges]
        with pytest.raises(StoreError):
            found.read(len(whole) - 1, len(whole) + 1)
        streams: list[IO[bytes]] = [found.stream(), found.stream()]
        assert [stream.read(600) for stream in streams] == [whole[:600]] * 2
        for stream in streams:
            stream.close()

    def test_what_is_not_there_is_not_found(self, store: DataStore) -> None:
        """Opening or deleting nothing is DatasetNotFoundError; listing nothing gives nothing."""
        url = store.write_shards(_dataset(probes(2)), prefix="there")[0]
        with pytest.raises(DatasetNotFoundError):
            store.open(url.replace("shard-000000", "shard-000009"))
        for prefix in ("nowhere", "there/deeper"):
            with pytest.raises(DatasetNotFoundError):
                store.delete(prefix)
            assert self.listed(store, prefix) == []

    def test_delete_removes_one_dataset(self, store: DataStore) -> None:
        """The dataset and its files are gone, others stay, and the prefix can be written again."""
        store.write_shards(_dataset(probes(25)), prefix="gone", maxcount=10)
        kept = store.write_shards(_dataset(probes(4)), prefix="gone/inner")
        beside = store.write_shards(_dataset(probes(4)), prefix="gone2")
        store.delete("gone")
        assert {url.rsplit("/", 1)[0] for url in self.listed(store)} == {
            url.rsplit("/", 1)[0] for url in (*kept, *beside)
        }
        self.check_content(store, kept, probes(4))
        with pytest.raises(DatasetNotFoundError):
            store.delete("gone")
        self.check_content(store, store.write_shards(_dataset(probes(3)), prefix="gone"), probes(3))

    def test_delete_waits_for_no_writer(self, store: DataStore) -> None:
        """A dataset that is being overwritten cannot be deleted meanwhile."""
        store.write_shards(_dataset(probes(3)), prefix="busy")
        transaction = store.begin("busy", overwrite=True)
        try:
            with pytest.raises(StoreBusyError):
                store.delete("busy")
        finally:
            transaction.abort()
        store.delete("busy")
        assert self.listed(store) == []

    @pytest.mark.parametrize("prefix", [*HOSTILE[1:], ".atdata-x", "a/.atdata.lock", "b{r}ace", "a::b", "q?x", "f#x"])
    def test_hostile_prefixes_are_named(self, store: DataStore, prefix: str) -> None:
        """Every method that takes a prefix refuses it with UnsafeNameError, and nothing is written."""
        for call in (
            lambda: store.write_shards(_dataset(probes(1)), prefix=prefix, overwrite=True),
            lambda: store.begin(prefix, overwrite=True),
            lambda: store.delete(prefix),
            lambda: list(store.list(prefix)),
        ):
            with pytest.raises(UnsafeNameError, match="cannot be used"):
                call()
        assert self.listed(store) == []
