"""A trial of scheduling: operators at work all along while faults last, machines of all sizes, moody engines."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from beemesh.intents.record import Intent
from simulator.checkers import Checker
from simulator.checkers.custody import CustodyChecker
from simulator.checkers.doubles import DoubleChecker
from simulator.checkers.durability import DurabilityChecker
from simulator.checkers.fences import FenceChecker
from simulator.checkers.intents import IntentChecker
from simulator.checkers.jobs import JobChecker
from simulator.checkers.membership import MembershipChecker
from simulator.checkers.ordinals import OrdinalChecker
from simulator.checkers.outcomes import OutcomeChecker
from simulator.checkers.overlaps import OverlapChecker
from simulator.checkers.reservations import ReservationChecker
from simulator.checkers.run_leases import RunLeaseChecker
from simulator.checkers.storms import StormChecker
from simulator.checkers.wire import WireChecker
from simulator.fleet import KEEPERS_MIN, draw_fleet
from simulator.mock_runtime import MockRuntime
from simulator.operator import grant_operator
from simulator.ordeal import Ordeal
from simulator.panel import Panel
from simulator.plan import FORMING_S, draw
from simulator.script import Action, Desk, draw_script
from simulator.turnover import leave_out

SECONDS = 20.0
"""How long faults last, unless told otherwise: four times as long as the forming, and short enough for ten thousand."""

HEAL_S = 150.0
"""After the last fault everything must be as it should within this time: leases run out, whoever lost its disk abstains
for twice the longest of them, and what failed waits for its next try."""

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
        drawn = draw(chance, len(fleet), seconds)
        in_time = tuple(step for step in drawn.steps if step.at_s < seconds)  # sixty nodes restart one after the other
        plan = replace(drawn, steps=in_time, applies=(), locks=(), rivals=())
        super().__init__(seed, seconds, chance, plan, fleet, until_first=until_first)
        self._submitted: dict[int, Intent] = {}
        self.script = draw_script(chance, seconds)
        load, others = chance.uniform(*LOAD), range(KEEPERS_MIN, len(fleet))
        self._absent = chance.sample(others, min(chance.choice(ABSENT), len(others)))
        self._desk = Desk(
            self.world, self._submitted, self._tell, load, list(self._absent), forgetful="wipe" in plan.kinds
        )
        self._runtime = MockRuntime(self.world, seed)
        self.doubles = DoubleChecker(self._runtime)
        self.outcomes = OutcomeChecker(self._runtime, seed)

    def _phases(self) -> None:
        grant_operator(self.world)
        self._panel = Panel(self.world, self._checkers(), self._blame)
        self.world.watch = self._saw
        leave_out(self.world, self._absent)
        self.world.start_all()
        self._run_for(FORMING_S)
        faults = self.world.faults
        faults.loss, faults.repeat, faults.delay_s = self.plan.loss, self.plan.repeat, self.plan.delay_s
        self._torment((at_s, self._doing(action, seed)) for at_s, action, seed in self.script)
        self._runtime.is_calm = True
        self._mend()
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
            self.doubles,
            StormChecker(),
            JobChecker(runtime),
            CustodyChecker(),
            WireChecker(hostile="hostile" in kinds),
            IntentChecker(self._submitted),
            DurabilityChecker(self._submitted),
            MembershipChecker(),
            self.outcomes,
        )

    def _doing(self, action: Action, seed: int) -> Callable[[], None]:
        return partial(action.act, self._desk, random.Random(seed))  # noqa: S311

    def _heal(self) -> None:
        """Until all is well and stays so, or the time for that is over."""
        began_s = well_s = self.world.now_s
        while self.world.now_s < min(max(well_s + WELL_S, began_s + DOUBLES_S), began_s + HEAL_S):
            self._run_for(1.0)
            if not self._panel.is_well:
                well_s = self.world.now_s
        self.outcome.healed_s = well_s - began_s
        self._tell(f"in the end: {dict(self.outcomes.counts)}")
