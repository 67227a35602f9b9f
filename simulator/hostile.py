"""A member that turned against its mesh: it accuses, replays, floods, forges and lies, with good keys of its own.

It shares a machine with an honest agent whose keys it has. Whatever it does, no honest node may be held dead for it,
no datagram may count twice, and no word in another's name may be believed.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TypeVar

import msgspec

from beemesh.identity.grants import Revocation
from beemesh.identity.signing import payload_of, sign_statement
from beemesh.ids import BOOT_ID_BYTES, BootId, NodeId
from beemesh.intents.messages import PushIntents
from beemesh.intents.record import SIGNED_KIND, Intent, revoked_key
from beemesh.membership.messages import NONCE_BYTES, Alive, Claim, ClaimKind, Claims, Leave, Ping, Suspect
from beemesh.outward import Ask
from beemesh.wire.datagram import DatagramSealer
from beemesh.wire.registry import encode_message
from simulator.liar import Liar
from simulator.world import MESH, World

T = TypeVar("T")

ACT_EVERY_S = 0.25
HEARD_MAX = 2_000
"""Datagrams that it keeps for later."""
REPLAYS_AT_ONCE = 24
FLOOD_AT_ONCE = 60
"""Four times a second: half of what a member may send, so that its machine's own agent is still heard."""
FORGED_AT_ONCE = 8
NO_REQUEST = -1
"""The number of its own questions: the honest agent beside it knows none of that number."""
AHEAD = 1_000
"""How far beyond an incarnation a forged word goes."""


