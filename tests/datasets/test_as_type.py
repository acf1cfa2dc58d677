"""Datasets seen, and edited, as another type."""

from __future__ import annotations

import dataclasses
import gzip
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import Digit, Halved, Shelf, digits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import atdata
from atdata.errors import (
    AmbiguousLensError,
    DatasetError,
    LensError,
    LensNotFoundError,
    LensValueError,
    SampleKeyError,
    StateError,
    StepError,
)
from atdata.stores.base import WrittenShards

N = 47


@atdata.packable
class Named:
    name: str


@atdata.packable
class Initial:
    letter: str


@atdata.packable
class Label:
    label: int


@atdata.packable
class Scan:
    pixels: NDArray[np.float32]
    number: float
    split: str
    weights: NDArray[np.float64]
    note: str | None


@atdata.packable
class Size:
    height: int


@atdata.lens
def naming(src: Digit) -> Named:
    return Named(f"digit {src.label}")


@naming.putter
def _(view: Named, src: Digit) -> Digit:
    return dataclasses.replace(src, label=int(view.name.removeprefix("digit ")))


@atdata.lens
def beginning(src: Named) -> Initial:
    return Initial(src.name[-1])


@atdata.lens
def measuring(src: Digit) -> Size:
    return Size(src.image.shape[0])


scan = atdata.Lens.fields(
    Digit,
    Scan,
    rename={"image": "pixels", "label": "number"},
    default={"split": "train", "weights": np.arange(2.0)},
    cast=["pixels", "number"],
    scale={"pixels": 0.5},
)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """47 digits in shards of 10, in every form they can be read from."""
    root = tmp_path_factory.mktemp("kinds")
    store = atdata.LocalDiskStore(root)
    written = atdata.Dataset.from_samples(digits(N), Digit, key=lambda sample: f"d{sample.label:02}")
    quick = store.write_shards(written, prefix="quick", maxcount=10)
    bare = store.write_shards(written, prefix="bare", maxcount=10, manifest=False)
    packed = [f"{url}.gz" for url in bare]
    for url in bare:
        Path(f"{url}.gz").write_bytes(gzip.compress(Path(url).read_bytes()))
    return {
        "manifest": atdata.Dataset[Digit](quick),
        "bare": atdata.Dataset[Digit](bare),
        "compressed": atdata.Dataset[Digit](packed),
        "source": atdata.Dataset[Digit](Shelf({Path(url).name: Path(url).read_bytes() for url in bare})),
        "memory": written,
    }


KINDS = ["manifest", "bare", "compressed", "source", "memory"]
SEEKABLE = ["manifest", "bare"]
F = atdata.fields(Digit)
LENSES: dict[str, Any] = {"code": Named, "path": Initial, "fields": Label, "declared": scan, "one field": measuring}


def same(one: Any, other: Any) -> bool:
    """Whether two samples are of one class and have the same values."""
    if type(one) is not type(other):
        return False
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)]
    return all(
        a.dtype == b.dtype and np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b and type(a) is type(b)
        for a, b in pairs
    )


def all_same(found: Any, wanted: Any) -> bool:
    return all(same(a, b) for a, b in zip(found, wanted, strict=True))


def lens_of(view: Any) -> Any:
    return view if isinstance(view, atdata.Lens) else atdata.lenses.network.registered.find(Digit, view)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("view", LENSES.values(), ids=LENSES)
def test_every_sample_is_seen_as_the_lens_sees_it(kinds: dict[str, Any], kind: str, view: Any) -> None:
    lens = lens_of(view)
    seen = kinds[kind].as_type(view)
    wanted = [lens.get(sample) for sample in digits(N)]
    assert seen.sample_type is lens.view
    assert seen.schema.name == lens.view.__name__
    assert len(list(seen)) == N
    assert all_same(seen, wanted)
    assert [key for key, _ in seen.keyed()] == [f"d{i:02}" for i in range(N)]
    assert all_same((sample for _, sample in seen.keyed()), wanted)
    assert all_same((sample for batch in seen.ordered(batch_size=6) for sample in batch), wanted)
    assert all_same(seen.head(3), wanted[:3])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("view", LENSES.values(), ids=LENSES)
