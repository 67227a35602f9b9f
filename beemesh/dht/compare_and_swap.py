"""The storing side of leases: one replica's vote on who holds a key (DESIGN sections 5 and 6).

A replica counts each TTL from receipt, on its own boot clock. A grant is saved before it is answered; after a restart
it counts for one more TTL. A renewal by the same holder, with the same fence and no longer TTL, changes nothing that a
restart must know, so it is granted without a write, as soon as the disk has the grant that it renews.

Rules of a grant, for a lease L with `version` = `expected_version` + 1:

- nothing newer stands here: `expected_version` ≥ the version that stands (a replica that missed writes catches up);
- nobody else's lease is still running here;
- L carries the same holder and fence as what stands (renewal, release), or a fence above all that were granted here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from beemesh.crypto import Crypto
from beemesh.dht.abstention import TABLE as ROSTERS_TABLE
from beemesh.dht.abstention import KeeperHistory
from beemesh.dht.kset import k_set, kset_hash
from beemesh.effects import Asked, Effects, Erase, Flush, Notify, Now, Received, Reply, Save, TimerFired
from beemesh.errors import Untrusted
from beemesh.events import IntentChanged, MemberDown, MemberLeft, MemberUp, Observed
from beemesh.identity.signing import Signed, decode_body, sign_statement
from beemesh.ids import Digest, NodeId
from beemesh.intents.record import Intent, node_key
from beemesh.membership.roster import Roster
from beemesh.rates import Rates
from beemesh.scheduling.leases import (
    KEY_PREFIXES,
    LEASE_KEY_CHARS_MAX,
    LEASE_TTL_MAX_MS,
    MEMBERSHIPS_PER_ANSWER,
    NUMBER_AHEAD_MS_MAX,
    binds_for_s,
    lease_digest,
    open_lease,
)
from beemesh.scheduling.messages import (
    VERDICT_KIND,
    CasAnswer,
    CompareAndSwap,
    GetLease,
    Lease,
    LeaseAnswer,
    Outcome,
    Verdict,
)
from beemesh.undecodable import decoded_rows

LEASES_MAX = 50_000
"""Keys that one replica remembers, ended ones included (for their fences): ten thousand workloads of five replicas."""

LEASE_BYTES_MAX = 4_096
"""An encoded lease: two long names, a few numbers."""

SWAPS_PER_S = 200.0
SWAPS_BURST = 600.0
"""Per writer: a hundred placements renewed every second, and a machine's worth of claims at once."""

TABLE = "leases"

RecordFor = Callable[[str], tuple[Intent, Signed] | None]

HELD = "held"
"""Conflict: somebody else's lease is running; the verdict's `ttl_ms` says for how long at most."""
STALE_VERSION = "version"
"""Conflict: a newer version stands here; claim again from it."""
STALE_FENCE = "fence"
"""Conflict: this fence, or a higher one, was granted here; claim again above it."""


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    """One row of the table."""

    lease: Signed
    fence_seen: int


@dataclass(slots=True)
class _Standing:
    """What stands at a key."""

    lease: Lease
    signed: Signed
    fence_seen: int
    expires_boot_s: float

    def runs(self, boot_s: float) -> bool:
        """Whether the lease still binds others."""
        return not self.lease.released and boot_s < self.expires_boot_s

    def remaining_ms(self, boot_s: float) -> int:
        return max(0, round((self.expires_boot_s - boot_s) * 1000)) if self.runs(boot_s) else 0


