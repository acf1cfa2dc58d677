"""`Dataset`: where samples come from and what happens to them on the way, as an immutable plan."""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack, overload

import numpy as np

from atdata.datasets import indexing
from atdata.datasets.access import Access
from atdata.datasets.ahead import BUDGET
from atdata.datasets.demand import Demand
from atdata.datasets.editing import Edited
from atdata.datasets.loader import Loader, Settings
from atdata.datasets.opener import Verify
from atdata.datasets.plan import Plan
from atdata.datasets.query import Field, as_predicate, check
from atdata.datasets.query_tree import Predicate
from atdata.datasets.query_where import Where, outlook
from atdata.datasets.resolving import Resolved, View, resolve
from atdata.datasets.seeing import AsType, Decoded, decoding, lens_to
from atdata.datasets.sequence import pieces
from atdata.datasets.share import Ranks, Remainder, check_ranks
from atdata.datasets.sources import Located, locate
from atdata.datasets.split import Split, hash_ranges
from atdata.datasets.state import dataset_digest
from atdata.datasets.steps import Filter, Map, NarrowingStep, Pick, Select, Step, Take, ValueStep, apply
from atdata.errors import DatasetError, SchemaError, StepError
from atdata.lenses.composition import Identity
from atdata.lenses.lens import Lens
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.schema import Schema
from atdata.shards.extract import fields_of
from atdata.shards.reader import keeps_values
from atdata.stores.cache import Cache
from atdata.stores.opening import Opening

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Dataset"]

T = TypeVar("T")
U = TypeVar("U")


class _Reading(TypedDict, total=False):
    """The keyword arguments of `Dataset.ordered`."""

    remainder: Remainder
    rank: int | None
    world_size: int | None
    budget: int


class _Shuffling(_Reading, total=False):
    """The keyword arguments of `Dataset.shuffled`."""

    seed: int
    epoch: int
    block: int | None
    window: int | None
    lanes: int


