"""Many datasets and many shards on the network, and writers that are killed."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import atdata
from atdata.atmosphere import Atmosphere
from atdata.atmosphere.lexicon import check
from atdata.atmosphere.records import ENTRY, LABEL
from atdata.datasets.sources import Located, ShardRef
from atdata.errors import EntryExistsError, EntryFormError, UnreachableError
from atdata.stores.record import CommitRecord, ShardInfo
from atdata.testing import LocalNetwork
from atdata.testing.probes import Probe, keyed, probes
from servers.atproto import SharedNetwork
from servers.web import WebServer

Login = Callable[..., Atmosphere]


@pytest.fixture
def alice(login: Login) -> Atmosphere:
    return login()


@pytest.fixture
def anonymous(atproto: SharedNetwork) -> Iterator[Atmosphere]:
    with Atmosphere(directory=atproto.directory, allow_private=True, handles_at=atproto.pds[0]) as client:
        yield client


def sizes(client: Atmosphere) -> list[int]:
    """Bytes of JSON of each entry."""
    return [len(json.dumps(record.value)) for record in client.list_records(client.did or "", ENTRY)]


def served(web: WebServer, prefix: str, **options: Any) -> atdata.Dataset[Probe]:
    count = options.pop("count", 6)
    atdata.LocalDiskStore(web.folder).write_shards(keyed(probes(count)), prefix=prefix, **options)
    return atdata.Dataset[Probe](web.url(prefix + "/"))


@pytest.mark.slow
def test_five_thousand_shards(alice: Atmosphere, anonymous: Atmosphere, web: WebServer) -> None:
    """Their list is in the commit record, which the entry has as blobs; any of them is read at once."""
    ds = served(web, "big", count=5000, maxcount=1, manifest=False)
    entry = atdata.AtmosphereIndex(alice).insert_dataset(ds, name="big")
    assert max(sizes(alice)) < 10_000
    value = anonymous.get_record(entry.uri).value  # type: ignore[union-attr]
    check(ENTRY, value)
    assert value["storage"] == {
        "$type": "science.alt.dataset.storageCommit",
        "folders": [{"url": web.url("big/"), "shards": 5000}],
    }
    found = atdata.AtmosphereIndex(anonymous).get_dataset(f"@{alice.did}/big")
    assert (found.cid, found.samples, len(found.shards)) == (ds.cid, 5000, 5000)
    assert found.data_urls == ds.list_shards()
    read = found.dataset(Probe)
    assert [read[n].label for n in (0, 17, 4999)] == [0, 17, 4999]
    assert read.get("key-2500").label == 2500
    assert atdata.AtmosphereIndex(alice).insert_dataset(read, name="big") == found


@pytest.mark.slow
def test_many_blobs_stay_pinned(alice: Atmosphere, anonymous: Atmosphere, tmp_path: Path) -> None:
    """The pins of the store keep those that an entry has no room for; the entry keeps the list of them."""
    store = atdata.PDSBlobStore(alice, cache=tmp_path / "cache")
    index = atdata.AtmosphereIndex(alice, store=store)
    index.write_samples(probes(400), name="many", maxcount=1, manifest=False)
    few = index.write_samples(probes(60), name="few", maxcount=1, manifest=False)
    assert max(sizes(alice)) < 100_000
    kinds = {
        record.value["name"]: record.value["storage"]["$type"] for record in alice.list_records(alice.did or "", ENTRY)
    }
    assert kinds == {"many": "science.alt.dataset.storageCommit", "few": "science.alt.dataset.storageBlobs"}
    for name, count in (("many", 400), ("few", 60)):
        entry = atdata.AtmosphereIndex(anonymous).get_dataset(f"@{alice.did}/{name}")
        ds = entry.dataset(Probe, cache=tmp_path / "cache2")
        assert [ds[n].label for n in (0, 33, count - 1)] == [0, 33, count - 1]
    there = set(alice.list_blobs(alice.did or ""))
    assert {url.rpartition("/")[2] for url in index.get_dataset("many").data_urls} <= there
    assert {url.rpartition("/")[2] for url in few.data_urls} <= there


@pytest.mark.slow
def test_no_entry_is_larger_than_servers_take(alice: Atmosphere) -> None:
    """Whatever is long: the list of shards, what is known of each, the metadata, the folders."""
    index = atdata.AtmosphereIndex(alice)

    def shards(count: int, folders: int = 1, **stats: Any) -> atdata.Dataset[Any]:
        infos = tuple(ShardInfo(f"shard-{n:06d}.tar", 10240, 1, f"{n:064x}") for n in range(count))
        record = CommitRecord(atdata.Schema.of(Probe), infos)
        refs = [
            ShardRef(f"https://1.1.1.1/{'folder-' * 10}{n % folders}/{info.name}", info) for n, info in enumerate(infos)
        ]
        return atdata.Dataset(Located(tuple(refs), record.schema, record), sample_type=Probe)

    long = {
        "metadata": {"text": "x" * 60_000},
        "description": "y" * 5000,
        "tags": ["z" * 90 + str(n) for n in range(30)],
    }
    for n, (ds, details) in enumerate(
        [
            (shards(1), {}),
            (shards(100), {}),
            (shards(600), {}),
            (shards(600, 20), {}),
            (shards(50), long),
            (shards(2000), long),
        ]
    ):
        entry = index.insert_dataset(ds, name=f"d{n}", **details)  # type: ignore[arg-type]
        found = index.get_dataset(f"d{n}")
        assert found.shards == entry.shards
        assert found.data_urls == ds.list_shards()
        assert found.cid == entry.cid
        assert max(sizes(alice)) < 150_000
    assert len(sizes(alice)) == 6
    with pytest.raises(EntryFormError, match=r"the entry has .* bytes of JSON, and some servers take no more than"):
        index.insert_dataset(shards(1000, 900), name="scattered", **long)  # type: ignore[arg-type]
    with pytest.raises(EntryFormError, match="3000 places are too many for one entry: write its shards into fewer"):
        index.insert_dataset(shards(3000, 900), name="scattered")


def test_shards_of_one_name_in_several_folders(alice: Atmosphere, web: WebServer) -> None:
    """They are told apart, and found where they lie."""
    parts = [served(web, f"p{n}", count=3 + n, maxcount=2) for n in range(3)]
    urls = [url for part in parts for url in part.list_shards()]
    index = atdata.AtmosphereIndex(alice)
    ds = atdata.Dataset[Probe](urls[::-1])
    entry = index.insert_dataset(ds, name="d")
    assert index.get_dataset("d").data_urls == urls[::-1]
    assert sorted(s.label for s in entry.dataset(Probe)) == sorted(s.label for part in parts for s in part)


# -- many datasets -------------------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path, web: WebServer) -> Iterator[atdata.LocalIndex]:
    """An index with 300 datasets, of which one has three versions."""
    with atdata.LocalIndex(tmp_path / "local.db") as index:
        entry = index.insert_dataset(served(web, "a"), name="d000", description="first", tags=["t"], metadata={"a": 1})
        index.add_entries(dataclasses.replace(entry, name=f"d{n:03d}") for n in range(1, 300))
        index.add_entries(dataclasses.replace(entry, version=v, parent="1.0.0") for v in ("1.10.0", "1.9.0"))
        yield index


@pytest.mark.slow
def test_datasets_of_a_local_index_are_published_together(
    alice: Atmosphere, anonymous: Atmosphere, local: atdata.LocalIndex
) -> None:
    """In a few commits, with their times and details; once more does nothing; what was left out is completed."""
    index = atdata.AtmosphereIndex(alice)
    entries = [entry for latest in local.list_datasets() for entry in local.list_versions(latest.name)]
    assert index.add_entries(iter(entries)) == 302
    commit = alice.latest_commit()
    assert index.add_entries(entries) == 0
    assert alice.latest_commit() == commit
    others = atdata.AtmosphereIndex(anonymous, repo=alice.did)
    listed = {entry.name: entry for entry in others.list_datasets()}
    assert sorted(listed) == [f"d{n:03d}" for n in range(300)]
    assert (listed["d000"].version, listed["d000"].parent) == ("1.10.0", "1.0.0")
    assert (listed["d007"].description, listed["d007"].tags, dict(listed["d007"].metadata)) == (
        "first",
        ("t",),
        {"a": 1},
    )
    assert listed["d007"].created_at == local.get_dataset("d007").created_at
    assert others.get_dataset("d000").version == "1.10.0"
    assert [s.label for s in others.get_dataset("d123").dataset(Probe)] == list(range(6))
    assert [e.name for e in others.search("first d299")] == ["d299"]
    gone = [record.uri.rkey for record in alice.list_records(alice.did or "", LABEL)][:5]
    for rkey in gone:
        alice.delete_record(LABEL, rkey)
    index.add_entries(entries)
    assert set(gone) <= {record.uri.rkey for record in alice.list_records(alice.did or "", LABEL)}
    other = next(entry for entry in entries if entry.name == "d001")
    with pytest.raises(EntryExistsError, match=r"d001@1\.0\.0 is there already, with another content"):
        index.add_entries([dataclasses.replace(other, _locate=lambda: _empty(other))])


def _empty(entry: Any) -> Located:
    ref = entry.shards[0]
    return Located((ref, ref), entry.schema)


# -- bad days ------------------------------------------------------------------------------------------------------

_PUBLISH = """
import os, signal, sys
import atdata
from atdata.atmosphere import Atmosphere
from atdata.testing.probes import Probe, probes
did, password, pds, directory, cache, moment = sys.argv[1:]
client = Atmosphere.login(did, password, pds_url=pds, directory=directory, allow_private=True)
apply = client.apply_writes

