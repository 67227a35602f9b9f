"""Looks after the containers of this machine as a kubelet does: probes them, has those that fail restarted, runs hooks.

What is asked when, and what an answer means, says `beemesh.workloads.probes`; here is only the clock and the network.
Each container has one timer and at most one question of a kind under way. Restarts themselves are the engine's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from agent.asking import Answer, Asker
from agent.runtime.contract import LABEL_FENCE, LABEL_TASK, ContainerState, PodStatus, Runtime, RuntimeFailure
from beemesh.events import Observed
from beemesh.workloads.care import Action, ContainerCare, PodCare, ProbeSpec
from beemesh.workloads.probes import ContainerProbes, Verdict

log = logging.getLogger("beemesh.caretaker")

LABEL_CARE = "beemesh.io/care"
"""Probes, hooks and grace of a pod, as `PodCare.encode` writes them."""

LEAST_GRACE_S = 2.0
"""What a hook that takes long leaves to the processes themselves (as a kubelet)."""

Key = tuple[str, str]
"""A container: the pod's name in the runtime, and its own."""


@dataclass(slots=True)
class _Run:
    """One run of one container: from a start to an end."""

    identity: tuple[str, str, int]
    probes: ContainerProbes
    timer: asyncio.TimerHandle | None = None
    why: str = ""
    """What its probes said last, while one of them fails."""


