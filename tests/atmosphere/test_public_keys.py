"""The public keys of accounts: both curves, in the one form each that is allowed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from signed_repositories import CURVES, Key, base58

from atdata.atmosphere.keys import parse_key

# The examples of https://atproto.com/specs/cryptography and of the did:key specification.
EXAMPLES = {
    "zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc": "k256",
    "zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme": "k256",
    "zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169": "p256",
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_published_examples(text: str) -> None:
    for written in (text, f"did:key:{text}"):
        key = parse_key(written)
        assert (key.curve, key.text) == (EXAMPLES[text], text)
        assert repr(key) == f"PublicKey({text})"


@given(st.sampled_from(sorted(CURVES)), st.integers(1, 2**255), st.binary())
def test_any_key_checks_its_own_signatures(curve: str, secret: int, data: bytes) -> None:
    key, other = Key(curve, secret), Key(curve, secret + 1)
    public = parse_key(key.multikey)
    assert public.curve == curve
    public.check(data, key.sign(data))
    with pytest.raises(ValueError, match="is not of z"):
        public.check(data + b"\0", key.sign(data))
    with pytest.raises(ValueError, match="is not of z"):
        public.check(data, other.sign(data))
    with pytest.raises(ValueError, match="the larger of two possible S"):
        public.check(data, key.sign(data, high=True))


@pytest.mark.parametrize("curve", CURVES)
def test_points_have_one_form(curve: str) -> None:
    key = Key(curve, 5)
    whole = key.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    hybrid = bytes([6 + whole[-1] % 2]) + whole[1:]
    codec = key.codec
    for point in (
        whole,
        hybrid,
        b"\x04" + key.point[1:],
        b"\x00" + key.point[1:],
        b"\x05" + key.point[1:],
        key.point[:-1],
        key.point + b"\0",
        b"\x00",
        b"",
    ):
        with pytest.raises(ValueError, match=r"is no compressed point, of 33 bytes|is no public key"):
            parse_key("z" + base58(codec + point))
    with pytest.raises(ValueError, match=f"is no point of the curve {curve}"):
        parse_key("z" + base58(codec + b"\x02" + b"\xff" * 32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no public key: one begins with z, and has up to 100 digits of base58"),
        ("z", "is no public key"),
        ("did:key:", "is no public key"),
        ("did:plc:ewvi7nxzyoun6zhxrhs64oiz", "is no public key"),
        ("Q3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme", "is no public key"),
        ("zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme ", "is no public key"),
        ("zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBm0", "is no public key"),
        ("z" + "é" * 48, "is no public key"),
        ("z" + "2" * 101, "is no public key"),
        ("z2222", "is neither a P-256 nor a secp256k1 key in Multikey form"),
        ("z1Q3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme", "is neither"),  # a zero before it all
        ("z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", "is neither"),  # Ed25519
    ],
)
def test_what_is_no_key_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_key(text)
    assert len(str(caught.value)) < 200


def test_a_missing_package_is_named() -> None:
    program = """
import sys
sys.modules["cryptography.hazmat.primitives.asymmetric.ec"] = None
from atdata.atmosphere.keys import parse_key
from atdata.errors import AtmosphereError
try:
    parse_key("zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme")
except AtmosphereError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "the AT Protocol network needs cryptography: pip install 'atdata[atmosphere]'"
