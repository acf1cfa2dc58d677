"""Where the browser comes back to after a login: a listener on this machine (RFC 8252, 7.3)."""

from __future__ import annotations

import hmac
import queue
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from atdata.atmosphere.syntax import shown
from atdata.errors import LoginError

__all__ = ["Redirect"]

HOST = "127.0.0.1"
PATH = "/callback"
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>atdata</title>
<body style="font-family: sans-serif; margin: 4em"><h1>{title}</h1><p>{text}</p></body></html>
"""


class Redirect:
    """A listener on a free port of 127.0.0.1, for one login; use it in a `with` statement.

    What comes from anybody else than the server that was asked, which alone knows the state, is answered and forgotten.

    Args:
        state: what the answer has to carry.
        issuer: the authorization server that it has to be from (RFC 9207).
    """

    def __init__(self, state: str, issuer: str) -> None:
        self._state = state
        self._issuer = issuer
        self._answers: queue.Queue[dict[str, str]] = queue.Queue()
        self._server = _Server((HOST, 0), _Handler)
        self._server.redirect = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where the browser is to be sent."""
        return f"http://{HOST}:{self._server.server_port}{PATH}"

    def take(self, url: str) -> str:
        """Look at an address that a browser came to; "" when it is the answer, else what is wrong with it."""
        try:
            query = parse_qs(urlsplit(url).query, keep_blank_values=True, max_num_fields=50)
        except ValueError:
            return "it makes no sense"
        found = {name: values[0] for name, values in query.items() if len(values) == 1}
        if not hmac.compare_digest(found.get("state", "").encode(), self._state.encode()):
            return "it belongs to another login, or an earlier one"
        if found.get("iss") != self._issuer:
            return "it is from another server than the one that was asked"
        self._answers.put(found)
        return ""

    def wait(self, seconds: float, meanwhile: Callable[[], None] | None = None) -> str:
        """Wait for the browser, and give the code that it brings.

        Args:
            seconds: how long at most.
            meanwhile: is called several times a second.

        Raises:
            LoginError: the login was refused, or nobody came.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if meanwhile is not None:
                meanwhile()
            try:
                found = self._answers.get(timeout=min(0.2, left))
            except queue.Empty:
                continue
            if "error" in found:
                refused = found["error"] == "access_denied"
                what = "was refused in the browser" if refused else f"failed at the server: {shown(found['error'])}"
                raise LoginError(f"the login {what}", url=self._issuer)
            if not found.get("code"):
                raise LoginError("the server sent the browser back without a code", url=self._issuer)
            return found["code"]
        raise LoginError(
            f"nobody finished the login in the browser within {seconds / 60:.0f} minutes", url=self._issuer
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    redirect: Redirect

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a connection that broke off is no news


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10
    server_version = "atdata"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer the browser."""
        own = f"{HOST}:{self.server.server_port}"
        # A page of somebody else may lead a name of its own here.
        if self.headers.get("host") != own or urlsplit(self.path).path != PATH:
            self._say(404, "Nothing is here", "This address is for logins of atdata.")
            return
        wrong = self.server.redirect.take(self.path)
        if wrong:
            self._say(400, "This is not the login that is waited for", "Go back to the terminal, and try again there.")
        else:
            self._say(200, "Back to the terminal", "atdata has its answer. This page can be closed.")

    def log_message(self, *args: object) -> None:
        """Keep silent: the address has a code in it."""

    def _say(self, status: int, title: str, text: str) -> None:
        body = _PAGE.format(title=title, text=text).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Connection": "close",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
