"""`S3DataStore` on a real S3 server: names, credentials, failures, and other writers."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import re
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import (
    AccessDeniedError,
    AtdataError,
    DatasetExistsError,
    DatasetNotFoundError,
    IntegrityError,
    StoreBusyError,
    StoreError,
    UnsafeNameError,
)
from atdata.stores import s3
from atdata.stores.s3 import S3DataStore
from atdata.testing import FaultProxy
from servers.rgw import RGW, S3Server

CLAIM = ".atdata-claims/000000.json"


@atdata.packable
class Block:
    """A sample as large as one likes, of bytes that do not repeat."""

    data: NDArray[np.uint8]
    number: int


def block(number: int, size: int = 1000) -> Block:
    return Block(np.random.default_rng(number).integers(0, 256, size, np.uint8), number)


def blocks(count: int, size: int = 1000) -> list[Block]:
    return [block(number, size) for number in range(count)]


def dataset(samples: Any) -> atdata.Dataset[Block]:
    return atdata.Dataset.from_samples(samples, Block)


def read(store: S3DataStore, prefix: str) -> list[Block]:
    return list(atdata.Dataset[Block](f"{store.base}{prefix}", store=store))


@pytest.fixture
def store(rgw: S3Server, bucket: str) -> S3DataStore:
    return S3DataStore(rgw.credentials, bucket=bucket)


@pytest.fixture
def faulty(rgw: S3Server, bucket: str, fault_proxy: FaultProxy) -> S3DataStore:
    """The same bucket by the faulty network."""
    return S3DataStore(rgw.through(fault_proxy).credentials, bucket=bucket)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is gone is given up sooner, so that the tests do not wait for it."""
    monkeypatch.setitem(s3.RETRIES, "max_retries", 3)


# -- what is promised ----------------------------------------------------------------------------------------


def test_the_shards_have_the_names_that_were_promised(rgw: S3Server, store: S3DataStore, bucket: str) -> None:
    urls = store.write_shards(dataset(blocks(5)), prefix="training/v1", maxcount=2)
    assert urls == [f"s3://{bucket}/training/v1/shard-{n:06d}.tar" for n in range(3)]
    names = {key.removeprefix("training/v1/") for key in rgw.keys(bucket)}
    assert names == {"atdata.json"} | {
        f"shard-{n:06d}.{kind}" for n in range(3) for kind in ("tar", "manifest.parquet", "manifest.json")
    }
    assert not rgw.uploads(bucket)
    assert read(store, "training/v1") == blocks(5)


def test_a_presigned_url_needs_no_credentials(store: S3DataStore) -> None:
    urls = store.write_shards(dataset(blocks(2)), prefix="v1")
    with urllib.request.urlopen(store.read_url(urls[0]), timeout=20) as answer:
        data = answer.read()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = archive.getnames()
    assert found == ["000000000.msgpack", "000000001.msgpack"]


def test_a_shard_of_many_parts(rgw: S3Server, store: S3DataStore, bucket: str) -> None:
    samples = blocks(10, 2 << 20)
    urls = store.write_shards(dataset(iter(samples)), prefix="v1")
    assert len(urls) == 1
    assert urls.shards[0].size > 20 << 20
    assert rgw.request("HEAD", f"/{bucket}/v1/shard-000000.tar").headers["etag"].strip('"').endswith("-3")
    assert read(store, "v1") == samples


