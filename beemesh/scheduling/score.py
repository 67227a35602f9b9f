"""How good a place a node is for a task: one pure function, the same for the same inputs everywhere.

Bids are compared by their score alone (ties by node ID), so what must come first is in the score itself: the number of
other replicas of the workload on the node (`crowd`) picks a band, and the weighted parts a place inside it. A node with
none always ranks before one with some, whatever their parts.

| what | from | weight or band |
|---|---|---|
| fit | the share of CPU, memory and (if asked for) storage that stays free, averaged; CPU also by its load | 50 % |
| locality | wished site and zone, nearness by round trips, preferred affinities that come true, soft taints | 30 % |
| reliability | earned from witnessed outcomes | 10 % |
| qos | how idle the processors are | 10 % |
| crowd | other replicas of the workload here | a band each |
| uneven | by how many replicas wished spreads would be off | `UNEVEN_BANDS` each |
| failed | the replica failed here | `FAILED_CROWD` bands |
| victims | who would be evicted: only ones of their workload, priority, number | below all bands |

Weights come from the configuration, and only their proportions count. What is measured anew all the time (load, round
trips) counts in steps of a sixteenth: small noise does not change who is best.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from beemesh.ids import NodeId
from beemesh.scheduling.eligibility import Resources
from beemesh.scheduling.messages import Bid
from beemesh.scheduling.preemption import Candidate
from beemesh.settings.model import Weights
from beemesh.workloads.record import Requirements

DIGITS = 6
"""Decimals of a score: beyond them is only the noise of floating point."""

UNKNOWN_RELIABILITY = 0.5
"""Reliability is earned from witnessed outcomes, never self-reported: without any, everybody is average."""

CROWD_MAX = 1_000
"""Replicas of one workload on one node that are told apart."""

UNEVEN_BANDS = 2
"""How many replicas on one node a wished spread that is one off outweighs: what is said goes before our habit."""

FAILED_CROWD = 100
"""A failure here weighs as much as so many other replicas: more than a node of an ordinary mesh ever has."""


PREEMPTING = 2.0**-14
"""What scores of nodes that would have to evict somebody are below: far less than the last band of all others has."""


NEAR_S = 0.02
"""The round trip at which a place is half as good as on the spot: the next region."""


@dataclass(frozen=True, slots=True)
class Score:
    """`total` 0…1 ranks; `parts` are the four ingredients 0…1 and the crowd, `fit` the resources one by one."""

    total: float
    parts: dict[str, float] = field(default_factory=dict)
    fit: dict[str, float] = field(default_factory=dict)
    victims: tuple[Candidate, ...] = ()
    """Who would have to go first."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of a node besides its resources. Sites and zones are '' where nothing is wished."""

    site: str = ""
    zone: str = ""
    wished_site: str = ""
    wished_zone: str = ""
    near: float = 1.0
    """How near the node is to where the workload had rather be, 0…1 (`nearness`)."""
    softly_repelled: bool = False
    reliability: float = UNKNOWN_RELIABILITY
    crowd: int = 0
    """Other replicas of the workload here, promised ones too; a node in the task's `avoid` counts as one at least."""
    failed: bool = False
    """The replica failed here before: see `FAILED_CROWD`."""
    wished: float = 1.0
    """The weighted part of the workload's wishes that come true here: preferred affinities (see `neighbours`)."""
    uneven: int = 0
    """By how many replicas the spreads that are wished would be off, were it placed here."""
    victims: tuple[Candidate, ...] = ()
    """Who would be evicted: see `PREEMPTING`. The resources are those after."""


