"""Datasets on a real S3 server in several processes and threads: they work, or say at once what to do."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import select
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dataset_samples import Digit, digits, labels_of

import atdata
from atdata.errors import ForkError, StoreError
from atdata.stores.s3 import S3DataStore
from servers.rgw import S3Server


@pytest.fixture
def store(rgw: S3Server, bucket: str) -> S3DataStore:
    return S3DataStore(rgw.credentials, bucket=bucket, share_credentials=True)


@pytest.fixture
def place(store: S3DataStore) -> str:
    store.write_shards(atdata.Dataset.from_samples(digits(25), Digit), prefix="v1", maxcount=10)
    return f"{store.base}v1"


class _HungError(Exception):
    """The child did not answer within the watchdog's time."""


def in_fork(work: Callable[[], str], seconds: float = 20.0) -> str:
    """What `work` gives in a forked child, or the type and text of its error; a child that hangs is killed."""
    receive, send = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of later Pythons, about forks of threaded processes
        pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.close(receive)
            try:
                answer = work()
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(send, answer.encode()[:60_000])
        os._exit(0)
    os.close(send)
    try:
        ready, _, _ = select.select([receive], [], [], seconds)
        if not ready:
            os.kill(pid, signal.SIGKILL)
            raise _HungError
        return os.read(receive, 65_536).decode()
    finally:
        os.close(receive)
        os.waitpid(pid, 0)


def test_forked_after_reading(store: S3DataStore, place: str) -> None:
    ds = atdata.Dataset[Digit](place, store=store)
    assert labels_of(ds) == list(range(25))
    for _ in range(3):
        for work in (
            lambda: str(labels_of(ds)),
            lambda: str(ds[3]),
            lambda: str(atdata.Dataset(place, store=store)),
            lambda: str(list(store.list())),
            lambda: str(store.write_shards(atdata.Dataset.from_samples(digits(2), Digit), prefix="v2")),
            lambda: str(atdata.Dataset(place, store=pickle.loads(pickle.dumps(store)))),
        ):
            answer = in_fork(work, 10)
            assert answer.startswith("ForkError: "), answer
            assert "forkserver" in answer
        assert labels_of(ds) == list(range(25))  # and the parent is as well as before


def test_an_iteration_that_crosses_a_fork(store: S3DataStore, place: str) -> None:
    found = iter(atdata.Dataset[Digit](place, store=store))
    assert next(found).label == 0
    assert in_fork(lambda: str([sample.label for sample in found]), 10).startswith("ForkError: ")
    assert [sample.label for sample in found] == list(range(1, 25))


def _fork_first(store: Any, place: str, send: Any) -> None:
    """In a process that has not read yet: its children may, each on its own, and then it may too."""
    answers = [in_fork(lambda: str(labels_of(atdata.Dataset(place, store=store)))) for _ in range(3)]
    answers.append(str(labels_of(atdata.Dataset(place, store=store))))
    answers.append(in_fork(lambda: str(labels_of(atdata.Dataset(place, store=store)))).split(":")[0])
    send.send(answers)


def test_forked_before_reading(store: S3DataStore, place: str) -> None:
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=_fork_first, args=(store, place, send))
    child.start()
    send.close()
    try:
        assert receive.poll(60)
        assert receive.recv() == [str(list(range(25)))] * 4 + ["ForkError"]
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
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
    ds = atdata.Dataset[Digit](place, store=store)
    list(ds)
    for _ in range(20):
        next(iter(ds))

    def ours() -> Iterator[threading.Thread]:
        return (thread for thread in threading.enumerate() if thread.name.startswith("atdata-ahead"))

    for thread in list(ours()):
        thread.join(20)
    assert list(ours()) == []


def test_the_error_says_what_it_is() -> None:
    assert issubclass(ForkError, StoreError)
