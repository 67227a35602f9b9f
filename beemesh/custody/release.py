"""The asking side of custody: fetch the ciphertext, gather k shares, open.

Everything is asked at once: the holders nearest first, all custodians that are alive. When no holder that the record
names has the ciphertext, whoever tells the DHT that it keeps it is asked. What is opened is handed on in memory and
forgotten here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from beemesh.crypto import Crypto
from beemesh.custody.custodians import revisions_of
from beemesh.custody.messages import FetchManifest, ManifestAnswer, ReleaseAnswer, ReleaseRequest
from beemesh.custody.sealing import ShareOffer, context_of, good_shares, open_content
from beemesh.effects import Answered, Effects, Notify, Now, Randomness, Request, Schedule, TimerFired
from beemesh.errors import Unavailable, Untrusted
from beemesh.events import FindProviders, ManifestDenied, ManifestOpened, OpenManifest, ProvidersFound
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId, digest_of, short
from beemesh.intents.entitlement import namespace_of
from beemesh.intents.record import Intent
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.scheduling.telling import Teller
from beemesh.workloads.record import Revision

PATIENCE_S = 2.0
"""Of one question; a custodian answers from memory, after one write."""

DEADLINE_S = 5.0
"""Of the whole: a lease's TTL is short, so a requester that cannot open soon makes room for another."""

OPENINGS_MAX = 256

PROVIDERS_MAX = 4
"""Holders found in the DHT that are asked: each answers with the whole ciphertext."""

PERMANENT = frozenset({"withdrawn", "revision_not_kept", "replica_out_of_range", "constraints", "not_entitled"})
"""Refusals that asking again does not change."""


@dataclass(slots=True)
class _Opening:
    wish: OpenManifest
    revision: Revision
    mesh: str
    ciphertext: bytes | None = None
    offers: dict[NodeId, ShareOffer] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    open_questions: int = 0
    permanent: bool = False
    refused: bool = False
    asked: set[NodeId] = field(default_factory=set)
    """Holders that were asked for the ciphertext."""
    searched: bool = False


