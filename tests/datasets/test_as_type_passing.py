"""Lenses that only pass fields on: views come out of the decoding, columns out of the shards, and nothing differs."""

from __future__ import annotations

import dataclasses
import io
import pickle
import tarfile
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import Color, Digit, Everything, Halved, Point, digits, everything
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import atdata
from atdata.errors import IntegrityError, SampleDecodeError, StepError
from atdata.samples.packable import equal_values


@atdata.packable
class Scan:
    pixels: NDArray[np.uint8]
    number: int
    remark: str | None = "none"
    split: str = "train"
    tags: list[str] = dataclasses.field(default_factory=list)


@atdata.packable
@dataclasses.dataclass(frozen=True)
class Number:
    number: int


@atdata.packable
class Parts:
    color: Color
    table: dict[str, NDArray[np.float64]]
    point: Point
    image: atdata.Image
    plain: NDArray[np.float32]
    again: NDArray[np.float32]
    mixed: Any
    constant: bytes


def scanned(src: Digit) -> Scan:
    return Scan(src.image, src.label, remark=src.note, split="test")


def numbered(src: Scan) -> Number:
    return Number(src.number)


def parts(src: Everything) -> Parts:
    return Parts(src.color, src.table, src.point, src.image, src.plain, again=src.plain, mixed=src.mixed, constant=b"c")


def opaque(getter: Any) -> atdata.Lens[Any, Any]:
    """The lens of a function that calls another, of which nothing is proved."""

    def through(src: Any) -> Any:
        return getter(src)

    through.__annotations__ = typing.get_type_hints(getter)
    lens: atdata.Lens[Any, Any] = atdata.Lens(through)
    assert lens.passing is None
    return lens


declared = atdata.Lens.fields(
    Digit,
    Scan,
    rename={"image": "pixels", "label": "number", "note": "remark"},
    default={"split": "test", "tags": []},
)
fused = atdata.Lens(scanned) | atdata.Lens(numbered)


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and all(
        equal_values(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)
    )


