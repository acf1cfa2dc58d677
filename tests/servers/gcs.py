"""Google Cloud Storage as far as it can be had here: its XML dialect and its signatures, before the S3 server.

Google has no server that can be run elsewhere, and the emulators do not take what obstore sends. The bytes, parts,
listings, versions and conditions are those of Ceph's gateway (`servers.rgw`), which speaks the protocol that Google's
XML interface was made after. This stands before it and does what is Google's own, as its documentation has it:

- who asks shows a token that a service account signed (https://google.aip.dev/auth/4111), or has a URL signed by
  `GOOG4-RSA-SHA256` (https://cloud.google.com/storage/docs/access-control/signed-urls), of which every part is checked;
- `x-goog-if-generation-match: 0` is for objects that are not there yet, and `x-goog-copy-source` for copies.

In a test, take the fixture `gcs` (`servers.fixtures`), one for each test process:

    def test_it(gcs):
        GCSDataStore(gcs.make_bucket(), **gcs.options)
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
import time
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from servers.rgw import S3Server

ACCOUNT = "tests@project.iam.gserviceaccount.com"
_HOST = "storage.googleapis.com"  # for which obstore signs, wherever the server is
_PASSED_ON = ("range", "if-match", "content-type")
_GIVEN_BACK = ("etag", "content-length", "content-range", "content-type", "last-modified")


class RefusedError(Exception):
    """Who asks may not; the text is the code that Google gives."""


class GoogleStorage:
    """The dialect before an S3 server; use it in a `with` statement.

    Attributes:
        endpoint: its URL.
    """

    endpoint: str

    def __init__(self, rgw: S3Server) -> None:
        self._rgw = rgw
        self._key = rsa.generate_private_key(65537, 2048)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"front": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def make_bucket(self) -> str:
        """A new, empty bucket."""
        return self._rgw.make_bucket()

    @property
    def options(self) -> dict[str, Any]:
        """What `GCSDataStore` needs to use it."""
        return {"service_account_key": self.account(self._key), "base_url": self.endpoint}

    def account(self, key: rsa.RSAPrivateKey) -> str:
        """The file of a service account, as Google gives it out."""
        kind, form, none = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        text = key.private_bytes(kind, form, none).decode()
        return json.dumps({"client_email": ACCOUNT, "private_key_id": "1", "private_key": text})

    def check(self, method: str, target: str, headers: Any) -> None:
        """Whether somebody may do this.

        Raises:
            RefusedError: no.
        """
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        try:
            if "X-Goog-Signature" in query:
                self._check_url(method, parts.path, query)
            else:
                self._check_token(headers.get("authorization", ""))
        except (InvalidSignature, ValueError, KeyError):
            raise RefusedError("SignatureDoesNotMatch") from None

    def _check_token(self, header: str) -> None:
        if not header:
            raise RefusedError("AccessDenied")
        text, _, signature = header.removeprefix("Bearer ").rpartition(".")
        self._verify(_decoded(signature), text)
        claims = json.loads(_decoded(text.partition(".")[2]))
        if claims["iss"] != ACCOUNT or not claims["iat"] - 300 < time.time() < claims["exp"]:
            raise RefusedError("AuthenticationRequired")

    def _check_url(self, method: str, path: str, query: dict[str, str]) -> None:
        signature = bytes.fromhex(query.pop("X-Goog-Signature"))
        if path != quote(unquote(path), safe="/~"):
            raise ValueError("all that is reserved is quoted in a path that is signed")
        listed = "&".join(f"{quote(name, safe='~')}={quote(query[name], safe='~')}" for name in sorted(query))
        request = "\n".join([method, path, listed, f"host:{_HOST}\n", "host", "UNSIGNED-PAYLOAD"])
        stamp, scope = query["X-Goog-Date"], query["X-Goog-Credential"].removeprefix(f"{ACCOUNT}/")
        if scope != f"{stamp[:8]}/auto/storage/goog4_request":
            raise ValueError("of another day, or for something else")
        digest = hashlib.sha256(request.encode()).hexdigest()
        self._verify(signature, "\n".join([query["X-Goog-Algorithm"], stamp, scope, digest]))
        age = datetime.now(UTC) - datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if not -900 < age.total_seconds() < int(query["X-Goog-Expires"]):
            raise RefusedError("ExpiredToken")

    def _verify(self, signature: bytes, text: str) -> None:
        self._key.public_key().verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())

    def passed_on(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """What the S3 server answers."""
        parts = urlsplit(target)
        asked = parse_qsl(parts.query, keep_blank_values=True)
        query = {name: value for name, value in asked if not name.startswith("X-Goog-")}
        sent = {name: headers[name] for name in _PASSED_ON if name in headers}
        if headers.get("x-goog-if-generation-match") == "0":
            sent["if-none-match"] = "*"
        if "x-goog-copy-source" in headers:
            sent["x-amz-copy-source"] = headers["x-goog-copy-source"]
        reply = self._rgw.request(method, unquote(parts.path), query, headers=sent, body=body, timeout=60)
        return reply.status, {n: reply.headers[n] for n in _GIVEN_BACK if n in reply.headers}, reply.body


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class _Handler(http.server.BaseHTTPRequestHandler):
    front: GoogleStorage
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            self.front.check(self.command, self.path, self.headers)
            status, headers, data = self.front.passed_on(self.command, self.path, self.headers, body)
        except RefusedError as error:
            status, headers = 403, {"content-type": "application/xml"}
            data = f"<?xml version='1.0'?><Error><Code>{error}</Code></Error>".encode()
        self.send_response(status)
        for name, value in ({"content-length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""
