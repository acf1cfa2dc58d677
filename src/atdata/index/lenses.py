"""The lenses of an index: declared ones whole, those of code as references. Nothing is imported or run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from atdata.cid import generate_cid
from atdata.errors import (
    CatalogError,
    EntryFormError,
    EntryNotFoundError,
    LensError,
    LensRecordError,
    SchemaError,
)
from atdata.index.backend import Backend, LensRow, SchemaRow
from atdata.index.names import is_cid, parse_schema_ref, schema_ref
from atdata.index.schemas import Schemas, now, schema_of
from atdata.lenses.lens import Lens
from atdata.lenses.references import CodeReference, LensReference, schema_cid
from atdata.samples.dictsample import DictSample
from atdata.samples.schema import Schema

__all__ = ["Lenses", "StoredLens", "check_lens", "check_lens_schema", "fitting_schema", "missing_lens"]

_PAGE = 100
_LISTED = 10
_MAX_NAME = 100  # characters, as on the network
_START = "atdata://local/lens/"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclasses.dataclass(frozen=True)
class StoredLens:
    """A lens that an index holds.

    Attributes:
        uri: what `get_lens` of the same index takes: `atdata://local/lens/…`, or on the network the record,
            `at://did/science.alt.dataset.lens/…`.
        name: the lens's name.
        source: the reference to the schema of the type that it reads, which `get_schema` of the same index takes.
        view: the same of the type that it gives.
        created_at: when it was published, in UTC.
        description: what it does.
        declared: whether the index has all of the lens; else its code is elsewhere.
        record: the lens as JSON values, as whoever published it wrote them.
    """

    uri: str
    name: str
    source: str
    view: str
    created_at: datetime
    description: str | None
    declared: bool
    record: Mapping[str, Any] = dataclasses.field(repr=False, compare=False)
    _schema: Callable[[str], Schema] = dataclasses.field(repr=False, compare=False)

    @property
    def schemas(self) -> tuple[Schema, Schema]:
        """The schemas of the type that it reads, and of the one that it gives.

        Raises:
            EntryNotFoundError: one is not there.
            SchemaError: one cannot be read.
        """
        return self._schema(self.source), self._schema(self.view)

    def load(self, source: type | None = None, view: type | None = None) -> Lens[Any, Any] | LensReference:
        """The lens; of one that is code a reference, which says where the code is, and what to do with it.

        Args:
            source: the class that it reads; by default built from the schema.
            view: the class that it gives; likewise.

        Raises:
            LensRecordError: the record is malformed, or for other classes.
            EntryNotFoundError: a schema is not there.
        """
        types = [self._known(cls, address) for cls, address in ((source, self.source), (view, self.view))]
        try:
            return Lens.from_record(self.record, *types)
        except LensRecordError as error:
            raise error.at(url=self.uri) from None

    def __reduce__(self) -> tuple[Any, ...]:
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.name.startswith("_")}
        return (_stored_with, (plain | {"record": dict(self.record)}, self.schemas))

    def _known(self, cls: type | None, address: str) -> type:
        if cls is not None:
            return cls
        # What is not declared only tells where its code is: for that no type is needed.
        return self._schema(address).sample_type() if self.declared else DictSample


def _stored_with(plain: dict[str, Any], schemas: tuple[Schema, Schema]) -> StoredLens:
    known = dict(zip((plain["source"], plain["view"]), schemas, strict=True))
    return StoredLens(**plain, _schema=known.__getitem__)


class Lenses:
    """The lenses in a local index.

    Args:
        backend: where they are.
        schemas: the schemas in it.
    """

    def __init__(self, backend: Backend, schemas: Schemas) -> None:
        self._backend = backend
        self._schemas = schemas

    def publish(
        self, lens: Lens[Any, Any], code: CodeReference | None, source_schema: str | None, view_schema: str | None
    ) -> str:
        """Add a lens and the schemas of its types, unless they are there; returns its reference.

        Raises:
            LensError: it is code, and nobody says where; or it is made of several.
            SchemaError: a schema that was given is not that of the lens's type.
            EntryNotFoundError: a schema that was given is not there.
        """
        check_lens(lens)
        record = lens.to_record(code)
        if code is None and lens.functions:
            raise LensError(
                f"{lens.name} is code, and an index does not keep that: say where others find it, with publish_lens("
                "lens, code=CodeReference(repository, commit, path))"
            )
        source = self._row(source_schema, lens.source, "reads")
        view = self._row(view_schema, lens.view, "gives")
        row = _lens_row(record, source, view, now())
        newest = max(self._named(row.name), key=_age, default=None)
        if newest is None or newest.cid != row.cid:
            later = 0 if newest is None else newest.created_at + 1  # whatever the clock of its writer said
            self._backend.add_lens(msgspec.structs.replace(row, created_at=max(row.created_at, later)))
        return _START + row.cid

    def _row(self, ref: str | None, cls: type, what: str) -> SchemaRow:
        if ref is None:
            row, schema = self._schemas.get(fitting_schema(self._schemas, Schema.of(cls)))
        else:
            row, schema = self._schemas.get(ref)
        check_lens_schema(cls, schema, what)
        return row

    def take_over(self, stored: StoredLens) -> str:
        """Add a lens of another index, with the schemas of its types, unless it is there; returns its reference.

        Raises:
            EntryExistsError: a version of a schema is there with another content.
        """
        keys = [self._schemas.take_over(schema) for schema in stored.schemas]
        source, view = (self._backend.schemas(*key)[0] for key in keys)
        created_at = (stored.created_at - _EPOCH) // timedelta(microseconds=1)
        row = _lens_row(dict(stored.record), source, view, created_at)
        self._backend.add_lens(row)
        return _START + row.cid

    def get_lens(self, ref: str) -> StoredLens:
        """The lens that a reference names; of several of one name, the newest.

        Raises:
            EntryNotFoundError: there is none; the message lists what there is.
            EntryFormError: it is no reference.
        """
        if not isinstance(ref, str):
            raise EntryFormError(f"a lens is named by text such as 'Old_to_New', not by {type(ref).__name__}")
        text = ref.removeprefix("@local/")
        if text.startswith(("@", "at://")):
            raise EntryFormError(f"{ref!r:.200} names a lens of another index than this one; here, write its name")
        key = text.removeprefix(_START)
        found = self._backend.lens(key) if is_cid(key) else max(self._named(text), key=_age, default=None)
        if found is None:
            raise missing_lens(ref, (row.name for row in self._rows()))
        return _stored(found)

    def list_lenses(self, source: str | None = None, view: str | None = None) -> Iterator[StoredLens]:
        """The lenses by name, page by page; those between these schemas, or any versions of them.

        Raises:
            EntryFormError: that is no reference to a schema.
        """
        wanted = [None if ref is None else parse_schema_ref(ref) for ref in (source, view)]
        return (_stored(row) for row in self._rows() if all(map(_is_schema, (row.source, row.view), wanted)))

    def list_schemas(self) -> Iterator[Schema]:
        """Every version of every schema, by name and then by precedence."""
        return self._schemas.all()

    def _named(self, name: str) -> list[LensRow]:
        return list(self._rows(name)) if "\0" not in name else []

    def _rows(self, name: str | None = None) -> Iterator[LensRow]:
        after = ("", "")
        while page := self._backend.lenses(after, _PAGE, name=name):
            yield from page
            after = page[-1].name, page[-1].cid


def fitting_schema(schemas: Schemas, schema: Schema) -> str:
    """The reference to the schema of a lens's type: a published one that differs in words only, else a new version."""
    row, new = schemas.fitting(schema)
    return schemas.publish(schema, None) if new else schemas.ref(row)


