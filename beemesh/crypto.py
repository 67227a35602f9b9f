"""The port behind which all cryptography of a protocol sits.

Libraries that draw their own random numbers (sealed boxes, Shamir) cannot be replayed, so the state machines see only
this. `beemesh.crypto_native` is the real one; the simulator brings a cheap stand-in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

KEY_BYTES = 32
SHARE_BYTES = 32


class Share(NamedTuple):  # tuple.index is shadowed on purpose: a share is never searched
    """One Shamir share of a 32-byte secret: its index (1…n) and 32 bytes."""

    index: int  # type: ignore[assignment]
    value: bytes


class DatagramCipher(Protocol):
    """ChaCha20-Poly1305 (RFC 8439) under the subkey of one boot of one sender, with its counter as the nonce."""

    def encrypt(self, counter: int, plaintext: bytes, associated: bytes) -> bytes:
        """16 bytes longer than `plaintext`."""
        ...

    def decrypt(self, counter: int, ciphertext: bytes, associated: bytes) -> bytes | None:
        """The plaintext, or None when it does not authenticate."""
        ...


class Crypto(Protocol):
    """What a node can do with its own two private keys, and with keys that it is handed."""

    @property
    def signer_id(self) -> bytes:
        """SHA-256 of our Ed25519 public key: our node or operator ID."""
        ...

    @property
    def sign_key(self) -> bytes:
        """Our Ed25519 public key."""
        ...

    @property
    def open_key(self) -> bytes:
        """Our X25519 public key."""
        ...

    def sign(self, payload: bytes) -> bytes:
        """Ed25519 signature (64 bytes) of `payload` under our key."""
        ...

    def verify(self, public_key: bytes, payload: bytes, signature: bytes) -> bool:
        """Whether the Ed25519 `signature` of `payload` holds; False, never an exception, for malformed input."""
        ...

    def seal_to(self, open_key: bytes, plaintext: bytes) -> bytes:
        """An anonymous sealed box (X25519, XSalsa20-Poly1305) that only the holder of `open_key` opens."""
        ...

    def open_box(self, box: bytes) -> bytes:
        """What was sealed to our X25519 key; raises `Untrusted` when it was not, or was altered."""
        ...

    def datagram_key(self, gossip_key: bytes, sender: bytes, boot_id: bytes) -> bytes:
        """HKDF-SHA256 subkey of a sender's boot."""
        ...

    def datagram_cipher(self, key: bytes) -> DatagramCipher:
        """The cipher of a subkey. Nothing is remembered here: who made one keeps it, or lets it go."""
        ...

    def encrypt(self, key: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """XChaCha20-Poly1305 with a fresh random nonce, which leads the result."""
        ...

    def decrypt(self, key: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        """The inverse of `encrypt`; raises `Untrusted`."""
        ...

    def split(self, secret: bytes, k: int, n: int) -> list[Share]:
        """Shamir shares of a 32-byte secret, any `k` of which open it."""
        ...

    def combine(self, shares: Sequence[Share]) -> bytes:
        """The secret behind exactly k shares; garbage when one of them is wrong (check the key commitment)."""
        ...
