"""What an index promises, and the entry that ours give."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from atdata.datasets.sources import Located, ShardRef
from atdata.samples.schema import Schema

if TYPE_CHECKING:
    from atdata.datasets.dataset import Dataset
    from atdata.datasets.opener import Verify
    from atdata.index.lenses import StoredLens
    from atdata.lenses.lens import Lens
    from atdata.lenses.references import CodeReference
    from atdata.stores.cache import Cache

__all__ = ["AbstractIndex", "DatasetEntry", "IndexEntry"]


@runtime_checkable
class IndexEntry(Protocol):
    """One version of a dataset, as any index gives it."""

    @property
    def name(self) -> str:
        """The dataset's name."""

    @property
    def version(self) -> str:
        """`major.minor.patch`."""

    @property
    def schema_ref(self) -> str | None:
        """What `get_schema` and `decode_schema` of the same index take; None when no schema is known."""

    @property
    def data_urls(self) -> list[str]:
        """Where the shards lie, in order."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the author added, as JSON values."""

    @property
    def cid(self) -> str:
        """The identifier of the content, the same wherever the shards lie."""

    @property
    def created_at(self) -> datetime:
        """When the version was made, in UTC."""


@runtime_checkable
class AbstractIndex(Protocol):
    """The public contract of an index of datasets."""

    def insert_dataset(
        self,
        ds: Dataset[Any],
        *,
        name: str,
        version: str | None = None,
        schema_ref: str | None = None,
        description: str | None = None,
        tags: Iterable[str] = (),
        license: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> IndexEntry:
        """Record a dataset whose shards lie somewhere already, as a new version of `name`."""

    def get_dataset(self, ref: str) -> IndexEntry:
        """The version that `ref` names: `name` (the latest), `name@1.2.0`, or a CID."""

    def list_datasets(self) -> Iterator[IndexEntry]:
        """The latest version of every dataset, page by page as it is iterated."""

    def search(self, text: str = "", *, tags: Iterable[str] = (), schema: str | None = None) -> Iterator[IndexEntry]:
        """The latest versions that have all words of `text`, all `tags`, and that schema."""

    def delete_dataset(self, ref: str) -> None:
        """Forget a dataset or one version of it; its shards stay where they are."""

    def publish_schema(self, sample_type: type, *, version: str | None = None) -> str:
        """Record a sample type's schema; returns the reference to it."""

    def get_schema(self, ref: str) -> Schema:
        """The schema that `ref` names."""

    def list_schemas(self) -> Iterator[Schema]:
        """Every version of every schema."""

    def decode_schema(self, ref: str) -> type:
        """A sample type built in memory from a stored schema; no code is executed."""

    def publish_lens(
        self,
        lens: Lens[Any, Any],
        *,
        code: CodeReference | None = None,
        source_schema: str | None = None,
        view_schema: str | None = None,
    ) -> str:
        """Record a lens, with the schemas of its types; returns the reference to it."""

    def get_lens(self, ref: str) -> StoredLens:
        """The lens that `ref` names: a reference, or a name, of which the newest is meant."""

    def list_lenses(self, *, source: str | None = None, view: str | None = None) -> Iterator[StoredLens]:
        """The lenses, or only those that read, or give, a schema."""


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetEntry:
    """One version of a dataset; it never changes.

    The list of shards, which can be long, is fetched from the index when it is first asked for.

    Attributes:
        name: the dataset's name.
        version: `major.minor.patch`.
        cid: the identifier of the content: of the schema and the shards' digests.
        schema_ref: the schema's reference in the index; None when no schema is known.
        parent: the version this one was made from; None for the first.
        description: free text.
        tags: words to find it by.
        license: the licence's SPDX identifier or name.
        metadata: what the author added, as JSON values.
        created_at: when the version was made, in UTC.
        samples: number of samples in all shards; None where another tool's entry on the network does not say.
        size: size of all shards in bytes; None likewise.
    """

    name: str
    version: str
    cid: str
    schema_ref: str | None
    parent: str | None
    description: str | None
    tags: tuple[str, ...]
    license: str | None
    metadata: Mapping[str, Any]
    created_at: datetime
    samples: int | None
    size: int | None
    _locate: Callable[[], Located] = dataclasses.field(repr=False)
    _store: Any = dataclasses.field(default=None, repr=False)  # the index's; it stays in its process
    _index: Any = dataclasses.field(default=None, repr=False)  # what knows versions of schemas, and lenses; likewise

    @functools.cached_property
    def located(self) -> Located:
        """The shards with what is recorded of each, and the schema."""
        return self._locate()

    @property
    def schema(self) -> Schema | None:
        """The schema of the samples; None when no schema is known."""
        return self.located.schema

    @property
    def shards(self) -> tuple[ShardRef, ...]:
        """Where each shard lies, with its size, sample count, SHA-256 and manifest."""
        return self.located.shards

    @property
    def data_urls(self) -> list[str]:
        """Where the shards lie, in order."""
        return [shard.url for shard in self.located.shards]

    def dataset(
        self,
        sample_type: type | None = None,
        *,
        store: Any = None,
        verify: Verify = "first",
        cache: str | os.PathLike[str] | Cache | None = None,
    ) -> Dataset[Any]:
        """The samples of this version.

        Args:
            sample_type: the class of the samples; by default built from the schema. As another type than the stored
                one they are seen through lenses, as `load_dataset` does.
            store: a store whose credentials are used for the shards that lie in it, and for no others; by default
                that of the index.
            verify: see `Dataset`.
            cache: see `Dataset`.

        Raises:
            SchemaError: the samples cannot be read or seen as that class; the message names the step that is missing.
            AmbiguousLensError: several lenses, or paths of them, lead there.
        """
        from atdata.index.views import reading_of

        if sample_type is None:
            return self._stored(None, store=store, verify=verify, cache=cache)
        url = f"{self.name}@{self.version}"
        reading = reading_of(self.located.schema, sample_type, index=self._known_by(), url=url)
        return reading.of(self._stored(reading.sample_type, store=store, verify=verify, cache=cache))

    def _stored(
        self,
        sample_type: type | None,
        *,
        store: Any = None,
        verify: Verify = "first",
        cache: str | os.PathLike[str] | Cache | None = None,
    ) -> Dataset[Any]:
        """The samples, read as a class that reads their bytes."""
        from atdata.index.routing import dataset_of

        store = self._store if store is None else store
        return dataset_of(self.located, sample_type, store=store, verify=verify, cache=cache)

    def _known_by(self) -> Any:
        """What knows other versions of its schema, and lenses; None where that was left behind."""
        return self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DatasetEntry) and self._plain == other._plain

    def __hash__(self) -> int:
        return hash((self.name, self.version, self.cid))

    @property
    def _plain(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.name.startswith("_")}

    def __reduce__(self) -> tuple[Any, ...]:
        return (_entry, (self._plain, self.located))


def _entry(plain: dict[str, Any], located: Located) -> DatasetEntry:
    return DatasetEntry(**plain, _locate=lambda: located)
