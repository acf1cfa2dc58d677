"""Several datasets as one: which of them, and which of its samples, comes at each position.

Each source is gone through in its own shuffled order, as often as is needed, every time in another one. Seeds are made
of the mixture's seed and the source's path, so that a dataset that is there twice comes in two orders.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from atdata.datasets.ahead import BUDGET, Ahead
from atdata.datasets.batch import SampleBatch
from atdata.datasets.columns import Stretch
from atdata.datasets.dataset import Dataset
from atdata.datasets.epoch import Progress
from atdata.datasets.fetching import Fetching, Wanted
from atdata.datasets.loader import Loader, Settings
from atdata.datasets.order import Order, order_key
from atdata.datasets.selection import Selection
from atdata.datasets.share import Deal, Remainder, Share, check_ranks
from atdata.datasets.state import FORMAT, check_state, steps_digest, type_digest
from atdata.datasets.turns import Pattern, Turns, Until
from atdata.errors import DatasetError

__all__ = ["Mixture", "mix"]

T = TypeVar("T")

_SCALE = 1 << 20  # weights are ratios of numbers up to this
_AT_ONCE = 32 << 20  # bytes of samples that are read together
_MOST = 1 << 15  # samples that are read together


class Mixture(Generic[T]):
    """Several datasets of one sample type, mixed; `mix` makes it."""

    def __init__(self, sources: Mapping[str, Dataset[T]], weights: tuple[int, ...], seed: int, until: Until) -> None:
        self._sources = dict(sources)
        self._weights = weights
        self._seed = seed
        self._until: Until = until

    @property
    def sources(self) -> dict[str, Dataset[T]]:
        """The datasets by path."""
        return dict(self._sources)

    @property
    def weights(self) -> dict[str, float]:
        """The part of the samples that comes from each."""
        whole = sum(self._weights)
        return {name: weight / whole for name, weight in zip(self._sources, self._weights, strict=True)}

    @property
    def sample_type(self) -> type[T]:
        """The class of the samples."""
        return next(iter(self._sources.values())).sample_type

    def __len__(self) -> int:
        """How many samples an epoch has; of epoch 0, from which others can differ by less than a window."""
        return self._length(0)

    def _length(self, epoch: int) -> int:
        lengths = [_count(dataset) for dataset in self._sources.values()]
        if not all(lengths):
            empty = [name for name, length in zip(self._sources, lengths, strict=True) if not length]
            raise DatasetError(f"nothing can be mixed from a dataset without samples: {', '.join(empty)}")
        pattern = self._pattern(epoch)
        return pattern.end or pattern.longest(lengths, self._until)

    def _pattern(self, epoch: int) -> Pattern:
        lengths = [_count(dataset) for dataset in self._sources.values()]
        # Where every sample comes once, the last window ends with them.
        end = sum(lengths) if list(self._weights) == lengths else None
        return Pattern(self._weights, order_key("mixture", self._seed, epoch), end)

    @property
    def digest(self) -> str:
        """What tells this mixture from others: its sources' paths and digests, their weights, and where it ends."""
        lines = [
            f"{name}\t{dataset.digest}\t{steps_digest(dataset.steps)}\t{weight}\n"
            for (name, dataset), weight in zip(self._sources.items(), self._weights, strict=True)
        ]
        text = f"{self._until}\n" + "".join(lines)
        return "mixture:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {part:.1%}" for name, part in self.weights.items())
        return f"Mixture[{self.sample_type.__name__}]({parts})"

    def shuffled(
        self,
        batch_size: int | None = None,
        *,
        epoch: int = 0,
        remainder: Remainder = "uneven",
        block: int | None = None,
        window: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        budget: int = BUDGET,
    ) -> Loader[Any]:
        """The samples of an epoch, or batches of them, in an order that seed and epoch decide.

        As `Dataset.shuffled`, for whose arguments see there: the same on any number of ranks and workers, and with a
        state.
        """
        ranks = None
        if rank is not None or world_size is not None:
            if rank is None or world_size is None:
                raise ValueError("rank and world_size are given together")
            ranks = check_ranks(rank, world_size)
        settings = Settings(batch_size, self._seed, block, window, 1, remainder, ranks, budget)
        loader: Loader[Any] = _MixtureLoader(self, settings)
        loader.set_epoch(epoch)
        return loader


