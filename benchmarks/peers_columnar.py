"""Peers with formats of their own: Parquet, Lance, Hugging Face datasets, ArrayRecord through grain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peers
from harness import Context
from numpy.typing import NDArray
from workloads import Workload

# What a batch is for all of them: the arrays stacked into one, the labels and numbers as lists.
Batch = tuple[NDArray[Any], list[str], list[int]]


def table(ctx: Context, work: Workload) -> Any:
    """The samples as one Arrow table; an array field is a column of fixed-size lists."""
    import pyarrow as pa

    samples = work.samples(ctx)
    flat = np.concatenate([getattr(s, work.array).reshape(-1) for s in samples])
    arrays = pa.FixedSizeListArray.from_arrays(pa.array(flat), int(np.prod(work.shape)))
    labels = pa.array([s.label for s in samples], pa.string())
    return pa.table({work.array: arrays, "label": labels, "idx": pa.array([s.idx for s in samples], pa.int64())})


def as_batch(work: Workload, found: Any) -> Batch:
    """An Arrow batch or table in the form of all batches; the array is new memory, as ours is."""
    column = found.column(work.array)
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
        if hasattr(column, "chunks"):
            column = column.chunk(0)
    array = stacked(work, column).copy()
    return array, found.column("label").to_pylist(), found.column("idx").to_pylist()


def stacked(work: Workload, column: Any) -> NDArray[Any]:
    """A column of fixed-size lists as an array of shape (rows, …), without copying."""
    found: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=True)
    return found.reshape((len(column), *work.shape))


# -- Parquet ---------------------------------------------------------------------------------------------------------


def parquet_file(ctx: Context, work: Workload) -> Path:
    """The samples as pyarrow writes them by default, in row groups of about 64 MB."""
    import pyarrow.parquet as pq

    def make(folder: Path) -> None:
        folder.mkdir()
        found = table(ctx, work)
        rows = max(1, (64 << 20) * len(found) // max(1, found.nbytes))
        pq.write_table(found, folder / "data.parquet", row_group_size=rows)

    return peers.prepared(work.folder(ctx, "parquet"), make) / "data.parquet"


def parquet_batches(work: Workload, path: Path, size: int) -> Iterator[Batch]:
    """All batches in order."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, memory_map=True) as file:
        for found in file.iter_batches(size):
            yield as_batch(work, found)


def parquet_column(work: Workload, path: Path, name: str) -> NDArray[Any]:
    """One column as one array."""
    import pyarrow.parquet as pq

    column = pq.read_table(path, columns=[name], memory_map=True).column(name).combine_chunks()
    if name == work.array:
        return stacked(work, column.chunk(0) if hasattr(column, "chunks") else column)
    found: NDArray[Any] = column.to_numpy()
    return found


# -- Lance -----------------------------------------------------------------------------------------------------------


def lance_dataset(ctx: Context, work: Workload) -> Any:
    """The samples in a Lance dataset as its own writer makes it."""
    import lance

    folder = peers.prepared(
        work.folder(ctx, "lance"), lambda folder: lance.write_dataset(table(ctx, work), str(folder / "data.lance"))
    )
    return lance.dataset(str(folder / "data.lance"))


def lance_batches(work: Workload, dataset: Any, size: int) -> Iterator[Batch]:
    """All batches in order."""
    for found in dataset.to_batches(batch_size=size):
        yield as_batch(work, found)


def lance_take(work: Workload, dataset: Any, rows: Sequence[int]) -> Batch:
    """These samples, in that order."""
    return as_batch(work, dataset.take(rows))


# -- Hugging Face datasets -------------------------------------------------------------------------------------------


def arrow_dataset(ctx: Context, work: Workload) -> Any:
    """The samples in an Arrow dataset on disk, mapped into memory."""
    import datasets

    def make(folder: Path) -> None:
        datasets.disable_progress_bars()
        datasets.Dataset(table(ctx, work)).save_to_disk(str(folder / "arrow"))

    folder = peers.prepared(work.folder(ctx, "datasets"), make)
    return datasets.load_from_disk(str(folder / "arrow")).with_format("arrow")


def arrow_batches(work: Workload, dataset: Any, size: int) -> Iterator[Batch]:
    """All batches in order."""
    for found in dataset.iter(batch_size=size):
        yield as_batch(work, found)


def arrow_take(work: Workload, dataset: Any, rows: Sequence[int]) -> Batch:
    """These samples, in that order."""
    return as_batch(work, dataset[list(rows)])


def tars_dataset(work: Workload, shards: list[str]) -> Any:
    """The samples of webdataset's shards, streamed and decoded as webdataset's own are."""
    import datasets

    found = datasets.load_dataset("webdataset", data_files=shards, split="train", streaming=True)
    return found.map(peers.webdataset_decoder(work), remove_columns=["__key__", "__url__", "msgpack"])


# -- ArrayRecord, read through grain ---------------------------------------------------------------------------------


def grain_source(ctx: Context, work: Workload) -> Any:
    """Random access to the samples in an ArrayRecord file, each packed as in our shards."""
    import ormsgpack
    from array_record.python import array_record_module

    payload = peers.webdataset_payload(work)

    def make(folder: Path) -> None:
        folder.mkdir()
        # Groups of one record are what its documentation has for random access.
        writer = array_record_module.ArrayRecordWriter(str(folder / "data.array_record"), "group_size:1")
        for sample in work.samples(ctx):
            writer.write(ormsgpack.packb(payload(sample)))
        writer.close()

    folder = peers.prepared(work.folder(ctx, "array_record"), make)
    with peers.quiet():
        import grain

        return grain.sources.ArrayRecordDataSource(str(folder / "data.array_record"))


def grain_batches(ctx: Context, work: Workload, source: Any, size: int, *, seed: int | None = None) -> Any:
    """An iterable of batches in one thread, in order or shuffled over the whole."""
    with peers.quiet():
        import grain

    decode = peers.webdataset_decoder(work)
    name = work.array

    def collate(samples: Sequence[Any]) -> Batch:
        return np.stack([s[name] for s in samples]), [s["label"] for s in samples], [s["idx"] for s in samples]

    found = grain.MapDataset.source(source)
    if seed is not None:
        found = found.shuffle(seed=seed)
    found = found.map(lambda record: decode({"msgpack": record}))
    return found.batch(size, batch_fn=collate).to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
