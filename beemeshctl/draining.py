"""Draining nodes: plan, order, and tell how far the mesh has come until nothing is left to move."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from beemesh.errors import BeemeshError, Unreachable
from beemesh.intents.record import Cordon, Drain
from beemesh.scheduling.stewardship.drain_plan import DrainPlan, left_on, plan_drain
from beemesh.scheduling.stewardship.layout import Layout, Pod
from beemeshctl.client import Client
from beemeshctl.clock import wall_ms
from beemeshctl.layout import read_layout
from beemeshctl.node_orders import NodeOrders
from beemeshctl.render import counted

POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class DrainWish:
    """What the operator asks for. `grace_s` -1 leaves each pod its own; `timeout_s` 0 waits for ever."""

    names: tuple[str, ...]
    grace_s: int = -1
    force: bool = False
    ignore_daemons: bool = False
    reason: str = ""
    timeout_s: float = 0.0


class Drainer:
    """One drain of one or more nodes."""

    def __init__(self, client: Client, wish: DrainWish) -> None:
        """Raises `NotFound` for a node that the mesh does not know."""
        self._client = client
        self._wish = wish
        self._orders = NodeOrders(client)
        self._names = [card.name for card in self._orders.nodes(wish.names)]

    def plans(self) -> list[DrainPlan]:
        """What would be done, as the mesh is now; none of the nodes is a place for what leaves another."""
        layout = self._without_each_other(read_layout(self._client))
        how = {"force": self._wish.force, "ignore_daemons": self._wish.ignore_daemons}
        return [plan_drain(layout, name, **how) for name in self._names]

    def _without_each_other(self, layout: Layout) -> Layout:
        hosts = {
            name: replace(host, cordoned=True) if name in self._names else host for name, host in layout.hosts.items()
        }
        return replace(layout, hosts=hosts)

    def order(self, plans: Sequence[DrainPlan], tell: Callable[[str], None]) -> None:
        """Sign the orders; from here on the mesh goes on by itself. Raises when something forbids to begin."""
        refuse(plans)
        for name in self._names:
            drain = Drain(grace_s=self._wish.grace_s, force=self._wish.force, requested_ms=wall_ms())
            before = self._orders.of(name)
            self._orders.put(Cordon(name, True, self._wish.reason or before.reason, drain))
            tell(f"node/{name} already cordoned" if before.cordoned else f"node/{name} cordoned")

    def wait(self, tell: Callable[[str], None], progress: Callable[[str], None]) -> None:
        """Until nothing but daemons is left, telling of each pod that left; raises `Unreachable` when time is over."""
        deadline_s = time.monotonic() + self._wish.timeout_s if self._wish.timeout_s else float("inf")
        before: dict[tuple[str, str, str], Pod] = {}
        drained: set[str] = set()
        while True:
            layout = read_layout(self._client)
            left = {_key(pod): pod for name in self._names for pod in left_on(layout, name)}
            for key in sorted(before.keys() - left.keys()):
                tell(f"pod/{before[key].name} left {before[key].node}{_where(layout, before[key])}")
            for name in self._names:
                if name not in drained and all(pod.node != name for pod in left.values()):
                    drained.add(name)
                    tell(f"node/{name} drained")
            if not left:
                return
            if time.monotonic() > deadline_s:
                raise self._late(left)
            progress(f"{counted(len(left), 'pod')} to leave: {', '.join(sorted(pod.name for pod in left.values()))}")
            before = left
            time.sleep(POLL_S)

    def _late(self, left: dict[tuple[str, str, str], Pod]) -> Unreachable:
        against = {
            (plan.node, each.namespace, each.pod): each.reason for plan in self.plans() for each in plan.blockers
        }
        lines = [
            f"{pod.namespace}/{pod.name} on {pod.node}: {against.get(key, 'it is on its way')}"
            for key, pod in sorted(left.items())
        ]
        return Unreachable(
            f"not drained within {self._wish.timeout_s:g} s:\n  " + "\n  ".join(lines),
            hint="the mesh goes on with it; run the same again to wait, or `beemeshctl node uncordon` to take it back",
        )


def refuse(plans: Sequence[DrainPlan]) -> None:
    """Raise with everything that forbids to begin."""
    refused = [(plan.node, each) for plan in plans for each in plan.refused]
    if not refused:
        return
    needs = sorted({each.needs for _, each in refused})
    lines = [f"{each.namespace}/{each.pod} on {node}: {each.reason}" for node, each in refused]
    raise BeemeshError(
        "nothing was done, because of:\n  " + "\n  ".join(lines),
        hint=f"{' and '.join(needs)} would go on all the same; `--dry-run` shows what would be done",
    )


def _key(pod: Pod) -> tuple[str, str, str]:
    return pod.node, pod.namespace, pod.name


def _where(layout: Layout, gone: Pod) -> str:
    """Where its successor runs, when it can be seen already."""
    successor = layout.successor(gone)
    return f", it runs on {successor.node}" if successor is not None else ""
