"""Making tasks, and deciding whether to believe one: the steward only names what an operator signed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from beemesh.effects import Randomness
from beemesh.errors import Untrusted
from beemesh.identity.signing import Body, Signed, Verifier, decode_body, open_statement
from beemesh.ids import ULID_RANDOM_BYTES, NodeId, digest_of, is_ulid, ulid
from beemesh.intents.record import Intent, workload_key
from beemesh.membership.roster import Roster
from beemesh.scheduling.messages import TASK_KIND, Occupancy, SignedTask, Task
from beemesh.workloads.daemons import DAEMON_SET, may_have
from beemesh.workloads.podspec import pod_name
from beemesh.workloads.reconciler import StartReplica
from beemesh.workloads.record import Workload
from beemesh.workloads.settings import NEAR

IntentLookup = Callable[[str], tuple[Intent, Signed] | None]
"""The winning record of a key of the intent map, with the exact signed bytes."""

TASK_LIFETIME_MS = 30_000
"""How long a task may be bid for and claimed: several lease lifetimes, so that losers can step in for a dead winner."""

NONCE_BYTES = 8

TASK_BYTES_MAX = 32 * 1024
"""Of a task's body: a hundred times the usual, as much as half of what a record may hold."""

BID_BYTES_MAX = 2 * 1024
"""Of a bid's: a few times the usual."""

OFFER_BYTES_MAX = 16 * 1024
"""Of an answer to a steward: a bid, or all reasons against the node."""

FAILED_MAX = 8
"""Nodes in a task's `failed`: as many as attempts are made."""

AVOID_MAX = 32
"""Nodes in a task's `avoid`: 1 KiB of it. With more replicas than that, each node's own count of them spreads."""


def workload_of(found: tuple[Intent, Signed] | None) -> Workload | None:
    """The workload in a record; None for no record, a tombstone or another kind."""
    if found is None or found[0].kind != "workload":
        return None
    return msgspec.msgpack.decode(found[0].body, type=Workload)


def make_task(
    workload: Workload,
    record: Signed,
    start: StartReplica,
    wall_ms: int,
    randomness: Randomness,
    *,
    tentative: bool = False,
    occupancy: tuple[Occupancy, ...] = (),
) -> Task:
    """A task for the replica that the reconciler wants to `start` of a kept revision of `workload`, whose signed intent
    is `record`; `tentative` when the steward's lease is, `occupancy` as `scheduling.surroundings` counts it."""
    revision = workload.revision(start.revision)
    asks = workload.as_of(start.revision)
    assert revision is not None and asks is not None, "the reconciler starts kept revisions only"
    return Task(
        task_id=ulid(wall_ms, randomness.randbytes(ULID_RANDOM_BYTES)),
        workload_id=workload.workload_id,
        namespace=workload.namespace,
        kind=workload.kind,
        revision=revision.number,
        replica=start.replica,
        manifest_ref=revision.manifest,
        record_digest=digest_of(record.body),
        expires_ms=wall_ms + TASK_LIFETIME_MS,
        issued_ms=wall_ms,
        nonce=randomness.randbytes(NONCE_BYTES),
        attempt=start.attempt,
        reqs=asks.requirements,
        qos=asks.qos,
        constraints=asks.constraints,
        avoid=start.avoid[:AVOID_MAX],
        failed=start.failed[-FAILED_MAX:],
        duplicate_tolerant=asks.duplicate_tolerant,
        restart=asks.restart,
        instead_of=0 if revision is workload.current else workload.current.number,
        tentative=tentative,
        hints=_hints(workload, start),
        occupancy=occupancy,
    )


def pod_of(task: Task) -> str:
    """The pod's name for a task."""
    return pod_name(task.kind, task.workload_id.rpartition("/")[2], task.revision, task.replica)


def pod_key(namespace: str, pod: str) -> str:
    """`<namespace>/<pod name>`: one pod on a node."""
    return f"{namespace}/{pod}"


