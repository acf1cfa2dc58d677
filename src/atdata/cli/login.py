"""The commands about the account that is logged in; see `atdata.cli.app`."""

from __future__ import annotations

from typing import Annotated

import typer

from atdata.cli.options import Json
from atdata.cli.reporting import reporting

__all__ = ["COMMANDS"]

Saved = Annotated[
    str | None, typer.Argument(metavar="[HANDLE]", help="The account; else the one that was logged in last.")
]


def login(
    handle: Annotated[
        str | None, typer.Argument(metavar="[HANDLE]", help="The account: its handle, or its DID.")
    ] = None,
    pds_url: Annotated[
        str | None, typer.Option("--pds-url", metavar="URL", help="Its server, where the handle does not lead there.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser", help="Log in in the browser; ask for no password.")] = False,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read an app password from standard input.")
    ] = False,
    switch: Annotated[
        bool, typer.Option("--switch", help="Go back to an account whose login is saved; ask for nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Log in at the AT Protocol network.

    By an app password, which is asked for and not saved, or in the browser. What the server gives for it is saved in
    the system's keyring, where the package keyring is installed and finds one, else in a file of the configuration
    folder that only you can read; ATDATA_CREDENTIALS=file or =keyring decides. Several accounts can be logged in; the
    last one is meant where none is named. Without saving anything, set ATDATA_HANDLE and ATDATA_APP_PASSWORD.
    """
    if browser + password_stdin + switch > 1:
        raise typer.BadParameter("--browser, --password-stdin and --switch exclude each other")
    if handle is None and (password_stdin or switch):
        raise typer.BadParameter("whose login? Give a handle too")
    with reporting(json) as report:
        from atdata.cli.logins import log_in

        log_in(report, handle, pds_url=pds_url, by_browser=browser, password_stdin=password_stdin, by_switching=switch)


def logout(
    handle: Saved = None,
    every: Annotated[bool, typer.Option("--all", help="Log out of all accounts.")] = False,
    json: Json = False,
) -> None:
    """Log out, here and at the server.

    Exits with 1 when the server cannot be told; the login is forgotten here all the same.
    """
    if every and handle is not None:
        raise typer.BadParameter("--all means every account: give a handle, or --all")
    with reporting(json) as report:
        from atdata.cli.logins import log_out

        log_out(report, handle, every=every)


def whoami(handle: Saved = None, json: Json = False) -> None:
    """Say who is logged in, and whether the server agrees.

    Exits with 1 when nobody is, or when the login is over.
    """
    with reporting(json) as report:
        from atdata.cli.logins import who

        who(report, handle)


COMMANDS = (login, logout, whoami)
