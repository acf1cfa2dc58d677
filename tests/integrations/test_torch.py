"""PyTorch: batches as tensors, DataLoaders however they start their workers, and ranks that are killed and resumed."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import atdata

# What they say of themselves, of machines with few cores, and of a GPU that is not there.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

COUNT = 203


@atdata.packable
class Item:
    image: NDArray[np.uint8]
    number: int
    weight: float
    flag: bool
    name: str
    note: str | None = None


def items(count: int = COUNT) -> list[Item]:
    return [Item(np.full((2, 3), n % 251, np.uint8), n, n / 4, n % 2 == 0, f"item {n}") for n in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("torch")
    atdata.LocalDiskStore(root).write_shards(atdata.Dataset.from_samples(items(), Item), prefix="items", maxcount=50)
    return root / "items"


@pytest.fixture
def dataset(folder: Path) -> Any:
    return atdata.Dataset[Item](folder)


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def numbers(batches: Any) -> list[list[int]]:
    return [batch["number"].tolist() for batch in batches]


def closing(loader: Any) -> Any:
    """Ends the workers of a DataLoader that persist."""
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()


# -- tensors -----------------------------------------------------------------------------------------------------------


def test_a_batch_becomes_tensors_that_share_its_memory(dataset: Any) -> None:
    batch = next(iter(dataset.ordered(batch_size=4)))
    found = batch.to_torch()
    assert list(found) == ["image", "number", "weight", "flag", "name", "note"]
    assert (found["image"].dtype, found["image"].shape) == (torch.uint8, (4, 2, 3))
    assert found["number"].tolist() == [0, 1, 2, 3]
    assert found["number"].dtype == torch.int64
    assert (found["weight"].dtype, found["flag"].dtype) == (torch.float64, torch.bool)
    assert found["name"] == ["item 0", "item 1", "item 2", "item 3"]
    assert found["note"] == [None] * 4
    assert found.valid.tolist() == [True] * 4
    batch.image[0, 0, 0] = 99
    assert found["image"][0, 0, 0] == 99


def test_what_no_tensor_can_hold_stays_what_it_is() -> None:
    batch = atdata.SampleBatch(
        [
            atdata.DictSample(big=1 << 70, ragged=np.zeros(n, np.int16), mixed=n or None, text=np.array(["a", "b"]))
            for n in range(2)
        ]
    )
    found = batch.to_torch()
    assert found["big"] == [1 << 70, 1 << 70]
    assert found["mixed"] == [None, 1]
    assert [tuple(one.shape) for one in found["ragged"]] == [(0,), (1,)]
    assert all(isinstance(one, torch.Tensor) for one in found["ragged"])
    assert isinstance(found["text"], np.ndarray)


def test_arrays_in_the_other_byte_order_keep_their_values() -> None:
    batch = atdata.SampleBatch([atdata.DictSample(x=np.array([1, -2, 300], ">i2")) for _ in range(2)])
    assert batch.to_torch()["x"].tolist() == [[1, -2, 300]] * 2


def test_padding_is_told_from_samples(dataset: Any) -> None:
    last = list(dataset.ordered(batch_size=64, remainder="pad"))[-1].to_torch()
    assert last.valid.tolist() == [True] * (COUNT % 64) + [False] * (64 - COUNT % 64)
    copied = pickle.loads(pickle.dumps(last))
    assert copied.valid.tolist() == last.valid.tolist()
    assert last.to("cpu").valid.tolist() == last.valid.tolist()


# -- from workers ------------------------------------------------------------------------------------------------------


@atdata.packable
class Wide:
    large: NDArray[np.float32]
    small: NDArray[np.complex64]
    swapped: NDArray[np.int32]
    ragged: NDArray[np.uint8]
    number: int


def wide(count: int) -> list[Wide]:
    return [
        Wide(
            np.full((130, 70), n, np.float32), np.full(3, n * 1j, np.complex64), np.full((100, 100), n, ">i4"),
            np.full(40_000 + n, n, np.uint8), n,
        )
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [None, 1])
def test_large_and_small_tensors_of_workers(tmp_path: Path, seed: int | None) -> None:
    urls = atdata.LocalDiskStore(tmp_path).write_shards(
        atdata.Dataset.from_samples(wide(20), Wide), prefix="wide", maxcount=6
    )
    ds = atdata.Dataset[Wide](urls)
    loader = ds.ordered(batch_size=4) if seed is None else ds.shuffled(batch_size=4, seed=seed)
    here = [batch.to_torch() for batch in loader]
    for batch, wanted in zip(DataLoader(loader.torch(), num_workers=2), here, strict=True):
        assert list(batch) == list(wanted)
        for name in ("large", "small", "swapped", "number"):
            assert torch.equal(batch[name], wanted[name])
            assert batch[name].dtype == wanted[name].dtype
            batch[name].add_(1)  # the caller's own
        assert all(torch.equal(a, b) for a, b in zip(batch["ragged"], wanted["ragged"], strict=True))
        assert batch.valid.tolist() == [True] * 4
        batch.valid[0] = False


def test_padding_comes_from_workers_too(dataset: Any) -> None:
    loader = dataset.ordered(batch_size=64, remainder="pad")
    found = [batch.valid.tolist() for batch in DataLoader(loader.torch(), num_workers=2)]
    assert found == [batch.valid.tolist() for batch in loader]
    assert not all(map(all, found))


def test_views_come_from_workers_too(tmp_path: Path) -> None:
    @atdata.packable
    class Seen:
        image: NDArray[np.float32]
        id: int

    urls = atdata.LocalDiskStore(tmp_path).write_shards(atdata.Dataset.from_samples(wide(9), Wide), prefix="wide")
    lens = atdata.Lens.fields(
        Wide, Seen, rename={"large": "image", "number": "id"}, drop=["small", "swapped", "ragged"]
    )
    loader = atdata.Dataset[Wide](urls).as_type(lens).ordered(batch_size=4)
    found = list(DataLoader(loader.torch(), num_workers=2))
    assert [batch["id"].tolist() for batch in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert [batch["image"].shape for batch in found] == [(4, 130, 70), (4, 130, 70), (1, 130, 70)]


def test_a_batch_that_was_changed_is_sent_as_it_is() -> None:
    batch = atdata.SampleBatch([atdata.DictSample(x=np.arange(4.0), n=n) for n in range(2)]).to_torch()
    batch["x"] = batch["x"].t().to(torch.complex64).conj()
    batch["n"] = batch["n"].to(torch.bfloat16).requires_grad_()
    batch["more"] = torch.eye(3).to_sparse()
    sent = pickle.loads(pickle.dumps(batch))
    assert torch.equal(sent["x"], batch["x"])
    assert sent["n"].dtype == torch.bfloat16
    assert sent["n"].requires_grad
    assert torch.equal(sent["more"].to_dense(), torch.eye(3))


# -- DataLoader --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_batches_of_a_dataloader_are_those_of_the_loader(dataset: Any, workers: int) -> None:
    loader = dataset.shuffled(batch_size=16, seed=3)
    expected = [batch.number for batch in loader]
    batches = DataLoader(loader.torch(), num_workers=workers)
    assert len(batches) == len(expected)
    assert numbers(batches) == expected
    plain = DataLoader(loader.torch(), num_workers=workers, batch_size=None)
    assert numbers(plain) == expected, "and without batching of its own"


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_workers_may_be_started_in_any_way_and_persist(dataset: Any, start: str) -> None:
    loader = dataset.shuffled(batch_size=16, seed=3)
    epochs = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        epochs.append([batch.number for batch in loader])  # the parent has read before its workers start
    loader.set_epoch(0)
    batches = DataLoader(
        loader.torch(), num_workers=2, multiprocessing_context=start, persistent_workers=True, pin_memory=True
    )
    try:
        for epoch in range(3):
            loader.set_epoch(epoch)
            assert numbers(batches) == epochs[epoch]
    finally:
        closing(batches)


def test_workers_without_samples_are_no_trouble(dataset: Any) -> None:
    few = dataset.take(5).shuffled(batch_size=2)
    assert sorted(flat(numbers(DataLoader(few.torch(), num_workers=4)))) == list(range(5))
    alone = dataset.take(1).shuffled(batch_size=4, rank=2, world_size=3)
    assert list(DataLoader(alone.torch(), num_workers=2)) == []


def test_samples_can_be_batched_by_the_dataloader(dataset: Any) -> None:
    small = dataset.select_fields("image", "number")
    for workers in (0, 2):
        batches = list(DataLoader(small.ordered().torch(), num_workers=workers, batch_size=10))
        assert sorted(flat(numbers(batches))) == list(range(COUNT))
        assert batches[0]["image"].shape == (10, 2, 3)


def test_batches_are_not_batched_again(dataset: Any) -> None:
    with pytest.raises(ValueError, match="give it batch_size=None, and the batch size to ordered"):
        next(iter(DataLoader(dataset.ordered(batch_size=4).torch(), batch_size=2)))


def test_a_failing_map_names_shard_key_and_step_from_a_worker(dataset: Any) -> None:
    def broken(item: Item) -> Item:
        if item.number == 77:
            raise RuntimeError("no such picture")
        return item

    batches = DataLoader(dataset.map(broken).ordered(batch_size=8).torch(), num_workers=2)
    with pytest.raises(atdata.errors.StepError, match=r"map step raised RuntimeError: no such picture") as failure:
        list(batches)
    assert "shard-000001.tar" in str(failure.value)
    assert "000000077" in str(failure.value)


KILLED = """
import os, signal, sys
import atdata
from torch.utils.data import DataLoader

