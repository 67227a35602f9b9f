"""What a broken disk garbled is not believed, and nothing that was promised before is promised a second time."""

from __future__ import annotations

from typing import Any

import pytest

from beemesh.custody.custodians import TABLE_SERVED
from beemesh.custody.messages import ReleaseAnswer
from beemesh.dht.abstention import TABLE as ROSTERS_TABLE
from beemesh.dht.compare_and_swap import TABLE as LEASES_TABLE
from beemesh.events import Claim, LeaseGranted
from simulator.world import World
from tests.unit.custody.test_release import _ask, _request, _winning_proof
from tests.unit.simulator.test_whole_nodes import running, submit, world_of

LEASE = "lease/deployment/default/db/0"


def _garble(world: World, index: int, table: str) -> int:
    """Cut every row of a table short; how many there were."""
    rows = {place: value for place, value in world.machines[index].disk.items() if place[0] == table}
    world.machines[index].disk |= {place: value[:-1] for place, value in rows.items()}
    return len(rows)


def _abstains(world: World, index: int) -> bool:
    node: Any = world.node(index).node
    replica = next(participant for participant in node._participants if participant.room == "leases")
    held: bool = replica._history.abstains(LEASE, world.now_of(world.machines[index]))
    return held


@pytest.mark.parametrize("table", [None, LEASES_TABLE, ROSTERS_TABLE])
def test_a_replica_whose_promises_were_garbled_abstains(table: str | None) -> None:
    """A grant, or the roster it was given under, that cannot be read any more: as if the disk had been lost. A replica
    whose rows are whole votes on at once."""
    world = world_of(3)
    world.event(0, Claim(LEASE, 3_000, 1_000, task_id="t", workload_id="w"))
    assert world.run_until(lambda: any(isinstance(event, LeaseGranted) for *_, event in world.events), 2)
    world.run_for(1)
    world.kill(1)
    if table is not None:
        assert _garble(world, 1, table)
    world.start(1)
    world.run_for(1)

    assert _abstains(world, 1) is (table is not None)


def test_whom_a_share_was_served_to_is_not_forgotten_by_a_garbled_disk() -> None:
    """A custodian that cannot read whom it served serves nobody: not even the one it may have served."""
    world = world_of(3)
    assert submit(world, replicas=2).accepted
    assert world.run_until(lambda: running(world) == [0, 1], 5)
    winner, proof = _winning_proof(world)
    custodian = next(index for index in range(3) if any(table == TABLE_SERVED for table, _ in _rows(world, index)))
    world.kill(custodian)
    assert _garble(world, custodian, TABLE_SERVED)
    world.start(custodian)
    world.run_for(1)

    answer, _ = _ask(world, custodian, winner, _request(world, proof))

    assert isinstance(answer, ReleaseAnswer)
    assert (answer.released, answer.box) == (False, b"")


def _rows(world: World, index: int) -> list[tuple[str, bytes]]:
    return list(world.machines[index].disk)
