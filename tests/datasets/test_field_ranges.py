"""Single fields of shards on a real S3 server: fetched by ranges of their own, checked, and as of whole samples."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import IntegrityError
from atdata.stores.base import WrittenShards
from atdata.stores.s3 import S3DataStore
from atdata.testing import FaultProxy
from servers.rgw import S3Server

SIDE = 60  # pictures of 60 x 60 x 20 = 72,000 bytes
COUNT = 20


@atdata.packable
class Photo:
    """What one has: a picture, what was made of it, and what is known of it."""

    image: NDArray[np.uint8]
    label: int
    embedding: NDArray[np.float32]
    caption: str
    tags: list[str]
    mask: NDArray[np.uint8] | None = None


def photo(i: int) -> Photo:
    image = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 20), np.uint8)
    mask = None if i % 3 == 0 else np.full((50, 40 + i), i, np.uint8)
    return Photo(image, i, np.full(16, i, np.float32), f"picture {i}, " + "and so on " * 40, [f"t{i}"] * (i % 3), mask)


PHOTOS = [photo(i) for i in range(COUNT)]
IMAGES = sum(p.image.nbytes for p in PHOTOS)


@pytest.fixture(scope="module")
def place(rgw: S3Server) -> Iterator[str]:
    name = rgw.make_bucket()
    yield name
    rgw.remove_bucket(name)


@pytest.fixture(scope="module")
def written(rgw: S3Server, place: str) -> WrittenShards:
    """Two shards of twelve and eight photos."""
    store = S3DataStore(rgw.credentials, bucket=place)
    return store.write_shards(atdata.Dataset.from_samples(PHOTOS, Photo), prefix="photos", maxcount=12)


@pytest.fixture
def store(rgw: S3Server, place: str, written: WrittenShards, fault_proxy: FaultProxy) -> S3DataStore:
    return S3DataStore(rgw.through(fault_proxy).credentials, bucket=place)


@pytest.fixture
def ds(store: S3DataStore, fault_proxy: FaultProxy) -> atdata.Dataset[Photo]:
    """The photos, their manifests read, nothing asked of the server yet."""
    found = atdata.Dataset[Photo](f"{store.base}photos", store=store)
    for number in range(2):
        found._shards().current(number)
    fault_proxy.forget()
    return found


def asked(proxy: FaultProxy) -> list[int]:
    """Bytes of each answer since the last time, all of them parts of shards."""
    requests = proxy.requests()
    proxy.forget()
    assert all(request.path.endswith(".tar") and request.range for request in requests)
    return [request.sent for request in requests]


# -- what is fetched -------------------------------------------------------------------------------------------------


def test_the_image_bytes_are_never_read(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy) -> None:
    """Not one of them, by whichever way the other fields are asked for."""
    inside = []
    for number in range(2):
        own = ds._shards().shard(number).manifest.ranges("image")  # type: ignore[union-attr]
        name = f"shard-{number:06d}.tar"
        inside += [(name, begin, begin + size) for begin, size in zip(own.offsets, own.sizes, strict=True)]  # type: ignore[union-attr]
    two = ds.select_fields("label", "embedding")
    ways: list[Callable[[], object]] = [
        lambda: [batch.embedding for batch in two.ordered(batch_size=8)],
        lambda: [batch.embedding for batch in two.shuffled(batch_size=8, block=1)],
        lambda: list(two),
        lambda: two[3:9],
        lambda: two[-1],
        lambda: two.get("000000013"),
        lambda: [(batch.embedding, batch.tags) for batch in ds.ordered(batch_size=8)],
        lambda: [batch.caption for batch in ds.shuffled(batch_size=8)],
    ]
    for way in ways:
        fault_proxy.forget()
        way()
        assert fault_proxy.requests()
        for request in fault_proxy.requests():
            start, _, stop = request.range.removeprefix("bytes=").partition("-")
            for name, begin, end in inside:
                met = request.path.endswith(name) and int(start) < end and int(stop) >= begin
                assert not met, f"{request.path} {request.range}"


def test_one_range_for_each_sample_and_field(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy) -> None:
    found = [sample.embedding for sample in ds.select_fields("embedding")]
    np.testing.assert_array_equal(found, [p.embedding for p in PHOTOS])
    assert asked(fault_proxy) == [64] * COUNT
    # Embedding, caption and tags lie side by side, and come by one request.
    for sample, expected in zip(ds.select_fields("caption", "embedding"), PHOTOS, strict=True):
        assert (sample.caption, sample.embedding.tolist()) == (expected.caption, expected.embedding.tolist())
    sizes = asked(fault_proxy)
    assert len(sizes) == COUNT
    assert all(64 + 413 < size < 500 for size in sizes)
    assert ds.select_fields("mask")[1].mask is not None
    assert asked(fault_proxy) == [50 * 41]


def test_what_stands_in_the_manifest_takes_no_request(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy) -> None:
    labels = list(range(COUNT))
    assert [sample.label for sample in ds.select_fields("label")] == labels
    assert [label for batch in ds.ordered(batch_size=6) for label in batch.label] == labels
    assert sorted(label for batch in ds.shuffled(batch_size=6) for label in batch.label) == labels
    assert ds.select_fields("label")[7].label == 7
    assert ds.select_fields("mask")[3].mask is None
    assert asked(fault_proxy) == []


def test_batches_fetch_the_columns_that_are_asked_for(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy) -> None:
    for make in (lambda: ds.ordered(batch_size=5), lambda: ds.shuffled(batch_size=5, block=2, window=2)):
        found = [(batch.label, batch.embedding) for batch in make()]
        for labels, embeddings in found:
            np.testing.assert_array_equal(embeddings, [PHOTOS[label].embedding for label in labels])
            assert embeddings.flags.writeable
        assert len(found) == 4
        assert asked(fault_proxy) == [64] * COUNT


def test_a_column_that_is_asked_for_later_is_fetched_then(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy) -> None:
    batches = iter(ds.ordered(batch_size=4))
    first = next(batches)
    assert asked(fault_proxy) == []
    assert first.embedding.shape == (4, 16)
    assert asked(fault_proxy) == [64] * 4
    second = next(batches)  # what was wanted of the first is there
    np.testing.assert_array_equal(second.embedding, [p.embedding for p in PHOTOS[4:8]])
    np.testing.assert_array_equal(second.image, [p.image for p in PHOTOS[4:8]])
    (size,) = [size for size in asked(fault_proxy) if size > 64]
    assert 4 * 72_000 < size < 4 * 80_000
    rest = list(batches)
    np.testing.assert_array_equal(np.concatenate([b.image for b in rest]), [p.image for p in PHOTOS[8:]])


def test_samples_of_a_batch_are_whole(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy) -> None:
    batches = list(ds.ordered(batch_size=7))
    assert [sample for batch in batches for sample in batch] == PHOTOS
    assert sum(asked(fault_proxy)) > IMAGES
    # A reader that only collects them finds all but the first fetched.
    assert [sample for batch in batches for sample in batch] == PHOTOS
    assert asked(fault_proxy) == []


def test_all_columns_at_once(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy) -> None:
    tables = [batch.to_arrow() for batch in ds.ordered(batch_size=10)]
    assert [label for table in tables for label in table["label"].to_pylist()] == list(range(COUNT))
    assert len(asked(fault_proxy)) == 3  # ten samples; the other two of their shard; the next shard


def test_the_next_epoch_knows_what_is_wanted(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy) -> None:
    loader = ds.shuffled(batch_size=5)
    for epoch in range(2):
        loader.set_epoch(epoch)
        assert len([batch.embedding for batch in loader]) == 4
        assert asked(fault_proxy) == [64] * COUNT
    batches = iter(loader)
    next(batches)
    assert asked(fault_proxy)  # before anybody asked


@atdata.packable
class Vector:
    embedding: NDArray[np.float32]
    number: int


def test_a_lens_fetches_what_it_reads(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy) -> None:
    @atdata.lens
    def code(src: Photo) -> Vector:
        return Vector(src.embedding * 2, src.label)

    declared = atdata.Lens.fields(
        Photo, Vector, rename={"label": "number"}, drop=["image", "caption", "tags", "mask"]
    )  # fmt: skip
    for lens, factor in ((code, 2), (declared, 1)):
        seen = ds.as_type(lens)
        expected = [p.embedding * factor for p in PHOTOS]
        np.testing.assert_array_equal([view.embedding for view in seen], expected)
        assert asked(fault_proxy) == [64] * COUNT
        np.testing.assert_array_equal(np.concatenate([b.embedding for b in seen.ordered(batch_size=6)]), expected)
        assert asked(fault_proxy) == [64] * COUNT
        assert seen[4].number == 4
        assert asked(fault_proxy) == [64]


@atdata.packable
class Label:
    number: int


@atdata.packable
class Numbered:
    number: int
    vector: NDArray[np.float32]


def doubled(src: Photo) -> Vector:
    return Vector(src.embedding * 2, src.label)


def handed_on(src: Photo) -> Vector:
    return _somewhere_else(src)


def _somewhere_else(src: Photo) -> Vector:
    return Vector(src.embedding * 2, src.label)


def test_what_lenses_cost_in_requests_and_bytes(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy) -> None:
    """Declared, observable code, and both one after the other fetch what they use; code that hides it fetches all."""
    declared = atdata.Lens.fields(
        Photo, Vector, rename={"label": "number"}, drop=["image", "caption", "tags", "mask"]
    )  # fmt: skip
    again = atdata.Lens.fields(Vector, Numbered, rename={"embedding": "vector"})
    numbers = atdata.Lens.fields(
        Photo, Label, rename={"label": "number"}, drop=["image", "embedding", "caption", "tags", "mask"]
    )
    assert sum(len(list(ds[n : n + 1])) for n in range(COUNT)) == COUNT
    whole = asked(fault_proxy)
    assert sum(whole) > IMAGES
    costs = {}
    ways: dict[str, Any] = {
        "declared": ds.as_type(declared),
        "code": ds.as_type(atdata.Lens(doubled)),
        "declared, declared": ds.as_type(declared).as_type(again),
        "code | declared": ds.as_type(atdata.Lens(doubled) | again),
        "numbers": ds.as_type(numbers),
        "hidden": ds.as_type(atdata.Lens(handed_on)),
    }
    for name, seen in ways.items():
        assert len(list(seen)) == COUNT
        sizes = asked(fault_proxy)
        costs[name] = len(sizes), sum(sizes)
    used = COUNT, sum(p.embedding.nbytes for p in PHOTOS)
    assert costs["declared"] == costs["code"] == costs["declared, declared"] == costs["code | declared"] == used
    assert costs["numbers"] == (0, 0)  # the manifest has them
    assert costs["hidden"][1] > IMAGES
    assert used[1] * 1000 < sum(whole)


def test_a_lens_that_an_index_holds_fetches_what_it_reads(
    store: S3DataStore, fault_proxy: FaultProxy, tmp_path: Any
) -> None:
    declared = atdata.Lens.fields(
        Photo, Vector, rename={"label": "number"}, drop=["image", "caption", "tags", "mask"]
    )  # fmt: skip
    with atdata.LocalIndex(tmp_path / "index.db", store=store) as index:
        index.insert_dataset(atdata.Dataset[Photo](f"{store.base}photos", store=store), name="photos")
        index.publish_lens(declared)
        seen = atdata.load_dataset("photos", Vector, split="train", index=index)
    fault_proxy.forget()
    assert [view.number for view in seen] == list(range(COUNT))
    requests = [request for request in fault_proxy.requests() if request.path.endswith(".tar")]
    assert [request.sent for request in requests] == [64] * COUNT
    assert sum(request.sent for request in fault_proxy.requests()) < IMAGES / 50  # manifests, too


def test_a_query_reads_the_field_that_it_asks_about(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy) -> None:
    F = atdata.fields(Photo)
    some = ds.where(F.caption.startswith("picture 1") & (F.label < 15))
    assert len(some) == 6
    sizes = asked(fault_proxy)
    assert len(sizes) == 15  # of the others the manifest tells
    assert sum(sizes) < 450 * 15
    found = list(some.select_fields("label", "mask"))
    assert [sample.label for sample in found] == [1, 10, 11, 12, 13, 14]
    assert sorted(asked(fault_proxy)) == [sample.mask.nbytes for sample in found if sample.mask is not None]


def test_a_cached_shard_is_used(store: S3DataStore, fault_proxy: FaultProxy, tmp_path: Any) -> None:
    ds = atdata.Dataset[Photo](f"{store.base}photos", store=store, cache=tmp_path)
    expected = [p.embedding.tolist() for p in PHOTOS]
    assert [s.embedding.tolist() for s in ds.select_fields("embedding")] == expected
    again = atdata.Dataset[Photo](f"{store.base}photos", store=store, cache=tmp_path)
    fault_proxy.forget()
    assert [s.embedding.tolist() for s in again.select_fields("embedding")] == expected
    assert not [request for request in fault_proxy.requests() if request.path.endswith(".tar")]


@pytest.mark.parametrize("budget", [50_000, 1 << 20])
def test_what_is_fetched_ahead_is_bounded(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy, budget: int) -> None:
    most = 0
    loader = ds.select_fields("mask", "embedding").shuffled(batch_size=1, block=1, budget=budget)
    for done, batch in enumerate(loader, 1):
        assert len(batch.mask) == 1
        most = max(most, len(fault_proxy.requests()) - 2 * done)
    assert most <= 2 + budget // (64 << 10)


def test_threads_end(ds: atdata.Dataset[Photo]) -> None:
    before = set(threading.enumerate())  # those of other tests may be ending still

    def started() -> list[str]:
        return [t.name for t in set(threading.enumerate()) - before if t.name.startswith("atdata-")]

    with ds.select_fields("embedding").shuffled(batch_size=2, block=1) as loader:
        batches = iter(loader)
        assert next(batches).embedding.shape == next(batches).embedding.shape == (2, 16)
        assert started()
    assert not started()


def test_a_plan_says_what_fields_take(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy) -> None:
    """In requests and bytes, which are those that the server sees."""
    for fields in (("embedding",), ("caption", "mask"), ("label",), ("label", "tags")):
        for options in ({"block": 1}, {"block": 4, "window": 3}, {"batch_size": 4}):
            loader = ds.select_fields(*fields).shuffled(**options)  # type: ignore[call-overload]
            planned = loader.plan()
            fault_proxy.forget()
            for item in loader:
                [getattr(item, name) for name in fields]
            sizes = asked(fault_proxy)
            assert (planned.traffic.requests, planned.traffic.bytes) == (len(sizes), sum(sizes))
            assert f"only {', '.join(fields)}: fetched" in str(planned)
    whole = ds.shuffled(batch_size=4).plan()
    assert whole.traffic is not None
    assert whole.traffic.bytes > IMAGES
    assert "of batches only those are fetched that somebody asks for" in str(whole)
    assert "only" not in str(ds.shuffled().plan())
    assert "fetched" not in str(ds.select_fields("image").shuffled().plan())  # it is most of the sample


# -- trust -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["embedding", "caption", "mask"])
def test_a_bit_flipped_on_the_way_is_not_seen(ds: atdata.Dataset[Photo], fault_proxy: FaultProxy, field: str) -> None:
    expected = getattr(PHOTOS[4], field)
    fault_proxy.flip_bit(answer=0, at=0.5)
    np.testing.assert_array_equal(getattr(ds.select_fields(field)[4], field), expected)
    assert len(asked(fault_proxy)) == 2


@pytest.fixture
def damaged(rgw: S3Server, bucket: str) -> Callable[[str], atdata.Dataset[Photo]]:
    """The photos in a bucket of their own, with one bit of the fifth flipped in a field."""
    store = S3DataStore(rgw.credentials, bucket=bucket)
    urls = store.write_shards(atdata.Dataset.from_samples(PHOTOS, Photo), prefix="photos", maxcount=12)
    ds = atdata.Dataset[Photo](f"{store.base}photos", store=store)

    def damage(field: str) -> atdata.Dataset[Photo]:
        own = ds._shards().shard(0).manifest.ranges(field)  # type: ignore[union-attr]
        assert own is not None
        data = bytearray(store.get(store.key(urls[0])) or b"")
        data[int(own.offsets[4] + own.sizes[4] // 2)] ^= 2
        store.put(store.key(urls[0]), bytes(data))
        return atdata.Dataset[Photo](f"{store.base}photos", store=store)

    return damage


@pytest.mark.parametrize("field", ["embedding", "tags"])
def test_a_damaged_field_is_named(damaged: Callable[[str], atdata.Dataset[Photo]], field: str) -> None:
    ds = damaged(field)
    own = ds._shards().shard(0).manifest.ranges(field)  # type: ignore[union-attr]
    assert own is not None
    one = ds.select_fields(field)
    ways: list[Callable[[], Any]] = [
        lambda: one[4],
        lambda: list(one),
        lambda: list(one.shuffled(block=1)),
        lambda: [batch[field] for batch in ds.ordered(batch_size=3)],
    ]
    for way in ways:
        with pytest.raises(
            IntegrityError, match=f"{field}: the field's bytes are not those that were written"
        ) as caught:
            way()
        assert caught.value.url == ds.list_shards()[0]
        assert caught.value.key == "000000004"
        assert caught.value.field == field
        assert caught.value.offset == own.offsets[4]
        assert caught.value.expected != caught.value.got
    # The others are sound, and so are the other fields of this one.
    assert getattr(one[5], field) is not None
    assert [s.caption for s in ds.select_fields("caption")] == [p.caption for p in PHOTOS]
    folder = ds.list_shards()[0].rpartition("/")[0]
    never = atdata.Dataset[Photo](folder, store=ds.opening.object_store(folder), verify="never")
    assert len([batch[field] for batch in never.ordered(batch_size=20)]) == 1
