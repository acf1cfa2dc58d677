"""Views on bad days: getters that misbehave, classes from elsewhere, threads, forks, other processes, servers."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
from dataset_samples import Digit, digits
from view_lenses import Number, Picture, Text, declared, number_of, numbering, views_of, writing

import atdata
from atdata.errors import DatasetError, LensError, StepError
from atdata.lenses.network import registered
from atdata.stores.base import WrittenShards
from atdata.stores.s3 import S3DataStore
from forking import in_fork
from servers.rgw import S3Server

LENSES = {"passes on": numbering, "computes": numbering | writing, "declared": declared}


@pytest.fixture
def ds(urls: WrittenShards) -> atdata.Dataset[Digit]:
    return atdata.Dataset[Digit](urls)


WAYS: dict[str, Callable[[Any], Any]] = {
    "in order": list,
    "shuffled": lambda ds: list(ds.shuffled(seed=1)),
    "batches": lambda ds: [batch.label for batch in ds.ordered(batch_size=4)],
    "shuffled batches": lambda ds: [batch.label for batch in ds.shuffled(batch_size=4, seed=1)],
    "by number": lambda ds: ds[3],
    "by key": lambda ds: ds.get("000000003"),
    "filter": lambda ds: ds.filter(lambda view: True).head(2),
}


# -- getters that misbehave ----------------------------------------------------------------------------------


def darkens(src: Digit) -> Picture:
    src.image[...] = 0
    return Picture(src.image, src.label)


def forgets(src: Digit) -> Picture:
    return None  # type: ignore[return-value]


def mistakes(src: Digit) -> Picture:
    return Number(src.label)  # type: ignore[return-value]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("getter", "message"),
    [
        (darkens, "the lens darkens of an as_type step raised ValueError: assignment destination is read-only"),
        (forgets, "the lens forgets of an as_type step raised LensError: forgets gave NoneType, not Picture"),
        (mistakes, "the lens mistakes of an as_type step raised LensError: mistakes gave Number, not Picture"),
    ],
)
def test_a_getter_that_misbehaves_is_named_with_the_sample(
    ds: atdata.Dataset[Digit], way: Any, getter: Any, message: str
) -> None:
    before = [sample.image.copy() for sample in ds]
    with pytest.raises(StepError) as caught:
        way(ds.as_type(atdata.Lens(getter)))
    assert caught.value.message == message
    assert caught.value.key is not None
    assert str(caught.value.url).endswith(".tar")
    assert all(np.array_equal(sample.image, image) for sample, image in zip(ds, before, strict=True))


def test_a_getter_may_change_the_sample_it_is_given(ds: atdata.Dataset[Digit]) -> None:
    def doubled(src: Digit) -> Number:
        src.label *= 2
        return Number(src.label)

    for _ in range(2):  # each time it is a new one
        assert [view.number for view in ds.as_type(atdata.Lens(doubled))] == [2 * i for i in range(25)]


# -- classes from elsewhere ----------------------------------------------------------------------------------


def test_a_lens_for_samples_whose_class_was_built_from_the_schema(urls: WrittenShards) -> None:
    ds = atdata.Dataset(urls)
    assert ds.sample_type is not Digit
    for name, lens in LENSES.items():
        assert views_of(ds.as_type(lens)) == views_of(atdata.Dataset[Digit](urls).as_type(lens)), name
    edited = ds.put_back([Text(f"number {-i}") for i in range(25)], numbering | writing)
    assert [sample.label for sample in edited] == [-i for i in range(25)]
    assert edited.sample_type is ds.sample_type


def test_views_whose_class_was_built_from_the_schema(ds: atdata.Dataset[Digit], store: atdata.LocalDiskStore) -> None:
    views = ds.as_type(numbering).map(lambda view: Number(view.number + 1), Number)
    stored = atdata.Dataset(store.write_shards(views, prefix="views"))
    assert stored.sample_type is not Number
    assert [sample.label for sample in ds.put_back(stored, numbering)] == list(range(1, 26))


def test_classes_that_have_other_fields_by_now(ds: atdata.Dataset[Digit]) -> None:
    later = atdata.packable(type("Digit", (), {"__annotations__": {"label": int}}))
    other = atdata.packable(type("Number", (), {"__annotations__": {"n": int}}))
    with pytest.raises(LensError, match="the samples are of another class of that name, with other fields: read them"):
        atdata.Dataset.from_samples([later(1)], later).as_type(numbering)
    with pytest.raises(LensError, match="the views that number_of writes are of Number, and these are of another"):
        ds.put_back(atdata.Dataset.from_samples([other(1)], other), numbering)


def test_a_lens_for_samples_of_which_only_some_fields_are_selected(ds: atdata.Dataset[Digit]) -> None:
    chosen = ds.select_fields("label", "note")
    assert views_of(chosen.as_type(numbering)) == views_of(ds.as_type(numbering))
    assert views_of(chosen.as_type(numbering | writing)) == views_of(ds.as_type(numbering | writing))
    assert next(iter(chosen.as_type(numbering).ordered(batch_size=3))).number == [0, 1, 2]
    with pytest.raises(LensError) as caught:
        chosen.as_type(declared)
    assert str(caught.value) == (
        "fields(Digit -> Picture) reads image of Digit, which select_fields left out: select fields after as_type, or "
        "these fields as well"
    )


# -- putting back --------------------------------------------------------------------------------------------


def test_views_go_back_through_several_lenses(ds: atdata.Dataset[Digit], store: atdata.LocalDiskStore) -> None:
    lens = numbering | writing
    some = ds.where(atdata.fields(Digit).label >= 20)
    edited = some.as_type(lens).map(lambda view: Text(f"{view.text}0"), Text)
    urls = store.write_shards(some.put_back(edited, lens), prefix="edited")
    found = atdata.Dataset[Digit](urls)
    assert [(key, sample.label) for key, sample in found.keyed()] == [(f"{i:09}", i * 10) for i in range(20, 25)]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(found, some, strict=True))


def test_views_in_an_order_of_their_own_are_refused(ds: atdata.Dataset[Digit]) -> None:
    """They have no keys there: every one would go into another sample."""
    for loader in (ds.as_type(numbering).shuffled(seed=1), ds.as_type(numbering).ordered()):
        with pytest.raises(DatasetError) as caught:
            ds.put_back(loader, numbering)
        assert str(caught.value) == (
            "views are put back in the order of the samples, and a loader has one of its own: give the dataset of "
            "views itself"
        )


def test_the_putter_that_is_missing_is_named(ds: atdata.Dataset[Digit]) -> None:
    silent = atdata.Lens(writing.functions[0])
    with pytest.raises(LensError) as caught:
        ds.put_back([], numbering | silent)
    assert str(caught.value) == "nothing can be written back through number_of | text_of: text_of has no putter"
    with pytest.raises(LensError, match="nothing can be written back through number_of: it has no putter"):
        ds.put_back([], atdata.Lens(number_of))


# -- threads and processes -----------------------------------------------------------------------------------


def test_threads_share_a_dataset(ds: atdata.Dataset[Digit]) -> None:
    seen = [ds.as_type(lens) for lens in LENSES.values()]
    wanted = [views_of(ds.as_type(lens)) for lens in LENSES.values()]
    found: list[bool] = []

    def work() -> None:
        found.append([views_of(one) for one in seen] == wanted)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6


def test_processes_forked_while_lenses_are_registered(ds: atdata.Dataset[Digit]) -> None:
    """As when a thread imports a module with lenses while workers are started."""
    stop = threading.Event()

    def register() -> None:
        while not stop.is_set():
            registered.register(atdata.Lens(number_of))
            assert registered.lenses is not None

    threads = [threading.Thread(target=register) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert in_fork(lambda: str(len(list(ds.as_type(Picture))))) == "25"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["spawn", "forkserver"])
def test_processes_that_are_started_anew(ds: atdata.Dataset[Digit], urls: WrittenShards, how: str) -> None:
    built = atdata.Dataset(urls)
    datasets = [*map(ds.as_type, LENSES.values()), *map(built.as_type, LENSES.values())]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(how)) as pool:
        assert list(pool.map(views_of, datasets)) == [views_of(dataset) for dataset in datasets]


def test_a_lens_that_other_processes_would_not_find(ds: atdata.Dataset[Digit]) -> None:
    def local(src: Digit) -> Number:
        return Number(src.label)

    with pytest.raises(LensError, match="local cannot be sent to another process, which would not find it at"):
        pickle.dumps(ds.as_type(atdata.Lens(local)))


# -- servers -------------------------------------------------------------------------------------------------


def test_views_of_samples_on_a_server(rgw: S3Server, bucket: str) -> None:
    store = S3DataStore(rgw.credentials, bucket=bucket)
    store.write_shards(atdata.Dataset.from_samples(digits(25), Digit), prefix="v1", maxcount=10)
    ds = atdata.Dataset[Digit](f"{store.base}v1", store=store)
    assert len(list(ds)) == 25
    near = {name: [lens.get(sample) for sample in digits(25)] for name, lens in LENSES.items()}
    for name, lens in LENSES.items():
        seen = ds.as_type(lens)
        assert list(map(repr, seen)) == list(map(repr, near[name]))
        loader = seen.shuffled(batch_size=4, seed=3)
        whole = [repr(view) for batch in loader for view in batch]
        assert sorted(whole) == sorted(map(repr, near[name]))
        some = iter(loader)
        first = [repr(view) for _ in range(2) for view in next(some)]
        again = seen.shuffled(batch_size=4, seed=3)
        again.load_state_dict(loader.state_dict())
        assert first + [repr(view) for batch in again for view in batch] == whole
        some.close()  # type: ignore[attr-defined]
    few = ds.as_type(numbering).where(atdata.fields(Number).number >= 23)
    assert few.describe()["queries"][0]["pruned"] == 2
    assert [view.number for view in few] == [23, 24]
    edited = ds.put_back([Text(f"number {i * 2}") for i in range(25)], numbering | writing)
    store.write_shards(edited, prefix="v2")
    assert atdata.Dataset[Digit](f"{store.base}v2", store=store)[7].label == 14
