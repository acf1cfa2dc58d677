"""Keys of a container's or machine's role, from servers that answer as Amazon's documentation says."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import atdata
from atdata.errors import ForkError
from atdata.stores.roles import RoleKeys
from atdata.stores.s3 import S3DataStore
from atdata.stores.signing import Keys
from forking import in_fork
from servers.front import TlsFront
from servers.rgw import S3Server

_NAMES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)


class Metadata:
    """Gives keys in every way there is; the ways are paths."""

    def __init__(self) -> None:
        self.keys = Keys("role-access", "role-secret", "role-token")
        self.lifetime = timedelta(hours=6)
        self.asked: list[tuple[str, str, dict[str, str], str]] = []
        self.broken = False
        metadata = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                headers = {name.lower(): value for name, value in self.headers.items()}
                metadata.asked.append((self.command, self.path, headers, body))
                status, text = metadata.answer(self.command, self.path, headers)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_PUT = do_POST = do_GET

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        expires = f"{datetime.now(UTC) + self.lifetime:%Y-%m-%dT%H:%M:%SZ}"
        told = {
            "AccessKeyId": self.keys.access,
            "SecretAccessKey": self.keys.secret,
            "Token": self.keys.token,
            "Expiration": expires,
        }
        if self.broken:
            return 500, "out of order"
        if path == "/latest/api/token":
            return (200, "machine-pass") if method == "PUT" else (405, "")
        if path.startswith("/latest/meta-data/") and headers.get("x-aws-ec2-metadata-token") != "machine-pass":
            return 401, ""
        if path == "/latest/meta-data/iam/security-credentials/":
            return 200, "the-role"
        if path == "/latest/meta-data/iam/security-credentials/the-role":
            return 200, json.dumps({**told, "Code": "Success", "Type": "AWS-HMAC"})
        if path == "/v1/credentials" and headers.get("authorization") == "container-pass":
            return 200, json.dumps(told)
        if path == "/" and method == "POST":
            told["SessionToken"] = told.pop("Token")
            parts = "".join(f"<{name}>{value}</{name}>" for name, value in told.items())
            return 200, f"<Result><Credentials>{parts}</Credentials></Result>"
        return 404, ""

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Metadata]:
    for name in _NAMES:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    server = Metadata()
    yield server
    server.close()


@pytest.fixture(params=["machine", "container", "web identity"])
def role(
    request: pytest.FixtureRequest, metadata: Metadata, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Metadata]:
    """In the environment of a machine, or of a container, that has a role."""
    if request.param == "machine":
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata.endpoint)
        yield metadata
    elif request.param == "container":
        (tmp_path / "token").write_text("container-pass\n")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", metadata.endpoint + "/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        yield metadata
    else:
        with TlsFront(metadata.endpoint, tmp_path) as front:
            (tmp_path / "token").write_text("a web identity & more")
            monkeypatch.setenv("SSL_CERT_FILE", str(front.certificate))
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", front.endpoint)
            monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
            monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/reader")
            yield metadata


def test_keys_are_kept_until_they_expire(role: Metadata) -> None:
    keys = RoleKeys("us-east-1")
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: keys(), range(20))) == {role.keys}
    asked = len(role.asked)
    assert asked in (1, 3)  # of a machine: the pass, the role's name, the keys
    role.keys = Keys("new-access", "new-secret", "new-token")
    assert keys().access == "role-access"
    assert len(role.asked) == asked
    soon = RoleKeys("us-east-1")
    role.lifetime = timedelta(minutes=4)
    assert soon().access == "new-access"
    role.keys = Keys("newest", "secret", "token")
    assert soon().access == "newest"


def test_a_role_without_keys(role: Metadata) -> None:
    role.broken = True
    with pytest.raises(ForkError, match=r"role cannot be fetched.*500.*forkserver"):
        RoleKeys("us-east-1")()


def test_what_a_web_identity_is_exchanged_for(metadata: Metadata, request: pytest.FixtureRequest) -> None:
    with pytest.MonkeyPatch.context() as patch:
        folder = request.getfixturevalue("tmp_path")
        (folder / "token").write_text("it is & me")
        patch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(folder / "token"))
        patch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/reader")
        patch.setenv("AWS_ENDPOINT_URL_STS", metadata.endpoint)
        with pytest.raises(ForkError, match="https"):  # tokens are not sent in the clear
            RoleKeys("eu-west-1")()
        assert metadata.asked == []
        with TlsFront(metadata.endpoint, folder) as front:
            patch.setenv("SSL_CERT_FILE", str(front.certificate))
            patch.setenv("AWS_ENDPOINT_URL_STS", front.endpoint)
            assert RoleKeys("eu-west-1")() == metadata.keys
    sent = dict(urllib.parse.parse_qsl(metadata.asked[0][3]))
    assert sent["WebIdentityToken"] == "it is & me"
    assert sent["RoleArn"] == "arn:aws:iam::1:role/reader"
    assert sent["Action"] == "AssumeRoleWithWebIdentity"


def test_a_forked_process_reads_by_its_role(
    metadata: Metadata, rgw: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its parent does, whose obstore fetches them by itself."""
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT", rgw.endpoint)
    metadata.keys = Keys(rgw.access_key, rgw.secret_key, "")
    store = S3DataStore(bucket=bucket)
    store.put("a", b"of a role")
    assert store.get("a") == b"of a role"
    assert {path.rpartition("/")[2] for _, path, _, _ in metadata.asked} == {"token", "", "the-role"}
    assert in_fork(lambda: str(store.get("a"))) == str(b"of a role")
    metadata.broken = True
    answer = in_fork(lambda: str(atdata.Dataset(f"s3://{bucket}/v1", store=S3DataStore(bucket=bucket))))
    assert answer.startswith("ForkError: ")
