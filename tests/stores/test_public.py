"""What strangers name on the web and in buckets: only what is public is connected to, and without anybody's keys."""

from __future__ import annotations

import datetime
import ipaddress
import json
import pickle
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import atdata
from atdata.errors import AccessDeniedError, StoreError, UnsafeNameError, UnsafeUrlError
from atdata.stores import transport
from atdata.stores.http import HttpObject, Web
from atdata.stores.public import PublicBucket
from atdata.stores.s3 import S3DataStore
from atdata.stores.transport import Clock, Transport
from servers.rgw import S3Server
from servers.web import WebServer


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "10.1.2.3", "2130706433"]
)
def test_only_public_addresses_are_connected_to(host: str) -> None:
    for scheme in ("http", "https"):
        with pytest.raises(UnsafeUrlError, match=r"is no address of the public internet.*allow_private"):
            Transport(f"{scheme}://{host}:9", public=True).ask("GET", "/", {}, Clock(5))


def test_only_https_is_opened(web: WebServer) -> None:
    (web.folder / "a.tar").write_bytes(b"data")
    with pytest.raises(UnsafeUrlError, match="plain http"):
        HttpObject(web.url("a.tar"), web=Web(public=True)).whole()
    with pytest.raises(UnsafeUrlError, match="public internet"):
        HttpObject(web.url("a.tar").replace("http:", "https:"), web=Web(public=True)).whole()
    assert web.requests == []
    assert HttpObject(web.url("a.tar"), web=Web()).whole() == b"data"
    assert pickle.loads(pickle.dumps(Web(public=True))).public


def test_what_a_proxy_connects_to_is_looked_at(monkeypatch: pytest.MonkeyPatch, web: WebServer) -> None:
    monkeypatch.setenv("https_proxy", web.endpoint)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(UnsafeUrlError, match="public internet"):
        Transport("https://169.254.169.254", public=True).ask("GET", "/", {}, Clock(5))
    assert web.requests == []


# -- a redirect ----------------------------------------------------------------------------------------------------


def certificate(folder: Path, *hosts: str) -> Path:
    """A certificate for these addresses, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(h)) for h in hosts]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM
    secret = key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(secret + made.public_bytes(form))
    return path


class Redirecting(BaseHTTPRequestHandler):
    """Sends everyone on to another place."""

    to = ""
    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        self.send_response(302)
        self.send_header("Location", self.to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """An https server at 127.0.0.2, which is taken for a public address."""
    pem = certificate(tmp_path, "127.0.0.1", "127.0.0.2")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    monkeypatch.setattr(transport, "is_public", lambda address: address == "127.0.0.2")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    handler = type("Handler", (Redirecting,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.2", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_redirects_lead_nowhere_else(secure: ThreadingHTTPServer) -> None:
    """Not to a private address, not to plain http, and not to another scheme."""
    handler: Any = secure.RequestHandlerClass
    origin = f"https://127.0.0.2:{secure.server_port}"
    with socket.create_server(("127.0.0.1", 0)) as private:
        port = private.getsockname()[1]
        for to, error in [
            (f"https://127.0.0.1:{port}/secret", UnsafeUrlError),
            (f"https://localhost:{port}/secret", UnsafeUrlError),
            (f"http://127.0.0.1:{port}/secret", StoreError),
            ("file:///etc/passwd", StoreError),
            ("//169.254.169.254/latest/meta-data", UnsafeUrlError),
        ]:
            handler.to = to
            with pytest.raises(error):
                HttpObject(f"{origin}/a.tar", web=Web(public=True)).whole()
        assert handler.asked == ["/a.tar"] * 5
        private.settimeout(0.05)
        with pytest.raises(TimeoutError):
            private.accept()


# -- buckets -------------------------------------------------------------------------------------------------------


def opened(rgw: S3Server, bucket: str) -> str:
    """Let anybody read a bucket."""
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]}).encode()
    assert rgw.request("PUT", f"/{bucket}", {"policy": ""}, body=policy).status in (200, 204)
    return bucket


@pytest.fixture
def written(rgw: S3Server, bucket: str) -> atdata.S3DataStore:
    store = atdata.S3DataStore(rgw.credentials, bucket=bucket)
    store.put("a/x.bin", b"0123456789")
    return store


def test_a_bucket_is_read_by_anybody(
    rgw: S3Server, bucket: str, written: S3DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what was said of it: the environment names another service, and keys."""
    opened(rgw, bucket)
    for name, value in {
        "AWS_ENDPOINT": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
    }.items():
        monkeypatch.setenv(name, value)
    store = PublicBucket(bucket, endpoint=rgw.endpoint, allow_private=True)
    again: PublicBucket = pickle.loads(pickle.dumps(store))
    for each in (store, again):
        found = each.open(f"s3://{bucket}/a/x.bin")
        assert (found.size, found.read(2, 5)) == (10, b"234")
    assert store.read_url(f"s3://{bucket}/a/x.bin") == f"{rgw.endpoint}/{bucket}/a/x.bin"
    assert (store.endpoint, store.region) == (rgw.endpoint, "us-east-1")
    for change in (lambda: store.begin("p", overwrite=False), lambda: store.delete("p")):
        with pytest.raises(StoreError, match="not written"):
            change()


def test_a_closed_bucket_stays_closed(rgw: S3Server, bucket: str, written: S3DataStore) -> None:
    store = PublicBucket(bucket, endpoint=rgw.endpoint, allow_private=True)
    with pytest.raises(AccessDeniedError, match="none were given"):
        store.open(f"s3://{bucket}/a/x.bin")


def test_private_endpoints_are_not_opened(rgw: S3Server, bucket: str, written: S3DataStore) -> None:
    with pytest.raises(UnsafeUrlError, match="plain http"):
        PublicBucket(bucket, endpoint=rgw.endpoint)
    for endpoint in (rgw.endpoint.replace("http:", "https:"), "https://169.254.169.254", "https://localhost"):
        store = PublicBucket(bucket, endpoint=endpoint)
        with pytest.raises(UnsafeUrlError, match="public internet"):
            store.open(f"s3://{bucket}/a/x.bin")


@pytest.mark.parametrize("bucket", ["evil.example:80", "a_b", "UPPER", "a/b", "a.", "x@y", "a" * 64])
def test_a_bucket_that_amazon_cannot_have(bucket: str) -> None:
    """Its name would become part of a host's."""
    with pytest.raises((UnsafeUrlError, UnsafeNameError)):
        PublicBucket(bucket)


def test_a_region_that_is_none() -> None:
    with pytest.raises(UnsafeUrlError, match="is no region"):
        PublicBucket("open-data", region="x.evil.example/")


def test_where_a_store_is(rgw: S3Server, bucket: str) -> None:
    store = atdata.S3DataStore(rgw.credentials | {"AWS_ENDPOINT": rgw.endpoint + "/"}, bucket=bucket)
    assert (store.endpoint, store.region) == (rgw.endpoint, "us-east-1")
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    amazon = atdata.S3DataStore(keys, bucket=bucket)
    assert (amazon.endpoint, amazon.region) == (None, None)
