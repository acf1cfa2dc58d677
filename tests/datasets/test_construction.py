"""What a dataset can be made from, and what is said when it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from dataset_samples import Digit, Shelf, digit, digits

import atdata
from atdata.errors import CommitRecordError, DatasetNotFoundError, SchemaError, StoreError, UnsafeNameError
from atdata.stores.base import WrittenShards

ALL = list(range(25))


def labels(source: Any, **options: Any) -> list[int]:
    return [sample.label for sample in atdata.Dataset[Digit](source, **options)]


def test_every_way_to_name_the_same_shards_gives_the_same_samples(urls: WrittenShards, tmp_path: Path) -> None:
    folder = Path(urls[0]).parent
    assert labels(urls) == ALL
    assert labels(list(urls)) == ALL
    assert labels(tuple(map(Path, urls))) == ALL
    assert labels(str(folder / "shard-{000000..000002}.tar")) == ALL
    assert labels(str(folder / "shard-00000{0,1,2}.tar")) == ALL
    assert labels(str(folder / "*.tar")) == ALL
    assert labels(folder / "shard-00000?.tar") == ALL
    assert labels(str(folder)) == ALL
    assert labels(f"{folder}/") == ALL
    assert labels(folder) == ALL
    assert labels(folder.as_uri()) == ALL
    assert labels([Path(url).as_uri() for url in urls]) == ALL
    assert labels(Shelf({url: Path(url).read_bytes() for url in urls})) == ALL


def test_one_shard_and_some_shards(urls: WrittenShards) -> None:
    assert labels(urls[1]) == ALL[10:20]
    assert labels(Path(urls[2])) == ALL[20:]
    assert labels(urls[1:]) == ALL[10:]
    assert labels([urls[2], urls[0]]) == ALL[20:] + ALL[:10]
    assert labels(str(Path(urls[0]).parent / "shard-{000002..000001}.tar")) == ALL[20:] + ALL[10:20]


def test_relative_paths_mean_the_folder_of_the_moment(urls: WrittenShards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(urls[0]).parent)
    by_list = atdata.Dataset[Digit](["shard-000000.tar"])
    by_glob = atdata.Dataset[Digit]("*.tar")
    here = atdata.Dataset[Digit](".")
    monkeypatch.chdir("/")
    assert [len(list(ds)) for ds in (by_list, by_glob, here)] == [10, 25, 25]


def test_the_returned_list_may_be_sorted_and_cut_like_any_list(urls: WrittenShards) -> None:
    urls.reverse()
    assert labels(urls) == ALL[20:] + ALL[10:20] + ALL[:10]
    del urls[1]
    assert labels(urls) == ALL[20:] + ALL[:10]
    urls.append(urls[0])
    assert labels(urls) == ALL[20:] + ALL[:10] + ALL[20:]


def test_the_type_comes_from_the_stored_schema(urls: WrittenShards) -> None:
    for source in (urls, Path(urls[0]).parent, urls[1], urls[:2]):
        ds = atdata.Dataset(source)
        assert ds.sample_type.__name__ == "Digit"
        assert ds.sample_type is not Digit
        assert ds.schema is not None
        assert ds.schema.cid == atdata.Schema.of(Digit).cid
        first = ds[0]
        assert (first.image.dtype, first.image.shape) == ("uint8", (4, 3))
    assert atdata.Dataset(urls)[3].note == "n3"
    assert atdata.Dataset[Digit](urls).sample_type is Digit


def test_without_a_stored_schema_samples_are_mappings(urls: WrittenShards, tmp_path: Path) -> None:
    lone = tmp_path / "elsewhere" / "lone.tar"
    lone.parent.mkdir()
    shutil.copy(urls[0], lone)
    ds = atdata.Dataset(lone)
    assert ds.sample_type is atdata.DictSample
    assert ds.schema is None
    assert ds.cid is None
    assert ds[3]["note"] == "n3"
    assert ds[3].image.shape == (4, 3)


def test_shards_of_two_types_have_no_type_in_common(store: atdata.LocalDiskStore, urls: WrittenShards) -> None:
    other = store.write_shards(atdata.Dataset.from_samples([atdata.DictSample(a=1)], atdata.DictSample), prefix="other")
    assert atdata.Dataset([*urls, *other]).sample_type is atdata.DictSample


def test_the_identifier_belongs_to_the_whole_dataset_only(urls: WrittenShards) -> None:
    whole = urls.record.cid
    assert atdata.Dataset(urls).cid == whole
    assert atdata.Dataset(list(urls)).cid == whole
    assert atdata.Dataset(Path(urls[0]).parent).cid == whole
    assert atdata.Dataset(urls[:2]).cid is None
    assert atdata.Dataset(urls[::-1]).cid is None


# -- what is missing or wrong --------------------------------------------------------------------------------


def test_a_missing_file_is_noticed_before_anything_is_read(urls: WrittenShards, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.tar")
    for source in (missing, Path(missing), [missing], [urls[0], missing]):
        with pytest.raises(DatasetNotFoundError, match="no such file") as caught:
            atdata.Dataset(source)
        assert caught.value.url == missing
    assert isinstance(caught.value, FileNotFoundError)
    Path(urls[1]).unlink()
    with pytest.raises(DatasetNotFoundError, match="no such file") as caught:
        atdata.Dataset(urls)
    assert caught.value.url == urls[1]
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        atdata.Dataset(str(Path(urls[0]).parent / "shard-{000000..000002}.tar"))


def test_a_folder_without_a_dataset_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"no dataset in this folder \(no atdata.json\) \["):
        atdata.Dataset(tmp_path)
    (tmp_path / "a.tar").touch()
    (tmp_path / "b.tar.gz").touch()
    with pytest.raises(DatasetNotFoundError, match="it holds 2 tar files: name them as") as caught:
        atdata.Dataset(tmp_path)
    assert f"'{tmp_path}/*.tar'" in str(caught.value)
    with pytest.raises(DatasetNotFoundError, match="this is a folder, not a shard"):
        atdata.Dataset([tmp_path])


def test_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="list of shards is empty"):
        atdata.Dataset([])
    with pytest.raises(DatasetNotFoundError, match="the source has no shards"):
        atdata.Dataset(Shelf({}))
    with pytest.raises(DatasetNotFoundError, match="no file matches the pattern") as caught:
        atdata.Dataset(str(tmp_path / "*.tar"))
    assert caught.value.url == str(tmp_path / "*.tar")


@pytest.mark.parametrize("source", [3, None, object(), {"a": 1}, (n for n in [1])])
def test_what_is_no_source_is_a_type_error(source: Any) -> None:
    with pytest.raises(TypeError, match="from_samples"):
        atdata.Dataset(source)


def test_samples_given_as_a_source_are_a_type_error() -> None:
    with pytest.raises(TypeError):
        atdata.Dataset(digits(2))


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    for url in ("s3://bucket/a.tar", "pipe:cat x.tar", "https://example.org/a.tar"):
        with pytest.raises((StoreError, DatasetNotFoundError)):
            atdata.Dataset(url)
    with pytest.raises(StoreError, match="cannot be read"):
        atdata.Dataset("https://example.org/a.tar")


@pytest.mark.parametrize(
    "bomb",
    [
        "{0..9999999}.tar",
        "{000000000..999999999999999999}.tar",
        "{0..999}{0..999}{0..999}.tar",
        "{a,b}" * 30 + ".tar",
        "{1..1000}" * 500,
    ],
)
def test_brace_bombs_are_refused_at_once(bomb: str) -> None:
    with pytest.raises(UnsafeNameError, match="more than 1000000 names"):
        atdata.Dataset(bomb)


@pytest.mark.parametrize("pattern", ["{a.tar", "a}-{0..1}.tar", "{a,{b,c}}.tar", "{}}{.tar"])
def test_braces_that_do_not_pair_are_refused(pattern: str) -> None:
    with pytest.raises(UnsafeNameError, match="do not pair"):
        atdata.Dataset(pattern)


@pytest.mark.parametrize(
    "name", ["a{b}.tar", "a{0..3}.tar", "a[1].tar", "a*.tar", "a?.tar", "{.tar", "a b,c.tar", "ä-☃.tar", "a%20b.tar"]
)
def test_a_file_with_such_a_name_is_that_file(urls: WrittenShards, tmp_path: Path, name: str) -> None:
    path = tmp_path / "odd [x] {y}" / name
    path.parent.mkdir()
    shutil.copy(urls[0], path)
    (tmp_path / "a1.tar").write_bytes(b"not this one")
    assert labels(str(path)) == ALL[:10]
    assert labels([str(path)]) == ALL[:10]
    assert labels(path) == ALL[:10]


def test_patterns_inside_a_folder_with_brackets(urls: WrittenShards, tmp_path: Path) -> None:
    folder = tmp_path / "runs[1]"
    folder.mkdir()
    for url in urls:
        shutil.copy(url, folder)
    assert labels(f"{folder}/*.tar") == ALL
    assert labels(f"{folder}/shard-{{000000..000001}}.tar") == ALL[:20]
    assert labels(f"{tmp_path}/runs*/shard-0000*0.tar") == ALL[:10]


def test_a_class_that_is_no_sample_type(urls: WrittenShards) -> None:
    class Plain:
        pass

    with pytest.raises(SchemaError, match="packable"):
        atdata.Dataset[Plain](urls)
    with pytest.raises(SchemaError, match="packable"):
        atdata.Dataset.from_samples([], Plain)


def test_options_that_make_no_sense(urls: WrittenShards) -> None:
    with pytest.raises(ValueError, match="'first', 'always' or 'never', not 'sometimes'"):
        atdata.Dataset(urls, verify="sometimes")  # type: ignore[arg-type]
    ds = atdata.Dataset(urls)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        ds.ordered(batch_size=0)
    with pytest.raises(ValueError, match="0 or more"):
        ds.take(-1)


def test_a_record_that_cannot_be_trusted_is_noticed_at_once(urls: WrittenShards) -> None:
    record = Path(urls[0]).parent / "atdata.json"
    record.write_bytes(record.read_bytes().replace(b'"samples": 25', b'"samples": 26'))
    for source in (record.parent, list(urls), urls[0]):
        with pytest.raises(CommitRecordError, match="does not match its own digest") as caught:
            atdata.Dataset(source)
        assert caught.value.url == str(record)


def test_a_source_needs_its_two_methods_only(urls: WrittenShards) -> None:
    class Small:
        def list_shards(self) -> list[str]:
            return ["one"]

        def open_shard(self, shard_id: str) -> Any:
            return Path(urls[0]).open("rb")

    assert labels(Small()) == ALL[:10]


def test_a_source_that_lacks_a_shard_it_lists(urls: WrittenShards) -> None:
    class Lying(Shelf):
        def list_shards(self) -> list[str]:
            return ["a", "gone"]

    ds = atdata.Dataset[Digit](Lying({"a": Path(urls[0]).read_bytes()}))
    with pytest.raises(DatasetNotFoundError, match="does not have it") as caught:
        list(ds)
    assert caught.value.url == "gone"


def test_a_strangers_store_resolves_the_urls(urls: WrittenShards) -> None:
    class Names:
        """A store with the three public methods only."""

        def write_shards(self, ds: Any, *, prefix: str, **kwargs: Any) -> list[str]:
            raise NotImplementedError

        def read_url(self, url: str) -> str:
            return str(Path(urls[0]).parent / url.removeprefix("name:"))

        def supports_streaming(self) -> bool:
            return True

    named = [f"name:{Path(url).name}" for url in urls]
    ds = atdata.Dataset[Digit](named, store=Names())
    assert ds.list_shards() == named
    assert [s.label for s in ds] == ALL
    assert ds[24] == digit(24)
    with pytest.raises(DatasetNotFoundError) as caught:
        atdata.Dataset[Digit](["name:none.tar"], store=Names())
    assert caught.value.url == "name:none.tar"


def test_a_dataset_of_a_generic_alias_is_a_constructor_and_an_annotation(urls: WrittenShards) -> None:
    alias = atdata.Dataset[Digit]
    assert alias(urls).sample_type is Digit
    assert alias(list(urls), verify="always")[1] == digit(1)
    assert alias == atdata.Dataset[Digit]


def test_a_pattern_sees_a_write_whole_that_was_killed_while_it_was_published(tmp_path: Path) -> None:
    store = atdata.LocalDiskStore(tmp_path)
    urls = store.write_shards(atdata.Dataset.from_samples(digits(25), Digit), prefix="killed", maxcount=10)
    folder = tmp_path / "killed"
    # As a kill between two moves leaves it: some files at their names, the others and the record not yet.
    staging = folder / ".atdata-writing-0123abcd"
    staging.mkdir()
    for name in ("atdata.json", "shard-000002.tar", "shard-000002.manifest.parquet"):
        (folder / name).rename(staging / name)
    found = atdata.Dataset[Digit](f"{folder}/*.tar")
    assert found.list_shards() == list(urls)
    assert len(list(found)) == 25
