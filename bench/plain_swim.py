"""Plain SWIM (Das 2002, as memberlist without Lifeguard), made of our own parts: the peer of `bench.false_deaths`.

One accuser, a fixed suspicion time, no local health, no buddy, no stall detection, no ear. When a node's suspicion is
over it says so to all (the "confirm" of the paper, memberlist's "dead"), and all believe it; the accused outbids it, as
any suspicion. A confirmation travels as an accusation issued at time 0: our own protocol has no such message.
"""

from __future__ import annotations

from typing import Any

from beemesh.effects import Effects, Now, Schedule
from beemesh.ids import NodeId
from beemesh.membership.local_health import LocalHealth
from beemesh.membership.members import Members
from beemesh.membership.messages import Claim, Suspect
from beemesh.membership.rows import Member
from beemesh.membership.suspicion import Suspicion
from beemesh.membership.swim import Swim
from beemesh.membership.view import PRESENT


class NoHealth(LocalHealth):
    """A node that never doubts itself."""

    def _shift(self, by: int) -> None:
        pass


class PlainMembers(Members):
    """One accuser, one fixed time; only a higher incarnation ends a suspicion."""

    suspicion_s = 10.0

    def _open_suspicion(self, member: Member, now: Now) -> Suspicion:
        member.suspicion = Suspicion(member.incarnation, now.boot_s, 0, self.suspicion_s, self.suspicion_s)
        self.view.set_status(member.node_id, "suspect")
        return member.suspicion

    def suspicion_due(self, node_id: NodeId, now: Now) -> Effects:
        """The time is over: dead."""
        member = self.get(node_id)
        if member is None or member.suspicion is None or self.view.status(node_id) != "suspect":
            return []
        if now.boot_s < member.suspicion.due_s:
            return [Schedule(("swim", "suspicion", node_id), member.suspicion.due_s)]
        confirmed = self.desk.sign("suspect", Suspect(self.self_id, node_id, member.incarnation, 0))
        self.rumours.add(("suspect", node_id, b""), confirmed)
        return self._judge_dead(member, member.suspicion, now)

    def _take_suspect(self, suspect: Suspect, claim: Claim, relay: NodeId | None, now: Now) -> Effects:
        member = self.get(suspect.accused)
        if suspect.issued_ms or member is None:
            return super()._take_suspect(suspect, claim, relay, now)
        if suspect.incarnation < member.incarnation or self.view.status(suspect.accused) not in PRESENT:
            return []
        self.rumours.add(("suspect", suspect.accused, b""), claim)
        doubt = member.suspicion or self._open_suspicion(member, now)
        doubt.add(suspect.accuser, claim)
        return self._judge_dead(member, doubt, now)

    def _clear_suspicion(self, member: Member) -> Effects:
        self.rumours.drop(("suspect", member.node_id, b""))
        return super()._clear_suspicion(member)

    def hear(self, node_id: NodeId, now: Now) -> Effects:
        """Contact brings back who is not suspected; whoever is must say so itself."""
        member = self.get(node_id)
        if member is not None and self.view.status(node_id) in ("suspect", "dead"):
            member.heard_s = now.boot_s
            return []
        return super().hear(node_id, now)


class PlainSwim(Swim):
    """SWIM without Lifeguard."""

    def _news(self, first: Any = (), to: NodeId | None = None) -> Any:
        return super()._news(first, None)

    def _verify(self, accused: NodeId, now: Now) -> Effects:
        return []

    def _probe_over(self, nonce: bytes, now: Now) -> Effects:
        probe = self._probes.pop(nonce, None)
        member = self.members.get(probe.target) if probe is not None else None
        if probe is None or member is None or not probe.counts or member.incarnation != probe.incarnation:
            return []
        return self.members.accuse(member, now)
