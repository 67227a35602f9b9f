"""Nobody is held dead by whoever reaches it, and in the end all see all."""

from __future__ import annotations

from typing import Any

from beemesh.events import MemberDown
from beemesh.membership.settings import SwimSettings
from beemesh.membership.suspicion import ACCUSERS_NEEDED, CONFIRMATIONS_WANTED, timeout_bounds_s, timeout_s
from simulator.checkers import Blame
from simulator.touch import Touch
from simulator.world import World


class MembershipChecker:
    """Whoever reaches the accused ignores the accusers, so a suspicion that began while its holder and the suspect were
    in touch must not end in a death: it is verified at once, and the suspect has all its time to refute it.

    One that began before may be right, and nobody verifies it again: it is excused until its time is over."""

    name = "membership"
    sees: tuple[type, ...] = (MemberDown,)

    def __init__(self) -> None:
        self._touch = Touch()

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """A death that nothing explains is a false one."""
        if not isinstance(event, MemberDown):
            return
        self._touch.look(world)
        target = world.index_of(event.node_id)
        in_touch_s = self._touch.lasts_s(world.now_s, index, target)
        suspected_s = _suspected_s(world, index, event)
        if in_touch_s > min(suspected_s, _excused_s(world)):
            told = f"in touch for {in_touch_s:.1f} s, suspected for {suspected_s:.1f} s"
            blame(f"n{index} holds n{target} dead, which it reaches: {told}")

    def look(self, world: World, blame: Blame) -> None:
        """Deaths are events; what excuses them is not."""
        self._touch.look(world)

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


def _excused_s(world: World) -> float:
    """How long a suspicion lasts that has the accusers that a death takes."""
    members = sum(machine.is_member for machine in world.machines)
    bounds_s = timeout_bounds_s(members, SwimSettings().probe_interval_s)
    return timeout_s(ACCUSERS_NEEDED - 1, CONFIRMATIONS_WANTED, *bounds_s)


def _suspected_s(world: World, index: int, event: MemberDown) -> float:
    """For how long a node has suspected whom it holds dead now; 0 for a death without a suspicion."""
    machine = world.machines[index]
    row = machine.composition.swim.members.get(event.node_id) if machine.composition is not None else None
    if row is None or row.suspicion is None:
        return 0.0
    return world.now_of(machine).boot_s - row.suspicion.since_s
