"""The logins that `atdata login` saves, which `Atmosphere.login()` and the other commands use.

They are in the user's configuration folder, `$XDG_CONFIG_HOME/atdata` or else `~/.config/atdata`:

```
accounts/did:plc:….json   one account: handle, server, and the tokens, unless a keyring has them
current                   the DID of the account that is meant where none is named
```

Nobody else can read them: the files have mode 0600, the folders 0700.

Where the package `keyring` is installed and finds a keyring of the system (that of macOS, Windows, GNOME, KDE), the
tokens of new logins go there; else into the account's file. `ATDATA_CREDENTIALS=file` or `=keyring` decides otherwise.
Each account stays where its login was saved. Passwords are never saved.

Environment variables come before what is saved: `ATDATA_HANDLE` with `ATDATA_APP_PASSWORD` logs in anew, and
`ATDATA_HANDLE` alone names one of the saved accounts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from atdata.atmosphere.syntax import is_did, shown
from atdata.errors import AtmosphereError, LoginError

__all__ = ["Account", "Credentials", "Kept", "choose", "from_environment", "place_for_secrets"]

T = TypeVar("T")

_SERVICE = "atdata"
_VERSION = 1
_TURN_SECONDS = 90.0  # a little more than one request to a server that does not answer
_KEYRING_SECONDS = 120.0  # somebody may have to type a password for it
_MOST_BYTES = 1 << 20


class Account(NamedTuple):
    """An account whose login is saved; without its secrets.

    Attributes:
        did: its identifier.
        handle: its name at the time of the login; None where it had none.
        pds: the URL of its server.
        kind: how it was logged in.
        place: where its tokens are.
        given: whether the server was named at the login, and counts more than what the DID document says.
    """

    did: str
    handle: str | None
    pds: str
    kind: Literal["password", "oauth"]
    place: Literal["file", "keyring"]
    given: bool = False


class Credentials:
    """The saved logins of this user.

    Args:
        folder: where they are, instead of the user's configuration folder.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        if folder is None:
            config = os.environ.get("XDG_CONFIG_HOME", "")
            folder = Path(config if os.path.isabs(config) else Path("~/.config").expanduser()) / "atdata"
        self.folder = Path(folder)
        self._accounts = self.folder / "accounts"

    def __repr__(self) -> str:
        return f"Credentials({str(self.folder)!r})"

    def accounts(self) -> list[Account]:
        """The accounts whose logins are saved, by handle."""
        files = sorted(self._accounts.glob("did*.json")) if self._accounts.is_dir() else []
        found = [account for file in files if (account := self._read(file)[0]) is not None]
        return sorted(found, key=lambda account: (account.handle or "", account.did))

    def current(self) -> Account | None:
        """The account that is meant where none is named; None where nobody is logged in.

        Raises:
            LoginError: several are saved, and none of them is the current one.
        """
        found = self.accounts()
        try:
            did = (self.folder / "current").read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            did = ""
        for account in found:
            if account.did == did:
                return account
        if len(found) > 1:
            raise LoginError(f"which account? Logins are saved of {_listed(found)}: say ATDATA_HANDLE, or name it")
        return found[0] if found else None

    def find(self, actor: str) -> Account:
        """The saved account of that handle or DID.

        Raises:
            LoginError: there is none.
        """
        name = actor.removeprefix("@")
        found = self.accounts()
        for account in found:
            if name == account.did or name.lower() == account.handle:
                return account
        others = f"; there is of {_listed(found)}" if found else ""
        raise LoginError(f"no login of {shown(name)} is saved{others}: run atdata login {shown(name)[1:-1]}")

    def add(self, account: Account, secrets: Mapping[str, str]) -> None:
        """Save a login, instead of an earlier one of the same account, and make it the current one."""
        kept = self.kept(account.did)
        with kept.turn():
            if account.place == "file":
                self._clear_keyring(kept)
            kept.save(secrets, account)
        self.use(account.did)

    def use(self, did: str) -> None:
        """Make a saved account the current one."""
        self._prepare()
        _write(self.folder / "current", f"{did}\n")

    def remove(self, did: str) -> None:
        """Forget a login; nothing happens where there is none."""
        kept = self.kept(did)
        with kept.turn():
            self._clear_keyring(kept)
            kept.file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if (self.folder / "current").read_text(encoding="ascii", errors="replace").strip() == did:
                (self.folder / "current").unlink()

    def kept(self, did: str) -> Kept:
        """What is kept of one account."""
        if not is_did(did):
            raise LoginError(f"{shown(did)} is no DID")
        # Longer ones than a file's name may be are allowed; nobody has seen one.
        name = did if len(did) <= 200 else f"did-{hashlib.sha256(did.encode()).hexdigest()}"
        self._prepare()
        return Kept(self, did, self._accounts / f"{name}.json")

    def _clear_keyring(self, kept: Kept) -> None:
        account, _ = self._read(kept.file)
        if account is not None and account.place == "keyring":
            _from_keyring("remove", lambda keyring: keyring.delete_password(_SERVICE, kept.did), missing=True)

    def _prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._accounts.mkdir(mode=0o700, exist_ok=True)
        for folder in (self.folder, self._accounts):
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)

    def _read(self, file: Path) -> tuple[Account | None, dict[str, str]]:
        """The account in a file, and the secrets that are there; None where there is no such file."""
        try:
            with open(file, "rb") as opened:
                mode = os.fstat(opened.fileno()).st_mode
                text = opened.read(_MOST_BYTES)
        except FileNotFoundError:
            return None, {}
        if mode & 0o077:
            raise LoginError(
                f"{file} can be read by others than you, and so can the login in it: run chmod 600 {file}, and "
                "log out and in again if somebody may have read it"
            )
        try:
            found = json.loads(text)
            version = found["version"]
            account = Account(**{name: found[name] for name in Account._fields if name in found})
            secrets = dict(found.get("secrets", {}))
            sound = (
                version == _VERSION
                and is_did(account.did)
                and all(isinstance(value, str) for value in (account.pds, *secrets, *secrets.values()))
                and account.kind in ("password", "oauth")
                and account.place in ("file", "keyring")
            )
        except (ValueError, TypeError, KeyError, RecursionError):
            version, sound = None, False
        if not sound:
            what = (
                "is of another version of atdata" if isinstance(version, int) and version > _VERSION else "is damaged"
            )
            raise LoginError(f"the saved login in {file} {what}: remove it, and run atdata login again")
        return account, secrets


