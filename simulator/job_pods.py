"""Pods of a Job that run to their end, for worlds whose runtime otherwise starts pods that run for ever."""

from __future__ import annotations

from functools import partial

import msgspec

from beemesh.effects import Run
from beemesh.events import DeployPod
from simulator.machine import Machine
from simulator.world import DEPLOY_S, World

JOB_POD_S = 10.0
"""How long each pod of a Job runs until it ends well."""


class JobPods:
    """Puts itself before the world's runtime: that one starts every pod, this one lets those of a Job end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._start = world.runtime
        world.runtime = self.carry_out

    def carry_out(self, machine: Machine, run: Run) -> None:
        """A job of a machine's agent."""
        self._start(machine, run)
        if isinstance(run.job, DeployPod) and run.job.task.kind == "Job":
            end = partial(self._end, machine, run.job.pod, run.job.task.task_id)
            self._world.at(self._world.now_s + DEPLOY_S + JOB_POD_S, end, machine)

    def _end(self, machine: Machine, pod: str, task_id: str) -> None:
        """A pod outlives its agent, as it does with any engine; in a power cut it is gone with its machine."""
        found = machine.pods.get(pod)
        if found is not None and (found.task_id, found.phase) == (task_id, "Running"):
            machine.pods[pod] = msgspec.structs.replace(found, phase="Succeeded", ready=False, reason="it ended")
            self._world.tell_pods(machine)
