"""Blobs of accounts, read in every way a dataset is read: with a store and without, here and in other processes."""

import http.server
import json
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
import pytest
from test_pds_store import login  # noqa: F401  (a fixture)

import atdata
from atdata.atmosphere import Atmosphere
from atdata.cid import Link
from atdata.datasets.sources import Located, ShardRef, locate
from atdata.errors import (
    AccessDeniedError,
    CommitRecordError,
    DatasetNotFoundError,
    IntegrityError,
    LoginError,
    StoreError,
    UnsafeNameError,
)
from atdata.index.routing import dataset_of as routed
from atdata.index.survey import parts_of, refs_in, survey
from atdata.stores.blobs import blob_url
from atdata.stores.cache import Cache
from atdata.stores.opening import Opening
from atdata.testing.probes import Probe, dataset_of, probes
from forking import in_fork

_NO_TIME = timedelta(0)


@pytest.fixture
def account(atproto):
    return atproto.make_account()


@pytest.fixture
def store(login, tmp_path):  # noqa: F811
    return atdata.PDSBlobStore(login(), cache=tmp_path / "cache")


@pytest.fixture
def written(store):
    return store.write_shards(dataset_of(probes(30)), prefix="digits/v1", maxcount=10)


@pytest.fixture
def everybody(atproto, monkeypatch, tmp_path):
    """The environment of somebody who knows the network, and has no account."""
    monkeypatch.setenv("ATDATA_PLC_DIRECTORY", atproto.directory)
    monkeypatch.setenv("ATDATA_ALLOW_PRIVATE", "1")
    monkeypatch.setenv("ATDATA_CACHE", str(tmp_path / "everybody"))


def test_urls_alone_are_enough_to_read(written, everybody, tmp_path):
    dataset = atdata.Dataset[Probe](written)
    assert dataset.cid == written.record.cid
    assert (len(dataset), dataset[17], dataset.get("000000023")) == (30, probes(30)[17], probes(30)[23])
    assert list(dataset) == probes(30)
    # The type comes with what write_shards returned; a list of URLs says nothing of it.
    assert [sample.label for sample in atdata.Dataset(written).head(2)] == [0, 1]
    plain = atdata.Dataset[Probe](list(written))
    assert list(plain) == probes(30)
    assert len(plain) == 30
    assert len(list(Cache(tmp_path / "everybody").shards())) == 6  # three shards with their manifests, each once


def test_a_prefix_of_an_account_is_a_place(store, written, everybody):
    place = f"at://{store.did}/digits/v1"
    for source in (place, place + "/"):
        assert list(atdata.Dataset[Probe](source)) == probes(30)
        assert list(atdata.Dataset[Probe](source, store=store)) == probes(30)
    assert atdata.Dataset(place).cid == written.record.cid
    assert [sample.label for sample in atdata.Dataset(place).head(3)] == [0, 1, 2]
    assert atdata.Dataset[Probe](written[1])[3] == probes(30)[13]
    with pytest.raises(DatasetNotFoundError, match="there is no dataset here"):
        atdata.Dataset(f"at://{store.did}/digits/v2/")
    with pytest.raises(UnsafeNameError):
        atdata.Dataset(f"at://{store.did}/blob/nothing/../..")


def test_manifests_make_numbers_and_queries_quick(store, written, tmp_path):
    fresh = atdata.PDSBlobStore(store.client, cache=tmp_path / "fresh")
    dataset = atdata.Dataset[Probe](written, store=fresh)
    fields = atdata.fields(Probe)
    assert [sample.label for sample in dataset.where(fields.label.between(18, 21))] == [18, 19, 20, 21]
    kept = {shard.sha256 for shard in fresh.cache.shards()}
    assert written.shards[0].sha256 not in kept  # statistics say that nothing of it is wanted


def test_another_account_at_another_server_is_read(store, login, tmp_path):  # noqa: F811
    bob = atdata.PDSBlobStore(login(pds=1), cache=tmp_path / "bob")
    urls = bob.write_shards(dataset_of(probes(12)), prefix="his", maxcount=5)
    assert store.read_url(urls[0]).split("/xrpc")[0] != store.client.identity.pds
    assert list(atdata.Dataset[Probe](urls, store=store)) == probes(12)
    assert list(atdata.Dataset[Probe](f"at://{bob.did}/his/", store=store)) == probes(12)
    his = atdata.PDSBlobStore(store.client, repo=bob.did, cache=tmp_path / "his")
    assert list(his.list("his")) == list(bob.list())
    with pytest.raises(AccessDeniedError, match=r"this is the account of did:plc:\w+; .* writes to its own only"):
        his.write_shards(dataset_of(probes(1)), prefix="mine")
    with pytest.raises(AccessDeniedError):
        his.delete("his")


