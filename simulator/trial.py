"""One trial: a mesh forms, works are handed in, faults torment it for a while, all is mended, and it must recover."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from beemesh.errors import BeemeshError
from beemesh.events import FindProviders, PutIntent
from beemesh.intents.record import Cordon, Intent, cordon_key
from beemesh.workloads.record import Workload
from simulator.checkers.directory import DirectoryChecker
from simulator.checkers.durability import DurabilityChecker
from simulator.checkers.intents import IntentChecker
from simulator.checkers.membership import MembershipChecker
from simulator.hostile import Hostile
from simulator.locks import Locks
from simulator.machine import Machine
from simulator.operator import deployment, grant_operator, submission
from simulator.panel import Panel, always
from simulator.plan import FORMING_S, Plan, Step, draw
from simulator.world import World

HEAL_S = 120.0
"""After the last fault everything must be well again within this time: suspicion, leases that have to run out, one
comparison of the records with everybody, back-off of what failed, and the abstention of whoever lost its disk."""

PATIENT = 0.25
"""So many trials wait for all of `HEAL_S`, since some things go wrong later, such as a record that nobody publishes
again; the others end their healing when all has been well for `WELL_S`."""

WELL_S = 15.0

LOCKS_AFTER_S = 20.0
"""So long after the last fault machines still quarrel over leases: whoever lost its memory votes again then."""

LOOKUPS_S = 8.0
"""So long the records of the DHT may be looked up in the end: a lookup ends within five seconds."""

FAREWELL_S = 30.0
"""When all is well again one machine goes for good, and all others know it within this time."""

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


class Trial:
    """One seed. The same seed, size and duration give the same trace."""

    def __init__(self, seed: int, nodes: int, seconds: float, *, until_first: bool = False) -> None:
        """With `until_first` it ends at the first violation."""
        self.seed = seed
        self._until_first = until_first
        self.seconds = seconds
        chance = random.Random(seed)  # noqa: S311 - a simulation wants chance that repeats
        self.plan = draw(chance, nodes, seconds)
        self.world = World(nodes, chance.getrandbits(32), age_s=OLD_S if self.plan.is_old else 0.0)
        for machine in self.world.machines:
            machine.boot_offset_s = chance.uniform(0.0, BOOT_OFFSET_S)
        self.outcome = Outcome(seed, self.plan)
        self._submitted: dict[int, Intent] = {}
        self._accepted = IntentChecker(self._submitted)
        self._directory = DirectoryChecker()
        locks_end_s = FORMING_S + seconds + LOCKS_AFTER_S
        self._locks = Locks(self.world, self.plan.locks, locks_end_s, chance.getrandbits(32))
        self._well_s = HEAL_S if chance.random() < PATIENT else WELL_S
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

    # --- phases ---------------------------------------------------------------------------------------------------

    def _phases(self) -> None:
        self._form()
        self._torment()
        self._mend()
        self._heal()
        self._panel.at_end()
        self._farewell()

    def _form(self) -> None:
        world = self.world
        grant_operator(world)
        kinds = self.plan.kinds
        checkers = (
            *always(forgetful="wipe" in kinds, hostile="hostile" in kinds),
            self._accepted,
            self._directory,
            MembershipChecker(self.plan, FORMING_S),
            DurabilityChecker(self._submitted),
        )
        self._panel = Panel(world, checkers, self._blame)
        world.watch = self._saw
        world.start_all()
        self._run_for(FORMING_S)
        faults = world.faults
        faults.loss, faults.repeat, faults.delay_s = self.plan.loss, self.plan.repeat, self.plan.delay_s
        self._locks.begin()

    def _torment(self) -> None:
        begins: list[tuple[float, Callable[[], None]]] = []
        for step in self.plan.steps:
            begins.append((step.at_s, lambda step=step: self._begin(step)))  # type: ignore[misc]
        for number, (at_s, index, replicas, tolerant) in enumerate(self.plan.applies):
            wish = (number, index, replicas, tolerant)
            begins.append((at_s, lambda wish=wish: self._apply(*wish)))  # type: ignore[misc]
        for number, (at_s, *who) in enumerate(self.plan.rivals):
            begins.append((at_s, partial(self._quarrel, number, who)))
        for at_s, act in sorted(begins, key=lambda each: each[0]):
            self._run_until(FORMING_S + at_s)
            act()
        self._run_until(FORMING_S + self.seconds)

    def _mend(self) -> None:
        world = self.world
        self._tell("all faults end")
        world.faults.heal()
        world.faults.slow.clear()
        world.faults.loss = world.faults.repeat = 0.0
        world.faults.delay_s = (0.0005, 0.003)
        for machine in world.machines:
            machine.skew_ms = 0
            world.wake(machine.index)
            if not machine.is_up:
                self._start(machine)

    def _heal(self) -> None:
        """Until all is well and stays so, or the time for that is over; whoever finds no manifest then may look again
        as long as there is time."""
        began_s = well_s = self.world.now_s
        end_s = began_s + HEAL_S
        while True:
            while self.world.now_s < min(well_s + self._well_s, end_s - LOOKUPS_S):
                self._run_for(1.0)
                if self.world.now_s < began_s + LOCKS_AFTER_S or not self._panel.is_well:
                    well_s = self.world.now_s
            self._look_up()
            self._run_for(LOOKUPS_S)
            if self._panel.is_well or self.world.now_s >= end_s:
                break
            well_s = self.world.now_s
        self.outcome.healed_s = well_s - began_s

    def _look_up(self) -> None:
        """Each accepted manifest's keepers, at some node."""
        for number, intent in enumerate(self._accepted.accepted):
            asker = (self.seed + number) % len(self.world.machines)
            manifest = msgspec.msgpack.decode(intent.body, type=Workload).current.manifest
            self._directory.asked(asker, intent.key)
            self.world.event(asker, FindProviders(intent.key, "manifest", manifest.hex()))

    def _farewell(self) -> None:
        """One machine goes for good: whoever was kept from noticing deaths by what happened before shows it now."""
        world = self.world
        if self.outcome.violations or len(world.machines) < 2:
            return
        gone = world.machines[self.seed % len(world.machines)]
        self._tell(f"n{gone.index} goes for good")
        world.kill(gone.index, power=True)
        end_s = world.now_s + FAREWELL_S
        while world.now_s < end_s and (unaware := self._who_holds_alive(gone)):
            self._run_for(min(1.0, end_s - world.now_s))
        for index in unaware:
            self._blame("membership", f"n{index} holds n{gone.index} alive, which is gone for good")

    def _who_holds_alive(self, gone: Machine) -> list[int]:
        up = [
            (machine.index, machine.composition) for machine in self.world.machines if machine.composition is not None
        ]
        return [index for index, node in up if node.view.is_alive(gone.membership.node_id)]

    def _start(self, machine: Machine) -> None:
        """A machine finds what it saved; one that lost its disk still has its seed file."""
        self.world.start(machine.index, knows=[] if machine.disk else None)

    # --- faults ---------------------------------------------------------------------------------------------------

    def _begin(self, step: Step) -> None:
        world, who = self.world, step.machines
        self._tell(str(step))
        match step.kind:
            case "crash" | "power" | "wipe" | "blackout":
                for index in who:
                    world.kill(index, power=step.kind != "crash", disk=step.kind != "wipe")
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
            case "skew":
                world.machines[who[0]].skew_ms = int(step.amount)

    def _revive(self, index: int) -> None:
        machine = self.world.machines[index]
        if not machine.is_up:
            self._tell(f"n{index} starts again")
            self._start(machine)

    def _apply(self, number: int, index: int, replicas: int, tolerant: bool) -> None:
        draft, token = deployment(f"work{number}", replicas, tolerant=tolerant), number + 1
        doubled = "" if tolerant else ", never doubled"
        try:
            self._submitted[token], command = submission(self.world, index, draft, token)
        except BeemeshError:
            return  # the machine is down, or sees too few others
        self._tell(f"apply {draft.name} ({replicas} replicas{doubled}) at n{index}")
        self.world.event(index, command)

    def _quarrel(self, number: int, who: Sequence[int]) -> None:
        """Two records of one key and number, entered at two machines at once: one wins, everywhere the same."""
        key = cordon_key(f"quarrel{number}")
        for index in who:
            record = self.world.sign(self.world.operator, "cordon", key, Cordon(f"quarrel{number}", False, f"n{index}"))
            self.world.event(index, PutIntent(record))
        self._tell(f"quarrel{number} between n{who[0]} and n{who[1]}")

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
        if type(event) in Locks.sees:
            self._locks.saw(index, event)

    def _look(self) -> None:
        self._panel.look()
        if self._until_first and self.outcome.violations:
            raise _Enough

    def _blame(self, name: str, text: str) -> None:
        self.outcome.violations.append(f"{self.world.now_s:.2f} {name}: {text}")
        self._tell(f"VIOLATION {name}: {text}")

    def _tell(self, text: str) -> None:
        self.outcome.transcript.append(f"{self.world.now_s:9.2f}  {text}")
