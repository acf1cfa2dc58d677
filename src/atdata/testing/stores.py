"""What every data store has to pass, ours and a stranger's.

```python
from atdata.testing import DataStoreSuite

class TestMyStore(DataStoreSuite):
    @pytest.fixture
    def store(self, tmp_path):
        return MyStore(tmp_path)
```

The suite knows the three methods of `AbstractDataStore` and nothing else.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import atdata
from atdata.stores.base import AbstractDataStore
from atdata.testing.probes import HOSTILE_PREFIXES, BrokenError, Probe, breaking, dataset_of, keyed, probes
from atdata.testing.reading import ReadOnlyStoreSuite, needs

__all__ = ["DataStoreSuite"]


class DataStoreSuite(ReadOnlyStoreSuite):
    """Tests that any object with the three methods of `AbstractDataStore` has to pass.

    A subclass, whose name begins with `Test`, gives the fixture `store`: a new, empty store for each test. What a store
    cannot do it says by a class attribute; the tests of that are then left out.

    Attributes:
        limits: `write_shards` takes `maxcount` and `maxsize`.
        overwrites: `write_shards` refuses a prefix that is in use with FileExistsError, and takes `overwrite=True`.
        deterministic: the same samples give the same bytes.
        cleans_up: a write that fails leaves nothing: the prefix can be written at once.
        pickles: the store can be sent to another process.
        carries_rights: and writes there.
    """

    limits: ClassVar[bool] = True
    overwrites: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True
    cleans_up: ClassVar[bool] = True
    carries_rights: ClassVar[bool] = True

    def fill(self, store: Any, samples: atdata.Dataset[Probe], prefix: str, **options: Any) -> list[str]:
        """Write the samples with the store itself."""
        urls: list[str] = store.write_shards(samples, prefix=prefix, **options)
        return urls

    # -- writing ---------------------------------------------------------------------------------------------

    def test_keys_survive_a_copy(self, store: AbstractDataStore) -> None:
        """A dataset read from a store and written again has its keys still."""
        first = store.write_shards(keyed(probes(7)), prefix="first")
        again = store.write_shards(atdata.Dataset[Probe](list(first), store=store), prefix="again")
        assert self.read_typed(store, again) == self.read_typed(store, first)

    def test_steps_are_applied_before_writing(self, store: AbstractDataStore) -> None:
        """What `filter` leaves is what is written."""
        urls = store.write_shards(dataset_of(probes(30)).filter(lambda sample: sample.label % 3 == 0), prefix="steps")
        self.check_content(store, urls, [sample for sample in probes(30) if sample.label % 3 == 0])

    def test_the_dataset_is_taken_from_a_generator(self, store: AbstractDataStore) -> None:
        """Samples are asked for once, one after the other."""
        taken = []

        def generate() -> Iterator[Probe]:
            for sample in probes(20):
                taken.append(sample.label)
                yield sample

        urls = store.write_shards(dataset_of(generate()), prefix="generated")
        assert taken == list(range(20))
        self.check_content(store, urls, probes(20))

    def test_an_empty_dataset_is_refused(self, store: AbstractDataStore) -> None:
        """Nothing to write is a ValueError, and no dataset."""
        with pytest.raises(ValueError, match=r"."):
            store.write_shards(dataset_of([]), prefix="empty")
        with pytest.raises(ValueError, match=r"."):
            store.write_shards(dataset_of(iter(())), prefix="empty")

    def test_the_error_of_a_generator_passes_through(self, store: AbstractDataStore) -> None:
        """What the caller's own code raises is what the caller sees."""
        with pytest.raises(BrokenError, match="half-way"):
            store.write_shards(dataset_of(breaking(5)), prefix="broken")

    @needs("cleans_up")
    def test_a_failed_write_leaves_nothing(self, store: AbstractDataStore) -> None:
        """After a failure the prefix is free, and nothing of the first attempt is in the second."""
        with pytest.raises(BrokenError, match="half-way"):
            store.write_shards(dataset_of(breaking(40)), prefix="broken")
        samples = probes(3, first=1000)
        urls = store.write_shards(dataset_of(samples), prefix="broken")
        self.check_content(store, urls, samples)

    def test_prefixes_are_apart(self, store: AbstractDataStore) -> None:
        """Writing under one prefix leaves the dataset under another as it was, also one within or beside it."""
        names = ["apart", "apart/inner", "apart2", "apart-1/x"]
        urls = {
            name: store.write_shards(dataset_of(probes(6, first=100 * i)), prefix=name) for i, name in enumerate(names)
        }
        assert len({url for found in urls.values() for url in found}) == sum(map(len, urls.values()))
        for i, name in enumerate(names):
            self.check_content(store, urls[name], probes(6, first=100 * i))

    @pytest.mark.parametrize("prefix", HOSTILE_PREFIXES, ids=lambda prefix: repr(prefix)[:20])
    def test_prefixes_that_lead_elsewhere_are_refused(self, store: AbstractDataStore, prefix: str) -> None:
        """A name that is no name inside the store is a ValueError."""
        with pytest.raises(ValueError, match=r"."):
            store.write_shards(dataset_of(probes(2)), prefix=prefix)

    @needs("pickles")
    @needs("carries_rights")
    def test_a_pickled_store_writes_to_the_same_place(self, store: AbstractDataStore) -> None:
        """What a copy in another process writes, this one reads."""
        copy = pickle.loads(pickle.dumps(store))  # noqa: S301
        urls = copy.write_shards(dataset_of(probes(6)), prefix="there")
        self.check_content(store, urls, probes(6))
        assert [copy.read_url(url) for url in urls]

    # -- what a store may be unable to do --------------------------------------------------------------------

    @needs("limits")
    @pytest.mark.parametrize(("count", "expected"), [(10, [10]), (11, [10, 1]), (30, [10, 10, 10]), (5, [5])])
    def test_maxcount_bounds_the_samples_of_a_shard(
        self, store: AbstractDataStore, count: int, expected: list[int]
    ) -> None:
        """Shards are filled to `maxcount`, and there is no empty one."""
        urls = store.write_shards(dataset_of(probes(count)), prefix="counted", maxcount=10)
        assert [len(self.read_plainly(store, url)) for url in urls] == expected
        self.check_content(store, urls, probes(count))

    @needs("limits")
    def test_maxsize_bounds_the_bytes_of_a_shard(self, store: AbstractDataStore) -> None:
        """Payloads exceed `maxsize` by one sample at most, and a sample that is larger is written all the same."""
        samples = probes(40, size=5000)
        urls = store.write_shards(dataset_of(samples), prefix="sized", maxsize=40_000)
        largest = max(len(atdata.pack(sample)) for sample in samples)
        for url in urls:
            size = sum(len(payload) for _, payload in self.read_plainly(store, url))
            assert 0 < size <= 40_000 + largest
        assert 4 <= len(urls) < 20
        self.check_content(store, urls, samples)
        large = store.write_shards(dataset_of(probes(3, size=50_000)), prefix="large", maxsize=40_000)
        self.check_content(store, large, probes(3, size=50_000))

    @needs("overwrites")
    def test_a_second_write_is_refused(self, store: AbstractDataStore) -> None:
        """A prefix in use is a FileExistsError, and what is there stays."""
        urls = store.write_shards(dataset_of(probes(5)), prefix="taken")
        with pytest.raises(FileExistsError):
            store.write_shards(dataset_of(probes(3, first=50)), prefix="taken")
        self.check_content(store, urls, probes(5))

    @needs("overwrites")
    def test_overwrite_replaces_thedataset_of(self, store: AbstractDataStore) -> None:
        """With `overwrite=True` the new samples are there, and the old ones are not."""
        store.write_shards(dataset_of(probes(50)), prefix="replaced")
        new = probes(4, first=500)
        self.check_content(store, store.write_shards(dataset_of(new), prefix="replaced", overwrite=True), new)
        # It need not be there before.
        self.check_content(store, store.write_shards(dataset_of(new), prefix="fresh", overwrite=True), new)

    def digest(self, store: AbstractDataStore, url: str) -> str:
        """The SHA-256 of a shard's bytes."""
        from webdataset.gopen import gopen

        with gopen(self.plain_url(store, url)) as stream:
            content: bytes = stream.read()
        return hashlib.sha256(content).hexdigest()

    @needs("deterministic")
    def test_the_same_samples_give_the_same_bytes(self, store: AbstractDataStore) -> None:
        """Bytes depend on the samples alone, not on time, place or name."""
        first = store.write_shards(dataset_of(probes(30)), prefix="a/first")
        second = store.write_shards(dataset_of(probes(30)), prefix="second one")
        assert [self.digest(store, url) for url in first] == [self.digest(store, url) for url in second]
