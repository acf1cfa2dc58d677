"""Going through a dataset: samples or batches, in order or shuffled, alone or as one of many, from anywhere."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from atdata.datasets import buffered, epoch
from atdata.datasets.ahead import BUDGET, Ahead
from atdata.datasets.demand import Demand
from atdata.datasets.epoch import Progress
from atdata.datasets.order import Order, order_key
from atdata.datasets.plan import Alone, Plan, make_plan
from atdata.datasets.remote import RemoteShard
from atdata.datasets.share import Deal, Ranks, Remainder, Share, find_ranks, find_share
from atdata.datasets.state import FORMAT, check_state, steps_digest, type_digest
from atdata.datasets.steps import Filter, Take, ValueStep
from atdata.errors import DatasetError
from atdata.forks import cached_property
from atdata.shards.extract import fields_of

if TYPE_CHECKING:
    from atdata.datasets.dataset import Dataset
    from atdata.datasets.resolving import View
    from atdata.integrations.torch import TorchBatches

__all__ = ["Loader", "Settings"]

T = TypeVar("T")

_LOOKED_AT = 8  # shards whose manifests say what fields take
_BLOCK = 2 << 20  # bytes of a block: long enough for a request to be worth its answer
_WINDOW = 32  # blocks of a window


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a dataset is gone through.

    Attributes:
        batch_size: samples of a batch; None for single samples.
        seed: of the shuffle; None for the stored order.
        block: neighbouring samples that are shuffled as one; None for about 2 MiB of them.
        window: blocks whose samples are shuffled among themselves; None for 32.
        lanes: windows open at once.
        remainder: what happens to samples that cannot be dealt out evenly.
        ranks: which rank this is; None to find out.
        budget: most bytes of shards on servers that are held.
        alone: whether all is read here, whatever ranks and workers there are.
    """

    batch_size: int | None = None
    seed: int | None = None
    block: int | None = None
    window: int | None = None
    lanes: int = 1
    remainder: Remainder = "uneven"
    ranks: Ranks | None = None
    budget: int = BUDGET
    alone: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "block", "window", "lanes", "budget"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.remainder not in ("uneven", "drop", "pad"):
            raise ValueError(f"remainder is 'uneven', 'drop' or 'pad', not {self.remainder!r}")
        if self.remainder == "pad" and self.batch_size is None:
            raise ValueError("remainder='pad' needs a batch_size: a single sample cannot say that it is padding")


