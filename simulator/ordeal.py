"""What every kind of trial has: a world, a plan of faults, checkers, the clock, and how faults begin and end."""

from __future__ import annotations

import random
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from simulator.guard import attend
from simulator.hostile import Hostile
from simulator.machine import Machine
from simulator.operator import unplug
from simulator.panel import Panel
from simulator.plan import FORMING_S, SLUGGISH_S, Plan, Step, with_ailments
from simulator.spec import MachineSpec
from simulator.world import World

OLD_S = 86_400.0
LOOK_EVERY_S = 0.25
BOOT_OFFSET_S = 1_000_000.0


@dataclass(slots=True)
class Outcome:
    """What came of one trial. `trace` names everything that happened, `transcript` tells it."""

    seed: int
    plan: Plan
    violations: list[str] = field(default_factory=list)
    trace: str = ""
    events: int = 0
    cpu_s: float = 0.0
    """Seconds of one core that it took."""
    healed_s: float = 0.0
    """So long after the last fault all was well, for good."""
    transcript: list[str] = field(default_factory=list)


class _Enough(Exception):
    """A violation was found, and one is all that is wanted."""


class Ordeal(ABC):
    """One seed. The same seed, size and duration give the same trace."""

    def __init__(
        self,
        seed: int,
        seconds: float,
        chance: random.Random,
        plan: Plan,
        specs: int | Sequence[MachineSpec],
        *,
        until_first: bool = False,
    ) -> None:
        """`specs` as for `World`; with `until_first` it ends at the first violation."""
        ailments = random.Random(f"ailments {seed}")  # noqa: S311
        plan = with_ailments(plan, ailments, specs if isinstance(specs, int) else len(specs), seconds)
        self.seed = seed
        self._until_first = until_first
        self.seconds = seconds
        self.plan = plan
        self.world = World(specs, chance.getrandbits(32), age_s=OLD_S if plan.is_old else 0.0)
        for machine in self.world.machines:
            machine.boot_offset_s = chance.uniform(0.0, BOOT_OFFSET_S)
        self.outcome = Outcome(seed, plan)
        self._is_mended = False
        self._panel = Panel(self.world, (), self._blame)

    def run(self) -> Outcome:
        """Everything, from the first start to the verdict."""
        started = time.process_time()
        try:
            self._phases()
        except _Enough:
            pass
        except Exception as error:  # whatever a node does when it meets the unexpected: it must not fall over
            self._blame("crash", f"{type(error).__name__}: {error}")
            self.outcome.transcript += traceback.format_exc().splitlines()
        self.outcome.trace = self.world.trace
        self.outcome.events = self.world.handled
        self.outcome.cpu_s = time.process_time() - started
        return self.outcome

    @abstractmethod
    def _phases(self) -> None:
        """All that happens, in order."""

    def _disturb(self) -> None:
        """The mesh has formed; from now on what lasts for all of the trial is wrong."""
        faults = self.world.faults
        faults.loss, faults.repeat, faults.delay_s = self.plan.loss, self.plan.repeat, self.plan.delay_s
        self.world.lists_after_s = self.plan.lists_after_s

    # --- faults ---------------------------------------------------------------------------------------------------

    def _torment(self, others: Iterable[tuple[float, Callable[[], object]]]) -> None:
        """The plan's faults, and what else happens meanwhile: (when, what), from the end of the forming on."""
        begins: list[tuple[float, Callable[[], object]]] = [
            (step.at_s, partial(self._begin, step)) for step in self.plan.steps
        ]
        for at_s, act in sorted([*begins, *others], key=lambda each: each[0]):
            self._run_until(FORMING_S + at_s)
            act()
        self._run_until(FORMING_S + self.seconds)

    def _mend(self) -> None:
        world = self.world
        self._is_mended = True
        self._tell("all faults end")
        world.faults.heal()
        world.faults.slow.clear()
        world.faults.loss = world.faults.repeat = 0.0
        world.faults.delay_s = (0.0005, 0.003)
        world.lists_after_s = 0.0
        for machine in world.machines:
            machine.skew_ms = 0
            machine.stuck_until_s = 0.0
            world.wake(machine.index)
            if machine.ailing is not None:
                machine.ailing.mend()
            if machine.is_up:
                world.list_pods(machine, machine.life)
            if machine.is_member and not machine.is_up:
                self._start(machine)
            elif not machine.is_member and (machine.is_up or machine.pods):
                unplug(world, machine)

    def _start(self, machine: Machine) -> None:
        """A machine finds what it saved; one that lost its disk still has its seed file."""
        self.world.start(machine.index, knows=[] if machine.disk else None)

    def _begin(self, step: Step) -> None:
        world, who = self.world, step.machines
        self._tell(str(step))
        match step.kind:
            case "crash" | "power" | "wipe" | "blackout":
                for index in who:
                    world.kill(index, power=step.kind != "crash", disk=step.kind != "wipe")
                    attend(world, world.machines[index])
                    world.at(world.now_s + step.amount, lambda index=index: self._revive(index))  # type: ignore[misc]
            case "pause":
                world.pause(who[0], step.amount)
            case "cut" | "one-way":
                others = {machine.index for machine in world.machines} - set(who)
                part = world.faults.cut if step.kind == "cut" else world.faults.cut_one_way
                world.at(world.now_s + step.amount, partial(world.faults.heal, part(set(who), others)))
            case "slow":
                world.faults.slow[who[0]] = step.amount
            case "hostile":
                Hostile(world, who[0], world.now_s + step.amount, self.seed).begin()
            case "full":
                world.ail(who[0]).refuse(step.amount)
            case "sluggish":
                world.ail(who[0]).slow_down(world.random.uniform(*SLUGGISH_S), step.amount)
            case "stuck":
                world.machines[who[0]].stuck_until_s = world.now_s + step.amount
            case "skew":
                world.machines[who[0]].skew_ms = int(step.amount)

    def _revive(self, index: int) -> None:
        """The end of a crash; one that was to last longer than all faults do has ended with them."""
        machine = self.world.machines[index]
        if machine.has_agent and not machine.is_up and not self._is_mended:
            self._tell(f"n{index} starts again")
            self._start(machine)

    # --- time -----------------------------------------------------------------------------------------------------

    def _run_for(self, seconds: float) -> None:
        self._run_until(self.world.now_s + seconds)

    def _run_until(self, end_s: float) -> None:
        world = self.world
        while world.now_s < end_s:
            world.run_for(min(LOOK_EVERY_S, end_s - world.now_s))
            self._look()

    def _saw(self, index: int, event: Any) -> None:
        self._panel.saw(index, event)

    def _look(self) -> None:
        self._panel.look()
        if self._until_first and self.outcome.violations:
            raise _Enough

    def _blame(self, name: str, text: str) -> None:
        self.outcome.violations.append(f"{self.world.now_s:.2f} {name}: {text}")
        self._tell(f"VIOLATION {name}: {text}")

    def _tell(self, text: str) -> None:
        self.outcome.transcript.append(f"{self.world.now_s:9.2f}  {text}")
