"""The public keys of accounts, and signatures checked with them.

Both curves of the network, P-256 and secp256k1 ("k256"), in the Multikey form of DID documents (`zDn…`, `zQ3s…`) or as
`did:key:…`. Points are compressed and signatures have 64 bytes and the smaller S, so that there is one form of each.

Format: https://atproto.com/specs/cryptography and https://www.w3.org/TR/cid-1.0/#Multikey.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from atdata.atmosphere.guard import needs

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

__all__ = ["PublicKey", "parse_key"]

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {digit: value for value, digit in enumerate(_BASE58)}
_CURVES = {b"\x80\x24": "p256", b"\xe7\x01": "k256"}  # multicodec, as a varint
# The order of each curve's group (SEC 2, sections 2.4.1 and 2.4.2).
_ORDERS = {
    "p256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "k256": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
}


class PublicKey:
    """A public key of an account; `parse_key` makes one.

    Attributes:
        curve: "p256" or "k256".
        text: its Multikey form.
    """

    def __init__(self, curve: str, text: str, point: EllipticCurvePublicKey) -> None:
        self.curve = curve
        self.text = text
        self._point = point

    def __repr__(self) -> str:
        return f"PublicKey({self.text})"

    def check(self, data: bytes, signature: bytes) -> None:
        """Whether `signature` is this key's, of `data`.

        Args:
            data: what was signed (ECDSA, of its SHA-256).
            signature: r and s, of 32 bytes each.

        Raises:
            ValueError: it is not, or not in the only form that is allowed; says which.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA256

        if len(signature) != 64:
            raise ValueError(f"the signature has {len(signature)} bytes, not 64")
        order = _ORDERS[self.curve]
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        if not (0 < r < order and 0 < s < order):
            raise ValueError("the signature's numbers are out of range")
        if s > order // 2:
            raise ValueError("the signature has the larger of two possible S, which is not allowed")
        try:
            self._point.verify(encode_dss_signature(r, s), data, ECDSA(SHA256()))
        except InvalidSignature:
            raise ValueError(f"the signature is not of {self.text}, or what was signed was changed") from None


@functools.lru_cache(256)
def parse_key(text: str) -> PublicKey:
    """The public key that is written as a Multikey (`z…`) or as `did:key:z…`.

    Raises:
        ValueError: it is none, or of another kind than the network uses.
        AtmosphereError: `cryptography` is not installed.

    Example:
        >>> parse_key("did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme").curve
        'k256'
    """
    try:
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, SECP256R1, EllipticCurvePublicKey
    except ImportError:
        raise needs("cryptography") from None
    multikey = text.removeprefix("did:key:")
    raw = _from_base58(multikey)
    curve = _CURVES.get(raw[:2])
    if curve is None:
        raise ValueError(f"{text[:80]!r} is neither a P-256 nor a secp256k1 key in Multikey form")
    if len(raw) != 35 or raw[2] not in (2, 3):
        raise ValueError(f"{text[:80]!r} is no compressed point, of 33 bytes")
    try:
        point = EllipticCurvePublicKey.from_encoded_point(SECP256R1() if curve == "p256" else SECP256K1(), raw[2:])
    except ValueError:
        raise ValueError(f"{text[:80]!r} is no point of the curve {curve}") from None
    return PublicKey(curve, multikey, point)


def _from_base58(text: str) -> bytes:
    """The bytes that are written in base58btc after the letter `z`."""
    digits = text[1:]
    if not text.startswith("z") or not 0 < len(digits) <= 100 or not _DIGITS.keys() >= set(digits):
        raise ValueError(f"{text[:80]!r} is no public key: one begins with z, and has up to 100 digits of base58")
    number = 0
    for digit in digits:
        number = number * 58 + _DIGITS[digit]
    zeros = len(digits) - len(digits.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