class _Typed(types.GenericAlias):
    """`Dataset[Digit]`: an annotation like any other, and a constructor that knows the sample type."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        sample_type = self.__args__[0]
        return self.__origin__(*args, sample_type=sample_type, **kwargs)  # type: ignore[operator]


class Dataset(Generic[T]):
    """Typed samples in shards.

    A dataset is a plan and does not change: steps such as `map` give a new one, and nothing is read before samples are
    asked for (only that the shards are there). It can be pickled and sent to other processes.

    Args:
        source: where the shards are: a list of paths (as `write_shards` returns them), a brace pattern
            (`shard-{000000..000009}.tar`), a glob, a folder with an `atdata.json`, one tar file, or an object with
            `list_shards` and `open_shard`.
        sample_type: the class of the samples; usually given as `Dataset[Digit](…)`. Without it the class is built from
            the schema stored with the dataset, or is `DictSample` when there is none.
        store: the store the URLs belong to; without one they are opened by what they are (local paths, `https://`, and
            `s3://`, `gs://`, `az://` with the usual credentials).
        cache: a folder (or `Cache`) that keeps whole shards from servers by their digest; by default the folder that
            `ATDATA_CACHE` names, if it does.
        verify: when bytes are checked against their recorded digests. "first": each shard once, before anything of it
            is handed out, and again when the file has changed. "always": at every reading. "never": not at all.

    Raises:
        DatasetNotFoundError: a shard, or the whole dataset, is not there.
        CommitRecordError: the `atdata.json` cannot be trusted.

    Example:
        >>> ds = Dataset[Digit]("data/digits/v1")  # doctest: +SKIP
        >>> for batch in ds.ordered(batch_size=64): ...  # doctest: +SKIP
    """

    def __init__(
        self,
        source: Any,
        *,
        sample_type: type[T] | None = None,
        store: Any = None,
        verify: Verify = "first",
        cache: str | os.PathLike[str] | Cache | None = None,
    ) -> None:
        if verify not in ("first", "always", "never"):
            raise ValueError(f"verify is 'first', 'always' or 'never', not {verify!r}")
        self._source = source
        self._verify: Verify = verify
        self._cache = _cache(cache)
        self._opening = Opening(store, self._cache)
        self._located: Located | None = locate(source, self._opening)
        self._samples: Iterable[T] | None = None
        self._key: Callable[[T], str] | None = None
        self._steps: tuple[Step, ...] = ()
        self._access: Access | None = None
        self._known: Resolved | None = None
        self._seen: tuple[tuple[ValueStep, ...], View] | None = None
        self._keeps_all = True  # no step leaves samples out, or puts them in another order
        if sample_type is None:
            schema = self._located.schema
            sample_type = DictSample if schema is None else schema.sample_type()
        self._stored_type: type = _check_type(sample_type)
        self._sample_type: type = self._stored_type

    @classmethod
    def __class_getitem__(cls, item: Any) -> Any:
        return _Typed(cls, item)

    @staticmethod
    def from_samples(
        samples: Iterable[U], sample_type: type[U], *, key: Callable[[U], str] | None = None
    ) -> Dataset[U]:
        """A dataset of samples that are in memory, or that an iterator will give.

        Args:
            samples: any iterable; it is never held whole. An iterator can be read once, a list again and again.
            sample_type: the class of the samples.
            key: gives each sample's key; without it samples are numbered.
        """
        made: Dataset[U] = Dataset.__new__(Dataset)
        made._source = None
        made._opening = Opening()
        made._verify = "first"
        made._cache = None
        made._located = None
        if not hasattr(samples, "__iter__") and not hasattr(samples, "__getitem__"):
            raise TypeError(f"samples are given as a list, a generator or another iterable, not as {samples!r:.100}")
        made._samples = _Once(samples) if isinstance(samples, Iterator) else samples
        made._key = key
        made._steps = ()
        made._access = None
        made._known = None
        made._seen = None
        made._keeps_all = True
        made._stored_type = made._sample_type = _check_type(sample_type)
        return made

    # -- what it is ------------------------------------------------------------------------------------------

    @property
    def sample_type(self) -> type[T]:
        """The class of the samples, after all steps."""
        found: type[T] = self._sample_type
        return found

    @property
    def schema(self) -> Schema | None:
        """The schema of `sample_type`; None for `DictSample`."""
        return None if issubclass(self._sample_type, DictSample) else Schema.of(self._sample_type)

    @property
    def cid(self) -> str | None:
        """The content identifier of the stored dataset; None where there is no commit record for all of it."""
        return None if self._located is None or self._located.record is None else self._located.record.cid

    @property
    def located(self) -> Located | None:
        """The shards with what is recorded of each, and the stored schema; None for samples in memory."""
        return self._located

    @property
    def source(self) -> Any:
        """What the dataset was made from, as it was given; None for samples in memory."""
        return self._source

    @property
    def opening(self) -> Opening:
        """How the shards' URLs are opened: by the store that was given, or by what they are."""
        return self._opening

    def list_shards(self) -> list[str]:
        """The URLs of the shards, in order; none for samples in memory."""
        return [] if self._located is None else [ref.url for ref in self._located.shards]

    def describe(self) -> dict[str, Any]:
        """What there is to say without reading samples: type, fields, counts, sizes, identifier, steps."""
        located = self._located
        infos = [ref.info for ref in located.shards if ref.info is not None] if located is not None else []
        whole = located is not None and len(infos) == len(located.shards)
        dict_type = issubclass(self._sample_type, DictSample)
        return {
            "sample_type": self._sample_type.__name__,
            "fields": {} if dict_type else {f.name: f.type.name for f in codec.plan(self._sample_type).fields},
            "samples": self.known_length(),
            "shards": len(self.list_shards()),
            "bytes": sum(info.size for info in infos) if whole else None,
            "cid": self.cid,
            "steps": [type(step).__name__.lower() for step in self._steps],
            "queries": self._queries(),
        }

    def _queries(self) -> list[dict[str, Any]]:
        """What each `where` will take; see `Outlook`."""
        if self._located is None:
            return []
        return [
            outlook(step, self._steps[:at], self._stored_type, self._located)._asdict()
            for at, step in enumerate(self._steps)
            if isinstance(step, Where)
        ]

    def __repr__(self) -> str:
        count = self.known_length()
        shards = len(self.list_shards())
        what = "samples in memory" if self._located is None else f"{shards} shard{'' if shards == 1 else 's'}"
        numbers = f", {count} samples" if count is not None else ""
        return f"Dataset[{self._sample_type.__name__}]({what}{numbers})"

    @property
    def steps(self) -> tuple[Step, ...]:
        """What happens to the stored samples, in order."""
        return self._steps

    @property
    def digest(self) -> str:
        """What tells this dataset's content from another's, wherever it lies: the CID, or a digest like it.

        Of samples in memory it tells only their class.
        """
        if self._located is None:
            return f"memory:{self._stored_type.__name__}"
        told = self._shards().streamed or all(ref.digest is not None for ref in self._located.shards)
        counts = None if told else [self._shards().count(n) for n in range(len(self._located.shards))]
        return dataset_digest(self._located, counts)

    @property
    def seekable(self) -> bool:
        """Whether samples can be read in any order; else shards have to be read through from front to back."""
        return self._located is not None and self._shards().seekable

    def _bytes_each(self) -> int:
        """Bytes of an average stored sample, as far as is recorded or can be seen; 0 where nothing can."""
        if not self.seekable:
            return 0
        return self._shards().bytes_each()

    def known_length(self) -> int | None:
        """The number of samples when it is known without reading any; else None."""
        if self._known is not None and self._known.steps == len(self._steps):
            return len(self._known.selection)
        if self._located is None:
            length = len(self._samples) if hasattr(self._samples, "__len__") else None  # type: ignore[arg-type]
        elif self._access is not None and self._access.counted:
            length = self._access.length()
        else:
            infos = [ref.info for ref in self._located.shards]
            length = sum(i.samples for i in infos if i is not None) if None not in infos else None
        return self._after_steps(length) if length is not None else None

    def _after_steps(self, length: int) -> int | None:
        left: int | None = length
        for step in self._steps:
            if isinstance(step, NarrowingStep) and left is not None:
                left = step.count_after(left)
        return left

    def __len__(self) -> int:
        length = self.known_length()
        # `list` and `tqdm` ask for the length first: no reason to read what a source gives twice.
        if length is None and self._located is not None and not self._shards().streamed and not self._scans:
            length = self._after_steps(self._shards().length())
            if length is None and self.seekable:
                length = len(self._resolved().selection)
        asked_only = not any(isinstance(step, Map | Filter) for step in self._steps)
        if length is None and hasattr(self._samples, "__len__") and asked_only:  # samples in memory are quickly asked
            length = sum(1 for _ in self.keyed())
        if length is None:
            what = "after a filter" if self._scans else "of an iterator or a stream"
            raise TypeError(f"the number of samples {what} is not known before they are read: count them while reading")
        return length

    @property
    def _scans(self) -> bool:
        """Whether only looking at all samples tells which are left, and that was not done."""
        known = 0 if self._known is None else self._known.steps
        return any(isinstance(step, Filter) for step in self._steps[known:])

    def __bool__(self) -> bool:
        return True

    # -- steps -----------------------------------------------------------------------------------------------

    def map(self, function: Callable[[T], U], sample_type: type[U] | None = None) -> Dataset[U]:
        """Every sample becomes `function(sample)`.

        Args:
            function: from a sample to a sample; defined in a module when the dataset is sent to other processes.
            sample_type: the class of what it gives; by default its return annotation, or else the class before.
        """
        return self._with(Map(function, sample_type))

    def as_type(self, view: type[U] | Lens[T, U]) -> Dataset[U]:
        """The samples seen as another type; of stored samples only the fields that the lens reads are decoded.

        Args:
            view: the class to see them as: through the lens registered for that, a path of several, or none where the
                fields alone tell (see `LensNetwork.find`); or a lens, which reads the class of the samples.

        Raises:
            LensNotFoundError: no lens leads to that class; the message says why its fields do not tell either.
            AmbiguousLensError: several lenses do, and none is nearer; give the one you mean.
            LensError: the lens reads another class.
        """
        lens = lens_to(view, self._sample_type)
        made: Dataset[U] = self._copy() if isinstance(lens, Identity) else self._with(AsType(lens))
        return made

    def put_back(self, views: Dataset[U] | Iterable[U], lens: Lens[T, U]) -> Dataset[T]:
        """The samples, each changed so that the lens sees it as its view; they keep their keys.

        To be written with a store's `write_shards`, or read in order: nothing is held.

        Args:
            views: a view for each sample, in the same order: a dataset, whose keys (where it has any) have to be those
                of the samples, or any iterable.
            lens: with a putter.

        Raises:
            LensError: the lens has no putter, or is between other classes.
            DatasetError: the views are a loader, whose order is its own. While reading: a view too many or too few, or
                one with the key of another sample; `StepError` where the lens fails.

        Example:
            >>> store.write_shards(ds.put_back(edited, simplify), prefix="photos/v2")  # doctest: +SKIP
        """
        if not isinstance(lens, Lens):
            raise TypeError(f"views are put back through a lens, not through {lens!r:.100}")
        if isinstance(views, Loader):
            raise DatasetError(
                "views are put back in the order of the samples, and a loader has one of its own: give the dataset of "
                "views itself"
            )
        seen = views if isinstance(views, Dataset) else Dataset.from_samples(views, lens.view)
        return Dataset.from_samples(Edited(self, seen, lens), self._sample_type)

    def filter(self, predicate: Callable[[T], object]) -> Dataset[T]:
        """Only the samples for which `predicate(sample)` is true."""
        return self._with(Filter(predicate))

    def where(self, predicate: Predicate | Field) -> Dataset[T]:
        """Only the samples that a predicate is true for, found without reading them where a manifest can tell.

        Statistics rule out shards, the manifests of the others tell which samples match; only for fields that no
        manifest holds (long text, or samples after a `map`) the samples themselves are read. None never matches a
        comparison, as in SQL; see `atdata.datasets.query_tree`.

        Args:
            predicate: made with `atdata.fields`: `(F.hour >= 22) & F.label.isin(["owl", "bat"])`; or a bool field.

        Raises:
            SchemaError: the sample type has no such field.
            QueryError: a field is of a type that does not allow the comparison.
        """
        asked = as_predicate(predicate)
        check(asked, self._sample_type)
        return self._with(Where(asked, self._sample_type))

    def split(self, *fractions: float, seed: int = 0) -> tuple[Dataset[T], ...]:
        """Parts of about these sizes, such that every sample is in one of them: `train, test = ds.split(0.9)`.

        Which part a sample is in depends on its key and the seed alone: it stays there when samples are added or left
        out, and a larger first part holds the smaller one. Samples with one key are never parted.

        Args:
            fractions: the share of each part, together 1; a single one has the rest as a second part.
            seed: another seed gives another split.

        Raises:
            ValueError: a fraction is not between 0 and 1, or they do not add up to 1.
        """
        before = sum(isinstance(step, Split) for step in self._steps)
        return tuple(self._with(Split(part)) for part in hash_ranges(fractions, seed, before))

    def take(self, samples: int | Sequence[int]) -> Dataset[T]:
        """Only some samples.

        Args:
            samples: how many, from the first on; or their numbers, in the order wanted (a list or an array of integers;
                negative ones count from the end, and one may come several times).

        Raises:
            SampleIndexError: there is no such number.
        """
        if isinstance(samples, bool):
            raise TypeError("take needs a count or a list of numbers, not a bool")
        if isinstance(samples, int | np.integer):
            if samples < 0:
                raise ValueError(f"take needs a count of 0 or more, not {samples}")
            return self._with(Take(int(samples)))
        try:
            length = len(self)
        except TypeError:  # nobody knows before it was read
            length = None
        return self._with(Pick(indexing.numbers(samples, length)))

    def select_fields(self, *fields: str) -> Dataset[Any]:
        """Only these fields of every sample; the others are not decoded.

        From servers they are fetched, and checked, by themselves where that saves 32 KiB or more of each sample and its
        manifest has digests of them; what stands in manifests is not fetched at all. Shards without manifests, or with
        older ones, are read whole.

        Raises:
            SchemaError: the sample type has no such field.
        """
        if not fields or len(set(fields)) != len(fields):
            raise SchemaError("name at least one field, and each only once")
        step = Select(fields)
        untouched = all(isinstance(d, Take | Pick) for d in self._steps) and self._located is not None
        if not untouched or not _reads_as_stored(self._sample_type):
            return self._with(step)
        # Nothing looks at the other fields before, so they need not be decoded at all.
        made = self._copy()
        made._stored_type = made._sample_type = step.type_after(self._sample_type)
        return made

    def _with(self, step: Step) -> Dataset[Any]:
        made = self._copy()
        made._steps = (*self._steps, step)
        made._keeps_all = self._keeps_all and isinstance(step, ValueStep)
        made._sample_type = step.type_after(self._sample_type)
        return made

    def _copy(self) -> Dataset[Any]:
        if self._located is not None:
            self._shards()  # all copies share what is open: manifests are read once for several queries
        made: Dataset[Any] = Dataset.__new__(Dataset)
        made.__dict__.update(self.__dict__)
        made._seen = None
        return made

    # -- reading ---------------------------------------------------------------------------------------------

    @overload
    def ordered(self, batch_size: None = None, **options: Unpack[_Reading]) -> Loader[T]: ...
    @overload
    def ordered(self, batch_size: int, **options: Unpack[_Reading]) -> Loader[Any]: ...
    def ordered(
        self,
        batch_size: int | None = None,
        *,
        remainder: Remainder = "uneven",
        rank: int | None = None,
        world_size: int | None = None,
        budget: int = BUDGET,
    ) -> Loader[Any]:
        """The samples in their order, as often as it is iterated.

        Args:
            batch_size: give `SampleBatch`es of that many samples (the last may be smaller) instead of samples.
            remainder: see `shuffled`, as are all the others.
            rank: which of several processes this is.
            world_size: how many processes there are.
            budget: most bytes to hold of shards on servers.
        """
        settings = Settings(batch_size, remainder=remainder, ranks=_ranks(rank, world_size), budget=budget)
        return Loader(self, settings)

    @overload
    def shuffled(self, batch_size: None = None, **options: Unpack[_Shuffling]) -> Loader[T]: ...
    @overload
    def shuffled(self, batch_size: int, **options: Unpack[_Shuffling]) -> Loader[Any]: ...
    def shuffled(
        self,
        batch_size: int | None = None,
        *,
        seed: int = 0,
        epoch: int = 0,
        remainder: Remainder = "uneven",
        block: int | None = None,
        window: int | None = None,
        lanes: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
        budget: int = BUDGET,
    ) -> Loader[Any]:
        """The samples in an order that seed and epoch decide, every one exactly once.

        Blocks of neighbouring samples are shuffled, and then the samples of several blocks among themselves, so that
        servers and disks are read in long pieces (`atdata.datasets.order`). The order, the batches, and what a saved
        state means do not depend on how many ranks and workers read them, nor on where the shards lie.

        Ranks and workers are found when the iteration begins: `rank` and `world_size` where given; else what
        torch.distributed says, if it is in use; else the environment variables RANK and WORLD_SIZE; and the worker of a
        torch DataLoader.

        A `filter` is asked of all samples once, when it has to be known which are left. Shards that can only be read
        through (compressed ones, those of a source) are shuffled through a buffer of 64 MiB, and by every share.

        Args:
            batch_size: give `SampleBatch`es of that many samples instead of samples.
            seed: another seed gives another order.
            epoch: every epoch has an order of its own; see also `Loader.set_epoch`.
            remainder: "uneven": every sample is given out exactly once; the last batch may be smaller, and some ranks
                may have one batch less. "drop": every rank has the same number of whole batches; what is left over is
                not given out. "pad": the same, but nothing is left out: missing samples are repeated, and
                `SampleBatch.valid` says which are no repetition.
            block: neighbouring samples that are shuffled as one. By default as many as have about 2 MiB. 1 is a perfect
                shuffle: cheap on a disk, but one request for each sample on a server.
            window: blocks whose samples are shuffled among themselves, 32 by default. On servers all of a window has to
                fit into half of the budget to be fetched in long pieces.
            lanes: windows that are open at once, from which batches are taken in turn. Give the number of all readers
                (ranks times workers), or a multiple, and every byte on a server is fetched by one of them only.
            rank: which of several processes this is.
            world_size: how many processes there are.
            budget: most bytes to hold of shards on servers, what was fetched ahead and what is being used together. A
                batch that is larger by itself is fetched all the same.
        """
        ranks = _ranks(rank, world_size)
        settings = Settings(batch_size, _seed(seed), block, window, lanes, remainder, ranks, budget)
        loader: Loader[Any] = Loader(self, settings)
        loader.set_epoch(epoch)
        return loader

    def plan(self, batch_size: int | None = None, **options: Unpack[_Shuffling]) -> Plan:
        """What an epoch of `shuffled` with these arguments will take, without reading any sample: print it."""
        return self.shuffled(batch_size, **options).plan()

    def __iter__(self) -> Iterator[T]:
        return iter(self._whole())

    def _whole(self, batch_size: int | None = None) -> Loader[Any]:
        """All samples in their order, whatever ranks and workers there are."""
        return Loader(self, Settings(batch_size, alone=True))

    def keyed(self) -> Iterator[tuple[str | None, T]]:
        """Key and sample, in order; key None where samples in memory have none."""
        scanned = (ValueStep, Take, Filter)
        if all(isinstance(step, scanned) for step in self._steps) or not self.seekable:
            if self._located is None:
                return self._through_steps(self._stored())
            return self._scanned(decoding(self._stored_type, self._steps, self._located.schema))
        _, selection, values = self._resolved()
        return self._view(values).samples(selection)

    def _stored(self) -> Iterator[tuple[str | None, Any]]:
        assert self._samples is not None
        if isinstance(self._samples, Edited):
            yield from self._samples.keyed()
            return
        for sample in self._samples:
            yield (None if self._key is None else self._key(sample)), sample

    def _scanned(self, found: Decoded) -> Iterator[tuple[str | None, Any]]:
        """Key and sample of everything, read from front to back."""
        url: str | None = None

        def stored() -> Iterator[tuple[str | None, Any]]:
            nonlocal url
            for number, shard, start, stop in pieces(self._shards(), demand=Demand(fields_of(found.stored_type))):
                url, count = shard.url, 0
                for pair in shard.keyed(found.stored_type, start, stop):
                    yield pair
                    count += 1
                if stop is None:
                    self._shards().check_count(number, count)

        try:
            yield from apply(found.left, stored())
        except StepError as error:
            if not any(isinstance(step, Pick) for step in found.left):  # which holds samples of several shards
                error.at(url=url)
            raise

    def _through_steps(self, stored: Iterator[tuple[str | None, Any]]) -> Iterator[tuple[str | None, Any]]:
        return apply(self._steps, stored)

    def _shards(self) -> Access:
        if self._located is None:
            raise DatasetError("samples in memory have no shards; write them with a store's write_shards first")
        if self._access is None or self._access.foreign():
            self._access = Access(self._located, self._source, self._opening, self._verify, self._cache)
        return self._access

    def _view(self, values: tuple[ValueStep, ...], access: Access | None = None) -> View:
        access = self._shards() if access is None else access
        if self._seen is not None:
            of, seen = self._seen
            same = of is values or (len(of) == len(values) and all(a is b for a, b in zip(of, values, strict=True)))
            if same and seen.access is access and seen.holds:
                return seen
        given, stored_type = values, self._stored_type
        if all(isinstance(step, Select) for step in values) and _reads_as_stored(stored_type):
            for step in values:  # what is left out need not be decoded, even where a step before has looked at it
                stored_type = step.type_after(stored_type)
            values = ()
        view = View(access, stored_type, values)
        self._seen = given, view
        return view

    def _resolved(self) -> Resolved:
        """Which stored samples are left after all steps, and what is made of them; kept, also in copies."""
        known = self._known
        if known is None or known.steps < len(self._steps):
            known = self._known = resolve(self._steps, self._shards(), self._stored_type, known)
        return known

    def _in_memory(self) -> tuple[Sequence[Any], Callable[[Any], Any]]:
        """Samples in memory after the last step that leaves some out, and what makes of each what the others say."""
        last = max((n for n, step in enumerate(self._steps, 1) if isinstance(step, NarrowingStep)), default=0)
        if last:
            found = [sample for _, sample in apply(self._steps[:last], self._stored())]
        elif isinstance(self._samples, Sequence):
            found = self._samples  # type: ignore[assignment]
        else:
            raise DatasetError(
                "an iterator cannot be shuffled: give its samples as a list, or write them with a store's write_shards"
            )
        values = [step for step in self._steps[last:] if isinstance(step, ValueStep)]

        def finish(sample: Any) -> Any:
            for step in values:
                sample = step.one(sample, None)
            return sample

        return found, finish

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> list[T]: ...
    def __getitem__(self, index: int | slice | Sequence[int]) -> T | list[T]:
        found: T | list[T] = indexing.item(self, index)
        return found

    def get(self, key: str) -> T:
        """The sample with that key (the first, should several have it).

        Raises:
            SampleKeyError: there is none.
        """
        found: T = indexing.by_key(self, key)
        return found

    def head(self, n: int = 5) -> list[T]:
        """The first `n` samples."""
        return [sample for _, sample in self.take(n).keyed()]

    # -- other formats ---------------------------------------------------------------------------------------

    def to_arrow(self) -> pa.Table:
        """All samples as an Arrow table; see `atdata.datasets.arrow` for the column types."""
        from atdata.datasets.arrow import to_table

        return to_table(self)

    def to_pandas(self) -> pd.DataFrame:
        """All samples as a pandas frame, a column for each field; arrays stay NumPy arrays.

        Raises:
            ImportError: pandas is missing (`pip install 'atdata[pandas]'`).
        """
        from atdata.datasets.arrow import to_frame

        return to_frame(self)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_access"] = state["_seen"] = None  # open files stay in their process
        return state