def score(reqs: Requirements, resources: Resources, place: Place, weights: Weights) -> Score:
    """Rank a node that is eligible."""
    fit = _fit(reqs, resources)
    parts = {
        "fit": sum(fit.values()) / len(fit),
        "locality": _locality(place),
        "reliability": _unit(place.reliability),
        "qos": 1.0 - _steady(resources.cpu_load),
    }
    shares = {"fit": weights.fit, "locality": weights.locality, "reliability": weights.reliability, "qos": weights.qos}
    whole = sum(shares.values())
    inside = sum(parts[name] * share for name, share in shares.items()) / whole if whole else parts["fit"]
    crowd = min(max(0, place.crowd), CROWD_MAX)
    told = {**parts, "crowd": float(crowd)} | ({"failed": 1.0} if place.failed else {})
    told |= {"uneven": float(place.uneven)} if place.uneven else {}
    band = crowd + min(place.uneven, CROWD_MAX) * UNEVEN_BANDS + (FAILED_CROWD if place.failed else 0)
    if place.victims:
        told |= {"victims": float(len(place.victims)), "victim_priority": float(_highest(place.victims))}
    return Score(
        total=_preempting(inside, place.victims) if place.victims else round(_banded(inside, band), DIGITS),
        parts={name: round(value, DIGITS) for name, value in told.items()},
        fit={name: round(value, DIGITS) for name, value in fit.items()},
        victims=place.victims,
    )


def nearness(rtt_s: float | None) -> float:
    """How near a round trip is: 1 on the spot, a half at `NEAR_S`, 0 where nothing is known. In steps of a sixteenth,
    so that what is measured anew all the time does not change who is best."""
    return round(NEAR_S / (NEAR_S + rtt_s) * 16) / 16 if rtt_s is not None else 0.0


def better(one: Bid, other: Bid) -> bool:
    """Whether `one` beats `other`."""
    return rank(one.score, one.node_id) > rank(other.score, other.node_id)


def rank(total: float, node_id: NodeId) -> tuple[float, bytes]:
    """What to order bids by: the largest wins."""
    return total, node_id


def _banded(inside: float, crowd: int) -> float:
    """Band 0 is ½…1, band 1 is ⅓…½, and so on: `inside` 0…1 never leaves its band."""
    floor, ceiling = 1.0 / (crowd + 2), 1.0 / (crowd + 1)
    # A hair below the ceiling, so that the best of one band never ties with the worst of the band above.
    return floor + _unit(inside) * (ceiling - floor) * 0.999


def _preempting(inside: float, victims: tuple[Candidate, ...]) -> float:
    """Below every band; among themselves by how many victims their workloads cannot spare, by the highest
    priority of a victim, by their number, and then as ever. One whole number has it all, exact in 52 bits."""
    guarded = min(sum(each.guarded for each in victims), 15)
    priority = min(max(_highest(victims), -(2**31)), 2**31 - 1) + 2**31
    count = min(len(victims), 31)
    worse = (((guarded << 32 | priority) << 5 | count) << 10) | round((1.0 - _unit(inside)) * 1023)
    return PREEMPTING * (1.0 - worse / 2**52)


def _highest(victims: tuple[Candidate, ...]) -> int:
    return max((each.priority for each in victims), default=0)


def _fit(reqs: Requirements, resources: Resources) -> dict[str, float]:
    """Share of each resource that stays free: the emptier node wins, which spreads load."""
    cpu_left = _left(resources.cpu_m_free, reqs.cpu_m, resources.cpu_m_total)
    fit = {
        "cpu": min(cpu_left, 1.0 - _steady(resources.cpu_load) / 2),
        "memory": _left(resources.mem_mb_free, reqs.mem_mb, resources.mem_mb_total),
    }
    if reqs.storage_mb:
        fit["storage"] = _left(resources.storage_mb_free, reqs.storage_mb, resources.storage_mb_total)
    return fit


def _steady(load: float) -> float:
    """A load in steps of a sixteenth: it never stands still."""
    return round(_unit(load) * 16) / 16


def _left(free: int, need: int, total: int) -> float:
    return _unit((free - need) / total) if total > 0 else 0.0


def _locality(place: Place) -> float:
    """1 where all wishes are met, ½ where the site is but the zone is not, 0 elsewhere; times the part of preferred
    affinities that come true; a soft taint halves it."""
    near = 1.0
    if place.wished_site and place.wished_site != place.site:
        near = 0.0
    elif place.wished_zone and place.wished_zone != place.zone:
        near = 0.5
    near *= _unit(place.wished) * _unit(place.near)
    return near / 2 if place.softly_repelled else near


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))
