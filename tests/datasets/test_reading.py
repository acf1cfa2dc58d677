"""Samples in their order, by number, by key: what comes, how often bytes are read, and what stays valid."""

from __future__ import annotations

import gc
import os
import pickle
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import (
    Counted,
    Digit,
    Everything,
    Halved,
    Shelf,
    columns_of,
    digit,
    digits,
    double,
    everything,
    is_even,
    labels_of,
)

import atdata
from atdata.errors import DatasetError, SampleIndexError, SampleKeyError, StepError
from atdata.stores.base import WrittenShards

Read = atdata.Dataset[Digit]


def test_samples_come_back_as_they_were(store: atdata.LocalDiskStore) -> None:
    samples = [everything(i) for i in range(12)]
    for manifest in (True, False):
        urls = store.write_shards(
            atdata.Dataset.from_samples(samples, Everything), prefix=f"m{manifest}", maxcount=5, manifest=manifest
        )
        ds = atdata.Dataset[Everything](urls)
        assert list(ds) == samples
        assert [ds[i] for i in range(12)] == samples
        assert list(atdata.Dataset(urls).ordered())[7].table["t"].tolist() == [0.0, 1.0, 2.0]


def test_order_and_iterating_again(urls: WrittenShards, bare: WrittenShards) -> None:
    for ds in (Read(urls), Read(bare), atdata.Dataset.from_samples(digits(25), Digit)):
        loader = ds.ordered()
        first, second = iter(loader), iter(loader)
        mixed = [next(first).label, next(second).label, next(first).label, next(second).label]
        assert mixed == [0, 0, 1, 1]
        assert [s.label for s in first] == list(range(2, 25))
        assert [s.label for s in loader] == list(range(25))
        assert len(loader) == 25
        batches = ds.ordered(batch_size=7)
        assert [len(b) for b in batches] == [7, 7, 7, 4]
        assert [len(b) for b in batches] == [7, 7, 7, 4]
        assert len(batches) == 4
        assert [label for b in batches for label in b.label] == list(range(25))
        assert [s.label for s in ds] == list(range(25))


def test_breaking_off_leaves_nothing_behind(urls: WrittenShards) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        for loader in (Read(urls).ordered(), Read(urls).ordered(batch_size=4)):
            iterator = iter(loader)
            next(iterator)
            del iterator
    del loader  # a dataset keeps its shards open
    gc.collect()
    until = time.monotonic() + 20
    while len(os.listdir("/proc/self/fd")) > before + 2:  # threads may still be opening what nobody wants any more
        assert time.monotonic() < until
        gc.collect()


@pytest.mark.parametrize("manifest", [True, False])
def test_list_bool_and_len_decode_nothing_twice(store: atdata.LocalDiskStore, manifest: bool) -> None:
    samples = [Counted(i) for i in range(10)]
    urls = store.write_shards(atdata.Dataset.from_samples(samples, Counted), prefix="c", maxcount=4, manifest=manifest)
    for source in (urls, [Path(u) for u in urls]):
        ds = atdata.Dataset[Counted](source)
        Counted.made = 0
        assert ds
        assert len(ds) == 10
        assert Counted.made == 0
        assert len(list(ds)) == 10
        assert Counted.made == 10
        assert len(list(ds.ordered())) == 10
        assert Counted.made == 20
        assert len(ds.head(3)) == 3
        assert Counted.made == 23
        assert ds[7].number == 7
        assert ds.get("000000002").number == 2
        assert Counted.made == 25


def test_an_unknown_length_costs_no_second_reading(urls: WrittenShards) -> None:
    shelf = Shelf({url: Path(url).read_bytes() for url in urls})
    ds = Read(shelf)
    assert ds
    assert len(list(ds.ordered(batch_size=4))) == 7
    assert shelf.opened == list(urls)
    shelf = Shelf({url: Path(url).read_bytes() for url in urls})
    ds = Read(shelf)
    with pytest.raises(TypeError, match="of an iterator or a stream is not known"):
        len(ds)
    assert len(list(ds)) == 25
    assert shelf.opened == list(urls)
    assert len(ds) == 25  # which is known now
    assert shelf.opened == list(urls)
    assert repr(ds) == "Dataset[Digit](3 shards, 25 samples)"


def test_an_empty_dataset_is_true_and_has_no_length_but_none() -> None:
    ds = atdata.Dataset.from_samples([], Digit)
    assert ds
    assert len(ds) == 0
    assert list(ds) == []
    assert list(ds.ordered(batch_size=3)) == []
    assert ds.head() == []