def test_open_store_gives_the_account_for_reading(store, written, everybody):
    found = atdata.open_store(f"at://{store.did}")
    assert list(found.list()) == list(store.list())
    assert list(atdata.Dataset[Probe](written, store=found)) == probes(30)
    with pytest.raises(LoginError, match="only an account's owner writes"):
        found.write_shards(dataset_of(probes(1)), prefix="p")
    own = atdata.open_store(f"at://{store.did}", client=store.client)
    assert own.write_shards(dataset_of(probes(1)), prefix="p").record.samples == 1


def test_nobody_reads_private_addresses_unless_allowed(store, written, monkeypatch, atproto, tmp_path):
    monkeypatch.setenv("ATDATA_PLC_DIRECTORY", atproto.directory)
    monkeypatch.setenv("ATDATA_CACHE", str(tmp_path / "nothing"))
    monkeypatch.delenv("ATDATA_ALLOW_PRIVATE", raising=False)
    with pytest.raises(atdata.AtdataError, match=r"(http|private|https)"):
        list(atdata.Dataset[Probe](written))


def _under_way(proxy):
    return [request for request in proxy.requests() if "getBlob" in request.path and not request.status]


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize(
    "loader",
    [
        lambda dataset: dataset,
        lambda dataset: dataset.ordered(),
        lambda dataset: dataset.shuffled(seed=0),
    ],
    ids=["plain", "ordered", "shuffled"],
)
def test_the_next_shards_are_fetched_while_one_is_read(account, make_proxy, login, tmp_path, loader, manifest):  # noqa: F811
    """Several blobs are on their way at a time, in every order; and they come though nobody reads on."""

    class Server:
        endpoint = account.pds.replace("localhost", "127.0.0.1")

    proxy = make_proxy(Server)
    store = atdata.PDSBlobStore(login(account, pds_url=proxy.endpoint), cache=tmp_path / "cache")
    urls = store.write_shards(dataset_of(probes(60)), prefix="p", maxcount=10, manifest=manifest)
    dataset = atdata.Dataset[Probe](urls, store=atdata.PDSBlobStore(store.client, cache=tmp_path / "fresh"))
    proxy.forget()
    proxy.stall()
    reader = iter(loader(dataset))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, reader)
        try:
            wait_for(lambda: len(_under_way(proxy)) >= 3)
        finally:
            proxy.release()
        got = [first.result()]
    shards = {url.rpartition("/")[2] for url in urls}
    wait_for(lambda: len({r.path.rpartition("cid=")[2] for r in proxy.requests("GET")} & shards) >= 3)
    got += reader
    assert sorted(got, key=lambda sample: sample.label) == probes(60)
    assert proxy.requests("HEAD") == []  # the record says how long everything is


def wait_for(condition, seconds=60):
    """Wait until something is so that will be in a moment."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not become so"
        time.sleep(0.01)


def test_each_blob_is_fetched_once_by_many_threads(store, written, login, atproto, make_proxy, tmp_path):  # noqa: F811
    class Server:
        endpoint = store.client.identity.pds

    proxy = make_proxy(Server)
    client = Atmosphere(directory=atproto.directory, allow_private=True, identity=None)
    client.resolver.resolve(store.did, handle=False)
    reading = atdata.PDSBlobStore(_behind(client, store.did, proxy.endpoint), cache=tmp_path / "once")
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: list(atdata.Dataset[Probe](written, store=reading)), range(8)):
            assert found == probes(30)
    fetched = [request.path for request in proxy.requests("GET") if "getBlob" in request.path]
    assert len(fetched) == len(set(fetched)) == 6
    client.close()


def _behind(client, did, endpoint):
    """A client for which the account's server has another address: that of a proxy before it."""
    resolve = client.resolver.resolve

    def moved(actor, **options):
        found = resolve(actor, **options)
        return found._replace(pds=endpoint) if found.did == did else found

    client.resolver.resolve = moved
    return client


