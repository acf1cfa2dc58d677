"""`load_dataset` over files: every way to name them, their types and splits; what is ambiguous is refused."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import (
    CommitRecordError,
    DatasetNotFoundError,
    EntryFormError,
    SchemaError,
    SplitError,
    SplitNotFoundError,
    UnsafeNameError,
)
from atdata.index.load import load_dataset
from atdata.index.splits import DatasetDict


@atdata.packable
class Digit:
    image: NDArray[np.uint8]
    label: int


@atdata.packable
class Digit2:
    image: NDArray[np.uint8]
    label: int | None
    note: str = "none"


@atdata.packable
class Other:
    picture: NDArray[np.uint8]
    label: str


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without an index, and the test's folder to work in."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("ATDATA_INDEX", raising=False)
    monkeypatch.chdir(tmp_path)
    return home


def digits(n: int, first: int = 0) -> list[Digit]:
    return [Digit(np.full((2, 2), i, np.uint8), i) for i in range(first, first + n)]


def write(folder: str, first: int = 0, n: int = 5, maxcount: int = 2) -> Path:
    """A dataset of digits from `first` on, in the test's folder."""
    path = Path(folder)
    ds = atdata.Dataset.from_samples(digits(n, first), Digit)
    atdata.LocalDiskStore(path.parent).write_shards(ds, prefix=path.name, maxcount=maxcount)
    return path


