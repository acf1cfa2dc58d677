"""Writing to an account when its server, the network, the session or this process fails."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from test_pds_store import login  # noqa: F401  (a fixture)

import atdata
from atdata.atmosphere import Atmosphere
from atdata.errors import (
    AtdataError,
    AtmosphereError,
    DatasetExistsError,
    DatasetNotFoundError,
    LoginError,
    RateLimitError,
    StoreBusyError,
    StoreError,
    UnreachableError,
)
from atdata.stores import pinning
from atdata.stores.pins import PIN, Pins, key_of
from atdata.stores.record import CommitRecord, ShardInfo
from atdata.testing.network import LocalNetwork
from atdata.testing.probes import Probe, dataset_of, probes

JSON = {"content-type": "application/json"}
UPLOAD = "com.atproto.repo.uploadBlob"


@pytest.fixture
def account(atproto):
    return atproto.make_account()


@pytest.fixture
def proxy(account, make_proxy):
    class Server:
        endpoint = account.pds.replace("localhost", "127.0.0.1")

    return make_proxy(Server)


@pytest.fixture
def store(account, proxy, login, tmp_path):  # noqa: F811
    client = login(account, pds_url=proxy.endpoint)
    client.http.tries, client.http.seconds = 4, 20.0
    return atdata.PDSBlobStore(client, cache=tmp_path / "cache")


def uploads(proxy):
    return sum(UPLOAD in request.path and request.status == 200 for request in proxy.requests("POST"))


def everything(store):
    """All blobs and pins of the account."""
    pins = sorted(record.uri.rkey for record in store.client.list_records(store.did, PIN))
    return sorted(store.client.list_blobs(store.did)), pins


def check_whole(store, samples, prefix="p"):
    """The dataset is there, and nothing else: every blob has a name, no unfinished write is left."""
    place = f"at://{store.did}/{prefix}/"
    assert list(atdata.Dataset[Probe](place, store=store)) == samples
    named = sorted({file.url.rpartition("/")[2] for file in store.files()})
    assert everything(store)[0] == named
    assert [(place, done) for place, _, done in store.prefixes()] == [(prefix, True)]


def interrupted(samples, at, act):
    for sample in samples:
        if sample.label == at:
            act()
        yield sample


# -- this process --------------------------------------------------------------------------------------------

_WRITER = """
import json, sys
import atdata
from atdata.atmosphere import Atmosphere
from atdata.testing.probes import Probe, dataset_of, probes

told = json.loads(sys.argv[1])
where = {"pds_url": told["pds"], "directory": told["directory"], "allow_private": True}
client = Atmosphere.login(told["did"], told["password"], **where)

def samples():
    for sample in probes(60):
        if sample.label == 50:
            print("here", flush=True)
            sys.stdin.read()
        yield sample

