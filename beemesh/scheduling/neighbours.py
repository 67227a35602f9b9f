"""What a replica wants of other pods, judged by one node: conditions, wishes and the evenness of a spread. Pure.

A node knows exactly what it runs, and what it is about to win. Where the other replicas of the workload run, the task
tells (`Task.occupancy`, one entry per pod term): as the steward knew it when it published the task. So

- terms whose topology is the host are exact, for pods of any workload, and in both directions: a pod that runs here
  and wants none like the new one beside it is heard as well (Kubernetes' symmetry);
- wider terms (zone, site, organisation, any label of nodes) are about the workload's own replicas. Conditions among
  them are exact as long as one steward places: it publishes such replicas one after the other
  (`beemesh.scheduling.stewardship.surroundings`). Wishes are best effort: several replicas are placed at once, and each
  task says where the steward supposes that those before it will be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from beemesh.scheduling.eligibility import expression_text
from beemesh.scheduling.messages import Occupancy
from beemesh.workloads.node_keys import LABEL_HOSTNAME
from beemesh.workloads.record import Expression, PodTerm, Preference
from beemesh.workloads.selectors import matches


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A replica that is here or promised, by the labels of its pod; `repels` are its own conditions on this host."""

    namespace: str
    workload_id: str
    replica: int
    labels: Mapping[str, str]
    repels: tuple[PodTerm, ...] = ()


@dataclass(frozen=True, slots=True)
class Newcomer:
    """The replica that is judged."""

    namespace: str
    workload_id: str
    replica: int
    labels: Mapping[str, str]
    terms: tuple[PodTerm, ...] = ()
    occupancy: tuple[Occupancy, ...] = ()
    """One per term; none when the steward does not know of them."""
    apart_already: bool = False
    """Siblings on this host are refused by another rule."""

    def is_itself(self, other: Neighbour) -> bool:
        """Whether `other` is the same replica, perhaps of an older revision: it makes room."""
        return (self.workload_id, self.replica) == (other.workload_id, other.replica)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why not here, or how well. `wished` 0…1 is the weighted part of the wishes that come true (1 without any), and
    `uneven` by how many replicas the wished spreads would be off."""

    against: tuple[str, ...] = ()
    wished: float = 1.0
    uneven: int = 0


def judge(
    newcomer: Newcomer,
    here: Iterable[Neighbour],
    siblings_coming: int,
    labels: Mapping[str, str],
    preferences: tuple[Preference, ...] = (),
) -> Verdict:
    """What this node, which has `labels` and runs `here`, is to the newcomer. `siblings_coming` are other replicas of
    its workload that the node is about to win."""
    others = [each for each in here if not newcomer.is_itself(each)]
    against, wishes, uneven = list(_repelled(newcomer, others)), _preferences(preferences, labels), 0
    for index, term in enumerate(newcomer.terms):
        known = newcomer.occupancy[index] if index < len(newcomer.occupancy) else Occupancy()
        found = _Found.of(newcomer, term, known, others, siblings_coming, labels)
        if term.kind == "spread" and term.weight:
            uneven += found.off_by(term.max_skew)
        elif term.weight:
            wishes.append((term.weight, found.pleases(term)))
        elif reason := found.refusal(newcomer, term):
            against.append(reason)
    whole = sum(weight for weight, _ in wishes)
    wished = sum(weight * value for weight, value in wishes) / whole if whole else 1.0
    return Verdict(tuple(against), wished, uneven)


def selected(selector: tuple[Expression, ...], labels: Mapping[str, str]) -> bool:
    """Whether pod labels satisfy a selector; an empty one selects all."""
    return all(matches(expression, labels) for expression in selector)


@dataclass(frozen=True, slots=True)
class _Found:
    """One term at one node: its value of the topology (None without the label), how many pods of the kind it has
    there, the fewest that any value has, and how many there are in all."""

    value: str | None
    count: int
    floor: int
    total: int

    @staticmethod
    def of(
        newcomer: Newcomer,
        term: PodTerm,
        known: Occupancy,
        others: list[Neighbour],
        siblings_coming: int,
        labels: Mapping[str, str],
    ) -> _Found:
        value = labels.get(term.topology)
        same = [each for each in others if each.namespace == newcomer.namespace]
        if term.kind == "spread" or term.topology != LABEL_HOSTNAME:
            same = [each for each in same if each.workload_id == newcomer.workload_id]
        count = len({(each.workload_id, each.replica) for each in same if selected(term.selector, each.labels)})
        if selected(term.selector, newcomer.labels):
            count += siblings_coming
        if term.topology != LABEL_HOSTNAME and value is not None:
            # What the task says of the whole zone may be older than what is known of this node, or newer.
            count = max(count, known.counts.get(value, 0))
        return _Found(value, count, min(known.floor, count), max(known.total, count))

    def off_by(self, max_skew: int) -> int:
        """By how much one more here would exceed the skew; a node without the label is off by the whole count."""
        if self.value is None:
            return self.total + 1
        return max(0, self.count + 1 - self.floor - max_skew)

    def pleases(self, term: PodTerm) -> float:
        """How far a wished affinity or anti-affinity comes true, 0…1."""
        if term.kind == "affinity":
            return 1.0 if self.value is not None and self.count else 0.0
        return 1.0 / (1 + self.count) if self.value is not None else 1.0

    def refusal(self, newcomer: Newcomer, term: PodTerm) -> str:
        """Why a condition does not hold; empty when it does."""
        who = f"pods with {_selector_text(term.selector)}"
        if self.value is None:
            if term.kind == "anti-affinity":
                return ""
            return f"the pod's {term.kind} goes by the node label {term.topology}, which this node has not"
        place = f"{term.topology}={self.value}"
        if term.kind == "affinity":
            is_first = self.total == 0 and selected(term.selector, newcomer.labels)
            return "" if self.count or is_first else f"pod affinity wants {who}, and none is at {place}"
        if term.kind == "anti-affinity":
            if newcomer.apart_already and term.topology == LABEL_HOSTNAME:
                return ""
            return f"pod anti-affinity wants no {who}, and {self.count} at {place}" if self.count else ""
        if self.off_by(term.max_skew):
            skew = self.count + 1 - self.floor
            return f"spread over {term.topology} allows a skew of {term.max_skew}, one more here makes it {skew}"
        return ""


def _repelled(newcomer: Newcomer, others: list[Neighbour]) -> Iterable[str]:
    """Pods here that want none like the newcomer on their host."""
    for each in others:
        if each.namespace != newcomer.namespace or (newcomer.apart_already and _are_siblings(newcomer, each)):
            continue
        if any(selected(term.selector, newcomer.labels) for term in each.repels):
            yield f"{each.workload_id} runs here, whose pod anti-affinity wants no such pod beside it"
            return


def _are_siblings(newcomer: Newcomer, other: Neighbour) -> bool:
    return newcomer.workload_id == other.workload_id


def _preferences(preferences: tuple[Preference, ...], labels: Mapping[str, str]) -> list[tuple[int, float]]:
    return [
        (each.weight, 1.0 if all(matches(expression, labels) for expression in each.expressions) else 0.0)
        for each in preferences
    ]


def _selector_text(selector: tuple[Expression, ...]) -> str:
    return " and ".join(expression_text(each) for each in selector) or "any labels"
