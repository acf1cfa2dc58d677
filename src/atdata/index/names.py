"""Names, labels, and the references that mean one version of a dataset or of a schema."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from atdata.errors import EntryFormError
from atdata.index.versions import Version

__all__ = ["Ref", "check_label", "check_name", "is_cid", "parse_ref", "parse_schema_ref", "schema_ref"]

_MAX_NAME = 200
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_CID = re.compile(r"bafyrei[a-z2-7]{52}")
_LATEST = "latest"


class Ref(NamedTuple):
    """What a reference says; either a CID, or a name with a version, a label, or neither (the latest version)."""

    name: str | None = None
    version: str | None = None
    label: str | None = None
    cid: str | None = None

    def __str__(self) -> str:
        if self.name is None:
            return self.cid or ""
        at = self.version or self.label
        return f"{self.name}@{at}" if at else self.name


def is_cid(text: str) -> bool:
    """Whether `text` is the content identifier of a dataset: a CIDv1 of DAG-CBOR and SHA-256, in base32."""
    return _CID.fullmatch(text) is not None


def check_name(name: str, what: str = "a dataset") -> str:
    """`name`, when it can name a dataset.

    Names are used in references, in paths and on the network: parts of ASCII letters, digits, `_`, `-` and `.`, with
    `/` between them, 200 characters at most.

    Raises:
        EntryFormError: it is something else; the message has a name that could be used.

    Example:
        >>> check_name("vision/digits")
        'vision/digits'
    """
    problem = _problem(name)
    if problem is not None:
        raise EntryFormError(f"{name!r:.120} cannot name {what}: {problem}")
    return name


def _problem(name: Any) -> str | None:
    if not isinstance(name, str):
        return f"it is not text but {type(name).__name__}"
    if len(name) > _MAX_NAME:
        return f"it has {len(name)} characters, and at most {_MAX_NAME} are allowed"
    if not _NAME.fullmatch(name):
        better = "-".join(re.findall(r"[A-Za-z0-9_]+", name))[:60]
        hint = f"; for example {better!r}" if _NAME.fullmatch(better) else ""
        return f"use letters, digits, '_', '-' and '.', with '/' between parts{hint}"
    if name.startswith("local/"):
        return "'local/' means this index; leave it out"
    return "it would be taken for a content identifier" if is_cid(name) else None


def check_label(label: str) -> str:
    """`label`, when it can be a label of a version.

    Raises:
        EntryFormError: it is no word of ASCII letters, digits, `.`, `_`, `-` that begins with a letter, or `latest`.
    """
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise EntryFormError(
            f"{label!r:.120} cannot be a label: use a letter, then at most 63 letters, digits, '.', '_' or '-'"
        )
    if label.lower() == _LATEST:
        raise EntryFormError("'latest' cannot be a label: it always means the highest version")
    return label


def parse_ref(text: str) -> Ref:
    """What a reference to a dataset says.

    Args:
        text: `name`, `name@1.2.0`, `name@label`, `name@latest`, a CID; `@local/` or `local/` before a name, and
            `atdata://local/dataset/name@1.2.0`, mean the same as the name.

    Raises:
        EntryFormError: it is nothing of these.

    Example:
        >>> parse_ref("@local/digits@1.2.0")
        Ref(name='digits', version='1.2.0', label=None, cid=None)
    """
    rest = text = _text(text, "a dataset", "digits@1.0.0")
    if text.startswith("atdata://"):
        authority, _, rest = text.removeprefix("atdata://").partition("/")
        kind, _, rest = rest.partition("/")
        if authority != "local" or kind != "dataset":
            raise EntryFormError(f"{text!r:.200} is not a dataset of this index: write atdata://local/dataset/NAME")
    elif text.startswith("@local/"):
        rest = text.removeprefix("@local/")
    elif text.startswith("@"):
        raise EntryFormError(
            f"{text!r:.200} names a dataset of another index than this one; here, write its name, or @local/NAME"
        )
    else:
        rest = text.removeprefix("local/")
        if is_cid(rest):
            return Ref(cid=rest)
    name, at, which = rest.partition("@")
    check_name(name)
    if not at or which == _LATEST:
        return Ref(name)
    if which[:1].isdigit():
        return Ref(name, version=Version(which).text)
    return Ref(name, label=check_label(which))


def schema_ref(name: str, version: str) -> str:
    """The reference that entries carry for a schema of this index.

    Example:
        >>> schema_ref("Digit", "1.0.0")
        'atdata://local/schema/Digit@1.0.0'
    """
    return f"atdata://local/schema/{name}@{version}"


def parse_schema_ref(text: str) -> tuple[str, str | None]:
    """Name and version in a reference to a schema; the version is None for the latest.

    Args:
        text: `atdata://local/schema/Name@1.0.0`, or the short `Name@1.0.0` and `Name`. The older forms
            `atdata://local/sampleSchema/Name@1.0.0` and `local://schemas/module.Name@1.0.0` are read too.

    Raises:
        EntryFormError: it is nothing of these.

    Example:
        >>> parse_schema_ref("Digit@1.0.0")
        ('Digit', '1.0.0')
    """
    rest = text = _text(text, "a schema", "Digit@1.0.0")
    for start in ("atdata://local/schema/", "atdata://local/sampleSchema/", "local://schemas/"):
        rest = rest.removeprefix(start)
    name, at, version = rest.partition("@")
    if text.startswith("local://"):
        name = name.rpartition(".")[2]
    if not name.isidentifier() or len(name) > _MAX_NAME:
        raise EntryFormError(
            f"{text!r:.200} does not name a schema of this index: write atdata://local/schema/NAME@1.0.0"
        )
    if not at or version == _LATEST:
        return name, None
    return name, Version(version).text


def _text(ref: Any, what: str, example: str) -> str:
    if not isinstance(ref, str):
        raise EntryFormError(f"{what} is named by text such as {example!r}, not by {type(ref).__name__}")
    return ref