def all_same(found: Any, wanted: Any) -> bool:
    return all(same(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    store = atdata.LocalDiskStore(tmp_path_factory.mktemp("passing"))
    written = atdata.Dataset.from_samples([everything(i) for i in range(23)], Everything)
    return {
        str(manifest): store.write_shards(written, prefix=str(manifest), maxcount=9, manifest=manifest)
        for manifest in (True, False)
    }


WAYS: dict[str, Callable[[Any], list[Any]]] = {
    "in order": list,
    "keyed": lambda ds: [sample for _, sample in ds.keyed()],
    "shuffled": lambda ds: list(ds.shuffled(seed=4)),
    "batches": lambda ds: [sample for batch in ds.ordered(batch_size=4) for sample in batch],
    "shuffled batches": lambda ds: [s for batch in ds.shuffled(batch_size=4, seed=4) for s in batch],
    "padded": lambda ds: [s for batch in ds.shuffled(batch_size=4, seed=4, remainder="pad") for s in batch],
    "by number": lambda ds: [ds[i] for i in (3, 0, -1)],
    "slices": lambda ds: ds[2:20:3],
    "by key": lambda ds: [ds.get("000000004")],
    "taken": lambda ds: list(ds.take([7, 1])),
    "split": lambda ds: [s for part in ds.split(0.5, seed=2) for s in part],
    "head": lambda ds: ds.head(4),
    "filter": lambda ds: list(ds.filter(lambda view: view.constant == b"c")),
    "mapped": lambda ds: list(ds.map(lambda view: view)),
    "mixed": lambda ds: list(atdata.mix({"a": ds, "b": ds.take(4)}, {"a": 1, "b": 1}, seed=3).shuffled()),
}


@pytest.mark.parametrize("manifest", ["True", "False"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_same_as_by_running_the_getter(everywhere: dict[str, list[str]], manifest: str, way: Any) -> None:
    ds = atdata.Dataset[Everything](everywhere[manifest])
    lens = atdata.Lens(parts)
    assert lens.passing is not None
    assert all_same(way(ds.as_type(lens)), way(ds.as_type(opaque(parts))))


@pytest.mark.parametrize("manifest", ["True", "False"])
@pytest.mark.parametrize("seed", [None, 5])
def test_the_same_columns_as_by_running_the_getter(
    everywhere: dict[str, list[str]], manifest: str, seed: int | None
) -> None:
    ds = atdata.Dataset[Everything](everywhere[manifest])

    def batches(lens: Any) -> Any:
        seen = ds.as_type(lens)
        return seen.ordered(batch_size=5) if seed is None else seen.shuffled(batch_size=5, seed=seed)

    for batch, wanted in zip(batches(atdata.Lens(parts)), batches(opaque(parts)), strict=True):
        assert batch.fields == wanted.fields
        for name in wanted.fields:
            one, other = batch[name], wanted[name]
            assert type(one) is type(other)
            assert len(one) == len(other) == len(batch)
            assert all(map(equal_values, one, other)), name
            if isinstance(one, np.ndarray):
                one[...] = 0  # the caller's own
        assert all_same(batch, wanted)
        assert all_same(pickle.loads(pickle.dumps(batch)), wanted)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stored=st.lists(
        st.builds(
            Digit,
            st.sampled_from([np.zeros((2, 2), np.uint8), np.ones((1, 3), np.uint8)]),
            st.integers(-(2**60), 2**60),
            st.none() | st.text(max_size=3),
        ),
        min_size=1,
        max_size=20,
    ),
    size=st.integers(1, 6),
    seed=st.none() | st.integers(0, 9),
    manifest=st.booleans(),
    lens=st.sampled_from([atdata.Lens(scanned), declared, fused]),
)
def test_columns_and_samples_agree(
    tmp_path: Path, stored: list[Digit], size: int, seed: int | None, manifest: bool, lens: atdata.Lens[Any, Any]
) -> None:
    urls = atdata.LocalDiskStore(tmp_path).write_shards(
        atdata.Dataset.from_samples(stored, Digit), prefix="some", maxcount=7, manifest=manifest, overwrite=True
    )
    ds = atdata.Dataset[Digit](urls)

    def batches(dataset: Any) -> Any:
        return dataset.ordered(batch_size=size) if seed is None else dataset.shuffled(batch_size=size, seed=seed)

    for batch, plain in zip(batches(ds.as_type(lens)), batches(ds), strict=True):
        wanted = atdata.SampleBatch([lens.get(sample) for sample in plain], lens.view)
        for name in wanted.fields:
            assert all(map(equal_values, batch[name], wanted[name]))
            assert type(batch[name]) is type(wanted[name])
        assert all_same(batch, wanted)


def test_no_getter_runs_where_its_code_says_all(
    everywhere: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lens = atdata.Lens(parts)
    monkeypatch.setattr(lens, "_getter", _refuse(lens._getter))
    seen = atdata.Dataset[Everything](everywhere["True"]).as_type(lens)
    assert len(list(seen)) == 23
    assert [batch.plain.shape for batch in seen.shuffled(batch_size=23, seed=1)] == [(23, 2)]
    assert seen[3].constant == b"c"


def _refuse(getter: Any) -> Any:
    class Refusing:
        __code__ = getter.__code__
        __globals__ = getter.__globals__
        __builtins__ = getter.__builtins__
        __closure__ = getter.__closure__

        def __call__(self, src: Any) -> Any:
            raise AssertionError("the getter ran")

    return Refusing()


def test_samples_of_several_members(tmp_path: Path) -> None:
    """As the webdataset package writes them: the fields are the extensions."""
    members = [("0.cls", b"0"), ("1.cls", b"1"), ("1.txt", b"n"), ("2.cls", b"2"), ("2.txt", b"n")]
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

    @atdata.packable
    class Files:
        cls: int
        txt: str | None = "missing"

    @atdata.packable
    class Seen:
        text: str | None
        number: int

    def seen(src: Files) -> Seen:
        return Seen(src.txt, src.cls)

    seen.__annotations__ = {"src": Files, "return": Seen}
    lens = atdata.Lens(seen)
    assert lens.passing is not None
    ds = atdata.Dataset[Files](str(tmp_path / "x.tar")).as_type(lens)
    assert list(ds) == [lens.get(sample) for sample in atdata.Dataset[Files](str(tmp_path / "x.tar"))]
    assert [s.text for s in ds] == ["missing", "n", "n"]


def test_fields_that_older_data_lacks_have_their_defaults(store: atdata.LocalDiskStore) -> None:
    @atdata.packable
    class Old:
        label: int

    @atdata.packable
    class New:
        label: int
        tags: list[str] = dataclasses.field(default_factory=lambda: ["made"])
        split: str = "train"

    @atdata.packable
    class Seen:
        split: str
        tags: list[str]

    def seen(src: New) -> Seen:
        return Seen(src.split, src.tags)

    seen.__annotations__ = {"src": New, "return": Seen}
    urls = store.write_shards(atdata.Dataset.from_samples([Old(1), Old(2)], Old), prefix="old")
    views = list(atdata.Dataset[New](urls).as_type(atdata.Lens(seen)))
    assert views == [Seen("train", ["made"])] * 2
    assert views[0].tags is not views[1].tags
    batch = next(iter(atdata.Dataset[New](urls).as_type(atdata.Lens(seen)).ordered(batch_size=2)))
    assert batch.split == ["train"] * 2
    assert batch.tags == [["made"]] * 2


def test_steps_after_it(store: atdata.LocalDiskStore) -> None:
    urls = store.write_shards(atdata.Dataset.from_samples(digits(30), Digit), prefix="d", maxcount=7)
    seen = atdata.Dataset[Digit](urls).as_type(atdata.Lens(scanned))
    F = atdata.fields(Scan)
    assert [s.number for s in seen.where(F.number > 25)] == [26, 27, 28, 29]
    assert [s.remark for s in seen.where((F.remark == "n3") & (F.split == "test"))] == ["n3"]
    assert [s.number for s in seen.select_fields("number").where(F.number < 2)] == [0, 1]
    chosen = seen.select_fields("number", "split")
    assert [(s.number, s.split) for s in chosen.take(2)] == [(0, "test"), (1, "test")]
    batch = next(iter(chosen.shuffled(batch_size=4, seed=1)))
    assert batch.fields == ["number", "split"]
    assert batch.split == ["test"] * 4
    twice = seen.as_type(atdata.Lens(numbered))
    assert [s.number for s in twice.filter(lambda view: view.number % 10 == 0)] == [0, 10, 20]
    assert twice.map(lambda view: view.number + 1).head(2) == [1, 2]
    with pytest.raises(StepError) as caught:
        list(seen.map(lambda view: 1 // (view.number - 9)).shuffled(seed=1))
    assert caught.value.key == "000000009"
    assert str(caught.value.url).endswith("shard-000001.tar")


F = atdata.fields(Scan)
PREDICATES = [
    F.number >= 27,
    (F.number < 3) | (F.remark == "n9"),
    ~(F.remark.is_null()) & F.number.between(4, 20),
    F.remark.startswith("n1"),
    (F.split == "test") & (F.number == 5),
    F.number.isin([2, 99]),
]


@pytest.mark.parametrize("predicate", PREDICATES, ids=map(repr, PREDICATES))
@pytest.mark.parametrize("lens", [atdata.Lens(scanned), declared], ids=["code", "declared"])
def test_a_question_about_views_is_one_about_stored_samples(
    store: atdata.LocalDiskStore, predicate: Any, lens: Any
) -> None:
    urls = store.write_shards(atdata.Dataset.from_samples(digits(30), Digit), prefix="d", maxcount=7)
    ds = atdata.Dataset[Digit](urls)
    found, wanted = ds.as_type(lens).where(predicate), ds.as_type(opaque(scanned)).where(predicate)
    assert len(found) == len(wanted)
    assert all_same(found, wanted)
    assert all_same(found.shuffled(seed=1), wanted.shuffled(seed=1))
    query = found.describe()["queries"][0]
    assert query["predicate"] == repr(predicate)
    # Only of what the lens makes up has every view to be looked at.
    assert query["scanned"] == (["split", "number"] if "split" in predicate.fields else [])
    if predicate is PREDICATES[0]:
        assert query["pruned"] == 3  # of five shards
        assert "leaves 3 of 5 shards alone" in str(found.plan())


def test_a_question_about_values_that_are_not_of_the_views_type(store: atdata.LocalDiskStore) -> None:
    @atdata.packable
    class Said:
        number: float

    def said(src: Digit) -> Said:
        return Said(src.label)

    said.__annotations__ = {"src": Digit, "return": Said}
    urls = store.write_shards(atdata.Dataset.from_samples(digits(9), Digit), prefix="d", maxcount=7)
    seen = atdata.Dataset[Digit](urls).as_type(atdata.Lens(said)).where(atdata.fields(Said).number > 6.5)
    assert seen.describe()["queries"][0]["scanned"] == ["number"]
    assert [view.number for view in seen] == [7, 8]


def test_an_epoch_goes_on_although_the_lens_was_proved_meanwhile(store: atdata.LocalDiskStore) -> None:
    """A state says which lens it is of, not how it is carried out."""
    urls = store.write_shards(atdata.Dataset.from_samples(digits(30), Digit), prefix="d", maxcount=7)
    loader = atdata.Dataset[Digit](urls).as_type(fused).shuffled(batch_size=4, seed=3)
    whole = [batch.number for batch in loader]
    some = iter(loader)
    first = [next(some).number for _ in range(3)]
    again = atdata.Dataset[Digit](urls).as_type(fused).shuffled(batch_size=4, seed=3)
    again.load_state_dict(loader.state_dict())
    assert first + [batch.number for batch in again] == whole


def test_a_class_that_a_name_means_from_now_on(store: atdata.LocalDiskStore) -> None:
    """What is proved is looked at anew for every epoch and every sample that is asked for."""

    @atdata.packable
    class Seen:
        number: int

    kind: Any = Seen

    def seen(src: Digit) -> Any:
        return kind(src.label)

    seen.__annotations__ = {"src": Digit, "return": Seen}
    urls = store.write_shards(atdata.Dataset.from_samples(digits(3), Digit), prefix="d")
    ds = atdata.Dataset[Digit](urls).as_type(atdata.Lens(seen))
    assert [view.number for view in ds] == [0, 1, 2]
    assert ds[2].number == 2
    kind = lambda number: Seen(-number)  # noqa: E731
    assert [view.number for view in ds] == [0, -1, -2]
    assert ds[2].number == -2
    assert next(iter(ds.ordered(batch_size=3))).number == [0, -1, -2]


# -- what is wrong with the data is said as without the lens -------------------------------------------------


def test_bytes_that_are_no_samples_of_the_class(store: atdata.LocalDiskStore) -> None:
    @atdata.packable
    class Other:
        image: NDArray[np.uint8]
        label: str
        note: str | None = None

    urls = store.write_shards(
        atdata.Dataset.from_samples([Other(np.zeros(1, np.uint8), "x")] * 3, Other), prefix="other"
    )
    seen = atdata.Dataset[Digit](list(urls)).as_type(atdata.Lens(scanned))
    ways: list[Callable[[], Any]] = [
        lambda: list(seen),
        lambda: list(seen.shuffled(seed=1)),
        lambda: [batch.number for batch in seen.ordered(batch_size=2)],
        lambda: [batch.number for batch in seen.shuffled(batch_size=2, seed=1)],
        lambda: seen[0],
    ]
    for way in ways:
        with pytest.raises(SampleDecodeError, match=r"Digit\.label: expected int, got str") as caught:
            way()
        assert caught.value.key is not None
        assert str(caught.value.url).endswith("shard-000000.tar")


def test_fields_that_the_class_does_not_have(store: atdata.LocalDiskStore) -> None:
    @atdata.packable
    class More:
        image: NDArray[np.uint8]
        label: int
        note: str | None
        secret: int

    samples = [More(np.zeros(1, np.uint8), i, None, i) for i in range(3)]
    urls = store.write_shards(atdata.Dataset.from_samples(samples, More), prefix="more")
    for lens in (atdata.Lens(scanned), declared, fused, opaque(scanned)):
        for way in (list, lambda ds: [batch.number for batch in ds.shuffled(batch_size=2, seed=1)]):
            with pytest.raises(SampleDecodeError, match=r"Digit\.secret: is not a field of the sample type"):
                way(atdata.Dataset[Digit](list(urls)).as_type(lens))


def test_a_damaged_shard_is_found(store: atdata.LocalDiskStore) -> None:
    urls = store.write_shards(atdata.Dataset.from_samples(digits(9), Digit), prefix="d")
    path = Path(urls[0])
    data = bytearray(path.read_bytes())
    data[2100] ^= 1
    path.write_bytes(data)
    seen = atdata.Dataset[Digit](urls).as_type(fused)
    for way in (list, lambda ds: [batch.number for batch in ds.ordered(batch_size=2)]):
        with pytest.raises(IntegrityError):
            way(seen)


def test_a_class_that_computes_its_fields_runs_its_code(store: atdata.LocalDiskStore) -> None:
    def seen(src: Halved) -> Number:
        return Number(src.number)

    urls = store.write_shards(atdata.Dataset.from_samples([Halved(8)], Halved), prefix="halved")
    assert list(atdata.Dataset[Halved](urls).as_type(atdata.Lens(seen))) == [Number(-8)]
