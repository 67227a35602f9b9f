"""Turns what runs on this node into records of the DHT: who looks for a replica finds it without asking everybody."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beemesh.effects import Effects, Notify, Now
from beemesh.events import PodsObserved, PublishRecord, WithdrawRecord


class Announcer:
    """Publishes a `runs` record for each replica here, and withdraws it when the replica is gone."""

    room = "announcer"
    handles: tuple[type, ...] = ()
    listens = (PodsObserved,)
    tables: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._running: frozenset[str] | None = None
        """None until the runtime has said what runs: pods outlive their agent, which may have told of them before."""

    def restore(self, table: str, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """The runtime knows what runs."""

    def start(self, now: Now) -> Effects:
        """Nothing runs before the runtime says so."""
        return []

    def handle(self, event: Any, now: Now) -> Effects:
        """See `beemesh.effects.StateMachine`."""
        if not isinstance(event, PodsObserved):
            return []
        running = frozenset(f"{pod.workload_id}/{pod.replica}" for pod in event.replicas if pod.phase == "Running")
        is_old, before = self._running is None, self._running or frozenset()
        came, went = sorted(running - before), sorted(before - running)
        self._running = running
        return [
            *(Notify(PublishRecord("runs", subject, is_old=is_old)) for subject in came),
            *(Notify(WithdrawRecord("runs", subject)) for subject in went),
        ]
