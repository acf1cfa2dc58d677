"""Fields that are fetched by themselves have the values that decoding whole samples gives, in whatever shards."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import msgpack
import numpy as np
import pytest
from dataset_samples import Color, Point
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import atdata
from atdata.errors import AtdataError, SampleDecodeError, SchemaError
from atdata.samples.packable import equal_values
from atdata.shards import tar
from atdata.shards.manifest import Manifest, manifest_name
from atdata.shards.manifest_file import read_manifest, to_parquet
from atdata.stores.cloud import MemoryDataStore
from atdata.stores.record import RECORD_NAME

RECORDS = np.dtype([("a", "<i4"), ("b", ">f8")])


@atdata.packable
class Mixed:
    """A field of every kind, some of them large in some samples."""

    picture: NDArray[np.uint8]
    number: int
    ragged: NDArray[np.float32]
    text: str
    long: str
    when: datetime
    choice: Literal["a", "b"]
    color: Color
    point: Point
    items: list[int]
    anything: Any
    blob: bytes
    image: atdata.Image
    ratio: float
    flag: bool
    maybe: NDArray[np.int16] | None = None
    structured: NDArray[Any] | None = None
    note: str | None = None


FIELDS = list(Mixed.__annotations__)


def mixed(i: int, large: bool) -> Mixed:
    rng = np.random.default_rng(i)
    return Mixed(
        picture=rng.integers(0, 256, (50_000 if large else 20) + i, np.uint8),
        number=2**63 + i if i % 5 == 0 else -i,
        ragged=np.full((i % 3, 2), i, ">f4" if i % 2 else "<f4"),
        text=f"text {i}",
        long=f"long {i} " * 300,
        when=datetime(2026, 1, 1, i % 24, tzinfo=UTC if i % 2 else timezone(timedelta(hours=3))),
        choice="a" if i % 2 else "b",
        color=Color.RED if i % 2 else Color.BLUE,
        point=Point(i, i / 2),
        items=list(range(i % 7)),
        anything={"x": [1, None, f"{i}"], "y": np.arange(i % 4)},
        blob=bytes([i % 256]) * (40_000 if i % 4 == 0 and large else i % 3),
        image=atdata.Image(b"\x89PNG" + bytes([i % 256])),
        ratio=float("nan") if i % 6 == 0 else i / 3,
        flag=i % 2 == 0,
        maybe=None if i % 3 == 0 else np.full((2, i % 4), i, np.int16),
        structured=None if i % 4 == 1 else np.zeros(i % 3, RECORDS) if i % 4 else np.arange(i % 5),
        note=None if i % 3 else f"note {i}",
    )


SAMPLES = [mixed(i, i % 3 != 2) for i in range(24)]


def _without_columns(data: bytes) -> bytes:
    """A manifest as it was made before fields had digests of their own."""
    manifest = read_manifest(data)
    assert manifest is not None
    own = [n for n in manifest.table.column_names if n.startswith(("__sha256__", "__size__")) and not n.endswith("__")]
    own += [f"__offset__{name}" for name in manifest.packed_fields]
    return to_parquet(Manifest(manifest.table.drop_columns(own), {**manifest.meta, "packed": []}))


def _foreign(samples: list[Mixed]) -> bytes:
    """A tar of samples whose fields come in another order, as another program might write it."""
    parts: list[bytes] = []
    for i, sample in enumerate(samples):
        fields = msgpack.unpackb(atdata.pack(sample))
        payload = msgpack.packb(dict(reversed(fields.items())))
        parts += [tar.header(f"foreign{i}.msgpack", len(payload)), payload, tar.padding(len(payload))]
    size = sum(map(len, parts))
    return b"".join([*parts, tar.end_of_archive(size)])


@pytest.fixture(scope="module")
def shards() -> tuple[MemoryDataStore, dict[str, tuple[str, list[Mixed]]]]:
    """Shards of six samples of every kind, on a store that is not the disk; none is in a record."""
    store = MemoryDataStore("field-values")
    found: dict[str, tuple[str, list[Mixed]]] = {}
    kinds = ("new", "old", "bare", "compressed")
    for at, kind in enumerate(kinds):
        some = SAMPLES[6 * at : 6 * at + 6]
        options = {"manifest": kind in ("new", "old")}
        (url,) = store.write_shards(atdata.Dataset.from_samples(some, Mixed), prefix=kind, **options)
        beside = store.key(manifest_name(url) or "")
        if kind == "old":
            store.put(beside, _without_columns(store.get(beside) or b""))
        if kind == "compressed":
            data = gzip.compress(store.get(store.key(url)) or b"")
            store.put("compressed/shard.tar.gz", data)
            url = store.base + "compressed/shard.tar.gz"
        store.remove([f"{kind}/{RECORD_NAME}"])
        found[kind] = (url, some)
    store.put("foreign/x.tar", _foreign(SAMPLES[3:9]))
    found["foreign"] = (store.base + "foreign/x.tar", SAMPLES[3:9])
    return store, found


def _values(samples: list[Any], fields: list[str]) -> list[list[Any]]:
    return [[getattr(sample, name) for name in fields] for sample in samples]


def _same(found: list[list[Any]], expected: list[list[Any]]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert type(one) is type(other)
            if isinstance(one, np.ndarray):
                assert (one.dtype, one.shape) == (other.dtype, other.shape)
                assert one.tobytes() == other.tobytes()
            else:
                assert equal_values(one, other)


KINDS = ["new", "old", "bare", "compressed", "foreign"]


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    st.lists(st.sampled_from(FIELDS), min_size=1, max_size=5, unique=True),
    st.integers(1, 9),
    st.sampled_from(["first", "always", "never"]),
)
def test_any_fields_of_any_shards(
    shards: tuple[MemoryDataStore, dict[str, tuple[str, list[Mixed]]]],
    kinds: list[str],
    fields: list[str],
    size: int,
    verify: Any,
) -> None:
    store, there = shards
    urls = [there[kind][0] for kind in kinds]
    whole = [sample for kind in kinds for sample in there[kind][1]]
    expected = _values(whole, fields)
    ds = atdata.Dataset[Mixed](urls, store=store, verify=verify)
    some = ds.select_fields(*fields)
    _same(_values(list(some), fields), expected)
    _same(_values([some[i] for i in range(0, len(whole), 3)], fields), expected[::3])
    picked = [5, 0, len(whole) - 1, 2, 2]
    _same(_values(some[picked], fields), [expected[i] for i in picked])
    for dataset in (some, ds):
        by_columns = [list(zip(*(batch[name] for name in fields), strict=True)) for batch in dataset.ordered(size)]
        _same([list(row) for rows in by_columns for row in rows], expected)
    if ds.seekable:
        loader = ds.shuffled(size, seed=3, block=2, window=2)
        order = [n for batch in ds.select_fields("long").shuffled(size, seed=3, block=2, window=2) for n in batch.long]
        by_columns = [list(zip(*(batch[name] for name in fields), strict=True)) for batch in loader]
        where = [next(i for i, s in enumerate(whole) if s.long == long) for long in order]
        _same([list(row) for rows in by_columns for row in rows], [expected[i] for i in where])


def test_columns_come_as_of_samples_in_memory(
    shards: tuple[MemoryDataStore, dict[str, tuple[str, list[Mixed]]]],
) -> None:
    """Arrays stacked where they are alike, lists else; whichever was asked for first."""
    store, there = shards
    url, samples = there["new"]
    expected = atdata.SampleBatch(samples, Mixed)
    for order in (FIELDS, FIELDS[::-1]):
        (batch,) = atdata.Dataset[Mixed](url, store=store).ordered(batch_size=6)
        for name in order:
            assert type(batch[name]) is type(expected[name]), name
            assert batch[name] is batch[name]
            _same([[value] for value in batch[name]], [[value] for value in expected[name]])
        for one, other in zip(batch.samples, samples, strict=True):
            assert atdata.pack(one) == atdata.pack(other)


@atdata.packable
class Narrower:
    """A class that lacks fields of the data."""

    number: int
    picture: NDArray[np.uint8]


@atdata.packable
class Other:
    """A class that has other types."""

    number: str
    ragged: NDArray[np.int8]
    text: datetime
    blob: int
    picture: NDArray[np.uint8]


def _raises(use: Callable[[], object]) -> str:
    with pytest.raises(AtdataError) as caught:
        use()
    return str(caught.value)


def test_what_whole_samples_refuse_is_refused(
    shards: tuple[MemoryDataStore, dict[str, tuple[str, list[Mixed]]]],
) -> None:
    store, there = shards
    url, samples = there["new"]
    ds = atdata.Dataset[Narrower](url, store=store)
    for use in (
        lambda: list(ds),
        lambda: [b.number for b in ds.ordered(3)],
        lambda: [b.picture for b in ds.ordered(3)],
    ):
        assert "is not a field of the sample type" in _raises(use)
    # Chosen fields alone are what does without the others.
    assert [s.number for s in ds.select_fields("number")] == [s.number for s in samples]
    other = atdata.Dataset[Other](url, store=store)
    for name in ("number", "ragged", "text", "blob"):
        with pytest.raises(SampleDecodeError) as caught:
            list(other.select_fields(name))
        assert caught.value.field == f"Other.{name}"
        assert caught.value.url == url
        assert caught.value.key == "000000000"
    np.testing.assert_array_equal(other.select_fields("picture")[1].picture, samples[1].picture)
    with pytest.raises(SchemaError):
        other.select_fields("nothing")
    (batch,) = atdata.Dataset[Mixed](url, store=store).ordered(6)
    with pytest.raises(KeyError, match="has no field 'nothing'"):
        batch["nothing"]
    with pytest.raises(AttributeError, match="has no field 'nothing'"):
        batch.nothing  # noqa: B018


@atdata.packable
class Newer:
    """A class with a field that the data does not have yet."""

    number: int
    long: str
    added: int = 7


def test_a_field_that_is_not_there_has_its_default(
    shards: tuple[MemoryDataStore, dict[str, tuple[str, list[Mixed]]]],
) -> None:
    store, there = shards
    url, samples = there["new"]
    ds = atdata.Dataset[Newer](url, store=store)
    found = list(ds.select_fields("added", "long"))
    assert [(s.added, s.long) for s in found] == [(7, s.long) for s in samples]


def test_batches_survive_their_loader(shards: tuple[MemoryDataStore, dict[str, tuple[str, list[Mixed]]]]) -> None:
    store, there = shards
    url, samples = there["new"]
    with atdata.Dataset[Mixed](url, store=store).ordered(batch_size=2) as loader:
        kept = list(itertools.islice(loader, 2))
    assert [list(batch.items) for batch in kept] == [[s.items for s in samples[:2]], [s.items for s in samples[2:4]]]
