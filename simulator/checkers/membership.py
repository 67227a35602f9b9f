"""Nobody is held dead who can be reached, and in the end all see all."""

from __future__ import annotations

from typing import Any

from beemesh.events import MemberDown
from simulator.checkers import Blame
from simulator.plan import Plan
from simulator.world import World

CALM_S = 40.0
"""So long after the last fault that touched either of two machines, neither may hold the other dead."""

CALM_LOSS = 0.1
"""Above this loss a mesh of some twenty may lose a member for a moment; it is told by the rate, not by one trial."""


class MembershipChecker:
    """Knows from the plan when each machine was last touched."""

    name = "membership"
    sees: tuple[type, ...] = (MemberDown,)

    def __init__(self, plan: Plan, started_s: float) -> None:
        self._loss = plan.loss
        self._touched_s: dict[int, float] = {}
        self._steps = [(started_s + step.at_s, step) for step in plan.steps]

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A death that nothing explains is a false one."""
        if not isinstance(event, MemberDown) or self._loss > CALM_LOSS:
            return
        target = world.index_of(event.node_id)
        belong = world.machines[target].is_member and world.machines[index].is_member
        if belong and world.machines[target].is_up and self._is_calm(at_s, index) and self._is_calm(at_s, target):
            blame(f"n{index} holds n{target} dead, which was never out of reach")

    def _is_calm(self, now_s: float, index: int) -> bool:
        for at_s, step in self._steps:
            whole_mesh = step.kind in ("cut", "one-way", "blackout")
            over_s = at_s + (step.amount if step.kind not in ("slow", "skew") else float("inf"))
            if (whole_mesh or index in step.machines) and at_s <= now_s <= over_s + CALM_S:
                return False
        return True

    def look(self, world: World, blame: Blame) -> None:
        """Deaths are events."""

    def at_end(self, world: World, blame: Blame) -> None:
        """Every node holds every other alive."""
        members = [machine for machine in world.machines if machine.is_member]
        for machine in members:
            if machine.composition is None:
                blame(f"n{machine.index} does not run in the end")
                continue
            alive = len(machine.composition.view.alive())
            if alive != len(members):
                blame(f"n{machine.index} holds {alive} of {len(members)} alive in the end")
