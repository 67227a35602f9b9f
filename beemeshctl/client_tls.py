"""The operator's end of TLS: a leaf of an hour from our own issuing key, and a look at who answered."""

from __future__ import annotations

import os
import socket
import ssl
from typing import TYPE_CHECKING, Any

import msgspec

from beemesh.errors import BeemeshError, Untrusted
from beemesh.identity import certificates
from beemesh.identity.signing import Signed
from beemesh.membership.roster import Roster
from beemesh.undecodable import UNDECODABLE
from beemeshctl.clock import wall_ms

if TYPE_CHECKING:
    import urllib3

    from beemesh.crypto_native import NativeCrypto
    from beemeshctl.context import AgentEntry, Home

LEAF_LIFETIME_MS = 3_600_000
"""An hour: the certificate of one command, or of one long watch's beginning."""

CONNECTIONS_MAX = 16
"""Requests at a time to one agent: as many as `doctor` asks at once."""

KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
"""A log or watch may be silent for hours, and yet a machine that fell off the net is noticed within half a minute."""


def operator_context(home: Home, mesh: str, operator_name: str, operator: NativeCrypto) -> ssl.SSLContext:
    """A TLS 1.3 context that trusts the mesh CA alone and shows a fresh leaf, whose key never has a name on a disk."""
    issuing = home.operator_pem()
    now_ms = wall_ms()
    leaf = certificates.issue_leaf(operator, mesh, "operator", operator_name, issuing, now_ms, LEAF_LIFETIME_MS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=home.ca_pem().decode("ascii"))
    descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, leaf.private_key_pem.reveal() + leaf.chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


def known_roster(home: Home, mesh: str, operator: NativeCrypto) -> Roster:
    """The cards that bootstrap left in our folder, verified; one that is damaged is as good as none."""
    from beemesh.intents.entitlement import verify_intent

    roster = Roster(mesh, certificates.ca_public_key(home.ca_pem()))
    for path in sorted((home.path / "nodes").glob("*/membership.card")):
        try:
            signed = msgspec.msgpack.decode(path.read_bytes(), type=Signed)
            roster.apply(verify_intent(operator, roster, signed))
        except (OSError, BeemeshError, *UNDECODABLE):
            continue
    return roster


def check_peer(leaf_der: bytes, mesh: str, node: str, roster: Roster) -> None:
    """Raise `Untrusted` unless the leaf was issued by the node we called, where we know its card."""
    if roster.named(node) is None:
        return  # TLS has checked the name against the CA's constraint; there is nothing more to compare with
    peer = certificates.peer_of(leaf_der, mesh, roster, wall_ms())
    if (peer.kind, peer.name) != ("node", node):
        raise Untrusted(f"{peer.kind} {peer.name} answered in the place of node {node}")


def agent_pool(agent: AgentEntry, mesh: str, context: ssl.SSLContext, roster: Roster) -> urllib3.HTTPSConnectionPool:
    """Connections to one agent; each checks after its handshake who answered."""
    import urllib3

    class CheckedConnection(urllib3.connection.HTTPSConnection):
        """A connection that looks at the peer's leaf before the first request."""

        def connect(self) -> None:
            super().connect()
            sock: Any = self.sock
            try:
                check_peer(sock.getpeercert(binary_form=True) or b"", mesh, agent.name, roster)
            except Untrusted:
                self.close()
                raise

    class CheckedPool(urllib3.HTTPSConnectionPool):
        """A pool of such connections."""

        ConnectionCls = CheckedConnection

    name = certificates.dns_name(mesh, "node", agent.name)
    return CheckedPool(
        agent.address,
        agent.api_port,
        ssl_context=context,
        server_hostname=name,
        assert_hostname=name,
        maxsize=CONNECTIONS_MAX,
        socket_options=[*KEEPALIVE],
    )
