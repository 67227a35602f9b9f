"""Quotas and priority classes: their manifests, and what they say to workloads."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beemesh.ids import Digest
from beemesh.workloads.kube_policies import priority_class, quota
from beemesh.workloads.objects import path_text
from beemesh.workloads.policies import (
    QUOTA_KEYS,
    PriorityClass,
    Quota,
    priority_for,
    priority_objection,
    quota_objection,
    replicas_allowed,
    usage,
)
from beemesh.workloads.policy_rules import priority_of, quota_of
from beemesh.workloads.record import Qos, Requirements, Workload
from beemesh.workloads.resolve import resolve
from beemesh.workloads.revising import restarted, scaled, with_paused
from beemesh.workloads.validation import check
from tests.unit.scheduling.samples import revision, workload
from tests.unit.workloads.samples import container, deployment


def quota_manifest(**hard: Any) -> dict[str, Any]:
    """A ResourceQuota; `_` in names stands for a dot."""
    spec = {"hard": {name.replace("_", "."): amount for name, amount in hard.items()}}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": spec}


def class_manifest(**changes: Any) -> dict[str, Any]:
    """A PriorityClass."""
    kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 10}
    return {**kind, **changes}


@pytest.mark.parametrize(
    ("document", "place", "words"),
    [
        (quota_manifest(services=1), "spec.hard.services", "not supported"),
        (quota_manifest(request_cpu=1), "spec.hard['request.cpu']", "did you mean 'requests.cpu'"),
        (quota_manifest(pods="1e30"), "spec.hard.pods", "at most 8Pi"),
        (quota_manifest(cpu="1e30"), "spec.hard.cpu", "at most 8Pi"),
        (quota_manifest(requests_cpu="1P"), "spec.hard['requests.cpu']", "at most 9007199254740 cores"),
        (quota_manifest(limits_memory="9Pi"), "spec.hard['limits.memory']", "at most 8Pi"),
        (quota_manifest(pods="1.5"), "spec.hard.pods", "whole number"),
        (quota_manifest(cpu=1, requests_cpu=1), "spec.hard.cpu", "short for requests.cpu"),
        (class_manifest(value=1_000_000_001), "value", "from -2147483648 to 1000000000"),
        (class_manifest(metadata={"name": "system-mine"}), "metadata.name", "reserved"),
        (class_manifest(metadata={"name": "high", "namespace": "x"}), "metadata.namespace", "no namespace"),
        (class_manifest(preemptionPolicy="Sometimes"), "preemptionPolicy", "one of"),
    ],
)
def test_mistakes(document: dict[str, Any], place: str, words: str) -> None:
    """Each mistake is found at its place."""
    found = check(document).findings
    assert [path_text(finding.path) for finding in found] == [place]
    assert words in str(found[0])


def test_a_quota_becomes_a_record_and_is_shown() -> None:
    """Amounts are kept in our units under their full names, and shown with what is used."""
    item = check(quota_manifest(pods=10, cpu="1500m", limits_memory="2Gi")).object
    assert item is not None
    record = quota_of(item)
    assert record.hard == {"limits.memory": 2048, "pods": 10, "requests.cpu": 1500}
    assert record.is_sound()
    shape = quota(record, 3, [workload(replicas=2), workload(namespace="other")])
    assert shape["status"]["used"] == {"limits.memory": "0Mi", "pods": "2", "requests.cpu": "200m"}
    assert not Quota("default", "x", {"services": 1}).is_sound()


def test_a_class_becomes_a_record_and_is_shown() -> None:
    """A class is of no namespace, and keeps its policy."""
    item = check(class_manifest(globalDefault=True, preemptionPolicy="Never", description="why")).object
    assert item is not None
    assert item.namespace == ""
    record = priority_of(item)
    assert (record.value, record.global_default, record.preempts) == (10, True, False)
    assert priority_class(record, 1)["preemptionPolicy"] == "Never"


def test_which_class_holds() -> None:
    """By name; without one the lowest default; the system's own are known; nothing else is."""
    high, low = PriorityClass("high", 10, global_default=True), PriorityClass("low", 5, global_default=True)
    assert priority_for("high", [high, low]) == high
    assert priority_for("", [high, low]) == low
    assert priority_for("", []) == PriorityClass("", 0)
    assert priority_for("hihg", [high]) is None
    system = priority_for("system-node-critical", [])
    assert system is not None
    assert system.value == 2_000_001_000


