"""When suspicion becomes death: Lifeguard's shrinking timeout, distinct signed accusers, and a budget for each of them.

A node judges a member dead for itself alone. It needs two distinct accusers that probed, unless nobody else is left
who could accuse: then its own failed probes, for the whole suspicion time, are enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from beemesh.effects import Now
from beemesh.ids import NodeId
from beemesh.membership.claims import decode
from beemesh.membership.messages import Claim, Suspect
from beemesh.rates import Rates

ACCUSERS_NEEDED = 2
"""Distinct accusers for a death: one liar, or one sick node, cannot kill."""

CONFIRMATIONS_WANTED = 2
"""Further accusers that bring the timeout down to its minimum (memberlist: suspicion multiplier - 2)."""

ACCUSERS_MAX = 1 + CONFIRMATIONS_WANTED
"""Accusers of one member that are counted and passed on: more change nothing, and in a large mesh every probe of a dead
member would add one (memberlist does the same)."""

SUSPICION_MULT = 4
MAX_TIMEOUT_MULT = 6

ACCUSATION_BURST = 8
"""Accusations that one node may raise at once: some probes of a few seconds. No honest node fails more probes than it
makes, so one comes back per probe interval."""

REFUTATION_BURST = 2
"""Accusations of this node by one other that it refutes at once. An honest one hears the refutation, and probes us for
a whole interval, before it accuses us again, so one comes back per probe interval."""

BLAME_EVERY_S = 60.0
"""One accuser costs this node's local health no more than a point so often: that it is slow is for several to say."""

ACCUSATION_AGE_MAX_MS = 120_000
"""Older accusations are history: they spread within seconds, and clocks differ by 30 s at most."""


class Budgets:
    """What one accuser may cost this node. Each refutation ends all that was said of an incarnation, wherever it was
    told, so whoever spends the budget for refutations has only made us refute; what it says of others is apart."""

    def __init__(self, probe_interval_s: float) -> None:
        self.accusations = Rates(1 / probe_interval_s, ACCUSATION_BURST)
        """Of others, that this node believes."""
        self.refutations = Rates(1 / probe_interval_s, REFUTATION_BURST)
        self.blame = Rates(1 / BLAME_EVERY_S, 1.0)
        """Points of local health."""

    def forget(self, accuser: NodeId) -> None:
        """It is no member any more."""
        for budget in (self.accusations, self.refutations, self.blame):
            budget.forget(accuser)


def is_fresh(accusation: Suspect, now: Now) -> bool:
    """Whether an accusation is new enough to be believed."""
    return abs(now.wall_ms - accusation.issued_ms) <= ACCUSATION_AGE_MAX_MS


def timeout_bounds_s(members: int, probe_interval_s: float) -> tuple[float, float]:
    """(shortest, longest) suspicion time in a mesh of that many members."""
    shortest = SUSPICION_MULT * max(1.0, math.log10(max(1, members))) * probe_interval_s
    return shortest, MAX_TIMEOUT_MULT * shortest


def timeout_s(confirmations: int, wanted: int, shortest_s: float, longest_s: float) -> float:
    """The whole suspicion time once `confirmations` of `wanted` further accusers agree: it falls with their
    logarithm, so that the first ones count most (Lifeguard, section IV-B)."""
    if wanted < 1:
        return shortest_s
    fraction = math.log(confirmations + 1) / math.log(wanted + 1)
    return max(shortest_s, longest_s - fraction * (longest_s - shortest_s))


