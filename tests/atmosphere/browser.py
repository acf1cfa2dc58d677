"""A browser without a window, which does what the sign-in page of the reference PDS does when a user logs in."""

from __future__ import annotations

import json
from collections.abc import Callable
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import httpx

from atdata.atmosphere.redirect import Redirect
from atdata.testing.network import LocalAccount

_AGENT = {"user-agent": "Mozilla/5.0"}
_PAGE = {**_AGENT, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
_SCRIPT = {**_AGENT, "sec-fetch-mode": "same-origin", "sec-fetch-dest": "empty", "sec-fetch-site": "same-origin"}


class Browser:
    """Cookies are kept by hand: those of the server are for https, or for localhost by any means."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.server = f"{urlsplit(page).scheme}://{urlsplit(page).netloc}"
        self.cookies: dict[str, str] = {}

    def send(self, method: str, url: str, headers: dict[str, str], body: Any = None) -> httpx.Response:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        content = None if body is None else json.dumps(body)
        with httpx.Client(timeout=30, trust_env=False) as client:
            answer = client.request(method, url, headers={**headers, "cookie": cookie}, content=content)
        for text in answer.headers.get_list("set-cookie"):
            name, _, value = text.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer

    def call(self, what: str, body: dict[str, Any], **more: str) -> dict[str, Any]:
        headers = {
            **_SCRIPT,
            "content-type": "application/json",
            "origin": self.server,
            "referer": self.page,
            "x-csrf-token": self.cookies["csrf-token"],
            **more,
        }
        answer = self.send("POST", f"{self.server}/@atproto/oauth-provider/~api/{what}", headers, body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def log_in(self, account: LocalAccount, *, refuse: bool = False) -> str:
        """Where the server sends the browser back to."""
        answer = self.send("GET", self.page, {**_PAGE, "sec-fetch-site": "none"})
        assert answer.status_code == 200, answer.text
        user = {"username": account.handle, "password": account.password, "locale": "en", "remember": False}
        found = self.call("sign-in", user)
        bearer = f"Bearer {found['ephemeralToken']}"
        what, body = ("reject", {}) if refuse else ("consent", {"did": account.did})
        told = self.call(what, body, authorization=bearer)
        answer = self.send("GET", told["url"], {**_PAGE, "sec-fetch-site": "same-origin", "referer": self.page})
        assert answer.status_code in (302, 303), answer.text
        return answer.headers["location"]


def approving(account: LocalAccount, *, refuse: bool = False) -> Callable[[str, Redirect], None]:
    """What shows the page to a user who logs in, and is brought back."""

    def show(page: str, redirect: Redirect) -> None:
        def act() -> None:
            back = Browser(page).log_in(account, refuse=refuse)
            assert back.startswith(redirect.url)
            httpx.get(back, trust_env=False).raise_for_status()

        Thread(target=act, daemon=True).start()

    return show
