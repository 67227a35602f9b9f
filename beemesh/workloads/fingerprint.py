"""The one byte form of a resolved manifest, and the fingerprint by which `apply` knows that nothing changed."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from beemesh.secret import SecretBytes

FINGERPRINT_BYTES = 32
_DOMAIN = b"beemesh/1/fingerprint\0"


def canonical(value: Any) -> bytes:
    """Plain data as JSON that depends on its content alone: keys sorted, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(key: SecretBytes | bytes, manifest: SecretBytes | bytes) -> bytes:
    """HMAC-SHA256 of a canonical resolved manifest under the mesh's fingerprint key, which only operators hold: nobody
    else can try guesses of a Secret against it."""
    secret = key if isinstance(key, bytes) else key.reveal()
    content = manifest if isinstance(manifest, bytes) else manifest.reveal()
    return hmac.new(secret, _DOMAIN + content, hashlib.sha256).digest()