@dataclass(slots=True)
class Suspicion:
    """The open question whether one member, at one incarnation, is dead."""

    incarnation: int
    since_s: float
    wanted: int
    shortest_s: float
    longest_s: float
    accusers: dict[NodeId, Claim] = field(default_factory=dict)
    """Each counts once, however often it accuses."""
    asked_s: float | None = None
    """Boot time at which this node first asked the suspect, so as not to judge one that it reaches."""
    asked_last_s: float = 0.0
    must_ask: bool = False
    """Our own probes of it are history: this node stood still, or was deaf, since."""
    wondered_s: float = float("-inf")
    """Boot time at which this node last asked others what they know of the suspect."""
    check_s: float = 0.0
    """Boot time of the next look: when there is somebody to ask, when the time is over, then every probe interval until
    there is a verdict."""

    def add(self, accuser: NodeId, claim: Claim) -> bool:
        """Count an accuser; False when it was counted already."""
        if accuser in self.accusers:
            return False
        self.accusers[accuser] = claim
        return True

    def drop(self, accusers: Iterable[NodeId]) -> list[NodeId]:
        """Count these no more; which of them were counted."""
        return [accuser for accuser in accusers if self.accusers.pop(accuser, None) is not None]

    def start_over(self, now_s: float) -> None:
        """What happened until `now_s` was never heard, so the suspect gets all its time again, and is asked again."""
        self.since_s, self.asked_s, self.must_ask = now_s, None, True

    def ask(self, now_s: float) -> None:
        """The suspect is asked now."""
        self.asked_s, self.asked_last_s = now_s if self.asked_s is None else self.asked_s, now_s

    def next_question_s(self, every_s: float, patience_s: float) -> float:
        """Boot time of the next look at hearsay: the suspect is asked from `patience_s` before its time is over, and
        from then on `every_s`. A node that is unwell has much patience, and its suspect may come back meanwhile."""
        if self.asked_s is None:
            return self.due_s - patience_s
        return min(self.asked_last_s + every_s, max(self.due_s, self.asked_s + patience_s))

    def had_its_say(self, now_s: float, patience_s: float) -> bool:
        """Whether the suspect had all its time, and `patience_s` to answer."""
        return self.asked_s is not None and now_s >= max(self.due_s, self.asked_s + patience_s)

    def evidence(self, asker: NodeId, now: Now) -> tuple[Claim, ...]:
        """The fresh words of accusers other than `asker`."""
        said = [(claim, decode(claim)) for accuser, claim in self.accusers.items() if accuser != asker]
        return tuple(claim for claim, word in said if isinstance(word, Suspect) and is_fresh(word, now))

    @property
    def is_settled(self) -> bool:
        """Whether further accusers change nothing."""
        return len(self.accusers) >= ACCUSERS_MAX

    def wonders_from_s(self, patience_s: float) -> float | None:
        """Boot time from which to ask others for accusations that were missed, every `patience_s`; None while none can
        hasten the end. It starts so that the answers are there when the shortest time is over."""
        if self.is_settled or self.due_s <= self.since_s + self.shortest_s:
            return None
        return max(self.since_s + self.shortest_s - patience_s, self.wondered_s + patience_s)

    @property
    def due_s(self) -> float:
        """Boot time at which the question is to be answered."""
        confirmations = min(max(0, len(self.accusers) - 1), self.wanted)
        return self.since_s + timeout_s(confirmations, self.wanted, self.shortest_s, self.longest_s)


def verdict(
    suspicion: Suspicion,
    self_id: NodeId,
    *,
    possible: Iterable[NodeId],
    failed_since: Mapping[NodeId, float],
    now_s: float,
    deaf: bool = False,
) -> bool:
    """Whether this node now holds the suspect dead.

    `possible` are the members that could accuse: alive here, the suspect and this node left out. Those that failed
    this node's own probes for the whole suspicion time (`failed_since`, boot time of the first failure) are nobody.
    While this node is `deaf` (see `beemesh.membership.ear`) the accusers' word is not enough: the refutation may be
    what it missed.
    """
    if len(suspicion.accusers) >= ACCUSERS_NEEDED and not deaf:
        return True
    if self_id not in suspicion.accusers:
        return False
    return not any(now_s - failed_since.get(node, now_s) < suspicion.shortest_s for node in possible)
