"""What `rollout` and `scale` do, free of any command line: read a record, sign the next one, watch how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from beemesh.errors import InvalidInput, NotFound, Unavailable, Unreachable
from beemesh.intents.record import workload_key
from beemesh.workloads.record import Revision, Workload
from beemesh.workloads.rollout_report import RolloutReport, line_of, report_of
from beemeshctl.applying import GROUPS, Mesh, Planner, submit
from beemeshctl.client import Client
from beemeshctl.options import TYPES, path_of, type_and_names

ROLLED = ("deployments", "daemonsets")
"""Types that have rollouts."""

POLL_S = 0.3


class Target:
    """One workload that a command is about."""

    def __init__(self, plural: str, namespace: str, name: str) -> None:
        self.plural, self.namespace, self.name = plural, namespace, name
        self.kind = TYPES[plural][0]
        self.path = path_of(plural, namespace, name)

    @property
    def shown(self) -> str:
        """As kubectl names it: `deployment.apps/hello`."""
        return f"{GROUPS.get(self.kind, self.kind.lower())}/{self.name}"

    @property
    def key(self) -> str:
        """Where its record stands."""
        return workload_key(f"{self.kind.lower()}/{self.namespace}/{self.name}")


def targets(words: tuple[str, ...], namespace: str) -> list[Target]:
    """The workloads that a command line names; raises `InvalidInput` for types that have no rollouts."""
    found = []
    for plural, name in type_and_names(words):
        if plural not in ROLLED:
            raise InvalidInput(f"{plural} have no rollouts", hint=f"only {', '.join(ROLLED)} have")
        if not name:
            raise InvalidInput(f"which {TYPES[plural][0]}?", hint=f"write {plural}/NAME")
        found.append(Target(plural, namespace, name))
    return found


class Reviser:
    """Signs the next record of workloads that stand."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._mesh = Mesh.read(client)

    def standing(self, target: Target) -> Workload:
        """The record of a workload; raises `NotFound`."""
        intent = self._mesh.standing(target.key)
        if intent is None:
            raise NotFound(
                f'{target.shown.partition("/")[0]} "{target.name}" not found in {target.namespace} namespace'
            )
        return msgspec.msgpack.decode(intent.body, type=Workload)

    def revise(self, target: Target, before: Workload, after: Workload) -> None:
        """Hand the mesh the next record; returns once it is accepted. Raises `Conflict` when somebody was faster."""
        submit(self._client, Planner(self._client, self._mesh).revised(before, after))

    def check_openable(self, target: Target, revision: Revision) -> None:
        """Raise `Unavailable` where what keeps a revision's key or ciphertext is not there any more."""
        alive = {node_id for node_id, state in self._mesh.states.items() if state == "alive"}
        custodians = {bytes(ticket.custodian) for ticket in revision.sealing.tickets}
        reached, needed = len(custodians & alive), revision.sealing.k
        hint = "bring the nodes back, or apply its manifest again"
        if reached < needed:
            problem = f"{reached} of its custodians are alive, {needed} are needed to open it"
            raise Unavailable(f"{target.shown}: revision {revision.number} cannot run: {problem}", hint=hint)
        if not {bytes(holder) for holder in revision.holders} & alive:
            problem = f"no node that keeps the manifest of revision {revision.number} is alive"
            raise Unavailable(f"{target.shown}: {problem}", hint=hint)


def look(client: Client, target: Target) -> RolloutReport:
    """How far a rollout is, as the answering agent sees it."""
    return report_of(client.get(target.path))


def follow(
    client: Client, wanted: Sequence[Target], timeout_s: float, tell: Callable[[str], None]
) -> list[RolloutReport]:
    """Watch until each rollout is complete or has failed, telling each step; raises `Unreachable` on time-out."""
    deadline = time.monotonic() + timeout_s
    over = []
    for target in wanted:
        told = ""
        while not (report := look(client, target)).is_over:
            if (line := line_of(report)) != told:
                tell(line)
                told = line
            if time.monotonic() > deadline:
                hint = "the mesh goes on with it; `beemeshctl describe` tells more"
                raise Unreachable(f"timed out after {timeout_s:g} s: {line}", hint=hint)
            time.sleep(POLL_S)
        over.append(report)
    return over
