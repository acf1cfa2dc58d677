"""Shuffled reading of local shards: each sample is checked once before it is given out, and little besides."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_samples import Digit, digit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import atdata
from atdata.datasets import checks
from atdata.errors import AtdataError, IntegrityError, StepError
from atdata.stores.base import WrittenShards


@atdata.packable
class Large:
    data: NDArray[np.uint8]
    number: int


@pytest.fixture
def large(store: atdata.LocalDiskStore) -> WrittenShards:
    """80 samples of 40 kB in 4 shards: large enough to be checked one by one."""
    samples = [Large(np.random.default_rng(n).integers(0, 256, 40_000, np.uint8), n) for n in range(80)]
    return store.write_shards(atdata.Dataset.from_samples(samples, Large), prefix="large", maxcount=20)


def payloads(path: str) -> list[tuple[int, int]]:
    with tarfile.open(path) as archive:
        return [(m.offset_data, m.size) for m in archive]


def flip(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 8]))


@pytest.mark.parametrize("size", [None, 7])
@pytest.mark.parametrize("options", [{"block": 1}, {"block": 5, "window": 3}, {"block": 3, "window": 2, "lanes": 2}])
def test_a_damaged_sample_ends_the_epoch_before_it_is_given_out(
    large: WrittenShards, size: int | None, options: dict[str, int]
) -> None:
    offset, length = payloads(large[2])[13]
    flip(large[2], offset + length - 5)
    found: list[Any] = []
    with pytest.raises(IntegrityError, match="not those that were written") as caught:
        found.extend(atdata.Dataset[Large](large).shuffled(size, seed=3, **options))
    error = caught.value
    assert (error.url, error.offset, error.key) == (large[2], offset, "000000053")
    numbers = [item.number for item in found] if size is None else [n for batch in found for n in batch.number]
    assert 53 not in numbers


def test_a_damaged_shard_of_small_samples(urls: WrittenShards) -> None:
    offset, length = payloads(urls[1])[4]
    flip(urls[1], offset + length - 1)
    for verify in ("first", "always"):
        found: list[Any] = []
        with pytest.raises(IntegrityError) as caught:
            found.extend(atdata.Dataset[Digit](urls, verify=verify).shuffled(block=2, window=2))
        assert caught.value.url == urls[1]
        assert all(sample == digit(sample.label) for sample in found)
        assert 14 not in [sample.label for sample in found]
    never = atdata.Dataset[Digit](urls, verify="never").shuffled(4)
    assert sorted(n for batch in never for n in batch.label)[:14] == list(range(14))


def test_a_sample_is_checked_once(large: WrittenShards, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    real = checks.check_rows

    def counted(shard: Any, rows: Any) -> None:
        hashed.append(len(rows))
        real(shard, rows)

    monkeypatch.setattr(checks, "check_rows", counted)
    ds = atdata.Dataset[Large](large)
    first = iter(ds.shuffled(4, block=2, window=4, budget=800_000))
    next(first)
    assert 4 <= sum(hashed) <= 24  # what the budget allows ahead, and not the shards
    first.close()  # type: ignore[attr-defined]
    list(ds.shuffled(4, seed=1, block=2, window=4))
    assert sum(hashed) == 80
    again = atdata.Dataset[Large](large)
    list(again.shuffled(4, seed=2, block=2, window=4))
    list(again.ordered(4))
    assert again[17].number == 17
    assert sum(hashed) == 80
    list(atdata.Dataset[Large](large, verify="always").shuffled(4))
    assert sum(hashed) == 160


def test_what_was_checked_before_a_file_changed_is_checked_again(large: WrittenShards) -> None:
    assert len(list(atdata.Dataset[Large](large).shuffled())) == 80
    offset, length = payloads(large[0])[3]
    flip(large[0], offset + length // 2)
    with pytest.raises(IntegrityError):
        list(atdata.Dataset[Large](large).shuffled(seed=1))


@given(place=st.integers(0, 10**9), seed=st.integers(0, 3), size=st.none() | st.integers(1, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25)
def test_no_flipped_bit_of_a_sample_is_given_out(large: WrittenShards, place: int, seed: int, size: int | None) -> None:
    every = [(url, *payload) for url in large for payload in payloads(url)]
    url, offset, length = every[place % len(every)]
    at = offset + place % length
    flip(url, at)
    try:
        found: list[Any] = []
        with pytest.raises(IntegrityError) as caught:
            found.extend(atdata.Dataset[Large](large).shuffled(size, seed=seed, block=3, window=4))
        assert (caught.value.url, caught.value.offset) == (url, offset)
        samples = found if size is None else [sample for batch in found for sample in batch]
        for sample in samples:
            assert (sample.data == np.random.default_rng(sample.number).integers(0, 256, 40_000, np.uint8)).all()
    finally:
        flip(url, at)


# -- bad days ------------------------------------------------------------------------------------------------


def test_shards_that_change_under_an_epoch_are_not_mixed(large: WrittenShards, tmp_path: Path) -> None:
    loose = []
    for url in large:  # without a record, so that nobody knows what they were
        for name in (url, url.replace(".tar", ".manifest.parquet")):
            (tmp_path / Path(name).name).write_bytes(Path(name).read_bytes())
        loose.append(str(tmp_path / Path(url).name))
    other = atdata.LocalDiskStore(tmp_path / "other")
    samples = [Large(np.zeros(40_000, np.uint8), -n) for n in range(80)]
    newer = other.write_shards(atdata.Dataset.from_samples(samples, Large), prefix="v2", maxcount=20)
    batches = iter(atdata.Dataset[Large](loose).shuffled(1, block=2, window=2, budget=200_000))
    next(batches)
    for old, new in zip(loose, newer, strict=True):
        for source, target in ((new, old), (_manifest(new), _manifest(old))):
            os.replace(_copy(source, tmp_path / "swap"), target)
    with pytest.raises(IntegrityError, match="changed while the dataset was in use") as caught:
        list(batches)
    assert caught.value.url in loose


def _manifest(url: str) -> str:
    return url.replace(".tar", ".manifest.parquet")


def _copy(source: str, target: Path) -> Path:
    target.write_bytes(Path(source).read_bytes())
    return target


def test_a_shard_that_vanishes_under_an_epoch(large: WrittenShards) -> None:
    batches = iter(atdata.Dataset[Large](large).shuffled(1, block=2, window=2, budget=200_000))
    next(batches)
    for url in large:
        os.unlink(url)
    with pytest.raises(AtdataError, match="no such file") as caught:
        list(batches)
    assert caught.value.url in large


def broken(sample: Digit) -> Digit:
    if sample.label == 13:
        raise ZeroDivisionError("thirteen")
    return sample


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("step", ["map", "filter"])
def test_an_error_in_a_users_function_names_shard_key_and_step(
    urls: WrittenShards, bare: WrittenShards, size: int | None, step: str
) -> None:
    for shards in (urls, bare):
        ds = getattr(atdata.Dataset[Digit](shards), step)(broken)
        found: list[Any] = []
        with pytest.raises(StepError, match=rf"broken of a {step} step raised ZeroDivisionError: thirteen") as caught:
            found.extend(ds.shuffled(size, block=2, window=2))
        assert (caught.value.url, caught.value.key) == (shards[1], "000000013")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert (len(found) > 0) is (step == "map")  # a filter is asked of all samples first
        with pytest.raises(StepError) as caught:
            list(ds.ordered(size))
        assert caught.value.key == "000000013"


def test_numbers_that_are_not_there(urls: WrittenShards) -> None:
    ds = atdata.Dataset[Digit](urls)
    assert [s.label for s in ds[[3, -1, 3]]] == [3, 24, 3]
    assert [s.label for s in ds[np.array([], int)]] == []
    assert [s.label for s in ds.take(range(5, 0, -2))] == [5, 3, 1]
    assert ds.take([24, 0])[-1].label == 0
    assert ds.take([24, 0]).get("000000024").label == 24
    for wrong in ([25], [-26], [0, 10**12]):
        for attempt in (lambda w=wrong: ds[w], lambda w=wrong: ds.take(w), lambda w=wrong: ds.take(9)[w]):
            with pytest.raises(IndexError, match="there is no sample"):
                attempt()
    with pytest.raises(IndexError, match="there is no sample 13: the dataset has 13"):
        list(ds.filter(lambda s: s.label % 2 == 0).take([1, 13]).shuffled())
    for nonsense in ([1.5], ["a"], [[1]], [True, False], "ab", None):
        with pytest.raises(TypeError):
            ds.take(nonsense)  # type: ignore[arg-type]


def test_abandoned_epochs_leave_no_threads(large: WrittenShards) -> None:
    def at_work() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name.startswith("atdata-ahead")]

    ds = atdata.Dataset[Large](large, verify="always")
    for _ in range(3):
        for _ in ds.shuffled(2, block=2, window=2):
            break
    iterator = iter(ds.shuffled(2))
    next(iterator)
    del iterator
    gc.collect()
    for thread in at_work():
        thread.join(10)
    assert at_work() == []
    loader = ds.shuffled(2)
    loader.close()
    batches = iter(loader)
    next(batches)
    loader.close()
    assert at_work() == []


def test_an_interrupt_ends_cleanly(large: WrittenShards) -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import atdata, threading
ds = atdata.Dataset({str(Path(large[0]).parent)!r}, verify="always")
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
loader = ds.shuffled(3, block=2)
try:
    while True:
        for batch in loader:
            batch.data
except KeyboardInterrupt:
    print("interrupted", loader.state_dict()["position"] >= 0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "interrupted True", "")
