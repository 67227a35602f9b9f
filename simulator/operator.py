"""What an operator does in a simulated mesh: grant themselves rights, seal workloads and hand them to some node."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from beemesh.composition import Composition
from beemesh.custody.sealing import SealedContent, place_of, plan_custody, seal
from beemesh.errors import BeemeshError, Unavailable
from beemesh.events import PutIntent, Submit
from beemesh.identity.grants import Grant, Revocation
from beemesh.identity.key_rotation import RING_KEY, rotation
from beemesh.identity.signing import decode_body
from beemesh.ids import NodeId, OperatorId, digest_of
from beemesh.intents.record import (
    Cordon,
    Intent,
    IntentKind,
    cordon_key,
    operator_key,
    priority_key,
    revoked_key,
    workload_key,
)
from beemesh.workloads.policies import PriorityClass
from beemesh.workloads.record import Requirements, Workload
from beemesh.workloads.revising import with_revision
from simulator.machine import Machine
from simulator.world import MESH, YEAR_MS, World


def grant_operator(world: World) -> None:
    """Make the world's operator an admin, in the records that every node starts with."""
    operator = world.operator
    grant = Grant(
        MESH, OperatorId(operator.signer_id), "ops", operator.sign_key, operator.open_key,
        "admin", 1, world.wall_ms, world.wall_ms + YEAR_MS,
    )  # fmt: skip
    world.records.append(world.sign_ca("grant", operator_key("ops"), grant))


@dataclass(frozen=True, slots=True)
class Policy:
    """A record of an operator that is no workload: a quota, a priority class, a disruption budget."""

    kind: IntentKind
    key: str
    body: msgspec.Struct


def set_policy(world: World, policy: Policy) -> None:
    """Put it into the records that every node starts with."""
    world.records.append(world.sign(world.operator, policy.kind, policy.key, policy.body))


def add_classes(world: World, classes: Iterable[PriorityClass]) -> None:
    """What people may call important, in the records that every node starts with."""
    for each in classes:
        set_policy(world, Policy("priority", priority_key(each.name), each))


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
    composition = _asked(world, index)
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
    key = cordon_key(cordon.node)
    found = _asked(world, index).intents.get(key)
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


def change_key(world: World, index: int, key: bytes, *, without: NodeId | None = None) -> None:
    """Change the gossip key by a record that is put at a node and has the key for all its members but `without`, to
    keep that one out; raises `BeemeshError` when the node cannot be asked."""
    composition = _asked(world, index)
    members = [card for card in composition.roster.members() if card.node_id != without]
    body = rotation(world.operator, MESH, members, key, urgent=without is not None)
    world.event(index, PutIntent(world.sign(world.operator, "ring", RING_KEY, body, world.wall_ms)))


def remove(world: World, index: int, machine: Machine, key: bytes) -> None:
    """Take a machine out of the mesh by a record that is put at another one, and change the gossip key; raises
    `BeemeshError` when that one cannot be asked. The machine itself goes on until it is unplugged."""
    _asked(world, index)
    node_id = machine.membership.node_id
    body = Revocation(MESH, "node", node_id, machine.spec.name, world.wall_ms)
    machine.is_member = False
    world.event(index, PutIntent(world.sign_ca("revocation", revoked_key("node", node_id), body)))
    change_key(world, index, key, without=node_id)


def unplug(world: World, machine: Machine) -> None:
    """A machine that was removed goes for good, with all that runs there."""
    world.kill(machine.index, power=True, disk=False)


def is_alone(world: World, index: int) -> bool:
    """Whether a node sees nobody else: what it accepts is on its own disk alone, and rightly lost with that."""
    composition = world.machines[index].composition
    return composition is not None and len(composition.view.alive()) == 1


def may_be_lost(world: World, index: int, *, forgetful: bool) -> bool:
    """Whether what a node accepts now may rightly be lost: with its disk, where disks are lost in this trial
    (`forgetful`), or with itself, when it was removed already."""
    return is_alone(world, index) and (forgetful or not world.machines[index].is_member)


def _asked(world: World, index: int) -> Composition:
    machine = world.machines[index]
    if machine.composition is None or machine.paused_until_s > world.now_s:
        raise Unavailable(f"{machine.spec.name} does not answer")
    return machine.composition
