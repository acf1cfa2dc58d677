"""Damage is found before anything damaged is handed out, and its place is named."""

from __future__ import annotations

import gc
import os
import random
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import Digit, digit, digits

import atdata
from atdata.datasets import checks
from atdata.errors import (
    AtdataError,
    CommitRecordError,
    IntegrityError,
    ManifestError,
    ShardError,
    ShardFormatError,
    TruncatedShardError,
)
from atdata.stores.base import WrittenShards

Read = atdata.Dataset[Digit]


def flip(path: str | Path, offset: int, bit: int = 3) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def members(path: str) -> list[tuple[str, int, int]]:
    with tarfile.open(path) as archive:
        return [(m.name.removesuffix(".msgpack"), m.offset_data, m.size) for m in archive]


def manifest_of(url: str) -> Path:
    return Path(url.removesuffix(".tar") + ".manifest.parquet")


READINGS: dict[str, Callable[[Any], Any]] = {
    "iterate": lambda ds: list(ds),
    "batches": lambda ds: [b.label for b in ds.ordered(batch_size=4)],
    "steps": lambda ds: list(ds.map(lambda s: s)),
    "head": lambda ds: ds.head(1),
    "select": lambda ds: list(ds.select_fields("label")),
}


# -- a flipped bit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", READINGS)
def test_a_flipped_payload_bit_names_url_offset_and_key(urls: WrittenShards, reading: str) -> None:
    key, offset, size = members(urls[0])[7]
    flip(urls[0], offset + size - 2)
    with pytest.raises(IntegrityError, match="not those that were written") as caught:
        READINGS[reading](Read(urls))
    error = caught.value
    assert (error.url, error.offset, error.key) == (urls[0], offset, key)
    assert f"[{urls[0]}, at byte {offset}, sample '{key}']" in str(error)
    assert isinstance(error.expected, str)
    assert len(error.expected) == len(str(error.got)) == 64


def test_nothing_of_a_damaged_shard_comes_and_all_of_the_others(urls: WrittenShards) -> None:
    flip(urls[1], members(urls[1])[9][1] + 20)
    got: list[int] = []
    with pytest.raises(IntegrityError) as caught:
        got.extend(s.label for s in Read(urls))  # keeps what came before the error
    assert caught.value.url == urls[1]
    assert got == list(range(10))


@pytest.mark.parametrize("place", ["name", "checksum", "mode", "padding", "end marker"])
@pytest.mark.parametrize("manifest", [True, False])
def test_a_flipped_bit_outside_of_the_payloads(store: Any, place: str, manifest: bool) -> None:
    urls = store.write_shards(atdata.Dataset.from_samples(digits(5), Digit), prefix="d", manifest=manifest)
    _, offset, size = members(urls[0])[2]
    at = {
        "name": offset - 512,
        "checksum": offset - 512 + 150,
        "mode": offset - 512 + 101,
        "padding": offset + size + 3,
        "end marker": os.path.getsize(urls[0]) - 700,
    }[place]
    flip(urls[0], at)
    with pytest.raises(IntegrityError, match="SHA-256 differs") as caught:
        list(Read(urls))
    assert caught.value.url == urls[0]
    if manifest and place in ("name", "checksum", "mode"):
        assert caught.value.offset == offset - 512
        assert "outside of its samples" in str(caught.value)


def test_any_flipped_bit_is_found(urls: WrittenShards, tmp_path: Path) -> None:
    """Every byte region of every file of the dataset, chosen at random with a fixed seed."""
    folder = Path(urls[0]).parent
    rng = random.Random(5)
    for name in sorted(os.listdir(folder)):
        if name.endswith(".manifest.json"):  # for other tools; nothing here reads it
            continue
        size = os.path.getsize(folder / name)
        for _ in range(40):
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            flip(copy / name, rng.randrange(size), rng.randrange(8))
            with pytest.raises((IntegrityError, CommitRecordError)) as caught:
                list(Read(copy))
            assert caught.value.url == str(copy / name)
            shutil.rmtree(copy)