def plain(folder: str, *names: str) -> Path:
    """Tar files of these names without a record; the first has the label 0 and so on."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        made = write(f"made/{number}", number, 1)
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / "shard-000000.tar", path / name)
    shutil.rmtree("made", ignore_errors=True)
    return path


def labels(ds: Any) -> list[int]:
    return [sample["label"] if isinstance(sample, atdata.DictSample) else sample.label for sample in ds]


def splits(found: Any) -> dict[str, list[int]]:
    assert isinstance(found, DatasetDict)
    return {name: labels(ds) for name, ds in found.items()}


# -- places ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "data/v1",
        "data/v1/",
        "./data/v1",
        Path("data/v1"),
        "data/v1/*.tar",
        "data/v1/*",
        "data/**/*.tar",
        "**/shard-*.tar",
        "data/v1/shard-{000000..000002}.tar",
        "{data,data}/v1/shard-00000{0,1,2}.tar",
        "data/{v1,none}/*.tar",
        "data/v?/shard-00000[0-9].tar",
        ["data/v1/shard-000000.tar", Path("data/v1/shard-000001.tar"), "data/v1/shard-000002.tar"],
    ],
    ids=str,
)
def test_every_way_to_name_files(place: Any) -> None:
    write("data/v1")
    if "none" in str(place):
        with pytest.raises(DatasetNotFoundError, match="no file matches the pattern"):
            load_dataset(place)
        return
    ds = load_dataset(place)
    assert isinstance(ds, atdata.Dataset)
    expected = [0, 1, 2, 3, 4] * (2 if "{data,data}" in str(place) else 1)
    assert labels(ds) == labels(load_dataset(place, Digit)) == labels(load_dataset(place, split="train")) == expected
    assert ds.sample_type is atdata.Schema.of(Digit).sample_type()
    assert load_dataset(place, Digit).sample_type is Digit
    assert isinstance(load_dataset(place, atdata.DictSample)[0], atdata.DictSample)


def test_more_ways_to_name_files(home: Path, tmp_path: Path) -> None:
    folder = write("data/v1").absolute()
    shutil.copytree(folder, home / "data")
    for place in (str(folder), f"file://{folder}", f"file://{folder}/*.tar", "~/data", "~/data/*.tar"):
        assert labels(load_dataset(place)) == [0, 1, 2, 3, 4]
    assert labels(load_dataset("data/v1/shard-000001.tar")) == [2, 3]
    assert load_dataset("data/v1").cid == atdata.Dataset("data/v1").cid
    os.chdir(folder)
    for place in (".", "./", "../v1", "*.tar", "shard-000002.tar"):
        assert labels(load_dataset(place))[-1] == 4


def test_a_list_of_written_shards_keeps_its_record(tmp_path: Path) -> None:
    ds = atdata.Dataset.from_samples(digits(5), Digit)
    urls = atdata.LocalDiskStore(tmp_path).write_shards(ds, prefix="v1", maxcount=2)
    assert load_dataset(urls).cid == urls.record.cid


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.zst", ".TAR"])
def test_folders_of_tar_files_that_nobody_recorded(suffix: str) -> None:
    folder = plain("data", "b-0.tar", "b-1.tar")
    for number in (0, 1):
        path = folder / f"b-{number}.tar"
        if suffix != ".TAR":
            tool = ["zstd", "--rm", "-q"] if suffix.endswith("zst") else ["gzip"]
            subprocess.run([*tool, str(path)], check=True)
            path = path.with_name(path.name + (".zst" if suffix.endswith("zst") else ".gz"))
        path.rename(folder / f"b-{number}{suffix}")
    (folder / "README.md").write_text("not a shard")
    (folder / ".hidden.tar").write_text("not a shard")
    (folder / "sub").mkdir()
    for place in ("data", "data/", "./data", Path("data")):
        assert labels(load_dataset(place)) == [0, 1]
        assert load_dataset(place).sample_type is atdata.DictSample
        assert labels(load_dataset(place, Digit)) == [0, 1]


def test_folders_whose_names_look_like_patterns() -> None:
    write("plain").rename("{a}")
    Path("runs[1]").mkdir()
    Path("{a}").rename("runs[1]/{a}")
    plain("odd [x]", "train.tar", "test.tar")
    assert labels(load_dataset("runs[1]/{a}")) == [0, 1, 2, 3, 4]
    assert labels(load_dataset("runs[1]/*/*.tar")) == [0, 1, 2, 3, 4]
    assert splits(load_dataset("odd [x]/")) == {"train": [0], "test": [1]}


class Shelf:
    """Shards in memory."""

    def __init__(self, **shards: Path) -> None:
        self.files = shards

    def list_shards(self) -> list[str]:
        return list(self.files)

    def open_shard(self, shard_id: str) -> io.BytesIO:
        return io.BytesIO(self.files[shard_id].read_bytes())


def test_sources() -> None:
    write("data/v1", n=3, maxcount=1)
    tars = sorted(Path("data/v1").glob("*.tar"))
    assert labels(load_dataset(Shelf(a=tars[0], b=tars[1]), Digit)) == [0, 1]
    shelf = Shelf(train_0=tars[0], test_0=tars[1], train_1=tars[2])
    found = load_dataset(shelf, Digit)
    assert splits(found) == {"train": [0, 2], "test": [1]}
    assert labels(load_dataset(shelf, split="test")) == [1]
    assert splits(pickle.loads(pickle.dumps(found))) == splits(found)
    with pytest.raises(SplitNotFoundError, match="no split 'dev'; there is: train, test"):
        load_dataset(shelf, split="dev")


# -- splits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "my-test-project/data",
        "my-test-project/data/",
        "my-test-project/data/*.tar",
        "my-test-project/data/{train,test,val}*.tar",
        "my-test-project/**/*.tar",
        [f"my-test-project/data/{name}.tar" for name in ("train-0", "train-1", "test", "val")],
        {"train": "my-test-project/data/train*.tar", "test": "my-test-project/data/test.tar",
         "validation": ["my-test-project/data/val.tar"]},
    ],
    ids=str,
)  # fmt: skip
def test_splits_by_file_names(place: Any) -> None:
    plain("my-test-project/data", "train-0.tar", "train-1.tar", "test.tar", "val.tar")
    found = load_dataset(place, Digit)
    assert splits(found) == {"train": [0, 1], "validation": [3], "test": [2]}
    assert found["val"].sample_type is Digit
    for name, expected in (("train", [0, 1]), ("val", [3]), ("validation", [3]), ("test", [2])):
        assert labels(load_dataset(place, split=name)) == expected
    with pytest.raises(SplitNotFoundError, match="there is no split 'holdout'; there is: train, ") as error:
        load_dataset(place, split="holdout")
    assert isinstance(error.value, KeyError)


def test_a_parent_folder_says_nothing() -> None:
    plain("my-test-project/train", "shard-0.tar", "shard-1.tar")
    for place in ("my-test-project/train", "my-test-project/train/*.tar", "my-test-project/train/shard-{0,1}.tar"):
        assert labels(load_dataset(place)) == labels(load_dataset(place, split="train")) == [0, 1]
        with pytest.raises(SplitNotFoundError, match="no shard's name says a split, so all are taken for train"):
            load_dataset(place, split="test")


def test_splits_in_folders_with_records() -> None:
    for number, name in enumerate(("train", "val", "test")):
        write(f"imagenet/{name}", 10 * number)
    write("imagenet/other", 90)
    Path("imagenet/README.md").write_text("hello")
    found = load_dataset("imagenet/")
    assert splits(found) == {
        "train": [0, 1, 2, 3, 4],
        "validation": [10, 11, 12, 13, 14],
        "test": [20, 21, 22, 23, 24],
    }
    assert found["val"].cid == atdata.Dataset("imagenet/val").cid
    assert found["train"].sample_type is found["test"].sample_type is atdata.Schema.of(Digit).sample_type()
    assert labels(load_dataset("imagenet", split="test")) == [20, 21, 22, 23, 24]
    assert splits(load_dataset("imagenet/{train,test}/*.tar")).keys() == {"train", "test"}
    assert splits(load_dataset("imagenet/t*/*.tar")).keys() == {"train", "test"}
    assert re.search(r"\n    train: +Dataset\[Digit\]\(3 shards, 5 samples\)\n", repr(found))
    assert splits(pickle.loads(pickle.dumps(found))) == splits(found)


def test_a_glob_that_leaves_one_split_open_still_knows_it() -> None:
    write("imagenet/test")
    assert labels(load_dataset("imagenet/*/*.tar", split="test")) == [0, 1, 2, 3, 4]
    with pytest.raises(SplitNotFoundError, match="there is no split 'train'; there is: test"):
        load_dataset("imagenet/*/*.tar", split="train")
    assert labels(load_dataset("imagenet", split="test")) == [0, 1, 2, 3, 4]
    assert isinstance(load_dataset("imagenet"), atdata.Dataset)


def test_splits_in_folders_of_tar_files() -> None:
    plain("corpus", "train-clean-100/a.tar", "dev-clean/b.tar", "test-other/c.tar", "test-clean/d.tar")
    assert splits(load_dataset("corpus/", Digit)) == {"train": [0], "validation": [1], "test": [3, 2]}


def test_one_record_with_several_splits() -> None:
    folder = write("v1", n=3, maxcount=1)
    renamed = ["train-0.tar", "train-1.tar", "test-0.tar"]
    record = atdata.Dataset(folder).located.record  # type: ignore[union-attr]
    import msgspec

    infos = [
        msgspec.structs.replace(info, name=name, manifest=None)
        for info, name in zip(record.shards, renamed, strict=True)  # type: ignore[union-attr]
    ]
    for info, name in zip(record.shards, renamed, strict=True):  # type: ignore[union-attr]
        (folder / info.name).rename(folder / name)
    (folder / "atdata.json").write_bytes(type(record)(record.schema, tuple(infos)).to_bytes())  # type: ignore[union-attr,call-arg]
    found = load_dataset("v1")
    assert splits(found) == {"train": [0, 1], "test": [2]}
    assert found["train"].known_length() == 2
    assert (found["train"].cid, atdata.Dataset("v1").cid is None) == (None, False)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.tar", "eval.tar"], "some shards name a split and some do not: train.tar for train; eval.tar for none"),
        (["train.tar", "test/a.tar", "b.tar"], "b.tar for none"),
        (["train/test.tar", "test/b.tar"], "'train' says train, 'test.tar' says test"),
        (["train-test.tar"], "'train-test.tar' says test and train"),
    ],
)
def test_what_cannot_be_told_is_refused(names: list[str], message: str) -> None:
    plain("data", *names)
    with pytest.raises(SplitError, match=re.escape(message)) as error:
        load_dataset("data")
    assert "load_dataset({'train': …, 'test': …})" in str(error.value)
    places = {"train": [f"data/{names[0]}"], "rest": [f"data/{name}" for name in names[1:]] or ["data/train-test.tar"]}
    if names != ["train-test.tar"] and "test" not in "".join(names[1:]):
        assert splits(load_dataset(places)) == {"train": [0], "rest": [1]}


def test_mappings() -> None:
    write("a"), write("b", 5), write("c/train", 10), write("c/test", 15)
    found = load_dataset({"train": "./a", "dev": "./b"}, Digit)
    assert splits(found) == {"train": [0, 1, 2, 3, 4], "dev": [5, 6, 7, 8, 9]}
    assert found["validation"] is found["dev"]
    assert labels(load_dataset({"train": "./none", "dev": "./b"}, split="val")) == [5, 6, 7, 8, 9]
    assert isinstance(load_dataset({"all": "./a"}), DatasetDict)
    with pytest.raises(EntryFormError, match="the place of split 'x' has splits itself: train, test"):
        load_dataset({"x": "./c"})
    with pytest.raises(SplitNotFoundError, match="there is no split 'y'; there is: x"):
        load_dataset({"x": "./c"}, split="y")


# -- types -------------------------------------------------------------------------------------------------------


def test_a_newer_class_reads_older_data() -> None:
    write("data/v1")
    ds = load_dataset("data/v1", Digit2)
    assert [(s.label, s.note) for s in ds] == [(n, "none") for n in range(5)]
    assert load_dataset("data/v1", Digit2, split="train")[3].note == "none"


def test_a_class_that_does_not_fit_is_refused_at_once() -> None:
    write("data/train"), write("data/test")
    with pytest.raises(SchemaError) as error:
        load_dataset("data", Other)
    assert str(error.value) == (
        "the data (Digit 1.0.0) cannot be read as Other: no lens leads from Digit 1.0.0 to Other, and none follows "
        "from their fields: Other.picture is no field of Digit; there are image; Other.label is str, and int in Digit. "
        "Write it: @atdata.lens over `def to_other(src: Digit) -> Other`, or atdata.lens(atdata.Lens.fields(Digit, "
        "Other, …)) where only names, types or units changed; Digit is a class with image: ndarray[uint8], label: int "
        "[data]"
    )
    assert [s.label for s in load_dataset("data", split="train").select_fields("label")] == [0, 1, 2, 3, 4]
    with pytest.raises(SchemaError, match="is not a sample type"):
        load_dataset("data", int)
    with pytest.raises(SchemaError, match="is not a sample type"):
        load_dataset("data", "Digit")  # type: ignore[call-overload]


def test_options_are_passed_on(tmp_path: Path) -> None:
    write("data/v1")
    path = tmp_path / "data/v1/shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[1100] ^= 1
    path.write_bytes(data)
    with pytest.raises(atdata.AtdataError):
        list(load_dataset("data/v1", verify="always"))
    list(load_dataset("data/v1/shard-000001.tar", verify="never", cache=tmp_path / "cache"))
    with pytest.raises(ValueError, match="verify is 'first'"):
        load_dataset("data/v1", verify="sometimes")  # type: ignore[call-overload]
    store = atdata.LocalDiskStore(tmp_path / "data")
    (tmp_path / "data/v2").mkdir()
    assert load_dataset(str(tmp_path / "data/v1/*1.tar"), store=store)[0].label == 2


# -- what is missing or wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("./none", DatasetNotFoundError, "there is no such file [./none]"),
        ("none/", DatasetNotFoundError, "there is no such file [none/]"),
        ("none/x.tar", DatasetNotFoundError, "there is no such file [none/x.tar]"),
        ("*.tar", DatasetNotFoundError, "no file matches the pattern [*.tar]"),
        ("empty", DatasetNotFoundError, "named after splits (train, validation, test). It is empty [empty]"),
        ("upper/", DatasetNotFoundError, "There are datasets in a, b, c, d, e, …: name one [upper/]"),
        ("docs", DatasetNotFoundError, "there is no dataset here: no atdata.json, no tar files, and no folders"),
        ("none", DatasetNotFoundError, "there is no path 'none', and no index yet that could have it: LocalIndex()"),
        ("digits@1.0.0", DatasetNotFoundError, "there is no path 'digits@1.0.0', and no index yet"),
        ("@local/digits", LookupError, "there is no index yet that '@local/digits' could be in: LocalIndex().write"),
        ("no such name", DatasetNotFoundError, "there is no path 'no such name', and 'no such name' cannot name a"),
        ("a\0b", DatasetNotFoundError, "cannot name a dataset"),
        ("🙂" * 5000, DatasetNotFoundError, "5000 characters"),
        ("name@1.x", DatasetNotFoundError, "there is no path 'name@1.x', and '1.x' is not a version"),
        ("{a,b", UnsafeNameError, "the braces of the pattern do not pair"),
        ("{0..9}" * 20, UnsafeNameError, "more than 1000000 names"),
        ("ftp://host/x.tar", atdata.AtdataError, "ftp:// URLs cannot be read"),
        ("pipe:cat x.tar", DatasetNotFoundError, "there is no such file [pipe:cat x.tar]"),
        ("pipe://touch marker", atdata.AtdataError, "pipe:// URLs cannot be read"),
        ("at://did:plc:abc/science.alt.dataset.entry/", EntryFormError, "is no record key"),
        ("@alice/digits", EntryFormError, "'@alice/digits' names nothing on the network: write @HANDLE/NAME"),
        ([], DatasetNotFoundError, "the list of shards is empty"),
        (["none.tar"], DatasetNotFoundError, "there is no such file [none.tar]"),
        ({}, SplitError, "has no splits"),
        (17, TypeError, "a dataset is read from a path"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_errors(place: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "docs/train").mkdir(parents=True)
    (tmp_path / "docs/README.md").write_text("nothing here")
    for name in "abcdef":
        plain(f"upper/{name}", "x.tar")
    with pytest.raises(error, match=re.escape(message)) as caught:
        load_dataset(place)
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / "home/.atdata").exists()  # looking for a name makes no index


def test_a_damaged_record_is_not_passed_over() -> None:
    write("data/train"), write("data/test")
    Path("data/train/atdata.json").write_text("{}")
    with pytest.raises(CommitRecordError):
        load_dataset("data")


def test_a_missing_shard_is_noticed_at_once() -> None:
    write("data/train"), write("data/test")
    urls = [str(path) for path in sorted(Path("data/train").absolute().glob("*.tar"))]
    Path(urls[1]).unlink()
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        load_dataset(urls)


def test_loading_files_imports_no_database() -> None:
    write("data/v1")
    program = "import sys, atdata; print(atdata.load_dataset('./data/v1'), 'sqlalchemy' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "Dataset[Digit](3 shards, 5 samples) False\n"
