"""The serving side of custody: what a keeper stores, and to whom it releases its share.

Each custodian decides alone, from its own roster, intents and view (DESIGN section 7). It saves for whom it decided
before it answers, and tells of every release and refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from beemesh.crypto import Crypto
from beemesh.custody.messages import (
    OPERATOR_READ_KIND,
    SEALED_BYTES_MAX,
    FetchManifest,
    ManifestAnswer,
    OperatorRead,
    ReleaseAnswer,
    ReleaseReason,
    ReleaseRequest,
    Stored,
    StoreManifest,
    StoreShare,
)
from beemesh.custody.proofs import granted_by
from beemesh.custody.sealing import check_share, reseal, ticket_of
from beemesh.dht.kset import k_set, majority
from beemesh.effects import Asked, Effects, Erase, Notify, Now, Randomness, Reply, Save, Schedule, TimerFired
from beemesh.errors import Untrusted
from beemesh.events import EmitEvent, IntentChanged, Observed, PublishRecord, WithdrawRecord
from beemesh.identity.signing import Signed, decode_body, open_statement
from beemesh.ids import Digest, NodeId, digest_of, ulid
from beemesh.intents.entitlement import namespace_of
from beemesh.intents.record import Intent
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.rates import Rates
from beemesh.scheduling.eligibility import placement_refusals
from beemesh.scheduling.leases import lease_key, run_key
from beemesh.scheduling.messages import Event, EventStatus, Lease
from beemesh.scheduling.telling import REASON_CHARS_MAX
from beemesh.undecodable import UNDECODABLE, decoded_rows
from beemesh.workloads.daemons import may_have
from beemesh.workloads.record import Revision, SealedObject, Workload

TABLE_MANIFESTS = "manifests"
TABLE_SHARES = "shares"
TABLE_SERVED = "served"

MANIFESTS_MAX = 20_000
STORED_BYTES_MAX = 2 * 1024 * 1024 * 1024
"""Ciphertexts on one node's disk: tens of thousands of ordinary manifests."""

UNCLAIMED_S = 3_600.0
"""Shares and ciphertexts that no record names are dropped after an hour. Where their record never came, its submission
failed; where another one took its place, a third may still come from beyond a partition, win, and name them again."""
SWEEP_EVERY_S = 600.0

LISTENING_S = 3.0
"""From its start: until then a node may not have been answered by others that are there, and cannot know that it is in
a minority."""

RELEASES_PER_S = 5.0
RELEASES_BURST = 50.0
"""Per requester: a machine that starts all its pods at once, and no more for ever."""

OPERATOR_READ_FRESH_MS = 30_000
NONCES_MAX = 10_000

CheckIntent = Callable[[Signed], Intent]
IntentFor = Callable[[str], tuple[Intent, Signed] | None]


class _Manifest(msgspec.Struct, frozen=True, array_like=True):
    key: str
    ciphertext: bytes


class _Share(msgspec.Struct, frozen=True, array_like=True):
    key: str
    index: int
    box: bytes
    revision: Revision


class _Served(msgspec.Struct, frozen=True, array_like=True):
    fence: int
    node_id: NodeId
    majority_fence: int | None = None
    """The highest that was served to a majority's proof; None in a row of a version that did not tell: `fence`."""

    def floor(self, *, has_majority: bool) -> int:
        """The fence that a proof may not be behind: what a minority let through binds no majority."""
        return self.majority_fence if has_majority and self.majority_fence is not None else self.fence


SERVED_UNREADABLE = _Served(1 << 63, NodeId(b""))
"""In the place of a line that the disk garbled: a fence that no lease has."""


@dataclass(frozen=True, slots=True)
class _Refusal(Exception):
    reason: ReleaseReason
    detail: str = ""