def test_a_flipped_manifest_bit(urls: WrittenShards) -> None:
    manifest = manifest_of(urls[1])
    flip(manifest, manifest.stat().st_size // 2)
    for reading in (*READINGS.values(), lambda ds: ds[12], lambda ds: ds.get("000000012")):
        if reading is READINGS["head"]:
            assert reading(Read(urls)) == [digit(0)]
            continue
        with pytest.raises(
            IntegrityError, match=r"the manifest is not the one that was written.*atdata manifest build"
        ) as e:
            reading(Read(urls))
        assert e.value.url == str(manifest)


def test_a_flipped_record_bit(urls: WrittenShards) -> None:
    record = Path(urls[0]).parent / "atdata.json"
    whole = record.read_bytes()
    for offset in range(0, len(whole), 7):
        flip(record, offset, offset % 7)
        with pytest.raises(CommitRecordError) as caught:
            Read(record.parent)
        assert caught.value.url == str(record)
        record.write_bytes(whole)
    assert len(Read(record.parent)) == 25


# -- single samples ------------------------------------------------------------------------------------------


def test_single_samples_are_checked_by_their_own_digest(urls: WrittenShards) -> None:
    key, offset, size = members(urls[0])[7]
    flip(urls[0], offset + size // 2)
    ds = Read(urls)
    assert [ds[i] for i in (6, 8, 17)] == [digit(i) for i in (6, 8, 17)]
    assert ds.get("000000006") == digit(6)
    for access in (lambda: ds[7], lambda: ds[-18], lambda: ds.get(key), lambda: ds[5:9], lambda: ds.map(print)[7]):
        with pytest.raises(IntegrityError, match="the sample's bytes") as caught:
            access()
        assert (caught.value.url, caught.value.offset, caught.value.key) == (urls[0], offset, key)


def test_single_samples_without_a_manifest_need_the_whole_shard(bare: WrittenShards) -> None:
    flip(bare[0], members(bare[0])[7][1] + 5)
    ds = Read(bare)
    for index in (6, 7):
        with pytest.raises(IntegrityError, match="the shard's bytes") as caught:
            ds[index]
        assert caught.value.url == bare[0]
    assert ds[12] == digit(12)


def test_a_change_under_an_open_dataset_is_found(urls: WrittenShards, bare: WrittenShards) -> None:
    for source in (urls, bare):
        ds = Read(source)
        assert ds[7] == digit(7)
        before = os.stat(source[0])
        flip(source[0], members(source[0])[7][1] + 5)
        os.utime(source[0], ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(IntegrityError):
            ds[7]
        with pytest.raises(IntegrityError):
            list(ds)


# -- how often -----------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each whole file that was hashed."""
    counted: list[int] = []
    original = checks.sha256_of

    def spy(buffer: memoryview) -> str:
        counted.append(1)
        return original(buffer)

    monkeypatch.setattr(checks, "sha256_of", spy)
    return counted


def test_first_hashes_each_shard_once_until_it_changes(urls: WrittenShards, hashed: list[int]) -> None:
    for _ in range(3):
        assert len(list(Read(urls))) == 25
        assert len(list(Read(list(urls)).ordered(batch_size=6))) == 5
    assert len(hashed) == 3
    os.utime(urls[1])
    assert len(list(Read(urls))) == 25
    assert len(hashed) == 4
    shutil.copy(urls[2], f"{urls[2]}.new")
    os.replace(f"{urls[2]}.new", urls[2])
    assert len(list(Read(urls))) == 25
    assert len(hashed) == 5


def test_first_hashes_nothing_for_single_samples(urls: WrittenShards, hashed: list[int]) -> None:
    ds = Read(urls)
    assert [ds[i].label for i in (3, 23, 11)] == [3, 23, 11]
    assert hashed == []


def test_first_finds_what_was_changed_after_the_first_pass(urls: WrittenShards) -> None:
    ds = Read(urls)
    assert len(list(ds)) == 25
    flip(urls[2], members(urls[2])[0][1] + 9)
    for reading in (lambda: list(ds), lambda: list(Read(urls))):
        with pytest.raises(IntegrityError) as caught:
            reading()
        assert caught.value.url == urls[2]


def test_always_hashes_every_time(urls: WrittenShards, bare: WrittenShards, hashed: list[int]) -> None:
    ds = Read(urls, verify="always")
    for n in (3, 6):
        assert len(list(ds)) == 25
        assert len(hashed) == n
    hashed.clear()
    ds = Read(bare, verify="always")
    assert [ds[i].label for i in (3, 4)] == [3, 4]
    assert len(hashed) == 2


def test_never_hashes_nothing_and_hands_out_what_is_there(urls: WrittenShards, hashed: list[int]) -> None:
    _, offset, _ = members(urls[0])[7]
    data = Path(urls[0]).read_bytes()
    image = data.index(digit(7).image.tobytes(), offset)
    flip(urls[0], image, 6)
    ds = Read(urls, verify="never")
    assert [s.label for s in ds] == list(range(25))
    assert list(ds)[7].image[0, 0] == 7 ^ 64
    assert next(iter(ds.ordered(batch_size=10))).image[7, 0, 0] == 7 ^ 64
    assert hashed == []
    # What makes reading impossible is an error also then.
    flip(urls[1], members(urls[1])[0][1])
    with pytest.raises(AtdataError) as caught:
        list(ds)
    assert (caught.value.url, caught.value.key) == (urls[1], "000000010")
    with open(urls[2], "r+b") as file:
        file.truncate(5000)
    with pytest.raises(IntegrityError, match="its record"):
        list(Read(urls[2], verify="never"))


# -- cut, replaced, mixed up ---------------------------------------------------------------------------------


def test_a_shard_cut_at_every_block(urls: WrittenShards, tmp_path: Path) -> None:
    whole = Path(urls[0]).read_bytes()
    end = members(urls[0])[-1][1] + 512
    cuts = [*range(0, len(whole), 512), end + 700, len(whole) - 1, 100]
    lone = tmp_path / "lone.tar"
    for cut in cuts:
        Path(urls[0]).write_bytes(whole[:cut])
        for ds in (Read(urls), Read(urls[0])):
            for reading in (lambda ds=ds: list(ds), lambda ds=ds: ds[0]):
                with pytest.raises(IntegrityError, match="cut, changed or replaced") as caught:
                    reading()
                assert (caught.value.url, caught.value.expected, caught.value.got) == (urls[0], len(whole), cut)
        # The same without any record: the missing end marker tells.
        lone.write_bytes(whole[:cut])
        if cut >= end + 1024:
            assert len(list(Read(lone))) == 10  # only filling was lost
            continue
        for reading in (lambda: list(Read(lone)), lambda: len(Read(lone)), lambda: Read(lone)[0]):
            with pytest.raises(TruncatedShardError) as cut_short:
                reading()
            assert cut_short.value.url == str(lone)
            assert cut_short.value.offset is not None


def test_a_shard_cut_in_a_stream(urls: WrittenShards) -> None:
    from dataset_samples import Shelf

    whole = Path(urls[0]).read_bytes()
    for _, offset, _ in members(urls[0]):
        for cut in (offset - 512, offset - 100, offset, offset + 30):
            with pytest.raises(TruncatedShardError) as caught:
                list(Read(Shelf({"s": whole[:cut]})))
            assert caught.value.url == "s"


def test_a_shard_replaced_by_another_of_the_same_size(urls: WrittenShards) -> None:
    assert os.path.getsize(urls[0]) == os.path.getsize(urls[1])
    shutil.copy(urls[1], urls[0])
    for reading in READINGS.values():
        with pytest.raises(IntegrityError, match="damaged or replaced") as caught:
            reading(Read(urls))
        assert caught.value.url == urls[0]
    with pytest.raises(IntegrityError):
        Read(urls)[3]


def test_the_manifest_of_another_shard(urls: WrittenShards, tmp_path: Path) -> None:
    for shard in urls[:2]:
        shutil.copy(shard, tmp_path)
    shutil.copy(manifest_of(urls[1]), manifest_of(urls[0]))
    with pytest.raises(IntegrityError, match="the manifest is not the one") as caught:
        list(Read(urls))
    assert caught.value.url == str(manifest_of(urls[0]))
    # without a record, the manifest is all there is to go by
    alone = tmp_path / Path(urls[0]).name
    shutil.copy(manifest_of(urls[1]), manifest_of(str(alone)))
    for reading in (lambda: list(Read(alone)), lambda: Read(alone)[0]):
        with pytest.raises(ShardError):
            reading()
    shutil.copy(manifest_of(urls[2]), manifest_of(str(alone)))
    with pytest.raises(ManifestError, match="belongs to a shard of"):
        list(Read(alone))


def test_manifests_that_are_gone_make_no_difference(urls: WrittenShards) -> None:
    manifest_of(urls[1]).unlink()
    ds = Read(urls)
    assert list(ds) == digits(25)
    assert [b.label for b in ds.ordered(batch_size=20)] == [list(range(20)), list(range(20, 25))]
    assert [ds[i] for i in (9, 10, 19, 20)] == [digit(i) for i in (9, 10, 19, 20)]


def test_a_count_that_differs_from_the_record(store: Any, urls: WrittenShards) -> None:
    """A record that is consistent in itself, but says another number of samples than the shard has."""
    import msgspec

    from atdata.stores.record import CommitRecord

    record = Path(urls[0]).parent / "atdata.json"
    manifest_of(urls[1]).unlink()
    shards = list(urls.record.shards)
    for claimed in (9, 11):
        shards[1] = msgspec.structs.replace(urls.record.shards[1], samples=claimed, manifest=None)
        record.write_bytes(CommitRecord(urls.record.schema, tuple(shards)).to_bytes())
        for ds in (Read(record.parent), Read(record.parent).map(lambda s: s)):
            for reading in (lambda ds=ds: list(ds), lambda ds=ds: list(ds.ordered(batch_size=4))):
                with pytest.raises(IntegrityError, match=f"gave 10 samples, its record says {claimed}") as caught:
                    reading()
                assert (caught.value.url, caught.value.expected, caught.value.got) == (urls[1], claimed, 10)
        shards[1] = msgspec.structs.replace(urls.record.shards[1], samples=claimed)
        record.write_bytes(CommitRecord(urls.record.schema, tuple(shards)).to_bytes())
    with pytest.raises(IntegrityError):
        Read(record.parent)[20]


def test_a_member_twice(urls: WrittenShards, tmp_path: Path) -> None:
    whole = Path(urls[0]).read_bytes()
    _, offset, size = members(urls[0])[0]
    one = whole[offset - 512 : offset + size + -size % 512]
    (tmp_path / "twice.tar").write_bytes(one + one + bytes(1024))
    with pytest.raises(ShardFormatError, match="comes twice") as caught:
        list(Read(tmp_path / "twice.tar"))
    assert (caught.value.url, caught.value.offset) == (str(tmp_path / "twice.tar"), len(one))


def test_a_sample_of_another_type_names_field_and_place(urls: WrittenShards) -> None:
    @atdata.packable
    class Wrong:
        image: str
        label: int
        note: str | None

    for ds in (atdata.Dataset[Wrong](urls), atdata.Dataset[Wrong](list(urls)[1])):
        offset = members(ds.list_shards()[0])[0][1]
        for reading in (
            lambda ds=ds: list(ds),
            lambda ds=ds: ds[0],
            lambda ds=ds: next(iter(ds.ordered(batch_size=2))).image,
        ):
            with pytest.raises(
                atdata.errors.SampleDecodeError, match=r"Wrong\.image: expected str, got bytes"
            ) as caught:
                reading()
            error = caught.value
            assert error.field == "Wrong.image"
            assert (error.url, error.offset) == (ds.list_shards()[0], offset)
            assert error.key == ("000000000" if len(ds) == 25 else "000000010")


def test_a_damaged_shard_of_many_is_found_whatever_thread_hashes_it(store: Any) -> None:
    urls = store.write_shards(atdata.Dataset.from_samples(digits(40), Digit), prefix="many", maxcount=1)
    for number in (0, 1, 2, 17, 39):
        whole = Path(urls[number]).read_bytes()
        flip(urls[number], 600)
        seen: list[int] = []
        with pytest.raises(IntegrityError) as caught:
            seen.extend(label for batch in Read(urls).ordered(batch_size=3) for label in batch.label)
        assert caught.value.url == urls[number]
        assert seen == list(range(number - number % 3))
        Path(urls[number]).write_bytes(whole)
    assert np.concatenate([b.image for b in Read(urls).ordered(batch_size=7)]).shape == (40, 4, 3)


def test_an_iterator_may_be_collected_by_the_thread_that_hashes_for_it(
    urls: WrittenShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped, collected, second = threading.Event(), threading.Event(), Path(urls[1]).read_bytes()
    original = checks.sha256_of

    def collecting(buffer: memoryview) -> str:
        if bytes(buffer) == second:
            assert dropped.wait(30)
            gc.collect()
            collected.set()
        return original(buffer)

    monkeypatch.setattr(checks, "sha256_of", collecting)
    gc.disable()
    try:
        iterator = iter(Read(urls))
        assert next(iterator) == digit(0)
        cycle: list[Any] = [iterator]
        cycle.append(cycle)
        del iterator, cycle
        dropped.set()
        assert collected.wait(30)  # and pytest fails where an exception of the thread was ignored
    finally:
        gc.enable()


@atdata.packable
class Blob:
    data: np.ndarray[Any, np.dtype[np.uint8]]


@pytest.mark.parametrize("verify", ["first", "always"])
def test_damage_anywhere_in_a_large_sample_is_found(tmp_path: Path, verify: Any) -> None:
    """Large samples are hashed in pieces: their seams and ends count as well."""
    sizes = [60_000, 65_400, 65_600, (1 << 20) - 300, (1 << 20) + 1, 3_000_001]
    rng = np.random.default_rng(0)
    samples = [Blob(rng.integers(0, 256, size, np.uint8)) for size in sizes]
    store = atdata.LocalDiskStore(tmp_path / "good")
    written = store.write_shards(atdata.Dataset.from_samples(samples, Blob), prefix="data")
    for sample, read in zip(samples, atdata.Dataset[Blob](written, verify=verify), strict=True):
        assert (sample.data == read.data).all()
    with tarfile.open(str(written[0]).removeprefix("file://")) as archive:
        members = [(m.offset_data, m.size) for m in archive]
    for number, (start, size) in enumerate(members):
        for at in sorted({100, 65_536, (1 << 20) - 1, 1 << 20, size - 1}):
            if at >= size:
                continue
            copy = tmp_path / f"bad-{number}-{at}"
            shutil.copytree(tmp_path / "good", copy)
            flip(next(copy.rglob("*.tar")), start + at)
            with pytest.raises(IntegrityError) as caught:
                atdata.Dataset[Blob](f"{copy}/data", verify=verify)[number]
            assert caught.value.offset == start
