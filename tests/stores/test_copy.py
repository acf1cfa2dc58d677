"""Copying datasets between stores: every byte the same, checked on the way, whole or not a dataset, resumed."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import atdata
from atdata.errors import (
    DatasetExistsError,
    DatasetNotFoundError,
    IntegrityError,
    ManifestError,
    ShardFormatError,
    StoreBusyError,
    StoreError,
    UnsafeNameError,
)
from atdata.stores.base import DataStore
from atdata.stores.copy import CopyProgress, copy_dataset
from atdata.stores.opening import Opening
from atdata.stores.record import RECORD_NAME, CommitRecord
from atdata.testing import FaultProxy, FaultyStore
from servers.rgw import S3Server
from servers.web import WebServer


@atdata.packable
class Block:
    data: NDArray[np.uint8]
    number: int


def blocks(count: int, size: int = 1000, first: int = 0) -> list[Block]:
    return [Block(np.random.default_rng(n).integers(0, 256, size, np.uint8), n) for n in range(first, first + count)]


def dataset(samples: list[Block]) -> atdata.Dataset[Block]:
    return atdata.Dataset.from_samples(samples, Block)


def located(place: object, store: object = None):
    found = atdata.Dataset(place, store=store).located
    assert found is not None
    return found


def files(store: DataStore, prefix: str) -> dict[str, bytes]:
    """Everything visible directly under a prefix."""
    found = {}
    for url in store.list(prefix):
        file = store.open(url)
        found[url.rpartition("/")[2]] = file.read(0, file.size)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """30 samples in shards of 7."""
    atdata.LocalDiskStore(tmp_path / "from").write_shards(dataset(blocks(30)), prefix="v1", maxcount=7)
    return tmp_path / "from" / "v1"


@pytest.fixture
def original(source: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in source.iterdir()}


@pytest.fixture
def s3(rgw: S3Server, bucket: str) -> atdata.S3DataStore:
    return atdata.S3DataStore(rgw.credentials, bucket=bucket)


@pytest.fixture
def faulty(rgw: S3Server, bucket: str, fault_proxy: FaultProxy) -> atdata.S3DataStore:
    """The same bucket by a network that can be made worse."""
    return atdata.S3DataStore(rgw.through(fault_proxy).credentials, bucket=bucket)


@pytest.fixture
def memory(tmp_path: Path) -> DataStore:
    return atdata.open_store(f"memory://{tmp_path.name}")


@pytest.fixture(params=["disk", "memory", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> DataStore:
    if request.param == "disk":
        return atdata.LocalDiskStore(tmp_path / "to")
    store: DataStore = request.getfixturevalue(request.param)
    return store


# -- what arrives --------------------------------------------------------------------------------------------


def test_every_byte_is_the_same(source: Path, original: dict[str, bytes], target: DataStore, tmp_path: Path) -> None:
    there = copy_dataset(located(source), target, prefix="a/b")
    assert files(target, "a/b") == original
    assert there.record == CommitRecord.from_bytes(original[RECORD_NAME])
    assert there.urls == [url for url in target.list("a/b") if url.endswith(".tar")]
    assert there.kept == 0
    assert list(atdata.Dataset[Block](there.urls, store=target)) == blocks(30)
    back = atdata.LocalDiskStore(tmp_path / "back")
    copy_dataset(located(there.urls, target), back, prefix="c", opening=Opening(target))
    assert files(back, "c") == original


def test_from_bucket_to_bucket(rgw: S3Server, s3: atdata.S3DataStore, source: Path, original: dict[str, bytes]) -> None:
    copy_dataset(located(source), s3, prefix="v1")
    other = rgw.make_bucket()
    try:
        to = atdata.S3DataStore(rgw.credentials, bucket=other)
        copy_dataset(located(f"{s3.base}v1/", s3), to, prefix="v1", opening=Opening(s3))
        assert files(to, "v1") == original
        copy_dataset(located(f"{s3.base}v1/", s3), s3, prefix="v1-again", opening=Opening(s3))
        assert files(s3, "v1-again") == original
        assert rgw.uploads(other) == []
    finally:
        rgw.remove_bucket(other)


def test_from_a_web_server(web: WebServer, source: Path, original: dict[str, bytes], target: DataStore) -> None:
    shutil.copytree(source, web.folder / "data" / "v 1")
    copy_dataset(located(web.url("data/v 1")), target, prefix="v1")
    assert files(target, "v1") == original


def test_a_shard_of_many_parts(s3: atdata.S3DataStore, tmp_path: Path) -> None:
    store = atdata.LocalDiskStore(tmp_path)
    store.write_shards(dataset(blocks(12, 3 << 20)), prefix="large")
    copy_dataset(located(tmp_path / "large"), s3, prefix="large")
    copy_dataset(located(f"{s3.base}large", s3), store, prefix="back", opening=Opening(s3))
    assert files(store, "back") == files(store, "large")


def test_many_small_shards(tmp_path: Path, memory: DataStore) -> None:
    memory.write_shards(dataset(blocks(400, 10)), prefix="many", maxcount=1)
    target = atdata.LocalDiskStore(tmp_path)
    done = copy_dataset(located(f"{memory.base}many", memory), target, prefix="many", opening=Opening(memory))
    assert len(done.urls) == 400
    assert files(target, "many") == files(memory, "many")


@pytest.mark.parametrize("prefix", ["with space/a b", "per%20cent/100%", "a+b/c&d=e", "ünïcode/日本", "tilde~/a(b)!"])
def test_odd_prefixes(source: Path, original: dict[str, bytes], target: DataStore, prefix: str) -> None:
    copy_dataset(located(source), target, prefix=prefix)
    assert files(target, prefix) == original


def test_progress_adds_up_to_the_total(source: Path, original: dict[str, bytes], memory: DataStore) -> None:
    seen: list[CopyProgress] = []
    done = copy_dataset(located(source), memory, prefix="v1", progress=seen.append)
    total = sum(len(data) for name, data in original.items() if not name.endswith(".json"))
    assert seen[-1] == CopyProgress(total, total, 5)
    assert done.bytes == total
    assert [now.bytes for now in seen] == sorted(now.bytes for now in seen)


def test_what_the_callback_raises_ends_the_copy(source: Path, memory: DataStore) -> None:
    def refuse(now: CopyProgress) -> None:
        if now.shards == 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        copy_dataset(located(source), memory, prefix="v1", progress=refuse)
    assert list(memory.list()) == []


# -- shards without a record, or of several ------------------------------------------------------------------


def test_shards_without_a_record_get_one(source: Path, original: dict[str, bytes], target: DataStore) -> None:
    (source / RECORD_NAME).unlink()
    for path in source.glob("*.manifest.*"):
        path.unlink()
    done = copy_dataset(located(f"{source}/*.tar"), target, prefix="v1")
    assert done.record is not None
    assert done.record.schema is None
    assert [shard.samples for shard in done.record.shards] == [7, 7, 7, 7, 2]
    found = files(target, "v1")
    assert {name: data for name, data in found.items() if name != RECORD_NAME} == {
        name: data for name, data in original.items() if name.endswith(".tar")
    }
    assert CommitRecord.from_bytes(found[RECORD_NAME]) == done.record
    assert [sample["number"] for sample in atdata.Dataset(done.urls, store=target)] == list(range(30))


def test_their_manifests_come_along_and_are_named(source: Path, original: dict[str, bytes], target: DataStore) -> None:
    (source / RECORD_NAME).unlink()
    done = copy_dataset(located(f"{source}/*.tar"), target, prefix="v1")
    assert done.record is not None
    before = CommitRecord.from_bytes(original[RECORD_NAME])
    assert [shard.manifest for shard in done.record.shards] == [shard.manifest for shard in before.shards]
    found = files(target, "v1")
    assert {name: data for name, data in found.items() if name != RECORD_NAME} == {
        name: data for name, data in original.items() if name != RECORD_NAME
    }


def test_a_manifest_of_another_shard_is_refused(source: Path, memory: DataStore) -> None:
    (source / RECORD_NAME).unlink()
    shutil.copy(source / "shard-000001.manifest.parquet", source / "shard-000000.manifest.parquet")
    with pytest.raises(IntegrityError, match="SHA-256"):
        copy_dataset(located(f"{source}/*.tar"), memory, prefix="v1")
    (source / "shard-000000.manifest.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(ManifestError):
        copy_dataset(located(f"{source}/*.tar"), memory, prefix="v1")
    assert list(memory.list()) == []


def test_some_shards_of_a_dataset_are_a_dataset(source: Path, target: DataStore) -> None:
    done = copy_dataset(located(f"{source}/shard-{{000001..000002}}.tar"), target, prefix="part")
    assert list(atdata.Dataset[Block](done.urls, store=target)) == blocks(14, first=7)
    assert done.record is not None
    assert done.record.schema is not None
    assert sorted(files(target, "part")) == sorted(
        [
            RECORD_NAME,
            *(f"shard-00000{n}.{end}" for n in (1, 2) for end in ("tar", "manifest.json", "manifest.parquet")),
        ]
    )


def test_shards_of_several_folders_are_numbered(source: Path, target: DataStore) -> None:
    store = atdata.LocalDiskStore(source.parent)
    store.write_shards(dataset(blocks(10, first=30)), prefix="v2", maxcount=5)
    urls = sorted(map(str, source.glob("*.tar"))) + sorted(map(str, (source.parent / "v2").glob("*.tar")))
    done = copy_dataset(located(urls), target, prefix="both")
    assert [url.rpartition("/")[2] for url in done.urls] == [f"shard-{n:06d}.tar" for n in range(7)]
    ds = atdata.Dataset[Block](done.urls, store=target)
    assert list(ds) == blocks(40)
    assert ds.schema is not None
    header = msgspec.json.decode(files(target, "both")["shard-000005.manifest.json"])
    assert header["shard_id"] == "shard-000005"
    assert header["num_samples"] == 5


def test_different_schemas_leave_it_open(source: Path, memory: DataStore) -> None:
    @atdata.packable
    class Word:
        text: str

    store = atdata.LocalDiskStore(source.parent)
    words = store.write_shards(atdata.Dataset.from_samples([Word("a")], Word), prefix="words")
    done = copy_dataset(located([str(source / "shard-000000.tar"), *words]), memory, prefix="mixed")
    assert done.record is not None
    assert done.record.schema is None
    assert done.record.samples == 8


def test_a_header_that_is_missing_or_another_s_is_made_anew(
    source: Path, original: dict[str, bytes], target: DataStore
) -> None:
    (source / "shard-000000.manifest.json").unlink()
    (source / "shard-000001.manifest.json").write_bytes(original["shard-000002.manifest.json"])
    (source / "shard-000003.manifest.json").write_bytes(b"{")
    copy_dataset(located(source), target, prefix="v1")
    assert files(target, "v1") == original


def test_compressed_archives_are_copied_and_are_no_dataset(source: Path, target: DataStore) -> None:
    packed = source.parent / "packed"
    packed.mkdir()
    for path in source.glob("*.tar"):
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    done = copy_dataset(located(f"{packed}/*.tar.gz"), target, prefix="packed")
    assert done.record is None
    assert files(target, "packed") == {path.name: path.read_bytes() for path in packed.iterdir()}
    assert [sample["number"] for sample in atdata.Dataset(done.urls, store=target)] == list(range(30))
    with pytest.raises(DatasetExistsError, match=r"shard-000000.tar.gz is there"):
        copy_dataset(located(f"{packed}/*.tar.gz"), target, prefix="packed")
    assert copy_dataset(located(f"{packed}/*.tar.gz"), target, prefix="packed", overwrite=True).urls == done.urls


def test_files_that_are_no_dataset_can_take_the_place_of_one(source: Path, target: DataStore) -> None:
    packed = source.parent / "all.tar.gz"
    packed.write_bytes(gzip.compress((source / "shard-000000.tar").read_bytes()))
    copy_dataset(located(source), target, prefix="v1")
    with pytest.raises(DatasetExistsError):
        copy_dataset(located(str(packed)), target, prefix="v1")
    copy_dataset(located(str(packed)), target, prefix="v1", overwrite=True)
    assert list(files(target, "v1")) == ["all.tar.gz"]


@pytest.mark.parametrize("keep", [10_000, 1024 * 4])
def test_a_malformed_archive_gets_no_record(source: Path, target: DataStore, keep: int) -> None:
    alone = source.parent / "cut.tar"
    alone.write_bytes((source / "shard-000000.tar").read_bytes()[:keep])
    with pytest.raises(ShardFormatError) as caught:
        copy_dataset(located(str(alone)), target, prefix="v1")
    assert caught.value.url == str(alone)
    assert list(target.list()) == []


def test_archives_of_other_tools_are_counted(tmp_path: Path, memory: DataStore) -> None:
    path = tmp_path / "train 0+1%20.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.txt", "a.cls", "b.txt", "b.cls", "README"):
            (tmp_path / "member").write_bytes(b"1")
            tar.add(tmp_path / "member", name)
    done = copy_dataset(located(str(path)), memory, prefix="v1")
    assert done.record is not None
    assert [(shard.name, shard.samples) for shard in done.record.shards] == [("train 0+1%20.tar", 2)]
    assert len(atdata.Dataset(f"{memory.base}v1", store=memory)) == 2


# -- the destination -----------------------------------------------------------------------------------------


def test_a_dataset_is_not_replaced_unasked(source: Path, target: DataStore) -> None:
    before = target.write_shards(dataset(blocks(3)), prefix="v1")
    with pytest.raises(DatasetExistsError, match="there is a dataset already"):
        copy_dataset(located(source), target, prefix="v1")
    assert list(atdata.Dataset[Block](before, store=target)) == blocks(3)


def test_overwriting(source: Path, original: dict[str, bytes], target: DataStore) -> None:
    target.write_shards(dataset(blocks(100)), prefix="v1", maxcount=5)
    copy_dataset(located(source), target, prefix="v1", overwrite=True)
    assert files(target, "v1") == original


def test_onto_itself(source: Path, original: dict[str, bytes], s3: atdata.S3DataStore, tmp_path: Path) -> None:
    disk = atdata.LocalDiskStore(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "from")
    for place in (source, f"file://{source}", f"{source}/*.tar", tmp_path / "link" / "v1"):
        for overwrite in (False, True):
            with pytest.raises(StoreError, match="same place"):
                copy_dataset(located(place), disk, prefix="from/v1", overwrite=overwrite)
    assert files(disk, "from/v1") == original
    copy_dataset(located(source), s3, prefix="v1")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="same place"):
            copy_dataset(located(f"{s3.base}v1", s3), s3, prefix="v1", opening=Opening(s3), overwrite=overwrite)
    assert files(s3, "v1") == original


@pytest.mark.parametrize("name", ["x{1}.tar", "a#b.tar", "a::b.tar", "back\\slash.tar"])
def test_names_that_readers_take_for_something_else(tmp_path: Path, memory: DataStore, source: Path, name: str) -> None:
    shutil.copy(source / "shard-000000.tar", tmp_path / name)
    with pytest.raises(UnsafeNameError, match="cannot be used"):
        copy_dataset(located([str(tmp_path / name)]), memory, prefix="v1")


def test_two_copies_at_once(source: Path, original: dict[str, bytes], target: DataStore) -> None:
    under_way, refused = threading.Event(), threading.Event()

    def slowly(now: CopyProgress) -> None:
        under_way.set()
        assert refused.wait(60)

    def first() -> None:
        copy_dataset(located(source), target, prefix="v1", progress=slowly)

    thread = threading.Thread(target=first)
    thread.start()
    assert under_way.wait(60)
    try:
        with pytest.raises(StoreBusyError, match="another process is writing"):
            copy_dataset(located(source), target, prefix="v1")
    finally:
        refused.set()
        thread.join(60)
    assert files(target, "v1") == original


def test_a_bucket_that_is_not_there(rgw: S3Server, source: Path) -> None:
    store = atdata.S3DataStore(rgw.credentials, bucket="there-is-none")
    with pytest.raises(StoreError, match=r"bucket.* does not exist"):
        copy_dataset(located(source), store, prefix="v1")


# -- damage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", range(9))
def test_a_bit_that_flips_on_the_way(
    faulty: atdata.S3DataStore, fault_proxy: FaultProxy, tmp_path: Path, answer: int
) -> None:
    """Whichever answer it is in: a shard, a manifest, a header, the record."""
    faulty.write_shards(dataset(blocks(6)), prefix="v1", maxcount=3)
    target = atdata.LocalDiskStore(tmp_path)
    fault_proxy.forget()
    fault_proxy.flip_bit(answer=answer)
    copy_dataset(located(f"{faulty.base}v1", faulty), target, prefix="v1", opening=Opening(faulty))
    assert len(fault_proxy.requests("GET")) > answer
    fault_proxy.clear()
    assert files(target, "v1") == files(faulty, "v1")


@pytest.mark.parametrize("name", ["shard-000001.tar", "shard-000001.manifest.parquet"])
def test_a_source_that_is_damaged(source: Path, target: DataStore, original: dict[str, bytes], name: str) -> None:
    data = bytearray(original[name])
    data[len(data) // 2] ^= 1
    (source / name).write_bytes(data)
    with pytest.raises(IntegrityError, match="damaged at the source") as caught:
        copy_dataset(located(source), target, prefix="v1")
    assert caught.value.url == str(source / name)
    assert caught.value.expected != caught.value.got
    assert list(target.list()) == []
    (source / name).write_bytes(original[name])
    copy_dataset(located(source), target, prefix="v1")
    assert files(target, "v1") == original


def test_a_source_that_is_cut_or_not_there(source: Path, target: DataStore, original: dict[str, bytes]) -> None:
    path = source / "shard-000004.tar"
    path.write_bytes(original[path.name][:-512])
    with pytest.raises(IntegrityError, match="bytes, its record"):
        copy_dataset(located(source), target, prefix="v1")
    path.unlink()
    with pytest.raises(DatasetNotFoundError):
        copy_dataset(located(source), target, prefix="v1")
    assert list(target.list()) == []


def test_one_request_in_ten_fails(faulty: atdata.S3DataStore, fault_proxy: FaultProxy, tmp_path: Path) -> None:
    store = atdata.LocalDiskStore(tmp_path)
    store.write_shards(dataset(blocks(40)), prefix="v1", maxcount=2)
    fault_proxy.set(fail_share=0.1, seed=5)
    copy_dataset(located(tmp_path / "v1"), faulty, prefix="v1")
    copy_dataset(located(f"{faulty.base}v1", faulty), store, prefix="back", opening=Opening(faulty))
    assert files(store, "back") == files(store, "v1")


# -- going on with an unfinished copy ------------------------------------------------------------------------


class Enough(Exception):
    """Stops a copy."""


def stop_after(shards: int) -> Callable[[CopyProgress], None]:
    def stop(now: CopyProgress) -> None:
        if now.shards >= shards:
            raise Enough

    return stop


def interrupted(source: Path, target: DataStore, shards: int = 3, *, overwrite: bool = False) -> None:
    with pytest.raises(Enough) as caught:
        copy_dataset(located(source), target, prefix="v1", overwrite=overwrite, progress=stop_after(shards))
    assert "goes on from there" in caught.value.__notes__[0]


def test_a_copy_that_fails_at_once_keeps_what_an_earlier_one_left(
    source: Path, target: DataStore, original: dict[str, bytes]
) -> None:
    interrupted(source, target)
    for path in source.iterdir():  # now nothing of it can be read
        if path.name != RECORD_NAME:
            path.unlink()
    with pytest.raises(DatasetNotFoundError):
        copy_dataset(located(source), target, prefix="v1")
    assert list(target.list()) == []
    for name, data in original.items():
        (source / name).write_bytes(data)
    assert copy_dataset(located(source), target, prefix="v1").kept >= 3
    assert files(target, "v1") == original


def test_what_is_there_is_not_copied_again(source: Path, original: dict[str, bytes], target: DataStore) -> None:
    interrupted(source, target)
    assert list(target.list()) == []
    with pytest.raises(DatasetNotFoundError):
        atdata.Dataset(target.base + "v1" if hasattr(target, "base") else str(target.root / "v1"), store=target)
    done = copy_dataset(located(source), target, prefix="v1")
    assert done.kept >= 6
    assert files(target, "v1") == original


def test_an_interrupted_overwrite_keeps_the_old(source: Path, original: dict[str, bytes], target: DataStore) -> None:
    old = target.write_shards(dataset(blocks(9, first=50)), prefix="v1", maxcount=2)
    before = files(target, "v1")
    interrupted(source, target, overwrite=True)
    assert files(target, "v1") == before
    assert list(atdata.Dataset[Block](old, store=target)) == blocks(9, first=50)
    with pytest.raises(DatasetExistsError):
        copy_dataset(located(source), target, prefix="v1")
    done = copy_dataset(located(source), target, prefix="v1", overwrite=True)
    assert done.kept >= 6
    assert files(target, "v1") == original


def test_what_is_there_and_wrong_is_copied_again(
    source: Path, original: dict[str, bytes], rgw: S3Server, bucket: str, s3: atdata.S3DataStore
) -> None:
    interrupted(source, s3)
    keys = [key for key in rgw.keys(bucket) if key.endswith((".tar", ".parquet"))]
    assert len(keys) >= 6
    rgw.request("PUT", f"/{bucket}/{keys[0]}", body=bytes(len(original[keys[0].rpartition("/")[2]])))
    rgw.request("PUT", f"/{bucket}/{keys[1]}", body=b"short")
    done = copy_dataset(located(source), s3, prefix="v1")
    assert done.kept == len(keys) - 2
    assert files(s3, "v1") == original


def test_what_is_there_and_wrong_on_disk(source: Path, original: dict[str, bytes], tmp_path: Path) -> None:
    target = atdata.LocalDiskStore(tmp_path / "to")
    interrupted(source, target)
    left = sorted((tmp_path / "to").rglob("*.tar"))
    assert len(left) >= 3
    left[0].write_bytes(bytes(left[0].stat().st_size))
    done = copy_dataset(located(source), target, prefix="v1")
    assert done.kept >= 5
    assert files(target, "v1") == original
    assert {path.name for path in (tmp_path / "to" / "v1").iterdir()} == set(original)


def test_another_copy_takes_the_place_of_an_unfinished_one(source: Path, target: DataStore) -> None:
    interrupted(source, target)
    other = atdata.LocalDiskStore(source.parent)
    other.write_shards(dataset(blocks(2, first=70)), prefix="other")
    done = copy_dataset(located(source.parent / "other"), target, prefix="v1")
    assert done.kept == 0
    assert files(target, "v1") == files(other, "other")


def test_a_writer_takes_the_place_of_an_unfinished_copy(source: Path, target: DataStore) -> None:
    interrupted(source, target)
    urls = target.write_shards(dataset(blocks(2)), prefix="v1")
    assert list(atdata.Dataset[Block](urls, store=target)) == blocks(2)
    assert sorted(files(target, "v1")) == [
        RECORD_NAME,
        *(f"shard-000000.{end}" for end in ("manifest.json", "manifest.parquet", "tar")),
    ]


def test_files_that_nobody_left_are_not_taken(source: Path, s3: atdata.S3DataStore, rgw: S3Server, bucket: str) -> None:
    """Somebody's own files under the prefix, where an unfinished copy is too."""
    interrupted(source, s3)
    rgw.request("PUT", f"/{bucket}/v1/mine.tar", body=b"precious")
    with pytest.raises(DatasetExistsError, match=r"mine.tar is there"):
        copy_dataset(located(source), s3, prefix="v1")
    assert rgw.request("GET", f"/{bucket}/v1/mine.tar").body == b"precious"


def test_it_goes_on_after_every_failure(source: Path, original: dict[str, bytes], memory: DataStore) -> None:
    """A store that fails now and then: each attempt gets further, and the last one has everything."""
    day = FaultyStore(memory, fail_share=0.04, only=("create", "write", "close", "commit"), seed=1)
    kept = [0]
    for _ in range(200):
        try:
            kept.append(copy_dataset(located(source), day, prefix="v1").kept)
            break
        except StoreError:
            assert list(memory.list()) == []
    assert len(kept) == 2
    assert kept[-1] > 0
    assert files(memory, "v1") == original


def test_a_failure_before_anything_is_there_leaves_nothing(
    source: Path, rgw: S3Server, bucket: str, s3: atdata.S3DataStore, tmp_path: Path
) -> None:
    for path in source.glob("*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    disk = atdata.LocalDiskStore(tmp_path / "to")
    for target in (s3, disk):
        with pytest.raises(IntegrityError):
            copy_dataset(located(source), target, prefix="v1")
    assert rgw.keys(bucket) == []
    assert rgw.uploads(bucket) == []
    assert not (tmp_path / "to" / "v1").exists()
