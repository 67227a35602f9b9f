"""What one member says over streams, where a message may have megabytes, does not stay with those who hear it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import msgspec
import pytest

from beemesh.identity.signing import sign_statement
from beemesh.ids import BOOT_ID_BYTES, DIGEST_BYTES, BootId, Digest, NodeId, ulid
from beemesh.intents.messages import IntentEntry, IntentNews
from beemesh.intents.record import IntentVersion
from beemesh.membership.messages import Alive, Claim, Claims, Ping
from beemesh.outward import Tell, Transmit
from beemesh.scheduling.messages import TASK_KIND, SignedTask, Task
from simulator.network import copied
from simulator.world import World

MUCH = 1 << 20
TIMES = 8
KEPT_BYTES_MAX = 256 * 1024


def _task(world: World, number: int) -> msgspec.Struct:
    some, now_ms = Digest(bytes(32)), world.wall_ms
    task = Task(
        task_id=ulid(now_ms, number.to_bytes(10, "big")),
        workload_id="deployment/default/x",
        namespace="default",
        kind="Deployment",
        revision=1,
        replica=number,
        manifest_ref=some,
        record_digest=some,
        expires_ms=now_ms + 30_000,
        issued_ms=now_ms,
        nonce=b"n",
        hints={"x": "y" * MUCH},
    )
    return SignedTask(sign_statement(world.machines[1].crypto, TASK_KIND, task))


def _stranger(_world: World, number: int) -> msgspec.Struct:
    alive = Alive(NodeId(number.to_bytes(32, "big")), 1, BootId(bytes(BOOT_ID_BYTES)), "", 1, 0)
    return Claims((Claim("alive", msgspec.msgpack.encode(alive), bytes([number + 1]) * MUCH),))


def _kind(_world: World, number: int) -> msgspec.Struct:
    return Claims((Claim(str(number) + "x" * MUCH, b"", bytes(64)),))  # type: ignore[arg-type]


def _key(_world: World, number: int) -> msgspec.Struct:
    return IntentNews(IntentEntry(str(number) + "x" * MUCH, IntentVersion(1, 1, bytes(DIGEST_BYTES))))


def _digest(_world: World, number: int) -> msgspec.Struct:
    return IntentNews(IntentEntry(f"workload/deployment/default/x{number}", IntentVersion(1, 1, bytes(MUCH))))


@pytest.mark.parametrize("make", [_task, _stranger, _kind, _key, _digest])
def test_nobody_keeps_what_is_too_large_to_be_honest(make: Callable[[World, int], msgspec.Struct]) -> None:
    """Eight megabytes of each kind of statement leave less than a quarter of one behind, asked for nowhere."""
    world = World(3, seed=1)
    world.start_all()
    world.run_for(5)
    target, sender = world.machines[0], world.machines[1].membership.node_id
    assert target.composition is not None
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(TIMES):
            heard = copied(make(world, number))[0]
            effects = target.composition.node.told(sender, heard, world.now_of(target))
            asked = sum(len(each.data) for each in effects if isinstance(each, Transmit))
            assert asked < KEPT_BYTES_MAX
            del heard, effects
        assert tracemalloc.get_traced_memory()[0] - before < KEPT_BYTES_MAX
    finally:
        tracemalloc.stop()


def test_a_ping_with_a_long_nonce_is_not_answered() -> None:
    """The answer would not fit into a datagram: a stream would be opened, to wherever the sender says that it is."""
    world = World(3, seed=1)
    world.start_all()
    world.run_for(5)
    target, sender = world.machines[0], world.machines[1].membership.node_id
    assert target.composition is not None

    said = target.composition.node.told(sender, Ping(bytes(1_000), hello=True), world.now_of(target))

    assert not [each for each in said if isinstance(each, Tell | Transmit)]
