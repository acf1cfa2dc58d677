"""A web server for tests of plain reading by URL: serves a folder, with ranges, ETags and HEAD.

def test_read(web):
    (web.folder / "a.tar").write_bytes(data)
    atdata.Dataset(web.url("a.tar"))
    web.ranges = False                          # knows no ranges: 200 and all of it
    web.lengths = False                         # and says no length
    web.answer("b.tar", 403)                    # this path: always this status
    web.redirect("old.tar", web.url("a.tar"))   # 302
    web.wrong("a.tar", other)                   # other content than the folder's
    web.normal()                                # back to what is in the folder
    web.requests                                # [WebRequest(method="GET", path="/a.tar", range="", status=200)]
"""

from __future__ import annotations

import email.utils
import hashlib
import re
import socket
import threading
import urllib.parse
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class WebRequest:
    method: str
    path: str
    """Decoded, without the query."""
    query: str
    range: str
    """The header, "" without."""
    status: int


class WebServer:
    """Serves the files in a folder, as they are at each request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[WebRequest] = []
        self.port = 0
        self.normal()
        self._server: _Server | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"{self.endpoint}/{urllib.parse.quote(path)}"

    def normal(self) -> None:
        """As a web server should."""
        self.ranges = True
        self.lengths = True
        self._answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self._contents: dict[str, bytes] = {}

    def answer(self, path: str, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self._answers["/" + path] = (status, headers or {}, body)

    def redirect(self, path: str, to: str, status: int = 302) -> None:
        self.answer(path, status, {"Location": to})

    def wrong(self, path: str, content: bytes) -> None:
        self._contents["/" + path] = content

    def counts(self) -> Counter[str]:
        """Requests by method."""
        return Counter(request.method for request in self.requests)

    def start(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.web = self
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="web server", daemon=True).start()
        return self

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    web: WebServer
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's trouble here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        web = self.server.web
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if path in web._answers:
            status, headers, body = web._answers[path]
            self.reply(path, status, headers, body)
            return
        if path in web._contents:
            content, modified = web._contents[path], 0.0
            tag = hashlib.sha256(content).hexdigest()[:16]
        else:
            place = (web.folder / path.lstrip("/")).resolve()
            if not place.is_relative_to(web.folder.resolve()) or not place.is_file():
                self.reply(path, 404, {}, b"no such file\n")
                return
            found = place.stat()
            content, modified = place.read_bytes(), found.st_mtime
            tag = f"{found.st_mtime_ns:x}-{found.st_size:x}"
        headers = {
            "ETag": f'"{tag}"',
            "Last-Modified": email.utils.formatdate(modified, usegmt=True),
            "Content-Type": "application/octet-stream",
        }
        if (match := self.headers.get("If-Match")) and match not in ("*", headers["ETag"]):
            self.reply(path, 412, headers, b"")
            return
        if self.headers.get("If-None-Match") in ("*", headers["ETag"]):
            self.reply(path, 304, headers, b"")
            return
        status = 200
        if web.ranges:
            headers["Accept-Ranges"] = "bytes"
            asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if asked and asked.group() != "bytes=-" and self.headers.get("If-Range") in (None, headers["ETag"]):
                first, last = asked.groups()
                start = int(first) if first else max(0, len(content) - int(last))
                end = min(int(last) + 1, len(content)) if first and last else len(content)
                if start >= len(content) or end <= start:
                    self.reply(path, 416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                    return
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
                status, content = 206, content[start:end]
        self.reply(path, status, headers, content)

    do_HEAD = do_PUT = do_GET

    def do_POST(self) -> None:
        """Nothing is posted to files; for what `answer` says."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.reply(path, *self.server.web._answers.get(path, (405, {}, b"")))

    def reply(self, path: str, status: int, headers: dict[str, str], body: bytes) -> None:
        web = self.server.web
        query = urllib.parse.urlsplit(self.path).query
        # Before the answer: whoever has it must find it counted.
        web.requests.append(WebRequest(self.command, path, query, self.headers.get("Range", ""), status))
        known = {each.value for each in HTTPStatus}
        self.send_response(status, None if status in known else "Other")
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304:
            if web.lengths:
                self.send_header("Content-Length", str(len(body)))
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
        self.end_headers()
        if self.command != "HEAD" and status != 304:
            self.wfile.write(body)