class _Once(Generic[T]):
    """An iterator, which says so when it is asked for a second time instead of giving nothing."""

    def __init__(self, samples: Iterable[T]) -> None:
        self._samples: Iterable[T] | None = samples

    def __iter__(self) -> Iterator[T]:
        samples, self._samples = self._samples, None
        if samples is None:
            raise DatasetError("the iterator of this dataset was read already; give a list, or make the dataset anew")
        return iter(samples)


def _ranks(rank: int | None, world_size: int | None) -> Ranks | None:
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise ValueError("rank and world_size are given together")
    return check_ranks(rank, world_size)


def _seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"the seed of a shuffle is an int, not {seed!r}")
    return int(seed)


def _cache(given: str | os.PathLike[str] | Cache | None) -> Cache | None:
    if given is None:
        given = os.environ.get("ATDATA_CACHE") or None
    return given if isinstance(given, Cache) or given is None else Cache(given)


def _reads_as_stored(sample_type: type) -> bool:
    """Whether a class of only some of the fields reads the same values of them."""
    return not issubclass(sample_type, DictSample) and keeps_values(sample_type)


def _check_type(sample_type: Any) -> type:
    if isinstance(sample_type, type) and issubclass(sample_type, DictSample):
        return sample_type
    codec.plan(sample_type)  # SchemaError says what is wrong with it
    return sample_type  # type: ignore[no-any-return]
