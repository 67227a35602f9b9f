"""What a steward tells with a task about where the workload's other replicas are, and when one has to wait. Pure.

Replicas are counted by ordinal: during a roll-out an old and a new copy of one are one, at the place of the newer, and
the copy that is to be replaced does not count for its successor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from beemesh.identity.membership_card import Membership
from beemesh.ids import NodeId
from beemesh.scheduling.eligibility import affinity_holds, node_labels
from beemesh.scheduling.messages import Occupancy
from beemesh.scheduling.neighbours import selected
from beemesh.scheduling.stewardship.ledger import Outstanding
from beemesh.workloads.node_keys import FIELD_NAME, LABEL_HOSTNAME
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.reconciler import Action, Observed, StartReplica
from beemesh.workloads.record import Constraints, PodTerm, Workload

VALUES_MAX = 64
"""Values of a topology that are told with a task, the fullest first: a kilobyte or two."""


def takes_turns(constraints: Constraints, pod_labels: Mapping[str, str]) -> bool:
    """Whether replicas are placed one after the other: a condition of theirs depends on where the one before went.
    Two of them on one host is what every node sees by itself."""
    return any(
        not term.weight
        and selected(term.selector, pod_labels)
        and not (term.kind == "anti-affinity" and term.topology == LABEL_HOSTNAME)
        for term in constraints.pod_terms
    )


def in_turn(
    actions: Sequence[Action], workload: Workload | None, outstanding: Iterable[Outstanding], observed: Observed
) -> list[Action]:
    """The actions, with starts held back until it is known where the one before went, where their revision asks for it.
    One that nobody took lets the others have their turn."""
    if workload is None:
        return list(actions)
    starts = [each for each in actions if isinstance(each, StartReplica) and _waits_its_turn(each, workload)]
    if any(each.holder is None for each in outstanding):
        first = None
    else:
        first = min(starts, key=lambda each: observed.turn_of((each.revision, each.replica)), default=None)
    return [each for each in actions if each is first or each not in starts]


def _waits_its_turn(start: StartReplica, workload: Workload) -> bool:
    asks = workload.as_of(start.revision) or workload
    return takes_turns(asks.constraints, asks.pod_labels)


def occupancy(
    workload: Workload,
    replica: int,
    reports: Iterable[ReplicaReport],
    outstanding: Iterable[Outstanding],
    cards: Iterable[Membership],
) -> tuple[Occupancy, ...]:
    """What a task for `replica` tells of each pod term of its workload; `cards` are those of live members."""
    terms = workload.constraints.pod_terms
    if not terms:
        return ()
    labels = {card.node_id: {**node_labels(card), FIELD_NAME: card.name} for card in cards}
    waiting = tuple(outstanding)
    places = _places(replica, reports, waiting)
    unplaced = sum(1 for each in waiting if each.holder is None and each.task.replica != replica)
    return tuple(_of_term(term, workload, places, unplaced, labels) for term in terms)


def _places(replica: int, reports: Iterable[ReplicaReport], outstanding: Iterable[Outstanding]) -> dict[int, NodeId]:
    """Where each other ordinal is, or is about to be."""
    newest = sorted((each for each in reports if each.phase not in _GOING), key=lambda each: each.revision)
    places = {each.replica: each.node_id for each in newest}
    places |= {each.task.replica: each.holder for each in outstanding if each.holder is not None}
    places.pop(replica, None)
    return places


def _of_term(
    term: PodTerm,
    workload: Workload,
    places: Mapping[int, NodeId],
    unplaced: int,
    labels: Mapping[NodeId, Mapping[str, str]],
) -> Occupancy:
    if not selected(term.selector, workload.pod_labels):
        return Occupancy()
    found = (labels[node_id].get(term.topology) for node_id in places.values() if node_id in labels)
    counts = Counter(value for value in found if value is not None)
    values = {
        value
        for node in labels.values()
        if (value := node.get(term.topology)) is not None and _is_candidate(workload.constraints, node)
    }
    if term.kind == "spread" and term.weight:
        for _ in range(unplaced if values else 0):
            counts[_emptiest(values, counts)] += 1
        if values and len(places) + 1 < workload.replicas:
            _steer(values, counts, term.max_skew)
    floor = min((counts[value] for value in values), default=0)
    fullest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:VALUES_MAX]
    return Occupancy(dict(fullest), floor, len(places))


def _emptiest(values: Iterable[str], counts: Mapping[str, int]) -> str:
    return min(values, key=lambda value: (counts[value], value))


def _steer(values: Iterable[str], counts: Counter[str], max_skew: int) -> None:
    """While others are on their way each is sent to one value, the emptiest, so that those after it can suppose that
    it went there: the rest is told to be as full as makes it the second choice."""
    target = _emptiest(values, counts)
    for value in values:
        if value != target:
            counts[value] = max(counts[value], counts[target] + max_skew)


def _is_candidate(constraints: Constraints, labels: Mapping[str, str]) -> bool:
    """Whether a node counts among those to spread over: by selector and affinity, not by taints (Kubernetes)."""
    if any(labels.get(key) != value for key, value in constraints.node_selector.items()):
        return False
    return not constraints.node_affinity or affinity_holds(constraints.node_affinity, labels)


_GOING = ("Terminating", "Succeeded", "Failed")
