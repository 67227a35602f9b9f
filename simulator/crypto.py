"""A cheap stand-in for cryptography, so that a simulation spends its time on protocols.

It keeps what protocols rely on: a signature verifies only under the signer's key and for the very payload, a box opens
for its owner alone, an altered text opens for nobody, and fewer than k shares say nothing useful. It keeps no secret
from anybody who reads the process's memory, and draws no random numbers, so that a trace repeats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from beemesh.crypto import SHARE_BYTES, Crypto, Share
from beemesh.crypto_native import NativeCrypto
from beemesh.errors import Untrusted

TAG_BYTES = 16

Keys = Callable[[bytes], Crypto]
"""Makes somebody's keys from a seed."""


def real_keys(seed: bytes) -> Crypto:
    """Real keys from a seed, for the slower lane. They draw nonces by themselves, so traces do not repeat."""
    return NativeCrypto(hashlib.sha256(b"sign" + seed).digest(), hashlib.sha256(b"open" + seed).digest())


class FakeCrypto:
    """A node's keys, made from its seed: the "public" key is the seed itself."""

    def __init__(self, seed: bytes) -> None:
        self._sign_key = hashlib.blake2b(b"sign" + seed, digest_size=32).digest()
        self._open_key = hashlib.blake2b(b"open" + seed, digest_size=32).digest()
        self._signer_id = hashlib.sha256(self._sign_key).digest()

    @property
    def signer_id(self) -> bytes:
        """SHA-256 of the signing key."""
        return self._signer_id

    @property
    def sign_key(self) -> bytes:
        """The key that verifies."""
        return self._sign_key

    @property
    def open_key(self) -> bytes:
        """The key that others seal to."""
        return self._open_key

    def sign(self, payload: bytes) -> bytes:
        """64 bytes that depend on key and payload."""
        return hashlib.blake2b(payload, key=self._sign_key).digest()

    def verify(self, public_key: bytes, payload: bytes, signature: bytes) -> bool:
        """Whether `sign` of the owner of `public_key` gave `signature`."""
        return len(public_key) == 32 and hashlib.blake2b(payload, key=public_key).digest() == signature

    def seal_to(self, open_key: bytes, plaintext: bytes) -> bytes:
        """A text that `open_box` opens for the owner of `open_key`."""
        return _seal(open_key, b"box", plaintext)

    def open_box(self, box: bytes) -> bytes:
        """The inverse of `seal_to` for our own key."""
        plaintext = _open(self._open_key, b"box", box)
        if plaintext is None:
            raise Untrusted("a sealed box was not sealed to our key, or was altered")
        return plaintext

    def datagram_key(self, gossip_key: bytes, sender: bytes, boot_id: bytes) -> bytes:
        """A subkey per sender and boot."""
        return hashlib.blake2b(sender + boot_id, key=gossip_key, digest_size=32).digest()

    def datagram_cipher(self, key: bytes) -> FakeDatagramCipher:
        """What seals and opens the datagrams of one boot of one sender."""
        return FakeDatagramCipher(key)

    def encrypt(self, key: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """A text that `decrypt` opens with the same key and associated data."""
        return _seal(key, associated, plaintext)

    def decrypt(self, key: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        """The inverse of `encrypt`."""
        plaintext = _open(key, associated, ciphertext)
        if plaintext is None:
            raise Untrusted("a sealed text does not open with this key, or was altered or moved")
        return plaintext

    def split(self, secret: bytes, k: int, n: int) -> list[Share]:
        """Shamir byte by byte in GF(256); the coefficients come from the secret's hash, so that shares repeat."""
        salted = (hashlib.blake2b(secret, salt=bytes([i]), digest_size=32).digest() for i in range(1, k))
        coefficients = [secret, *salted]
        return [Share(x, bytes(_evaluate([c[i] for c in coefficients], x) for i in range(32))) for x in range(1, n + 1)]

    def combine(self, shares: Sequence[Share]) -> bytes:
        """Lagrange interpolation at zero in GF(256); raises `Untrusted` for shares that cannot belong together."""
        indices = [share.index for share in shares]
        if len(set(indices)) != len(indices) or not all(0 < index < 256 for index in indices):
            raise Untrusted("the key shares do not belong together: an index is there twice, or out of range")
        weights = [_weight(x, [other for other in indices if other != x]) for x in indices]
        secret = bytearray(SHARE_BYTES)
        for share, weight in zip(shares, weights, strict=True):
            for place, value in enumerate(share.value):
                secret[place] ^= _multiply(value, weight)
        return bytes(secret)


class FakeDatagramCipher:
    """See `beemesh.crypto.DatagramCipher`."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encrypt(self, counter: int, plaintext: bytes, associated: bytes) -> bytes:
        """16 bytes longer than `plaintext`."""
        return _seal(self._key, counter.to_bytes(8, "big") + associated, plaintext)

    def decrypt(self, counter: int, ciphertext: bytes, associated: bytes) -> bytes | None:
        """The inverse, or None."""
        return _open(self._key, counter.to_bytes(8, "big") + associated, ciphertext)


def _tag(key: bytes, associated: bytes, plaintext: bytes) -> bytes:
    return hashlib.blake2b(associated + plaintext, key=key, digest_size=TAG_BYTES).digest()


def _seal(key: bytes, associated: bytes, plaintext: bytes) -> bytes:
    return _tag(key, associated, plaintext) + plaintext


def _open(key: bytes, associated: bytes, sealed: bytes) -> bytes | None:
    plaintext = sealed[TAG_BYTES:]
    return plaintext if sealed.startswith(_tag(key, associated, plaintext)) else None


def _tables() -> tuple[list[int], list[int]]:
    """Powers of the generator 3 of GF(256) with the AES polynomial, twice over, and their logarithms."""
    powers, logarithms, value = [1] * 510, [0] * 256, 1
    for exponent in range(255):
        powers[exponent] = powers[exponent + 255] = value
        logarithms[value] = exponent
        value ^= (value << 1) ^ (0x11B if value & 0x80 else 0)
    return powers, logarithms


_POWERS, _LOGARITHMS = _tables()


def _multiply(a: int, b: int) -> int:
    return _POWERS[_LOGARITHMS[a] + _LOGARITHMS[b]] if a and b else 0


def _divide(a: int, b: int) -> int:
    return _POWERS[_LOGARITHMS[a] - _LOGARITHMS[b] + 255] if a else 0


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = _multiply(value, x) ^ coefficient
    return value


def _weight(x: int, others: Sequence[int]) -> int:
    """Lagrange's factor at zero of the share `x` beside `others`."""
    weight = 1
    for other in others:
        weight = _multiply(weight, _divide(other, other ^ x))
    return weight
