"""Lenses and views that other processes can import too."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from dataset_samples import Digit
from numpy.typing import NDArray

import atdata


@atdata.packable
class Number:
    number: int


@atdata.packable
class Text:
    text: str


@atdata.packable
class Picture:
    image: NDArray[np.uint8]
    label: int


def number_of(src: Digit) -> Number:
    return Number(src.label)


def renumber(view: Number, src: Digit) -> Digit:
    return dataclasses.replace(src, label=view.number)


def text_of(src: Number) -> Text:
    return Text(f"number {src.number}")


def number_in(view: Text, src: Number) -> Number:
    return Number(int(view.text.removeprefix("number ")))


numbering = atdata.Lens(number_of, renumber)  # only passes a field on
writing = atdata.Lens(text_of, number_in)  # computes
declared = atdata.Lens.fields(Digit, Picture, drop=["note"])


def views_of(dataset: atdata.Dataset[Any]) -> list[str]:
    """What every view has to say, read in several ways."""
    ordered = [repr(view) for view in dataset]
    shuffled = [repr(view) for batch in dataset.shuffled(batch_size=4, seed=1) for view in batch]
    return [*ordered, *shuffled, repr(dataset[3])]
