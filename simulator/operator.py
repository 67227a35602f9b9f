"""What an operator does in a simulated mesh: grant themselves rights, seal workloads and hand them to some node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from beemesh.custody.sealing import SealedContent, place_of, plan_custody, seal
from beemesh.errors import BeemeshError, Unavailable
from beemesh.events import PutIntent, Submit
from beemesh.identity.grants import Grant
from beemesh.identity.signing import decode_body
from beemesh.ids import OperatorId, digest_of
from beemesh.intents.record import Cordon, Intent, cordon_key, operator_key, workload_key
from beemesh.workloads.record import Requirements, Workload
from beemesh.workloads.revising import with_revision
from simulator.world import MESH, YEAR_MS, World


def grant_operator(world: World) -> None:
    """Make the world's operator an admin, in the records that every node starts with."""
    operator = world.operator
    grant = Grant(
        MESH, OperatorId(operator.signer_id), "ops", operator.sign_key, operator.open_key,
        "admin", 1, world.wall_ms, world.wall_ms + YEAR_MS,
    )  # fmt: skip
    world.records.append(world.sign_ca("grant", operator_key("ops"), grant))


def deployment(
    name: str, replicas: int, *, cpu_m: int = 10, mem_mb: int = 16, tolerant: bool = True, **more: Any
) -> Workload:
    """A workload that nobody has sealed yet; `more` are other fields of it."""
    return Workload(
        kind="Deployment",
        namespace="default",
        name=name,
        replicas=replicas,
        revisions=(),
        requirements=Requirements(cpu_m=cpu_m, mem_mb=mem_mb),
        duplicate_tolerant=tolerant,
        **more,
    )


def submission(world: World, index: int, draft: Workload, token: int) -> tuple[Intent, Submit]:
    """Seal a workload as it is to be (its revisions are made here) for a node: what is signed, and what to hand in.

    The node's `Submitted` bears the token, and may come at once. What only changes the number of replicas keeps its
    revision. Raises `BeemeshError` when the node cannot be asked, or too few keepers are alive for the shares.
    """
    machine = world.machines[index]
    composition = machine.composition
    if composition is None or machine.paused_until_s > world.now_s:
        raise Unavailable(f"{machine.spec.name} does not answer")
    key = workload_key(draft.workload_id)
    found = composition.intents.get(key)
    seq = found[0].seq + 1 if found is not None else 1
    ciphertext, boxes = b"", tuple[tuple[int, bytes], ...]()
    before = msgspec.msgpack.decode(found[0].body, type=Workload) if found and found[0].kind == "workload" else None
    revisions = before.revisions if before is not None else ()
    if before is None or msgspec.structs.replace(before, replicas=draft.replicas, revisions=()) != draft:
        keepers = [card for card in composition.roster.keepers() if composition.view.is_alive(card.node_id)]
        sealed = seal(
            world.operator,
            digest_of(f"{token} {draft.workload_id}".encode()),
            SealedContent(b"{}"),
            plan_custody(keepers, place_of(key)),
            mesh=MESH,
            intent_key=key,
            number=before.current.number + 1 if before is not None else 1,
            fingerprint=b"f",
        )
        ciphertext, boxes = sealed.ciphertext, sealed.boxes
        revisions = (sealed.revision,)
        if before is not None:
            revisions = with_revision(before, draft, sealed.revision, world.wall_ms, "apply").revisions
    body = msgspec.structs.replace(draft, revisions=revisions)
    record = world.sign(world.operator, "workload", key, body, seq)
    return decode_body(record, Intent), Submit(token, record, ciphertext, boxes)


def revise(
    world: World, index: int, workload_id: str, change: Callable[[Workload], Workload], token: int
) -> tuple[Intent, Submit]:
    """Change what stands at a node without sealing anything anew: undo, restart, pause.

    Raises `BeemeshError` when it knows no such workload, or the change cannot be made."""
    composition = world.machines[index].composition
    key = workload_key(workload_id)
    found = composition.intents.get(key) if composition is not None else None
    if found is None or found[0].kind != "workload":
        raise BeemeshError(f"{world.machines[index].spec.name} knows no {workload_id}")
    body = change(msgspec.msgpack.decode(found[0].body, type=Workload))
    record = world.sign(world.operator, "workload", key, body, found[0].seq + 1)
    return decode_body(record, Intent), Submit(token, record)


def order_node(world: World, index: int, cordon: Cordon) -> None:
    """Cordon, drain or uncordon a node by a record that is put at another one; raises `BeemeshError` when that one
    cannot be asked."""
    machine = world.machines[index]
    if machine.composition is None or machine.paused_until_s > world.now_s:
        raise Unavailable(f"{machine.spec.name} does not answer")
    key = cordon_key(cordon.node)
    found = machine.composition.intents.get(key)
    seq = found[0].seq + 1 if found is not None else 1
    world.event(index, PutIntent(world.sign(world.operator, "cordon", key, cordon, seq)))


def withdraw(world: World, index: int, workload_id: str) -> None:
    """Delete a workload at a node; raises `BeemeshError` when it knows none."""
    composition = world.machines[index].composition
    key = workload_key(workload_id)
    found = composition.intents.get(key) if composition is not None else None
    if found is None:
        raise BeemeshError(f"{world.machines[index].spec.name} knows no {workload_id}")
    world.event(index, PutIntent(world.sign(world.operator, "tombstone", key, None, found[0].seq + 1)))
