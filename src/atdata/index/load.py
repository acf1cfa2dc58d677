"""`load_dataset`: a dataset by whatever names it, with its type and its splits."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, overload

from atdata.datasets.dataset import Dataset
from atdata.datasets.opener import Verify
from atdata.datasets.sources import DataSource, Located, ShardRef, is_source, locate
from atdata.errors import (
    DatasetNotFoundError,
    EntryFormError,
    EntryNotFoundError,
    SchemaError,
    SplitError,
)
from atdata.index.base import AbstractIndex, DatasetEntry, IndexEntry
from atdata.index.folders import is_archive, parts_in
from atdata.index.local import _DEFAULT, LocalIndex
from atdata.index.names import parse_ref
from atdata.index.splits import DatasetDict, Grouping, group, matching, missing
from atdata.index.views import Reading, reading_of
from atdata.samples.schema import Schema
from atdata.stores.cache import Cache
from atdata.stores.opening import Opening

__all__ = ["existing_index", "find_named", "is_place", "is_published", "load_dataset", "network_index"]

T = TypeVar("T")

_PLACE = re.compile(r"[/~]|\.\.?(/|\Z)|[^/]*://")  # how a text begins that cannot be a name
_RECORD = re.compile(r"at://[^/]*(/?\Z|/science\.alt\.dataset\.)")  # of an account, or of a record in it
_MAGIC = re.compile(r"[*?\[{]")
_HOW = "LocalIndex().write_samples and insert_dataset make one"


@overload
def load_dataset(
    path: Any,
    sample_type: type[T],
    *,
    split: str,
    index: AbstractIndex | None = None,
    store: Any = None,
    verify: Verify = "first",
    cache: str | os.PathLike[str] | Cache | None = None,
) -> Dataset[T]: ...
@overload
def load_dataset(
    path: Any,
    sample_type: None = None,
    *,
    split: str,
    index: AbstractIndex | None = None,
    store: Any = None,
    verify: Verify = "first",
    cache: str | os.PathLike[str] | Cache | None = None,
) -> Dataset[Any]: ...
@overload
def load_dataset(
    path: Any,
    sample_type: type | None = None,
    *,
    split: None = None,
    index: AbstractIndex | None = None,
    store: Any = None,
    verify: Verify = "first",
    cache: str | os.PathLike[str] | Cache | None = None,
) -> Any: ...
def load_dataset(
    path: Any,
    sample_type: type | None = None,
    *,
    split: str | None = None,
    index: AbstractIndex | None = None,
    store: Any = None,
    verify: Verify = "first",
    cache: str | os.PathLike[str] | Cache | None = None,
) -> Any:
    """A dataset, by its name in an index or by the place of its shards.

    A text is a place when it is a URL, begins with `/`, `./`, `../` or `~`, ends with `/` or like an archive (`.tar`),
    or is a pattern. Any other text is looked up in the index, and on the disk: where both have it and the data differs,
    that is an error which says how to write either (`@local/name`, `./name`).

    Splits are told by names: words such as `train`, `val` or `test` in the shards' file names, and in the folders that
    the pattern or folder leaves open; see `atdata.index.splits`. Shards of which no name says a split are `train`.

    Args:
        path: one of

            - a name in the index: `digits` (the latest version), `digits@1.0.0`, `digits@stable`, `@local/digits`, or a
              content identifier;
            - a name on the AT Protocol network: `@alice.example.org/digits`, also with a version or label, or the
              `at://…` address of an entry; no account is needed to read. `@me/digits` is that of the account that is
              logged in (`atdata login`);
            - a folder or prefix with an `atdata.json`, one with tar files, or one with folders of these named after
              splits: `s3://bucket/imagenet/`;
            - one shard, a glob (`**` stands for any folders), a brace pattern, or both in one, as path or URL;
            - a list of shards, or an object with `list_shards` and `open_shard`;
            - a mapping from split names to any of these.
        sample_type: the class of the samples; by default it is built from the stored schema, and is `DictSample` where
            there is none. Data of another type, or of an older version of it, is seen through lenses, as by
            `Dataset.as_type`: those of this process, then the declared ones that the index holds, and along the
            versions that it knows; where that cannot be, it is refused at once.
        split: the split to load; `val` and `dev` mean `validation`.
        index: where names are looked up; by default `LocalIndex()`, if there is one, and for names of the network an
            anonymous `AtmosphereIndex()`.
        store: a store whose credentials are used for what lies in it.
        verify: see `Dataset`.
        cache: see `Dataset`.

    Returns:
        A `Dataset`; where there are several splits and none was asked for, a `DatasetDict`.

    Raises:
        EntryNotFoundError: the index has no such dataset, version or label; the message lists those it has.
        LoginError: it is of `@me`, and nobody is logged in.
        DatasetNotFoundError: there is nothing at that place.
        SplitNotFoundError: there is no such split; the message lists those there are.
        SplitError: it cannot be told which split a shard belongs to.
        SchemaError: the data cannot be read as `sample_type`, nor seen so; the message names the fields, and the step
            that takes a lens.
        AmbiguousLensError: several lenses, or paths of them, lead to `sample_type`; the message shows them.
        EntryFormError: the index and the disk have different datasets of that name.

    Example:
        >>> import atdata
        >>> @atdata.packable
        ... class Word:
        ...     text: str
        >>> store = atdata.LocalDiskStore("words")
        >>> for name in ("train", "val"):
        ...     ds = atdata.Dataset.from_samples([Word(name), Word("more")], Word)
        ...     _ = store.write_shards(ds, prefix=name)
        >>> load_dataset("words/")
        DatasetDict(
            train:      Dataset[Word](1 shard, 2 samples)
            validation: Dataset[Word](1 shard, 2 samples)
        )
        >>> load_dataset("words/", split="val")[0]
        Word(text='val')
    """
    loader = _Loader(sample_type, split, index, {"store": store, "verify": verify, "cache": cache})
    return loader.load(path)


def existing_index(url: str | None = None) -> LocalIndex | None:
    """The index at a path or URL, by default where `LocalIndex()` has its own; None where none was made yet."""
    text = url or os.environ.get("ATDATA_INDEX") or _DEFAULT
    scheme, colon, rest = text.partition("://")
    if colon and scheme != "sqlite":
        return LocalIndex(text)
    path = Path(rest.removeprefix("/") if colon else text).expanduser()
    return LocalIndex(path) if path.exists() else None


def is_place(text: str) -> bool:
    """Whether a text names a place, and no dataset of an index: a URL, `./x`, `x/`, `x.tar`, a pattern.

    Example:
        >>> [is_place(text) for text in ("s3://bucket/v1", "./digits", "digits.tar", "digits", "digits@1.0.0")]
        [True, True, True, False, False]
    """
    return bool(_PLACE.match(text) or text.endswith("/") or is_archive(text) or _MAGIC.search(text))


def is_published(text: str) -> bool:
    """Whether a text names a dataset that an account has published: `@handle/name`, or `at://…` of a record.

    Example:
        >>> [is_published(text) for text in ("@alice.example.org/digits", "@local/digits", "at://did:plc:abc/digits/v1")]
        [True, False, False]
    """
    # Other at:// URLs are places in a data store: a blob, or a prefix.
    return _RECORD.match(text) is not None if text.startswith("at://") else text[:1] == "@" and text[:7] != "@local/"


def network_index(index: Any, store: Any = None) -> Any:
    """An index that knows what accounts have published: the given one, or one that reads as anybody does.

    Args:
        index: that was given; None, or a local one, is not asked.
        store: a store whose credentials are used for what lies in it.
    """
    if index is not None and not isinstance(index, LocalIndex):
        return index
    from atdata.index.atmosphere import AtmosphereIndex

    return AtmosphereIndex(store=store)


def find_named(text: str, index: Any, store: Any = None) -> IndexEntry | None:
    """What an index has of a name; None where it has nothing, and there is a path of that name.

    Args:
        text: `name`, `name@version`, `name@label` or a content identifier.
        index: where it is looked up.
        store: a store whose credentials are used for what lies in it.

    Raises:
        EntryNotFoundError: neither the index nor the disk has it.
        EntryFormError: both have it, and the data differ.
    """
    there = os.path.exists(text)
    try:
        entry: IndexEntry = index.get_dataset(text)
    except (LookupError, EntryFormError) as error:
        if there:
            return None
        if "@" in text or not isinstance(error, EntryNotFoundError):
            raise
        raise EntryNotFoundError(f"{error.message}; and there is no path {text!r}") from None
    if there:
        _check_same(text, entry, store)
    return entry


def _check_same(text: str, entry: IndexEntry, store: Any) -> None:
    """Refuse a name that means two datasets."""
    try:
        parts, _ = _parts(text, store)
    except DatasetNotFoundError:
        return  # a folder of something else
    record = parts[0].record if len(parts) == 1 else None
    if record is None or record.cid != entry.cid:
        raise EntryFormError(
            f"{text!r} is a dataset of the index (version {entry.version}) and also a path here, with other data: "
            f"write '@local/{text}' for the one and './{text}' for the other"
        )


def _parts(text: str, store: Any) -> tuple[list[Located], str]:
    """The shards at a place, and the folder below which folders say a split."""
    text = os.path.expanduser(text)
    opening = Opening(store)
    here = opening.path(text) if "{" not in text else None
    there = here is not None and os.path.exists(here)  # what is there by that very name is no pattern
    fixed = text if there else _MAGIC.split(text, maxsplit=1)[0]
    is_folder = here.is_dir() if there and here is not None else fixed == text and not is_archive(text)
    folder = text if is_folder else fixed.rpartition("/")[0]
    path = opening.path(folder)
    # As the shards' URLs begin.
    root = (folder if path is None or opening.store is not None else str(path.absolute())).rstrip("/") + "/"
    try:
        return [locate(text, opening)], root
    except DatasetNotFoundError:
        if not is_folder or not (there or opening.object_store(text) is not None):
            raise
    return parts_in(text, opening), root


class _Loader:
    """One call of `load_dataset`."""

    def __init__(self, sample_type: type | None, split: str | None, index: Any, options: dict[str, Any]) -> None:
        self._type = sample_type
        self._split = split
        self._index = index
        self._options = options
        self._readings: dict[str | None, Reading] = {}  # by the identifiers of schemas

    def load(self, path: Any) -> Dataset[Any] | DatasetDict:
        if isinstance(path, Mapping):
            return self._from_mapping(path)
        if isinstance(path, str):
            return self._from_text(path)
        if is_source(path):
            return self._from_source(path)
        if isinstance(path, os.PathLike):
            return self._at(os.fspath(path))
        located = locate(path, Opening(self._options["store"]))
        return self._divided([located], None)

    def _from_mapping(self, places: Mapping[str, Any]) -> Dataset[Any] | DatasetDict:
        if not places:
            raise SplitError("the mapping has no splits: give one place at least, {'train': …}")
        if self._split is not None:
            name = matching(self._split, places)
            if name is None:
                raise missing(self._split, places)
            places = {name: places[name]}
        whole = _Loader(self._type, None, self._index, self._options)
        found = DatasetDict()
        for name, place in places.items():
            ds = whole.load(place)
            if isinstance(ds, DatasetDict):
                raise EntryFormError(f"the place of split {name!r} has splits itself: {', '.join(ds)}")
            found[name] = ds
        return found if self._split is None else next(iter(found.values()))

    def _from_source(self, source: DataSource) -> Dataset[Any] | DatasetDict:
        names = source.list_shards()
        made: dict[str, Dataset[Any]] = {}
        for split, numbers in self._wanted(group(names), None).items():
            part = source if len(numbers) == len(names) else _Part(source, [names[n] for n in numbers])
            made[split] = Dataset(part, sample_type=self._type, **self._options)
        return self._answer(made)

    # -- texts -----------------------------------------------------------------------------------------------

    def _from_text(self, text: str) -> Dataset[Any] | DatasetDict:
        if is_published(text):
            network = network_index(self._index, self._options["store"])
            entry = network.get_dataset(text)
            return self._entry(entry, _home(entry, network))
        if text.startswith(("@local/", "atdata://")):
            with self._opened_index() as index:
                if index is None:
                    raise EntryNotFoundError(f"there is no index yet that {text!r:.80} could be in: {_HOW}")
                return self._entry(index.get_dataset(text), index)
        if is_place(text):
            return self._at(text)
        if not os.path.exists(text) and (self._index is None or isinstance(self._index, LocalIndex)):
            try:
                parse_ref(text)
            except EntryFormError as error:
                raise DatasetNotFoundError(f"there is no path {text!r:.80}, and {error.message}") from None
        return self._named(text)

    def _named(self, text: str) -> Dataset[Any] | DatasetDict:
        """What the index or the disk has of that name."""
        there = os.path.exists(text)
        with self._opened_index() as index:
            if index is None:
                if there:
                    return self._at(text)
                raise DatasetNotFoundError(f"there is no path {text!r}, and no index yet that could have it: {_HOW}")
            entry = find_named(text, index, self._options["store"])
            return self._at(text) if entry is None else self._entry(entry, index)

    @contextlib.contextmanager
    def _opened_index(self) -> Iterator[Any]:
        """The index to look names up in; None when none was given and there is none by default."""
        with contextlib.ExitStack() as stack:
            found = existing_index() if self._index is None else None
            yield stack.enter_context(found) if found is not None else self._index

    # -- what was found --------------------------------------------------------------------------------------

    def _at(self, text: str) -> Dataset[Any] | DatasetDict:
        return self._divided(*_parts(text, self._options["store"]), url=text)

    def _entry(self, entry: Any, index: Any) -> Dataset[Any] | DatasetDict:
        """The samples of an index's entry."""
        url = f"{entry.name}@{entry.version}"
        if callable(getattr(entry, "dataset", None)):
            located = entry.located if isinstance(getattr(entry, "located", None), Located) else None
            schema = entry.dataset().located.schema if located is None else located.schema
            reading = reading_of(schema, self._type, index=index, url=url)
            # Ours would look for lenses once more.
            read = entry._stored if isinstance(entry, DatasetEntry) else entry.dataset
            ds: Dataset[Any] = read(reading.sample_type, **self._options)
        else:
            schema = None if entry.schema_ref is None else index.get_schema(entry.schema_ref)
            reading = reading_of(schema, self._type, index=index, url=url)
            ds = self._stranger(entry, schema, reading)
        assert ds.located is not None
        options = self._options | {"store": ds.opening.store}
        return self._divided([ds.located], None, url=url, options=options, known=(ds, reading))

    def _stranger(self, entry: IndexEntry, schema: Schema | None, reading: Reading) -> Dataset[Any]:
        """The samples of an entry that only says where they are."""
        sample_type = reading.sample_type or (None if schema is None else schema.sample_type())
        store = self._options["store"] or getattr(self._index, "store", None)
        return Dataset(list(entry.data_urls), sample_type=sample_type, **self._options | {"store": store})

    def _divided(
        self,
        parts: Sequence[Located],
        root: str | None,
        *,
        url: str | None = None,
        options: dict[str, Any] | None = None,
        known: tuple[Dataset[Any], Reading] | None = None,
    ) -> Dataset[Any] | DatasetDict:
        """The splits of what was located, or the one that was asked for.

        Args:
            parts: shards with their records.
            root: see `group`.
            url: what the user gave, for messages.
            options: how the datasets are made, when not as this call says.
            known: the dataset of all shards and how it was read, when there is one already.
        """
        readings = [self._reading(part.schema, url) for part in parts if known is None]
        shards = [(ref, part) for part in parts for ref in part.shards]
        which = [n for n, part in enumerate(parts) for _ in part.shards]
        made = {}
        for split, numbers in self._wanted(group([_named(ref) for ref, _ in shards], root=root), url).items():
            if known is None:
                reading = self._one(split, [readings[n] for n in dict.fromkeys(which[n] for n in numbers)], url)
            else:
                reading = known[1]
            if known is not None and len(numbers) == len(shards):
                ds = known[0]
            else:
                located = _some([shards[n] for n in numbers])
                ds = Dataset(located, sample_type=reading.sample_type, **options or self._options)
            made[split] = reading.of(ds)
        return self._answer(made)

    def _reading(self, schema: Schema | None, url: str | None) -> Reading:
        """How the shards of one part are read; parts of one schema are read alike."""
        cid = None if schema is None else schema.cid
        if cid not in self._readings:
            self._readings[cid] = reading_of(schema, self._type, index=self._index, url=url)
        return self._readings[cid]

    def _one(self, split: str, readings: Sequence[Reading], url: str | None) -> Reading:
        """The way that all parts of a split are read."""
        first = readings[0]
        if any(other != first for other in readings):
            raise SchemaError(
                f"the shards of the split {split!r} were written with different schemas, of which each takes a lens of "
                f"its own to {getattr(self._type, '__name__', self._type)}: load them one by one",
                url=url,
            )
        return first

    def _wanted(self, found: Grouping, url: str | None) -> dict[str, list[int]]:
        """The splits to load, with the numbers of their shards."""
        return found.splits if self._split is None else {self._split: found.numbers(self._split, url=url)}

    def _answer(self, made: Mapping[str, Dataset[Any]]) -> Dataset[Any] | DatasetDict:
        return DatasetDict(made) if self._split is None and len(made) > 1 else next(iter(made.values()))