def test_an_index_keeps_blobs_like_any_shards(store, written, tmp_path):
    with atdata.LocalIndex(tmp_path / "index.db", store=store) as index:
        entry = index.insert_dataset(atdata.Dataset[Probe](written, store=store), name="digits")
        assert entry.cid == written.record.cid
        found = index.get_dataset("digits").dataset(Probe)
        assert list(found) == probes(30)
        assert found[12] == probes(30)[12]
        made = index.write_samples(probes(5), name="more", sample_type=Probe)
        assert made.data_urls[0].startswith(f"at://{store.did}/blob/bafkrei")
        assert list(atdata.load_dataset("more", Probe, index=index)) == probes(5)
        index.append("more", probes(3, first=5))
        assert list(atdata.load_dataset("more", Probe, index=index)) == probes(8)
        assert len(index.diff("more@1.0.0", "more").added) == 3
        # What no version refers to is found, and removed.
        index.delete_dataset("more")
        assert {item.url for item in index.gc(grace=_NO_TIME)} == {
            f"at://{store.did}/{prefix}/" for prefix, _, _ in store.prefixes("more")
        }
        assert all(item.removed for item in index.gc(grace=_NO_TIME, dry_run=False))
        assert list(store.prefixes("more")) == []
        assert list(index.get_dataset("digits").dataset(Probe)) == probes(30)


def test_shards_in_an_account_and_on_a_disk_are_one_dataset(store, written, tmp_path):
    disk = atdata.LocalDiskStore(tmp_path / "disk").write_shards(dataset_of(probes(4, first=30)), prefix="p")
    both = Located((*locate(written).shards, *locate(disk).shards), written.record.schema)
    assert list(routed(both, Probe, store=store)) == probes(34)


def test_what_an_index_knows_of_a_list_of_urls_is_the_same(store, written):
    told = survey(atdata.Dataset[Probe](written, store=store))
    read = survey(atdata.Dataset[Probe](list(written), store=store))
    assert [(ref.url, ref.info.sha256, ref.info.samples) for ref in told] == [
        (ref.url, ref.info.sha256, ref.info.samples) for ref in read
    ]
    again = tuple(refs_in(parts_of(told)))
    assert again == told
    assert list(routed(Located(again, written.record.schema), Probe, store=store)) == probes(30)


def test_a_forked_process_reads(store, written, everybody):
    dataset, alone = atdata.Dataset[Probe](written, store=store), atdata.Dataset[Probe](written)
    assert dataset[0] == alone[0] == probes(1)[0]

    def work():
        return json.dumps([[sample.label for sample in each] for each in (dataset, alone)])

    assert json.loads(in_fork(work, 120)) == [list(range(30))] * 2


def test_a_spawned_process_reads_without_a_store(written, everybody, store):
    plan = pickle.dumps(atdata.Dataset[Probe](written))
    program = "import pickle, sys; print(sum(sample.label for sample in pickle.load(sys.stdin.buffer)))"
    done = subprocess.run([sys.executable, "-c", program], input=plan, capture_output=True, timeout=120)
    assert done.stdout.strip() == b"435", done.stderr.decode()


@pytest.mark.slow
def test_workers_of_a_data_loader_read(written, everybody):
    from torch.utils.data import DataLoader

    loader = atdata.Dataset[Probe](written).shuffled(batch_size=4, seed=1)
    labels = [int(label) for batch in DataLoader(loader.torch(), num_workers=2) for label in batch["label"]]
    assert sorted(labels) == list(range(30))


def test_a_cache_of_the_dataset_is_used_instead(store, written, tmp_path):
    own = Cache(tmp_path / "own")
    assert list(atdata.Dataset[Probe](written, store=store, cache=own)) == probes(30)
    assert len(list(own.shards())) == 6
    assert not (tmp_path / "cache").exists()


def test_where_blobs_are_kept_by_default(monkeypatch):
    monkeypatch.delenv("ATDATA_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/somewhere")
    cache = atdata.PDSBlobStore(Atmosphere()).cache
    assert (str(cache.root), cache.limit) == ("/somewhere/.cache/atdata", 16 << 30)


def test_a_file_that_was_damaged_in_the_cache_is_fetched_anew(store, written, tmp_path):
    assert list(atdata.Dataset[Probe](written, store=store)) == probes(30)
    for shard in store.cache.shards():
        path = store.cache.path(shard.sha256)
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert store.open(written[0]).read(0, written.shards[0].size) == b"".join(store.open(written[0]).chunks())
    assert list(atdata.Dataset[Probe](written, store=store)) == probes(30)


def test_a_blob_that_is_gone_is_not_found(store, written, tmp_path):
    store.delete("digits/v1")
    fresh = atdata.PDSBlobStore(store.client, cache=tmp_path / "fresh")
    with pytest.raises(DatasetNotFoundError, match=r"does not have this blob: its dataset was deleted or replaced"):
        list(atdata.Dataset[Probe](written, store=fresh))
    with pytest.raises(DatasetNotFoundError, match=r"does not have this blob"):
        fresh.open(written[0])


