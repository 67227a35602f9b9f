"""The DHT of the work plane: replicas tell where their services are, and machines have no part in it.

It is the same protocol with another domain, other writers and tables of its own. There is no roster of replicas, so
each knows some, finds the others by lookups, and judges records by the certificates of their writers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from beemesh.crypto import Crypto
from beemesh.dht.directory import Directory
from beemesh.dht.records import WORK_RECORDS, Domain
from beemesh.dht.routing_table import RoutingTable
from beemesh.effects import Randomness
from beemesh.ids import NodeId

SUFFIX = ".work"
"""The domain's name is the mesh's with this: no key of one plane is a key of the other."""

ROOM = "work-directory"


def work_directory(
    mesh: str,
    crypto: Crypto,
    key_of: Callable[[bytes], bytes | None],
    randomness: Randomness,
    met: Iterable[NodeId],
    new_request_id: Callable[[], int],
) -> Directory:
    """The directory of one replica. `crypto` holds the replica's own keys, `key_of` gives the key of each replica whose
    certificate holds (None for everybody else, machines among them), and `met` are replicas to begin with."""
    self_id = NodeId(crypto.signer_id)
    table = RoutingTable(self_id)
    for node_id in met:
        table.seen(node_id)
    return Directory(
        self_id,
        Domain(mesh + SUFFIX, WORK_RECORDS, key_of),
        table,
        crypto,
        randomness,
        new_request_id,
        room=ROOM,
    )