class Caretaker:
    """See the module."""

    def __init__(
        self,
        runtime: Runtime,
        address: str,
        chance: Callable[[], float],
        on_change: Callable[[], None],
        count: Callable[[Observed], None],
    ) -> None:
        """`chance` draws from 0 to 1; `on_change` is called when a container's readiness may be another."""
        self._runtime = runtime
        self._asker = Asker(runtime, address)
        self._chance = chance
        self._on_change = on_change
        self._count = count
        self._cares: dict[str, tuple[str, PodCare]] = {}
        self._pods: Mapping[str, PodStatus] = {}
        self._runs: dict[Key, _Run] = {}
        self._ended_for: dict[Key, str] = {}
        """Why a container's last run was ended here: its next one bears that until a probe says that all is well."""
        self._leaving: set[str] = set()
        self._hooks: dict[str, asyncio.Task[None]] = {}
        """The `preStop` hooks of pods that are being ended, begun or done: a second order does not begin them again."""
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what the others ask -----------------------------------------------------------------------------------------

    def care(self, pod_id: str) -> PodCare:
        """What the pod's manifest asks for."""
        return self._cares[pod_id][1] if pod_id in self._cares else PodCare()

    def is_ready(self, pod_id: str, container: str) -> bool:
        """Whether a running container may be sent requests, as far as its probes tell."""
        run = self._runs.get((pod_id, container))
        return pod_id not in self._leaving and run is not None and run.probes.is_ready

    def why(self, pod_id: str, container: str) -> str:
        """What the container's probes complain of; empty when they do not."""
        run = self._runs.get((pod_id, container))
        return run.why if run is not None else ""

    def covers(self, pod_id: str, port: int) -> bool:
        """Whether the container of this port says itself when it is ready, so that nobody has to try the port."""
        return any(port in each.ports and each.has_readiness for each in self.care(pod_id).containers.values())

    # --- what happens to pods -----------------------------------------------------------------------------------------

    def follow(self, pods: Mapping[str, PodStatus]) -> None:
        """These are the pods now: begin to look after new runs, forget ended ones."""
        self._pods = pods
        self._leaving &= pods.keys()
        for gone in self._cares.keys() - pods.keys():
            del self._cares[gone]
        for gone in self._hooks.keys() - pods.keys():
            self._hooks.pop(gone).cancel()
        self._ended_for = {key: why for key, why in self._ended_for.items() if key[0] in pods}
        running: set[Key] = set()
        for pod_id, pod in pods.items():
            text = pod.labels.get(LABEL_CARE, "")
            if pod_id not in self._cares or self._cares[pod_id][0] != text:
                self._cares[pod_id] = (text, PodCare.decode(text))
            for container in pod.containers:
                if container.state is ContainerState.RUNNING and pod_id not in self._leaving:
                    running.add((pod_id, container.name))
                    identity = (pod.labels.get(LABEL_TASK, ""), pod.labels.get(LABEL_FENCE, ""), container.restarts)
                    self._begin((pod_id, container.name), identity, container.started_at_ms)
        for key in self._runs.keys() - running:
            self._drop(key)

    def _begin(self, key: Key, identity: tuple[str, str, int], started_at_ms: int) -> None:
        run = self._runs.get(key)
        if run is not None and run.identity == identity:
            return
        self._drop(key)
        care = self.care(key[0]).containers.get(key[1], ContainerCare())
        age_s = max(0.0, time.time() - started_at_ms / 1000) if started_at_ms else 0.0
        now_s = asyncio.get_running_loop().time()
        run = _Run(identity, ContainerProbes(care.probes, now_s - age_s, self._chance()))
        run.why = self._ended_for.pop(key, "")
        self._runs[key] = run
        self._set_timer(key, run)

    def leave(self, pod_id: str) -> None:
        """The pod is about to be ended: it is not ready from now on, and asked no more."""
        self._leaving.add(pod_id)
        for key in [key for key in self._runs if key[0] == pod_id]:
            self._drop(key)

    async def before_stop(self, pod_id: str, grace_s: float) -> float:
        """Run the `preStop` hooks of all containers, within the grace; how much of it they left, at least a little.
        They are run once: a later order with less time waits for those that are under way, as long as it says."""
        pod = self._pods.get(pod_id)
        hooks = [(name, each.pre_stop) for name, each in self.care(pod_id).containers.items() if each.pre_stop]
        if pod is None or not hooks:
            return grace_s
        begun_s = asyncio.get_running_loop().time()
        running = self._hooks.get(pod_id)
        most_s = grace_s if running is not None else None  # to their own grace they keep by themselves
        if running is None:
            running = self._hooks[pod_id] = asyncio.create_task(self._run_hooks(pod, hooks, grace_s))
        await asyncio.wait([running], timeout=most_s)
        running.cancel()
        return max(grace_s - (asyncio.get_running_loop().time() - begun_s), LEAST_GRACE_S)

    def skip_hooks(self, pod_id: str) -> None:
        """The pod ends at once: hooks that are under way, or wait for their turn, are given up."""
        if pod_id in self._hooks:
            self._hooks[pod_id].cancel()

    async def _run_hooks(self, pod: PodStatus, hooks: Iterable[tuple[str, Action]], grace_s: float) -> None:
        await asyncio.gather(*(self._run_hook(pod, name, hook, grace_s) for name, hook in hooks))

    async def _run_hook(self, pod: PodStatus, name: str, hook: Action, grace_s: float) -> None:
        answer = Answer(False, "its pod was to end sooner")
        try:
            answer = await self._asker.run_hook(pod, name, hook, grace_s)
        finally:
            self._count(Observed("hooks_total", {"hook": "preStop", "result": "ok" if answer.ok else "failed"}))
            if not answer.ok:
                log.warning("the preStop hook of container %s of pod %s failed: %s", name, pod.pod_id, answer.why)

    def close(self) -> None:
        """Ask nothing any more."""
        for key in list(self._runs):
            self._drop(key)
        for task in (*self._tasks, *self._hooks.values()):
            task.cancel()

    # --- asking -------------------------------------------------------------------------------------------------------

    def _drop(self, key: Key) -> None:
        run = self._runs.pop(key, None)
        if run is not None and run.timer is not None:
            run.timer.cancel()

    def _set_timer(self, key: Key, run: _Run) -> None:
        if run.timer is not None:
            run.timer.cancel()
        at_s = run.probes.next_s()
        loop = asyncio.get_running_loop()
        run.timer = loop.call_at(at_s, self._due, key, run) if at_s is not None else None

    def _due(self, key: Key, run: _Run) -> None:
        for spec in run.probes.due(asyncio.get_running_loop().time()):
            task = asyncio.create_task(self._ask(key, run, spec))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._set_timer(key, run)

    async def _ask(self, key: Key, run: _Run, spec: ProbeSpec) -> None:
        pod = self._pods.get(key[0])
        if pod is None:
            return
        try:
            answer = await self._asker.ask(pod, key[1], spec.action, spec.timeout_s)
        except Exception as error:  # a bug of ours must not end the probing of a container for ever
            log.exception("a %s probe could not be carried out", spec.kind)
            answer = Answer(False, f"internal error of the agent: {type(error).__name__}")
        if self._runs.get(key) is not run:
            return
        self._count(Observed("probes_total", {"probe": spec.kind, "result": "ok" if answer.ok else "failed"}))
        verdict = run.probes.result(spec.kind, asyncio.get_running_loop().time(), ok=answer.ok)
        if not answer.ok:
            run.why = f"{spec.kind} probe failed: {answer.why}"
        elif run.probes.is_ready:
            run.why = ""
        self._set_timer(key, run)
        if verdict.changed:
            self._on_change()
        if verdict.failed is not None:
            await self._end(key, run, verdict)

    async def _end(self, key: Key, run: _Run, verdict: Verdict) -> None:
        """Have a container restarted (or ended, by its policy) whose liveness or startup failed."""
        log.warning("container %s of pod %s is ended: %s", key[1], key[0], run.why)
        self._count(Observed("probe_restarts_total", {"probe": str(verdict.failed)}))
        self._ended_for[key] = run.why
        grace_s = verdict.grace_s if verdict.grace_s is not None else self.care(key[0]).grace_s
        try:
            await self._runtime.end_container(key[0], key[1], grace_s)
        except RuntimeFailure as failure:
            log.error("container %s of pod %s could not be ended: %s", key[1], key[0], failure)
            if self._runs.get(key) is run:  # look at it again from the start
                self._drop(key)
                self._begin(key, run.identity, 0)
