"""Who may take a task: Kubernetes' semantics, and reasons that a person understands."""

from __future__ import annotations

from typing import Any

import pytest

from beemesh.effects import Now
from beemesh.events import ResourcesObserved
from beemesh.identity.membership_card import Caps, Taint
from beemesh.scheduling.eligibility import Resources, capacity_refusals, node_labels, placement_refusals, refusals
from beemesh.scheduling.local_work import LocalWork, Promise
from beemesh.scheduling.messages import Task
from beemesh.settings.model import Overcommit, Policies, Reserve
from beemesh.workloads.record import Constraints, Expression, HostPort, Requirements, Toleration
from beemesh.workloads.selectors import matches
from tests.unit.scheduling.samples import WALL_MS, card, workload

ROOMY = Resources(4000, 4096, 50_000, 3000, 2100, 40_000)
NOW = Now(0.0, WALL_MS)


def task(**changes: Any) -> Task:
    """A task of the sample workload."""
    wanted = workload()
    values: dict[str, Any] = {
        "task_id": "0" * 26,
        "workload_id": wanted.workload_id,
        "namespace": "default",
        "kind": "Deployment",
        "revision": 1,
        "replica": 0,
        "manifest_ref": b"m" * 32,
        "record_digest": b"r" * 32,
        "expires_ms": WALL_MS + 1,
        "issued_ms": WALL_MS,
        "nonce": b"",
    }
    return Task(**{**values, **changes})


def test_a_task_without_wishes_fits_anywhere() -> None:
    """No requirement, no reason against it."""
    assert refusals(task(), card("one"), ROOMY) == []


def test_too_little_memory_is_told_in_numbers() -> None:
    """The reason names what is needed, what the node has and what is free."""
    small = Resources(4000, 3900, 50_000, 3000, 2100, 40_000)

    assert capacity_refusals(Requirements(mem_mb=16_777_216), small) == [
        "needs 16777216 MiB of memory, this node has 3900 MiB, 2100 free"
    ]


def test_every_shortage_is_told() -> None:
    """All resources are looked at, and GPUs, ports and the number of pods."""
    reqs = Requirements(5000, 5000, 60_000, (HostPort(80), HostPort(53, "UDP"), HostPort(0)), gpus=1)
    full = Resources(4000, 4096, 50_000, 1, 1, 1, pods=3, pods_max=3, ports_in_use=frozenset({("TCP", 80)}))

    reasons = capacity_refusals(reqs, full)
    assert len(reasons) == 6
    assert "needs 5000m of CPU, this node has 4000m, 1m free" not in reasons
    assert "needs 5000m of CPU, this node has 4000m, 1 free" in reasons
    assert "needs host port 80/TCP, which is in use here" in reasons
    assert "this node runs 3 pods, and takes 3 at most" in reasons


def test_standing_and_cordon() -> None:
    """Nodes in grace, expired ones and cordoned ones take nothing new, and say why."""
    assert "run out" in refusals(task(), card("one"), ROOMY, standing="grace")[0]
    assert "not a member" in refusals(task(), card("one"), ROOMY, standing="out")[0]
    assert refusals(task(), card("one"), ROOMY, cordoned="new disk") == ["this node is cordoned (new disk)"]
    assert refusals(task(), card("one"), ROOMY, cordoned="") == ["this node is cordoned"]


def test_namespaces_that_the_owner_admits() -> None:
    """A node that is kept for some namespaces refuses others."""
    assert refusals(task(), card("one"), ROOMY, namespaces=("default",)) == []
    assert "only of shop" in refusals(task(), card("one"), ROOMY, namespaces=("shop",))[0]


def test_siblings_may_exclude_each_other() -> None:
    """With host anti-affinity a second replica is refused; without, it is not."""
    apart = task(constraints=Constraints(anti_affinity_hosts=True))

    assert refusals(task(), card("one"), ROOMY, runs_sibling=True) == []
    assert len(refusals(apart, card("one"), ROOMY, runs_sibling=True)) == 1


def test_selectors_see_the_cards_labels_and_place() -> None:
    """Own labels win over well-known ones; name, zone, site and organisation are there under Kubernetes' keys."""
    one = card("one", labels={"disk": "ssd", "beemesh.io/site": "cellar"})

    assert node_labels(one)["kubernetes.io/hostname"] == "one"
    assert node_labels(one)["topology.kubernetes.io/zone"] == "attic"
    assert node_labels(one)["beemesh.io/site"] == "cellar"
    assert placement_refusals(Constraints(node_selector={"disk": "ssd"}), one) == []
    assert placement_refusals(Constraints(node_selector={"disk": "hdd"}), one) == [
        "node selector wants disk=hdd, here it is 'ssd'"
    ]
    assert "no such label" in placement_refusals(Constraints(node_selector={"gpu": "yes"}), one)[0]
    assert placement_refusals(Constraints(node_name="two"), one) == ["wants node two, this is one"]


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        (Expression("disk", "In", ("ssd", "nvme")), True),
        (Expression("disk", "In", ("hdd",)), False),
        (Expression("none", "In", ("x",)), False),
        (Expression("disk", "NotIn", ("hdd",)), True),
        (Expression("none", "NotIn", ("x",)), True),
        (Expression("disk", "NotIn", ("ssd",)), False),
        (Expression("disk", "Exists"), True),
        (Expression("none", "Exists"), False),
        (Expression("none", "DoesNotExist"), True),
        (Expression("disk", "DoesNotExist"), False),
        (Expression("cores", "Gt", ("7",)), True),
        (Expression("cores", "Gt", ("8",)), False),
        (Expression("cores", "Lt", ("9",)), True),
        (Expression("none", "Lt", ("9",)), False),
        (Expression("disk", "Gt", ("1",)), False),
        (Expression("cores", "Gt", ()), False),
        (Expression("disk", "Like", ("ssd",)), False),
    ],
)
def test_selector_operators(expression: Expression, holds: bool) -> None:
    """Each operator means what it means in Kubernetes; an unknown one matches nothing."""
    assert matches(expression, {"disk": "ssd", "cores": "8"}) is holds


