"""Sample types and lenses that other processes can import too."""

import dataclasses
import enum
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

import atdata


@atdata.packable
class Photo:
    image: NDArray[np.uint8]
    label: str
    iso: int
    note: str = "none"


@atdata.packable
class Labelled:
    label: str


@atdata.packable
class Short:
    letter: str


@atdata.packable
class Box:
    x: float
    y: float


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@atdata.packable
class Old:
    """Everything that can be declared about a field happens to one of these."""

    lbl: str
    color: Color
    count: int
    cm: int
    grams: float
    pixels: NDArray[np.uint8]
    exact: NDArray[np.float64]
    when: datetime
    box: Box
    left: float
    top: float
    maybe: int | None
    many: list[int]
    same: dict[str, float]
    secret: bytes = b""


@atdata.packable
class New:
    label: str
    color: str
    count: int | None
    metres: float
    kilos: float
    pixels: NDArray[np.int32]
    exact: NDArray[np.float32]
    when: str
    x: float
    y: float
    frame: Box
    maybe: int
    many: tuple[float, ...]
    same: dict[str, float]
    split: str
    tags: list[str]
    mean: NDArray[np.float64]


def everything() -> atdata.Lens[Old, New]:
    """A declared lens with every operation there is."""
    return atdata.Lens.fields(
        Old,
        New,
        rename={"lbl": "label", "cm": "metres", "grams": "kilos", "left": "frame.x", "top": "frame.y"},
        drop=["secret"],
        default={"split": "train", "tags": ["a", "b"], "mean": np.arange(3.0)},
        cast=["color", "metres", "pixels", "exact", "when", "maybe", "many"],
        unnest=["box"],
        scale={"metres": 0.01, "kilos": 0.001, "pixels": -2},
    )


def old(**changes: Any) -> Old:
    values: dict[str, Any] = {
        "lbl": "cat", "color": Color.RED, "count": 3, "cm": 250, "grams": 1500.0,
        "pixels": np.arange(6, dtype=np.uint8).reshape(2, 3), "exact": np.array([0.5, 0.25]),
        "when": datetime(2026, 1, 2, 3, 4), "box": Box(1.0, 2.0), "left": 3.0, "top": 4.0, "maybe": 7, "many": [1, 2],
        "same": {"k": 1.5}, "secret": b"s",
    }  # fmt: skip
    return Old(**{**values, **changes})


@atdata.lens
def simplify(src: Photo) -> Labelled:
    """What the photo shows."""
    return Labelled(label=src.label)


@simplify.putter
def _(view: Labelled, src: Photo) -> Photo:
    return dataclasses.replace(src, label=view.label)


def first_letter(src: Labelled) -> Short:
    return Short(src.label[:1])


def change_letter(view: Short, src: Labelled) -> Labelled:
    return Labelled(view.letter + src.label[1:])


shorten = atdata.Lens(first_letter, change_letter)

declared = atdata.Lens.fields(Photo, Labelled, drop=["image", "iso", "note"])

Picture = Annotated[NDArray[np.uint8], atdata.Shape("h", "w")]


def photo(label: str = "cat", iso: int = 100) -> Photo:
    return Photo(np.arange(6, dtype=np.uint8).reshape(2, 3), label, iso)
