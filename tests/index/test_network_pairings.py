"""What the system is for, from beginning to end, against real servers: an index, a store, and others who read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from numpy.typing import NDArray

import atdata
from atdata.atmosphere import Atmosphere
from atdata.atmosphere.lexicon import check
from atdata.atmosphere.records import ENTRY
from atdata.errors import AccessDeniedError, EntryNotFoundError
from servers.atproto import SharedNetwork
from servers.rgw import S3Server

Login = Callable[..., Atmosphere]


@atdata.packable
class Digit:
    """A handwritten digit."""

    image: NDArray[np.uint8]
    label: int
    note: str | None = None


def digits(count: int = 25) -> list[Digit]:
    return [Digit(np.full((8, 8), n % 17, np.uint8), n % 10, None if n % 2 else f"nr {n}") for n in range(count)]


def everybody_reads(rgw: S3Server, bucket: str) -> None:
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]}).encode()
    assert rgw.request("PUT", f"/{bucket}", {"policy": ""}, body=policy).status in (200, 204)


@pytest.fixture
def s3(rgw: S3Server, bucket: str) -> atdata.S3DataStore:
    return atdata.S3DataStore(rgw.credentials, bucket=bucket)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATDATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def anonymous(atproto: SharedNetwork) -> Iterator[Atmosphere]:
    """Somebody without an account."""
    with Atmosphere(directory=atproto.directory, allow_private=True, handles_at=atproto.pds[0]) as client:
        yield client


def test_a_local_index_and_s3(s3: atdata.S3DataStore, tmp_path: Path) -> None:
    with atdata.LocalIndex(tmp_path / "index.db", store=s3) as index:
        entry = index.write_samples(digits(), name="digits", maxcount=10)
        assert all(url.startswith(s3.base) for url in entry.data_urls)
        ds = atdata.load_dataset("digits", Digit, index=index, store=s3)
        assert list(ds) == digits()
        assert sorted(batch.label[0] for batch in ds.shuffled(batch_size=1, seed=0)) == sorted(
            d.label for d in digits()
        )
        assert [sample.label for sample in atdata.load_dataset("digits@1.0.0", index=index)] == [
            d.label for d in digits()
        ]


def test_the_atmosphere_and_s3(
    login: Login, rgw: S3Server, bucket: str, s3: atdata.S3DataStore, on_network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody finds it by name, gets its type, and streams it, once the bucket is open to everybody."""
    alice = login()
    with atdata.AtmosphereIndex(alice, store=s3) as index:
        entry = index.write_samples(
            iter(digits()),
            name="digits",
            license="CC-BY-4.0",
            tags=["handwritten"],
            metadata={"share": 0.5},
            maxcount=10,
        )
    assert (entry.samples, len(entry.shards), entry.version) == (25, 3, "1.0.0")
    assert entry.uri.startswith(f"at://{alice.did}/science.alt.dataset.entry/")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)

    with pytest.raises(AccessDeniedError):
        list(atdata.load_dataset(f"@{alice.handle}/digits"))
    assert list(atdata.load_dataset(f"@{alice.handle}/digits", Digit, store=s3)) == digits()
    everybody_reads(rgw, bucket)
    ds = atdata.load_dataset(f"@{alice.handle}/digits")
    assert [(s.label, s.note) for s in ds] == [(s.label, s.note) for s in digits()]
    assert ds.sample_type.__name__ == "Digit"
    assert ds[7].image.tolist() == digits()[7].image.tolist()
    assert ds.cid == entry.cid
    assert list(atdata.load_dataset(entry.uri, Digit).ordered()) == digits()
    assert len(atdata.load_dataset(f"@{alice.handle}/digits@1.0.0", Digit, split="train")) == 25
    found = atdata.AtmosphereIndex().get_dataset(f"@{alice.handle}/digits")
    assert (found.license, found.tags, dict(found.metadata)) == ("CC-BY-4.0", ("handwritten",), {"share": 0.5})
    url = ds.opening.store.read_url(found.data_urls[0])
    first = next(iter(webdataset.WebDataset(url, shardshuffle=False)))
    assert atdata.unpack(first["msgpack"], Digit) == digits()[0]