def test_affinity_is_a_disjunction_of_conjunctions() -> None:
    """One fitting term is enough, all of its expressions must hold, an empty term fits nobody."""
    one = card("one", labels={"disk": "ssd"})
    ssd, big = Expression("disk", "In", ("ssd",)), Expression("size", "Exists")

    assert placement_refusals(Constraints(node_affinity=((big,), (ssd,))), one) == []
    assert placement_refusals(Constraints(node_affinity=((big, ssd),)), one) == [
        "node affinity wants size Exists and disk In (ssd)"
    ]
    assert placement_refusals(Constraints(node_affinity=((),)), one) != []
    named = Expression("metadata.name", "In", ("one",))
    assert placement_refusals(Constraints(node_affinity=((named,),)), one) == []


def test_taints_repel_what_does_not_tolerate_them() -> None:
    """NoSchedule and NoExecute need a matching toleration; PreferNoSchedule refuses nobody."""
    tainted = card("one", taints=(Taint("lan", "guest"), Taint("soft", "", "PreferNoSchedule")))

    assert placement_refusals(Constraints(), tainted) == ["does not tolerate the taint lan=guest:NoSchedule"]
    for toleration, tolerated in (
        (Toleration("lan", "Equal", "guest"), True),
        (Toleration("lan", "Equal", "guest", "NoSchedule"), True),
        (Toleration("lan", "Equal", "guest", "NoExecute"), False),
        (Toleration("lan", "Equal", "other"), False),
        (Toleration("lan", "Exists"), True),
        (Toleration("", "Exists"), True),
        (Toleration("wan", "Exists"), False),
    ):
        assert (placement_refusals(Constraints(tolerations=(toleration,)), tainted) == []) is tolerated


# --- what is free -----------------------------------------------------------------------------------------------------

SEEN = ResourcesObserved(4000, 4096, 50_000, 0.5, 3000, 40_000, frozenset({22}))


def local(**policies: Any) -> LocalWork:
    """A machine that has looked at itself."""
    work = LocalWork(Reserve(cpu_percent=10, mem_mb=512, disk_mb=1024), Policies(**policies))
    work.observed = SEEN
    return work


def free(work: LocalWork, caps: Caps = Caps(), **also: Any) -> Resources:  # noqa: B008 - frozen
    """What it has."""
    resources = work.resources(caps, **also)
    assert resources is not None
    return resources


def test_headroom_is_kept_back() -> None:
    """The reserve is never offered; what the machine measures as used is not either."""
    resources = free(local())

    assert (resources.cpu_m_total, resources.mem_mb_total, resources.storage_mb_total) == (3600, 3584, 48_976)
    assert (resources.cpu_m_free, resources.mem_mb_free, resources.storage_mb_free) == (3600, 3000, 38_976)
    assert resources.ports_in_use == {("TCP", 22)}


def test_promises_count_from_the_first_moment() -> None:
    """A promise lowers what is free before the machine shows it, and is not counted twice once it does."""
    work = local()
    reqs = Requirements(1000, 1000, 0, (HostPort(8080),))
    work.promise("default/a", Promise("w", 1, 0, reqs))
    assert free(work).mem_mb_free == 2000
    assert free(work).cpu_m_free == 2600
    assert ("TCP", 8080) in free(work).ports_in_use
    work.promise("default/a", Promise("w", 1, 0, reqs, started=True))
    assert free(work).mem_mb_free == 2584
    assert free(work, also=[Requirements(mem_mb=500)]).mem_mb_free == 2084
    assert work.withdraw("default/a")
    assert not work.withdraw("default/a")
    assert free(work).mem_mb_free == 3000


def test_caps_and_overcommit() -> None:
    """The operator's caps bound what the mesh may use; overcommit lets promises exceed what is measured."""
    capped = free(local(), Caps(cpu_m=500, mem_mb=600, storage_mb=700, pods=2))
    assert (capped.cpu_m_total, capped.mem_mb_total, capped.storage_mb_total, capped.pods_max) == (500, 600, 700, 2)
    over = free(local(overcommit=Overcommit(cpu=2.0, mem=2.0)))
    assert (over.cpu_m_free, over.mem_mb_free) == (7200, 7168)


def test_a_node_that_has_not_looked_offers_nothing() -> None:
    """Before the first reading there are no resources at all."""
    assert LocalWork(Reserve(), Policies()).resources(Caps()) is None


def test_siblings_are_counted_by_ordinal() -> None:
    """Another ordinal counts once, whatever its revisions; the same ordinal's predecessor does not."""
    work = local()
    work.promise("default/h-1-0", Promise("w", 1, 0, Requirements()))
    work.promise("default/h-2-0", Promise("w", 2, 0, Requirements()))
    work.promise("default/h-1-1", Promise("w", 1, 1, Requirements()))
    work.promise("default/x-1-2", Promise("x", 1, 2, Requirements()))

    assert work.siblings("w", 0) == 1
    assert work.siblings("w", 2) == 2