def check_lens(lens: Any) -> None:
    """Whether it is a lens that is to be published.

    Raises:
        LensError: it is something else.
    """
    if not isinstance(lens, Lens):
        raise LensError(f"{lens!r:.120} is no lens: give what @atdata.lens or Lens.fields made")


def check_lens_schema(cls: type, schema: Schema, what: str) -> None:
    """Whether a published schema is that of the class that a lens reads or gives.

    Raises:
        SchemaError: it is another one.
    """
    if schema_cid(cls) != schema.cid:
        fields = ", which has other fields" if cls.__name__ == schema.name else ""
        raise SchemaError(f"the lens {what} {cls.__name__}, and not {schema.name}@{schema.version}{fields}")


def missing_lens(ref: str, known: Iterator[str]) -> EntryNotFoundError:
    """What to say when there is no lens of that name."""
    names = ", ".join(sorted(set(known))[:_LISTED]) or "none"
    return EntryNotFoundError(f"there is no lens {ref!r:.120}; there are: {names}")


def _is_schema(row: SchemaRow, wanted: tuple[str, str | None] | None) -> bool:
    return wanted is None or (row.name == wanted[0] and wanted[1] in (None, row.version))


def _age(row: LensRow) -> tuple[int, str]:
    return row.created_at, row.cid


def _lens_row(record: dict[str, Any], source: SchemaRow, view: SchemaRow, created_at: int) -> LensRow:
    name = _name(record)
    try:
        text = msgspec.json.encode(record).decode()
        cid = _cid(record, source, view)
    except UnicodeEncodeError:
        raise LensError(f"the lens {name!r:.120} has text with a lone surrogate, which cannot be stored") from None
    return LensRow(cid, name, source, view, text, created_at)


def _name(record: dict[str, Any]) -> str:
    return str(record.get("name"))[:_MAX_NAME]


def _cid(record: Any, source: SchemaRow, view: SchemaRow) -> str:
    """What a lens is called by: its record, and between which schemas it is."""
    ends = {"source": [source.name, source.version], "view": [view.name, view.version]}
    return generate_cid({**ends, "record": record})


def _stored(row: LensRow) -> StoredLens:
    """A row as users see it.

    Raises:
        CatalogError: the row was altered.
    """
    try:
        record = msgspec.json.decode(row.record, type=dict[str, Any])
        cid = _cid(record, row.source, row.view)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise CatalogError(f"the lens {row.name!r:.120} in the index cannot be read: {error}") from None
    if cid != row.cid or _name(record) != row.name:
        raise CatalogError(f"the lens {row.name!r:.120} in the index is not what was published: it was altered")
    source, view = (schema_ref(each.name, each.version) for each in (row.source, row.view))
    rows = {source: row.source, view: row.view}
    getter, description = record.get("getter"), record.get("description")
    return StoredLens(
        _START + row.cid,
        row.name,
        source,
        view,
        _EPOCH + timedelta(microseconds=row.created_at),
        description if isinstance(description, str) else None,
        isinstance(getter, dict) and "declared" in getter,
        record,
        lambda ref: schema_of(rows[ref]),
    )