class Kept:
    """The secrets of one saved account, which several processes may use and renew."""

    def __init__(self, credentials: Credentials, did: str, file: Path) -> None:
        self.did = did
        self.file = file
        self._credentials = credentials

    def __repr__(self) -> str:
        return f"Kept({self.did!r})"

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Inside the `with` statement no other process or thread renews or changes this account's login.

        Raises:
            LoginError: somebody else has been at it for longer than that takes.
        """
        import fcntl

        lock = os.open(self.file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            until = time.monotonic() + _TURN_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise LoginError(
                            f"another process has been renewing the login of {self.did} for {_TURN_SECONDS:.0f} s: "
                            f"see who holds {self.file.with_suffix('.lock')}"
                        ) from None
                time.sleep(0.02)
            try:
                yield
            finally:
                # Not left to the closing: a child by fork holds the file open too.
                fcntl.flock(lock, fcntl.LOCK_UN)
        finally:
            os.close(lock)

    def load(self) -> dict[str, str]:
        """The secrets as they are now.

        Raises:
            LoginError: they are gone: somebody has logged out.
        """
        account, secrets = self._credentials._read(self.file)
        if account is None:
            raise LoginError(f"the login of {self.did} is saved no more, somebody has logged out: run atdata login")
        if account.place == "file":
            return secrets
        text = _from_keyring("read", lambda keyring: keyring.get_password(_SERVICE, self.did))
        try:
            found = json.loads(text or "")
            return {str(name): str(value) for name, value in found.items()}
        except (ValueError, AttributeError):
            raise LoginError(f"the keyring has no login of {self.did} any more: run atdata login again") from None

    def save(self, secrets: Mapping[str, str], account: Account | None = None) -> None:
        """Replace the secrets, at once or not at all; to be called in one's `turn`."""
        if account is None:
            account, _ = self._credentials._read(self.file)
            if account is None:
                raise LoginError(f"the login of {self.did} is saved no more, somebody has logged out: run atdata login")
        document: dict[str, Any] = {"version": _VERSION, **account._asdict()}
        if account.place == "keyring":
            text = json.dumps(dict(secrets))
            _from_keyring("write", lambda keyring: keyring.set_password(_SERVICE, self.did, text))
        else:
            document["secrets"] = dict(secrets)
        try:
            _write(self.file, json.dumps(document, indent=2) + "\n")
        except OSError as error:
            raise LoginError(f"the login of {self.did} cannot be saved in {self.file}: {error.strerror}") from error


