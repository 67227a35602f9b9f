"""The gossip keys of one node: install, use, remove, without a word from anybody in between.

A rotation is a signed record of the intent map. Each node that learns of it first accepts the new key, sends with it
once the record had time to reach all, and then forgets the old one. Who was away finds its datagrams refused, compares
its map over a stream, which needs no gossip key, and goes the same way. The ring is kept sealed to the node's own key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from beemesh.crypto import Crypto
from beemesh.effects import (
    Answered,
    Asked,
    Effect,
    Effects,
    Notify,
    Now,
    Randomness,
    Reply,
    Request,
    Save,
    Schedule,
    TimerFired,
)
from beemesh.errors import Untrusted
from beemesh.events import CompareWanted, ForeignKeyEpoch, IntentChanged, Observed, RingChanged
from beemesh.identity.key_rotation import RING_KEY, Rotation, opened
from beemesh.identity.membership_card import GossipKey, GossipRing
from beemesh.identity.signing import Signed
from beemesh.ids import NodeId
from beemesh.intents.record import Intent
from beemesh.membership.messages import FetchGossipKey, GossipKeyAnswer
from beemesh.membership.roster import Roster
from beemesh.membership.view import View
from beemesh.undecodable import UNDECODABLE

TABLE = "keyring"
ROW = b"ring"

USE_AFTER_S = 5.0
"""From the signing of a new key's record to sending with it: it reaches a thousand nodes in less. Who learns of it
later was away, and uses it at once: others may not accept any more what it spoke under before."""
USE_AFTER_URGENT_S = 2.0

REMOVE_AFTER_S = 60.0
"""From learning of a new key to refusing the old one: two comparisons of maps, for whom the news missed."""
REMOVE_AFTER_URGENT_S = 10.0

SETTLED_MS = 90_000
"""A rotation signed so long ago (the removal, and how far clocks may differ) is over: who learns of it now was away,
and uses its key at once."""

FETCH_EVERY_S = 1.0
FETCH_PATIENCE_S = 3.0
KEYS_MAX = 4
"""Keys accepted at one time: rotations that overlap, each kept until the newest is in use everywhere."""

COMPARE_EVERY_S = 1.0
"""Datagrams under a key that is not known here make us compare maps with their senders so often, all together: the
sender in the header is not authenticated, so a flood must not become a flood of streams."""

_USE, _REMOVE, _FETCH = ("keyring", "use"), ("keyring", "remove"), ("keyring", "fetch")


class Keyring:
    """The protocol that keeps a node's ring up to date."""

    room = "keyring"
    handles = (FetchGossipKey,)
    listens = (IntentChanged, ForeignKeyEpoch)
    tables = (TABLE,)

    def __init__(
        self,
        self_id: NodeId,
        ring: GossipRing,
        *,
        roster: Roster,
        view: View,
        crypto: Crypto,
        randomness: Randomness,
        intent_for: Callable[[str], tuple[Intent, Signed] | None],
        new_request_id: Callable[[], int],
    ) -> None:
        """`ring` is what bootstrap handed out; a newer one that was saved here takes its place."""
        self.ring = ring
        self._self_id = self_id
        self._roster = roster
        self._view = view
        self._crypto = crypto
        self._randomness = randomness
        self._intent_for = intent_for
        self._new_request_id = new_request_id
        self._wanted: Rotation | None = None
        """The newest rotation, as long as its key is not the only one."""
        self._signed_s = self._learned_s = 0.0
        """When that was, by our boot clock."""
        self._compared_s = float("-inf")

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Take back the ring that was in use; one that does not open (new keys) is left to the record."""
        for key, box in rows:
            try:
                ring = msgspec.msgpack.decode(self._crypto.open_box(box), type=GossipRing)
            except (Untrusted, *UNDECODABLE):
                continue
            if key == ROW and any(known.epoch == ring.active for known in ring.keys):
                self.ring = ring

    def start(self, now: Now) -> Effects:
        """Go on where the last life ended."""
        effects: Effects = [Notify(RingChanged(self.ring))]
        found = self._intent_for(RING_KEY)
        return effects + (self._adopt(found[0], now) if found is not None else [])

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        match event:
            case IntentChanged(intent=intent) if intent.key == RING_KEY:
                return self._adopt(intent, now)
            case ForeignKeyEpoch(node_id=node_id):
                return self._foreign(node_id, now)
            case Asked(sender=sender, token=token, message=FetchGossipKey(epoch=epoch)):
                return [Reply(token, GossipKeyAnswer(epoch, self._box_for(sender, epoch, now)))]
            case Answered(message=GossipKeyAnswer(box=box)) if box:
                return self._take_box(box, now)
            case TimerFired(key=key):
                return self._timer(key, now)
        return []

    # --- install, use, remove -------------------------------------------------------------------------------------

    def _adopt(self, intent: Intent, now: Now) -> Effects:
        try:
            wanted = msgspec.msgpack.decode(intent.body, type=Rotation)
        except UNDECODABLE:
            return []
        if wanted.epoch == self.ring.active and len(self.ring.keys) == 1:
            return []
        age_ms = max(0, now.wall_ms - intent.issued_ms)
        self._wanted, self._learned_s, self._signed_s = wanted, now.boot_s, now.boot_s - age_ms / 1000
        if age_ms > SETTLED_MS:
            self._learned_s = now.boot_s - REMOVE_AFTER_S
        if self._has(wanted.epoch):
            return self._plan()
        own = next((line.box for line in wanted.boxes if line.node_id == self._self_id), b"")
        taken = self._take_box(own, now) if own else []
        return [*taken, *self._fetch(now)]  # nothing to fetch once the key is here; the box may not open

    def _take_box(self, box: bytes, now: Now) -> Effects:
        wanted = self._wanted
        if wanted is None or self._has(wanted.epoch):
            return []
        key = opened(self._crypto, wanted, box)
        if key is None:
            return [Notify(Observed("gossip_keys_refused"))]
        kept = [known for known in self.ring.keys if known.epoch != self.ring.active][-(KEYS_MAX - 2) :]
        keys = (*kept, self._active_key(), key)
        return [*self._change(GossipRing(self.ring.active, keys)), *self._plan()]

    def _plan(self) -> Effects:
        urgent = self._wanted is not None and self._wanted.urgent
        use_s, remove_s = (USE_AFTER_URGENT_S, REMOVE_AFTER_URGENT_S) if urgent else (USE_AFTER_S, REMOVE_AFTER_S)
        return [Schedule(_USE, self._signed_s + use_s), Schedule(_REMOVE, self._learned_s + remove_s)]

    def _timer(self, key: object, now: Now) -> Effects:
        wanted = self._wanted
        if wanted is None:
            return []
        if key == _FETCH:
            return self._fetch(now)
        if not self._has(wanted.epoch):
            return []
        keys = self.ring.keys
        if key == _REMOVE:
            self._wanted = None
            keys = tuple(known for known in keys if known.epoch == wanted.epoch)
        return self._change(GossipRing(wanted.epoch, keys))

    def _change(self, ring: GossipRing) -> Effects:
        if ring == self.ring:
            return []
        self.ring = ring
        box = self._crypto.seal_to(self._crypto.open_key, msgspec.msgpack.encode(ring))
        return [Save(TABLE, ROW, box), Notify(RingChanged(ring))]

    def _has(self, epoch: int) -> bool:
        return any(known.epoch == epoch for known in self.ring.keys)

    def _active_key(self) -> GossipKey:
        return next(known for known in self.ring.keys if known.epoch == self.ring.active)

    # --- fetching and handing out ---------------------------------------------------------------------------------

    def _fetch(self, now: Now) -> Effects:
        wanted = self._wanted
        if wanted is None or self._has(wanted.epoch):
            return []
        present = [node_id for node_id in self._view.alive() if node_id != self._self_id]
        others = present or [card.node_id for card in self._roster.members() if card.node_id != self._self_id]
        effects: Effects = [Schedule(_FETCH, now.boot_s + FETCH_EVERY_S)]
        if others:
            question = FetchGossipKey(wanted.epoch)
            peer = self._randomness.choice(others)
            effects.append(Request(self._new_request_id(), peer, question, FETCH_PATIENCE_S))
        return effects

    def _box_for(self, sender: NodeId, epoch: int, now: Now) -> bytes:
        card = self._roster.member(sender)
        key = next((known.key for known in self.ring.keys if known.epoch == epoch), None)
        if card is None or key is None or self._roster.standing(sender, now.wall_ms) == "out":
            return b""
        return self._crypto.seal_to(card.open_key, key)

    def _foreign(self, node_id: NodeId, now: Now) -> Effects:
        """A member speaks under a key that is not ours: one of us was away. Maps are compared over a stream. Where both
        know of a newer key, there is nothing to wait for. (A forged header may bring that about, too: whoever has not
        heard of the key yet refuses us for a moment.)"""
        if self._roster.member(node_id) is None:
            return []
        wanted, effects = self._wanted, list[Effect]()
        if wanted is not None and self._has(wanted.epoch):
            effects += self._change(GossipRing(wanted.epoch, self.ring.keys))
        if now.boot_s - self._compared_s < COMPARE_EVERY_S:
            return effects
        self._compared_s = now.boot_s
        return [*effects, Notify(CompareWanted(node_id))]
