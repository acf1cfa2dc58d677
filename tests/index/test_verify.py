"""`atdata.verify`: what is recorded holds down to the last byte, or the first link that does not is named."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import atdata
from atdata.errors import (
    AtdataError,
    CatalogError,
    DatasetNotFoundError,
    EntryFormError,
    EntryNotFoundError,
    IntegrityError,
)
from atdata.index.chain import Verification
from atdata.testing import FaultProxy
from servers.rgw import HasEndpoint, S3Server
from servers.web import WebServer


@atdata.packable
class Word:
    text: str
    number: int


def words(n: int) -> list[Word]:
    return [Word(f"word {i}" * (i % 5), i) for i in range(n)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """25 samples in three shards."""
    atdata.LocalDiskStore(tmp_path).write_shards(
        atdata.Dataset.from_samples(words(25), Word), prefix="words", maxcount=10
    )
    return tmp_path / "words"


def states(found: Verification) -> dict[str, str]:
    return {link.name: link.state for link in found.chain}


WHOLE = {"commit record": "ok", "shards": "ok", "manifests": "ok", "samples": "ok"}


def test_a_dataset_is_verified_to_the_depth_that_is_asked_for(folder: Path) -> None:
    deep = atdata.verify(folder, deep=True)
    assert deep.ok
    assert states(deep) == WHOLE
    assert deep.cid == atdata.Dataset(folder).cid
    assert [shard.samples for shard in deep.shards] == [10, 10, 5]
    assert str(deep).splitlines()[1:] == [
        "✓ commit record atdata.json is whole",
        "✓ shards        3 of 3, SHA-256 as recorded",
        "✓ manifests     SHA-256 as recorded",
        "✓ samples       25 of 25 read, SHA-256 as the manifests say",
    ]
    digests = atdata.verify(folder, deep="digests")
    assert states(digests) == WHOLE | {"samples": "unchecked"}
    sizes = atdata.verify(folder)
    assert states(sizes) == WHOLE | {"manifests": "unchecked", "samples": "unchecked"}
    assert str(sizes).splitlines()[2:] == [
        "✓ shards        3 of 3 there, as long as recorded",
        "· manifests     not looked at",
        "· samples       not looked at",
    ]


@pytest.mark.parametrize(
    "name", ["the folder", "a pattern", "a list", "a dataset", "with a filter", "an entry", "an index", "a place"]
)
def test_every_way_to_name_it(folder: Path, tmp_path: Path, name: str) -> None:
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    ds = atdata.Dataset[Word](folder)
    with atdata.LocalIndex(tmp_path / "index.db") as index:
        entry = index.insert_dataset(ds, name="some-words")
        ref: Any = {
            "the folder": str(folder),
            "a pattern": f"{folder}/*.tar",
            "a list": shards,
            "a dataset": ds,
            "with a filter": ds.filter(lambda word: word.number > 3),
            "an entry": entry,
            "an index": "some-words@1.0.0",
            "a place": f"{folder}/shard-{{000000..000002}}.tar",
        }[name]
        found = atdata.verify(ref, deep=True, index=index)
        assert found.ok
        assert found.cid == ds.cid
        assert sum(shard.samples or 0 for shard in found.shards) == 25
        assert ("index" in states(found)) == (name in ("an entry", "an index"))
        if "index" in states(found):
            assert found.chain[0].checked == f"some-words@1.0.0, {ds.cid} is what its shards' digests give"


# -- what does not hold ------------------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << at % 8
    path.write_bytes(bytes(data))


LINKS = {"atdata.json": "commit record", "shard-000001.tar": "shards", "shard-000001.manifest.parquet": "manifests"}


@pytest.mark.parametrize("name", LINKS)
def test_a_flipped_byte_anywhere_is_found_and_its_file_and_link_are_named(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    some = random.Random(7).sample(range(len(whole)), 25)
    for at in sorted({0, len(whole) - 1, *some}):
        flip(path, at)
        for deep in (True, "digests"):
            with pytest.raises(AtdataError) as caught:
                atdata.verify(folder, deep=deep)
            assert caught.value.url == str(path), at
            assert caught.value.__notes__[-1] == f"the chain is broken at this link: {LINKS[name]}"
            report = atdata.verify(folder, deep=deep, on_error="report")
            assert report.broken is not None
            assert report.broken.name == LINKS[name]
            assert {problem.url for problem in report.problems} == {str(path)}
        path.write_bytes(whole)
    assert atdata.verify(folder, deep=True).ok


def test_the_first_problem_is_raised_with_the_others_beside_it(folder: Path) -> None:
    shard = folder / "shard-000001.tar"
    data = shard.read_bytes()
    at = data.index(b"word 12") + 3
    flip(shard, at)
    with pytest.raises(IntegrityError, match="the shard's bytes are not those that were written") as caught:
        atdata.verify(folder, deep=True)
    assert caught.value.__notes__ == [
        "also: the sample's bytes are not those that were written (SHA-256 differs) "
        f"[{shard}, at byte {at // 512 * 512}, sample '000000012']",
        "the chain is broken at this link: shards",
    ]


def test_all_that_is_wrong_is_reported_when_asked_for(folder: Path) -> None:
    flip(folder / "shard-000000.manifest.parquet", 100)
    (folder / "shard-000001.tar").unlink()
    flip(folder / "shard-000002.tar", 520)
    found = atdata.verify(folder, deep=True, on_error="report")
    assert not found.ok
    assert states(found) == WHOLE | {"shards": "broken", "manifests": "broken", "samples": "broken"}
    assert [problem.type for problem in found.problems] == [
        "DatasetNotFoundError",
        "IntegrityError",
        "IntegrityError",
        "IntegrityError",
    ]
    text = str(found)
    assert "✗ shards        2 problems in 2 files" in text
    assert f"    there is no such file [{folder}/shard-000001.tar]" in text
    with pytest.raises(DatasetNotFoundError):
        atdata.verify(folder)


@pytest.mark.parametrize("deep", [False, "digests", True])
def test_a_shard_that_was_cut_is_found_at_every_depth(folder: Path, deep: Any) -> None:
    shard = folder / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(IntegrityError, match="the shard has 19968 bytes, its record 20480: it was cut") as caught:
        atdata.verify(folder, deep=deep)
    assert caught.value.url == str(shard)


def test_what_has_no_record_is_unchecked_and_said(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "shard-000000.tar", tmp_path / "alone.tar")
    found = atdata.verify(tmp_path / "alone.tar", deep=True)
    assert found.ok
    assert states(found) == {"commit record": "unchecked", "shards": "ok", "manifests": "unchecked", "samples": "ok"}
    assert found.cid is None
    assert [note.partition(":")[0] for note in found.notes] == [
        "no atdata.json is about exactly these shards",
        "alone.tar",
    ]
    assert "✓ shards        1 of 1 whole; no digest is recorded for some" in str(found)


def test_a_record_that_was_rewritten_is_seen_by_the_index(folder: Path, tmp_path: Path) -> None:
    """The folder holds what its record says; the index knows that it is something else."""
    with atdata.LocalIndex(tmp_path / "index.db") as index:
        index.insert_dataset(atdata.Dataset[Word](folder), name="some-words")
        shutil.rmtree(folder)
        atdata.LocalDiskStore(tmp_path).write_shards(
            atdata.Dataset.from_samples(words(26), Word), prefix="words", maxcount=10
        )
        assert atdata.verify(folder, deep=True).ok
        with pytest.raises(IntegrityError) as caught:
            atdata.verify("some-words", deep=True, index=index)
        assert caught.value.__notes__[-1] == "the chain is broken at this link: shards"


def test_an_index_that_was_altered_is_found(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "index.db"
    with atdata.LocalIndex(file) as index:
        index.insert_dataset(atdata.Dataset[Word](folder), name="some-words")
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE atdata_versions SET cid = ?", (atdata.generate_cid({"another": 1}),))
    with atdata.LocalIndex(file) as index:
        with pytest.raises(CatalogError, match="the database was altered") as caught:
            atdata.verify("some-words", index=index)
        assert caught.value.__notes__ == ["the chain is broken at this link: index"]
        found = atdata.verify("some-words", index=index, on_error="report", deep=True)
    assert states(found) == {
        "index": "broken", "shards": "unchecked", "manifests": "unchecked", "samples": "unchecked"
    }  # fmt: skip
    assert [problem.type for problem in found.problems] == ["CatalogError"]


# -- names -------------------------------------------------------------------------------------------------------------


def test_what_is_not_there_or_means_two_things_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATDATA_INDEX", str(tmp_path / "index.db"))
    with pytest.raises(DatasetNotFoundError, match="there is no such file"):
        atdata.verify("nothing")
    with atdata.LocalIndex() as index:
        other = atdata.Dataset.from_samples(words(3), Word)
        urls = atdata.LocalDiskStore("elsewhere").write_shards(other, prefix="v1")
        entry = index.insert_dataset(atdata.Dataset[Word](urls), name="words")
    with pytest.raises(EntryNotFoundError, match="the index has no dataset 'nothing'; and there is no path 'nothing'"):
        atdata.verify("nothing")
    with pytest.raises(EntryFormError, match=r"write '@local/words' for the one and './words' for the other"):
        atdata.verify("words")
    assert atdata.verify("@local/words").cid == entry.cid
    assert atdata.verify("./words").cid == atdata.Dataset(folder).cid
    with pytest.raises(DatasetNotFoundError, match="only what lies in a store can be verified"):
        atdata.verify(atdata.Dataset.from_samples(words(3), Word))
    with pytest.raises(TypeError, match=r"a dataset is verified by its path, URL or name, .*, not as int"):
        atdata.verify(5)
    with pytest.raises(ValueError, match="on_error is 'raise' or 'report', not 'skip'"):
        atdata.verify(folder, on_error="skip")  # type: ignore[arg-type]


# -- on servers --------------------------------------------------------------------------------------------------------


def test_nothing_but_sizes_is_asked_of_a_server_unless_it_is_to_be_read(
    rgw: S3Server, bucket: str, make_proxy: Callable[[HasEndpoint], FaultProxy]
) -> None:
    proxy = make_proxy(rgw)
    store = atdata.S3DataStore(rgw.through(proxy).credentials, bucket=bucket)
    samples = atdata.Dataset.from_samples((Word("x" * 3000, i) for i in range(200)), Word)
    store.write_shards(samples, prefix="v1", maxcount=20)
    url = f"s3://{bucket}/v1"
    proxy.forget()
    found = atdata.verify(url, store=store)
    assert found.ok
    assert sum(count.sent for count in proxy.counts().values()) < 10_000
    assert sum(shard.bytes for shard in found.shards) > 600_000
    deep = atdata.verify(url, store=store, deep=True)
    assert deep.ok
    assert sum(shard.samples or 0 for shard in deep.shards) == 200
    assert rgw.request("DELETE", f"/{bucket}/v1/shard-000003.tar").status == 204
    with pytest.raises(DatasetNotFoundError) as caught:
        atdata.verify(url, store=store)
    assert caught.value.url == f"{url}/shard-000003.tar"


def test_the_web(folder: Path, web: WebServer) -> None:
    shutil.copytree(folder, web.folder / "words")
    assert atdata.verify(web.url("words"), deep=True).ok
    flip(web.folder / "words" / "shard-000002.tar", 1000)
    assert atdata.verify(web.url("words")).ok, "its length is as recorded"
    with pytest.raises(IntegrityError) as caught:
        atdata.verify(web.url("words"), deep=True)
    assert caught.value.url == web.url("words/shard-000002.tar")
