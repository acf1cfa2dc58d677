"""From a login to the next one: saving it, going on with what was saved, and ending it."""

from __future__ import annotations

from atdata.atmosphere.credentials import Account, Credentials, place_for_secrets
from atdata.atmosphere.http import Http
from atdata.atmosphere.identity import Identity
from atdata.atmosphere.oauth import Grant, OAuthSession
from atdata.atmosphere.session import PasswordSession, Tokens
from atdata.atmosphere.xrpc import Xrpc
from atdata.errors import AtmosphereError, LoginError

__all__ = ["Session", "check", "end", "remember", "resume"]

Session = PasswordSession | OAuthSession


def remember(session: Session, identity: Identity, *, given: bool = False, credentials: Credentials) -> Account:
    """Save a login, and make it the current one.

    Args:
        session: what the login gave.
        identity: the account.
        given: whether its server was named, and counts more than what the account's identity says.
        credentials: where logins are saved.

    Raises:
        LoginError: it cannot be saved.
    """
    by_browser = isinstance(session, OAuthSession)
    account = Account(
        session.did, identity.handle, session.base, "oauth" if by_browser else "password", place_for_secrets(), given
    )
    secrets = session.grant.dump() if isinstance(session, OAuthSession) else session.tokens.dump()
    credentials.add(account, secrets)
    return account


def resume(account: Account, http: Http, credentials: Credentials) -> Session:
    """The session of a saved login.

    Raises:
        LoginError: what was saved is gone, or damaged.
    """
    kept = credentials.kept(account.did)
    secrets = kept.load()
    if account.kind == "oauth":
        return OAuthSession(account.did, account.pds, http, Grant.load(secrets), kept)
    return PasswordSession(account.pds, http, Tokens.load(account.did, account.handle or account.did, secrets), kept)


def check(account: Account, http: Http, credentials: Credentials) -> None:
    """Ask the server whether a saved login is still good.

    Raises:
        LoginError: it is not.
        UnreachableError: the server does not answer.
    """
    session = resume(account, http, credentials)
    Xrpc(session.base, http, session).query("com.atproto.server.getSession")


def end(account: Account, http: Http, credentials: Credentials) -> AtmosphereError | None:
    """Log out: the server forgets the login, and so does this machine.

    Returns:
        Why the server could not be told; the login is forgotten here all the same. None where all is well.
    """
    failed = None
    try:
        resume(account, http, credentials).end()
    except LoginError:
        pass  # it was over already
    except AtmosphereError as error:
        failed = error
    credentials.remove(account.did)
    return failed
