"""TLS 1.3 for one node: its short certificate, issued by itself, and the check of whoever is on the other side.

X.509 cannot hold a node to its own name (a URI's path cannot be constrained), so after every handshake, on both sides,
the peer's leaf must verify under the signing key in the membership of the node that the leaf names.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - every handshake needs it: not to be loaded when the first one is urgent
import os
import ssl
from collections.abc import Callable

from beemesh.crypto_native import NativeCrypto
from beemesh.errors import Untrusted
from beemesh.identity.certificates import LeafBundle, Peer, issue_leaf, peer_of
from beemesh.membership.roster import Roster

LEAF_LIFETIME_MS = 24 * 3_600_000
"""A day: short enough that a stolen leaf is soon worthless; the issuing certificate lives as long as the membership."""

LEAF_RENEW_MS = 8 * 3_600_000
"""A third of its life: two renewals may fail before anybody notices."""

LOOK_EVERY_S = 1.0
"""The loop's clock stands still while a machine is suspended, and a wall clock may be set at any time: a look reads one
clock, and until then no peer accepts us."""

NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python does not name: between nodes, times are held against the node's own
reading of the clock (`peer_of`), since a machine's clock may start years in the past."""


class TlsIdentity:
    """The node's server and client contexts, with a leaf that is renewed in place."""

    def __init__(
        self,
        *,
        mesh: str,
        name: str,
        crypto: NativeCrypto,
        ca_pem: bytes,
        issuing_pem: bytes,
        roster: Roster,
        wall_ms: Callable[[], int],
    ) -> None:
        self.mesh = mesh
        self.name = name
        self._crypto = crypto
        self._issuing_pem = issuing_pem
        self._roster = roster
        self._wall_ms = wall_ms
        self._issued_ms = 0
        self.streams_server = self._context(ssl.PROTOCOL_TLS_SERVER, ca_pem)
        self.api_server = self._context(ssl.PROTOCOL_TLS_SERVER, ca_pem)
        self.client = self._context(ssl.PROTOCOL_TLS_CLIENT, ca_pem)
        for context in (self.streams_server, self.client):
            context.verify_flags = ssl.VerifyFlags(context.verify_flags | NO_CHECK_TIME)
        self.renew()

    @staticmethod
    def _context(protocol: int, ca_pem: bytes) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
        return context

    def renew(self) -> None:
        """Issue a fresh leaf and use it for handshakes from now on."""
        wall_ms = self._wall_ms()
        bundle = issue_leaf(self._crypto, self.mesh, "node", self.name, self._issuing_pem, wall_ms, LEAF_LIFETIME_MS)
        for context in (self.streams_server, self.api_server, self.client):
            load_leaf(context, bundle)
        self._issued_ms = wall_ms

    @property
    def is_due(self) -> bool:
        """Whether the leaf should be renewed now: it grows old, or the clock was ahead when it was issued, so that for
        others its time is still to come."""
        return not 0 <= self._wall_ms() - self._issued_ms < LEAF_RENEW_MS

    async def stay_valid(self) -> None:
        """Renew the leaf whenever that is due, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self.is_due:
                self.renew()

    def dns_name(self, node_name: str) -> str:
        """The name that a client asks for in the handshake with a node."""
        return f"{node_name}.node.{self.mesh}"

    def peer(self, connection: ssl.SSLObject | None) -> Peer:
        """Who is at the other end of a finished handshake; raises `Untrusted` unless it is who its leaf names."""
        leaf = connection.getpeercert(binary_form=True) if connection is not None else None
        if not leaf:
            raise Untrusted("the peer showed no certificate")
        return peer_of(leaf, self.mesh, self._roster, self._wall_ms())


def load_leaf(context: ssl.SSLContext, bundle: LeafBundle) -> None:
    """Hand a certificate chain and its private key to OpenSSL through memory: the key never has a name on a disk."""
    descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(bundle.private_key_pem.reveal() + bundle.chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
