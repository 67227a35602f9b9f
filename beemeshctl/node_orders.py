"""What an operator orders about a node's work, as one signed record per node: cordon, drain, moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from beemesh.errors import NotFound
from beemesh.identity.membership_card import Membership
from beemesh.identity.signing import Signed, decode_body
from beemesh.intents.record import Cordon, Intent, cordon_key, sign_intent
from beemesh.membership.roster import Roster
from beemeshctl.client import BEEMESH, Client
from beemeshctl.clock import wall_ms


@dataclass(frozen=True, slots=True)
class Standing:
    """What is ordered about one node now, and the number of its record."""

    cordon: Cordon
    seq: int = 0


class NodeOrders:
    """The orders about all nodes, as the mesh has them, and the way to change them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.roster: Roster
        self.states: dict[bytes, str]
        self.roster, self.states = client.roster()
        self._standing = {key: _read(signed) for key, signed in client.records(kind="cordon").items()}

    def nodes(self, names: Sequence[str]) -> list[Membership]:
        """The members of these names, each once; raises `NotFound` before anything is done when one is unknown."""
        found = []
        for name in dict.fromkeys(names):
            card = self.roster.named(name)
            if card is None:
                raise NotFound(f'nodes "{name}" not found', hint="`beemeshctl get nodes` lists them")
            found.append(card)
        return found

    def of(self, name: str) -> Cordon:
        """What is ordered about a node; nothing where no record stands."""
        return self._standing.get(cordon_key(name), Standing(Cordon(name, False))).cordon

    def put(self, cordon: Cordon) -> None:
        """Sign another order about a node and hand it to the mesh; raises `Conflict` when somebody was faster."""
        key = cordon_key(cordon.node)
        before = self._standing.get(key)
        seq = before.seq + 1 if before else 1
        self.client.post(f"{BEEMESH}/submissions", {"record": self._signed(key, cordon, seq)})
        self._standing[key] = Standing(cordon, seq)

    def _signed(self, key: str, cordon: Cordon, seq: int) -> Signed:
        return sign_intent(self.client.operator, self.client.mesh, "cordon", key, cordon, seq, wall_ms())


def _read(signed: Signed) -> Standing:
    intent = decode_body(signed, Intent)
    return Standing(msgspec.msgpack.decode(intent.body, type=Cordon), intent.seq)
