"""`load_dataset` over S3 and plain web servers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import atdata
from atdata.datasets.sources import locate
from atdata.errors import DatasetNotFoundError, SchemaError, SplitError, SplitNotFoundError, StoreError
from atdata.index.load import load_dataset
from atdata.index.splits import DatasetDict
from atdata.stores.opening import Opening
from atdata.stores.s3 import S3DataStore
from servers.rgw import S3Server
from servers.web import WebServer


@atdata.packable
class Word:
    text: str


@atdata.packable
class Number:
    number: int


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ATDATA_INDEX", raising=False)


@pytest.fixture
def store(rgw: S3Server, bucket: str) -> S3DataStore:
    return S3DataStore(rgw.credentials, bucket=bucket)


def words(*texts: str) -> atdata.Dataset[Word]:
    return atdata.Dataset.from_samples([Word(text) for text in texts], Word)


def texts(ds: Any) -> list[str]:
    return [sample["text"] if isinstance(sample, atdata.DictSample) else sample.text for sample in ds]


def splits(found: Any) -> dict[str, list[str]]:
    assert isinstance(found, DatasetDict)
    return {name: texts(ds) for name, ds in found.items()}


def put(store: S3DataStore, key: str, *samples: str, tmp: Path) -> None:
    """One tar without a record."""
    shutil.rmtree(tmp / "made", ignore_errors=True)
    (url,) = atdata.LocalDiskStore(tmp).write_shards(words(*samples), prefix="made")
    store.put(key, Path(url).read_bytes())


@pytest.mark.parametrize(
    "place", ["v1", "v1/", "v1/*.tar", "v1/*", "v?/shard-00000[0-9].tar", "**/*.tar", "v1/shard-{000000..000001}.tar",
              "{v1,v1}/*0.tar", "*/shard-00000{0,1}.tar"],
)  # fmt: skip
def test_every_way_to_name_objects(store: S3DataStore, place: str) -> None:
    store.write_shards(words("a", "b", "c"), prefix="v1", maxcount=2)
    expected = ["a", "b", "a", "b"] if place.startswith("{v1") else ["a", "b", "c"]
    for options in ({}, {"split": "train"}, {"sample_type": Word}):
        ds = load_dataset(store.base + place, store=store, **options)
        assert texts(ds) == expected
        assert ds.sample_type.__name__ == "Word"


def test_patterns_mean_the_same_as_on_a_disk(store: S3DataStore, tmp_path: Path) -> None:
    names = ["x.tar", "a/x.tar", "a/y.tar", "b/x.tar", "a/b/x.tar", "a/b/c/x.tar", "ab/x.tar", ".h/x.tar", "a/.h.tar"]
    names += ["a/x.manifest.json", "a/x.manifest.parquet", "a/1/x.tar.gz", "a+b/x.tar"]
    for name in names:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).touch()
        store.put(f"tree/{name}", b"")
    for pattern in (
        "*.tar", "*/*.tar", "**/*.tar", "**/x.tar", "a/**/x.tar", "a/*/x.tar", "?/x.tar", "[ab]/x.tar", "[!a]/x.tar",
        "ab/*", "**/b/**/x.tar", "{a,b}/*.tar", "{a,*}/x.tar", "a/*/x.tar*", "**/*.gz", "a+*/x.tar", ".h/*.tar", "a/.*",
    ):  # fmt: skip
        here = {ref.url.removeprefix(str(tmp_path)) for ref in locate(str(tmp_path / "tree" / pattern)).shards}
        there = locate(f"{store.base}tree/{pattern}", Opening(store))
        assert {"/" + ref.url.removeprefix(store.base) for ref in there.shards} == here, pattern
        assert here, pattern
    with pytest.raises(DatasetNotFoundError, match="this is a folder, not a shard"):  # of which S3 has none
        locate(str(tmp_path / "tree/a/*"))


def test_the_usual_credentials_are_found(
    store: S3DataStore, rgw: S3Server, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    store.write_shards(words("a"), prefix="v1")
    for name, value in rgw.credentials.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", rgw.endpoint)
    assert texts(load_dataset(f"s3://{bucket}/v1/")) == ["a"]


def test_splits_under_a_prefix(store: S3DataStore) -> None:
    for name in ("train", "val", "test", "other"):
        store.write_shards(words(name, "more"), prefix=f"imagenet/{name}", maxcount=1)
    store.put("imagenet/README.md", b"hello")
    for place in ("imagenet", "imagenet/"):
        found = load_dataset(store.base + place, store=store)
        assert splits(found) == {
            name[0]: [name[1], "more"] for name in (("train", "train"), ("validation", "val"), ("test", "test"))
        }
        assert found["val"].cid == atdata.Dataset(store.base + "imagenet/val", store=store).cid
    assert splits(load_dataset(store.base + "imagenet/t*/*.tar", Word, store=store)).keys() == {"train", "test"}
    assert texts(load_dataset(store.base + "imagenet/", store=store, split="dev")) == ["val", "more"]
    assert texts(load_dataset(store.base + "imagenet/*st/*.tar", store=store, split="test")) == ["test", "more"]
    with pytest.raises(SplitNotFoundError, match="there is no split 'x'; there is: train, validation, test"):
        load_dataset(store.base + "imagenet/", store=store, split="x")


def test_tar_files_that_nobody_recorded(store: S3DataStore, tmp_path: Path) -> None:
    for name in ("train-0.tar", "train-1.tar", "test.tar", "deeper/other.tar", ".hidden.tar", "notes.txt"):
        put(store, f"test-corpus/{name}", name, tmp=tmp_path)
    found = load_dataset(store.base + "test-corpus/", Word, store=store)
    assert splits(found) == {"train": ["train-0.tar", "train-1.tar"], "test": ["test.tar"]}
    assert load_dataset(store.base + "test-corpus/", store=store)["test"].sample_type is atdata.DictSample
    put(store, "test-corpus/eval.tar", "x", tmp=tmp_path)
    with pytest.raises(SplitError, match=r"eval\.tar for none"):
        load_dataset(store.base + "test-corpus", store=store)


def test_nothing_there(store: S3DataStore, rgw: S3Server) -> None:
    store.write_shards(words("a"), prefix="upper/one")
    for place, message in (
        ("none/", "no tar files, and no folders"),
        ("upper", r"There are datasets in one: name one \[s3://.*/upper\]"),
        ("none/*.tar", "no object matches the pattern"),
        ("upper/one/none.tar", "no such"),
    ):
        with pytest.raises(DatasetNotFoundError, match=message):
            list(load_dataset(store.base + place, store=store))
    with pytest.raises(StoreError, match=r"bucket .*does not exist"):
        load_dataset("s3://no-such-bucket/x/", store=S3DataStore(rgw.credentials, bucket="no-such-bucket"))


def test_what_is_still_being_written_is_no_dataset(store: S3DataStore) -> None:
    transaction = store.begin("imagenet/train", overwrite=False)
    try:
        sink = transaction.create("shard-000000.tar")
        sink.write(b"\0" * 1024)
        sink.close()
        with pytest.raises(DatasetNotFoundError):
            load_dataset(store.base + "imagenet/", store=store)
    finally:
        transaction.abort()


def test_a_class_that_does_not_fit(store: S3DataStore) -> None:
    store.write_shards(words("a"), prefix="v1")
    with pytest.raises(SchemaError, match=r"cannot be read as Number: .*number is no field of Word"):
        load_dataset(store.base + "v1/", Number, store=store)


@pytest.fixture
def served(web: WebServer) -> WebServer:
    for name in ("train", "test"):
        atdata.LocalDiskStore(web.folder).write_shards(words(name, "more"), prefix=name, maxcount=1)
    return web


def test_web_servers(served: WebServer) -> None:
    for place in ("train", "train/", "train/shard-{000000..000001}.tar"):
        assert texts(load_dataset(served.endpoint + "/" + place)) == ["train", "more"]
    assert texts(load_dataset([served.url("train/shard-000001.tar")])) == ["more"]
    assert texts(load_dataset(served.url("train/shard-000001.tar") + "?token=test")) == ["more"]
    both = served.endpoint + "/{train,test}/shard-00000{0,1}.tar"
    assert splits(load_dataset(both, Word)) == {"train": ["train", "more"], "test": ["test", "more"]}
    assert texts(load_dataset(both, split="test")) == ["test", "more"]
    places = {"train": served.url("train/"), "val": served.url("test/")}
    assert splits(load_dataset(places)) == {"train": ["train", "more"], "val": ["test", "more"]}


def test_web_servers_cannot_be_listed(served: WebServer) -> None:
    with pytest.raises(DatasetNotFoundError, match="no dataset under this prefix"):
        load_dataset(served.endpoint + "/")
    with pytest.raises(DatasetNotFoundError, match="web servers cannot be listed"):
        load_dataset(served.endpoint + "/train/*.tar")


def test_a_url_with_a_query_is_a_file(served: WebServer) -> None:
    shutil.copy(served.folder / "train/shard-000000.tar", served.folder / "getBlob")
    assert texts(load_dataset(served.url("getBlob") + "?did=x&cid=secret")) == ["train"]
    with pytest.raises(DatasetNotFoundError, match="there is no such file") as error:
        list(load_dataset(served.url("none/") + "?token=secret"))
    assert "secret" not in str(error.value)
