"""Making tasks, and deciding whether to believe one: the steward only names what an operator signed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from beemesh.effects import Randomness
from beemesh.errors import Untrusted
from beemesh.identity.signing import Body, Signed, Verifier, decode_body, open_statement
from beemesh.ids import ULID_RANDOM_BYTES, digest_of, is_ulid, ulid
from beemesh.intents.record import Intent, workload_key
from beemesh.membership.roster import Roster
from beemesh.scheduling.messages import TASK_KIND, SignedTask, Task
from beemesh.workloads.reconciler import StartReplica
from beemesh.workloads.record import Workload

IntentLookup = Callable[[str], tuple[Intent, Signed] | None]
"""The winning record of a key of the intent map, with the exact signed bytes."""

TASK_LIFETIME_MS = 30_000
"""How long a task may be bid for and claimed: several lease lifetimes, so that losers can step in for a dead winner."""

NONCE_BYTES = 8
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
) -> Task:
    """A task for the replica that the reconciler wants to `start` of the current revision of `workload`, whose signed
    intent is `record`; `tentative` when the steward's lease is."""
    return Task(
        task_id=ulid(wall_ms, randomness.randbytes(ULID_RANDOM_BYTES)),
        workload_id=workload.workload_id,
        namespace=workload.namespace,
        kind=workload.kind,
        revision=workload.current.number,
        replica=start.replica,
        manifest_ref=workload.current.manifest,
        record_digest=digest_of(record.body),
        expires_ms=wall_ms + TASK_LIFETIME_MS,
        issued_ms=wall_ms,
        nonce=randomness.randbytes(NONCE_BYTES),
        attempt=start.attempt,
        reqs=workload.requirements,
        qos=workload.qos,
        constraints=workload.constraints,
        avoid=start.avoid[:AVOID_MAX],
        failed=start.failed[-FAILED_MAX:],
        duplicate_tolerant=workload.duplicate_tolerant,
        restart=workload.restart,
        tentative=tentative,
        hints={"node": start.towards} if start.towards else {},
    )


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


def objection(task: Task, workload: Workload | None) -> str:
    """Why the operator's record does not support the task; empty when it does."""
    if workload is None:
        return "the workload was deleted"
    if task.workload_id != workload.workload_id or task.namespace != workload.namespace or task.kind != workload.kind:
        return "the task names another workload than its record"
    current = workload.current
    if task.revision != current.number or task.manifest_ref != current.manifest:
        return f"revision {task.revision} is not the current one ({current.number})"
    if not 0 <= task.replica < workload.replicas:
        return f"replica {task.replica} is surplus: {workload.replicas} are wanted"
    says = (task.reqs, task.constraints, task.qos, task.duplicate_tolerant, task.restart)
    wants = (
        workload.requirements,
        workload.constraints,
        workload.qos,
        workload.duplicate_tolerant,
        workload.restart,
    )
    return "" if says == wants else "the task asks for something else than the operator's record"


def record_of(task: Task, intent_for: IntentLookup) -> tuple[Intent, Signed] | None:
    """What stands in the intent map for the task's workload."""
    return intent_for(workload_key(task.workload_id))


def decoded(signed: Signed, body_type: type[Body]) -> Body | None:
    """The body of a statement that was verified before; None when it has another shape."""
    try:
        return decode_body(signed, body_type)
    except Untrusted:
        return None
