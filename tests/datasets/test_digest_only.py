"""Shards of which a digest is known and nothing else: nothing of them is seen before it was checked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from dataset_samples import Digit, digits

import atdata
from atdata.datasets.sources import Located, ShardRef, expand_braces
from atdata.errors import IntegrityError, UnsafeNameError
from atdata.stores.base import WrittenShards
from atdata.stores.copy import copy_dataset
from servers.web import WebServer


@pytest.fixture
def located(web: WebServer, urls: WrittenShards) -> Located:
    """The 25 digits of `urls` on a web server, with manifests beside them that nobody vouches for."""
    shutil.copytree(Path(urls[0]).parent, web.folder / "digits")
    refs = [ShardRef(web.url(f"digits/{info.name}"), None, info.sha256) for info in urls.shards]
    return Located(tuple(refs), urls.record.schema)


def damaged(web: WebServer, located: Located, number: int = 1) -> Located:
    """With a flipped bit in a sample of one shard."""
    path = web.folder / "digits" / located.shards[number].url.rpartition("/")[2]
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    return located


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_they_are_read_in_every_way(
    web: WebServer, located: Located, ranges: bool, cached: bool, tmp_path: Path
) -> None:
    web.ranges = ranges
    ds: atdata.Dataset[Any] = atdata.Dataset(located, sample_type=Digit, cache=tmp_path / "cache" if cached else None)
    assert list(ds.ordered()) == digits(25)
    assert len(ds) == 25
    assert ds[12] == digits(25)[12]
    assert ds[8:13] == digits(25)[8:13]
    assert [label for batch in ds.ordered(batch_size=4) for label in batch.label] == [s.label for s in digits(25)]
    shuffled = [sample.label for sample in ds.shuffled(seed=1)]
    assert sorted(shuffled) == sorted(sample.label for sample in digits(25))
    assert not any("manifest" in request.path or "atdata.json" in request.path for request in web.requests)
    assert ds.digest == atdata.Dataset(located).digest


@pytest.mark.parametrize("cached", [True, False])
def test_damage_is_found_before_anything_is_handed_out(
    web: WebServer, located: Located, cached: bool, tmp_path: Path
) -> None:
    located = damaged(web, located)
    options: dict[str, Any] = {"sample_type": Digit, "cache": tmp_path / "cache" if cached else None}
    first = len(list(atdata.Dataset(Located(located.shards[:1]), sample_type=Digit)))
    seen: list[Digit] = []
    with pytest.raises(IntegrityError, match=r"SHA-256 differs.*shard-000001\.tar"):
        seen.extend(iter(atdata.Dataset(located, **options)))
    assert seen == digits(25)[:first]
    for ask in (len, lambda ds: ds[first], lambda ds: list(ds.shuffled(seed=0)), lambda ds: ds.get("000000012")):
        with pytest.raises(IntegrityError, match="SHA-256 differs"):
            ask(atdata.Dataset(located, **options))


def test_not_to_check_is_a_choice(web: WebServer, located: Located) -> None:
    located = damaged(web, located)
    assert len(list(atdata.Dataset(located, sample_type=atdata.DictSample, verify="never").take(3))) == 3


def test_copies_and_indexes_check_too(web: WebServer, located: Located, tmp_path: Path) -> None:
    store = atdata.LocalDiskStore(tmp_path / "copy")
    ds: atdata.Dataset[Any] = atdata.Dataset(located)
    copied = copy_dataset(located, store, prefix="good")
    assert copied.record is not None
    assert [info.sha256 for info in copied.record.shards] == [ref.sha256 for ref in located.shards]
    with atdata.LocalIndex(tmp_path / "index.db") as index:
        assert index.insert_dataset(ds, name="good").samples == 25
        damaged(web, located)
        with pytest.raises(IntegrityError, match="SHA-256 differs"):
            index.insert_dataset(ds, name="bad")
    with pytest.raises(IntegrityError, match="SHA-256 differs"):
        copy_dataset(located, store, prefix="bad")
    assert not list(store.list("bad"))


@pytest.mark.parametrize(
    "pattern",
    [
        "https://example.org/{0..99999999999999999999}.tar",
        "https://example.org/{99999999999999999999..0}.tar",
        "https://example.org/{0..1000}{0..1000}.tar",
        "https://example.org/{0.." + "9" * 5000 + "}.tar",
        "{a,b}" * 25,
    ],
    ids=range(5),
)
def test_patterns_are_counted_before_they_are_spelled_out(pattern: str) -> None:
    with pytest.raises(UnsafeNameError, match=r"more than 1000000 names|digits is too large"):
        expand_braces(pattern)
