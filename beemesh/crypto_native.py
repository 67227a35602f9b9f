"""The real cryptography behind the port: libsodium for keys and boxes, OpenSSL for datagrams, pycryptodome for shares.

Each library does what it does best (libsodium verifies Ed25519 twice as fast, OpenSSL's ChaCha20 is four times as
fast). They draw their own random numbers, which is why nothing here is used by a simulation.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import nacl.bindings
import nacl.exceptions
import nacl.public
import nacl.signing
import nacl.utils
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from beemesh.crypto import KEY_BYTES, SHARE_BYTES, Share
from beemesh.errors import Untrusted
from beemesh.identity.signing import SIGNATURE_BYTES
from beemesh.secret import SecretBytes

XCHACHA_NONCE_BYTES = 24
HALF_BYTES = 16
"""pycryptodome's Shamir works in GF(2^128): a 32-byte secret is shared as two halves."""

DATAGRAM_INFO = b"beemesh/1/datagram"
SHARES_MAX = 255


class NativeCrypto:
    """A node's or operator's two private keys, and all that is done with them."""

    def __init__(self, sign_private: bytes, open_private: bytes) -> None:
        """`sign_private` is the 32-byte Ed25519 seed, `open_private` the 32-byte X25519 scalar."""
        self._signing = nacl.signing.SigningKey(sign_private)
        self._opening = nacl.public.PrivateKey(open_private)
        self._sign_key = bytes(self._signing.verify_key)
        self._open_key = bytes(self._opening.public_key)
        self._signer_id = hashlib.sha256(self._sign_key).digest()
        self._box = nacl.public.SealedBox(self._opening)

    def __repr__(self) -> str:
        return f"NativeCrypto({self._signer_id.hex()[:10]}, ***)"

    @classmethod
    def generate(cls) -> NativeCrypto:
        """Fresh keys from the operating system's generator."""
        return cls(nacl.utils.random(KEY_BYTES), nacl.utils.random(KEY_BYTES))

    def private_keys(self) -> tuple[SecretBytes, SecretBytes]:
        """(Ed25519 seed, X25519 scalar), for the one place that keeps them in files."""
        return SecretBytes(bytes(self._signing)), SecretBytes(bytes(self._opening))

    @property
    def signer_id(self) -> bytes:
        """SHA-256 of our Ed25519 public key."""
        return self._signer_id

    @property
    def sign_key(self) -> bytes:
        """Our Ed25519 public key."""
        return self._sign_key

    @property
    def open_key(self) -> bytes:
        """Our X25519 public key."""
        return self._open_key

    def sign(self, payload: bytes) -> bytes:
        """See `Crypto.sign`."""
        return self._signing.sign(payload).signature

    def verify(self, public_key: bytes, payload: bytes, signature: bytes) -> bool:
        """See `Crypto.verify`. The lengths are checked first: libsodium takes signature and payload as one text, so a
        longer "signature" would move the start of the payload, and a statement inside another would verify."""
        if len(signature) != SIGNATURE_BYTES or len(public_key) != KEY_BYTES:
            return False
        try:
            nacl.bindings.crypto_sign_open(signature + payload, public_key)
        except (nacl.exceptions.CryptoError, ValueError, TypeError):
            return False
        return True

    def seal_to(self, open_key: bytes, plaintext: bytes) -> bytes:
        """See `Crypto.seal_to`."""
        try:
            return nacl.public.SealedBox(nacl.public.PublicKey(open_key)).encrypt(plaintext)
        except (nacl.exceptions.CryptoError, ValueError) as error:
            raise Untrusted("cannot seal to this key: it is not a usable X25519 public key") from error

    def open_box(self, box: bytes) -> bytes:
        """See `Crypto.open_box`."""
        try:
            return self._box.decrypt(box)
        except (nacl.exceptions.CryptoError, ValueError) as error:
            raise Untrusted("a sealed box was not sealed to our key, or was altered") from error

    def datagram_key(self, gossip_key: bytes, sender: bytes, boot_id: bytes) -> bytes:
        """See `Crypto.datagram_key`."""
        return HKDF(SHA256(), KEY_BYTES, salt=boot_id, info=DATAGRAM_INFO + sender).derive(gossip_key)

    def datagram_cipher(self, key: bytes) -> NativeDatagramCipher:
        """See `Crypto.datagram_cipher`."""
        return NativeDatagramCipher(key)

    def encrypt(self, key: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """See `Crypto.encrypt`."""
        nonce: bytes = nacl.utils.random(XCHACHA_NONCE_BYTES)
        return nonce + nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, associated, nonce, key)

    def decrypt(self, key: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        """See `Crypto.decrypt`."""
        nonce, sealed = ciphertext[:XCHACHA_NONCE_BYTES], ciphertext[XCHACHA_NONCE_BYTES:]
        try:
            return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, associated, nonce, key)
        except (nacl.exceptions.CryptoError, ValueError, TypeError) as error:
            raise Untrusted("a sealed text does not open with this key, or was altered or moved") from error

    def random_key(self) -> bytes:
        """A fresh 256-bit key."""
        return nacl.utils.random(KEY_BYTES)

    def split(self, secret: bytes, k: int, n: int) -> list[Share]:
        """See `Crypto.split`. Shamir over GF(2^128) (Shamir 1979), each half by itself."""
        if len(secret) != SHARE_BYTES or not 1 < k <= n <= SHARES_MAX:
            raise ValueError(f"cannot share {len(secret)} bytes {k} of {n}")
        low = Shamir.split(k, n, secret[:HALF_BYTES], ssss=False)
        high = Shamir.split(k, n, secret[HALF_BYTES:], ssss=False)
        return [Share(index, first + second) for (index, first), (_, second) in zip(low, high, strict=True)]

    def combine(self, shares: Sequence[Share]) -> bytes:
        """See `Crypto.combine`; raises `Untrusted` for shares that cannot belong together."""
        try:
            low = Shamir.combine([(share.index, share.value[:HALF_BYTES]) for share in shares], ssss=False)
            high = Shamir.combine([(share.index, share.value[HALF_BYTES:]) for share in shares], ssss=False)
        except (ValueError, IndexError) as error:
            raise Untrusted(f"the key shares do not belong together: {error}") from error
        return low + high


class NativeDatagramCipher:
    """ChaCha20-Poly1305 of OpenSSL under one subkey: 2 KiB, which is why only verified senders' are kept."""

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)

    def encrypt(self, counter: int, plaintext: bytes, associated: bytes) -> bytes:
        """See `DatagramCipher.encrypt`."""
        return self._cipher.encrypt(_nonce(counter), plaintext, associated)

    def decrypt(self, counter: int, ciphertext: bytes, associated: bytes) -> bytes | None:
        """See `DatagramCipher.decrypt`."""
        try:
            return self._cipher.decrypt(_nonce(counter), ciphertext, associated)
        except (InvalidTag, ValueError):
            return None


def same(left: bytes, right: bytes) -> bool:
    """Comparison in constant time."""
    return hmac.compare_digest(left, right)


def _nonce(counter: int) -> bytes:
    """Unique per key, because the key belongs to one boot of one sender, which counts."""
    return bytes(4) + counter.to_bytes(8, "big")