def deadly(item):
    if item.number == 0:
        print(os.getpid(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return item

list(DataLoader(atdata.Dataset(sys.argv[1]).map(deadly).ordered(batch_size=4).torch(), num_workers=2))
"""


def test_a_killed_worker_ends_the_iteration_with_an_error(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    named = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed|exited unexpectedly)", done.stderr)
    assert named is not None, done.stderr
    assert named[1] == done.stdout.strip(), "which worker it was is said"


def test_errors_pass_from_process_to_process(dataset: Any) -> None:
    error = atdata.errors.IntegrityError("changed", url="s3://a/b", offset=3, key="k", expected=1, got=2)
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.url, copied.offset, copied.key) == (str(error), "s3://a/b", 3, "k")


# -- state -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_stateful_dataloader_goes_on_exactly(dataset: Any, workers: int) -> None:
    def made() -> Any:
        return StatefulDataLoader(dataset.shuffled(batch_size=16, seed=3).torch(), num_workers=workers)

    expected = numbers(made())
    for done in (1, 4, len(expected) - 1):
        first = made()
        iterator = iter(first)
        head = [next(iterator)["number"].tolist() for _ in range(done)]
        state = first.state_dict()
        del iterator
        second = made()
        second.load_state_dict(state)
        assert head + numbers(second) == expected


def test_a_plain_dataloader_goes_on_with_other_numbers_of_workers(dataset: Any) -> None:
    loader = dataset.shuffled(batch_size=16, seed=3)
    expected = [batch.number for batch in loader]
    iterator = iter(DataLoader(loader.torch(), num_workers=2))
    head = [next(iterator)["number"].tolist() for _ in range(5)]
    state = json.loads(json.dumps(loader.state_after(5)))
    del iterator
    for workers in (0, 3):
        other = dataset.shuffled(batch_size=16, seed=3)
        batches = DataLoader(other.torch(), num_workers=workers)
        other.load_state_dict(state)  # also after the DataLoader was made
        assert head + numbers(batches) == expected


# -- torch.distributed -------------------------------------------------------------------------------------------------


def ranks(folder: Path, data: Path, count: int, workers: int, state: Path | None = None) -> list[Any]:
    program = Path(__file__).with_name("train_rank.py")
    extra = [] if state is None else [str(state)]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return [
        subprocess.Popen(
            [sys.executable, str(program), str(data), str(folder), str(rank), str(count), str(workers), *extra],
            env=environment | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]


def finished(processes: list[Any]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()


def seen(folder: Path, count: int, until: int | None = None) -> list[int]:
    found = []
    for rank in range(count):
        for line in (folder / f"seen-{rank}.txt").read_text().splitlines():
            step, some = json.loads(line)
            if until is None or step <= until:
                found += some
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("count", "workers"), [(2, 0), (3, 2)])
def test_ranks_that_found_each_other_read_every_sample_once(
    folder: Path, tmp_path: Path, count: int, workers: int
) -> None:
    finished(ranks(tmp_path, folder, count, workers))
    assert sorted(seen(tmp_path, count)) == list(range(COUNT))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [((4, 1), (2, 3)), ((1, 4), (3, 0))])
def test_killed_ranks_go_on_as_others(
    folder: Path, tmp_path: Path, before: tuple[int, int], after: tuple[int, int]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    processes = ranks(first, folder, *before)
    state = first / "state.json"
    deadline = time.monotonic() + 120
    while not (state.exists() and json.loads(state.read_text())["step"] >= 2):
        assert time.monotonic() < deadline, "the ranks did not begin"
        assert all(process.poll() is None for process in processes) or state.exists()
        time.sleep(0.01)
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it had ended
    for process in processes:
        process.communicate(timeout=60)
    saved = json.loads(state.read_text())
    resumed = tmp_path / "resume.json"
    resumed.write_text(json.dumps(saved["state"]))
    finished(ranks(second, folder, *after, state=resumed))
    together = seen(first, before[0], until=saved["step"]) + seen(second, after[0])
    assert sorted(together) == list(range(COUNT))


# -- object storage ----------------------------------------------------------------------------------------------------


@pytest.fixture
def far(rgw: Any, bucket: str) -> Any:
    store = atdata.S3DataStore(rgw.credentials, bucket=bucket, share_credentials=True)
    urls = store.write_shards(atdata.Dataset.from_samples(items(), Item), prefix="items", maxcount=50)
    return atdata.Dataset[Item](urls, store=store)


@pytest.mark.slow
@pytest.mark.parametrize("start", multiprocessing.get_all_start_methods())
def test_workers_read_from_s3_after_their_parent_has(far: Any, start: str) -> None:
    loader = far.shuffled(batch_size=16, seed=3)
    expected = [batch.number for batch in loader]
    assert numbers(DataLoader(loader.torch(), num_workers=2, multiprocessing_context=start, timeout=60)) == expected