def test_a_shuffle_gives_the_same_order_as_without(kinds: dict[str, Any], kind: str, view: Any) -> None:
    ds, lens = kinds[kind], lens_of(view)
    plain = [lens.get(sample) for sample in ds.shuffled(seed=3)]
    assert all_same(ds.as_type(view).shuffled(seed=3), plain)
    batches = ds.as_type(view).shuffled(batch_size=6, seed=3)
    assert all_same((sample for batch in batches for sample in batch), plain_batched(ds, lens))


def plain_batched(ds: Any, lens: Any) -> list[Any]:
    return [lens.get(sample) for batch in ds.shuffled(batch_size=6, seed=3) for sample in batch]


STEPS: dict[str, Callable[[Any, Any], Any]] = {
    "take before": lambda ds, see: see(ds.take(13)),
    "take after": lambda ds, see: see(ds).take(13),
    "pick": lambda ds, see: see(ds.take([5, 40, -1, 5])),
    "where before": lambda ds, see: see(ds.where(F.label >= 30)),
    "where of another field": lambda ds, see: see(ds.where(F.note == "n3")),
    "filter before": lambda ds, see: see(ds.filter(lambda sample: sample.image[0, 0] % 2 == 0)),
    "split": lambda ds, see: see(ds.split(0.7)[0]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("view", LENSES.values(), ids=LENSES)
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_steps_before_and_after(kinds: dict[str, Any], kind: str, view: Any, step: Any) -> None:
    ds, lens = kinds[kind], lens_of(view)
    wanted = [lens.get(sample) for sample in step(ds, lambda ds: ds)]
    seen = step(ds, lambda ds: ds.as_type(view))
    assert 0 < len(wanted) < N
    assert all_same(seen, wanted)
    shuffled = [lens.get(sample) for sample in step(ds, lambda ds: ds).shuffled(seed=1)]
    assert all_same(seen.shuffled(seed=1), shuffled)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_after_looks_at_the_view(kinds: dict[str, Any], kind: str) -> None:
    named = kinds[kind].as_type(Named)
    few = named.where(atdata.fields(Named).name.isin(["digit 7", "digit 31"]))
    assert [sample.name for sample in few] == ["digit 7", "digit 31"]
    assert len(list(named.filter(lambda sample: sample.name.endswith("3")))) == 5
    assert [sample.letter for sample in named.as_type(Initial).take(3)] == ["0", "1", "2"]
    seen = kinds[kind].as_type(scan).select_fields("number")
    assert [sample.number for sample in seen] == [float(i) for i in range(N)]
    with pytest.raises(atdata.errors.SchemaError, match="label"):
        named.where(F.label == 3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_comes_in_its_place(kinds: dict[str, Any], kind: str) -> None:
    """Filters and maps before, between and after, none of which could change places with another."""

    def relabelled(sample: Digit) -> Digit:
        return dataclasses.replace(sample, label=sample.label * 3 % 50)

    def next_one(view: Named) -> Named:
        return Named(f"digit {int(view.name.removeprefix('digit ')) + 1}")

    seen = (
        kinds[kind]
        .map(relabelled)
        .filter(lambda sample: sample.label < 30)
        .as_type(Named)
        .filter(lambda view: not view.name.endswith("0"))
        .map(next_one)
        .as_type(Initial)
        .filter(lambda view: view.letter != "5")
    )
    expected = []
    for sample in digits(N):
        label = relabelled(sample).label
        if label < 30 and label % 10 and (label + 1) % 10 != 5:
            expected.append(Initial(str((label + 1) % 10)))
    assert 0 < len(expected) < N
    assert list(seen) == expected
    assert [sample for batch in seen.ordered(batch_size=4) for sample in batch] == expected


@pytest.mark.parametrize("kind", SEEKABLE)
@pytest.mark.parametrize("view", LENSES.values(), ids=LENSES)
def test_samples_by_number_and_key(kinds: dict[str, Any], kind: str, view: Any) -> None:
    seen, lens, all_digits = kinds[kind].as_type(view), lens_of(view), digits(N)
    assert len(seen) == N
    assert same(seen[12], lens.get(all_digits[12]))
    assert same(seen[-1], lens.get(all_digits[-1]))
    assert all_same(seen[3:40:5], [lens.get(sample) for sample in all_digits[3:40:5]])
    assert all_same(seen[[20, 1]], [lens.get(all_digits[20]), lens.get(all_digits[1])])
    assert same(seen.get("d31"), lens.get(all_digits[31]))
    with pytest.raises(SampleKeyError):
        seen.get("d99")


@pytest.mark.parametrize("view", LENSES.values(), ids=LENSES)
def test_an_epoch_goes_on_where_it_was(kinds: dict[str, Any], view: Any) -> None:
    ds = kinds["manifest"]
    loader = ds.as_type(view).shuffled(batch_size=5, seed=2)
    whole = [sample for batch in loader for sample in batch]
    some = iter(loader)
    begun = [sample for _ in range(3) for sample in next(some)]
    again = ds.as_type(view).shuffled(batch_size=5, seed=2)
    again.load_state_dict(loader.state_dict())
    assert all_same(begun + [sample for batch in again for sample in batch], whole)
    with pytest.raises(StateError, match="of samples with another class"):
        ds.shuffled(batch_size=5, seed=2).load_state_dict(loader.state_dict())


def test_a_state_is_refused_with_another_lens_between_the_same_classes(kinds: dict[str, Any]) -> None:
    other = atdata.Lens.fields(
        Digit,
        Scan,
        rename={"image": "pixels", "label": "number"},
        default={"split": "test", "weights": np.arange(2.0)},
        cast=["pixels", "number"],
        scale={"pixels": 0.5},
    )
    state = kinds["manifest"].as_type(scan).shuffled(seed=2).state_dict()
    with pytest.raises(StateError, match="of other steps"):
        kinds["manifest"].as_type(other).shuffled(seed=2).load_state_dict(state)


class Watching(atdata.Lens[Any, Any]):
    """Takes note of the fields of the samples that it is given."""

    given: set[str]

    def get_partial(self, source: Any) -> Any:
        self.given = {f.name for f in dataclasses.fields(source)}
        return super().get_partial(source)


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "in order": lambda ds, lens: list(ds.as_type(lens)),
    "with keys": lambda ds, lens: list(ds.as_type(lens).keyed()),
    "taken": lambda ds, lens: list(ds.take([3, 1]).as_type(lens)),
    "asked for": lambda ds, lens: list(ds.where(F.note == "n3").as_type(lens)),
    "shuffled": lambda ds, lens: list(ds.as_type(lens).shuffled(seed=1)),
    "batches": lambda ds, lens: [batch.samples for batch in ds.as_type(lens).shuffled(batch_size=4)],
    "by number": lambda ds, lens: ds.as_type(lens)[3],
    "by key": lambda ds, lens: ds.as_type(lens).get("d03"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kind", SEEKABLE)
def test_only_what_the_lens_reads_is_decoded(kinds: dict[str, Any], kind: str, way: Any) -> None:
    def label_of(src: Digit) -> Label:
        return Label(src.label)

    lens = Watching(label_of)
    assert way(kinds[kind], lens)
    assert lens.given == {"label"}


def test_a_class_that_computes_its_fields_is_read_whole(store: atdata.LocalDiskStore) -> None:
    def half_of(src: Halved) -> Size:
        return Size(int(src.half))

    urls = store.write_shards(atdata.Dataset.from_samples([Halved(8), Halved(6)], Halved), prefix="halved")
    ds = atdata.Dataset[Halved](urls)
    lens = atdata.Lens(half_of)
    assert list(ds.as_type(lens)) == [lens.get(sample) for sample in ds]


def test_a_subset_of_fields_needs_no_lens(urls: WrittenShards) -> None:
    assert [sample.label for sample in atdata.Dataset[Digit](urls).as_type(Label)] == list(range(25))
    assert atdata.Dataset[Digit](urls).as_type(Digit).steps == ()
    chosen = atdata.Dataset[Digit](urls).select_fields("label", "note")
    assert list(chosen.as_type(Label)) == [Label(i) for i in range(25)]


def test_dict_samples_are_seen_too(urls: WrittenShards) -> None:
    def open_label(src: atdata.DictSample) -> Label:
        return Label(src["label"])

    def as_dict(src: Digit) -> atdata.DictSample:
        return atdata.DictSample(number=src.label)

    ds = atdata.Dataset[atdata.DictSample](urls).as_type(atdata.Lens(open_label))
    assert list(ds.shuffled(seed=1)) == [Label(s.label) for s in atdata.Dataset[Digit](urls).shuffled(seed=1)]
    batch = next(iter(atdata.Dataset[Digit](urls).as_type(atdata.Lens(as_dict)).ordered(batch_size=3)))
    assert batch.number == [0, 1, 2]


def test_a_dataset_seen_as_another_type_is_sent_to_other_processes(kinds: dict[str, Any]) -> None:
    for view in (Named, scan):
        sent = pickle.loads(pickle.dumps(kinds["manifest"].as_type(view)))
        assert all_same(sent, kinds["manifest"].as_type(view))


def test_views_are_written_with_the_keys_of_their_samples(kinds: dict[str, Any], store: atdata.LocalDiskStore) -> None:
    for kind in KINDS:
        urls = store.write_shards(kinds[kind].as_type(Named), prefix=f"names/{kind}", maxcount=20)
        names = atdata.Dataset[Named](urls)
        assert [key for key, _ in names.keyed()] == [f"d{i:02}" for i in range(N)]
        assert names.get("d30") == Named("digit 30")
        assert names.located is not None
        assert names.located.schema == atdata.Schema.of(Named)


# -- what cannot be -----------------------------------------------------------------------------------------


def test_classes_that_no_lens_leads_to(urls: WrittenShards) -> None:
    ds = atdata.Dataset[Digit](urls)
    with pytest.raises(LensNotFoundError, match="no lens leads from Digit to Halved"):
        ds.as_type(Halved)
    with pytest.raises(LensError, match="beginning reads Named, and the samples are of Digit"):
        ds.as_type(beginning)
    for wrong in (7, "Named", int):
        with pytest.raises(LensError):
            ds.as_type(wrong)  # type: ignore[arg-type]
    assert list(ds.as_type(Named).as_type(beginning).take(1)) == [Initial("0")]


def test_two_lenses_to_one_class_are_ambiguous(urls: WrittenShards) -> None:
    @atdata.packable
    class Place:
        where: str

    def left(src: Digit) -> Place:
        return Place("left")

    def right(src: Digit) -> Place:
        return Place("right")

    known = [atdata.lens(left), atdata.lens(right)]
    ds = atdata.Dataset[Digit](urls)
    with pytest.raises(AmbiguousLensError, match=r"left.*right.*Use the one you mean"):
        ds.as_type(Place)
    assert {sample.where for sample in ds.as_type(known[1])} == {"right"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_lens_that_fails_names_the_sample(kinds: dict[str, Any], kind: str) -> None:
    def inverse(src: Digit) -> Size:
        return Size(1 // (src.label - 33))

    seen = kinds[kind].as_type(atdata.Lens(inverse))
    ways: list[Callable[[], Any]] = [
        lambda: list(seen),
        lambda: list(seen.shuffled(seed=1)),
        lambda: [batch.height for batch in seen.ordered(batch_size=4)],
        lambda: [batch.height for batch in seen.shuffled(batch_size=4, seed=1)],
    ]
    for way in ways:
        with pytest.raises(StepError, match="the lens inverse of an as_type step raised ZeroDivisionError") as caught:
            way()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    if kind in SEEKABLE:
        with pytest.raises(StepError) as caught:
            list(seen.shuffled(seed=1))
        assert caught.value.key == "d33"
        assert "shard-000003" in str(caught.value.url)


def test_a_declared_lens_that_cannot_carry_a_value_names_the_sample(kinds: dict[str, Any]) -> None:
    @atdata.packable
    class Noted:
        note: str

    noted = atdata.Lens.fields(Digit, Noted, drop=["image", "label"], cast=["note"])
    for kind in SEEKABLE:
        seen = kinds[kind].as_type(noted)
        for loader in (seen.ordered(batch_size=4), seen.shuffled(batch_size=4, seed=1, block=1, window=1)):
            with pytest.raises(StepError, match=r"LensValueError.*Noted\.note") as caught:
                notes_of(loader)
            assert isinstance(caught.value.__cause__, LensValueError)
            assert caught.value.key is not None
            assert "shard-0" in str(caught.value.url)


def notes_of(loader: Any) -> list[Any]:
    return [batch.note for batch in loader]


# -- written back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_put_back(kinds: dict[str, Any], kind: str, store: atdata.LocalDiskStore) -> None:
    ds = kinds[kind]
    edited = ds.as_type(Named).map(lambda view: Named(view.name + "0"), Named)
    for number, views in enumerate((edited, list(edited), iter(list(edited)))):
        changed = atdata.Dataset[Digit](
            store.write_shards(ds.put_back(views, naming), prefix=f"v2/{kind}/{number}", maxcount=20)
        )
        wanted = [dataclasses.replace(sample, label=sample.label * 10) for sample in digits(N)]
        assert all_same(changed, wanted)
        assert [key for key, _ in changed.keyed()] == [f"d{i:02}" for i in range(N)]


def test_views_from_other_shards_are_put_back(kinds: dict[str, Any], store: atdata.LocalDiskStore) -> None:
    labels = atdata.Dataset[Named](store.write_shards(kinds["manifest"].as_type(Named), prefix="names", maxcount=7))
    for kind in KINDS:
        back = kinds[kind].put_back(labels, naming)
        assert all_same(back, digits(N))
        assert all_same(back, digits(N))  # as often as it is asked for


def test_views_that_do_not_fit_are_refused(kinds: dict[str, Any], store: atdata.LocalDiskStore) -> None:
    ds = kinds["manifest"]
    named = ds.as_type(Named)
    with pytest.raises(DatasetError, match="only 46 views, and more samples") as caught:
        list(ds.put_back(named.take(46), naming))
    assert caught.value.key == "d46"
    with pytest.raises(DatasetError, match="only 46 samples, and more views") as caught:
        list(ds.take(46).put_back(named, naming))
    assert caught.value.key == "d46"
    with pytest.raises(DatasetError, match="only 0 views"):
        list(ds.put_back([], naming))
    with pytest.raises(DatasetError, match=r"view 0 has the key 'd01'") as caught:
        list(ds.put_back(named.take([1, 0]), naming))
    assert caught.value.key == "d00"
    with pytest.raises(DatasetError):
        store.write_shards(ds.put_back(named.take(46), naming), prefix="short")
    assert not list((store.root / "short").glob("*.tar"))


def test_lenses_that_cannot_write(kinds: dict[str, Any]) -> None:
    ds = kinds["manifest"]
    with pytest.raises(LensError, match="written back through measuring: it has no putter"):
        ds.put_back(ds.as_type(measuring), measuring)
    with pytest.raises(LensError, match="the samples that naming writes are of Digit, and these are of Named"):
        ds.as_type(Named).put_back(ds.as_type(Named), naming)
    with pytest.raises(LensError, match="the views that naming writes are of Named, and these are of Digit"):
        ds.put_back(ds, naming)
    with pytest.raises(TypeError, match="through a lens"):
        ds.put_back([], Named)
    with pytest.raises(StepError, match=r"the lens naming of put_back raised ValueError") as caught:
        list(ds.put_back([Named("digit 1"), Named("what")], naming))
    assert caught.value.key == "d01"
    with pytest.raises(StepError, match="naming writes Named, not Label"):
        list(ds.put_back([Label(3)], naming))


def test_nothing_is_held_while_views_are_put_back(kinds: dict[str, Any]) -> None:
    given: list[int] = []

    def views() -> Iterator[Named]:
        for i in range(N):
            given.append(i)
            yield Named(f"digit {i}")

    for number, _ in enumerate(kinds["manifest"].put_back(views(), naming), 1):
        assert len(given) == number


# -- batches ------------------------------------------------------------------------------------------------


def same_column(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    return len(one) == len(other) and all(
        a.dtype == b.dtype and np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b and type(a) is type(b)
        for a, b in zip(one, other, strict=True)
    )


ragged = st.integers(0, 3).map(lambda n: np.full((n, 2), n, np.uint8))
alike = st.integers(0, 255).map(lambda n: np.full((4, 3), n, np.uint8))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    samples=st.sampled_from([alike, ragged]).flatmap(
        lambda images: st.lists(
            st.builds(Digit, images, st.integers(-(2**40), 2**40), st.none() | st.text(max_size=3)),
            min_size=1,
            max_size=30,
        )
    ),
    size=st.integers(1, 7),
    seed=st.none() | st.integers(0, 9),
    manifest=st.booleans(),
    by_columns_first=st.booleans(),
)
def test_columns_are_those_of_the_samples(
    tmp_path: Path, samples: list[Digit], size: int, seed: int | None, manifest: bool, by_columns_first: bool
) -> None:
    urls = atdata.LocalDiskStore(tmp_path).write_shards(
        atdata.Dataset.from_samples(samples, Digit), prefix="some", maxcount=8, manifest=manifest, overwrite=True
    )
    ds = atdata.Dataset[Digit](urls)

    def batches(dataset: Any) -> Any:
        return dataset.ordered(batch_size=size) if seed is None else dataset.shuffled(batch_size=size, seed=seed)

    for lens in (scan, lens_of(Label)):
        for batch, stored in zip(batches(ds.as_type(lens)), batches(ds), strict=True):
            wanted = atdata.SampleBatch([lens.get(sample) for sample in stored], lens.view)
            if not by_columns_first:
                assert all_same(batch, wanted)
            for name in wanted.fields:
                assert same_column(batch[name], wanted[name]), name
                if isinstance(batch[name], np.ndarray):
                    batch[name][...] = 0  # the caller's own
            assert all_same(batch, wanted)


def test_a_column_of_a_declared_lens_decodes_no_sample(kinds: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a sample was decoded")

    monkeypatch.setattr(type(scan), "get", refuse)
    monkeypatch.setattr(type(scan), "get_partial", refuse)
    for loader in (
        kinds["manifest"].as_type(scan).ordered(batch_size=5),
        kinds["manifest"].as_type(scan).shuffled(batch_size=5, seed=1),
    ):
        assert sum(float(sum(batch.number)) for batch in loader) == sum(range(N))
        assert sum(float(batch.pixels.sum()) for batch in loader) == sum(range(N)) * 12 / 2


def test_the_class_of_a_batch_is_that_of_the_views(kinds: dict[str, Any]) -> None:
    batch = next(iter(kinds["manifest"].as_type(scan).shuffled(batch_size=5, seed=1)))
    assert batch.sample_type is Scan
    assert batch.fields == ["pixels", "number", "split", "weights", "note"]
    assert batch.pixels.dtype == np.float32
    assert batch.split == ["train"] * 5
    assert batch.weights.shape == (5, 2)
    with pytest.raises(KeyError, match="Scan has no field 'label'"):
        batch["label"]
    assert all_same(pickle.loads(pickle.dumps(batch)), batch)
