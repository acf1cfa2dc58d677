"""Batches: columns, what they cost, and that a manifest changes nothing but the speed."""

from __future__ import annotations

import copy
import enum
import itertools
import pickle
import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from dataset_samples import Color, Digit, Everything, Halved, Level, Point, digit, digits, double, everything
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import atdata
from atdata.errors import AtdataError, SampleDecodeError
from atdata.samples.packable import equal_values
from atdata.stores.base import WrittenShards
from atdata.testing import samples


def first_batch(source: Any, sample_type: Any = None, size: int = 100, **options: Any) -> Any:
    return next(iter(atdata.Dataset(source, sample_type=sample_type, **options).ordered(batch_size=size)))


# -- a manifest changes nothing ------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    values=st.lists(samples(Everything), min_size=1, max_size=7),
    maxcount=st.integers(1, 4),
    size=st.integers(1, 5),
    mixed=st.booleans(),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@example([everything(i) for i in range(5)], 2, 3, True)
@example([everything(0)] * 4, 3, 2, False)
@example([everything(i) for i in (0, 2, 4)], 2, 2, True)
def test_batches_are_the_same_with_and_without_manifest(
    values: list[Everything], maxcount: int, size: int, mixed: bool
) -> None:
    with tempfile.TemporaryDirectory() as root:
        store = atdata.LocalDiskStore(root)
        ds = atdata.Dataset.from_samples(values, Everything)
        quick = store.write_shards(ds, prefix="quick", maxcount=maxcount)
        plain = store.write_shards(ds, prefix="plain", maxcount=maxcount, manifest=False)
        sources: list[Any] = [quick, plain, ds]
        if mixed:
            sources.append([(quick, plain)[i % 2][i] for i in range(len(quick))])
            sources.append([(plain, quick)[i % 2][i] for i in range(len(quick))])
        loaders = [
            (s if isinstance(s, atdata.Dataset) else atdata.Dataset[Everything](s)).ordered(batch_size=size)
            for s in sources
        ]
        fields = list(Everything.__annotations__)
        for group, start in zip(zip(*loaders, strict=True), itertools.count(0, size), strict=False):
            expected = values[start : start + size]
            for batch in group:
                assert len(batch) == len(expected)
                for field in fields:
                    column, raw = batch[field], [getattr(s, field) for s in expected]
                    assert same_columns(column, group[0][field]), field
                    rows = [column[i, ...] for i in range(len(column))] if isinstance(column, np.ndarray) else column
                    assert list(map(type, rows)) == list(map(type, raw)), field
                    assert all(map(equal_values, rows, raw)), field
                assert list(batch) == expected