def _hints(workload: Workload, start: StartReplica) -> dict[str, str]:
    """Where the replica is moved to, and what it had rather be near to."""
    hints = {"node": start.towards, "near": workload.annotations.get(NEAR, "")}
    return {name: value for name, value in hints.items() if value}


def open_member_statement(
    verifier: Verifier, roster: Roster, signed: Signed, kind: str, body_type: type[Body], wall_ms: int
) -> Body:
    """The body of a statement that a member in good standing (grace included) signed; raises `Untrusted`."""
    member = roster.member(signed.signer)
    if member is None or roster.standing(signed.signer, wall_ms) == "out":
        raise Untrusted(f"a signed {kind} comes from no member of this mesh")
    return open_statement(verifier, signed, kind, member.sign_key, body_type)


def open_task(verifier: Verifier, roster: Roster, message: SignedTask, wall_ms: int, skew_ms: int) -> Task:
    """The task in `message`, when a member signed it and it is of this time; raises `Untrusted`."""
    task = open_member_statement(verifier, roster, message.task, TASK_KIND, Task, wall_ms)
    if not is_ulid(task.task_id):
        raise Untrusted("a task's id is no ulid")
    if not 0 < task.expires_ms - task.issued_ms <= TASK_LIFETIME_MS:
        raise Untrusted("a task's lifetime is out of bounds")
    if task.expires_ms + skew_ms < wall_ms or task.issued_ms - skew_ms > wall_ms:
        raise Untrusted("a task is not of this time")
    return task


def names_record(task: Task, found: tuple[Intent, Signed] | None) -> bool:
    """Whether `found` is the very record that the task names."""
    return found is not None and digest_of(found[1].body) == task.record_digest


def objection(task: Task, workload: Workload | None, node_id: NodeId) -> str:
    """Why the operator's record does not support that `node_id` takes the task; empty when it does."""
    if workload is None:
        return "the workload was deleted"
    if task.workload_id != workload.workload_id or task.namespace != workload.namespace or task.kind != workload.kind:
        return "the task names another workload than its record"
    asks = _asked_for(task, workload)
    if asks is None:
        return f"revision {task.revision} is not the current one ({workload.current.number})"
    if not may_have(workload, task.replica, node_id):
        if workload.kind == DAEMON_SET:
            return f"replica {task.replica} belongs to another node"
        return f"replica {task.replica} is surplus: {workload.replicas} are wanted"
    says = (task.reqs, task.constraints, task.qos, task.duplicate_tolerant, task.restart)
    wants = (asks.requirements, asks.constraints, asks.qos, asks.duplicate_tolerant, asks.restart)
    return "" if says == wants else "the task asks for something else than the operator's record"


def startable_as_of(workload: Workload, number: int) -> Workload | None:
    """What the record asks for of a revision; None when it supports no task for that one. An older revision is started
    where the operator lets a failed one be taken back, or has paused its rollout."""
    goes_back = workload.strategy.rollback == "auto" or workload.strategy.paused
    return workload.as_of(number) if goes_back or number == workload.current.number else None


def _asked_for(task: Task, workload: Workload) -> Workload | None:
    """What the record asks for of the task's revision; None when it does not support this task for it."""
    revision = workload.revision(task.revision)
    if revision is None or task.manifest_ref != revision.manifest:
        return None
    if revision is not workload.current and task.instead_of != workload.current.number:
        return None
    return startable_as_of(workload, revision.number)


def record_of(task: Task, intent_for: IntentLookup) -> tuple[Intent, Signed] | None:
    """What stands in the intent map for the task's workload."""
    return intent_for(workload_key(task.workload_id))


def decoded(signed: Signed, body_type: type[Body]) -> Body | None:
    """The body of a statement that was verified before; None when it has another shape."""
    try:
        return decode_body(signed, body_type)
    except Untrusted:
        return None
