"""A few symmetric links between members, random and connected (HyParView, Leitao, Pereira and Rodrigues 2007).

Each node keeps some five active links, and knows some thirty others that may replace one. Where the node knows the
whole mesh, these are members at random; where it knows only a part, random walks bring it more. Every node chooses at
least some of its links itself, so that nobody can surround it by asking.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from beemesh.effects import Randomness
from beemesh.ids import NODE_ID_BYTES, NodeId
from beemesh.membership.view import View
from beemesh.topics.messages import Disconnect, Neighbour, Shuffle

ACTIVE_WANTED = 5
"""Links that a node looks for (HyParView's active view for some ten thousand nodes)."""
ACTIVE_MAX = 7
"""Links that it grants up to, so that a newcomer finds somebody with room."""
GRANTED_MAX = 4
"""Of these, links that others asked for: the rest this node chose itself, and no flood of requests can take it."""
PASSIVE_MAX = 30

ASK_PATIENCE_S = 0.5
"""A request for a link that is not answered by then is given up."""
KEEP_EVERY_S = 10.0
"""So often both ends tell each other that they still have the link."""
KEEP_FIRST_S = 1.0
"""Whoever granted a link says so again after this: the grant itself may be lost."""
SILENT_S = 35.0
"""A link over which nothing came for so long is gone: three of these words were lost, or were never said."""
SHUFFLE_EVERY_S = 60.0
SHUFFLE_EARLY_S = 2.0
"""While a node knows fewer than it could replace its links with."""
SHUFFLE_TTL = 3
SHUFFLE_NODES = 8
"""Nodes in one shuffle: the sender, three links of its own and four others."""
SHUFFLES_OPEN_MAX = 4
LINK_REFUSED_S = 5.0
"""Whoever refused a link is not asked again before."""
ASKED_RECENTLY_MAX = 256

Letter = tuple[NodeId, msgspec.Struct]


@dataclass(slots=True)
class Tie:
    """One active link."""

    since_s: float
    heard_s: float
    kept_s: float
    own: bool
    """This node asked for it."""
    eager: bool
    """It was made for a node that had no branch of the tree yet."""


class PartialView:
    """The links of one node. Methods return letters to send; whoever calls looks at `active` afterwards."""

    def __init__(self, self_id: NodeId, view: View, randomness: Randomness) -> None:
        self.active: dict[NodeId, Tie] = {}
        self._self_id = self_id
        self._view = view
        self._randomness = randomness
        self._passive: list[NodeId] = []
        self._asked: dict[NodeId, float] = {}
        self._refused: OrderedDict[NodeId, float] = OrderedDict()
        self._shuffle_s = 0.0
        self._shuffles_open = 0

    # --- what happens ---------------------------------------------------------------------------------------------

    def tick(self, now_s: float, *, eager: bool) -> list[Letter]:
        """Look after the links, about once a second; `eager` when the node has no branch of the tree."""
        letters: list[Letter] = []
        for peer, tie in list(self.active.items()):
            if self._view.status(peer) in ("dead", "left") or now_s - tie.heard_s > SILENT_S:
                del self.active[peer]
                letters.append((peer, Disconnect()))
            elif now_s - tie.kept_s >= KEEP_EVERY_S:
                tie.kept_s = now_s
                letters.append((peer, Neighbour("keep")))
        self._asked = {peer: until_s for peer, until_s in self._asked.items() if until_s > now_s}
        return letters + self._look_for_links(now_s, eager) + self._shuffle(now_s)

    def received(self, sender: NodeId, message: msgspec.Struct, now_s: float, *, willing: bool) -> list[Letter]:
        """A word about links; `willing` when this node wants any."""
        match message:
            case Neighbour(want="yes", eager=eager):
                return self._granted(sender, now_s, eager)
            case Neighbour(want="keep"):
                return self._kept(sender, now_s, willing=willing)
            case Neighbour(want=want, eager=eager):
                return self._requested(sender, now_s, urgent=want == "urgent", eager=eager, willing=willing)
            case Disconnect():
                self.active.pop(sender, None)
                if self._asked.pop(sender, None) is not None:
                    self._note_refusal(sender, now_s)
                return []
            case Shuffle():
                return self._shuffled(sender, message)
        return []

    def heard(self, sender: NodeId, now_s: float) -> None:
        """Anything came from `sender`."""
        tie = self.active.get(sender)
        if tie is not None:
            tie.heard_s = now_s

    def drop(self, peer: NodeId, now_s: float) -> list[Letter]:
        """Give up one link: nothing comes over it, and for some time none is asked for."""
        if self.active.pop(peer, None) is None:
            return []
        self._note_refusal(peer, now_s)
        return [(peer, Disconnect())]

    def gone(self, peer: NodeId) -> None:
        """A member is dead, or has left."""
        self.active.pop(peer, None)
        self._asked.pop(peer, None)
        if peer in self._passive:
            self._passive.remove(peer)

    def dissolve(self) -> list[Letter]:
        """Give up all links."""
        letters: list[Letter] = [(peer, Disconnect()) for peer in self.active]
        self.active.clear()
        self._asked.clear()
        return letters

    # --- links ----------------------------------------------------------------------------------------------------

    def _look_for_links(self, now_s: float, eager: bool) -> list[Letter]:
        wanted = ACTIVE_WANTED - len(self.active) - len(self._asked)
        letters: list[Letter] = []
        for peer in self._candidates(max(0, wanted), now_s):
            self._asked[peer] = now_s + ASK_PATIENCE_S
            letters.append((peer, Neighbour("link" if self.active else "urgent", eager and not letters)))
        return letters

    def _candidates(self, count: int, now_s: float) -> list[NodeId]:
        """Members to ask for a link: at random from all that live here, and from what walks brought."""
        if not count:
            return []
        alive = self._view.alive()
        drawn = self._randomness.sample(alive, min(len(alive), 3 * count + ACTIVE_MAX))
        if len(alive) <= PASSIVE_MAX:  # the view is small: walks may know more
            drawn += [peer for peer in self._passive if peer not in drawn]
            self._randomness.shuffle(drawn)
        fit = [peer for peer in drawn if self._may_ask(peer, now_s)]
        return fit[:count]

    def _may_ask(self, peer: NodeId, now_s: float) -> bool:
        return (
            peer != self._self_id
            and peer not in self.active
            and peer not in self._asked
            and self._refused.get(peer, 0.0) <= now_s
            and self._is_possible(peer)
        )

    def _is_possible(self, peer: NodeId) -> bool:
        return self._view.status(peer) not in ("dead", "left") and self._view.address(peer) is not None

    def _requested(self, sender: NodeId, now_s: float, *, urgent: bool, eager: bool, willing: bool) -> list[Letter]:
        tie = self.active.get(sender)
        if tie is not None:
            tie.heard_s, tie.eager = now_s, tie.eager or eager
            return [(sender, Neighbour("yes", eager))]
        granted = [peer for peer, each in self.active.items() if not each.own]
        full = self._is_full()
        if not willing or (full and not (urgent and granted)):
            return [(sender, Disconnect())]
        letters: list[Letter] = []
        if full:
            evicted = self._randomness.choice(granted)
            del self.active[evicted]
            letters.append((evicted, Disconnect()))
        own = self._asked.pop(sender, None) is not None  # both asked at once
        soon_s = now_s - KEEP_EVERY_S + KEEP_FIRST_S
        self.active[sender] = Tie(now_s, now_s, soon_s, own, eager)
        return [*letters, (sender, Neighbour("yes", eager))]

    def _granted(self, sender: NodeId, now_s: float, eager: bool) -> list[Letter]:
        tie = self.active.get(sender)
        if tie is not None:
            tie.heard_s = now_s
            return []
        if self._asked.pop(sender, None) is None or len(self.active) >= ACTIVE_MAX:
            return [(sender, Disconnect())]
        self.active[sender] = Tie(now_s, now_s, now_s, True, eager)
        return []

    def _kept(self, sender: NodeId, now_s: float, *, willing: bool) -> list[Letter]:
        """`sender` thinks that there is a link: our grant or our farewell was lost. If there is room, there is one."""
        if sender in self.active:
            return []
        if not willing or self._is_full():
            return [(sender, Disconnect())]
        own = self._asked.pop(sender, None) is not None
        self.active[sender] = Tie(now_s, now_s, now_s, own, False)
        return []

    def _is_full(self) -> bool:
        granted = sum(1 for tie in self.active.values() if not tie.own)
        return len(self.active) >= ACTIVE_MAX or granted >= GRANTED_MAX

    def _note_refusal(self, peer: NodeId, now_s: float) -> None:
        self._refused.pop(peer, None)
        self._refused[peer] = now_s + LINK_REFUSED_S
        while len(self._refused) > ASKED_RECENTLY_MAX:
            self._refused.popitem(last=False)

    # --- shuffles -------------------------------------------------------------------------------------------------

    def passive(self) -> tuple[NodeId, ...]:
        """Members that walks brought."""
        return tuple(self._passive)

    def _shuffle(self, now_s: float) -> list[Letter]:
        if now_s < self._shuffle_s or not self.active:
            return []
        few = len(self._passive) < PASSIVE_MAX and len(self._view.alive()) <= PASSIVE_MAX
        pause_s = SHUFFLE_EARLY_S if few else SHUFFLE_EVERY_S
        self._shuffle_s = now_s + pause_s * self._randomness.uniform(0.8, 1.2)
        self._shuffles_open = min(SHUFFLES_OPEN_MAX, self._shuffles_open + 1)
        peer = self._randomness.choice(list(self.active))
        return [(peer, Shuffle(self._self_id, self._sample(), SHUFFLE_TTL))]

    def _sample(self) -> tuple[NodeId, ...]:
        """This node, some of its links and some that it knows of."""
        links = list(self.active)
        known = self._passive or list(self._randomness.sample(self._view.alive(), min(8, len(self._view.alive()))))
        chosen = self._randomness.sample(links, min(3, len(links)))
        chosen += self._randomness.sample(known, min(4, len(known)))
        return tuple(dict.fromkeys([self._self_id, *chosen]))[:SHUFFLE_NODES]

    def _shuffled(self, sender: NodeId, shuffle: Shuffle) -> list[Letter]:
        if len(shuffle.origin) != NODE_ID_BYTES or shuffle.origin == self._self_id:
            return []
        if shuffle.answer:
            if self._shuffles_open:
                self._shuffles_open -= 1
                self._learn(shuffle.nodes)
            return []
        if sender not in self.active:
            return []
        others = [peer for peer in self.active if peer not in (sender, shuffle.origin)]
        if shuffle.ttl > 0 and others:
            ttl = min(shuffle.ttl, SHUFFLE_TTL) - 1
            return [(self._randomness.choice(others), Shuffle(shuffle.origin, shuffle.nodes[:SHUFFLE_NODES], ttl))]
        answer = Shuffle(self._self_id, self._sample(), 0, True)
        self._learn(shuffle.nodes)
        return [(shuffle.origin, answer)] if self._is_possible(shuffle.origin) else []

    def _learn(self, nodes: tuple[NodeId, ...]) -> None:
        for node in nodes[:SHUFFLE_NODES]:
            fits = len(node) == NODE_ID_BYTES and node != self._self_id and node not in self._passive
            if not fits or not self._is_possible(node):
                continue
            if len(self._passive) >= PASSIVE_MAX:
                self._passive.remove(self._randomness.choice(self._passive))
            self._passive.append(node)
