"""Samples without a class."""

import copy
import pickle

import msgpack
import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from atdata.errors import SampleDecodeError, SampleTypeError
from atdata.samples.arrays import array_to_bytes
from atdata.samples.dictsample import DictSample
from atdata.samples.packable import equal_values, pack, packable
from atdata.testing import samples


@packable
class Digit:
    image: NDArray[np.uint8]
    label: int
    tags: list[str]


@packable
class Loose:
    a: dict
    b: list


def test_fields_by_item_and_by_attribute():
    sample = DictSample({"label": 1}, image=np.zeros(2), keys="shadowed")
    assert (sample["label"], sample.label) == (1, 1)
    assert list(sample) == ["label", "image", "keys"]
    assert len(sample) == 3
    assert "label" in sample
    assert "other" not in sample
    assert sample["keys"] == "shadowed"
    assert list(sample.keys()) == ["label", "image", "keys"]
    assert sample.get("other", 5) == 5
    assert sample.to_dict() is not sample.to_dict()
    assert dict(sample.items())["label"] == 1
    assert next(iter(sample.values())) == 1
    assert repr(DictSample(a=1, b="x")) == "DictSample(a=1, b='x')"


def test_what_is_not_there():
    sample = DictSample(a=1, b=2)
    with pytest.raises(AttributeError, match="the sample has no field 'c'; its fields are a, b"):
        sample.c  # noqa: B018
    with pytest.raises(AttributeError, match="its fields are none"):
        DictSample().c  # noqa: B018
    with pytest.raises(KeyError, match="c"):
        sample["c"]


def test_it_does_not_change():
    sample = DictSample(a=1)
    with pytest.raises(AttributeError, match=r"make a new one: DictSample\(old, name=value\)"):
        sample.a = 2
    assert DictSample(sample, a=2) == DictSample(a=2)
    source = {"a": 1}
    kept = DictSample(source)
    source["a"] = 5
    assert kept.a == 1


def test_equality_looks_into_arrays():
    assert DictSample(a=np.ones(2)) == DictSample(a=np.ones(2))
    assert DictSample(a=np.ones(2)) != DictSample(a=np.ones(3))
    assert DictSample(a=1) != {"a": 1}
    with pytest.raises(TypeError, match="unhashable"):
        hash(DictSample())


def test_copies_and_pickles():
    sample = DictSample(a=np.ones(2), b=[1])
    for clone in (copy.copy(sample), copy.deepcopy(sample), pickle.loads(pickle.dumps(sample))):
        assert clone == sample


@given(samples(Digit))
def test_the_bytes_of_a_class_are_read_without_it(digit):
    sample = DictSample.from_bytes(pack(digit))
    assert equal_values(sample.to_dict(), vars(digit))
    assert not sample.image.flags.writeable
    assert sample.packed == pack(digit)


@given(samples(Loose))
def test_nested_values_round_trip(loose):
    sample = DictSample(vars(loose))
    assert equal_values(DictSample.from_bytes(sample.packed).to_dict(), vars(loose))


def test_bytes_that_are_an_array_to_the_last_byte_become_one():
    raw = array_to_bytes(np.arange(3))
    seen = DictSample.from_bytes(
        msgpack.packb(
            {"array": raw, "more": raw + b"x", "less": raw[:-1], "text": b"hello", "empty": b"", "list": [raw]}
        )
    )
    assert np.array_equal(seen.array, np.arange(3))
    assert (seen.more, seen.less, seen.text, seen.empty, seen.list) == (raw + b"x", raw[:-1], b"hello", b"", [raw])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Input data was truncated"),
        (b"\x90", "expected dict, got list"),
        (b"\x81\x01\x02", "expected str, got int"),
        (b"\x81\xa1a" + b"\x91" * 10_000 + b"\x01", "nested too deeply"),
        (b"\x81\xa1a\xc6\x7f\xff\xff\xff", "Input data was truncated"),
        (b"\x81\xa1a\xa2\xff\xfe", "text that is not UTF-8"),
        (msgpack.packb({"a": {"__ndarray__": b"zz"}}), "not an array"),
    ],
)
def test_bytes_that_are_no_sample(data, message):
    with pytest.raises(SampleDecodeError, match=message):
        DictSample.from_bytes(data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"a": {1, 2}}, "a: a value of type set cannot be stored"),
        ({"a": [{"b": object()}]}, r"a\[0\]\['b'\]: a value of type object"),
        ({"a": {1: 2}}, "a: keys must be str, got int 1"),
        ({"a": "\ud800"}, "a: text with a lone surrogate"),
        ({"a": 2**64}, "a: 18446744073709551616 does not fit into 64 bits"),
        ({"a": np.array([None])}, "a: arrays of Python objects cannot be stored"),
        ({"a": {"__ndarray__": 1}}, "reserved for arrays"),
        ({1: 2}, "1: names of fields must be str, got int"),
        ({"\ud800": 2}, "text with a lone surrogate"),
    ],
)
def test_what_cannot_be_written(fields, message):
    with pytest.raises(SampleTypeError, match=message):
        DictSample(fields).packed  # noqa: B018