def from_environment() -> tuple[str, str] | None:
    """Handle and password of `ATDATA_HANDLE` and `ATDATA_APP_PASSWORD`; None where they are not set.

    Raises:
        LoginError: there is a password, and nobody it belongs to.
    """
    handle, password = os.environ.get("ATDATA_HANDLE", ""), os.environ.get("ATDATA_APP_PASSWORD", "")
    if password and not handle:
        raise LoginError("ATDATA_APP_PASSWORD is set, and ATDATA_HANDLE is not: set both")
    return (handle, password) if password else None


def choose(identifier: str | None = None, credentials: Credentials | None = None) -> tuple[str, str] | Account:
    """Who is to be logged in where no password is given: handle and password, or a saved account.

    Raises:
        LoginError: nobody can be.
    """
    given = from_environment()
    if given is not None and identifier in (None, given[0], f"@{given[0]}"):
        return given
    credentials = credentials or Credentials()
    if name := identifier or os.environ.get("ATDATA_HANDLE"):
        return credentials.find(name)
    account = credentials.current()
    if account is None:
        raise LoginError(
            "nobody is logged in: run atdata login, or set ATDATA_HANDLE and ATDATA_APP_PASSWORD, or give a handle and "
            "an app password"
        )
    return account


def place_for_secrets() -> Literal["file", "keyring"]:
    """Where a new login's tokens are to be saved.

    Raises:
        AtmosphereError: `ATDATA_CREDENTIALS` asks for what is not there.
    """
    wanted = os.environ.get("ATDATA_CREDENTIALS", "")
    if wanted not in ("", "file", "keyring"):
        raise AtmosphereError(f"ATDATA_CREDENTIALS is {shown(wanted)}: say file or keyring")
    if wanted == "file":
        return "file"
    try:
        import keyring
        from keyring.core import recommended
    except ImportError:
        if wanted:
            raise AtmosphereError("ATDATA_CREDENTIALS=keyring needs the package keyring: pip install keyring") from None
        return "file"
    try:
        usable = bool(recommended(keyring.get_keyring()))
    except Exception:  # what a keyring of the system may raise is without end
        usable = False
    if wanted and not usable:
        raise AtmosphereError(
            "ATDATA_CREDENTIALS=keyring, and this system has no keyring that can be used: unlock or install one, or "
            "say ATDATA_CREDENTIALS=file"
        )
    return "keyring" if usable else "file"


def _from_keyring(what: str, do: Callable[[Any], T], *, missing: bool = False) -> T | None:
    """Ask the system's keyring, for as long as somebody may need to unlock it."""
    try:
        import keyring
        from keyring.errors import PasswordDeleteError
    except ImportError:
        raise AtmosphereError(
            "the login is kept in the keyring, which needs the package keyring: pip install keyring"
        ) from None
    found: list[T] = []
    failed: list[Exception] = []

    def ask() -> None:
        try:
            found.append(do(keyring))
        except Exception as error:  # what a keyring of the system may raise is without end
            failed.append(error)

    thread = threading.Thread(target=ask, name="atdata-keyring", daemon=True)
    thread.start()
    thread.join(_KEYRING_SECONDS)
    if thread.is_alive():
        why = f"it has not answered in {_KEYRING_SECONDS:.0f} s"
    elif not failed:
        return found[0]
    elif missing and isinstance(failed[0], PasswordDeleteError):
        return None
    else:
        why = type(failed[0]).__name__  # its text may have the secret in it
    raise LoginError(
        f"the keyring does not {what} the login ({why}): unlock it, or keep logins in files, "
        "ATDATA_CREDENTIALS=file, and run atdata login again"
    )


def _write(file: Path, text: str) -> None:
    """Replace a file, at once or not at all; nobody else can read it at any time."""
    handle, name = tempfile.mkstemp(prefix=".new-", dir=file.parent)  # mode 0600
    try:
        with open(handle, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(name, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _listed(accounts: list[Account]) -> str:
    return ", ".join(account.handle or account.did for account in accounts)
