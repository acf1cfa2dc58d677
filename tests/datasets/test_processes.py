"""Datasets on a real S3 server in several processes and threads: they work, or say at once what to do."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dataset_samples import Digit, digits, labels_of

import atdata
from atdata.errors import AtdataError, ForkError, StoreError
from atdata.stores.cache import Cache
from atdata.stores.opening import open_store
from atdata.stores.s3 import S3DataStore
from forking import in_fork
from servers.rgw import S3Server


@pytest.fixture
def store(rgw: S3Server, bucket: str) -> S3DataStore:
    return S3DataStore(rgw.credentials, bucket=bucket, share_credentials=True)


@pytest.fixture
def place(store: S3DataStore) -> str:
    store.write_shards(atdata.Dataset.from_samples(digits(25), Digit), prefix="v1", maxcount=10)
    return f"{store.base}v1"


def test_forked_after_reading(store: S3DataStore, place: str) -> None:
    ds = atdata.Dataset[Digit](place, store=store)
    assert labels_of(ds) == list(range(25))
    url = ds.list_shards()[0]
    works: list[Callable[[], Any]] = [
        lambda: labels_of(ds),
        lambda: ds[3],
        lambda: ds.get("000000013"),
        lambda: [batch.label for batch in ds.ordered(batch_size=8)],
        lambda: labels_of(atdata.Dataset(place, store=store)),
        lambda: labels_of(atdata.Dataset(f"{place}/*.tar", store=pickle.loads(pickle.dumps(store)))),
        lambda: list(store.list()),
        lambda: hashlib.sha256(store.open(url).stream().read()).hexdigest(),
        lambda: urllib.request.urlopen(store.read_url(url), timeout=20).read()[:100],
        lambda: in_fork(lambda: str(labels_of(ds))),  # a fork of the fork
        lambda: store.get("nothing"),
    ]
    for _ in range(3):
        for work in works:
            expected = str(work())
            assert in_fork(lambda work=work: str(work())) == expected
        assert labels_of(ds) == list(range(25))  # and the parent is as well as before


def test_what_a_forked_process_cannot_do_it_says(store: S3DataStore, place: str) -> None:
    ds = atdata.Dataset[Digit](place, store=store)
    assert ds[0].label == 0
    for work in (
        lambda: store.write_shards(atdata.Dataset.from_samples(digits(2), Digit), prefix="v2"),
        lambda: store.delete("v1"),
    ):
        answer = in_fork(lambda work=work: str(work()), 10)
        assert answer.startswith("ForkError: "), answer
        assert "reading works" in answer
        assert "forkserver" in answer
    assert labels_of(ds) == list(range(25))
    assert all("v2" not in url for url in store.list())


def test_the_memory_of_a_forked_process_is_not_its_parents() -> None:
    store = open_store("memory://forked")
    urls = store.write_shards(atdata.Dataset.from_samples(digits(2), Digit), prefix="v1")
    answer = in_fork(lambda: str(labels_of(atdata.Dataset(urls, store=store))), 10)
    assert answer.startswith("ForkError: "), answer
    assert "forkserver" in answer
    assert "reading works" not in answer


def test_errors_are_the_same_in_a_forked_process(rgw: S3Server, store: S3DataStore, place: str, bucket: str) -> None:
    wrong = rgw.credentials | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    stranger = rgw.credentials | {"AWS_ACCESS_KEY_ID": "nobody"}
    rgw.request("PUT", f"/{bucket}/v1/shard-000002.tar", body=b"another")
    works: list[Callable[[], Any]] = [
        lambda: atdata.Dataset(f"{store.base}none", store=store),
        lambda: store.open(f"{store.base}none"),
        lambda: store.open(f"{store.base}v1/shard-000000.tar").read(1_000_000, 1_000_010),
        lambda: store.open(f"{store.base}v1/shard-000000.tar").read(0, 1_000_000),
        lambda: labels_of(atdata.Dataset(place, store=store)),
        lambda: atdata.Dataset("s3://no-such-bucket/v1", store=S3DataStore(rgw.credentials, bucket="no-such-bucket")),
        lambda: atdata.Dataset(place, store=S3DataStore(wrong, bucket=bucket)),
        lambda: atdata.Dataset(place, store=S3DataStore(stranger, bucket=bucket)),
        lambda: list(S3DataStore(wrong, bucket=bucket).list()),
    ]
    for work in works:
        with pytest.raises(AtdataError) as caught:
            work()
        kind, url = type(caught.value).__name__, caught.value.url
        answer = in_fork(lambda work=work: str(work()))
        assert answer.startswith(f"{kind}: "), answer
        assert f"[{url}" in answer
        assert "Signature" not in answer
        if kind in ("DatasetNotFoundError", "AccessDeniedError", "IntegrityError"):
            assert answer == f"{kind}: {caught.value}"


def test_an_iteration_that_crosses_a_fork(store: S3DataStore, place: str) -> None:
    found = iter(atdata.Dataset[Digit](place, store=store))
    assert next(found).label == 0
    assert in_fork(lambda: str([sample.label for sample in found]), 10).startswith("ForkError: ")
    assert [sample.label for sample in found] == list(range(1, 25))


@pytest.mark.slow
def test_forks_while_threads_read(store: S3DataStore, tmp_path: Path) -> None:
    """A fork meets the parent's threads in the middle of anything; of what takes long, in particular."""
    store.write_shards(atdata.Dataset.from_samples(digits(20_000), Digit), prefix="many")
    stop = threading.Event()

    def read(cache: Path | None = None) -> str:
        ds = atdata.Dataset[Digit](f"{store.base}many", store=store, cache=cache)
        return str(ds.get("000000013").label)

    def go_on(cached: bool) -> None:
        while not stop.is_set():
            assert read(tmp_path / f"{time.monotonic_ns()}" if cached else None) == "13"

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(go_on, cached) for cached in (False, False, False, True)]
        try:
            for number in range(30):
                assert in_fork(partial(read, tmp_path / "shared" if number % 3 == 2 else None)) == "13"
        finally:
            stop.set()
        for reader in readers:
            reader.result(60)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of later Pythons, about threaded processes
