"""How the ranks of a training read with each library: workers, a shuffle and a state, as its documentation has it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers
import peers_columnar as columnar
from harness import Context
from workloads import Workload

SHARDS = 32  # a multiple of the number of readers: some of the libraries deal out whole shards
SEED = 7
BUFFER = 1000  # samples of a shuffle buffer, where there is one


@dataclass(frozen=True)
class Part:
    """What one rank is to read.

    Attributes:
        folder: what `Peer.prepare` gave.
        work: the kind of samples.
        count: how many there are.
        rank, ranks: which rank this is, and of how many.
        workers: processes that read for it.
        batch: samples of its batches.
    """

    folder: Path
    work: Workload
    count: int
    rank: int
    ranks: int
    workers: int
    batch: int


# The numbers of the samples of each batch, and what gives the state after that many batches.
Reading = tuple[Iterator[list[int]], Callable[[int], Any]]


@dataclass(frozen=True)
class Peer:
    """One way to read.

    Attributes:
        name: how the tables call it.
        package: what has to be there to compare with.
        prepare: writes the samples, unless an earlier run did, and says where.
        read: begins an epoch in the process of one rank, where `torch.distributed` is up, or goes on from a state.
        state: whether it has a state to go on from.
        elastic: whether its documentation has it go on with other numbers of workers, and of ranks.
    """

    name: str
    package: str
    prepare: Callable[[Context, Workload], Path]
    read: Callable[[Part, Any], Reading]
    state: bool = True
    elastic: tuple[bool, bool] = (False, False)


def _each(ctx: Context, work: Workload) -> int:
    return -(-work.count(ctx) // SHARDS)


def _numbers(batches: Iterable[Mapping[str, Any]]) -> Iterator[list[int]]:
    for batch in batches:
        found = batch["idx"]
        yield found.tolist() if hasattr(found, "tolist") else [int(n) for n in found]


def _no_state(batches: int) -> None:
    """Of libraries that have none."""


# -- atdata ----------------------------------------------------------------------------------------------------------


def _atdata_prepare(ctx: Context, work: Workload) -> Path:
    import atdata

    def make(folder: Path) -> None:
        source = atdata.Dataset.from_samples(work.samples(ctx), work.sample_type)
        atdata.LocalDiskStore(folder).write_shards(source, prefix="data", maxcount=_each(ctx, work))

    return peers.prepared(work.folder(ctx, "atdata-shards"), make) / "data"


def _atdata(part: Part, state: Any) -> Reading:
    from torch.utils.data import DataLoader

    loader = part.work.dataset(part.folder).shuffled(part.batch, seed=SEED)
    if state is not None:
        loader.load_state_dict(state)
    batches = DataLoader(loader.torch(), batch_size=None, num_workers=part.workers)
    return _numbers(batches), loader.state_after


# -- webdataset ------------------------------------------------------------------------------------------------------


def _tars(ctx: Context, work: Workload) -> Path:
    return peers.prepared(
        work.folder(ctx, "webdataset-shards"),
        lambda folder: peers.webdataset_write(work, work.samples(ctx), folder, maxcount=_each(ctx, work)),
    )


def _webdataset(part: Part, resampled: bool) -> Reading:
    import webdataset

    shards = sorted(str(path) for path in part.folder.glob("*.tar"))
    if resampled:
        found = webdataset.WebDataset(shards, resampled=True, nodesplitter=webdataset.split_by_node, seed=SEED)
    else:
        found = webdataset.WebDataset(
            shards, nodesplitter=webdataset.split_by_node, shardshuffle=100, detshuffle=True, seed=SEED
        )
    found = found.shuffle(BUFFER).map(peers.webdataset_decoder(part.work))

    def collate(samples: list[Any]) -> dict[str, Any]:
        return {name: [s[name] for s in samples] for name in (part.work.array, "label", "idx")}

    found = found.batched(part.batch, collation_fn=collate, partial=True)
    if resampled:
        found = found.with_epoch(part.count // (part.ranks * part.workers * part.batch))
    return _numbers(webdataset.WebLoader(found, batch_size=None, num_workers=part.workers)), _no_state


# -- MosaicML Streaming ----------------------------------------------------------------------------------------------


def _streaming_prepare(ctx: Context, work: Workload) -> Path:
    return peers.prepared(
        work.folder(ctx, "streaming-shards"),
        lambda folder: peers.streaming_write(ctx, work, folder, size_limit=96 * _each(ctx, work)),
    )


def _streaming(part: Part, state: Any) -> Reading:
    package = peers.streaming()
    dataset = package.StreamingDataset(local=str(part.folder), shuffle=True, shuffle_seed=SEED, batch_size=part.batch)
    loader = package.StreamingDataLoader(dataset, batch_size=part.batch, num_workers=part.workers)
    if state is not None:
        loader.load_state_dict(state)
    return _numbers(loader), lambda batches: loader.state_dict()


# -- LitData ---------------------------------------------------------------------------------------------------------


def _litdata_prepare(ctx: Context, work: Workload) -> Path:
    return peers.prepared(
        work.folder(ctx, "litdata-shards"),
        lambda folder: peers.litdata_write(ctx, work, folder, chunk_size=_each(ctx, work)),
    )


def _litdata(part: Part, state: Any) -> Reading:
    import litdata

    dataset = litdata.StreamingDataset(str(part.folder), shuffle=True, seed=SEED)
    loader = litdata.StreamingDataLoader(dataset, batch_size=part.batch, num_workers=part.workers)
    if state is not None:
        loader.load_state_dict(state)
    return _numbers(loader), lambda batches: loader.state_dict()


# -- Hugging Face datasets -------------------------------------------------------------------------------------------


def _arrow_prepare(ctx: Context, work: Workload) -> Path:
    import datasets

    def make(folder: Path) -> None:
        datasets.disable_progress_bars()
        datasets.Dataset(columnar.table(ctx, work)).save_to_disk(str(folder), num_shards=SHARDS)

    return peers.prepared(work.folder(ctx, "datasets-shards"), make)


def _stateful(part: Part, dataset: Any, state: Any, **settings: Any) -> Reading:
    from torchdata.stateful_dataloader import StatefulDataLoader

    loader = StatefulDataLoader(dataset, batch_size=part.batch, num_workers=part.workers, **settings)
    if state is not None:
        loader.load_state_dict(state)
    return _numbers(loader), lambda batches: loader.state_dict()


def _arrow(part: Part, state: Any) -> Reading:
    import torch
    from datasets.distributed import split_dataset_by_node

    import datasets

    found = datasets.load_from_disk(str(part.folder)).with_format("torch")
    found = split_dataset_by_node(found, rank=part.rank, world_size=part.ranks)
    return _stateful(part, found, state, shuffle=True, generator=torch.Generator().manual_seed(SEED))


def _arrow_iterable(part: Part, state: Any) -> Reading:
    import datasets

    found = datasets.load_from_disk(str(part.folder)).to_iterable_dataset(num_shards=SHARDS).with_format("torch")
    return _iterable(part, found, state)


def _tars_iterable(part: Part, state: Any) -> Reading:
    shards = sorted(str(path) for path in part.folder.glob("*.tar"))
    return _iterable(part, columnar.tars_dataset(part.work, shards), state)


def _iterable(part: Part, found: Any, state: Any) -> Reading:
    from datasets.distributed import split_dataset_by_node

    found = split_dataset_by_node(found, rank=part.rank, world_size=part.ranks)
    # By default the buffer is filled from ten shards in turn, which this version cannot go on with: an IndexError.
    return _stateful(part, found.shuffle(seed=SEED, buffer_size=BUFFER, max_buffer_input_shards=1), state)


# -- Lance -----------------------------------------------------------------------------------------------------------


def _lance_prepare(ctx: Context, work: Workload) -> Path:
    import lance

    def make(folder: Path) -> None:
        lance.write_dataset(columnar.table(ctx, work), str(folder / "data.lance"), max_rows_per_file=_each(ctx, work))

    return peers.prepared(work.folder(ctx, "lance-shards"), make) / "data.lance"


def _lance(part: Part, state: Any) -> Reading:
    from lance.torch.data import SafeLanceDataset, get_safe_loader
    from torch.utils.data import DistributedSampler

    dataset = SafeLanceDataset(str(part.folder))
    sampler = DistributedSampler(dataset, seed=SEED)
    loader = get_safe_loader(dataset, part.batch, part.workers, sampler=sampler, persistent_workers=False)
    return _numbers(loader), _no_state


# -- grain + ArrayRecord ---------------------------------------------------------------------------------------------


def _grain_prepare(ctx: Context, work: Workload) -> Path:
    columnar.grain_source(ctx, work)
    return work.folder(ctx, "array_record") / "data.array_record"


class _Decode:
    """A record as a sample; grain sends it to its workers."""

    def __init__(self, work: Workload) -> None:
        self._work = work

    def __call__(self, record: bytes) -> dict[str, Any]:
        return peers.webdataset_decoder(self._work)({"msgpack": record})


class _Collate:
    """Samples as a batch; grain sends it to its workers."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        return {
            self._name: np.stack([s[self._name] for s in samples]),
            "idx": np.array([s["idx"] for s in samples]),
        }


