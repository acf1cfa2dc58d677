"""Memory that workers lend: given back when nobody holds it, never before, and by nobody else."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

import atdata
from atdata.integrations.lending import Borrower, Lender, borrow
from forking import in_fork

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

SHAPE = (300, 100)
KIND = np.dtype(np.float32)


@pytest.fixture(params=["known", "unknown"])
def reader(request: pytest.FixtureRequest) -> Iterator[bytes | None]:
    """Who borrows, with and without memory at hand."""
    borrower = Borrower()
    yield borrower.key if request.param == "known" else None
    del borrower


def made(lender: Lender, value: float, shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    array = lender.array(shape, KIND)
    assert array is not None
    array[...] = value
    return array


def pieces(lender: Lender) -> int:
    return len(lender._pieces)


def descriptors() -> int:
    """Open files of this process that are pieces of memory."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of a thread that closes its own meanwhile
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(link.startswith("/memfd:atdata") for link in links)


# -- between two who know each other ---------------------------------------------------------------------------


def test_memory_is_filled_again_when_it_was_given_back(reader: bytes | None) -> None:
    lender = Lender()
    for round_ in range(5):
        array = made(lender, round_)
        loan = lender.lend(array)
        assert loan is not None
        found = borrow(loan, reader)
        assert np.shares_memory(found, found[...])
        assert (found == round_).all()
        del array
        found[0, 0] = -1  # it is the borrower's own
        del found
        assert pieces(lender) == 1


def test_what_is_held_anywhere_is_not_filled_again(reader: bytes | None) -> None:
    lender = Lender()
    first = made(lender, 1)
    loan = lender.lend(first)
    assert loan is not None
    found = borrow(loan, reader)
    view = found[10:20].T
    del found
    second = made(lender, 2)  # the first is still held here, and a view of it there
    del first
    third = made(lender, 3)
    assert pieces(lender) == 3
    assert (view == 1).all()
    del view
    fourth = made(lender, 4)
    assert pieces(lender) == 3
    assert [array[0, 0] for array in (second, third, fourth)] == [2, 3, 4]


def test_what_was_never_sent_or_is_on_its_way() -> None:
    lender = Lender()
    dropped = made(lender, 1)
    del dropped
    sent = made(lender, 2)
    assert pieces(lender) == 1
    loan = lender.lend(sent)
    assert loan is not None
    assert lender.lend(sent) is None, "there is one who gives it back"
    del sent
    assert (made(lender, 3) == 3).all()
    assert pieces(lender) == 2, "the one that is on its way is not touched"
    assert (borrow(loan, None) == 2).all()


def test_only_its_own_arrays_are_lent() -> None:
    lender = Lender()
    array = made(lender, 1)
    assert lender.lend(array[1:]) is None
    assert lender.lend(array.copy()) is None
    del array
    for _ in range(100):  # one may come to lie where another was
        made(lender, 1)
        strangers = [np.zeros(SHAPE, KIND) for _ in range(3)]
        assert all(lender.lend(stranger) is None for stranger in strangers)


def test_pieces_that_nobody_needs_any_more_go() -> None:
    gc.collect()  # what other tests left is not to go meanwhile
    lender = Lender()
    before = descriptors()
    many = [made(lender, n) for n in range(20)]
    assert pieces(lender) == 20
    many.clear()
    made(lender, 1, (600, 100))
    assert pieces(lender) <= 6
    assert descriptors() - before <= 2 * pieces(lender)  # Python's mmap holds one of its own
    del lender
    gc.collect()
    assert descriptors() == before


def test_a_smaller_batch_lies_in_the_memory_of_a_larger_one(reader: bytes | None) -> None:
    lender = Lender()
    loan = lender.lend(made(lender, 1))
    assert loan is not None
    borrow(loan, reader)
    loan = lender.lend(small := made(lender, 2, (200, 100)))
    assert loan is not None
    assert (borrow(loan, reader) == 2).all()
    assert small.shape == (200, 100)
    assert pieces(lender) == 1


def test_a_fork_gives_nothing_back(reader: bytes | None) -> None:
    lender = Lender()
    loan = lender.lend(made(lender, 1))
    assert loan is not None
    held = [borrow(loan, reader)]

    def dropping() -> str:
        held.clear()
        gc.collect()
        return "dropped"

    assert in_fork(dropping) == "dropped"
    made(lender, 2)
    assert (held[0] == 1).all()
    assert pieces(lender) == 2


