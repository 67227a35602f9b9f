"""Publish and subscribe: every message reaches every member, at most once each.

Small meshes use plain gossip (`gossip`), large ones a tree over a few links (`plumtree`, `partial_view`). Both share
what was seen, what is kept and what is asked for, and each takes what the other sends: a mesh may grow and shrink, and
its nodes change over one by one, without a message lost or delivered twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec

from beemesh.effects import Effects, Notify, Now, Randomness, Received, Schedule, TimerFired
from beemesh.events import Delivered, MemberDown, MemberLeft, MemberUp, Observed
from beemesh.ids import NodeId
from beemesh.membership.view import View
from beemesh.rates import Rates
from beemesh.topics.away import Away, is_teller
from beemesh.topics.chunks import TOPIC_BYTES_MAX, Assembly, is_chunked, split
from beemesh.topics.gossip import (
    IDS_PER_MENTION_MAX,
    LATE_PAUSES_S,
    MENTION_PAUSES_S,
    MENTION_TO,
    TREE_MENTION_PAUSES_S,
    TREE_MENTION_TO,
    Mentions,
    push_targets,
    some_members,
)
from beemesh.topics.messages import (
    Chunk,
    ChunkWant,
    Disconnect,
    Graft,
    IHave,
    IWant,
    Neighbour,
    Prune,
    Shuffle,
    TopicMessage,
)
from beemesh.topics.outbox import CONTROL, Outbox
from beemesh.topics.partial_view import PartialView
from beemesh.topics.plumtree import Tree
from beemesh.topics.store import KEPT_MESSAGES_MAX, KEPT_S, Kept, Store, message_id
from beemesh.topics.wants import Wants

TREE_ABOVE = 100
TREE_DOWN_TO = 80
"""Members above which a node uses the tree, and below which it stops: far enough apart that a mesh which breathes does
not change over all the time."""

HOPS_MAX = 32
"""Longer than any path in the tree of a mesh of 10,000; whoever is further away asks."""
BODY_BYTES_MAX = 60 * 1024
PIECES_PATIENCE_S = 0.15
"""Pieces that did not come so long after the last one are asked for."""
ANSWER_ONCE_S = 0.05
"""Whoever asks twice within this time asked once, and twice for safety."""
CATCH_UP_S = 3.0
"""Messages of so long are told of over a new link: its other end may have lost its former links meanwhile."""
LOOK_AFTER_LINKS_S = 1.0
TICK_GRID_S = 0.005
"""Timers within so long fire together."""
OVERHEAD_BYTES = 200
"""What header, seal, signature and ids add to a body, in the budget of a peer."""

RELAY_PER_S = 300.0
RELAY_BURST = 1_500.0
"""Messages that one member may hand us: some ten times a busy mesh's rate. What is refused can be had from another."""
WANTED_BYTES_PER_S = 2.0 * 1024 * 1024
WANTED_BYTES_BURST = 8.0 * 1024 * 1024
"""Bytes that one member may ask us for: all that is kept, once."""
LINK_WORDS_PER_S = 5.0
LINK_WORDS_BURST = 40.0
"""Grafts, prunes and requests for links of one member: a storm of them costs us nothing more."""

_TICK = ("topics", "tick")
_LINKS = ("topics", "links")
_OUTBOX = ("topics", "outbox")


