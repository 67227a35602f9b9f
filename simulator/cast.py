"""Who and what the steps of a scenario mean: machines by selectors, workloads by names. All is looked up before it
plays, so that a step that means nobody is refused with its line."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from beemesh.errors import InvalidInput, Problem
from beemesh.workloads.record import Workload
from simulator.naming import Names
from simulator.scenario import Scenario, Step
from simulator.spec import MachineSpec, choose, percent_of

DYNAMIC = "@"
"""Begins a selector whose machine is known only when its step comes."""

ROLES = ("steward", "runner")

_WITH_MACHINES = (
    *("kill", "crash", "wipe", "start", "leave", "pause", "drain", "uncordon"),
    *("skew", "slow"),
)
_PARTING = ("cut", "cut-one-way")
_OF_WORKLOADS = ("never-doubled", "refused")
_COUNTED = ("running", "never-below")


@dataclass(frozen=True, slots=True)
class Role:
    """Whoever plays a part for a workload when the step comes."""

    name: str
    workload_id: str


class Cast:
    """Everything that the steps of one scenario name. Steps count from 0."""

    def __init__(
        self, scenario: Scenario, specs: Sequence[MachineSpec], works: Iterable[Workload], chance: random.Random
    ) -> None:
        """Raises `InvalidInput` with every step that means nobody."""
        if not specs:
            raise InvalidInput("there are no machines", hint="name some: nodes 3")
        self._specs = specs
        self._chance = chance
        self._names = Names(works)
        self.drafts: dict[int, tuple[Workload, ...]] = {}
        """Step → what it applies."""
        self.workloads: dict[int, tuple[str, ...]] = {}
        """Step → the workloads that it is about, or that it expects something of."""
        self.counts: dict[int, tuple[tuple[str, int], ...]] = {}
        """Step → (workload, how many of it are expected)."""
        self._machines: dict[tuple[int, str], tuple[int, ...] | Role] = {}
        problems = [
            Problem(f"absent names {name!r}, which is no machine", scenario.file, line)
            for name, line in scenario.absent.items()
            if not any(spec.name == name for spec in specs)
        ]
        steps = list(enumerate(scenario.steps))
        for look in (self._look_at_drafts, self._look_at_names, self._look_at_machines):
            for number, step in steps:
                try:
                    look(number, step)
                except InvalidInput as error:
                    problems.append(Problem(error.message, scenario.file, step.line, hint=error.hint))
        if problems:
            problems.sort(key=lambda problem: problem.line)
            raise InvalidInput("the scenario names what there is not", problems=tuple(problems))

    def machines(self, number: int, place: str) -> tuple[int, ...] | Role:
        """Whom a step means by its `who`, `other` or `via`: a share means the same machines in `for` and after it."""
        return self._machines.get((number, place), ())

    def _look_at_drafts(self, number: int, step: Step) -> None:
        """First of all, since every other name is one of these."""
        if step.action == "apply":
            self.drafts[number] = self._names.drafts(step)

    def _look_at_names(self, number: int, step: Step) -> None:
        if step.action == "delete":
            self.workloads[number] = self._names.those(step.who)
        elif step.action == "expect" and step.who in _OF_WORKLOADS:
            self.workloads[number] = tuple(self._names.of(word) for word in step.other.split())
        elif step.action == "expect" and step.who in _COUNTED:
            pairs = (word.partition("=") for word in step.other.split())
            self.counts[number] = tuple((self._names.of(name), int(count)) for name, _, count in pairs)

    def _look_at_machines(self, number: int, step: Step) -> None:
        """In the order of the words, as chance is drawn."""
        if step.action in _PARTING:
            self._machines[number, "who"], self._machines[number, "other"] = self._sides(step)
        wanted = {"who": step.who, "other": step.other} if step.action in _WITH_MACHINES else {}
        if "via" in step.options:
            wanted["via"] = step.options["via"]
        if step.action == "expect" and step.who in ("dead", "empty"):
            wanted["other"] = ",".join(step.other.split())
        for place, selector in wanted.items():
            if selector:
                self._machines[number, place] = self._meant(selector)

    def _sides(self, step: Step) -> tuple[tuple[int, ...] | Role, tuple[int, ...] | Role]:
        """Two sides that share no machine: a share is drawn from what the other side leaves. A side that is known only
        when the step comes is left to it."""
        if step.who.startswith(DYNAMIC) or step.other.startswith(DYNAMIC):
            return self._meant(step.who), self._meant(step.other) if step.other else ()
        shares = [percent_of(side) for side in (step.who, step.other) if side.endswith("%")]
        if sum(shares) > 100:
            raise InvalidInput(f"{step.who} and {step.other} of the machines are more than there are")
        if step.who.endswith("%") and step.other and len(shares) == 1:
            right = choose(step.other, self._specs, self._chance)
            left = choose(step.who, self._specs, self._chance, but=right)
        else:
            left = choose(step.who, self._specs, self._chance)
            right = choose(step.other or "all", self._specs, self._chance, but=left)
        if not step.other:
            right = tuple(index for index in right if index not in left)
        both = [self._specs[index].name for index in left if index in right]
        if both:
            raise InvalidInput(f"{both[0]!r} is on both sides of the cut", hint="name it on one of them")
        if not left or not right:
            raise InvalidInput(f"{step.action} {step.who} parts nobody: one side has no machine")
        return left, right

    def _meant(self, selector: str) -> tuple[int, ...] | Role:
        if not selector.startswith(DYNAMIC):
            return choose(selector, self._specs, self._chance)
        role, _, name = selector.removeprefix(DYNAMIC).partition(":")
        if role not in ROLES or not name:
            known = " or ".join(f"{DYNAMIC}{each}:WORKLOAD" for each in ROLES)
            raise InvalidInput(f"{selector!r} means nobody", hint=f"write {known}")
        return Role(role, self._names.of(name))
