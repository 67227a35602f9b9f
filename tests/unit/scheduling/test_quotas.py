"""Quotas in a mesh: refused when they are submitted, and kept by stewards when they were lowered."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from beemesh.identity.signing import Signed, sign_statement
from beemesh.intents.record import SIGNED_KIND, Intent, IntentKind, priority_key, quota_key
from beemesh.scheduling.quotas import Policies
from beemesh.workloads.node_keys import LABEL_ZONE
from beemesh.workloads.policies import PriorityClass, Quota
from beemesh.workloads.reconciler import STARTING_MAX
from beemesh.workloads.record import Constraints, PodTerm, Qos, Strategy, Workload
from tests.unit.scheduling.samples import MESH, OPERATOR, WALL_MS, record, revision, workload
from tests.unit.scheduling.test_zones import WEB, zoned
from tests.unit.scheduling.world import World


def policy(kind: IntentKind, key: str, body: msgspec.Struct, seq: int = 1) -> tuple[Intent, Signed]:
    """An operator's policy as it stands in the intent map."""
    intent = Intent(MESH, kind, key, seq, OPERATOR.signer_id, WALL_MS, msgspec.msgpack.encode(body))
    return intent, sign_statement(OPERATOR, SIGNED_KIND, intent)


def pods_quota(pods: int, seq: int = 1) -> tuple[Intent, Signed]:
    """A quota on pods of the default namespace."""
    return policy("quota", quota_key("default", "team"), Quota("default", "team", {"pods": pods}), seq)


def test_a_submission_is_checked_against_what_stands() -> None:
    """Quotas and classes are read from the intent map; a change that leaves the priority alone needs no class."""
    standing = [pods_quota(2), policy("priority", priority_key("high"), PriorityClass("high", 7)), record(workload())]
    policies = Policies(lambda prefix: [each for each in standing if each[0].key.startswith(prefix)])
    urgent = record(workload("urgent", qos=Qos(priority=7, priority_class="high")))[0]

    assert policies.objection(urgent, None) == ""
    assert "exceeded quota: team" in policies.objection(record(workload("more", replicas=2))[0], None)
    standing.pop(1)
    assert "no PriorityClass 'high'" in policies.objection(urgent, None)
    assert policies.objection(urgent, urgent) == "", "a class that was deleted stops nothing that stands"
    assert policies.objection(standing[0][0], None) == ""


def test_a_lowered_quota_holds_back_what_is_new() -> None:
    """A steward starts no replica beyond the quota, tells why, and goes on when there is room again."""
    world = World()
    world.put(*pods_quota(2))
    world.apply(workload(replicas=4))
    world.run(5)
    assert len(world.pods()) == 2
    assert any("exceeded quota: team" in event.reason for event in world.events("Pending"))

    world.put(*pods_quota(4, seq=2))
    world.run(15)
    assert len(world.pods()) == 4


def second(strategy: Strategy) -> Workload:
    """Four replicas of another revision over the first."""
    return workload(replicas=4, revisions=(revision(2), revision(1)), strategy=strategy)


@pytest.mark.parametrize("duplicate_tolerant", [True, False])
@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("kind", ["RollingUpdate", "Recreate"])
def test_an_update_that_a_quota_bounds_is_not_taken_back(
    kind: Literal["RollingUpdate", "Recreate"], missing: bool, duplicate_tolerant: bool
) -> None:
    """All that the quota admits run and are ready: the rest says nothing of the revision, and starts when it may."""
    strategy = Strategy(kind, progress_deadline_s=60)
    world = World()
    world.put(*pods_quota(3 if missing else 4))
    world.apply(workload(replicas=4, strategy=strategy, duplicate_tolerant=duplicate_tolerant))
    world.run(20)
    world.put(*pods_quota(3, seq=2))
    world.apply(msgspec.structs.replace(second(strategy), duplicate_tolerant=duplicate_tolerant), seq=2)
    world.run(200)

    assert not world.events("RolledBack")
    assert {(2, 0), (2, 1), (2, 2)} <= set(world.slots())
    world.put(*pods_quota(4, seq=3))
    world.run(30)
    assert world.slots() == [(2, 0), (2, 1), (2, 2), (2, 3)]


def test_a_bad_update_that_a_quota_bounds_is_taken_back() -> None:
    """What the quota admits is judged as anywhere."""
    world = World()
    world.put(*pods_quota(3))
    world.apply(workload(replicas=4))
    world.run(20)
    world.bad = {2: "ImageNotFound: no image hello:2"}
    world.apply(second(Strategy()), seq=2)
    world.run(120)

    assert world.events("RolledBack")
    assert world.slots() == [(1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize("replicas", [4, STARTING_MAX + 8])
@pytest.mark.parametrize("turns", [False, True])
def test_what_a_quota_holds_back_holds_up_no_rollout(replicas: int, turns: bool) -> None:
    """Replicas beyond it, however many, take no turns of those within it: these come to run the new revision."""
    world = zoned(1)
    terms = (PodTerm("spread", LABEL_ZONE, WEB, 0, 1),) if turns else ()
    constraints = Constraints(pod_terms=terms)
    asked = workload("web", replicas=replicas, pod_labels={"app": "web"}, constraints=constraints)
    world.put(*pods_quota(3))
    world.apply(asked)
    world.run(20)
    assert world.slots() == [(1, 0), (1, 1), (1, 2)]

    world.apply(msgspec.structs.replace(asked, revisions=(revision(2), revision(1))), seq=2)
    world.run_until(lambda: world.slots() == [(2, 0), (2, 1), (2, 2)], 30)


def test_an_update_goes_beyond_a_quota_by_its_surge_alone() -> None:
    """What is held back leaves its places to nobody."""
    world = World()
    world.put(*pods_quota(6))
    asked = workload("web", replicas=10, strategy=Strategy(max_surge=1, max_unavailable=0))
    world.apply(asked)
    world.run(20)
    most = [0]
    world.watch = lambda: most.append(len(world.pods()))
    world.apply(msgspec.structs.replace(asked, revisions=(revision(2), revision(1))), seq=2)
    world.run(60)

    assert max(most) == 7
    assert world.slots() == [(2, ordinal) for ordinal in range(6)]
