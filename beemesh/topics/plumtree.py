"""A tree that carries messages, and the other links that know when it did not (Plumtree, Leitao 2007).

Messages are pushed over *eager* links; over every link both ends learn which messages the other one has. A message that
comes over two branches prunes one of them; messages that come only by asking graft one. Two things differ from the
paper, since half of all repairs here come from lost datagrams and not from lost branches: what is missing is asked for
without changing the tree, and an id is told over a link until the other end says that it has it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import msgspec

from beemesh.ids import NodeId
from beemesh.topics.gossip import IDS_PER_MENTION_MAX
from beemesh.topics.messages import Graft, IHave, Prune

TELL_AFTER_S = (0.03, 0.05, 0.08, 0.12, 0.2, 0.4, 0.8, 1.6)
"""Pauses between the times that an id is told over a link, until the other end has the message."""
TELL_PUSHED_AFTER_S = 0.05
"""The same before the first time to whoever was pushed the message: it says so itself, if it came."""
ACK_AFTER_S = 0.02
"""Acknowledgements of so long go together."""
SILENT_TELLS = 14
"""Ids were told so often over a link, and nothing at all came back: nobody is there, long before membership is sure of
it. Over a link of 30 % loss that happens once in ten thousand times, and costs a new link."""
LAZY_PATIENCE_S = 0.16
"""What a lazy link tells of is usually on its way over an eager one, where a hop may just be repaired."""

GRAFT_AFTER = 16
"""Messages in a row that no branch brought or told of, after which the link that did becomes one: at 30 % loss, most
messages are repaired somewhere on their way to the end of a long branch."""
REGRAFT_AFTER = 48
"""Messages in a row that a branch told of and did not push: its other end may not know that it is one."""
INDEPENDENT_S = 0.3
"""A branch that tells of a message so soon after it was repaired would have brought it."""

OWED_MAX = 4_096
"""Ids to tell over one link: as many as messages are kept."""

Letter = tuple[NodeId, msgspec.Struct]


@dataclass(slots=True)
class Branch:
    """One link's part in the tree."""

    eager: bool
    owed: OrderedDict[bytes, tuple[float, int]] = field(default_factory=OrderedDict)
    """Ids that the other end is not known to have: (boot time of the next telling, times told)."""
    unanswered: int = 0
    """Times that ids were told since the other end was last heard of."""
    acks: dict[bytes, None] = field(default_factory=dict)
    ack_s: float = 0.0
    unpushed: int = 0