def test_the_atmosphere_and_blobs(login: Login, on_network: Any, cache: Path) -> None:
    """Shards, manifests and record are in the account; anybody streams them from its server."""
    alice = login()
    store = atdata.PDSBlobStore(alice)
    index = atdata.AtmosphereIndex(alice, store=store)
    entry = index.write_samples(digits(), name="vision/digits", sample_type=Digit, maxcount=10)
    assert all(url.startswith(f"at://{alice.did}/blob/bafkrei") for url in entry.data_urls)
    value = alice.get_record(entry.uri).value  # type: ignore[union-attr]
    storage = value["storage"]
    assert storage["$type"] == "science.alt.dataset.storageBlobs"
    assert [b["blob"]["ref"]["$link"] for b in storage["blobs"]] == [url.rpartition("/")[2] for url in entry.data_urls]
    # As the server found them to be, whatever they were sent as.
    assert [{part: blob["mimeType"] for part, blob in m.items()} for m in value["manifests"]] == [
        {"header": "application/json", "samples": "application/vnd.apache.parquet"}
    ] * 3
    check(ENTRY, value)
    # The entry alone keeps the blobs, also when the store forgets its dataset.
    prefix = next(iter(store.prefixes()))[0]
    store.delete(prefix)
    ds = atdata.load_dataset(f"@{alice.handle}/vision/digits", Digit)
    assert list(ds) == digits()
    assert ds[17] == digits()[17]
    assert len(list(ds.where(atdata.fields(Digit).label == 3))) == 3
    first = next(iter(webdataset.WebDataset(ds.opening.store.read_url(entry.data_urls[0]), shardshuffle=False)))
    assert atdata.unpack(first["msgpack"], Digit) == digits()[0]
    index.delete_dataset("vision/digits")
    with pytest.raises(EntryNotFoundError):
        atdata.load_dataset(f"@{alice.handle}/vision/digits")
    assert list(alice.list_blobs(alice.did or "")) == []


def test_accounts_on_two_servers(login: Login, anonymous: Atmosphere, cache: Path) -> None:
    """One index lists and searches both, and what one has published, another publishes under a name of their own."""
    alice, bob = login(), login(pds=1)
    for client, name, count in ((alice, "digits", 25), (bob, "more/digits", 7)):
        index = atdata.AtmosphereIndex(client, store=atdata.PDSBlobStore(client))
        index.write_samples(digits(count), name=name, tags=[name])
    both = atdata.AtmosphereIndex(anonymous, repo=[alice.did or "", bob.did or ""])
    assert [(e.name, e.samples) for e in both.list_datasets()] == [("digits", 25), ("more/digits", 7)]
    assert [e.name for e in both.search("more")] == ["more/digits"]
    assert [e.name for e in both.search(tags=["digits"])] == ["digits"]
    assert both.get_dataset("more/digits").uri.startswith(f"at://{bob.did}/")
    theirs = both.get_dataset(f"@{alice.did}/digits").dataset(Digit)
    assert list(theirs) == digits()
    again = atdata.AtmosphereIndex(bob).insert_dataset(theirs, name="digits")
    assert again.data_urls == theirs.list_shards()
    assert again.cid == theirs.cid
    assert list(atdata.AtmosphereIndex(anonymous).get_dataset(f"@{bob.did}/digits").dataset(Digit)) == digits()


def test_the_front_page(
    atproto: SharedNetwork,
    s3: atdata.S3DataStore,
    on_network: Any,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What README.md tells of sharing, run as it stands there, with a name of this network."""
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(from atdata\.atmosphere import Atmosphere.*?)```", page, re.DOTALL)
    account = atproto.make_account()
    for name, value in {
        "ATDATA_HANDLE": account.handle,
        "ATDATA_APP_PASSWORD": account.password,
        "ATDATA_INDEX": str(tmp_path / "index.db"),
        "XDG_CONFIG_HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    with atdata.LocalIndex(store=s3) as local:
        local.write_samples(digits(9), name="team/digits")
    names: dict[str, Any] = {"atdata": atdata, "Digit": Digit, "samples": digits}
    exec(block.replace("alice.example.org", account.handle), names)
    assert list(names["ds"]) == digits()
    said = capsys.readouterr().out.splitlines()
    listed, whose, proof = said[:2], said[2], said[3:]
    assert sorted(line.split()[:3] for line in listed) == [["digits", "1.0.0", "25"], ["more/digits", "1.0.0", "9"]]
    assert whose == f"@{account.handle}/digits"
    links = ["account", "signed commit", "record", "commit record", "shards", "manifests", "samples"]
    assert [line[:16].rstrip() for line in proof] == [f"✓ {link}" for link in links]
    assert names["client"].did in proof[0]
    assert "25 of 25 read" in proof[-1]
    names["client"].close()
