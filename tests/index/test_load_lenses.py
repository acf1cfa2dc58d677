"""`load_dataset` of data that is of another type, or of an older version: seen through lenses, or refused by name."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import AmbiguousLensError, SchemaError
from atdata.index.load import load_dataset


@atdata.packable
class DigitV1:
    picture: NDArray[np.uint8]
    label: int


@atdata.packable
class DigitV2:
    image: NDArray[np.uint8]
    label: int
    note: str


@atdata.packable
class DigitV3:
    image: NDArray[np.uint8]
    label: int | None
    note: str
    split: str = "train"


@atdata.packable
class Answer:
    """A type of another team."""

    answer: str


@atdata.packable
class Labels:
    label: int


noted = atdata.Lens.fields(DigitV1, DigitV2, rename={"picture": "image"}, default={"note": "old"})


def answering(src: DigitV3) -> Answer:
    return Answer(f"{src.label} ({src.note}, {src.split})")


@pytest.fixture
def lenses(monkeypatch: pytest.MonkeyPatch) -> atdata.LensNetwork:
    """A network of this test's own in place of the one of the process."""
    network = atdata.LensNetwork()
    monkeypatch.setattr(atdata.index.views, "registered", network)
    return network


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[atdata.LocalIndex]:
    """The index that is there by default, with digits as they were first stored."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ATDATA_INDEX", raising=False)
    monkeypatch.chdir(tmp_path)
    with atdata.LocalIndex() as index:
        index.write_samples(digits(), name="digits")
        yield index


def digits() -> list[DigitV1]:
    return [DigitV1(np.full((2, 2), i, np.uint8), i) for i in range(5)]


def renamed(cls: type, name: str) -> Any:
    """A class like `cls` by another name, as a schema gives it."""
    return dataclasses.replace(atdata.Schema.of(cls), name=name).sample_type()


def test_the_program_of_the_issue(lenses: atdata.LensNetwork, index: atdata.LocalIndex) -> None:
    lenses.register(noted)
    ds = load_dataset("digits@1.0.0", DigitV2, split="train")
    assert [(s.label, s.note, s.image.tolist()) for s in ds] == [(i, "old", [[i, i], [i, i]]) for i in range(5)]
    assert isinstance(ds[0], DigitV2)
    assert ds.sample_type is DigitV2
    # Several versions apart: what the class V1 is called in the code, a new field with a default, a wider type.
    later = load_dataset("digits@1.0.0", DigitV3)
    assert [(s.label, s.note, s.split) for s in later.shuffled(seed=1)] == [
        (s.label, "old", "train") for s in ds.shuffled(seed=1)
    ]
    lens = atdata.Lens(answering)
    lenses.register(lens)
    answers = load_dataset("digits", Answer)
    assert [s.answer for s in answers] == [f"{i} (old, train)" for i in range(5)]
    batch = next(iter(load_dataset("digits", DigitV3).ordered(batch_size=3)))
    assert batch.image.shape == (3, 2, 2)
    assert batch.label == [0, 1, 2]
    assert [s.label for s in pickle.loads(pickle.dumps(later))] == list(range(5))


def test_data_that_can_be_read_is_read_without_a_lens(lenses: atdata.LensNetwork) -> None:
    @atdata.packable
    class Wider:
        picture: NDArray[np.uint8]
        label: int | None
        note: str = "none"
        made: datetime.datetime = dataclasses.field(default_factory=datetime.datetime.now)

    for cls in (DigitV1, Wider):
        assert load_dataset("digits", cls).steps == ()
        assert [s.label for s in load_dataset("digits", cls)] == list(range(5))


def test_a_class_with_some_of_the_fields(lenses: atdata.LensNetwork) -> None:
    assert list(load_dataset("digits", Labels)) == [Labels(i) for i in range(5)]


def test_places_are_seen_through_lenses_too(lenses: atdata.LensNetwork, tmp_path: Path) -> None:
    lenses.register(noted)
    store = atdata.LocalDiskStore("data")
    for name in ("train", "val"):
        store.write_shards(atdata.Dataset.from_samples(digits(), DigitV1), prefix=name, maxcount=2)
    both = load_dataset("data", DigitV2)
    assert sorted(both) == ["train", "validation"]
    assert [s.note for s in both["validation"]] == ["old"] * 5
    assert load_dataset("data/train", DigitV3)[4].label == 4
    assert load_dataset(str(tmp_path / "data/*/*.tar"), DigitV3, split="val")[1].label == 1
    assert load_dataset({"a": "data/train", "b": "data/val"}, DigitV2)["b"][0].note == "old"


def test_a_lens_of_the_very_type_comes_before_reading_the_bytes(lenses: atdata.LensNetwork) -> None:
    """Fields of the same names and types may mean something else; whoever wrote a lens said so."""

    @atdata.packable
    class Counted:
        picture: NDArray[np.uint8]
        label: int
        base: int = 0

    def from_one(src: DigitV1) -> Counted:
        return Counted(src.picture, src.label + 1, 1)

    lens = atdata.Lens(_annotated(from_one, DigitV1, Counted))
    assert load_dataset("digits", Counted)[3].label == 3
    lenses.register(lens)
    assert load_dataset("digits", Counted)[3].label == 4


def _annotated(function: Any, source: type, view: type) -> Any:
    function.__annotations__ = {"src": source, "return": view}
    return function


def test_versions_that_the_index_knows_are_gone_through(lenses: atdata.LensNetwork, index: atdata.LocalIndex) -> None:
    first = renamed(DigitV1, "Item")
    second = atdata.packable(type("Item", (), {"__annotations__": {"label": int}}))
    third = atdata.packable(type("Item", (), {"__annotations__": {"label": int, "split": str}, "split": "train"}))
    index.write_samples([first(picture=s.picture, label=s.label) for s in digits()], name="items")
    with pytest.raises(SchemaError, match=r"Item has picture, and Item has split instead"):
        load_dataset("items@1.0.0", third)
    assert index.publish_schema(second) == "atdata://local/schema/Item@2.0.0"
    assert index.publish_schema(third) == "atdata://local/schema/Item@2.1.0"
    found = load_dataset("items@1.0.0", third)
    assert [(s.label, s.split) for s in found] == [(i, "train") for i in range(5)]
    assert load_dataset("items", third, index=index)[2].label == 2


# -- refusals ------------------------------------------------------------------------------------------------


def test_the_refusal_names_the_step_that_is_missing(lenses: atdata.LensNetwork, index: atdata.LocalIndex) -> None:
    with pytest.raises(SchemaError) as caught:
        load_dataset("digits@1.0.0", DigitV2)
    assert str(caught.value) == (
        "the data (DigitV1 1.0.0) cannot be read as DigitV2: no lens leads from DigitV1 1.0.0 to DigitV2, and none "
        "follows from their fields: DigitV2.image is no field of DigitV1; there are picture; DigitV2.note is no field "
        "of DigitV1; there are picture. Write it: @atdata.lens over `def to_digitv2(src: DigitV1) -> DigitV2`, or "
        "atdata.lens(atdata.Lens.fields(DigitV1, DigitV2, …)) where only names, types or units changed; DigitV1 is a "
        "class with picture: ndarray[uint8], label: int [digits@1.0.0]"
    )
    lenses.register(noted)
    with pytest.raises(SchemaError) as caught:
        load_dataset("digits@1.0.0", Answer)
    assert str(caught.value) == (
        "the data (DigitV1 1.0.0) cannot be read as Answer: no lens leads from DigitV1 1.0.0 to Answer, and none "
        "follows from their fields. From DigitV1 1.0.0 lenses lead as far as DigitV2. What is missing is the step from "
        "DigitV2 to Answer: Answer.answer is no field of DigitV2; there are image, label, note. Write it: @atdata.lens "
        "over `def to_answer(src: DigitV2) -> Answer`, or atdata.lens(atdata.Lens.fields(DigitV2, Answer, …)) where "
        "only names, types or units changed [digits@1.0.0]"
    )


def test_the_refusal_names_versions_of_the_index(lenses: atdata.LensNetwork, index: atdata.LocalIndex) -> None:
    later = renamed(DigitV2, "DigitV1")
    last = renamed(DigitV3, "DigitV1")
    index.publish_schema(later)
    index.publish_schema(last)
    with pytest.raises(SchemaError) as caught:
        load_dataset("digits@1.0.0", last)
    assert caught.value.message.startswith(
        "the data (DigitV1 1.0.0) cannot be read as DigitV1: no lens leads from DigitV1 1.0.0 to DigitV1 2.1.0, and "
        "none follows from their fields. To DigitV1 2.1.0 they lead from DigitV1 2.0.0. What is missing is the step "
        "from DigitV1 1.0.0 to DigitV1 2.0.0: DigitV1.image is no field of DigitV1; there are picture; "
    )
    assert "def to_digitv1(src: OldDigitV1) -> DigitV1" in caught.value.message
    assert "OldDigitV1 is a class with picture: ndarray[uint8], label: int" in caught.value.message

    # Doing what it says helps.
    OldDigitV1 = renamed(DigitV1, "OldDigitV1")
    step = atdata.Lens.fields(OldDigitV1, later, rename={"picture": "image"}, default={"note": ""})
    lenses.register(step)
    assert load_dataset("digits@1.0.0", last)[4].label == 4


def test_several_ways_are_shown(lenses: atdata.LensNetwork) -> None:
    one = _annotated(lambda src: Answer("one"), DigitV1, Answer)
    other = _annotated(lambda src: Answer("other"), DigitV1, Answer)
    one.__name__ = one.__qualname__ = "one"
    other.__name__ = other.__qualname__ = "other"
    kept = [atdata.Lens(one), atdata.Lens(other)]
    for lens in kept:
        lenses.register(lens)
    with pytest.raises(AmbiguousLensError) as caught:
        load_dataset("digits", Answer)
    assert str(caught.value) == (
        "several lenses lead from DigitV1 1.0.0 to Answer: one (test_load_lenses); other (test_load_lenses). Use the "
        "one you mean [digits@1.0.0]"
    )
    assert load_dataset("digits", DigitV1).as_type(kept[1])[0] == Answer("other")


def test_shards_of_several_schemas_that_take_different_lenses(lenses: atdata.LensNetwork) -> None:
    lenses.register(noted)
    store = atdata.LocalDiskStore("mixed")
    store.write_shards(atdata.Dataset.from_samples(digits(), DigitV1), prefix="train-a")
    newer = [DigitV2(s.picture, s.label, "new") for s in digits()]
    store.write_shards(atdata.Dataset.from_samples(newer, DigitV2), prefix="train-b")
    with pytest.raises(SchemaError) as caught:
        load_dataset("mixed/", DigitV2)
    assert str(caught.value) == (
        "the shards of the split 'train' were written with different schemas, of which each takes a lens of its own to "
        "DigitV2: load them one by one [mixed/]"
    )
    assert [s.note for s in load_dataset("mixed/train-b", DigitV2)] == ["new"] * 5


def test_what_is_loaded_is_sent_to_other_processes(lenses: atdata.LensNetwork) -> None:
    lenses.register(noted)
    ds = load_dataset("digits", DigitV3)
    assert [s.label for s in copy.deepcopy(ds)] == list(range(5))
    assert [s.label for s in pickle.loads(pickle.dumps(ds))] == list(range(5))