def _home(entry: Any, network: Any) -> Any:
    """The index of the account that an entry is in: there its schema has its versions."""
    narrow = getattr(network, "of_account", None)
    return network if narrow is None else narrow(entry.uri.removeprefix("at://").partition("/")[0])


def _named(ref: ShardRef) -> str:
    """A shard's URL as far as it is a name: that of a blob is a digest, in which words would be chance."""
    if not ref.url.startswith("at://"):
        return ref.url
    name = "" if ref.info is None else ref.info.name
    return f"{ref.url.rpartition('/')[0]}/{name if is_archive(name) else 'blob'}"


def _some(shards: Sequence[tuple[ShardRef, Located]]) -> Located:
    """Some of the shards that were located, each with what it was located with."""
    first = shards[0][1]
    refs = tuple(ref for ref, _ in shards)
    if refs == first.shards:
        return first
    schema = first.schema
    if schema is not None and any(part.schema is None or part.schema.cid != schema.cid for _, part in shards):
        schema = None
    return Located(refs, schema)


class _Part:
    """Some of the shards of a source."""

    def __init__(self, source: DataSource, names: list[str]) -> None:
        self._source = source
        self._names = names

    def list_shards(self) -> list[str]:
        return list(self._names)

    def open_shard(self, shard_id: str) -> IO[bytes]:
        if shard_id not in self._names:
            raise KeyError(shard_id)
        return self._source.open_shard(shard_id)

    @property
    def shards(self) -> Iterator[tuple[str, IO[bytes]]]:
        for name in self._names:
            yield name, self._source.open_shard(name)
