"""Plays a scenario on a simulated mesh, and tells what became of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from beemesh.errors import BeemeshError, Unavailable
from beemesh.events import LeaseGranted, LeaveMesh, Submitted
from beemesh.intents.record import Cordon, Drain
from beemesh.workloads.record import Workload
from simulator.cast import DYNAMIC, Cast, Role
from simulator.crypto import FakeCrypto, Keys
from simulator.guard import attend
from simulator.job_pods import JobPods
from simulator.layers import Layers
from simulator.machine import Machine
from simulator.observer import Detection, Observer, Sample, WorkStory, named, short
from simulator.operator import Policy, grant_operator, order_node, set_policy, submission, withdraw
from simulator.panel import Panel, always
from simulator.scenario import FAULTS, Scenario, Step, seconds, share
from simulator.spec import MachineSpec
from simulator.world import World

LOOK_EVERY_S = 0.1
CALM_DELAY_S = (0.0005, 0.003)


@dataclass(slots=True)
class Report:
    """What became of a scenario. `story` is its transcript; `violations` are expectations and invariants that do not
    hold; `pending` has the reason why a workload is short, where a node told one."""

    story: list[tuple[float, str]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    detections: list[Detection] = field(default_factory=list)
    works: dict[str, WorkStory] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Workloads whose last apply was refused, and why; without those that were expected to be."""
    false_deaths: int = 0
    fault_s: float | None = None
    trace: str = ""
    events: int = 0

    @property
    def noticed_s(self) -> float | None:
        """How long after the first fault all others held the last of the lost machines dead; None when none did."""
        if self.fault_s is None or not self.detections:
            return None
        return max(each.last_s for each in self.detections) - self.fault_s

    def missing_s(self, story: WorkStory) -> float | None:
        """For how long after the first fault replicas of a workload were missing; None when none was."""
        if self.fault_s is None or story.short_until_s is None:
            return None
        return story.short_until_s - self.fault_s

    def transcript(self) -> str:
        """The story as text, a line for each moment."""
        return "".join(f"{at_s:8.1f}  {text}\n" for at_s, text in self.story)


