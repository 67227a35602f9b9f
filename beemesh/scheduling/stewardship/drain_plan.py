"""What draining a node would do, said before it is done: the moves, and what stands against them. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from beemesh.scheduling.stewardship.layout import Layout, Pod
from beemesh.workloads.moves import FORCED_KINDS, STAYING_KINDS, starts_first
from beemesh.workloads.reconciler import Declared
from beemesh.workloads.record import Workload

CANDIDATES_SHOWN = 3
"""Nodes named for one replica, the emptiest first: bids decide between them."""

How = Literal["start-first", "stop-first"]


class PlannedMove(msgspec.Struct, frozen=True, rename="camel"):
    """One replica that leaves, and where it may go, the emptiest first. A `stop-first` one is missing in between."""

    namespace: str
    pod: str
    workload: str
    replica: int
    how: How
    candidates: tuple[str, ...] = ()
    note: str = ""


class Blocker(msgspec.Struct, frozen=True, rename="camel"):
    """Why a replica stays. Where `refuses` is set nothing is begun before somebody says that it may be (`needs`);
    else the drain waits for it to change."""

    namespace: str
    pod: str
    workload: str
    replica: int
    reason: str
    refuses: bool
    needs: str = ""


class DrainPlan(msgspec.Struct, frozen=True, rename="camel"):
    """All of one node. `daemons` stay on it."""

    node: str
    alive: bool
    moves: tuple[PlannedMove, ...] = ()
    blockers: tuple[Blocker, ...] = ()
    daemons: tuple[str, ...] = ()
    drained: bool = False
    """Whether nothing but daemons ran there when this was written."""

    @property
    def refused(self) -> tuple[Blocker, ...]:
        """What forbids to begin."""
        return tuple(each for each in self.blockers if each.refuses)


class DrainReport(msgspec.Struct, frozen=True, rename="camel"):
    """What `beemeshctl node drain -o json` prints."""

    dry_run: bool
    nodes: tuple[DrainPlan, ...]


def plan_drain(layout: Layout, node: str, *, force: bool = False, ignore_daemons: bool = False) -> DrainPlan:
    """What would happen now. Nodes decide for themselves whether they take a replica, so it is a good guess."""
    moves: list[PlannedMove] = []
    blockers: list[Blocker] = []
    daemons = []
    for pod in sorted(layout.on(node), key=lambda each: (each.namespace, each.name)):
        workload = layout.workloads.get(pod.workload_id)
        if workload is None or pod.leaving:
            continue  # it ends already
        if workload.kind in STAYING_KINDS:
            daemons.append(f"{pod.namespace}/{pod.name}")
            if not ignore_daemons:
                what = "a DaemonSet's pod belongs to its node and stays"
                blockers.append(_blocker(pod, what, refuses=True, needs="--ignore-daemonsets"))
            continue
        found = _against(layout, pod, workload, force=force)
        blockers += found
        if not any(each.refuses for each in found):
            moves.append(_move(layout, pod, workload))
    runs = bool(moves or any(not each.needs.startswith("--ignore") for each in blockers))
    alive = layout.hosts[node].alive
    return DrainPlan(node, alive, tuple(moves), tuple(blockers), tuple(daemons), drained=not runs)


def left_on(layout: Layout, node: str) -> list[Pod]:
    """What has to leave a node still, those that are ending included; daemons do not count."""
    left = []
    for pod in layout.on(node):
        workload = layout.workloads.get(pod.workload_id)
        if workload is None or workload.kind not in STAYING_KINDS:
            left.append(pod)
    return left


def _is_gentle(workload: Workload) -> bool:
    return starts_first(Declared.of(workload), tolerant=workload.duplicate_tolerant)


def _move(layout: Layout, pod: Pod, workload: Workload) -> PlannedMove:
    stranded = layout.fits_no_other(pod)
    how: How = "start-first" if _is_gentle(workload) and not stranded else "stop-first"
    candidates = tuple(layout.candidates(pod)[:CANDIDATES_SHOWN])
    note = "it stops, and no other node fits it" if stranded else ""
    return PlannedMove(pod.namespace, pod.name, pod.workload_id, pod.replica, how, candidates, note)


def _against(layout: Layout, pod: Pod, workload: Workload, *, force: bool) -> list[Blocker]:
    """What stands against one replica's leaving. Once one thing forbids it, the rest does not matter."""
    forbids = "" if force else _forbids(layout, pod, workload)
    if forbids:
        return [_blocker(pod, forbids, refuses=True, needs="--force")]
    awaited = _awaited(layout, pod)
    if _waits_for_rollout(pod, workload):
        text = f"revision {pod.revision} is not started again (beemesh.io/rollback: never)"
        text += f": it leaves when its successor of revision {workload.current.number} is ready"
        return [_blocker(pod, "; ".join(filter(None, (text, awaited))), refuses=False)]
    stranded, gentle = layout.fits_no_other(pod), _is_gentle(workload)
    found = []
    if awaited:
        found.append(_blocker(pod, awaited, refuses=False))
    elif not stranded and not layout.candidates(pod):
        found.append(_blocker(pod, f"no node would take it now: {_reasons(layout, pod)}", refuses=False))
    terms, healthy = layout.allowance(workload, force=force), layout.healthy(pod.workload_id)
    if (stranded or not gentle) and not terms.allows(healthy, ready=pod.ready):
        text = f"{terms.because} asks for {terms.healthy_least} ready, and {healthy} are"
        found.append(_blocker(pod, text, refuses=False))
    return found


def _awaited(layout: Layout, pod: Pod) -> str:
    """What is to be said of a successor that runs elsewhere and is not ready: until it is, the pod stays."""
    successor = layout.successor(pod)
    if successor is None or successor.ready:
        return ""
    text = f"its successor runs on {successor.node} and is not ready yet"
    return f"{text}: {successor.message}" if successor.message else text


def _waits_for_rollout(pod: Pod, workload: Workload) -> bool:
    """Whether only the rollout takes it away, which may have failed: nothing may start its revision elsewhere."""
    strategy = workload.strategy
    held = strategy.rollback == "never" and strategy.type != "Recreate" and not strategy.paused
    return held and not workload.current.covers(pod.revision)


def _forbids(layout: Layout, pod: Pod, workload: Workload) -> str:
    if workload.kind == "Pod":
        return "a bare pod stops before it starts elsewhere, and what it has done so far is lost"
    if workload.kind in FORCED_KINDS:
        return f"a {workload.kind.lower()} is running, and what it has done so far is lost"
    if layout.fits_no_other(pod):
        return "its record fits no other node: it would stop, and wait"
    terms = layout.allowance(workload)
    if not _is_gentle(workload) and terms.healthy_least == 1 and pod.ready and layout.healthy(pod.workload_id) == 1:
        return "it is the last ready replica, and may not be doubled: it stops before it starts elsewhere"
    return ""


def _reasons(layout: Layout, pod: Pod) -> str:
    others = [name for name in sorted(layout.hosts) if name != pod.node]
    told = [f"{name}: {layout.refusals(pod, name)[0]}" for name in others[:CANDIDATES_SHOWN]]
    more = len(others) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "") if told else "there is no other node"


def _blocker(pod: Pod, reason: str, *, refuses: bool, needs: str = "") -> Blocker:
    return Blocker(pod.namespace, pod.name, pod.workload_id, pod.replica, reason, refuses, needs)