def mix(
    sources: Mapping[str, Dataset[T] | Mixture[T]],
    weights: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
    until: Until = "first",
) -> Mixture[T]:
    """Several datasets as one, shuffled among each other.

    Args:
        sources: the datasets, by names that make the seeds of their orders; all of one sample type. A mixture in it
            counts as its own sources, with paths such as "text/books" and its own weights.
        weights: which part of the samples comes from each: any numbers above 0. By default as large as the dataset, so
            that every sample comes once.
        seed: another seed gives another order.
        until: where an epoch ends: when the "first" source is used up (no sample comes twice), or when "all" are
            (sources that are used up begin anew, in another order).

    Raises:
        DatasetError: the sources' sample types differ, or one cannot be read in any order.
        ValueError: the weights are not those of the sources, or not above 0.

    Example:
        >>> mixture = mix({"a": ds_a, "b": ds_b}, weights={"a": 0.7, "b": 0.3})  # doctest: +SKIP
        >>> for batch in mixture.shuffled(batch_size=64): ...  # doctest: +SKIP
    """
    if until not in ("first", "all"):
        raise ValueError(f"until is 'first' or 'all', not {until!r}")
    if not sources:
        raise ValueError("give at least one dataset")
    if weights is not None and set(weights) != set(sources):
        raise ValueError(f"weights are for {', '.join(weights)}, and the datasets are {', '.join(sources)}")
    flat: dict[str, Dataset[T]] = {}
    parts: list[Fraction] = []
    for name, source in sources.items():
        own = _weight(name, weights[name]) if weights is not None else None
        if isinstance(source, Mixture):
            whole = sum(source._weights)
            size = Fraction(sum(map(_count, source._sources.values())) if own is None else own)
            for (path, dataset), weight in zip(source._sources.items(), source._weights, strict=True):
                flat[f"{name}/{path}"] = dataset
                parts.append(size * weight / whole)
        elif isinstance(source, Dataset):
            if not source.seekable:
                raise DatasetError(
                    f"{name!r} cannot be mixed: its samples cannot be read in any order; write it to shards"
                )
            flat[name] = source
            parts.append(Fraction(_count(source)) if own is None else own)
        else:
            raise TypeError(f"a mixture is made of datasets, not of {type(source).__name__} ({name!r})")
    first = next(iter(flat.values())).sample_type
    for name, dataset in flat.items():
        if dataset.sample_type is not first:
            raise DatasetError(
                f"the datasets have samples of different types: {next(iter(flat))!r} of {first.__name__}, {name!r} of "
                f"{dataset.sample_type.__name__}; give all one type (Dataset[T](…), as_type, map or select_fields)"
            )
    return Mixture(flat, _whole_numbers(parts), seed, until)


def _count(dataset: Dataset[Any]) -> int:
    return len(dataset._resolved().selection)  # also after a filter


def _weight(name: str, weight: float) -> Fraction:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ValueError(f"the weight of {name!r} is {weight!r}, not a number above 0")
    return Fraction(weight)


def _whole_numbers(parts: list[Fraction]) -> tuple[int, ...]:
    """Whole numbers in the same proportions; where they would be large, in nearly the same."""
    if all(part.denominator == 1 for part in parts):  # numbers of samples have to stay what they are
        return tuple(map(int, parts))
    common = math.lcm(*(part.denominator for part in parts))
    if max(parts) * common <= _SCALE:
        return tuple(int(part * common) for part in parts)
    return tuple(max(1, round(part / max(parts) * _SCALE)) for part in parts)


class _Source(NamedTuple):
    """One dataset of a mixture, as it is read.

    Attributes:
        name: its path.
        dataset: what it is.
        selection: its samples.
        shape: block and window of its order.
    """

    name: str
    dataset: Dataset[Any]
    selection: Selection
    shape: tuple[int, int]


