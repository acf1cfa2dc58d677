"""`load_dataset` by name: versions, labels, identifiers, and names that are paths too."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import atdata
from atdata.errors import (
    DatasetNotFoundError,
    EntryFormError,
    EntryNotFoundError,
    IntegrityError,
    SchemaError,
    SplitNotFoundError,
)
from atdata.index.load import load_dataset
from atdata.index.splits import DatasetDict
from atdata.stores.s3 import S3DataStore
from servers.rgw import S3Server


@atdata.packable
class Word:
    text: str


@atdata.packable
class Noted:
    text: str
    note: str = "none"


@atdata.packable
class Number:
    number: int


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without an index, and an empty folder to work in."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ATDATA_INDEX", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def index(home: Path) -> Iterator[atdata.LocalIndex]:
    """The index that is there by default, with two versions of `words`."""
    with atdata.LocalIndex() as index:
        index.write_samples(words("a", "b"), name="words")
        index.append("words", words("c"))
        index.label("words", "stable", version="1.0.0")
        yield index


def words(*texts: str) -> list[Word]:
    return [Word(text) for text in texts]


def texts(ds: Any) -> list[str]:
    return [sample["text"] if isinstance(sample, atdata.DictSample) else sample.text for sample in ds]


# -- names -------------------------------------------------------------------------------------------------------


def test_names_versions_labels_and_identifiers(index: atdata.LocalIndex) -> None:
    first = index.get_dataset("words@1.0.0")
    assert texts(load_dataset("words")) == ["a", "b", "c"]
    for name in ("words@1.0.0", "words@stable", "@local/words@1.0.0", "atdata://local/dataset/words@1.0.0", first.cid):
        ds = load_dataset(name)
        assert texts(ds) == texts(load_dataset(name, Word, split="train")) == ["a", "b"]
        assert ds.sample_type is index.decode_schema("Word")
        assert ds.cid == first.cid
    assert texts(load_dataset("words@latest")) == texts(load_dataset("@local/words")) == ["a", "b", "c"]
    assert load_dataset("words", Word)[0] == Word("a")
    assert load_dataset("words", atdata.DictSample)[0]["text"] == "a"


def test_another_index(index: atdata.LocalIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = atdata.LocalDiskStore(tmp_path / "other")
    with atdata.LocalIndex(tmp_path / "other.db", store=store) as other:
        other.write_samples(words("x"), name="words")
        other.write_samples(words("y"), name="team/words")
        assert texts(load_dataset("words", index=other)) == ["x"]
        assert texts(load_dataset("team/words", index=other)) == ["y"]
        assert texts(load_dataset({"train": "words", "val": "team/words"}, index=other)["val"]) == ["y"]
    assert texts(load_dataset("words")) == ["a", "b", "c"]
    monkeypatch.setenv("ATDATA_INDEX", str(tmp_path / "other.db"))
    assert texts(load_dataset("words")) == ["x"]


def test_a_dataset_outlives_the_index_it_was_found_in(index: atdata.LocalIndex) -> None:
    ds = load_dataset("words")
    index.delete_dataset("words")
    index.close()
    assert texts(ds) == ["a", "b", "c"]
    assert texts(pickle.loads(pickle.dumps(ds))) == ["a", "b", "c"]
    program = "import pickle, sys; print([s.text for s in pickle.load(sys.stdin.buffer)])"
    said = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(ds), capture_output=True, check=True)
    assert said.stdout == b"['a', 'b', 'c']\n"


def test_no_connection_is_left_open(index: atdata.LocalIndex, home: Path) -> None:
    load_dataset("words"), load_dataset("@local/words@1.0.0")
    index.close()
    mine = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
    assert not [path for path in mine if path.startswith(str(home / ".atdata/index.db"))]


def _is_link(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words@9.9.9", "words has no version 9.9.9; there are 1.1.0, 1.0.0"),
        ("@local/words@9.9.9", "words has no version 9.9.9; there are 1.1.0, 1.0.0"),
        ("words@best", "words has no label 'best'; there are stable (1.0.0)"),
        ("wrds", "no dataset 'wrds'; did you mean 'words'?; and there is no path 'wrds'"),
        ("@local/wrds", "no dataset 'wrds'; did you mean 'words'?"),
        ("bafyrei" + "a" * 52, "no version in the index has the content bafyrei"),
    ],
)
def test_what_the_index_does_not_have(index: atdata.LocalIndex, name: str, message: str) -> None:
    for split in (None, "train"):
        with pytest.raises(EntryNotFoundError, match=re.escape(message)):
            load_dataset(name, split=split)


@pytest.mark.parametrize("name", ["words;drop table versions", "a b", "../words", "words@", "🙂", "a//b", "x" * 10_000])
def test_what_cannot_be_a_name(index: atdata.LocalIndex, name: str) -> None:
    with pytest.raises(DatasetNotFoundError):
        load_dataset(name)
    with pytest.raises(EntryFormError):
        load_dataset("@local/" + name)


# -- names and paths ---------------------------------------------------------------------------------------------


def test_a_name_that_is_a_path_too(index: atdata.LocalIndex) -> None:
    atdata.LocalDiskStore(".").write_shards(atdata.Dataset.from_samples(words("z"), Word), prefix="words")
    with pytest.raises(EntryFormError) as error:
        load_dataset("words")
    assert str(error.value) == (
        "'words' is a dataset of the index (version 1.1.0) and also a path here, with other data: write '@local/words' "
        "for the one and './words' for the other"
    )
    assert texts(load_dataset("@local/words")) == ["a", "b", "c"]
    assert (
        texts(load_dataset("./words")) == texts(load_dataset("words/")) == texts(load_dataset(Path("words"))) == ["z"]
    )


def test_a_name_and_a_path_of_the_same_data(index: atdata.LocalIndex) -> None:
    urls = atdata.LocalDiskStore(".").write_shards(atdata.Dataset.from_samples(words("z"), Word), prefix="same")
    index.insert_dataset(atdata.Dataset(urls), name="same")
    assert texts(load_dataset("same")) == ["z"]


def test_a_path_that_is_no_dataset_does_not_stand_in_the_way(index: atdata.LocalIndex) -> None:
    Path("words").mkdir()
    Path("words/notes.txt").write_text("about words")
    assert texts(load_dataset("words")) == ["a", "b", "c"]


def test_a_path_that_is_no_name(index: atdata.LocalIndex) -> None:
    for path in ("data/v1", "more words"):
        atdata.LocalDiskStore(".").write_shards(atdata.Dataset.from_samples(words(path), Word), prefix=path)
        assert texts(load_dataset(path)) == [path]


# -- types -------------------------------------------------------------------------------------------------------


def test_the_type_is_checked_when_loading(index: atdata.LocalIndex) -> None:
    assert [(s.text, s.note) for s in load_dataset("words@1.0.0", Noted)] == [("a", "none"), ("b", "none")]
    with pytest.raises(
        SchemaError, match=r"no lens leads from Word 1.0.0 to Number, .*: Number.number is no .* \[words@1.1.0\]"
    ):
        load_dataset("words", Number)


# -- splits ------------------------------------------------------------------------------------------------------


def test_splits_of_a_version(index: atdata.LocalIndex) -> None:
    store = atdata.LocalDiskStore("data")
    urls = []
    for name in ("train", "val"):
        urls += store.write_shards(atdata.Dataset.from_samples(words(name, "more"), Word), prefix=name, maxcount=1)
    index.insert_dataset(atdata.Dataset(urls), name="both")
    found = load_dataset("both")
    assert isinstance(found, DatasetDict)
    assert {name: texts(ds) for name, ds in found.items()} == {
        "train": ["train", "more"],
        "validation": ["val", "more"],
    }
    assert texts(load_dataset("both", Noted, split="val")) == ["val", "more"]
    with pytest.raises(
        SplitNotFoundError, match=r"there is no split 'test'; there is: train, validation \[both@1.0.0\]"
    ):
        load_dataset("both", split="test")
    with pytest.raises(SplitNotFoundError, match=r"so all are taken for train\) \[words@1.1.0\]"):
        load_dataset("words", split="test")


# -- trust -------------------------------------------------------------------------------------------------------


def test_shards_are_checked_against_the_index(index: atdata.LocalIndex) -> None:
    """Who replaces the shards, and the record beside them, does not go unnoticed."""
    (url,) = index.get_dataset("words@1.0.0").data_urls
    folder = Path(url).parent
    ds = atdata.Dataset.from_samples(words("a", "x"), Word)
    atdata.LocalDiskStore(folder.parent).write_shards(ds, prefix=folder.name, overwrite=True)
    assert texts(atdata.Dataset(folder)) == ["a", "x"]
    with pytest.raises(IntegrityError):
        list(load_dataset("words@1.0.0"))
    Path(url).unlink()
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        load_dataset("words@1.0.0")


# -- stores ------------------------------------------------------------------------------------------------------


def test_shards_in_a_team_s_bucket(tmp_path: Path, rgw: S3Server, bucket: str) -> None:
    store = S3DataStore(rgw.credentials, bucket=bucket)
    with atdata.LocalIndex(tmp_path / "team.db", store=store) as index:
        index.write_samples(words("a", "b"), name="words", maxcount=1)
        assert texts(load_dataset("words", index=index)) == ["a", "b"]
    with atdata.LocalIndex(tmp_path / "team.db") as index:  # which knows no credentials
        assert texts(load_dataset("words@1.0.0", Word, index=index, store=store)) == ["a", "b"]
        far = load_dataset("words", index=index, store=store, cache=tmp_path / "cache")
        assert texts(far) == ["a", "b"]
        assert list((tmp_path / "cache").rglob("*"))


# -- a stranger's index ------------------------------------------------------------------------------------------


class Entry:
    """What the public contract asks for, and no more."""

    name, version, cid = "words", "1.0.0", "bafy"
    created_at = datetime.now(UTC)
    metadata: Mapping[str, Any] = {}

    def __init__(self, urls: list[str], schema_ref: str | None) -> None:
        self.data_urls = urls
        self.schema_ref = schema_ref


class Catalogue:
    """An index of somebody else."""

    def __init__(self, **entries: Entry) -> None:
        self.entries = entries
        self.asked: list[str] = []

    def get_dataset(self, ref: str) -> Entry:
        self.asked.append(ref)
        return self.entries[ref.rpartition("/")[2].replace("-", "_")]

    def get_schema(self, ref: str) -> atdata.Schema:
        return {"word": atdata.Schema.of(Word)}[ref]


def test_an_index_of_a_stranger(tmp_path: Path) -> None:
    store = atdata.LocalDiskStore(tmp_path)
    urls = store.write_shards(atdata.Dataset.from_samples(words("train", "more"), Word), prefix="w", maxcount=1)
    for record in (True, False):
        if not record:
            (tmp_path / "w/atdata.json").unlink()
        index: Any = Catalogue(words=Entry(list(urls), "word"), bare=Entry(list(urls), None))
        names = ["words", "at://alice.example.org/science.alt.dataset.entry/words", "@alice/words"]
        for name in names:
            ds = load_dataset(name, index=index)
            assert texts(ds) == ["train", "more"]
            assert ds.sample_type is atdata.Schema.of(Word).sample_type()
        assert load_dataset("bare", index=index).sample_type.__name__ == ("Word" if record else "DictSample")
        assert load_dataset("words", Noted, index=index)[0].note == "none"
        assert index.asked == [*names, "bare", "words"]
        found = atdata.verify("@alice/words", deep=True, index=index)
        assert [(link.name, link.state) for link in found.chain][:2] == [("index", "unchecked"), ("shards", "ok")]
        with pytest.raises(SchemaError, match=r"no lens leads from Word 1.0.0 to Number, .* \[words@1.0.0\]"):
            load_dataset("words", Number, index=index)
        with pytest.raises(KeyError, match="none"):
            load_dataset("none", index=index)
