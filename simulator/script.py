"""What operators do in a scheduling trial: a table of weighted actions, drawn all along, at nodes that answer or not.

To add one: write a function that takes a `Desk` and a source of chance, and give it a line in `ACTIONS`. An action may
find nothing to act on; then it does nothing. Seeds mean other trials after that, which is no harm here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from beemesh.crypto import KEY_BYTES
from beemesh.errors import BeemeshError
from beemesh.events import PutIntent, Submitted
from beemesh.intents.record import Cordon, Drain, Intent, IntentKind, Move, budget_key, cordon_key, quota_key
from beemesh.workloads.budgets import Budget
from beemesh.workloads.policies import Quota
from beemesh.workloads.record import Constraints, HostPort, JobTerms, Strategy, Toleration, Workload
from beemesh.workloads.revising import restarted, undone, with_paused
from simulator.demand import Demand
from simulator.fleet import DEDICATED, ZONES
from simulator.operator import deployment, may_be_lost, revise, submission, withdraw
from simulator.turnover import Removal, draw_lingering_s, join, rotate, take_out
from simulator.world import World

EVERY_S = (0.6, 2.5)
"""Shortest and longest mean time between two actions of one trial."""

HUGE_CPU_M = 9_000
"""More than any machine has."""

PORTS = (8080, 8443)
"""Few, so that several workloads want one."""

TRIES_MAX = 4
AGAIN_S = 1.5
"""So often, and with such a pause, a new workload is handed in that some keeper did not answer for."""

LAWS = ("quota", "PriorityClass")
"""Words of refusals that would be the same again."""

REMOVALS_MAX = 1
"""Machines that are taken out of the mesh in one trial."""


class Desk:
    """Where operators sit: whom they ask, and what they want so far."""

    def __init__(
        self,
        world: World,
        submitted: dict[int, Intent],
        tell: Callable[[str], None],
        load: float,
        demand: Demand,
        absent: list[int],
        *,
        forgetful: bool,
    ) -> None:
        """`submitted` takes what is handed in, by token; `load` scales what a replica needs, and `demand` is what else
        they want; the machines of `absent` may join. Records and shares outlive one lost disk of those that have them:
        where disks are lost anyhow (`forgetful`) nothing is removed, nor handed in at a node that sees nobody else."""
        self.world = world
        self.tell = tell
        self.load = load
        self.demand = demand
        self.absent = absent
        self.removals = 0 if forgetful else REMOVALS_MAX
        self._forgetful = forgetful
        self.works: dict[str, Workload] = {}
        """What was asked for, by workload id; the mesh may know better, or not know it yet."""
        self.cordoned: set[str] = set()
        self._accepted: dict[str, Workload] = {}
        """Of these, what some node last took."""
        self._asked: dict[int, Workload] = {}
        """Token → what was handed in with it, while no answer has come."""
        self._tried: dict[str, int] = {}
        """How often a new workload was refused."""
        self._submitted = submitted
        self._names = 0

    def node(self, chance: random.Random) -> int:
        """Some machine; it may be down."""
        return chance.randrange(len(self.world.machines))

    def name(self) -> str:
        """A name that no workload had before."""
        self._names += 1
        return f"work{self._names}"

    def some(self, chance: random.Random, *, counted: bool = False) -> Workload | None:
        """One of those that are wanted; `counted`: one whose replicas an operator may change."""
        names = [name for name, work in self.works.items() if not counted or work.kind == "Deployment"]
        return self.works[chance.choice(sorted(names))] if names else None

    def draft(self, chance: random.Random, replicas: int, **more: Any) -> Workload:
        """A new workload of some size."""
        cpu_m, mem_mb = chance.choice((20, 100, 300, 700)), chance.choice((32, 128, 512, 1024))
        more.setdefault("cpu_m", round(cpu_m * self.load))
        priority, preemptible = chance.choice((0, 0, 10, 100)), chance.random() < self.demand.preemptible_part
        more.setdefault("qos", self.demand.qos(priority, preemptible=preemptible))
        return self.demand.wished(deployment(self.name(), replicas, mem_mb=round(mem_mb * self.load), **more))

    def hand_in(self, draft: Workload, chance: random.Random, note: str = "") -> None:
        """Seal a workload for some node and hand it in there."""
        index, token = self.node(chance), len(self._submitted) + 1
        if may_be_lost(self.world, index, forgetful=self._forgetful):
            return
        try:
            self._submitted[token], command = submission(self.world, index, draft, token)
        except BeemeshError:
            return  # the machine is down, or sees too few others
        self.works[draft.workload_id] = self._asked[token] = draft
        doubled = "" if draft.duplicate_tolerant else ", never doubled"
        self.tell(f"apply {draft.workload_id} ({draft.replicas} replicas{doubled}{note}) at n{index}")
        self.world.event(index, command)

    def answered(self, told: Submitted) -> None:
        """A node took what was handed in, or refused it: then what stood before stands. A new one is handed in again
        elsewhere, as people do, unless there is a law against it."""
        draft = self._asked.pop(told.token, None)
        if draft is None or draft.workload_id not in self.works:
            return  # it was not handed in here, or is not wanted any more
        name = draft.workload_id
        if told.accepted:
            self._accepted[name] = draft
            return
        self.tell(f"{name} was refused: {told.reason}")
        if self.works[name] is not draft:
            return
        if name in self._accepted:
            self.works[name] = self._accepted[name]
            return
        del self.works[name]
        tried = self._tried[name] = self._tried.get(name, 0) + 1
        if tried < TRIES_MAX and not any(law in told.reason for law in LAWS):
            chance = random.Random(f"{name} {tried}")  # noqa: S311 - a simulation wants chance that repeats
            again = partial(self.hand_in, draft, chance, ", again")
            self.world.at(self.world.now_s + AGAIN_S, again)

    def forget(self, workload_id: str) -> None:
        """A workload was deleted."""
        self.works.pop(workload_id)
        self._accepted.pop(workload_id, None)

    def revise(self, work: Workload, name: str, change: Callable[[Workload], Workload], chance: random.Random) -> None:
        """Change what stands of a workload, as some node knows it."""
        index, token = self.node(chance), len(self._submitted) + 1
        if may_be_lost(self.world, index, forgetful=self._forgetful):
            return
        try:
            self._submitted[token], command = revise(self.world, index, work.workload_id, change, token)
        except BeemeshError:
            return  # the machine is down, or there is nothing to go back to
        self.tell(f"{name} {work.workload_id} at n{index}")
        self.world.event(index, command)

    def order(self, key: str, kind: IntentKind, body: msgspec.Struct, chance: random.Random, note: str) -> bool:
        """Enter a record at some node; whether it was there to take it."""
        index = self.node(chance)
        composition = self.world.machines[index].composition
        if composition is None:
            return False
        found = composition.intents.get(key)
        seq = found[0].seq + 1 if found is not None else 1
        self.tell(f"{note} at n{index}")
        self.world.event(index, PutIntent(self.world.sign(self.world.operator, kind, key, body, seq)))
        return True


Act = Callable[[Desk, random.Random], None]


@dataclass(frozen=True, slots=True)
class Action:
    """One kind of thing that operators do, and how often beside the others."""

    name: str
    weight: float
    act: Act


def _deploy(desk: Desk, chance: random.Random) -> None:
    strategy = Strategy(max_surge=chance.randint(0, 2), max_unavailable=chance.randint(0, 1))
    if chance.random() < 0.2:
        strategy = Strategy(type="Recreate")
    desk.hand_in(desk.draft(chance, chance.randint(1, 5), strategy=strategy), chance)


def _deploy_once(desk: Desk, chance: random.Random) -> None:
    """What must not be doubled: each replica holds a run lease."""
    strategy = Strategy(type=chance.choice(("Recreate", "RollingUpdate")), max_unavailable=chance.randint(0, 2))
    desk.hand_in(desk.draft(chance, chance.randint(1, 4), tolerant=False, strategy=strategy), chance)


def _deploy_many(desk: Desk, chance: random.Random) -> None:
    """So many that an update of one at a time would outlast the trial where each ends slowly."""
    surge = chance.randint(2, 4)
    desk.hand_in(desk.draft(chance, chance.randint(8, 16), strategy=Strategy(max_surge=surge)), chance)


def _pod(desk: Desk, chance: random.Random) -> None:
    policy = chance.choice(("Always", "Never", "OnFailure"))
    draft = desk.draft(chance, 1, tolerant=chance.random() < 0.5, restart_policy=policy)
    desk.hand_in(msgspec.structs.replace(draft, kind="Pod"), chance, f", restarts {policy}")


def _picky(desk: Desk, chance: random.Random) -> None:
    """What runs on some machines only."""
    wishes = (
        Constraints(node_selector={"topology.kubernetes.io/zone": chance.choice(ZONES)}),
        Constraints(node_selector={"disk": "ssd"}),
        Constraints(anti_affinity_hosts=True),
        Constraints(tolerations=(Toleration(DEDICATED.key, "Exists"),)),
        Constraints(node_name=f"n{desk.node(chance)}"),
    )
    tolerant = chance.random() < 0.7
    draft = desk.draft(chance, chance.randint(1, 4), tolerant=tolerant, constraints=chance.choice(wishes))
    desk.hand_in(draft, chance, ", picky")


def _ported(desk: Desk, chance: random.Random) -> None:
    draft = desk.draft(chance, chance.randint(1, 3), tolerant=chance.random() < 0.7)
    requirements = msgspec.structs.replace(draft.requirements, ports=(HostPort(chance.choice(PORTS)),))
    desk.hand_in(msgspec.structs.replace(draft, requirements=requirements), chance, ", ported")


def _job(desk: Desk, chance: random.Random) -> None:
    """Pods that run to their end, some at a time."""
    policy = chance.choice(("Never", "OnFailure"))
    draft = desk.draft(chance, chance.randint(1, 5), tolerant=chance.random() < 0.7, restart_policy=policy)
    terms = JobTerms(chance.randint(1, 3), chance.choice((0, 2, 6)), chance.choice((0, 0, 0, 30)))
    made = msgspec.structs.replace(draft, kind="Job", job=terms, created_ms=desk.world.wall_ms)
    desk.hand_in(made, chance, f", {terms.parallelism} at a time, restarts {policy}")


def _daemons(desk: Desk, chance: random.Random) -> None:
    """One on each machine, or on each of some."""
    wishes = (
        Constraints(),
        Constraints(node_selector={"topology.kubernetes.io/zone": chance.choice(ZONES)}),
        Constraints(node_selector={"disk": "ssd"}, tolerations=(Toleration(DEDICATED.key, "Exists"),)),
    )
    strategy = Strategy(max_surge=0, max_unavailable=chance.randint(1, 3))
    tolerant = chance.random() < 0.7
    draft = desk.draft(chance, 0, cpu_m=20, tolerant=tolerant, constraints=chance.choice(wishes), strategy=strategy)
    desk.hand_in(msgspec.structs.replace(draft, kind="DaemonSet"), chance, ", one on each")


def _huge(desk: Desk, chance: random.Random) -> None:
    """What nobody has room for."""
    desk.hand_in(desk.draft(chance, 1, cpu_m=HUGE_CPU_M), chance, ", huge")


def _scale(desk: Desk, chance: random.Random) -> None:
    work = desk.some(chance, counted=True)
    if work is not None:
        replicas = chance.choice((chance.randint(0, 6), max(0, work.replicas - chance.randint(1, 2))))
        desk.hand_in(msgspec.structs.replace(work, replicas=replicas), chance, ", scaled")


def _change(desk: Desk, chance: random.Random) -> None:
    """A new revision, of another size at times."""
    work = desk.some(chance)
    if work is not None and work.kind != "Job":  # what a job is to run cannot be changed
        cpu_m = max(1, work.requirements.cpu_m + chance.choice((-5, 5, 50)))
        requirements = msgspec.structs.replace(work.requirements, cpu_m=cpu_m)
        desk.hand_in(msgspec.structs.replace(work, requirements=requirements), chance, ", changed")


def _delete(desk: Desk, chance: random.Random) -> None:
    work, index = desk.some(chance), desk.node(chance)
    if work is None:
        return
    try:
        withdraw(desk.world, index, work.workload_id)
    except BeemeshError:
        return
    desk.forget(work.workload_id)
    desk.tell(f"delete {work.workload_id} at n{index}")


def _cordon(desk: Desk, chance: random.Random) -> None:
    """Cordon a node, or end the cordon or drain of one that is."""
    if desk.cordoned and chance.random() < 0.7:
        name = chance.choice(sorted(desk.cordoned))
        if desk.order(cordon_key(name), "cordon", Cordon(name, False), chance, f"uncordon {name}"):
            desk.cordoned.discard(name)
        return
    name = f"n{desk.node(chance)}"
    if desk.order(cordon_key(name), "cordon", Cordon(name, True, "maintenance"), chance, f"cordon {name}"):
        desk.cordoned.add(name)


def _drain(desk: Desk, chance: random.Random) -> None:
    """Everything leaves a node; it may be down, or cut off."""
    name, force = f"n{desk.node(chance)}", chance.random() < 0.3
    drain = Drain(chance.choice((-1, 0, 5)), force, desk.world.wall_ms)
    note = f"drain {name}{', by force' if force else ''}"
    if desk.order(cordon_key(name), "cordon", Cordon(name, True, "drained", drain), chance, note):
        desk.cordoned.add(name)


def _move(desk: Desk, chance: random.Random) -> None:
    """One replica that runs is to run elsewhere."""
    running = [(machine, pod) for machine in desk.world.machines for pod in machine.pods.values()]
    if not running:
        return
    machine, pod = chance.choice(running)
    to = f"n{desk.node(chance)}" if chance.random() < 0.5 else ""
    name, until_ms = machine.spec.name, desk.world.wall_ms + chance.randint(5_000, 30_000)
    body = Cordon(name, False, moves=(Move(pod.workload_id, pod.replica, to),), moves_until_ms=until_ms)
    if desk.order(cordon_key(name), "cordon", body, chance, f"move {pod.workload_id}/{pod.replica} off {name} {to}"):
        desk.cordoned.discard(name)


def _budget(desk: Desk, chance: random.Random) -> None:
    """Some replicas of everything must stay healthy."""
    name = chance.choice(("most", "some"))
    least, most = chance.choice((("1", ""), ("50%", ""), ("", "0"), ("", "1"), ("", "30%")))
    body = Budget("default", name, min_available=least, max_unavailable=most)
    note = f"budget {name}: {least} stay" if least else f"budget {name}: {most} may go"
    desk.order(budget_key("default", name), "budget", body, chance, note)


def _quota(desk: Desk, chance: random.Random) -> None:
    """So many pods are allowed at most; there may be more of them already, and what dies of those stays away."""
    wanted = sum(work.replicas for work in desk.works.values())
    pods = max(1, round(wanted * chance.choice((0.3, 0.7, 1.2, 3.0))))
    body = Quota("default", "most", {"pods": pods})
    desk.order(quota_key("default", "most"), "quota", body, chance, f"quota: {pods} pods")


def _revise(desk: Desk, chance: random.Random) -> None:
    """Undo, restart, pause or resume what stands."""
    work = desk.some(chance, counted=True)
    if work is None:
        return
    now_ms, paused = desk.world.wall_ms, chance.random() < 0.4
    name, change = chance.choice((
        ("undo", lambda stands: undone(stands, 0, now_ms)),
        ("restart", lambda stands: restarted(stands, now_ms)),
        ("pause" if paused else "resume", lambda stands: with_paused(stands, paused=paused)),
    ))  # fmt: skip
    desk.revise(work, name, change, chance)


def _join(desk: Desk, _chance: random.Random) -> None:
    """A machine that was not there yet."""
    if desk.absent:
        join(desk.world, desk.world.machines[desk.absent.pop()], desk.tell)


def _remove(desk: Desk, chance: random.Random) -> None:
    """A machine is taken out of the mesh for good."""
    lingers_s = draw_lingering_s(chance)
    removal = Removal(desk.node(chance), desk.node(chance), lingers_s, chance.randbytes(KEY_BYTES))
    if desk.removals and take_out(desk.world, removal, desk.tell):
        desk.removals -= 1


def _rotate(desk: Desk, chance: random.Random) -> None:
    """Another gossip key."""
    rotate(desk.world, desk.node(chance), chance.randbytes(KEY_BYTES), desk.tell)


ACTIONS: tuple[Action, ...] = (
    Action("deploy", 5, _deploy),
    Action("deploy once", 4, _deploy_once),
    Action("deploy many", 0.5, _deploy_many),
    Action("pod", 2, _pod),
    Action("picky", 2, _picky),
    Action("ported", 1, _ported),
    Action("huge", 0.4, _huge),
    Action("job", 1, _job),
    Action("daemons", 0.3, _daemons),
    Action("scale", 4, _scale),
    Action("change", 3, _change),
    Action("delete", 2, _delete),
    Action("cordon", 1.5, _cordon),
    Action("drain", 0.7, _drain),
    Action("move", 1, _move),
    Action("budget", 0.4, _budget),
    Action("quota", 0.7, _quota),
    Action("revise", 1.5, _revise),
    Action("join", 2, _join),
    Action("remove", 0.7, _remove),
    Action("rotate", 0.4, _rotate),
)


CHANGES = ("daemons", "scale", "change", "delete", "drain", "revise")
"""What there is to do once things run."""


def draw_script(
    chance: random.Random, seconds: float, actions: Sequence[Action] = ACTIONS
) -> tuple[tuple[float, Action, int], ...]:
    """(when, what, seed of its chance) for `seconds` of a trial."""
    every_s, at_s = chance.uniform(*EVERY_S), 0.0
    weights = [action.weight for action in actions]
    script = []
    while (at_s := at_s + chance.expovariate(1 / every_s)) < seconds:
        script.append((at_s, chance.choices(actions, weights)[0], chance.getrandbits(32)))
    return tuple(script)