class Topics:
    """One node's end of all topics (the dispatcher's `Broadcaster`)."""

    room = "topics"
    handles = (TopicMessage, IHave, IWant, Chunk, ChunkWant, Graft, Prune, Neighbour, Disconnect, Shuffle)
    listens = (MemberUp, MemberDown, MemberLeft)
    tables: tuple[str, ...] = ()

    def __init__(
        self,
        self_id: NodeId,
        view: View,
        randomness: Randomness,
        encode: Callable[[msgspec.Struct], bytes],
        decode: Callable[[bytes], msgspec.Struct | None],
        stored_topics: frozenset[str] = frozenset(),
    ) -> None:
        """`encode` and `decode` are the wire's (type number and body in one); messages of `stored_topics` are kept for
        members that are briefly away."""
        self._self_id = self_id
        self._view = view
        self._randomness = randomness
        self._encode = encode
        self._decode = decode
        self._stored_topics = stored_topics
        self.tree_bounds = (TREE_ABOVE, TREE_DOWN_TO)
        self.store = Store()
        self.wants = Wants()
        self.mentions = Mentions()
        self.links = PartialView(self_id, view, randomness)
        self.tree = Tree()
        self.outbox = Outbox()
        self.assembly = Assembly()
        self.uses_tree = False
        self._away = Away()
        self._relayed = Rates(RELAY_PER_S, RELAY_BURST)
        self._handed_out = Rates(WANTED_BYTES_PER_S, WANTED_BYTES_BURST)
        self._link_words = Rates(LINK_WORDS_PER_S, LINK_WORDS_BURST)
        self._tick_s: float | None = None
        self._outbox_s: float | None = None
        self._counts: dict[tuple[str, str], int] = {}

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Nothing is kept on disk."""

    def start(self, now: Now) -> Effects:
        """Nothing to do before the first message."""
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        effects = self._handle(event, now)
        return effects + self._timers(now)

    def publish(self, topic: str, message: msgspec.Struct, now: Now) -> Effects:
        """Bring `message` to every member, this node included."""
        body = self._encode(message)
        wrapped = TopicMessage(topic, message_id(topic, body), body)
        if wrapped.id in self.store:
            return []
        return [*self._switch(now), *self._accept(self._self_id, wrapped, message, now), *self._timers(now)]

    def _handle(self, event: Any, now: Now) -> Effects:
        match event:
            case Received(sender=sender, message=message):
                self.links.heard(sender, now.boot_s)
                self.tree.heard(sender)
                return self._received(sender, message, now)
            case TimerFired(key=key):
                return self._timer(key, now)
            case MemberUp(node_id=node_id):
                return [*self._switch(now), *self._tell_missed(node_id, now)]
            case MemberDown(node_id=node_id) | MemberLeft(node_id=node_id):
                if isinstance(event, MemberDown):
                    self._away.gone(node_id, now.boot_s)
                self.links.gone(node_id)
                self.outbox.forget(node_id)
                self.wants.forget_member(node_id)
                return [*self._switch(now), *self._follow_links(now)]
        return []

    def _timer(self, key: Any, now: Now) -> Effects:
        match key:
            case ("topics", "tick"):
                self._tick_s = None
                return self._tick(now)
            case ("topics", "outbox"):
                self._outbox_s = None
                return list(self.outbox.due(now.boot_s))
            case ("topics", "links") if self.uses_tree:
                return self._look_after_links(now)
        return []

    def _received(self, sender: NodeId, message: msgspec.Struct, now: Now) -> Effects:
        match message:
            case TopicMessage():
                return self._take(sender, message, now)
            case IHave(ids=ids, known=known):
                self.tree.acknowledged(sender, known[:IDS_PER_MENTION_MAX])
                return self._mentioned(sender, ids[:IDS_PER_MENTION_MAX], now)
            case IWant(ids=ids):
                return self._wanted(sender, ids, now)
            case Chunk():
                return self._take_chunk(sender, message, now)
            case ChunkWant(id=key, indices=indices):
                return self._wanted_chunks(sender, key, indices, now)
        return self._about_links(sender, message, now)

    # --- messages -------------------------------------------------------------------------------------------------

    def _take(self, sender: NodeId, wrapped: TopicMessage, now: Now) -> Effects:
        if wrapped.id in self.store:
            return self._repeated(sender, wrapped, now)
        if not self._relayed.take(sender, now.boot_s):
            return [Notify(Observed("topic_refused", {"reason": "rate"}))]
        sound = (
            len(wrapped.body) <= BODY_BYTES_MAX
            and len(wrapped.topic.encode(errors="replace")) <= TOPIC_BYTES_MAX
            and wrapped.id == message_id(wrapped.topic, wrapped.body)
        )
        message = self._decode(wrapped.body) if sound else None
        if message is None:
            if sound:  # the id names this very content: nobody has a better one
                self.wants.arrived(wrapped.id, sender, now.boot_s)
                self.store.see(wrapped.id)
            return [Notify(Observed("topic_refused", {"reason": "content"}))]
        return self._accept(sender, wrapped, message, now)

    def _repeated(self, sender: NodeId, message: TopicMessage | Chunk, now: Now) -> Effects:
        kept = self.store.get(message.id)
        effects: Effects = [Notify(Observed("topic_repeats"))]
        if kept is None or sender in kept.asked:
            self.tree.told(sender, message.id, now.boot_s)
            return effects
        first = kept.pushed_by if kept.message.straight and message.straight else None
        return effects + self._post(self.tree.repeated(message.id, sender, first, now.boot_s), now)

    def _accept(self, sender: NodeId, wrapped: TopicMessage, message: msgspec.Struct, now: Now) -> Effects:
        holders, asked = self.wants.arrived(wrapped.id, sender, now.boot_s)
        own = sender == self._self_id
        pushed = not own and sender not in asked
        wrapped = msgspec.structs.replace(wrapped, straight=own or (wrapped.straight and self.tree.is_branch(sender)))
        self.assembly.arrived(wrapped.id, {sender, *holders})
        self.store.add(Kept(wrapped, now.boot_s, sender if pushed else None, asked))
        effects: Effects = [Notify(Delivered(wrapped.topic, message, sender))]
        if pushed:
            self.tree.was_pushed(sender)
        elif not own:
            self._count("topic_repairs")
            effects += self._post(self.tree.was_repaired(wrapped.id, sender, holders, now.boot_s), now)
        targets = self._push_targets(wrapped, sender, holders) if wrapped.hops < HOPS_MAX else []
        for peer in targets:
            effects += self._hand(peer, wrapped, now, "push")
        self.tree.took(wrapped.id, sender, holders, targets, now.boot_s)
        if not wrapped.straight and self._on_tree:
            effects += self._tell(now)
        self._mention_later(wrapped, now)
        if wrapped.topic in self._stored_topics:
            self._away.store(wrapped, now.boot_s)
        return effects

    @property
    def _on_tree(self) -> bool:
        """Whether the tree carries messages from here: a node without a link gossips until it has one."""
        return self.uses_tree and bool(self.tree.branches)

    def _push_targets(self, wrapped: TopicMessage, sender: NodeId, holders: Collection[NodeId]) -> list[NodeId]:
        """Whom to push a message to. One that came by a repair has probably passed by here on a branch already: the
        others are only told of it, and ask."""
        eager = [peer for peer in self.tree.eager() if peer != sender and peer not in holders]
        if self._on_tree:
            return eager if wrapped.straight else []
        own = sender == self._self_id
        small = not is_chunked(wrapped)
        gossip = push_targets(self._view, self._randomness, self._self_id, sender, own=own, small=small)
        return list(dict.fromkeys([*gossip, *eager]))

    # --- repair ---------------------------------------------------------------------------------------------------

    def _mentioned(self, sender: NodeId, ids: tuple[bytes, ...], now: Now) -> Effects:
        unknown = []
        for key in ids:
            if key in self.store:
                self.tree.told(sender, key, now.boot_s)
            else:
                unknown.append(key)
        if not unknown:
            return []
        fresh = self.wants.mentioned(sender, unknown, now.boot_s, self.tree.patience_s(sender))
        effects = self._post(self.tree.unpushed(sender), now)
        return effects + self._post([(sender, IWant(tuple(fresh)))], now) if fresh else effects

    def _ask_again(self, now: Now) -> Effects:
        """Ask for what is missing; what was asked for in vain is asked for twice at once, for requests are small."""
        questions, again = self.wants.due(now.boot_s)
        return self._ask(questions, now) + self._ask(again, now)

    def _ask(self, questions: dict[NodeId, list[bytes]], now: Now) -> Effects:
        effects: Effects = []
        for holder, keys in questions.items():
            whole = []
            for key in keys:
                pieces = self.assembly.missing(holder, key)
                if pieces:
                    effects += self._post([(holder, ChunkWant(key, pieces))], now)
                else:
                    whole.append(key)
            for start in range(0, len(whole), IDS_PER_MENTION_MAX):
                effects += self._post([(holder, IWant(tuple(whole[start : start + IDS_PER_MENTION_MAX])))], now)
        return effects

    def _wanted(self, sender: NodeId, ids: tuple[bytes, ...], now: Now) -> Effects:
        effects: Effects = []
        for key in dict.fromkeys(ids[:IDS_PER_MENTION_MAX]):
            kept = self.store.get(key)
            if kept is None or (kept.answered_to == sender and now.boot_s - kept.answered_s < ANSWER_ONCE_S):
                continue
            if not self._handed_out.take(sender, now.boot_s, len(kept.message.body)):
                continue
            kept.answered_to, kept.answered_s = sender, now.boot_s
            effects += self._hand(sender, kept.message, now, "answer")
        return effects

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _take_chunk(self, sender: NodeId, chunk: Chunk, now: Now) -> Effects:
        if chunk.id in self.store:
            return self._repeated(sender, chunk, now) if chunk.index == 0 else []
        if self.wants.is_shunned(sender, now.boot_s):
            return []
        before = self.assembly.missing(sender, chunk.id)
        whole = self.assembly.take(sender, chunk, now.boot_s)
        if whole is not None:
            return self._take(sender, whole, now)
        missing = self.assembly.missing(sender, chunk.id)
        if missing and missing != before:  # one piece again and again must not keep others from being asked
            self.wants.coming(chunk.id, sender, now.boot_s + PIECES_PATIENCE_S)
        return []

    def _wanted_chunks(self, sender: NodeId, key: bytes, indices: tuple[int, ...], now: Now) -> Effects:
        kept = self.store.get(key)
        if kept is None or not is_chunked(kept.message):
            return []
        effects: Effects = []
        for chunk in split(self._onward(sender, kept.message), indices):
            if self._handed_out.take(sender, now.boot_s, len(chunk.data)):
                effects += self._send(sender, chunk, len(chunk.data), now, chunk.topic)
                self._count("topic_sends", "piece")
        return effects

    # --- links ----------------------------------------------------------------------------------------------------

    def _about_links(self, sender: NodeId, message: msgspec.Struct, now: Now) -> Effects:
        if not self._link_words.take(sender, now.boot_s):
            return [Notify(Observed("topic_refused", {"reason": "links"}))]
        match message:
            case Graft():
                return [] if self.tree.grafted(sender) else self._post([(sender, Disconnect())], now)
            case Prune():
                return [] if self.tree.pruned(sender) else self._post([(sender, Disconnect())], now)
        letters = self.links.received(sender, message, now.boot_s, willing=self.uses_tree)
        return self._post(letters, now) + self._follow_links(now)

    def _look_after_links(self, now: Now) -> Effects:
        letters = self.links.tick(now.boot_s, eager=not self.tree.has_eager)
        effects = self._post(letters, now) + self._follow_links(now)
        if self.tree.branches and not self.tree.has_eager:
            chosen = self._randomness.choice(list(self.tree.branches))
            effects += self._post(self.tree.graft(chosen), now)
        pause_s = LOOK_AFTER_LINKS_S * self._randomness.uniform(0.8, 1.2)
        return [*effects, *self._switch(now), Schedule(_LINKS, now.boot_s + pause_s)]

    def _follow_links(self, now: Now) -> Effects:
        """The tree's branches are the partial view's links."""
        effects: Effects = []
        for peer in [known for known in self.tree.branches if known not in self.links.active]:
            effects += self._post(self.tree.remove(peer), now)
        for peer, tie in self.links.active.items():
            if peer not in self.tree.branches:
                recent = self.store.since(now.boot_s - CATCH_UP_S)[:IDS_PER_MENTION_MAX]
                self.tree.add(peer, now.boot_s, eager=tie.eager, recent=recent)
        return effects

    def _switch(self, now: Now) -> Effects:
        """Change between tree and gossip as the mesh grows and shrinks."""
        above, down_to = self.tree_bounds
        alive = len(self._view.alive())
        if self.uses_tree == (alive > above or (self.uses_tree and alive >= down_to)):
            return []
        self.uses_tree = not self.uses_tree
        self._count("topic_switches", "tree" if self.uses_tree else "gossip")
        if self.uses_tree:
            return [Schedule(_LINKS, now.boot_s + self._randomness.uniform(0.0, 0.1))]
        for key in reversed(self.store.since(now.boot_s - CATCH_UP_S)):
            self._mention_later(self.store.kept[key].message, now)  # what the links still owed
        return self._post(self.links.dissolve(), now) + self._follow_links(now)

    # --- time -----------------------------------------------------------------------------------------------------

    def _tick(self, now: Now) -> Effects:
        self.store.expire(now.boot_s)
        effects = self._ask_again(now) + self._tell(now)
        return effects + self._mention(now) + self._observations()

    def _tell(self, now: Now) -> Effects:
        effects = self._post(self.tree.flush(now.boot_s), now)
        for peer in self.tree.silent():
            self._count("topic_links_silent")
            effects += self._post(self.links.drop(peer, now.boot_s), now) + self._follow_links(now)
        return effects

    def _mention(self, now: Now) -> Effects:
        ids = self.mentions.take(now.boot_s)
        to = TREE_MENTION_TO if self._on_tree else MENTION_TO
        chosen = some_members(self._view, self._randomness, to, (self._self_id,)) if ids else []
        return self._post([(peer, IHave(ids)) for peer in chosen], now)

    def _tell_missed(self, member: NodeId, now: Now) -> Effects:
        """Tell a member that is back of what was kept for it. It need not push on what it asks for: others have it."""
        missed = self._away.returned(member, now.boot_s)
        if not missed or not is_teller(self._self_id, member, self._view.alive()):
            return []
        for message in missed:
            self.store.renew(msgspec.structs.replace(message, hops=HOPS_MAX), now.boot_s)
        ids = [message.id for message in missed]
        pages = range(0, len(ids), IDS_PER_MENTION_MAX)
        return self._post([(member, IHave(tuple(ids[at : at + IDS_PER_MENTION_MAX]))) for at in pages], now)

    def _mention_later(self, message: TopicMessage, now: Now) -> None:
        pauses_s = TREE_MENTION_PAUSES_S if self._on_tree else MENTION_PAUSES_S
        late_s = LATE_PAUSES_S if message.topic in self._stored_topics else ()
        self.mentions.add(message.id, pauses_s + late_s, now.boot_s, KEPT_MESSAGES_MAX)

    def _timers(self, now: Now) -> Effects:
        """Set the timers for what is due next, where it is sooner than what is set."""
        effects: Effects = []
        next_s = (self.wants.next_s(), self.tree.next_s(), self.mentions.next_s())
        due = [at_s for at_s in next_s if at_s is not None]
        if not due and self.store.kept:
            due.append(now.boot_s + KEPT_S)
        if due:
            at_s = max(now.boot_s, min(due)) + TICK_GRID_S
            if self._tick_s is None or at_s < self._tick_s - TICK_GRID_S:
                self._tick_s = at_s
                effects.append(Schedule(_TICK, at_s))
        at_s_or_none = self.outbox.next_s(now.boot_s)
        if at_s_or_none is not None and (self._outbox_s is None or at_s_or_none < self._outbox_s):
            self._outbox_s = at_s_or_none
            effects.append(Schedule(_OUTBOX, at_s_or_none))
        return effects

    # --- sending --------------------------------------------------------------------------------------------------

    def _hand(self, peer: NodeId, message: TopicMessage, now: Now, kind: str) -> Effects:
        """Send a message, in pieces where it is too large for a datagram."""
        self._count("topic_sends", kind)
        message = self._onward(peer, message)
        if not is_chunked(message):
            return self._send(peer, message, len(message.body), now, message.topic)
        return [
            effect
            for chunk in split(message)
            for effect in self._send(peer, chunk, len(chunk.data), now, message.topic)
        ]

    def _onward(self, peer: NodeId, message: TopicMessage) -> TopicMessage:
        """A message as the next relay sees it."""
        straight = message.straight and self.tree.is_branch(peer)
        return msgspec.structs.replace(message, hops=min(HOPS_MAX, message.hops + 1), straight=straight)

    def _post(self, letters: Iterable[tuple[NodeId, msgspec.Struct]], now: Now) -> Effects:
        """Send control messages: before all data."""
        effects: Effects = []
        for peer, message in letters:
            ids = len(message.ids) + len(message.known) if isinstance(message, IHave) else 4
            self._count("topic_sends", type(message).__name__.lower())
            effects += self._send(peer, message, 18 * ids, now, CONTROL)
        return effects

    def _send(self, peer: NodeId, message: msgspec.Struct, size: int, now: Now, topic: str) -> Effects:
        dropped = self.outbox.dropped
        sends: Effects = list(self.outbox.send(peer, message, size + OVERHEAD_BYTES, now.boot_s, topic))
        if self.outbox.dropped > dropped:
            self._count("topic_queue_drops", by=self.outbox.dropped - dropped)
        return sends

    def _count(self, metric: str, kind: str = "", by: int = 1) -> None:
        self._counts[metric, kind] = self._counts.get((metric, kind), 0) + by

    def _observations(self) -> Effects:
        """What was counted since the last time, as one effect per counter."""
        for metric, count in (("topic_grafts", self.tree.grafts), ("topic_prunes", self.tree.prunes)):
            if count:
                self._count(metric, by=count)
        self.tree.grafts = self.tree.prunes = 0
        counts, self._counts = self._counts, {}
        return [
            Notify(Observed(metric, {"kind": kind} if kind else {}, float(count)))
            for (metric, kind), count in counts.items()
        ]