def test_parts_are_not_hashed_for_their_signature(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    """What has their digests, the record, is: whatever alters them on the way is found when they are read."""
    faulty.write_shards(dataset(blocks(10, 2 << 20)), prefix="v1")
    sent = [(r, r.headers.get("x-amz-content-sha256")) for r in fault_proxy.requests() if r.method == "PUT"]
    parts = [how for request, how in sent if "partNumber=" in request.path]
    assert parts == ["UNSIGNED-PAYLOAD"] * 3
    others = {request.path.rpartition("/")[2]: how for request, how in sent if "partNumber=" not in request.path}
    assert {"atdata.json", "shard-000000.manifest.parquet", "shard-000000.manifest.json"} <= set(others)
    assert all(re.fullmatch("[0-9a-f]{64}", how or "") for how in others.values())


@pytest.mark.parametrize("prefix", ["with space/a b", "per%20cent/100%", "a+b/c&d=e", "ünïcode/日本", "tilde~/a(b)!"])
def test_any_prefix_that_can_be_stored(rgw: S3Server, store: S3DataStore, bucket: str, prefix: str) -> None:
    urls = store.write_shards(dataset(blocks(2)), prefix=prefix)
    assert urls == [f"s3://{bucket}/{prefix}/shard-000000.tar"]
    assert f"{prefix}/shard-000000.tar" in rgw.keys(bucket)
    assert read(store, prefix) == blocks(2)
    assert urls[0] in list(store.list(prefix))
    with urllib.request.urlopen(store.read_url(urls[0]), timeout=20) as answer:
        assert len(answer.read()) == urls.shards[0].size
    assert list(atdata.Dataset[Block]([store.read_url(urls[0])])) == blocks(2)


@pytest.mark.parametrize("name", ["a/b", "", "x", "../up", "sp ace", "https://host/bucket"])
def test_what_is_no_bucket_name(rgw: S3Server, name: str) -> None:
    with pytest.raises(UnsafeNameError, match="not a bucket name"):
        S3DataStore(rgw.credentials, bucket=name)


def test_urls_of_another_bucket_are_refused(store: S3DataStore) -> None:
    for url in ("s3://another/shard-000000.tar", "gs://x/y.tar", f"{store.base[:-1]}-2/y.tar"):
        for use in (store.open, store.read_url):
            with pytest.raises(UnsafeNameError, match="does not belong"):
                use(url)
    with pytest.raises(UnsafeNameError):
        atdata.Dataset("s3://another/prefix/", store=store)


# -- credentials ---------------------------------------------------------------------------------------------


def test_credentials_by_file_and_environment(
    rgw: S3Server, store: S3DataStore, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_shards(dataset(blocks(2)), prefix="v1")
    file = tmp_path / ".env"
    file.write_text("# keys\nexport OTHER=1\n" + "".join(f"{k} = '{v}'\n" for k, v in rgw.credentials.items()))
    by_file = S3DataStore(file, bucket=bucket)
    again = pickle.loads(pickle.dumps(by_file))
    assert read(again, "v1") == blocks(2)
    for name, value in rgw.credentials.items():
        monkeypatch.setenv(name, value)
    by_environment = S3DataStore(bucket=bucket)
    assert read(pickle.loads(pickle.dumps(by_environment)), "v1") == blocks(2)
    assert list(atdata.Dataset[Block](f"s3://{bucket}/v1/")) == blocks(2)
    for data in (pickle.dumps(by_file), pickle.dumps(by_environment)):
        assert rgw.secret_key.encode() not in data
        assert rgw.access_key.encode() not in data


def test_a_mapping_is_pickled_only_on_request(rgw: S3Server, store: S3DataStore, bucket: str) -> None:
    urls = store.write_shards(dataset(blocks(2)), prefix="v1")
    for what in (store, atdata.Dataset(urls, store=store)):
        with pytest.raises(StoreError, match="share_credentials") as caught:
            pickle.dumps(what)
        assert rgw.secret_key not in str(caught.value)
    sharing = S3DataStore(rgw.credentials, bucket=bucket, share_credentials=True)
    assert read(pickle.loads(pickle.dumps(sharing)), "v1") == blocks(2)


def test_no_text_holds_credentials(
    rgw: S3Server, store: S3DataStore, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    urls = store.write_shards(dataset(blocks(2)), prefix="v1")
    texts = [repr(store), str(store), repr(atdata.Dataset(urls, store=store)), repr(urls)]
    wrong = S3DataStore({**rgw.credentials, "AWS_SECRET_ACCESS_KEY": "wr0ng-secret"}, bucket=bucket)
    for attempt in (
        lambda: store.open(store.base + "missing.tar"),
        lambda: read(wrong, "v1"),
        lambda: wrong.write_shards(dataset(blocks(1)), prefix="v2"),
        lambda: read(S3DataStore(rgw.credentials, bucket="there-is-none"), "v1"),
    ):
        with pytest.raises(AtdataError) as caught:
            attempt()
        texts += [str(caught.value), repr(caught.value), repr(vars(caught.value))]
    texts.append(caplog.text)
    record = rgw.request("GET", f"/{bucket}/v1/atdata.json").body.decode()
    for text in [*texts, record]:
        assert "wr0ng-secret" not in text
        assert rgw.secret_key not in text
        assert rgw.access_key not in text
        assert "Signature=" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "NOBODY"}, "access key"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "secret key is wrong"),
    ],
)
def test_wrong_keys_are_told_at_once(rgw: S3Server, bucket: str, change: dict[str, str], message: str) -> None:
    wrong = S3DataStore({**rgw.credentials, **change}, bucket=bucket)
    began = time.monotonic()
    with pytest.raises(AccessDeniedError, match=message):
        atdata.Dataset(f"s3://{bucket}/v1/", store=wrong)
    with pytest.raises(AccessDeniedError, match=message):
        wrong.write_shards(dataset(blocks(1)), prefix="v1")
    with pytest.raises(AccessDeniedError, match="denied"):  # the answer to a HEAD says no more
        wrong.open(f"s3://{bucket}/v1/shard-000000.tar")
    assert time.monotonic() - began < 5