def test_a_lender_that_is_gone() -> None:
    code = "import numpy as np, os, pickle, sys\nfrom atdata.integrations.lending import Lender\n"
    code += "lender = Lender()\narray = lender.array((300, 100), np.dtype('f4'))\n"
    code += "sys.stdout.buffer.write(pickle.dumps(lender.lend(array)))"
    loan = pickle.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    with pytest.raises(RuntimeError, match=f"the worker {loan.pid} is gone, and with it a batch that it had made"):
        borrow(loan, None)
    for descriptor in (os.open(__file__, os.O_RDONLY), os.memfd_create("another")):
        try:
            with pytest.raises(RuntimeError, match="is gone"):
                borrow(loan._replace(pid=os.getpid(), descriptor=descriptor), None)
        finally:
            os.close(descriptor)


# -- through a DataLoader --------------------------------------------------------------------------------------


@atdata.packable
class Wide:
    large: NDArray[np.float32]
    number: int


COUNT = 60


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    samples = [Wide(np.full((130, 70), n, np.float32), n) for n in range(COUNT)]
    store = atdata.LocalDiskStore(tmp_path_factory.mktemp("wide"))
    return store.write_shards(atdata.Dataset.from_samples(samples, Wide), prefix="wide", maxcount=20)


def right(batch: Any) -> bool:
    return bool((batch["large"] == batch["number"].reshape(-1, 1, 1)).all())


@pytest.mark.parametrize("size", [None, 1])
def test_batches_that_are_kept_stay_as_they_are(wide: list[str], size: int | None) -> None:
    loader = atdata.Dataset[Wide](wide).shuffled(batch_size=4, seed=1)
    batches = DataLoader(loader.torch(), num_workers=2, batch_size=size, persistent_workers=True)
    kept = [batch for _ in range(2) for batch in batches]
    views = [batch["large"].numpy()[1:, 0] for batch in batches]
    numbers = [batch["number"] for batch in batches]
    for _ in batches:
        pass
    assert len(kept) == 2 * len(views) == 2 * COUNT // 4
    assert all(map(right, kept))
    assert all((view[:, 0] == n[1:].numpy()).all() for view, n in zip(views, numbers, strict=True))
    assert batches._iterator is not None
    batches._iterator._shutdown_workers()  # type: ignore[attr-defined]
    assert all(map(right, kept)), "also when the workers are gone"


class Keeping(IterableDataset[Any]):
    """Gives each batch with what it has kept of the one before, in the worker."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        before = None
        for batch in self._batches:
            yield {"now": batch, "right": before is None or right(before)}
            before = batch


def test_batches_that_a_worker_keeps_stay_as_they_are(wide: list[str]) -> None:
    loader = atdata.Dataset[Wide](wide).ordered(batch_size=4)
    found = [(right(pair["now"]), pair["right"]) for pair in DataLoader(Keeping(loader.torch()), 1, num_workers=1)]
    assert len(found) == COUNT // 4
    assert all(now and bool(before) for now, before in found)


class Writing(IterableDataset[Any]):
    """Pickles batches in the worker, as into a file."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            yield pickle.dumps(batch)


def test_batches_that_are_pickled_into_a_file_hold_their_values(wide: list[str]) -> None:
    loader = atdata.Dataset[Wide](wide).ordered(batch_size=4)
    files = list(DataLoader(Writing(loader.torch()), batch_size=None, num_workers=1))
    assert all(right(pickle.loads(file)) for file in files)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_workers_that_are_started_anew(wide: list[str], start: str) -> None:
    loader = atdata.Dataset[Wide](wide).shuffled(batch_size=4, seed=1)
    batches = DataLoader(loader.torch(), num_workers=2, multiprocessing_context=multiprocessing.get_context(start))
    wanted = [batch.number for batch in loader]
    for _ in range(2):
        found = list(batches)
        assert [batch["number"].tolist() for batch in found] == wanted
        assert all(map(right, found))


def test_a_worker_fills_the_same_memory_again(wide: list[str], tmp_path: Path) -> None:
    loader = atdata.Dataset[Wide](wide).ordered(batch_size=4)
    batches = DataLoader(loader.torch(), batch_size=None, num_workers=1)
    places = set()
    for batch in batches:
        places.add(batch["large"].data_ptr())
        assert right(batch)
        del batch
    assert len(places) <= 6 < COUNT // 4
