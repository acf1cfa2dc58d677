"""Sample types in a module whose annotations are all text."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterable


@atdata.packable
class Inner:
    x: NDArray[np.float32]


@atdata.packable
class Outer:
    image: Annotated[NDArray[np.uint8], atdata.Shape("h", "w")]
    inner: Inner
    many: list[Inner | None]
    when: datetime
    mask: NDArray[np.bool_] | None = None
    limit: ClassVar[int] = 3
    size: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.size = self.image.size


def sample() -> Outer:
    inner = Inner(np.ones(2, np.float32))
    return Outer(np.zeros((2, 3), np.uint8), inner, [inner, None], datetime(2020, 1, 1, tzinfo=UTC))


def test_arrays_come_back_as_arrays() -> None:
    back = Outer.from_bytes(sample().packed)
    assert back == sample()
    assert isinstance(back.image, np.ndarray)
    assert isinstance(back.many[0].x, np.ndarray)
    assert back.size == 6


def test_the_schema_is_that_of_the_same_class_without_text() -> None:
    types = {f.name: f.type.name for f in atdata.Schema.of(Outer).fields}
    assert types == {
        "image": "ndarray[uint8, h x w]",
        "inner": "Inner",
        "many": "list[Inner or None]",
        "when": "datetime",
        "mask": "ndarray[bool] or None",
    }
    schema = atdata.Schema.of(Outer)
    assert atdata.Schema.from_record(schema.to_record()) == schema


def test_classes_in_a_function() -> None:
    @atdata.packable
    class Leaf:
        v: NDArray[np.int16]

    @atdata.packable
    @dataclass(frozen=True)
    class Branch:
        leaf: Leaf
        leaves: dict[str, Leaf]
        up: Branch | None = None

    one = Branch(Leaf(np.arange(3, dtype=np.int16)), {"a": Leaf(np.zeros(0, np.int16))})
    one = Branch(one.leaf, {}, one)
    assert Branch.from_bytes(one.packed) == one  # type: ignore[attr-defined]


def test_names_that_exist_for_type_checkers_only() -> None:
    @atdata.packable
    class Bad:
        x: Iterable[int]

    with pytest.raises(SchemaError, match="Bad: an annotation names 'Iterable', which is not defined where Bad is"):
        atdata.pack(Bad([1]))


def test_an_init_var_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"Scaled\.scale: an InitVar is not stored"):

        @atdata.packable
        class Scaled:
            x: int
            scale: InitVar[float]
