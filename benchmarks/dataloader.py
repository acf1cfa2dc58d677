"""Batches as tensors out of PyTorch's DataLoader: in this process, and from two workers."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers
from harness import Bar, Contender, Context, Result, compare, rates, ratio
from workloads import LARGE, Workload, chosen

TITLE = "DataLoader"
SIZE = 64
WORKERS = 2
# A turn takes long enough for what passes between the processes to come to rest.
_EPOCHS = {"S": 2, "L": 10}


def run(ctx: Context) -> Result:
    """Both kinds."""
    result = Result()
    if not peers.available(ctx, "torch"):
        result.missing.append("torch")
        return result
    for work in chosen(ctx):
        _run(ctx, work, result)
    return result


def _run(ctx: Context, work: Workload, result: Result) -> None:
    folder = work.written(ctx)
    dataset = work.dataset(folder)
    loaders = {
        "atdata, 2 workers": _loader(dataset.ordered(SIZE).torch(), WORKERS),
        "atdata, in this process": _loader(dataset.ordered(SIZE).torch(), 0),
        "atdata, shuffled, 2 workers": _loader(dataset.shuffled(SIZE, seed=1).torch(), WORKERS),
        "bare copy loop, 2 workers": _loader(_bare(work, folder), WORKERS),
    }
    if peers.available(ctx, "webdataset"):
        theirs = _webdataset(work, peers.webdataset_shards(ctx, work))
        loaders["webdataset, 2 workers"] = _loader(theirs, WORKERS)
        loaders["webdataset, in this process"] = _loader(theirs, 0)
    else:
        result.missing.append("webdataset")
    try:
        contenders = [Contender(name, _taking(work, loader)) for name, loader in loaders.items()]
        timings = compare(contenders, ctx.rounds, runs=1)
    finally:
        for loader in loaders.values():
            _end(loader)
    result.tables.append(
        rates(
            f"{TITLE}, batches of {SIZE} as tensors, {work}",
            "samples/s",
            work.count(ctx) * _EPOCHS[work.letter],
            timings,
            f"{_EPOCHS[work.letter]} epochs a turn, workers that persist and are there already; nothing is done with a "
            "batch but to touch each array. Tensors of workers pass through shared memory: PyTorch's way is new memory "
            "for each, atdata's is to fill the same again. The bare loop copies arrays straight into shared memory, "
            "PyTorch's way, and makes nothing else.",
        )
    )
    if work is LARGE:
        bare = ratio(timings, "atdata, 2 workers", "bare copy loop, 2 workers")
        alone = ratio(timings, "atdata, 2 workers", "atdata, in this process")
        # What the machine cannot do is not asked: of the two, that which asks for less.
        shares = [max(a / 0.9, b / 1.3) for a, b in zip(bare, alone, strict=True)]
        text = "DataLoader, L, 2 workers: of the lower of 1.3 times none, 0.9 times bare"
        result.bars.append(Bar(text, 1.0, *shares))
    if "webdataset, 2 workers" in timings:
        found = ratio(timings, "atdata, 2 workers", "webdataset, 2 workers")
        result.bars.append(Bar(f"DataLoader, {work.letter}, 2 workers: times webdataset in 2 workers", 3.0, *found))


def _loader(dataset: Any, workers: int) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0)


def _end(loader: Any) -> None:
    if loader._iterator is not None and loader.num_workers:
        loader._iterator._shutdown_workers()


def _taking(work: Workload, loader: Any) -> Callable[[], int]:
    """Every batch of some epochs, each sample's array touched; the number of samples."""

    def take() -> int:
        count = 0
        for _ in range(_EPOCHS[work.letter]):
            for batch in loader:
                arrays = batch[work.array]
                arrays.reshape(len(arrays), -1)[:, 0].sum().item()
                count += len(arrays)
        return count

    return take


def _webdataset(work: Workload, shards: list[str]) -> Any:
    """What the webdataset package gives a DataLoader: shards dealt to the workers, batches made of tensors there."""
    import torch

    def tensors(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, work.array: torch.from_numpy(batch[work.array]), "idx": torch.tensor(batch["idx"])}

    return peers.webdataset_batches(work, shards, SIZE).map(tensors)


def _bare(work: Workload, folder: Path) -> Any:
    """The least that has to be done: each array copied from the mapped file into memory that both processes have."""
    import pyarrow.parquet as pq
    import torch
    from torch.utils.data import IterableDataset, get_worker_info

    shards = []
    for path in sorted(folder.glob("*.tar")):
        table = pq.read_table(str(path).removesuffix(".tar") + ".manifest.parquet")
        shards.append((path, table[f"__offset__{work.array}"].to_pylist()))
    shape, dtype = work.shape, work.dtype
    size = int(np.prod(shape)) * dtype.itemsize
    kind = torch.from_numpy(np.empty(0, dtype)).dtype

    class Bare(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            info = get_worker_info()
            worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
            batches = []
            for path, offsets in shards:
                with path.open("rb") as file:
                    mapped = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
                batches += [(mapped, offsets[at : at + SIZE]) for at in range(0, len(offsets), SIZE)]
            for mapped, some in batches[worker::workers]:
                storage = torch.UntypedStorage._new_shared(len(some) * size)
                raw = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (len(some) * size,))
                target = memoryview(raw.numpy())
                for i, offset in enumerate(some):
                    target[i * size : (i + 1) * size] = mapped[offset : offset + size]
                yield {work.array: torch.empty(0, dtype=kind).set_(storage, 0, (len(some), *shape))}

    return Bare()