atdata.PDSBlobStore(client).write_shards(dataset_of(samples()), prefix="p", maxcount=1, overwrite=told["overwrite"])
"""


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_killed_write_leaves_nothing_to_be_seen_and_is_not_sent_twice(store, account, atproto, proxy, overwrite):
    old = probes(5, first=1000)
    if overwrite:
        store.write_shards(dataset_of(old), prefix="p", maxcount=1)
    before = list(store.list())
    told = {
        "did": account.did, "password": account.password, "pds": proxy.endpoint, "directory": atproto.directory,
        "overwrite": overwrite,
    }  # fmt: skip
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert writer.stdout.readline() == b"here\n"
        with pytest.raises(StoreBusyError, match="another process is writing a dataset here"):
            store.write_shards(dataset_of(probes(1)), prefix="p", overwrite=True)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert list(store.list()) == before
    if overwrite:
        assert list(atdata.Dataset[Probe](f"at://{store.did}/p", store=store)) == old
    proxy.forget()
    urls = store.write_shards(dataset_of(probes(60)), prefix="p", maxcount=1, overwrite=overwrite)
    assert len(urls) == 60
    assert uploads(proxy) <= 60 * 3 + 1 - 90
    check_whole(store, probes(60))


def test_what_a_killed_write_left_goes_with_the_next_one(store):
    with pytest.raises(KeyboardInterrupt):
        store.write_shards(dataset_of(interrupted(probes(60), 50, _interrupt)), prefix="p", maxcount=1)
    assert [done for _, _, done in store.prefixes()] == [False]
    assert list(store.list()) == []
    assert len(everything(store)[0]) > 90
    store.write_shards(dataset_of(probes(3, first=500)), prefix="p", maxcount=1, manifest=False)
    check_whole(store, probes(3, first=500))
    with pytest.raises(KeyboardInterrupt):
        store.write_shards(dataset_of(interrupted(probes(60), 50, _interrupt)), prefix="q", maxcount=1)
    store.begin("q", overwrite=False).abort()
    check_whole(store, probes(3, first=500))


def _interrupt():
    raise KeyboardInterrupt


# -- the session -----------------------------------------------------------------------------------------------


def test_a_session_that_expires_in_mid_upload_is_renewed(store, proxy):
    expired = json.dumps({"error": "ExpiredToken", "message": "Token has expired"})
    proxy.answer_next(400, count=3, path=UPLOAD, headers=JSON, body=expired)
    store.write_shards(dataset_of(probes(8)), prefix="p", maxcount=2)
    check_whole(store, probes(8))


def test_a_session_that_is_revoked_in_mid_upload_ends_the_write_which_can_go_on(store, proxy, account, login):  # noqa: F811
    revoked = json.dumps({"error": "ExpiredToken", "message": "Token has been revoked"})

    def revoke():
        proxy.answer_next(400, count=1000, headers=JSON, body=revoked, method="POST")

    with pytest.raises(LoginError) as caught:
        store.write_shards(dataset_of(interrupted(probes(60), 50, revoke)), prefix="p", maxcount=1)
    assert any("files are in the account already" in note for note in caught.value.__notes__)
    proxy.clear()
    proxy.answer_next(200, count=0)
    again = atdata.PDSBlobStore(login(account), cache=store.cache)
    assert list(again.list()) == []
    again.write_shards(dataset_of(probes(60)), prefix="p", maxcount=1)
    check_whole(again, probes(60))


# -- the server ------------------------------------------------------------------------------------------------


def test_413_says_what_to_do_and_leaves_nothing(store, proxy):
    too_large = json.dumps({"error": "PayloadTooLarge", "message": "request entity too large"})
    proxy.answer_next(413, count=100, path=UPLOAD, headers=JSON, body=too_large)
    with pytest.raises(
        StoreError, match=r"refuses shard-000000\.tar .* something before it takes less.*smaller maxsize"
    ):
        store.write_shards(dataset_of(probes(8)), prefix="p", maxcount=2)
    proxy.clear()
    assert everything(store) == ([], [])


def test_429_is_waited_out_where_that_is_short(store, proxy):
    proxy.answer_next(429, count=2, path=UPLOAD, headers={**JSON, "retry-after": "1"}, body="{}")
    store.write_shards(dataset_of(probes(8)), prefix="p", maxcount=2)
    check_whole(store, probes(8))


def test_429_that_stays_keeps_what_was_sent(store, proxy):
    def limit():
        proxy.answer_next(429, count=1000, path=UPLOAD, headers={**JSON, "retry-after": "86400"}, body="{}")

    with pytest.raises(RateLimitError) as caught:
        store.write_shards(dataset_of(interrupted(probes(60), 50, limit)), prefix="p", maxcount=1)
    assert caught.value.retry_at is not None
    assert any("the same write, begun again, goes on from there" in note for note in caught.value.__notes__)
    assert list(store.list()) == []
    proxy.clear()
    sent = len(everything(store)[0])
    assert sent >= 90
    proxy.forget()
    store.write_shards(dataset_of(probes(60)), prefix="p", maxcount=1)
    check_whole(store, probes(60))
    assert uploads(proxy) <= 181 - sent


def test_500s_end_in_a_dataset_or_in_none(store, proxy):
    proxy.set(fail_share=0.15, fail_status=500, seed=3)
    for _ in range(30):
        try:
            store.write_shards(dataset_of(probes(12)), prefix="p", maxcount=2)
            break
        except DatasetExistsError:
            break  # the answer to the last request was lost
        except AtmosphereError:
            continue
    else:
        raise AssertionError("it never succeeds")
    proxy.clear()
    check_whole(store, probes(12))


@pytest.mark.parametrize("count", [1, 3, 6])
def test_lost_answers_change_nothing(store, proxy, count):
    samples = interrupted(probes(6), 5, lambda: proxy.lose_answers("POST", count))
    store.write_shards(dataset_of(samples), prefix="p", maxcount=3)
    proxy.clear()
    check_whole(store, probes(6))


@pytest.mark.slow
def test_a_server_that_is_killed_in_mid_write(tmp_path):
    with LocalNetwork(blob_limit=200_000) as network:
        account = network.make_account()
        client = Atmosphere.login(
            account.did, account.password, directory=network.directory, allow_private=True, pds_url=account.pds
        )
        client.http.tries, client.http.seconds = 2, 5.0
        store = atdata.PDSBlobStore(client, cache=tmp_path / "cache")
        old = store.write_shards(dataset_of(probes(3, first=900)), prefix="p")
        with pytest.raises(UnreachableError):
            store.write_shards(
                dataset_of(interrupted(probes(60), 55, network.kill)), prefix="p", maxcount=1, overwrite=True
            )
        network.resume()
        fresh = atdata.PDSBlobStore(client, cache=tmp_path / "fresh")
        assert list(atdata.Dataset[Probe](old, store=fresh)) == probes(3, first=900)
        assert len(everything(store)[0]) > 90
        store.write_shards(dataset_of(probes(60)), prefix="p", maxcount=1, overwrite=True)
        check_whole(store, probes(60))
        client.close()
        check_limits(network, account, tmp_path)


def check_limits(network, account, tmp_path):
    """What the server says of its limit is true, to the byte, and kept to."""
    with Atmosphere.login(account.did, account.password, directory=network.directory, allow_private=True) as client:
        store = atdata.PDSBlobStore(client, cache=tmp_path / "limits")
        assert (store.largest, store.shard_size) == (200_000, 200_000)
        urls = store.write_shards(dataset_of(probes(300, size=3000)), prefix="fit")
        assert max(shard.size for shard in urls.shards) == 200_000 // 10_240 * 10_240
        assert max(file.size for file in store.files("fit")) <= 200_000
        with pytest.raises(StoreError, match="maxsize=200001 is more than the 200000 bytes that this store takes"):
            store.write_shards(dataset_of(probes(1)), prefix="more", maxsize=200_001)
        with pytest.raises(StoreError, match="a shard of 256000 bytes, and this store takes at most 200000") as caught:
            store.write_shards(dataset_of([*probes(2), *probes(1, first=2, size=250_000)]), prefix="more")
        assert caught.value.key == "000000002"
        transaction = store.begin("exact", overwrite=False)
        exact, more = (transaction.create(f"{name}.tar") for name in ("exact", "more"))
        exact.write(bytes(200_000))
        exact.close()
        with pytest.raises(StoreError, match="more than the 200000 bytes that the server takes in one blob"):
            more.write(bytes(200_001))
        more.abort()
        info = ShardInfo("exact.tar", 200_000, 0, hashlib.sha256(bytes(200_000)).hexdigest())
        (url,) = transaction.commit(CommitRecord(None, (info,)))
        assert store.open(url).size == 200_000
        # A record that is too large goes without statistics.
        samples = [dataclasses.replace(sample, note="x" * 64) for sample in probes(600)]
        long = store.write_shards(dataset_of(samples), prefix="long", maxcount=1, manifest=False)
        assert all(shard.stats == {} for shard in long.record.shards)
        assert atdata.Dataset[Probe](f"at://{store.did}/long", store=store)[599] == samples[599]


# -- others at work --------------------------------------------------------------------------------------------


def test_a_writer_that_was_taken_for_gone_is_told_and_harms_nothing(store):
    seen = []

    def take_over():
        # As another host sees it when an hour has passed without a word.
        claim = store.client.get_record(f"at://{store.did}/{PIN}/{key_of('p', series='writer')}")
        long_ago = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
        silent = {**claim.value, "writer": {**claim.value["writer"], "host": "elsewhere", "since": long_ago}}
        store.client.put_record(PIN, claim.uri.rkey, silent)
        seen.append(store.write_shards(dataset_of(probes(4, first=70)), prefix="p", maxcount=2))

    with pytest.raises(StoreBusyError, match="another process took over writing here"):
        store.write_shards(dataset_of(interrupted(probes(6), 5, take_over)), prefix="p", maxcount=2)
    check_whole(store, probes(4, first=70))
    assert list(store.list()) == sorted({*seen[0], *(file.url for file in store.files())})


def test_a_writer_of_another_host_is_not_taken_for_gone_before_an_hour(store):
    transaction = store.begin("p", overwrite=False)
    claim = store.client.get_record(f"at://{store.did}/{PIN}/{key_of('p', series='writer')}")
    elsewhere = {**claim.value, "writer": {**claim.value["writer"], "host": "elsewhere"}}
    store.client.put_record(PIN, claim.uri.rkey, elsewhere)
    with pytest.raises(StoreBusyError, match="writing"):
        store.begin("p", overwrite=False)
    transaction.abort()


def test_a_repository_that_others_write_to_all_the_time(store):
    done = threading.Event()
    failed = []

    def chatter():
        number = 0
        try:
            while not done.is_set():
                number += 1
                store.client.put_record("com.example.chatter", "self", {"n": number})
        except AtdataError as error:
            failed.append(error)

    other = threading.Thread(target=chatter)
    other.start()
    try:
        for number in range(3):
            samples = probes(4, first=10 * number)
            store.write_shards(dataset_of(samples), prefix="p", maxcount=2, overwrite=True)
    finally:
        done.set()
        other.join()
    assert failed == []
    check_whole(store, probes(4, first=20))


# -- pins that are gone, and many of them ------------------------------------------------------------------------


def test_a_part_0_that_somebody_deleted(store):
    store.write_shards(dataset_of(probes(6)), prefix="p", maxcount=2)
    store.client.delete_record(PIN, key_of("p"))
    with pytest.raises(DatasetNotFoundError):
        atdata.Dataset(f"at://{store.did}/p", store=store)
    assert list(store.list()) == []
    store.write_shards(dataset_of(probes(6)), prefix="p", maxcount=2)
    check_whole(store, probes(6))


@pytest.mark.slow
def test_five_thousand_shards(store, proxy):
    count, distinct = 5000, 400  # what is the same is sent once
    samples = [sample for _ in range(13) for sample in probes(distinct)][:count]

    def write(samples, **options):
        dataset = atdata.Dataset.from_samples(samples, Probe, key=lambda sample: f"k{sample.label}")
        return store.write_shards(dataset, prefix="p", maxcount=1, manifest=False, **options)

    urls = write(samples)
    assert (len(urls), len(set(urls)), uploads(proxy)) == (count, distinct, distinct + 1)
    records = list(store.client.list_records(store.did, PIN))
    assert max(len(json.dumps(record.value)) for record in records) < 100_000
    named = [file for record in records for file in record.value["blobs"]]
    assert len(named) == len({file["name"] for file in named}) == count
    assert {url.rpartition("/")[2] for url in urls} <= {file["blob"]["ref"]["$link"] for file in named}
    assert len(everything(store)[0]) == distinct + 1
    found = atdata.Dataset[Probe](f"at://{store.did}/p", store=store)
    assert (len(found), found.cid) == (count, urls.record.cid)
    assert [found[n].label for n in (0, 1, 2499, 4999)] == [samples[n].label for n in (0, 1, 2499, 4999)]
    assert sum(1 for _ in store.files("p")) == count + 1
    # Replaced by half of itself, nothing is sent again but the record, and nothing of the rest stays.
    write(samples[: count // 2], overwrite=True)
    assert uploads(proxy) == distinct + 2
    assert sum(1 for _ in store.files("p")) == count // 2 + 1
    assert len(everything(store)[1]) < len(records)
    store.delete("p")
    assert everything(store) == ([], [])


def test_parts_are_kept_small_and_found_again(store, monkeypatch):
    monkeypatch.setattr(pinning, "ROOM", 2000)
    monkeypatch.setattr(pinning, "_PIN_FILES", 4)
    for number, size in enumerate((9, 20, 3)):
        samples = probes(size, first=100 * (number % 2))
        store.write_shards(dataset_of(samples), prefix="p", maxcount=1, overwrite=True)
        check_whole(store, samples)
        first = Pins(store.client, store.did).first("p")
        assert first.parts == len(everything(store)[1])
    with pytest.raises(KeyboardInterrupt):
        store.write_shards(dataset_of(interrupted(probes(30), 20, _interrupt)), prefix="p", maxcount=1, overwrite=True)
    store.write_shards(dataset_of(probes(25, first=2)), prefix="p", maxcount=1, overwrite=True)
    check_whole(store, probes(25, first=2))
    store.delete("p")
    assert everything(store) == ([], [])
