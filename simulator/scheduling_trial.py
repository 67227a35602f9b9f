"""A trial of scheduling: operators at work all along while faults last, machines of all sizes, moody engines."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from beemesh.events import Submitted
from beemesh.intents.record import Intent
from simulator.checkers import Checker
from simulator.checkers.census import Census
from simulator.checkers.custody import CustodyChecker
from simulator.checkers.disruptions import DisruptionChecker
from simulator.checkers.doubles import DoubleChecker
from simulator.checkers.durability import DurabilityChecker
from simulator.checkers.fences import FenceChecker
from simulator.checkers.intents import IntentChecker
from simulator.checkers.jobs import JobChecker
from simulator.checkers.membership import MembershipChecker
from simulator.checkers.ordinals import OrdinalChecker
from simulator.checkers.outcomes import OutcomeChecker
from simulator.checkers.overlaps import OverlapChecker
from simulator.checkers.placements import PlacementChecker
from simulator.checkers.preemptions import PreemptionChecker
from simulator.checkers.quotas import QuotaChecker
from simulator.checkers.reservations import ReservationChecker
from simulator.checkers.run_leases import RunLeaseChecker
from simulator.checkers.storms import StormChecker
from simulator.checkers.wire import WireChecker
from simulator.demand import CLASSES, draw_demand
from simulator.fleet import KEEPERS_MIN, draw_fleet
from simulator.mock_runtime import MockRuntime
from simulator.operator import add_classes, grant_operator
from simulator.ordeal import Ordeal
from simulator.panel import Panel
from simulator.plan import FORMING_S, draw, with_absences, with_stuck_engines
from simulator.script import ACTIONS, CHANGES, Action, Desk, draw_script
from simulator.turnover import leave_out

SECONDS = 20.0
"""How long faults last, unless told otherwise: four times as long as the forming, and short enough for ten thousand."""

LATER_PART = 0.4
LATER_S = 12.0
"""Trials in which operators go on after the last fault, with what runs by then, and for how long: while faults last
much of what they change has not begun to run."""

SETTLED_S = 12.0
"""Until then most of it runs."""

HEAL_S = 300.0
"""After the last fault everything must be as it should within this time: leases run out, whoever lost its disk abstains
for twice the longest of them, what failed waits for its next try, and a rollout of ten replicas goes on where each
takes half a minute, for its victim and its predecessor to end."""

WELL_S = 6.0
"""A trial ends when all has been well for so long, and `DOUBLES_S` have passed."""

DOUBLES_S = 14.0
"""Duplicates have 10 s to go after the last fault: whoever does not look for longer does not see them stay."""

ABSENT = (0, 0, 1, 3)
"""Machines that are not there at first and may join; drawn."""

LOAD = (0.5, 4.0)
"""Least and most that a replica needs, beside what its draft says: from a fleet that idles to one without room."""


class SchedulingTrial(Ordeal):
    """One seed. The same seed, size and duration give the same trace."""

    def __init__(self, seed: int, nodes: int, seconds: float, *, until_first: bool = False) -> None:
        """`nodes` 0 draws their number; with `until_first` it ends at the first violation."""
        chance = random.Random(f"scheduling {seed}")  # noqa: S311 - a simulation wants chance that repeats
        fleet = draw_fleet(chance, nodes)
        self.demand = draw_demand(seed, len(fleet))
        fleet = self.demand.owned(fleet)
        drawn = draw(chance, len(fleet), seconds)
        in_time = tuple(step for step in drawn.steps if step.at_s < seconds)  # sixty nodes restart one after the other
        plan = replace(drawn, steps=in_time, applies=(), locks=(), rivals=())
        engines = random.Random(f"engines {seed}")  # noqa: S311
        plan = with_stuck_engines(plan, engines, len(fleet), seconds)
        plan = with_absences(plan, random.Random(f"absences {seed}"))  # noqa: S311
        super().__init__(seed, seconds, chance, plan, fleet, until_first=until_first)
        self._submitted: dict[int, Intent] = {}
        self.script = draw_script(chance, seconds)
        load, others = chance.uniform(*LOAD), range(KEEPERS_MIN, len(fleet))
        self.later = self._draw_later()
        self._absent = chance.sample(others, min(chance.choice(ABSENT), len(others)))
        self._desk = Desk(
            self.world,
            self._submitted,
            self._tell,
            self.demand.load(load),
            self.demand,
            list(self._absent),
            forgetful="wipe" in plan.kinds,
        )
        self._runtime = MockRuntime(self.world, seed)
        self.doubles = DoubleChecker(self._runtime)
        self.outcomes = OutcomeChecker(self._runtime, seed)
        self.census = Census()

    def _phases(self) -> None:
        grant_operator(self.world)
        add_classes(self.world, CLASSES)
        self._panel = Panel(self.world, self._checkers(), self._blame)
        self.world.watch = self._saw
        leave_out(self.world, self._absent)
        self.world.start_all()
        self._run_for(FORMING_S)
        self._disturb()
        self._torment([*self._filling(), *((at_s, self._doing(action, seed)) for at_s, action, seed in self.script)])
        self._runtime.is_calm = True
        self._mend()
        self._go_on()
        self._heal()
        self._panel.at_end()

    def _checkers(self) -> tuple[Checker, ...]:
        kinds, runtime = self.plan.kinds, self._runtime
        forgetful = "wipe" in kinds
        return (
            OverlapChecker(forgetful=forgetful),
            OrdinalChecker(runtime),
            RunLeaseChecker(runtime),
            FenceChecker(forgetful=forgetful),
            ReservationChecker(runtime),
            PreemptionChecker(),
            PlacementChecker(runtime),
            DisruptionChecker(runtime),
            QuotaChecker(),
            self.doubles,
            StormChecker(),
            JobChecker(runtime),
            CustodyChecker(),
            WireChecker(hostile="hostile" in kinds),
            IntentChecker(self._submitted),
            DurabilityChecker(self._submitted),
            MembershipChecker(),
            self.outcomes,
            self.census,
        )

    def _doing(self, action: Action, seed: int) -> Callable[[], None]:
        return partial(action.act, self._desk, random.Random(seed))  # noqa: S311

    def _draw_later(self) -> tuple[tuple[float, Action, int], ...]:
        chance = random.Random(f"later {self.seed}")  # noqa: S311
        if chance.random() >= LATER_PART:
            return ()
        return draw_script(chance, LATER_S, [action for action in ACTIONS if action.name in CHANGES])

    def _go_on(self) -> None:
        """What operators do with what runs, now that nothing goes wrong any more."""
        began_s = self.world.now_s + SETTLED_S
        for at_s, action, seed in self.later:
            self._run_until(began_s + at_s)
            self._doing(action, seed)()

    def _filling(self) -> Iterator[tuple[float, Callable[[], None]]]:
        for number, (at_s, draft) in enumerate(self.demand.fillers(len(self.world.machines))):
            chance = random.Random(f"filling {self.seed} {number}")  # noqa: S311
            yield at_s, partial(self._desk.hand_in, draft, chance, ", fills the mesh")

    def _saw(self, index: int, event: Any) -> None:
        if isinstance(event, Submitted):
            self._desk.answered(event)
        super()._saw(index, event)

    def _heal(self) -> None:
        """Until all is well and stays so, or the time for that is over."""
        began_s = well_s = self.world.now_s
        while self.world.now_s < min(max(well_s + WELL_S, began_s + DOUBLES_S), began_s + HEAL_S):
            self._run_for(1.0)
            if not self._panel.is_well:
                well_s = self.world.now_s
        self.outcome.healed_s = well_s - began_s
        self._tell(f"in the end: {dict(self.outcomes.counts)}")
        self._tell(f"came up: {dict(sorted(self.census.counts.items()))}")
