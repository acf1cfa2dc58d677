"""Which account of the AT Protocol network a reference is about: `@alice.example.org/digits`, `@me/digits`, `at://…`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from atdata.errors import EntryFormError

if TYPE_CHECKING:
    from atdata.atmosphere.client import Atmosphere
    from atdata.index.atmosphere import AtmosphereIndex

__all__ = ["MINE", "account_index", "is_account", "logged_in", "parted"]

MINE = "@me"


def is_account(text: str | None) -> bool:
    """Whether a text names an account of the network, or something in one."""
    return text is not None and (text.startswith("at://") or (text.startswith("@") and not _is_local(text)))


def _is_local(text: str) -> bool:
    return text == "@local" or text.startswith("@local/")


def parted(ref: str) -> tuple[str, str]:
    """The account in a reference to something on the network, and what it says of the thing there.

    Example:
        >>> parted("@alice.example.org/vision/digits@1.0.0")
        ('@alice.example.org', 'vision/digits@1.0.0')
        >>> parted("@me"), parted("at://did:plc:x"), parted("at://did:plc:x/science.alt.dataset.entry/3k")
        (('@me', ''), ('@did:plc:x', ''), ('@did:plc:x', 'at://did:plc:x/science.alt.dataset.entry/3k'))
    """
    if ref.startswith("at://"):
        account, _, path = ref.removeprefix("at://").partition("/")
        return f"@{account}", ref if path else ""
    account, _, rest = ref.partition("/")
    return account, rest


@contextlib.contextmanager
def logged_in() -> Iterator[Atmosphere]:
    """The client of the login that was saved, or that the environment names.

    Raises:
        LoginError: there is none.
    """
    from atdata.atmosphere.client import Atmosphere

    with Atmosphere.login() as client:
        yield client


@contextlib.contextmanager
def account_index(account: str) -> Iterator[AtmosphereIndex]:
    """The datasets that an account, `@handle` or `@me`, has published.

    Raises:
        LoginError: it is `@me`, and nobody is logged in.
    """
    from atdata.atmosphere.client import Atmosphere
    from atdata.index.atmosphere import AtmosphereIndex

    if account == "@":
        raise EntryFormError("name an account, such as @alice.example.org, or @me")
    with Atmosphere() as client:
        yield AtmosphereIndex(client, repo=account if account == MINE else account[1:])
