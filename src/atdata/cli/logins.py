"""`atdata login`, `logout` and `whoami`."""

from __future__ import annotations

import getpass
import os
import select
import sys
import threading
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from atdata.atmosphere import Atmosphere
from atdata.atmosphere.credentials import Account, Credentials, choose, place_for_secrets
from atdata.atmosphere.login import check, end, remember
from atdata.atmosphere.session import PasswordSession
from atdata.cli.reporting import Report, clean
from atdata.errors import LoginError

if TYPE_CHECKING:
    from atdata.atmosphere.redirect import Redirect

__all__ = ["log_in", "log_out", "who"]


def log_in(
    report: Report,
    handle: str | None,
    *,
    pds_url: str | None,
    by_browser: bool,
    password_stdin: bool,
    by_switching: bool,
) -> None:
    """Log in, and save the login; or make a saved one the current one."""
    saved = Credentials()
    if by_switching:
        account = saved.find(str(handle))
        saved.use(account.did)
    else:
        account = _log_in(saved, handle, pds_url, by_browser, password_stdin)
    _told(report, account, "logged in as ")
    if counting := [name for name in ("ATDATA_HANDLE", "ATDATA_APP_PASSWORD") if os.environ.get(name)]:
        are = "is set and comes" if len(counting) == 1 else "are set and come"
        typer.echo(f"atdata: {' and '.join(counting)} {are} before this login: unset them to use it", err=True)


def _log_in(
    saved: Credentials, handle: str | None, pds_url: str | None, by_browser: bool, password_stdin: bool
) -> Account:
    place_for_secrets()  # what is wrong with it is better told before anything is asked
    if handle is None and pds_url is None:
        handle = _asked_handle()
    if handle is not None and (password := _password(handle, by_browser, password_stdin)):
        with Atmosphere.login(handle, password, pds_url=pds_url) as client:
            assert isinstance(client.auth, PasswordSession)
            assert client.identity is not None
            return remember(client.auth, client.identity, given=pds_url is not None, credentials=saved)
    from atdata.atmosphere import oauth

    local = pds_url if handle is None or handle.endswith(".test") else None
    with Atmosphere(handles_at=os.environ.get("ATDATA_HANDLES_AT") or local) as client:
        session, identity = oauth.log_in(client.http, client.resolver, handle, _show, pds_url=pds_url)
        return remember(session, identity, credentials=saved)


def log_out(report: Report, handle: str | None, *, every: bool) -> None:
    """End logins, at their servers and here."""
    saved = Credentials()
    if every:
        leaving = saved.accounts()
    else:
        account = saved.find(handle) if handle is not None else saved.current()
        leaving = [] if account is None else [account]
    if not leaving:
        raise LoginError("nobody is logged in")
    with Atmosphere() as client:
        errors = {account.did: end(account, client.http, saved) for account in leaving}
    report.document(
        {"accounts": [{"did": each.did, "handle": each.handle, "told": errors[each.did] is None} for each in leaving]}
    )
    for account in leaving:
        report.print(f"logged out of {_name(account)}")
        if error := errors[account.did]:
            report.error(
                f"the server could not be told, and takes the login of {_name(account)} until it ends: {error}"
            )
    if any(errors.values()):
        raise typer.Exit(1)


def who(report: Report, handle: str | None) -> None:
    """Show who is logged in."""
    saved = Credentials()
    chosen = choose(handle, saved)
    if isinstance(chosen, Account):
        account = chosen
        with Atmosphere() as client:
            check(account, client.http, saved)
        _told(report, account, "")
        for other in saved.accounts():
            if other.did != account.did:
                report.print(f"also logged in: {_name(other)}")
    else:
        with Atmosphere.login() as client:
            found = {"did": client.did, "handle": client.handle, "pds": client.identity and client.identity.pds}
        report.document({**found, "kind": "password", "place": "environment"})
        report.print(f"@{chosen[0]}  {found['did']}")
        report.print(f"at {found['pds']}, by ATDATA_HANDLE and ATDATA_APP_PASSWORD")


def _told(report: Report, account: Account, what: str) -> None:
    how = "in the browser" if account.kind == "oauth" else "by password"
    folder = Credentials().folder
    report.document({name: getattr(account, name) for name in ("did", "handle", "pds", "kind", "place")})
    report.print(f"{what}{_name(account)}  {account.did}")
    place = "the keyring" if account.place == "keyring" else clean(str(folder))
    report.print(f"at {clean(account.pds)}, logged in {how}, kept in {place}")


def _name(account: Account) -> str:
    return f"@{account.handle}" if account.handle else account.did


def _asked_handle() -> str:
    if not sys.stdin.isatty():
        raise LoginError("whose login? Nobody is here to be asked: run atdata login HANDLE")
    return str(typer.prompt("Handle", err=True))


def _password(handle: str, by_browser: bool, password_stdin: bool) -> str:
    """The password that is given; "" for a login in the browser."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise LoginError("there is no password on standard input")
        return password
    if by_browser or not sys.stdin.isatty():
        return ""
    try:
        return getpass.getpass(f"App password of {clean(handle)} (none: log in in the browser): ", sys.stderr)
    except EOFError:
        raise LoginError("no password was given") from None


def _show(page: str, redirect: Redirect) -> Callable[[], None] | None:
    """Lead the user to the page; what is typed meanwhile may be the address that the browser came back to."""
    typer.echo(f"To log in, open this page in a browser (opened already, where there is one):\n\n  {page}\n", err=True)
    if os.environ.get("BROWSER") or _has_windows():
        # Some browsers are waited for.
        threading.Thread(target=webbrowser.open, args=(page,), name="atdata-browser", daemon=True).start()
    if not sys.stdin.isatty():
        return None
    typer.echo(
        "Waiting for the browser to come back. If it runs on another machine it will not find the way: then paste the "
        "address that it ends at here.",
        err=True,
    )

    def typed() -> None:
        if select.select([sys.stdin], [], [], 0)[0] and (line := sys.stdin.readline().strip()):
            wrong = redirect.take(line)
            if wrong:
                typer.echo(f"That is not it, {wrong}.", err=True)

    return typed


def _has_windows() -> bool:
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