@pytest.mark.parametrize(
    ("qos", "namespace", "words"),
    [
        (Qos(), "default", ""),
        (Qos(priority=10, priority_class="high"), "default", ""),
        (Qos(priority=11, priority_class="high"), "default", "has priority 10, the record says 11"),
        (Qos(priority=1), "default", "without a PriorityClass has priority 0"),
        (Qos(priority=1, priority_class="none"), "default", "no PriorityClass 'none'"),
        (Qos(priority=2_000_000_000, priority_class="system-cluster-critical"), "default", "kube-system only"),
        (Qos(priority=2_000_000_000, priority_class="system-cluster-critical"), "kube-system", ""),
        (Qos(priority=10, priority_class="high", preempts=False), "default", "apply again"),
    ],
)
def test_nobody_is_more_important_than_its_class(qos: Qos, namespace: str, words: str) -> None:
    """A record's priority is that of a class that stands."""
    against = priority_objection(workload(qos=qos, namespace=namespace), [PriorityClass("high", 10)])
    assert words in against
    assert bool(words) == bool(against)


SIZED = Requirements(cpu_m=500, mem_mb=100, cpu_limit_m=1000, mem_limit_mb=200)


def test_a_quota_is_kept_at_apply() -> None:
    """In Kubernetes' words: what was asked, what is used, what is the limit."""
    team = Quota("default", "team", {"pods": 4, "requests.cpu": 2000})
    other = workload("other", replicas=3, requirements=SIZED)
    assert quota_objection(workload(replicas=1, requirements=SIZED), None, [other], [team]) == ""
    against = quota_objection(workload(replicas=2, requirements=SIZED), None, [other], [team])
    assert against == (
        "exceeded quota: team, requested: pods=2,requests.cpu=1000m, used: pods=3,requests.cpu=1500m, "
        "limited: pods=4,requests.cpu=2000m"
    )
    grows = quota_objection(workload(replicas=2), workload(replicas=1), [other], [team])
    assert "requested: pods=1, used: pods=4, limited: pods=4" in grows, "what it has is in use, as `get quota` shows"
    elsewhere = workload(replicas=9, requirements=SIZED, namespace="other")
    assert quota_objection(elsewhere, None, [], [team]) == ""


def test_what_shrinks_is_never_refused() -> None:
    """A workload above a quota that was lowered may be scaled down and changed, but not up."""
    team = Quota("default", "team", {"pods": 2})
    stands = workload(replicas=5)
    assert quota_objection(workload(replicas=4), stands, [], [team]) == ""
    assert quota_objection(workload(replicas=5), stands, [], [team]) == ""
    assert "exceeded" in quota_objection(workload(replicas=6), stands, [], [team])


def test_a_bound_on_limits_needs_limits() -> None:
    """Where limits are bounded, every container must have one."""
    team = Quota("default", "team", {"limits.memory": 1000})
    assert "must specify limits.memory" in quota_objection(workload(), None, [], [team])
    assert quota_objection(workload(requirements=SIZED), None, [], [team]) == ""