# -- by number and key ---------------------------------------------------------------------------------------


@pytest.fixture(params=["manifest", "bare", "gz", "stream"])
def ds(request: pytest.FixtureRequest, tmp_path: Path) -> atdata.Dataset[Digit]:
    import gzip

    plain: WrittenShards = request.getfixturevalue("bare" if request.param == "bare" else "urls")
    if request.param == "gz":
        for url in plain:
            (tmp_path / (Path(url).name + ".gz")).write_bytes(gzip.compress(Path(url).read_bytes()))
        return Read(str(tmp_path / "*.tar.gz"))
    if request.param == "stream":
        return Read(Shelf({url: Path(url).read_bytes() for url in plain}))
    return Read(plain)


def test_indexing(ds: atdata.Dataset[Digit]) -> None:
    for i in (0, 9, 10, 19, 20, 24, -1, -25, -6, np.int64(13), True):
        assert ds[i] == digit(range(25)[i])
    for i in (25, -26, 10**30, -(10**30)):
        with pytest.raises(SampleIndexError, match=f"there is no sample {i}: the dataset has 25"):
            ds[i]
    assert issubclass(SampleIndexError, IndexError)
    for wrong in (1.0, "1", None, (1, 2)):
        with pytest.raises(TypeError):
            ds[wrong]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "part",
    [
        slice(10, 20), slice(None), slice(3, 23, 4), slice(None, None, -1), slice(-5, None), slice(22, 2, -7),
        slice(5, 5), slice(30, 40), slice(None, 2), slice(-100, 100, 9),
    ],
)  # fmt: skip
def test_slices(ds: atdata.Dataset[Digit], part: slice) -> None:
    assert ds[part] == digits(25)[part]


def test_a_slice_of_a_stream_reads_it_once(urls: WrittenShards) -> None:
    shelf = Shelf({url: Path(url).read_bytes() for url in urls})
    ds = Read(shelf)
    list(ds)
    shelf.opened.clear()
    assert ds[19:2:-3] == digits(25)[19:2:-3]
    assert sorted(shelf.opened) == sorted(urls[:2])


def test_indexing_through_steps(ds: atdata.Dataset[Digit]) -> None:
    doubled = ds.map(double)
    assert doubled[12].label == 24
    assert [s.label for s in doubled[-3:]] == [44, 46, 48]
    taken = ds.take(12).map(double)
    assert len(taken[:]) == 12
    assert taken[-1].label == 22
    with pytest.raises(SampleIndexError, match="the dataset has 12"):
        taken[12]
    only = ds.select_fields("note", "label")
    assert (only[9].note, only[9].label) == ("n9", 9)
    assert not hasattr(only[9], "image")
    assert [s.label for s in ds.take(20).select_fields("label").take(15)[10:]] == [10, 11, 12, 13, 14]


def test_indexing_is_refused_where_numbers_mean_nothing(urls: WrittenShards) -> None:
    even = Read(urls).filter(is_even)
    for access in (lambda: even[0], lambda: even[:2], lambda: even.map(double)[0]):
        with pytest.raises(DatasetError, match="with a filter cannot be indexed"):
            access()
    with pytest.raises(TypeError, match="after a filter is not known"):
        len(even)
    memory = atdata.Dataset.from_samples(digits(3), Digit)
    for reach in (lambda: memory[0], lambda: memory.get("000000000")):
        with pytest.raises(DatasetError, match="write"):
            reach()


def test_get(ds: atdata.Dataset[Digit]) -> None:
    assert ds.get("000000017") == digit(17)
    assert ds.map(double).get("000000017").label == 34
    assert ds.select_fields("label").get("000000003").label == 3
    with pytest.raises(SampleKeyError, match="no sample has this key") as caught:
        ds.get("17")
    assert caught.value.key == "17"
    assert isinstance(caught.value, KeyError)
    assert "sample '17'" in str(caught.value)
    assert ds.take(10).get("000000009").label == 9
    with pytest.raises(SampleKeyError, match="left out"):
        ds.take(10).get("000000010")
    assert ds.filter(is_even).get("000000004").label == 4
    with pytest.raises(SampleKeyError, match="left out"):
        ds.filter(is_even).get("000000005")
    with pytest.raises(DatasetError, match="both filter and take"):
        ds.filter(is_even).take(3).get("000000004")


