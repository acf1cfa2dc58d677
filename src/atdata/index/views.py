"""As what stored samples are read when a class is asked for, and through which lens they are seen as that class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from atdata.datasets.dataset import Dataset
from atdata.errors import AmbiguousLensError, LensNotFoundError, SchemaError
from atdata.index.held import HeldLenses
from atdata.lenses.composition import compose
from atdata.lenses.lens import Lens
from atdata.lenses.network import registered
from atdata.lenses.paths import Step
from atdata.samples import codec
from atdata.samples.dictsample import DictSample
from atdata.samples.evolution import check_readable
from atdata.samples.schema import Schema

__all__ = ["Reading", "reading_of"]


class Reading(NamedTuple):
    """How the shards of one schema are read.

    Attributes:
        sample_type: the class that their samples are decoded as; None for one built from the schema.
        lens: what they are seen through then.
    """

    sample_type: type | None
    lens: Lens[Any, Any] | None = None

    def of(self, dataset: Dataset[Any]) -> Dataset[Any]:
        """The dataset as it is seen, of one that reads `sample_type`."""
        return dataset if self.lens is None else dataset.as_type(self.lens)


def reading_of(schema: Schema | None, wanted: type | None, *, index: Any = None, url: str | None = None) -> Reading:
    """How data is read so that its samples are of a class.

    Bytes are read as the class itself where its fields say that this gives the same samples, and where no lens says
    otherwise; else the samples are seen through lenses: those that are registered here, and, where these alone do not
    lead there, or only by what follows from the fields, the declared ones that the index holds. Where those are not
    enough, the versions of the schema that the index knows are gone through, from the data's to the last.

    Args:
        schema: that of the data; None when it is not known, and so nobody can tell before reading.
        wanted: the class; None when any will do.
        index: an index that may hold lenses, and know more versions of the schema; None for none.
        url: where the data is, for messages.

    Raises:
        SchemaError: the data cannot be read or seen as the class; the message names the fields, and the step that is
            missing, or the lens that the index only refers to, as it is code.
        AmbiguousLensError: several lenses lead there, and none is nearer.
        LensRecordError: a lens of the index is not what was listed of it.
    """
    if schema is None or wanted is None or (isinstance(wanted, type) and issubclass(wanted, DictSample)):
        return Reading(wanted)
    codec.plan(wanted)  # SchemaError says what is wrong with it
    stored = schema.sample_type()
    called = {stored: _called(schema)}
    try:
        here = _here(stored, wanted, called)
        if isinstance(here, list) and all(step.relation in (None, "alike") for step in here):
            return _through(schema, wanted, here)
        held = HeldLenses(index, stored, wanted)
        steps = _also(held, schema, stored, wanted, called, here, index)
    except LensNotFoundError as error:
        raise SchemaError(
            f"the data ({_called(schema)}) cannot be read as {wanted.__name__}: {error.message}", url=url
        ) from None
    except AmbiguousLensError as error:
        raise AmbiguousLensError(error.message, url=url) from None
    if steps is None:
        return Reading(wanted)
    if (code := held.code_in(steps)) is not None:
        raise SchemaError(
            f"the data ({_called(schema)}) is seen as {wanted.__name__} through code that the index only refers to: "
            f"{code}. Or read it as it is stored, without a class, and see it through as_type",
            url=url,
        )
    held.prove(steps)
    return _through(schema, wanted, steps)


def _here(stored: type, wanted: type, called: Mapping[type, str]) -> list[Step] | LensNotFoundError:
    """The way through lenses of this process; the error where there is none."""
    try:
        return registered.way(stored, wanted, called=called)
    except LensNotFoundError as error:
        return error


def _also(
    held: HeldLenses,
    schema: Schema,
    stored: type,
    wanted: type,
    called: dict[type, str],
    here: list[Step] | LensNotFoundError,
    index: Any,
) -> list[Step] | None:
    """The way through lenses of the index, too; None where the bytes can be read as the class all the same.

    Raises:
        LensNotFoundError: there is none.
        AmbiguousLensError: there are several.
    """
    called |= held.called
    try:
        if held.lenses:
            return registered.way(stored, wanted, also=held.lenses, called=called)
        if isinstance(here, list):
            return here
        raise here
    except LensNotFoundError as error:
        if _readable(schema, wanted):  # it has a default that no schema can hold
            return None
        schemas = getattr(index, "list_schemas", None)  # a stranger's index may not have it
        versions = list(_since(schema, schemas())) if callable(schemas) else []
        if not versions:
            raise held.explained(error) from None
        called |= {version.sample_type(): _called(version) for version in versions}
        classes = [stored, *(version.sample_type() for version in versions), wanted]
        try:
            return registered.way(stored, wanted, also=held.lenses, versions=classes, called=called)
        except LensNotFoundError as late:
            raise held.explained(late) from None


def _called(schema: Schema) -> str:
    return f"{schema.name} {schema.version}"


def _readable(schema: Schema, cls: type) -> bool:
    """Whether the data can be read as a class."""
    try:
        check_readable(schema, cls)
    except SchemaError:
        return False
    return True


def _through(schema: Schema, wanted: type, steps: Sequence[Step]) -> Reading:
    """The reading that takes these steps, the first of them without a lens where the bytes can be read so."""
    if not steps:
        return Reading(wanted)
    rest = list(steps)
    read = schema.sample_type()
    if rest[0].relation is not None and _readable(schema, rest[0].lens.view):
        read = rest.pop(0).lens.view
    return Reading(read, compose(*(step.lens for step in rest)) if rest else None)


def _since(schema: Schema, schemas: Iterable[Schema]) -> Iterable[Schema]:
    """The versions of a schema after it, in order; none where it is not among them."""
    seen = False
    for other in schemas:
        if other.name != schema.name:
            continue
        if seen:
            yield other
        seen = seen or other.cid == schema.cid
