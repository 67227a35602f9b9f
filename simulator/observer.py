"""Watches a simulated mesh from outside and tells its story: who is noticed dead and when, what runs, what it costs.

It sees machines as they are, whatever any node believes, and compares that with what nodes say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from beemesh.events import MemberDown, MemberLeft, MemberUp
from beemesh.scheduling.eligibility import placement_refusals
from beemesh.workloads.daemons import DAEMON_SET
from beemesh.workloads.record import JobTerms, Workload
from simulator.machine import Machine
from simulator.world import World

Tell = Callable[[str], None]
"""Takes a line of the story, about this moment."""

NAMES_SHOWN = 5
"""Names in one line; of more, their number is told."""

BETWEEN_PODS_S = 5.0
"""A Job lacks a pod for a moment whenever one has ended: only when it does for longer is it short of one."""

LINES_SHOWN = 4
"""Workloads with a line of their own when several change at once; of more, their sum is told."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The mesh at one moment: machines whose agent runs, replicas wanted and running, what agents sent so far."""

    at_s: float
    machines: int
    wanted: int
    running: int
    sent: int
    """Datagrams."""
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Detection:
    """When the nodes that could no longer reach a machine took note of it: the first and the last of `by` nodes."""

    machine: str
    first_s: float
    last_s: float
    by: int


@dataclass(slots=True)
class WorkStory:
    """What became of one workload. Replicas are counted once, however often they run; those of a Job that have ended
    well count among `running`, since nobody misses them."""

    workload_id: str
    wanted: int = 0
    """Of a DaemonSet: one for each machine that it is for and that is up, or runs one without its agent."""
    running: int = 0
    completed: int = 0
    before: int = 0
    lowest: int = 0
    short_until_s: float | None = None
    """The last moment at which a replica was missing; None when none was since the first fault."""
    doubled: int = 0
    """Most replicas that ran twice at one moment."""
    twice: int = 0
    """Replicas that run twice now."""
    is_short: bool = False
    """Whether replicas are missing now."""
    where: tuple[str, ...] = ()


@dataclass(slots=True)
class _Wish:
    """What was applied last of a workload; of a Job also which ordinals ended well, and since when too few run."""

    workload: Workload
    completed: set[int] = field(default_factory=set)
    fewer_since_s: float | None = None


@dataclass(slots=True)
class _Unseen:
    """One machine that somebody holds dead: who, since when."""

    since_s: dict[int, float] = field(default_factory=dict)
    told: bool = False


