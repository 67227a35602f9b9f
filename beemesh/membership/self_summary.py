"""What this node says of itself to the whole mesh: a small signed summary, renewed when it changes and now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from beemesh.effects import Effects, Now, Schedule, TimerFired
from beemesh.events import IntentChanged, PodsObserved, ReservationsChanged, ResourcesObserved, RingChanged
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId, digest_of
from beemesh.intents.record import Cordon, Intent, body_of, cordon_key
from beemesh.membership.members import Members
from beemesh.membership.settings import SelfFacts
from beemesh.membership.summaries import Summary, is_news
from beemesh.membership.versions import PROTOCOL_VERSION

LOOK_S = 10.0
"""So often a node looks whether anything changed that is worth telling."""
RENEW_S = 60.0
RENEW_PER_MEMBER_S = 0.6
"""A quiet node renews its summary so often, whichever is longer: then all renewals of a large mesh together cost each
node no more than those of a hundred members."""

SETTLE_S = 0.3
"""Changes that come together are told together."""

_LOOK = ("summary", "look")
_SOON = ("summary", "soon")


class SelfSummary:
    """Writes this node's summary and hands it to gossip."""

    room = "summary"
    handles: tuple[type, ...] = ()
    listens = (ResourcesObserved, ReservationsChanged, PodsObserved, IntentChanged, RingChanged)
    tables: tuple[str, ...] = ()

    def __init__(
        self,
        self_id: NodeId,
        members: Members,
        facts: SelfFacts,
        intent_for: Callable[[str], tuple[Intent, Signed] | None],
    ) -> None:
        self._self_id = self_id
        self._members = members
        self._facts = facts
        self._intent_for = intent_for
        self._resources: ResourcesObserved | None = None
        self._reserved = ReservationsChanged(0, 0, 0)
        self._pods = (0, 0)
        self._soon = False
        self._ring_epoch = 0
        self._written: Summary | None = None
        self._written_s = float("-inf")

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept on disk."""

    def start(self, now: Now) -> Effects:
        """Speak for the first time."""
        self._write(now)
        return [Schedule(_LOOK, now.boot_s + LOOK_S)]

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        match event:
            case TimerFired(key=key):
                self._write(now)
                if key == _SOON:
                    self._soon = False
                    return []
                return [Schedule(_LOOK, now.boot_s + LOOK_S)]
            case ResourcesObserved():
                first = self._resources is None
                self._resources = event
                return self._write_soon(now) if first else []
            case ReservationsChanged():
                self._reserved = event
                return self._write_soon(now)
            case PodsObserved(replicas=replicas):
                pods = (sum(replica.phase == "Running" for replica in replicas), len(replicas))
                changed, self._pods = pods != self._pods, pods
                return self._write_soon(now) if changed else []
            case RingChanged(ring=ring) if ring.active != self._ring_epoch:
                self._ring_epoch = ring.active
                return self._write_soon(now)
            case IntentChanged(intent=intent) if intent.kind == "cordon" or intent.key == f"node/{self._name()}":
                return self._write_soon(now)
        return []

    def _write_soon(self, now: Now) -> Effects:
        if self._soon:
            return []
        self._soon = True
        return [Schedule(_SOON, now.boot_s + SETTLE_S)]

    def _name(self) -> str:
        card = self._members.roster.member(self._self_id)
        return card.name if card else ""

    def _write(self, now: Now) -> None:
        """Sign and spread the summary of this moment, where there is news in it or the last one is old."""
        own = self._members.own
        summary = self._summary(max(own.summary_seq + 1, now.wall_ms), now)
        renew_s = max(RENEW_S, RENEW_PER_MEMBER_S * len(self._members.view.alive()))
        news = is_news(summary, self._written)
        if not news and now.boot_s - self._written_s < renew_s and own.summary_seq == self._written_seq:
            return
        own.summary_seq, self._written, self._written_s = summary.seq, summary, now.boot_s
        own.summary = self._members.desk.sign("summary", summary)
        self._members.view.set_summary(summary)
        self._members.rumours.add(("summary", self._self_id, b""), own.summary, patient=not news)

    @property
    def _written_seq(self) -> int:
        return self._written.seq if self._written is not None else 0

    def _summary(self, seq: int, now: Now) -> Summary:
        own = self._members.own
        seen = self._resources
        card = self._members.roster.member(self._self_id)
        labels = msgspec.msgpack.encode(sorted(card.labels.items())) if card else b""
        return Summary(
            node_id=self._self_id,
            seq=seq,
            taken_ms=now.wall_ms,
            cpu_m_total=seen.cpu_m_total if seen else 0,
            cpu_m_free=max(0, round(seen.cpu_m_total * (1 - seen.cpu_load))) if seen else 0,
            cpu_m_reserved=self._reserved.cpu_m,
            mem_mb_total=seen.mem_mb_total if seen else 0,
            mem_mb_free=seen.mem_mb_free if seen else 0,
            mem_mb_reserved=self._reserved.mem_mb,
            storage_mb_total=seen.storage_mb_total if seen else 0,
            storage_mb_free=seen.storage_mb_free if seen else 0,
            storage_mb_reserved=self._reserved.storage_mb,
            cpu_load=round(seen.cpu_load, 3) if seen else 0.0,
            pods_running=self._pods[0],
            pods_total=self._pods[1],
            cordoned=self._cordoned(),
            engine=self._facts.engine,
            agent_version=self._facts.agent_version,
            labels_digest=digest_of(labels)[:8],
            api_port=self._facts.api_port,
            started_ms=own.started_ms,
            protocol_version=PROTOCOL_VERSION,
            ring_epoch=self._ring_epoch,
            place=self._members.view.coordinates.own.encode(),
        )

    def _cordoned(self) -> bool:
        found = self._intent_for(cordon_key(self._name()))
        cordon = body_of(found[0] if found else None, "cordon", Cordon)
        return cordon is not None and cordon.cordoned
