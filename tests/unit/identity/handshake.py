"""A TLS 1.3 handshake between two parties in memory, by the standard library's OpenSSL as agents use it."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

from beemesh.identity.certificates import LeafBundle

STEPS_MAX = 20


def context(ca_pem: bytes, leaf: LeafBundle, *, server: bool, strict: bool = False) -> ssl.SSLContext:
    """A context that shows `leaf`, wants a certificate of the other side, and trusts one root."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    if strict:
        made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_verify_locations(cadata=ca_pem.decode())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "leaf.pem"
        path.write_bytes(leaf.private_key_pem.reveal() + leaf.chain_pem)
        made.load_cert_chain(path)
    return made


def shake(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> tuple[bytes, bytes]:
    """(the server's leaf as the client saw it, the client's as the server saw it); raises `ssl.SSLError`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname=host)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    done: set[str] = set()
    for _ in range(STEPS_MAX):
        for name, side in (("client", asking), ("server", answering)):
            try:
                if name not in done:
                    side.do_handshake()
                    done.add(name)
            except ssl.SSLWantReadError:
                continue
        if len(done) == 2:
            break
    answering.write(b"ok")
    assert asking.read(2) == b"ok"
    return asking.getpeercert(binary_form=True) or b"", answering.getpeercert(binary_form=True) or b""