class Custodian:
    """Keeps manifests and shares for others, and releases shares to those who may have them."""

    room = "custody"
    handles = (StoreManifest, StoreShare, FetchManifest, ReleaseRequest)
    listens = (IntentChanged,)
    tables = (TABLE_MANIFESTS, TABLE_SHARES, TABLE_SERVED)

    def __init__(
        self,
        self_id: NodeId,
        roster: Roster,
        view: View,
        crypto: Crypto,
        randomness: Randomness,
        check_intent: CheckIntent,
        intent_for: IntentFor,
    ) -> None:
        """`check_intent` verifies a signed record (raises `Untrusted`), `intent_for` reads the intent map."""
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._crypto = crypto
        self._randomness = randomness
        self._check_intent = check_intent
        self._intent_for = intent_for
        self._manifests: dict[Digest, _Manifest] = {}
        self._shares: dict[Digest, _Share] = {}
        self._served: dict[bytes, _Served] = {}
        self._stored_bytes = 0
        self._unclaimed: dict[Digest, float] = {}
        """What no record names, and since when."""
        self._withdrawn: set[Digest] = set()
        """Those of them that one named before."""
        self._rates = Rates(RELEASES_PER_S, RELEASES_BURST)
        self._nonces: dict[bytes, int] = {}
        self._started_s = 0.0

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Take back what is kept for others. A manifest or share that the disk garbled is lost, and others have one;
        where the line about whom a share was served to is, it is served to nobody any more."""
        if table == TABLE_SERVED:
            self._served |= {key: served or SERVED_UNREADABLE for key, served in decoded_rows(rows, _Served)}
        elif table == TABLE_MANIFESTS:
            manifests = {Digest(key): kept for key, kept in decoded_rows(rows, _Manifest) if kept is not None}
            self._manifests |= manifests
            self._stored_bytes += sum(len(kept.ciphertext) for kept in manifests.values())
            self._unclaimed |= dict.fromkeys(manifests, now.boot_s)
        else:
            shares = {Digest(key): share for key, share in decoded_rows(rows, _Share) if share is not None}
            self._shares |= shares
            self._unclaimed |= dict.fromkeys(shares, now.boot_s)

    def start(self, now: Now) -> Effects:
        """Sweep from time to time; what a record names that was kept on disk too is claimed."""
        self._started_s = now.boot_s
        self._unclaimed = {key: since_s for key, since_s in self._unclaimed.items() if not self._is_named(key)}
        kept = [*(_provides("manifest", key, is_old=True) for key in self._manifests)]
        kept += [_provides("share", key, is_old=True) for key in self._shares]
        return [*kept, Schedule(("custody", "sweep"), now.boot_s + SWEEP_EVERY_S)]

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        match event:
            case Asked(token=token, message=StoreManifest() as store):
                return self._store_manifest(token, store, now)
            case Asked(token=token, message=StoreShare() as store):
                return self._store_share(token, store, now)
            case Asked(token=token, message=FetchManifest(manifest=manifest)):
                kept = self._manifests.get(manifest) if manifest not in self._withdrawn else None
                return [Reply(token, ManifestAnswer(manifest, kept.ciphertext if kept else None))]
            case Asked(sender=sender, token=token, message=ReleaseRequest() as request):
                return self._release(sender, token, request, now)
            case IntentChanged(intent=intent):
                self._mark_unkept(intent, now)
            case TimerFired():
                return self._sweep(now)
        return []

    # --- storing --------------------------------------------------------------------------------------------------

    def _store_manifest(self, token: int, store: StoreManifest, now: Now) -> Effects:
        try:
            intent, revision = self._named(store.record, digest_of(store.ciphertext))
            if self._self_id not in revision.holders:
                raise Untrusted("the record does not name this node as a holder")
            if len(store.ciphertext) > SEALED_BYTES_MAX:
                raise Untrusted("the ciphertext is larger than any may be")
            if revision.manifest not in self._manifests and not self._has_room(len(store.ciphertext)):
                raise Untrusted("this node keeps as many manifests as it may")
        except Untrusted as error:
            return [Reply(token, Stored(False, error.message))]
        if revision.manifest not in self._manifests:
            self._manifests[revision.manifest] = _Manifest(intent.key, store.ciphertext)
            self._stored_bytes += len(store.ciphertext)
        self._await_record(revision.manifest, now)
        saved = msgspec.msgpack.encode(self._manifests[revision.manifest])
        told = _provides("manifest", revision.manifest)
        return [Save(TABLE_MANIFESTS, revision.manifest, saved), Reply(token, Stored(True)), told]

    def _has_room(self, size: int) -> bool:
        return len(self._manifests) < MANIFESTS_MAX and self._stored_bytes + size <= STORED_BYTES_MAX

    def _store_share(self, token: int, store: StoreShare, now: Now) -> Effects:
        try:
            intent, revision = self._named(store.record, store.manifest)
            ticket = ticket_of(revision.sealing, store.index)
            if ticket is None or ticket.custodian != self._self_id:
                raise Untrusted("the record gives this node no share of that index")
            if not check_share(revision.sealing, store.index, self._crypto.open_box(store.box)):
                raise Untrusted("the share is not the one that its ticket names")
        except Untrusted as error:
            return [Reply(token, Stored(False, error.message))]
        share = _Share(intent.key, store.index, store.box, revision)
        self._shares[revision.manifest] = share
        self._await_record(revision.manifest, now)
        saved = msgspec.msgpack.encode(share)
        told = _provides("share", revision.manifest)
        return [Save(TABLE_SHARES, revision.manifest, saved), Reply(token, Stored(True)), told]

    def _await_record(self, manifest: Digest, now: Now) -> None:
        """Somebody submits it: its record comes soon, or stands already."""
        self._withdrawn.discard(manifest)
        if not self._is_named(manifest):
            self._unclaimed[manifest] = now.boot_s

    def _named(self, record: Signed, manifest: Digest) -> tuple[Intent, Revision]:
        """The record, verified, and its revision of that manifest; raises `Untrusted`."""
        intent = self._check_intent(record)
        revision = next((each for each in revisions_of(intent) if each.manifest == manifest), None)
        if revision is None:
            raise Untrusted("the record does not name that manifest")
        return intent, revision

    # --- releasing ------------------------------------------------------------------------------------------------

    def _release(self, sender: NodeId, token: int, request: ReleaseRequest, now: Now) -> Effects:
        effects: Effects = []
        try:
            share = self._share_for(sender, request, now)
            if request.operator_read is not None:
                open_key = self._operator_key(request, now)
            else:
                open_key, effects = self._winner_key(sender, request, now)
            box = reseal(self._crypto, share.revision.sealing, share.index, share.box, open_key)
        except _Refusal as refusal:
            return self._refuse(sender, token, request, refusal, now)
        except Untrusted as error:
            return self._refuse(sender, token, request, _Refusal("bad_proof", error.message), now)
        told = self._told("ShareReleased", sender, request, now, "")
        return [*effects, Reply(token, ReleaseAnswer(True, share.index, box)), told, _counted("released")]

    def _share_for(self, sender: NodeId, request: ReleaseRequest, now: Now) -> _Share:
        """What holds for every release: a rate, a member in good standing, a share, a record that stands."""
        if not self._rates.take(sender, now.boot_s):
            raise _Refusal("rate", f"more than {RELEASES_PER_S:g} a second")
        standing = self._roster.standing(sender, now.wall_ms)
        if standing != "valid":
            raise _Refusal("not_a_member" if standing == "out" else "in_grace")
        found = self._intent_for(request.key)
        if found is None:
            raise _Refusal("unknown_manifest", "its record has not come here yet")
        if found[0].kind == "tombstone":
            raise _Refusal("withdrawn")
        if all(revision.manifest != request.manifest for revision in revisions_of(found[0])):
            raise _Refusal("revision_not_kept")
        share = self._shares.get(request.manifest)
        if share is None or share.key != request.key:
            raise _Refusal("no_share")
        if share.revision.sealing.epoch != request.epoch:
            raise _Refusal("wrong_epoch", f"epoch {share.revision.sealing.epoch} is kept here")
        return share

    def _winner_key(self, sender: NodeId, request: ReleaseRequest, now: Now) -> tuple[bytes, Effects]:
        """The open key of a node that holds the replica's lease, and the note that it was served."""
        found = self._intent_for(request.key)
        if request.proof is None or found is None or found[0].kind != "workload":
            raise _Refusal("no_majority", "no lease was shown")
        workload = msgspec.msgpack.decode(found[0].body, type=Workload)
        lease, has_majority = self._proven(sender, request, workload, now)
        member = self._roster.member(sender)
        if member is None:
            raise _Refusal("not_a_member")
        surge = max(1, workload.strategy.max_surge)
        if not may_have(workload, request.replica, sender, surge=surge):
            raise _Refusal("replica_out_of_range")
        revision = next((each for each in workload.revisions if each.manifest == request.manifest), workload.current)
        asks = workload.as_of(revision.number) or workload
        if unfit := placement_refusals(asks.constraints, member):
            raise _Refusal("constraints", "; ".join(unfit))
        place = _served_key(workload.workload_id, request.manifest, request.replica)
        served = self._order(self._served.get(place), lease, has_majority=has_majority)
        self._served[place] = served
        return member.open_key, [Save(TABLE_SERVED, place, msgspec.msgpack.encode(served))]

    def _order(self, before: _Served | None, lease: Lease, *, has_majority: bool) -> _Served:
        """For whom it is decided now; raises `_Refusal` where somebody else comes before."""
        if before is None:
            return _Served(lease.fence, lease.holder, lease.fence if has_majority else 0)
        floor = before.floor(has_majority=has_majority)
        if lease.fence < floor:
            raise _Refusal("stale_fence", f"fence {floor} was served already")
        if before.node_id != lease.holder:
            # A majority grants a higher fence only once the former lease is over; a minority proves nothing of it.
            overtaken = lease.fence > floor and (has_majority or not self._view.is_alive(before.node_id))
            if not overtaken:
                raise _Refusal("held_by_another")
        return _Served(lease.fence, lease.holder, lease.fence if has_majority else before.floor(has_majority=True))

    def _proven(self, sender: NodeId, request: ReleaseRequest, workload: Workload, now: Now) -> tuple[Lease, bool]:
        assert request.proof is not None, "checked by the caller"
        make_key = lease_key if workload.duplicate_tolerant else run_key
        keys = (make_key(workload.workload_id, request.replica), lease_key(workload.workload_id, request.replica))
        claimed = decode_body(request.proof.lease, Lease).key
        if claimed not in keys:
            raise _Refusal("bad_proof", "the lease is for another replica")
        lease, granted = granted_by(self._crypto, self._roster, request.proof, claimed, now.wall_ms)
        if lease.holder != sender:
            raise _Refusal("bad_proof", "the lease is another node's")
        members = k_set(self._roster, claimed)
        has_majority = len(granted) >= majority(len(members))
        if not has_majority:
            if not workload.duplicate_tolerant:
                raise _Refusal("no_majority", "too few grants")
            self._check_minority(sender, members, granted, now)
        return lease, has_majority

    def _check_minority(
        self, sender: NodeId, members: tuple[NodeId, ...], granted: frozenset[NodeId], now: Now
    ) -> None:
        """Raises `_Refusal` unless these grants are what the requester could get, as this node sees it too."""
        if now.boot_s < self._started_s + LISTENING_S:
            raise _Refusal("no_majority", "too few grants, and this custodian has just started")
        alive = {node_id for node_id in members if self._view.is_alive(node_id)}
        if len(alive) >= majority(len(members)):
            raise _Refusal("no_majority", "too few grants, and this custodian sees a majority")
        if not granted or (granted == {sender} and not alive <= granted):
            raise _Refusal("no_majority", "no other replica granted it, and this custodian sees one")

    def _operator_key(self, request: ReleaseRequest, now: Now) -> bytes:
        """The open key of an operator that may read this back, now and for the first time."""
        assert request.operator_read is not None, "checked by the caller"
        grant = self._roster.grant(request.operator_read.signer)
        if grant is None or now.wall_ms > grant.not_after_ms:
            raise _Refusal("not_entitled", "no such operator, or its grant has expired")
        wish = open_statement(self._crypto, request.operator_read, OPERATOR_READ_KIND, grant.sign_key, OperatorRead)
        if (wish.mesh, wish.key, wish.manifest) != (self._roster.mesh, request.key, request.manifest):
            raise _Refusal("not_entitled", "the wish is about something else")
        if not grant.may_write(namespace_of(request.key)):
            raise _Refusal("not_entitled", f"operator {grant.name} may not read this back")
        if abs(wish.issued_ms - now.wall_ms) > OPERATOR_READ_FRESH_MS or wish.nonce in self._nonces:
            raise _Refusal("stale_request")
        self._nonces = {
            nonce: seen for nonce, seen in self._nonces.items() if now.wall_ms - seen < 2 * OPERATOR_READ_FRESH_MS
        }
        if len(self._nonces) >= NONCES_MAX:
            raise _Refusal("rate")
        self._nonces[wish.nonce] = now.wall_ms
        return grant.open_key

    def _refuse(self, sender: NodeId, token: int, request: ReleaseRequest, refusal: _Refusal, now: Now) -> Effects:
        answer = ReleaseAnswer(False, reason=refusal.reason, detail=refusal.detail)
        why = f"{refusal.reason}: {refusal.detail}" if refusal.detail else refusal.reason
        effects: Effects = [Reply(token, answer), _counted(refusal.reason)]
        # A flood of refusals must not become one of events, nor what somebody made up a name in all journals.
        if refusal.reason != "rate" and self._intent_for(request.key) is not None:
            effects.append(self._told("ShareRefused", sender, request, now, why[:REASON_CHARS_MAX]))
        return effects

    def _told(self, status: EventStatus, sender: NodeId, request: ReleaseRequest, now: Now, reason: str) -> Notify:
        member = self._roster.member(sender)
        reader = self._roster.grant(request.operator_read.signer) if request.operator_read is not None else None
        details = {"requester": member.name if member else "unknown", "manifest": request.manifest[:8].hex()}
        if request.operator_read is not None:
            details["operator"] = reader.name if reader else "unknown"
        event = Event(
            event_id=ulid(now.wall_ms, self._randomness.randbytes(10)),
            node_id=self._self_id,
            status=status,
            issued_ms=now.wall_ms,
            workload_id=request.key.partition("/")[2],
            namespace=namespace_of(request.key),
            replica=request.replica,
            reason=reason,
            details=details,
        )
        return Notify(EmitEvent(event))

    # --- forgetting -----------------------------------------------------------------------------------------------

    def _mark_unkept(self, intent: Intent, now: Now) -> None:
        """A record changed: what it does not name any more is released to nobody, and goes after a while."""
        if intent.kind not in ("workload", "object", "tombstone"):
            return
        kept = {revision.manifest for revision in revisions_of(intent)}
        for manifest in kept:
            self._unclaimed.pop(manifest, None)
            self._withdrawn.discard(manifest)
        ours = [key for key, share in self._shares.items() if share.key == intent.key]
        ours += [key for key, manifest in self._manifests.items() if manifest.key == intent.key]
        for manifest in ours:
            if manifest not in kept and manifest not in self._unclaimed:
                self._unclaimed[manifest] = now.boot_s
                self._withdrawn.add(manifest)

    def _drop(self, manifests: Iterable[Digest]) -> Effects:
        effects: Effects = []
        for manifest in manifests:
            self._unclaimed.pop(manifest, None)
            self._withdrawn.discard(manifest)
            if self._shares.pop(manifest, None) is not None:
                effects += [Erase(TABLE_SHARES, manifest), Notify(WithdrawRecord("share", manifest.hex()))]
            kept = self._manifests.pop(manifest, None)
            if kept is not None:
                self._stored_bytes -= len(kept.ciphertext)
                effects += [Erase(TABLE_MANIFESTS, manifest), Notify(WithdrawRecord("manifest", manifest.hex()))]
            for place in [place for place in self._served if place.endswith(manifest)]:
                del self._served[place]
                effects.append(Erase(TABLE_SERVED, place))
        return effects

    def _sweep(self, now: Now) -> Effects:
        """Forget what no record has claimed for long."""
        old = [manifest for manifest, since_s in self._unclaimed.items() if now.boot_s - since_s > UNCLAIMED_S]
        claimed = {manifest for manifest in old if self._is_named(manifest)}
        for manifest in claimed:
            del self._unclaimed[manifest]
        again = Schedule(("custody", "sweep"), now.boot_s + SWEEP_EVERY_S)
        return [*self._drop(each for each in old if each not in claimed), again]

    def _is_named(self, manifest: Digest) -> bool:
        kept = self._shares.get(manifest) or self._manifests.get(manifest)
        found = self._intent_for(kept.key) if kept is not None else None
        return found is not None and any(revision.manifest == manifest for revision in revisions_of(found[0]))


def revisions_of(intent: Intent) -> tuple[Revision, ...]:
    """The sealed revisions that a record names; none for other kinds and for what does not decode."""
    try:
        if intent.kind == "workload":
            return msgspec.msgpack.decode(intent.body, type=Workload).revisions
        if intent.kind == "object":
            return (msgspec.msgpack.decode(intent.body, type=SealedObject).revision,)
    except UNDECODABLE:
        pass
    return ()


def _served_key(workload_id: str, manifest: Digest, replica: int) -> bytes:
    return f"{workload_id}/{replica}/".encode() + manifest


def _provides(what: Literal["manifest", "share"], manifest: Digest, *, is_old: bool = False) -> Notify:
    return Notify(PublishRecord(what, manifest.hex(), is_old=is_old))


def _counted(outcome: str) -> Notify:
    return Notify(Observed("share_requests", {"outcome": outcome}))