def test_workers_of_pytorch_as_it_comes(rgw: S3Server, place: str, bucket: str) -> None:
    import torch

    loader_of = partial(torch.utils.data.DataLoader, batch_size=None, shuffle=False)
    ds = atdata.Dataset[Digit](place, store=S3DataStore(rgw.credentials, bucket=bucket))  # which cannot be pickled
    assert [sample.label for sample in loader_of(ds, num_workers=0)] == list(range(25))
    for _ in range(2):
        assert [sample.label for sample in loader_of(ds, num_workers=2, timeout=60)] == list(range(25))


def test_a_fork_that_waits_for_its_parent_to_fetch_a_shard(tmp_path: Path) -> None:
    """A child has open what its parent has open, also the file by which the parent keeps others waiting."""
    data = b"a shard"
    sha256 = hashlib.sha256(data).hexdigest()
    answers: list[Future[str]] = []
    asked = tmp_path / "asked"

    def add(chunks: Callable[[], Iterator[bytes]]) -> str:
        return str(Cache(tmp_path / "cache").add(sha256, chunks, url="s3://bucket/shard.tar").read_bytes())

    def chunks() -> Iterator[bytes]:
        answers.append(pool.submit(in_fork, lambda: (asked.touch(), add(lambda: iter([data])))[1]))
        while not asked.exists():  # until the child is there
            assert not answers[0].done()
            time.sleep(0.01)
        yield data

    with ThreadPoolExecutor(1) as pool:
        assert add(chunks) == str(data)
        assert answers[0].result(30) == str(data)


def _fork_first(store: Any, place: str, send: Any) -> None:
    """In a process that has not read yet: its children may, each on its own, and then it may too."""
    answers = [in_fork(lambda: str(labels_of(atdata.Dataset(place, store=store)))) for _ in range(3)]
    answers.append(str(labels_of(atdata.Dataset(place, store=store))))
    answers.append(in_fork(lambda: str(labels_of(atdata.Dataset(place, store=store)))))
    send.send(answers)


def test_forked_before_reading(store: S3DataStore, place: str) -> None:
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=_fork_first, args=(store, place, send))
    child.start()
    send.close()
    try:
        assert receive.poll(60)
        assert receive.recv() == [str(list(range(25)))] * 5
    finally:
        child.kill()
        child.join()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of later Pythons, about threaded processes
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_other_processes_after_reading(store: S3DataStore, place: str, method: str) -> None:
    ds = atdata.Dataset[Digit](place, store=store)
    assert ds[3].label == 3
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        found = list(pool.map(labels_of, [ds, ds.take(5), ds], timeout=60))
    assert found == [list(range(25)), list(range(5)), list(range(25))]
    assert ds[4].label == 4


def test_a_worker_finds_the_credentials_in_a_file(rgw: S3Server, place: str, bucket: str, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}={value}\n" for name, value in rgw.credentials.items()))
    ds = atdata.Dataset[Digit](place, store=S3DataStore(file, bucket=bucket))
    assert rgw.secret_key.encode() not in pickle.dumps(ds)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(labels_of, ds).result(60) == list(range(25))


def test_what_cannot_be_sent_says_so(rgw: S3Server, place: str, bucket: str) -> None:
    ds = atdata.Dataset[Digit](place, store=S3DataStore(rgw.credentials, bucket=bucket))
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        pytest.raises(StoreError, match="share_credentials"),
    ):
        pool.submit(labels_of, ds).result(60)


def test_threads(store: S3DataStore, place: str) -> None:
    ds = atdata.Dataset[Digit](place, store=store)
    samples = digits(25)

    def work(number: int) -> bool:
        return (
            list(ds) == samples
            and [ds[(number + n) % 25] for n in range(5)] == [samples[(number + n) % 25] for n in range(5)]
            and ds.get(f"{number:09d}") == samples[number]
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8), timeout=60))


def test_abandoned_iterations_leave_no_threads(store: S3DataStore, place: str) -> None:
    of_others = set(threading.enumerate())
    ds = atdata.Dataset[Digit](place, store=store)
    list(ds)
    for _ in range(20):
        next(iter(ds))

    def ours() -> Iterator[threading.Thread]:
        new = (thread for thread in threading.enumerate() if thread not in of_others)
        return (thread for thread in new if thread.name.startswith("atdata-ahead"))

    for thread in list(ours()):
        thread.join(20)
    assert list(ours()) == []


def test_the_error_says_what_it_is() -> None:
    assert issubclass(ForkError, StoreError)
