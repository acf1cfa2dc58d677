"""What atdata's own stores promise, tested on any of them: streams, commits, listing, several writers, bad days."""

from __future__ import annotations

import hashlib
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest

import atdata
from atdata.errors import (
    AtdataError,
    DatasetExistsError,
    DatasetNotFoundError,
    EmptyDatasetError,
    SampleTypeError,
    StoreBusyError,
    StoreError,
    UnsafeNameError,
)
from atdata.stores.base import DataStore, WrittenShards
from atdata.stores.record import RECORD_NAME, CommitRecord, ShardInfo
from atdata.testing.faults import FaultyStore
from atdata.testing.probes import HOSTILE_PREFIXES, BrokenError, Probe, breaking, dataset_of, keyed, probes
from atdata.testing.stores import DataStoreSuite

__all__ = ["FullStoreSuite"]

_WRITERS = 4


class FullStoreSuite(DataStoreSuite):
    """What atdata's own stores promise beyond the three methods: commit records, transactions, listing, deleting.

    For subclasses of `atdata.stores.base.DataStore`. Where a store keeps what its `list` does not show (files of
    unfinished writes, uploads), a subclass has `remains` tell. Where URLs say what an object contains and not how it is
    called, a subclass has `placed` tell that.
    """

    opens: ClassVar[bool] = True

    def remains(self, store: DataStore) -> list[str]:
        """All that lies in the store, also what `list` does not show."""
        return list(store.list())

    def listed(self, store: DataStore, prefix: str = "") -> list[str]:
        """The URLs that the store lists; fails when they are not sorted."""
        found = list(store.list(prefix))
        assert found == sorted(found)
        return found

    def placed(self, store: DataStore, prefix: str = "") -> dict[str, str]:
        """The URL of each object that the store lists, by its path; both are the same where URLs end with paths."""
        return {url: url for url in self.listed(store, prefix)}

    def names(self, store: DataStore, prefix: str) -> list[str]:
        """The names of the objects directly under `prefix`."""
        return [path.rsplit("/", 1)[1] for path in self.placed(store, prefix)]

    def named(self, store: DataStore, prefix: str, name: str) -> str:
        """The URL of the object of that name."""
        return next(url for path, url in self.placed(store, prefix).items() if path.endswith("/" + name))

    def shards(self, store: DataStore, prefix: str) -> list[str]:
        """The URLs of the shards under `prefix`, in order."""
        return [url for path, url in self.placed(store, prefix).items() if path.endswith(".tar")]

    # -- what is written -------------------------------------------------------------------------------------

    def test_the_urls_know_size_count_and_digest(self, store: DataStore) -> None:
        """What is returned describes the bytes that are there."""
        urls = store.write_shards(dataset_of(probes(25)), prefix="known", maxcount=10)
        assert isinstance(urls, WrittenShards)
        assert [shard.samples for shard in urls.shards] == [10, 10, 5]
        for url, shard in zip(urls, urls.shards, strict=True):
            content = self.read(store, url)
            assert self.named(store, "known", shard.name) == url
            assert shard.size == len(content) == store.open(url).size
            assert shard.sha256 == hashlib.sha256(content).hexdigest()
        copy = pickle.loads(pickle.dumps(urls))  # noqa: S301
        assert (copy, copy.record) == (urls, urls.record)

    def test_a_dataset_is_its_shards_manifests_and_record(self, store: DataStore) -> None:
        """Nothing else is under the prefix, and the record in the store is the one that was returned."""
        urls = store.write_shards(dataset_of(probes(15)), prefix="whole/v1", maxcount=10)
        stems = ["shard-000000", "shard-000001"]
        expected = [f"{stem}{end}" for stem in stems for end in (".manifest.json", ".manifest.parquet", ".tar")]
        assert self.names(store, "whole/v1") == [RECORD_NAME, *expected]
        record = self.named(store, "whole/v1", RECORD_NAME)
        assert CommitRecord.from_bytes(self.read(store, record)) == urls.record
        for shard in urls.shards:
            beside = self.named(store, "whole/v1", shard.name.removesuffix(".tar") + ".manifest.parquet")
            manifest = self.read(store, beside)
            assert shard.manifest is not None
            assert (shard.manifest.size, shard.manifest.sha256) == (
                len(manifest), hashlib.sha256(manifest).hexdigest()
            )  # fmt: skip

    def test_without_manifests(self, store: DataStore) -> None:
        """`manifest=False` writes none, and the dataset is read all the same."""
        urls = store.write_shards(dataset_of(probes(15)), prefix="plain", maxcount=10, manifest=False)
        assert self.names(store, "plain") == [RECORD_NAME, "shard-000000.tar", "shard-000001.tar"]
        self.check_content(store, urls, probes(15))

    def test_identity_is_content(self, store: DataStore) -> None:
        """One CID for the same data anywhere; another when a sample differs, is missing, or stands elsewhere."""

        def cid(samples: list[Probe], prefix: str) -> str:
            return store.write_shards(dataset_of(samples), prefix=prefix, maxcount=10).record.cid

        same = cid(probes(25), "one")
        assert cid(probes(25), "another/place") == same
        altered = probes(25)
        altered[24].pixels[63] ^= 1
        assert cid(altered, "altered") != same
        assert cid(probes(24), "fewer") != same
        assert cid(probes(25)[::-1], "reversed") != same

    def test_nothing_is_written_for_a_mistake(self, store: DataStore) -> None:
        """An error of any kind leaves the store as it was."""
        store.write_shards(dataset_of(probes(5)), prefix="there")
        before = {url: self.read(store, url) for url in self.listed(store)}
        wrong: Any = [*probes(30), Probe(np.zeros(3, np.uint8), "seven")]  # type: ignore[arg-type]
        for prefix, overwrite in (("fresh/deep", False), ("there", True)):
            with pytest.raises(SampleTypeError, match=r"Probe\.label: expected int, got str") as caught:
                store.write_shards(dataset_of(wrong), prefix=prefix, maxcount=7, overwrite=overwrite)
            assert caught.value.key == "000000030"
            with pytest.raises(BrokenError):
                store.write_shards(dataset_of(breaking(30)), prefix=prefix, maxcount=7, overwrite=overwrite)
            with pytest.raises(EmptyDatasetError):
                store.write_shards(dataset_of([]), prefix=prefix, overwrite=overwrite)
            with pytest.raises(UnsafeNameError):
                store.write_shards(keyed(probes(3) + probes(1)), prefix=prefix, overwrite=overwrite)
            with pytest.raises(UnsafeNameError):
                store.write_shards(keyed(probes(3), "dot.ted"), prefix=prefix, overwrite=overwrite)
        for maxcount, maxsize in ((0, 1), (-1, 1), (1, 0)):
            with pytest.raises(ValueError, match="must be at least 1"):
                store.write_shards(dataset_of(probes(3)), prefix="limits", maxcount=maxcount, maxsize=maxsize)
        with pytest.raises(DatasetExistsError):
            store.write_shards(dataset_of(probes(3)), prefix="there")
        assert {url: self.read(store, url) for url in self.listed(store)} == before

    def test_overwrite_leaves_nothing_of_the_old(self, store: DataStore) -> None:
        """Shards and manifests that only the old dataset had are gone."""
        store.write_shards(dataset_of(probes(50)), prefix="replaced", maxcount=10)
        store.write_shards(dataset_of(probes(5)), prefix="replaced", overwrite=True, manifest=False)
        assert self.names(store, "replaced") == [RECORD_NAME, "shard-000000.tar"]

    def test_a_dataset_can_be_rewritten_from_itself(self, store: DataStore) -> None:
        """The old shards are there until the last sample is read."""
        old = store.write_shards(keyed(probes(20)), prefix="self", maxcount=10)
        dataset = atdata.Dataset[Probe](old, store=store).filter(lambda sample: sample.label >= 5)
        new = store.write_shards(dataset, prefix="self", maxcount=4, overwrite=True)
        self.check_content(store, new, probes(15, first=5))
        assert self.read_typed(store, new)[0][0] == "key-0005"

    def test_limits_hold_for_the_file(self, store: DataStore) -> None:
        """`maxsize` is the size of the file, end marker and padding included."""
        urls = store.write_shards(dataset_of(probes(60, size=3000)), prefix="sized", maxsize=51_200)
        assert len(urls) > 3
        assert all(shard.size <= 51_200 for shard in urls.shards)
        large = store.write_shards(dataset_of(probes(3, size=3000)), prefix="large", maxsize=1)
        assert [shard.samples for shard in large.shards] == [1, 1, 1]

    # -- two at once -----------------------------------------------------------------------------------------

    def test_a_second_writer_is_refused_at_once(self, store: DataStore) -> None:
        """While one writer is at work another gets StoreBusyError, and the first is not disturbed."""

        def generate() -> Iterator[Probe]:
            for sample in probes(10):
                if sample.label == 5:
                    with pytest.raises(StoreBusyError, match="writing"):
                        store.write_shards(dataset_of(probes(2)), prefix="busy")
                    with pytest.raises(StoreBusyError, match="writing"):
                        store.write_shards(dataset_of(probes(2)), prefix="busy", overwrite=True)
                    store.write_shards(dataset_of(probes(2)), prefix="free")
                yield sample

        self.check_content(store, store.write_shards(dataset_of(generate()), prefix="busy"), probes(10))
        with pytest.raises(DatasetExistsError):
            store.write_shards(dataset_of(probes(2)), prefix="busy")

    def test_writers_of_other_prefixes_do_not_wait(self, store: DataStore) -> None:
        """Several threads write at once, each its own dataset, and all are whole."""
        gate = threading.Barrier(_WRITERS)

        def write(number: int) -> WrittenShards:
            gate.wait(60)
            return store.write_shards(dataset_of(probes(30, first=100 * number)), prefix=f"side/{number}", maxcount=10)

        with ThreadPoolExecutor(_WRITERS) as pool:
            for number, urls in enumerate(pool.map(write, range(_WRITERS))):
                self.check_content(store, urls, probes(30, first=100 * number))

    def test_of_many_writers_one_wins_whole(self, store: DataStore) -> None:
        """Several threads write to one prefix at once: one dataset is there, and the others are told."""
        gate = threading.Barrier(_WRITERS)

        def write(number: int) -> WrittenShards | AtdataError:
            gate.wait(60)
            try:
                return store.write_shards(dataset_of(probes(9, first=100 * number)), prefix="race", maxcount=3)
            except (StoreBusyError, DatasetExistsError) as error:
                return error

        with ThreadPoolExecutor(_WRITERS) as pool:
            results = list(pool.map(write, range(_WRITERS)))
        won = [number for number, result in enumerate(results) if isinstance(result, WrittenShards)]
        assert len(won) == 1
        urls = self.shards(store, "race")
        assert len(urls) == 3
        self.check_content(store, urls, probes(9, first=100 * won[0]))

    def test_a_reader_never_sees_a_mixture(self, store: DataStore) -> None:
        """While a dataset is replaced again and again, whoever reads it gets one version of it whole, or an error."""
        versions = [probes(12, first=1000 * number) for number in range(2)]
        urls = list(store.write_shards(dataset_of(versions[0]), prefix="turn", maxcount=4))
        done = threading.Event()

        def replace() -> None:
            try:
                for number in range(1, 9):
                    store.write_shards(dataset_of(versions[number % 2]), prefix="turn", maxcount=4, overwrite=True)
            finally:
                done.set()

        whole = 0
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(replace)
            while not done.is_set() or not whole:
                try:
                    found = list(atdata.Dataset[Probe](urls, store=store))
                except AtdataError:
                    continue
                assert found in versions
                whole += 1
            writing.result()
        assert list(atdata.Dataset[Probe](urls, store=store)) == versions[0]

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
        urls = store.write_shards(dataset_of(probes(8)), prefix="kept")
        before = self.listed(store)
        transaction = store.begin("kept", overwrite=True)
        sink = transaction.create("shard-000000.tar")
        sink.write(b"z")
        sink.close()
        transaction.abort()
        assert self.listed(store) == before
        self.check_content(store, urls, probes(8))

    def test_large_objects_are_streamed_in(self, store: DataStore) -> None:
        """A sink takes stretches of any length, more than a server takes in one part; an object may be empty too."""
        whole = random.Random(5).randbytes(21 << 20)  # noqa: S311
        transaction = store.begin("large", overwrite=False)
        sink, at = transaction.create("large.tar"), 0
        for length in (1, 0, 9 << 20, 8 << 20, 511, 1 << 20, 2 << 20):
            sink.write(whole[at : at + length])
            at += length
        sink.close()
        sink.abort()  # too late to do anything
        transaction.create("empty.tar").close()
        infos = [
            ShardInfo(name, len(data), 0, hashlib.sha256(data).hexdigest())
            for name, data in (("large.tar", whole[:at]), ("empty.tar", b""))
        ]
        large, empty = transaction.commit(CommitRecord(None, tuple(infos)))
        assert self.read(store, large) == whole[:at]
        assert b"".join(map(bytes, store.open(large).chunks())) == whole[:at]
        assert store.open(empty).size == 0
        assert self.read(store, empty) == b""

    def test_a_large_object_that_is_aborted_leaves_nothing(self, store: DataStore) -> None:
        """Also when parts of it were stored already."""
        before = self.remains(store)
        for _ in range(2):
            transaction = store.begin("given/up", overwrite=False)
            sink = transaction.create("shard-000000.tar")
            for _ in range(3):
                sink.write(bytes(8 << 20))
            sink.abort()
            transaction.abort()
            assert self.remains(store) == before

    def test_listing_knows_parts_of_names(self, store: DataStore) -> None:
        """What is listed under a prefix is under that prefix: not beside it, and not what only begins like it."""
        for prefix in ("a", "a/b", "a/b/c", "a-b", "ab", "A", "a b"):
            store.write_shards(dataset_of(probes(1)), prefix=prefix, manifest=False)
        everything = self.placed(store)
        assert len(everything) == 14
        assert {path.rsplit("/", 1)[1] for path in everything} == {RECORD_NAME, "shard-000000.tar"}
        for prefix, count in (("a", 6), ("a/b", 4), ("a/b/c", 2), ("ab", 2), ("A", 2), ("a b", 2), ("a/", 6), ("b", 0)):
            found = self.placed(store, prefix)
            assert len(found) == count, prefix
            assert found.items() <= everything.items()
            assert set(found.values()) == set(self.listed(store, prefix))
        for url in everything.values():
            assert store.open(url).size > 0

    def test_deleting_nothing_is_an_error(self, store: DataStore) -> None:
        """Deleting nothing is DatasetNotFoundError; listing nothing gives nothing."""
        store.write_shards(dataset_of(probes(2)), prefix="there")
        for prefix in ("nowhere", "there/deeper"):
            with pytest.raises(DatasetNotFoundError):
                store.delete(prefix)
            assert self.listed(store, prefix) == []

    def test_delete_removes_one_dataset(self, store: DataStore) -> None:
        """The dataset and its files are gone, others stay, and the prefix can be written again."""
        store.write_shards(dataset_of(probes(25)), prefix="gone", maxcount=10)
        kept = store.write_shards(dataset_of(probes(4)), prefix="gone/inner")
        beside = store.write_shards(dataset_of(probes(4)), prefix="gone2")
        others = self.placed(store, "gone/inner") | self.placed(store, "gone2")
        assert set(others.values()) >= {*kept, *beside}
        store.delete("gone")
        assert self.placed(store) == others
        self.check_content(store, kept, probes(4))
        with pytest.raises(DatasetNotFoundError):
            store.delete("gone")
        self.check_content(store, store.write_shards(dataset_of(probes(3)), prefix="gone"), probes(3))

    def test_delete_waits_for_no_writer(self, store: DataStore) -> None:
        """A dataset that is being overwritten cannot be deleted meanwhile."""
        store.write_shards(dataset_of(probes(3)), prefix="busy")
        transaction = store.begin("busy", overwrite=True)
        try:
            with pytest.raises(StoreBusyError):
                store.delete("busy")
        finally:
            transaction.abort()
        store.delete("busy")
        assert self.listed(store) == []

    @pytest.mark.parametrize(
        "prefix", [*HOSTILE_PREFIXES[1:], ".atdata-x", "a/.atdata.lock", "b{r}ace", "a::b", "q?x", "f#x"]
    )
    def test_hostile_prefixes_are_named(self, store: DataStore, prefix: str) -> None:
        """Every method that takes a prefix refuses it with UnsafeNameError, and nothing is written."""
        for call in (
            lambda: store.write_shards(dataset_of(probes(1)), prefix=prefix, overwrite=True),
            lambda: store.begin(prefix, overwrite=True),
            lambda: store.delete(prefix),
            lambda: list(store.list(prefix)),
        ):
            with pytest.raises(UnsafeNameError, match="cannot be used"):
                call()
        assert self.listed(store) == []

    # -- bad days --------------------------------------------------------------------------------------------

    def check_all_or_nothing(self, store: DataStore, prefix: str, *allowed: list[Probe]) -> list[Probe]:
        """Fail unless under `prefix` is one of these datasets, whole, or (empty) none; which it is."""
        urls = self.shards(store, prefix)
        found = list(atdata.Dataset[Probe](urls, store=store)) if urls else []
        assert found in allowed
        return found

    @pytest.mark.parametrize("lost", [False, True])
    def test_a_failure_at_any_step_of_a_write(self, store: DataStore, lost: bool) -> None:
        """Whichever step fails, or is done and its answer lost: nothing is there, or all; and a rerun completes."""
        old, new = probes(7), probes(12, first=500)
        faulty = FaultyStore(store)
        faulty.write_shards(dataset_of(new), prefix="counted", maxcount=8)
        steps = [name for name in faulty.operations if not lost or name in ("close", "commit")]
        for step, name in enumerate(steps):
            for before in ([], old):
                prefix = f"{step}-{len(before)}"
                if before:
                    store.write_shards(dataset_of(before), prefix=prefix, manifest=False)
                (faulty.lose_answer if lost else faulty.fail)(name, after=steps[:step].count(name))
                with pytest.raises(StoreError, match="as it was told to"):
                    faulty.write_shards(dataset_of(new), prefix=prefix, maxcount=8, overwrite=bool(before))
                found = self.check_all_or_nothing(store, prefix, before, new)
                assert (found == new) == (lost and name == "commit")
                store.write_shards(dataset_of(old), prefix=prefix, manifest=False, overwrite=True)
                self.check_all_or_nothing(store, prefix, old)
                assert self.names(store, prefix) == [RECORD_NAME, "shard-000000.tar"]

    def test_operations_fail_now_and_then(self, store: DataStore) -> None:
        """One operation in ten fails; writing and reading are tried until they succeed, and what comes out is right."""
        faulty = FaultyStore(store, fail_share=0.1, seed=11)
        samples = probes(20)

        def insist(what: Callable[[], Any]) -> Any:
            for _ in range(200):
                try:
                    return what()
                except StoreError:
                    continue
            raise AssertionError("it never succeeds")

        insist(lambda: faulty.write_shards(dataset_of(samples), prefix="luck", maxcount=6, overwrite=True))
        urls = insist(lambda: self.shards(faulty, "luck"))
        assert insist(lambda: list(atdata.Dataset[Probe](urls, store=faulty))) == samples
        assert self.check_all_or_nothing(store, "luck", samples)

    @pytest.mark.parametrize("manifest", [True, False])
    def test_bytes_that_are_wrong_are_never_seen(self, store: DataStore, manifest: bool) -> None:
        """A bit flipped, or bytes missing, in any read: fetched again, or an error."""
        samples = probes(6, size=3000)
        faulty = FaultyStore(store)
        urls = list(faulty.write_shards(dataset_of(samples), prefix="bits", maxcount=3, manifest=manifest))
        del faulty.operations[:]
        assert list(atdata.Dataset[Probe](urls, store=faulty)) == samples
        for number in range(faulty.operations.count("read")):
            for spoil in (faulty.flip_bit, faulty.shorten):
                for at in (0.0, 0.4, 0.99):
                    spoil(read=number, at=at)
                    seen: list[Probe] = []
                    try:
                        seen.extend(atdata.Dataset[Probe](urls, store=faulty))
                    except AtdataError:
                        pass
                    else:
                        assert len(seen) == len(samples)
                    assert seen == samples[: len(seen)]
