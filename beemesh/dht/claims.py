"""The claiming side of leases: ask the key's k-set, count its signed grants, renew, give up.

An uncontended claim takes one round trip: version and fence are guessed, and a replica that knows better teaches them
by its conflict. The holder counts its time from before it asked, so it never believes in a lease for longer than any
replica does. A replica may lie: alone it can neither deny a lease nor use up the numbers of its key.

A claim for what runs already (`Claim.follows`) keeps to the fence after that one, try after try, as a renewal does. Who
held the key meanwhile has that fence, or a later one, at a replica of every majority; and there it is never granted to
us any more. So whoever is granted it knows that nobody did.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from beemesh.crypto import Crypto
from beemesh.dht.kset import k_set, kset_hash, majority
from beemesh.effects import Answered, Cancel, Effects, Notify, Now, Randomness, Request, Schedule, Send, TimerFired
from beemesh.errors import Untrusted
from beemesh.events import (
    Claim,
    LeaseDenied,
    LeaseGranted,
    LeaseLost,
    PutIntent,
    ReleaseLease,
)
from beemesh.identity.signing import Signed, decode_body, open_statement
from beemesh.ids import NodeId
from beemesh.membership.roster import Roster
from beemesh.scheduling.leases import (
    LEASE_TTL_MAX_MS,
    MEMBERSHIPS_PER_ANSWER,
    NUMBER_AHEAD_MS_MAX,
    PLACEMENT_PREFIX,
    lease_digest,
    sign_lease,
)
from beemesh.scheduling.messages import VERDICT_KIND, CasAnswer, CompareAndSwap, Lease, LeaseProof, Verdict

ROUND_S = 1.0
"""One round of questions: a third of the shortest lease, so that a renewal may fail twice."""

ROUND_OVERDUE_S = 2.0
"""A round is settled with the answers that came by then: each should have come, or failed, within `ROUND_S`, and a slow
disk may hold the questions back a little."""

ROUNDS_MAX = 4
"""Rounds of one claim: the first guesses, the second knows, the others are for races."""

RACE_PAUSE_S = (0.02, 0.12)
RENEW_AGAIN_S = 0.25
ABSTAIN_RETRY_S = 5.0
UNREACHABLE_RETRY_S = 1.0
OWN_RETRY_S = 1.0
HELD_MS_MAX = 2 * LEASE_TTL_MAX_MS
"""No lease keeps others away for longer, whatever a replica says."""

NONCE_BYTES = 8
CLAIMS_MAX = 10_000
KNOWN_MAX = 20_000

Phase = Literal["claiming", "held", "pausing", "denied", "releasing"]
"""`denied`: what some replicas granted is kept for the next try."""


@dataclass(slots=True)
class _Known:
    """What the last answers said stands at a key."""

    version: int = 0
    fence_seen: int = 0


@dataclass(slots=True)
class _Round:
    lease: Lease
    signed: Signed
    members: tuple[NodeId, ...]
    started_s: float
    waiting: set[int] = field(default_factory=set)
    grants: dict[NodeId, Signed] = field(default_factory=dict)
    holder: NodeId | None = None
    held: int = 0
    """Replicas that say so."""
    held_ms: int = 0
    overtaken: int = 0
    """Replicas where another node holds the key by a greater fence."""
    abstained: int = 0
    silent: int = 0
    why: str = ""


@dataclass(slots=True)
class _Claim:
    wish: Claim
    phase: Phase = "claiming"
    fence: int = 0
    rounds: int = 0
    expires_s: float = 0.0
    current: _Round | None = None


class Claims:
    """All leases that this node claims or holds."""

    room = "claims"
    handles: tuple[type, ...] = ()
    listens = (Claim, ReleaseLease)
    tables: tuple[str, ...] = ()

    def __init__(
        self,
        self_id: NodeId,
        roster: Roster,
        crypto: Crypto,
        randomness: Randomness,
        new_request_id: Callable[[], int],
    ) -> None:
        self._self_id = self_id
        self._roster = roster
        self._crypto = crypto
        self._randomness = randomness
        self._new_request_id = new_request_id
        self._claims: dict[str, _Claim] = {}
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._questions: dict[int, str] = {}

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept on disk: a restarted holder claims anew."""

    def start(self, now: Now) -> Effects:
        """Nothing to do before the first claim."""
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        match event:
            case Claim():
                return self._claim(event, now)
            case ReleaseLease(key=key):
                return self._release(key, now)
            case Answered():
                return self._answered(event, now)
            case TimerFired(key=(str(), what, str() as key)):
                claim = self._claims.get(key)
                return self._timer(claim, str(what), now) if claim is not None else []
        return []

    # --- commands -------------------------------------------------------------------------------------------------

    def _claim(self, wish: Claim, now: Now) -> Effects:
        claim = self._claims.get(wish.key)
        if claim is not None and claim.phase == "denied":
            claim.wish, claim.phase, claim.rounds = wish, "claiming", 0
            return self._ask(claim, now)
        if claim is not None and claim.phase != "releasing":
            if wish.key.startswith(PLACEMENT_PREFIX) and wish.task_id != claim.wish.task_id:
                # The older task's pod is still being started here, and the lease says which task it is for.
                why = "this node holds it for another task"
                return [Notify(LeaseDenied(wish.key, why, self._self_id, OWN_RETRY_S))]
            claim.wish = wish
            return []
        if len(self._claims) >= CLAIMS_MAX:
            return [Notify(LeaseDenied(wish.key, "this node holds as many leases as it may"))]
        claim = self._claims[wish.key] = _Claim(wish)
        return self._ask(claim, now)

    def _release(self, key: str, now: Now) -> Effects:
        claim = self._claims.get(key)
        if claim is None or claim.phase == "releasing":
            return []
        if not claim.fence:  # it never left
            return self._forget(claim)
        if key.startswith(PLACEMENT_PREFIX):
            return self._let_go(claim)
        claim.phase = "releasing"
        cancels: Effects = [Cancel(("claims", what, key)) for what in ("renew", "expiry", "again")]
        return [*cancels, *self._ask(claim, now, released=True)]

    def _let_go(self, claim: _Claim) -> Effects:
        """Give a placement up without waiting for answers: where the word is lost, the lease ends in a moment."""
        known = self._known.setdefault(claim.wish.key, _Known())
        version = self._told_version(claim, known)
        lease = self._lease(claim, version + 1, released=True)
        members = k_set(self._roster, claim.wish.key)
        told = CompareAndSwap(sign_lease(self._crypto, lease), version, kset_hash(members))
        known.version, known.fence_seen = version + 1, max(known.fence_seen, claim.fence)
        return [*self._forget(claim), *(Send(member, told) for member in members)]

    def _told_version(self, claim: _Claim, known: _Known) -> int:
        """The highest version that replicas may have granted: that of a round under way, whose answers are not in."""
        return max(known.version, claim.current.lease.version if claim.current is not None else 0)

    # --- rounds ---------------------------------------------------------------------------------------------------

    def _ask(self, claim: _Claim, now: Now, *, released: bool = False) -> Effects:
        wish = claim.wish
        known = self._known.setdefault(wish.key, _Known())
        self._known.move_to_end(wish.key)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        if claim.phase == "claiming":
            claim.fence = max(claim.fence, known.fence_seen + 1, wish.follows + 1)
        if released:
            known.fence_seen = max(known.fence_seen, claim.fence)  # given up: the next claim goes above it
        # A renewal under way may have come first: a release of its version would be late, and nobody asks again.
        version = self._told_version(claim, known) if released else known.version
        lease = self._lease(claim, version + 1, released=released)
        members = k_set(self._roster, wish.key)
        if not members:
            return [*self._forget(claim), Notify(LeaseDenied(wish.key, "no keeper is known yet"))]
        for request_id in claim.current.waiting if claim.current is not None else ():
            self._questions.pop(request_id, None)
        claim.rounds += 1
        current = claim.current = _Round(lease, sign_lease(self._crypto, lease), members, now.boot_s)
        question = CompareAndSwap(current.signed, version, kset_hash(members))
        effects: Effects = [Schedule(("claims", "overdue", wish.key), now.boot_s + ROUND_OVERDUE_S)]
        for member in members:
            request_id = self._new_request_id()
            self._questions[request_id] = wish.key
            current.waiting.add(request_id)
            effects.append(Request(request_id, member, question, ROUND_S))
        return effects

    def _lease(self, claim: _Claim, version: int, *, released: bool) -> Lease:
        wish = claim.wish
        return Lease(
            key=wish.key,
            holder=self._self_id,
            task_id=wish.task_id,
            fence=claim.fence,
            ttl_ms=wish.ttl_ms,
            version=version,
            renew_nonce=self._randomness.randbytes(NONCE_BYTES),
            workload_id=wish.workload_id,
            revision=wish.revision,
            replica=wish.replica,
            released=released,
        )

    def _answered(self, event: Answered, now: Now) -> Effects:
        claim = self._claims.get(self._questions.pop(event.request_id, ""))
        current = claim.current if claim is not None else None
        if claim is None or current is None or event.request_id not in current.waiting:
            return []
        current.waiting.discard(event.request_id)
        effects = self._count(claim, current, event, now)
        if not current.waiting:
            effects.append(Cancel(("claims", "overdue", claim.wish.key)))
        if claim.phase == "releasing":
            return effects if current.waiting else [*effects, *self._forget(claim)]
        if claim.phase == "pausing":
            return effects  # they teach the next round
        if now.boot_s >= current.started_s + claim.wish.ttl_ms / 1000:
            current.why = "its grants arrived after their time"  # this machine slept: somebody else may hold it by now
            return [*effects, *self._failed(claim, current, now, late=True)]
        if len(current.grants) >= majority(len(current.members)):
            return [*effects, *self._granted(claim, current, now, tentative=False)]
        possible = len(current.grants) + len(current.waiting)
        if possible >= majority(len(current.members)):
            return effects
        taught = not _is_held(current) and self._was_stale(current) and self._may_go_on(claim, current)
        if current.waiting and not taught and (claim.wish.tentative_ok or not current.silent):
            return effects  # what the others say tells how to go on, or is all that there will be
        return [*effects, *self._failed(claim, current, now)]

    def _overdue(self, claim: _Claim, now: Now) -> Effects:
        """Nobody waits for ever: who is still silent counts as a replica that failed to answer."""
        effects: Effects = []
        for request_id in sorted(claim.current.waiting) if claim.current is not None else ():
            # The first may settle the round; what follows finds no question then.
            effects += self._answered(Answered(request_id, self._self_id, None, "no answer in time"), now)
        return effects

    def _count(self, claim: _Claim, current: _Round, event: Answered, now: Now) -> Effects:
        answer = event.message
        if not isinstance(answer, CasAnswer):
            current.silent += 1
            current.why = event.error or "no answer"
            return []
        verdict = self._opened(event.peer, answer.verdict)
        if verdict is None or verdict.lease_digest != lease_digest(current.signed):
            current.silent += 1
            current.why = "an answer that does not verify"
            return []
        self._learn(claim, current, answer.current, verdict, now)
        match verdict.outcome:
            case "granted":
                current.grants[event.peer] = answer.verdict
            case "abstain":
                current.abstained += 1
            case "wrong_set":
                current.why = "the replicas know another roster"
                return [Notify(PutIntent(card)) for card in answer.memberships[:MEMBERSHIPS_PER_ANSWER]]
            case "refused":
                current.why = verdict.reason
        return []

    def _opened(self, peer: NodeId, signed: Signed) -> Verdict | None:
        card = self._roster.member(peer)
        try:
            verdict = open_statement(self._crypto, signed, VERDICT_KIND, card.sign_key, Verdict) if card else None
        except Untrusted:
            return None
        return verdict if verdict is not None and verdict.replica == peer else None

    def _learn(self, claim: _Claim, current: _Round, standing: Signed | None, verdict: Verdict, now: Now) -> None:
        known = self._known.setdefault(claim.wish.key, _Known())
        lease = _opened_lease(standing, claim.wish.key)
        # Nobody counted so far; and half of what replicas let pass, whose clocks differ from ours.
        honest_max = now.wall_ms + NUMBER_AHEAD_MS_MAX // 2
        if max(verdict.fence_seen, lease.version if lease is not None else 0) > honest_max:
            return
        # Our own one would look like another's if it grew with each round, or with each try to go on.
        if verdict.outcome != "granted" and not self._goes_on(claim, lease, verdict):
            known.fence_seen = max(known.fence_seen, verdict.fence_seen)
        if lease is None:
            return
        known.version = max(known.version, lease.version)
        over = lease.released or verdict.ttl_ms <= 0
        if verdict.outcome == "conflict" and lease.holder != self._self_id and not over:
            current.holder = NodeId(lease.holder)
            current.held += 1
            current.overtaken += lease.fence > current.lease.fence
            current.held_ms = max(current.held_ms, min(verdict.ttl_ms, HELD_MS_MAX))

    def _goes_on(self, claim: _Claim, lease: Lease | None, verdict: Verdict) -> bool:
        """Whether what stands at a replica is an earlier try of the same claim, by the same fence; or may be, where it
        does not show the lease."""
        tried = claim.wish.follows + 1
        if tried == 1 or verdict.fence_seen != tried:
            return False
        return lease is None or (lease.holder == self._self_id and lease.fence == tried and not lease.released)

    # --- outcomes -------------------------------------------------------------------------------------------------

    def _granted(self, claim: _Claim, current: _Round, now: Now, *, tentative: bool) -> Effects:
        wish, renewed = claim.wish, claim.phase == "held"
        known = self._known[wish.key]
        known.version = max(known.version, current.lease.version)
        known.fence_seen = max(known.fence_seen, current.lease.fence)
        claim.phase = "held"
        claim.rounds = 0
        claim.expires_s = current.started_s + wish.ttl_ms / 1000
        proof = LeaseProof(current.signed, tuple(current.grants.values()), tentative)
        for request_id in current.waiting:
            self._questions.pop(request_id, None)
        claim.current = None
        return [
            Cancel(("claims", "overdue", wish.key)),
            Schedule(("claims", "renew", wish.key), current.started_s + wish.renew_ms / 1000),
            Schedule(("claims", "expiry", wish.key), claim.expires_s),
            Notify(LeaseGranted(wish.key, proof, current.lease.fence, claim.expires_s, renewed=renewed)),
        ]

    def _failed(self, claim: _Claim, current: _Round, now: Now, *, late: bool = False) -> Effects:
        key = claim.wish.key
        if claim.phase == "held":
            if current.overtaken >= majority(len(current.members)):
                # Our clock stood still unnoticed (a hypervisor paused this machine), or theirs forgot us.
                return [*self._forget(claim), Notify(LeaseLost(key, "another node holds it by a greater fence"))]
            return [Schedule(("claims", "renew", key), now.boot_s + RENEW_AGAIN_S)]
        if late:
            return self._deny(claim, current.why, None, UNREACHABLE_RETRY_S, now)
        if self._may_go_on(claim, current) and not _is_held(current):
            claim.phase = "pausing"
            pause_s = 0.0 if claim.rounds == 1 else self._randomness.uniform(*RACE_PAUSE_S)
            return [Schedule(("claims", "again", key), now.boot_s + pause_s)]
        if current.holder is not None:
            return self._deny(claim, "another node holds it", current.holder, current.held_ms / 1000, now)
        if current.silent and claim.wish.tentative_ok and current.grants and not current.abstained:
            return self._granted(claim, current, now, tentative=True)
        if current.abstained:
            return self._deny(claim, "too many replicas abstain at present", None, ABSTAIN_RETRY_S, now)
        why = f"too few replicas answered: {current.why}" if current.silent else current.why or "lost a race"
        return self._deny(claim, why, current.holder, UNREACHABLE_RETRY_S, now)

    def _may_go_on(self, claim: _Claim, current: _Round) -> bool:
        """Whether another round can bring what this one did not: a majority that answers, or what it did not know."""
        if claim.phase != "claiming" or claim.rounds >= ROUNDS_MAX:
            return False
        if len(current.members) - current.silent - current.abstained >= majority(len(current.members)):
            return True
        return claim.wish.tentative_ok and not current.abstained and not current.grants and self._was_stale(current)

    def _was_stale(self, current: _Round) -> bool:
        """Whether the replicas that answered know a later version or fence: the next round can be right."""
        known = self._known[current.lease.key]
        return known.version >= current.lease.version or known.fence_seen >= current.lease.fence

    def _deny(self, claim: _Claim, why: str, holder: NodeId | None, retry_s: float, now: Now) -> Effects:
        """Give up, and take back what some replicas granted meanwhile, or are about to: it would keep others away for a
        lease's lifetime. Or keep it, for what runs already."""
        told = Notify(LeaseDenied(claim.wish.key, why, holder, retry_s))
        if claim.wish.follows and claim.current is not None and not _is_held(claim.current):
            effects = self._forget(claim)
            claim.phase, claim.current = "denied", None
            self._claims[claim.wish.key] = claim
            return [*effects, told]
        if claim.current is not None and (claim.current.grants or claim.current.waiting):
            if claim.wish.key.startswith(PLACEMENT_PREFIX):
                return [told, *self._let_go(claim)]
            claim.phase = "releasing"
            return [told, *self._ask(claim, now, released=True)]
        return [*self._forget(claim), told]

    def _timer(self, claim: _Claim, what: str, now: Now) -> Effects:
        key = claim.wish.key
        if what == "overdue":
            return self._overdue(claim, now)
        if what == "again" and claim.phase == "pausing":
            claim.phase = "claiming"
            return self._ask(claim, now)
        if claim.phase != "held":
            return []
        if what == "renew":
            return self._ask(claim, now) if now.boot_s < claim.expires_s else []
        if what == "expiry" and now.boot_s >= claim.expires_s:
            return [*self._forget(claim), Notify(LeaseLost(key, "it could not be renewed in time"))]
        return []

    def _forget(self, claim: _Claim) -> Effects:
        key = claim.wish.key
        if self._claims.get(key) is claim:
            del self._claims[key]
        for request_id in claim.current.waiting if claim.current is not None else ():
            self._questions.pop(request_id, None)
        return [Cancel(("claims", what, key)) for what in ("renew", "expiry", "again", "overdue")]


def _is_held(current: _Round) -> bool:
    """Whether another node holds the key by the word of two replicas, where a majority is there without one of them:
    one alone may lie."""
    return current.held >= min(2, len(current.members) - majority(len(current.members)) + 1)


def _opened_lease(standing: Signed | None, key: str) -> Lease | None:
    """The lease that a replica says stands at a key."""
    try:
        lease = decode_body(standing, Lease) if standing is not None else None
    except Untrusted:
        return None
    return lease if lease is not None and lease.key == key else None