def test_a_blob_that_was_never_pinned_is_not_found(store):
    blob = store.client.upload_blob(b"nobody pins this", 16, "text/plain")
    with pytest.raises(DatasetNotFoundError, match="or never finished"):
        store.open(blob_url(store.did, Link.parse(blob["ref"]["$link"]).sha256))


@pytest.mark.parametrize(
    "url",
    [
        "at://did:plc:abc/blob/bafyreidnzhwcbncg3avwjjao5o6wx4zhnksmxhdo6w5iaqupexnmzdlb54",  # of a record
        "at://did:plc:abc/blob/bafkrei",
        "at://did:plc:abc/blob/BAFKREIBM6JG3UX5QUMHCN2B3FLC3TYU6DMLB4XA7U5BF44YEGNRJHC4YEQ",
        "at://did:plc:abc/blob/../blob/bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
        "at://did:plc:a c/blob/bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
        "at://blob/bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
        "https://example.org/blob/bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
    ],
)
def test_what_is_no_blob_is_not_asked_for(store, url):
    for use in (store.open, store.read_url):
        with pytest.raises(UnsafeNameError, match="at://DID/blob/CID"):
            use(url)


# -- a server that lies --------------------------------------------------------------------------------------


class Liar:
    """A server that answers every request for a blob with what a test wants."""

    def __init__(self):
        self.body, self.length, self.sent = b"", None, 0
        liar = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(liar.body) if liar.length is None else liar.length))
                self.end_headers()
                if self.command == "GET":
                    liar.sent += len(liar.body)
                    self.wfile.write(liar.body)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def liar():
    made = Liar()
    yield made
    made.close()


@pytest.fixture
def victim(store, liar, atproto, tmp_path):
    client = _behind(Atmosphere(directory=atproto.directory, allow_private=True), store.did, liar.endpoint)
    yield atdata.PDSBlobStore(client, cache=tmp_path / "victim")
    client.close()


def test_wrong_bytes_are_never_seen_nor_kept(store, written, victim, liar):
    right = store.open(written[0]).read(0, written.shards[0].size)
    wrong = bytearray(right)
    wrong[5000] ^= 4
    for body in (bytes(wrong), right[:-512] + bytes(512) + b"!", b"", right[:-1]):
        liar.body = body
        with pytest.raises(IntegrityError) as caught:
            list(atdata.Dataset[Probe](written[:1], store=victim))
        assert caught.value.expected is not None
        with pytest.raises(IntegrityError, match="not those that its CID names"):
            for _ in victim.blob(written[0]).chunks():
                pass
        assert list(victim.cache.shards()) == []


def test_a_blob_of_two_gigabytes_is_refused_before_it_is_read(written, victim, liar):
    liar.body, liar.length = b"x" * 100, 2 << 30
    with pytest.raises(
        StoreError, match=r"2147483648 bytes, and no more than 536870912 .* PDSBlobStore\(client, most=…\)"
    ):
        victim.open(written[0])
    with pytest.raises(StoreError, match="no more than 536870912 are read"):
        list(atdata.Dataset[Probe](written[0], store=victim))
    # A record that says so itself changes nothing.
    info = msgspec.structs.replace(written.shards[0], size=2 << 30, manifest=None)
    with pytest.raises(StoreError, match="no more than 536870912 are read"):
        list(atdata.Dataset[Probe](Located((ShardRef(written[0], info),)), store=victim))
    assert liar.sent == 0


def test_a_record_of_other_content_than_its_pin_says_is_refused(store, written):
    from atdata.stores.pins import PIN, key_of

    other = store.write_shards(dataset_of(probes(3)), prefix="other")
    first, second = (store.client.get_record(f"at://{store.did}/{PIN}/{key_of(p)}") for p in ("digits/v1", "other"))
    store.client.put_record(PIN, key_of("digits/v1"), {**first.value, "record": second.value["record"]})
    with pytest.raises(CommitRecordError, match="of other content than its pin says"):
        atdata.Dataset(f"at://{store.did}/digits/v1/", store=store)
    assert list(atdata.Dataset[Probe](f"at://{store.did}/other", store=store)) == probes(3)
    assert other.record.samples == 3


def test_opening_knows_where_a_manifest_is(store, written):
    opening = Opening(store)
    info = written.shards[1]
    assert opening.manifest(written[1], info) == blob_url(store.did, info.manifest.sha256)
    assert opening.manifest(written[1], None) is None
    assert opening.beside(written[1], "atdata.json") is None
    assert opening.manifest("s3://b/shard-000000.tar", info) == "s3://b/shard-000000.manifest.parquet"