def killed(writes, **options):
    entry = any(write.collection.endswith(".entry") for write in writes)
    if entry and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = apply(writes, **options)
    if entry:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

client.apply_writes = killed
store = atdata.PDSBlobStore(client, cache=cache)
atdata.AtmosphereIndex(client, store=store).write_samples(probes(20), name="d", maxcount=5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_publisher_runs_again(atproto: SharedNetwork, tmp_path: Path, moment: str) -> None:
    """Nothing is half published, and the second run makes no second entry."""
    account = atproto.make_account()
    arguments = [account.did, account.password, account.pds, atproto.directory, str(tmp_path / "cache"), moment]
    killed = subprocess.run([sys.executable, "-c", _PUBLISH, *arguments], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with Atmosphere.login(
        account.did, account.password, pds_url=account.pds, directory=atproto.directory, allow_private=True
    ) as client:
        index = atdata.AtmosphereIndex(client, store=atdata.PDSBlobStore(client, cache=tmp_path / "cache"))
        there = list(index.list_datasets())
        assert len(there) == (moment == "after")
        labels = list(client.list_records(account.did, LABEL))
        assert len(labels) == 2 * len(there)
        entry = index.write_samples(probes(20), name="d", maxcount=5)
        assert entry.version == "1.0.0"
        assert [sample.label for sample in index.get_dataset("d").dataset(Probe)] == list(range(20))
        assert list(index.list_versions("d")) == [entry]
        assert not there or there == [entry]


@pytest.mark.slow
def test_a_server_that_dies_while_something_is_published(own_atproto: LocalNetwork, web: WebServer) -> None:
    """Before it answers, whatever it has done: the same call, made again, has it there once."""
    account = own_atproto.make_account()
    ds = served(web, "a")
    with Atmosphere.login(
        account.did, account.password, pds_url=account.pds, directory=own_atproto.directory, allow_private=True
    ) as client:
        index = atdata.AtmosphereIndex(client)
        client.http.tries, client.http.seconds = 2, 5
        apply = client.apply_writes

        def die(writes: Any, **options: Any) -> Any:
            own_atproto.kill()
            return apply(writes, **options)

        client.apply_writes = die  # type: ignore[method-assign]
        with pytest.raises(UnreachableError):
            index.insert_dataset(ds, name="d")
        own_atproto.resume()
        client.apply_writes = apply  # type: ignore[method-assign]
        assert list(index.list_datasets()) == []
        entry = index.insert_dataset(ds, name="d")
        assert index.insert_dataset(ds, name="d") == entry
        assert len(sizes(client)) == 1