def test_head_and_take(ds: atdata.Dataset[Digit]) -> None:
    assert ds.head() == digits(5)
    assert ds.head(100) == digits(25)
    assert ds.head(0) == []
    assert [len(list(ds.take(n))) for n in (0, 1, 10, 11, 25, 26)] == [0, 1, 10, 11, 25, 25]
    assert [b.label for b in ds.take(12).ordered(batch_size=5)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_keys_are_kept_and_can_be_given(store: atdata.LocalDiskStore) -> None:
    named = atdata.Dataset.from_samples(digits(7), Digit, key=lambda s: f"group{s.label % 2}/name-{s.label}")
    urls = store.write_shards(named, prefix="named", maxcount=3)
    ds = Read(urls)
    assert ds.get("group1/name-5") == digit(5)
    again = Read(store.write_shards(ds.filter(is_even), prefix="again"))
    assert [key for key, _ in again.keyed()] == ["group0/name-0", "group0/name-2", "group0/name-4", "group0/name-6"]
    assert again[2] == digit(4)


# -- steps ---------------------------------------------------------------------------------------------------


def test_steps_apply_in_the_order_they_were_written(ds: atdata.Dataset[Digit]) -> None:
    small = ds.filter(lambda s: s.label < 6).map(double)
    late = ds.map(double).filter(lambda s: s.label < 6)
    assert labels_of(small) == [0, 2, 4, 6, 8, 10]
    assert labels_of(late) == [0, 2, 4]
    assert labels_of(ds.take(6).filter(is_even)) == [0, 2, 4]
    assert labels_of(ds.filter(is_even).take(6)) == [0, 2, 4, 6, 8, 10]
    # batching comes last, whatever the steps are
    assert [b.label for b in small.ordered(batch_size=4)] == [[0, 2, 4, 6], [8, 10]]
    assert [b.label for b in late.ordered(batch_size=2)] == [[0, 2], [4]]
    assert [b.image.shape for b in small.ordered(batch_size=4)] == [(4, 4, 3), (2, 4, 3)]


def test_a_dataset_is_not_changed_by_its_steps(urls: WrittenShards) -> None:
    ds = Read(urls)
    ds.map(double)
    ds.filter(is_even)
    ds.take(1)
    ds.select_fields("label")
    assert list(ds) == digits(25)
    assert ds.describe()["steps"] == []


def broken(sample: Digit) -> Digit:
    if sample.label == 13:
        raise ZeroDivisionError("thirteen")
    return sample


def test_an_error_in_a_users_function_names_step_and_sample(urls: WrittenShards) -> None:
    for name, ds in (("map", Read(urls).map(broken)), ("filter", Read(urls).filter(broken))):
        for attempt in (
            lambda ds=ds: list(ds),
            lambda ds=ds: list(ds.ordered(batch_size=5)),
            lambda ds=ds: ds.get("000000013"),
        ):
            with pytest.raises(StepError, match=f"{name} step raised ZeroDivisionError: thirteen") as caught:
                attempt()
            assert caught.value.key == "000000013"
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(StepError, match="ambiguous") as caught:
        list(Read(urls).filter(lambda s: s.image > 2))
    assert isinstance(caught.value.__cause__, ValueError)


def stops(sample: Digit) -> Digit:
    raise StopIteration


def test_a_users_stop_iteration_does_not_end_the_dataset(urls: WrittenShards) -> None:
    with pytest.raises(StepError, match="StopIteration"):
        list(Read(urls).map(stops))


def label_only(sample: Digit) -> int:
    return sample.label


def as_counted(sample: Digit) -> Counted:
    return Counted(sample.label)


def test_the_type_after_a_map(urls: WrittenShards) -> None:
    ds = Read(urls)
    assert ds.map(as_counted).sample_type is Counted
    assert ds.map(lambda s: Counted(s.label), Counted).sample_type is Counted
    assert ds.map(double).sample_type is Digit
    assert [b.number for b in ds.take(3).map(as_counted).ordered(batch_size=2)] == [[0, 1], [2]]
    assert labels_of(ds.map(as_counted).map(lambda c: digit(c.number), Digit)) == list(range(25))


# -- select_fields -------------------------------------------------------------------------------------------


def test_selected_samples_are_samples(urls: WrittenShards) -> None:
    only = Read(urls).select_fields("label", "note")
    assert only.sample_type.__name__ == "Digit"
    assert list(only.describe()["fields"]) == ["label", "note"]
    assert repr(only[3]) == "Digit(label=3, note='n3')"
    assert only[3] == only[3]
    assert only[3] != only[4]
    assert list(only)[24].label == 24
    assert [b.note for b in only.take(4).ordered(batch_size=3)] == [["n0", None, None], ["n3"]]
    assert [b.fields for b in only.take(1).ordered(batch_size=3)] == [["label", "note"]]
    again = only.select_fields("note")
    assert again[6].note == "n6"
    assert not hasattr(again[6], "label")
    assert atdata.Dataset(urls).select_fields("label")[3].label == 3


def test_select_after_other_steps(urls: WrittenShards) -> None:
    ds = Read(urls).map(double).select_fields("label")
    assert labels_of(ds) == list(range(0, 50, 2))
    assert not hasattr(ds.head(1)[0], "image")
    memory = atdata.Dataset.from_samples(digits(3), Digit).select_fields("note")
    assert [s.note for s in memory] == ["n0", None, None]
    mappings = atdata.Dataset(Shelf({"x": Path(urls[0]).read_bytes()})).select_fields("label")
    assert [dict(s) for s in mappings.take(2)] == [{"label": 0}, {"label": 1}]


def test_select_of_what_is_not_there(urls: WrittenShards) -> None:
    for ds in (Read(urls), Read(urls).map(double), Read(urls).select_fields("label", "note")):
        with pytest.raises(atdata.AtdataError, match="Digit has no field 'picture'; it has"):
            ds.select_fields("label", "picture")
    for wrong in ([], ["label", "label"]):
        with pytest.raises(atdata.AtdataError, match="at least one field"):
            Read(urls).select_fields(*wrong)


def test_a_post_init_sees_all_fields_also_when_some_are_selected(store: atdata.LocalDiskStore) -> None:
    urls = store.write_shards(atdata.Dataset.from_samples([Halved(-4), Halved(6)], Halved), prefix="h")
    ds = atdata.Dataset[Halved](urls)
    expected = [s.number for s in ds]
    assert expected == [-4, -6]
    assert [s.number for s in ds.select_fields("number")] == expected
    assert next(iter(ds.ordered(batch_size=2))).number == expected


# -- what is said of it --------------------------------------------------------------------------------------


def test_describe_and_repr(urls: WrittenShards, bare: WrittenShards) -> None:
    ds = Read(urls)
    assert ds.describe() == {
        "sample_type": "Digit",
        "fields": {"image": "ndarray[uint8]", "label": "int", "note": "str or None"},
        "samples": 25,
        "shards": 3,
        "bytes": sum(os.path.getsize(url) for url in urls),
        "cid": urls.record.cid,
        "steps": [],
        "queries": [],
    }
    assert repr(ds) == "Dataset[Digit](3 shards, 25 samples)"
    assert repr(Read(urls[0])) == "Dataset[Digit](1 shard, 10 samples)"
    assert repr(atdata.Dataset.from_samples(digits(2), Digit)) == "Dataset[Digit](samples in memory, 2 samples)"
    assert repr(atdata.Dataset.from_samples(iter(digits(2)), Digit)) == "Dataset[Digit](samples in memory)"
    stepped = ds.filter(is_even).map(double).take(3)
    assert stepped.describe()["steps"] == ["filter", "map", "take"]
    assert stepped.describe()["samples"] is None
    assert ds.take(3).describe()["samples"] == 3
    assert atdata.Dataset.from_samples(digits(2), Digit).describe()["shards"] == 0
    assert ds.list_shards() == list(urls)
    assert ds.cid == Read(urls).cid != Read(bare[:1]).cid


# -- samples in memory ---------------------------------------------------------------------------------------


def test_a_generator_is_read_once_and_says_so() -> None:
    ds = atdata.Dataset.from_samples((digit(i) for i in range(3)), Digit)
    with pytest.raises(TypeError, match="not known before they are read"):
        len(ds)
    assert list(ds) == digits(3)
    for again in (lambda: list(ds), lambda: next(iter(ds.ordered(batch_size=2))), lambda: ds.head(1)):
        with pytest.raises(DatasetError, match="was read already"):
            again()


def test_a_list_is_read_again_and_again() -> None:
    ds = atdata.Dataset.from_samples(digits(3), Digit)
    assert len(ds) == 3
    assert list(ds) == list(ds) == digits(3)
    assert [b.image.shape for b in ds.ordered(batch_size=2)] == [(2, 4, 3), (1, 4, 3)]


def test_what_cannot_be_iterated_is_refused() -> None:
    with pytest.raises(TypeError, match="a list, a generator or another iterable, not as 3"):
        atdata.Dataset.from_samples(3, Digit)  # type: ignore[arg-type]


def test_nothing_is_asked_of_the_iterable_before_reading() -> None:
    class Costly:
        begun = 0

        def __iter__(self) -> Any:
            self.begun += 1
            return iter(digits(2))

    costly = Costly()
    ds = atdata.Dataset.from_samples(costly, Digit)
    assert costly.begun == 0
    assert list(ds) == digits(2)
    assert costly.begun == 1


# -- memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["iterate", "index", "samples of a batch"])
def test_samples_are_read_only_views_that_outlive_the_dataset(
    urls: WrittenShards, bare: WrittenShards, how: str
) -> None:
    for source in (urls, bare):
        ds = Read(source)
        if how == "iterate":
            kept = list(ds)
        elif how == "index":
            kept = [ds[i] for i in range(25)]
        else:
            kept = [s for b in ds.ordered(batch_size=4) for s in b]
        assert not any(s.image.flags.writeable or s.image.flags.owndata for s in kept)
        with pytest.raises(ValueError, match="read-only"):
            kept[0].image[0, 0] = 1
        del ds
        gc.collect()
        for url in source:
            os.unlink(url)
        assert kept == digits(25)


def test_views_stay_valid_when_another_file_takes_the_name(urls: WrittenShards, store: atdata.LocalDiskStore) -> None:
    ds = Read(urls)
    iterator = iter(ds)
    first = next(iterator)
    third = ds[2]
    batch = next(iter(ds.ordered(batch_size=10)))
    store.write_shards(
        atdata.Dataset.from_samples([digit(i + 100) for i in range(25)], Digit), prefix="digits/v1", maxcount=10,
        overwrite=True,
    )  # fmt: skip
    assert [first, third] == [digit(0), digit(2)]
    assert [next(iterator).label for _ in range(9)] == list(range(1, 10))
    assert batch.image[5].tolist() == digit(5).image.tolist()
    assert ds[3] == digit(3)  # of the file that is open
    assert Read(list(urls))[3] == digit(103)


# -- other processes -----------------------------------------------------------------------------------------


def test_datasets_can_be_pickled(urls: WrittenShards) -> None:
    for ds in (
        Read(urls),
        Read(list(urls)).map(double),
        Read(urls).select_fields("label"),
        Read(urls).select_fields("label", "image").select_fields("label"),
        atdata.Dataset(urls),
        atdata.Dataset(urls).select_fields("label"),
        atdata.Dataset(urls).map(double).filter(is_even).take(4),
        atdata.Dataset.from_samples(digits(3), Digit),
    ):
        expected = labels_of(ds)  # with open shards, which stay behind
        copy = pickle.loads(pickle.dumps(ds))
        assert copy.sample_type is ds.sample_type
        assert labels_of(copy) == expected
        assert copy.describe() == ds.describe()


def test_selected_samples_can_be_pickled(urls: WrittenShards) -> None:
    for ds in (Read(urls), atdata.Dataset(urls)):
        sample = ds.select_fields("label", "image")[4]
        copy = pickle.loads(pickle.dumps(sample))
        assert type(copy) is type(sample)
        assert copy == sample


@pytest.mark.slow
def test_datasets_and_batches_travel_to_spawned_processes_and_back(urls: WrittenShards) -> None:
    plans: list[Any] = [
        Read(urls),
        atdata.Dataset(urls),
        atdata.Dataset(urls).select_fields("label").take(13),
        Read(urls).map(double).filter(is_even),
    ]
    batches = [next(iter(plan.ordered(batch_size=11))) for plan in plans]
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(labels_of, plans) == [labels_of(plan) for plan in plans]
        assert pool.map(columns_of, batches) == [list(b.label) for b in batches]
        back = pool.apply(plans[1].__getitem__, (3,))
    assert back == plans[1][3]
    assert type(back) is plans[1].sample_type


def test_a_forked_process_reads_what_its_parent_has_open(urls: WrittenShards) -> None:
    ds = Read(urls)
    assert ds[3] == digit(3)
    iterator = iter(ds)
    next(iterator)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ok = labels_of(ds) == list(range(25)) and ds[24].label == 24
            os.write(write, b"y" if ok else b"n")
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as answer:
        assert answer.read() == b"y"