def _grain_samples(part: Part) -> Any:
    import grain

    source = grain.sources.ArrayRecordDataSource(str(part.folder))
    return grain.MapDataset.source(source).shuffle(seed=SEED).map(_Decode(part.work))


def _grain(part: Part, state: Any) -> Reading:
    import grain

    found = _grain_samples(part)[part.rank :: part.ranks]
    found = found.batch(part.batch, batch_fn=_Collate(part.work.array)).to_iter_dataset()
    return _grain_reading(found.mp_prefetch(grain.MultiprocessingOptions(num_workers=part.workers)), state)


def _grain_elastic(part: Part, state: Any) -> Reading:
    import grain
    from grain.experimental import ElasticIterator

    found = ElasticIterator(
        _grain_samples(part),
        part.batch * part.ranks,
        grain.sharding.ShardOptions(part.rank, part.ranks),
        multiprocessing_options=grain.MultiprocessingOptions(num_workers=part.workers),
    )
    return _grain_reading(found, state)


def _grain_reading(found: Any, state: Any) -> Reading:
    batches = iter(found)
    if state is not None:
        batches.set_state(state)
    return _numbers(batches), lambda count: batches.get_state()


PEERS = (
    Peer("atdata", "torch", _atdata_prepare, _atdata, elastic=(True, True)),
    Peer(
        "webdataset, split by node", "webdataset", _tars,
        lambda part, _: _webdataset(part, False), state=False,
    ),
    Peer(
        "webdataset, resampled", "webdataset", _tars,
        lambda part, _: _webdataset(part, True), state=False,
    ),
    Peer("MosaicML Streaming", "streaming", _streaming_prepare, _streaming, elastic=(True, True)),
    Peer("LitData", "litdata", _litdata_prepare, _litdata, elastic=(True, True)),
    Peer("Hugging Face datasets (Arrow)", "datasets", _arrow_prepare, _arrow),
    Peer("Hugging Face datasets (Arrow, iterable)", "datasets", _arrow_prepare, _arrow_iterable),
    Peer(
        "Hugging Face datasets (webdataset, streaming)", "datasets", _tars, _tars_iterable
    ),
    Peer("Lance", "lance", _lance_prepare, _lance, state=False),
    Peer("grain + ArrayRecord", "grain", _grain_prepare, _grain),
    Peer("grain + ArrayRecord, elastic", "grain", _grain_prepare, _grain_elastic, elastic=(True, True)),
)  # fmt: skip


def named(name: str) -> Peer:
    """The peer of that name."""
    return next(peer for peer in PEERS if peer.name == name)


def settle(part: Part) -> None:
    """What the launcher of a training would have set, for the libraries that look there."""
    os.environ |= {
        "RANK": str(part.rank), "WORLD_SIZE": str(part.ranks), "GLOBAL_RANK": str(part.rank),
        "LOCAL_RANK": str(part.rank), "LOCAL_WORLD_SIZE": str(part.ranks),
        "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "DISABLE_VERSION_CHECK": "1",
        "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    warnings.simplefilter("ignore")
