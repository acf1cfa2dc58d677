"""What a user does with lenses, from the first line to the last."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import LensNotFoundError, LensValueError
from atdata.lenses.network import registered


@atdata.packable
class Photo:
    image: NDArray[np.uint8]
    label: str
    iso: int


@atdata.packable
class Labelled:
    label: str


@atdata.packable
class Short:
    letter: str


@atdata.lens
def simplify(src: Photo) -> Labelled:
    """What the photo shows."""
    return Labelled(label=src.label)


@simplify.putter
def _(view: Labelled, src: Photo) -> Photo:
    return dataclasses.replace(src, label=view.label)


@atdata.lens
def shorten(src: Labelled) -> Short:
    return Short(src.label[:1])


@shorten.putter
def _(view: Short, src: Labelled) -> Labelled:
    return Labelled(view.letter + src.label[1:])


def photo(label: str) -> Photo:
    return Photo(np.arange(6, dtype=np.uint8).reshape(2, 3), label, 100)


def test_a_lens_reads_and_writes() -> None:
    assert simplify.get(photo("cat")) == Labelled("cat")
    assert simplify(photo("cat")) == Labelled("cat")
    assert simplify.put(Labelled("dog"), photo("cat")) == photo("dog")
    assert (simplify.source, simplify.view) == (Photo, Labelled)
    assert simplify.__doc__ == "What the photo shows."
    assert repr(simplify) == "<Lens simplify: Photo -> Labelled>"


def test_lenses_compose() -> None:
    both = simplify | shorten
    assert both.get(photo("cat")) == Short("c")
    assert both.put(Short("b"), photo("cat")) == photo("bat")
    assert (shorten @ simplify) == both
    assert both.reads == {"label"}


def test_a_path_of_lenses_is_found() -> None:
    assert registered.find(Photo, Labelled) is simplify
    assert registered.find(Photo, Short) == simplify | shorten
    with pytest.raises(LensNotFoundError, match="no lens leads from Short to Photo"):
        registered.find(Short, Photo)


def test_the_laws_are_tried() -> None:
    report = atdata.check_laws(simplify, examples=30)
    assert [law.name for law in report.laws] == ["Get", "GetPut", "PutGet", "PutPut"]
    assert report.broken == ()


def test_a_declared_lens_needs_no_code() -> None:
    @atdata.packable
    class Old:
        lbl: str
        height: int

    @atdata.packable
    class New:
        label: str
        height: int
        split: str

    new = atdata.Lens.fields(Old, New, rename={"lbl": "label"}, default={"split": "train"})
    assert new.get(Old("cat", 3)) == New("cat", 3, "train")
    assert new.put(New("dog", 4, "train"), Old("cat", 3)) == Old("dog", 4)
    with pytest.raises(LensValueError, match=r"New\.split: is always 'train'"):
        new.put(New("dog", 4, "test"), Old("cat", 3))
    atdata.check_laws(new, examples=30)
