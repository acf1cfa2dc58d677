"""What can be read from a data store, of every kind: the half of the suites that writes nothing."""

from __future__ import annotations

import contextlib
import gc
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from os import environ, pathsep
from typing import IO, Any, ClassVar, TypeVar

import numpy as np
import pytest

import atdata
from atdata.errors import DatasetNotFoundError, StoreError, UnsafeNameError
from atdata.stores.base import AbstractDataStore, DataStore
from atdata.testing.probes import Probe, dataset_of, keyed, probes

__all__ = ["ReadOnlyStoreSuite", "needs"]

F = TypeVar("F", bound=Callable[..., None])

_THREADS = 8
_ELSEWHERE = """
import pickle, sys
dataset, store, url = pickle.load(sys.stdin.buffer)
labels = [sample.label for sample in dataset]
assert store.read_url(url)
print(len(labels), sum(labels))
"""


def needs(capability: str) -> Callable[[F], F]:
    """Marks a test that is left out where the suite's class attribute of that name is False."""

    def mark(test: F) -> F:
        test.capabilities = (*getattr(test, "capabilities", ()), capability)  # type: ignore[attr-defined]
        return test

    return mark


class ReadOnlyStoreSuite:
    """Tests of reading, for stores that are filled in another way; `DataStoreSuite` has them too.

    A subclass, whose name begins with `Test`, gives the fixture `store` and the method `fill`. What a store cannot do
    it says by a class attribute; the tests of that are then left out.

    Attributes:
        pickles: the store can be sent to another process.
        opens: it is an `atdata.stores.base.DataStore`, whose objects can be opened.
    """

    pickles: ClassVar[bool] = True
    opens: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__[1:]:
            for name, test in list(vars(base).items()):
                capabilities = getattr(test, "capabilities", ())
                if not capabilities or name in vars(cls):
                    continue
                if not all(getattr(cls, capability) for capability in capabilities):
                    setattr(cls, name, None)  # not a test any more, rather than one that is skipped
                elif getattr(cls, name) is None:
                    setattr(cls, name, test)

    @pytest.fixture
    def store(self) -> Any:
        """A new, empty store."""
        raise NotImplementedError(f"a subclass of {_suite(type(self))} gives the fixture `store`")

    def fill(self, store: Any, samples: atdata.Dataset[Probe], prefix: str, **options: Any) -> list[str]:
        """Put a dataset where the store reads it, with these options of `write_shards`; the URLs of its shards."""
        raise NotImplementedError("a subclass of ReadOnlyStoreSuite gives the method `fill`")

    # -- what the tests look with ----------------------------------------------------------------------------

    def plain_url(self, store: Any, url: str) -> str:
        """What the real webdataset package shall open for `url`."""
        place = store.read_url(url)
        assert isinstance(place, str)
        return place

    def read_plainly(self, store: Any, url: str) -> list[tuple[str, bytes]]:
        """Key and payload of each sample of one shard, as the real webdataset package reads it."""
        import webdataset

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files to the garbage collector
            place = self.plain_url(store, url)
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

    def missing(self, url: str) -> str:
        """A URL like `url`, of a first shard, where there is nothing."""
        return url.replace("shard-000000", "shard-000009")

    def read(self, store: DataStore, url: str) -> bytes:
        """The whole object at `url`."""
        with contextlib.closing(store.open(url).stream()) as stream:
            return stream.read()

    # -- the contract ----------------------------------------------------------------------------------------

    def test_it_has_the_three_methods(self, store: AbstractDataStore) -> None:
        """`isinstance` with the protocol sees a data store."""
        assert isinstance(store, AbstractDataStore)
        assert isinstance(store.supports_streaming(), bool)

    def test_what_is_there_is_read(self, store: AbstractDataStore) -> None:
        """The URLs are strings, in the order of the samples, and both readers find every sample."""
        samples = probes(25)
        urls = self.fill(store, dataset_of(samples), "round/trip")
        assert isinstance(urls, list)
        assert urls
        assert all(isinstance(url, str) for url in urls)
        assert len(set(urls)) == len(urls)
        self.check_content(store, urls, samples)

    def test_one_sample_is_a_dataset(self, store: AbstractDataStore) -> None:
        """The smallest dataset."""
        urls = self.fill(store, dataset_of(probes(1)), "one")
        assert len(urls) == 1
        self.check_content(store, urls, probes(1))

    def test_keys_are_kept(self, store: AbstractDataStore) -> None:
        """Samples that have keys keep them, and both readers agree on the keys of all."""
        samples = probes(12)
        urls = self.fill(store, keyed(samples), "keys")
        keys = [f"key-{n:04d}" for n in range(12)]
        assert [key for key, _ in self.read_typed(store, urls)] == keys
        assert [key for url in urls for key, _ in self.read_plainly(store, url)] == keys
        numbered = self.fill(store, dataset_of(samples), "numbered")
        made = [key for key, _ in self.read_typed(store, numbered)]
        assert len(set(made)) == len(samples)
        assert [key for url in numbered for key, _ in self.read_plainly(store, url)] == made

    def test_samples_are_found_by_number_slice_and_key(self, store: AbstractDataStore) -> None:
        """A dataset is read in every way, not only from its beginning."""
        samples = probes(40)
        dataset = atdata.Dataset[Probe](list(self.fill(store, keyed(samples), "ways")), store=store)
        assert len(dataset) == 40
        for number in (17, 0, 39, -1):
            assert dataset[number] == samples[number]
        assert dataset[5:33:9] == samples[5:33:9]
        assert dataset.get("key-0023") == samples[23]
        batches = list(dataset.ordered(batch_size=16))
        assert [len(batch) for batch in batches] == [16, 16, 8]
        assert np.array_equal(np.concatenate([batch.label for batch in batches]), range(40))

    @pytest.mark.parametrize(
        "prefix", ["with space/v 1", "ünïcode/数据集/v1", "dots.in.v1.5/run.0", "plus+and&percent%20=", "UPPER_lower-1"]
    )
    def test_unusual_prefixes_work(self, store: AbstractDataStore, prefix: str) -> None:
        """Spaces, Unicode, dots and percent signs are part of the name."""
        samples = probes(4)
        self.check_content(store, self.fill(store, dataset_of(samples), prefix), samples)

    def test_many_threads_read_at_once(self, store: AbstractDataStore) -> None:
        """One dataset, and datasets of their own, read by several threads."""
        samples = probes(60)
        urls = list(self.fill(store, dataset_of(samples), "threads"))
        shared = atdata.Dataset[Probe](urls, store=store)

        def read(number: int) -> bool:
            dataset = shared if number % 2 else atdata.Dataset[Probe](urls, store=store)
            order = random.Random(number).sample(range(60), 20)  # noqa: S311
            return [dataset[at] for at in order] == [samples[at] for at in order] and list(dataset) == samples

        with ThreadPoolExecutor(_THREADS) as pool:
            assert all(pool.map(read, range(_THREADS)))

    # -- in other processes ----------------------------------------------------------------------------------

    @needs("pickles")
    def test_a_pickled_store_reads_the_same(self, store: AbstractDataStore) -> None:
        """A copy gives the same URLs and the same samples."""
        urls = self.fill(store, dataset_of(probes(5)), "here")
        copy = pickle.loads(pickle.dumps(store))  # noqa: S301
        assert isinstance(copy, AbstractDataStore)
        self.check_content(copy, urls, probes(5))
        dataset = pickle.loads(pickle.dumps(atdata.Dataset[Probe](list(urls), store=store)))  # noqa: S301
        assert list(dataset) == probes(5)

    @needs("pickles")
    def test_another_process_reads_through_a_pickled_store(self, store: AbstractDataStore) -> None:
        """The plan that a worker process gets works there, with nothing of this process."""
        urls = list(self.fill(store, dataset_of(probes(30)), "sent"))
        plan = pickle.dumps((atdata.Dataset[Probe](urls, store=store), store, urls[0]))
        done = subprocess.run(  # noqa: S603  (our own program)
            [sys.executable, "-c", _ELSEWHERE],
            input=plan,
            capture_output=True,
            timeout=120,
            env={**environ, "PYTHONPATH": pathsep.join(filter(None, sys.path))},
        )
        assert done.stdout.split() == [b"30", b"435"], done.stderr.decode()

    # -- single objects --------------------------------------------------------------------------------------

    @needs("opens")
    def test_an_object_is_read_by_ranges(self, store: DataStore) -> None:
        """`read`, `fetch`, `read_many`, `chunks` and `stream` give the same bytes; what is not there is an error."""
        url = self.fill(store, dataset_of(probes(20)), "ranges")[0]
        whole = self.read(store, url)
        found = store.open(url)
        assert found.size == len(whole)
        assert found.read(0, len(whole)) == whole
        assert found.read(512, 700) == whole[512:700]
        assert bytes(found.fetch(512, 700)) == whole[512:700]
        assert found.read(7, 7) == b""
        assert b"".join(map(bytes, found.chunks())) == whole
        ranges = [(900, 1000), (0, 10), (len(whole) - 3, len(whole)), (5, 5), (950, 960), (10, 20)]
        assert found.read_many(ranges) == [whole[start:stop] for start, stop in ranges]
        assert found.read_many([]) == []
        for start, stop in ((0, len(whole) + 1), (len(whole) - 1, len(whole) + 1), (len(whole) + 5, len(whole) + 9)):
            for anew in (found, store.open(url)):
                with pytest.raises(StoreError):
                    anew.read(start, stop)
        streams: list[IO[bytes]] = [found.stream(), found.stream()]
        assert [stream.read(600) for stream in streams] == [whole[:600]] * 2
        for stream in streams:
            stream.close()

    @needs("opens")
    def test_many_ranges_at_once(self, store: DataStore) -> None:
        """One open object gives hundreds of ranges, to several threads."""
        url = self.fill(store, dataset_of(probes(60, size=1000)), "many")[0]
        whole = self.read(store, url)
        found = store.open(url)

        def read(seed: int) -> bool:
            dice = random.Random(seed)  # noqa: S311
            starts = [dice.randrange(len(whole)) for _ in range(40)]
            ranges = [(start, min(len(whole), start + dice.randrange(3000))) for start in starts]
            return found.read_many(ranges) == [whole[start:stop] for start, stop in ranges]

        with ThreadPoolExecutor(_THREADS) as pool:
            assert all(pool.map(read, range(_THREADS)))

    @needs("opens")
    def test_what_is_not_there_is_not_found(self, store: DataStore) -> None:
        """Opening nothing is DatasetNotFoundError, by itself and out of a dataset."""
        url = self.fill(store, dataset_of(probes(2)), "there", manifest=False)[0]
        missing = self.missing(url)
        with pytest.raises(DatasetNotFoundError):
            store.open(missing)
        with pytest.raises(DatasetNotFoundError):
            list(atdata.Dataset[Probe]([url, missing], store=store))

    @needs("opens")
    def test_urls_of_others_are_refused(self, store: DataStore) -> None:
        """What is no URL of this store is not read, and neither is what leads out of it."""
        url = self.fill(store, dataset_of(probes(2)), "mine")[0]
        folder = url.rpartition("/")[0]
        for other in (
            "s3://another-bucket/mine/shard-000000.tar",
            "https://other.invalid/a.tar",
            "file://host/etc/passwd",
            f"{folder}/../../../../../../../../etc/passwd",
            f"{folder}/nul\0byte",
        ):
            with pytest.raises((UnsafeNameError, DatasetNotFoundError)):
                store.open(other)
            with pytest.raises(StoreError):
                store.read_url(other)


def _suite(cls: type) -> str:
    return next(base.__name__ for base in cls.__mro__ if base.__module__.startswith("atdata.testing"))