class Opener:
    """Opens sealed manifests for the executor of this node."""

    room = "opener"
    handles: tuple[type, ...] = ()
    listens = (OpenManifest, ProvidersFound)
    tables: tuple[str, ...] = ()

    def __init__(
        self,
        self_id: NodeId,
        roster: Roster,
        view: View,
        crypto: Crypto,
        randomness: Randomness,
        intent_for: Callable[[str], tuple[Intent, Signed] | None],
        new_request_id: Callable[[], int],
    ) -> None:
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._crypto = crypto
        self._intent_for = intent_for
        self._new_request_id = new_request_id
        self._teller = Teller(self_id, randomness)
        self._openings: dict[str, _Opening] = {}
        self._questions: dict[int, str] = {}

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept on disk: that is the point."""

    def start(self, now: Now) -> Effects:
        """Nothing to do before the first wish."""
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        match event:
            case OpenManifest():
                return self._open(event, now)
            case Answered():
                return self._answered(event, now)
            case ProvidersFound(ref=ref, nodes=nodes):
                opening = self._openings.get(ref)
                return self._ask_others(opening, nodes, now) if opening is not None else []
            case TimerFired(key=(str(), str(), str() as ref)):
                opening = self._openings.get(ref)
                return self._deny(opening, "no answer in time") if opening is not None else []
        return []

    def _open(self, wish: OpenManifest, now: Now) -> Effects:
        found = self._intent_for(wish.key)
        revisions = revisions_of(found[0]) if found is not None else ()
        revision = next((each for each in revisions if each.manifest == wish.manifest), None)
        if revision is None or len(self._openings) >= OPENINGS_MAX:
            reason = "its record was withdrawn or changed" if revision is None else "too many manifests at once"
            return [Notify(ManifestDenied(wish.ref, (reason,), retryable=revision is not None))]
        opening = _Opening(wish, revision, self._roster.mesh)
        self._openings[wish.ref] = opening
        effects: Effects = [Schedule(("opener", "deadline", wish.ref), now.boot_s + DEADLINE_S)]
        for holder in self._reachable(revision.holders):
            opening.asked.add(holder)
            effects.append(self._ask(opening, holder, FetchManifest(revision.manifest)))
        epoch = revision.sealing.epoch
        request = ReleaseRequest(wish.key, wish.manifest, epoch, replica=wish.replica, proof=wish.proof)
        for custodian in self._reachable(ticket.custodian for ticket in revision.sealing.tickets):
            effects.append(self._ask(opening, custodian, request))
        if not opening.open_questions:
            return self._deny(opening, "no holder or custodian is alive")
        return effects

    def _ask_others(self, opening: _Opening, nodes: Iterable[NodeId], now: Now) -> Effects:
        """Ask nodes that said in the DHT that they keep the ciphertext."""
        others = [node_id for node_id in self._reachable(nodes) if node_id not in opening.asked][:PROVIDERS_MAX]
        opening.asked.update(others)
        asked = [self._ask(opening, node_id, FetchManifest(opening.revision.manifest)) for node_id in others]
        return [*asked] if asked else self._try(opening, now)

    def _reachable(self, nodes: Iterable[NodeId]) -> list[NodeId]:
        """Those that are alive, this node first; the others are named as dead."""
        alive = [node_id for node_id in nodes if self._view.is_alive(node_id)]
        return sorted(alive, key=lambda node_id: node_id != self._self_id)

    def _ask(self, opening: _Opening, peer: NodeId, message: msgspec.Struct) -> Request:
        request_id = self._new_request_id()
        self._questions[request_id] = opening.wish.ref
        opening.open_questions += 1
        return Request(request_id, peer, message, PATIENCE_S)

    def _answered(self, event: Answered, now: Now) -> Effects:
        opening = self._openings.get(self._questions.pop(event.request_id, ""))
        if opening is None:
            return []
        opening.open_questions -= 1
        name = self._name(event.peer)
        match event.message:
            case ManifestAnswer(ciphertext=bytes() as ciphertext):
                if digest_of(ciphertext) == opening.revision.manifest:
                    opening.ciphertext = ciphertext
                else:
                    opening.reasons.append(f"{name}: sent another ciphertext than it was asked for")
            case ReleaseAnswer(released=True, index=index, box=box):
                opening.offers[event.peer] = ShareOffer(event.peer, index, box)
            case ReleaseAnswer(reason=reason, detail=detail):
                opening.reasons.append(f"{name}: {reason}{f' ({detail})' if detail else ''}")
                opening.refused = True
                opening.permanent |= reason in PERMANENT
            case ManifestAnswer():
                pass
            case _:
                opening.reasons.append(f"{name}: {event.error or 'no answer'}")
        return self._try(opening, now)

    def _try(self, opening: _Opening, now: Now) -> Effects:
        sealing = opening.revision.sealing
        told: Effects = []
        if opening.ciphertext is not None and len(opening.offers) >= sealing.k:
            shares, bad = good_shares(self._crypto, sealing, opening.offers.values(), self._name)
            told = [self._tell(opening, bad, now)] if bad else []
            if len(shares) >= sealing.k:
                return [*told, *self._finish(opening, shares)]
            for custodian in [peer for peer, offer in opening.offers.items() if offer.index not in shares]:
                del opening.offers[custodian]
            opening.reasons += bad
        if opening.open_questions:
            return told
        if opening.ciphertext is None and not opening.searched and len(opening.offers) >= sealing.k:
            opening.searched = True
            return [Notify(FindProviders(opening.wish.ref, "manifest", opening.revision.manifest.hex()))]
        return [*told, *self._deny(opening, "")]

    def _tell(self, opening: _Opening, bad: list[str], now: Now) -> Notify:
        """Name to all who sent a wrong share, also where enough others opened it."""
        wish = opening.wish
        return self._teller.about(
            "ShareRefused",
            now,
            "; ".join(bad),
            {"manifest": wish.manifest.hex()[:16]},
            workload_id=wish.key.partition("/")[2],
            namespace=namespace_of(wish.key),
            replica=wish.replica,
        )

    def _finish(self, opening: _Opening, shares: Any) -> Effects:
        assert opening.ciphertext is not None, "checked by the caller"
        context = context_of(opening.mesh, opening.wish.key, opening.revision)
        try:
            plaintext = open_content(self._crypto, context, opening.revision, shares, opening.ciphertext)
        except (Untrusted, Unavailable) as error:
            return self._deny(opening, error.message)
        self._drop(opening)
        return [Notify(ManifestOpened(opening.wish.ref, plaintext))]

    def _deny(self, opening: _Opening, reason: str) -> Effects:
        self._drop(opening)
        missing = "no holder gave the ciphertext" if opening.ciphertext is None else ""
        reasons = tuple(filter(None, (*opening.reasons, missing, self._too_few(opening), reason)))
        alone = not opening.refused and not opening.reasons
        return [Notify(ManifestDenied(opening.wish.ref, reasons, retryable=not opening.permanent, alone=alone))]

    def _too_few(self, opening: _Opening) -> str:
        """Which custodians are missing, where that is why it cannot be opened."""
        sealing, found = opening.revision.sealing, len(opening.offers)
        custodians = [ticket.custodian for ticket in sealing.tickets]
        dead = sorted(self._name(node_id) for node_id in custodians if not self._view.is_alive(node_id))
        if found >= sealing.k or not dead:
            return ""
        return f"{found} of the {sealing.k} shares that open it: {', '.join(dead)} not in reach"

    def _drop(self, opening: _Opening) -> None:
        self._openings.pop(opening.wish.ref, None)
        self._questions = {key: ref for key, ref in self._questions.items() if ref != opening.wish.ref}

    def _name(self, node_id: NodeId) -> str:
        member = self._roster.member(node_id)
        return member.name if member else short(node_id)
