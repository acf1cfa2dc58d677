"""Which shard belongs to which split: told by names, refused where it cannot be told, never mixed."""

from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import atdata
from atdata.errors import SplitError, SplitNotFoundError
from atdata.index.splits import DatasetDict, canonical, common_folder, group, splits_in

WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "development": "validation",
    "test": "test",
    "testing": "test",
}


@pytest.mark.parametrize(
    ("urls", "splits"),
    [
        (["train.tar", "test.tar"], {"train": [0], "test": [1]}),
        (["data-test.tar", "data-val.tar", "data-train.tar"], {"train": [2], "validation": [1], "test": [0]}),
        (["x/train-000.tar", "x/train-001.tar"], {"train": [0, 1]}),
        (["train2017.tar", "val2017.tar"], {"train": [0], "validation": [1]}),
        (["train-00000-of-00002.tar.gz", "test-00000-of-00001.tar.zst"], {"train": [0], "test": [1]}),
        (["TRAIN.tar", "Dev_clean.tar"], {"train": [0], "validation": [1]}),
        (["d/train/shard-0.tar", "d/test/shard-0.tar"], {"train": [0], "test": [1]}),
        (["d/train/train-0.tar", "d/dev/val-0.tar"], {"train": [0], "validation": [1]}),
        (["s3://train-bucket/a/val/0.tar", "s3://train-bucket/a/test/0.tar"], {"validation": [0], "test": [1]}),
        (["https://h/x%2Dtrain-0.tar?sig=test", "https://h/x%2Dtest-0.tar?sig=train"], {"train": [0], "test": [1]}),
        (["data.train.tar", "data.test.tar"], {"train": [0], "test": [1]}),
        # as a source object names its shards
        (["train", "test"], {"train": [0], "test": [1]}),
    ],
)
def test_names_say_the_split(urls: list[str], splits: dict[str, list[int]]) -> None:
    found = group(urls)
    assert found.splits == splits
    assert list(found.splits) == [name for name in ("train", "validation", "test") if name in splits]
    assert found.named


@pytest.mark.parametrize(
    "urls",
    [
        ["my-test-project/shard-0.tar", "my-test-project/shard-1.tar"],
        ["/home/me/test/shard-0.tar"],
        ["s3://test/val/shard-0.tar", "s3://test/val/shard-1.tar"],
        ["retrain.tar", "latest.tar", "contest-0.tar", "validator-1.tar", "devices.tar", "trained.tar"],
        ["https://train.example.org/test/shard-0.tar?split=train"],
        ["at://did:plc:x/blob/bafkreitest", "at://did:plc:x/blob/bafkreitrain"],
    ],
)
def test_other_names_and_folders_above_say_nothing(urls: list[str]) -> None:
    found = group(urls)
    assert found == ({"train": list(range(len(urls)))}, False)
    assert found.numbers("train") == list(range(len(urls)))


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        (["train-test.tar"], "cannot be told which split a shard belongs to: 'train-test.tar' says test and train"),
        (["d/train/test-0.tar", "d/test/test-0.tar"], "'train' says train, 'test-0.tar' says test"),
        (
            ["d/train-0.tar", "d/train-1.tar", "d/train-2.tar", "d/train-3.tar", "d/eval-0.tar", "d/eval-1.tar"],
            "some shards name a split and some do not: train-0.tar, train-1.tar, train-2.tar and 1 more for train; "
            "eval-0.tar, eval-1.tar for none. Say which is which: load_dataset({'train': …, 'test': …})",
        ),
        (["https://h/test-dev.tar?secret"], "says test and validation. Say"),
    ],
)
def test_what_cannot_be_told_is_refused(urls: list[str], message: str) -> None:
    with pytest.raises(SplitError, match=re.escape(message)) as error:
        group(urls)
    assert "secret" not in str(error.value)


def test_a_root_decides_which_folders_count() -> None:
    urls = ["/data/test/a/shard-0.tar", "/data/test/a/shard-1.tar"]
    assert group(urls).splits == {"train": [0, 1]}
    assert group(urls, root="/data/").splits == {"test": [0, 1]}
    assert group(urls, root="/").splits == {"test": [0, 1]}


def test_a_split_that_is_not_there() -> None:
    two = group(["train-0.tar", "val-0.tar"])
    assert two.numbers("dev") == two.numbers("Validation") == [1]
    with pytest.raises(SplitNotFoundError, match=r"no split 'test'; there is: train, validation \[d\]") as error:
        two.numbers("test", url="d")
    assert isinstance(error.value, KeyError)
    assert isinstance(error.value, ValueError)
    with pytest.raises(SplitNotFoundError, match=r"there is: train \(no shard's name says a split, so all are taken"):
        group(["shard-0.tar"]).numbers("test")


@given(st.data())
def test_words_between_any_other_signs(data: st.DataObject) -> None:
    sign = st.text("-_.0123456789 +=@", min_size=1, max_size=3)
    other = st.text("abcxyzé", min_size=1, max_size=5).filter(lambda w: w not in WORDS)
    word = data.draw(st.sampled_from(sorted(WORDS)))
    parts = [*data.draw(st.lists(other, max_size=2)), word, *data.draw(st.lists(other, max_size=2))]
    name = "".join(part + data.draw(sign) for part in parts) + "tar"
    assert splits_in(name) == splits_in(name.upper()) == {WORDS[word]}
    assert splits_in(name.replace(word, "x" + word)) == set()


@given(
    st.lists(
        st.sampled_from(["a/b/c.tar", "a/b/d.tar", "a/bb/c.tar", "a/e.tar", "a/b/c/f.tar", "s3://a/b"]), max_size=5
    )
)
def test_the_common_folder_holds_all(urls: list[str]) -> None:
    folder = common_folder(urls)
    assert all(url.startswith(folder) for url in urls)
    assert folder == "" or folder.endswith("/")
    deeper = {"/".join(url[len(folder) :].split("/")[:-1][:1]) for url in urls}
    assert len(deeper) != 1 or deeper == {""}


@given(st.sampled_from(sorted(WORDS)))
def test_every_name_of_a_split_is_known(word: str) -> None:
    assert canonical(word) == canonical(word.upper()) == WORDS[word]


class TestDatasetDict:
    @pytest.fixture
    def splits(self) -> DatasetDict:
        one = atdata.DictSample(x=1)
        return DatasetDict(
            train=atdata.Dataset.from_samples([one] * 3, atdata.DictSample),
            validation=atdata.Dataset.from_samples([one], atdata.DictSample),
        )

    def test_prints_itself(self, splits: DatasetDict) -> None:
        assert repr(splits) == (
            "DatasetDict(\n"
            "    train:      Dataset[DictSample](samples in memory, 3 samples)\n"
            "    validation: Dataset[DictSample](samples in memory, 1 samples)\n"
            ")"
        )
        assert repr(DatasetDict()) == "DatasetDict()"

    def test_is_a_dict(self, splits: DatasetDict) -> None:
        assert list(splits) == ["train", "validation"]
        assert splits["val"] is splits["dev"] is splits["validation"]
        assert "val" not in splits
        assert splits.get("val") is None
        assert {**splits}.keys() == splits.keys()
        back = pickle.loads(pickle.dumps(splits))
        assert type(back) is DatasetDict
        assert repr(back) == repr(splits)

    def test_a_missing_split_lists_those_there_are(self, splits: DatasetDict) -> None:
        with pytest.raises(KeyError, match="there is no split 'test'; there is: train, validation"):
            splits["test"]
        with pytest.raises(SplitNotFoundError, match="there is no split 'train'; there is: none"):
            DatasetDict()["train"]
