"""In the end each replica of what was accepted runs once, came to its end, or waits with a reason and without room.

Asks one agent, as a user would; which one changes from replica to replica.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from beemesh.scheduling.execution.pods import ENDED
from beemesh.scheduling.telling import FINISHED
from beemesh.workloads.observation import ReplicaReport
from beemesh.workloads.record import Workload
from simulator.asking import is_given_up, is_tried, told, why_pending, words
from simulator.checkers import Blame
from simulator.checkers.daemons import check_daemons
from simulator.checkers.jobs import check_job
from simulator.checkers.room import has_room, is_over_quota
from simulator.machine import Machine
from simulator.mock_runtime import MockRuntime, conduct_of
from simulator.world import World


class OutcomeChecker:
    """Looks at the end alone."""

    name = "outcomes"
    sees: tuple[type, ...] = ()

    def __init__(self, runtime: MockRuntime, seed: int) -> None:
        self._runtime = runtime
        self._seed = seed
        self.counts: Counter[str] = Counter()
        """What became of the replicas: running, ended, pending."""

    def saw(self, world: World, at_s: float, index: int, event: Any, blame: Blame) -> None:
        """Only the end matters."""

    def look(self, world: World, blame: Blame) -> None:
        """Only the end matters."""

    def at_end(self, world: World, blame: Blame) -> None:
        """All that stands in the map, and all that runs."""
        up = [machine for machine in world.machines if machine.is_up]
        running: dict[str, list[tuple[Machine, ReplicaReport]]] = {}
        for machine, report, task in self._runtime.running():
            running.setdefault(task.workload_id, []).append((machine, report))
        self.counts.clear()
        for number, workload in enumerate(standing(up[0])):
            found = running.pop(workload.workload_id, [])
            asked = up[number % len(up)]
            if workload.kind == "Job":
                reports = [report for _, report in found]
                self.counts[check_job(self._runtime, self._seed, asked, workload, reports, blame)] += 1
            elif workload.kind == "DaemonSet":
                self.counts.update(check_daemons(self._runtime, self._seed, asked, workload, found, blame))
            else:
                self._check(world, asked, workload, found, blame)
        for workload_id, found in running.items():
            where = " ".join(f"n{machine.index}" for machine, _ in found)
            blame(f"{workload_id} runs in the end on {where}, and nobody wants it")

    def _check(
        self, world: World, asked: Machine, workload: Workload, found: list[tuple[Machine, ReplicaReport]], blame: Blame
    ) -> None:
        ordinals: dict[int, list[ReplicaReport]] = {}
        for machine, report in found:
            ordinals.setdefault(report.replica, []).append(report)
            if report.replica >= workload.replicas:
                blame(f"{workload.workload_id}/{report.replica} runs on n{machine.index}, which is one too many")
        behind, reasons = [], 0
        for ordinal in range(workload.replicas):
            here = ordinals.get(ordinal, [])
            if len(here) == 1 and here[0].is_of(workload.current):
                self.counts["running"] += 1
            elif len(here) > 1:
                self.counts["surge"] += 1
                if not _is_surge(workload, here):
                    blame(f"{workload.workload_id}/{ordinal} runs {len(here)} times in the end")
            elif here and not why_pending(world, asked, workload.workload_id, workload.current.number, ordinal):
                behind.append(ordinal)
            else:
                reasons += self._missing(world, asked, workload, ordinal, blame)
        self.counts["behind"] += len(behind)
        # A revision that cannot be had in one place is not tried in the others.
        if behind and not reasons and not workload.strategy.paused:
            blame(f"{workload.workload_id}/{behind[0]} runs an old revision in the end; n{asked.index} knows no reason")

    def _missing(self, world: World, asked: Machine, workload: Workload, ordinal: int, blame: Blame) -> bool:
        """Nothing of the revision that is wanted runs; whether there is a reason."""
        place, revision = f"{workload.workload_id}/{ordinal}", workload.current.number
        once = workload.restart_policy != "Always"
        if once and self._ended(world, workload.workload_id, revision, ordinal):
            self.counts["ended"] += 1
            return False
        reason = why_pending(world, asked, workload.workload_id, revision, ordinal)
        if workload.strategy.paused:
            self.counts["paused"] += 1
            return True
        if not reason:
            blame(f"{place} does not run in the end, and n{asked.index} cannot tell why")
            return False
        self.counts["pending"] += 1
        if "quota" in reason and is_over_quota(asked):
            return True
        # What may end by itself does so no more by now, and what fails at times starts in the end.
        fails = conduct_of(self._seed, workload.workload_id, revision, once=once).fails
        hopeless = fails == 1.0 or (fails > 0.0 and is_tried(world, asked, workload.workload_id, revision, ordinal))
        hopeless |= is_given_up(asked, told(world, asked, workload.workload_id), revision, ordinal)
        open_to = [] if hopeless else world.machines
        roomy = next((machine for machine in open_to if has_room(self._runtime, machine, workload)), None)
        if roomy is not None:
            blame(f"{place} is pending though n{roomy.index} has room; n{asked.index} says: {reason}")
            return True
        evictor = next((each for each in open_to if has_room(self._runtime, each, workload, evicting=True)), None)
        if evictor is not None:
            blame(f"{place} is pending though n{evictor.index} could evict others; n{asked.index} says: {reason}")
        return True

    def _ended(self, world: World, workload_id: str, revision: int, ordinal: int) -> bool:
        """Whether a pod that runs once came to its end: by what is left of it, or by the diary of any agent."""
        for machine in world.machines:
            for report in machine.pods.values():
                same = (report.workload_id, report.revision, report.replica) == (workload_id, revision, ordinal)
                if same and report.phase in ENDED:
                    return True
            said = words(world, machine, workload_id, revision, ordinal) if machine.is_up else ()
            if any(FINISHED in event.details for event in said) or (said and said[-1].status == "Failed"):
                return True
        return False


def _is_surge(workload: Workload, here: list[ReplicaReport]) -> bool:
    """Whether a rollout was paused between a replica's start and the end of the one that it replaces."""
    return workload.strategy.paused and len({report.revision for report in here}) == len(here) == 2


def standing(machine: Machine) -> Iterator[Workload]:
    """The workloads that a machine's agent holds for wanted."""
    assert machine.composition is not None, f"n{machine.index} is down"
    for intent, _ in machine.composition.intents.items("workload/"):
        if intent.kind == "workload":
            yield msgspec.msgpack.decode(intent.body, type=Workload)