class Loader(Generic[T]):
    """A dataset's samples, or batches of them, each time it is iterated.

    As one of several ranks or workers it gives its own share of the epoch; together they give every sample once.
    Every iteration gives the same epoch; `set_epoch` chooses another one. `state_dict` says how far the iteration is,
    and after `load_state_dict` the next one goes on from there, on any number of ranks and workers.

    `len()` is the number of samples or batches of this share in a whole epoch.
    """

    def __init__(self, dataset: Dataset[Any], settings: Settings, epoch: int = 0) -> None:
        self._dataset = dataset
        self._settings = settings
        self._epoch = epoch
        self._start = 0
        self._progress: Progress | None = None
        self._demand = Demand()
        self._inherited: Ranks | None = None
        self._readings: weakref.WeakSet[Ahead[Any]] = weakref.WeakSet()
        self._iterators: weakref.WeakSet[Any] = weakref.WeakSet()
        self._watchers: list[Callable[[int, int], None]] = []

    @property
    def dataset(self) -> Dataset[Any]:
        """What is gone through."""
        return self._dataset

    @property
    def settings(self) -> Settings:
        """How."""
        return self._settings

    @property
    def epoch(self) -> int:
        """The epoch that an iteration gives."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives, from its beginning.

        The epoch it is at already changes nothing: after `load_state_dict` the iteration goes on where it was.
        """
        if epoch < 0:
            raise ValueError(f"epochs are counted from 0 on, not {epoch}")
        if epoch != self._epoch:
            self._move(epoch, 0)

    def _move(self, epoch: int, position: int) -> None:
        self._epoch, self._start, self._progress = epoch, position, None
        for watcher in self._watchers:
            watcher(epoch, position)

    def watch(self, watcher: Callable[[int, int], None]) -> None:
        """Have `watcher` called with epoch and position, now and whenever another place to begin at is chosen."""
        self._watchers.append(watcher)
        watcher(self._epoch, self._start)

    def starting(self, epoch: int, position: int) -> Loader[T]:
        """A loader like this one whose next iteration begins at another place."""
        made = copy.copy(self)
        made._epoch, made._start = epoch, position
        return made

    def torch(self) -> TorchBatches:
        """What a `torch.utils.data.DataLoader` iterates over: `DataLoader(loader.torch(), num_workers=4)`.

        Batches become dicts of tensors (see `SampleBatch.to_torch`). After `set_epoch` and `load_state_dict` the
        DataLoader's next epoch begins there; call `set_epoch` before every epoch, as for a distributed sampler. How far
        it is: `state_after`, or the `state_dict` of torchdata's `StatefulDataLoader`.

        Raises:
            ImportError: torch is missing (`pip install 'atdata[torch]'`).
        """
        from atdata.integrations.torch import TorchBatches

        self._demand.ask(None)  # it takes every column of every batch
        return TorchBatches(self)

    # -- how much there is -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._deal(self._share(), 0))

    def _share(self) -> Share:
        return Share() if self._settings.alone else find_share(self._settings.ranks, self._inherited)

    def _deal(self, share: Share, start: int, length: int | None = None) -> Deal:
        settings = self._settings
        count = self._length() if length is None else length
        return Deal(count, settings.batch_size or 1, share, settings.remainder, start)

    def _length(self) -> int:
        """Samples of an epoch; of a shuffle that is found out, else only looked up."""
        known = self._dataset.known_length()
        if known is None and self._settings.seed is not None and self._dataset.seekable:
            return len(self._dataset._resolved().selection)
        return len(self._dataset) if known is None else known

    # -- the order -------------------------------------------------------------------------------------------

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """Block and window; by default they depend on the sizes of the shards only, wherever those lie."""
        settings = self._settings
        block = settings.block
        if block is None:
            each = self._dataset._bytes_each() or _BLOCK
            block = max(1, _BLOCK // each)
        return block, settings.window or _WINDOW

    def _order(self, length: int) -> Order:
        settings = self._settings
        if settings.seed is None:
            return Order(length)
        key = order_key(self._dataset.digest, settings.seed, self._epoch)
        return Order(length, key, *self._shape, settings.lanes, settings.batch_size or 1)

    def plan(self, world_size: int | None = None, workers: int | None = None) -> Plan:
        """What an epoch will take: print it. No sample is read for that.

        Where only some fields are read of samples on servers, the manifests of eight shards or less tell what it takes.

        Args:
            world_size: number of ranks; by default as many as there are now.
            workers: of each rank; by default as many as there are now.
        """
        dataset, settings, share = self._dataset, self._settings, self._share()
        if dataset.located is None:
            raise DatasetError("samples in memory are not read from anywhere; write them with a store's write_shards")
        access = dataset._shards()
        known = dataset.known_length()
        length = access.length() if known is None else known
        notes: list[str] = [] if dataset.seekable else [
            "the shards are read through by every reader, and shuffled in a buffer: they are compressed, or come from "
            "a source, or from a server without manifests"
        ]  # fmt: skip
        for query in dataset._queries():
            scanned = query["scanned"]
            if scanned:
                fields = ", ".join(scanned)
                notes.append(f"where {query['predicate']} reads the samples, as no manifest holds {fields}")
            elif query["pruned"]:
                notes.append(f"where {query['predicate']} leaves {query['pruned']} of {query['shards']} shards alone")
        if access.far and access.cached:
            notes.append("whole shards are brought into the cache, each once, and read from there")
        view = dataset._view(tuple(step for step in dataset.steps if isinstance(step, ValueStep)))
        alone = self._alone(view)
        if alone is not None:
            fields = ", ".join(fields_of(view.stored_type) or ())
            notes.append(f"only {fields}: fetched without the rest of the samples, where that saves something")
        elif access.asks and dataset.seekable and settings.batch_size is not None and view.lies:
            notes.append("this is for all columns: of batches only those are fetched that somebody asks for")
        return make_plan(
            self._order(length),
            exact=known is not None,
            shards=len(access.refs),
            size=sum(access.sizes()),
            each=dataset._bytes_each(),
            batch_size=settings.batch_size,
            remainder=settings.remainder,
            world_size=world_size or share.world_size,
            workers=workers or share.workers,
            budget=settings.budget,
            far=access.far,
            seekable=dataset.seekable,
            notes=notes,
            alone=alone,
        )

    def _alone(self, view: View) -> Alone | None:
        """How the fields that samples are made of are fetched by themselves; None where whole samples are."""
        access, fields = view.access, fields_of(view.stored_type)
        if fields is None or not access.asks or not self._dataset.seekable:
            return None
        count = len(access.refs)
        numbers = sorted({at * count // _LOOKED_AT for at in range(_LOOKED_AT)} if count > _LOOKED_AT else range(count))
        samples = apart = requests = size = 0
        for number, shard in zip(numbers, access.each(numbers, lambda n: access.current(n).shard), strict=True):
            samples += access.count(number)
            takes = shard.takes(fields) if isinstance(shard, RemoteShard) else None
            if takes is not None:
                apart += access.count(number)
                requests, size = requests + takes[0], size + takes[1]
        return Alone(apart / samples, requests / apart, size / apart) if apart else None

    # -- going through it ------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[T]:
        start, self._start = self._start, 0
        share = self._share()
        progress = self._progress = Progress(start, share.count * (self._settings.batch_size or 1))
        found = self._batches(share, start, progress)
        self._iterators.add(found)
        return found

    def _batches(self, share: Share, start: int, progress: Progress) -> Iterator[Any]:
        dataset, settings = self._dataset, self._settings
        size, single = settings.batch_size, settings.batch_size is None
        sample_type = dataset.sample_type
        plain = settings.seed is None and settings.remainder == "uneven" and share.count == 1
        if plain and dataset.located is not None and (start == 0 or dataset.seekable):
            taken = self._only_taken()
            if taken is not None:
                limit, values = taken
                view = dataset._view(values)
                demand = self._wanted_of(view)
                return epoch.in_sequence(
                    view, limit, start, size, sample_type, progress, self._readings.add, demand, budget=settings.budget
                )
        if dataset.seekable and not (plain and start == 0 and self._only_scanned()):
            _, selection, values = dataset._resolved()
            deal = self._deal(share, start, len(selection))
            progress.end = deal.end
            order = self._order(len(selection))
            view = dataset._view(values)
            return epoch.exactly(
                view, selection, order, deal, sample_type, progress, self._readings.add, self._wanted_of(view),
                single=single, budget=settings.budget,
            )  # fmt: skip
        if dataset.located is None and settings.seed is not None:
            samples, finish = dataset._in_memory()
            deal = self._deal(share, start, len(samples))
            progress.end = deal.end
            order = self._order(len(samples))
            return epoch.in_memory(samples, finish, order, deal, sample_type, progress, single=single)
        keyed = dataset.keyed()
        if settings.seed is not None:
            key = order_key(dataset.digest, settings.seed, self._epoch)
            keyed = buffered.shuffled(dataset._view(()), dataset.steps, key)
        deal = self._deal(share, start, 0)
        return epoch.dealt((sample for _, sample in keyed), deal, sample_type, progress, single=single)

    def _wanted_of(self, view: View) -> Demand:
        """Which fields are fetched of samples on servers: those chosen, or of batches those that somebody asks for."""
        size = self._settings.batch_size
        asks = size is not None and view.lies and view.access.asks and fields_of(view.stored_type) is None
        return self._demand.begin(size or 0) if asks else view.demand()

    def _only_taken(self) -> tuple[int | None, tuple[ValueStep, ...]] | None:
        """How many samples there are at most, and what is made of each; None where steps choose among them."""
        limit: int | None = None
        values: tuple[ValueStep, ...] = ()
        for step in self._dataset.steps:
            if isinstance(step, Take):
                limit = step.count if limit is None else min(limit, step.count)
            elif isinstance(step, ValueStep):
                values = (*values, step)
            else:
                return None
        return limit, values

    def _only_scanned(self) -> bool:
        """Whether the steps leave out samples only after looking at each."""
        return all(isinstance(step, ValueStep | Take | Filter) for step in self._dataset.steps)

    # -- how far it is ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """How far the last iteration is, as a small dict of plain values; see `atdata.datasets.state`.

        It is the same on all ranks after as many batches, and can be loaded on any number of them.
        """
        return self._state(self._start if self._progress is None else self._progress.position)

    def state_after(self, batches: int) -> dict[str, Any]:
        """The state after this rank has been given `batches` batches, from where this loader begins.

        For loops in which another object, such as a torch DataLoader, iterates over copies of this one.
        """
        share = dataclasses.replace(self._share(), worker=0, workers=1)
        return self._state(self._deal(share, self._start).after(batches))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on from a state.

        Raises:
            StateError: it is of another dataset, sample type, plan or order; nothing was changed.
        """
        # Where samples can only be read through, how many there are may turn out later than how far one has come.
        readable = self._dataset.seekable or self._dataset.located is None
        try:
            length = self._length() if readable else None
        except TypeError:  # nobody knows before it was read
            length = None
        self._move(*check_state(state, self._state(0), length))

    def _state(self, position: int) -> dict[str, Any]:
        settings = self._settings
        order: Any = "stored"
        if settings.seed is not None and not self._dataset.seekable and self._dataset.located is not None:
            order = f"buffer of {buffered.BUFFER}"
        elif settings.seed is not None:
            block, window = self._shape
            order = [block, window] if settings.lanes == 1 else [block, window, settings.lanes, settings.batch_size]
        return {
            "atdata": FORMAT,
            "dataset": self._dataset.digest,
            "type": type_digest(self._dataset._stored_type, self._dataset.sample_type),
            "steps": steps_digest(self._dataset.steps),
            "order": order,
            "seed": settings.seed,
            "epoch": self._epoch,
            "remainder": settings.remainder,
            "position": position,
        }

    # -- coming and going ------------------------------------------------------------------------------------

    def close(self) -> None:
        """End iterations that are under way, and wait for their threads."""
        readings = list(self._readings)
        for iterator in list(self._iterators):
            iterator.close()
        for reading in readings:
            reading.close()

    def __enter__(self) -> Loader[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        progress = state.pop("_progress")
        if progress is not None and not progress.finished:
            state["_start"] = progress.position
        del state["_readings"], state["_iterators"], state["_watchers"]
        state["_inherited"] = find_ranks() or self._inherited
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _progress=None, _watchers=[])
        self._readings, self._iterators = weakref.WeakSet(), weakref.WeakSet()