def test_a_bound_on_limits_refuses_only_what_makes_pods() -> None:
    """A workload that stood before the quota may be scaled down, paused and labelled, but makes no more pods without
    limits, and no other ones."""
    team = Quota("default", "team", {"limits.memory": 1000})
    stands = workload(replicas=5)
    for taken, before in (
        (scaled(stands, 3), stands),
        (with_paused(stands, paused=True), stands),
        (msgspec.structs.replace(stands, labels={"a": "b"}), stands),
        (scaled(stands, 0), None),
        (restarted(scaled(stands, 0), 1), scaled(stands, 0)),
    ):
        assert quota_objection(taken, before, [], [team]) == ""
    limited = msgspec.structs.replace(stands, requirements=SIZED)
    for refused, earlier in (
        (scaled(stands, 6), stands),
        (restarted(stands, 1), stands),
        (workload(replicas=5, revisions=(msgspec.structs.replace(revision(1), manifest=Digest(b"m" * 32)),)), stands),
        (stands, limited),
        (stands, scaled(stands, 0)),
    ):
        assert "must specify limits.memory" in quota_objection(refused, earlier, [], [team])


@given(
    st.builds(Requirements, cpu_m=st.integers(0, 2), cpu_limit_m=st.integers(0, 2), mem_limit_mb=st.integers(0, 2)),
    st.integers(0, 6),
    st.integers(0, 6),
    st.dictionaries(st.sampled_from(QUOTA_KEYS), st.integers(0, 12)),
    st.integers(0, 6),
)
def test_what_grows_in_nothing_is_never_refused(
    needs: Requirements, had: int, fewer: int, hard: dict[str, int], others: int
) -> None:
    """Whatever a quota bounds, how low it was set, and what else runs there."""
    stands = workload(replicas=had, requirements=needs)
    after = scaled(stands, max(0, had - fewer))
    other = workload("other", replicas=others, requirements=SIZED)
    assert quota_objection(after, stands, [other], [Quota("default", "team", hard)]) == ""


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=5),
    st.integers(0, 12),
    st.integers(0, 1200),
)
def test_stewards_agree_on_who_has_room(sizes: list[tuple[int, int]], pods: int, cpu_m: int) -> None:
    """What all stewards allow together never exceeds a quota, and the oldest come first; nothing is left unused that a
    workload could have by pods alone."""
    team = Quota("default", "team", {"pods": pods, "requests.cpu": cpu_m})
    all_of_them = [
        workload(f"w{number}", replicas=replicas, requirements=Requirements(cpu_m=100), created_ms=born)
        for number, (replicas, born) in enumerate(sizes)
    ]
    allowed = {}
    for each in all_of_them:
        others = [other for other in all_of_them if other is not each]
        allowed[each.workload_id], why = replicas_allowed(each, others, [team])
        assert bool(why) == (allowed[each.workload_id] < each.replicas)
    assert sum(allowed.values()) == min(sum(each.replicas for each in all_of_them), pods, cpu_m // 100)


def test_limits_and_classes_come_from_the_manifest() -> None:
    """A record has the sums of the limits, 0 where one is missing; the class's name; and whether it may be evicted."""
    limits = {"limits": {"cpu": "250m", "memory": "64Mi"}}
    found = _resolved(deployment(container(resources=limits), template={"priorityClassName": "high"}))
    assert (found.requirements.cpu_limit_m, found.requirements.mem_limit_mb) == (250, 64)
    assert (found.qos.priority_class, found.qos.preemptible) == ("high", True)
    document = deployment(container())
    document["metadata"]["annotations"] = {"beemesh.io/preemptible": "false"}
    found = _resolved(document)
    assert (found.requirements.mem_limit_mb, found.qos.preemptible) == (0, False)
    assert usage(msgspec.structs.replace(workload(replicas=3), requirements=SIZED))["limits.cpu"] == 3000


def _resolved(document: dict[str, Any]) -> Any:
    item = check(document).object
    assert item is not None, [str(finding) for finding in check(document).findings]
    (found,) = resolve([item]).workloads
    return found


def test_records_survive_the_wire() -> None:
    """Both bodies are what they were after a round trip."""
    for body in (Quota("default", "x", {"pods": 1}), PriorityClass("high", 1), Workload("Pod", "a", "b", 1, ())):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=type(body)) == body