def same_columns(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and equal_values(a, b)
    return isinstance(a, list) and isinstance(b, list) and equal_values(a, b)


ARRAYS = {
    "scalar": [np.array(float(i)) for i in range(4)],
    "empty": [np.zeros((0, 3), np.int16)] * 4,
    "zero-size at the end": [np.zeros((2, 0), np.float32)] * 4,
    "big-endian": [np.arange(3, dtype=">f8") * i for i in range(4)],
    "text": [np.array(["ab", f"c{i}"]) for i in range(4)],
    "bytes": [np.array([b"ab", b"%d" % i]) for i in range(4)],
    "no bytes": [np.ndarray((2,), "<U0") for _ in range(4)],
    "void": [np.array([b"abc", b"%d" % i], "V3") for i in range(4)],
    "dates": [np.array([i, 2], "M8[ns]") for i in range(4)],
    "spans": [np.array(i, ">m8[us]") for i in range(4)],
    "complex": [np.array([i + 1j]) for i in range(4)],
    "bool": [np.array([[True, i % 2 == 0]]) for i in range(4)],
    "structured": [np.array([(i, 2.0)], [("a", "<i4"), ("b", ">f8")]) for i in range(4)],
    "aligned": [np.array([(i, 2.0)], np.dtype([("a", "i1"), ("b", "f8")], align=True)) for i in range(4)],
    "half": [np.array([i, np.nan], np.float16) for i in range(4)],
    "fortran": [np.asfortranarray(np.arange(6).reshape(2, 3) + i) for i in range(4)],
    "many dimensions": [np.full((1,) * 16, i) for i in range(4)],
    "large": [np.full((300, 300), i, np.uint8) for i in range(4)],
}  # fmt: skip


@atdata.packable
class One:
    a: np.ndarray[Any, Any]


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_one_kind_are_stacked(store: atdata.LocalDiskStore, name: str) -> None:
    arrays = ARRAYS[name]
    ds = atdata.Dataset.from_samples(map(One, arrays), One)
    quick = store.write_shards(ds, prefix="q", maxcount=3)
    plain = store.write_shards(atdata.Dataset[One](quick), prefix="p", maxcount=3, manifest=False)
    for source in (quick, plain, [quick[0], plain[1]], [plain[0], quick[1]]):
        column = first_batch(source, One).a
        assert isinstance(column, np.ndarray)
        assert column.dtype == arrays[0].dtype
        assert column.dtype.str == arrays[0].dtype.str
        assert column.shape == (4, *arrays[0].shape)
        assert column.flags.writeable
        assert column.flags.c_contiguous
        assert all(equal_values(column[i, ...], arrays[i]) for i in range(4))
        again = first_batch(source, One).a
        column[...] = column[::-1].copy()  # writable in fact
        assert equal_values(again[::-1], column)


RAGGED = {
    "shapes": [np.zeros(i, np.float32) for i in range(4)],
    "dtypes": [np.zeros(2, d) for d in ("f4", "f8", ">f4", "i4")],
    "byte orders": [np.ones(2, d) for d in ("<i2", ">i2", "<i2", ">i2")],
    "dimensions": [np.zeros((1,) * i) for i in range(4)],
    "string widths": [np.array(["a" * (i + 1)]) for i in range(4)],
    "structured and not": [np.zeros(1, [("a", "i4")]), np.zeros(1, "i4"), np.zeros(1, [("a", "i4")]), np.zeros(1)],
    "only the last differs": [np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(3)],
}


@pytest.mark.parametrize("name", RAGGED)
def test_ragged_arrays_give_a_list(store: atdata.LocalDiskStore, name: str) -> None:
    arrays = RAGGED[name]
    ds = atdata.Dataset.from_samples([One(a) for a in arrays], One)
    for manifest in (True, False):
        urls = store.write_shards(ds, prefix=f"{manifest}", maxcount=3, manifest=manifest)
        column = first_batch(urls, One).a
        assert isinstance(column, list)
        assert all(equal_values(a, b) for a, b in zip(column, arrays, strict=True))
        assert all(a.dtype.str == b.dtype.str for a, b in zip(column, arrays, strict=True))
        assert all(a.flags.writeable for a in column)


@atdata.packable
class Maybe:
    a: NDArray[np.float32] | None
    b: int


def test_none_among_arrays_gives_a_list(store: atdata.LocalDiskStore) -> None:
    values = [Maybe(None if i % 3 == 1 else np.full(2, i, np.float32), i) for i in range(6)]
    ds = atdata.Dataset.from_samples(values, Maybe)
    for manifest in (True, False):
        urls = store.write_shards(ds, prefix=f"{manifest}", maxcount=4, manifest=manifest)
        sizes = [1, 2, 6]
        batches = [[b.a for b in atdata.Dataset[Maybe](urls).ordered(batch_size=n)] for n in sizes]
        assert [type(c).__name__ for c in batches[0]] == ["ndarray", "list"] + ["ndarray"] * 2 + ["list", "ndarray"]
        assert [type(c).__name__ for c in batches[1]] == ["list", "ndarray", "list"]
        assert [None if v is None else v.tolist() for v in batches[2][0]] == [
            [0.0, 0.0], None, [2.0, 2.0], [3.0, 3.0], None, [5.0, 5.0],
        ]  # fmt: skip
    none = store.write_shards(atdata.Dataset.from_samples([Maybe(None, 1)] * 3, Maybe), prefix="none")
    assert first_batch(none, Maybe).a == [None] * 3


# -- batches over shards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 7, 10, 24, 25, 26, 1000])
@pytest.mark.parametrize("which", ["quick", "bare", "mixed", "mixed2"])
def test_batches_span_shards(urls: WrittenShards, bare: WrittenShards, size: int, which: str) -> None:
    source: list[str] = {
        "quick": urls,
        "bare": bare,
        "mixed": [urls[0], bare[1], urls[2]],
        "mixed2": [bare[0], urls[1], bare[2]],
    }[which]
    ds = atdata.Dataset[Digit](source)
    batches = list(ds.ordered(batch_size=size))
    assert [len(b) for b in batches] == [min(size, 25 - at) for at in range(0, 25, size)]
    assert np.concatenate([b.image for b in batches]).tolist() == [d.image.tolist() for d in digits(25)]
    assert [n for b in batches for n in b.note] == [d.note for d in digits(25)]
    assert [s for b in batches for s in b] == digits(25)
    for count in (0, 1, 9, 10, 11, 20, 24):
        taken = list(ds.take(count).ordered(batch_size=size))
        assert [label for b in taken for label in b.label] == list(range(count))
        assert all(0 < len(b) <= size for b in taken)


# -- the batch itself ----------------------------------------------------------------------------------------


def test_a_batch_is_a_collection_of_samples_and_columns(urls: WrittenShards) -> None:
    batch = first_batch(urls, Digit, 4)
    assert len(batch) == 4
    assert list(batch) == digits(4)
    assert batch.samples == digits(4)
    assert batch.sample_type is Digit
    assert batch.fields == ["image", "label", "note"]
    assert batch["label"] == batch.label == [0, 1, 2, 3]
    assert batch.image is batch.image
    assert repr(batch) == "SampleBatch[Digit](4 samples: image, label, note)"
    with pytest.raises(AttributeError, match="Digit has no field 'picture'; it has image, label, note"):
        batch.picture  # noqa: B018
    with pytest.raises(KeyError, match="has no field 'picture'"):
        batch["picture"]
    assert not hasattr(batch, "_private")


def test_batches_of_samples_in_hand() -> None:
    batch = atdata.SampleBatch(digits(3))
    assert batch.image.shape == (3, 4, 3)
    assert batch.note == ["n0", None, None]
    empty: Any = atdata.SampleBatch([], Digit)
    assert len(empty) == 0
    assert list(empty) == []
    assert empty.label == []
    assert repr(empty) == "SampleBatch[Digit](0 samples: image, label, note)"


def test_columns_are_fresh_and_writable(urls: WrittenShards, bare: WrittenShards) -> None:
    for source in (urls, bare):
        ds = atdata.Dataset[Digit](source)
        one = next(iter(ds.ordered(batch_size=5)))
        one.image[:] = 99
        one.label[0] = 99
        assert (one.image == 99).all()
        two = next(iter(ds.ordered(batch_size=5)))
        assert two.image[3].tolist() == digit(3).image.tolist()
        assert two.label == [0, 1, 2, 3, 4]
        assert list(one) == digits(5)
        assert not np.shares_memory(one.image, two.image)


def test_columns_have_their_fields_types(store: atdata.LocalDiskStore) -> None:
    values = [everything(i) for i in range(6)]
    for manifest in (True, False):
        urls = store.write_shards(
            atdata.Dataset.from_samples(values, Everything), prefix=f"{manifest}", maxcount=4, manifest=manifest
        )
        batch = first_batch(urls, Everything)
        assert batch.color == [Color.BLUE, Color.RED] * 3
        assert batch.level == [None, Level.LOW, Level.HIGH] * 2
        assert all(type(v) is Level for v in batch.level if v is not None)
        assert batch.choice == ["a", "b", None] * 2
        assert batch.when == [v.when for v in values]
        assert all(type(v) is datetime for v in batch.when)
        assert all(type(v) is Point for v in batch.point)
        assert batch.points == [v.points for v in values]
        assert batch.pair == [(i, "p") for i in range(6)]
        assert batch.truth == [True, False] * 3
        assert [type(v) for v in batch.truth + batch.whole + batch.real] == [bool] * 6 + [int] * 6 + [float] * 6
        assert batch.maybe_whole == [0, None, None, 3, None, None]
        assert all(type(v) is int for v in batch.maybe_whole if v is not None)
        assert batch.maybe_truth == [True, None, None] * 2
        assert batch.image[2].data == b"\x89PNG\x02"
        assert [t["t"].tolist() for t in batch.table][:3] == [[], [0.0], [0.0, 1.0]]
        assert batch.fixed.dtype == ">i2"
        assert batch.fixed.shape == (6, 2, 3)


def test_the_limits_of_64_bits_stay_integers(store: atdata.LocalDiskStore) -> None:
    @atdata.packable
    class Number:
        n: int
        m: int | None

    for values in ([0, 2**64 - 1], [-(2**63), 2**63 - 1], [-(2**63), 2**64 - 1], [2**53 + 1, 1]):
        ds = atdata.Dataset.from_samples([Number(n, None if n == 1 else n) for n in values], Number)
        batch = first_batch(store.write_shards(ds, prefix="n", overwrite=True), Number)
        assert batch.n == values
        assert batch.m == [None if n == 1 else n for n in values]


def test_shuffled_values_of_shards_that_hold_them_in_different_ways(store: atdata.LocalDiskStore) -> None:
    @atdata.packable
    class Number:
        n: int
        m: int | None
        text: str | None

    # Two to a shard: unsigned, signed, with and without None.
    numbers = [0, 2**64 - 1, -(2**63), 2**53 + 1, 3, 4, 5, 2**63]
    samples = [
        Number(n, None if n == 3 else n, (None, "", "\u00e9", "a", "", "a", None, "a" * 300)[i])
        for i, n in enumerate(numbers)
    ]
    urls = store.write_shards(atdata.Dataset.from_samples(samples, Number), prefix="n", maxcount=2)
    for size in (1, 3, 8):
        found = [
            row
            for batch in atdata.Dataset[Number](urls).shuffled(batch_size=size, seed=3)
            for row in zip(batch.n, batch.m, batch.text, strict=True)
        ]
        assert sorted(found, key=lambda row: row[0]) == sorted(
            ((s.n, s.m, s.text) for s in samples), key=lambda row: row[0]
        )
        assert [n for n, _, _ in found] != numbers
        assert all(type(n) is int and type(m) in (int, type(None)) for n, m, _ in found)


def test_fields_named_like_members_are_items(store: atdata.LocalDiskStore) -> None:
    @atdata.packable
    class Awkward:
        samples: int
        fields: str
        sample_type: float

    urls = store.write_shards(atdata.Dataset.from_samples([Awkward(1, "f", 0.5)] * 2, Awkward), prefix="a")
    batch = first_batch(urls, Awkward)
    assert (batch["samples"], batch["fields"], batch["sample_type"]) == ([1, 1], ["f", "f"], [0.5, 0.5])
    assert batch.samples == [Awkward(1, "f", 0.5)] * 2
    assert batch.sample_type is Awkward


def test_inherited_fields_are_columns(store: atdata.LocalDiskStore) -> None:
    @atdata.packable
    class Noted(Digit):
        extra: str = "e"

    urls = store.write_shards(
        atdata.Dataset.from_samples([Noted(np.zeros((1, 1), np.uint8), i) for i in range(3)], Noted), prefix="i"
    )
    batch = first_batch(urls, Noted)
    assert (batch.label, batch.extra, batch.image.shape) == ([0, 1, 2], ["e"] * 3, (3, 1, 1))


def test_batches_can_be_pickled_and_copied(urls: WrittenShards, bare: WrittenShards) -> None:
    for batch in (
        first_batch(urls, Digit, 4),
        first_batch(bare, Digit, 4),
        first_batch(urls, None, 4),
        next(iter(atdata.Dataset(urls).select_fields("label", "image").ordered(batch_size=4))),
        next(iter(atdata.Dataset[Digit](urls).map(double).ordered(batch_size=4))),
        atdata.SampleBatch(digits(4)),
    ):
        for again in (pickle.loads(pickle.dumps(batch)), copy.copy(batch)):
            assert again.sample_type is batch.sample_type
            assert again.image.tolist() == batch.image.tolist()
            assert again.label == batch.label
            assert len(again) == 4
        assert list(pickle.loads(pickle.dumps(batch))) == list(batch)


def test_batches_of_mappings(store: atdata.LocalDiskStore) -> None:
    rows = [{"a": i, "v": np.full(3, i)} | ({"odd": True} if i % 2 else {}) for i in range(4)]
    urls = store.write_shards(atdata.Dataset.from_samples(rows, atdata.DictSample), prefix="d")
    batch = first_batch(urls)
    assert batch.fields == ["a", "v", "odd"]
    assert batch.a == [0, 1, 2, 3]
    assert batch.v.tolist() == [[i] * 3 for i in range(4)]
    assert batch.v.flags.writeable
    with pytest.raises(AttributeError, match="not every sample of the batch has a field 'odd'"):
        batch.odd  # noqa: B018
    again = pickle.loads(pickle.dumps(batch))
    assert again.v.tolist() == batch.v.tolist()
    assert list(again) == list(batch)


def test_an_attribute_error_of_a_users_class_is_not_hidden(store: atdata.LocalDiskStore) -> None:
    @atdata.packable
    class Bad:
        a: int

        def __post_init__(self) -> None:
            if self.a == 2:
                raise AttributeError("mine")

    ok = [Bad(1), Bad(1)]
    ok[1].a = 2
    urls = store.write_shards(atdata.Dataset.from_samples(ok, Bad), prefix="bad")
    batch = first_batch(urls, Bad)
    for read in (lambda: batch.samples, lambda: batch.a, lambda: list(batch)):
        with pytest.raises((AttributeError, AtdataError)) as caught:
            read()
        assert not isinstance(caught.value, RecursionError)


# -- what is not asked for is not decoded --------------------------------------------------------------------


def poison(path: str, target: Path, old: bytes, new: bytes) -> Path:
    """A copy of the shard and its manifest with every `old` replaced: no longer what was written."""
    assert len(old) == len(new)
    data = Path(path).read_bytes()
    assert old in data
    target.mkdir()
    (target / Path(path).name).write_bytes(data.replace(old, new))
    manifest = Path(path.replace(".tar", ".manifest.parquet"))
    if manifest.exists():
        shutil.copy(manifest, target)
    return target / Path(path).name


@atdata.packable
class Two:
    good: NDArray[np.int32]
    text: str
    number: int
    bad: str


@pytest.fixture
def two(store: atdata.LocalDiskStore) -> WrittenShards:
    values = [Two(np.full(4, i, np.int32), f"t{i}", i, "POISONPOISON") for i in range(6)]
    return store.write_shards(atdata.Dataset.from_samples(values, Two), prefix="two")


def test_columns_do_not_decode_their_neighbours(two: WrittenShards, tmp_path: Path) -> None:
    # The length byte of `bad` becomes a type that no msgpack has: decoding the sample is impossible.
    shard = poison(two[0], tmp_path / "p", b"\xacPOISON", b"\xc1POISON")
    batch = first_batch(shard, Two, verify="never")
    assert batch.good.tolist() == [[i] * 4 for i in range(6)]
    assert batch.text == [f"t{i}" for i in range(6)]
    assert batch.number == list(range(6))
    with pytest.raises(SampleDecodeError, match="Two"):
        batch.samples  # noqa: B018
    with pytest.raises(SampleDecodeError):
        list(atdata.Dataset[Two](shard, verify="never"))


def test_selected_fields_do_not_decode_the_others(two: WrittenShards, tmp_path: Path) -> None:
    # `bad` becomes a list where a text is declared, and text that is no UTF-8.
    for number, (old, new) in enumerate([(b"\xacPOISONPOISON", b"\x9c" + b"\1" * 12), (b"POISONPOISON", b"\xff" * 12)]):
        shard = poison(two[0], tmp_path / f"p{number}", old, new)
        lone = tmp_path / f"lone{number}.tar"
        shutil.copy(shard, lone)
        for path in (shard, lone):
            ds = atdata.Dataset[Two](path, verify="never")
            with pytest.raises(SampleDecodeError, match=r"Two"):
                list(ds)
            only = ds.select_fields("good", "number")
            assert [s.number for s in only] == list(range(6))
            assert [s.number for s in ds.take(3).select_fields("number")] == [0, 1, 2]
            assert only[4].good.tolist() == [4] * 4
            assert [b.number for b in only.ordered(batch_size=4)] == [[0, 1, 2, 3], [4, 5]]


# -- another class than the one that wrote -------------------------------------------------------------------


@atdata.packable
class Written:
    a: NDArray[np.uint8]
    n: int
    t: str
    m: int | None


class Other(enum.Enum):
    X = "t0"


def _classes() -> list[type]:
    @atdata.packable
    class Same:
        a: NDArray[np.uint8]
        n: int
        t: str
        m: int | None

    @atdata.packable
    class Floats:  # integers can be read as floats
        a: NDArray[Any]
        n: float
        t: str
        m: float | None

    @atdata.packable
    class WrongDtype:
        a: NDArray[np.float32]
        n: int
        t: str
        m: int | None

    @atdata.packable
    class WrongShape:
        a: Annotated[NDArray[np.uint8], atdata.Shape(5)]
        n: int
        t: str
        m: int | None

    @atdata.packable
    class WrongScalar:
        a: NDArray[np.uint8]
        n: str
        t: int
        m: int | None

    @atdata.packable
    class NotOptional:
        a: NDArray[np.uint8]
        n: int
        t: str
        m: int

    @atdata.packable
    class NoSuchMember:
        a: NDArray[np.uint8]
        n: Literal[0, 1]
        t: Other
        m: int | None

    @atdata.packable
    class Fewer:
        a: NDArray[np.uint8]
        n: int

    @atdata.packable
    class More:
        a: NDArray[np.uint8]
        n: int
        t: str
        m: int | None
        extra: str
        given: str = "default"

    @atdata.packable
    class Default:
        a: NDArray[np.uint8]
        n: int
        t: str
        m: int | None
        given: str = "default"

    @atdata.packable
    class Bytes:
        a: bytes
        n: int
        t: str
        m: int | None

    @atdata.packable
    class Untyped:
        a: Any
        n: Any
        t: Any
        m: Any

    return [
        Same, Floats, WrongDtype, WrongShape, WrongScalar, NotOptional, NoSuchMember, Fewer, More, Default, Bytes,
        Untyped,
    ]  # fmt: skip


@pytest.mark.parametrize("cls", _classes(), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("ragged", [False, True])
def test_another_class_gives_what_its_samples_give(store: atdata.LocalDiskStore, cls: Any, ragged: bool) -> None:
    values = [Written(np.full(3 + ragged * (i % 2), i, np.uint8), i, f"t{i}", i if i % 2 else None) for i in range(4)]
    urls = store.write_shards(atdata.Dataset.from_samples(values, Written), prefix="w")
    for field in list(cls.__annotations__):
        wrong, found = outcome(lambda field=field: [getattr(s, field) for s in atdata.Dataset[cls](urls)])
        also, column = outcome(lambda field=field: list(first_batch(urls, cls)[field]))
        if wrong is None or wrong[1] == f"{cls.__name__}.{field}":
            assert also == wrong
            assert [type(v) for v in column] == [type(v) for v in found]
            assert all(map(equal_values, column, found))
        elif also is None:  # only some other field is wrong, which nobody asked for
            assert all(map(equal_values, column, [getattr(v, field, "default") for v in values]))


def outcome(read: Any) -> tuple[Any, list[Any]]:
    try:
        return None, read()
    except SampleDecodeError as error:
        return (error.message, error.field, error.url, error.offset, error.key), []


def test_a_class_that_changes_its_values_shows_them_in_columns(store: atdata.LocalDiskStore) -> None:
    urls = store.write_shards(atdata.Dataset.from_samples([Halved(4), Halved(6)], Halved), prefix="h")
    batch = first_batch(urls, Halved)
    assert batch.number == [s.number for s in batch] == [-4, -6]