class Tree:
    """The links of one node as branches."""

    def __init__(self) -> None:
        self.branches: dict[NodeId, Branch] = {}
        self._settled = False
        self._misses = 0
        self._missed: OrderedDict[bytes, float] = OrderedDict()
        self.grafts = 0
        self.prunes = 0

    # --- links ----------------------------------------------------------------------------------------------------

    def add(self, peer: NodeId, now_s: float, *, eager: bool, recent: Iterable[bytes]) -> None:
        """A link was made; `recent` are messages that its other end may have missed meanwhile.

        Until the first message all links are branches: it makes the tree, over the quickest ones. Later ones are
        branches only where a node had none."""
        branch = self.branches[peer] = Branch(eager or not self._settled or not self.has_eager)
        for key in recent:
            self._owe(branch, key, now_s)

    def heard(self, peer: NodeId) -> None:
        """Anything came over a link."""
        branch = self.branches.get(peer)
        if branch is not None:
            branch.unanswered = 0

    def remove(self, peer: NodeId) -> list[Letter]:
        """A link is gone; where it was a branch, the oldest of the other links takes its place."""
        branch = self.branches.pop(peer, None)
        if branch is None or not branch.eager:
            return []
        return next((self.graft(other) for other, each in self.branches.items() if not each.eager), [])

    @property
    def has_eager(self) -> bool:
        """Whether messages are pushed over any link."""
        return any(branch.eager for branch in self.branches.values())

    def eager(self) -> list[NodeId]:
        """The other ends of all branches."""
        return [peer for peer, branch in self.branches.items() if branch.eager]

    def is_branch(self, peer: NodeId) -> bool:
        """Whether messages are pushed over the link to `peer`."""
        branch = self.branches.get(peer)
        return branch is not None and branch.eager

    def graft(self, peer: NodeId) -> list[Letter]:
        """Make a branch of a link."""
        branch = self.branches.get(peer)
        if branch is None:
            return []
        branch.eager, branch.unpushed = True, 0
        self.grafts += 1
        return [(peer, Graft())]

    def grafted(self, peer: NodeId) -> bool:
        """The other end made a branch of a link; False when there is no link."""
        branch = self.branches.get(peer)
        if branch is None:
            return False
        branch.eager = True
        return True

    def pruned(self, peer: NodeId) -> bool:
        """The other end wants no pushes over its own link; nobody has a say in another's. False without a link."""
        branch = self.branches.get(peer)
        if branch is None:
            return False
        branch.eager = False
        return True

    # --- messages -------------------------------------------------------------------------------------------------

    def took(
        self, key: bytes, sender: NodeId, holders: Collection[NodeId], pushed_to: Collection[NodeId], now_s: float
    ) -> None:
        """A message is here from `sender`; `holders` have it, `pushed_to` are sent it now: tell the others of it."""
        for peer, branch in self.branches.items():
            if peer == sender or peer in holders:
                self._ack(branch, key, now_s)
            elif peer in pushed_to:
                self._owe(branch, key, now_s + TELL_PUSHED_AFTER_S)
            else:
                self._owe(branch, key, now_s if branch.eager else now_s + TELL_AFTER_S[0])

    def was_pushed(self, sender: NodeId) -> None:
        """A message came by a push: its link is a branch to the other end, and the tree works."""
        branch = self.branches.get(sender)
        if branch is not None:
            branch.eager, branch.unpushed = True, 0
            self._settled = True
        self._misses = 0

    def was_repaired(self, key: bytes, sender: NodeId, holders: Collection[NodeId], now_s: float) -> list[Letter]:
        """A message came only because it was asked for; a graft when that happens again and again."""
        if not self.branches or any(self.branches[peer].eager for peer in holders if peer in self.branches):
            return []
        self._misses += 1
        self._missed[key] = now_s
        if len(self._missed) > GRAFT_AFTER + 1:
            self._missed.popitem(last=False)
        if self._misses < GRAFT_AFTER:
            return []
        known = [peer for peer in (sender, *holders) if peer in self.branches]
        self._misses = 0
        return self.graft(known[0]) if known else []

    def repeated(self, key: bytes, sender: NodeId, first: NodeId | None, now_s: float) -> list[Letter]:
        """A push brought what is here already; `first` is who pushed it first, if both came straight."""
        branch = self.branches.get(sender)
        if branch is None:
            return []
        branch.owed.pop(key, None)
        branch.unpushed = 0
        self._ack(branch, key, now_s)
        other = self.branches.get(first) if first is not None and first != sender else None
        if other is None or not other.eager:
            return []
        branch.eager = False
        self.prunes += 1
        return [(sender, Prune())] * 2  # a lost one costs a message

    def told(self, sender: NodeId, key: bytes, now_s: float) -> None:
        """The other end of a link has a message that is here too, and asks whether it is."""
        branch = self.branches.get(sender)
        if branch is None:
            return
        branch.owed.pop(key, None)
        self._ack(branch, key, now_s)
        missed_s = self._missed.get(key) if branch.eager else None
        if missed_s is not None and now_s - missed_s < INDEPENDENT_S:
            del self._missed[key]
            self._misses = max(0, self._misses - 1)

    def acknowledged(self, sender: NodeId, keys: Iterable[bytes]) -> None:
        """The other end of a link has these."""
        branch = self.branches.get(sender)
        if branch is not None:
            for key in keys:
                branch.owed.pop(key, None)

    def patience_s(self, sender: NodeId) -> float:
        """How long to wait before asking `sender` for what it told of."""
        branch = self.branches.get(sender)
        return 0.0 if not self.has_eager or (branch is not None and branch.eager) else LAZY_PATIENCE_S

    def unpushed(self, sender: NodeId) -> list[Letter]:
        """A branch told of something that it has not pushed."""
        branch = self.branches.get(sender)
        if branch is None or not branch.eager:
            return []
        branch.unpushed += 1
        return self.graft(sender) if branch.unpushed >= REGRAFT_AFTER else []

    # --- telling --------------------------------------------------------------------------------------------------

    def flush(self, now_s: float) -> list[Letter]:
        """The ids to tell now."""
        letters: list[Letter] = []
        for peer, branch in self.branches.items():
            ids = [key for key, (at_s, _) in branch.owed.items() if at_s <= now_s][:IDS_PER_MENTION_MAX]
            acks: tuple[bytes, ...] = ()
            if branch.acks and (ids or branch.ack_s <= now_s):
                acks = tuple(branch.acks)[: IDS_PER_MENTION_MAX - len(ids)]
                for key in acks:
                    del branch.acks[key]
            for key in ids:
                times = branch.owed[key][1] + 1
                if times < len(TELL_AFTER_S):
                    branch.owed[key] = (now_s + TELL_AFTER_S[times], times)
                else:
                    del branch.owed[key]
            branch.unanswered += bool(ids)
            if ids or acks:
                letters.append((peer, IHave(tuple(ids), acks)))
        return letters

    def next_s(self) -> float | None:
        """Boot time of the next flush; None when there is nothing to tell."""
        soonest: float | None = None
        for branch in self.branches.values():
            if branch.acks and (soonest is None or branch.ack_s < soonest):
                soonest = branch.ack_s
            for at_s, _ in branch.owed.values():
                if soonest is None or at_s < soonest:
                    soonest = at_s
        return soonest

    def silent(self) -> list[NodeId]:
        """Links over which nothing came back, though there was something to answer."""
        return [peer for peer, branch in self.branches.items() if branch.unanswered >= SILENT_TELLS]

    def _owe(self, branch: Branch, key: bytes, at_s: float) -> None:
        branch.owed[key] = (at_s, 0)
        if len(branch.owed) > OWED_MAX:
            branch.owed.popitem(last=False)

    def _ack(self, branch: Branch, key: bytes, now_s: float) -> None:
        if not branch.acks:
            branch.ack_s = now_s + ACK_AFTER_S
        branch.acks[key] = None
        if len(branch.acks) > OWED_MAX:
            del branch.acks[next(iter(branch.acks))]
