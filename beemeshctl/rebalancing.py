"""Carrying out a proposal of moves: one short-lived signed order per node that something leaves, then watching."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from beemesh.errors import Unreachable
from beemesh.intents.record import Move
from beemesh.scheduling.stewardship.layout import Layout
from beemesh.scheduling.stewardship.rebalance import ProposedMove
from beemeshctl.client import Client
from beemeshctl.clock import wall_ms
from beemeshctl.layout import read_layout
from beemeshctl.node_orders import NodeOrders
from beemeshctl.render import counted

POLL_S = 0.5

ORDER_LASTS_S = 600
"""How long an order to move single replicas holds: a long pull fits; after it the mesh is left as it is."""


def order(client: Client, moves: Sequence[ProposedMove]) -> None:
    """Sign the orders; from here on the mesh goes on by itself."""
    orders = NodeOrders(client)
    until_ms = wall_ms() + ORDER_LASTS_S * 1000
    for source in sorted({each.source for each in moves}):
        wanted = tuple(Move(each.workload, each.replica, each.target) for each in moves if each.source == source)
        before = orders.of(source)
        orders.put(msgspec.structs.replace(before, moves=wanted, moves_until_ms=until_ms))


def wait(
    client: Client,
    moves: Sequence[ProposedMove],
    timeout_s: float,
    tell: Callable[[str], None],
    progress: Callable[[str], None],
) -> list[str]:
    """Until every replica has left its node; those that did, as `<namespace>/<pod>`. Raises `Unreachable` when time is
    over, with what is left."""
    deadline_s = time.monotonic() + timeout_s
    left = list(moves)
    done: list[str] = []
    while left:
        layout = read_layout(client)
        for each in [each for each in left if _has_left(layout, each)]:
            left.remove(each)
            done.append(f"{each.namespace}/{each.pod}")
            tell(f"pod/{each.pod} left {each.source} for {each.target}")
        if left and time.monotonic() > deadline_s:
            names = ", ".join(f"{each.namespace}/{each.pod} on {each.source}" for each in left)
            raise Unreachable(
                f"not moved within {timeout_s:g} s: {names}",
                hint=f"the mesh tries for {ORDER_LASTS_S} s in all; `beemeshctl events` tells why one does not start",
            )
        if left:
            progress(f"{counted(len(left), 'replica')} to move")
            time.sleep(POLL_S)
    return done


def _has_left(layout: Layout, move: ProposedMove) -> bool:
    same = [pod for pod in layout.pods if (pod.workload_id, pod.replica) == (move.workload, move.replica)]
    return any(pod.ready for pod in same) and all(pod.node != move.source for pod in same)