class Stage:
    """One playing of one scenario."""

    def __init__(
        self,
        scenario: Scenario,
        machines: Sequence[MachineSpec] = (),
        works: Iterable[Workload] = (),
        policies: Iterable[Policy] = (),
        told: Callable[[float, str], None] | None = None,
        passed: Callable[[float], None] | None = None,
        keys: Keys = FakeCrypto,
    ) -> None:
        """`machines` are used when the scenario names none. `works` are workloads that `apply NAME` may mean;
        `policies` stand from the beginning. `told` hears each line of the story at once, `passed` how far the clock is;
        `keys` makes everybody's keys. Raises `InvalidInput` when a step names what there is not."""
        self._scenario = scenario
        self._specs = tuple(scenario.machines or machines)
        self._policies = tuple(policies)
        self._told = told
        self._passed = passed
        self._chance = random.Random(scenario.seed)  # noqa: S311 - a simulation wants chance that repeats
        self.world = World(self._specs, self._chance.getrandbits(32), keys=keys)
        JobPods(self.world)
        self.report = Report()
        self.observer = Observer(self.world, self._tell)
        self._submitted: dict[int, Workload] = {}
        """What was handed in and is not answered yet, by token."""
        self._tokens = 0
        self._refused: set[str] = set()
        """Workloads that were refused at any time."""
        self._created_ms: dict[str, int] = {}
        """Job → when it was applied first: its deadline counts from then on."""
        self._loss = Layers()
        self._slow = [Layers() for _ in self._specs]
        self._down = [Layers() for _ in self._specs]
        """Why each machine does not run: kills that nothing has undone yet."""
        self._stewards: dict[str, int] = {}
        """Steward lease → the machine that was granted it last."""
        self._cast = Cast(scenario, self._specs, works, self._chance)
        wipes = any(step.action == "wipe" for step in scenario.steps)
        self._panel = Panel(self.world, always(forgetful=wipes, hostile=False), self._blame)
        self.world.watch = self._saw

    def run(self) -> Report:
        """Play it to its end."""
        world, scenario = self.world, self._scenario
        world.faults.loss, world.faults.delay_s = scenario.loss, scenario.delay_s
        grant_operator(world)
        for policy in self._policies:
            set_policy(world, policy)
        for machine in world.machines:
            if machine.spec.name not in scenario.absent:
                world.start(machine.index)
        self._tell(f"{sum(each.is_up for each in world.machines)} agents start")
        if self._policies:
            self._tell(f"policies: {named(policy.key for policy in self._policies)}")
        for number, step in enumerate(scenario.steps):
            self._run_until(step.at_s)
            self._act(number, step)
        self._run_until(scenario.end_s)
        return self._finish()

    def _finish(self) -> Report:
        report, observer = self.report, self.observer
        report.samples, report.detections, report.works = observer.samples, observer.detections, observer.stories
        report.false_deaths, report.fault_s = observer.false_deaths, observer.fault_s
        report.trace, report.events = self.world.trace, self.world.handled
        for draft in self._submitted.values():
            report.refused[draft.workload_id] = "it was not answered"
        for workload_id, story in observer.stories.items():
            if story.is_short:
                report.pending[workload_id] = self._why_pending(workload_id)
        return report

    # --- time ---------------------------------------------------------------------------------------------------------

    def _run_until(self, end_s: float) -> None:
        world = self.world
        while world.now_s < end_s:
            world.run_for(min(LOOK_EVERY_S, end_s - world.now_s))
            self._panel.look()
            self.observer.look()
            if self._passed is not None:
                self._passed(world.now_s)

    def _blame(self, name: str, text: str) -> None:
        self.report.violations.append(f"{self.world.now_s:.1f} s: {name}: {text}")
        self._tell(f"VIOLATION {name}: {text}")

    def _saw(self, index: int, event: Any) -> None:
        self._panel.saw(index, event)
        self.observer.saw(self.world.now_s, index, event)
        if isinstance(event, LeaseGranted) and event.key.startswith("steward/") and not event.proof.tentative:
            self._stewards[event.key] = index
        if isinstance(event, Submitted) and event.token in self._submitted:
            draft = self._submitted.pop(event.token)
            name = short(draft.workload_id)
            if event.accepted:
                wanted = self.observer.wants(draft)
                self.report.refused.pop(draft.workload_id, None)
                self._tell(f"{name} accepted at {self._specs[index].name}: {wanted} wanted")
            else:
                self._refuse(draft, event.reason)
                self._tell(f"{name} refused at {self._specs[index].name}: {event.reason}")

    def _refuse(self, draft: Workload, reason: str) -> None:
        self._refused.add(draft.workload_id)
        self.report.refused[draft.workload_id] = reason

    def _tell(self, text: str) -> None:
        self.report.story.append((self.world.now_s, text))
        if self._told is not None:
            self._told(self.world.now_s, text)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _act(self, number: int, step: Step) -> None:
        if step.action in FAULTS:
            self.observer.fault()
        if step.action != "expect":
            self._tell(f"> {step}")
        who, others = self._meant(number, "who"), self._meant(number, "other")
        if step.who.startswith(DYNAMIC) and not who:
            self._tell(f"{step.who} is nobody just now")
        match step.action:
            case "apply":
                self._apply(number, step)
            case "delete":
                self._delete(number, step)
            case "kill" | "crash" | "wipe":
                self._kill(step, who)
            case "start":
                self._start(who)
            case "leave":
                for index in who:
                    self._down[index].begin()
                    self.world.event(index, LeaveMesh())
                    self.world.at(self.world.now_s + 1.0, partial(self.world.kill, index, power=True))
            case "pause":
                for index in who:
                    self.world.pause(index, step.lasts_s)
            case "drain" | "uncordon":
                self._order(number, step, who)
            case "cut" | "cut-one-way":
                self._cut(step, who, others)
            case "expect":
                self._expect(number, step, others)
            case _:
                self._disturb(step, who)

    def _meant(self, number: int, place: str) -> tuple[int, ...]:
        """The machines that a step means at this moment."""
        meant = self._cast.machines(number, place)
        if not isinstance(meant, Role):
            return meant
        if meant.name == "steward":
            return tuple(index for key, index in self._stewards.items() if key == f"steward/{meant.workload_id}")
        running = [
            (pod.replica, each.index)
            for each in self.world.machines
            for pod in each.pods.values()
            if pod.workload_id == meant.workload_id and pod.phase == "Running"
        ]
        return (min(running)[1],) if running else ()

    def _kill(self, step: Step, who: Sequence[int]) -> None:
        for index in who:
            self.world.kill(index, power=step.action != "crash", disk=step.action != "wipe")
            attend(self.world, self.world.machines[index])
        numbers = {index: self._down[index].begin() for index in who}
        if step.lasts_s:
            self._later(step.lasts_s, f"start {step.who}", partial(self._revive, numbers))

    def _revive(self, numbers: dict[int, int]) -> None:
        """A machine that was killed again meanwhile stays down until that is over as well."""
        over = [index for index, number in numbers.items() if self._down[index].end(number)]
        self._start([index for index in over if self._down[index].top is None])

    def _start(self, who: Sequence[int]) -> None:
        """A machine finds what it saved; one that never ran, or lost its disk, still has its seed file."""
        for index in who:
            self._down[index].clear()
            if not self.world.machines[index].is_up:
                self.world.start(index, knows=[] if self.world.machines[index].disk else None)

    def _cut(self, step: Step, who: Sequence[int], others: Sequence[int]) -> None:
        left, right = set(who), set(others)
        if not step.other:
            right = set(range(len(self._specs))) - left
        elif step.who.startswith(DYNAMIC):
            right -= left
        else:
            left -= right
        if not left or not right:
            self._tell("nobody is parted")
            return
        faults = self.world.faults
        number = (faults.cut if step.action == "cut" else faults.cut_one_way)(left, right)
        if step.lasts_s:
            self._later(step.lasts_s, "heal", partial(faults.heal, number))

    def _disturb(self, step: Step, who: Sequence[int]) -> None:
        match step.action:
            case "heal":
                self.world.faults.heal()
            case "loss":
                number = self._loss.begin(share(step.options["share"]))
                self._lose()
                if step.lasts_s:
                    self._later(step.lasts_s, "loss as before", partial(self._lose, number))
            case "slow":
                numbers = {index: self._slow[index].begin(float(step.options["by"])) for index in who}
                self._slow_down(who)
                if step.lasts_s:
                    self._later(step.lasts_s, f"{step.who} quick again", partial(self._slow_down, who, numbers))
            case "skew":
                text = step.options["by"]
                skew_ms = int(seconds(text.lstrip("+-")) * 1000) * (-1 if text.startswith("-") else 1)
                for index in who:
                    self.world.machines[index].skew_ms += skew_ms

    def _lose(self, ended: int = 0) -> None:
        self._loss.end(ended)
        top = self._loss.top
        self.world.faults.loss = top if top is not None else self._scenario.loss

    def _slow_down(self, who: Sequence[int], ended: Mapping[int, int] | None = None) -> None:
        slow = self.world.faults.slow
        for index in who:
            self._slow[index].end((ended or {}).get(index, 0))
            top = self._slow[index].top
            slow.pop(index, None)
            if top is not None:
                slow[index] = top

    def _later(self, in_s: float, text: str, act: Callable[[], None]) -> None:
        def then() -> None:
            self._tell(f"> {text}")
            act()

        self.world.at(self.world.now_s + in_s, then)

    def _order(self, number: int, step: Step, who: Sequence[int]) -> None:
        """What an operator orders about machines; the drain counts as a fault that nothing may suffer from."""
        drain = Drain(force=step.options.get("force", "no") == "yes") if step.action == "drain" else None
        for index in who:
            cordon = Cordon(self._specs[index].name, drain is not None, drain=drain)
            try:
                order_node(self.world, self._via(number, step), cordon)
            except BeemeshError as error:
                self._tell(f"{cordon.node} cannot be ordered about: {error.message}")

    # --- workloads ----------------------------------------------------------------------------------------------------

    def _apply(self, number: int, step: Step) -> None:
        for wanted in self._cast.drafts[number]:
            draft = self._dated(wanted)
            self._tokens += 1
            try:
                index = self._via(number, step)
                _, command = submission(self.world, index, draft, self._tokens)
            except BeemeshError as error:
                self._refuse(draft, error.message)
                self._tell(f"{short(draft.workload_id)} cannot be applied: {error.message}")
            else:
                self._submitted[self._tokens] = draft
                self.world.event(index, command)

    def _dated(self, draft: Workload) -> Workload:
        if draft.kind != "Job":
            return draft
        created_ms = self._created_ms.setdefault(draft.workload_id, self.world.wall_ms)
        return msgspec.structs.replace(draft, created_ms=created_ms)

    def _delete(self, number: int, step: Step) -> None:
        for workload_id in self._cast.workloads[number]:
            try:
                withdraw(self.world, self._via(number, step), workload_id)
            except BeemeshError as error:
                self._tell(f"{short(workload_id)} cannot be deleted: {error.message}")
            else:
                self.observer.wants_no_more(workload_id)
                self._created_ms.pop(workload_id, None)

    def _via(self, number: int, step: Step) -> int:
        """The node that is asked: the one that is named, else the first that answers."""
        if "via" in step.options:
            meant = self._meant(number, "via")
            if not meant:
                raise Unavailable(f"{step.options['via']} is nobody just now")
            return meant[0]
        up = [each.index for each in self.world.machines if each.is_up and each.paused_until_s <= self.world.now_s]
        return up[0] if up else 0

    def _why_pending(self, workload_id: str) -> str:
        for machine in self.world.machines:
            if machine.composition is None:
                continue
            events = machine.composition.journal.events(workload_id=workload_id)
            reasons = ("Pending", "Failed") if workload_id.startswith("job/") else ("Pending",)
            told = [event for event in events if event.status in reasons and event.reason]
            if told:
                last = max(told, key=lambda event: event.issued_ms)
                return f"{last.reason}: {last.details['message']}" if last.details.get("message") else last.reason
        return ""

    # --- expectations -------------------------------------------------------------------------------------------------

    def _expect(self, number: int, step: Step, others: Sequence[int]) -> None:
        failures = self._unmet(number, step, others)
        for failure in failures:
            self.report.violations.append(f"{self.world.now_s:.1f} s: {step}: {failure}")
            self._tell(f"NOT AS EXPECTED: {step}: {failure}")
        if not failures:
            self._tell(f"as expected: {step.text.removeprefix('expect ')}")

    def _unmet(self, number: int, step: Step, others: Sequence[int]) -> list[str]:
        up = [each for each in self.world.machines if each.is_up and each.paused_until_s <= self.world.now_s]
        stories = self.observer.stories
        counts, workloads = self._cast.counts.get(number, ()), self._cast.workloads.get(number, ())
        match step.who:
            case "running":
                found = {each: stories[each].running if each in stories else 0 for each, _ in counts}
                return [f"{found[each]} of {_name(each)} run" for each, count in counts if found[each] != count]
            case "alive" | "dead" if not up:
                return ["nobody is up to see anybody"] if step.other != "0" else []
            case "alive":
                seen = {each.spec.name: len(self.world.node(each.index).view.alive()) for each in up}
                return [f"{name} sees {count}" for name, count in seen.items() if str(count) != step.other]
            case "dead" | "empty" if not others:
                return [f"{step.other} is nobody just now"]
            case "dead":
                ids = [self.world.machines[index].membership.node_id for index in others]
                holders = [(each, node_id) for each in up for node_id in ids]
                return [
                    f"{each.spec.name} holds {self._specs[self.world.index_of(node_id)].name} alive"
                    for each, node_id in holders
                    if self.world.node(each.index).view.is_alive(node_id)
                ]
            case "agree":
                maps = {self.world.node(each.index).intents.bucket_hashes() for each in up}
                return [f"{len(maps)} different maps of intents"] if len(maps) > 1 else []
            case "single":
                return [f"{short(key)} runs twice" for key, story in stories.items() if story.twice]
            case "empty":
                running = {self._specs[index].name: _running(self.world.machines[index]) for index in others}
                return [f"{name} runs {count}" for name, count in running.items() if count]
            case "never-below":
                lowest = {each: stories[each].lowest if each in stories else 0 for each, _ in counts}
                return [
                    f"{lowest[each]} of {_name(each)} ran at the worst of times"
                    for each, count in counts
                    if lowest[each] < count
                ]
            case "never-doubled":
                doubled = [key for key, story in stories.items() if story.doubled and key in (workloads or stories)]
                return [f"{short(key)} ran twice" for key in doubled]
            case _:
                for each in workloads:
                    self.report.refused.pop(each, None)
                return [f"{_name(each)} was not refused" for each in workloads if each not in self._refused]


def _name(workload_id: str) -> str:
    return short(workload_id).partition("/")[2]


def _running(machine: Machine) -> int:
    return sum(1 for pod in machine.pods.values() if pod.phase == "Running")
