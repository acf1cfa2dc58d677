"""`Dataset.where`: a dataset like any other, of exactly the samples that match, whatever is known of the shards."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_samples import Digit, Halved, Shelf, is_even
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from query_samples import LONG, Question, Row, questions, row, rows

import atdata
from atdata.datasets.query import Fields
from atdata.errors import (
    AtdataError,
    IntegrityError,
    QueryError,
    SampleDecodeError,
    SampleKeyError,
    SchemaError,
    StateError,
)
from atdata.stores.base import WrittenShards

F = Fields(Digit)
R = Fields(Row)
LABELS = ["owl", "bat", "cat", "dog"]


@atdata.packable
class Photo:
    pixels: NDArray[np.uint8]
    hour: int
    label: str
    story: str = ""


def photo(i: int) -> Photo:
    return Photo(np.full(3, i, np.uint8), i % 24, LABELS[i % 4], "once " * (100 + i % 7))


PHOTOS = [photo(i) for i in range(100)]
NIGHT = [p for p in PHOTOS if p.hour >= 22 and p.label in ("owl", "dog")]


@pytest.fixture
def photos(store: atdata.LocalDiskStore) -> WrittenShards:
    """100 photos in shards of 12."""
    return store.write_shards(atdata.Dataset.from_samples(PHOTOS, Photo), prefix="photos", maxcount=12)


# -- the user's program ----------------------------------------------------------------------------------------------


def test_a_query_gives_a_dataset(photos: WrittenShards) -> None:
    ds = atdata.Dataset[Photo](photos)
    P = atdata.fields(ds)
    night = ds.where((P.hour >= 22) & P.label.isin(["owl", "dog"]))
    assert isinstance(night, atdata.Dataset)
    assert night.sample_type is Photo
    assert len(night) == len(NIGHT) == 4
    assert list(night) == NIGHT
    assert [night[i] for i in range(4)] == NIGHT
    assert night[-1] == NIGHT[-1]
    assert night[1:3] == NIGHT[1:3]
    assert night.head(2) == NIGHT[:2]
    assert [list(b) for b in night.ordered(batch_size=3)] == [NIGHT[:3], NIGHT[3:]]
    assert night.to_arrow()["hour"].to_pylist() == [p.hour for p in NIGHT]
    assert sorted(p.pixels[0] for p in night.shuffled(seed=1)) == [p.pixels[0] for p in NIGHT]
    keys = [key for key, _ in night.keyed()]
    assert keys == [f"{PHOTOS.index(p):09d}" for p in NIGHT]
    assert night.get(keys[2]) == NIGHT[2]
    with pytest.raises(SampleKeyError):
        night.get("000000000")
    assert [b.label for b in night.select_fields("label").ordered(batch_size=4)] == [[p.label for p in NIGHT]]
    again = pickle.loads(pickle.dumps(night))
    assert (len(again), list(again)) == (4, NIGHT)


# -- exactly the samples that match, however they lie ----------------------------------------------------------------

Source = tuple[str, Any, type]


@contextlib.contextmanager
def sources(samples: list[Row], maxcount: int) -> Iterator[dict[str, atdata.Dataset[Any]]]:
    """The same samples in every form that a dataset can have."""
    with tempfile.TemporaryDirectory() as root:
        store = atdata.LocalDiskStore(root)
        memory = atdata.Dataset.from_samples(samples, Row)
        quick = store.write_shards(memory, prefix="quick", maxcount=maxcount)
        plain = store.write_shards(memory, prefix="plain", maxcount=maxcount, manifest=False)
        for url in quick:  # the shards and their manifests, without the record that speaks of them
            shutil.copytree(
                Path(url).parent, Path(root) / "foreign", ignore=shutil.ignore_patterns("*.json"), dirs_exist_ok=True
            )
        foreign = sorted((Path(root) / "foreign").glob("*.tar"))
        yield {
            "memory": memory,
            "quick": atdata.Dataset(quick, sample_type=Row),
            "without a class": atdata.Dataset(quick),
            "plain": atdata.Dataset(plain, sample_type=Row),
            "mixed": atdata.Dataset([(quick, plain)[i % 2][i] for i in range(len(quick))], sample_type=Row),
            "foreign": atdata.Dataset([str(path) for path in foreign], sample_type=Row),
            "stream": atdata.Dataset(Shelf({url: Path(url).read_bytes() for url in quick}), sample_type=Row),
        }


@given(st.lists(rows(), min_size=1, max_size=9), st.integers(1, 4), st.lists(questions(), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_form_of_a_dataset_gives_the_same_samples(
    samples: list[Row], maxcount: int, several: list[Question]
) -> None:
    with sources(samples, maxcount) as forms:
        for asked in several:
            expected = [i for i, sample in enumerate(samples) if asked.truth(sample) is True]
            for name, ds in forms.items():
                found = ds.where(asked.predicate)
                keys = [None if key is None else int(key) for key, _ in found.keyed()]
                if name == "memory":
                    assert len(keys) == len(expected), asked.predicate
                else:
                    assert keys == expected, (name, asked.predicate)
                if name != "stream":
                    assert len(found) == len(expected), (name, asked.predicate)
                assert [b.whole for b in found.ordered(batch_size=2)] == [
                    [samples[i].whole for i in expected[at : at + 2]] for at in range(0, len(expected), 2)
                ], (name, asked.predicate)


def test_samples_without_a_class(store: atdata.LocalDiskStore) -> None:
    samples = [atdata.DictSample(n=i, name=LABELS[i % 4], score=i / 2) for i in range(30)]
    urls = store.write_shards(atdata.Dataset.from_samples(samples, atdata.DictSample), prefix="dicts", maxcount=7)
    ds = atdata.Dataset(urls, sample_type=atdata.DictSample)
    D = atdata.fields(ds)
    assert [s.n for s in ds.where((D.score > 10) & (D.name == "owl"))] == [24, 28]
    assert len(ds.where(D.name.startswith("b"))) == 8
    with pytest.raises(QueryError, match=r"the sample has no field 'nam' \(did you mean 'name'\?\)") as caught:
        list(ds.where(D.nam == "owl"))
    assert caught.value.key == "000000000"
    with pytest.raises(QueryError, match="the value is a number, and cannot be compared with a text"):
        len(ds.where(D.n == "3"))


def test_samples_of_several_members(tmp_path: Path) -> None:
    import webdataset

    with webdataset.TarWriter(str(tmp_path / "wds.tar")) as writer:
        for i in range(20):
            writer.write({"__key__": f"k{i}", "txt": LABELS[i % 4], "cls": i, "json": {"a": i}})
    ds = atdata.Dataset(str(tmp_path / "wds.tar"))
    D = atdata.fields(ds)
    found = ds.where((D.txt == "cat") & (D.cls > 5))
    assert [key for key, _ in found.keyed()] == ["k6", "k10", "k14", "k18"]


# -- steps are done in the order they are written ----------------------------------------------------------------------


def later(p: Photo) -> Photo:
    return Photo(p.pixels, (p.hour + 12) % 24, p.label, p.story)


def even(p: Photo) -> bool:
    return bool(p.pixels[0] % 2 == 0)


P = Fields(Photo)
LONG_STORY = P.story.contains("once " * 104)  # which no manifest has
STEPS: dict[str, tuple[Callable[[Any], Any], Callable[[list[Photo]], list[Photo]]]] = {
    "where": (lambda ds: ds.where(P.hour >= 6), lambda xs: [x for x in xs if x.hour >= 6]),
    "where label": (lambda ds: ds.where(P.label != "owl"), lambda xs: [x for x in xs if x.label != "owl"]),
    "where story": (lambda ds: ds.where(LONG_STORY), lambda xs: [x for x in xs if len(x.story) >= 520]),
    "take": (lambda ds: ds.take(50), lambda xs: xs[:50]),
    "take 7": (lambda ds: ds.take(7), lambda xs: xs[:7]),
    "map": (lambda ds: ds.map(later), lambda xs: [later(x) for x in xs]),
    "filter": (lambda ds: ds.filter(even), lambda xs: [x for x in xs if even(x)]),
}  # fmt: skip


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=5), st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_steps_in_any_order(names: list[str], manifest: bool) -> None:
    expected = PHOTOS
    for name in names:
        expected = STEPS[name][1](expected)
    for ds in _written_photos(manifest), atdata.Dataset.from_samples(PHOTOS, Photo):
        for name in names:
            ds = STEPS[name][0](ds)
        assert list(ds) == expected, names
        assert [x for batch in ds.ordered(batch_size=8) for x in batch] == expected, names
        assert [len(batch) for batch in ds.ordered(batch_size=8)][:-1] == [8] * (-(-len(expected) // 8) - 1)


_FOLDER = tempfile.TemporaryDirectory()


def _written_photos(manifest: bool) -> atdata.Dataset[Photo]:
    folder = Path(_FOLDER.name) / str(manifest)
    if not folder.exists():
        memory = atdata.Dataset.from_samples(PHOTOS, Photo)
        atdata.LocalDiskStore(_FOLDER.name).write_shards(memory, prefix=str(manifest), maxcount=12, manifest=manifest)
    return atdata.Dataset[Photo](str(folder))


@pytest.fixture(scope="module", autouse=True)
def _cleanup() -> Iterator[None]:
    yield
    _FOLDER.cleanup()


def test_after_a_map_the_new_type_is_asked(photos: WrittenShards) -> None:
    ds = atdata.Dataset[Photo](photos).map(lambda p: Digit(p.pixels, p.hour * 100), Digit)
    assert [d.label for d in ds.where(F.label >= 2200)] == [2200, 2300] * 4
    with pytest.raises(SchemaError, match="Digit has no field 'hour'"):
        ds.where(P.hour >= 22)
    fewer = atdata.Dataset[Photo](photos).select_fields("label", "hour")
    assert len(fewer.where(P.hour >= 22)) == 8
    assert len(fewer.where(P.hour >= 22).select_fields("label").where(P.label == "cat")) == 4
    labels = atdata.Dataset[Photo](photos).where(P.hour >= 22).select_fields("label")
    expected = [p.label for p in PHOTOS if p.hour >= 22]
    for found in (
        list(labels), [labels[i] for i in range(8)], labels[:], labels[list(range(8))], [s for _, s in labels.keyed()],
        [s for batch in labels.ordered(batch_size=3) for s in batch], [labels.get(key) for key, _ in labels.keyed()],
    ):  # fmt: skip
        assert [s.label for s in found] == expected
        assert not any(hasattr(s, "hour") or hasattr(s, "pixels") for s in found)
    with pytest.raises(SchemaError, match="has no field 'story'"):
        fewer.where(P.story == "")


def test_queries_are_shuffled_and_resumed_exactly(photos: WrittenShards) -> None:
    for query in (P.hour >= 12, LONG_STORY & (P.label != "owl")):
        found = atdata.Dataset[Photo](photos).where(query)
        loader = found.shuffled(batch_size=8, seed=3)
        every = [batch.samples for batch in loader]
        assert sorted(p.pixels[0] for batch in every for p in batch) == [p.pixels[0] for p in found]
        for done in range(len(every)):
            loader = found.shuffled(batch_size=8, seed=3)
            batches = iter(loader)
            for _ in range(done):
                next(batches)
            resumed = pickle.loads(pickle.dumps(found)).shuffled(batch_size=8, seed=3)
            resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
            assert [batch.samples for batch in resumed] == every[done:]
            loader.close()
        shares = [found.shuffled(batch_size=4, seed=3, rank=rank, world_size=3) for rank in range(3)]
        assert sorted(p.pixels[0] for share in shares for batch in share for p in batch) == [p.pixels[0] for p in found]
        with pytest.raises(StateError, match="of other steps"):
            atdata.Dataset[Photo](photos).where(P.hour >= 13).shuffled(batch_size=8, seed=3).load_state_dict(
                loader.state_dict()
            )


# -- nothing matches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("text", ["nobody", "once upon"])
def test_an_empty_query_is_empty_everywhere(store: atdata.LocalDiskStore, manifest: bool, text: str) -> None:
    memory = atdata.Dataset.from_samples(PHOTOS, Photo)
    ds = atdata.Dataset[Photo](store.write_shards(memory, prefix="p", maxcount=12, manifest=manifest))
    for nothing in (
        ds.where(P.label == text),
        ds.where(P.story == text),
        ds.where(P.label.isin([])),
        ds.where(P.hour > 23),
    ):
        assert len(nothing) == 0
        assert list(nothing) == list(nothing.ordered()) == list(nothing.shuffled(seed=0)) == []
        assert list(nothing.ordered(batch_size=4)) == list(nothing.shuffled(batch_size=4, seed=0)) == []
        assert len(nothing.ordered(batch_size=4)) == len(nothing.shuffled(batch_size=4, seed=0)) == 0
        assert nothing[:] == nothing.head() == []
        assert nothing.to_arrow().num_rows == 0
        assert list(nothing.map(later).filter(even).take(3)) == []
        assert len(nothing.where(P.hour == 1)) == 0
        with pytest.raises(AtdataError):
            nothing[0]
        with pytest.raises(SampleKeyError):
            nothing.get("000000000")


# -- only what has to be read ------------------------------------------------------------------------------------------


def _spoil(path: Path) -> None:
    path.write_bytes(b"not what it was")


def test_shards_that_cannot_match_are_not_opened(store: atdata.LocalDiskStore) -> None:
    samples = [Photo(np.zeros(2, np.uint8), i // 10, LABELS[i % 4]) for i in range(60)]
    urls = store.write_shards(atdata.Dataset.from_samples(samples, Photo), prefix="sorted", maxcount=10)
    for url in (urls[0], urls[1], urls[5]):
        _spoil(Path(url.removesuffix(".tar") + ".manifest.parquet"))
        _spoil(Path(url))
    ds = atdata.Dataset[Photo](urls)
    found = ds.where(P.hour.between(2, 4) & (P.label == "owl"))
    assert len(found) == 8
    assert [p.hour for p in found] == [p.hour for p in samples if p.hour in (2, 3, 4) and p.label == "owl"]
    with pytest.raises(AtdataError):
        len(ds.where(P.label == "owl"))


def test_a_question_about_columns_opens_no_shard(photos: WrittenShards) -> None:
    for url in photos:
        data = bytearray(Path(url).read_bytes())
        data[600:] = bytes(len(data) - 600)
        Path(url).write_bytes(data)
    ds = atdata.Dataset[Photo](photos)
    assert len(ds.where((P.hour >= 22) & P.label.isin(["owl", "dog"]))) == 4
    with pytest.raises(IntegrityError):
        list(ds.where(P.hour >= 22))


def test_only_what_the_manifests_leave_open_is_decoded(store: atdata.LocalDiskStore) -> None:
    """Samples that a column rules out are not decoded: those of hour 3 here are damaged, and nobody notices."""
    urls = store.write_shards(atdata.Dataset.from_samples(PHOTOS, Photo), prefix="p")
    data = bytearray(Path(urls[0]).read_bytes())
    for i, p in enumerate(PHOTOS):
        at = data.index(f"{i:09d}.msgpack".encode()) + 512
        if p.hour == 3:
            data[at : at + 4] = b"\xc1\xc1\xc1\xc1"
    Path(urls[0]).write_bytes(data)
    ds = atdata.Dataset[Photo](list(urls), verify="never")
    long = P.story.contains("once " * 104)
    assert [p.hour for p in ds.where((P.hour == 22) & long)] == [
        p.hour for p in PHOTOS if p.hour == 22 and len(p.story) >= 520
    ]
    with pytest.raises(SampleDecodeError):
        len(ds.where((P.hour == 3) & LONG_STORY))


def test_fields_that_are_left_out_after_a_query_are_not_decoded(photos: WrittenShards) -> None:
    """The labels of a batch come out of the manifests: that the samples here make no sense, nobody notices."""
    for url in photos:
        Path(url).write_bytes(Path(url).read_bytes().replace(b"once", b"\xc1\xc1\xc1\xc1"))
    night = atdata.Dataset[Photo](list(photos), verify="never").where((P.hour >= 22) & P.label.isin(["owl", "dog"]))
    assert [b.label for b in night.select_fields("label", "hour").ordered(batch_size=9)] == [[p.label for p in NIGHT]]
    assert [sorted(b.hour) for b in night.shuffled(batch_size=9, seed=0)] == [sorted(p.hour for p in NIGHT)]
    with pytest.raises(SampleDecodeError):
        list(night)


def test_samples_that_are_read_to_be_asked_are_verified(photos: WrittenShards) -> None:
    data = bytearray(Path(photos[2]).read_bytes())
    at = data.index(b"once once")
    data[at] ^= 1
    Path(photos[2]).write_bytes(data)
    with pytest.raises(IntegrityError, match="SHA-256"):
        len(atdata.Dataset[Photo](photos).where(P.story.contains("Once")))


def test_shards_with_dots_in_their_names(photos: WrittenShards, tmp_path: Path) -> None:
    for number, url in enumerate(photos):
        for end in (".tar", ".manifest.parquet"):
            shutil.copy(url.removesuffix(".tar") + end, tmp_path / f"photos.v1.{number}{end}")
    ds = atdata.Dataset[Photo](str(tmp_path / "photos.v1.{0..8}.tar"))
    found = ds.where(P.hour >= 22)
    assert list(found) == [p for p in PHOTOS if p.hour >= 22]


@pytest.mark.parametrize("count", [1, 11, 12, 13, 24, 35])
def test_the_last_shard_counts(store: atdata.LocalDiskStore, count: int) -> None:
    urls = store.write_shards(atdata.Dataset.from_samples(PHOTOS[:count], Photo), prefix="p", maxcount=12)
    ds = atdata.Dataset[Photo](urls)
    assert len(ds.where(P.hour >= 0)) == count
    assert len(ds.where(P.hour < 12)) + len(ds.where(~(P.hour < 12))) == count


# -- classes that see something else than what is stored ---------------------------------------------------------------


@atdata.packable
class Loose:
    """Photos, read as other types than they were written."""

    pixels: NDArray[np.uint8]
    hour: float
    label: Any
    story: str | None = None


@atdata.packable
class Narrow:
    hour: int


def test_what_is_read_is_what_is_asked(photos: WrittenShards, store: atdata.LocalDiskStore) -> None:
    L = Fields(Loose)
    loose = atdata.Dataset[Loose](photos)
    assert [p.hour for p in loose.where((L.hour > 21.5) & (L.label == "owl"))] == [
        float(p.hour) for p in PHOTOS if p.hour > 21.5 and p.label == "owl"
    ]
    halved = store.write_shards(atdata.Dataset.from_samples([Halved(n) for n in range(-9, 10)], Halved), prefix="h")
    H = Fields(Halved)
    ds = atdata.Dataset[Halved](halved)
    assert [h.number for h in ds.where(H.number < -7)] == [h.number for h in ds if h.number < -7]
    assert len(ds.where(H.number > 0)) == 0  # as nobody ever sees a positive one
    with pytest.raises(SampleDecodeError, match="is not a field"):
        len(atdata.Dataset[Narrow](photos).where(Fields(Narrow).hour == 3))


def _rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """A manifest whose columns are not what they were, and which says that it is one all the same."""
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def test_columns_of_another_type_are_not_believed(store: atdata.LocalDiskStore, tmp_path: Path) -> None:
    samples = [photo(i) for i in range(40)]
    urls = store.write_shards(atdata.Dataset.from_samples(samples, Photo), prefix="p", maxcount=10)
    folder = tmp_path / "bare"  # without a commit record, which would tell that a manifest was changed
    shutil.copytree(Path(urls[0]).parent, folder, ignore=shutil.ignore_patterns("*.json"))
    manifests = sorted(folder.glob("*.manifest.parquet"))
    hours = [pa.array(["22"] * 10), pa.array([22.0] * 10), pa.array([None] * 10, pa.int64()), pa.array([[1]] * 10)]

    def other(number: int) -> Callable[[pa.Table], pa.Table]:
        return lambda table: table.set_column(table.column_names.index("hour"), "hour", hours[number])

    _rewritten(manifests[0], other(0))
    _rewritten(manifests[1], other(1))
    _rewritten(manifests[2], lambda t: t.drop_columns(["hour", "label"]))
    _rewritten(
        manifests[3], lambda t: t.set_column(t.column_names.index("hour"), "hour", pa.array([None] * 10, pa.int64()))
    )
    ds = atdata.Dataset[Photo](str(folder / "*.tar"))
    for predicate, holds in [
        (P.hour >= 22, lambda p: p.hour >= 22),
        ((P.hour < 5) & (P.label == "owl"), lambda p: p.hour < 5 and p.label == "owl"),
        (P.hour.is_null() | (P.label == "bat"), lambda p: p.label == "bat"),
    ]:
        assert list(ds.where(predicate)) == [p for p in samples if holds(p)]
    _rewritten(manifests[1], other(3))
    with pytest.raises(AtdataError, match="manifest"):
        len(atdata.Dataset[Photo](str(folder / "*.tar")).where(P.hour >= 22))


def test_another_manifest_is_not_believed(photos: WrittenShards) -> None:
    shutil.copy(photos[1].replace(".tar", ".manifest.parquet"), photos[0].replace(".tar", ".manifest.parquet"))
    with pytest.raises(IntegrityError, match="the manifest is not the one that was written"):
        len(atdata.Dataset[Photo](photos).where(P.label == "owl"))


def test_times_that_cannot_be_compared(store: atdata.LocalDiskStore) -> None:
    samples = [row(clock=datetime(2026, 1, 1 + i), long=LONG[i % 2]) for i in range(20)]
    urls = store.write_shards(atdata.Dataset.from_samples(samples, Row), prefix="r", maxcount=10)
    ds = atdata.Dataset[Row](urls)
    assert len(ds.where(R.clock >= datetime(2026, 1, 11))) == 10
    with pytest.raises(QueryError, match="clock: the value is a time without a zone") as caught:
        len(ds.where(R.clock >= datetime(2026, 1, 11, tzinfo=UTC)))
    assert caught.value.url == urls[0]


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_what_where_takes(photos: WrittenShards) -> None:
    ds = atdata.Dataset[Photo](photos)
    with pytest.raises(TypeError, match="a function goes to"):
        ds.where(is_even)
    with pytest.raises(TypeError, match="comparisons need brackets"):
        ds.where(True)
    with pytest.raises(SchemaError, match="Photo has no field 'number'"):
        ds.where(Fields(Halved).number > 1)
    with pytest.raises(QueryError, match=r"Photo.label: str cannot be compared with int"):
        ds.where(F.label == 3)
    with pytest.raises(QueryError, match=r"Photo.hour: int is not yes or no"):
        ds.where(P.hour)
    flags = atdata.Dataset.from_samples([row(flag=True), row(flag=False)], Row)
    assert len(list(flags.where(R.flag))) == 1


# -- what is said about it ---------------------------------------------------------------------------------------------


def test_describe_says_what_a_query_will_take(store: atdata.LocalDiskStore, photos: WrittenShards) -> None:
    ds = atdata.Dataset[Photo](photos)
    assert ds.describe()["queries"] == []
    samples = [Photo(np.zeros(2, np.uint8), i // 10, LABELS[i % 4], "x" * 300) for i in range(60)]
    urls = store.write_shards(atdata.Dataset.from_samples(samples, Photo), prefix="sorted", maxcount=10)
    found = atdata.Dataset[Photo](urls).where(P.hour > 3).where((P.hour == 5) | P.story.contains("x")).describe()
    assert found["steps"] == ["where", "where"]
    assert found["queries"] == [
        {"predicate": "F.hour > 3", "shards": 6, "pruned": 4, "scanned": []},
        {"predicate": "(F.hour == 5) | F.story.contains('x')", "shards": 6, "pruned": 0, "scanned": ["story"]},
    ]
    json.dumps(found)
    bare = store.write_shards(atdata.Dataset.from_samples(samples, Photo), prefix="bare", manifest=False)
    assert atdata.Dataset[Photo](bare).where(P.hour > 3).describe()["queries"] == [
        {"predicate": "F.hour > 3", "shards": 1, "pruned": 0, "scanned": ["hour"]}
    ]


def test_a_query_imports_no_pandas(photos: WrittenShards) -> None:
    program = (
        "import sys, atdata; ds = atdata.Dataset(sys.argv[1]); F = atdata.fields(ds)\n"
        "night = ds.where((F.hour >= 22) & F.label.isin(['owl', 'dog']) & ~F.story.contains('x'))\n"
        "print(len(night), len(ds.where(F.hour.between(3, 4.5))), 'pandas' in sys.modules)"
    )
    folder = str(Path(photos[0]).parent)
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "9", "False"]
