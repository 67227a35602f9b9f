"""A node as a candidate in a large mesh: a steward asks it alone, it answers, and claims once it is told that it leads.

A candidate hears nothing of the others, and claims nothing unasked: who leads is the steward's to say, who holds is the
lease's. What it could not take it remembers, and offers itself as soon as room appears.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from beemesh.crypto import Crypto
from beemesh.effects import Effects, Now, Send
from beemesh.errors import Untrusted
from beemesh.events import LeaseDenied
from beemesh.identity.signing import Signed
from beemesh.ids import Digest, NodeId
from beemesh.intents.record import workload_key
from beemesh.membership.roster import Roster
from beemesh.rates import Rates
from beemesh.scheduling.auction.auctions import Auctions
from beemesh.scheduling.auction.sampling import by_lot
from beemesh.scheduling.counting import count
from beemesh.scheduling.messages import (
    TASK_DIGEST_KIND,
    Award,
    Bid,
    Offer,
    SignedTaskDigest,
    Task,
    TaskDigest,
    TaskLine,
)
from beemesh.scheduling.score import Score
from beemesh.scheduling.taskbook import Entry
from beemesh.scheduling.tasks import (
    TASK_LIFETIME_MS,
    IntentLookup,
    open_member_statement,
    startable_as_of,
    workload_of,
)

OFFER_S = 5.0
"""An offer without an award binds nobody after this; a later award is judged anew."""

OFFERED_MAX = 2_000
"""Offers that wait for an award."""

LINES_MAX = 500
"""Tasks of digests that this node may still step in for."""

DIGESTS_PER_S, DIGESTS_BURST = 5.0, 20.0
"""Of one steward: a few lots each second."""

NOT_CHOSEN = "another node was chosen"


@dataclass(slots=True)
class _Line:
    """A task known from a digest alone."""

    task: Task
    steward: NodeId
    ends_s: float
    offered: bool = False


class Candidacy:
    """Part of the bidder, in whose room its timers are."""

    def __init__(
        self, self_id: NodeId, roster: Roster, crypto: Crypto, auctions: Auctions, intent_for: IntentLookup
    ) -> None:
        self._self_id = self_id
        self._roster = roster
        self._crypto = crypto
        self._auctions = auctions
        self._intent_for = intent_for
        self._offered: deque[tuple[float, str]] = deque()
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._rates = Rates(DIGESTS_PER_S, DIGESTS_BURST)

    # --- asked ------------------------------------------------------------------------------------------------------

    def asked(self, entry: Entry, now: Now) -> Effects:
        """A steward asks: answer it at once, or as soon as the record is here."""
        self._forget_offers(now)
        self._lines.pop(entry.task.task_id, None)
        self._offered.append((now.boot_s + OFFER_S, entry.task.task_id))
        return self._auctions.consider(entry, now)

    def asked_again(self, entry: Entry, now: Now) -> Effects:
        """The same question again: the answer may have been lost."""
        own = entry.bids.get(self._self_id)
        if entry.caller is None or entry.state not in ("offered", "silent"):
            return []
        return [Send(entry.caller, Offer(entry.task.task_id, own, () if own else entry.reasons))]

    def told_to_claim(self, sender: NodeId, entry: Entry, now: Now) -> Effects:
        """The steward says that this node leads: claim, unless there is no room any more."""
        lapsed = entry.state == "over" and entry.outcome == NOT_CHOSEN
        if entry.caller != sender or not (lapsed or entry.state in ("offered", "silent")):
            return []
        if now.boot_s >= entry.ends_s:
            return []
        entry.state = "offered"
        self._auctions.book.reopen(entry)  # a lapsed one had been closed, and what it claims would be nobody's
        verdict = self._auctions.judge(entry)
        if isinstance(verdict, Score):
            return self._auctions.close(entry, now)
        return self._auctions.refuse(entry, tuple(verdict))

    def denied(self, entry: Entry, denied: LeaseDenied) -> Effects:
        """The lease is not to be had: the steward decides how to go on."""
        assert entry.caller is not None, "only a called task is answered to its steward"
        entry.state = "offered"
        entry.reasons = (f"its claim was denied: {denied.reason}",)
        wait_ms = max(1, round(denied.retry_after_s * 1000))
        return [Send(entry.caller, Offer(entry.task.task_id, None, entry.reasons, wait_ms))]

    def _forget_offers(self, now: Now) -> None:
        while self._offered and (self._offered[0][0] <= now.boot_s or len(self._offered) > OFFERED_MAX):
            entry = self._auctions.book.get(self._offered.popleft()[1])
            if entry is not None and entry.state == "offered":
                entry.state, entry.outcome = "over", NOT_CHOSEN

    # --- digests ----------------------------------------------------------------------------------------------------

    def hear_digest(self, message: SignedTaskDigest, now: Now) -> Effects:
        """Step in for those tasks whose lot falls on this node, if it can take them; remember the others."""
        if self._rates.is_empty(message.digest.signer, now.boot_s):
            return [count("digests_refused", reason="rate")]
        try:
            digest = open_member_statement(
                self._crypto, self._roster, message.digest, TASK_DIGEST_KIND, TaskDigest, now.wall_ms
            )
        except Untrusted:
            return [count("digests_refused", reason="untrusted")]
        if digest.steward != message.digest.signer or abs(digest.issued_ms - now.wall_ms) > TASK_LIFETIME_MS:
            return [count("digests_refused", reason="malformed")]
        self._rates.take(message.digest.signer, now.boot_s)
        effects: Effects = []
        for line in digest.tasks[:LINES_MAX]:
            if by_lot(line.task_id, self._self_id, digest.lot) and self._auctions.book.get(line.task_id) is None:
                effects += self._hear_line(line, digest.steward, now)
        return effects

    def _hear_line(self, line: TaskLine, steward: NodeId, now: Now) -> Effects:
        known = self._lines.get(line.task_id)
        if known is None:
            task = self._task_of(line, now)
            if task is None:
                return []
            known = self._lines[line.task_id] = _Line(task, steward, now.boot_s + TASK_LIFETIME_MS / 1000)
            while len(self._lines) > LINES_MAX:
                self._lines.popitem(last=False)
        return self._step_in(known, now)

    def room_appeared(self, now: Now) -> Effects:
        """Something changed here: offer what this node had no room for."""
        effects: Effects = []
        for line in tuple(self._lines.values()):
            if now.boot_s >= line.ends_s or self._auctions.book.get(line.task.task_id) is not None:
                del self._lines[line.task.task_id]
            elif not line.offered:
                effects += self._step_in(line, now)
        return effects

    def _step_in(self, line: _Line, now: Now) -> Effects:
        verdict = self._auctions.judge_task(line.task, now.wall_ms)
        if not isinstance(verdict, Score):
            return []
        line.offered = True
        bid = self._auctions.bid_of(line.task, verdict, line.ends_s, now)
        return [Send(line.steward, Offer(line.task.task_id, bid)), count("bids_sent")]

    def _task_of(self, line: TaskLine, now: Now) -> Task | None:
        """What a line names, by the operator's record: enough to judge it by. The signed task comes with an award."""
        workload = workload_of(self._intent_for(workload_key(line.workload_id)))
        revision = workload.revision(line.revision) if workload else None
        asks = startable_as_of(workload, line.revision) if workload else None
        if workload is None or revision is None or asks is None:
            return None
        return Task(
            task_id=line.task_id,
            workload_id=line.workload_id,
            namespace=workload.namespace,
            kind=workload.kind,
            revision=line.revision,
            replica=line.replica,
            manifest_ref=revision.manifest,
            record_digest=Digest(b""),
            expires_ms=now.wall_ms + TASK_LIFETIME_MS,
            issued_ms=now.wall_ms,
            nonce=b"",
            reqs=asks.requirements,
            qos=asks.qos,
            constraints=asks.constraints,
            duplicate_tolerant=asks.duplicate_tolerant,
            restart=asks.restart,
            instead_of=0 if revision is workload.current else workload.current.number,
        )

    def stepped_in(self, award: Award, sender: NodeId) -> Signed | None:
        """The signed task in an award for a line of a digest that this node offered itself for."""
        line = self._lines.get(award.task_id)
        return award.task if line is not None and line.steward == sender else None


def with_bid(entry: Entry, bid: Bid | None, node_id: NodeId, reasons: tuple[str, ...]) -> None:
    """Note in the steward's own book what a candidate answered."""
    if bid is not None:
        entry.bids[node_id] = bid
        entry.refusals.pop(node_id, None)
    elif reasons:
        entry.refusals[node_id] = reasons