def test_a_bucket_that_is_not_there(rgw: S3Server) -> None:
    store = S3DataStore(rgw.credentials, bucket="there-is-none")
    for attempt in (
        lambda: atdata.Dataset("s3://there-is-none/v1/", store=store),
        lambda: atdata.Dataset("s3://there-is-none/v1/*.tar", store=store),
        lambda: store.write_shards(dataset(blocks(1)), prefix="v1"),
        lambda: list(store.list()),
        lambda: store.delete("v1"),
    ):
        with pytest.raises(StoreError, match=r"bucket.* does not exist") as caught:
            attempt()
        assert not isinstance(caught.value, DatasetNotFoundError)


def test_what_is_denied(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    fault_proxy.answer_next(403, count=10)
    with pytest.raises(AccessDeniedError, match="access denied"):
        read(faulty, "v1")
    assert len(fault_proxy.requests()) == 2  # the second to learn why


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "a"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT": "host:80"}, "AWS_ENDPOINT"),
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT": "http://u:p@host"}, "AWS_ENDPOINT"),
    ],
)
def test_credentials_that_cannot_be(given: dict[str, str], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        S3DataStore(given, bucket="some-bucket")


def test_a_credentials_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="credentials file"):
        S3DataStore(tmp_path / "none.env", bucket="some-bucket").open("s3://some-bucket/a.tar")


# -- a bad network -------------------------------------------------------------------------------------------


