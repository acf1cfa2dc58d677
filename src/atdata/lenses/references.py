"""Lenses that are code, as a record can hold them: where the code is and the hash of its text, never the code."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any

from atdata.errors import LensError, LensRecordError, SchemaError
from atdata.samples.dictsample import DictSample
from atdata.samples.schema import Schema

if TYPE_CHECKING:
    from atdata.lenses.lens import Lens

__all__ = ["CodeReference", "LensReference", "schema_cid", "source_digest"]

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class CodeReference:
    """Where the code of a lens can be read.

    Attributes:
        repository: its address, for example `https://github.com/someone/photos`.
        commit: the full hash of the commit, 40 hexadecimal digits.
        path: the file in the repository.
    """

    repository: str
    commit: str
    path: str

    def __post_init__(self) -> None:
        for name in ("repository", "path"):
            value = getattr(self, name)
            if not isinstance(value, str) or not 0 < len(value.encode()) <= 450 or not value.isprintable():
                raise LensRecordError(f"the {name} of a code reference is text of 1 to 450 bytes, not {value!r:.80}")
        if not isinstance(self.commit, str) or not _COMMIT.fullmatch(self.commit):
            raise LensRecordError(f"a commit is named by 40 hexadecimal digits, not by {self.commit!r:.80}")

    def __str__(self) -> str:
        return f"{self.path} of {self.repository} at commit {self.commit}"


@dataclasses.dataclass(frozen=True)
class LensReference:
    """A stored lens whose code is not in the record. It does nothing by itself, and nothing is imported for it.

    Whoever wants to use it gets the code, reads it, imports it, and gives the lens to `bind`, which compares the two.

    Attributes:
        name: the name of the lens.
        source_schema: the name of the type that it reads.
        view_schema: the name of the type that it gives.
        source_cid: the CID of that type's schema; None when the record does not say.
        view_cid: the same of the view.
        digest: the SHA-256 of the text of its functions, in hexadecimal digits; None when the record does not say.
        code: where its code is; None when the record does not say.
        module: the module that the writer had it in; None when the record does not say.
        qualname: the getter's name in the code; None when the record does not say.
        reason: why there is no more in the record.
    """

    name: str
    source_schema: str
    view_schema: str
    source_cid: str | None = None
    view_cid: str | None = None
    digest: str | None = None
    code: CodeReference | None = None
    module: str | None = None
    qualname: str | None = None
    reason: str = "it is code"

    def __str__(self) -> str:
        where = "its author says where its code is"
        if self.code is not None:
            where = f"get {self.qualname or 'its function'} from {self.code}"
        elif self.module is not None:
            where = f"its author had it in the module {self.module}, as {self.qualname or self.name}"
        return (
            f"the lens {self.name} ({self.source_schema} -> {self.view_schema}) is stored without what it does, as "
            f"{self.reason}. To use it: {where}, read it, import it, and call bind(the_lens) of this reference"
        )

    def bind(self, lens: Lens[Any, Any]) -> Lens[Any, Any]:
        """`lens`, when it is the one that was stored.

        Raises:
            LensRecordError: it reads or gives other types, or the text of its functions is another; or the record has
                no hash to compare with.
        """
        for what, cls, cid, name in (
            ("reads", lens.source, self.source_cid, self.source_schema),
            ("gives", lens.view, self.view_cid, self.view_schema),
        ):
            found = schema_cid(cls)
            if (cid is not None and cid != found) or (cid is None and cls.__name__ != name):
                raise LensRecordError(
                    f"{lens.name} {what} {cls.__name__}{f' ({found})' if cid else ''}, the stored {self.name} {what} "
                    f"{name}{f' ({cid})' if cid else ''}"
                )
        if self.digest is None:
            raise LensRecordError(
                f"the record of {self.name} has no hash of its code, so nothing says that {lens.place} is the same; if "
                "you trust it, use the lens itself"
            )
        found = source_digest(lens)
        if found != self.digest:
            raise LensRecordError(
                f"the code of {lens.place} is not what was stored as {self.name}: its hash is {found}, the record says "
                f"{self.digest}"
            )
        return lens


def schema_cid(cls: type) -> str | None:
    """The CID of the schema of a sample class; None for `DictSample`."""
    if issubclass(cls, DictSample):
        return None
    try:
        return Schema.of(cls).cid
    except SchemaError as error:
        raise LensRecordError(f"{cls.__name__} has no schema that could be stored: {error}") from None


def source_digest(lens: Lens[Any, Any]) -> str:
    """The SHA-256 of the text of a lens's functions, in hexadecimal digits.

    The text is that of the file, without common indentation and spaces at the ends of lines; first of the getter, then,
    after a zero byte, of the putter. What the functions call is not part of it.

    Raises:
        LensError: the lens is not made of functions, or their text is not to be had.
    """
    functions = lens.functions
    if not functions:
        raise LensError(f"{lens.name} is not made of functions")
    texts = []
    for function in functions:
        try:
            lines = textwrap.dedent(inspect.getsource(function)).splitlines()
        except (OSError, TypeError, IndentationError, SyntaxError):
            raise LensError(f"the text of {function.__qualname__} is not to be had: define it in a file") from None
        texts.append("\n".join(line.rstrip() for line in lines).strip())
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