class _MixtureLoader(Loader[Any]):
    """Goes through a mixture."""

    def __init__(self, mixture: Mixture[Any], settings: Settings) -> None:
        super().__init__(next(iter(mixture.sources.values())), settings)
        self._mixture = mixture

    @property
    def dataset(self) -> Any:
        """The mixture."""
        return self._mixture

    def _length(self) -> int:
        return self._mixture._length(self._epoch)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on from a state.

        Raises:
            StateError: it is of another mixture, sample type or plan; nothing was changed.
        """
        epoch, _ = check_state(state, self._state(0), None)
        self._move(*check_state(state, self._state(0), self._mixture._length(epoch)))

    def _state(self, position: int) -> dict[str, Any]:
        settings, kind = self._settings, self._mixture.sample_type
        return {
            "atdata": FORMAT,
            "dataset": self._mixture.digest,
            "type": type_digest(kind, kind),
            "steps": steps_digest(()),
            "order": ["mixture", settings.block, settings.window],
            "seed": settings.seed,
            "epoch": self._epoch,
            "remainder": settings.remainder,
            "position": position,
        }

    def _batches(self, share: Share, start: int, progress: Progress) -> Iterator[Any]:
        settings = self._settings
        sources = []
        for name, dataset in self._mixture.sources.items():
            one: Loader[Any] = Loader(dataset, settings)
            sources.append(_Source(name, dataset, dataset._resolved().selection, one._shape))
        deal = self._deal(share, start)
        progress.end = deal.end
        seed = self._mixture._seed
        pattern = self._mixture._pattern(self._epoch)
        reading = _Reading(sources, pattern, deal, seed, self._epoch, settings.budget, self._readings.add)
        return reading.batches(self._mixture.sample_type, progress, single=settings.batch_size is None)


class _Reading:
    """One epoch of one share of a mixture."""

    def __init__(
        self,
        sources: list[_Source],
        pattern: Pattern,
        deal: Deal,
        seed: int,
        epoch: int,
        budget: int,
        register: Any,
    ) -> None:
        self._sources = sources
        self._pattern = pattern
        self._deal = deal
        self._seed = seed
        self._epoch = epoch
        self._budget = budget // len(sources)
        self._register = register
        each = 1 + max(source.dataset._bytes_each() for source in sources)
        self._at_once = max(1, min(_MOST, _AT_ONCE // each, budget // 2 // each) // deal.size)

    def batches(self, sample_type: type, progress: Progress, *, single: bool) -> Iterator[Any]:
        """Its batches, or samples."""
        views = [source.dataset._view(source.dataset._resolved().values) for source in self._sources]
        made = any(view.stored_type is not sample_type or view.left for view in views)
        readings: list[Ahead[Stretch]] = []
        for number, view in enumerate(views):
            reading = Fetching(view.access, self._wanted(number), view.demand(), budget=self._budget).read()
            self._register(reading)
            readings.append(reading)
        streams = [_Stream(reading) for reading in readings]
        number = 0
        for _, turns in self._turns():
            which = [np.flatnonzero(turns.sources == source) for source in range(len(views))]
            stretches = [stream.take(len(at)) for stream, at in zip(streams, which, strict=True)]
            samples: list[Any] = [None] * len(turns.sources)
            merged = Stretch.merged(
                [(stretch, at[a:b]) for some, at in zip(stretches, which, strict=True) for stretch, a, b in some],
                len(turns.sources),
            )
            if made:
                for view, some, at in zip(views, stretches, which, strict=True):
                    for stretch, a, b in some:
                        pairs = view.seen(stretch, 0, len(stretch))
                        for place, (_, sample) in zip(at[a:b].tolist(), pairs, strict=True):
                            samples[place] = sample
            elif single:
                samples = list(merged.decoded(sample_type, 0, len(merged)))
            for first in range(0, len(samples), self._deal.size):
                last = min(first + self._deal.size, len(samples))
                valid = self._deal.valid(number)
                number = progress.done = number + 1
                if single:
                    yield samples[first]
                elif made:
                    yield SampleBatch(samples[first:last], sample_type, valid)
                else:
                    yield SampleBatch.of_lying(merged.part(first, last), sample_type, valid)
        progress.finish(self._deal.end)

    def _turns(self) -> Iterator[tuple[int, Turns]]:
        """Number of the first batch, and whose turn it is, for as many batches as are read together."""
        for first in range(0, len(self._deal), self._at_once):
            positions = self._deal.positions(first, min(first + self._at_once, len(self._deal)))
            yield first, self._pattern.turns(self._deal.wrap(positions))

    def _wanted(self, number: int) -> Iterator[Wanted]:
        """What is wanted of one source, in the same steps."""
        source = self._sources[number]
        for _, turns in self._turns():
            given = turns.given[turns.sources == number]
            if len(given):
                numbers = np.empty_like(given)
                passes, at = np.divmod(given, len(source.selection))
                for one in np.unique(passes).tolist():
                    numbers[passes == one] = self._order(source, one).numbers(at[passes == one])
                yield Wanted(source.selection.places(numbers), len(numbers))

    def _order(self, source: _Source, number: int) -> Order:
        """The order of a source's pass `number` of this epoch."""
        key = order_key(f"{source.name}\n{source.dataset.digest}", self._seed, (self._epoch << 32) + number)
        return _order(len(source.selection), key, source.shape)


@functools.lru_cache(maxsize=256)
def _order(length: int, key: int, shape: tuple[int, int]) -> Order:
    return Order(length, key, *shape)


class _Stream:
    """The stretches of one source, taken as they are needed."""

    def __init__(self, reading: Ahead[Stretch]) -> None:
        self._stretches = iter(reading)

    def take(self, count: int) -> list[tuple[Stretch, int, int]]:
        """Stretches of that many samples in all, each with where it begins and ends among them."""
        found: list[tuple[Stretch, int, int]] = []
        at = 0
        while at < count:
            stretch = next(self._stretches)
            found.append((stretch, at, at + len(stretch)))
            at += len(stretch)
        return found
