"""`Dataset`: where samples come from and what happens to them on the way, as an immutable plan."""

from __future__ import annotations

import operator
import os
import types
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from atdata.datasets import steps
from atdata.datasets.access import Access, Verify
from atdata.datasets.loader import Loader
from atdata.datasets.sequence import pieces
from atdata.datasets.sources import Located, locate
from atdata.errors import DatasetError, IntegrityError, SampleIndexError, SampleKeyError, SchemaError
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.schema import Schema
from atdata.shards.reader import keeps_values
from atdata.stores.cache import Cache
from atdata.stores.opening import Opening

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Dataset"]

T = TypeVar("T")
U = TypeVar("U")


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
        self._opening = Opening(store)
        self._verify: Verify = verify
        self._cache = _cache(cache)
        self._located: Located | None = locate(source, self._opening)
        self._samples: Iterable[T] | None = None
        self._key: Callable[[T], str] | None = None
        self._steps: tuple[steps.Step, ...] = ()
        self._access: Access | None = None
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
        }

    def __repr__(self) -> str:
        count = self.known_length()
        shards = len(self.list_shards())
        what = "samples in memory" if self._located is None else f"{shards} shard{'' if shards == 1 else 's'}"
        numbers = f", {count} samples" if count is not None else ""
        return f"Dataset[{self._sample_type.__name__}]({what}{numbers})"

    def known_length(self) -> int | None:
        """The number of samples when it is known without reading any; else None."""
        if self._located is None:
            length = len(self._samples) if hasattr(self._samples, "__len__") else None  # type: ignore[arg-type]
        elif self._access is not None and self._access.counted:
            length = self._access.length()
        else:
            infos = [ref.info for ref in self._located.shards]
            length = sum(i.samples for i in infos if i is not None) if None not in infos else None
        return self._after_steps(length) if length is not None else None

    def _after_steps(self, length: int) -> int | None:
        for step in self._steps:
            if isinstance(step, steps.Filter):
                return None
            if isinstance(step, steps.Take):
                length = min(length, step.count)
        return length

    def __len__(self) -> int:
        length = self.known_length()
        # `list` and `tqdm` ask for the length first: no reason to read what a source gives twice.
        readable = self._located is not None and not self._shards().streamed
        if length is None and readable and self._after_steps(0) is not None:
            length = self._after_steps(self._shards().length())
        if length is None:
            what = "after a filter" if self._after_steps(0) is None else "of an iterator or a stream"
            raise TypeError(f"the number of samples {what} is not known before they are read: count them while reading")
        return length

    def __bool__(self) -> bool:
        return True

    # -- steps -----------------------------------------------------------------------------------------------

    def map(self, function: Callable[[T], U], sample_type: type[U] | None = None) -> Dataset[U]:
        """Every sample becomes `function(sample)`.

        Args:
            function: from a sample to a sample; defined in a module when the dataset is sent to other processes.
            sample_type: the class of what it gives; by default its return annotation, or else the class before.
        """
        return self._with(steps.Map(function, sample_type))

    def filter(self, predicate: Callable[[T], object]) -> Dataset[T]:
        """Only the samples for which `predicate(sample)` is true."""
        return self._with(steps.Filter(predicate))

    def take(self, count: int) -> Dataset[T]:
        """Only the first `count` samples."""
        if count < 0:
            raise ValueError(f"take needs a count of 0 or more, not {count}")
        return self._with(steps.Take(count))

    def select_fields(self, *fields: str) -> Dataset[Any]:
        """Only these fields of every sample; the others are not decoded.

        Raises:
            SchemaError: the sample type has no such field.
        """
        if not fields or len(set(fields)) != len(fields):
            raise SchemaError("name at least one field, and each only once")
        step = steps.Select(fields)
        untouched = all(isinstance(done, steps.Take) for done in self._steps) and self._located is not None
        if not untouched or issubclass(self._sample_type, DictSample) or not keeps_values(self._sample_type):
            return self._with(step)
        # Nothing looks at the other fields before, so they need not be decoded at all.
        made = self._copy()
        made._stored_type = made._sample_type = step.type_after(self._sample_type)
        return made

    def _with(self, step: steps.Step) -> Dataset[Any]:
        made = self._copy()
        made._steps = (*self._steps, step)
        made._sample_type = step.type_after(self._sample_type)
        return made

    def _copy(self) -> Dataset[Any]:
        made: Dataset[Any] = Dataset.__new__(Dataset)
        made.__dict__.update(self.__dict__)
        return made

    # -- reading ---------------------------------------------------------------------------------------------

    @overload
    def ordered(self, batch_size: None = None) -> Loader[T]: ...
    @overload
    def ordered(self, batch_size: int) -> Loader[Any]: ...
    def ordered(self, batch_size: int | None = None) -> Loader[Any]:
        """The samples in their order, as often as it is iterated.

        Args:
            batch_size: give `SampleBatch`es of that many samples (the last may be smaller) instead of samples.
        """
        return Loader(self, batch_size)

    def __iter__(self) -> Iterator[T]:
        return iter(self.ordered())

    def keyed(self) -> Iterator[tuple[str | None, T]]:
        """Key and sample, in order; key None where samples in memory have none."""
        return steps.apply(self._steps, self._stored())

    def _stored(self) -> Iterator[tuple[str | None, Any]]:
        if self._located is None:
            assert self._samples is not None
            for sample in self._samples:
                yield (None if self._key is None else self._key(sample)), sample
            return
        for number, shard, start, stop in pieces(self._shards()):
            count = 0
            for pair in shard.keyed(self._stored_type, start, stop):
                yield pair
                count += 1
            if stop is None:
                self._check_count(number, count)

    def _check_count(self, number: int, count: int) -> None:
        assert self._located is not None
        ref = self._located.shards[number]
        if ref.info is not None and ref.info.samples != count:
            raise IntegrityError(
                f"the shard gave {count} samples, its record says {ref.info.samples}",
                url=ref.url,
                expected=ref.info.samples,
                got=count,
            )
        self._shards().learn(number, count)

    def _shards(self) -> Access:
        if self._located is None:
            raise DatasetError("samples in memory have no shards; write them with a store's write_shards first")
        if self._access is None or self._access.foreign():
            self._access = Access(self._located, self._source, self._opening, self._verify, self._cache)
        return self._access

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        length = self._indexable()
        access = self._shards()
        if isinstance(index, slice):
            found = access.rows(range(*index.indices(length)), self._stored_type)
            return [self._through_steps(key, sample) for key, sample in found]
        index = operator.index(index)
        at = index + length if index < 0 else index
        if not 0 <= at < length:
            raise SampleIndexError(f"there is no sample {index}: the dataset has {length}")
        number, row = access.place(at)
        sample = access.row(number, row, self._stored_type)
        one: T = self._through_steps(access.key(number, row), sample) if self._steps else sample
        return one

    def _indexable(self) -> int:
        if self._located is None:
            raise DatasetError("samples in memory cannot be indexed; write them with a store's write_shards first")
        stored = self._shards().length()
        if not self._steps:
            return stored
        length = self._after_steps(stored)
        if length is None:
            raise DatasetError("a dataset with a filter cannot be indexed: which sample has which number is not known")
        return length

    def _through_steps(self, key: str, sample: Any) -> Any:
        for found in steps.apply(self._steps, iter([(key, sample)])):
            return found[1]
        raise SampleKeyError("the sample is left out by a step of the dataset", key=key)

    def get(self, key: str) -> T:
        """The sample with that key (the first, should several have it).

        Raises:
            SampleKeyError: there is none.
        """
        found = self._shards().find(key)
        length = self._after_steps(0)
        if found is None:
            raise SampleKeyError("no sample has this key", key=key)
        number, row = found
        if length is not None:  # with a filter the position is unknown, and so is what `take` leaves
            counts = self._shards().counts()
            index = row + (counts[number - 1] if number else 0)
            if index >= (self._after_steps(counts[-1]) or 0):
                raise SampleKeyError("the sample is left out by a step of the dataset", key=key)
        elif any(isinstance(step, steps.Take) for step in self._steps):
            raise DatasetError("get is not possible with both filter and take: which samples are left is not known")
        found_sample: T = self._through_steps(key, self._shards().row(number, row, self._stored_type))
        return found_sample

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
        state["_access"] = None  # open files stay in their process
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


def _cache(given: str | os.PathLike[str] | Cache | None) -> Cache | None:
    if given is None:
        given = os.environ.get("ATDATA_CACHE") or None
    return given if isinstance(given, Cache) or given is None else Cache(given)


def _check_type(sample_type: Any) -> type:
    if isinstance(sample_type, type) and issubclass(sample_type, DictSample):
        return sample_type
    codec.plan(sample_type)  # SchemaError says what is wrong with it
    return sample_type  # type: ignore[no-any-return]
