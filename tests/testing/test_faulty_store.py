"""A store on a bad day does what it is told, and what is above it takes it well."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

import atdata
from atdata.errors import DatasetExistsError, IntegrityError, StoreError
from atdata.testing import FaultyStore
from atdata.testing.probes import Probe, dataset_of, probes


@pytest.fixture
def disk(tmp_path: Path) -> atdata.LocalDiskStore:
    return atdata.LocalDiskStore(tmp_path)


@pytest.fixture
def faulty(disk: atdata.LocalDiskStore) -> FaultyStore:
    return FaultyStore(disk)


def write(store: Any, prefix: str = "v1", **options: Any) -> list[str]:
    return list(store.write_shards(dataset_of(probes(6)), prefix=prefix, maxcount=3, **options))


def test_without_faults_it_is_the_store(disk: atdata.LocalDiskStore, faulty: FaultyStore) -> None:
    urls = write(faulty)
    assert urls == list(faulty.list("v1"))[3::3]
    assert [faulty.read_url(url) for url in urls] == urls
    assert faulty.supports_streaming() == disk.supports_streaming()
    for store in (disk, faulty):
        assert list(atdata.Dataset[Probe](urls, store=store)) == probes(6)
        assert atdata.Dataset[Probe](urls, store=store)[4] == probes(6)[4]
    assert {"open", "read", "list"} <= set(faulty.operations)
    assert repr(faulty) == f"FaultyStore({disk!r})"
    faulty.delete("v1")
    assert list(disk.list()) == []


def test_a_dataset_reads_through_it_by_its_prefix_too(disk: atdata.LocalDiskStore, faulty: FaultyStore) -> None:
    write(disk)
    prefix = str(disk.root / "v1")
    assert list(atdata.Dataset[Probe](prefix, store=faulty)) == probes(6)
    assert faulty.operations.count("open") == 5  # the record, and manifest and shard of each
    faulty.fail("read")
    with pytest.raises(StoreError, match="'read' fails, as it was told to") as caught:
        list(atdata.Dataset[Probe](prefix, store=faulty))
    assert str(caught.value.url).startswith(prefix)


@pytest.mark.parametrize("operation", ["begin", "create", "write", "close", "commit"])
def test_an_operation_that_fails_is_not_done(disk: atdata.LocalDiskStore, faulty: FaultyStore, operation: str) -> None:
    faulty.fail(operation)
    with pytest.raises(StoreError, match=f"'{operation}' fails"):
        write(faulty)
    assert list(disk.list()) == []
    assert faulty.operations[-1] == operation
    write(faulty)


def test_the_answer_to_a_commit_is_lost(disk: atdata.LocalDiskStore, faulty: FaultyStore) -> None:
    faulty.lose_answer("commit")
    with pytest.raises(StoreError, match="answer to the operation 'commit' is lost"):
        write(faulty)
    assert list(atdata.Dataset[Probe](str(disk.root / "v1"))) == probes(6)
    with pytest.raises(DatasetExistsError):
        write(faulty)
    faulty.lose_answer("delete")
    with pytest.raises(StoreError, match="is lost"):
        faulty.delete("v1")
    assert list(disk.list()) == []
    with pytest.raises(ValueError, match="not to read"):
        faulty.lose_answer("read")


def test_the_one_after_so_many_others_fails(faulty: FaultyStore) -> None:
    faulty.fail("list", after=2)
    faulty.fail(after=4)
    outcomes = []
    for _ in range(7):
        try:
            outcomes.append(list(faulty.list()))
        except StoreError:
            outcomes.append(None)
    assert outcomes == [[], [], None, [], None, [], []]


def test_each_so_manieth_and_a_share_fail(disk: atdata.LocalDiskStore) -> None:
    def outcomes(**faults: Any) -> str:
        faulty, found = FaultyStore(disk, **faults), ""
        for _ in range(40):
            for operation in (lambda: list(faulty.list()), lambda: faulty.begin("v1", overwrite=False).abort()):
                try:
                    operation()
                    found += "."
                except StoreError:
                    found += "x"
        return found

    assert outcomes(fail_every=4) == "...x" * 20
    assert outcomes(fail_every=2, only=["begin"]) == "...x" * 20
    first = outcomes(fail_share=0.2, seed=3)
    assert 5 < first.count("x") < 35
    assert outcomes(fail_share=0.2, seed=3) == first
    assert outcomes(fail_share=0.2, seed=4) != first
    assert "x" not in outcomes()


def test_bits_flip_and_reads_are_short(disk: atdata.LocalDiskStore, faulty: FaultyStore) -> None:
    url = write(disk)[0]
    whole = Path(url).read_bytes()
    found = faulty.open(url)
    faulty.flip_bit(at=0.5)
    data = found.read(100, 200)
    assert [at for at in range(100) if data[at] != whole[100 + at]] == [50]
    assert found.read(100, 200) == whole[100:200]
    faulty.shorten(read=1, at=0.25)
    assert [len(found.read(100, 200)) for _ in range(3)] == [100, 25, 100]
    with found.stream() as stream:
        faulty.shorten(at=0.0)
        assert stream.read() == b""
    with found.stream() as stream:
        assert stream.read() == whole


@pytest.mark.parametrize("spoil", ["flip_bit", "shorten"])
def test_what_is_wrong_twice_is_an_error(disk: atdata.LocalDiskStore, faulty: FaultyStore, spoil: str) -> None:
    urls = write(disk)
    dataset = atdata.Dataset[Probe](urls, store=faulty)
    assert dataset[0] == probes(1)[0]
    getattr(faulty, spoil)()
    assert dataset[1] == probes(2)[1]  # fetched again
    getattr(faulty, spoil)(read=0)
    getattr(faulty, spoil)(read=1)
    with pytest.raises((IntegrityError, StoreError)) as caught:
        dataset[2]
    assert caught.value.url == urls[0]


def test_it_takes_its_time(faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("atdata.testing.faults.time.sleep", waited.append)
    faulty.latency = 0.03
    write(faulty)
    assert waited == [0.03] * len(faulty.operations)


def test_it_is_pickled_with_its_faults(disk: atdata.LocalDiskStore, faulty: FaultyStore) -> None:
    urls = write(disk)
    faulty.fail("open", after=1)
    copy = pickle.loads(pickle.dumps(faulty))
    assert copy.open(urls[0]).size == faulty.open(urls[0]).size
    for store in (copy, faulty):
        with pytest.raises(StoreError, match="'open' fails"):
            store.open(urls[0])