class LeaseReplica:
    """Votes on leases for the keys whose k-set this node belongs to."""

    room = "leases"
    handles: tuple[type, ...] = (CompareAndSwap, GetLease)
    listens: tuple[type, ...] = (IntentChanged, MemberUp, MemberDown, MemberLeft)
    tables: tuple[str, ...] = (TABLE, ROSTERS_TABLE)

    def __init__(
        self,
        self_id: NodeId,
        roster: Roster,
        crypto: Crypto,
        record_for: RecordFor,
        is_alive: Callable[[NodeId], bool],
    ) -> None:
        """`record_for` gives the standing intent of a key: memberships that a claimant may lack; `is_alive` tells
        whether a member counts as alive."""
        self._self_id = self_id
        self._roster = roster
        self._crypto = crypto
        self._record_for = record_for
        self._history = KeeperHistory(self_id, roster, is_alive)
        self._leases: OrderedDict[str, _Standing] = OrderedDict()
        self._rates = Rates(SWAPS_PER_S, SWAPS_BURST)
        self._asked_for: tuple[str, int, tuple[NodeId, ...]] = ("", -1, ())
        """The last key whose k-set was asked for, the roster's version then, and the set."""

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Take back saved grants, each for one more TTL, and the rosters they were given under. Where the disk garbled
        one, nobody knows what was promised: then this replica abstains for as long as a promise may last."""
        if table == ROSTERS_TABLE:
            self._history.restore(rows, now)
            return
        for _, saved in decoded_rows(rows, _Saved):
            try:
                lease = decode_body(saved.lease, Lease) if saved is not None else None
            except Untrusted:
                lease = None
            if saved is None or lease is None:
                self._history.distrust()
                continue
            ends = now.boot_s + binds_for_s(lease.key, lease.ttl_ms)
            self._leases[lease.key] = _Standing(lease, saved.lease, saved.fence_seen, ends)

    def start(self, now: Now) -> Effects:
        """Note since when this replica votes; the roster is looked at when there is something to decide, or it
        changes: the cards that the agent was given come right after the start."""
        self._history.begin(now)
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """Votes, answers and roster changes."""
        match event:
            case Asked(sender=sender, token=token, message=CompareAndSwap() as swap):
                return [*self._history.observe(now), *self._on_swap(sender, token, swap, now)]
            case Received(sender=sender, message=CompareAndSwap() as swap):
                return self._let_go(sender, swap, now)
            case Asked(token=token, message=GetLease(key=key)):
                return [Reply(token, self._look(key, now))]
            case IntentChanged():
                return self._history.observe(now)
            case MemberUp() | MemberDown() | MemberLeft():
                return self._history.look_around(now)
            case TimerFired():
                return []
        return []

    def _look(self, key: str, now: Now) -> LeaseAnswer:
        standing = self._leases.get(key)
        if standing is None:
            return LeaseAnswer(key=key, current=None, fence_seen=0)
        return LeaseAnswer(
            key=key,
            current=standing.signed,
            fence_seen=standing.fence_seen,
            remaining_ms=standing.remaining_ms(now.boot_s),
        )

    def _on_swap(self, sender: NodeId, token: int, swap: CompareAndSwap, now: Now) -> Effects:
        try:
            lease = self._open(sender, swap.lease)
        except Untrusted as error:
            return self._refuse(token, swap.lease, "", error.message, now)
        problem = self._problem(sender, lease, swap, now)
        if problem:
            return self._refuse(token, swap.lease, lease.key, problem, now)
        members = self._members(lease.key)
        if self._self_id not in members or kset_hash(members) != swap.kset_hash:
            verdict = self._verdict(swap.lease, lease.key, "wrong_set", now)
            return [self._answer(token, verdict, None, self._cards(members))]
        standing = self._leases.get(lease.key)
        renewal = standing is not None and _renews(standing, lease)
        if self._history.abstains(lease.key, now) and not renewal:
            verdict = self._verdict(swap.lease, lease.key, "abstain", now, reason="new to the set")
            return [self._answer(token, verdict, standing)]
        conflict = _conflict(standing, lease, swap.expected_version, now.boot_s)
        if standing is not None and conflict:
            left_ms = standing.remaining_ms(now.boot_s)
            verdict = self._verdict(swap.lease, lease.key, "conflict", now, reason=conflict, ttl_ms=left_ms)
            return [self._answer(token, verdict, standing), _counted("conflict")]
        if standing is None and not renewal and not self._room_for_one(now):
            return self._refuse(token, swap.lease, lease.key, "this replica keeps as many leases as it may", now)
        return self._grant(token, swap.lease, lease, standing, now)

    def _grant(self, token: int, signed: Signed, lease: Lease, standing: _Standing | None, now: Now) -> Effects:
        effects: Effects = []
        if len(self._leases) >= LEASES_MAX and lease.key not in self._leases:
            gone, _ = self._leases.popitem(last=False)
            effects.append(Erase(TABLE, gone.encode()))
        fence_seen = max(lease.fence, standing.fence_seen if standing else 0)
        fresh = _Standing(lease, signed, fence_seen, now.boot_s + binds_for_s(lease.key, lease.ttl_ms))
        self._leases[lease.key] = fresh
        self._leases.move_to_end(lease.key)
        if standing is None or not _needs_no_write(standing.lease, lease):
            effects.append(Save(TABLE, lease.key.encode(), msgspec.msgpack.encode(_Saved(signed, fence_seen))))
        else:
            effects.append(Flush(TABLE, lease.key.encode()))
        verdict = self._verdict(signed, lease.key, "granted", now, ttl_ms=lease.ttl_ms)
        return [*effects, self._answer(token, verdict, fresh), _counted("granted")]

    def _let_go(self, sender: NodeId, swap: CompareAndSwap, now: Now) -> Effects:
        """A holder gives up and wants no answer. Not saved: after a restart the lease counts as held once more, and
        ends by itself."""
        try:
            lease = self._open(sender, swap.lease)
        except Untrusted:
            return []
        standing = self._leases.get(lease.key)
        if not lease.released or standing is None or self._problem(sender, lease, swap, now):
            return []
        if _renews(standing, lease) and lease.version > standing.lease.version:
            fence_seen = max(lease.fence, standing.fence_seen)
            self._leases[lease.key] = _Standing(lease, swap.lease, fence_seen, standing.expires_boot_s)
        return []

    def _open(self, sender: NodeId, signed: Signed) -> Lease:
        if len(signed.body) > LEASE_BYTES_MAX:
            raise Untrusted(f"a lease of {len(signed.body)} bytes; at most {LEASE_BYTES_MAX} are kept")
        if signed.signer != sender:
            raise Untrusted("a lease is claimed by its holder itself, and by nobody for it")
        return open_lease(self._crypto, self._roster, signed)

    def _problem(self, sender: NodeId, lease: Lease, swap: CompareAndSwap, now: Now) -> str:
        """Why this writer may not put this lease, whatever stands at the key."""
        if not self._rates.take(sender, now.boot_s):
            return f"more than {SWAPS_PER_S:.0f} claims a second from one node"
        if not lease.key.startswith(KEY_PREFIXES) or len(lease.key) > LEASE_KEY_CHARS_MAX:
            return "not a key that is leased"
        if not 0 < lease.ttl_ms <= LEASE_TTL_MAX_MS:
            return f"a lease of {lease.ttl_ms} ms; 1 to {LEASE_TTL_MAX_MS} ms are granted"
        if lease.version != swap.expected_version + 1 or swap.expected_version < 0 or lease.fence < 1:
            return "the lease's version must be the expected one plus 1, and its fence at least 1"
        if max(lease.version, lease.fence) > now.wall_ms + NUMBER_AHEAD_MS_MAX:
            return "its version or fence is higher than one can have counted to"
        match self._roster.standing(sender, now.wall_ms):
            case "out":
                return "not a member of this mesh"
            case "grace" if not self._renewed_by(sender, lease):
                return "its membership has run out: it keeps what it runs, and claims nothing new"
        return ""

    def _renewed_by(self, sender: NodeId, lease: Lease) -> bool:
        standing = self._leases.get(lease.key)
        return standing is not None and standing.lease.holder == sender and _renews(standing, lease)

    def _room_for_one(self, now: Now) -> bool:
        if len(self._leases) < LEASES_MAX:
            return True
        oldest = next(iter(self._leases.values()))
        return not oldest.runs(now.boot_s)

    def _members(self, key: str) -> tuple[NodeId, ...]:
        """The k-set of a key; a vote asks for it several times."""
        if self._asked_for[:2] != (key, self._roster.version):
            self._asked_for = (key, self._roster.version, k_set(self._roster, key))
        return self._asked_for[2]

    def _cards(self, members: tuple[NodeId, ...]) -> tuple[Signed, ...]:
        cards = [self._roster.member(node_id) for node_id in members[:MEMBERSHIPS_PER_ANSWER]]
        found = [self._record_for(node_key(card.name)) for card in cards if card]
        return tuple(entry[1] for entry in found if entry)

    def _refuse(self, token: int, signed: Signed, key: str, why: str, now: Now) -> Effects:
        verdict = self._verdict(signed, key, "refused", now, reason=why)
        return [self._answer(token, verdict, None), _counted("refused")]

    def _verdict(
        self, signed: Signed, key: str, outcome: Outcome, now: Now, *, reason: str = "", ttl_ms: int = 0
    ) -> Verdict:
        standing = self._leases.get(key)
        return Verdict(
            key=key,
            lease_digest=lease_digest(signed),
            outcome=outcome,
            replica=self._self_id,
            kset_hash=kset_hash(self._members(key)) if key else Digest(b""),
            fence_seen=standing.fence_seen if standing else 0,
            answered_ms=now.wall_ms,
            ttl_ms=ttl_ms,
            reason=reason,
        )

    def _answer(
        self, token: int, verdict: Verdict, standing: _Standing | None, cards: tuple[Signed, ...] = ()
    ) -> Reply:
        signed = sign_statement(self._crypto, VERDICT_KIND, verdict)
        return Reply(token, CasAnswer(signed, standing.signed if standing else None, cards))


def _renews(standing: _Standing, lease: Lease) -> bool:
    """Whether `lease` goes on with what stands: same holder, same fence, not given up."""
    former = standing.lease
    return former.holder == lease.holder and former.fence == lease.fence and not former.released


def _conflict(standing: _Standing | None, lease: Lease, expected_version: int, boot_s: float) -> str:
    """Why `lease` may not follow what stands; empty when it may."""
    if standing is None:
        return ""
    if standing.runs(boot_s) and standing.lease.holder != lease.holder:
        return HELD
    if expected_version < standing.lease.version:
        return STALE_VERSION
    if not _renews(standing, lease) and lease.fence <= standing.fence_seen:
        return STALE_FENCE
    return ""


def _needs_no_write(former: Lease, lease: Lease) -> bool:
    """A renewal that leaves all that a restart must know as it was saved."""
    return (
        former.holder == lease.holder
        and former.fence == lease.fence
        and former.task_id == lease.task_id
        and former.ttl_ms == lease.ttl_ms
        and former.released == lease.released
    )


def _counted(outcome: str) -> Notify:
    return Notify(Observed("beemesh_lease_votes_total", {"outcome": outcome}))