def test_one_request_in_ten_fails(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    fault_proxy.set(fail_share=0.1, seed=3)
    faulty.write_shards(dataset(blocks(30)), prefix="v1", maxcount=5)
    assert read(faulty, "v1") == blocks(30)
    assert any(request.status == 503 for request in fault_proxy.requests())


@pytest.mark.parametrize("reset", [False, True])
def test_every_connection_is_cut_after_a_megabyte(
    store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy, reset: bool
) -> None:
    samples = blocks(12, 400_000)
    store.write_shards(dataset(samples), prefix="v1", maxcount=6)
    store.write_shards(dataset(samples), prefix="v2", maxcount=6, manifest=False)
    fault_proxy.set(cut_after=1_000_000, cut_reset=reset)
    assert read(faulty, "v1") == samples
    assert read(faulty, "v2") == samples


def test_a_network_that_stands_still_for_a_moment(
    store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy
) -> None:
    store.write_shards(dataset(blocks(30)), prefix="v1", maxcount=5)
    found = iter(atdata.Dataset[Block](f"{faulty.base}v1", store=faulty))
    first = next(found)
    fault_proxy.stall(seconds=1)
    assert [first, *found] == blocks(30)


def test_connections_reset_while_writing(store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    def samples() -> Iterator[Block]:
        for number in range(20):
            if number % 5 == 4:
                fault_proxy.reset()
            yield block(number, 1 << 20)

    faulty.write_shards(dataset(samples()), prefix="v1", maxcount=12)
    assert read(store, "v1") == blocks(20, 1 << 20)


def test_the_answer_to_the_commit_is_lost(faulty: S3DataStore, fault_proxy: FaultProxy) -> None:
    samples = blocks(3)

    def losing() -> Iterator[Block]:
        yield from samples
        fault_proxy.lose_answers("PUT", count=1)

    for n in range(3):  # whichever PUT it is that is hit
        faulty.write_shards(dataset(losing()), prefix=f"v{n}", manifest=bool(n))
        assert read(faulty, f"v{n}") == samples
    record = f"{faulty.base}v9/atdata.json"
    fault_proxy.lose_answers("PUT")
    faulty.put(faulty.key(record), b"mine", create=True)
    with pytest.raises(DatasetExistsError):
        faulty.put(faulty.key(record), b"another's", create=True)


def test_the_answer_that_ends_an_upload_is_lost(
    rgw: S3Server, store: S3DataStore, faulty: S3DataStore, fault_proxy: FaultProxy, bucket: str
) -> None:
    samples = blocks(8, 4 << 20)

    def losing() -> Iterator[Block]:
        for sample in samples:
            if sample.number == 7:
                until = time.monotonic() + 60
                while not any("uploadId" in request.path for request in fault_proxy.requests("PUT")):
                    assert time.monotonic() < until
                fault_proxy.lose_answers("POST")
            yield sample

    faulty.write_shards(dataset(losing()), prefix="v1")
    assert read(store, "v1") == samples
    assert rgw.uploads(bucket) == []


# -- failed writes -------------------------------------------------------------------------------------------


class _UserError(Exception):
    pass


def failing(count: int, size: int = 1000) -> Iterator[Block]:
    yield from blocks(count, size)
    raise _UserError


@pytest.mark.parametrize("size", [1000, 6 << 20])
def test_a_failed_write_leaves_nothing(rgw: S3Server, store: S3DataStore, bucket: str, size: int) -> None:
    with pytest.raises(_UserError):
        store.write_shards(dataset(failing(5, size)), prefix="v1", maxcount=3)
    assert rgw.keys(bucket) == []
    assert rgw.uploads(bucket) == []
    store.write_shards(dataset(blocks(2)), prefix="v1")
    assert read(store, "v1") == blocks(2)


def test_a_failed_overwrite_keeps_the_dataset(rgw: S3Server, store: S3DataStore, bucket: str) -> None:
    store.write_shards(dataset(blocks(6)), prefix="v1", maxcount=2)
    before = rgw.keys(bucket)
    with pytest.raises(_UserError):
        store.write_shards(dataset(failing(9)), prefix="v1", maxcount=2, overwrite=True)
    assert rgw.keys(bucket) == before
    assert read(store, "v1") == blocks(6)
    with pytest.raises(DatasetExistsError):
        store.write_shards(dataset(blocks(1)), prefix="v1")
    store.write_shards(dataset(blocks(3, 50)), prefix="v1", overwrite=True)
    assert read(store, "v1") == blocks(3, 50)
    assert rgw.keys(bucket) == [f"v1/{n}" for n in ("atdata.json", *(f"shard-000000.{e}" for e in _ENDS))]


_ENDS = ("manifest.json", "manifest.parquet", "tar")


def test_a_server_killed_during_a_write(own_rgw: RGW, impatient: None) -> None:
    bucket = own_rgw.make_bucket()
    store = S3DataStore(own_rgw.credentials, bucket=bucket)

    def killing() -> Iterator[Block]:
        for number in range(12):
            if number == 7:
                until = time.monotonic() + 60
                while not any(key.endswith(".tar") for key in own_rgw.keys(bucket)):
                    assert time.monotonic() < until
                own_rgw.kill()
            yield block(number, 100_000)

    began = time.monotonic()
    with pytest.raises(StoreError):
        store.write_shards(dataset(killing()), prefix="v1", maxcount=2)
    assert time.monotonic() - began < 30
    own_rgw.resume()
    assert any(key.endswith(".tar") for key in own_rgw.keys(bucket))
    assert list(store.list("v1")) == []
    with pytest.raises(DatasetNotFoundError):
        read(store, "v1")
    store.write_shards(dataset(blocks(3)), prefix="v1", maxcount=2)  # in the same process, and with fewer shards
    assert read(store, "v1") == blocks(3)
    assert list(atdata.Dataset[Block](f"s3://{bucket}/v1/*.tar", store=store)) == blocks(3)
    assert len(own_rgw.keys(bucket)) == 7


def test_a_server_killed_during_a_read(own_rgw: RGW, impatient: None) -> None:
    bucket = own_rgw.make_bucket()
    store = S3DataStore(own_rgw.credentials, bucket=bucket)
    samples = blocks(400, 1000)
    store.write_shards(dataset(samples), prefix="v1", maxcount=4)
    seen: list[Block] = []

    def killing() -> None:
        read = atdata.Dataset[Block](f"s3://{bucket}/v1", store=store)
        for sample in read.ordered(budget=50_000):  # so that the rest is not there already
            seen.append(sample)
            if len(seen) == 10:
                own_rgw.kill()

    began = time.monotonic()
    with pytest.raises(StoreError, match="cannot be read, also when asked 4 times"):
        killing()
    assert time.monotonic() - began < 30
    assert seen == samples[: len(seen)]
    own_rgw.resume()
    assert read(store, "v1") == samples


# -- several writers -----------------------------------------------------------------------------------------


def test_two_writers_on_one_prefix(store: S3DataStore, rgw: S3Server, bucket: str) -> None:
    other = S3DataStore(rgw.credentials, bucket=bucket)
    at_work, done = threading.Event(), threading.Event()
    found: list[Any] = []

    def slow() -> Iterator[Block]:
        yield block(0)
        at_work.set()
        assert done.wait(60)
        yield block(1)

    first = threading.Thread(target=lambda: found.append(store.write_shards(dataset(slow()), prefix="v1")))
    first.start()
    try:
        assert at_work.wait(60)
        for overwrite in (False, True):
            with pytest.raises(StoreBusyError):
                other.write_shards(dataset(blocks(5)), prefix="v1", overwrite=overwrite)
    finally:
        done.set()
        first.join(60)
    assert len(found) == 1
    assert read(store, "v1") == blocks(2)


def test_of_two_that_take_over_one_does(rgw: S3Server, bucket: str) -> None:
    """The claim of a writer that is gone is there for everybody to find."""
    for round_ in range(5):
        rgw.request("PUT", f"/{bucket}/v{round_}/{CLAIM}", body=b"nobody's")
        gate = threading.Barrier(4)

        def write(number: int, prefix: str = f"v{round_}", gate: threading.Barrier = gate) -> bool:
            store = S3DataStore(rgw.credentials, bucket=bucket)
            gate.wait(60)
            try:
                store.write_shards(dataset([block(100 * number + n) for n in range(6)]), prefix=prefix, maxcount=2)
            except (StoreBusyError, DatasetExistsError):
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(write, range(4)))
        assert won.count(True) == 1
        first = 100 * won.index(True)
        assert read(S3DataStore(rgw.credentials, bucket=bucket), f"v{round_}") == [block(first + n) for n in range(6)]
        assert len([key for key in rgw.keys(bucket, f"v{round_}/") if ".atdata-claims" not in key]) == 10


@pytest.mark.parametrize(
    ("host", "pid", "minutes", "busy"),
    [
        ("elsewhere", 1, 5, True),
        ("elsewhere", 1, 90, False),  # not renewed for long
        ("here", 1, 90, True),  # that process is alive
        ("here", 2**22 + 1, 0, False),  # there is no such process
        ("a container of the same name", 2**22 + 1, 0, True),  # whose processes cannot be seen from here
    ],
)
def test_the_claims_of_other_writers(
    rgw: S3Server, store: S3DataStore, bucket: str, host: str, pid: int, minutes: int, busy: bool
) -> None:
    since = datetime.now(UTC) - timedelta(minutes=minutes)
    store.begin("other", overwrite=False)
    here = json.loads(rgw.request("GET", f"/{bucket}/other/{CLAIM}").body)["host"]
    rgw.request("DELETE", f"/{bucket}/other/{CLAIM}")
    assert os.uname().nodename not in here  # which others may read
    claim = {"writer": "w", "host": here if host == "here" else host, "pid": pid, "since": since.isoformat()}
    rgw.request("PUT", f"/{bucket}/v1/{CLAIM}", body=json.dumps(claim).encode())
    rgw.request("PUT", f"/{bucket}/v1/shard-000007.tar", body=b"unfinished")
    if busy:
        with pytest.raises(StoreBusyError):
            store.write_shards(dataset(blocks(2)), prefix="v1")
        assert len(rgw.keys(bucket)) == 2
    else:
        store.write_shards(dataset(blocks(2)), prefix="v1")
        assert read(store, "v1") == blocks(2)
        assert len(rgw.keys(bucket)) == 4


def test_a_writer_whose_place_was_taken_changes_nothing(rgw: S3Server, store: S3DataStore, bucket: str) -> None:
    def taken() -> Iterator[Block]:
        yield from blocks(3)
        rgw.request("PUT", f"/{bucket}/v1/{CLAIM}", body=b"another's")

    with pytest.raises(StoreBusyError, match="took over"):
        store.write_shards(dataset(taken()), prefix="v1", manifest=False)
    assert rgw.request("GET", f"/{bucket}/v1/{CLAIM}").body == b"another's"
    assert rgw.request("HEAD", f"/{bucket}/v1/atdata.json").status == 404
    store.write_shards(dataset(blocks(2)), prefix="v1")  # that claim names nobody
    assert read(store, "v1") == blocks(2)


def test_files_of_others_are_not_touched(rgw: S3Server, store: S3DataStore, bucket: str) -> None:
    rgw.request("PUT", f"/{bucket}/v1/notes.txt", body=b"mine")
    rgw.request("PUT", f"/{bucket}/v1/sub/shard-000000.tar", body=b"mine too")
    store.write_shards(dataset(blocks(2)), prefix="v1")
    store.write_shards(dataset(blocks(1)), prefix="v1", overwrite=True)
    store.delete("v1")
    assert rgw.keys(bucket) == ["v1/notes.txt", "v1/sub/shard-000000.tar"]


def test_an_object_that_arrived_short_is_told(
    store: S3DataStore, monkeypatch: pytest.MonkeyPatch, rgw: S3Server, bucket: str
) -> None:
    transaction = store.begin("v1", overwrite=False)
    sink = transaction.create("shard-000000.tar")
    sink.write(b"0123456789")
    sink._size += 1  # type: ignore[attr-defined]  # as if one byte more had been sent
    sink.close()
    with pytest.raises(IntegrityError, match="10 bytes of 11"):
        transaction.commit(None)
    transaction.abort()
    assert rgw.keys(bucket) == []
