"""References that mean something on the network: `@handle/name@version`, `at://…`, and plain names."""

from __future__ import annotations

from typing import NamedTuple

from atdata.atmosphere.syntax import AtUri, is_did, is_handle, is_me, shown
from atdata.errors import AddressError, EntryFormError
from atdata.index.names import Ref, check_label, is_cid, parse_ref, parse_schema_ref
from atdata.index.versions import Version

__all__ = ["NetworkRef", "SchemaRef", "parse_network_ref", "parse_network_schema", "split_actor"]

_MAX_NAME = 200  # bytes, as the lexicon has it


class NetworkRef(NamedTuple):
    """What a reference to a dataset says.

    Attributes:
        actor: handle or DID of the account that has it, or `@me`; None for those of the index.
        ref: which dataset and version; None where `uri` says so.
        uri: the address of a record.
    """

    actor: str | None
    ref: Ref | None
    uri: AtUri | None = None


class SchemaRef(NamedTuple):
    """What a reference to a schema says: an address, or a name, perhaps of an account, and perhaps a version."""

    actor: str | None
    name: str
    version: str | None
    uri: AtUri | None = None


def split_actor(text: str) -> tuple[str | None, str]:
    """The account and the rest of `@alice.example.org/rest`; None and all of it for other texts.

    Raises:
        EntryFormError: what follows the `@` is no handle, no DID and not `me`.

    Example:
        >>> split_actor("@alice.example.org/vision/digits"), split_actor("@me/digits"), split_actor("digits@1.0.0")
        (('alice.example.org', 'vision/digits'), ('@me', 'digits'), (None, 'digits@1.0.0'))
    """
    if not text.startswith("@") or text.startswith("@local/"):
        return None, text
    actor, _, rest = text[1:].partition("/")
    if is_me(f"@{actor}"):
        actor = f"@{actor}"
    elif not (is_did(actor) or is_handle(actor)):
        rest = ""
    if not rest:
        raise EntryFormError(
            f"{shown(text)} names nothing on the network: write @HANDLE/NAME, for example @alice.example.org/digits, "
            "or @me/NAME"
        )
    return actor, rest


def parse_network_ref(text: str) -> NetworkRef:
    """What a reference to a dataset says.

    Args:
        text: `@handle/name`, `@handle/name@1.2.0`, `@handle/name@label`, the same with `@me`, `at://…` of an entry or a
            label; or a name, a name with a version or label, or a content identifier, of the accounts of the index.

    Raises:
        EntryFormError: it is nothing of these.

    Example:
        >>> parse_network_ref("@alice.example.org/digits@1.2.0").ref
        Ref(name='digits', version='1.2.0', label=None, cid=None)
    """
    if not isinstance(text, str):
        raise EntryFormError(
            f"a dataset is named by text such as '@alice.example.org/digits', not by {type(text).__name__}"
        )
    if text.startswith("at://"):
        try:
            return NetworkRef(None, None, AtUri.parse(text))
        except AddressError as error:
            raise EntryFormError(error.message) from None
    actor, rest = split_actor(text)
    if actor is None:
        return NetworkRef(None, parse_ref(text))
    if is_cid(rest):
        return NetworkRef(actor, Ref(cid=rest))
    # A stranger's names are any text: the last `@` begins a version or label only where one follows.
    name, at, which = rest.rpartition("@")
    found = _version_or_label(which) if at else None
    if found is None:
        name, found = rest, (None, None)
    if not name.isprintable() or len(name.encode("utf-8", "replace")) > _MAX_NAME:
        raise EntryFormError(f"{shown(name)} is no name of a dataset")
    return NetworkRef(actor, Ref(name, *found))


def _version_or_label(text: str) -> tuple[str | None, str | None] | None:
    if text == "latest":
        return None, None
    if Version.valid(text):
        return text, None
    if text[:1].isdigit():
        raise EntryFormError(f"{shown(text)} is not a version: write major.minor.patch, for example 1.0.0")
    try:
        return None, check_label(text)
    except EntryFormError:
        return None


def parse_network_schema(text: str) -> SchemaRef:
    """What a reference to a schema says.

    Args:
        text: `at://…` of a schema, `@handle/Name@1.0.0`, `@handle/Name`, or the same without an account.

    Raises:
        EntryFormError: it is nothing of these.

    Example:
        >>> parse_network_schema("@alice.example.org/Digit@1.0.0")[:3]
        ('alice.example.org', 'Digit', '1.0.0')
    """
    if isinstance(text, str) and text.startswith("at://"):
        try:
            return SchemaRef(None, "", None, AtUri.parse(text))
        except AddressError as error:
            raise EntryFormError(error.message) from None
    actor, rest = split_actor(text) if isinstance(text, str) else (None, text)
    return SchemaRef(actor, *parse_schema_ref(rest))