class Hostile:
    """One hostile member. Begin with `begin`; it goes on until `until_s`."""

    def __init__(self, world: World, index: int, until_s: float, seed: int) -> None:
        self._world = world
        self._index = index
        self._until_s = until_s
        self._chance = random.Random(seed)  # noqa: S311 - a simulation wants chance that repeats
        self._heard: deque[tuple[int, bytes]] = deque(maxlen=HEARD_MAX)
        acts = (
            self._accuse, self._replay, self._flood, self._forge_claims, self._forge_datagrams, self._revoke, self._lie,
        )  # fmt: skip
        self._acts = self._chance.sample(acts, self._chance.randint(1, len(acts)))
        self._liar: Liar | None = None
        machine = world.machines[index]
        self._own_id = machine.membership.node_id
        self._sealer = DatagramSealer(machine.crypto, self._own_id, self._boot_id(), world.ring)

    def begin(self) -> None:
        """Listen to what passes, and act from now on."""
        self._world.taps.append(self._listen)
        self._act()

    def _act(self) -> None:
        if self._world.now_s >= self._until_s:
            self._world.taps.remove(self._listen)
            if self._liar is not None and self._world.liars.get(self._index) is self._liar:
                del self._world.liars[self._index]
            return
        self._chance.choice(self._acts)()
        self._world.at(self._world.now_s + ACT_EVERY_S, self._act)

    def _listen(self, source: int, data: bytes) -> None:
        self._heard.append((source, data))

    # --- what it does ---------------------------------------------------------------------------------------------

    def _accuse(self) -> None:
        """Everybody of being dead, at their right incarnations."""
        claims = [
            self._claim("suspect", Suspect(self._own_id, victim, self._incarnation(victim), self._world.wall_ms))
            for victim in self._victims()
        ]
        self._tell(claims)

    def _replay(self) -> None:
        """What it overheard, newest and older, to anybody, from anywhere."""
        heard = list(self._heard)
        for source, data in [*heard[-REPLAYS_AT_ONCE:], *self._some(heard, REPLAYS_AT_ONCE)]:
            self._world.throw(source, self._anybody(), data)

    def _flood(self) -> None:
        """Good pings of its own, and noise."""
        target = self._anybody()
        for number in range(FLOOD_AT_ONCE):
            data = self._ping(self._sealer) if number % 2 else self._chance.randbytes(self._chance.randint(1, 1_200))
            self._world.throw(self._index, target, data)

    def _forge_claims(self) -> None:
        """Deaths, farewells and new lives in the names of others."""
        claims = []
        for victim in self._some(self._victims(), FORGED_AT_ONCE):
            incarnation, other = self._incarnation(victim), self._chance.choice(self._victims())
            claims += [
                self._claim("suspect", Suspect(other, victim, incarnation, self._world.wall_ms)),
                self._claim("leave", Leave(victim, incarnation + AHEAD)),
                self._claim("alive", Alive(victim, incarnation + AHEAD, self._boot_id(), "10.9.9.9", 1, 0)),
            ]
        self._tell(claims)

    def _forge_datagrams(self) -> None:
        """What it overheard with one byte changed, and pings in the names of others: it knows the gossip key."""
        for source, data in self._some(list(self._heard), FORGED_AT_ONCE):
            place = self._chance.randrange(len(data))
            self._world.throw(source, self._anybody(), data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        crypto = self._world.machines[self._index].crypto
        for victim in self._some(self._victims(), FORGED_AT_ONCE):
            sealer = DatagramSealer(crypto, victim, self._boot_id(), self._world.ring)
            self._world.throw(self._index, self._anybody(), self._ping(sealer))

    def _revoke(self) -> None:
        """The cards of others, as only the mesh CA may."""
        crypto, victim = self._world.machines[self._index].crypto, self._chance.choice(self._victims())
        now_ms, key = self._world.wall_ms, revoked_key("node", victim)
        body = msgspec.msgpack.encode(Revocation(MESH, "node", victim, "forged", now_ms))
        intent = Intent(MESH, "revocation", key, 9, crypto.signer_id, now_ms, body)
        target = self._world.machines[self._anybody()].membership
        push = PushIntents((sign_statement(crypto, SIGNED_KIND, intent),))
        ask = Ask(NO_REQUEST, target.node_id, (target.addresses[0], target.gossip_port), push, ACT_EVERY_S)
        self._world.carry(self._world.machines[self._index], [ask])

    def _lie(self) -> None:
        """In its answers, from now on, as long as it acts."""
        if self._liar is None:
            crypto = self._world.machines[self._index].crypto
            self._liar = Liar(crypto, self._world.ring, self._chance.getrandbits(32))
            self._world.liars.setdefault(self._index, self._liar)

    # --- its means ------------------------------------------------------------------------------------------------

    def _claim(self, kind: ClaimKind, statement: Alive | Leave | Suspect) -> Claim:
        body = msgspec.msgpack.encode(statement)
        return Claim(kind, body, self._world.machines[self._index].crypto.sign(payload_of(kind, body)))

    def _tell(self, claims: list[Claim]) -> None:
        for target in {self._anybody(): None, self._anybody(): None, self._anybody(): None}:
            self._world.say(self._index, target, Claims(tuple(claims)))

    def _ping(self, sealer: DatagramSealer) -> bytes:
        code, body = encode_message(Ping(self._chance.randbytes(NONCE_BYTES)))
        return sealer.seal(code, body, self._world.wall_ms)

    def _some(self, things: list[T], count: int) -> list[T]:
        return self._chance.sample(things, min(count, len(things)))

    def _boot_id(self) -> BootId:
        return BootId(self._chance.randbytes(BOOT_ID_BYTES))

    def _victims(self) -> list[NodeId]:
        return [each.membership.node_id for each in self._world.machines if each.index != self._index]

    def _anybody(self) -> int:
        return self._chance.choice([each.index for each in self._world.machines if each.index != self._index])

    def _incarnation(self, victim: NodeId) -> int:
        """As its own agent knows it."""
        composition = self._world.machines[self._index].composition
        row = composition.swim.members.get(victim) if composition is not None else None
        return row.incarnation if row is not None and row.incarnation else self._world.wall_ms
