"""What a node demands before it runs, or stops for, an older revision: the operator's record must allow it."""

from __future__ import annotations

import random

import msgspec
import pytest

from beemesh.identity.signing import sign_statement
from beemesh.scheduling.execution.orders import objection_to
from beemesh.scheduling.messages import LEASE_KIND, Lease, LeaseProof, Task
from beemesh.scheduling.tasks import make_task, objection
from beemesh.workloads.observation import ReplicaReport, StopReplica
from beemesh.workloads.reconciler import StartReplica
from beemesh.workloads.record import Requirements, Strategy, Terms, Workload
from simulator.crypto import FakeCrypto
from tests.unit.scheduling.samples import WALL_MS, record, revision, workload
from tests.unit.scheduling.test_hosting import KEY, TWO, check

TERMS = Terms(requirements=Requirements(cpu_m=7, mem_mb=7))


def wanted(strategy: Strategy | None = None) -> Workload:
    """Revision 2 over revision 1, which asked for less."""
    revisions = (revision(2), msgspec.structs.replace(revision(1), terms=TERMS))
    return workload(replicas=3, revisions=revisions, strategy=strategy or Strategy())


def older(workload_: Workload) -> Task:
    """A task for revision 1."""
    return make_task(workload_, record(workload_)[1], StartReplica(1, 0), WALL_MS, random.Random(1))


def test_a_task_for_an_older_revision_asks_what_that_asked() -> None:
    """It names the current one, and has the terms of its own."""
    task = older(wanted())

    assert (task.revision, task.instead_of, task.reqs) == (1, 2, TERMS.requirements)
    assert objection(task, wanted(), TWO) == ""
    assert objection(older(wanted()), wanted(Strategy(paused=True, rollback="never")), TWO) == ""


@pytest.mark.parametrize(
    ("changes", "strategy"),
    [
        ({}, Strategy(rollback="never")),
        ({"instead_of": 0}, Strategy()),
        ({"instead_of": 3}, Strategy()),
        ({"revision": 9}, Strategy()),
        ({"manifest_ref": revision(2).manifest}, Strategy()),
        ({"reqs": Requirements(cpu_m=100, mem_mb=64)}, Strategy()),
    ],
)
def test_what_the_record_does_not_support_is_refused(changes: dict[str, object], strategy: Strategy) -> None:
    """Forbidden by the operator, without the current revision's number, of a revision that is not kept, with another
    manifest, or with other terms."""
    task = msgspec.structs.replace(older(wanted()), **changes)

    assert objection(task, wanted(strategy), TWO)


def stop(to: int, strategy: Strategy | None = None) -> str:
    """What a node that runs revision 2 says to an order to stop it as outdated, in favour of `to`."""
    lease = Lease(KEY, TWO, "", 1, 15_000, 1, b"n")
    proof = LeaseProof(sign_statement(FakeCrypto(b"x"), LEASE_KIND, lease), ())
    report = ReplicaReport("hello-2-0", "deployment/default/hello", "default", "Deployment", 2, 0, TWO, "Running")
    order = StopReplica("deployment/default/hello", 0, 2, "", "outdated", proof, rollback_to=to)
    return objection_to(order, TWO, report, wanted(strategy), check, WALL_MS)


def test_the_current_revision_stops_only_for_a_kept_older_one() -> None:
    """And only where the operator lets a failed revision be taken back."""
    assert stop(1) == ""
    assert "is the current one" in stop(0)
    assert "is the current one" in stop(2)
    assert "is the current one" in stop(9)
    assert "is the current one" in stop(1, Strategy(rollback="never"))