class Observer:
    """Looks when it is asked to; `look` at least every quarter of a second makes the times worth something."""

    def __init__(self, world: World, tell: Tell) -> None:
        self._world = world
        self._tell = tell
        self.stories: dict[str, WorkStory] = {}
        self._wishes: dict[str, _Wish] = {}
        self.samples: list[Sample] = []
        self.detections: list[Detection] = []
        self.false_deaths = 0
        self._unseen: dict[int, _Unseen] = {}
        self._changed: set[int] = set()
        self._complete = False
        self._fault_s: float | None = None

    # --- what the stage says ----------------------------------------------------------------------------------------

    def wants(self, workload: Workload) -> int:
        """A workload is wanted from now on; with how many replicas."""
        story = self.stories.setdefault(workload.workload_id, WorkStory(workload.workload_id))
        wish = self._wishes.setdefault(workload.workload_id, _Wish(workload))
        wish.workload = workload
        story.wanted = self._wanted(story, workload)
        return story.wanted

    def wants_no_more(self, workload_id: str) -> None:
        """It was deleted."""
        self.stories.setdefault(workload_id, WorkStory(workload_id)).wanted = 0
        self._wishes.pop(workload_id, None)

    def fault(self) -> None:
        """Something is about to go wrong; the first time, what runs now is remembered."""
        if self._fault_s is not None:
            return
        self.look()
        self._fault_s = self._world.now_s
        for story in self.stories.values():
            story.before = story.lowest = story.running

    @property
    def fault_s(self) -> float | None:
        """When the first fault began."""
        return self._fault_s

    # --- what nodes say ---------------------------------------------------------------------------------------------

    def saw(self, at_s: float, index: int, event: Any) -> None:
        """A node noticed something."""
        if not isinstance(event, MemberDown | MemberLeft | MemberUp):
            return
        target = self._world.index_of(event.node_id)
        self._changed.add(target)
        if isinstance(event, MemberUp):
            self._unseen.get(target, _Unseen()).since_s.pop(index, None)
            return
        self._unseen.setdefault(target, _Unseen()).since_s[index] = at_s
        if isinstance(event, MemberDown) and self._reaches(index, target):
            self.false_deaths += 1
            self._tell(f"{self._name(index)} holds {self._name(target)} dead, which it could reach")

    # --- what is -----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Compare with the last look, tell what changed, take a sample."""
        self._look_at_members()
        self._look_at_works()
        machines = self._world.machines
        self.samples.append(
            Sample(
                self._world.now_s,
                sum(1 for each in machines if self._is_live(each)),
                sum(story.wanted for story in self.stories.values()),
                sum(story.running for story in self.stories.values()),
                sum(each.sent for each in machines),
                sum(each.sent_bytes for each in machines),
            )
        )

    def _look_at_members(self) -> None:
        live = [each.index for each in self._world.machines if self._is_live(each)]
        if (
            not self._complete
            and live
            and all(len(self._world.node(index).view.alive()) == len(live) for index in live)
        ):
            self._complete = True
            self._tell(f"every node sees every node ({len(live)})")
        noticed: list[Detection] = []
        back: list[str] = []
        for target in sorted(self._changed):
            unseen = self._unseen.get(target)
            if unseen is None:
                continue
            by = [index for index in live if index != target and not self._reaches(index, target)]
            if by and not unseen.told and all(index in unseen.since_s for index in by):
                unseen.told = True
                times = [unseen.since_s[index] for index in by]
                noticed.append(Detection(self._name(target), min(times), max(times), len(by)))
            elif not any(index in unseen.since_s for index in live):
                if unseen.told:
                    back.append(self._name(target))
                del self._unseen[target]
        self._changed.clear()
        self.detections += noticed
        if noticed:
            took = f"from {min(each.first_s for each in noticed):.1f} s on"
            self._tell(f"{named(each.machine for each in noticed)} held dead by all {noticed[0].by} others ({took})")
        if back:
            self._tell(f"{named(back)} back for all")

    def _look_at_works(self) -> None:
        found: dict[str, dict[int, list[str]]] = {workload_id: {} for workload_id in self.stories}
        for each in self._world.machines:
            if each.paused_until_s > self._world.now_s:
                continue  # its pods stand still as well
            for pod in each.pods.values():
                if pod.phase == "Running":
                    found.setdefault(pod.workload_id, {}).setdefault(pod.replica, []).append(each.spec.name)
                elif pod.phase == "Succeeded" and pod.workload_id in self._wishes:
                    self._wishes[pod.workload_id].completed.add(pod.replica)
        changed = [self._update(workload_id, replicas) for workload_id, replicas in found.items()]
        lines = [line for line in changed if line]
        if len(lines) > LINES_SHOWN:
            running = sum(story.running for story in self.stories.values())
            wanted = sum(story.wanted for story in self.stories.values())
            lines = [f"{running} of {wanted} replicas run ({len(lines)} workloads changed)"]
        for line in lines:
            self._tell(line)

    def _update(self, workload_id: str, replicas: dict[int, list[str]]) -> str:
        """Take in what runs of a workload; the line to tell when that changed."""
        story = self.stories.setdefault(workload_id, WorkStory(workload_id))
        wish = self._wishes.get(workload_id)
        completed = wish.completed if wish is not None else set()
        where = tuple(name for replica in sorted(replicas) for name in replicas[replica])
        before = (story.where, story.completed)
        story.where, story.completed = where, len(completed)
        story.twice = sum(1 for names in replicas.values() if len(names) > 1)
        story.running, story.doubled = len(replicas.keys() | completed), max(story.doubled, story.twice)
        if wish is not None:
            story.wanted = self._wanted(story, wish.workload)
        story.is_short = self._is_short(story, wish, active=len(replicas))
        if self._fault_s is not None:
            story.lowest = min(story.lowest, story.running)
            if story.is_short:
                story.short_until_s = self._world.now_s
        return "" if (story.where, story.completed) == before else _line(story, len(replicas))

    def _wanted(self, story: WorkStory, workload: Workload) -> int:
        """How many replicas there should be now. A DaemonSet is for the machines that its record fits and that are up;
        one whose agent died still runs its own. While no agent is left, those that ran last are missed."""
        machines = self._world.machines
        if workload.kind != DAEMON_SET:
            return workload.replicas
        if not any(self._is_live(each) for each in machines):
            return story.wanted
        able = [each for each in machines if self._is_live(each) or each.spec.name in story.where]
        return sum(1 for each in able if not placement_refusals(workload.constraints, each.membership))

    def _is_short(self, story: WorkStory, wish: _Wish | None, *, active: int) -> bool:
        """Whether fewer run than should. A Job runs so many at a time, and takes a moment from one to the next."""
        if wish is None or wish.workload.kind != "Job":
            return story.running < story.wanted
        terms = wish.workload.job or JobTerms()
        if active >= min(terms.parallelism, story.wanted - story.completed):
            wish.fewer_since_s = None
        elif wish.fewer_since_s is None:
            wish.fewer_since_s = self._world.now_s
        return wish.fewer_since_s is not None and self._world.now_s - wish.fewer_since_s >= BETWEEN_PODS_S

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _is_live(self, machine: Machine) -> bool:
        return machine.composition is not None and machine.paused_until_s <= self._world.now_s

    def _reaches(self, one: int, other: int) -> bool:
        faults = self._world.faults
        there = self._is_live(self._world.machines[other])
        return there and faults.reaches(one, other) and faults.reaches(other, one)

    def _name(self, index: int) -> str:
        return self._world.machines[index].spec.name


def _line(story: WorkStory, active: int) -> str:
    """How many of a workload run, and where."""
    doubled = f", {story.twice} of them twice" if story.twice else ""
    at = f": {named(story.where)}" if story.where else ""
    if story.completed:
        return (
            f"{short(story.workload_id)} {story.completed} of {story.wanted} have ended well, {active} run{doubled}{at}"
        )
    return f"{short(story.workload_id)} {story.running} of {story.wanted} run{doubled}{at}"


def named(names: Iterable[str]) -> str:
    """Names for a line; how many of each there are, where one comes more than once."""
    counted = Counter(names)
    shown = [name if count == 1 else f"{name} x{count}" for name, count in counted.items()]
    if len(shown) <= NAMES_SHOWN:
        return ", ".join(shown)
    return f"{', '.join(shown[: NAMES_SHOWN - 1])} and {len(shown) - NAMES_SHOWN + 1} more"


def short(workload_id: str) -> str:
    """`deployment/default/web` as people say it."""
    kind, namespace, name = workload_id.split("/", 2)
    return f"{kind}/{name}" if namespace == "default" else f"{kind}/{namespace}/{name}"
