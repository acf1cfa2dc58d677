"""Lenses that follow from the fields: subsets, later versions of a class, and samples without a class."""

import dataclasses
import enum
import pickle
import time
import types
from dataclasses import field
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from lens_samples import Labelled, Photo, Short, photo
from numpy.typing import NDArray

import atdata
from atdata.errors import LensNotFoundError, LensValueError, SampleDecodeError
from atdata.lenses.derived import derive
from atdata.samples.packable import equal_values
from atdata.testing import samples


def before() -> Any:
    """Classes as they were."""

    class Kind(enum.Enum):
        A = "a"
        B = "b"

    @atdata.packable
    class Box:
        x: float

    @atdata.packable
    class Shot:
        label: str
        kind: Kind
        box: Box
        boxes: list[Box]
        image: NDArray[np.uint8]
        choice: Literal["x", "y"] = "x"

    return types.SimpleNamespace(Kind=Kind, Box=Box, Shot=Shot)


def after() -> Any:
    """The same, changed so that all that was can still be read."""

    class Kind(enum.Enum):
        A = "a"
        B = "b"
        C = "c"

    @atdata.packable
    class Box:
        x: float
        y: float = 0.0

    @atdata.packable
    class Shot:
        label: str | None
        kind: Kind
        box: Box
        boxes: list[Box]
        image: np.ndarray[Any, Any]
        choice: str = "y"
        split: str = "train"
        tags: list[str] = field(default_factory=list)

    return types.SimpleNamespace(Kind=Kind, Box=Box, Shot=Shot)


Before, After = before(), after()


def shot() -> Any:
    image = np.arange(4, dtype=np.uint8)
    return Before.Shot("cat", Before.Kind.B, Before.Box(1.0), [Before.Box(2.0)], image, "y")


def test_an_older_version_is_seen_as_a_newer_one() -> None:
    lens = derive(Before.Shot, After.Shot)
    new = lens.get(shot())
    assert new == After.Shot(
        "cat", After.Kind.B, After.Box(1.0, 0.0), [After.Box(2.0, 0.0)], np.arange(4, dtype=np.uint8), "y", "train", []
    )
    assert lens.put(new, shot()) == shot()
    edited = dataclasses.replace(new, label="dog", kind=After.Kind.A, box=After.Box(3.0, 0.0), choice="x")
    assert lens.put(edited, shot()) == dataclasses.replace(
        shot(), label="dog", kind=Before.Kind.A, box=Before.Box(3.0), choice="x"
    )
    for changes in (
        {"label": None},
        {"kind": After.Kind.C},
        {"box": After.Box(1.0, 5.0)},
        {"image": np.zeros(2)},
        {"choice": "z"},
        {"split": "test"},
        {"tags": ["t"]},
    ):
        with pytest.raises(LensValueError, match=rf"Shot\.{next(iter(changes))}"):
            lens.put(dataclasses.replace(new, **changes), shot())


@given(samples(Before.Shot))
def test_every_older_sample_is_one_of_the_newer(sample: Any) -> None:
    lens = derive(Before.Shot, After.Shot)
    assert lens.get(sample) == atdata.unpack(atdata.pack(sample), After.Shot)
    assert lens.put(lens.get(sample), sample) == sample


def test_a_newer_version_is_not_seen_as_an_older_one() -> None:
    with pytest.raises(LensNotFoundError) as caught:
        derive(After.Shot, Before.Shot)
    text = str(caught.value)
    assert "Shot.label is str, and str or None in Shot" in text
    assert "Shot.box.y is not there, and float, default 0.0 in Shot" in text


@pytest.mark.parametrize(
    ("source", "view", "message"),
    [
        (Labelled, Photo, r"Photo\.image is no field of Labelled; Photo\.iso is no field of Labelled"),
        (Photo, Short, r"Short\.letter is no field of Photo; there are image, label, iso, note"),
        (Photo, atdata.DictSample, "a DictSample has no declared fields"),
    ],
)
def test_what_does_not_follow(source: type, view: type, message: str) -> None:
    with pytest.raises(LensNotFoundError, match=message):
        derive(source, view)


def test_a_field_gone_and_another_one_new_may_be_one_renamed() -> None:
    @atdata.packable
    class Item:
        lbl: str
        n: int

    old = Item

    @atdata.packable
    class Item:  # type: ignore[no-redef]
        label: str = ""
        n: int = 0

    with pytest.raises(LensNotFoundError) as caught:
        derive(old, Item)
    assert str(caught.value) == (
        "Item has lbl, and Item has label instead: say which is which, with atdata.Lens.fields(Item, Item, "
        "rename={'lbl': 'label'}, ...)"
    )


def test_types_that_changed_are_named() -> None:
    @atdata.packable
    class Item:
        label: int

    with pytest.raises(LensNotFoundError, match=r"Item\.label is int, and str in Photo"):
        derive(Photo, Item)


def test_a_default_that_is_another_each_time_is_no_constant() -> None:
    @atdata.packable
    class Timed:
        label: str
        at: float = field(default_factory=time.time)

    with pytest.raises(LensNotFoundError, match=r"Timed\.at is no field of Labelled"):
        derive(Labelled, Timed)


def test_derived_lenses_are_declared_ones() -> None:
    lens = derive(Photo, Labelled)
    assert lens.reads == {"label"}
    assert pickle.loads(pickle.dumps(lens)) == lens
    assert atdata.Lens.from_record(lens.to_record(), Photo, Labelled) == lens
    assert derive(Photo, Photo) == atdata.Lens.identity(Photo)


# -- samples without a class ---------------------------------------------------------------------------------


@atdata.packable
class Typed:
    label: str
    raw: bytes
    image: NDArray[np.uint8]
    when: datetime | None
    note: str = "none"


@given(samples(Typed))
def test_a_dict_sample_is_seen_as_its_bytes_would_be(sample: Typed) -> None:
    lens: atdata.Lens[Any, Any] = derive(atdata.DictSample, Typed)
    loose = atdata.DictSample.from_bytes(atdata.pack(sample))
    loose = atdata.DictSample(loose, more=[1, 2])
    assert lens.get(loose) == sample
    assert lens.put(sample, loose) == loose
    other = dataclasses.replace(sample, label="other")
    back = lens.put(other, loose)
    assert lens.get(back) == other
    assert back["more"] == [1, 2]
    columns = {name: [loose[name], loose[name]] for name in loose}
    found = lens.get_columns({name: columns[name] for name in lens.reads or ()})
    for name in ("label", "raw", "when", "note"):
        assert all(equal_values(value, getattr(sample, name)) for value in found[name])
    assert lens.by_columns


def test_what_a_dict_sample_lacks() -> None:
    lens = derive(atdata.DictSample, Typed)
    loose = atdata.DictSample(label="a", raw=b"", image=np.zeros(1, np.uint8), when=None)
    view = lens.get(loose)
    assert view.note == "none"
    assert lens.put(view, loose) == loose  # which has no note still
    assert lens.put(dataclasses.replace(view, note="new"), loose).note == "new"
    with pytest.raises(SampleDecodeError, match=r"Labelled\.label: missing"):
        derive(atdata.DictSample, Labelled).get(atdata.DictSample(x=1))
    with pytest.raises(SampleDecodeError, match=r"Labelled\.label: expected str, got int"):
        derive(atdata.DictSample, Labelled).get(atdata.DictSample(label=1))
    assert pickle.loads(pickle.dumps(lens)) == lens
    assert photo() is not None
